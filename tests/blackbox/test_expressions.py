"""Expressions over a row as columns of the source, and filters that keep rows out."""

import secrets
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from blackbox.calendar_reference import Buckets
from blackbox.rollup_reference import (
    Row,
    Wanted,
    assert_live,
    assert_live_and_stored,
    column,
    create,
    keep_all,
    rows_of,
)
from conftest import Connect
from servers import PostgresServer

ADD_METRIC = """
    SELECT silver.add_rollup_metric('people_1h', '{"shown": ["last"]}', expressions => %(shown)s)
"""

EVENTS = """
    CREATE TABLE raw.events (
        ts timestamptz, status integer, name text, level double precision, amount numeric,
        payload jsonb, spent interval, code bytea, "Odd ""col;--" integer
    );
    CREATE INDEX ON raw.events (ts);
    CREATE TABLE raw.other (ts timestamptz, status integer);
    INSERT INTO raw.other VALUES ('2026-03-01', 7)
"""
FILL = """
    INSERT INTO raw.events
    SELECT timestamptz '2026-03-01 20:00+00' + make_interval(secs => 61 * i + %(shift)s),
        (ARRAY[0, 1, 500, 503, NULL])[1 + i %% 5],
        (ARRAY['Ann', 'bob', 'O''Hara', NULL])[1 + i %% 4],
        i / 4.0, i * 1.10,
        CASE i %% 6 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN '{"region": null, "n": "12"}'
            ELSE jsonb_build_object('region', 'r' || i %% 3, 'deep', jsonb_build_array(i)) END,
        make_interval(mins => i), convert_to('x' || i %% 3, 'UTF8'), i
    FROM generate_series(0, 400) AS i
"""
CHANGES = [
    "UPDATE raw.events SET status = 0 WHERE amount > 300 AND status = 500",
    'UPDATE raw.events SET payload = payload || \'{"region": "moved"}\' WHERE amount < 20',
    "UPDATE raw.events SET status = NULL WHERE amount BETWEEN 100 AND 120",
    "DELETE FROM raw.events WHERE amount BETWEEN 200 AND 230",
    "UPDATE raw.events SET ts = ts + interval '3 hours' WHERE amount BETWEEN 50 AND 60",
]
EXPRESSIONS = {
    "region": "payload->>'region'",
    "failed": "CASE WHEN status >= 500 THEN 1 END",
    "double": "level * 2",
    "first_letter": "lower(left(name, 1))",
    "net": 'amount - coalesce("Odd ""col;--", 0) / 10.0',
    "Odd \"name' ": "(payload->'deep'->>0)::integer",
    "nothing": "NULL::integer",
    "a_name_of_63_bytes_" + "x" * 44: "status + 1",
}


def deep(row: Row) -> int | None:
    return row["payload"]["deep"][0] if row["payload"] and "deep" in row["payload"] else None


def net(row: Row) -> Decimal | None:
    odd = row['Odd "col;--']
    return None if row["amount"] is None else row["amount"] - Decimal(odd or 0) / 10


VALUES: Mapping[str, Callable[[Row], Any]] = {
    "region": lambda row: row["payload"].get("region") if row["payload"] is not None else None,
    "failed": lambda row: 1 if (row["status"] or 0) >= 500 else None,
    "double": lambda row: row["level"] * 2,
    "first_letter": lambda row: row["name"][0].lower() if row["name"] else None,
    "net": net,
    "Odd \"name' ": deep,
    "nothing": lambda _: None,
    "plus": lambda row: None if row["status"] is None else row["status"] + 1,
}
LONG = "a_name_of_63_bytes_" + "x" * 44


def test_expressions_are_columns_and_filters_keep_rows_out(db: psycopg.Connection) -> None:
    """As dimensions and metrics, at three levels, with writes that move rows in and out."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    hour, day = Buckets("1 hour"), Buckets("1 day", "Europe/Berlin")
    create(
        db, "raw.events", "regions_1h", hour.interval,
        expressions=EXPRESSIONS,
        filter="status = 0 OR status >= 500",
        dimensions=["region", "first_letter"],
        metrics={
            "failed": ["count", "sum"], "double": ["avg", "max"], "net": ["sum", "last"],
            "Odd \"name' ": ["min", "max"], "nothing": ["count", "sum"], "level": ["sum"],
        },
    )  # fmt: skip
    create(db, "regions_1h", "regions_1d", day.interval, timezone=day.zone)
    create(db, "regions_1d", "regions_1mo", "1 month", timezone=day.zone, dimensions=["region"])
    create(
        db, "raw.events", "by_long", hour.interval,
        expressions=EXPRESSIONS, dimensions=[LONG, "Odd \"name' "], metrics={"status": ["count"]},
    )  # fmt: skip
    create(
        db, "raw.events", "none_pass", hour.interval, filter="status = 12345",
        metrics={"level": ["sum"]},
    )  # fmt: skip

    def kept(row: Row) -> bool:
        return row["status"] is not None and (row["status"] == 0 or row["status"] >= 500)

    metrics = {
        "failed": ["count", "sum"], "double": ["avg", "max"], "net": ["sum"],
        "Odd \"name' ": ["min", "max"], "nothing": ["count", "sum"], "level": ["sum"],
    }  # fmt: skip
    both = {name: VALUES[name] for name in ("region", "first_letter")}
    wanted = [
        Wanted("regions_1h", hour, both, metrics, VALUES, keep=kept),
        Wanted("regions_1d", day, both, metrics, VALUES, keep=kept),
        Wanted(
            "regions_1mo", Buckets("1 month", day.zone), {"region": VALUES["region"]}, metrics,
            VALUES, keep=kept,
        ),
        Wanted(
            "by_long", hour, {LONG: VALUES["plus"], "Odd \"name' ": deep}, {"status": ["count"]},
        ),
        Wanted("none_pass", hour, keep=lambda _: False),
    ]  # fmt: skip
    assert_live_and_stored(db, "raw.events", *wanted)
    db.execute(FILL, {"shift": -40_000})
    for statement in CHANGES:
        db.execute(statement.encode())
    assert_live_and_stored(db, "raw.events", *wanted)


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


def said_no(connection: psycopg.Connection[Any], options: dict[str, Any]) -> str | None:
    """Message and detail, a line each; None when it was let through, which is undone."""
    try:
        with connection.transaction(force_rollback=True):
            create(connection, "raw.events", "refused_1h", "1 hour", **options)
    except psycopg.Error as error:
        return f"{error.diag.message_primary}\n{error.diag.message_detail or ''}"
    return None


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


def test_columns_that_expressions_read_are_renamed_and_dropped(db: psycopg.Connection) -> None:
    """Right, or known to be wrong; writes go on."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    create(
        db, "raw.events", "renamed_1h", "1 hour", filter="status >= 0",
        expressions={"region": "payload->>'region'", "twice": "amount * 2"},
        dimensions=["region"], metrics={"twice": ["sum"]},
    )  # fmt: skip
    values = {"region": VALUES["region"], "twice": lambda row: row["amount"] * 2}

    def wanted(status: str = "status") -> Wanted:
        return Wanted(
            "renamed_1h", Buckets("1 hour"), {"region": values["region"]}, {"twice": ["sum"]},
            values, keep=lambda row: row[status] is not None,
        )  # fmt: skip

    assert_live_and_stored(db, "raw.events", wanted())
    db.execute("ALTER TABLE raw.events RENAME COLUMN status TO state")
    db.execute("UPDATE raw.events SET state = NULL WHERE amount < 30")
    assert right_or_invalid(db, wanted("state"))
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert right_or_invalid(db, wanted("state"))
    db.execute("ALTER TABLE raw.events RENAME COLUMN state TO status")
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert_live_and_stored(db, "raw.events", wanted())
    db.execute("ALTER TABLE raw.events ALTER COLUMN amount TYPE double precision")
    db.execute("INSERT INTO raw.events (ts, amount) VALUES ('2026-03-01 22:00+00', 4)")
    assert right_or_invalid(db, wanted())
    db.execute("ALTER TABLE raw.events DROP COLUMN payload")
    db.execute("INSERT INTO raw.events (ts, amount) VALUES ('2026-03-01 22:00+00', 4)")
    row = db.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchone()
    assert row == ("invalid",)


def right_or_invalid(connection: psycopg.Connection[Any], wanted: Wanted) -> bool:
    row = connection.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchone()
    if row != ("invalid",):
        assert_live(connection, "raw.events", wanted)
    return True


def test_what_fails_for_a_row_fails_no_write_and_no_other_bucket(db: psycopg.Connection) -> None:
    """The read of its bucket fails as the GROUP BY does; mended, all is well."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    create(
        db, "raw.events", "shares_1h", "1 hour",
        expressions={"share": "100 / (status - 1)"}, metrics={"share": ["sum"]},
        filter="status <> 1 OR amount = 0",
    )  # fmt: skip
    wanted = Wanted(
        "shares_1h", Buckets("1 hour"), metrics={"share": ["sum"]},
        values={"share": lambda row: int(100 / (row["status"] - 1))},
        keep=lambda row: row["status"] not in (None, 1) or row["amount"] == 0,
    )  # fmt: skip

    def row_of_hour(hour: str) -> Any:
        return db.execute(
            "SELECT share_sum FROM gold.shares_1h WHERE bucket = %s", [hour]
        ).fetchone()

    db.execute("UPDATE raw.events SET amount = 1 WHERE amount = 0")
    db.execute("UPDATE raw.events SET status = 0 WHERE status IS NULL")
    assert_live(db, "raw.events", wanted)
    db.execute("INSERT INTO raw.events (ts, status, amount) VALUES ('2026-03-01 21:30+00', 1, 0)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        row_of_hour("2026-03-01 21:00+00")
    assert row_of_hour("2026-03-01 23:00+00")
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    with pytest.raises(psycopg.errors.DivisionByZero):
        row_of_hour("2026-03-01 21:00+00")
    assert row_of_hour("2026-03-01 23:00+00")
    db.execute("UPDATE raw.events SET status = 0 WHERE amount = 0")
    db.execute("SELECT silver.reset_rollup_retry('shares_1h')")
    assert_live_and_stored(db, "raw.events", wanted)


def test_children_with_filters_and_expressions(db: psycopg.Connection) -> None:
    """Over what they read, their parent's dimensions, they are right or refused; no state is."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    create(
        db, "raw.events", "parent_1h", "1 hour",
        filter="status >= 0", expressions={"region": "payload->>'region'"},
        dimensions=["region", "name"], metrics={"level": ["sum", "max"], "amount": ["sum"]},
    )  # fmt: skip
    attempts: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"filter": "name = 'bob'"}, {"keep": lambda row: row["name"] == "bob"}),
        ({"filter": "region IS NULL"}, {"keep": lambda row: VALUES["region"](row) is None}),
        (
            {"expressions": {"big": "upper(name)"}, "dimensions": ["big"]},
            {"dimensions": {"big": lambda row: row["name"] and row["name"].upper()}},
        ),
        ({"filter": "level_sum > 0"}, {}),
        ({"filter": "row_count > 1"}, {}),
        ({"filter": "status = 0"}, {}),
        ({"expressions": {"twice": "amount * 2"}, "metrics": {"twice": ["sum"]}}, {}),
    ]
    for number, (options, meaning) in enumerate(attempts):
        try:
            create(db, "parent_1h", f"child_{number}", "1 day", **options)
        except psycopg.Error as error:
            refused = str(error.diag.message_primary)
            assert_one_line(refused)
            continue
        assert meaning, f"{options} was let through"
        kept: Callable[[Row], bool] = meaning.get("keep", keep_all)
        wanted = Wanted(
            f"child_{number}", Buckets("1 day"),
            meaning.get("dimensions", {"region": VALUES["region"], "name": column("name")}),
            {"level": ["sum", "max"]},
            keep=all_of(lambda row: row["status"] is not None, kept),
        )  # fmt: skip
        assert_live_and_stored(db, "raw.events", wanted)


def all_of(one: Callable[[Row], bool], other: Callable[[Row], bool]) -> Callable[[Row], bool]:
    return lambda row: one(row) and other(row)


def assert_one_line(text: str) -> None:
    assert len(text.splitlines()) == 1, text


def test_what_a_rollup_reads_is_not_changed_unseen(db: psycopg.Connection) -> None:
    """By UPDATE of its row in the configuration."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    create(
        db, "raw.events", "kept_1h", "1 hour", filter="status >= 0",
        expressions={"twice": "amount * 2"}, metrics={"twice": ["sum"]},
    )  # fmt: skip
    wanted = Wanted(
        "kept_1h", Buckets("1 hour"), metrics={"twice": ["sum"]},
        values={"twice": lambda row: row["amount"] * 2},
        keep=lambda row: row["status"] is not None,
    )  # fmt: skip
    for change in (
        "filter = 'true'", "filter = 'status = 0); DROP TABLE raw.other; --'", "time_unit = 's'",
        "expressions = '{\"twice\": \"amount * 3\"}'", "filter = NULL",
    ):  # fmt: skip
        with db.transaction(force_rollback=True):
            try:
                with db.transaction():
                    db.execute(f"UPDATE silver.rollup_config SET {change}".encode())
            except psycopg.Error:
                continue
            assert right_or_invalid(db, wanted), change
            db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
            assert right_or_invalid(db, wanted), change
            assert rows_of(db, "raw.other")
    assert_live_and_stored(db, "raw.events", wanted)


def test_expressions_show_nobody_what_he_may_not_read(
    db: psycopg.Connection, connect: Connect, server: PostgresServer
) -> None:
    """An operator adds metrics over columns that he may read, by expressions as by names."""
    db.execute("CREATE TABLE raw.people (ts timestamptz, level float8, known text, secret text)")
    db.execute("INSERT INTO raw.people VALUES ('2026-03-01', 1, 'k', 's')")
    db.execute("GRANT SELECT (known) ON raw.people TO tsrollup_operator")
    create(db, "raw.people", "people_1h", "1 hour", metrics={"level": ["sum"]})
    role = f"bbox_operator_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as postgres:
        postgres.execute(f"CREATE ROLE {role} LOGIN".encode())
        try:
            postgres.execute(f"GRANT tsrollup_operator TO {role}".encode())
            operator = connect(user=role)
            for text in ("secret", "upper(secret)", "known || secret", "people::text"):
                with pytest.raises(psycopg.Error):
                    operator.execute(ADD_METRIC, {"shown": Jsonb({"shown": text})})
            operator.execute(ADD_METRIC, {"shown": Jsonb({"shown": "upper(known)"})})
            operator.close()
        finally:
            postgres.execute(f"DROP ROLE {role}".encode())
    wanted = Wanted(
        "people_1h",
        Buckets("1 hour"),
        metrics={"level": ["sum"], "shown": ["last"]},
        values={"shown": lambda row: row["known"].upper()},
    )
    assert_live_and_stored(db, "raw.people", wanted)
