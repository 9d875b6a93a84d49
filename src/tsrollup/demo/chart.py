"""Horizontal bars in a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

BAR_WIDTH = 40


def print_bars(
    console: Console, title: str, unit: str, bars: Sequence[tuple[str, float | None]]
) -> None:
    """A line per label, its bar as long as its value; plain # where blocks cannot be printed."""
    block = "█" if console.encoding.lower().startswith("utf") else "#"
    largest = max((value or 0.0 for _, value in bars), default=0.0) or 1.0
    chart = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 1))
    for label, value in bars:
        known = value or 0.0
        bar = block * max(0, round(BAR_WIDTH * known / largest))
        chart.add_row(label, bar, "" if value is None else f"{known:.1f} {unit}")
    console.print(chart)
