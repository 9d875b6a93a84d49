"""One look tells which sources have anything to take in. What it passes over, nothing happened to:
every kind of change shows in the very next look of a run, and in the monitor at once."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from raw_tables import LEVELS, create_hierarchy, wait_until
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from scenes import scene

pytestmark = pytest.mark.spread

LOOK = "SELECT source_id, is_quiet FROM rollup_engine.sources_to_drain(NULL, NULL, false)"
SOUND = "SELECT id FROM rollup_engine.sound_sources() AS id ORDER BY 1"
STRAYS = """
    SELECT count(*) > 0
    FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.stray_triggers(s) AS t
"""
AT_WORK = "SELECT rollup_engine.rollups_to_refresh(NULL, now())"
# What the monitor says, and what asking everything says.
HEALTHS = """
    SELECT m.target_table, m.health = 'invalid', m.reason,
        EXISTS (SELECT FROM rollup_engine.rollup_problems(r)),
        (SELECT p.problem FROM rollup_engine.rollup_problems(r) AS p LIMIT 1)
    FROM silver.timeseries_operations_monitor AS m
    JOIN silver.rollup_config AS r ON r.target_table::text = m.target_table
"""
THIRD_DAY = "FOR VALUES FROM ('2026-03-03 00:00+00') TO ('2026-03-04 00:00+00')"
NOTHING = """
    CREATE FUNCTION raw.nothing() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RETURN NEW; END';
"""

OF_A_SOURCE = {
    "a partition came": f"CREATE TABLE raw.readings_3 PARTITION OF raw.readings {THIRD_DAY}",
    "a full one was attached": "CREATE TABLE raw.readings_3 (LIKE raw.readings);"
    "INSERT INTO raw.readings_3 VALUES ('2026-03-03 05:00+00', 'd1', 1, 2, 3, 'x');"
    f"ALTER TABLE raw.readings ATTACH PARTITION raw.readings_3 {THIRD_DAY}",
    "one was detached": "ALTER TABLE raw.readings DETACH PARTITION raw.readings_1",
    "one was dropped": "DROP TABLE raw.readings_1",
    "other bounds": "ALTER TABLE raw.readings DETACH PARTITION raw.readings_2;"
    "ALTER TABLE raw.readings ATTACH PARTITION raw.readings_2"
    " FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-04 00:00+00')",
    "a table above": "CREATE TABLE raw.above (LIKE raw.readings) PARTITION BY RANGE (ts);"
    "ALTER TABLE raw.above ATTACH PARTITION raw.readings"
    " FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-03 00:00+00')",
    "a parent of a plain table": "CREATE TABLE raw.above (ts timestamptz, v integer);"
    "ALTER TABLE raw.other INHERIT raw.above",
    "a trigger is off": "ALTER TABLE raw.readings_1 DISABLE TRIGGER tsrollup_insert_1",
    "a trigger is gone": "DROP TRIGGER tsrollup_delete_1 ON raw.readings",
    "another one sorts after": f'{NOTHING} CREATE TRIGGER "~~late" BEFORE UPDATE ON raw.readings'
    " FOR EACH ROW EXECUTE FUNCTION raw.nothing()",
    "a column renamed": "ALTER TABLE raw.readings RENAME count TO counted",
    "a type that keeps every byte": "ALTER TABLE raw.readings ALTER note TYPE varchar",
    "a type": "ALTER TABLE raw.readings ALTER level TYPE real",
    "the time column": "ALTER TABLE raw.other ALTER ts TYPE timestamp",
    "a column replaced": "ALTER TABLE raw.readings DROP count, ADD count integer",
    "row security": "ALTER TABLE raw.readings ENABLE ROW LEVEL SECURITY",
    "unlogged": "ALTER TABLE raw.readings_1 SET UNLOGGED",
    "another owner": "GRANT CREATE ON SCHEMA raw TO tsrollup_owner;"
    "ALTER TABLE raw.readings OWNER TO tsrollup_owner",
    "a right": "REVOKE ALL ON raw.readings FROM tsrollup_owner",
    "a right to the schema": "CREATE SCHEMA other; ALTER TABLE raw.readings SET SCHEMA other",
    "dropped": "DROP TABLE raw.readings",
    "made anew": "CREATE TABLE raw.new (LIKE raw.other INCLUDING ALL); DROP TABLE raw.other;"
    "ALTER TABLE raw.new RENAME TO other",
}
OF_A_ROLLUP = {
    "its table": "DROP TABLE silver.readings_1d CASCADE",
    "its view": "DROP VIEW gold.readings_1m",
    "its function": "CREATE OR REPLACE FUNCTION rollup_engine.live_1("
    "p_from timestamptz, p_to timestamptz)"
    " RETURNS SETOF silver.readings_1m LANGUAGE plpgsql STABLE"
    " AS 'BEGIN RAISE no_data_found; END'",
    "its key": "DROP INDEX {key}",
    "a column": "ALTER TABLE silver.readings_1h RENAME count_sum TO renamed",
    "a column too many": "ALTER TABLE silver.readings_1h ADD more integer",
    "its name": "ALTER TABLE silver.readings_1h RENAME TO readings_hours",
    "its owner": "ALTER TABLE silver.readings_1h OWNER TO CURRENT_USER",
    "its schema": "CREATE SCHEMA app; ALTER TABLE silver.readings_1h SET SCHEMA app",
    "a guard": "DROP TRIGGER tsrollup_guard ON silver.readings_1h",
    "a guard of a partition": "DROP TRIGGER tsrollup_guard ON {partition}",
    "a trigger of a partition": f"{NOTHING} CREATE TRIGGER mine BEFORE INSERT ON {{partition}}"
    " FOR EACH ROW EXECUTE FUNCTION raw.nothing()",
    "a partition was detached": "ALTER TABLE silver.readings_1m DETACH PARTITION {partition}",
    "an unlogged partition": "ALTER TABLE {partition} SET UNLOGGED",
    "a full partition": "CREATE TABLE silver.full (LIKE silver.readings_1m INCLUDING ALL);"
    "INSERT INTO silver.full (bucket, row_count) VALUES ('1999-12-01 00:00+00', 7);"
    "ALTER TABLE silver.readings_1m ATTACH PARTITION silver.full"
    " FOR VALUES FROM ('1999-12-01 00:00+00') TO ('1999-12-02 00:00+00')",
}


@scene
def quiet(db: psycopg.Connection) -> psycopg.Connection:
    create_hierarchy(db)
    db.execute("CREATE TABLE raw.other (ts timestamptz NOT NULL, v integer)")
    db.execute("INSERT INTO raw.other VALUES ('2026-03-01 00:30+00', 1)")
    db.execute("SELECT silver.create_rollup_table('raw.other', 'silver', 'other_1h', '1 hour')")
    assert_is_quiet(db)
    return db


def assert_is_quiet(connection: psycopg.Connection[Any]) -> None:
    refresh_everything(connection)
    connection.execute("SELECT silver.perform_rollup()")
    assert connection.execute(LOOK).fetchall() == []
    assert connection.execute(AT_WORK).fetchall() == []
    assert connection.execute(SOUND).fetchall() == [(1,), (2,)]
    assert_monitor_is_right(connection)


def test_what_a_transaction_has_changed_and_noted_is_looked_at_once_more(
    quiet: psycopg.Connection,
) -> None:
    trace = "SELECT right(trace, 1) = '?' FROM rollup_engine.source WHERE id = 1"
    with quiet.transaction():
        quiet.execute("ALTER TABLE raw.readings ALTER level SET STATISTICS 10")
        quiet.execute("SELECT silver.perform_rollup()")
        assert quiet.execute(LOOK).fetchall() == []
    assert quiet.execute(trace).fetchone() == (True,)
    assert quiet.execute(LOOK).fetchall() == [(1, False)]
    quiet.execute("SELECT silver.perform_rollup()")
    assert quiet.execute(trace).fetchone() == (False,)
    assert quiet.execute(LOOK).fetchall() == []


def assert_monitor_is_right(connection: psycopg.Connection[Any]) -> None:
    rows = connection.execute(HEALTHS).fetchall()
    assert [row[1:3] for row in rows] == [row[3:] for row in rows]


def do(connection: psycopg.Connection[Any], statements: str) -> None:
    (partition,) = connection.execute(
        "SELECT partition::text FROM rollup_engine.rollup_partition WHERE rollup_id = 1 LIMIT 1"
    ).fetchone() or ("",)
    (key,) = connection.execute(
        "SELECT indexrelid::regclass::text FROM pg_index"
        " WHERE indrelid = 'silver.readings_1h'::regclass AND indisunique"
    ).fetchone() or ("",)
    connection.execute(statements.format(partition=partition, key=key).encode())


@pytest.mark.parametrize("change", {**OF_A_SOURCE, **OF_A_ROLLUP}.items(), ids=lambda x: x[0])
def test_what_was_changed_is_looked_at(quiet: psycopg.Connection, change: tuple[str, str]) -> None:
    do(quiet, change[1])
    changed = 2 if "raw.other" in change[1] else 1
    assert quiet.execute(LOOK).fetchall() == [(changed, False)]
    assert quiet.execute(SOUND).fetchall() == [(3 - changed,)]
    assert_monitor_is_right(quiet)


def test_rows_in_a_partition_that_nobody_has_noted_are_looked_at(
    quiet: psycopg.Connection,
) -> None:
    quiet.execute(
        "CREATE TABLE silver.early PARTITION OF silver.readings_1m"
        " FOR VALUES FROM ('1999-12-01 00:00+00') TO ('1999-12-02 00:00+00')"
    )
    quiet.execute("ALTER TABLE silver.early OWNER TO tsrollup_owner")
    quiet.execute("SELECT silver.perform_rollup()")
    assert quiet.execute(LOOK).fetchall() == []
    quiet.execute("INSERT INTO silver.early (bucket, row_count) VALUES ('1999-12-01 00:00+00', 7)")
    assert quiet.execute(LOOK).fetchall() == [(1, False)]
    assert_monitor_is_right(quiet)
    assert_is_quiet(quiet)
    assert_settled(quiet, *LEVELS)


@pytest.mark.parametrize(
    "change",
    ["ALTER TABLE raw.other RENAME v TO w", "ALTER TABLE raw.other ALTER v TYPE bigint"],
)
def test_ddl_in_the_transaction_of_the_run_that_noted_the_source(
    quiet: psycopg.Connection, change: str
) -> None:
    """Transaction numbers do not tell one row of the catalogue from the next."""
    with quiet.transaction():
        quiet.execute("ALTER TABLE raw.other ALTER v SET STATISTICS 10, ALTER v SET STORAGE plain")
        quiet.execute("SELECT silver.perform_rollup()")
        assert quiet.execute(LOOK).fetchall() == []
        quiet.execute(change.encode())
        assert quiet.execute(LOOK).fetchall() == [(2, False)]
    assert quiet.execute(LOOK).fetchall() == [(2, False)]


def test_what_changes_without_a_row_of_the_source_is_looked_at(quiet: psycopg.Connection) -> None:
    """A type of people's own: runs pass over it while it is the same, the monitor never does."""
    quiet.execute("CREATE DOMAIN raw.height AS integer; ALTER TABLE raw.other ADD h raw.height")
    quiet.execute(
        "SELECT silver.create_rollup_table('raw.other', 'silver', 'other_1d', '1 day',"
        " dimensions => '{h}')"
    )
    refresh_everything(quiet)
    quiet.execute("SELECT silver.perform_rollup()")
    assert quiet.execute(LOOK).fetchall() == []
    assert quiet.execute(SOUND).fetchall() == [(1,)]
    quiet.execute("ALTER DOMAIN raw.height RENAME TO level")
    assert quiet.execute(LOOK).fetchall() == [(2, False)]
    assert_monitor_is_right(quiet)
    refresh_everything(quiet)
    assert quiet.execute(LOOK).fetchall() == []


def test_a_schema_that_was_renamed_is_looked_at(quiet: psycopg.Connection) -> None:
    """Logs go by the name of a rollup's table, in whose row the schema's is not."""
    do(quiet, "CREATE SCHEMA app; ALTER TABLE silver.readings_1h SET SCHEMA app")
    quiet.execute("GRANT USAGE, CREATE ON SCHEMA app TO tsrollup_owner")
    assert_is_quiet(quiet)
    quiet.execute("ALTER SCHEMA app RENAME TO apps")
    assert quiet.execute(LOOK).fetchall() == [(1, False)]
    assert_is_quiet(quiet)
    names = "SELECT target_name FROM silver.rollup_config WHERE id = 2"
    assert quiet.execute(names).fetchall() == [("apps.readings_1h",)]


def test_a_detachment_that_was_cancelled_is_looked_at(
    quiet: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    """Where its bounds are a constraint already, nothing of the partition itself has changed."""
    quiet.execute(
        "ALTER TABLE raw.readings_1 ADD CHECK (ts IS NOT NULL AND ts >= '2026-03-01 00:00+00'"
        " AND ts < '2026-03-02 00:00+00')"
    )
    assert_is_quiet(quiet)
    reader = connect(autocommit=False)
    reader.execute("SELECT FROM raw.readings")
    quiet.execute("SET statement_timeout = '500ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        quiet.execute("ALTER TABLE raw.readings DETACH PARTITION raw.readings_1 CONCURRENTLY")
    quiet.execute("RESET statement_timeout")
    assert quiet.execute(LOOK).fetchall() == [(1, False)]
    assert_monitor_is_right(quiet)


CAREFUL = ("relink_source", "watch_new_partitions", "mend_triggers", "absorb_shape")


def test_a_quiet_source_is_drained_without_another_look(quiet: psycopg.Connection) -> None:
    for name in CAREFUL:
        quiet.execute(
            f"CREATE OR REPLACE FUNCTION rollup_engine.{name}(p_source_id integer) RETURNS void"
            " LANGUAGE plpgsql AS"
            f" 'BEGIN RAISE EXCEPTION USING MESSAGE = ''{name}''; END'".encode()
        )
    quiet.execute("UPDATE raw.readings SET count = 7 WHERE ts < '2026-03-01 22:00+00'")
    assert quiet.execute(LOOK).fetchall() == [(1, True)]
    quiet.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert_settled(quiet, *LEVELS)
    assert quiet.execute("SELECT * FROM silver.error_log").fetchall() == []
    quiet.execute("ALTER TABLE raw.readings ALTER note TYPE varchar")
    quiet.execute("CALL silver.run_rollups(as_of => 'infinity')")
    errors = "SELECT DISTINCT error_message FROM silver.error_log"
    assert quiet.execute(errors).fetchall() == [("relink_source",)]


def test_triggers_that_others_have_replaced_keep_no_source_from_being_quiet(
    quiet: psycopg.Connection,
) -> None:
    """Only a run that commits drops them; who calls the function need not look again."""
    quiet.execute("SELECT rollup_engine.change_capture(1, true)")
    for _ in range(2):
        quiet.execute("SELECT silver.perform_rollup()")
    assert quiet.execute(STRAYS).fetchone() == (True,)
    assert quiet.execute(LOOK).fetchall() == []
    assert_monitor_is_right(quiet)

    def are_gone() -> bool:
        quiet.execute("CALL silver.run_rollups()")
        return quiet.execute(STRAYS).fetchone() == (False,)

    wait_until(are_gone)
    assert_is_quiet(quiet)


def test_a_window_is_read_at_every_run(quiet: psycopg.Connection) -> None:
    quiet.execute("CREATE TABLE raw.w (ts timestamptz, v integer)")
    quiet.execute(
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'w_1h', '1 hour',"
        " change_tracking => 'window', look_back_window => '1 day')"
    )
    for _ in range(2):
        quiet.execute("SELECT silver.perform_rollup()")
        assert quiet.execute(LOOK).fetchall() == [(3, False)]
    assert quiet.execute(SOUND).fetchall() == [(1,), (2,)]


def test_a_source_that_lost_a_right_by_a_membership_is_looked_at(
    quiet: psycopg.Connection,
) -> None:
    """Who is a member of what is in no row of the source."""
    name = f"lender_{quiet.info.dbname}"
    quiet.execute(f"CREATE ROLE {name}".encode())
    try:
        quiet.execute(f"GRANT SELECT ON raw.other TO {name}".encode())
        quiet.execute(f"GRANT {name} TO tsrollup_owner".encode())
        quiet.execute("REVOKE ALL ON raw.other FROM tsrollup_owner")
        assert_is_quiet(quiet)
        quiet.execute(f"REVOKE {name} FROM tsrollup_owner".encode())
        assert quiet.execute(LOOK).fetchall() == [(2, False)]
        assert quiet.execute(SOUND).fetchall() == [(1,)]
        assert_monitor_is_right(quiet)
    finally:
        quiet.execute(f"REVOKE ALL ON raw.other FROM {name}; DROP ROLE {name}".encode())


def test_rollups_with_something_to_do_are_found(quiet: psycopg.Connection) -> None:
    work = "SELECT id FROM rollup_engine.rollups_to_refresh(%s, '2026-03-05') AS id"
    quiet.execute("SELECT silver.mark_stale('readings_1h', '2026-03-01', '2026-03-02')")
    assert quiet.execute(work, [None]).fetchall() == [(2,), (3,)]
    assert quiet.execute(work, ["readings_1d"]).fetchall() == [(3,)]
    assert quiet.execute(work.replace("2026", "2020"), [None]).fetchall() == []
    refresh_everything(quiet)
    quiet.execute(
        "UPDATE silver.rollup_config SET retry_count = 1, next_retry_at = now() WHERE id = 2"
    )
    assert quiet.execute(work, [None]).fetchall() == [(2,)]
    quiet.execute("CALL silver.run_rollups()")
    assert quiet.execute(work, [None]).fetchall() == []
    quiet.execute("UPDATE rollup_engine.rollup_partition SET generation = 9223372036854775807")
    quiet.execute("CALL silver.run_rollups()")
    assert quiet.execute(work, [None]).fetchall() == []
    assert quiet.execute(
        "SELECT count(*) FROM rollup_engine.rollup_partition WHERE generation > 1000"
    ).fetchone() == (0,)
    quiet.execute("DROP TABLE silver.readings_1d CASCADE")
    assert quiet.execute(work, [None]).fetchall() == [(3,)]
    assert_equal_to_group_by(quiet, "readings_1m", "readings_1h")


def test_the_monitor_waits_for_no_lock_of_a_sound_source(
    quiet: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    locking = connect(autocommit=False)
    locking.execute("LOCK TABLE raw.other, raw.readings, silver.readings_1h")
    quiet.execute("SET lock_timeout = '1ms'")
    healths = "SELECT DISTINCT health FROM silver.timeseries_operations_monitor"
    assert quiet.execute(healths).fetchall() == [("ok",)]


def test_a_locked_source_is_waited_for_once(quiet: psycopg.Connection) -> None:
    """In a statement, not once for each rollup that rests on it."""
    quiet.execute("SELECT silver.create_rollup_table('raw.other', 'silver', 'other_1d', '1 day')")
    quiet.execute("DELETE FROM rollup_engine.quiet_source")
    quiet.execute("CREATE SEQUENCE public.waits; GRANT USAGE ON SEQUENCE public.waits TO PUBLIC")
    quiet.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    quiet.execute(
        "CREATE OR REPLACE FUNCTION rollup_engine.capture_gaps(p_source rollup_engine.source)"
        " RETURNS TABLE (problem text, hint text) LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM nextval(''public.waits''); RAISE lock_not_available; END'"
    )
    reasons = "SELECT reason FROM silver.timeseries_operations_monitor"
    for waits in (2, 4):
        locked = [reason for (reason,) in quiet.execute(reasons) if "somebody keeps" in reason]
        assert len(locked) == 5
        assert quiet.execute("SELECT last_value FROM public.waits").fetchone() == (waits,)


def test_no_commit_of_a_run_waits_for_the_disk(quiet: psycopg.Connection) -> None:
    """A crash leaves what it loses of one stale, or logged."""
    quiet.execute(
        "CREATE TABLE public.said AS SELECT current_setting('synchronous_commit') AS it;"
        "GRANT ALL ON public.said TO PUBLIC;"
        "CREATE FUNCTION public.say() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN"
        " INSERT INTO public.said VALUES (current_setting(''synchronous_commit'')); RETURN NULL;"
        " END'"
    )
    for table in ("silver.refresh_log", "rollup_engine.stale_range"):
        quiet.execute(
            f"CREATE TRIGGER say AFTER INSERT ON {table} EXECUTE FUNCTION public.say()".encode()
        )
    quiet.execute("TRUNCATE public.said; SET synchronous_commit = on")
    quiet.execute("UPDATE raw.readings SET count = 7 WHERE ts < '2026-03-01 22:00+00'")
    quiet.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert quiet.execute("SELECT DISTINCT it FROM public.said").fetchall() == [("off",)]
    assert quiet.execute("SHOW synchronous_commit").fetchone() == ("on",)
