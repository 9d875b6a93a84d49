"""tsrollup demo: a year of real flights, from nothing to exact rollups."""

from dataclasses import replace
from typing import Annotated

import typer

from tsrollup import embedded, rollups
from tsrollup.commands.dashboard import Port, require_extra, require_free
from tsrollup.commands.invocation import Invocation, invocation
from tsrollup.demo import live, story


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    context: typer.Context,
    show_live: Annotated[
        bool,
        typer.Option("--live", help="Stream sensors instead, and show them in the browser."),
    ] = False,
    port: Port = 8321,
) -> None:
    """Load a year of flights and weather, roll them up, change them, and compare.

    It works on the tables raw.flights and raw.weather, with --live on raw.sensors, and makes them
    anew each time.

    Example: tsrollup demo
    """
    call = invocation(context)
    console = call.console
    if show_live:
        _show_live(call, port)
        return
    if not console.as_json:
        story.tell(call.url, console)
        return
    story.tell(call.url, replace(console, out=console.talk))
    with call.installed() as connection:
        console.print_json(rollups.monitor(connection))


def _show_live(call: Invocation, port: int) -> None:
    require_extra()
    from tsrollup.dashboard import server

    require_free("127.0.0.1", port)
    where = server.place("127.0.0.1", port, None)
    live.prepare(call.url, call.console)
    page = where.page_of(live.FINEST)
    call.console.done(
        f"4. Sensors stream, a worker refreshes; open {page} and see the chart move\n"
        "   Kill the worker or the server: they come back. Ctrl-C ends it.",
        {"url": page},
    )
    with live.streaming(lambda: call.given_url or embedded.start().url):
        server.serve(call.url, where, may_write=True)
