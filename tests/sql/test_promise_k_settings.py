"""Promise k: no setting of whoever writes, reads or refreshes changes a result."""

import secrets
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from raw_tables import LEVELS, create_readings
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer

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


# Everything that a session can set and that could reach a result, none at its default; kept apart
# where one could hide another. Those of the last kind only a superuser may set.
KINDS_OF_SETTINGS = {
    "text": {
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "sql_standard",
        "TimeZone": "America/St_Johns",
        "array_nulls": "off",
        "bytea_output": "escape",
        "default_text_search_config": "pg_catalog.german",
        "extra_float_digits": "-15",
        "lc_monetary": "C",
        "lc_numeric": "C",
        "lc_time": "C",
        "xmlbinary": "hex",
        "xmloption": "document",
    },
    "literals": {
        "backslash_quote": "off",
        "client_encoding": "LATIN1",
        "escape_string_warning": "off",
        "standard_conforming_strings": "off",
        "transform_null_equals": "on",
    },
    "names": {
        "check_function_bodies": "off",
        "plpgsql.extra_errors": "all",
        "quote_all_identifiers": "on",
        "search_path": "trap, pg_catalog",
    },
    "plans": {
        "constraint_exclusion": "off",
        "cursor_tuple_fraction": "1",
        "default_statistics_target": "1",
        "enable_hashagg": "off",
        "enable_partition_pruning": "off",
        "enable_partitionwise_aggregate": "on",
        "enable_seqscan": "off",
        "gin_fuzzy_search_limit": "1",
        "join_collapse_limit": "1",
        "min_parallel_table_scan_size": "0",
        "parallel_setup_cost": "0",
        "parallel_tuple_cost": "0",
        "plan_cache_mode": "force_generic_plan",
        "work_mem": "64kB",
    },
    "transactions": {
        "default_toast_compression": "pglz",
        "default_transaction_deferrable": "on",
        "lock_timeout": "1min",
        "row_security": "off",
        "statement_timeout": "1min",
        "stats_fetch_consistency": "snapshot",
        "synchronous_commit": "off",
    },
    "replication": {"session_replication_role": "replica"},
}

SMALL_SOURCE = """
    CREATE TABLE raw.small (
        ts timestamptz NOT NULL, device text, f float8, t timestamptz, i interval, bytes bytea,
        texts text[]
    ) PARTITION BY RANGE (ts);
    CREATE INDEX ON raw.small (ts);
    CREATE TABLE raw.small_1 PARTITION OF raw.small
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-03 00:00+00');
    CREATE TABLE raw.small_2 PARTITION OF raw.small
        FOR VALUES FROM ('2026-03-03 00:00+00') TO ('2026-03-05 00:00+00');
    CREATE TABLE raw.small_3 (LIKE raw.small INCLUDING ALL);
    CREATE FUNCTION raw.add_small(target regclass, from_time timestamptz) RETURNS void
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
        SET intervalstyle = 'postgres' SET timezone = 'UTC' SET standard_conforming_strings = on
    AS $$ BEGIN
        EXECUTE format($q$INSERT INTO %s SELECT $1 + make_interval(mins => 20 * n),
            (ARRAY['a\\b', 'd''2', NULL])[1 + n %% 3], n / 4.0,
            '2026-04-05 06:07:08.9+00'::timestamptz + make_interval(days => n),
            interval '1 month -3 days 04:05' * n, '\\x00ff'::bytea || int4send(n),
            ARRAY['NULL', NULL, n::text]
            FROM generate_series(0, 120) AS n$q$, target) USING from_time;
    END $$;
    SELECT raw.add_small('raw.small', '2026-03-01 12:00+00');
    SELECT raw.add_small('raw.small_3', '2026-03-05 12:00+00');
    CREATE SCHEMA IF NOT EXISTS trap;
"""
SMALL_ROLLUPS = ("small_1h", "small_1d")
SMALL_STEPS = (
    # What triggers see, what only the drain finds, and everything.
    "UPDATE raw.small SET ts = ts OPERATOR(pg_catalog.+) interval '11:00:01' WHERE f = 3",
    "DELETE FROM raw.small WHERE f = 7",
    "TRUNCATE raw.small_2",
    "ALTER TABLE raw.small ATTACH PARTITION raw.small_3"
    " FOR VALUES FROM ('2026-03-05 00:00+00') TO ('2026-03-08 00:00+00')",
    "SELECT silver.mark_stale('raw.small', '-infinity', 'infinity')",
    "SELECT silver.mark_stale('small_1h', '2026-03-02 00:30+00', '2026-03-02 01:30+00')",
    """SELECT silver.add_rollup_metric('small_1h', '{"f": ["min"]}')""",
    "ALTER TABLE raw.small DETACH PARTITION raw.small_1",
)


@pytest.mark.parametrize("kind", KINDS_OF_SETTINGS)
def test_promise_k_no_kind_of_setting_changes_a_result_from_creation_to_drop(
    server: PostgresServer, db: psycopg.Connection, connect: Connect, kind: str
) -> None:
    db.execute(SMALL_SOURCE.encode())
    hostile = connect(user=server.superuser if kind == "replication" else None)
    for name, value in KINDS_OF_SETTINGS[kind].items():
        hostile.execute("SELECT set_config(%s, %s, false)", [name, value])
    parent = "raw.small"
    for name, width in zip(SMALL_ROLLUPS, ("1 hour", "1 day"), strict=True):
        hostile.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval)",
            [parent, name, width],
        )
        parent = name
    for step in (None, *SMALL_STEPS):
        if step:
            hostile.execute(step.encode())
        if not step or "TACH" not in step:  # those only the next drain finds
            assert_equal_to_group_by(db, *SMALL_ROLLUPS)
            for name in SMALL_ROLLUPS:
                assert _image(hostile, name) == _image(db, name)
        hostile.execute("CALL silver.run_rollups(as_of => 'infinity')")
        assert_settled(db, *SMALL_ROLLUPS)
    assert _monitor(hostile) == _monitor(db)
    assert _monitor(db) == [("silver.small_1h", "ok", 1.0), ("silver.small_1d", "ok", 1.0)]
    assert hostile.execute("SELECT is_valid FROM silver.validate_rollup_config()").fetchall() == [
        (True,),
        (True,),
    ]

    hostile.execute("SELECT silver.set_retention('small_1h', '30 days')")
    hostile.execute("SELECT silver.set_retention('raw.small', '20 days')")
    for _ in range(3):
        hostile.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    # But for the partition that was detached by hand.
    errors = db.execute("SELECT error_message FROM silver.error_log WHERE error_code <> 'TR007'")
    assert errors.fetchall() == []
    for name in reversed(SMALL_ROLLUPS):
        hostile.execute("SELECT silver.drop_rollup(%s)", [name])
    for table in ("source", "source_partition", "rollup_column", "stale_range", "change_log"):
        left = db.execute(f"SELECT count(*) FROM rollup_engine.{table}".encode()).fetchone()
        assert left == (0,), table


def _monitor(connection: psycopg.Connection[Any]) -> list[Any]:
    return connection.execute(
        "SELECT target_table, health, success_rate FROM silver.timeseries_operations_monitor"
        " ORDER BY target_table DESC"
    ).fetchall()


# A value of each kind of type, as SQL text under default settings.
VALUES = {
    "double precision": "1 / 3.0::double precision",
    "real": "1 / 3.0::real",
    "numeric(9,3)": "1.500",
    "timestamptz": "'2026-07-01 12:00:00.123456+00'",
    "timestamp": "'0044-03-15 12:00:00 BC'",
    "date": "'2026-02-03'",
    "interval": "'1 mon -3 days 04:05'",
    "bytea": "'ab'::bytea || '\\x00ff'::bytea",
    "xml": "xmlconcat('<a/>', '<b/>')",
    "character(5)": "'ab'",
    "bit(3)": "B'101'",
    "text[]": "ARRAY['NULL', NULL, 'a\\b']",
    "double precision[]": "ARRAY[1 / 3.0::double precision, NULL]",
    "tstzrange": "tstzrange('2026-02-03 04:05+00', NULL)",
    "raw.pair": "ROW(1 / 3.0::double precision, NULL)::raw.pair",
    "raw.level": "'high'",
    "raw.kelvin": "1 / 3.0::double precision",
}
STYLES = [
    {"extra_float_digits": "0"},
    {"extra_float_digits": "-15"},
    {"DateStyle": "SQL, DMY", "TimeZone": "Asia/Kolkata"},
    {"DateStyle": "SQL, DMY", "TimeZone": "Asia/Shanghai"},
    {"DateStyle": "German", "IntervalStyle": "sql_standard", "TimeZone": "Pacific/Apia"},
    {"IntervalStyle": "iso_8601", "bytea_output": "escape", "xmloption": "document"},
    {"array_nulls": "off", "IntervalStyle": "postgres_verbose", "DateStyle": "Postgres, DMY"},
    {"min_parallel_table_scan_size": "0", "parallel_setup_cost": "0", "parallel_tuple_cost": "0"},
]


def test_promise_k_first_and_last_value_return_what_they_were_given(
    db: psycopg.Connection, connect: Connect
) -> None:
    """To the last bit, for every kind of type, under every setting that text can depend on."""
    db.execute("CREATE TYPE raw.pair AS (f double precision, t timestamptz)")
    db.execute("CREATE TYPE raw.level AS ENUM ('low', 'high')")
    db.execute("CREATE DOMAIN raw.kelvin AS double precision CHECK (VALUE > 0)")
    values = dict(VALUES)
    try:
        db.execute("SELECT xmlconcat('<a/>')")
    except psycopg.errors.FeatureNotSupported:
        del values["xml"]
    columns = ", ".join(f"c{i} {type_}" for i, type_ in enumerate(values))
    db.execute(f"CREATE TABLE raw.values (ts timestamptz, {columns})".encode())
    given = ", ".join(values.values())
    db.execute(
        "INSERT INTO raw.values (ts) SELECT '2026-01-01 00:00+00'::timestamptz + n * interval '1 s'"
        " FROM generate_series(2, 2000) AS n"
    )
    for time in ("2026-01-01 00:00+00", "2026-01-02 00:00+00"):
        db.execute(f"INSERT INTO raw.values SELECT '{time}', {given}".encode())
    db.execute("INSERT INTO raw.values (ts) VALUES (NULL)")
    db.execute("ANALYZE raw.values")
    for style in STYLES:
        connection = connect()
        for name, value in style.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        for i, type_ in enumerate(values):
            for aggregate in ("first_value", "last_value"):
                row = connection.execute(
                    f"SELECT ROW(a.v)::record *= ROW(v.c{i})::record"
                    f" FROM (SELECT silver.{aggregate}(c{i}, ts) AS v FROM raw.values) AS a,"
                    " raw.values AS v"
                    " WHERE v.ts OPERATOR(pg_catalog.=) timestamptz '2026-01-01 00:00+00'".encode()
                ).fetchone()
                assert row == (True,), (type_, aggregate, style)


def test_row_security_that_was_on_for_a_while_hides_no_change(db: psycopg.Connection) -> None:
    """While it is on, the owner role would see nothing: reads fail, and nothing counts as empty."""
    db.execute("""
        CREATE TABLE raw.hidden (ts timestamptz, v integer) PARTITION BY RANGE (ts);
        CREATE TABLE raw.hidden_1 PARTITION OF raw.hidden
            FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
        CREATE TABLE raw.hidden_2 (ts timestamptz, v integer);
        INSERT INTO raw.hidden VALUES ('2026-03-01 01:00+00', 1);
        INSERT INTO raw.hidden_2 VALUES ('2026-03-02 02:00+00', 10), ('2026-03-03 03:00+00', 20);
    """)
    db.execute("SELECT silver.create_rollup_table('raw.hidden', 'silver', 'hidden_1h', '1 hour')")
    refresh_everything(db)
    db.execute("ALTER TABLE raw.hidden ENABLE ROW LEVEL SECURITY")
    db.execute(
        "ALTER TABLE raw.hidden ATTACH PARTITION raw.hidden_2"
        " FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-04 00:00+00')"
    )
    db.execute("SELECT silver.mark_stale('raw.hidden', '-infinity', 'infinity')")
    db.execute("CALL silver.run_rollups(as_of => 'infinity')")
    with pytest.raises(psycopg.Error, match="row-level security"):
        db.execute("SELECT * FROM gold.hidden_1h")
    health = db.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchall()
    assert health != [("ok",)]
    db.execute("ALTER TABLE raw.hidden DISABLE ROW LEVEL SECURITY")
    db.execute("SELECT silver.reset_rollup_retry('hidden_1h')")
    refresh_everything(db)
    assert_settled(db, "hidden_1h")


def test_partitions_lie_where_their_rollup_does_whoever_refreshes(
    server: PostgresServer, db: psycopg.Connection, connect: Connect
) -> None:
    """Not where the session that makes them would put tables, where the owner role may not."""
    create_readings(db)
    db.execute(CREATIONS[0].encode())
    space = f"t_{secrets.token_hex(4)}"
    superuser = connect(user=server.superuser)
    superuser.execute("SET allow_in_place_tablespaces = on")
    superuser.execute(f"CREATE TABLESPACE {space} LOCATION ''".encode())
    try:
        superuser.execute(f"GRANT CREATE ON TABLESPACE {space} TO {server.user}".encode())
        db.execute("SELECT set_config('default_tablespace', %s, false)", [space])
        db.execute("CALL silver.run_rollups(as_of => 'infinity')")
        assert_settled(db, "readings_1m")
    finally:
        superuser.execute(f"DROP TABLESPACE {space}".encode())
