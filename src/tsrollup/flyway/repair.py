"""repair: bring the schema history back in line with the local scripts."""

import logging

from psycopg import sql

from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.history import SYNTHETIC, Applied, shorten_description
from tsrollup.flyway.migrations import Migration
from tsrollup.flyway.results import RepairedMigration, RepairResult
from tsrollup.flyway.session import Session, open_session
from tsrollup.flyway.states import MigrationInfo, State
from tsrollup.flyway.validate import is_ignored

log = logging.getLogger(__name__)

_WITHOUT_SCRIPT = (
    State.MISSING_SUCCESS,
    State.MISSING_FAILED,
    State.FUTURE_SUCCESS,
    State.FUTURE_FAILED,
)


def repair(configuration: Configuration) -> RepairResult:
    """Remove failed rows, mark missing migrations as deleted, take over changed scripts."""
    with open_session(configuration) as session:
        result = RepairResult(session.database.name)
        # Scripts that cannot be read are reported even where there is nothing to repair.
        _ = session.callbacks, session.migrations
        if not session.history.exists():
            log.info("Schema history table %s does not exist; nothing to repair", session.history)
            return result
        with session.events("Repair"), session.history.transaction():
            _remove_failed(session, result)
            for info in session.infos():
                _mark_deleted(session, info, result)
                _align(session, info, result)
        for action in result.actions:
            log.info("%s", action)
        log.info("Schema history %s is repaired", session.history)
        return result


def _remove_failed(session: Session, result: RepairResult) -> None:
    for row in session.history.applied():
        if not row.success:
            session.database.execute(
                sql.SQL("DELETE FROM {} WHERE installed_rank = %s").format(session.history.table),
                [row.rank],
            )
            result.removed.append(RepairedMigration(str(row.version or ""), row.description, ""))


def _mark_deleted(session: Session, info: MigrationInfo, result: RepairResult) -> None:
    row = info.applied
    if row is None or info.state not in _WITHOUT_SCRIPT:
        return
    if is_ignored(session.configuration, info):
        return
    session.history.add(
        row.version, row.description, "DELETE", row.script, row.checksum, success=row.success
    )
    result.deleted.append(RepairedMigration(str(row.version or ""), row.description, ""))


def _align(session: Session, info: MigrationInfo, result: RepairResult) -> None:
    row, migration = info.applied, info.resolved
    if row is None or migration is None or row.type in SYNTHETIC or info.state == State.DELETED:
        return
    if _is_outdated(row, migration):
        session.database.execute(
            sql.SQL(
                "UPDATE {} SET description = %s, type = %s, checksum = %s WHERE installed_rank = %s"
            ).format(session.history.table),
            [
                shorten_description(migration.description),
                migration.type,
                migration.checksum,
                row.rank,
            ],
        )
        result.aligned.append(
            RepairedMigration(
                str(row.version or ""), migration.description, str(migration.script.file.resolve())
            )
        )


def _is_outdated(row: Applied, migration: Migration) -> bool:
    if row.version is None:
        # A changed repeatable runs again; only a checksum of the unreplaced text is mended.
        return row.checksum != migration.checksum and row.checksum == migration.raw_checksum
    stored = (row.checksum, row.description, row.type)
    return stored != (
        migration.checksum,
        shorten_description(migration.description),
        migration.type,
    )
