"""Ten minutes, hours and days of Berlin that aggregates are tried on."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from blackbox.calendar_reference import Buckets
from blackbox.rollup_reference import column, create

LEVELS = {
    "of_10m": Buckets("10 minutes"),
    "of_1h": Buckets("1 hour"),
    "of_1d": Buckets("1 day", "Europe/Berlin"),
}

FIRST = datetime(2026, 3, 28, 20, tzinfo=UTC)

BY_DEVICE = {"device": column("device")}

MIXED = """
    CREATE TABLE raw.mixed (
        ts timestamptz, device text, f float8, n numeric, i integer, r real, b boolean, t text,
        u uuid, d interval, far float8, up float8
    );
    CREATE INDEX ON raw.mixed (ts)
"""


def create_levels(
    connection: psycopg.Connection[Any],
    table: str,
    metrics: dict[str, Any],
    dimensions: Sequence[str] = ("device",),
) -> None:
    """Ten minutes, hours, and days of Berlin."""
    create(
        connection, table, "of_10m", "10 minutes", dimensions=list(dimensions), metrics=metrics
    )  # fmt: skip
    create(connection, "of_10m", "of_1h", "1 hour")
    create(connection, "of_1h", "of_1d", "1 day", timezone="Europe/Berlin")


def insert(
    connection: psycopg.Connection[Any], table: str, rows: Sequence[tuple[Any, ...]]
) -> None:
    marks = ", ".join(["%s"] * len(rows[0]))
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} VALUES ({marks})".encode(), rows)
