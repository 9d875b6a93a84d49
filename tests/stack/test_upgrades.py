"""A release after this one: what a migrate changes, what it leaves alone, and what rests meanwhile.

The next release is this one's scripts, copied and edited.
"""

from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

import tsrollup
from next_release import LIVE_VIEW, OTHER_TEXT, RIGHTS, NextRelease, copy_scripts, fill
from rollup_checks import assert_equal_to_group_by, assert_settled
from servers import PostgresServer
from tsrollup.doctor import examine
from tsrollup.flyway import FlywayError
from tsrollup.installation import NewerDatabaseError
from tsrollup.migrations import migrate_project


@pytest.fixture
def release(server: PostgresServer, database: str, tmp_path: Path) -> NextRelease:
    return copy_scripts(server, database, tmp_path)


@pytest.fixture
def filled(db: psycopg.Connection) -> psycopg.Connection:
    return fill(db)


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


def test_generated_text_of_another_release_is_found(
    filled: psycopg.Connection, release: NextRelease
) -> None:
    def outdated() -> list[str]:
        rows = filled.execute("SELECT rollup_engine.outdated_texts() ORDER BY 1").fetchall()
        return [name for (name,) in rows]

    assert outdated() == []
    filled.execute("UPDATE rollup_engine.generated_text SET digest = '' WHERE name <> 'live_1'")
    own = ["trigger_chunk_interval", "trigger_guard_configuration", "view_monitor"]
    of_rollups = ["live_2", "upsert_1", "upsert_2", "view_1", "view_2"]
    assert set(outdated()) == {"capture_1", *of_rollups, *own}
    with psycopg.connect(release.url, row_factory=dict_row) as connection:
        findings = examine(connection)
    (finding,) = [each for each in findings if each.check == "generated functions"]
    assert (finding.verdict, finding.next_step) == ("advice", "tsrollup migrate")
    assert finding.found.startswith("capture_1, live_2, ")
    assert release.migrate().migrations_executed == 0
    assert outdated() == []


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
