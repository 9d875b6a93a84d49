"""The monitor tells for how long changes wait, which is not how old the time is that they touch,
and what is being refreshed now; and for each health where it comes from and what to do."""

from typing import Any

import psycopg
import pytest

from conftest import Connect
from interleaving import Paused, pause_refreshes_of
from rollup_checks import assert_settled

SINCE = "SELECT stale_since FROM silver.timeseries_operations_monitor"
RUN = "CALL silver.run_rollups()"
LATE = "INSERT INTO raw.readings VALUES (now() - interval '30 hours', 1)"


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row
    return row[0]


@pytest.fixture
def hourly(db: psycopg.Connection) -> psycopg.Connection:
    """Rows of two days up to now, rolled up by the hour and stored, but for the open hour."""
    db.execute("CREATE TABLE raw.readings (ts timestamptz, v integer)")
    db.execute(
        "INSERT INTO raw.readings SELECT t, 1"
        " FROM generate_series(now() - interval '2 days', now(), '10 minutes') AS t"
    )
    db.execute("SELECT silver.create_rollup_table('raw.readings', 'silver', 'hourly', '1 hour')")
    db.execute(RUN)
    return db


def test_what_has_not_settled_waits_for_nothing(hourly: psycopg.Connection) -> None:
    assert one(hourly, "SELECT stale_buckets FROM silver.timeseries_operations_monitor") > 0
    assert one(hourly, SINCE) is None


def test_a_late_row_waits_since_it_came_until_it_is_stored(hourly: psycopg.Connection) -> None:
    before = one(hourly, "SELECT clock_timestamp()")
    hourly.execute(LATE)
    came = one(hourly, "SELECT clock_timestamp()")
    assert before <= one(hourly, SINCE) <= came
    hourly.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    assert one(hourly, "SELECT count(*) FROM rollup_engine.change_log") == 0
    assert before <= one(hourly, SINCE) <= came
    hourly.execute(LATE.replace("30", "29"))
    assert before <= one(hourly, SINCE) <= came
    hourly.execute(RUN)
    assert one(hourly, SINCE) is None


def test_late_rows_now_and_then_wait_for_moments_only(hourly: psycopg.Connection) -> None:
    """The open hour, noted long ago, lies in one stale range with a late row beside it."""
    hourly.execute("UPDATE rollup_engine.stale_range SET due_at = due_at")
    hourly.execute(
        "INSERT INTO raw.readings VALUES (silver.time_bucket('1 hour', now()) - interval '1 s', 1)"
    )
    came = one(hourly, "SELECT clock_timestamp()")
    hourly.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    assert one(hourly, "SELECT count(*) FROM rollup_engine.stale_range") == 1
    since = one(hourly, SINCE)
    # In the first minute of an hour the one before has not settled.
    assert since is None or (came - since).total_seconds() < 10
    hourly.execute(RUN)
    assert one(hourly, SINCE) is None


def test_what_was_left_of_a_range_keeps_its_time(hourly: psycopg.Connection) -> None:
    hourly.execute("SELECT silver.mark_stale('hourly', now() - interval '2 days', now())")
    since = one(hourly, SINCE)
    hourly.execute("UPDATE silver.rollup_config SET current_window = '3 hours'")
    hourly.execute("SELECT silver.perform_rollup(max_batches => 1)")
    assert one(hourly, SINCE) == since


def test_a_bucket_waits_from_when_it_had_settled(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.readings (ts timestamptz, v integer)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'minutes', '1 second',"
        " settle_delay => '0.5 seconds')"
    )
    db.execute("INSERT INTO raw.readings VALUES (date_trunc('second', now()), 1)")
    db.execute("SELECT pg_sleep(1.6)")
    settled = one(db, "SELECT max(ts) + interval '1.5 seconds' FROM raw.readings")
    assert one(db, SINCE) == settled
    db.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    assert one(db, SINCE) == settled
    db.execute(RUN)
    assert_settled(db, "minutes")


def test_everything_waits_since_a_truncate(hourly: psycopg.Connection) -> None:
    before = one(hourly, "SELECT clock_timestamp()")
    hourly.execute("TRUNCATE raw.readings")
    assert one(hourly, SINCE) >= before


def test_a_window_waits_when_no_run_reads_it(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.readings (ts timestamptz, v integer)")
    db.execute("INSERT INTO raw.readings VALUES (now() - interval '2 hours', 1)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'hourly', '1 hour',"
        " change_tracking => 'window', look_back_window => '1 day')"
    )
    db.execute(RUN)
    assert one(db, SINCE) is None
    db.execute("UPDATE rollup_engine.source SET window_read_at = now() - interval '1 hour'")
    assert one(db, f"SELECT now() - ({SINCE}) > interval '50 minutes'")


def test_a_batch_is_seen_while_it_runs(hourly: psycopg.Connection, connect: Connect) -> None:
    pid = "SELECT running_pid FROM silver.timeseries_operations_monitor"
    since = "SELECT running_since FROM silver.timeseries_operations_monitor"
    worker = connect()
    pause_refreshes_of(hourly, "silver.hourly")
    hourly.execute(LATE)
    assert one(hourly, pid) is None
    before = one(hourly, "SELECT clock_timestamp()")
    with Paused(connect(), worker, RUN):
        assert one(hourly, pid) == worker.info.backend_pid
        assert before <= one(hourly, since) <= one(hourly, "SELECT clock_timestamp()")
    assert one(hourly, pid) is None


def reasons(connection: psycopg.Connection[Any]) -> tuple[Any, ...]:
    row = connection.execute(
        "SELECT health, reason, next_step FROM silver.timeseries_operations_monitor"
    ).fetchone()
    assert row
    return tuple(row)


def test_each_health_says_where_it_comes_from_and_what_to_do(hourly: psycopg.Connection) -> None:
    assert reasons(hourly) == ("ok", None, None)
    hourly.execute(LATE)
    health, reason, step = reasons(hourly)
    assert health == "lagging"
    assert "a batch last ran" in reason
    assert "tsrollup worker" in step
    hourly.execute("SELECT silver.create_rollup_table('raw.readings', 'silver', 'fresh', '1 h')")
    query = "SELECT reason FROM silver.timeseries_operations_monitor WHERE target_table = %s"
    never = hourly.execute(query, ["silver.fresh"]).fetchone()
    assert never == ("settled buckets are stale; no batch has run yet",)
    hourly.execute("SELECT silver.drop_rollup('fresh')")
    hourly.execute("SELECT silver.pause_rollup('hourly')")
    health, reason, step = reasons(hourly)
    assert (health, step) == ("paused", "SELECT silver.resume_rollup('silver.hourly')")
    hourly.execute(step.encode())
    hourly.execute("ALTER TABLE silver.hourly ADD CHECK (v_sum < 0) NOT VALID")
    for _ in range(2):
        hourly.execute("SELECT silver.perform_rollup('hourly')")
    health, reason, step = reasons(hourly)
    assert health == "retrying"
    assert "23514" in reason
    assert "SELECT silver.reset_rollup_retry('silver.hourly')" in step
    hourly.execute("UPDATE silver.rollup_config SET retry_count = 10, parked_at = now()")
    health, reason, step = reasons(hourly)
    assert health == "parked"
    assert "10 failures in a row; the last: 23514" in reason
    assert step.endswith("then SELECT silver.reset_rollup_retry('silver.hourly')")
