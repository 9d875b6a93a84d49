"""What a run takes up: settled buckets, newest first, in batches; and what it reports."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from raw_tables import LEVELS, create_hierarchy
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer

Connect = Callable[..., psycopg.Connection[Any]]


def test_open_buckets_are_stored_once_they_have_settled(db: psycopg.Connection) -> None:
    create_hierarchy(db)
    db.execute("UPDATE silver.rollup_config SET settle_delay = '10 minutes'")
    for now, minutes, hours, days in (
        ("2026-03-01 21:09:59+00", 0, 0, 0),
        ("2026-03-01 21:11:00+00", 1, 0, 0),
        ("2026-03-01 22:09:00+00", 59, 0, 0),
        ("2026-03-01 22:10:00+00", 60, 1, 0),
        ("2026-03-02 00:09:59+00", 179, 2, 0),
        ("2026-03-02 00:10:00+00", 180, 3, 1),
    ):
        db.execute("SELECT * FROM silver.perform_rollup(as_of => %s)", [now])
        db.execute("CALL silver.run_rollups(as_of => %s)", [now])
        assert_equal_to_group_by(db, *LEVELS)
        start = "bucket - timestamptz '2026-03-01 21:00+00'"
        assert db.execute(
            f"SELECT (SELECT coalesce(max(extract(epoch FROM {start}) / 60 + 1), 0)"
            " FROM silver.readings_1m) BETWEEN %s - 1 AND %s,"
            " (SELECT count(DISTINCT bucket) FROM silver.readings_1h),"
            " (SELECT count(DISTINCT bucket) FROM silver.readings_1d)".encode(),
            [minutes, minutes],
        ).fetchone() == (True, hours, days)


def test_newest_first_in_batches_of_the_window(db: psycopg.Connection) -> None:
    create_hierarchy(db)
    db.execute(
        "UPDATE silver.rollup_config SET processing_window = '1 hour', current_window = '1 hour'"
        " WHERE depth = 0"
    )
    for _ in range(10):
        row = db.execute(
            "SELECT status, buckets, ranges_left FROM"
            " silver.perform_rollup('readings_1m', max_batches => 1, as_of => 'infinity')"
        ).fetchone()
        assert row
        assert row[1] <= 60
        assert (row[0] == "ok") == (row[2] == 0)
        assert_equal_to_group_by(db, *LEVELS)
    times = db.execute("SELECT to_time FROM silver.refresh_log ORDER BY id").fetchall()
    assert len(times) > 3
    assert times == sorted(times, reverse=True)
    refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_a_batch_is_chosen_from_thousands_of_places(db: psycopg.Connection) -> None:
    """By a look at each: united one by one they would take half a minute."""
    create_hierarchy(db)
    db.execute("SET statement_timeout = '10s'")
    for window, chosen in (("1 year", 8000), ("90 minutes", 90)):
        assert db.execute(
            "SELECT n <@ m, (SELECT count(*) FROM unnest(n)), upper(n) = upper(m)"
            " FROM (SELECT range_agg(tstzrange(t, t + interval '1 minute')) FROM generate_series("
            "timestamptz '2026-01-01', '2026-01-01'::timestamptz + interval '15998 minutes',"
            " interval '2 minutes') AS t) AS s (m), silver.rollup_config AS r"
            " CROSS JOIN LATERAL rollup_engine.newest_part(r, m, %s) AS n"
            " WHERE r.target_table = 'silver.readings_1m'::regclass",
            [window],
        ).fetchone() == (True, chosen, True)


def test_thousands_of_places_are_cleared(db: psycopg.Connection) -> None:
    """What is left of each is worked out where anything is: for all of them it would take half a
    minute."""
    create_hierarchy(db)
    db.execute("DELETE FROM rollup_engine.stale_range")
    db.execute(
        "INSERT INTO rollup_engine.stale_range (rollup_id, cell, from_time, to_time)"
        " SELECT r.id, '2026-01-01', t, t + interval '1 minute' FROM silver.rollup_config AS r,"
        " generate_series(timestamptz '2026-01-01', '2026-01-01'::timestamptz"
        " + interval '49998 minutes', interval '2 minutes') AS t"
        " WHERE r.target_table = 'silver.readings_1m'::regclass"
    )
    db.execute("SET statement_timeout = '10s'")
    db.execute(
        "SELECT rollup_engine.clear_claimed(r, s.ids, s.done) FROM silver.rollup_config AS r,"
        " (SELECT array_agg(id) AS ids, range_agg(tstzrange(from_time, to_time))"
        " - '{[2026-01-01 01:00+00,2026-01-01 01:00:30+00)}' AS done"
        " FROM rollup_engine.stale_range) AS s"
        " WHERE r.target_table = 'silver.readings_1m'::regclass"
    )
    left = db.execute("SELECT from_time::text, to_time::text FROM rollup_engine.stale_range")
    assert left.fetchall() == [("2026-01-01 01:00:00+00", "2026-01-01 01:00:30+00")]


def test_a_run_names_its_target_in_three_ways(db: psycopg.Connection) -> None:
    create_hierarchy(db)
    db.execute('ALTER TABLE silver.readings_1d RENAME TO "Odd ""day"""')
    for number, target in enumerate(
        ("readings_1m", "gold.readings_1m", "silver.readings_1m", 'silver."Odd ""day"""')
    ):
        db.execute("UPDATE raw.readings SET count = %s", [number])
        db.execute("CALL silver.run_rollups(%s, as_of => 'infinity')", [target])
        row = db.execute(
            "SELECT count(*) FROM silver.perform_rollup(%s, as_of => 'infinity')", [target]
        ).fetchone()
        assert row == (1,)
    refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_refresh_rollup_brings_its_parents_up_to_date(db: psycopg.Connection) -> None:
    create_hierarchy(db)
    rows = db.execute(
        "SELECT target, status, ranges_left FROM"
        " silver.refresh_rollup('readings_1d', '2026-03-01 22:00', '2026-03-01 22:01')"
    ).fetchall()
    assert rows == [(f"silver.{level}", "ok", 0) for level in LEVELS]
    row = db.execute("SELECT count(*), min(bucket)::text FROM silver.readings_1d GROUP BY bucket")
    assert row.fetchall() == [(4, "2026-03-01 00:00:00+00")]
    assert_equal_to_group_by(db, *LEVELS)


def test_added_metrics_are_exact_at_once(db: psycopg.Connection) -> None:
    create_hierarchy(db)
    db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'lean_1h', '1 hour',"
        ' metrics => \'{"count": ["sum"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('lean_1h', 'silver', 'lean_1d', '1 day')")
    refresh_everything(db)
    for target in ("lean_1h", "lean_1d"):
        db.execute(
            "SELECT silver.add_rollup_metric(%s,"
            ' \'{"level": ["avg", "max"], "note": ["last"], "count": ["avg"]}\')',
            [target],
        )
        assert_equal_to_group_by(db, "lean_1h", "lean_1d")
    db.execute("UPDATE raw.readings SET level = 1 WHERE device = 'd1'")
    assert_equal_to_group_by(db, "lean_1h", "lean_1d")
    refresh_everything(db)
    assert_settled(db, "lean_1h", "lean_1d", *LEVELS)


def test_creating_again_and_dropping(db: psycopg.Connection) -> None:
    before = _leftovers(db)
    create_hierarchy(db)
    refresh_everything(db)
    again = db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1m', '2 minutes',"
        " if_not_exists => true) = 'silver.readings_1m'::regclass"
    ).fetchone()
    assert again == (True,)
    assert_settled(db, *LEVELS)
    db.execute("SELECT silver.drop_rollup('readings_1d', keep_table => true)")
    kept = db.execute("SELECT count(*) > 0 FROM silver.readings_1d").fetchone()
    assert kept == (True,)
    db.execute("DROP TABLE silver.readings_1d")
    db.execute("SELECT silver.drop_rollup('gold.readings_1h')")
    assert_settled(db, "readings_1m")
    db.execute("SELECT silver.drop_rollup('silver.readings_1m')")
    db.execute("UPDATE raw.readings SET ts = ts + interval '1 hour'")
    db.execute("DROP TABLE raw.readings")
    assert _leftovers(db) == before


def _leftovers(connection: psycopg.Connection[Any]) -> object:
    return connection.execute(
        "SELECT (SELECT array_agg(oid::regclass::text ORDER BY oid) FROM pg_class"
        "  WHERE relnamespace::regnamespace::text IN ('raw', 'silver', 'gold', 'rollup_engine')),"
        " (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_trigger),"
        " (SELECT count(*) FROM rollup_engine.change_log),"
        " (SELECT count(*) FROM rollup_engine.stale_range),"
        " (SELECT count(*) FROM rollup_engine.source),"
        " (SELECT count(*) FROM rollup_engine.rollup_column)"
    ).fetchone()


def test_promise_j_a_publication_of_all_tables_breaks_nothing(
    db: psycopg.Connection, connect: Connect, server: PostgresServer
) -> None:
    """It refuses updates and deletes of tables without a replica identity."""
    may = db.execute(
        "SELECT current_setting('wal_level') = 'logical'"
        " AND (SELECT rolsuper FROM pg_roles WHERE rolname = %s)",
        [server.superuser],
    ).fetchone()
    if may != (True,):
        pytest.skip("nobody here can publish all tables")
    publisher = connect(user=server.superuser)
    create_hierarchy(db)
    publisher.execute("ALTER TABLE raw.readings REPLICA IDENTITY FULL")
    for part in ("readings_1", "readings_2"):
        publisher.execute(f"ALTER TABLE raw.{part} REPLICA IDENTITY FULL".encode())
    publisher.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    refresh_everything(db)
    for change in (
        "UPDATE raw.readings SET count = 6",
        "DELETE FROM raw.readings WHERE device = 'd0'",
        "UPDATE raw.readings SET ts = ts + interval '5 hours'",
    ):
        db.execute(change.encode())
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
        assert_settled(db, *LEVELS)
    db.execute("SELECT silver.drop_rollup('readings_1d')")


def test_promise_a_window_tracking_is_exact_inside_its_window(db: psycopg.Connection) -> None:
    """A view has no triggers; what its window spans is read again on every run."""
    db.execute(
        "CREATE TABLE raw.hidden AS SELECT timestamptz '2020-01-01 00:00+00'"
        " + make_interval(mins => 7 * i) AS ts, 'd' || i % 3 AS device, i AS count"
        " FROM generate_series(0, 99) AS i"
    )
    db.execute("CREATE VIEW raw.seen AS SELECT * FROM raw.hidden")
    db.execute(
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'seen_1h', '1 hour',"
        " dimensions => '{device}', change_tracking => 'window',"
        " look_back_window => '25 years')"
    )
    for change in ("SELECT", "UPDATE raw.hidden SET count = 8", "DELETE FROM raw.hidden"):
        db.execute(change.encode())
        assert_equal_to_group_by(db, "seen_1h")
        db.execute("CALL silver.run_rollups('seen_1h')")
        assert_equal_to_group_by(db, "seen_1h")


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN; CALL silver.run_rollups()",
        "SELECT 1; CALL silver.run_rollups()",
        "DO $$ BEGIN BEGIN CALL silver.run_rollups();"
        " EXCEPTION WHEN division_by_zero THEN NULL; END; END $$",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; CALL silver.run_rollups()",
    ],
)
def test_a_run_inside_a_transaction_names_what_works_there(
    db: psycopg.Connection, statement: str
) -> None:
    create_hierarchy(db)
    with pytest.raises(psycopg.Error) as caught:
        db.execute(statement.encode())
    assert caught.value.sqlstate == "TR005"
    assert "silver.perform_rollup" in (caught.value.diag.message_hint or "")
    db.execute("ROLLBACK")
    db.execute("DO $$ BEGIN CALL silver.run_rollups(as_of => 'infinity'); END $$")
    assert_settled(db, *LEVELS)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_promise_c_a_run_sets_the_isolation_that_it_needs(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]], level: str
) -> None:
    create_hierarchy(db)
    db.execute(
        "CREATE FUNCTION public.check_level() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " ASSERT current_setting('transaction_isolation') = 'read committed'; RETURN NULL; END $$;"
        "CREATE TRIGGER check_level BEFORE INSERT ON silver.readings_1m"
        " EXECUTE FUNCTION public.check_level()"
    )
    session = connect()
    session.execute(f"SET default_transaction_isolation = '{level}'".encode())
    session.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert_settled(db, *LEVELS)
    with pytest.raises(psycopg.Error) as caught:
        session.execute("SELECT silver.perform_rollup()")
    assert caught.value.sqlstate == "TR005"
    assert "default_transaction_isolation" in (caught.value.diag.message_hint or "")


def test_a_budget_that_is_spent_before_anything_is_done(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz); INSERT INTO raw.t VALUES ('2026-01-01')")
    db.execute("SELECT silver.create_rollup_table('t', 'silver', 't_1h', '1 hour')")
    db.execute("CALL silver.run_rollups(time_budget => '1 microsecond')")
    assert db.execute("SELECT FROM silver.refresh_log").fetchall() == []
    refresh_everything(db)
    assert_settled(db, "t_1h")


def test_rows_of_a_source_are_estimated_again_while_batches_follow_each_other(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz)")
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    db.execute(
        "INSERT INTO raw.t SELECT now() - n * interval '1 hour' FROM generate_series(1, 50) n"
    )
    db.execute("ANALYZE raw.t")
    # As if the batch before this one was a moment ago, in the interval of ten seconds before.
    db.execute(
        "UPDATE silver.rollup_config"
        " SET last_success_at = date_bin('10 seconds', now(), 'epoch') - interval '1 microsecond'"
    )
    db.execute("CALL silver.run_rollups()")
    assert db.execute("SELECT source_rows FROM silver.rollup_config").fetchone() == (50,)
