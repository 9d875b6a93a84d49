"""Raw tables that the tests of the engine share, and the usual hierarchy over them."""

import time
from collections.abc import Callable
from typing import Any

import psycopg

READINGS = """
    CREATE TABLE raw.readings (
        ts timestamptz,
        device text,
        count integer,
        amount numeric,
        level double precision,
        note text
    ) PARTITION BY RANGE (ts);
    CREATE TABLE raw.readings_1 PARTITION OF raw.readings
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
    CREATE TABLE raw.readings_2 PARTITION OF raw.readings
        FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-03 00:00+00');
    CREATE INDEX ON raw.readings (ts);
"""

# Six hours around the border of the partitions; the odd seconds keep the times of a group apart.
FILL = """
    INSERT INTO raw.readings
    SELECT timestamptz '2026-03-01 21:00+00' + make_interval(secs => 97 * i),
        CASE i % 4 WHEN 3 THEN NULL ELSE 'd' || i % 4 END,
        nullif(i % 11, 5), (i % 7) * 1.10, sqrt(i) - 5, 'note ' || i
    FROM generate_series(0, 220) AS i
"""

LEVELS = ("readings_1m", "readings_1h", "readings_1d")


def create_readings(connection: psycopg.Connection[Any]) -> None:
    connection.execute(READINGS)
    connection.execute(FILL)


def create_hierarchy(connection: psycopg.Connection[Any]) -> None:
    """Minutes, hours and days over raw.readings, all of them stale."""
    create_readings(connection)
    connection.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1m', '1 minute',"
        " dimensions => '{device}')"
    )
    connection.execute(
        "SELECT silver.create_rollup_table('readings_1m', 'silver', 'readings_1h', '1 hour')"
    )
    connection.execute(
        "SELECT silver.create_rollup_table('readings_1h', 'silver', 'readings_1d', '1 day')"
    )


def wait_until(is_done: Callable[[], object]) -> None:
    """Tried again while a worker of autovacuum has a table locked."""
    for _ in range(100):
        if is_done():
            return
        time.sleep(0.1)
    raise AssertionError("not in ten seconds")


def maintained(
    connection: psycopg.Connection[Any], now: object, target: str | None = None
) -> list[tuple[Any, ...]]:
    """What a run of maintenance did, once no session or standby of another test holds it up."""
    query = "SELECT target, action, detail FROM rollup_engine.run_maintenance(%s, %s)"
    for _ in range(50):
        rows = connection.execute(query, [target, now]).fetchall()
        assert not [row for row in rows if row[1] == "failed"], rows
        if not any("no snapshot is older" in str(detail) for _, _, detail in rows):
            break
        time.sleep(0.2)
    return rows


def capture_by_row(connection: psycopg.Connection[Any], is_by_row: bool = True) -> None:
    """Has all sources capture what is inserted by row triggers, or by statement triggers, alone."""

    def change() -> bool:
        try:
            connection.execute(
                "SELECT rollup_engine.change_capture(id, %s) FROM rollup_engine.source"
                " WHERE inserts_by_row IS DISTINCT FROM %s",
                [is_by_row, is_by_row],
            )
            connection.execute(
                "SELECT rollup_engine.drop_stray_triggers(s, true) FROM rollup_engine.source AS s"
            )
        except psycopg.errors.LockNotAvailable:
            return False
        stray = "SELECT FROM rollup_engine.source AS s, rollup_engine.stray_triggers(s)"
        return connection.execute(stray.encode()).fetchone() is None

    wait_until(change)
