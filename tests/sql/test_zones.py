"""Buckets of time zones and origins, against Python's own zones.

What the clock shows twice begins a bucket the first time; what it never shows does as if nobody had
put it forward. A time belongs to the last bucket that began before it.
"""

import os
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)

# A day of clocks in each: at midnight and after, back over midnight, half an hour, a day left out.
CHANGES = {
    "Europe/Berlin": "2025-03-30",
    "America/Havana": "2024-11-03",
    "Asia/Beirut": "2024-10-27",
    "Atlantic/Azores": "2024-10-27",
    "America/St_Johns": "2009-11-01",
    "Australia/Lord_Howe": "2024-04-07",
    "Pacific/Apia": "2011-12-30",
    "Pacific/Chatham": "2024-09-29",
    "Asia/Kathmandu": "2024-02-29",
    "Asia/Kolkata": "2024-02-29",
    "Africa/Casablanca": "2024-03-10",
    "America/Asuncion": "2024-10-06",
    "UTC": "2024-02-29",
}
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


def test_never_wrong_in_silence_when_data_comes_to_other_years(db: psycopg.Connection) -> None:
    """Before 1893 Berlin's days began at 53 minutes and 28 seconds to the hour."""
    _create_rows(db, "2025-03-30")
    _create(db, "raw.z", "hours", "1 hour")
    _create(db, "silver.hours", "days", "1 day", "Europe/Berlin")
    _create(db, "silver.days", "weeks", "7 days", "Europe/Berlin")
    refresh_everything(db)
    assert _health(db) == {"hours": "ok", "days": "ok", "weeks": "ok"}
    for statement, is_wrong in (
        ("INSERT INTO raw.z VALUES ('1950-06-01 12:00+00', 1)", False),
        ("INSERT INTO raw.z VALUES ('1890-06-01 12:00+00', 1)", True),
        ("SELECT * FROM silver.perform_rollup(as_of => 'infinity')", True),
    ):
        db.execute(statement.encode())
        wrong = "invalid" if is_wrong else "waiting_for_parent"
        assert _health(db)["days"] == wrong, statement
        assert _health(db)["weeks"] == wrong, statement
        refused = db.execute(
            "SELECT count(*) FROM silver.validate_rollup_config() WHERE NOT is_valid"
        ).fetchone()
        assert refused == (2 if is_wrong else 0,)
    with pytest.raises(psycopg.Error, match="not made of whole buckets") as caught:
        _create(db, "silver.hours", "more_days", "1 day", "Europe/Berlin")
    assert "1 second" in (caught.value.diag.message_hint or "")
    db.execute("DELETE FROM raw.z WHERE ts < '1900-01-01'")
    refresh_everything(db)
    assert _health(db) == {"hours": "ok", "days": "ok", "weeks": "ok"}
    assert_settled(db, "hours", "days", "weeks")
    db.execute("REVOKE SELECT ON silver.weeks FROM tsrollup_owner")
    assert _health(db) == {"hours": "ok", "days": "ok", "weeks": "invalid"}


def test_never_wrong_in_silence_when_the_rules_of_a_zone_change(db: psycopg.Connection) -> None:
    """As an update of tzdata would: what is stored goes by other borders."""
    _create_rows(db, "2025-03-30")
    _create(db, "raw.z", "days", "1 day", "Europe/Berlin")
    _create(db, "silver.days", "weeks", "7 days", "Europe/Berlin")
    _create(db, "raw.z", "others", "1 day", "Asia/Tokyo")
    refresh_everything(db)
    db.execute(
        "UPDATE rollup_engine.zone_rules SET digest = rollup_engine.zone_digest('Europe/London')"
        " WHERE timezone = 'Europe/Berlin'"
    )
    validated = (
        "SELECT DISTINCT target FROM silver.validate_rollup_config() WHERE NOT is_valid ORDER BY 1"
    )
    assert db.execute(validated).fetchall() == [("silver.days",), ("silver.weeks",)]
    assert _health(db) == {"days": "invalid", "weeks": "invalid", "others": "ok"}
    actions = "SELECT target FROM silver.maintain_timeseries_tables() WHERE action = 'marked'"
    assert db.execute(actions).fetchall() == [("silver.days",), ("silver.weeks",)]
    assert db.execute(validated).fetchall() == []
    stale = "SELECT target_table FROM silver.timeseries_operations_monitor WHERE stale_buckets > 0"
    assert {t for (t,) in db.execute(stale)} == {"silver.days", "silver.weeks"}
    refresh_everything(db)
    assert_settled(db, "days", "weeks")
    assert db.execute(actions).fetchall() == []


def test_never_wrong_in_silence_when_an_expression_names_a_zone(db: psycopg.Connection) -> None:
    _create_rows(db, "2025-03-30", 100)
    create = (
        "SELECT silver.create_rollup_table('raw.z', 'silver', %s, '1 hour',"
        " dimensions => %s, metrics => %s"
    )
    hour = """{"x": "extract(hour FROM ts AT TIME ZONE 'europe/berlin')"}"""
    day = "timezone('MSK', ts) < '2025-03-31'"
    db.execute(create + ", expressions => %s)", ["hour", ["x"], '{"v": ["sum"]}', hour])
    db.execute(create + ", filter => %s)", ["day", [], '{"v": ["sum"]}', day])
    _create(db, "silver.hour", "above", "1 day")
    word = "v::text <> 'web2' AND v::text <> 'Europe/Nowhere'"
    db.execute(create + ", filter => %s)", ["word", [], '{"v": ["sum"]}', word])
    refresh_everything(db)
    noted = "SELECT string_agg(timezone, ' ' ORDER BY timezone) FROM rollup_engine.zone_rules"
    assert db.execute(noted).fetchone() == ("MSK europe/berlin",)
    of_a_map = (
        """{"x": "(ts AT TIME ZONE ('{\\"de\\": \\"Asia/Kolkata\\"}'::jsonb ->> 'de'))::date"}"""
    )
    db.execute(
        "SELECT silver.add_rollup_metric('word', %s, expressions => %s)",
        ['{"x": ["max"]}', of_a_map],
    )
    zones = {"hour": "europe/berlin", "day": "MSK", "word": "Asia/Kolkata"}
    if db.info.server_version >= 180000:
        db.execute(
            "ALTER TABLE raw.z ADD local time"
            " GENERATED ALWAYS AS ((ts AT TIME ZONE 'Asia/Tokyo')::time)"
        )
        db.execute(create + ")", ["virtual", [], '{"local": ["min"]}'])
        zones["virtual"] = "Asia/Tokyo"
    refresh_everything(db)
    assert db.execute(noted).fetchone() == (" ".join(sorted(zones.values())),)
    db.execute("UPDATE rollup_engine.zone_rules SET digest = 'another'")
    invalid = "SELECT target FROM silver.validate_rollup_config() WHERE NOT is_valid"
    told = {target.removeprefix("silver.") for (target,) in db.execute(invalid)}
    assert told == {*zones, "above"}
    marked = db.execute(
        "SELECT target, detail FROM silver.maintain_timeseries_tables() WHERE action = 'marked'"
    )
    rest = "have changed: all that is not sealed is computed anew"
    assert set(marked) == {(f"silver.{t}", f"the rules of {z} {rest}") for t, z in zones.items()}
    assert db.execute(invalid).fetchall() == []
    stale = "SELECT target_table FROM silver.timeseries_operations_monitor WHERE stale_buckets > 0"
    assert {t.removeprefix("silver.") for (t,) in db.execute(stale)} == {*zones, "above"}
    refresh_everything(db)
    assert_settled(db, *zones, "above")


@pytest.mark.parametrize("is_restored", [False, True])
def test_promise_h_a_zone_that_the_server_lost_stops_its_rollups_alone(
    db: psycopg.Connection, is_restored: bool
) -> None:
    """As where old names of zones moved to another package, and data to another server."""
    _create_rows(db, "2025-03-30")
    _create(db, "raw.z", "days", "1 day", "Europe/Berlin")
    _create(db, "silver.days", "weeks", "7 days", "Europe/Berlin")
    _create(db, "raw.z", "hours", "1 hour")
    _create(db, "raw.z", "local", "1 hour", "Europe/Berlin")
    refresh_everything(db)
    lost = "timezone = 'Mars/Berlin' WHERE timezone = 'Europe/Berlin'"
    db.execute(f"UPDATE rollup_engine.zone_rules SET {lost}")
    force_configuration(db, lost)
    if is_restored:
        db.execute("UPDATE rollup_engine.source_shape SET server = 0")
        assert _health(db)["hours"] == "ok"
    _late_row(db, "2025-03-30")
    db.execute("CALL silver.run_rollups()")
    db.execute("SELECT * FROM silver.perform_rollup()")
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert_settled(db, "hours")
    lost_ones = ("days", "weeks", "local")
    assert _health(db) == {**dict.fromkeys(lost_ones, "invalid"), "hours": "ok"}
    actions = "SELECT target FROM silver.maintain_timeseries_tables() WHERE action = 'marked'"
    with pytest.raises(psycopg.Error, match=r"time zone Mars/Berlin of silver\.local"):
        _create(db, "local", "above", "1 day", "Asia/Tokyo")
    _create(db, "raw.z", "tokyo", "1 day", "Asia/Tokyo")
    db.execute("UPDATE rollup_engine.zone_rules SET digest = '-' WHERE timezone = 'Asia/Tokyo'")
    assert db.execute(actions).fetchall() == [("silver.tokyo",)]
    db.execute("SELECT silver.drop_rollup('tokyo')")
    assert db.execute(
        "SELECT live_view::text, reason LIKE '%does not know the time zone%'"
        " FROM silver.rollup_for('raw.z', '1 day')"
    ).fetchall() == [
        ("gold.hours", False),
        ("gold.weeks", True),
        ("gold.days", True),
        ("gold.local", True),
    ]
    parked = "retry_count = 10, parked_at = now() WHERE target_table = 'silver.days'::regclass"
    force_configuration(db, parked)
    found = "timezone = 'Europe/Berlin' WHERE timezone = 'Mars/Berlin'"
    db.execute(f"UPDATE rollup_engine.zone_rules SET {found}")
    force_configuration(db, found)
    assert {name for (name,) in db.execute(actions)} == {f"silver.{name}" for name in lost_ones}
    refresh_everything(db)
    assert_settled(db, "hours", *lost_ones)


def test_promise_d_other_rules_of_a_zone_take_nothing_that_a_source_no_longer_holds(
    db: psycopg.Connection,
) -> None:
    """A window's source may trim itself, or keep a stray row; what it reads is computed anew."""
    db.execute(
        "CREATE TABLE raw.w (ts timestamptz NOT NULL, v int); INSERT INTO raw.w"
        " SELECT now() - g * interval '1 hour', 1 FROM generate_series(1, 720) AS g;"
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'w_1h', '1 hour',"
        " timezone => 'Asia/Kolkata', change_tracking => 'window',"
        " look_back_window => '3 days');"
        "SELECT silver.create_rollup_table('w_1h', 'silver', 'w_1d', '1 day',"
        " timezone => 'Asia/Kolkata')"
    )
    refresh_everything(db)
    db.execute(
        "DELETE FROM raw.w WHERE ts < now() - interval '10 days'"
        " AND ts NOT BETWEEN now() - interval '601 hours' AND now() - interval '599 hours'"
    )
    db.execute("UPDATE raw.w SET v = 2; UPDATE rollup_engine.zone_rules SET digest = 'another'")
    actions = "SELECT target FROM silver.maintain_timeseries_tables() WHERE action = 'marked'"
    assert db.execute(actions).fetchall() == [("silver.w_1h",), ("silver.w_1d",)]
    refresh_everything(db)
    for relation in ("silver.w_1h", "gold.w_1h", "gold.w_1d"):
        row = db.execute(f"SELECT sum(row_count), sum(v_sum) FROM {relation}".encode()).fetchone()
        assert row
        assert row[0] == 720
        assert 720 + 68 <= row[1] <= 720 + 73


def test_promise_d_what_came_while_a_zone_was_lost_is_read_after_a_run(
    db: psycopg.Connection,
) -> None:
    """Also where a run came before maintenance, and the look-back is less than a bucket."""
    db.execute(
        "CREATE TABLE raw.w (ts timestamptz NOT NULL, v int); INSERT INTO raw.w"
        " SELECT now() - g * interval '1 hour', 1 FROM generate_series(240, 720) AS g"
    )
    for name, width in (("w_1h", "1 hour"), ("w_1d", "1 day")):
        db.execute(
            "SELECT silver.create_rollup_table('raw.w', 'silver', %s, %s, change_tracking =>"
            " 'window', timezone => 'Asia/Kolkata', look_back_window => '2 hours')",
            [name, width],
        )
    refresh_everything(db)
    db.execute("UPDATE rollup_engine.source SET window_read_at = now() - interval '10 days'")
    lost = "timezone = 'Mars/Kolkata' WHERE timezone = 'Asia/Kolkata'"
    db.execute(f"UPDATE rollup_engine.zone_rules SET {lost}")
    force_configuration(db, lost)
    db.execute(
        "INSERT INTO raw.w"
        " SELECT now() - g * interval '1 hour', 1 FROM generate_series(1, 239) AS g"
    )
    db.execute("CALL silver.run_rollups()")
    found = "timezone = 'Asia/Kolkata' WHERE timezone = 'Mars/Kolkata'"
    db.execute(f"UPDATE rollup_engine.zone_rules SET {found}")
    force_configuration(db, found)
    db.execute("CALL silver.run_rollups()")
    db.execute("SELECT silver.maintain_timeseries_tables()")
    refresh_everything(db)
    assert_equal_to_group_by(db, "w_1h", "w_1d")


def test_promise_h_other_rules_of_a_zone_of_what_cannot_be_read(db: psycopg.Connection) -> None:
    _create_rows(db, "2025-03-30")
    db.execute("CREATE TABLE raw.other AS TABLE raw.z")
    _create(db, "raw.z", "days", "1 day", "Europe/Berlin")
    _create(db, "raw.other", "others", "1 day", "Europe/Berlin")
    refresh_everything(db)
    db.execute("REVOKE SELECT ON raw.z FROM tsrollup_owner")
    db.execute("UPDATE rollup_engine.zone_rules SET digest = 'another'")
    done = db.execute("SELECT target, action FROM silver.maintain_timeseries_tables()").fetchall()
    assert {("silver.days", "failed"), ("silver.others", "marked")} <= set(done)
    db.execute("GRANT SELECT ON raw.z TO tsrollup_owner")
    assert _health(db)["days"] == "invalid"
    marked = "SELECT target FROM silver.maintain_timeseries_tables() WHERE action = 'marked'"
    assert db.execute(marked).fetchall() == [("silver.days",)]
    assert db.execute(marked).fetchall() == []
    refresh_everything(db)
    assert _health(db) == {"days": "ok", "others": "ok"}
    assert_settled(db, "days", "others")


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


# Histories ---------------------------------------------------------------------------------

CHOSEN_LEVELS = st.sampled_from(
    [
        (("15 minutes",), ("1 day", "Asia/Kathmandu"), ("7 days", "Asia/Kathmandu")),
        (("30 minutes",), ("1 day", "Australia/Lord_Howe"), ("1 month", "Australia/Lord_Howe")),
        (("1 hour", "Europe/Berlin"), ("1 day", "Europe/Berlin"), ("1 month", "Europe/Berlin")),
        (("1 hour",), ("1 day", "America/Havana"), ("2 days", "America/Havana")),
        (
            ("1 hour",),
            ("1 day", "Europe/Berlin", "2024-01-01 06:00+01"),
            ("2 days", "Europe/Berlin", "2024-01-01 06:00+01"),
        ),
        (
            ("1 day", "Atlantic/Azores"),
            ("1 month", "Atlantic/Azores"),
            ("1 year", "Atlantic/Azores"),
        ),
        (
            ("90 minutes", "UTC", "2024-01-01 00:45+00"),
            ("3 hours", "UTC", "2024-01-01 00:45+00"),
            ("1 day", "UTC", "2024-01-01 00:45+00"),
        ),
        (
            ("1 day", "UTC", "2023-05-31 00:00+00"),
            ("1 month", "UTC", "2023-05-31 00:00+00"),
            ("2 months", "UTC", "2023-05-31 00:00+00"),
        ),
    ]
)
ANY_LEVELS = st.tuples(
    st.sampled_from(["5 minutes", "15 minutes"]),
    st.sampled_from(sorted(CHANGES)),
    st.none()
    | st.builds(
        "2023-05-{} {}:{}+00".format, *map(st.sampled_from, ((1, 28, 31), (0, 1, 22), (15, 30)))
    ),
    st.sampled_from(["2 days", "7 days", "1 month", "3 months", "1 year"]),
).map(lambda x: ((x[0],), ("1 day", x[1], x[2]), (x[3], x[1], x[2])))
SPAN = (
    "WHERE ts >= %(day)s::timestamptz + make_interval(hours => %(low)s)"
    " AND ts < %(day)s::timestamptz + make_interval(hours => %(high)s)"
)
STATEMENTS = [
    "INSERT INTO raw.z SELECT %(day)s::timestamptz + make_interval(hours => %(low)s,"
    " mins => 13 * i), i FROM generate_series(0, %(size)s) AS i",
    f"DELETE FROM raw.z {SPAN}",
    f"UPDATE raw.z SET v = v + 1 {SPAN}",
    f"UPDATE raw.z SET ts = ts + interval '25 hours' {SPAN}",
    "SELECT * FROM silver.perform_rollup(max_batches => %(size)s %% 3 + 1, as_of => 'infinity')",
    "SELECT * FROM silver.perform_rollup(as_of => 'infinity')",
    "SELECT rollup_engine.drain_step(id, NULL) FROM rollup_engine.source",
    "SELECT silver.mark_stale('z_1', %(day)s::timestamptz, %(day)s::timestamptz + interval '30 h')",
    "SELECT * FROM silver.refresh_rollup('z_2', %(day)s::timestamptz + make_interval("
    "hours => %(low)s), %(day)s::timestamptz + make_interval(hours => %(high)s))",
    "UPDATE silver.rollup_config SET query_shape = 'grouped'",
    "UPDATE silver.rollup_config SET query_shape = 'per_bucket'",
    "UPDATE silver.rollup_config SET current_window = interval '50 hours',"
    " processing_window = interval '50 hours'",
]


@pytest.mark.long
def test_promise_a_b_d_histories(db: psycopg.Connection) -> None:
    steps = st.lists(
        st.tuples(
            st.sampled_from(STATEMENTS),
            st.integers(-90, 90),
            st.integers(1, 60),
            st.integers(0, 40),
        ),
        max_size=6,
    )

    @settings(
        max_examples=int(os.environ.get("TSROLLUP_HISTORIES", "20")),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(CHOSEN_LEVELS | ANY_LEVELS, st.sampled_from(sorted(set(CHANGES.values()))), steps)
    def run(levels: Any, day: str, history: list[tuple[str, int, int, int]]) -> None:
        names = ["z_0", "z_1", "z_2"]
        with db.transaction(force_rollback=True):
            _create_rows(db, day, 200)
            for name, source, level in zip(names, ["raw.z", *names], levels, strict=False):
                _create(db, source, name, *level)
            for statement, low, length, size in history:
                db.execute(
                    statement.encode(),
                    {"day": day, "low": low, "high": low + length, "size": size},
                )
                assert_equal_to_group_by(db, *names)
            refresh_everything(db)
            assert_settled(db, *names)
            db.execute("SELECT silver.mark_stale('raw.z', '-infinity', 'infinity')")
            rows = db.execute(
                "SELECT sum(rows_written), sum(rows_deleted)"
                " FROM silver.perform_rollup(as_of => 'infinity')"
            ).fetchone()
            assert rows == (0, 0)

    run()


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


def _create_rows(connection: psycopg.Connection, day: str, rows: int = 1000) -> None:
    """A row each quarter of an hour, as many before the day as after it."""
    connection.execute("CREATE TABLE raw.z (ts timestamptz, v integer)")
    connection.execute(
        "INSERT INTO raw.z SELECT %s::date::timestamp AT TIME ZONE 'UTC'"
        " + n * interval '15 minutes', n FROM generate_series(-%s::integer, %s::integer) AS n",
        [day, rows // 2, rows // 2],
    )
    connection.execute("CREATE INDEX ON raw.z (ts)")


def _late_row(connection: psycopg.Connection, day: str) -> None:
    connection.execute(
        "INSERT INTO raw.z SELECT ts + interval '1 minute', 7 FROM raw.z"
        " WHERE ts >= %s::timestamptz - interval '6 hours' AND ts < %s::timestamptz",
        [day, day],
    )


def _create(
    connection: psycopg.Connection,
    source: str,
    name: str,
    width: str | None,
    zone: str | None = "UTC",
    origin: str | None = None,
) -> None:
    connection.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval, timezone => %s,"
        " origin => %s)",
        [source, name, width, zone, origin],
    )


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


def _health(connection: psycopg.Connection) -> dict[str, str]:
    return dict(
        connection.execute(
            "SELECT split_part(target_table, '.', 2), health"
            " FROM silver.timeseries_operations_monitor"
        ).fetchall()
    )
