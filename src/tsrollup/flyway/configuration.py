"""Flyway's parameters as one frozen value."""

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from tsrollup.flyway.errors import ConfigurationError

Value = str | Sequence[str]

# Parameters of open-source Flyway that have nothing to act on here: JDBC, Java and reporting.
WITHOUT_EFFECT = frozenset(
    """driver color callbacks resolvers jarDirs
    loggers reportEnabled reportFilename licenseKey
    outputFile kerberosConfigFile oracle.sqlplus oracle.sqlplusWarn
    communityDBSupportEnabled publishResult
    scriptPlaceholderPrefix scriptPlaceholderSuffix skipCheckForUpdate""".split()
)
WITHOUT_EFFECT_PREFIXES = ("jdbcProperties.", "oracle.")
PAID = frozenset(
    "cherryPick dryRunOutput errorOverrides stream batch detectEncoding email token".split()
)


@dataclass(frozen=True)
class Configuration:
    """What a Flyway command works with; field names are Flyway's in snake case."""

    url: str = ""
    user: str | None = None
    password: str | None = None
    connect_retries: int = 0
    connect_retries_interval: int = 120
    init_sql: str | None = None
    environment: str = "default"
    schemas: tuple[str, ...] = ()
    default_schema: str | None = None
    create_schemas: bool = True
    table: str = "flyway_schema_history"
    tablespace: str | None = None
    locations: tuple[str, ...] = ("filesystem:sql",)
    callback_locations: tuple[str, ...] = ()
    fail_on_missing_locations: bool = False
    sql_migration_prefix: str = "V"
    repeatable_sql_migration_prefix: str = "R"
    baseline_migration_prefix: str = "B"
    sql_migration_separator: str = "__"
    sql_migration_suffixes: tuple[str, ...] = (".sql",)
    validate_migration_naming: bool = False
    encoding: str = "UTF-8"
    placeholder_replacement: bool = True
    placeholder_prefix: str = "${"
    placeholder_suffix: str = "}"
    placeholder_separator: str = ":"
    placeholders: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    out_of_order: bool = False
    ignore_migration_patterns: tuple[str, ...] = ("*:future",)
    validate_on_migrate: bool = True
    clean_disabled: bool = True
    baseline_version: str = "1"
    baseline_description: str = "<< Flyway Baseline >>"
    baseline_on_migrate: bool = False
    mixed: bool = False
    group: bool = False
    execute_in_transaction: bool = True
    skip_executing_migrations: bool = False
    skip_default_resolvers: bool = False
    skip_default_callbacks: bool = False
    output_query_results: bool = True
    installed_by: str | None = None
    lock_retry_count: int = 50
    postgresql_transactional_lock: bool = True
    working_directory: str | None = None

    @property
    def directory(self) -> Path:
        """Where relative locations start."""
        return Path(self.working_directory or ".")


def _camel(name: str) -> str:
    if name == "postgresql_transactional_lock":
        return "postgresql.transactional.lock"
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


_HINTS = typing.get_type_hints(Configuration)
KEYS = {_camel(f.name): f.name for f in fields(Configuration) if f.name != "placeholders"}


def split_list(value: Value) -> tuple[str, ...]:
    """A comma-separated parameter, or a TOML array, as its trimmed, non-empty items."""
    items = value.split(",") if isinstance(value, str) else value
    return tuple(item.strip() for item in items if item.strip())


def configuration_from(parameters: Mapping[str, Value]) -> Configuration:
    """The Configuration that `parameters` (Flyway's names, without `flyway.`) describe."""
    values: dict[str, object] = {}
    placeholders: dict[str, str] = {}
    for key, value in parameters.items():
        if key.startswith("placeholders."):
            placeholders[key.removeprefix("placeholders.")] = _text(value)
        elif key in KEYS:
            values[KEYS[key]] = _convert(key, value, _HINTS[KEYS[key]])
        elif key in PAID:
            if value in ("", "false"):
                continue
            raise ConfigurationError(
                f"flyway.{key} belongs to a paid edition of Flyway and is not available",
                hint=f"remove {key} from the configuration",
            )
        elif key == "cleanOnValidationError":
            _refuse_automatic_clean(value)
        elif key not in WITHOUT_EFFECT and not key.startswith(WITHOUT_EFFECT_PREFIXES):
            raise ConfigurationError(f"Unknown configuration property: flyway.{key}")
    # An empty value in a later source unsets what an earlier one said.
    kept = {name: value for name, value in values.items() if value is not None}
    configuration = Configuration(**kept, placeholders=placeholders)  # type: ignore[arg-type]
    _check_placeholders(configuration)
    return configuration


def _check_placeholders(configuration: Configuration) -> None:
    for key in ("placeholderPrefix", "placeholderSuffix", "placeholderSeparator"):
        if not getattr(configuration, KEYS[key]):
            raise ConfigurationError(f"flyway.{key} must not be empty")
    reserved = f"flyway{configuration.placeholder_separator}"
    for name in configuration.placeholders:
        if name.lower().startswith(reserved):
            raise ConfigurationError(
                f"placeholder {name} cannot be set: names that start with {reserved} are built in"
            )


def _refuse_automatic_clean(value: Value) -> None:
    if value != "false":
        raise ConfigurationError(
            "flyway.cleanOnValidationError is not supported: an edit must not empty a schema",
            hint="remove it; run clean yourself where that is what you want",
        )


def _text(value: Value) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _convert(key: str, value: Value, wanted: object) -> object:
    if typing.get_origin(wanted) is tuple:
        return split_list(value)
    text = _text(value)
    if wanted is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigurationError(f"flyway.{key} must be true or false, not {text!r}")
        return text.lower() == "true"
    if wanted is int:
        try:
            return int(text) if text else None
        except ValueError:
            raise ConfigurationError(f"flyway.{key} must be a number, not {text!r}") from None
    optional = isinstance(wanted, types.UnionType) and key != "target"
    return None if optional and text == "" else text
