"""Aggregates beyond sums: each equals the direct computation over raw rows, or is as near to it as
it says, at three levels, read live and stored, whatever comes late or goes."""

import json
import os
import secrets
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from aggregate_levels import (
    GEOMEAN,
    LEVELS,
    METRICS,
    NUMBERS,
    ROWS,
    SPECIAL,
    TABLE,
    create_levels,
    fill,
)
from conftest import Connect
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from servers import PostgresServer

STATEMENTS = [
    ROWS,
    SPECIAL,
    "DELETE FROM raw.numbers WHERE extract(minute FROM ts) = %(low)s",
    "DELETE FROM raw.numbers WHERE level IN ('NaN', 'Infinity', '-Infinity')",
    "UPDATE raw.numbers SET level = level + 1e9, small = small / 2, flag = NOT flag"
    " WHERE extract(minute FROM ts) >= %(low)s",
    "UPDATE raw.numbers SET device = %(device)s WHERE extract(minute FROM ts) < %(low)s",
    "SELECT * FROM silver.perform_rollup(as_of => 'infinity')",
    "SELECT silver.mark_stale('raw.numbers', '-infinity', 'infinity')",
    "UPDATE silver.rollup_config SET query_shape = 'grouped'",
    "UPDATE silver.rollup_config SET query_shape = 'per_bucket'",
]


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    return draw(st.sampled_from([ROWS, ROWS, *STATEMENTS])), {
        "low": draw(st.sampled_from([0, 1, 30, 58, 59])),
        "step": draw(st.sampled_from([0.07, 1, 61])),
        "size": draw(st.sampled_from([1, 2, 5, 200])),
        "seed": draw(st.integers(0, 1000)),
        "device": draw(st.sampled_from([None, "a", "b"])),
        "special": draw(st.sampled_from(["NaN", "Infinity", "-Infinity", "0"])),
    }


def test_promise_a_b_random_values(db: psycopg.Connection) -> None:
    create_levels(db, METRICS)

    @settings(
        max_examples=int(os.environ.get("TSROLLUP_HISTORIES", "10")),
        deadline=None,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(history=st.lists(steps(), min_size=3, max_size=9))
    def tell(history: list[tuple[str, dict[str, Any]]]) -> None:
        with db.transaction(force_rollback=True):
            for statement, parameters in history:
                used = {k: v for k, v in parameters.items() if f"%({k})s" in statement}
                db.execute(statement.encode(), used or None)
            assert_equal_to_group_by(db, *LEVELS)
            refresh_everything(db)
            assert_settled(db, *LEVELS)

    tell()


def test_promise_a_b_random_series(db: psycopg.Connection) -> None:
    """Counters that begin anew, and values that last until the next: across the borders of the
    buckets that a parent holds, wherever late rows come between."""
    metrics = {x: ["increase", "rate", "time_weighted_avg"] for x in ("big", "amount", "coarse")}
    create_levels(db, metrics, "{device}")

    @settings(
        max_examples=int(os.environ.get("TSROLLUP_HISTORIES", "10")),
        deadline=None,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(history=st.lists(steps(), min_size=3, max_size=8))
    def tell(history: list[tuple[str, dict[str, Any]]]) -> None:
        with db.transaction(force_rollback=True):
            for statement, parameters in history:
                if statement == SPECIAL:
                    continue
                used = {k: v for k, v in parameters.items() if f"%({k})s" in statement}
                db.execute(statement.encode(), used or None)
            assert_equal_to_group_by(db, *LEVELS)
            refresh_everything(db)
            assert_settled(db, *LEVELS)

    tell()


@pytest.mark.parametrize("metrics", ['{"big": ["rate"]}', None])
def test_series_are_not_mixed(db: psycopg.Connection, metrics: str | None) -> None:
    db.execute(TABLE.encode())
    db.execute(
        "SELECT silver.create_rollup_table('raw.numbers', 'silver', 'numbers_1m', '1 minute',"
        " dimensions => '{device}', metrics => '{\"big\": [\"rate\"]}')"
    )
    with pytest.raises(psycopg.Error, match="rate of column big goes by one series"):
        db.execute(
            "SELECT silver.create_rollup_table('numbers_1m', 'silver', 'mixed', '1 hour',"
            " dimensions => '{}', metrics => %s)",
            [metrics],
        )


def test_distinct_is_exact_while_few_and_two_percent_off_at_most(db: psycopg.Connection) -> None:
    create_levels(db, {"device": ["distinct"], "level": ["distinct"], "took": ["count"]})
    db.execute(
        "INSERT INTO raw.numbers (ts, device, level)"
        " SELECT timestamptz '2026-03-01 00:00+00' + make_interval(secs => i % 7000),"
        " 'd' || i % 3, i % 60000 / 7.0 FROM generate_series(1, 120000) AS i"
    )
    for _ in range(2):
        assert db.execute(
            "SELECT device_distinct, abs(level_distinct - 60000) < 1200 FROM gold.numbers_1d"
        ).fetchone() == (3, True)
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
    db.execute("DELETE FROM raw.numbers WHERE level > 200")
    assert db.execute("SELECT level_distinct FROM gold.numbers_1d").fetchone() == (1401,)


def test_equal_values_are_one_value(db: psycopg.Connection) -> None:
    """1.0 and 1.00, zero and minus zero; whatever their texts."""
    create_levels(db, {"amount": ["distinct", "mode"], "level": ["distinct", "value_counts"]})
    db.execute(
        "INSERT INTO raw.numbers (ts, amount, level) SELECT '2026-03-01 00:00+00', v, v"
        " FROM unnest('{1.0,1.00,1,0,-0,NaN,2e0}'::text[]) AS t, CAST(t AS numeric) AS v"
    )
    db.execute("UPDATE raw.numbers SET level = '-0' WHERE level = 0 AND ctid < '(0,5)'")
    assert db.execute(
        "SELECT amount_distinct, amount_mode, level_distinct, level_value_counts ->> '1',"
        " level_value_counts_rest FROM gold.numbers_1h"
    ).fetchone() == (4, 1, 4, "3", 0)
    with pytest.raises(psycopg.Error, match="distinct needs a number or a type whose text tells"):
        db.execute(
            "SELECT silver.create_rollup_table('raw.numbers', 'silver', 'no', '1 hour',"
            ' metrics => \'{"took": "distinct"}\')'
        )


def test_promise_a_constants_are_values_of_all_rows(db: psycopg.Connection) -> None:
    db.execute(TABLE.encode())
    fill(db, 300)
    create = (
        "SELECT silver.create_rollup_table('{}', 'silver', '{}', '{}', dimensions => '{{}}',"
        ' metrics => \'{{"one": [{}]}}\', expressions => \'{{"one": "7"}}\')'
    )
    names = '"count", "p50", "increase", "time_weighted_avg", "mode", "last"'
    db.execute(create.format("raw.numbers", "c_1m", "1 minute", names).encode())
    db.execute("SELECT silver.create_rollup_table('c_1m', 'silver', 'c_1h', '1 hour')")
    for _ in range(2):
        assert db.execute(
            "SELECT one_count, round(one_p50), one_increase, one_time_weighted_avg, one_mode,"
            " one_last FROM gold.c_1h"
        ).fetchall() == [(300, 7, 0, 7, 7, 7)]
        refresh_everything(db)
    with pytest.raises(
        psycopg.Error, match=r"cannot be rolled up so: aggregate functions"
    ) as caught:
        db.execute(create.format("raw.numbers", "d", "1 hour", '"distinct"').encode())
    assert caught.value.sqlstate == "TR001"


def test_counts_of_many_values_are_capped(db: psycopg.Connection) -> None:
    """What is left out is counted, and no count is further off than that."""
    create_levels(db, {"small": ["value_counts", "mode"]})
    db.execute(
        "INSERT INTO raw.numbers (ts, device, small)"
        " SELECT timestamptz '2026-03-01 00:00+00' + make_interval(secs => i % 600), 'a',"
        " CASE WHEN i % 3 = 0 THEN 7 ELSE i END FROM generate_series(1, 30000) AS i"
    )
    for _ in range(2):
        row = db.execute(
            "SELECT small_mode, (small_value_counts ->> '7')::bigint, small_value_counts_rest,"
            " (SELECT count(*) FROM jsonb_object_keys(small_value_counts)),"
            " (SELECT sum(value::bigint) FROM jsonb_each_text(small_value_counts))"
            " FROM gold.numbers_1d"
        ).fetchone()
        assert row
        assert (row[0], row[1], row[3]) == (7, 10001, 1000)
        assert row[2] + row[4] == 30000
        refresh_everything(db)


def test_two_histograms_of_a_column_have_two_names(db: psycopg.Connection) -> None:
    low = {"name": "histogram", "bounds": [0, 10.0]}
    high = {"name": "histogram", "bounds": [100], "as": "upper_end"}
    create_levels(db, {"small": [low, high]})
    fill(db, 300)
    for _ in range(2):
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
    assert_settled(db, *LEVELS)
    with pytest.raises(psycopg.Error, match="numbers_1h does not hold what histogram of column"):
        db.execute(
            "SELECT silver.create_rollup_table('numbers_1h', 'silver', 'other', '1 day',"
            ' metrics => \'{"small": {"name": "histogram", "bounds": [1]}}\')'
        )
    with pytest.raises(psycopg.Error, match="two columns small_histogram"):
        db.execute(
            "SELECT silver.create_rollup_table('raw.numbers', 'silver', 'other', '1 day',"
            ' metrics => \'{"small": [{"name": "histogram", "bounds": [1]},'
            ' {"name": "histogram", "bounds": [2]}]}\')'
        )


def test_a_column_of_another_kind_takes_its_variances_anew(db: psycopg.Connection) -> None:
    """Whole numbers store exact squares, floats deviations: one does not become the other."""
    create_levels(db, {"small": ["stddev", "p95"]})
    fill(db, 300)
    refresh_everything(db)
    db.execute("ALTER TABLE raw.numbers ALTER small TYPE double precision")
    db.execute("SELECT * FROM silver.perform_rollup()")
    with pytest.raises(psycopg.Error, match="made in another way for the type that it has now"):
        db.execute("SELECT silver.rebuild_rollup('numbers_1m')")
    for level in reversed(LEVELS):
        db.execute('SELECT silver.drop_rollup_metric(%s, \'{"small": ["stddev"]}\')', [level])
    for call in ("rebuild_rollup(%s)", 'add_rollup_metric(%s, \'{"small": ["stddev"]}\')'):
        for level in LEVELS:
            db.execute(f"SELECT silver.{call}".encode(), [level])
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_promise_a_tallies_have_the_texts_of_their_own_type(db: psycopg.Connection) -> None:
    db.execute("""
        CREATE TABLE raw.texts (ts timestamptz, code char(4), coarse real, fine double precision);
        INSERT INTO raw.texts
        SELECT timestamptz '2026-03-01' + i * interval '20 min', 'ab', 6.7, '-0'
        FROM generate_series(0, 5) AS i;
        SELECT silver.create_rollup_table('raw.texts', 'silver', 'texts_1h', '1 hour', metrics =>
            '{"code": ["mode", "value_counts"], "coarse": ["mode", "value_counts"],
              "fine": ["value_counts"]}');
        SELECT silver.create_rollup_table('texts_1h', 'silver', 'texts_1d', '1 day')
    """)
    for level, n in (("texts_1h", 3), ("texts_1d", 6)):
        for _ in range(2):  # live, and stored
            assert db.execute(
                "SELECT code_mode::text, code_value_counts, coarse_mode, coarse_value_counts,"
                f" fine_value_counts FROM gold.{level} LIMIT 1".encode()
            ).fetchone() == ("ab", {"ab": n}, pytest.approx(6.7), {"6.7": n}, {"0": n})
            refresh_everything(db)


def test_promise_b_tallies_of_values_of_another_type(db: psycopg.Connection) -> None:
    """What is stored are their texts; what they are finished to is of the type of the values."""
    create_levels(db, {"small": ["mode", "value_counts"], "device": ["value_counts"]})
    fill(db, 300)
    refresh_everything(db)
    db.execute("CREATE VIEW public.on_top AS SELECT small_mode FROM gold.numbers_1h")
    db.execute(
        "ALTER TABLE raw.numbers ALTER small TYPE double precision, ALTER device TYPE varchar"
    )
    db.execute("UPDATE raw.numbers SET small = small + 0.5")
    db.execute("SELECT * FROM silver.perform_rollup()")
    message = "stores small_tally as integer, and its source has double precision now"
    assert db.execute(
        "SELECT health, reason, next_step FROM silver.timeseries_operations_monitor"
        " WHERE target_table = 'silver.numbers_1m'"
    ).fetchone() == (
        "invalid",
        f"silver.numbers_1m {message}",
        "SELECT silver.rebuild_rollup('silver.numbers_1m')",
    )
    with pytest.raises(psycopg.Error, match=message):
        db.execute("SELECT count(small_mode) FROM gold.numbers_1m")
    with pytest.raises(psycopg.Error, match=r"other types, and public\.on_top rests on"):
        db.execute("SELECT silver.rebuild_rollup('numbers_1m')")
    db.execute("DROP VIEW public.on_top")
    db.execute("SELECT silver.rebuild_rollup('numbers_1m')")
    assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    assert_settled(db, *LEVELS)
    for level in LEVELS:
        assert db.execute(
            f"SELECT pg_typeof(small_mode)::text FROM gold.{level} LIMIT 1".encode()
        ).fetchone() == ("double precision",)


def test_parameters_of_dropped_metrics_are_compared(db: psycopg.Connection) -> None:
    histogram = {"name": "histogram", "bounds": [0, 10]}
    create_levels(db, {"small": ["max", histogram, GEOMEAN, "p50"]})
    fill(db, 100)
    refresh_everything(db)
    with pytest.raises(psycopg.Error):
        db.execute(
            "SELECT silver.drop_rollup_metric('numbers_1d',"
            ' \'{"small": [{"name": "histogram", "bounds": [1]}]}\')'
        )
    for level in reversed(LEVELS):
        db.execute(
            "SELECT silver.drop_rollup_metric(%s, %s)",
            [level, json.dumps({"small": [histogram, GEOMEAN]})],
        )
    assert_equal_to_group_by(db, *LEVELS)
    columns = db.execute(
        "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'silver.numbers_1d'::regclass AND attnum > 0 AND NOT attisdropped"
    ).fetchone()
    assert columns == (["bucket", "row_count", "small_max", "small_sketch"],)
    refresh_everything(db)
    assert_settled(db, *LEVELS)


def test_promise_f_what_nobody_knows_is_null_at_every_level(db: psycopg.Connection) -> None:
    """A metric that came after the seal; where there are no values, that is known."""
    create_levels(db, {"small": ["count"], "level": ["rate"]}, kept="{device}")
    fill(db, 3)
    fill(db, 3, low=120)
    db.execute("UPDATE raw.numbers SET small = NULL WHERE ts > '2026-03-02 00:00+00'")
    refresh_everything(db)
    force_configuration(
        db,
        "sealed_before = CASE target_table::text WHEN 'silver.numbers_1m'"
        " THEN timestamptz '2026-03-01 23:00+00' END",
    )
    counted = {
        **GEOMEAN, "as": "n", "state": "count({value})",
        "combine": "coalesce(sum({state}), 0)", "finish": "{state}",
    }  # fmt: skip
    metrics = json.dumps({
        "small": [*NUMBERS, "value_counts", "mode", "increase", counted],
        "level": ["time_weighted_avg"],
    })  # fmt: skip
    for level in LEVELS:
        db.execute("SELECT silver.add_rollup_metric(%s, %s)", [level, metrics])
    query = "SELECT to_jsonb(v) - 'small_count' FROM gold.{} AS v ORDER BY bucket"
    empty = {"small_distinct": 0, "small_histogram": [0] * 5, "small_value_counts": {}}
    for _ in range(2):
        for level in LEVELS[1:]:
            unknown, known = (row[0] for row in db.execute(query.format(level).encode()))
            small = {name: x for name, x in unknown.items() if name.startswith("small_")}
            assert set(small.values()) == {None}, (level, small)
            assert {name: known[name] for name in empty} == empty
            assert known["small_n"] == 0
            assert unknown["level_time_weighted_avg"] is None
        refresh_everything(db)


def test_promise_f_a_bucket_of_which_a_part_is_unknown_is_null(db: psycopg.Connection) -> None:
    """Its other columns are of all rows, and what lies behind it is whole."""
    create_levels(db, {"small": ["avg"], "level": ["rate"]}, kept="{device}")
    for low in (0, 40, 70):
        fill(db, 3, low=low)
    refresh_everything(db)
    force_configuration(
        db,
        "sealed_before = CASE target_table::text WHEN 'silver.numbers_1m'"
        " THEN timestamptz '2026-03-01 22:30+00' END",
    )
    metrics = {"small": [*NUMBERS, GEOMEAN, "mode"], "level": ["time_weighted_avg", "stddev"]}
    for level in LEVELS:
        db.execute("SELECT silver.add_rollup_metric(%s, %s)", [level, json.dumps(metrics)])
    query = "SELECT to_jsonb(v) - '{bucket,device}'::text[] FROM gold.{} AS v ORDER BY bucket"
    old = {"row_count", "small_count", "small_sum", "small_avg", "level_increase", "level_rate"}
    for late in (0, 1):
        for level, n in (("numbers_1h", 6 + late), ("numbers_1d", 9 + late)):
            first, *later = (row[0] for row in db.execute(query.replace("{}", level, 1).encode()))
            known = {x for x, y in first.items() if y is not None and "_series_" not in x}
            assert known == old, (level, first)
            assert first["row_count"] == first["small_count"] == n
            assert all(None not in row.values() for row in later), later
        refresh_everything(db)
        fill(db, 1, low=45)


def test_promise_d_states_settle(db: psycopg.Connection) -> None:
    """Rows read in another order are the same rows: nothing is written again."""
    # Nothing that goes by time: then PostgreSQL would sort the rows.
    create_levels(
        db,
        {
            "small": ["p95", "distinct"],
            "level": ["stddev", "p50", "distinct", GEOMEAN],
            "coarse": ["variance", "avg"],
        },
    )
    fill(db, 3000)
    fill(db, 3000, step=0.011, device="b")
    db.execute("UPDATE raw.numbers SET level = 1e9 + random(), coarse = random()")
    refresh_everything(db)
    db.execute("CREATE TABLE other_order AS SELECT * FROM raw.numbers ORDER BY random()")
    db.execute("DELETE FROM raw.numbers")
    db.execute("INSERT INTO raw.numbers SELECT * FROM other_order")
    db.execute("DROP INDEX raw.numbers_ts_idx")
    db.execute("UPDATE silver.rollup_config SET query_shape = 'grouped'")
    rows = db.execute(
        "SELECT target, rows_written FROM silver.perform_rollup(as_of => 'infinity')"
        " WHERE buckets > 0"
    ).fetchall()
    assert {row[0] for row in rows} == {f"silver.{name}" for name in LEVELS}
    assert all(written == 0 for _, written in rows), rows
    assert_settled(db, *LEVELS)


def test_variance_far_from_zero(db: psycopg.Connection) -> None:
    """A mean of 1e9 and a spread of 1: squares of the values would leave nothing of it."""
    create_levels(db, {"level": ["variance", "stddev_pop"], "big": ["variance"]})
    db.execute(
        "INSERT INTO raw.numbers (ts, device, level, big)"
        " SELECT timestamptz '2026-03-01 00:00+00' + make_interval(secs => i),"
        " 'd' || i %% 3, 1e9 + sin(i), 4e18::bigint + i %% 3 FROM generate_series(1, 20000) AS i",
        [],
    )
    for _ in range(2):
        row = db.execute(
            "SELECT r.variance, g.level_variance, r.pop, g.level_stddev_pop,"
            " r.exact = g.big_variance FROM gold.numbers_1d AS g,"
            " (SELECT var_samp(level) AS variance, stddev_pop(level) AS pop,"
            " var_samp(big) AS exact FROM raw.numbers) AS r"
        ).fetchone()
        assert row
        assert row[1] == pytest.approx(row[0], rel=1e-6)
        assert 0.4 < row[1] < 0.6
        assert row[3] == pytest.approx(row[2], rel=1e-6)
        assert row[4]
        refresh_everything(db)


def test_a_small_change_of_a_spread_is_a_change(db: psycopg.Connection) -> None:
    """Three in a thousand of the variance of 3000 values, far from zero, whose sum stays."""
    row = db.execute(
        "SELECT rollup_engine.deviations_differ(250.0, 250.8, 3000, 3e12),"
        " rollup_engine.deviations_differ(250.0, 250.0001, 3000, 3e12),"
        " rollup_engine.deviations_differ(250.0, 250.0000000000001, 3000, 0),"
        " rollup_engine.deviations_differ(0, 5e-324, 3000, 5e-324),"
        " rollup_engine.deviations_differ('NaN', 'Infinity', 3, 0),"
        " rollup_engine.deviations_differ('NaN', 'NaN', 3, 'NaN'),"
        " rollup_engine.deviations_differ(NULL, 1, 3, 0),"
        " rollup_engine.deviations_differ(1e-300, 2e-300, 3, 1e-100)"
    ).fetchone()
    assert row == (True, False, False, True, True, False, True, False)


def test_infinite_and_absent_values(db: psycopg.Connection) -> None:
    create_levels(db, METRICS)
    for minute, values in enumerate(
        (["NaN"], ["Infinity"], ["-Infinity", "1"], ["NaN", "Infinity"], [None], [None, "0"])
    ):
        db.execute(
            "INSERT INTO raw.numbers (ts, device, amount, level, coarse)"
            " SELECT timestamptz '2026-03-01 22:00+00' + make_interval(mins => %s, secs => n),"
            " 'a', v::numeric, v::numeric, v::numeric"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS x (v, n)",
            [minute, values],
        )
    for _ in range(2):
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
    assert_settled(db, *LEVELS)
    assert db.execute(
        "SELECT level_stddev::text, level_p1, level_median::text FROM gold.numbers_1d"
    ).fetchone() == ("NaN", float("-inf"), "Infinity")


def test_aggregates_are_added_to_what_is_there(db: psycopg.Connection) -> None:
    create_levels(db, {"small": ["avg"], "level": ["max"]})
    fill(db, 500)
    refresh_everything(db)
    for level in LEVELS:
        db.execute(
            'SELECT silver.add_rollup_metric(%s, \'{"small": ["stddev", "p99.9"],'
            ' "level": ["variance", "median", "ohlc"]}\')',
            [level],
        )
        assert_equal_to_group_by(db, *LEVELS)
    refresh_everything(db)
    assert_settled(db, *LEVELS)
    with pytest.raises(psycopg.Error, match="does not hold what stddev of column amount needs"):
        db.execute("SELECT silver.add_rollup_metric('numbers_1h', '{\"amount\": [\"stddev\"]}')")


def test_promise_a_ltree_levels_and_paths(db: psycopg.Connection) -> None:
    if not db.execute("SELECT 1 FROM pg_extension WHERE extname = 'ltree'").fetchone():
        pytest.skip("no ltree here")
    db.execute(TABLE.encode())
    db.execute("ALTER TABLE raw.numbers ADD path ltree")
    fill(db, 900)
    db.execute("UPDATE raw.numbers SET path = text2ltree('site.b' || abs(small) % 3)")
    db.execute(
        "INSERT INTO silver.dimension_config (source_table, dimension_column, ltree_level)"
        " VALUES ('raw.numbers', 'path', '{1,2}')"
    )
    metrics = {"small": ["stddev", "p95"], "level": ["stddev", "median"]}
    for source, target, width in (
        ("raw.numbers", "paths_1m", "1 minute"),
        ("paths_1m", "paths_1h", "1 hour"),
    ):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s, metrics => %s)",
            [source, target, width, json.dumps(metrics)],
        )
    expected = db.execute(
        "SELECT stddev(small), stddev(level), percentile_disc(0.95) WITHIN GROUP (ORDER BY small)"
        " FROM raw.numbers"
    ).fetchone()
    assert expected
    for _ in range(2):
        row = db.execute(
            "SELECT small_stddev, level_stddev, small_p95 FROM gold.paths_1h WHERE path = 'site'"
        ).fetchone()
        assert row
        for stored, direct, tolerance in zip(row, expected, (1e-12, 1e-9, 0.01), strict=True):
            assert float(stored) == pytest.approx(float(direct), rel=tolerance)
        refresh_everything(db)


def test_readers_of_gold_may_have_it_finished(
    server: PostgresServer, connect: Connect, db: psycopg.Connection
) -> None:
    create_levels(db, {"small": ["p95"]})
    fill(db, 10)
    reader = sql.Identifier(f"t_reader_{secrets.token_hex(4)}")
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as postgres:
        postgres.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE tsrollup_reader").format(reader))
        try:
            with connect(user=reader.as_string().strip('"')) as connection:
                rows = connection.execute("SELECT count(small_p95) FROM gold.numbers_1h")
                assert rows.fetchone() == (1,)
        finally:
            postgres.execute(sql.SQL("DROP ROLE {}").format(reader))
