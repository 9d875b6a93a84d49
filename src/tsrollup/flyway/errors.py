"""Errors of the migration runner: one message, and the code that JSON output carries."""

from tsrollup.errors import TsrollupError


class FlywayError(TsrollupError):
    """The command cannot be carried out."""

    code = "ERROR"

    def __init__(self, message: str, hint: str | None = None, *, code: str | None = None) -> None:
        super().__init__(message, hint)
        self.code = code or self.code


class ConfigurationError(FlywayError):
    """A parameter is unknown, malformed or contradicts another."""

    code = "CONFIGURATION"


class CleanDisabledError(FlywayError):
    """clean listed what it would drop, and stopped."""


class ValidateError(FlywayError):
    """Applied and local migrations disagree."""

    code = "VALIDATE_ERROR"
