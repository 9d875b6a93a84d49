"""The migrations that the configured locations hold."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from functools import cached_property
from pathlib import Path

from tsrollup.flyway.callbacks import EVENTS
from tsrollup.flyway.checksum import checksum
from tsrollup.flyway.conf_files import decode, parse_conf, read_text
from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import ConfigurationError, FlywayError
from tsrollup.flyway.locations import find_scripts
from tsrollup.flyway.names import Name, Naming, Version
from tsrollup.flyway.placeholders import replace

log = logging.getLogger(__name__)

PROGRAM_SUFFIXES = (".sh", ".bash", ".py", ".ps1", ".bat", ".cmd")
_SCRIPT_PARAMETERS = ("executeInTransaction", "placeholderReplacement", "encoding")


@dataclass(frozen=True, eq=False)
class Script:
    """A .sql file and the parameters that hold for it."""

    file: Path
    name: str
    encoding: str
    placeholder_replacement: bool
    execute_in_transaction: bool
    forced_transaction: bool
    configuration: Configuration = field(repr=False)
    built_in: Mapping[str, str] = field(repr=False)

    @cached_property
    def raw(self) -> str:
        try:
            # Bytes keep the line endings, which function bodies and literals contain.
            return decode(self.file.read_bytes(), self.encoding)
        except OSError as error:
            raise FlywayError(f"cannot read {self.file}: {error.strerror}") from None
        except (UnicodeError, LookupError):
            raise FlywayError(
                f"{self.file} is not valid {self.encoding}, so it has no checksum",
                hint="save the file in that encoding or set flyway.encoding",
            ) from None

    @cached_property
    def text(self) -> str:
        """The script with its placeholders replaced."""
        if not self.placeholder_replacement:
            return self.raw
        settings = self.configuration
        separator = settings.placeholder_separator
        values = {f"flyway{separator}{key}": value for key, value in self.built_in.items()}
        values[f"flyway{separator}filename"] = self.file.name
        try:
            return replace(
                self.raw,
                {**settings.placeholders, **values},
                settings.placeholder_prefix,
                settings.placeholder_suffix,
            )
        except FlywayError as error:
            raise FlywayError(f"{self.file}: {error.message}", error.hint) from None


@dataclass(frozen=True, eq=False)
class Migration:
    """A migration found in the locations."""

    version: Version | None
    description: str
    type: str
    script: Script

    @cached_property
    def checksum(self) -> int:
        return checksum(self.script.raw if self.version else self.script.text)

    @cached_property
    def raw_checksum(self) -> int:
        return checksum(self.script.raw)

    def matches(self, stored: int | None) -> bool:
        """Whether a stored checksum is this script's; older runners stored raw ones."""
        return stored == self.checksum or (self.version is None and stored == self.raw_checksum)

    def __str__(self) -> str:
        label = f"version {self.version}" if self.version else "repeatable"
        return f'{label} "{self.description}"' if self.description else label


def find_migrations(
    configuration: Configuration, built_in: Mapping[str, str]
) -> tuple[Migration, ...]:
    """Every migration of the locations."""
    if configuration.skip_default_resolvers:
        return ()
    named = _named(configuration, built_in, configuration.locations)
    migrations = [_migration(name, script) for name, script in named if name.kind != "callback"]
    migrations += _programs(configuration, built_in)
    _refuse_duplicates(migrations)
    for migration in migrations:
        # A file that cannot be read, or lacks a placeholder's value, is found before anything runs.
        _ = migration.checksum
    return tuple(migrations)


def find_callbacks(
    configuration: Configuration, built_in: Mapping[str, str]
) -> dict[str, tuple[Script, ...]]:
    """The scripts of each event."""
    if configuration.skip_default_callbacks:
        return {}
    locations = configuration.callback_locations or configuration.locations
    return _callbacks(_named(configuration, built_in, locations))


def _named(
    configuration: Configuration, built_in: Mapping[str, str], locations: Iterable[str]
) -> list[tuple[Name, Script]]:
    naming = naming_of(configuration)
    found = find_scripts(configuration, locations, naming.suffixes)
    return [
        (name, script_of(configuration, built_in, relative, file))
        for relative, file in found
        if (name := naming.parse(file.name)) is not None and name.problem is None
    ]


def _programs(configuration: Configuration, built_in: Mapping[str, str]) -> list[Migration]:
    """Shell and other programs, which Flyway runs as migrations; ours knows of them only."""
    naming = replace_fields(
        naming_of(configuration), suffixes=PROGRAM_SUFFIXES, baseline="", events=()
    )
    plain = replace_fields(configuration, placeholder_replacement=False)
    return [
        Migration(name.version, name.description, "SCRIPT", script_of(plain, built_in, path, file))
        for path, file in find_scripts(configuration, configuration.locations, PROGRAM_SUFFIXES)
        if (name := naming.parse(file.name)) is not None and name.problem is None
    ]


def naming_of(configuration: Configuration) -> Naming:
    return Naming(
        versioned=configuration.sql_migration_prefix,
        repeatable=configuration.repeatable_sql_migration_prefix,
        baseline=configuration.baseline_migration_prefix,
        separator=configuration.sql_migration_separator,
        suffixes=configuration.sql_migration_suffixes,
        events=EVENTS,
    )


def check_names(configuration: Configuration) -> None:
    """Report files that follow no convention; refuse them with validateMigrationNaming."""
    naming = naming_of(configuration)
    problems = []
    descriptors = (*configuration.locations, *configuration.callback_locations)
    for _, file in find_scripts(configuration, descriptors, naming.suffixes):
        name = naming.parse(file.name)
        if name is None:
            problems.append(f"Unrecognised migration name format: {file.name}")
        elif name.problem:
            problems.append(name.problem)
    if problems and configuration.validate_migration_naming:
        raise FlywayError("Invalid SQL filenames found:\n" + "\n".join(problems))
    if problems:
        log.warning(
            "%d SQL files were not run, because their names follow no convention "
            "(-validateMigrationNaming=true lists them)",
            len(problems),
        )


def script_of(
    configuration: Configuration, built_in: Mapping[str, str], relative: str, file: Path
) -> Script:
    """The script in `file`, with what `<file>.conf` beside it says."""
    encoding = configuration.encoding
    replacement = configuration.placeholder_replacement
    in_transaction = configuration.execute_in_transaction
    companion = file.with_name(file.name + ".conf")
    parameters = _script_parameters(companion) if companion.is_file() else {}
    if "encoding" in parameters:
        encoding = parameters["encoding"]
    if "placeholderReplacement" in parameters:
        replacement = parameters["placeholderReplacement"].lower() == "true"
    if "executeInTransaction" in parameters:
        in_transaction = parameters["executeInTransaction"].lower() == "true"
    return Script(
        file=file,
        name=relative,
        encoding=encoding,
        placeholder_replacement=replacement,
        execute_in_transaction=in_transaction,
        forced_transaction="executeInTransaction" in parameters,
        configuration=configuration,
        built_in=built_in,
    )


def _script_parameters(companion: Path) -> dict[str, str]:
    text = read_text(companion)
    lines = "\n".join(f"flyway.{line.strip()}" for line in text.splitlines() if line.strip())
    parameters = {
        key: str(value) for key, value in parse_conf(lines.replace("flyway.#", "#")).items()
    }
    for key in parameters:
        if key == "shouldExecute":
            raise ConfigurationError(
                f"{companion}: shouldExecute belongs to a paid edition of Flyway"
            )
        if key not in _SCRIPT_PARAMETERS:
            raise ConfigurationError(f"Unknown configuration property: {key} in {companion}")
    return parameters


def _migration(name: Name, script: Script) -> Migration:
    kind = "SQL_BASELINE" if name.kind == "baseline" else "SQL"
    return Migration(name.version, name.description, kind, script)


def _refuse_duplicates(migrations: Iterable[Migration]) -> None:
    seen: dict[tuple[object, ...], Migration] = {}
    for migration in migrations:
        versioned = migration.version is not None
        key = (migration.version, migration.type) if versioned else (migration.description,)
        other = seen.setdefault(key, migration)
        if other is not migration:
            what = (
                f"migration with version {migration.version}"
                if versioned
                else f"repeatable migration with description {migration.description}"
            )
            raise FlywayError(
                f"Found more than one {what}\nOffenders:\n"
                f"-> {other.script.file.resolve()} ({other.type})\n"
                f"-> {migration.script.file.resolve()} ({migration.type})",
                code=f"DUPLICATE_{'VERSIONED' if versioned else 'REPEATABLE'}_MIGRATION",
            )


def _callbacks(named: Iterable[tuple[Name, Script]]) -> dict[str, tuple[Script, ...]]:
    """The scripts of each event: the bare one first, then by description."""
    events: dict[str, dict[str, Script]] = {}
    for name, script in named:
        if name.kind != "callback":
            continue
        scripts = events.setdefault(name.prefix, {})
        other = scripts.setdefault(name.description, script)
        if other is not script:
            raise FlywayError(
                f"Found more than one SQL callback script {script.file.name}\nOffenders:\n"
                f"-> {other.file.resolve()}\n-> {script.file.resolve()}"
            )
    return {
        event: tuple(scripts[description] for description in sorted(scripts))
        for event, scripts in events.items()
    }
