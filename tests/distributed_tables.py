"""Tables that Citus distributes, and rollups of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo


@dataclass(frozen=True)
class Cluster:
    url: str
    workers: tuple[str, ...]

    @contextmanager
    def connect(self, user: str | None = None) -> Iterator[psycopg.Connection[Any]]:
        url = make_conninfo(self.url, **({"user": user} if user else {}))
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection


def create_readings(db: psycopg.Connection[Any], name: str, clause: str = "") -> None:
    for statement in (
        f"CREATE TABLE {name} (ts timestamptz NOT NULL, device int NOT NULL,"
        f" temp double precision, note text) {clause}",
        f"CREATE INDEX ON {name} (device, ts)",
        f"CREATE INDEX ON {name} (ts)",
        f"SELECT create_distributed_table('{name}', 'device')",
    ):
        db.execute(statement.encode())


def fill(db: psycopg.Connection[Any], name: str, past: str) -> None:
    db.execute(
        f"INSERT INTO {name} SELECT t, d, d + extract(minute FROM t)::int % 7, 'n' || d % 3"
        f" FROM generate_series(date_trunc('hour', now()) - interval '{past}', now(),"
        " interval '2 minutes') AS t, generate_series(1, 6) AS d".encode()
    )


def drop_rollups_of(db: psycopg.Connection[Any], name: str) -> None:
    """Those that read others first."""
    for (target,) in db.execute(
        "SELECT r.target_table::text FROM silver.rollup_config AS r"
        " JOIN rollup_engine.source AS s ON s.id = r.source_id"
        " WHERE s.relation_name = %s ORDER BY r.depth DESC",
        [name],
    ).fetchall():
        db.execute("SELECT silver.drop_rollup(%s)", [target])
    db.execute(f"DROP TABLE IF EXISTS {name}".encode())


def create_rollups(db: psycopg.Connection[Any], source: str, look_back: str) -> tuple[str, str]:
    """Of five minutes by device, and of an hour above it."""
    name = source.removeprefix("raw.")
    fine, coarse = f"{name}_5m", f"{name}_1h"
    db.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, '5 minutes',"
        """ metrics => '{"temp": ["avg", "min", "max", "last", "stddev"]}',"""
        " dimensions => '{device,note}', chunk_interval => '1 day',"
        " change_tracking => 'window', look_back_window => %s, settle_delay => '0')",
        [source, fine, look_back],
    )
    db.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', dimensions => '{device}',"
        " settle_delay => '0')",
        [f"silver.{fine}", coarse],
    )
    return f"gold.{fine}", f"gold.{coarse}"


def value(db: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = db.execute(query.encode(), values).fetchone()
    return row[0] if row else None
