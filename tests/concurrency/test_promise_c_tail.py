"""Promises a, b and c at the tail: newest buckets, stale anyway, whose writers log nothing."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from interleaving import Paused, pause_refreshes_of
from raw_tables import LEVELS, wait_until
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]

INSERT = "INSERT INTO raw.readings (ts, device, count) VALUES ('2026-03-02 {}+00', 'd1', 1)"
TAIL = "SELECT range FROM rollup_engine.tail"
STALE = """
    SELECT rollup_engine.stale_set(id) @> timestamptz '2026-03-02 {}+00'
    FROM silver.rollup_config WHERE target_name = 'silver.readings_1m'
"""


KINDS = """
    SELECT array_agg(tgtype ORDER BY tgtype) FROM pg_trigger
    WHERE tgrelid = 'raw.readings'::regclass AND tgname LIKE '%tsrollup%'
"""
BY_STATEMENT = [4, 7, 8, 16, 18, 19, 31, 32]
BY_ROW = [5, 8, 16, 18, 19, 21, 27, 32]
BULK = "UPDATE rollup_engine.source SET bulk_at = clock_timestamp() - interval '{}'"


@pytest.fixture(params=["by row"])
def tailed(settled: psycopg.Connection, request: pytest.FixtureRequest) -> psycopg.Connection:
    """The hierarchy, with a tail from 03:59 to 04:02, after all that it holds."""
    write(settled, "04:00:10")
    assert logged(settled) == 1
    if request.param == "by statement":
        settled.execute(BULK.format("59 minutes").encode())
    wanted = BY_ROW if request.param == "by row" else BY_STATEMENT

    def are_as_wanted() -> bool:
        run(settled, "04:00")
        return bool(value(settled, KINDS) == wanted)

    wait_until(are_as_wanted)
    assert_tail(settled, "03:59", "04:02")
    assert logged(settled) == 0
    return settled


def write(connection: psycopg.Connection[Any], time: str) -> None:
    connection.execute(INSERT.format(time).encode())


def run(connection: psycopg.Connection[Any], time: str) -> None:
    connection.execute("CALL silver.run_rollups(as_of => %s)", [f"2026-03-02 {time}+00"])
    assert_equal_to_group_by(connection, *LEVELS)


def logged(connection: psycopg.Connection[Any]) -> int:
    return int(value(connection, "SELECT count(*) FROM rollup_engine.change_log"))


def is_stale(connection: psycopg.Connection[Any], time: str) -> bool:
    return bool(value(connection, STALE.format(time)))


def assert_tail(connection: psycopg.Connection[Any], start: str, end: str) -> None:
    wanted = f"tstzrange('2026-03-02 {start}+00', '2026-03-02 {end}+00')"
    assert value(connection, f"SELECT ({TAIL}) = {wanted}"), value(connection, TAIL)


def value(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row
    return row[0]


@pytest.mark.parametrize("tailed", ["by row", "by statement"], indirect=True)
def test_nothing_is_logged_at_the_tail(tailed: psycopg.Connection) -> None:
    for change in (
        INSERT.format("04:01:30"),
        INSERT.format("03:59").replace("readings", "readings_2"),
        "UPDATE raw.readings SET count = 9 WHERE ts >= '2026-03-02 03:59+00'",
        "UPDATE raw.readings SET ts = ts + interval '1 minute' WHERE ts = '2026-03-02 04:00:10+00'",
        "DELETE FROM raw.readings WHERE ts = '2026-03-02 04:01:30+00'",
    ):
        tailed.execute(change.encode())
        assert logged(tailed) == 0
        assert_equal_to_group_by(tailed, *LEVELS)
    run(tailed, "04:30")
    refresh_everything(tailed)
    assert_settled(tailed, *LEVELS)


@pytest.mark.parametrize(
    "change",
    [
        INSERT.format("03:58:59"),
        INSERT.format("04:02"),
        "UPDATE raw.readings SET ts = ts - interval '1 hour' WHERE ts = '2026-03-02 04:00:10+00'",
        "INSERT INTO raw.readings (ts) VALUES ('2026-03-02 04:00+00'), ('2026-03-02 05:00+00')",
        "TRUNCATE raw.readings_2",
    ],
)
def test_whatever_reaches_beyond_it_is_logged(tailed: psycopg.Connection, change: str) -> None:
    tailed.execute(change.encode())
    assert logged(tailed) > 0
    assert_equal_to_group_by(tailed, *LEVELS)


def test_promise_b_an_older_snapshot_sees_what_it_wrote(
    tailed: psycopg.Connection, connect: Connect
) -> None:
    """There was no tail yet when it began: only read committed may leave its row out."""
    writer = connect()
    with writer.transaction():
        writer.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        writer.execute("SELECT FROM raw.readings LIMIT 1")
        run(tailed, "04:10")
        write(tailed, "04:10:10")
        run(tailed, "04:10")
        assert_tail(tailed, "04:09", "04:12")
        write(writer, "04:10:20")
        assert_equal_to_group_by(writer, *LEVELS)
    assert logged(tailed) == 1


def test_promise_c_a_writer_sleeps_while_the_tail_moves_on(
    tailed: psycopg.Connection, connect: Connect
) -> None:
    writer = connect(autocommit=False)
    write(writer, "04:00:20")
    for minute in ("04:05", "04:06", "04:10"):
        write(tailed, f"{minute}:30")
        run(tailed, minute)
        assert is_stale(tailed, "04:00")
    assert logged(tailed) == 0
    writer.commit()
    assert_equal_to_group_by(tailed, *LEVELS)
    run(tailed, "04:10")
    assert not is_stale(tailed, "04:00")
    refresh_everything(tailed)
    assert_settled(tailed, *LEVELS)


def test_promise_c_a_writer_has_the_lock_and_writes_after_the_move(
    tailed: psycopg.Connection, connect: Connect
) -> None:
    writer = connect(autocommit=False)
    write(writer, "04:01:10")
    run(tailed, "04:10")
    write(writer, "04:00:20")
    run(tailed, "04:10")
    writer.commit()
    assert_equal_to_group_by(tailed, *LEVELS)
    run(tailed, "04:10")
    assert not is_stale(tailed, "04:00")
    assert_equal_to_group_by(tailed, *LEVELS)


def test_promise_c_a_writer_is_prepared_after_the_move(
    tailed: psycopg.Connection, connect: Connect
) -> None:
    if value(tailed, "SHOW max_prepared_transactions") == "0":
        pytest.skip("no prepared transactions here")
    writer = connect(autocommit=False)
    gid = sql.Literal(f"tail {id(writer)}")
    write(writer, "04:00:20")
    run(tailed, "04:10")
    writer.execute(sql.SQL("PREPARE TRANSACTION {}").format(gid))
    writer.autocommit = True
    run(tailed, "04:10")
    run(tailed, "04:10")
    assert is_stale(tailed, "04:00")
    writer.execute(sql.SQL("COMMIT PREPARED {}").format(gid))
    run(tailed, "04:10")
    assert not is_stale(tailed, "04:00")


def test_promise_c_a_session_hears_of_the_move(
    tailed: psycopg.Connection, connect: Connect
) -> None:
    writer = connect()
    for _ in range(8):
        write(writer, "04:00:20")  # its plans are made, and kept
    run(tailed, "04:10")
    write(writer, "04:00:40")
    assert logged(tailed) == 1
    assert_equal_to_group_by(tailed, *LEVELS)


def test_promise_c_the_transaction_that_moves_it_has_written(
    tailed: psycopg.Connection, connect: Connect
) -> None:
    run_here = "SELECT silver.perform_rollup(as_of => '2026-03-02 04:10+00')"
    writer = connect()
    with writer.transaction():
        write(writer, "04:00:20")
        for _ in range(3):
            writer.execute(run_here.encode())
            write(writer, "04:00:25")
            assert_equal_to_group_by(writer, *LEVELS)
    assert_equal_to_group_by(tailed, *LEVELS)
    run(tailed, "04:10")
    assert not is_stale(tailed, "04:00")


def test_promise_c_the_move_is_not_committed(tailed: psycopg.Connection, connect: Connect) -> None:
    """Others know nothing of it yet, and still log nothing in what it leaves behind."""
    runner = connect()
    with runner.transaction():
        for _ in range(3):
            runner.execute("SELECT silver.perform_rollup(as_of => '2026-03-02 04:10+00')")
        write(tailed, "04:00:20")
        assert logged(tailed) == 0
    assert_equal_to_group_by(tailed, *LEVELS)
    run(tailed, "04:10")
    assert not is_stale(tailed, "04:00")


def test_a_transaction_that_lasts_holds_up_no_more_than_what_it_may_have_written(
    tailed: psycopg.Connection, connect: Connect
) -> None:
    writer = connect(autocommit=False)
    write(writer, "04:00:20")
    write(tailed, "04:01:30")
    run(tailed, "04:05")
    assert_tail(tailed, "04:04", "04:07")
    tailed.execute("UPDATE rollup_engine.tail SET waits_since = now() - interval '3 minutes'")
    run(tailed, "04:05")
    assert value(tailed, f"SELECT isempty(({TAIL}))")
    for time in ("04:05:10", "04:15:10"):
        write(tailed, time)
    assert logged(tailed) == 2
    run(tailed, "04:20")
    assert not is_stale(tailed, "04:15")
    assert is_stale(tailed, "04:00")
    writer.commit()
    run(tailed, "04:20")
    assert not is_stale(tailed, "04:00")


def test_promise_a_the_last_rows_are_stored_when_nobody_writes_any_more(
    tailed: psycopg.Connection,
) -> None:
    write(tailed, "04:01")
    for _ in range(2):
        run(tailed, "04:30")
    assert not is_stale(tailed, "04:01")
    assert tailed.execute(TAIL).fetchall() == []
    run(tailed, "23:59:59")
    assert value(tailed, "SELECT count(*) FROM rollup_engine.stale_range WHERE rollup_id = 1") == 0


def test_promise_b_a_rollup_is_created_later(tailed: psycopg.Connection) -> None:
    tailed.execute("DELETE FROM raw.readings WHERE ts > '2026-03-02 03:00+00'")
    tailed.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'later', '30 seconds')"
    )
    run(tailed, "04:00")
    write(tailed, "04:01:59")
    assert logged(tailed) == 0
    assert_equal_to_group_by(tailed, "later")


def test_promise_a_b_the_open_bucket_is_refreshed(tailed: psycopg.Connection) -> None:
    query = "SELECT status FROM silver.refresh_rollup('readings_1m', %s, %s)"
    times = ["2026-03-02 03:50+00", "2026-03-02 04:01+00"]
    assert tailed.execute(query, times).fetchall() == [("partial",)]
    write(tailed, "04:00:50")
    assert_equal_to_group_by(tailed, *LEVELS)


def test_promise_i_schema_and_data_were_restored_of_two_times(tailed: psycopg.Connection) -> None:
    run(tailed, "04:30")
    run(tailed, "04:30")
    tailed.execute("DELETE FROM rollup_engine.quiet_source")  # no restored catalogue is as noted
    tailed.execute(
        "SELECT rollup_engine.write_tail(id, '[2026-03-02 03:59+00,2026-03-02 04:02+00)')"
        " FROM rollup_engine.source"
    )
    write(tailed, "04:00:50")
    assert logged(tailed) == 0
    tailed.execute("CALL silver.run_rollups(as_of => '2026-03-02 05:00+00')")
    assert_equal_to_group_by(tailed, *LEVELS)
    run(tailed, "05:00")
    assert not is_stale(tailed, "04:00")


def test_its_functions_were_dropped(tailed: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        tailed.execute("DROP FUNCTION rollup_engine.tail_edges_1()")
    tailed.execute("DROP FUNCTION rollup_engine.tail_1()")
    write(tailed, "04:00:50")
    assert logged(tailed) == 0
    tailed.execute("UPDATE raw.readings SET count = 7 WHERE ts = '2026-03-02 04:00:50+00'")
    assert logged(tailed) == 1
    run(tailed, "04:00")
    assert_equal_to_group_by(tailed, *LEVELS)
    write(tailed, "04:00:55")
    run(tailed, "04:00")
    assert_tail(tailed, "03:59", "04:02")


def test_promise_b_a_long_tail_is_stale_where_it_holds_nothing(
    db: psycopg.Connection, connect: Connect
) -> None:
    """That of days is 86,400 buckets of a rollup that comes later."""
    insert = "INSERT INTO raw.t VALUES ('2026-03-02 {}+00')"
    create = "SELECT silver.create_rollup_table('raw.t', 'silver', %s, %s::interval)"
    at_noon = "CALL silver.run_rollups(as_of => '2026-03-02 12:00+00')"
    db.execute("CREATE TABLE raw.t (ts timestamptz PRIMARY KEY)")
    db.execute(insert.format("06:00").encode())
    db.execute(create, ["t_1d", "1 day"])
    db.execute(at_noon)
    assert_tail(db, "00:00", "24:00")
    with connect() as writer, writer.transaction():
        writer.execute(insert.format("09:00").encode())
        db.execute(create, ["t_1s", "1 second"])
        db.execute(at_noon)
    assert logged(db) == 0
    assert_equal_to_group_by(db, "t_1d", "t_1s")


def test_promise_c_a_writer_lasts_while_a_finer_rollup_comes(
    db: psycopg.Connection, connect: Connect
) -> None:
    """He logs nothing in the long tail that was: the whole of it is stale until he is gone."""
    insert = "INSERT INTO raw.t VALUES ('2026-03-02 {}+00')"
    create = "SELECT silver.create_rollup_table('raw.t', 'silver', %s, %s::interval)"
    at_noon = "CALL silver.run_rollups(as_of => '2026-03-02 12:00+00')"
    ranges = "SELECT count(*) FROM rollup_engine.stale_range WHERE rollup_id = 2"
    db.execute("CREATE TABLE raw.t (ts timestamptz PRIMARY KEY)")
    db.execute(insert.format("06:00").encode())
    db.execute(create, ["t_1d", "1 day"])
    db.execute(at_noon)
    writer = connect(autocommit=False)
    writer.execute(insert.format("09:00").encode())
    db.execute(create, ["t_1s", "1 second"])
    db.execute(at_noon)
    # For so long that people should know: what is settled may be stored.
    db.execute("UPDATE rollup_engine.tail SET waits_since = now() - interval '3 minutes'")
    db.execute(at_noon)
    assert value(db, ranges) <= 3
    assert_equal_to_group_by(db, "t_1d", "t_1s")
    writer.commit()
    assert logged(db) == 0
    assert_equal_to_group_by(db, "t_1d", "t_1s")
    db.execute(at_noon)
    db.execute(at_noon)
    assert value(db, "SELECT count(*) FROM silver.t_1s") == 2
    assert value(db, ranges) <= 3
    assert_equal_to_group_by(db, "t_1d", "t_1s")


def test_promise_c_a_long_range_is_divided_beside_a_refresh(
    db: psycopg.Connection, connect: Connect
) -> None:
    """What a batch is storing meanwhile, of rows that are gone, is stale again."""
    create = "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1s', '1 second')"
    db.execute("CREATE TABLE raw.t (ts timestamptz PRIMARY KEY, v integer)")
    db.execute(create.encode())
    refresh_everything(db)
    pause_refreshes_of(db, "silver.t_1s")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-02 09:00+00', 1)")
    with Paused(db, connect(), "CALL silver.run_rollups(as_of => '2026-03-02 12:00+00')"):
        db.execute("SELECT rollup_engine.mark_barred('{1}', '{[2026-03-01, 2026-03-03)}')")
        db.execute("DELETE FROM raw.t")
        db.execute("DELETE FROM rollup_engine.change_log")  # as if it had not been logged
        assert value(db, "SELECT rollup_engine.divide_stale(1)")
    assert_equal_to_group_by(db, "t_1s")
    refresh_everything(db)
    assert_settled(db, "t_1s")


def test_a_tail_is_the_newest_part_of_what_waits_to_be_stored(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz PRIMARY KEY)")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-02 03:59+00')")
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1s', '1 second',"
        " settle_delay => '400 days')"
    )
    db.execute("CALL silver.run_rollups(as_of => '2026-03-02 04:00+00')")
    assert_tail(db, "03:43:20", "04:00:08")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01 03:59+00'), ('2026-03-02 03:58+00')")
    assert_equal_to_group_by(db, "t_1s")
