"""What the rollup commands do: one call of the SQL API each, batch by batch where it is long."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Params
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tsrollup.errors import TsrollupError

Connection = psycopg.Connection[Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """One row of silver.perform_rollup: what became of one rollup."""

    target: str
    status: str
    buckets: int
    rows_written: int
    rows_deleted: int
    ranges_left: int
    duration: timedelta
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True)
class RunSummary:
    """All batches of one rollup in one run."""

    target: str
    status: str
    batches: int = 0
    buckets: int = 0
    rows_written: int = 0
    rows_deleted: int = 0
    ranges_left: int = 0
    seconds: float = 0.0
    error: str | None = None

    def plus(self, batch: Batch) -> "RunSummary":
        error = f"{batch.error_message} [{batch.error_code}]" if batch.error_code else self.error
        return RunSummary(
            self.target,
            batch.status,
            self.batches + (1 if batch.buckets else 0),
            self.buckets + batch.buckets,
            self.rows_written + batch.rows_written,
            self.rows_deleted + batch.rows_deleted,
            batch.ranges_left,
            self.seconds + batch.duration.total_seconds(),
            error,
        )


def require_installed(connection: Connection) -> None:
    """Say what to do where the migrations are missing, rather than that a function is."""
    rows = _rows(connection, "SELECT to_regclass('silver.rollup_config') IS NOT NULL AS installed")
    if not rows[0]["installed"]:
        raise TsrollupError(
            f"tsrollup is not installed in database {connection.info.dbname}",
            "run tsrollup migrate",
        )


def create(
    connection: Connection,
    source: str,
    schema: str,
    table: str,
    width: str,
    options: Mapping[str, Any],
) -> str:
    """Create a rollup; `options` are further arguments of create_rollup_table, None left out."""
    given = {
        "source_table_name": source,
        "target_schema": schema,
        "target_table_name": table,
        "rollup_table_interval": width,
        **{name: value for name, value in options.items() if value is not None},
    }
    if isinstance(given.get("metrics"), Mapping):
        given["metrics"] = Jsonb(given["metrics"])
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in given.items()
    )
    query = sql.SQL("SELECT silver.create_rollup_table({})::text AS target").format(arguments)
    return str(_rows(connection, query)[0]["target"])


def run(connection: Connection, target: str | None = None) -> Iterator[list[Batch]]:
    """Refresh what is due, a batch of each rollup and a transaction at a time, until none is.

    The rollups of one pass come in one list; an idle pass ends the run and is yielded too, so
    that there is something to tell about rollups that had nothing to do.
    """
    if not connection.autocommit:
        raise ValueError("a run commits batch by batch: give it an autocommit connection")
    while True:
        batches = _perform(connection, target)
        yield batches
        if not any(batch.buckets for batch in batches):
            return


def summarise(passes: Iterator[list[Batch]]) -> list[RunSummary]:
    """Drain a run and add up its batches by rollup, in the order they were met."""
    summaries: dict[str, RunSummary] = {}
    for batches in passes:
        for batch in batches:
            known = summaries.get(batch.target, RunSummary(batch.target, batch.status))
            summaries[batch.target] = known.plus(batch)
    return list(summaries.values())


def stale_buckets(connection: Connection, target: str | None = None) -> int:
    """Buckets that a run has before it, as far as the drains have told."""
    rows = _rows(
        connection,
        "SELECT coalesce(sum(stale_buckets), 0)::bigint AS buckets"
        " FROM silver.timeseries_operations_monitor"
        " WHERE %(target)s::text IS NULL OR target_table::text = %(target)s",
        {"target": _table_name(connection, target)},
    )
    return int(rows[0]["buckets"])


def refresh(
    connection: Connection, target: str, from_time: datetime | str, to_time: datetime | str
) -> None:
    """Recompute a range, stale or not; text is read by the server, in the session's time zone."""
    connection.execute("SELECT silver.refresh_rollup(%s, %s, %s)", [target, from_time, to_time])


def drop(connection: Connection, target: str, keep_table: bool = False) -> None:
    connection.execute("SELECT silver.drop_rollup(%s, %s)", [target, keep_table])


def log(connection: Connection, target: str | None, errors: bool, limit: int) -> list[Row]:
    """The newest rows of refresh_log, or of error_log."""
    refreshes = (
        "SELECT finished_at, target_table, from_time, to_time, buckets, rows_written,"
        " rows_deleted, finished_at - started_at AS duration FROM silver.refresh_log"
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
    return _rows(connection, query, {"target": _table_name(connection, target), "limit": limit})


def split_target(connection: Connection, name: str) -> tuple[str, str]:
    """Schema and table of a name as SQL reads identifiers; the schema is silver by default."""
    parts = _rows(connection, "SELECT parse_ident(%s) AS parts", [name])[0]["parts"]
    if len(parts) > 2:
        raise TsrollupError(f"{name} has too many parts", "write it as schema.table")
    return ("silver", parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def live_view(connection: Connection, target: str) -> str:
    query = (
        "SELECT target_view::text AS view FROM silver.rollup_config"
        " WHERE target_table = %s::regclass"
    )
    return str(_rows(connection, query, [target])[0]["view"])


def _table_name(connection: Connection, target: str | None) -> str | None:
    """The name that the logs know a rollup by; one that was dropped keeps the name given."""
    known = _rows(
        connection,
        "SELECT target_table::text AS name FROM silver.rollup_config"
        " WHERE to_regclass(%(target)s) IN (target_table, target_view)"
        "    OR to_regclass('gold.' || %(target)s) = target_view",
        {"target": target},
    )
    return known[0]["name"] if known else target


def _perform(connection: Connection, target: str | None) -> list[Batch]:
    query = (
        "SELECT target, status, buckets, rows_written, rows_deleted, ranges_left, duration,"
        " error_code, error_message"
        " FROM silver.perform_rollup(target => %s, max_batches => 1)"
    )
    return [Batch(**row) for row in _rows(connection, query, [target])]


def _rows(
    connection: Connection, query: str | sql.Composed, parameters: Params | None = None
) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            query.encode() if isinstance(query, str) else query, parameters
        ).fetchall()
