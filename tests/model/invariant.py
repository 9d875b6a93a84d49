"""What must hold after every step, in every snapshot that somebody has."""

from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from model.reference import EXACT_SINCE, Binding, Spec, difference_query
from model.script import BlockedError, FaultError, Row, Session
from model.world import Table, World


@dataclass
class Sealed:
    """What was seen of a rollup's sealed time: it stays as it is."""

    border: str = "-infinity"
    rows: dict[str, str] = field(default_factory=dict)


@dataclass
class Invariant:
    """Gold equals the GROUP BY over raw, or the rollup says that it is invalid."""

    world: World
    sealed: dict[int, Sealed] = field(default_factory=dict)
    checked: int = -1  # events that had happened then

    def check(self) -> None:
        if len(self.world.script.events) == self.checked:
            return
        self.checked = len(self.world.script.events)
        for session in [self.world.observer, *self.world.sessions.values()]:
            observing = session is self.world.observer
            if not observing and not (session.in_transaction and session.comparable):
                continue
            with suppress(BlockedError), session.connection.transaction(force_rollback=True):
                if observing:
                    session.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                self._check_rollups(session)

    def settled(self) -> None:
        """After everything was refreshed: nothing is stale that is not invalid."""
        observer = self.world.observer
        self._health(observer)
        for number, (name, _) in self.world.rollups(observer).items():
            ((left,),) = observer.look("SELECT rollup_engine.stale_set(%s)::text", [number])
            if self.world.specs[number].since != "-infinity":
                continue  # the window is read again for ever
            if left != "{}" and self._health(observer)[name.split(".")[-1]] != "invalid":
                raise self._fault(observer, number, "it never settles", [(left,)])
        self.check()

    def _check_rollups(self, session: Session) -> None:
        roots = {t.oid: t for t in self.world.tables(session)}
        for number, names in self.world.rollups(session).items():
            spec = self.world.specs[number]
            ((since,),) = session.look(f"SELECT {EXACT_SINCE.format(id=number)}")
            if spec.root in roots:
                for relation, stored in self._relations(session, number, names):
                    rows, query = self._differences(
                        session,
                        spec,
                        roots[spec.root],
                        relation,
                        stored,
                        self._since(session, number, since),
                    )
                    self.world.count("compared")
                    if rows and self._health(session)[names[0].split(".")[-1]] != "invalid":
                        what = "the table differs" if stored else "gold differs"
                        raise self._fault(session, number, what, rows, query)
            if session is self.world.observer:
                self._check_sealed(session, number, names[0], since)

    def _relations(
        self, session: Session, number: int, names: tuple[str, str]
    ) -> list[tuple[str, bool]]:
        ((fresh,),) = session.look("SELECT isempty(rollup_engine.stale_set(%s))", [number])
        return [(names[1], False), *([(names[0], True)] if fresh else [])]

    def _since(self, session: Session, number: int, since: str) -> str:
        """The moment after a seal its buckets can still be compared: raw goes in a later run. Not
        where the rollup's own rows are to go, whatever they have taken in."""
        ((kept,),) = session.look(
            "SELECT retention IS NULL FROM silver.rollup_config WHERE id = %s", [number]
        )
        if kept and session is self.world.observer and number in self.sealed:
            since = self.sealed[number].border
        return since if since != "-infinity" else self.world.specs[number].since

    def _differences(
        self, session: Session, spec: Spec, root: Table, relation: str, stored: bool, since: str
    ) -> tuple[list[Row], str]:
        """And the query that shows them. By the columns as they were numbered, or, should one be
        gone, by their names."""
        found: list[Row] = []
        query = ""
        noted = session.look(
            "SELECT column_name, current_name FROM rollup_engine.source_column AS c"
            " JOIN silver.rollup_config AS r USING (source_id) WHERE to_regclass(%s)"
            " IN (r.target_table, r.target_view)",
            [relation],
        )
        for binding in _bindings(spec, root, dict(noted)):
            query = difference_query(spec, binding, root.name, relation, stored, since)
            try:
                with session.connection.transaction(force_rollback=True):
                    found = session.look(query.replace("%", "%%"), [])
            except psycopg.Error as error:
                if error.sqlstate == "42P01" and session is not self.world.observer:
                    return [], ""  # dropped since this snapshot was taken
                found = [(f"ERROR {error.sqlstate}", str(error).splitlines()[0])]
            if not found:
                return [], ""
        return found or [("no column of the source stands for what it was made of",)], query

    def _check_sealed(self, session: Session, number: int, table: str, since: str) -> None:
        seen = self.sealed.setdefault(number, Sealed())
        ((border, kept),) = session.look(
            "SELECT coalesce(sealed_before, '-infinity')::text, retention IS NULL"
            " FROM silver.rollup_config WHERE id = %s",
            [number],
        )
        spec = self.world.specs[number]
        columns = ", ".join(
            [
                "bucket",
                "row_count",
                *(f'"{d.name}"' for d in spec.dimensions),
                *(f'"{c.name}_{a}"' for c, a in spec.metrics if a != "avg"),
            ]
        )
        if border != "-infinity":
            rows: dict[str, str] = dict(
                session.look(
                    f"SELECT (bucket, {_keys(spec)})::text, row({columns})::text FROM {table}"
                    " WHERE bucket < %s",
                    [border],
                )
            )
            for key, row in seen.rows.items():
                if (key in rows and rows[key] != row) or (key not in rows and kept):
                    raise self._fault(
                        session, number, "a sealed row changed", [(row, rows.get(key))]
                    )
            if border == seen.border and not set(rows) <= set(seen.rows):
                raise self._fault(session, number, "a sealed row came", [*rows.items()])
            seen.rows = rows
        seen.border = border if since == "-infinity" else max(border, since)

    def _health(self, session: Session) -> dict[str, str]:
        try:
            rows = session.look(
                "SELECT target_table, health FROM silver.timeseries_operations_monitor"
            )
        except psycopg.Error as error:
            raise self.world.script.fault("the monitor fails", str(error)) from None
        for _, health in rows:
            self.world.count(f"health {health}")
        return {table.split(".")[-1].strip('"'): health for table, health in rows}

    def _fault(
        self, session: Session, number: int, what: str, rows: list[Row], query: str = ""
    ) -> FaultError:
        spec = self.world.specs[number]
        text = f"{spec.name}, read by session {session.name}"
        text += "".join(f"\n{tuple(map(str, row))}" for row in rows[:5])
        verdict = session.look(
            "SELECT problem, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
        )
        return self.world.script.fault(what, f"{text}\nvalidate says {verdict or 'valid'}", query)


def _bindings(spec: Spec, root: Table, noted: dict[str, str]) -> list[Binding]:
    """What a rollup may go by: its columns by number, or by name where that one is gone; or the
    other way round, should one have taken another's name. Or, as a later rename of such a one is
    followed too, by the names that the last run noted."""
    live = root.live
    by_number = {c: live.get(c.number) or root.column(c.name) for c in spec.columns}
    by_name = {c: root.column(c.name) or live.get(c.number) for c in spec.columns}
    by_note = {c: root.column(noted.get(c.name, c.name)) for c in spec.columns}
    found: list[Binding] = []
    for binding in (by_number, by_name, by_note):
        known = {column: now for column, now in binding.items() if now}
        if len(known) == len(binding) and known not in found:
            found.append(known)
    return found


def _keys(spec: Spec) -> str:
    return ", ".join(["1", *(f'"{d.name}"' for d in spec.dimensions)])
