"""The command line where things are not as they should be: one clear line, never a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from command_line import tsrollup
from servers import PostgresServer
from tsrollup.flyway import migrate
from tsrollup.flyway.project import project_configuration


@pytest.fixture
def half_migrated(server: PostgresServer, make_database: Callable[..., str]) -> str:
    url = server.url(make_database())
    with project_configuration("foundational", url) as known:
        migrate(replace(known, target="8.1"))
    return url


@pytest.mark.parametrize("command", ["status", "run", "log", "worker", "drop x"])
def test_migrations_that_ended_half_way_are_named(half_migrated: str, command: str) -> None:
    done = tsrollup(*command.split(), url=half_migrated)
    assert done.code == 1
    assert "not migrated to the end; run tsrollup migrate" in done.err


def test_the_doctor_finds_migrations_that_ended_half_way(half_migrated: str) -> None:
    done = tsrollup("doctor", "--json", url=half_migrated)
    assert done.code == 1
    (found,) = [x for x in done.json() if x["check"] == "installation"]
    assert (found["verdict"], found["next_step"]) == ("problem", "tsrollup migrate")


def test_the_log_of_a_rollup_that_never_was_is_an_error(
    server: PostgresServer, database: str
) -> None:
    url = server.url(database)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.readings (ts timestamptz, v integer)")
        connection.execute("INSERT INTO raw.readings VALUES ('2026-01-01', 1)")
        connection.execute(
            "SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')"
        )
    for extra in ([], ["--errors"]):
        missing = tsrollup("log", "readings_2h", *extra, url=url)
        assert (missing.code, "there is no rollup readings_2h" in missing.err) == (1, True)
        assert tsrollup("log", "readings_1h", *extra, url=url).code == 0
    tsrollup("run", url=url)
    tsrollup("drop", "readings_1h", url=url)
    assert tsrollup("log", "silver.readings_1h", url=url).code == 0, "logs outlive rollups"


def test_an_empty_url_is_wrong_usage() -> None:
    done = tsrollup("drop", "readings_1h", "--url", "")
    assert done.code == 2
    assert "--url" in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line(server: PostgresServer, database: str) -> None:
    command = [sys.executable, "-m", "tsrollup", "status", "--url", server.url(database)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_closed_output_changes_nothing(server: PostgresServer, database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tsrollup", "status", "--url", server.url(database)],
        preexec_fn=lambda: os.close(1),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
