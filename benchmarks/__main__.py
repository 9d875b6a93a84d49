"""python -m benchmarks: print the ratios, the raw figures and where they come from."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.machine import describe_machine
from benchmarks.measure import Result, Sample, median
from benchmarks.reading import hierarchy, live_reads, long_log, many_dimensions, much_stale
from benchmarks.refreshing import first_refresh, late_rows, one_late_row
from benchmarks.workbench import TimescaleWorkbench, Workbench, open_workbench
from benchmarks.writing import copy_batches
from tsrollup import embedded
from tsrollup.errors import TsrollupError

BENCHMARKS: dict[str, Callable[[Workbench], Iterator[Result]]] = {
    function.__name__: function
    for function in (
        first_refresh, late_rows, one_late_row, hierarchy,
        live_reads, copy_batches, much_stale, long_log, many_dimensions,
    )
}  # fmt: skip
OF_TIMESCALE = ("first_refresh", "late_rows", "one_late_row", "live_reads", "copy_batches")


def main() -> int:
    options = _parse()
    console = Console(stderr=options.json, highlight=False, soft_wrap=True)
    chosen = options.only or list(BENCHMARKS)
    try:
        with _server(options.url) as url:
            runs = [_run(options, Workbench, url, chosen, console)]
        if options.timescale_url:
            both = [name for name in chosen if name in OF_TIMESCALE]
            url = options.timescale_url
            runs.append(_run(options, TimescaleWorkbench, url, both, console))
    except TsrollupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(runs, indent=1))
    return 0


def _run(
    options: argparse.Namespace,
    kind: type[Workbench],
    url: str,
    names: Sequence[str],
    console: Console,
) -> dict[str, object]:
    with open_workbench(kind, url, options.days, options.devices, options.rounds) as bench:
        machine = describe_machine(bench.session)
        for name, fact in machine.items():
            console.print(f"{name:>32}: {fact}")
        results = []
        for name in names:
            for result in BENCHMARKS[name](bench):
                results.append(_raw(result))
                console.print(_line(result))
    return {"by": kind.__name__, "machine": machine, "results": results}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--url", help="a server to make a database on; else an embedded one")
    parser.add_argument("--timescale-url", help="a server with TimescaleDB, for the same work")
    parser.add_argument("--days", type=int, default=4, help="days of data (4)")
    parser.add_argument("--devices", type=int, default=100, help="devices (100)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (3)")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="this one; repeatable")
    parser.add_argument("--json", action="store_true", help="raw figures on stdout, in seconds")
    return parser.parse_args()


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


def _line(result: Result) -> str:
    unit = "ms" if result.reference is None else "x "
    text = f"{result.benchmark:>14}  {result.value:9.2f} {unit}  {result.what}"
    if result.cpu_value is not None:
        text += f", CPU {result.cpu_value:.2f}"
    if result.reference is not None:
        text += f" ({1000 * median(result.samples):.1f} / {1000 * median(result.reference):.1f} ms)"
    if result.limit is not None:
        text += f"  {'ok' if result.passed else 'OVER'}: limit {result.limit:g}"
    return text


def _raw(result: Result) -> dict[str, object]:
    def seconds(samples: Sequence[Sample] | None) -> list[float]:
        return [round(x.wall, 6) for x in samples or ()]

    return {
        "benchmark": result.benchmark,
        "what": result.what,
        "limit": result.limit,
        "aim": result.aim,
        "value": result.value,
        "cpu_value": result.cpu_value,
        "seconds": seconds(result.samples),
        "reference_seconds": seconds(result.reference),
    }


if __name__ == "__main__":
    sys.exit(main())
