"""Metrics that are dropped from rollups that live on: what is left stays exact, and nothing of what
people have made of the live view is lost."""

from typing import Any

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from scenes import scene


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    """Three levels, settled; the third reads fewer metrics."""
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, device text, v integer, w float8)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => 7 * i),"
        " 'd' || i % 3, i, i / 3.0 FROM generate_series(0, 499) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', 'ts', '{device}',"
        """ '{"v": ["avg", "max", "last"], "w": ["avg", "min", "first"]}')"""
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    db.execute(
        "SELECT silver.create_rollup_table('t_1d', 'silver', 't_1w', '7 days',"
        """ metrics => '{"v": ["sum"]}')"""
    )
    refresh_everything(db)
    return db


def drop(connection: psycopg.Connection[Any], target: str, metrics: str) -> None:
    connection.execute("SELECT silver.drop_rollup_metric(%s, %s)", [target, metrics])


def columns(connection: psycopg.Connection[Any], relation: str) -> list[str]:
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        " AND NOT attisdropped ORDER BY attnum",
        [relation],
    ).fetchall()
    return [name for (name,) in rows]


def unwell(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT target, problem, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()


def stale(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT from_time FROM rollup_engine.stale_range UNION ALL"
        " SELECT from_time FROM rollup_engine.change_log"
    ).fetchall()


def test_promise_d_states_that_others_need_stay_and_nothing_is_computed_anew(
    rolled_up: psycopg.Connection,
) -> None:
    drop(rolled_up, "t_1w", '{"v": "sum"}')
    assert columns(rolled_up, "gold.t_1w") == ["bucket", "device", "row_count"]
    assert columns(rolled_up, "silver.t_1w") == ["bucket", "device", "row_count"]
    drop(rolled_up, "gold.t_1d", '{"v": ["max"], "w": ["avg", "first"]}')
    assert columns(rolled_up, "gold.t_1d") == [
        *("bucket", "device", "row_count", "row_first_time", "row_last_time"),
        *("v_count", "v_sum", "v_last", "w_min", "v_avg"),
    ]
    drop(rolled_up, "t_1d", '{"v": "last"}')
    drop(rolled_up, "silver.t_1h", '{"v": ["last"], "w": ["first"]}')
    expected = ["bucket", "device", "row_count", "v_count", "v_sum", "v_max", "w_count", "w_sum"]
    assert columns(rolled_up, "silver.t_1h") == [*expected, "w_min"]
    assert not stale(rolled_up)
    refresh_everything(rolled_up)
    assert not unwell(rolled_up)
    assert_settled(rolled_up, "t_1h", "t_1d", "t_1w")
    rolled_up.execute("UPDATE raw.t SET v = v + 1, w = w + 1 WHERE v % 5 = 0")
    assert_equal_to_group_by(rolled_up, "t_1h", "t_1d", "t_1w")
    refresh_everything(rolled_up)
    rolled_up.execute("INSERT INTO raw.t SELECT ts + interval '1 year', device, v, w FROM raw.t")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, "t_1h", "t_1d", "t_1w")
    assert rolled_up.execute("SELECT rollup_engine.outdated_texts()").fetchall() == []


def test_what_was_dropped_can_be_added_again(rolled_up: psycopg.Connection) -> None:
    drop(rolled_up, "t_1w", '{"v": ["sum"]}')
    drop(rolled_up, "t_1d", '{"v": ["avg", "max", "last"], "w": ["avg", "min", "first"]}')
    drop(rolled_up, "t_1h", '{"v": ["avg", "max", "last"], "w": ["avg", "min", "first"]}')
    assert columns(rolled_up, "gold.t_1h") == ["bucket", "device", "row_count"]
    assert_settled(rolled_up, "t_1h", "t_1d", "t_1w")
    for target in ("t_1h", "t_1d"):
        rolled_up.execute(
            'SELECT silver.add_rollup_metric(%s, \'{"w": ["first", "avg"]}\')', [target]
        )
        assert_equal_to_group_by(rolled_up, "t_1h", "t_1d", "t_1w")
        assert rolled_up.execute("SELECT rollup_engine.outdated_texts()").fetchall() == []
    refresh_everything(rolled_up)
    assert_settled(rolled_up, "t_1h", "t_1d", "t_1w")
    assert not unwell(rolled_up)


def test_the_live_view_is_as_people_have_made_it(rolled_up: psycopg.Connection) -> None:
    for statement in (
        "ALTER VIEW gold.t_1h RENAME COLUMN v_sum TO v_max_old",
        'ALTER VIEW gold.t_1h RENAME COLUMN w_min TO "Lowest, of all"',
        "ALTER VIEW gold.t_1h SET (security_barrier = true)",
        "COMMENT ON VIEW gold.t_1h IS 'mine'",
        "COMMENT ON COLUMN gold.t_1h.v_max IS 'gone'",
        "COMMENT ON COLUMN gold.t_1h.\"Lowest, of all\" IS 'kept'",
        "GRANT SELECT ON gold.t_1h TO tsrollup_writer",
        "GRANT SELECT (v_max, w_avg) ON gold.t_1h TO tsrollup_writer",
        "REVOKE SELECT ON gold.t_1h FROM tsrollup_reader",
    ):
        rolled_up.execute(statement.encode())
    made = (
        "SELECT relowner, reloptions, obj_description(oid, 'pg_class'),"
        " ARRAY(SELECT unnest(relacl)::text ORDER BY 1), ARRAY("
        "  SELECT ROW(attname, col_description(oid, attnum), attacl)::text FROM pg_attribute"
        "  WHERE attrelid = oid AND attnum > 0 AND attname <> 'v_max' ORDER BY attnum)"
        " FROM pg_class WHERE oid = 'gold.t_1h'::regclass"
    )
    before = rolled_up.execute(made.encode()).fetchone()
    drop(rolled_up, "t_1w", '{"v": ["sum"]}')
    drop(rolled_up, "t_1d", '{"v": ["max"]}')
    drop(rolled_up, "t_1h", '{"v": ["max"]}')
    assert rolled_up.execute(made.encode()).fetchone() == before
    same = rolled_up.execute(
        'SELECT bool_and(g.v_max_old = s.v_sum AND g."Lowest, of all" = s.w_min)'
        " FROM gold.t_1h AS g JOIN silver.t_1h AS s USING (bucket, device)"
    ).fetchone()
    assert same == (True,)
    assert rolled_up.execute("SELECT rollup_engine.outdated_texts()").fetchall() == []


@pytest.mark.parametrize(
    ("before", "target", "metrics", "message", "hint"),
    [
        (
            "",
            "t_1h",
            '{"v": ["max"]}',
            r"silver\.t_1d reads v_max of silver\.t_1h",
            "'silver.t_1d'",
        ),
        (
            "",
            "t_1d",
            '{"v": ["avg"]}',
            r"silver\.t_1w reads v_sum of silver\.t_1d",
            "'silver.t_1w'",
        ),
        ("", "t_1h", "{}", r"metrics is \{\}", "write an object"),
        ("", "t_1h", "[]", r"metrics is \[\]", "write an object"),
        ("", "t_1h", "null", "metrics is null", "write an object"),
        ("", "t_1h", '{"x": ["max"]}', "no metrics of x", '"v"'),
        ("", "t_1h", '{"v": ["p95"]}', 'no metric "p95" of v', '"last"'),
        ("", "t_1h", '{"v": [null]}', "no metric null of v", '"last"'),
        ("", "t_1h", '{"v": []}', r"no metric \[\] of v", '"last"'),
        ("", "t_1g", '{"v": ["max"]}', "there is no rollup", "did you mean"),
        (
            "CREATE VIEW public.mine AS SELECT bucket FROM gold.t_1w",
            "t_1w",
            '{"v": ["sum"]}',
            r"silver\.t_1w loses columns, and (public\.)?mine rests on it",
            "drop what rests on it, drop the metrics, and create that again",
        ),
        (
            "CREATE FUNCTION public.f(gold.t_1w) RETURNS bigint LANGUAGE sql AS 'SELECT $1.v_sum'",
            "t_1w",
            '{"v": ["sum"]}',
            r"metrics of silver\.t_1w cannot be dropped: function .*f\(gold\.t_1w\)",
            "drop what rests on it",
        ),
        (
            "CREATE VIEW public.mine AS SELECT v_sum FROM silver.t_1w",
            "t_1w",
            '{"v": ["sum"]}',
            "mine rests on it",
            "drop what rests on it",
        ),
    ],
)
def test_what_is_refused_leaves_everything_as_it_was(
    rolled_up: psycopg.Connection, before: str, target: str, metrics: str, message: str, hint: str
) -> None:
    if before:
        rolled_up.execute(before.encode())
    everything = (
        b"SELECT (SELECT array_agg(r::text ORDER BY r::text) FROM silver.rollup_config AS r),"
        b" (SELECT array_agg(c::text ORDER BY c::text) FROM rollup_engine.rollup_column AS c)"
    )
    was = rolled_up.execute(everything).fetchone()
    with pytest.raises(psycopg.Error, match=message) as raised:
        drop(rolled_up, target, metrics)
    assert (raised.value.sqlstate or "").startswith("TR")
    assert hint in (raised.value.diag.message_hint or "")
    assert rolled_up.execute(everything).fetchone() == was
    assert_settled(rolled_up, "t_1h", "t_1d", "t_1w")


def test_a_dropped_column_takes_only_its_metrics_along(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 'other', '1 hour', 'ts', '{}',"
        """ '{"v": ["sum"]}')"""
    )
    refresh_everything(rolled_up)
    rolled_up.execute("ALTER TABLE raw.t DROP COLUMN w")
    rolled_up.execute("UPDATE raw.t SET v = v + 1 WHERE v % 11 = 0")
    assert any("column w of raw.t" in problem for _, problem, _ in unwell(rolled_up))
    rolled_up.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert any("drop_rollup_metric" in hint for _, _, hint in unwell(rolled_up))
    drop(rolled_up, "t_1d", '{"w": ["avg", "min", "first"]}')
    drop(rolled_up, "t_1h", '{"w": ["avg", "min", "first"]}')
    assert not unwell(rolled_up)
    assert_equal_to_group_by(rolled_up, "t_1h", "t_1d", "t_1w", "other")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, "t_1h", "t_1d", "t_1w", "other")
    rolled_up.execute("UPDATE raw.t SET v = v + 1 WHERE v % 5 = 0")
    assert_equal_to_group_by(rolled_up, "t_1h", "t_1d", "t_1w", "other")


def test_a_column_that_nobody_reads_any_more_may_go(rolled_up: psycopg.Connection) -> None:
    """Also when a rollup was dropped that read it; and nothing is computed anew for it."""
    rolled_up.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 'other', '1 hour', 'ts', '{}',"
        """ '{"v": ["sum"], "device": "last"}')"""
    )
    refresh_everything(rolled_up)
    drop(rolled_up, "other", '{"v": ["sum"]}')
    for target in ("t_1w", "t_1d", "t_1h"):
        rolled_up.execute("SELECT silver.drop_rollup(%s)", [target])
    refresh_everything(rolled_up)
    rolled_up.execute("ALTER TABLE raw.t ALTER v TYPE numeric, DROP COLUMN w")
    assert not unwell(rolled_up)
    rolled_up.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert_settled(rolled_up, "other")
    used = rolled_up.execute("SELECT column_name FROM rollup_engine.source_column ORDER BY 1")
    assert [name for (name,) in used] == ["device", "ts"]


def test_sealed_buckets_keep_the_rest(rolled_up: psycopg.Connection) -> None:
    """A child that lost its parent's past, and metrics whose view is gone."""
    drop(rolled_up, "t_1w", '{"v": ["sum"]}')
    kept = "SELECT array_agg(w_sum ORDER BY bucket, device) FROM silver.t_1d"
    before = rolled_up.execute(kept.encode()).fetchone()
    rolled_up.execute("DROP VIEW gold.t_1d")
    drop(rolled_up, "silver.t_1d", '{"v": ["max"]}')
    assert rolled_up.execute(kept.encode()).fetchone() == before
    assert "v_max" not in columns(rolled_up, "gold.t_1d")
    assert_settled(rolled_up, "t_1h", "t_1d", "t_1w")


def test_columns_that_are_gone_together_go_together(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.g (ts timestamptz NOT NULL, a integer, b real, c integer)")
    db.execute(
        "INSERT INTO raw.g SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => 7 * i),"
        " i, i, i FROM generate_series(0, 99) AS i"
    )
    db.execute("SELECT silver.create_rollup_table('raw.g', 'silver', 'g_1h', '1 hour')")
    refresh_everything(db)
    db.execute("ALTER TABLE raw.g DROP COLUMN b, DROP COLUMN c")
    of_c = '{"c": ["count", "sum", "min", "max", "avg"]}'
    left = r"left with metrics of b that raw\.g does not allow"
    with pytest.raises(psycopg.Error, match=left) as e:
        drop(db, "g_1h", of_c)
    db.execute((e.value.diag.message_hint or "").partition("call: ")[2].encode())
    assert not unwell(db)
    assert_equal_to_group_by(db, "g_1h")
    assert columns(db, "silver.g_1h")[1:] == ["row_count", "a_count", "a_sum", "a_min", "a_max"]
    refresh_everything(db)
    assert_settled(db, "g_1h")


def test_expressions_come_and_go_with_metrics(db: psycopg.Connection) -> None:
    """Also those over a column that is gone; an expression that a dimension is stays."""
    db.execute("CREATE TABLE raw.e (ts timestamptz NOT NULL, host text, status integer, w integer)")
    db.execute(
        "INSERT INTO raw.e SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => 7 * i),"
        " 'h' || i % 3, 200 + i % 7 * 50, i FROM generate_series(0, 299) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.e', 'silver', 'e_1h', '1 hour', 'ts', '{upper}',"
        """ '{"status": "max"}', expressions => '{"upper": "upper(host)", "half": "w / 2"}')"""
    )
    db.execute("SELECT silver.create_rollup_table('e_1h', 'silver', 'e_1d', '1 day')")
    refresh_everything(db)
    expressions = '{"failed": "CASE WHEN status >= 500 THEN w END", "upper": "upper(host)"}'
    metrics = '{"failed": ["sum", "count"], "w": ["sum"]}'
    for target, given in (("e_1h", expressions), ("e_1d", None)):
        db.execute("SELECT silver.add_rollup_metric(%s, %s, %s)", [target, metrics, given])
        assert_equal_to_group_by(db, "e_1h", "e_1d")
    refresh_everything(db)
    assert_settled(db, "e_1h", "e_1d")
    db.execute("UPDATE raw.e SET w = w + 1 WHERE w % 5 = 0")
    assert_equal_to_group_by(db, "e_1h", "e_1d")
    refresh_everything(db)
    db.execute("ALTER TABLE raw.e DROP COLUMN w")
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert unwell(db)
    drop(db, "e_1d", metrics)
    drop(db, "e_1h", metrics)
    assert unwell(db)  # for what nothing is made of
    drop(db, "e_1h", '{"half": []}')
    kept = db.execute("SELECT expressions FROM silver.rollup_config ORDER BY id").fetchone()
    assert kept == ({"upper": "upper(host)"},)
    assert not unwell(db)
    assert_equal_to_group_by(db, "e_1h", "e_1d")
    refresh_everything(db)
    assert_settled(db, "e_1h", "e_1d")


@pytest.mark.parametrize(
    ("metrics", "expressions", "message"),
    [
        ('{"half": "sum"}', "[]", "expressions is a JSON array"),
        ('{"half": "sum"}', '{"half": "v / 2", "other": "v"}', "expression other is in none"),
        ('{"half": "sum"}', '{"half": "random()"}', "expression half: "),
        ('{"half": "sum"}', '{"half": "(SELECT 1)"}', "expression half: "),
        ('{"half": "sum"}', '{"half": "v / 0 ; DROP TABLE raw.t"}', "expression half: "),
        ('{"v": "sum"}', '{"v": "v / 2"}', "expression v: raw.t has a column of that name"),
        ('{"half": "sum"}', None, "'half' is not a column"),
    ],
)
def test_what_cannot_be_added_is_one_clear_line(
    rolled_up: psycopg.Connection, metrics: str, expressions: str | None, message: str
) -> None:
    with pytest.raises(psycopg.Error, match=message) as raised:
        rolled_up.execute("SELECT silver.add_rollup_metric('t_1h', %s, %s)", [metrics, expressions])
    assert (raised.value.sqlstate or "").startswith("TR")
    assert raised.value.diag.message_hint
    rolled_up.execute(
        'SELECT silver.add_rollup_metric(\'t_1h\', \'{"half": "sum"}\', \'{"half": "v / 2"}\')'
    )
    with pytest.raises(psycopg.Error, match=r"expression half of silver\.t_1h is another one"):
        rolled_up.execute(
            'SELECT silver.add_rollup_metric(\'t_1h\', \'{"half": "max"}\', \'{"half": "v"}\')'
        )
    with pytest.raises(psycopg.Error, match="cannot be changed in silver"):
        rolled_up.execute('UPDATE silver.rollup_config SET expressions = \'{"v": "v + 1"}\'')
    assert_equal_to_group_by(rolled_up, "t_1h")


def test_a_child_of_a_rollup_whose_column_is_gone(db: psycopg.Connection) -> None:
    """Where an index leads to single groups, which are read by functions of the columns."""
    db.execute("CREATE TABLE raw.k (ts timestamptz, device integer, v integer, w integer)")
    db.execute("CREATE INDEX ON raw.k (device, ts)")
    db.execute("INSERT INTO raw.k SELECT now() - n * interval '1 min', n % 3, n, n"
        " FROM generate_series(1, 100) AS n")  # fmt: skip
    create = (
        "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval, NULL, '{device}',"
        ' \'{"v": ["sum"], "w": ["sum"]}\')'
    )
    db.execute(create, ["raw.k", "k_1m", "1 minute"])
    db.execute("ALTER TABLE raw.k DROP COLUMN v")
    db.execute(create, ["k_1m", "k_1h", "1 hour"])
    for name in ("k_1h", "k_1m"):
        db.execute("SELECT silver.drop_rollup_metric(%s, %s)", [name, '{"v": ["sum"]}'])
    assert_equal_to_group_by(db, "k_1m", "k_1h")
    refresh_everything(db)
    assert_settled(db, "k_1m", "k_1h")
