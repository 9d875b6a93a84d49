"""Columns of a table as columns of a Parquet file, and figures that both must have in common.

What Parquet has a type for, in the values that are there, is stored as that; all else as the text
that PostgreSQL writes of it, and reads again: what a dump would hold.
"""

import json
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row, tuple_row

Connection = psycopg.Connection[Any]

# Kinds of PostgreSQL's types that are stored as such; what is none of them is text.
KINDS = {
    "boolean": "bool",
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "real": "float32",
    "double precision": "float64",
    "numeric": "decimal",
    "date": "date",
    "time without time zone": "time",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
    "text": "string",
    "character varying": "string",
    "bytea": "binary",
}
TEXTS = ("string", "text", "binary")
MOST_DIGITS = 38

# Kinds of which some values have no place in Parquet, or in what reads it, and the others.
FITS = {
    "decimal": "coalesce(max({c}) <> 'NaN', true)",
    "date": "coalesce(min({c}) >= '0001-01-01' AND max({c}) <= '9999-12-31', true)",
    "time": "coalesce(max({c}) < '24:00', true)",
    "timestamp": "coalesce(min({c}) >= '0001-01-01' AND max({c}) < '10000-01-01', true)",
    "timestamptz": "coalesce(min({c}) >= '0001-01-01Z' AND max({c}) < '10000-01-01Z', true)",
}

# A sum, the least and the greatest: of integers and decimals themselves, of times in their unit,
# of text in bytes, of floats but for NaN, infinities and what would overflow.
EPOCH = "(extract(epoch FROM {c}) * 1000000)::bigint"
MEASURES = {
    "bool": "{c}::integer",
    "int16": "{c}",
    "int32": "{c}",
    "int64": "{c}",
    "decimal": "{c}",
    "date": "({c} - date '1970-01-01')",
    "time": EPOCH,
    "timestamp": EPOCH,
    "timestamptz": EPOCH,
    "string": "octet_length({utf8})",
    # As the type writes it; a cast to text leaves out the blanks of char(n), say.
    "text": "octet_length({utf8})",
    "binary": "octet_length({c})",
}
FLOATS = ("float32", "float64")
FIGURE = ("count", "sum", "least", "greatest")
FLOAT_FIGURES = """jsonb_build_object('count', count({c}),
    'sum', coalesce(sum({c}::float8) FILTER (WHERE abs({c}::float8) < 1e290), 0)::text,
    'size', coalesce(sum(abs({c}::float8)) FILTER (WHERE abs({c}::float8) < 1e290), 0)::text,
    'least', (min({c}::float8) FILTER (WHERE {c} <> 'NaN'))::text,
    'greatest', (max({c}::float8) FILTER (WHERE {c} <> 'NaN'))::text)"""
FIGURE = ("count", "sum", "least", "greatest")
FIGURES = """jsonb_build_object('count', count({c}), 'sum', coalesce(sum({m}), 0)::text,
    'least', min({m})::text, 'greatest', max({m})::text)"""


@dataclass(frozen=True)
class Column:
    """A column as it is declared, the types that this is made of, and the kind it is stored as."""

    name: str
    declared: str
    collation: str | None
    is_not_null: bool
    is_sortable: bool
    is_collatable: bool
    modifier: int
    types: list[dict[str, str]]
    kind: str
    precision: int = 0
    scale: int = 0


@dataclass(frozen=True)
class _Described:
    column_name: str
    declared: str
    modifier: int
    base: str
    base_modifier: int
    collation_name: str | None
    is_not_null: bool
    is_sortable: bool
    is_collatable: bool
    types: list[dict[str, str]]


DESCRIBED = """
    SELECT c.column_name, c.declared, a.atttypmod AS modifier, c.base::text,
        c.modifier AS base_modifier, c.collation_name, c.is_not_null, c.is_sortable,
        t.typcollation <> 0 AS is_collatable,
        coalesce((
            SELECT jsonb_agg(w) FROM rollup_engine.types_within(a.atttypid) AS w
        ), '[]') AS types
    FROM rollup_engine.archive_columns(%(relation)s::regclass) AS c
    JOIN pg_attribute AS a ON a.attrelid = %(relation)s::regclass AND a.attname = c.column_name
    JOIN pg_type AS t ON t.oid = c.base
"""


def columns_of(connection: Connection, relation: str) -> list[Column]:
    """The columns of a table, each of the narrowest kind that holds all values that are there."""
    with connection.cursor(row_factory=class_row(_Described)) as cursor:
        described = cursor.execute(DESCRIBED, {"relation": relation}).fetchall()
    columns = [_column(one) for one in described]
    doubtful = [column for column in columns if column.kind in FITS]
    fits = _one_row(connection, relation, [_filled(FITS[c.kind], c) for c in doubtful])
    as_text = {column.name for column, fit in zip(doubtful, fits, strict=True) if not fit}
    return [
        replace(column, kind="text") if column.name in as_text else column for column in columns
    ]


def figures_of(connection: Connection, relation: str, columns: list[Column]) -> list[Any]:
    """The rows of a table, and what MEASURES says of each column."""
    encoding = connection.info.parameter_status("server_encoding")
    wanted = []
    for column in columns:
        if column.kind in FLOATS:
            wanted.append(_filled(FLOAT_FIGURES, column))
            continue
        text = "{c}" if column.kind == "string" else "format('%s', {c})"
        if encoding not in ("UTF8", "SQL_ASCII"):
            text = f"convert_to({text}, 'UTF8')"
        if column.kind == "text":
            text = f"CASE WHEN num_nonnulls({{c}}) = 1 THEN {text} END"
        measure = MEASURES[column.kind].replace("{utf8}", text)
        wanted.append(_filled(FIGURES.replace("{m}", measure), column))
    return list(_one_row(connection, relation, [sql.SQL("count(*)"), *wanted]))


def names(columns: list[Column]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)


def differences(columns: list[Column], expected: list[Any], found: list[Any]) -> list[str]:
    """What two sets of figures do not have in common; sums of floats depend on the order."""
    told = [f"rows: {expected[0]} and {found[0]}"] if expected[0] != found[0] else []
    for column, want, have in zip(columns, expected[1:], found[1:], strict=True):
        equal = _equal_floats if column.kind in FLOATS else _equal
        if not equal(want, have):
            told.append(f"column {column.name}: {json.dumps(want)} and {json.dumps(have)}")
    return told


def _equal(want: dict[str, Any], have: dict[str, Any]) -> bool:
    return all(_number(want[name], Decimal) == _number(have[name], Decimal) for name in FIGURE)


def _equal_floats(want: dict[str, Any], have: dict[str, Any]) -> bool:
    off = abs(float(want["sum"]) - float(have["sum"]))
    return off <= 1e-9 * float(want["size"]) and all(
        _number(want[name], float) == _number(have[name], float) for name in FIGURE if name != "sum"
    )


def _number(value: Any, kind: Any) -> Any:
    return None if value is None else kind(value)


def _column(described: _Described) -> Column:
    kind = KINDS.get(described.base, "text")
    precision = scale = 0
    if kind == "decimal":
        precision, scale = _digits(described.base_modifier)
        if not 0 < precision <= MOST_DIGITS or not 0 <= scale <= precision:
            kind, precision, scale = "text", 0, 0
    return Column(
        described.column_name,
        described.declared,
        described.collation_name,
        described.is_not_null,
        described.is_sortable,
        described.is_collatable,
        described.modifier,
        described.types,
        kind,
        precision,
        scale,
    )


def _digits(modifier: int) -> tuple[int, int]:
    """Precision and scale that a numeric is declared with; (0, 0) where it has no bounds."""
    if modifier < 4:
        return 0, 0
    bits = modifier - 4
    return (bits >> 16) & 0xFFFF, ((bits & 0x7FF) ^ 1024) - 1024


def _filled(template: str, column: Column) -> sql.Composed:
    pieces: list[sql.Composable] = []
    for number, piece in enumerate(template.split("{c}")):
        pieces += [sql.Identifier(column.name)] if number else []
        pieces.append(sql.SQL(piece))
    return sql.Composed(pieces)


def _one_row(
    connection: Connection, relation: str, wanted: list[sql.Composed | sql.SQL]
) -> tuple[Any, ...]:
    if not wanted:
        return ()
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(wanted), sql.SQL(relation))
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query).fetchone() or ()
