"""Promises a, b and d over random histories of writes and refreshes, three levels deep.

Each history runs in a transaction that is rolled back, so that all share one database.
TSROLLUP_HISTORIES=n tries more of them.
"""

import os
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

LEVELS = ("story_1m", "story_1h", "story_1d")
SCHEMA = """
    CREATE TABLE raw.story (
        ts timestamptz, device text, value integer, amount numeric, level double precision
    ) PARTITION BY RANGE (ts);
    CREATE TABLE raw.story_1 PARTITION OF raw.story
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
    CREATE TABLE raw.story_2 PARTITION OF raw.story
        FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-03 00:00+00')
        PARTITION BY LIST (device);
    CREATE TABLE raw.story_2_a PARTITION OF raw.story_2 FOR VALUES IN ('a');
    CREATE TABLE raw.story_2_b PARTITION OF raw.story_2 DEFAULT;
    CREATE INDEX ON raw.story (ts);
    CREATE INDEX ON raw.story (device, ts);
    SELECT silver.create_rollup_table('raw.story', 'silver', 'story_1m', '1 minute',
        dimensions => '{device}',
        metrics => '{"value": ["avg", "min", "max"], "amount": ["sum"], "level": ["avg"]}');
    SELECT silver.create_rollup_table('story_1m', 'silver', 'story_1h', '1 hour');
    SELECT silver.create_rollup_table('story_1h', 'silver', 'story_1d', '1 day',
        dimensions => '{}');
    SELECT * FROM silver.perform_rollup();
"""

# Of how many groups late rows are noted.
LIMIT = """
    CREATE OR REPLACE FUNCTION rollup_engine.rows_of_a_group() RETURNS integer LANGUAGE sql
        IMMUTABLE PARALLEL SAFE RETURN 0;
    CREATE OR REPLACE FUNCTION rollup_engine.most_keys() RETURNS integer LANGUAGE sql
        IMMUTABLE PARALLEL SAFE RETURN {keys}
"""

SINCE = "WHERE ts >= timestamptz '2026-03-01 22:00+00' + make_interval(mins => %(low)s)"
RANGE = f"{SINCE} AND ts < timestamptz '2026-03-01 22:00+00' + make_interval(mins => %(high)s)"
BOUNDS = (
    "timestamptz '2026-03-01 22:00+00' + make_interval(mins => %(low)s),"
    " timestamptz '2026-03-01 22:00+00' + make_interval(mins => %(high)s)"
)

# Sums of fourths are exact, in whatever order.
STATEMENTS = [
    "INSERT INTO raw.story SELECT timestamptz '2026-03-01 22:00+00'"
    " + make_interval(mins => %(low)s, secs => i * %(step)s), %(device)s,"
    " nullif(%(value)s, 3) + i, %(value)s * 1.10, %(value)s / 4.0"
    " FROM generate_series(0, %(size)s) AS i",
    f"UPDATE raw.story SET value = %(value)s, level = level + 1 {RANGE}",
    f"UPDATE raw.story SET device = %(device)s {RANGE}",
    f"UPDATE raw.story SET ts = ts + make_interval(mins => %(shift)s) {RANGE}",
    f"DELETE FROM raw.story {RANGE}",
    f"DELETE FROM raw.story_2_b {RANGE} AND device IS DISTINCT FROM %(device)s",
    "MERGE INTO raw.story AS t USING (SELECT %(low)s AS low) AS s"
    " ON t.ts >= timestamptz '2026-03-01 22:00+00' + make_interval(mins => s.low)"
    " AND t.ts < timestamptz '2026-03-01 22:00+00' + make_interval(mins => %(high)s)"
    " WHEN MATCHED AND t.value = %(value)s THEN DELETE"
    " WHEN MATCHED THEN UPDATE SET ts = t.ts + make_interval(mins => %(shift)s),"
    " device = %(device)s",
    "TRUNCATE raw.story_1",
    "TRUNCATE raw.story_2_a",
    "ALTER TABLE raw.story DETACH PARTITION raw.story_1;"
    " SELECT * FROM silver.perform_rollup(max_batches => 1);"
    " ALTER TABLE raw.story ATTACH PARTITION raw.story_1"
    " FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');"
    " SELECT * FROM silver.perform_rollup(max_batches => 1)",
    "SELECT * FROM silver.perform_rollup(%(target)s, %(size)s % 3 + 1, 'infinity')",
    "SELECT * FROM silver.perform_rollup(as_of => 'infinity')",
    "SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source",
    f"SELECT * FROM silver.refresh_rollup(%(target)s, {BOUNDS})",
    f"SELECT silver.mark_stale(%(target)s, {BOUNDS})",
    "SELECT silver.mark_stale('raw.story', '-infinity', 'infinity')",
    "UPDATE silver.rollup_config SET query_shape = 'grouped'",
    "UPDATE silver.rollup_config SET query_shape = 'per_bucket'",
    "UPDATE silver.rollup_config SET current_window = make_interval(mins => 20),"
    " processing_window = make_interval(mins => 20) WHERE depth = 0",
]


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, dict[str, Any], bool]:
    """A statement, its parameters, and whether it is undone again."""
    low = draw(st.sampled_from([0, 5, 59, 60, 100, 119, 120, 121, 180, 235]))
    length = draw(st.sampled_from([1, 7, 60, 240]))
    parameters = {
        "low": low,
        "high": low + length,
        "step": draw(st.sampled_from([1, 30, 61, 600])),
        "size": draw(st.integers(0, 12)),
        "value": draw(st.integers(-5, 5)),
        "device": draw(st.sampled_from([None, "a", "b"])),
        "shift": draw(st.sampled_from([-60, -3, 1, 61, 130])),
        "target": draw(st.sampled_from(LEVELS)),
    }
    # Writes are drawn more often than their share.
    choice = st.one_of(st.sampled_from(STATEMENTS[:7]), st.sampled_from(STATEMENTS))
    return draw(choice), parameters, draw(st.integers(0, 9)) == 0


def test_promise_a_b_random_histories(db: psycopg.Connection) -> None:
    db.execute(SCHEMA.encode())
    db.execute("SET plan_cache_mode = force_custom_plan")

    @settings(
        max_examples=int(os.environ.get("TSROLLUP_HISTORIES", "30")),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(history=st.lists(steps(), min_size=5, max_size=14), keys=st.sampled_from([1000, 2, 1]))
    def tell(history: list[tuple[str, dict[str, Any], bool]], keys: int) -> None:
        with db.transaction(force_rollback=True):
            db.execute(LIMIT.format(keys=keys).encode())
            for statement, parameters, undone in history:
                with db.transaction(force_rollback=undone):
                    _execute(db, statement, parameters)
                    if undone:
                        assert_equal_to_group_by(db, *LEVELS)
                assert_equal_to_group_by(db, *LEVELS)
            refresh_everything(db)
            assert_settled(db, *LEVELS)

    tell()


def _execute(
    connection: psycopg.Connection[Any], statement: str, parameters: dict[str, Any]
) -> None:
    """Rows that no partition takes are left where they were."""
    for part in statement.split(";"):
        try:
            with connection.transaction():
                used = {k: v for k, v in parameters.items() if f"%({k})s" in part}
                connection.execute(part.replace("% 3", "%% 3").encode(), used or None)
        except psycopg.errors.CheckViolation:
            return
