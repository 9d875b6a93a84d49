"""The command line's words: where global options may stand, and that each is documented."""

import re
from pathlib import Path

import pytest

from tsrollup.cli import app, hoist
from tsrollup.commands.server import server


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("status --url u", "--url u status"),
        ("status --json --url=u", "--json --url=u status"),
        ("server start --debug --port 1", "--debug server start --port 1"),
        ("flyway -url=u --json info", "flyway -url=u --json info"),
        ("--url u flyway --debug migrate", "--url u flyway --debug migrate"),
        ("log flyway --json", "--json log flyway"),
        ("drop -- --json", "drop -- --json"),
        ("status --url", "--url status"),
    ],
)
def test_hoist(given: str, expected: str) -> None:
    assert hoist(given.split()) == expected.split()


def test_every_command_is_on_the_page_about_the_command_line() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    commands = [*app.registered_commands, *server.registered_commands]
    names = [command.name or getattr(command.callback, "__name__", "") for command in commands]
    assert len(names) > 15
    assert [name for name in names if not re.search(rf"`(server )?{name}`", page)] == []
