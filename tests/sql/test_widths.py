"""Every width of a bucket, from a microsecond to centuries. 30 days are no month."""

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

pytestmark = pytest.mark.spread

WIDTHS = (
    "1 microsecond|7 microseconds|1 millisecond|1 second|90 seconds|7 minutes|24:00:00|1 day"
    "|2 days 03:00|-1 hour 1 day|720 hours|30 days|1 month|31 days|60 days|2 months|90 days"
    "|2160 hours|3 months|91 days|7 months|360 days|8640 hours|365 days|12 months|1 year|14 months"
    "|3600 days|10 years|144000 days|400 years"
).split("|")
# Parent, child, and whether the child is made of whole buckets of the parent.
NESTING = [
    ("30 min", "1.5 hours", True), ("1 day", "1 week", True), ("24:00:00", "1 day", True),
    ("1 day", "48:00:00", True), ("1 day", "24:00:00", True), ("1 day", "1 month", True),
    ("8 hours", "1 year", True), ("1 month", "3 months", True), ("3 months", "1 year", True),
    ("1 year", "7 years", True), ("30 days", "360 days", True), ("30 days", "720 hours", True),
    ("30 days", "1 month", False), ("720 hours", "1 month", False), ("1 month", "30 days", False),
    ("1 day", "12 hours", False), ("1 month", "1 day", False), ("1 week", "1 month", False),
    ("90 days", "3 months", False), ("360 days", "1 year", False), ("1 year", "360 days", False),
    ("3 months", "10 months", False), ("7 minutes", "1 hour", False), ("5 hours", "1 month", False),
]  # fmt: skip


def test_promise_a_b_every_width(db: psycopg.Connection) -> None:
    """Live, stored, and as time_bucket has it."""
    names = []
    for number, width in enumerate(WIDTHS):
        names.append(f"w_{number}")
        _create(db, f"raw.s_{number}", names[-1], width)
    assert_equal_to_group_by(db, *names)
    _assert_as_time_bucket(db, names)
    refresh_everything(db)
    assert_settled(db, *names)
    _assert_as_time_bucket(db, names)
    rows = db.execute(
        "SELECT stale_buckets FROM silver.timeseries_operations_monitor GROUP BY 1"
    ).fetchall()
    assert rows == [(0,)]


def test_promise_a_b_widths_at_random(db: psycopg.Connection) -> None:
    units = st.sampled_from(["microseconds", "seconds", "hours", "days", "months", "years"])

    @settings(
        max_examples=15,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(1, 400), units)
    def run(number: int, unit: str) -> None:
        with db.transaction(force_rollback=True):
            _create(db, "raw.s", "w", f"{number} {unit}")
            assert_equal_to_group_by(db, "w")
            _assert_as_time_bucket(db, ["w"])
            refresh_everything(db)
            assert_settled(db, "w")
            _assert_as_time_bucket(db, ["w"])

    run()


def test_promise_a_b_a_child_is_made_of_whole_buckets(db: psycopg.Connection) -> None:
    create = "SELECT silver.create_rollup_table('parent', 'silver', 'child', %s)"
    for parent, child, nests in NESTING:
        with db.transaction(force_rollback=True):
            _create(db, "raw.s", "parent", parent)
            if nests:
                db.execute(create, [child])
                assert_equal_to_group_by(db, "parent", "child")
                refresh_everything(db)
                assert_settled(db, "parent", "child")
                _assert_as_time_bucket(db, ["parent", "child"])
                continue
            with pytest.raises(psycopg.Error, match="not made of whole buckets") as caught:
                db.execute(create, [child])
            assert caught.value.sqlstate == "TR001", (parent, child)
            hint = caught.value.diag.message_hint or ""
            assert "read a rollup with buckets of 1 " in hint or "the source itself" in hint
            assert "choose" not in hint or "choose a multiple of " in hint


def test_one_bucket_counts_as_one(db: psycopg.Connection) -> None:
    """However long it is: months have 28 to 31 days, years 365 or 366."""
    row = db.execute(
        """
        SELECT array_agg(width || ' ' || month) FROM
            unnest('{1 microsecond,30 days,1 month,3 months,1 year}'::interval[]) AS width,
            unnest('{2023-02-10,2024-02-10,2024-03-10,2024-12-10}'::timestamptz[]) AS month,
            silver.time_bucket(width, month) AS b
        WHERE rollup_engine.bucket_count(width,
            tstzmultirange(tstzrange(b, rollup_engine.bucket_next(width, b)))) <> 1
        """
    ).fetchone()
    assert row == (None,)


def _create(connection: psycopg.Connection[Any], table: str, rollup: str, width: str) -> None:
    """Rows around the borders of some twenty buckets of the width."""
    connection.execute(
        f"CREATE TABLE {table} AS SELECT t + d * interval '1 microsecond' AS ts, d AS v"
        f" FROM generate_series(0, 20) AS i, generate_series(-1, 1) AS d, silver.time_bucket("
        f"'{width}', timestamptz '1999-05-06' + i * interval '{width}') AS t".encode()
    )
    connection.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, %s)", [table, rollup, width]
    )


def _assert_as_time_bucket(connection: psycopg.Connection[Any], rollups: list[str]) -> None:
    for name in rollups:
        row = connection.execute(
            "SELECT bucket_width::text, coalesce(s.relation, c.source_table)::text"
            " FROM silver.rollup_config AS c JOIN rollup_engine.source AS s ON s.id = c.source_id"
            " WHERE target_view = to_regclass('gold.' || %s)",
            [name],
        ).fetchone()
        assert row
        width, source = row
        differences = connection.execute(
            f"(SELECT bucket, row_count FROM gold.{name}) EXCEPT"
            f" SELECT silver.time_bucket('{width}', ts), count(*) FROM {source} GROUP BY 1".encode()
        ).fetchall()
        assert differences == [], f"{width}: {differences[:3]}"
