"""Random histories over random rollups: times, widths, zones, origins, filters, expressions,
aggregates.

Each history runs in a transaction that is rolled back, so that all share one database.
TSROLLUP_HISTORIES=n tries more of them.
"""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from blackbox.calendar_reference import Buckets, as_utc
from blackbox.numbers_reference import PER_SECOND, time_of
from blackbox.rollup_reference import (
    Row,
    Wanted,
    assert_live,
    assert_live_and_stored,
    column,
    create,
)
from blackbox.values_reference import histogram_of, near

SIX = datetime(2026, 1, 1, 6, tzinfo=UTC)
# Levels, each of whole buckets of the one before. Others are drawn.
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
WIDTHS = [
    "1 minute", "5 minutes", "10 minutes", "15 minutes", "30 minutes", "1 hour", "2 hours",
    "6 hours", "12 hours", "1 day", "2 days", "1 week", "1 month", "1 quarter", "1 year",
]  # fmt: skip
ZONES = [
    "UTC", "UTC", "Europe/Berlin", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe",
    "Asia/Kathmandu", "Asia/Kolkata", "Pacific/Chatham", "America/St_Johns",
]  # fmt: skip
ORIGINS = [None, None, None, SIX, datetime(2025, 12, 31, 22, 45, tzinfo=UTC)]
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
BOUNDS = [-10, 0, 7.5, 20]
HISTOGRAM = {"name": "histogram", "bounds": BOUNDS}
ROOT_OF_SQUARES = {
    "name": "custom", "as": "rms", "state": "sum({value} * {value})", "combine": "sum({state})",
    "finish": "sqrt({state} / {count})",
}  # fmt: skip
METRICS: list[dict[str, list[Any]]] = [
    {"value": ["count", "sum", "avg", "min", "max"]},
    {"level": ["avg", "stddev", "variance_pop"], "good": ["sum", "count"]},
    {"level": ["p5", "p50", "p95", "p99.9"], "twice": ["median"]},
    {"value": ["distinct", "mode"], "state": ["distinct", "mode", "value_counts"]},
    {"twice": ["sum", "max"], "good": ["p95", "stddev_pop"], "flag": ["bool_and", "bool_or"]},
    {"value": ["first", "last"], "level": ["min"]},
    {"value": ["increase", "rate"], "level": ["increase"]},
    {"level": ["time_weighted_avg", "rate"], "twice": ["time_weighted_avg"]},
    {"level": ["ohlc", HISTOGRAM], "good": [ROOT_OF_SQUARES]},
    {"spent": ["sum", "avg", "max"], "twice": ["value_counts", "ohlc"], "level": [ROOT_OF_SQUARES]},
]
# What is said of the rows of one series only.
OF_SERIES = {"increase", "rate", "time_weighted_avg"}
COLUMNS_OF = {
    "ohlc": ["open", "high", "low", "close"],
    "value_counts": ["value_counts", "value_counts_rest"],
}


@dataclass(frozen=True)
class Clock:
    """The type of the time column, and the unit of a number."""

    type: str
    unit: str | None = None

    def of(self, time: str) -> str:
        """What the column holds for a timestamptz."""
        if self.unit:
            return self._number(f"extract(epoch FROM {time})")
        return f"({time}) AT TIME ZONE 'UTC'" if self.type == "timestamp" else time

    def after(self, seconds: float) -> str:
        return self._number(f"{seconds}") if self.unit else f"make_interval(secs => {seconds})"

    def _number(self, seconds: str) -> str:
        number = f"{seconds} * {PER_SECOND[self.unit or 's']}"
        return f"({number})" if self.type == "numeric" else f"floor({number})::{self.type}"

    def read(self, row: Row) -> datetime | None:
        return time_of(self.unit, "ts")(row) if self.unit else as_utc(row["ts"])


CLOCKS = [
    Clock("timestamptz"), Clock("timestamptz"), Clock("timestamptz"), Clock("timestamp"),
    Clock("integer", "s"), Clock("bigint", "s"), Clock("bigint", "ms"), Clock("bigint", "us"),
    Clock("bigint", "ns"), Clock("numeric", "s"), Clock("numeric", "ms"), Clock("numeric", "ns"),
]  # fmt: skip
SCHEMA = """
    CREATE TABLE raw.random (
        ts {type}, device text, value integer, level float8, state text, flag boolean,
        payload jsonb, spent interval, number bigint GENERATED ALWAYS AS IDENTITY, call integer
    );
    CREATE INDEX ON raw.random (ts)
"""
# Around the days when the clocks of these zones change, and a day of a leap year. Long ago: what is
# written now is not stored in the transaction that writes.
PLACES = [
    datetime(2025, 3, 29, 22, tzinfo=UTC), datetime(2025, 10, 25, 22, tzinfo=UTC),
    datetime(2025, 3, 9, 3, tzinfo=UTC), datetime(2025, 11, 2, 2, tzinfo=UTC),
    datetime(2025, 4, 5, 13, tzinfo=UTC), datetime(2024, 2, 28, 20, tzinfo=UTC),
]  # fmt: skip
# When borders of a child must be such of its parent.
FIRST, END = datetime(2023, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
STATEMENTS = [
    "UPDATE raw.random SET value = -value, state = 'ok' WHERE {there}",
    "UPDATE raw.random SET ts = ts + {some_time} WHERE {there}",
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

    clock: Clock
    family: Sequence[Buckets]
    filter: int
    dimensions: int
    metrics: tuple[int, ...]
    drops_a_dimension: bool
    steps: tuple[tuple[str, int, int, int], ...]


def plan_of(seed: int) -> Plan:
    draw = random.Random(seed)
    metrics = tuple(draw.sample(range(len(METRICS)), draw.randint(1, 3)))
    has_series = any(OF_SERIES & set(map(str, x)) for m in metrics for x in METRICS[m].values())
    return Plan(
        draw.choice(CLOCKS),
        draw_family(draw) if draw.random() < 0.5 else draw.choice(FAMILIES),
        draw.randrange(len(FILTERS)),
        draw.randrange(len(DIMENSIONS)),
        metrics,
        draw.random() < 0.5 and not has_series,
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


def draw_family(draw: random.Random) -> list[Buckets]:
    def any_buckets(widths: Sequence[str]) -> Buckets:
        return Buckets(draw.choice(widths), draw.choice(ZONES), draw.choice(ORIGINS))

    # Not so long that what was written long ago is next to now.
    family = [any_buckets(WIDTHS[:-2])]
    for _ in range(30):
        further = any_buckets(WIDTHS)
        if len(family) < 3 and further != family[-1] and is_made_of(further, family[-1]):
            family.append(further)
    return family


def is_made_of(buckets: Buckets, parts: Buckets) -> bool:
    """Whether each border is one of the parts', told by borders of four days and of what lies
    between."""
    first = buckets.between(FIRST, FIRST + timedelta(days=4))
    if not all(parts.of(border) == border for border in first):
        return False
    return all(parts.of(border) == border for border in buckets.between(FIRST, END))


def test_random_rollups_equal_the_group_by(db: psycopg.Connection) -> None:
    """Before and after each refresh, at each level."""
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
            db.execute(SCHEMA.format(type=plan.clock.type).encode())
            write(db, plan.clock, 0, 7, 30)
            wanted = create_family(db, plan)
            assert_live(db, "raw.random", *wanted)
            for step in plan.steps:
                take(db, plan.clock, *step)
                assert_live(db, "raw.random", *wanted)
            assert_live_and_stored(db, "raw.random", *wanted)

    tell()


def create_family(connection: psycopg.Connection[Any], plan: Plan) -> list[Wanted]:
    condition, keep = FILTERS[plan.filter]
    dimensions = DIMENSIONS[plan.dimensions]
    metrics: dict[str, list[Any]] = {}
    for number in plan.metrics:
        for name, aggregates in METRICS[number].items():
            known = metrics.setdefault(name, [])
            known += [aggregate for aggregate in aggregates if aggregate not in known]
    used = {name: EXPRESSIONS[name] for name in (*dimensions, *metrics) if name in EXPRESSIONS}
    values = {name: compute for name, (_, compute) in used.items()}
    plain, further = columns_of(metrics, values)
    wanted = []
    source = "raw.random"
    for level, buckets in enumerate(plan.family):
        options: dict[str, Any] = {"timezone": buckets.zone, "origin": buckets.origin}
        if level == 0:
            options |= {"dimensions": dimensions, "metrics": metrics, "filter": condition}
            options["expressions"] = {name: text for name, (text, _) in used.items()} or None
            options |= {"time_column": "ts", "time_unit": plan.clock.unit}
        elif plan.drops_a_dimension:
            dimensions = dimensions[:-1]
            options["dimensions"] = dimensions
        create(connection, source, f"random_{level}", buckets.interval, **options)
        source = f"random_{level}"
        of_rows = {name: values.get(name, column(name)) for name in dimensions}
        wanted.append(
            Wanted(
                source, buckets, of_rows, plain, values, further,
                keep=keep, time=plan.clock.read, order=plan.clock.read,
            )
        )  # fmt: skip
    return wanted


def columns_of(
    metrics: Mapping[str, Sequence[Any]], values: Mapping[str, Callable[[Row], Any]]
) -> tuple[dict[str, list[str]], dict[str, Callable[[Sequence[Row]], Any]]]:
    """The columns of metrics by names that values_reference knows, and those with parameters."""
    plain: dict[str, list[str]] = {}
    further: dict[str, Callable[[Sequence[Row]], Any]] = {}
    for name, aggregates in metrics.items():
        value = values.get(name, column(name))
        named = [x for x in aggregates if isinstance(x, str)]
        plain[name] = [part for x in named for part in COLUMNS_OF.get(x, [x])]
        if HISTOGRAM in aggregates:
            further[f"{name}_histogram"] = histogram_of(value, BOUNDS)
        if ROOT_OF_SQUARES in aggregates:
            further[f"{name}_rms"] = root_of_squares(value)
    return plain, further


def root_of_squares(value: Callable[[Row], Any]) -> Callable[[Sequence[Row]], Any]:
    def compute(group: Sequence[Row]) -> Any:
        squares = [value(row) ** 2 for row in group if value(row) is not None]
        root = (sum(squares) / len(squares)) ** 0.5 if squares else 0
        return near(root, 1e-9 * root) if squares else None

    return compute


def take(
    connection: psycopg.Connection[Any],
    clock: Clock,
    statement: str,
    place: int,
    low: int,
    length: int,
) -> None:
    if statement == "INSERT":
        write(connection, clock, place, low, length)
        return
    since = PLACES[place] + timedelta(minutes=13 * low)
    until = since + timedelta(minutes=29 * length)
    texts = {"low": f"timestamptz '{since}'", "high": f"timestamptz '{until}'"}
    there = "ts >= {} AND ts < {}".format(*(clock.of(text) for text in texts.values()))
    texts |= {"there": there, "some_time": clock.after(97 * 60 + 0.37)}
    connection.execute(statement.format(**texts).encode())


def write(
    connection: psycopg.Connection[Any], clock: Clock, place: int, low: int, length: int
) -> None:
    """Rows some minutes apart, at times that no other call of the same history has."""
    time = clock.of("%(since)s + make_interval(mins => i * 17, secs => call)")
    connection.execute(
        (
            "INSERT INTO raw.random (ts, device, value, level, state, flag, payload, spent, call)"
            f" SELECT {time},"
            " (ARRAY['x', 'y', NULL])[1 + (i + n) %% 3], nullif((i * 7 + n) %% 11 - 4, 5),"
            " CASE WHEN i %% 7 <> 3 THEN ((i * 31 + n) %% 50 - 20) * 1.25 END,"
            " (ARRAY['ok', 'bad', NULL])[1 + (i / 2) %% 3], nullif(i %% 4, 3) > 0,"
            " CASE i %% 4 WHEN 0 THEN NULL WHEN 1 THEN '{}'"
            "  ELSE jsonb_build_object('k', (ARRAY['a', 'b', NULL])[1 + i %% 3]) END::jsonb,"
            " CASE WHEN i %% 5 <> 1 THEN make_interval(secs => i * 100 - n / 8.0) END, call"
            " FROM generate_series(1, %(length)s) AS i,"
            " (SELECT coalesce(max(number), 0) + 1 AS n, coalesce(max(call), 0) + 1 AS call"
            "  FROM raw.random) AS known"
        ).encode(),
        {"since": PLACES[place] + timedelta(minutes=13 * low), "length": length},
    )
