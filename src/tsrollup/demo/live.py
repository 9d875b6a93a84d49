"""Sensors that never sleep: rows stream in, a worker refreshes, and the dashboard shows it.

Whatever is killed meanwhile, the worker or the server, is started again, and the picture is right.
"""

import itertools
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg

from tsrollup import rollups, runs
from tsrollup.connection import connect
from tsrollup.console import Console
from tsrollup.demo import load
from tsrollup.errors import TsrollupError
from tsrollup.migrations import migrate_project

TABLE = "raw.sensors"
DEVICES = ("attic", "cellar", "kitchen", "office", "roof")
EVERY = 1.0
HISTORY = timedelta(hours=2)
# Some rows come late, and make stored buckets stale.
LATE_EVERY = 15
LATE_BY = (timedelta(minutes=2), timedelta(minutes=12))
FINEST = "silver.sensors_10s"
ROLLUPS = (
    (TABLE, "sensors_10s", "10 seconds"),
    (FINEST, "sensors_1m", "1 minute"),
    ("silver.sensors_1m", "sensors_15m", "15 minutes"),
)
OPTIONS = {
    "dimensions": ["device"],
    "metrics": {"temperature": ["avg", "min", "max"], "watts": ["avg", "sum"]},
    "settle_delay": "5 seconds",
}

Row = tuple[datetime, str, float, float]


def prepare(url: str, console: Console) -> None:
    """The table with two hours of history, and its rollups, refreshed once."""
    console.say("1. Migrations")
    migrate_project(url)
    with connect(url) as connection:
        load.remove_earlier_run(connection, [TABLE])
        connection.execute(
            f"CREATE TABLE {TABLE} (at timestamptz NOT NULL, device text NOT NULL,"
            " temperature double precision, watts double precision)".encode()
        )
        comment = "tsrollup demo: five sensors, a row of each every second"
        connection.execute(f"COMMENT ON TABLE {TABLE} IS '{comment}'".encode())
        connection.execute(f"CREATE INDEX ON {TABLE} (at)".encode())
        now = datetime.now(UTC).replace(microsecond=0)
        console.say("2. Two hours of five sensors, a row each second")
        moments = (
            now - HISTORY + timedelta(seconds=n) for n in range(int(HISTORY.total_seconds()))
        )
        _write(connection, (row for at in moments for row in _readings(at)))
        for source, name, width in ROLLUPS:
            own = OPTIONS if source == TABLE else {"settle_delay": OPTIONS["settle_delay"]}
            rollups.create(connection, source, "silver", name, width, own)
            console.say(f"   silver.{name:<12} <- {source:<18} gold.{name}")
        console.say("3. Refresh")
        summaries = runs.summarise(runs.run(connection))
        failed = [summary for summary in summaries if summary.error]
        if failed:
            raise TsrollupError(f"{failed[0].target} failed: {failed[0].error}")


@contextmanager
def streaming(find_url: Callable[[], str]) -> Iterator[None]:
    """Sensors and a worker, for as long as the block lasts. `find_url` has the server running."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=_keep, args=(body, find_url, stop), daemon=True)
        for body in (_stream, _work)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=20)


def _keep(
    body: Callable[[str, threading.Event], None],
    find_url: Callable[[], str],
    stop: threading.Event,
) -> None:
    """Begin again with whatever was killed."""
    while not stop.is_set():
        try:
            body(find_url(), stop)
        except (psycopg.Error, TsrollupError, OSError) as error:
            print(f"{' '.join(str(error).split())}; going on", file=sys.stderr)
        stop.wait(1.0)


def _stream(url: str, stop: threading.Event) -> None:
    with connect(url, application_name="tsrollup demo") as connection:
        for count in itertools.count():
            began = time.monotonic()
            now = datetime.now(UTC)
            _write(connection, _readings(now))
            if count % LATE_EVERY == LATE_EVERY - 1:
                least, most = LATE_BY
                late = now - least - random.random() * (most - least)
                _write(connection, [row for row in _readings(late) if row[1] == "roof"])
            if stop.wait(max(0.0, EVERY - (time.monotonic() - began))):
                return


def _work(url: str, stop: threading.Event) -> None:
    """A worker in a process of its own, as people run it."""
    command = [sys.executable, "-m", "tsrollup", "worker", "--every", "2"]
    environment = {**os.environ, "TSROLLUP_URL": url}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as worker:
        try:
            while worker.poll() is None and not stop.wait(0.5):
                pass
            if not stop.is_set():
                raise TsrollupError(f"the worker, process {worker.pid}, has ended")
        finally:
            worker.terminate()


def _readings(at: datetime) -> Iterator[Row]:
    """What each sensor measures at a time: waves of some minutes, and noise."""
    seconds = at.timestamp()
    for place, device in enumerate(DEVICES):
        wave = math.sin(seconds / (90 + 40 * place) + place)
        temperature = 17 + 2 * place + 2.5 * wave + random.gauss(0, 0.15)
        watts = max(0.0, 120 + 60 * place + 80 * math.cos(seconds / 50 + place) * wave)
        yield at, device, round(temperature, 2), round(watts, 1)


def _write(connection: psycopg.Connection, rows: Iterator[Row] | list[Row]) -> None:
    with connection.cursor().copy(f"COPY {TABLE} FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)
