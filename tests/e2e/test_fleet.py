"""docs/fleet.md, word for word: from a table with a partition a day to what is kept of it.

TSROLLUP_REPORTS=5000000 leaves it the reports that it has.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from benchmarks.story import PARTMAN, statements

pytestmark = [pytest.mark.partman, pytest.mark.spread]

LEVELS = {
    "trucks_1m": ("1 minute", "truck, depot"),
    "trucks_1h": ("1 hour", "truck, depot"),
    "trucks_1d": ("1 day", "truck, depot"),
    "depots_1d": ("1 day", "depot"),
}
# Of the last days, in which reports came late and were taken back.
DIFFERENCES = """
    WITH since (border) AS (SELECT date_trunc('day', now(), 'Europe/Berlin') - interval '5 days')
    SELECT count(*) FROM (SELECT * FROM gold.{view}, since WHERE bucket >= border) AS live
    FULL JOIN (
        SELECT silver.time_bucket('{width}', at, 'Europe/Berlin') AS bucket, {dimensions},
            count(*) AS reports, avg(speed * 3.6) AS kmh, max(status) AS status,
            percentile_disc(0.95) WITHIN GROUP (ORDER BY speed * 3.6) AS p95
        FROM public.reports, since WHERE status = 0 AND at >= border GROUP BY 1, {dimensions}
    ) AS plain USING (bucket, {dimensions})
    WHERE row_count IS DISTINCT FROM reports OR abs(kmh_avg - kmh) > 1e-9 * kmh
        OR abs(kmh_p95 - p95) > 0.01 * p95{last}
"""


@pytest.mark.timeout(1800)
def test_every_word_of_the_page(db: psycopg.Connection) -> None:
    (partman,) = rows_of(db, PARTMAN)[0]
    kept: list[Any] = []
    for _, statement in statements(partman, os.environ.get("TSROLLUP_REPORTS", "5000")):
        if "set_retention" in statement:
            assert_right(db)
            kept = stored(db)
        rows = rows_of(db, statement)
        if statement.startswith("ANALYZE"):
            if partman == "no pg_partman":
                find_places(db)
            assert rows_of(db, "SELECT count(DISTINCT tableoid) FROM public.reports") == [(36,)]
        elif "must_be_zero" in statement:
            assert rows == [(0,)]
            assert_right(db)
        elif "gapfill" in statement:
            assert [row[0].astimezone(UTC).hour for row in rows] == [6, 7, 8, 9, 10, 11]
            assert all(row[1] is not None and row[-1] is None for row in rows[2:5])
        elif "oldest_report" in statement:
            month_ago = datetime.now(UTC) - timedelta(days=30)
            ((report, day),) = maintained(db, statement, month_ago - timedelta(days=2))
            assert day + timedelta(days=4) < month_ago < report + timedelta(days=2)
    assert kept == stored(db)
    assert partman == "no pg_partman" or rows_of(
        db, "SELECT retention FROM partman.part_config WHERE parent_table = 'public.reports'"
    ) == [(None,)]


def find_places(db: psycopg.Connection) -> None:
    """A run of maintenance holds others up for so long only; the next one goes on."""
    while rows_of(db, "SELECT 1 FROM public.reports_default LIMIT 1"):
        rows_of(db, "SELECT * FROM silver.maintain_timeseries_tables()")


def maintained(db: psycopg.Connection, statement: str, before: datetime) -> list[Any]:
    """What is in use, by autovacuum as well, waits for a run of maintenance to come."""
    while (rows := rows_of(db, statement))[0][0] < before:
        rows_of(db, "SELECT * FROM silver.maintain_timeseries_tables()")
    return rows


def assert_right(db: psycopg.Connection) -> None:
    for view, (width, dimensions) in LEVELS.items():
        last = " OR status_last IS DISTINCT FROM status" if view.startswith("trucks") else ""
        query = DIFFERENCES.format(view=view, width=width, dimensions=dimensions, last=last)
        assert rows_of(db, query) == [(0,)], view


def stored(db: psycopg.Connection) -> list[Any]:
    """What is to stay as it was: how much each level holds, and a hash of it."""
    query = "SELECT count(*), sum(row_count), sum(hashtext(v::text)) FROM gold.{} AS v"
    return [rows_of(db, query.format(view)) for view in LEVELS]


def rows_of(db: psycopg.Connection, query: str) -> list[Any]:
    cursor = db.execute(query.encode())
    return cursor.fetchall() if cursor.description else []
