"""Rows of a default partition: given partitions of their own where nobody can tell, left where they
are where a DELETE and an INSERT would be taken for what they are not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from raw_tables import maintained
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from scenes import scene
from servers import PostgresServer

pytestmark = pytest.mark.partman

NOW = datetime.now(UTC)
STRAY = "2001-02-03 04:05+00"

AUDIT = """
    CREATE TABLE raw.audit (what text);
    CREATE FUNCTION raw.audit() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO raw.audit VALUES (TG_OP); RETURN NULL; END $$;
"""
NOTES = "CREATE TABLE raw.note (id int, ts timestamptz, FOREIGN KEY (id, ts) REFERENCES {} {});"

# What is in the way: how it comes, what is said of it, how it goes.
OBSTACLES = {
    "cascade": (
        NOTES.format("raw.readings", "ON DELETE CASCADE"),
        "foreign key note_id_ts_fkey of raw.note refers to them",
        "DROP TABLE raw.note",
    ),
    "set null": (
        NOTES.format("raw.readings", "ON DELETE SET NULL"),
        "foreign key note_id_ts_fkey of raw.note",
        "ALTER TABLE raw.note DROP CONSTRAINT note_id_ts_fkey",
    ),
    "no action": (
        NOTES.format("raw.readings", ""),
        "foreign key note_id_ts_fkey of raw.note",
        "DROP TABLE raw.note",
    ),
    "key of the default partition only": (
        NOTES.format("raw.readings_default", "ON DELETE CASCADE"),
        "foreign key note_id_ts_fkey of raw.note",
        "DROP TABLE raw.note",
    ),
    "audit": (
        AUDIT + "CREATE TRIGGER audit AFTER INSERT OR DELETE ON raw.readings"
        " FOR EACH ROW EXECUTE FUNCTION raw.audit()",
        "trigger audit of raw.readings_default would fire",
        "DROP TRIGGER audit ON raw.readings",
    ),
    "audit of statements": (
        AUDIT + "CREATE TRIGGER audit BEFORE DELETE ON raw.readings_default"
        " FOR EACH STATEMENT EXECUTE FUNCTION raw.audit()",
        "trigger audit of raw.readings_default would fire",
        "ALTER TABLE raw.readings_default DISABLE TRIGGER audit",
    ),
    "append only": (
        "CREATE FUNCTION raw.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'append only'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON raw.readings"
        " FOR EACH ROW EXECUTE FUNCTION raw.refuse()",
        "trigger refuse of raw.readings_default would fire",
        "DROP TRIGGER refuse ON raw.readings",
    ),
    "rule": (
        "CREATE RULE keep AS ON DELETE TO raw.readings_default DO INSTEAD NOTHING",
        "rule keep of raw.readings_default would apply",
        "DROP RULE keep ON raw.readings_default",
    ),
    "publication": (
        "CREATE PUBLICATION p FOR TABLE raw.readings",
        "publication p holds them",
        "DROP PUBLICATION p",
    ),
    "publication of the schema": (
        "CREATE PUBLICATION p FOR TABLES IN SCHEMA raw",
        "publication p holds them",
        "DROP PUBLICATION p",
    ),
    "publication of everything": (
        "CREATE PUBLICATION p FOR ALL TABLES",
        "publication p holds them",
        "DROP PUBLICATION p",
    ),
    "constraint that older rows break": (
        "ALTER TABLE raw.readings ADD CONSTRAINT old CHECK (id > 1000) NOT VALID",
        "constraint old of raw.readings",
        "ALTER TABLE raw.readings DROP CONSTRAINT old",
    ),
    "its own foreign key": (
        "CREATE TABLE raw.known (id int PRIMARY KEY); INSERT INTO raw.known VALUES (1), (2);"
        "ALTER TABLE raw.readings_default ADD CONSTRAINT known"
        " FOREIGN KEY (id) REFERENCES raw.known ON DELETE CASCADE",
        "foreign key known is of raw.readings_default only",
        "DROP TABLE raw.known CASCADE",
    ),
}


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    """raw.readings by days, a rollup of it, and two stray rows."""
    db.execute(
        "CREATE TABLE raw.readings (id int, ts timestamptz NOT NULL, level int,"
        " twice int GENERATED ALWAYS AS (level * 2) STORED, PRIMARY KEY (id, ts))"
        " PARTITION BY RANGE (ts)"
    )
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    db.execute("SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')")
    db.execute(
        "INSERT INTO raw.readings VALUES (1, %s, 3), (2, %s, 4)", [STRAY, NOW - timedelta(days=9)]
    )
    return db


def run(server: PostgresServer, db: psycopg.Connection[Any], script: str) -> None:
    if "PUBLICATION" not in script:
        db.execute(script.encode())
        return
    with psycopg.connect(server.superuser_url(db.info.dbname), autocommit=True) as superuser:
        superuser.execute(script.encode())


def maintain(db: psycopg.Connection[Any], now: datetime = NOW) -> list[tuple[str, str]]:
    rows = db.execute(
        "SELECT action, detail FROM rollup_engine.run_maintenance('raw.readings', %s)", [now]
    ).fetchall()
    assert not [row for row in rows if row[0] == "failed"], rows
    return rows


def identity(db: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Which rows there are, in every sense."""
    return db.execute(
        "SELECT tableoid::regclass::text, ctid, xmin, * FROM raw.readings ORDER BY id"
    ).fetchall()


@pytest.mark.parametrize("kind", OBSTACLES)
def test_a_row_that_something_would_take_for_deleted_stays_where_it_is(
    server: PostgresServer, source: psycopg.Connection, kind: str
) -> None:
    obstacle, reason, removal = OBSTACLES[kind]
    run(server, source, obstacle)
    if "raw.note" in obstacle:
        source.execute("INSERT INTO raw.note SELECT id, ts FROM raw.readings")
    before = identity(source)
    for later in (NOW, NOW + timedelta(days=30)):
        done = maintain(source, later)
        assert "premade" in dict(done) or later == NOW, "the partitions ahead do not wait for it"
        assert reason in dict(done)["skipped"]
    source.execute("SELECT silver.partition_source('readings', '6 hours')")
    assert identity(source) == before
    for table, expected in {"note": 2, "audit": 0}.items():
        if f"CREATE TABLE raw.{table} " in obstacle:
            count = source.execute(f"SELECT count(t.*) FROM raw.{table} AS t WHERE t IS NOT NULL")
            assert count.fetchone() == (expected,)
    assert_equal_to_group_by(source, "readings_1h")
    refresh_everything(source)
    assert_settled(source, "readings_1h")

    run(server, source, removal)
    assert "skipped" not in dict(maintain(source))
    assert "raw.readings_default" not in {row[0] for row in identity(source)}
    assert [row[3:] for row in identity(source)] == [row[3:] for row in before]
    assert_equal_to_group_by(source, "readings_1h")


def test_a_row_that_a_replication_slot_would_hand_on_stays(
    server: PostgresServer, source: psycopg.Connection
) -> None:
    with psycopg.connect(server.superuser_url(source.info.dbname), autocommit=True) as superuser:
        slot = f"slot_{source.info.dbname}"
        try:
            superuser.execute(
                "SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", [slot]
            )
        except psycopg.Error as error:
            pytest.skip(f"no slot: {error}")
        before = identity(source)
        assert f"replication slot {slot} decodes" in dict(maintain(source))["skipped"]
        assert identity(source) == before
        superuser.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    maintain(source)
    assert "raw.readings_default" not in {row[0] for row in identity(source)}


def test_rows_of_today_that_must_stay_keep_no_other_partition_from_coming(
    source: psycopg.Connection,
) -> None:
    """One of them sits where the next partition would come."""
    soon = NOW + timedelta(days=20)
    source.execute("CREATE TABLE raw.note (id int, ts timestamptz)")
    source.execute("ALTER TABLE raw.note ADD FOREIGN KEY (id, ts) REFERENCES raw.readings")
    source.execute("INSERT INTO raw.readings VALUES (3, %s, 5)", [soon])
    maintain(source, soon)
    source.execute("INSERT INTO raw.readings VALUES (4, %s, 5)", [soon + timedelta(days=1)])
    placed = {row[3]: row[0] for row in identity(source)}
    assert placed[3] == "raw.readings_default"
    assert placed[4] != "raw.readings_default"


def test_rows_of_a_default_partition_that_is_divided_in_turn_move(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.d (ts timestamptz NOT NULL, k int) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.d_default PARTITION OF raw.d DEFAULT PARTITION BY HASH (k);"
        "CREATE TABLE raw.d_1 PARTITION OF raw.d_default FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE raw.d_2 PARTITION OF raw.d_default FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    )
    db.execute("SELECT silver.create_rollup_table('raw.d', 'silver', 'd_1h', '1 hour')")
    db.execute(
        "INSERT INTO raw.d SELECT now() - n * interval '1 day', n FROM generate_series(1, 9) n"
    )
    db.execute("SELECT silver.partition_source('raw.d', '1 day')")
    for _ in range(2):
        maintained(db, NOW, "raw.d")
    assert db.execute("SELECT count(*) FROM raw.d_default").fetchone() == (0,)
    assert_equal_to_group_by(db, "d_1h")


def test_a_constraint_that_is_not_enforced_is_in_nobodys_way(
    server: PostgresServer, source: psycopg.Connection
) -> None:
    if server.version < 18:
        pytest.skip("needs PostgreSQL 18")
    source.execute("ALTER TABLE raw.readings ADD CHECK (level > 1000) NOT ENFORCED")
    maintain(source)
    assert "raw.readings_default" not in {row[0] for row in identity(source)}


def test_a_generated_column_of_its_own_is_not_computed_anew(
    server: PostgresServer, source: psycopg.Connection
) -> None:
    """From PostgreSQL 17 on an expression can change, in one partition as well."""
    if server.version < 17:
        pytest.skip("needs PostgreSQL 17")
    source.execute("ALTER TABLE raw.readings_default ALTER twice SET EXPRESSION AS (level * 200)")
    before = identity(source)
    assert "generated column twice" in dict(maintain(source))["skipped"]
    assert identity(source) == before


def test_a_generated_column_that_calls_a_function_of_the_users_is_not_computed_anew(
    db: psycopg.Connection,
) -> None:
    """It may say something else by now; what is stored stays as it is."""
    db.execute(
        "CREATE FUNCTION raw.price(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';"
        "CREATE TABLE raw.g (ts timestamptz, v int,"
        " price int GENERATED ALWAYS AS (raw.price(v)) STORED) PARTITION BY RANGE (ts)"
    )
    db.execute("SELECT silver.partition_source('raw.g', '1 day')")
    db.execute(f"INSERT INTO raw.g VALUES ('{STRAY}', 1)".encode())
    db.execute(
        "CREATE OR REPLACE FUNCTION raw.price(int) RETURNS int LANGUAGE sql IMMUTABLE"
        " AS 'SELECT $1 * 3'"
    )
    query = "SELECT detail FROM silver.maintain_timeseries_tables('raw.g') WHERE action = 'skipped'"
    ((told,),) = db.execute(query).fetchall()
    assert "generated column price of raw.g_default calls" in told
    assert db.execute("SELECT price FROM raw.g").fetchall() == [(2,)]


def test_a_row_for_time_that_a_rollup_of_the_whole_has_sealed_stays(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.q (d text, ts timestamptz) PARTITION BY LIST (d);"
        "CREATE TABLE raw.q_a PARTITION OF raw.q FOR VALUES IN ('a') PARTITION BY RANGE (ts)"
    )
    db.execute("SELECT silver.partition_source('raw.q_a', '1 day')")
    db.execute("SELECT silver.create_rollup_table('raw.q', 'silver', 'q_1h', '1 hour')")
    force_configuration(
        db, "sealed_before = date_bin('1 hour', now() - interval '5 days', '2000-01-01')"
    )
    db.execute(
        "INSERT INTO rollup_engine.retention (relation, keep, sealed_before)"
        " SELECT 'raw.q', NULL, sealed_before FROM silver.rollup_config"
    )
    db.execute(
        "INSERT INTO raw.q SELECT 'a', now() - i * interval '3 days'"
        " FROM unnest('{1,3}'::integer[]) AS i"
    )
    db.execute("SELECT silver.maintain_timeseries_tables()")
    left = "SELECT min(ts) < now() - interval '8 days', count(*) FROM raw.q_a_default"
    assert db.execute(left).fetchall() == [(True, 1)]
