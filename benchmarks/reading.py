"""What a live read of a filled rollup costs, against the same read of its table."""

from collections.abc import Callable
from datetime import datetime, timedelta

from benchmarks.measure import Result, Sample, Steps, in_turn
from benchmarks.workbench import START, Workbench

LEVELS = {"1m": "1 minute", "1h": "1 hour", "1d": "1 day"}


def live_reads(bench: Workbench) -> Steps:
    """Rows, and aggregates over days of rows, with more and more that is stale."""
    bench.readings()
    scattered = [START + n * timedelta(days=bench.days) / 59 for n in range(59)]
    with bench.rollup("readings_1m", "raw.readings"):
        bench.refresh("readings_1m")
        bench.session.execute(f"VACUUM (ANALYZE) {bench.stored('readings_1m')}")
        for state, times, limits in (
            ("nothing stale", [], (1.15, 1.3)),
            ("an open bucket stale", [bench.end + timedelta(seconds=10)], (1.15, 1.3)),
            ("60 stale buckets over all days", scattered, (1.5, 1.5)),
        ):
            for time in times:
                bench.session.execute("INSERT INTO raw.readings VALUES (%s, 1, 20)", time)
            yield bench.judge("live_reads", f"with {state}", "readings_1m", "raw.readings")
            yield from _compare_reads(bench, state, limits)
    bench.session.execute("DELETE FROM raw.readings WHERE ts >= %s", bench.end)


def _compare_reads(bench: Workbench, state: str, limits: tuple[float, float]) -> Steps:
    hour = f"bucket >= '{bench.end - timedelta(hours=1)}' AND bucket <= '{bench.end}'"
    for what, read, limit in (
        (
            "an hour of rows",
            f"SELECT bucket, device, temp_min, temp_max, temp_sum FROM {{}} WHERE {hour}",
            limits[0],
        ),
        (
            "aggregate over days",
            "SELECT device, sum(row_count), max(temp_max) FROM {} GROUP BY 1",
            limits[1],
        ),
    ):
        live = read.format(bench.live("readings_1m"))
        stored = read.format(bench.stored("readings_1m"))
        samples = yield from in_turn(
            {"live": fetcher(bench, live), "table": fetcher(bench, stored)},
            4 * bench.rounds + 1,
            warm_up=2,
        )
        label = f"{what}, {state}: live / table"
        yield Result("live_reads", label, samples["live"], samples["table"], limit=limit)


def hierarchy(bench: Workbench) -> Steps:
    """Planning and running a read of one hour, many partitions in the source and three levels."""
    days = bench.sizes.partitions
    end = START + timedelta(days=days)
    bench.create_table("raw.sparse", days)
    bench.fill("raw.sparse", START, end, "5 minutes", 5)
    with bench.levels("sparse", "raw.sparse", LEVELS):
        for level in LEVELS:
            bench.refresh(f"sparse_{level}", end)
        bench.session.execute("VACUUM (ANALYZE)")
        yield from _hierarchy_reads(bench, "nothing stale", end)
        late = end - timedelta(minutes=30)
        bench.session.execute("INSERT INTO raw.sparse VALUES (%s, 1, 0)", late)
        yield from _hierarchy_reads(bench, "that hour stale in all levels", end)
    bench.session.execute("DROP TABLE raw.sparse")


def _hierarchy_reads(bench: Workbench, state: str, end: datetime) -> Steps:
    for level, length in {"1m": "hour", "1h": "hour", "1d": "day"}.items():
        start = end - timedelta(**{f"{length}s": 1})
        live = bench.live(f"sparse_{level}")
        read = f"SELECT * FROM {live} WHERE bucket >= '{start}' AND bucket < '{end}'"
        samples = yield from in_turn(
            {"warm": planner(bench, read), "cold": _cold_reader(bench, read)}, 2 * bench.rounds
        )
        hour = f"WHERE ts >= '{start}' AND ts < '{end}'"
        answer = bench.compare(read, bench.grouped("raw.sparse", hour, LEVELS[level]))
        what = f"one {length} of the {level} level, {state}"
        yield Result("hierarchy", f"{what}, ms", samples["warm"], limit=10, answer=answer)
        yield Result("hierarchy", f"{what}, first read of a new connection, ms", samples["cold"])


def _cold_reader(bench: Workbench, read: str) -> Callable[[], Sample]:
    def cold() -> Sample:
        session = bench.connect()
        try:
            return session.fetched(read)
        finally:
            session.connection.close()

    return cold


def many_dimensions(bench: Workbench) -> Steps:
    """A filter on two of four dimensions over all time: with the GIN index of the rule, without."""
    bench.session.execute(
        "CREATE TABLE raw.events (ts timestamptz NOT NULL, a text, b text, c text, d integer,"
        " value double precision)"
    )
    bench.session.execute(
        "INSERT INTO raw.events SELECT %s + n * interval '20 seconds',"
        " 'a' || n %% 19, 'b' || n %% 53, 'c' || n %% 31, n %% 97, n"
        " FROM generate_series(1, %s) AS n",
        START,
        1000 * bench.days * bench.sizes.devices,
    )
    bench.session.execute("CREATE INDEX ON raw.events (ts)")
    bench.session.execute("ANALYZE raw.events")
    bench.session.execute(
        "SELECT silver.create_rollup_table('raw.events', 'silver', 'events_1h', '1 hour',"
        " dimensions => '{a,b,c,d}')"
    )
    bench.refresh("events_1h", START + timedelta(days=bench.days * bench.sizes.devices))
    bench.session.execute("VACUUM (ANALYZE) silver.events_1h")
    without = bench.connect()
    without.execute("SET enable_bitmapscan = off")  # the only way to read a GIN index
    read = "SELECT count(*), sum(value_sum) FROM gold.events_1h WHERE a = 'a3' AND b = 'b7'"
    samples = yield from in_turn(
        {"gin": fetcher(bench, read), "none": lambda: without.fetched(read)},
        2 * bench.rounds + 1,
        warm_up=1,
    )
    without.connection.close()
    label = "two of four dimensions over all time: GIN index / without"
    yield Result("many_dimensions", label, samples["gin"], samples["none"])
    bench.drop_rollup("events_1h")
    bench.session.execute("DROP TABLE raw.events")


def fetcher(bench: Workbench, read: str) -> Callable[[], Sample]:
    return lambda: bench.session.fetched(read)


def planner(bench: Workbench, read: str) -> Callable[[], Sample]:
    return lambda: bench.session.explained(read)
