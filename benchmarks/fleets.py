"""Late rows of a fleet: many devices in every bucket, of which a late row concerns one."""

import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from benchmarks.measure import Note, Result, Sample, Steps, in_turn
from benchmarks.workbench import START, Workbench

ALL = "raw.fleet"
HOURS = 48
END = START + timedelta(hours=HOURS)
RATE = 200  # late rows a second


def late_groups(bench: Workbench) -> Steps:
    """One late row, 1,000 of them of 100 devices, and a stream of them, over 48 hours by the hour.

    Each device once a minute, and in the last two hours every 10 seconds.
    """
    fleet, chance = bench.sizes.fleet, random.Random(1)
    bench.create_table(ALL, HOURS // 24)
    bench.session.execute(f"CREATE INDEX ON {ALL} (device, ts)")
    dense = END - timedelta(hours=2)
    bench.fill(ALL, START, dense, "1 minute", fleet)
    bench.fill(ALL, dense, END, "10 seconds", fleet)

    def refreshed(write: Callable[[], object]) -> Callable[[], Sample]:
        def late() -> Sample:
            write()
            return bench.session.timed(lambda: bench.refresh("fleet_1h", END))

        return late

    def one() -> object:
        at = dense + chance.random() * timedelta(hours=2)
        return bench.session.execute(f"INSERT INTO {ALL} VALUES (%s, %s, 20)", at, fleet // 2)

    def many() -> object:
        return bench.session.execute(
            f"INSERT INTO {ALL} SELECT %s - random() * interval '24 hours',"
            " 1 + floor(random() * 100), 20.5 FROM generate_series(1, 1000)",
            END,
        )

    with bench.rollup("fleet_1h", ALL, "1 hour"):
        bench.refresh("fleet_1h", END + timedelta(hours=1))  # nothing is left that waits
        bench.session.execute("VACUUM (ANALYZE)")
        for what, write, limit in (
            ("one late row", one, 10),
            ("1,000 late rows of 100 devices over 24 hours", many, 300),
        ):
            name = f"refresh of {what}, {fleet:,} devices, ms"
            samples = yield from in_turn({"": refreshed(write)}, 3 * bench.rounds, warm_up=1)
            yield Result("late_groups", name, samples[""], limit=limit)
        yield from _stream(bench, "")
        if bench.has_groups:
            with bench.whole_buckets():
                samples = yield from in_turn({"": refreshed(one)}, bench.rounds, warm_up=1)
                name = f"refresh of one late row, {fleet:,} devices, ms"
                yield Result("late_groups", name, samples[""], variant="by whole buckets")
                yield from _stream(bench, "by whole buckets")
        answer = bench.compare(
            f"TABLE {bench.live('fleet_1h')}", bench.grouped(ALL, width="1 hour")
        )
        yield Note("late_groups", "live view and GROUP BY after them", answer)
    bench.session.execute(f"DROP TABLE {ALL}")


def late_minutes(bench: Workbench) -> Steps:
    """A device that was away brings 1,000 rows, each in a minute of its own: by the minute."""
    source, days, devices = "raw.sensors", bench.sizes.history, 10
    end = START + timedelta(days=days)
    bench.create_table(source, days)
    bench.session.execute(f"CREATE INDEX ON {source} (device, ts)")
    bench.fill(source, START, end, "1 minute", devices)

    def late() -> Sample:
        bench.session.execute(
            f"INSERT INTO {source} SELECT %s - random() * %s, 1, 20 FROM generate_series(1, 1000)",
            end,
            end - START,
        )
        return bench.session.timed(lambda: bench.refresh("sensors_1m", end))

    with bench.rollup("sensors_1m", source):
        bench.refresh("sensors_1m", end + timedelta(hours=1))
        bench.session.execute("VACUUM (ANALYZE)")
        name = f"refresh of 1,000 late minutes of one of {devices} devices over {days} days, ms"
        samples = yield from in_turn({"": late}, bench.rounds, warm_up=1)
        yield Result("late_minutes", name, samples[""])
        if bench.has_groups:
            with bench.whole_buckets():
                samples = yield from in_turn({"": late}, bench.rounds, warm_up=1)
            yield Result("late_minutes", name, samples[""], variant="by whole buckets")
        answer = bench.compare(f"TABLE {bench.live('sensors_1m')}", bench.grouped(source))
        yield Note("late_minutes", "live view and GROUP BY after them", answer)
    bench.session.execute(f"DROP TABLE {source}")


def _stream(bench: Workbench, variant: str) -> Steps:
    """Late rows one by one, and refreshes one after the other: how long the slowest of these takes,
    how long a row waited, and how long the last ones do after the stream has ended."""
    seconds = bench.sizes.seconds
    ended = threading.Event()
    writer = bench.connect()
    written = 0
    asks = bench.longest_wait()
    waited: list[float] = []

    def write() -> None:
        nonlocal written
        chance, began = random.Random(2), time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            if asks and now >= len(waited):
                waited.append(writer.value(asks))
            for _ in range(int(now * RATE) - written):
                at = START + chance.random() * timedelta(hours=HOURS)
                device = chance.randint(1, bench.sizes.fleet)
                writer.execute(f"INSERT INTO {ALL} VALUES (%s, %s, 20)", at, device)
                written += 1
            time.sleep(0.02)
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    rounds = []
    while not ended.is_set():
        rounds.append(bench.session.timed(lambda: bench.refresh("fleet_1h", END)))
        yield None
    thread.join()
    last = bench.session.timed(lambda: bench.refresh("fleet_1h", END))
    writer.connection.close()
    of = f"{RATE} late rows a second for {seconds} s"
    slowest = max(rounds, key=lambda sample: sample.wall)
    yield Result("late_groups", f"{of}: the slowest refresh, ms", [slowest], variant=variant)
    yield Result("late_groups", f"{of}: the refresh after it, ms", [last], variant=variant)
    if waited:
        longest = [Sample(max(waited))]
        yield Result("late_groups", f"{of}: the longest wait, ms", longest, variant=variant)
    yield Note("late_groups", f"{of}{variant and ', '}{variant}", f"{written:,} were written")
