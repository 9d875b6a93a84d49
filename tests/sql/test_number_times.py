"""Time columns of numbers that count from 1970: exact as ever, with conditions and partitions in
their own unit."""

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from described_rollups import UNITS
from interleaving import Background
from raw_tables import maintained
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

pytestmark = pytest.mark.spread

Connect = Callable[..., psycopg.Connection[Any]]

START = 1772323200  # 2026-03-01 00:00 UTC
DAY = 86400
KINDS = [
    ("bigint", "s"),
    ("bigint", "ms"),
    ("bigint", "us"),
    ("bigint", "ns"),
    ("integer", "s"),
    ("numeric", "s"),
    ("numeric", "ms"),
    ("numeric", "ns"),
]


def create(connection: psycopg.Connection[Any], kind: str, unit: str, *, parts: bool) -> None:
    by = " PARTITION BY RANGE (t)" if parts else ""
    connection.execute(f"CREATE TABLE raw.n (t {kind}, dev text, v integer){by}".encode())
    for day in range(3 if parts else 0):
        low, high = ((START + DAY * d) * UNITS[unit] for d in (day, day + 1))
        connection.execute(
            f"CREATE TABLE raw.n_{day} PARTITION OF raw.n FOR VALUES FROM ({low}) TO ({high})"
        )
    connection.execute("CREATE INDEX ON raw.n (t)")
    fraction = " + 0.123456789" if kind == "numeric" else ""
    connection.execute(
        f"INSERT INTO raw.n SELECT ({START} + i * 577) * {UNITS[unit]}::numeric + i % 7{fraction},"
        " 'd' || i % 3, i FROM generate_series(0, 400) AS i".encode()
    )
    connection.execute("ANALYZE raw.n")


def roll_up(connection: psycopg.Connection[Any], unit: str, width: str = "15 minutes") -> None:
    connection.execute(
        "SELECT silver.create_rollup_table('raw.n', 'silver', 'n_1', %s, dimensions => '{dev}',"
        ' metrics => \'{"v": ["sum", "avg", "first", "last"]}\', time_column => \'t\','
        " time_unit => %s)",
        [width, unit],
    )
    connection.execute("SELECT silver.create_rollup_table('n_1', 'silver', 'n_2', '1 hour')")
    connection.execute("SELECT silver.create_rollup_table('n_2', 'silver', 'n_3', '1 day')")


LEVELS = ("n_1", "n_2", "n_3")


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize(("kind", "unit"), KINDS)
def test_three_levels_equal_the_group_by(
    db: psycopg.Connection, kind: str, unit: str, parts: bool
) -> None:
    create(db, kind, unit, parts=parts)
    roll_up(db, unit)
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    assert_settled(db, *LEVELS)
    one = UNITS[unit]
    for change in (
        f"INSERT INTO raw.n VALUES ({(START + DAY) * one}, 'edge', 1),"
        f" ({(START + DAY) * one - 1}, 'edge', 2)",
        f"UPDATE raw.n SET t = t + {7200 * one} WHERE dev = 'd1' AND v < 100",
        f"DELETE FROM raw.n WHERE t < {(START + 9000) * one}",
        "TRUNCATE raw.n_1" if parts else "DELETE FROM raw.n WHERE v % 2 = 0",
    ):
        db.execute(change.encode())
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
        assert_settled(db, *LEVELS)
    assert db.execute(
        "SELECT bool_and(is_valid) FROM silver.validate_rollup_config()"
    ).fetchone() == (True,)


def test_a_statement_marks_no_more_than_its_buckets(db: psycopg.Connection) -> None:
    create(db, "bigint", "ms", parts=True)
    roll_up(db, "ms")
    refresh_everything(db)
    db.execute("INSERT INTO raw.n VALUES (%s, 'd', 1)", [(START + 3600) * 1000 + 5])
    assert db.execute(
        "SELECT rollup_engine.stale_set(id)::text FROM silver.rollup_config ORDER BY id LIMIT 1"
    ).fetchone() == ('{["2026-03-01 01:00:00+00","2026-03-01 01:15:00+00")}',)
    # Numbers that are no time, and NULLs, belong to no bucket, and fail no write.
    db.execute("ALTER TABLE raw.n ADD CONSTRAINT few CHECK (v < 1000)")
    refresh_everything(db)
    db.execute("CREATE TABLE raw.n_rest PARTITION OF raw.n DEFAULT")
    db.execute(
        "INSERT INTO raw.n VALUES (9223372036854775807, 'd', 1), (-9223372036854775808, 'd', 1),"
        " (NULL, 'd', 1)"
    )
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_one_bucket_is_read_by_index_and_from_one_partition(db: psycopg.Connection) -> None:
    create(db, "bigint", "ms", parts=True)
    roll_up(db, "ms")
    query = db.execute("SELECT refresh_sql FROM silver.rollup_config WHERE depth = 0").fetchone()
    assert query
    for number, time in enumerate(("2026-03-02 10:00+00", "2026-03-02 10:15+00"), 1):
        query = (query[0].replace(f"${number}", f"timestamptz '{time}'"),)
    db.execute("SET enable_seqscan = off")
    plan = "\n".join(row[0] for row in db.execute(f"EXPLAIN {query[0]}".encode()))
    assert re.search(r"Index (Scan|Cond)", plan)
    assert re.findall(r" on n_(\d) ", plan) in (["1"], ["1", "1"])
    assert "n_0" not in plan


@pytest.mark.parametrize(
    ("kind", "unit"), [("bigint", "ms"), ("integer", "s"), ("numeric", "s"), ("numeric", "ns")]
)
def test_retention_and_partitions_ahead_go_by_the_unit(
    db: psycopg.Connection, kind: str, unit: str
) -> None:
    scale = UNITS[unit]
    db.execute(
        f"CREATE TABLE raw.n (t {kind} NOT NULL, dev text, v integer)"
        " PARTITION BY RANGE (t)".encode()
    )
    roll_up(db, unit)
    db.execute("SELECT silver.partition_source('raw.n', '1 day')")
    db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    bounds = db.execute(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class"
        " WHERE relispartition AND relkind = 'r' AND pg_partition_root(oid) = 'raw.n'::regclass"
    ).fetchall()
    today = int(dt.datetime.now(dt.UTC).timestamp()) // DAY * DAY
    ends = [[Decimal(x) for x in re.findall(r"[0-9.]+", bound)] for (bound,) in bounds]
    assert [today * scale, (today + DAY) * scale] in ends
    # Old rows go to the default partition first, then to partitions of their own, then away.
    db.execute(
        "INSERT INTO raw.n SELECT (%s - i * 3600::bigint) * %s::bigint, 'd', i"
        " FROM generate_series(0, 100) AS i",
        [today, scale],
    )
    refresh_everything(db)
    assert_settled(db, *LEVELS)
    db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    assert db.execute("SELECT count(*) FROM raw.n_default").fetchone() == (0,)
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    before = db.execute("SELECT sum(v_sum) FROM gold.n_1").fetchone()
    db.execute("SELECT silver.set_retention('raw.n', '2 days')")
    for _ in range(3):
        db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    oldest = db.execute("SELECT min(t) FROM raw.n").fetchone()
    assert oldest
    assert oldest[0] >= (today - 3 * DAY) * scale
    assert oldest[0] < (today - DAY) * scale
    assert db.execute("SELECT sum(v_sum) FROM gold.n_1").fetchone() == before
    assert_equal_to_group_by(db, "n_1")
    # A late row is counted.
    db.execute("INSERT INTO raw.n VALUES (%s, 'late', 1)", [(today - 4 * DAY) * scale])
    refresh_everything(db)
    assert db.execute("SELECT sum(sealed_late_rows) > 0 FROM silver.rollup_config").fetchone() == (
        True,
    )
    assert db.execute("SELECT count(*) FROM silver.get_detailed_stats('%')").fetchone() != (0,)


@pytest.mark.parametrize(
    ("kind", "unit", "width"), [("integer", "s", "5 years"), ("bigint", "ns", "100 years")]
)
def test_partitions_ahead_end_where_the_numbers_do(
    db: psycopg.Connection, kind: str, unit: str, width: str
) -> None:
    db.execute(
        f"CREATE TABLE raw.n (t {kind}, dev text, v integer) PARTITION BY RANGE (t)".encode()
    )
    roll_up(db, unit)
    db.execute("SELECT silver.partition_source('raw.n', %s::interval)", [width])
    last = {"integer": 2**31 - 1, "bigint": 2**63 - 1}[kind]
    db.execute("INSERT INTO raw.n VALUES (%s, 'a', 1), (%s, 'b', 2)", [last - 1, last])
    assert db.execute("SELECT t FROM raw.n_default").fetchall() == [(last,)]
    if unit == "ns":
        db.execute("TRUNCATE raw.n_default")  # which is no time
    refresh_everything(db)
    db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    assert_equal_to_group_by(db, *LEVELS)
    assert db.execute("SELECT count(*) FROM silver.error_log").fetchone() == (0,)


REFUSED = {
    "time_unit => 'h'": "time_unit 'h' is unknown",
    "time_unit => 's', time_column => 'at'": "time_column at of raw.t is no bigint",
    "time_column => 't'": "time_column t of raw.t is no timestamptz",
    "time_unit => 's'": "has 2 time columns",
    "time_unit => 's', time_column => 'nope'": "is not a column",
    "time_unit => ''": "time_unit '' is unknown",
}


@pytest.mark.parametrize("options", REFUSED)
def test_bad_input(db: psycopg.Connection, options: str) -> None:
    db.execute("CREATE TABLE raw.t (at timestamptz, t bigint, u integer, v text)")
    with pytest.raises(psycopg.Error, match=REFUSED[options]) as caught:
        db.execute(
            "SELECT silver.create_rollup_table('raw.t', 'silver', 'c', '1 hour',"
            f" {options})".encode()
        )
    assert caught.value.diag.message_hint


def test_a_column_has_one_unit(db: psycopg.Connection) -> None:
    create(db, "bigint", "ms", parts=False)
    roll_up(db, "ms")
    for name, source, unit in (("a", "raw.n", "'s'"), ("b", "n_1", "'ms'")):
        with pytest.raises(psycopg.Error, match="time_unit"):
            db.execute(
                f"SELECT silver.create_rollup_table('{source}', 'silver', '{name}', '1 day',"
                f" time_column => {'NULL' if name == 'b' else chr(39) + 't' + chr(39)},"
                f" time_unit => {unit})".encode()
            )


def test_a_column_has_one_unit_for_two_that_come_at_once(
    db: psycopg.Connection, connect: Connect
) -> None:
    db.execute("CREATE TABLE raw.n (t bigint NOT NULL, v text)")
    made = (
        "SELECT silver.create_rollup_table('raw.n', 'silver', '{0}', '1 hour', time_unit => '{0}')"
    )
    first = connect(autocommit=False)
    first.execute(made.format("s").encode())
    second = Background(connect(), made.format("ms").encode())
    second.wait_until_blocked(db)
    first.commit()
    with pytest.raises(psycopg.Error, match=r"other rollups read t of raw\.n as s"):
        second.result()


@pytest.mark.parametrize(("unit", "wrong"), [("s", "ms"), ("ms", "s")])
def test_promise_g_a_wrong_unit_is_mended_by_dropping_the_rollups(
    db: psycopg.Connection, unit: str, wrong: str
) -> None:
    """The partitions that are made, and those that go, follow the next rollup."""
    scale = UNITS[unit]
    today = int(dt.datetime.now(dt.UTC).timestamp()) // DAY * DAY
    db.execute(
        f"CREATE TABLE raw.n (t bigint, dev text, v integer) PARTITION BY RANGE (t);"
        f"CREATE TABLE raw.n_old PARTITION OF raw.n"
        f" FOR VALUES FROM ({(today - 40 * DAY) * scale}) TO ({(today - 3 * DAY) * scale})".encode()
    )
    roll_up(db, wrong)
    db.execute("SELECT silver.partition_source('raw.n', '1 day')")
    db.execute("SELECT silver.set_retention('raw.n', '30 days')")
    db.execute(
        "INSERT INTO raw.n SELECT (%s - i * 3600::bigint) * %s::bigint, 'd', i"
        " FROM generate_series(0, 200) AS i",
        [today, scale],
    )
    refresh_everything(db)
    for name in reversed(LEVELS):
        db.execute("SELECT silver.drop_rollup(%s)", [name])
    # What the unit is, nobody says: nothing goes.
    for _ in range(3):
        told = db.execute("SELECT action, detail FROM silver.maintain_timeseries_tables()")
        skipped = [detail for action, detail in told if action in ("skipped", "dropped", "sealed")]
        assert len(skipped) == 1
        assert "no rollup says in which unit t of raw.n counts" in skipped[0]
    assert db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall() == [
        ("no rollup says in which unit t of raw.n counts",)
    ]
    # As an earlier release had sealed it.
    db.execute("UPDATE rollup_engine.retention SET sealed_before = now(), sealed_by = '3'")
    roll_up(db, unit)
    for _ in range(10):
        refresh_everything(db)
        maintain = "SELECT action, detail FROM silver.maintain_timeseries_tables()"
        done = db.execute(maintain).fetchall()
        assert "failed" not in dict(done)
        if not done:
            break
    assert not done
    assert db.execute("SELECT count(*) FROM raw.n").fetchone() == (201,)
    assert db.execute("SELECT count(*) FROM raw.n_default").fetchone() == (0,)
    assert_settled(db, *LEVELS)
    assert db.execute(
        "SELECT count(*) FROM silver.get_partition_stats('raw.n')"
        " WHERE NOT isfinite(from_time) OR NOT isfinite(to_time)"
    ).fetchone() == (0,)


@pytest.mark.parametrize("is_divided", [False, True], ids=["", "divided"])
@pytest.mark.parametrize("kind", ["bigint", "numeric"])
@pytest.mark.parametrize("is_sealed", [False, True], ids=["before the seal", "after it"])
def test_promise_g_nothing_goes_by_a_unit_that_has_rows_be_of_1970(
    db: psycopg.Connection, is_sealed: bool, kind: str, is_divided: bool
) -> None:
    """The keep was set while rollups said ms; the next one says us, by mistake."""
    first = int(dt.datetime.now(dt.UTC).timestamp()) // DAY * DAY - 40 * DAY
    db.execute(
        f"CREATE TABLE raw.n (t {kind}, dev text, v integer) PARTITION BY RANGE (t)".encode()
    )
    db.execute("CREATE TABLE raw.n_never PARTITION OF raw.n DEFAULT")
    never = 2**63 - 1 if kind == "bigint" else Decimal("NaN")
    us = int(dt.datetime.now(dt.UTC).timestamp()) * 10**6
    db.execute("INSERT INTO raw.n VALUES (%s, 'never', 1), (%s, 'us', 1)", [never, us])
    for day in range(41):
        db.execute(
            f"CREATE TABLE raw.n_{day} PARTITION OF raw.n FOR VALUES"
            f" FROM ({(first + day * DAY) * 1000}) TO ({(first + (day + 1) * DAY) * 1000})".encode()
        )
    db.execute(
        "INSERT INTO raw.n SELECT (%s + i * 8 * 3600::bigint) * 1000, 'd', i"
        " FROM generate_series(0, 120) AS i",
        [first],
    )
    roll_up(db, "ms")
    refresh_everything(db)
    if is_divided:
        db.execute("SELECT silver.partition_source('raw.n', '1 day')")
    db.execute(
        "SELECT silver.set_retention('raw.n', %s::interval)",
        ["38 days" if is_sealed else "90 days"],
    )
    maintain = (
        "SELECT action, detail FROM silver.maintain_timeseries_tables() WHERE target = 'raw.n'"
    )
    assert ("sealed" in dict(db.execute(maintain).fetchall())) == is_sealed
    for name in LEVELS[::-1]:
        db.execute("SELECT silver.drop_rollup(%s)", [name])
    roll_up(db, "us")
    refresh_everything(db)
    said = "t of raw.n, which rollups read as us, is of 1970 in rows that are to go"
    for _ in range(3):
        done = db.execute(maintain).fetchall()
        assert not {"sealed", "dropped"} & {action for action, _ in done}
        assert any(action == "skipped" and said in detail for action, detail in done)
    told = db.execute("SELECT target, problem FROM silver.validate_rollup_config() WHERE is_valid")
    assert ("raw.n", said) in told.fetchall()
    assert db.execute("SELECT count(*) FROM raw.n").fetchone() == (123,)
    heard: list[str] = []
    db.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    db.execute("SELECT silver.set_retention('raw.n', '90 days')")
    assert heard == [said]


def test_promise_g_a_wrong_unit_of_a_part_holds_the_part(db: psycopg.Connection) -> None:
    """The other part is read as it counts."""
    today = int(dt.datetime.now(dt.UTC).timestamp()) // DAY * DAY
    db.execute("CREATE TABLE raw.n (t bigint, dev text, v integer) PARTITION BY LIST (dev)")
    for dev, unit in (("a", "ms"), ("b", "s")):
        db.execute(
            f"CREATE TABLE raw.{dev} PARTITION OF raw.n FOR VALUES IN ('{dev}')"
            f" PARTITION BY RANGE (t); CREATE TABLE raw.{dev}_1 PARTITION OF raw.{dev}"
            f" FOR VALUES FROM ({today - 9 * DAY}) TO ({today - 8 * DAY})".encode()
        )
        db.execute("INSERT INTO raw.n VALUES (%s, %s, 1)", [today - 9 * DAY, dev])
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', 't', time_unit => %s)",
            [f"raw.{dev}", f"of_{dev}", unit],
        )
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.n', '90 days')")
    for _ in range(2):
        assert "t of raw.a, which rollups read as ms, is of 1970" in str(
            maintained(db, dt.datetime.now(dt.UTC))
        )
    assert db.execute("SELECT count(*) FROM raw.n").fetchone() == (2,)


@pytest.mark.parametrize("later", [1, 2, 3])
def test_promise_g_a_right_unit_is_told_by_more_rows_of_later(
    db: psycopg.Connection, later: int
) -> None:
    """Two rows are of 1970. What the rollup has stored of rows that are gone tells nothing."""
    today = int(dt.datetime.now(dt.UTC).timestamp()) // DAY * DAY
    db.execute("CREATE TABLE raw.n (t bigint, dev text, v integer) PARTITION BY RANGE (t)")
    for name, day in (("old", 0), ("then", today - 40 * DAY), ("now", today - DAY)):
        db.execute(
            f"CREATE TABLE raw.n_{name} PARTITION OF raw.n FOR VALUES FROM ({day}) TO ({day + DAY})"
        )
    rows = "INSERT INTO raw.n SELECT %s, 'd', v FROM generate_series(1, %s) AS v"
    db.execute(rows, [today - 40 * DAY, 900])
    db.execute(rows, [600, 2])
    db.execute(rows, [today - DAY, later])
    roll_up(db, "s")
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.n', '30 days')")
    db.execute("SELECT silver.maintain_timeseries_tables(); DROP TABLE raw.n_then")
    refresh_everything(db)
    maintained(db, dt.datetime.now(dt.UTC))
    told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
    assert ("of 1970" in str(told)) == (later < 3)
    is_gone = db.execute("SELECT to_regclass('raw.n_old') IS NULL").fetchone()
    assert is_gone == (later == 3,)


def test_promise_g_sealed_rows_tell_nothing_of_the_unit_of_a_table_made_anew(
    db: psycopg.Connection,
) -> None:
    """Its times are in another unit; the rollup still has what the one before held."""
    now = int(dt.datetime.now(dt.UTC).timestamp())
    table = "CREATE TABLE raw.n (t bigint, dev text, v integer) PARTITION BY RANGE (t)"
    part = "CREATE TABLE raw.n_%s PARTITION OF raw.n FOR VALUES FROM (%s) TO (%s)"
    db.execute(table)
    for day in range(60):
        first = (now // DAY - day) * DAY * 1000
        db.execute((part % (day, first, first + DAY * 1000)).encode())
    rows = "INSERT INTO raw.n SELECT (%s - i * 3600::bigint) * %s, 'd', i"
    db.execute(f"{rows} FROM generate_series(0, 1400) AS i".encode(), [now, 1000])
    roll_up(db, "ms")
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.n', '20 days')")
    for _ in range(3):
        maintained(db, dt.datetime.now(dt.UTC))
    db.execute("DROP TABLE raw.n")
    db.execute(table)
    db.execute("GRANT SELECT ON raw.n TO tsrollup_owner")
    db.execute((part % ("new", now // DAY * DAY - DAY, now // DAY * DAY + DAY)).encode())
    db.execute(f"{rows} FROM generate_series(0, 20) AS i".encode(), [now, 1])
    refresh_everything(db)
    told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
    assert "t of raw.n, which rollups read as ms, is of 1970 in rows that are to go" in str(told)
    for _ in range(3):
        maintained(db, dt.datetime.now(dt.UTC))
    assert db.execute("SELECT count(*) FROM raw.n").fetchone() == (21,)


NUMBERS_OF_NOW: dict[str, tuple[str, Callable[[int], int]]] = {
    "minutes": ("s", lambda now: now // 60),
    "days": ("s", lambda now: now // DAY),
    "yyyymmdd": ("ms", lambda now: int(f"{dt.datetime.fromtimestamp(now, dt.UTC):%Y%m%d}")),
    "hundredths": ("ms", lambda now: now * 100),
    "100 ns": ("ns", lambda now: now * 10**7),
}


@pytest.mark.parametrize("kind", NUMBERS_OF_NOW)
def test_promise_g_nothing_goes_where_all_is_of_1970_in_any_unit(
    db: psycopg.Connection, kind: str
) -> None:
    unit, number = NUMBERS_OF_NOW[kind]
    now = int(dt.datetime.now(dt.UTC).timestamp())
    db.execute("CREATE TABLE raw.n (t bigint, dev text, v integer) PARTITION BY RANGE (t)")
    first, last = number(now - 3 * DAY), number(now) + 1
    db.execute(f"CREATE TABLE raw.n_1 PARTITION OF raw.n FOR VALUES FROM ({first}) TO ({last})")
    for hours in range(72):
        db.execute("INSERT INTO raw.n VALUES (%s, 'd', 1)", [number(now - hours * 3600)])
    roll_up(db, unit)
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.n', '20 days')")
    for _ in range(3):
        told = maintained(db, dt.datetime.now(dt.UTC))
        assert f"t of raw.n, which rollups read as {unit}, is of 1970" in str(told)
    assert db.execute("SELECT count(*) FROM raw.n").fetchone() == (72,)


@pytest.mark.parametrize("start", ["MINVALUE", "0", "1970"])
@pytest.mark.parametrize("days", [29, 31])
def test_promise_g_rows_of_now_in_a_coarser_unit_stay_as_long_as_others(
    db: psycopg.Connection, days: int, start: str
) -> None:
    """Somebody writes milliseconds into a table of microseconds."""
    now = int(dt.datetime.now(dt.UTC).timestamp())
    db.execute("CREATE TABLE raw.n (t bigint, dev text, v integer) PARTITION BY RANGE (t)")
    middle = (now - 31 * DAY) * 10**6
    of_1970 = f"({(now - 40 * DAY) * 1000}) TO ({(now + DAY) * 1000})"
    for name, ends in (
        ("old", of_1970 if start == "1970" else f"({start}) TO ({middle})"),
        ("new", f"({middle}) TO ({(now + DAY) * 10**6})"),
    ):
        db.execute(f"CREATE TABLE raw.n_{name} PARTITION OF raw.n FOR VALUES FROM {ends}".encode())
    rows = "INSERT INTO raw.n SELECT (%s - i * 3600::bigint) * %s, 'd', i"
    db.execute(f"{rows} FROM generate_series(0, 400) AS i".encode(), [now, 10**6])
    db.execute(f"{rows} FROM generate_series(0, 20) AS i".encode(), [now - days * DAY, 10**3])
    roll_up(db, "us")
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.n', '30 days')")
    told = [maintained(db, dt.datetime.now(dt.UTC)) for _ in range(3)]
    assert ("t of raw.n, which rollups read as us, is of 1970" in str(told)) == (days < 30)
    left = db.execute("SELECT count(*) FROM raw.n").fetchone()
    assert left == (401 + (21 if days < 30 else 0),)


def test_promise_g_a_rollup_of_one_partition_says_no_unit_of_the_others(
    db: psycopg.Connection,
) -> None:
    now = int(dt.datetime.now(dt.UTC).timestamp())
    db.execute("CREATE TABLE raw.l (dev text, t bigint, v integer) PARTITION BY LIST (dev)")
    for part in "ab":
        db.execute(
            f"CREATE TABLE raw.l_{part} PARTITION OF raw.l FOR VALUES IN ('{part}')"
            " PARTITION BY RANGE (t)".encode()
        )
    made = "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', 't', time_unit => %s)"
    db.execute(made, ["raw.l", "wrong", "ms"])
    for part in "ab":
        db.execute("SELECT silver.partition_source(%s, '1 day')", [f"raw.l_{part}"])
    db.execute(
        "INSERT INTO raw.l SELECT dev, %s - i * 3600::bigint, i"
        " FROM generate_series(1, 100) AS i, unnest('{a,b}'::text[]) AS dev",
        [now],
    )
    maintain = "SELECT action, detail FROM silver.maintain_timeseries_tables()"
    refresh_everything(db)
    db.execute(maintain)
    db.execute("SELECT silver.set_retention('raw.l', '6 days')")
    db.execute("SELECT silver.drop_rollup('wrong')")
    db.execute(made, ["raw.l_a", "right_a", "s"])
    for _ in range(3):
        refresh_everything(db)
        told: dict[str, str] = dict(db.execute(maintain).fetchall())
        assert "dropped" not in told
        assert "no rollup says in which unit t of raw.l_b counts" in told["skipped"]
    assert db.execute("SELECT count(*) FROM raw.l").fetchone() == (200,)
    db.execute(made, ["raw.l_b", "right_b", "s"])
    refresh_everything(db)
    assert "skipped" not in dict(db.execute(maintain).fetchall())
    assert db.execute("SELECT count(*) FROM raw.l").fetchone() == (200,)


def test_the_column_may_be_renamed(db: psycopg.Connection) -> None:
    create(db, "bigint", "us", parts=True)
    roll_up(db, "us")
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.n', '100 years')")
    db.execute('ALTER TABLE raw.n RENAME t TO "when %s"')
    # Retention follows by itself.
    done = db.execute("SELECT action FROM silver.maintain_timeseries_tables()").fetchall()
    assert ("skipped",) not in done
    refresh_everything(db)
    db.execute("UPDATE raw.n SET v = v + 1")
    refresh_everything(db)
    assert_settled(db, *LEVELS)


@pytest.mark.parametrize("kind", ["bigint", "numeric"])
def test_integers_that_run_out_may_be_widened(db: psycopg.Connection, kind: str) -> None:
    create(db, "integer", "s", parts=False)
    roll_up(db, "s")
    refresh_everything(db)
    db.execute(f"ALTER TABLE raw.n ALTER t TYPE {kind}".encode())
    assert_equal_to_group_by(db, *LEVELS)
    db.execute("INSERT INTO raw.n VALUES (4102444800.0, 'd', 1)")
    refresh_everything(db)
    assert_settled(db, *LEVELS)
    db.execute("UPDATE raw.n SET v = v + 1 WHERE t > 4000000000")
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    assert_settled(db, *LEVELS)
    assert db.execute(
        "SELECT bool_and(is_valid) FROM silver.validate_rollup_config()"
    ).fetchone() == (True,)


TIMES = st.one_of(
    st.integers(-(10**9), 3 * 10**9),
    st.sampled_from([0, -1, 1, -62135596800, 253402300799, START, START - 1]),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([("bigint", u) for u in UNITS] + [("numeric", u) for u in UNITS]),
    st.lists(st.tuples(TIMES, st.integers(-1001, 1001)), min_size=1, max_size=12),
    st.sampled_from(["1 second", "1 hour", "7 days", "3 months"]),
)
def test_any_number_is_in_its_bucket(
    connect: Connect, how: tuple[str, str], numbers: list[tuple[int, int]], width: str
) -> None:
    kind, unit = how
    numbers = [(s, rest) for s, rest in numbers if unit != "ns" or abs(s) < 9 * 10**9] or [(0, -1)]
    with connect() as db:
        create(db, kind, unit, parts=False)
        db.execute("TRUNCATE raw.n")
        try:
            db.execute(
                "SELECT silver.create_rollup_table('raw.n', 'silver', 'n_1', %s,"
                " dimensions => '{dev}', metrics => '{\"v\": [\"sum\"]}', time_column => 't',"
                " time_unit => %s)",
                [width, unit],
            )
            refresh_everything(db)
            for s, rest in numbers:
                part = rest / 7 if kind == "numeric" else 0
                db.execute(
                    "INSERT INTO raw.n VALUES (%s::numeric + %s::numeric, 'd', 1)",
                    [s * UNITS[unit] + rest, part],
                )
            assert_equal_to_group_by(db, "n_1")
            refresh_everything(db)
            assert_settled(db, "n_1")
        finally:
            db.execute("SELECT silver.drop_rollup(target_table::text) FROM silver.rollup_config")
            db.execute("DROP TABLE raw.n")
