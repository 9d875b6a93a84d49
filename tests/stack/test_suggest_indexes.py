"""silver.suggest_indexes: advice from hypothetical indexes, which creates nothing."""

from typing import Any

import psycopg
import pytest

from rollup_checks import refresh_everything
from servers import PostgresServer

Suggestion = tuple[str, int, str, float, float]


@pytest.fixture
def readings(server: PostgresServer, db: psycopg.Connection) -> psycopg.Connection:
    if not server.has("hypopg"):
        pytest.skip("needs hypopg")
    db.execute(
        'CREATE TABLE raw.readings (ts timestamptz NOT NULL, device integer, "The site" text,'
        " extra json, level float8) PARTITION BY RANGE (ts)"
    )
    db.execute(
        "CREATE TABLE raw.readings_1 PARTITION OF raw.readings"
        " FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2027-01-01 00:00+00')"
    )
    db.execute(
        "INSERT INTO raw.readings SELECT '2026-01-01 00:00+00'::timestamptz"
        " + make_interval(secs => 60 * i), i % 500, i % 7, NULL, i FROM generate_series(1, 60000) i"
    )
    db.execute("ANALYZE raw.readings")
    return db


def suggest(db: psycopg.Connection, table: str, *queries: str) -> list[Suggestion]:
    before = db.execute("SELECT count(*) FROM pg_class").fetchone()
    rows = db.execute(
        "SELECT * FROM silver.suggest_indexes(%s, %s)", [table, list(queries) or None]
    ).fetchall()
    assert db.execute("SELECT count(*) FROM pg_class").fetchone() == before
    assert db.execute("SELECT count(*) FROM hypopg()").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    return rows


def test_a_query_gets_the_index_that_the_planner_would_use(readings: psycopg.Connection) -> None:
    query = "SELECT * FROM raw.readings WHERE device = 7 AND ts >= '2026-02-10'"
    [(statement, size, advised, before, after)] = suggest(readings, "raw.readings", query)
    assert statement == "CREATE INDEX ON raw.readings USING btree (device, ts)"
    assert size > 0
    assert advised == query
    assert after < before / 2
    readings.execute(statement.encode())
    readings.execute("ANALYZE raw.readings")
    plan = readings.execute(f"EXPLAIN {query}".encode()).fetchall()
    assert any("readings_1_device_ts_idx" in line for (line,) in plan)
    assert suggest(readings, "raw.readings", query) == [], "it is there now"


def test_each_query_is_judged_and_parameters_may_stay_open(readings: psycopg.Connection) -> None:
    by_site = 'SELECT avg(level) FROM raw.readings WHERE "The site" = $1 AND device = $2'
    by_time = "SELECT * FROM raw.readings WHERE ts BETWEEN $1 AND $2"
    hopeless = "SELECT max(level) FROM raw.readings"
    rows = suggest(readings, "readings", by_site, by_time, hopeless)
    assert {row[2] for row in rows} == {by_site, by_time}
    assert any('"The site"' in row[0] for row in rows)
    assert all(row[4] < row[3] for row in rows)


def test_without_queries_dimensions_are_read_over_time(readings: psycopg.Connection) -> None:
    readings.execute(
        "INSERT INTO silver.dimension_config (source_table, dimension_column)"
        " VALUES ('raw.readings', 'device')"
    )
    rows = suggest(readings, "raw.readings")
    assert rows
    assert rows[0][0] == "CREATE INDEX ON raw.readings USING btree (device, ts)"


def test_dimensions_are_read_by_the_names_that_they_have_now(
    readings: psycopg.Connection,
) -> None:
    readings.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
        ' dimensions => \'{device, half, "The site"}\', expressions => \'{"half": "device / 2"}\','
        ' metrics => \'{"level": ["avg"]}\')'
    )
    readings.execute("ALTER TABLE raw.readings RENAME COLUMN device TO sensor")
    readings.execute("ALTER TABLE raw.readings RENAME COLUMN ts TO at")
    readings.execute('ALTER TABLE raw.readings DROP COLUMN "The site"')
    readings.execute(
        "INSERT INTO silver.dimension_config (source_table, dimension_column)"
        " VALUES ('raw.readings', 'gone')"
    )
    rows = suggest(readings, "raw.readings")
    assert rows[0][0] == "CREATE INDEX ON raw.readings USING btree (sensor, at)"


def test_queries_that_were_seen_count_where_pg_stat_statements_runs(
    readings: psycopg.Connection, server: PostgresServer, database: str
) -> None:
    query = "SELECT count(*) FROM raw.readings WHERE device = 17"
    readings.execute(query.encode())
    seen = [row[2] for row in suggest(readings, "raw.readings")]
    assert seen == ["SELECT count(*) FROM raw.readings WHERE device = $1"]
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute("DROP EXTENSION pg_stat_statements")
    assert suggest(readings, "raw.readings") == [], "no dimensions, no queries, no advice"


def test_what_other_people_have_written_is_never_planned(
    readings: psycopg.Connection, server: PostgresServer, database: str
) -> None:
    readings.execute("""
        CREATE FUNCTION raw.whoever() RETURNS integer LANGUAGE plpgsql STABLE
        AS $$ BEGIN RAISE WARNING 'run by %', current_user; RETURN 17; END $$
    """)
    readings.execute("SELECT count(*) FROM raw.readings WHERE device = raw.whoever()")
    readings.execute("SELECT count(*) FROM raw.readings WHERE extra::text = 'x'")
    warnings: list[str] = []
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        rows = suggest(superuser, "raw.readings")
    assert warnings == []
    assert rows[0][0] == "CREATE INDEX ON raw.readings USING btree (device, ts)"
    assert {row[2] for row in rows} == {
        "SELECT * FROM raw.readings WHERE device = $1 AND ts >= $2 AND ts < $3"
    }


def test_rollups_are_advised_through_their_live_view(readings: psycopg.Connection) -> None:
    readings.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
        " dimensions => '{device}', metrics => '{\"level\": [\"avg\"]}')"
    )
    refresh_everything(readings)
    readings.execute("ANALYZE silver.readings_1h")
    rows = suggest(readings, "readings_1h", "SELECT * FROM gold.readings_1h WHERE device = 3")
    assert rows
    assert all(row[0].startswith("CREATE INDEX ON silver.readings_1h ") for row in rows)
    assert all("device" in row[0] for row in rows)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (["SELECT 1; DROP TABLE raw.readings"], "more than one statement"),
        (["SELECT ';'; DROP TABLE raw.readings"], "more than one statement"),
        (["SELECT 1) SELECT; DROP TABLE raw.readings; SELECT (1"], "syntax error"),
        (["SELECT * FROM nowhere"], "nowhere"),
        (["SELEC"], "syntax error"),
        ([None], "a query is NULL"),
    ],
)
def test_bad_queries_are_errors_and_never_run(
    readings: psycopg.Connection, queries: list[Any], message: str
) -> None:
    with pytest.raises(psycopg.Error, match=message):
        suggest(readings, "raw.readings", *queries)
    assert readings.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    assert readings.execute("SELECT count(*) FROM raw.readings").fetchone() == (60000,)


@pytest.mark.parametrize(
    "condition",
    [
        """"The site" = 'a; b'""",
        """"The site" = E'\\'; b' AND true;""",
        """"The site" = $x$; '$x$ -- ; and so on""",
        """"The site" = 'a' /* one; /* two; */ three; */ AND device > 0 ;  -- end; of""",
    ],
)
def test_a_semicolon_in_a_string_or_a_comment_ends_nothing(
    readings: psycopg.Connection, condition: str
) -> None:
    query = f"SELECT * FROM raw.readings WHERE device = 7 AND {condition}"
    assert suggest(readings, "raw.readings", query)


def test_a_timeout_leaves_nothing_behind(readings: psycopg.Connection) -> None:
    readings.execute("SET search_path = raw, public")
    readings.execute(
        "CREATE FUNCTION raw.slow() RETURNS integer IMMUTABLE LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN 7; END $$"
    )
    readings.execute("SELECT hypopg_create_index('CREATE INDEX ON raw.readings (level)')")
    query = "SELECT * FROM readings WHERE device = slow() AND level > 3 AND ts > now()"
    readings.execute("SET statement_timeout = '900ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        readings.execute("SELECT * FROM silver.suggest_indexes('readings', %s)", [[query]])
    readings.execute("RESET statement_timeout")
    left = "SELECT count(*) FROM hypopg() UNION ALL SELECT count(*) FROM pg_prepared_statements"
    assert readings.execute(left).fetchall() == [(1,), (0,)]
    for setting, value in {"search_path": "raw, public", "plan_cache_mode": "auto"}.items():
        assert readings.execute(f"SHOW {setting}".encode()).fetchone() == (value,)
    readings.execute("SELECT hypopg_reset()")
    assert suggest(readings, "raw.readings", "SELECT * FROM readings WHERE device = 7")


def test_writes_are_planned_and_not_done(readings: psycopg.Connection) -> None:
    rows = suggest(readings, "raw.readings", "DELETE FROM raw.readings WHERE device = 3")
    assert rows
    assert readings.execute("SELECT count(*) FROM raw.readings").fetchone() == (60000,)


def test_without_hypopg_the_error_says_what_to_do(
    server: PostgresServer, db: psycopg.Connection, database: str
) -> None:
    if server.has("hypopg"):
        with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
            superuser.execute("DROP EXTENSION hypopg")
    db.execute("CREATE TABLE raw.readings (ts timestamptz)")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="needs the extension hypopg") as e:
        db.execute("SELECT * FROM silver.suggest_indexes('readings')")
    assert "CREATE EXTENSION hypopg" in (e.value.diag.message_hint or "")


def test_an_operator_is_advised_on_what_it_may_read(
    readings: psycopg.Connection, server: PostgresServer, database: str
) -> None:
    readings.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
        " dimensions => '{device}', metrics => '{\"level\": [\"avg\"]}')"
    )
    refresh_everything(readings)
    readings.execute("ANALYZE silver.readings_1h")
    with psycopg.connect(server.superuser_url(database), autocommit=True) as operator:
        operator.execute("SET ROLE tsrollup_operator")
        query = "SELECT * FROM gold.readings_1h WHERE device = 3"
        assert suggest(operator, "readings_1h", query)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            suggest(operator, "raw.readings", "SELECT * FROM raw.readings WHERE device = 3")
