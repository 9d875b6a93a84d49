"""Raw events that expressions and filters are tried on, and what these mean."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import psycopg

from blackbox.rollup_reference import Row, Wanted, assert_live, create

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


def said_no(connection: psycopg.Connection[Any], options: dict[str, Any]) -> str | None:
    """Message and detail, a line each; None when it was let through, which is undone."""
    try:
        with connection.transaction(force_rollback=True):
            create(connection, "raw.events", "refused_1h", "1 hour", **options)
    except psycopg.Error as error:
        return f"{error.diag.message_primary}\n{error.diag.message_detail or ''}"
    return None


def right_or_invalid(connection: psycopg.Connection[Any], wanted: Wanted) -> bool:
    row = connection.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchone()
    if row != ("invalid",):
        assert_live(connection, "raw.events", wanted)
    return True
