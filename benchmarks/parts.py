"""Live reads of a part, against the GROUP BY of that part, with much that is stale elsewhere."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg

from benchmarks.measure import Result, Sample, Steps, in_turn, median
from benchmarks.reading import planner
from benchmarks.workbench import START, Workbench

LEVELS = {"1m": "1 minute", "10m": "10 minutes", "1h": "1 hour"}
TIMEOUT = 20  # seconds, after which a read is cancelled


def six_hours(bench: Workbench) -> Steps:
    """Two million rows and three levels: before the first fill, and when old days are stale."""
    days = bench.sizes.history
    stale = 4 * days // 5
    end, old = START + timedelta(days=days), START + timedelta(days=stale)
    middle = START + timedelta(days=stale // 2)
    bench.create_table("raw.history", days)
    bench.fill("raw.history", START, end, "100 seconds", max(1, 8 * bench.sizes.devices // 10))
    with bench.levels("history", "raw.history", LEVELS):
        yield from _of_levels(bench, "six hours before the first fill", end)
        for level in LEVELS:
            bench.refresh_part(f"history_{level}", old, end)
        yield from _of_levels(bench, "six hours not yet filled, later ones are", old)
        for level in LEVELS:
            bench.refresh(f"history_{level}", end)
            bench.session.execute(f"VACUUM (ANALYZE) {bench.stored(f'history_{level}')}")
        bench.session.execute(
            "INSERT INTO raw.history SELECT t, 1, 20"
            " FROM generate_series(%s::timestamptz, %s, interval '1 minute') AS t",
            START,
            old,
        )
        yield from _of_levels(bench, f"six hours beside {stale} stale old days", end)
        yield from _of_levels(bench, f"six hours in {stale} stale old days", middle)
    bench.session.execute("DROP TABLE raw.history")


def _of_levels(bench: Workbench, what: str, end: datetime) -> Steps:
    start = end - timedelta(hours=6)
    for level, width in LEVELS.items():
        live = bench.live(f"history_{level}")
        yield from _part(
            bench,
            "six_hours",
            f"{what}, level of {width}",
            f"SELECT * FROM {live} WHERE bucket >= '{start}' AND bucket < '{end}'",
            bench.grouped("raw.history", f"WHERE ts >= '{start}' AND ts < '{end}'", width),
            limit=3,
            limit_ms=10,
        )


def scattered(bench: Workbench) -> Steps:
    """40 late rows over a small table, which three levels then answer for."""
    days = bench.sizes.history
    end = START + timedelta(days=days)
    bench.create_table("raw.few", days)
    bench.fill("raw.few", START, end, "10 minutes", 1)
    with bench.levels("few", "raw.few", LEVELS):
        for level in LEVELS:
            bench.refresh(f"few_{level}", end)
        bench.session.execute("VACUUM (ANALYZE)")
        for number in range(40):
            late = START + (number + 0.5) * (end - START) / 40
            bench.session.execute("INSERT INTO raw.few VALUES (%s, 1, 20)", late)
        for level, width in LEVELS.items():
            what = f"all of {144 * days:,} rows, 40 late ones, level of {width}"
            live = f"SELECT * FROM {bench.live(f'few_{level}')}"
            bare = bench.grouped("raw.few", width=width)
            yield from _part(bench, "scattered", what, live, bare, limit=2, limit_ms=10)
    bench.session.execute("DROP TABLE raw.few")


def one_device(bench: Workbench) -> Steps:
    """One of many devices, by the index (device, ts): six hours, of which the last is stale."""
    days, fleet = bench.sizes.partitions, bench.sizes.fleet
    end = START + timedelta(days=days)
    start = end - timedelta(hours=6)
    bench.create_table("raw.fleet", days)
    bench.session.execute("CREATE INDEX ON raw.fleet (device, ts)")
    bench.fill("raw.fleet", START, end - timedelta(hours=6), "12 hours", fleet // 10)
    bench.fill("raw.fleet", start, end - timedelta(hours=1), "10 seconds", fleet)
    with bench.levels("fleet", "raw.fleet", LEVELS):
        bench.create_rollup("fleet_alone", "raw.fleet", "1 hour")
        for name in ("fleet_alone", *(f"fleet_{level}" for level in LEVELS)):
            bench.refresh(name, end - timedelta(hours=1))
        bench.fill("raw.fleet", end - timedelta(hours=1), end, "10 seconds", fleet)
        bench.session.execute("VACUUM (ANALYZE)")
        for what, name in {"one level": "fleet_alone", "top of three levels": "fleet_1h"}.items():
            part = f"device = {fleet // 2} AND"
            yield from _part(
                bench,
                "one_device",
                f"one of {fleet:,} devices, six hours, the open hour stale, {what}",
                f"SELECT * FROM {bench.live(name)} WHERE {part} bucket >= '{start}'",
                bench.grouped("raw.fleet", f"WHERE {part} ts >= '{start}'", "1 hour"),
                limit_ms=3,
            )
        bench.drop_rollup("fleet_alone")
    bench.session.execute("DROP TABLE raw.fleet")


def open_day(bench: Workbench) -> Steps:
    """The open day of a daily rollup straight on raw, which has a rollup of minutes as well."""
    bench.readings()
    start = bench.end - timedelta(days=1)
    with bench.rollup("day_1m", "raw.readings"), bench.rollup("day_1d", "raw.readings", "1 day"):
        for name in ("day_1m", "day_1d"):
            bench.refresh(name, bench.end - timedelta(minutes=10))
        yield from _part(
            bench,
            "open_day",
            "the open day of days on raw",
            f"SELECT * FROM {bench.live('day_1d')} WHERE bucket >= '{start}'",
            bench.grouped("raw.readings", f"WHERE ts >= '{start}'", "1 day"),
            limit=0.5,
        )


def sparse_seconds(bench: Workbench) -> Steps:
    """Buckets of a second over years with a row every three days."""
    rows = 20 * bench.sizes.history
    # Of the past: partitions of time to come are as wide as those that pg_partman makes ahead.
    start = START - timedelta(days=3 * rows)
    bench.create_table("raw.rare", 3 * rows, start, chunk=30)
    bench.fill("raw.rare", start, START, "3 days", 1)
    live, bare = (
        f"SELECT * FROM {bench.live('rare_1s')}",
        bench.grouped("raw.rare", width="1 second"),
    )

    def read(state: str) -> Steps:
        what = f"seconds of {rows:,} rows over {3 * rows:,} days, {state}"
        yield from _part(bench, "sparse_seconds", what, live, bare, limit=2, limit_ms=10)

    with bench.rollup("rare_1s", "raw.rare", "1 second"):
        yield from read("nothing stored")
        bench.session.execute(f"SET statement_timeout = '{TIMEOUT}s'")
        fill = _bounded(lambda: bench.session.timed(lambda: bench.refresh("rare_1s", START)))
        yield Result("sparse_seconds", f"storing {rows:,} of them, ms", [fill()], limit=10_000)
        bench.session.execute("RESET statement_timeout")
        yield from read("afterwards")
    bench.session.execute("DROP TABLE raw.rare")


def much_stale(bench: Workbench) -> Steps:
    """2,000 stale minutes that nothing has stored yet, and many more."""
    days = 1 + bench.sizes.history // 3
    for minutes, limit in ((2_000, 2), (480 * bench.sizes.history, 10)):
        end = START + timedelta(minutes=minutes)
        hour = end - timedelta(hours=1)
        bench.create_table("raw.backlog", days)
        bench.fill("raw.backlog", START, end, "1 minute", 10)
        with bench.rollup("backlog_1m", "raw.backlog"):
            for what, live, bare, allowed in (
                ("all", "", "", limit),
                ("one device", "WHERE device = 3", "WHERE device = 3", limit),
                ("one hour", f"WHERE bucket >= '{hour}'", f"WHERE ts >= '{hour}'", 3),
            ):
                yield from _part(
                    bench,
                    "much_stale",
                    f"{what} of {minutes:,} stale minutes",
                    f"SELECT * FROM {bench.live('backlog_1m')} {live}",
                    bench.grouped("raw.backlog", bare),
                    limit=allowed,
                    limit_ms=10,
                )
        bench.session.execute("DROP TABLE raw.backlog")


def long_log(bench: Workbench) -> Steps:
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
        read = planner(bench, f"SELECT * FROM gold.readings_1m WHERE {hour}")
        samples = yield from in_turn({"live": read}, 2 * bench.rounds, warm_up=1)
    yield Result("long_log", "one hour under 100,000 log rows, ms", samples["live"])


def _part(
    bench: Workbench,
    benchmark: str,
    what: str,
    live: str,
    bare: str,
    limit: float | None = None,
    limit_ms: float | None = None,
) -> Steps:
    """The ratio of a live read to its GROUP BY, and whether they are equal."""
    bench.session.execute(f"SET statement_timeout = '{TIMEOUT}s'")
    sides = {"live": _bounded(planner(bench, live)), "bare": _bounded(planner(bench, bare))}
    samples = yield from in_turn(sides, 2 * bench.rounds, warm_up=1, budget=10)
    bench.session.execute("RESET statement_timeout")
    answer = bench.compare(live, bare) if median(samples["live"]) < TIMEOUT else "cancelled"
    yield Result(
        benchmark,
        f"{what}: live / GROUP BY",
        samples["live"],
        samples["bare"],
        limit,
        limit_ms,
        answer=answer,
    )


def _bounded(work: Callable[[], Sample]) -> Callable[[], Sample]:
    """What is cancelled counts as long as it ran."""

    def bounded() -> Sample:
        started = time.perf_counter()
        try:
            return work()
        except psycopg.errors.QueryCanceled:
            return Sample(time.perf_counter() - started)

    return bounded
