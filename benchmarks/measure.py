"""Timings, and the ratios that are made of them."""

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.pq import ExecStatus

PLANNING_LIMIT = 5  # ms, of any live read


@dataclass(frozen=True)
class Sample:
    """One measurement, in seconds; `cpu` is that of the server process, where it can be seen."""

    wall: float
    cpu: float | None = None
    planning: float | None = None


@dataclass(frozen=True)
class Result:
    """A median in milliseconds, or the ratio to a reference that was measured in turn with it.

    `limit` is tsrollup's own, and so is `limit_ms`: a time that is enough, whatever the ratio.
    `variant` says how, where a system has several ways to do the same; `answer`, whether what was
    read is right.
    """

    benchmark: str
    what: str
    samples: Sequence[Sample]
    reference: Sequence[Sample] | None = None
    limit: float | None = None
    limit_ms: float | None = None
    variant: str = ""
    answer: str = ""
    unit: str = "ms"  # of what is no ratio: a thousandth of that of the samples

    @property
    def value(self) -> float:
        """Median of the ratios of each round; without a reference, of the milliseconds."""
        if self.reference is None:
            return 1000 * median(self.samples)
        pairs = zip(self.samples, self.reference, strict=True)
        return statistics.median(a.wall / b.wall for a, b in pairs)

    @property
    def cpu_value(self) -> float | None:
        """The same of the server process's CPU time, which neighbours disturb less.

        Without parallel workers, which are processes of their own.
        """
        cpu = [x.cpu for x in self.samples if x.cpu is not None]
        if len(cpu) < len(self.samples):
            return None
        if self.reference is None:
            return 1000 * statistics.median(cpu)
        base = [x.cpu for x in self.reference if x.cpu]
        if len(base) < len(cpu):
            return None
        return statistics.median(a / b for a, b in zip(cpu, base, strict=True))

    @property
    def planning(self) -> float | None:
        """Median of the milliseconds of planning, where they are known."""
        known = [x.planning for x in self.samples if x.planning is not None]
        return 1000 * statistics.median(known) if known else None

    @property
    def passed(self) -> bool | None:
        if self.limit is None and self.limit_ms is None:
            return None
        return (self.planning or 0) <= PLANNING_LIMIT and (
            (self.limit is not None and self.value <= self.limit)
            or (self.limit_ms is not None and 1000 * median(self.samples) <= self.limit_ms)
        )


@dataclass(frozen=True)
class Note:
    """What is no figure: whether an answer is right, or why something was not measured."""

    benchmark: str
    what: str
    text: str


Finding = Result | Note
# None: a round is over, and it is the other system's turn.
Steps = Generator[Finding | None, None, None]


def median(samples: Sequence[Sample]) -> float:
    """Median of the wall times, in seconds."""
    return statistics.median(x.wall for x in samples)


def in_turn(
    sides: Mapping[str, Callable[[], Sample]], rounds: int, warm_up: int = 0, budget: float = 60
) -> Generator[None, None, dict[str, list[Sample]]]:
    """Run every side once a round; the order is turned round each time.

    What takes more than `budget` seconds ends with the round that it is in, but one is measured.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    names = list(sides)
    spent = 0.0
    for number in range(warm_up + rounds):
        if spent > budget:
            warm_up = min(warm_up, number)
        started = time.perf_counter()
        for name in names if number % 2 == 0 else reversed(names):
            sample = sides[name]()
            if number >= warm_up:
                samples[name].append(sample)
        spent += time.perf_counter() - started
        yield
        if spent > budget and number >= warm_up:
            break
    return samples


class Session:
    """A connection whose statements are timed."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._schedstat = _find_schedstat(connection)

    def execute(self, statement: str, *parameters: Any) -> psycopg.Cursor[Any]:
        # The statements are this package's own text, with generated numbers in it.
        text: LiteralString = statement
        return self.connection.execute(text, parameters or None)

    def value(self, statement: str, *parameters: Any) -> Any:
        row = self.execute(statement, *parameters).fetchone()
        return row[0] if row else None

    def copy(self, table: str, payload: bytes) -> None:
        text: LiteralString = f"COPY {table} FROM STDIN"
        with self.connection.cursor().copy(text) as copy:
            copy.write(payload)

    def timed(self, work: Callable[[], Any]) -> Sample:
        cpu = self._cpu()
        started = time.perf_counter()
        work()
        wall = time.perf_counter() - started
        ended = self._cpu()
        return Sample(wall, ended - cpu if cpu is not None and ended is not None else None)

    def explained(self, query: str) -> Sample:
        """Planning and execution as the server reports them: nothing is sent to the client."""
        cpu = self._cpu()
        row = self.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}").fetchone()
        ended = self._cpu()
        assert row is not None
        plan = row[0][0]
        planning = plan["Planning Time"] / 1000
        wall = planning + plan["Execution Time"] / 1000
        used = ended - cpu if cpu is not None and ended is not None else None
        return Sample(wall, used, planning)

    def fetched(self, query: str) -> Sample:
        """Until the client holds all rows, as text."""
        return self.timed(lambda: self._fetch(query))

    def _fetch(self, query: str) -> None:
        result = self.connection.pgconn.exec_(query.encode())
        if result.status != ExecStatus.TUPLES_OK:
            raise RuntimeError(result.error_message.decode())

    def _cpu(self) -> float | None:
        if self._schedstat is None:
            return None
        return int(self._schedstat.read_text().split()[0]) / 1e9


def _find_schedstat(connection: psycopg.Connection[Any]) -> Path | None:
    """The server process's CPU clock: on Linux, when the server runs on this very machine."""
    process = Path(f"/proc/{connection.info.backend_pid}")
    try:
        if "postgres" in (process / "comm").read_text():
            (process / "schedstat").read_text()
            return process / "schedstat"
    except OSError:
        pass
    return None
