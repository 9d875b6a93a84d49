"""Whoever else removes partitions takes what they held from the rollups: that is said, and
pg_partman's own retention gives way to set_retention."""

from datetime import UTC, datetime

import psycopg
import pytest

from raw_tables import maintained
from rollup_checks import assert_equal_to_group_by
from servers import PostgresServer

pytestmark = pytest.mark.partman

PROBLEMS = "SELECT problem, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"


@pytest.fixture
def kept(server: PostgresServer, db: psycopg.Connection) -> psycopg.Connection:
    """Days that pg_partman made and keeps for three."""
    if not server.has("pg_partman"):
        pytest.skip("needs pg_partman")
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.pm (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    four = server.name == "debian15"
    db.execute(
        "SELECT partman.create_parent('raw.pm', 'ts', p_premake => 2, p_interval => %s,"
        " p_start_partition => (current_date - 10)::text"
        f"{', p_type => %s' if four else ''})".encode(),
        ["daily", "native"] if four else ["1 day"],
    )
    db.execute(
        "UPDATE partman.part_config SET retention = '3 days', retention_keep_table = false"
        " WHERE parent_table = 'raw.pm'"
    )
    db.execute(
        "INSERT INTO raw.pm"
        " SELECT ts, 1 FROM generate_series(current_date - 9, now(), '1 hour') AS ts"
    )
    return db


def test_retention_of_pg_partman_is_warned_of_and_taken_over(kept: psycopg.Connection) -> None:
    notices: list[tuple[str | None, str | None, str | None]] = []
    kept.add_notice_handler(
        lambda n: notices.append((n.severity, n.message_primary, n.message_hint))
    )
    kept.execute("SELECT silver.create_rollup_table('raw.pm', 'silver', 'pm_1d', '1 day')")
    (warning,) = [notice for notice in notices if notice[0] == "WARNING"]
    assert "pg_partman removes partitions of raw.pm after 3 days" in str(warning[1])
    assert "silver.set_retention('raw.pm', '3 days')" in str(warning[2])
    problems = kept.execute(PROBLEMS).fetchall()
    assert problems == [warning[1:]]
    kept.execute("CALL silver.run_rollups()")
    before = kept.execute("TABLE gold.pm_1d ORDER BY bucket").fetchall()
    assert len(before) == 10

    kept.execute("SELECT silver.set_retention('raw.pm', '3 days')")
    assert any("switched off" in str(notice[1]) for notice in notices)
    assert kept.execute(PROBLEMS).fetchall() == []
    kept.execute("CALL partman.run_maintenance_proc()")
    for _ in range(2):
        kept.execute("SELECT * FROM silver.maintain_timeseries_tables()").fetchall()
        kept.execute("CALL silver.run_rollups()")
    assert kept.execute("SELECT min(ts) >= current_date - 3 FROM raw.pm").fetchone() == (True,)
    assert kept.execute("TABLE gold.pm_1d ORDER BY bucket").fetchall() == before


def test_who_may_not_take_it_over_is_told_what_to_run(kept: psycopg.Connection) -> None:
    kept.execute("SELECT silver.create_rollup_table('raw.pm', 'silver', 'pm_1d', '1 day')")
    kept.execute("GRANT CREATE ON SCHEMA raw TO tsrollup_owner")
    kept.execute("ALTER TABLE raw.pm OWNER TO tsrollup_owner")
    kept.execute("REVOKE UPDATE ON partman.part_config FROM tsrollup_owner")
    kept.execute("SET ROLE tsrollup_owner")
    with pytest.raises(psycopg.Error, match="pg_partman removes partitions") as error:
        kept.execute("SELECT silver.set_retention('raw.pm', '3 days')")
    assert "UPDATE partman.part_config SET retention = NULL" in str(error.value.diag.message_hint)


def test_partitions_that_somebody_takes_away_are_reported(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.s (ts timestamptz, v int) PARTITION BY RANGE (ts)")
    for number in range(1, 6):
        db.execute(
            f"CREATE TABLE raw.s_{number} PARTITION OF raw.s FOR VALUES"
            f" FROM ('2026-03-0{number} 00:00Z') TO ('2026-03-0{number + 1} 00:00Z')".encode()
        )
    db.execute(
        "INSERT INTO raw.s SELECT ts, 1 FROM generate_series("
        "'2026-03-01 12:00Z'::timestamptz, '2026-03-04 12:00Z', '1 day') AS ts"
    )
    db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1d', '1 day')")
    db.execute("CALL silver.run_rollups()")
    # Empty, split, and in another place: nothing is lost.
    db.execute("DROP TABLE raw.s_5")
    db.execute("ALTER TABLE raw.s DETACH PARTITION raw.s_4")
    db.execute(
        "ALTER TABLE raw.s ATTACH PARTITION raw.s_4"
        " FOR VALUES FROM ('2026-03-04 00:00Z') TO ('2026-03-06 00:00Z')"
    )
    db.execute("CALL silver.run_rollups()")
    assert db.execute("SELECT count(*) FROM silver.error_log").fetchone() == (0,)
    db.execute("DROP TABLE raw.s_1, raw.s_2")
    db.execute("CALL silver.run_rollups()")
    (row,) = db.execute("SELECT error_code, error_message, detail, hint FROM silver.error_log")
    assert row[0] == "TR007"
    assert "partitions left raw.s" in row[1]
    assert "from 2026-03-01 00:00:00+00 to 2026-03-02" in row[2]
    assert "set_retention" in row[3]
    assert db.execute("SELECT count(*) FROM gold.s_1d").fetchone() == (2,)
    assert_equal_to_group_by(db, "s_1d")
    row_ = db.execute("SELECT success_rate FROM silver.timeseries_operations_monitor").fetchone()
    assert row_ == (1,)


def test_retention_of_what_lies_below_is_taken_over_too(
    server: PostgresServer, db: psycopg.Connection
) -> None:
    """A set that pg_partman divides twice: each of its partitions is a set of its own there."""
    if server.name != "debian15":
        pytest.skip("needs pg_partman 4")
    db.execute("CREATE TABLE raw.pm (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    db.execute("SELECT partman.create_parent('raw.pm', 'ts', 'native', 'monthly', p_premake => 2)")
    db.execute(
        "SELECT partman.create_sub_parent("
        "'raw.pm', 'ts', 'native', 'daily', p_native_check => 'yes')"
    )
    db.execute("SELECT silver.create_rollup_table('raw.pm', 'silver', 'pm_1d', '1 day')")
    for change in (
        "part_config SET retention = '40 days' WHERE parent_table LIKE 'raw.pm_p%'",
        "part_config_sub SET sub_retention = '40 days' WHERE sub_parent = 'raw.pm'",
    ):
        assert db.execute(PROBLEMS).fetchall() == []
        db.execute(f"UPDATE partman.{change}".encode())
        problem, _ = db.execute(PROBLEMS).fetchall()[0]
        assert "pg_partman removes partitions of raw.pm after 40 days" in problem
        db.execute("SELECT silver.set_retention('raw.pm', '40 days')")
    assert db.execute(PROBLEMS).fetchall() == []
    left = db.execute("SELECT count(retention) FROM partman.part_config").fetchone()
    assert left == (0,)


def test_a_month_that_pg_partman_divides_is_forgotten_with_its_partition(
    server: PostgresServer, db: psycopg.Connection
) -> None:
    """Where it does not find one, its maintenance stops for all tables of the database."""
    if server.name != "debian15":
        pytest.skip("needs pg_partman 4")
    db.execute("CREATE TABLE raw.pm (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    db.execute(
        "SELECT partman.create_parent('raw.pm', 'ts', 'native', 'monthly', p_premake => 1,"
        " p_start_partition => (now() - interval '4 months')::text)"
    )
    db.execute(
        "SELECT partman.create_sub_parent("
        "'raw.pm', 'ts', 'native', 'daily', p_native_check => 'yes')"
    )
    db.execute("SELECT silver.create_rollup_table('raw.pm', 'silver', 'pm_1d', '1 day')")
    db.execute("CALL silver.run_rollups()")
    months = "SELECT count(*), count(to_regclass(parent_table)) FROM partman.part_config"
    before = db.execute(months).fetchone() or (0, 0)
    db.execute("SELECT silver.set_retention('raw.pm', '35 days')")
    for _ in range(4):
        maintained(db, datetime.now(UTC))
    known, there = db.execute(months).fetchone() or (0, 0)
    assert known == there < before[0] == before[1]
