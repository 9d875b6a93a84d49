"""A late row makes its group stale, and not its bucket: what is noted, what becomes of it, and that
whoever cannot tell groups apart takes whole buckets."""

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from interleaving import Paused, pause_refreshes_of
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

LEVELS = ("fleet_1h", "fleet_1d", "fleet_sites")
DRAIN = "SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source"
FLEET = """
    CREATE TABLE raw.fleet (ts timestamptz, device {type}, site text, v integer)
        PARTITION BY RANGE (ts);
    CREATE TABLE raw.fleet_1 PARTITION OF raw.fleet
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
    CREATE TABLE raw.fleet_2 PARTITION OF raw.fleet DEFAULT;
    CREATE INDEX ON raw.fleet (device, ts);
    INSERT INTO raw.fleet
    SELECT t, ({value})::{type}, 's' || n % 2, n
    FROM generate_series(1, 9) AS n,
        generate_series(timestamptz '2026-03-01 20:00Z', '2026-03-02 04:00Z', '20 minutes') AS t;
    SELECT silver.create_rollup_table('raw.fleet', 'silver', 'fleet_1h', '1 hour',
        dimensions => '{{site,device}}');
    SELECT silver.create_rollup_table('fleet_1h', 'silver', 'fleet_1d', '1 day');
    SELECT silver.create_rollup_table('fleet_1d', 'silver', 'fleet_sites', '1 day',
        dimensions => '{{site}}')
"""


def create_fleet(db: psycopg.Connection[Any], kind: str = "integer", value: str = "n") -> None:
    db.execute(FLEET.format(type=kind, value=value).encode())
    refresh_everything(db)


def limit(db: psycopg.Connection[Any], keys: int, buckets: int = 10000) -> None:
    """Few keys are many."""
    for name, number in (("most_keys", keys), ("most_keyed_buckets", buckets)):
        db.execute(
            f"CREATE OR REPLACE FUNCTION rollup_engine.{name}() RETURNS integer LANGUAGE sql"
            f" IMMUTABLE PARALLEL SAFE RETURN {number}".encode()
        )


def noted(db: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """The log: day and hour, how many hours, keys; which are drained."""
    rows = db.execute(
        "SELECT to_char(from_time AT TIME ZONE 'UTC', 'DD HH24'),"
        " extract(epoch FROM to_time - from_time)::integer / 3600,"
        ' ARRAY(SELECT DISTINCT k COLLATE "C" FROM unnest(keys) AS k ORDER BY 1)'
        ", keys IS NULL FROM rollup_engine.change_log ORDER BY 1, 3"
    ).fetchall()
    db.execute(DRAIN)
    return [(day, hours, None if is_all else keys) for day, hours, keys, is_all in rows]


def stale(db: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    rows = db.execute(
        "SELECT to_char(s.from_time AT TIME ZONE 'UTC', 'DD HH24'),"
        " extract(epoch FROM s.to_time - s.from_time)::integer / 3600,"
        ' ARRAY(SELECT k COLLATE "C" FROM unnest(s.keys) AS k ORDER BY 1), s.keys IS NULL'
        " FROM rollup_engine.stale_range AS s JOIN silver.rollup_config AS r ON r.id = s.rollup_id"
        " WHERE r.target_table = %s::regclass ORDER BY 1, 3",
        [f"silver.{table}"],
    ).fetchall()
    return [(day, hours, None if is_all else keys) for day, hours, keys, is_all in rows]


def key_column(db: psycopg.Connection[Any]) -> Any:
    row = db.execute("SELECT key_column FROM rollup_engine.source").fetchone()
    assert row
    return row[0]


def dimensions(db: psycopg.Connection[Any]) -> list[Any]:
    return [
        row[0] for row in db.execute("SELECT key_dimension FROM silver.rollup_config ORDER BY id")
    ]


def check(db: psycopg.Connection[Any], levels: Sequence[str] = LEVELS) -> None:
    assert_equal_to_group_by(db, *levels)
    refresh_everything(db)
    assert_settled(db, *levels)


INSERT = "INSERT INTO raw.fleet (ts, device, site, v)"
NOTED: dict[str, list[tuple[Any, ...]]] = {
    f"{INSERT} VALUES ('2026-03-02 01:30+00', 3, 's1', 1)": [("02 01", 1, ["3"])],
    f"{INSERT} VALUES ('2026-03-02 01:30+00', 3, 's1', 1), ('2026-03-02 01:31+00', 4, 's1', 1)": [
        ("02 01", 1, ["3", "4"])
    ],
    f"{INSERT} VALUES ('2026-03-02 01:30+00', 3, 's1', 1), ('2026-03-02 02:31+00', 4, 's1', 1)": [
        ("02 01", 1, ["3"]),
        ("02 02", 1, ["4"]),
    ],
    # Of one key, ranges: as many as ever.
    f"{INSERT} VALUES ('2026-03-01 21:30+00', 3, 's1', 1), ('2026-03-02 02:31+00', 3, 's1', 1)": [
        ("01 21", 6, ["3"])
    ],
    f"{INSERT} SELECT timestamptz '2026-01-01 00:00+00' + make_interval(days => i), 3, 's', 1"
    " FROM generate_series(0, 1) AS i": [("01 00", 1, ["3"]), ("02 00", 1, ["3"])],
    # Keys that nobody can tell, and rows in no bucket.
    f"{INSERT} VALUES ('2026-03-02 01:30+00', NULL, 's1', 1), ('2026-03-02 02:31+00', 4, 's', 1)": [
        ("02 01", 2, None)
    ],
    f"{INSERT} VALUES ('infinity', 3, 's1', 1), ('2026-03-02 02:31+00', 4, 's1', 1)": [
        ("02 02", 1, ["3", "4"])
    ],
    # What is not in the past, and the days around it: nothing but the time.
    f"{INSERT} VALUES (now(), 3, 's1', 1)": [],
    "UPDATE raw.fleet SET device = 8 WHERE device = 7 AND ts = '2026-03-02 01:40+00'": [
        ("02 01", 1, ["7", "8"])
    ],
    "UPDATE raw.fleet SET ts = '2026-03-01 05:00+00' WHERE device = 6"
    " AND ts = '2026-03-02 01:40+00'": [("01 05", 1, ["6"]), ("02 01", 1, ["6"])],
    "UPDATE raw.fleet_2 SET v = -1 WHERE device = 8 AND ts = '2026-03-02 02:40+00'": [
        ("02 02", 1, ["8"])
    ],
    "DELETE FROM raw.fleet WHERE device IN (1, 2) AND ts = '2026-03-02 02:40+00'": [
        ("02 02", 1, ["1", "2"])
    ],
    "MERGE INTO raw.fleet AS f USING (VALUES (3), (4)) AS w (d)"
    " ON f.device = w.d AND f.ts = '2026-03-02 03:40+00'"
    " WHEN MATCHED AND d = 3 THEN DELETE WHEN MATCHED THEN UPDATE SET v = 100": [
        ("02 03", 1, ["3"]),
        ("02 03", 1, ["4"]),
    ],
    "SELECT silver.mark_stale('raw.fleet', '2026-03-02 03:40+00', '2026-03-02 03:41+00')": [
        ("02 03", 0, None)
    ],
}


def test_promise_a_b_late_rows_are_noted_with_their_keys(db: psycopg.Connection[Any]) -> None:
    create_fleet(db)
    assert dimensions(db) == ["device", "device", None]
    for statement, expected in NOTED.items():
        db.execute(statement.encode())
        assert_equal_to_group_by(db, *LEVELS)
        rows = noted(db)
        if "now()" in statement:
            assert all(keys is None for *_, keys in rows)
        else:
            assert rows == expected, statement
        check(db)
    with db.cursor().copy("COPY raw.fleet (ts, device, site, v) FROM STDIN") as copy:
        for i in range(1200):
            copy.write_row((f"2026-03-02 {i // 60 % 2:02}:{i % 60:02}+00", 5 + i % 2, "s", i))
    assert noted(db) == [("02 00", 2, ["5", "6"])]
    db.execute(
        "INSERT INTO raw.fleet SELECT '2026-03-02 01:00+00', i, 's', i"
        " FROM generate_series(1, 1200) AS i"
    )
    assert noted(db) == [("02 01", 1, None)]
    db.execute("TRUNCATE raw.fleet_1")
    assert [keys for *_, keys in noted(db)] == [None]
    check(db)


def test_promise_a_b_groups_add_up_until_they_are_too_many(db: psycopg.Connection[Any]) -> None:
    create_fleet(db)
    late = f"{INSERT} VALUES ('2026-03-02 0{{}}:30+00', {{}}, 's1', 1)"
    monitor = "SELECT stale_buckets, partly_stale_buckets, stale_groups"
    watched = monitor + " FROM silver.timeseries_operations_monitor ORDER BY target_table"

    def write_and_drain(*written: tuple[int, int]) -> None:
        """What waits is told as if it had been taken in."""
        for hour, device in written:
            db.execute(late.format(hour, device).encode())
        assert_equal_to_group_by(db, *LEVELS)
        told = db.execute(watched.encode()).fetchall()
        db.execute(DRAIN)
        assert db.execute(watched.encode()).fetchall() == told

    for one in ((1, 3), (1, 4), (2, 3), (1, 3)):
        write_and_drain(one)
    assert stale(db, "fleet_1h") == [("02 01", 1, ["3", "4"]), ("02 02", 1, ["3"])]
    assert stale(db, "fleet_1d") == [("02 00", 24, ["3", "4"])]
    assert stale(db, "fleet_sites") == [("02 00", 24, None)]
    # A whole bucket takes its groups in, and those beside it stay what they are.
    db.execute("SELECT silver.mark_stale('fleet_1h', '2026-03-02 02:00+00', '2026-03-02 03:00+00')")
    assert stale(db, "fleet_1h") == [("02 01", 1, ["3", "4"]), ("02 02", 1, None)]
    # A group of what is stale already adds nothing.
    write_and_drain((2, 9))
    assert stale(db, "fleet_1h") == [("02 01", 1, ["3", "4"]), ("02 02", 1, None)]
    assert db.execute(watched.encode()).fetchall() == [(1, 0, 0), (2, 1, 2), (1, 0, 0)]
    work = "SELECT * FROM rollup_engine.work_to_do(NULL, now())"
    assert db.execute(work.encode()).fetchall() == [
        ("silver.fleet_1h", 1, 2, 1, "index"),
        ("silver.fleet_1d", 1, 0, 0, None),
        ("silver.fleet_sites", 1, 0, 0, None),
    ]
    limit(db, 2)
    write_and_drain((1, 5), (3, 5))
    assert stale(db, "fleet_1h") == [("02 01", 2, None), ("02 03", 1, ["5"])]
    assert stale(db, "fleet_1d") == [("02 00", 24, None)]
    limit(db, 2, 2)
    write_and_drain((0, 5), (4, 5))
    assert stale(db, "fleet_1h") == [
        ("02 00", 1, None),
        ("02 01", 2, None),
        ("02 03", 1, ["5"]),
        ("02 04", 1, None),
    ]
    check(db)


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
    db.execute("ALTER TABLE raw.fleet ADD COLUMN tsrollup_key integer DEFAULT 3")
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


def test_promise_b_a_group_of_a_claimed_bucket_is_added_beside_it(
    db: psycopg.Connection[Any], connect: Any
) -> None:
    """As whole buckets are: clearing by id leaves what came after the claim."""
    create_fleet(db)
    late = f"{INSERT} VALUES ('2026-03-02 01:30+00', 3, 's1', 1)"
    db.execute(late.encode())
    db.execute(DRAIN)
    other = connect()
    with db.transaction():
        db.execute("SELECT FROM rollup_engine.stale_range FOR UPDATE")
        other.execute(late.encode())
        other.execute(DRAIN)
    assert stale(db, "fleet_1h") == [("02 01", 1, ["3"])] * 2
    check(db)
    # And one that came between the snapshot of a refresh and its end is not cleared by it.
    pause_refreshes_of(db, "silver.fleet_1h")
    db.execute(late.encode())
    db.execute(DRAIN)
    with Paused(db, other, "SELECT rollup_engine.refresh_step(1, '(,)', '{}')"):
        db.execute(late.encode())
        db.execute(DRAIN)
        assert stale(db, "fleet_1h") == [("02 01", 1, ["3"])] * 2
    assert stale(db, "fleet_1h") == [("02 01", 1, ["3"])]
    assert_equal_to_group_by(db, *LEVELS)
    check(db)


def spoil(db: psycopg.Connection[Any], *tables: str) -> None:
    """What nobody computes anew stays wrong."""
    with db.transaction():
        db.execute("SELECT rollup_engine.set_refreshing(true)")
        for table in tables:
            db.execute(f"UPDATE silver.{table} SET row_count = row_count + 1000000".encode())


def mended(db: psycopg.Connection[Any], table: str) -> list[Any]:
    return db.execute(
        "SELECT to_char(bucket AT TIME ZONE 'UTC', 'DD HH24'), device, site, row_count"
        f" FROM silver.{table} WHERE row_count < 1000000 ORDER BY 1, 2, 3".encode()
    ).fetchall()


@pytest.mark.parametrize("has_index", [True, False])
def test_promise_a_a_late_row_has_its_group_computed(
    db: psycopg.Connection[Any], has_index: bool
) -> None:
    create_fleet(db)
    if not has_index:
        db.execute("DROP INDEX raw.fleet_device_ts_idx")
    spoil(db, "fleet_1h", "fleet_1d")
    assert mended(db, "fleet_1h") == []
    for statement in (
        f"{INSERT} VALUES ('2026-03-02 01:30+00', 3, 's1', 1), ('2026-03-02 02:30+00', 4, 's9', 1)",
        f"{INSERT} VALUES ('2026-03-01 20:30+00', 5, NULL, 1), ('2026-03-01 20:31+00', 6, 's0', 1)",
    ):
        db.execute(statement.encode())
    db.execute("DELETE FROM raw.fleet WHERE device = 7 AND ts >= '2026-03-02 03:00+00'")
    refresh_everything(db)
    assert mended(db, "fleet_1h") == [
        ("01 20", 5, "s1", 3),
        ("01 20", 5, None, 1),
        ("01 20", 6, "s0", 4),
        ("02 01", 3, "s1", 4),
        ("02 02", 4, "s0", 3),
        ("02 02", 4, "s9", 1),
    ]
    gone = "SELECT count(*) FROM silver.fleet_1h WHERE device = 7 AND bucket >= '2026-03-02 03:00Z'"
    assert db.execute(gone.encode()).fetchone() == (0,)
    # From what the parent says, in which a millionth part of each hour is right by now.
    days = mended(db, "fleet_1d")
    assert days == [("01 00", 5, None, 1), ("02 00", 4, "s9", 1)]
    others = db.execute(
        "SELECT DISTINCT device FROM silver.fleet_1d WHERE row_count < 1000500"
        " OR row_count % 1000000 <> 12 ORDER BY 1"
    ).fetchall()
    assert (7,) in others
    db.execute("SELECT silver.mark_stale('raw.fleet', '-infinity', 'infinity')")
    check(db)


def test_promise_a_groups_wait_for_those_of_their_parent(
    db: psycopg.Connection[Any], connect: Any
) -> None:
    create_fleet(db)
    for device in (3, 4):
        db.execute(f"{INSERT} VALUES ('2026-03-02 0{device}:30+00', {device}, 's1', 1)".encode())
        db.execute(DRAIN)
    day = "SELECT silver.perform_rollup('fleet_1d', as_of => 'infinity')"
    db.execute(day.encode())
    assert stale(db, "fleet_1d") == [("02 00", 24, ["3", "4"])], "its hours are stale"
    # Once the groups of a day are two rows, as when one had been claimed, each goes by itself.
    db.execute(
        "WITH whole AS (UPDATE rollup_engine.stale_range SET keys = '{3}' WHERE keys = '{3,4}'"
        " OR keys = '{4,3}' RETURNING *) INSERT INTO rollup_engine.stale_range"
        " (rollup_id, cell, from_time, to_time, keys)"
        " SELECT rollup_id, cell, from_time, to_time, '{4}' FROM whole"
    )
    other = connect()
    with db.transaction():
        db.execute("SELECT FROM rollup_engine.stale_range WHERE keys = '{4}' FOR UPDATE")
        other.execute("SELECT silver.perform_rollup('fleet_1h', as_of => 'infinity')")
    assert stale(db, "fleet_1h") == [("02 04", 1, ["4"])]
    db.execute(day.encode())
    assert stale(db, "fleet_1d") == [("02 00", 24, ["4"])]
    assert_equal_to_group_by(db, *LEVELS)
    # A whole bucket of the parent holds up all groups.
    db.execute(
        "UPDATE rollup_engine.stale_range SET keys = NULL, from_time = '2026-03-02 01:00Z',"
        " to_time = '2026-03-02 02:00Z' WHERE rollup_id = 1"
    )
    db.execute(day.encode())
    assert stale(db, "fleet_1d") == [("02 00", 24, ["4"])]
    db.execute("SELECT silver.mark_stale('fleet_1h', '2026-03-02 04:00Z', '2026-03-02 05:00Z')")
    check(db)


def test_promise_h_a_group_that_cannot_be_stored(db: psycopg.Connection[Any]) -> None:
    """Its bucket stays stale, as ever; the others, and its own other groups, are stored."""
    create_fleet(db)
    long = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200) AS i)"
    db.execute(f"{INSERT} VALUES ('2026-03-02 01:30+00', 3, {long}, 1)".encode())
    db.execute(f"{INSERT} VALUES ('2026-03-02 02:30+00', 3, 's1', 1)".encode())
    db.execute("CALL silver.run_rollups()")
    assert stale(db, "fleet_1h") == [("02 01", 1, None)]
    assert_equal_to_group_by(db, *LEVELS)
    db.execute("DELETE FROM raw.fleet WHERE length(site) > 100")
    db.execute("SELECT silver.reset_rollup_retry('fleet_1h')")
    check(db)


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


def test_a_group_of_a_year_over_seconds_costs_its_rows_and_not_the_seconds(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.few (ts timestamptz, device integer, v integer)")
    db.execute("CREATE INDEX ON raw.few (device, ts)")
    db.execute(
        "INSERT INTO raw.few SELECT '2026-03-01'::timestamptz + n * interval '7 hours', n % 5, n"
        " FROM generate_series(1, 500) AS n"
    )
    for source, name, width in (("raw.few", "few_1s", "1 second"), ("few_1s", "few_1y", "1 year")):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s, dimensions => '{device}')",
            [source, name, width],
        )
    refresh_everything(db)
    db.execute("INSERT INTO raw.few VALUES ('2026-03-02', 1, 1), ('2026-03-09', 2, 1)")
    db.execute(DRAIN)
    by_group = "SELECT count(*) FROM rollup_engine.stale_range WHERE keys IS NOT NULL"
    assert db.execute(by_group).fetchone() == (3,)
    db.execute("SET statement_timeout = '10s'")
    refresh_everything(db)
    assert_settled(db, "few_1s", "few_1y")
