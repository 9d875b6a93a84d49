"""Cold raw data in Parquet files, from Python: what `db.archive` gives."""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol, TypeVar

import psycopg

from tsrollup.archive import log
from tsrollup.archive.checking import Checked, check
from tsrollup.archive.moving import Outcome, UntilStopped, archive
from tsrollup.archive.restoring import restore

T = TypeVar("T")
Connection = psycopg.Connection[Any]
Time = datetime | str
Outcomes = list[Outcome]
Rows = list[dict[str, Any]]


class _Do(Protocol):
    def __call__(self, work: Callable[[Connection], T]) -> T: ...


class Archive:
    """The archive of a database, as `tsrollup archive` has it; it takes the extra archive."""

    def __init__(self, do: _Do, stop: threading.Event) -> None:
        self._do = do
        self._watch = UntilStopped(stop)

    def run(self, to: str, table: str | None = None) -> Outcomes:
        """Write partitions that retention moved aside to Parquet files in a folder or bucket,
        verify them, and drop them; what became of each: archived, skipped or failed, and why."""
        return self._do(lambda connection: list(archive(connection, to, table, self._watch)))

    def verify(self, table: str | None = None, *, location: str | None = None) -> list[Checked]:
        """Compare all files with what is recorded of them: ok, missing, changed, ..."""
        return self._do(lambda connection: list(check(connection, table, location, self._watch)))

    def restore(
        self,
        table: str,
        start: Time = "-infinity",
        end: Time = "infinity",
        *,
        location: str | None = None,
        plain: bool = False,
    ) -> Outcomes:
        """Bring a range back as tables of the archive schema, beside the source, from where the
        files lie now; `plain`: with the types of the file, and what else there was as text."""

        def bring_back(connection: Connection) -> Outcomes:
            times = str(start), str(end)
            return list(restore(connection, table, *times, location, self._watch, plain=plain))

        return self._do(bring_back)

    def list(self, table: str | None = None) -> Rows:
        """What is archived and where, and what waits for it."""
        return self._do(lambda connection: log.listed(connection, table))
