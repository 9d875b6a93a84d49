"""Readings that are partitioned, and a rollup of them."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql

NOW = datetime.now(UTC)


def create_source(db: psycopg.Connection[Any], name: str = "raw.readings") -> None:
    db.execute(
        sql.SQL(
            "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY, ts timestamptz NOT NULL,"
            " device integer, level float8, twice float8 GENERATED ALWAYS AS (level * 2) STORED)"
            " PARTITION BY RANGE (ts)"
        ).format(sql.SQL(name))
    )


def create_rollup(db: psycopg.Connection[Any], **arguments: object) -> None:
    names = "".join(f", {name} => %({name})s" for name in arguments)
    db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
        f" dimensions => '{{device}}', metrics => '{{\"level\": [\"avg\"]}}'{names})".encode(),
        arguments,
    )


def insert(db: psycopg.Connection[Any], *times: object) -> None:
    db.cursor().executemany(
        "INSERT INTO raw.readings (ts, device, level) VALUES (%s, 1, 2)", [[t] for t in times]
    )


def maintain(db: psycopg.Connection[Any], now: datetime = NOW) -> list[tuple[str, str, str]]:
    rows = db.execute("SELECT * FROM rollup_engine.run_maintenance(NULL, %s)", [now]).fetchall()
    assert not [row for row in rows if row[1] == "failed"], rows
    return rows


def partitions(db: psycopg.Connection[Any], table: str) -> list[tuple[str, str]]:
    """Name and bounds of each, in the order of time."""
    db.execute("SET timezone = 'UTC'")
    return db.execute(
        "SELECT c.oid::regclass::text, pg_get_expr(relpartbound, c.oid) FROM pg_inherits"
        " JOIN pg_class AS c ON c.oid = inhrelid WHERE inhparent = %s::regclass ORDER BY 2",
        [table],
    ).fetchall()


def default_rows(db: psycopg.Connection[Any]) -> int:
    row = db.execute("SELECT count(*) FROM raw.readings_default").fetchone()
    assert row
    return int(row[0])


def is_contiguous(bounds: list[tuple[str, str]]) -> bool:
    ranges = [b.removeprefix("FOR VALUES FROM ").split(" TO ") for _, b in bounds if b != "DEFAULT"]
    return all(a[1] == b[0] for a, b in pairwise(ranges))
