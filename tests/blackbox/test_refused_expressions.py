"""Texts that are no expression over a row, or must mean the same to everybody."""

from typing import Any

import psycopg
import pytest

from blackbox.calendar_reference import Buckets
from blackbox.events_reference import EVENTS, FILL, said_no
from blackbox.rollup_reference import Wanted, assert_live_and_stored, create
from conftest import Connect

REFUSED = [
    "now()", "current_date", "random()", "current_user", "clock_timestamp()", "txid_current()",
    "(SELECT 1)", "EXISTS (SELECT FROM raw.other)", "status IN (SELECT status FROM raw.other)",
    "sum(status)", "count(*)", "row_number() OVER ()", "generate_series(1, 3)",
    "jsonb_array_elements(payload)", "other.status", "raw.other.status", "missing", "",
    "payload->>", "status)", "(status", "status; DROP TABLE raw.other", "status) FROM raw.other --",
    "1) ; DROP TABLE raw.other; --", "status, level, ", "status AS x", "*", "events.*", "$1",
    "status FROM raw.events", "status UNION SELECT 1", "ts::text", "ts::date", "ts::timestamp",
    "to_char(ts, 'Day')", "date_trunc('day', ts)", "extract(hour FROM ts)", "name::timestamptz",
    "nextval('raw.counter')", "pg_sleep(0.1)::text", "pg_read_file('/etc/passwd')",
    "currval('raw.counter')", "set_config('a.b', 'c', false)", "current_setting('TimeZone')",
    "query_to_xml('select 1', true, true, '')::text", "lo_import('/etc/passwd')",
    "raw.reads_other(status)", "raw.volatile_one(status)", "pg_relation_size('raw.other')",
]  # fmt: skip

HELPERS = """
    CREATE SEQUENCE raw.counter;
    CREATE FUNCTION raw.reads_other(integer) RETURNS integer LANGUAGE plpgsql STABLE
        AS 'BEGIN RETURN (SELECT max(status) FROM raw.other); END';
    CREATE FUNCTION raw.volatile_one(integer) RETURNS integer LANGUAGE plpgsql VOLATILE
        AS 'BEGIN INSERT INTO raw.other VALUES (now(), 1); RETURN 1; END'
"""


def test_what_is_no_function_of_the_row_is_refused(db: psycopg.Connection) -> None:
    """Before anything is made, in one line that names the expression."""
    db.execute(EVENTS)
    db.execute(HELPERS)
    db.execute(FILL, {"shift": 0})
    let_through = []
    for text in REFUSED:
        for options in (
            {"expressions": {"my_value": text}, "metrics": {"my_value": ["last"]}},
            {"expressions": {"my_value": text}, "dimensions": ["my_value"]},
            {"filter": f"({text}) IS NOT NULL"},
        ):
            said = said_no(db, options)
            unnamed = "expressions" in options and "my_value" not in (said or "")
            if said is None or len(said.splitlines()) > 2 or unnamed:
                let_through.append((text, options, said))
    assert not let_through, "\n".join(str(x) for x in let_through)
    further: list[dict[str, Any]] = [
        {"filter": "level"}, {"filter": "sum(level) > 0"}, {"filter": "status = 0; SELECT 1"},
        {"filter": "true) OR (true"}, {"filter": ""}, {"filter": "status = 0) -- "},
        {"expressions": {"status": "level"}}, {"expressions": {"bucket": "level"}},
        {"expressions": {"x" * 64: "level"}}, {"expressions": {"": "level"}},
        {"expressions": {"n": 1}}, {"expressions": {"n": None}},
    ]  # fmt: skip
    for options in further:
        with pytest.raises(psycopg.Error) as caught:
            create(db, "raw.events", "refused_1h", "1 hour", **options)
        assert len(str(caught.value.diag.message_primary).splitlines()) == 1
    assert db.execute("SELECT count(*) FROM raw.other").fetchone() == (1,)
    assert db.execute("SELECT count(*) FROM silver.rollup_config").fetchone() == (0,)


HOSTILE = [
    ("status = 0 OR true", lambda _: True),
    ("true OR status = 0", lambda _: True),
    ("status = 0 -- AND false", lambda row: row["status"] == 0),
    ("status = /* 1 */ 0", lambda row: row["status"] == 0),
    ("name = 'O''Hara'", lambda row: row["name"] == "O'Hara"),
    ("name = $$O'Hara$$", lambda row: row["name"] == "O'Hara"),
    ("name = $sql$bob$sql$", lambda row: row["name"] == "bob"),
    ("name <> '{table} {filter} %s %I %1$s'", lambda row: row["name"] is not None),
    ("name ~ '^[A-Z]\\w+$'", lambda row: row["name"] == "Ann"),
    ("name <> E'\\\\' AND name <> '\\'", lambda row: row["name"] is not None),
    ("NOT status = 0", lambda row: row["status"] not in (0, None)),
    ("\"Odd \"\"col;--\" < 100", lambda row: row['Odd "col;--'] < 100),
    ("(status, name) IS NOT NULL", lambda row: None not in (row["status"], row["name"])),
]  # fmt: skip


def test_hostile_texts_mean_what_they_say_or_are_refused(db: psycopg.Connection) -> None:
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    wanted = []
    for number, (text, keep) in enumerate(HOSTILE):
        name = f"hostile_{number}"
        options = {"filter": text, "metrics": {"level": ["sum"]}}
        said = said_no(db, options)
        if said is None:
            create(db, "raw.events", name, "1 day", **options)
        else:
            # Comments need not be taken, all else must be.
            assert "--" in text or "/*" in text, (text, said)
            continue
        wanted.append(Wanted(name, Buckets("1 day"), metrics={"level": ["sum"]}, keep=keep))
    assert_live_and_stored(db, "raw.events", *wanted)


OF_SETTINGS = {
    "spent_text": "spent::text",
    "level_text": "(level / 3)::text",
    "code_text": "code::text",
    "at_utc": "extract(hour FROM ts AT TIME ZONE 'UTC')",
    "day_literal": "CASE WHEN ts >= '2026-03-02 01:00' THEN 'after' ELSE 'before' END",
    "lowered": "lower(name)",
    "escaped": "replace(name, '\\', 'n')",
    "compared": "CASE WHEN status = NULL THEN 'a' ELSE 'b' END",
}

SETTINGS = [
    {},
    {"TimeZone": "Asia/Tokyo", "IntervalStyle": "iso_8601", "extra_float_digits": "-15"},
    {"DateStyle": "SQL, DMY", "bytea_output": "escape", "extra_float_digits": "3"},
    {"search_path": "raw, public, pg_catalog", "IntervalStyle": "sql_standard"},
    {"TimeZone": "America/Havana", "transform_null_equals": "on", "escape_string_warning": "off"},
    {"standard_conforming_strings": "off", "escape_string_warning": "off"},
]


def test_settings_of_sessions_change_nothing(db: psycopg.Connection, connect: Connect) -> None:
    """Whoever creates, writes, refreshes or reads: the groups are the same ones."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    db.execute(
        "CREATE FUNCTION raw.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'x'$$"
    )
    made = []
    sessions = [connect() for _ in SETTINGS]
    for session, options in zip(sessions, SETTINGS, strict=True):
        for name, value in options.items():
            session.execute("SELECT set_config(%s, %s, false)", [name, value])
    for number, (name, text) in enumerate(OF_SETTINGS.items()):
        session = sessions[number % len(sessions)]
        chosen: dict[str, Any] = {
            "expressions": {name: text}, "dimensions": [name], "metrics": {"status": ["count"]},
        }  # fmt: skip
        if said_no(session, chosen) is None:
            create(session, "raw.events", f"of_{name}", "1 hour", **chosen)
            made.append((name, f"of_{name}"))
    assert "at_utc" in dict(made), "it does not depend on any setting"
    live = {view: seen_by_all(sessions, view, name) for name, view in made}
    for number, (_, view) in enumerate(made):
        sessions[-number].execute(
            "SELECT * FROM silver.perform_rollup(%s, as_of => 'infinity')", [view]
        )
    assert {view: seen_by_all(sessions, view, name) for name, view in made} == live
    db.execute("UPDATE raw.events SET status = 2")
    assert {view: seen_by_all(sessions, view, name) for name, view in made} == live


def seen_by_all(sessions: list[psycopg.Connection[Any]], view: str, name: str) -> list[Any]:
    """What each of them reads, which must be the same; times as numbers."""
    found = [
        sorted(
            session.execute(
                f"SELECT extract(epoch FROM bucket)::text, {name}, row_count"
                f" FROM gold.{view}".encode()
            ).fetchall(),
            key=str,
        )
        for session in sessions
    ]
    for rows, options in zip(found, SETTINGS, strict=True):
        assert rows == found[0], (view, options)
    return found[0]
