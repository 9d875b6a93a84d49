"""tsrollup read: what a live view answers, as a table, a plot, CSV, JSON or Parquet."""

import errno
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from psycopg import Connection, sql

from tsrollup import plots, reading, rollups
from tsrollup.commands.invocation import invocation
from tsrollup.commands.targets import Target
from tsrollup.connection import pinned, take_every_time, take_text
from tsrollup.console import Console, visible
from tsrollup.errors import TsrollupError

MOST_ROWS_ON_SCREEN = 1000
MOST_ROWS_DRAWN = 20_000
WIDEST_PLOT, HIGHEST_PLOT, WIDEST_SPARKLINE = 120, 30, 60


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def register(app: typer.Typer) -> None:
    app.command()(read)


def read(
    context: typer.Context,
    target: Target,
    from_time: Annotated[
        str | None, typer.Argument(metavar="FROM", help="First bucket; default: the oldest.")
    ] = None,
    to_time: Annotated[str | None, typer.Argument(metavar="TO", help="End, not included.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", help="As device=d1; repeated for several values."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", "-c", help="Only these; repeatable.")
    ] = None,
    gapfill: Annotated[
        bool, typer.Option("--gapfill", help="A row for every bucket between FROM and TO.")
    ] = False,
    fill: Annotated[
        list[str] | None,
        typer.Option("--fill", help="As temp_avg=locf, or =linear; repeatable; fills gaps."),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="COLUMN", help="Draw it, a line for each group."),
    ] = None,
    spark: Annotated[
        bool, typer.Option("--spark", help="A sparkline for each group and column of numbers.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Most rows.")] = None,
    format_: Annotated[Format, typer.Option("--format", "-f", help="How.")] = Format.table,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: the terminal.")
    ] = None,
) -> None:
    """Print what the live view of a rollup answers, oldest bucket first, or draw it.

    Parquet needs --output, and the extra tsrollup[data].

    Example: tsrollup read readings_1h 2026-01-01 2026-01-02 --where device=d1
    """
    call = invocation(context)
    on_screen = format_ is Format.table and not call.console.as_json
    if format_ is Format.parquet and output is None:
        raise typer.BadParameter("Parquet goes to a file", param_hint="--output")
    if on_screen and output is not None:
        raise typer.BadParameter("a table goes to the terminal", param_hint="--output")
    is_drawn = spark or plot is not None
    if is_drawn and (not on_screen or (spark and plot is not None)):
        hint = "--spark" if spark else "--plot"
        raise typer.BadParameter("it is drawn in the terminal, alone", param_hint=hint)
    gaps = _pairs(fill, "--fill") if fill else gapfill
    most = limit or (MOST_ROWS_DRAWN if is_drawn else MOST_ROWS_ON_SCREEN if on_screen else None)
    with (
        call.installed() as connection,
        _written_whole(output) if output else nullcontext() as file,
    ):
        known = rollups.view_columns(connection, target) if is_drawn else []
        dimensions = [row["column_name"] for row in known if row["kind"] == "dimension"]
        chosen = column if plot is None else [plot]
        columns = (
            list(dict.fromkeys(["bucket", *dimensions, *chosen])) if is_drawn and chosen else column
        )
        wanted = reading.query(
            connection, target, from_time, to_time, _groups(where), columns, most, gaps
        )
        if format_ is Format.csv:
            _write_csv(connection, wanted, file or sys.stdout.buffer)
            return
        if format_ is Format.parquet and file:
            take_every_time(connection)  # rather than ISO 8601
            _write_parquet(reading.fetch(connection, wanted), file)
            return
        take_text(connection)
        rows = reading.fetch(connection, wanted).rows()
        if not on_screen:
            call.console.print_json(rows, file)
            return
    if is_drawn and rows:
        _draw(call.console, rows, dimensions, column, plot)
    else:
        call.console.print_rows(rows, empty="no rows")
    if len(rows) == most and limit is None:
        call.console.say(f"the first {most:,} rows; give FROM and TO, or --limit")


def _draw(
    console: Console,
    rows: plots.Rows,
    dimensions: list[str],
    columns: list[str] | None,
    column: str | None,
) -> None:
    size = console.out.size
    if column is None:
        width = min(size.width // 2, WIDEST_SPARKLINE)
        console.print_rows(plots.sparklines(rows, dimensions, columns, width))
    else:
        width, height = min(size.width, WIDEST_PLOT), min(size.height, HIGHEST_PLOT)
        shown = [{k: visible(x) if isinstance(x, str) else x for k, x in r.items()} for r in rows]
        has_colours = console.out.is_terminal and not console.out.no_color
        console.draw(plots.plot(shown, dimensions, column, width, height, has_colours))


def _groups(where: list[str] | None) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for item in where or []:
        for name, value in _pairs([item], "--where").items():
            groups.setdefault(name, []).append(value)
    return groups


def _pairs(items: list[str], option: str) -> dict[str, str]:
    pairs = [item.partition("=") for item in items]
    for name, equals, _ in pairs:
        if not equals:
            raise typer.BadParameter(f"{name} has no value: as name=value", param_hint=option)
    return {name: value for name, _, value in pairs}


def _write_csv(connection: Connection[Any], wanted: sql.Composed, stream: IO[bytes]) -> None:
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(wanted)
    with pinned(connection), connection.cursor().copy(statement) as copy:
        for block in copy:
            stream.write(block)
    stream.flush()


def _write_parquet(rows: reading.Rows, stream: IO[bytes]) -> None:
    table = rows.to_arrow()
    from pyarrow import parquet

    parquet.write_table(table, stream)  # given a path, it removes what is there when it fails


@contextmanager
def _written_whole(output: Path) -> Iterator[IO[bytes]]:
    """What an ordinary file holds stays there until all that it is to hold has come, and has room.
    Where it cannot be written, nothing is asked."""
    is_there = output.exists()
    if is_there and not output.is_file():
        with output.open("wb") as stream:
            yield stream
        return
    folder = Path(os.path.realpath(output)).parent
    has_room_beside = os.access(folder, os.W_OK)
    if is_there:
        output.open("ab").close()
    elif not has_room_beside:
        folder.stat()
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    with tempfile.TemporaryFile(dir=folder if has_room_beside else None) as waiting:
        yield waiting
        waiting.flush()
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as stream:
            _replace(waiting.fileno(), stream.fileno())


def _replace(source: int, target: int) -> None:
    try:
        fcntl.lockf(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TsrollupError("another command writes that file just now", "run it again") from None
    except OSError:
        pass  # a file system without locks
    size, before = os.fstat(source).st_size, os.fstat(target).st_size
    try:
        _copy(source, target, before, size)  # what needs more room comes first
    except BaseException:
        os.ftruncate(target, before)
        raise
    _copy(source, target, 0, min(before, size))
    os.ftruncate(target, size)


def _copy(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        start += os.pwrite(target, os.pread(source, min(end - start, 1 << 20), start), start)
