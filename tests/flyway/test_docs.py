"""Every command of docs/migrations.md, in its order, with ours and with a real Flyway."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from flyway.runners import ENVIRONMENT, HOME, ROOT
from servers import PostgresServer

PAGE = (ROOT / "docs" / "migrations.md").read_text()
FENCE = re.compile(r"```(console|sql)\n(.*?)```", re.DOTALL)
# The page has one Flyway for two databases; a reader's .conf files tell them apart.
SHIM = """#!/bin/sh
case "$*" in
    *flyway-postgres.conf*) export FLYWAY_URL="$CRON_DATABASE_URL" ;;
esac
exec {program} "$@"
"""


@dataclass(frozen=True)
class Example:
    language: str
    text: str
    refused: bool = False


def examples() -> Iterator[Example]:
    for language, text in FENCE.findall(PAGE):
        if language == "sql":
            yield Example(language, text)
            continue
        for line in text.splitlines():
            command, _, remark = line.removeprefix("$ ").partition("  # ")
            yield Example(language, command, remark == "refused")


@pytest.fixture
def databases(one_server: PostgresServer) -> Iterator[tuple[str, str]]:
    names = one_server.create_database(), one_server.create_database()
    yield names
    for name in names:
        one_server.drop_database(name)


@pytest.mark.parametrize("runner", ["ours", "flyway"])
def test_commands(
    runner: str,
    one_server: PostgresServer,
    databases: tuple[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    program = "tsrollup flyway"
    if runner == "flyway":
        request.getfixturevalue("real_flyway")
        program = f"{HOME / 'flyway'} -skipCheckForUpdate"
    shim = tmp_path / "flyway"
    shim.write_text(SHIM.format(program=program))
    shim.chmod(0o755)
    urls = [one_server.url(name) for name in databases]
    jdbc = ["jdbc:" + url.replace(f"{one_server.user}@", "") for url in urls]
    environment = {
        **ENVIRONMENT,
        "PATH": os.pathsep.join(
            [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "HOME": str(tmp_path),
        "TSROLLUP_URL": urls[0],
        "FLYWAY_URL": jdbc[0],
        "CRON_DATABASE_URL": jdbc[1],
        "FLYWAY_USER": one_server.user,
    }
    for example in examples():
        if example.language == "sql":
            with psycopg.connect(urls[0], autocommit=True) as connection:
                connection.execute(example.text.encode())
        elif runner == "ours" or example.text.startswith("flyway"):
            done = subprocess.run(
                example.text.split(), cwd=ROOT, env=environment, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            assert (done.returncode != 0) == example.refused, (example.text, done.stderr)


def test_the_page_shows_every_command() -> None:
    told = " ".join(example.text for example in examples())
    for command in ("migrate", "info", "validate", "repair", "clean"):
        assert re.search(rf"\.conf( -\S+)* {command}\b", told), command
