"""Archives and restores in processes that kill themselves at a step: told which on stdin, a line
each, as `archive named 2`: the second time that a file got its name. Says what became of it."""

import os
import signal
import sys

import pyarrow.csv
import pyarrow.parquet  # noqa: F401  once, for all who are to be killed

from tsrollup.archive.moving import Watch, archive
from tsrollup.archive.restoring import restore
from tsrollup.connection import connect


class Killer(Watch):
    def __init__(self, step: str, turn: int) -> None:
        self.step_, self.turn, self.last = step, turn, ""

    def step(self, step: str, _partition_name: str, _rows: int = 0) -> None:
        self.last = step
        self.count(step)

    def rows(self, _count: int) -> None:
        self.count(f"rows-{self.last}")

    def count(self, step: str) -> None:
        self.turn -= step == self.step_
        if not self.turn:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    url, to = sys.argv[1:]
    for line in sys.stdin:
        what, step, turn = line.split()
        process = os.fork()
        if not process:
            with connect(url) as connection:
                killer = Killer(step, int(turn))
                if what == "archive":
                    outcomes = list(archive(connection, to, watch=killer))
                else:
                    outcomes = list(restore(connection, "raw.readings", watch=killer))
            os._exit(1 if any(one.status == "failed" for one in outcomes) else 0)
        _, status = os.waitpid(process, 0)
        print("killed" if os.WIFSIGNALED(status) else f"ended {status}", flush=True)


if __name__ == "__main__":
    main()
