"""The schema history table: its definition, its rows and the lock around it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.database import Database
from tsrollup.flyway.errors import FlywayError
from tsrollup.flyway.names import Version

SCHEMA_DESCRIPTION = "<< Flyway Schema Creation >>"
SYNTHETIC = frozenset({"SCHEMA", "BASELINE", "DELETE"})
BASELINES = frozenset({"BASELINE", "SQL_BASELINE", "JDBC_BASELINE"})
_KNOWN_TYPES = (
    SYNTHETIC
    | BASELINES
    | frozenset({"SQL", "JDBC", "SCRIPT", "UNDO_SCRIPT", "CUSTOM", "SCRIPT_BASELINE"})
)

_CREATE = """
CREATE TABLE {table} (
    "installed_rank" INT NOT NULL,
    "version" VARCHAR(50),
    "description" VARCHAR(200) NOT NULL,
    "type" VARCHAR(20) NOT NULL,
    "script" VARCHAR(1000) NOT NULL,
    "checksum" INTEGER,
    "installed_by" VARCHAR(100) NOT NULL,
    "installed_on" TIMESTAMP NOT NULL DEFAULT now(),
    "execution_time" INTEGER NOT NULL,
    "success" BOOLEAN NOT NULL
){tablespace};
ALTER TABLE {table} ADD CONSTRAINT {primary_key} PRIMARY KEY ("installed_rank"){index_tablespace};
CREATE INDEX {index} ON {table} ("success"){tablespace};
"""

_LOCK_BASE = int.from_bytes(b"Flyway", "big")


@dataclass(frozen=True)
class Applied:
    """A row of the history table."""

    rank: int
    version: Version | None
    description: str
    type: str
    script: str
    checksum: int | None
    installed_by: str
    installed_on: datetime
    execution_time: int
    success: bool

    @property
    def is_synthetic(self) -> bool:
        return self.type in SYNTHETIC


def lock_id(schema: str, table: str) -> int:
    """The advisory lock that every runner of this history table takes."""
    value = 0
    utf16 = f"{_quoted(schema)}.{_quoted(table)}".encode("utf-16-be")
    for unit in (utf16[i : i + 2] for i in range(0, len(utf16), 2)):
        value = (value * 31 + int.from_bytes(unit, "big")) & 0xFFFFFFFF
    return _LOCK_BASE + (value - (1 << 32) if value >= 1 << 31 else value)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def shorten_description(description: str) -> str:
    return description if len(description) <= 200 else description[:197] + "..."


def shorten_script(script: str) -> str:
    return script if len(script) <= 1000 else "..." + script[3:1000]


class History:
    """The history table of one configuration."""

    def __init__(self, database: Database, schema: str) -> None:
        self.database = database
        self.configuration: Configuration = database.configuration
        self.schema = schema
        self.name = self.configuration.table
        self.table = sql.Identifier(schema, self.name)
        self._lock = lock_id(schema, self.name)

    def __str__(self) -> str:
        return f'"{self.schema}"."{self.name}"'

    def exists(self) -> bool:
        return bool(
            self.database.rows(
                "SELECT 1 FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
                " WHERE nspname = %s AND relname = %s AND relkind = 'r'",
                [self.schema, self.name],
            )
        )

    def create(self) -> None:
        """Create the table; the caller holds the lock."""
        space = self.configuration.tablespace
        names = sql.Identifier(space) if space else sql.SQL("")
        self.database.execute(
            sql.SQL(_CREATE).format(
                table=self.table,
                primary_key=sql.Identifier(f"{self.name}_pk"),
                index=sql.Identifier(f"{self.name}_s_idx"),
                tablespace=sql.SQL(" TABLESPACE {}").format(names) if space else names,
                index_tablespace=sql.SQL(" USING INDEX TABLESPACE {}").format(names)
                if space
                else names,
            )
        )

    def applied(self) -> list[Applied]:
        """Every row by rank; nothing when the table does not exist."""
        if not self.exists():
            return []
        rows = self.database.rows(
            sql.SQL(
                "SELECT installed_rank, version, description, type, script, checksum,"
                " installed_by, installed_on, execution_time, success"
                " FROM {} ORDER BY installed_rank"
            ).format(self.table)
        )
        for row in rows:
            if row[3] not in _KNOWN_TYPES:
                raise FlywayError(
                    f"Unknown migration type {row[3]!r} in schema history {self} (rank {row[0]})",
                    hint="it was written by another edition of Flyway; this runner cannot judge it",
                )
        return [
            Applied(row[0], None if row[1] is None else Version.parse(row[1]), *row[2:])
            for row in rows
        ]

    def add(
        self,
        version: Version | None,
        description: str,
        type: str,  # noqa: A002 - the column's name
        script: str,
        checksum: int | None = None,
        *,
        execution_time: int = 0,
        success: bool = True,
    ) -> None:
        """Append a row under the next rank."""
        (last,) = self.database.row(
            sql.SQL("SELECT max(installed_rank) FROM {}").format(self.table)
        )
        first = 0 if type == "SCHEMA" else 1
        self.database.execute(
            sql.SQL(
                "INSERT INTO {} (installed_rank, version, description, type, script, checksum,"
                " installed_by, execution_time, success)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
            ).format(self.table),
            [
                first if last is None else last + 1,
                None if version is None else str(version),
                shorten_description(description),
                type,
                shorten_script(script),
                checksum,
                self.configuration.installed_by or self.database.user,
                execution_time,
                success,
            ],
        )

    def add_schemas(self, schemas: Sequence[str]) -> None:
        self.add(None, SCHEMA_DESCRIPTION, "SCHEMA", ",".join(map(_quoted, schemas)))

    def created(self, schemas: Iterable[str]) -> list[str]:
        """Those of `schemas` that a runner created, as its SCHEMA rows list them."""
        rows = [row for row in self.applied() if row.type == "SCHEMA"]
        listed = {name for row in rows for name in row.script.split(",")}
        return [schema for schema in schemas if _quoted(schema) in listed]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction that holds the lock; no other runner is inside its own meanwhile."""
        if self.database.in_transaction:
            yield
            return
        if self.configuration.postgresql_transactional_lock:
            with self.database.transaction(lambda: self._acquire(self._try_to_begin)):
                yield
        else:
            with self.session_lock(), self.database.transaction():
                yield

    @contextmanager
    def session_lock(self) -> Iterator[None]:
        """The lock without a transaction, for what cannot run in one."""
        self._acquire(lambda: self._try("pg_try_advisory_lock"))
        try:
            yield
        finally:
            if not self.database.connection.closed:
                try:
                    self.database.execute("SELECT pg_advisory_unlock(%s)", [self._lock])
                except psycopg.Error:
                    # The connection is lost or unusable: closing it frees the lock.
                    self.database.close()

    def _try(self, function: str) -> bool:
        query = sql.SQL("SELECT {}(%s)").format(sql.Identifier(function))
        return bool(self.database.row(query, [self._lock])[0])

    def _try_to_begin(self) -> bool:
        """Begin a transaction with the lock, or none at all.

        Waiting inside one would keep its snapshot, for which another runner's CREATE INDEX
        CONCURRENTLY waits in turn.
        """
        self.database.begin()
        locked = self._try("pg_try_advisory_xact_lock")
        if not locked:
            self.database.execute("ROLLBACK")
        return locked

    def _acquire(self, attempt: Callable[[], bool]) -> None:
        attempts = 0
        while not attempt():
            limit = self.configuration.lock_retry_count
            if 0 <= limit <= attempts:
                raise FlywayError(
                    f"the lock of schema history {self} was not free after {limit} attempts",
                    hint="another runner is at work; wait for it, or raise lockRetryCount "
                    "(-1 waits for ever)",
                )
            attempts += 1
            time.sleep(1)
