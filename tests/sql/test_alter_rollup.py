"""Options and names of rollups that live on: checked as at creation, and nothing goes with them."""

from typing import Any

import psycopg
import pytest
from psycopg import sql

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from scenes import scene


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    """Two levels, settled, and a view of a user's on the first."""
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, device text, v integer)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => 7 * i),"
        " 'd' || i % 3, i FROM generate_series(0, 499) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', 'ts', '{device}')"
    )
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    db.execute("CREATE VIEW public.mine AS SELECT bucket, v_avg FROM gold.t_1h")
    refresh_everything(db)
    return db


def configured(connection: psycopg.Connection[Any], columns: str) -> Any:
    row = connection.execute(
        f"SELECT {columns} FROM silver.rollup_config WHERE depth = 0 ORDER BY id LIMIT 1".encode()
    ).fetchone()
    assert row
    return row


def test_each_option_changes_alone(rolled_up: psycopg.Connection) -> None:
    options = (
        "settle_delay",
        "processing_window",
        "target_batch_duration",
        "look_back_window",
        "chunk_interval",
    )
    expected = list(configured(rolled_up, "::text, ".join(options) + "::text"))
    for i, option in enumerate(options):
        rolled_up.execute(
            sql.SQL("SELECT silver.alter_rollup('gold.t_1h', {} => '3 days')").format(
                sql.Identifier(option)
            )
        )
        expected[i] = "3 days"
        assert list(configured(rolled_up, "::text, ".join(options) + "::text")) == expected
    rolled_up.execute("SELECT silver.alter_rollup('t_1h')")
    rolled_up.execute("SELECT silver.alter_rollup('t_1h', settle_delay => '0')")
    expected[0] = "00:00:00"
    assert list(configured(rolled_up, "::text, ".join(options) + "::text")) == expected
    assert_settled(rolled_up, "t_1h", "t_1d")


def test_what_was_adapted_follows(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("SELECT silver.alter_rollup('t_1h', processing_window => '6 hours')")
    assert configured(rolled_up, "current_window::text") == ("06:00:00",)
    rolled_up.execute("UPDATE silver.rollup_config SET current_window = '2 hours'")
    rolled_up.execute("SELECT silver.alter_rollup('t_1h', settle_delay => '2 hours')")
    assert configured(rolled_up, "current_window::text") == ("02:00:00",)
    rolled_up.execute("SELECT silver.alter_rollup('t_1h', chunk_interval => '2 days')")
    row = rolled_up.execute(
        "SELECT chunk_interval::text, is_named FROM rollup_engine.partition_set"
        " WHERE relation = 'silver.t_1h'::regclass"
    ).fetchone()
    assert row == ("2 days", True)
    rolled_up.execute("INSERT INTO raw.t SELECT ts - interval '20 years', device, v FROM raw.t")
    refresh_everything(rolled_up)
    widths = rolled_up.execute(
        "SELECT DISTINCT to_time - from_time FROM rollup_engine.rollup_partition AS p"
        " JOIN silver.rollup_config AS r ON r.id = p.rollup_id"
        " WHERE r.target_table = 'silver.t_1h'::regclass AND to_time < '2010-01-01'"
    ).fetchall()
    assert [str(x[0]) for x in widths] == ["2 days, 0:00:00"]
    assert_settled(rolled_up, "t_1h", "t_1d")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("settle_delay => '-1 hour'", "settle_delay"),
        ("settle_delay => '2000 years'", "settle_delay"),
        ("processing_window => '0'", "processing_window"),
        ("target_batch_duration => '0'", "target_batch_duration"),
        ("look_back_window => '-1 day'", "look_back_window"),
        ("chunk_interval => '1 second'", "chunk_interval"),
        ("chunk_interval => '10 minutes'", "chunk_interval 00:10:00 is shorter than a bucket"),
        ("chunk_interval => '1 month 1 day'", "mixes months with days"),
        ("new_name => ''", "is no name for a table"),
        ("new_name => repeat('x', 64)", "is no name for a table"),
        ("new_name => 't_1d'", r"silver\.t_1d exists already"),
        ("new_name => 'rollup_config'", r"silver\.rollup_config exists already"),
        ("new_name => 'taken'", r"gold\.taken exists already"),
    ],
)
def test_what_creation_refuses_is_refused(
    rolled_up: psycopg.Connection, arguments: str, named: str
) -> None:
    rolled_up.execute("CREATE VIEW gold.taken AS SELECT 1 AS one")
    everything = "SELECT r::text FROM silver.rollup_config AS r ORDER BY id"
    before = rolled_up.execute(everything).fetchall()
    with pytest.raises(psycopg.Error, match=named) as raised:
        rolled_up.execute(f"SELECT silver.alter_rollup('t_1h', {arguments})".encode())
    assert (raised.value.sqlstate or "").startswith("TR")
    assert raised.value.diag.message_hint
    assert rolled_up.execute(everything).fetchall() == before


def test_a_rollup_that_is_not_there(rolled_up: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error, match="there is no rollup 't_1g'") as raised:
        rolled_up.execute("SELECT silver.alter_rollup('t_1g', settle_delay => '1 hour')")
    assert "did you mean silver.t_1d, silver.t_1h?" in (raised.value.diag.message_hint or "")


NAMES = [
    "t_hours",
    'Odd "name" of %s {target}',
    "select",
    "时" * 21,
    "x" * 63,
    "apo'strophe",
    "b\\s",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_new_name_takes_everything_along(rolled_up: psycopg.Connection, name: str) -> None:
    """Table, view, rights, a user's view, children, logs, later metrics and runs."""
    rolled_up.execute("GRANT SELECT ON gold.t_1h TO tsrollup_writer")
    logged = rolled_up.execute(
        "SELECT count(*) FROM silver.refresh_log WHERE target_table = 'silver.t_1h'"
    ).fetchone()
    rights = rolled_up.execute(
        "SELECT relacl::text FROM pg_class WHERE oid = 'gold.t_1h'::regclass"
    ).fetchone()
    rolled_up.execute("UPDATE raw.t SET v = v + 1 WHERE v % 7 = 0")
    rolled_up.execute("SELECT silver.alter_rollup('t_1h', new_name => %s)", [name])
    table, view = (sql.Identifier(x, name).as_string(rolled_up) for x in ("silver", "gold"))
    assert_equal_to_group_by(rolled_up, view, "t_1d")
    assert (
        rights
        == (
            rolled_up.execute("SELECT relacl::text FROM pg_class WHERE oid = %s::regclass", [view])
        ).fetchone()
    )
    assert rolled_up.execute(
        "SELECT obj_description(%s::regclass, 'pg_class')", [view]
    ).fetchone() == (
        rolled_up.execute(
            "SELECT format('Live view of %%s: equals the GROUP BY over its source at any time.',"
            " %s::regclass)",
            [table],
        ).fetchone()
    )
    assert rolled_up.execute("SELECT count(v_avg) > 0 FROM public.mine").fetchone() == (True,)
    assert logged == (
        rolled_up.execute(
            "SELECT count(*) FROM silver.refresh_log WHERE target_table = %s::regclass::text",
            [table],
        ).fetchone()
    )
    makers = rolled_up.execute(
        "SELECT rollup_engine.is_partmans(s) OR rollup_engine.partman_key(s.relation) IS NULL"
        " OR rollup_engine.partman_schema() IS NULL FROM rollup_engine.partition_set AS s"
    ).fetchall()
    assert makers == [(True,), (True,)]
    outdated = rolled_up.execute("SELECT rollup_engine.outdated_texts()").fetchall()
    assert outdated == []
    rolled_up.execute("""SELECT silver.add_rollup_metric(%s, '{"v": ["first"]}')""", [view])
    rolled_up.execute("INSERT INTO raw.t SELECT ts + interval '90 days', device, v FROM raw.t")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, view, "t_1d")
    queries = rolled_up.execute("SELECT refresh_sql FROM silver.rollup_config").fetchall()
    assert not [x for (x,) in queries if "silver.t_1h" in x]
    unwell = rolled_up.execute(
        "SELECT * FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()
    assert unwell == []
    rolled_up.execute("SELECT silver.alter_rollup(%s, new_name => %s)", [table, name])  # is it


def test_a_table_renamed_by_hand_gets_its_view_back(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("ALTER TABLE silver.t_1h RENAME TO hours")
    for name in ("hours", "t_1h", "silver.hours"):
        rolled_up.execute("SELECT silver.resume_rollup(%s)", [name])
    rolled_up.execute("SELECT silver.alter_rollup('hours', new_name => 'hours')")
    assert_settled(rolled_up, "gold.hours", "t_1d")


def test_what_is_gone_is_not_renamed(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("DROP VIEW gold.t_1d")
    with pytest.raises(psycopg.Error, match=r"the live view of silver\.t_1d is gone"):
        rolled_up.execute("SELECT silver.alter_rollup('silver.t_1d', new_name => 'days')")


@pytest.mark.parametrize(
    "change",
    [
        "SELECT silver.alter_rollup('w_1h', look_back_window => {})",
        "UPDATE silver.rollup_config SET look_back_window = {} WHERE depth = 0",
    ],
)
def test_a_shorter_window_leaves_nothing_out(db: psycopg.Connection, change: str) -> None:
    """What changed since the last run, and lies where the window does not look any more."""
    db.execute("CREATE TABLE raw.w (ts timestamptz NOT NULL, v integer) PARTITION BY RANGE (ts)")
    db.execute(
        "CREATE TABLE raw.w_all PARTITION OF raw.w FOR VALUES FROM ('2020-01-01') TO (MAXVALUE)"
    )
    db.execute(
        "INSERT INTO raw.w SELECT now() - make_interval(hours => i), i"
        " FROM generate_series(1, 200) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'w_1h', '1 hour',"
        " change_tracking => 'window', look_back_window => '9 days')"
    )
    db.execute("SELECT silver.create_rollup_table('w_1h', 'silver', 'w_1d', '1 day')")
    refresh_everything(db)
    db.execute("UPDATE raw.w SET v = v + 1000")
    db.execute(change.format("'1 day'").encode())
    assert_equal_to_group_by(db, "w_1h", "w_1d")
    refresh_everything(db)
    assert_equal_to_group_by(db, "w_1h", "w_1d")
    db.execute(change.format("'9 days'").encode())
    db.execute("UPDATE raw.w SET v = v + 1000")
    assert_equal_to_group_by(db, "w_1h", "w_1d")
    db.execute(change.format("'2 days'").encode())
    db.execute("SELECT silver.set_retention('raw.w', '5 days')")
    with pytest.raises(psycopg.Error, match=r"is kept for 5 days, and read again for 9 days"):
        db.execute(change.format("'9 days'").encode())
