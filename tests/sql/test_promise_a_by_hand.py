"""Promise a, whoever writes to a rollup's own table: refreshes alone change rows, those that people
insert are noticed, and what DDL did to partitions is `invalid` until the next run."""

from typing import Any

import psycopg
import pytest

from raw_tables import LEVELS, create_hierarchy
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from scenes import scene

BORDER = "2026-03-02 00:00+00"
TABLES = ("silver.readings_1m", "{partition}")
CHANGES = {
    "delete": "DELETE FROM {table}",
    "update": "UPDATE {table} SET row_count = row_count + 1",
    "truncate": "TRUNCATE {table}",
    "truncate among others": "TRUNCATE public.mine, {table}",
    "merge": "MERGE INTO {table} AS t USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    "upsert": "INSERT INTO {table} SELECT * FROM {table} ON CONFLICT (bucket, device)"
    " DO UPDATE SET row_count = 0",
    "through a view": "DELETE FROM public.seen",
    "from a function": "SELECT public.spoil()",
}
INSERTS = {
    "insert": "INSERT INTO {table} (bucket, device, row_count)"
    " VALUES ('2026-03-01 23:00+00', 'forged', 7)",
    "copy": "COPY {table} (bucket, device, row_count) FROM STDIN",
}


@scene
def settled(db: psycopg.Connection) -> psycopg.Connection:
    create_hierarchy(db)
    refresh_everything(db)
    assert_settled(db, *LEVELS)
    assert _healths(db) == {"ok"}
    db.execute("CREATE TABLE public.mine (x integer)")
    return db


@pytest.mark.parametrize("user", ["owner", "superuser"])
@pytest.mark.parametrize("table", TABLES)
def test_promise_a_rows_are_not_changed_by_hand(
    settled: psycopg.Connection, table: str, user: str
) -> None:
    table = table.format(partition=_partition(settled, "readings_1m"))
    settled.execute(f"CREATE VIEW public.seen AS SELECT * FROM {table}".encode())
    settled.execute(
        "CREATE FUNCTION public.spoil() RETURNS void LANGUAGE sql"
        f" AS 'UPDATE {table} SET row_count = 0'".encode()
    )
    if user == "owner":
        settled.execute("GRANT ALL ON public.mine, public.seen TO tsrollup_owner")
        settled.execute("SET ROLE tsrollup_owner")
    for change in CHANGES.values():
        with pytest.raises(psycopg.Error, match=r"silver\.readings_1m holds what refreshes") as e:
            settled.execute(change.format(table=table).encode())
        assert e.value.sqlstate == "TR003"
        assert "refresh_rollup('silver.readings_1m'" in (e.value.diag.message_hint or "")
    settled.execute("RESET ROLE")
    assert _healths(settled) == {"ok"}
    assert_settled(settled, *LEVELS)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("insert", INSERTS)
def test_promise_a_rows_that_are_inserted_are_noticed(
    settled: psycopg.Connection, insert: str, table: str
) -> None:
    """As they are when a dump is loaded into tables that are there already."""
    table = table.format(partition=_partition(settled, "readings_1m"))
    if insert == "copy":
        with settled.cursor().copy(INSERTS[insert].format(table=table).encode()) as copy:
            copy.write(b"2026-03-01 23:00:00+00\tforged\t7\n")
    else:
        settled.execute(INSERTS[insert].format(table=table).encode())
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_promise_a_what_was_noticed_is_rolled_back_with_it(
    settled: psycopg.Connection,
) -> None:
    with settled.transaction(force_rollback=True):
        settled.execute(INSERTS["insert"].format(table="silver.readings_1h").encode())
        assert_equal_to_group_by(settled, *LEVELS)
    assert_settled(settled, *LEVELS)


def test_promise_a_a_run_in_the_same_transaction_does_not_lift_the_guard(
    settled: psycopg.Connection,
) -> None:
    settled.execute("UPDATE raw.readings SET count = 3")
    with settled.transaction():
        settled.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
        with pytest.raises(psycopg.Error, match="by hand"), settled.transaction():
            settled.execute("DELETE FROM silver.readings_1m")
    assert_settled(settled, *LEVELS)


DDL = {
    "dropped": "DROP TABLE {partition}",
    "detached": "ALTER TABLE {table} DETACH PARTITION {partition}",
    "attached with rows": "CREATE TABLE silver.other (LIKE {table});"
    " INSERT INTO silver.other (bucket, row_count) VALUES ('2500-03-01 00:00+00', 5);"
    " ALTER TABLE silver.other OWNER TO tsrollup_owner;"
    " ALTER TABLE {table} ATTACH PARTITION silver.other"
    " FOR VALUES FROM ('2500-01-01') TO ('2501-01-01')",
    "guard off, changed": "ALTER TABLE {table} DISABLE TRIGGER ALL; DELETE FROM {table}",
    "guard of a partition off, changed": "ALTER TABLE {partition} DISABLE TRIGGER ALL;"
    " UPDATE {partition} SET row_count = 0",
    "guard dropped, changed": "DROP TRIGGER tsrollup_guard ON {partition};"
    " UPDATE {partition} SET row_count = 0",
}


@pytest.mark.parametrize("ddl", DDL)
def test_promise_a_partitions_that_people_take_or_bring_are_noticed(
    settled: psycopg.Connection, ddl: str
) -> None:
    level = "readings_1h"
    partition = _partition(settled, level)
    settled.execute(DDL[ddl].format(table=f"silver.{level}", partition=partition).encode())
    monitor = "SELECT target_table, health FROM silver.timeseries_operations_monitor"
    healths: dict[str, str] = dict(settled.execute(monitor).fetchall())
    touched = LEVELS[LEVELS.index(level) :]
    assert {healths[f"silver.{name}"] for name in touched} == {"invalid"}
    hints = settled.execute(
        "SELECT DISTINCT hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()
    assert hints == [("the next run takes that in: SELECT * FROM silver.perform_rollup()",)]
    settled.execute("SELECT silver.perform_rollup()")
    assert _healths(settled) <= {"ok", "lagging", "waiting_for_parent"}
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)
    assert _healths(settled) == {"ok"}
    with pytest.raises(psycopg.Error, match="by hand"):
        settled.execute(f"DELETE FROM {_partition(settled, level)}".encode())


def test_promise_a_a_partition_that_is_divided_itself_makes_it_invalid(
    settled: psycopg.Connection,
) -> None:
    for statement in (
        "CREATE TABLE silver.sub (LIKE silver.readings_1m INCLUDING ALL)"
        " PARTITION BY RANGE (bucket)",
        "CREATE TABLE silver.sub_1 PARTITION OF silver.sub"
        " FOR VALUES FROM ('2010-01-01') TO ('2010-06-01')",
        "INSERT INTO silver.sub_1 (bucket, device, row_count) VALUES ('2010-02-01', 'forged', 1)",
        "ALTER TABLE silver.readings_1m ATTACH PARTITION silver.sub"
        " FOR VALUES FROM ('2010-01-01') TO ('2011-01-01')",
    ):
        settled.execute(statement.encode())
    for _ in range(2):
        assert _healths(settled) == {"invalid"}
        refresh_everything(settled)
    hints = {
        hint
        for (hint,) in settled.execute(
            "SELECT hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
        )
    }
    assert hints == {"ALTER TABLE silver.readings_1m DETACH PARTITION silver.sub"}
    settled.execute(hints.pop().encode())
    refresh_everything(settled)
    assert _healths(settled) == {"ok"}
    assert_settled(settled, *LEVELS)


def test_promise_c_an_unlogged_partition_is_told_before_a_crash_empties_it(
    settled: psycopg.Connection,
) -> None:
    partition = _partition(settled, "readings_1m")
    settled.execute(f"ALTER TABLE {partition} SET UNLOGGED".encode())
    assert _healths(settled) == {"invalid"}
    settled.execute("SET rollup_engine.refreshing = 'on'")  # as a crash does, past the guard
    settled.execute(f"DELETE FROM {partition}".encode())
    settled.execute("RESET rollup_engine.refreshing")
    row = settled.execute(
        "SELECT hint FROM silver.validate_rollup_config() WHERE NOT is_valid LIMIT 1"
    ).fetchone()
    assert row
    for step in row[0].split("; and, if the server has crashed since, "):
        settled.execute(step.encode())
    refresh_everything(settled)
    assert _healths(settled) == {"ok"}
    assert_settled(settled, *LEVELS)


def test_promise_a_a_guard_of_somebody_elses_is_none(settled: psycopg.Connection) -> None:
    for statement in (
        "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'",
        "CREATE OR REPLACE TRIGGER tsrollup_guard BEFORE DELETE ON silver.readings_1m"
        " EXECUTE FUNCTION public.nothing()",
        "DELETE FROM silver.readings_1m",
    ):
        settled.execute(statement.encode())
    assert _healths(settled) == {"invalid"}
    refresh_everything(settled)
    assert _healths(settled) == {"ok"}
    assert_settled(settled, *LEVELS)


def test_promise_a_a_partition_of_a_stranger_makes_it_invalid(
    settled: psycopg.Connection,
) -> None:
    settled.execute(
        "CREATE TABLE silver.other (LIKE silver.readings_1m); ALTER TABLE silver.readings_1m"
        " ATTACH PARTITION silver.other FOR VALUES FROM ('2500-01-01') TO ('2501-01-01');"
        "INSERT INTO silver.other (bucket, row_count) VALUES ('2500-03-01 00:00+00', 5)"
    )
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)
    assert _healths(settled) == {"invalid"}
    hints = settled.execute(
        "SELECT DISTINCT hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()
    assert hints == [
        ("ALTER TABLE silver.other OWNER TO tsrollup_owner, or detach it; the next run guards it",)
    ]
    settled.execute("ALTER TABLE silver.other OWNER TO tsrollup_owner")
    refresh_everything(settled)
    assert _healths(settled) == {"ok"}


def test_promise_a_a_partition_that_may_come_back_stays_guarded(
    settled: psycopg.Connection,
) -> None:
    partition = _partition(settled, "readings_1h")
    detach = f"ALTER TABLE silver.readings_1h DETACH PARTITION {partition}"
    settled.execute(detach.encode())
    with pytest.raises(psycopg.Error, match="by hand"):
        settled.execute(f"DELETE FROM {partition}".encode())
    refresh_everything(settled)
    settled.execute(f"DELETE FROM {partition}".encode())


def test_promise_f_sealed_rows_that_are_taken_away_are_told(settled: psycopg.Connection) -> None:
    """Those who read them keep what they hold."""
    force_configuration(settled, f"sealed_before = '{BORDER}' WHERE depth = 0")
    partition = _partition(settled, "readings_1m")
    before = settled.execute("TABLE gold.readings_1h ORDER BY bucket, device").fetchall()
    settled.execute(f"ALTER TABLE silver.readings_1m DETACH PARTITION {partition}".encode())
    assert "invalid" in _healths(settled)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)
    (message, hint) = settled.execute(
        "SELECT error_message, hint FROM silver.error_log WHERE error_code = 'TR007'"
    ).fetchall()[0]
    assert message == "partitions left silver.readings_1m, and its sealed buckets with them"
    assert "attach them again" in hint
    assert settled.execute("TABLE gold.readings_1h ORDER BY bucket, device").fetchall() == before


def test_history_from_before_the_seal_may_be_inserted(settled: psycopg.Connection) -> None:
    force_configuration(settled, f"sealed_before = '{BORDER}'")
    settled.execute(INSERTS["insert"].format(table="silver.readings_1m").encode())
    refresh_everything(settled)
    shown = "SELECT row_count FROM gold.readings_1m WHERE device = 'forged'"
    assert settled.execute(shown.encode()).fetchall() == [(7,)]
    assert_settled(settled, *LEVELS)


def test_a_table_that_is_kept_is_ones_own(settled: psycopg.Connection) -> None:
    for level in reversed(LEVELS):
        settled.execute("SELECT silver.drop_rollup(%s, keep_table => true)", [level])
    settled.execute("DELETE FROM silver.readings_1m")
    settled.execute("TRUNCATE silver.readings_1h")
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgname = 'tsrollup_guard'"
    assert settled.execute(triggers).fetchone() == (0,)


def _partition(connection: psycopg.Connection[Any], level: str) -> str:
    """The partition that the level's rows are in."""
    row = connection.execute(
        f"SELECT min(tableoid::regclass::text) FROM silver.{level}".encode()
    ).fetchone()
    assert row
    return str(row[0])


def _healths(connection: psycopg.Connection[Any]) -> set[str]:
    return {
        row[0]
        for row in connection.execute("SELECT health FROM silver.timeseries_operations_monitor")
    }
