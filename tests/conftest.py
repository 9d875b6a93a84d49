"""Fixtures: a server, a clone of the migrated database for each test, connections to it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random, randrange
from time import monotonic
from typing import Any, LiteralString

import psycopg
import pytest

from dumps import dump, run
from scenes import scene_of
from servers import (
    PostgresServer,
    ServerPool,
    found_partman_servers,
    found_servers,
    missing_on_debian15,
    new_pool_folder,
)

FOLDER_VARIABLE = "TSROLLUP_TEST_SERVERS"
# Of what some tests choose from more than they have time for.
SEED_VARIABLE = "TSROLLUP_SEED"
BEGUN = monotonic()

Connect = Callable[..., psycopg.Connection]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--test-dsn", help="run on this server as well (a role that creates databases)"
    )
    parser.addoption("--server", action="append", help="run on this server only; repeatable")
    parser.addoption(
        "--spread", action="store_true", help="run each test on one of the servers only"
    )
    parser.addoption("--minutes", type=float, help="skip what has not begun until then")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: is begun before all others")
    config.addinivalue_line("markers", "spread: run on one of the servers, as any will do")
    config.addinivalue_line("markers", "partman: run with pg_partman 5 as well, where it was found")
    missing = missing_on_debian15()
    if missing and os.environ.get("TSROLLUP_REQUIRE_DEBIAN15"):
        raise pytest.UsageError(f"TSROLLUP_REQUIRE_DEBIAN15 is set, missing: {', '.join(missing)}")
    if not _is_worker(config):
        # xdist's workers inherit the environment, and with it both.
        os.environ[FOLDER_VARIABLE] = str(new_pool_folder())
        os.environ.setdefault(SEED_VARIABLE, str(randrange(10**6)))


def pytest_report_header() -> str:
    return f"{SEED_VARIABLE}={os.environ[SEED_VARIABLE]}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Else a core would have nothing to do at the end, while the other one is at a long test."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    if minutes is not None and monotonic() - BEGUN > 60 * minutes:
        pytest.skip(f"the {minutes:g} minutes are over")


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and not _is_worker(config):
        _pool(config).stop_all()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--server")
        names = chosen or found_servers(metafunc.config.getoption("--test-dsn"))
        if metafunc.definition.get_closest_marker("partman") and not chosen:
            names = [*names, *found_partman_servers()]
        spread = metafunc.definition.get_closest_marker("spread")
        if spread or metafunc.config.getoption("--spread"):
            chance = Random(f"{os.environ[SEED_VARIABLE]} {metafunc.definition.nodeid}")
            names = [chance.choice(names)]
        metafunc.parametrize("server", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> PostgresServer:
    return _pool(request.config).get(request.param)


@pytest.fixture(scope="session")
def older_server(request: pytest.FixtureRequest, server: PostgresServer) -> PostgresServer:
    """One of an older PostgreSQL than `server`, where there is one."""
    if server.version <= 15 or missing_on_debian15():
        pytest.skip("no older PostgreSQL here")
    return _pool(request.config).get("debian15")


@pytest.fixture(scope="session")
def template(request: pytest.FixtureRequest, server: PostgresServer) -> str:
    """The migrated database that every test's own is cloned from."""
    return _pool(request.config).template(server)


@pytest.fixture
def make_database(server: PostgresServer) -> Iterator[Callable[..., str]]:
    """Makes databases: empty ones, or clones of a template; dropped after the test."""
    made: list[str] = []

    def make(template: str = "template0", options: LiteralString = "") -> str:
        made.append(server.create_database(template, options))
        return made[-1]

    yield make
    for name in made:
        server.drop_database(name)


@pytest.fixture
def database(
    request: pytest.FixtureRequest,
    server: PostgresServer,
    make_database: Callable[..., str],
    template: str,
) -> str:
    """The name of this test's own migrated database, with its scene in it."""
    prepare = scene_of(request)
    if prepare and server.data_dir:
        return make_database(_pool(request.config).scene(server, prepare))
    name = make_database(template)
    if prepare:  # no server of ours: what is made for other tests as well would stay there
        with psycopg.connect(server.url(name), autocommit=True) as connection:
            prepare(connection)
    return name


@pytest.fixture
def connect(server: PostgresServer, database: str) -> Iterator[Connect]:
    """Opens connections to the test's database; `user` is another role, the rest is libpq's."""
    opened: list[psycopg.Connection] = []

    def open_connection(
        user: str | None = None, autocommit: bool = True, **parameters: Any
    ) -> psycopg.Connection:
        connection = psycopg.connect(
            server.url(database, user), autocommit=autocommit, **parameters
        )
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.close()


@pytest.fixture
def db(connect: Connect) -> psycopg.Connection:
    return connect()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _pool(config: pytest.Config) -> ServerPool:
    return ServerPool(Path(os.environ[FOLDER_VARIABLE]), config.getoption("--test-dsn"))


@pytest.fixture
def restore(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
) -> Callable[..., str]:
    """Dumps the test's database and restores it elsewhere, by options of CREATE DATABASE, in one
    or several calls of pg_restore; returns the name of the copy."""

    def restore_copy(*calls: tuple[str, ...], options: LiteralString = "") -> str:
        copy = make_database("template0", options)
        path = dump(server, db, tmp_path)
        for call in calls or ((),):
            run(server, "pg_restore", "-e", *call, "-d", server.superuser_url(copy), path)
        return copy

    return restore_copy
