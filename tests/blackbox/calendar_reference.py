"""Where buckets begin, by Python's own calendar and time zones."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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


@cache
def first_at(local: datetime, zone: str) -> datetime:
    """The first instant at which the clocks of the zone show that time, or, where they skip it,
    a later one."""
    time = local.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    low, high = time - timedelta(days=2), time
    if wall(high, zone) == local:
        return high
    while high - low > MICROSECOND:
        middle = low + (high - low) // 2
        low, high = (low, middle) if wall(middle, zone) >= local else (middle, high)
    return high
