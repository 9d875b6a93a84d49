"""How far one machine goes: what a fleet's rows cost, from their COPY to three levels of rollups.

Simulated time: a minute's rows are written, then everything that is due by then is stored, as a
worker would; the more devices, the more work a minute. docs/scaling.md reckons with the figures.
"""

import os
import random
import statistics
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from benchmarks.measure import Finding, Result, Sample, Session, Steps, in_turn
from benchmarks.reading import planner
from benchmarks.workbench import START, Workbench

FLEET = "raw.sized"
MINUTE = timedelta(minutes=1)
WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
PROC = Path("/proc")
WIDTHS = {"1m": "1 minute", "1h": "1 hour", "1d": "1 day"}


def capacity(bench: Workbench) -> Steps:
    """Fleets with a row each 10 s of a device, of which one in a hundred is late by up to a day."""
    large = bench.sizes.fleet
    small = max(1, large // 10)
    of_small = yield from _fleet(bench, small)
    of_large = yield from _fleet(bench, large)
    # A straight line through both: what a minute costs anyhow, and what each row adds.
    row = (of_large.storing - of_small.storing) / (6 * (large - small))
    run = of_small.storing - 6 * small * row
    for what, seconds in (
        ("writing a row by COPY, with capture", of_large.writing / (6 * large)),
        ("storing it in minutes, hours and days", row),
        ("both, with all that the server does besides", of_large.server / (6 * large)),
        ("each minute of three levels, whatever its rows", run),
    ):
        yield Result("capacity", f"{what}, CPU", [Sample(1000 * seconds)], unit="us")
    wal = Sample(of_large.wal / (6 * large) / 1000)
    yield Result("capacity", "WAL of a row and of storing it", [wal], unit="bytes")
    yield from _planning(bench)


@dataclass(frozen=True)
class Minute:
    """What an average minute costs, in seconds of CPU: of the session, and of all of the server;
    and bytes of WAL."""

    writing: float
    storing: float
    server: float
    wal: float


def _fleet(bench: Workbench, devices: int) -> Generator[Finding | None, None, Minute]:
    session, minutes = bench.session, bench.sizes.minutes
    bench.create_table(FLEET, 3 + minutes // 1440)
    session.execute(f"CREATE INDEX ON {FLEET} (device, ts)")
    now = START + timedelta(days=1)
    writing: list[Sample] = []
    storing: list[Sample] = []
    before, wal = _server_cpu(session), session.value(WAL)
    with bench.levels("sized", FLEET, WIDTHS):
        for payload in _minutes(devices, now, minutes):
            now += MINUTE
            writing.append(session.timed(partial(session.copy, FLEET, payload)))
            storing.append(session.timed(partial(bench.run_rollups, session, None, now)))
            yield None
        server = (_server_cpu(session) - before) / minutes
        wal = float(session.value(WAL) - wal) / minutes
        yield bench.judge("capacity", f"of {devices} devices", "sized_1m", FLEET)
        if devices == bench.sizes.fleet:
            yield from _sizes(bench)
    session.execute(f"DROP TABLE {FLEET}")
    return Minute(_average(writing), _average(storing), server, wal)


def _server_cpu(session: Session) -> float:
    """Seconds of CPU of a server on this machine by now, those of processes that have ended among
    them; of one elsewhere 0."""
    known = {int(path.name): _process(path) for path in PROC.glob("[0-9]*")}
    backend = known.get(session.connection.info.backend_pid)
    postmaster = known.get(backend.parent) if backend else None
    if backend is None or postmaster is None:
        return 0
    return postmaster.ended + sum(x.cpu for x in known.values() if x and x.parent == backend.parent)


@dataclass(frozen=True)
class Process:
    """Its parent; seconds of CPU of its own, and of children that have ended."""

    parent: int
    cpu: float
    ended: float


def _process(path: Path) -> Process | None:
    try:
        fields = (path / "stat").read_text().rpartition(")")[2].split()
        own = int((path / "schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return None  # it has ended itself
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return Process(int(fields[1]), own, ended)


def _average(samples: list[Sample]) -> float:
    return statistics.mean(x.wall if x.cpu is None else x.cpu for x in samples)


def _minutes(devices: int, start: datetime, count: int) -> Iterator[bytes]:
    """What comes in each minute, as text for COPY."""
    chance = random.Random(1)
    for minute in range(count):
        lines = []
        for second in range(0, 60, 10):
            time = start + minute * MINUTE + timedelta(seconds=second)
            for device in range(devices):
                is_late = chance.random() < 0.01
                at = time - timedelta(seconds=chance.randrange(86_400) if is_late else 0)
                lines.append(f"{at.isoformat()}\t{device}\t{chance.randrange(320) / 8}\n")
        yield "".join(lines).encode()


def _sizes(bench: Workbench) -> Iterator[Result]:
    for what, table in (("raw", FLEET), *((x, bench.stored(f"sized_{x}")) for x in WIDTHS)):
        size = bench.session.value(
            "SELECT sum(pg_total_relation_size(relid))"
            f" / nullif((SELECT count(*) FROM {table}), 0)::float8"
            " FROM pg_partition_tree(%s::regclass)",
            table,
        )
        if size:
            each = Sample(float(size) / 1000)
            yield Result("capacity", f"a row of {what}, with its indexes", [each], unit="bytes")


def _planning(bench: Workbench) -> Steps:
    """An hour of a live view over so many partitions."""
    for count in (bench.sizes.partitions, 5 * bench.sizes.partitions):
        bench.create_table("raw.parts", count)
        with bench.rollup("parts_1m", "raw.parts"):
            end = START + timedelta(days=count)
            bench.fill("raw.parts", START, end, "1 day", 5)
            bench.refresh("parts_1m", end)
            read = (
                f"SELECT * FROM {bench.live('parts_1m')} WHERE bucket >= '{START}'"
                f" AND bucket < '{START + timedelta(hours=1)}'"
            )
            samples = yield from in_turn({"read": planner(bench, read)}, 2 * bench.rounds)
        what = f"an hour of a live view, {count} partitions in the source"
        yield Result("capacity", what, samples["read"])
        bench.session.execute("DROP TABLE raw.parts")
