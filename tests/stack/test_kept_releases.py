"""A database of every earlier release, brought up to this one, is as a fresh one is."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from dumps import run
from kept_releases import VIEWS, kept_releases, play_scene, restore_release
from rollup_checks import assert_equal_to_group_by, assert_settled
from schema_listing import listing
from servers import PostgresServer
from tsrollup.doctor import examine
from tsrollup.errors import TsrollupError
from tsrollup.installation import misfit
from tsrollup.migrations import migrate_project

pytestmark = pytest.mark.spread

TEXTS = {
    "functions": r"""
        SELECT p.oid::regprocedure::text,
            regexp_replace(pg_get_functiondef(p.oid), ' AS \w+', '', 'g'),  -- a dump adds aliases
            ARRAY(SELECT unnest(coalesce(p.proacl, acldefault('f', p.proowner)))::text ORDER BY 1)
        FROM pg_proc AS p
        WHERE p.pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
            AND p.prokind IN ('f', 'p')
        ORDER BY 1""",
    "views": """
        SELECT c.oid::regclass::text, pg_get_viewdef(c.oid),
            ARRAY(SELECT unnest(c.relacl)::text ORDER BY 1)
        FROM pg_class AS c
        WHERE c.relkind = 'v' AND c.relnamespace IN ('silver'::regnamespace, 'gold'::regnamespace)
        ORDER BY 1""",
    "generated": "SELECT name, digest FROM rollup_engine.generated_text ORDER BY 1",
    "capture": r"""
        SELECT c.relname::text, regexp_replace(t.tgname, '_\d+$', '_oid'), t.tgtype, t.tgenabled
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE c.relnamespace = 'raw'::regnamespace AND NOT c.relispartition AND NOT t.tgisinternal
        ORDER BY 1, 2""",
    "history": """
        SELECT DISTINCT ON (script COLLATE "C") script, checksum
        FROM rollup_engine.schema_history_foundational
        WHERE success ORDER BY script COLLATE "C", installed_rank DESC""",
}
STATE = {
    "seals": "SELECT target_table::text, sealed_before, status FROM silver.rollup_config"
    " ORDER BY 1",
    "stale": "SELECT rollup_id, from_time, to_time FROM rollup_engine.stale_range"
    " WHERE from_time < '2026-04-01' ORDER BY 1, 2",
    "log": "SELECT source_id, from_time, to_time FROM rollup_engine.change_log ORDER BY 1, 2, 3",
    "errors": "SELECT target_table, error_code, error_message FROM silver.error_log ORDER BY 1, 2",
}


# As pg_restore leaves them out.
RIGHTS = r"(GRANT|REVOKE|ALTER DEFAULT PRIVILEGES)\b.*;$"
OWNERS = r"ALTER .* OWNER TO .*;$"
RESTORED = {"": "", "-x": RIGHTS, "-O": OWNERS, "-O -x": f"{RIGHTS}|{OWNERS}"}


@pytest.fixture(params=[(v, how) for v in kept_releases() for how in RESTORED], ids="".join)
def upgraded(
    request: pytest.FixtureRequest,
    server: PostgresServer,
    make_database: Callable[..., str],
    template: str,  # noqa: ARG001  a dump takes no roles along
) -> str:
    release, how = request.param
    database = make_database()
    restore_release(release, server.superuser_url(database), RESTORED[how])
    with psycopg.connect(server.superuser_url(database)) as connection:
        error = misfit(connection)
    assert error
    assert f"is of tsrollup {release}, this program is" in str(error)
    assert error.hint == "run tsrollup migrate"
    # As change data capture makes one: what is published takes no DELETE without an identity.
    with psycopg.connect(server.superuser_url(database), autocommit=True) as connection:
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        migrate_project(server.superuser_url(database))
        connection.execute("DROP PUBLICATION everything")
    return server.superuser_url(database)


@pytest.fixture
def fresh(server: PostgresServer, make_database: Callable[..., str]) -> str:
    database = make_database()
    migrate_project(server.superuser_url(database))
    play_scene(server, server.superuser_url(database))
    return server.superuser_url(database)


def answers(connection: psycopg.Connection) -> dict[str, list[tuple[object, ...]]]:
    return {
        view: connection.execute(
            f"SELECT t::text FROM gold.{view} AS t ORDER BY 1".encode()
        ).fetchall()
        for view in VIEWS
    }


def assert_exact(connection: psycopg.Connection) -> None:
    """By raw rows where they are still there, and level by level where they are not."""
    assert_equal_to_group_by(connection, "readings_15m", '"Odd 1d"', "polled_1w")
    for finer, coarser, width, device in (
        ("readings_15m", "readings_1h", "hour", "device"),
        ("readings_1h", "readings_1mon", "month", "NULL::text"),
    ):
        wanted = (
            f"SELECT date_trunc('{width}', bucket), {device}, sum(row_count), sum(temp_sum),"
            f" sum(amount_sum), min(temp_min), max(temp_max) FROM gold.{finer} GROUP BY 1, 2"
        )
        found = (
            f"SELECT bucket, {device}, row_count, temp_sum, amount_sum, temp_min, temp_max"
            f" FROM gold.{coarser}"
        )
        differing = f"(({wanted}) EXCEPT ({found})) UNION ALL (({found}) EXCEPT ({wanted}))"
        assert connection.execute(differing.encode()).fetchall() == [], coarser


def test_an_upgraded_database_is_as_a_fresh_one(upgraded: str, fresh: str) -> None:
    with (
        psycopg.connect(upgraded, autocommit=True) as old,
        psycopg.connect(fresh, autocommit=True) as new,
    ):
        for name, query in (TEXTS | STATE).items():
            assert (
                old.execute(query.encode()).fetchall() == new.execute(query.encode()).fetchall()
            ), name
        assert listing(old) == listing(new)
        for connection in (old, new):
            connection.execute("RESET search_path")
            assert_exact(connection)
        assert answers(old) == answers(new)
        with psycopg.connect(upgraded, row_factory=dict_row) as seen:
            problems = [x.check for x in examine(seen) if x.verdict == "problem"]
        assert problems == ["silver.loud_1h"]


def test_an_upgraded_database_goes_on_where_it_was(upgraded: str) -> None:
    with psycopg.connect(upgraded, autocommit=True) as db:
        sealed = (
            "SELECT count(*), sum(row_count) FROM silver.readings_15m WHERE bucket < '2026-03-04'"
        )
        before = db.execute(sealed.encode()).fetchone()
        db.execute("SELECT silver.resume_rollup('silver.readings_1h')")
        db.execute("UPDATE raw.readings SET amount = -1 WHERE device = 'd2'")
        assert_exact(db)
        db.execute("CALL silver.run_rollups()")
        assert_exact(db)
        stale = db.execute(STATE["stale"].encode()).fetchall()
        assert [rollup_id for rollup_id, *_ in stale] == [6]  # of a bucket that cannot be computed
        assert db.execute(sealed.encode()).fetchone() == before != (0, None)


def test_a_part_that_0_1_0_gave_partitions_of_now(
    server: PostgresServer,
    make_database: Callable[..., str],
    template: str,  # noqa: ARG001  as above
) -> None:
    """It noted of them that they end before they begin."""
    url = server.superuser_url(make_database())
    restore_release("0.1.0", url)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("RESET search_path")
        db.execute("CREATE TABLE raw.s (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
        month = (
            "CREATE TABLE raw.m{} PARTITION OF raw.s"
            " FOR VALUES FROM ('2026-0{}-01') TO ('2026-0{}-01')"
        )
        db.execute(f"{month.format(1, 1, 2)} PARTITION BY RANGE (ts)".encode())
        db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1d', '1 day')")
        db.execute("SELECT silver.partition_source('raw.m1', '1 day')")
        db.execute("CALL silver.run_rollups()")
        noted = "SELECT FROM rollup_engine.source_partition WHERE to_time < from_time"
        assert db.execute(noted).rowcount > 0
        migrate_project(url)
        db.execute(month.format(2, 2, 3).encode())
        db.execute("INSERT INTO raw.s VALUES ('2026-02-03', 1)")
        db.execute("CALL silver.run_rollups()")
        assert_settled(db, "s_1d")
        row = "SELECT count(*) FROM silver.error_log WHERE target_table = 'silver.s_1d'"
        assert db.execute(row).fetchone() == (0,)


def test_a_column_made_anew_before_0_1_0_was_dumped(
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
    template: str,  # noqa: ARG001  as above
) -> None:
    """It noted no columns but those that are used, by numbers that a dump makes smaller."""
    old, new = (server.superuser_url(make_database()) for _ in range(2))
    restore_release("0.1.0", old)
    with psycopg.connect(old, autocommit=True) as db:
        db.execute("RESET search_path")
        db.execute(
            "CREATE TABLE raw.s (ts timestamptz, v integer);"
            "INSERT INTO raw.s SELECT now() - make_interval(days => n), n"
            " FROM generate_series(1, 9) AS n"
        )
        db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1d', '1 day')")
        db.execute("CALL silver.run_rollups()")
        db.execute("ALTER TABLE raw.s RENAME v TO x; ALTER TABLE raw.s ADD v integer DEFAULT 7")
    run(server, "pg_dump", "-Fc", "-f", str(tmp_path / "dump"), old)
    run(server, "pg_restore", "-e", "-1", "-d", new, str(tmp_path / "dump"))
    migrate_project(new)
    with psycopg.connect(new, autocommit=True) as db:
        db.execute("CALL silver.run_rollups()")
        assert_settled(db, "s_1d")


def test_names_that_somebody_has_already(
    server: PostgresServer,
    make_database: Callable[..., str],
    template: str,  # noqa: ARG001  as above
) -> None:
    """Refused before anything is changed; functions of other arguments are nobody's business."""
    url = server.superuser_url(make_database())
    restore_release(kept_releases()[0], url, "")
    scripts = "SELECT count(*) FROM rollup_engine.schema_history_foundational"
    body = "LANGUAGE sql AS 'SELECT 7'"
    with psycopg.connect(url, autocommit=True) as connection:
        before = connection.execute(scripts).fetchone()
        connection.execute("CREATE TABLE silver.archive_log (id integer)")
        for name in ("create_rollup_table", "add_rollup_metric", "drop_rollup", "set_retention"):
            connection.execute(f"CREATE FUNCTION silver.{name}(t date) RETURNS int {body}".encode())
        bucket = "FUNCTION silver.time_bucket(interval, date, text)"
        connection.execute(f"CREATE {bucket} RETURNS int {body}".encode())
        with pytest.raises(
            TsrollupError, match=r"already: table silver\.archive_log, function silver"
        ):
            migrate_project(url)
        connection.execute(f"DROP {bucket}".encode())
        assert connection.execute(scripts).fetchone() == before
        connection.execute("ALTER TABLE silver.archive_log RENAME TO archive_log_of_mine")
        migrate_project(url)
        assert connection.execute("SELECT silver.create_rollup_table(current_date)").fetchone() == (
            7,
        )
        assert connection.execute("SELECT silver.add_rollup_metric(current_date)").fetchone() == (
            7,
        )
