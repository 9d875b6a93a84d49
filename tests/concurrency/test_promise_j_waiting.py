"""Promise j: a writer never waits for a refresh, nor a reader, nor a refresh for a writer."""

from collections.abc import Callable
from typing import Any

import psycopg

from interleaving import Paused, pause_refreshes_of
from raw_tables import LEVELS
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]

CHANGE = "UPDATE raw.readings SET count = 1000 WHERE ts = '2026-03-01 21:00+00'"
RUN = "CALL silver.run_rollups('readings_1m', as_of => 'infinity')"

WRITES = [
    CHANGE,
    "INSERT INTO raw.readings (ts, device) VALUES ('2026-03-01 21:00:30+00', 'd0')",
    "INSERT INTO raw.readings_1 (ts, device) VALUES ('2026-03-01 21:00:31+00', 'd0')",
    "UPDATE raw.readings SET ts = ts + interval '1 day' WHERE ts < '2026-03-01 21:10+00'",
    "DELETE FROM raw.readings WHERE ts < '2026-03-01 22:00+00'",
]


def test_promise_j_nobody_waits_for_a_refresh(
    settled: psycopg.Connection, connect: Connect
) -> None:
    """Neither for one that holds still, nor for one that made partitions and is not committed."""
    pause_refreshes_of(settled, "silver.readings_1m")
    settled.execute(CHANGE)
    other = connect()
    other.execute("SET lock_timeout = '500ms'")
    with Paused(settled, connect(), RUN):
        for write in WRITES:
            other.execute(write.encode())
            assert_equal_to_group_by(other, *LEVELS)
    settled.execute(
        "CREATE TABLE raw.readings_9 PARTITION OF raw.readings"
        " FOR VALUES FROM ('2029-03-01 00:00+00') TO ('2029-03-02 00:00+00')"
    )
    settled.execute("INSERT INTO raw.readings (ts, device) VALUES ('2029-03-01 12:00+00', 'd0')")
    refresher = connect(autocommit=False)
    refresh_everything(refresher)
    for write in WRITES:
        other.execute(write.encode())
        assert_equal_to_group_by(other, *LEVELS)
    refresher.commit()
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_promise_j_a_refresh_waits_for_no_writer(
    settled: psycopg.Connection, connect: Connect
) -> None:
    writer = connect(autocommit=False)
    writer.execute("UPDATE raw.readings SET count = 3")
    settled.execute("SET lock_timeout = '500ms'")
    settled.execute("SELECT silver.mark_stale('raw.readings', '-infinity', 'infinity')")
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)
    writer.commit()
    assert_equal_to_group_by(settled, *LEVELS)
