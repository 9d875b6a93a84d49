"""The worker: promise i, a crash of the server, after which it goes on where it was; its log."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from command_line import tsrollup, wait_for, working
from servers import PostgresServer, new_pool_folder
from tsrollup import embedded
from tsrollup.migrations import migrate_project

pytestmark = pytest.mark.spread


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
    with working(url, "--every", "0.1") as (_, lines):
        insert_and_wait(url, "2026-01-01 00:30+00")
        postmaster = embedded.status(data_dir).pid
        assert postmaster
        os.kill(postmaster, signal.SIGKILL)
        for seconds in (1, 2):
            wait_for(lines, f"trying again in {seconds} s")
        assert embedded.start(data_dir).url == url
        insert_and_wait(url, "2026-01-01 05:30+00")
    assert any("reconnected" in line for line in lines)


def test_the_worker_waits_for_a_server_that_is_not_there_yet(data_dir: Path) -> None:
    url = embedded.start(data_dir).url
    migrate_project(url)
    embedded.stop(data_dir)
    with working(url, "--every", "0.1") as (_, lines):
        wait_for(lines, "no server takes connections at --url; trying again in 2 s")
        assert embedded.start(data_dir).url == url
        wait_for(lines, "working on database")


def insert_and_wait(url: str, time: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO raw.events VALUES (%s, 1)", [time])
        found = (
            "SELECT count(*) FROM silver.events_1h"
            " WHERE bucket = silver.time_bucket('1 hour', %s::timestamptz)"
        )
        while connection.execute(found, [time]).fetchone() != (1,):
            connection.execute("SELECT pg_sleep(0.05)")


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.events (ts timestamptz, n integer)")
        connection.execute(
            "SELECT silver.create_rollup_table('events', 'silver', 'events_1h', '1 hour')"
        )
    return server.url(database)


def test_failures_are_logged_with_code_and_hint(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE silver.events_1h ADD CHECK (n_sum < 0) NOT VALID")
        connection.execute("INSERT INTO raw.events VALUES ('2026-01-01', 1)")
    with working(url, "--every", "0.1", "--log-format", "json") as (_, lines):
        told = json.loads(wait_for(lines, "23514"))
        assert told["level"] == "warning"
        assert told["code"] == "23514"
        assert told["message"].startswith("rollup silver.events_1h failed: bucket 2026-01-01")
        assert "silver.reset_rollup_retry" in told["hint"]
        assert told["time"].endswith("Z")
    assert json.loads(lines[-1])["message"] == "stopped", lines
    assert sum("23514" in line for line in lines) == 1, "said once"


def test_batches_and_summaries_are_logged_and_that_it_is_alive(url: str) -> None:
    options = ("--every", "0.1", "--summary-every", "1", "--log-level", "debug")
    with working(url, *options, "--log-format", "json") as (_, lines):
        insert_and_wait(url, "2026-01-01 00:30+00")
        batch = json.loads(wait_for(lines, "): 1 buckets, 1 rows written"))
        assert (batch["level"], batch["target"], batch["rows_written"]) == (
            "debug",
            "silver.events_1h",
            1,
        )
        summary = json.loads(wait_for(lines, "1 batches, 1 buckets, 1 rows written, 0 deleted"))
        assert (summary["level"], summary["batches"]) == ("info", 1)
        wait_for(lines, "alive; nothing was to be refreshed in the last")


def test_the_check_knows_whether_a_worker_is_there(url: str) -> None:
    missing = tsrollup("worker", "--check", url=url)
    assert (missing.code, "no worker is connected" in missing.err) == (1, True)
    with working(url, "--jobs", "2") as (_, lines):
        wait_for(lines, "working on database")
        with psycopg.connect(url, autocommit=True) as connection:
            sessions = (
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tsrollup worker'"
                " AND datname = current_database()"
            )
            while connection.execute(sessions).fetchone() != (3,):
                time.sleep(0.02)
        found = tsrollup("worker", "--check", "--json", url=url)
        assert (found.code, "3 sessions" in found.json()["status"]) == (0, True)


def test_a_notification_starts_a_run(url: str) -> None:
    with working(url, "--every", "3600", "--listen") as (_, lines):
        wait_for(lines, "working on database")
        with psycopg.connect(url, autocommit=True) as connection:
            listening = (
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE query = 'LISTEN tsrollup'"
                " AND datname = current_database()"
            )
            while connection.execute(listening).fetchone() != (True,):
                time.sleep(0.02)
            time.sleep(1)  # for the run that the LISTEN itself started
            connection.execute("INSERT INTO raw.events VALUES ('2026-01-01', 1)")
            connection.execute("NOTIFY tsrollup")
            began = time.monotonic()
            while connection.execute("SELECT count(*) FROM silver.events_1h").fetchone() != (1,):
                assert time.monotonic() < began + 10
                time.sleep(0.02)


def test_a_connection_that_is_cut_is_made_anew(url: str) -> None:
    with working(url, "--every", "0.1") as (_, lines):
        wait_for(lines, "working on database")
        with psycopg.connect(url, autocommit=True) as connection:
            cut = (
                "SELECT count(pg_terminate_backend(pid)) > 1 FROM pg_stat_activity"
                " WHERE application_name = 'tsrollup worker' AND datname = current_database()"
            )
            while connection.execute(cut).fetchone() != (True,):
                time.sleep(0.02)
        assert "trying again" in wait_for(lines, "trying again")
        wait_for(lines, "reconnected")


def test_a_run_that_has_more_to_do_goes_on_at_once_and_ends_after_its_batch(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO raw.events SELECT t, 1 FROM generate_series("
            "timestamptz '2025-01-01', '2026-01-01', '1 minute') AS t"
        )
        connection.execute("UPDATE silver.rollup_config SET processing_window = '1 day'")
        with working(url, "--every", "3600", "--budget", "0.1") as (worker, _):
            some = "SELECT count(*) > 500 FROM silver.events_1h"
            while connection.execute(some).fetchone() != (True,):
                time.sleep(0.02)
            worker.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert worker.wait(60) == 0
            assert time.monotonic() < began + 10
        assert connection.execute("SELECT status FROM silver.rollup_config").fetchone() == (
            "active",
        )
