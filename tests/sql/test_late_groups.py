"""A late row makes its group stale, and not its bucket: what is noted, what becomes of it, and that
whoever cannot tell groups apart takes whole buckets."""

from typing import Any

import psycopg
import pytest

from fleets import DRAIN, INSERT, LEVELS, check, create_fleet, dimensions, noted, stale
from interleaving import Paused, pause_refreshes_of
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything


def limit(db: psycopg.Connection[Any], keys: int, buckets: int = 10000) -> None:
    """Few keys are many."""
    for name, number in (("most_keys", keys), ("most_keyed_buckets", buckets)):
        db.execute(
            f"CREATE OR REPLACE FUNCTION rollup_engine.{name}() RETURNS integer LANGUAGE sql"
            f" IMMUTABLE PARALLEL SAFE RETURN {number}".encode()
        )


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
    # Of several, ranges as well, where these are no more groups than rows.
    f"{INSERT} SELECT timestamptz '2026-03-02 00:30+00' + i * interval '20 minutes', 3 + i % 2,"
    " 's1', 1 FROM generate_series(0, 8) AS i": [("02 00", 4, ["3"]), ("02 00", 3, ["4"])],
    f"{INSERT} SELECT timestamptz '2026-03-02 00:30+00' + i * interval '3 hours', k, 's1', 1"
    " FROM generate_series(0, 1) AS i, generate_series(3, 4) AS k": [
        ("02 00", 1, ["3", "4"]),
        ("02 03", 1, ["3", "4"]),
    ],
    # Or all of them in all of the time, where that is half as many groups as rows.
    f"{INSERT} SELECT timestamptz '2026-03-02 00:30+00' + i % 2 * interval '1 hour', 3 + i % 3,"
    " 's1', 1 FROM generate_series(1, 12) AS i": [("02 00", 2, ["3", "4", "5"])],
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
    for device in ("i", "greatest(i - 1150, 1)"):  # many from the beginning, or at the end
        db.execute(
            f"INSERT INTO raw.fleet SELECT '2026-03-02 01:00+00', {device}, 's', i"
            " FROM generate_series(1, 1200) AS i".encode()
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
    db.execute(DRAIN)
    work = "SELECT groups, groups_by FROM rollup_engine.work_to_do('fleet_1h', now())"
    assert db.execute(work).fetchone() == (6, "index" if has_index else "scan")
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
