"""What capture costs a writer: large batches by COPY, single rows by pgbench."""

import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.measure import Note, Result, Sample, Steps, in_turn
from benchmarks.workbench import START, Workbench
from tsrollup import embedded
from tsrollup.errors import TsrollupError

WIDER = """
    ALTER TABLE {table} ADD site text, ADD ok boolean, ADD a float8, ADD b float8, ADD c float8,
        ADD d integer, ADD e integer;
    CREATE INDEX ON {table} (device, ts)
"""
WIDER_VALUES = "\tsite-7\tt\t1.25\t2.5\t3.75\t4\t5"
LATE_DAYS = 3
TIMES = {
    "at the tail": "clock_timestamp()",
    "behind it": "now() - :age * interval '1 second'",
}
# As times of an INSERT: 1.11 of the time is 0.9 of the throughput.
LIMITS = {
    "at the tail": {1: 1.11, 8: 1.11, 32: 1.18},
    "behind it": {1: 1.43, 8: 1.43, 32: 1.43},
}


def copy_batches(bench: Workbench) -> Steps:
    """COPY into two identical tables in turn, one of which has a rollup."""
    yield from _copies_of_old_rows(bench)
    yield from _copies_at_the_tail(bench)


def _copies_at_the_tail(bench: Workbench) -> Steps:
    rows = 10_000
    now = bench.session.value("SELECT now()")
    for table in ("raw.watched", "raw.plain"):
        bench.create_table(table, 3, now - timedelta(days=1))
        bench.session.execute(f"INSERT INTO {table} VALUES (now(), 1, 20)")
    with bench.rollup("watched_1m", "raw.watched"):
        for _ in range(3):  # by then it has the triggers that suit it
            bench.refresh("watched_1m", bench.session.value("SELECT now()"))
        watched = _Writer(bench, "raw.watched", rows, at_the_tail=True)
        plain = _Writer(bench, "raw.plain", rows, at_the_tail=True)
        turns = {"watched": watched.copy, "plain": plain.copy}
        samples = yield from in_turn(turns, 10 * bench.rounds, warm_up=5)
    bench.session.execute("DROP TABLE raw.watched")
    bench.session.execute("DROP TABLE raw.plain")
    yield Result(
        "copy_batches",
        f"COPY in batches of {rows:,} rows of 3 columns at the tail: with capture / without",
        samples["watched"],
        samples["plain"],
        limit=1.1,
    )


def _copies_of_old_rows(bench: Workbench) -> Steps:
    """Narrow and wider rows."""
    for rows, batches in ((1_000, 40 * bench.rounds), (10_000, 10 * bench.rounds)):
        for what, wider, more in (("3", "", ""), ("10", WIDER, WIDER_VALUES)):
            for table in ("raw.watched", "raw.plain"):
                bench.create_table(table, 15)
                if wider:
                    bench.session.execute(wider.format(table=table))
            with bench.rollup("watched_1m", "raw.watched"):
                watched = _Writer(bench, "raw.watched", rows, more)
                plain = _Writer(bench, "raw.plain", rows, more)
                turns = {"watched": watched.copy, "plain": plain.copy}
                samples = yield from in_turn(turns, batches, warm_up=5)
            bench.session.execute("DROP TABLE raw.watched")
            bench.session.execute("DROP TABLE raw.plain")
            yield Result(
                "copy_batches",
                f"COPY in batches of {rows:,} rows of {what} columns: with capture / without",
                samples["watched"],
                samples["plain"],
                limit=1.1,
            )


class _Writer:
    """Writes batches one after another in time, 100 devices every 10 seconds; or all of now."""

    def __init__(
        self,
        bench: Workbench,
        table: str,
        rows: int,
        more: str = "",
        *,
        start: datetime = START,
        at_the_tail: bool = False,
    ) -> None:
        self.session = bench.session
        self.start = start
        self.at_the_tail = at_the_tail
        self.table = table
        self.rows = rows
        self.more = more
        self.written = 0

    def copy(self) -> Sample:
        times = range(self.written // 100, (self.written + self.rows) // 100)
        start, step = self.start, timedelta(seconds=10)
        if self.at_the_tail:
            start, step = self.session.value("SELECT now()"), timedelta()
        payload = "".join(
            f"{start + t * step}\t{device}\t{20 + (t * device) % 97 / 10}{self.more}\n"
            for t in times
            for device in range(100)
        ).encode()
        self.written += self.rows
        return self.session.timed(lambda: self.session.copy(self.table, payload))


def single_rows(bench: Workbench) -> Steps:
    """Prepared INSERTs of one row each into two equal tables, one of which has a rollup."""
    pgbench = _find_pgbench()
    if pgbench is None:
        yield Note("single_rows", "single-row INSERTs", "not measured: no pgbench found")
        return
    _create_recent(bench, "raw.watched", "raw.plain")
    with bench.rollup("watched_1m", "raw.watched"):
        for where, clients in ((x, y) for x in LIMITS for y in LIMITS[x]):
            for _ in range(3):  # by then it has the triggers that suit it
                bench.refresh("watched_1m", bench.session.value("SELECT now()"))
            sides = {
                table: _client(bench, pgbench, f"raw.{table}", where, clients)
                for table in ("watched", "plain")
            }
            samples = yield from in_turn(sides, bench.rounds, budget=300)
            yield Result(
                "single_rows",
                f"time of an INSERT {where}, {clients} clients: with capture / without",
                samples["watched"],
                samples["plain"],
                limit=LIMITS[where][clients],
            )
    for table in ("raw.watched", "raw.plain"):
        bench.session.execute(f"DROP TABLE {table}")


def _create_recent(bench: Workbench, *tables: str) -> datetime:
    """Equal tables of the last days, and of the next one; from when on."""
    now = bench.session.value("SELECT now()")
    start: datetime = now.replace(hour=0, minute=0, second=0, microsecond=0)
    start -= timedelta(days=LATE_DAYS)
    for table in tables:
        bench.create_table(table, LATE_DAYS + 2, start)
        bench.fill(table, start, now, "1 minute", 1)
    return start


def keyed_writes(bench: Workbench) -> Steps:
    """Late rows, and rows of now, into two equal tables; the rollup of one has a key."""
    tables = {"keyed": "raw.keyed", "keyless": "raw.keyless"}
    start = _create_recent(bench, *tables.values())
    for name, table in tables.items():
        bench.session.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 minute', dimensions =>"
            " '{device}', key_dimension => %s)",
            table,
            f"{name}_1m",
            "device" if name == "keyed" else None,
        )
    for rows, batches in ((1_000, 40 * bench.rounds), (10_000, 10 * bench.rounds)):
        copies = {n: _Writer(bench, t, rows, start=start).copy for n, t in tables.items()}
        samples = yield from in_turn(copies, batches, warm_up=5)
        yield _of_a_key(f"COPY in batches of {rows:,} late rows", samples)
    for name in tables:
        for _ in range(3):  # by then they have the triggers that suit what is written at the tail
            bench.refresh(f"{name}_1m", bench.session.value("SELECT now()"))
    for where in TIMES:
        inserts = {n: _inserts(bench, t, where == "behind it") for n, t in tables.items()}
        samples = yield from in_turn(inserts, 10 * bench.rounds, warm_up=2)
        yield _of_a_key(f"INSERTs of a row {where}", samples)
    for name, table in tables.items():
        bench.drop_rollup(f"{name}_1m")
        bench.session.execute(f"DROP TABLE {table}")


def _of_a_key(what: str, samples: Mapping[str, Sequence[Sample]]) -> Result:
    return Result(
        "keyed_writes", f"{what}: with a key / without", samples["keyed"], samples["keyless"]
    )


def _inserts(bench: Workbench, table: str, is_late: bool) -> Callable[[], Sample]:
    """A hundred of them, one by one."""

    def run() -> Sample:
        written = [(random.randint(3600, 172800) * is_late, i + 1) for i in range(100)]
        insert = f"INSERT INTO {table} VALUES (now() - %s * interval '1 second', %s, 20)"
        return bench.session.timed(lambda: [bench.session.execute(insert, *row) for row in written])

    return run


def _client(
    bench: Workbench, pgbench: str, table: str, where: str, clients: int
) -> Callable[[], Sample]:
    password = conninfo_to_dict(bench.url).get("password") or ""
    environment = {**os.environ, "PGPASSWORD": str(password)}
    script = (
        "\\set device random(1, 100)\n\\set age random(3600, 172800)\n"
        f"INSERT INTO {table} VALUES ({TIMES[where]}, :device, 20);\n"
    )
    options = f"-n -M prepared -c {clients} -j {min(clients, 2)} -T {bench.sizes.seconds}"

    def run() -> Sample:
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(script)
            file.flush()
            done = subprocess.run(
                [
                    pgbench,
                    *options.split(),
                    "-f",
                    file.name,
                    make_conninfo(bench.url, password=None),
                ],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        found = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
        if done.returncode or found is None:
            raise RuntimeError(done.stderr)
        return Sample(1 / float(found[1]))

    return run


def _find_pgbench() -> str | None:
    """On the path, where Debian keeps it, or beside the embedded server."""
    places = [os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    with suppress(TsrollupError):
        places.append(str(embedded.bindir()))
    return shutil.which("pgbench", path=os.pathsep.join(places))
