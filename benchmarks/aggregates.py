"""What each aggregate adds to a refresh, as a ratio to plain avg, and what reading it costs."""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Result, Sample, Steps, in_turn
from benchmarks.workbench import Workbench

CUSTOM = {
    "name": "custom",
    "as": "geomean",
    "state": "sum(ln({value}))",
    "combine": "sum({state})",
    "finish": "exp({state} / {count})",
}
HISTOGRAM = {"name": "histogram", "bounds": [0, 5, 10, 15, 20, 25, 30]}
AGGREGATES: dict[str, list[Any]] = {
    "avg": ["avg"],
    "count, sum, min, max": ["count", "sum", "min", "max"],
    "stddev": ["stddev"],
    "percentiles": ["p50", "p95", "p99"],
    "distinct": ["distinct"],
    "mode": ["mode"],
    "histogram": [HISTOGRAM],
    "ohlc": ["ohlc"],
    "rate": ["rate"],
    "time_weighted_avg": ["time_weighted_avg"],
    "custom": [CUSTOM],
}
LIMITS = {"percentiles": 2.5}


def aggregates(bench: Workbench) -> Steps:
    """A first refresh of minutes, of hours from rows, and of hours from minutes."""
    bench.readings()
    for what, width, parent in (
        ("minutes from rows", "1 minute", False),
        ("hours from rows", "1 hour", False),
        ("hours from minutes", "1 hour", True),
    ):
        sides = {name: _side(bench, metrics, width, parent) for name, metrics in AGGREGATES.items()}
        samples = yield from in_turn(sides, bench.rounds, budget=120)
        for name in AGGREGATES:
            if name != "avg":
                title = f"{what}: refresh of {name} / of avg"
                limit = None if parent else LIMITS.get(name)
                yield Result("aggregates", title, samples[name], samples["avg"], limit=limit)


def _side(bench: Workbench, metrics: list[Any], width: str, parent: bool) -> Callable[[], Sample]:
    def create(name: str, source: str, width: str) -> None:
        bench.session.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval,"
            " dimensions => '{device}', metrics => %s)",
            source,
            name,
            width,
            json.dumps({"temp": metrics}),
        )

    def filled() -> Sample:
        names = ["aggregates_1m", "aggregates_1h"] if parent else ["aggregates_1h"]
        if parent:
            create("aggregates_1m", "raw.readings", "1 minute")
            bench.refresh("aggregates_1m")
        create("aggregates_1h", "aggregates_1m" if parent else "raw.readings", width)
        sample = bench.session.timed(lambda: bench.refresh("aggregates_1h"))
        for name in reversed(names):
            bench.drop_rollup(name)
        return sample

    return filled
