"""tsrollup worker: keep rollups fresh where pg_cron is missing."""

import logging
import signal
import threading
from types import FrameType
from typing import Annotated

import typer

from tsrollup.commands.invocation import invocation
from tsrollup.worker import Schedule, work


def register(app: typer.Typer) -> None:
    app.command()(worker)


def worker(
    context: typer.Context,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between runs.")] = 2.0,
    retry_every: Annotated[float, typer.Option(min=1, help="Seconds between retries.")] = 30.0,
    maintain_every: Annotated[
        float, typer.Option(min=1, help="Seconds between maintenances.")
    ] = 3600.0,
    budget: Annotated[float, typer.Option(min=0.1, help="Most seconds a run takes.")] = 10.0,
) -> None:
    """Refresh, retry and maintain on a schedule until SIGTERM or Ctrl-C.

    Several workers, and pg_cron beside them, may run at once.

    Example: tsrollup worker
    """
    call = invocation(context)
    with call.installed() as connection:
        database = connection.info.dbname
    stop = threading.Event()

    def finish(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, finish)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    log = logging.getLogger("tsrollup.worker")
    log.info("working on database %s", database)
    work(call.url, Schedule(every, retry_every, maintain_every, budget), stop)
    log.info("stopped")
