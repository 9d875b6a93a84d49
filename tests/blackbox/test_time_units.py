"""Numbers that are times: seconds to nanoseconds since 1970, in bigint, integer and numeric."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from blackbox.calendar_reference import Buckets
from blackbox.numbers_reference import EPOCH, PER_SECOND, time_of
from blackbox.rollup_reference import (
    Row,
    Wanted,
    assert_live,
    assert_live_and_stored,
    column,
    create,
    rows_of,
)

# The type of the time column and its unit.
KINDS = [
    ("integer", "s"), ("bigint", "s"), ("bigint", "ms"), ("bigint", "us"), ("bigint", "ns"),
    ("numeric", "s"), ("numeric", "ms"), ("numeric", "us"), ("numeric", "ns"),
]  # fmt: skip
FIRST = datetime(2026, 3, 28, 20, tzinfo=UTC)
METRICS = {"v": ["count", "sum", "avg", "min", "max", "first", "last"], "x": ["sum"]}


@pytest.mark.parametrize("part", [0, 1, 2])
def test_numbers_as_times(db: psycopg.Connection, part: int) -> None:
    """Three levels, before and after late rows; fractions and times before 1970 too."""
    for kind, unit in KINDS[part::3]:
        table = f"t_{kind}_{unit}"
        db.execute(
            f"CREATE TABLE raw.{table} (t {kind}, device text, v integer, x float8)".encode()
        )
        db.execute(f"CREATE INDEX ON raw.{table} (t)".encode())
        names = [f"{table}_{level}" for level in ("1m", "1h", "1d")]
        create(
            db, f"raw.{table}", names[0], "1 minute",
            time_column="t", time_unit=unit, dimensions=["device"], metrics=METRICS,
        )  # fmt: skip
        create(db, names[0], names[1], "1 hour")
        create(db, names[1], names[2], "1 day", timezone="Europe/Berlin", dimensions=[])
        buckets = [Buckets("1 minute"), Buckets("1 hour"), Buckets("1 day", "Europe/Berlin")]
        wanted = [
            Wanted(
                name, bucket, {} if name.endswith("1d") else {"device": column("device")},
                METRICS, time=time_of(unit), order=column("t"),
            )
            for name, bucket in zip(names, buckets, strict=True)
        ]  # fmt: skip
        write(db, table, kind, unit, FIRST, 80)
        write(db, table, kind, unit, datetime(1969, 12, 31, 23, 50, tzinfo=UTC), 30)
        assert_live_and_stored(db, f"raw.{table}", *wanted)
        per = PER_SECOND[unit]
        low = int((FIRST - EPOCH).total_seconds()) * per
        db.execute(f"DELETE FROM raw.{table} WHERE v % 9 = 4".encode())
        db.execute(f"UPDATE raw.{table} SET v = -v WHERE t > {low + 3000 * per}".encode())
        db.execute(f"UPDATE raw.{table} SET t = t + {3600 * per} WHERE v % 10 = 0".encode())
        write(db, table, kind, unit, FIRST - timedelta(days=40), 20)
        assert_live_and_stored(db, f"raw.{table}", *wanted)


def test_numbers_that_are_no_times(db: psycopg.Connection) -> None:
    """NULL, NaN, infinite and beyond all years: in no bucket, and no write fails."""
    for kind, unit, values in (
        ("bigint", "s", ["NULL", "9223372036854775807", "-9223372036854775808", "253402300800"]),
        ("bigint", "ns", ["NULL", "9223372036854775806", "-9223372036854775808", "0", "-1"]),
        ("bigint", "us", ["9223372036854775807", "-9223372036854775808", "253402300800000000"]),
        ("integer", "s", ["NULL", "2147483647", "-2147483648", "-1"]),
        ("numeric", "ms", ["NULL", "'NaN'", "1e300", "-1e300", "'Infinity'", "'-Infinity'",
                           "253402300800000", "-0.0001"]),
    ):  # fmt: skip
        table = f"odd_{kind}_{unit}"
        db.execute(f"CREATE TABLE raw.{table} (t {kind}, v integer)".encode())
        create(
            db, f"raw.{table}", f"{table}_1d", "1 day",
            time_column="t", time_unit=unit, metrics={"v": ["sum"]},
        )  # fmt: skip
        for number, value in enumerate(values):
            db.execute(f"INSERT INTO raw.{table} VALUES ({value}, {number})".encode())
        wanted = Wanted(
            f"{table}_1d",
            Buckets("1 day"),
            metrics={"v": ["sum"]},
            time=finite(unit),
            order=column("t"),
        )
        assert_live_and_stored(db, f"raw.{table}", wanted)
        db.execute(f"UPDATE raw.{table} SET v = v + 1".encode())
        db.execute(f"DELETE FROM raw.{table} WHERE v = 1".encode())
        assert_live_and_stored(db, f"raw.{table}", wanted)


def test_units_that_do_not_fit_are_refused(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.kinds (ts timestamptz, b bigint, f float8, s text, v integer)")
    for options in (
        {"time_column": "b"}, {"time_column": "b", "time_unit": "sec"},
        {"time_column": "b", "time_unit": ""}, {"time_column": "b", "time_unit": "MS"},
        {"time_column": "ts", "time_unit": "s"}, {"time_column": "s", "time_unit": "s"},
        {"time_column": "b", "time_unit": "s'; SELECT 1 --"},
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as caught:
            create(db, "raw.kinds", "kinds_1h", "1 hour", **options)
        assert str(caught.value.sqlstate)[:2] in ("TR", "22"), (options, caught.value)
        assert len(str(caught.value.diag.message_primary).splitlines()) == 1


def test_partitions_of_numbers(db: psycopg.Connection) -> None:
    """Their bounds are in the unit: they come, go, and are dropped when they are old."""
    low = int((FIRST - EPOCH).total_seconds()) * 1000
    day = 86_400_000
    db.execute(
        "CREATE TABLE raw.parts (t bigint NOT NULL, v integer, x float8) PARTITION BY RANGE (t)"
    )
    for number in range(4):
        db.execute(
            f"CREATE TABLE raw.parts_{number} PARTITION OF raw.parts"
            f" FOR VALUES FROM ({low + number * day}) TO ({low + (number + 1) * day})".encode()
        )
    db.execute("CREATE INDEX ON raw.parts (t)")
    create(
        db,
        "raw.parts",
        "parts_1h",
        "1 hour",
        time_column="t",
        time_unit="ms",
        metrics={"v": ["sum"]},
    )
    wanted = Wanted(
        "parts_1h", Buckets("1 hour"), metrics={"v": ["sum"]}, time=time_of("ms"), order=column("t")
    )
    db.execute(
        f"INSERT INTO raw.parts SELECT {low} + i * 60000, i"
        " FROM generate_series(0, 4 * 1440 - 1) AS i".encode()
    )
    assert_live_and_stored(db, "raw.parts", wanted)
    db.execute("ALTER TABLE raw.parts DETACH PARTITION raw.parts_1")
    db.execute("DROP TABLE raw.parts_1")
    db.execute("TRUNCATE raw.parts_2")
    assert_right_after_a_run(db, wanted)
    before = sorted(rows_of(db, "gold.parts_1h"), key=str)
    db.execute("SELECT silver.set_retention('raw.parts', '10 days')")
    for _ in range(3):
        db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
        db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    assert not rows_of(db, "raw.parts"), "nothing was dropped"
    assert sorted(rows_of(db, "gold.parts_1h"), key=str) == before


def assert_right_after_a_run(connection: psycopg.Connection[Any], wanted: Wanted) -> None:
    connection.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert_live(connection, "raw.parts", wanted)


def finite(unit: str) -> Callable[[Row], datetime | None]:
    inner = time_of(unit)

    def read(row: Row) -> datetime | None:
        number = row["t"]
        return None if number is None or not Decimal(number).is_finite() else inner(row)

    return read


def write(
    connection: psycopg.Connection[Any],
    table: str,
    kind: str,
    unit: str,
    first: datetime,
    count: int,
) -> None:
    """A row each 97 seconds and a bit, the times of which differ in their last digit."""
    per = PER_SECOND[unit]
    low = int((first - EPOCH).total_seconds()) * per
    rows: list[tuple[Any, ...]] = []
    for i in range(count):
        number: Any = low + 97 * i * per + (i % per)
        if kind == "numeric":
            number = Decimal(number) + Decimal(i % 8) / 16
        rows.append((number, [None, "a", "b"][i % 3], i % 23 - 5, i / 4))
        if unit == "ns" and i % 10 == 0:
            rows.append((number + 1, rows[-1][1], 1000 + i, 0.25))
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO raw.{table} VALUES (%s, %s, %s, %s)", rows)
