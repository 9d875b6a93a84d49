"""Compares a rollup with the plain GROUP BY over its raw table, in one statement and so in one
snapshot. Nothing here uses the SQL that the engine generates: only its configuration.

On a tie, `first` and `last` may be any of the tied values; the tests keep their times apart.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from described_rollups import Rollup, bucket_of, describe, time_of
from expected_aggregates import comparable, expected_aggregate, is_close_enough, scale


def assert_equal_to_group_by(connection: psycopg.Connection[Any], *rollups: str) -> None:
    """Each live view equals the GROUP BY over raw in every unsealed bucket, and, where the stale
    set is empty, so does the table. In an open transaction it is that one's snapshot."""
    for name in rollups:
        rollup = describe(connection, name)
        _fail_if_different(connection, rollup, rollup.view)
        if stale_set_is_empty(connection, rollup):
            _fail_if_different(connection, rollup, rollup.table)


def assert_settled(connection: psycopg.Connection[Any], *rollups: str) -> None:
    """Nothing is stale, and the tables equal the GROUP BY."""
    for name in rollups:
        rollup = describe(connection, name)
        assert stale_set_is_empty(connection, rollup), f"{name} is still stale"
        _fail_if_different(connection, rollup, rollup.table)
        _fail_if_different(connection, rollup, rollup.view)


def force_configuration(connection: psycopg.Connection[Any], assignments: str) -> None:
    """Updates what only the machinery may: a seal without retention, say."""
    with connection.transaction():
        for trigger in ("guard_configuration", "guard_window"):
            connection.execute(
                f"ALTER TABLE silver.rollup_config DISABLE TRIGGER {trigger}".encode()
            )
        connection.execute(f"UPDATE silver.rollup_config SET {assignments}".encode())
        for trigger in ("guard_configuration", "guard_window"):
            connection.execute(
                f"ALTER TABLE silver.rollup_config ENABLE TRIGGER {trigger}".encode()
            )


def stale_set_is_empty(connection: psycopg.Connection[Any], rollup: Rollup) -> bool:
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute("SELECT isempty(rollup_engine.stale_set(%s))", [rollup.id])
    row = cursor.fetchone()
    return bool(row and row[0])


def expected_query(rollup: Rollup) -> sql.Composed:
    """bucket, dimensions, row_count and every metric, grouped from raw: columns b, d0.., n, m0..;
    with a0.. the sums of absolute values that the tolerance of float sums is relative to."""
    time = time_of(rollup)
    columns: list[sql.Composable] = [sql.SQL("{} AS b").format(bucket_of(rollup, time))]
    columns += [
        sql.SQL("{} AS {}").format(sql.Identifier(d), sql.Identifier(f"d{i}"))
        for i, d in enumerate(rollup.dimensions)
    ]
    columns.append(sql.SQL("count(*)::numeric AS n"))
    for i, (column, aggregate) in enumerate(rollup.metrics):
        columns.append(
            sql.SQL("{} AS {}").format(
                comparable(
                    rollup, column, aggregate, expected_aggregate(rollup, column, aggregate, time)
                ),
                sql.Identifier(f"m{i}"),
            )
        )
        columns.append(
            sql.SQL("{} AS {}").format(scale(rollup, column, aggregate), sql.Identifier(f"a{i}"))
        )
    return sql.SQL(
        "SELECT {columns} FROM {table} AS counted"
        " WHERE {time} >= '0001-01-01 00:00+00'::timestamptz AND {time} <"
        " '10000-01-01 00:00+00'::timestamptz GROUP BY {keys}"
    ).format(
        columns=sql.SQL(", ").join(columns),
        table=rollup.rows,
        time=time,
        keys=sql.SQL(", ").join(sql.SQL(str(n + 1)) for n in range(1 + len(rollup.dimensions))),
    )


def stored_query(rollup: Rollup, relation: str) -> sql.Composed:
    """The same columns from the live view or the table; a table holds no finished values."""
    columns: list[sql.Composable] = [sql.SQL("bucket AS b")]
    columns += [
        sql.SQL("{} AS {}").format(sql.Identifier(d), sql.Identifier(f"d{i}"))
        for i, d in enumerate(rollup.dimensions)
    ]
    columns.append(sql.SQL("row_count::numeric AS n"))
    for i, (column, aggregate) in enumerate(rollup.metrics):
        stored = sql.Identifier(rollup.long_names.get((column, aggregate), f"{column}_{aggregate}"))
        value = comparable(rollup, column, aggregate, stored)
        columns.append(sql.SQL("{} AS {}").format(value, sql.Identifier(f"m{i}")))
        columns.append(sql.SQL("NULL::double precision AS {}").format(sql.Identifier(f"a{i}")))
    return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(columns), sql.SQL(relation))


def differences_query(rollup: Rollup, relation: str) -> sql.Composed:
    """Rows that are not the same on both sides, none when all is well."""
    if relation == rollup.table:
        stored = tuple(x for x in rollup.metrics if x[1] in STORED_AGGREGATES)
        rollup = replace(rollup, metrics=stored)
    keys = sql.SQL(", ").join(
        sql.Identifier(x) for x in ["b", *(f"d{i}" for i in range(len(rollup.dimensions)))]
    )
    differs: list[sql.Composable] = [
        sql.SQL("count(*) <> 2 OR count(DISTINCT side) <> 2 OR min(n) <> max(n)")
    ]
    values: list[sql.Composable] = [sql.SQL("array_agg(n::text ORDER BY side)")]
    for i, (column, aggregate) in enumerate(rollup.metrics):
        names = {"m": sql.Identifier(f"m{i}"), "a": sql.Identifier(f"a{i}")}
        different = "count({m}) = 1 OR min({m}) IS DISTINCT FROM max({m})"
        if is_close_enough(rollup, column, aggregate):
            different += " AND NOT coalesce(max({m}) - min({m}) <= 1e-9 * max({a}), false)"
        differs.append(sql.SQL(different).format(**names))
        values.append(sql.SQL("array_agg({m}::text ORDER BY side)").format(**names))
    return sql.SQL(
        "SELECT {keys}, array_agg(side ORDER BY side), {values} FROM"
        " (SELECT 'raw' AS side, * FROM ({expected}) AS e UNION ALL"
        " SELECT 'rollup', * FROM ({stored}) AS s) AS both_sides"
        " WHERE b >= {sealed} GROUP BY {keys} HAVING {differs} ORDER BY b LIMIT 10"
    ).format(
        keys=keys,
        values=sql.SQL(", ").join(values),
        expected=expected_query(rollup),
        stored=stored_query(rollup, relation),
        sealed=sql.Literal(rollup.sealed_before),
        differs=sql.SQL(" OR ").join(differs),
    )


STORED_AGGREGATES = {
    "count", "sum", "min", "max", "first", "last", "bool_and", "bool_or", "histogram", "increase",
}  # fmt: skip


def refresh_everything(connection: psycopg.Connection[Any]) -> None:
    """Refreshes until nothing is left, open buckets as well; a failed rollup fails the test."""
    is_last = False
    for _ in range(100):
        rows = (
            connection.cursor(row_factory=tuple_row)
            .execute(
                "SELECT target, status, error_code, error_message, ranges_left, buckets"
                " FROM silver.perform_rollup(as_of => 'infinity')"
            )
            .fetchall()
        )
        wrong = [row for row in rows if row[1] not in ("ok", "partial", "waiting_for_parent")]
        assert not wrong, _listed(wrong)
        # Partitions that a call made are known to plans after one more; a window is read in each.
        if not any(row[4] for row in rows) and (is_last or not any(row[5] for row in rows)):
            return
        is_last = not any(row[4] for row in rows)
    raise AssertionError(f"there is no end to it: {rows}")


def _fail_if_different(connection: psycopg.Connection[Any], rollup: Rollup, relation: str) -> None:
    rows = (
        connection.cursor(row_factory=tuple_row)
        .execute(differences_query(rollup, relation))
        .fetchall()
    )
    assert not rows, f"{relation} is not the GROUP BY over {rollup.raw_table}:\n{_listed(rows)}"


def _listed(rows: Sequence[tuple[Any, ...]]) -> str:
    return "\n".join(str(row) for row in rows)
