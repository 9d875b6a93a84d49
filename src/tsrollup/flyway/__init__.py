"""A migration runner that keeps Flyway's history: either can carry on what the other began."""

from tsrollup.flyway.baseline import baseline
from tsrollup.flyway.clean import clean
from tsrollup.flyway.command_line import main
from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import (
    CleanDisabledError,
    ConfigurationError,
    FlywayError,
    ValidateError,
)
from tsrollup.flyway.info import info
from tsrollup.flyway.migrate import migrate
from tsrollup.flyway.repair import repair
from tsrollup.flyway.results import (
    BaselineResult,
    CleanResult,
    InfoResult,
    MigrateError,
    MigrateResult,
    RepairResult,
    ValidateResult,
)
from tsrollup.flyway.sources import load_configuration
from tsrollup.flyway.states import MigrationInfo, State
from tsrollup.flyway.validate import validate

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
