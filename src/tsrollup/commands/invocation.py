"""What one call of `tsrollup` was told for every command, and how commands print."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any

import psycopg
import typer
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tsrollup import embedded
from tsrollup.connection import connect, read_url
from tsrollup.settings import Settings

WIDTH_WITHOUT_TERMINAL = 160
MIDNIGHT = r"(?<=^\d{4}-\d\d-\d\d) 00:00:00\+00$"
SECOND_FRACTION = r"^(\d+-\d\d-\d\d \d\d:\d\d:\d\d)\.\d+"

Rows = Sequence[Mapping[str, Any]]

CronDatabase = Annotated[
    str | None,
    typer.Option(
        help="The database that pg_cron lives in (a name on the same server, or a URL); "
        "what concerns it is skipped where the server has no pg_cron.",
        envvar="TSROLLUP_CRON_DATABASE",
    ),
]


def _console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        highlight=False,
        width=None if stream and stream.isatty() else WIDTH_WITHOUT_TERMINAL,
    )


@dataclass
class Invocation:
    """The global options, and the consoles: results on `out`, talk and progress on `talk`."""

    given_url: str | None = None
    json: bool = False
    debug: bool = False
    out: Console = field(default_factory=_console)
    talk: Console = field(default_factory=lambda: _console(stderr=True))

    def url(self) -> str:
        """--url, else TSROLLUP_URL, else the embedded server's, which is started for it."""
        return self.given_url or Settings().url or embedded.start().url

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """An autocommit connection whose rows are dictionaries, with times as text.

        Python has no times before year 1, where the bucket across its start begins.
        """
        with connect(self.url(), row_factory=dict_row) as connection:
            connection.adapters.register_loader("timestamptz", TextLoader)
            yield connection

    def say(self, text: str) -> None:
        """A line for people; nothing with --json."""
        if not self.json:
            self.out.print(text, soft_wrap=True, markup=False)

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
        if self.json:
            self.print_json(list(rows))
        elif not rows:
            self.say(empty)
        else:
            chosen = for_people or {name: name for name in rows[0]}
            shown = [{head: row[name] for head, name in chosen.items()} for row in rows]
            self.out.print(table_of(shown))


def on_the_same_server(url: str, database: str) -> str:
    """The URL of another database, given by name or by a URL of its own."""
    if "://" in database or "=" in database:
        return database
    return make_conninfo("", **{**read_url(url), "dbname": database})


def table_of(rows: Rows, title: str = "") -> Table:
    """A table with a column for each key that some row has a value for; numbers on the right."""
    names = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for name in names:
        numbers = any(isinstance(row[name], int | float | Decimal) for row in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(row[name]) for name in names))
    return table


def invocation(context: typer.Context) -> Invocation:
    """The invocation that a command belongs to."""
    found = context.find_object(Invocation)
    return found if found is not None else context.ensure_object(Invocation)


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
