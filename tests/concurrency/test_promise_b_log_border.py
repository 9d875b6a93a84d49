"""Where reads begin in the change log: behind what is settled, and never behind what is not."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from interleaving import wait_for_other_tests
from raw_tables import LEVELS
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]

CHANGE = "UPDATE raw.readings SET count = {} WHERE ts = '2026-03-01 21:00+00'"
OTHER = "UPDATE raw.readings SET count = {} WHERE note = 'note 40'"
DRAIN = "SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source"
PAGES = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT rollup_engine.stale_set(1)"


def pages_of_a_look(connection: psycopg.Connection[Any]) -> int:
    """Pages that are touched to find the stale set; once more where all is in the caches."""
    for _ in range(2):
        row = connection.execute(PAGES).fetchone()
    assert row
    plan: dict[str, Any] = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def test_what_is_settled_is_passed_by_under_an_old_snapshot(
    settled: psycopg.Connection, connect: Connect
) -> None:
    """By a session, too, that has planned its read while there was nothing."""
    settled.execute("SET ROLE tsrollup_owner")
    settled.execute("VACUUM rollup_engine.change_log")
    settled.execute("RESET ROLE")
    settled.execute("SET plan_cache_mode = force_generic_plan")
    before = pages_of_a_look(settled)
    holder = connect(autocommit=False)
    holder.isolation_level = IsolationLevel.REPEATABLE_READ
    holder.execute("SELECT FROM raw.readings LIMIT 1")
    writer = connect()
    for n in range(1000):
        writer.execute(CHANGE.format(n).encode())
        if n % 50 == 49:
            writer.execute(DRAIN)
    wait_for_other_tests(writer)
    writer.execute(CHANGE.format(1000).encode())
    writer.execute(DRAIN)
    assert pages_of_a_look(settled) <= before + 4
    assert_equal_to_group_by(holder, *LEVELS)
    assert_equal_to_group_by(settled, *LEVELS)


@pytest.mark.parametrize("how", ["in the open", "in a subtransaction", "prepared"])
@pytest.mark.parametrize("level", list(IsolationLevel)[1:])
def test_a_writer_who_commits_after_a_drain_of_later_ones(
    settled: psycopg.Connection, connect: Connect, how: str, level: IsolationLevel
) -> None:
    writer = connect(autocommit=False)
    writer.isolation_level = level
    if how == "prepared":
        writer.tpc_begin(writer.xid(0, f"slow {level}", ""))
    if how == "in a subtransaction":
        writer.execute("SAVEPOINT part")
    writer.execute(CHANGE.format(1000).encode())
    if how == "prepared":
        writer.tpc_prepare()
    for n in (1, 2):
        settled.execute(OTHER.format(n).encode())
        settled.execute(DRAIN)
    assert_equal_to_group_by(settled, *LEVELS)
    if how == "prepared":
        writer.tpc_commit()
    else:
        writer.commit()
    assert_equal_to_group_by(settled, *LEVELS)
    # The next drain takes it, before a still later border.
    settled.execute(OTHER.format(3).encode())
    settled.execute(DRAIN)
    assert_equal_to_group_by(settled, *LEVELS)
    refresh_everything(settled)
    assert_settled(settled, *LEVELS)


def test_an_older_snapshot_begins_where_its_own_border_is(
    settled: psycopg.Connection, connect: Connect
) -> None:
    settled.execute(OTHER.format(1).encode())
    settled.execute(DRAIN)
    settled.execute(CHANGE.format(2).encode())
    reader = connect(autocommit=False)
    reader.isolation_level = IsolationLevel.REPEATABLE_READ
    assert_equal_to_group_by(reader, *LEVELS)
    for n in range(3, 6):
        settled.execute(OTHER.format(n).encode())
        settled.execute(DRAIN)
        refresh_everything(settled)
        assert_equal_to_group_by(reader, *LEVELS)


def test_a_drain_in_the_transaction_of_the_writer(settled: psycopg.Connection) -> None:
    with settled.transaction():
        settled.execute(CHANGE.format(1).encode())
        settled.execute(DRAIN)
        settled.execute(OTHER.format(1).encode())
        assert_equal_to_group_by(settled, *LEVELS)
    assert_equal_to_group_by(settled, *LEVELS)


def test_a_restored_border_says_nothing_of_the_transactions_here(
    settled: psycopg.Connection,
) -> None:
    """Numbers of transactions begin anew in another cluster: what is written has lower ones."""
    settled.execute(OTHER.format(1).encode())
    settled.execute(DRAIN)
    rows = settled.execute("SELECT source_id, noted_by::text FROM rollup_engine.log_border")
    source_id, noted_by = rows.fetchall()[0]
    settled.execute(
        "INSERT INTO rollup_engine.log_border VALUES (%s, '4000000000', %s::xid)",
        [source_id, noted_by],
    )
    settled.execute(CHANGE.format(1).encode())
    assert_equal_to_group_by(settled, *LEVELS)
    settled.execute(DRAIN)
    borders = "SELECT writer < '4000000000', noted_by = xmin FROM rollup_engine.log_border"
    assert settled.execute(borders).fetchall() == [(True, True)]
    assert_equal_to_group_by(settled, *LEVELS)
    settled.execute("SELECT silver.drop_rollup('readings_1d')")
    for level in reversed(LEVELS[:-1]):
        settled.execute("SELECT silver.drop_rollup(%s)", [level])
    assert settled.execute(borders).fetchall() == []
