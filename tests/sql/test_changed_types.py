"""Types of a source that become others: gold is exact or says why not; a rebuild mends the rest."""

import psycopg
import pytest

from daily_table import RESET, ROLLUPS, roll_up
from retained_days import maintain
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from scenes import scene
from validation import healths, problems


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    return roll_up(db)


TYPED = """
    CREATE SCHEMA types;
    GRANT USAGE ON SCHEMA types TO tsrollup_owner;
    CREATE TYPE types.mood AS ENUM ('sad', 'glad');
    CREATE DOMAIN types.level AS integer;
    CREATE TYPE types.inner AS (x integer, y integer);
    CREATE TYPE types.outer AS (i types.inner[], z types.mood);
    CREATE TABLE raw.t (
        ts timestamptz, mood types.mood, deep types.outer, inner_one types.inner, a types.level);
    INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + make_interval(mins => 11 * i),
        CASE i % 2 WHEN 0 THEN 'sad' ELSE 'glad' END::types.mood,
        (ARRAY[(i % 3, i % 2)]::types.inner[], 'sad')::types.outer, (i % 7, i % 5)::types.inner, i
    FROM generate_series(0, 200) AS i;
"""


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ("ALTER TYPE types.mood RENAME TO feeling", "types.feeling"),
        ("ALTER DOMAIN types.level RENAME TO height", "types.mood"),
        ("ALTER TYPE types.mood SET SCHEMA public", "public.mood"),
        ("ALTER SCHEMA types RENAME TO kinds", "kinds.mood"),
        ("ALTER TYPE types.inner DROP ATTRIBUTE y", "types.mood"),
    ],
)
def test_promise_b_types_that_are_renamed_or_lose_a_part(
    db: psycopg.Connection, change: str, moved: str
) -> None:
    db.execute(TYPED)
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions =>"
        ' \'{mood, deep, inner_one}\', metrics => \'{"a": ["sum", "first"], "ts": ["max"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    db.execute(change.encode())
    assert healths(db) == {"invalid"}
    refresh_everything(db)
    assert problems(db) == []
    assert_settled(db, *ROLLUPS)
    db.execute(f"UPDATE raw.t SET a = a + 1, mood = 'sad'::{moved} WHERE a % 5 = 0".encode())
    assert_equal_to_group_by(db, *ROLLUPS)
    refresh_everything(db)
    assert healths(db) == {"ok"}
    assert_settled(db, *ROLLUPS)


@pytest.mark.parametrize(
    "change",
    [
        "ADD ATTRIBUTE z integer",
        "DROP ATTRIBUTE y",
        "RENAME ATTRIBUTE y TO w",
        "RENAME ATTRIBUTE x TO w; ALTER TYPE types.inner RENAME ATTRIBUTE y TO x",
    ],
)
def test_promise_b_a_part_that_an_expression_reads(db: psycopg.Connection, change: str) -> None:
    db.execute(TYPED)
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " dimensions => '{room}', metrics => '{\"twice\": [\"sum\"]}',"
        ' expressions => \'{"room": "(inner_one).x", "twice": "2 * (inner_one).x"}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    db.execute(f"ALTER TYPE types.inner {change}".encode())
    refresh_everything(db)
    assert problems(db) == []
    assert_settled(db, *ROLLUPS)
    db.execute("UPDATE raw.t SET a = a + 1, ts = ts + interval '1 hour' WHERE a % 5 = 0")
    assert_equal_to_group_by(db, *ROLLUPS)
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)


def test_promise_f_sealed_keys_that_become_equal(db: psycopg.Connection) -> None:
    """They are added up, and indexes, whose order they had, find all of them."""
    db.execute(TYPED)
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions =>"
        ' \'{deep, inner_one}\', metrics => \'{"a": ["avg", "first", "last", "max"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    db.execute("ALTER TYPE types.inner DROP ATTRIBUTE y")
    refresh_everything(db)
    assert problems(db) == []
    force_configuration(db, "sealed_before = NULL")
    assert_settled(db, *ROLLUPS)
    db.execute("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off")
    for table in ROLLUPS:
        assert db.execute(
            f"SELECT count(*) - (SELECT count(*) FROM silver.{table}) FROM silver.{table} AS s"
            f" JOIN silver.{table} AS t USING (bucket, deep, inner_one)".encode()
        ).fetchall() == [(0,)]


def test_types_that_widen(rolled_up: psycopg.Connection) -> None:
    """Gold stays readable; where the table cannot hold what may come, rebuild_rollup mends it,
    and sealed rows are kept."""
    rolled_up.execute("CREATE VIEW public.report AS SELECT * FROM gold.t_1h")
    rolled_up.execute("GRANT SELECT ON gold.t_1h TO PUBLIC")
    force_configuration(rolled_up, "sealed_before = '2026-03-02 00:00+00'")
    sealed = (
        "SELECT bucket, device, b_sum::numeric FROM gold.t_1h"
        " WHERE bucket < '2026-03-02 00:00+00' ORDER BY 1, 2"
    )
    kept = rolled_up.execute(sealed.encode()).fetchall()
    rolled_up.execute("ALTER TABLE raw.t ALTER b TYPE bigint, ALTER device TYPE varchar(20)")
    assert healths(rolled_up) == {"invalid"}
    assert_equal_to_group_by(rolled_up, *ROLLUPS)
    rolled_up.execute("UPDATE raw.t SET b = b + 1")
    assert_equal_to_group_by(rolled_up, *ROLLUPS)
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)

    rolled_up.execute("UPDATE raw.t SET b = b + 9000000000000000000 WHERE a % 90 = 0")
    hints = {hint for _, _, hint in problems(rolled_up)}
    assert hints == {"SELECT silver.rebuild_rollup('silver.t_1h')"}
    with pytest.raises(psycopg.Error, match=r"public\.report|report reads it"):
        rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    rolled_up.execute("DROP VIEW public.report")
    rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    rolled_up.execute(RESET)
    assert_equal_to_group_by(rolled_up, *ROLLUPS)
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)
    assert problems(rolled_up) == []
    assert rolled_up.execute(sealed.encode()).fetchall() == kept
    row = rolled_up.execute(
        "SELECT has_table_privilege('tsrollup_writer', 'gold.t_1h', 'SELECT')"
    ).fetchone()
    assert row == (True,)


def test_a_type_that_loses_digits_is_refused_until_the_rollup_is_rebuilt(
    rolled_up: psycopg.Connection,
) -> None:
    rolled_up.execute("ALTER TABLE raw.t ALTER b TYPE numeric(20, 4) USING b + 0.25")
    assert healths(rolled_up) == {"invalid"}
    rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    with pytest.raises(psycopg.Error, match="stores b_sum as bigint"):
        rolled_up.execute("SELECT * FROM gold.t_1d")
    rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)
    rolled_up.execute("ALTER TABLE raw.t ALTER b TYPE numeric(25, 8)")
    rolled_up.execute("UPDATE raw.t SET b = b + 0.00000001")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *ROLLUPS)
    assert problems(rolled_up) == []


def test_a_rebuild_where_stored_values_fit_no_new_type(db: psycopg.Connection) -> None:
    """What is computed anew need not fit; what is sealed is named."""
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, device text, v numeric)")
    db.execute(
        "INSERT INTO raw.t"
        " SELECT timestamptz '2026-03-01 12:00+00' + make_interval(hours => 6 * i),"
        " ('{A,\"A \"}'::text[])[1 + i % 2], CASE i WHEN 3 THEN numeric 'NaN' ELSE i END"
        " FROM generate_series(0, 7) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 day',"
        " dimensions => '{device}', metrics => '{\"v\": [\"max\"]}')"
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '7 days')")
    refresh_everything(db)
    db.execute("UPDATE raw.t SET v = 3 WHERE v = 'NaN'")
    db.execute("ALTER TABLE raw.t ALTER device TYPE char(5), ALTER v TYPE integer")
    force_configuration(db, "sealed_before = '2026-03-03 00:00+00'")
    for _ in range(2):
        with pytest.raises(psycopg.Error, match=r"silver\.t_1h cannot be rebuilt: ") as raised:
            db.execute("SELECT silver.rebuild_rollup('t_1h')")
        assert raised.value.sqlstate == "TR004"
    force_configuration(db, "sealed_before = NULL")
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert_equal_to_group_by(db, *ROLLUPS)
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)
    assert problems(db) == []


def test_a_rebuild_where_sealed_modes_fit_no_new_type(db: psycopg.Connection) -> None:
    """Counts of values are texts as before; a mode is of the column's type."""
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, v text)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 12:00+00' + i * interval '6 h',"
        " CASE WHEN i < 2 THEN 'old' ELSE 'new' END || i % 3 FROM generate_series(0, 7) AS i"
    )
    metrics = '{"v": ["mode", "value_counts"]}'
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 day', metrics => %s)",
        [metrics],
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '7 days')")
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    to_integer = "ALTER TABLE raw.t ALTER v TYPE integer USING right(v, 1)::integer"
    db.execute(to_integer)
    with pytest.raises(psycopg.Error, match=r"t_1h cannot be rebuilt: .*\"old") as raised:
        db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert raised.value.sqlstate == "TR004"
    assert "the type that it had" in (raised.value.diag.message_hint or "")
    db.execute("ALTER TABLE raw.t ALTER v TYPE text USING 'new' || v")
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)
    for rollup in reversed(ROLLUPS):
        db.execute('SELECT silver.drop_rollup_metric(%s, \'{"v": ["mode"]}\')', [rollup])
    db.execute(to_integer)
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)
    rows = db.execute("SELECT v_value_counts FROM gold.t_1h ORDER BY bucket").fetchall()
    assert rows[0] == ({"old0": 1, "old1": 1},)
    assert problems(db) == []


@pytest.mark.parametrize(
    ("before", "after", "values"),
    [
        ("integer", "text", ("1", "2")),
        ("bigint", "varchar", ("1", "2")),
        ("boolean", "integer", ("true", "false")),
        ("uuid", "text", (f"{1:032x}", f"{2:032x}")),
        ("types.mood", "text", ("sad", "glad")),
    ],
)
@pytest.mark.parametrize("index", ["", "CREATE INDEX ON raw.t (device, ts)"], ids=["", "index"])
def test_promise_h_a_dimension_that_its_table_cannot_hold(
    db: psycopg.Connection, before: str, after: str, values: tuple[str, str], index: str
) -> None:
    """Some of what reads by an index is SQL, which takes no other type than the table's."""
    roll_up_devices(db, before, values, index)
    refresh_everything(db)
    db.execute(f"ALTER TABLE raw.t ALTER device TYPE {after} USING device::{after}".encode())
    assert_refused_until_rebuilt(db, "stores device as")


def test_a_type_that_cannot_be_cast_and_how_to_keep_what_is_sealed(
    db: psycopg.Connection,
) -> None:
    roll_up_devices(db, "integer", ("1", "2"), "")
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    db.execute("ALTER TABLE raw.t ALTER device TYPE uuid USING md5(device::text)::uuid")
    db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    for call in ("rebuild_rollup('t_1h')", "drop_rollup('t_1h')"):
        with pytest.raises(psycopg.Error) as raised:
            db.execute(f"SELECT silver.{call}".encode())
        assert "keep_table => true" in (raised.value.diag.message_hint or "")


def roll_up_devices(
    db: psycopg.Connection, device: str, values: tuple[str, str], index: str
) -> None:
    db.execute("CREATE SCHEMA types; GRANT USAGE ON SCHEMA types TO tsrollup_owner")
    db.execute("CREATE TYPE types.mood AS ENUM ('sad', 'glad')")
    db.execute(f"CREATE TABLE raw.t (ts timestamptz, device {device}, n integer); {index}".encode())
    for value in values:
        db.execute(
            "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + i * interval '20 min',"
            f" '{value}', i FROM generate_series(1, 100) AS i".encode()
        )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " dimensions => '{device}', metrics => '{\"n\": [\"sum\"]}')"
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")


def assert_refused_until_rebuilt(db: psycopg.Connection, message: str) -> None:
    assert healths(db) == {"invalid"}
    db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    assert healths(db) == {"invalid"}
    assert {hint for _, _, hint in problems(db)} == {"SELECT silver.rebuild_rollup('silver.t_1h')"}
    for view in ROLLUPS:
        with pytest.raises(psycopg.Error, match=message):
            db.execute(f"SELECT * FROM gold.{view}".encode())
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    db.execute(RESET)
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)
    assert problems(db) == []


def roll_up_dates(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz, d date, n integer)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + i * interval '20 min',"
        " date '2020-01-01' + i % 5, i % 7 FROM generate_series(1, 200) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions => '{}',"
        ' time_column => \'ts\', metrics => \'{"d": ["count", "distinct"], "n": ["distinct"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)


CHANGED_DATES = "ALTER TABLE raw.t ALTER d TYPE timestamp, ALTER n TYPE bigint"


def test_promise_b_distinct_values_of_a_column_with_another_type(db: psycopg.Connection) -> None:
    """They are told apart by their texts, and those are others now."""
    roll_up_dates(db)
    db.execute(CHANGED_DATES)
    refresh_everything(db)
    assert problems(db) == []
    assert_settled(db, *ROLLUPS)


def test_promise_f_distinct_values_of_sealed_rows_that_have_other_texts(
    db: psycopg.Connection,
) -> None:
    roll_up_dates(db)
    force_configuration(
        db,
        "sealed_before = timestamptz '2026-03-02 00:00+00'"
        " + CASE depth WHEN 0 THEN interval '12 hours' ELSE '0' END",
    )
    db.execute(CHANGED_DATES)
    db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    assert healths(db) == {"invalid"}
    assert {hint for _, _, hint in problems(db)} == {"SELECT silver.rebuild_rollup('silver.t_1h')"}
    with pytest.raises(psycopg.Error, match="the texts of another type") as raised:
        db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert "SELECT silver.drop_rollup_metric('silver.t_1h', " in str(raised.value)
    for rollup in ("t_1d", "t_1h"):
        db.execute('SELECT silver.drop_rollup_metric(%s, \'{"d": ["distinct"]}\')', [rollup])
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    for rollup in ("t_1h", "t_1d"):
        db.execute('SELECT silver.add_rollup_metric(%s, \'{"d": ["distinct"]}\')', [rollup])
    db.execute(RESET)
    refresh_everything(db)
    assert problems(db) == []
    days = db.execute("SELECT d_count, d_distinct FROM gold.t_1d ORDER BY bucket").fetchall()
    assert days == [(71, None), (72, None), (57, 5)]


def test_promise_f_a_mode_of_sealed_values_that_have_other_texts(db: psycopg.Connection) -> None:
    """They would count as others than the same values of later rows."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, d date)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + i * interval '6 h',"
        " date '2020-01-01' + i % 2 FROM generate_series(0, 9) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 day', dimensions => '{}',"
        ' time_column => \'ts\', metrics => \'{"d": ["mode", "max"]}\')'
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '7 days')")
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    db.execute("ALTER TABLE raw.t ALTER d TYPE timestamptz")
    with pytest.raises(psycopg.Error, match="have other texts now") as raised:
        db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert "give raw.t the type that it had" in (raised.value.diag.message_hint or "")
    for rollup in ("t_1d", "t_1h"):
        db.execute('SELECT silver.drop_rollup_metric(%s, \'{"d": ["mode"]}\')', [rollup])
    warnings: list[str] = []
    db.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert [each for each in warnings if "sealed values of d_max in silver.t_1h" in each]


def test_promise_g_distinct_values_before_a_window_that_have_other_texts(
    db: psycopg.Connection,
) -> None:
    """They are not computed anew, as sealed ones are not."""
    db.execute("CREATE TABLE raw.t (ts timestamptz, d date)")
    db.execute(
        "INSERT INTO raw.t SELECT now() - i * interval '6 h', date '2020-01-01' + i % 5"
        " FROM generate_series(0, 200) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 day', dimensions => '{}',"
        " time_column => 'ts', metrics => '{\"d\": [\"distinct\"]}',"
        " change_tracking => 'window', look_back_window => '10 days')"
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 year')")
    refresh_everything(db)
    db.execute("ALTER TABLE raw.t ALTER d TYPE timestamp")
    db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    assert healths(db) == {"invalid"}
    with pytest.raises(psycopg.Error, match="the texts of another type"):
        db.execute("SELECT silver.rebuild_rollup('t_1h')")


ROUNDED = "ALTER TABLE raw.t ALTER v TYPE numeric(10,2)"
ADDED = "ALTER TABLE raw.t ADD w numeric(10,2); UPDATE raw.t SET w = v"
OTHER_MOOD = """
    ALTER TYPE public.mood RENAME TO old_mood;
    CREATE TYPE public.mood AS ENUM ('b', 'a');
    ALTER TABLE raw.t ALTER mood TYPE public.mood USING mood::text::public.mood;
    SELECT silver.rebuild_rollup('t_1h');
    DROP TYPE public.old_mood;
"""
FEWER_DIGITS = "v of raw.t was numeric(10,4) and is numeric(10,2) now"


@pytest.mark.parametrize(
    ("tracking", "steps", "told"),
    [
        ("trigger", [ROUNDED], FEWER_DIGITS),
        ("window", [ROUNDED], FEWER_DIGITS),
        ("trigger", [ROUNDED, "ALTER TABLE raw.t ALTER v TYPE numeric(12,3)"], FEWER_DIGITS),
        ("trigger", [f"{ROUNDED}; ALTER TABLE raw.t RENAME v TO x"], "x" + FEWER_DIGITS[1:]),
        (
            "trigger",
            [ADDED, "ALTER TABLE raw.t RENAME v TO old; ALTER TABLE raw.t RENAME w TO v"],
            FEWER_DIGITS,
        ),
        (
            "trigger",
            [ADDED, "ALTER TABLE raw.t RENAME v TO old", "ALTER TABLE raw.t RENAME w TO v"],
            FEWER_DIGITS,
        ),
        (
            "trigger",
            [ADDED, "ALTER TABLE raw.t DROP v", "ALTER TABLE raw.t RENAME w TO v"],
            FEWER_DIGITS,
        ),
        ("trigger", [OTHER_MOOD], "mood of raw.t was public.mood and is another public.mood now"),
        (
            "trigger",
            ['ALTER TABLE raw.t ALTER device TYPE text COLLATE "POSIX"'],
            'device of raw.t was character varying(9) and is text COLLATE "POSIX" now',
        ),
        ("trigger", ["ALTER TABLE raw.t ALTER device TYPE varchar(20)"], None),
        ("trigger", ["ALTER TABLE raw.t ALTER device TYPE text"], None),
        (
            "trigger",
            ["ALTER TABLE raw.t ALTER n TYPE bigint; SELECT silver.rebuild_rollup('t_1h')"],
            None,
        ),
        ("trigger", ["ALTER TABLE raw.t ALTER v TYPE numeric(12,6)"], None),
        ("trigger", ["ALTER TABLE raw.t ALTER v TYPE numeric"], None),
        ("trigger", ["ALTER TYPE public.mood RENAME TO feeling"], None),
        ("trigger", ["ALTER TABLE raw.t RENAME v TO x"], None),
        ("trigger", ["ALTER TABLE raw.t ALTER unread TYPE bigint"], None),
    ],
)
def test_promise_g_sealed_values_of_a_column_that_was_converted(
    db: psycopg.Connection, tracking: str, steps: list[str], told: str | None
) -> None:
    """A type that rounds has sealed values count beside their rounded ones: that is told, once."""
    db.execute("CREATE TYPE public.mood AS ENUM ('a', 'b')")
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, v numeric(10,4), device varchar(9), n integer,"
        " mood public.mood, unread integer) PARTITION BY RANGE (ts)"
    )
    for day in range(1, 12):
        db.execute(
            f"CREATE TABLE raw.t_{day} PARTITION OF raw.t FOR VALUES"
            f" FROM ('2026-03-{day} 00:00+00') TO ('2026-03-{day + 1} 00:00+00')".encode()
        )
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + i * interval '1 h',"
        " i % 5 + 0.1234, 'd' || i % 2, i % 3, (ARRAY['a', 'b'])[1 + i % 2]::public.mood, i"
        " FROM generate_series(0, 239) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions => '{}',"
        ' time_column => \'ts\', metrics => \'{"y": ["distinct"], "device": ["max"],'
        ' "n": ["sum"], "mood": ["max"]}\', expressions => \'{"y": "v * 1"}\','
        " change_tracking => %s, look_back_window => %s)",
        [tracking, "2 days" if tracking == "window" else None],
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 year')")
    refresh_everything(db)
    if tracking == "trigger":
        db.execute("SELECT silver.set_retention('raw.t', '3 days')")
        maintain(db)
    for step in [*steps, "SELECT"]:
        db.execute(step.encode())
        db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    messages = db.execute(
        "SELECT error_message FROM silver.error_log WHERE error_code = 'TR006'"
        " AND error_message LIKE '% though %' ORDER BY target_table = 'silver.t_1d', id"
    ).fetchall()
    assert messages == [
        (
            f"silver.{rollup} rests on sealed values, or such before a window, that stay as they"
            f" were, though {told}",
        )
        for rollup in (ROLLUPS if told else ())
    ]


@pytest.mark.parametrize(
    ("before", "after", "metrics"),
    [
        ("text", "jsonb USING to_jsonb(v)", '["distinct"]'),
        ("text", "jsonb USING to_jsonb(v)", '["mode", "value_counts"]'),
        ("integer", "integer[] USING ARRAY[v]", '["distinct"]'),
        ("integer", "text", '["ohlc"]'),
        ("integer", "text", '["increase", "time_weighted_avg"]'),
    ],
)
def test_promise_h_aggregates_that_do_not_take_the_type_of_now(
    db: psycopg.Connection, before: str, after: str, metrics: str
) -> None:
    db.execute(f"CREATE TABLE raw.t (ts timestamptz, v {before})".encode())
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + i * interval '20 min', i % 7"
        " FROM generate_series(0, 100) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions => '{}',"
        f" metrics => '{{\"v\": {metrics}}}')".encode()
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    db.execute(f"ALTER TABLE raw.t ALTER v TYPE {after}".encode())
    db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    assert healths(db) == {"invalid"}
    assert {hint for _, _, hint in problems(db)} == {"SELECT silver.rebuild_rollup('silver.t_1h')"}
    for view in ROLLUPS:
        with pytest.raises(psycopg.Error, match="and its source has "):
            db.execute(f"SELECT * FROM gold.{view}".encode())
    with pytest.raises(
        psycopg.Error, match=r"metrics of silver\.t_1h are not made of v as "
    ) as raised:
        db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert "SELECT silver.drop_rollup_metric('silver.t_1h', ...)" in str(raised.value)
    for rollup in reversed(ROLLUPS):
        db.execute(f"SELECT silver.drop_rollup_metric('{rollup}', '{{\"v\": {metrics}}}')".encode())
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    db.execute(RESET)
    refresh_everything(db)
    assert problems(db) == []
    assert_settled(db, *ROLLUPS)


@pytest.mark.parametrize(
    ("metrics", "after"),
    [('["sum", "last"]', "text USING u::text"), ('["last"]', "jsonb USING to_jsonb(u)")],
)
def test_promise_g_the_way_out_of_a_new_type_keeps_what_lies_before_a_window(
    db: psycopg.Connection, metrics: str, after: str
) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, u integer)")
    db.execute(
        "INSERT INTO raw.t SELECT now() - i * interval '1 hour', i % 5"
        " FROM generate_series(1, 240) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions => '{}',"
        f" time_column => 'ts', metrics => '{{\"u\": {metrics}}}',"
        " change_tracking => 'window', look_back_window => '1 day')".encode()
    )
    refresh_everything(db)
    db.execute("DELETE FROM raw.t WHERE ts < now() - interval '4 days'")
    db.execute(f"ALTER TABLE raw.t ALTER u TYPE {after}".encode())
    db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    assert healths(db) == {"invalid"}
    hints = [hint for _, _, hint in problems(db)]
    if "rebuild_rollup" in hints[0]:
        with pytest.raises(psycopg.Error) as raised:
            db.execute("SELECT silver.rebuild_rollup('t_1h')")
        hints.append(str(raised.value))
    assert "SELECT silver.drop_rollup_metric('silver.t_1h', ...)" in hints[-1]
    assert "keep_table => true keeps what is stored" in hints[-1]
    db.execute(f"SELECT silver.drop_rollup_metric('t_1h', '{{\"u\": {metrics}}}')".encode())
    refresh_everything(db)
    assert problems(db) == []
    assert db.execute("SELECT sum(row_count) FROM gold.t_1h").fetchone() == (240,)


@pytest.mark.parametrize("sealed", ["NULL", "'2026-03-02 00:00+00'"])
@pytest.mark.parametrize(
    ("dimensions", "metrics"), [("{}", '{"mood": ["first", "min"]}'), ("{mood}", "{}")]
)
def test_promise_h_an_enum_that_a_migration_replaces(
    db: psycopg.Connection, sealed: str, dimensions: str, metrics: str
) -> None:
    """No cast leads from one enum to another; each label is itself in the new one."""
    db.execute("CREATE TYPE public.mood AS ENUM ('sad', 'glad')")
    db.execute("CREATE TABLE raw.t (ts timestamptz, mood public.mood)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + i * interval '20 min',"
        " (ARRAY['sad', 'glad'])[1 + i / 7 % 2]::public.mood FROM generate_series(0, 100) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " time_column => 'ts', dimensions => %s, metrics => %s)",
        [dimensions, metrics],
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    force_configuration(db, f"sealed_before = {sealed}")
    with db.transaction():
        db.execute(
            "ALTER TYPE public.mood RENAME TO old_mood;"
            " CREATE TYPE public.mood AS ENUM ('sad', 'calm', 'glad');"
            " ALTER TABLE raw.t ALTER mood TYPE public.mood USING mood::text::public.mood;"
            " SELECT silver.rebuild_rollup('t_1h'); DROP TYPE public.old_mood"
        )
    refresh_everything(db)
    assert problems(db) == []
    assert_equal_to_group_by(db, *ROLLUPS)


def test_promise_h_an_enum_that_lacks_a_sealed_label(db: psycopg.Connection) -> None:
    db.execute("CREATE TYPE public.mood AS ENUM ('sad', 'glad')")
    db.execute("CREATE TABLE raw.t (ts timestamptz, mood public.mood)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + i * interval '1 hour',"
        " CASE WHEN i < 24 THEN 'sad' ELSE 'glad' END::public.mood FROM generate_series(0, 47) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 day',"
        " dimensions => '{mood}', metrics => '{}')"
    )
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    db.execute("DELETE FROM raw.t WHERE mood = 'sad'")
    db.execute(
        "ALTER TYPE public.mood RENAME TO old_mood; CREATE TYPE public.mood AS ENUM ('glad');"
        "ALTER TABLE raw.t ALTER mood TYPE public.mood USING mood::text::public.mood"
    )
    db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    assert healths(db) == {"invalid"}
    with pytest.raises(psycopg.Error, match=r'mood: "sad"') as raised:
        db.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert "(ALTER TYPE ... ADD VALUE)" in (raised.value.diag.message_hint or "")
    db.execute("ALTER TYPE public.mood ADD VALUE 'sad'")
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    refresh_everything(db)
    assert problems(db) == []
    rows = db.execute("SELECT mood::text, row_count FROM gold.t_1h ORDER BY bucket").fetchall()
    assert rows == [("sad", 24), ("glad", 24)]


def test_promise_h_a_collation_that_another_one_has_the_name_of(db: psycopg.Connection) -> None:
    db.execute("CREATE COLLATION public.ours (locale = 'C')")
    db.execute("CREATE TABLE raw.t (ts timestamptz, u text COLLATE public.ours)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 00:00+00' + i * interval '20 min',"
        " 'u' || i % 7 FROM generate_series(0, 100) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', dimensions => '{}',"
        " time_column => 'ts', metrics => '{\"u\": [\"max\"]}')"
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    db.execute(
        "ALTER COLLATION public.ours RENAME TO old_ours;"
        "CREATE COLLATION public.ours (locale = 'POSIX');"
        "ALTER TABLE raw.t ALTER u TYPE text COLLATE public.ours"
    )
    assert healths(db) == {"invalid"}
    db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    assert healths(db) == {"invalid"}
    assert {hint for _, _, hint in problems(db)} == {"SELECT silver.rebuild_rollup('silver.t_1h')"}
    db.execute("SELECT silver.rebuild_rollup('t_1h')")
    refresh_everything(db)
    assert problems(db) == []
    assert_settled(db, *ROLLUPS)
    db.execute("DROP COLLATION public.old_ours")  # nothing goes by it any more


@pytest.mark.parametrize("kind", ["numeric(10,4)", "double precision", "timestamptz", "text"])
def test_promise_g_a_column_that_is_dropped_beside_sealed_rows(
    db: psycopg.Connection, kind: str
) -> None:
    """It stops what is made of it only, and the way out works."""
    db.execute(f"CREATE TABLE raw.t (ts timestamptz, u {kind}, v integer)".encode())
    db.execute(
        "INSERT INTO raw.t (ts, v)"
        " SELECT timestamptz '2026-03-01 00:00+00' + i * interval '1 hour', i"
        " FROM generate_series(0, 100) AS i"
    )
    for rollup, metrics in (("t_1h", '{"u": ["count"], "v": ["sum"]}'), ("t_1d", '{"v": ["sum"]}')):
        db.execute(
            "SELECT silver.create_rollup_table('raw.t', 'silver', %s, '1 hour',"
            " dimensions => '{}', time_column => 'ts', metrics => %s)",
            [rollup, metrics],
        )
    refresh_everything(db)
    force_configuration(db, "sealed_before = '2026-03-02 00:00+00'")
    db.execute("ALTER TABLE raw.t DROP u")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-04 00:30+00', 1)")
    db.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    codes = db.execute("SELECT DISTINCT error_code FROM silver.error_log").fetchall()
    assert codes == [("42703",)]
    assert_equal_to_group_by(db, "t_1d")
    db.execute("SELECT silver.drop_rollup_metric('t_1h', '{\"u\": [\"count\"]}')")
    refresh_everything(db)
    assert problems(db) == []
    assert_equal_to_group_by(db, *ROLLUPS)
