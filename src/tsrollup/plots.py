"""Rows of a live view as pictures of characters: a sparkline for each group, or a plot of all."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tsrollup.errors import ArgumentError

Rows = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float]]

BARS = "▁▂▃▄▅▆▇█"
COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue")
# What groups are told by where there are no colours.
MARKERS = "123456"
WIDTH_OF_AXIS, HEIGHT_OF_AXIS = 13, 8
TICK = 10
DAY = 86400


def sparklines(
    rows: Rows, dimensions: Sequence[str], columns: Sequence[str] | None, width: int
) -> list[dict[str, Any]]:
    """A row for each group and column of numbers: its least, most and newest value, and all of
    them as bars, oldest first."""
    lines = []
    for key, group in _groups(rows, dimensions).items():
        for column in columns or _columns_of_numbers(rows, dimensions):
            _require_numbers(rows, column)
            values = [_number(row, column) for row in group]
            known = [value for value in values if value is not None]
            lines.append(
                {
                    **dict(zip(dimensions, key, strict=True)),
                    "column": column,
                    "least": min(known, default=None),
                    "most": max(known, default=None),
                    "newest": known[-1] if known else None,
                    "oldest to newest": _bars(values, width),
                }
            )
    return lines


def plot(
    rows: Rows, dimensions: Sequence[str], column: str, width: int, height: int, has_colours: bool
) -> str:
    """A line for each group, at most some with the most rows; broken where buckets are missing."""
    import plotille  # which no other command waits for

    _require_numbers(rows, column)
    groups = _groups(rows, dimensions)
    shown = sorted(groups, key=lambda key: -len(groups[key]))[: len(COLOURS)]
    zone = _time(rows[-1]).tzinfo or UTC
    first, last = (_time(row).timestamp() for row in (rows[0], rows[-1]))
    figure = plotille.Figure()
    # What is written below the last tick fits.
    figure.width = max((width - WIDTH_OF_AXIS) // TICK, 2) * TICK - 1
    figure.height = max(height - HEIGHT_OF_AXIS, 6)
    figure.with_colors, figure.color_mode, figure.origin = has_colours, "names", False
    figure.x_label, figure.y_label = "x", column
    figure.set_x_limits(first, max(last, first + 1))
    form = "%H:%M" if last - first < DAY else "%d %H:%M" if last - first < 10 * DAY else "%Y-%m-%d"
    figure.x_ticks_fkt = lambda low, _: f"{datetime.fromtimestamp(float(low), zone):{form}}"
    figure.y_ticks_fkt = lambda low, _: f"{low:.6g}"
    legend = [f"bucket in {zone}"]
    for key, colour, marker in zip(shown, COLOURS, MARKERS, strict=False):
        mark = None if has_colours or len(shown) == 1 else marker
        for part in _unbroken(groups[key], column):
            times, values = zip(*part, strict=True)
            figure.plot(times, values, lc=colour if has_colours else None, marker=mark)
        name = ", ".join("(null)" if x is None else str(x) for x in key) or column
        sign = plotille.color(mark or "──", fg=colour, mode="names", no_color=not has_colours)
        legend.append(f"{sign} {name}")
    if len(groups) > len(shown):
        legend.append(f"{len(shown)} of {len(groups):,} groups, those with the most rows")
    picture = str(figure.show()).replace("-> (x)", "")
    return "\n".join([picture, "", *legend])


def _groups(
    rows: Rows, dimensions: Sequence[str]
) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in dimensions), []).append(row)
    return groups


def _columns_of_numbers(rows: Rows, dimensions: Sequence[str]) -> list[str]:
    return [
        name
        for name in rows[0]
        if name not in dimensions and any(_is_number(row[name]) for row in rows)
    ]


def _is_number(value: object) -> bool:
    kinds = int | float | Decimal | timedelta
    return isinstance(value, kinds) and not isinstance(value, bool)


def _require_numbers(rows: Rows, column: str) -> None:
    known = [row[column] for row in rows if row[column] is not None]
    if known and not any(map(_is_number, known)):
        raise ArgumentError(f"{column} is no column of numbers", "choose another")


def _number(row: Mapping[str, Any], column: str) -> float | None:
    """A value that can be drawn; spans of time are seconds, and infinite ones text."""
    value = row[column]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int):
        return value
    return float(value) if isinstance(value, float | Decimal) and math.isfinite(value) else None


def _time(row: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromisoformat(row["bucket"])
    except ValueError as error:
        raise ArgumentError(f"{row['bucket']} cannot be drawn", "give FROM and TO") from error


def _unbroken(group: Rows, column: str) -> Iterator[Points]:
    """The parts of a line: up to where a value, or a bucket, is missing."""
    points = [(_time(row).timestamp(), _number(row, column)) for row in group]
    steps = [after - before for (before, _), (after, _) in itertools.pairwise(points)]
    # Days are of 23 to 25 hours, months of 28 to 31 days.
    longest = 1.5 * min(steps, default=0.0)
    part: Points = []
    before = math.inf
    for at, value in points:
        if part and (value is None or at - before > longest):
            yield part
            part = []
        if value is not None:
            part.append((at, value))
        before = at
    if part:
        yield part


def _bars(values: Sequence[float | None], width: int) -> str:
    """One character for each value, or for the mean of several that are next to each other."""
    size = math.ceil(len(values) / width)
    parts = [values[at : at + size] for at in range(0, len(values), size)]
    means = [
        sum(known) / len(known) if (known := [x for x in part if x is not None]) else None
        for part in parts
    ]
    drawn = [mean for mean in means if mean is not None]
    least, most = min(drawn, default=0.0), max(drawn, default=0.0)
    return "".join(
        " " if mean is None else BARS[_height(mean, least, most)] for mean in means
    ).rstrip()


def _height(value: float, least: float, most: float) -> int:
    if most <= least:
        return len(BARS) // 2 - 1
    return min(int(len(BARS) * (value - least) / (most - least)), len(BARS) - 1)
