"""Who may do what: every group role by every action, allowed and refused."""

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql

from conftest import Connect
from rollup_checks import assert_equal_to_group_by, refresh_everything
from servers import PostgresServer

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
ROLES = ("reader", "writer", "operator", "owner", "nobody")


@pytest.fixture
def logins(server: PostgresServer, db: psycopg.Connection) -> Iterator[dict[str, str]]:
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


def test_an_operator_who_owns_a_source_hears_as_whom_to_maintain_it(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, server: PostgresServer
) -> None:
    name = logins["operator"]
    with connect(user=server.superuser) as superuser:
        superuser.execute("CREATE TABLE raw.mine (ts timestamptz, v int) PARTITION BY RANGE (ts)")
        superuser.execute(f"ALTER TABLE raw.mine OWNER TO {name}".encode())
        superuser.execute(f"GRANT CREATE ON SCHEMA raw TO {name}".encode())
        if server.user != server.superuser:
            superuser.execute(f"GRANT {name} TO {server.user}".encode())
    db.execute("SELECT silver.partition_source('mine', '1 day')")
    db.execute("SELECT silver.set_retention('mine', '30 days')")
    owners = db.execute(
        "SELECT DISTINCT relowner::regrole::text FROM pg_inherits JOIN pg_class ON oid = inhrelid"
        " WHERE inhparent = 'raw.mine'::regclass"
    ).fetchall()
    assert owners == [(name,)]
    rows = connect(user=name).execute("SELECT * FROM silver.maintain_timeseries_tables()")
    assert [row[1:] for row in rows if row[0] == "raw.mine"] == [
        ("skipped", f"retention: run maintenance as a member of tsrollup_owner and of {name}"),
        ("skipped", f"run maintenance as a member of tsrollup_owner and of {name}"),
    ]
    with connect(user=server.superuser) as superuser:
        superuser.execute("DROP TABLE raw.mine")
        superuser.execute(f"REVOKE CREATE ON SCHEMA raw FROM {name}".encode())


def test_a_table_above_the_source_takes_its_owner_as_well(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, server: PostgresServer
) -> None:
    """Who owns the source alone is refused; what comes above it waits for its owner's run."""
    name = logins["owner"]
    with connect(user=server.superuser) as superuser:
        superuser.execute(
            f"""
            CREATE TABLE raw.top (ts timestamptz, k integer, v integer) PARTITION BY LIST (k);
            CREATE TABLE raw.mine PARTITION OF raw.top FOR VALUES IN (1);
            ALTER TABLE raw.top OWNER TO {server.user};
            ALTER TABLE raw.mine OWNER TO {name};
            GRANT USAGE ON SCHEMA raw TO {name};
            """.encode()
        )
        if server.user != server.superuser:
            superuser.execute(f"GRANT {name} TO {server.user}".encode())
    owner = connect(user=name)
    create = "SELECT silver.create_rollup_table('raw.mine', 'silver', 'mine_1h', '1 hour', 'ts')"
    try:
        with pytest.raises(psycopg.Error, match=r"written through raw\.top as well") as caught:
            owner.execute(create)
        assert caught.value.sqlstate == "TR004"
        assert f"a member of {server.user}" in (caught.value.diag.message_hint or "")
        db.execute("ALTER TABLE raw.top DETACH PARTITION raw.mine")
        owner.execute(create)
        db.execute("ALTER TABLE raw.top ATTACH PARTITION raw.mine FOR VALUES IN (1)")
        for connection, health in ((owner, "invalid"), (db, "lagging")):
            connection.execute("SELECT * FROM silver.perform_rollup()")
            db.execute("INSERT INTO raw.top VALUES ('2026-03-01', 1, 1)")
            row = db.execute(
                "SELECT health FROM silver.timeseries_operations_monitor"
                " WHERE target_table = 'silver.mine_1h'"
            ).fetchone()
            assert row == (health,)
        assert db.execute("SELECT row_count FROM gold.mine_1h").fetchone() == (2,)
    finally:
        owner.close()
        with connect(user=server.superuser) as superuser:
            superuser.execute("DROP TABLE raw.top, raw.mine CASCADE")
            superuser.execute(f"DROP OWNED BY {name}".encode())


def test_who_owns_a_source_makes_partitions_of_it_though_he_knows_nothing_of_rollups(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, server: PostgresServer
) -> None:
    """PostgreSQL clones row triggers to it, and asks him for a right to their function, which
    nobody else has: on a table of his own it would run his types as the owner role."""
    owner = logins["nobody"]
    db.execute("CREATE TABLE raw.days (ts timestamptz, v integer) PARTITION BY RANGE (ts)")
    db.execute("CREATE TABLE raw.days_1 PARTITION OF raw.days DEFAULT")
    db.execute("SELECT silver.create_rollup_table('raw.days', 'silver', 'days_1h', '1 hour')")
    with connect(user=server.superuser) as superuser:
        superuser.execute(f"ALTER TABLE raw.days OWNER TO {owner}".encode())
        superuser.execute(f"GRANT USAGE, CREATE ON SCHEMA raw TO {owner}".encode())
    allowed = "SELECT has_function_privilege(%s, 'rollup_engine.capture_' || id || '()', 'EXECUTE')"
    of_days = f"{allowed} FROM rollup_engine.source WHERE relation = 'raw.days'::regclass"
    try:
        db.execute("SELECT silver.perform_rollup('days_1h')")
        connect(user=owner).execute(
            "CREATE TABLE raw.days_2 PARTITION OF raw.days"
            " FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
            "CREATE TABLE raw.days_3 (LIKE raw.days); ALTER TABLE raw.days"
            " ATTACH PARTITION raw.days_3 FOR VALUES FROM ('2026-04-01') TO ('2026-05-01');"
            "INSERT INTO raw.days VALUES ('2026-03-05', 1), ('2026-04-05', 1)"
        )
        assert db.execute("SELECT count(*) FROM gold.days_1h").fetchone() == (2,)
        for role in ("reader", "writer", "operator"):
            assert db.execute(of_days, [logins[role]]).fetchone() == (False,)
        with connect(user=server.superuser) as superuser:
            superuser.execute(f"ALTER TABLE raw.days OWNER TO {server.user}".encode())
            for name in ("days_2", "days_3"):
                superuser.execute(f"ALTER TABLE raw.{name} OWNER TO {server.user}".encode())
        db.execute("SELECT silver.perform_rollup('days_1h')")
        assert db.execute(of_days, [owner]).fetchone() == (False,)
    finally:
        with connect(user=server.superuser) as superuser:
            superuser.execute(f"DROP OWNED BY {owner} CASCADE".encode())


def test_who_created_a_rollup_as_a_member_of_the_owner_role_makes_partitions_afterwards(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, server: PostgresServer
) -> None:
    """When he is one no more: he has a right of his own to the function of its triggers, and what
    he gave on of that goes with him."""
    owner = logins["owner"]
    with connect(user=server.superuser) as superuser:
        superuser.execute(f"GRANT USAGE, CREATE ON SCHEMA raw TO {owner}".encode())
        try:
            connect(user=owner).execute(
                "CREATE TABLE raw.days (ts timestamptz, v integer) PARTITION BY RANGE (ts);"
                "SELECT silver.create_rollup_table('raw.days', 'silver', 'days_1h', '1 hour');"
                "SELECT silver.perform_rollup('days_1h')"
            )
            superuser.execute(f"REVOKE tsrollup_owner FROM {owner}".encode())
            connect(user=owner).execute(
                "CREATE TABLE raw.days_2 PARTITION OF raw.days"
                " FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
                "INSERT INTO raw.days VALUES ('2026-03-05', 1)"
            )
            assert db.execute("SELECT count(*) FROM gold.days_1h").fetchone() == (1,)
            (capture,) = superuser.execute(
                "SELECT format('FUNCTION rollup_engine.capture_%s()', id) FROM rollup_engine.source"
                " WHERE relation = 'raw.days'::regclass"
            ).fetchall()[0]
            superuser.execute(
                f"GRANT USAGE ON SCHEMA rollup_engine TO {owner};"
                f"GRANT EXECUTE ON {capture} TO {owner} WITH GRANT OPTION; SET ROLE {owner};"
                f"GRANT EXECUTE ON {capture} TO {logins['nobody']}; RESET ROLE;"
                f"ALTER TABLE raw.days OWNER TO {server.user};"
                f"ALTER TABLE raw.days_2 OWNER TO {server.user}".encode()
            )
            done = db.execute("SELECT status FROM silver.perform_rollup('days_1h')").fetchall()
            assert done == [("ok",)]
        finally:
            superuser.execute(f"DROP OWNED BY {owner} CASCADE".encode())


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


def test_every_public_function_is_somebodys_and_none_is_everybodys(db: psycopg.Connection) -> None:
    for_all = db.execute("""
        SELECT p.oid::regprocedure::text
        FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS right_
        WHERE p.pronamespace = 'silver'::regnamespace AND right_.grantee = 0
            AND p.proname NOT IN ('time_bucket', 'first_value', 'last_value', 'version')
    """).fetchall()
    # What the second writes down reads nothing; the first runs it as whoever calls it.
    assert sorted(name.split("(")[0] for (name,) in for_all) == [
        "silver.gapfill",
        "silver.gapfill_query",
    ]
    not_for_operators = db.execute("""
        SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace = 'silver'::regnamespace
            AND NOT has_function_privilege('tsrollup_operator', oid, 'EXECUTE')
    """).fetchall()
    assert not_for_operators == []


def test_a_restore_of_single_schemas_opens_no_function_to_everybody(
    db: psycopg.Connection, connect: Connect, server: PostgresServer
) -> None:
    """What the owner role gives nobody by default belongs to no schema: it is not restored then."""
    for_all = """
        SELECT count(*)
        FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
        WHERE a.grantee = 0
            AND p.pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
    """
    before = db.execute(for_all).fetchone()
    with connect(user=server.superuser) as superuser:
        superuser.execute(
            "ALTER DEFAULT PRIVILEGES FOR ROLE tsrollup_owner GRANT EXECUTE ON ROUTINES TO PUBLIC"
        )
    db.execute("CREATE TABLE raw.t (ts timestamptz)")
    db.execute("SELECT silver.create_rollup_table('t', 'silver', 't_1h', '1 hour')")
    capture = """
        SELECT has_function_privilege('tsrollup_operator', oid, 'EXECUTE') FROM pg_proc
        WHERE proname ~ '^capture_[0-9]+$'
    """
    assert db.execute(capture).fetchall() == [(False,)]
    db.execute("SELECT rollup_engine.regenerate()")
    db.execute("SELECT silver.drop_rollup('t_1h')")
    assert db.execute(for_all).fetchone() == before
    db.execute("SET ROLE tsrollup_owner")
    db.execute("CREATE FUNCTION silver.later() RETURNS integer LANGUAGE sql RETURN 1")
    assert db.execute(for_all).fetchone() == before


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


def test_an_operator_reads_no_single_row_whatever_range_it_asks_for(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection
) -> None:
    """Not of the functions that compute live buckets, nor by having a part of a bucket stored."""
    db.execute("CREATE TABLE raw.rows (ts timestamptz, v integer)")
    db.execute(
        "INSERT INTO raw.rows SELECT timestamptz '2026-03-02 12:00+00' + n * interval '1 second', n"
        " FROM generate_series(0, 9) AS n"
    )
    for name, width in (("rows_1h", "1 hour"), ("rows_1w", "7 days"), ("rows_1mon", "1 month")):
        db.execute(
            "SELECT silver.create_rollup_table('raw.rows', 'silver', %s, %s::interval)",
            [name, width],
        )
    operator = connect(user=logins["operator"])
    ids = operator.execute(
        "SELECT id FROM silver.rollup_config WHERE source_table = 'raw.rows'::regclass ORDER BY id"
    ).fetchall()
    operator.execute("SELECT silver.perform_rollup(max_batches => 1, as_of => '-infinity')")
    for (rollup,) in ids:
        for first, last in (("12:00:03", "12:00:04"), ("11:59:00", "12:00:05")):
            within = (f"2026-03-02 {first}+00", f"2026-03-02 {last}+00")
            row = operator.execute(
                f"SELECT sum(row_count) FROM rollup_engine.live_{rollup}(%s, %s)".encode(), within
            ).fetchone()
            assert row == (10,)
            operator.execute(
                "SELECT rollup_engine.refresh_step(%s, tstzrange(%s, %s), '{}')", [rollup, *within]
            )
    empty = f"SELECT count(*) FROM rollup_engine.live_{ids[1][0]}(%s, %s)"
    noon = "2026-03-02 12:00:03+00"
    assert operator.execute(empty.encode(), (noon, noon)).fetchone() == (0,)
    assert_equal_to_group_by(db, "rows_1h", "rows_1w", "rows_1mon")


def test_an_operator_learns_no_times_of_rows(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection
) -> None:
    """Logged as changed, rows are told of by whole buckets, however finely it asks."""
    rows = "('2026-03-05 05:17:23.123456+00'), ('2026-03-05 05:41:09.000001+00')"
    ids: list[int] = []
    for name, width in (("hourly", "1 hour"), ("monthly", "1 month")):
        db.execute(f"CREATE TABLE raw.{name} (ts timestamptz)".encode())
        db.execute(f"INSERT INTO raw.{name} VALUES {rows}".encode())
        create = "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval)"
        db.execute(create, [f"raw.{name}", f"{name}_1", width])
        source = "SELECT id FROM rollup_engine.source WHERE relation = %s::regclass"
        (row,) = db.execute(source, [f"raw.{name}"]).fetchall()
        ids += row
    refresh_everything(db)
    operator = connect(user=logins["operator"])

    def told(source: int, first: str, last: str) -> int:
        query = "SELECT rollup_engine.ranges_undrained(%s, tstzrange(%s, %s))"
        row = operator.execute(query, [source, f"{first}+00", f"{last}+00"]).fetchone()
        assert row
        return int(row[0])

    log = "SELECT rollup_engine.log_extent(%s, 0::regclass, %s, %s)"
    day = "2026-03-05"
    operator.execute(log, [ids[0], f"{day} 05:10+00", f"{day} 05:20+00"])
    logged = "SELECT from_time, to_time FROM rollup_engine.change_log WHERE source_id = %s"
    hour = db.execute("SELECT timestamptz '2026-03-05 05:00+00', timestamptz '2026-03-05 06:00+00'")
    assert db.execute(logged, [ids[0]]).fetchall() == hour.fetchall()
    for time in ("05:00:01", "05:17:23.1", "05:17:24", "05:41:09.00001", "05:59:59"):
        assert told(ids[0], f"{day} 05:00", f"{day} {time}") == 1
        assert told(ids[0], f"{day} {time}", f"{day} 06:00") == 1
    assert told(ids[0], f"{day} 04:00", f"{day} 05:00") == 0
    assert told(ids[0], f"{day} 06:00", f"{day} 07:00") == 0
    finer = "SELECT rollup_engine.log_change(%s, %s, %s)"
    operator.execute(finer, [ids[0], f"{day} 07:30:01+00", f"{day} 07:30:02+00"])
    assert told(ids[0], f"{day} 07:40", f"{day} 07:41") == 1

    operator.execute(log, [ids[1], "2026-03-10 00:00+00", "2026-03-11 00:00+00"])
    assert told(ids[1], "2026-03-20 00:00", "2026-03-21 00:00") == 1
    assert told(ids[1], "2026-04-01 00:00", "2026-05-01 00:00") == 0
    assert_equal_to_group_by(db, "hourly_1", "monthly_1")


def test_a_view_made_anew_keeps_its_owner(
    server: PostgresServer, logins: dict[str, str], db: psycopg.Connection
) -> None:
    name = sql.Identifier(logins["nobody"])
    with psycopg.connect(server.superuser_url(db.info.dbname), autocommit=True) as postgres:
        for statement in (
            "GRANT {} TO tsrollup_owner",
            "GRANT CREATE ON SCHEMA gold TO {}",
            "GRANT ALL ON silver.readings_1h TO {}",
            "ALTER VIEW gold.readings_1h OWNER TO {}",
        ):
            postgres.execute(sql.SQL(statement).format(name))
        try:
            db.execute("ALTER TABLE raw.readings ALTER level TYPE numeric")
            db.execute("SELECT silver.rebuild_rollup('silver.readings_1h')")
            row = db.execute(
                "SELECT relowner::regrole::text FROM pg_class"
                " WHERE oid = 'gold.readings_1h'::regclass"
            ).fetchone()
            assert row == (logins["nobody"],)
        finally:
            postgres.execute(sql.SQL("DROP OWNED BY {}").format(name))


def test_nobody_calls_with_the_owners_rights_what_only_the_machinery_should(
    logins: dict[str, str], db: psycopg.Connection
) -> None:
    """Every function of both schemas, by what the catalogue says of each role.

    Those that are allowed read definitions of rollups, and no row.
    """
    for role, allowed in (
        ("reader", ["silver.gapfill_query", "silver.live_view_columns", "silver.rollup_for"]),
        ("nobody", ["silver.gapfill_query"]),
        ("writer", ["silver.gapfill_query"]),
    ):
        rows = db.execute(
            """
            SELECT p.oid::regprocedure::text FROM pg_proc AS p
            WHERE p.pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
                AND p.prosecdef AND has_function_privilege(%(role)s, p.oid, 'EXECUTE')
                AND has_schema_privilege(%(role)s, p.pronamespace, 'USAGE')
            """,
            {"role": logins[role]},
        ).fetchall()
        assert sorted(name.split("(")[0] for (name,) in rows) == allowed, role
