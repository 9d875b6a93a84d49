"""Promises a and b for every way in which rows of a source change."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from raw_tables import LEVELS, create_hierarchy
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer

Connect = Callable[..., psycopg.Connection[Any]]

STATEMENTS = {
    "insert": "INSERT INTO raw.readings VALUES ('2026-03-01 22:00:30+00', 'd0', 1, 2, 3, 'x')",
    "insert into a partition": "INSERT INTO raw.readings_1 (ts, device, count)"
    " VALUES ('2026-03-01 10:00+00', 'd9', 1)",
    "insert into a partition below": "INSERT INTO raw.readings_3_a (ts, device, count)"
    " VALUES ('2026-03-03 10:00+00', 'd9', 1)",
    "insert far apart": "INSERT INTO raw.readings (ts, device, count)"
    " SELECT timestamptz '2026-03-01 00:00+00' + make_interval(hours => 7 * i, secs => 1), 'd1', i"
    " FROM generate_series(0, 9) AS i",
    "update a value": "UPDATE raw.readings SET level = level * 2 WHERE device = 'd1'",
    "update a dimension": "UPDATE raw.readings SET device = NULL WHERE device = 'd2'",
    "update in a partition": "UPDATE raw.readings_2 SET amount = 1 WHERE device IS NULL",
    "move within a partition": "UPDATE raw.readings SET ts = ts - interval '2 hours'"
    " WHERE ts < '2026-03-01 22:00+00'",
    "move to another partition": "UPDATE raw.readings SET ts = ts + interval '1 day'"
    " WHERE ts < '2026-03-01 22:00+00'",
    "delete": "DELETE FROM raw.readings WHERE ts < '2026-03-01 22:00+00' AND device = 'd0'",
    "delete from a partition": "DELETE FROM raw.readings_2",
    "delete all": "DELETE FROM raw.readings",
    "truncate": "TRUNCATE raw.readings",
    "truncate a partition": "TRUNCATE raw.readings_1",
    "upsert": "INSERT INTO raw.readings (ts, device, count) SELECT ts, 'new', 5 FROM raw.readings"
    " UNION ALL SELECT timestamptz '2026-03-02 23:00+00', 'new', 6"
    " ON CONFLICT (ts) DO UPDATE SET count = excluded.count, device = excluded.device",
    "insert what is there": "INSERT INTO raw.readings (ts, device) SELECT ts, 'new'"
    " FROM raw.readings ON CONFLICT DO NOTHING",
    "merge": "MERGE INTO raw.readings AS t USING (SELECT ts FROM raw.readings UNION ALL"
    " SELECT '2026-03-02 20:20:20+00') AS s ON t.ts = s.ts"
    " WHEN MATCHED AND t.device = 'd0' THEN DELETE"
    " WHEN MATCHED AND t.device = 'd1' THEN UPDATE SET count = 77"
    " WHEN NOT MATCHED THEN INSERT (ts, device) VALUES (s.ts, 'merged')",
    "merge that moves in time": "MERGE INTO raw.readings AS t USING (SELECT 1) AS s"
    " ON t.ts < '2026-03-01 22:30+00'"
    " WHEN MATCHED THEN UPDATE SET ts = t.ts + interval '1 day'",
    "merge that moves by another key": "MERGE INTO raw.readings AS t USING (SELECT 1) AS s"
    " ON t.ts >= '2026-03-03 00:00+00' AND t.device = 'd0'"
    " WHEN MATCHED THEN UPDATE SET device = 'd9'",
    "writing in a query": "WITH gone AS (DELETE FROM raw.readings WHERE device = 'd0' RETURNING *)"
    " INSERT INTO raw.readings SELECT ts + interval '1 second', device, count FROM gone",
    "a cascade": "DELETE FROM raw.fleet WHERE name = 'd1'",
    "a trigger that moves the row": "INSERT INTO raw.readings (ts, device, count)"
    " VALUES ('2026-03-01 03:00+00', 'shifted', 1)",
    "everything at once": "DELETE FROM raw.readings_1; INSERT INTO raw.readings (ts, count)"
    " VALUES ('2026-03-02 04:00+00', 3); UPDATE raw.readings SET count = count + 1;"
    " TRUNCATE raw.readings_3",
    "copy": "",
    "copy into a partition": "",
}

# One partition is itself partitioned, by the device; a foreign key cascades; a trigger of the
# user's changes rows on their way in.
SURROUNDINGS = """
    CREATE TABLE raw.readings_3 PARTITION OF raw.readings
        FOR VALUES FROM ('2026-03-03 00:00+00') TO ('2026-03-04 00:00+00')
        PARTITION BY LIST (device);
    CREATE TABLE raw.readings_3_a PARTITION OF raw.readings_3 FOR VALUES IN ('d9');
    CREATE TABLE raw.readings_3_b PARTITION OF raw.readings_3 DEFAULT;
    INSERT INTO raw.readings (ts, device, count)
    SELECT timestamptz '2026-03-03 01:00+00' + make_interval(mins => 11 * i),
        CASE WHEN i % 2 = 0 THEN 'd0' ELSE 'd9' END, i
    FROM generate_series(1, 9) AS i;
    CREATE UNIQUE INDEX ON raw.readings_1 (ts);
    CREATE UNIQUE INDEX ON raw.readings_2 (ts);
    CREATE UNIQUE INDEX ON raw.readings_3_a (ts);
    CREATE UNIQUE INDEX ON raw.readings_3_b (ts);
    CREATE TABLE raw.fleet (name text PRIMARY KEY);
    INSERT INTO raw.fleet SELECT DISTINCT device FROM raw.readings WHERE device IS NOT NULL;
    INSERT INTO raw.fleet VALUES ('new'), ('merged'), ('shifted');
    ALTER TABLE raw.readings ADD FOREIGN KEY (device) REFERENCES raw.fleet ON DELETE CASCADE;
    CREATE FUNCTION raw.shift() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.ts := NEW.ts + interval '10 hours';
        RETURN NEW;
    END
    $$;
    CREATE TRIGGER shift BEFORE INSERT ON raw.readings FOR EACH ROW
        WHEN (NEW.device = 'shifted') EXECUTE FUNCTION raw.shift();
"""


@pytest.mark.parametrize("refreshed", [True, False], ids=["refreshed", "never refreshed"])
def test_promise_a_b_every_way_to_write(db: psycopg.Connection, refreshed: bool) -> None:
    """Each statement is rolled back again, so that they need one database only."""
    create_hierarchy(db)
    db.execute(SURROUNDINGS.encode())
    db.execute("SELECT * FROM silver.perform_rollup(as_of => '-infinity')")
    if refreshed:
        refresh_everything(db)
    for name, statement in STATEMENTS.items():
        try:
            with db.transaction(force_rollback=True):
                before = db.execute("SELECT FROM rollup_engine.change_log").rowcount
                if name.startswith("copy"):
                    _copy(db, "raw.readings_1" if "partition" in name else "raw.readings")
                else:
                    db.execute(_suited(statement).encode())
                logged = db.execute("SELECT FROM rollup_engine.change_log").rowcount
                assert logged > before or name == "insert what is there", "nothing was logged"
                assert_equal_to_group_by(db, *LEVELS)
                if refreshed:
                    refresh_everything(db)
                    assert_settled(db, *LEVELS)
        except (AssertionError, psycopg.Error) as error:
            raise AssertionError(f"{name}: {error}") from error
        assert_equal_to_group_by(db, *LEVELS)


def _suited(statement: str) -> str:
    """A unique index over all partitions needs the device too: upserts go to one partition."""
    if "ON CONFLICT" not in statement:
        return statement
    return statement.replace("raw.readings", "raw.readings_2")


def _copy(connection: psycopg.Connection[Any], table: str) -> None:
    with connection.cursor().copy(f"COPY {table} (ts, device, count) FROM STDIN".encode()) as copy:
        for minute in range(50):
            copy.write_row((f"2026-03-01 {minute % 24:02}:{minute:02}:59+00", "d0", minute))


def test_promise_b_partitions_that_come_and_go(db: psycopg.Connection) -> None:
    """By hand: no trigger fires, the next drain finds them."""
    create_hierarchy(db)
    refresh_everything(db)
    db.execute(
        "CREATE TABLE raw.filled (LIKE raw.readings);"
        "INSERT INTO raw.filled (ts, device, count)"
        " SELECT timestamptz '2026-03-05 00:00+00' + make_interval(mins => i), 'd0', i"
        " FROM generate_series(0, 99) AS i;"
    )
    for change in (
        "ALTER TABLE raw.readings ATTACH PARTITION raw.filled"
        " FOR VALUES FROM ('2026-03-05 00:00+00') TO ('2026-03-06 00:00+00')",
        "INSERT INTO raw.filled (ts, device) VALUES ('2026-03-05 12:00+00', 'd0')",
        "DELETE FROM raw.filled WHERE count > 50",
        "ALTER TABLE raw.readings DETACH PARTITION raw.readings_1",
        "ALTER TABLE raw.readings DETACH PARTITION raw.filled CONCURRENTLY",
        "ALTER TABLE raw.readings DETACH PARTITION raw.readings_2;"
        "UPDATE raw.readings_2 SET ts = ts + interval '240 hours';"
        "ALTER TABLE raw.readings ATTACH PARTITION raw.readings_2"
        " FOR VALUES FROM ('2026-03-12 00:00+00') TO ('2026-03-13 00:00+00')",
        "TRUNCATE raw.readings_2",
        "INSERT INTO raw.readings_2 (ts, device) VALUES ('2026-03-12 12:00+00', 'd0')",
        "DROP TABLE raw.readings_2",
        "ALTER TABLE raw.readings ATTACH PARTITION raw.readings_1 DEFAULT",
        "UPDATE raw.readings_1 SET count = 5",
        "TRUNCATE raw.readings_1",
        "CREATE TABLE raw.empty PARTITION OF raw.readings"
        " FOR VALUES FROM ('2026-03-07 00:00+00') TO ('2026-04-07 00:00+00')",
        "INSERT INTO raw.empty (ts, device) VALUES ('2026-03-09 12:00+00', 'd0')",
    ):
        db.execute(change.encode())
        refresh_everything(db)
        try:
            assert_settled(db, *LEVELS)
        except AssertionError as error:
            raise AssertionError(f"{change}: {error}") from error


def test_promise_b_an_empty_partition_is_not_stale(db: psycopg.Connection) -> None:
    create_hierarchy(db)
    refresh_everything(db)
    db.execute(
        "CREATE TABLE raw.empty PARTITION OF raw.readings"
        " FOR VALUES FROM ('2026-03-07 00:00+00') TO ('2026-04-07 00:00+00')"
    )
    rows = db.execute("SELECT buckets FROM silver.perform_rollup(as_of => 'infinity')").fetchall()
    assert rows == [(0,), (0,), (0,)]


def test_promise_b_a_source_partitioned_by_another_time(db: psycopg.Connection) -> None:
    """Bounds of its partitions say nothing of the time column."""
    db.execute(
        """
        CREATE TABLE raw.events (arrived timestamptz, happened timestamptz, v integer)
            PARTITION BY RANGE (arrived);
        CREATE TABLE raw.events_1 PARTITION OF raw.events
            FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
        CREATE TABLE raw.events_2 PARTITION OF raw.events
            FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-03 00:00+00');
        INSERT INTO raw.events SELECT timestamptz '2026-03-01 00:00+00' + make_interval(hours => i),
            timestamptz '2025-01-01 00:00+00' + make_interval(hours => 5 * i), i
        FROM generate_series(0, 47) AS i;
        """
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.events', 'silver', 'events_1h', '1 hour',"
        " time_column => 'happened')"
    )
    refresh_everything(db)
    for change in (
        "TRUNCATE raw.events_1",
        "ALTER TABLE raw.events DETACH PARTITION raw.events_2",
        "ALTER TABLE raw.events ATTACH PARTITION raw.events_2"
        " FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-03 00:00+00')",
        "DROP TABLE raw.events_2",
    ):
        db.execute(change.encode())
        refresh_everything(db)
        try:
            assert_settled(db, "events_1h")
        except AssertionError as error:
            raise AssertionError(f"{change}: {error}") from error


@pytest.mark.parametrize("kind", ["LIST (device)", "HASH (device)"])
def test_promise_b_a_source_that_is_not_partitioned_by_time(
    db: psycopg.Connection, kind: str
) -> None:
    bounds = (
        ("IN ('d0', 'd1')", "IN ('d2', NULL)")
        if kind.startswith("LIST")
        else ("WITH (MODULUS 2, REMAINDER 0)", "WITH (MODULUS 2, REMAINDER 1)")
    )
    db.execute(
        f"""
        CREATE TABLE raw.parts (ts timestamptz, device text, v integer) PARTITION BY {kind};
        CREATE TABLE raw.parts_1 PARTITION OF raw.parts FOR VALUES {bounds[0]};
        CREATE TABLE raw.parts_2 PARTITION OF raw.parts FOR VALUES {bounds[1]};
        INSERT INTO raw.parts
        SELECT timestamptz '2026-03-01 00:00+00' + make_interval(mins => 7 * i),
            CASE i % 4 WHEN 3 THEN NULL ELSE 'd' || i % 4 END, i
        FROM generate_series(0, 99) AS i;
        """.encode()
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.parts', 'silver', 'parts_1h', '1 hour',"
        " dimensions => '{device}')"
    )
    refresh_everything(db)
    for change in (
        "UPDATE raw.parts SET device = 'd1' WHERE device = 'd2' AND v < 50",
        "MERGE INTO raw.parts AS t USING (SELECT 1) AS s ON t.device = 'd2'"
        " WHEN MATCHED THEN UPDATE SET device = 'd0'",
        "MERGE INTO raw.parts AS t USING (SELECT 1) AS s ON t.device = 'd0'"
        " WHEN MATCHED THEN UPDATE SET device = NULL, ts = t.ts + interval '1 day'",
        "TRUNCATE raw.parts_2",
        "DROP TABLE raw.parts_1",
    ):
        db.execute(change.encode())
        if not change.startswith("DROP"):
            assert_equal_to_group_by(db, "parts_1h")
        refresh_everything(db)
        try:
            assert_settled(db, "parts_1h")
        except AssertionError as error:
            raise AssertionError(f"{change}: {error}") from error


def test_promise_b_replica_sessions_are_captured(
    db: psycopg.Connection, connect: Connect, server: PostgresServer
) -> None:
    create_hierarchy(db)
    db.execute(
        "CREATE TABLE raw.readings_3 PARTITION OF raw.readings"
        " FOR VALUES FROM ('2026-03-03 00:00+00') TO ('2026-03-04 00:00+00')"
    )
    refresh_everything(db)
    replica = connect(user=server.superuser)
    try:
        replica.execute("SET session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        pytest.skip("only a superuser plays the replica")
    for change in (
        "UPDATE raw.readings SET count = 1 WHERE device = 'd0'",
        "DELETE FROM raw.readings_2 WHERE device = 'd1'",
        "INSERT INTO raw.readings_3 (ts, device) VALUES ('2026-03-03 05:00+00', 'd1')",
        "MERGE INTO raw.readings AS t USING (SELECT 1) AS s ON t.ts < '2026-03-01 23:00+00'"
        " WHEN MATCHED THEN UPDATE SET ts = t.ts + interval '2 days'",
        "TRUNCATE raw.readings_1",
    ):
        replica.execute(change.encode())
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
        assert_settled(db, *LEVELS)
