"""Names of rollups and tables on the command line, with what a shell completes them, and the
options that several commands have."""

import os
import re
import shlex
from typing import Annotated

import psycopg
import typer

from tsrollup.connection import connect, pinned
from tsrollup.errors import TsrollupError

SECONDS_TO_COMPLETE = 2
# No shell and no SQL reads anything else into these.
PLAIN_NAME = re.compile(r"[^\W\dA-Z]\w*(?:[.][^\W\dA-Z]\w*)?")
# Nothing that a shell would run where quotes were open already.
HARMLESS_NAME = re.compile(r'[\w ."-]+')


def known_rollups(incomplete: str) -> list[str]:
    """Names of rollups that begin so; none without TSROLLUP_URL, or an answer in time. bash gets
    those that SQL wants in quotes as well, quoted for itself too: it inserts what it is given,
    whatever was typed before."""
    url = os.environ.get("TSROLLUP_URL")
    if not url:
        return []
    try:
        with connect(url, connect_timeout=SECONDS_TO_COMPLETE) as connection, pinned(connection):
            names = connection.execute(
                "SELECT unnest(ARRAY[quote_ident(relname), target_table::text, target_view::text])"
                " FROM silver.rollup_config JOIN pg_class AS c ON c.oid = target_table"
            ).fetchall()
    except (psycopg.Error, TsrollupError):
        return []
    if os.environ.get("_TSROLLUP_COMPLETE") == "complete_bash":
        offered = [shlex.quote(name) for (name,) in names if HARMLESS_NAME.fullmatch(name)]
    else:
        offered = [name for (name,) in names if PLAIN_NAME.fullmatch(name)]
    return sorted(name for name in offered if name.startswith(incomplete))


Target = Annotated[
    str,
    typer.Argument(
        help="The rollup: its table, its live view or its bare name.", autocompletion=known_rollups
    ),
]
AnyTarget = Annotated[
    str | None,
    typer.Argument(help="One rollup. Default: all of them.", autocompletion=known_rollups),
]
TableName = Annotated[
    str,
    typer.Argument(
        help="A source (default schema raw), or a rollup.", autocompletion=known_rollups
    ),
]
From = Annotated[str, typer.Argument(metavar="FROM", help="As 2026-01-31 or with time.")]
To = Annotated[str, typer.Argument(metavar="TO", help="End, not included.")]

SettleDelay = Annotated[str | None, typer.Option(help="How long after its end a bucket is stored.")]
ProcessingWindow = Annotated[str | None, typer.Option(help="Most time in a batch.")]
TargetBatchDuration = Annotated[str | None, typer.Option(help="How long a batch should take.")]
LookBackWindow = Annotated[str | None, typer.Option(help="What window reads again.")]
Expressions = Annotated[str | None, typer.Option(help='SQL by name, as {"f": "temp * 1.8 + 32"}.')]
