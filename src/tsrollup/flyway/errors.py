"""Errors of the migration runner: one message, and the code that JSON output carries."""

from tsrollup.errors import TsrollupError


class FlywayError(TsrollupError):
    """The command cannot be carried out."""

    code = "FAULT"


class ConfigurationError(FlywayError):
    """A parameter is unknown, malformed or contradicts another."""

    code = "CONFIGURATION"


class ValidateError(FlywayError):
    """Applied and local migrations disagree."""

    code = "VALIDATE_ERROR"


class MigrateError(FlywayError):
    """A migration script failed."""

    code = "FAILED_VERSIONED_MIGRATION"
