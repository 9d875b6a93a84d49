"""What commands print: results on stdout, talk and progress on stderr, for people or as JSON."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from psycopg.errors import Diagnostic
from rich.box import SIMPLE_HEAD
from rich.console import Console as Stream
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

WIDTH_WITHOUT_TERMINAL = 160
MIDNIGHT = r"(?<=^\d{4}-\d\d-\d\d) 00:00:00\+00$"
SECOND_FRACTION = r"^(\d+-\d\d-\d\d \d\d:\d\d:\d\d)\.\d+"

Rows = Sequence[Mapping[str, Any]]


def _stream(stderr: bool = False) -> Stream:
    stream = sys.stderr if stderr else sys.stdout
    return Stream(
        stderr=stderr,
        highlight=False,
        width=None if stream and stream.isatty() else WIDTH_WITHOUT_TERMINAL,
    )


@dataclass
class Console:
    """Where a command prints: results on `out`, talk and progress on `talk`."""

    as_json: bool = False
    out: Stream = field(default_factory=_stream)
    talk: Stream = field(default_factory=lambda: _stream(stderr=True))

    def say(self, text: str) -> None:
        """A line for people; nothing with --json."""
        if not self.as_json:
            self.out.print(text, soft_wrap=True, markup=False)

    def pass_on(self, notice: Diagnostic) -> None:
        """What the server remarks beside an answer: a line, and one for its hint."""
        kind = (notice.severity or "NOTICE").lower()
        self.talk.print(f"{kind}: {notice.message_primary}", soft_wrap=True, markup=False)
        if notice.message_hint:
            self.talk.print(f"hint: {notice.message_hint}", soft_wrap=True, markup=False)

    def print_json(self, value: object) -> None:
        self.out.print(json.dumps(value, default=_plain, indent=2), soft_wrap=True, markup=False)

    def print_rows(
        self,
        rows: Rows,
        for_people: Mapping[str, str] | None = None,
        empty: str = "nothing to show",
    ) -> None:
        """A table for people, or a JSON array with --json.

        `for_people` says which fields people see, and under what heading.
        """
        if self.as_json:
            self.print_json(list(rows))
        elif not rows:
            self.say(empty)
        else:
            chosen = for_people or {name: name for name in rows[0]}
            self.print_table([{head: row[name] for head, name in chosen.items()} for row in rows])

    def print_table(self, rows: Rows, title: str = "") -> None:
        """A column for each key that some row has a value for; numbers on the right."""
        names = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
        table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
        for name in names:
            numbers = any(isinstance(row[name], int | float | Decimal) for row in rows)
            table.add_column(name, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_text(row[name]) for name in names))
        self.out.print(table)


def progress(stream: Stream, unit: str, **options: Any) -> Progress:
    """A bar for each task: what it is, how many of its `unit` are done, for how long, and how
    long it will go on."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
        console=stream,
        **options,
    )


def _plain(value: object) -> object:
    """What JSON has no type for: numbers stay numbers, the rest is text."""
    return float(value) if isinstance(value, Decimal) else str(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return re.sub(MIDNIGHT, "", re.sub(SECOND_FRACTION, r"\1", value))
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
