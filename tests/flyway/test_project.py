"""The project's own migrations: by a real Flyway, by ours, and by one after the other."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flyway.runners import ROOT, Ours, Resident, Runner, run_flyway
from flyway.scenario import STRUCTURE
from servers import PostgresServer
from tsrollup import flyway
from tsrollup.flyway.conf_files import parse_conf
from tsrollup.migrations import PARTS, migrate_project

pytestmark = pytest.mark.spread

PGDB = ROOT / "src" / "tsrollup" / "pgdb"
CONF = "-configFiles=src/tsrollup/pgdb/flyway-{}.conf"
SETUP = "filesystem:src/tsrollup/pgdb/migrations/foundational/initial-setup"
TIMESERIES = "filesystem:src/tsrollup/pgdb/migrations/foundational/timeseries"
EXAMPLES = "filesystem:src/tsrollup/pgdb/migrations/payload-tables/example-tables"
HISTORY = """
SELECT installed_rank, version, description, type, script, checksum, success
FROM {} ORDER BY installed_rank
"""

MakeDatabase = Callable[..., str]


def parameters(server: PostgresServer, database: str, part: str) -> dict[str, str]:
    read = parse_conf((PGDB / f"flyway-{part}.conf").read_text())
    given = {key: str(value) for key, value in read.items()}
    url = server.url(database).replace(f"{server.user}@", "")
    return {
        **given,
        "url": f"jdbc:{url}",
        "user": server.user,
        "locations": given["locations"].replace("src/tsrollup/pgdb", str(PGDB)),
    }


def ask(server: PostgresServer, database: str, query: str) -> list[Any]:
    with psycopg.connect(server.url(database)) as connection:
        return connection.execute(query.encode()).fetchall()


def history(server: PostgresServer, database: str, part: str) -> list[Any]:
    configured = parameters(server, database, part)
    table = f"{configured['schemas']}.{configured['table']}"
    return ask(server, database, HISTORY.format(table))


@pytest.fixture
def databases(make_database: MakeDatabase) -> tuple[str, str]:
    return make_database(), make_database()


@pytest.mark.parametrize("part", PARTS)
def test_both_runners_make_the_same_database(
    server: PostgresServer,
    databases: tuple[str, str],
    ours: Ours,
    resident: Resident,
    part: str,
) -> None:
    """Row for row; then each validates what the other did, and finds nothing left to do."""
    casts: list[tuple[str, Runner, Runner]] = [
        (databases[0], resident, ours),
        (databases[1], ours, resident),
    ]
    for database, one, other in casts:
        for step in ["foundational", "payload"] if part == "payload" else [part]:
            outcome = one.run("migrate", parameters(server, database, step))
            assert outcome.ok, outcome.error
        for command in ("validate", "migrate", "repair"):
            outcome = other.run(command, parameters(server, database, part))
            assert outcome.ok, outcome.error
    real, own = databases
    assert history(server, own, part) == history(server, real, part)
    assert ask(server, own, STRUCTURE) == ask(server, real, STRUCTURE)


def test_one_carries_on_what_the_other_began(
    server: PostgresServer, databases: tuple[str, str], ours: Ours, resident: Resident
) -> None:
    turns: list[tuple[Runner, Runner]] = [(resident, ours), (ours, resident)]
    for database, runners in zip(databases, turns, strict=True):
        configured = parameters(server, database, "foundational")
        # The engine's functions need all tables: without them nothing of it is run.
        begun = {"target": "3", "locations": configured["locations"] + "/initial-setup"}
        for runner, part in zip(runners, (begun, {}), strict=True):
            outcome = runner.run("migrate", {**configured, **part})
            assert outcome.ok, outcome.error
    real, own = databases
    assert history(server, own, "foundational") == history(server, real, "foundational")


def test_adopting_a_database_that_holds_an_application(
    server: PostgresServer, databases: tuple[str, str], ours: Ours, resident: Resident
) -> None:
    """Nothing is skipped, nothing of theirs is touched, and clean leaves it alone."""
    runners: tuple[Runner, Runner] = (resident, ours)
    for database, runner in zip(databases, runners, strict=True):
        with psycopg.connect(server.url(database), autocommit=True) as connection:
            connection.execute("CREATE SCHEMA app")
            connection.execute("CREATE TABLE app.theirs AS SELECT 1 AS one")
            connection.execute("CREATE SCHEMA raw")
            connection.execute("CREATE TABLE raw.readings (ts timestamptz, v float8)")
        configured = parameters(server, database, "foundational")
        for command in ("migrate", "validate", "clean", "migrate"):
            outcome = runner.run(command, {**configured, "cleanDisabled": "false"})
            assert outcome.ok, outcome.error
        versions = {row[1] for row in history(server, database, "foundational")}
        assert {"1", "2", "3", "4", "5"} <= versions
        assert ask(server, database, "SELECT * FROM app.theirs") == [(1,)]
        assert ask(server, database, "SELECT * FROM raw.readings") == []


ROLLUP = """
CREATE TABLE raw.readings (ts timestamptz NOT NULL, device int, v float8);
INSERT INTO raw.readings SELECT '2024-01-01Z'::timestamptz + i * interval '1 minute', i % 3, i
FROM generate_series(1, 600) i;
SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour');
SELECT silver.create_rollup_table('silver.readings_1h', 'silver', 'readings_1d', '1 day');
"""


def test_clean_refuses_while_rollups_exist(
    server: PostgresServer, databases: tuple[str, str], ours: Ours, resident: Resident
) -> None:
    runners: tuple[Runner, Runner] = (resident, ours)
    for database, runner in zip(databases, runners, strict=True):
        configured = {**parameters(server, database, "foundational"), "cleanDisabled": "false"}
        assert runner.run("migrate", configured).ok
        with psycopg.connect(server.url(database), autocommit=True) as connection:
            connection.execute(ROLLUP)
            before = connection.execute(STRUCTURE).fetchall()
            refused = runner.run("clean", configured)
            assert not refused.ok
            assert "silver.readings_1h, silver.readings_1d" in refused.error
            assert connection.execute(STRUCTURE).fetchall() == before
            told = {**configured, "placeholders.clean_rollups": "true"}
            _assert_strangers_stay(connection, runner, told)
            outcome = runner.run("clean", told)
            assert outcome.ok, outcome.error
            assert connection.execute("SELECT count(*) FROM raw.readings").fetchone() == (600,)
            again = runner.run("migrate", configured)
            assert again.ok, again.error
            assert connection.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname = 'rollup_engine'"
            ).fetchall()


def _assert_strangers_stay(
    connection: psycopg.Connection, runner: Runner, configured: dict[str, str]
) -> None:
    """clean beside what somebody made of a function, of a table's rows and of arrays of them."""
    for kind, name, text in (
        ("VIEW", "mine", "AS SELECT silver.time_bucket('1 hour', now()) AS bucket"),
        ("TABLE", "history", "(configuration silver.rollup_config)"),
        ("TABLE", "logs", "(lines silver.error_log[])"),
        ("VIEW", "median", "AS SELECT rollup_engine.percentile('{1,2}', 0.5)"),
    ):
        connection.execute(f"CREATE {kind} public.{name} {text}".encode())
        outcome = runner.run("clean", configured)
        assert not outcome.ok
        assert f"{kind.lower()} public.{name}" in outcome.error
        connection.execute(f"DROP {kind} public.{name}".encode())


@dataclass(frozen=True)
class Handbook:
    """Points each command at a database of its own kind, through the environment."""

    server: PostgresServer
    databases: dict[str, str]
    home: Path

    def variables(self, line: str) -> dict[str, str]:
        name = self.databases["postgres" if "flyway-postgres.conf" in line else "timeseries"]
        url = self.server.url(name).replace(f"{self.server.user}@", "")
        return {
            "FLYWAY_URL": f"jdbc:{url}",
            "FLYWAY_USER": self.server.user,
            "HOME": str(self.home),
        }

    def has_api(self) -> bool:
        query = "SELECT silver.get_detailed_stats('%')"
        return ask(self.server, self.databases["timeseries"], query) is not None


@pytest.fixture
def handbook(one_server: PostgresServer, tmp_path: Path) -> Iterator[Handbook]:
    databases = {kind: one_server.create_database() for kind in ("postgres", "timeseries")}
    yield Handbook(one_server, databases, tmp_path)
    for name in databases.values():
        one_server.drop_database(name)


HANDBOOK = [
    (CONF.format("postgres") + " migrate", 0),
    (f"{CONF.format('foundational')} -locations={SETUP},{TIMESERIES} migrate", 0),
    (f"{CONF.format('foundational')} -locations={SETUP},{TIMESERIES},{EXAMPLES} migrate", 1),
    (CONF.format("foundational") + " migrate", 0),
    (CONF.format("payload") + " migrate", 0),
    (CONF.format("foundational") + " info", 0),
    (CONF.format("foundational") + " repair", 0),
    (CONF.format("foundational") + " validate", 0),
    (CONF.format("foundational") + " clean", 1),
    (CONF.format("foundational") + " -cleanDisabled=false clean", 1),
    (
        CONF.format("foundational")
        + " -cleanDisabled=false -placeholders.clean_rollups=true clean migrate",
        0,
    ),
]


def test_handbook_with_ours(
    handbook: Handbook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for line, status in HANDBOOK:
        for name, value in handbook.variables(line).items():
            monkeypatch.setenv(name, value)
        assert flyway.main(line.split()) == status, (line, capsys.readouterr().err)
        if EXAMPLES in line:
            assert "more than one migration with version 1" in capsys.readouterr().err
    assert handbook.has_api()


def test_handbook_with_flyway(real_flyway: Path, handbook: Handbook) -> None:  # noqa: ARG001
    for line, status in HANDBOOK:
        done = run_flyway(*line.split(), cwd=ROOT, **handbook.variables(line))
        assert done.returncode == status, (line, done.stdout, done.stderr)
        if EXAMPLES in line:
            assert "more than one migration with version 1" in done.stderr
    assert handbook.has_api()


def test_project_from_anywhere(
    server: PostgresServer, make_database: MakeDatabase, tmp_path: Path
) -> None:
    """The package finds its migrations without a checkout as the current folder."""
    database = make_database()
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        results = migrate_project(server.url(database), payload=True)
    finally:
        os.chdir(before)
    assert results["foundational"].migrations_executed > 5
    assert results["payload"].migrations_executed == 2


def test_placeholders_that_no_migration_knows_are_refused(server: PostgresServer) -> None:
    with pytest.raises(flyway.ConfigurationError, match="no_such"):
        migrate_project(server.url("postgres"), placeholders={"no_such": "1"})
