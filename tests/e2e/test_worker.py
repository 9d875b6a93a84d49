"""Promise i: a crash of the server; the worker waits for it and goes on where it was."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from command_line import start_tsrollup, tsrollup
from servers import new_pool_folder
from tsrollup import embedded
from tsrollup.migrations import migrate_project


@pytest.fixture
def data_dir() -> Iterator[Path]:
    parent = new_pool_folder()
    yield parent / "data"
    embedded.stop(parent / "data")
    shutil.rmtree(parent)


def test_the_worker_survives_a_crash_of_the_server(data_dir: Path) -> None:
    url = embedded.start(data_dir).url
    migrate_project(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.events (ts timestamptz, n integer)")
    tsrollup("create", "events", "events_1h", "1 hour", url=url)
    worker = start_tsrollup("worker", "--every", "0.1", url=url)
    try:
        insert_and_wait(url, "2026-01-01 00:30+00")
        postmaster = embedded.status(data_dir).pid
        assert postmaster
        os.kill(postmaster, signal.SIGKILL)
        assert embedded.start(data_dir).url == url
        insert_and_wait(url, "2026-01-01 05:30+00")
        worker.send_signal(signal.SIGTERM)
        printed, _ = worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert worker.returncode == 0
    assert "trying again" in printed


def insert_and_wait(url: str, time: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO raw.events VALUES (%s, 1)", [time])
        found = (
            "SELECT count(*) FROM silver.events_1h"
            " WHERE bucket = silver.time_bucket('1 hour', %s::timestamptz)"
        )
        while connection.execute(found, [time]).fetchone() != (1,):
            connection.execute("SELECT pg_sleep(0.05)")
