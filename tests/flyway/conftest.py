"""Fixtures: a server without parameters, and the two runners."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from flyway.runners import HOME, Ours, Resident
from servers import PostgresServer, ServerPool


@pytest.fixture(scope="session")
def one_server(request: pytest.FixtureRequest) -> PostgresServer:
    """The embedded server: what Flyway does depends on the server's version in nothing."""
    folder = Path(os.environ["TSROLLUP_TEST_SERVERS"])
    return ServerPool(folder, request.config.getoption("--test-dsn")).get("embedded")


@pytest.fixture(scope="session")
def stage(one_server: PostgresServer) -> Iterator[psycopg.Connection]:
    """A connection to a database that scenarios empty before they use it."""
    name = one_server.create_database()
    with psycopg.connect(one_server.url(name), autocommit=True) as connection:
        yield connection
    one_server.drop_database(name)


@pytest.fixture(scope="session")
def real_flyway() -> Path:
    """The folder of a real Flyway; the test is skipped where there is none."""
    missing = [tool for tool in ("java", "javac") if shutil.which(tool) is None]
    if not (HOME / "flyway").exists():
        missing.append(f"{HOME.name} (run tests/flyway/fetch_flyway.sh)")
    if missing:
        reason = f"no real Flyway to compare with: {', '.join(missing)} missing"
        if os.environ.get("TSROLLUP_REQUIRE_FLYWAY") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return HOME


@pytest.fixture(scope="session")
def ours() -> Ours:
    return Ours()


@pytest.fixture(scope="session")
def resident(real_flyway: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resident]:  # noqa: ARG001
    runner = Resident(tmp_path_factory.mktemp("flyway"))
    yield runner
    runner.close()
