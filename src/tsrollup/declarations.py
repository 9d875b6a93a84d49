"""The file that declares rollups: what may stand in it, and what it says of those there are."""

import json
import tomllib
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tsrollup.connection import pinned
from tsrollup.errors import ArgumentError

Connection = psycopg.Connection[Any]
Spec = dict[str, Any]

# What makes a rollup another one, and what alter_rollup can change.
NATURE = (
    *("source", "time_column", "width", "dimensions", "timezone", "origin", "time_unit"),
    *("expressions", "filter", "change_tracking"),
)
OPTIONS = (
    *("settle_delay", "processing_window", "target_batch_duration", "look_back_window"),
    "chunk_interval",
)
# Of the source: what its first rollup says, or an index decides.
KEYS = (*NATURE, "key_dimension", "metrics", *OPTIONS, "retention", "archive")
FOREVER = "forever"

# Columns go by the names that they have now; a width of partitions only where somebody named it.
CONFIGURED = """
SELECT r.target_table::text AS target, r.source_table::text AS source, r.time_column::text,
    r.bucket_width::text AS width, r.dimensions::text[], r.metrics, r.timezone,
    r.origin::text, r.time_unit, r.expressions, r.filter, r.key_dimension::text,
    CASE WHEN r.parent_id IS NULL THEN r.change_tracking END AS change_tracking,
    r.settle_delay::text, r.processing_window::text, r.target_batch_duration::text,
    CASE WHEN r.parent_id IS NULL THEN r.look_back_window::text END AS look_back_window,
    CASE WHEN rollup_engine.has_named_width(r.target_table) THEN r.chunk_interval::text END
        AS chunk_interval,
    r.retention::text, rollup_engine.keep_of(r.target_table) IS NOT NULL AS archive,
    NOT r.is_active AS is_paused,
    rollup_engine.filled_expression(c, c.row_sql -> 'filter') AS meant_filter,
    (SELECT jsonb_object_agg(key, rollup_engine.filled_expression(c, value))
        FROM jsonb_each(c.row_sql -> 'expressions')) AS meant_expressions
FROM silver.rollup_config AS c CROSS JOIN LATERAL rollup_engine.named_as_now(c) AS r
"""


def read(path: Path) -> dict[str, Spec]:
    """The declarations of a file, by the rollup's name, in the file's order."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ArgumentError(
            f"cannot read {path}: {error.strerror}", "tsrollup export writes what is there"
        ) from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ArgumentError(f"{path}: {error}", "see docs/declared.md") from error
    unknown = [key for key in document if key != "rollups"]
    declared: dict[str, Spec] = document.get("rollups", {})
    if not isinstance(declared, dict):
        raise ArgumentError(f"{path}: rollups is no table", "write [rollups.<name>] sections")
    for name, spec in declared.items():
        section = f"rollups.{name}"
        if not isinstance(spec, dict):
            unknown.append(section)
            continue
        unknown += [f"{section}.{key}" for key in spec if key not in KEYS]
        _check(f"{path}: {section}", spec)
    if unknown:
        raise ArgumentError(f"{path}: {', '.join(unknown)}: not known", f"known: {', '.join(KEYS)}")
    return {name: _meant(spec) for name, spec in declared.items()}


def _check(section: str, spec: Spec) -> None:
    for key in ("source", "width"):
        if key not in spec:
            raise ArgumentError(f"{section} lacks {key}", f'add {key} = "..."')
    for key, value in spec.items():
        is_right, example = FORMS.get(key, (_is_text, '"..."'))
        if key in KEYS and not is_right(value):
            raise ArgumentError(
                f"{section}.{key} is not {FORM_NAMES[is_right]}",
                f"write it as in {key} = {example}",
            )


def _meant(spec: Spec) -> Spec:
    return {**spec, "retention": None} if spec.get("retention") == FOREVER else spec


def export(connection: Connection) -> str:
    """All rollups as a file declares them, parents first."""
    with pinned(connection):
        plain_text(connection)
        rows = configured(connection, " ORDER BY r.depth, r.id")
    return "\n".join(_section(row) for row in rows)


def plain_text(connection: Connection) -> None:
    """Until the end of the transaction, intervals and times are written and read in one way."""
    connection.execute("SET LOCAL intervalstyle = 'postgres'")
    connection.execute("SET LOCAL timezone = 'UTC'")


def configured(
    connection: Connection, rest: str, parameters: list[Any] | None = None
) -> list[Spec]:
    """Rollups by the keys of a file; `target` is the name, and what begins with `meant_` is as
    PostgreSQL reads it, however it was written."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute((CONFIGURED + rest).encode(), parameters).fetchall()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_time(value: Any) -> bool:
    return isinstance(value, str | date)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return isinstance(value, Mapping)


FORM_NAMES: dict[Callable[[Any], bool], str] = {
    _is_text: "text",
    _is_list_of_text: "a list of text",
    _is_time: "a time",
    _is_truth: "true or false",
    _is_object: "a table of text, finite numbers and lists",
}
FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dimensions": (_is_list_of_text, '["device"]'),
    "origin": (_is_time, "2020-01-01T06:00:00Z"),
    "archive": (_is_truth, "true"),
    "metrics": (_is_object, '{ temp = ["avg", "max"] }'),
    "expressions": (_is_object, '{ kelvin = "temp + 273" }'),
}


def _section(row: Spec) -> str:
    lines = [f"[rollups.{_toml(row['target'])}]"]
    lines += [f"{key} = {_toml(row[key])}" for key in KEYS if row[key] not in (None, False)]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Text, numbers and lists are written as in JSON; objects are inline tables."""
    if isinstance(value, dict):
        pairs = (f"{_toml(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
