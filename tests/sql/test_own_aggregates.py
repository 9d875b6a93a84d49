"""Aggregates of one's own (`custom`): as exact as any, and else refused in one line."""

import json
from typing import Any

import psycopg
import pytest

from aggregate_levels import (
    GEOMEAN,
    LEVELS,
    TABLE,
    create_levels,
    fill,
)
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything


@pytest.mark.parametrize(
    "parts",
    [
        {"state": "sum(secret)"},
        {"state": "sum({value}), count(*)"},
        {"state": "sum({value})) FROM pg_class --"},
        {"state": "sum((SELECT {value}))"},
        {"state": "sum({value}) OVER ()"},
        {"state": "sum(random() * {value})"},
        {"state": "sum(pg_sleep({value}))"},
        {"state": "sum({value}) + current_user"},
        {"state": "sum(public.f({value}))"},
        {"state": "sum({value}); DROP TABLE x"},
        {"state": "sum('1' || {value})"},
        {"state": "{value}"},
        {"state": "sum({value}"},
        {"state": "sum({other})"},
        {"state": ""},
        {"state": None},
        {"state": 5},
        {"state": "sum(sum({value}))"},
        {"state": "generate_series(1, 5)"},
        {"combine": "{state}"},
        {"combine": "sum({value})"},
        {"combine": "nothing({state})"},
        {"finish": "sum({state})"},
        {"finish": "{state} / {distinct}"},
        {"finish": "({state}"},
        {"finish": "{state}, {count}"},
        {"finish": "'x'::integer + {state}"},
        {"as": "sum"},
        {"as": "p50"},
        {"as": 'x"; --'},
        {"as": None},
        {"as": "a" * 50},
        {"more": 1},
    ],
)
def test_own_aggregates_are_refused_in_one_line(
    db: psycopg.Connection, parts: dict[str, Any]
) -> None:
    db.execute(TABLE.encode())
    with pytest.raises(psycopg.Error) as error:
        db.execute(
            "SELECT silver.create_rollup_table('raw.numbers', 'silver', 'bad', '1 minute',"
            " metrics => %s)",
            [json.dumps({"level": [GEOMEAN | parts]})],
        )
    assert error.value.sqlstate == "TR001", error.value
    assert "\n" not in (error.value.diag.message_primary or "")
    assert error.value.diag.message_hint


def test_what_somebody_made_for_his_own_type_is_not_called(db: psycopg.Connection) -> None:
    """It would run with the rights of the machinery, or of who reads."""
    db.execute("""
        CREATE TYPE raw.letter AS ENUM ('b', 'a');
        CREATE FUNCTION raw.last_one(raw.letter, raw.letter) RETURNS raw.letter
            LANGUAGE sql AS 'SELECT $2';
        CREATE AGGREGATE raw.max(raw.letter) (SFUNC = raw.last_one, STYPE = raw.letter);
        CREATE FUNCTION raw.told(raw.letter) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
        CREATE CAST (raw.letter AS text) WITH FUNCTION raw.told(raw.letter);
        CREATE TABLE raw.letters (ts timestamptz, letter raw.letter);
        INSERT INTO raw.letters VALUES ('2026-03-01 00:01', 'a'), ('2026-03-01 00:02', 'b');
        SELECT silver.create_rollup_table('raw.letters', 'silver', 'letters_1h', '1 hour',
            metrics => '{"letter": ["max"]}');
    """)
    for _ in range(2):
        assert db.execute("SELECT letter_max::text = 'x' FROM gold.letters_1h").fetchone() == (
            True,
        )
        assert db.execute("SELECT letter_max = 'a' FROM gold.letters_1h").fetchone() == (True,)
        refresh_everything(db)
    for aggregate in ("mode", "value_counts", "distinct"):
        with pytest.raises(psycopg.Error, match=f"{aggregate} needs a number"):
            db.execute(
                "SELECT silver.add_rollup_metric('letters_1h', %s)",
                [json.dumps({"letter": [aggregate]})],
            )


def test_own_aggregates_may_use_other_states(db: psycopg.Connection) -> None:
    spread = {
        "name": "custom",
        "as": "spread",
        "state": "max(abs({value}))",
        "combine": "max({state})",
        "finish": "CASE WHEN {state} > 0 THEN ({max} - {min}) / {state}::numeric END",
    }
    create_levels(db, {"small": [spread, GEOMEAN]})
    fill(db, 400)
    failing = {**spread, "as": "failing", "state": "sum(1 / ({value} - {value}))"}
    with pytest.raises(
        psycopg.Error, match=r"fail on rows of raw\.numbers: division by zero"
    ) as caught:
        db.execute(
            "SELECT silver.add_rollup_metric('numbers_1m', %s)", [json.dumps({"small": [failing]})]
        )
    assert caught.value.sqlstate == "TR001"
    for _ in range(2):
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_promise_a_own_aggregates_are_rounded_by_sums_only(db: psycopg.Connection) -> None:
    """The highest of many is the same in any order: the least change of it is one."""
    highest = {**GEOMEAN, "as": "highest", "state": "max({value})", "combine": "max({state})"}
    create_levels(db, {"level": [{**highest, "finish": "{state}"}]})
    fill(db, 900, step=0.01)
    db.execute("UPDATE raw.numbers SET level = 1e9")
    refresh_everything(db)
    db.execute(
        "UPDATE raw.numbers SET level = 1e9 + 1e-6 WHERE ts = (SELECT max(ts) FROM raw.numbers)"
    )
    refresh_everything(db)
    for level in LEVELS:
        query = f"SELECT max(level_highest) = 1e9::float8 + 1e-6 FROM gold.{level}"
        assert db.execute(query.encode()).fetchone() == (True,), level


def test_a_child_may_finish_them_otherwise(db: psycopg.Connection) -> None:
    create_levels(db, {"level": [GEOMEAN]})
    fill(db, 40)
    create_child = (
        "SELECT silver.create_rollup_table('numbers_1h', 'silver', 'own', '1 day', metrics => %s)"
    )
    for finish, message in (
        ("{state}::text::numeric", "it makes text of double precision"),
        ("exp({state}, 1)", "does not exist"),
        ("({state}, 1)", "more than one value"),
        ("sum({state})", "aggregate functions are not allowed"),
    ):
        with pytest.raises(psycopg.Error, match=f"geomean of column level .*{message}") as caught:
            db.execute(create_child, [json.dumps({"level": [{**GEOMEAN, "finish": finish}]})])
        assert caught.value.sqlstate == "TR001", finish
    finished = "||/ {state} / {count}"
    db.execute(create_child, [json.dumps({"level": [{**GEOMEAN, "finish": finished}]})])
    query = (
        "SELECT bool_and(abs(level_geomean - ||/ level_geomean_state / level_count) < 1e-9)"
        " FROM gold.own"
    )
    assert db.execute(query).fetchone() == (True,)
