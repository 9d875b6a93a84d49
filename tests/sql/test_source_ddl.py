"""DDL on a source fires no trigger. Every read of gold equals the GROUP BY, or the monitor says
`invalid`, children included; after the next run it equals it again, or the hint says what to do."""

import re
from collections.abc import Callable

import psycopg
import pytest

from changed_tables import assert_exact_or_invalid, run
from daily_table import RESET, ROLLUPS, roll_up
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from scenes import scene
from validation import healths, is_stale, problems


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    return roll_up(db)


TAKEN_IN = {
    "a metric made anew": "ALTER TABLE raw.t DROP b, ADD b integer DEFAULT 7",
    "a dimension replaced": "ALTER TABLE raw.t RENAME device TO device_old;"
    "ALTER TABLE raw.t ADD device text DEFAULT 'unknown'",
    "columns swapped": "ALTER TABLE raw.t RENAME b TO c; ALTER TABLE raw.t RENAME w TO b;"
    "ALTER TABLE raw.t RENAME c TO w",
    "rewritten with the same type": "ALTER TABLE raw.t ALTER b TYPE integer USING b + 1",
    "triggers off for a while": "ALTER TABLE raw.t_1 DISABLE TRIGGER ALL;"
    "UPDATE raw.t_1 SET b = b + 1; ALTER TABLE raw.t_1 ENABLE ALWAYS TRIGGER ALL",
    "triggers left off": "ALTER TABLE raw.t DISABLE TRIGGER ALL; UPDATE raw.t SET b = b + 1",
    "triggers left at origin": "ALTER TABLE raw.t DISABLE TRIGGER ALL; UPDATE raw.t SET b = b + 1;"
    "ALTER TABLE raw.t ENABLE TRIGGER ALL",
    "a trigger dropped": "DROP TRIGGER tsrollup_update_1 ON raw.t; UPDATE raw.t SET b = b + 1",
    "an unlogged partition logged again": "ALTER TABLE raw.t_1 SET UNLOGGED;"
    "SELECT silver.perform_rollup(); ALTER TABLE raw.t_1 DISABLE TRIGGER ALL; DELETE FROM raw.t_1;"
    "ALTER TABLE raw.t_1 ENABLE ALWAYS TRIGGER ALL; ALTER TABLE raw.t_1 SET LOGGED",
    "a text dimension": "ALTER TABLE raw.t ALTER device TYPE varchar(40)",
}


@pytest.mark.parametrize("change", TAKEN_IN)
def test_promise_b_ddl_that_the_next_run_takes_in(
    rolled_up: psycopg.Connection, change: str
) -> None:
    run(rolled_up, TAKEN_IN[change])
    assert_exact_or_invalid(rolled_up)
    rolled_up.execute("UPDATE raw.t SET a = a + 1 WHERE ts < '2026-03-01 15:00+00'")
    assert_exact_or_invalid(rolled_up)
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)
    assert problems(rolled_up) == []
    rolled_up.execute("UPDATE raw.t SET a = a + 1 WHERE ts > '2026-03-02 03:00+00'")
    assert_equal_to_group_by(rolled_up, *ROLLUPS)
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE raw.t ALTER b SET STATISTICS 1000",
        "VACUUM FULL raw.t_1",
        "CREATE INDEX t_ts ON raw.t_1 (ts); CLUSTER raw.t_1 USING t_ts",
        "ANALYZE raw.t",
        "ALTER TABLE raw.t ADD unused integer DEFAULT 3",
        "CREATE TABLE raw.t_3 PARTITION OF raw.t"
        " FOR VALUES FROM ('2026-03-03 00:00+00') TO ('2026-03-04 00:00+00');"
        " SELECT silver.perform_rollup()",
        "ALTER TABLE raw.t SET SCHEMA public; ALTER TABLE public.t RENAME TO elsewhere",
    ],
)
def test_ddl_that_changes_no_answer_makes_nothing_stale(
    rolled_up: psycopg.Connection, change: str
) -> None:
    for statement in change.split(";"):
        rolled_up.execute(statement.encode())
    assert problems(rolled_up) == []
    rolled_up.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    assert not is_stale(rolled_up)


GENERATED = """
    CREATE FUNCTION raw.twice(integer) RETURNS integer IMMUTABLE RETURN $1 * 2;
    CREATE COLLATION raw.mine FROM "C";
    CREATE DOMAIN raw.level AS integer;
    CREATE TABLE raw.g (ts timestamptz NOT NULL, a raw.level, device text COLLATE raw.mine,
        b integer GENERATED ALWAYS AS (raw.twice(a)) STORED) PARTITION BY RANGE (ts);
    CREATE TABLE raw.g_1 PARTITION OF raw.g FOR VALUES FROM ('2026-03-01') TO ('2026-03-02');
    CREATE TABLE raw.g_2 PARTITION OF raw.g FOR VALUES FROM ('2026-03-02') TO ('2026-03-03');
    INSERT INTO raw.g (ts, a, device)
    SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => 7 * i), i, 'd' || i % 3
    FROM generate_series(0, 199) AS i;
    GRANT USAGE ON SCHEMA raw TO PUBLIC;
"""


@pytest.mark.parametrize(
    "change",
    [
        "ALTER FUNCTION raw.twice(integer) RENAME TO doubled",
        "ALTER COLLATION raw.mine RENAME TO yours",
        "ALTER DOMAIN raw.level RENAME TO height",
        "ALTER TABLE raw.g_1 RENAME TO g_first",
        "ALTER TRIGGER tsrollup_update_1 ON raw.g RENAME TO something_else",
        "ALTER TABLE raw.g ALTER a SET NOT NULL, ALTER a SET DEFAULT 1",
        "ALTER TABLE raw.g DETACH PARTITION raw.g_1; SELECT silver.perform_rollup();"
        "ALTER TABLE raw.g ATTACH PARTITION raw.g_1"
        " FOR VALUES FROM ('2026-03-01') TO ('2026-03-02')",
        "GRANT SELECT (a) ON raw.g_1 TO tsrollup_operator; VACUUM FULL raw.g_1",
    ],
)
def test_what_makes_a_rollup_invalid_is_over_with_the_next_run(
    db: psycopg.Connection, change: str
) -> None:
    """What the monitor compares, a run looks at."""
    db.execute(GENERATED)
    db.execute("SELECT silver.create_rollup_table('raw.g', 'silver', 'g_1h', '1 hour')")
    refresh_everything(db)
    for statement in change.split(";"):
        db.execute(statement.encode())
    refresh_everything(db)
    assert problems(db) == []
    db.execute("UPDATE raw.g SET a = a + 1 WHERE ts < '2026-03-01 15:00+00'")
    refresh_everything(db)
    assert healths(db) == {"ok"}
    assert_settled(db, "g_1h")


def test_a_detachment_that_was_cancelled_and_finished(
    rolled_up: psycopg.Connection, connect: Callable[..., psycopg.Connection]
) -> None:
    reader = connect(autocommit=False)
    reader.execute("SELECT FROM raw.t")
    rolled_up.execute("SET statement_timeout = '500ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        rolled_up.execute("ALTER TABLE raw.t DETACH PARTITION raw.t_1 CONCURRENTLY")
    rolled_up.execute("RESET statement_timeout")
    reader.close()
    for statement in ("SELECT", "ALTER TABLE raw.t DETACH PARTITION raw.t_1 FINALIZE"):
        rolled_up.execute(statement.encode())
        refresh_everything(rolled_up)
        assert problems(rolled_up) == []
        assert_settled(rolled_up, *ROLLUPS)


CAPTURE = (
    "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), tgenabled, tgparentid = 0"
    " FROM pg_trigger WHERE tgfoid = 'rollup_engine.capture_1()'::regprocedure ORDER BY 1, 2"
)


def test_promise_b_triggers_under_another_condition(rolled_up: psycopg.Connection) -> None:
    made = rolled_up.execute(CAPTURE).fetchall()
    for table, name, definition, enabled, is_own in made:
        if not is_own:
            continue  # it follows that of the source
        other = re.sub(r"( WHEN \(.*\))?(?= EXECUTE)", " WHEN (false)", definition, count=1)
        rolled_up.execute(other.replace("CREATE", "CREATE OR REPLACE", 1).encode())
        mode = {"A": "ALWAYS", "R": "REPLICA"}[enabled]
        rolled_up.execute(f'ALTER TABLE {table} ENABLE {mode} TRIGGER "{name}"'.encode())
    assert healths(rolled_up) == {"invalid"}
    rolled_up.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    assert healths(rolled_up) == {"invalid"}
    rolled_up.execute("UPDATE raw.t SET a = a + 1")
    refresh_everything(rolled_up)
    assert problems(rolled_up) == []
    assert_settled(rolled_up, *ROLLUPS)
    assert rolled_up.execute(CAPTURE).fetchall() == made


def test_conditions_of_triggers_over_all_types(db: psycopg.Connection) -> None:
    """A trigger that was made just now is as it was made, whatever its condition compares."""
    (types,) = db.execute(
        "SELECT array_agg(opcintype::regtype::text) FROM pg_opclass AS c"
        " JOIN pg_am AS m ON m.oid = opcmethod JOIN pg_type AS t ON t.oid = opcintype"
        " WHERE amname = 'hash' AND opcdefault AND opcnamespace = 'pg_catalog'::regnamespace"
        " AND typtype = 'b' AND typcategory <> 'Z'"
    ).fetchone() or ([],)
    assert len(types) > 20
    db.execute("CREATE TYPE raw.mood AS ENUM ('sad'); CREATE DOMAIN raw.at AS timestamptz")
    types += ["raw.mood", "raw.at", "char(3)", "varchar(9)", "numeric(9,2)[]", "int4range"]
    for number in range(3):
        columns = [(f"\"{x} (x) ::text, 'old'\"", x) for x in types[number::3]]
        db.execute(
            "CREATE TABLE raw.k{} (ts raw.at, {}) PARTITION BY HASH (ts, {})".format(
                number, ", ".join(map(" ".join, columns)), ", ".join(x for x, _ in columns)
            ).encode()
        )
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', time_column => 'ts',"
            " dimensions => '{}', metrics => '{}')",
            [f"raw.k{number}", f"k{number}_1h"],
        )
    assert problems(db) == []


def test_a_trigger_is_not_mended_before_deferred_checks_of_the_same_transaction(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.t (id integer PRIMARY KEY, ts timestamptz, v integer)")
    db.execute("INSERT INTO raw.t SELECT i, '2026-03-01', i FROM generate_series(1, 9) AS i")
    db.execute("CREATE TABLE raw.u (id integer REFERENCES raw.t DEFERRABLE INITIALLY DEFERRED)")
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    refresh_everything(db)
    db.execute("ALTER TABLE raw.t DISABLE TRIGGER tsrollup_insert_1")
    with db.transaction():
        db.execute("DELETE FROM raw.t WHERE id = 1")
        db.execute("INSERT INTO raw.t VALUES (10, '2026-03-02', 10)")
        db.execute("SELECT * FROM silver.perform_rollup()")
        assert healths(db) == {"invalid"}
    refresh_everything(db)
    assert healths(db) == {"ok"}
    assert_settled(db, "t_1h")


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE raw.m ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE raw.m ALTER ts TYPE date USING ts::date",
        "ALTER TABLE silver.m_1h DROP COLUMN v_sum CASCADE",
        "ALTER TABLE raw.m ALTER v TYPE text USING v::text",
    ],
)
def test_who_is_told_to_drop_a_rollup_hears_how_to_keep_what_is_sealed(
    db: psycopg.Connection, statement: str
) -> None:
    kept = " (keep_table => true keeps what is sealed, which nobody can compute again)"
    db.execute("CREATE TABLE raw.m (ts timestamptz NOT NULL, v integer)")
    db.execute("SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour')")
    db.execute(statement.encode())
    for is_sealed in (False, True):
        if is_sealed:
            force_configuration(db, "sealed_before = '2026-03-01'")
        told = [hint for _, _, hint in problems(db) if "drop" in hint]
        assert told
        assert {kept in hint for hint in told} == {is_sealed}


def test_row_security_on_a_rollup_table_is_invalid(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("ALTER TABLE silver.t_1h ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    assert healths(rolled_up) == {"invalid"}
    ((_, problem, hint),) = [row for row in problems(rolled_up) if row[0] == "silver.t_1h"]
    assert "row level security" in problem
    rolled_up.execute(hint.encode())
    assert healths(rolled_up) == {"ok"}
    assert_settled(rolled_up, *ROLLUPS)


def test_nothing_new_over_a_source_with_row_security(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("ALTER TABLE raw.t ENABLE ROW LEVEL SECURITY")
    for statement in (
        "SELECT silver.create_rollup_table('t_1d', 'silver', 't_7d', '7 days')",
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_2h', '2 hours')",
        "SELECT silver.add_rollup_metric('t_1h', '{\"b\": [\"max\"]}')",
        "SELECT silver.rebuild_rollup('t_1h')",
    ):
        with pytest.raises(psycopg.Error, match=r"raw\.t has row level security") as caught:
            rolled_up.execute(statement.encode())
        assert caught.value.sqlstate == "TR004"
        assert caught.value.diag.message_hint


def test_promise_b_row_security_for_a_while(rolled_up: psycopg.Connection) -> None:
    """The machinery reads all rows or fails; a partition that came meanwhile is taken in."""
    rolled_up.execute(
        "CREATE TABLE raw.t_3 (LIKE raw.t INCLUDING GENERATED);"
        "INSERT INTO raw.t_3 (ts, device, a, b) VALUES ('2026-03-03 05:00+00', 'd1', 1, 1);"
        "ALTER TABLE raw.t ENABLE ROW LEVEL SECURITY;"
        "ALTER TABLE raw.t ATTACH PARTITION raw.t_3"
        " FOR VALUES FROM ('2026-03-03 00:00+00') TO ('2026-03-04 00:00+00')"
    )
    rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    rolled_up.execute("ALTER TABLE raw.t DISABLE ROW LEVEL SECURITY")
    rolled_up.execute(RESET)
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)


def test_a_hint_names_a_trigger_that_its_table_has_off(db: psycopg.Connection) -> None:
    """Others of the tables beside a source are on: who follows it each time comes to an end."""
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, n integer) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.t_2 PARTITION OF raw.t FOR VALUES FROM ('2026-03-02') TO ('2026-03-03');"
        "CREATE TABLE raw.t_3 PARTITION OF raw.t FOR VALUES FROM ('2026-03-03') TO ('2026-03-05');"
        "CREATE TABLE raw.t_rest PARTITION OF raw.t DEFAULT"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t_rest', 'silver', 't_1h', '1 hour')")
    db.execute("ALTER TABLE raw.t_2 ENABLE TRIGGER USER; ALTER TABLE raw.t_3 DISABLE TRIGGER USER")
    asked = 0
    while found := problems(db):
        [(_, _, hint)] = found
        statement = hint.removeprefix("as the owner: ").removesuffix(", and the same for each")
        db.execute(statement.encode())
        asked += 1
        assert asked <= 4
    assert asked == 4
