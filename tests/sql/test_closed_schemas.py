"""What is out of reach of the machinery is one line, stops no other, and is taken in later."""

import psycopg
import pytest

from daily_table import ROLLUPS, roll_up
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from scenes import scene
from validation import problems


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    return roll_up(db)


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


def test_promise_h_a_view_that_went_with_a_table_of_a_closed_schema(db: psycopg.Connection) -> None:
    """Nobody needs to look into the schema for what the view has read."""
    db.execute(
        "CREATE SCHEMA app; CREATE TABLE app.t (ts timestamptz NOT NULL, v int);"
        "INSERT INTO app.t VALUES (now(), 1);"
        "CREATE VIEW raw.w AS TABLE app.t; GRANT SELECT ON raw.w TO tsrollup_owner;"
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'w_1h', '1 hour', 'ts',"
        " change_tracking => 'window', look_back_window => '2 days');"
        "CREATE TABLE raw.s (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts);"
        "SELECT silver.partition_source('raw.s', '1 day')"
    )
    refresh_everything(db)
    db.execute("DROP TABLE app.t CASCADE; CREATE TABLE app.t (ts timestamptz NOT NULL, v int)")
    db.execute("SELECT silver.set_retention('raw.s', '30 days')")
    assert [row[:2] for row in problems(db)] == [("silver.w_1h", "raw.w was dropped")]
    done = db.execute("SELECT action FROM silver.maintain_timeseries_tables('raw.s')").fetchall()
    assert ("failed",) not in done
