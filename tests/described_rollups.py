"""Rollups as they are configured, and their rows and buckets as the raw table has them."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

UNITS = {"s": 1, "ms": 1000, "us": 1000000, "ns": 1000000000}


@dataclass(frozen=True)
class Rollup:
    """A rollup as configured, with the raw table at the root of its hierarchy."""

    id: int
    table: str
    view: str
    raw_table: str
    rows: sql.Composable
    time_column: str
    time_type: str
    time_unit: str | None
    months: int
    width: str
    origin: datetime
    borders: tuple[datetime, ...]
    dimensions: tuple[str, ...]
    metrics: tuple[tuple[str, str], ...]
    parameters: dict[tuple[str, str], dict[str, Any]]
    types: dict[str, str]
    long_names: dict[tuple[str, str], str]
    sealed_before: str


def describe(connection: psycopg.Connection[Any], name: str) -> Rollup:
    """The rollup of that name, which is a regclass of its table or view, or a bare name in gold."""
    cursor = connection.cursor(row_factory=tuple_row)
    row = cursor.execute(
        """
        WITH RECURSIVE chosen AS (
            SELECT * FROM silver.rollup_config
            WHERE coalesce(to_regclass(%(name)s), to_regclass('gold.' || %(name)s))
                IN (target_table, target_view)
        ), line AS (
            SELECT id, parent_id, source_table, time_column, depth FROM chosen
            UNION ALL
            SELECT p.id, p.parent_id, p.source_table, p.time_column, p.depth
            FROM line JOIN silver.rollup_config AS p ON p.id = line.parent_id
        )
        SELECT c.id, c.target_table::text, c.target_view::text, root.source_table::text,
            root.time_column, root.source_table::oid,
            (extract(year FROM c.bucket_width) * 12 + extract(month FROM c.bucket_width))::integer,
            extract(epoch FROM c.bucket_width)::text || ' seconds', c.dimensions::text[],
            c.metrics, coalesce(c.sealed_before, '-infinity')::text,
            (SELECT array_agg(id ORDER BY depth) FROM line),
            (SELECT time_unit FROM silver.rollup_config WHERE id = root.id),
            extract(epoch FROM c.bucket_width)::float8, c.timezone, c.origin
        FROM chosen AS c JOIN line AS root ON root.parent_id IS NULL
        """,
        {"name": name},
    ).fetchone()
    assert row, f"there is no rollup {name}"
    types: dict[str, str] = dict(
        cursor.execute(
            """
            WITH RECURSIVE column_type AS (
                SELECT attname, atttypid AS type FROM pg_attribute
                WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
                UNION ALL
                SELECT c.attname, t.typbasetype
                FROM column_type AS c JOIN pg_type AS t ON t.oid = c.type AND t.typbasetype <> 0
            )
            SELECT attname, format_type(type, NULL) FROM column_type
            WHERE (SELECT typbasetype FROM pg_type WHERE oid = type) = 0
            """,
            [row[5]],
        ).fetchall()
    )
    rows = _rows(connection, row[11])
    columns = connection.cursor(row_factory=tuple_row).execute(
        sql.SQL("SELECT * FROM {} AS counted LIMIT 0").format(rows)
    )
    for column in columns.description or ():
        if column.name not in types:
            cursor.execute("SELECT format_type(%s, NULL)", [column.type_code])
            types[column.name] = (cursor.fetchone() or ("",))[0]
    # A name that would be too long is cut, and only the engine knows how.
    long_names: dict[tuple[str, str], str] = {
        (column, aggregate): name
        for column, aggregate, name in cursor.execute(
            "SELECT source_column, state, column_name FROM rollup_engine.rollup_column"
            " WHERE rollup_id = %s AND source_column IS NOT NULL AND kind <> 'dimension'",
            [row[0]],
        )
        if len(f"{column}_{aggregate}".encode()) > 63
    }
    metrics = tuple(
        (column, output)
        for column, items in sorted(row[9].items())
        for output in sorted({output for item in items for output in _outputs(item)})
    )
    months, seconds, zone, origin = row[6], *row[13:]
    by_utc = zone == "UTC" and not origin
    follows_calendar = not by_utc and (months or (zone != "UTC" and seconds % 86400 == 0))
    start = datetime(2000, 1, 1 if months else 3)
    parameters = {
        (column, output): item
        for column, items in row[9].items()
        for item in items
        for output in _outputs(item)
        if isinstance(item, dict)
    }
    return Rollup(
        parameters=parameters,
        id=row[0],
        table=row[1],
        view=row[2],
        raw_table=row[3],
        rows=rows,
        time_column=row[4],
        time_type=types[row[4]],
        time_unit=row[12],
        months=row[6],
        width=row[7],
        origin=origin or start.replace(tzinfo=ZoneInfo(zone)),
        borders=_borders(
            _extent(cursor, row[3], _time(row[4], types[row[4]], row[12]).as_string(cursor)),
            months or timedelta(seconds=seconds),
            ZoneInfo(zone),
            origin or start,
        )
        if follows_calendar
        else (),
        dimensions=tuple(row[8]),
        metrics=metrics,
        types=types,
        long_names=long_names,
        sealed_before=row[10],
    )


def _rows(connection: psycopg.Connection[Any], line: Sequence[int]) -> sql.Composable:
    """The rows that count, with the expressions of each level from the raw table on as columns;
    one over a rollup is over its buckets, as they come of the raw rows."""
    rows: sql.Composable = sql.SQL("")
    parent: Rollup | None = None
    for number in line:
        row = (
            connection.cursor(row_factory=tuple_row)
            .execute(
                "SELECT source_table::text, coalesce(expressions, '{}'), coalesce(filter, 'true'),"
                " target_table::text FROM silver.rollup_config WHERE id = %s",
                [number],
            )
            .fetchone()
        )
        assert row
        source, expressions, condition, table = row
        if number == line[0]:
            rows = sql.SQL(source)
            bucket = "bucket"
        else:
            assert parent
            bucket = bucket_of(parent, time_of(parent)).as_string(connection)
        if expressions or condition != "true":
            columns = [
                sql.SQL("({}\n) AS {}").format(_over(bucket, text), sql.Identifier(name))
                for name, text in expressions.items()
            ]
            rows = sql.SQL("(SELECT {} FROM {} AS r WHERE ({}\n))").format(
                sql.SQL(", ").join([sql.SQL("*"), *columns]),
                rows,
                _over(bucket, condition),
            )
        if number != line[-1]:
            parent = describe(connection, table)
    return rows


def _over(bucket: str, text: str) -> sql.SQL:
    return sql.SQL(re.sub(r"\bbucket\b", lambda _: bucket, text))


OHLC = {"open": "first", "high": "max", "low": "min", "close": "last"}


def time_of(rollup: Rollup) -> sql.Composable:
    return _time(rollup.time_column, rollup.time_type, rollup.time_unit)


def _time(name: str, time_type: str, time_unit: str | None) -> sql.Composable:
    column = sql.Identifier(name)
    if time_type == "timestamp with time zone":
        return column
    if time_unit:
        # Days and the rest of them, to the microsecond.
        return sql.SQL(
            "CASE WHEN {micros} >= -62135596800000000 AND {micros} < 253402300800000000 THEN"
            " (timestamp '1970-01-01' + div(floor({micros}), 86400000000)::integer * interval"
            " '1 day' + mod(floor({micros}), 86400000000)::float8 * interval '1 microsecond')"
            " AT TIME ZONE 'UTC' END"
        ).format(
            micros=sql.SQL("({}::numeric * {})").format(
                column, sql.Literal(Decimal(1000000) / UNITS[time_unit])
            )
        )
    return sql.SQL("({}::timestamp AT TIME ZONE 'UTC')").format(column)


def _extent(cursor: psycopg.Cursor[Any], table: str, time: str) -> tuple[datetime, ...]:
    """First and last time, none without rows."""
    row = cursor.execute(f"SELECT min({time}), max({time}) FROM {table}".encode()).fetchone()
    return tuple(time for time in row or () if time)


def _borders(
    extent: tuple[datetime, ...], width: int | timedelta, zone: ZoneInfo, origin: datetime
) -> tuple[datetime, ...]:
    """Starts of the buckets, of so many months or days, around the data, as Python's zones have
    them: what a clock shows twice is the first time, what it never shows as if it had not been put
    forward."""
    if not extent:
        return (datetime(2000, 1, 1, tzinfo=UTC),)
    first, last = (time.astimezone(zone).replace(tzinfo=None) for time in extent)
    if origin.tzinfo:
        origin = origin.astimezone(zone).replace(tzinfo=None)

    def local(n: int) -> datetime:
        if isinstance(width, timedelta):
            return origin + n * width
        year, month = divmod(origin.year * 12 + origin.month - 1 + n * width, 12)
        for day in range(origin.day, 27, -1):
            with suppress(ValueError):
                return origin.replace(year=year, month=month + 1, day=day)
        return origin.replace(year=year, month=month + 1)

    length = width if isinstance(width, timedelta) else width * timedelta(days=30.4)
    numbers = range((first - origin) // length - 3, (last - origin) // length + 4)
    return tuple(sorted({local(n).replace(tzinfo=zone).astimezone(UTC) for n in numbers}))


def bucket_of(rollup: Rollup, time: sql.Composable) -> sql.Composable:
    if rollup.borders:
        return sql.SQL("({borders})[width_bucket({time}, {borders})]").format(
            borders=sql.SQL("{}::timestamptz[]").format(sql.Literal(list(rollup.borders))),
            time=time,
        )
    if not rollup.months:
        return sql.SQL("date_bin({}, {}, {})").format(
            sql.Literal(rollup.width) + sql.SQL("::interval"), time, sql.Literal(rollup.origin)
        )
    # Months since 2000, rounded down to a whole number of buckets.
    return sql.SQL(
        "((timestamp '2000-01-01' + make_interval(months => {months} * floor("
        "((extract(year FROM {time} AT TIME ZONE 'UTC') - 2000) * 12"
        " + extract(month FROM {time} AT TIME ZONE 'UTC') - 1) / {months})::integer))"
        " AT TIME ZONE 'UTC')"
    ).format(months=sql.Literal(rollup.months), time=time)


def _outputs(item: Any) -> list[str]:
    """What the columns of an aggregate are called, after the column of the source."""
    name: str = item if isinstance(item, str) else item.get("as", item["name"])
    return list(OHLC) if name == "ohlc" else [name.replace(".", "_")]
