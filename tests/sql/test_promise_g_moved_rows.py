"""Promise g of late rows that maintenance moves or drops: counted before."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from sealed_days import maintain, make_days, one, roll_up, total


@pytest.fixture
def days(db: psycopg.Connection) -> psycopg.Connection:
    """raw.s, four rows a day of the last twenty, a partition each, and a default one."""
    db.execute("SET timezone = 'UTC'")
    make_days(db, "raw.s")
    return db


def seal_rollup(db: psycopg.Connection[Any]) -> None:
    """One over raw.s that is kept itself."""
    roll_up(db, "raw.s", "m")
    db.execute("CALL silver.run_rollups()")
    db.execute("SELECT silver.set_retention('m', '10 days')")
    assert "sealed" in maintain(db, 2)


def test_promise_g_a_row_that_is_moved_is_not_late_again_by_another_time(
    db: psycopg.Connection,
) -> None:
    db.execute("SET timezone = 'UTC'")
    db.execute(
        "CREATE TABLE raw.s (ts timestamptz NOT NULL, seen timestamptz NOT NULL)"
        " PARTITION BY RANGE (ts)"
    )
    db.execute("SELECT silver.partition_source('raw.s', '1 day')")
    db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 'm', '1 day', 'seen')")
    db.execute(
        "INSERT INTO raw.s SELECT t, t FROM generate_series(now() - interval '40 days', now(),"
        " '6h') AS t"
    )
    while one(db, "SELECT count(*) FROM raw.s_default"):
        maintain(db)
    db.execute("CALL silver.run_rollups()")
    db.execute("SELECT silver.set_retention('m', '20 days')")
    assert "sealed" in maintain(db, 2)
    db.execute("INSERT INTO raw.s VALUES (now() + interval '90 days', now() - interval '30 days')")
    maintain(db)  # counts nothing: rows that were moved do not tell any more who wrote them
    assert one(db, "SELECT count(*) FROM raw.s_default") == 1
    db.execute("CALL silver.run_rollups()")
    while one(db, "SELECT count(*) FROM raw.s_default"):
        maintain(db)
    db.execute("CALL silver.run_rollups()")
    assert one(db, "SELECT sealed_late_rows FROM silver.rollup_config") == 1


def test_promise_g_a_late_row_is_moved_when_it_is_counted(
    days: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    """Not while somebody else holds its source, so that it cannot be counted."""
    days.execute("SELECT silver.partition_source('raw.s', '1 day')")
    seal_rollup(days)
    holding = connect(autocommit=False)
    holding.execute("SELECT rollup_engine.try_lock_source(id) FROM rollup_engine.source")
    days.execute("INSERT INTO raw.s SELECT now() - interval '40 days', 1")
    maintain(days)
    assert one(days, "SELECT count(*) FROM raw.s_default") == 1
    holding.rollback()
    days.execute("CALL silver.run_rollups()")
    maintain(days)
    assert one(days, "SELECT count(*) FROM raw.s_default") == 0
    days.execute("CALL silver.run_rollups()")
    assert one(days, "SELECT sealed_late_rows FROM silver.rollup_config") == 1


@pytest.mark.parametrize("when", ["before the seal", "after it"])
def test_promise_g_a_row_that_maintenance_moves_is_not_late_again(
    db: psycopg.Connection, when: str
) -> None:
    """The week is sealed further than its table: a day there gets its partition afterwards."""
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.s (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    db.execute("SELECT silver.partition_source('raw.s', '1 day')")
    today = one(db, "SELECT now()::date")
    thursday = today - timedelta(days=(today.weekday() - 3) % 7 + 14)
    gap = thursday + timedelta(days=2)
    db.execute(
        "INSERT INTO raw.s SELECT t, 1"
        " FROM generate_series(now() - interval '40 days', now(), '6h') AS t"
        f" WHERE t::date <> '{gap}'"
    )
    for name, width in (("days", "1 day"), ("weeks", "7 days")):
        db.execute(f"SELECT silver.create_rollup_table('raw.s', 'silver', '{name}', '{width}')")
    while one(db, "SELECT count(*) FROM raw.s_default"):  # a run of maintenance moves some
        maintain(db)
    fill = f"INSERT INTO raw.s VALUES ('{gap} 12:00', 1)"
    db.execute(f"SELECT silver.set_retention('raw.s', '{(today - thursday).days} days')")
    if when == "before the seal":
        db.execute(fill)
    db.execute("CALL silver.run_rollups()")
    maintain(db, 2)
    assert one(db, "SELECT sealed_before::date FROM rollup_engine.retention") == thursday
    if when == "after it":
        db.execute(fill)
    for _ in range(2):
        maintain(db)
        db.execute("CALL silver.run_rollups()")
    assert one(db, f"SELECT tableoid::regclass::text FROM raw.s WHERE ts = '{gap} 12:00'") != (
        "raw.s_default"
    )
    counted = db.execute("SELECT target_name, sealed_late_rows FROM silver.rollup_config")
    assert dict(counted.fetchall()) == {
        "silver.days": 0,
        "silver.weeks": 1 if when == "after it" else 0,
    }


def test_promise_g_a_late_row_is_counted_that_is_written_beside_a_move(
    days: psycopg.Connection,
) -> None:
    """By the same statement, into another partition to come."""
    days.execute("SELECT silver.partition_source('raw.s', '1 day')")
    seal_rollup(days)
    days.execute("INSERT INTO raw.s SELECT now() - interval '50 days', 1")
    days.execute("CALL silver.run_rollups()")
    days.execute(
        "DO $$BEGIN INSERT INTO raw.s SELECT now() - interval '40 days', 1;"
        " PERFORM silver.partition_source('raw.s', '1 day'); END$$"
    )
    assert one(days, "SELECT count(*) FROM raw.s_default") == 1
    days.execute("CALL silver.run_rollups()")
    assert one(days, "SELECT sealed_late_rows FROM silver.rollup_config") == 2


OLD_ROWS = (
    "SELECT now() - interval '60 days' - n * interval '1 hour', 1 FROM generate_series(1, 10) AS n"
)


@pytest.mark.parametrize("by", ["partition_source", "maintenance"])
def test_promise_g_rows_of_a_default_partition_that_is_attached_are_counted_before_they_are_moved(
    days: psycopg.Connection, by: str
) -> None:
    if by == "maintenance":
        days.execute("SELECT silver.partition_source('raw.s', '1 day')")
    seal_rollup(days)
    days.execute("ALTER TABLE raw.s DETACH PARTITION raw.s_default")
    days.execute("CALL silver.run_rollups()")
    days.execute(f"INSERT INTO raw.s_default {OLD_ROWS}")
    days.execute("ALTER TABLE raw.s ATTACH PARTITION raw.s_default DEFAULT")
    if by == "maintenance":
        maintain(days)
    else:
        days.execute("SELECT silver.partition_source('raw.s', '1 day')")
    assert one(days, "SELECT count(*) FROM raw.s_default") == 10
    days.execute("CALL silver.run_rollups()")
    maintain(days)
    assert one(days, "SELECT count(*) FROM raw.s_default") == 0
    days.execute("CALL silver.run_rollups()")
    assert one(days, "SELECT sealed_late_rows FROM silver.rollup_config") == 10


def test_promise_g_a_partition_that_is_attached_beside_another_run_is_counted_before_it_goes(
    days: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    roll_up(days, "raw.s", "m")
    days.execute("CALL silver.run_rollups()")
    days.execute("SELECT silver.set_retention('raw.s', '10 days')")
    assert maintain(days, 2).count("dropped") > 5
    holding = connect(autocommit=False)
    holding.execute("SELECT rollup_engine.try_lock_source(id) FROM rollup_engine.source")
    days.execute("CREATE TABLE raw.back (LIKE raw.s)")
    days.execute(f"INSERT INTO raw.back {OLD_ROWS}")
    start, end = (one(days, f"SELECT quote_literal(now() - interval '{n} days')") for n in (62, 59))
    days.execute(
        f"ALTER TABLE raw.s ATTACH PARTITION raw.back FOR VALUES FROM ({start}) TO ({end})".encode()
    )
    assert maintain(days) == []
    holding.rollback()
    assert "dropped" in maintain(days)
    assert one(days, "SELECT sealed_late_rows FROM silver.rollup_config") == 10
    assert total(days, "gold.m") == 80


@pytest.mark.parametrize(
    ("ddl", "counted"),
    [("ALTER TABLE raw.s ALTER v TYPE bigint", 0), ("TRUNCATE raw.s_default", 1)],
)
def test_promise_f_who_rewrites_a_table_is_not_taken_for_the_writer_of_all_its_rows(
    days: psycopg.Connection, ddl: str, counted: int
) -> None:
    """Nor is it said how many of them are late where nobody can tell."""
    roll_up(days, "raw.s", "m")
    days.execute("CALL silver.run_rollups()")
    days.execute("SELECT silver.set_retention('raw.s', '10 days')")
    assert maintain(days) == ["sealed"]
    days.execute("SELECT silver.set_retention('raw.s', NULL)")
    with days.transaction():
        days.execute(ddl.encode())
        days.execute("INSERT INTO raw.s SELECT now() - interval '40 days', 1")
    days.execute("CALL silver.run_rollups()")
    assert one(days, "SELECT sealed_late_rows FROM silver.rollup_config") == counted
    told = one(days, "SELECT error_message FROM silver.error_log WHERE error_code = 'TR006'")
    assert ("perhaps" in told) == (counted == 0)


def test_promise_g_a_table_that_took_a_sources_name_waits_for_its_rollups(
    days: psycopg.Connection,
) -> None:
    """They read the one that had it until that is dropped; the keep was set before, or after."""
    roll_up(days, "raw.s", "m")
    days.execute("CALL silver.run_rollups()")
    make_days(days, "raw.n")
    days.execute("SELECT silver.set_retention('raw.n', '10 days')")
    days.execute("ALTER TABLE raw.s RENAME TO old; ALTER TABLE raw.n RENAME TO s")
    days.execute("GRANT SELECT ON raw.s TO tsrollup_owner")
    days.execute("INSERT INTO raw.s SELECT now() - interval '15 days', 1")
    assert maintain(days, 3) == []
    with pytest.raises(psycopg.Error, match=r"rollups of what .*, raw\.old, are to read raw\.s"):
        days.execute("SELECT silver.set_retention('raw.s', '12 days')")
    days.execute("DROP TABLE raw.old")
    for _ in range(2):
        days.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert {"sealed", "dropped"} == set(maintain(days, 3))
    assert total(days, "gold.m") == 81
