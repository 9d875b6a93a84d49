"""Promises b and g with window tracking: absorbed is what a run has read, not what lies behind the
window; and what lies ahead of now is in the window as well."""

from typing import Any

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by, force_configuration


@pytest.fixture
def windowed(db: psycopg.Connection) -> psycopg.Connection:
    """Partitions of a day until tomorrow; an hourly rollup that reads its last day again, and a
    daily one of that. The last run is eight days ago."""
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.w (ts timestamptz, v int) PARTITION BY RANGE (ts)")
    db.execute(
        """
        DO $$ BEGIN
            FOR n IN -8..1 LOOP
                EXECUTE format(
                    'CREATE TABLE raw.w_%s PARTITION OF raw.w FOR VALUES FROM (%L) TO (%L)',
                    n + 8, current_date + n, current_date + n + 1);
            END LOOP;
        END $$
        """
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'w_1h', '1 hour',"
        " change_tracking => 'window', look_back_window => '1 day')"
    )
    db.execute("SELECT silver.create_rollup_table('w_1h', 'silver', 'w_1d', '1 day')")
    db.execute("CALL silver.run_rollups(as_of => now() - interval '8 days')")
    db.execute("UPDATE rollup_engine.source SET window_read_at = now() - interval '8 days'")
    return db


def write_a_week(db: psycopg.Connection[Any]) -> None:
    db.execute(
        "INSERT INTO raw.w SELECT date_trunc('hour', now()) - n * interval '1 hour', n"
        " FROM generate_series(1, 24 * 7) AS n"
    )


def maintain(db: psycopg.Connection[Any]) -> list[str]:
    rows = db.execute("SELECT action, detail FROM silver.maintain_timeseries_tables()").fetchall()
    assert not [row for row in rows if row[0] == "failed"], rows
    return [row[0] for row in rows if row[0] in ("sealed", "dropped", "deleted")]


def total(db: psycopg.Connection[Any], relation: str = "gold.w_1h") -> int:
    row = db.execute(f"SELECT coalesce(sum(row_count), 0) FROM {relation}".encode()).fetchone()
    assert row
    return int(row[0])


def test_promise_g_after_an_outage_the_next_run_reads_from_where_the_last_one_stopped(
    windowed: psycopg.Connection,
) -> None:
    windowed.execute("SELECT silver.set_retention('raw.w', '3 days')")
    write_a_week(windowed)
    assert maintain(windowed) == maintain(windowed) == []
    assert_equal_to_group_by(windowed, "w_1h", "w_1d")
    windowed.execute("CALL silver.run_rollups()")
    assert total(windowed, "silver.w_1h") >= 167  # the hour that is not over is live
    assert_equal_to_group_by(windowed, "w_1h", "w_1d")
    assert maintain(windowed) == ["sealed"]
    assert "dropped" in maintain(windowed)
    assert total(windowed) == total(windowed, "gold.w_1d") == 168
    assert_equal_to_group_by(windowed, "w_1h")


@pytest.mark.parametrize("obstacle", ["paused", "parked"])
def test_promise_g_a_rollup_that_does_not_run_absorbs_nothing(
    windowed: psycopg.Connection, obstacle: str
) -> None:
    windowed.execute("SELECT silver.set_retention('raw.w', '3 days')")
    if obstacle == "paused":
        windowed.execute("SELECT silver.pause_rollup('w_1h')")
    else:
        windowed.execute("UPDATE silver.rollup_config SET retry_count = 10, parked_at = now()")
    write_a_week(windowed)
    windowed.execute("CALL silver.run_rollups()")
    assert maintain(windowed) == maintain(windowed) == []
    assert_equal_to_group_by(windowed, "w_1h", "w_1d")


def test_promise_g_nothing_is_kept_for_less_than_it_is_read_again(
    windowed: psycopg.Connection,
) -> None:
    for name in ("raw.w", "w_1h"):
        with pytest.raises(psycopg.Error, match="read again for 1 day") as error:
            windowed.execute("SELECT silver.set_retention(%s, '5 hours')", [name])
        assert error.value.diag.message_hint
        assert "set_retention" in error.value.diag.message_hint
    windowed.execute("SELECT silver.set_retention('w_1d', '5 hours')")  # nobody reads it
    windowed.execute("SELECT silver.set_retention('raw.w', '3 days')")
    windowed.execute("SELECT silver.set_retention('w_1h', '3 days')")
    with pytest.raises(
        psycopg.Error, match=r"raw\.w is kept for 3 days, and read again for 4 days"
    ):
        windowed.execute(
            "SELECT silver.create_rollup_table('raw.w', 'silver', 'long', '1 hour',"
            " change_tracking => 'window', look_back_window => '4 days')"
        )
    force_configuration(windowed, "look_back_window = '4 days' WHERE depth = 0")
    problems = windowed.execute(
        "SELECT target, problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
        " ORDER BY 1, problem LIKE '%not valid%'"
    ).fetchall()
    assert problems == [
        ("silver.w_1d", "silver.w_1h is kept for 3 days, and read again for 4 days"),
        (
            "silver.w_1d",
            "silver.w_1h, which it reads, is not valid: raw.w is kept for 3 days,"
            " and read again for 4 days",
        ),
        ("silver.w_1h", "raw.w is kept for 3 days, and read again for 4 days"),
    ]


def test_what_is_kept_too_short_for_one_rollup_is_long_enough_for_another(
    windowed: psycopg.Connection,
) -> None:
    """Each has a window of its own."""
    windowed.execute(
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'long', '1 hour',"
        " change_tracking => 'window', look_back_window => '2 days')"
    )
    windowed.execute("SELECT silver.set_retention('raw.w', '3 days')")
    force_configuration(windowed, "look_back_window = '4 days' WHERE target_name ~ 'long'")
    told = windowed.execute(
        "SELECT target, problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()
    assert told == [("silver.long", "raw.w is kept for 3 days, and read again for 4 days")]


def test_a_partition_of_a_window_source_that_is_made_anew_brings_no_late_rows(
    db: psycopg.Connection,
) -> None:
    """History that was there before, too; nobody knows which rows are new."""
    db.execute(
        "CREATE TABLE raw.p (ts timestamptz, v integer) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.p_1 PARTITION OF raw.p"
        " FOR VALUES FROM ('2000-01-01') TO ('2100-01-01');"
        "INSERT INTO raw.p SELECT now() - n * interval '1 hour', 1 FROM generate_series(1, 300) n;"
        "SELECT silver.create_rollup_table('raw.p', 'silver', 'p_1h', '1 hour',"
        " change_tracking => 'window', look_back_window => '1 day')"
    )
    db.execute("CALL silver.run_rollups()")
    db.execute("SELECT silver.set_retention('p_1h', '5 days')")
    assert "sealed" in maintain(db)
    db.execute(
        "ALTER TABLE raw.p DETACH PARTITION raw.p_1; ALTER TABLE raw.p ATTACH PARTITION raw.p_1"
        " FOR VALUES FROM ('1990-01-01') TO ('2101-01-01')"
    )
    db.execute("CALL silver.run_rollups()")
    assert db.execute("SELECT sealed_late_rows FROM silver.rollup_config").fetchall() == [(0,)]
    assert db.execute("SELECT FROM silver.error_log").fetchall() == []


def test_promise_g_no_rollup_is_sealed_inside_the_window_of_its_readers(
    windowed: psycopg.Connection,
) -> None:
    write_a_week(windowed)
    windowed.execute("CALL silver.run_rollups()")
    windowed.execute("SELECT silver.set_retention('w_1h', '1 day')")
    windowed.execute("UPDATE silver.rollup_config SET look_back_window = '3 days' WHERE depth = 0")
    assert "sealed" in maintain(windowed)
    maintain(windowed)
    windowed.execute("INSERT INTO raw.w SELECT now() - interval '50 hours', 1000")
    windowed.execute("CALL silver.run_rollups()")
    assert total(windowed, "gold.w_1d") == 169


def test_promise_b_a_window_ends_nowhere(windowed: psycopg.Connection) -> None:
    windowed.execute("CREATE TABLE raw.w_ahead PARTITION OF raw.w DEFAULT")
    write_a_week(windowed)
    for ahead in ("5 seconds", "2 hours", "300 days", "7000 years"):
        windowed.execute("INSERT INTO raw.w SELECT now() + %s::interval, 1", [ahead])
        assert_equal_to_group_by(windowed, "w_1h", "w_1d")
    windowed.execute("CALL silver.run_rollups()")
    assert_equal_to_group_by(windowed, "w_1h", "w_1d")
    windowed.execute("UPDATE silver.rollup_config SET source_rows = 1e9")  # bucket by bucket
    assert_equal_to_group_by(windowed, "w_1h", "w_1d")
    windowed.execute("UPDATE raw.w SET v = 2 WHERE ts > now()")
    windowed.execute("CALL silver.run_rollups(as_of => 'infinity')")
    windowed.execute("UPDATE raw.w SET v = 3 WHERE ts > now()")
    assert_equal_to_group_by(windowed, "w_1h", "w_1d")


def test_promise_b_the_calendar_ends_inside_the_last_bucket(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.w (ts timestamptz, v integer);"
        "INSERT INTO raw.w VALUES (now(), 1), ('9999-12-20', 2), ('9999-12-31 23:59:59+00', 3);"
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'w', '30 days',"
        " change_tracking => 'window', look_back_window => '100 years')"
    )
    assert_equal_to_group_by(db, "w")
    db.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert_equal_to_group_by(db, "w")


@pytest.mark.parametrize(
    "done",
    [
        "INSERT INTO silver.w_1h (bucket, row_count) VALUES (now() - interval '6 days', 9)",
        "ALTER TABLE silver.w_1h DISABLE TRIGGER ALL",
        "ALTER TABLE raw.w ALTER v TYPE int USING v + 1",
    ],
)
def test_promise_g_what_the_source_need_not_hold_any_more_is_not_computed_anew(
    windowed: psycopg.Connection, done: str
) -> None:
    """Sources with windows trim themselves; the rollup's rows from before are all there is."""
    write_a_week(windowed)
    windowed.execute("CALL silver.run_rollups()")
    windowed.execute("DELETE FROM raw.w WHERE ts < now() - interval '3 days'")
    windowed.execute("CALL silver.run_rollups()")
    count = "SELECT sum(row_count) FROM gold.w_1h WHERE row_count <> 9"
    assert windowed.execute(count).fetchone() == (24 * 7,)
    windowed.execute(done.encode())
    assert windowed.execute(count).fetchone() == (24 * 7,)
    windowed.execute("CALL silver.run_rollups()")
    assert windowed.execute(count).fetchone() == (24 * 7,)
    health = "SELECT health FROM silver.timeseries_operations_monitor ORDER BY 1"
    assert ("invalid",) not in windowed.execute(health).fetchall()


@pytest.mark.parametrize(
    "done",
    [
        "SELECT silver.add_rollup_metric('w_1h', '{\"v\": [\"avg\"]}')",
        "ALTER TABLE raw.w ALTER v TYPE bigint; SELECT silver.rebuild_rollup('silver.w_1h')",
        "DROP TABLE raw.w_0, raw.w_1, raw.w_2",
        "ALTER TABLE raw.w DETACH PARTITION raw.w_1",
    ],
)
def test_promise_g_history_from_before_the_window_stays(
    windowed: psycopg.Connection, done: str
) -> None:
    write_a_week(windowed)
    windowed.execute("CALL silver.run_rollups()")
    windowed.execute("DELETE FROM raw.w WHERE ts < now() - interval '3 days'")
    windowed.execute(done.encode())
    for _ in range(2):
        assert [total(windowed, f"gold.{name}") for name in ("w_1h", "w_1d")] == [24 * 7, 24 * 7]
        windowed.execute("CALL silver.run_rollups()")
    windowed.execute("SELECT silver.mark_stale('w_1h', '-infinity', 'infinity')")
    assert total(windowed) < 24 * 7  # who asks for it gets what the source still holds


def test_promise_g_history_outlives_a_view_that_is_made_anew(db: psycopg.Connection) -> None:
    """As foreign tables are, whenever what they stand for gets another shape."""
    view = "CREATE VIEW raw.seen AS SELECT * FROM raw.w; GRANT SELECT ON raw.seen TO tsrollup_owner"
    db.execute("CREATE TABLE raw.w (ts timestamptz, v int)")
    db.execute(view.encode())
    write_a_week(db)
    db.execute(
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'w_1h', '1 hour',"
        " time_column => 'ts', change_tracking => 'window', look_back_window => '1 day')"
    )
    db.execute("CALL silver.run_rollups()")
    db.execute("DELETE FROM raw.w WHERE ts < now() - interval '3 days'")
    db.execute("DROP VIEW raw.seen")
    db.execute(view.encode())
    db.execute("CALL silver.run_rollups()")
    assert total(db) == 24 * 7
    assert db.execute("SELECT error_code FROM silver.error_log").fetchall() == []


def test_promise_g_partitions_of_a_rollup_that_are_gone_are_filled_from_the_source(
    windowed: psycopg.Connection,
) -> None:
    write_a_week(windowed)
    windowed.execute("CALL silver.run_rollups()")
    partitions = "SELECT string_agg(inhrelid::regclass::text, ', ') FROM pg_inherits"
    of_rollup = f"{partitions} WHERE inhparent = 'silver.w_1h'::regclass"
    (names,) = windowed.execute(of_rollup.encode()).fetchone() or ("",)
    windowed.execute(f"DROP TABLE {names}".encode())
    windowed.execute("CALL silver.run_rollups()")
    assert total(windowed) == 24 * 7
    assert_equal_to_group_by(windowed, "w_1h")
    codes = windowed.execute("SELECT DISTINCT error_code FROM silver.error_log").fetchall()
    assert codes == [("TR007",)]


def test_promise_g_no_run_takes_back_what_another_has_read(windowed: psycopg.Connection) -> None:
    write_a_week(windowed)
    windowed.execute("CALL silver.run_rollups()")
    windowed.execute("DELETE FROM raw.w WHERE ts < now() - interval '3 days'")
    past = "now() - interval '30 days'"
    windowed.execute(f"SELECT silver.perform_rollup('w_1h', as_of => {past})".encode())
    windowed.execute(f"CALL silver.run_rollups(as_of => {past})".encode())
    assert total(windowed) == 24 * 7
    windowed.execute("CALL silver.run_rollups()")
    assert total(windowed) == 24 * 7


def test_promise_g_every_rollup_of_a_source_has_a_window_of_its_own(
    windowed: psycopg.Connection,
) -> None:
    write_a_week(windowed)
    windowed.execute("CALL silver.run_rollups()")
    windowed.execute("DELETE FROM raw.w WHERE ts < now() - interval '3 days'")
    windowed.execute("CALL silver.run_rollups()")
    windowed.execute(
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'long_1h', '1 hour',"
        " change_tracking => 'window', look_back_window => '20 days')"
    )
    for _ in range(2):
        assert [total(windowed, f"gold.{name}") for name in ("w_1h", "w_1d")] == [24 * 7, 24 * 7]
        assert_equal_to_group_by(windowed, "long_1h")
        windowed.execute("CALL silver.run_rollups()")
    windowed.execute("UPDATE raw.w SET v = v + 1")
    assert_equal_to_group_by(windowed, "long_1h")
    assert total(windowed) == 24 * 7


def test_promise_g_a_look_back_that_is_taken_away_is_none(windowed: psycopg.Connection) -> None:
    write_a_week(windowed)
    windowed.execute("CALL silver.run_rollups()")
    windowed.execute("DELETE FROM raw.w WHERE ts < now() - interval '3 days'")
    force_configuration(windowed, "look_back_window = NULL")
    for _ in range(2):
        assert total(windowed) == 24 * 7
        windowed.execute("CALL silver.run_rollups()")


def test_what_a_run_has_just_read_lags_not(windowed: psycopg.Connection) -> None:
    def monitored() -> set[tuple[Any, ...]]:
        return set(
            windowed.execute(
                "SELECT health, lag > '0', stale_since IS NOT NULL, stale_buckets > 0"
                " FROM silver.timeseries_operations_monitor"
            )
        )

    write_a_week(windowed)
    assert ("lagging", True, True, True) in monitored()
    windowed.execute("CALL silver.run_rollups()")
    assert monitored() == {("ok", False, False, True)}
    windowed.execute("UPDATE rollup_engine.source SET window_read_at = now() - interval '2 min'")
    assert ("lagging", True, True, True) in monitored()
    windowed.execute("CALL silver.run_rollups()")
    windowed.execute("SELECT silver.mark_stale('raw.w', now() - '5 days'::interval, now())")
    assert ("lagging", True, True, True) in monitored()


def test_promise_f_marks_in_sealed_time_of_a_view(db: psycopg.Connection) -> None:
    """It has no rows of known writers to count."""
    db.execute("CREATE TABLE raw.w (ts timestamptz, v int)")
    db.execute("CREATE VIEW raw.seen AS SELECT * FROM raw.w")
    db.execute("GRANT SELECT ON raw.seen TO tsrollup_owner")
    write_a_week(db)
    db.execute(
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'w_1h', '1 hour',"
        " time_column => 'ts', change_tracking => 'window', look_back_window => '1 day')"
    )
    db.execute("CALL silver.run_rollups()")
    force_configuration(db, "sealed_before = date_trunc('day', now()) - '3d'::interval")
    db.execute("SELECT silver.mark_stale('raw.seen', '-infinity', 'infinity')")
    assert db.execute("SELECT status FROM silver.perform_rollup()").fetchall() == [("ok",)]
