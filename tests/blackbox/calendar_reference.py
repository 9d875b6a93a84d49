"""Where buckets begin, by Python's own calendar and time zones."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, cached_property
from zoneinfo import ZoneInfo

MICROSECOND = timedelta(microseconds=1)
FIXED = {
    "microsecond": MICROSECOND,
    "millisecond": timedelta(milliseconds=1),
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
}
DAYS = {"day": 1, "week": 7}
MONTHS = {"month": 1, "quarter": 3, "year": 12}
# As PostgreSQL writes widths.
POSTGRES_UNITS = {"quarter": ("month", 3)}


@dataclass(frozen=True)
class Buckets:
    """Buckets of a width like '15 minutes', of a zone, beginning at an origin."""

    width: str
    zone: str = "UTC"
    origin: datetime | None = None

    def of(self, time: datetime) -> datetime:
        """The bucket of an aware time: the first instant of it, in UTC."""
        time = time.astimezone(UTC)
        if self._fixed:
            return self._start + (time - self._start) // self._fixed * self._fixed
        number = self._guess(wall(time, self.zone))
        while self._border(number) > time:
            number -= 1
        while self._border(number + 1) <= time:
            number += 1
        return self._border(number)

    def next(self, bucket: datetime) -> datetime:
        """The bucket after it that has time in it."""
        if self._fixed:
            return bucket + self._fixed
        number = self._guess(wall(bucket, self.zone)) - 1
        while self._border(number) <= bucket:
            number += 1
        return self._border(number)

    def between(self, low: datetime, high: datetime) -> list[datetime]:
        found = []
        bucket = self.of(low)
        while bucket < high:
            found.append(bucket)
            bucket = self.next(bucket)
        return found

    @property
    def interval(self) -> str:
        """The width for PostgreSQL, which has no quarters."""
        unit, times = POSTGRES_UNITS.get(self._unit, (self._unit, 1))
        return f"{self._count * times} {unit}"

    @property
    def _count(self) -> int:
        return int(self.width.split()[0])

    @property
    def _unit(self) -> str:
        return self.width.split()[1].removesuffix("s")

    @cached_property
    def _fixed(self) -> timedelta | None:
        return self._count * FIXED[self._unit] if self._unit in FIXED else None

    @cached_property
    def _wall_start(self) -> datetime:
        if self.origin:
            return wall(self.origin, self.zone)
        return datetime(2000, 1, 1) if self._unit in MONTHS else datetime(2000, 1, 3)

    @cached_property
    def _start(self) -> datetime:
        return self.origin.astimezone(UTC) if self.origin else first_at(self._wall_start, self.zone)

    def _guess(self, local: datetime) -> int:
        start = self._wall_start
        if self._unit in DAYS:
            return (local - start) // timedelta(days=self._count * DAYS[self._unit])
        months = (local.year - start.year) * 12 + local.month - start.month
        return months // (self._count * MONTHS[self._unit])

    def _border(self, number: int) -> datetime:
        return _border(self, number)


@cache
def _border(buckets: Buckets, number: int) -> datetime:
    start, times = buckets._wall_start, buckets._count * number
    if buckets._unit in DAYS:
        return first_at(start + timedelta(days=times * DAYS[buckets._unit]), buckets.zone)
    return first_at(add_months(start, times * MONTHS[buckets._unit]), buckets.zone)


def add_months(day: datetime, months: int) -> datetime:
    """The same day of another month, or its last one."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    for last in range(day.day, 0, -1):
        try:
            return day.replace(year=year, month=month + 1, day=last)
        except ValueError:
            continue
    raise AssertionError(day)


def wall(time: datetime, zone: str) -> datetime:
    """What a clock on the wall of the zone shows."""
    return time.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def first_at(local: datetime, zone: str) -> datetime:
    """The first instant at which the clocks of the zone show that time, or, where they skip it,
    that of clocks which were not put forward."""
    return local.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


# Zones, and a year in which something happens to their clocks.
CHANGES = [
    ("UTC", 2024), ("Europe/Berlin", 2026), ("America/Havana", 2026), ("Pacific/Apia", 2011),
    ("Australia/Lord_Howe", 2026), ("Asia/Kathmandu", 1986), ("America/Sao_Paulo", 2018),
    ("Africa/Cairo", 2024), ("Asia/Beirut", 2024), ("Pacific/Chatham", 2026),
    ("Asia/Pyongyang", 2015), ("Asia/Pyongyang", 2018), ("Antarctica/Troll", 2026),
    ("America/Asuncion", 2023), ("Pacific/Kiritimati", 1995), ("Europe/Dublin", 2026),
    ("Africa/Monrovia", 1972), ("America/New_York", 2028), ("Asia/Tehran", 2022),
    ("Africa/Casablanca", 2020),
]  # fmt: skip


def changes_of(zone: str, year: int) -> Iterator[datetime]:
    """The hours in which the clocks of the zone are changed."""
    time, end = datetime(year - 1, 12, 20, tzinfo=UTC), datetime(year + 1, 1, 10, tzinfo=UTC)
    step = timedelta(minutes=30)
    while time < end:
        after = time + step
        if (
            time.astimezone(ZoneInfo(zone)).utcoffset()
            != after.astimezone(ZoneInfo(zone)).utcoffset()
        ):
            yield after
        time = after


def times_around(zone: str, year: int, some: int) -> list[datetime]:
    """Near changes of clocks, near borders of days and years, and anywhere."""
    draw = random.Random(f"{zone} {year}")
    found = [
        datetime(year, 1, 1, tzinfo=UTC)
        + timedelta(seconds=draw.randrange(31_536_000), microseconds=draw.randrange(10**6))
        for _ in range(some)
    ]
    marks = [
        *changes_of(zone, year),
        datetime(year, 2, 28, 23, tzinfo=UTC),
        datetime(year, 1, 1, tzinfo=UTC),
    ]
    for mark in marks:
        hours = (
            -48,
            -25,
            -24,
            -3,
            -2,
            -1,
            -0.5,
            -0.25,
            0,
            0.25,
            0.5,
            0.75,
            1,
            1.5,
            2,
            3,
            23,
            24,
            25,
        )
        for hour in draw.sample(hours, min(some, len(hours))):
            found += [mark + timedelta(hours=hour), mark + timedelta(hours=hour, microseconds=-1)]
    return found


def as_utc(time: datetime | date) -> datetime:
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
