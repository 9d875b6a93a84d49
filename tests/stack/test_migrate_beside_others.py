"""A migrate beside people and runs that are at work: for whom it waits, and who waits for it."""

from pathlib import Path
from threading import Thread

import psycopg
import pytest

from conftest import Connect
from interleaving import Background
from next_release import LIVE_VIEW, OTHER_TEXT, NextRelease, copy_scripts, fill, heard
from rollup_checks import assert_equal_to_group_by, assert_settled
from servers import PostgresServer
from tsrollup.flyway import FlywayError
from tsrollup.installation import misfit


@pytest.fixture
def release(server: PostgresServer, database: str, tmp_path: Path) -> NextRelease:
    return copy_scripts(server, database, tmp_path)


@pytest.fixture
def filled(db: psycopg.Connection) -> psycopg.Connection:
    return fill(db)


WAITING = """
    SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def test_what_reads_the_same_takes_no_lock(filled: psycopg.Connection, connect: Connect) -> None:
    reader = connect(autocommit=False)
    reader.execute("LOCK TABLE gold.readings_1h, gold.readings_1d IN ACCESS EXCLUSIVE MODE")
    reader.execute(
        "LOCK TABLE silver.timeseries_operations_monitor, silver.rollup_config"
        " IN SHARE ROW EXCLUSIVE MODE"
    )
    notices = heard(filled)
    filled.execute("SET lock_timeout = '2s'")
    filled.execute("SELECT rollup_engine.regenerate()")
    assert notices == []
    reader.rollback()


def test_partitions_of_a_source_that_are_locked_stop_no_migrate(
    db: psycopg.Connection, release: NextRelease, connect: Connect
) -> None:
    db.execute(
        "CREATE TABLE raw.p (ts timestamptz) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.p_1 PARTITION OF raw.p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');"
        "SELECT silver.create_rollup_table('p', 'silver', 'p_1h', '1 hour')"
    )
    locking = connect(autocommit=False)
    locking.execute("LOCK TABLE raw.p IN ACCESS EXCLUSIVE MODE")
    outdated = "SELECT * FROM rollup_engine.outdated_texts()"
    assert db.execute(outdated).fetchall() == []
    release.edit(LIVE_VIEW, *OTHER_TEXT)
    assert release.migrate().migrations_executed == 1
    assert db.execute(outdated).fetchall() == []
    assert db.execute("SELECT FROM rollup_engine.upgrade").fetchall() == []


def test_who_keeps_a_text_as_it_was_is_named(filled: psycopg.Connection, connect: Connect) -> None:
    reader = connect(autocommit=False)
    reader.execute("SELECT count(*) FROM silver.timeseries_operations_monitor, gold.readings_1h")
    reader.execute("LOCK TABLE silver.rollup_config IN ROW EXCLUSIVE MODE")
    filled.execute("UPDATE rollup_engine.generated_text SET digest = ''")
    notices, hints = heard(filled), set[str | None]()
    filled.add_notice_handler(lambda notice: hints.add(notice.message_hint))
    filled.execute("SELECT rollup_engine.regenerate()")
    until_then = "migrate once more when they have ended: until then "
    assert hints == {
        f"{until_then}reads are right, and may be slower",
        f"{until_then}metrics, dashboard and API lack columns of it",
    }
    wanted = ("trigger_chunk_interval", "trigger_guard_configuration", "view_1", "view_monitor")
    assert sorted(notices) == [
        f"{name} stays as an earlier release wrote it,"
        f" for it is used by the sessions {reader.info.backend_pid}"
        for name in wanted
    ]


def test_a_migrate_waits_for_the_batch_that_is_under_way(
    filled: psycopg.Connection, connect: Connect, release: NextRelease
) -> None:
    running = connect(autocommit=False)
    running.execute("SELECT * FROM silver.perform_rollup()")
    release.edit(LIVE_VIEW, *OTHER_TEXT)
    upgrade = Thread(target=release.migrate)
    upgrade.start()
    while filled.execute(WAITING).fetchone() != (1,):
        assert upgrade.is_alive()
    assert filled.execute("SELECT * FROM silver.perform_rollup()").fetchall() == []
    running.commit()
    upgrade.join(60)
    assert not upgrade.is_alive()
    assert_settled(filled, "readings_1h", "readings_1d")


def test_a_migrate_waits_for_nobody_who_only_reads(
    filled: psycopg.Connection, connect: Connect, release: NextRelease
) -> None:
    """A report and a dump go on, others read beside them, and nothing is left half done."""
    report, reader = connect(autocommit=False), connect()
    report.execute("SELECT silver.version(), count(*) FROM gold.readings_1h")
    report.execute("LOCK TABLE rollup_engine.upgrade IN ACCESS SHARE MODE")
    reader.execute("SET statement_timeout = '30s'")
    release.edit(LIVE_VIEW, *OTHER_TEXT)
    upgrade = Thread(target=release.migrate)
    upgrade.start()
    while upgrade.is_alive():
        assert_equal_to_group_by(reader, "readings_1h", "readings_1d")
    outdated = "SELECT array_agg(name) FROM rollup_engine.outdated_texts() AS name"
    assert filled.execute(outdated).fetchone() == (["view_1"],)
    filled.execute("CALL silver.run_rollups()")
    assert_settled(filled, "readings_1h", "readings_1d")
    report.rollback()
    release.migrate()
    assert filled.execute(outdated).fetchone() == (None,)
    assert_settled(filled, "readings_1h", "readings_1d")


def test_a_migrate_waits_for_nobody_who_watches_or_pauses(
    filled: psycopg.Connection, connect: Connect, release: NextRelease
) -> None:
    watching, pausing, reader = connect(autocommit=False), connect(autocommit=False), connect()
    watching.execute("SELECT * FROM silver.timeseries_operations_monitor")
    pausing.execute("SELECT silver.pause_rollup('readings_1d')")
    reader.execute("SET statement_timeout = '30s'")
    monitor, trigger = "engine/R__850_monitor.sql", "engine/R__720_chunk_interval.sql"
    release.edit(monitor, "SELECT m.target_table, m.source", "SELECT ALL m.target_table, m.source")
    release.edit(trigger, "ROW EXECUTE FUNCTION rollup", "ROW WHEN (true) EXECUTE FUNCTION rollup")
    assert release.migrate().migrations_executed == 2
    reader.execute("SELECT * FROM silver.timeseries_operations_monitor")
    outdated = "SELECT array_agg(name ORDER BY name) FROM rollup_engine.outdated_texts() AS name"
    kept = ["trigger_chunk_interval", "view_monitor"]
    assert filled.execute(outdated).fetchone() == (kept,)
    watching.rollback()
    pausing.rollback()
    release.migrate()
    assert filled.execute(outdated).fetchone() == (None,)
    filled.execute("SELECT * FROM silver.timeseries_operations_monitor")
    filled.execute("CALL silver.run_rollups()")
    assert_settled(filled, "readings_1h", "readings_1d")


def test_a_script_that_needs_a_table_in_use_gives_up(
    filled: psycopg.Connection, connect: Connect, release: NextRelease
) -> None:
    """Others would wait behind it."""
    pausing = connect(autocommit=False)
    pausing.execute("SET idle_in_transaction_session_timeout = '20s'")
    pausing.execute("SELECT silver.pause_rollup('readings_1d')")
    lock = "\nLOCK TABLE silver.rollup_config;\nRESET ROLE;"
    release.edit("engine/R__600_refresh_cell.sql", "\nRESET ROLE;", lock)
    with pytest.raises(FlywayError, match="lock timeout"):
        release.migrate()
    pausing.rollback()
    release.migrate()
    filled.execute("CALL silver.run_rollups()")
    assert_settled(filled, "readings_1h", "readings_1d")


def test_another_migrate_may_end_at_the_same_time(
    filled: psycopg.Connection, connect: Connect
) -> None:
    """Flyway's beside ours: both set what is not set."""
    one, other, observer = connect(autocommit=False), connect(), connect()
    filled.execute("ALTER FUNCTION silver.pause_rollup RESET xmlbinary")
    one.execute("SELECT rollup_engine.regenerate()")
    ending = Background(other, "SELECT rollup_engine.regenerate()")
    ending.wait_until_blocked(observer)
    one.commit()
    ending.result()


def test_runs_rest_until_a_migrate_has_ended(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    release.edit(LIVE_VIEW, *OTHER_TEXT)
    release.edit("engine/R__600_refresh_cell.sql", "\nRESET ROLE;", "\nSELECT 1 / 0;\nRESET ROLE;")
    with pytest.raises(FlywayError, match="division by zero"):
        release.migrate()

    notices = heard(filled)
    filled.execute("CALL silver.run_rollups()")
    assert filled.execute("SELECT * FROM silver.perform_rollup()").fetchall() == []
    assert filled.execute("SELECT * FROM silver.maintain_timeseries_tables()").fetchall() == []
    error = misfit(filled)
    assert error
    assert "not migrated to the end" in error.message
    assert len(notices) == 3
    assert all("a migrate is under way" in notice for notice in notices)
    filled.execute("INSERT INTO raw.readings VALUES ('2026-03-03 03:04', 2, 8)")
    assert_equal_to_group_by(filled, "readings_1h", "readings_1d")

    release.edit("engine/R__600_refresh_cell.sql", "\nSELECT 1 / 0;", "")
    release.migrate()
    filled.execute("CALL silver.run_rollups()")
    assert_settled(filled, "readings_1h", "readings_1d")


def test_a_run_that_is_under_way_rests_as_well(filled: psycopg.Connection) -> None:
    """It commits each batch, and asks again in each transaction."""
    filled.execute(
        "CREATE FUNCTION public.begin_upgrade() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " AS $$ BEGIN INSERT INTO rollup_engine.upgrade DEFAULT VALUES; RETURN NULL; END $$"
    )
    filled.execute(
        "CREATE TRIGGER begin_upgrade AFTER INSERT ON silver.refresh_log"
        " EXECUTE FUNCTION public.begin_upgrade()"
    )
    filled.execute("CALL silver.run_rollups(time_budget => '2 s')")
    row = filled.execute("SELECT count(*) FROM rollup_engine.upgrade").fetchone()
    assert row == (1,), "no batch follows the one in which the upgrade began"
    assert_equal_to_group_by(filled, "readings_1h", "readings_1d")


def test_a_run_that_is_under_way_reads_nothing_that_a_migrate_has_changed(
    filled: psycopg.Connection,
) -> None:
    filled.execute(
        "CREATE FUNCTION public.begin_upgrade() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " AS $$ BEGIN INSERT INTO rollup_engine.upgrade DEFAULT VALUES;"
        " EXECUTE 'CREATE OR REPLACE FUNCTION rollup_engine.run_order(p_target text)"
        " RETURNS SETOF silver.rollup_config LANGUAGE plpgsql"
        " AS ''BEGIN RAISE EXCEPTION USING MESSAGE = ''''of another release''''; END''';"
        " RETURN NULL; END $$"
    )
    filled.execute(
        "CREATE TRIGGER begin_upgrade AFTER INSERT ON silver.refresh_log"
        " EXECUTE FUNCTION public.begin_upgrade()"
    )
    filled.execute("CALL silver.run_rollups(time_budget => '10 s')")
    with pytest.raises(psycopg.Error, match="of another release"):
        filled.execute("SELECT rollup_engine.run_order(NULL)")
