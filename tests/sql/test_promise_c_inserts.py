"""Promise c for inserts into a source that is partitioned by its time: a row trigger notes them."""

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from raw_tables import capture_by_row
from rollup_checks import assert_equal_to_group_by, assert_settled
from servers import PostgresServer

SOURCE = """
    CREATE TABLE raw.t (ts {type}, v integer) PARTITION BY RANGE (ts);
    CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('1960-01-01') TO ('2026-03-02');
    CREATE TABLE raw.t_0 PARTITION OF raw.t DEFAULT;
    SELECT silver.create_rollup_table(
        'raw.t', 'silver', 't_g', '{grain}', metrics => '{{"v": ["sum"]}}');
"""
TAIL = """
    SELECT rollup_engine.write_tail(id, '[2026-03-02 10:00+00,2026-03-02 11:00+00)')
    FROM rollup_engine.source
"""
FORGET = """
    TRUNCATE raw.t;
    DELETE FROM rollup_engine.change_log;
"""
MISSED = """
    SELECT array_agg(ts) FROM raw.t
    WHERE NOT (SELECT rollup_engine.written_tail(1)) @> {0} AND isfinite(ts) AND NOT coalesce((
        SELECT range_agg(tstzrange(from_time, to_time)) FROM rollup_engine.change_log),
        '{{}}') @> {0}
"""
GRAINS = """
    SELECT extract(epoch FROM count(DISTINCT date_bin(grain, {0}, '2000-01-03 00:00+00')) * grain)
    FROM raw.t, rollup_engine.source
    WHERE NOT (SELECT rollup_engine.written_tail(1)) @> {0} GROUP BY grain
"""
LOGGED = """
    SELECT extract(epoch FROM sum(upper(r) - lower(r)))
    FROM unnest((
        SELECT range_agg(tstzrange(from_time, to_time)) FROM rollup_engine.change_log)) AS r
"""
UTC = {
    "timestamptz": "ts",
    "timestamp": "(ts AT TIME ZONE 'UTC')",
    "date": "(ts::timestamp AT TIME ZONE 'UTC')",
}
# A user's triggers, before and after, that insert into the source as well; some of that is undone.
MORE = """
    CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.v > 0 THEN
            INSERT INTO raw.t SELECT NEW.ts + i * interval '20 minutes', NEW.v - 1
            FROM generate_series(0, 2) AS i;
            BEGIN
                INSERT INTO raw.t SELECT NEW.ts + i * interval '7 hours', 0
                FROM generate_series(0, 2) AS i;
                IF NEW.v % 2 = 0 THEN RAISE division_by_zero; END IF;
            EXCEPTION WHEN division_by_zero THEN
                NULL;
            END;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER a BEFORE INSERT ON raw.t FOR EACH ROW WHEN (NEW.v < 100)
        EXECUTE FUNCTION more();
    CREATE TRIGGER b AFTER INSERT ON raw.t FOR EACH ROW WHEN (NEW.v < 3) EXECUTE FUNCTION more();
    INSERT INTO raw.t SELECT timestamptz '2026-02-27 00:00+00' + i * interval '45 seconds', i % 4
    FROM generate_series(1, 9) AS i
"""
MERGE = """
    MERGE INTO raw.t USING (
        SELECT v AS k, v % 7 AS m FROM raw.t UNION ALL
        SELECT {new} + i, 0 FROM generate_series(1, 50) AS i) AS s
    ON t.v = s.k
    WHEN NOT MATCHED THEN INSERT VALUES ('2026-01-05'::timestamptz + k * interval '1 hour', k)
    WHEN MATCHED AND m = 1 THEN UPDATE SET ts = ts + interval '{shift}'
    WHEN MATCHED AND m = 2 THEN DELETE
    WHEN MATCHED THEN UPDATE SET v = t.v + 2000
"""


def value(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row and row[0]


def insert(connection: psycopg.Connection[Any], seconds: list[float]) -> None:
    """Seconds since 1 March 2026, in this order, by one statement."""
    connection.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + s * interval '1 second', at"
        " FROM unnest(%s::float8[]) WITH ORDINALITY AS g (s, at) ORDER BY at",
        [[float(second) for second in seconds]],
    )


def orders(seed: int) -> dict[str, list[float]]:
    pick = random.Random(seed)
    return {
        "one": [pick.uniform(0, 200000)],
        "two, far apart": [0, 199999.999999],
        "in order": [7.5 * i for i in range(3000)],
        "backwards": [-7.5 * i for i in range(3000)],
        "by device": [61.0 * (i % 700) for i in range(2100)],
        "in turns": [(i % 2) * 100000 + 13.0 * i for i in range(1500)],
        "scattered": [pick.uniform(-1e6, 1e6) for _ in range(1500)],
        "dense": [pick.uniform(0, 20000) for _ in range(4000)],
        "two heaps": [pick.choice((0, 1e6)) + pick.uniform(0, 9000) for _ in range(3000)],
        "one heap after the other": [
            1e6 * (i // 2000) + pick.uniform(0, 9000) for i in range(4000)
        ],
        "at the edges of the tail": [
            122400 + pick.choice((-1, 3599, 3600)) + pick.choice((0, 0.999999)) for _ in range(50)
        ],
        "before the epoch": [-2e9 + pick.uniform(0, 90000) for _ in range(500)],
        "far ahead": [1.5e10 + pick.uniform(0, 90000) for _ in range(500)],
    }


@pytest.mark.parametrize(
    ("time_type", "grain"),
    [
        ("timestamptz", "1 minute"),
        ("timestamptz", "0.3 s"),
        ("timestamp", "1 hour"),
        ("date", "1 day"),
    ],
)
def test_promise_c_whatever_was_inserted_is_logged(
    db: psycopg.Connection, time_type: str, grain: str
) -> None:
    db.execute(SOURCE.format(type=time_type, grain=grain).encode())
    capture_by_row(db)
    db.execute(TAIL.encode())
    utc = UTC[time_type]
    db.execute(
        "SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'; SET extra_float_digits = 0"
    )
    for name, seconds in orders(7).items():
        insert(db, seconds)
        assert value(db, MISSED.format(utc)) is None, name
        if name in ("one", "two, far apart", "scattered", "in order") and grain == "1 minute":
            assert value(db, LOGGED) == value(db, GRAINS.format(utc)), name
        assert value(db, "SELECT count(*) FROM rollup_engine.change_log") <= len(seconds)
        db.execute(FORGET.encode())


def test_promise_c_statements_inside_of_statements(db: psycopg.Connection) -> None:
    db.execute(SOURCE.format(type="timestamptz", grain="1 minute").encode())
    capture_by_row(db)
    db.execute(MORE.encode())
    assert value(db, MISSED.format("ts")) is None
    assert value(db, "SELECT bool_and(isfinite(from_time)) FROM rollup_engine.change_log")
    assert_equal_to_group_by(db, "t_g")
    two_days = "INSERT INTO raw.t VALUES ('2026-02-01', 100), ('2026-02-02', 100)"
    db.execute(FORGET.encode())
    with db.transaction():
        with db.transaction(force_rollback=True):
            db.execute(two_days.encode())
        db.execute(two_days.encode())
    assert value(db, LOGGED) == 120


def test_promise_c_dates_that_no_timestamp_holds(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]], server: PostgresServer
) -> None:
    """An error in the condition of a trigger would fail the write."""
    db.execute(SOURCE.format(type="date", grain="1 day").encode())
    capture_by_row(db)
    db.execute(TAIL.encode())
    db.execute("SET datestyle = 'SQL, DMY'")
    superuser = connect(user=server.superuser)
    superuser.execute("SET session_replication_role = replica")
    for writer in (db, superuser):
        writer.execute(
            "INSERT INTO raw.t VALUES (make_date(294277, 1, 1), 1),"
            " (make_date(5874897, 12, 31), 1), ('infinity', 1), ('-infinity', 1),"
            " (make_date(-4714, 11, 24), 1), (NULL, 1),"
            " ('2026-02-01', 1), ('2026-02-02', 1), ('2026-02-05', 1), ('2026-02-07', 1)"
        )
        writer.execute(
            "UPDATE raw.t SET ts = ts + 1 WHERE isfinite(ts) AND ts < make_date(294277, 1, 9)"
        )
        days = "ts BETWEEN make_date(2026, 2, 1) AND make_date(2026, 2, 9)"
        assert value(db, f"{MISSED.format(UTC['date'])} AND {days}") is None
        db.execute(FORGET.encode())
    missing = "SELECT count(*) FROM rollup_engine.source AS s, rollup_engine.missing_triggers(s)"
    assert value(db, missing) == 0


def test_promise_c_settings_that_are_reset_inside_of_a_statement(db: psycopg.Connection) -> None:
    """What a statement has noted is in settings of its transaction."""
    db.execute(SOURCE.format(type="timestamptz", grain="1 minute").encode())
    capture_by_row(db)
    db.execute(
        "CREATE FUNCTION reset_at(i integer, at integer) RETURNS integer LANGUAGE plpgsql AS"
        " $$ BEGIN IF i = at THEN RESET ALL; END IF; RETURN i; END $$"
    )
    rows = (
        "SELECT timestamptz '2026-02-01' + i * interval '9 min', {} FROM generate_series(1, 30) i"
    )
    for at in (20, 29, 30):
        db.execute(f"INSERT INTO raw.t {rows.format(f'reset_at(i, {at})')}".encode())
        assert value(db, MISSED.format("ts")) is None
        db.execute(FORGET.encode())
    # By a trigger that fires once all rows are noted.
    db.execute(
        "CREATE FUNCTION reset_all() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RESET ALL; RETURN NULL; END $$;"
        "CREATE TRIGGER a AFTER INSERT ON raw.t FOR EACH ROW WHEN (NEW.v = 1)"
        " EXECUTE FUNCTION reset_all()"
    )
    db.execute(f"INSERT INTO raw.t {rows.format('i')}".encode())
    assert value(db, MISSED.format("ts")) is None
    db.execute(FORGET.encode())
    # Between statements nothing is lost, and nothing doubted.
    with db.transaction():
        db.execute(f"INSERT INTO raw.t {rows.format('i + 1')}".encode())
        db.execute("RESET ALL")
        db.execute(f"INSERT INTO raw.t {rows.format('i + 1')}".encode())
    assert value(db, LOGGED) == value(db, GRAINS.format("ts"))


def test_promise_c_who_inserts_as_a_replica_or_without_rights(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]], server: PostgresServer
) -> None:
    db.execute(SOURCE.format(type="timestamptz", grain="1 minute").encode())
    capture_by_row(db)
    db.execute("GRANT USAGE ON SCHEMA raw TO PUBLIC; GRANT INSERT ON raw.t, raw.t_1 TO PUBLIC")
    rows = "SELECT timestamptz '2026-02-01' + i * interval '40 s', i FROM generate_series(1, 40) i"
    other = connect(user=server.superuser)
    other.execute("SET session_replication_role = replica")
    other.execute(f"INSERT INTO raw.t {rows}".encode())
    assert value(db, MISSED.format("ts")) is None
    other.execute("UPDATE raw.t SET ts = ts + interval '10 days'")
    assert value(db, MISSED.format("ts")) is None
    db.execute(FORGET.encode())
    name = f"writer_{value(db, 'SELECT pg_backend_pid()')}"
    other.execute(f"SET session_replication_role = origin; CREATE ROLE {name}".encode())
    try:
        other.execute(f"SET ROLE {name}".encode())
        other.execute(f"INSERT INTO raw.t {rows}".encode())
        other.execute(f"INSERT INTO raw.t_1 {rows}".encode())
        assert value(db, MISSED.format("ts")) is None
    finally:
        other.execute("RESET ROLE")
        other.execute(f"DROP ROLE {name}".encode())


def test_promise_c_merge_inserts_moves_and_updates(db: psycopg.Connection) -> None:
    """Statement triggers may be shown an inserted row in an updated one's place."""
    db.execute(SOURCE.format(type="timestamptz", grain="1 minute").encode())
    capture_by_row(db)
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 20:00' + i * interval '1 minute', i"
        " FROM generate_series(1, 400) AS i"
    )
    for new, shift in ((10000, "1 second"), (20000, "3 hours"), (30000, "5 days")):
        db.execute("CALL silver.run_rollups(as_of => 'infinity')")
        db.execute(MERGE.format(new=new, shift=shift).encode())
        assert_equal_to_group_by(db, "t_g")


def test_promise_c_merge_inserts_and_changes_keys(db: psycopg.Connection) -> None:
    """As above: the key that an updated row had before is seen, the one that it has now is not."""
    db.execute(SOURCE.format(type="timestamptz", grain="1 minute").encode())
    db.execute("SELECT silver.drop_rollup('t_g')")
    db.execute("CREATE INDEX ON raw.t (v, ts)")
    db.execute(
        "SELECT silver.create_rollup_table("
        "'raw.t', 'silver', 't_1h', '1 hour', dimensions => '{v}')"
    )
    db.execute("INSERT INTO raw.t SELECT '2026-02-01 00:00+00', v FROM generate_series(1, 9) AS v")
    for is_by_row in (True, False):
        capture_by_row(db, is_by_row)
        db.execute("CALL silver.run_rollups(as_of => 'infinity')")
        db.execute(
            "MERGE INTO raw.t USING (VALUES (0, 0), (1, 90), (2, 91)) AS s (k, new) ON t.v = s.k"
            " WHEN NOT MATCHED THEN INSERT VALUES ('2026-02-02 00:00+00', 5)"
            " WHEN MATCHED THEN UPDATE SET v = new"
        )
        db.execute("CALL silver.run_rollups(as_of => 'infinity')")
        assert_settled(db, "t_1h")
        db.execute("UPDATE raw.t SET v = v - 89 WHERE v >= 90")
