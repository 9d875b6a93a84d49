"""Promise h: what a run does to a source before it drains it stops no other source."""

import secrets
from collections.abc import Iterator

import psycopg
import pytest

from rollup_checks import assert_settled, refresh_everything
from scenes import scene
from servers import PostgresServer

SOURCE = """
    CREATE TABLE raw.s (ts timestamptz NOT NULL, d text, v integer) PARTITION BY RANGE (ts);
    CREATE TABLE raw.s_1 PARTITION OF raw.s FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    INSERT INTO raw.s VALUES ('2026-01-05', 'd', 1);
    GRANT SELECT ON raw.s TO tsrollup_owner;
"""
DIMENSION = """
    INSERT INTO silver.dimension_config (source_table, dimension_column, description)
    VALUES ('raw.s', 'd', 'a device')
"""
ROLLUPS = """
    CREATE TABLE raw.t (ts timestamptz, v integer);
    INSERT INTO raw.t VALUES ('2026-02-01', 1);
    SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour');
    SELECT silver.create_rollup_table('silver.s_1h', 'silver', 's_1d', '1 day');
    SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour');
"""
REFUSE = """
    CREATE FUNCTION public.refuse() RETURNS {} LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'not on a Friday' USING ERRCODE = 'TE123', HINT = 'come on Monday';
    END
    $$;
"""
PERFORM = "SELECT target, status FROM silver.perform_rollup()"
ERRORS = "SELECT target_table, error_code, error_message, hint, attempt FROM silver.error_log"


@scene
def two_sources(db: psycopg.Connection) -> psycopg.Connection:
    for script in (SOURCE, DIMENSION, ROLLUPS):
        db.execute(script.encode())
    refresh_everything(db)
    return db


@pytest.fixture
def superuser(server: PostgresServer, db: psycopg.Connection) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.superuser_url(db.info.dbname), autocommit=True) as connection:
        yield connection


def run(db: psycopg.Connection) -> dict[str, str]:
    """Both kinds of runs; that of the other source has taken in what was written last."""
    insert = "INSERT INTO raw.t VALUES ('2026-02-01', 1)"
    db.execute(insert)
    statuses: dict[str, str] = dict(db.execute(PERFORM).fetchall())
    assert_settled(db, "t_1h")
    db.execute(insert)
    db.execute("CALL silver.run_rollups()")
    assert_settled(db, "t_1h")
    return statuses


def test_promise_h_a_source_that_is_there_again_with_its_dimensions(
    two_sources: psycopg.Connection,
) -> None:
    """The script that sets it up is run once more: what it says holds, what it leaves out stays."""
    two_sources.execute("INSERT INTO silver.dimension_config VALUES ('raw.s', 'v', 'a value')")
    two_sources.execute("DROP TABLE raw.s")
    two_sources.execute(SOURCE)
    two_sources.execute(DIMENSION.replace("a device", "a machine"))
    assert set(run(two_sources).values()) == {"ok"}
    assert_settled(two_sources, "s_1h", "s_1d")
    dimensions = two_sources.execute(
        "SELECT source_table::text, dimension_column, description FROM silver.dimension_config"
        " ORDER BY 2"
    ).fetchall()
    assert dimensions == [("raw.s", "d", "a machine"), ("raw.s", "v", "a value")]


def test_promise_h_a_table_of_a_stranger_takes_no_sources_place(
    two_sources: psycopg.Connection, superuser: psycopg.Connection
) -> None:
    """Functions in its indexes would run as the owner role."""
    role = f"stranger_{secrets.token_hex(4)}"
    two_sources.execute("DROP TABLE raw.s")
    superuser.execute(
        f"CREATE ROLE {role}; GRANT CREATE ON SCHEMA raw TO {role}; {SOURCE}".encode()
        + f"ALTER TABLE raw.s_1 OWNER TO {role}; ALTER TABLE raw.s OWNER TO {role}".encode()
    )
    try:
        assert run(two_sources)["silver.s_1h"] == "failed"
        (hint,) = two_sources.execute(
            "SELECT DISTINCT hint FROM silver.validate_rollup_config() WHERE problem ~ 'dropped'"
            " AND target = 'silver.s_1h'"
        ).fetchall()[0]
        assert "of another owner" in hint
        superuser.execute(hint.split("read, ")[1].split(",")[0].encode())
        two_sources.execute("UPDATE silver.rollup_config SET next_retry_at = '-infinity'")
        refresh_everything(two_sources)
        assert_settled(two_sources, "s_1h", "s_1d")
    finally:
        superuser.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())


def test_promise_h_a_source_that_cannot_be_taken_up(
    two_sources: psycopg.Connection, superuser: psycopg.Connection
) -> None:
    two_sources.execute(REFUSE.format("trigger").encode())
    two_sources.execute(
        "CREATE TRIGGER refuse BEFORE DELETE ON silver.dimension_config"
        " EXECUTE FUNCTION public.refuse()"
    )
    two_sources.execute("DROP TABLE raw.s")
    two_sources.execute(SOURCE)
    for _ in range(2):  # the second time nobody's next attempt has come
        statuses = run(two_sources)
        assert statuses == {"silver.s_1h": "failed", "silver.s_1d": "failed", "silver.t_1h": "ok"}
        told = ("TE123", "not on a Friday", "come on Monday", 1)
        assert two_sources.execute(ERRORS).fetchall() == [
            ("silver.s_1h", *told),
            ("silver.s_1d", *told),
        ]
    superuser.execute("SET ROLE tsrollup_operator")
    assert dict(superuser.execute(PERFORM).fetchall()) == statuses
    two_sources.execute("DROP TRIGGER refuse ON silver.dimension_config")
    two_sources.execute("UPDATE silver.rollup_config SET next_retry_at = '-infinity'")
    refresh_everything(two_sources)
    assert_settled(two_sources, "s_1h", "s_1d")


def test_promise_h_capture_triggers_that_nobody_may_mend(
    two_sources: psycopg.Connection, superuser: psycopg.Connection
) -> None:
    two_sources.execute("ALTER TABLE raw.s_1 DISABLE TRIGGER ALL")
    two_sources.execute("INSERT INTO raw.s_1 VALUES ('2026-01-06', 'd', 2)")
    two_sources.execute("INSERT INTO raw.s VALUES ('2026-01-07', 'd', 2)")
    superuser.execute(REFUSE.format("event_trigger").encode())
    superuser.execute(
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN tag IN ('ALTER TABLE')"
        " EXECUTE FUNCTION public.refuse()"
    )
    assert set(run(two_sources).values()) == {"ok"}
    health = "SELECT target_table, reason FROM silver.timeseries_operations_monitor"
    told: dict[str, str | None] = dict(two_sources.execute(health).fetchall())
    assert "capture triggers of raw.s_1 are not enabled always" in (told["silver.s_1h"] or "")
    assert told["silver.t_1h"] is None
    superuser.execute("DROP EVENT TRIGGER refuse")
    refresh_everything(two_sources)
    assert_settled(two_sources, "s_1h", "s_1d")


def test_promise_h_a_renamed_time_column_and_a_partition_without_triggers(
    two_sources: psycopg.Connection,
) -> None:
    two_sources.execute(
        "CREATE TABLE raw.s_2 PARTITION OF raw.s FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');"
        "ALTER TABLE raw.s_2 DISABLE TRIGGER ALL;"
        "INSERT INTO raw.s_2 VALUES ('2026-02-05', 'd', 2);"
        "ALTER TABLE raw.s RENAME ts TO t2"
    )
    assert set(run(two_sources).values()) == {"ok"}
    assert_settled(two_sources, "s_1h", "s_1d")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE raw.s DETACH PARTITION raw.s_1",
        "TRUNCATE raw.s",
        "ALTER TABLE raw.s ALTER v TYPE bigint",
        "ALTER TABLE raw.s RENAME ts TO t2",
        "SELECT silver.mark_stale('u_1h', '-infinity', 'infinity')",
    ],
)
def test_promise_h_a_table_that_is_gone_stops_no_rollup_beside_it(
    two_sources: psycopg.Connection, change: str
) -> None:
    two_sources.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 'u_1h', '1 hour')")
    refresh_everything(two_sources)
    two_sources.execute("DROP TABLE silver.s_1h CASCADE")
    two_sources.execute(change.encode())
    assert run(two_sources)["silver.u_1h"] == "ok"
    assert_settled(two_sources, "u_1h")
    told = two_sources.execute("SELECT DISTINCT error_code FROM silver.error_log").fetchall()
    assert set(told) <= {("TR002",), ("TR007",)}
