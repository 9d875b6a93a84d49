"""What would have to change for rollups to be as a file declares them.

What a declaration comes to is not worked out here: the rollup is created beside the one that is
there, over what its parent will be, compared with it, and taken back.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from tsrollup import rollups
from tsrollup.connection import describe
from tsrollup.declarations import KEYS, OPTIONS, Spec, configured
from tsrollup.differences import differing, metrics_between, name_of, without
from tsrollup.errors import ArgumentError, InTheWayError, TsrollupError, error_of
from tsrollup.source_locks import ALL, WRITERS, SourceLocks

Connection = psycopg.Connection[Any]
Call = tuple[str, dict[str, Any]]

CHILDREN_FIRST = " ORDER BY r.depth DESC, r.id DESC"
# What another source would not have.
OF_SOURCE = ("time_column", "time_unit", "key_dimension")

# In this order steps are taken. A metric that takes the name of another waits until that is gone;
# else what both are computed from is stored all the while.
DROP, REPLACE, MAKE, TRIM = range(4)


@dataclass(frozen=True)
class Step:
    """A call, and when it is made: what takes something away goes from children to parents."""

    when: int
    function: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One thing to do: `+` makes something, `~` changes it, `-` takes something away for good."""

    sign: str
    target: str
    text: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return f"{self.sign} {self.target}: {self.text}"


class Planning:
    """The rollups of a file beside those that are there, in a transaction that is taken back."""

    def __init__(
        self, connection: Connection, declared: Mapping[str, Spec], prune: bool, locks: SourceLocks
    ) -> None:
        self.connection = connection
        self.locks = locks
        self.is_now = {row["target"]: row for row in configured(connection, CHILDREN_FIRST)}
        self.declared: dict[str, tuple[tuple[str, str], Spec]] = {}
        for name, spec in declared.items():
            parts = rollups.split_target(connection, name)
            target = self._ask("format('%%I.%%I', %s::text, %s::text)", *parts)
            if target in self.declared:
                raise ArgumentError(f"{target} is declared twice", "leave one of its sections out")
            self.declared[target] = parts, spec
        left = [target for target in self.is_now if target not in self.declared]
        self.pruned = left if prune else []
        self.left_alone = [] if prune else left[::-1]
        # What each reads once all is done; who becomes another, or loses a metric.
        self.reads = {t: row["source"] for t, row in self.is_now.items() if t not in self.pruned}
        self.anew: set[str] = set()
        self.lessened: set[str] = set()
        self.prefix = f"tsrollup_planned_{secrets.token_hex(4)}_"  # which nobody has
        self.shadows: dict[str, str] = {}
        self.shadowed: list[str] = []

    def changes(self) -> Iterator[Change]:
        for target, (parts, spec) in self.declared.items():
            if target in self.is_now:
                yield from self._change(target, parts, spec)
            else:
                yield self._creation(target, parts, spec)
        self._check_readers()
        for target in self.pruned:
            yield Change("-", target, "drop it", (Step(DROP, "drop_rollup", {"target": target}),))

    def sources_to_lock(self, changes: Iterable[Change]) -> Iterator[tuple[str, str]]:
        """Those of users that the steps would lock one after the other."""
        steps = {(change.target, step.function) for change in changes for step in change.steps}
        left = {row["source"] for t, row in self.is_now.items() if (t, "drop_rollup") not in steps}
        gone = {row["source"] for row in self.is_now.values()} - left
        made = {self.reads[target] for target, does in steps if does == "create_rollup_table"}
        for source in sorted((gone | made) - self.is_now.keys() - self.declared.keys()):
            if self.locks.is_tracked(source) is (source in gone):
                yield source, ALL if source in gone else WRITERS

    def _creation(self, target: str, parts: tuple[str, str], spec: Spec) -> Change:
        made = self._create(target, parts, spec)
        self.reads[target] = made["source"]
        # As its parent will be; what that still has of metrics by then may be more.
        whole = {**spec, "metrics": made["metrics"]}
        steps = tuple(Step(MAKE, *call) for call in _creating(parts, whole))
        return Change("+", target, f"create it, of {spec['source']} by {spec['width']}", steps)

    def _change(self, target: str, parts: tuple[str, str], spec: Spec) -> Iterator[Change]:
        is_now = self.is_now[target]
        whole = {**self._kept(is_now, spec), **spec}
        try:
            wanted = self._shadow(target, parts[0], whole)
        except TsrollupError:
            if "metrics" not in spec and is_now["source"] in self.lessened:
                self._check_needs(target, is_now["source"])
            raise
        self.reads[target] = wanted["source"]
        differs = differing(is_now, wanted)
        if differs or wanted["source"] in self.anew:
            self.anew.add(target)
            text = ", ".join(f"{key} {is_now[key]!r} -> {wanted[key]!r}" for key in differs)
            text = text or f"it reads {wanted['source']}"
            whole = {**whole, "metrics": wanted["metrics"]}
            steps = [Step(DROP, "drop_rollup", {"target": target})]
            steps += [Step(MAKE, *call) for call in _creating(parts, whole)]
            if is_now["is_paused"]:
                steps.append(Step(MAKE, "pause_rollup", {"target": target}))
            yield Change("-", target, f"drop it and create it anew: {text}", tuple(steps))
            return
        yield from self._metrics(target, is_now, wanted)
        options = {key: wanted[key] for key in OPTIONS if wanted[key] != is_now[key]}
        if options:
            text = ", ".join(f"{key} {is_now[key]} -> {value}" for key, value in options.items())
            steps = [Step(MAKE, "alter_rollup", {"target": target, **options})]
            yield Change("~", target, text, tuple(steps))
        if any(wanted[key] != is_now[key] for key in ("retention", "archive")):
            yield self._retention(target, is_now, wanted)

    def _kept(self, is_now: Spec, spec: Spec) -> Spec:
        """What the file does not say stays as it is."""
        kept = {key: is_now[key] for key in KEYS if is_now[key] is not None}
        tracking = spec.get("change_tracking") or kept.get("change_tracking", "trigger")
        source = self._ask("rollup_engine.resolve_source(%s, %s)::text", spec["source"], tracking)
        gone = OF_SOURCE if source != is_now["source"] else ()
        if "dimensions" in spec and kept.get("key_dimension") not in [
            *spec["dimensions"],
            *map(str.lower, spec["dimensions"]),
        ]:
            gone = (*gone, "key_dimension")
        if "retention" in spec and not spec["retention"]:
            gone = (*gone, "archive")
        return {key: value for key, value in kept.items() if key not in gone}

    def _metrics(self, target: str, is_now: Spec, wanted: Spec) -> Iterator[Change]:
        added, dropped = metrics_between(is_now, wanted)
        if added:
            given = {"target": target, "metrics": added}
            # One that nothing else is made of may be gone by then.
            used = {key: x for key, x in (is_now["expressions"] or {}).items() if key in added}
            if used:
                given["expressions"] = used
            text = f"add metrics {json.dumps(added)}"
            yield Change("+", target, text, (Step(MAKE, "add_rollup_metric", given),))
        if dropped:
            self.lessened.add(target)
            replaced = {
                column: [x for x in items if name_of(x) in map(name_of, added.get(column, []))]
                for column, items in dropped.items()
            }
            steps = tuple(
                Step(when, "drop_rollup_metric", {"target": target, "metrics": metrics})
                for when, metrics in (
                    (REPLACE, {column: items for column, items in replaced.items() if items}),
                    (TRIM, without(dropped, replaced)),
                )
                if metrics
            )
            yield Change("-", target, f"drop metrics {json.dumps(dropped)}", steps)

    def _retention(self, target: str, is_now: Spec, wanted: Spec) -> Change:
        keep, than = wanted["retention"], is_now["retention"]
        is_shorter = self._ask(
            "coalesce(%s::interval < %s::interval, %s::interval IS NOT NULL)", keep, than, keep
        )
        given = {"table_name": target, "keep": keep, "archive": wanted["archive"]}
        text = " -> ".join(_kept_for(row) for row in (is_now, wanted))
        sign = "-" if is_shorter or (is_now["archive"] and keep and not wanted["archive"]) else "~"
        return Change(sign, target, f"retention {text}", (Step(MAKE, "set_retention", given),))

    def _check_readers(self) -> None:
        """An error for a rollup that stays, and reads one that does not, or lacks what it needs."""
        for target, source in self.reads.items():
            is_there = target in self.is_now and target not in self.anew
            if source in self.pruned or (is_there and source in self.anew):
                raise InTheWayError(
                    f"{target} reads {source}, which would be dropped",
                    "declare the two, one behind the other, or with --prune neither",
                )
        for target in self.left_alone:
            source = self.reads[target]
            if source in self.lessened:
                self._check_needs(target, source)

    def _check_needs(self, target: str, source: str) -> None:
        row = self.is_now[target]
        try:
            schema = self._ask("(parse_ident(%s))[1]", target)
            self._shadow(target, schema, self._kept(row, row))
        except TsrollupError as error:
            raise InTheWayError(
                f"{error.message}; {source} would lose it", f"declare {target} without it too"
            ) from error

    def _shadow(self, target: str, schema: str, spec: Spec) -> Spec:
        """What the rollup would be; where it is that, nothing of it is kept, and no lock."""
        is_now = self.is_now[target]
        with self.connection.transaction() as beside:
            parts = (schema, f"{self.prefix}{len(self.shadowed)}")
            self.shadowed.append(target)
            since = self.locks.since
            made = self._create(target, parts, spec)
            added, dropped = metrics_between(is_now, made)
            if not (differing(is_now, made) or made["source"] in self.anew or added or dropped):
                self.locks.since = since
                raise psycopg.Rollback(beside)
            name = "format('%%I.%%I', %s::text, %s::text)"
            self.shadows[target] = self._ask(name, *parts)
        return made

    def _create(self, target: str, parts: tuple[str, str], spec: Spec) -> Spec:
        """The configuration that a declaration comes to, over what its parent comes to."""
        if spec.get("archive") and not spec.get("retention"):
            raise ArgumentError(
                f"{target}: archive says where rows go after a retention, and it has none",
                'say how long rows are kept, as in retention = "90 days"',
            )
        try:
            tracking = spec.get("change_tracking") or "trigger"
            source = self._ask(
                "rollup_engine.resolve_source(%s, %s)::text", spec["source"], tracking
            )
            read = {**spec, "source": self.shadows.get(source, spec["source"])}
            with self.locks.creating(source):
                for function, arguments in _creating(parts, read):
                    rollups.call(self.connection, function, **arguments)
            where = " WHERE r.target_table = to_regclass(format('%%I.%%I', %s::text, %s::text))"
            (made,) = configured(self.connection, where, list(parts))
        except psycopg.Error as error:
            told = describe(error)
            hint = self._named(told.hint) if told.hint else None
            raise error_of(told.code, f"{target}: {self._named(told.message)}", hint) from error
        return {**made, "source": self._named(made["source"])}

    def _named(self, text: str) -> str:
        """A text that names rollups, and no shadows of them."""
        shadow = rf'(?:(?:"(?:[^"]|"")+"|\w+)\.)?{self.prefix}(\d+)'
        return re.sub(shadow, lambda found: self.shadowed[int(found[1])], text)

    def _ask(self, expression: str, *parameters: Any) -> Any:
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            (row,) = cursor.execute(f"SELECT {expression}".encode(), parameters).fetchall()
        return row[0]


def _creating(parts: tuple[str, str], spec: Spec) -> Iterator[Call]:
    names = {"source": "source_table_name", "width": "rollup_table_interval"}
    given = {names.get(key, key): value for key, value in spec.items() if key != "archive"}
    target = {"target_schema": parts[0], "target_table_name": parts[1]}
    yield "create_rollup_table", {**target, **given}
    if spec.get("archive"):
        name = ".".join('"' + part.replace('"', '""') + '"' for part in parts)
        yield "set_retention", {"table_name": name, "keep": spec["retention"], "archive": True}


def _kept_for(row: Spec) -> str:
    return f"{row['retention'] or 'forever'}{', archived' if row['archive'] else ''}"
