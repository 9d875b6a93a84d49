"""A rollup on raw rows that would do better on top of a finer one says so when it is created."""

from typing import Any

import psycopg
import pytest


@pytest.fixture
def advised(db: psycopg.Connection) -> psycopg.Connection:
    """A source with an hourly rollup of one dimension and two states of a column."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, at timestamptz, device text, room text, a int)")
    create(db, "t_1h", "1 hour", dimensions=["device"], metrics='{"a": ["sum", "max"]}')
    return db


def create(db: psycopg.Connection, name: str, width: str, **options: Any) -> list[tuple[str, ...]]:
    """What the server remarks beside a rollup's creation: each message with its hint."""
    heard: list[tuple[str, ...]] = []

    def hear(notice: psycopg.errors.Diagnostic) -> None:
        heard.append((notice.message_primary or "", notice.message_hint or ""))

    options = {"source_table_name": "t", "time_column": "ts"} | options
    given = ", ".join(f"{option} => %({option})s" for option in options)
    db.add_notice_handler(hear)
    db.execute(
        "SELECT silver.create_rollup_table(target_schema => 'silver',"
        f" target_table_name => %(name)s, rollup_table_interval => %(width)s, {given})".encode(),
        {"name": name, "width": width, **options},
    )
    db.remove_notice_handler(hear)
    return heard


@pytest.mark.parametrize(
    ("width", "metrics"),
    [("1 day", '{"a": "max"}'), ("1 month", '{"a": ["sum"]}'), ("3 hours", "{}")],
)
def test_the_finer_rollup_that_has_all_is_named(
    advised: psycopg.Connection, width: str, metrics: str
) -> None:
    ((message, hint),) = create(advised, "wide", width, dimensions=["device"], metrics=metrics)
    assert message == "silver.t_1h holds all that this rollup needs, in fewer rows than raw.t"
    assert "'silver.t_1h' as its source" in hint
    advised.execute("SELECT silver.drop_rollup('wide')")
    assert create(
        advised, "wide", width, source_table_name="silver.t_1h", time_column="bucket",
        dimensions=["device"], metrics=metrics,
    ) == []  # fmt: skip


def test_the_widest_of_those_is_named(advised: psycopg.Connection) -> None:
    metrics = '{"a": ["sum"]}'
    create(advised, "t_6h", "6 hours", dimensions=[], metrics=metrics)
    ((message, _),) = create(advised, "t_1d", "1 day", dimensions=[], metrics=metrics)
    assert message.startswith("silver.t_6h holds")


@pytest.mark.parametrize(
    "options",
    [
        {"dimensions": ["room"]},
        {"metrics": '{"a": ["min"]}'},
        {"metrics": '{"room": ["max"]}'},
        {"time_column": "at"},
        {"change_tracking": "window", "look_back_window": "3 days"},
    ],
    ids=str,
)
def test_one_that_lacks_something_is_not(
    advised: psycopg.Connection, options: dict[str, Any]
) -> None:
    options = {"dimensions": ["device"], "metrics": '{"a": ["sum"]}'} | options
    ((message, hint),) = create(advised, "t_1d", "1 day", **options)
    assert message.startswith("each read of its open bucket computes up to 1 day of rows of raw.")
    assert "create a rollup of an hour or less first" in hint
    assert create(advised, "t_90m", "90 minutes", **options) == []
