"""A database on a coordinator of Citus and its workers. Where TSROLLUP_CITUS_URL, a superuser's way
to any database there that has Citus and knows its workers, is not set, the tests are skipped."""

import os
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from distributed_tables import Cluster, create_readings, drop_rollups_of, fill
from tsrollup.migrations import migrate_project

VARIABLE = "TSROLLUP_CITUS_URL"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """All tests share one: to migrate it takes longer than they do."""
    given = os.environ.get(VARIABLE)
    if not given:
        pytest.skip(f"{VARIABLE} is not set")
    database = f"tsrollup_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(given) as connection:
        here = (connection.info.host, connection.info.port)
        nodes = connection.execute(
            "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY 2"
        ).fetchall()
    parts = {key: str(value) for key, value in conninfo_to_dict(given).items() if value}
    urls = [make_conninfo(**{**parts, "host": h, "port": p}) for h, p in (here, *nodes)]
    name = sql.Identifier(database)
    for url in urls:
        _run(url, sql.SQL("SET citus.enable_create_database_propagation = off"))
        _run(url, sql.SQL("CREATE DATABASE {}").format(name))
    homes = [make_conninfo(url, dbname=database) for url in urls]
    try:
        for home in homes:
            _run(home, sql.SQL("CREATE EXTENSION citus"))
        with psycopg.connect(homes[0], autocommit=True) as connection:
            connection.execute("SELECT citus_set_coordinator_host(%s, %s)", here)
            for node in nodes:
                connection.execute("SELECT citus_add_node(%s, %s)", node)
        migrate_project(homes[0])
        yield Cluster(homes[0], tuple(homes[1:]))
    finally:
        for url in urls:
            _run(url, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def db(cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with cluster.connect() as connection:
        yield connection


@pytest.fixture
def readings(cluster: Cluster, db: psycopg.Connection[Any]) -> Iterator[str]:
    """A table of this test's own, distributed by device: six devices, a row every two minutes of
    the last two days."""
    name = f"raw.r{uuid.uuid4().hex[:8]}"
    create_readings(db, name)
    fill(db, name, "48 hours")
    yield name
    with cluster.connect() as connection:  # of the test's own a worker may have hung up
        drop_rollups_of(connection, name)


def _run(url: str, statement: sql.SQL | sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
