"""Many runners at once: each migration runs once, whoever runs it."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from flyway.runners import run_flyway
from servers import PostgresServer
from tsrollup.flyway import Configuration, FlywayError, migrate
from tsrollup.flyway.history import lock_id

VERSIONS = 5


@pytest.fixture
def database(one_server: PostgresServer) -> Iterator[str]:
    name = one_server.create_database()
    yield name
    one_server.drop_database(name)


@pytest.fixture
def configuration(one_server: PostgresServer, database: str, tmp_path: Path) -> Configuration:
    """Five migrations and a repeatable that would fail or be noticed if they ran twice."""
    for version in range(1, VERSIONS + 1):
        (tmp_path / f"V{version}__t.sql").write_text(f"CREATE TABLE t{version} (i int);\n")
    (tmp_path / "V2_5__index.sql").write_text("CREATE INDEX CONCURRENTLY t1_i ON t1 (i);\n")
    (tmp_path / "R__count.sql").write_text("INSERT INTO t1 VALUES (1);\n")
    return Configuration(
        url=one_server.url(database), schemas=("app",), locations=(f"filesystem:{tmp_path}",)
    )


def rows(configuration: Configuration, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(configuration.url) as connection:
        return connection.execute(query.encode()).fetchall()


def assert_each_ran_once(configuration: Configuration) -> None:
    history = rows(
        configuration, "SELECT installed_rank, version FROM app.flyway_schema_history ORDER BY 1"
    )
    versions = ["1", "2", "2.5", "3", "4", "5", None]
    assert history == [(0, None), *enumerate(versions, 1)]
    assert rows(configuration, "SELECT count(*) FROM app.t1") == [(1,)]
    locks = (
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE locktype = 'advisory' AND datname = current_database()"
    )
    assert rows(configuration, locks) == [(0,)]


def at_once(*runners: Callable[[], int]) -> list[int]:
    """What the runners applied, having started them together."""
    start = threading.Barrier(len(runners))

    def run(runner: Callable[[], int]) -> int:
        start.wait()
        return runner()

    with ThreadPoolExecutor(len(runners)) as pool:
        return list(pool.map(run, runners))


def test_twenty_runners_apply_each_migration_once(configuration: Configuration) -> None:
    """Half of them with the other kind of lock: they share one key."""
    session_lock = replace(configuration, postgresql_transactional_lock=False)

    def runner(number: int) -> Callable[[], int]:
        chosen = session_lock if number % 2 else configuration
        return lambda: migrate(chosen).migrations_executed

    applied = at_once(*(runner(number) for number in range(20)))
    assert sum(applied) == VERSIONS + 2
    assert_each_ran_once(configuration)


def test_eight_processes_of_the_command_line(configuration: Configuration) -> None:
    (location,) = configuration.locations
    words = [f"-url={configuration.url}", f"-locations={location}", "-schemas=app", "migrate"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tsrollup", "flyway", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    failures = [process.communicate()[1] for process in processes if process.wait()]
    for process in processes:
        if process.stderr:
            process.stderr.close()
    assert not failures
    assert_each_ran_once(configuration)


def test_a_real_flyway_among_them(
    real_flyway: Path,  # noqa: ARG001
    configuration: Configuration,
    tmp_path: Path,
    one_server: PostgresServer,
) -> None:
    # Their lock and a statement outside transactions wait for each other.
    (tmp_path / "V2_5__index.sql").write_text("CREATE INDEX t1_i ON app.t1 (i);\n")
    url = configuration.url.replace("postgres@", "")
    words = [f"-url=jdbc:{url}", f"-user={one_server.user}", "-schemas=app",
             f"-locations={configuration.locations[0]}", "migrate"]  # fmt: skip

    def real() -> int:
        done = run_flyway(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.count("Migrating schema")

    def ours() -> int:
        return migrate(configuration).migrations_executed

    with psycopg.connect(configuration.url) as connection:
        connection.execute("CREATE SCHEMA app")
    (tmp_path / "V1__t.sql").write_text("CREATE TABLE t1 (i int); SELECT pg_sleep(2);\n")
    assert sum(at_once(real, ours, real, ours, ours, ours)) == VERSIONS + 2
    history = rows(configuration, "SELECT count(*) FROM app.flyway_schema_history")
    assert history == [(VERSIONS + 2,)]


def test_a_lock_that_is_never_free(configuration: Configuration) -> None:
    with psycopg.connect(configuration.url) as connection:
        key = lock_id("app", "flyway_schema_history")
        connection.execute("SELECT pg_advisory_lock(%s)", [key])
        with pytest.raises(FlywayError, match="not free after 1 attempts"):
            migrate(replace(configuration, lock_retry_count=1))


def test_twenty_runners_of_one_database_leave_no_connections(
    configuration: Configuration,
) -> None:
    at_once(*(lambda: migrate(configuration).migrations_executed for _ in range(4)))
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    assert rows(configuration, others + " AND pid <> pg_backend_pid()") == [(0,)]
