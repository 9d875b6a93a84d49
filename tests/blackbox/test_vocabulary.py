"""Every aggregate, at three levels, live and stored, within the error that is stated for it."""

import math
import random
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from blackbox import values_reference
from blackbox.calendar_reference import Buckets
from blackbox.levels_reference import BY_DEVICE, FIRST, LEVELS, MIXED, create_levels, insert
from blackbox.rollup_reference import (
    Row,
    Wanted,
    assert_live_and_stored,
    column,
    create,
    rows_of,
)
from blackbox.values_reference import near

PERCENTILES = ["p1", "p5", "p25", "p50", "p75", "p90", "p95", "p99", "p99.9", "median"]

SPREADS = ["stddev", "stddev_pop", "variance", "variance_pop"]

BOUNDS = [-100, 0, 2.5, 100]

MIXED_METRICS: dict[str, Any] = {
    "f": [*SPREADS, *PERCENTILES, "distinct", "ohlc", {"name": "histogram", "bounds": BOUNDS}],
    "n": [*SPREADS, *PERCENTILES, "distinct", "mode"],
    "i": [*SPREADS, *PERCENTILES, "distinct", "mode"],
    "r": ["stddev", "p95"],
    "b": ["bool_and", "bool_or", "min", "max"],
    "t": ["distinct", "mode"],
    "u": ["distinct"],
    "d": ["sum", "avg", "min", "max"],
    "far": SPREADS,
    "up": [
        {
            "name": "custom", "as": "geomean", "state": "sum(ln({value}))",
            "combine": "sum({state})", "finish": "exp({state} / {count})",
        },
    ],
}  # fmt: skip


def mixed_rows(seed: int, count: int, first: datetime) -> list[tuple[Any, ...]]:
    """Times in whole seconds, odd or even by the seed, so that none is there twice."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        number = draw.choice([0.0, -1.5, draw.gauss(3, 50), -draw.random() * 1e6, draw.random()])
        row = [
            first + timedelta(seconds=350 * i + seed),
            [None, "a", "b"][draw.randrange(3)],
            number,
            Decimal(draw.randrange(-5, 6)) / draw.choice([1, 2, 4]),
            draw.randrange(-3, 4),
            draw.choice([0.5, 1.25, -8.0]),
            draw.random() < 0.8,
            draw.choice(["x", "X", "é", "", "yy"]),
            uuid.UUID(int=draw.randrange(40)),
            timedelta(seconds=draw.randrange(-500, 90_000)),
            1e9 + draw.gauss(0, 1),
            draw.random() + 0.01,
        ]
        for place in range(2, len(row)):
            if draw.random() < 0.1:
                row[place] = None
        rows.append(tuple(row))
    return rows


def known(group: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in group if row[name] is not None]


def geomean(group: Sequence[Row]) -> Any:
    values = known(group, "up")
    if not values:
        return None
    mean = math.exp(math.fsum(math.log(value) for value in values) / len(values))
    return near(mean, 1e-9 * mean)


MIXED_FURTHER = {
    "f_histogram": values_reference.histogram_of(column("f"), BOUNDS),
    "up_geomean": geomean,
}


def test_every_aggregate_at_three_levels(db: psycopg.Connection) -> None:
    """With NULLs, zeros and negative values, late rows, deletes and updates."""
    db.execute(MIXED)
    insert(db, "raw.mixed", mixed_rows(1, 300, FIRST))
    create_levels(db, "raw.mixed", MIXED_METRICS)
    plain = {
        name: [x for x in metrics if isinstance(x, str) and x != "ohlc"]
        for name, metrics in MIXED_METRICS.items()
    }
    plain["f"] += ["open", "high", "low", "close"]
    wanted = [
        Wanted(name, buckets, BY_DEVICE, plain, further=MIXED_FURTHER)
        for name, buckets in LEVELS.items()
    ]
    assert_live_and_stored(db, "raw.mixed", *wanted)
    insert(db, "raw.mixed", mixed_rows(2, 50, FIRST + timedelta(hours=5)))
    db.execute("DELETE FROM raw.mixed WHERE i = 2 AND ts < '2026-03-29 06:00+00'")
    db.execute("UPDATE raw.mixed SET f = -f, far = far + 1, i = NULL WHERE i = 1")
    db.execute("UPDATE raw.mixed SET device = 'c' WHERE device = 'a' AND i = 0")
    assert_live_and_stored(db, "raw.mixed", *wanted)


def test_percentiles_of_many_rows_keep_to_one_per_cent(db: psycopg.Connection) -> None:
    """Of values of all sizes, below zero, and of heavy tails; merged twice."""
    names = ["p1", "p5", "p10", "p50", "p90", "p95", "p99", "p99.9"]
    db.execute("CREATE TABLE raw.wide (ts timestamptz, device text, v float8, n numeric, i bigint)")
    draw = random.Random(5)
    shapes: dict[str, Callable[[], float]] = {
        "sizes": lambda: 10 ** draw.uniform(-12, 12) * draw.choice([-1, 1]),
        "tail": lambda: draw.paretovariate(0.8),
        "normal": lambda: draw.gauss(1000, 10),
        "below": lambda: -draw.expovariate(0.001),
        "few": lambda: draw.choice([0.0, 0.0, 1.0, -1.0, 1e-9]),
    }
    rows = []
    for shape, value in shapes.items():
        for i in range(1000):
            v = value()
            number = None if i % 50 == 0 else v
            rows.append((FIRST + timedelta(seconds=20 * i), shape, number, Decimal(str(v)), int(v)))
    insert(db, "raw.wide", rows)
    metrics = {"v": names, "n": names, "i": names}
    create_levels(db, "raw.wide", metrics)
    assert_live_and_stored(
        db,
        "raw.wide",
        *[Wanted(name, buckets, BY_DEVICE, metrics) for name, buckets in LEVELS.items()],
    )


def test_distinct_counts_err_by_two_per_cent(db: psycopg.Connection) -> None:
    """Exact when few; of what is equal only once; children count what their parts share once."""
    db.execute("CREATE TABLE raw.users (ts timestamptz, device text, i integer, t text, u uuid)")
    db.execute(
        "INSERT INTO raw.users SELECT timestamptz '2026-03-28 20:00+00' + make_interval(mins => i),"
        " 'd' || i % 5, j * 7 + i % 5, 'user ' || (j + i % 40), md5((i % 20)::text || j)::uuid"
        " FROM generate_series(0, 39) AS i, generate_series(1, 500) AS j"
    )
    metrics = {"i": ["distinct"], "t": ["distinct"], "u": ["distinct"]}
    create_levels(db, "raw.users", metrics)
    wanted = [Wanted(name, buckets, BY_DEVICE, metrics) for name, buckets in LEVELS.items()]
    assert_live_and_stored(db, "raw.users", *wanted)
    errors = []
    for level in wanted:
        groups = level.groups(rows_of(db, "raw.users"))
        for row in rows_of(db, f"gold.{level.view}"):
            group = groups[(row["bucket"].astimezone(UTC), row["device"])]
            for name in metrics:
                count = len({raw[name] for raw in group})
                errors.append(row[f"{name}_distinct"] / count - 1)
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) < 0.025, errors

    db.execute("CREATE TABLE raw.same (ts timestamptz, n numeric, f float8, t text)")
    db.execute(
        "INSERT INTO raw.same VALUES ('2026-03-01', 1.0, 0, 'a'), ('2026-03-01', 1.00, '-0', 'A'),"
        " ('2026-03-01', 1, 'NaN', 'a '), ('2026-03-01', 'NaN', 'NaN', ''),"
        " ('2026-03-01', NULL, NULL, NULL)"
    )
    same = {"n": ["distinct"], "f": ["distinct"], "t": ["distinct"]}
    create(db, "raw.same", "same_1d", "1 day", metrics=same)
    assert_live_and_stored(db, "raw.same", Wanted("same_1d", Buckets("1 day"), metrics=same))


def test_odd_numbers(db: psycopg.Connection) -> None:
    """NaN and infinities are what they are to PostgreSQL; no read and no refresh fails."""
    db.execute("CREATE TABLE raw.odd (ts timestamptz, device text, f float8, n numeric)")
    groups: dict[str, list[str | None]] = {
        "nan": ["NaN", "1", "2", "3"], "all_nan": ["NaN", "NaN"], "inf": ["Infinity", "1", "2"],
        "both": ["Infinity", "-Infinity"], "null": [None, None], "one": ["7"], "zero": ["0", "0"],
        "huge": ["1e150", "1", "-1e150"], "tiny": ["1e-120", "-1e-120", "0"],
    }  # fmt: skip
    for device, values in groups.items():
        for number, value in enumerate(values):
            db.execute(
                "INSERT INTO raw.odd VALUES (timestamptz '2026-03-01' + make_interval(mins => %s),"
                " %s, %s, %s)",
                [7 * number, device, value, None if value and "e" in value else value],
            )
    metrics = {"f": ["sum", "avg", "min", "max"], "n": ["sum", "min", "max"]}
    more = {
        "f": [*metrics["f"], *SPREADS, "p1", "p50", "p99", "distinct", "mode"],
        "n": [*metrics["n"], *SPREADS, "p50", "distinct", "mode"],
    }
    create_levels(db, "raw.odd", more)
    checked = {"f": [*metrics["f"], "distinct"], "n": [*metrics["n"], "distinct"]}
    wanted = [Wanted(name, buckets, BY_DEVICE, checked) for name, buckets in LEVELS.items()]
    assert_live_and_stored(db, "raw.odd", *wanted)
    rows = {row["device"]: row for row in rows_of(db, "gold.of_1d")}
    assert rows["null"]["f_p50"] is None
    assert rows["null"]["f_stddev"] is None
    assert rows["one"]["f_stddev"] is None
    assert (rows["one"]["f_stddev_pop"], rows["zero"]["f_stddev"]) == (0, 0)
    assert near(7, 0.07).low <= rows["one"]["f_p99"] <= 7.07
    assert (rows["zero"]["f_p1"], rows["zero"]["f_p99"]) == (0, 0)
    assert math.isnan(rows["nan"]["f_stddev"])
    assert 0.99 <= rows["nan"]["f_p1"] <= 1.01
    assert rows["both"]["f_p1"] == -math.inf
    assert rows["tiny"]["f_p1"] == pytest.approx(-1e-120, rel=0.01, abs=0)
