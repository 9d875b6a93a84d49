"""What marking, claiming and filling cost goes by the rows that are there, and not by the buckets
between them: counted in stale ranges, batches and partitions, never timed."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from interleaving import Paused, pause_refreshes_of
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

pytestmark = pytest.mark.spread

RUN = "CALL silver.run_rollups(as_of => 'infinity', time_budget => '10 minutes')"
PERFORM = "SELECT silver.perform_rollup(as_of => 'infinity')"
# A row each 3 days, and times that nobody meant: 39 of them in years that have buckets.
SPARSE = """
    CREATE TABLE raw.t (ts {type}, v integer); {index};
    INSERT INTO raw.t
    SELECT timestamp '2020-01-01 12:00' + make_interval(days => 3 * d), d
    FROM generate_series(1, 35) AS d
    UNION ALL VALUES (timestamp '0001-05-05', 1), ('9999-12-31 23:59:59', 2), ('1970-01-01', 3),
        ('1970-01-01 00:00:01', 4), ('4713-01-01 BC', 5), ('infinity', 6),
        ('-infinity', 7), (NULL, 8)
"""
FAR = "INSERT INTO raw.t VALUES ('294276-12-31 23:59:59', 9)"
LEVELS = ("t_fine", "t_1m", "t_1y")


@pytest.mark.parametrize(
    ("width", "kind", "index"),
    [
        ("1 microsecond", "timestamptz", "CREATE INDEX ON raw.t (ts)"),
        ("1 millisecond", "timestamp", ""),
        ("7 seconds", "date", ""),
    ],
)
def test_promise_a_sparse_rows_cost_what_they_are(
    db: psycopg.Connection, width: str, kind: str, index: str
) -> None:
    db.execute(SPARSE.format(type=kind, index=index).encode())
    if kind != "date":
        db.execute(FAR)
    _create(db, "raw.t", "t_fine", width)
    _create(db, "t_fine", "t_1m", "1 minute" if width != "7 seconds" else "7 minutes")
    _create(db, "t_1m", "t_1y", "1 year" if width != "7 seconds" else "14 minutes")
    for level in LEVELS:
        assert _stale_ranges(db, level) <= 39, level
    assert_equal_to_group_by(db, *LEVELS)
    db.execute(RUN)
    assert_settled(db, *LEVELS)
    for level in LEVELS:
        assert _batches(db, level) <= 30, level
        assert _partitions(db, level) <= 40, level
    for change in (
        "INSERT INTO raw.t VALUES ('0001-01-01', 1), ('1500-06-06', 2)",
        "DELETE FROM raw.t WHERE ts < '1969-01-01'",
        "SELECT silver.mark_stale('raw.t', '-infinity', 'infinity')",
        "SELECT silver.mark_stale('t_fine', '0001-01-01', '9999-12-31')",
        "TRUNCATE raw.t",
    ):
        batches = _batches(db, "t_fine")
        db.execute(change)
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
        assert_settled(db, *LEVELS)
        assert _batches(db, "t_fine") - batches <= 30, change


@pytest.mark.parametrize("width", ["1 second", "1 microsecond"])
def test_the_tail_of_a_coarse_rollup_costs_a_finer_one_what_rows_are(
    db: psycopg.Connection, width: str
) -> None:
    """It reaches back for 400 days, and nobody has logged what came there."""
    run = "CALL silver.run_rollups(as_of => '2026-03-02 12:00:30+00')"
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz PRIMARY KEY);"
        " SELECT silver.create_rollup_table('raw.t', 'silver', 't_1mon', '1 month',"
        " settle_delay => '400 days');"
        " INSERT INTO raw.t VALUES ('2026-03-02 12:00+00')"
    )
    db.execute(run)
    db.execute("INSERT INTO raw.t VALUES ('2025-03-01'), ('2025-06-01'), ('2026-01-01')")
    assert db.execute("SELECT count(*) FROM rollup_engine.change_log").fetchone() == (0,)
    _create(db, "raw.t", "t_fine", width)
    _create(db, "t_fine", "t_1s", "1 second")
    db.execute("INSERT INTO raw.t VALUES ('2025-04-01')")
    assert_equal_to_group_by(db, "t_1mon", "t_fine", "t_1s")
    assert max(_stale_ranges(db, name) for name in ("t_fine", "t_1s")) <= 10
    db.execute(run)
    assert_equal_to_group_by(db, "t_1mon", "t_fine", "t_1s")
    assert max(_batches(db, name) for name in ("t_fine", "t_1s")) <= 10
    assert db.execute("SELECT count(*) FROM silver.t_1s").fetchone() == (4,)
    # The tail, in cells of a minute or more.
    assert max(_stale_ranges(db, name) for name in ("t_fine", "t_1s")) <= 3


def test_a_partition_holds_many_sparse_rows(db: psycopg.Connection) -> None:
    """Unless somebody named its width; and late rows one by one make no partition each for ever."""
    for name, rows in (("t", 400), ("u", 60)):
        db.execute(
            f"CREATE TABLE raw.{name} (ts timestamptz, v integer);"
            f" INSERT INTO raw.{name} SELECT timestamptz '2001-01-01 12:00'"
            f" + make_interval(days => 3 * d), d FROM generate_series(1, {rows}) AS d".encode()
        )
    _create(db, "raw.t", "t_1s", "1 second")
    db.execute(
        "SELECT silver.create_rollup_table('raw.u', 'silver', 'u_named', '1 second',"
        " chunk_interval => '12 hours')"
    )
    db.execute(RUN)
    assert_settled(db, "t_1s", "u_named")
    assert _partitions(db, "t_1s") <= 35
    assert _batches(db, "t_1s") <= 60
    assert _partitions(db, "u_named") >= 60
    assert _widest(db, "u_named") == 12 * 3600


@pytest.mark.parametrize(
    ("width", "chunk"), [("6 hours", "5 days"), ("1 day", "10 days"), ("7 days", "10 days")]
)
def test_partitions_of_a_named_width_are_made_where_rows_are(
    db: psycopg.Connection, width: str, chunk: str
) -> None:
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, v integer);"
        " INSERT INTO raw.t SELECT timestamptz '2025-03-01' - make_interval(hours => h), h"
        " FROM generate_series(1, 200) AS h;"
        " INSERT INTO raw.t VALUES ('1971-06-01', 1), ('1985-06-01', 2), ('1985-08-01', 3)"
    )
    for name, source in (("t", "raw.t"), ("u", "t")):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s, chunk_interval => %s)",
            [source, name, width, chunk],
        )
    past = (
        "SELECT count(*) FROM rollup_engine.rollup_partition AS p JOIN silver.rollup_config AS r"
        " ON r.id = p.rollup_id WHERE r.target_table = %s::regclass AND p.to_time < '2025-04-01'"
    )
    for statement in (
        "SELECT 1",
        "SELECT silver.mark_stale('raw.t', '-infinity', 'infinity')",
        "INSERT INTO raw.t VALUES ('1999-01-01', 3), ('1999-12-24 00:00+00', 3)",
        "DELETE FROM raw.t WHERE ts < '2000-01-01'",
    ):
        db.execute(statement.encode())
        assert_equal_to_group_by(db, "t", "u")
        refresh_everything(db)
        assert_settled(db, "t", "u")
    # Of six places, each of which may lie across a border.
    assert max(_count(db, past, name) for name in ("t", "u")) <= 12 + 2


def test_late_rows_one_by_one_share_partitions(db: psycopg.Connection) -> None:
    """The more gaps there are, the wider the next partition."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    _create(db, "raw.t", "t_1us", "1 microsecond")
    for n in range(35):
        db.execute(
            "INSERT INTO raw.t VALUES (timestamptz '2001-01-01' + make_interval(days => %s), 1)",
            [n],
        )
        db.execute(PERFORM)
    assert _widest(db, "t_1us") == 3600
    assert_equal_to_group_by(db, "t_1us")


@pytest.mark.parametrize("width", ["1 year", "1 month", "1 week", "1 day", "1 hour", "1 second"])
def test_time_that_holds_nothing_is_done_at_once(db: psycopg.Connection, width: str) -> None:
    """Marked as a whole, and with a window of a bucket."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't', %(width)s,"
        " processing_window => %(width)s)",
        {"width": width},
    )
    db.execute("INSERT INTO raw.t VALUES ('1700-01-20 12:00+00', 1), ('2000-03-02 12:00+00', 1)")
    refresh_everything(db)
    assert _batches(db, "t") == 2
    # What is between is stale as if rows had been there, and is no more.
    db.execute(
        "INSERT INTO rollup_engine.stale_range (rollup_id, cell, from_time, to_time)"
        " SELECT id, lower(cell), lower(r * cell), upper(r * cell) FROM silver.rollup_config,"
        " LATERAL (SELECT range_merge(rollup_engine.bucket_align(bucket_width,"
        " '{[1700-01-20 12:00+00, 2000-03-02 12:00+00]}')) AS r) AS r,"
        " LATERAL (SELECT tstzrange(c, rollup_engine.bucket_next(cell_width, c)) AS cell"
        " FROM rollup_engine.buckets_in(cell_width, rollup_engine.bucket_align(cell_width,"
        " CASE WHEN bucket_width < '1 day' THEN '{[1999-12-31 00:00+00, 2000-01-01 00:00+00)}'"
        " ELSE tstzmultirange(r) END)) AS c) AS cell"
    )
    ranges = _stale_ranges(db, "t")
    assert_equal_to_group_by(db, "t")
    refresh_everything(db)
    assert_settled(db, "t")
    assert _batches(db, "t") - 2 <= ranges + 2
    # Two that hold rows, and that of now; how many more are to come goes by the time of day.
    past = (
        "SELECT count(*) FROM rollup_engine.rollup_partition AS p"
        " JOIN silver.rollup_config AS r ON r.id = p.rollup_id"
        " WHERE r.target_table = %s::regclass AND p.from_time < now()"
    )
    assert _count(db, past, "t") <= 3


def test_promise_h_a_bad_bucket_among_sparse_ones(db: psycopg.Connection) -> None:
    """It is found, and the rest is stored, of cells that went together and of unequal months."""
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, v bigint, w integer);"
        " INSERT INTO raw.t SELECT timestamptz '2001-01-01 12:00+00' + make_interval(days => d),"
        " d, 1 FROM generate_series(1, 60) AS d"
    )
    for name, width in (("t_1us", "1 microsecond"), ("t_1mon", "1 month")):
        _create(db, "raw.t", name, width)
    db.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.v_min <= 20 AND NEW.v_max >= 20 THEN"
        " RAISE numeric_value_out_of_range; END IF; RETURN NEW; END $$;"
        " CREATE TRIGGER refuse BEFORE INSERT ON silver.t_1us"
        " FOR EACH ROW EXECUTE FUNCTION public.refuse();"
        " CREATE TRIGGER refuse BEFORE INSERT ON silver.t_1mon"
        " FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )
    db.execute(RUN)
    assert_equal_to_group_by(db, "t_1us", "t_1mon")
    assert db.execute("SELECT count(*) FROM silver.t_1us").fetchone() == (59,)
    row = db.execute(
        "SELECT array_agg(bucket ORDER BY bucket)"
        " = '{2001-01-01 00:00+00,2001-01-21 12:00+00}' FROM rollup_engine.failed_bucket"
    ).fetchone()
    assert row == (True,)
    db.execute(
        "DROP TRIGGER refuse ON silver.t_1us; DROP TRIGGER refuse ON silver.t_1mon;"
        " SELECT silver.reset_rollup_retry('t_1us'), silver.reset_rollup_retry('t_1mon')"
    )
    refresh_everything(db)
    assert_settled(db, "t_1us", "t_1mon")


def test_promise_c_sparse_cells_are_locked_each(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    """What one worker has among other cells, another leaves alone, and does the rest."""
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, v integer);"
        " INSERT INTO raw.t SELECT timestamptz '2001-01-01 12:00+00' + make_interval(hours => h),"
        " 1 FROM generate_series(1, 6) AS h"
    )
    _create(db, "raw.t", "t_1s", "1 second")
    refresh_everything(db)
    pause_refreshes_of(db, "silver.t_1s")
    db.execute("UPDATE raw.t SET v = 2 WHERE ts < '2001-01-01 15:00+00'")
    with Paused(db, connect(), RUN):
        # The same buckets once more, and a newer one.
        db.execute("UPDATE raw.t SET v = 3 WHERE ts < '2001-01-01 16:00+00'")
        db.execute(PERFORM)
        assert db.execute("SELECT v_sum FROM silver.t_1s WHERE v_sum > 1").fetchall() == [(3,)]
        assert_equal_to_group_by(db, "t_1s")
    assert_equal_to_group_by(db, "t_1s")
    refresh_everything(db)
    assert_settled(db, "t_1s")


def test_promise_c_a_row_that_comes_where_nothing_was(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    """Its writer was open while the time around it was found empty."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    _create(db, "raw.t", "t_1d", "1 day")
    db.execute("SELECT silver.mark_stale('t_1d', '2001-01-01', '2001-02-01')")
    writer = connect(autocommit=False)
    writer.execute("INSERT INTO raw.t VALUES ('2001-01-15 00:00+00', 1)")
    refresh_everything(db)
    assert_settled(db, "t_1d")
    writer.commit()
    assert_equal_to_group_by(db, "t_1d")
    refresh_everything(db)
    assert_settled(db, "t_1d")


def test_promise_a_a_large_table_is_looked_into(db: psycopg.Connection) -> None:
    """By its index, from one row to the next: first each cell, then ever longer time."""
    db.execute(
        "CREATE TABLE raw.t (ts date, v integer) PARTITION BY RANGE (ts);"
        " CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM (MINVALUE) TO ('2010-01-01');"
        " CREATE TABLE raw.t_2 PARTITION OF raw.t FOR VALUES FROM ('2010-01-01') TO (MAXVALUE);"
        " CREATE INDEX ON raw.t (ts);"
        " INSERT INTO raw.t SELECT date '2000-01-01' + 5 * d, d FROM generate_series(1, 400) AS d"
        " UNION ALL VALUES (date '0001-01-01', 1), ('9999-12-31', 2), ('infinity', 3);"
        " CREATE OR REPLACE FUNCTION rollup_engine.estimated_rows(p_relation regclass)"
        " RETURNS double precision LANGUAGE sql STABLE AS 'SELECT 2e6::float8'"
    )
    _create(db, "raw.t", "t_1m", "1 minute")
    assert _stale_ranges(db, "t_1m") <= 900
    db.execute("SELECT silver.mark_stale('raw.t', '-infinity', 'infinity')")
    assert_equal_to_group_by(db, "t_1m")
    db.execute(RUN)
    assert_settled(db, "t_1m")


def _create(connection: psycopg.Connection[Any], source: str, rollup: str, width: str) -> None:
    connection.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, %s)", [source, rollup, width]
    )


def _count(connection: psycopg.Connection[Any], query: str, rollup: str) -> int:
    row = connection.execute(query.encode(), [f"silver.{rollup}"]).fetchone()
    assert row
    return int(row[0])


def _stale_ranges(connection: psycopg.Connection[Any], rollup: str) -> int:
    return _count(
        connection,
        "SELECT count(*) FROM rollup_engine.stale_range AS s JOIN silver.rollup_config AS r"
        " ON r.id = s.rollup_id WHERE r.target_table = %s::regclass",
        rollup,
    )


def _batches(connection: psycopg.Connection[Any], rollup: str) -> int:
    return _count(
        connection, "SELECT count(*) FROM silver.refresh_log WHERE target_table = %s", rollup
    )


def _partitions(connection: psycopg.Connection[Any], rollup: str) -> int:
    return _count(
        connection, "SELECT count(*) FROM pg_inherits WHERE inhparent = %s::regclass", rollup
    )


def _widest(connection: psycopg.Connection[Any], rollup: str) -> int:
    """In seconds."""
    return _count(
        connection,
        "SELECT extract(epoch FROM max(to_time - from_time))"
        " FROM rollup_engine.rollup_partition AS p JOIN silver.rollup_config AS r"
        " ON r.id = p.rollup_id WHERE r.target_table = %s::regclass",
        rollup,
    )


def test_partitions_that_a_plan_does_not_know_are_read_where_there_are_rows(
    db: psycopg.Connection,
) -> None:
    """They are wide where data is sparse; perform_rollup fills them before others know of them."""
    db.execute("CREATE TABLE raw.far (ts timestamptz, v integer)")
    db.execute(
        "INSERT INTO raw.far SELECT '1950-01-01'::timestamptz + n * interval '413 days', n"
        " FROM generate_series(1, 60) AS n"
    )
    db.execute("SELECT silver.create_rollup_table('raw.far', 'silver', 'far_1h', '1 hour')")
    db.execute("SELECT silver.perform_rollup()")
    row = db.execute(
        "SELECT rollup_engine.bucket_count('1 hour', rollup_engine.finite_stale_set(1, 0)),"
        " (SELECT count(*) FROM gold.far_1h)"
    ).fetchone()
    assert row
    assert row[0] <= 2 * 60
    assert row[1] == 60


def test_an_index_on_a_parent_is_none_of_what_inherits_from_it(db: psycopg.Connection) -> None:
    """Rows are looked for one by one only where each look is an index's."""
    db.execute("CREATE TABLE raw.i (ts timestamptz)")
    db.execute("CREATE INDEX ON raw.i (ts)")
    has_index = "SELECT rollup_engine.has_time_index('raw.i', 'ts')"
    assert db.execute(has_index).fetchone() == (True,)
    db.execute("CREATE TABLE raw.i_1 () INHERITS (raw.i)")
    assert db.execute(has_index).fetchone() == (False,)
    db.execute("CREATE INDEX ON raw.i_1 (ts)")
    assert db.execute(has_index).fetchone() == (True,)
