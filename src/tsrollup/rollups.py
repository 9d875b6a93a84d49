"""What the rollup commands do beside runs: one call of the SQL API each."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Params
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tsrollup.connection import pinned
from tsrollup.errors import ArgumentError, NotFoundError, TsrollupError

Connection = psycopg.Connection[Any]
Row = dict[str, Any]


def call(connection: Connection, function: str, **arguments: Any) -> list[Row]:
    """The rows of a function of schema silver; objects are passed as jsonb."""
    marks = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name))
        for name in arguments
    )
    query = sql.SQL("SELECT * FROM {}({})").format(sql.Identifier("silver", function), marks)
    given = {
        name: Jsonb(value) if isinstance(value, Mapping) else value
        for name, value in arguments.items()
    }
    try:
        return rows_of(connection, query, given)
    except psycopg.errors.UndefinedFunction as error:
        if str(error).startswith(f"function silver.{function}("):
            raise _not_called(connection, function, arguments, str(error)) from error
        raise


def _not_called(
    connection: Connection, function: str, arguments: Mapping[str, Any], told: str
) -> TsrollupError:
    """Whether it is the function that is not there, or an argument, or one of that type."""
    known = rows_of(
        connection,
        "SELECT coalesce(proargnames[:pronargs], '{}') AS names,"
        " pg_get_function_arguments(oid) AS arguments FROM pg_proc"
        " WHERE pronamespace = to_regnamespace('silver') AND proname = %s",
        [function],
    )
    if not known:
        return NotFoundError(f"there is no function silver.{function}", "see the SQL reference")
    unknown = sorted(arguments.keys() - {name for row in known for name in row["names"]})
    text = (
        f"silver.{function} has no argument {', '.join(unknown)}"
        if unknown
        else told.splitlines()[0].replace("does not exist", "takes no such types")
    )
    taken = " or ".join(row["arguments"] for row in known)
    return ArgumentError(text, f"it has {taken or 'none'}")


def listed(argument: str, names: Sequence[str]) -> list[str]:
    """Names that were given; a text alone would be a list of its letters."""
    if isinstance(names, str):
        raise ArgumentError(
            f"{argument} is a text, and not a list of names", f'{argument}=["{names}"]'
        )
    return list(names)


def create(
    connection: Connection,
    source: str,
    schema: str,
    table: str,
    width: str | timedelta,
    options: Mapping[str, Any],
) -> str:
    """Create a rollup; `options` are further arguments of create_rollup_table, None left out."""
    (made,) = call(
        connection,
        "create_rollup_table",
        source_table_name=source,
        target_schema=schema,
        target_table_name=table,
        rollup_table_interval=width,
        **{name: value for name, value in options.items() if value is not None},
    )
    return str(made["create_rollup_table"])


def definition(connection: Connection, target: str) -> Row:
    """What a rollup is: its names, what it reads and how, and the GROUP BY that it stands for."""
    (row,) = rows_of(
        connection,
        "SELECT target_table::text, target_view::text AS live_view, source_table::text,"
        " time_column::text, bucket_width::text, dimensions::text[], metrics,"
        " chunk_interval::text, settle_delay::text, change_tracking, status, refresh_sql"
        " FROM silver.rollup_config WHERE id = rollup_engine.rollup_id(%s::text)",
        [target],
    )
    return row


def names(connection: Connection, target: str) -> tuple[str, str]:
    """Table and live view."""
    row = _view_columns(connection, target)[0]
    return row["target_table"], row["live_view"]


def view_columns(connection: Connection, target: str) -> list[Row]:
    """Columns of a live view as they are called there, in order; the kind and type of each, and the
    operator that is = for it."""
    rows = _view_columns(connection, target)
    if rows[0]["column_name"] is None:
        raise TsrollupError(f"{target} has no live view any more", "tsrollup rebuild makes it anew")
    return rows


def _view_columns(connection: Connection, target: str) -> list[Row]:
    return rows_of(connection, "SELECT * FROM silver.live_view_columns(%s::text)", [target])


def id_of(connection: Connection, target: str) -> int:
    """The rollup's number, which a new name does not change."""
    (row,) = rows_of(connection, "SELECT rollup_engine.rollup_id(%s::text) AS id", [target])
    return int(row["id"])


def names_of(connection: Connection, rollup_id: int) -> tuple[str, str]:
    """Table and live view."""
    (row,) = rows_of(
        connection,
        "SELECT target_table::text AS t, target_view::text AS v FROM silver.rollup_config"
        " WHERE id = %s",
        [rollup_id],
    )
    return row["t"], row["v"]


def alter(connection: Connection, target: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """Change options, None left out, and the name, which is read as SQL reads identifiers; table
    and live view, as they are called then."""
    given = {name: value for name, value in options.items() if value is not None}
    with connection.transaction():
        rollup_id = id_of(connection, target)
        if "new_name" in given:
            given["new_name"] = _bare_name(connection, rollup_id, given["new_name"])
        call(connection, "alter_rollup", target=target, **given)
        return names_of(connection, rollup_id)


def drop(connection: Connection, target: str, keep_table: bool = False) -> str:
    """Drop a rollup; its name."""
    with connection.transaction():
        name, _ = names(connection, target)
        call(connection, "drop_rollup", target=target, keep_table=keep_table)
    return name


def monitor(connection: Connection) -> list[Row]:
    """The rows of timeseries_operations_monitor, by name; an error where a source is locked."""
    try:
        with pinned(connection):
            connection.execute("SET LOCAL lock_timeout = '3s'")
            return rows_of(
                connection,
                "SELECT * FROM silver.timeseries_operations_monitor ORDER BY target_table",
            )
    except psycopg.errors.LockNotAvailable as error:
        holders = rows_of(
            connection,
            "SELECT l.relation::regclass::text AS relation, l.pid, a.query"
            " FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)"
            " WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.relation IN ("
            "  SELECT p.relid FROM silver.rollup_config AS r,"
            "   pg_partition_tree(r.source_table) AS p"
            "  UNION SELECT r.target_view FROM silver.rollup_config AS r)",
        )
        if not holders:
            raise
        first = holders[0]
        raise TsrollupError(
            f"{first['relation']} is locked by process {first['pid']}: {first['query'] or '?'}",
            "wait for it to end, or end it with pg_terminate_backend",
        ) from error


def log(connection: Connection, target: str | None, errors: bool, limit: int) -> list[Row]:
    """The newest rows of refresh_log, or of error_log."""
    refreshes = (
        "SELECT finished_at, target_table, from_time, to_time, buckets, rows_written,"
        " rows_deleted, extract(epoch FROM finished_at - started_at)::float8 AS seconds"
        " FROM silver.refresh_log"
        " WHERE %(target)s::text IS NULL OR target_table = %(target)s"
        " ORDER BY id DESC LIMIT %(limit)s"
    )
    failures = (
        "SELECT occurred_at, target_table, attempt, error_code, error_message, detail, hint"
        " FROM silver.error_log"
        " WHERE %(target)s::text IS NULL OR target_table = %(target)s"
        " ORDER BY id DESC LIMIT %(limit)s"
    )
    query = failures if errors else refreshes
    name, is_known = _name_in_logs(connection, target) if target is not None else (None, True)
    rows = rows_of(connection, query, {"target": name, "limit": limit})
    if not rows and not is_known:
        raise TsrollupError(
            f"there is no rollup {target}, and the log has nothing of it",
            "tsrollup status lists the rollups",
        )
    return rows


def split_target(connection: Connection, name: str) -> tuple[str, str]:
    """Schema and table of a name as SQL reads identifiers; the schema is silver by default."""
    query = "SELECT rollup_engine.parse_name(%s::text, 'silver') AS parts"
    schema, table = rows_of(connection, query, [name])[0]["parts"]
    return schema, table


def _bare_name(connection: Connection, rollup_id: int, name: str) -> str:
    """The name of a table that stays in its schema."""
    (row,) = rows_of(
        connection,
        "SELECT n.nspname AS schema, rollup_engine.parse_name(%(name)s::text, n.nspname) AS parts"
        " FROM silver.rollup_config AS r JOIN pg_class AS c ON c.oid = r.target_table"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE r.id = %(id)s",
        {"name": name, "id": rollup_id},
    )
    schema, table = row["parts"]
    if schema != row["schema"]:
        raise ArgumentError(f"{name} lies in another schema", f"it stays in {row['schema']}")
    return str(table)


def _name_in_logs(connection: Connection, target: str) -> tuple[str, bool]:
    """The name that the logs know a rollup by, and whether there still is one of it."""
    (found,) = rows_of(
        connection,
        "SELECT r.id IS NOT NULL AS is_known, coalesce(r.target_table::text,"
        "  (SELECT format('%%I.%%I', p[1], p[2])"
        "  FROM rollup_engine.parse_name(%(target)s::text, 'silver') AS p)) AS name"
        " FROM (SELECT rollup_engine.find_rollup_id(%(target)s::text) AS id) AS f"
        " LEFT JOIN silver.rollup_config AS r USING (id)",
        {"target": target},
    )
    return found["name"], found["is_known"]


def rows_of(
    connection: Connection, query: str | sql.Composed, parameters: Params | None = None
) -> list[Row]:
    with pinned(connection), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            query.encode() if isinstance(query, str) else query, parameters
        ).fetchall()
