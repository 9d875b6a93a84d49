"""placeholder"""
from collections.abc import Callable
from benchmarks.measure import Result
from benchmarks.workbench import Workbench


def run_timescale(url: str, bench: Workbench, say: Callable[[str], None]) -> list[Result]:
    return []
