"""What a refresh costs: the first one, with two workers, scattered late rows, one late row."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from benchmarks.measure import Result, Sample, Steps, in_turn
from benchmarks.workbench import SETTLE, START, Workbench

ALL = "raw.readings"


def first_refresh(bench: Workbench) -> Steps:
    """All of the data into a one-minute rollup."""
    bench.readings()

    def filled(refresh: Callable[[str], None]) -> Sample:
        with bench.rollup("readings_1m", ALL):
            return bench.session.timed(lambda: refresh("readings_1m"))

    def side(refresh: Callable[[str], None]) -> Callable[[], Sample]:
        return lambda: filled(refresh)

    yield from _beside_bare(
        bench,
        "first_refresh",
        "first refresh / bare GROUP BY",
        {how: side(refresh) for how, refresh in bench.refreshes().items()},
        limit=2,
    )


def late_rows(bench: Workbench) -> Steps:
    """1,000 late rows scattered over all days, written by one statement."""
    bench.readings()
    session = bench.session

    def write() -> None:
        session.execute(
            f"INSERT INTO {ALL} SELECT %s + random() * %s::interval,"
            " 1 + floor(random() * %s), 20.5 FROM generate_series(1, 1000)",
            START,
            timedelta(days=bench.days),
            bench.sizes.devices,
        )

    def side(refresh: Callable[[str], None]) -> Callable[[], Sample]:
        def late() -> Sample:
            write()
            return session.timed(lambda: refresh("readings_1m"))

        return late

    with bench.rollup("readings_1m", ALL):
        bench.refresh("readings_1m")
        session.execute(f"VACUUM (ANALYZE) {bench.stored('readings_1m')}")
        write()
        yield bench.judge("late_rows", "with 1,000 late rows", "readings_1m", ALL)
        bench.refresh("readings_1m")
        yield bench.judge("late_rows", "after their refresh", "readings_1m", ALL)
        yield from _beside_bare(
            bench,
            "late_rows",
            "refresh of 1,000 late rows / bare GROUP BY of everything",
            {how: side(refresh) for how, refresh in bench.refreshes().items()},
            limit=0.5,
        )


def _beside_bare(
    bench: Workbench,
    benchmark: str,
    what: str,
    refreshes: dict[str, Callable[[], Sample]],
    limit: float,
) -> Steps:
    def bare() -> Sample:
        return bench.session.explained(bench.grouped(ALL))

    samples = yield from in_turn({**refreshes, "bare": bare}, bench.rounds, budget=120)
    for how in refreshes:
        yield Result(benchmark, what, samples[how], samples["bare"], limit=limit, variant=how)


def one_late_row(bench: Workbench) -> Steps:
    """A row somewhere in the past."""
    bench.readings()
    chance = random.Random(1)

    def side(refresh: Callable[[str], None]) -> Callable[[], Sample]:
        def late() -> Sample:
            time = START + chance.random() * timedelta(days=bench.days)
            bench.session.execute(f"INSERT INTO {ALL} VALUES (%s, 1, 20)", time)
            return bench.session.timed(lambda: refresh("readings_1m"))

        return late

    refreshes = bench.refreshes()
    with bench.rollup("readings_1m", ALL):
        bench.refresh("readings_1m")
        sides = {how: side(refresh) for how, refresh in refreshes.items()}
        samples = yield from in_turn(sides, 5 * bench.rounds, warm_up=1)
    for how in refreshes:
        what = "refresh of one late row, ms"
        yield Result("one_late_row", what, samples[how], limit=5, variant=how)


def two_workers(bench: Workbench) -> Steps:
    """The first refresh by two workers at once; 1.7 times the speed is 0.59 of the time."""
    bench.readings()

    def filled(workers: int) -> Sample:
        sessions = [bench.connect() for _ in range(workers)]
        with bench.rollup("readings_1m", ALL), ThreadPoolExecutor(workers) as pool:
            sample = bench.session.timed(
                lambda: list(
                    pool.map(
                        lambda x: bench.run_rollups(x, "readings_1m", bench.end + SETTLE), sessions
                    )
                )
            )
        for session in sessions:
            session.connection.close()
        return Sample(sample.wall)

    sides = {"one": lambda: filled(1), "two": lambda: filled(2)}
    samples = yield from in_turn(sides, bench.rounds)
    what = "first refresh by two workers / by one"
    yield Result("two_workers", what, samples["two"], samples["one"], limit=0.59)
