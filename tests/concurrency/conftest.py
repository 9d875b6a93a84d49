"""The hierarchy of raw_tables, refreshed: where every interleaving begins; a server to oneself."""

from collections.abc import Iterator

import psycopg
import pytest

from raw_tables import create_hierarchy
from rollup_checks import refresh_everything
from scenes import scene
from servers import PostgresServer, ServerPool, new_pool_folder


@scene
def settled(db: psycopg.Connection) -> psycopg.Connection:
    """The hierarchy, refreshed."""
    create_hierarchy(db)
    refresh_everything(db)
    refresh_everything(db)  # now partitions that the first one made are settled
    return db


@pytest.fixture
def private_server(server: PostgresServer) -> Iterator[tuple[PostgresServer, str]]:
    """A server of the same kind that a test may crash, and a migrated database on it."""
    if server.name not in ("embedded", "debian15"):
        pytest.skip("this server is not ours to crash")
    pool = ServerPool(new_pool_folder(), None)
    private = pool.get(server.name)
    yield private, private.create_database(pool.template(private))
    pool.stop_all()
