"""Percentiles are within one percent, at every level, of whatever values."""

import psycopg
import pytest

from aggregate_levels import LEVELS, TABLE, create_levels
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything


@pytest.mark.parametrize(
    "values",
    [
        "exp(i / 100.0)",
        "-exp(i / 100.0)",
        "(i - 500) / 7.0",
        "CASE i % 3 WHEN 0 THEN 0 WHEN 1 THEN 1e-130 * i ELSE 1e130 * i END",
        "1e9 + i",
    ],
)
def test_percentiles_are_within_one_percent(db: psycopg.Connection, values: str) -> None:
    """At every rank, folded or not; percentile_disc is the measure."""
    wanted = [x / 10 for x in (1, 5, 10, 100, 250, 500, 900, 950, 990, 999)]
    create_levels(db, {"level": [f"p{x:g}" for x in wanted], "amount": ["p50"]})
    db.execute(
        "INSERT INTO raw.numbers (ts, device, level, amount)"
        " SELECT timestamptz '2026-03-01 00:00+00' + make_interval(secs => i),"
        f" 'd' || i % 2, {values}, {values} FROM generate_series(1, 2000) AS i"
    )
    for _ in range(2):
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_a_sketch_counts_beyond_one_element(db: psycopg.Connection) -> None:
    """32768 values in a bin fill an element; the 32769th begins another."""
    row = db.execute(
        "SELECT rollup_engine.fold_bins(array_fill(40000, ARRAY[32768])),"
        " rollup_engine.fold_bins(array_fill(40000, ARRAY[70000])),"
        " rollup_engine.fold_bins(rollup_engine.fold_bins(array_fill(40000, ARRAY[70000])) || 5)"
    ).fetchone()
    assert row
    full = 40000 + (32767 << 16)
    rest = 40000 + ((70000 - 2 * 32768 - 1) << 16)
    assert row == ([full], [rest, full, full], [5, rest, full, full])
    assert db.execute(
        "SELECT rollup_engine.percentile(%s, 1.0 / 70001), rollup_engine.percentile(%s, 0.5)"
        " = rollup_engine.percentile('{40000}', 0.5)", [row[2], row[2]]
    ).fetchone() == (pytest.approx(0, abs=1e200), True)  # fmt: skip


def test_many_sketches_are_merged_in_the_time_of_one_pass(db: psycopg.Connection) -> None:
    """A fleet's minutes make a day. By the square of them, this takes minutes."""
    found = db.execute(
        "SELECT replace(from_state, '{state}', 'bins') FROM rollup_engine.aggregate_state"
        " WHERE name = 'sketch' AND takes = 'float'"
    ).fetchone()
    assert found
    twice = "ARRAY(SELECT b + (1 << 16) FROM generate_series(40001, 40100) AS b)"
    rows = f"(SELECT {twice} AS bins) AS s CROSS JOIN generate_series(1, 20000)"
    db.execute("SET statement_timeout = '20s'")
    merged = f"SELECT cardinality(m), m[1:2] FROM (SELECT {found[0]} FROM {rows}) AS x (m)"
    row = db.execute(merged.encode()).fetchone()
    assert row == (200, [40001 + ((40000 - 32768 - 1) << 16), 40001 + (32767 << 16)])


def test_percentiles_of_what_no_float_holds(db: psycopg.Connection) -> None:
    create_levels(db, {"amount": ["p25", "p50", "p75"]})
    db.execute(
        "INSERT INTO raw.numbers (ts, device, amount)"
        " SELECT '2026-03-01 22:00+00', 'a', v::numeric"
        " FROM unnest('{-7, -1e-400, 1e-400, 1e-300, 1e400}'::text[]) AS v"
    )
    for _ in range(2):
        for level in LEVELS:
            query = f"SELECT amount_p25, amount_p50, amount_p75 FROM gold.{level}"
            assert db.execute(query.encode()).fetchall() == [(0, 0, 0)]
        refresh_everything(db)


def test_one_percentile_has_one_name(db: psycopg.Connection) -> None:
    db.execute(TABLE.encode())
    db.execute(
        "SELECT silver.create_rollup_table('raw.numbers', 'silver', 'once', '1 minute', metrics =>"
        ' \'{"small": ["p5", "p05", {"name": "p5.0"}], "level": "p99.90"}\')'
    )
    assert db.execute("SELECT metrics FROM silver.rollup_config").fetchone() == (
        {"small": ["p5"], "level": ["p99.9"]},
    )
    db.execute("SELECT small_p5, level_p99_9 FROM gold.once")
