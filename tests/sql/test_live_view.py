"""Promise b where it is easy to miss: one query, one snapshot, one decision."""

from collections.abc import Callable
from typing import Any

import psycopg


def test_promise_b_statistics_that_change_during_a_query(
    db: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    db.execute("CREATE TABLE raw.wide (ts timestamptz, padding text)")
    db.execute("ALTER TABLE raw.wide SET (autovacuum_enabled = off)")
    db.execute("ALTER TABLE raw.wide ALTER padding SET STORAGE PLAIN")
    db.execute(
        "SELECT silver.create_rollup_table('raw.wide', 'silver', 'wide_1m', '1 minute',"
        " metrics => '{}')"
    )
    db.execute(
        "INSERT INTO raw.wide SELECT timestamptz '2026-03-01 00:00+00' + make_interval(secs => i),"
        " repeat('x', 4000) FROM generate_series(0, 3599) AS i"
    )
    reader = connect(autocommit=False)
    reader.execute("DECLARE rows NO SCROLL CURSOR FOR SELECT row_count FROM gold.wide_1m")
    first = reader.execute("FETCH 1 FROM rows").fetchall()
    db.execute("ANALYZE raw.wide")
    rest = reader.execute("FETCH ALL FROM rows").fetchall()
    assert [row[0] for row in first + rest] == [60] * 60
