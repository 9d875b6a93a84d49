"""Random histories over random rollups: widths, zones, origins, filters, expressions, aggregates.

Each history runs in a transaction that is rolled back, so that all share one database.
TSROLLUP_HISTORIES=n tries more of them.
"""

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from blackbox.calendar_reference import Buckets
from blackbox.rollup_reference import (
    Row,
    Wanted,
    assert_live,
    assert_live_and_stored,
    column,
    create,
)

SIX = datetime(2026, 1, 1, 6, tzinfo=UTC)
# Levels, each of whole buckets of the one before.
FAMILIES = [
    [Buckets("15 minutes"), Buckets("1 hour"), Buckets("1 day", "Europe/Berlin")],
    [
        Buckets("15 minutes"),
        Buckets("1 day", "Asia/Kathmandu"),
        Buckets("1 month", "Asia/Kathmandu"),
    ],
    [Buckets("1 hour"), Buckets("1 day", "America/Havana"), Buckets("1 year", "America/Havana")],
    [Buckets("30 minutes"), Buckets("1 day", "Australia/Lord_Howe")],
    [Buckets("1 day", "Europe/Berlin"), Buckets("1 week", "Europe/Berlin")],
    [Buckets("1 hour", "Europe/Berlin"), Buckets("1 quarter", "Europe/Berlin")],
    [Buckets("1 day", "UTC", SIX), Buckets("7 days", "UTC", SIX)],
    [Buckets("90 seconds", "UTC", SIX), Buckets("3 hours", "UTC", SIX)],
    [Buckets("6 hours", "America/Havana"), Buckets("12 hours", "America/Havana")],
    [Buckets("1 month", "UTC", SIX)],
]
FILTERS: list[tuple[str | None, Callable[[Row], bool]]] = [
    (None, lambda _: True),
    ("value >= 0", lambda row: row["value"] is not None and row["value"] >= 0),
    (
        "state = 'ok' OR value = 3",
        lambda row: row["state"] == "ok" or row["value"] == 3,
    ),
    ("payload ? 'k'", lambda row: row["payload"] is not None and "k" in row["payload"]),
]


def of_key(row: Row) -> str | None:
    return row["payload"].get("k") if row["payload"] is not None else None


EXPRESSIONS: Mapping[str, tuple[str, Callable[[Row], Any]]] = {
    "kind": ("payload->>'k'", of_key),
    "good": ("CASE WHEN state = 'ok' THEN level END",
             lambda row: row["level"] if row["state"] == "ok" else None),
    "twice": ("value * 2 + 1", lambda row: None if row["value"] is None else row["value"] * 2 + 1),
}  # fmt: skip
DIMENSIONS = [[], ["device"], ["kind"], ["device", "kind"]]
METRICS: list[dict[str, list[str]]] = [
    {"value": ["count", "sum", "avg", "min", "max"]},
    {"level": ["avg", "stddev", "variance_pop"], "good": ["sum", "count"]},
    {"level": ["p5", "p50", "p95", "p99.9"], "twice": ["median"]},
    {"value": ["distinct", "mode"], "state": ["distinct", "mode"]},
    {"twice": ["sum", "max"], "good": ["p95", "stddev_pop"], "flag": ["bool_and", "bool_or"]},
    {"value": ["first", "last"], "level": ["min"]},
]
SCHEMA = """
    CREATE TABLE raw.random (
        ts timestamptz, device text, value integer, level float8, state text, flag boolean,
        payload jsonb, number bigint GENERATED ALWAYS AS IDENTITY
    );
    CREATE INDEX ON raw.random (ts)
"""
# Around the days when the clocks of these zones change, and a day of a leap year.
PLACES = [
    datetime(2026, 3, 28, 22, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC),
    datetime(2026, 3, 8, 3, tzinfo=UTC), datetime(2026, 11, 1, 2, tzinfo=UTC),
    datetime(2026, 4, 4, 13, tzinfo=UTC), datetime(2024, 2, 28, 20, tzinfo=UTC),
]  # fmt: skip
STATEMENTS = [
    "UPDATE raw.random SET value = -value, state = 'ok' WHERE {there}",
    "UPDATE raw.random SET ts = ts + interval '97 minutes 0.4 seconds' WHERE {there}",
    'UPDATE raw.random SET payload = \'{{"k": "moved"}}\' WHERE {there} AND value > 0',
    "DELETE FROM raw.random WHERE {there} AND number % 3 = 1",
    "DELETE FROM raw.random WHERE {there}",
    "TRUNCATE raw.random",
    "SELECT * FROM silver.perform_rollup(max_batches => 1, as_of => 'infinity')",
    "SELECT * FROM silver.perform_rollup(as_of => 'infinity')",
    "SELECT silver.mark_stale('raw.random', {low}, {high})",
    "SELECT silver.refresh_rollup('random_0', {low}, {high})",
]


@dataclass(frozen=True)
class Plan:
    """A family of rollups over raw.random, and what befalls it."""

    family: int
    filter: int
    dimensions: int
    metrics: tuple[int, ...]
    drops_a_dimension: bool
    steps: tuple[tuple[str, int, int, int], ...]


def plan_of(seed: int) -> Plan:
    draw = random.Random(seed)
    return Plan(
        seed % len(FAMILIES),
        draw.randrange(len(FILTERS)),
        draw.randrange(len(DIMENSIONS)),
        tuple(draw.sample(range(len(METRICS)), draw.randint(1, 3))),
        draw.random() < 0.5,
        tuple(
            (
                draw.choice(["INSERT", draw.choice(STATEMENTS)]),
                draw.randrange(len(PLACES)),
                draw.randrange(40),
                draw.randint(1, 30),
            )
            for _ in range(draw.randint(4, 9))
        ),
    )


def test_random_rollups_equal_the_group_by(db: psycopg.Connection) -> None:
    """Before and after each refresh, at each level."""
    db.execute(SCHEMA)
    db.execute("SET plan_cache_mode = force_custom_plan")

    @settings(
        max_examples=int(os.environ.get("TSROLLUP_HISTORIES", "4")),
        derandomize="TSROLLUP_HISTORIES" not in os.environ,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 10**6))
    def tell(seed: int) -> None:
        plan = plan_of(seed)
        note(str(plan))
        with db.transaction(force_rollback=True):
            write(db, 0, 7, 30)
            wanted = create_family(db, plan)
            assert_live(db, "raw.random", *wanted)
            for step in plan.steps:
                take(db, *step)
                assert_live(db, "raw.random", *wanted)
            assert_live_and_stored(db, "raw.random", *wanted)

    tell()


def create_family(connection: psycopg.Connection[Any], plan: Plan) -> list[Wanted]:
    condition, keep = FILTERS[plan.filter]
    dimensions = DIMENSIONS[plan.dimensions]
    metrics: dict[str, list[str]] = {}
    for number in plan.metrics:
        for name, aggregates in METRICS[number].items():
            metrics[name] = sorted({*metrics.get(name, []), *aggregates})
    used = {name: EXPRESSIONS[name] for name in (*dimensions, *metrics) if name in EXPRESSIONS}
    wanted = []
    source = "raw.random"
    for level, buckets in enumerate(FAMILIES[plan.family]):
        options: dict[str, Any] = {"timezone": buckets.zone, "origin": buckets.origin}
        if level == 0:
            options |= {"dimensions": dimensions, "metrics": metrics, "filter": condition}
            options["expressions"] = {name: text for name, (text, _) in used.items()} or None
        elif plan.drops_a_dimension:
            dimensions = dimensions[:-1]
            options["dimensions"] = dimensions
        create(connection, source, f"random_{level}", buckets.interval, **options)
        source = f"random_{level}"
        values = {name: compute for name, (_, compute) in used.items()}
        of_rows = {name: values.get(name, column(name)) for name in dimensions}
        wanted.append(Wanted(source, buckets, of_rows, metrics, values, keep=keep))
    return wanted


def take(
    connection: psycopg.Connection[Any], statement: str, place: int, low: int, length: int
) -> None:
    if statement == "INSERT":
        write(connection, place, low, length)
        return
    since = PLACES[place] + timedelta(minutes=13 * low)
    until = since + timedelta(minutes=29 * length)
    texts = {"low": f"timestamptz '{since}'", "high": f"timestamptz '{until}'"}
    there = "ts >= {low} AND ts < {high}".format(**texts)
    connection.execute(statement.format(there=there, **texts).encode())


def write(connection: psycopg.Connection[Any], place: int, low: int, length: int) -> None:
    """Rows some minutes apart, at times that no other call of the same history has."""
    connection.execute(
        "INSERT INTO raw.random (ts, device, value, level, state, flag, payload)"
        " SELECT %(since)s + make_interval(mins => i * 17) + make_interval(secs => n / 1e6),"
        " (ARRAY['x', 'y', NULL])[1 + (i + n) %% 3], nullif((i * 7 + n) %% 11 - 4, 5),"
        " CASE WHEN i %% 7 <> 3 THEN ((i * 31 + n) %% 50 - 20) * 1.25 END,"
        " (ARRAY['ok', 'bad', NULL])[1 + (i / 2) %% 3], nullif(i %% 4, 3) > 0,"
        " CASE i %% 4 WHEN 0 THEN NULL WHEN 1 THEN '{}'"
        "  ELSE jsonb_build_object('k', (ARRAY['a', 'b', NULL])[1 + i %% 3]) END::jsonb"
        " FROM generate_series(1, %(length)s) AS i,"
        " (SELECT coalesce(max(number), 0) + 1 AS n FROM raw.random) AS n",
        {"since": PLACES[place] + timedelta(minutes=13 * low), "length": length},
    )
