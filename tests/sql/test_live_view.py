"""Promise b where it is easy to miss: one query, one snapshot, one decision."""

from collections.abc import Callable
from typing import Any

import psycopg

from raw_tables import LEVELS, create_hierarchy
from rollup_checks import assert_equal_to_group_by, refresh_everything


def test_promise_b_statistics_that_change_during_a_query(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    db.execute("CREATE TABLE raw.wide (ts timestamptz, padding text)")
    db.execute("ALTER TABLE raw.wide SET (autovacuum_enabled = off)")
    db.execute("ALTER TABLE raw.wide ALTER padding SET STORAGE PLAIN")
    db.execute(
        "SELECT silver.create_rollup_table('raw.wide', 'silver', 'wide_1m', '1 minute',"
        " metrics => '{}')"
    )
    db.execute(
        "INSERT INTO raw.wide SELECT timestamptz '2026-03-01 00:00+00' + make_interval(secs => i),"
        " repeat('x', 4000) FROM generate_series(0, 3599) AS i"
    )
    reader = connect(autocommit=False)
    reader.execute("DECLARE rows NO SCROLL CURSOR FOR SELECT row_count FROM gold.wide_1m")
    first = reader.execute("FETCH 1 FROM rows").fetchall()
    db.execute("ANALYZE raw.wide")
    rest = reader.execute("FETCH ALL FROM rows").fetchall()
    assert [row[0] for row in first + rest] == [60] * 60


def test_promise_b_partitions_are_there_before_their_rows(db: psycopg.Connection) -> None:
    """A read that was planned without the partition must not find its range fresh."""
    db.execute("CREATE TABLE raw.late (ts timestamptz, value integer)")
    db.execute("INSERT INTO raw.late VALUES ('1999-03-01 00:00+00', 1)")
    db.execute("SELECT silver.create_rollup_table('raw.late', 'silver', 'late_1m', '1 minute')")
    db.execute("CALL silver.run_rollups()")
    row = db.execute(
        "SELECT i.xmin::text <> t.xmin::text FROM silver.late_1m AS t"
        " JOIN pg_inherits AS i ON i.inhrelid = t.tableoid"
    ).fetchone()
    assert row == (True,)


def test_a_child_reads_whole_ranges_where_its_parent_does(db: psycopg.Connection) -> None:
    """Bucket by bucket, each would have the parent compute all of its range again."""
    db.execute("CREATE TABLE raw.small (ts timestamptz, value integer)")
    db.execute(
        "INSERT INTO raw.small SELECT timestamptz '2026-01-01 00:00+00' + n * interval '1 hour', n"
        " FROM generate_series(0, 24 * 90) AS n"
    )
    db.execute("SELECT silver.create_rollup_table('raw.small', 'silver', 'small_1d', '1 day')")
    db.execute("SELECT silver.create_rollup_table('small_1d', 'silver', 'small_1mon', '1 month')")
    ways = db.execute(
        "SELECT r.target_table::text, (SELECT count(*) FROM rollup_engine.stale_buckets(r.id)),"
        " (SELECT count(*) FROM rollup_engine.stale_spans(r.id))"
        " FROM silver.rollup_config AS r ORDER BY r.id"
    ).fetchall()
    assert ways == [("silver.small_1d", 0, 1), ("silver.small_1mon", 0, 1)]
    row = db.execute("SELECT count(*), sum(value_sum) FROM gold.small_1mon").fetchone()
    assert row == (4, 24 * 90 * (24 * 90 + 1) // 2)


def test_promise_b_read_in_parallel_within_the_writers_transaction(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    """Workers see what their leader wrote and has not committed."""
    create_hierarchy(db)
    refresh_everything(db)
    writer = connect(autocommit=False)
    writer.execute(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;"
        "SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0;"
        "SET max_parallel_workers_per_gather = 2; SET parallel_leader_participation = off"
    )
    writer.execute("UPDATE raw.readings SET count = count + 1 WHERE ts < '2026-03-01 22:00+00'")
    writer.execute("DELETE FROM raw.readings WHERE device = 'd1' AND ts > '2026-03-02 01:00+00'")
    plan = writer.execute("EXPLAIN SELECT sum(count_sum) FROM gold.readings_1m").fetchall()
    assert any("Parallel" in line for (line,) in plan), plan
    assert_equal_to_group_by(writer, *LEVELS)
