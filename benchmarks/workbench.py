"""A database for one run, and the tables that the benchmarks work on."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.measure import Session
from tsrollup.connection import connect
from tsrollup.flyway.project import migrate_project

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday: buckets of any width begin here

READINGS_GROUPED = (
    "SELECT date_bin('1 minute', ts, '2000-01-03 00:00:00+00') AS bucket, device, count(*) AS row_count,"
    " count(temp) AS temp_count, sum(temp) AS temp_sum, min(temp) AS temp_min, max(temp) AS temp_max"
    " FROM raw.readings GROUP BY 1, 2"
)


@dataclass
class Workbench:
    """A migrated database of its own, dropped after the run."""

    url: str
    days: int
    devices: int
    rounds: int
    session: Session
    _made: set[str] = field(default_factory=set)

    @property
    def end(self) -> datetime:
        return START + timedelta(days=self.days)

    def connect(self) -> Session:
        return Session(connect(self.url))

    def readings(self) -> None:
        """raw.readings: every device every 10 seconds, a partition a day, a btree on the time."""
        if "readings" in self._made:
            return
        self._made.add("readings")
        create_partitioned(self.session, "raw.readings", self.days + 1)
        self.session.execute(
            "INSERT INTO raw.readings SELECT t, d, 20 + 5 * sin(d) + random()"
            " FROM generate_series(%s::timestamptz, %s, '10 seconds') AS t, generate_series(1, %s) AS d"
            " ORDER BY t",
            START,
            self.end - timedelta(seconds=10),
            self.devices,
        )
        self.session.execute("VACUUM (ANALYZE) raw.readings")

    @contextmanager
    def rollup(self, name: str, source: str, width: str) -> Iterator[str]:
        """A rollup for as long as the block lasts; parents must outlive their children."""
        self.create_rollup(name, source, width)
        try:
            yield name
        finally:
            self.session.execute("SELECT silver.drop_rollup(%s)", name)

    def create_rollup(self, name: str, source: str, width: str) -> None:
        self.session.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval, dimensions => '{device}')",
            source,
            name,
            width,
        )

    def refresh(self, name: str | None = None) -> None:
        """Refresh what is stale and settled at the end of the data, each batch committed."""
        self.session.execute("CALL silver.run_rollups(%s, '1 hour', %s)", name, self.end)
        left = self.session.value("SELECT count(*) FROM silver.error_log")
        if left:
            raise RuntimeError(self.session.value("SELECT error_message FROM silver.error_log"))


def create_partitioned(session: Session, table: str, days: int) -> None:
    """(ts, device, temp), a partition a day, a btree on the time."""
    session.execute(
        f"CREATE TABLE {table} (ts timestamptz NOT NULL, device integer NOT NULL,"
        " temp double precision) PARTITION BY RANGE (ts)"
    )
    session.execute(f"CREATE INDEX ON {table} (ts)")
    for number in range(days):
        day = START + timedelta(days=number)
        session.execute(
            f"CREATE TABLE {table}_{day:%Y%m%d} PARTITION OF {table}"
            f" FOR VALUES FROM ('{day.isoformat()}') TO ('{(day + timedelta(days=1)).isoformat()}')"
        )


@contextmanager
def open_workbench(server_url: str, days: int, devices: int, rounds: int) -> Iterator[Workbench]:
    name = f"tsrollup_bench_{secrets.token_hex(4)}"
    with connect(server_url) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = make_conninfo(**{**conninfo_to_dict(server_url), "dbname": name})
        try:
            migrate_project(url)
            with connect(url) as connection:
                yield Workbench(url, days, devices, rounds, Session(connection))
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
