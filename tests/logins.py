"""A role that may log in for each of the group roles."""

import secrets
from collections.abc import Iterator

import psycopg
from psycopg import sql

from servers import PostgresServer

ROLES = ("reader", "writer", "operator", "owner", "nobody")


def make_logins(server: PostgresServer, db: psycopg.Connection) -> Iterator[dict[str, str]]:
    """A role that may log in for each group; and a source of the test role's with a rollup."""
    db.execute("CREATE TABLE raw.readings (ts timestamptz, device text, level float8)")
    db.execute("INSERT INTO raw.readings SELECT now() - interval '1 day', 'a', 1")
    db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour')"
    )
    names = {role: f"t_{role}_{secrets.token_hex(4)}" for role in ROLES}
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as postgres:
        for role, name in names.items():
            postgres.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
            if role != "nobody":
                postgres.execute(
                    sql.SQL("GRANT {} TO {}").format(
                        sql.Identifier(f"tsrollup_{role}"), sql.Identifier(name)
                    )
                )
        yield names
        for name in names.values():
            postgres.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
