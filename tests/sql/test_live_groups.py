"""Reading buckets of which some groups are stale: those are computed, the others come from the
table, at every level and in every state."""

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)

LEVELS = ("fleet_1h", "fleet_6h", "fleet_1d")
ALL = (*LEVELS, "all_6h")
DRAIN = "SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source"
FLEET = """
    CREATE OR REPLACE FUNCTION rollup_engine.rows_of_a_group() RETURNS integer
        LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 0;
    CREATE TABLE raw.fleet (ts timestamptz, device {type}, v double precision)
        PARTITION BY RANGE (ts);
    CREATE TABLE raw.fleet_1 PARTITION OF raw.fleet
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
    CREATE TABLE raw.fleet_2 PARTITION OF raw.fleet DEFAULT;
    CREATE INDEX ON raw.fleet (device, ts);
    INSERT INTO raw.fleet
    SELECT t, ({value})::{type}, n
    FROM generate_series(1, 9) AS n,
        generate_series(timestamptz '2026-03-01 20:00Z', '2026-03-02 04:00Z', '20 minutes') AS t;
    SELECT silver.create_rollup_table('raw.fleet', 'silver', 'fleet_1h', '1 hour',
        dimensions => '{{device}}');
    SELECT silver.create_rollup_table('fleet_1h', 'silver', 'fleet_6h', '6 hours');
    SELECT silver.create_rollup_table('fleet_6h', 'silver', 'fleet_1d', '1 day');
    SELECT silver.create_rollup_table('fleet_1h', 'silver', 'all_6h', '6 hours',
        dimensions => '{{}}');
"""
RAW_ROWS = """
    CREATE OR REPLACE FUNCTION rollup_engine.raw_rows_of_group(
        p_rollup silver.rollup_config, p_from timestamptz, p_to timestamptz
    ) RETURNS double precision LANGUAGE sql STABLE PARALLEL SAFE RETURN {}
"""
# Whatever is the key: text in any case, a NULL, one that looks like a NULL.
KINDS = {
    "bigint": "nullif(n, 9) * 1000000007::bigint",
    "uuid": "md5(n::text)",
    "text": "CASE n WHEN 9 THEN NULL WHEN 8 THEN 'NULL' WHEN 7 THEN '' WHEN 6 THEN 'D5'"
    " ELSE 'd' || n END",
}


def create_fleet(db: psycopg.Connection[Any], kind: str = "integer", value: str = "n") -> None:
    db.execute(FLEET.format(type=kind, value=value).encode())
    refresh_everything(db)


def late(db: psycopg.Connection[Any], device: int, time: str = "2026-03-01 21:05+00") -> None:
    db.execute("INSERT INTO raw.fleet VALUES (%s, %s, 100)", [time, device])


def unseen(db: psycopg.Connection[Any], device: int, time: str = "2026-03-01 21:06+00") -> None:
    """Two rows that cannot be added up, which nothing has noted."""
    triggers = db.execute(
        "SELECT replace(replace(replace(tgenabled::text, 'O', ''), 'A', 'ALWAYS'), 'R', 'REPLICA'),"
        " quote_ident(tgname) FROM pg_trigger"
        " WHERE tgrelid = 'raw.fleet_1'::regclass AND NOT tgisinternal"
    ).fetchall()
    db.execute("ALTER TABLE raw.fleet_1 DISABLE TRIGGER USER")
    for _ in range(2):
        db.execute("INSERT INTO raw.fleet_1 VALUES (%s, %s, 1e308)", [time, device])
    for when, name in triggers:
        db.execute(f"ALTER TABLE raw.fleet_1 ENABLE {when} TRIGGER {name}".encode())


def count(db: psycopg.Connection[Any], name: str, condition: str = "true") -> Any:
    row = db.execute(
        f"SELECT sum(row_count)::integer, sum(v_sum) FROM gold.{name} WHERE {condition}".encode()
    ).fetchone()
    assert row
    return row[0]


def test_other_groups_come_from_the_table(db: psycopg.Connection[Any]) -> None:
    """Drained, and in the log; and a filter leaves out the groups that it does not ask for."""
    create_fleet(db)
    before = {name: count(db, name, "device <> 3") for name in LEVELS}
    late(db, 3)
    db.execute(DRAIN)
    unseen(db, 2)  # a drain would see that triggers were off
    for rows in (26, 27):
        for name in LEVELS:
            assert count(db, name, "device = 3") == rows, name
            assert count(db, name, "device <> 3") == before[name], name
            assert count(db, name) == before[name] + rows, name
        late(db, 3, "2026-03-01 22:05+00")
        unseen(db, 2, "2026-03-01 22:06+00")
    late(db, 2)
    for name in LEVELS:
        assert count(db, name, "device = 3") == 28, name
        with pytest.raises(errors.NumericValueOutOfRange):
            count(db, name, "device = 2")
    db.execute("DELETE FROM raw.fleet WHERE v = 1e308")
    refresh_everything(db)
    # Of a bucket that is stale as a whole as well, there are no others.
    late(db, 3)
    db.execute(DRAIN)
    db.execute("SELECT silver.mark_stale('raw.fleet', '2026-03-01 21:00Z', '2026-03-01 22:00Z')")
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_a_small_source_is_read_as_a_whole(db: psycopg.Connection[Any]) -> None:
    create_fleet(db)
    late(db, 3)
    for rows, groups in ((0, 1), (1000, 0)):
        db.execute(
            "CREATE OR REPLACE FUNCTION rollup_engine.rows_of_a_group() RETURNS integer"
            f" LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN {rows}".encode()
        )
        found = db.execute("SELECT count(*) FROM rollup_engine.live_groups(1, NULL)").fetchone()
        assert found == (groups,)
        assert_equal_to_group_by(db, *LEVELS)


@pytest.mark.parametrize("kind", KINDS)
def test_promise_b_in_every_state_of_groups(db: psycopg.Connection[Any], kind: str) -> None:
    """Late rows of a few groups, whole buckets and refreshes of a level or of all, in any order."""
    create_fleet(db, kind, KINDS[kind])
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    choose = random.Random(seed)
    for _ in range(25):
        hours = f"make_interval(mins => {choose.randrange(9 * 60)})"
        at = f"timestamptz '2026-03-01 20:00Z' + {hours}"
        values = f"({KINDS[kind]})::{kind}"
        few = f"n BETWEEN {choose.randrange(1, 10)} AND {choose.randrange(5, 11)}"
        db.execute(
            choose.choice(
                [
                    f"INSERT INTO raw.fleet SELECT {at}, {values}, 1"
                    f" FROM generate_series(1, 10) AS n WHERE {few} OR n = 4",
                    f"UPDATE raw.fleet SET v = v + 1 WHERE ts BETWEEN {at} AND {at} + '1 hour'"
                    f" AND device IN (SELECT {values} FROM generate_series(1, 9) AS n WHERE {few})",
                    f"DELETE FROM raw.fleet WHERE ts BETWEEN {at} AND {at} + '2 hours' AND device ="
                    f" (SELECT {values} FROM generate_series(1, 9) AS n WHERE n = 4)",
                    f"SELECT silver.mark_stale('raw.fleet', {at}, {at} + '5 minutes')",
                    DRAIN,
                    DRAIN,
                    f"SELECT silver.refresh_rollup('fleet_1h', {at}, {at} + '3 hours')",
                    "SELECT silver.perform_rollup('fleet_1h', as_of => 'infinity')",
                    "SELECT silver.perform_rollup(as_of => 'infinity')",
                    RAW_ROWS.format(0),
                    RAW_ROWS.format(1),
                ]
            ).encode()
        )
        assert_equal_to_group_by(db, *ALL)
    refresh_everything(db)
    assert_settled(db, *ALL)


def test_other_groups_of_a_parent_come_from_its_table(db: psycopg.Connection[Any]) -> None:
    """Drained, and in the log; where the rollup itself does not tell devices apart."""
    create_fleet(db)
    before = count(db, "all_6h")
    late(db, 3)
    db.execute(DRAIN)
    unseen(db, 2)
    assert count(db, "all_6h") == before + 1
    late(db, 4, "2026-03-01 22:05+00")
    unseen(db, 2, "2026-03-01 22:06+00")
    assert count(db, "all_6h") == before + 2
    late(db, 2)
    with pytest.raises(errors.NumericValueOutOfRange):
        count(db, "all_6h")
    db.execute("DELETE FROM raw.fleet WHERE v = 1e308")
    assert_equal_to_group_by(db, *ALL)


def test_a_group_is_read_from_raw_rows_where_they_are_few(db: psycopg.Connection[Any]) -> None:
    """And are all there."""
    create_fleet(db)
    late(db, 3)
    db.execute(DRAIN)
    unseen(db, 3, "2026-03-01 23:06+00")
    assert count(db, "fleet_1d", "device = 3") == 26
    db.execute(RAW_ROWS.format(0).encode())
    with pytest.raises(errors.NumericValueOutOfRange):
        count(db, "fleet_1d", "device = 3")
    sealed = "sealed_before = CASE target_name WHEN 'silver.fleet_1h' THEN"
    force_configuration(db, f"{sealed} timestamptz '2026-03-01 21:00+00' END")
    assert count(db, "fleet_1d", "device = 3") == 26


def test_a_group_is_computed_from_its_own_rows(db: psycopg.Connection[Any]) -> None:
    """Neither from those of other groups, nor where others are stale, nor in sealed time."""
    create_fleet(db)
    late(db, 6)
    db.execute(DRAIN)
    force_configuration(db, "sealed_before = timestamptz '2026-03-02 00:00+00'")
    refresh_everything(db)
    assert count(db, "fleet_1h", "device = 6") == 25
    late(db, 7, "2026-03-02 01:05+00")
    late(db, 5)
    for _ in range(2):
        assert count(db, "fleet_1h", "device = 5") == 25
        db.execute(DRAIN)
    assert db.execute("SELECT FROM rollup_engine.stale_range WHERE '5' = ANY (keys)").rowcount == 0
    force_configuration(db, "sealed_before = NULL")
    late(db, 3)
    late(db, 2, "2026-03-01 22:05+00")
    db.execute(DRAIN)
    unseen(db, 4)
    db.execute(RAW_ROWS.format(0).encode())
    assert count(db, "fleet_1d", "device = 3") == 26
    db.execute(RAW_ROWS.format(1).encode())
    unseen(db, 3, "2026-03-01 22:06+00")
    for name in LEVELS:
        assert count(db, name, "device = 3") == 26, name


def test_values_of_any_kind_are_the_same_from_raw_rows(db: psycopg.Connection[Any]) -> None:
    create_fleet(db)
    values = {
        "i2": "n::smallint",
        "i8": "n * 5000000000",
        "r": "(n / 3.0)::real",
        "w": "(n / 3.0)::numeric(9, 4)",
        "t": "'t' || n",
        "c": "('c' || n)::varchar(9)",
        "d": "date '2026-01-01' + n",
        "z": "timestamptz '2026-01-01' + n * interval '1 day'",
        "e": "n * interval '1 hour'",
        "b": "n % 2 = 0",
        "a": "ARRAY[n, n + 1]",
        "u": "md5(n::text)::uuid",
        "j": "jsonb_build_object('n', n)",
    }
    more = {
        "min max": "i2 i8 r w t c d z e",
        "sum avg stddev": "i2 i8 r w",
        "bool_and bool_or": "b",
    }
    metrics = {
        name: ["first", "last", "count"]
        + [a for aggregates, of in more.items() if name in of.split() for a in aggregates.split()]
        for name in values
    }
    columns = ", ".join(f"{value} AS {name}" for name, value in values.items())
    rows = f"SELECT {{}} AS ts, n % 3 AS device, {columns} FROM generate_series(1, 40) AS n"
    times = "timestamptz '2026-03-01' + n * interval '10 minutes'"
    db.execute(f"CREATE TABLE raw.kinds AS {rows.format(times)}".encode())
    db.execute("CREATE INDEX ON raw.kinds (device, ts)")
    for source, name, width, time in (
        ("raw.kinds", "kinds_1h", "1 hour", "ts"),
        ("kinds_1h", "kinds_6h", "6 hours", None),
    ):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval, %s, '{device}', %s)",
            [source, name, width, time, Jsonb(metrics)],
        )
    refresh_everything(db)
    late_rows = f"{rows.format(times)} WHERE n BETWEEN 4 AND 7"
    db.execute(f"INSERT INTO raw.kinds {late_rows}".encode())
    read = []
    for few in (1, 0):
        db.execute(RAW_ROWS.format(few).encode())
        read += [db.execute("SELECT g::text FROM gold.kinds_6h AS g ORDER BY 1").fetchall()]
    assert read[0] == read[1]
    assert_equal_to_group_by(db, "kinds_6h")


def test_the_functions_of_groups_follow_a_source_that_lost_its_index(
    db: psycopg.Connection[Any],
) -> None:
    create_fleet(db)
    db.execute("DROP INDEX raw.fleet_device_ts_idx; ALTER TABLE raw.fleet RENAME COLUMN ts TO t2")
    refresh_everything(db)
    late(db, 3)
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    db.execute("""SELECT silver.add_rollup_metric('silver.fleet_1h', '{"v": ["variance"]}')""")
    refresh_everything(db)
    late(db, 3)
    assert_equal_to_group_by(db, *LEVELS)


def test_keys_of_any_width(db: psycopg.Connection[Any]) -> None:
    """Wider than the tables: there is an error where a row has such a key, and no other."""
    create_fleet(db)
    db.execute("ALTER TABLE raw.fleet ALTER COLUMN device TYPE bigint")
    refresh_everything(db)
    with db.transaction():
        late(db, 99999999999)
        db.execute("DELETE FROM raw.fleet WHERE device = 99999999999")
    assert_equal_to_group_by(db, *LEVELS)
    late(db, 99999999999)
    for name in LEVELS:
        assert count(db, name, "device = 3") == 25, name
        with pytest.raises(errors.NumericValueOutOfRange):
            count(db, name)
    db.execute("SELECT silver.rebuild_rollup(target_name) FROM silver.rollup_config ORDER BY id")
    refresh_everything(db)
    late(db, 99999999998)
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_a_key_of_another_kind_is_lost(db: psycopg.Connection[Any]) -> None:
    create_fleet(db, "text", "md5(n::text)")
    db.execute("INSERT INTO raw.fleet VALUES ('2026-03-01 21:05+00', upper(md5('3')), 1)")
    db.execute(DRAIN)
    db.execute("ALTER TABLE raw.fleet ALTER COLUMN device TYPE uuid USING device::uuid")
    db.execute("SELECT silver.rebuild_rollup(target_name) FROM silver.rollup_config ORDER BY id")
    assert db.execute("SELECT DISTINCT key_dimension FROM silver.rollup_config").fetchall() == [
        (None,)
    ]
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_views_follow_an_index_that_is_dropped_or_made(db: psycopg.Connection[Any]) -> None:
    create_fleet(db)
    views = (
        "SELECT count(*) FROM silver.rollup_config AS r"
        " WHERE pg_get_viewdef(r.target_view) ~ 'live_group_'"
    )
    maintain = "SELECT * FROM silver.maintain_timeseries_tables()"
    for change, reading in (
        ("SELECT", 3),
        ("DROP INDEX raw.fleet_device_ts_idx", 0),
        ("CREATE INDEX ON raw.fleet (device, ts)", 3),
    ):
        db.execute(change.encode())
        db.execute(maintain)
        assert db.execute(views).fetchone() == (reading,), change
        assert db.execute("SELECT rollup_engine.outdated_texts()").fetchall() == []
        late(db, 3)
        assert_equal_to_group_by(db, *ALL)


def test_a_view_that_was_in_use_follows_an_index_at_a_later_maintenance(
    db: psycopg.Connection[Any], connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    create_fleet(db)
    maintain = "SELECT * FROM silver.maintain_timeseries_tables()"
    db.execute("DROP INDEX raw.fleet_device_ts_idx")
    db.execute(maintain)
    reader = connect(autocommit=False)
    reader.execute(f"SELECT FROM gold.{LEVELS[0]}".encode())
    db.execute("CREATE INDEX ON raw.fleet (device, ts)")
    outdated = "SELECT count(*) > 0 FROM rollup_engine.outdated_texts()"
    for is_outdated in (True, False, False):
        db.execute(maintain)
        assert db.execute(outdated).fetchone() == (is_outdated,)
        reader.rollback()
