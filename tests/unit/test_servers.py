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


def test_every_test_has_its_own_clone_of_the_migrated_database(
    server: PostgresServer, db: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    db.execute("CREATE TABLE public.only_here (id integer)")
    assert connect().execute("SELECT count(*) FROM silver.rollup_config").fetchone() == (0,)
    assert connect(user=server.superuser).info.user == server.superuser
    with psycopg.connect(server.url("postgres")) as elsewhere:
        clones = elsewhere.execute("SELECT to_regclass('public.only_here')").fetchone()
    assert clones == (None,)
