"""The dashboard's connections: few, asked one by one, made anew when the server was away."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakSet

import psycopg
from psycopg import pq
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from tsrollup.connection import connect, describe, read_url
from tsrollup.dashboard import queries
from tsrollup.dashboard.queries import Connection, Rollup
from tsrollup.errors import TsrollupError
from tsrollup.installation import require_installed

Answer = TypeVar("Answer")

MONITOR_EVERY = 3.0
# What takes long is asked less often: after this many times as long.
REST = 10.0
STATEMENT_SECONDS = 10
# A server that hangs ends no statement; pages then say so, and all of them together have this long.
ANSWER_WITHIN, BUILT_WITHIN = 15.0, 120.0
APPLICATION = "tsrollup dashboard"
# Texts as pages show them: times in UTC, intervals in words. Nothing is waited for long.
SETTINGS = (
    "SELECT set_config('search_path', 'pg_catalog, pg_temp', true),"
    " set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO', true),"
    " set_config('IntervalStyle', 'postgres_verbose', true),"
    " set_config('lock_timeout', '2s', true), set_config('statement_timeout', %s, true)"
)


@dataclass(frozen=True)
class Snapshot:
    """All rollups as the monitor showed them, the time of that, and why there is nothing newer."""

    rollups: tuple[Rollup, ...] = ()
    read_at: float = 0.0
    error: TsrollupError | None = None
    is_known: bool = False

    def find(self, name: str) -> Rollup | None:
        return next((rollup for rollup in self.rollups if rollup.name == name), None)


class Connections:
    """They end together: a program that ends waits for its threads, and those for statements."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._has_ended = False
        self._opened: WeakSet[Connection] = WeakSet()

    def open(self) -> Connection:
        connection = connect(
            self.url, row_factory=dict_row, application_name=APPLICATION, connect_timeout=5
        )
        try:
            self._opened.add(connection)
            if self._has_ended:
                raise TsrollupError("the dashboard has ended")
            require_installed(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def end(self) -> None:
        """Cancel statements. Who waits for a server that hangs is told that it is gone."""
        self._has_ended = True
        for connection in list(self._opened):
            with suppress(psycopg.Error):
                if connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
                    connection.cancel_safe(timeout=2)
            with (
                suppress(psycopg.Error, OSError),
                socket.socket(fileno=os.dup(connection.fileno())) as wire,
            ):
                wire.shutdown(socket.SHUT_RDWR)


class Reader:
    """One connection that only reads; whoever asks waits for the one before."""

    def __init__(self, url: str, seconds: int) -> None:
        self.connections = Connections(url)
        self.seconds = seconds
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def ask(self, question: Callable[[Connection], Answer]) -> Answer:
        with self._lock:
            known = self._connection
            try:
                return self._answer(question)
            except psycopg.OperationalError as error:
                if self._connection is not None or known is None:
                    raise describe(error) from error
                return self._answer(question)  # it was lost since the last question
            except psycopg.Error as error:
                raise describe(error) from error

    def close(self) -> None:
        self.connections.end()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _answer(self, question: Callable[[Connection], Answer]) -> Answer:
        if self._connection is None:
            self._connection = self.connections.open()
            for name in ("timestamptz", "interval"):
                self._connection.adapters.register_loader(name, TextLoader)
        connection = self._connection
        try:
            with connection.transaction():
                connection.execute("SET TRANSACTION READ ONLY")
                connection.execute(SETTINGS, [f"{self.seconds}s"])
                return question(connection)
        finally:
            if connection.closed:
                self._connection = None


class Questions:
    """A reader's, one by one: it has a thread at most, and who asks does not wait for ever."""

    def __init__(self, reader: Reader, seconds: float = ANSWER_WITHIN) -> None:
        self.reader = reader
        self.seconds = seconds
        self._at_work: asyncio.Future[Any] | None = None
        self._until = 0.0

    @property
    def is_at_work(self) -> bool:
        return self._at_work is not None and not self._at_work.done()

    async def ask(self, question: Callable[[Connection], Answer]) -> Answer:
        while self._at_work and self.is_at_work:
            await self._wait_for(self._at_work)
        asked = asyncio.ensure_future(asyncio.to_thread(self.reader.ask, question))
        self._at_work, self._until = asked, time.monotonic() + self.seconds
        await self._wait_for(asked)
        return asked.result()

    async def _wait_for(self, answer: asyncio.Future[Any]) -> None:
        left = max(self._until - time.monotonic(), 0)
        if answer not in (await asyncio.wait({answer}, timeout=left))[0]:
            raise TsrollupError("the server does not answer", "look whether it, and its host, hang")


@dataclass
class Database:
    """What all pages share: the newest snapshot, a connection to ask for more, what may be done."""

    url: str
    may_write: bool
    _snapshot: Snapshot = field(default_factory=Snapshot)
    _took: float = 0.0
    _refreshing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._monitor = Questions(Reader(self.url, STATEMENT_SECONDS))
        self._details = Questions(Reader(self.url, STATEMENT_SECONDS))
        self._actions = Connections(self.url)

    @property
    def place(self) -> str:
        """Database and server, without user and password."""
        known = read_url(self.url)
        host = known.get("host") or known.get("hostaddr") or "local socket"
        return f"{known.get('dbname', '(default)')} on {host}:{known.get('port', 5432)}"

    async def snapshot(self) -> Snapshot:
        """Read at most once in MONITOR_EVERY seconds, however many pages ask."""
        async with self._refreshing:
            began = time.time()
            if began - self._snapshot.read_at >= max(MONITOR_EVERY, self._took * REST):
                self._snapshot = await self._read_monitor()
                self._took = 0.0 if self._monitor.is_at_work else time.time() - began
        return self._snapshot

    def forget_snapshot(self) -> None:
        """Something was done: the next page that asks is told what became of it."""
        self._snapshot = Snapshot(
            self._snapshot.rollups, 0.0, self._snapshot.error, self._snapshot.is_known
        )

    async def ask(self, question: Callable[[Connection], Answer]) -> Answer:
        return await self._details.ask(question)

    async def act(self, action: Callable[[Connection], Answer]) -> tuple[Answer, list[str]]:
        """Do something in a connection of its own, in autocommit; and what the server remarked."""
        if not self.may_write:
            raise TsrollupError("this dashboard only reads", "start it with --write")
        return await asyncio.to_thread(_act, self._actions, action)

    def close(self) -> None:
        self._actions.end()
        for questions in (self._monitor, self._details):
            questions.reader.close()

    async def _read_monitor(self) -> Snapshot:
        try:
            rollups = tuple(await self._monitor.ask(queries.rollups))
        except (TsrollupError, OSError, UnicodeError) as error:
            failure = error if isinstance(error, TsrollupError) else describe(error)
            known = self._snapshot
            return Snapshot(known.rollups, time.time(), failure, known.is_known)
        return Snapshot(rollups, time.time(), None, True)


def _act(
    connections: Connections, action: Callable[[Connection], Answer]
) -> tuple[Answer, list[str]]:
    remarks: list[str] = []
    try:
        with connections.open() as connection:
            connection.add_notice_handler(
                lambda notice: remarks.append(
                    " ".join(filter(None, [notice.message_primary, notice.message_hint]))
                )
            )
            return action(connection), remarks
    except psycopg.Error as error:
        raise describe(error) from error
