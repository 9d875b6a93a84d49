"""Rights before and after a migrate: what was taken back stays so, what was lost comes back."""

from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from conftest import Connect
from interleaving import Background
from next_release import RIGHTS, NextRelease, copy_scripts, fill, heard
from servers import PostgresServer
from tsrollup.doctor import examine
from tsrollup.flyway import FlywayError
from tsrollup.migrations import migrate_project


@pytest.fixture
def release(server: PostgresServer, database: str, tmp_path: Path) -> NextRelease:
    return copy_scripts(server, database, tmp_path)


@pytest.fixture
def filled(db: psycopg.Connection) -> psycopg.Connection:
    return fill(db)


def test_a_function_with_settings_and_rights_keeps_them(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    """CREATE OR REPLACE forgets the settings that every way into the machinery pins."""
    rights = filled.execute(RIGHTS).fetchall()
    release.edit("engine/R__210_drain.sql", "-- The drain:", "-- The drain, said otherwise:")
    assert release.migrate().migrations_executed == 1
    assert filled.execute(RIGHTS).fetchall() == rights


@pytest.mark.parametrize(
    ("closed", "told"),
    [
        ("ALL FUNCTIONS IN SCHEMA rollup_engine", " such functions"),
        ("FUNCTION rollup_engine.live_1", "rollup_engine.live_1("),
        ("FUNCTION rollup_engine.planned_partitions", "rollup_engine.planned_partitions("),
    ],
)
def test_what_a_script_over_all_schemas_has_closed_is_told_and_open_again_after_a_migrate(
    filled: psycopg.Connection, release: NextRelease, closed: str, told: str
) -> None:
    """Who reads and who writes calls some functions with rights of their own."""
    rights = filled.execute(RIGHTS).fetchall()
    filled.execute("SET ROLE tsrollup_owner")
    filled.execute(f"REVOKE EXECUTE ON {closed} FROM PUBLIC".encode())
    filled.execute("RESET ROLE")
    with psycopg.connect(release.url, autocommit=True, row_factory=dict_row) as connection:
        (finding,) = [each for each in examine(connection) if each.check == "rights"]
        assert (finding.verdict, finding.next_step) == ("problem", "tsrollup migrate")
        assert told in finding.found
        release.migrate()
        assert "rights" not in {each.check for each in examine(connection)}
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


@pytest.mark.parametrize("change", ["DROP SCHEMA raw", "ALTER SCHEMA raw RENAME TO app"])
def test_a_schema_that_is_gone_takes_no_role_s_rights(
    db: psycopg.Connection, release: NextRelease, change: str
) -> None:
    """Writers have rights in raw alone, and sources may be elsewhere."""
    db.execute(change.encode())
    release.edit("engine/R__210_drain.sql", "-- The drain:", "-- The drain, said otherwise:")
    assert release.migrate().migrations_executed == 1


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


def test_who_owned_it_before_has_to_own_it_again(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    values = {"owner_role": "somebody_else"}
    with pytest.raises(FlywayError, match="belongs to tsrollup_owner") as caught:
        migrate_project(release.url, placeholders=values)
    assert "--placeholder owner_role=tsrollup_owner" in str(caught.value)
    assert filled.execute("SELECT FROM rollup_engine.upgrade").fetchall() == []
