"""What could answer differently tomorrow, or is more than one expression, never runs."""

import json
from typing import Any

import psycopg
import pytest

from calls import EVIL, SOURCE, create, make_levels, nothing_is_left
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything


@pytest.fixture
def levels(db: psycopg.Connection) -> tuple[str, ...]:
    return make_levels(db)


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
