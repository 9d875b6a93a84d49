"""Who may do what: every group role by every action, allowed and refused."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql

from conftest import Connect
from logins import ROLES, make_logins
from servers import PostgresServer


@pytest.fixture
def logins(server: PostgresServer, db: psycopg.Connection) -> Iterator[dict[str, str]]:
    yield from make_logins(server, db)


# What each role may do; everything else it may not. `owner` is a member of the owner role that
# owns no raw table, `nobody` a role without any membership.
READ_GOLD = "SELECT count(*) FROM gold.readings_1h"
TRUNCATE = "TRUNCATE raw.readings"
ACTIONS: dict[str, tuple[str, set[str]]] = {
    "read gold": (READ_GOLD, {"reader", "operator", "owner"}),
    "fill gaps": (
        "SELECT * FROM silver.gapfill(NULL::gold.readings_1h, now(), now() + interval '1 day')",
        {"reader", "operator", "owner"},
    ),
    "ask which view answers": (
        "SELECT * FROM silver.rollup_for('raw.readings', '1 day')",
        {"reader", "operator", "owner"},
    ),
    "ask for the columns of a live view": (
        "SELECT * FROM silver.live_view_columns('readings_1h')",
        {"reader", "operator", "owner"},
    ),
    "read the monitor": (
        "SELECT * FROM silver.timeseries_operations_monitor",
        {"reader", "operator", "owner"},
    ),
    "bucket": (
        "SELECT silver.time_bucket('1 hour', now()), silver.last_value(1, now())",
        {"reader", "writer", "operator", "owner", "nobody"},
    ),
    "ask for the version": (
        "SELECT silver.version()",
        {"reader", "writer", "operator", "owner", "nobody"},
    ),
    "read states": ("SELECT * FROM silver.readings_1h", {"operator", "owner"}),
    "read the configuration": ("SELECT * FROM silver.rollup_config", {"operator", "owner"}),
    "read the logs": (
        "SELECT * FROM silver.error_log, silver.refresh_log, silver.archive_log",
        {"operator", "owner"},
    ),
    "read the change log": ("SELECT * FROM rollup_engine.change_log", {"owner"}),
    "forge the change log": (
        "INSERT INTO rollup_engine.change_log (source_id, from_time, to_time)"
        " VALUES (1, '-infinity', 'infinity')",
        {"owner"},
    ),
    "read raw": ("SELECT * FROM raw.readings", {"writer", "owner"}),
    "insert": ("INSERT INTO raw.readings VALUES (now(), 'b', 2)", {"writer"}),
    "update": ("UPDATE raw.readings SET level = 5", {"writer"}),
    "delete": ("DELETE FROM raw.readings", {"writer"}),
    "truncate": (TRUNCATE, set()),
    "perform": ("SELECT * FROM silver.perform_rollup()", {"operator", "owner"}),
    "refresh": (
        "SELECT * FROM silver.refresh_rollup('readings_1h', '-infinity', 'infinity')",
        {"operator", "owner"},
    ),
    "retry": ("SELECT * FROM silver.handle_rollup_retries()", {"operator", "owner"}),
    "reset": ("SELECT silver.reset_rollup_retry('readings_1h')", {"operator", "owner"}),
    "pause": ("SELECT silver.pause_rollup('readings_1h')", {"operator", "owner"}),
    "mark stale": (
        "SELECT silver.mark_stale('readings', now(), 'infinity')",
        {"operator", "owner"},
    ),
    "maintain": ("SELECT * FROM silver.maintain_timeseries_tables()", {"operator", "owner"}),
    "size": ("SELECT silver.optimize_chunk_interval('readings_1h')", {"operator", "owner"}),
    "validate": ("SELECT * FROM silver.validate_rollup_config()", {"operator", "owner"}),
    "statistics": (
        "SELECT silver.get_detailed_stats('%'), silver.get_partition_stats('readings_1h')",
        {"operator", "owner"},
    ),
    "configure": (
        "INSERT INTO silver.dimension_config (source_table, dimension_column)"
        " VALUES ('raw.readings', 'device')",
        {"operator", "owner"},
    ),
    "publish a column of raw": (
        """SELECT silver.add_rollup_metric('people_1h', '{"secret": ["last"]}')""",
        {"owner"},
    ),
    "publish a column that one may read": (
        """SELECT silver.add_rollup_metric('people_1h', '{"known": ["first"]}')""",
        {"operator", "owner"},
    ),
    "publish an expression over a column of raw": (
        "SELECT silver.add_rollup_metric('people_1h',"
        """ '{"x": "last"}', '{"x": "upper(secret)"}')""",
        {"owner"},
    ),
    "publish an expression over a column that one may read": (
        "SELECT silver.add_rollup_metric('people_1h',"
        """ '{"x": "last"}', '{"x": "upper(known)"}')""",
        {"owner"},  # what is not a column runs with the rights of the machinery
    ),
    "ask the machinery itself for an expression": (
        "INSERT INTO rollup_engine.metric_request (rollup_id, metrics, expressions)"
        """ SELECT id, '{"x": ["last"]}', '{"x": "upper(known)"}' FROM silver.rollup_config"""
        " WHERE target_name = 'silver.people_1h';"
        "SELECT rollup_engine.add_metrics(max(id)) FROM rollup_engine.metric_request",
        {"owner"},
    ),
    "add to a rollup what it reads of a rollup": (
        """SELECT silver.add_rollup_metric('people_1d', '{"level": ["min"]}')""",
        {"operator", "owner"},
    ),
    "ask in another's name": (
        "INSERT INTO rollup_engine.metric_request (rollup_id, metrics, requested_by)"
        """ SELECT id, '{"secret": ["last"]}', 'tsrollup_owner' FROM silver.rollup_config""",
        {"owner"},
    ),
    "drop the last rollup of what another role owns": (
        "SELECT silver.drop_rollup('readings_1h')",
        set(),
    ),
    "set retention": ("SELECT silver.set_retention('readings_1h', '1 year')", {"owner"}),
    "alter": (
        "SELECT silver.alter_rollup('readings_1h', '2 minutes', '1 hour', new_name => 'hours')",
        {"owner"},
    ),
    "drop a metric": (
        """SELECT silver.drop_rollup_metric('people_1d', '{"level": ["sum"]}')""",
        {"owner"},
    ),
    "seal": ("SELECT rollup_engine.write_seal('silver.readings_1h', now())", {"owner"}),
    "roll up what another role owns": (
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1d', '1 day')",
        set(),
    ),
    "partition what another role owns": (
        "SELECT silver.partition_source('readings', '1 day')",
        set(),
    ),
    "put something into gold": ("CREATE TABLE gold.something (id integer)", {"owner"}),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_the_matrix_says_and_nothing_else(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, role: str
) -> None:
    db.execute("CREATE TABLE raw.people (ts timestamptz, level float8, known text, secret text)")
    db.execute("GRANT SELECT (known) ON raw.people TO tsrollup_operator")
    db.execute(
        "SELECT silver.create_rollup_table('raw.people', 'silver', 'people_1h', '1 hour',"
        """ metrics => '{"level": ["sum", "min"]}')"""
    )
    db.execute(
        "SELECT silver.create_rollup_table('people_1h', 'silver', 'people_1d', '1 day',"
        """ metrics => '{"level": ["sum"]}')"""
    )
    db.execute("SELECT silver.set_retention('readings_1h', '1 year')")
    connection = connect(user=logins[role], autocommit=False)
    allowed = {name for name, (statement, _) in ACTIONS.items() if may(connection, statement)}
    assert allowed == {name for name, (_, roles) in ACTIONS.items() if role in roles}


def test_who_may_not_create_rollups_is_told_what_helps(
    connect: Connect, logins: dict[str, str], server: PostgresServer
) -> None:
    """Whatever is asked for; and of a member without the rights of the role as well."""
    name = logins["operator"]
    operator = connect(user=name)
    with connect(user=server.superuser) as superuser:
        superuser.execute(
            f"CREATE TABLE raw.mine (ts timestamptz, v integer);"
            f" ALTER TABLE raw.mine OWNER TO {name}; GRANT USAGE ON SCHEMA raw TO {name}".encode()
        )
        create = "SELECT silver.create_rollup_table('raw.mine', 'silver', 'mine_1h', '1 hour'"
        hints = set()
        for options in ("", """, metrics => '{"v": ["sum"]}'""", ", filter => 'v > 0'"):
            with pytest.raises(psycopg.Error, match=f"{name} may not create rollups") as caught:
                operator.execute(f"{create}{options})".encode())
            hints.add(caught.value.diag.message_hint)
        assert hints == {f"GRANT tsrollup_owner TO {name}"}
        superuser.execute(
            f"ALTER ROLE {name} NOINHERIT; GRANT tsrollup_owner TO {name};"
            f" GRANT USAGE ON SCHEMA silver, rollup_engine TO {name};"
            f" GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA silver, rollup_engine TO {name};"
            f" GRANT SELECT ON ALL TABLES IN SCHEMA silver, rollup_engine TO {name}".encode()
        )
        with pytest.raises(psycopg.Error, match=f"{name} may not create rollups") as caught:
            operator.execute(f"{create})".encode())
        superuser.execute((caught.value.diag.message_hint or "").encode())
        try:
            operator.execute(f"{create})".encode())
            operator.execute("SELECT silver.drop_rollup('mine_1h')")
        finally:
            superuser.execute("DROP TABLE raw.mine")
            superuser.execute(f"DROP OWNED BY {name}".encode())


@pytest.mark.parametrize("role", ["operator", "owner"])
def test_runs_commit_for_operators(connect: Connect, logins: dict[str, str], role: str) -> None:
    connect(user=logins[role]).execute("CALL silver.run_rollups()")
    stale = connect().execute("SELECT count(*) FROM rollup_engine.stale_range").fetchone()
    assert stale == (0,)


def test_an_operator_cannot_make_time_run_out(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection
) -> None:
    db.execute("SELECT silver.set_retention('readings_1h', '1 year')")
    db.execute("CALL silver.run_rollups()")
    operator = connect(user=logins["operator"])
    for _ in range(2):
        operator.execute("SELECT * FROM rollup_engine.run_maintenance('readings_1h', '9000-01-01')")
    operator.execute("SELECT rollup_engine.clean_logs('infinity')")
    assert db.execute("SELECT count(*) FROM silver.readings_1h").fetchone() == (1,)
    assert db.execute("SELECT count(*) FROM silver.refresh_log").fetchone() == (1,)


def test_changes_of_a_writer_are_captured_though_it_sees_nothing_of_the_machinery(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection
) -> None:
    db.execute("CALL silver.run_rollups()")
    writer = connect(user=logins["writer"])
    writer.execute("INSERT INTO raw.readings VALUES (now() - interval '1 day', 'a', 2)")
    with writer.cursor() as cursor, cursor.copy("COPY raw.readings FROM STDIN") as copy:
        copy.write("2020-01-01 00:00+00\ta\t3\n")
    reader = connect(user=logins["reader"])
    assert reader.execute("SELECT sum(row_count)::integer FROM gold.readings_1h").fetchone() == (3,)


@pytest.mark.parametrize("role", ["nobody", "reader", "writer"])
def test_everybody_has_tables_that_go_by_buckets(
    connect: Connect, server: PostgresServer, logins: dict[str, str], role: str
) -> None:
    """Indexes, generated columns, statistics and views of theirs, in zones as in UTC."""
    somebody = connect(user=logins[role])
    name = sql.Identifier(logins[role])
    with psycopg.connect(server.superuser_url(somebody.info.dbname), autocommit=True) as superuser:
        superuser.execute(sql.SQL("CREATE SCHEMA own AUTHORIZATION {}").format(name))
        try:
            somebody.execute("""
                SET search_path = own;
                CREATE TABLE t (ts timestamptz, day timestamptz GENERATED ALWAYS AS
                    (silver.time_bucket('1 day', ts, 'America/Havana')) STORED);
                CREATE INDEX ON t (silver.time_bucket('1 month', ts, 'Europe/Berlin'));
                CREATE INDEX ON t (silver.time_bucket('1 day', ts, 'Asia/Tokyo', '2026-01-01+00'));
                CREATE INDEX ON t (silver.time_bucket('1 hour', ts));
                CREATE VIEW v AS SELECT silver.time_bucket('1 week', ts, 'Europe/Oslo') AS w FROM t;
                INSERT INTO t SELECT timestamptz '2026-11-01' + make_interval(mins => i)
                FROM generate_series(0, 300) AS i;
                ANALYZE t;
            """)
            row = somebody.execute("SELECT count(DISTINCT day), count(DISTINCT w) FROM t, v")
            assert row.fetchone() == (2, 1)
            somebody.close()
            superuser.execute("REINDEX TABLE own.t")
            superuser.execute("ANALYZE own.t")
        finally:
            superuser.execute("DROP SCHEMA own CASCADE")


def test_tables_to_come_are_the_writers_too(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection
) -> None:
    db.execute("CREATE TABLE raw.later (ts timestamptz, id integer GENERATED ALWAYS AS IDENTITY)")
    connect(user=logins["writer"]).execute("INSERT INTO raw.later VALUES (now())")
    with pytest.raises(errors.InsufficientPrivilege):
        connect(user=logins["reader"]).execute("SELECT * FROM raw.later")


def may(connection: psycopg.Connection, statement: str) -> bool:
    try:
        connection.execute(statement.encode())
    except errors.InsufficientPrivilege:
        return False
    except psycopg.Error as error:
        if error.sqlstate == "TR004":
            return False
        raise
    finally:
        connection.rollback()
    return True
