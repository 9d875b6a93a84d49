"""Dumps of a database, and programs of PostgreSQL that restore them."""

import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from servers import PostgresServer, bindir_of

PARTITIONED = """
    CREATE TABLE raw.t (gone integer, id bigserial, ts timestamptz, v integer, w integer,
        PRIMARY KEY (id, ts)) PARTITION BY RANGE (ts);
    ALTER TABLE raw.t DROP gone;
    CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01') TO ('2026-03-02');
    CREATE TABLE raw.t_2 PARTITION OF raw.t FOR VALUES FROM ('2026-03-02') TO ('2026-03-03');
    GRANT SELECT (v) ON raw.t TO tsrollup_operator;
    INSERT INTO raw.t (ts, v, w)
    SELECT '2026-03-01 00:00+00'::timestamptz + make_interval(mins => 20 * i), i, 100 - i
    FROM generate_series(0, 99) AS i;
    SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions => '{}');
"""


def dump(server: PostgresServer, db: psycopg.Connection[Any], folder: Path) -> str:
    """The file that the whole database is dumped to."""
    path = str(folder / "dump")
    run(server, "pg_dump", "-Fc", "-f", path, server.superuser_url(db.info.dbname))
    return path


def run(server: PostgresServer, program: str, *arguments: str, code: int = 0) -> None:
    folder = bindir_of(server)
    version = subprocess.run([folder / program, "--version"], capture_output=True, text=True)
    if f" {server.version}." not in version.stdout:
        pytest.skip(f"no {program} of version {server.version}")
    done = subprocess.run([folder / program, *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
