"""Promise b: what a MERGE or an UPDATE of many times does is captured, however it is run."""

import random

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer
from written_rows import COLUMNS, ROWS, problems_of

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
