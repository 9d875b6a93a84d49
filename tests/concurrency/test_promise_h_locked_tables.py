"""Promise h beside DDL and readers: who locks one table stops no other rollup, and nobody's
statement is ended by a deadlock with a rollup that is changed."""

from collections.abc import Callable
from threading import Thread
from time import monotonic

import psycopg
import pytest

from interleaving import Background
from rollup_checks import assert_settled, refresh_everything
from servers import PostgresServer

Connect = Callable[..., psycopg.Connection]
STALE = """
    SELECT DISTINCT r.target_table::text FROM silver.rollup_config AS r
    JOIN rollup_engine.stale_range AS s ON s.rollup_id = r.id ORDER BY 1
"""
WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL AND pid = %s"


@pytest.fixture
def two_sources(db: psycopg.Connection) -> psycopg.Connection:
    for statement in (
        "CREATE TABLE raw.p (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)",
        "CREATE TABLE raw.p_1 PARTITION OF raw.p FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        "CREATE TABLE raw.t (ts timestamptz NOT NULL, v int)",
        "SELECT silver.create_rollup_table('raw.p', 'silver', 'p_1h', '1 hour')",
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')",
        "SELECT silver.create_rollup_table('silver.t_1h', 'silver', 't_1d', '1 day')",
        "CALL silver.run_rollups()",
        "CREATE TABLE raw.p_2 PARTITION OF raw.p FOR VALUES FROM ('2026-04-01') TO ('2026-05-01')",
        "INSERT INTO raw.p VALUES ('2026-03-05 05:00+00', 1)",
        "INSERT INTO raw.t VALUES ('2026-03-05 05:00+00', 1), ('2026-01-05 05:00+00', 2)",
        "SET statement_timeout = '60s'",
    ):
        db.execute(statement.encode())
    return db


@pytest.mark.parametrize("statement", ["CALL silver.run_rollups(time_budget => '5s')", "perform"])
@pytest.mark.parametrize("table", ["raw.p", "raw.t"])
def test_promise_h_who_locks_one_source_stops_no_other(
    two_sources: psycopg.Connection, connect: Connect, table: str, statement: str
) -> None:
    others = {"raw.p": {"silver.t_1h", "silver.t_1d"}, "raw.t": {"silver.p_1h"}}[table]
    locking = connect(autocommit=False)
    locking.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
    said: list[str] = []
    two_sources.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    if statement == "perform":
        rows = two_sources.execute(
            "SELECT target, status, error_message FROM silver.perform_rollup()"
        ).fetchall()
        assert {target for target, status, _ in rows if status == "ok"} >= others
        said += [message for _, _, message in rows if message]
    else:
        began = monotonic()
        two_sources.execute(statement.encode())
        assert monotonic() - began < 30
    locked = f"{table} is locked by session {locking.info.backend_pid}"
    assert any(locked in message for message in said)
    stale = {target for (target,) in two_sources.execute(STALE).fetchall()}
    assert not stale & others
    locking.rollback()
    refresh_everything(two_sources)
    assert_settled(two_sources, "p_1h", "t_1h", "t_1d")
    assert two_sources.execute("SELECT error_message FROM silver.error_log").fetchall() == []


def test_promise_h_a_run_does_not_spend_its_time_on_a_transaction_that_is_left_open(
    two_sources: psycopg.Connection, connect: Connect
) -> None:
    changing = connect(autocommit=False)
    changing.execute("SELECT silver.alter_rollup('p_1h', new_name => 'p_hours')")
    said: list[str] = []
    two_sources.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    two_sources.execute("CALL silver.run_rollups(time_budget => '10 minutes')")
    assert any(f"it is session {changing.info.backend_pid}" in message for message in said), said
    assert_settled(two_sources, "t_1h", "t_1d")
    changing.rollback()
    refresh_everything(two_sources)
    assert_settled(two_sources, "p_1h", "t_1h", "t_1d")


def test_promise_h_a_failure_that_cannot_be_counted_stops_nothing(
    two_sources: psycopg.Connection, connect: Connect
) -> None:
    pausing = connect(autocommit=False)
    pausing.execute("SELECT silver.pause_rollup('p_1h')")
    two_sources.execute("DROP TABLE raw.p")
    two_sources.execute("CALL silver.run_rollups(time_budget => '5s')")
    assert_settled(two_sources, "t_1h", "t_1d")
    errors = "SELECT DISTINCT target_table, error_code FROM silver.error_log"
    assert two_sources.execute(errors).fetchall() == [("silver.p_1h", "TR002")]


@pytest.mark.parametrize("views", [("t_1d", "t_1h"), ("t_1h", "t_1d")], ids=" then ".join)
@pytest.mark.parametrize(
    "change",
    [
        "SELECT silver.rebuild_rollup('silver.t_1h')",
        """SELECT silver.add_rollup_metric('silver.t_1h', '{"v": ["first"]}')""",
    ],
    ids=["rebuild", "add a metric"],
)
def test_promise_j_no_reader_is_ended_by_a_rollup_that_is_changed(
    two_sources: psycopg.Connection, connect: Connect, change: str, views: tuple[str, str]
) -> None:
    refresh_everything(two_sources)
    reader, watcher = connect(autocommit=False), connect()
    first, second = views
    reader.execute(f"SELECT * FROM silver.{first}, gold.{first}".encode())
    failed: list[psycopg.Error] = []

    def make_the_change() -> None:
        try:
            two_sources.execute(change.encode())
        except psycopg.Error as error:
            failed.append(error)

    changing = Thread(target=make_the_change)
    changing.start()
    while changing.is_alive() and watcher.execute(
        WAITS, [two_sources.info.backend_pid]
    ).fetchone() == (0,):
        pass
    reader.execute(f"SELECT * FROM gold.{second}".encode())
    reader.commit()
    changing.join(60)
    assert not changing.is_alive()
    assert failed == []
    refresh_everything(two_sources)
    assert_settled(two_sources, "t_1h", "t_1d")


@pytest.mark.parametrize(
    "tables", [("raw.p", "gold.p_1h"), ("gold.p_1h", "raw.p"), ("raw.p_1", "raw.p", "silver.p_1h")]
)
def test_promise_j_no_reader_is_ended_by_a_rollup_that_is_dropped(
    two_sources: psycopg.Connection, connect: Connect, tables: tuple[str, ...]
) -> None:
    """The last one of its source, whose triggers go with it."""
    reader = connect(autocommit=False)
    reader.execute(f"SELECT FROM {tables[0]}".encode())
    drop = Background(two_sources, "SELECT silver.drop_rollup('p_1h')")
    drop.wait_until_blocked(connect())
    for table in tables[1:]:
        reader.execute(f"SELECT FROM {table}".encode())
    reader.commit()
    drop.result()
    left = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'raw.p'::regclass"
    assert two_sources.execute(left).fetchone() == (0,)


def test_a_drop_tells_who_is_in_its_way(two_sources: psycopg.Connection, connect: Connect) -> None:
    reader = connect(autocommit=False)
    reader.execute("SELECT FROM raw.p")
    # As it is after a minute.
    definition = two_sources.execute(
        "SELECT replace(pg_get_functiondef('rollup_engine.run_in_turn'::regproc), '00:01', '00:00')"
    ).fetchone()
    assert definition
    two_sources.execute(definition[0].encode())
    with pytest.raises(psycopg.errors.LockNotAvailable) as told:
        two_sources.execute("SELECT silver.drop_rollup('p_1h')")
    message = told.value.diag.message_primary
    assert message == f"raw.p is in use: by the sessions {reader.info.backend_pid}"
    reader.rollback()
    refresh_everything(two_sources)
    assert_settled(two_sources, "p_1h")


def test_promise_j_no_reader_is_ended_by_views_that_are_written_anew(
    settled: psycopg.Connection, connect: Connect, server: PostgresServer
) -> None:
    """As at the end of a migrate: one view is written, the next is in use, by whom the first is
    read then."""
    settled.execute("UPDATE rollup_engine.generated_text SET digest = '' WHERE name LIKE 'view%'")
    reader = connect(autocommit=False, user=server.superuser)
    reader.execute("SET deadlock_timeout = '1ms'")
    reader.execute("SELECT FROM gold.readings_1m, gold.readings_1h")
    writing = Background(connect(), "SELECT rollup_engine.regenerate()")
    written = (
        "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'"
        " AND relation = 'gold.readings_1d'::regclass AND pid <> pg_backend_pid()"
    )
    while writing.is_alive() and settled.execute(written).fetchone() == (0,):
        pass
    reader.execute("SELECT FROM gold.readings_1d")
    reader.commit()
    writing.result()
    outdated = settled.execute("SELECT rollup_engine.outdated_texts() ORDER BY 1").fetchall()
    assert [name for (name,) in outdated] == ["view_1", "view_2"]
    settled.execute("SELECT rollup_engine.regenerate()")
    assert settled.execute("SELECT rollup_engine.outdated_texts()").fetchall() == []


@pytest.mark.parametrize(
    "lock",
    [
        "LOCK TABLE raw.p_1 IN ACCESS EXCLUSIVE MODE",
        "LOCK TABLE ONLY raw.p IN ACCESS EXCLUSIVE MODE",
        "LOCK TABLE ONLY raw.g IN ACCESS EXCLUSIVE MODE",
        "LOCK TABLE silver.p_1h IN ACCESS EXCLUSIVE MODE",
    ],
)
def test_promise_h_what_watches_and_maintains_waits_for_no_lock(
    two_sources: psycopg.Connection, connect: Connect, lock: str
) -> None:
    """On a partition with retention, a table with a generated column, a rollup: all others are
    told of."""
    two_sources.execute("SELECT silver.set_retention('raw.p', '30 years')")
    two_sources.execute(
        "CREATE TABLE raw.g (ts timestamptz, v integer, w integer GENERATED ALWAYS AS (v) STORED);"
        "SELECT silver.create_rollup_table('g', 'silver', 'g_1h', '1 hour')"
    )
    refresh_everything(two_sources)
    locking = connect(autocommit=False)
    locking.execute(lock.encode())
    two_sources.execute("SET statement_timeout = '20s'")
    watched = "SELECT target_table, health FROM silver.timeseries_operations_monitor"
    healths: dict[str, str] = dict(two_sources.execute(watched).fetchall())
    checked = "SELECT target, bool_and(is_valid) FROM silver.validate_rollup_config() GROUP BY 1"
    valid: dict[str, bool] = dict(two_sources.execute(checked).fetchall())
    for rollup in ("silver.t_1h", "silver.t_1d"):
        assert (healths[rollup], valid[rollup]) == ("ok", True)
    assert healths.keys() == valid.keys() - {"raw.p"}
    two_sources.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    two_sources.execute("CALL silver.run_rollups(time_budget => '5s')")
    locking.rollback()
    refresh_everything(two_sources)
    assert {health for _, health in two_sources.execute(watched).fetchall()} == {"ok"}


def test_promise_h_a_source_of_a_type_of_ones_own_whose_old_partition_is_locked(
    db: psycopg.Connection, connect: Connect
) -> None:
    """What its catalogue says cannot be told then: that is noted nowhere, and no failure."""
    db.execute(
        "CREATE TYPE raw.mood AS ENUM ('on', 'off');"
        "CREATE TABLE raw.m (ts timestamptz, mood raw.mood) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.m_1 PARTITION OF raw.m FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
        "CREATE TABLE raw.m_2 PARTITION OF raw.m FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');"
        "INSERT INTO raw.m VALUES ('2026-02-03 01:00+00', 'on');"
        "SELECT silver.create_rollup_table('m', 'silver', 'm_1h', '1 hour', dimensions => '{mood}')"
    )
    refresh_everything(db)
    locking = connect(autocommit=False)
    locking.execute("LOCK TABLE raw.m_1 IN ACCESS EXCLUSIVE MODE")
    db.execute("INSERT INTO raw.m_2 VALUES ('2026-02-03 05:00+00', 'on')")
    # How many rows there are is estimated again.
    db.execute("UPDATE silver.rollup_config SET last_success_at = now() - interval '1 hour'")
    done = db.execute("SELECT status, error_code FROM silver.perform_rollup()").fetchall()
    assert done == [("partial", "55P03")]
    assert db.execute("SELECT FROM silver.error_log").fetchall() == []
    locking.rollback()
    assert db.execute("SELECT status FROM silver.perform_rollup()").fetchall() == [("ok",)]
    assert_settled(db, "m_1h")


@pytest.mark.parametrize("statement", ["SELECT * FROM silver.perform_rollup()", "maintenance"])
def test_promise_j_no_ddl_is_ended_by_a_deadlock_with_a_run(
    two_sources: psycopg.Connection, connect: Connect, statement: str
) -> None:
    """The transaction has made triggers for a partition, or keeps one, and then needs the table,
    which somebody keeps who waits for the partition."""
    refresh_everything(two_sources)
    running, detaching, watcher = connect(autocommit=False), connect(), connect()
    if statement == "maintenance":
        statement = "SELECT * FROM silver.maintain_timeseries_tables()"
        two_sources.execute("SELECT silver.partition_source('raw.p', '1 month')")
        running.execute("SELECT rollup_engine.lock_out('raw.p_2')")
    else:
        two_sources.execute("SELECT silver.mark_stale('silver.p_1h', '-infinity', 'infinity')")
        two_sources.execute("DROP TRIGGER tsrollup_insert_1 ON raw.p_2")
        running.execute("SELECT rollup_engine.watch_new_partitions(id) FROM rollup_engine.source")
    user = Background(detaching, "ALTER TABLE raw.p DETACH PARTITION raw.p_2")
    user.wait_until_blocked(watcher)
    rows = running.execute(statement.encode()).fetchall()
    running.commit()
    assert user.result() == []
    assert any("raw.p is locked by session" in str(row) or "skipped" in row for row in rows)
    two_sources.execute("DROP TABLE raw.p_2")
    refresh_everything(two_sources)
    assert_settled(two_sources, "p_1h", "t_1h", "t_1d")


def test_promise_j_who_keeps_users_waiting_waits_for_nobody(
    two_sources: psycopg.Connection, connect: Connect
) -> None:
    locking, running = connect(autocommit=False), connect(autocommit=False)
    two_sources.execute("SELECT silver.mark_stale('silver.t_1h', '-infinity', 'infinity')")
    locking.execute("LOCK TABLE raw.t IN ACCESS EXCLUSIVE MODE")
    spent = []
    for statement in ("SELECT 1", "SELECT rollup_engine.lock_out('raw.p_2')"):
        running.execute(statement.encode())
        began = monotonic()
        step = "SELECT outcome FROM rollup_engine.refresh_step(2, '(,)', '{}')"
        assert running.execute(step.encode()).fetchone() == ("locked",)
        spent.append(monotonic() - began)
    assert spent[0] > 0.3
    assert spent[1] < spent[0] - 0.2
