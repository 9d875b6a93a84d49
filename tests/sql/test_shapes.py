"""Sources of every shape: times, types, names, widths, with and without dimensions."""

from typing import Any

import psycopg
import pytest

from described_rollups import describe
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

TIMES = {"timestamptz": "+00", "timestamp": "", "date": ""}


def check(
    connection: psycopg.Connection[Any], *rollups: str, changes: tuple[str, ...] = ()
) -> None:
    """Equal while stale, in both shapes of the query; settles; a second refresh writes nothing."""
    assert_equal_to_group_by(connection, *rollups)
    for shape in ("grouped", "per_bucket", "auto"):
        connection.execute("UPDATE silver.rollup_config SET query_shape = %s", [shape])
        for name in rollups:
            connection.execute("SELECT silver.mark_stale(%s, '-infinity', 'infinity')", [name])
        assert_equal_to_group_by(connection, *rollups)
        refresh_everything(connection)
        assert_settled(connection, *rollups)
        for change in changes:
            connection.execute(change.encode())
            assert_equal_to_group_by(connection, *rollups)
            refresh_everything(connection)
            assert_settled(connection, *rollups)
    for name in rollups:
        connection.execute("SELECT silver.mark_stale(%s, '-infinity', 'infinity')", [name])
    written = connection.execute(
        "SELECT sum(rows_written), sum(rows_deleted)"
        " FROM silver.perform_rollup(as_of => 'infinity')"
    ).fetchone()
    assert written == (0, 0)
    assert_settled(connection, *rollups)


@pytest.mark.parametrize("partitioned", [True, False], ids=["partitioned", "one table"])
@pytest.mark.parametrize("kind", TIMES)
def test_promise_a_kinds_of_time(db: psycopg.Connection, kind: str, partitioned: bool) -> None:
    zone = TIMES[kind]
    db.execute("SET timezone = 'America/St_Johns'")
    db.execute(
        f"CREATE TABLE raw.t (at {kind}, kind text, v integer)".encode()
        + (b" PARTITION BY RANGE (at)" if partitioned else b"")
    )
    if partitioned:
        for month in (1, 2):
            db.execute(
                f"CREATE TABLE raw.t_{month} PARTITION OF raw.t FOR VALUES"
                f" FROM ('2026-{month:02}-01{zone}') TO ('2026-{month + 1:02}-01{zone}')".encode()
            )
    db.execute(
        f"INSERT INTO raw.t SELECT ((timestamp '2026-01-29' + make_interval(hours => 5 * i))"
        f"{' AT TIME ZONE ' + repr('UTC') if kind == 'timestamptz' else ''})::{kind},"
        " CASE i % 3 WHEN 0 THEN NULL ELSE 'k' || i % 3 END, i"
        " FROM generate_series(0, 39) AS i".encode()
    )
    names = ["t_6h", "t_1d", "t_1mon"]
    for name, width in zip(names, ["6 hours", "1 day", "1 month"], strict=True):
        db.execute(
            "SELECT silver.create_rollup_table('raw.t', 'silver', %s, %s, dimensions => '{kind}')",
            [name, width],
        )
    check(
        db,
        *names,
        changes=(
            "UPDATE raw.t SET at = at + interval '3 days' WHERE v BETWEEN 5 AND 9",
            "DELETE FROM raw.t WHERE v = (SELECT min(v) FROM raw.t)",
        ),
    )
    assert db.execute(
        "SELECT date_part('hour', bucket AT TIME ZONE 'UTC')::int % 6 FROM gold.t_6h GROUP BY 1"
    ).fetchall() == [(0,)]


WIDTHS = ["1 second", "7 minutes", "90 minutes", "1 day", "1 week", "36 hours", "1 month"]
WIDTHS += ["3 months", "7 months", "1 year", "10 years"]


def test_promise_a_widths(db: psycopg.Connection) -> None:
    """Each from raw and, where it nests, from a rollup."""
    db.execute("SET timezone = 'Asia/Kathmandu'")
    db.execute("SET intervalstyle = 'iso_8601'")
    for table, step in (("long", "71:13:07"), ("short", "00:01:07")):
        db.execute(
            f"CREATE TABLE raw.{table} AS SELECT timestamptz '1999-12-31 19:02:03+00'"
            f" + i * interval '{step}' AS ts, i / 7.0::double precision AS v, i AS n"
            " FROM generate_series(0, 199) AS i".encode()
        )
    names = []
    for number, width in enumerate(WIDTHS):
        names.append(f"w_{number}")
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval)",
            ["short" if number < 4 else "long", names[-1], width],
        )
    for parent, child, width in (
        ("w_0", "s_1", "1 minute"),
        ("s_1", "s_2", "1 day"),
        ("s_2", "s_3", "1 month"),
        ("s_3", "s_4", "3 months"),
        ("s_4", "s_5", "1 year"),
        ("s_3", "s_6", "10 months"),
    ):
        names.append(child)
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval)",
            [parent, child, width],
        )
    assert_equal_to_group_by(db, *names)
    refresh_everything(db)
    assert_settled(db, *names)
    db.execute("UPDATE raw.long SET ts = ts + interval '100 days' WHERE n % 9 = 0")
    db.execute("UPDATE raw.short SET ts = ts + interval '40 days' WHERE n % 9 = 0")
    assert_equal_to_group_by(db, *names)
    refresh_everything(db)
    assert_settled(db, *names)


def test_promise_a_types(db: psycopg.Connection) -> None:
    """As metrics and, where they have an equality, as dimensions, one at a time."""
    try:
        db.execute(
            "CREATE COLLATION raw.whatever_case"
            " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported:  # built without ICU
        db.execute('CREATE COLLATION raw.whatever_case FROM "C"')
    db.execute(
        """
        CREATE DOMAIN raw.percent AS real CHECK (VALUE BETWEEN 0 AND 100);
        CREATE DOMAIN raw.label AS text;
        CREATE DOMAIN raw.finer AS raw.label;
        CREATE TYPE raw.mood AS ENUM ('sad', 'ok', 'happy');
        CREATE TYPE raw.pair AS (a integer, b text);
        CREATE TABLE raw.zoo (
            ts timestamptz, small smallint, big bigint, exact numeric, fixed numeric(9, 2),
            single real, share raw.percent, doc jsonb, plain json, ok boolean, tags text[],
            matrix integer[], code char(5), short varchar(4), label raw.finer, mood raw.mood,
            name text COLLATE raw.whatever_case, bytes bytea, id uuid, day date, clock timetz,
            stamp timestamp, span interval, addr inet, spot point, pair raw.pair, bits bit(3),
            slot int4range, money money
        );
        INSERT INTO raw.zoo
        SELECT timestamptz '2026-03-01 00:00+00' + make_interval(mins => 13 * i),
            i % 5, i * 10::bigint ^ 12, i / 3.0, i / 4.0, i / 8.0, i % 100,
            jsonb_build_object('i', i % 3), json_build_object('i', i % 3), i % 2 = 0,
            ARRAY['a', i % 3 || ''], ARRAY[[i % 2, 1], [2, 3]], 'c' || i % 3, 'v' || i % 3,
            'l' || i % 3, (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::raw.mood,
            CASE i % 4 WHEN 0 THEN 'Oslo' WHEN 1 THEN 'OSLO' ELSE 'Rome' END,
            ('\\x0' || i % 3)::bytea, ('00000000-0000-0000-0000-00000000000' || i % 3)::uuid,
            date '2026-01-01' + i % 3, '12:00+02', '2026-01-01', make_interval(days => i % 3),
            '10.0.0.1', point(i, 1), ROW(i % 3, 'x')::raw.pair, B'101', int4range(1, 2 + i % 3),
            (i % 3)::text::money
        FROM generate_series(0, 99) AS i;
        INSERT INTO raw.zoo (ts) VALUES ('2026-03-01 00:00:07+00'), ('2026-03-01 23:59:59+00');
        """
    )
    db.execute("SELECT silver.create_rollup_table('raw.zoo', 'silver', 'zoo_1h', '1 hour', 'ts')")
    db.execute("SELECT silver.create_rollup_table('zoo_1h', 'silver', 'zoo_1d', '1 day')")
    without_equality = {"plain", "spot", "ts"}
    columns = [x for x in describe(db, "zoo_1h").types if x not in without_equality]
    for column in columns:
        db.execute(
            "SELECT silver.create_rollup_table('raw.zoo', 'silver', %s, '1 hour', 'ts',"
            ' dimensions => ARRAY[%s], metrics => \'{"big": ["sum", "first", "last"]}\')',
            [f"by_{column}", column],
        )
    names = ["zoo_1h", "zoo_1d", *(f"by_{x}" for x in columns)]
    assert_equal_to_group_by(db, *names)
    refresh_everything(db)
    assert_settled(db, *names)
    db.execute("UPDATE raw.zoo SET name = 'oslo', doc = '{\"i\": 1.0}', exact = exact * 1.00")
    assert_equal_to_group_by(db, *names)
    refresh_everything(db)
    assert_settled(db, *names)
    db.execute("SELECT silver.mark_stale('raw.zoo', '-infinity', 'infinity')")
    rows = db.execute(
        "SELECT target, rows_written + rows_deleted FROM silver.perform_rollup(as_of => 'infinity')"
    ).fetchall()
    assert [row for row in rows if row[1]] == []
    for column in without_equality - {"ts"}:
        with pytest.raises(psycopg.Error) as caught:
            db.execute(
                "SELECT silver.create_rollup_table('raw.zoo', 'silver', 'no', '1 hour', 'ts',"
                " dimensions => ARRAY[%s])",
                [column],
            )
        assert caught.value.sqlstate == "TR001"


def test_promise_a_special_numbers(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.odd (ts timestamptz, f double precision, r real, n numeric)")
    db.execute("SELECT silver.create_rollup_table('raw.odd', 'silver', 'odd_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('odd_1h', 'silver', 'odd_1d', '1 day')")
    for number, value in enumerate(
        ["NaN", "Infinity", "-Infinity", "0", "-0", "1e-30", "-1e30", "1e30", None]
    ):
        db.execute(
            "INSERT INTO raw.odd SELECT timestamptz '2026-03-01 00:00+00'"
            " + make_interval(hours => %s, mins => i), %s, %s, %s FROM generate_series(1, 3) AS i",
            [number // 2, value, value, value],
        )
    check(db, "odd_1h", "odd_1d", changes=("UPDATE raw.odd SET f = -f",))


def test_promise_a_empty_tables(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.nothing (ts timestamptz, v integer) PARTITION BY RANGE (ts)")
    db.execute("SELECT silver.create_rollup_table('raw.nothing', 'silver', 'nothing_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('nothing_1h', 'silver', 'nothing_1d', '1 day')")
    check(db, "nothing_1h", "nothing_1d")
    db.execute("SELECT silver.refresh_rollup('nothing_1d', '2026-01-01', '2026-02-01')")
    db.execute("SELECT silver.mark_stale('raw.nothing', '-infinity', 'infinity')")
    check(db, "nothing_1h", "nothing_1d")


OUTLIERS = ["NULL", "'infinity'", "'-infinity'", "'4713-01-01 00:00+00 BC'", "'294000-01-01+00'"]


def test_promise_j_times_outside_the_calendar(db: psycopg.Connection) -> None:
    """They belong to no bucket and stop no write."""
    db.execute("CREATE TABLE raw.far (ts timestamptz, v integer)")
    db.execute("INSERT INTO raw.far VALUES ('2026-03-01', 1), ('0001-01-01 05:00+00', 2)")
    for outlier in OUTLIERS:
        db.execute(f"INSERT INTO raw.far VALUES ({outlier}, 3)".encode())
    names = ["far_1h", "far_1d", "far_1y"]
    for name, width in zip(names, ["1 hour", "1 day", "1 year"], strict=True):
        db.execute("SELECT silver.create_rollup_table('raw.far', 'silver', %s, %s)", [name, width])
    check(db, *names)
    for outlier in OUTLIERS:
        db.execute(f"INSERT INTO raw.far VALUES ({outlier}, 3)".encode())
        db.execute(
            f"INSERT INTO raw.far VALUES ({outlier}, 3), ('2026-03-01 07:00', 4),"
            f" ('9999-12-31 23:59+00', 5)".encode()
        )
        assert_equal_to_group_by(db, *names)
        db.execute(f"UPDATE raw.far SET ts = {outlier} WHERE v = 4".encode())
        assert_equal_to_group_by(db, *names)
    refresh_everything(db)
    assert_settled(db, *names)
    db.execute("UPDATE raw.far SET ts = '2026-04-01 00:00+00' WHERE v = 3")
    assert_equal_to_group_by(db, *names)
    db.execute("SELECT silver.mark_stale('raw.far', '-infinity', 'infinity')")
    check(db, *names)


@pytest.mark.parametrize("kind", TIMES)
def test_promise_b_buckets_across_the_borders_of_the_calendar(
    db: psycopg.Connection, kind: str
) -> None:
    """Rows before year 1 and from year 10000 on count in them neither live nor stored, whatever
    had them computed."""
    zone = TIMES[kind]
    db.execute(f"CREATE TABLE raw.edge (ts {kind}, v integer)".encode())
    names = ["edge_17h", "edge_1w", "edge_7y", "edge_1000y"]
    for name, width in zip(names, ["17 hours", "1 week", "7 years", "1000 years"], strict=True):
        db.execute("SELECT silver.create_rollup_table('raw.edge', 'silver', %s, %s)", [name, width])
    db.execute("SELECT silver.create_rollup_table('edge_17h', 'silver', 'edge_34h', '34 hours')")
    names.append("edge_34h")
    outside = ("10000-01-01 00:00", "0001-12-31 23:59", "10000-01-01 12:00", "0001-12-31 00:00")
    for number, time in enumerate(("9999-12-31 23:59", "0001-01-01 00:00", *outside)):
        era = " BC" if time.startswith("0001-12") else ""
        db.execute(f"INSERT INTO raw.edge VALUES ('{time}{zone}{era}', {number})".encode())
        assert_equal_to_group_by(db, *names)
        refresh_everything(db)
        assert_settled(db, *names)
    for statement in (
        "SELECT silver.mark_stale('raw.edge', '9999-12-30', '9999-12-31 12:00')",
        "UPDATE raw.edge SET v = v + 1",
        "SELECT silver.mark_stale('raw.edge', '-infinity', 'infinity')",
    ):
        db.execute(statement.encode())
        assert_equal_to_group_by(db, *names)
        refresh_everything(db)
        assert_settled(db, *names)
    for name in names:
        assert db.execute(f"SELECT sum(row_count) FROM gold.{name}".encode()).fetchone() == (2,)


def test_promise_j_a_renamed_time_column_breaks_no_write(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.r (ts timestamptz, v integer) PARTITION BY RANGE (ts)")
    db.execute(
        "CREATE TABLE raw.r_1 PARTITION OF raw.r FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"
    )
    db.execute(
        "CREATE TABLE raw.r_2 PARTITION OF raw.r FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"
    )
    db.execute("INSERT INTO raw.r VALUES ('2026-03-01', 1)")
    db.execute("SELECT silver.create_rollup_table('raw.r', 'silver', 'r_1h', '1 hour')")
    refresh_everything(db)
    db.execute("ALTER TABLE raw.r RENAME ts TO at")
    for write in (
        "INSERT INTO raw.r VALUES ('2026-03-02', 1)",
        "UPDATE raw.r SET at = at + interval '1 year'",
        "MERGE INTO raw.r USING (SELECT 1) AS s ON true"
        " WHEN MATCHED THEN UPDATE SET at = at - interval '1 year'",
        "DELETE FROM raw.r_1 WHERE v = 2",
        "TRUNCATE raw.r_2",
    ):
        db.execute(write.encode())
    db.execute("ALTER TABLE raw.r RENAME at TO ts")
    assert_equal_to_group_by(db, "r_1h")
    db.execute("SELECT silver.reset_rollup_retry('r_1h')")
    refresh_everything(db)
    assert_settled(db, "r_1h")


def test_what_is_stored_at_first_is_stored_in_the_order_of_time(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz, device integer, v integer)")
    db.execute(
        "INSERT INTO raw.t SELECT '2026-01-05Z'::timestamptz + make_interval(secs => i), i % 7, i"
        " FROM generate_series(0, 19999) AS i"
    )
    db.execute("ANALYZE raw.t")
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1m', '1 minute',"
        " dimensions => '{device}')"
    )
    refresh_everything(db)
    assert_settled(db, "t_1m")
    stored = db.execute("SELECT bucket FROM silver.t_1m ORDER BY tableoid, ctid").fetchall()
    assert len(stored) == 2338
    assert stored == sorted(stored)
