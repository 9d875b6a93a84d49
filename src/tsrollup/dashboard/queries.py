"""What the dashboard asks the database, but for charts: a short query each, in a transaction of
database.py.

Who may not read the configuration still sees the monitor and the live views that are theirs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from tsrollup.dashboard.markup import TROUBLED

Row = dict[str, Any]
Connection = psycopg.Connection[Row]

MINUTES_OF_PULSE = 60


@dataclass(frozen=True)
class Rollup:
    """One row of the monitor, and what the configuration adds to it; ages and spans in seconds."""

    name: str
    source: str
    health: str
    view: str | None
    lag: float | None
    stale_buckets: int | None
    stale_ranges: int | None
    rows_per_second: float | None
    success_rate: float | None
    catch_up: float | None
    last_run_age: float | None
    next_retry_in: float | None
    last_error: str | None
    sealed_late_rows: int
    exact_since: str | None
    reason: str | None
    next_step: str | None
    waiting: float | None
    running: float | None
    running_pid: int | None
    width: str | None = None
    width_seconds: float | None = None
    dimensions: tuple[str, ...] = ()
    is_active: bool | None = None
    timezone: str | None = None
    pulse: tuple[int, ...] = ()

    @property
    def needs_a_person(self) -> bool:
        """Other healths come and go by themselves, or were somebody's wish."""
        return self.health in TROUBLED or bool(self.health == "ok" and self.reason)


_ROLLUPS = """
SELECT m.target_table AS name, m.source_table AS source, m.health,
       to_regclass(format('gold.%I', c.relname))::text AS view,
       extract(epoch FROM m.lag)::float8 AS lag, m.stale_buckets, m.stale_ranges,
       m.rows_per_second, m.success_rate,
       extract(epoch FROM m.time_to_catch_up)::float8 AS catch_up,
       extract(epoch FROM clock_timestamp() - m.last_run_at)::float8 AS last_run_age,
       extract(epoch FROM m.next_retry_at - clock_timestamp())::float8 AS next_retry_in,
       m.last_error, m.sealed_late_rows, m.exact_since, m.reason, m.next_step,
       extract(epoch FROM clock_timestamp() - m.stale_since)::float8 AS waiting,
       extract(epoch FROM clock_timestamp() - m.running_since)::float8 AS running, m.running_pid
FROM silver.timeseries_operations_monitor AS m
LEFT JOIN pg_class AS c ON c.oid = to_regclass(m.target_table)
ORDER BY m.source_table, m.target_table
"""
_CONFIGURATION = """
SELECT r.target_table::text AS name, r.bucket_width::text AS width, r.target_view::text AS view,
       extract(epoch FROM r.bucket_width)::float8 AS width_seconds,
       r.dimensions::text[] AS dimensions, r.is_active, r.timezone
FROM silver.rollup_config AS r
"""
_PULSE = """
SELECT target_table AS name,
       floor(extract(epoch FROM clock_timestamp() - finished_at) / 60)::integer AS minutes_ago,
       sum(rows_written + rows_deleted)::bigint AS rows
FROM silver.refresh_log
WHERE finished_at > clock_timestamp() - make_interval(mins => %s)
GROUP BY 1, 2
"""


def may_read_configuration(connection: Connection) -> bool:
    (row,) = read(
        connection,
        "SELECT has_table_privilege('silver.rollup_config', 'SELECT')"
        " AND has_schema_privilege('rollup_engine', 'USAGE') AS may",
    )
    return bool(row["may"])


def rollups(connection: Connection) -> list[Rollup]:
    """Every rollup; parents and children find each other by name."""
    known: dict[str, Row] = {}
    pulses: dict[str, list[int]] = {}
    if may_read_configuration(connection):
        known = {row["name"]: row for row in read(connection, _CONFIGURATION)}
        for row in read(connection, _PULSE, [MINUTES_OF_PULSE]):
            if row["minutes_ago"] < MINUTES_OF_PULSE:
                pulse = pulses.setdefault(row["name"], [0] * MINUTES_OF_PULSE)
                pulse[MINUTES_OF_PULSE - 1 - max(row["minutes_ago"], 0)] += row["rows"]
    return [_rollup(row, known.get(row["name"], {}), pulses) for row in read(connection, _ROLLUPS)]


def _rollup(row: Row, configured: Row, pulses: Mapping[str, Sequence[int]]) -> Rollup:
    values: dict[str, Any] = {**row, **configured, "pulse": tuple(pulses.get(row["name"], ()))}
    values["dimensions"] = tuple(values.get("dimensions") or ())
    return Rollup(**values)


def runs(connection: Connection, rollup: str, limit: int) -> list[Row]:
    """The newest batches of a rollup."""
    return read(
        connection,
        "SELECT id, finished_at, from_time, to_time, buckets, rows_written, rows_deleted,"
        " extract(epoch FROM finished_at)::float8 AS finished,"
        " extract(epoch FROM finished_at - started_at)::float8 AS seconds"
        " FROM silver.refresh_log WHERE target_table = %s ORDER BY finished_at DESC LIMIT %s",
        [rollup, limit],
    )


def errors(connection: Connection, rollup: str, limit: int) -> list[Row]:
    """The newest failures of a rollup."""
    return read(
        connection,
        "SELECT id, occurred_at, error_code, error_message, detail, hint, context,"
        " attempted_query, attempt"
        " FROM silver.error_log WHERE target_table = %s ORDER BY occurred_at DESC LIMIT %s",
        [rollup, limit],
    )


def partitions(connection: Connection, rollup: str, limit: int) -> list[Row]:
    """The newest partitions of a rollup's table, and how many there are."""
    return read(
        connection,
        "SELECT *, count(*) OVER () AS partitions, sum(table_bytes + index_bytes) OVER ()::bigint"
        " AS all_bytes FROM silver.get_partition_stats(%s)"
        " ORDER BY from_time DESC NULLS LAST, partition_name LIMIT %s",
        [rollup, limit],
    )


def definition(connection: Connection, rollup: str) -> Row | None:
    """How a rollup was created, the GROUP BY that it stands for, and its live view's text."""
    rows = read(
        connection,
        "SELECT r.*, pg_get_viewdef(r.target_view) AS view_sql, r.target_view::text AS view"
        " FROM silver.rollup_config AS r WHERE r.target_table = to_regclass(%s)",
        [rollup],
    )
    return rows[0] if rows else None


def sources(connection: Connection) -> list[str]:
    """What a rollup may read: the tables in raw, and the rollups."""
    rows = read(
        connection,
        "SELECT c.oid::regclass::text AS name, 0 AS place FROM pg_class AS c"
        " WHERE c.relnamespace = to_regnamespace('raw') AND c.relkind IN ('r', 'p', 'f', 'v', 'm')"
        "  AND NOT c.relispartition"
        " UNION ALL SELECT target_table, 1 FROM silver.timeseries_operations_monitor"
        " ORDER BY place, name",
    )
    return [row["name"] for row in rows]


def columns(connection: Connection, table: str) -> list[Row]:
    """Columns of a source: name, type, whether it holds times, and the aggregates that take it, by
    the catalogue, where the role may read that."""
    aggregates: LiteralString = "NULL::text[]"
    if may_read_configuration(connection):
        aggregates = (
            "ARRAY(SELECT DISTINCT CASE f.name WHEN 'pN' THEN p ELSE f.name END"
            "  FROM rollup_engine.aggregate AS f, unnest(ARRAY['p50', 'p90', 'p95', 'p99']) AS p"
            "  WHERE f.takes = ANY (rollup_engine.value_kinds(a.atttypid)) ORDER BY 1)"
        )
    return read(
        connection,
        "SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type,"
        f" t.typcategory = 'D' AS is_time, {aggregates} AS aggregates"
        " FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid"
        " WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped"
        " ORDER BY a.attnum",
        [table],
    )


def read(
    connection: Connection,
    query: LiteralString | sql.Composed,
    parameters: Sequence[Any] | Mapping[str, Any] | None = None,
) -> list[Row]:
    """The rows of a query."""
    return connection.execute(query, parameters).fetchall()
