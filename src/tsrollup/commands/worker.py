"""tsrollup worker: keep rollups fresh where pg_cron is missing."""

import json
import logging
import signal
import threading
import time
from enum import StrEnum
from types import FrameType
from typing import Annotated

import typer

from tsrollup.archive.parquet import require_pyarrow
from tsrollup.commands.invocation import invocation
from tsrollup.console import visible
from tsrollup.lifeline import Lifeline, with_signs_of_life
from tsrollup.worker import Schedule, check, wait_for_database, work

PLAIN = frozenset(vars(logging.makeLogRecord({})))


class LogFormat(StrEnum):
    text = "text"
    json = "json"


class LogLevel(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, message, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        told = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        facts = {name: value for name, value in vars(record).items() if name not in PLAIN}
        line = {
            "time": f"{told}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        return json.dumps({**line, **facts}, default=str)


class TextLines(logging.Formatter):
    """A line a message, whatever the names in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return visible(super().formatMessage(record)).replace("\n", "\\n")


def register(app: typer.Typer) -> None:
    app.command()(worker)


def worker(
    context: typer.Context,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between runs.")] = 2.0,
    retry_every: Annotated[float, typer.Option(min=1, help="Seconds between retries.")] = 30.0,
    maintain_every: Annotated[
        float, typer.Option(min=1, help="Seconds between maintenances.")
    ] = 3600.0,
    budget: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a run looks whether to stop.")
    ] = 1.0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at the same time.")] = 1,
    listen: Annotated[
        bool, typer.Option("--listen", help="Run at once after NOTIFY tsrollup.")
    ] = False,
    summary_every: Annotated[
        float, typer.Option(min=1, help="Seconds between summaries of what was refreshed.")
    ] = 60.0,
    log_level: Annotated[
        LogLevel, typer.Option(help="debug: a line for each batch; warning: failures only.")
    ] = LogLevel.info,
    log_format: Annotated[LogFormat, typer.Option(help="Of the log on stderr.")] = LogFormat.text,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve metrics for Prometheus.", min=1, max=65535)
    ] = None,
    metrics_address: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    archive_to: Annotated[
        str | None,
        typer.Option(
            help="After each maintenance, write what retention moved aside to Parquet there: "
            "a folder, or s3://bucket/folder.",
            envvar="TSROLLUP_ARCHIVE_TO",
        ),
    ] = None,
    check_only: Annotated[
        bool, typer.Option("--check", help="Only say whether a worker is at work on the database.")
    ] = False,
) -> None:
    """Refresh, retry and maintain on a schedule until SIGTERM or Ctrl-C.

    Several workers, and pg_cron beside them, may run at once.

    Example: tsrollup worker --jobs 2 --log-format json
    """
    call = invocation(context)
    if check_only:
        with call.installed() as connection:
            found = check(connection)
        call.console.done(found, {"status": found})
        return
    if archive_to:
        require_pyarrow()
    stop = threading.Event()

    def finish(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, finish)
    _log_to_stderr(LogFormat.json if call.console.as_json else log_format, log_level)
    log = logging.getLogger("tsrollup.worker")
    url = with_signs_of_life(call.url)
    database = wait_for_database(url, stop)
    if database is None:
        return
    log.info("working on database %s", database)
    schedule = Schedule(
        every, retry_every, maintain_every, summary_every, budget, jobs, listen, archive_to
    )
    with Lifeline(stop) as lifeline:
        if metrics_port:
            from tsrollup import metrics  # which no other command waits for

            metrics.serve(url, metrics_port, metrics_address, lifeline)
        work(url, schedule, lifeline)
    log.info("stopped")


def _log_to_stderr(log_format: LogFormat, level: LogLevel) -> None:
    handler = logging.StreamHandler()
    if log_format is LogFormat.json:
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(TextLines("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("tsrollup").setLevel(level.upper())
