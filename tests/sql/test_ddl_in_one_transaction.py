"""DDL in the very transaction of a run, in which transaction numbers tell nothing."""

import psycopg
import pytest

from rollup_checks import (
    assert_settled,
)
from validation import healths, is_stale


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
