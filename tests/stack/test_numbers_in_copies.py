"""Numbers of tables and columns mean nothing in a copy, even where they are the same by chance: on
a fresh server a copy of a copy mostly gets those of the first."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from dumps import PARTITIONED
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer
from tsrollup.migrations import migrate_project

pytestmark = pytest.mark.spread

SAME_NUMBERS = """
    UPDATE rollup_engine.source_shape AS h
    SET member = s.relation, file = c.file, triggers = c.triggers, attributes = c.attributes
    FROM rollup_engine.source AS s, rollup_engine.current_shape(s) AS c
    WHERE s.id = h.source_id AND h.member = s.relation_oid AND c.member = s.relation;
    UPDATE rollup_engine.source SET relation_oid = relation;
    UPDATE rollup_engine.noted_right AS n SET marked = o.id FROM rollup_engine.objects() AS o
    WHERE format('%s %s', o.kind, o.name) = rollup_engine.subject_of(n.statement)
        AND n.marked IS NOT NULL"""
INVALID = "SELECT problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
PROBLEMS = "SELECT problem FROM silver.validate_rollup_config() WHERE problem IS NOT NULL"
TABLE = """
    CREATE TABLE raw.t (gone integer, ts timestamptz, v integer, w integer);
    INSERT INTO raw.t SELECT 0, now() - make_interval(days => i), i, 2 * i
    FROM generate_series(1, 9) AS i;
    SELECT silver.create_rollup_table('raw.t', 'silver', 't_1d', '1 day', 'ts',
        metrics => '{"v": ["sum"]}')"""
KEPT = """
    CREATE TABLE raw.{0} (ts timestamptz, v integer) PARTITION BY RANGE (ts);
    CREATE TABLE raw.{0}_1 PARTITION OF raw.{0} FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');
    CREATE TABLE raw.{0}_2 PARTITION OF raw.{0} DEFAULT;
    GRANT SELECT ON raw.{0} TO tsrollup_owner;
    INSERT INTO raw.{0} VALUES ('2020-01-01 12:00', 1)"""
KEEP = "SELECT silver.set_retention('raw.x', '20 days')"

Restore = Callable[..., str]


@pytest.fixture
def rolled_up(db: psycopg.Connection) -> psycopg.Connection[Any]:
    db.execute(TABLE)
    refresh_everything(db)
    return db


@pytest.mark.parametrize(
    "change",
    ["DROP v; ALTER TABLE raw.t RENAME w TO v", "DROP v, ADD v integer DEFAULT 7", "DROP gone"],
)
def test_promise_i_columns_that_changed_before_a_copy_with_the_same_numbers(
    rolled_up: psycopg.Connection, server: PostgresServer, restore: Restore, change: str
) -> None:
    rolled_up.execute(f"ALTER TABLE raw.t {change}".encode())
    with psycopg.connect(server.superuser_url(restore()), autocommit=True) as copy:
        copy.execute(SAME_NUMBERS)
        assert copy.execute(INVALID).fetchall() != []
        refresh_everything(copy)
        assert copy.execute(INVALID).fetchall() == []
        assert_settled(copy, "t_1d")


@pytest.mark.parametrize("change", ["RENAME TO s", "SET SCHEMA public"])
def test_promise_i_a_source_that_was_renamed_before_a_copy_with_the_same_numbers(
    rolled_up: psycopg.Connection, server: PostgresServer, restore: Restore, change: str
) -> None:
    """No other one that has its number: it has its triggers."""
    rolled_up.execute(f"ALTER TABLE raw.t {change}".encode())
    with psycopg.connect(server.superuser_url(restore()), autocommit=True) as copy:
        copy.execute(SAME_NUMBERS)
        refresh_everything(copy)
        assert copy.execute(INVALID).fetchall() == []
        assert_settled(copy, "t_1d")


@pytest.mark.parametrize("tracking", ["'trigger'", "'window', look_back_window => '30 days'"])
def test_promise_i_a_source_that_was_exchanged_before_a_copy_with_the_same_numbers(
    db: psycopg.Connection, server: PostgresServer, restore: Restore, tracking: str
) -> None:
    db.execute(TABLE.replace("'1 day', 'ts'", f"'1 day', 'ts', change_tracking => {tracking}"))
    refresh_everything(db)
    db.execute("ALTER TABLE raw.t RENAME TO t_old; CREATE TABLE raw.t (LIKE raw.t_old)")
    with psycopg.connect(server.superuser_url(restore()), autocommit=True) as copy:
        copy.execute(SAME_NUMBERS)
        for _ in range(2):
            assert copy.execute(INVALID).fetchall() != []
            assert copy.execute("SELECT sum(v_sum) FROM gold.t_1d").fetchone() == (45,)
            copy.execute("SELECT silver.perform_rollup()")


def test_promise_i_a_partition_that_was_dropped_before_a_copy_has_the_number_of_the_next(
    db: psycopg.Connection, server: PostgresServer, restore: Restore
) -> None:
    db.execute(PARTITIONED)
    refresh_everything(db)
    db.execute("DROP TABLE raw.t_1")
    with psycopg.connect(server.superuser_url(restore()), autocommit=True) as copy:
        copy.execute(
            "UPDATE rollup_engine.source_partition SET partition = 'raw.t_2'"
            " WHERE partition NOT IN (SELECT oid FROM pg_class)"
        )
        copy.execute(SAME_NUMBERS)
        told = [problem for (problem,) in copy.execute(INVALID).fetchall()]
        assert "1 partitions of raw.t were detached or dropped since the last run" in told
        copy.execute("TRUNCATE raw.t_2")
        refresh_everything(copy)
        assert copy.execute(INVALID).fetchall() == []
        assert_settled(copy, "t_1h")


def test_promise_i_a_window_source_that_another_table_may_be_in_a_copy_is_left_alone(
    db: psycopg.Connection, server: PostgresServer, restore: Restore
) -> None:
    window = "'1 day', 'ts', change_tracking => 'window', look_back_window => '30 days'"
    db.execute(TABLE.replace("'1 day', 'ts'", window))
    refresh_everything(db)
    db.execute("ALTER TABLE raw.t RENAME TO other; UPDATE raw.other SET v = 100")
    with psycopg.connect(server.superuser_url(restore()), autocommit=True) as copy:
        copy.execute(SAME_NUMBERS)
        copy.execute("SELECT silver.perform_rollup()")
        told = copy.execute("SELECT problem, hint FROM silver.validate_rollup_config()").fetchall()
        hint = "if it is raw.other by now, rename that back for a run; if not, drop its rollups"
        kept = "(keep_table => true keeps what is stored, which the source need not hold any more)"
        assert ("raw.t was dropped", f"{hint} with silver.drop_rollup {kept}") in told
        copy.execute("ALTER TABLE raw.other RENAME TO t")
        copy.execute("SELECT silver.reset_rollup_retry('t_1d')")
        refresh_everything(copy)
        assert copy.execute(INVALID).fetchall() == []
        assert_equal_to_group_by(copy, "t_1d")


def test_a_keep_of_a_renamed_rollup_goes_on_in_a_copy(
    rolled_up: psycopg.Connection, server: PostgresServer, restore: Restore
) -> None:
    rolled_up.execute("SELECT silver.set_retention('t_1d', '5 days')")
    rolled_up.execute("SELECT silver.alter_rollup('t_1d', new_name => 't_day')")
    with psycopg.connect(server.superuser_url(restore()), autocommit=True) as copy:
        for _ in range(2):
            copy.execute("SELECT * FROM silver.maintain_timeseries_tables()")
        assert copy.execute("SELECT count(*) FROM silver.t_day").fetchone() == (5,)


def test_promise_i_rights_on_single_things_in_a_copy_with_the_same_numbers(
    rolled_up: psycopg.Connection, server: PostgresServer, restore: Restore
) -> None:
    """As pg_restore leaves it where one of those who had some is no role of the server."""
    rolled_up.execute("SELECT rollup_engine.note_rights()")
    copy = restore()
    with psycopg.connect(server.superuser_url(copy), autocommit=True) as connection:
        connection.execute("UPDATE pg_class SET relacl = NULL WHERE relname = 't_1d'")
        connection.execute(SAME_NUMBERS)
    migrate_project(server.superuser_url(copy))
    with psycopg.connect(server.superuser_url(copy), autocommit=True) as connection:
        connection.execute("SET ROLE tsrollup_reader")
        assert connection.execute("SELECT sum(v_sum) FROM gold.t_1d").fetchone() == (45,)


@pytest.mark.parametrize("has_rollup", [True, False])
def test_a_keep_in_a_copy_where_another_table_has_the_number_of_a_dropped_one(
    db: psycopg.Connection, server: PostgresServer, restore: Restore, has_rollup: bool
) -> None:
    for name in "xy":
        db.execute(KEPT.format(name).encode())
    if has_rollup:
        db.execute("SELECT silver.create_rollup_table('raw.x', 'silver', 'x_1d', '1 day', 'ts')")
        refresh_everything(db)
    db.execute(KEEP)
    db.execute("DROP TABLE raw.x")
    with psycopg.connect(server.superuser_url(restore()), autocommit=True) as copy:
        copy.execute(
            "UPDATE rollup_engine.retention SET relation = 'raw.y';"
            "UPDATE rollup_engine.source SET relation = 'raw.y', relation_oid = 'raw.y'::regclass;"
            "UPDATE silver.rollup_config SET source_table = 'raw.y'"
        )
        told = [problem for (problem,) in copy.execute(INVALID).fetchall()]
        assert told[:1] == (["raw.x was dropped"] if has_rollup else [])
        for _ in range(2):
            copy.execute("SELECT * FROM silver.maintain_timeseries_tables()")
            copy.execute("SELECT silver.perform_rollup()")
        assert copy.execute("SELECT count(*) FROM raw.y").fetchone() == (1,)
        if has_rollup:
            assert copy.execute(INVALID).fetchall() == [("raw.x was dropped",)]
            gold = copy.execute("SELECT count(*) FROM gold.x_1d").fetchone()
            assert gold == (1,)
            copy.execute(KEPT.format("x").encode())
            copy.execute("SELECT silver.reset_rollup_retry('x_1d')")
            refresh_everything(copy)
            assert copy.execute(INVALID).fetchall() == []
            return
        problem, hint = copy.execute(
            "SELECT problem, hint FROM silver.validate_rollup_config() WHERE target = 'raw.y'"
        ).fetchone() or ("", "")
        assert "may be another table than raw.x" in problem
        assert "SELECT silver.set_retention('raw.y', '20 days')" in hint
        copy.execute("SELECT silver.set_retention('raw.y', '20 days')")
        assert copy.execute(PROBLEMS).fetchall() == []
        for _ in range(2):
            copy.execute("SELECT * FROM silver.maintain_timeseries_tables()")
        assert copy.execute("SELECT count(*) FROM raw.y").fetchone() == (0,)


def test_a_table_may_be_renamed_in_a_copy_and_goes_on_to_be_kept(
    db: psycopg.Connection, server: PostgresServer, restore: Restore
) -> None:
    db.execute(KEPT.format("x").encode())
    db.execute(KEEP)
    with psycopg.connect(server.superuser_url(restore()), autocommit=True) as copy:
        copy.execute("SELECT * FROM silver.maintain_timeseries_tables()")
        copy.execute("ALTER TABLE raw.x RENAME TO z")
        assert copy.execute(PROBLEMS).fetchall() == []
        copy.execute("SELECT * FROM silver.maintain_timeseries_tables()")
        assert copy.execute("SELECT count(*) FROM raw.z").fetchone() == (0,)


def test_a_keep_goes_on_in_a_copy_where_runs_followed_its_table_to_another_name(
    db: psycopg.Connection, server: PostgresServer, restore: Restore
) -> None:
    db.execute(KEPT.format("x").encode())
    db.execute("SELECT silver.create_rollup_table('raw.x', 'silver', 'x_1d', '1 day', 'ts')")
    db.execute(KEEP)
    db.execute("ALTER TABLE raw.x RENAME TO z")
    refresh_everything(db)
    with psycopg.connect(server.superuser_url(restore()), autocommit=True) as copy:
        assert copy.execute(PROBLEMS).fetchall() == []
        for _ in range(2):
            copy.execute("SELECT silver.perform_rollup()")
            copy.execute("SELECT * FROM silver.maintain_timeseries_tables()")
        assert copy.execute("SELECT count(*) FROM raw.z").fetchone() == (0,)
