"""A name on the command line is an SQL identifier, whichever command it is given to."""

import inspect
from pathlib import Path

import psycopg
import pytest

from command_line import tsrollup_here as tsrollup
from servers import PostgresServer
from tsrollup.cli import app

pytestmark = pytest.mark.spread

# Spellings of silver.w_1m, or of its view, which is the same rollup.
ROLLUP = ["W_1M", "SILVER.W_1M", '"silver"."w_1m"', "gold.w_1m", "Gold.w_1M", ' silver . "w_1m" ']


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        for name in ("raw.w", 'raw."Odd ""W"'):
            connection.execute(f"CREATE TABLE {name} (ts timestamptz, n integer)".encode())
            connection.execute(f"INSERT INTO {name} VALUES ('2026-01-01 00:30+00', 1)".encode())
    return server.url(database)


def test_each_command_that_takes_a_name_is_among_these() -> None:
    taking = {
        callback.__name__
        for command in app.registered_commands
        if (callback := command.callback)
        and {"source", "target", "table"} & inspect.signature(callback).parameters.keys()
    }
    assert taking == {
        *("create", "run", "refresh", "drop", "log", "read", "pause", "resume", "retry"),
        *("rebuild", "retention", "maintain", "suggest_indexes", "mark_stale", "alter"),
    }
    groups = {
        (group.typer_instance.info.name or group.name, command.name or command.callback.__name__)
        for group in app.registered_groups
        if group.typer_instance
        for command in group.typer_instance.registered_commands
        if command.callback
        and {"target", "table"} & inspect.signature(command.callback).parameters.keys()
    }
    assert groups == {
        *(("metric", x) for x in ("add", "drop")),
        *(("archive", x) for x in ("run", "list", "verify", "restore")),
    }


@pytest.mark.parametrize("name", ROLLUP)
def test_every_spelling_of_a_name_is_the_same_rollup(url: str, name: str, tmp_path: Path) -> None:
    created = tsrollup(
        "create", "w", "w_1m", "1 minute", "--change-tracking", "window",
        "--look-back-window", "3650 days", url=url,
    )  # fmt: skip
    assert created.code == 0, created.err
    (ran,) = tsrollup("run", name, "--json", url=url).json()
    assert (ran["target"], ran["batches"]) == ("silver.w_1m", 1)
    assert len(tsrollup("log", name, "--json", url=url).json()) == 1
    assert tsrollup("log", name, "--errors", url=url).out == "no failures\n"
    (refreshed,) = tsrollup("refresh", name, "2026-01-01", "2026-01-02", "--json", url=url).json()
    assert refreshed["target"] == "silver.w_1m"
    for words in (
        ["pause", name], ["resume", name], ["retry", name], ["read", name], ["maintain", name],
        ["mark-stale", name, "2026-01-01", "2026-01-02"], ["retention", name, "forever"],
        ["metric", "add", name, '{"n": ["first"]}'], ["metric", "drop", name, '{"n": ["first"]}'],
        ["rebuild", name], ["alter", name, "--settle-delay", "0 seconds"],
    ):  # fmt: skip
        done = tsrollup(*words, url=url)
        assert done.code == 0, (words, done.err)
    for words in (
        ["run", name, "--to", str(tmp_path)], ["list", name], ["verify", name],
        ["restore", name, "2026-01-01", "2026-01-02"],
    ):  # fmt: skip
        none = tsrollup("archive", *words, url=url)
        assert "silver.w_1m" in none.out + none.err, (words, none)
    child = tsrollup("create", name, "w_1h", "1 hour", "--json", url=url)
    assert child.code == 0, child.err
    assert child.json()["live_view"] == "gold.w_1h"
    assert tsrollup("drop", "w_1h", url=url).code == 0
    assert tsrollup("drop", name, url=url).code == 0
    assert tsrollup("status", "--json", url=url).json() == []
    if "gold" not in name.lower():
        assert len(tsrollup("log", name, "--json", url=url).json()) >= 1, "logs outlive rollups"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("W", "W_1H"),
        ('"w"', '"w_1h"'),
        ("RAW.W", "SILVER.W_1H"),
        ('"raw"."w"', '"silver"."w_1h"'),
        (' raw . "w"', ' silver . "w_1h"'),
    ],
)
def test_every_spelling_of_what_is_created(url: str, source: str, target: str) -> None:
    created = tsrollup("create", source, target, "1 hour", "--json", url=url)
    assert created.code == 0, created.err
    assert created.json() == {"target_table": "silver.w_1h", "live_view": "gold.w_1h"}
    again = tsrollup("create", source, target, "1 hour", "--if-not-exists", "--json", url=url)
    assert again.json() == created.json()


def test_names_that_need_their_quotes(url: str) -> None:
    odd = '"Odd ""W_1h"'
    created = tsrollup("create", '"Odd ""W"', odd, "1 hour", "--json", url=url)
    assert created.code == 0, created.err
    assert created.json() == {"target_table": f"silver.{odd}", "live_view": f"gold.{odd}"}
    for name in (odd, f"SILVER.{odd}", f'"silver".{odd}', f"gold.{odd}"):
        (ran,) = tsrollup("run", name, "--json", url=url).json()
        assert ran["target"] == f"silver.{odd}"
        assert len(tsrollup("log", name, "--json", url=url).json()) == 1
    folded = tsrollup("run", odd.replace('"Odd', '"odd'), url=url)
    assert (folded.code, "there is no rollup" in folded.err) == (1, True)
    assert tsrollup("drop", f"Gold.{odd}", url=url).code == 0


@pytest.mark.parametrize("name", ["a.b.c", "", "w_1h; DROP TABLE raw.w", '"open'])
def test_what_is_no_name_is_one_line(url: str, name: str) -> None:
    assert tsrollup("create", "w", "w_1m", "1 minute", url=url).code == 0
    for words in (
        ["create", name, "w_1h", "1 hour"], ["create", "w", name, "1 hour"], ["run", name],
        ["refresh", name, "2026-01-01", "2026-01-02"], ["log", name], ["drop", name],
        ["pause", name], ["retry", name], ["read", name], ["retention", name, "1 day"],
        ["mark-stale", name, "2026-01-01", "2026-01-02"], ["maintain", name],
    ):  # fmt: skip
        done = tsrollup(*words, url=url)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), words
        assert "is not a table name" in done.err, words


@pytest.mark.parametrize("name", ["W", "RAW.W", '"raw"."w"', ' raw . "w" '])
def test_every_spelling_of_a_name_is_the_same_source(
    url: str, server: PostgresServer, name: str
) -> None:
    created = tsrollup("create", name, "w_1m", "1 minute", url=url)
    assert created.code == 0, created.err
    for words in (
        ["mark-stale", name, "2026-01-01", "2026-01-02"], ["retention", name, "forever"],
        ["maintain", name], *([["suggest-indexes", name]] if server.has("hypopg") else []),
    ):  # fmt: skip
        done = tsrollup(*words, url=url)
        assert done.code == 0, (words, done.err)
