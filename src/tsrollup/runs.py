"""What runs do: what is due batch by batch, a range at once, and what became of each rollup."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from tsrollup.rollups import Connection, Row, call, rows_of


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


BATCH_COLUMNS = [field.name for field in fields(Batch)]


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


def run(connection: Connection, target: str | None = None) -> Iterator[Batch]:
    """Refresh what had settled when the run began, parents first, a transaction for each batch.

    One rollup, or all that are not paused, parked or waiting for their next attempt; those are
    yielded with their status and no work done.
    """
    if not connection.autocommit:
        raise ValueError("a run commits batch by batch: give it an autocommit connection")
    (began,) = rows_of(connection, "SELECT clock_timestamp() AS now")
    for rollup in _to_run(connection, target, began["now"]):
        if not rollup["is_due"]:
            nothing_done = (0, 0, 0, rollup["ranges_left"], timedelta(), None, None)
            yield Batch(rollup["name"], rollup["status"], *nothing_done)
            continue
        # Each call reads the whole window again, so there is one, without a limit.
        most = None if rollup["reads_window"] else 1
        more = True
        while more:
            batch = _perform(connection, rollup["name"], most, began["now"])
            if batch is None:
                return  # a standby, or beside a migrate: the server has said so
            yield batch
            # To the call that finds nothing: it settles the partitions that the last one made.
            more = most is not None and batch.buckets > 0


def summarise(batches: Iterable[Batch]) -> list[RunSummary]:
    """Add up batches by rollup, in the order they were met."""
    summaries: dict[str, RunSummary] = {}
    for batch in batches:
        known = summaries.get(batch.target, RunSummary(batch.target, batch.status))
        summaries[batch.target] = known.plus(batch)
    return list(summaries.values())


def stale_buckets(connection: Connection, target: str | None = None) -> int:
    """Buckets that a run has before it, as far as the drains have told."""
    rows = rows_of(
        connection,
        "SELECT coalesce(sum(stale_buckets), 0)::bigint AS buckets"
        " FROM silver.timeseries_operations_monitor"
        " WHERE target_table IN"
        "  (SELECT r.target_table::text FROM rollup_engine.run_order(%s::text) AS r)",
        [target],
    )
    return int(rows[0]["buckets"])


def work_to_do(connection: Connection, target: str | None = None) -> list[Row]:
    """What a run would refresh; what has changed is taken in for that, and not kept."""
    with connection.transaction(force_rollback=True):
        rows_of(connection, "SELECT rollup_engine.drain_sources_of(%s::text, now()) AS d", [target])
        query = "SELECT * FROM rollup_engine.work_to_do(%s::text, now())"
        return rows_of(connection, query, [target])


def refresh(
    connection: Connection, target: str, from_time: datetime | str, to_time: datetime | str
) -> list[RunSummary]:
    """Recompute a range, stale or not; text is read by the server, in the session's time zone."""
    rows = call(connection, "refresh_rollup", target=target, from_time=from_time, to_time=to_time)
    return summarise(Batch(**{name: row[name] for name in BATCH_COLUMNS}) for row in rows)


def _to_run(connection: Connection, target: str | None, as_of: datetime) -> list[Row]:
    return rows_of(
        connection,
        "SELECT r.target_table::text AS name, r.status,"
        " r.change_tracking = 'window' AS reads_window,"
        " rollup_engine.is_due(r, %(target)s::text IS NOT NULL) AS is_due,"
        " rollup_engine.ranges_left(r.id, rollup_engine.settled_range(r, %(as_of)s)) AS ranges_left"
        " FROM rollup_engine.run_order(%(target)s::text) AS r",
        {"target": target, "as_of": as_of},
    )


def _perform(
    connection: Connection, target: str, max_batches: int | None, as_of: datetime
) -> Batch | None:
    query = f"SELECT {', '.join(BATCH_COLUMNS)} FROM silver.perform_rollup(%s, %s, %s)"
    rows = rows_of(connection, query, [target, max_batches, as_of])
    return Batch(**rows[0]) if rows else None
