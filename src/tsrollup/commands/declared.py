"""tsrollup plan, apply, export: rollups as a file declares them."""

from pathlib import Path
from typing import Annotated

import typer

from tsrollup import declarations, declared
from tsrollup.commands.invocation import invocation

File = Annotated[Path, typer.Argument(help="The declarations.")]
Prune = Annotated[bool, typer.Option("--prune", help="Drop rollups that are not declared.")]
FILE = Path("rollups.toml")


def register(app: typer.Typer) -> None:
    for command in (plan, apply, export):
        app.command()(command)


def plan(context: typer.Context, file: File = FILE, prune: Prune = False) -> None:
    """Say what has to change for the rollups to be as a file declares them; exit code 2 if so.

    Example: tsrollup plan rollups.toml
    """
    call = invocation(context)
    with call.installed() as connection:
        wanted = declared.plan(connection, declarations.read(file), prune)
    call.console.done(str(wanted), _facts(wanted))
    if wanted:
        raise typer.Exit(2)


def apply(
    context: typer.Context,
    file: File = FILE,
    prune: Prune = False,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Also what drops stored rows.")
    ] = False,
) -> None:
    """Make the rollups as a file declares them, in one transaction.

    Example: tsrollup apply rollups.toml
    """
    call = invocation(context)
    with call.installed() as connection:
        wanted = declared.apply(connection, declarations.read(file), prune, allow_loss)
    call.console.done(str(wanted), _facts(wanted))


def export(context: typer.Context) -> None:
    """Print all rollups as a file declares them.

    Example: tsrollup export
    """
    call = invocation(context)
    with call.installed() as connection:
        text = declarations.export(connection)
    if call.console.as_json:
        call.console.print_json({"toml": text})
    else:
        typer.echo(text.rstrip())


def _facts(wanted: declared.Plan) -> dict[str, object]:
    changes = [
        {"target": change.target, "change": change.text, "loses": change.sign == "-"}
        for change in wanted.changes
    ]
    return {"changes": changes}
