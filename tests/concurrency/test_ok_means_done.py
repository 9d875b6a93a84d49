"""What a run says when somebody else holds the source: not ok while changes are not taken in."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from interleaving import Background
from raw_tables import LEVELS
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]

CHANGE = "UPDATE raw.readings SET count = 1000 WHERE ts = '2026-03-01 21:00+00'"
HOLD = "SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source"
STATUS = "SELECT DISTINCT status, ranges_left > 0, error_code, error_message FROM {}"
WORK = {
    "perform_rollup": "silver.perform_rollup(as_of => 'infinity')",
    "perform_rollup of one": "silver.perform_rollup('readings_1d', as_of => 'infinity')",
    "refresh_rollup": "silver.refresh_rollup('readings_1m', '2026-03-01', '2026-03-02')",
    "refresh_rollup of a child": "silver.refresh_rollup('readings_1d', '2026-03-01', '2026-03-02')",
}


@pytest.mark.parametrize("work", WORK)
def test_changes_that_are_not_taken_in_are_told(
    settled: psycopg.Connection, connect: Connect, work: str
) -> None:
    query = STATUS.format(WORK[work]).encode()
    holder = connect(autocommit=False)
    holder.execute(HOLD)
    assert settled.execute(query).fetchall() == [("ok", False, None, None)]
    settled.execute(CHANGE)
    rows = settled.execute(query).fetchall()
    assert [row[:3] for row in rows] == [("partial", True, None)]
    assert "raw.readings" in rows[0][3]
    assert_equal_to_group_by(settled, *LEVELS)
    holder.rollback()
    assert settled.execute(query).fetchall() == [("ok", False, None, None)] or work == (
        "perform_rollup of one"
    )
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_a_run_waits_for_who_holds_the_source_within_its_budget(
    settled: psycopg.Connection, connect: Connect
) -> None:
    holder = connect(autocommit=False)
    holder.execute(HOLD)
    settled.execute(CHANGE)
    warnings: list[tuple[str | None, str | None]] = []
    settled.add_notice_handler(lambda x: warnings.append((x.sqlstate, x.message_primary)))
    settled.execute("CALL silver.run_rollups(time_budget => '0.3 seconds', as_of => 'infinity')")
    assert [code for code, _ in warnings] == ["TR005"]
    assert "raw.readings" in (warnings[0][1] or "")

    runner = connect()
    run = Background(runner, "CALL silver.run_rollups(as_of => 'infinity')")
    asleep = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    while not settled.execute(asleep, [runner.info.backend_pid]).rowcount:
        pass
    holder.rollback()
    run.result()
    assert_settled(settled, *LEVELS)
