"""Promises d and e: nothing is rewritten without need, and there is one row a group."""

from typing import Any

import psycopg
import pytest

from raw_tables import LEVELS, create_hierarchy
from rollup_checks import assert_settled, refresh_everything


def test_promise_d_unchanged_rows_are_not_rewritten(db: psycopg.Connection) -> None:
    create_hierarchy(db)
    refresh_everything(db)
    before = _versions(db)
    for shape in ("grouped", "per_bucket"):
        db.execute("UPDATE silver.rollup_config SET query_shape = %s", [shape])
        for statement in (
            "SELECT silver.mark_stale('raw.readings', '-infinity', 'infinity')",
            "SELECT silver.mark_stale('readings_1h', '2026-03-01 21:00', '2026-03-02 01:00')",
            "UPDATE raw.readings SET level = level",
            "UPDATE raw.readings SET amount = amount + 1;"
            " UPDATE raw.readings SET amount = amount - 1",
        ):
            db.execute(statement.encode())
            refresh_everything(db)
            assert _versions(db) == before
        db.execute(
            "SELECT silver.refresh_rollup('readings_1d', '2026-03-01 00:00', '2026-03-04 00:00')"
        )
        assert _versions(db) == before
    rows = db.execute("SELECT rows_written, rows_deleted FROM silver.refresh_log").fetchall()
    assert [row for row in rows[-5:] if row != (0, 0)] == []


def test_promise_d_only_the_changed_group_is_rewritten(db: psycopg.Connection) -> None:
    create_hierarchy(db)
    refresh_everything(db)
    before = _versions(db)
    db.execute("UPDATE raw.readings SET count = 999 WHERE note = 'note 42'")
    rows = db.execute(
        "SELECT rows_written, rows_deleted FROM silver.perform_rollup(as_of => 'infinity')"
    ).fetchall()
    assert rows == [(1, 0), (1, 0), (1, 0)]
    assert len(_versions(db) ^ before) == 2 * 3
    db.execute("DELETE FROM raw.readings WHERE note = 'note 42'")
    rows = db.execute(
        "SELECT rows_written, rows_deleted FROM silver.perform_rollup(as_of => 'infinity')"
    ).fetchall()
    assert rows == [(0, 1), (1, 0), (1, 0)]
    assert_settled(db, *LEVELS)


def test_promise_d_a_sum_in_another_order_is_unchanged(db: psycopg.Connection) -> None:
    """Sums of floats differ in the last digits when rows come in another order."""
    db.execute("CREATE TABLE raw.f (ts timestamptz, v double precision, r real)")
    db.execute("SELECT silver.create_rollup_table('raw.f', 'silver', 'f_1h', '1 hour')")
    db.execute(
        "INSERT INTO raw.f SELECT timestamptz '2026-03-01 00:00+00' + make_interval(secs => i),"
        " sin(i) * 10 ^ (i % 12), sin(i) FROM generate_series(0, 7199) AS i"
    )
    refresh_everything(db)
    before = db.execute("SELECT ctid, xmin, v_sum FROM silver.f_1h ORDER BY bucket").fetchall()
    db.execute(
        "WITH gone AS (DELETE FROM raw.f RETURNING *)"
        " INSERT INTO raw.f SELECT * FROM gone ORDER BY v DESC"
    )
    refresh_everything(db)
    after = db.execute("SELECT ctid, xmin, v_sum FROM silver.f_1h ORDER BY bucket").fetchall()
    assert after == before
    assert_settled(db, "f_1h")


def test_promise_a_no_correction_of_a_float_is_lost(db: psycopg.Connection) -> None:
    """One value has no order of addition; what is below what order explains adds up neither by
    step nor by level. Compared as it is, without the tolerance of other tests."""
    db.execute("CREATE TABLE raw.f (ts timestamptz, v double precision)")
    db.execute(
        "INSERT INTO raw.f SELECT timestamptz '2026-03-01 00:00+00' + i * interval '30 s', 1e12"
        " FROM generate_series(0, 3) AS i"
    )
    parent = "raw.f"
    for name, width in (("f_30s", "30 seconds"), ("f_1m", "1 minute"), ("f_1h", "1 hour")):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s, metrics => %s)",
            [parent, name, width, '{"v": ["sum"]}'],
        )
        parent = name
    refresh_everything(db)
    for step in (0.5, 0.4, 900.0, 1500.0, -0.25, 1e-4):
        db.execute("UPDATE raw.f SET v = v + %s WHERE ts = '2026-03-01 00:00:30+00'", [step])
        refresh_everything(db)
        for level in ("f_30s", "f_1m", "f_1h"):
            row = db.execute(
                f"SELECT (SELECT sum(v) FROM raw.f), sum(v_sum) FROM silver.{level}".encode()
            ).fetchone()
            assert row
            assert abs(row[0] - row[1]) <= 3 * 2**-52 * row[0], f"{step} in {level}"
        row = db.execute(
            "SELECT v = v_sum FROM raw.f JOIN silver.f_30s ON bucket = ts"
            " WHERE ts = '2026-03-01 00:00:30+00'"
        ).fetchone()
        assert row == (True,), step


def test_promise_e_one_row_a_group(db: psycopg.Connection) -> None:
    """Groups of NULL as well."""
    create_hierarchy(db)
    refresh_everything(db)
    for level in LEVELS:
        for condition in ("device IS NULL", "device = 'd1'"):
            with pytest.raises(psycopg.errors.UniqueViolation):
                db.execute(
                    f"INSERT INTO silver.{level} SELECT * FROM silver.{level}"
                    f" WHERE {condition} LIMIT 1".encode()
                )


def _versions(connection: psycopg.Connection[Any]) -> set[tuple[Any, ...]]:
    """Which version of which row is where."""
    return {
        row
        for level in LEVELS
        for row in connection.execute(
            f"SELECT tableoid, ctid::text, xmin::text FROM silver.{level}".encode()
        )
    }
