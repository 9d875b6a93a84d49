"""The hierarchy of raw_tables, refreshed: where every interleaving begins."""

import psycopg
import pytest

from raw_tables import create_hierarchy
from rollup_checks import refresh_everything


@pytest.fixture
def settled(db: psycopg.Connection) -> psycopg.Connection:
    """The hierarchy, refreshed."""
    create_hierarchy(db)
    refresh_everything(db)
    return db
