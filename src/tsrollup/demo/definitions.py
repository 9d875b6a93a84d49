"""The rollups of the demo."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DemoRollup:
    """A rollup of `raw_table`, read from `source`: that table itself, or a finer rollup."""

    table: str
    source: str
    raw_table: str
    time_column: str
    width: str
    dimensions: tuple[str, ...]
    metrics: Mapping[str, tuple[str, ...]]

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of create_rollup_table; a child inherits dimensions and metrics."""
        if self.source != self.raw_table:
            return {}
        metrics = {column: list(names) for column, names in self.metrics.items()}
        return {"dimensions": list(self.dimensions), "metrics": metrics}


def _hierarchy(
    subject: str,
    time_column: str,
    dimensions: tuple[str, ...],
    metrics: Mapping[str, tuple[str, ...]],
) -> list[DemoRollup]:
    raw_table = f"raw.{subject}"
    widths = {"hourly": "1 hour", "daily": "1 day", "monthly": "1 month"}
    sources = [raw_table, *(f"silver.{subject}_{suffix}" for suffix in widths)]
    return [
        DemoRollup(
            f"{subject}_{suffix}", source, raw_table, time_column, width, dimensions, metrics
        )
        for (suffix, width), source in zip(widths.items(), sources, strict=False)
    ]


ROLLUPS = [
    *_hierarchy(
        "flights",
        "scheduled",
        ("carrier", "origin"),
        {"dep_delay": ("avg", "max"), "arr_delay": ("avg", "max")},
    ),
    *_hierarchy(
        "weather",
        "observed",
        ("origin",),
        {"temp": ("avg", "max"), "wind_speed": ("avg", "max"), "precip": ("sum", "max")},
    ),
]
