"""A copy in a database that sorts or folds texts otherwise."""

import json
from collections.abc import Callable
from typing import LiteralString

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by, force_configuration, refresh_everything
from servers import PostgresServer

ENGLISH = "LOCALE_PROVIDER icu ICU_LOCALE 'en'"
PROBLEMS = "SELECT problem FROM silver.validate_rollup_config() WHERE NOT is_valid"


@pytest.mark.parametrize("sealed", ["NULL", "current_date - 5"])
@pytest.mark.parametrize(
    ("column", "kind", "expression", "locale"),
    [
        ("u", "text", "u || ''", ENGLISH),
        ("v", "integer", "CASE v % 3 WHEN 0 THEN 'a' ELSE 'B' END", ENGLISH),
        ("u", "text", "lower(u)", "LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"),
    ],
)
def test_promise_i_texts_that_the_database_of_a_copy_sorts_otherwise(
    db: psycopg.Connection,
    server: PostgresServer,
    restore: Callable[..., str],
    sealed: str,
    column: str,
    kind: str,
    expression: str,
    locale: LiteralString,
) -> None:
    try:
        db.execute("CREATE COLLATION public.as_people_do (provider = icu, locale = 'en')")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server has no ICU")
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer, u text)")
    db.execute(
        "INSERT INTO raw.t SELECT current_date - make_interval(hours => i), i,"
        " ('{a,B,É}'::text[])[1 + i % 3] FROM generate_series(1, 200) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1d', '1 day', 'ts',"
        ' dimensions => \'{}\', metrics => \'{"x": ["min", "max"]}\', expressions => %s)',
        [json.dumps({"x": expression})],
    )
    refresh_everything(db)
    force_configuration(db, f"sealed_before = {sealed}")
    with psycopg.connect(server.superuser_url(restore(options=locale)), autocommit=True) as copy:
        problem = f"column {column} of raw.t is of another type now, or collation, of the same name"
        assert copy.execute(PROBLEMS).fetchall() == [(f"{problem} since the last run",)]
        refresh_everything(copy)
        assert copy.execute(PROBLEMS).fetchall() == []
        told = copy.execute("SELECT error_message FROM silver.error_log").fetchall()
        kept = "silver.t_1d rests on sealed values, or such before a window, that stay as they were"
        assert told == (
            []
            if sealed == "NULL"
            else [(f"{kept}, though {column} of raw.t was {kind} and is compared otherwise now",)]
        )
        if sealed == "NULL":
            assert_equal_to_group_by(copy, "t_1d")
