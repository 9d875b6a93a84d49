"""A table whose partitions go to files."""

from pathlib import Path

import psycopg

from cold_tables import move_aside
from servers import PostgresServer


def make_url(server: PostgresServer, database: str) -> str:
    """Three days of two devices: the first two are a table of their own by now."""
    with psycopg.connect(server.url(database), autocommit=True) as db:
        create(db)
        assert len(move_aside(db, "raw.readings")) == 2
    return server.url(database)


def create(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.readings (ts timestamptz, device text, n int) PARTITION BY RANGE (ts)"
    )
    for number in (1, 2, 30):
        db.execute(
            f"CREATE TABLE raw.readings_{number} PARTITION OF raw.readings"
            f" FOR VALUES FROM ('2026-03-{number:02}Z') TO ('2026-03-{number + 1:02}Z')"
            " WITH (autovacuum_enabled = off)"
        )
        db.execute(
            "INSERT INTO raw.readings SELECT %s::timestamptz + make_interval(hours => h), device, h"
            " FROM generate_series(0, 23) AS h, unnest(ARRAY['b', 'a']) AS device",
            [f"2026-03-{number:02}Z"],
        )
    db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
        " dimensions => '{device}')"
    )


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))
