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


def test_promise_h_failures_of_a_rollup_are_its_own(broken: psycopg.Connection) -> None:
    """Neither what merely happened to it, nor those of one that had its name, is why it is late."""
    broken.execute(PERFORM, [None])
    broken.execute(
        "INSERT INTO silver.error_log (target_table, error_code, error_message)"
        " VALUES ('silver.readings_1h', 'TR006', 'late rows were kept out')"
    )
    told = (
        "SELECT h.reason, m.last_error, m.success_rate"
        " FROM silver.timeseries_operations_monitor AS m"
        " JOIN silver.rollup_config AS r ON r.target_table::text = m.target_table,"
        " rollup_engine.explained_health(r, 'retrying') AS h"
        " WHERE m.target_table = 'silver.readings_1h'"
    )
    ((reason, last_error, rate),) = broken.execute(told).fetchall()
    assert (reason[:29], rate) == ("1 failure: TE123: no room for", 0)
    assert last_error == "TR006: late rows were kept out"
    for name in ("readings_1d", "readings_1h"):
        broken.execute("SELECT silver.drop_rollup(%s)", [name])
    broken.execute(
        "SELECT silver.create_rollup_table('readings_1m', 'silver', 'readings_1h', '1 hour')"
    )
    ((reason, *rest),) = broken.execute(told).fetchall()
    assert "TE123" not in reason
    assert rest == [None, None]


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
        "ALTER TABLE raw.readings ALTER device TYPE json USING to_json(device)",
        "DROP TABLE silver.readings_1m CASCADE",
        "DROP VIEW gold.readings_1m CASCADE",
        "REVOKE ALL ON raw.readings FROM tsrollup_owner",
        "ALTER TABLE raw.readings DROP COLUMN count; CREATE TABLE raw.readings_3 PARTITION OF"
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


POISON = {
    "an overflow": ("'2026-03-02 05:07:30+00', 'k', 1e308", "22003"),
    "a value that is too long for a key": (
        "'2026-03-02 05:07:30+00', (SELECT string_agg(md5(i::text), '')"
        " FROM generate_series(1, 200) AS i), 1",
        "54000",
    ),
}
WITH_ONE_BAD_BUCKET = """
    CREATE TABLE raw.p (ts timestamptz, k text, v double precision);
    INSERT INTO raw.p SELECT '2026-03-01'::timestamptz + make_interval(secs => 30 * i), 'k', i
    FROM generate_series(0, 5759) AS i;
    INSERT INTO raw.p SELECT {poison} FROM generate_series(1, 2);
    SELECT silver.create_rollup_table('raw.p', 'silver', 'p_1m', '1 minute', dimensions => '{{k}}');
    SELECT silver.create_rollup_table('p_1m', 'silver', 'p_1h', '1 hour', dimensions => '{{}}');
"""
MONITOR = (
    "SELECT target_table, health, stale_buckets FROM silver.timeseries_operations_monitor"
    " ORDER BY target_table"
)


def test_a_group_that_is_too_much_is_told_from_a_key_that_is_too_long(
    db: psycopg.Connection,
) -> None:
    """One takes over 1 GB."""
    db.execute(WITH_ONE_BAD_BUCKET.format(poison="'2026-03-02', 'k', 1").encode())
    hint = (
        "SELECT rollup_engine.failure_hint(r, ROW('54000', %s, NULL, NULL, NULL))"
        " FROM silver.rollup_config AS r WHERE target_name = 'silver.p_1m'"
    )
    for message, words in (
        ("array size exceeds the maximum allowed (1073741823)", "a rollup of narrower buckets"),
        ("index row size 6420 exceeds btree version 4 maximum 2704", "(k) are its key"),
    ):
        row = db.execute(hint, [message]).fetchone()
        assert row
        assert words in row[0]
        assert "SELECT silver.reset_rollup_retry('silver.p_1m')" in row[0]


@pytest.mark.parametrize("kind", POISON)
def test_promise_h_one_bad_bucket_keeps_no_other_from_being_stored(
    db: psycopg.Connection, kind: str
) -> None:
    poison, code = POISON[kind]
    db.execute(WITH_ONE_BAD_BUCKET.format(poison=poison).encode())
    warnings: list[str | None] = []
    db.add_notice_handler(lambda notice: warnings.append(notice.sqlstate))
    db.execute("CALL silver.run_rollups()")
    assert warnings == [code]
    stale = db.execute("SELECT from_time, to_time FROM rollup_engine.stale_range ORDER BY id")
    assert [str(b - a) for a, b in stale] == ["0:01:00", "1:00:00"]
    expected = [("silver.p_1h", "waiting_for_parent", 1), ("silver.p_1m", "retrying", 1)]
    assert db.execute(MONITOR).fetchall() == expected
    reasons = "SELECT reason FROM silver.timeseries_operations_monitor WHERE health = 'retrying'"
    told = db.execute(reasons).fetchone()
    assert told
    assert told[0].startswith(f"1 of its buckets cannot be stored; the newest: {code}: ")
    error = db.execute(
        "SELECT error_code, error_message, hint, attempt FROM silver.error_log"
    ).fetchall()
    assert len(error) == 1
    assert error[0][0] == code
    assert error[0][1].startswith("bucket 2026-03-02 05:07:00+00: ")
    assert "SELECT silver.reset_rollup_retry('silver.p_1m')" in error[0][2]
    assert ("(k)" in error[0][2]) == (code == "54000")
    batches = db.execute("SELECT count(*) FROM silver.refresh_log").fetchone()
    assert batches
    assert batches[0] < 40

    db.execute("INSERT INTO raw.p VALUES ('2026-03-02 05:09', 'k', 1), ('2026-04-01', 'k', 1)")
    rows = db.execute(
        "SELECT status, buckets, ranges_left, error_code FROM silver.perform_rollup()"
    ).fetchall()
    assert rows == [("partial", 2, 1, code), ("waiting_for_parent", 1, 1, None)]
    db.execute("CALL silver.run_rollups()")  # settles the partition, so few buckets are stale
    good = "bucket < '2026-03-02 05:07+00' OR bucket >= '2026-03-02 05:08+00'"
    assert db.execute(f"SELECT sum(row_count) FROM gold.p_1m WHERE {good}".encode()).fetchone() == (
        5760,
    )

    db.execute("DELETE FROM raw.p WHERE v > 1e300 OR length(k) > 1")
    db.execute("SELECT silver.reset_rollup_retry('p_1m')")
    refresh_everything(db)
    assert_settled(db, "p_1m", "p_1h")
    assert db.execute(MONITOR).fetchall() == [("silver.p_1h", "ok", 0), ("silver.p_1m", "ok", 0)]


def test_promise_h_a_bad_bucket_is_tried_again(db: psycopg.Connection) -> None:
    poison, code = POISON["an overflow"]
    db.execute(WITH_ONE_BAD_BUCKET.format(poison=poison).encode())
    db.execute("CALL silver.run_rollups()")
    due = "UPDATE rollup_engine.failed_bucket SET next_retry_at = '-infinity'"
    for attempt in (2, 3):
        db.execute(due)
        db.execute("CALL silver.run_rollups()")
        row = db.execute(
            "SELECT attempts, (SELECT max(attempt) FROM silver.error_log), next_retry_at > now()"
            " + make_interval(secs => 24 * 2 ^ (attempts - 1)) FROM rollup_engine.failed_bucket"
        ).fetchone()
        assert row == (attempt, attempt, True)
    assert db.execute("SELECT status FROM silver.rollup_config").fetchall() == [("active",)] * 2
    # Asked for by name, it is tried at once.
    range_of = "'2026-03-02 05:00+00', '2026-03-02 06:00+00'"
    refresh = f"SELECT status, error_code FROM silver.refresh_rollup('p_1m', {range_of})".encode()
    assert db.execute(refresh).fetchall() == [("partial", code)]
    db.execute("DELETE FROM raw.p WHERE v > 1e300")
    assert db.execute(refresh).fetchall() == [("ok", None)]
    refresh_everything(db)
    assert_settled(db, "p_1m", "p_1h")


def test_promise_h_where_every_bucket_fails_the_rollup_backs_off(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.p (ts timestamptz, v double precision); INSERT INTO raw.p"
        " SELECT timestamptz '2026-03-01' + make_interval(mins => i / 2), 1e308"
        " FROM generate_series(0, 999) AS i;"
        "SELECT silver.create_rollup_table('raw.p', 'silver', 'p_1m', '1 minute')"
    )
    for attempt in range(1, 11):
        row = db.execute("SELECT status, error_code FROM silver.perform_rollup()").fetchall()
        assert row == [("failed", "22003")]
        state = db.execute(
            "SELECT retry_count, status, (SELECT count(*) FROM rollup_engine.failed_bucket)"
            " FROM silver.rollup_config"
        ).fetchone()
        assert state == (attempt, "parked" if attempt == 10 else "retrying", 9 + attempt)
        db.execute("UPDATE silver.rollup_config SET next_retry_at = '-infinity'")
    db.execute("UPDATE raw.p SET v = 1")
    db.execute("SELECT silver.reset_rollup_retry('p_1m')")
    refresh_everything(db)
    assert_settled(db, "p_1m")


def test_promise_h_a_drain_that_fails_is_on_record_with_every_rollup(
    db: psycopg.Connection,
) -> None:
    create_hierarchy(db)
    refresh_everything(db)
    db.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'TE123'; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON rollup_engine.stale_range"
        " EXECUTE FUNCTION public.refuse()"
    )
    db.execute("UPDATE raw.readings SET count = 9")
    perform = "SELECT DISTINCT status, error_code FROM silver.perform_rollup(as_of => 'infinity')"
    errors = "SELECT target_table, attempt FROM silver.error_log ORDER BY id"
    for _ in range(2):  # the second time nobody's next attempt has come
        assert db.execute(perform).fetchall() == [("failed", "TE123")]
        recorded = db.execute(errors).fetchall()
        assert recorded == [(f"silver.{level}", 1) for level in LEVELS]
    assert db.execute(PERFORM, ["readings_1d"]).fetchall() == [("silver.readings_1d", "failed")]
    assert_equal_to_group_by(db, *LEVELS)
    # Whatever else had nothing to do has not failed, once the drain works again.
    db.execute("DROP TRIGGER refuse ON rollup_engine.stale_range")
    db.execute("DELETE FROM rollup_engine.change_log")
    db.execute("UPDATE silver.rollup_config SET next_retry_at = '-infinity'")
    db.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert db.execute("SELECT DISTINCT status FROM silver.rollup_config").fetchall() == [
        ("active",)
    ]


def test_promise_h_a_source_that_somebody_keeps_locked_stops_no_other(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    """A change of a table that takes an hour, say. It is no failure, and no attempt."""
    create_hierarchy(db)
    db.execute(
        b"CREATE TABLE raw.plain (ts timestamptz, v integer);"
        b"CREATE TABLE raw.other (ts timestamptz, v integer);"
        b"SELECT silver.create_rollup_table(t, 'silver', t || '_1h', '1 hour')"
        b" FROM unnest('{plain,other}'::text[]) AS t;"
        b"INSERT INTO raw.plain VALUES ('2026-03-01', 1);"
        b"INSERT INTO raw.other VALUES ('2026-03-01', 1)"
    )
    levels = {f"silver.{name}" for name in LEVELS}
    holder = connect(autocommit=False)
    holder.execute("LOCK TABLE raw.readings, raw.plain IN ACCESS EXCLUSIVE MODE")
    db.execute("SET statement_timeout = '1min'")
    reasons = "SELECT target_table, reason FROM silver.timeseries_operations_monitor"
    told: dict[str, str | None] = dict(db.execute(reasons).fetchall())
    assert "cannot be told" in (told["silver.readings_1m"] or "")
    for free in ("silver.plain_1h", "silver.other_1h"):
        assert (told[free] or "").startswith("settled buckets are stale")
    done: dict[str, str] = dict(db.execute(PERFORM, [None]).fetchall())
    assert done.pop("silver.other_1h") == "ok"
    assert done.pop("silver.plain_1h") == "partial"
    assert done.keys() == levels
    assert set(done.values()) <= {"partial", "waiting_for_parent"}
    db.execute("INSERT INTO raw.other VALUES ('2026-03-02', 1)")
    db.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert_settled(db, "other_1h")
    holder.rollback()
    logged = db.execute("SELECT error_message FROM silver.error_log").fetchall()
    assert logged == []
    refresh_everything(db)
    assert_settled(db, *LEVELS, "plain_1h", "other_1h")
