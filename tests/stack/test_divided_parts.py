"""Partitions of a table that are handed over to be divided in turn: months by days."""

import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by

pytestmark = [pytest.mark.partman, pytest.mark.spread]

MONTHS = [date(2026, month, 1) for month in range(1, 5)]
NOW = datetime(2026, 3, 28, 12, tzinfo=UTC)


def name(month: date) -> str:
    return f"raw.m{month.month}"


def maintain(db: psycopg.Connection, now: datetime = NOW) -> None:
    query = "SELECT * FROM rollup_engine.run_maintenance(NULL, %s) WHERE action = 'failed'"
    assert db.execute(query, [now]).fetchall() == []


def divide(db: psycopg.Connection) -> None:
    """By as many runs of maintenance as that takes: each keeps users waiting for a second."""
    rows = " UNION ALL ".join(f"SELECT FROM {name(month)}_default" for month in MONTHS[:3])
    for _ in range(100):
        if db.execute(f"SELECT FROM ({rows}) AS r LIMIT 1".encode()).fetchone() is None:
            return
        maintain(db)
        time.sleep(0.1)  # sessions of other tests may have read before
    raise AssertionError("rows stay in default partitions")


@pytest.fixture
def months(db: psycopg.Connection) -> psycopg.Connection:
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.s (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    for start, end in pairwise(MONTHS):
        db.execute(
            f"CREATE TABLE {name(start)} PARTITION OF raw.s FOR VALUES FROM ('{start}')"
            f" TO ('{end}') PARTITION BY RANGE (ts)".encode()
        )
        db.execute("SELECT silver.partition_source(%s, '1 day')", [name(start)])
    db.execute(
        "INSERT INTO raw.s SELECT t, 1 FROM generate_series(timestamptz '2026-01-01',"
        " '2026-03-28 11:00', '6 hours') AS t"
    )
    db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 'h', '1 hour')")
    return db


def days_of(db: psycopg.Connection, month: date) -> int:
    """How many it has, its default partition aside."""
    row = db.execute(
        "SELECT count(*) FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid"
        " WHERE inhparent = %s::regclass AND pg_get_expr(relpartbound, c.oid) <> 'DEFAULT'",
        [name(month)],
    ).fetchone()
    assert row
    return int(row[0])


def test_a_part_gets_the_partitions_of_its_own_time(months: psycopg.Connection) -> None:
    made = {month: days_of(months, month) for month in MONTHS[:3]}  # of now, by the clock: none
    assert made == dict.fromkeys(MONTHS[:3], 0)
    divide(months)
    assert [days_of(months, month) for month in MONTHS[:3]] == [31, 28, 31]


@pytest.mark.parametrize("archive", [False, True])
def test_a_part_that_retention_took_away_is_divided_no_more(
    months: psycopg.Connection, archive: bool
) -> None:
    divide(months)
    months.execute("SELECT silver.set_retention('raw.s', '30 days', %s)", [archive])
    for _ in range(4):
        months.execute("SELECT silver.perform_rollup(as_of => %s)", [NOW])
        maintain(months)
    sets = "SELECT relation::text FROM rollup_engine.partition_set WHERE is_source ORDER BY 1"
    assert months.execute(sets).fetchall() == [("raw.m2",), ("raw.m3",)]
    assert months.execute("SELECT error_message FROM silver.error_log").fetchall() == []
    maintain(months, NOW + timedelta(days=1))
    found = "SELECT count(*) FROM pg_class WHERE relname LIKE 'm1%%' AND relkind IN ('r', 'p')"
    assert months.execute(found.replace("%%", "%")).fetchone() == (33 if archive else 0,)


def test_a_day_beyond_its_month_stops_nothing(months: psycopg.Connection) -> None:
    """As 0.1.0 made them, each day; no row comes to it."""
    months.execute(
        "CREATE TABLE raw.m1_x PARTITION OF raw.m1 FOR VALUES FROM ('2026-03-01') TO ('2026-03-02')"
    )
    for statement in ("SELECT 1", "DROP TABLE raw.m1_x"):
        months.execute(statement.encode())
        for _ in range(2):
            months.execute("SELECT silver.perform_rollup(as_of => %s)", [NOW])
        assert months.execute("SELECT error_message FROM silver.error_log").fetchall() == []
        health = "SELECT health FROM silver.timeseries_operations_monitor"
        assert months.execute(health).fetchone() == ("ok",)
    assert_equal_to_group_by(months, "h")
