"""A fleet of devices, whose late rows are noted by device."""

from collections.abc import Sequence
from typing import Any

import psycopg

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

LEVELS = ("fleet_1h", "fleet_1d", "fleet_sites")
DRAIN = "SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source"
FLEET = """
    CREATE TABLE raw.fleet (ts timestamptz, device {type}, site text, v integer)
        PARTITION BY RANGE (ts);
    CREATE TABLE raw.fleet_1 PARTITION OF raw.fleet
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
    CREATE TABLE raw.fleet_2 PARTITION OF raw.fleet DEFAULT;
    CREATE INDEX ON raw.fleet (device, ts);
    INSERT INTO raw.fleet
    SELECT t, ({value})::{type}, 's' || n % 2, n
    FROM generate_series(1, 9) AS n,
        generate_series(timestamptz '2026-03-01 20:00Z', '2026-03-02 04:00Z', '20 minutes') AS t;
    SELECT silver.create_rollup_table('raw.fleet', 'silver', 'fleet_1h', '1 hour',
        dimensions => '{{site,device}}');
    SELECT silver.create_rollup_table('fleet_1h', 'silver', 'fleet_1d', '1 day');
    SELECT silver.create_rollup_table('fleet_1d', 'silver', 'fleet_sites', '1 day',
        dimensions => '{{site}}')
"""


def create_fleet(db: psycopg.Connection[Any], kind: str = "integer", value: str = "n") -> None:
    db.execute(FLEET.format(type=kind, value=value).encode())
    refresh_everything(db)


def noted(db: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """The log: day and hour, how many hours, keys; which are drained."""
    rows = db.execute(
        "SELECT to_char(from_time AT TIME ZONE 'UTC', 'DD HH24'),"
        " extract(epoch FROM to_time - from_time)::integer / 3600,"
        ' ARRAY(SELECT DISTINCT k COLLATE "C" FROM unnest(keys) AS k ORDER BY 1)'
        ", keys IS NULL FROM rollup_engine.change_log ORDER BY 1, 3"
    ).fetchall()
    db.execute(DRAIN)
    return [(day, hours, None if is_all else keys) for day, hours, keys, is_all in rows]


def stale(db: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    rows = db.execute(
        "SELECT to_char(s.from_time AT TIME ZONE 'UTC', 'DD HH24'),"
        " extract(epoch FROM s.to_time - s.from_time)::integer / 3600,"
        ' ARRAY(SELECT k COLLATE "C" FROM unnest(s.keys) AS k ORDER BY 1), s.keys IS NULL'
        " FROM rollup_engine.stale_range AS s JOIN silver.rollup_config AS r ON r.id = s.rollup_id"
        " WHERE r.target_table = %s::regclass ORDER BY 1, 3",
        [f"silver.{table}"],
    ).fetchall()
    return [(day, hours, None if is_all else keys) for day, hours, keys, is_all in rows]


def dimensions(db: psycopg.Connection[Any]) -> list[Any]:
    return [
        row[0] for row in db.execute("SELECT key_dimension FROM silver.rollup_config ORDER BY id")
    ]


def check(db: psycopg.Connection[Any], levels: Sequence[str] = LEVELS) -> None:
    assert_equal_to_group_by(db, *levels)
    refresh_everything(db)
    assert_settled(db, *levels)


INSERT = "INSERT INTO raw.fleet (ts, device, site, v)"
