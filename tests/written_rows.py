"""Rows that are written through one table or another, or merged."""

from typing import Any

import psycopg

COLUMNS = "id integer, ts timestamptz, k integer, v integer"

ROWS = (
    "SELECT i, timestamptz '2026-03-01 00:00+00' + make_interval(mins => 20 * i), {k}, i"
    " FROM generate_series(0, 59) AS i"
)


def problems_of(connection: psycopg.Connection[Any], name: str) -> tuple[str, list[Any]]:
    """Health of the rollup, and what validation says of it."""
    health = connection.execute(
        "SELECT health FROM silver.timeseries_operations_monitor WHERE target_table = %s", [name]
    ).fetchone()
    assert health
    problems = connection.execute(
        "SELECT problem, hint FROM silver.validate_rollup_config()"
        " WHERE target = %s AND NOT is_valid",
        [name],
    ).fetchall()
    return health[0], problems
