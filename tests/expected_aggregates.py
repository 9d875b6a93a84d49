"""Aggregates as plain SQL over raw rows, and how near to them a stored value has to be."""

from decimal import Decimal
from typing import Any

from psycopg import sql

from described_rollups import OHLC, Rollup

FLOATS = {"real", "double precision"}
NUMBERS = {"smallint", "integer", "bigint", "numeric"} | FLOATS
VARIANCES = {"variance", "variance_pop", "stddev", "stddev_pop"}


def _fraction(aggregate: str) -> float | None:
    if aggregate == "median":
        return 0.5
    if aggregate[0] == "p" and aggregate[1].isdigit():
        return float(Decimal(aggregate[1:].replace("_", ".")) / 100)
    return None


def expected_aggregate(
    rollup: Rollup, column: str, aggregate: str, time: sql.Composable
) -> sql.Composable:
    value: sql.Composable = sql.Identifier(column)
    fraction = _fraction(aggregate)
    if fraction is not None:
        return sql.SQL("percentile_disc({}) WITHIN GROUP (ORDER BY {})").format(
            sql.Literal(fraction), value
        )
    own = rollup.parameters.get((column, aggregate))
    if own or aggregate in SERIES or aggregate in TALLIES:
        return _of_all_rows(rollup, column, aggregate, own or {"name": aggregate}, time)
    aggregate = OHLC.get(aggregate, aggregate)
    if aggregate in ("first", "last"):
        direction = sql.SQL("" if aggregate == "first" else " DESC")
        return sql.SQL("(array_agg({}::text ORDER BY {}{}))[1]").format(value, time, direction)
    if rollup.types[column] == "real" and aggregate in {"sum", "avg"} | VARIANCES:
        value = sql.SQL("{}::double precision").format(value)
    name = {"variance_pop": "var_pop"}.get(aggregate, aggregate)
    if rollup.types[column] == "boolean":
        name = {"min": "bool_and", "max": "bool_or"}.get(name, name)
    return sql.SQL("{}({})").format(sql.SQL(name), value)


def _of_all_rows(
    rollup: Rollup, column: str, aggregate: str, item: dict[str, Any], time: sql.Composable
) -> sql.Composable:
    """Aggregates that PostgreSQL does not have, written out."""
    value: sql.Composable = sql.Identifier(column)
    if item["name"] == "histogram":
        bounds = [float("-inf"), *item["bounds"]]
        return sql.SQL("ARRAY[{}]").format(
            sql.SQL(", ").join(
                sql.SQL(
                    "count({0}) FILTER (WHERE {0} >= {1} AND coalesce({0} < {2}, true))"
                ).format(value, sql.Literal(low), sql.Literal(high))
                for low, high in zip(bounds, [*item["bounds"], None], strict=True)
            )
        )
    if item["name"] == "custom":
        names = ("count", "sum", "min", "max")
        marks = {name: f"{name}({value.as_string()})" for name in names}
        state = item["state"].format(value=value.as_string())
        return sql.SQL(item["finish"].format(state=f"({state})", **marks))
    if aggregate == "distinct":
        return sql.SQL("count(DISTINCT {})").format(value)
    if aggregate == "value_counts":
        return sql.SQL(
            "(SELECT coalesce(jsonb_object_agg(v, n), '{{}}') FROM (SELECT v, count(*) AS n"
            " FROM unnest(array_agg({0}) FILTER (WHERE {0} IS NOT NULL)) AS v GROUP BY v) AS c)"
        ).format(value)
    if aggregate == "mode":
        return sql.SQL(
            "(SELECT v FROM unnest(array_agg({0}) FILTER (WHERE {0} IS NOT NULL)) AS v"
            ' GROUP BY v ORDER BY count(*) DESC, v::text COLLATE "C" LIMIT 1)'
        ).format(value)
    number = "double precision" if rollup.types[column] in FLOATS else "numeric"
    rows = sql.SQL(
        "FROM (SELECT v::{number} AS v, t, lag(v::{number}) OVER w AS before,"
        " extract(epoch FROM lead(t) OVER w - t)::{number} AS lasts"
        " FROM unnest(array_agg({value} ORDER BY {time}, {value}),"
        " array_agg({time} ORDER BY {time}, {value})) WITH ORDINALITY AS u (v, t, n)"
        " WHERE v IS NOT NULL WINDOW w AS (ORDER BY n)) AS steps"
    ).format(number=sql.SQL(number), value=value, time=time)
    increase = "coalesce(sum(CASE WHEN v < before THEN v ELSE v - before END), 0)"
    # The first of a group comes after nothing.
    increase = f"CASE WHEN count(*) > 0 THEN {increase} END"
    seconds = "nullif(extract(epoch FROM max(t) - min(t)), 0)"
    result = {
        "increase": increase,
        "rate": f"{increase} / {seconds}",
        "time_weighted_avg": f"coalesce(sum(v * lasts) / {seconds}, max(v))",
    }[aggregate]
    return sql.SQL("(SELECT {} {})").format(sql.SQL(result), rows)


SERIES = {"increase", "rate", "time_weighted_avg"}
TALLIES = {"distinct", "value_counts", "mode"}


def comparable(
    rollup: Rollup, column: str, aggregate: str, value: sql.Composable
) -> sql.Composable:
    """Numbers compare as numbers, whatever their scale; everything else by its text."""
    is_number = rollup.types[column] in NUMBERS
    if aggregate == "distinct":
        return sql.SQL("{}::numeric").format(value)
    if aggregate in ("value_counts", "mode") or (
        rollup.parameters.get((column, aggregate), {}).get("name") == "histogram"
    ):
        return sql.SQL('{}::text COLLATE "C"').format(value)
    if aggregate in SERIES or (column, aggregate) in rollup.parameters:
        return sql.SQL("{}::double precision").format(value)
    if OHLC.get(aggregate, aggregate) in ("first", "last") or (
        aggregate != "count" and not is_number
    ):
        return sql.SQL('{}::text COLLATE "C"').format(value)
    if aggregate in ("variance", "variance_pop"):
        value = sql.SQL("sqrt({})").format(value)
    if _fraction(aggregate) is not None or aggregate in VARIANCES:
        return sql.SQL("{}::double precision").format(value)
    if aggregate != "count" and rollup.types[column] in FLOATS:
        return sql.SQL("{}::double precision").format(value)
    return sql.SQL("{}::numeric").format(value)


def is_close_enough(rollup: Rollup, column: str, aggregate: str) -> bool:
    """Whether the order of the rows, or the width of a bin, makes a difference that is allowed."""
    if aggregate in ("sum", "avg"):
        return rollup.types[column] in FLOATS
    if aggregate in {"rate", "increase", "time_weighted_avg", "distinct"}:
        return True
    if rollup.parameters.get((column, aggregate), {}).get("name") == "custom":
        return True
    return aggregate in VARIANCES or _fraction(aggregate) is not None


def scale(rollup: Rollup, column: str, aggregate: str) -> sql.Composable:
    """What a thousand millionth of is allowed: of percentiles that makes one in a hundred."""
    value = sql.SQL("{}::double precision").format(sql.Identifier(column))
    if not is_close_enough(rollup, column, aggregate):
        return sql.SQL("NULL::double precision")
    fraction = _fraction(aggregate)
    if fraction is not None:
        return sql.SQL("1e7 * abs(percentile_disc({}) WITHIN GROUP (ORDER BY {}))").format(
            sql.Literal(fraction), value
        )
    if aggregate == "distinct":
        return sql.SQL(
            "CASE WHEN count(DISTINCT {0}) > 1600 THEN 3e7 * count(DISTINCT {0}) END"
        ).format(sql.Identifier(column))
    if aggregate in SERIES:
        return sql.SQL("100 * sum(abs({}))").format(value)
    if (column, aggregate) in rollup.parameters:
        return sql.SQL("1 + abs({})").format(
            expected_aggregate(rollup, column, aggregate, sql.SQL("now()"))
        )
    if aggregate in VARIANCES:
        return sql.SQL("100 * stddev_pop({0}) + 1e-5 * avg(abs({0}))").format(value)
    return sql.SQL("{}(abs({}))").format(sql.SQL(aggregate), value)
