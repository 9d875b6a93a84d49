"""tsrollup server: the embedded PostgreSQL."""

from pathlib import Path
from typing import Annotated

import typer

from tsrollup import embedded
from tsrollup.commands.invocation import invocation

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where its data is. Default: the user's data folder."),
]

server = typer.Typer(no_args_is_help=True, help="Start, stop and find the embedded PostgreSQL.")


def register(app: typer.Typer) -> None:
    app.add_typer(server, name="server")


@server.command()
def start(
    context: typer.Context,
    data_dir: DataDir = None,
    port: Annotated[
        int | None,
        typer.Option(help="Default: a free port, then the same again.", min=1, max=65535),
    ] = None,
    print_url: Annotated[bool, typer.Option("--print-url", help="Print the URL only.")] = False,
) -> None:
    """Start the server, or find it running; recover it where it was killed.

    Example: tsrollup server start --print-url
    """
    console = invocation(context).console
    started = embedded.start(data_dir, port)
    if print_url:
        typer.echo(started.url)
    elif console.as_json:
        console.print_json(
            {"url": started.url, "port": started.port, "data_dir": str(started.data_dir)}
        )
    else:
        console.say(f"PostgreSQL runs on port {started.port}, data in {started.data_dir}")
        console.say(started.url)


@server.command()
def stop(context: typer.Context, data_dir: DataDir = None) -> None:
    """Stop the server; clients are disconnected, nothing committed is lost.

    Example: tsrollup server stop
    """
    console = invocation(context).console
    stopped = embedded.stop(data_dir)
    if console.as_json:
        console.print_json({"stopped": stopped})
    else:
        console.say("stopped" if stopped else "no server was running")


@server.command()
def status(context: typer.Context, data_dir: DataDir = None) -> None:
    """Say whether the server runs, where, and its URL.

    Example: tsrollup server status
    """
    console = invocation(context).console
    found = embedded.status(data_dir)
    if console.as_json:
        console.print_json(
            {
                "running": found.server is not None,
                "data_dir": str(found.data_dir),
                "exists": found.exists,
                "url": found.server.url if found.server else None,
                "port": found.server.port if found.server else None,
                "pid": found.pid,
                "version": found.version,
            }
        )
    elif found.server:
        console.say(
            f"PostgreSQL {found.version} runs on port {found.server.port}, process {found.pid},"
            f" data in {found.data_dir}"
        )
        console.say(found.server.url)
    elif found.exists:
        console.say(f"stopped, data in {found.data_dir}; start it with: tsrollup server start")
    else:
        console.say(f"no data in {found.data_dir} yet; make it with: tsrollup server start")


@server.command()
def bindir(context: typer.Context) -> None:
    """Print the folder of pg_dump, pg_restore, psql and the other programs.

    Example: tsrollup server bindir
    """
    folder = str(embedded.bindir())
    invocation(context).console.done(folder, {"bindir": folder})
