"""What expressions and filters name may become another: the rollup follows, or says so."""

import json

import psycopg
import pytest

from calls import FILL, SOURCE, add, create, make_levels, nothing_is_left
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)


@pytest.fixture
def levels(db: psycopg.Connection) -> tuple[str, ...]:
    return make_levels(db)


def test_columns_may_be_renamed_and_retyped(
    db: psycopg.Connection, levels: tuple[str, ...]
) -> None:
    refresh_everything(db)
    before = [db.execute(f"SELECT * FROM gold.{x} ORDER BY 1, 2, 3").fetchall() for x in levels]
    db.execute('ALTER TABLE raw.calls RENAME status TO "sta""tus {x}"')
    db.execute("ALTER TABLE raw.calls RENAME payload TO host_payload")
    refresh_everything(db)
    db.execute('ALTER TABLE raw.calls ALTER "sta""tus {x}" TYPE bigint')
    refresh_everything(db)
    assert (
        db.execute(
            "SELECT problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
        ).fetchall()
        == []
    )
    after = [db.execute(f"SELECT * FROM gold.{x} ORDER BY 1, 2, 3").fetchall() for x in levels]
    assert after == before
    db.execute('UPDATE raw.calls SET "sta""tus {x}" = 500 WHERE host = \'h0\'')
    live = db.execute("SELECT sum(failed_count) FROM gold.calls_1m").fetchone()
    assert (
        live
        == db.execute(
            'SELECT count(*) FROM raw.calls WHERE "sta""tus {x}" >= 500'
            " AND host_payload ->> 'region' <> 'r2'"
        ).fetchone()
    )
    refresh_everything(db)
    assert db.execute("SELECT sum(failed_count) FROM gold.calls_1m").fetchone() == live
    # Rebuilt, it reads the same.
    db.execute("SELECT silver.rebuild_rollup('calls_1m')")
    refresh_everything(db)
    assert db.execute("SELECT sum(failed_count) FROM gold.calls_1m").fetchone() == live
    assert nothing_is_left(db)


def test_a_day_that_comes_near_is_no_day_of_now(db: psycopg.Connection) -> None:
    db.execute(SOURCE + FILL)
    (iso, spelled) = db.execute(
        "SELECT d::text, to_char(d, 'MM/DD/YYYY')"
        " FROM (SELECT (now() AT TIME ZONE 'UTC')::date) AS today (d)"
    ).fetchone() or ("", "")
    with pytest.raises(psycopg.Error, match="another one each day") as caught:
        create(db, "c", "raw.calls", "1 hour", filter=f"status > 0 OR ts > '{spelled}'")
    assert "write days as in 2026-03-01" in (caught.value.diag.message_hint or "")
    create(db, "c", "raw.calls", "1 hour", filter=f"status > 0 OR ts > '{iso}'")
    force_configuration(db, f"filter = replace(filter, '{iso}', '{spelled}')")  # long ago
    db.execute("ALTER TABLE raw.calls ALTER status TYPE bigint")
    db.execute("SELECT * FROM silver.perform_rollup()")
    assert db.execute("SELECT row_sql ? 'problem' FROM silver.rollup_config").fetchone() == (False,)


def test_promise_b_after_a_rename_the_new_name_counts(db: psycopg.Connection) -> None:
    """In expressions, metrics and what is dropped; the old one may be another column's."""
    db.execute(SOURCE + FILL)
    create(
        db,
        "c",
        "raw.calls",
        "1 hour",
        dimensions=[],
        metrics={"spent": ["avg"], "twice": ["sum"]},
        expressions={"twice": "spent * 2"},
        filter="spent < 15",
    )
    refresh_everything(db)
    db.execute('ALTER TABLE raw.calls RENAME spent TO "s pent"')
    refresh_everything(db)
    with pytest.raises(psycopg.Error, match='expression half: column "spent" does not exist'):
        add(db, {"half": ["sum"]}, {"half": "spent / 2"})
    with pytest.raises(psycopg.Error, match=r"twice of silver\.c is another one already: .*s pent"):
        add(db, {"twice": ["min"]}, {"twice": "spent"})
    add(db, {"half": ["sum"], "s pent": ["max"]}, {"half": '"s pent" / 2'})
    add(db, {"twice": ["min"]}, {"twice": "spent * 2"})
    # Once more, and for a while another column had the name.
    db.execute(
        'ALTER TABLE raw.calls RENAME "s pent" TO "s""pent"; ALTER TABLE raw.calls ADD spent int;'
        'ALTER TABLE raw.calls DROP spent, ALTER "s""pent" TYPE numeric'
    )
    db.execute("SELECT * FROM silver.perform_rollup()")
    db.execute("SELECT silver.rebuild_rollup('c')")
    for _ in range(2):
        assert (
            db.execute(
                'SELECT bucket, spent_avg, half_sum, "s pent_max", twice_min, twice_sum'
                " FROM gold.c ORDER BY 1"
            ).fetchall()
            == db.execute(
                'SELECT silver.time_bucket(\'1 hour\', ts), avg("s""pent"), sum("s""pent" / 2),'
                ' max("s""pent"), min("s""pent" * 2), sum("s""pent" * 2)'
                ' FROM raw.calls WHERE "s""pent" < 15 GROUP BY 1 ORDER BY 1'
            ).fetchall()
        )
        refresh_everything(db)
    for dropped in ("avg", "max"):
        db.execute("SELECT silver.drop_rollup_metric('c', %s)", [json.dumps({'s"pent': [dropped]})])
    assert db.execute("SELECT metrics FROM silver.rollup_config").fetchone() == (
        {"half": ["sum"], "twice": ["min", "sum"]},
    )


def test_a_change_of_the_filters_column_alone_is_taken_in(db: psycopg.Connection) -> None:
    db.execute(SOURCE)
    db.execute(FILL)
    create(
        db,
        "c",
        "raw.calls",
        "1 hour",
        dimensions=[],
        metrics={"spent": ["sum"]},
        filter="status = 200",
    )
    refresh_everything(db)
    db.execute("ALTER TABLE raw.calls ALTER status TYPE integer USING status - 200")
    db.execute("ALTER TABLE raw.calls ALTER status TYPE integer USING status + 304")
    refresh_everything(db)
    assert_settled(db, "c")
    db.execute("ALTER TABLE raw.calls DROP status")
    assert db.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchone() == (
        "invalid",
    )


def test_what_is_no_longer_the_same_at_all_times_is_invalid(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz, due timestamp, v integer)")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01', '2026-03-01 23:00', 1)")
    create(
        db,
        "c",
        "raw.t",
        "1 hour",
        time_column="ts",
        dimensions=["day"],
        metrics={"v": ["sum"]},
        expressions={"day": "due::date"},
    )
    refresh_everything(db)
    db.execute("ALTER TABLE raw.t ALTER due TYPE timestamptz")
    db.execute("SELECT * FROM silver.perform_rollup()")
    problem = db.execute(
        "SELECT problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchone()
    assert problem
    assert "expression day: expression is not immutable" in problem[0]
    db.execute("ALTER TABLE raw.t ALTER due TYPE timestamp")
    refresh_everything(db)
    assert db.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchone() == (
        "ok",
    )
    assert_settled(db, "c")


@pytest.mark.usefixtures("levels")
def test_a_column_of_the_expressions_name_that_comes_later_changes_nothing(
    db: psycopg.Connection,
) -> None:
    refresh_everything(db)
    before = db.execute("SELECT * FROM gold.calls_1m ORDER BY 1, 2, 3").fetchall()
    db.execute("ALTER TABLE raw.calls ADD region text DEFAULT 'trap', ADD failed integer DEFAULT 9")
    db.execute("ALTER TABLE raw.calls ALTER spent TYPE double precision USING spent")
    refresh_everything(db)
    assert db.execute("SELECT * FROM gold.calls_1m ORDER BY 1, 2, 3").fetchall() == before


def test_enums_and_domains_of_columns(db: psycopg.Connection) -> None:
    db.execute("CREATE TYPE raw.mood AS ENUM ('good', 'bad')")
    db.execute("CREATE DOMAIN raw.score AS integer CHECK (value > 0)")
    db.execute("CREATE TYPE raw.spot AS (x integer, y integer)")
    db.execute("CREATE TABLE raw.t (ts timestamptz, mood raw.mood, score raw.score, spot raw.spot)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01' + make_interval(mins => i),"
        " (ARRAY['good', 'bad'])[1 + i % 2]::raw.mood, 1 + i % 7, ROW(i, i % 3)::raw.spot"
        " FROM generate_series(1, 300) AS i"
    )
    create(
        db,
        "c",
        "raw.t",
        "1 hour",
        dimensions=["fine", "y"],
        metrics={"score": ["sum"], "twice": ["max"]},
        expressions={
            "fine": "mood IN ('good')",
            "y": "(spot).y",
            "twice": "coalesce(score, 0) * 2",
        },
        filter="mood <= 'bad'::raw.mood AND score <> 3",
    )
    assert_equal_to_group_by(db, "c")
    refresh_everything(db)
    assert_settled(db, "c")


def test_promise_b_what_an_expression_names_becomes_another(db: psycopg.Connection) -> None:
    db.execute("CREATE COLLATION public.c FROM \"C.utf8\"; CREATE TYPE raw.mood AS ENUM ('a', 'b')")
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, h text);"
        " CREATE TABLE raw.u (ts timestamptz, m raw.mood[])"
    )
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01' + make_interval(mins => 7 * i),"
        " (ARRAY['x', 'ä', 'Ä'])[1 + i % 3] FROM generate_series(1, 50) AS i"
    )
    db.execute(
        "INSERT INTO raw.u SELECT ts, ARRAY[CASE h WHEN 'x' THEN 'a' ELSE 'b' END::raw.mood]"
        " FROM raw.t"
    )
    upper = {"x": "upper(h COLLATE public.c) = 'Ä'"}
    create(
        db, "t1", "raw.t", "1 hour", dimensions=["x"], metrics={"h": ["count"]}, expressions=upper
    )
    create(db, "t2", "raw.t", "1 day", dimensions=[], filter="upper(h COLLATE public.c) = 'Ä'")
    create(db, "u1", "raw.u", "1 hour", expressions={"n": "CASE WHEN m[1] = 'a' THEN 1 END"})
    create(db, "u2", "u1", "1 day")
    with pytest.raises(psycopg.Error, match="it hashes an enum") as caught:
        create(db, "u3", "raw.u", "1 hour", filter="hash_array(m) > 0")
    assert caught.value.sqlstate == "TR001"
    for _ in range(2):
        refresh_everything(db)
    for unseen, change in (
        ({"t1", "t2"}, 'DROP COLLATION public.c; CREATE COLLATION public.c FROM "C"'),
        ({"u1", "u2"}, "ALTER TYPE raw.mood ADD VALUE 'c' BEFORE 'a'"),
        (
            {"u1", "u2"},
            "ALTER TYPE raw.mood RENAME VALUE 'a' TO '-'; ALTER TYPE raw.mood RENAME VALUE 'b' TO"
            " 'a'; ALTER TYPE raw.mood RENAME VALUE '-' TO 'b'",
        ),
    ):
        db.execute(change)
        invalid = db.execute(
            "SELECT target_table::text FROM silver.timeseries_operations_monitor"
            " WHERE health = 'invalid' AND reason ~ 'another one now since the last run'"
        ).fetchall()
        assert {name.removeprefix("silver.") for (name,) in invalid} == (
            set() if "ADD VALUE" in change else unseen
        )
        refresh_everything(db)
        assert_settled(db, "t1", "t2", "u1", "u2")
    db.execute(
        """SELECT silver.drop_rollup('t2'), silver.drop_rollup_metric('u2', '{"n": ["sum"]}')"""
    )
    assert db.execute(
        "SELECT sum(stale_buckets) FROM silver.timeseries_operations_monitor"
    ).fetchone() == (0,)
    assert_settled(db, "t1", "u1", "u2")
