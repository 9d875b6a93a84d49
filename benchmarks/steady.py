"""What grows while a database runs: rollups with nothing to do, dead rows under a snapshot."""

from collections.abc import Callable, Generator
from datetime import datetime, timedelta

from benchmarks.measure import Result, Sample, Steps, in_turn
from benchmarks.reading import fetcher
from benchmarks.workbench import SETTLE, START, Workbench

DRAIN_EVERY = 1_000


def nothing_to_do(bench: Workbench) -> Steps:
    """Many rollups, none of them stale: a run, the monitor, and creating one more."""
    count = bench.sizes.rollups
    rollups = [
        (f"raw.idle_{n // 3}", f"idle_{n}", ("1 minute", "1 hour", "1 day")[n % 3])
        for n in range(count)
    ]
    created = []
    for source, name, width in rollups:
        if width == "1 minute":
            bench.session.execute(f"CREATE TABLE {source} (ts timestamptz, device int, temp float)")
            bench.session.execute(f"CREATE INDEX ON {source} (ts)")
            bench.session.execute(f"INSERT INTO {source} VALUES (%s, 1, 20)", START)
        created.append(bench.session.timed(_creation(bench, name, source, width)))
    end = START + timedelta(days=1)
    bench.run_rollups(bench.session, None, end + SETTLE)
    run = "CALL silver.run_rollups()"
    monitor = "SELECT * FROM silver.timeseries_operations_monitor"
    samples = yield from in_turn(
        {
            "run": lambda: bench.session.timed(lambda: bench.session.execute(run)),
            "monitor": fetcher(bench, monitor),
        },
        3 * bench.rounds,
        warm_up=1,
        budget=20,
    )
    of = f"{count} rollups with nothing to do"
    ten = min(10, count // 2)
    limit = 20 if count <= 300 else 60
    yield Result("nothing_to_do", f"run_rollups(), {of}, ms", samples["run"], limit=limit)
    yield Result("nothing_to_do", f"monitor, {of}, ms", samples["monitor"], limit=500)
    yield Result(
        "nothing_to_do",
        f"creating the last {ten} of {count} rollups / those after the first {ten}",
        created[-ten:],
        created[ten : 2 * ten],
        limit=1.1,
    )
    for _, name, _ in rollups:
        bench.drop_rollup(name)
    for source in {source for source, _, _ in rollups}:
        bench.session.execute(f"DROP TABLE {source}")


def _creation(bench: Workbench, name: str, source: str, width: str) -> Callable[[], None]:
    return lambda: bench.create_rollup(name, source, width)


def long_snapshot(bench: Workbench) -> Steps:
    """A small read before and after many statements and drains, under one old snapshot."""
    count = bench.sizes.statements
    begin = START + timedelta(hours=1)
    bench.create_table("raw.ticks", 2 + count // 86_400)
    bench.session.execute(
        "INSERT INTO raw.ticks SELECT t, 1, 20"
        " FROM generate_series(%s, %s::timestamptz, interval '1 second') AS t",
        START,
        begin - timedelta(seconds=1),
    )
    with bench.rollup("ticks_1m", "raw.ticks"):
        bench.refresh("ticks_1m", begin)
        bench.session.execute("VACUUM (ANALYZE)")
        before = yield from _newest(bench, begin)
        holder = bench.connect()
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM raw.ticks")
        writer = bench.connect()
        writer.execute("SET synchronous_commit = off")
        for number in range(count):
            tick = begin + timedelta(seconds=number)
            writer.execute("INSERT INTO raw.ticks VALUES (%s, 1, 20)", tick)
            if number % DRAIN_EVERY == DRAIN_EVERY - 1:
                bench.refresh("ticks_1m", tick)
                yield None
        after = yield from _newest(bench, begin + timedelta(seconds=count))
        for session in (holder, writer):
            session.connection.close()
    bench.session.execute("DROP TABLE raw.ticks")
    what = f"ten minutes after {count:,} statements under an old snapshot / before"
    yield Result("long_snapshot", what, after, before, limit=2)


def _newest(bench: Workbench, end: datetime) -> Generator[None, None, list[Sample]]:
    live = bench.live("ticks_1m")
    read = f"SELECT * FROM {live} WHERE bucket >= '{end - timedelta(minutes=10)}'"
    samples = yield from in_turn({"live": fetcher(bench, read)}, 5 * bench.rounds, warm_up=2)
    return samples["live"]
