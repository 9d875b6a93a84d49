"""What several tests begin with is made once on each server; each test gets a clone of it."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

Scene = Callable[[psycopg.Connection[Any]], psycopg.Connection[Any]]

_SCENES: list[Scene] = []


def scene(prepare: Scene) -> Any:
    """A fixture: `db`, in a clone of the database that `prepare` has filled.

    What it sets in its session is not there, and `now()` was some minutes ago.
    """

    def prepared(db: psycopg.Connection) -> psycopg.Connection:
        return db

    _SCENES.append(prepare)
    return pytest.fixture(name=prepare.__name__)(prepared)


def scene_of(request: pytest.FixtureRequest) -> Scene | None:
    """The scene that the test asks for: its own module's, or its conftest's."""
    module = request.module.__name__
    homes = (module, f"{module.rpartition('.')[0]}.conftest")
    found = [
        prepare
        for prepare in _SCENES
        if prepare.__module__ in homes and prepare.__name__ in request.fixturenames
    ]
    assert len(found) <= 1, f"one scene a test, not {found}"
    return found[0] if found else None
