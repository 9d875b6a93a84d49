"""A program beside a database that an older or a newer release migrated."""

import threading
from collections.abc import Iterator

import psycopg
import pytest

import tsrollup
from command_line import tsrollup_here
from servers import PostgresServer
from tsrollup.cli import app
from tsrollup.errors import TsrollupError
from tsrollup.lifeline import Lifeline
from tsrollup.migrations import migrate_project
from tsrollup.worker import Schedule, work

OLDER, NEWER = "0.0.9", "0.10.0"
COMMANDS = {
    "create": "create w w_1h 1h",
    "run": "run",
    "refresh": "refresh w_1h 2026-01-01 2026-01-02",
    "drop": "drop w_1h",
    "status": "status",
    "log": "log",
    "read": "read w_1h",
    "pause": "pause w_1h",
    "resume": "resume w_1h",
    "retry": "retry w_1h",
    "rebuild": "rebuild w_1h",
    "alter": "alter w_1h --settle-delay 1m",
    "retention": "retention w_1h 1y",
    "maintain": "maintain",
    "suggest_indexes": "suggest-indexes w_1h",
    "mark_stale": "mark-stale w_1h 2026-01-01 2026-01-02",
    "plan": "plan /dev/null",
    "apply": "apply /dev/null",
    "export": "export",
    "worker": "worker",
    "dashboard": "dashboard",
}


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.w (ts timestamptz, n integer)")
        connection.execute("SELECT silver.create_rollup_table('w', 'silver', 'w_1h', '1 hour')")
    return server.url(database)


def become(url: str, version: str) -> None:
    """Have a database say that another release migrated it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET ROLE tsrollup_owner")
        connection.execute(
            "CREATE OR REPLACE FUNCTION silver.version() RETURNS text LANGUAGE sql IMMUTABLE"
            f" PARALLEL SAFE RETURN '{version}'".encode()
        )


def test_the_database_says_the_version_of_the_package(db: psycopg.Connection) -> None:
    assert db.execute("SELECT silver.version()").fetchone() == (tsrollup.__version__,)


def test_every_command_on_rollups_is_among_these() -> None:
    names = {x.name or getattr(x.callback, "__name__", "") for x in app.registered_commands}
    migrations = {"migrate", "info", "validate", "repair", "baseline", "clean", "flyway", "demo"}
    assert names == COMMANDS.keys() | migrations | {"doctor"}


@pytest.mark.parametrize(
    ("version", "next_step"),
    [(OLDER, "run tsrollup migrate"), (NEWER, f"install tsrollup {NEWER}")],
)
def test_every_command_refuses_a_database_of_another_release(
    url: str, version: str, next_step: str
) -> None:
    become(url, version)
    for command, words in COMMANDS.items():
        done = tsrollup_here(*words.split(), url=url)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), command
        assert f"is of tsrollup {version}, this program is {tsrollup.__version__}" in done.err
        assert next_step in done.err, command
    examined = tsrollup_here("doctor", "--json", url=url)
    (found,) = [x for x in examined.json() if x["check"] == "installation"]
    assert (examined.code, found["verdict"]) == (1, "problem")
    assert version in found["found"]


def test_a_newer_database_keeps_what_its_release_made(url: str) -> None:
    become(url, NEWER)
    for command in ("migrate", "repair", "demo"):
        done = tsrollup_here(command, url=url)
        assert done.code == 1, command
        assert f"install tsrollup {NEWER}" in done.err, command
    with pytest.raises(TsrollupError, match=NEWER):
        migrate_project(url)
    assert tsrollup_here("info", url=url).code == 0
    become(url, tsrollup.__version__)
    assert tsrollup_here("status", url=url).code == 0


def test_an_older_database_is_brought_up(url: str) -> None:
    become(url, OLDER)
    assert tsrollup_here("migrate", url=url).code == 0


def test_a_worker_stops_working_where_a_newer_release_took_over(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    become(url, NEWER)
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(url, Schedule(run=0.1), Lifeline(stop)))
    worker.start()
    for _ in waiting():
        if caplog.messages:
            break
    stop.set()
    worker.join()
    assert f"is of tsrollup {NEWER}" in caplog.messages[0]
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM silver.refresh_log").fetchone() == (0,)


def waiting() -> Iterator[None]:
    pause = threading.Event()
    while not pause.wait(0.05):
        yield
