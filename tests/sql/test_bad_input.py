"""Bad input for every argument: one clear line that names the offender, a code and a hint."""

import re
from typing import Any

import psycopg
import pytest
from psycopg import sql

from conftest import Connect
from rollup_checks import refresh_everything

CREATE = (
    "SELECT silver.create_rollup_table(source_table_name => {source}, target_schema => {schema},"
    " target_table_name => {table}, rollup_table_interval => {interval}, time_column => {time},"
    " dimensions => {dimensions}, metrics => {metrics}, chunk_interval => {chunk},"
    " settle_delay => {settle}, processing_window => {window},"
    " target_batch_duration => {duration}, change_tracking => {tracking},"
    " look_back_window => {look_back}, retention => {retention}, if_not_exists => {exists})"
)
GOOD = {
    "source": "'raw.readings'",
    "schema": "'silver'",
    "table": "'fresh'",
    "interval": "'1 hour'",
    "time": "'ts'",
    "dimensions": "'{device}'",
    "metrics": '\'{"v": ["avg"]}\'',
    "chunk": "NULL",
    "settle": "'1 minute'",
    "window": "NULL",
    "duration": "'5 seconds'",
    "tracking": "'trigger'",
    "look_back": "NULL",
    "retention": "NULL",
    "exists": "false",
}

# argument, what is given for it, what the message must name
BAD_ARGUMENTS: list[tuple[str, str, str]] = [
    ("source", "NULL", "NULL"),
    ("source", "''", "''"),
    ("source", "'raw.missing'", "raw.missing"),
    ("source", "'missing'", "missing"),
    ("source", "'nowhere.readings'", "nowhere.readings"),
    ("source", "'a.b.c'", "a.b.c"),
    ("source", "'raw.\"unclosed'", "unclosed"),
    ("source", "'raw.a_view'", "a_view"),
    ("source", "'raw.a_materialized_view'", "a_materialized_view"),
    ("source", "'raw.an_unlogged_table'", "an_unlogged_table"),
    ("source", "'raw.a_sequence'", "a_sequence"),
    ("source", "'raw.an_index'", "an_index"),
    ("source", "'raw.guarded'", "guarded"),
    ("source", "'raw.empty'", "empty"),
    ("source", "'pg_catalog.pg_class'", "pg_class"),
    ("source", "'rollup_engine.change_log'", "change_log"),
    ("schema", "NULL", "NULL"),
    ("schema", "''", "''"),
    ("schema", "'nowhere'", "nowhere"),
    ("schema", "'gold'", "gold"),
    ("schema", "'pg_catalog'", "pg_catalog"),
    ("schema", "'rollup_engine'", "rollup_engine"),
    ("table", "NULL", "NULL"),
    ("table", "''", "''"),
    ("table", "repeat('x', 64)", "xxx"),
    ("table", "'readings_1h'", "readings_1h"),
    ("table", "'rollup_config'", "rollup_config"),
    ("table", "'taken'", "taken"),
    ("interval", "NULL", "rollup_table_interval"),
    ("interval", "'0'", "rollup_table_interval"),
    ("interval", "'-1 hour'", "rollup_table_interval"),
    ("interval", "'1 month 1 day'", "rollup_table_interval"),
    ("interval", "'1 month -3 days'", "rollup_table_interval"),
    ("interval", "'2000 years'", "rollup_table_interval"),
    ("interval", "'100000 years'", "rollup_table_interval"),
    ("time", "'missing'", "missing"),
    ("time", "'v'", "v"),
    ("time", "''", "''"),
    ("dimensions", "'{missing}'", "missing"),
    ("dimensions", "'{NULL}'", "NULL"),
    ("dimensions", "'{ts}'", "ts"),
    ("dimensions", "'{device,device}'", "device"),
    ("dimensions", "'{doc}'", "json"),
    ("dimensions", "'{bucket}'", "bucket"),
    ("dimensions", "array_fill('device'::text, ARRAY[31])", "device"),
    ("metrics", "'[]'", "array"),
    ("metrics", "'3'", "number"),
    ("metrics", "'null'", "null"),
    ("metrics", '\'{"missing": ["avg"]}\'', "missing"),
    ("metrics", '\'{"v": ["median_of_medians"]}\'', "median_of_medians"),
    ("metrics", "'{\"v\": []}'", "v"),
    ("metrics", '\'{"v": {"a": 1}}\'', "v"),
    ("metrics", "'{\"v\": [null]}'", "v"),
    ("metrics", "'{\"v\": [3]}'", "3"),
    ("metrics", '\'{"device": ["avg"]}\'', "device"),
    ("metrics", '\'{"doc": ["max"]}\'', "json"),
    ("chunk", "'0'", "chunk_interval"),
    ("chunk", "'-1 day'", "chunk_interval"),
    ("chunk", "'1 minute'", "chunk_interval"),
    ("chunk", "'5000 years'", "chunk_interval"),
    ("chunk", "'1 month 1 day'", "chunk_interval"),
    ("chunk", "'2000 years'", "chunk_interval"),
    ("settle", "NULL", "settle_delay"),
    ("settle", "'-1 second'", "settle_delay"),
    ("settle", "'1001 years'", "settle_delay"),
    ("window", "'0'", "processing_window"),
    ("window", "'-1 day'", "processing_window"),
    ("duration", "NULL", "target_batch_duration"),
    ("duration", "'0'", "target_batch_duration"),
    ("tracking", "NULL", "change_tracking"),
    ("tracking", "'wal'", "wal"),
    ("tracking", "'window'", "look_back_window"),
    ("look_back", "'0'", "look_back_window"),
    ("look_back", "'-1 day'", "look_back_window"),
    ("look_back", "'5000 years'", "look_back_window"),
    ("retention", "'0'", "retention"),
    ("retention", "'-1 day'", "retention"),
]

# a whole statement, what the message must name
BAD_CALLS: list[tuple[str, str]] = [
    *(
        (statement.replace("%", target), offender)
        for statement in (
            "SELECT silver.drop_rollup(%)",
            'SELECT silver.add_rollup_metric(%, \'{"v": ["max"]}\')',
            "SELECT silver.pause_rollup(%)",
            "SELECT silver.resume_rollup(%)",
            "SELECT silver.reset_rollup_retry(%)",
            "SELECT silver.refresh_rollup(%, '2026-01-01', '2026-01-02')",
            "SELECT * FROM silver.perform_rollup(%)",
            "CALL silver.run_rollups(%)",
            "SELECT silver.mark_stale(%, '2026-01-01', '2026-01-02')",
        )
        for target, offender in (
            ("NULL", "NULL"),
            ("'missing'", "missing"),
            ("'raw.other'", "raw.other"),
            ("'a.b.c'", "a.b.c"),
            ("''", "''"),
        )
        # without a target they do all rollups
        if target != "NULL" or not ("perform" in statement or "run" in statement)
    ),
    ("SELECT silver.drop_rollup('readings_1h')", "readings_1d"),
    ("SELECT silver.add_rollup_metric('readings_1h', NULL)", "metrics"),
    ("SELECT silver.add_rollup_metric('readings_1h', '[]')", "metrics"),
    ("SELECT silver.add_rollup_metric('readings_1h', '{\"x\": [\"max\"]}')", "x"),
    ("SELECT silver.add_rollup_metric('readings_1h', '{\"v\": [\"mux\"]}')", "mux"),
    ("SELECT silver.add_rollup_metric('readings_1d', '{\"v\": [\"first\"]}')", "first"),
    ("SELECT silver.refresh_rollup('readings_1h', NULL, '2026-01-02')", "NULL"),
    ("SELECT silver.refresh_rollup('readings_1h', '2026-01-02', NULL)", "NULL"),
    ("SELECT silver.refresh_rollup('readings_1h', '2026-01-02', '2026-01-01')", "2026-01-02"),
    ("SELECT silver.mark_stale('readings_1h', NULL, '2026-01-02')", "NULL"),
    ("SELECT silver.mark_stale('readings_1h', '2026-01-01', '2026-01-01')", "2026-01-01"),
    ("SELECT * FROM silver.perform_rollup(max_batches => 0)", "max_batches"),
    ("SELECT * FROM silver.perform_rollup(max_batches => -5)", "max_batches"),
    ("CALL silver.run_rollups(time_budget => '0')", "time_budget"),
    ("CALL silver.run_rollups(time_budget => '-1 second')", "time_budget"),
    ("CALL silver.run_rollups(time_budget => NULL)", "time_budget"),
    (
        "SELECT silver.create_rollup_table('readings_1h', 'silver', 'x', '90 minutes')",
        "01:30:00",
    ),
    (
        "SELECT silver.create_rollup_table('readings_1h', 'silver', 'x', '30 minutes')",
        "00:30:00",
    ),
    (
        "SELECT silver.create_rollup_table('readings_1mon', 'silver', 'x', '1 week')",
        "7 days",
    ),
    (
        "SELECT silver.create_rollup_table('readings_1h', 'silver', 'x', '1 day', 'ts')",
        "ts",
    ),
    (
        "SELECT silver.create_rollup_table('readings_1h', 'silver', 'x', '1 day',"
        " dimensions => '{v}')",
        "v",
    ),
    (
        "SELECT silver.create_rollup_table('readings_1h', 'silver', 'x', '1 day',"
        ' metrics => \'{"v": ["first"]}\')',
        "first",
    ),
    ("SELECT silver.create_rollup_table('raw.two_times', 'silver', 'x', '1 day')", "two_times"),
    ("SELECT silver.create_rollup_table('raw.clash', 'silver', 'x', '1 day')", "row_count"),
    ("SELECT silver.create_rollup_table('raw.wide', 'silver', 'x', '1 day')", "1002 columns"),
]

SURROUNDINGS = """
    CREATE TABLE raw.readings (ts timestamptz, device text, v integer, doc json, bucket integer);
    CREATE TABLE raw.other (ts timestamptz);
    CREATE TABLE raw.empty (v integer);
    CREATE TABLE raw.two_times (a timestamptz, b timestamptz);
    CREATE TABLE raw.clash (ts timestamptz, row integer);
    CREATE TABLE raw.guarded (ts timestamptz, v integer);
    ALTER TABLE raw.guarded ENABLE ROW LEVEL SECURITY;
    CREATE VIEW raw.a_view AS SELECT * FROM raw.readings;
    CREATE MATERIALIZED VIEW raw.a_materialized_view AS SELECT * FROM raw.other;
    CREATE UNLOGGED TABLE raw.an_unlogged_table (ts timestamptz);
    CREATE SEQUENCE raw.a_sequence;
    CREATE INDEX an_index ON raw.readings (ts);
    CREATE VIEW gold.taken AS SELECT 1 AS one;
    SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',
        dimensions => '{device}', metrics => '{"v": ["avg"]}');
    SELECT silver.create_rollup_table('readings_1h', 'silver', 'readings_1d', '1 day');
    SELECT silver.create_rollup_table('readings_1d', 'silver', 'readings_1mon', '1 month');
"""


def test_bad_input(db: psycopg.Connection) -> None:
    db.execute(SURROUNDINGS.encode())
    columns = ", ".join(f"c{i} integer" for i in range(250))
    db.execute(f"CREATE TABLE raw.wide (ts timestamptz, {columns})".encode())
    before = _catalogue(db)
    calls = [
        (CREATE.format(**{**GOOD, argument: value}), offender)
        for argument, value, offender in BAD_ARGUMENTS
    ]
    complaints = [
        f"{statement}: {complaint}"
        for statement, offender in [*calls, *BAD_CALLS]
        if (complaint := _complaint(db, statement, offender))
    ]
    if db.info.server_version >= 170000:
        for argument in ("interval", "chunk", "settle", "window", "duration", "retention"):
            statement = CREATE.format(**{**GOOD, argument: "'infinity'"})
            if complaint := _complaint(db, statement, "inf"):
                complaints.append(f"{statement}: {complaint}")
    assert not complaints, "\n".join(complaints)
    assert _catalogue(db) == before, "something was left behind"
    db.execute(CREATE.format(**GOOD).encode())


def _complaint(connection: psycopg.Connection[Any], statement: str, offender: str) -> str | None:
    try:
        connection.execute(statement.encode())
    except psycopg.Error as error:
        message = error.diag.message_primary or ""
        if not re.fullmatch("TR00[1-5]", error.sqlstate or ""):
            return f"{error.sqlstate}: {message}"
        if offender.lower() not in message.lower():
            return f"does not name {offender}: {message}"
        if "\n" in message or message.endswith(".") or not error.diag.message_hint:
            return f"not one line with a hint: {message}, {error.diag.message_hint}"
        return None
    return "it went through"


def _catalogue(connection: psycopg.Connection[Any]) -> object:
    return connection.execute(
        "SELECT array_agg(oid::regclass::text || relacl::text ORDER BY oid),"
        " (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_trigger),"
        " (SELECT array_agg(c.*::text ORDER BY id) FROM silver.rollup_config AS c),"
        " (SELECT array_agg(s.*::text ORDER BY id) FROM rollup_engine.source AS s)"
        " FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace"
    ).fetchone()


WIDTHS = ["0", "-1 hour", "1 month 1 day", "-1 month", "1 month -30 days"]


def test_bad_input_for_time_bucket(db: psycopg.Connection) -> None:
    widths = WIDTHS + (["infinity"] if db.info.server_version >= 170000 else [])
    ways = ["timestamptz '2026-01-01'", "timestamp '2026-01-01'", "date '2026-01-01'"]
    ways += ["timestamptz '2026-01-01', 'Europe/Oslo'", "timestamptz '2026-01-01', now()"]
    for width in widths:
        for way in ways:
            statement = f"SELECT silver.time_bucket('{width}', {way})"
            with pytest.raises(psycopg.DataError):
                pytest.fail(f"{statement} gave {db.execute(statement.encode()).fetchone()}")
    for width in ("1 hour", "1 day", "1 month"):
        with pytest.raises(psycopg.DataError, match="Mars/Olympus"):
            db.execute("SELECT silver.time_bucket(%s, now(), 'Mars/Olympus')", [width])
    nothing = db.execute("SELECT silver.time_bucket('1 day', NULL::timestamptz)").fetchone()
    assert nothing == (None,)


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        ("silver.create_rollup_table('raw.metrics', 'silver', 'm', '1 hour')", "public.metrics"),
        ("silver.create_rollup_table('raw.reading', 'silver', 'm', '1 hour')", "raw.readings"),
        ("silver.create_rollup_table('raw.Readings_', 'silver', 'm', '1 hour')", "raw.readings"),
        ("silver.partition_source('raedings', '1 day')", "raw.readings"),
        ("silver.set_retention('raw.readngs', '1 day')", "raw.readings"),
        ("silver.mark_stale('raw.readinsg', '-infinity', 'infinity')", "raw.readings"),
        ("silver.pause_rollup('readings1h')", "silver.readings_1h"),
        ("silver.drop_rollup('silver.reading_1h')", "silver.readings_1h"),
    ],
)
def test_a_name_that_is_nearly_right_is_named(
    db: psycopg.Connection, call: str, meant: str
) -> None:
    for table in ("raw.readings", "public.metrics", "raw.other"):
        db.execute(f"CREATE TABLE {table} (ts timestamptz, n integer)".encode())
    db.execute("SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')")
    with pytest.raises(psycopg.Error) as failure:
        db.execute(f"SELECT {call}".encode())
    assert failure.value.sqlstate == "TR002"
    assert (failure.value.diag.message_hint or "").startswith(f"did you mean {meant}")


def test_a_metric_for_a_rollup_that_lost_a_column_is_one_clear_line(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.readings (ts timestamptz, device text, n integer, m integer)")
    db.execute(
        "SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour',"
        " dimensions => '{device}', metrics => '{\"n\": [\"sum\"]}')"
    )
    db.execute("ALTER TABLE raw.readings DROP COLUMN device")
    with pytest.raises(psycopg.Error) as failure:
        db.execute("SELECT silver.add_rollup_metric('readings_1h', '{\"m\": [\"sum\"]}')")
    assert (failure.value.sqlstate or "").startswith("TR")
    assert "device" in (failure.value.diag.message_primary or "")


@pytest.mark.parametrize("read", ["gold.readings_1h", "silver.readings_1h"])
def test_what_reads_a_rollup_that_is_to_be_dropped_is_named(
    db: psycopg.Connection, read: str
) -> None:
    db.execute("CREATE TABLE raw.readings (ts timestamptz, n integer)")
    db.execute("SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')")
    db.execute(f"CREATE VIEW raw.report AS SELECT row_count FROM {read}".encode())
    with pytest.raises(psycopg.Error, match=r"cannot be dropped: view raw\.report") as failure:
        db.execute("SELECT silver.drop_rollup('readings_1h')")
    assert failure.value.sqlstate == "TR003"
    assert "CASCADE" not in str(failure.value)
    if read.startswith("silver"):
        db.execute("SELECT silver.drop_rollup('readings_1h', keep_table => true)")
        db.execute("SELECT * FROM raw.report")
    else:
        db.execute("DROP VIEW raw.report; SELECT silver.drop_rollup('readings_1h')")


def test_who_holds_the_lock_of_a_source_is_named(db: psycopg.Connection, connect: Connect) -> None:
    db.execute("CREATE TABLE raw.readings (ts timestamptz, n integer)")
    db.execute("SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')")
    db.execute("SELECT silver.perform_rollup()")
    db.execute("INSERT INTO raw.readings VALUES ('2026-03-01 00:00+00', 1)")
    stranger = connect()
    stranger.execute(
        "SELECT pg_advisory_lock(rollup_engine.source_lock_key(id)) FROM rollup_engine.source"
    )
    pid = stranger.info.backend_pid
    rows = db.execute("SELECT status, error_message FROM silver.perform_rollup()").fetchall()
    assert [row[0] for row in rows] == ["partial"]
    assert f"session {pid}" in rows[0][1]
    monitor = "SELECT health, reason, next_step FROM silver.timeseries_operations_monitor"
    ((health, reason, next_step),) = db.execute(monitor).fetchall()
    assert health == "lagging"
    assert reason.startswith(f"session {pid} holds the lock of raw.readings")
    assert f"pg_terminate_backend({pid})" in next_step
    stranger.close()
    refresh_everything(db)
    assert db.execute(monitor).fetchall() == [("ok", None, None)]


def test_a_prepared_transaction_that_holds_the_lock_of_a_source_is_named(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.readings (ts timestamptz, n integer)")
    db.execute("SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')")
    db.execute("SELECT silver.perform_rollup()")
    db.execute("BEGIN")
    db.execute("INSERT INTO raw.readings VALUES ('2026-03-01 00:00+00', 0)")
    db.execute("SELECT silver.perform_rollup()")
    name = f"it's {db.info.dbname}"
    db.execute(sql.SQL("PREPARE TRANSACTION {}").format(name))
    db.execute("INSERT INTO raw.readings VALUES ('2026-03-01 00:00+00', 1)")
    rows = db.execute("SELECT status, error_message FROM silver.perform_rollup()").fetchall()
    assert [row[0] for row in rows] == ["partial"]
    quoted = name.replace("'", "''")
    assert f"prepared transaction '{quoted}'" in rows[0][1]
    monitor = "SELECT health, reason, next_step FROM silver.timeseries_operations_monitor"
    ((health, reason, next_step),) = db.execute(monitor).fetchall()
    assert health == "lagging"
    assert reason.startswith(f"prepared transaction '{quoted}' holds the lock of raw.readings")
    db.execute(next_step.partition(", or ")[2].encode())
    refresh_everything(db)
    assert db.execute(monitor).fetchall() == [("ok", None, None)]
