"""A release after this one: what a migrate changes, what it leaves alone, and what rests meanwhile.

The next release is this one's scripts, copied and edited.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

import psycopg
import pytest
from psycopg.rows import dict_row

import tsrollup
from interleaving import Background
from rollup_checks import assert_equal_to_group_by, assert_settled
from servers import PostgresServer
from tsrollup.doctor import examine
from tsrollup.flyway import FlywayError, MigrateResult, migrate
from tsrollup.installation import NewerDatabaseError, misfit
from tsrollup.migrations import migrate_project, project_configuration

Connect = Callable[..., psycopg.Connection]
LIVE_VIEW = "engine/R__320_live_view.sql"
OTHER_TEXT = ("SELECT bucket AS {bucket},", "SELECT ALL bucket AS {bucket},")

# What a migrate must not change behind anybody's back.
RIGHTS = """
    SELECT oid::regprocedure::text, prosecdef, provolatile,
           ARRAY(SELECT unnest(proconfig) ORDER BY 1), ARRAY(SELECT unnest(proacl)::text ORDER BY 1)
    FROM pg_proc WHERE pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
    ORDER BY 1
"""


WAITING = """
    SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@dataclass(frozen=True)
class NextRelease:
    """The foundational scripts in a folder of their own."""

    url: str
    folder: Path

    def edit(self, script: str, old: str, new: str) -> None:
        path = self.folder / "timeseries" / script
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def migrate(self) -> MigrateResult:
        locations = [f"filesystem:{self.folder}/{part}" for part in ("initial-setup", "timeseries")]
        with project_configuration("foundational", self.url) as configuration:
            return migrate(replace(configuration, locations=tuple(locations)))


@pytest.fixture
def release(server: PostgresServer, database: str, tmp_path: Path) -> NextRelease:
    scripts = Path(tsrollup.__file__).parent / "pgdb/migrations/foundational"
    shutil.copytree(scripts, tmp_path / "foundational")
    return NextRelease(server.url(database), tmp_path / "foundational")


@pytest.fixture
def filled(db: psycopg.Connection) -> psycopg.Connection:
    """Two levels, and a late row that no run has seen."""
    for statement in (
        "CREATE TABLE raw.readings (ts timestamptz NOT NULL, device int, temp numeric)",
        "INSERT INTO raw.readings SELECT '2026-03-01'::timestamptz + n * interval '7 minutes',"
        " n % 3, n FROM generate_series(1, 1000) AS n",
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
        " dimensions => '{device}')",
        "SELECT silver.create_rollup_table('silver.readings_1h', 'silver', 'readings_1d', '1 day')",
        "CALL silver.run_rollups()",
        "INSERT INTO raw.readings VALUES ('2026-03-02 03:04', 1, 7)",
    ):
        db.execute(statement.encode())
    return db


def heard(connection: psycopg.Connection) -> list[str]:
    """What the server says from now on."""
    notices: list[str] = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    return notices


def digests(db: psycopg.Connection) -> dict[str, str]:
    return dict(db.execute("SELECT name, digest FROM rollup_engine.generated_text").fetchall())


def test_a_changed_function_is_one_script_applied_again(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    rights, before = filled.execute(RIGHTS).fetchall(), digests(filled)
    release.edit(LIVE_VIEW, *OTHER_TEXT)
    assert release.migrate().migrations_executed == 1
    assert filled.execute(RIGHTS).fetchall() == rights
    after = digests(filled)
    assert {name for name in after if after[name] != before[name]} == {"view_1", "view_2"}
    assert_equal_to_group_by(filled, "readings_1h", "readings_1d")
    filled.execute("CALL silver.run_rollups()")
    assert_settled(filled, "readings_1h", "readings_1d")


def test_promise_i_sequences_that_logical_replication_left_behind(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    for table, column in filled.execute(
        "SELECT attrelid::regclass::text, attname FROM pg_attribute"
        " WHERE attidentity <> '' AND attrelid::regclass::text ~ '^(silver|rollup_engine)[.]'"
    ).fetchall():
        filled.execute(f"ALTER TABLE {table} ALTER {column} RESTART".encode())
    release.migrate()
    filled.execute("CALL silver.run_rollups()")
    assert_settled(filled, "readings_1h", "readings_1d")
    filled.execute("SELECT silver.create_rollup_table('raw.readings', 'silver', 'more', '1 day')")
    assert_equal_to_group_by(filled, "more")


def test_a_function_with_settings_and_rights_keeps_them(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    """CREATE OR REPLACE forgets the settings that every way into the machinery pins."""
    rights = filled.execute(RIGHTS).fetchall()
    release.edit("engine/R__210_drain.sql", "-- The drain:", "-- The drain, said otherwise:")
    assert release.migrate().migrations_executed == 1
    assert filled.execute(RIGHTS).fetchall() == rights


def test_a_right_that_was_taken_back_stays_so_and_a_role_that_has_lost_all_gets_it_back(
    db: psycopg.Connection, release: NextRelease
) -> None:
    rights = "SELECT statement FROM rollup_engine.rights_sql() ORDER BY statement"
    before = db.execute(rights).fetchall()
    for statement in (
        "REVOKE USAGE ON SCHEMA silver FROM PUBLIC, tsrollup_reader",
        "REVOKE EXECUTE ON FUNCTION silver.version() FROM PUBLIC",
        "REVOKE EXECUTE ON FUNCTION silver.rollup_for FROM tsrollup_reader",
        "REVOKE SELECT ON silver.timeseries_operations_monitor FROM tsrollup_operator",
        "REVOKE INSERT ON silver.dimension_config FROM tsrollup_operator",
    ):
        db.execute(statement.encode())
    taken = db.execute(rights).fetchall()
    assert len(taken) == len(before) - 6
    for line in ("-- Who may call what.", "-- For what anybody may call there"):
        release.edit("engine/R__900_grants.sql", line, f"{line} ")
        release.migrate()
        assert db.execute(rights).fetchall() == taken
    db.execute("GRANT SELECT ON silver.timeseries_operations_monitor TO tsrollup_operator")
    db.execute("REVOKE ALL ON SCHEMA silver, gold FROM tsrollup_reader")
    db.execute("REVOKE ALL ON ALL TABLES IN SCHEMA silver FROM tsrollup_reader")
    db.execute("REVOKE EXECUTE ON FUNCTION silver.live_view_columns FROM tsrollup_reader")
    db.execute(
        "ALTER DEFAULT PRIVILEGES FOR ROLE tsrollup_owner IN SCHEMA gold"
        " REVOKE SELECT ON TABLES FROM tsrollup_reader"
    )
    release.migrate()  # as after a restore where that role was not there
    monitor = ("GRANT SELECT ON TABLE silver.timeseries_operations_monitor TO tsrollup_operator",)
    assert db.execute(rights).fetchall() == sorted([*taken, monitor])


def test_what_one_group_role_has_lost_is_given_back_to_it_alone(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    """Others keep what they have; a name of theirs that reads as part of a GRANT stops nothing."""
    role = f'"{filled.info.dbname}() TO tsrollup_reader"'
    given = ("SELECT ON gold.readings_1h", "EXECUTE ON FUNCTION silver.version()")
    filled.execute(f"CREATE ROLE {role}".encode())
    try:
        for right in given:
            filled.execute(f"GRANT {right} TO {role}".encode())
        release.migrate()
        for right in (*given, "SELECT ON silver.timeseries_operations_monitor"):
            filled.execute(f"REVOKE {right} FROM PUBLIC, tsrollup_reader, {role}".encode())
        rights = "SELECT statement FROM rollup_engine.rights_sql() ORDER BY 1"
        wanted = [statement for (statement,) in filled.execute(rights).fetchall()]
        for statement in wanted:
            if statement.endswith(" TO tsrollup_writer"):
                lost = statement.replace("GRANT ", "REVOKE ").replace(" TO ", " FROM ")
                filled.execute(lost.encode())
        assert filled.execute("SELECT rollup_engine.has_rights()").fetchone() == (False,)
        release.migrate()
        assert [statement for (statement,) in filled.execute(rights).fetchall()] == wanted
    finally:
        for ending in ("GRANT {} TO CURRENT_USER", "DROP OWNED BY {}", "DROP ROLE {}"):
            filled.execute(ending.format(role).encode())


def test_what_a_migrate_may_not_give_back_another_one_may(
    filled: psycopg.Connection, release: NextRelease, server: PostgresServer, connect: Connect
) -> None:
    """As after a restore, of what belongs to somebody of whom who migrates is no member."""
    filled.execute("GRANT SELECT ON gold.readings_1h TO pg_monitor")
    filled.execute("SELECT rollup_engine.note_rights()")
    owed = "SELECT statement FROM rollup_engine.lost_rights() WHERE statement ~ 'pg_monitor'"
    with (
        psycopg.connect(server.superuser_url(filled.info.dbname), autocommit=True) as admin,
        connect(autocommit=False) as other,
    ):
        others = "UPDATE rollup_engine.noted_right SET marked = 1 WHERE marked IS NOT NULL"
        admin.execute(f"{others} AND statement ~ ' ON TABLE '".encode())
        admin.execute("UPDATE pg_class SET relacl = NULL WHERE oid = 'gold.readings_1h'::regclass")
        assert admin.execute(owed).fetchall() == [], "views may be made anew in place, all of them"
        admin.execute(others.encode())
        assert len(admin.execute(owed).fetchall()) == 1
        other.execute("GRANT SELECT ON gold.readings_1h TO tsrollup_reader")
        filled.execute("SELECT rollup_engine.note_rights()")
        other.rollback()
        assert len(admin.execute(owed).fetchall()) == 1
        release.edit("engine/R__210_drain.sql", "-- The drain:", "-- The drain, said otherwise:")
        release.migrate()
        assert admin.execute(owed).fetchall() == []
        may = "SELECT has_table_privilege('pg_monitor', 'gold.readings_1h', 'SELECT')"
        assert admin.execute(may).fetchone() == (True,)
        kept = "SELECT FROM rollup_engine.noted_right WHERE marked = 0"
        assert admin.execute(kept).fetchall() == []


def test_a_new_function_is_the_operators_to_call(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    (release.folder / "timeseries/engine/R__950_more.sql").write_text(
        'SET LOCAL search_path = pg_catalog, pg_temp;\nSET LOCAL ROLE "${owner_role}";\n'
        "CREATE FUNCTION rollup_engine.more() RETURNS integer LANGUAGE sql"
        " SET search_path = pg_catalog, pg_temp AS 'SELECT 1';\nRESET ROLE;\n"
    )
    release.migrate()
    row = filled.execute(
        "SELECT has_function_privilege('tsrollup_operator', 'rollup_engine.more()', 'EXECUTE'),"
        " has_function_privilege('tsrollup_reader', 'rollup_engine.more()', 'EXECUTE')"
    ).fetchone()
    assert row == (True, False)


def test_a_function_of_half_a_migrate_that_a_restore_left_open_is_closed(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    """Nothing is noted of it: pg_restore -x leaves it as what is made without default rights."""
    filled.execute(
        "SET ROLE tsrollup_owner; ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON ROUTINES TO PUBLIC;"
        "CREATE FUNCTION rollup_engine.more() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC; RESET ROLE"
    )
    may = "SELECT has_function_privilege('tsrollup_%s', 'rollup_engine.more()', 'EXECUTE')"
    assert filled.execute((may % "reader").encode()).fetchone() == (True,)
    release.migrate()
    assert filled.execute((may % "reader").encode()).fetchone() == (False,)
    assert filled.execute((may % "operator").encode()).fetchone() == (True,)


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


def test_what_was_revoked_or_made_anew_in_place_keeps_nobody_waiting_and_opens_nothing(
    filled: psycopg.Connection, connect: Connect
) -> None:
    """Though a partition has lost what was noted of it, and a view the mark that it had."""
    filled.execute("GRANT SELECT ON gold.readings_1h TO pg_monitor")
    filled.execute("SELECT rollup_engine.note_rights()")
    filled.execute(
        "REVOKE ALL ON gold.readings_1h FROM pg_monitor, tsrollup_owner;"
        "GRANT SELECT ON gold.readings_1h TO tsrollup_owner"
    )
    partition = "SELECT min(partition::text) FROM rollup_engine.rollup_partition"
    row = filled.execute(f"{partition} WHERE rollup_id = 1".encode()).fetchone()
    assert row
    filled.execute(f"DROP TABLE {row[0]}".encode())
    filled.execute("CALL silver.run_rollups()")
    with connect(autocommit=False) as reader:
        reader.execute("SELECT * FROM gold.readings_1d, gold.readings_1h")
        filled.execute("SELECT rollup_engine.give_back_rights()")
    for role, relation, may in (
        ("pg_monitor", "gold.readings_1h", False),
        ("tsrollup_operator", row[0], True),
    ):
        query = "SELECT has_table_privilege(%s, %s, 'SELECT')"
        assert filled.execute(query.encode(), [role, relation]).fetchone() == (may,)


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


def test_generated_text_of_another_release_is_found(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    def outdated() -> list[str]:
        rows = filled.execute("SELECT rollup_engine.outdated_texts() ORDER BY 1").fetchall()
        return [name for (name,) in rows]

    assert outdated() == []
    filled.execute("UPDATE rollup_engine.generated_text SET digest = '' WHERE name <> 'live_1'")
    own = ["trigger_chunk_interval", "trigger_guard_configuration", "view_monitor"]
    assert set(outdated()) == {"capture_1", "live_2", "view_1", "view_2", *own}
    with psycopg.connect(release.url, row_factory=dict_row) as connection:
        findings = examine(connection)
    (finding,) = [each for each in findings if each.check == "generated functions"]
    assert (finding.verdict, finding.next_step) == ("advice", "tsrollup migrate")
    assert finding.found.startswith("capture_1, live_2, ")
    assert release.migrate().migrations_executed == 0
    assert outdated() == []


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


def test_who_gives_rights_meanwhile_is_waited_for(
    filled: psycopg.Connection, connect: Connect
) -> None:
    giving, observer = connect(autocommit=False), connect()
    giving.execute("GRANT SELECT ON silver.timeseries_operations_monitor TO tsrollup_writer")
    pid = giving.info.backend_pid
    with pytest.raises(psycopg.errors.LockNotAvailable, match=f"one of the sessions {pid}"):
        filled.execute("SELECT rollup_engine.grant_in_turn('0')")
    notices = heard(filled)
    ending = Background(filled, "SELECT rollup_engine.regenerate()")
    while not notices:
        assert ending.is_alive()
    assert notices[0].endswith(f"changes them: one of the sessions {pid}")
    ending.wait_until_blocked(observer)
    giving.commit()
    ending.result()
    assert filled.execute(
        "SELECT has_table_privilege(r, 'silver.timeseries_operations_monitor', 'SELECT')"
        " FROM unnest('{tsrollup_writer,tsrollup_reader}'::text[]) AS r"
    ).fetchall() == [(True,), (True,)]


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


def test_who_owned_it_before_has_to_own_it_again(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    values = {"owner_role": "somebody_else"}
    with pytest.raises(FlywayError, match="belongs to tsrollup_owner") as caught:
        migrate_project(release.url, placeholders=values)
    assert "--placeholder owner_role=tsrollup_owner" in str(caught.value)
    assert filled.execute("SELECT FROM rollup_engine.upgrade").fetchall() == []


def test_scripts_of_an_earlier_release_are_refused(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    """Whatever runs them."""
    release.edit("engine/R__990_version.sql", tsrollup.__version__, "9.10.1")
    release.edit("beforeMigrate__refuse_to_go_back.sql", tsrollup.__version__, "9.10.1")
    release.migrate()
    release.edit("engine/R__990_version.sql", "9.10.1", "9.9")
    release.edit("beforeMigrate__refuse_to_go_back.sql", "9.10.1", "9.9")
    with pytest.raises(FlywayError, match=r"migrated by tsrollup 9\.10\.1, and these .* of 9\.9"):
        release.migrate()
    assert filled.execute("SELECT silver.version()").fetchone() == ("9.10.1",)
    release.edit("engine/R__990_version.sql", "9.9", "9.10.1.dev3")
    release.edit("beforeMigrate__refuse_to_go_back.sql", "9.9", "9.10.1.dev3")
    release.migrate()


def test_what_a_later_release_has_begun_is_left_to_it(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    (release.folder / "timeseries/V999__later.sql").write_text("SELECT 1;")
    release.edit("engine/R__600_refresh_cell.sql", "\nRESET ROLE;", "\nSELECT 1 / 0;\nRESET ROLE;")
    with pytest.raises(FlywayError, match="division by zero"):
        release.migrate()
    with pytest.raises(NewerDatabaseError, match=r"later release has begun .* at version 999"):
        migrate_project(release.url)
    assert len(filled.execute("SELECT FROM rollup_engine.upgrade").fetchall()) == 1


def test_a_monitor_that_was_dropped_is_there_after_a_migrate(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    filled.execute("DROP VIEW silver.timeseries_operations_monitor")
    release.migrate()
    query = "SELECT has_table_privilege('tsrollup_reader', %s, 'SELECT')"
    monitor = "silver.timeseries_operations_monitor"
    assert filled.execute(query, [monitor]).fetchone() == (True,)


def test_a_view_that_its_owner_changed_stops_nothing(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    filled.execute("ALTER VIEW gold.readings_1d SET SCHEMA public")
    release.edit(LIVE_VIEW, *OTHER_TEXT)
    release.migrate()
    outdated = "SELECT array_agg(name) FROM rollup_engine.outdated_texts() AS name"
    assert filled.execute(outdated).fetchone() == (["view_2"],)
    with psycopg.connect(release.url, row_factory=dict_row) as connection:
        findings = [each for each in examine(connection) if each.check == "generated functions"]
    assert [each.next_step for each in findings] == [
        "GRANT USAGE, CREATE ON SCHEMA public TO tsrollup_owner; then tsrollup migrate"
    ]
    filled.execute("CALL silver.run_rollups()")
    assert_settled(filled, "readings_1h", "public.readings_1d")


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
