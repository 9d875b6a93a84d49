"""A table of numbers of all types, and three levels of rollups over it."""

import json
from typing import Any

import psycopg

LEVELS = ("numbers_1m", "numbers_1h", "numbers_1d")
NUMBERS = ["avg", "variance", "variance_pop", "stddev", "stddev_pop", "ohlc", "median",
           "p1", "p95", "p99.9", "distinct",
           {"name": "histogram", "bounds": [-100, 0, 0.5, 250]}]  # fmt: skip
GEOMEAN = {
    "name": "custom",
    "as": "geomean",
    "state": "sum(ln(abs({value}) + 1))",
    "combine": "sum({state})",
    "finish": "exp({state} / {count})",
}
METRICS: dict[str, list[Any]] = {
    "small": [*NUMBERS, GEOMEAN],
    "big": ["avg", "variance", "p50", "distinct"],
    "amount": ["avg", "stddev_pop", "median", "p99", "distinct"],
    "level": NUMBERS,
    "coarse": ["avg", "stddev", "ohlc", "p10"],
    "flag": ["mode", "distinct", "count", "min", "max", "bool_and", "bool_or", "first", "last"],
    "device": ["distinct", "mode", "value_counts"],
    "took": ["count", "sum", "avg", "min", "max"],
}
TABLE = """
    CREATE TABLE raw.numbers (
        ts timestamptz, device text, small integer, big bigint, amount numeric,
        level double precision, coarse real, flag boolean, took interval
    );
    CREATE INDEX ON raw.numbers (ts);
    -- No two rows at one time: which of them came first would be anybody's guess.
    CREATE SEQUENCE raw.tick;
"""
ROWS = """
    INSERT INTO raw.numbers
    SELECT timestamptz '2026-03-01 22:00+00' + make_interval(mins => %(low)s, secs => i * %(step)s
        + nextval('raw.tick') %% 9973 * 0.000001), %(device)s,
        x, x * 1000003::bigint, x * 1.25, x / 3.0, x / 7.0, x %% 3 > 0,
        make_interval(hours => x %% 50, secs => x)
    FROM (
        SELECT i, nullif(abs(hashint4(i + %(seed)s)) %% 2001 - 1000, %(seed)s) AS x
        FROM generate_series(1, %(size)s) AS i
    ) AS s
"""
SPECIAL = """
    INSERT INTO raw.numbers (ts, device, amount, level, coarse)
    SELECT timestamptz '2026-03-01 22:00:00.5+00' + make_interval(mins => %(low)s,
        secs => nextval('raw.tick') %% 9973 * 0.000001), %(device)s, v, v, v
    FROM unnest(ARRAY[%(special)s]::text[]::numeric[]) AS v
"""


def create_levels(db: psycopg.Connection, metrics: dict[str, list[Any]], kept: str = "{}") -> None:
    db.execute(TABLE.encode())
    db.execute(
        "SELECT silver.create_rollup_table('raw.numbers', 'silver', 'numbers_1m', '1 minute',"
        " dimensions => '{device}', metrics => %s)",
        [json.dumps(metrics)],
    )
    db.execute("SELECT silver.create_rollup_table('numbers_1m', 'silver', 'numbers_1h', '1 hour')")
    db.execute(
        "SELECT silver.create_rollup_table('numbers_1h', 'silver', 'numbers_1d', '1 day',"
        " dimensions => %s)",
        [kept],
    )


def fill(db: psycopg.Connection, size: int, **given: Any) -> None:
    parameters = {"low": 0, "step": 1, "device": "a", "seed": 7, "size": size} | given
    db.execute(ROWS.encode(), parameters)
