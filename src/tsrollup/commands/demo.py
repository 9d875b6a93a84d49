"""tsrollup demo: a year of real flights, from nothing to exact rollups."""

import typer

from tsrollup.commands.invocation import invocation
from tsrollup.demo import story


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(context: typer.Context) -> None:
    """Load a year of flights and weather, roll them up, change them, and compare.

    It works on the tables raw.flights and raw.weather and makes them anew each time.
    """
    call = invocation(context)
    story.tell(call.url, call.console)
