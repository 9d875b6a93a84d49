"""What charts show of a live view: which columns it has, where there is data, and points.

Everything of one chart is read in one snapshot, and there is never more of it than people can see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from tsrollup.dashboard.queries import Connection, Rollup, may_read_configuration, read
from tsrollup.errors import TsrollupError

MOST_SERIES = 8
MOST_BUCKETS = 1500
MOST_VALUES = 200
MOST_STALE_RANGES = 200
# What a double cannot hold, a chart cannot show.
DRAWN: LiteralString = (
    "CASE WHEN abs(value) < 1e-300 THEN 0 WHEN abs(value) < 1e308 THEN value::float8 END"
)


@dataclass(frozen=True)
class View:
    """A live view: `name` is quoted where it has to be; `metrics` are its columns of numbers;
    `may_combine` where the role may know how values of groups make that of all of them."""

    name: str
    schema_and_table: tuple[str, str]
    columns: tuple[str, ...]
    may_combine: bool
    dimensions: tuple[str, ...]
    metrics: tuple[str, ...]


def view(connection: Connection, name: str) -> View | None:
    """What a live view has to show; None where there is none of that name to be read."""
    rows = read(
        connection,
        "SELECT n.nspname, c.relname, a.attname, t.typcategory = 'N' AS is_number"
        " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " JOIN pg_type AS t ON t.oid = a.atttypid"
        " WHERE c.oid = to_regclass(%s) AND n.nspname = 'gold' ORDER BY a.attnum",
        [name],
    )
    names = [row["attname"] for row in rows]
    if "bucket" not in names or "row_count" not in names:
        return None
    end = names.index("row_count")
    numbers = [row["attname"] for row in rows[end:] if row["is_number"]]
    dimensions = tuple(names[names.index("bucket") + 1 : end])
    place = (rows[0]["nspname"], rows[0]["relname"])
    may_combine = may_read_configuration(connection)
    return View(name, place, tuple(names), may_combine, dimensions, tuple(numbers))


@dataclass(frozen=True)
class Extent:
    """The first and the last time that there is data of, in seconds since 1970."""

    first: float | None
    last: float | None


def extent(connection: Connection, rollup: Rollup, found: View) -> Extent:
    """Where there is data: by the indexes of the rollup's table and its source where the role may
    ask for that, else by reading the view."""
    if may_read_configuration(connection):
        query: LiteralString = (
            "SELECT extract(epoch FROM min(d.first_time))::float8 AS first,"
            " extract(epoch FROM max(d.last_time))::float8 AS last"
            " FROM silver.rollup_config AS r JOIN rollup_engine.source AS s ON s.id = r.source_id"
            " CROSS JOIN LATERAL unnest(ARRAY[r.target_table, s.relation]) AS t (relation)"
            " CROSS JOIN LATERAL rollup_engine.detailed_statistics("
            "  regexp_replace(t.relation::text, '([%%_\\\\])', '\\\\\\1', 'g')) AS d"
            " WHERE r.target_table = to_regclass(%s) AND d.table_name = t.relation::text"
        )
        (row,) = read(connection, query, [rollup.name])
        if row["last"] is not None:
            return Extent(**row)
    (row,) = read(
        connection,
        sql.SQL(
            "SELECT extract(epoch FROM min(bucket))::float8 AS first,"
            " extract(epoch FROM max(bucket))::float8 AS last FROM {}"
        ).format(sql.Identifier(*found.schema_and_table)),
    )
    return Extent(**row)


@dataclass(frozen=True)
class Series:
    """One group of a view: its dimensions' values, and points of (seconds since 1970, value)."""

    key: tuple[str | None, ...]
    times: tuple[float, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Points:
    """What a chart shows: the groups with the most rows, how many there are, and what is stale."""

    series: tuple[Series, ...]
    groups: int
    stale: tuple[tuple[float, float], ...]
    stale_is_known: bool


def points(
    connection: Connection,
    rollup: str,
    found: View,
    metric: str,
    begin: float,
    end: float,
    chosen: Mapping[str, Sequence[str | None]],
    by: Sequence[str] | None = None,
) -> Points:
    """Values of a metric in [begin, end) for the rows of the chosen values, in one snapshot: for
    each group of the dimensions `by` (None: of all), combined from its rows' states."""
    if metric not in found.metrics:
        raise ValueError(f"{metric} is no metric of {found.name}")
    keys = found.dimensions if by is None else [x for x in found.dimensions if x in by]
    conditions, values = _conditions(found, begin, end, chosen)
    parts = {
        "key": sql.SQL(", ").join(sql.SQL("{}::text").format(_name(name)) for name in keys),
        "view": _name(*found.schema_and_table),
        "conditions": conditions,
    }
    if len(keys) == len(found.dimensions):
        groups = sql.SQL(
            "SELECT ARRAY[{key}]::text[] AS key, bucket, {metric} AS value, row_count"
            " FROM {view} WHERE {conditions}"
        ).format(metric=_name(metric), **parts)
    else:
        states, finish = _combination(connection, rollup, found, metric)
        groups = sql.SQL(
            "SELECT key, bucket, ({finish}) AS value, row_count FROM ("
            "SELECT ARRAY[{key}]::text[] AS key, bucket, {states} FROM {view}"
            " WHERE {conditions} GROUP BY 1, 2) AS c"
        ).format(finish=finish, states=states, **parts)
    query = sql.SQL(
        "SELECT key, array_agg(at ORDER BY at) AS times,"
        f" array_agg({DRAWN} ORDER BY at) AS values,"
        " count(*) OVER () AS groups"
        " FROM (SELECT *, extract(epoch FROM bucket)::float8 AS at FROM ({groups}) AS g) AS r"
        " GROUP BY key ORDER BY sum(row_count) DESC, key LIMIT {limit}"
    ).format(groups=groups, limit=sql.Literal(MOST_SERIES))
    try:
        rows = read(connection, query, values)
    except psycopg.errors.UndefinedColumn as error:
        if error.diag.context:  # the view's own: its source lacks it
            raise
        raise TsrollupError(
            f"{metric} of several groups cannot be told from theirs",
            "have a line for each group of all dimensions",
        ) from error
    stale = stale_ranges(connection, rollup, begin, end)
    return Points(
        tuple(Series(tuple(r["key"]), tuple(r["times"]), tuple(r["values"])) for r in rows),
        rows[0]["groups"] if rows else 0,
        tuple(stale or ()),
        stale is not None,
    )


def _combination(
    connection: Connection, rollup: str, found: View, metric: str
) -> tuple[sql.Composed, sql.Composable]:
    """How a metric of several rows comes of their states, as a rollup of the rollup would have it.
    What goes by the order of rows or buckets cannot: of several groups, views do not show that."""
    rows = read(
        connection,
        "SELECT s.column_name,"
        " rollup_engine.fill("
        "  rollup_engine.fill(f.from_state, rollup_engine.state_parameters(s.state)),"
        "  rollup_engine.state_marks(r.id, m.source_column) || jsonb_build_object("
        "   'type', s.data_type, 'state', quote_ident(s.column_name), 'own', '')) AS combined,"
        " CASE m.kind WHEN 'finished' THEN m.expression END AS finish"
        " FROM silver.rollup_config AS r"
        " JOIN rollup_engine.rollup_column AS m ON m.rollup_id = r.id AND m.column_name = %s"
        " JOIN rollup_engine.rollup_column AS s ON s.rollup_id = r.id AND s.kind = 'state'"
        "  AND s.source_column = m.source_column"
        " CROSS JOIN LATERAL rollup_engine.find_state(s.state, s.data_type::regtype) AS f"
        " WHERE r.target_table = to_regclass(%s) AND f.from_state !~ 'ORDER BY (bucket|row_)'",
        [metric, rollup],
    )
    states = [sql.SQL("sum(row_count)::bigint AS row_count").format()]
    for row in rows:
        if row["column_name"] in found.columns:
            name = _name(row["column_name"])
            states.append(sql.SQL("{} AS {}").format(_engines_own(row["combined"]), name))
    finish = next((row["finish"] for row in rows if row["finish"]), None)
    return (
        sql.SQL(", ").join(states),
        _engines_own(finish) if finish else _name(metric),
    )


def _engines_own(expression: str) -> sql.SQL:
    """An expression that the engine wrote, and computes with itself; it has no marks for values."""
    return sql.SQL(expression.replace("%", "%%"))


def _name(*parts: str) -> sql.SQL:
    """An identifier beside marks for values, which it has none of."""
    return _engines_own(sql.Identifier(*parts).as_string())


def _conditions(
    found: View, begin: float, end: float, chosen: Mapping[str, Sequence[str | None]]
) -> tuple[sql.Composed, list[Any]]:
    parts = [sql.SQL("bucket >= to_timestamp(%s) AND bucket < to_timestamp(%s)").format()]
    values: list[Any] = [begin, end]
    for name in found.dimensions:
        if wanted := chosen.get(name):
            column = _name(name)
            part = sql.SQL("({0}::text = ANY(%s::text[]) OR ({0} IS NULL AND %s))")
            parts.append(part.format(column))
            values += [[one for one in wanted if one is not None], None in wanted]
    return sql.SQL(" AND ").join(parts), values


def dimension_values(
    connection: Connection, found: View, begin: float, end: float
) -> dict[str, list[str | None]]:
    """The values of each dimension in [begin, end), those with the most rows first."""
    conditions, values = _conditions(found, begin, end, {})
    query = sql.SQL(
        "SELECT {dimension}::text AS value FROM {view} WHERE {conditions}"
        " GROUP BY 1 ORDER BY sum(row_count) DESC, 1 LIMIT {limit}"
    )
    parts = {
        "view": _name(*found.schema_and_table),
        "conditions": conditions,
        "limit": sql.Literal(MOST_VALUES),
    }
    return {
        name: [
            row["value"]
            for row in read(connection, query.format(dimension=_name(name), **parts), values)
        ]
        for name in found.dimensions
    }


def stale_ranges(
    connection: Connection, rollup: str, begin: float, end: float
) -> list[tuple[float, float]] | None:
    """Where the view computes from the source, inside [begin, end); None if not for this role."""
    if not may_read_configuration(connection):
        return None
    rows = read(
        connection,
        "SELECT extract(epoch FROM greatest(lower(s), to_timestamp(%(begin)s)))::float8 AS begin,"
        " extract(epoch FROM least(upper(s), to_timestamp(%(end)s)))::float8 AS end"
        " FROM silver.rollup_config AS r CROSS JOIN LATERAL unnest(rollup_engine.stale_set("
        "  r.id, NULL, tstzrange(to_timestamp(%(begin)s), to_timestamp(%(end)s)))) AS s"
        " WHERE r.target_table = to_regclass(%(rollup)s) ORDER BY lower(s) DESC LIMIT %(limit)s",
        {"rollup": rollup, "begin": begin, "end": end, "limit": MOST_STALE_RANGES},
    )
    return [(row["begin"], row["end"]) for row in rows]
