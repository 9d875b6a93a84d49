"""The command line where things are not as they should be: one clear line, never a traceback."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from command_line import tsrollup
from servers import PostgresServer
from tsrollup.flyway import migrate
from tsrollup.migrations import project_configuration

pytestmark = pytest.mark.spread


@pytest.fixture
def half_migrated(server: PostgresServer, make_database: Callable[..., str]) -> str:
    url = server.url(make_database())
    with project_configuration("foundational", url) as known:
        # The engine, which comes last, is not reached.
        migrate(replace(known, target="8", repeatable_sql_migration_prefix="none"))
    return url


@pytest.mark.parametrize("command", ["status", "run", "log", "worker", "drop x"])
def test_migrations_that_ended_half_way_are_named(half_migrated: str, command: str) -> None:
    done = tsrollup(*command.split(), url=half_migrated)
    assert done.code == 1
    assert "not migrated to the end; run tsrollup migrate" in done.err


def test_the_doctor_finds_migrations_that_ended_half_way(half_migrated: str) -> None:
    done = tsrollup("doctor", "--json", url=half_migrated)
    assert done.code == 1
    (found,) = [x for x in done.json() if x["check"] == "installation"]
    assert (found["verdict"], found["next_step"]) == ("problem", "tsrollup migrate")


def test_the_doctor_finds_triggers_that_came_with_another_database(
    server: PostgresServer, database: str
) -> None:
    url = server.url(database)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE raw.readings (ts timestamptz, v integer)",
            "SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')",
            "CREATE TABLE public.other (ts timestamptz, v integer)",
            "CREATE TRIGGER tsrollup_insert_1 AFTER INSERT ON public.other"
            " FOR EACH STATEMENT EXECUTE FUNCTION rollup_engine.capture_1()",
        ):
            connection.execute(statement.encode())
    done = tsrollup("doctor", "--json", url=url)
    (found,) = [x for x in done.json() if "capture triggers of raw.readings" in x["found"]]
    assert (found["check"], found["verdict"]) == ("public.other", "advice")
    tsrollup("run", url=url)
    assert "capture triggers of raw.readings" not in tsrollup("doctor", "--json", url=url).out


def test_the_log_of_a_rollup_that_never_was_is_an_error(
    server: PostgresServer, database: str
) -> None:
    url = server.url(database)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.readings (ts timestamptz, v integer)")
        connection.execute("INSERT INTO raw.readings VALUES ('2026-01-01', 1)")
        connection.execute(
            "SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')"
        )
    for extra in ([], ["--errors"]):
        missing = tsrollup("log", "readings_2h", *extra, url=url)
        assert (missing.code, "there is no rollup readings_2h" in missing.err) == (1, True)
        assert tsrollup("log", "readings_1h", *extra, url=url).code == 0
    tsrollup("run", url=url)
    tsrollup("drop", "readings_1h", url=url)
    assert tsrollup("log", "silver.readings_1h", url=url).code == 0, "logs outlive rollups"


def test_an_empty_url_is_wrong_usage() -> None:
    done = tsrollup("drop", "readings_1h", "--url", "")
    assert done.code == 2
    assert "--url" in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line(server: PostgresServer, database: str) -> None:
    command = [sys.executable, "-m", "tsrollup", "status", "--url", server.url(database)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_closed_output_changes_nothing(server: PostgresServer, database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tsrollup", "status", "--url", server.url(database)],
        preexec_fn=lambda: os.close(1),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "url",
    [
        "postgrseql://me:tiger7@127.0.0.1:1/there",
        "postgresql//me:tiger7@127.0.0.1:1/there",
        "postgresql://me:scott@tiger7@127.0.0.1:1/there",
        "postgresql://me:12/tiger7@127.0.0.1:1/there",
        "host=127.0.0.1 port=1 password=scott tiger7",
        "postgresql://me:tiger7@127.0.0.1:many/there",
        "postgresql://me:tiger7@127.0.0.1:1/there?nonsense=1",
        "mysql://me:tiger7@127.0.0.1/there",
        "postgresql://me:tiger7/there",
        "postgresql+psycopg://me:tiger7",
        "postgresql://me:tiger7:127.0.0.1:5432/there",
        "postgresql://me:tiger7,127.0.0.1/there",
        '"postgresql://me:tiger7@127.0.0.1:1/there"',
    ],
)
@pytest.mark.parametrize("command", ["status", "migrate"])
def test_a_mistyped_url_prints_no_password(url: str, command: str) -> None:
    done = tsrollup(command, "--url", url)
    assert done.code == 1
    assert (done.err.count("\n"), done.err.startswith("error: ")) == (1, True)
    assert "tiger7" not in done.out + done.err


@pytest.mark.parametrize(
    "line", ["demo {}", "status {}", "{} status", "run --json {}", "worker {}"]
)
def test_a_url_without_its_option_is_not_printed(line: str) -> None:
    done = tsrollup(*line.format("postgresql://me:tiger7@127.0.0.1:1/there").split())
    assert done.code == 2
    assert "--url" in done.err
    assert "tiger7" not in done.out + done.err


@pytest.mark.parametrize(
    "url", ["jdbc:postgresql://u:tiger7@h:1/x", "jdbc:postgresql:/u:tiger7@h/x", "u:tiger7@h"]
)
def test_flyways_url_prints_no_password(url: str) -> None:
    done = tsrollup("flyway", f"-url={url}", "info")
    assert done.code == 1
    assert "tiger7" not in done.out + done.err


# What the commands look up, put into a schema that comes first.
IMPOSTORS = (
    ("to_regclass", "text", "regclass"),
    ("to_regprocedure", "text", "regprocedure"),
    ("current_setting", "text", "text"),
    ("clock_timestamp", "", "timestamptz"),
    ("pg_has_role", "name, oid, text", "boolean"),
    ("has_schema_privilege", "text, text", "boolean"),
    ("has_table_privilege", "text, text", "boolean"),
    ("pg_get_userbyid", "oid", "name"),
    ("parse_ident", "text, boolean", "text[]"),
)


def test_no_command_looks_a_name_up_where_the_databases_owner_put_it(
    server: PostgresServer, database: str
) -> None:
    url = server.url(database)
    make_source(url, "raw.readings")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA evil; CREATE TABLE evil.called (name text)")
        for name, arguments, result in IMPOSTORS:
            connection.execute(
                f"CREATE FUNCTION evil.{name}({arguments}) RETURNS {result} LANGUAGE sql AS"
                f" $$ INSERT INTO evil.called VALUES ('{name}'); SELECT NULL::{result} $$".encode()
            )
        connection.execute(
            "CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE sql"
            " AS $$ INSERT INTO evil.called VALUES ('='); SELECT true $$;"
            "CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same)"
        )
        connection.execute(
            f'ALTER DATABASE "{database}" SET search_path = evil, pg_catalog'.encode()
        )
    for command in (
        "create readings readings_1h 1h", "run", "run readings_1h", "status", "log",
        "refresh readings_1h 2026-01-01 2026-01-02", "doctor", "drop readings_1h",
    ):  # fmt: skip
        done = tsrollup(*command.split(), url=url)
        assert done.code == 0, f"{command}: {done.err}"
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT name FROM evil.called").fetchall() == []


def test_a_url_with_a_driver_as_sqlalchemy_writes_it(server: PostgresServer, database: str) -> None:
    url = server.url(database)
    for driver in ("postgresql+psycopg", "postgresql+asyncpg", "postgres+psycopg2", "postgres"):
        assert tsrollup("status", url=url.replace("postgresql", driver, 1)).code == 0
    assert tsrollup("info", url=url.replace("postgresql", "postgresql+psycopg", 1)).code == 0


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_a_client_encoding_of_the_environment_changes_nothing(
    server: PostgresServer, database: str, encoding: str
) -> None:
    url = server.url(database)
    make_source(url, "raw.größe")
    given = {"url": url, "PGCLIENTENCODING": encoding}
    assert tsrollup("create", "größe", "größe_1h", "1 hour", **given).code == 0
    (ran,) = tsrollup("run", "--json", **given).json()
    assert ran["target"] == 'silver."größe_1h"'
    assert tsrollup("status", "--json", **given).code == 0
    assert tsrollup("doctor", "--json", **given).code == 0
    assert tsrollup("info", "--json", **given).code == 0


def test_a_database_without_an_encoding(
    server: PostgresServer, make_database: Callable[..., str], database: str
) -> None:
    name = make_database()
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}"')
        connection.execute(
            f'CREATE DATABASE "{name}" TEMPLATE template0 OWNER {server.user}'
            " ENCODING 'SQL_ASCII' LOCALE 'C'"
            + (" LOCALE_PROVIDER libc" if server.version >= 17 else "")
        )
    url = server.url(name)
    migrated = tsrollup("migrate", url=url)
    assert migrated.code == 0, migrated.err
    make_source(url, "raw.readings", client_encoding="UTF8")
    for command in ("create readings r 1h", "run", "status --json", "log", "drop r"):
        done = tsrollup(*command.split(), url=url)
        assert done.code == 0, done.err
    with psycopg.connect(url, autocommit=True, client_encoding="LATIN1") as connection:
        connection.execute('CREATE TABLE raw."gr\u00f6\u00dfe" (ts timestamptz, n integer)')
        connection.execute(
            "SELECT silver.create_rollup_table('raw.\"gr\u00f6\u00dfe\"', 'silver', 'g', '1 hour')"
        )
    failed = tsrollup("status", "--json", url=url)
    assert (failed.code, failed.err.count("\n")) == (1, 1)
    assert "UTF" in failed.err
    # pg_stat_statements has the queries of all databases, and none where one has another encoding.
    make_source(server.url(database), "raw.readings")
    assert tsrollup("create", "readings", "r", "1h", url=server.url(database)).code == 0
    with psycopg.connect(server.superuser_url(database), autocommit=True) as connection:
        try:
            figures = "SELECT table_name, query_calls FROM silver.get_detailed_stats('silver.r')"
            assert connection.execute(figures).fetchall() == [("silver.r", None)]
            seen = "SELECT rollup_engine.seen_queries('silver.r', true)"
            assert connection.execute(seen).fetchall() == [([],)]
        finally:
            if server.has("pg_stat_statements"):
                connection.execute("SELECT pg_stat_statements_reset()")


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_another_default_isolation_changes_nothing(
    server: PostgresServer, database: str, isolation: str
) -> None:
    url = server.url(database)
    make_source(url, "raw.readings")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE \"{database}\" SET default_transaction_isolation = '{isolation}'"
        )
    assert tsrollup("create", "readings", "readings_1h", "1 hour", url=url).code == 0
    (ran,) = tsrollup("run", "--json", url=url).json()
    assert (ran["status"], ran["buckets"]) == ("ok", 1)
    assert tsrollup("refresh", "readings_1h", "2026-01-01", "2026-01-02", url=url).code == 0
    dropped = tsrollup("drop", "readings_1h", url=url)
    assert (dropped.code, dropped.err) == (0, "")


def test_status_says_who_locks_a_source(server: PostgresServer, database: str) -> None:
    url = server.url(database)
    make_source(url, "raw.readings")
    assert tsrollup("create", "readings", "readings_1h", "1 hour", url=url).code == 0
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE gold.readings_1h IN ACCESS EXCLUSIVE MODE")
        locked = tsrollup("status", url=url)
        assert locked.code in (0, 1)
        if locked.code:
            assert f"locked by process {connection.info.backend_pid}" in locked.err


def test_an_early_interrupt_is_no_traceback() -> None:
    program = (
        "import sys, threading, _thread; threading.Timer(0.02, _thread.interrupt_main).start()"
    )
    program += "; sys.argv = ['tsrollup', 'server', 'status']"
    program += "; from tsrollup.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr


def test_a_second_demo_says_that_one_is_running(server: PostgresServer, database: str) -> None:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended('tsrollup demo', 0))")
        second = tsrollup("demo", url=server.url(database))
    assert second.code == 1
    assert f"a demo is running in database {database} already" in second.err


def make_source(url: str, name: str, **parameters: Any) -> None:
    with psycopg.connect(url, autocommit=True, **parameters) as connection:
        connection.execute(f"CREATE TABLE {name} (ts timestamptz, n integer)".encode())
        connection.execute(f"INSERT INTO {name} VALUES ('2026-01-01 00:30+00', 1)".encode())


@pytest.mark.parametrize("command", ["migrate", "info", "doctor", "status", "run"])
def test_who_has_no_right_is_told_the_next_step(
    server: PostgresServer, database: str, command: str
) -> None:
    """One who owns nothing of what another has restored, for one."""
    name = f"t_nobody_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as postgres:
        postgres.execute(f"CREATE ROLE {name} LOGIN".encode())
        done = tsrollup(command, url=server.url(database, name))
        postgres.execute(f"DROP ROLE {name}".encode())
    assert done.code == 1
    assert "permission denied for" in done.err
    assert "run it as the owner of that or a superuser" in done.err
