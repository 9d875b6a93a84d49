"""Who owns a source, or what is above or below it, goes on with it as before there were rollups."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from conftest import Connect
from logins import make_logins
from servers import PostgresServer


@pytest.fixture
def logins(server: PostgresServer, db: psycopg.Connection) -> Iterator[dict[str, str]]:
    yield from make_logins(server, db)


@contextmanager
def signed_in(
    connect: Connect, server: PostgresServer, name: str, tables: str
) -> Iterator[psycopg.Connection]:
    """A connection of who may not be dropped before those tables, and what else is theirs, are."""
    owner = connect(user=name)
    try:
        yield owner
    finally:
        owner.close()
        with connect(user=server.superuser) as superuser:
            superuser.execute(f"DROP TABLE {tables} CASCADE".encode())
            superuser.execute(f"DROP OWNED BY {name}".encode())


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


def test_an_operator_who_owns_a_source_mends_its_triggers(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, server: PostgresServer
) -> None:
    name = logins["operator"]
    db.execute(
        "CREATE TABLE raw.mine (ts timestamptz, v int);"
        "SELECT silver.create_rollup_table('mine', 'silver', 'mine_1h', '1 hour')"
    )
    with connect(user=server.superuser) as superuser:
        superuser.execute(f"ALTER TABLE raw.mine OWNER TO {name}".encode())
        superuser.execute("ALTER TABLE raw.mine DISABLE TRIGGER ALL")
        superuser.execute("INSERT INTO raw.mine VALUES (now(), 1)")
    rows = connect(user=name).execute("SELECT DISTINCT status FROM silver.perform_rollup()")
    assert rows.fetchall() == [("ok",)]
    off = "SELECT FROM pg_trigger WHERE tgrelid = 'raw.mine'::regclass AND tgenabled = 'D'"
    assert db.execute(off).rowcount == 0
    assert db.execute("SELECT row_count FROM gold.mine_1h").fetchall() == [(1,)]
    with connect(user=server.superuser) as superuser:
        superuser.execute("SELECT silver.drop_rollup('mine_1h')")
        superuser.execute(f"DROP OWNED BY {name}".encode())


def test_retention_with_a_part_of_another_owner_says_as_whom_to_maintain_it(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, server: PostgresServer
) -> None:
    name, other = logins["owner"], logins["reader"]
    db.execute("CREATE TABLE raw.s (ts timestamptz, k int) PARTITION BY LIST (k)")
    db.execute("CREATE TABLE raw.part PARTITION OF raw.s FOR VALUES IN (1) PARTITION BY RANGE (ts)")
    db.execute("SELECT silver.partition_source('part', '1 day')")
    db.execute("SELECT silver.set_retention('s', '30 days')")
    with connect(user=server.superuser) as superuser:
        superuser.execute(f"ALTER TABLE raw.s OWNER TO {name}".encode())
        superuser.execute(f"ALTER TABLE raw.part OWNER TO {other}".encode())
        superuser.execute(f"ALTER TABLE raw.part_default OWNER TO {other}".encode())
    below = "SELECT count(*) FROM pg_partition_tree('raw.part') WHERE level > 0"
    ((others,),) = db.execute(below).fetchall()
    rows = connect(user=name).execute("SELECT * FROM silver.maintain_timeseries_tables('s')")
    assert sorted(row[2] for row in rows if row[1] == "skipped") == [
        f"retention: run maintenance as a member of tsrollup_owner and of {name} and of {other};"
        f" or ALTER TABLE raw.part OWNER TO {name}, and {others} more",
        f"run maintenance as {other}, who owns raw.part",
    ]
    # A keep that the width of the part is too much for is set all the same.
    connect(user=name).execute("SELECT silver.set_retention('s', '5 days')")
    widths = "SELECT chunk_interval FROM rollup_engine.partition_set WHERE is_source"
    assert db.execute(widths).fetchall() == [(timedelta(days=1),)]
    with connect(user=server.superuser) as superuser:
        superuser.execute("DROP TABLE raw.s")


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
    create = "SELECT silver.create_rollup_table('raw.mine', 'silver', 'mine_1h', '1 hour', 'ts')"
    with signed_in(connect, server, name, "raw.top, raw.mine") as owner:
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


def test_a_part_of_another_owner_is_named_when_a_rollup_is_created(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, server: PostgresServer
) -> None:
    name = logins["owner"]
    db.execute("CREATE TABLE raw.s (ts timestamptz, v int) PARTITION BY RANGE (ts)")
    db.execute("CREATE TABLE raw.others PARTITION OF raw.s DEFAULT")
    create = "SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')"
    with signed_in(connect, server, name, "raw.s") as owner:
        with connect(user=server.superuser) as superuser:
            superuser.execute(f"ALTER TABLE raw.s OWNER TO {name}".encode())
        with pytest.raises(psycopg.Error, match=r"raw\.others is a part of raw\.s") as caught:
            owner.execute(create)
        assert caught.value.sqlstate == "TR004"
        assert (caught.value.diag.message_hint or "").startswith("give it to the owner of raw.s, ")
        with connect(user=server.superuser) as superuser:
            superuser.execute(f"ALTER TABLE raw.others OWNER TO {name}".encode())
        owner.execute(create)


def test_partitions_that_a_table_has_left_with_its_owner_before_are_named(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, server: PostgresServer
) -> None:
    """OWNER TO reaches the table that it names, and none below it."""
    name = logins["owner"]
    db.execute("CREATE TABLE raw.s (ts timestamptz, v int) PARTITION BY RANGE (ts)")
    db.execute("SELECT silver.partition_source('s', '1 day')")
    with connect(user=server.superuser) as superuser:
        superuser.execute(f"ALTER TABLE raw.s OWNER TO {name}".encode())
        superuser.execute(f"GRANT CREATE ON SCHEMA raw TO {name}".encode())
    with signed_in(connect, server, name, "raw.s") as owner:
        maintain = "SELECT action, detail FROM silver.maintain_timeseries_tables('raw.s')"
        told = f"; or ALTER TABLE raw.s_default OWNER TO {name}"
        for _ in range(2):
            ((action, detail),) = owner.execute(maintain).fetchall()
            assert (action, detail.endswith(told)) == ("skipped", True)
        assert owner.execute("SELECT count(*) FROM silver.error_log").fetchone() == (1,)
        with connect(user=server.superuser) as superuser:
            superuser.execute(told.removeprefix("; or ").encode())
        done = owner.execute(maintain).fetchall()
        assert not {"skipped", "failed"} & {action for action, _ in done}


def test_a_table_of_another_owner_that_nobody_maintains_is_told(
    connect: Connect, logins: dict[str, str], db: psycopg.Connection, server: PostgresServer
) -> None:
    """Where somebody does, each is at his own."""
    db.execute("CREATE TABLE raw.s (ts timestamptz, v int) PARTITION BY RANGE (ts)")
    db.execute("SELECT silver.partition_source('s', '1 day')")
    owner = connect(user=logins["owner"])
    said = f"run maintenance as {server.user}, who owns raw.s"
    maintain = "SELECT detail FROM silver.maintain_timeseries_tables('raw.s')"
    assert owner.execute(maintain).fetchall() == [(said,)]
    logged = "SELECT error_message, hint FROM silver.error_log"
    assert owner.execute(logged).fetchall() == []
    db.execute(
        "DO $$ BEGIN EXECUTE (SELECT string_agg(format('DROP TABLE %s', relid::regclass), ';')"
        " FROM pg_partition_tree('raw.s') WHERE level > 0); END $$"
    )
    hint = "nobody else seems to: rows of now have no partition"
    for _ in range(2):
        assert owner.execute(maintain).fetchall() == [(f"{said}; {hint}",)]
    assert owner.execute(logged).fetchall() == [(said, hint)]


def test_a_partition_of_another_owner_that_is_due_is_named(
    connect: Connect, logins: dict[str, str], server: PostgresServer
) -> None:
    """As a superuser makes it: who can remove it, and whom it must be given to to be watched."""
    name, other = logins["owner"], logins["reader"]
    part = "CREATE TABLE raw.s_{0} PARTITION OF raw.s FOR VALUES FROM ('{1}') TO ('{2}');"
    with connect(user=server.superuser) as superuser:
        superuser.execute("CREATE TABLE raw.s (ts timestamptz, v int) PARTITION BY RANGE (ts)")
        superuser.execute(part.format(1, "2026-03-01", "2026-03-02").encode())
        superuser.execute(f"ALTER TABLE raw.s OWNER TO {name}".encode())
        superuser.execute(f"ALTER TABLE raw.s_1 OWNER TO {name}".encode())
        superuser.execute(f"GRANT CREATE ON SCHEMA raw TO {name}".encode())
    with signed_in(connect, server, name, "raw.s") as owner:
        owner.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')")
        owner.execute("SELECT silver.set_retention('raw.s', '30 days')")
        with connect(user=server.superuser) as superuser:
            superuser.execute(part.format(2, "2026-03-02", "2026-03-03").encode())
            superuser.execute(f"ALTER TABLE raw.s_2 OWNER TO {other}".encode())
        owner.execute("SELECT silver.perform_rollup()")
        told = "SELECT hint FROM silver.validate_rollup_config() WHERE starts_with(problem, %s)"
        ((hint,),) = owner.execute(told, ["raw.s_2 lacks capture triggers"]).fetchall()
        assert hint.startswith(f"ALTER TABLE raw.s_2 OWNER TO {name}; then run SELECT silver.perf")
        with connect(user=server.superuser) as superuser:
            superuser.execute(part.format(3, "2126-03-02", "2126-03-03").encode())
            superuser.execute(f"ALTER TABLE raw.s_3 OWNER TO {other}".encode())
        maintain = "SELECT action, detail FROM silver.maintain_timeseries_tables('raw.s')"
        members = " and of ".join(sorted((name, other)))
        assert owner.execute(maintain).fetchall() == [
            (
                "skipped",
                f"retention: run maintenance as a member of tsrollup_owner and of {members};"
                f" or ALTER TABLE raw.s_2 OWNER TO {name}, and 1 more",
            )
        ]
        told = "SELECT hint FROM silver.error_log WHERE target_table = 'raw.s'"
        assert owner.execute(told).fetchall() == [
            (f"or ALTER TABLE raw.s_2 OWNER TO {name}, and 1 more",)
        ]
        with connect(user=server.superuser) as superuser:
            superuser.execute("DROP TABLE raw.s_3")
            superuser.execute(hint.split(";")[0].encode())
        owner.execute("SELECT silver.perform_rollup()")
        valid = owner.execute("SELECT bool_and(is_valid) FROM silver.validate_rollup_config()")
        assert valid.fetchone() == (True,)
        assert [action for action, _ in owner.execute(maintain)] == ["sealed"]


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


def test_who_has_the_rights_of_an_owner_and_may_not_act_as_it_is_told(
    connect: Connect, logins: dict[str, str], server: PostgresServer
) -> None:
    if server.version < 16:
        pytest.skip("there, who has the rights may")
    name, other = logins["owner"], logins["reader"]
    with connect(user=server.superuser) as superuser:
        superuser.execute("CREATE TABLE raw.s (ts timestamptz, v int) PARTITION BY RANGE (ts)")
        superuser.execute(f"GRANT CREATE ON SCHEMA raw TO {other}".encode())
        superuser.execute(f"ALTER TABLE raw.s OWNER TO {other}".encode())
        superuser.execute(f"GRANT {other} TO {name} WITH INHERIT TRUE, SET FALSE".encode())
    with signed_in(connect, server, name, "raw.s") as member:
        with pytest.raises(psycopg.Error, match=rf"of {other}, as whom {name} may not") as caught:
            member.execute("SELECT silver.partition_source('raw.s', '1 day')")
        with connect(user=server.superuser) as superuser:
            superuser.execute((caught.value.diag.message_hint or "").encode())
        member.execute("SELECT silver.partition_source('raw.s', '1 day')")
        maintain = "SELECT action FROM silver.maintain_timeseries_tables('raw.s')"
        assert ("failed",) not in member.execute(maintain).fetchall()
        with connect(user=server.superuser) as superuser:
            superuser.execute(f"REVOKE CREATE ON SCHEMA raw FROM {other}".encode())


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
