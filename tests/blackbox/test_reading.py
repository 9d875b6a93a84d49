"""gapfill: a row for every bucket and group; rollup_for: which live view answers a question."""

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from blackbox.calendar_reference import Buckets
from blackbox.rollup_reference import assert_live_and_stored, create, rows_of
from conftest import Connect
from servers import PostgresServer

GAPS = """
    CREATE TABLE raw.gaps (
        ts timestamptz, device text, site integer, temp float8, note text, v integer
    );
    CREATE INDEX ON raw.gaps (ts)
"""
# Days of 23 and of 25 hours in Berlin; hours of devices that are there now and then.
SPANS = [
    (datetime(2026, 3, 27, 23, tzinfo=UTC), datetime(2026, 3, 31, 22, tzinfo=UTC)),
    (datetime(2026, 10, 23, 22, tzinfo=UTC), datetime(2026, 10, 27, 23, tzinfo=UTC)),
]
METRICS = {"temp": ["avg", "max", "count"], "note": ["last"], "v": ["sum"]}
DAY, HOUR = Buckets("1 day", "Europe/Berlin"), Buckets("1 hour")
FILL = {"temp_avg": "locf", "temp_max": "linear", "note_last": "locf"}
BERLIN = {"timezone": "Europe/Berlin"}


def fill_gaps(connection: psycopg.Connection[Any]) -> None:
    """Device a at site 1 and 2, b at 1, nobody at site 3; hours and days are missing."""
    connection.execute(GAPS)
    rows = []
    for low, high in SPANS:
        hours = int((high - low) / timedelta(hours=1))
        for hour in range(hours):
            time = low + timedelta(hours=hour)
            for number, (device, site) in enumerate([("a", 1), ("a", 2), ("b", 1), (None, 3)]):
                # Nobody is there on the second day, some only then and when.
                if 24 <= hour < 48 or (hour * 7 + number * 5) % (3 + number):
                    continue
                for minute in (3, 17):
                    at = time + timedelta(minutes=minute, seconds=number)
                    rows.append(
                        (
                            at,
                            device,
                            site,
                            None if hour % 13 == 5 else hour / 4 + number,
                            f"{at:%d %H:%M}",
                            hour,
                        )
                    )
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO raw.gaps VALUES (%s, %s, %s, %s, %s, %s)", rows)
    create(
        connection, "raw.gaps", "gaps_1h", "1 hour", dimensions=["device", "site"], metrics=METRICS
    )  # fmt: skip
    create(connection, "gaps_1h", "gaps_1d", "1 day", **BERLIN)
    create(connection, "gaps_1h", "gaps_by_device", "1 hour", dimensions=["device"])
    create(connection, "gaps_1h", "gaps_alone", "1 day", dimensions=[], **BERLIN)


def gapfill(
    connection: psycopg.Connection[Any], view: str, low: Any, high: Any, **options: Any
) -> list[dict[str, Any]]:
    arguments = "".join(f', "{name}" => %({name})s' for name in options)
    return (
        connection.cursor(row_factory=dict_row)
        .execute(
            f"SELECT * FROM silver.gapfill(NULL::gold.{view}, %(low)s, %(high)s"
            f"{arguments})".encode(),
            {"low": low, "high": high} | {name: Jsonb(value) for name, value in options.items()},
        )
        .fetchall()
    )


def filled(
    live: Sequence[Mapping[str, Any]],
    dimensions: Sequence[str],
    buckets: Sequence[datetime],
    fill: Mapping[str, str],
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows that must come, by group and bucket."""
    by_group: dict[tuple[Any, ...], dict[datetime, Mapping[str, Any]]] = defaultdict(dict)
    for row in live:
        by_group[tuple(row[d] for d in dimensions)][row["bucket"].astimezone(UTC)] = row
    columns = [name for name in live[0] if name not in ("bucket", *dimensions)]
    return {
        (*group, bucket): {
            name: there[bucket][name]
            if bucket in there and there[bucket][name] is not None
            else guess(there, name, bucket, fill.get(name))
            for name in columns
        }
        for group, there in by_group.items()
        if any(buckets[0] <= bucket <= buckets[-1] for bucket in there)
        for bucket in buckets
    }


def guess(
    there: Mapping[datetime, Mapping[str, Any]], name: str, bucket: datetime, how: str | None
) -> Any:
    """Of the nearest buckets that have a value, wherever they lie."""
    known = [time for time, row in there.items() if row[name] is not None]
    before = max((time for time in known if time < bucket), default=None)
    after = min((time for time in known if time > bucket), default=None)
    if how is None or before is None:
        return None
    low = there[before][name]
    if how == "locf":
        return low
    if after is None:
        return None
    part = (bucket - before) / (after - before)
    return pytest.approx(low + (there[after][name] - low) * part, rel=1e-9, abs=1e-9)


def test_gaps_are_filled(db: psycopg.Connection) -> None:
    """Hours and local days, for each group that occurs, the one of NULL too."""
    fill_gaps(db)
    views = {
        "gaps_1h": (HOUR, ["device", "site"]),
        "gaps_1d": (DAY, ["device", "site"]),
        "gaps_by_device": (HOUR, ["device"]),
        "gaps_alone": (DAY, []),
    }
    for zone in ("UTC", "America/Havana"):
        db.execute("SELECT set_config('TimeZone', %s, false)", [zone])
        if zone != "UTC":
            assert_live_and_stored(db, "raw.gaps")
        for view, (buckets, dimensions) in views.items():
            live = rows_of(db, f"gold.{view}")
            for low, high in SPANS:
                for fill in ({}, FILL):
                    rows = gapfill(db, view, low, high, **({"fill": fill} if fill else {}))
                    begun = [time for time in buckets.between(low, high) if time >= low]
                    must = filled(live, dimensions, begun, fill)
                    assert len(rows) == len(must), (view, low, fill)
                    for row in rows:
                        key = (*(row[d] for d in dimensions), row["bucket"].astimezone(UTC))
                        is_ = {name: row[name] for name in must[key]}
                        assert is_ == must[key], (view, key, fill)


def test_gaps_of_given_groups(db: psycopg.Connection) -> None:
    """Also of those that never occur."""
    fill_gaps(db)
    low, high = SPANS[0]
    hours = HOUR.between(low, high)
    live = [row for row in rows_of(db, "gold.gaps_by_device") if row["device"] == "a"]
    must = filled(live, ["device"], hours, FILL)
    rows = gapfill(db, "gaps_by_device", low, high, fill=FILL, only={"device": ["a", "zzz"]})
    assert sorted((row["device"], row["bucket"]) for row in rows) == [
        (device, hour) for device in ("a", "zzz") for hour in hours
    ]
    for row in rows:
        if row["device"] == "zzz":
            assert {v for k, v in row.items() if k not in ("device", "bucket")} == {None}
        else:
            expected = must[("a", row["bucket"].astimezone(UTC))]
            assert {name: row[name] for name in expected} == expected
    nobody = gapfill(db, "gaps_by_device", low, high, only={"device": [None]})
    assert {row["device"] for row in nobody} == {None}
    assert len(nobody) == len(hours)
    rows = gapfill(db, "gaps_1h", low, high, only={"device": ["b"], "site": [1, 9]})
    assert sorted((row["device"], row["site"], row["bucket"]) for row in rows) == [
        ("b", site, hour) for site in (1, 9) for hour in hours
    ]


def test_gapfill_refuses_what_it_cannot_do(db: psycopg.Connection) -> None:
    fill_gaps(db)
    low, high = SPANS[0]
    wrong: list[dict[str, Any]] = [
        {"fill": {"missing": "locf"}}, {"fill": {"temp_avg": "next"}}, {"fill": {"temp_avg": 1}},
        {"fill": {"note_last": "linear"}}, {"fill": {"device": "locf"}}, {"fill": ["locf"]},
        {"only": {"missing": [1]}}, {"only": {"temp_avg": [1]}}, {"only": ["a"]},
        {"only": {"site": ["no number"]}},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(psycopg.Error) as caught:
            gapfill(db, "gaps_1h", low, high, **options)
        assert len(str(caught.value.diag.message_primary).splitlines()) == 1, options
    for ends in ((None, high), (low, None), ("-infinity", high), (low, "infinity")):
        with pytest.raises(psycopg.Error):
            gapfill(db, "gaps_1h", *ends)
    for row in ("NULL::raw.gaps", "NULL::silver.gaps_1h", "NULL::integer"):
        with pytest.raises(psycopg.Error):
            db.execute(f"SELECT * FROM silver.gapfill({row}, now(), now())".encode())


def test_who_reads_gold_fills_gaps_and_nobody_else(
    db: psycopg.Connection, connect: Connect, server: PostgresServer
) -> None:
    fill_gaps(db)
    low, high = SPANS[0]
    roles = {name: f"bbox_{name}_{secrets.token_hex(4)}" for name in ("reader", "nobody")}
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as postgres:
        for role in roles.values():
            postgres.execute(f"CREATE ROLE {role} LOGIN".encode())
        try:
            postgres.execute(f"GRANT tsrollup_reader TO {roles['reader']}".encode())
            reader, nobody = (connect(user=role) for role in roles.values())
            assert len(gapfill(reader, "gaps_1h", low, high)) > 100
            with pytest.raises(psycopg.Error):
                gapfill(nobody, "gaps_1h", low, high)
            reader.close()
            nobody.close()
        finally:
            for role in roles.values():
                postgres.execute(f"DROP ROLE {role}".encode())


QUESTIONS: list[tuple[dict[str, Any], str | None]] = [
    ({"width": "1 hour", "dimensions": ["device"], "metrics": {"temp": ["avg"]}}, "by_device_1h"),
    ({"width": "1 hour", "dimensions": ["site"], "metrics": {"temp": ["avg"]}}, "all_1h"),
    ({"width": "5 minutes", "dimensions": ["device"], "metrics": {"temp": ["max"]}}, "all_1m"),
    ({"width": "1 day", "timezone": "Europe/Berlin", "dimensions": ["device"]}, "berlin_1d"),
    ({"width": "1 week", "timezone": "Europe/Berlin", "dimensions": ["device"]}, "berlin_1d"),
    ({"width": "1 day", "dimensions": ["device"]}, "by_device_1h"),
    ({"width": "1 day", "timezone": "Asia/Kathmandu", "dimensions": ["device"]}, "all_1m"),
    ({"width": "30 seconds", "dimensions": ["device"]}, None),
    ({"width": "1 hour", "dimensions": ["note"]}, None),
    ({"width": "1 hour", "dimensions": ["device"], "metrics": {"temp": ["stddev"]}}, None),
]  # fmt: skip


def test_which_live_view_answers(db: psycopg.Connection) -> None:
    """The coarsest that is exact, and a reason in words."""
    db.execute(GAPS)
    db.execute(
        "INSERT INTO raw.gaps SELECT timestamptz '2026-03-28' + make_interval(mins => i),"
        " 'd' || i % 4, i % 3, i, 'x', i FROM generate_series(0, 4000) AS i"
    )
    create(
        db, "raw.gaps", "all_1m", "1 minute", dimensions=["device", "site"],
        metrics={"temp": ["avg", "max"], "v": ["sum"]},
    )  # fmt: skip
    create(db, "all_1m", "all_1h", "1 hour")
    create(db, "all_1h", "by_device_1h", "1 hour", dimensions=["device"])
    create(db, "by_device_1h", "berlin_1d", "1 day", **BERLIN)
    # What leaves rows out, or begins its days at six, answers none of these.
    some: dict[str, Any] = {"dimensions": ["device"], "metrics": {"temp": ["avg", "max"]}}
    create(db, "raw.gaps", "some_1h", "1 hour", filter="v > 5", **some)
    create(db, "some_1h", "some_1d", "1 day", **BERLIN)
    create(db, "raw.gaps", "shifted_1d", "1 day", origin="2026-01-01 06:00+00", **some)
    for is_stored in (False, True):
        for question, view in QUESTIONS:
            row = rollup_for(db, **question)
            exact = {x["live_view"] for x in answers(db, **question) if x["exact"]}
            assert not exact & {"gold.some_1h", "gold.some_1d", "gold.shifted_1d"}, question
            if view is None:
                assert row is None or not row["exact"], (question, row)
                continue
            assert row, question
            assert row["exact"], (question, row)
            assert row["reason"], question
            if is_stored:
                assert row["live_view"] == f"gold.{view}", (question, row)
        assert_live_and_stored(db, "raw.gaps")
    nonsense: list[dict[str, Any]] = [
        {"width": "0 days"}, {"width": "-1 hour"}, {"width": "1 day", "timezone": "X"},
        {"width": "1 day", "dimensions": ["missing"]},
        {"width": "1 day", "metrics": {"missing": ["avg"]}},
    ]  # fmt: skip
    for question in nonsense:
        with pytest.raises(psycopg.Error):
            rollup_for(db, **question)


def test_series_of_several_groups_make_no_answer(db: psycopg.Connection) -> None:
    """Counters go by one series: who leaves out a dimension asks for what no rollup holds."""
    db.execute(GAPS)
    create(
        db, "raw.gaps", "counters_1h", "1 hour", dimensions=["device", "site"],
        metrics={"v": ["increase", "rate", "sum"], "temp": ["time_weighted_avg"]},
    )  # fmt: skip
    both = ["device", "site"]
    for metrics in ({"v": ["increase"]}, {"v": ["rate"]}, {"temp": ["time_weighted_avg"]}):
        row = rollup_for(db, width="1 day", dimensions=both, metrics=metrics)
        assert row, metrics
        assert row["exact"], metrics
        row = rollup_for(db, width="1 day", dimensions=["device"], metrics=metrics)
        assert row is None or not row["exact"], metrics


def rollup_for(connection: psycopg.Connection[Any], **question: Any) -> dict[str, Any] | None:
    """The first answer."""
    return next(iter(answers(connection, **question)), None)


def answers(connection: psycopg.Connection[Any], **question: Any) -> list[dict[str, Any]]:
    arguments = "".join(f", {name} => %({name})s" for name in question)
    given = {k: Jsonb(v) if isinstance(v, dict) else v for k, v in question.items()}
    return (
        connection.cursor(row_factory=dict_row)
        .execute(
            "SELECT live_view::text, bucket_width, exact, reason"
            f" FROM silver.rollup_for('raw.gaps'{arguments})".encode(),
            given,
        )
        .fetchall()
    )


def test_hours_regrouped_by_local_day(db: psycopg.Connection) -> None:
    """What a view of hours holds adds up to days of Berlin, 23 and 25 hours long."""
    fill_gaps(db)
    create(db, "gaps_1h", "berlin", "1 day", dimensions=[], **BERLIN)
    rows = db.execute(
        "SELECT silver.time_bucket('1 day', bucket, 'Europe/Berlin'), sum(row_count), sum(v_sum)"
        " FROM gold.gaps_1h GROUP BY 1 ORDER BY 1"
    ).fetchall()
    days = db.execute("SELECT bucket, row_count, v_sum FROM gold.berlin ORDER BY 1").fetchall()
    assert rows == days
    assert {row[0].astimezone(UTC) for row in rows} <= {
        day for span in SPANS for day in DAY.between(*span)
    }
