"""Rollups as a file declares them: planned, and made so, all or nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from tsrollup import rollups
from tsrollup.connection import pinned
from tsrollup.declarations import Spec, configured, plain_text
from tsrollup.errors import InTheWayError, TsrollupError
from tsrollup.planning import CHILDREN_FIRST, DROP, MAKE, Change, Planning, Step
from tsrollup.source_locks import SourceLocks, locking

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Plan:
    """What has to change for a database to be as a file declares it; empty where nothing has."""

    declared: Mapping[str, Spec]
    prune: bool
    changes: tuple[Change, ...]

    @property
    def losses(self) -> tuple[Change, ...]:
        """The changes that take away what may not be computed again."""
        return tuple(change for change in self.changes if change.sign == "-")

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or "nothing to change"


def plan(connection: Connection, declared: Mapping[str, Spec], prune: bool = False) -> Plan:
    """What has to change; with `prune`, rollups that are not declared are dropped."""

    def work(locks: SourceLocks) -> Plan:
        with connection.transaction(force_rollback=True), pinned(connection):
            return _planned(connection, declared, prune, locks)[0]

    return locking(connection, work)


def apply(
    connection: Connection,
    declared: Mapping[str, Spec],
    prune: bool = False,
    allow_loss: bool = False,
    planned: Plan | None = None,
) -> Plan:
    """Plan it and do so, in one transaction; what was done. Refuses to lose something unless told,
    and to do something else than what was planned before."""

    def work(locks: SourceLocks) -> Plan:
        with connection.transaction(), pinned(connection):
            wanted, sources = _planned(connection, declared, prune, locks)
            if planned is not None and wanted and str(wanted) != str(planned):
                now = _listed(wanted)
                raise InTheWayError(
                    f"something has changed since this was planned; it would be now: {now}",
                    "plan it again",
                )
            if wanted.losses and not allow_loss:
                losses = "; ".join(map(str, wanted.losses))
                raise TsrollupError(
                    f"this would lose data: {losses}",
                    "look at tsrollup plan, and allow it with --allow-loss",
                )
            if len(sources) > 1:
                for source, mode in sources:
                    locks.take(source, mode)
            kept = _rights_and_comments(connection, wanted)
            for step in _in_order(connection, wanted):
                rollups.call(connection, step.function, **step.arguments)
            for row in kept:
                connection.execute("SELECT rollup_engine.give_back(%s::regclass, %s)", row)
            return wanted

    return locking(connection, work)


def _rights_and_comments(connection: Connection, wanted: Plan) -> list[tuple[str, list[str]]]:
    """What people have given the tables and live views that are made anew, by their names."""
    anew = [
        change.target
        for change in wanted.changes
        if {DROP, MAKE} <= {step.when for step in change.steps}
    ]
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(
            "SELECT o.relation::regclass::text,"
            " ARRAY(SELECT rollup_engine.rights_and_comments_sql(o.relation))"
            " FROM silver.rollup_config AS r"
            " CROSS JOIN unnest(ARRAY[r.target_table, r.target_view]) AS o (relation)"
            " WHERE r.target_table::text = ANY (%s)",
            [anew],
        ).fetchall()


def _listed(wanted: Plan) -> str:
    return "; ".join(map(str, wanted.changes))


def _planned(
    connection: Connection, declared: Mapping[str, Spec], prune: bool, locks: SourceLocks
) -> tuple[Plan, list[tuple[str, str]]]:
    """What has to change, as it is known to the end of the transaction to those who apply; and
    which sources that locks."""
    plain_text(connection)
    connection.execute("SELECT pg_advisory_xact_lock(rollup_engine.lock_key('apply'))")
    locks.begin()
    since = locks.since
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL client_min_messages = warning")
        planning = Planning(connection, declared, prune, locks)
        changes = tuple(planning.changes())
    locks.since = since
    return Plan(declared, prune, changes), list(planning.sources_to_lock(changes))


def _in_order(connection: Connection, wanted: Plan) -> list[Step]:
    children_first = [row["target"] for row in configured(connection, CHILDREN_FIRST)]
    steps = [(change.target, step) for change in wanted.changes for step in change.steps]

    def place(one: tuple[str, Step]) -> tuple[int, int]:
        target, step = one
        return step.when, 0 if step.when == MAKE else children_first.index(target)

    return [step for _, step in sorted(steps, key=place)]
