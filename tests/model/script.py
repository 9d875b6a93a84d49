"""Sessions that keep what they ran as a script for psql, so that a failure can be pasted."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.string import TextLoader

Row = tuple[Any, ...]

# What keeps every statement short: a writer that waits gives up before deadlocks are looked for.
WAITS = "-c lock_timeout=600ms -c statement_timeout=30s -c synchronous_commit=on"


class FaultError(AssertionError):
    """What the product did was wrong; the message is the script that shows it."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class BlockedError(Exception):
    """Nothing to do it to: no such thing, or another session's transaction has it locked."""


# What was done, to be done again: a name that `Stage.again` knows, and what it was given. All that
# the model concludes from it belongs to it, so that leaving it out leaves that out as well.
Event = tuple[Any, ...]


@dataclass
class Script:
    """The statements of all sessions in their order; with two of them, paste into two psql."""

    lines: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    current: str = ""
    silent: bool = False

    def event(self, *event: Any) -> None:
        if not self.silent:
            self.events.append(event)

    @contextmanager
    def one_event(self, *event: Any) -> Iterator[None]:
        """What happens inside is one thing to do again."""
        self.event(*event)
        with self.no_event():
            yield

    @contextmanager
    def no_event(self) -> Iterator[None]:
        before, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = before

    def add(self, session: str, text: str) -> None:
        if session != self.current:
            self.lines.append(f"-- session {session}")
            self.current = session
        self.lines.append(text)

    def remark(self, text: str) -> None:
        if self.lines:
            self.lines[-1] += "".join(f"\n--   {line}" for line in text.splitlines()[:4])

    def fault_of(self, error: Exception) -> FaultError:
        if isinstance(error, FaultError):
            return error
        return self.fault(f"{type(error).__name__} {_gist(str(error))}", str(error))

    def fault(self, kind: str, what: str = "", query: str = "") -> FaultError:
        """The query shows it, in the same database."""
        comment = f"FAULT: {kind}: {what}".replace("\n", "\n--   ")
        shown = [query.strip() + ";"] if query else []
        return FaultError("\n".join(["", *self.lines, f"-- {comment}", *shown, ""]), kind)


class Session:
    """A connection with a name; its statements are noted, its expected errors too."""

    def __init__(self, name: str, url: str, script: Script) -> None:
        self.name = name
        self.url = url
        self.script = script
        self.savepoint = False
        self.isolation = ""
        # A snapshot that is older than a change of the catalogue shows what it cannot have seen.
        self.comparable = True
        self.role = ""
        self.connection: psycopg.Connection[Row]
        self.open()

    def open(self) -> None:
        self.has_settings = False
        self.role = ""
        self.connection = psycopg.connect(
            self.url, autocommit=True, prepare_threshold=None, options=WAITS
        )
        # psycopg reads times and intervals in one style only.
        for kind in ("interval", "timestamptz", "timestamp", "date"):
            self.connection.adapters.register_loader(kind, TextLoader)
        self._in_no_transaction()

    def close(self) -> None:
        self.connection.close()

    def open_again(self, url: str = "") -> None:
        """Its transaction and its settings are gone."""
        self.close()
        self.url = url or self.url
        self.open()

    def become(self, role: str) -> None:
        with self.script.one_event("become", self.name, role):
            self.run(f"SET ROLE {role}" if role else "RESET ROLE")
            self.role = role

    @property
    def in_transaction(self) -> bool:
        return self.connection.info.transaction_status != TransactionStatus.IDLE

    def run(self, text: str, expected: Sequence[str] = ()) -> list[Row] | None:
        """The rows; None after an error whose SQLSTATE begins like one of those expected."""
        self.script.event("run", self.name, text, tuple(expected))
        self.script.add(self.name, text + ";")
        self.has_settings = self.has_settings or text.startswith("SET ")
        try:
            cursor = self.connection.cursor(row_factory=tuple_row)
            cursor.execute(text.encode())
            rows = cursor.fetchall() if cursor.description else []
            while cursor.nextset():
                rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            self._after_error(error, expected)
            return None
        return rows

    def copy(self, statement: str, lines: list[str], expected: Sequence[str] = ()) -> bool:
        self.script.event("copy", self.name, statement, lines, tuple(expected))
        self.script.add(self.name, "\n".join([statement + ";", *lines, "\\."]))
        try:
            with self.connection.cursor().copy(statement.encode()) as copy:
                copy.write("".join(f"{line}\n" for line in lines))
        except psycopg.Error as error:
            self._after_error(error, expected)
            return False
        return True

    def look(self, text: str, parameters: Sequence[Any] | None = None) -> list[Row]:
        """Reads without a note; what it reads is no business of the script's."""
        cursor = self.connection.cursor(row_factory=tuple_row)
        try:
            cursor.execute(text.encode(), parameters)
            return cursor.fetchall()
        except psycopg.errors.LockNotAvailable:
            raise BlockedError from None

    def begin(self, isolation: str) -> None:
        with self.script.one_event("begin", self.name, isolation):
            self.run(f"BEGIN ISOLATION LEVEL {isolation}")
            self.isolation = isolation
            self.comparable = True
            if isolation != "READ COMMITTED":
                self.run("SELECT count(*) AS snapshot_taken FROM raw.owners")

    def end(self, command: str, expected: Sequence[str] = ()) -> bool:
        with self.script.one_event("end", self.name, command, tuple(expected)):
            done = self.run(command, expected) is not None
            self.savepoint = self.savepoint or command.startswith("SAVEPOINT")
            if not self.in_transaction:
                self._in_no_transaction()
            return done

    def leave_failed_transaction(self) -> None:
        if self.connection.info.transaction_status == TransactionStatus.INERROR:
            self.end("ROLLBACK")

    def _after_error(self, error: psycopg.Error, expected: Sequence[str]) -> None:
        state = error.sqlstate or "?????"
        text = str(error).strip()
        self.script.remark(f"ERROR {state}: {text}")
        if self.connection.closed:
            raise self.script.fault("the connection broke", text) from None
        if self.in_transaction:
            with self.script.no_event():  # it comes of itself again
                self.end("ROLLBACK TO SAVEPOINT s" if self.savepoint else "ROLLBACK")
        if "new row violates row-level security" in text:
            return
        if self.role and "row-level security" in text:
            return
        if not any(state.startswith(x) for x in ("55P03", "40001", "25P02", *expected)):
            kind = f"an error that nobody should see, {state} {_gist(text)}"
            raise self.script.fault(kind, text) from None

    def _in_no_transaction(self) -> None:
        self.savepoint = False
        self.isolation = ""
        self.comparable = True


def _gist(error: str) -> str:
    """Numbers are those of objects, mostly, or in the database's name."""
    return re.sub(r"test_\w+|\d+", "0", error.split("\n")[0])
