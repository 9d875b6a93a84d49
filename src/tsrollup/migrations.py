"""The project's own three configurations, wherever the package is installed."""

import importlib.resources
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tsrollup.connection import connect
from tsrollup.flyway.conf_files import parse_conf, read_text
from tsrollup.flyway.configuration import Configuration, configuration_from
from tsrollup.flyway.database import Database
from tsrollup.flyway.errors import ConfigurationError
from tsrollup.flyway.info import info
from tsrollup.flyway.migrate import migrate
from tsrollup.flyway.results import MigrateResult
from tsrollup.flyway.states import State
from tsrollup.installation import NewerDatabaseError, refuse_newer

Part = Literal["postgres", "foundational", "payload"]
PARTS: tuple[Part, ...] = ("postgres", "foundational", "payload")

# The .conf files name their locations from the root of a source checkout.
_CHECKOUT = "filesystem:src/tsrollup/pgdb/"


@contextmanager
def project_configurations(
    url: str,
    cron_database: str | None = None,
    payload: bool = False,
    placeholders: Mapping[str, str] | None = None,
) -> Iterator[dict[Part, Configuration]]:
    """The configurations that apply, in the order to migrate in.

    `url` is the time-series database; `cron_database` the URL of the one that pg_cron lives in,
    which comes first and only where the server has pg_cron; `payload` adds the example tables.
    `placeholders` override those of the .conf files.
    """
    values = dict(placeholders or {})
    urls: dict[Part, str] = {}
    if cron_database is not None and _has_pg_cron(cron_database):
        urls["postgres"] = cron_database
        values.setdefault("timeseries_database", _database_name(url))
    urls["foundational"] = url
    if payload:
        urls["payload"] = url
    with importlib.resources.as_file(importlib.resources.files("tsrollup") / "pgdb") as folder:
        files = {part: _read(folder, part) for part in PARTS}
        _check_placeholders(values, files)
        yield {
            part: replace(files[part], url=url, placeholders=_override(files[part], values))
            for part, url in urls.items()
        }


@contextmanager
def project_configuration(
    part: Part, url: str, placeholders: Mapping[str, str] | None = None
) -> Iterator[Configuration]:
    """The configuration of `flyway-<part>.conf` for the database at `url`."""
    with importlib.resources.as_file(importlib.resources.files("tsrollup") / "pgdb") as folder:
        configuration = _read(folder, part)
        values = placeholders or {}
        _check_placeholders(values, {part: configuration})
        yield replace(configuration, url=url, placeholders=_override(configuration, values))


def migrate_project(
    url: str,
    cron_database: str | None = None,
    payload: bool = False,
    placeholders: Mapping[str, str] | None = None,
) -> dict[Part, MigrateResult]:
    """Apply the project's migrations; the arguments are those of project_configurations."""
    refuse_newer_database(url)
    with project_configurations(url, cron_database, payload, placeholders) as configurations:
        return {part: migrate(configuration) for part, configuration in configurations.items()}


def refuse_newer_database(url: str) -> None:
    """What this program would bring up, a later release has brought further, or begun to: it would
    take the later one's functions for changed ones and put its own in their place."""
    with connect(url) as connection:
        refuse_newer(connection)
    with project_configuration("foundational", url) as configuration:
        result = info(configuration)
    future = (State.FUTURE_SUCCESS, State.FUTURE_FAILED)
    later = [each.version for each in result.migrations if each.state in future]
    if later:
        raise NewerDatabaseError(
            f"a later release has begun to migrate database {result.database},"
            f" which is at version {later[-1]}",
            "end it with that one: tsrollup migrate",
        )


def _read(folder: Path, part: Part) -> Configuration:
    configuration = configuration_from(parse_conf(read_text(folder / f"flyway-{part}.conf")))
    locations = [
        location.replace(_CHECKOUT, f"filesystem:{folder}/") for location in configuration.locations
    ]
    return replace(configuration, locations=tuple(locations))


def _override(configuration: Configuration, values: Mapping[str, str]) -> dict[str, str]:
    known = configuration.placeholders
    return {name: values.get(name, value) for name, value in known.items()}


def _check_placeholders(values: Mapping[str, str], files: Mapping[Part, Configuration]) -> None:
    known = {name for configuration in files.values() for name in configuration.placeholders}
    for name in values:
        if name not in known:
            raise ConfigurationError(
                f"{name} is not a placeholder of these migrations",
                hint=f"there are: {', '.join(sorted(known))}",
            )
        if name.endswith("_role") and set("'\"\\$") & set(values[name]):
            raise ConfigurationError(
                f"{values[name]} is no name for {name}: it holds ', \", \\ or $",
                hint="scripts write it between quotes of all kinds: choose another role",
            )


def _database_name(url: str) -> str:
    with closing(Database(Configuration(url=url))) as database:
        return database.name


def _has_pg_cron(url: str) -> bool:
    query = "SELECT 1 FROM pg_available_extensions WHERE name = 'pg_cron'"
    with closing(Database(Configuration(url=url))) as database:
        return bool(database.rows(query))
