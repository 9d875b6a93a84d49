"""What a live read costs: against the same read of the table, and with much that is stale."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from benchmarks.measure import Result, Sample, in_turn
from benchmarks.workbench import START, Workbench

HIERARCHY_DAYS = 200
BACKLOG_DAYS = 10


def live_reads(bench: Workbench) -> Iterator[Result]:
    """Rows, and aggregates over days of rows, with more and more that is stale."""
    bench.readings()
    with bench.rollup("readings_1m", "raw.readings"):
        bench.refresh("readings_1m")
        bench.session.execute(f"VACUUM (ANALYZE) {bench.stored('readings_1m')}")
        scattered = [START + n * timedelta(days=bench.days) / 59 for n in range(59)]
        for state, touched in {
            "nothing stale": [],
            "an open bucket stale": [bench.end - timedelta(seconds=10)],
            "60 stale buckets over all days": scattered,
        }.items():
            for time in touched:
                bench.session.execute("INSERT INTO raw.readings VALUES (%s, 1, 20)", time)
            yield from _compare_reads(bench, state)


def _compare_reads(bench: Workbench, state: str) -> Iterator[Result]:
    hour = f"bucket >= '{bench.end - timedelta(hours=1)}' AND bucket < '{bench.end}'"
    for what, read in {
        "6,000 rows": f"SELECT bucket, device, temp_min, temp_max, temp_sum FROM {{}} WHERE {hour}",
        "aggregate over days": "SELECT device, sum(row_count), max(temp_max) FROM {} GROUP BY 1",
    }.items():
        live = read.format(bench.live("readings_1m"))
        stored = read.format(bench.stored("readings_1m"))
        samples = in_turn(
            {"live": _fetcher(bench, live), "table": _fetcher(bench, stored)},
            4 * bench.rounds + 1,
            warm_up=2,
        )
        label = f"{what}, {state}: live / table"
        yield Result("live_reads", label, samples["live"], samples["table"], limit=2)


def hierarchy(bench: Workbench) -> Iterator[Result]:
    """Planning and running a read of one hour, 200 partitions in the source and three levels."""
    bench.create_table("raw.sparse", HIERARCHY_DAYS)
    bench.fill("raw.sparse", HIERARCHY_DAYS, "5 minutes", 5)
    end = START + timedelta(days=HIERARCHY_DAYS)
    bench.create_rollup("sparse_1m", "raw.sparse", "1 minute")
    bench.create_rollup("sparse_1h", "silver.sparse_1m", "1 hour")
    bench.create_rollup("sparse_1d", "silver.sparse_1h", "1 day")
    bench.refresh(None, end)
    bench.session.execute("VACUUM (ANALYZE)")
    yield from _hierarchy_reads(bench, "nothing stale", end)
    bench.session.execute("INSERT INTO raw.sparse VALUES (%s, 1, 0)", end - timedelta(minutes=30))
    yield from _hierarchy_reads(bench, "that hour stale in all levels", end)
    for name in ("sparse_1d", "sparse_1h", "sparse_1m"):
        bench.drop_rollup(name)
    bench.session.execute("DROP TABLE raw.sparse")


def _hierarchy_reads(bench: Workbench, state: str, end: datetime) -> Iterator[Result]:
    for level, length in {"1m": "hour", "1h": "hour", "1d": "day"}.items():
        start = end - timedelta(**{f"{length}s": 1})
        read = f"SELECT * FROM gold.sparse_{level} WHERE bucket >= '{start}' AND bucket < '{end}'"
        warm = in_turn({"warm": _planner(bench, read)}, 5 * bench.rounds, warm_up=2)["warm"]
        cold = [_read_cold(bench, read) for _ in range(bench.rounds)]
        what = f"one {length} of the {level} level, {state}"
        yield Result("hierarchy", f"{what}, ms", warm, limit=10)
        yield Result("hierarchy", f"{what}, first read of a new connection, ms", cold)


def _read_cold(bench: Workbench, read: str) -> Sample:
    session = bench.connect()
    try:
        return session.fetched(read)
    finally:
        session.connection.close()


def much_stale(bench: Workbench) -> Iterator[Result]:
    """10 days of stale minutes: all of it, one device, one hour; against the bare GROUP BY."""
    bench.create_table("raw.backlog", BACKLOG_DAYS)
    bench.fill("raw.backlog", BACKLOG_DAYS, "10 seconds", 20)
    start = START + timedelta(days=3)
    end = start + timedelta(hours=1)
    with bench.rollup("backlog_1m", "raw.backlog"):
        for what, live, bare in (
            ("all", "", ""),
            ("one device", "WHERE device = 3", "WHERE device = 3"),
            (
                "one hour",
                f"WHERE bucket >= '{start}' AND bucket < '{end}'",
                f"WHERE ts >= '{start}' AND ts < '{end}'",
            ),
        ):
            samples = in_turn(
                {
                    "live": _planner(bench, f"SELECT * FROM gold.backlog_1m {live}"),
                    "bare": _planner(bench, bench.grouped("raw.backlog", bare)),
                },
                bench.rounds,
            )
            label = f"{what} of 10 days of stale minutes: live / bare GROUP BY"
            yield Result("much_stale", label, samples["live"], samples["bare"])
    bench.session.execute("DROP TABLE raw.backlog")


def long_log(bench: Workbench) -> Iterator[Result]:
    """100,000 log rows that no refresh has drained yet."""
    bench.readings()
    with bench.rollup("readings_1m", "raw.readings"):
        bench.refresh("readings_1m")
        bench.session.execute(
            "INSERT INTO rollup_engine.change_log (source_id, from_time, to_time)"
            " SELECT c.source_id, t, t + interval '1 minute'"
            " FROM silver.rollup_config AS c, generate_series(1, 100000) AS n,"
            " date_bin('1 minute', %s::timestamptz - random() * interval '1 hour', %s) AS t",
            bench.end,
            START,
        )
        bench.session.execute("ANALYZE rollup_engine.change_log")
        hour = f"bucket >= '{bench.end - timedelta(hours=1)}' AND bucket < '{bench.end}'"
        read = _planner(bench, f"SELECT * FROM gold.readings_1m WHERE {hour}")
        samples = in_turn({"live": read}, 2 * bench.rounds, warm_up=1)
    yield Result("long_log", "one hour under 100,000 log rows, ms", samples["live"])


def many_dimensions(bench: Workbench) -> Iterator[Result]:
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
        1000 * bench.days * bench.devices,
    )
    bench.session.execute("CREATE INDEX ON raw.events (ts)")
    bench.session.execute("ANALYZE raw.events")
    bench.session.execute(
        "SELECT silver.create_rollup_table('raw.events', 'silver', 'events_1h', '1 hour',"
        " dimensions => '{a,b,c,d}')"
    )
    bench.refresh("events_1h", START + timedelta(days=bench.days * bench.devices))
    bench.session.execute("VACUUM (ANALYZE) silver.events_1h")
    without = bench.connect()
    without.execute("SET enable_bitmapscan = off")  # the only way to read a GIN index
    read = "SELECT count(*), sum(value_sum) FROM gold.events_1h WHERE a = 'a3' AND b = 'b7'"
    samples = in_turn(
        {"gin": _fetcher(bench, read), "none": lambda: without.fetched(read)},
        2 * bench.rounds + 1,
        warm_up=1,
    )
    without.connection.close()
    label = "two of four dimensions over all time: GIN index / without"
    yield Result("many_dimensions", label, samples["gin"], samples["none"])
    bench.drop_rollup("events_1h")
    bench.session.execute("DROP TABLE raw.events")


def _fetcher(bench: Workbench, read: str) -> Callable[[], Sample]:
    return lambda: bench.session.fetched(read)


def _planner(bench: Workbench, read: str) -> Callable[[], Sample]:
    return lambda: bench.session.explained(read)
