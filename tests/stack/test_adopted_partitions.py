"""Sets of partitions that pg_partman looked after before: whatever their spelling and rows."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by
from servers import PostgresServer

pytestmark = pytest.mark.partman

NOW = datetime.now(UTC)


@pytest.fixture
def adopted(server: PostgresServer, db: psycopg.Connection) -> psycopg.Connection:
    """raw.readings with the months that pg_partman made, handed over, and a rollup of it."""
    if not server.has("pg_partman"):
        pytest.skip("needs pg_partman")
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.readings (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    four = server.name == "debian15"
    db.execute(
        "SELECT partman.create_parent('raw.readings', 'ts', p_premake => 2, p_interval => %s"
        f"{', p_type => %s' if four else ''})".encode(),
        ["monthly", "native"] if four else ["1 month"],
    )
    db.execute("SELECT silver.partition_source('readings', '1 month')")
    db.execute("SELECT silver.create_rollup_table('readings', 'silver', 'readings_1d', '1 day')")
    return db


def maintain(db: psycopg.Connection) -> None:
    rows = db.execute("SELECT * FROM silver.maintain_timeseries_tables()").fetchall()
    assert not [row for row in rows if row[1] == "failed"], rows


def made_for(db: psycopg.Connection, time: datetime) -> str | None:
    """The partition that a row of that time goes to, None for the default one."""
    row = db.execute(
        "SELECT member::text FROM rollup_engine.partition_bounds('raw.readings')"
        " WHERE isfinite(from_time) AND from_time <= %s AND to_time > %s",
        [time, time],
    ).fetchone()
    return row[0] if row else None


def test_narrower_partitions_of_an_adopted_set_are_made_ahead(adopted: psycopg.Connection) -> None:
    adopted.execute("SELECT silver.partition_source('readings', '1 day')")
    maintain(adopted)
    row = adopted.execute(
        "SELECT max(to_time) FROM rollup_engine.partition_bounds('raw.readings')"
        " WHERE isfinite(to_time)"
    ).fetchone()
    assert row
    for day in range(3):  # as time goes on
        adopted.execute(
            "SELECT rollup_engine.premake_source_partitions(s, %s) FROM rollup_engine.partition_set"
            " AS s WHERE is_source",
            [row[0] + timedelta(days=day)],
        )
        assert made_for(adopted, row[0] + timedelta(days=day, hours=12))
    adopted.execute("INSERT INTO raw.readings SELECT now() - interval '300 days', 1")
    adopted.execute("INSERT INTO raw.readings SELECT now() - interval '301 days', 1")
    maintain(adopted)
    assert adopted.execute("SELECT count(*) FROM raw.readings_default").fetchone() == (0,)
    assert_equal_to_group_by(adopted, "readings_1d")


def test_a_row_of_the_far_future_keeps_nobody_from_making_the_next_partition(
    adopted: psycopg.Connection,
) -> None:
    next_month = NOW + timedelta(days=31)
    adopted.execute("INSERT INTO raw.readings VALUES ('9500-01-01', 1)")
    maintain(adopted)
    ahead = adopted.execute(
        "SELECT member::text FROM rollup_engine.partition_bounds('raw.readings')"
        " WHERE from_time > now() AND to_time < '9000-01-01'"
    ).fetchall()
    for (name,) in ahead:  # as if they had passed
        adopted.execute(f"DROP TABLE {name}".encode())
    assert made_for(adopted, next_month) is None
    maintain(adopted)
    assert made_for(adopted, next_month)


@pytest.fixture
def keyed(server: PostgresServer, db: psycopg.Connection) -> psycopg.Connection:
    """A set of days whose primary key, which lacks the time, is in pg_partman's template table."""
    if not server.has("pg_partman"):
        pytest.skip("needs pg_partman")
    db.execute("SET timezone = 'UTC'")
    db.execute(
        "CREATE TABLE raw.readings (id int NOT NULL, ts timestamptz NOT NULL, v int)"
        " PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.template (LIKE raw.readings);"
        "ALTER TABLE raw.template ADD PRIMARY KEY (id);"
        "GRANT SELECT ON raw.readings TO tsrollup_reader"
    )
    four = server.name == "debian15"
    db.execute(
        "SELECT partman.create_parent('raw.readings', 'ts', p_premake => 2, p_interval => '1 day',"
        f" p_template_table => 'raw.template'{', p_type => %s' if four else ''})".encode(),
        ["native"] if four else None,
    )
    db.execute("UPDATE partman.part_config SET inherit_privileges = true")
    db.execute("SELECT silver.partition_source('readings', '1 day')")
    return db


def test_partitions_of_an_adopted_set_have_the_keys_of_its_template(
    keyed: psycopg.Connection,
) -> None:
    db = keyed
    db.execute("SELECT silver.create_rollup_table('readings', 'silver', 'readings_1d', '1 day')")
    db.execute("INSERT INTO raw.readings VALUES (1, now() - interval '300 days', 1)")
    maintain(db)
    late = db.execute("SELECT tableoid::regclass::text FROM raw.readings").fetchone()
    assert late
    assert late != ("raw.readings_default",)
    keys = db.execute(
        "SELECT conkey, has_table_privilege('tsrollup_reader', conrelid, 'SELECT')"
        " FROM pg_constraint WHERE contype = 'p' AND conrelid = %s::regclass",
        [late[0]],
    ).fetchall()
    assert keys == [([1], True)]
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.execute("INSERT INTO raw.readings VALUES (1, now() - interval '300 days', 2)")
    assert_equal_to_group_by(db, "readings_1d")


def test_rows_that_break_the_template_keep_no_others_waiting(keyed: psycopg.Connection) -> None:
    db = keyed
    db.execute("ALTER TABLE raw.readings_default DROP CONSTRAINT readings_default_pkey")
    db.execute(
        "INSERT INTO raw.readings SELECT id, now() - interval '300 days', 1"
        " FROM unnest('{7,7}'::int[]) AS id"
    )
    db.execute("INSERT INTO raw.readings VALUES (8, now() - interval '301 days', 1)")
    maintain(db)
    left = db.execute("SELECT id FROM raw.readings_default").fetchall()
    assert left == [(7,), (7,)]
    errors = db.execute("SELECT DISTINCT error_code FROM silver.error_log").fetchall()
    assert errors == [("23505",)]
