"""tsrollup migrate and its sisters: options, JSON, one-line errors, exit codes."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from servers import PostgresServer
from tsrollup import cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    server: PostgresServer,
    make_database: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs a command line on an empty database: exit code, standard output, standard error."""
    monkeypatch.setenv("TSROLLUP_URL", server.url(make_database()))

    def run_tsrollup(*words: str) -> tuple[int, str, str]:
        try:
            cli.main(words)
        except SystemExit as stop:
            status = stop.code or 0
        else:
            status = 0
        told = capsys.readouterr()
        return int(status), told.out, told.err

    return run_tsrollup


def parsed(result: tuple[int, str, str]) -> Any:
    status, out, err = result
    assert status == 0, err
    return json.loads(out)


def test_from_nothing_and_back(run: Run) -> None:
    applied = parsed(run("migrate", "--with", "payload", "--json"))
    assert applied["foundational"]["migrationsExecuted"] > 5
    assert applied["payload"]["migrationsExecuted"] == 2
    assert run("migrate")[1].splitlines()[1].startswith("0 migrations applied")
    states = {row["state"] for row in parsed(run("info", "--json"))["foundational"]["migrations"]}
    assert states == {"Success"}
    assert "create schemas" in run("info")[1]
    assert parsed(run("validate", "--json"))["foundational"]["validationSuccessful"]
    assert "nothing to repair" in run("repair")[1]
    cleaned = parsed(run("clean", "--force", "--rollups", "--with", "payload", "--json"))
    assert list(cleaned) == ["payload", "foundational"]
    assert parsed(run("migrate", "--json"))["foundational"]["success"]


def test_clean_asks_for_force(run: Run) -> None:
    run("migrate", "--with", "payload")
    status, _, err = run("clean")
    assert status == 1
    assert "table rollup_engine.change_log" in err
    assert err.splitlines()[-1].endswith("add --force to drop it, for good")
    status, _, err = run("clean", "--force")
    assert status == 1
    assert "silver.example_readings_1h" in err.splitlines()[-1]


def test_placeholders_name_the_roles(run: Run, server: PostgresServer) -> None:
    role = "tsrollup_flyway_test_reader"
    try:
        assert run("migrate", "--placeholder", f"reader_role={role}")[0] == 0
        status, _, err = run("migrate", "--placeholder", "no_such=1")
        assert status == 1
        assert "no_such is not a placeholder" in err
        for odd in ("o'x", 'o"x', r"o\x", "o$$"):
            status, _, err = run("migrate", "--placeholder", f"owner_role={odd}")
            assert (status, f"{odd} is no name for owner_role" in err) == (1, True)
        assert run("migrate", "--placeholder", "nothing")[0] == 1
    finally:
        with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
            names = connection.execute(
                "SELECT datname FROM pg_shdepend JOIN pg_database d ON d.oid = dbid"
                " WHERE refobjid = to_regrole(%s)",
                [role],
            ).fetchall()
        for (name,) in set(names):
            with psycopg.connect(server.superuser_url(name), autocommit=True) as connection:
                connection.execute(f"DROP OWNED BY {role}".encode())
        with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP ROLE IF EXISTS {role}".encode())


def test_baseline_and_what_it_skips(run: Run) -> None:
    assert run("baseline", "--version", "3")[0] == 0
    rows = parsed(run("info", "--json"))["foundational"]["migrations"]
    states = {row["version"]: row["state"] for row in rows if row["type"] == "SQL"}
    assert (states["1"], states["3"]) == ("Below Baseline", "Ignored (Baseline)")
    assert states["4"] == "Pending"


def test_flyway_line_keeps_its_exit_code(run: Run) -> None:
    assert run("flyway", "-v")[0] == 0
    assert run("flyway", "nonsense")[0] == 1
    assert run("flyway", "-url=jdbc:postgresql://127.0.0.1:1/x", "info")[0] == 1
    assert run("flyway", "undo")[0] == 35


def test_a_failure_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSROLLUP_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    status, _, err = run("migrate")
    assert status == 1
    assert "secret" not in err
    assert len(err.splitlines()) == 1
    assert err.startswith("error: cannot connect")
