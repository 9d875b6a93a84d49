"""Two connections at known points: one works in the background until a lock of ours stops it."""

import threading
import time
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Params

Query = str | bytes | sql.SQL | sql.Composed

# A refresh of a session that has test.pause on waits here, its snapshot taken, nothing written.
PAUSE = """
    CREATE FUNCTION public.pause() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('test.pause', true) = 'on' THEN
            PERFORM pg_advisory_xact_lock_shared(4711);
        END IF;
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER pause BEFORE INSERT ON {table} EXECUTE FUNCTION public.pause();
"""


class Background:
    """A statement that runs in a thread of its own."""

    def __init__(
        self, connection: psycopg.Connection[Any], query: Query, parameters: Params | None = None
    ) -> None:
        self.connection = connection
        self._rows: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(query, parameters), daemon=True)
        self._thread.start()

    def _run(self, query: Query, parameters: Params | None) -> None:
        try:
            cursor = self.connection.execute(query, parameters)
            self._rows = cursor.fetchall() if cursor.description else []
        except BaseException as error:
            self._error = error

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def wait_until_blocked(self, observer: psycopg.Connection[Any]) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            row = observer.execute(
                "SELECT cardinality(pg_blocking_pids(%s)) > 0, pg_sleep(0.005)",
                [self.connection.info.backend_pid],
            ).fetchone()
            if row and row[0]:
                return
            assert self._thread.is_alive(), f"it did not wait: {self._error or self._rows}"
        raise AssertionError("it waits for nothing, and does not end")

    def result(self) -> list[Any]:
        self._thread.join(60)
        assert not self._thread.is_alive(), "it does not end"
        if self._error:
            raise self._error
        return self._rows


def pause_refreshes_of(connection: psycopg.Connection[Any], table: str) -> None:
    """Refreshes of that rollup table can be paused from now on: see `Paused`."""
    connection.execute(PAUSE.format(table=table).encode())


class Paused:
    """A refresh that holds still between its snapshot and its writes, until the block ends."""

    def __init__(
        self,
        observer: psycopg.Connection[Any],
        refresher: psycopg.Connection[Any],
        query: Query,
    ) -> None:
        self.observer = observer
        self.refresher = refresher
        self.query = query

    def __enter__(self) -> "Paused":
        self.observer.execute("SELECT pg_advisory_lock(4711)")
        self.refresher.execute("SET test.pause = 'on'")
        self.background = Background(self.refresher, self.query)
        self.background.wait_until_blocked(self.observer)
        return self

    def __exit__(self, *_: object) -> None:
        self.observer.execute("SELECT pg_advisory_unlock(4711)")
        self.rows = self.background.result()
        self.refresher.execute("SET test.pause = 'off'")


def wait_for_other_tests(connection: psycopg.Connection[Any]) -> None:
    """Until no transaction of this server is left that began to write before now."""
    row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
    assert row
    ended = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > %s::xid8"
    for _ in range(600):
        if connection.execute(ended, row).fetchone() == (True,):
            return
        time.sleep(0.1)
    raise AssertionError(f"a transaction older than {row[0]} is still open")
