"""What a live read costs: against the same read of the table, and with much that is stale."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from benchmarks.measure import Result, Sample, in_turn
from benchmarks.workbench import START, Workbench, create_partitioned

HIERARCHY_DAYS = 200


def live_reads(bench: Workbench) -> Iterator[Result]:
    """Rows, and aggregates over days of rows, with more and more that is stale."""
    bench.readings()
    with bench.rollup("readings_1m", "raw.readings", "1 minute"):
        bench.refresh("readings_1m")
        bench.session.execute("VACUUM (ANALYZE) silver.readings_1m")
        for state, touched in {
            "nothing stale": [],
            "an open bucket stale": [bench.end - timedelta(seconds=10)],
            "60 stale buckets over all days": [
                START + n * timedelta(days=bench.days) / 59 for n in range(59)
            ],
        }.items():
            for time in touched:
                bench.session.execute("INSERT INTO raw.readings VALUES (%s, 1, 20)", time)
            yield from _compare_reads(bench, state)


def _compare_reads(bench: Workbench, state: str) -> Iterator[Result]:
    hour = f"bucket >= '{bench.end - timedelta(hours=1)}' AND bucket < '{bench.end}'"
    reads = {
        "6,000 rows": f"SELECT bucket, device, temp_min, temp_max, temp_sum FROM {{}} WHERE {hour}",
        "aggregate over days": "SELECT device, sum(row_count), max(temp_max) FROM {} GROUP BY device",
    }
    for what, read in reads.items():
        samples = in_turn(
            {
                "gold": lambda read=read: bench.session.fetched(read.format("gold.readings_1m")),
                "table": lambda read=read: bench.session.fetched(read.format("silver.readings_1m")),
            },
            4 * bench.rounds + 1,
            warm_up=2,
        )
        label = f"{what}, {state}: live / table"
        yield Result("live_reads", label, samples["gold"], samples["table"], limit=2)


def hierarchy(bench: Workbench) -> Iterator[Result]:
    """Planning and running a read of one hour, 200 partitions in the source and three levels."""
    session = bench.session
    create_partitioned(session, "raw.sparse", HIERARCHY_DAYS)
    end = START + timedelta(days=HIERARCHY_DAYS)
    session.execute(
        "INSERT INTO raw.sparse SELECT t, d, random() FROM generate_series(%s::timestamptz, %s, '5 minutes') AS t,"
        " generate_series(1, 5) AS d ORDER BY t",
        START,
        end - timedelta(seconds=10),
    )
    session.execute("VACUUM (ANALYZE) raw.sparse")
    names = ("sparse_1m", "sparse_1h", "sparse_1d")
    for name, source, width in zip(
        names,
        ("raw.sparse", "silver.sparse_1m", "silver.sparse_1h"),
        ("1 minute", "1 hour", "1 day"),
        strict=True,
    ):
        bench.create_rollup(name, source, width)
    session.execute("CALL silver.run_rollups(NULL, '1 hour', %s)", end)
    session.execute("VACUUM (ANALYZE)")
    yield from _hierarchy_reads(bench, "nothing stale", end)
    session.execute("INSERT INTO raw.sparse VALUES (%s, 1, 0)", end - timedelta(minutes=30))
    yield from _hierarchy_reads(bench, "that hour stale in all levels", end)
    for name in reversed(names):
        session.execute("SELECT silver.drop_rollup(%s)", name)
    session.execute("DROP TABLE raw.sparse")


def _hierarchy_reads(bench: Workbench, state: str, end: datetime) -> Iterator[Result]:
    hour = end - timedelta(hours=1)
    for level, start in {"1m": hour, "1h": hour, "1d": end - timedelta(days=1)}.items():
        read = f"SELECT * FROM gold.sparse_{level} WHERE bucket >= '{start}' AND bucket < '{end}'"
        warm = in_turn({"warm": _reader(bench, read)}, 5 * bench.rounds, warm_up=2)["warm"]
        cold = [_read_cold(bench, read) for _ in range(bench.rounds)]
        what = f"read of one {'day' if level == '1d' else 'hour'} of the {level} level, {state}"
        yield Result("hierarchy", f"{what}, ms", warm, limit=10)
        yield Result("hierarchy", f"{what}, new connection, ms", cold)


def _reader(bench: Workbench, read: str) -> Callable[[], Sample]:
    return lambda: bench.session.explained(read)


def _read_cold(bench: Workbench, read: str) -> Sample:
    session = bench.connect()
    try:
        return session.timed(lambda: session.execute(read).fetchall())
    finally:
        session.connection.close()


def much_stale(bench: Workbench) -> Iterator[Result]:
    """10 days of stale minutes: everything, one device, one hour, against the bare GROUP BY."""
    session = bench.session
    create_partitioned(session, "raw.backlog", 11)
    session.execute(
        "INSERT INTO raw.backlog SELECT t, d, random() FROM generate_series(%s::timestamptz, %s, '10 seconds') AS t,"
        " generate_series(1, 20) AS d ORDER BY t",
        START,
        START + timedelta(days=10, seconds=-10),
    )
    session.execute("VACUUM (ANALYZE) raw.backlog")
    grouped = (
        "(SELECT date_bin('1 minute', ts, '2000-01-03 00:00:00+00') AS bucket, device, count(*) AS row_count,"
        " count(temp) AS temp_count, sum(temp) AS temp_sum, min(temp) AS temp_min, max(temp) AS temp_max"
        " FROM raw.backlog {} GROUP BY 1, 2) AS g"
    )
    hour = (START + timedelta(days=3), START + timedelta(days=3, hours=1))
    with bench.rollup("backlog_1m", "raw.backlog", "1 minute"):
        for what, condition, bare_condition in (
            ("all of it", "", ""),
            ("one device", "WHERE device = 3", "WHERE device = 3"),
            (
                "one hour",
                f"WHERE bucket >= '{hour[0]}' AND bucket < '{hour[1]}'",
                f"WHERE ts >= '{hour[0]}' AND ts < '{hour[1]}'",
            ),
        ):
            live = f"SELECT * FROM gold.backlog_1m {condition}"
            bare = f"SELECT * FROM {grouped.format(bare_condition)}"
            samples = in_turn(
                {"live": _reader(bench, live), "bare": _reader(bench, bare)}, bench.rounds
            )
            label = f"{what} of 10 days of stale minutes: live / bare GROUP BY"
            yield Result("much_stale", label, samples["live"], samples["bare"])
            yield Result("much_stale", f"{what} of 10 days of stale minutes, ms", samples["live"])
    session.execute("DROP TABLE raw.backlog")


def long_log(bench: Workbench) -> Iterator[Result]:
    """100,000 log rows that no refresh has drained yet."""
    bench.readings()
    with bench.rollup("readings_1m", "raw.readings", "1 minute"):
        bench.refresh("readings_1m")
        source = bench.session.value("SELECT source_id FROM silver.rollup_config")
        bench.session.execute(
            "INSERT INTO rollup_engine.change_log (source_id, from_time, to_time)"
            " SELECT %s, t, t + interval '1 minute' FROM generate_series(1, 100000) AS n,"
            " date_bin('1 minute', %s::timestamptz - random() * interval '1 hour', %s) AS t",
            source,
            bench.end,
            START,
        )
        bench.session.execute("ANALYZE rollup_engine.change_log")
        hour = f"bucket >= '{bench.end - timedelta(hours=1)}' AND bucket < '{bench.end}'"
        samples = in_turn(
            {"live": _reader(bench, f"SELECT * FROM gold.readings_1m WHERE {hour}")},
            2 * bench.rounds,
            warm_up=1,
        )
    yield Result("long_log", "read of one hour over 100,000 log rows, ms", samples["live"])
