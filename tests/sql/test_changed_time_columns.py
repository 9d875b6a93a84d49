"""The time column of a source: renamed, retyped, dropped, generated."""

import psycopg
import pytest

from daily_table import RESET, ROLLUPS, roll_up
from rollup_checks import (
    assert_settled,
    refresh_everything,
)
from scenes import scene
from validation import healths, problems


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    return roll_up(db)


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
