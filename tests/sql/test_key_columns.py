"""The key column of a source: which one it is, of which types, and what becomes of it."""

from typing import Any

import psycopg
import pytest

from fleets import DRAIN, INSERT, LEVELS, check, create_fleet, dimensions, noted, stale
from rollup_checks import assert_equal_to_group_by, refresh_everything


def key_column(db: psycopg.Connection[Any]) -> Any:
    row = db.execute("SELECT key_column FROM rollup_engine.source").fetchone()
    assert row
    return row[0]


@pytest.mark.spread
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", "'Dé ' || n"),
        ("uuid", "md5(n::text)"),
        ("bigint", "n * 5000000000"),
        ("boolean", "n % 2"),
        ("raw.name", "n"),
    ],
)
def test_promise_a_b_keys_of_every_type(db: psycopg.Connection[Any], kind: str, value: str) -> None:
    db.execute('CREATE DOMAIN raw.name AS varchar(40) COLLATE "C"')
    create_fleet(db, kind, value)
    assert key_column(db) == "device"
    for n in (3, 4):
        db.execute(
            f"{INSERT} SELECT '2026-03-02 01:30+00', ({value})::{kind}, 's1', 1"
            f" FROM (SELECT {n} AS n) AS n".encode()
        )
        assert_equal_to_group_by(db, *LEVELS)
    assert all(keys and len(keys) == 1 for *_, keys in noted(db))
    db.execute(
        f"{INSERT} SELECT timestamptz '2026-03-02 01:30+00' + n % 2 * interval '1 hour',"
        f" ({value})::{kind}, 's1', 1 FROM generate_series(3, 6) AS n".encode()
    )
    assert [(hour, len(set(keys))) for hour, _, keys in noted(db)] == (
        [("02 01", 1), ("02 02", 1)] if kind == "boolean" else [("02 01", 2), ("02 02", 2)]
    )
    check(db)


def test_no_keys_where_texts_do_not_tell_values_apart(db: psycopg.Connection[Any]) -> None:
    kinds = [
        "numeric",
        "char(9)",
        "date",
        "double precision",
        "integer GENERATED ALWAYS AS (1) STORED",
    ]
    if db.execute("SELECT FROM pg_collation WHERE collprovider = 'i'").fetchone():
        db.execute(
            "CREATE COLLATION raw.loose"
            " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        kinds.append("text COLLATE raw.loose")
    for n, kind in enumerate(kinds):
        db.execute(
            f"CREATE TABLE raw.t{n} (ts timestamptz, d {kind}); CREATE INDEX ON raw.t{n} (d, ts);"
            f" SELECT silver.create_rollup_table('raw.t{n}', 'silver', 't{n}', '1 hour', 'ts',"
            " dimensions => '{d}')".encode()
        )
    keys = db.execute("SELECT key_column FROM rollup_engine.source").fetchall()
    assert keys == [(None,)] * len(kinds)


def test_promise_a_b_the_key_follows_its_column_or_is_lost(db: psycopg.Connection[Any]) -> None:
    """It never becomes another column's, whose values keys on record would be taken for."""
    create_fleet(db)
    late = f"{INSERT} VALUES ('2026-03-02 01:30+00', 3, 's1', 1)"
    db.execute(late.encode())
    db.execute("ALTER TABLE raw.fleet RENAME COLUMN device TO unit")
    late = late.replace("device", "unit")
    db.execute(late.encode())
    refresh_everything(db)
    assert (key_column(db), dimensions(db)) == ("unit", ["device", "device", None])
    db.execute(late.encode())
    assert noted(db) == [("02 01", 1, ["3"])]
    db.execute("ALTER TABLE raw.fleet RENAME COLUMN unit TO device")
    late = late.replace("unit", "device")
    refresh_everything(db)
    check(db)
    db.execute(late.encode())
    assert noted(db) == [("02 01", 1, ["3"])]
    db.execute(late.encode())
    db.execute("ALTER TABLE raw.fleet ALTER COLUMN device TYPE numeric(9, 2)")
    db.execute(late.encode())
    db.execute(DRAIN)
    assert all(keys is None for *_, keys in stale(db, "fleet_1h"))
    assert (key_column(db), dimensions(db)) == (None, [None, None, None])
    db.execute(late.encode())
    assert noted(db) == [("02 01", 1, None)]
    db.execute("ALTER TABLE raw.fleet ALTER COLUMN device TYPE integer")
    db.execute("CREATE INDEX ON raw.fleet (site, ts)")
    refresh_everything(db)
    check(db)
    db.execute(
        "SELECT silver.create_rollup_table('raw.fleet', 'silver', 'more', '1 hour',"
        " dimensions => '{site}')"
    )
    check(db, (*LEVELS, "more"))
    assert key_column(db) is None


def test_promise_a_b_a_key_that_no_rollup_has_any_more_is_lost_with_its_column(
    db: psycopg.Connection[Any],
) -> None:
    create_fleet(db)
    db.execute("""
        SELECT silver.create_rollup_table('raw.fleet', 'silver', 'sites', '1 hour',
            dimensions => '{site}', metrics => '{"v": ["sum"]}');
        SELECT silver.drop_rollup('fleet_sites');
        SELECT silver.drop_rollup('fleet_1d');
        SELECT silver.drop_rollup('fleet_1h');
        ALTER TABLE raw.fleet RENAME v TO w
    """)
    refresh_everything(db)
    db.execute("ALTER TABLE raw.fleet RENAME w TO v")
    refresh_everything(db)
    assert key_column(db) == "device", "which had nothing to do with it"
    db.execute("ALTER TABLE raw.fleet DROP COLUMN device")
    refresh_everything(db)
    assert key_column(db) is None
    db.execute("INSERT INTO raw.fleet (ts, site, v) VALUES ('2026-03-01 21:05Z', 's1', 1)")
    assert noted(db) == [("01 21", 1, None)]
    check(db, ["sites"])


def test_promise_a_b_a_column_named_as_groups_are_joined(db: psycopg.Connection[Any]) -> None:
    create_fleet(db)
    db.execute(f"{INSERT} VALUES ('2026-03-02 01:30+00', 3, 's1', 1)".encode())
    db.execute(DRAIN)
    db.execute("ALTER TABLE raw.fleet ADD COLUMN tsrollup_key integer DEFAULT 3")
    db.execute(DRAIN)
    # Groups on record are whole buckets from there on.
    assert dimensions(db) == [None, None, None]
    assert stale(db, "fleet_1h") == [("02 01", 1, ["3"])]
    work = "SELECT * FROM rollup_engine.work_to_do('fleet_1h', now())"
    assert db.execute(work).fetchone() == ("silver.fleet_1h", 1, 0, 0, None)
    assert_equal_to_group_by(db, *LEVELS)
    db.execute("SELECT rollup_engine.refresh_step(1, '(,)', '{}')")
    assert stale(db, "fleet_1h") == []
    db.execute("INSERT INTO raw.fleet VALUES ('2026-03-01 21:05Z', 3, 's1', 1)")
    check(db)
    refresh_everything(db)
    check(db)


def test_a_table_above_that_lacks_the_key(db: psycopg.Connection[Any]) -> None:
    db.execute("""
        CREATE TABLE raw.fleet (ts timestamptz, v integer, device integer);
        INSERT INTO raw.fleet VALUES ('2026-03-02 01:20Z', 1, 1), ('2026-03-02 05:20Z', 1, 1);
        CREATE INDEX ON raw.fleet (device, ts);
        CREATE TABLE raw.top (ts timestamptz, v integer);
        SELECT silver.create_rollup_table('raw.fleet', 'silver', 'fleet_1h', '1 hour',
            dimensions => '{device}')
    """)
    refresh_everything(db)
    write = "UPDATE raw.{} SET v = v + 1 WHERE ts = '2026-03-02 01:20Z'"
    for change, table, keys in (("", "top", None), ("NO ", "fleet", ["1"])):
        db.execute(f"ALTER TABLE raw.fleet {change}INHERIT raw.top".encode())
        for _ in range(2):  # the second sees the first one's triggers
            refresh_everything(db)
        db.execute(write.format(table).encode())
        assert noted(db) == [("02 01", 1, keys)]
    check(db, ["fleet_1h"])


def test_promise_b_keys_that_a_column_no_longer_takes(db: psycopg.Connection[Any]) -> None:
    """Retyped after the drain: whole buckets are computed then, until a drain finds the change."""
    create_fleet(db, "bigint", "n * 5000000000")
    db.execute(f"{INSERT} VALUES ('2026-03-02 01:30+00', 15000000000, 's1', 1)".encode())
    db.execute(DRAIN)
    retype = "ALTER TABLE raw.fleet ALTER COLUMN device TYPE"
    db.execute(f"{retype} integer USING device / 5000000000".encode())
    db.execute("SELECT rollup_engine.refresh_step(1, '(,)', '{}')")
    assert stale(db, "fleet_1h") == [("02 01", 1, None)]
    db.execute(f"{retype} bigint USING device * 5000000000".encode())
    refresh_everything(db)
    check(db)


@pytest.mark.spread
def test_the_key_is_named_or_found_by_its_index(db: psycopg.Connection[Any]) -> None:
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, d integer, e text, f numeric, v integer);"
        "CREATE TABLE raw.w (ts timestamptz, d integer)"
    )

    def create(name: str, key: str | None, source: str = "raw.t", rest: str = "") -> None:
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour',"
            f" dimensions => '{{d{rest}}}', key_dimension => %s, "
            """expressions => CASE WHEN %s = 'raw.t' THEN '{"g": "v % 2"}'::jsonb END,"""
            " change_tracking => CASE %s WHEN 'raw.w' THEN 'window' ELSE 'trigger' END,"
            " look_back_window => CASE %s WHEN 'raw.w' THEN interval '1 day' END)".replace(
                "v % 2", "v %% 2"
            ),
            [source, name, key, source, source, source],
        )

    for key, rest, message in (
        ("g", ",g", "key_dimension g tells no groups of the rollup apart"),
        ("f", ",f", "key_dimension f tells no groups"),
        ("e", "", "key_dimension e tells no groups"),
        ("x", "", "key_dimension 'x' is not a column of raw.t"),
    ):
        with pytest.raises(psycopg.DatabaseError, match=message):
            create("t_1h", key, rest=rest)
    with pytest.raises(psycopg.DatabaseError, match="noted by their time alone"):
        create("w_1h", "d", "raw.w")
    create("t_plain", None, rest=",e")
    assert (key_column(db), dimensions(db)) == (None, [None])
    create("t_1h", "e", rest=",e")
    assert (key_column(db), dimensions(db)) == ("e", ["e", "e"])
    for source, key in (("raw.t", "d"), ("t_1h", "d")):
        with pytest.raises(psycopg.DatabaseError, match="are told apart by e"):
            create("t_other", key, source)
    create("t_child", "e", "t_1h", ",e")
    create("t_none", None, "t_1h")
    assert dimensions(db)[2:] == ["e", None]
    with pytest.raises(psycopg.DatabaseError, match="cannot be changed"):
        db.execute(
            "UPDATE silver.rollup_config SET key_dimension = 'd'"
            " WHERE target_table = 'silver.t_none'::regclass"
        )
    # An index that came later is found by maintenance.
    db.execute(
        "SELECT silver.drop_rollup(t) FROM unnest('{t_child,t_none,t_1h,t_plain}'::text[]) t"
    )
    create("t_late", None)
    db.execute("CREATE INDEX ON raw.t (d, ts)")
    db.execute("SELECT silver.maintain_timeseries_tables()")
    assert (key_column(db), dimensions(db)) == ("d", ["d"])
    assert db.execute("SELECT rollup_engine.outdated_texts()").fetchall() == []
