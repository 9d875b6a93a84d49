"""Promise b: rows of a source are written through other tables too, and by every mix of MERGE."""

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer

Connect = Callable[..., psycopg.Connection[Any]]

COLUMNS = "id integer, ts timestamptz, k integer, v integer"

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
ROWS = (
    "SELECT i, timestamptz '2026-03-01 00:00+00' + make_interval(mins => 20 * i), {k}, i"
    " FROM generate_series(0, 59) AS i"
)
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


def problems_of(connection: psycopg.Connection[Any], name: str) -> tuple[str, list[Any]]:
    """Health of the rollup, and what validation says of it."""
    health = connection.execute(
        "SELECT health FROM silver.timeseries_operations_monitor WHERE target_table = %s", [name]
    ).fetchone()
    assert health
    problems = connection.execute(
        "SELECT problem, hint FROM silver.validate_rollup_config()"
        " WHERE target = %s AND NOT is_valid",
        [name],
    ).fetchall()
    return health[0], problems


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


MERGED = {
    "plain": "CREATE TABLE raw.t ({columns})",
    "by time": """
        CREATE TABLE raw.t ({columns}) PARTITION BY RANGE (ts);
        CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01') TO ('2026-03-02');
        CREATE TABLE raw.t_0 PARTITION OF raw.t DEFAULT;
    """,
    "by list": """
        CREATE TABLE raw.t ({columns}) PARTITION BY LIST (k);
        CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES IN (0, 1);
        CREATE TABLE raw.t_0 PARTITION OF raw.t DEFAULT;
    """,
    "by hash": """
        CREATE TABLE raw.t ({columns}) PARTITION BY HASH (id);
        CREATE TABLE raw.t_0 PARTITION OF raw.t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    """,
    "by an expression": """
        CREATE TABLE raw.t ({columns}) PARTITION BY LIST ((k % 2));
        CREATE TABLE raw.t_0 PARTITION OF raw.t FOR VALUES IN (0);
        CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES IN (1);
    """,
    "in two levels": """
        CREATE TABLE raw.t ({columns}) PARTITION BY RANGE (ts);
        CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01') TO ('2026-03-02')
            PARTITION BY LIST (k);
        CREATE TABLE raw.t_1_1 PARTITION OF raw.t_1 FOR VALUES IN (0, 1);
        CREATE TABLE raw.t_1_0 PARTITION OF raw.t_1 DEFAULT;
        CREATE TABLE raw.t_0 PARTITION OF raw.t DEFAULT;
    """,
    "a partition": """
        CREATE TABLE raw.top ({columns}) PARTITION BY LIST (k);
        CREATE TABLE raw.t PARTITION OF raw.top FOR VALUES IN (0, 1);
        CREATE TABLE raw.side PARTITION OF raw.top DEFAULT;
    """,
    "inherited": "CREATE TABLE raw.t ({columns}); CREATE TABLE raw.t_1 () INHERITS (raw.t)",
}
NEW_VALUES = (
    "ts = s.ts",
    "ts = t.ts + interval '5 hours'",
    "ts = t.ts - interval '1 day', v = 5",
    "k = (t.k + 1) % 4",
    "k = s.k, ts = s.ts",
    "id = t.id + 1000",
    "v = t.v + 100",
)


def random_merge(dice: random.Random, version: int, table: str) -> str:
    """WHEN clauses in any order; an update after an insert is what some versions get wrong."""

    def update(by_source: bool = False) -> str:
        values = dice.choice([x for x in NEW_VALUES if not (by_source and "s." in x)])
        return f"UPDATE SET {values}"

    clauses = [
        f"WHEN MATCHED AND t.id % {dice.randint(2, 5)} = 0 THEN "
        + dice.choice([update(), update(), "DELETE", "DO NOTHING"])
        for _ in range(dice.randint(0, 2))
    ]
    clauses.append(f"WHEN MATCHED THEN {dice.choice([update(), update(), 'DELETE'])}")
    clauses.insert(
        dice.randint(0, len(clauses)),
        "WHEN NOT MATCHED AND s.v % 3 > 0 THEN INSERT (id, ts, k, v) VALUES (s.id, s.ts, s.k, s.v)",
    )
    if version >= 170000 and dice.random() < 0.4:
        clauses.append(
            "WHEN NOT MATCHED BY SOURCE AND t.id % 7 = 1 THEN "
            + dice.choice([update(by_source=True), "DELETE"])
        )
    rows = ", ".join(
        f"({i}, timestamptz '2026-03-01 00:00+00' + interval '{dice.randint(0, 50)} hours',"
        f" {dice.randint(0, 2)}, {dice.randint(0, 99)})"
        for i in dice.sample(range(80), 9)
    )
    returning = " RETURNING t.id" if version >= 170000 and dice.random() < 0.2 else ""
    return (
        f"MERGE INTO raw.{table} AS t USING (VALUES {rows}) AS s (id, ts, k, v) ON t.id = s.id "
        + " ".join(clauses)
        + returning
    )


@pytest.mark.parametrize("kind", MERGED)
def test_promise_b_every_mix_of_a_merge(
    db: psycopg.Connection, server: PostgresServer, kind: str
) -> None:
    dice = random.Random(kind)
    db.execute(MERGED[kind].format(columns=COLUMNS).encode())
    table = "top" if kind == "a partition" else "t"
    db.execute(f"INSERT INTO raw.{table} {ROWS.format(k='i % 3')}".encode())
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " time_column => 'ts', dimensions => '{k}', metrics => '{\"v\": [\"sum\"]}')"
    )
    refresh_everything(db)
    db.execute("SET enable_hashjoin = off; SET enable_mergejoin = off")  # in the order of the rows
    for _ in range(25):
        statement = random_merge(dice, server.version, table)
        with db.transaction(force_rollback=True):
            db.execute(statement.encode())
            try:
                assert_equal_to_group_by(db, "t_1h")
            except AssertionError as error:
                raise AssertionError(f"{statement}: {error}") from error


LATER = """
    CREATE FUNCTION raw.later() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.ts := NEW.ts + interval '3 hours';
        RETURN NEW;
    END
    $$;
    CREATE TRIGGER "{name}" BEFORE {event} ON raw.t FOR EACH ROW EXECUTE FUNCTION raw.later();
"""


def test_promise_b_a_trigger_of_the_users_moves_a_merged_row_on(db: psycopg.Connection) -> None:
    db.execute(MERGED["by time"].format(columns=COLUMNS).encode())
    db.execute(f"INSERT INTO raw.t {ROWS.format(k=0)}".encode())
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    refresh_everything(db)
    merge = (
        "MERGE INTO raw.t AS t USING (SELECT 1) AS s ON t.id = {}"
        " WHEN MATCHED THEN UPDATE SET ts = t.ts + interval '{} hours'"
    )
    for name, event in (("a", "UPDATE"), ("zzz", "UPDATE"), ("}", "UPDATE"), ("z", "INSERT")):
        with db.transaction(force_rollback=True):
            db.execute(LATER.format(name=name, event=event).encode())
            refresh_everything(db)  # which sees that there is a trigger before INSERT
            for statement in (merge.format(3, 24), merge.format(4, 1)):
                db.execute(statement.encode())
                assert_equal_to_group_by(db, "t_1h")
            assert problems_of(db, "silver.t_1h")[1] == []
    db.execute(LATER.format(name="~~ later", event="UPDATE").encode())
    health, problems = problems_of(db, "silver.t_1h")
    assert health == "invalid"
    assert len(problems) == 1
    assert '"~~ later" of raw.t' in problems[0][0]


def test_promise_c_a_row_trigger_logs_again_what_was_undone_or_drained(
    db: psycopg.Connection,
) -> None:
    """It remembers within the transaction what it logged."""
    db.execute(MERGED["by time"].format(columns=COLUMNS).encode())
    db.execute(f"INSERT INTO raw.t {ROWS.format(k=0)}".encode())
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    refresh_everything(db)
    move = (
        "MERGE INTO raw.t AS t USING (SELECT 1) AS s ON t.id = {}"
        " WHEN MATCHED THEN UPDATE SET ts = t.ts + interval '24 hours'"
    )
    count = "SELECT count(*) FROM rollup_engine.change_log"
    with db.transaction():
        with db.transaction(force_rollback=True):
            db.execute(move.format(0).encode())
        db.execute(move.format(1).encode())
        assert_equal_to_group_by(db, "t_1h")
        logged = db.execute(count).fetchone()
        db.execute(move.format(2).encode())
        assert db.execute(count).fetchone() == logged
        refresh_everything(db)
        db.execute("UPDATE raw.t SET v = v + 1 WHERE id = 1")
        refresh_everything(db)
        db.execute(
            "MERGE INTO raw.t AS t USING (SELECT 1) AS s ON t.id = 0"
            " WHEN MATCHED THEN UPDATE SET ts = t.ts + interval '24 hours'"
        )
        assert_equal_to_group_by(db, "t_1h")
    refresh_everything(db)
    assert_settled(db, "t_1h")


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


MERGE = (
    "MERGE INTO raw.t AS t USING (SELECT {id} AS id) AS s ON t.id = s.id"
    " WHEN MATCHED THEN UPDATE SET ts = t.ts + interval '1 day', k = (t.k + 1) % 4"
)
# A trigger cannot ask whether it is a MERGE that fires it: each of these runs one that moves a row.
WAYS_TO_MERGE = {
    "by itself": MERGE.format(id=7),
    "in other letters": MERGE.format(id=7).replace("MERGE", "/* UPDATE */ mErGe"),
    "after an update": "UPDATE raw.t SET k = k WHERE id = 3;" + MERGE.format(id=7),
    "prepared": "UPDATE raw.t SET k = k; EXECUTE prepared",
    "in a block": f"DO $$ BEGIN {MERGE.format(id=7)}; END $$",
    "as text": f"DO $$ BEGIN EXECUTE replace({MERGE.format(id=7).replace('MERGE', 'M-E')!r}"
    ", 'M-E', 'MER' || 'GE'); END $$".replace('"', "$m$"),
    "in a function": "SELECT raw.go_in_plpgsql(7)",
    "in a function in SQL": "SELECT raw.go_in_sql(7)",
    "in a function in SQL in another": "SELECT raw.go_by_sql(7)",
    "in a procedure": "CALL raw.go_in_a_procedure(7)",
    "after an update in a function": "SELECT raw.go_after_an_update(7)",
    "in a trigger": "INSERT INTO raw.other VALUES (7)",
    "in a trigger of its own update": "UPDATE raw.t SET v = -1 WHERE id = 8",
    "with updates of its own inside": "SET raw.inside = 'yes'; "
    + MERGE.format(id=7)
    .replace("SELECT 7 AS id", "VALUES (6), (7), (8)")
    .replace(" s ON", " s (id) ON"),
}
FUNCTIONS = f"""
    CREATE TABLE raw.other (id integer);
    CREATE FUNCTION raw.go_in_plpgsql(i integer) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        {MERGE.format(id="i")};
    END $$;
    CREATE FUNCTION raw.go_in_sql(i integer) RETURNS void LANGUAGE sql AS $$
        {MERGE.format(id="i")}
    $$;
    CREATE FUNCTION raw.go_by_sql(i integer) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE raw.t SET k = k WHERE id = 4;
        PERFORM raw.go_in_sql(i);
    END $$;
    CREATE PROCEDURE raw.go_in_a_procedure(i integer) LANGUAGE sql AS $$ {MERGE.format(id="i")} $$;
    CREATE FUNCTION raw.go_after_an_update(i integer) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE raw.t SET k = k;
        {MERGE.format(id="i")};
        UPDATE raw.t SET k = k;
    END $$;
    CREATE FUNCTION raw.other_came() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM raw.go_in_sql(NEW.id);
        RETURN NEW;
    END $$;
    CREATE TRIGGER came BEFORE INSERT ON raw.other FOR EACH ROW EXECUTE FUNCTION raw.other_came();
    CREATE FUNCTION raw.t_changes() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.v = -1 AND pg_trigger_depth() = 1 THEN
            PERFORM raw.go_in_sql(7);
        ELSIF current_setting('raw.inside', true) = 'yes' AND pg_trigger_depth() = 1 THEN
            UPDATE raw.t SET v = v + 100 WHERE id = 20;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER changes BEFORE UPDATE ON raw.t FOR EACH ROW EXECUTE FUNCTION raw.t_changes();
"""


@pytest.mark.parametrize("kind", ["by time", "by list"])
def test_promise_b_a_merge_is_told_however_it_is_run(db: psycopg.Connection, kind: str) -> None:
    db.execute(MERGED[kind].format(columns=COLUMNS).encode())
    db.execute(f"INSERT INTO raw.t {ROWS.format(k='i % 3')}".encode())
    db.execute(FUNCTIONS.encode())
    db.execute(f"PREPARE prepared AS {MERGE.format(id=7)}".encode())
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " time_column => 'ts', dimensions => '{k}', metrics => '{\"v\": [\"sum\"]}')"
    )
    refresh_everything(db)
    for way, statement in WAYS_TO_MERGE.items():
        with db.transaction(force_rollback=True):
            db.execute(statement.encode())
            where_it_was = db.execute(
                "SELECT count(*) FROM raw.t WHERE id = 7 AND ts < '2026-03-02'"
            ).fetchone()
            assert where_it_was == (0,), way
            try:
                assert_equal_to_group_by(db, "t_1h")
            except AssertionError as error:
                raise AssertionError(f"{way}: {error}") from error
    if db.info.server_version >= 170000:
        with db.transaction(force_rollback=True):  # a cursor that the caller reads
            db.execute(
                "CREATE FUNCTION raw.opened() RETURNS refcursor LANGUAGE plpgsql AS $$ DECLARE"
                f" c refcursor := 'cur'; BEGIN OPEN c FOR {MERGE.format(id=7)} RETURNING t.id;"
                " RETURN c; END $$; UPDATE raw.t SET k = k; SELECT raw.opened()".encode()
            )
            db.execute("FETCH ALL FROM cur")
            assert_equal_to_group_by(db, "t_1h")
    with db.transaction(force_rollback=True):  # as a driver prepares it
        for i in (7, 8):
            db.execute(
                MERGE.replace("%", "%%").format(id="%s::integer").encode(), [i], prepare=True
            )
            db.execute("UPDATE raw.t SET k = k")
        assert_equal_to_group_by(db, "t_1h")


@pytest.mark.parametrize("kind", MERGED)
def test_an_update_of_many_times_is_logged_by_the_statement(
    db: psycopg.Connection, kind: str
) -> None:
    """Not row by row, as a MERGE is: that takes ten times as long."""
    db.execute(MERGED[kind].format(columns=COLUMNS).encode())
    table = "top" if kind == "a partition" else "t"
    db.execute(f"INSERT INTO raw.{table} {ROWS.format(k='i % 2')}".encode())
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " time_column => 'ts', dimensions => '{k}', metrics => '{\"v\": [\"sum\"]}')"
    )
    refresh_everything(db)
    update = f"UPDATE raw.{table} SET ts = ts + interval '2 hours', k = (k + 1) % 2"
    for statement in (update, f"DO $$ BEGIN {update}; END $$"):
        with db.transaction(force_rollback=True):
            db.execute(statement.encode())
            logged = db.execute("SELECT count(*) FROM rollup_engine.change_log").fetchone()
            assert logged == (1,)
            assert_equal_to_group_by(db, "t_1h")
