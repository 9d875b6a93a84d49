"""What a rollup has to say, computed from raw in plain SQL.

Nothing here uses the SQL or the arithmetic of the engine. A rollup is what it was created as
(`Spec`); its columns are known by number, so that a rename is followed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

FLOATS = {"real", "double precision"}
NUMBERS = {"smallint", "integer", "bigint", "numeric"} | FLOATS
CALENDAR = "'0001-01-01 00:00+00'::timestamptz", "'10000-01-01 00:00+00'::timestamptz"


# The last seal of a rollup and of those that it reads: what the monitor says as well, which costs
# a hundred times as much.
EXACT_SINCE = """(
    WITH RECURSIVE line AS (
        SELECT parent_id, sealed_before FROM silver.rollup_config WHERE id = {id}
        UNION ALL
        SELECT c.parent_id, c.sealed_before
        FROM line JOIN silver.rollup_config AS c ON c.id = line.parent_id)
    SELECT coalesce(max(sealed_before)::text, '-infinity') FROM line)"""


@dataclass(frozen=True)
class Width:
    """As people write it; `months` where it is made of months, else 0."""

    text: str
    months: int = 0

    def bucket(self, time: str) -> str:
        if not self.months:
            return f"date_bin('{self.text}'::interval, {time}, '2000-01-03 00:00+00'::timestamptz)"
        elapsed = (
            f"((extract(year FROM {time} AT TIME ZONE 'UTC') - 2000) * 12"
            f" + extract(month FROM {time} AT TIME ZONE 'UTC') - 1)"
        )
        return (
            "((timestamp '2000-01-01' + make_interval(months => "
            f"({self.months} * floor({elapsed} / {self.months}))::integer)) AT TIME ZONE 'UTC')"
        )


@dataclass(frozen=True)
class Column:
    """A column of the root table, by number and by the name that it had."""

    number: int
    name: str


@dataclass(frozen=True)
class Spec:
    """A rollup as it was asked for: what it is at the root of its family, whatever its parents."""

    name: str
    root: int  # oid
    root_name: str
    time: Column
    width: Width
    dimensions: tuple[Column, ...]
    metrics: tuple[tuple[Column, str], ...]
    parent: str | None = None  # its name
    since: str = "-infinity"  # what is older is not compared

    @property
    def columns(self) -> set[Column]:
        return {self.time, *self.dimensions, *(c for c, _ in self.metrics)}

    def at(self, root: int, moved: Callable[[Column], Column]) -> "Spec":
        """The same of another table, whose columns have other numbers."""
        return replace(
            self,
            root=root,
            time=moved(self.time),
            dimensions=tuple(map(moved, self.dimensions)),
            metrics=tuple((moved(c), a) for c, a in self.metrics),
        )


@dataclass(frozen=True)
class Live:
    """A column of the root table as it is now."""

    name: str
    type: str

    @property
    def ident(self) -> str:
        return '"' + self.name.replace('"', '""') + '"'


Binding = dict[Column, Live]


def difference_query(
    spec: Spec, binding: Binding, root: str, relation: str, stored: bool, since: str
) -> str:
    """Rows where `relation` (the live view, or the table of states) is not the GROUP BY."""
    keys = ["b", *(f"d{i}" for i in range(len(spec.dimensions)))]
    wrong = ["e.n IS DISTINCT FROM g.n", "g.copies <> 1"]
    shown = ["e.n AS raw_rows", "g.n AS rollup_rows"]
    for i, (column, aggregate) in _metrics(spec, stored):
        wrong.append(f"NOT coalesce({_same(i, binding[column], aggregate)}, false)")
        shown.append(f"e.m{i} AS raw_{column.name}_{aggregate}, g.m{i} AS rollup_m{i}")
    return f"""
WITH expected AS MATERIALIZED ({expected_query(spec, binding, root, stored)}),
got AS MATERIALIZED ({_got_query(spec, binding, relation, stored)})
SELECT {", ".join(f"coalesce(e.{k}, g.{k}) AS {k}" for k in keys)}, {", ".join(shown)}
FROM expected AS e FULL JOIN got AS g ON {" AND ".join(f"e.{k} = g.{k}" for k in keys)}
WHERE ({" OR ".join(wrong)}) AND coalesce(e.b, g.b) >= '{since}'::timestamptz
ORDER BY 1 LIMIT 5"""


def expected_query(spec: Spec, binding: Binding, root: str, stored: bool = False) -> str:
    time = _utc(binding[spec.time])
    dimensions = [f"d{i}" for i in range(len(spec.dimensions))]
    inner = [f"{spec.width.bucket(time)} AS b", f"{time} AS t"]
    inner += [f"{_key(binding[c])} AS d{i}" for i, c in enumerate(spec.dimensions)]
    inner += [f"{binding[c].ident} AS c{i}" for i, (c, _) in _metrics(spec, stored)]
    keys = ", ".join(["b", *dimensions])
    outer = [keys, "count(*)::numeric AS n"]
    for i, (column, aggregate) in _metrics(spec, stored):
        outer.append(f"{_aggregate(i, binding[column], aggregate)} AS m{i}")
        outer.append(f"{_scale(i, binding[column], aggregate)} AS a{i}")
    return f"""
    SELECT {", ".join(outer)} FROM (
        SELECT *, min(t) OVER w AS first_time, max(t) OVER w AS last_time FROM (
            SELECT {", ".join(inner)} FROM {root}
            WHERE {time} >= {CALENDAR[0]} AND {time} < {CALENDAR[1]}) AS r
        WINDOW w AS (PARTITION BY {keys})) AS s
    GROUP BY {keys}"""


def _got_query(spec: Spec, binding: Binding, relation: str, stored: bool) -> str:
    columns = ["bucket AS b"]
    columns += [
        f"{_key(Live(c.name, binding[c].type))} AS d{i}" for i, c in enumerate(spec.dimensions)
    ]
    columns.append("row_count::numeric AS n")
    for i, (column, aggregate) in _metrics(spec, stored):
        value = Live(f"{column.name}_{aggregate}", "").ident
        columns.append(f"{_comparable(value, binding[column], aggregate)} AS m{i}")
    keys = ", ".join(str(n + 1) for n in range(1 + len(spec.dimensions)))
    return (
        f"SELECT *, count(*) OVER (PARTITION BY {_names(spec)}) AS copies"
        f" FROM (SELECT {', '.join(columns)} FROM {relation}) AS g ORDER BY {keys}"
    )


def _names(spec: Spec) -> str:
    return ", ".join(["b", *(f"d{i}" for i in range(len(spec.dimensions)))])


def _metrics(spec: Spec, stored: bool) -> list[tuple[int, tuple[Column, str]]]:
    return [(i, m) for i, m in enumerate(spec.metrics) if not (stored and m[1] == "avg")]


def _utc(column: Live) -> str:
    if column.type == "timestamp with time zone":
        return column.ident
    return f"({column.ident}::timestamp AT TIME ZONE 'UTC')"


def _key(column: Live) -> str:
    """As text, since NULL is a group of its own; 1.0 and 1.00 are one."""
    text = f"trim_scale({column.ident})" if column.type == "numeric" else column.ident
    return f"coalesce('=' || {text}::text, 'NULL')"


def _aggregate(i: int, column: Live, aggregate: str) -> str:
    if aggregate in ("first", "last"):
        tied = f"coalesce(c{i}::text, 'NULL')) FILTER (WHERE t = {aggregate}_time)"
        return f"array_agg(DISTINCT {tied}"
    value = f"c{i}::double precision" if _is_float_sum(column, aggregate) else f"c{i}"
    return _comparable(f"{aggregate}({value})", column, aggregate)


def _comparable(value: str, column: Live, aggregate: str) -> str:
    if aggregate in ("first", "last"):
        return f"coalesce({value}::text, 'NULL')"
    if aggregate in ("min", "max") and column.type not in NUMBERS:
        return f'{value}::text COLLATE "C"'
    if aggregate != "count" and column.type in FLOATS:
        return f"{value}::double precision"
    return f"{value}::numeric"


def _is_float_sum(column: Live, aggregate: str) -> bool:
    return column.type in FLOATS and aggregate in ("sum", "avg")


def _scale(i: int, column: Live, aggregate: str) -> str:
    if not _is_float_sum(column, aggregate):
        return "NULL::double precision"
    return f"{aggregate}(abs(c{i}::double precision))"


def _same(i: int, column: Live, aggregate: str) -> str:
    if aggregate in ("first", "last"):
        return f"g.m{i} = ANY (e.m{i})"
    same = f"e.m{i} IS NOT DISTINCT FROM g.m{i}"
    if _is_float_sum(column, aggregate):
        # The order of addition explains this much, and nothing where there is one row.
        same += f" OR e.n > 1 AND abs(e.m{i} - g.m{i}) <= 1e-9 * e.a{i}"
    return same
