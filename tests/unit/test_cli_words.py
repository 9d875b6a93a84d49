"""Where the global options may stand."""

import pytest

from tsrollup.cli import hoist


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
