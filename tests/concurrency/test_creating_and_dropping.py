"""Rollups are created, dropped and extended while others do the same, refresh, read or write."""

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from interleaving import Background
from rollup_checks import assert_settled, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]

CREATE = "SELECT silver.create_rollup_table('raw.t', 'silver', '{}', '1 hour', if_not_exists => {})"


def test_the_same_rollup_created_by_many_at_once(db: psycopg.Connection, connect: Connect) -> None:
    """As a deployment of several instances does; and others of the same source beside it."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01', 1)")
    creators = [
        Background(connect(), CREATE.format(name, "true").encode())
        for name in [*["t_1h"] * 5, *(f"t_{i}" for i in range(5))]
    ]
    assert {str(x.result()[0][0]) for x in creators} == {
        "silver.t_1h",
        *(f"silver.t_{i}" for i in range(5)),
    }
    refresh_everything(db)
    assert_settled(db, "t_1h", *(f"t_{i}" for i in range(5)))
    with pytest.raises(psycopg.Error, match="exists already"):
        db.execute(CREATE.format("t_1h", "false").encode())


def test_a_first_rollup_beside_a_vacuum_of_its_source(
    db: psycopg.Connection, connect: Connect
) -> None:
    """Which writes the same row of the catalogue, and keeps triggers out until then."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    db.execute("INSERT INTO raw.t SELECT '2026-03-01', i FROM generate_series(1, 100) AS i")
    vacuum = connect(autocommit=False)
    vacuum.execute("LOCK TABLE raw.t IN SHARE UPDATE EXCLUSIVE MODE")
    create = Background(connect(), CREATE.format("t_1h", "false").encode())
    create.wait_until_blocked(db)
    vacuum.execute("ANALYZE raw.t")
    vacuum.commit()
    assert create.result() == [("silver.t_1h",)]


@pytest.mark.parametrize(
    "build", ["CREATE INDEX CONCURRENTLY ON raw.t_1 (v)", "REINDEX TABLE CONCURRENTLY raw.t_1"]
)
def test_neither_the_first_nor_the_last_rollup_ends_an_index_build(
    db: psycopg.Connection, connect: Connect, build: str
) -> None:
    """Which waits for every older snapshot: in the end for one that waits for its table."""
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, v integer) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.t_1 PARTITION OF raw.t"
        " FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00');"
        "CREATE INDEX ON raw.t_1 (ts)"
    )
    for call in (CREATE.format("t_1h", "false"), "SELECT silver.drop_rollup('t_1h')"):
        with connect(autocommit=False) as writer:
            writer.execute("INSERT INTO raw.t VALUES ('2026-03-01', 1)")
            index = Background(connect(), build.encode())
            index.wait_until_blocked(db)
            with pytest.raises(psycopg.Error, match=r"builds an index of raw\.t_1 concurrently"):
                db.execute(call.encode())
        index.result()
        db.execute(call.encode())


def test_the_last_two_rollups_of_a_source_dropped_at_once(
    db: psycopg.Connection, connect: Connect
) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, v integer)")
    for name in ("t_1h", "t_2h"):
        db.execute(CREATE.format(name, "false").encode())
    first, second = connect(autocommit=False), connect()
    first.execute("SELECT silver.drop_rollup('t_1h')")
    drop = Background(second, "SELECT silver.drop_rollup('t_2h')")
    drop.wait_until_blocked(db)
    first.commit()
    drop.result()
    left = "SELECT (SELECT count(*) FROM rollup_engine.source), count(*) FROM pg_trigger"
    assert db.execute(f"{left} WHERE tgrelid = 'raw.t'::regclass".encode()).fetchone() == (0, 0)


def test_a_rollup_created_while_another_of_its_source_changes(
    db: psycopg.Connection, connect: Connect
) -> None:
    """Who waits for the source has nothing yet that the other will want."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    db.execute(CREATE.format("t_1h", "false").encode())
    changing = connect(autocommit=False)
    changing.execute(
        "SELECT pg_advisory_xact_lock(rollup_engine.source_lock_key(id)) FROM rollup_engine.source"
    )
    create = Background(connect(), CREATE.format("t_2h", "false").encode())
    create.wait_until_blocked(db)
    changing.execute("SET LOCAL lock_timeout = '5s'")
    changing.execute("SELECT FROM rollup_engine.source FOR NO KEY UPDATE")
    changing.commit()
    assert create.result() == [("silver.t_2h",)]


def test_maintenance_of_what_was_dropped_meanwhile_says_nothing(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    db.execute(CREATE.format("t_1h", "false").encode())
    db.execute("CREATE TEMP TABLE known AS SELECT s FROM rollup_engine.partition_set AS s")
    db.execute("SELECT silver.drop_rollup('t_1h')")
    done = db.execute(
        "SELECT m.* FROM known, LATERAL rollup_engine.maintain_set("
        "s, '{resized,premade,skipped,analyzed,indexed}', now()) AS m"
    )
    assert done.fetchall() == []
    assert db.execute("SELECT error_message FROM silver.error_log").fetchall() == []


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_one_rollup_dropped_twice_at_once(
    settled: psycopg.Connection, connect: Connect, isolation: str
) -> None:
    """The other has found it already, and waits; what it waits for is gone then."""
    first, second = connect(autocommit=False), connect(autocommit=False)
    second.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
    second.execute("SELECT FROM silver.rollup_config")
    first.execute("SELECT silver.drop_rollup('readings_1d')")
    drop = Background(second, "SELECT silver.drop_rollup('readings_1d')")
    drop.wait_until_blocked(settled)
    first.commit()
    if isolation == "READ COMMITTED":
        drop.result()
    else:
        with pytest.raises(psycopg.errors.SerializationFailure):
            drop.result()


def test_a_rollup_dropped_while_it_is_renamed(
    settled: psycopg.Connection, connect: Connect
) -> None:
    """By the name that it had, which is not there any more when it may go on."""
    renaming = connect(autocommit=False)
    renaming.execute("ALTER VIEW gold.readings_1d RENAME TO days")
    drop = Background(connect(), "SELECT silver.drop_rollup('silver.readings_1d')")
    drop.wait_until_blocked(settled)
    renaming.commit()
    drop.result()
    assert settled.execute("SELECT to_regclass('gold.days')").fetchone() == (None,)


def test_promise_j_maintenance_waits_for_nobody_who_creates_a_rollup(
    settled: psycopg.Connection, connect: Connect
) -> None:
    """Who has created one of the same source, and has not committed, may want what it keeps."""
    creating = connect(autocommit=False)
    creating.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_2h', '2 hours')"
    )
    settled.execute("SET statement_timeout = '20s'")
    settled.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    creating.commit()
    refresh_everything(settled)
    assert_settled(settled, "readings_2h")


def test_a_drop_waits_for_claims_before_it_locks(
    settled: psycopg.Connection, connect: Connect
) -> None:
    """A refresh claims stale rows, then opens the table: the other way round is a deadlock."""
    settled.execute("SELECT silver.drop_rollup('readings_1d')")
    settled.execute("SELECT silver.mark_stale('readings_1h', '2026-03-01 20:00', '2026-03-02')")
    refresher = connect(autocommit=False)
    refresher.execute("SELECT FROM rollup_engine.stale_range FOR UPDATE")
    drop = Background(connect(), "SELECT silver.drop_rollup('readings_1h')")
    drop.wait_until_blocked(settled)
    refresher.execute("SELECT FROM silver.readings_1h")
    refresher.commit()
    drop.result()


@pytest.mark.parametrize(
    "work",
    [
        "SELECT silver.mark_stale('readings_1d', '2026-03-01', '2026-03-09')",
        "SELECT silver.perform_rollup('readings_1d', 1, 'infinity')",
    ],
    ids=["marking", "refreshing"],
)
def test_a_drop_leaves_nothing_of_what_others_mark(
    settled: psycopg.Connection, connect: Connect, work: str
) -> None:
    """A mark, or the rest of a claim, of a transaction that is open while the rollup is dropped."""
    settled.execute(
        "INSERT INTO raw.readings (ts) SELECT timestamptz '2026-03-01' + make_interval(hours => i)"
        " FROM generate_series(0, 47) AS i"
    )
    settled.execute("UPDATE silver.rollup_config SET current_window = bucket_width")
    settled.execute("SELECT silver.perform_rollup('readings_1m', as_of => 'infinity')")
    settled.execute("SELECT silver.perform_rollup('readings_1h', as_of => 'infinity')")
    settled.execute("SELECT silver.mark_stale('readings_1d', '2026-03-01', '2026-03-05')")
    other = connect(autocommit=False)
    other.execute(work.encode())
    drop = Background(connect(), "SELECT silver.drop_rollup('readings_1d')")
    drop.wait_until_blocked(settled)
    other.commit()
    drop.result()
    left = settled.execute(
        "SELECT FROM rollup_engine.stale_range"
        " WHERE rollup_id NOT IN (SELECT id FROM silver.rollup_config)"
    )
    assert left.rowcount == 0


def test_a_metric_waits_for_readers_before_it_locks(
    settled: psycopg.Connection, connect: Connect
) -> None:
    """Who reads the live view opens its table next."""
    reader = connect(autocommit=False)
    reader.execute("CREATE VIEW public.mine AS SELECT FROM gold.readings_1m")
    change = Background(
        connect(), "SELECT silver.add_rollup_metric('readings_1m', '{\"level\": [\"first\"]}')"
    )
    change.wait_until_blocked(settled)
    settled.execute("SET lock_timeout = '10s'")
    settled.execute("SELECT FROM silver.readings_1m")
    reader.commit()
    change.result()


def test_triggers_are_created_from_the_top(db: psycopg.Connection, connect: Connect) -> None:
    """As writers lock: who writes through the parent is not caught between it and a partition."""
    db.execute(
        """
        CREATE TABLE raw.t_1 (ts timestamptz NOT NULL, v integer);
        CREATE TABLE raw.t (ts timestamptz NOT NULL, v integer) PARTITION BY RANGE (ts);
        ALTER TABLE raw.t ATTACH PARTITION raw.t_1
            FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
        """
    )
    writer = connect(autocommit=False)
    writer.execute("LOCK TABLE ONLY raw.t IN ROW EXCLUSIVE MODE")
    create = Background(connect(), CREATE.format("t_1h", "false").encode())
    create.wait_until_blocked(db)
    writer.execute("INSERT INTO raw.t VALUES ('2026-03-01 05:00+00', 1)")
    writer.commit()
    create.result()
    refresh_everything(db)
    assert_settled(db, "t_1h")


def test_a_drop_says_whom_it_waits_for(db: psycopg.Connection, connect: Connect) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz)")
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    told: list[str] = []
    dropping = connect()
    dropping.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    other = connect(autocommit=False)
    other.execute("SELECT silver.pause_rollup('t_1h')")
    drop = Background(dropping, "SELECT silver.drop_rollup('t_1h')")
    while not told:
        time.sleep(0.05)
    other.rollback()
    drop.result()
    assert told == [
        "waiting: for a transaction that runs or changes rollups,"
        f" of the sessions {other.info.backend_pid}"
    ]
