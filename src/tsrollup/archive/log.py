"""What the database knows of archives: partitions that were moved aside, and files of others."""

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row, tuple_row

from tsrollup.connection import IsoTimeLoader, pinned
from tsrollup.errors import NotFoundError

Connection = psycopg.Connection[Any]
Kind = TypeVar("Kind")

MOST_NAME = 150
UNLIMITED = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")


@dataclass(frozen=True)
class Detached:
    """A partition that retention moved aside, which is a table of its own by now. Times are
    ISO 8601, here and below."""

    id: int
    partition_name: str
    source_table: str
    from_time: str | None
    to_time: str | None
    sort_by: list[str]
    column_names: list[str]
    bound: str
    table_bytes: int
    detached_at: str
    obstacle: str | None


@dataclass(frozen=True)
class Archived:
    """A file of silver.archive_log. `state`: archived, restored (its table is there beside the
    file), or replaced by a later file."""

    id: int
    source_table: str
    partition_name: str
    from_time: str | None
    to_time: str | None
    bound: str
    owned_by: str
    archived_at: str
    location: str
    file: str
    file_bytes: int
    checksum: str
    row_count: int
    table_bytes: int
    state: str
    restored_as: str | None


# By the name of then, or whatever it is called by now.
OF_SOURCE = """%(source)s::text IS NULL OR source_table = %(source)s OR retention_id = (
    SELECT id FROM rollup_engine.retention
    WHERE relation = rollup_engine.find_relation(%(source)s::text, 'raw'))"""

DETACHED = """
    SELECT d.id, d.partition_name, d.source_table,
        nullif(d.from_time, '-infinity') AS from_time, nullif(d.to_time, 'infinity') AS to_time,
        d.sort_by::text[], d.bound, t.table_bytes, d.detached_at,
        ARRAY(
            SELECT attname::text FROM pg_attribute WHERE attrelid = d.relation AND attnum > 0
        ) AS column_names,
        rollup_engine.archive_obstacle(d) AS obstacle
    FROM rollup_engine.detached_partition AS d
    CROSS JOIN LATERAL (
        SELECT sum(pg_total_relation_size(c.oid))::bigint AS table_bytes
        FROM rollup_engine.partition_tree(d.relation) AS m JOIN pg_class AS c ON c.oid = m
        HAVING count(*) > 0
    ) AS t
    WHERE {of_source}
    ORDER BY d.from_time, d.id
"""

ARCHIVED = """
    SELECT l.id, l.source_table, l.partition_name, l.from_time, l.to_time, l.bound,
        l.owned_by::text, l.archived_at, l.location, l.file, l.file_bytes, l.checksum,
        l.row_count, l.table_bytes,
        CASE WHEN l.replaced_by IS NOT NULL THEN 'replaced'
            WHEN t.relation IS NOT NULL THEN 'restored' ELSE 'archived' END AS state,
        t.relation AS restored_as
    FROM silver.archive_log AS l
    LEFT JOIN (
        SELECT file_id, min(relation::text) FROM rollup_engine.restored_tables() GROUP BY 1
    ) AS t (file_id, relation) ON t.file_id = l.id
    WHERE ({of_source})
        AND coalesce(l.from_time < %(end)s::timestamptz, true)
        AND coalesce(l.to_time > %(start)s::timestamptz, true)
    ORDER BY l.source_table, l.from_time NULLS FIRST, l.id
"""

BEGUN = "SELECT attempt_file FROM rollup_engine.detached_partition WHERE attempt_file IS NOT NULL"

KNOWN = """
    WITH known AS (
        SELECT source_table, retention_id FROM silver.archive_log
        UNION SELECT source_table, retention_id FROM rollup_engine.detached_partition
    )
    SELECT EXISTS (SELECT FROM known WHERE {of_source}),
        ARRAY(SELECT DISTINCT source_table FROM known ORDER BY 1)
"""

PINNED = """
    SELECT set_config('lc_monetary', 'C', true), set_config(name, '0', true)
    FROM pg_settings WHERE name = ANY (%s)
"""

SOURCE = """
    SELECT coalesce(
        (SELECT target_table::text FROM silver.rollup_config
        WHERE id = rollup_engine.find_rollup_id(%(table)s::text)),
        (SELECT format('%%I.%%I', n[1], n[2])
        FROM rollup_engine.parse_name(%(table)s::text, 'raw') AS n))
"""


@contextmanager
def transaction(connection: Connection) -> Iterator[psycopg.Cursor[Any]]:
    """A transaction in which no setting of the database or the role changes what text a value is
    written as, what a name means, or how long something may take."""
    with pinned(connection), connection.cursor(row_factory=tuple_row) as cursor:
        (clauses,) = cursor.execute("SELECT rollup_engine.pinned_settings()").fetchone() or ("",)
        cursor.execute(re.sub(r"^\s*SET (.*)$", r"SET LOCAL \1;", clauses, flags=re.M).encode())
        cursor.execute(PINNED, [list(UNLIMITED)])
        yield cursor


def check_rights(connection: Connection, deed: str) -> None:
    """An error unless the caller may do that."""
    with transaction(connection) as cursor:
        cursor.execute("SELECT rollup_engine.check_owner_role(%s)", [deed])


def detached(connection: Connection, source: str | None = None) -> list[Detached]:
    with _read(connection, Detached) as cursor:
        return cursor.execute(_filled(DETACHED), {"source": source}).fetchall()


def archived(
    connection: Connection,
    source: str | None = None,
    start: str = "-infinity",
    end: str = "infinity",
) -> list[Archived]:
    """Files of a source, or of all, that hold something between two times."""
    given = {"source": source, "start": start, "end": end}
    with _read(connection, Archived) as cursor:
        return cursor.execute(_filled(ARCHIVED), given).fetchall()


def listed(connection: Connection, table: str | None = None) -> list[dict[str, Any]]:
    """Files, and partitions that wait to be one, of a table or of all."""
    source = source_named(connection, table)
    waiting = [{**asdict(one), "state": "waiting"} for one in detached(connection, source)]
    return [*(asdict(one) for one in archived(connection, source)), *waiting]


def _filled(query: str) -> bytes:
    return query.replace("{of_source}", OF_SOURCE).encode()


def begun(connection: Connection) -> set[str]:
    """Files that somebody is writing, or was when it came to nothing."""
    with transaction(connection) as cursor:
        return {file for (file,) in cursor.execute(BEGUN).fetchall()}


@contextmanager
def _read(connection: Connection, kind: type[Kind]) -> Iterator[psycopg.Cursor[Kind]]:
    with transaction(connection), connection.cursor(row_factory=class_row(kind)) as cursor:
        cursor.adapters.register_loader("timestamptz", IsoTimeLoader)
        yield cursor


def source_named(connection: Connection, table: str | None) -> str | None:
    """The table that something was moved aside of, as it is recorded; it may be gone itself."""
    if table is None:
        return None
    with transaction(connection) as cursor:
        (name,) = cursor.execute(SOURCE, {"table": table}).fetchone() or (None,)
        found = cursor.execute(_filled(KNOWN), {"source": name}).fetchone()
    is_known, known = found or (False, [])
    if not is_known:
        raise NotFoundError(
            f"nothing of {name} was moved aside by retention",
            f"there is something of {', '.join(known)}"
            if known
            else "SELECT silver.set_retention(..., archive => true), then maintain twice",
        )
    return str(name)


def path_of(one: Detached) -> str:
    """A name for its file that no other has: hive folders by table and by the day on which its
    range begins."""
    schema_and_table = ".".join(_plain(name) for name in _parsed(one.source_table))
    if len(schema_and_table) > MOST_NAME:
        digest = hashlib.sha256(schema_and_table.encode()).hexdigest()[:16]
        schema_and_table = f"{schema_and_table[:MOST_NAME]}-{digest}"
    day = _plain(one.from_time.partition("T")[0]) if one.from_time else "__HIVE_DEFAULT_PARTITION__"
    name = _plain(_parsed(one.partition_name)[-1])[:MOST_NAME]
    folders = (("table", schema_and_table), ("date", day))
    return "/".join(
        [
            *(f"{_key(key, one.column_names)}={value}" for key, value in folders),
            f"{name}-{one.id}-{secrets.token_hex(4)}.parquet",
        ]
    )


def _key(key: str, names: list[str]) -> str:
    """Readers make a column of a folder's key, which must hide none of the table's."""
    while key in {name.lower() for name in names}:
        key += "_"
    return key


def _parsed(name: str) -> list[str]:
    """The identifiers of a name as PostgreSQL writes it."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^".]+)', name)
    return [quoted.replace('""', '"') or plain for quoted, plain in found]


def _plain(name: str) -> str:
    """What a path, a URL or a glob reads otherwise goes in hex, and so does a dot."""
    return re.sub(
        r"[^\w-]", lambda found: "".join(f"~{b:02x}" for b in found[0].encode()), name, flags=re.A
    )
