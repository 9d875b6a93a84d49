"""A rollup as it must be: the rows of the raw table, grouped in Python.

Nothing here calls a function of the engine or reads what it generates.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from blackbox import values_reference
from blackbox.calendar_reference import Buckets
from rollup_checks import refresh_everything

Row = Mapping[str, Any]


def column(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


TIME = column("ts")


def keep_all(_: Row) -> bool:
    return True


@dataclass(frozen=True)
class Wanted:
    """What a live view holds. Names are its columns, functions compute them of a raw row."""

    view: str
    buckets: Buckets
    dimensions: Mapping[str, Callable[[Row], Any]] = field(default_factory=dict)
    # The aggregates of each value: by names that values_reference knows.
    metrics: Mapping[str, Sequence[str]] = field(default_factory=dict)
    values: Mapping[str, Callable[[Row], Any]] = field(default_factory=dict)
    # Columns that are computed of all rows of a group, ordered by time.
    further: Mapping[str, Callable[[Sequence[Row]], Any]] = field(default_factory=dict)
    keep: Callable[[Row], bool] = keep_all
    time: Callable[[Row], datetime | None] = TIME
    order: Callable[[Row], Any] = TIME

    def groups(self, rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
        found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        for row in rows:
            time = self.time(row)
            if time is not None and self.keep(row):
                dimensions = (value(row) for value in self.dimensions.values())
                found[(self.buckets.of(time), *dimensions)].append(row)
        for group in found.values():
            group.sort(key=self.order)
        return found

    def columns(self, group: Sequence[Row]) -> dict[str, Any]:
        """What must stand in the row of the group."""
        found: dict[str, Any] = {"row_count": len(group)}
        for name, aggregates in self.metrics.items():
            value = self.values.get(name, column(name))
            pairs = [(self.order(row), value(row)) for row in group]
            for aggregate in aggregates:
                found[f"{name}_{aggregate.replace('.', '_')}"] = values_reference.expected(
                    aggregate, pairs
                )
        return found | {name: compute(group) for name, compute in self.further.items()}


def rows_of(connection: psycopg.Connection[Any], table: str) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    # Not prepared: its columns may be others the next time.
    query = sql.SQL("SELECT * FROM {}").format(sql.SQL(table))
    return cursor.execute(query, prepare=False).fetchall()


def differences(
    wanted: Wanted, raw: Sequence[Row], live: Sequence[Row]
) -> list[tuple[Any, str, Any, Any]]:
    """Groups and columns that are not as they must be, with what is there and what must be."""
    groups = wanted.groups(raw)
    found: list[tuple[Any, str, Any, Any]] = []
    seen = set()
    for row in live:
        key = (row["bucket"].astimezone(UTC), *(row[name] for name in wanted.dimensions))
        if key not in groups or key in seen:
            found.append((key, "no such group" if key not in groups else "twice", dict(row), None))
            continue
        seen.add(key)
        for name, value in wanted.columns(groups[key]).items():
            if not values_reference.is_same(row[name], value):
                found.append((key, name, row[name], value))
    found += [(key, "missing", None, None) for key in groups if key not in seen]
    return found


def assert_live(connection: psycopg.Connection[Any], table: str, *all_wanted: Wanted) -> None:
    """Each live view is the GROUP BY over the table."""
    raw = rows_of(connection, table)
    for wanted in all_wanted:
        live = rows_of(connection, f"gold.{wanted.view}")
        found = differences(wanted, raw, live)
        lines = "\n".join(f"{key} {name}: {is_} for {must}" for key, name, is_, must in found[:10])
        assert not found, f"gold.{wanted.view} is not the GROUP BY in {len(found)}:\n{lines}"


def assert_live_and_stored(
    connection: psycopg.Connection[Any], table: str, *all_wanted: Wanted
) -> None:
    """Before a refresh, and after it, when nothing is stale any more."""
    assert_live(connection, table, *all_wanted)
    refresh_everything(connection)
    cursor = connection.cursor(row_factory=dict_row)
    left = cursor.execute(
        "SELECT target_table::text, health, stale_buckets, reason"
        " FROM silver.timeseries_operations_monitor WHERE stale_buckets <> 0 OR health <> 'ok'"
    ).fetchall()
    assert not left, left
    assert_live(connection, table, *all_wanted)


def create(
    connection: psycopg.Connection[Any], source: str, name: str, width: str, **options: Any
) -> None:
    """create_rollup_table with named arguments; dict values are sent as jsonb."""
    arguments: dict[str, Any] = {
        "source_table_name": source,
        "target_schema": "silver",
        "target_table_name": name,
        "rollup_table_interval": width,
        **{k: Jsonb(v) if isinstance(v, dict) else v for k, v in options.items()},
    }
    call = sql.SQL("SELECT silver.create_rollup_table({})").format(
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(k), sql.Placeholder(k)) for k in arguments
        )
    )
    connection.execute(call, arguments)
