"""Expressions over a row are columns of the source, and a filter keeps rows out: exact as ever."""

from typing import Any

import psycopg
import pytest

from calls import EXPRESSIONS, FILL, SOURCE, create, make_levels
from conftest import Connect
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)


@pytest.fixture
def levels(db: psycopg.Connection) -> tuple[str, ...]:
    return make_levels(db)


SETTINGS = [
    {
        "timezone": "Asia/Kolkata",
        "datestyle": "SQL, DMY",
        "intervalstyle": "sql_standard",
        "extra_float_digits": "-10",
        "search_path": "trap, pg_catalog",
        "timezone_abbreviations": "Australia",
        "xmlbinary": "hex",
    },
    {
        "timezone": "Pacific/Apia",
        "datestyle": "German",
        "search_path": "",
        "quote_all_identifiers": "on",
        "check_function_bodies": "off",
        "transform_null_equals": "on",
        "timezone_abbreviations": "India",
    },
]


def test_three_levels_equal_the_group_by(db: psycopg.Connection, levels: tuple[str, ...]) -> None:
    assert_equal_to_group_by(db, *levels)
    refresh_everything(db)
    assert_settled(db, *levels)
    # Rows that begin to count, or end to, and rows that never did.
    for change in (
        "UPDATE raw.calls SET status = 200 WHERE status IS NULL AND host = 'h0'",
        "UPDATE raw.calls SET payload = '{}' WHERE payload ->> 'region' = 'r1'",
        "DELETE FROM raw.calls WHERE status = 404",
        "INSERT INTO raw.calls (ts, host, status) VALUES ('2026-03-01 10:00+00', 'late', 200)",
        "INSERT INTO raw.calls (ts, host, status) VALUES ('2026-03-01 10:00+00', 'late', 500)",
    ):
        db.execute(change)
        assert_equal_to_group_by(db, *levels)
        refresh_everything(db)
        assert_settled(db, *levels)


@pytest.mark.parametrize("shape", ["per_bucket", "grouped"])
def test_both_shapes_of_the_query(
    db: psycopg.Connection, levels: tuple[str, ...], shape: str
) -> None:
    db.execute("UPDATE silver.rollup_config SET query_shape = %s", [shape])
    refresh_everything(db)
    assert_settled(db, *levels)
    db.execute("UPDATE raw.calls SET spent = spent + 1 WHERE host = 'h2'")
    refresh_everything(db)
    assert_settled(db, *levels)


def test_a_filter_that_is_null_keeps_the_row_out(db: psycopg.Connection) -> None:
    db.execute(SOURCE)
    db.execute(FILL)
    create(db, "c", "raw.calls", "1 day", dimensions=[], filter="status < 400")
    expected = "SELECT count(*) FROM raw.calls WHERE status < 400"
    assert db.execute("SELECT sum(row_count) FROM gold.c").fetchone() == (
        db.execute(expected).fetchone()
    )


def test_expressions_are_columns_to_the_defaults(db: psycopg.Connection) -> None:
    db.execute(SOURCE)
    db.execute(FILL)
    db.execute(
        "INSERT INTO silver.dimension_config (source_table, dimension_column)"
        " VALUES ('raw.calls', 'host')"
    )
    create(db, "c", "raw.calls", "1 hour", expressions=EXPRESSIONS)
    assert db.execute(
        "SELECT dimensions, metrics -> 'failed', metrics -> 'region' FROM silver.rollup_config"
    ).fetchone() == (["host"], ["count", "sum", "min", "max", "avg"], ["last"])
    assert_equal_to_group_by(db, "c")


@pytest.mark.parametrize("setting", SETTINGS)
def test_promise_k_settings_change_nothing(connect: Connect, setting: dict[str, str]) -> None:
    with connect() as db:
        db.execute(SOURCE)
        db.execute(FILL)
        expressions = {
            "late": "ts >= '2026-03-01 22:00'",
            "text": "(spent / 3)::text",
            "day": "date '03/04/2026'",
            "zoned": "extract(hour FROM ts AT TIME ZONE"
            " CASE host WHEN 'h1' THEN 'EST' ELSE 'IST' END)",
            "xml": "xmlelement(name x, decode(host, 'escape'))::text",
        }
        try:
            db.execute("SELECT xmlelement(name x)")
        except psycopg.errors.FeatureNotSupported:
            expressions["xml"] = "host"
        for name, value in setting.items():
            db.execute("SELECT set_config(%s, %s, false)", [name, value])
        create(
            db,
            "c",
            "raw.calls",
            "1 hour",
            dimensions=["late", "text", "zoned", "xml"],
            expressions=expressions,
            filter="(ts AT TIME ZONE 'EST')::date = '2026-03-01'",
            metrics={"spent": ["sum"], "day": ["last"]},
        )
        live = (
            "SELECT extract(epoch FROM bucket), zoned, xml, row_count FROM gold.c ORDER BY 1, 2, 3"
        )
        # Paths read abbreviations since PostgreSQL 17; to others this is NULL.
        read = (
            "jsonb_path_query_first('\"2026-03-01 12:00 EST\"',"
            " '$.datetime(\"YYYY-MM-DD HH24:MI TZ\")', '{}', true) #>> '{}'"
        )
        create(db, "j", "raw.calls", "1 hour", dimensions=["read"], expressions={"read": read})
        paths = "SELECT DISTINCT read FROM gold.j"
        before = db.execute(live).fetchall(), db.execute(paths).fetchall()
        refresh_everything(db)
        db.execute("RESET ALL")
        db.execute("SET timezone = 'UTC'")
        assert (db.execute(live).fetchall(), db.execute(paths).fetchall()) == before
        assert_settled(db, "c", "j")


def test_a_finer_rollup_with_another_filter_is_not_advised(db: psycopg.Connection) -> None:
    notices: list[str] = []
    db.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    db.execute(SOURCE)
    advised = "holds all that this rollup needs"
    metrics = {"x": ["sum"]}
    options: list[tuple[dict[str, Any], bool]] = [
        ({"filter": "status = 200", "expressions": {"x": "spent * 2"}}, False),
        ({"filter": "status = 404", "expressions": {"x": "spent * 2"}}, False),
        ({"filter": "status = 200", "expressions": {"x": "spent * 3"}}, False),
        ({"expressions": {"x": "spent * 2"}}, False),
        ({"filter": "(status)=200", "expressions": {"x": "spent*2"}}, True),
    ]
    for i, (option, is_advised) in enumerate(options):
        notices.clear()
        create(db, f"c{i}", "raw.calls", f"{i + 1} hours", dimensions=[], metrics=metrics, **option)
        assert any(advised in n for n in notices) == is_advised, (i, notices)


def test_metrics_of_an_expression_can_be_added(
    db: psycopg.Connection, levels: tuple[str, ...]
) -> None:
    refresh_everything(db)
    db.execute("SELECT silver.add_rollup_metric('calls_1m', '{\"ratio\": [\"max\"]}')")
    assert_equal_to_group_by(db, *levels)
    refresh_everything(db)
    assert_settled(db, *levels)


def test_late_rows_are_counted_by_the_filter(db: psycopg.Connection) -> None:
    db.execute(SOURCE)
    db.execute(FILL)
    metrics = {"spent": ["sum"]}
    create(db, "c", "raw.calls", "1 hour", dimensions=[], metrics=metrics, filter="status = 200")
    create(db, "d", "c", "1 day")
    create(db, "e", "raw.calls", "1 hour", dimensions=[], metrics=metrics)
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    db.execute(
        "INSERT INTO raw.calls (ts, status) VALUES ('2026-03-01 21:00+00', 200),"
        " ('2026-03-01 21:01+00', 404), ('2026-03-01 21:02+00', NULL)"
    )
    refresh_everything(db)
    assert db.execute(
        "SELECT target_name, sealed_late_rows FROM silver.rollup_config ORDER BY 1"
    ).fetchall() == [("silver.c", 1), ("silver.d", 1), ("silver.e", 3)]
    assert_equal_to_group_by(db, "c", "d", "e")


def test_promise_h_late_rows_for_which_a_filter_fails_stop_no_other(db: psycopg.Connection) -> None:
    db.execute(SOURCE)
    db.execute(FILL)
    metrics = {"spent": ["sum"]}
    create(db, "c", "raw.calls", "1 hour", metrics=metrics, filter="1000 / status > 2")
    create(db, "e", "raw.calls", "1 hour", metrics=metrics)
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    for late in (
        "(ts, status) VALUES ('2026-03-01 21:00+00', 0)",
        "VALUES ('2026-03-01 21:01+00')",
    ):
        db.execute(f"INSERT INTO raw.calls {late}".encode())
        db.execute("INSERT INTO raw.calls (ts, spent) VALUES ('2026-03-02 01:00+00', 1)")
        db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
        assert_settled(db, "e")
        db.execute("ALTER TABLE raw.calls DROP COLUMN IF EXISTS status")
    told = (
        "SELECT target_table, error_message, detail LIKE '%its filter fails on some%'"
        " FROM silver.error_log WHERE error_code = 'TR006'"
    )
    message = "1 late rows were kept out of sealed time"
    assert sorted(db.execute(told)) == sorted(
        2 * [("silver.c", message, True), ("silver.e", message, False)]
    )


def test_dropped_metrics_leave_the_filter_and_other_expressions_watched(
    db: psycopg.Connection, levels: tuple[str, ...]
) -> None:
    refresh_everything(db)
    for name in reversed(levels):
        db.execute('SELECT silver.drop_rollup_metric(%s, \'{"failed": ["sum"]}\')', [name])
    assert_equal_to_group_by(db, *levels)
    refresh_everything(db)
    db.execute("ALTER TABLE raw.calls ALTER status TYPE integer USING 700 - status")
    refresh_everything(db)
    assert_settled(db, *levels)


def test_an_expression_that_nothing_names_yet_outlives_a_dropped_metric(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.r (ts timestamptz, a integer)")
    db.execute("INSERT INTO raw.r VALUES ('2026-03-01 12:00+00', 3)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.r', 'silver', 'r', '1 hour', metrics =>"
        ' \'{"e": ["sum"], "a": ["sum"]}\', expressions => \'{"e": "a * 2", "u": "a * 7"}\')'
    )
    db.execute("""SELECT silver.drop_rollup_metric('r', '{"e": ["sum"]}')""")
    assert db.execute("SELECT expressions FROM silver.rollup_config").fetchall() == [
        ({"u": "a * 7"},)
    ]
    db.execute("""SELECT silver.add_rollup_metric('r', '{"u": ["sum"]}')""")
    assert db.execute("SELECT u_sum FROM gold.r").fetchall() == [(21,)]
