"""Metrics that are none, and parameters that do not fit."""

from typing import Any

import psycopg
import pytest

from blackbox.levels_reference import MIXED
from blackbox.rollup_reference import create

WRONG: list[dict[str, Any]] = [
    {"f": ["p0"]}, {"f": ["p100"]}, {"f": ["p"]}, {"f": ["p-5"]},
    {"f": ["P95"]}, {"f": ["p 95"]}, {"f": ["percentile"]}, {"f": ["median "]}, {"f": [""]},
    {"t": ["avg"]}, {"t": ["p95"]}, {"t": ["stddev"]}, {"t": ["increase"]}, {"b": ["sum"]},
    {"f": ["bool_and"]}, {"t": ["histogram"]}, {"f": ["histogram"]}, {"f": ["custom"]},
    {"f": [{"name": "histogram"}]}, {"f": [{"name": "histogram", "bounds": []}]},
    {"f": [{"name": "histogram", "bounds": [10, 0]}]},
    {"f": [{"name": "histogram", "bounds": [1, 1]}]},
    {"f": [{"name": "histogram", "bounds": ["a"]}]},
    {"f": [{"name": "histogram", "bounds": [None, 1]}]},
    {"f": [{"name": "histogram", "bounds": "0, 1"}]},
    {"f": [{"bounds": [1]}]}, {"f": [{}]}, {"f": [{"name": "nothing"}]}, {"f": [{"name": 1}]},
    {"f": [{"name": "avg", "bounds": [1]}]},
    {"f": [{"name": "custom", "as": "x"}]},
    {"f": [{"name": "custom", "as": "x", "state": "sum({value})"}]},
    {"f": [{"name": "custom", "as": "x", "state": "{value}", "combine": "sum({state})",
            "finish": "{state}"}]},
    {"f": [{"name": "custom", "as": "x", "state": "(SELECT sum(f) FROM raw.mixed)",
            "combine": "sum({state})", "finish": "{state}"}]},
    {"f": [{"name": "custom", "as": "x", "state": "sum({value})) FROM raw.mixed; SELECT (1",
            "combine": "sum({state})", "finish": "{state}"}]},
    {"f": [{"name": "custom", "as": "x", "state": "sum({value})", "combine": "sum({state})",
            "finish": "now()"}]},
    {"f": [{"name": "custom", "as": "x", "state": "sum({value} * random())",
            "combine": "sum({state})", "finish": "{state}"}]},
    {"f": [{"name": "histogram", "bounds": [1]}, {"name": "histogram", "bounds": [2]}]},
    {"f": ["avg", {"name": "custom", "as": "avg", "state": "sum({value})",
                   "combine": "sum({state})", "finish": "{state}"}]},
    {"f": [{"name": "custom", "as": "", "state": "sum({value})", "combine": "sum({state})",
            "finish": "{state}"}]},
    {"missing": ["p95"]}, {"f": []}, {"f": None},
]  # fmt: skip


def test_aggregates_that_are_none_are_refused(db: psycopg.Connection) -> None:
    """In one line, before anything is made."""
    db.execute(MIXED)
    through = []
    for metrics in WRONG:
        try:
            with db.transaction(force_rollback=True):
                create(db, "raw.mixed", "wrong_1h", "1 hour", metrics=metrics)
            through.append((metrics, "let through"))
        except psycopg.Error as error:
            if len(str(error.diag.message_primary).splitlines()) != 1:
                through.append((metrics, str(error.diag.message_primary)))
    assert not through, "\n".join(str(x) for x in through)
    with db.transaction(force_rollback=True):
        create(db, "raw.mixed", "parent_1h", "1 hour", metrics={"f": ["avg", "distinct"]})
        for aggregate in ("p95", "stddev", "mode", "ohlc", "last"):
            with pytest.raises(psycopg.Error), db.transaction():
                create(db, "parent_1h", "child_1d", "1 day", metrics={"f": [aggregate]})
    assert db.execute("SELECT count(*) FROM silver.rollup_config").fetchone() == (0,)
