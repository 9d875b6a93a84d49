"""PostgreSQL itself upgraded, by dump and restore."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from kept_releases import play_scene, run_program
from rollup_checks import assert_equal_to_group_by, assert_settled
from servers import TEST_ROLE, PostgresServer
from tsrollup.doctor import Finding, examine
from tsrollup.migrations import migrate_project

FINE = ("readings_15m", '"Odd 1d"')


@pytest.fixture
def dump(older_server: PostgresServer, tmp_path: Path) -> Iterator[Path]:
    database = older_server.create_database()
    url = older_server.superuser_url(database)
    migrate_project(older_server.url(database))  # an ordinary role: no extension but contrib's
    play_scene(older_server, older_server.url(database))
    run_program(older_server, "pg_dump", "-Fc", "-f", str(tmp_path / "dump"), url)
    yield tmp_path / "dump"
    older_server.drop_database(database)


@pytest.fixture
def upgraded(
    server: PostgresServer,
    older_server: PostgresServer,
    make_database: Callable[..., str],
    template: str,  # noqa: ARG001  a dump takes no roles along
    dump: Path,
) -> str:
    database = make_database()
    url = server.superuser_url(database)
    with psycopg.connect(url) as connection:
        if connection.execute("SELECT to_regrole(%s)", [TEST_ROLE]).fetchone() == (None,):
            connection.execute(f"CREATE ROLE {TEST_ROLE} LOGIN CREATEROLE".encode())
        connection.execute(f"GRANT tsrollup_owner TO {TEST_ROLE}".encode())
    # 16 and 17 come without programs of their own.
    restorer = server if server.version >= 18 else older_server
    run_program(restorer, "pg_restore", "-e", "-d", url, str(dump))
    return server.url(database, TEST_ROLE)


def generated(url: str) -> list[Finding]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return [x for x in examine(connection) if x.check == "generated functions"]


def test_promise_i_a_newer_postgresql(upgraded: str) -> None:
    # What is generated is the same text on every version.
    assert generated(upgraded) == []
    with psycopg.connect(upgraded, autocommit=True) as db:
        assert_equal_to_group_by(db, *FINE)
    migrate_project(upgraded)
    assert generated(upgraded) == []
    with psycopg.connect(upgraded, autocommit=True) as db:
        assert_equal_to_group_by(db, *FINE)
        # What newer servers hand to triggers is not what 15 does.
        db.execute(
            "MERGE INTO raw.readings AS t USING (VALUES ('d1', 5), ('new', 7)) AS s (device, temp)"
            " ON t.device = s.device AND t.ts > '2026-03-09'"
            " WHEN MATCHED THEN UPDATE SET ts = t.ts - interval '3 days', temp = s.temp"
            " WHEN NOT MATCHED THEN INSERT (ts, device, temp) VALUES ('2026-03-05 01:02', 'new', 7)"
        )
        assert_equal_to_group_by(db, *FINE)
        db.execute("CALL silver.run_rollups()")
        assert_settled(db, *FINE)
