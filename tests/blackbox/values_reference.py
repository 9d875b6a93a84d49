"""Aggregates by Python's own arithmetic: exact fractions, sorted lists, sets."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

# Times and values of a group, ordered by time; NULL is None.
Pairs = Sequence[tuple[Any, Any]]


@dataclass(frozen=True)
class Within:
    """Any number from low to high."""

    low: float
    high: float


@dataclass(frozen=True)
class OneOf:
    values: tuple[Any, ...]


def near(value: float, tolerance: float) -> Within:
    return Within(value - tolerance, value + tolerance)


def is_same(actual: Any, expected: Any) -> bool:
    if isinstance(expected, Within):
        return actual is not None and expected.low <= float(actual) <= expected.high
    if isinstance(expected, OneOf):
        return any(is_same(actual, value) for value in expected.values)
    if isinstance(actual, float) and isinstance(expected, float) and math.isnan(expected):
        return math.isnan(actual)
    if isinstance(actual, Decimal) and isinstance(expected, Decimal) and expected.is_nan():
        return actual.is_nan()
    return bool(type(actual) is not bool or type(expected) is bool) and bool(actual == expected)


def expected(aggregate: str, pairs: Pairs) -> Any:
    """What the column of the aggregate holds."""
    if aggregate in ("first", "last"):
        return pairs[0 if aggregate == "first" else -1][1]
    known = [(time, value) for time, value in pairs if value is not None]
    values = [value for _, value in known]
    if aggregate in ("open", "close"):
        # Of the first and last row that has a value, or of the first and last one: people call
        # both so.
        end = 0 if aggregate == "open" else -1
        return OneOf((pairs[end][1], values[end] if values else None))
    if aggregate == "value_counts":
        return Counter(map(str, values))
    if aggregate == "value_counts_rest":
        return 0
    if aggregate == "count":
        return len(values)
    if aggregate == "distinct":
        return distinct(values)
    if not values:
        return None
    if match := re.fullmatch(r"p(\d\d?(?:\.\d)?)", aggregate):
        return percentile(values, float(match[1]))
    if aggregate in SERIES:
        return SERIES[aggregate](known)
    return VALUES[aggregate](values)


def total(values: Sequence[Any]) -> Any:
    if isinstance(values[0], timedelta):
        return sum(values, timedelta())
    if not all(math.isfinite(value) for value in values):
        return type(values[0])(_unbounded(values))
    if not isinstance(values[0], float):
        return sum(values)
    return near(math.fsum(values), 1e-9 * math.fsum(abs(value) for value in values))


def mean(values: Sequence[Any]) -> Any:
    count = len(values)
    if isinstance(values[0], timedelta):
        return near_interval(sum(values, timedelta()) / count)
    if isinstance(values[0], float):
        if not all(math.isfinite(value) for value in values):
            return _unbounded(values)
        tolerance = 1e-9 * math.fsum(abs(value) for value in values) / count
    else:
        tolerance = 1e-12 * float(sum(abs(value) for value in values)) / count
    return near(float(_sum(values) / count), tolerance)


def near_interval(value: timedelta) -> OneOf:
    tick = timedelta(microseconds=1)
    return OneOf((value - tick, value, value + tick))


def variance(values: Sequence[Any], less: int) -> Fraction | None:
    count = len(values)
    if count <= less:
        return None
    if isinstance(values[0], float) and not all(math.isfinite(value) for value in values):
        return None
    return (sum(Fraction(x) ** 2 for x in values) - _sum(values) ** 2 / count) / (count - less)


def spread(less: int, is_root: bool) -> Callable[[Sequence[Any]], Any]:
    def compute(values: Sequence[Any]) -> Any:
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            return float("nan") if len(values) > less else None
        exact = variance(values, less)
        if exact is None:
            return None
        # Double precision: what the last digit of a value is worth.
        digit = 2.3e-16 * max(abs(float(x)) for x in values)
        tolerance = 1e-6 * float(exact) + 10 * digit * math.sqrt(exact) + 100 * digit**2
        if is_root:
            low, high = max(float(exact) - tolerance, 0.0), float(exact) + tolerance
            return Within(math.sqrt(low), math.sqrt(high))
        return near(float(exact), tolerance)

    return compute


def percentile(values: Sequence[Any], percent: float) -> Within:
    """One per cent around what lies at that rank, by whatever definition of ranks."""
    ordered = sorted(values, key=_as_postgres)
    rank = Fraction(str(percent)) / 100 * (len(ordered) - 1)
    place = Fraction(str(percent)) / 100 * len(ordered)
    ranks = {math.floor(rank), math.ceil(rank), math.ceil(place) - 1, math.floor(place)}
    found = [float(ordered[min(max(rank, 0), len(ordered) - 1)]) for rank in ranks]
    low, high = min(found), max(found)
    return Within(low - abs(low) * 0.01 - 1e-12, high + abs(high) * 0.01 + 1e-12)


def distinct(values: Sequence[Any]) -> Any:
    """Exact below some hundred, then within what HyperLogLog of 2 % rarely leaves."""
    count = len({_as_key(value) for value in values})
    return count if count <= 100 else near(count, 0.07 * count)


def mode(values: Sequence[Any]) -> OneOf:
    """Any of the most frequent ones."""
    counts = Counter(values)
    most = max(counts.values())
    return OneOf(tuple(value for value, count in counts.items() if count == most))


def histogram(values: Sequence[Any], bounds: Sequence[float]) -> list[int]:
    """How many lie below the first bound, from each bound to the next, from the last one on."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[sum(1 for bound in bounds if _as_postgres(value) >= (0, bound))] += 1
    return counts


def histogram_of(
    value: Callable[[Any], Any], bounds: Sequence[float]
) -> Callable[[Sequence[Any]], OneOf]:
    """Of a value of rows; where no row has one, nothing or zeros."""

    def compute(group: Sequence[Any]) -> OneOf:
        values = [value(row) for row in group if value(row) is not None]
        counts = histogram(values, bounds)
        return OneOf((counts,) if values else (None, counts))

    return compute


def increase(known: Pairs) -> Within:
    """How far a counter went up within the group; where it fell, it began at zero."""
    return near(_rise(known), 1e-6)


def rate(known: Pairs) -> Within | None:
    """What the counter went up by in a second, from the first row to the last one."""
    if len(known) < 2:
        return None
    value = _rise(known) / seconds(known[0][0], known[-1][0])
    return near(value, 1e-9 * abs(value))


def _rise(known: Pairs) -> float:
    return math.fsum(b - a if b >= a else b for (_, a), (_, b) in pairwise(known))


def time_weighted(known: Pairs) -> Any:
    """Each value counts for as long as it was the newest one."""
    length = seconds(known[0][0], known[-1][0])
    if not length:
        return near(known[-1][1], 1e-9)
    parts = [float(a[1]) * seconds(a[0], b[0]) for a, b in pairwise(known)]
    scale = math.fsum(abs(part) for part in parts) / length
    return near(math.fsum(parts) / length, 1e-9 * scale + 1e-12)


def seconds(low: datetime, high: datetime) -> float:
    return (high - low).total_seconds()


def _sum(values: Sequence[Any]) -> Fraction:
    return sum((Fraction(value) for value in values), Fraction())


def _unbounded(values: Sequence[Any]) -> float:
    return sum(float(value) for value in values if not math.isfinite(value))


def _as_postgres(value: Any) -> tuple[int, Any]:
    """NaN is the greatest number."""
    return (1, 0) if isinstance(value, float | Decimal) and math.isnan(value) else (0, value)


def _as_key(value: Any) -> Any:
    return "NaN" if isinstance(value, float | Decimal) and math.isnan(value) else value


VALUES: dict[str, Callable[[Sequence[Any]], Any]] = {
    "sum": total,
    "avg": mean,
    "min": lambda values: min(values, key=_as_postgres),
    "max": lambda values: max(values, key=_as_postgres),
    "stddev": spread(1, True),
    "stddev_pop": spread(0, True),
    "variance": spread(1, False),
    "variance_pop": spread(0, False),
    "median": lambda values: percentile(values, 50),
    "mode": mode,
    "bool_and": all,
    "bool_or": any,
    "high": max,
    "low": min,
}
# Of times and values that are not NULL, in order.
SERIES: dict[str, Callable[[Pairs], Any]] = {
    "increase": increase,
    "rate": rate,
    "time_weighted_avg": time_weighted,
}
