"""The command line's words: where global options may stand, and that each is documented."""

from pathlib import Path

import pytest

from tsrollup.cli import app, hoist


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


def commands() -> dict[str, str]:
    """The help of each command, by its words."""
    groups = [
        ("", app),
        *((f"{group.name} ", group.typer_instance) for group in app.registered_groups),
    ]
    return {
        prefix + (command.name or command.callback.__name__.replace("_", "-")): command.help
        or command.callback.__doc__
        or ""
        for prefix, group in groups
        if group
        for command in group.registered_commands
        if command.callback
    }


def test_every_command_is_on_the_page_about_the_command_line() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    assert len(commands()) > 25
    assert [name for name in commands() if f"`{name}`" not in page] == []


def test_the_help_of_every_command_has_an_example() -> None:
    assert [
        name for name, text in commands().items() if f"Example: tsrollup {name}" not in text
    ] == []
