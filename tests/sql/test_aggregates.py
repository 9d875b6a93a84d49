"""first_value, last_value and time_bucket as people call them."""

from typing import Any

import psycopg

HALVES = """
    SELECT silver.first_value(v, ts), silver.last_value(v, ts)
    FROM (VALUES {}) AS x (v, ts)
"""


def test_first_and_last_value(db: psycopg.Connection) -> None:
    cases: list[tuple[str, tuple[Any, Any]]] = [
        ("('b', timestamptz '2026-01-02'), ('a', '2026-01-01'), ('c', '2026-01-03')", ("a", "c")),
        ("('x', timestamptz '2026-01-02'), ('never', NULL)", ("x", "x")),
        ("('never', NULL::timestamptz)", (None, None)),
        (
            "(NULL, timestamptz '2026-01-01'), ('b', '2026-01-02'), (NULL, '2026-01-03')",
            (None, None),
        ),
        ("(1.50, timestamptz '-infinity'), (2.5, 'infinity')", (1.5, 2.5)),
        ("(ARRAY[1, NULL], timestamptz '2026-01-01')", ([1, None], [1, None])),
        ("(true, timestamptz '2026-01-01'), (false, '2026-01-02')", (True, False)),
        ("('{\"a\": 1}'::jsonb, timestamptz '2026-01-01')", ({"a": 1}, {"a": 1})),
    ]
    for values, expected in cases:
        assert db.execute(HALVES.format(values).encode()).fetchone() == expected, values
    db.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
    db.execute("SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2")
    db.execute(
        "CREATE TABLE raw.many AS SELECT timestamptz '2026-01-01' + make_interval(secs => i) AS ts,"
        " i AS v FROM generate_series(1, 20000) AS i ORDER BY i % 7"
    )
    row = db.execute("SELECT silver.first_value(v, ts), silver.last_value(v, ts) FROM raw.many")
    assert row.fetchone() == (1, 20000)
    groups = db.execute(
        "SELECT count(*) FROM (SELECT v % 10, silver.last_value(v, ts) AS last FROM raw.many"
        " GROUP BY 1) AS g WHERE last BETWEEN 19991 AND 20000"
    )
    assert groups.fetchone() == (10,)


BUCKETS = [
    ("'1 hour', timestamptz '2026-03-29 01:59:59.999999+00'", "2026-03-29 01:00:00+00"),
    ("'1 week', timestamptz '2026-03-29 12:00+00'", "2026-03-23 00:00:00+00"),
    ("'1 day', timestamptz '1999-12-31 23:00-05'", "2000-01-01 00:00:00+00"),
    ("'36 hours', timestamptz '2000-01-03 00:00+00'", "2000-01-03 00:00:00+00"),
    ("'1 month', timestamptz '1969-12-31 23:59:59+00'", "1969-12-01 00:00:00+00"),
    ("'7 months', timestamptz '1999-12-31 00:00+00'", "1999-06-01 00:00:00+00"),
    ("'1 year', timestamptz '0044-03-15 00:00+00 BC'", "0044-01-01 00:00:00+00 BC"),
    ("'1 day', timestamptz '2026-03-29 12:00+00', 'Europe/Oslo'", "2026-03-28 23:00:00+00"),
    ("'1 day', timestamptz '2026-03-29 22:30+00', 'Europe/Oslo'", "2026-03-29 22:00:00+00"),
    ("'1 month', timestamptz '2026-03-31 23:00+00', 'Europe/Oslo'", "2026-03-31 22:00:00+00"),
    ("'1 day', timestamptz '2026-03-29 12:00+00', timestamptz '2026-01-01 06:00+00'",
     "2026-03-29 06:00:00+00"),
    ("'1 month', timestamptz '2026-03-10 00:00+00', timestamptz '2026-01-15 00:00+00'",
     "2026-02-15 00:00:00+00"),
    ("'1 hour', timestamp '2026-03-29 02:30'", "2026-03-29 02:00:00+00"),
    ("'1 week', date '2026-03-29'", "2026-03-23 00:00:00+00"),
    ("'1 day', timestamp '2026-06-01 22:30', 'Europe/Berlin'", "2026-06-01 22:00+00"),
    ("'1 day', date '2026-06-01', 'Europe/Berlin'", "2026-05-31 22:00+00"),
    ("'1 day', timestamp '2026-06-01', timestamptz '2026-01-01 06:00Z'", "2026-05-31 06:00Z"),
    ("'1 day', date '2026-06-01', timestamptz '2026-01-01 06:00Z'", "2026-05-31 06:00Z"),
    ("'1 day', timestamp '2026-06-01', 'Europe/Oslo', '2026-01-01 05:00Z'", "2026-05-31 04:00Z"),
    ("'1 day', date '2026-06-01', 'Europe/Berlin', '2026-01-01 05:00Z'", "2026-05-31 04:00Z"),
    ("'1 day', timestamptz 'infinity'", "infinity"),
    ("'1 month', timestamptz '-infinity'", "-infinity"),
]  # fmt: skip


def test_promise_k_time_bucket_in_any_session(db: psycopg.Connection) -> None:
    for zone in ("UTC", "Europe/Oslo", "Pacific/Apia", "Africa/Monrovia"):
        for call, expected in BUCKETS:
            db.execute("SELECT set_config('TimeZone', %s, false)", [zone])
            row = db.execute(
                f"SELECT silver.time_bucket({call}) = '{expected}'::timestamptz".encode()
            ).fetchone()
            assert row == (True,), f"{call} in {zone}"
