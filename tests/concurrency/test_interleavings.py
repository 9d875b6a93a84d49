"""Promises b and c at the points where they would break: explicit waits, no chance."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from interleaving import Background, Paused, pause_refreshes_of
from raw_tables import LEVELS
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]

# It commits its drain, so that others may drain while it is paused.
RUN = "CALL silver.run_rollups('readings_1m', as_of => 'infinity')"
REFRESH = "SELECT * FROM silver.perform_rollup('readings_1m', 1, 'infinity')"
CHANGE = "UPDATE raw.readings SET count = 1000 WHERE ts = '2026-03-01 21:00+00'"
DRAIN = "SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source"


def test_promise_c_a_change_during_a_recompute_stays_stale(
    settled: psycopg.Connection, connect: Connect
) -> None:
    pause_refreshes_of(settled, "silver.readings_1m")
    settled.execute("SELECT silver.mark_stale('readings_1m', '2026-03-01 20:00', '2026-03-02')")
    with Paused(settled, connect(), RUN):
        settled.execute(CHANGE)
        settled.execute(DRAIN)
        assert_equal_to_group_by(settled, *LEVELS)
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_promise_c_an_older_recompute_never_overwrites_a_newer(
    settled: psycopg.Connection, connect: Connect
) -> None:
    pause_refreshes_of(settled, "silver.readings_1m")
    settled.execute("UPDATE raw.readings SET count = -1 WHERE ts < '2026-03-02 00:00+00'")
    with Paused(settled, connect(), RUN):
        settled.execute(CHANGE)
        settled.execute(REFRESH)
        assert_equal_to_group_by(settled, *LEVELS)
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_promise_c_the_parent_is_looked_at_after_the_claim(
    settled: psycopg.Connection, connect: Connect
) -> None:
    """A change arrives after the child was picked and before it has claimed."""
    settled.execute("SELECT silver.mark_stale('readings_1h', '2026-03-01 20:00', '2026-03-02')")
    holder = connect(autocommit=False)
    holder.execute("LOCK TABLE rollup_engine.stale_range IN EXCLUSIVE MODE")
    refresh = Background(
        connect(),
        "SELECT rollup_engine.refresh_step(id, '(,)', '{}') FROM silver.rollup_config"
        " WHERE target_table = 'silver.readings_1h'::regclass",
    )
    refresh.wait_until_blocked(settled)
    holder.execute(CHANGE)
    holder.execute(DRAIN)
    holder.commit()
    refresh.result()
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_promise_c_a_child_waits_for_a_parent_that_is_being_refreshed(
    settled: psycopg.Connection, connect: Connect
) -> None:
    pause_refreshes_of(settled, "silver.readings_1m")
    settled.execute(CHANGE)
    settled.execute(DRAIN)
    with Paused(settled, connect(), RUN):
        row = settled.execute(
            "SELECT status FROM silver.perform_rollup('readings_1h', as_of => 'infinity')"
        ).fetchone()
        assert row == ("waiting_for_parent",)
        assert_equal_to_group_by(settled, *LEVELS)
    assert_equal_to_group_by(settled, *LEVELS)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_promise_c_the_log_row_comes_with_its_data(
    settled: psycopg.Connection, connect: Connect, level: str
) -> None:
    """Drained while the writer is open, and seen by the writer itself before it commits."""
    writer = connect()
    writer.execute(f"BEGIN ISOLATION LEVEL {level}".encode())
    writer.execute(CHANGE)
    assert_equal_to_group_by(writer, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)
    writer.execute("SAVEPOINT undone")
    writer.execute("DELETE FROM raw.readings WHERE device = 'd1'")
    assert_equal_to_group_by(writer, *LEVELS)
    writer.execute("ROLLBACK TO undone")
    writer.execute("COMMIT")
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_promise_c_what_is_rolled_back_leaves_nothing(
    settled: psycopg.Connection, connect: Connect
) -> None:
    writer = connect(autocommit=False)
    writer.execute("DELETE FROM raw.readings")
    writer.rollback()
    row = settled.execute("SELECT count(*) FROM rollup_engine.change_log").fetchone()
    assert row == (0,)


def test_promise_c_two_phase_commit(settled: psycopg.Connection) -> None:
    limit = settled.execute("SHOW max_prepared_transactions").fetchone()
    if limit == ("0",):
        pytest.skip("the server has no prepared transactions")
    gid = f"two-phase {settled.info.dbname}"
    for verb in ("ROLLBACK", "COMMIT"):
        settled.execute(f"BEGIN; {CHANGE}; PREPARE TRANSACTION '{gid}'".encode())
        assert_equal_to_group_by(settled, *LEVELS)
        refresh_everything(settled)
        settled.execute(f"{verb} PREPARED '{gid}'".encode())
        assert_equal_to_group_by(settled, *LEVELS)
        refresh_everything(settled)
        assert_settled(settled, *LEVELS)


def test_promise_b_the_stale_set_is_that_of_the_snapshot(
    settled: psycopg.Connection, connect: Connect
) -> None:
    """A query waits between its snapshot and its first look at the live view; meanwhile what was
    stale for it is stored."""
    settled.execute(CHANGE)
    before = settled.execute("SELECT sum(count_sum) FROM gold.readings_1d").fetchone()
    blocker = connect()
    blocker.execute("SELECT pg_advisory_lock(4711)")
    query = Background(
        connect(),
        "SELECT sum(r.count_sum) FROM (SELECT pg_advisory_lock(4711)::text AS x OFFSET 0) AS w"
        " CROSS JOIN LATERAL (SELECT * FROM gold.readings_1d"
        " WHERE row_count > 0 OR w.x = 'never' OFFSET 0) AS r",
    )
    query.wait_until_blocked(settled)
    settled.execute("UPDATE raw.readings SET count = 7 WHERE device = 'd2'")
    refresh_everything(settled)
    blocker.execute("SELECT pg_advisory_unlock(4711)")
    assert query.result() == [before]


def test_promise_b_an_old_snapshot_stays_what_it_was(
    settled: psycopg.Connection, connect: Connect
) -> None:
    reader = connect(autocommit=False)
    reader.isolation_level = IsolationLevel.REPEATABLE_READ
    settled.execute(CHANGE)
    reader.execute("SELECT")
    for change in ("DELETE FROM raw.readings WHERE device = 'd1'", "DELETE FROM raw.readings"):
        settled.execute(change.encode())
        assert_equal_to_group_by(reader, *LEVELS)
        refresh_everything(settled)
        assert_equal_to_group_by(reader, *LEVELS)


REFUSED = [
    "SELECT * FROM silver.perform_rollup()",
    "SELECT * FROM silver.refresh_rollup('readings_1m', '2026-03-01', '2026-03-02')",
    "CALL silver.run_rollups()",
    "SELECT * FROM silver.handle_rollup_retries()",
    "SELECT silver.create_rollup_table('raw.readings', 'silver', 'other', '1 minute')",
    "SELECT silver.add_rollup_metric('readings_1m', '{\"count\": [\"max\"]}')",
]


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_promise_c_refuses_to_work_in_an_old_snapshot(
    settled: psycopg.Connection, connect: Connect, level: IsolationLevel
) -> None:
    settled.execute(CHANGE)
    settled.execute("UPDATE silver.rollup_config SET retry_count = 1, next_retry_at = '-infinity'")
    for statement in REFUSED:
        connection = connect()
        connection.isolation_level = level
        with pytest.raises(psycopg.Error) as caught, connection.transaction():
            connection.execute(statement.encode())
        assert caught.value.sqlstate == "TR005", statement
        assert caught.value.diag.message_hint


# A rollup that comes or goes ------------------------------------------------------------------


def test_promise_c_a_writer_from_before_the_rollup(
    settled: psycopg.Connection, connect: Connect
) -> None:
    """Its triggers come too late for that writer, so the rollup waits for it."""
    settled.execute("CREATE TABLE raw.older (ts timestamptz, v integer)")
    writer = connect(autocommit=False)
    writer.execute("INSERT INTO raw.older VALUES ('2026-03-01', 1)")
    creation = Background(
        connect(),
        "SELECT silver.create_rollup_table('raw.older', 'silver', 'older_1h', '1 hour')",
    )
    creation.wait_until_blocked(settled)
    writer.commit()
    creation.result()
    assert_equal_to_group_by(settled, "older_1h")
    refresh_everything(settled)
    assert_settled(settled, "older_1h")


@pytest.mark.parametrize("source", ["raw.readings", "silver.readings_1m"])
def test_promise_c_a_writer_from_before_a_further_rollup(
    settled: psycopg.Connection, connect: Connect, source: str
) -> None:
    writer = connect(autocommit=False)
    writer.execute("INSERT INTO raw.readings (ts) VALUES ('2026-03-02 12:00+00')")
    creator = connect(autocommit=False)
    creator.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', 'readings_5m', '5 minutes')", [source]
    )
    writer.commit()
    settled.execute(DRAIN)  # keeps out: it knows only three of the four
    creator.commit()
    assert_equal_to_group_by(settled, *LEVELS, "readings_5m")
    refresh_everything(settled)
    assert_settled(settled, *LEVELS, "readings_5m")


def test_promise_c_a_rollup_dropped_during_its_refresh(
    settled: psycopg.Connection, connect: Connect
) -> None:
    settled.execute("SELECT silver.drop_rollup('readings_1d')")
    pause_refreshes_of(settled, "silver.readings_1h")
    settled.execute("SELECT silver.mark_stale('readings_1h', '2026-03-01 20:00', '2026-03-02')")
    refresh = "SELECT * FROM silver.perform_rollup('readings_1h', as_of => 'infinity')"
    with Paused(settled, connect(), refresh):
        drop = Background(connect(), "SELECT silver.drop_rollup('readings_1h')")
        drop.wait_until_blocked(settled)
    drop.result()
    rows = settled.execute("SELECT FROM rollup_engine.stale_range WHERE rollup_id = 2").fetchall()
    assert rows == []
    refresh_everything(settled)
    assert_settled(settled, "readings_1m")
    assert settled.execute("SELECT * FROM silver.error_log").fetchall() == []


# Undone ---------------------------------------------------------------------------------------


def test_promise_c_a_refresh_that_is_rolled_back(
    settled: psycopg.Connection, connect: Connect
) -> None:
    settled.execute(CHANGE)
    refresher = connect(autocommit=False)
    refresh_everything(refresher)
    assert_settled(refresher, *LEVELS)
    assert_equal_to_group_by(settled, *LEVELS)
    refresher.rollback()
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_promise_c_a_refresher_that_is_killed(
    settled: psycopg.Connection, connect: Connect
) -> None:
    pause_refreshes_of(settled, "silver.readings_1m")
    settled.execute(CHANGE)
    refresher = connect()
    with pytest.raises(psycopg.OperationalError), Paused(settled, refresher, RUN):
        settled.execute("SELECT pg_terminate_backend(%s)", [refresher.info.backend_pid])
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)
