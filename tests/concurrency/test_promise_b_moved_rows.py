"""Promise b where maintenance gives the rows of a default partition a partition of their own: who
comes meanwhile waits, and then reads and writes what is there; who might still look for the rows
where they were keeps them there; and nobody is ended by a deadlock."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from interleaving import Background
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from scenes import scene

Connect = Callable[..., psycopg.Connection[Any]]

MAINTAIN = "SELECT * FROM silver.maintain_timeseries_tables()"
STRAYS = "now() - interval '3 days'"


def create_source(db: psycopg.Connection, name: str) -> None:
    """A source with ten rows of three days ago in its default partition, and its rollup."""
    db.execute(
        f"CREATE TABLE raw.{name} (ts timestamptz, device text, v int) PARTITION BY RANGE (ts)"
    )
    db.execute("SELECT silver.partition_source(%s, '1 day')", [f"raw.{name}"])
    db.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', dimensions => '{device}')",
        [f"raw.{name}", f"{name}_1h"],
    )
    db.execute(
        f"INSERT INTO raw.{name} SELECT date_bin('1 day', {STRAYS}, '2000-01-01')"
        " + i * interval '1 minute', 'a', i FROM generate_series(1, 10) AS i"
    )


def strays(db: psycopg.Connection, name: str = "m") -> int:
    row = db.execute(f"SELECT count(*) FROM raw.{name}_default").fetchone()
    assert row
    return int(row[0])


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    create_source(db, "m")
    return db


@pytest.mark.parametrize(
    ("statement", "found", "left"),
    [
        (f"INSERT INTO raw.m VALUES ({STRAYS}, 'a', 5) RETURNING 1", 1, (11, 60)),
        ("UPDATE raw.m SET v = 7 WHERE device = 'a' RETURNING 1", 10, (10, 70)),
        ("DELETE FROM raw.m WHERE device = 'a' RETURNING 1", 10, (0, None)),
        ("SELECT 1 FROM raw.m FOR UPDATE", 10, (10, 55)),
        ("SELECT 1 FROM raw.m", 10, (10, 55)),
        ("SELECT 1 FROM gold.m_1h, generate_series(1, row_count)", 10, (10, 55)),
    ],
)
def test_promise_b_who_comes_during_a_move_finds_what_was_moved(
    source: psycopg.Connection,
    connect: Connect,
    statement: str,
    found: int,
    left: tuple[int, int | None],
) -> None:
    maintenance = connect(autocommit=False)
    maintenance.execute(MAINTAIN)
    user = Background(connect(), statement)
    user.wait_until_blocked(source)
    maintenance.commit()
    assert len(user.result()) == found
    assert source.execute("SELECT count(*), sum(v) FROM raw.m").fetchone() == left
    assert strays(source) == 0
    assert_equal_to_group_by(source, "m_1h")
    refresh_everything(source)
    assert_settled(source, "m_1h")


def test_promise_j_a_row_of_a_partition_that_is_being_made_finds_it(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute(MAINTAIN)
    source.execute("SELECT rollup_engine.drop_empty_partitions_ahead('raw.m', now())")
    maintenance = connect(autocommit=False)
    maintenance.execute(MAINTAIN)
    user = Background(connect(), "INSERT INTO raw.m VALUES (now() + interval '1 day', 'a', 1)")
    user.wait_until_blocked(source)
    maintenance.commit()
    user.result()
    assert strays(source) == 0


def test_promise_b_an_older_snapshot_keeps_rows_where_it_finds_them(
    source: psycopg.Connection, connect: Connect
) -> None:
    reader = connect(autocommit=False)
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    reader.execute("SELECT count(*) FROM pg_namespace")  # a snapshot, and no lock
    done = source.execute(MAINTAIN).fetchall()
    (said,) = [row[2] for row in done if row[:2] == ("raw.m", "skipped")]
    assert said.startswith("rows from")
    assert said.endswith("the next run goes on")
    assert strays(source) == 10
    bounded = "SELECT count(*) FROM raw.m WHERE ts > '2000-01-01' AND ts < '2200-01-01'"
    assert reader.execute(bounded).fetchone() == (10,)
    assert_equal_to_group_by(reader, "m_1h")
    reader.commit()
    assert not [row for row in source.execute(MAINTAIN) if row[1] == "skipped"]
    assert strays(source) == 0


def test_promise_b_a_snapshot_that_was_taken_while_the_lock_was_waited_for_counts(
    source: psycopg.Connection, connect: Connect
) -> None:
    holding, reader = connect(autocommit=False), connect(autocommit=False)
    holding.execute("SELECT FROM raw.m LIMIT 0")
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    maintenance = Background(connect(), MAINTAIN)
    maintenance.wait_until_blocked(source)
    reader.execute("SELECT count(*) FROM pg_namespace")
    holding.rollback()
    maintenance.result()
    bounded = "SELECT count(*) FROM raw.m WHERE ts > '2000-01-01' AND ts < '2200-01-01'"
    assert reader.execute(bounded).fetchone() == (10,)
    assert_equal_to_group_by(reader, "m_1h")
    reader.commit()
    source.execute(MAINTAIN)
    assert strays(source) == 0


def test_promise_j_only_the_first_lock_is_waited_for(
    source: psycopg.Connection, connect: Connect
) -> None:
    """Somebody who holds one table and waits for the other is never part of a deadlock."""
    create_source(source, "n")
    user = connect(autocommit=False)
    user.execute(f"INSERT INTO raw.n VALUES ({STRAYS}, 'a', 1)")
    maintenance = connect(autocommit=False)

    def fails(lock: str, message: str) -> None:
        unavailable = pytest.raises(psycopg.errors.LockNotAvailable, match=message)
        with unavailable, maintenance.transaction():
            maintenance.execute(lock.encode())

    fails("SELECT rollup_engine.lock_out('raw.n')", "timeout")
    maintenance.execute("SELECT rollup_engine.lock_out('raw.m')")
    waiting = Background(user, "SELECT 1 FROM raw.m")
    waiting.wait_until_blocked(source)
    fails("SELECT rollup_engine.lock_out('raw.n')", "could not obtain")
    fails("SELECT rollup_engine.lock_out('raw.n_default', 'SHARE')", "could not obtain")
    done = maintenance.execute(MAINTAIN).fetchall()
    assert {row[1] for row in done if row[0] == "raw.n"} <= {"analyzed", "skipped"}, done
    maintenance.commit()
    waiting.result()
    user.commit()
    assert strays(source, "n") == 11
    for _ in "mn":
        source.execute(MAINTAIN)
    assert (strays(source), strays(source, "n")) == (0, 0)


def test_promise_j_users_wait_for_about_a_second(
    source: psycopg.Connection, connect: Connect
) -> None:
    maintenance = connect(autocommit=False)
    maintenance.execute(
        "SELECT set_config('rollup_engine.users_wait_since',"
        " extract(epoch FROM clock_timestamp() - interval '2 seconds')::text, true)"
    )
    maintenance.execute(MAINTAIN)
    assert strays(maintenance) == 10
    maintenance.commit()
    source.execute(MAINTAIN)
    assert strays(source) == 0
