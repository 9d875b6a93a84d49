"""A migration runner that keeps Flyway's history: either can carry on what the other began."""

from .baseline import baseline
from .clean import clean
from .command_line import main
from .configuration import Configuration
from .errors import CleanDisabledError, ConfigurationError, FlywayError, MigrateError, ValidateError
from .info import info
from .migrate import migrate
from .repair import repair
from .results import (
    BaselineResult,
    CleanResult,
    InfoResult,
    MigrateResult,
    RepairResult,
    ValidateResult,
)
from .sources import load_configuration
from .states import MigrationInfo, State
from .validate import validate

__all__ = [
    "BaselineResult",
    "CleanDisabledError",
    "CleanResult",
    "Configuration",
    "ConfigurationError",
    "FlywayError",
    "InfoResult",
    "MigrateError",
    "MigrateResult",
    "MigrationInfo",
    "RepairResult",
    "State",
    "ValidateError",
    "ValidateResult",
    "baseline",
    "clean",
    "info",
    "load_configuration",
    "main",
    "migrate",
    "repair",
    "validate",
]
