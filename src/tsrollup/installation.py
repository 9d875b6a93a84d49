"""Whether the migrations in a database are those of this program."""

import re
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from tsrollup import __version__
from tsrollup.connection import pinned
from tsrollup.errors import TsrollupError

# By the catalogue: who only brings it up may have no right to look into the schema.
INSTALLED = (
    "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid AND relname = 'rollup_config'),"
    " EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid AND proname = 'version'),"
    " has_schema_privilege(n.oid, 'USAGE')"
    " FROM pg_namespace AS n WHERE n.nspname = 'silver'"
)


def misfit(connection: psycopg.Connection[Any]) -> TsrollupError | None:
    """What keeps this program from working on a database; None where nothing does."""
    database = connection.info.dbname
    with pinned(connection), connection.cursor(row_factory=tuple_row) as cursor:
        begun, ended, readable = cursor.execute(INSTALLED).fetchone() or (False, False, False)
        if not begun:
            missing = f"tsrollup is not installed in database {database}"
            return TsrollupError(missing, "run tsrollup migrate")
        if ended and not readable:
            return None
        query = "SELECT silver.version()" if ended else "SELECT NULL"
        (version,) = cursor.execute(query).fetchone() or (None,)
    if version is None:
        half = f"database {database} is not migrated to the end"
        return TsrollupError(half, "run tsrollup migrate")
    differs = f"database {database} is of tsrollup {version}, this program is {__version__}"
    if _numbers(version) < _numbers(__version__):
        return TsrollupError(differs, "run tsrollup migrate")
    if _numbers(version) > _numbers(__version__):
        return NewerDatabaseError(differs, f"install tsrollup {version} here")
    return None


class NewerDatabaseError(TsrollupError):
    """The database was migrated by a later release, whose rules this one does not know."""


def require_installed(connection: psycopg.Connection[Any]) -> None:
    """Refuse a database that this program does not fit, and say what to do."""
    error = misfit(connection)
    if error:
        raise error


def refuse_newer(connection: psycopg.Connection[Any]) -> None:
    """For what brings a database up itself."""
    error = misfit(connection)
    if isinstance(error, NewerDatabaseError):
        raise error


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
