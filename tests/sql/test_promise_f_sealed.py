"""Promise f as far as the engine goes: a seal border holds for drain, refresh and live view."""

from typing import Any

import psycopg

from raw_tables import LEVELS, create_hierarchy
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)

BORDER = "2026-03-02 00:00+00"


def test_promise_f_sealed_time_never_changes(db: psycopg.Connection) -> None:
    create_hierarchy(db)
    refresh_everything(db)
    force_configuration(db, f"sealed_before = '{BORDER}'")
    before = {level: _below(db, level) for level in LEVELS}
    assert all(rows for both in before.values() for rows in both)
    db.execute("DELETE FROM raw.readings WHERE ts < %s", [BORDER])
    for change in (
        "INSERT INTO raw.readings (ts, device) VALUES ('2026-03-01 22:00+00', 'late')",
        "UPDATE raw.readings SET count = 1",
        "INSERT INTO raw.readings (ts, device) VALUES ('2026-03-01 12:00+00', 'x'),"
        " ('2026-03-02 12:00+00', 'x')",
        "SELECT silver.mark_stale('raw.readings', '-infinity', 'infinity')",
        "SELECT silver.mark_stale('readings_1m', '2026-03-01', '2026-03-03')",
        "SELECT silver.refresh_rollup('readings_1d', '2026-03-01', '2026-03-03')",
        "TRUNCATE raw.readings_1",
    ):
        db.execute(change.encode())
        assert_equal_to_group_by(db, *LEVELS)
        assert {level: _below(db, level) for level in LEVELS} == before
        refresh_everything(db)
        assert_settled(db, *LEVELS)
        assert {level: _below(db, level) for level in LEVELS} == before


def test_promise_f_stale_rows_from_before_the_seal_are_only_cleared(
    db: psycopg.Connection,
) -> None:
    """Claimed together with what is open, they are dropped without a recompute."""
    create_hierarchy(db)
    refresh_everything(db)
    before = {level: _below(db, level) for level in LEVELS}
    db.execute("SELECT silver.mark_stale('raw.readings', '-infinity', 'infinity')")
    db.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    force_configuration(db, f"sealed_before = '{BORDER}'")
    db.execute("DELETE FROM raw.readings WHERE ts < %s", [BORDER])
    assert_equal_to_group_by(db, *LEVELS)
    assert {level: _below(db, level) for level in LEVELS} == before
    refresh_everything(db)
    assert_settled(db, *LEVELS)
    assert {level: _below(db, level) for level in LEVELS} == before


def _below(connection: psycopg.Connection[Any], level: str) -> list[Any]:
    """What is shown, and which versions of rows hold it."""
    shown = f"SELECT g.* FROM gold.{level} AS g"
    stored = f"SELECT s.*, tableoid, ctid, xmin FROM silver.{level} AS s"
    return [
        connection.execute(
            f"{query} WHERE bucket < %s ORDER BY bucket, device".encode(), [BORDER]
        ).fetchall()
        for query in (shown, stored)
    ]


def test_late_rows_are_told_of_by_whole_grains(db: psycopg.Connection) -> None:
    """Also those of an attached partition, in one line with what was written beside it."""
    for statement in (
        "CREATE TABLE raw.t (ts timestamptz NOT NULL, device int) PARTITION BY LIST (device)",
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES IN (1)",
        "CREATE TABLE raw.t_2 (LIKE raw.t)",
        "INSERT INTO raw.t VALUES ('2026-03-01 01:00+00', 1)",
        "INSERT INTO raw.t_2 VALUES ('2026-03-01 09:10+00', 2), ('2026-03-01 10:20:00.5+00', 2)",
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')",
    ):
        db.execute(statement.encode())
    refresh_everything(db)
    force_configuration(db, f"sealed_before = '{BORDER}'")
    db.execute("ALTER TABLE raw.t ATTACH PARTITION raw.t_2 FOR VALUES IN (2)")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01 10:40+00', 1)")
    refresh_everything(db)
    details = db.execute(
        "SELECT detail, error_message FROM silver.error_log WHERE error_code = 'TR006' ORDER BY id"
    ).fetchall()
    assert len(details) == 1
    assert "between 2026-03-01 09:00:00+00 and 2026-03-01 11:00:00+00;" in details[0][0]
    assert details[0][1] == "3 late rows were kept out of sealed time"
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01 08:00+00', 1)")
    refresh_everything(db)
    (detail,) = db.execute("SELECT detail FROM silver.error_log ORDER BY id").fetchall()[-1]
    assert "between 2026-03-01 08:00:00+00 and 2026-03-01 09:00:00+00;" in detail
