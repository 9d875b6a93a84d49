"""Errors of the migration runner: one message, and the code that JSON output carries."""

from typing import TYPE_CHECKING

from tsrollup.errors import TsrollupError

if TYPE_CHECKING:
    from .results import MigrateResult


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


class MigrateError(FlywayError):
    """A migration script failed; `result` is what was done before it."""

    code = "FAILED_VERSIONED_MIGRATION"
    result: "MigrateResult | None" = None
