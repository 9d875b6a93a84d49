"""Ten days of readings, a partition each, and what a run of maintenance takes of them."""

from datetime import UTC, datetime
from typing import Any

import psycopg

NOW = datetime(2026, 3, 11, 12, tzinfo=UTC)


def day(number: int) -> datetime:
    return datetime(2026, 3, number, tzinfo=UTC)


def make_source(db: psycopg.Connection) -> psycopg.Connection:
    """Ten days of readings, a row an hour, in partitions of a day; an hourly and a daily rollup."""
    db.execute(
        "CREATE TABLE raw.readings (ts timestamptz, device int, level int) PARTITION BY RANGE (ts)"
    )
    for number in range(1, 13):
        db.execute(
            f"CREATE TABLE raw.readings_{number} PARTITION OF raw.readings"
            f" FOR VALUES FROM ('{day(number)}') TO ('{day(number + 1)}')"
            " WITH (autovacuum_enabled = off)"  # it would hold a partition that is to go
        )
    db.execute("CREATE INDEX ON raw.readings (ts)")
    fill(db, day(1), day(11))
    for source_, target, width in (
        ("raw.readings", "readings_1h", "1 hour"),
        ("readings_1h", "readings_1d", "1 day"),
    ):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s, dimensions => '{device}')",
            [source_, target, width],
        )
    return db


def fill(db: psycopg.Connection[Any], start: datetime, end: datetime) -> None:
    db.execute(
        "INSERT INTO raw.readings SELECT ts, 1, 1 FROM"
        " generate_series(%s, %s - interval '1 second', '1 hour'::interval) AS ts",
        [start, end],
    )


def maintain(db: psycopg.Connection[Any], now: datetime = NOW) -> list[tuple[str, str]]:
    """Removals and seals of a run: (table, action)."""
    rows = db.execute("SELECT * FROM rollup_engine.run_maintenance(NULL, %s)", [now]).fetchall()
    assert not [row for row in rows if row[1] == "failed"], rows
    return [row[:2] for row in rows if row[1] in ("sealed", "dropped", "archived", "deleted")]


def partitions(db: psycopg.Connection[Any]) -> set[int]:
    rows = db.execute(
        "SELECT substring(inhrelid::regclass::text FROM 'readings_([0-9]+)$')::integer"
        " FROM pg_inherits WHERE inhparent = 'raw.readings'::regclass"
    ).fetchall()
    return {number for (number,) in rows if number}


def total(db: psycopg.Connection[Any], relation: str = "gold.readings_1h") -> int:
    row = db.execute(f"SELECT coalesce(sum(row_count), 0) FROM {relation}".encode()).fetchone()
    assert row
    return int(row[0])


def sealed(db: psycopg.Connection[Any]) -> dict[str, tuple[int, datetime | None]]:
    rows = db.execute(
        "SELECT target_table, sealed_late_rows, exact_since"
        " FROM silver.timeseries_operations_monitor"
    ).fetchall()
    return {name.removeprefix("silver."): (late, since) for name, late, since in rows}
