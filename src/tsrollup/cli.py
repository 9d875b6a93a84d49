"""The `tsrollup` command."""

import itertools
import json
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn, cast

import psycopg
import typer

from tsrollup.commands import (
    archive,
    dashboard,
    declared,
    demo,
    doctor,
    migrations,
    read,
    rollup,
    server,
    upkeep,
    worker,
)
from tsrollup.commands.invocation import Invocation, invocation
from tsrollup.connection import describe
from tsrollup.console import Console, visible
from tsrollup.errors import TsrollupError
from tsrollup.version import __version__

# What Typer makes of wrong usage has no name of its own there.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])

EPILOG = "--url, --json and --debug may stand anywhere on the command line."

app = typer.Typer(
    name="tsrollup",
    help="Continuous aggregates for the PostgreSQL you already have.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
GROUPS = (
    demo,
    server,
    migrations,
    rollup,
    read,
    upkeep,
    declared,
    archive,
    worker,
    dashboard,
    doctor,
)
for commands in GROUPS:
    commands.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tsrollup {__version__}")
        raise typer.Exit


@app.callback()
def options_of_every_command(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="TSROLLUP_URL", help="Database to work on. Default: the embedded server."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="TSROLLUP_DEBUG", help="Show tracebacks.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    if url == "":  # an unset variable of a script, which must not end up at another database
        raise typer.BadParameter("it is empty", param_hint="--url")
    call = invocation(context)
    call.given_url, call.debug, call.console = url, debug, Console(as_json=json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line; every failure is one line on stderr, which is JSON with --json, and exit
    code 1, or 2 where the usage is wrong."""
    given = hoist(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in itertools.takewhile(lambda word: word.startswith("--"), given)
    if _is_url_without_option(given):  # a usage error would print it, password and all
        _end_with(TsrollupError("a URL stands where none goes", "give it as --url URL"), as_json, 2)
    call = Invocation()
    try:
        code = app(given, obj=call, prog_name="tsrollup", standalone_mode=not as_json)
    except KeyboardInterrupt:
        sys.exit(130)
    except (TsrollupError, psycopg.Error, OSError, UnicodeError) as error:
        if call.debug:
            raise
        _end_with(error if isinstance(error, TsrollupError) else describe(error), as_json, 1)
    except UsageError as error:
        _end_with(TsrollupError(error.format_message()), as_json, 2)
    if as_json and code:
        sys.exit(code)


def _end_with(error: TsrollupError, as_json: bool, exit_code: int) -> NoReturn:
    if as_json:
        facts = {"code": error.code, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": facts}), file=sys.stderr)
    else:
        next_step = f"; {error.hint}" if error.hint else ""
        print(visible(f"error: {error.message}{next_step}"), file=sys.stderr)
    sys.exit(exit_code)


def _is_url_without_option(words: Sequence[str]) -> bool:
    if "flyway" in words:
        return False
    before = ["", *words]
    return any(
        "://" in word and "@" in word and not word.startswith("--") and not option.startswith("--")
        for option, word in zip(before, words, strict=False)
    )


def hoist(arguments: Sequence[str]) -> list[str]:
    """Move the global options to the front, where the parser wants them.

    The words after `flyway` are Flyway's own command line and stay as they are.
    """
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--" or (word == "flyway" and not rest):
            rest += [word, *words]
        elif word in ("--json", "--debug") or word.startswith("--url="):
            front.append(word)
        elif word == "--url":
            front += [word, *[value for value in [next(words, None)] if value is not None]]
        else:
            rest.append(word)
    return front + rest
