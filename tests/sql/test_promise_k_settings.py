"""Promise k: no setting of whoever writes, reads or refreshes changes a result."""

from collections.abc import Callable
from typing import Any

import psycopg

from raw_tables import LEVELS, create_readings
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]

SETTINGS = [
    {
        "TimeZone": "Asia/Kolkata",
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "sql_standard",
        "extra_float_digits": "-10",
        "search_path": "trap, pg_catalog",
    },
    {
        "TimeZone": "America/St_Johns",
        "DateStyle": "German",
        "IntervalStyle": "postgres_verbose",
        "extra_float_digits": "0",
        "search_path": "trap, pg_temp",
    },
    {
        "TimeZone": "Pacific/Apia",
        "DateStyle": "Postgres, MDY",
        "IntervalStyle": "iso_8601",
        "search_path": "",
        "standard_conforming_strings": "on",
        "array_nulls": "off",
        "quote_all_identifiers": "on",
        "enable_partition_pruning": "off",
        "plan_cache_mode": "force_generic_plan",
        "default_transaction_deferrable": "on",
        "row_security": "off",
        "transform_null_equals": "on",
        "bytea_output": "escape",
    },
]

# Functions, an operator and tables that would answer first, were names looked up on the path.
TRAP = """
    CREATE SCHEMA trap;
    CREATE FUNCTION trap.date_bin(interval, timestamptz, timestamptz) RETURNS timestamptz
        LANGUAGE sql AS $$ SELECT timestamptz '1999-01-01' $$;
    CREATE FUNCTION trap.now() RETURNS timestamptz
        LANGUAGE sql AS $$ SELECT timestamptz '1999-01-01' $$;
    CREATE FUNCTION trap.lower(tstzrange) RETURNS timestamptz
        LANGUAGE sql AS $$ SELECT timestamptz '1999-01-01' $$;
    CREATE FUNCTION trap.format(text, text, text) RETURNS text
        LANGUAGE sql AS $$ SELECT 'DROP TABLE raw.readings' $$;
    CREATE FUNCTION trap.fewer(timestamptz, timestamptz) RETURNS boolean
        LANGUAGE sql AS $$ SELECT false $$;
    CREATE OPERATOR trap.< (FUNCTION = trap.fewer, LEFTARG = timestamptz, RIGHTARG = timestamptz);
    CREATE OPERATOR trap.>= (FUNCTION = trap.fewer, LEFTARG = timestamptz, RIGHTARG = timestamptz);
    CREATE TABLE trap.rollup_config (id integer);
    CREATE TABLE trap.change_log (id integer);
    CREATE TABLE trap.readings (ts integer);
    CREATE DOMAIN trap.timestamptz AS text;
    CREATE DOMAIN trap.tstzmultirange AS text;
    CREATE TABLE raw.details (
        ts timestamptz, floats double precision[], times timestamptz[], spans interval[],
        f double precision, t timestamptz, i interval, day date, bytes bytea
    );
    INSERT INTO raw.details
    SELECT timestamptz '2026-03-01 00:00+00' + make_interval(mins => 7 * i),
        ARRAY[1 / 3.0::float8, i / 7.0], ARRAY[timestamptz '2026-02-03 04:05:06.789+00'],
        ARRAY[interval '1 month -3 days 04:05', make_interval(hours => -i)],
        i / 4.0, timestamptz '2026-04-05 06:07:08.9+00' + make_interval(days => i),
        interval '1 month -3 days 04:05', date '2026-02-03' + i, 'ab'
    FROM generate_series(0, 399) AS i;
"""
CREATIONS = (
    "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1m', '1 minute',"
    " dimensions => '{device}')",
    "SELECT silver.create_rollup_table('readings_1m', 'silver', 'readings_1h', '1 hour')",
    "SELECT silver.create_rollup_table('readings_1h', 'silver', 'readings_1d', '1 day')",
    "SELECT silver.create_rollup_table('raw.details', 'silver', 'details_1h', '1 hour', 'ts')",
    "SELECT silver.create_rollup_table('details_1h', 'silver', 'details_1d', '1 day')",
    "SELECT silver.create_rollup_table('details_1d', 'silver', 'details_1mon', '1 month')",
)
NAMES = (*LEVELS, "details_1h", "details_1d", "details_1mon")
CHANGES = (
    "INSERT INTO raw.readings (ts, device, count) VALUES ('2026-03-02 23:59:59+00', 'd0', 1)",
    "UPDATE raw.readings SET ts = ts OPERATOR(pg_catalog.-) interval '11:00:01'"
    " WHERE device = 'd1'",
    "DELETE FROM raw.details WHERE f OPERATOR(pg_catalog.<) 30",
    "UPDATE raw.details SET ts = ts OPERATOR(pg_catalog.+) interval '24:00'"
    " WHERE f OPERATOR(pg_catalog.>) 100",
)


def test_promise_k_no_setting_changes_a_result(db: psycopg.Connection, connect: Connect) -> None:
    """Whoever creates, writes, refreshes and reads has other settings than the check has."""
    create_readings(db)
    db.execute("UPDATE raw.readings SET level = round(level * 8) / 8")  # sums in any order
    db.execute(TRAP.encode())
    hostile = [connect() for _ in SETTINGS]
    for connection, settings in zip(hostile, SETTINGS, strict=True):
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    creator, writer, refresher = hostile
    for statement in CREATIONS:
        creator.execute(statement.encode())
    assert_equal_to_group_by(db, *NAMES)
    for change in CHANGES:
        writer.execute(change.encode())
        assert_equal_to_group_by(db, *NAMES)
        expected = {name: _image(db, name) for name in NAMES}
        for reader in hostile:
            assert {name: _image(reader, name) for name in NAMES} == expected
        refresher.execute("CALL silver.run_rollups(as_of => 'infinity')")
        assert_settled(db, *NAMES)
        assert {name: _image(db, name) for name in NAMES} == expected
        writer, refresher = refresher, creator
        creator = writer
    versions = [db.execute(f"SELECT ctid, xmin FROM silver.{n}".encode()).fetchall() for n in NAMES]
    for connection in hostile:
        for name in NAMES:
            connection.execute("SELECT silver.mark_stale(%s, '-infinity', 'infinity')", [name])
        connection.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert versions == [
        db.execute(f"SELECT ctid, xmin FROM silver.{n}".encode()).fetchall() for n in NAMES
    ]
    refresh_everything(db)
    assert_settled(db, *NAMES)


def _image(connection: psycopg.Connection[Any], name: str) -> list[Any]:
    """What the reader is given, byte for byte."""
    return (
        connection.cursor(binary=True)
        .execute(
            f"SELECT pg_catalog.md5(pg_catalog.record_send(r)) FROM gold.{name} AS r"
            " ORDER BY bucket, row_count, 1".encode()
        )
        .fetchall()
    )
