"""Late rows of a source with a key: whatever is written, each rollup is what plain Python makes of
the rows that are there, in every snapshot.

TSROLLUP_SEED says which histories are tried, TSROLLUP_HISTORIES=n how many of each kind.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import SerializationFailure, UniqueViolation
from psycopg.rows import dict_row

from blackbox.calendar_reference import Buckets
from blackbox.late_history import METRICS, Connection, History, Key
from blackbox.rollup_reference import (
    Row,
    Wanted,
    assert_live,
    assert_live_and_stored,
    column,
    create,
    differences,
    rows_of,
)

pytestmark = pytest.mark.spread

Connect = Callable[..., psycopg.Connection[Any]]

SEED = int(os.environ["TSROLLUP_SEED"])
HISTORIES = int(os.environ.get("TSROLLUP_HISTORIES", "1"))
STEPS = 2
CASCADE = "REFERENCES raw.devices ON UPDATE CASCADE ON DELETE CASCADE"
SET_NULL = "REFERENCES raw.devices ON UPDATE CASCADE ON DELETE SET NULL"
ODD_TEXTS = [
    "", " ", "a", "A", "a ", "NULL", "null", '"NULL"', "'", "''", '"', '""', ",", "{", "}", "{}",
    "{a,b}", "(a,b)", "\\", "\\\\", "\\N", "\\'", "$1", "$$", "%s", "%I", "{key}", ":a", "a\nb",
    "\t", "\x01", "\x7f", "é", "e\u0301", "ß", "\u212a", "\U0001f600", "\u00a0", "\ufeff", "0",
    "00", "-0", "x" * 199, "x" * 200, "x" * 201, "é" * 100, "é" * 101, "y" * 300, "\u4e2d" * 67,
]  # fmt: skip
NUMBERS = [0, 1, -1, 7, 42, 2**31 - 1, -(2**31)]
UUIDS = [UUID(int=0), UUID(int=2**128 - 1), *(UUID(int=n * 7**40) for n in range(1, 12))]
# Some have values that are equal and do not look it.
KEYS = {
    "text": Key("text", ODD_TEXTS, "varchar(400)"),
    "integer": Key("integer", [*NUMBERS, *range(100, 110)], "bigint"),
    "bigint": Key("bigint", [*NUMBERS, 2**63 - 1, -(2**63)], "numeric", CASCADE),
    "smallint": Key("smallint", [0, -1, 5, 2**15 - 1, -(2**15)], "integer", CASCADE),
    "uuid": Key("uuid", UUIDS, "text", SET_NULL),
    "varchar": Key("varchar(300)", ODD_TEXTS, "text", SET_NULL),
    "char": Key("char(3)", ["a", "ab", "abc", "A", ","], "text"),
    "boolean": Key("boolean", [True, False], "text"),
    "numeric": Key("numeric", [Decimal(n) for n in ("1", "1.0", "1.00", "-0", "0", "2")], "text"),
    "float8": Key("float8", [0.0, -0.0, 1.5, 1e300], "float8"),
    "interval": Key("interval", [timedelta(days=1), timedelta(hours=24)], "interval"),
}
NAMES = list(KEYS)
# Each time: text, a number, and something else.
KINDS = ["text", Random(SEED).choice(NAMES[1:4]), Random(SEED).choice(NAMES[4:])]


class Readers:
    """Repeatable read transactions that began at some moment."""

    def __init__(self, connect: Connect) -> None:
        self.late = connect(autocommit=False)
        self.free = [connect(autocommit=False) for _ in range(2)]
        self.open: dict[Connection, str] = {}

    def begin(self) -> None:
        if not self.free:
            return
        reader = self.free.pop()
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        row = reader.execute("SELECT pg_export_snapshot()").fetchone()
        assert row
        self.open[reader] = row[0]

    def check(self, wanted: Sequence[Wanted]) -> None:
        """What they read, and what somebody reads who begins now in their snapshot."""
        for reader, snapshot in self.open.items():
            assert_live(reader, "raw.late", *wanted)
            self.late.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.late.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
            assert_live(self.late, "raw.late", *wanted[::2])
            self.late.rollback()

    def end(self) -> None:
        for reader in self.open:
            reader.rollback()
        self.free += self.open
        self.open.clear()


@pytest.mark.parametrize("number", range(HISTORIES))
@pytest.mark.parametrize("kind", KINDS)
def test_late_rows(kind: str, number: int, db: Connection, connect: Connect) -> None:
    history = History(db, KEYS[kind], Random(f"{SEED} {kind} {number}"))
    readers, writer = Readers(connect), connect(autocommit=False)
    wanted = history.begin()
    assert_live_and_stored(db, "raw.late", *wanted)
    for change in [None, history.empty_partition, history.rename, history.move_index,
                   history.retype, history.move_index]:  # fmt: skip
        if change:
            print(change.__name__)
            change()
            history.write(db)
            if change in (history.rename, history.retype):
                take_in(db)
        for _ in range(STEPS):
            step(history, writer, wanted, readers)
        readers.end()
    assert_live_and_stored(db, "raw.late", *wanted)
    assert_stored(db, wanted)


def step(history: History, writer: Connection, wanted: Sequence[Wanted], readers: Readers) -> None:
    """Something is written, a run follows; who began to read before sees nothing of it."""
    chance = history.chance
    if chance.random() < 0.5:
        readers.begin()
    way = chance.choice([write_some, write_and_take_back, write_in_an_old_snapshot])
    print(way.__name__)
    way(history, writer, chance.sample(wanted, 3))
    check(history, wanted)
    if chance.random() < 0.7:
        history.run()
        check(history, wanted)
    readers.check(wanted)


def write_some(history: History, writer: Connection, wanted: Sequence[Wanted]) -> None:
    for _ in range(history.chance.choice([1, 3])):
        history.write(writer)
    assert_live(writer, "raw.late", *wanted)
    writer.commit()


def write_and_take_back(history: History, writer: Connection, wanted: Sequence[Wanted]) -> None:
    """Some of a transaction, or all of it."""
    with writer.transaction(force_rollback=history.chance.random() < 0.3):
        history.write(writer)
        with writer.transaction(force_rollback=True):
            history.write(writer)
            assert_live(writer, "raw.late", *wanted)
        with writer.transaction():
            history.write(writer)
        assert_live(writer, "raw.late", *wanted)


def write_in_an_old_snapshot(
    history: History, writer: Connection, wanted: Sequence[Wanted]
) -> None:
    """Others write and refresh before it does, and before it commits."""
    writer.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    writer.execute("SELECT count(*) FROM raw.late")
    history.write(history.db)
    history.run()
    try:
        history.write(writer)
        assert_live(writer, "raw.late", *wanted)
        history.db.execute("CALL silver.run_rollups()")
        history.write(writer)
        assert_live(writer, "raw.late", *wanted)
        writer.commit()
    except (SerializationFailure, UniqueViolation) as error:
        print("  ", type(error).__name__)
        writer.rollback()


def check(history: History, wanted: Sequence[Wanted]) -> None:
    """All of the views, and a part of each that somebody asks for."""
    assert_live(history.db, "raw.late", *wanted)
    raw = rows_of(history.db, "raw.late")
    one = history.chance.choice(wanted)
    name = history.chance.choice(list(one.dimensions))
    value = history.chance.choice([*{one.dimensions[name](row) for row in raw}, None])
    low, high = history.place()
    question = sql.SQL("SELECT * FROM gold.{} WHERE {} AND bucket >= {} AND bucket < {}").format(
        sql.Identifier(one.view), condition(name, value), low, high
    )
    cursor = history.db.cursor(row_factory=dict_row)
    rows = cursor.execute(question, prepare=False).fetchall()
    assert not differences(part_of(one, name, value, low, high), raw, rows), question.as_string()


def condition(name: str, value: Any) -> sql.Composable:
    text = "{} IS NULL" if value is None else "{} = {}"
    return sql.SQL(text).format(sql.Identifier(name), value)


def part_of(whole: Wanted, name: str, value: Any, low: datetime, high: datetime) -> Wanted:
    """The groups of one value in buckets of some time."""

    def keep(row: Row) -> bool:
        if row["ts"] is None or whole.dimensions[name](row) != value or not whole.keep(row):
            return False
        return low <= whole.buckets.of(row["ts"]) < high

    return replace(whole, keep=keep)


def take_in(db: Connection) -> None:
    """A change of columns is known after the next run; types may ask for more."""
    db.execute("CALL silver.run_rollups()")
    invalid = db.execute(
        "SELECT target_table FROM silver.timeseries_operations_monitor"
        " WHERE health = 'invalid' AND next_step LIKE '%%rebuild%%' ORDER BY target_table"
    ).fetchall()
    print("  ", invalid)
    for (table,) in invalid:
        db.execute("SELECT silver.rebuild_rollup(%s)", [table])


def assert_stored(db: Connection, wanted: Sequence[Wanted]) -> None:
    """The tables hold what the views say: nothing in them is computed when they are read."""
    raw = rows_of(db, "raw.late")
    for one in wanted:
        states = replace(one, metrics={"v": METRICS["v"]})
        assert not differences(states, raw, rows_of(db, f"silver.{one.view}"))
    rows = db.execute(
        "SELECT health, stale_ranges, stale_buckets, stale_groups, partly_stale_buckets"
        " FROM silver.timeseries_operations_monitor"
    ).fetchall()
    assert rows == [("ok", 0, 0, 0, 0)] * len(wanted)


def test_more_groups_than_are_told_apart(db: Connection) -> None:
    """In a statement, and in a bucket that several statements write to."""
    history = History(db, KEYS["integer"], Random(SEED))
    wanted = history.begin()
    assert_live_and_stored(db, "raw.late", *wanted)
    for low, high, hour in [(1, 1100, 12), (2001, 2600, 15), (3001, 3600, 15)]:
        db.execute(
            "INSERT INTO raw.late SELECT timestamptz '2026-03-01 00:00+00'"
            " + make_interval(hours => %s, secs => n / 10.0), n, 'north', n %% 12, 1, -n"
            " FROM generate_series(%s::integer, %s) AS n",
            [hour, low, high],
        )
    db.execute("UPDATE raw.late SET v = v + 1, device = device + 1 WHERE id BETWEEN -20 AND -10")
    assert_live_and_stored(db, "raw.late", *wanted)
    db.execute("DELETE FROM raw.late WHERE id < 0 AND device <> 15")
    assert_live_and_stored(db, "raw.late", *wanted)
    assert_stored(db, wanted)


def test_a_named_key(db: Connection) -> None:
    """It needs no index; what cannot be a key is refused; the monitor tells groups and buckets."""
    db.execute(
        "CREATE TABLE raw.late (ts timestamptz, device integer, site text, v integer, x float8,"
        " id numeric)"
    )
    for wrong in ("nothing", "v", "id", "half", "ts", "bucket", ""):
        with pytest.raises(psycopg.Error):
            create(
                db, "raw.late", "late_1h", "1 hour", dimensions=["device", "site", "id", "half"],
                metrics=METRICS, expressions={"half": "v / 2"}, key_dimension=wrong,
            )  # fmt: skip
    options: dict[str, Any] = {"dimensions": ["device", "site"], "metrics": METRICS}
    create(db, "raw.late", "late_1h", "1 hour", key_dimension="site", **options)
    create(db, "late_1h", "late_1d", "1 day", dimensions=["device"])
    create(db, "late_1h", "late_2h", "2 hours", dimensions=["site"])
    device, site = {"device": column("device")}, {"site": column("site")}
    wanted = [
        Wanted("late_1h", Buckets("1 hour"), device | site, METRICS),
        Wanted("late_1d", Buckets("1 day"), device, METRICS),
        Wanted("late_2h", Buckets("2 hours"), site, METRICS),
    ]
    row = "INSERT INTO raw.late VALUES ('2026-03-01 12:30+00', %s, %s, 1, 2, 3)"
    for number in range(6):
        db.execute(row, [number % 2, f"s{number}"])
    assert_live_and_stored(db, "raw.late", *wanted)
    for each in wanted:  # which are drained, and not refreshed
        db.execute("SELECT silver.pause_rollup(%s)", [each.view])
    late: list[tuple[list[Any], int]]
    late = [([0, "s1"], 1), ([1, "s1"], 1), ([1, "s2"], 2), ([1, None], 0)]
    for written, groups in late:
        db.execute(row, written)
        assert_live(db, "raw.late", *wanted)
        db.execute("SELECT silver.perform_rollup()")
        rows = db.execute(
            "SELECT stale_groups, partly_stale_buckets, stale_buckets"
            " FROM silver.timeseries_operations_monitor ORDER BY target_table"
        ).fetchall()
        partly = min(groups, 1)
        assert rows == [(0, 0, 1), (groups, partly, 1), (groups, partly, 1)], written
    for each in wanted:
        db.execute("SELECT silver.resume_rollup(%s)", [each.view])
    assert_live_and_stored(db, "raw.late", *wanted)
    keys = db.execute("SELECT key_dimension FROM silver.rollup_config ORDER BY target_name")
    assert keys.fetchall() == [(None,), ("site",), ("site",)]
