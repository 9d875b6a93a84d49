"""Whoever else removes partitions takes what they held from the rollups: that is said, and
pg_partman's own retention gives way to set_retention."""

from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.rows import dict_row

from raw_tables import maintained
from rollup_checks import assert_equal_to_group_by
from servers import PostgresServer
from tsrollup.doctor import examine

pytestmark = pytest.mark.partman

PROBLEMS = "SELECT problem, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"


LONG = "raw.measurements_of_all_devices_by_customer_and_region"  # 49 bytes and the schema


def create_set(db: psycopg.Connection, table: str, width: str, days_ago: int) -> None:
    """Partitions since then that pg_partman makes by itself."""
    db.execute(
        f"CREATE TABLE {table} (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)".encode()
    )
    db.execute(
        f"SELECT partman.create_parent(%s, 'ts', {kind(db)}p_premake => 2, p_interval => %s,"
        " p_start_partition => date_trunc('month', current_date - %s)::text)".encode(),
        [table, width, days_ago],
    )


def divide_by_days(db: psycopg.Connection, table: str) -> None:
    check = "p_native_check" if kind(db) else "p_declarative_check"
    options = f"{kind(db)}p_interval => '1 day', {check} => 'yes'"
    db.execute(f"SELECT partman.create_sub_parent(%s, 'ts', {options})".encode(), [table])


def kind(db: psycopg.Connection) -> str:
    row = db.execute("SELECT extversion LIKE '4%' FROM pg_extension WHERE extname = 'pg_partman'")
    return "p_type => 'native', " if row.fetchone() == (True,) else ""


def assert_goes_on(db: psycopg.Connection) -> None:
    """Where pg_partman does not find a table, or no partition, it stops for all tables."""
    db.execute("CALL partman.run_maintenance_proc()")
    gone = "SELECT parent_table FROM partman.part_config WHERE to_regclass(parent_table) IS NULL"
    assert db.execute(gone).fetchall() == []


@pytest.fixture
def partman(server: PostgresServer, db: psycopg.Connection) -> psycopg.Connection:
    if not server.has("pg_partman"):
        pytest.skip("needs pg_partman")
    db.execute("SET timezone = 'UTC'")
    return db


@pytest.fixture
def kept(server: PostgresServer, partman: psycopg.Connection) -> psycopg.Connection:
    """Days that pg_partman made and keeps for three."""
    db = partman
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


def test_what_pg_partman_keeps_aside_is_to_be_archived(kept: psycopg.Connection) -> None:
    kept.execute("SELECT silver.create_rollup_table('raw.pm', 'silver', 'pm_1d', '1 day')")
    for change, archive in (
        ("retention_keep_table = true", True),
        ("retention_keep_table = false", False),
        ("retention_schema = 'silver'", True),
    ):
        kept.execute(f"UPDATE partman.part_config SET {change}".encode())
        ((_, hint),) = kept.execute(PROBLEMS).fetchall()
        call = "SELECT silver.set_retention('raw.pm', '3 days'"
        assert hint.startswith(f"{call}, archive => true) does" if archive else f"{call}) does")


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


@pytest.mark.parametrize("table", ["raw.pm", "raw.measurements_of_devices_by_customer"])
def test_a_month_that_pg_partman_divides_is_forgotten_with_its_partition(
    partman: psycopg.Connection, table: str
) -> None:
    create_set(partman, table, "1 month", 120)
    divide_by_days(partman, table)
    partman.execute("SELECT silver.create_rollup_table(%s, 'silver', 'pm_1d', '1 day')", [table])
    partman.execute("CALL silver.run_rollups()")
    months = "SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass(%s)"
    before = partman.execute(months, [table]).fetchone() or (0,)
    partman.execute("SELECT silver.set_retention(%s, '35 days')", [table])
    for _ in range(4):
        maintained(partman, datetime.now(UTC))
    assert (partman.execute(months, [table]).fetchone() or (0,)) < before
    assert_goes_on(partman)


def test_a_month_ahead_that_gives_way_to_a_narrower_width_is_forgotten(
    partman: psycopg.Connection,
) -> None:
    create_set(partman, "raw.pm", "1 month", 0)
    divide_by_days(partman, "raw.pm")
    partman.execute("SELECT silver.create_rollup_table('raw.pm', 'silver', 'pm_1d', '1 day')")
    partman.execute("SELECT silver.partition_source('raw.pm', '1 month')")
    known = "SELECT count(*) FROM partman.part_config WHERE parent_table LIKE 'raw.pm_p%'"
    before = partman.execute(known).fetchone() or (0,)
    partman.execute("SELECT silver.set_retention('raw.pm', '35 days')")
    assert (partman.execute(known).fetchone() or (0,)) < before
    assert_goes_on(partman)


def test_the_last_partition_of_what_pg_partman_goes_on_with_stays(
    partman: psycopg.Connection,
) -> None:
    create_set(partman, "raw.pm", "1 day", 90)
    partman.execute("INSERT INTO raw.pm SELECT now() - interval '70 days', 1")
    partman.execute(
        "DO $$ DECLARE v_name text; BEGIN"
        " FOR v_name IN SELECT m.member::text FROM rollup_engine.partition_bounds('raw.pm') AS m"
        "   WHERE isfinite(to_time) AND from_time > now() - interval '60 days' LOOP"
        "   EXECUTE format('DROP TABLE %s', v_name); END LOOP; END $$"
    )
    partman.execute("SELECT silver.create_rollup_table('raw.pm', 'silver', 'pm_1d', '1 day')")
    partman.execute("CALL silver.run_rollups()")
    partman.execute("SELECT silver.set_retention('raw.pm', '20 days')")
    for _ in range(3):
        maintained(partman, datetime.now(UTC))
    left = "SELECT count(*) FROM rollup_engine.partition_bounds('raw.pm') WHERE isfinite(to_time)"
    assert partman.execute(left).fetchone() == (1,)
    assert_goes_on(partman)


def test_retention_of_a_table_whose_name_it_would_cut_is_seen_and_taken_over(
    partman: psycopg.Connection,
) -> None:
    create_set(partman, LONG, "1 day", 40)
    partman.execute("UPDATE partman.part_config SET retention = '20 days'")
    partman.execute("SELECT silver.create_rollup_table(%s, 'silver', 'pm_1d', '1 day')", [LONG])
    ((problem, _),) = partman.execute(PROBLEMS).fetchall()
    assert "pg_partman removes partitions" in problem
    partman.execute("SELECT silver.partition_source(%s, '1 day')", [LONG])
    row = "SELECT retention, automatic_maintenance FROM partman.part_config WHERE parent_table = %s"
    assert partman.execute(row, [LONG]).fetchall() == [(None, "off")]
    maintained(partman, datetime.now(UTC))
    assert_goes_on(partman)


def test_what_pg_partman_may_have_divided_stays_where_it_cannot_be_told(
    server: PostgresServer, partman: psycopg.Connection
) -> None:
    create_set(partman, "raw.pm", "1 month", 120)
    divide_by_days(partman, "raw.pm")
    partman.execute("SELECT silver.create_rollup_table('raw.pm', 'silver', 'pm_1d', '1 day')")
    partman.execute("CALL silver.run_rollups()")
    partman.execute("GRANT USAGE, CREATE ON SCHEMA raw TO tsrollup_owner")
    partman.execute(
        "DO $$ DECLARE t regclass; BEGIN"
        " FOR t IN SELECT rollup_engine.partition_tree('raw.pm') LOOP"
        "   EXECUTE format('ALTER TABLE %s OWNER TO tsrollup_owner', t); END LOOP; END $$"
    )
    url = server.superuser_url(partman.info.dbname)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as superuser:
        partman.execute("REVOKE ALL ON partman.part_config FROM tsrollup_owner")
        (finding,) = [f for f in examine(superuser) if f.check == "pg_partman" and f.next_step]
        assert finding.found.startswith("out of reach")
        partman.execute("SET ROLE tsrollup_owner")
        partman.execute("SELECT silver.set_retention('raw.pm', '35 days')")
        for _ in range(3):
            actions = maintained(partman, datetime.now(UTC))
        ((_, action, detail), *_) = actions
        assert action == "skipped"
        assert "which may have divided raw.pm_p" in detail
        assert str(finding.next_step) in detail
        superuser.execute(finding.next_step.encode())
        assert {action for _, action, _ in maintained(partman, datetime.now(UTC))} == {"dropped"}
    partman.execute("RESET ROLE")
    assert_goes_on(partman)


def test_what_pg_partman_did_not_name_goes_where_it_cannot_be_asked(
    partman: psycopg.Connection,
) -> None:
    partman.execute("REVOKE ALL ON partman.part_config FROM tsrollup_owner")
    partman.execute("CREATE TABLE raw.s (ts timestamptz NOT NULL) PARTITION BY RANGE (ts)")
    partman.execute(
        "CREATE TABLE raw.s_1 PARTITION OF raw.s FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')"
    )
    partman.execute("GRANT USAGE, CREATE ON SCHEMA raw TO tsrollup_owner")
    partman.execute("ALTER TABLE raw.s OWNER TO tsrollup_owner")
    partman.execute("ALTER TABLE raw.s_1 OWNER TO tsrollup_owner; SET ROLE tsrollup_owner")
    partman.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1d', '1 day')")
    partman.execute("CALL silver.run_rollups()")
    partman.execute("SELECT silver.set_retention('raw.s', '3 days')")
    for _ in range(2):
        maintained(partman, datetime.now(UTC))
    assert partman.execute("SELECT to_regclass('raw.s_1')").fetchone() == (None,)
