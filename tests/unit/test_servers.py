"""The servers that every other test stands on."""

from collections.abc import Callable

import psycopg

from servers import PostgresServer


def test_an_empty_database_belongs_to_the_test_role(
    server: PostgresServer, make_database: Callable[..., str]
) -> None:
    with psycopg.connect(server.url(make_database())) as connection:
        assert connection.info.server_version // 10000 == server.version
        owner = connection.execute(
            "SELECT pg_get_userbyid(datdba) = current_user FROM pg_database"
            " WHERE datname = current_database()"
        ).fetchone()
        superuser = connection.execute("SHOW is_superuser").fetchone()
    assert owner == (True,)
    assert superuser == ("on" if server.name == "embedded" else "off",) or server.name == "dsn"
