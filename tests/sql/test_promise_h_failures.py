"""Promise h: a failing rollup stops no other, its error is on record, it is retried and parked."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from raw_tables import LEVELS, create_hierarchy
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

# The hours cannot be stored; the minutes before them and another source can.
BROKEN = """
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'no room for %', NEW.device USING
            ERRCODE = 'TE123', DETAIL = 'the detail', HINT = 'the hint';
    END
    $$;
    CREATE TRIGGER refuse BEFORE INSERT ON silver.readings_1h
        FOR EACH ROW EXECUTE FUNCTION public.refuse();
    CREATE TABLE raw.other (ts timestamptz, v integer);
    INSERT INTO raw.other VALUES ('2026-03-01', 1);
    SELECT silver.create_rollup_table('raw.other', 'silver', 'other_1h', '1 hour');
"""
PERFORM = "SELECT target, status FROM silver.perform_rollup(%s, as_of => 'infinity')"


@pytest.fixture
def broken(db: psycopg.Connection) -> psycopg.Connection:
    create_hierarchy(db)
    db.execute(BROKEN.encode())
    return db


def _config(connection: psycopg.Connection[Any], columns: str) -> tuple[Any, ...]:
    row = connection.execute(
        f"SELECT {columns} FROM silver.rollup_config"
        " WHERE target_table = 'silver.readings_1h'::regclass".encode()
    ).fetchone()
    assert row
    return tuple(row)


def test_promise_h_the_others_go_on(broken: psycopg.Connection) -> None:
    assert dict(broken.execute(PERFORM, [None]).fetchall()) == {
        "silver.readings_1m": "ok",
        "silver.readings_1h": "failed",
        "silver.readings_1d": "waiting_for_parent",
        "silver.other_1h": "ok",
    }
    assert_settled(broken, "readings_1m", "other_1h")
    assert_equal_to_group_by(broken, *LEVELS)
    row = broken.execute(
        "SELECT target_table, error_code, error_message, detail, hint, attempt,"
        " context LIKE '%%refresh_cell%%', attempted_query LIKE '%%GROUP BY%%',"
        " occurred_at IS NOT NULL FROM silver.error_log"
    ).fetchall()
    told = ("silver.readings_1h", "TE123", "no room for", "the detail", "the hint", 1)
    assert [(*x[:2], x[2][:11], *x[3:]) for x in row] == [(*told, True, True, True)]


def test_promise_h_a_run_goes_on_with_the_others(broken: psycopg.Connection) -> None:
    notices: list[tuple[str | None, str | None, str | None]] = []
    broken.add_notice_handler(
        lambda x: notices.append((x.severity_nonlocalized, x.sqlstate, x.message_primary))
    )
    broken.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert [(s, c) for s, c, _ in notices] == [("WARNING", "TE123")]
    assert "silver.readings_1h" in (notices[0][2] or "")
    assert_settled(broken, "readings_1m", "other_1h")
    assert_equal_to_group_by(broken, *LEVELS)


def test_promise_h_backoff_parking_and_the_way_back(broken: psycopg.Connection) -> None:
    broken.execute(PERFORM, ["readings_1m"])
    for attempt in range(1, 11):
        broken.execute(PERFORM, ["readings_1h"])
        delay, retries, status = _config(
            broken,
            "extract(epoch FROM next_retry_at - last_run_at)::float8, retry_count, status",
        )
        longest = min(30 * 2 ** (attempt - 1), 3600)
        assert 0.79 * longest <= delay <= 1.001 * longest
        assert (retries, status) == (attempt, "parked" if attempt == 10 else "retrying")
        before = broken.execute("SELECT count(*) FROM silver.error_log").fetchone()
        assert before == (attempt,)
        statuses: dict[str, str] = dict(broken.execute(PERFORM, [None]).fetchall())
        assert statuses["silver.readings_1h"] == status
        assert broken.execute("SELECT * FROM silver.handle_rollup_retries()").fetchall() == []
        assert broken.execute("SELECT count(*) FROM silver.error_log").fetchone() == before
        assert_equal_to_group_by(broken, *LEVELS)
    assert broken.execute(PERFORM, ["readings_1h"]).fetchall() == [("silver.readings_1h", "parked")]
    broken.execute("DROP TRIGGER refuse ON silver.readings_1h")
    broken.execute("SELECT silver.reset_rollup_retry('readings_1h')")
    assert _config(broken, "retry_count, next_retry_at, parked_at, status") == (
        (0, None, None, "active")
    )
    refresh_everything(broken)
    assert_settled(broken, *LEVELS)


def test_promise_h_retried_when_its_time_has_come(broken: psycopg.Connection) -> None:
    broken.execute(PERFORM, [None])
    broken.execute("DROP TRIGGER refuse ON silver.readings_1h")
    assert broken.execute("SELECT * FROM silver.handle_rollup_retries()").fetchall() == []
    broken.execute(
        "UPDATE silver.rollup_config SET next_retry_at = '-infinity' WHERE retry_count > 0"
    )
    rows = broken.execute("SELECT target, status FROM silver.handle_rollup_retries()").fetchall()
    assert rows == [("silver.readings_1h", "ok")]
    assert _config(broken, "retry_count, next_retry_at, status") == (0, None, "active")
    refresh_everything(broken)
    assert_settled(broken, *LEVELS)


def test_promise_h_what_fails_halfway_is_undone(broken: psycopg.Connection) -> None:
    """The statement fails at its third row; the batch leaves nothing, and stays stale."""
    broken.execute("DROP TRIGGER refuse ON silver.readings_1h")
    refresh_everything(broken)
    broken.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON silver.readings_1m FOR EACH ROW"
        " WHEN (NEW.device = 'new') EXECUTE FUNCTION public.refuse()"
    )
    broken.execute("UPDATE raw.readings SET count = 9")
    broken.execute("INSERT INTO raw.readings (ts, device) VALUES ('2026-03-01 22:00+00', 'new')")
    versions = broken.execute("SELECT tableoid, ctid, xmin FROM silver.readings_1m").fetchall()
    broken.execute("CALL silver.run_rollups(as_of => 'infinity')")
    after = broken.execute("SELECT tableoid, ctid, xmin FROM silver.readings_1m").fetchall()
    assert set(after) & set(versions)
    assert_equal_to_group_by(broken, *LEVELS)
    broken.execute("DROP TRIGGER refuse ON silver.readings_1m")
    broken.execute("SELECT silver.reset_rollup_retry('readings_1m')")
    refresh_everything(broken)
    assert_settled(broken, *LEVELS)


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE raw.readings CASCADE",
        "ALTER TABLE raw.readings DROP COLUMN level",
        "ALTER TABLE raw.readings RENAME device TO gadget",
        "DROP TABLE silver.readings_1m CASCADE",
        "DROP VIEW gold.readings_1m CASCADE",
        "REVOKE ALL ON raw.readings FROM tsrollup_owner",
        "ALTER TABLE raw.readings RENAME ts TO at; CREATE TABLE raw.readings_3 PARTITION OF"
        " raw.readings FOR VALUES FROM ('2026-03-03 00:00+00') TO ('2026-03-04 00:00+00')",
    ],
)
def test_promise_h_a_damaged_source_stops_no_other(broken: psycopg.Connection, damage: str) -> None:
    broken.execute("DROP TRIGGER refuse ON silver.readings_1h")
    broken.execute(damage.encode())
    broken.execute("INSERT INTO raw.other VALUES ('2026-03-02', 1)")
    broken.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert_settled(broken, "other_1h")
    broken.execute("SELECT * FROM silver.perform_rollup()")
    broken.execute("SELECT * FROM silver.timeseries_operations_monitor")
    problems = broken.execute(
        "SELECT DISTINCT target FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()
    assert problems, "nobody is told"
    for number in (3, 2, 1):
        broken.execute(
            "SELECT silver.drop_rollup(target_table::text) FROM silver.rollup_config WHERE id = %s",
            [number],
        )
    assert_settled(broken, "other_1h")


def test_paused_rollups_stay_exact(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    create_hierarchy(db)
    db.execute("SELECT silver.pause_rollup('readings_1m')")
    db.execute("UPDATE raw.readings SET count = 4 WHERE device = 'd0'")
    statuses = db.execute(
        "SELECT status, rows_written FROM silver.perform_rollup(as_of => 'infinity')"
    ).fetchall()
    assert statuses == [("paused", 0), ("waiting_for_parent", 0), ("waiting_for_parent", 0)]
    assert_equal_to_group_by(connect(), *LEVELS)
    db.execute("SELECT silver.resume_rollup('gold.readings_1m')")
    refresh_everything(db)
    assert_settled(db, *LEVELS)
