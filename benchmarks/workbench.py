"""A database for one run, and the tables that the benchmarks work on."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.measure import Session
from tsrollup.connection import connect
from tsrollup.migrations import migrate_project

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday: buckets of any width begin here


class Workbench:
    """A database of its own, with rollups by tsrollup; dropped after the run."""

    def __init__(self, url: str, days: int, devices: int, rounds: int) -> None:
        self.url = url
        self.days = days
        self.devices = devices
        self.rounds = rounds
        self.session = self.connect()
        self._has_readings = False

    @property
    def end(self) -> datetime:
        return START + timedelta(days=self.days)

    def connect(self) -> Session:
        return Session(connect(self.url))

    def prepare(self) -> None:
        migrate_project(self.url)

    def create_table(self, table: str, days: int) -> None:
        """(ts, device, temp), a partition a day, a btree on the time."""
        self.session.execute(
            f"CREATE TABLE {table} (ts timestamptz NOT NULL, device integer NOT NULL,"
            " temp double precision) PARTITION BY RANGE (ts)"
        )
        self.session.execute(f"CREATE INDEX ON {table} (ts)")
        for number in range(days):
            day = START + timedelta(days=number)
            self.session.execute(
                f"CREATE TABLE {table}_{day:%Y%m%d} PARTITION OF {table}"
                f" FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
            )

    def fill(self, table: str, days: int, step: str, devices: int) -> None:
        """Every device once a step, in the order of time, as it would have come."""
        self.session.execute(
            f"INSERT INTO {table} SELECT t, d, 20 + 5 * sin(d) + random()"
            " FROM generate_series(%s::timestamptz, %s - interval '1 second', %s::interval) AS t,"
            " generate_series(1, %s) AS d ORDER BY t",
            START,
            START + timedelta(days=days),
            step,
            devices,
        )
        self.session.execute(f"VACUUM (ANALYZE) {table}")

    def readings(self) -> None:
        """raw.readings, which several benchmarks share: every device every 10 seconds."""
        if not self._has_readings:
            self._has_readings = True
            self.create_table("raw.readings", self.days + 1)
            self.fill("raw.readings", self.days, "10 seconds", self.devices)

    @contextmanager
    def rollup(self, name: str, source: str, width: str = "1 minute") -> Iterator[None]:
        self.create_rollup(name, source, width)
        try:
            yield
        finally:
            self.drop_rollup(name)

    def create_rollup(self, name: str, source: str, width: str) -> None:
        self.session.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval,"
            " dimensions => '{device}')",
            source,
            name,
            width,
        )

    def drop_rollup(self, name: str) -> None:
        self.session.execute("SELECT silver.drop_rollup(%s)", name)

    def refresh(self, name: str | None, until: datetime | None = None) -> None:
        """Refresh what is stale and settled, each batch committed."""
        self.session.execute("CALL silver.run_rollups(%s, '1 hour', %s)", name, until or self.end)
        failure = self.session.value("SELECT error_message FROM silver.error_log LIMIT 1")
        if failure:
            raise RuntimeError(failure)

    def live(self, name: str) -> str:
        """What people read."""
        return f"gold.{name}"

    def stored(self, name: str) -> str:
        """The table with the stored rows of a rollup."""
        return f"silver.{name}"

    @staticmethod
    def grouped(table: str, condition: str = "") -> str:
        """The bare GROUP BY that a one-minute rollup stands for."""
        return (
            "SELECT date_bin('1 minute', ts, '2000-01-03 00:00:00+00') AS bucket, device,"
            " count(*) AS row_count, count(temp) AS temp_count, sum(temp) AS temp_sum,"
            f" min(temp) AS temp_min, max(temp) AS temp_max FROM {table} {condition} GROUP BY 1, 2"
        )


class TimescaleWorkbench(Workbench):
    """The same work with TimescaleDB: hypertables and continuous aggregates."""

    def prepare(self) -> None:
        self.session.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        self.session.execute("CREATE SCHEMA raw")
        self.session.execute("CREATE SCHEMA gold")

    def create_table(self, table: str, days: int) -> None:  # noqa: ARG002
        self.session.execute(
            f"CREATE TABLE {table} (ts timestamptz NOT NULL, device integer NOT NULL,"
            " temp double precision)"
        )
        self.session.execute(
            f"SELECT create_hypertable('{table}', 'ts', chunk_time_interval => interval '1 day',"
            " create_default_indexes => false)"
        )
        self.session.execute(f"CREATE INDEX ON {table} (ts)")

    def create_rollup(self, name: str, source: str, width: str) -> None:
        self.session.execute(
            f"CREATE MATERIALIZED VIEW gold.{name}"
            " WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS"
            f" SELECT time_bucket('{width}', ts) AS bucket, device, count(*) AS row_count,"
            " count(temp) AS temp_count, sum(temp) AS temp_sum, min(temp) AS temp_min,"
            f" max(temp) AS temp_max FROM {source} GROUP BY 1, 2 WITH NO DATA"
        )

    def drop_rollup(self, name: str) -> None:
        self.session.execute(f"DROP MATERIALIZED VIEW gold.{name}")

    def refresh(self, name: str | None, until: datetime | None = None) -> None:
        self.session.execute(
            f"CALL refresh_continuous_aggregate('gold.{name}', NULL, %s::timestamptz)",
            until or self.end,
        )

    def stored(self, name: str) -> str:
        return str(
            self.session.value(
                "SELECT format('%%I.%%I', materialization_hypertable_schema,"
                " materialization_hypertable_name)"
                " FROM timescaledb_information.continuous_aggregates WHERE view_name = %s",
                name,
            )
        )


@contextmanager
def open_workbench(
    kind: type[Workbench], server_url: str, days: int, devices: int, rounds: int
) -> Iterator[Workbench]:
    name = f"tsrollup_bench_{secrets.token_hex(4)}"
    with connect(server_url) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = make_conninfo(server_url, dbname=name)
            bench = kind(url, days, devices, rounds)
            bench.prepare()
            try:
                yield bench
            finally:
                bench.session.connection.close()
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
