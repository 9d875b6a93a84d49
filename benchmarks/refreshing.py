"""What a refresh costs: the first one, scattered late rows, one late row."""

import random
from collections.abc import Iterator
from datetime import timedelta

from benchmarks.measure import Result, Sample, in_turn
from benchmarks.workbench import START, Workbench


def first_refresh(bench: Workbench) -> Iterator[Result]:
    """All of the data into a one-minute rollup."""
    bench.readings()

    def refresh() -> Sample:
        with bench.rollup("readings_1m", "raw.readings"):
            return bench.session.timed(lambda: bench.refresh("readings_1m"))

    bare = bench.grouped("raw.readings")
    samples = in_turn(
        {"refresh": refresh, "bare": lambda: bench.session.explained(bare)}, bench.rounds
    )
    what = "first refresh / bare GROUP BY"
    yield Result("first_refresh", what, samples["refresh"], samples["bare"], limit=4, aim=2)


def late_rows(bench: Workbench) -> Iterator[Result]:
    """1,000 late rows scattered over all days, written by one statement."""
    bench.readings()
    session = bench.session

    def refresh() -> Sample:
        session.execute(
            "INSERT INTO raw.readings SELECT %s + random() * %s::interval,"
            " 1 + floor(random() * %s), 20 + random() FROM generate_series(1, 1000)",
            START,
            timedelta(days=bench.days),
            bench.devices,
        )
        return session.timed(lambda: bench.refresh("readings_1m"))

    bare = bench.grouped("raw.readings")
    with bench.rollup("readings_1m", "raw.readings"):
        bench.refresh("readings_1m")
        session.execute(f"VACUUM (ANALYZE) {bench.stored('readings_1m')}")
        samples = in_turn(
            {"refresh": refresh, "bare": lambda: session.explained(bare)}, bench.rounds, warm_up=1
        )
    what = "refresh of 1,000 late rows / bare GROUP BY of everything"
    yield Result("late_rows", what, samples["refresh"], samples["bare"], limit=0.5)


def one_late_row(bench: Workbench) -> Iterator[Result]:
    """A row somewhere in the past."""
    bench.readings()
    chance = random.Random(1)

    def refresh() -> Sample:
        late = START + chance.random() * timedelta(days=bench.days)
        bench.session.execute("INSERT INTO raw.readings VALUES (%s, 1, 20)", late)
        return bench.session.timed(lambda: bench.refresh("readings_1m"))

    with bench.rollup("readings_1m", "raw.readings"):
        bench.refresh("readings_1m")
        samples = in_turn({"refresh": refresh}, 5 * bench.rounds, warm_up=1)
    yield Result("one_late_row", "refresh of one late row, ms", samples["refresh"], limit=20)
