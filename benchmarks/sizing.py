"""python -m benchmarks.sizing: what a fleet asks of a machine, reckoned from measured figures.

The figures are those of the benchmark `capacity` (--figures takes what it printed with --json); how
they are put together is told in docs/scaling.md.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

DAY = 86_400
# Of all cores, how much a server is planned for that is also to answer questions.
USABLE = 0.5
CORES = (2, 16, 64)


@dataclass(frozen=True)
class Figures:
    """Microseconds of CPU, and bytes with indexes."""

    row: float = 8.9
    run: float = 6_000.0
    wal: float = 290.0
    raw: float = 108.0
    minute: float = 125.0
    hour: float = 125.0
    day: float = 138.0


WHAT = {
    "row": "both, with all that the server does besides",
    "run": "each minute of three levels",
    "wal": "WAL of a row",
    "raw": "a row of raw",
    "minute": "a row of 1m",
    "hour": "a row of 1h",
    "day": "a row of 1d",
}


@dataclass(frozen=True)
class Fleet:
    """Devices with a row each so many seconds; days that raw rows and minutes are kept."""

    devices: int
    every: float
    keep_raw: float
    keep_minutes: float
    rollups: int = 1

    @property
    def rows(self) -> float:
        """Rows a second."""
        return self.devices / self.every


def cores(fleet: Fleet, figures: Figures) -> float:
    """Cores that writing and storing keep busy."""
    return (fleet.rows * figures.row + fleet.rollups * figures.run / 60) / 1e6


def most_rows(count: int, figures: Figures) -> float:
    """Rows a second that so many cores take, in one family of three levels."""
    return (USABLE * count * 1e6 - figures.run / 60) / figures.row


def gigabytes(fleet: Fleet, figures: Figures) -> Iterator[tuple[str, float, float]]:
    """Of each table: what it is, a day's growth, and what is kept; hours and days for ten years."""
    for name, rows, size, kept in (
        ("raw rows", DAY / fleet.every, figures.raw, fleet.keep_raw),
        ("minutes", min(1440.0, DAY / fleet.every), figures.minute, fleet.keep_minutes),
        ("hours", 24.0, figures.hour, 3_650.0),
        ("days", 1.0, figures.day, 3_650.0),
    ):
        daily = fleet.devices * rows * size / 1e9
        yield name, daily, daily * kept


def read_figures(results: Iterator[Mapping[str, object]]) -> Figures:
    known = {
        name: float(str(result["value"]))
        for result in results
        for name, what in WHAT.items()
        if result["benchmark"] == "capacity" and str(result["what"]).startswith(what)
    }
    return Figures(**known)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=10, help="seconds between a device's rows")
    parser.add_argument("--keep-raw", type=float, default=30, help="days")
    parser.add_argument("--keep-minutes", type=float, default=365, help="days")
    parser.add_argument("--rollups", type=int, default=1, help="families of minutes, hours, days")
    parser.add_argument("--figures", type=Path, help="what python -m benchmarks --json printed")
    options = vars(parser.parse_args())
    file = options.pop("figures")
    figures = read_figures(iter(json.loads(file.read_text())[0]["results"])) if file else Figures()
    fleet = Fleet(**options)
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        ", ".join(f"{field.name} {getattr(figures, field.name):,g}" for field in fields(figures))
    )
    console.print(
        f"{fleet.rows:,.0f} rows a second keep {cores(fleet, figures):.2f} cores busy, and write"
        f" {fleet.rows * figures.wal / 1e6:,.2f} MB of WAL a second"
    )
    table = Table("", "GB a day", "GB kept", box=None)
    for name, daily, kept in gigabytes(fleet, figures):
        table.add_row(name, f"{daily:,.2f}", f"{kept:,.0f}")
    console.print(table)
    for count in CORES:
        most = most_rows(count, figures)
        console.print(
            f"{count} cores, half of them for reads: {most:,.0f} rows a second,"
            f" {most * figures.wal / 1e6:,.0f} MB of WAL a second"
        )


if __name__ == "__main__":
    main()
