"""tsrollup dashboard: rollups in the browser."""

import importlib.util
import socket
from contextlib import closing
from typing import Annotated

import typer

from tsrollup.commands.invocation import invocation
from tsrollup.errors import TsrollupError

Host = Annotated[
    str, typer.Option(help="Address to listen on. Any but this machine's own asks for a token.")
]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]
Write = Annotated[
    bool,
    typer.Option("--write", help="Have buttons that act, with the rights of the connection."),
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="TSROLLUP_DASHBOARD_TOKEN",
        help="Token to ask visitors for. Default: one is made where one is needed.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(dashboard)


def dashboard(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8321,
    write: Write = False,
    token: Token = None,
) -> None:
    """Show rollups in the browser: health, charts, runs, errors, definitions.

    It only reads, and listens on this machine only, unless told otherwise.

    Example: tsrollup dashboard --write
    """
    call = invocation(context)
    require_extra()
    from tsrollup.dashboard import server

    where = server.place(host, port, token)
    with call.installed():
        pass  # what is wrong with the database is said here, rather than in a browser
    require_free(where.host, where.port)
    if call.console.as_json:
        call.console.print_json({"url": where.url, "token": where.token})
    call.console.say(f"open {where.url}")
    if not write:
        call.console.say("it only reads; --write has buttons that act")
    call.console.say("Ctrl-C ends it")
    server.serve(call.url, where, write)


def require_extra() -> None:
    if importlib.util.find_spec("nicegui") is None:
        raise TsrollupError(
            "the dashboard is not installed", "run pip install 'tsrollup[dashboard]'"
        )


def require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise TsrollupError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                "choose another with --port",
            ) from error
