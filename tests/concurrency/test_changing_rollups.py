"""A rollup gets other names and metrics while others write, refresh it, and read what reads it."""

import threading
from collections.abc import Callable
from typing import Any

import psycopg

from rollup_checks import assert_settled, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]


def write(connection: psycopg.Connection[Any], turn: int) -> None:
    connection.execute(
        "UPDATE raw.t SET v = v + 1 WHERE ts >= timestamptz '2026-03-01 00:00+00'"
        " + make_interval(mins => %(turn)s * 37 %% 9000) AND ts < timestamptz"
        " '2026-03-01 00:10+00' + make_interval(mins => %(turn)s * 37 %% 9000)",
        {"turn": turn},
    )


def refresh(connection: psycopg.Connection[Any], _turn: int) -> None:
    connection.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")


def read(connection: psycopg.Connection[Any], _turn: int) -> None:
    row = connection.execute(
        "SELECT (SELECT sum(v_sum) FROM gold.t_1d), (SELECT sum(v) FROM raw.t)"
    ).fetchone()
    assert row
    assert row[0] == row[1]


def test_promise_b_j_names_and_metrics_change_under_everybody(
    db: psycopg.Connection, connect: Connect
) -> None:
    """No reader is told anything wrong, no write and no refresh fails."""
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, device text, v integer)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + make_interval(mins => i),"
        " 'd' || i % 5, i FROM generate_series(0, 9999) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_0', '1 hour', 'ts', '{device}',"
        """ '{"v": ["sum", "max"]}')"""
    )
    db.execute(
        "SELECT silver.create_rollup_table('t_0', 'silver', 't_1d', '1 day',"
        """ metrics => '{"v": ["sum"]}')"""
    )
    refresh_everything(db)
    ended = threading.Event()
    failures: list[str] = []

    def again_and_again(work: Callable[[psycopg.Connection[Any], int], None]) -> None:
        connection = connect()
        turn = 0
        try:
            while not ended.is_set():
                work(connection, turn)
                turn += 1
        except (psycopg.Error, AssertionError) as error:
            failures.append(f"{work.__name__}, turn {turn}: {error}")

    threads = [threading.Thread(target=again_and_again, args=[x]) for x in (write, refresh, read)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(1, 7):
            for statement in (
                f"SELECT silver.alter_rollup('t_{turn - 1}', new_name => 't_{turn}')",
                f"""SELECT silver.drop_rollup_metric('t_{turn}', '{{"v": "max"}}')""",
                f"""SELECT silver.add_rollup_metric('t_{turn}', '{{"v": "max"}}')""",
            ):
                db.execute(statement.encode())
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert db.execute("SELECT error_message FROM silver.error_log").fetchall() == []
    refresh_everything(db)
    assert_settled(db, "t_6", "t_1d")


def test_promise_j_a_change_of_one_rollup_is_nothing_to_readers_of_others(
    db: psycopg.Connection, connect: Connect
) -> None:
    """Whatever all live views have in common."""
    for name in ("a", "b"):
        db.execute(
            f"CREATE TABLE raw.{name} (ts timestamptz NOT NULL, d integer, v integer);"
            f"CREATE INDEX ON raw.{name} (d, ts); INSERT INTO raw.{name} VALUES (now(), 1, 2);"
            f"SELECT silver.create_rollup_table('{name}', 'silver', '{name}_1h', '1 hour',"
            " dimensions => '{d}')".encode()
        )
    reading, changing, reader = (connect(autocommit=x) for x in (False, False, True))
    for connection in (changing, reader):
        connection.execute("SET statement_timeout = '10s'")
    reading.execute("SELECT * FROM gold.b_1h WHERE d = 1")
    changing.execute("""SELECT silver.add_rollup_metric('a_1h', '{"v": ["stddev"]}')""")
    assert len(reader.execute("SELECT * FROM gold.b_1h WHERE d = 1").fetchall()) == 1
    changing.execute("SELECT silver.rebuild_rollup('a_1h')")
    assert len(reader.execute("SELECT * FROM gold.b_1h WHERE d = 1").fetchall()) == 1
