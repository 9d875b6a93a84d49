"""Widths of partitions to come follow what tables hold, and change beside those who use them."""

import contextlib
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from conftest import Connect
from interleaving import Background
from partitioned_readings import (
    NOW,
    create_rollup,
    create_source,
    default_rows,
    insert,
    is_contiguous,
    maintain,
    partitions,
)
from rollup_checks import assert_settled, refresh_everything

pytestmark = pytest.mark.partman


@pytest.mark.parametrize("interval", ["1 month", "1 day", "3 hours"])
def test_the_width_of_partitions_to_come_can_change(db: psycopg.Connection, interval: str) -> None:
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '7 days')")
    create_rollup(db, chunk_interval=timedelta(days=7))
    insert(db, NOW - timedelta(days=20), NOW)
    refresh_everything(db)
    db.execute("SELECT silver.partition_source('readings', %s)", [interval])
    db.execute("UPDATE silver.rollup_config SET chunk_interval = %s", [interval])
    for days in (0, 8, 16):
        later = NOW + timedelta(days=days)
        maintain(db, later)
        insert(db, later)
        assert default_rows(db) == 0
    widths = db.execute(
        "SELECT DISTINCT to_time - from_time FROM rollup_engine.partition_bounds('raw.readings')"
        " WHERE isfinite(from_time) AND from_time > %s",
        [NOW + timedelta(days=8)],
    ).fetchall()
    assert widths <= [(timedelta(days=31),)] if interval == "1 month" else len(widths) == 1
    refresh_everything(db)
    assert_settled(db, "readings_1h")


def test_the_width_changes_beside_many_partitions_that_people_made_ahead(
    db: psycopg.Connection,
) -> None:
    create_source(db)
    db.execute("SET timezone = 'UTC'")
    for day in range(30):
        bounds = [datetime(2100, 1, 1, tzinfo=UTC) + timedelta(days=d) for d in (day, day + 1)]
        db.execute(
            sql.SQL(
                "CREATE TABLE {} PARTITION OF raw.readings FOR VALUES FROM ({}) TO ({})"
            ).format(sql.Identifier("raw", f"day_{day}"), *bounds)
        )
    insert(db, datetime(2100, 1, 25, tzinfo=UTC))
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    db.execute("SELECT silver.partition_source('readings', '7 days')")
    left = [name for name, _ in partitions(db, "raw.readings") if name.startswith("raw.day_")]
    assert left == ["raw.day_24"]
    maintain(db)
    assert is_contiguous([b for b in partitions(db, "raw.readings") if b[0] != "raw.day_24"])


def test_the_best_width_follows_size_and_statistics(db: psycopg.Connection) -> None:
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    db.execute(
        "INSERT INTO raw.readings (ts, device, level)"
        " SELECT %s::timestamptz - make_interval(secs => i), 1, 2"
        " FROM generate_series(1, 40000) AS i",
        [NOW],
    )
    width = "SELECT extract(epoch FROM silver.optimize_chunk_interval('readings', %s))::integer"
    assert db.execute(width, [10**7]).fetchone() == (86400,), "before statistics: as it is"
    maintain(db)
    maintain(db)
    total = db.execute(
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_inherits JOIN pg_class AS c"
        " ON c.oid = inhrelid WHERE inhparent = 'raw.readings'::regclass AND reltuples > 0"
    ).fetchone()
    assert total
    # 40,000 seconds hold `total` bytes, so a quarter more than a day's worth is a day.
    day = int(total[0]) * 86400 * 5 // 4 // 40000
    assert db.execute(width, [day]).fetchone() == (86400,)
    assert db.execute(width, [day * 8]).fetchone() == (7 * 86400,)
    with pytest.raises(psycopg.Error, match="target_bytes"):
        db.execute(width, [0])


def test_a_partition_is_never_dropped_by_an_older_snapshot(
    db: psycopg.Connection, connect: Connect
) -> None:
    """Promise c: what is empty in a repeatable-read snapshot may hold a committed row."""
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    create_rollup(db, chunk_interval=timedelta(days=7))
    changes = (
        "SELECT silver.partition_source('readings', '12 hours')",
        "UPDATE silver.rollup_config SET chunk_interval = '14 days'",
    )
    for change in changes:
        older = connect(autocommit=False)
        older.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        older.execute("SELECT count(*) FROM raw.readings")
        insert(db, NOW + timedelta(days=2))
        with pytest.raises(psycopg.Error, match="cannot run in a repeatable read transaction"):
            older.execute(change.encode())
        older.rollback()
        db.execute(change.encode())
        refresh_everything(db)
        assert_settled(db, "readings_1h")


def test_a_partition_that_is_filled_while_the_change_of_width_waits_stays(
    db: psycopg.Connection, connect: Connect
) -> None:
    """Promise c: emptiness is looked at under the lock."""
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    writer = connect(autocommit=False)
    writer.execute(
        "INSERT INTO raw.readings (ts, device, level) VALUES (%s, 1, 2)", [NOW + timedelta(days=2)]
    )
    change = Background(
        connect(options="-c lock_timeout=0"),
        "SELECT rollup_engine.drop_empty_partitions_ahead('raw.readings', now())",
    )
    with contextlib.suppress(AssertionError):  # it may have given up already
        change.wait_until_blocked(db)
    writer.commit()
    change.result()
    assert db.execute("SELECT count(*) FROM raw.readings").fetchone() == (1,)


def test_promise_b_a_partition_that_an_older_snapshot_finds_rows_in_stays(
    db: psycopg.Connection, connect: Connect
) -> None:
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    insert(db, NOW + timedelta(days=2))
    reader = connect(autocommit=False)
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    reader.execute("SELECT count(*) FROM pg_namespace")  # a snapshot, and no lock
    db.execute("DELETE FROM raw.readings")
    change = "SELECT rollup_engine.drop_empty_partitions_ahead('raw.readings', now())"
    before = partitions(db, "raw.readings")
    db.execute(change)
    assert partitions(db, "raw.readings") == before
    assert reader.execute("SELECT count(*) FROM raw.readings").fetchone() == (1,)
    reader.commit()
    db.execute(change)
    assert len(partitions(db, "raw.readings")) < len(before)


def test_promise_b_a_snapshot_taken_while_the_change_of_width_looks_at_a_partition(
    db: psycopg.Connection, connect: Connect
) -> None:
    """It finds rows there that are deleted before the change looks."""
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    insert(db, NOW + timedelta(days=2))
    before = partitions(db, "raw.readings")
    db.execute(
        "SET ROLE tsrollup_owner;"
        "ALTER FUNCTION rollup_engine.is_empty(regclass) RENAME TO is_empty_by_now;"
        "CREATE FUNCTION rollup_engine.is_empty(p regclass) RETURNS boolean LANGUAGE plpgsql"
        " SET lock_timeout = 0 AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(4711);"
        " RETURN rollup_engine.is_empty_by_now(p); END $$; RESET ROLE;"
        "SELECT pg_advisory_lock(4711)"
    )
    change = Background(
        connect(), "SELECT rollup_engine.drop_empty_partitions_ahead('raw.readings', now())"
    )
    change.wait_until_blocked(db)
    reader = connect(autocommit=False)
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    reader.execute("SELECT count(*) FROM pg_namespace")  # a snapshot, and no lock
    db.execute("DELETE FROM raw.readings; SELECT pg_advisory_unlock(4711)")
    change.result()
    assert partitions(db, "raw.readings") == before
    assert reader.execute("SELECT count(*) FROM raw.readings").fetchone() == (1,)


def test_a_partition_that_a_view_reads_stays_when_the_width_changes(
    db: psycopg.Connection,
) -> None:
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    ahead = (
        "SELECT member::oid::regclass::text, to_time - from_time FROM"
        " rollup_engine.partition_bounds('raw.readings')"
        " WHERE isfinite(from_time) AND from_time > %s ORDER BY from_time LIMIT 2"
    )
    (seen, _), _ = db.execute(ahead, [NOW]).fetchall()
    db.execute(f"CREATE VIEW raw.seen AS SELECT * FROM {seen}".encode())
    db.execute("SELECT silver.partition_source('readings', '12 hours')")
    maintain(db, NOW + timedelta(days=3))
    (first, width), (_, next_width) = db.execute(ahead, [NOW]).fetchall()
    assert (first, width, next_width) == (seen, timedelta(days=1), timedelta(hours=12))


def test_the_width_of_a_divided_source_is_that_of_all_its_parts(db: psycopg.Connection) -> None:
    """A day in four parts is as large as a day in one."""
    db.execute("SET timezone = 'UTC'")
    start = NOW.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
    best = []
    for table, parts in (("one", 1), ("four", 4)):
        db.execute(
            f"CREATE TABLE raw.{table} (ts timestamptz NOT NULL, n int) PARTITION BY RANGE (ts);"
            f"CREATE TABLE raw.{table}_d PARTITION OF raw.{table} FOR VALUES"
            f" FROM ('{start}') TO ('{start + timedelta(days=1)}') PARTITION BY HASH (n)".encode()
        )
        for part in range(parts):
            db.execute(
                f"CREATE TABLE raw.{table}_d{part} PARTITION OF raw.{table}_d"
                f" FOR VALUES WITH (MODULUS {parts}, REMAINDER {part})".encode()
            )
        db.execute(
            f"INSERT INTO raw.{table} SELECT %s + n * interval '1 second', n"
            " FROM generate_series(1, 80000) AS n".encode(),
            [start],
        )
        db.execute(f"ANALYZE raw.{table}".encode())
        best += db.execute(
            "SELECT silver.optimize_chunk_interval(%s, 14 * 1048576)", [table]
        ).fetchall()
    assert best[0] == best[1]
