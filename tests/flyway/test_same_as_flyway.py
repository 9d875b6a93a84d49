"""Every scenario ends alike with a real Flyway, with ours, and with one carrying on the other's."""

from pathlib import Path

import psycopg
import pytest

from flyway import (  # noqa: F401 - each registers its scenarios
    scenarios_commands,
    scenarios_corners,
    scenarios_files,
    scenarios_rare,
    scenarios_schemas,
    scenarios_scripts,
    scenarios_states,
)
from flyway.runners import Ours, Resident
from flyway.scenario import SCENARIOS, play
from servers import PostgresServer


def test_there_are_enough_scenarios() -> None:
    assert len(SCENARIOS) >= 40


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_ends_like_flyway(
    name: str,
    one_server: PostgresServer,
    stage: psycopg.Connection,
    tmp_path: Path,
    ours: Ours,
    resident: Resident,
) -> None:
    play(name, one_server, stage, tmp_path, ours, resident)
