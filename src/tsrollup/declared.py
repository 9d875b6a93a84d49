"""Rollups as a file declares them: what would have to change, and changing it, all or nothing.

What a declaration comes to is not worked out here: the rollup is created beside the one that is
there, compared with it, and taken back.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tsrollup import rollups
from tsrollup.connection import pinned
from tsrollup.errors import ArgumentError, TsrollupError

Connection = psycopg.Connection[Any]
Spec = dict[str, Any]

SHADOW = "tsrollup_planned"

# What makes a rollup another one, and what alter_rollup can change.
NATURE = (
    *("source", "time_column", "width", "dimensions", "timezone", "origin", "time_unit"),
    *("expressions", "filter", "change_tracking"),
)
OPTIONS = (
    *("settle_delay", "processing_window", "target_batch_duration", "look_back_window"),
    "chunk_interval",
)
# Compared as PostgreSQL reads them, however they are written.
MEANT = {"expressions": "meant_expressions", "filter": "meant_filter"}
# Of the source: what its first rollup says, or an index decides.
KEYS = (*NATURE, "key_dimension", "metrics", *OPTIONS, "retention")

CONFIGURED = """
SELECT r.target_table::text AS target, r.source_table::text AS source, r.time_column::text,
    r.bucket_width::text AS width, r.dimensions::text[], r.metrics, r.timezone,
    r.origin::text, r.time_unit, r.expressions, r.filter, r.change_tracking, r.key_dimension::text,
    r.settle_delay::text, r.processing_window::text, r.target_batch_duration::text,
    CASE WHEN r.parent_id IS NULL THEN r.look_back_window::text END AS look_back_window,
    r.chunk_interval::text, r.retention::text,
    rollup_engine.filled_expression(c, c.row_sql -> 'filter') AS meant_filter,
    (SELECT jsonb_object_agg(key, rollup_engine.filled_expression(c, value))
        FROM jsonb_each(c.row_sql -> 'expressions')) AS meant_expressions
FROM silver.rollup_config AS c CROSS JOIN LATERAL rollup_engine.named_as_now(c) AS r
"""


@dataclass(frozen=True)
class Change:
    """One thing to do: `+` makes something, `~` changes it, `-` takes something away for good."""

    sign: str
    target: str
    text: str
    steps: tuple[tuple[str, dict[str, Any]], ...]

    def __str__(self) -> str:
        return f"{self.sign} {self.target}: {self.text}"


@dataclass(frozen=True)
class Plan:
    """What has to change for a database to be as a file declares it; empty where nothing has."""

    changes: tuple[Change, ...]

    @property
    def losses(self) -> tuple[Change, ...]:
        """The changes that take away what may not be computed again."""
        return tuple(change for change in self.changes if change.sign == "-")

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or "nothing to change"


def read(path: Path) -> dict[str, Spec]:
    """The declarations of a file, by the rollup's name, in the file's order."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ArgumentError(f"{path}: {error}", "see docs/declared.md") from error
    unknown = [key for key in document if key != "rollups"]
    declared: dict[str, Spec] = document.get("rollups", {})
    if not isinstance(declared, dict):
        raise ArgumentError(f"{path}: rollups is no table", "write [rollups.<name>] sections")
    for name, spec in declared.items():
        if not isinstance(spec, dict):
            unknown.append(f"rollups.{name}")
            continue
        unknown += [f"rollups.{name}.{key}" for key in spec if key not in KEYS]
        for key in ("source", "width"):
            if key not in spec:
                raise ArgumentError(f"{path}: rollups.{name} lacks {key}", f'add {key} = "..."')
    if unknown:
        raise ArgumentError(f"{path}: {', '.join(unknown)}: not known", f"known: {', '.join(KEYS)}")
    return declared


def export(connection: Connection) -> str:
    """All rollups as a file declares them, parents first."""
    with pinned(connection):
        _plain_text(connection)
        rows = _configured(connection, " ORDER BY r.depth, r.id")
    return "\n".join(_section(row.pop("target"), row) for row in rows)


def plan(connection: Connection, declared: Mapping[str, Spec], prune: bool = False) -> Plan:
    """What has to change; with `prune`, rollups that are not declared are dropped."""
    with connection.transaction(force_rollback=True), pinned(connection):
        _plain_text(connection)
        connection.execute("SET LOCAL client_min_messages = warning")
        before = _configured(connection, " ORDER BY r.depth DESC, r.id DESC")
        changes: list[Change] = []
        known = set()
        for name, spec in declared.items():
            schema, table = rollups.split_target(connection, name)
            (target,) = connection.execute(
                "SELECT format('%%I.%%I', %s::text, %s::text) AS target", [schema, table]
            ).fetchall()
            known.add(_first(target))
            changes += _changes(connection, _first(target), (schema, table), spec)
        if prune:
            for row in before:
                if row["target"] not in known:
                    steps = (("drop_rollup", {"target": row["target"]}),)
                    changes.append(Change("-", row["target"], "drop it", steps))
    return Plan(tuple(changes))


def apply(connection: Connection, wanted: Plan, allow_loss: bool = False) -> None:
    """Make the changes, in one transaction; refuses those that lose something unless told."""
    if wanted.losses and not allow_loss:
        raise TsrollupError(
            f"this would lose data: {'; '.join(map(str, wanted.losses))}",
            "look at tsrollup plan, and allow it with --allow-loss",
        )
    with connection.transaction():
        for change in wanted.changes:
            for function, arguments in change.steps:
                rollups.call(connection, function, **arguments)


def _changes(
    connection: Connection, target: str, parts: tuple[str, str], spec: Spec
) -> Iterator[Change]:
    found = _configured(connection, " WHERE r.target_table = to_regclass(%s)", [target])
    creation = ("create_rollup_table", _arguments(parts, spec))
    if not found:
        rollups.call(connection, creation[0], **creation[1])
        yield Change("+", target, f"create it, of {spec['source']} by {spec['width']}", (creation,))
        return
    is_now = found[0]
    # What the file does not say stays as it is.
    kept = {key: value for key, value in is_now.items() if key in KEYS and value is not None}
    wanted = _created_beside(connection, parts[0], {**kept, **spec})
    differs = [key for key in NATURE if wanted[MEANT.get(key, key)] != is_now[MEANT.get(key, key)]]
    if differs:
        text = ", ".join(f"{key} {is_now[key]!r} -> {wanted[key]!r}" for key in differs)
        drop = ("drop_rollup", {"target": target})
        yield Change("-", target, f"drop it and create it anew: {text}", (drop, creation))
        return
    added, dropped = _differences(wanted["metrics"], is_now["metrics"])
    for sign, text, function, metrics in (
        ("+", "add", "add_rollup_metric", added),
        ("-", "drop", "drop_rollup_metric", dropped),
    ):
        if metrics:
            step = (function, {"target": target, "metrics": metrics})
            yield Change(sign, target, f"{text} metrics {json.dumps(metrics)}", (step,))
    options = {key: wanted[key] for key in OPTIONS if wanted[key] != is_now[key]}
    if options:
        text = ", ".join(f"{key} {is_now[key]} -> {value}" for key, value in options.items())
        yield Change("~", target, text, (("alter_rollup", {"target": target, **options}),))
    if wanted["retention"] != is_now["retention"]:
        text = f"retention {is_now['retention']} -> {wanted['retention']}"
        step = ("set_retention", {"table_name": target, "keep": wanted["retention"]})
        sign = "-" if _is_shorter(connection, wanted["retention"], is_now["retention"]) else "~"
        yield Change(sign, target, text, (step,))


def _created_beside(connection: Connection, schema: str, spec: Spec) -> Spec:
    """The configuration that a declaration comes to."""
    with connection.transaction(force_rollback=True):
        rollups.call(connection, "create_rollup_table", **_arguments((schema, SHADOW), spec))
        where = " WHERE r.target_table = to_regclass(format('%%I.%%I', %s::text, %s::text))"
        return _configured(connection, where, [schema, SHADOW])[0]


def _is_shorter(connection: Connection, keep: str, than: str | None) -> bool:
    query = "SELECT coalesce(%s::interval < %s::interval, true) AS target"
    return _first(connection.execute(query, [keep, than]).fetchone()) == "True"


def _arguments(parts: tuple[str, str], spec: Spec) -> dict[str, Any]:
    names = {"source": "source_table_name", "width": "rollup_table_interval"}
    given = {names.get(key, key): value for key, value in spec.items()}
    return {"target_schema": parts[0], "target_table_name": parts[1], **given}


def _differences(wanted: Any, is_now: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Aggregates by column that are wanted and not there, and that are there and not wanted."""

    def without(these: Any, those: Any) -> dict[str, Any]:
        left = {
            column: [one for one in aggregates if one not in those.get(column, [])]
            for column, aggregates in these.items()
        }
        return {column: aggregates for column, aggregates in left.items() if aggregates}

    return without(wanted, is_now), without(is_now, wanted)


def _plain_text(connection: Connection) -> None:
    connection.execute("SET LOCAL intervalstyle = 'postgres'")
    connection.execute("SET LOCAL timezone = 'UTC'")


def _configured(
    connection: Connection, rest: str, parameters: list[Any] | None = None
) -> list[Spec]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute((CONFIGURED + rest).encode(), parameters).fetchall()


def _first(row: Any) -> str:
    return str(row["target"] if isinstance(row, dict) else row[0])


def _section(target: str, spec: Spec) -> str:
    lines = [f"[rollups.{json.dumps(target)}]"]
    lines += [
        f"{key} = {_toml(spec[key])}"
        for key in KEYS
        if spec[key] is not None and key != "chunk_interval"
    ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Text, numbers and lists are written as in JSON; objects are inline tables."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
