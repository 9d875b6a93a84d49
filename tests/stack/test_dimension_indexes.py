"""The rule by which a rollup of many dimensions gets a GIN index."""

import re

import psycopg
import pytest

SOURCE = """
    CREATE TYPE raw.mood AS ENUM ('calm', 'brisk');
    CREATE TABLE raw.events (
        ts timestamptz NOT NULL, a text, b integer, c raw.mood, "Odd d" text, v float8);
    INSERT INTO raw.events
    SELECT timestamptz '2024-01-01' + n * interval '1 minute', 'a' || n % 7, n % 11,
        (ARRAY['calm', 'brisk'])[n % 2 + 1]::raw.mood, 'd' || n % 5, n
    FROM generate_series(1, 20000) AS n;
"""
GIN_INDEXES = """
    SELECT pg_get_indexdef(i.indexrelid) FROM pg_index AS i
    JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_am AS m ON m.oid = x.relam
    WHERE m.amname = 'gin' AND i.indrelid = 'silver.events_1h'::regclass
"""


@pytest.fixture
def events(db: psycopg.Connection) -> psycopg.Connection:
    db.execute(SOURCE)
    return db


def create(connection: psycopg.Connection, dimensions: str) -> list[str]:
    connection.execute(
        "SELECT silver.create_rollup_table('events', 'silver', 'events_1h', '1 hour',"
        ' dimensions => %s, metrics => \'{"v": ["sum"]}\')',
        [dimensions],
    )
    return [definition for (definition,) in connection.execute(GIN_INDEXES)]


def test_many_dimensions_of_few_values_share_one_index(events: psycopg.Connection) -> None:
    events.execute("ANALYZE raw.events")
    (definition,) = create(events, '{a,b,c,"Odd d"}')
    assert definition.endswith('USING gin (a, b, c, "Odd d")')


def test_the_index_answers_a_filter_on_some_dimensions(events: psycopg.Connection) -> None:
    events.execute("ANALYZE raw.events")
    create(events, "{a,b,c}")
    events.execute("SELECT silver.perform_rollup()").fetchall()
    events.execute("VACUUM ANALYZE silver.events_1h")
    events.execute("SET enable_seqscan = off")
    query = "FROM gold.events_1h WHERE b = 3 AND c = 'calm'"
    plan = "\n".join(line for (line,) in events.execute(f"EXPLAIN SELECT * {query}".encode()))
    assert re.search(r"Bitmap Index Scan on events_1h_p\d+_\d+_a_b_c_idx", plan), plan
    assert "((b = 3) AND (c = 'calm'::raw.mood))" in plan
    raw = "FROM raw.events WHERE b = 3 AND c = 'calm'"
    assert (
        events.execute(f"SELECT sum(row_count), sum(v_sum) {query}".encode()).fetchone()
        == events.execute(f"SELECT count(*), sum(v) {raw}".encode()).fetchone()
    )


def test_no_index_without_statistics(events: psycopg.Connection) -> None:
    assert create(events, "{a,b,c}") == []


def test_a_dimension_may_be_called_otherwise_in_its_source_by_now(
    events: psycopg.Connection,
) -> None:
    assert create(events, "{a,b,c}") == []
    events.execute("ALTER TABLE raw.events RENAME a TO z; ANALYZE raw.events")
    events.execute("SELECT silver.perform_rollup()")
    events.execute("SELECT silver.maintain_timeseries_tables()")
    ((definition,),) = events.execute(GIN_INDEXES).fetchall()
    assert definition.endswith("USING gin (a, b, c)")


def test_no_index_for_two_dimensions(events: psycopg.Connection) -> None:
    events.execute("ANALYZE raw.events")
    assert create(events, "{a,b}") == []


def test_no_index_on_dimensions_of_many_values(events: psycopg.Connection) -> None:
    events.execute("UPDATE raw.events SET a = 'a' || v, b = v")
    events.execute("ANALYZE raw.events")
    assert create(events, '{a,b,c,"Odd d"}') == []


def test_no_index_without_btree_gin(events: psycopg.Connection) -> None:
    events.execute("DROP EXTENSION btree_gin")
    events.execute("ANALYZE raw.events")
    assert create(events, "{a,b,c}") == []
