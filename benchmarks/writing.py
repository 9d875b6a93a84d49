"""What capture costs a writer."""

from collections.abc import Iterator
from datetime import timedelta

from benchmarks.measure import Result, Sample, in_turn
from benchmarks.workbench import START, Workbench


def copy_batches(bench: Workbench) -> Iterator[Result]:
    """COPY into two identical tables in turn, one of which has a rollup."""
    for rows, batches in ((1_000, 40 * bench.rounds), (10_000, 10 * bench.rounds)):
        for table in ("raw.watched", "raw.plain"):
            bench.create_table(table, 15)
        with bench.rollup("watched_1m", "raw.watched"):
            watched = _Writer(bench, "raw.watched", rows)
            plain = _Writer(bench, "raw.plain", rows)
            samples = in_turn({"watched": watched.copy, "plain": plain.copy}, batches, warm_up=5)
        bench.session.execute("DROP TABLE raw.watched")
        bench.session.execute("DROP TABLE raw.plain")
        what = f"COPY in batches of {rows:,} rows: with capture / without"
        yield Result(
            "copy_batches", what, samples["watched"], samples["plain"], limit=1.25, aim=1.1
        )


class _Writer:
    """Writes batches one after another in time, 100 devices every 10 seconds."""

    def __init__(self, bench: Workbench, table: str, rows: int) -> None:
        self.session = bench.session
        self.table = table
        self.rows = rows
        self.written = 0

    def copy(self) -> Sample:
        times = range(self.written // 100, (self.written + self.rows) // 100)
        payload = "".join(
            f"{START + timedelta(seconds=10 * t)}\t{device}\t{20 + (t * device) % 97 / 10}\n"
            for t in times
            for device in range(100)
        ).encode()
        self.written += self.rows
        return self.session.timed(lambda: self.session.copy(self.table, payload))
