"""Rollups of any zones over one another equal the GROUP BY, whatever is written and run."""

import os
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from zoned_rows import CHANGES
from zoned_rows import create as _create
from zoned_rows import create_rows as _create_rows

CHOSEN_LEVELS = st.sampled_from(
    [
        (("15 minutes",), ("1 day", "Asia/Kathmandu"), ("7 days", "Asia/Kathmandu")),
        (("30 minutes",), ("1 day", "Australia/Lord_Howe"), ("1 month", "Australia/Lord_Howe")),
        (("1 hour", "Europe/Berlin"), ("1 day", "Europe/Berlin"), ("1 month", "Europe/Berlin")),
        (("1 hour",), ("1 day", "America/Havana"), ("2 days", "America/Havana")),
        (
            ("1 hour",),
            ("1 day", "Europe/Berlin", "2024-01-01 06:00+01"),
            ("2 days", "Europe/Berlin", "2024-01-01 06:00+01"),
        ),
        (
            ("1 day", "Atlantic/Azores"),
            ("1 month", "Atlantic/Azores"),
            ("1 year", "Atlantic/Azores"),
        ),
        (
            ("90 minutes", "UTC", "2024-01-01 00:45+00"),
            ("3 hours", "UTC", "2024-01-01 00:45+00"),
            ("1 day", "UTC", "2024-01-01 00:45+00"),
        ),
        (
            ("1 day", "UTC", "2023-05-31 00:00+00"),
            ("1 month", "UTC", "2023-05-31 00:00+00"),
            ("2 months", "UTC", "2023-05-31 00:00+00"),
        ),
    ]
)
ANY_LEVELS = st.tuples(
    st.sampled_from(["5 minutes", "15 minutes"]),
    st.sampled_from(sorted(CHANGES)),
    st.none()
    | st.builds(
        "2023-05-{} {}:{}+00".format, *map(st.sampled_from, ((1, 28, 31), (0, 1, 22), (15, 30)))
    ),
    st.sampled_from(["2 days", "7 days", "1 month", "3 months", "1 year"]),
).map(lambda x: ((x[0],), ("1 day", x[1], x[2]), (x[3], x[1], x[2])))
SPAN = (
    "WHERE ts >= %(day)s::timestamptz + make_interval(hours => %(low)s)"
    " AND ts < %(day)s::timestamptz + make_interval(hours => %(high)s)"
)
STATEMENTS = [
    "INSERT INTO raw.z SELECT %(day)s::timestamptz + make_interval(hours => %(low)s,"
    " mins => 13 * i), i FROM generate_series(0, %(size)s) AS i",
    f"DELETE FROM raw.z {SPAN}",
    f"UPDATE raw.z SET v = v + 1 {SPAN}",
    f"UPDATE raw.z SET ts = ts + interval '25 hours' {SPAN}",
    "SELECT * FROM silver.perform_rollup(max_batches => %(size)s %% 3 + 1, as_of => 'infinity')",
    "SELECT * FROM silver.perform_rollup(as_of => 'infinity')",
    "SELECT rollup_engine.drain_step(id, NULL) FROM rollup_engine.source",
    "SELECT silver.mark_stale('z_1', %(day)s::timestamptz, %(day)s::timestamptz + interval '30 h')",
    "SELECT * FROM silver.refresh_rollup('z_2', %(day)s::timestamptz + make_interval("
    "hours => %(low)s), %(day)s::timestamptz + make_interval(hours => %(high)s))",
    "UPDATE silver.rollup_config SET query_shape = 'grouped'",
    "UPDATE silver.rollup_config SET query_shape = 'per_bucket'",
    "UPDATE silver.rollup_config SET current_window = interval '50 hours',"
    " processing_window = interval '50 hours'",
]


@pytest.mark.long
def test_promise_a_b_d_histories(db: psycopg.Connection) -> None:
    steps = st.lists(
        st.tuples(
            st.sampled_from(STATEMENTS),
            st.integers(-90, 90),
            st.integers(1, 60),
            st.integers(0, 40),
        ),
        max_size=6,
    )

    @settings(
        max_examples=int(os.environ.get("TSROLLUP_HISTORIES", "20")),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(CHOSEN_LEVELS | ANY_LEVELS, st.sampled_from(sorted(set(CHANGES.values()))), steps)
    def run(levels: Any, day: str, history: list[tuple[str, int, int, int]]) -> None:
        names = ["z_0", "z_1", "z_2"]
        with db.transaction(force_rollback=True):
            _create_rows(db, day, 200)
            for name, source, level in zip(names, ["raw.z", *names], levels, strict=False):
                _create(db, source, name, *level)
            for statement, low, length, size in history:
                db.execute(
                    statement.encode(),
                    {"day": day, "low": low, "high": low + length, "size": size},
                )
                assert_equal_to_group_by(db, *names)
            refresh_everything(db)
            assert_settled(db, *names)
            db.execute("SELECT silver.mark_stale('raw.z', '-infinity', 'infinity')")
            rows = db.execute(
                "SELECT sum(rows_written), sum(rows_deleted)"
                " FROM silver.perform_rollup(as_of => 'infinity')"
            ).fetchone()
            assert rows == (0, 0)

    run()
