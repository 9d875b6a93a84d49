"""What there is at the moment, as the catalogue says, and how choices are drawn.

Everything that is drawn from comes from here in an order that does not depend on oids, so that
the same choices give the same statements.
"""

import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from model.reference import Live, Spec
from model.script import BlockedError, Script, Session
from servers import PostgresServer

T = TypeVar("T")

# Topics, operations, widths and times to leave out: to look past a fault that is known.
WITHOUT = set(filter(None, os.environ.get("TSROLLUP_MODEL_WITHOUT", "").split(",")))

# Edges of buckets, cells, partitions, days and the calendar; UTC, whatever the session says.
MOMENTS = [
    "2026-02-28 23:59:59.999999+00",
    "2026-03-01 00:00:00+00",
    "2026-03-01 00:00:00.000001+00",
    "2026-03-01 00:59:59+00",
    "2026-03-01 10:30:00+00",
    "2026-03-01 23:59:59.999999+00",
    "2026-03-02 00:00:00+00",
    "2026-03-02 12:00:07+00",
    "2026-03-03 00:00:00+00",
    "2026-03-03 17:45:00+00",
    "2026-03-04 23:00:00+00",
    "2026-03-05 00:00:00+00",
    "2026-03-06 06:06:06+00",
    "2026-03-29 01:30:00+00",
    "2026-04-01 00:00:00+00",
]
FAR_MOMENTS = [
    "1970-01-01 00:00:00+00",
    "1999-12-31 23:59:59+00",
    "2024-02-29 12:00:00+00",
    "2027-03-01 00:00:00+00",
    "2049-06-01 00:00:00+00",
    "infinity",
    "-infinity",
]
EDGE_MOMENTS = [
    "0044-03-15 12:00:00+00 BC",
    "0001-01-01 00:00:00+00",
    "0001-01-20 12:00:00+00",
    "9999-12-20 12:00:00+00",
    "9999-12-31 23:59:59+00",
    "10000-01-01 00:00:00+00",
]


class Choices:
    """Random choices; not hypothesis' own, which are mostly the first of what there is."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pick(self, values: Sequence[T]) -> T:
        if not values:
            raise BlockedError
        return self.random.choice(values)

    def some(self, values: Sequence[T], least: int = 0, most: int = 9) -> list[T]:
        most = min(most, len(values))
        return self.random.sample(values, self.random.randint(min(least, most), most))

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def chance(self, percent: int) -> bool:
        return self.random.random() * 100 < percent

    def moment(self) -> str:
        kind = self.number(0, 19)
        if kind == 19 and "edge times" not in WITHOUT:
            return self.pick(EDGE_MOMENTS)
        return self.pick(FAR_MOMENTS if kind >= 17 and "far times" not in WITHOUT else MOMENTS)

    def time(self) -> str:
        return "NULL" if self.chance(4) else f"'{self.moment()}'"

    def span(self) -> tuple[str, str]:
        low = self.number(0, len(MOMENTS) - 2)
        return MOMENTS[low], MOMENTS[self.number(low + 1, len(MOMENTS) - 1)]


@dataclass(frozen=True)
class Table:
    """A relation of the family: a root, or what is below it."""

    oid: int
    name: str
    kind: str  # as in pg_class.relkind
    parent: int | None
    partition_key: str | None  # of what is below it
    bound: str | None
    is_partition: bool
    unlogged: bool
    columns: tuple[tuple[int, Live], ...]

    @property
    def live(self) -> dict[int, Live]:
        return dict(self.columns)

    def column(self, name: str) -> Live | None:
        return next((c for _, c in self.columns if c.name == name), None)


@dataclass
class World:
    """A database with a family of tables, the sessions in it, and what was asked for so far."""

    script: Script
    sessions: dict[str, Session]
    observer: Session
    server: PostgresServer
    databases: list[str]  # the one of the story is the last
    alone: bool = False  # nobody minds when the server crashes
    time_type: str = "timestamptz"
    roots: list[int] = field(default_factory=list)
    specs: dict[int, Spec] = field(default_factory=dict)
    made: int = 0
    prepared: list[str] = field(default_factory=list)
    only: Session | None = None  # who does everything at the moment
    counts: dict[str, int] = field(default_factory=dict)

    def add_root(self, session: Session, name: str) -> None:
        self.script.event("add_root", session.name, name)
        self.roots += [r[0] for r in session.look("SELECT to_regclass(%s)::oid::bigint", [name])]

    def register(self, session: Session, table: int, spec: Spec) -> None:
        """Remembers what a rollup, known by the oid of its table, was created as."""
        ((number,),) = session.look(
            "SELECT id FROM silver.rollup_config WHERE target_table = %s::bigint::oid", [table]
        )
        self.specs[number] = spec

    def spec_named(self, name: str | None) -> Spec | None:
        return next((s for s in self.specs.values() if s.name == name), None)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def new_name(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}{self.made}"

    def session(self, choices: Choices) -> Session:
        """Mostly the first."""
        if self.only:
            return self.only
        names = list(self.sessions)
        return self.sessions[names[0] if not choices.chance(15) else choices.pick(names)]

    def everybody(self) -> list[Session]:
        return [*self.sessions.values(), self.observer]

    def all_idle(self) -> bool:
        return not self.prepared and not any(s.in_transaction for s in self.sessions.values())

    def changed(self, session: Session, text: str, expected: Sequence[str] = ()) -> bool:
        """DDL, and what it means for those who look; whether it was done."""
        with self.script.one_event("changed", session.name, text, tuple(expected)):
            done = session.run(text, expected) is not None
            if done:
                self.catalogue_changed()
            return done

    def catalogue_changed(self) -> None:
        """Snapshots that are open see the new catalogue with old data: no comparison in them."""
        for session in self.sessions.values():
            if session.isolation != "READ COMMITTED":
                session.comparable = False

    def tables(self, session: Session) -> list[Table]:
        """The family's tables and views for this session, roots first."""
        return self._tables_below(session, self.roots)

    def tables_named(self, names: list[str]) -> list[Table]:
        oids = self.observer.look(
            "SELECT to_regclass(n)::oid::bigint FROM unnest(%s::text[]) AS n", [names]
        )
        return self._tables_below(self.observer, [r[0] for r in oids])

    def _tables_below(self, session: Session, roots: list[int]) -> list[Table]:
        rows = session.look(
            """
            WITH RECURSIVE family AS (
                SELECT oid, NULL::oid AS parent, 0 AS depth FROM pg_class
                WHERE oid = ANY (%s::oid[])
                UNION ALL
                SELECT i.inhrelid, i.inhparent, depth + 1
                FROM family AS f JOIN pg_inherits AS i ON i.inhparent = f.oid
            )
            SELECT DISTINCT ON (depth, c.relname) c.oid::bigint, n.nspname || '.' || c.relname,
                c.relkind::text, f.parent::bigint, pg_get_partkeydef(c.oid),
                pg_get_expr(c.relpartbound, c.oid), c.relispartition, c.relpersistence = 'u',
                ARRAY(SELECT json_build_array(attnum, attname, format_type(atttypid, NULL))::text
                    FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                    ORDER BY attname)
            FROM family AS f JOIN pg_class AS c ON c.oid = f.oid
            JOIN pg_namespace AS n ON n.oid = c.relnamespace
            ORDER BY depth, c.relname
            """,
            [roots],
        )
        return [
            Table(
                oid=row[0],
                name=row[1],
                kind=row[2],
                parent=row[3],
                partition_key=row[4],
                bound=row[5],
                is_partition=row[6],
                unlogged=row[7],
                columns=tuple(
                    (number, Live(name, kind)) for number, name, kind in map(json.loads, row[8])
                ),
            )
            for row in rows
        ]

    def root_tables(self, session: Session) -> list[Table]:
        return [t for t in self.tables(session) if t.parent is None]

    def loose_tables(self, session: Session) -> list[str]:
        """Tables that were partitions once, or are to become some."""
        return [
            r[0]
            for r in session.look(
                "SELECT n.nspname || '.' || c.relname FROM pg_class AS c"
                " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
                " WHERE c.relkind = 'r' AND NOT c.relispartition AND n.nspname IN ('raw', 'app')"
                " AND c.relname ~ '^(part|half|story|tale)_'"
                " AND NOT EXISTS (SELECT FROM pg_inherits WHERE c.oid IN (inhrelid, inhparent))"
                " AND c.oid <> ALL (%s::oid[]) ORDER BY c.relname",
                [self.roots],
            )
        ]

    def rollups(self, session: Session) -> dict[int, tuple[str, str]]:
        """Table and live view of every rollup that this session sees and that we asked for."""
        return {
            r[0]: (r[1], r[2])
            for r in session.look(
                "SELECT r.id, tn.nspname || '.' || t.relname, vn.nspname || '.' || v.relname"
                " FROM silver.rollup_config AS r"
                " JOIN pg_class AS t ON t.oid = r.target_table"
                " JOIN pg_namespace AS tn ON tn.oid = t.relnamespace"
                " JOIN pg_class AS v ON v.oid = r.target_view"
                " JOIN pg_namespace AS vn ON vn.oid = v.relnamespace ORDER BY r.id"
            )
            if r[0] in self.specs
        }


Operation = Callable[[World, Choices], Any]
