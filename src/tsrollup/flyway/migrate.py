"""migrate: bring the database to the newest (or the target) version."""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from tsrollup.flyway.baseline import write_baseline
from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import FlywayError
from tsrollup.flyway.migrations import Migration
from tsrollup.flyway.results import AppliedScript, MigrateError, MigrateResult
from tsrollup.flyway.schemas import create_history, create_missing_schemas, non_empty_schemas
from tsrollup.flyway.scripts import ParsedScript
from tsrollup.flyway.session import Session, open_session
from tsrollup.flyway.states import MigrationInfo, State, category, current
from tsrollup.flyway.validate import ignores_all, validate_session

log = logging.getLogger(__name__)


def migrate(configuration: Configuration) -> MigrateResult:
    """Apply every pending migration; each script and its history row are one transaction."""
    with open_session(configuration) as session:
        if configuration.validate_on_migrate:
            patterns = (*configuration.ignore_migration_patterns, "*:pending")
            validate_session(session, replace(configuration, ignore_migration_patterns=patterns))
        _prepare(session)
        result = _Migrate(session).run()
        session.callback("afterMigrateOperationFinish")
        return result


def _prepare(session: Session) -> None:
    """Make schemas and history table; guard a database that something else has filled."""
    if session.configuration.create_schemas:
        create_missing_schemas(session)
    if session.history.exists():
        return
    filled = non_empty_schemas(session)
    if filled and not session.configuration.skip_executing_migrations:
        if session.configuration.baseline_on_migrate:
            write_baseline(session)
        elif not session.history.exists():
            names = ", ".join(f'"{name}"' for name in filled)
            raise FlywayError(
                f"Found non-empty schema(s) {names} but no schema history table",
                hint="run baseline, or set -baselineOnMigrate=true, to start the history here",
                code="NON_EMPTY_SCHEMA_WITHOUT_SCHEMA_HISTORY_TABLE",
            )
    create_history(session)


class _Migrate:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.configuration = session.configuration
        self.result = MigrateResult(session.database.name, session.default_schema)
        self.parsed: dict[Migration, ParsedScript] = {}
        self.done: set[Migration] = set()
        self.target = self._fixed_target()
        self.told_versioned = False
        self.told_repeatables = False

    def run(self) -> MigrateResult:
        session = self.session
        infos = session.infos()
        newest = current(infos)
        if newest and newest.version:
            self.result.initial_schema_version = str(newest.version)
        log.info("Current version of schema %s: %s", session.default_schema, _shown(newest))
        if self.configuration.out_of_order:
            session.warn(
                f"outOfOrder is set: schema {session.default_schema} may not be reproducible"
            )
        session.callback("beforeMigrate")
        try:
            while self._next():
                pass
        except MigrateError as error:
            error.result = self.result
            session.quiet_callback("afterMigrateError")
            raise
        except FlywayError:
            session.quiet_callback("afterMigrateError")
            raise
        if self.result.migrations:
            session.callback("afterMigrateApplied")
        session.callback("afterMigrate")
        self.result.warnings = session.warnings
        self._log_summary()
        return self.result

    def _next(self) -> bool:
        """Apply the next migration (or all of them, with group); False when none is left."""
        group = self._pending()
        self._phase_events(group)
        if not group:
            return False
        transactional = self._transactional(group)
        with self._lock(transactional):
            # Another runner may have been faster while this one waited.
            group = self._pending()
            if group and self._transactional(group) == transactional:
                self._apply(group, transactional)
        return True

    def _fixed_target(self) -> str | None:
        """`next` means the version that is next now, not again after each migration."""
        target = self.configuration.target
        if (target or "").lower() != "next":
            return target
        pending = [info for info in self.session.infos() if info.state == State.PENDING]
        return str(pending[0].version) if pending and pending[0].version else None

    def _lock(self, transactional: bool) -> AbstractContextManager[None]:
        history = self.session.history
        return history.transaction() if transactional else history.session_lock()

    def _pending(self) -> list[MigrationInfo]:
        infos = self.session.infos(target=self.target)
        self._refuse_failed([info for info in infos if info.state.is_failed])
        # One may look pending again, as a repeatable does whose description was shortened.
        pending = [i for i in infos if i.state == State.PENDING and i.resolved not in self.done]
        return pending if self.configuration.group else pending[:1]

    def _refuse_failed(self, failed: Sequence[MigrationInfo]) -> None:
        if not failed:
            return
        first = failed[0]
        future_ignored = ignores_all(self.configuration, State.FUTURE_SUCCESS)
        if len(failed) == 1 and first.state == State.FUTURE_FAILED and future_ignored:
            return
        what = (
            f"migration to version {first.version}"
            if first.version
            else f"repeatable migration ({first.description})"
        )
        raise FlywayError(
            f"Schema {self.session.default_schema} contains a failed {what}",
            hint="undo what it left behind, then run repair",
        )

    def _transactional(self, group: Sequence[MigrationInfo]) -> bool:
        modes = [self._parse(info).in_transaction for info in group]
        if len(set(modes)) > 1 and not self.configuration.mixed:
            odd = next(info for info, mode in zip(group, modes, strict=True) if mode != modes[0])
            raise FlywayError(
                "the group mixes migrations that run in a transaction with ones that cannot; "
                f"the first that differs is {odd.script}",
                hint="migrate without -group, or set -mixed=true",
            )
        return all(modes)

    def _parse(self, info: MigrationInfo) -> ParsedScript:
        assert info.resolved is not None
        if self.configuration.skip_executing_migrations:
            return ParsedScript(info.resolved.script, run=False)
        if info.resolved.type == "SCRIPT":
            raise FlywayError(
                f"{info.script} is a program, and this runner runs SQL only",
                hint="run it with Flyway, or write it as SQL",
            )
        if info.resolved not in self.parsed:
            self.parsed[info.resolved] = ParsedScript(info.resolved.script)
        return self.parsed[info.resolved]

    def _apply(self, group: Sequence[MigrationInfo], transactional: bool) -> None:
        done: list[AppliedScript] = []
        for info in group:
            self._phase_events([info])
            started = time.monotonic()
            try:
                self._run_one(info)
            except FlywayError as error:
                self._record_failure(info, started, transactional)
                raise MigrateError(
                    f"Migration of {info.resolved} failed"
                    + ("; it was rolled back" if transactional else "; it may be half done")
                    + f"\n{error.message}",
                    error.hint,
                    code=f"FAILED_{'VERSIONED' if info.version else 'REPEATABLE'}_MIGRATION",
                ) from error
            done.append(self._record(info, started))
        self.result.migrations += done

    def _run_one(self, info: MigrationInfo) -> None:
        session = self.session
        if self.configuration.skip_executing_migrations:
            log.info("Not executing %s, as skipExecutingMigrations wants it", info.resolved)
            return
        log.info("Migrating schema %s to %s", session.default_schema, info.resolved)
        session.database.use_schema(session.default_schema)
        session.callback_within("beforeEachMigrate")
        try:
            self._parse(info).run(session.database, self._tell_statement)
        except FlywayError:
            session.quiet_callback("afterEachMigrateError", within=True)
            raise
        session.callback_within("afterEachMigrate")

    def _tell_statement(self, moment: str) -> None:
        if moment == "error":
            self.session.quiet_callback("afterEachMigrateStatementError", within=True)
        else:
            self.session.callback_within(f"{moment}EachMigrateStatement")

    def _record(self, info: MigrationInfo, started: float) -> AppliedScript:
        assert info.resolved is not None
        session, migration = self.session, info.resolved
        session.database.restore_session()
        if not session.database.in_transaction and self._parse(info).in_transaction:
            session.warn(
                f"{info.script} ended its transaction itself; its row is not atomic with it"
            )
        milliseconds = int((time.monotonic() - started) * 1000)
        session.history.add(
            migration.version, migration.description, migration.type, migration.script.name,
            migration.checksum, execution_time=milliseconds,
        )  # fmt: skip
        self.done.add(migration)
        if migration.version:
            self.result.target_schema_version = str(migration.version)
        return AppliedScript(
            category=category(info), version=str(migration.version or ""),
            description=migration.description, type=migration.type,
            filepath=str(migration.script.file.resolve()), execution_time=milliseconds,
        )  # fmt: skip

    def _record_failure(self, info: MigrationInfo, started: float, transactional: bool) -> None:
        """Flyway leaves a failed row only outside transactions and with the session lock."""
        if transactional or self.configuration.postgresql_transactional_lock:
            return
        assert info.resolved is not None
        self.session.database.restore_session()
        self.session.history.add(
            info.version, info.description, info.type, info.script, info.resolved.checksum,
            execution_time=int((time.monotonic() - started) * 1000), success=False,
        )  # fmt: skip

    def _phase_events(self, group: Sequence[MigrationInfo]) -> None:
        """Once each: afterVersioned when no versioned migration is left, then beforeRepeatables."""
        if group and group[0].version:
            return
        if not self.told_versioned:
            self.told_versioned = True
            self.session.callback("afterVersioned")
        if group and not self.told_repeatables:
            self.told_repeatables = True
            self.session.callback("beforeRepeatables")

    def _log_summary(self) -> None:
        count, schema = len(self.result.migrations), self.session.default_schema
        if count == 0:
            log.info("Schema %s is up to date; no migration was necessary", schema)
        else:
            total = sum(item.execution_time for item in self.result.migrations) / 1000
            version = self.result.target_schema_version
            suffix = f", now at version v{version}" if version else ""
            noun = "migration" if count == 1 else "migrations"
            log.info("Applied %d %s to schema %s%s (%.3f s)", count, noun, schema, suffix, total)


def _shown(info: MigrationInfo | None) -> str:
    return str(info.version) if info and info.version else "<< Empty Schema >>"
