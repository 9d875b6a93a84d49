"""What the rollup commands do: one call of the SQL API each, batch by batch where it is long."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tsrollup.errors import TsrollupError

Connection = psycopg.Connection[Any]


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
    row = connection.execute("SELECT to_regclass('silver.rollup_config') IS NOT NULL").fetchone()
    if not row or not next(iter(row.values()) if isinstance(row, dict) else iter(row)):
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
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            sql.SQL("SELECT silver.create_rollup_table({})::text AS target").format(arguments)
        )
        row = cursor.fetchone()
    return str(row["target"]) if row else ""


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
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT coalesce(sum(stale_buckets), 0)::bigint AS buckets"
            " FROM silver.timeseries_operations_monitor"
            " WHERE %(target)s::text IS NULL"
            "    OR target_table::text IN (%(target)s, 'silver.' || %(target)s)",
            {"target": target},
        )
        row = cursor.fetchone()
    return int(row["buckets"]) if row else 0


def refresh(connection: Connection, target: str, from_time: datetime, to_time: datetime) -> None:
    """Recompute a range, stale or not."""
    connection.execute("SELECT silver.refresh_rollup(%s, %s, %s)", [target, from_time, to_time])


def drop(connection: Connection, target: str, keep_table: bool = False) -> None:
    connection.execute("SELECT silver.drop_rollup(%s, %s)", [target, keep_table])


def _perform(connection: Connection, target: str | None) -> list[Batch]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT target, status, buckets, rows_written, rows_deleted, ranges_left, duration,"
            " error_code, error_message"
            " FROM silver.perform_rollup(target => %s, max_batches => 1)",
            [target],
        )
        return [Batch(**row) for row in cursor]
