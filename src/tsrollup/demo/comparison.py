"""Rollups against the plain GROUP BY over the raw table."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from tsrollup.demo.definitions import ROLLUPS, DemoRollup

FLOAT_TOLERANCE = 1e-9  # of the sum of absolute values: the order of addition differs


@dataclass(frozen=True)
class Comparison:
    """Groups of one rollup, and how many differ from GROUP BY in view and table."""

    rollup: str
    groups: int
    gold_differs: int
    table_differs: int


def compare(connection: psycopg.Connection) -> list[Comparison]:
    """Every rollup, all in one snapshot."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return [_compare(connection, rollup) for rollup in ROLLUPS]


def _compare(connection: psycopg.Connection, rollup: DemoRollup) -> Comparison:
    dimensions = sql.SQL(", ").join(map(sql.Identifier, rollup.dimensions))
    aggregates: list[sql.Composable] = [sql.SQL("count(*) AS row_count")]
    differences: list[sql.Composable] = [sql.SQL("kept.row_count IS DISTINCT FROM exact.row_count")]
    for column in rollup.metrics:
        names = {x: sql.Identifier(f"{column}_{x}") for x in ("max", "sum", "size")}
        aggregates.append(
            sql.SQL("max({v}) AS {max}, sum({v}) AS {sum}, sum(abs({v})) AS {size}").format(
                v=sql.Identifier(column), **names
            )
        )
        differences.append(
            sql.SQL(
                "kept.{max} IS DISTINCT FROM exact.{max}"
                " OR (kept.{sum} IS NULL) <> (exact.{sum} IS NULL)"
                " OR abs(kept.{sum} - exact.{sum}) > {tolerance} * exact.{size}"
            ).format(tolerance=FLOAT_TOLERANCE, **names)
        )
    count = sql.SQL(
        "(SELECT count(*) FROM {kept} AS kept FULL JOIN exact USING (bucket, {dimensions})"
        " WHERE {differ})"
    )
    query = sql.SQL(
        "WITH exact AS MATERIALIZED ("
        " SELECT silver.time_bucket({width}::interval, {time}) AS bucket, {dimensions},"
        " {aggregates} FROM {raw} GROUP BY 1, {dimensions})"
        " SELECT (SELECT count(*) FROM exact), {gold}, {table}"
    ).format(
        width=rollup.width,
        time=sql.Identifier(rollup.time_column),
        dimensions=dimensions,
        aggregates=sql.SQL(", ").join(aggregates),
        raw=sql.Identifier(*rollup.raw_table.split(".")),
        **{
            name: count.format(
                kept=sql.Identifier(schema, rollup.table),
                dimensions=dimensions,
                differ=sql.SQL(" OR ").join(differences),
            )
            for name, schema in (("gold", "gold"), ("table", "silver"))
        },
    )
    groups, gold, table = connection.execute(query).fetchone() or (0, 0, 0)
    return Comparison(rollup.table, groups, gold, table)
