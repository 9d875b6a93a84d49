"""tsrollup archive: cold raw data in Parquet files."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.progress import TaskID
from typer.core import TyperGroup

from tsrollup.archive import log
from tsrollup.archive.checking import BROKEN, check
from tsrollup.archive.moving import Watch
from tsrollup.archive.moving import archive as move
from tsrollup.archive.restoring import restore as bring_back
from tsrollup.commands.invocation import Invocation, invocation
from tsrollup.commands.targets import TableName, known_rollups
from tsrollup.console import Console, progress
from tsrollup.errors import TsrollupError

Place = Annotated[
    str, typer.Option("--to", envvar="TSROLLUP_ARCHIVE_TO", help="A folder, or s3://bucket/folder.")
]
Elsewhere = Annotated[
    str | None, typer.Option("--from", help="Where the files lie now. Default: as the log says.")
]
Table = Annotated[
    str | None, typer.Argument(help="One table. Default: all.", autocompletion=known_rollups)
]


class _RunsByDefault(TyperGroup):
    """`archive --to X` is `archive run --to X`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


archive = typer.Typer(
    cls=_RunsByDefault,
    no_args_is_help=True,
    help="Cold raw data in Parquet: write what retention moved aside to files, and bring it back.",
)


def register(app: typer.Typer) -> None:
    app.add_typer(archive, name="archive")


@archive.command()
def run(context: typer.Context, to: Place, table: Table = None) -> None:
    """Write partitions that retention moved aside to Parquet files, verify them, and drop them.

    Needs the extra tsrollup[archive]. `retention --archive` has partitions moved aside.

    Example: tsrollup archive run --to /srv/cold readings
    """
    call = invocation(context)
    with call.installed() as connection, _watching(call.console) as watch:
        outcomes = list(move(connection, to, table, watch))
    _tell(call, outcomes, "nothing is to be archived")


@archive.command("list")
def list_(context: typer.Context, table: Table = None) -> None:
    """What is archived and where, and what waits for it.

    Example: tsrollup archive list readings
    """
    call = invocation(context)
    with call.installed() as connection:
        rows = log.listed(connection, table)
    shown = ["partition_name", "from_time", "to_time", "row_count", "table_bytes", "file_bytes"]
    shown += ["archived_at", "state", "obstacle"]
    call.console.print_rows(rows, {name: name for name in shown}, empty="nothing is archived")


@archive.command()
def verify(context: typer.Context, table: Table = None, from_: Elsewhere = None) -> None:
    """Compare all files with what is recorded of them; exit code 1 where one is missing or changed.

    Example: tsrollup archive verify
    """
    call = invocation(context)
    with call.installed() as connection, _watching(call.console) as watch:
        found = list(check(connection, table, from_, watch))
    call.console.print_rows([asdict(one) for one in found], empty="nothing is archived")
    broken = [one for one in found if one.status in BROKEN]
    if broken:
        raise TsrollupError(
            f"{len(broken)} of {sum(one.partition_name is not None for one in found)} files are not"
            f" what was archived, {broken[0].file} for one",
            broken[0].reason,
        )


@archive.command(context_settings={"ignore_unknown_options": True})
def restore(
    context: typer.Context,
    table: TableName,
    from_time: Annotated[str, typer.Argument(metavar="FROM", help="As 2026-01-31 or with time.")],
    to_time: Annotated[str, typer.Argument(metavar="TO", help="End, not included.")],
    from_: Elsewhere = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="With the file's types; what else there was is text.")
    ] = False,
) -> None:
    """Bring a range back as tables of the archive schema, beside the source.

    Partitions come back whole, each under its own name; the files stay.

    Example: tsrollup archive restore readings 2026-01-01 2026-02-01
    """
    call = invocation(context)
    with call.installed() as connection, _watching(call.console) as watch:
        found = bring_back(connection, table, from_time, to_time, from_, watch, plain=plain)
        outcomes = list(found)
    _tell(call, outcomes, "nothing was restored")


def _tell(call: Invocation, outcomes: Sequence[Any], empty: str) -> None:
    shown = ["partition_name", "status", "row_count", "table_bytes", "file_bytes", "seconds"]
    shown += ["rows_per_second", "reason"]
    call.console.print_rows(
        [asdict(one) for one in outcomes], {name: name for name in shown}, empty=empty
    )
    failed = [one for one in outcomes if one.status == "failed"]
    if failed:
        raise TsrollupError(f"{failed[0].partition_name}: {failed[0].reason}")


@contextmanager
def _watching(console: Console) -> Iterator["_Bars"]:
    hidden = console.as_json or not sys.stderr.isatty()
    with progress(console.talk, "rows", with_rate=True, transient=True, disable=hidden) as bars:
        yield _Bars(bars)


class _Bars(Watch):
    """A bar for the table that is moved now, from its first row to its last, twice: it is read
    back."""

    def __init__(self, bars: Any) -> None:
        self.bars = bars
        self.task: TaskID | None = None

    def step(self, step: str, relation: str, rows: int = 0) -> None:
        doing = {"measured": "writing", "named": "reading back", "created": "loading"}.get(step)
        if self.task is not None and (doing or step in ("verified", "loaded")):
            self.bars.remove_task(self.task)
            self.task = None
        if doing:
            self.task = self.bars.add_task(f"{doing} {relation}", total=rows)

    def rows(self, count: int) -> None:
        if self.task is not None:
            self.bars.advance(self.task, count)
