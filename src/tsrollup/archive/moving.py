"""From a table to a file: written, put on disk, named, read back and compared, recorded; and only
then, in the transaction that kept writers from the table all the while, is the table dropped."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from tsrollup.archive import log
from tsrollup.archive.columns import Column, columns_of, differences, figures_of, names
from tsrollup.archive.log import Connection, Detached
from tsrollup.archive.parquet import figures_in, opened, require_pyarrow, write
from tsrollup.archive.storage import (
    Digest,
    Draft,
    StorageError,
    Store,
    checksum_of,
    store_at,
    told,
)
from tsrollup.connection import describe
from tsrollup.errors import TransactionError, TsrollupError

LOCK_TIMEOUT = "3s"  # more than the second after which autovacuum makes way
DROP_PATIENCE = "10s"
HINTS: dict[type[Exception], str] = {
    psycopg.errors.DependentObjectsStillExist: "drop that first",
    psycopg.errors.CharacterNotInRepertoire: "files are UTF-8: convert it, or DROP the table",
}


class Watch:
    """Who wants to know how far it is; `step` is called when each is done: begun, locked,
    measured, written, named, verified, recorded, committed."""

    def step(self, step: str, relation: str, rows: int = 0) -> None: ...
    def rows(self, count: int) -> None: ...


class StoppedError(Exception):
    """What was going on is taken back; what was done before stays."""


class UntilStopped(Watch):
    """Ends it where `stop` is set, by a StoppedError."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def rows(self, _count: int) -> None:
        if self.stop.is_set():
            raise StoppedError


@dataclass(frozen=True)
class Outcome:
    """What became of a table or a file. `status`: archived, restored, skipped (the next run tries
    again), failed."""

    source_table: str
    partition_name: str
    status: str
    row_count: int | None = None
    table_bytes: int | None = None
    file_bytes: int | None = None
    file: str | None = None
    seconds: float | None = None
    rows_per_second: int | None = None
    reason: str | None = None


def archive(
    connection: Connection, to: str, table: str | None = None, watch: Watch | None = None
) -> Iterator[Outcome]:
    """Archive all that retention has moved aside, of one table or of all, oldest first."""
    require_pyarrow()
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise TransactionError(
            "archiving commits each table with its file, which it cannot do in a transaction",
            "call it by itself, outside of a transaction block",
        )
    store = store_at(to)
    log.check_rights(connection, "archive partitions")
    source = log.source_named(connection, table)
    for detached in log.detached(connection, source):
        yield _attempt(connection, detached, store, watch or Watch())


def _attempt(connection: Connection, detached: Detached, store: Store, watch: Watch) -> Outcome:
    began = time.monotonic()

    def outcome(status: str, reason: str | None = None, **facts: Any) -> Outcome:
        return Outcome(
            detached.source_table,
            detached.partition_name,
            status,
            table_bytes=detached.table_bytes,
            reason=reason,
            **facts,
        )

    if detached.obstacle:
        return outcome("skipped", detached.obstacle)
    file = log.path_of(detached)
    try:
        left = _begin(connection, detached, store, file)
        watch.step("begun", detached.partition_name)
        row_count, file_bytes = _move(connection, detached, store, file, watch)
        watch.step("committed", detached.partition_name, row_count)
    except _NotNowError as error:
        return outcome("skipped", error.message)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        return outcome("skipped", "somebody uses it; the next run tries again")
    except StorageError:
        raise
    except psycopg.Error as error:
        if connection.closed or isinstance(error, psycopg.errors.QueryCanceled):
            raise
        known = describe(error)
        known.hint = HINTS.get(type(error), known.hint)
        return outcome("failed", str(known))
    except (TsrollupError, ValueError) as error:  # which is what Arrow cannot read
        return outcome("failed", " ".join(str(error).split()))
    return outcome(
        "archived",
        left,
        row_count=row_count,
        file_bytes=file_bytes,
        file=file,
        **speed(row_count, began),
    )


def speed(rows: int, began: float) -> dict[str, Any]:
    seconds = time.monotonic() - began
    return {"seconds": round(seconds, 3), "rows_per_second": int(rows / seconds)}


class _NotNowError(TsrollupError):
    """It is another archiver's turn, or something has come in the way."""


OTHER = "another archiver has taken it"


def _begin(connection: Connection, detached: Detached, store: Store, file: str) -> str | None:
    """Note the file that is to be written. What an earlier attempt left is put aside while nobody
    can record it any more; where that fails, what to look at."""
    with log.transaction(connection) as cursor:
        ours, old_location, old_file = cursor.execute(
            "SELECT * FROM rollup_engine.begin_archive(%s, %s, %s)",
            [detached.id, store.location, file],
        ).fetchone() or (False, None, None)
        if not ours:
            raise _NotNowError(OTHER)
        if old_location is None or old_file is None:
            return None
        try:
            with told(old_location):
                store_at(old_location).set_aside(old_file)
        except (TsrollupError, ValueError) as error:  # of a place that is none, say
            return f"an earlier attempt may have left {old_file}, which is not to be used: {error}"
    return None


def _move(
    connection: Connection, detached: Detached, store: Store, file: str, watch: Watch
) -> tuple[int, int]:
    """Rows and bytes of the file that holds the table now."""
    with log.transaction(connection) as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        ours, obstacle, place = cursor.execute(
            "SELECT * FROM rollup_engine.lock_for_archive(%s, %s)", [detached.id, file]
        ).fetchone() or (False, None, None)
        if not ours or obstacle:
            raise _NotNowError(obstacle or OTHER)
        watch.step("locked", detached.partition_name)
        columns = columns_of(connection, detached.partition_name)
        figures = figures_of(connection, detached.partition_name, columns)
        watch.step("measured", detached.partition_name, figures[0])
        with _draft(store, file) as draft:
            written = _write(connection, detached, store, draft, columns, figures, watch)
            watch.step("named", detached.partition_name, figures[0])
            _compare(store, file, written, columns, figures, watch)
            watch.step("verified", detached.partition_name, figures[0])
            (obstacle,) = cursor.execute(
                "SELECT rollup_engine.record_archive(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    *(detached.id, store.location, file, written.size, written.checksum),
                    *(figures[0], detached.table_bytes, place, DROP_PATIENCE),
                ],
            ).fetchone() or (OTHER,)
            if obstacle:
                raise _NotNowError(obstacle)
            watch.step("recorded", detached.partition_name, figures[0])
    return figures[0], written.size


@contextmanager
def _draft(store: Store, file: str) -> Iterator[Draft]:
    """A file that is gone again when something fails, before it can have been recorded. Whether a
    commit that failed has recorded it nobody knows: the next attempt does."""
    draft = store.write(file)
    try:
        yield draft
    except BaseException:
        draft.discard()
        raise


def _write(
    connection: Connection,
    detached: Detached,
    store: Store,
    draft: Draft,
    columns: list[Column],
    figures: list[Any],
    watch: Watch,
) -> Digest:
    about = {
        "source_table": detached.source_table,
        "partition": detached.partition_name,
        "bound": detached.bound,
        "sorted_by": detached.sort_by,
    }
    digest = Digest(draft.stream)
    statement = _sorted_rows(detached, columns)
    with told(store.location):
        with connection.cursor().copy(statement) as copy:
            write(copy, columns, figures, about, digest, watch.rows)
        draft.settle()
        watch.step("written", detached.partition_name, figures[0])
        draft.publish()
    return digest


def _sorted_rows(detached: Detached, columns: list[Column]) -> sql.Composed:
    known = {column.name: column for column in columns}
    by = [known[name] for name in detached.sort_by if name in known and known[name].is_sortable]
    order = [
        sql.SQL('{}::text COLLATE "C"' if column.is_collatable else "{}").format(
            sql.Identifier(column.name)
        )
        for column in by
    ]
    return sql.SQL("COPY (SELECT {} FROM {}{}) TO STDOUT (FORMAT csv)").format(
        names(columns),
        sql.SQL(detached.partition_name),
        sql.SQL(" ORDER BY {}").format(sql.SQL(", ").join(order)) if order else sql.SQL(""),
    )


def _compare(
    store: Store,
    file: str,
    written: Digest,
    columns: list[Column],
    figures: list[Any],
    watch: Watch,
) -> None:
    """An error unless the file is what was written, and holds what the table holds."""
    if checksum_of(store, file) != (written.checksum, written.size):
        raise StorageError(
            f"{store.location}/{file} is not what was written to it",
            "look at the disk; the table stays",
        )
    with told(store.location), store.open(file) as stream:
        found = figures_in(opened(stream), columns, watch.rows)
    told_apart = differences(columns, figures, found)
    if told_apart:
        raise TsrollupError(
            f"the file would not hold what the table holds: {'; '.join(told_apart)}",
            "the table stays; please report it",
        )
