"""Which times numbers are: seconds to nanoseconds since 1970."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from blackbox.rollup_reference import Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def time_of(unit: str, column: str = "t") -> Callable[[Row], datetime | None]:
    def read(row: Row) -> datetime | None:
        number = row[column]
        if number is None or Decimal(number).is_nan():
            return None
        # Whole microseconds, rounded down: no time moves past the end of its bucket.
        exact = Decimal(number) * 10**6 / PER_SECOND[unit]
        micros = int(exact.to_integral_value("ROUND_FLOOR"))
        if not -62_135_596_800 * 10**6 <= micros < 253_402_300_800 * 10**6:
            return None
        return EPOCH + timedelta(microseconds=micros)

    return read
