"""From files back to tables, beside the source: each partition under the name that it had when it
was moved aside, in the archive schema."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import IO, Any

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row, tuple_row
from psycopg.types.json import Jsonb

from tsrollup.archive import log
from tsrollup.archive.columns import KINDS, Column, differences, figures_of, names
from tsrollup.archive.log import Archived, Connection
from tsrollup.archive.moving import Outcome, Watch, speed
from tsrollup.archive.parquet import as_csv, described, opened, require_pyarrow
from tsrollup.archive.storage import Store, checksum_of, store_at
from tsrollup.connection import describe
from tsrollup.errors import InTheWayError, NotFoundError, TsrollupError

DATA_CORRUPTED = "XX001"
OTHER = "another restore is at it"
# Whoever brings back another partition of that name is waited for: the name that this one gets
# is the next.
WAIT_FOR_NAME = "SELECT pg_advisory_xact_lock(rollup_engine.lock_key('restore', %s))"
# SQLSTATEs of values that a type or a constraint refuses, and of types and schemas that are gone.
WHAT_TYPES_REFUSE = ("22", "23", "42704", "3F000")
PLAIN = "its types, or their rules, have changed since: restore it with --plain"
NOT_TO_BE_HAD = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject)

KNOWN = """
    SELECT format_type(declared::regtype, modifier), collation_name::regcollation::text,
        rollup_engine.other_type(declared::regtype, types)
    FROM unnest(%s::text[], %s::integer[], %s::text[], %s::jsonb[]) WITH ORDINALITY
        AS c (declared, modifier, collation_name, types, number)
    ORDER BY number
"""


def restore(
    connection: Connection,
    table: str,
    start: str = "-infinity",
    end: str = "infinity",
    location: str | None = None,
    watch: Watch | None = None,
    *,
    plain: bool = False,
) -> Iterator[Outcome]:
    """Bring back every partition of a table that holds something between two times, from where it
    was written to, or from where that lies now; `plain`: with the types of the file."""
    require_pyarrow()
    log.check_rights(connection, "restore partitions")
    source = log.source_named(connection, table)
    found = log.archived(connection, source, start, end)
    if not found:
        raise NotFoundError(
            f"nothing of {source} between {start} and {end} is archived",
            f"tsrollup archive list {table} says what is",
        )
    for archived in found:
        if archived.state == "archived":
            store = store_at(location or archived.location)
            yield _attempt(connection, archived, store, watch or Watch(), plain)
        elif archived.state == "restored":
            yield Outcome(
                archived.source_table,
                archived.partition_name,
                "skipped",
                reason=f"it is there, as {archived.restored_as}",
            )


def _attempt(
    connection: Connection, archived: Archived, store: Store, watch: Watch, plain: bool
) -> Outcome:
    try:
        return _restore(connection, archived, store, watch, plain)
    except psycopg.Error as error:
        if connection.closed or isinstance(error, psycopg.errors.QueryCanceled):
            raise
        known = describe(error)
        if (error.sqlstate or "").startswith(WHAT_TYPES_REFUSE):
            known.hint = PLAIN
        return Outcome(archived.source_table, archived.partition_name, "failed", reason=str(known))
    except _OtherTypeError as error:
        return Outcome(archived.source_table, archived.partition_name, "failed", reason=str(error))


class _OtherTypeError(TsrollupError):
    """A type is made otherwise by now, or a stranger's."""


def _restore(
    connection: Connection, archived: Archived, store: Store, watch: Watch, plain: bool
) -> Outcome:
    began = time.monotonic()
    with _checked(store, archived) as stream, log.transaction(connection):
        if not _asked(connection, "SELECT rollup_engine.try_lock_archive(%s)", archived.id):
            return Outcome(archived.source_table, archived.partition_name, "skipped", reason=OTHER)
        connection.execute(WAIT_FOR_NAME, [archived.partition_name])
        given = "SELECT rollup_engine.restored_name(%s, %s)"
        name = _asked(connection, given, archived.partition_name, archived.id)
        if name is None:
            return Outcome(
                archived.source_table, archived.partition_name, "skipped", reason="it is there"
            )
        file = opened(stream)
        about, columns = described(file)
        if plain:
            columns = [_plain(column) for column in columns]
        _create(connection, name, archived, columns, about["figures"])
        watch.step("created", name, archived.row_count)
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
            sql.SQL(name), names(columns)
        )
        with connection.cursor().copy(statement) as copy:
            for block in as_csv(file, columns, watch.rows):
                copy.write(block)
        watch.step("loaded", name, archived.row_count)
        expected = [archived.row_count, *about["figures"][1:]]
        told_apart = differences(columns, expected, figures_of(connection, name, columns))
        if told_apart:
            raise TsrollupError(
                f"{name} would not be what it was: {'; '.join(told_apart)}",
                "nothing was restored; please report it",
            )
        connection.execute(
            "UPDATE silver.archive_log SET restored_at = clock_timestamp(), restored_as = %s"
            " WHERE id = %s",
            [name, archived.id],
        )
        watch.step("recorded", name, archived.row_count)
    return Outcome(
        archived.source_table,
        name,
        "restored",
        row_count=archived.row_count,
        file_bytes=archived.file_bytes,
        file=archived.file,
        **speed(archived.row_count, began),
    )


@contextmanager
def _checked(store: Store, archived: Archived) -> Iterator[IO[bytes]]:
    """A copy: what is loaded is what was checked, whoever may write to the store."""
    with tempfile.TemporaryFile() as copy:
        check_file(store, archived, copy)
        yield copy


def check_file(store: Store, archived: Archived, copy: IO[bytes] | None = None) -> None:
    """An error unless the file, and a copy of it, is the one that was recorded."""
    place = f"{store.location}/{archived.file}"
    try:
        found = checksum_of(store, archived.file, copy)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{place} is missing", "bring it back there, or say with --from where it lies now"
        ) from error
    if found != (archived.checksum, archived.file_bytes):
        raise TsrollupError(
            f"{place} was changed since it was archived",
            "take it from a backup: its SHA-256 is in silver.archive_log",
            DATA_CORRUPTED,
        )


def _plain(column: Column) -> Column:
    """A column of the type that its values are stored as in the file."""
    declared = {kind: name for name, kind in reversed(KINDS.items())}.get(column.kind, "text")
    modifier = (column.precision << 16 | column.scale) + 4 if column.kind == "decimal" else -1
    return replace(
        column,
        declared=declared,
        modifier=modifier,
        collation=None,
        is_not_null=False,
        types=[],
    )


def _create(
    connection: Connection,
    name: str,
    archived: Archived,
    columns: list[Column],
    figures: list[Any],
) -> None:
    """The table as it was declared: types, collations, NOT NULL that all rows kept. What was
    generated, or an identity, is a plain column with the values that it had."""
    if _asked(connection, "SELECT to_regclass(%s) IS NOT NULL", name):
        raise InTheWayError(f"{name} is there already", "rename or drop it")
    schema = _asked(connection, "SELECT (parse_ident(%s))[1]", name)
    if _asked(connection, "SELECT to_regnamespace(quote_ident(%s)) IS NULL", schema):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    # Who owns it may put another table in the place of this one before it is loaded.
    connection.execute(
        "SELECT rollup_engine.check_archive_schema(%s, quote_ident(%s))",
        [archived.owned_by, schema],
    )
    declared = [
        sql.SQL("{} {}{}{}").format(
            sql.Identifier(column.name),
            sql.SQL(kind),
            sql.SQL(f" COLLATE {collation}" if collation else ""),
            sql.SQL(" NOT NULL" if column.is_not_null and figure["count"] == figures[0] else ""),
        )
        for column, (kind, collation), figure in zip(
            columns, _known(connection, columns), figures[1:], strict=True
        )
    ]
    connection.execute(
        sql.SQL("CREATE TABLE {} ({})").format(sql.SQL(name), sql.SQL(", ").join(declared))
    )
    mark = _asked(connection, "SELECT rollup_engine.restored_mark(%s)", archived.file)
    connection.execute(
        sql.SQL("COMMENT ON TABLE {} IS {}").format(sql.SQL(name), sql.Literal(mark))
    )
    owner = sql.Identifier(archived.owned_by)
    with suppress(*NOT_TO_BE_HAD), connection.transaction():
        connection.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.SQL(name), owner))


def _known(connection: Connection, columns: list[Column]) -> list[tuple[str, str | None]]:
    """Types and collations in the words of this database: what a file says is no SQL, and what runs
    as a value is read is of who it was then."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(
            KNOWN,
            [
                [column.declared for column in columns],
                [column.modifier for column in columns],
                [column.collation for column in columns],
                [Jsonb(column.types) for column in columns],
            ],
        ).fetchall()
    for _, _, other in found:
        if other:
            raise _OtherTypeError(f"type {other} is not what it was, or not whose", PLAIN)
    return [(kind, collation) for kind, collation, _ in found]


def _asked(connection: Connection, query: str, *given: Any) -> Any:
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query.encode(), given).fetchone()
