"""Rollups of time zones and of origins, and children in other zones than their parents."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from blackbox.calendar_reference import CHANGES, Buckets, as_utc, times_around
from blackbox.rollup_reference import Wanted, assert_live, assert_live_and_stored, create

SPANS = [
    ("Europe/Berlin", 2026), ("America/Havana", 2026), ("Pacific/Apia", 2011),
    ("Australia/Lord_Howe", 2026), ("Asia/Kathmandu", 2026), ("UTC", 2024),
]  # fmt: skip

OF_ZONES = {
    "kathmandu_15m": Buckets("15 minutes", "Asia/Kathmandu"),
    "howe_1d": Buckets("1 day", "Australia/Lord_Howe"),
    "berlin_1d": Buckets("1 day", "Europe/Berlin"),
    "berlin_1w": Buckets("1 week", "Europe/Berlin"),
    "berlin_1y": Buckets("1 year", "Europe/Berlin"),
    "havana_1d": Buckets("1 day", "America/Havana"),
    "apia_1d": Buckets("1 day", "Pacific/Apia"),
    "shifts": Buckets("1 day", "Europe/Berlin", datetime(2026, 1, 1, 5, tzinfo=UTC)),
    "half_days": Buckets("12 hours", origin=datetime(2026, 1, 1, 6, 30, tzinfo=UTC)),
    "mid_months": Buckets("1 month", origin=datetime(2026, 1, 15, tzinfo=UTC)),
    "leap_years": Buckets("1 year", "UTC", datetime(2024, 3, 1, tzinfo=UTC)),
    "of_1ms": Buckets("1 millisecond"),
}

CHANGE_ROWS = [
    "DELETE FROM raw.moments WHERE v % 7 = 3",
    "UPDATE raw.moments SET v = v + 1000 WHERE v % 5 = 1",
    "UPDATE raw.moments SET ts = ts + interval '1 hour' WHERE v % 11 = 2",
    "INSERT INTO raw.moments SELECT ts + interval '30 minutes', v + 5000 FROM raw.moments"
    " WHERE v % 6 = 0",
]


def test_rollups_of_zones(db: psycopg.Connection) -> None:
    """Live and stored, before and after late rows, whoever's clock reads them."""
    db.execute("CREATE TABLE raw.moments (ts timestamptz, v integer)")
    db.execute("CREATE INDEX ON raw.moments (ts)")
    times = [time for zone, year in SPANS for time in times_around(zone, year, 4)]
    write_times(db, "raw.moments", times)
    wanted = []
    for number, (name, buckets) in enumerate(OF_ZONES.items()):
        db.execute("SELECT set_config('TimeZone', %s, false)", [CHANGES[number][0]])
        create_of(db, "raw.moments", name, buckets)
        wanted.append(of_values(name, buckets))
    assert_live_and_stored(db, "raw.moments", *wanted)
    for number, statement in enumerate(CHANGE_ROWS):
        db.execute("SELECT set_config('TimeZone', %s, false)", [CHANGES[-number][0]])
        db.execute(statement.encode())
    assert_live_and_stored(db, "raw.moments", *wanted)


def test_times_without_zone_are_read_as_utc(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.naive (ts timestamp, v integer)")
    times = times_around("Europe/Berlin", 2026, 12)
    write_times(db, "raw.naive", [time.replace(tzinfo=None) for time in times])
    db.execute("CREATE TABLE raw.dates AS SELECT ts::date AS ts, v FROM raw.naive")
    for table in ("naive", "dates"):
        buckets = Buckets("1 week", "America/New_York")
        create_of(db, f"raw.{table}", f"{table}_1w", buckets)
        wanted = Wanted(
            f"{table}_1w", buckets, metrics={"v": ["sum"]}, time=lambda row: as_utc(row["ts"])
        )
        assert_live_and_stored(db, f"raw.{table}", wanted)


FAMILY = {
    "f_15m": ("raw.family", Buckets("15 minutes")),
    "f_30m": ("f_15m", Buckets("30 minutes")),
    "f_1h": ("f_30m", Buckets("1 hour")),
    "f_berlin_1d": ("f_1h", Buckets("1 day", "Europe/Berlin")),
    "f_berlin_1mo": ("f_berlin_1d", Buckets("1 month", "Europe/Berlin")),
    "f_berlin_1w": ("f_berlin_1d", Buckets("1 week", "Europe/Berlin")),
    "f_oslo_1d": ("f_berlin_1d", Buckets("1 day", "Europe/Oslo")),
    "f_kathmandu_1h": ("f_15m", Buckets("1 hour", "Asia/Kathmandu")),
    "f_kathmandu_1d": ("f_kathmandu_1h", Buckets("1 day", "Asia/Kathmandu")),
    "f_howe_1d": ("f_30m", Buckets("1 day", "Australia/Lord_Howe")),
}

# Parents, children whose borders are not theirs, and what the hint speaks of.
STRANGERS = [
    ("f_1h", Buckets("1 day", "Asia/Kathmandu"), "15 min|00:15"),
    ("f_1h", Buckets("1 day", "Australia/Lord_Howe"), "30 min|00:30|15 min|00:15"),
    ("f_30m", Buckets("1 day", "Asia/Kathmandu"), "15 min|00:15"),
    ("f_berlin_1d", Buckets("1 day"), "hour|01:00|1 day"),
    ("f_berlin_1d", Buckets("1 month", "Europe/Lisbon"), "hour|01:00"),
    ("f_berlin_1w", Buckets("1 month", "Europe/Berlin"), "day"),
    ("f_kathmandu_1h", Buckets("1 day", "Europe/Berlin"), "15 min|00:15|1 hour"),
    (
        "f_1h",
        Buckets("1 day", "Europe/Berlin", datetime(2026, 1, 1, 5, 30, tzinfo=UTC)),
        "30 min|00:30|15 min|00:15",
    ),
]


def test_children_in_other_zones(db: psycopg.Connection) -> None:
    """Where each of their borders is one of the parent's; else it says which width would do."""
    db.execute("CREATE TABLE raw.family (ts timestamptz, v integer)")
    times = [t for zone, year in SPANS[:2] + SPANS[3:5] for t in times_around(zone, year, 4)]
    write_times(db, "raw.family", times)
    wanted = []
    for name, (source, buckets) in FAMILY.items():
        create_of(db, source, name, buckets)
        wanted.append(of_values(name, buckets))
    for parent, buckets, hint in STRANGERS:
        with pytest.raises(psycopg.Error) as caught:
            create_of(db, parent, "stranger", buckets)
        said = f"{caught.value.diag.message_primary} {caught.value.diag.message_hint}"
        assert caught.value.sqlstate == "TR001", (parent, buckets, said)
        assert any(width in said for width in hint.split("|")), (parent, buckets, said)
    assert_live_and_stored(db, "raw.family", *wanted)
    for statement in CHANGE_ROWS:
        db.execute(statement.replace("moments", "family").encode())
    assert_live_and_stored(db, "raw.family", *wanted)


def test_zones_that_part_in_years_that_come(db: psycopg.Connection) -> None:
    """Lisbon had Berlin's time from 1992 to 1996: a row of then is right, or known to be wrong."""
    db.execute("CREATE TABLE raw.apart (ts timestamptz, v integer)")
    write_times(db, "raw.apart", times_around("Europe/London", 2026, 8))
    create_of(db, "raw.apart", "london_1d", Buckets("1 day", "Europe/London"))
    lisbon = Buckets("1 day", "Europe/Lisbon")
    create_of(db, "london_1d", "lisbon_1d", lisbon)
    assert_live_and_stored(db, "raw.apart", of_values("lisbon_1d", lisbon))
    db.execute(
        "INSERT INTO raw.apart VALUES ('1994-02-03 23:30+00', 1), ('1994-02-03 10:00+00', 2)"
    )
    assert_right_or_invalid(db, "raw.apart", of_values("lisbon_1d", lisbon))
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert_right_or_invalid(db, "raw.apart", of_values("lisbon_1d", lisbon))


def test_a_zone_is_not_changed_unseen(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.kept (ts timestamptz, v integer)")
    write_times(db, "raw.kept", times_around("Europe/Berlin", 2026, 5))
    wanted = of_values("kept_1d", Buckets("1 day", "Europe/Berlin"))
    create_of(db, "raw.kept", "kept_1d", wanted.buckets)
    for change in ("timezone = 'Asia/Tokyo'", "origin = '2026-01-01 03:00+00'", "timezone = 'X'"):
        try:
            db.execute(f"UPDATE silver.rollup_config SET {change}".encode())
        except psycopg.Error:
            assert_live_and_stored(db, "raw.kept", wanted)
            continue
        assert_right_or_invalid(db, "raw.kept", wanted)
        break


def test_stale_buckets_are_counted_by_the_calendar(db: psycopg.Connection) -> None:
    """A day of 23 or 25 hours is one, and a month has as many as it has."""
    berlin = Buckets("1 day", "Europe/Berlin")
    db.execute("CREATE TABLE raw.counted (ts timestamptz, v integer)")
    db.execute(
        "INSERT INTO raw.counted SELECT t, 1"
        " FROM generate_series(timestamptz '2026-02-20', '2026-11-20', '5 hours') AS t"
    )
    create_of(db, "raw.counted", "counted_1d", berlin)
    assert_live_and_stored(db, "raw.counted", of_values("counted_1d", berlin))
    for low, high in (
        (datetime(2026, 3, 29), datetime(2026, 3, 30)),
        (datetime(2026, 10, 25, 1), datetime(2026, 10, 25, 23)),
        (datetime(2026, 3, 1), datetime(2026, 4, 1)),
        (datetime(2026, 10, 1), datetime(2026, 11, 1)),
    ):  # fmt: skip
        ends = [time.replace(tzinfo=ZoneInfo("Europe/Berlin")) for time in (low, high)]
        with db.transaction(force_rollback=True):
            db.execute("SELECT silver.mark_stale('counted_1d', %s, %s)", ends)
            row = db.execute(
                "SELECT stale_buckets FROM silver.timeseries_operations_monitor"
            ).fetchone()
            assert row == (len(berlin.between(*ends)),), ends


def test_zones_and_origins_that_are_none(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.some (ts timestamptz, v integer)")
    for options in (
        {"timezone": "Mars/Phobos"}, {"timezone": ""}, {"timezone": "Europe/Berlin'; SELECT 1 --"},
        {"origin": "infinity"}, {"origin": "-infinity"},
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as caught:
            create(db, "raw.some", "none_1d", "1 day", **options)
        assert str(caught.value.sqlstate)[:2] in ("TR", "22"), (options, caught.value)
        assert len(str(caught.value.diag.message_primary).splitlines()) == 1


def create_of(
    connection: psycopg.Connection[Any], source: str, name: str, buckets: Buckets
) -> None:
    options: dict[str, Any] = {"timezone": buckets.zone}
    if buckets.origin:
        options["origin"] = buckets.origin.isoformat()
    if source.startswith("raw."):
        options["metrics"] = {"v": ["count", "sum", "avg", "min", "max", "first", "last"]}
    create(connection, source, name, buckets.interval, **options)


def of_values(name: str, buckets: Buckets) -> Wanted:
    """First and last of values that are spread over the rows of one time are left out."""
    return Wanted(name, buckets, metrics={"v": ["count", "sum", "avg", "min", "max"]})


def assert_right_or_invalid(
    connection: psycopg.Connection[Any], table: str, wanted: Wanted
) -> None:
    row = connection.execute(
        "SELECT health FROM silver.timeseries_operations_monitor"
        " WHERE target_table::text = 'silver.' || %s",
        [wanted.view],
    ).fetchone()
    assert row
    if row != ("invalid",):
        assert_live(connection, table, wanted)


def write_times(connection: psycopg.Connection[Any], table: str, times: list[datetime]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} VALUES (%s, %s)", list(zip(times, range(len(times)), strict=True))
        )
