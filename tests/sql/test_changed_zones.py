"""Other rules of a zone, or a zone that is lost: never wrong in silence, and right again later."""

import psycopg
import pytest

from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from zoned_rows import create as _create
from zoned_rows import create_rows as _create_rows
from zoned_rows import late_row as _late_row


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


def test_rules_of_a_zone_are_known_to_the_second_and_from_their_beginning(
    db: psycopg.Connection,
) -> None:
    """Clocks of Vienna and Berlin are the same at each week's end since 1970."""
    digest = "SELECT rollup_engine.zone_digest(%s)"
    told = [
        db.execute(digest, [name]).fetchone()
        for name in ("Europe/Vienna", "Europe/Berlin", "Asia/Kolkata", "Asia/Calcutta")
    ]
    assert len(set(told)) == 3
    assert told[2] == told[3]


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


def _health(connection: psycopg.Connection) -> dict[str, str]:
    return dict(
        connection.execute(
            "SELECT split_part(target_table, '.', 2), health"
            " FROM silver.timeseries_operations_monitor"
        ).fetchall()
    )
