"""DDL on a source fires no trigger. Every read of gold equals the GROUP BY, or the monitor says
`invalid`, children included; after the next run it equals it again, or the hint says what to do."""

import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from scenes import scene

ROLLUPS = ("t_1h", "t_1d")
RESET = "SELECT silver.reset_rollup_retry('t_1h'), silver.reset_rollup_retry('t_1d')"

SOURCE = """
    CREATE TABLE raw.t (
        ts timestamptz NOT NULL, device text, a integer, b integer,
        w integer GENERATED ALWAYS AS (a * 2) STORED
    ) PARTITION BY RANGE (ts);
    CREATE TABLE raw.t_1 PARTITION OF raw.t
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
    CREATE TABLE raw.t_2 PARTITION OF raw.t
        FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-03 00:00+00');
    INSERT INTO raw.t (ts, device, a, b)
    SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => 7 * i),
        'd' || i % 3, i, 1000 - i
    FROM generate_series(0, 199) AS i;
"""


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    db.execute(SOURCE)
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        ' dimensions => \'{device}\', metrics => \'{"a": ["sum", "avg", "max"],'
        ' "b": ["sum"], "w": ["min"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    assert healths(db) == {"ok"}
    return db


def healths(connection: psycopg.Connection[Any]) -> set[str]:
    return {
        row[0]
        for row in connection.execute("SELECT health FROM silver.timeseries_operations_monitor")
    }


def problems(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT target, problem, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()


def assert_exact_or_invalid(connection: psycopg.Connection[Any]) -> None:
    if healths(connection) != {"invalid"}:
        assert_equal_to_group_by(connection, *ROLLUPS)


def is_stale(connection: psycopg.Connection[Any]) -> bool:
    rows = connection.execute(
        "SELECT isempty(rollup_engine.stale_set(id)) FROM silver.rollup_config"
    ).fetchall()
    return (False,) in rows


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


def run(connection: psycopg.Connection[Any], script: str) -> None:
    """ENABLE ALWAYS takes one trigger at a time, which an administrator would write out."""
    (always,) = connection.execute(
        "SELECT string_agg(format('ENABLE %s TRIGGER %I',"
        " CASE tgenabled WHEN 'R' THEN 'REPLICA' ELSE 'ALWAYS' END, tgname), ', ')"
        " FROM pg_trigger WHERE tgrelid = 'raw.t_1'::regclass AND NOT tgisinternal"
    ).fetchone() or ("",)
    connection.execute(script.replace("ENABLE ALWAYS TRIGGER ALL", always).encode())


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


def gold(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT bucket, device, row_count, a_sum, a_avg, b_sum, w_min FROM gold.t_1d ORDER BY 1, 2"
    ).fetchall()


def test_promise_b_renamed_columns_are_followed(rolled_up: psycopg.Connection) -> None:
    """Time column, dimension and metrics; gold keeps its names, and new metrics go by the new."""
    before = gold(rolled_up)
    rolled_up.execute(
        "ALTER TABLE raw.t RENAME ts TO at; ALTER TABLE raw.t RENAME device TO sensor;"
        "ALTER TABLE raw.t RENAME a TO value"
    )
    assert healths(rolled_up) == {"invalid"}
    refresh_everything(rolled_up)
    assert problems(rolled_up) == []
    assert gold(rolled_up) == before
    rolled_up.execute("UPDATE raw.t SET value = value + 1, at = at + interval '1 hour'")
    rolled_up.execute("SELECT silver.add_rollup_metric('t_1h', '{\"value\": [\"min\"]}')")
    expected = rolled_up.execute(
        "SELECT date_bin('1 day', at, '2000-01-03 00:00+00'), sensor, count(*), sum(value),"
        " avg(value), sum(b), min(w) FROM raw.t GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    assert gold(rolled_up) == expected
    refresh_everything(rolled_up)
    assert gold(rolled_up) == expected
    lowest = rolled_up.execute("SELECT min(value_min) FROM gold.t_1h").fetchall()
    assert lowest == rolled_up.execute("SELECT min(value) FROM raw.t").fetchall()


@pytest.mark.parametrize("parts", ["", "PARTITION BY RANGE (ts)"])
@pytest.mark.parametrize(("one", "other"), [("ts", "sent"), ("device", "note")])
def test_promise_b_names_that_other_columns_had_for_a_while(
    db: psycopg.Connection, one: str, other: str, parts: str
) -> None:
    """Changes are logged by names of the time and the key, which are theirs again by the run."""
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, sent timestamptz, device text, note text)"
        f" {parts};".encode()
    )
    if parts:
        db.execute("CREATE TABLE raw.t_all PARTITION OF raw.t DEFAULT")
    db.execute(
        "CREATE INDEX ON raw.t (device, ts);"
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => i),"
        " timestamptz '2026-04-01 12:00+00', 'd' || i % 3, 'n' FROM generate_series(0, 199) AS i;"
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " time_column => 'ts', dimensions => '{device}', metrics => '{}')"
    )
    refresh_everything(db)
    assert healths(db) == {"ok"}
    swap = f"ALTER TABLE raw.t RENAME {one} TO x; ALTER TABLE raw.t RENAME {other} TO {one};"
    back = f"ALTER TABLE raw.t RENAME {one} TO {other}; ALTER TABLE raw.t RENAME x TO {one};"
    write = "INSERT INTO raw.t VALUES ('2026-03-01 13:00+00', '2026-04-02 13:00+00', 'd7', 'n');"
    for statements in (
        swap + write + back,
        f"SELECT silver.perform_rollup(); {swap} {write} {back}",
        swap + write + f"ALTER TABLE raw.t DROP {one}; ALTER TABLE raw.t RENAME x TO {one};",
    ):
        with db.transaction(force_rollback=True):
            db.execute(statements.encode())
            assert healths(db) == {"invalid"}
            refresh_everything(db)
            assert_equal_to_group_by(db, "t_1h")
            assert healths(db) == {"ok"}
    for by_itself in (f"ALTER {one} SET STATISTICS 500", "ADD c integer", f"DROP {other}"):
        db.execute(f"ALTER TABLE raw.t {by_itself}".encode())
        assert healths(db) == {"ok"}
        refresh_everything(db)


def test_what_cannot_be_followed_is_invalid_at_once(rolled_up: psycopg.Connection) -> None:
    """With the reason, for the children too, until it is undone."""
    for damage, undo in (
        ("ALTER TABLE raw.t DROP b", "ALTER TABLE raw.t ADD b integer DEFAULT 1"),
        ("ALTER TABLE raw.t_2 SET UNLOGGED", "ALTER TABLE raw.t_2 SET LOGGED"),
        (
            "CREATE UNLOGGED TABLE raw.u (LIKE raw.t INCLUDING GENERATED);"
            "INSERT INTO raw.u (ts) VALUES ('2026-04-01 00:00+00'); ALTER TABLE raw.t ATTACH"
            " PARTITION raw.u FOR VALUES FROM ('2026-04-01 00:00+00') TO ('2026-05-01 00:00+00')",
            "ALTER TABLE raw.t DETACH PARTITION raw.u",
        ),
        (
            "ALTER TABLE raw.t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE raw.t DISABLE ROW LEVEL SECURITY",
        ),
    ):
        rolled_up.execute(damage.encode())
        assert healths(rolled_up) == {"invalid"}, damage
        assert {target for target, _, _ in problems(rolled_up)} == {"silver.t_1h", "silver.t_1d"}
        rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
        assert healths(rolled_up) == {"invalid"}, damage
        rolled_up.execute(undo.encode())
        rolled_up.execute(RESET)
        refresh_everything(rolled_up)
        assert problems(rolled_up) == []
        assert_settled(rolled_up, *ROLLUPS)


def test_a_column_that_is_gone_is_asked_for_both_ways(rolled_up: psycopg.Connection) -> None:
    """Renamed or dropped: after a restore nobody knows which of the two."""
    rolled_up.execute("ALTER TABLE raw.t DROP b")
    hints = {hint for _, problem, hint in problems(rolled_up) if problem.endswith("is gone")}
    (hint,) = hints
    assert "ALTER TABLE raw.t RENAME its new name TO b" in hint
    assert "ADD COLUMN it again" in hint


def test_promise_b_a_time_column_that_triggers_do_not_see(db: psycopg.Connection) -> None:
    if db.info.server_version < 180000:
        pytest.skip("this server has no virtual generated columns")
    db.execute("CREATE TABLE raw.t (ts timestamp, e bigint, a integer)")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01', 1772323200, 1)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions => '{}')"
    )
    refresh_everything(db)
    db.execute(
        "ALTER TABLE raw.t DROP ts, ADD ts timestamp"
        " GENERATED ALWAYS AS ('epoch'::timestamp + e * interval '1 second')"
    )
    for _ in range(2):
        assert healths(db) == {"invalid"}
        assert any("not stored" in problem for _, problem, _ in problems(db))
        db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT silver.refresh_rollup('t_1h', '-infinity', 'infinity')",
        "SELECT silver.mark_stale('silver.t_1h', '-infinity', 'infinity')",
        "SELECT silver.mark_stale('raw.t', '-infinity', 'infinity')",
    ],
)
def test_an_open_range_after_the_time_column_was_renamed(
    rolled_up: psycopg.Connection, statement: str
) -> None:
    rolled_up.execute("ALTER TABLE raw.t RENAME ts TO at")
    rolled_up.execute("INSERT INTO raw.t (at, a) VALUES ('2026-03-01 01:00+00', 5)")
    rolled_up.execute(statement.encode())
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)


def test_a_retyped_time_column_is_told_before_what_follows_from_it(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamp, v integer)")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01', 1), ('2026-03-01 00:30', 2)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        ' metrics => \'{"v": ["first"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    retype = "ALTER TABLE raw.t ALTER ts TYPE {} USING ts AT TIME ZONE 'UTC'"
    db.execute(retype.format("timestamptz").encode())
    for _ in range(2):
        rows = db.execute(
            "SELECT health, reason, next_step FROM silver.timeseries_operations_monitor"
        ).fetchall()
        assert len(rows) == 2
        for health, reason, next_step in rows:
            assert health == "invalid"
            assert "time column ts of raw.t was timestamp" in reason
            assert next_step.startswith("change it back")
        db.execute("CALL silver.run_rollups()")
    assert [hint for _, _, hint in problems(db) if "rebuild_rollup" in hint] == []
    with pytest.raises(psycopg.Error, match="was timestamp without time zone") as refused:
        db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert str(refused.value.diag.message_hint).startswith("change it back")
    db.execute(retype.format("timestamp").encode())
    db.execute(RESET.encode())
    refresh_everything(db)
    assert healths(db) == {"ok"}
    assert_settled(db, *ROLLUPS)


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


TYPED = """
    CREATE SCHEMA types;
    GRANT USAGE ON SCHEMA types TO tsrollup_owner;
    CREATE TYPE types.mood AS ENUM ('sad', 'glad');
    CREATE DOMAIN types.level AS integer;
    CREATE TYPE types.inner AS (x integer, y integer);
    CREATE TYPE types.outer AS (i types.inner[], z types.mood);
    CREATE TABLE raw.t (
        ts timestamptz, mood types.mood, deep types.outer, inner_one types.inner, a types.level);
    INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + make_interval(mins => 11 * i),
        CASE i % 2 WHEN 0 THEN 'sad' ELSE 'glad' END::types.mood,
        (ARRAY[(i % 3, i % 2)]::types.inner[], 'sad')::types.outer, (i % 7, i % 5)::types.inner, i
    FROM generate_series(0, 200) AS i;
"""


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ("ALTER TYPE types.mood RENAME TO feeling", "types.feeling"),
        ("ALTER DOMAIN types.level RENAME TO height", "types.mood"),
        ("ALTER TYPE types.mood SET SCHEMA public", "public.mood"),
        ("ALTER SCHEMA types RENAME TO kinds", "kinds.mood"),
        ("ALTER TYPE types.inner DROP ATTRIBUTE y", "types.mood"),
    ],
)
def test_promise_b_types_that_are_renamed_or_lose_a_part(
    db: psycopg.Connection, change: str, moved: str
) -> None:
    db.execute(TYPED)
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions =>"
        ' \'{mood, deep, inner_one}\', metrics => \'{"a": ["sum", "first"], "ts": ["max"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    db.execute(change.encode())
    assert healths(db) == {"invalid"}
    refresh_everything(db)
    assert problems(db) == []
    assert_settled(db, *ROLLUPS)
    db.execute(f"UPDATE raw.t SET a = a + 1, mood = 'sad'::{moved} WHERE a % 5 = 0".encode())
    assert_equal_to_group_by(db, *ROLLUPS)
    refresh_everything(db)
    assert healths(db) == {"ok"}
    assert_settled(db, *ROLLUPS)


def test_promise_f_sealed_keys_that_become_equal(db: psycopg.Connection) -> None:
    """They are added up, and indexes, whose order they had, find all of them."""
    db.execute(TYPED)
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions =>"
        ' \'{deep, inner_one}\', metrics => \'{"a": ["avg", "first", "last", "max"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    db.execute("ALTER TYPE types.inner DROP ATTRIBUTE y")
    refresh_everything(db)
    assert problems(db) == []
    force_configuration(db, "sealed_before = NULL")
    assert_settled(db, *ROLLUPS)
    db.execute("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off")
    for table in ROLLUPS:
        assert db.execute(
            f"SELECT count(*) - (SELECT count(*) FROM silver.{table}) FROM silver.{table} AS s"
            f" JOIN silver.{table} AS t USING (bucket, deep, inner_one)".encode()
        ).fetchall() == [(0,)]


def test_promise_b_columns_of_a_child_that_change_places(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, a integer, b integer);"
        "CREATE TABLE raw.t_1 () INHERITS (raw.t);"
        "INSERT INTO raw.t_1 SELECT '2026-03-01 00:00+00', i, 100 - i"
        " FROM generate_series(0, 9) AS i"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    db.execute(
        "ALTER TABLE raw.t_1 NO INHERIT raw.t; ALTER TABLE raw.t_1 RENAME a TO c;"
        "ALTER TABLE raw.t_1 RENAME b TO a; ALTER TABLE raw.t_1 RENAME c TO b;"
        "ALTER TABLE raw.t_1 INHERIT raw.t"
    )
    assert_exact_or_invalid(db)
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)


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


def test_what_moved_out_of_reach_is_one_clear_line(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("CREATE SCHEMA closed; ALTER TABLE raw.t SET SCHEMA closed")
    rolled_up.execute("GRANT USAGE ON SCHEMA closed TO tsrollup_owner")
    rolled_up.execute("ALTER TABLE silver.t_1d SET SCHEMA closed")
    rolled_up.execute("REVOKE USAGE ON SCHEMA closed FROM tsrollup_owner")
    for call, table in (
        ("rebuild_rollup('t_1h')", "closed.t"),
        ("""add_rollup_metric('t_1h', '{"b": ["max"]}')""", "closed.t"),
        ("""drop_rollup_metric('t_1h', '{"b": ["sum"]}')""", "closed.t"),
        ("drop_rollup('t_1d')", "closed.t_1d"),
    ):
        with pytest.raises(
            psycopg.Error, match=f"tsrollup_owner may not use schema closed, where {table} is"
        ) as caught:
            rolled_up.execute(f"SELECT silver.{call}".encode())
        assert caught.value.diag.message_hint == "GRANT USAGE ON SCHEMA closed TO tsrollup_owner"


def test_a_rollup_in_a_schema_that_was_closed_stops_no_other_of_its_source(
    rolled_up: psycopg.Connection,
) -> None:
    """Not where all of the source is looked at anew, nor after a restore; then it goes on."""
    rolled_up.execute("CREATE SCHEMA app; GRANT USAGE, CREATE ON SCHEMA app TO tsrollup_owner")
    rolled_up.execute("SELECT silver.create_rollup_table('raw.t', 'app', 't_2h', '2 hours')")
    refresh_everything(rolled_up)
    security = "ROW LEVEL SECURITY, {} FORCE ROW LEVEL SECURITY"
    for blow, mend in (
        ("RENAME bucket TO t", "RENAME t TO bucket"),
        (f"ENABLE {security.format('')}", f"DISABLE {security.format('NO')}"),
    ):
        rolled_up.execute(f"ALTER TABLE app.t_2h {blow}".encode())
        rolled_up.execute("SELECT silver.mark_stale('raw.t', '-infinity', 'infinity')")
        rolled_up.execute("CALL silver.run_rollups(as_of => 'infinity')")
        rolled_up.execute("SELECT silver.get_detailed_stats('%')")
        assert_settled(rolled_up, *ROLLUPS)
        rolled_up.execute(f"ALTER TABLE app.t_2h {mend}".encode())
    rolled_up.execute("SELECT silver.reset_rollup_retry('t_2h')")
    refresh_everything(rolled_up)
    rolled_up.execute("REVOKE ALL ON SCHEMA app FROM tsrollup_owner")
    rolled_up.execute(
        "ALTER TABLE raw.t DISABLE TRIGGER ALL; UPDATE raw.t SET b = b + 1;"
        "ALTER TABLE raw.t ENABLE TRIGGER ALL; DELETE FROM raw.t WHERE a % 7 = 0;"
        "DELETE FROM rollup_engine.source_shape"
    )
    rolled_up.execute("SELECT * FROM silver.timeseries_operations_monitor")
    rolled_up.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert_settled(rolled_up, *ROLLUPS)
    assert_equal_to_group_by(rolled_up, "t_2h")
    assert {problem[0] for problem in problems(rolled_up)} == {"app.t_2h"}
    tables = rolled_up.execute("SELECT table_name FROM silver.get_detailed_stats('%')").fetchall()
    assert ("app.t_2h",) in tables
    rolled_up.execute("ALTER TABLE app.t_2h DISABLE TRIGGER USER")
    rolled_up.execute("ALTER TABLE raw.t DETACH PARTITION raw.t_2")
    rolled_up.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert_settled(rolled_up, *ROLLUPS)
    rolled_up.execute("GRANT USAGE, CREATE ON SCHEMA app TO tsrollup_owner")
    partition = (
        "SELECT min(inhrelid)::regclass FROM pg_inherits WHERE inhparent = 'app.t_2h'::regclass"
    )
    relations = ["app.t_2h", *(name for (name,) in rolled_up.execute(partition).fetchall())]
    for table in relations:
        rolled_up.execute(f"ALTER TABLE {table} OWNER TO CURRENT_USER".encode())
    assert problems(rolled_up)[0][2] == "ALTER TABLE app.t_2h OWNER TO tsrollup_owner"
    rolled_up.execute("DELETE FROM rollup_engine.source_shape")
    rolled_up.execute("SELECT silver.get_detailed_stats('%')")
    rolled_up.execute("REVOKE ALL ON app.t_2h FROM tsrollup_owner")
    for table in relations:
        hint = f"ALTER TABLE {table} OWNER TO tsrollup_owner"
        assert hint in {hint for _, _, hint in problems(rolled_up)}
        rolled_up.execute(hint.encode())
    rolled_up.execute("SELECT silver.reset_rollup_retry('t_2h')")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS, "t_2h")
    rolled_up.execute("REVOKE ALL ON app.t_2h FROM tsrollup_owner")
    assert problems(rolled_up)[0][2] == "GRANT ALL ON app.t_2h TO tsrollup_owner"


@pytest.mark.parametrize("was_stored", [True, False])
@pytest.mark.parametrize("change", ["RENAME b TO c", "ALTER b TYPE numeric(10, 2)"])
def test_what_became_of_columns_while_a_schema_was_closed_is_taken_in(
    rolled_up: psycopg.Connection, was_stored: bool, change: str
) -> None:
    rolled_up.execute("CREATE SCHEMA app; GRANT USAGE, CREATE ON SCHEMA app TO tsrollup_owner")
    rolled_up.execute(
        "SELECT silver.create_rollup_table('raw.t', 'app', 't_2h', '2 hours',"
        " dimensions => '{device}', metrics => '{\"b\": [\"sum\"]}')"
    )
    if was_stored:
        refresh_everything(rolled_up)
    rolled_up.execute("REVOKE ALL ON SCHEMA app FROM tsrollup_owner")
    rolled_up.execute(f"ALTER TABLE raw.t {change}".encode())
    rolled_up.execute("CALL silver.run_rollups(as_of => 'infinity')")
    rolled_up.execute("CALL silver.run_rollups(as_of => 'infinity')")
    column = "c" if "RENAME" in change else "b"
    rolled_up.execute(f"UPDATE raw.t SET {column} = {column} + 0.5".encode())
    rolled_up.execute("GRANT USAGE, CREATE ON SCHEMA app TO tsrollup_owner")
    told = {problem for name, problem, _ in problems(rolled_up) if name == "app.t_2h"}
    assert any("raw.t was altered while app.t_2h was out of reach" in problem for problem in told)
    rolled_up.execute(
        "SELECT silver.reset_rollup_retry(t) FROM unnest('{app.t_2h,t_1h}'::text[]) AS t"
    )
    rolled_up.execute("CALL silver.run_rollups(as_of => 'infinity')")
    hints = {hint for _, _, hint in problems(rolled_up)}
    assert not hints or "TYPE" in change
    for name in ("app.t_2h", "silver.t_1h") if hints else ():
        assert f"SELECT silver.rebuild_rollup('{name}')" in hints
        rolled_up.execute("SELECT silver.rebuild_rollup(%s)", [name])
    rolled_up.execute(
        "SELECT silver.reset_rollup_retry(t) FROM unnest('{app.t_2h,t_1h}'::text[]) AS t"
    )
    refresh_everything(rolled_up)
    sums = rolled_up.execute(
        f"SELECT (SELECT sum({column}) FROM raw.t), (SELECT sum(b_sum) FROM gold.t_2h),"
        " (SELECT sum(b_sum) FROM app.t_2h), (SELECT sum(b_sum) FROM gold.t_1d)".encode()
    ).fetchone()
    assert sums
    assert len(set(sums)) == 1, sums
    (trace,) = rolled_up.execute("SELECT trace IS NULL FROM rollup_engine.source").fetchall()
    assert trace == (False,)


def test_a_dropped_source_is_named_and_taken_up_again(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute(
        "CREATE TABLE public.kept AS SELECT ts, device, a, b FROM raw.t; DROP TABLE raw.t"
    )
    assert healths(rolled_up) == {"invalid"}
    rolled_up.execute("SELECT silver.mark_stale('t_1h', '-infinity', 'infinity')")
    with pytest.raises(psycopg.Error, match=r"raw\.t, which silver\.t_1h reads, was dropped"):
        rolled_up.execute("SELECT * FROM gold.t_1h")
    rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    logged = rolled_up.execute("SELECT DISTINCT error_message FROM silver.error_log").fetchall()
    assert logged
    assert all("was dropped" in message for (message,) in logged)

    rolled_up.execute(SOURCE)
    rolled_up.execute("DELETE FROM raw.t WHERE a % 7 = 0")
    rolled_up.execute("GRANT SELECT ON raw.t TO tsrollup_owner")
    rolled_up.execute(RESET)
    refresh_everything(rolled_up)
    assert problems(rolled_up) == []
    assert_settled(rolled_up, *ROLLUPS)
    rolled_up.execute("UPDATE raw.t SET b = b + 1")
    assert_equal_to_group_by(rolled_up, *ROLLUPS)


@pytest.mark.parametrize("between", ["", "SELECT silver.perform_rollup();"])
def test_a_source_that_was_exchanged_by_its_name(
    rolled_up: psycopg.Connection, between: str
) -> None:
    """What has the name now is what people read: that it is another table is said at once."""
    rolled_up.execute("CREATE TABLE raw.loaded AS SELECT ts, device, a, b + 1 AS b, w FROM raw.t")
    run(rolled_up, f"ALTER TABLE raw.t RENAME TO old; {between} CREATE VIEW raw.t AS TABLE raw.old")
    refresh_everything(rolled_up)
    assert healths(rolled_up) == {"ok"}  # a view that keeps the name alive
    rolled_up.execute("DROP VIEW raw.t; ALTER TABLE raw.loaded RENAME TO t")
    for _ in range(2):
        assert healths(rolled_up) == {"invalid"}
        ((problem, hint), *_) = [row[1:] for row in problems(rolled_up)]
        assert problem == (
            "raw.t is another table now: its rollups read the one that had this name, raw.old"
        )
        assert hint.startswith("DROP TABLE raw.old, and the next run takes up the new raw.t")
        read = "SELECT min(source_table) FROM silver.timeseries_operations_monitor"
        assert rolled_up.execute(read).fetchone() == ("raw.old",)
        rolled_up.execute("SELECT silver.perform_rollup()")
    rolled_up.execute("GRANT SELECT ON raw.t TO tsrollup_owner; DROP TABLE raw.old")
    rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    refresh_everything(rolled_up)
    assert problems(rolled_up) == []
    assert_settled(rolled_up, *ROLLUPS)


def test_a_source_that_became_a_partition_of_its_name(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.m (ts timestamptz NOT NULL, v integer)")
    db.execute("SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour')")
    db.execute("ALTER TABLE raw.m RENAME TO m_old")
    db.execute("CREATE TABLE raw.m (LIKE raw.m_old) PARTITION BY RANGE (ts)")
    db.execute("ALTER TABLE raw.m ATTACH PARTITION raw.m_old DEFAULT")
    refresh_everything(db)
    assert next(row[2] for row in problems(db)).startswith(
        "drop the rollups, and create them anew over raw.m;"
    )
    db.execute("SELECT silver.create_rollup_table('raw.m', 'silver', 'all_1h', '1 hour')")
    refresh_everything(db)
    assert problems(db) == []


def test_types_that_widen(rolled_up: psycopg.Connection) -> None:
    """Gold stays readable; where the table cannot hold what may come, rebuild_rollup mends it,
    and sealed rows are kept."""
    rolled_up.execute("CREATE VIEW public.report AS SELECT * FROM gold.t_1h")
    rolled_up.execute("GRANT SELECT ON gold.t_1h TO PUBLIC")
    force_configuration(rolled_up, "sealed_before = '2026-03-02 00:00+00'")
    sealed = (
        "SELECT bucket, device, b_sum::numeric FROM gold.t_1h"
        " WHERE bucket < '2026-03-02 00:00+00' ORDER BY 1, 2"
    )
    kept = rolled_up.execute(sealed.encode()).fetchall()
    rolled_up.execute("ALTER TABLE raw.t ALTER b TYPE bigint, ALTER device TYPE varchar(20)")
    assert healths(rolled_up) == {"invalid"}
    assert_equal_to_group_by(rolled_up, *ROLLUPS)
    rolled_up.execute("UPDATE raw.t SET b = b + 1")
    assert_equal_to_group_by(rolled_up, *ROLLUPS)
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)

    rolled_up.execute("UPDATE raw.t SET b = b + 9000000000000000000 WHERE a % 90 = 0")
    hints = {hint for _, _, hint in problems(rolled_up)}
    assert hints == {"SELECT silver.rebuild_rollup('silver.t_1h')"}
    with pytest.raises(psycopg.Error, match=r"public\.report|report reads it"):
        rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    rolled_up.execute("DROP VIEW public.report")
    rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    rolled_up.execute(RESET)
    assert_equal_to_group_by(rolled_up, *ROLLUPS)
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)
    assert problems(rolled_up) == []
    assert rolled_up.execute(sealed.encode()).fetchall() == kept
    row = rolled_up.execute(
        "SELECT has_table_privilege('tsrollup_writer', 'gold.t_1h', 'SELECT')"
    ).fetchone()
    assert row == (True,)


def test_a_type_that_loses_digits_is_refused_until_the_rollup_is_rebuilt(
    rolled_up: psycopg.Connection,
) -> None:
    rolled_up.execute("ALTER TABLE raw.t ALTER b TYPE numeric(20, 4) USING b + 0.25")
    assert healths(rolled_up) == {"invalid"}
    rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    with pytest.raises(psycopg.Error, match="stores b_sum as bigint"):
        rolled_up.execute("SELECT * FROM gold.t_1d")
    rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)
    rolled_up.execute("ALTER TABLE raw.t ALTER b TYPE numeric(25, 8)")
    rolled_up.execute("UPDATE raw.t SET b = b + 0.00000001")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)
    assert problems(rolled_up) == []


def test_a_rebuild_where_stored_values_fit_no_new_type(db: psycopg.Connection) -> None:
    """What is computed anew need not fit; what is sealed is named."""
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, device text, v numeric)")
    db.execute(
        "INSERT INTO raw.t"
        " SELECT timestamptz '2026-03-01 12:00+00' + make_interval(hours => 6 * i),"
        " ('{A,\"A \"}'::text[])[1 + i % 2], CASE i WHEN 3 THEN numeric 'NaN' ELSE i END"
        " FROM generate_series(0, 7) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 day',"
        " dimensions => '{device}', metrics => '{\"v\": [\"max\"]}')"
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '7 days')")
    refresh_everything(db)
    db.execute("UPDATE raw.t SET v = 3 WHERE v = 'NaN'")
    db.execute("ALTER TABLE raw.t ALTER device TYPE char(5), ALTER v TYPE integer")
    force_configuration(db, "sealed_before = '2026-03-03 00:00+00'")
    for _ in range(2):
        with pytest.raises(psycopg.Error, match=r"silver\.t_1h cannot be rebuilt: ") as raised:
            db.execute("SELECT silver.rebuild_rollup('t_1h')")
        assert raised.value.sqlstate == "TR004"
    force_configuration(db, "sealed_before = NULL")
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert_equal_to_group_by(db, *ROLLUPS)
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)
    assert problems(db) == []


def test_a_rebuild_where_sealed_modes_fit_no_new_type(db: psycopg.Connection) -> None:
    """Counts of values are texts as before; a mode is of the column's type."""
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, v text)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 12:00+00' + i * interval '6 h',"
        " CASE WHEN i < 2 THEN 'old' ELSE 'new' END || i % 3 FROM generate_series(0, 7) AS i"
    )
    metrics = '{"v": ["mode", "value_counts"]}'
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 day', metrics => %s)",
        [metrics],
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '7 days')")
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    to_integer = "ALTER TABLE raw.t ALTER v TYPE integer USING right(v, 1)::integer"
    db.execute(to_integer)
    with pytest.raises(psycopg.Error, match=r"t_1h cannot be rebuilt: .*\"old") as raised:
        db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert raised.value.sqlstate == "TR004"
    assert "the type that it had" in (raised.value.diag.message_hint or "")
    db.execute("ALTER TABLE raw.t ALTER v TYPE text USING 'new' || v")
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)
    for rollup in reversed(ROLLUPS):
        db.execute('SELECT silver.drop_rollup_metric(%s, \'{"v": ["mode"]}\')', [rollup])
    db.execute(to_integer)
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)
    rows = db.execute("SELECT v_value_counts FROM gold.t_1h ORDER BY bucket").fetchall()
    assert rows[0] == ({"old0": 1, "old1": 1},)
    assert problems(db) == []


def test_gold_columns_renamed_by_their_owner(rolled_up: psycopg.Connection) -> None:
    """Children and new metrics go by the place of a column."""
    rolled_up.execute(
        "ALTER VIEW gold.t_1h RENAME COLUMN a_sum TO total;"
        "ALTER VIEW gold.t_1h RENAME COLUMN bucket TO hour;"
        "ALTER VIEW gold.t_1h RENAME COLUMN a_avg TO mean"
    )
    rolled_up.execute("UPDATE raw.t SET a = a + 1")
    assert_equal_to_group_by(rolled_up, "t_1d")
    rolled_up.execute("SELECT silver.add_rollup_metric('t_1h', '{\"a\": [\"min\"]}')")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, "t_1d")
    rows = rolled_up.execute(
        "SELECT hour, device, total, mean, a_min FROM gold.t_1h EXCEPT ALL"
        " SELECT date_bin('1 hour', ts, '2000-01-03 00:00+00'), device, sum(a), avg(a), min(a)"
        " FROM raw.t GROUP BY 1, 2"
    ).fetchall()
    assert rows == []
    rolled_up.execute("ALTER TABLE raw.t ALTER b TYPE bigint")
    rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    rolled_up.execute("SELECT hour, total, mean FROM gold.t_1h")


def test_logs_follow_a_renamed_rollup_table(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("ALTER TABLE silver.t_1h RENAME TO hourly")
    rolled_up.execute("UPDATE raw.t SET a = a + 1")
    refresh_everything(rolled_up)
    rate = rolled_up.execute(
        "SELECT success_rate, last_error FROM silver.timeseries_operations_monitor"
        " WHERE target_table = 'silver.hourly'"
    ).fetchall()
    assert rate == [(1.0, None)]
    names = rolled_up.execute("SELECT DISTINCT target_table FROM silver.refresh_log").fetchall()
    assert set(names) == {("silver.hourly",), ("silver.t_1d",)}
    rolled_up.execute("ALTER TABLE silver.hourly RENAME COLUMN a_sum TO x")
    assert {hint for _, _, hint in problems(rolled_up)} >= {
        "rename it back to a_sum; for a dropped one, drop the rollup and create it anew"
    }
    assert healths(rolled_up) == {"invalid"}


@pytest.mark.parametrize("statement", ["DETACH PARTITION raw.gone_1", "DROP"])
def test_a_partition_that_left_is_invalid_at_once(db: psycopg.Connection, statement: str) -> None:
    db.execute("CREATE TABLE raw.gone (ts timestamptz, n integer) PARTITION BY RANGE (ts)")
    for number in (1, 2):
        db.execute(
            f"CREATE TABLE raw.gone_{number} PARTITION OF raw.gone FOR VALUES"
            f" FROM ('2026-01-0{number} 00:00+00') TO ('2026-01-0{number + 1} 00:00+00')".encode()
        )
    db.execute("INSERT INTO raw.gone VALUES ('2026-01-01 00:30+00', 1), ('2026-01-02 00:30+00', 2)")
    db.execute("SELECT silver.create_rollup_table('gone', 'silver', 'left_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('left_1h', 'silver', 'left_1d', '1 day')")
    refresh_everything(db)
    db.execute(
        "DROP TABLE raw.gone_1"
        if statement == "DROP"
        else f"ALTER TABLE raw.gone {statement}".encode()
    )
    health = "SELECT DISTINCT health FROM silver.timeseries_operations_monitor"
    assert db.execute(health).fetchall() == [("invalid",)]
    refresh_everything(db)
    assert db.execute(health).fetchall() == [("ok",)]
    assert_settled(db, "left_1h", "left_1d")


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE raw.t ({columns})",
        "CREATE TABLE raw.t ({columns}) PARTITION BY LIST (k);"
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES IN (1);"
        "CREATE TABLE raw.t_0 PARTITION OF raw.t DEFAULT",
        "CREATE TABLE raw.top ({columns}) PARTITION BY LIST (k);"
        "CREATE TABLE raw.t PARTITION OF raw.top DEFAULT",
    ],
    ids=["plain", "partitioned", "a partition"],
)
def test_the_time_column_is_changed_as_without_rollups(db: psycopg.Connection, table: str) -> None:
    """No trigger of ours depends on it; nor does it, however it is changed, stop a write."""
    db.execute(table.format(columns="ts timestamp, k integer, v integer").encode())
    db.execute(
        "INSERT INTO raw.t SELECT timestamp '2026-03-01' + make_interval(mins => 10 * i), i % 2, i"
        " FROM generate_series(0, 199) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', 'ts',"
        " dimensions => '{k}')"
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    top = "raw.top" if "raw.top" in table else "raw.t"

    def write() -> None:
        for statement in (
            "INSERT INTO raw.t (k, v) VALUES (1, 1000)",
            "UPDATE {top} SET v = v + 1",
            "UPDATE {top} SET k = 1 - k WHERE v % 3 = 0",
            "MERGE INTO {top} AS t USING (SELECT 1) AS s ON t.v % 5 = 0"
            " WHEN MATCHED THEN UPDATE SET k = 1 - k",
            "DELETE FROM raw.t WHERE v % 7 = 0",
        ):
            db.execute(statement.format(top=top).encode())

    for change, undo in (
        (
            "ALTER ts TYPE timestamptz USING ts AT TIME ZONE 'UTC'",
            "ALTER ts TYPE timestamp USING ts AT TIME ZONE 'UTC'",
        ),
        ("RENAME ts TO happened_at", ""),
        ("DROP happened_at", "ADD {column} timestamp DEFAULT '2026-03-05 00:30'"),
        ("ALTER {column} TYPE text", "ALTER {column} TYPE timestamp USING {column}::timestamp"),
    ):
        column = db.execute(
            "SELECT time_column FROM silver.rollup_config WHERE depth = 0"
        ).fetchone()
        assert column
        db.execute(f"ALTER TABLE {top} {change.format(column=column[0])}".encode())
        assert healths(db) == {"invalid"}
        write()
        assert healths(db) == {"invalid"}
        db.execute("SELECT silver.perform_rollup()")
        if undo:
            assert healths(db) == {"invalid"}
            hints = {hint for _, _, hint in problems(db)}
            assert any(
                words in hint for hint in hints for words in ("ADD COLUMN it", "change it back")
            )
            write()
            db.execute(f"ALTER TABLE {top} {undo.format(column=column[0])}".encode())
        write()
        db.execute("SELECT silver.perform_rollup()")
        db.execute(RESET)
        refresh_everything(db)
        assert healths(db) == {"ok"}, problems(db)
        assert_settled(db, *ROLLUPS)


def test_ddl_in_the_transaction_of_the_run_that_came_before_it(db: psycopg.Connection) -> None:
    """Transaction numbers do not tell one from the other."""
    with db.transaction():
        db.execute("CREATE TABLE raw.s (ts timestamptz, a int, b int)")
        db.execute("INSERT INTO raw.s SELECT '2026-03-01', 1, 100 FROM generate_series(1, 50)")
        db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')")
        db.execute("SELECT silver.perform_rollup()")
        db.execute("ALTER TABLE raw.s DROP a")
        db.execute("ALTER TABLE raw.s RENAME b TO a")
    healths = "SELECT health FROM silver.timeseries_operations_monitor"
    assert db.execute(healths).fetchall() == [("invalid",)]


OF_ONE_TRANSACTION = {
    "rewritten": "ALTER TABLE raw.s ALTER a TYPE int USING a * 100",
    "moved in time": "ALTER TABLE raw.s ALTER ts TYPE timestamptz USING ts + interval '9 days'",
    "rewritten and back": "ALTER TABLE raw.s ALTER a TYPE bigint;"
    "ALTER TABLE raw.s ALTER a TYPE int USING a + 1",
    "rewritten around a run": "ALTER TABLE raw.s ALTER a TYPE int USING a * 10;"
    "SELECT silver.perform_rollup(); ALTER TABLE raw.s ALTER a TYPE int USING a * 100;"
    "SELECT silver.perform_rollup(); ALTER TABLE raw.s ALTER a TYPE int USING a * 1000",
    "triggers off and on": "ALTER TABLE raw.s DISABLE TRIGGER tsrollup_update_1;"
    "UPDATE raw.s SET a = 7; ALTER TABLE raw.s ENABLE ALWAYS TRIGGER tsrollup_update_1",
    "triggers off and on around a run": "ALTER TABLE raw.s DISABLE TRIGGER tsrollup_update_1;"
    "UPDATE raw.s SET a = 7; ALTER TABLE raw.s ENABLE ALWAYS TRIGGER tsrollup_update_1;"
    "SELECT silver.perform_rollup(); ALTER TABLE raw.s DISABLE TRIGGER tsrollup_update_1;"
    "UPDATE raw.s SET a = 9; ALTER TABLE raw.s ENABLE ALWAYS TRIGGER tsrollup_update_1",
    "a partition's triggers": "ALTER TABLE raw.s_1 DISABLE TRIGGER tsrollup_delete_1;"
    "DELETE FROM raw.s_1 WHERE b > 120;"
    "ALTER TABLE raw.s_1 ENABLE ALWAYS TRIGGER tsrollup_delete_1",
}


@pytest.mark.parametrize(("is_new", "runs_again"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("changes", OF_ONE_TRANSACTION.values(), ids=OF_ONE_TRANSACTION)
def test_promise_b_ddl_in_the_transaction_that_has_noted_the_shape(
    db: psycopg.Connection, changes: str, is_new: bool, runs_again: bool
) -> None:
    create = """
        CREATE TABLE raw.s (ts timestamptz, a int, b int);
        CREATE TABLE raw.s_1 () INHERITS (raw.s);
        INSERT INTO raw.s SELECT '2026-03-01', 1, n FROM generate_series(101, 150) AS n;
        INSERT INTO raw.s_1 SELECT '2026-03-01', 1, n FROM generate_series(101, 150) AS n;
        SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour');
        SELECT silver.perform_rollup()
    """
    if not is_new:
        db.execute(create.encode())
    with db.transaction():
        db.execute((create if is_new else "SELECT silver.perform_rollup()").encode())
        db.execute(changes.encode())
        if runs_again:
            db.execute("SELECT silver.perform_rollup()")
            assert_settled(db, "s_1h")
    assert healths(db) == {"ok" if runs_again else "invalid"}
    db.execute("SELECT silver.perform_rollup()")
    assert healths(db) == {"ok"}
    assert_settled(db, "s_1h")


def test_what_another_transaction_has_noted_is_not_told_by_its_place(
    db: psycopg.Connection,
) -> None:
    """A VACUUM FULL of the whole database gives the rows of the catalogue other ones."""
    with db.transaction():
        db.execute("CREATE TABLE raw.s (ts timestamptz, a int)")
        db.execute("INSERT INTO raw.s VALUES ('2026-03-01', 1)")
        db.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')")
        db.execute("SELECT silver.perform_rollup()")
    db.execute("VACUUM FULL raw.s")
    db.execute("SELECT silver.perform_rollup()")
    places = "SELECT array_agg(ctid ORDER BY oid) FROM pg_trigger"
    before = db.execute(places).fetchone()
    db.execute("CREATE TABLE raw.other (ts timestamptz)")
    db.execute("DROP TABLE raw.other")
    for table in ("pg_trigger", "pg_attribute", "raw.s"):
        db.execute(f"VACUUM FULL {table}".encode())
    assert db.execute(places).fetchone() != before
    assert healths(db) == {"ok"}
    db.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    assert not is_stale(db)
