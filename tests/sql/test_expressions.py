"""Expressions over a row are columns of the source, and a filter keeps rows out: exact as ever.
What could answer differently tomorrow, or run somebody's code with the machinery's rights, is
refused, and a text that is more than one expression never runs."""

import json
import secrets
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from servers import PostgresServer

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

Connect = Callable[..., psycopg.Connection[Any]]

SOURCE = """
    CREATE TABLE raw.calls (
        ts timestamptz NOT NULL, host text, payload jsonb, status integer,
        spent double precision, "odd ""{tsr}%s" numeric
    );
    CREATE INDEX ON raw.calls (ts);
"""
FILL = """
    INSERT INTO raw.calls
    SELECT timestamptz '2026-03-01 20:00+00' + make_interval(secs => 97 * i), 'h' || i % 3,
        CASE WHEN i % 5 > 0 THEN jsonb_build_object('region', 'r' || i % 4) END,
        (ARRAY[200, 200, NULL, 404, 500])[1 + i % 5], sqrt(i), i * 1.1
    FROM generate_series(0, 400) AS i
"""
EXPRESSIONS = {
    "region": "payload->>'region'",
    "failed": "CASE WHEN status >= 500 THEN 1 END",
    "ratio": "spent / 7 -- of a week",
    "Odd %s{id}": '"odd ""{tsr}%s" + 1',
    "part": "(extract(hour FROM ts AT TIME ZONE 'UTC')::int / 12)",
}
METRICS = {
    "failed": ["count", "sum"],
    "ratio": ["avg", "min"],
    "Odd %s{id}": ["sum", "last"],
    "spent": ["sum"],
}


def create(
    connection: psycopg.Connection[Any], name: str, source: str, width: str, **options: Any
) -> None:
    options = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in options.items()}
    named = "".join(f", {k} => %({k})s" for k in options)
    connection.execute(
        f"SELECT silver.create_rollup_table('{source}', 'silver', '{name}', '{width}'{named})",
        options,
    )


def create_levels(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    create(
        connection,
        "calls_1m",
        "raw.calls",
        "1 minute",
        dimensions=["region", "part", "host"],
        metrics=METRICS,
        expressions=EXPRESSIONS,
        filter="status < 500 OR (payload ->> 'region') <> 'r2'",
    )
    create(connection, "calls_1h", "calls_1m", "1 hour", filter="host <> 'h1'")
    create(
        connection,
        "calls_1d",
        "calls_1h",
        "1 day",
        dimensions=["area", "hour"],
        expressions={
            "area": "left(region, 1) || '{id}%s'",
            "hour": "extract(hour FROM bucket AT TIME ZONE 'UTC')",
        },
        filter="region IS NOT NULL",
    )
    return "calls_1m", "calls_1h", "calls_1d"


@pytest.fixture
def levels(db: psycopg.Connection) -> tuple[str, ...]:
    db.execute(SOURCE)
    db.execute(FILL)
    return create_levels(db)


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


REFUSED = {
    "now()": "not immutable",
    "random()": "not immutable",
    "ts::date": "not immutable",
    "to_char(ts, 'YYYY')": "not immutable",
    "ts + interval '1 day'": "not immutable",
    "date_trunc('day', ts)": "not immutable",
    "current_user": "not immutable",
    "host::regclass": "not immutable",
    "ts > 'now'": "another one each day",
    "ts > ' Tomorrow 12:00'": "another one each day",
    "(SELECT 1)": "cannot use subquery",
    "EXISTS (SELECT FROM pg_class)": "cannot use subquery",
    "sum(status)": "aggregate functions are not allowed",
    "row_number() OVER ()": "window functions are not allowed",
    "generate_series(1, 2)": "set-returning functions are not allowed",
    "$1": "no parameter",
    "tableoid": "a system column",
    "ctid": "a system column",
    "calls": '"calls" does not exist',
    "raw.calls.status": "missing FROM-clause",
    "failed + 1": '"failed" does not exist',
    "*": "syntax error",
    "": "syntax error",
    "1, 2": "syntax error",
    "status AS y": "syntax error",
    "SELECT 1": "syntax error",
    "true) OR (1=1": "syntax error",
    "1; DROP TABLE raw.calls": "syntax error",
    "1); DROP TABLE raw.calls; SELECT (1": "syntax error",
    "1 END; DROP TABLE raw.calls; SELECT CASE WHEN true THEN 1": "syntax error",
    "1); DROP TABLE raw.calls; SELECT CASE WHEN true THEN host = '": "unterminated",
    "1), CASE WHEN true THEN host = '": "unterminated",
    'status" ': "unterminated",
    "/* status": "unterminated",
    "$$ status": "unterminated",
    "'tsrollup_1' || host": "tsrollup",
    "U&'\\0074srollup_1' || host": "tsrollup",
    "ROW(1, 2)": ": it has pseudo-type",
    "evil.ran(status)": "it uses function evil.ran",
    "evil.ran(1)": "it uses function evil.ran",
    "status OPERATOR(evil.+) 1": "it uses operator evil.+",
    "status::evil.positive": "it uses type evil.positive",
    "'{1}'::evil.positive[]": "it uses type evil.positive[]",
    "'(1,2)'::evil.pair": "it uses type evil.pair",
    "'[1,2)'::evil.span": "it uses type evil.span",
    "lower(host::varchar)": "it uses function public.lower",
    "'a'::evil.letter": "it uses type evil.letter",
    "CASE WHEN ts >= '12:00 today' THEN 1 END": "another one each day",
    "ts <@ '[today,)'::tstzrange": "another one each day",
    "ts > E'\\x6eow'": "another one each day",
    "ts > 'yesterday Pacific/Apia'": "another one each day",
    "ts::time > 'no'\n'w'": "not immutable",
    "host::time > 'no'\n'w'": "not immutable",
    "(ts AT TIME ZONE 'UTC')::time > 'no'\n'w'": "another one each day",
}
# A function that runs says so, and whose rights it has.
EVIL = """
    CREATE SCHEMA evil;
    CREATE TABLE evil.seen (who name);
    CREATE FUNCTION evil.ran(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'it ran as %', current_user; END $$;
    CREATE OPERATOR evil.+ (FUNCTION = int4pl, LEFTARG = integer, RIGHTARG = integer);
    CREATE DOMAIN evil.positive AS integer CHECK (value > 0);
    CREATE TYPE evil.pair AS (a integer, b evil.positive);
    CREATE TYPE evil.span AS RANGE (subtype = integer);
    CREATE TYPE evil.letter AS ENUM ('a');
    CREATE FUNCTION public.lower(varchar) RETURNS text IMMUTABLE LANGUAGE sql
        AS 'SELECT ''trap''';
"""


@pytest.mark.parametrize("expression", REFUSED)
def test_refused(db: psycopg.Connection, expression: str) -> None:
    db.execute(SOURCE)
    db.execute(EVIL)
    for options in (
        {"expressions": {"an x": expression}, "metrics": {"host": ["last"]}},
        {"filter": expression, "metrics": {"host": ["last"]}},
    ):
        with pytest.raises(psycopg.Error) as caught:
            create(db, "c", "raw.calls", "1 hour", dimensions=[], **options)
        error = caught.value.diag
        assert error.sqlstate == "TR001"
        assert REFUSED[expression] in (error.message_primary or "")
        assert (error.message_primary or "").startswith(
            'expression "an x":' if "expressions" in options else "filter:"
        )
        assert error.message_hint
        assert "\n" not in (error.message_primary or "")
    assert db.execute("SELECT to_regclass('raw.calls') IS NOT NULL").fetchone() == (True,)
    assert nothing_is_left(db)


def nothing_is_left(connection: psycopg.Connection[Any]) -> bool:
    return connection.execute(
        "SELECT count(*) FROM (SELECT relname FROM pg_class UNION ALL SELECT proname FROM pg_proc)"
        " AS x (name) WHERE starts_with(name, 'tsrollup_')"
    ).fetchone() == (0,)


def test_new_metrics_are_tried_on_rows_that_count(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.notes (ts timestamp, kind text, note text)")
    db.execute(
        "INSERT INTO raw.notes VALUES ('2026-03-01', 'word', 'x'), ('2026-03-01', 'number', '7'),"
        " ('infinity', 'number', 'y')"
    )
    create(
        db,
        "n",
        "raw.notes",
        "1 hour",
        metrics={"n": ["sum"]},
        expressions={"n": "note::integer"},
        filter="kind = 'number'",
    )
    add = "SELECT silver.add_rollup_metric('n', %s, expressions => %s)"
    for name, expression in (("n", "note::integer"), ("half", "note::numeric / 2")):
        db.execute(add, [json.dumps({name: ["max"]}), json.dumps({name: expression})])
    with pytest.raises(psycopg.Error, match=r"fail on rows of raw\.notes: invalid input syntax"):
        db.execute(add, ['{"wrong": ["max"]}', json.dumps({"wrong": "kind::integer"})])
    assert_equal_to_group_by(db, "n")
    refresh_everything(db)
    assert_settled(db, "n")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "taken name": ({"expressions": {"status": "1"}}, "has a column of that name"),
    "bucket": ({"expressions": {"bucket": "1"}}, "has a column of that name"),
    "no name": ({"expressions": {"": "1"}}, "no name for a column"),
    "long name": ({"expressions": {"n" * 64: "1"}}, "no name for a column"),
    "number": ({"expressions": {"n": 1}}, "is a JSON number"),
    "null": ({"expressions": {"n": None}}, "is a JSON null"),
    "no condition": ({"filter": "status"}, "filter is of type integer"),
    "json dimension": (
        {"expressions": {"n": "payload::json"}, "dimensions": ["n"]},
        "cannot be rolled up so",
    ),
    "unknown dimension": ({"expressions": {"n": "1"}, "dimensions": ["m"]}, "not a column"),
    "text metric": (
        {"expressions": {"n": "host || '!'"}, "metrics": {"n": ["sum"]}},
        "needs a number",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(db: psycopg.Connection, case: str) -> None:
    db.execute(SOURCE)
    options, message = WRONG[case]
    with pytest.raises(psycopg.Error, match=message) as caught:
        create(db, "c", "raw.calls", "1 hour", **({"dimensions": []} | options))
    assert (caught.value.sqlstate or "").startswith("TR")
    assert caught.value.diag.message_hint


@pytest.mark.parametrize("expressions", ["[]", "1", '"a"'])
def test_expressions_are_an_object(db: psycopg.Connection, expressions: str) -> None:
    db.execute(SOURCE)
    with pytest.raises(psycopg.Error, match="expressions is a JSON"):
        db.execute(
            "SELECT silver.create_rollup_table('raw.calls', 'silver', 'c', '1 hour',"
            " expressions => %s)",
            [expressions],
        )


@pytest.mark.usefixtures("levels")
def test_a_child_reads_bucket_and_dimensions_only(db: psycopg.Connection) -> None:
    for options in (
        {"expressions": {"x": "failed_count + 1"}, "dimensions": ["x"]},
        {"filter": "row_count > 1"},
    ):
        with pytest.raises(psycopg.Error, match="does not exist") as caught:
            create(db, "c", "calls_1h", "1 day", **options)
        assert "bucket and the dimensions" in (caught.value.diag.message_hint or "")
    with pytest.raises(psycopg.Error, match="does not hold"):
        create(
            db,
            "c",
            "calls_1h",
            "1 day",
            expressions={"x": "left(region, 1)"},
            metrics={"x": ["count"]},
        )


def test_columns_may_be_renamed_and_retyped(
    db: psycopg.Connection, levels: tuple[str, ...]
) -> None:
    refresh_everything(db)
    before = [db.execute(f"SELECT * FROM gold.{x} ORDER BY 1, 2, 3").fetchall() for x in levels]
    db.execute('ALTER TABLE raw.calls RENAME status TO "sta""tus {x}"')
    db.execute("ALTER TABLE raw.calls RENAME payload TO host_payload")
    refresh_everything(db)
    db.execute('ALTER TABLE raw.calls ALTER "sta""tus {x}" TYPE bigint')
    refresh_everything(db)
    assert (
        db.execute(
            "SELECT problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
        ).fetchall()
        == []
    )
    after = [db.execute(f"SELECT * FROM gold.{x} ORDER BY 1, 2, 3").fetchall() for x in levels]
    assert after == before
    db.execute('UPDATE raw.calls SET "sta""tus {x}" = 500 WHERE host = \'h0\'')
    live = db.execute("SELECT sum(failed_count) FROM gold.calls_1m").fetchone()
    assert (
        live
        == db.execute(
            'SELECT count(*) FROM raw.calls WHERE "sta""tus {x}" >= 500'
            " AND host_payload ->> 'region' <> 'r2'"
        ).fetchone()
    )
    refresh_everything(db)
    assert db.execute("SELECT sum(failed_count) FROM gold.calls_1m").fetchone() == live
    # Rebuilt, it reads the same.
    db.execute("SELECT silver.rebuild_rollup('calls_1m')")
    refresh_everything(db)
    assert db.execute("SELECT sum(failed_count) FROM gold.calls_1m").fetchone() == live
    assert nothing_is_left(db)


def test_a_day_that_comes_near_is_no_day_of_now(db: psycopg.Connection) -> None:
    db.execute(SOURCE + FILL)
    (iso, spelled) = db.execute(
        "SELECT d::text, to_char(d, 'MM/DD/YYYY')"
        " FROM (SELECT (now() AT TIME ZONE 'UTC')::date) AS today (d)"
    ).fetchone() or ("", "")
    with pytest.raises(psycopg.Error, match="another one each day") as caught:
        create(db, "c", "raw.calls", "1 hour", filter=f"status > 0 OR ts > '{spelled}'")
    assert "write days as in 2026-03-01" in (caught.value.diag.message_hint or "")
    create(db, "c", "raw.calls", "1 hour", filter=f"status > 0 OR ts > '{iso}'")
    force_configuration(db, f"filter = replace(filter, '{iso}', '{spelled}')")  # long ago
    db.execute("ALTER TABLE raw.calls ALTER status TYPE bigint")
    db.execute("SELECT * FROM silver.perform_rollup()")
    assert db.execute("SELECT row_sql ? 'problem' FROM silver.rollup_config").fetchone() == (False,)


def test_promise_b_after_a_rename_the_new_name_counts(db: psycopg.Connection) -> None:
    """In expressions, metrics and what is dropped; the old one may be another column's."""
    db.execute(SOURCE + FILL)
    create(
        db,
        "c",
        "raw.calls",
        "1 hour",
        dimensions=[],
        metrics={"spent": ["avg"], "twice": ["sum"]},
        expressions={"twice": "spent * 2"},
        filter="spent < 15",
    )
    refresh_everything(db)
    db.execute('ALTER TABLE raw.calls RENAME spent TO "s pent"')
    refresh_everything(db)
    with pytest.raises(psycopg.Error, match='expression half: column "spent" does not exist'):
        add(db, {"half": ["sum"]}, {"half": "spent / 2"})
    with pytest.raises(psycopg.Error, match=r"twice of silver\.c is another one already: .*s pent"):
        add(db, {"twice": ["min"]}, {"twice": "spent"})
    add(db, {"half": ["sum"], "s pent": ["max"]}, {"half": '"s pent" / 2'})
    add(db, {"twice": ["min"]}, {"twice": "spent * 2"})
    # Once more, and for a while another column had the name.
    db.execute(
        'ALTER TABLE raw.calls RENAME "s pent" TO "s""pent"; ALTER TABLE raw.calls ADD spent int;'
        'ALTER TABLE raw.calls DROP spent, ALTER "s""pent" TYPE numeric'
    )
    db.execute("SELECT * FROM silver.perform_rollup()")
    db.execute("SELECT silver.rebuild_rollup('c')")
    for _ in range(2):
        assert (
            db.execute(
                'SELECT bucket, spent_avg, half_sum, "s pent_max", twice_min, twice_sum'
                " FROM gold.c ORDER BY 1"
            ).fetchall()
            == db.execute(
                'SELECT silver.time_bucket(\'1 hour\', ts), avg("s""pent"), sum("s""pent" / 2),'
                ' max("s""pent"), min("s""pent" * 2), sum("s""pent" * 2)'
                ' FROM raw.calls WHERE "s""pent" < 15 GROUP BY 1 ORDER BY 1'
            ).fetchall()
        )
        refresh_everything(db)
    for dropped in ("avg", "max"):
        db.execute("SELECT silver.drop_rollup_metric('c', %s)", [json.dumps({'s"pent': [dropped]})])
    assert db.execute("SELECT metrics FROM silver.rollup_config").fetchone() == (
        {"half": ["sum"], "twice": ["min", "sum"]},
    )


def add(db: psycopg.Connection, metrics: dict[str, Any], expressions: dict[str, str]) -> None:
    db.execute(
        "SELECT silver.add_rollup_metric('c', %s, %s)",
        [json.dumps(metrics), json.dumps(expressions)],
    )


def test_a_change_of_the_filters_column_alone_is_taken_in(db: psycopg.Connection) -> None:
    db.execute(SOURCE)
    db.execute(FILL)
    create(
        db,
        "c",
        "raw.calls",
        "1 hour",
        dimensions=[],
        metrics={"spent": ["sum"]},
        filter="status = 200",
    )
    refresh_everything(db)
    db.execute("ALTER TABLE raw.calls ALTER status TYPE integer USING status - 200")
    db.execute("ALTER TABLE raw.calls ALTER status TYPE integer USING status + 304")
    refresh_everything(db)
    assert_settled(db, "c")
    db.execute("ALTER TABLE raw.calls DROP status")
    assert db.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchone() == (
        "invalid",
    )


def test_what_is_no_longer_the_same_at_all_times_is_invalid(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz, due timestamp, v integer)")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01', '2026-03-01 23:00', 1)")
    create(
        db,
        "c",
        "raw.t",
        "1 hour",
        time_column="ts",
        dimensions=["day"],
        metrics={"v": ["sum"]},
        expressions={"day": "due::date"},
    )
    refresh_everything(db)
    db.execute("ALTER TABLE raw.t ALTER due TYPE timestamptz")
    db.execute("SELECT * FROM silver.perform_rollup()")
    problem = db.execute(
        "SELECT problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchone()
    assert problem
    assert "expression day: expression is not immutable" in problem[0]
    db.execute("ALTER TABLE raw.t ALTER due TYPE timestamp")
    refresh_everything(db)
    assert db.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchone() == (
        "ok",
    )
    assert_settled(db, "c")


@pytest.mark.usefixtures("levels")
def test_a_column_of_the_expressions_name_that_comes_later_changes_nothing(
    db: psycopg.Connection,
) -> None:
    refresh_everything(db)
    before = db.execute("SELECT * FROM gold.calls_1m ORDER BY 1, 2, 3").fetchall()
    db.execute("ALTER TABLE raw.calls ADD region text DEFAULT 'trap', ADD failed integer DEFAULT 9")
    db.execute("ALTER TABLE raw.calls ALTER spent TYPE double precision USING spent")
    refresh_everything(db)
    assert db.execute("SELECT * FROM gold.calls_1m ORDER BY 1, 2, 3").fetchall() == before


def test_extensions_of_a_superuser_are_trusted(db: psycopg.Connection) -> None:
    db.execute("CREATE SCHEMA ext")
    db.execute("CREATE EXTENSION citext SCHEMA ext")
    db.execute(SOURCE)
    db.execute(FILL)
    options: dict[str, Any] = {
        "dimensions": ["path"],
        "metrics": {"spent": ["sum"]},
        "expressions": {"path": "upper(host)::citext"},
        "filter": "host::citext = 'H1'::citext",
    }
    with pytest.raises(psycopg.Error, match="may not use schema ext") as caught:
        create(db, "c", "raw.calls", "1 hour", **options)
    db.execute((caught.value.diag.message_hint or "").encode())
    create(db, "c", "raw.calls", "1 hour", **options)
    assert db.execute("SELECT DISTINCT path::text FROM gold.c").fetchall() == [("H1",)]
    refresh_everything(db)
    assert db.execute("SELECT DISTINCT path::text FROM gold.c").fetchall() == [("H1",)]


def test_an_extensions_function_that_needs_the_sessions_path_is_refused(
    db: psycopg.Connection, server: PostgresServer, database: str
) -> None:
    """Those of earthdistance name their types without a schema before PostgreSQL 16."""
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute("CREATE EXTENSION earthdistance CASCADE")
    db.execute(SOURCE)
    options = {
        "metrics": {"far": ["max"]},
        "expressions": {"far": "latitude(ll_to_earth(spent, 2))"},
    }
    if db.info.server_version >= 160000:
        create(db, "c", "raw.calls", "1 hour", **options)
        refresh_everything(db)
        return
    with pytest.raises(psycopg.Error, match="expression far: a function in it looks for") as caught:
        create(db, "c", "raw.calls", "1 hour", **options)
    assert caught.value.sqlstate == "TR001"
    assert "generated column" in (caught.value.diag.message_hint or "")


def test_an_extensions_function_that_somebody_owns_is_refused(
    db: psycopg.Connection, server: PostgresServer, database: str
) -> None:
    role = f"somebody_{secrets.token_hex(4)}"
    db.execute(SOURCE)
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute("CREATE EXTENSION IF NOT EXISTS ltree")
        superuser.execute(f"CREATE ROLE {role}")
        superuser.execute(f"ALTER FUNCTION nlevel(ltree) OWNER TO {role}")
        try:
            with pytest.raises(psycopg.Error, match=r"it uses function public\.nlevel"):
                create(db, "c", "raw.calls", "1 hour", filter="nlevel(text2ltree(host)) = 1")
        finally:
            superuser.execute("ALTER FUNCTION nlevel(ltree) OWNER TO current_user")
            superuser.execute(f"DROP ROLE {role}")


def test_what_a_stranger_could_take_the_place_of_is_refused_or_not_looked_for(
    db: psycopg.Connection, server: PostgresServer, database: str
) -> None:
    role = f"stranger_{secrets.token_hex(4)}"
    db.execute("CREATE TYPE raw.mood AS ENUM ('good', 'bad')")
    db.execute("CREATE TABLE raw.moods (ts timestamptz, name text, mood raw.mood, tags text[])")
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        # A type of his that is found first may run his code while a text is parsed.
        # Who inherits nothing is no member.
        superuser.execute(
            f"""
            CREATE ROLE {role} NOINHERIT; GRANT tsrollup_owner TO {role};
            GRANT CREATE ON SCHEMA public TO {role}; CREATE SCHEMA own AUTHORIZATION {role};
            GRANT CREATE ON DATABASE {database} TO {role};
            SET ROLE {role};
            GRANT USAGE ON SCHEMA own TO PUBLIC;
            CREATE FUNCTION own.ran(text) RETURNS boolean LANGUAGE plpgsql
                AS $$ BEGIN RAISE EXCEPTION 'it ran as %', current_user; END $$;
            CREATE DOMAIN public.mood AS text CHECK (own.ran(value));
            CREATE EXTENSION hstore SCHEMA own;
            """.encode()
        )
        try:
            create(db, "m", "raw.moods", "1 hour", filter="mood = 'bad'::mood")
            db.execute("ALTER TABLE raw.moods ALTER name TYPE varchar")
            db.execute("SELECT * FROM silver.perform_rollup()")
            told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
            assert told == [(None,)]
            path = "SELECT rollup_engine.expression_path('raw.moods', true)"
            closed = "SELECT rollup_engine.expression_path('raw.moods', false)"
            assert "public" not in str(db.execute(closed).fetchall())
            (schemas,) = db.execute(path).fetchall()[0]
            assert schemas.endswith(", raw, public, pg_temp")
            assert "own" not in schemas
            with pytest.raises(psycopg.Error, match=r"it uses .*function own\.hstore"):
                create(db, "c", "raw.moods", "1 hour", filter="own.hstore(name, 'x') IS NULL")
            superuser.execute("RESET ROLE; DROP EXTENSION hstore")
            # The owner of a schema may create in it what the list of rights says that he may not.
            superuser.execute(
                f"CREATE SCHEMA aab AUTHORIZATION {role}; CREATE EXTENSION hstore SCHEMA aab;"
                " GRANT USAGE ON SCHEMA aab TO PUBLIC;"
                f" REVOKE CREATE ON SCHEMA aab FROM {role}".encode()
            )
            (schemas,) = db.execute(path).fetchall()[0]
            assert schemas.endswith(", raw, public, aab, pg_temp")
            superuser.execute("DROP EXTENSION hstore; CREATE EXTENSION hstore")
            # Functions of PostgreSQL stay what they were, whoever has others of their names.
            create(db, "l", "raw.moods", "1 hour", filter="left(name, 2) = 'ab'")
            superuser.execute(
                f"SET ROLE {role}; CREATE FUNCTION public.left(varchar, int) RETURNS text"
                " IMMUTABLE LANGUAGE sql AS $$ SELECT 'x' $$; RESET ROLE".encode()
            )
            db.execute("ALTER TABLE raw.moods ALTER name TYPE varchar(9)")
            db.execute("SELECT * FROM silver.perform_rollup()")
            told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
            assert told == [(None,), (None,)]
            db.execute("SELECT silver.rebuild_rollup('l')")
            create(db, "s", "raw.moods", "1 hour", filter="left(name, 3) = 'abc'")
            # A member's is found, where no stranger may put one.
            db.execute(
                "CREATE FUNCTION raw.left(varchar, int) RETURNS text"
                " IMMUTABLE LANGUAGE sql AS $$ SELECT 'x' $$"
            )
            with pytest.raises(psycopg.Error, match="it uses function raw") as caught:
                create(db, "n", "raw.moods", "1 hour", filter="left(name, 3) = 'abc'")
            assert "as in pg_catalog.left" in (caught.value.diag.message_hint or "")
            create(db, "n", "raw.moods", "1 hour", filter="pg_catalog.left(name, 3) = 'abc'")
            # An operator of his that matches better would read a constant as a type of his.
            create(db, "a", "raw.moods", "1 hour", filter="name = ANY ('{a,b}')")
            superuser.execute(
                f"""
                CREATE EXTENSION citext;
                SET ROLE {role};
                CREATE FUNCTION public.same(varchar, public.mood) RETURNS boolean
                    IMMUTABLE LANGUAGE sql AS 'SELECT true';
                CREATE OPERATOR public.= (
                    LEFTARG = varchar, RIGHTARG = public.mood, FUNCTION = public.same);
                CREATE FUNCTION public.meet(text[], public.mood[]) RETURNS boolean
                    IMMUTABLE LANGUAGE sql AS 'SELECT true';
                CREATE OPERATOR public.&& (
                    LEFTARG = text[], RIGHTARG = public.mood[], FUNCTION = public.meet);
                RESET ROLE;
                """.encode()
            )
            create(db, "b", "raw.moods", "1 hour", filter="tags && '{a,b}'")
            db.execute("ALTER TABLE raw.moods ALTER name TYPE varchar(8), ADD code public.citext")
            db.execute("SELECT * FROM silver.perform_rollup()")
            told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
            assert told == [(None,)] * 6
            # Those of an extension's type are in its schema, where PostgreSQL's would do, too.
            for name, text in (("d", "code = 'ABC'"), ("e", "name::public.citext = 'ABC'")):
                create(db, name, "raw.moods", "1 hour", filter=text)
                used = "SELECT row_sql::text FROM silver.rollup_config ORDER BY id DESC LIMIT 1"
                assert "OPERATOR(public.=)" in str(db.execute(used).fetchone())
            # His function of the very types would be the better match.
            for text, refused in (
                ("hstore(ROW(name)) ? name", r"it uses function public\.hstore\(record\)"),
                ("(name #= hstore('f1', name)) = name", r"it uses operator public\.#="),
            ):
                with pytest.raises(psycopg.Error, match=refused):
                    create(db, "c", "raw.moods", "1 hour", filter=text)
            create(db, "c", "raw.moods", "1 hour", filter="hstore(name, 'x') ? name")
            # A domain is of no function's very type.
            superuser.execute("CREATE EXTENSION IF NOT EXISTS ltree")
            db.execute("CREATE DOMAIN raw.place AS ltree")
            db.execute("CREATE TABLE raw.places (ts timestamptz, place raw.place, v integer)")
            db.execute("INSERT INTO raw.places VALUES ('2026-03-01', 'a.b', 1)")
            db.execute("INSERT INTO silver.dimension_config VALUES ('raw.places', 'place')")
            db.execute("UPDATE silver.dimension_config SET ltree_level = '{1,2}'")
            create(db, "p", "raw.places", "1 hour", dimensions=["place"])
            db.execute(
                "CREATE FUNCTION public.nlevel(raw.place) RETURNS integer IMMUTABLE"
                " LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'it ran'; END $$"
            )
            assert db.execute("SELECT count(*) FROM gold.p").fetchone() == (2,)
            refresh_everything(db)
            assert db.execute("SELECT count(*) FROM gold.p").fetchone() == (2,)
        finally:
            superuser.execute("RESET ROLE")
            superuser.execute(f"DROP OWNED BY {role} CASCADE")
            superuser.execute(f"DROP ROLE {role}")


def test_enums_and_domains_of_columns(db: psycopg.Connection) -> None:
    db.execute("CREATE TYPE raw.mood AS ENUM ('good', 'bad')")
    db.execute("CREATE DOMAIN raw.score AS integer CHECK (value > 0)")
    db.execute("CREATE TYPE raw.spot AS (x integer, y integer)")
    db.execute("CREATE TABLE raw.t (ts timestamptz, mood raw.mood, score raw.score, spot raw.spot)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01' + make_interval(mins => i),"
        " (ARRAY['good', 'bad'])[1 + i % 2]::raw.mood, 1 + i % 7, ROW(i, i % 3)::raw.spot"
        " FROM generate_series(1, 300) AS i"
    )
    create(
        db,
        "c",
        "raw.t",
        "1 hour",
        dimensions=["fine", "y"],
        metrics={"score": ["sum"], "twice": ["max"]},
        expressions={
            "fine": "mood IN ('good')",
            "y": "(spot).y",
            "twice": "coalesce(score, 0) * 2",
        },
        filter="mood <= 'bad'::raw.mood AND score <> 3",
    )
    assert_equal_to_group_by(db, "c")
    refresh_everything(db)
    assert_settled(db, "c")


def test_promise_b_what_an_expression_names_becomes_another(db: psycopg.Connection) -> None:
    db.execute("CREATE COLLATION public.c FROM \"C.utf8\"; CREATE TYPE raw.mood AS ENUM ('a', 'b')")
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, h text);"
        " CREATE TABLE raw.u (ts timestamptz, m raw.mood[])"
    )
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01' + make_interval(mins => 7 * i),"
        " (ARRAY['x', 'ä', 'Ä'])[1 + i % 3] FROM generate_series(1, 50) AS i"
    )
    db.execute(
        "INSERT INTO raw.u SELECT ts, ARRAY[CASE h WHEN 'x' THEN 'a' ELSE 'b' END::raw.mood]"
        " FROM raw.t"
    )
    upper = {"x": "upper(h COLLATE public.c) = 'Ä'"}
    create(
        db, "t1", "raw.t", "1 hour", dimensions=["x"], metrics={"h": ["count"]}, expressions=upper
    )
    create(db, "t2", "raw.t", "1 day", dimensions=[], filter="upper(h COLLATE public.c) = 'Ä'")
    create(db, "u1", "raw.u", "1 hour", expressions={"n": "CASE WHEN m[1] = 'a' THEN 1 END"})
    create(db, "u2", "u1", "1 day")
    with pytest.raises(psycopg.Error, match="it hashes an enum") as caught:
        create(db, "u3", "raw.u", "1 hour", filter="hash_array(m) > 0")
    assert caught.value.sqlstate == "TR001"
    for _ in range(2):
        refresh_everything(db)
    for unseen, change in (
        ({"t1", "t2"}, 'DROP COLLATION public.c; CREATE COLLATION public.c FROM "C"'),
        ({"u1", "u2"}, "ALTER TYPE raw.mood ADD VALUE 'c' BEFORE 'a'"),
        (
            {"u1", "u2"},
            "ALTER TYPE raw.mood RENAME VALUE 'a' TO '-'; ALTER TYPE raw.mood RENAME VALUE 'b' TO"
            " 'a'; ALTER TYPE raw.mood RENAME VALUE '-' TO 'b'",
        ),
    ):
        db.execute(change)
        invalid = db.execute(
            "SELECT target_table::text FROM silver.timeseries_operations_monitor"
            " WHERE health = 'invalid' AND reason ~ 'another one now since the last run'"
        ).fetchall()
        assert {name.removeprefix("silver.") for (name,) in invalid} == (
            set() if "ADD VALUE" in change else unseen
        )
        refresh_everything(db)
        assert_settled(db, "t1", "t2", "u1", "u2")
    db.execute(
        """SELECT silver.drop_rollup('t2'), silver.drop_rollup_metric('u2', '{"n": ["sum"]}')"""
    )
    assert db.execute(
        "SELECT sum(stale_buckets) FROM silver.timeseries_operations_monitor"
    ).fetchone() == (0,)
    assert_settled(db, "t1", "u1", "u2")


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


CONDITIONS = st.sampled_from(
    [None, "status = 200", "host <> 'h1' OR status IS NULL", "payload ? 'region'", "spent < 9"]
)
KEYS = st.sampled_from(
    ["payload->>'region'", "status / 100", "host || coalesce(status, 0)", "left(host, 1)", "NULL"]
)
VALUES = st.sampled_from(
    ["CASE WHEN status >= 500 THEN 1 END", "spent * 2.5", "-status", "length(host)", "1"]
)
CHANGES = st.lists(
    st.sampled_from(
        [
            "UPDATE raw.calls SET status = coalesce(status, 100) + 100 WHERE host = 'h2'",
            "UPDATE raw.calls SET ts = ts - interval '3 hours' WHERE status = 200",
            "DELETE FROM raw.calls WHERE random() < 0.1",
            "INSERT INTO raw.calls (ts, host, spent) VALUES ('2026-03-01 09:59+00', 'h9', 1)",
            "INSERT INTO raw.calls SELECT ts + interval '1 h', host, '{}', 200 FROM raw.calls"
            " LIMIT 9",
            "ALTER TABLE raw.calls RENAME status TO status2;"
            "ALTER TABLE raw.calls RENAME status2 TO status",
            "SELECT * FROM silver.perform_rollup(as_of => 'infinity', max_batches => 1)",
            "TRUNCATE raw.calls",
        ]
    ),
    max_size=5,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(CONDITIONS, KEYS, VALUES, CONDITIONS, CHANGES)
def test_histories(
    connect: Connect,
    wanted: str | None,
    key: str,
    value: str,
    child: str | None,
    changes: list[str],
) -> None:
    with connect() as db:
        db.execute("DROP TABLE IF EXISTS raw.calls CASCADE")
        db.execute(SOURCE)
        db.execute(FILL)
        try:
            create(
                db,
                "c",
                "raw.calls",
                "15 minutes",
                dimensions=["key", "host"],
                metrics={"value": ["count", "sum", "avg", "max"]},
                expressions={"key": key, "value": value},
                filter=wanted,
            )
            create(db, "d", "c", "1 hour", filter="host <> 'h0'" if child else None)
            create(
                db,
                "e",
                "d",
                "1 day",
                dimensions=["short"],
                expressions={"short": "right(host, 1)"},
                filter="key IS NULL OR bucket > '2026-03-01 21:00'",
            )
            for change in changes:
                db.execute(change)
                assert_equal_to_group_by(db, "c", "d", "e")
            refresh_everything(db)
            assert_settled(db, "c", "d", "e")
        finally:
            for name in ("e", "d", "c"):
                db.execute(
                    "SELECT silver.drop_rollup(target_table::text) FROM silver.rollup_config"
                    " WHERE target_name = %s",
                    [f"silver.{name}"],
                )


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


def test_who_creates_rollups_needs_no_superuser_and_gains_no_rights(
    db: psycopg.Connection, connect: Connect, server: PostgresServer, database: str
) -> None:
    role = f"creator_{secrets.token_hex(4)}"
    db.execute(SOURCE)
    db.execute(FILL)
    db.execute(EVIL)
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN")
        superuser.execute(f"GRANT USAGE, CREATE ON SCHEMA raw, evil TO {role}")
        superuser.execute(f"ALTER TABLE raw.calls OWNER TO {role}")
        with connect(user=role) as creator:
            with pytest.raises(psycopg.Error):
                create(creator, "c", "raw.calls", "1 hour", filter="status = 200")
            superuser.execute(f"GRANT tsrollup_owner TO {role}")
            levels = create_levels(creator)
            creator.execute(
                "CREATE FUNCTION evil.own() RETURNS integer IMMUTABLE LANGUAGE sql RETURN 1"
            )
            with pytest.raises(psycopg.Error, match=r"it uses function evil\.own"):
                create(creator, "c", "raw.calls", "1 hour", filter="evil.own() = status")
            refresh_everything(creator)
            assert_settled(creator, *levels)
        for name in reversed(levels):
            superuser.execute("SELECT silver.drop_rollup(%s)", [name])
        superuser.execute(f"DROP OWNED BY {role}")
        superuser.execute(f"DROP ROLE {role}")


def test_an_overload_that_comes_later_does_not_run(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz, name varchar(9), v integer)")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01', 'A', 1)")
    create(
        db,
        "c",
        "raw.t",
        "1 hour",
        dimensions=["low"],
        metrics={"v": ["sum"]},
        expressions={"low": "lower(name) || repeat('x'::varchar, 2)"},
    )
    refresh_everything(db)
    db.execute(
        "CREATE FUNCTION public.repeat(varchar, integer) RETURNS text IMMUTABLE LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'it ran as %', current_user; END $$"
    )
    db.execute("UPDATE raw.t SET v = 2")
    refresh_everything(db)
    assert db.execute("SELECT low, v_sum FROM gold.c").fetchall() == [("axx", 2)]
    db.execute("ALTER TABLE raw.t ALTER name TYPE varchar(12)")
    db.execute("UPDATE raw.t SET v = 3")
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert db.execute("SELECT low, v_sum FROM gold.c").fetchall() == [("axx", 3)]
    # It goes on with what the text meant at first; a new text means the other one.
    told = "SELECT target, problem FROM silver.validate_rollup_config()"
    assert db.execute(told).fetchall() == [("silver.c", None)]
    db.execute("UPDATE raw.t SET v = 4")
    assert db.execute("SELECT low, v_sum FROM gold.c").fetchall() == [("axx", 4)]
    with pytest.raises(psycopg.Error, match=r"expression low: it uses function public\.repeat"):
        create(db, "d", "raw.t", "1 hour", expressions={"low": "repeat('x'::varchar, 2)"})


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
