"""tsrollup demo: a year of real flights, from nothing to exact rollups."""

from dataclasses import replace

import typer

from tsrollup import rollups
from tsrollup.commands.invocation import invocation
from tsrollup.demo import story


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(context: typer.Context) -> None:
    """Load a year of flights and weather, roll them up, change them, and compare.

    It works on the tables raw.flights and raw.weather and makes them anew each time.

    Example: tsrollup demo
    """
    call = invocation(context)
    console = call.console
    if not console.as_json:
        story.tell(call.url, console)
        return
    story.tell(call.url, replace(console, out=console.talk))
    with call.installed() as connection:
        console.print_json(rollups.monitor(connection))
