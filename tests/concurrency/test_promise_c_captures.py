"""Promise c while a source changes between the triggers that capture what is inserted."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from raw_tables import LEVELS, capture_by_row, wait_until
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer

Connect = Callable[..., psycopg.Connection[Any]]

KINDS = """
    SELECT array_agg(DISTINCT tgtype ORDER BY tgtype) FROM pg_trigger
    WHERE tgrelid IN (SELECT relid FROM pg_partition_tree('raw.readings'))
        AND tgname LIKE '%tsrollup%' AND tgtype IN (4, 5, 7, 21, 27, 31)
"""
BY_STATEMENT, BOTH, BY_ROW = [4, 7, 31], [4, 5, 7, 21, 27, 31], [5, 21, 27]
BULK = "UPDATE rollup_engine.source SET bulk_at = clock_timestamp() - interval '{}'"
LATE = """
    INSERT INTO raw.readings (ts, device, count)
    SELECT timestamptz '2026-03-02 {}+00' + i * interval '{}', 'd1', i
    FROM generate_series(1, {}) AS i
"""
STALE = "SELECT rollup_engine.stale_set(1) && tstzmultirange(tstzrange(NULL, '{}+00'))"


def value(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row and row[0]


def write(connection: psycopg.Connection[Any], time: str) -> None:
    connection.execute(LATE.format(time, "0 s", 1).encode())


def run(connection: psycopg.Connection[Any], time: str = "04:00") -> Any:
    """Nothing is in doubt that was not written; the triggers by which inserts are captured then."""
    connection.execute("CALL silver.run_rollups(as_of => %s)", [f"2026-03-02 {time}+00"])
    assert_equal_to_group_by(connection, *LEVELS)
    assert not value(connection, STALE.format("2026-03-02 00:00"))
    assert value(connection, "SELECT count(*) FROM silver.error_log") == 0
    return value(connection, KINDS)


def run_until(connection: psycopg.Connection[Any], *kinds: list[int]) -> None:
    wanted = list(kinds)

    def are_there() -> bool:
        if run(connection) == wanted[0]:
            wanted.pop(0)
        return not wanted

    wait_until(are_there)


def is_used(connection: psycopg.Connection[Any]) -> Any:
    """By a writer, by anybody."""
    return connection.execute(
        "SELECT rollup_engine.is_used_for_long(s, false), rollup_engine.is_used_for_long(s, true)"
        " FROM rollup_engine.source AS s"
    ).fetchone()


def test_a_source_that_is_written_at_its_tail_and_then_loaded_behind_it(
    settled: psycopg.Connection, connect: Connect
) -> None:
    assert run(settled) == BY_STATEMENT
    write(settled, "04:00:10")
    writer = connect(autocommit=False)
    write(writer, "04:00:20")
    assert run(settled) == BY_STATEMENT  # whose writer is not done
    assert is_used(settled) == (True, True)
    writer.commit()
    wait_until(lambda: is_used(settled) == (False, False))
    run_until(settled, BOTH)
    reader = connect(autocommit=False)
    reader.execute("SELECT count(*) FROM raw.readings")
    wait_until(lambda: is_used(settled) == (False, True))
    assert run(settled) == BOTH
    for time in ("04:00:30", "03:50:30"):
        write(settled, time)
        write(writer, time)
        assert_equal_to_group_by(settled, *LEVELS)
    writer.commit()
    reader.commit()
    run_until(settled, BY_ROW)
    # A few late rows are what it is good at, in however many statements.
    for time in ("03:30", "03:31", "03:32"):
        settled.execute(LATE.format(time, "7 minutes", 3).encode())
    assert run(settled) == BY_ROW
    settled.execute(LATE.format("03:00", "1 minute", 20).encode())
    run_until(settled, BOTH)
    write(settled, "03:50:30")
    run_until(settled, BY_STATEMENT)
    settled.execute(BULK.format("59 minutes").encode())
    assert run(settled) == BY_STATEMENT
    settled.execute(BULK.format("61 minutes").encode())
    run_until(settled, BOTH, BY_ROW)
    settled.execute(LATE.format("02:00", "1 minute", 4).encode())
    run_until(settled, BOTH, BY_STATEMENT)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_what_is_taken_for_a_load(settled: psycopg.Connection) -> None:
    write(settled, "04:00:10")
    run_until(settled, BOTH, BY_ROW)
    is_bulk = (
        "WITH taken AS (DELETE FROM rollup_engine.change_log RETURNING is_bulk)"
        " SELECT coalesce(bool_or(is_bulk), false) FROM taken"
    )
    for time, step, rows, expected in (
        ("03:00:01", "5 ms", 4000, True),  # of one grain
        ("03:00", "1 minute", 4, True),
        ("03:00", "1 minute", 3, False),
        ("03:59:01", "1 ms", 4000, False),
        ("03:58:58", "1 s", 50, False),  # most are at the tail
    ):
        settled.execute(LATE.format(time, step, rows).encode())
        assert value(settled, is_bulk) is expected, (time, step, rows)
    capture_by_row(settled, False)
    assert value(settled, KINDS) == BY_STATEMENT
    for time, step, rows, expected in (
        ("03:00:01", "5 ms", 4000, True),
        ("03:00", "1 minute", 3, False),
        ("03:59:01", "1 ms", 4000, False),
        ("03:58:58", "1 s", 50, False),
    ):
        settled.execute(LATE.format(time, step, rows).encode())
        assert value(settled, is_bulk) is expected, (time, step, rows)
    settled.execute("DELETE FROM raw.readings WHERE ts < '2026-03-02 03:30+00'")
    assert value(settled, is_bulk) is False


OFF = """
    ALTER TABLE raw.readings_1 DISABLE TRIGGER {0};
    INSERT INTO raw.readings_1 (ts, count) VALUES ('2026-03-01 22:00+00', 1);
    ALTER TABLE raw.readings_1 ENABLE ALWAYS TRIGGER {0}
"""


def test_what_was_changed_after_and_before_it_is_in_doubt(settled: psycopg.Connection) -> None:
    capture_by_row(settled)
    settled.execute(OFF.format("tsrollup_row_1").encode())
    settled.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert_equal_to_group_by(settled, *LEVELS)
    settled.execute(OFF.format("tsrollup_row_1").encode())
    capture_by_row(settled, False)
    assert_equal_to_group_by(settled, *LEVELS)


FLEET = """
    CREATE TABLE raw.fleet (ts timestamptz, device integer, v integer) PARTITION BY RANGE (ts);
    CREATE TABLE raw.fleet_1 PARTITION OF raw.fleet DEFAULT;
    CREATE INDEX ON raw.fleet (device, ts);
    INSERT INTO raw.fleet SELECT t, n, n FROM generate_series(1, 9) AS n,
        generate_series(timestamptz '2026-03-01 20:00Z', '2026-03-02 04:00Z', '20 minutes') AS t;
    SELECT silver.create_rollup_table('raw.fleet', 'silver', 'fleet_1h', '1 hour',
        dimensions => '{device}');
"""


def test_keys_of_late_rows_that_a_row_trigger_notes(db: psycopg.Connection) -> None:
    db.execute(FLEET.encode())
    refresh_everything(db)
    capture_by_row(db)
    stale = (
        "SELECT array_agg((to_char(from_time AT TIME ZONE 'UTC', 'DD HH24'),"
        ' ARRAY(SELECT k COLLATE "C" FROM unnest(keys) AS k ORDER BY 1))::text'
        " ORDER BY from_time) FROM rollup_engine.stale_range"
    )
    db.execute(
        "INSERT INTO raw.fleet VALUES ('2026-03-02 01:30+00', 3, 1), ('2026-03-02 01:31+00', 4, 1),"
        " ('2026-03-02 02:31+00', 4, 1), ('2026-03-02 01:31+00', 3, 1), (NULL, 7, 1)"
    )
    assert_equal_to_group_by(db, "fleet_1h")
    db.execute("SELECT rollup_engine.drain(1, now())")
    assert value(db, stale) == ['("02 01","{3,4}")', '("02 02",{4})']
    assert_equal_to_group_by(db, "fleet_1h")
    db.execute("INSERT INTO raw.fleet VALUES ('2026-03-02 02:31+00', NULL, 1)")
    db.execute("SELECT rollup_engine.drain(1, now())")
    assert value(db, stale) == ['("02 01","{3,4}")', '("02 02",{})']
    refresh_everything(db)
    db.execute(
        "INSERT INTO raw.fleet SELECT '2026-03-02 01:00+00', i, i"
        " FROM generate_series(1, 5000) AS i"
    )
    assert value(db, "SELECT count(*) BETWEEN 1000 AND 1010 FROM rollup_engine.change_log")
    assert value(db, "SELECT bool_or(is_bulk) FROM rollup_engine.change_log")
    assert_equal_to_group_by(db, "fleet_1h")
    db.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert_equal_to_group_by(db, "fleet_1h")
    assert value(db, "SELECT inserts_by_row FROM rollup_engine.source") is False


def test_whoever_does_not_own_the_source_leaves_its_triggers(
    settled: psycopg.Connection, connect: Connect, server: PostgresServer
) -> None:
    write(settled, "04:00:10")
    other = connect(user=server.superuser)
    other.execute("SET ROLE tsrollup_operator")
    other.execute("CALL silver.run_rollups(as_of => '2026-03-02 04:00+00')")
    assert value(settled, "SELECT range <> 'empty' FROM rollup_engine.tail")
    assert value(settled, KINDS) == BY_STATEMENT
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        other.execute("SELECT rollup_engine.change_capture(1, true)")
    assert value(settled, KINDS) == BY_STATEMENT
    run_until(settled, BOTH)
