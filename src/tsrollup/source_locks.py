"""Locks that keep writers from sources, several of them in one transaction.

Only the first is waited for. Whoever waits for one while others wait for him may close a circle,
and it is the user's statement that a deadlock would end: what is not had soon comes first in the
next attempt.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from tsrollup.connection import pinned
from tsrollup.errors import InTheWayError

T = TypeVar("T")

ATTEMPTS = 60
WRITERS = "SHARE ROW EXCLUSIVE"
ALL = "ACCESS EXCLUSIVE"

TRACKED = """
    SELECT EXISTS (
        SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE t.tgrelid = c.oid AND p.pronamespace = 'rollup_engine'::regnamespace)
    FROM pg_class AS c
    WHERE c.oid = to_regclass(%s) AND c.relkind IN ('r', 'p')
        AND has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
"""


class InUseError(InTheWayError):
    """A source that others use, while their like wait for another one that is locked already."""

    def __init__(self, source: str, mode: str) -> None:
        super().__init__(f"{source} is in use by others all the time", "try again")
        self.wanted = source, mode


class SourceLocks:
    """Those of a transaction; `first` is the one that an attempt before did not get."""

    def __init__(
        self, connection: psycopg.Connection[Any], first: tuple[str, str] | None = None
    ) -> None:
        self.connection = connection
        self.first = first
        self.since: float | None = None

    def begin(self) -> None:
        if self.first:
            self.take(*self.first)

    @contextmanager
    def creating(self, source: str) -> Iterator[None]:
        """A rollup of it, by a function that takes the lock by itself, and waits for it."""
        is_locked = self.is_tracked(source) is False
        if is_locked and self.since is not None:
            self.take(source)
        yield
        if is_locked:
            self._note()

    def is_tracked(self, source: str) -> bool | None:
        """Whether it has triggers: the first rollup brings them, the last one takes them away.
        None where the caller may not lock it, or nobody can."""
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(TRACKED, [source]).fetchone()
        return bool(row[0]) if row else None

    def take(self, source: str, mode: str = WRITERS) -> None:
        with pinned(self.connection):
            if self.since is not None:
                # Below deadlock_timeout, which runs for those who wait since the first was taken.
                soon = "300ms" if time.monotonic() < self.since + 0.5 else "10ms"
                self.connection.execute(f"SET LOCAL lock_timeout = '{soon}'".encode())
            statement = sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.SQL(source), sql.SQL(mode))
            try:
                self.connection.execute(statement)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
                if self.since is None:
                    raise
                raise InUseError(source, mode) from error
        self._note()

    def _note(self) -> None:
        self.since = self.since or time.monotonic()


def locking(connection: psycopg.Connection[Any], work: Callable[[SourceLocks], T]) -> T:
    """What a transaction comes to that locks sources, begun again as long as one is in use."""
    locks = SourceLocks(connection)
    for _ in range(ATTEMPTS):
        try:
            return work(locks)
        except InUseError as error:
            locks = SourceLocks(connection, error.wanted)
    return work(locks)
