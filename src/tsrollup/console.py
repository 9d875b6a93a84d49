"""What commands print: results on stdout, talk and progress on stderr, for people or as JSON."""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from typing import IO, Any

from psycopg.errors import Diagnostic
from rich.box import SIMPLE_HEAD
from rich.console import Console as Stream
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 160
WIDER_THAN_ANY_TERMINAL = 100_000
ISO_TIME = re.compile(r"(\d{4,}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?([+-]\d\d)(?::00)?(:\d\d)?")

# What a terminal obeys rather than shows; not tabs and ends of lines.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

LARGEST_EXACT = 2**53

Rows = Sequence[Mapping[str, Any]]


def visible(text: str) -> str:
    """With control characters as psql shows them."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02X}", text)


def _stream(stderr: bool = False) -> Stream:
    stream = sys.stderr if stderr else sys.stdout
    return Stream(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
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
            self.out.print(visible(text), soft_wrap=True)

    def draw(self, picture: str) -> None:
        """Characters that may have colours."""
        self.out.print(picture, soft_wrap=True)

    def done(self, text: str, facts: Mapping[str, Any]) -> None:
        """What was done: a line for people, the facts with --json."""
        if self.as_json:
            self.print_json(facts)
        else:
            self.say(text)

    def pass_on(self, notice: Diagnostic) -> None:
        """What the server remarks beside an answer: a line, and one for its hint."""
        kind = (notice.severity or "NOTICE").lower()
        self.talk.print(visible(f"{kind}: {notice.message_primary}"), soft_wrap=True)
        if notice.message_hint:
            self.talk.print(visible(f"hint: {notice.message_hint}"), soft_wrap=True)

    def print_json(self, value: object, file: IO[bytes] | None = None) -> None:
        try:
            text = json.dumps(value, default=_plain, indent=2, allow_nan=False)
        except ValueError:
            text = json.dumps(_finite(value), default=_plain, indent=2, allow_nan=False)
        if file:
            file.write(f"{text}\n".encode())
        else:
            self.out.print(text, soft_wrap=True)

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
            self.print_table(
                [{head: row.get(name) for head, name in chosen.items()} for row in rows]
            )

    def print_table(self, rows: Rows, title: str = "") -> None:
        """A column for each key that some row has a value for; numbers on the right. Nothing with
        --json."""
        if self.as_json:
            return
        names = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
        table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
        for name in names:
            numbers = any(isinstance(row[name], int | float | Decimal) for row in rows)
            table.add_column(visible(name), justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_text(row[name]) for name in names))
        unbounded = self.out.options.update(max_width=WIDER_THAN_ANY_TERMINAL)
        if self.out.measure(table, options=unbounded).maximum <= self.out.width:
            self.out.print(table)
        else:
            self._print_records(rows, names, title)

    def print_record(self, record: Mapping[str, Any]) -> None:
        """One record, a line a value; a JSON object with --json."""
        if self.as_json:
            self.print_json(record)
        else:
            self._print_records([record], list(record))

    def _print_records(self, rows: Rows, names: Sequence[str], title: str = "") -> None:
        """What is wider than the terminal: a line a value, an empty line between records."""
        records = Table(title=title or None, title_justify="left", box=None, show_header=False)
        records.add_column(no_wrap=True)
        records.add_column(overflow="fold")
        for position, row in enumerate(rows):
            if position:
                records.add_row()
            for name in names:
                if row[name] not in (None, ""):
                    records.add_row(visible(name), _text(row[name]))
        self.out.print(records)


class _Rate(ProgressColumn):
    """How many are done in a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


def progress(stream: Stream, unit: str, with_rate: bool = False, **options: Any) -> Progress:
    """A bar for each task: what it is, how many of its `unit` are done, at what rate where that is
    asked for, for how long, and how long it will go on."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        *([_Rate()] if with_rate else []),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
        console=stream,
        **options,
    )


def _plain(value: object) -> object:
    """What JSON has no type for: numbers stay numbers, times are ISO 8601, spans seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, date | time):
        return value.isoformat()
    if not isinstance(value, Decimal) or _is_lost(value):
        return str(value)
    # A sum of bigint may be beyond the integers that a double holds.
    is_large = value.is_finite() and abs(value) > LARGEST_EXACT and value == int(value)
    return int(value) if is_large else float(value)


def _is_lost(value: Decimal) -> bool:
    """Whether it is finite, and a float of it would be infinite, or 0 where it is not."""
    return value.is_finite() and (math.isinf(float(value)) or bool(float(value)) != bool(value))


def _finite(value: object) -> object:
    """With the numbers that JSON has none for as text, as PostgreSQL's own JSON has them."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float | Decimal) and not math.isfinite(float(value)):
        text = str(value)
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
    return value


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and (found := ISO_TIME.fullmatch(value)):
        text = f"{found[1]} {found[2]}{found[3]}{found[4] or ''}"
        return text.removesuffix(" 00:00:00+00")
    if isinstance(value, timedelta):
        return str(timedelta(days=value.days, seconds=value.seconds))
    if isinstance(value, list | dict):
        return visible(json.dumps(value, default=_plain, ensure_ascii=False))
    if isinstance(value, Decimal) and _is_lost(value):
        return f"{value:.6g}"
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return f"{value:,.2f}" if -100 < value < 100 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return visible(str(float(value) if isinstance(value, Decimal) else value))
