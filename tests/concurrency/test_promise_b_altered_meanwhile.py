"""Promise b: what is altered after a drain and is as it was before the next one, a batch in between
does not store by."""

from collections.abc import Callable

import psycopg
import pytest

from interleaving import Background
from rollup_checks import assert_settled, refresh_everything
from scenes import scene

SWAP = (
    "ALTER TABLE raw.s RENAME a TO x; ALTER TABLE raw.s RENAME b TO a;"
    "ALTER TABLE raw.s RENAME x TO b"
)


def value(db: psycopg.Connection, query: str) -> object:
    row = db.execute(query.encode()).fetchone()
    assert row
    return row[0]


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    """A table with a child, and one that is not yet one; all is stale, and drained."""
    db.execute(
        "CREATE TABLE raw.s (ts timestamptz, device int, a int, b int);"
        "CREATE TABLE raw.s_child () INHERITS (raw.s); CREATE TABLE raw.s_other (LIKE raw.s);"
        "CREATE INDEX ON raw.s (device, ts)"
    )
    for table in ("s", "s_child", "s_other"):
        db.execute(
            f"INSERT INTO raw.{table} SELECT ts, 1, 1, 1000 FROM generate_series("
            "'2026-03-01 00:00+00'::timestamptz, '2026-03-01 05:30+00', '10 minutes') ts".encode()
        )
    db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')")
    return db


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ("ALTER TABLE raw.s_child NO INHERIT raw.s", "ALTER TABLE raw.s_child INHERIT raw.s"),
        ("ALTER TABLE raw.s_other INHERIT raw.s", "ALTER TABLE raw.s_other NO INHERIT raw.s"),
        (SWAP, SWAP),
    ],
    ids=["a child gone", "a child come", "columns swapped"],
)
@pytest.mark.parametrize("is_filled", [False, True], ids=["the first fill", "a group"])
def test_promise_b_what_was_altered_only_for_a_batch(
    source: psycopg.Connection, there: str, back: str, is_filled: bool
) -> None:
    if is_filled:
        refresh_everything(source)
        source.execute("UPDATE raw.s SET a = 2 WHERE ts = '2026-03-01 01:00+00'")
    source.execute("SELECT rollup_engine.drain(1, now())")
    step = "SELECT (rollup_engine.refresh_step(1, '(,)', '{}')).outcome"
    while value(source, "SELECT count(*) FROM rollup_engine.rollup_partition") == 0:
        assert value(source, step) == "prepared"
    source.execute(there.encode())
    while value(source, step) == "prepared":
        pass
    source.execute(back.encode())
    refresh_everything(source)
    assert_settled(source, "s_1h")


EXCHANGE = (
    "ALTER TABLE raw.s RENAME TO s_old; ALTER TABLE raw.{new} RENAME TO s",
    "ALTER TABLE raw.s RENAME TO {new}; ALTER TABLE raw.s_old RENAME TO s",
)


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ("SELECT (rollup_engine.refresh_step(1, '(,)', '{}')).outcome", "changed"),
        ("SELECT (rollup_engine.drain_step(1, now())).outcome", "locked"),
    ],
    ids=["a batch", "a drain"],
)
def test_promise_b_a_source_that_is_another_one_while_it_is_waited_for(
    source: psycopg.Connection,
    connect: Callable[..., psycopg.Connection],
    step: str,
    outcome: str,
) -> None:
    """A name is looked up again when its lock is there."""
    refresh_everything(source)
    source.execute("UPDATE raw.s SET a = 2; UPDATE raw.s_other SET a = 7")
    source.execute("SELECT rollup_engine.drain(1, now())")
    source.execute(
        "INSERT INTO raw.s SELECT ts, 1, 1, 1"
        " FROM generate_series(timestamptz '2020-01-01', '2026-01-01', '1 hour') AS ts"
    )
    source.execute("GRANT SELECT ON raw.s_other TO tsrollup_owner")
    there, back = (statement.format(new="s_other") for statement in EXCHANGE)
    with connect(autocommit=False) as other:
        other.execute(there.encode())
        batch = Background(connect(), step)
        batch.wait_until_blocked(source)
        other.commit()
        assert batch.result() == [(outcome,)]
    source.execute(back.encode())
    refresh_everything(source)
    assert_settled(source, "s_1h")


def test_promise_b_a_source_that_is_another_one_while_it_is_asked_what_was_left_out(
    source: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    """As in a database that a restore has made without what was stale."""
    source.execute("DELETE FROM rollup_engine.stale_range; DELETE FROM rollup_engine.source_shape")
    source.execute("DELETE FROM raw.s_other; GRANT SELECT ON raw.s_other TO tsrollup_owner")
    there, back = (statement.format(new="s_other") for statement in EXCHANGE)
    with connect(autocommit=False) as other:
        other.execute(there.encode())
        drain = Background(connect(), "SELECT (rollup_engine.drain_step(1, now())).outcome")
        drain.wait_until_blocked(source)
        other.commit()
        assert drain.result() == [("locked",)]
    source.execute(back.encode())
    refresh_everything(source)
    assert_settled(source, "s_1h")


def test_promise_h_a_column_renamed_beside_a_drain_is_no_failure(
    source: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    """The drain takes in the new name: who runs meanwhile knows the old one."""
    refresh_everything(source)
    source.execute("SELECT silver.mark_stale('s_1h', '-infinity', 'infinity')")
    source.execute("ALTER TABLE raw.s RENAME a TO c")
    with connect(autocommit=False) as drain:
        drain.execute("SELECT rollup_engine.look_at_source(1)")
        source.execute("CALL silver.run_rollups()")
        assert value(source, "SELECT count(*) FROM silver.error_log") == 0
        assert value(source, "SELECT status FROM silver.rollup_config") == "active"
        assert value(source, "SELECT count(*) FROM rollup_engine.stale_range") != 0
    refresh_everything(source)
    source.execute("ALTER TABLE raw.s RENAME c TO a")
    refresh_everything(source)
    assert_settled(source, "s_1h")


def test_promise_h_a_batch_undone_beside_a_drain_waits_for_nobody(
    source: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    refresh_everything(source)
    source.execute("UPDATE raw.s SET a = 2; ALTER TABLE raw.s ALTER a SET STATISTICS 50")
    source.execute("SELECT silver.mark_stale('s_1h', '-infinity', 'infinity')")
    with connect(autocommit=False) as drain:
        drain.execute("SELECT rollup_engine.look_at_source(1)")
        step = "SELECT (rollup_engine.refresh_step(1, '(,)', '{}')).outcome"
        assert value(source, step) == "changed"
    refresh_everything(source)
    assert_settled(source, "s_1h")
