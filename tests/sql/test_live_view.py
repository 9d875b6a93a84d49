"""Promise b where it is easy to miss: one query, one snapshot, one decision."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from raw_tables import LEVELS, create_hierarchy
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)


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


def test_a_read_of_one_bucket_computes_no_other_at_any_depth(db: psycopg.Connection) -> None:
    """Before the first fill everything is stale, and one bucket of January cannot be computed."""
    db.execute("CREATE TABLE raw.small (ts timestamptz, value double precision)")
    db.execute(
        "INSERT INTO raw.small SELECT timestamptz '2026-01-01 00:00+00' + n * interval '1 hour', n"
        " FROM generate_series(0, 24 * 90) AS n"
    )
    db.execute("INSERT INTO raw.small VALUES ('2026-01-05', 1e308), ('2026-01-05', 1e308)")
    source = "raw.small"
    for name, width in (("small_1h", "1 hour"), ("small_1d", "1 day"), ("small_1mon", "1 month")):
        db.execute("SELECT silver.create_rollup_table(%s, 'silver', %s, %s)", [source, name, width])
        source = name
    february = "SELECT row_count FROM gold.small_1mon WHERE bucket = '2026-02-01 00:00+00'"
    assert db.execute(february).fetchall() == [(24 * 28,)]
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        db.execute("SELECT * FROM gold.small_1mon")


def test_what_is_nowhere_stored_is_read_from_raw_rows(db: psycopg.Connection[Any]) -> None:
    """What is stored at a level in between is read there, and what raw rows may lack as well."""
    db.execute("CREATE TABLE raw.small (ts timestamptz, value double precision)")
    db.execute(
        "INSERT INTO raw.small SELECT timestamptz '2026-01-01 00:00+00' + n * interval '10 minutes'"
        ", n FROM generate_series(0, 6 * 48 - 1) AS n"
    )
    source = "raw.small"
    widths = {"small_1h": "1 hour", "small_6h": "6 hours", "small_1d": "1 day"}
    for name, width in widths.items():
        db.execute("SELECT silver.create_rollup_table(%s, 'silver', %s, %s)", [source, name, width])
        source = name
    refresh_everything(db)
    db.execute("SELECT silver.mark_stale('raw.small', '2026-01-01 00:00Z', '2026-01-03 00:00Z')")
    db.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    db.execute("ALTER TABLE raw.small DISABLE TRIGGER USER")
    db.execute("INSERT INTO raw.small VALUES ('2026-01-02 00:05Z', 0)")
    # Whoever goes through the first level says so.
    db.execute("""
        CREATE OR REPLACE FUNCTION rollup_engine.live_1(p_from timestamptz, p_to timestamptz)
            RETURNS SETOF silver.small_1h LANGUAGE plpgsql STABLE AS
            $$ BEGIN RAISE no_data_found; END $$
    """)
    read = "SELECT row_count FROM gold.small_1d WHERE bucket = '2026-01-02 00:00+00'"
    with db.transaction(force_rollback=True):
        assert db.execute(read).fetchall() == [(145,)]
        force_configuration(db, "sealed_before = '2026-01-02 06:00+00' WHERE depth = 0")
        with pytest.raises(psycopg.errors.NoDataFound):
            db.execute(read)
    for stored in ("silver.small_1h", "silver.small_6h"):
        with db.transaction(force_rollback=True):
            db.execute(
                "DELETE FROM rollup_engine.stale_range USING silver.rollup_config AS r"
                " WHERE rollup_id = r.id AND r.target_name = %s",
                [stored],
            )
            assert db.execute(read).fetchall() == [(144,)]


def test_promise_b_scattered_changes_at_every_depth(db: psycopg.Connection) -> None:
    """So many that what lies between them is read with them, and not told twice."""
    create_hierarchy(db)
    refresh_everything(db)
    db.execute(
        "INSERT INTO raw.readings (ts, device, count) SELECT timestamptz '2026-03-01 21:00+00'"
        " + make_interval(mins => 9 * n), 'd1', 1 FROM generate_series(0, 40) AS n"
    )
    assert_equal_to_group_by(db, *LEVELS)
    spans = "SELECT count(*) FROM silver.rollup_config AS r, rollup_engine.stale_spans(r.id)"
    assert db.execute(spans + " WHERE r.bucket_width = '1 minute'").fetchone() == (1,)
    db.execute("SELECT silver.perform_rollup('readings_1m', as_of => 'infinity')")
    assert_equal_to_group_by(db, *LEVELS)


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


def test_a_read_where_nothing_is_stale_asks_once_and_reads_what_it_is_asked_for(
    db: psycopg.Connection,
) -> None:
    """Before any worker starts; and of the stored rows only the column that is summed up."""
    create_hierarchy(db)
    refresh_everything(db)
    query = "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF) SELECT sum(count_sum)"
    rows = db.execute(f"{query} FROM gold.readings_1m".encode()).fetchall()
    plan = [line.strip() for (line,) in rows]
    assert functions_asked(plan) == [
        (False, "stale_edges"),
        (True, "stale_edges"),
        (True, "stale_parts"),
        (True, "few_buckets"),
        (True, "live_1"),
        (True, "stale_parts"),
        (True, "few_pieces"),
        (True, "live_1"),
    ]
    scans = [i for i, line in enumerate(plan) if "Seq Scan on silver.readings_1m_p" in line]
    assert scans
    for scan in scans:
        assert plan[scan + 1].startswith("Output: ")
        assert plan[scan + 1].endswith(".count_sum")
        assert "," not in plan[scan + 1]


def test_a_read_asks_for_spans_only_where_there_may_be_any(db: psycopg.Connection) -> None:
    """What is read by bucket is told once."""
    create_hierarchy(db)
    refresh_everything(db)
    db.execute("INSERT INTO raw.readings (ts, device) VALUES ('2026-03-01 22:00+00', 'd1')")
    query = "EXPLAIN (ANALYZE, VERBOSE, TIMING OFF) SELECT * FROM gold.readings_1m"
    rows = db.execute(query.encode()).fetchall()
    asked = functions_asked([line for (line,) in rows])
    assert [never for never, name in asked if name == "stale_parts"] == [False, True]
    assert [never for never, name in asked if name == "live_1"] == [False, True]


def functions_asked(plan: list[str]) -> list[tuple[bool, str]]:
    """Those of the machinery in a verbose EXPLAIN ANALYZE, and whether each was never executed."""
    asked = [line for line in plan if "Function Scan on rollup_engine." in line]
    return [("never executed" in line, line.split(".")[1].split()[0]) for line in asked]


def test_promise_b_a_report_from_before_a_metric_was_added(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    """It knows nothing of the new column, which the child's function reads."""
    create_hierarchy(db)
    refresh_everything(db)
    db.execute("UPDATE raw.readings SET count = 9 WHERE device = 'd1'")
    report = connect(autocommit=False)
    report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    report.execute("SELECT 1 FROM raw.readings LIMIT 0")
    for name in LEVELS:
        db.execute('SELECT silver.add_rollup_metric(%s, \'{"count": ["last"]}\')', [name])
    db.execute("CALL silver.run_rollups(as_of => 'infinity')")
    raw = report.execute("SELECT count(*)::integer, sum(count) FROM raw.readings").fetchone()
    for name in LEVELS:
        read = f"SELECT sum(row_count)::integer, sum(count_sum)::bigint FROM gold.{name}"
        assert report.execute(read.encode()).fetchone() == raw, name


def test_promise_b_sparse_rows_whose_table_grows_during_a_query(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    """Both ways of computing what is stale are asked for it, one after the other: where the rows
    lie is no question of how large the table is by now."""
    db.execute("CREATE TABLE raw.s (ts timestamptz, v integer, padding text)")
    db.execute("ALTER TABLE raw.s SET (autovacuum_enabled = off)")
    db.execute("ALTER TABLE raw.s ALTER padding SET STORAGE PLAIN")
    db.execute("CREATE INDEX ON raw.s (ts)")
    db.execute(
        "INSERT INTO raw.s SELECT '2024-01-01 03:00+00'::timestamptz + d * interval '1 day'"
        " + i * interval '1 minute', 1"
        " FROM generate_series(0, 399) AS d, generate_series(0, 1) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.s', 'silver', 's_1m', '1 minute',"
        ' metrics => \'{"v": ["sum"]}\')'
    )
    refresh_everything(db)
    db.execute("UPDATE silver.rollup_config SET source_rows = 990000")
    db.execute("SELECT silver.mark_stale('raw.s', '-infinity', 'infinity')")
    with connect(autocommit=False).cursor("slow") as reader:
        reader.execute("SELECT v_sum FROM gold.s_1m")
        (first,) = reader.fetchone() or (0,)
        db.execute(
            "INSERT INTO raw.s SELECT '2024-06-01', 1, repeat('x', 8000)"
            " FROM generate_series(1, 13000) AS i"
        )
        assert first + sum(value for (value,) in reader.fetchall()) == 800


def test_rollups_and_columns_of_the_names_that_the_machinery_uses_itself(
    db: psycopg.Connection,
) -> None:
    names = ("e", "b", "f", "s", "r", "tsrollup_stale", "tsrollup_stored", "tsrollup_parent")
    others = ("t", "n", "m", "known", "newest", "changed", "bin", "moved", "v_low", "jump", "part")
    columns = ", ".join(f"{name} integer" for name in (*names, *others, "p_from", "v_stale"))
    times = "next timestamptz, low timestamptz, high timestamptz, ranges tstzrange"
    db.execute(f"CREATE TABLE raw.t (ts timestamptz, {columns}, {times})".encode())
    db.execute("CREATE INDEX ON raw.t (ts)")
    db.execute(
        "INSERT INTO raw.t SELECT '2026-03-01'::timestamptz + i * interval '7 minutes', 1"
        " FROM generate_series(1, 300) AS i"
    )
    source = "raw.t"
    for hours, name in enumerate(names, 1):
        width = f"{2**hours} hours"
        dimensions = ["e", "r", "f", "p_from"]
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s, %s, %s)",
            [source, name, width, None if hours > 1 else "ts", dimensions],
        )
        source = f"silver.{name}"
    for _ in range(2):
        assert_equal_to_group_by(db, *(f"silver.{name}" for name in names))
        refresh_everything(db)
    db.execute("UPDATE raw.t SET e = 2, next = '2999-01-01' WHERE ts < '2026-03-01 03:00'")
    assert_equal_to_group_by(db, *(f"silver.{name}" for name in names))
    # As it goes where a table is large.
    db.execute("UPDATE silver.rollup_config SET source_rows = 2000000")
    db.execute("SELECT silver.mark_stale('raw.t', '-infinity', 'infinity')")
    db.execute("INSERT INTO raw.t (ts, next) VALUES ('1700-01-01', '2999-01-01')")
    refresh_everything(db)
    assert_settled(db, *(f"silver.{name}" for name in names))


@pytest.mark.parametrize("name", ["found", "$1"])
def test_no_column_is_taken_for_a_variable(db: psycopg.Connection, name: str) -> None:
    db.execute(f'CREATE TABLE raw.v (ts timestamptz, "{name}" integer)'.encode())
    db.execute("INSERT INTO raw.v VALUES ('2026-03-01 00:30Z', NULL), ('2026-03-01 00:40Z', 1)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.v', 'silver', 'v_1h', '1 hour', metrics => %s)",
        [f'{{"{name}": ["count"]}}'],
    )
    assert_equal_to_group_by(db, "v_1h")
    db.execute(f'ALTER TABLE raw.v DROP "{name}"'.encode())
    with pytest.raises(psycopg.errors.UndefinedColumn):
        db.execute("TABLE gold.v_1h")


@pytest.mark.parametrize(
    ("divided", "index", "spans"),
    [
        ("", "", 1),
        ("", "CREATE INDEX ON raw.k (ts)", 0),
        ("", "CREATE INDEX ON raw.k USING brin (ts)", 0),
        ("LIST (device)", "", 1),
        ("LIST (device)", "CREATE INDEX ON raw.k (ts)", 0),
        ("RANGE (ts)", "", 0),
    ],
)
def test_stale_buckets_that_no_index_finds_are_read_at_once(
    db: psycopg.Connection, divided: str, index: str, spans: int
) -> None:
    """One by one, each would cost the whole table."""
    columns = "(device integer, ts timestamptz, PRIMARY KEY (device, ts))"
    db.execute(f"CREATE TABLE raw.k {columns} {divided and f'PARTITION BY {divided}'}".encode())
    if divided:
        db.execute("CREATE TABLE raw.k_1 PARTITION OF raw.k DEFAULT")
    db.execute(
        "INSERT INTO raw.k SELECT 1, '2024-01-01 03:00+00'::timestamptz + d * interval '1 day'"
        " FROM generate_series(0, 99) AS d"
    )
    db.execute("SELECT silver.create_rollup_table('raw.k', 'silver', 'k_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('k_1h', 'silver', 'k_1d', '1 day')")
    refresh_everything(db)
    db.execute(index.encode())
    force_configuration(db, "source_rows = 2000000000")
    db.execute("UPDATE raw.k SET device = 2")
    asked = (
        "SELECT count(*) FROM silver.rollup_config AS r, rollup_engine.stale_spans(r.id)"
        " WHERE r.depth = 1"
    )
    assert db.execute(asked).fetchone() == (spans,)
    assert_equal_to_group_by(db, "k_1h", "k_1d")
