"""What the monitor and the validation say."""

from typing import Any

import psycopg


def healths(connection: psycopg.Connection[Any]) -> set[str]:
    return {
        row[0]
        for row in connection.execute("SELECT health FROM silver.timeseries_operations_monitor")
    }


def problems(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT target, problem, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()


def is_stale(connection: psycopg.Connection[Any]) -> bool:
    rows = connection.execute(
        "SELECT isempty(rollup_engine.stale_set(id)) FROM silver.rollup_config"
    ).fetchall()
    return (False,) in rows
