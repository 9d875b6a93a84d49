"""Reading live views: the query for a range and some groups, and its rows as people want them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from tsrollup import rollups
from tsrollup.connection import pinned
from tsrollup.errors import ArgumentError, TsrollupError

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

Connection = psycopg.Connection[Any]
Where = Mapping[str, Any]

JSON = ("json", "jsonb")
KEYS = ("bucket", "dimension")


def query(
    connection: Connection,
    target: str,
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    where: Where | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    gapfill: Mapping[str, str] | bool = False,
) -> sql.Composed:
    """Buckets from `start` up to before `end`, oldest first, of the groups that `where` names: a
    value, several in a list, or None for the group without one. With `gapfill`, those without rows
    too, and values that are missing filled as it says."""
    if not isinstance(gapfill, Mapping | bool):
        raise ArgumentError(
            f"gapfill is {gapfill!r}, and neither True nor a mapping", 'gapfill={"column": "locf"}'
        )
    if not isinstance(where, Mapping | None):
        raise ArgumentError(f"where is {where!r}, and no mapping", 'where={"dimension": "value"}')
    for name, border in (("start", start), ("end", end)):
        if not isinstance(border, date | str | None):
            raise ArgumentError(f"{name} is {border!r}, and no time", f'{name}="2026-01-01"')
    if not isinstance(limit, int | None):
        raise ArgumentError(f"limit is {limit!r}, and no number of rows", "limit=100")
    chosen = rollups.listed("columns", columns) if columns else []
    known = {row["column_name"]: row for row in rollups.view_columns(connection, target)}
    order = [name for name, row in known.items() if row["kind"] in KEYS]
    view = known[order[0]]["live_view"]
    conditions: list[sql.Composable] = [sql.SQL("true")]
    source: sql.Composable = sql.SQL(view)
    if gapfill is not False:
        source = _without_gaps(view, start, end, where or {}, gapfill)
    else:
        for operator, border in ((">=", start), ("<", end)):
            if border is not None:
                condition = sql.SQL("{} {} {}::timestamptz")
                bucket = sql.Identifier(order[0])
                conditions.append(condition.format(bucket, sql.SQL(operator), sql.Literal(border)))
        conditions += [
            _is_one_of(name, value, known.get(name, {})) for name, value in (where or {}).items()
        ]
    return sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}{}").format(
        sql.SQL(", ").join(map(sql.Identifier, chosen)) if chosen else sql.SQL("*"),
        source,
        sql.SQL(" AND ").join(conditions),
        sql.SQL(", ").join(map(sql.Identifier, order)),
        sql.SQL("") if limit is None else sql.SQL(" LIMIT {}").format(sql.Literal(limit)),
    )


def _without_gaps(
    view: str,
    start: datetime | str | None,
    end: datetime | str | None,
    where: Where,
    gapfill: Mapping[str, str] | bool,
) -> sql.Composed:
    if start is None or end is None:
        raise ArgumentError("gaps are filled between two times", "give both start and end")
    only = {name: _each(_as_json, _listed(value)) for name, value in where.items()}
    return sql.SQL(
        'silver.gapfill(NULL::{}, {}::timestamptz, {}::timestamptz, fill => {}, "only" => {})'
    ).format(
        sql.SQL(view),
        sql.Literal(start),
        sql.Literal(end),
        sql.Literal(Jsonb(gapfill) if isinstance(gapfill, Mapping) and gapfill else None),
        sql.Literal(Jsonb(only) if only else None),
    )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set) else [value]


def _as_json(value: Any) -> Any:
    """What is of JSON as it is, all else as text."""
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_number or isinstance(value, str | list | dict) else as_text(value)


def _is_one_of(column: str, value: Any, known: Mapping[str, Any]) -> sql.Composable:
    name = sql.Identifier(column)
    if value is None:
        return sql.SQL("{} IS NULL").format(name)
    if isinstance(value, list | tuple | set):
        each = [_is_one_of(column, one, known) for one in value]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(each)) if each else sql.SQL("false")
    # A name's search path knows no extension, and 0.1 is another number in double precision.
    equals = sql.SQL(known.get("equality", "="))
    is_single = isinstance(value, float) and known.get("data_type") == "real"
    literal = sql.SQL("{}::real" if is_single else "{}").format(sql.Literal(value))
    return sql.SQL("{} {} {}").format(name, equals, literal)


@dataclass(frozen=True)
class Rows:
    """What a live view answered."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    """The columns' types, by PostgreSQL's names."""
    values: Sequence[tuple[Any, ...]]

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary a row; numerics are Decimal, times datetime with a zone, intervals timedelta
        (a month of 30 days, a year of 365). A time or interval that these cannot hold is text."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.values]

    def to_arrow(self) -> "pyarrow.Table":
        """An Arrow table. Numerics become float64 (beyond 1.8e308 infinite), times microseconds in
        UTC, arrays lists. What Arrow has no type for becomes text, and so does a column with a time
        or interval that its type cannot hold."""
        arrow = self._arrow
        columns = zip(*self.values, strict=True) if self.values else [()] * len(self.columns)
        kinds = {
            "int2": arrow.int16(),
            "int4": arrow.int32(),
            "int8": arrow.int64(),
            "float4": arrow.float32(),
            "float8": arrow.float64(),
            "numeric": arrow.float64(),
            "bool": arrow.bool_(),
            "bytea": arrow.binary(),
            "date": arrow.date32(),
            "interval": arrow.duration("us"),
            "text": arrow.string(),
            "varchar": arrow.string(),
            "bpchar": arrow.string(),
            "timestamp": arrow.timestamp("us"),
            "timestamptz": arrow.timestamp("us", "UTC"),
        }
        arrays = []
        for values, name in zip(columns, self.types, strict=True):
            element = name.removesuffix("[]")
            kind = kinds.get(element)
            make: Callable[[Any], Any] = float if element == "numeric" else _as_it_is
            if element != name and kind and not any(_is_nested(value) for value in values):
                kind, make = arrow.list_(kind), partial(_each, make)
            elif element != name or not kind:
                kind, make = arrow.string(), json.dumps if element in JSON else as_text
            try:
                made = arrow.array(_each(make, values), kind)
            except (arrow.ArrowException, OverflowError):
                made = arrow.array(_each(as_text, values), arrow.string())
            arrays.append(made)
        return arrow.Table.from_arrays(arrays, names=list(self.columns))

    def to_pandas(self) -> "pandas.DataFrame":
        """A pandas data frame, by way of Arrow."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> "polars.DataFrame":
        """A Polars data frame, by way of Arrow."""
        table = self.to_arrow()
        try:
            import polars
        except ImportError:
            raise _without("polars") from None
        frame = polars.from_arrow(table)
        assert isinstance(frame, polars.DataFrame)
        return frame

    @cached_property
    def _arrow(self) -> Any:
        try:
            import pyarrow
        except ImportError:
            raise _without("pyarrow") from None
        return pyarrow


def _is_nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(element, list) for element in value)


def _each(make: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    return [None if value is None else make(value) for value in values]


def _as_it_is(value: Any) -> Any:
    return value


def as_text(value: Any) -> str:
    """As PostgreSQL reads it; lists as JSON."""
    if isinstance(value, dict | list):
        return json.dumps(value, default=as_text)
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, timedelta):
        days, rest = divmod(abs(value), timedelta(days=1))
        sign = "-" if value < timedelta() else ""
        text = f"{sign}{days} days {sign}{datetime.min + rest:%H:%M:%S.%f}"
        return text.rstrip("0").rstrip(".")
    if isinstance(value, Range | Multirange):
        return bytes(Transformer().get_dumper(value, PyFormat.TEXT).dump(value) or b"").decode()
    return str(value)


def fetch(connection: Connection, wanted: sql.Composed) -> Rows:
    with pinned(connection), connection.cursor(row_factory=tuple_row) as cursor:
        try:
            values = cursor.execute(wanted).fetchall()
        except psycopg.errors.UndefinedFunction as error:
            raise ArgumentError(
                str(error).splitlines()[0], "give values of the dimensions' types"
            ) from error
        columns = cursor.description or []
        known = connection.adapters.types
        types = [known.get(column.type_code) for column in columns]
    return Rows(
        tuple(column.name for column in columns),
        tuple(
            "unknown"
            if kind is None
            else f"{kind.name}[]"
            if column.type_code == kind.array_oid
            else kind.name
            for column, kind in zip(columns, types, strict=True)
        ),
        values,
    )


def _without(package: str) -> TsrollupError:
    return TsrollupError(f"{package} is not installed", "pip install 'tsrollup[data]'")
