"""What every command shares: the connection, the schemas, the history and the local scripts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from functools import cached_property
from pathlib import Path

import psycopg

from tsrollup.connection import describe
from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.database import Database
from tsrollup.flyway.errors import ConfigurationError, FlywayError
from tsrollup.flyway.history import History
from tsrollup.flyway.migrations import (
    Migration,
    Script,
    check_names,
    find_callbacks,
    find_migrations,
)
from tsrollup.flyway.scripts import ParsedScript
from tsrollup.flyway.states import MigrationInfo, examine

log = logging.getLogger(__name__)


class Session:
    """One command at work on one database."""

    def __init__(self, configuration: Configuration, database: Database) -> None:
        self.configuration = configuration
        self.database = database
        self.schemas = self._schemas()
        self.default_schema = configuration.default_schema or self.schemas[0]
        self.history = History(database, self.default_schema)
        self.warnings: list[str] = []

    def _schemas(self) -> tuple[str, ...]:
        configured = self.configuration.schemas
        default = self.configuration.default_schema
        if default and default not in configured:
            configured = (default, *configured)
        if not configured:
            if self.database.current_schema is None:
                raise ConfigurationError(
                    "no schema is configured and the connection has no current schema",
                    hint="set -schemas=... or -defaultSchema=...",
                )
            configured = (self.database.current_schema,)
        return tuple(dict.fromkeys(configured))

    @cached_property
    def built_in(self) -> dict[str, str]:
        """The values behind ${flyway:...}; the file's name is added for each script."""
        return {
            "defaultSchema": self.default_schema,
            "user": self.database.user,
            "database": self.database.name,
            "timestamp": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            "workingDirectory": str(self.configuration.working_directory or Path.cwd()),
            "table": self.history.name,
            "environment": self.configuration.environment,
        }

    @cached_property
    def migrations(self) -> tuple[Migration, ...]:
        return find_migrations(self.configuration, self.built_in)

    @cached_property
    def callbacks(self) -> dict[str, tuple[Script, ...]]:
        # Every command asks for callbacks, and so tells of names that follow no convention.
        check_names(self.configuration)
        return find_callbacks(self.configuration, self.built_in)

    def infos(
        self, *, target: str | None = None, out_of_order: bool | None = None
    ) -> list[MigrationInfo]:
        return examine(
            self.configuration,
            self.migrations,
            self.history.applied(),
            target=target,
            out_of_order=out_of_order,
        )

    def warn(self, message: str) -> None:
        log.warning("%s", message)
        self.warnings.append(message)

    def callback(self, event: str) -> None:
        """Run the scripts of `event`, each in a transaction unless one is open."""
        for script in self.callbacks.get(event, ()):
            self.database.use_schema(self.default_schema)
            self._run_callback(event, script)
            self.database.restore_session()

    def callback_within(self, event: str) -> None:
        """The same in the middle of a migration: sharing the role and search path of its script."""
        for script in self.callbacks.get(event, ()):
            self._run_callback(event, script)

    def _run_callback(self, event: str, script: Script) -> None:
        log.info("Executing SQL callback: %s (%s)", event, script.name)
        parsed = ParsedScript(script)
        if parsed.in_transaction:
            with self.database.transaction():
                parsed.run(self.database)
        else:
            parsed.run(self.database)

    def quiet_callback(self, event: str, *, within: bool = False) -> None:
        """A callback about an error must not hide it."""
        try:
            (self.callback_within if within else self.callback)(event)
        except (FlywayError, psycopg.Error) as error:
            log.warning("callback %s failed: %s", event, error)

    @contextmanager
    def events(self, command: str, *, in_transaction: bool = False) -> Iterator[None]:
        """Run before<Command>, then after<Command> or, on an error, after<Command>Error."""
        failed = False
        try:
            with self.history.transaction() if in_transaction else nullcontext():
                self.callback(f"before{command}")
                try:
                    yield
                except (FlywayError, psycopg.Error):
                    failed = True
                    raise
                self.callback(f"after{command}")
        finally:
            # Outside the transaction, which would refuse any further statement.
            if failed:
                self.quiet_callback(f"after{command}Error")


@contextmanager
def open_session(configuration: Configuration) -> Iterator[Session]:
    """Connect, yield the session, disconnect; what the server reports becomes a FlywayError."""
    database = Database(configuration)
    try:
        session = Session(configuration, database)
        yield session
    except psycopg.Error as error:
        told = describe(error)
        raise FlywayError(told.message, told.hint) from error
    finally:
        database.close()
