"""Buckets of time zones and origins, against Python's own zones.

What the clock shows twice begins a bucket the first time; what it never shows does as if nobody had
put it forward. A time belongs to the last bucket that began before it.
"""

import os
from random import Random
from typing import Any

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from zoned_rows import CHANGES
from zoned_rows import create as _create
from zoned_rows import create_rows as _create_rows
from zoned_rows import late_row as _late_row

pytestmark = pytest.mark.spread

WIDTHS = "1 hour|7 hours|12 hours|1 day|24:00:00|2 days|7 days|1 month|3 months|1 year".split("|")
ALL_ZONES = "TSROLLUP_ALL_ZONES" in os.environ
SEED = int(os.environ["TSROLLUP_SEED"])
ORIGINS = [None, "2020-01-01 02:30+00", "2023-05-31 06:00+02", "2022-10-30 00:30+00"]


@pytest.mark.long
def test_promise_a_b_every_zone(db: psycopg.Connection) -> None:
    """Rows each quarter of an hour about the days when clocks change; a third of the widths in each
    zone, others each time, or all of them (`make zones`)."""
    print(f"seed {SEED}")
    chance = Random(SEED)
    for zone, day in CHANGES.items():
        widths = list(enumerate(WIDTHS))
        for number, width in widths if ALL_ZONES else chance.sample(widths, 3):
            origin = ORIGINS[(number + len(zone)) % len(ORIGINS)]
            with db.transaction(force_rollback=True):
                _create_rows(db, day)
                _create(db, "raw.z", "z", width, zone, origin)
                _create(db, "raw.z", "y", width, zone)
                assert_equal_to_group_by(db, "z", "y")
                _assert_as_time_bucket(db, "z", "y")
                refresh_everything(db)
                assert_settled(db, "z", "y")
                _late_row(db, day)
                assert_equal_to_group_by(db, "z", "y")
                refresh_everything(db)
                assert_settled(db, "z", "y")
                assert _monitored(db) == {(0, "ok")}, (zone, width)


def test_promise_e_the_monitor_counts_local_days(db: psycopg.Connection) -> None:
    """The day of 23 hours is one, that of 25 as well, and one that was left out is none."""
    for zone, day, days in (
        ("Europe/Berlin", "2025-03-30", 9),
        ("America/Havana", "2024-11-03", 9),
        ("Pacific/Apia", "2011-12-30", 8),
    ):
        with db.transaction(force_rollback=True):
            _create_rows(db, day)
            db.execute(
                "DELETE FROM raw.z WHERE (ts AT TIME ZONE %s)::date NOT BETWEEN %s::date - 4"
                " AND %s::date + 4",
                [zone, day, day],
            )
            _create(db, "raw.z", "z", "1 day", zone)
            assert _monitored(db) == {(days, "lagging")}, zone
            assert db.execute("SELECT count(DISTINCT bucket) FROM gold.z").fetchone() == (days,)


# Parent and child: width, zone, origin; and a width that would do where they do not nest.
NESTING: list[tuple[tuple[str | None, ...], tuple[str | None, ...], str | None]] = [
    (("1 hour",), ("1 day", "Europe/Berlin"), None),
    (("1 hour", "Europe/Berlin"), ("1 day",), None),
    (("1 hour",), ("1 day", "Asia/Kolkata"), "30 minutes"),
    (("30 minutes",), ("1 day", "Asia/Kolkata"), None),
    (("1 hour",), ("1 month", "Australia/Lord_Howe"), "30 minutes"),
    (("30 minutes",), ("1 day", "Australia/Lord_Howe"), None),
    (("1 hour", "Asia/Kathmandu"), ("1 day", "Asia/Kathmandu"), None),
    (("1 hour",), ("1 day", "Asia/Kathmandu"), "15 minutes"),
    (("15 minutes",), ("1 day", "Asia/Kathmandu"), None),
    (("1 day", "Europe/Berlin"), ("7 days", "Europe/Berlin"), None),
    (("1 day", "Europe/Berlin"), ("1 month", "Europe/Berlin"), None),
    (("1 day", "Europe/Berlin"), ("1 month", "Europe/Paris"), None),
    (("1 day", "Europe/Berlin"), ("1 month",), "1 day"),
    (("1 day", "Europe/Berlin"), ("1 day", "Europe/London"), "1 hour"),
    (("7 days", "Europe/Berlin"), ("1 month", "Europe/Berlin"), "multiple"),
    (("1 month", "Europe/Berlin"), ("1 year", "Europe/Berlin"), None),
    (("1 day",), ("1 day", "Africa/Abidjan"), None),
    (("1 day", "Africa/Abidjan"), ("7 days",), None),
    (("7 hours",), ("7 days",), None),
    (("7 hours",), ("7 days", "UTC", "2024-01-02 00:00+00"), "1 day"),
    (("1 hour",), ("1 day", "UTC", "2024-01-01 06:00+00"), None),
    (("1 hour",), ("1 day", "Europe/Berlin", "2024-01-01 06:00+01"), None),
    (("1 hour",), ("1 hour", "UTC", "2024-01-01 06:30+00"), "30 minutes"),
    (("12 hours", "Europe/Berlin"), ("1 day", "Europe/Berlin"), "1 hour"),
]


def test_promise_a_b_a_child_of_another_zone(db: psycopg.Connection) -> None:
    for parent, child, fitting in NESTING:
        with db.transaction(force_rollback=True):
            _create_rows(db, "2025-03-30", 400)
            _create(db, "raw.z", "p", *parent)
            if fitting is None:
                _create(db, "silver.p", "c", *child)
                assert_equal_to_group_by(db, "p", "c")
                refresh_everything(db)
                assert_settled(db, "p", "c")
                _late_row(db, "2025-03-30")
                assert_equal_to_group_by(db, "p", "c")
                continue
            with pytest.raises(psycopg.Error, match="not made of whole buckets") as caught:
                _create(db, "silver.p", "c", *child)
            assert caught.value.sqlstate == "TR001", (parent, child)
            assert fitting in (caught.value.diag.message_hint or ""), (parent, child)


def test_names_of_zones(db: psycopg.Connection) -> None:
    _create_rows(db, "2025-03-30", 4)
    for name, hint in (
        ("Berlin", "did you mean Europe/Berlin?"),
        ("Europe/Belrin", "Europe/Berlin"),
        ("new york", "America/New_York"),
        ("CET", "abbreviations"),
        ("PST", "abbreviations"),
        ("+02:00", "offsets"),
        ("<+03>-3", "offsets"),
        ("EST5EDT,M3.2.0,M11.1.0", "offsets"),
        ("localtime", ""),
        ("", ""),
        ("Europe/Berlin'; --", "Europe/Berlin"),
        ("x" * 1000, "pg_timezone_names"),
        (None, "pg_timezone_names"),
    ):
        with pytest.raises(psycopg.Error, match="timezone") as caught, db.transaction():
            _create(db, "raw.z", "z", "1 day", name)
        assert caught.value.sqlstate == "TR001"
        assert hint in (caught.value.diag.message_hint or ""), name
    for number, (name, written) in enumerate(
        [("europe/BERLIN", "Europe/Berlin"), ("utc", "UTC"), ("Etc/UTC", "Etc/UTC")]
    ):
        _create(db, "raw.z", f"z_{number}", "1 day", name)
        row = db.execute(
            "SELECT timezone FROM silver.rollup_config ORDER BY id DESC LIMIT 1"
        ).fetchone()
        assert row == (written,)


def test_origins_that_are_none(db: psycopg.Connection) -> None:
    _create_rows(db, "2025-03-30", 4)
    for origin in ("infinity", "-infinity", "4000-01-01 BC", "20000-01-01"):
        with pytest.raises(psycopg.Error, match="origin") as caught, db.transaction():
            _create(db, "raw.z", "z", "1 day", "UTC", origin)
        assert caught.value.sqlstate == "TR001"


def test_zone_and_origin_stay(db: psycopg.Connection) -> None:
    _create_rows(db, "2025-03-30", 4)
    _create(db, "raw.z", "z", "1 day", "Europe/Berlin")
    for change in ("timezone = 'Asia/Tokyo'", "origin = '2024-01-01 06:00+00'"):
        with pytest.raises(psycopg.Error, match="cannot be changed"), db.transaction():
            db.execute(f"UPDATE silver.rollup_config SET {change}".encode())


def test_promise_a_b_the_first_and_the_last_years(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.z (ts timestamptz, v integer)")
    db.execute(
        "INSERT INTO raw.z SELECT ts::timestamptz, 1 FROM unnest('{0001-01-01 00:00+00,"
        "0001-01-02 00:00+00,1844-12-31 12:00+00,9999-12-31 23:59:59.999999+00,infinity,"
        "-infinity,0002-01-01 BC,10001-01-01}'::text[]) AS ts"
    )
    for zone in ("Pacific/Kiritimati", "America/Havana", "Asia/Manila"):
        for width in ("1 day", "7 days", "1 month", "1 year"):
            with db.transaction(force_rollback=True):
                _create(db, "raw.z", "z", width, zone)
                for _ in range(2):
                    rows = db.execute(
                        "SELECT g.bucket = b.bucket AND g.row_count = b.rows FROM gold.z AS g"
                        " FULL JOIN (SELECT silver.time_bucket(%s, ts, %s) AS bucket, count(*)"
                        " AS rows FROM raw.z WHERE ts >= '0001-01-01 00:00+00'"
                        " AND ts < '10000-01-01 00:00+00' GROUP BY 1) AS b USING (bucket)",
                        [width, zone],
                    ).fetchall()
                    assert set(rows) == {(True,)}, (zone, width, rows)
                    refresh_everything(db)


def test_time_bucket_inlines(db: psycopg.Connection) -> None:
    plan = db.execute(
        "EXPLAIN (VERBOSE, COSTS OFF) SELECT silver.time_bucket('1 hour', ts, 'Asia/Kolkata'),"
        " silver.time_bucket('1 day', ts, timestamptz '2024-01-01 06:00+00'),"
        " silver.time_bucket('1 day', ts, 'Asia/Kolkata') FROM generate_series("
        "timestamptz '2024-01-01', '2024-01-02', '1 hour') AS ts"
    ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "time_bucket" not in text
    assert text.count("date_bin") == 2


def test_promise_f_g_retention_seals_local_days(db: psycopg.Connection) -> None:
    """Raw partitions end at UTC midnight, amid a day of Berlin: the day is sealed whole."""
    db.execute("CREATE TABLE raw.z (ts timestamptz NOT NULL, v integer) PARTITION BY RANGE (ts)")
    db.execute("SELECT silver.partition_source('raw.z', '1 day')")
    db.execute(
        "INSERT INTO raw.z SELECT t, 1 FROM generate_series(now() - interval '240 hours', now(),"
        " interval '1 hour') AS t"
    )
    db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    _create(db, "raw.z", "days", "1 day", "Europe/Berlin")
    refresh_everything(db)
    db.execute("CREATE TABLE before AS SELECT * FROM gold.days")
    db.execute("SELECT silver.set_retention('raw.z', '96 hours')")
    for _ in range(3):
        db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    sealed, start = db.execute(
        "SELECT sealed_before, silver.time_bucket('1 day', sealed_before, 'Europe/Berlin')"
        " FROM silver.rollup_config"
    ).fetchone() or (None, None)
    assert sealed
    assert sealed == start
    for late in ("1 minute", "0"):
        db.execute("INSERT INTO raw.z SELECT %s::timestamptz - %s::interval, 1", [sealed, late])
    assert_equal_to_group_by(db, "days")
    refresh_everything(db)
    assert_settled(db, "days")
    changed = db.execute(
        "SELECT d.bucket, d.row_count - b.row_count FROM before AS b"
        " JOIN gold.days AS d USING (bucket) WHERE d.row_count <> b.row_count"
    ).fetchall()
    assert changed == [(sealed, 1)]
    assert db.execute(
        "SELECT count(*) FROM before WHERE bucket NOT IN (SELECT bucket FROM gold.days)"
    ).fetchone() == (0,)
    assert db.execute("SELECT sealed_late_rows FROM silver.rollup_config").fetchone() == (1,)


def test_promise_a_b_other_times_and_changes(db: psycopg.Connection) -> None:
    """A timestamp and a date are of UTC, as ever; a window; metrics and types that come later."""
    for kind, tracking in (
        ("timestamp", "trigger"),
        ("date", "trigger"),
        ("timestamptz", "window"),
    ):
        with db.transaction(force_rollback=True):
            _create_rows(db, "2025-03-30", 2000)
            db.execute(f"ALTER TABLE raw.z ALTER ts TYPE {kind}".encode())
            db.execute(
                "SELECT silver.create_rollup_table('raw.z', 'silver', 'z', '1 day', timezone =>"
                " 'Europe/Berlin', change_tracking => %s, look_back_window => '10000 days',"
                ' metrics => \'{"v": ["sum"]}\')',
                [tracking],
            )
            _create(db, "silver.z", "y", "1 month", "Europe/Berlin")
            refresh_everything(db)
            assert_equal_to_group_by(db, "z", "y")
            db.execute("SELECT silver.add_rollup_metric('z', '{\"v\": [\"max\"]}')")
            _late_row(db, "2025-03-30")
            assert_equal_to_group_by(db, "z", "y")
            refresh_everything(db)
            db.execute("ALTER TABLE raw.z ALTER v TYPE bigint")
            db.execute("SELECT silver.rebuild_rollup('z')")
            assert_equal_to_group_by(db, "z", "y")
            refresh_everything(db)
            assert_equal_to_group_by(db, "z", "y")


def test_promise_a_many_cells_and_partitions(db: psycopg.Connection) -> None:
    """Buckets of a zone lie in one cell and one partition each, wherever those begin."""
    for width, zone in (("7 minutes", "America/New_York"), ("1 day", "America/Havana")):
        with db.transaction(force_rollback=True):
            _create_rows(db, "2024-11-03", 2000)
            db.execute(
                "SELECT silver.create_rollup_table('raw.z', 'silver', 'z', %s, timezone => %s,"
                " chunk_interval => '1 day')",
                [width, zone],
            )
            db.execute("UPDATE silver.rollup_config SET processing_window = bucket_width * 3")
            assert_equal_to_group_by(db, "z")
            refresh_everything(db)
            assert_settled(db, "z")
            _late_row(db, "2024-11-03")
            assert_equal_to_group_by(db, "z")
            refresh_everything(db)
            assert_settled(db, "z")


def _assert_as_time_bucket(connection: psycopg.Connection, *names: str) -> None:
    for name in names:
        width, zone, origin = connection.execute(
            "SELECT bucket_width::text, timezone, origin FROM silver.rollup_config"
            " WHERE target_table = to_regclass('silver.' || %s)",
            [name],
        ).fetchone() or ("", "", None)
        forms = ["ts, %(zone)s, %(origin)s::timestamptz"]
        if origin is None:
            forms.append("ts, %(zone)s::text")
        if zone == "UTC":
            forms.append("ts, %(origin)s::timestamptz" if origin else "ts")
        for form in forms:
            rows = connection.execute(
                f"(SELECT bucket, row_count FROM gold.{name}) EXCEPT SELECT"
                f" silver.time_bucket(%(width)s, {form}), count(*) FROM raw.z GROUP BY 1".encode(),
                {"width": width, "zone": zone, "origin": origin},
            ).fetchall()
            assert rows == [], (width, zone, origin, form)


def _monitored(connection: psycopg.Connection) -> set[tuple[Any, ...]]:
    return set(
        connection.execute(
            "SELECT stale_buckets, health FROM silver.timeseries_operations_monitor"
        ).fetchall()
    )
