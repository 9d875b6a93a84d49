"""A table of an application, from its first rollup to dashboards and retention."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from blackbox.calendar_reference import Buckets
from blackbox.rollup_reference import (
    Row,
    Wanted,
    assert_live,
    assert_live_and_stored,
    create,
    differences,
    rows_of,
)
from servers import PostgresServer

PARENT = """
    CREATE TABLE public.requests (
        at timestamptz NOT NULL, node uuid, place ltree, status integer, millis double precision
    ) PARTITION BY RANGE (at);
    CREATE INDEX ON public.requests (at)
"""
# The last six hours in detail, one in six of them without a row.
FILL = """
    INSERT INTO public.requests
    SELECT t, CASE n %% 4 WHEN 3 THEN NULL ELSE md5((n %% 4)::text)::uuid END,
        CASE n %% 3 WHEN 2 THEN NULL ELSE ('site' || n %% 3 || '.b')::ltree END,
        (ARRAY[0, 0, 0, 7, NULL])[1 + n %% 5], CASE WHEN n %% 11 <> 4 THEN n %% 900 / 7.0 END
    FROM generate_series(%(low)s::timestamptz, %(high)s, %(step)s::interval)
        WITH ORDINALITY AS s (t, n)
    WHERE extract(hour FROM t AT TIME ZONE 'UTC')::integer %% 6 <> 1
"""
METRICS = {"millis": ["p95", "avg"], "status": ["last"]}
LEVELS = {
    "requests_1m": Buckets("1 minute"),
    "requests_1h": Buckets("1 hour"),
    "requests_1d": Buckets("1 day", "Europe/Berlin"),
}


def test_a_table_of_an_application(server: PostgresServer, db: psycopg.Connection) -> None:
    """Daily partitions, uuid and ltree; minutes to days of Berlin; gaps filled; old raw gone."""
    has_ltree = server.has("ltree")
    if has_ltree:
        db.execute("CREATE EXTENSION IF NOT EXISTS ltree")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    make_table(server, db, today, has_ltree)
    fill = FILL if has_ltree else FILL.replace("ltree", "text")
    spans = [
        (today - timedelta(days=36), today - timedelta(hours=6), "97 minutes"),
        (today - timedelta(hours=6), today, "41 seconds"),
    ]
    for low, high, step in spans:
        db.execute(fill, {"low": low, "high": high, "step": step})
    places = {"node": lambda row: row["node"], "place": lambda row: row["place"]}

    create(
        db, "public.requests", "requests_1m", "1 minute",
        dimensions=["node", "place"], metrics=METRICS, filter="status = 0",
    )  # fmt: skip
    create(db, "requests_1m", "requests_1h", "1 hour")
    create(db, "requests_1h", "requests_1d", "1 day", timezone="Europe/Berlin")
    wanted = [
        Wanted(
            name, buckets, places, METRICS, keep=is_good,
            time=lambda row: row["at"], order=lambda row: row["at"],
        )
        for name, buckets in LEVELS.items()
    ]  # fmt: skip
    assert_live(db, "public.requests", *wanted)
    db.execute("CALL silver.run_rollups()")
    assert_live_and_stored(db, "public.requests", *wanted)
    db.execute("UPDATE public.requests SET status = 0 WHERE millis BETWEEN 20 AND 22")
    db.execute("DELETE FROM public.requests WHERE millis BETWEEN 90 AND 91")
    assert_live(db, "public.requests", *wanted)
    db.execute("CALL silver.run_rollups()")
    assert_live_and_stored(db, "public.requests", *wanted)

    read_six_hours(db, today)
    keep_thirty_days(db, today, wanted)


def is_good(row: Row) -> bool:
    return bool(row["status"] == 0)


def make_table(
    server: PostgresServer, db: psycopg.Connection[Any], today: datetime, has_ltree: bool
) -> None:
    """With a partition a day: pg_partman's where it is, else by hand."""
    db.execute((PARENT if has_ltree else PARENT.replace("ltree", "text")).encode())
    if server.has("pg_partman"):
        db.execute(
            "SELECT partman.create_parent('public.requests', 'at', p_type => 'native',"
            " p_interval => '1 day', p_premake => 2, p_start_partition => %s)",
            [str((today - timedelta(days=37)).date())],
        )
        return
    for days in range(-2, 38):
        low = today - timedelta(days=days)
        db.execute(
            f"CREATE TABLE public.requests_{low:%Y%m%d} PARTITION OF public.requests"
            f" FOR VALUES FROM ('{low}') TO ('{low + timedelta(days=1)}')".encode()
        )


def read_six_hours(db: psycopg.Connection[Any], today: datetime) -> None:
    """A row for each of six hours and each group, the last value carried on."""
    low = today - timedelta(hours=6)
    rows = db.execute(
        "SELECT node, place, bucket, row_count, millis_p95, status_last"
        " FROM silver.gapfill(NULL::gold.requests_1h, %s, %s,"
        """ fill => '{"millis_p95": "locf", "status_last": "locf"}')""",
        [low, today],
    ).fetchall()
    live = {
        (row["node"], row["place"], row["bucket"]): row for row in rows_of(db, "gold.requests_1h")
    }
    groups = {(row[0], row[1]) for row in rows}
    assert len(groups) == 12
    hours = [low + timedelta(hours=hour) for hour in range(6)]
    assert {row[:3] for row in rows} == {(*group, hour) for group in groups for hour in hours}
    for row in rows:
        stored = live.get(row[:3])
        if stored:
            assert row[3:] == (stored["row_count"], stored["millis_p95"], stored["status_last"])
        else:
            assert row[3] is None
            assert row[5] in (0, None)
    assert any(row[3] is None and row[5] == 0 for row in rows)


def keep_thirty_days(db: psycopg.Connection[Any], today: datetime, wanted: list[Wanted]) -> None:
    """Raw goes; what was rolled up of it stays as it was."""
    raw = rows_of(db, "public.requests")
    db.execute("SELECT silver.set_retention('public.requests', '30 days')")
    for _ in range(3):
        db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
        db.execute("CALL silver.run_rollups()")
    oldest = min(row["at"] for row in rows_of(db, "public.requests"))
    assert today - timedelta(days=32) < oldest, "nothing was dropped"
    for level in wanted:
        assert differences(level, raw, rows_of(db, f"gold.{level.view}")) == []
    late = today - timedelta(days=3, minutes=7)
    db.execute("INSERT INTO public.requests VALUES (%s, NULL, NULL, 0, 5000)", [late])
    raw += [row for row in rows_of(db, "public.requests") if row["millis"] == 5000]
    for _ in range(2):
        for level in wanted:
            assert differences(level, raw, rows_of(db, f"gold.{level.view}")) == []
        db.execute("CALL silver.run_rollups()")
