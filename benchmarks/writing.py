"""What capture costs a writer."""

from collections.abc import Iterator
from datetime import timedelta

from benchmarks.measure import Result, Sample, in_turn
from benchmarks.workbench import START, Workbench

WIDER = """
    ALTER TABLE {table} ADD site text, ADD ok boolean, ADD a float8, ADD b float8, ADD c float8,
        ADD d integer, ADD e integer;
    CREATE INDEX ON {table} (device, ts)
"""
WIDER_VALUES = "\tsite-7\tt\t1.25\t2.5\t3.75\t4\t5"


def copy_batches(bench: Workbench) -> Iterator[Result]:
    """COPY into two identical tables in turn, one of which has a rollup; narrow and wider rows."""
    for rows, batches in ((1_000, 40 * bench.rounds), (10_000, 10 * bench.rounds)):
        for what, wider, more in (("3", "", ""), ("10", WIDER, WIDER_VALUES)):
            for table in ("raw.watched", "raw.plain"):
                bench.create_table(table, 15)
                if wider:
                    bench.session.execute(wider.format(table=table))
            with bench.rollup("watched_1m", "raw.watched"):
                watched = _Writer(bench, "raw.watched", rows, more)
                plain = _Writer(bench, "raw.plain", rows, more)
                turns = {"watched": watched.copy, "plain": plain.copy}
                samples = in_turn(turns, batches, warm_up=5)
            bench.session.execute("DROP TABLE raw.watched")
            bench.session.execute("DROP TABLE raw.plain")
            yield Result(
                "copy_batches",
                f"COPY in batches of {rows:,} rows of {what} columns: with capture / without",
                samples["watched"],
                samples["plain"],
                limit=1.25,
                aim=1.1,
            )


class _Writer:
    """Writes batches one after another in time, 100 devices every 10 seconds."""

    def __init__(self, bench: Workbench, table: str, rows: int, more: str) -> None:
        self.session = bench.session
        self.table = table
        self.rows = rows
        self.more = more
        self.written = 0

    def copy(self) -> Sample:
        times = range(self.written // 100, (self.written + self.rows) // 100)
        payload = "".join(
            f"{START + timedelta(seconds=10 * t)}\t{device}\t{20 + (t * device) % 97 / 10}"
            f"{self.more}\n"
            for t in times
            for device in range(100)
        ).encode()
        self.written += self.rows
        return self.session.timed(lambda: self.session.copy(self.table, payload))
