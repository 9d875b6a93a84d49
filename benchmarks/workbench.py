"""A database for one run, and the tables that the benchmarks work on."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.measure import Note, Session
from tsrollup.connection import connect
from tsrollup.migrations import migrate_project

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday: buckets of any width begin here
SETTLE = timedelta(minutes=1)


def _size(default: int, text: str) -> int:
    size: int = field(default=default, metadata={"help": text})
    return size


@dataclass(frozen=True)
class Sizes:
    """How much of everything; each is an option of the command line."""

    days: int = _size(4, "days of readings")
    devices: int = _size(100, "devices of the readings")
    rounds: int = _size(3, "repetitions")
    history: int = _size(30, "days of smaller tables, most of which becomes stale")
    fleet: int = _size(1_000, "devices, one of which is read")
    partitions: int = _size(200, "partitions of one day where there are many")
    statements: int = _size(20_000, "statements while a snapshot is held open")
    rollups: int = _size(300, "rollups that have nothing to do, three on a source")
    reports: int = _size(500_000, "reports of the fleet whose page is followed")
    cold: int = _size(2_000_000, "rows that are archived")
    minutes: int = _size(120, "minutes of a fleet that are simulated")
    seconds: int = _size(2, "length of one pgbench")


class Workbench:
    """A database of its own, with rollups by tsrollup; dropped after the run."""

    system = "tsrollup"
    has_groups = True  # a late row costs its group

    def __init__(self, url: str, sizes: Sizes) -> None:
        self.url = url
        self.sizes = sizes
        self.rounds = sizes.rounds
        self.days = sizes.days
        self.session = self.connect()
        self._has_readings = False

    @property
    def end(self) -> datetime:
        return START + timedelta(days=self.days)

    def connect(self) -> Session:
        return Session(connect(self.url))

    def prepare(self) -> None:
        migrate_project(self.url)

    def version(self) -> str:
        return str(self.session.value("SELECT silver.version()"))

    def create_table(self, table: str, days: int, start: datetime = START, chunk: int = 1) -> None:
        """(ts, device, temp), a partition every `chunk` days, a btree on the time."""
        self.session.execute(
            f"CREATE TABLE {table} (ts timestamptz NOT NULL, device integer NOT NULL,"
            " temp double precision) PARTITION BY RANGE (ts)"
        )
        self.session.execute(f"CREATE INDEX ON {table} (ts)")
        for number in range(0, days, chunk):
            day = start + timedelta(days=number)
            self.session.execute(
                f"CREATE TABLE {table}_{day:%Y%m%d} PARTITION OF {table}"
                f" FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=chunk)}')"
            )

    def fill(self, table: str, start: datetime, end: datetime, step: str, devices: int) -> None:
        """Every device once a step, in the order of time, as it would have come.

        The values are eighths, whose sums are the same in any order.
        """
        self.session.execute(
            f"INSERT INTO {table} SELECT t, d, floor(8 * (20 + 5 * sin(d) + random())) / 8"
            " FROM generate_series(%s::timestamptz, %s - interval '1 microsecond', %s::interval)"
            " AS t, generate_series(1, %s) AS d ORDER BY t",
            start,
            end,
            step,
            devices,
        )
        self.session.execute(f"VACUUM (ANALYZE) {table}")

    def readings(self) -> None:
        """raw.readings, which several benchmarks share: every device every 10 seconds."""
        if not self._has_readings:
            self._has_readings = True
            self.create_table("raw.readings", self.days + 1)
            self.fill("raw.readings", START, self.end, "10 seconds", self.sizes.devices)

    @contextmanager
    def rollup(self, name: str, source: str, width: str = "1 minute") -> Iterator[None]:
        self.create_rollup(name, source, width)
        try:
            yield
        finally:
            self.drop_rollup(name)

    @contextmanager
    def levels(self, name: str, source: str, widths: Mapping[str, str]) -> Iterator[None]:
        """Rollups of rollups: `name` with each key of `widths`, the finest first."""
        names = [f"{name}_{short}" for short in widths]
        for number, width in enumerate(widths.values()):
            if number == 0:
                self.create_rollup(names[0], source, width)
            else:
                self.create_child(names[number], names[number - 1], width)
        try:
            yield
        finally:
            for each in reversed(names):
                self.drop_rollup(each)

    def create_rollup(self, name: str, source: str, width: str) -> None:
        self.session.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval,"
            " dimensions => '{device}')",
            source,
            name,
            width,
        )

    def create_child(self, name: str, parent: str, width: str) -> None:
        """A rollup of a rollup."""
        self.create_rollup(name, f"silver.{parent}", width)

    def drop_rollup(self, name: str) -> None:
        self.session.execute("SELECT silver.drop_rollup(%s)", name)

    def refresh(self, name: str, until: datetime | None = None) -> None:
        """Store all buckets before `until`, else the end of the readings; each batch committed."""
        self.run_rollups(self.session, name, (until or self.end) + SETTLE)
        failure = self.session.value(
            "SELECT error_message FROM silver.error_log WHERE target_table = %s LIMIT 1",
            f"silver.{name}",
        )
        if failure:
            raise RuntimeError(failure)

    def refresh_part(self, name: str, start: datetime, end: datetime) -> None:
        self.session.execute("SELECT silver.refresh_rollup(%s, %s, %s)", name, start, end)

    def refreshes(self) -> Mapping[str, Callable[[str], None]]:
        """The ways to refresh one rollup, with what tells them apart."""
        return {"": self.refresh}

    @contextmanager
    def whole_buckets(self) -> Iterator[None]:
        """A late row costs its bucket, not its group, meanwhile."""
        most = "rollup_engine.most_keyed_buckets()"
        known = self.session.value(f"SELECT pg_get_functiondef('{most}'::regprocedure)")
        self.session.execute(
            f"CREATE OR REPLACE FUNCTION {most} RETURNS integer"
            " LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 0"
        )
        try:
            yield
        finally:
            self.session.execute(known)

    def longest_wait(self) -> str | None:
        """What asks for how many seconds the oldest change waits, where somebody knows."""
        return (
            "SELECT coalesce(extract(epoch FROM max(clock_timestamp() - stale_since)), 0)::float8"
            " FROM silver.timeseries_operations_monitor"
        )

    @staticmethod
    def run_rollups(session: Session, name: str | None, as_of: datetime) -> None:
        session.execute("CALL silver.run_rollups(%s, '1 hour', %s)", name, as_of)

    def live(self, name: str) -> str:
        """What people read."""
        return f"gold.{name}"

    def stored(self, name: str) -> str:
        """The table with the stored rows of a rollup."""
        return f"silver.{name}"

    @staticmethod
    def grouped(table: str, condition: str = "", width: str = "1 minute") -> str:
        """The bare GROUP BY that a rollup stands for."""
        return (
            f"SELECT date_bin('{width}', ts, '2000-01-03 00:00:00+00') AS bucket, device,"
            " count(*) AS row_count, count(temp) AS temp_count, sum(temp) AS temp_sum,"
            f" min(temp) AS temp_min, max(temp) AS temp_max FROM {table} {condition} GROUP BY 1, 2"
        )

    def compare(self, live: str, bare: str) -> str:
        """Whether two queries of such columns give the same rows, in one snapshot."""
        columns = "bucket, device, row_count, temp_count, temp_sum, temp_min, temp_max"
        count = self.session.value(
            f"WITH live AS (SELECT {columns} FROM ({live}) AS l),"
            f" bare AS (SELECT {columns} FROM ({bare}) AS b)"
            " SELECT count(DISTINCT (bucket, device)) FROM ((TABLE live EXCEPT ALL TABLE bare)"
            " UNION ALL (TABLE bare EXCEPT ALL TABLE live)) AS d"
        )
        return f"{count:,} rows DIFFER" if count else "equal"

    def judge(self, benchmark: str, state: str, name: str, source: str) -> Note:
        """Whether all of a live view of minutes is right."""
        answer = self.compare(f"TABLE {self.live(name)}", self.grouped(source))
        return Note(benchmark, f"live view and GROUP BY {state}", answer)


@contextmanager
def open_workbench(kind: type[Workbench], server_url: str, sizes: Sizes) -> Iterator[Workbench]:
    name = f"tsrollup_bench_{secrets.token_hex(4)}"
    with connect(server_url) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = make_conninfo(server_url, dbname=name)
            bench = kind(url, sizes)
            bench.prepare()
            try:
                yield bench
            finally:
                bench.session.connection.close()
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
