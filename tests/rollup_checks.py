"""Compares a rollup with the plain GROUP BY over its raw table, in one statement and so in one
snapshot. Nothing here uses the SQL that the engine generates: only its configuration.

On a tie, `first` and `last` may be any of the tied values; the tests keep their times apart.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

FLOATS = {"real", "double precision"}
UNITS = {"s": 1, "ms": 1000, "us": 1000000, "ns": 1000000000}
NUMBERS = {"smallint", "integer", "bigint", "numeric"} | FLOATS


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
            bucket = _bucket(parent, _utc(parent)).as_string(connection)
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


def stale_set_is_empty(connection: psycopg.Connection[Any], rollup: Rollup) -> bool:
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute("SELECT isempty(rollup_engine.stale_set(%s))", [rollup.id])
    row = cursor.fetchone()
    return bool(row and row[0])


def expected_query(rollup: Rollup) -> sql.Composed:
    """bucket, dimensions, row_count and every metric, grouped from raw: columns b, d0.., n, m0..;
    with a0.. the sums of absolute values that the tolerance of float sums is relative to."""
    time = _utc(rollup)
    columns: list[sql.Composable] = [sql.SQL("{} AS b").format(_bucket(rollup, time))]
    columns += [
        sql.SQL("{} AS {}").format(sql.Identifier(d), sql.Identifier(f"d{i}"))
        for i, d in enumerate(rollup.dimensions)
    ]
    columns.append(sql.SQL("count(*)::numeric AS n"))
    for i, (column, aggregate) in enumerate(rollup.metrics):
        columns.append(
            sql.SQL("{} AS {}").format(
                _comparable(rollup, column, aggregate, _aggregate(rollup, column, aggregate, time)),
                sql.Identifier(f"m{i}"),
            )
        )
        columns.append(
            sql.SQL("{} AS {}").format(_scale(rollup, column, aggregate), sql.Identifier(f"a{i}"))
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
        value = _comparable(rollup, column, aggregate, stored)
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
        if _is_close_enough(rollup, column, aggregate):
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
OHLC = {"open": "first", "high": "max", "low": "min", "close": "last"}
VARIANCES = {"variance", "variance_pop", "stddev", "stddev_pop"}


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


def _utc(rollup: Rollup) -> sql.Composable:
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


def _bucket(rollup: Rollup, time: sql.Composable) -> sql.Composable:
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


def _fraction(aggregate: str) -> float | None:
    if aggregate == "median":
        return 0.5
    if aggregate[0] == "p" and aggregate[1].isdigit():
        return float(Decimal(aggregate[1:].replace("_", ".")) / 100)
    return None


def _aggregate(rollup: Rollup, column: str, aggregate: str, time: sql.Composable) -> sql.Composable:
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


def _comparable(
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


def _is_close_enough(rollup: Rollup, column: str, aggregate: str) -> bool:
    """Whether the order of the rows, or the width of a bin, makes a difference that is allowed."""
    if aggregate in ("sum", "avg"):
        return rollup.types[column] in FLOATS
    if aggregate in {"rate", "increase", "time_weighted_avg", "distinct"}:
        return True
    if rollup.parameters.get((column, aggregate), {}).get("name") == "custom":
        return True
    return aggregate in VARIANCES or _fraction(aggregate) is not None


def _scale(rollup: Rollup, column: str, aggregate: str) -> sql.Composable:
    """What a thousand millionth of is allowed: of percentiles that makes one in a hundred."""
    value = sql.SQL("{}::double precision").format(sql.Identifier(column))
    if not _is_close_enough(rollup, column, aggregate):
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
            _aggregate(rollup, column, aggregate, sql.SQL("now()"))
        )
    if aggregate in VARIANCES:
        return sql.SQL("100 * stddev_pop({0}) + 1e-5 * avg(abs({0}))").format(value)
    return sql.SQL("{}(abs({}))").format(sql.SQL(aggregate), value)
