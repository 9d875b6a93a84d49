"""The machinery, which has the rights of its owner, gives nobody what is not theirs."""

from collections.abc import Iterator

import psycopg
import pytest

from conftest import Connect
from logins import make_logins
from rollup_checks import assert_equal_to_group_by, refresh_everything
from servers import PostgresServer


@pytest.fixture
def logins(server: PostgresServer, db: psycopg.Connection) -> Iterator[dict[str, str]]:
    yield from make_logins(server, db)


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

    log = "SELECT rollup_engine.log_extent(%s, 0::regclass, %s, %s, true)"
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
