"""time_bucket in all its forms, on all the days when clocks change."""

from datetime import UTC, datetime

import psycopg
import pytest

from blackbox.calendar_reference import CHANGES, Buckets, as_utc, times_around

WIDTHS = (
    "1 millisecond|90 seconds|15 minutes|1 hour|6 hours|1 day|2 days|1 week|1 month|1 quarter"
    "|7 months|1 year|4 years"
).split("|")

ORIGINS = [
    datetime(2026, 1, 1, 6, 30, tzinfo=UTC),
    datetime(2024, 2, 29, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2030, 8, 15, 23, 59, 59, 999999, tzinfo=UTC),
]

NO_WIDTHS = ("0 days", "-1 hour", "-1 month", "1 month 1 day", "1 month 1 hour")


def test_time_bucket_in_every_zone(db: psycopg.Connection) -> None:
    """By the calendar of the zone, whatever the session's own."""
    wrong = []
    for number, (zone, year) in enumerate(CHANGES):
        db.execute("SELECT set_config('TimeZone', %s, false)", [CHANGES[-number][0]])
        times = times_around(zone, year, 40)
        for width in WIDTHS:
            buckets = Buckets(width, zone)
            found = db.execute(
                "SELECT t, silver.time_bucket(%s, t, %s) FROM unnest(%s::timestamptz[]) AS t",
                [buckets.interval, zone, times],
            ).fetchall()
            wrong += [
                (zone, width, time, bucket.astimezone(UTC), buckets.of(time))
                for time, bucket in found
                if bucket.astimezone(UTC) != buckets.of(time)
            ]
    lines = "\n".join(sorted({f"{z} {w}: {i} for {m}" for z, w, _, i, m in wrong}))
    assert not wrong, f"{len(wrong)} are wrong, such as (zone, width, time, is, must be)\n{lines}"


def test_time_bucket_in_its_other_forms(db: psycopg.Connection) -> None:
    times = times_around("UTC", 2024, 30)
    for zone in ("Asia/Kathmandu", "America/Havana"):
        db.execute("SELECT set_config('TimeZone', %s, false)", [zone])
        for width in WIDTHS:
            plain = Buckets(width)
            rows = db.execute(
                "SELECT t, silver.time_bucket(%(width)s, t),"
                " silver.time_bucket(%(width)s, t AT TIME ZONE 'UTC'),"
                " silver.time_bucket(%(width)s, (t AT TIME ZONE 'UTC')::date)"
                " FROM unnest(%(times)s::timestamptz[]) AS t",
                {"width": plain.interval, "times": times},
            ).fetchall()
            for time, aware, naive, of_date in rows:
                day = time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
                assert as_utc(aware) == plain.of(time), (width, time)
                assert as_utc(naive) == plain.of(time), (width, time)
                assert as_utc(of_date) == plain.of(day), (width, time)
            for origin in ORIGINS:
                buckets = Buckets(width, origin=origin)
                found = db.execute(
                    "SELECT t, silver.time_bucket(%s, t, %s::timestamptz)"
                    " FROM unnest(%s::timestamptz[]) AS t",
                    [buckets.interval, origin, times],
                ).fetchall()
                for time, bucket in found:
                    assert as_utc(bucket) == buckets.of(time), (width, origin, time)


def test_time_bucket_of_nothing(db: psycopg.Connection) -> None:
    calls = ("", ", 'Europe/Berlin'", ", timestamptz '2026-01-01'")
    for further in calls:
        for width in NO_WIDTHS:
            with pytest.raises(psycopg.Error):
                db.execute(f"SELECT silver.time_bucket('{width}', now(){further})".encode())
        row = db.execute(
            f"SELECT silver.time_bucket('1 day', NULL::timestamptz{further}),"
            f" silver.time_bucket(NULL, timestamptz '2026-05-05'{further})".encode()
        ).fetchone()
        assert row == (None, None)
    for zone in ("Mars/Phobos", "", "Europe/Berlin'"):
        with pytest.raises(psycopg.Error):
            db.execute("SELECT silver.time_bucket('1 day', timestamptz '2026-05-05', %s)", [zone])
    for end in ("infinity", "-infinity"):
        row = db.execute(
            "SELECT silver.time_bucket('1 day', %(t)s::timestamptz, 'Europe/Berlin') = %(t)s,"
            " silver.time_bucket('1 month', %(t)s::timestamptz, 'Europe/Berlin') = %(t)s",
            {"t": end},
        ).fetchone()
        assert row == (True, True)


def test_time_bucket_inlines(db: psycopg.Connection) -> None:
    """The planner sees what it does."""
    db.execute("CREATE TABLE raw.times (ts timestamptz, naive timestamp, day date)")
    for call in (
        "'1 hour', ts", "'1 day', ts, 'Europe/Berlin'", "'1 day', ts, timestamptz '2026-01-01'",
        "'1 month', ts", "'1 hour', naive", "'1 week', day",
    ):  # fmt: skip
        plan = db.execute(
            f"EXPLAIN (VERBOSE) SELECT silver.time_bucket({call}) FROM raw.times".encode()
        ).fetchall()
        assert "time_bucket(" not in str(plan), (call, plan)
