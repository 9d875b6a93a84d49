"""Partitions of rollups and of sources: by pg_partman 4.7 and 5, and natively without it."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from conftest import Connect
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
from raw_tables import maintained
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer

pytestmark = pytest.mark.partman


def partman_row(db: psycopg.Connection[Any], table: str) -> dict[str, object] | None:
    row = db.execute(
        "SELECT to_jsonb(c) FROM partman.part_config AS c WHERE parent_table = %s", [table]
    ).fetchone()
    return row[0] if row else None


def test_rollup_tables_are_registered_and_made_ahead(
    server: PostgresServer, db: psycopg.Connection
) -> None:
    create_source(db)
    create_rollup(db, chunk_interval=timedelta(days=7))
    found = partitions(db, "silver.readings_1h")
    assert len(found) >= 2
    assert is_contiguous(found)
    assert not [b for _, b in found if b == "DEFAULT"]
    if server.has("pg_partman"):
        row = partman_row(db, "silver.readings_1h")
        assert row
        assert row["partition_interval"] == "7 days"
        assert row["retention"] is None
        assert row["automatic_maintenance"] == "off"
    assert "premade" not in {action for _, action, _ in maintain(db)}
    assert ("silver.readings_1h", "premade") in {
        row[:2] for row in maintain(db, NOW + timedelta(days=60))
    }


def test_buckets_far_in_the_past_get_a_partition_of_their_own(db: psycopg.Connection) -> None:
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    create_rollup(db, chunk_interval=timedelta(days=7))
    insert(db, "1999-12-31 23:59+00", "2013-06-06 06:06+00", NOW)
    refresh_everything(db)
    assert_settled(db, "readings_1h")
    names = {
        name
        for (name,) in db.execute(
            "SELECT DISTINCT tableoid::regclass::text FROM silver.readings_1h"
        ).fetchall()
    }
    assert len(names) == 3
    maintain(db)
    insert(db, "1999-12-31 23:58+00", "1980-01-01 00:00+00")
    refresh_everything(db)
    assert_settled(db, "readings_1h")


def test_partman_goes_on_from_partitions_made_here(
    server: PostgresServer, db: psycopg.Connection
) -> None:
    if not server.has("pg_partman"):
        pytest.skip("needs pg_partman")
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    create_rollup(db, chunk_interval=timedelta(days=7))
    insert(db, "1999-12-31 23:59+00", NOW)
    refresh_everything(db)
    before = partitions(db, "silver.readings_1h"), partitions(db, "raw.readings")
    db.execute("UPDATE partman.part_config SET premake = 9")
    db.execute("SET timezone = 'UTC'")
    for table in ("silver.readings_1h", "raw.readings"):
        db.execute("SELECT partman.run_maintenance(%s, p_jobmon => false)", [table])
    after = partitions(db, "silver.readings_1h"), partitions(db, "raw.readings")
    for old, new in zip(before, after, strict=True):
        assert set(old) < set(new)
        assert is_contiguous([x for x in new if "'1999" not in x[1]])


def test_late_rows_of_a_source_wait_in_no_default_partition(db: psycopg.Connection) -> None:
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    create_rollup(db)
    insert(db, NOW, NOW - timedelta(days=3), "2001-02-03 04:05+00", "infinity")
    assert default_rows(db) == 3
    assert_equal_to_group_by(db, "readings_1h")
    assert ("raw.readings", "premade") in {row[:2] for row in maintain(db)}
    assert default_rows(db) == 1, "infinity has no partition"
    assert_equal_to_group_by(db, "readings_1h")
    refresh_everything(db)
    assert_settled(db, "readings_1h")
    late = [name for name, bounds in partitions(db, "raw.readings") if "'2001-02-03" in bounds]
    db.execute(
        f"INSERT INTO {late[0]} (id, ts, device, level) OVERRIDING SYSTEM VALUE"
        " VALUES (9, '2001-02-03', 1, 9)"
    )
    assert_equal_to_group_by(db, "readings_1h")
    refresh_everything(db)
    assert_settled(db, "readings_1h")


@pytest.mark.parametrize("kind", ["timestamp", "date"])
def test_sources_by_timestamp_and_by_date(db: psycopg.Connection, kind: str) -> None:
    db.execute(
        f"CREATE TABLE raw.readings (ts {kind}, device int, level float8) PARTITION BY RANGE (ts)"
    )
    db.execute("SET timezone = 'America/New_York'")
    db.execute("SELECT silver.partition_source('readings', '1 month')")
    create_rollup(db)
    insert(db, NOW, "2024-02-29 12:00", "2024-03-31 23:00")
    maintain(db)
    assert default_rows(db) == 0
    refresh_everything(db)
    assert_settled(db, "readings_1h")
    if kind == "date":
        with pytest.raises(psycopg.Error, match="cannot divide the days"):
            db.execute("SELECT silver.partition_source('readings', '6 hours')")


def test_pg_partman_leaves_a_set_of_number_times_to_maintenance(
    server: PostgresServer, db: psycopg.Connection
) -> None:
    """By names that are not its own, 4.7 would stop for all tables of the database."""
    if not server.has("pg_partman"):
        pytest.skip("needs pg_partman")
    is_old = server.name == "debian15"
    for table, column in (("numbered", "bigint"), ("other", "timestamptz")):
        db.execute(
            f"CREATE TABLE raw.{table} (ts {column} NOT NULL) PARTITION BY RANGE (ts)".encode()
        )
        db.execute(
            "SELECT partman.create_parent(%s, 'ts', p_type => %s, p_interval => %s,"
            " p_epoch => %s, p_premake => 1)",
            (
                f"raw.{table}",
                "native" if is_old else "range",
                "daily" if is_old else "1 day",
                "seconds" if column == "bigint" else "none",
            ),
        )
    db.execute("UPDATE partman.part_config SET retention = '5 days'")
    db.execute(
        "SELECT silver.create_rollup_table('numbered', 'silver', 'm', '1 hour', time_unit => 's')"
    )
    db.execute("SELECT silver.partition_source('numbered', '1 day')")
    row = partman_row(db, "raw.numbered")
    assert row
    assert (row["retention"], row["automatic_maintenance"]) == (None, "off")
    maintain(db)
    before = partitions(db, "raw.other")
    db.execute("UPDATE partman.part_config SET premake = 3")
    db.execute("INSERT INTO raw.other VALUES (now())")
    db.execute("SELECT partman.run_maintenance()")
    assert len(partitions(db, "raw.other")) == len(before) + 2


def test_an_existing_partman_set_is_taken_over(
    server: PostgresServer, db: psycopg.Connection
) -> None:
    if not server.has("pg_partman"):
        pytest.skip("needs pg_partman")
    create_source(db)
    db.execute("SET timezone = 'UTC'")
    kind = ", p_type => 'native'" if server.name == "debian15" else ""
    db.execute(
        "SELECT partman.create_parent('raw.readings', 'ts', p_interval => '1 day', p_premake => 2,"
        f" p_start_partition => '{NOW - timedelta(days=2):%Y-%m-%d}'{kind})".encode()
    )
    db.execute("UPDATE partman.part_config SET retention = '5 days', retention_keep_table = false")
    insert(db, NOW, NOW - timedelta(days=1), NOW - timedelta(days=9), "2001-01-01 00:00+00")
    create_rollup(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    row = partman_row(db, "raw.readings")
    assert row
    assert (row["retention"], row["automatic_maintenance"]) == (None, "off")
    maintain(db)
    assert default_rows(db) == 0
    assert_equal_to_group_by(db, "readings_1h")
    refresh_everything(db)
    assert_settled(db, "readings_1h")
    db.execute("SELECT partman.run_maintenance('raw.readings')")


def test_taking_pg_partman_away_stops_nothing(
    server: PostgresServer, db: psycopg.Connection, database: str
) -> None:
    if not server.has("pg_partman"):
        pytest.skip("needs pg_partman")
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    create_rollup(db, chunk_interval=timedelta(days=7))
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute("DROP EXTENSION pg_partman CASCADE")
    insert(db, NOW, "2001-02-03 04:05+00")
    maintain(db, NOW + timedelta(days=30))
    assert default_rows(db) == 0
    refresh_everything(db)
    assert_settled(db, "readings_1h")
    db.execute("SELECT silver.drop_rollup('readings_1h')")


def test_nothing_of_partmans_stays_behind_in_the_session_or_its_tables(
    server: PostgresServer, db: psycopg.Connection
) -> None:
    db.execute("SET search_path = gold, public")
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    create_rollup(db)
    maintain(db)
    assert db.execute("SHOW search_path").fetchone() == ("gold, public",)
    db.execute("SELECT silver.drop_rollup('readings_1h')")
    assert db.execute("SELECT relation::text FROM rollup_engine.partition_set").fetchall() == [
        ("raw.readings",)
    ]
    if server.has("pg_partman"):
        assert partman_row(db, "silver.readings_1h") is None


def test_tables_that_cannot_be_taken_are_refused(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.plain (ts timestamptz)")
    db.execute("CREATE TABLE raw.listed (ts timestamptz, k text) PARTITION BY LIST (k)")
    for table, message in {
        "plain": "raw.plain is not partitioned by ranges of a time column",
        "listed": "raw.listed is not partitioned by ranges of a time column",
        "missing": "there is no table or rollup missing",
    }.items():
        with pytest.raises(psycopg.Error, match=message):
            db.execute("SELECT silver.partition_source(%s, '1 day')", [table])
    create_source(db)
    for width in ("0", "-1 day", "1 month 1 day", "1 microsecond", "2000 years"):
        with pytest.raises(psycopg.Error, match="chunk_interval"):
            db.execute("SELECT silver.partition_source('readings', %s)", [width])


def test_names_that_partman_cannot_hold_are_partitioned_natively(db: psycopg.Connection) -> None:
    name = 'raw."a.b ' + "ü" * 25 + '"'
    create_source(db, name)
    db.execute("SELECT silver.partition_source(%s, '1 day')", [name])
    db.execute(sql.SQL("INSERT INTO {} (ts) VALUES ('2001-01-01')").format(sql.SQL(name)))
    maintain(db)
    row = db.execute("SELECT partman_parent FROM rollup_engine.partition_set").fetchone()
    assert row == (None,)
    assert is_contiguous([x for x in partitions(db, name) if "'2001" not in x[1]])


def test_a_table_that_is_renamed_is_partitioned_natively_from_then_on(
    db: psycopg.Connection,
) -> None:
    create_source(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    create_rollup(db, chunk_interval=timedelta(days=7))
    db.execute("ALTER TABLE raw.readings RENAME TO renamed")
    db.execute("ALTER TABLE silver.readings_1h RENAME TO renamed_1h")
    assert maintain(db, NOW + timedelta(days=30))
    db.execute("INSERT INTO raw.renamed (ts, device, level) VALUES ('2001-02-03', 1, 2)")
    maintain(db, NOW + timedelta(days=30))
    refresh_everything(db)
    assert_settled(db, "silver.renamed_1h")


@pytest.mark.parametrize("is_handed_over_again", [False, True])
def test_the_column_of_the_partitions_may_be_renamed(
    db: psycopg.Connection, server: PostgresServer, is_handed_over_again: bool
) -> None:
    create_source(db)
    create_rollup(db)
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    db.execute("SELECT silver.set_retention('readings', '30 days')")
    insert(db, NOW - timedelta(days=40), NOW)
    refresh_everything(db)
    maintain(db)
    # Another column of its name is not what the partitions go by.
    db.execute(
        'ALTER TABLE raw.readings RENAME ts TO "at %s"; ALTER TABLE raw.readings ADD ts text'
    )
    if is_handed_over_again:
        db.execute("SELECT silver.partition_source('readings', '1 day')")
    db.execute(
        """INSERT INTO raw.readings ("at %%s", device, level) VALUES (%s, 1, 2)""",
        [NOW - timedelta(days=9)],
    )
    later = NOW + timedelta(days=4)
    assert ("raw.readings", "premade") in [row[:2] for row in maintain(db, later)]
    assert default_rows(db) == 0
    db.execute('ALTER TABLE raw.readings DROP ts; ALTER TABLE raw.readings RENAME "at %s" TO ts')
    # What a drain found in between is text, of which it makes no time.
    db.execute("SELECT silver.reset_rollup_retry('readings_1h')")
    for _ in range(3):
        refresh_everything(db)
        maintained(db, later)
    assert db.execute("SELECT count(*) FROM raw.readings").fetchone() == (2,)
    assert db.execute("SELECT sum(row_count) FROM gold.readings_1h").fetchone() == (3,)
    assert partitions(db, "raw.readings")[-1][1].startswith("FOR VALUES FROM ('2")
    if server.has("pg_partman"):
        known = partman_row(db, "raw.readings")
        assert known
        assert known["control"] == "ts"


def test_maintenance_runs_once_at_a_time(db: psycopg.Connection, connect: Connect) -> None:
    first = connect(autocommit=False)
    maintain(first)
    rows = db.execute("SELECT * FROM silver.maintain_timeseries_tables()").fetchall()
    assert [row[1] for row in rows] == ["skipped"]
    first.commit()
    rows = db.execute("SELECT * FROM silver.maintain_timeseries_tables()").fetchall()
    assert "skipped" not in [row[1] for row in rows]


def test_partitions_of_a_divided_source_are_divided_like_their_siblings(
    db: psycopg.Connection,
) -> None:
    db.execute("SET timezone = 'UTC'")
    db.execute(
        "CREATE TABLE raw.readings (ts timestamptz NOT NULL, device int, level float8, kind text)"
        " PARTITION BY RANGE (ts); CREATE INDEX ON raw.readings (device, ts)"
    )
    db.execute(
        "CREATE TABLE raw.old PARTITION OF raw.readings"
        f" FOR VALUES FROM ('{NOW:%Y-%m-%d}') TO ('{NOW + timedelta(days=1):%Y-%m-%d}')"
        " PARTITION BY LIST (kind);"
        "CREATE TABLE raw.old_a PARTITION OF raw.old FOR VALUES IN ('a', 'b')"
        " PARTITION BY HASH (device);"
        "CREATE TABLE raw.old_a_0 PARTITION OF raw.old_a FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE raw.old_a_1 PARTITION OF raw.old_a FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "CREATE TABLE raw.old_rest PARTITION OF raw.old DEFAULT".encode()
    )
    create_rollup(db)
    for width in ("1 day", "12 hours"):
        db.execute("SELECT silver.partition_source('readings', %s)", [width])
        shapes = db.execute(
            "SELECT DISTINCT (SELECT array_agg(t.level ORDER BY t.level)"
            " FROM pg_partition_tree(inhrelid) AS t) FROM pg_inherits"
            " WHERE inhparent = 'raw.readings'::regclass"
            " AND inhrelid <> 'raw.readings_default'::regclass"
        ).fetchall()
        assert shapes == [([0, 1, 1, 2, 2],)]
    db.execute(
        "INSERT INTO raw.readings SELECT %s::timestamptz + n * interval '7 hours', n, n, kind"
        " FROM generate_series(-10, 5) AS n, unnest('{a,b,c,NULL}'::text[]) AS kind",
        [NOW],
    )
    assert_equal_to_group_by(db, "readings_1h")
    for _ in range(5):  # each moves for a second
        maintain(db)
    assert default_rows(db) == 0
    assert_equal_to_group_by(db, "readings_1h")
    leaf = db.execute("SELECT min(tableoid::regclass::text) FROM raw.readings WHERE ts < %s", [NOW])
    row = leaf.fetchone()
    assert row
    refresh_everything(db)
    db.execute(f"UPDATE {row[0]} SET level = level + 1".encode())
    assert_equal_to_group_by(db, "readings_1h")
    refresh_everything(db)
    assert_settled(db, "readings_1h")


@pytest.mark.parametrize("given", ["table", "partitions", "index"])
def test_partitions_have_the_replica_identity_of_the_table(
    server: PostgresServer, db: psycopg.Connection, given: str
) -> None:
    """Promise j: an UPDATE of a published table fails where a partition has none."""
    db.execute(
        "CREATE TABLE raw.readings (ts timestamptz NOT NULL, device int, level int, n int NOT NULL"
        " GENERATED ALWAYS AS IDENTITY) PARTITION BY RANGE (ts);"
        "CREATE UNIQUE INDEX key ON raw.readings (n, ts)"
    )
    db.execute(
        {
            "table": "ALTER TABLE raw.readings REPLICA IDENTITY FULL",
            "partitions": "CREATE TABLE raw.first PARTITION OF raw.readings"
            " FOR VALUES FROM ('2001-01-01 00:00+00') TO ('2001-01-02 00:00+00');"
            "ALTER TABLE raw.first REPLICA IDENTITY FULL",
            "index": "ALTER TABLE raw.readings REPLICA IDENTITY USING INDEX key",
        }[given].encode()
    )
    with psycopg.connect(server.superuser_url(db.info.dbname), autocommit=True) as superuser:
        superuser.execute("CREATE PUBLICATION p FOR TABLE raw.readings")
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    insert(db, NOW, "1999-01-01")
    db.execute("UPDATE raw.readings SET level = 3")
    maintain(db, NOW + timedelta(days=9))
    insert(db, NOW + timedelta(days=9))
    db.execute("UPDATE raw.readings SET level = 4")
