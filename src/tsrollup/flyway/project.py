"""The project's own migrations: its three configuration files, wherever the package is installed."""

import importlib.resources
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psycopg

from .conf_files import parse_conf, read_text
from .configuration import Configuration, configuration_from
from .database import Database
from .errors import FlywayError
from .migrate import migrate
from .results import MigrateResult

Part = Literal["postgres", "foundational", "payload"]

# The .conf files name their locations from the root of a source checkout.
_CHECKOUT = "filesystem:src/tsrollup/pgdb/"


@contextmanager
def pgdb() -> Iterator[Path]:
    """The folder with the .conf files and migrations."""
    with importlib.resources.as_file(importlib.resources.files("tsrollup") / "pgdb") as folder:
        yield folder


@contextmanager
def project_configuration(
    part: Part, url: str, placeholders: Mapping[str, str] | None = None
) -> Iterator[Configuration]:
    """The configuration of `flyway-<part>.conf` for the database at `url`.

    `placeholders` override those of the file; names that it does not define are left out.
    """
    with pgdb() as folder:
        parameters = parse_conf(read_text(folder / f"flyway-{part}.conf"))
        configuration = configuration_from(parameters)
        known = configuration.placeholders
        yield replace(
            configuration,
            url=url,
            locations=tuple(
                location.replace(_CHECKOUT, f"filesystem:{folder}/")
                for location in configuration.locations
            ),
            placeholders={
                **known,
                **{key: value for key, value in (placeholders or {}).items() if key in known},
            },
        )


def migrate_project(
    url: str,
    cron_database: str | None = None,
    payload: bool = False,
    placeholders: Mapping[str, str] | None = None,
) -> dict[Part, MigrateResult]:
    """Apply the project's migrations to the database at `url`.

    `cron_database` is the URL of the database that pg_cron lives in; its jobs go first, and only
    where the server has pg_cron. `payload` adds the example tables.
    """
    results: dict[Part, MigrateResult] = {}
    values = dict(placeholders or {})
    if cron_database is not None and has_pg_cron(cron_database):
        values.setdefault("timeseries_database", _database_name(url))
        results["postgres"] = _migrate("postgres", cron_database, values)
    results["foundational"] = _migrate("foundational", url, values)
    if payload:
        results["payload"] = _migrate("payload", url, values)
    return results


def _migrate(part: Part, url: str, placeholders: Mapping[str, str]) -> MigrateResult:
    with project_configuration(part, url, placeholders) as configuration:
        return migrate(configuration)


def _database_name(url: str) -> str:
    database = Database(Configuration(url=url))
    try:
        return database.name
    finally:
        database.close()


def has_pg_cron(url: str) -> bool:
    """Whether the server at `url` offers pg_cron."""
    database = Database(Configuration(url=url))
    try:
        return bool(database.rows("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_cron'"))
    except psycopg.Error as error:
        raise FlywayError(f"cannot tell whether the server has pg_cron: {error}") from error
    finally:
        database.close()
