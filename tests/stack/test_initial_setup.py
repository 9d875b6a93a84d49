"""V1 to V4: schemas, extensions, roles and permissions, on any database, as any role that may."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from servers import PostgresServer
from tsrollup.errors import TsrollupError
from tsrollup.flyway import Configuration, FlywayError, baseline, migrate, repair
from tsrollup.installation import misfit
from tsrollup.migrations import migrate_project, project_configuration

SCHEMAS = {"raw", "silver", "gold", "partman", "rollup_engine"}


@dataclass(frozen=True)
class Setup:
    """Group roles of a test's own, and an ordinary role that owns a database."""

    server: PostgresServer
    owner: str
    operator: str
    writer: str
    reader: str
    login: str
    database: str

    @property
    def url(self) -> str:
        return self.server.url(self.database, self.login)

    def roles(self) -> dict[str, str]:
        return {f"{kind}_role": getattr(self, kind) for kind in GROUPS}

    def run(self, url: str | None = None, **placeholders: str) -> None:
        values = {**self.roles(), **placeholders}
        with project_configuration("foundational", url or self.url, values) as configuration:
            first, *_ = configuration.locations
            assert Path(first).name == "initial-setup"
            migrate(replace(configuration, locations=(first,)))

    def as_superuser(self, statement: str, database: str | None = None) -> list[tuple[object, ...]]:
        url = self.server.superuser_url(database or self.database)
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def ask(self, query: str) -> object:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row
        return row[0]


GROUPS = ("owner", "operator", "writer", "reader")


@pytest.fixture
def role_names(server: PostgresServer) -> Iterator[dict[str, str]]:
    """Names of roles that nobody else has; dropped after the databases of the test."""
    suffix = secrets.token_hex(4)
    names = {kind: f"t_{kind}_{suffix}" for kind in (*GROUPS, "login")}
    yield names
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
        for name in (*names.values(), *(quoted(name) for name in names.values())):
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def quoted(role: str) -> str:
    """Another role, whose name only works between quotes."""
    return role.replace("_", "-").upper()


@pytest.fixture
def setup(
    role_names: dict[str, str], server: PostgresServer, make_database: Callable[..., str]
) -> Setup:
    setup = Setup(server=server, database=make_database(), **role_names)
    setup.as_superuser(f"CREATE ROLE {setup.login} LOGIN CREATEROLE")
    setup.as_superuser(f"ALTER DATABASE {setup.database} OWNER TO {setup.login}")
    return setup


def test_an_ordinary_owner_of_the_database_sets_everything_up(setup: Setup) -> None:
    setup.run()
    setup.run()
    names = setup.as_superuser("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^inf'")
    assert {name for (name,) in names} >= SCHEMAS
    assert setup.ask(f"SELECT pg_has_role('{setup.owner}', 'USAGE')") is True
    with psycopg.connect(setup.url) as connection:
        connection.execute(f"SET ROLE {setup.owner}")
        for schema in ("silver", "gold", "rollup_engine"):
            connection.execute(f"CREATE TABLE {schema}.mine (id integer)")


def test_extensions_never_land_in_the_schema_that_clean_empties(setup: Setup) -> None:
    setup.run(setup.server.superuser_url(setup.database))
    found = setup.as_superuser(
        "SELECT extname, extnamespace::regnamespace::text FROM pg_extension"
        " WHERE extname NOT IN ('plpgsql', 'pg_cron')"
    )
    wanted = {"ltree": "public", "btree_gin": "public", "hypopg": "public"}
    wanted |= {"pg_partman": "partman", "pg_stat_statements": "public"}
    assert {str(name): schema for name, schema in found}.items() <= wanted.items()
    assert {"ltree", "btree_gin"} <= {name for name, _ in found}


def test_databases_that_are_set_up_at_once_share_the_roles(
    setup: Setup, make_database: Callable[..., str]
) -> None:
    databases = [make_database() for _ in range(5)]
    for database in databases:
        setup.as_superuser(f"ALTER DATABASE {database} OWNER TO {setup.login}")
    urls = [setup.server.url(x, setup.login) for x in [setup.database, *databases]]
    with ThreadPoolExecutor(len(urls)) as pool:
        list(pool.map(setup.run, urls))
    names = ", ".join(f"'{name}'" for name in setup.roles().values())
    count = setup.ask(f"SELECT count(*) FROM pg_roles WHERE rolname IN ({names})")
    assert count == len(GROUPS)


def test_what_an_application_has_stays_as_it_is(setup: Setup) -> None:
    setup.as_superuser("""
        CREATE SCHEMA raw;
        CREATE TABLE raw.orders (id integer PRIMARY KEY, at timestamptz);
        CREATE TABLE public.customers (id integer);
        CREATE VIEW public.recent AS SELECT * FROM raw.orders;
    """)
    described = """
        SELECT c.oid, c.relname, c.relowner, c.relacl::text, n.nspname, n.nspowner, n.nspacl::text
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('raw', 'public') AND c.relname !~ '^pg_stat_statements|^hypopg'
        ORDER BY c.oid
    """
    before = setup.as_superuser(described)
    setup.run()
    assert setup.as_superuser(described) == before


def test_a_schema_of_somebody_elses_is_named_in_the_error(setup: Setup) -> None:
    setup.as_superuser("CREATE SCHEMA silver")
    with pytest.raises(FlywayError, match=r"schema silver belongs to postgres"):
        setup.run()
    setup.as_superuser(f"GRANT USAGE, CREATE ON SCHEMA silver TO {setup.login} WITH GRANT OPTION")
    setup.run()


@pytest.mark.parametrize("schema", ["rollup_engine", "silver", "gold"])
def test_a_schema_whose_owner_could_replace_what_is_made_in_it_is_refused(
    setup: Setup, schema: str
) -> None:
    stranger = f"{setup.login}_stranger"
    setup.as_superuser(f"CREATE ROLE {stranger}; CREATE SCHEMA {schema} AUTHORIZATION {stranger}")
    superuser = setup.server.superuser_url(setup.database)
    try:
        with pytest.raises(FlywayError, match=f"schema {schema} belongs to {stranger}") as refusal:
            setup.run(superuser)
        assert refusal.value.hint is None or f"ALTER SCHEMA {schema} OWNER TO" in refusal.value.hint
    finally:
        setup.as_superuser(f"ALTER SCHEMA {schema} OWNER TO postgres; DROP ROLE {stranger}")
    setup.run(superuser)


@pytest.mark.parametrize("command", [migrate, repair, baseline])
def test_a_history_of_somebody_elses_is_not_written_into(
    setup: Setup, command: Callable[[Configuration], object]
) -> None:
    stranger = f"{setup.login}_stranger"
    history = "rollup_engine.schema_history_foundational"
    setup.as_superuser(f"CREATE ROLE {stranger}; CREATE SCHEMA rollup_engine")
    setup.as_superuser(f"""
        CREATE TABLE {history} (
            installed_rank integer PRIMARY KEY, version varchar(50),
            description varchar(200) NOT NULL,
            type varchar(20) NOT NULL, script varchar(1000) NOT NULL, checksum integer,
            installed_by varchar(100) NOT NULL, installed_on timestamp NOT NULL DEFAULT now(),
            execution_time integer NOT NULL, success boolean NOT NULL);
        ALTER TABLE {history} OWNER TO {stranger}
    """)
    superuser = setup.server.superuser_url(setup.database)
    try:
        with (
            project_configuration("foundational", superuser) as known,
            pytest.raises(FlywayError, match=f"table {history} belongs to {stranger}"),
        ):
            command(known)
    finally:
        setup.as_superuser(f"DROP TABLE {history}; DROP ROLE {stranger}")


def test_a_role_that_may_not_create_roles_hears_which_are_missing(setup: Setup) -> None:
    setup.as_superuser(f"ALTER ROLE {setup.login} NOCREATEROLE")
    with pytest.raises(FlywayError, match=rf"may not create the group roles .*{setup.writer}"):
        setup.run()


def test_group_roles_may_have_names_that_need_quotes(setup: Setup) -> None:
    names = {kind: quoted(name) for kind, name in setup.roles().items()}
    with project_configuration("foundational", setup.url, names) as configuration:
        migrate(configuration)
        migrate(configuration)  # what is there is known for ours
    with psycopg.connect(setup.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.readings (ts timestamptz, v integer)")
        connection.execute(
            "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour')"
        )
        connection.execute("CALL silver.run_rollups()")
    reader = names["reader_role"]
    assert setup.ask(f"SELECT has_table_privilege('{reader}', 'gold.readings_1h', 'SELECT')")


def test_roles_made_beforehand_ask_for_membership_only(setup: Setup) -> None:
    setup.as_superuser(f"ALTER ROLE {setup.login} NOCREATEROLE")
    for role in setup.roles().values():
        setup.as_superuser(f"CREATE ROLE {role}")
    with pytest.raises(FlywayError, match=rf"is not a member of {setup.owner}"):
        setup.run()
    setup.as_superuser(f"GRANT {setup.owner} TO {setup.login}")
    setup.run()


def test_rds_iam_is_granted_where_it_exists_but_never_to_who_migrates(setup: Setup) -> None:
    if not setup.as_superuser("SELECT FROM pg_roles WHERE rolname = 'rds_iam'"):
        setup.as_superuser("CREATE ROLE rds_iam")
    try:
        setup.run(setup.server.superuser_url(setup.database))
        for role in (setup.operator, setup.writer, setup.reader):
            assert setup.ask(f"SELECT pg_has_role('{role}', 'rds_iam', 'MEMBER')") is True
        assert setup.ask(f"SELECT pg_has_role('{setup.owner}', 'rds_iam', 'MEMBER')") is False
        assert setup.ask("SELECT pg_has_role('rds_iam', 'MEMBER')") is False
    finally:
        setup.as_superuser("DROP ROLE rds_iam")


@pytest.mark.parametrize(("wanted", "setting"), [("off", ["jit=off"]), ("keep", None)])
def test_jit_follows_its_placeholder(setup: Setup, wanted: str, setting: list[str] | None) -> None:
    setup.run(database_jit=wanted)
    assert database_settings(setup) == setting


def test_jit_that_somebody_has_set_stays(setup: Setup) -> None:
    setup.as_superuser(f"ALTER DATABASE {setup.database} SET jit = on")
    setup.run(database_jit="off")
    assert database_settings(setup) == ["jit=on"]


def test_nobody_else_may_look_into_the_schemas(setup: Setup) -> None:
    setup.run()
    setup.as_superuser(f"GRANT CONNECT ON DATABASE {setup.database} TO PUBLIC")
    with psycopg.connect(make_conninfo(setup.url, user=setup.server.superuser)) as connection:
        connection.execute(f"CREATE ROLE {setup.database}_nobody")
        connection.execute(f"SET ROLE {setup.database}_nobody")
        for schema in SCHEMAS:
            row = connection.execute(
                "SELECT has_schema_privilege(%s, 'USAGE'), has_schema_privilege(%s, 'CREATE')",
                [schema, schema],
            ).fetchone()
            assert row == (False, False), schema
        connection.rollback()


def database_settings(setup: Setup) -> list[str] | None:
    rows = setup.as_superuser(
        "SELECT setconfig FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = setdatabase"
        f" WHERE datname = '{setup.database}' AND setrole = 0"
    )
    return rows[0][0] if rows else None  # type: ignore[return-value]


def test_a_server_without_the_group_roles_is_told_which_to_create(setup: Setup) -> None:
    """As after a restore on another server."""
    url = setup.server.superuser_url(setup.database)
    migrate_project(url, placeholders=setup.roles())
    lost = list(setup.roles().values())
    for role in lost:
        setup.as_superuser(f'ALTER ROLE {role} RENAME TO "{quoted(role)}"')
    with psycopg.connect(url, autocommit=True) as connection:
        error = misfit(connection)
    assert error
    assert ", ".join(lost) in error.message
    with pytest.raises(TsrollupError, match="lacks the group roles"):
        migrate_project(url, placeholders=setup.roles())
    statements, _, _ = (error.hint or "").rpartition("; then run tsrollup migrate")
    assert all(f"CREATE ROLE {role}" in statements for role in lost)
    setup.as_superuser(statements)
    migrate_project(url, placeholders=setup.roles())
    with psycopg.connect(url, autocommit=True) as connection:
        assert misfit(connection) is None
        assert connection.execute("SELECT rollup_engine.has_rights()").fetchone() == (True,)


def test_rights_that_a_restore_has_lost_and_the_one_who_migrates_cannot_give(setup: Setup) -> None:
    """As of a dump restored without owners, by one who is no member of the owner role there."""
    migrate_project(setup.url, placeholders=setup.roles())
    setup.as_superuser(
        f"REVOKE {setup.owner} FROM {setup.login} CASCADE;"
        f"ALTER TABLE silver.rollup_config OWNER TO {setup.login}"
    )
    with pytest.raises(FlywayError) as refused:
        migrate_project(setup.url, placeholders=setup.roles())
    assert f"lack their rights, as after a restore without them, and {setup.login}" in str(
        refused.value
    )
    grant = f"GRANT {setup.owner} TO {setup.login}"
    assert grant in str(refused.value)
    setup.as_superuser(grant)
    migrate_project(setup.url, placeholders=setup.roles())
    with psycopg.connect(setup.url) as connection:
        assert misfit(connection) is None
        assert connection.execute("SELECT rollup_engine.has_rights()").fetchone() == (True,)
