"""Promise b: rows of a source are written through other tables too, and by every mix of MERGE."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer
from written_rows import COLUMNS, ROWS, problems_of

Connect = Callable[..., psycopg.Connection[Any]]

# raw.t is the source, raw.top the table above it that statements name.
BELOW = {
    "a partition": """
        CREATE TABLE raw.top ({columns}) PARTITION BY LIST (k);
        CREATE TABLE raw.t PARTITION OF raw.top FOR VALUES IN (0, 1);
        CREATE TABLE raw.side PARTITION OF raw.top DEFAULT;
    """,
    "a partition of a partition": """
        CREATE TABLE raw.top ({columns}) PARTITION BY LIST (k);
        CREATE TABLE raw.middle PARTITION OF raw.top FOR VALUES IN (0, 1) PARTITION BY RANGE (ts);
        CREATE TABLE raw.t PARTITION OF raw.middle FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)
            PARTITION BY HASH (id);
        CREATE TABLE raw.t_0 PARTITION OF raw.t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE raw.side PARTITION OF raw.top DEFAULT;
    """,
    "a child": """
        CREATE TABLE raw.top ({columns});
        CREATE TABLE raw.t () INHERITS (raw.top);
        CREATE TABLE raw.side () INHERITS (raw.top);
    """,
    "a child with times of its own": """
        CREATE TABLE raw.top (id integer, k integer, v integer);
        CREATE TABLE raw.t (ts timestamptz) INHERITS (raw.top);
        CREATE TABLE raw.side (ts timestamptz) INHERITS (raw.top);
    """,
    "with a child that has another parent": """
        CREATE TABLE raw.top ({columns});
        CREATE TABLE raw.t ({columns});
        CREATE TABLE raw.t_1 () INHERITS (raw.t, raw.top);
        CREATE TABLE raw.side () INHERITS (raw.top);
    """,
}

THROUGH_THE_TOP = (
    "UPDATE raw.top SET v = v + 1 WHERE k = 0",
    "UPDATE ONLY raw.t SET v = v + 1 WHERE id = 1",
    "UPDATE raw.top SET v = v + 1, k = CASE k WHEN 1 THEN 3 WHEN 3 THEN 1 ELSE k END",
    "MERGE INTO raw.top AS t USING (SELECT 1) AS s ON t.k IN (1, 3)"
    " WHEN MATCHED THEN UPDATE SET k = CASE t.k WHEN 1 THEN 3 ELSE 1 END",
    "MERGE INTO raw.top AS t USING (SELECT 5 AS id) AS s ON t.id = s.id WHEN MATCHED THEN DELETE",
    "DELETE FROM raw.top WHERE id % 5 = 0",
    "WITH gone AS (DELETE FROM raw.top WHERE k = 0 RETURNING *)"
    " INSERT INTO raw.t (id, ts, k, v) SELECT id, '2026-03-05', k, v FROM gone",
    "DELETE FROM raw.fleet WHERE k = 0",
    "UPDATE raw.fleet SET k = 5 WHERE k = 1",
    "TRUNCATE raw.top",
)
THROUGH_A_PARTITIONED_TOP = (
    "INSERT INTO raw.top SELECT 900 + i, timestamptz '2026-03-02 12:00+00', i % 3, i"
    " FROM generate_series(0, 9) AS i",
    "INSERT INTO raw.top VALUES (7, '2026-03-04 00:00+00', 0, 1)",
    "MERGE INTO raw.top AS t USING (SELECT 5 AS id UNION ALL SELECT 999) AS s ON t.id = s.id"
    " WHEN MATCHED THEN UPDATE SET ts = t.ts + interval '1 hour'"
    " WHEN NOT MATCHED THEN INSERT VALUES (s.id, '2026-03-06', 0, 7)",
)


@pytest.mark.parametrize("kind", BELOW)
def test_promise_b_a_source_below_another_table(db: psycopg.Connection, kind: str) -> None:
    timed = kind != "a child with times of its own"
    db.execute("CREATE TABLE raw.fleet (k integer PRIMARY KEY)")
    db.execute("INSERT INTO raw.fleet SELECT generate_series(0, 4)")
    db.execute(BELOW[kind].format(columns=COLUMNS).encode())
    for table, k in (("t_1" if "another" in kind else "t", "i % 2"), ("side", "3 + i % 2")):
        db.execute(f"INSERT INTO raw.{table} (id, ts, k, v) {ROWS.format(k=k)}".encode())
    is_partition = "partition" in kind
    db.execute(
        f"ALTER TABLE raw.{'top' if is_partition else 't'} ADD FOREIGN KEY (k)"
        " REFERENCES raw.fleet ON DELETE CASCADE ON UPDATE CASCADE".encode()
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " time_column => 'ts', dimensions => '{k}', metrics => '{\"v\": [\"sum\"]}')"
    )
    refresh_everything(db)
    further: tuple[str, ...] = THROUGH_A_PARTITIONED_TOP if is_partition else ()
    if timed:
        further += ("UPDATE raw.top SET ts = ts + interval '10 hours' WHERE id % 2 = 0",)
    for statement in THROUGH_THE_TOP + further:
        with db.transaction(force_rollback=True):
            db.execute(statement.encode())
            try:
                assert_equal_to_group_by(db, "t_1h")
                refresh_everything(db)
                assert_settled(db, "t_1h")
            except AssertionError as error:
                raise AssertionError(f"{statement}: {error}") from error
    if is_partition:
        with db.cursor().copy("COPY raw.top FROM STDIN") as copy:
            copy.write_row((1, "2026-03-01 04:00+00", 1, 5))
        assert_equal_to_group_by(db, "t_1h")


def test_promise_b_a_table_reached_by_two_paths_is_one(db: psycopg.Connection) -> None:
    db.execute(
        f"""
        CREATE TABLE raw.t ({COLUMNS});
        CREATE TABLE raw.l () INHERITS (raw.t);
        CREATE TABLE raw.r () INHERITS (raw.t);
        CREATE TABLE raw.bottom () INHERITS (raw.l, raw.r);
        CREATE TABLE raw.below () INHERITS (raw.bottom, raw.t);
        INSERT INTO raw.bottom {ROWS.format(k=0)};
        """.encode()
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('raw.l', 'silver', 'l_1h', '1 hour')")
    for statement in (
        "INSERT INTO raw.bottom VALUES (1, '2026-03-01 00:30+00', 1, 1)",
        "UPDATE raw.r SET v = v + 1",
        "INSERT INTO raw.below VALUES (1, '2026-03-01 00:30+00', 1, 1)",
        "DELETE FROM raw.r WHERE id = 1",
        "ALTER TABLE raw.bottom NO INHERIT raw.l",
        "TRUNCATE raw.bottom",
    ):
        db.execute(statement.encode())
        if "NO INHERIT" not in statement:  # which the next drain finds
            assert_equal_to_group_by(db, "t_1h", "l_1h")
        refresh_everything(db)
        assert_settled(db, "t_1h", "l_1h")


@pytest.mark.parametrize("kind", ["partition", "child"])
def test_promise_b_a_table_that_comes_above_the_source(db: psycopg.Connection, kind: str) -> None:
    """Invalid at once and read live, stored by the next run, and left alone when it leaves."""
    by_time = " PARTITION BY RANGE (ts)"
    db.execute(f"CREATE TABLE raw.t ({COLUMNS}); INSERT INTO raw.t {ROWS.format(k=0)}".encode())
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    assert problems_of(db, "silver.t_1h") == ("ok", [])
    db.execute(f"CREATE TABLE raw.top ({COLUMNS}){by_time * (kind == 'partition')}".encode())
    joins, leaves = (
        ("ALTER TABLE raw.t INHERIT raw.top", "ALTER TABLE raw.t NO INHERIT raw.top")
        if kind == "child"
        else (
            "ALTER TABLE raw.top ATTACH PARTITION raw.t"
            " FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
            "ALTER TABLE raw.top DETACH PARTITION raw.t",
        )
    )
    for _ in range(2):
        db.execute(joins.encode())
        db.execute("UPDATE raw.top SET v = v + 1 WHERE id < 10")
        db.execute("DELETE FROM raw.top WHERE id = 33")
        health, problems = problems_of(db, "silver.t_1h")
        assert health == "invalid"
        assert "through raw.top" in problems[0][0]
        assert problems_of(db, "silver.t_1d")[0] == "invalid"
        assert_equal_to_group_by(db, "t_1h", "t_1d")
        refresh_everything(db)
        assert_settled(db, "t_1h", "t_1d")
        assert problems_of(db, "silver.t_1h") == ("ok", [])
        db.execute("UPDATE raw.top SET ts = ts + interval '3 hours' WHERE id < 10")
        db.execute(
            "MERGE INTO raw.top AS t USING (SELECT 1) AS s ON t.id = 11"
            " WHEN MATCHED THEN UPDATE SET ts = t.ts + interval '2 hours'"
        )
        assert_equal_to_group_by(db, "t_1h", "t_1d")
        db.execute(leaves.encode())
        refresh_everything(db)
        assert_settled(db, "t_1h", "t_1d")
        left = db.execute(
            "SELECT FROM pg_trigger WHERE tgrelid = 'raw.top'::regclass AND NOT tgisinternal"
        )
        assert left.rowcount == 0
    db.execute("SELECT silver.drop_rollup('t_1d'); SELECT silver.drop_rollup('t_1h')")
    db.execute("INSERT INTO raw.t VALUES (1, now(), 1, 1)")


@pytest.mark.parametrize("joins", ["above", "below"])
def test_promise_b_another_rollup_of_a_source_that_was_joined(
    db: psycopg.Connection, joins: str
) -> None:
    """What it makes seen from then on had been written before, which the others hear of."""
    db.execute(
        f"CREATE TABLE raw.t ({COLUMNS}) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01') TO ('2026-03-02');"
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour');"
        "INSERT INTO raw.t VALUES (1, '2026-03-01 10:00+00', 0, 1)".encode()
    )
    refresh_everything(db)
    if joins == "above":
        db.execute(
            f"CREATE TABLE raw.top ({COLUMNS}) PARTITION BY LIST (k);"
            "ALTER TABLE raw.top ATTACH PARTITION raw.t FOR VALUES IN (0);"
            "INSERT INTO raw.top VALUES (2, '2026-03-01 10:30+00', 0, 2)".encode()
        )
    else:
        db.execute(
            f"CREATE TABLE raw.t_2 ({COLUMNS});"
            "INSERT INTO raw.t_2 VALUES (2, '2026-03-02 10:30+00', 0, 2);"
            "ALTER TABLE raw.t ATTACH PARTITION raw.t_2"
            " FOR VALUES FROM ('2026-03-02') TO ('2026-03-03')".encode()
        )
    assert problems_of(db, "silver.t_1h")[0] == "invalid"
    db.execute("SELECT silver.create_rollup_table('silver.t_1h', 'silver', 't_1d', '1 day')")
    assert problems_of(db, "silver.t_1h")[1] == []
    assert_equal_to_group_by(db, "t_1h", "t_1d")
    refresh_everything(db)
    assert_settled(db, "t_1h", "t_1d")


def test_a_distributed_table_is_refused(connect: Connect, server: PostgresServer) -> None:
    """Citus and TimescaleDB list their tables; here tables of those names stand in for them."""
    owner = connect(user=server.superuser)
    try:
        owner.execute("SET allow_system_table_mods = on")
    except psycopg.errors.InsufficientPrivilege:
        pytest.skip("only a superuser makes tables in pg_catalog")
    owner.execute(
        "CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod char);"
        "GRANT SELECT ON pg_catalog.pg_dist_partition TO PUBLIC"
    )
    owner.execute(
        f"CREATE TABLE raw.t ({COLUMNS}) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.t_1 PARTITION OF raw.t DEFAULT; CREATE TABLE raw.u (ts timestamptz);"
        "INSERT INTO pg_catalog.pg_dist_partition VALUES ('raw.t', 'h')".encode()
    )
    for table in ("t", "t_1"):
        with pytest.raises(psycopg.Error, match=r"raw\.t is distributed") as caught:
            owner.execute(
                "SELECT silver.create_rollup_table(%s, 'silver', 'x', '1 hour')", [f"raw.{table}"]
            )
        assert caught.value.sqlstate == "TR004"
        assert "window" in (caught.value.diag.message_hint or "")
    owner.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " change_tracking => 'window', look_back_window => '1 day')"
    )
    owner.execute("SELECT silver.create_rollup_table('raw.u', 'silver', 'u_1h', '1 hour')")
    assert problems_of(owner, "silver.u_1h") == ("ok", [])
    owner.execute("INSERT INTO pg_catalog.pg_dist_partition VALUES ('raw.u', 'h')")
    health, problems = problems_of(owner, "silver.u_1h")
    assert health == "invalid"
    assert "raw.u is distributed" in problems[0][0]
    assert problems_of(owner, "silver.t_1h")[1] == []
    owner.execute(
        "CREATE SCHEMA _timescaledb_catalog; GRANT USAGE ON SCHEMA _timescaledb_catalog TO PUBLIC;"
        "CREATE TABLE _timescaledb_catalog.hypertable (schema_name name, table_name name);"
        "GRANT SELECT ON _timescaledb_catalog.hypertable TO PUBLIC;"
        'CREATE TABLE raw."Odd" (ts timestamptz); CREATE TABLE raw.chunk () INHERITS (raw."Odd");'
        "INSERT INTO _timescaledb_catalog.hypertable VALUES ('raw', 'Odd')"
    )
    for table in ('"Odd"', "chunk"):
        with pytest.raises(psycopg.Error, match=r'raw\."Odd" is a hypertable') as caught:
            owner.execute(
                "SELECT silver.create_rollup_table(%s, 'silver', 'x', '1 hour')", [f"raw.{table}"]
            )
        assert caught.value.sqlstate == "TR004"
