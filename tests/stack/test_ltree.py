"""Dimensions of type ltree, rolled up by ancestor: as exact as every other rollup."""

import psycopg
import pytest

from rollup_checks import refresh_everything

# One row for each level that the path reaches, and one for paths that are NULL.
TRUTH = """
    SELECT date_bin('1 hour', ts, '2000-01-03 00:00+00') AS bucket, ancestor::text,
        count(*) AS row_count, sum(watts)::numeric AS watts_sum
    FROM raw.meters
    CROSS JOIN LATERAL (
        SELECT subpath(place, 0, level) AS ancestor
        FROM unnest('{1,3}'::integer[]) AS level WHERE nlevel(place) >= level
        UNION ALL
        SELECT NULL WHERE place IS NULL
    ) AS ancestors
    GROUP BY 1, 2
"""
STORED = "SELECT bucket, place::text, row_count, watts_sum::numeric FROM {}"


@pytest.fixture
def meters(db: psycopg.Connection) -> psycopg.Connection:
    db.execute("CREATE TABLE raw.meters (ts timestamptz, place ltree, watts integer)")
    db.execute(
        "INSERT INTO silver.dimension_config (source_table, dimension_column, ltree_level)"
        " VALUES ('raw.meters', 'place', '{3,1}')"
    )
    db.execute("SELECT silver.create_rollup_table('raw.meters', 'silver', 'meters_1h', '1 hour')")
    insert(db, "2026-03-01 00:00+00")
    return db


def insert(db: psycopg.Connection, start: str) -> None:
    db.execute(
        """
        INSERT INTO raw.meters
        SELECT %s::timestamptz + make_interval(secs => 97 * i),
            CASE i %% 13
                WHEN 0 THEN NULL
                WHEN 1 THEN ''::ltree
                WHEN 2 THEN 'site0'::ltree
                WHEN 3 THEN 'site1.b1'::ltree
                ELSE text2ltree(format('site%%s.b%%s.f%%s.room', i %% 2, i %% 3, i %% 5))
            END, i
        FROM generate_series(1, 300) AS i
        """,
        [start],
    )


def assert_exact(db: psycopg.Connection, relation: str = "gold.meters_1h") -> None:
    stored = STORED.format(relation)
    for query in (f"{TRUTH} EXCEPT {stored}", f"{stored} EXCEPT ({TRUTH})"):
        assert db.execute(query.encode()).fetchall() == []


def test_rows_for_each_level_equal_the_group_by_before_and_after_a_refresh(
    meters: psycopg.Connection,
) -> None:
    assert_exact(meters)
    refresh_everything(meters)
    assert_exact(meters, "silver.meters_1h")
    insert(meters, "2026-03-01 02:00+00")
    meters.execute("UPDATE raw.meters SET place = 'site9.b9.f9' WHERE watts % 17 = 0")
    meters.execute("DELETE FROM raw.meters WHERE place <@ 'site0.b1'")
    assert_exact(meters)
    refresh_everything(meters)
    assert_exact(meters)
    assert_exact(meters, "silver.meters_1h")


def test_a_rollup_of_it_has_the_same_levels(meters: psycopg.Connection) -> None:
    meters.execute("SELECT silver.create_rollup_table('meters_1h', 'silver', 'meters_1d', '1 day')")
    refresh_everything(meters)
    by_level = (
        "SELECT place::text, sum(row_count) FROM gold.{} WHERE place ~ '*{{1}}'"
        " GROUP BY place ORDER BY place"
    )
    hours = meters.execute(by_level.format("meters_1h").encode()).fetchall()
    assert len(hours) == 2
    assert meters.execute(by_level.format("meters_1d").encode()).fetchall() == hours
    with pytest.raises(psycopg.Error, match="holds ancestors at several levels, and is left out"):
        meters.execute(
            "SELECT silver.create_rollup_table('meters_1h', 'silver', 'meters_all', '1 day',"
            " dimensions => '{}')"
        )


def test_its_operators_find_a_gist_index(meters: psycopg.Connection) -> None:
    indexes = meters.execute(
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'meters_1h' AND indexdef ~ 'gist'"
    ).fetchall()
    assert len(indexes) == 1
    refresh_everything(meters)
    meters.execute("SET enable_seqscan = off")
    meters.execute("SET enable_indexscan = on")
    plan = meters.execute("EXPLAIN SELECT * FROM silver.meters_1h WHERE place <@ 'site1.b1'")
    assert any("_place_idx" in line for (line,) in plan.fetchall())


def test_a_rollup_keeps_the_levels_it_was_created_with(meters: psycopg.Connection) -> None:
    meters.execute("UPDATE silver.dimension_config SET ltree_level = '{2}'")
    meters.execute("""SELECT silver.add_rollup_metric('meters_1h', '{"watts": ["max"]}')""")
    refresh_everything(meters)
    assert_exact(meters)


def test_other_dimensions_and_the_whole_path_are_as_before(meters: psycopg.Connection) -> None:
    meters.execute("UPDATE silver.dimension_config SET ltree_level = NULL")
    meters.execute("SELECT silver.create_rollup_table('raw.meters', 'silver', 'whole', '1 hour')")
    refresh_everything(meters)
    expected = meters.execute("SELECT count(DISTINCT place::text) FROM raw.meters").fetchone()
    assert (
        meters.execute("SELECT count(DISTINCT place::text) FROM gold.whole").fetchone() == expected
    )


@pytest.mark.parametrize("levels", ["{0}", "{-1,2}", "{}", "{1,NULL}"])
def test_levels_that_make_no_sense_are_refused(meters: psycopg.Connection, levels: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        meters.execute("UPDATE silver.dimension_config SET ltree_level = %s", [levels])


def test_levels_need_an_ltree_and_only_one(meters: psycopg.Connection) -> None:
    meters.execute("ALTER TABLE raw.meters ADD COLUMN owner ltree, ADD COLUMN kind text")
    configure = (
        "INSERT INTO silver.dimension_config (source_table, dimension_column, ltree_level)"
        " VALUES ('raw.meters', %s, '{1}')"
    )
    create = "SELECT silver.create_rollup_table('raw.meters', 'silver', 'x', '1 hour')"
    meters.execute(configure, ["owner"])
    with pytest.raises(psycopg.Error, match="dimensions have an ltree_level: place, owner"):
        meters.execute(create)
    meters.execute("UPDATE silver.dimension_config SET is_active = false")
    meters.execute(configure, ["kind"])
    with pytest.raises(psycopg.Error, match=r"for dimension kind of raw.meters, which is text"):
        meters.execute(create)
