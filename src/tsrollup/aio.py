"""The Python API for asyncio: the same methods, each of them in a thread while others go on.

A database does one thing at a time; who wants more of it at once connects more often.
"""

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg

from tsrollup.api import Batch, Database, Rollup, connect
from tsrollup.archive.moving import StoppedError
from tsrollup.archives import Archive
from tsrollup.errors import TsrollupError

P = ParamSpec("P")
T = TypeVar("T")


def _of_database(
    method: Callable[Concatenate[Database, P], T],
) -> Callable[Concatenate["AsyncDatabase", P], Coroutine[Any, Any, T]]:
    @functools.wraps(method)
    async def call(self: "AsyncDatabase", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.in_thread(functools.partial(method, self.database, *args, **kwargs))

    return call


def _gives_rollup(
    method: Callable[Concatenate[Database, P], Rollup],
) -> Callable[Concatenate["AsyncDatabase", P], Coroutine[Any, Any, "AsyncRollup"]]:
    @functools.wraps(method)
    async def call(self: "AsyncDatabase", /, *args: P.args, **kwargs: P.kwargs) -> "AsyncRollup":
        work = functools.partial(method, self.database, *args, **kwargs)
        return AsyncRollup(self, await self.in_thread(work))

    return call


def _of_rollup(
    method: Callable[Concatenate[Rollup, P], T],
) -> Callable[Concatenate["AsyncRollup", P], Coroutine[Any, Any, T]]:
    @functools.wraps(method)
    async def call(self: "AsyncRollup", /, *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(method, self.rollup, *args, **kwargs)
        return await self.database.in_thread(work)

    return call


class AsyncRollup:
    """A Rollup whose methods are awaited."""

    def __init__(self, database: "AsyncDatabase", rollup: Rollup) -> None:
        self.database = database
        self.rollup = rollup

    def __repr__(self) -> str:
        return f"<AsyncRollup {self.table}>"

    @property
    def table(self) -> str:
        return self.rollup.table

    @property
    def view(self) -> str:
        return self.rollup.view

    status = _of_rollup(Rollup.status)
    definition = _of_rollup(Rollup.definition)
    refresh = _of_rollup(Rollup.refresh)
    read = _of_rollup(Rollup.read)
    mark_stale = _of_rollup(Rollup.mark_stale)
    pause = _of_rollup(Rollup.pause)
    resume = _of_rollup(Rollup.resume)
    retry = _of_rollup(Rollup.retry)
    rebuild = _of_rollup(Rollup.rebuild)
    add_metric = _of_rollup(Rollup.add_metric)
    drop_metric = _of_rollup(Rollup.drop_metric)
    alter = _of_rollup(Rollup.alter)
    drop = _of_rollup(Rollup.drop)


def _of_archive(
    method: Callable[Concatenate[Archive, P], T],
) -> Callable[Concatenate["AsyncArchive", P], Coroutine[Any, Any, T]]:
    @functools.wraps(method)
    async def call(self: "AsyncArchive", /, *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(method, self.database.database.archive, *args, **kwargs)
        return await self.database.in_thread(work)

    return call


class AsyncArchive:
    """An Archive whose methods are awaited."""

    def __init__(self, database: "AsyncDatabase") -> None:
        self.database = database

    run = _of_archive(Archive.run)
    list = _of_archive(Archive.list)
    verify = _of_archive(Archive.verify)
    restore = _of_archive(Archive.restore)


class AsyncDatabase:
    """A Database whose methods are awaited, and whose run() is iterated with async for."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.archive = AsyncArchive(self)
        self._lock = asyncio.Lock()
        # A statement's, and who cancels it: those of the loop may all be held by others.
        self._threads = ThreadPoolExecutor(2)

    close = _of_database(Database.close)
    migrate = _of_database(Database.migrate)
    create_rollup = _gives_rollup(Database.create_rollup)
    rollup = _gives_rollup(Database.rollup)
    mark_stale = _of_database(Database.mark_stale)
    set_retention = _of_database(Database.set_retention)
    maintain = _of_database(Database.maintain)
    plan = _of_database(Database.plan)
    apply = _of_database(Database.apply)
    call = _of_database(Database.call)

    async def version(self) -> str:
        """The release that the database is migrated to."""
        return await self.in_thread(lambda: self.database.version)

    async def rollups(self) -> list[AsyncRollup]:
        """All of them, parents first."""
        return [AsyncRollup(self, one) for one in await self.in_thread(self.database.rollups)]

    async def run(self, target: str | None = None) -> AsyncIterator[Batch]:
        """As Database.run(): a batch at a time, each in a transaction of its own."""
        batches = self.database.run(target)
        while (batch := await self.in_thread(lambda: next(batches, None))) is not None:
            yield batch

    async def in_thread(self, work: Callable[[], T]) -> T:
        """The result of what runs in a thread; a task that is cancelled cancels the statement."""
        async with self._lock:
            # No task: who ends a loop cancels all of those.
            loop, in_context = asyncio.get_running_loop(), contextvars.copy_context().run
            running = loop.run_in_executor(self._threads, in_context, work)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                self.database.stop.set()
                cancelling = asyncio.ensure_future(self._cancel(running))
                while not cancelling.done():  # whoever cancels again waits, too
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([cancelling])
                with suppress(TsrollupError, StoppedError):
                    running.result()
                raise
            finally:
                self.database.stop.clear()

    async def _cancel(self, running: asyncio.Future[Any]) -> None:
        """In a thread, too: a server that hangs does not answer this, either."""
        while not running.done():
            with suppress(psycopg.Error):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._threads, self.database.connection.cancel_safe)
            await asyncio.wait([running], timeout=1)


class Connecting:
    """What connect_async() gives: to be awaited, or entered with async with."""

    def __init__(self, work: Callable[[], Database]) -> None:
        self._work = work
        self._opened: AsyncDatabase | None = None

    def __await__(self) -> Generator[Any, None, AsyncDatabase]:
        return self._connect().__await__()

    async def __aenter__(self) -> AsyncDatabase:
        self._opened = await self._connect()
        return self._opened

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._opened:
            await self._opened.close()

    async def _connect(self) -> AsyncDatabase:
        return AsyncDatabase(await asyncio.to_thread(self._work))


def connect_async(url: str | None = None, **libpq: Any) -> Connecting:
    """As connect(): `async with tsrollup.connect_async(url) as db`, or `db = await` it."""
    return Connecting(functools.partial(connect, url, **libpq))
