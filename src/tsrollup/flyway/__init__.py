"""A migration runner that keeps Flyway's history: either can carry on what the other began."""

from .baseline import baseline
from .configuration import Configuration
from .errors import ConfigurationError, FlywayError, MigrateError, ValidateError
from .info import info
from .migrate import migrate
from .results import InfoResult, MigrateResult
from .sources import load_configuration
from .states import MigrationInfo, State
from .validate import validate

__all__ = [
    "Configuration",
    "ConfigurationError",
    "FlywayError",
    "InfoResult",
    "MigrateError",
    "MigrateResult",
    "MigrationInfo",
    "State",
    "ValidateError",
    "baseline",
    "info",
    "load_configuration",
    "migrate",
    "validate",
]
