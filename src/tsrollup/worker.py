"""The scheduler for servers without pg_cron: it calls the SQL API on a schedule, until stopped."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString

import psycopg

from tsrollup.connection import connect, describe, pinned
from tsrollup.errors import TsrollupError
from tsrollup.installation import require_installed

log = logging.getLogger(__name__)

RECONNECT_DELAYS = (1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Schedule:
    """Seconds between two calls of each job, and the most that one run may take."""

    run: float = 2.0
    retries: float = 30.0
    maintenance: float = 3600.0
    run_budget: float = 10.0


@dataclass
class _Job:
    name: str
    every: float
    call: Callable[[psycopg.Connection[Any]], object]
    due: float = 0.0


def work(url: str, schedule: Schedule, stop: threading.Event) -> None:
    """Work until `stop` is set; a call that runs then is finished first.

    A lost server is waited for. A failing job is logged and tried again when it is next due:
    what is wrong with a single rollup is in its error_log already.
    """
    failures = 0
    while not stop.is_set():
        try:
            with connect(url, application_name="tsrollup worker") as connection:
                require_installed(connection)
                _work_connected(connection, schedule, stop)
                failures = 0
        except (psycopg.OperationalError, TsrollupError) as error:
            delay = RECONNECT_DELAYS[min(failures, len(RECONNECT_DELAYS) - 1)]
            failures += 1
            log.warning("%s; trying again in %.0f s", " ".join(str(error).split()), delay)
            stop.wait(delay)


def _work_connected(
    connection: psycopg.Connection[Any], schedule: Schedule, stop: threading.Event
) -> None:
    jobs = [
        _Job("run_rollups", schedule.run, lambda c: _run_rollups(c, schedule.run_budget)),
        _Job(
            "handle_rollup_retries",
            schedule.retries,
            lambda c: _in_transaction(c, "SELECT silver.handle_rollup_retries()"),
        ),
        _Job(
            "maintain_timeseries_tables",
            schedule.maintenance,
            lambda c: _in_transaction(c, "SELECT silver.maintain_timeseries_tables()"),
        ),
    ]
    while not stop.is_set():
        for job in jobs:
            if job.due <= time.monotonic() and not stop.is_set():
                _call(job, connection)
        next_due = min(job.due for job in jobs)
        stop.wait(max(0.0, next_due - time.monotonic()))


def _call(job: _Job, connection: psycopg.Connection[Any]) -> None:
    started = time.monotonic()
    try:
        job.call(connection)
    except psycopg.Error as error:
        if connection.closed:
            raise
        log.warning("%s failed: %s", job.name, describe(error))
    job.due = started + job.every


def _in_transaction(connection: psycopg.Connection[Any], query: LiteralString) -> None:
    with pinned(connection):
        connection.execute(query)


def _run_rollups(connection: psycopg.Connection[Any], budget: float) -> None:
    # Commits, so nothing is pinned around it: the call looks no name up outside of silver.
    connection.execute("CALL silver.run_rollups(time_budget => %s)", [timedelta(seconds=budget)])
