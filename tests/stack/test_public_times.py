"""Whatever silver shows is read by clients that know no infinite times, such as Python's."""

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql

from raw_tables import create_hierarchy
from rollup_checks import refresh_everything


@pytest.fixture
def rollups(db: psycopg.Connection) -> psycopg.Connection:
    create_hierarchy(db)
    db.execute("CREATE TABLE raw.readings_rest PARTITION OF raw.readings DEFAULT")
    return db


def test_every_table_and_view_is_read_in_every_state(rollups: psycopg.Connection) -> None:
    _read_everything(rollups)
    refresh_everything(rollups)
    _read_everything(rollups)

    rollups.execute("SELECT silver.set_retention('readings', '1 day')")
    rollups.execute("SELECT silver.set_retention('readings_1m', '1 day')")
    for _ in range(3):
        rollups.execute(
            "SELECT rollup_engine.run_maintenance(NULL, %s)", [datetime(2026, 3, 10, tzinfo=UTC)]
        )
        _read_everything(rollups)
    row = rollups.execute("SELECT count(sealed_before) FROM silver.rollup_config").fetchone()
    assert row != (0,), "something was sealed"

    rollups.execute("INSERT INTO raw.readings VALUES ('2026-03-01 22:00+00'), ('infinity'), (NULL)")
    rollups.execute("SELECT silver.mark_stale('readings', '-infinity', 'infinity')")
    _read_everything(rollups)
    rollups.execute("TRUNCATE raw.readings")
    _read_everything(rollups)
    rollups.execute("UPDATE silver.rollup_config SET retry_count = 10, parked_at = now()")
    rollups.execute("SELECT silver.pause_rollup('readings_1d')")
    _read_everything(rollups)


def _read_everything(connection: psycopg.Connection[Any]) -> None:
    relations = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'silver'::regnamespace"
        " AND relkind IN ('r', 'p', 'v') AND NOT relispartition"
    ).fetchall()
    assert len(relations) > 7
    sources = [sql.Identifier("silver", name) for (name,) in relations]
    functions = [
        "silver.get_detailed_stats('%')",
        "silver.get_partition_stats('raw.readings')",
        "silver.get_partition_stats('readings_1h')",
        "silver.validate_rollup_config()",
    ]
    for source in [*sources, *map(sql.SQL, functions)]:
        cursor = connection.execute(sql.SQL("SELECT * FROM {}").format(source))
        times = [
            sql.SQL("isfinite({})").format(sql.Identifier(column.name))
            for column in cursor.description or []
            if column.type_display in ("timestamptz", "timestamp", "date", "interval")
        ]
        cursor.fetchall()
        if times:
            finite = sql.SQL("SELECT FROM {} WHERE NOT ({})").format(
                source, sql.SQL(" AND ").join(times)
            )
            assert connection.execute(finite).fetchall() == [], source
