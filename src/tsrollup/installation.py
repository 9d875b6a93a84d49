"""Whether the migrations in a database are those of this program."""

import re
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from tsrollup.connection import pinned
from tsrollup.errors import TsrollupError
from tsrollup.version import __version__

# By the catalogue: who only brings it up may have no right to look into the schema.
INSTALLED = (
    "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid AND relname = 'rollup_config'),"
    " EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid AND proname = 'version'),"
    " has_schema_privilege(n.oid, 'USAGE'),"
    " EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('rollup_engine')"
    "  AND relname = 'upgrade' AND has_table_privilege(oid, 'SELECT')"
    "  AND has_schema_privilege(relnamespace, 'USAGE')),"
    " EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('rollup_engine')"
    "  AND relname = 'aggregate' AND has_table_privilege(oid, 'SELECT')"
    "  AND has_schema_privilege(relnamespace, 'USAGE')),"
    " EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('rollup_engine')"
    "  AND proname = 'missing_roles' AND has_function_privilege(oid, 'EXECUTE')"
    "  AND has_schema_privilege(pronamespace, 'USAGE'))"
    " FROM pg_namespace AS n WHERE n.nspname = 'silver'"
)
UPGRADING = "SELECT EXISTS (SELECT FROM rollup_engine.upgrade)"
HAS_ROWS = "SELECT EXISTS (SELECT FROM rollup_engine.aggregate)"
# beforeMigrate__refuse_missing_rows says the same: it stands alone, as no function may be there.
NO_ROWS = "the tables of tsrollup without their rows: its schema was restored without its data"
FOR_NO_ROWS = (
    "restore the data of the same dump (pg_restore -a); or tsrollup clean,"
    " drop what is left of the rollups' tables, migrate, and create the rollups anew"
)
MISSING_ROLES = (
    "SELECT string_agg(quote_ident(r), ', '), string_agg(format('CREATE ROLE %I', r), '; ')"
    " FROM unnest(rollup_engine.missing_roles()) AS r"
)


def misfit(connection: psycopg.Connection[Any]) -> TsrollupError | None:
    """What keeps this program from working on a database; None where nothing does."""
    database = connection.info.dbname
    with pinned(connection), connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(INSTALLED).fetchone()
        begun, ended, readable, watched, filled, knows_roles = row or (False,) * 6
        if knows_roles:
            missing, create = cursor.execute(MISSING_ROLES).fetchone() or (None, None)
            if missing:
                return MissingRolesError(
                    f"this server lacks the group roles of database {database}: {missing}",
                    f"{create}; then run tsrollup migrate, which gives them their rights",
                )
        if filled and cursor.execute(HAS_ROWS).fetchone() == (False,):
            return TsrollupError(f"database {database} has {NO_ROWS}", FOR_NO_ROWS)
        if watched:
            (upgrading,) = cursor.execute(UPGRADING).fetchone() or (False,)
            ended = ended and not upgrading
        if not (begun and ended):
            half_way = f"database {database} is not migrated to the end"
            return TsrollupError(
                half_way if begun else f"tsrollup is not installed in database {database}",
                "run tsrollup migrate",
            )
        if not readable:
            return None
        (version,) = cursor.execute("SELECT silver.version()").fetchone() or ("",)
    differs = f"database {database} is of tsrollup {version}, this program is {__version__}"
    if _numbers(version) < _numbers(__version__):
        return TsrollupError(differs, "run tsrollup migrate")
    if _numbers(version) > _numbers(__version__):
        return NewerDatabaseError(differs, f"install tsrollup {version} here")
    return None


class NewerDatabaseError(TsrollupError):
    """The database was migrated by a later release, whose rules this one does not know."""


class MissingRolesError(TsrollupError):
    """The database came from a server whose group roles this one does not have."""


def require_installed(connection: psycopg.Connection[Any]) -> None:
    """Refuse a database that this program does not fit, and say what to do."""
    error = misfit(connection)
    if error:
        raise error


def refuse_newer(connection: psycopg.Connection[Any]) -> None:
    """For what brings a database up itself."""
    error = misfit(connection)
    if isinstance(error, NewerDatabaseError | MissingRolesError):
        raise error


def _numbers(version: str) -> list[int]:
    """What comes before a release, as 1.2.0.dev0, counts as that."""
    release = re.match(r"\d+(\.\d+)*", version)
    return [int(number) for number in release[0].split(".")] if release else []
