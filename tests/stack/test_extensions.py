"""Every extension is optional, and where the full stack is installed every one of them is used."""

from collections.abc import Callable

import psycopg
import pytest
from psycopg.rows import dict_row

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer
from tsrollup.doctor import examine
from tsrollup.migrations import migrate_project

FULL_STACK = {"pg_partman", "ltree", "btree_gin", "hypopg", "pg_stat_statements"}


def extensions(db: psycopg.Connection) -> set[str]:
    return {name for (name,) in db.execute("SELECT extname FROM pg_extension").fetchall()}


def test_the_full_stack_is_installed_where_it_should_be(
    server: PostgresServer, db: psycopg.Connection
) -> None:
    if server.name != "debian15":
        pytest.skip("only Debian's packages have everything")
    missing = {name for name in FULL_STACK | {"pg_cron"} if not server.has(name)}
    if missing:
        pytest.skip(f"not installed: {missing}")  # .ci/run insists
    assert extensions(db) >= FULL_STACK
    with psycopg.connect(server.superuser_url("postgres")) as postgres:
        assert "pg_cron" in extensions(postgres)


def test_migrations_and_rollups_need_none(
    server: PostgresServer, make_database: Callable[..., str]
) -> None:
    """As a server without any: whatever was there is taken away after the migrations."""
    database = make_database()
    migrate_project(server.url(database))
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        for name in extensions(superuser) - {"plpgsql"}:
            superuser.execute(f"DROP EXTENSION {name} CASCADE".encode())
    with psycopg.connect(server.url(database), autocommit=True) as db:
        db.execute("CREATE TABLE raw.readings (ts timestamptz, a int, b int, c int, level float8)")
        db.execute(
            "INSERT INTO raw.readings SELECT '2026-03-01 00:00+00'::timestamptz"
            " + make_interval(secs => i), i % 2, i % 3, i % 5, i"
            " FROM generate_series(1, 20000) AS i"
        )
        db.execute("ANALYZE raw.readings")
        db.execute(
            "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
            " dimensions => '{a,b,c}')"
        )
        assert_equal_to_group_by(db, "readings_1h")
        refresh_everything(db)
        assert_settled(db, "readings_1h")
        actions = db.execute("SELECT action FROM silver.maintain_timeseries_tables()").fetchall()
        assert ("failed",) not in actions
        assert db.execute("SELECT count(*) FROM silver.get_detailed_stats('%')").fetchone()
        problems = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
        assert problems == [(None,)]


@pytest.mark.partman
@pytest.mark.parametrize(
    "change",
    [
        "ALTER SCHEMA partman OWNER TO {stranger}",
        "ALTER TABLE partman.part_config OWNER TO {stranger}",
        "ALTER FUNCTION partman.run_maintenance OWNER TO {stranger}",
        "CREATE FUNCTION partman.run_maintenance(text, p_jobmon boolean) RETURNS void LANGUAGE sql"
        " AS 'SELECT'; ALTER FUNCTION partman.run_maintenance(text, boolean) OWNER TO {stranger}",
    ],
    ids=["schema", "table", "function", "a better match"],
)
def test_what_a_stranger_may_replace_in_an_extension_is_not_called(
    server: PostgresServer, db: psycopg.Connection, change: str
) -> None:
    """It would run with the rights of the machinery."""
    if not server.has("pg_partman"):
        pytest.skip("no pg_partman")
    stranger = f"{db.info.dbname}_stranger"
    db.execute("CREATE TABLE raw.readings (ts timestamptz, level float8)")
    url = server.superuser_url(db.info.dbname)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as superuser:
        superuser.execute(f"CREATE ROLE {stranger}".encode())
        try:
            superuser.execute(change.format(stranger=stranger).encode())
            found = [f.found for f in examine(superuser) if f.check == "pg_partman"]
            assert any(f.startswith("not used") and stranger in f for f in found)
            create = "SELECT silver.create_rollup_table('raw.readings', 'silver', %s, '1 hour')"
            keys = "SELECT partman_parent FROM rollup_engine.partition_set"
            db.execute(create, ["readings_1h"])
            assert db.execute(keys).fetchall() == [(None,)]
            superuser.execute(f"GRANT tsrollup_owner TO {stranger}".encode())
            db.execute(create, ["trusted_1h"])
            assert ("silver.trusted_1h",) in db.execute(keys).fetchall()
        finally:
            superuser.execute(f"REASSIGN OWNED BY {stranger} TO postgres".encode())
            superuser.execute(f"DROP OWNED BY {stranger}; DROP ROLE {stranger}".encode())
