"""What a command line said for every command, and the database that it means."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import psycopg
import typer
from psycopg.rows import dict_row

from tsrollup import embedded
from tsrollup.connection import IsoTimeLoader, connect, take_every_time
from tsrollup.console import Console
from tsrollup.installation import require_installed

CronDatabase = Annotated[
    str | None,
    typer.Option(
        help="The database that pg_cron lives in (a name on the same server, or a URL); "
        "what concerns it is skipped where the server has no pg_cron.",
        envvar="TSROLLUP_CRON_DATABASE",
    ),
]


@dataclass
class Invocation:
    """The options of every command."""

    given_url: str | None = None
    debug: bool = False
    console: Console = field(default_factory=Console)

    @cached_property
    def url(self) -> str:
        """The given one, else that of the embedded server, which is started for it."""
        return self.given_url or embedded.start().url

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """An autocommit connection whose rows are dictionaries, with times as ISO 8601."""
        with connect(self.url, row_factory=dict_row) as connection:
            take_every_time(connection)
            connection.adapters.register_loader("timestamptz", IsoTimeLoader)
            yield connection

    @contextmanager
    def installed(self) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """A connection to a database that was migrated by this program."""
        with self.connection() as connection:
            require_installed(connection)
            connection.add_notice_handler(self.console.pass_on)
            yield connection


def invocation(context: typer.Context) -> Invocation:
    """The invocation that a command belongs to."""
    return context.ensure_object(Invocation)


def parse_object(text: str, parameter: str) -> dict[str, Any]:
    """A JSON object that was given for a parameter."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=parameter) from error
    if not isinstance(value, dict):
        raise typer.BadParameter("not a JSON object", param_hint=parameter)
    return value
