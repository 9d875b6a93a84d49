"""Promise b: a statement that was planned before a partition came, and that runs after it was
filled, misses nothing."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from fleets import INSERT, check, create_fleet, stale
from interleaving import Background
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]

SETUP = """
    CREATE TABLE raw.t (ts timestamptz NOT NULL, v integer);
    INSERT INTO raw.t SELECT timestamptz '2020-01-01 00:00+00' + make_interval(secs => 10 * i), i
    FROM generate_series(0, 720) AS i;
    SELECT silver.create_rollup_table('raw.t', 'silver', 't_1m', '1 minute');
    SELECT silver.create_rollup_table('t_1m', 'silver', 't_1h', '1 hour');
    -- The planner evaluates it to estimate, so a statement that holds it waits half planned.
    CREATE FUNCTION public.gate() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
    BEGIN
        PERFORM pg_advisory_lock_shared(4711);
        PERFORM pg_advisory_unlock_shared(4711);
        RETURN 0;
    END
    $$;
"""
READ = "SELECT sum(row_count), sum(v_sum) FROM gold.{}"
RAW = "SELECT count(*), sum(v) FROM raw.t"
PLANNED_LIVE = (
    "SELECT count(*) > 0 FROM silver.rollup_config AS r, rollup_engine.stale_spans(r.id,"
    " rollup_engine.planned_partitions(r.id)) WHERE r.target_table = 'silver.t_1m'::regclass"
)


@pytest.fixture
def unfilled(db: psycopg.Connection) -> psycopg.Connection:
    db.execute(SETUP)
    return db


@pytest.mark.parametrize("level", ["t_1m", "t_1h"])
@pytest.mark.parametrize("work", ["CALL silver.run_rollups()", "SELECT silver.perform_rollup()"])
def test_promise_b_planned_before_a_partition_run_after_its_fill(
    unfilled: psycopg.Connection, connect: Connect, work: str, level: str
) -> None:
    blocker = connect()
    blocker.execute("SELECT pg_advisory_lock(4711)")
    reader = Background(connect(), f"{READ.format(level)} WHERE row_count > public.gate()")
    reader.wait_until_blocked(unfilled)
    unfilled.execute(work.encode())
    assert_settled(unfilled, "t_1m", "t_1h")
    blocker.execute("SELECT pg_advisory_unlock(4711)")
    assert reader.result() == unfilled.execute(RAW).fetchall()


@pytest.mark.parametrize("level", ["t_1m", "t_1h"])
def test_promise_b_a_plan_that_lives_as_long_as_its_transaction(
    unfilled: psycopg.Connection, connect: Connect, level: str
) -> None:
    reader = connect(autocommit=False)
    reader.execute("SET plan_cache_mode = force_generic_plan")
    reader.execute(f"PREPARE q AS {READ.format(level)}".encode())
    for change in (
        "CALL silver.run_rollups()",
        "INSERT INTO raw.t VALUES ('2010-05-05', 7), ('2022-05-05', 9)",
        "CALL silver.run_rollups()",
        "DELETE FROM raw.t WHERE v > 700",
        "SELECT silver.perform_rollup()",
    ):
        assert reader.execute("EXECUTE q").fetchall() == unfilled.execute(RAW).fetchall()
        unfilled.execute(change.encode())
    assert reader.execute("EXECUTE q").fetchall() == unfilled.execute(RAW).fetchall()
    reader.commit()
    assert reader.execute("EXECUTE q").fetchall() == unfilled.execute(RAW).fetchall()


def test_promise_b_a_partition_that_others_made(
    unfilled: psycopg.Connection, connect: Connect
) -> None:
    reader = connect(autocommit=False)
    reader.execute("SET plan_cache_mode = force_generic_plan")
    reader.execute(f"PREPARE q AS {READ.format('t_1m')}".encode())
    reader.execute("EXECUTE q")
    unfilled.execute(
        "SELECT rollup_engine.add_partition('silver.t_1m', '2020-01-01 00:00+00',"
        " '2020-02-01 00:00+00')"
    )
    unfilled.execute("CALL silver.run_rollups()")
    assert_settled(unfilled, "t_1m", "t_1h")
    assert reader.execute("EXECUTE q").fetchall() == unfilled.execute(RAW).fetchall()


def test_promise_b_plans_of_a_new_rollup_know_the_partitions_it_came_with(
    unfilled: psycopg.Connection,
) -> None:
    """Nobody saw the table without them: their ranges are not read live before the first fill."""
    unfilled.execute("DELETE FROM rollup_engine.stale_range")
    assert unfilled.execute(
        "SELECT count(*) > 0, bool_and(isempty(rollup_engine.stale_set(rollup_id,"
        " rollup_engine.planned_partitions(rollup_id)))) FROM rollup_engine.rollup_partition"
    ).fetchone() == (True, True)


def test_promise_b_plans_count_on_a_partition_from_the_next_transaction_on(
    unfilled: psycopg.Connection, connect: Connect
) -> None:
    """What becomes visible is heard of a moment later; so readers compute its range, and children
    wait, until a later transaction, which must not overtake whoever attaches one."""
    unfilled.execute("SELECT silver.perform_rollup('t_1m')")
    assert_settled(unfilled, "t_1m")
    session = connect()
    session.execute("SET plan_cache_mode = force_generic_plan")
    session.execute("PREPARE q AS SELECT * FROM gold.t_1m")
    plan_in_between = session.execute("EXPLAIN (VERBOSE, COSTS OFF) EXECUTE q").fetchall()
    assert unfilled.execute(PLANNED_LIVE).fetchone() == (True,)

    attacher = connect(autocommit=False)
    attacher.execute("LOCK TABLE ONLY silver.t_1m IN SHARE UPDATE EXCLUSIVE MODE")
    perform = "SELECT status FROM silver.perform_rollup('t_1h')"
    assert unfilled.execute(perform).fetchone() == ("waiting_for_parent",)
    unfilled.execute("CALL silver.run_rollups()")
    assert unfilled.execute(PLANNED_LIVE).fetchone() == (True,)
    assert_equal_to_group_by(unfilled, "t_1m", "t_1h")
    attacher.commit()

    assert unfilled.execute(perform).fetchone() == ("ok",)
    assert unfilled.execute(PLANNED_LIVE).fetchone() == (False,)
    assert_settled(unfilled, "t_1m", "t_1h")
    assert session.execute("EXPLAIN (VERBOSE, COSTS OFF) EXECUTE q").fetchall() != plan_in_between


def test_promise_b_groups_wait_for_a_partition_of_their_parent(
    db: psycopg.Connection, connect: Connect
) -> None:
    """The child has its own, which is wider, and holds that time already."""
    create_fleet(db)
    db.execute(f"{INSERT} VALUES ('2022-03-20 01:30+00', 3, 's1', 1)".encode())
    db.execute("SELECT silver.perform_rollup('fleet_1h')")
    assert stale(db, "fleet_1h") == []
    assert stale(db, "fleet_1d") == [("20 00", 24, ["3"])]
    attacher = connect(autocommit=False)
    attacher.execute("LOCK TABLE ONLY silver.fleet_1h IN SHARE UPDATE EXCLUSIVE MODE")
    perform = "SELECT status FROM silver.perform_rollup('fleet_1d')"
    assert db.execute(perform).fetchone() == ("waiting_for_parent",)
    attacher.commit()
    assert db.execute(perform).fetchone() == ("ok",)
    check(db)


def test_promise_b_children_read_no_partition_of_their_parent_that_is_not_settled(
    unfilled: psycopg.Connection,
) -> None:
    """It was made and filled in one transaction, whose rows are seen a moment before it is heard of
    that there is such a partition: here its rows are not there for who reads."""
    unfilled.execute("SELECT silver.perform_rollup('t_1m')")
    with unfilled.transaction(force_rollback=True):
        unfilled.execute("SELECT rollup_engine.set_refreshing(true)")
        assert unfilled.execute("DELETE FROM silver.t_1m").rowcount > 0
        for level in ("t_1m", "t_1h"):
            assert unfilled.execute(READ.format(level)).fetchall() == [
                unfilled.execute(RAW).fetchone()
            ]
    refresh_everything(unfilled)
    assert_settled(unfilled, "t_1m", "t_1h")


def test_promise_b_many_readers_while_partitions_come(
    unfilled: psycopg.Connection, connect: Connect
) -> None:
    """A pool that always reads neither holds a refresh up nor misses rows."""
    readers = [connect(autocommit=False) for _ in range(3)]
    for i in range(6):
        readers[i % 3].commit()
        for reader in readers:
            row = reader.execute(
                "SELECT (SELECT count(*) FROM raw.t), (SELECT sum(row_count) FROM gold.t_1h)"
            ).fetchone()
            assert row
            assert row[0] == row[1]
        unfilled.execute("INSERT INTO raw.t VALUES (make_date(2000 + %s, 5, 5), 1)", [i])
        refresh_everything(unfilled)
        assert_settled(unfilled, "t_1m", "t_1h")
