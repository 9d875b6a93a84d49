"""DDL on tables below rollups, and what reads say then."""

from typing import Any

import psycopg

from daily_table import ROLLUPS
from rollup_checks import assert_equal_to_group_by
from validation import healths


def assert_exact_or_invalid(connection: psycopg.Connection[Any]) -> None:
    if healths(connection) != {"invalid"}:
        assert_equal_to_group_by(connection, *ROLLUPS)


def run(connection: psycopg.Connection[Any], script: str) -> None:
    """ENABLE ALWAYS takes one trigger at a time, which an administrator would write out."""
    (always,) = connection.execute(
        "SELECT string_agg(format('ENABLE %s TRIGGER %I',"
        " CASE tgenabled WHEN 'R' THEN 'REPLICA' ELSE 'ALWAYS' END, tgname), ', ')"
        " FROM pg_trigger WHERE tgrelid = 'raw.t_1'::regclass AND NOT tgisinternal"
    ).fetchone() or ("",)
    connection.execute(script.replace("ENABLE ALWAYS TRIGGER ALL", always).encode())
