"""A table by the day, and a rollup of a rollup over it."""

import psycopg

from rollup_checks import refresh_everything
from validation import healths

ROLLUPS = ("t_1h", "t_1d")
RESET = "SELECT silver.reset_rollup_retry('t_1h'), silver.reset_rollup_retry('t_1d')"

SOURCE = """
    CREATE TABLE raw.t (
        ts timestamptz NOT NULL, device text, a integer, b integer,
        w integer GENERATED ALWAYS AS (a * 2) STORED
    ) PARTITION BY RANGE (ts);
    CREATE TABLE raw.t_1 PARTITION OF raw.t
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
    CREATE TABLE raw.t_2 PARTITION OF raw.t
        FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-03 00:00+00');
    INSERT INTO raw.t (ts, device, a, b)
    SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => 7 * i),
        'd' || i % 3, i, 1000 - i
    FROM generate_series(0, 199) AS i;
"""


def roll_up(db: psycopg.Connection) -> psycopg.Connection:
    db.execute(SOURCE)
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        ' dimensions => \'{device}\', metrics => \'{"a": ["sum", "avg", "max"],'
        ' "b": ["sum"], "w": ["min"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    assert healths(db) == {"ok"}
    return db
