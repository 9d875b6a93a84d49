"""Promise f: whoever writes where a rollup is sealed is counted for that rollup, once, whenever its
transaction began and whatever it knew of the seal."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from conftest import Connect
from interleaving import Background, wait_for_other_tests
from rollup_checks import assert_settled, refresh_everything
from scenes import scene
from servers import PostgresServer

NOW = datetime(2026, 3, 11, 12, tzinfo=UTC)
LATE = datetime(2026, 3, 3, 10, 30, tzinfo=UTC)
INSERT = "INSERT INTO raw.s VALUES (%s, 1)"
Writer = psycopg.Connection[Any]


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    """Ten days by the day, of which the last three are kept; an hourly and a daily rollup."""
    db.execute("CREATE TABLE raw.s (ts timestamptz, v int) PARTITION BY RANGE (ts)")
    for number in range(1, 13):
        day = datetime(2026, 3, number, tzinfo=UTC)
        db.execute(
            f"CREATE TABLE raw.s_{number} PARTITION OF raw.s"
            f" FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')".encode()
        )
    db.execute(
        "INSERT INTO raw.s SELECT ts, 1 FROM generate_series('2026-03-01 00:00+00'::timestamptz,"
        " '2026-03-10 23:00+00', '1 hour') AS ts"
    )
    db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('s_1h', 'silver', 's_1d', '1 day')")
    db.execute("SELECT silver.set_retention('raw.s', '3 days')")
    refresh_everything(db)
    return db


def actions(db: psycopg.Connection[Any]) -> list[str]:
    rows = db.execute("SELECT * FROM rollup_engine.run_maintenance(NULL, %s)", [NOW]).fetchall()
    assert not [row for row in rows if row[1] == "failed"], rows
    return [row[1] for row in rows if row[1] in ("sealed", "dropped", "deleted")]


def late_rows(db: psycopg.Connection[Any]) -> dict[str, int]:
    rows = db.execute(
        "SELECT target_table, sealed_late_rows FROM silver.timeseries_operations_monitor"
    ).fetchall()
    return {name.removeprefix("silver."): late for name, late in rows}


def total(db: psycopg.Connection[Any], relation: str) -> int:
    row = db.execute(f"SELECT coalesce(sum(row_count), 0) FROM {relation}".encode()).fetchone()
    assert row
    return int(row[0])


def merge(writer: Writer) -> None:
    writer.execute(
        "MERGE INTO raw.s USING (VALUES (%s::timestamptz)) AS n (ts) ON s.ts = n.ts"
        " WHEN NOT MATCHED THEN INSERT VALUES (n.ts, 1)",
        [LATE],
    )


def move(writer: Writer) -> None:
    writer.execute("UPDATE raw.s SET ts = %s WHERE ts = '2026-03-10 10:00+00'", [LATE])


def savepoints(writer: Writer) -> None:
    writer.execute(INSERT, [NOW])
    with writer.transaction():
        writer.execute(INSERT, [LATE])


def across_the_border(writer: Writer) -> None:
    """One range of the log from the sealed day into the next, one row of it late."""
    writer.execute(
        "INSERT INTO raw.s SELECT ts, 1 FROM generate_series('2026-03-07 23:30+00'::timestamptz,"
        " '2026-03-08 05:30+00', '1 hour') AS ts"
    )


WAYS: dict[str, Callable[[Writer], object]] = {
    "insert": lambda writer: writer.execute(INSERT, [LATE]),
    "merge": merge,
    "move": move,
    "savepoints": savepoints,
    "across": across_the_border,
}


@pytest.mark.parametrize("way", WAYS)
def test_promise_f_a_writer_with_a_snapshot_from_before_the_seal(
    source: psycopg.Connection, connect: Connect, way: str
) -> None:
    writer = connect(autocommit=False)
    writer.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    writer.execute("SELECT count(*) FROM pg_class")
    assert actions(source) == ["sealed"]
    WAYS[way](writer)
    assert actions(source) == [], "its snapshot is older than the seal"
    writer.commit()
    assert actions(source) == ["dropped"] * 7
    refresh_everything(source)
    assert late_rows(source) == {"s_1h": 1, "s_1d": 1}
    logged = source.execute("SELECT error_message FROM silver.error_log").fetchall()
    assert logged == [("1 late rows were kept out of sealed time",)] * 2
    assert_settled(source, "s_1h")


def test_promise_f_a_prepared_writer_from_before_the_seal_of_a_rollup(
    source: psycopg.Connection, connect: Connect
) -> None:
    """Nothing waits for those who write raw when a rollup is sealed."""
    source.execute("SELECT silver.set_retention('raw.s', NULL)")
    source.execute("SELECT silver.set_retention('s_1h', '3 days')")
    row = source.execute("SELECT current_setting('max_prepared_transactions')::int").fetchone()
    assert row
    writer = connect(autocommit=False)
    writer.execute(INSERT, [LATE])
    if row[0]:
        writer.execute("PREPARE TRANSACTION 'straddling'")
    before = total(source, "gold.s_1d")
    assert "sealed" in actions(source)
    if row[0]:
        writer.rollback()
        source.execute("COMMIT PREPARED 'straddling'")
    else:
        writer.commit()
    refresh_everything(source)
    assert late_rows(source) == {"s_1h": 1, "s_1d": 1}
    source.execute(INSERT, [LATE])
    refresh_everything(source)
    assert late_rows(source) == {"s_1h": 2, "s_1d": 2}
    assert total(source, "gold.s_1d") == before


def test_promise_f_each_rollup_counts_behind_its_own_border(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_2h', '2 hours')")
    source.execute("SELECT silver.set_retention('raw.s', NULL)")
    source.execute("SELECT silver.set_retention('s_2h', '8 days')")
    source.execute("SELECT silver.set_retention('s_1h', '5 days')")
    refresh_everything(source)
    assert "sealed" in actions(source)
    source.execute(INSERT, [LATE])
    for at in ("2026-03-02 10:30+00", "2026-03-05 10:30+00", "2026-03-09 10:30+00"):
        source.execute(INSERT, [at])
    refresh_everything(source)
    assert late_rows(source) == {"s_1h": 3, "s_1d": 3, "s_2h": 2}
    assert_settled(source, "s_1h", "s_2h")


def test_promise_f_moves_in_blocks_of_their_own_are_all_counted(
    source: psycopg.Connection,
) -> None:
    assert actions(source) == ["sealed"]
    minutes = "timestamptz '2026-03-10 10:00+00' + n * interval '1 minute'"
    source.execute(f"INSERT INTO raw.s SELECT {minutes}, n FROM generate_series(1, 3) n".encode())
    source.execute(
        "DO $$ BEGIN FOR n IN 1 .. 3 LOOP BEGIN"
        f" MERGE INTO raw.s USING (SELECT {minutes} AS ts) AS m ON s.ts = m.ts WHEN MATCHED THEN"
        " UPDATE SET ts = m.ts - interval '7 days'; EXCEPTION WHEN unique_violation THEN NULL; END;"
        " END LOOP; END $$".encode()
    )
    refresh_everything(source)
    assert late_rows(source) == {"s_1h": 3, "s_1d": 3}
    assert_settled(source, "s_1h")


def test_promise_f_what_is_gone_again_is_reported_without_a_number(
    source: psycopg.Connection,
) -> None:
    assert actions(source) == ["sealed"]
    source.execute(INSERT, [LATE])
    source.execute("DELETE FROM raw.s WHERE ts = %s", [LATE])
    source.execute(INSERT, [NOW])
    refresh_everything(source)
    assert late_rows(source) == {"s_1h": 0, "s_1d": 0}
    logged = source.execute("SELECT error_code, error_message FROM silver.error_log").fetchall()
    assert len(logged) == 2
    assert logged[0][0] == "TR006"
    assert "no row left to count" in logged[0][1]
    source.execute("SELECT silver.mark_stale('raw.s', '-infinity', 'infinity')")
    refresh_everything(source)
    assert len(source.execute("SELECT FROM silver.error_log").fetchall()) == 2


def test_promise_f_a_partition_that_is_attached_in_sealed_time_is_counted(
    source: psycopg.Connection,
) -> None:
    assert actions(source) == ["sealed"]
    source.execute("CREATE TABLE raw.s_0 (LIKE raw.s)")
    source.execute(
        "INSERT INTO raw.s_0 SELECT '2026-02-28 12:00+00', n FROM generate_series(1, 5) n"
    )
    source.execute(
        "ALTER TABLE raw.s ATTACH PARTITION raw.s_0"
        " FOR VALUES FROM ('2026-02-28 00:00+00') TO ('2026-03-01 00:00+00')"
    )
    refresh_everything(source)
    assert late_rows(source) == {"s_1h": 5, "s_1d": 5}
    assert len(source.execute("SELECT FROM silver.error_log").fetchall()) == 2
    assert total(source, "gold.s_1d") == 240
    assert_settled(source, "s_1h")


@pytest.mark.parametrize(
    "joins",
    [
        "ALTER TABLE raw.s DETACH PARTITION raw.s_default;"
        "CREATE TABLE raw.s_x PARTITION OF raw.s DEFAULT",
        "ALTER TABLE raw.s DETACH PARTITION raw.s_default;"
        "CREATE TABLE raw.s_x PARTITION OF raw.s DEFAULT PARTITION BY HASH (v);"
        "CREATE TABLE raw.s_y PARTITION OF raw.s_x FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "ALTER TABLE raw.s DETACH PARTITION raw.s_2; ALTER TABLE raw.s DETACH PARTITION raw.s_3;"
        "ALTER TABLE raw.s ATTACH PARTITION raw.s_3"
        " FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-04 00:00+00')",
    ],
    ids=["a default partition", "a divided one", "other bounds"],
)
def test_promise_f_late_rows_are_counted_beside_a_partition_that_joins(
    source: psycopg.Connection, joins: str
) -> None:
    assert actions(source) == ["sealed"]
    source.execute(INSERT, [LATE])
    source.execute(joins.encode())
    refresh_everything(source)
    assert late_rows(source) == {"s_1h": 1, "s_1d": 1}
    told = source.execute("SELECT error_message FROM silver.error_log WHERE error_code = 'TR006'")
    assert {message for (message,) in told} == {"1 late rows were kept out of sealed time"}


@scene
def undivided(db: psycopg.Connection) -> psycopg.Connection:
    """Such a source has no partitions to drop: its rollup has a retention of its own."""
    db.execute(
        "CREATE TABLE raw.s (ts timestamptz, v int);"
        "INSERT INTO raw.s SELECT ts, 1 FROM generate_series('2026-03-01 00:00+00'::timestamptz,"
        " '2026-03-10 23:00+00', '1 hour') AS ts"
    )
    db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')")
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('silver.s_1h', '3 days')")
    assert "sealed" in actions(db)
    return db


def test_promise_f_late_rows_are_counted_beside_an_inheritance_child(
    undivided: psycopg.Connection,
) -> None:
    db = undivided
    db.execute("CREATE TABLE raw.s_x () INHERITS (raw.s)")
    db.execute(INSERT, [LATE])
    db.execute("INSERT INTO raw.s_x VALUES ('2026-03-10 10:00+00', 7)")
    refresh_everything(db)
    assert late_rows(db) == {"s_1h": 1}
    assert_settled(db, "s_1h")


@scene
def sites(db: psycopg.Connection) -> psycopg.Connection:
    """Tables of a site each, one of them divided by time; sealed before March 8th."""
    db.execute(
        "CREATE TABLE raw.s (site text, ts timestamptz NOT NULL, v int) PARTITION BY LIST (site);"
        "CREATE TABLE raw.s_a PARTITION OF raw.s FOR VALUES IN ('a') PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.s_a_1 PARTITION OF raw.s_a"
        " FOR VALUES FROM ('2026-02-25 00:00+00') TO ('2026-03-08 00:00+00');"
        "CREATE TABLE raw.s_a_2 PARTITION OF raw.s_a"
        " FOR VALUES FROM ('2026-03-08 00:00+00') TO ('2026-04-01 00:00+00');"
        "CREATE TABLE raw.s_b PARTITION OF raw.s FOR VALUES IN ('b');"
        "INSERT INTO raw.s SELECT site, ts, 1 FROM (VALUES ('a'), ('b')) AS v (site),"
        " generate_series('2026-03-01 00:00+00'::timestamptz, '2026-03-10 23:00+00', '1 hour') ts"
    )
    db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')")
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('silver.s_1h', '3 days')")
    assert "sealed" in actions(db)
    refresh_everything(db)
    return db


NEW_SITE = "CREATE TABLE raw.s_c PARTITION OF raw.s FOR VALUES IN ('c');"
REWRITE = "ALTER TABLE raw.s ADD u uuid DEFAULT gen_random_uuid();"
AWAY = "ALTER TABLE raw.s DETACH PARTITION raw.s_b; CALL silver.run_rollups();"
BACK = "ALTER TABLE raw.s ATTACH PARTITION raw.s_b FOR VALUES IN ('b');"
OFF = "ALTER TABLE raw.s_a_1 DISABLE TRIGGER USER; ALTER TABLE raw.s_b DISABLE TRIGGER USER;"
ON = OFF.replace("DISABLE", "ENABLE")
DRAIN = "SELECT rollup_engine.drain(1, NULL);"  # who may not mend triggers does no more
IN_TIME = "INSERT INTO raw.s VALUES ('a', '2026-03-10 10:00+00', 1);"
TWELVE = "12 late rows were kept out of sealed time"
PERHAPS = "late rows were perhaps kept out of sealed time, not counted"


def history(site: str, table: str = "raw.s") -> str:
    """Seven rows, six of them before the border, of which one is of its own day."""
    return (
        f"INSERT INTO {table} SELECT '{site}', ts, 1 FROM generate_series("
        "'2026-03-05 12:30+00'::timestamptz, '2026-03-08 12:30+00', '12 hours') AS ts;"
    )


UNBOUNDED = {
    "new": (NEW_SITE + history("c") + history("c", "raw.s_c"), 12, TWELVE),
    "attached": (
        "CREATE TABLE raw.s_c (LIKE raw.s);"
        + history("c", "raw.s_c")
        + "ALTER TABLE raw.s ATTACH PARTITION raw.s_c FOR VALUES IN ('c');"
        + history("b"),
        12,
        TWELVE,
    ),
    "deleted beside it": (
        NEW_SITE
        + "INSERT INTO raw.s VALUES ('c', '2026-03-10 10:00+00', 1);"
        + "DELETE FROM raw.s WHERE ts = '2026-03-03 10:00+00'",
        0,
        "late changes were kept out of sealed time, with no row left to count",
    ),
    "empty": (
        "CREATE TABLE raw.s_c PARTITION OF raw.s FOR VALUES IN ('c') PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.s_c_0 PARTITION OF raw.s_c"
        " FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-08 00:00+00')",
        0,
        None,
    ),
    "where one went": (
        "DROP TABLE raw.s_a_1;" + NEW_SITE + history("c", "raw.s_c"),
        1,
        "1 late rows were kept out of sealed time, and perhaps others, not counted",
    ),
    "written anew": (
        history("b") + REWRITE,
        0,
        PERHAPS,
    ),
    "moved as they are": (
        REWRITE + history("a") + history("b") + "VACUUM FULL raw.s_b",
        12,
        TWELVE,
    ),
    "away for a while": (AWAY + BACK, 0, PERHAPS),
    "written while it was away": (
        AWAY + history("b", "raw.s_b") + BACK,
        6,
        "6 late rows were kept out of sealed time, and perhaps others, not counted",
    ),
    "put back without triggers": (OFF + history("b", "raw.s_b") + ON, 0, PERHAPS),
    "put back beside late rows": (
        OFF + history("b", "raw.s_b") + ON + history("a"),
        6,
        "6 late rows were kept out of sealed time, and perhaps others, not counted",
    ),
    "put back between drains without triggers": (
        OFF + DRAIN + history("b", "raw.s_b") + IN_TIME + DRAIN + ON,
        0,
        PERHAPS,
    ),
    "told of once": (OFF + history("b", "raw.s_b") + IN_TIME + DRAIN + ON, 0, PERHAPS),
    "nothing late without triggers": (
        history("b")
        + "CALL silver.run_rollups();"
        + OFF
        + "INSERT INTO raw.s_b VALUES ('b', '2026-03-10 10:00+00', 1);"
        + ON,
        6,
        "6 late rows were kept out of sealed time",
    ),
}


@pytest.mark.parametrize("way", UNBOUNDED)
def test_promise_f_late_rows_beside_ddl_are_counted_or_said_to_be_there(
    sites: psycopg.Connection, way: str
) -> None:
    statements, count, told = UNBOUNDED[way]
    for statement in statements.removesuffix(";").split(";"):
        wait_for_other_tests(sites)  # or a drain does not know what it has seen the end of
        sites.execute(statement.encode())
    refresh_everything(sites)
    refresh_everything(sites)
    assert late_rows(sites) == {"s_1h": count}
    messages = sites.execute(
        "SELECT error_message FROM silver.error_log WHERE error_code = 'TR006'"
    ).fetchall()
    assert messages == [(told,)] * (told is not None)


def test_promise_f_a_source_that_is_another_one_while_its_late_rows_are_counted(
    undivided: psycopg.Connection, connect: Connect
) -> None:
    undivided.execute("CREATE TABLE raw.n (LIKE raw.s); GRANT SELECT ON raw.n TO tsrollup_owner")
    undivided.execute(INSERT, [LATE])
    with connect(autocommit=False) as other:
        other.execute("ALTER TABLE raw.s RENAME TO o; ALTER TABLE raw.n RENAME TO s")
        drain = Background(connect(), "SELECT (rollup_engine.drain_step(1, now())).outcome")
        drain.wait_until_blocked(undivided)
        other.commit()
        assert drain.result() == [("locked",)]
    undivided.execute("ALTER TABLE raw.s RENAME TO n; ALTER TABLE raw.o RENAME TO s")
    refresh_everything(undivided)
    assert late_rows(undivided) == {"s_1h": 1}


def test_promise_f_what_was_written_long_ago_is_not_late(db: psycopg.Connection) -> None:
    """The number of its transaction, which a frozen row keeps, is one to come by now."""
    told = db.execute(
        "SELECT rollup_engine.is_written_within(mod(now + ahead, 4294967296)::text::xid, 5)"
        " FROM (SELECT pg_current_xact_id()::text::bigint + 4294967296) AS n (now),"
        " unnest('{-3,-6,3,2000000000}'::bigint[]) AS a (ahead)"
    ).fetchall()
    assert told == [(True,), (False,), (True,), (False,)]


def test_promise_h_a_foreign_partition_in_sealed_time_stops_no_drain(
    source: psycopg.Connection, server: PostgresServer
) -> None:
    """Its rows have no writer."""
    actions(source)
    with psycopg.connect(server.superuser_url(source.info.dbname), autocommit=True) as admin:
        admin.execute(
            "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
            "CREATE FOREIGN TABLE raw.s_0 (ts timestamptz, v int) SERVER files"
            " OPTIONS (program 'echo 2026-02-10,1', format 'csv'); GRANT ALL ON raw.s_0 TO PUBLIC;"
            "ALTER TABLE raw.s ATTACH PARTITION raw.s_0"
            " FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')"
        )
        source.execute(INSERT, [NOW])
        source.execute(INSERT, [LATE])
        source.execute("CALL silver.run_rollups(as_of => 'infinity')")
        told = source.execute("SELECT DISTINCT error_message FROM silver.error_log").fetchall()
        assert told == [("late rows were perhaps kept out of sealed time, not counted",)]
        assert total(source, "silver.s_1h") == 241
        admin.execute("DROP FOREIGN TABLE raw.s_0")
    refresh_everything(source)
    assert total(source, "silver.s_1h") == total(source, "silver.s_1d") == 241
