"""Nobody changes by hand what the rows of a rollup mean: gold would be wrong, and health ok."""

from datetime import timedelta

import psycopg
import pytest
from psycopg import errors

from rollup_checks import (
    assert_equal_to_group_by,
    force_configuration,
    refresh_everything,
)

OPTIONS = (
    "settle_delay",
    "processing_window",
    "target_batch_duration",
    "look_back_window",
    "chunk_interval",
)
PROGRESS = ("query_shape", "is_active", "current_window", "source_rows", "retry_count")
# What each column of another kind may not become, in SQL.
CHANGES = {
    "target_table": "'silver.other_1h'",
    "target_view": "'gold.other_1h'",
    "target_name": "'silver.other_1h'",
    "source_table": "'raw.other'",
    "source_id": "3 - source_id",
    "depth": "depth + 1",
    "bucket_width": "'2 hours'",
    "timezone": "'Europe/Berlin'",
    "origin": "now()",
    "dimensions": "'{}'",
    "metrics": """'{"v": ["max"]}'""",
    "cell_width": "'7 days'",
    "change_tracking": "CASE change_tracking WHEN 'window' THEN 'trigger' ELSE 'window' END",
    "retention": "'1 day'",
    "sealed_before": "'2026-03-02'",
    "created_at": "now()",
    "key_dimension": "'d'",
    "time_unit": "'s'",
    "expressions": """'{"v": "1"}'""",
    "filter": "'false'",
    "row_sql": """'{"filter": {"template": "false", "columns": [], "type": "boolean"}}'""",
}


@pytest.fixture
def rollups(db: psycopg.Connection) -> psycopg.Connection:
    for table in ("raw.r", "raw.other"):
        db.execute(
            f"CREATE TABLE {table} (ts timestamptz, made timestamptz, d text, v int);"
            f"INSERT INTO {table} SELECT t, t, 'd', 1 FROM generate_series("
            " timestamptz '2026-03-01 00:00+00', '2026-03-03 00:00+00', '20 minutes') AS t".encode()
        )
    for source, name, width, tracking in (
        ("raw.r", "r_1h", "1 hour", "trigger"),
        ("r_1h", "r_1d", "1 day", "trigger"),
        ("raw.other", "other_1h", "1 hour", "window"),
        ("other_1h", "other_1d", "1 day", "trigger"),
    ):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval, dimensions => '{d}',"
            """ time_column => %s, metrics => '{"v": ["sum", "avg"]}', change_tracking => %s,"""
            " look_back_window => CASE %s WHEN 'raw.other' THEN interval '900 years' END)",
            [source, name, width, "ts" if "." in source else None, tracking, source],
        )
    refresh_everything(db)
    return db


def change(db: psycopg.Connection, column: str, value: str, table: str) -> None:
    db.execute(
        f"UPDATE silver.rollup_config SET {column} = {value}"
        f" WHERE target_table = 'silver.{table}'::regclass".encode()
    )


def is_valid(db: psycopg.Connection) -> bool:
    return (
        db.execute("SELECT FROM silver.validate_rollup_config() WHERE NOT is_valid").fetchall()
        == []
    )


def test_what_rows_mean_is_not_updated(rollups: psycopg.Connection) -> None:
    rollups.execute("SET ROLE tsrollup_owner")
    for table in ("r_1h", "r_1d", "other_1d"):
        others = {
            "parent_id": "NULL" if table.endswith("1d") else "2",
            "time_column": "'made'" if table.endswith("1h") else "'d'",
        }
        for column, value in (CHANGES | others).items():
            with pytest.raises(errors.DatabaseError) as refusal:
                change(rollups, column, value, table)
            assert refusal.value.sqlstate == "TR003"
            assert refusal.value.diag.message_primary == (
                f"{column} of silver.{table} cannot be changed in silver.rollup_config"
            )
            assert f"'silver.{table}'" in str(refusal.value.diag.message_hint)
    rollups.execute("RESET ROLE")
    assert_equal_to_group_by(rollups, "r_1h", "r_1d", "other_1h", "other_1d")


def test_every_column_is_guarded_but_for_options_and_progress(rollups: psycopg.Connection) -> None:
    free = rollups.execute(
        "SELECT a.attname FROM pg_attribute AS a, pg_trigger AS t"
        " WHERE a.attrelid = 'silver.rollup_config'::regclass AND a.attnum > 0"
        " AND t.tgrelid = a.attrelid AND t.tgname = 'guard_configuration'"
        " AND NOT a.attnum = ANY (t.tgattr::smallint[]) ORDER BY a.attnum"
    ).fetchall()
    guarded = {*CHANGES, *OPTIONS, "id", "parent_id", "time_column"}
    names = rollups.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'silver.rollup_config'::regclass"
        " AND attnum > 0"
    ).fetchall()
    assert {row[0] for row in names} - {row[0] for row in free} == guarded
    assert {row[0] for row in free} >= set(PROGRESS)


def test_options_are_updated_as_they_are_given(rollups: psycopg.Connection) -> None:
    values = ("'1 hour'", "'2 days'", "'1 second'", "'3 days'", "'60 days'")
    for table in ("r_1h", "r_1d", "other_1h", "other_1d"):
        for column, value in zip(OPTIONS, values, strict=True):
            change(rollups, column, value, table)
        rollups.execute("SELECT silver.alter_rollup(%s, settle_delay => '2 hours')", [table])
    rollups.execute("INSERT INTO raw.r VALUES ('2026-03-01 00:30+00', now(), 'd', 7)")
    refresh_everything(rollups)
    assert is_valid(rollups)
    assert_equal_to_group_by(rollups, "r_1h", "r_1d")


def test_options_are_checked_as_those_of_a_new_rollup(rollups: psycopg.Connection) -> None:
    for column, value in (
        ("settle_delay", "'-1 hour'"),
        ("settle_delay", "'10000 years'"),
        ("processing_window", "'0'"),
        ("processing_window", "'10000 years'"),
        ("target_batch_duration", "'10000 years'"),
        ("look_back_window", "'10000 years'"),
        ("look_back_window", "NULL"),
        ("chunk_interval", "'1 minute'"),
        ("chunk_interval", "'1 month 1 day'"),
        ("chunk_interval", "'10000 years'"),
    ):
        with pytest.raises(errors.DatabaseError, match=column) as refusal:
            change(rollups, column, value, "other_1h")
        assert refusal.value.sqlstate == "TR001"
        assert refusal.value.diag.message_hint
    assert is_valid(rollups)


def test_rows_of_the_configuration_go_with_the_rollup(rollups: psycopg.Connection) -> None:
    for statement in (
        "DELETE FROM silver.rollup_config WHERE target_name = 'silver.r_1d'",
        "TRUNCATE silver.rollup_config",
    ):
        with pytest.raises(errors.DatabaseError) as refusal:
            rollups.execute(statement.encode())
        assert refusal.value.sqlstate == "TR003"
        assert "drop_rollup" in str(refusal.value.diag.message_hint)
    rollups.execute("SELECT silver.drop_rollup('r_1d')")
    rollups.execute("SELECT silver.drop_rollup('r_1h', keep_table => true)")
    assert rollups.execute("SELECT count(*) FROM silver.rollup_config").fetchone() == (2,)


def test_a_row_that_was_written_by_hand_is_told(rollups: psycopg.Connection) -> None:
    rollups.execute(
        "CREATE TABLE silver.made (bucket timestamptz, row_count bigint);"
        "CREATE VIEW gold.made AS SELECT * FROM silver.made;"
        "INSERT INTO silver.rollup_config (target_table, target_view, target_name, source_table,"
        " source_id, depth, time_column, bucket_width, dimensions, metrics, chunk_interval,"
        " cell_width, settle_delay, target_batch_duration, change_tracking, current_window)"
        " SELECT 'silver.made', 'gold.made', 'silver.made', source_table, source_id, depth,"
        " time_column, '1 day', '{}', '{}', chunk_interval, cell_width, settle_delay,"
        " target_batch_duration, change_tracking, current_window FROM silver.rollup_config"
        " WHERE target_name = 'silver.r_1h'"
    )
    for _ in range(2):
        assert rollups.execute(
            "SELECT health FROM silver.timeseries_operations_monitor"
            " WHERE target_table::text = 'silver.made'"
        ).fetchall() == [("invalid",)]
        rollups.execute("INSERT INTO raw.r VALUES ('2026-03-01 00:30+00', now(), 'd', 7)")
        rollups.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
        assert_equal_to_group_by(rollups, "r_1h", "r_1d")


def test_what_the_machinery_changes_passes(rollups: psycopg.Connection) -> None:
    """Columns renamed, a source made anew, metrics, retention and seals, a view made anew."""
    rollups.execute("ALTER TABLE raw.r RENAME ts TO at")
    rollups.execute("ALTER TABLE silver.r_1d RENAME TO r_day")
    refresh_everything(rollups)
    rollups.execute("""SELECT silver.add_rollup_metric('r_1h', '{"v": ["max", "first"]}')""")
    rollups.execute(
        "CREATE TABLE raw.made AS TABLE raw.r; DROP TABLE raw.r;"
        "ALTER TABLE raw.made RENAME TO r; GRANT SELECT ON raw.r TO tsrollup_owner"
    )
    refresh_everything(rollups)
    rollups.execute("DROP VIEW gold.r_1d")
    rollups.execute("SELECT silver.rebuild_rollup('silver.r_day')")
    rollups.execute("SELECT silver.set_retention('silver.r_day', '30 days')")
    rollups.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    refresh_everything(rollups)
    assert rollups.execute(
        "SELECT source_table::text, time_column, metrics -> 'v', retention, sealed_before IS NULL"
        " FROM silver.rollup_config WHERE source_id = 1 ORDER BY depth"
    ).fetchall() == [
        ("raw.r", "at", ["avg", "first", "max", "sum"], None, True),
        ("silver.r_1h", "bucket", ["avg", "sum"], timedelta(30), False),
    ]
    assert_equal_to_group_by(rollups, "r_1h", "silver.r_day")


def test_what_is_sealed_stays_so(rollups: psycopg.Connection) -> None:
    force_configuration(rollups, "sealed_before = '2026-03-02 00:00+00' WHERE source_id = 1")
    for value in ("NULL", "'2026-03-01'", "'2026-03-03'"):
        with pytest.raises(errors.DatabaseError, match="sealed_before of "):
            change(rollups, "sealed_before", value, "r_1h")
