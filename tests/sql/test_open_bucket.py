"""The newest stale buckets of a fleet: who may read the source himself reads one device by the
source's index; everybody reads the same rows, whatever has come since the plan was made."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from rollup_checks import assert_equal_to_group_by, force_configuration, refresh_everything
from servers import PostgresServer

Connect = Callable[..., psycopg.Connection[Any]]

LEVELS = {"fleet_1m": "1 minute", "fleet_10m": "10 minutes", "fleet_1h": "1 hour"}
NAMES = ("alone_1h", *LEVELS)
# Ten days, the last of which is the open one; NULL is a device, too.
SETUP = """
    CREATE TABLE raw.fleet (
        ts timestamptz NOT NULL, device integer, place text, v integer, w numeric
    ) PARTITION BY RANGE (ts);
    CREATE INDEX ON raw.fleet (device, ts);
    CREATE INDEX ON raw.fleet (ts);
    DO $$
    BEGIN
        FOR i IN 30..39 LOOP
            EXECUTE format(
                'CREATE TABLE raw.fleet_%s PARTITION OF raw.fleet FOR VALUES FROM (%L) TO (%L)', i,
                timestamptz '2026-01-20 00:00+00' + i * interval '24 hours',
                timestamptz '2026-01-21 00:00+00' + i * interval '24 hours');
        END LOOP;
    END
    $$;
    INSERT INTO raw.fleet
    SELECT '2026-02-28 18:00+00'::timestamptz + i * interval '5 minutes', nullif(d, 7),
        'p' || d % 3, i, 0.5 * i
    FROM generate_series(0, 59) AS i, generate_series(1, 12) AS d;
    INSERT INTO raw.fleet
    SELECT '2026-02-28 23:00+00'::timestamptz + i * interval '30 seconds', nullif(d, 7),
        'p' || d % 3, i, 0.5 * i
    FROM generate_series(0, 66) AS i, generate_series(1, 12) AS d;
    ANALYZE raw.fleet;
"""
OPEN = "2026-02-28 23:00+00"
ONE = (
    "SELECT bucket, row_count, v_sum, w_avg FROM gold.{}"
    " WHERE device = 9 AND bucket >= '2026-02-28 20:00+00' ORDER BY bucket"
)


@pytest.fixture
def fleet(db: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A rollup of one level and three of one another, up to the open hour stored."""
    db.execute(SETUP)
    for name, (source, width) in {
        "alone_1h": ("raw.fleet", "1 hour"),
        "fleet_1m": ("raw.fleet", "1 minute"),
        "fleet_10m": ("fleet_1m", "10 minutes"),
        "fleet_1h": ("fleet_10m", "1 hour"),
    }.items():
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval, 'ts', %s)"
            if source == "raw.fleet"
            else "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval, NULL, %s)",
            [source, name, width, ["device", "place"]],
        )
    for name in NAMES:
        db.execute("SELECT silver.refresh_rollup(%s, '2026-02-28 00:00+00', %s)", [name, OPEN])
    db.execute("SELECT silver.perform_rollup(as_of => %s)", [OPEN])
    return db


@pytest.fixture
def reader(
    server: PostgresServer, connect: Connect, fleet: psycopg.Connection[Any]
) -> Iterator[psycopg.Connection[Any]]:
    """Somebody who may read gold and nothing else."""
    name = sql.Identifier(f"t_reader_{secrets.token_hex(4)}")
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as postgres:
        postgres.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE tsrollup_reader").format(name))
        connection = connect(user=name.as_string(postgres).strip('"'))
        yield connection
        connection.close()
        fleet.execute(sql.SQL("REVOKE ALL ON raw.fleet FROM {}").format(name))
        fleet.execute(sql.SQL("REVOKE ALL ON SCHEMA raw FROM {}").format(name))
        postgres.execute(sql.SQL("DROP ROLE {}").format(name))


def plan(connection: psycopg.Connection[Any], query: str) -> str:
    rows = connection.execute(f"EXPLAIN (COSTS OFF) {query}".encode()).fetchall()
    return "\n".join(line for (line,) in rows)


def rows_of(connection: psycopg.Connection[Any], name: str) -> list[Any]:
    """All that the view says, in an order; without times, which a session may write anyhow."""
    query = (
        "SELECT extract(epoch FROM bucket), device, place, row_count, v_count, v_sum, v_max, w_avg"
        f" FROM gold.{name} ORDER BY bucket, device, place"
    )
    return connection.execute(query.encode()).fetchall()


def changed(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """One state after the other."""
    yield "the open hour is stale"
    connection.execute("INSERT INTO raw.fleet VALUES ('2026-02-20 05:05+00', 9, 'late', 1, 1)")
    yield "and an old one"
    connection.execute("DELETE FROM raw.fleet WHERE device = 9 AND ts >= '2026-02-28 23:10+00'")
    yield "rows of it are gone"
    connection.execute(
        "SELECT silver.refresh_rollup('fleet_1m', '2026-02-28 23:00+00', '2026-02-28 23:20+00')"
    )
    yield "part of it is stored at the bottom"
    refresh_everything(connection)
    yield "nothing is stale"
    connection.execute("INSERT INTO raw.fleet VALUES ('2026-02-28 23:30:05+00', 999, 'new', 1, 1)")
    yield "a new device"
    connection.execute("DELETE FROM raw.fleet")
    yield "nothing is left"


def test_promise_b_in_every_state_for_every_reader(
    fleet: psycopg.Connection[Any], reader: psycopg.Connection[Any]
) -> None:
    for state in changed(fleet):
        assert_equal_to_group_by(fleet, *NAMES)
        for name in NAMES:
            assert rows_of(reader, name) == rows_of(fleet, name), (state, name)
            one = ONE.format(name).encode()
            assert reader.execute(one).fetchall() == fleet.execute(one).fetchall(), (state, name)


def test_one_device_is_read_by_the_index_of_the_source(
    fleet: psycopg.Connection[Any], reader: psycopg.Connection[Any]
) -> None:
    """In the partitions of the newest buckets only, and by nobody who may not read them himself."""
    role = reader.info.user
    for name in ("alone_1h", "fleet_1h"):
        found = plan(fleet, ONE.format(name))
        assert "fleet_39_device_ts_idx" in found
        assert "fleet_36" not in found
        assert "raw" not in plan(reader, ONE.format(name))
    # Nor does anybody compute the whole fleet where the open hour is made of minutes.
    force_configuration(fleet, "source_rows = 1000000")
    analyzed = fleet.execute(f"EXPLAIN (ANALYZE) {ONE.format('fleet_1m')}".encode()).fetchall()
    scans = [line for (line,) in analyzed if "Function Scan on live_2 " in line]
    assert scans
    assert all("never executed" in line for line in scans), scans
    assert_equal_to_group_by(fleet, "fleet_1m")
    expected = fleet.execute(ONE.format("alone_1h").encode()).fetchall()
    fleet.execute("SET plan_cache_mode = force_generic_plan")
    fleet.execute(f"PREPARE q AS {ONE.format('alone_1h')}".encode())
    fleet.execute(f'GRANT "{role}" TO CURRENT_USER'.encode())
    try:
        for other in ("none", f'"{role}"', "none"):
            fleet.execute(f"SET ROLE {other}".encode())
            assert fleet.execute("EXECUTE q").fetchall() == expected
    finally:
        fleet.execute("RESET ROLE")
        fleet.execute(f'REVOKE "{role}" FROM CURRENT_USER'.encode())
    fleet.execute(f'GRANT USAGE ON SCHEMA raw TO "{role}"'.encode())
    fleet.execute(f'GRANT SELECT ON raw.fleet TO "{role}"'.encode())
    assert "fleet_39_device_ts_idx" in plan(reader, ONE.format("alone_1h"))
    fleet.execute("CREATE POLICY few ON raw.fleet USING (v < 10)")
    fleet.execute("ALTER TABLE raw.fleet ENABLE ROW LEVEL SECURITY")
    for connection in (fleet, reader):
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            connection.execute(ONE.format("alone_1h").encode())
    for name in ("alone_1h", "fleet_1h"):
        fleet.execute("SELECT silver.drop_rollup(%s)", [name])
    rows = fleet.execute(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'rollup_engine'::regnamespace"
        " AND proname ~ '^plain_[0-9]+$'"
    ).fetchone()
    assert rows == (2,)


def test_promise_b_a_plan_that_was_made_before(
    fleet: psycopg.Connection[Any], connect: Connect
) -> None:
    """Its buckets are stored since, changed, or spread over partitions that it lacks."""
    queries = [
        query.format(name)
        for name in NAMES
        for query in ("SELECT sum(row_count)::integer, sum(v_sum)::bigint FROM gold.{}", ONE)
    ]
    session = connect(autocommit=False)
    session.execute("SET plan_cache_mode = force_generic_plan")
    for number, query in enumerate(queries):
        session.execute(f"PREPARE q{number} AS {query}".encode())
    for change in (
        "SELECT 1",
        "INSERT INTO raw.fleet VALUES ('2026-02-28 23:00:07+00', 9, 'p0', 1000, 1)",
        "SELECT silver.perform_rollup(as_of => 'infinity')",
        "UPDATE raw.fleet SET v = v + 1 WHERE ts >= '2026-02-28 22:30+00'",
        "INSERT INTO raw.fleet VALUES ('2026-02-28 23:55+00', 9, 'p0', 1000, 1)",
        "SELECT silver.perform_rollup(as_of => 'infinity')",
    ):
        fleet.execute(change.encode())
        for number, query in enumerate(queries):
            found = session.execute(f"EXECUTE q{number}".encode()).fetchall()
            assert found == fleet.execute(query.encode()).fetchall(), (change, query)


def test_a_plan_reaches_on_from_the_newest_buckets(db: psycopg.Connection[Any]) -> None:
    """An old plan serves the hours to come, but where all that is stale is long gone."""
    db.execute(
        """
        CREATE TABLE raw.now (ts timestamptz, device integer, v integer);
        CREATE INDEX ON raw.now (device, ts);
        SELECT silver.create_rollup_table(
            'raw.now', 'silver', 'now_1h', '1 hour', dimensions => '{device}');
        """
    )
    ends = "SELECT (p).from_time, (p).to_time FROM rollup_engine.open_plan(1) AS p"
    db.execute("INSERT INTO raw.now VALUES ('2026-02-28 12:15+00', 1, 1)")
    assert db.execute(
        f"SELECT (x.from_time, x.to_time) = ('2026-02-27 13:00+00', '2026-02-28 13:00+00')"
        f" FROM ({ends}) AS x".encode()
    ).fetchone() == (True,)
    db.execute("INSERT INTO raw.now VALUES (now(), 1, 1), (now() + interval '9 days', 1, 1)")
    assert db.execute(
        f"SELECT x.from_time < now(), x.to_time = 'infinity' FROM ({ends}) AS x".encode()
    ).fetchone() == (True, True)
    assert_equal_to_group_by(db, "now_1h")


def test_promise_b_a_partition_of_the_open_bucket_that_the_plan_lacks(
    db: psycopg.Connection[Any], connect: Connect
) -> None:
    db.execute(
        """
        CREATE TABLE raw.parts (ts timestamptz NOT NULL, device integer, v integer)
            PARTITION BY RANGE (ts);
        CREATE TABLE raw.parts_1 PARTITION OF raw.parts
            FOR VALUES FROM ('2026-02-28 00:00+00') TO ('2026-02-28 12:00+00');
        CREATE INDEX ON raw.parts (device, ts);
        INSERT INTO raw.parts
        SELECT '2026-02-28 05:00+00'::timestamptz + i * interval '1 minute', i % 5, i
        FROM generate_series(0, 99) AS i;
        SELECT silver.create_rollup_table(
            'raw.parts', 'silver', 'parts_1d', '1 day', dimensions => '{device}');
        CREATE TABLE raw.parts_2 (LIKE raw.parts);
        INSERT INTO raw.parts_2
        SELECT '2026-02-28 15:00+00'::timestamptz + i * interval '1 minute', i % 5, i
        FROM generate_series(0, 99) AS i;
        """
    )
    query = "SELECT sum(row_count)::integer FROM gold.parts_1d"
    session = connect(autocommit=False)
    session.execute("SET plan_cache_mode = force_generic_plan")
    session.execute(f"PREPARE q AS {query}".encode())
    assert session.execute("EXECUTE q").fetchall() == [(100,)]
    db.execute(
        "ALTER TABLE raw.parts ATTACH PARTITION raw.parts_2"
        " FOR VALUES FROM ('2026-02-28 12:00+00') TO ('2026-03-01 00:00+00')"
    )
    db.execute("SELECT silver.mark_stale('raw.parts', '2026-02-28', '2026-03-01')")
    assert db.execute(query.encode()).fetchall() == [(200,)]
    assert session.execute("EXECUTE q").fetchall() == [(200,)]


def test_promise_f_a_bucket_that_is_sealed_after_it_was_planned(
    fleet: psycopg.Connection[Any], connect: Connect
) -> None:
    session = connect(autocommit=False)
    session.execute("SET plan_cache_mode = force_generic_plan")
    session.execute(f"PREPARE q AS {ONE.format('alone_1h')}".encode())
    session.execute("EXECUTE q")
    refresh_everything(fleet)
    stored = fleet.execute(ONE.format("alone_1h").encode()).fetchall()
    force_configuration(fleet, "sealed_before = '2026-03-01 00:00+00'")
    fleet.execute("INSERT INTO raw.fleet VALUES ('2026-02-28 23:00:07+00', 9, 'p0', 1000, 1)")
    assert session.execute("EXECUTE q").fetchall() == stored


def test_promise_b_in_one_snapshot(fleet: psycopg.Connection[Any], connect: Connect) -> None:
    report = connect(autocommit=False)
    report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    before = report.execute("SELECT count(*)::integer, sum(v)::bigint FROM raw.fleet").fetchone()
    fleet.execute("DELETE FROM raw.fleet WHERE device = 3")
    fleet.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    for name in NAMES:
        read = f"SELECT sum(row_count)::integer, sum(v_sum)::bigint FROM gold.{name}"
        assert report.execute(read.encode()).fetchone() == before
    report.commit()
    cursor = connect(autocommit=False)
    cursor.execute("DECLARE c NO SCROLL CURSOR FOR SELECT row_count::integer FROM gold.alone_1h")
    first = cursor.execute("FETCH 1 FROM c").fetchall()
    fleet.execute("DELETE FROM raw.fleet WHERE device = 4")
    rest = cursor.execute("FETCH ALL FROM c").fetchall()
    total = cursor.execute("SELECT sum(row_count)::integer FROM gold.alone_1h").fetchone()
    assert total
    assert sum(n for (n,) in first + rest) == total[0] + 60 + 67


def test_promise_k_what_names_mean_to_the_reader(
    fleet: psycopg.Connection[Any], connect: Connect
) -> None:
    fleet.execute(
        """
        CREATE SCHEMA evil;
        CREATE FUNCTION evil.wrong(bigint, integer) RETURNS bigint
            LANGUAGE sql AS 'SELECT 7::bigint';
        CREATE AGGREGATE evil.sum(integer) (SFUNC = evil.wrong, STYPE = bigint, INITCOND = '0');
        CREATE FUNCTION evil.never(timestamptz, timestamptz) RETURNS boolean
            LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR evil.>= (
            LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.never);
        """
    )
    expected = [rows_of(fleet, name) for name in NAMES]
    for settings in (
        "search_path = evil, pg_catalog",
        "search_path = evil, raw",
        "timezone = 'Asia/Kathmandu'; SET datestyle = 'SQL, DMY'; SET intervalstyle = sql_standard",
        "transform_null_equals = on; SET standard_conforming_strings = off",
        "constraint_exclusion = off; SET enable_partition_pruning = off; SET enable_hashagg = off",
        "constraint_exclusion = on; SET enable_nestloop = off; SET row_security = off",
    ):
        session = connect()
        session.execute(f"SET {settings}".encode())
        found = [rows_of(session, name) for name in NAMES]
        assert found == expected, settings


def test_a_source_that_is_called_or_made_otherwise(fleet: psycopg.Connection[Any]) -> None:
    """Until a run has taken it in, no read rests on what its names meant."""
    fleet.execute("CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO tsrollup_owner")
    for change, undo in (
        ("ALTER TABLE raw.fleet RENAME TO flotte", "ALTER TABLE raw.flotte RENAME TO fleet"),
        ("ALTER TABLE raw.fleet SET SCHEMA other", "ALTER TABLE other.fleet SET SCHEMA raw"),
    ):
        fleet.execute(change.encode())
        fleet.execute("CREATE TABLE raw.fleet (ts timestamptz, device integer, place text)")
        assert_equal_to_group_by(fleet, "alone_1h")
        fleet.execute("DROP TABLE raw.fleet")
        fleet.execute(undo.encode())
    stored = "SELECT count(*) FROM gold.alone_1h WHERE bucket < '2026-02-28 23:00+00'"
    before = fleet.execute(stored.encode()).fetchall()
    fleet.execute("ALTER TABLE raw.fleet RENAME v TO value")
    assert fleet.execute(stored.encode()).fetchall() == before
    fleet.execute("ALTER TABLE raw.fleet ALTER w TYPE text")
    assert fleet.execute(stored.encode()).fetchall() == before
    fleet.execute("ALTER TABLE raw.fleet ALTER w TYPE numeric USING w::numeric")
    fleet.execute("SELECT silver.perform_rollup(as_of => %s)", [OPEN])
    fleet.execute("ALTER TABLE raw.fleet RENAME value TO v")
    refresh_everything(fleet)
    fleet.execute("INSERT INTO raw.fleet VALUES ('2026-02-28 23:30:05+00', 9, 'new', 1, 1)")
    assert_equal_to_group_by(fleet, *NAMES)
    assert "fleet_39_device_ts_idx" in plan(fleet, ONE.format("alone_1h"))
