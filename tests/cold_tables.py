"""Tables whose old partitions retention has moved aside, for the tests of archives."""

from pathlib import Path
from typing import Any

import psycopg

from raw_tables import maintained
from tsrollup.archive.moving import Outcome, Watch, archive
from tsrollup.archive.restoring import restore
from tsrollup.connection import connect

NOW = "2026-03-31 12:00+00"


def move_aside(db: psycopg.Connection[Any], source: str, keep: str = "3 days") -> list[str]:
    """Names of the partitions that are a table of their own from here on."""
    db.execute("SELECT count(*) FROM silver.perform_rollup(as_of => 'infinity')")
    db.execute("SELECT silver.set_retention(%s, %s, archive => true)", [source, keep])
    for _ in range(2):
        maintained(db, NOW)
    names = db.execute("SELECT partition_name FROM rollup_engine.detached_partition ORDER BY id")
    return [name for (name,) in names.fetchall()]


def archive_all(url: str, to: Path | str, watch: Watch | None = None) -> list[Outcome]:
    with connect(url) as connection:
        return list(archive(connection, str(to), watch=watch))


def restore_all(url: str, table: str, watch: Watch | None = None) -> list[Outcome]:
    with connect(url) as connection:
        return list(restore(connection, table, watch=watch))


def content(db: psycopg.Connection[Any], relation: str) -> list[tuple[Any, ...]]:
    """The rows of a table as their types write them, column by column, in an order of their own."""
    columns = db.execute(
        "SELECT string_agg(format('CASE WHEN num_nonnulls(%%1$I) = 1 THEN format(''%%%%s'', %%1$I)"
        " END', attname), ', ' ORDER BY attnum)"
        " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [relation],
    ).fetchone()
    assert columns
    rows = db.execute(f"SELECT {columns[0]} FROM {relation}".encode()).fetchall()
    return sorted(rows, key=repr)
