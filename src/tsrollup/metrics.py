"""Metrics for Prometheus: a look at the monitor a scrape, and what the logs gained since the last.

Names and units are by Prometheus' conventions; what counts up begins with the program, and is of
all who refresh the database.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from psycopg.rows import dict_row

from tsrollup.connection import connect, describe, pinned
from tsrollup.errors import TsrollupError
from tsrollup.installation import require_installed
from tsrollup.lifeline import Lifeline
from tsrollup.newcomers import Newcomers

log = logging.getLogger(__name__)

HEALTHS = ("ok", "lagging", "waiting_for_parent", "retrying", "parked", "paused", "invalid")
SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

MONITOR = """
SELECT m.target_table AS rollup, m.health, m.stale_buckets, m.sealed_late_rows,
    coalesce(extract(epoch FROM clock_timestamp() - m.stale_since), 0)::float8 AS stale_seconds,
    extract(epoch FROM m.lag)::float8 AS lag_seconds,
    coalesce(extract(epoch FROM clock_timestamp() - m.running_since), 0)::float8 AS running_seconds,
    r.retry_count AS retries
FROM silver.timeseries_operations_monitor AS m
JOIN silver.rollup_config AS r ON r.target_table::text = m.target_table
"""
SIZES = """
SELECT s.table_name AS "table", s.table_bytes, s.index_bytes, s.partitions,
    (SELECT coalesce(max(p.table_bytes + p.index_bytes), 0)
    FROM silver.get_partition_stats(s.table_name) AS p) AS largest_partition_bytes
FROM silver.get_detailed_stats('%') AS s
"""
# A reader has what the others are.
MAY_COUNT_CHANGES = """
SELECT has_function_privilege('rollup_engine.change_log_rows()', 'EXECUTE') AS may
"""
CHANGES = "SELECT rollup_engine.change_log_rows() AS change_log_rows"
# What other sessions do is hidden from who has no right to see it.
SNAPSHOTS = """
SELECT CASE count(*) WHEN 0 THEN 0
    ELSE extract(epoch FROM clock_timestamp() - min(xact_start))::float8 END
    AS oldest_snapshot_seconds
FROM pg_stat_activity
WHERE backend_xmin IS NOT NULL AND datname = current_database() AND pid <> pg_backend_pid()
"""
SIZES_EVERY = 60.0
SIZES_AGAIN_AFTER = 5.0  # where somebody kept a table locked
# For the scrape before, whose server may hang.
SECONDS_TO_WAIT = 5.0

GAUGES = {
    "stale_seconds": "For how long the oldest change waits that was to be stored by now; 0: none.",
    "stale_buckets": "Buckets that are computed when they are read.",
    "lag_seconds": "Time since the start of the oldest settled stale bucket.",
    "running_seconds": "For how long the batch runs that is refreshing the rollup now; 0: none.",
    "retries": "Failures in a row.",
}
SIZE_GAUGES = {
    "table_bytes": "Size of the rows of a rollup or a source, with all partitions.",
    "index_bytes": "Size of the indexes.",
    "partitions": "Partitions.",
    "largest_partition_bytes": "Size of the largest partition, indexes included.",
}


def serve(url: str, port: int, address: str, lifeline: Lifeline) -> None:
    """Answer scrapes at http://address:port/metrics from a thread, until the program ends."""
    exporter = Exporter(url, lifeline)
    list(exporter.collect())  # what comes from now on is counted
    registry = CollectorRegistry()
    registry.register(exporter)
    try:
        start_http_server(port, address, registry)
    except OSError as error:
        raise TsrollupError(
            f"cannot serve metrics on {address}:{port}: {error.strerror}",
            "give another --metrics-port or --metrics-address",
        ) from error


class Exporter:
    """Collects what a scrape asks for, on a connection of its own, which is made anew when it is
    lost; a scrape that finds no database says tsrollup_up 0, and the log why."""

    def __init__(self, url: str, lifeline: Lifeline) -> None:
        self.url = url
        self.lifeline = lifeline
        self.lock = threading.Lock()
        self.connection: psycopg.Connection[dict[str, Any]] | None = None
        self.told = ""
        self.refreshed = Newcomers(
            "refresh_log",
            "target_table AS rollup, buckets, rows_written, rows_deleted,"
            " extract(epoch FROM finished_at - started_at)::float8 AS seconds",
        )
        self.failed = Newcomers("error_log", "target_table AS rollup, error_code")
        self.sizes: list[dict[str, Any]] = []
        self.sized_at = -SIZES_EVERY
        self.batches = _counter("batches", "Batches that were refreshed.")
        self.buckets = _counter("buckets_refreshed", "Buckets that were recomputed.")
        self.written = _counter("rows_written", "Rows inserted or changed.")
        self.deleted = _counter("rows_deleted", "Rows whose group is gone.")
        self.errors = _counter("errors", "Failures, by SQLSTATE.", "code")
        self.durations = Histogram(
            "tsrollup_batch_duration_seconds",
            "How long batches took.",
            ["rollup"],
            buckets=SECONDS,
            registry=None,
        )

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        found: list[Metric] = []
        if self.lock.acquire(timeout=SECONDS_TO_WAIT):
            try:
                connection = self._connected()
                with self.lifeline.of(connection):
                    found = list(self._read(connection))
                self.told = ""
            except (psycopg.Error, TsrollupError) as error:
                self.disconnect()
                self._tell(error if isinstance(error, TsrollupError) else describe(error))
            finally:
                self.lock.release()
        up = "Whether the database answered, and is of this release."
        yield GaugeMetricFamily("tsrollup_up", up, value=bool(found))
        yield from found

    def _read(self, connection: psycopg.Connection[dict[str, Any]]) -> Iterator[Metric]:
        with pinned(connection):
            connection.execute("SET LOCAL lock_timeout = '3s'")
            self._count(connection)
            monitor = connection.execute(MONITOR).fetchall()
            server = self._server(connection)
        for name, text in GAUGES.items():
            yield _gauge(name, text, "rollup", monitor)
        for name, text in SIZE_GAUGES.items():
            yield _gauge(name, text, "table", self._sizes(connection))
        yield _health(monitor)
        late = CounterMetricFamily(
            "tsrollup_sealed_late_rows", "Rows that came for sealed time.", labels=["rollup"]
        )
        for row in monitor:
            late.add_metric([row["rollup"]], row["sealed_late_rows"])
        yield late
        for name, text in (
            ("change_log_rows", "Changes that no drain has taken in."),
            ("oldest_snapshot_seconds", "Age of the oldest transaction that others must mind."),
        ):
            if server.get(name) is not None:
                yield GaugeMetricFamily(f"tsrollup_{name}", text, value=server[name])
        counters = (self.batches, self.buckets, self.written, self.deleted)
        for row in monitor:  # nothing has increased that was not there before
            for counter in counters:
                counter.labels(row["rollup"])
        for counter in (*counters, self.errors):
            yield from counter.collect()
        yield from self.durations.collect()

    def _count(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        for row in self.refreshed.read(connection):
            self.batches.labels(row["rollup"]).inc()
            self.buckets.labels(row["rollup"]).inc(row["buckets"])
            self.written.labels(row["rollup"]).inc(row["rows_written"])
            self.deleted.labels(row["rollup"]).inc(row["rows_deleted"])
            self.durations.labels(row["rollup"]).observe(row["seconds"])
        for row in self.failed.read(connection):
            self.errors.labels(row["rollup"], row["error_code"]).inc()

    def _server(self, connection: psycopg.Connection[dict[str, Any]]) -> dict[str, Any]:
        may_count = connection.execute(MAY_COUNT_CHANGES).fetchone()
        queries = [SNAPSHOTS, *([CHANGES] if may_count and may_count["may"] else [])]
        rows = [connection.execute(query).fetchone() or {} for query in queries]
        return {name: value for row in rows for name, value in row.items()}

    def _sizes(self, connection: psycopg.Connection[dict[str, Any]]) -> list[dict[str, Any]]:
        """None of tables that somebody locks, or for who may not ask for them."""
        if time.monotonic() > self.sized_at + SIZES_EVERY:
            self.sized_at, self.sizes = time.monotonic(), []
            try:
                with pinned(connection):
                    connection.execute("SET LOCAL lock_timeout = '1s'")
                    self.sizes = connection.execute(SIZES).fetchall()
            except psycopg.errors.LockNotAvailable:
                self.sized_at -= SIZES_EVERY - SIZES_AGAIN_AFTER
            except psycopg.errors.InsufficientPrivilege:
                pass
        return self.sizes

    def _connected(self) -> psycopg.Connection[dict[str, Any]]:
        if self.connection is None or self.connection.closed:
            self.connection = connect(
                self.url, application_name="tsrollup metrics", row_factory=dict_row
            )
            with self.lifeline.of(self.connection):
                require_installed(self.connection)
        return self.connection

    def _tell(self, error: TsrollupError) -> None:
        """Once, not at each scrape."""
        if str(error) != self.told:
            self.told = str(error)
            log.warning("metrics: %s", error, extra={"code": error.code, "hint": error.hint})

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"tsrollup_{name}", text, ["rollup", *labels], registry=None)


def _gauge(name: str, text: str, label: str, rows: list[dict[str, Any]]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"tsrollup_{name}", text, labels=[label])
    for row in rows:
        if row[name] is not None:
            gauge.add_metric([row[label]], float(row[name]))
    return gauge


def _health(rows: list[dict[str, Any]]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(
        "tsrollup_health", "1 for the health that a rollup is in.", labels=["rollup", "health"]
    )
    for row in rows:
        for health in HEALTHS:
            gauge.add_metric([row["rollup"], health], float(row["health"] == health))
    return gauge
