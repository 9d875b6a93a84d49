"""The command line from outside: what it prints, and its exit codes."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from command_line import start_tsrollup, tsrollup
from servers import PostgresServer, new_pool_folder

pytestmark = pytest.mark.spread


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    """This test's own migrated database, with a small source table in it."""
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE raw.readings (ts timestamptz, device text, temp integer, note text);"
            "INSERT INTO raw.readings"
            " SELECT t, 'd' || n, n, 'x' FROM generate_series(1, 3) AS n,"
            "  generate_series('2026-01-01'::timestamptz, '2026-01-02', '10 minutes') AS t"
        )
    return server.url(database)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    parent = new_pool_folder()
    yield parent / "data"
    tsrollup("server", "stop", "--data-dir", str(parent / "data"))
    shutil.rmtree(parent)


def test_remarks_of_the_server_are_passed_on(url: str) -> None:
    made = tsrollup("create", "readings", "readings_1d", "1 day", "--json", url=url)
    remark, hint = made.err.splitlines()
    assert remark.startswith("notice: each read of its open bucket computes up to 1 day of rows")
    assert hint.startswith("hint: where those are many, create a rollup of an hour or less first")


def test_a_rollup_from_create_to_drop(url: str) -> None:
    created = tsrollup(
        "create", "readings", "readings_1h", "1 hour", "-d", "device",
        "--metrics", '{"temp": ["avg", "max"]}', "--json", url=url,
    )  # fmt: skip
    assert created.code == 0, created.err
    assert created.json() == {
        "target_table": "silver.readings_1h",
        "live_view": "gold.readings_1h",
    }

    (ran,) = tsrollup("run", "--json", url=url).json()
    assert ran["target"] == "silver.readings_1h"
    assert (ran["buckets"], ran["rows_written"], ran["ranges_left"]) == (25, 75, 0)

    refreshed = tsrollup("refresh", "readings_1h", "2026-01-01", "2026-01-02", url=url)
    assert refreshed.code == 0, refreshed.err

    (status,) = tsrollup("status", "--json", url=url).json()
    assert (status["target_table"], status["health"]) == ("silver.readings_1h", "ok")
    assert "readings_1h" in tsrollup("status", url=url).out

    (newest,) = tsrollup("log", "gold.readings_1h", "-n", "1", "--json", url=url).json()
    assert newest["target_table"] == "silver.readings_1h"
    assert tsrollup("log", "--errors", url=url).out == "no failures\n"

    assert tsrollup("drop", "readings_1h", url=url).code == 0
    assert tsrollup("status", url=url).out.startswith("no rollups yet")


def test_a_failure_is_one_line_with_the_next_step(url: str) -> None:
    missing = tsrollup("create", "raw.nothing", "nothing_1h", "1 hour", url=url)
    assert missing.code == 1
    assert missing.out == ""
    assert missing.err.startswith("error: ")
    assert missing.err.count("\n") == 1
    assert "raw.nothing" in missing.err

    traced = tsrollup("--debug", "create", "raw.nothing", "nothing_1h", "1 hour", url=url)
    assert traced.code == 1
    assert "Traceback" in traced.err


def test_a_failed_rollup_makes_run_fail(url: str) -> None:
    tsrollup("create", "readings", "readings_1h", "1 hour", url=url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE raw.readings DROP COLUMN temp")
    ran = tsrollup("run", url=url)
    assert ran.code == 1
    assert "silver.readings_1h" in ran.err
    assert "tsrollup log --errors" in ran.err

    (failure, *_) = tsrollup("log", "--errors", "--json", url=url).json()
    assert failure["error_code"]
    assert "temp" in failure["error_message"]


def test_a_database_without_the_migrations_is_told_so(
    server: PostgresServer, make_database: Callable[..., str]
) -> None:
    bare = tsrollup("status", url=server.url(make_database()))
    assert (bare.code, bare.out) == (1, "")
    assert "not installed" in bare.err
    assert "tsrollup migrate" in bare.err


def test_doctor_finds_a_missing_capture_trigger(url: str) -> None:
    tsrollup("create", "readings", "readings_1h", "1 hour", url=url)
    well = tsrollup("doctor", "--json", url=url)
    assert well.code == 0, well.err
    assert {"version", "jit", "rollups"} <= {finding["check"] for finding in well.json()}

    with psycopg.connect(url, autocommit=True) as connection:
        triggers = connection.execute(
            "SELECT quote_ident(tgname) FROM pg_trigger"
            " WHERE tgrelid = 'raw.readings'::regclass AND NOT tgisinternal"
        ).fetchall()
        connection.execute(f"DROP TRIGGER {triggers[0][0]} ON raw.readings")
    ill = tsrollup("doctor", url=url)
    assert ill.code == 1
    assert "problem" in ill.out


def test_worker_keeps_rollups_fresh_and_stops_on_sigterm(url: str) -> None:
    tsrollup("create", "readings", "readings_1h", "1 hour", url=url)
    worker = start_tsrollup("worker", "--every", "0.1", url=url)
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            wait_until(connection, "SELECT count(*) = 25 FROM silver.readings_1h")
            connection.execute("DELETE FROM raw.readings WHERE ts < '2026-01-01 01:00+00'")
            wait_until(connection, "SELECT count(*) = 24 FROM silver.readings_1h")
        worker.send_signal(signal.SIGTERM)
        printed, _ = worker.communicate(timeout=30)
    finally:
        worker.kill()
    assert worker.returncode == 0, printed
    assert "stopped" in printed


def test_wrong_usage_is_exit_code_2(url: str) -> None:
    assert tsrollup("nonsense").code == 2
    assert tsrollup("create", "readings", url=url).code == 2
    assert tsrollup("create", "a", "b", "1 hour", "--metrics", "{", url=url).code == 2
    assert tsrollup("server", "start", "--port", "many").code == 2


def test_an_unreachable_server_names_no_password() -> None:
    failed = tsrollup("status", "--url", "postgresql://me:secret@127.0.0.1:1/there")
    assert failed.code == 1
    assert failed.err.count("\n") == 1
    assert "secret" not in failed.err


def test_server_commands(data_dir: Path) -> None:
    where = ("--data-dir", str(data_dir))
    assert "server start" in tsrollup("server", "status", *where).out

    started = tsrollup("server", "start", "--print-url", *where)
    assert started.code == 0
    with psycopg.connect(started.out.removesuffix("\n")) as connection:
        assert connection.info.dbname == "timeseries"
    assert tsrollup("server", "start", "--print-url", *where).out == started.out

    status = tsrollup("server", "status", "--json", *where).json()
    assert status["running"]
    assert status["url"] == started.out.strip()

    os.kill(status["pid"], signal.SIGKILL)
    assert tsrollup("server", "start", "--print-url", *where).out == started.out
    assert tsrollup("server", "stop", *where).out == "stopped\n"
    assert not tsrollup("server", "status", "--json", *where).json()["running"]


def test_bindir_is_the_folder_of_pg_dump() -> None:
    assert (Path(tsrollup("server", "bindir").out.strip()) / "pg_dump").exists()


def test_the_url_may_stand_anywhere(url: str) -> None:
    assert tsrollup("status", "--url", url).code == 0
    assert tsrollup(f"--url={url}", "status").code == 0


def wait_until(connection: psycopg.Connection, query: str) -> None:
    """Ask until the answer is true; pytest's own time limit ends a wait in vain."""
    while connection.execute(query.encode()).fetchone() != (True,):
        connection.execute("SELECT pg_sleep(0.05)")
