"""Metrics that cannot be are one clear line."""

import psycopg
import pytest

from aggregate_levels import TABLE

# fmt: off
BAD = [
    ('{"small": ["avgg"]}', "metric 'avgg' of column small is not an aggregate", "you mean avg"),
    ('{"small": ["P95"]}', "metric 'P95' of column small is not an aggregate", "did you mean p95"),
    ('{"small": ["pN"]}', "metric 'pN' of column small is not an aggregate", "the aggregates are"),
    ('{"small": ["p0"]}', "metric 'p0' of column small is no percentile", "between 0 and 100"),
    ('{"small": ["p100"]}', "metric 'p100' of column small is no percentile", "between 0 and 100"),
    ('{"small": ["p100.5"]}', "metric 'p100.5' of column small is no percentile", "p99.9"),
    ('{"small": ["p95."]}', "metric 'p95.' of column small is not an aggregate", "aggregates"),
    ('{"small": [null]}', "metric 'null' of column small is not an aggregate", "aggregates are"),
    ('{"small": [95]}', "metric '95' of column small is not an aggregate", "aggregates are"),
    ('{"small": [{"name": "p95", "of": 1}]}', "p95 of column small takes no of", "leave that out"),
    ('{"small": [{"nam": "p95"}]}', "is not an aggregate", "aggregates are"),
    ('{"small": [["p95"]]}', "is not an aggregate", "aggregates are"),
    ('{"small": ["histogram"]}', "the bounds of the histogram of column small are missing", "[0"),
    ('{"small": [{"name": "histogram", "bounds": null}]}', "column small are null", "one to a"),
    ('{"small": [{"name": "histogram", "bounds": []}]}', "column small are []", "one to a hundred"),
    ('{"small": [{"name": "histogram", "bounds": [2, 1]}]}', "are [2, 1]", "ascending order"),
    ('{"small": [{"name": "histogram", "bounds": [1, 1.0]}]}', "are [1, 1.0]", "each once"),
    ('{"small": [{"name": "histogram", "bounds": ["NaN"]}]}', 'are ["NaN"]', "numbers"),
    ('{"small": [{"name": "histogram", "bounds": [1, null]}]}', "are [1, null]", "numbers"),
    ('{"small": [{"name": "histogram", "bounds": [1e999]}]}', "are [1000", "numbers"),
    ('{"level": [{"name": "histogram", "bounds": [1e-400, 5]}]}', "are [0.000", "double precision"),
    ('{"small": [{"name": "histogram", "bounds": 7}]}', "are 7", "numbers"),
    ('{"small": [{"name": "histogram", "bounds": [1], "as": "a b"}]}', '"as" of a metric', "name"),
    ('{"small": ["custom"]}', '"as" of a metric of column small is missing', "geomean"),
    ('{"level": [{"name": "custom", "as": "x", "state": "sum({value})", "combine": "sum({state})",'
     ' "finish": "bpchar({state})"}]}', "it makes text of double precision", "see docs"),
    ('{"level": [{"name": "custom", "as": "x", "state": "sum({value})", "combine": "sum({state})",'
     ' "finish": "{state}::text::numeric"}]}', "it makes text of double precision", "see docs"),
    ('{"level": [{"name": "custom", "as": "x", "state": "sum({value})", "combine": "sum({state})",'
     ' "finish": "float8out({state})"}]}', "it makes text of double precision", "see docs"),
    ('{"level": [{"name": "custom", "as": "x", "state": "max({value}::text)",'
     ' "combine": "max({state})", "finish": "{state} || {max}"}]}', "it makes text", "see docs"),
    ('{"flag": ["p95"]}', "p95 needs a number, and column flag of raw.numbers", "use count"),
    ('{"flag": ["sum"]}', "sum needs a number or an interval, and column flag", "use count"),
    ('{"small": ["bool_or"]}', "bool_or needs a boolean, and column small", "use count"),
    ('{"device": ["stddev"]}', "stddev needs a number, and column device", "use count"),
]
# fmt: on


def test_bad_metrics_are_one_clear_line(db: psycopg.Connection) -> None:
    db.execute(TABLE.encode())
    for metrics, message, hint in BAD:
        with pytest.raises(psycopg.Error) as error:
            db.execute(
                "SELECT silver.create_rollup_table('raw.numbers', 'silver', 'bad', '1 minute',"
                " metrics => %s)",
                [metrics],
            )
        assert error.value.sqlstate == "TR001", metrics
        assert message in (error.value.diag.message_primary or ""), metrics
        assert "\n" not in (error.value.diag.message_primary or "")
        assert hint in (error.value.diag.message_hint or ""), error.value.diag.message_hint
