"""python -m benchmarks: print the ratios, the raw figures and where they come from."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.aggregates import aggregates
from benchmarks.capacity import capacity
from benchmarks.cold import cold_rows
from benchmarks.fleets import late_groups, late_minutes
from benchmarks.machine import describe_load, describe_machine
from benchmarks.measure import Finding, Steps
from benchmarks.parts import (
    long_log,
    much_stale,
    one_device,
    open_day,
    scattered,
    six_hours,
    sparse_seconds,
)
from benchmarks.reading import hierarchy, live_reads, many_dimensions
from benchmarks.refreshing import first_refresh, late_rows, one_late_row, two_workers
from benchmarks.steady import long_snapshot, nothing_to_do
from benchmarks.story import story
from benchmarks.timescale import TimescaleWorkbench
from benchmarks.workbench import Sizes, Workbench, open_workbench
from benchmarks.writing import copy_batches, keyed_writes, single_rows
from tsrollup import embedded
from tsrollup.errors import TsrollupError

# Those that TimescaleDB can do as well.
SHARED: tuple[Callable[[Workbench], Steps], ...] = (
    first_refresh, late_rows, one_late_row, late_groups, late_minutes, live_reads, hierarchy,
    six_hours, scattered, one_device, open_day, much_stale, sparse_seconds, long_snapshot,
    copy_batches, single_rows,
)  # fmt: skip
OURS: tuple[Callable[[Workbench], Steps], ...] = (
    two_workers, aggregates, long_log, many_dimensions, nothing_to_do, story, cold_rows,
    capacity, keyed_writes,
)  # fmt: skip
BENCHMARKS = {function.__name__: function for function in (*SHARED, *OURS)}


def main() -> int:
    options = _parse()
    console = Console(stderr=options.json, highlight=False, soft_wrap=True)
    try:
        with ExitStack() as stack:
            runs = _run(_open(options, stack), options.only or list(BENCHMARKS), console)
    except TsrollupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(runs, indent=1))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--url", help="a server to make a database on; else an embedded one")
    parser.add_argument(
        "--timescale-url",
        help="a server with TimescaleDB, for the same work in turn; without --url both run there",
    )
    for size in fields(Sizes):
        about = f"{size.metadata['help']} ({size.default})"
        parser.add_argument(f"--{size.name}", type=int, default=size.default, help=about)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="this one; repeatable")
    parser.add_argument("--json", action="store_true", help="raw figures on stdout, in seconds")
    return parser.parse_args()


def _open(options: argparse.Namespace, stack: ExitStack) -> list[Workbench]:
    sizes = Sizes(**{size.name: getattr(options, size.name) for size in fields(Sizes)})
    url = stack.enter_context(_server(options.url or options.timescale_url))
    benches = [stack.enter_context(open_workbench(Workbench, url, sizes))]
    if options.timescale_url:
        theirs = open_workbench(TimescaleWorkbench, options.timescale_url, sizes)
        benches.append(stack.enter_context(theirs))
        versions = [bench.session.value("SHOW server_version") for bench in benches]
        if versions[0] != versions[1]:
            raise TsrollupError(
                f"{versions[0]} and {versions[1]}: figures of two servers do not compare",
                "give --url of a server of the same version, or leave it out",
            )
    return benches


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="tsrollup-bench-"))
    folder.chmod(0o755)
    try:
        yield embedded.start(folder / "server").url_for("postgres")
    finally:
        embedded.stop(folder / "server")
        shutil.rmtree(folder, ignore_errors=True)


def _run(
    benches: Sequence[Workbench], names: Sequence[str], console: Console
) -> list[dict[str, object]]:
    machines = [describe_machine(bench.session) for bench in benches]
    for name, fact in machines[0].items():
        console.print(f"{name:>32}: {fact}")
    for bench in benches:
        console.print(f"{bench.system:>32}: {bench.version()}")
    findings: list[list[Finding]] = [[] for _ in benches]
    for name in names:
        able = benches if BENCHMARKS[name] in SHARED else benches[:1]
        for number, finding in take_turns(BENCHMARKS[name], able):
            findings[number].append(finding)
            console.print(report.line(benches[number], finding))
    if len(benches) > 1:
        for text in report.summary(*findings):
            console.print(text)
    console.print(f"load of the machine at the end: {describe_load()}")
    return [
        {
            "by": bench.system,
            "version": bench.version(),
            "machine": machine,
            "results": [report.raw(x) for x in found],
        }
        for bench, machine, found in zip(benches, machines, findings, strict=True)
    ]


def take_turns(
    benchmark: Callable[[Workbench], Steps], benches: Sequence[Workbench]
) -> Iterator[tuple[int, Finding]]:
    """What each finds, by its number: a round of the one, then a round of the other.

    Who has measured something first waits until the others have as well.
    """
    running = {number: benchmark(bench) for number, bench in enumerate(benches)}
    done: list[set[str]] = [set() for _ in benches]
    while running:
        behind = min(len(done[number]) for number in running)
        for number, steps in list(running.items()):
            if len(done[number]) > behind:
                continue
            try:
                finding = next(steps)
            except StopIteration:
                del running[number]
                continue
            if finding is not None:
                done[number].add(finding.what)
                yield number, finding


if __name__ == "__main__":
    sys.exit(main())
