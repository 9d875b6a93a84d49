"""get_detailed_stats and get_partition_stats show what the server itself says."""

import psycopg
import pytest

from rollup_checks import force_configuration
from servers import PostgresServer

SOURCE = """
    CREATE TABLE raw.readings (ts timestamptz NOT NULL, device text, temp float8)
        PARTITION BY RANGE (ts);
    CREATE TABLE raw.january PARTITION OF raw.readings
        FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
    CREATE TABLE raw.february PARTITION OF raw.readings
        FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
    CREATE INDEX ON raw.readings (ts);
    INSERT INTO raw.readings
    SELECT ts, 'd' || d, d FROM generate_series(1, 3) AS d,
        generate_series(timestamptz '2024-01-30', '2024-02-01 23:00', '1 hour') AS ts;
"""


@pytest.fixture
def readings(db: psycopg.Connection) -> psycopg.Connection:
    db.execute("SET timezone = 'UTC'")
    db.execute(SOURCE)
    db.execute(
        "SELECT silver.create_rollup_table('readings', 'silver', 'readings_1d', '1 day',"
        " dimensions => '{device}')"
    )
    db.execute("SELECT silver.perform_rollup()").fetchall()
    db.execute("ANALYZE")
    return db


def test_detailed_stats_are_the_servers_own_figures(readings: psycopg.Connection) -> None:
    rows = readings.execute(
        "SELECT table_name, kind, live_view, first_time::text, last_time::text, estimated_rows,"
        " table_bytes, index_bytes, stale_buckets, rows_written_last_day"
        " FROM silver.get_detailed_stats('%')"
    ).fetchall()
    (source_size, source_indexes), (size, indexes) = readings.execute(
        "SELECT sum(pg_table_size(p.relid)), sum(pg_indexes_size(p.relid))"
        " FROM (VALUES (1, 'raw.readings'::regclass), (2, 'silver.readings_1d'))"
        " AS t (n, relation), pg_partition_tree(t.relation) AS p GROUP BY n ORDER BY n"
    ).fetchall()
    assert rows == [
        ("raw.readings", "source", None, "2024-01-30 00:00:00+00", "2024-02-01 23:00:00+00",
         216, source_size, source_indexes, None, None),
        ("silver.readings_1d", "rollup", "gold.readings_1d", "2024-01-30 00:00:00+00",
         "2024-02-01 00:00:00+00", 9, size, indexes, 0, 9),
    ]  # fmt: skip


def test_detailed_stats_choose_by_pattern(readings: psycopg.Connection) -> None:
    def chosen(pattern: str | None) -> list[str]:
        query = "SELECT table_name FROM silver.get_detailed_stats(%s)"
        return [name for (name,) in readings.execute(query, [pattern])]

    assert chosen("silver.%") == chosen("gold.readings_1d") == chosen("%\\_1d")
    assert chosen("silver.%") == ["silver.readings_1d"]
    assert chosen(None) == chosen("%") == ["raw.readings", "silver.readings_1d"]
    assert chosen("no such table") == []


def test_stale_buckets_count_the_undrained_log(readings: psycopg.Connection) -> None:
    readings.execute("INSERT INTO raw.readings VALUES ('2024-02-10 12:00Z', 'd1', 1)")
    row = readings.execute(
        "SELECT stale_buckets FROM silver.get_detailed_stats('silver.readings_1d')"
    ).fetchone()
    assert row == (1,)


def test_partition_stats_have_a_row_for_each_partition(readings: psycopg.Connection) -> None:
    rows = readings.execute(
        "SELECT partition_name, from_time::text, to_time::text, is_sealed, estimated_rows,"
        " table_bytes = pg_table_size(partition_name::regclass), last_analyzed_at IS NOT NULL"
        " FROM silver.get_partition_stats('raw.readings')"
    ).fetchall()
    january, february, march = (f"2024-0{n}-01 00:00:00+00" for n in (1, 2, 3))
    assert rows == [
        ("raw.january", january, february, False, 144, True, True),
        ("raw.february", february, march, False, 72, True, True),
    ]


def test_partition_stats_show_what_is_sealed(readings: psycopg.Connection) -> None:
    force_configuration(readings, "sealed_before = '2024-02-01 00:00Z'")
    rows = readings.execute("SELECT is_sealed FROM silver.get_partition_stats('readings')")
    assert rows.fetchall() == [(True,), (False,)]


@pytest.mark.parametrize(
    ("name", "message"),
    [(None, "the table name is NULL"), ("raw.nothing", "there is no table or rollup raw.nothing")],
)
def test_partition_stats_name_what_is_wrong(
    db: psycopg.Connection, name: str | None, message: str
) -> None:
    with pytest.raises(psycopg.Error) as error:
        db.execute("SELECT * FROM silver.get_partition_stats(%s)", [name])
    assert error.value.diag.message_primary == message
    assert error.value.diag.message_hint


def test_query_times_come_from_pg_stat_statements(
    readings: psycopg.Connection, server: PostgresServer
) -> None:
    figures = "SELECT query_calls, query_mean_ms FROM silver.get_detailed_stats('silver.%')"
    if not server.has("pg_stat_statements"):
        assert readings.execute(figures).fetchone() == (None, None)
        return
    for _ in range(3):
        readings.execute("SELECT temp_avg FROM gold.readings_1d").fetchall()
    readings.execute("SELECT 1 AS gold_readings_1d_not_meant").fetchall()
    row = readings.execute(figures).fetchone()
    assert row
    assert row[0] == 3
    assert row[1] > 0
