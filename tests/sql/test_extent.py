"""Ranges without an end, and of partitions that are gone: each rollup is marked where it holds
something itself, in whole buckets, the last and widest included."""

from typing import Any

import psycopg
import pytest

from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)

# Ten rows a day, from Monday on; the newest partition is open at its end, or ends with its day.
DAYS = """
    CREATE TABLE raw.t (ts {type}, v integer) PARTITION BY RANGE (ts);
    CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM (MINVALUE) TO ('2026-03-03 00:00+00');
    CREATE TABLE raw.t_2 PARTITION OF raw.t
        FOR VALUES FROM ('2026-03-03 00:00+00') TO ('2026-03-04 00:00+00');
    CREATE TABLE raw.t_3 PARTITION OF raw.t FOR VALUES FROM ('2026-03-04 00:00+00') TO ({end});
    INSERT INTO raw.t SELECT timestamp '2026-03-02 12:00' + make_interval(days => d, mins => i), i
    FROM generate_series(0, 2) AS d, generate_series(1, 10) AS i;
"""
ROLLUPS = (
    ("raw.t", "t_1m", "1 minute"),
    ("t_1m", "t_1d", "1 day"),
    ("t_1d", "t_1w", "1 week"),
    ("raw.t", "t_17h", "17 hours"),
    ("raw.t", "t_1mon", "1 month"),
    ("t_1mon", "t_1y", "1 year"),
)
NAMES = [name for _, name, _ in ROLLUPS]
CHANGES = {
    "drop newest": "DROP TABLE raw.t_3",
    "drop two": "DROP TABLE raw.t_3, raw.t_2",
    "drop middle": "DROP TABLE raw.t_2",
    "drop all": "DROP TABLE raw.t_1, raw.t_2, raw.t_3",
    "detach": "ALTER TABLE raw.t DETACH PARTITION raw.t_3",
    "truncate": "TRUNCATE raw.t_3",
    "truncate all": "TRUNCATE raw.t",
    "mark from": "{untracked}; SELECT silver.mark_stale('raw.t', '2026-03-04', 'infinity')",
    "mark to": "{untracked}; SELECT silver.mark_stale('raw.t', '-infinity', '2026-03-04 23:00+00')",
    "mark rollup": "{untracked}; SELECT silver.mark_stale('t_1m', '2026-03-04', 'infinity');"
    " SELECT silver.mark_stale('t_17h', '2026-03-04', 'infinity');"
    " SELECT silver.mark_stale('t_1mon', '2026-03-04', 'infinity')",
}
UNTRACKED = """
    ALTER TABLE raw.t DISABLE TRIGGER ALL; ALTER TABLE raw.t_3 DISABLE TRIGGER ALL;
    DELETE FROM raw.t_3;
    ALTER TABLE raw.t ENABLE TRIGGER ALL; ALTER TABLE raw.t_3 ENABLE TRIGGER ALL
"""


def test_promise_c_the_newest_partition(db: psycopg.Connection) -> None:
    """Dropped, detached, truncated, or marked without an end."""
    for kind, end in (("timestamptz", "'2026-03-05 00:00+00'"), ("timestamp", "MAXVALUE")):
        for label, change in CHANGES.items():
            with db.transaction(force_rollback=True):
                db.execute(DAYS.format(type=kind, end=end).encode())
                for rollup in ROLLUPS:
                    _create(db, *rollup)
                refresh_everything(db)
                db.execute(change.format(untracked=UNTRACKED).encode())
                db.execute("SELECT rollup_engine.drain(id, NULL) FROM rollup_engine.source")
                assert _stale_buckets(db, "t_1m") <= 3000, label
                try:
                    assert_equal_to_group_by(db, *NAMES)
                    refresh_everything(db)
                    assert_settled(db, *NAMES)
                except AssertionError as error:
                    raise AssertionError(f"{label}, {kind}, to {end}: {error}") from error


def test_promise_c_with_the_log_not_drained(db: psycopg.Connection) -> None:
    db.execute(DAYS.format(type="date", end="MAXVALUE").encode())
    for rollup in ROLLUPS[1:]:
        _create(db, "raw.t", *rollup[1:])
    refresh_everything(db)
    db.execute("TRUNCATE raw.t_3")
    assert_equal_to_group_by(db, *NAMES[1:])
    db.execute("SELECT silver.mark_stale('raw.t', '-infinity', 'infinity')")
    db.execute("INSERT INTO raw.t VALUES ('2026-05-01', 1), ('1970-01-01', 2)")
    assert_equal_to_group_by(db, *NAMES[1:])


def test_each_rollup_is_marked_where_it_holds_something(db: psycopg.Connection) -> None:
    """Ten seconds are not stale for the three months that another rollup stores of them."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    _create(db, "raw.t", "t_1s", "1 second")
    _create(db, "raw.t", "t_3mon", "3 months")
    _create(db, "t_1s", "t_1y", "1 year")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + make_interval(secs => i), i"
        " FROM generate_series(1, 10) AS i"
    )
    refresh_everything(db)
    db.execute("TRUNCATE raw.t")
    for _ in range(2):
        db.execute("SELECT rollup_engine.drain(id, NULL) FROM rollup_engine.source")
        assert [_stale_buckets(db, x) for x in ("t_1s", "t_3mon", "t_1y")] == [10, 1, 1]
        db.execute("SELECT silver.mark_stale('raw.t', '-infinity', 'infinity')")
    refresh_everything(db)
    assert_settled(db, "t_1s", "t_3mon", "t_1y")


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp"])
def test_stray_times_cost_their_own_buckets(db: psycopg.Connection, kind: str) -> None:
    """Second 0 of 1970, year 1 and year 9999: what the planner takes for a large table is looked
    into by its index, another is read once."""
    db.execute(
        f"CREATE TABLE raw.t (ts {kind}, v integer); CREATE INDEX ON raw.t (ts);"
        " INSERT INTO raw.t SELECT timestamp '2026-03-01' + make_interval(mins => 7 * i), i"
        " FROM generate_series(1, 40) AS i UNION ALL VALUES (timestamp '1970-01-01', 1),"
        " ('0001-01-01', 2), ('9999-12-31 23:59', 3), ('1970-01-01 00:00:59', 4)".encode()
    )
    names = {"t_1m": 300, "t_1h": 8, "t_1mon": 4}
    for large in (True, False):
        with db.transaction(force_rollback=large):
            if large:
                db.execute(
                    "CREATE OR REPLACE FUNCTION rollup_engine.estimated_rows(p_relation regclass)"
                    " RETURNS double precision LANGUAGE sql STABLE AS 'SELECT 2e7::float8'"
                )
            _create(db, "raw.t", "t_1m", "1 minute")
            _create(db, "t_1m", "t_1h", "1 hour")
            _create(db, "t_1h", "t_1mon", "1 month")
            for name, most in names.items():
                assert _stale_buckets(db, name) <= most, name
    db.execute("DELETE FROM raw.t WHERE ts < '2000-01-01'")
    assert_equal_to_group_by(db, *names)
    refresh_everything(db)
    assert_settled(db, *names)
    db.execute("SELECT silver.mark_stale('raw.t', '-infinity', 'infinity')")
    assert_equal_to_group_by(db, *names)
    refresh_everything(db)
    assert_settled(db, *names)


def test_promise_f_a_new_child_has_what_only_its_parent_holds(db: psycopg.Connection) -> None:
    db.execute(DAYS.format(type="timestamptz", end="MAXVALUE").encode())
    _create(db, "raw.t", "t_1m", "1 minute")
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-04 00:00+00'")
    db.execute("DROP TABLE raw.t_1, raw.t_2")
    _create(db, "t_1m", "t_1d", "1 day")
    for _ in range(2):
        row = db.execute("SELECT sum(row_count), count(*) FROM gold.t_1d").fetchone()
        assert row == (30, 3)
        refresh_everything(db)


def _create(connection: psycopg.Connection[Any], source: str, rollup: str, width: str) -> None:
    connection.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, %s)", [source, rollup, width]
    )


def _stale_buckets(connection: psycopg.Connection[Any], rollup: str) -> int:
    row = connection.execute(
        "SELECT coalesce(sum(rollup_engine.bucket_count(c.bucket_width,"
        " tstzmultirange(tstzrange(s.from_time, s.to_time)))), 0)"
        " FROM silver.rollup_config AS c JOIN rollup_engine.stale_range AS s ON s.rollup_id = c.id"
        " WHERE c.target_view = to_regclass('gold.' || %s)",
        [rollup],
    ).fetchone()
    assert row
    return int(row[0])


def test_reads_look_for_data_only_where_nobody_has_clipped(db: psycopg.Connection) -> None:
    """A filter leaves few of the buckets that a plan goes through one by one; the monitor, and who
    reads ranges, see where there is data, and so do plans that do not know a partition."""
    db.execute("CREATE TABLE raw.s (ts timestamptz, v integer)")
    db.execute("INSERT INTO raw.s VALUES ('2026-03-05 12:00+00', 1), ('2024-01-01 00:00+00', 2)")
    db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1m', '1 minute')")
    refresh_everything(db)
    db.execute(
        "INSERT INTO rollup_engine.change_log (source_id, from_time, to_time)"
        " VALUES (1, '2026-03-01 00:00Z', '2026-03-15 00:00Z')"
    )
    sets = (
        "SELECT array_agg(rollup_engine.bucket_count('1 minute', s)) FROM unnest(ARRAY[NULL,"
        " 9223372036854775806, 0]) AS p, rollup_engine.finite_stale_set(1, p) AS s"
    )
    assert db.execute(sets).fetchone() == ([1, 1, 2],)
    db.execute("CREATE INDEX ON raw.s (ts)")
    force_configuration(db, "source_rows = 2000000000")
    assert db.execute(sets).fetchone() == ([1, 14 * 1440, 14 * 1440 + 1],)
    assert_equal_to_group_by(db, "s_1m")
