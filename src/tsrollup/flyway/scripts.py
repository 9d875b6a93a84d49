"""Running a script: its statements, in the transaction mode that they allow."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence

import psycopg

from tsrollup.flyway.database import Database
from tsrollup.flyway.errors import FlywayError
from tsrollup.flyway.migrations import Script
from tsrollup.flyway.results import MigrateError
from tsrollup.flyway.statements import Statement, split
from tsrollup.flyway.tables import ascii_table

log = logging.getLogger(__name__)


# Files that were joined have them in the middle too.
_BYTE_ORDER_MARK = re.compile("\ufeff(.?)", re.DOTALL)


def _statements(script: Script) -> Iterator[Statement]:
    return split(_BYTE_ORDER_MARK.sub(r"\1", script.text))


class ParsedScript:
    """The statements of a script and whether they run in a transaction."""

    def __init__(self, script: Script, *, run: bool = True) -> None:
        self.script = script
        self.statements: Sequence[Statement] = tuple(_statements(script)) if run else ()
        self.in_transaction = self._in_transaction()

    def _in_transaction(self) -> bool:
        if self.script.forced_transaction:
            return self.script.execute_in_transaction
        if not self.script.execute_in_transaction:
            return False
        outside = [statement for statement in self.statements if not statement.transactional]
        if outside and len(outside) < len(self.statements) and not self.script.configuration.mixed:
            raise FlywayError(
                f"{self.script.name} mixes statements that run in a transaction with ones that "
                f"cannot; the statement at line {outside[0].line} cannot: {outside[0].keywords}",
                hint="put it into a migration of its own, or set -mixed=true",
            )
        return not outside

    def run(self, database: Database, tell: Callable[[str], None] = lambda _: None) -> None:
        """Run the statements; `tell` hears before and after each: before, after, error."""
        database.connection.add_notice_handler(_log_notice)
        try:
            for statement in self.statements:
                if statement.copies_to_client:
                    raise MigrateError(
                        f"{self.script.name}, line {statement.line}: COPY TO STDOUT has no reader"
                    )
                tell("before")
                try:
                    _run_statement(database, statement)
                except psycopg.Error as error:
                    tell("error")
                    raise _failure(self.script, statement, error) from error
                tell("after")
        finally:
            database.connection.remove_notice_handler(_log_notice)


def _log_notice(notice: psycopg.errors.Diagnostic) -> None:
    level = logging.WARNING if notice.severity_nonlocalized == "WARNING" else logging.INFO
    log.log(level, "DB: %s", notice.message_primary)


def _run_statement(database: Database, statement: Statement) -> None:
    if statement.copy_data is not None:
        with database.connection.cursor() as cursor, cursor.copy(statement.text.encode()) as copy:
            copy.write(statement.copy_data)
        return
    cursor = database.connection.execute(statement.text.encode())
    if database.configuration.output_query_results:
        _show_results(cursor)


def _show_results(cursor: psycopg.Cursor[tuple[object, ...]]) -> None:
    while True:
        if cursor.description and log.isEnabledFor(logging.INFO):
            headers = [column.name for column in cursor.description]
            rows = [["" if value is None else str(value) for value in row] for row in cursor]
            log.info("%s", ascii_table(headers, rows))
        if not cursor.nextset():
            return


def _failure(script: Script, statement: Statement, error: psycopg.Error) -> MigrateError:
    diagnostic = error.diag
    lines = [
        f"Script {script.name} failed",
        f"SQL State  : {diagnostic.sqlstate or '-'}",
        f"Message    : {diagnostic.message_primary or str(error).strip()}",
    ]
    if diagnostic.message_detail:
        lines.append(f"Detail     : {diagnostic.message_detail}")
    if diagnostic.message_hint:
        lines.append(f"Hint       : {diagnostic.message_hint}")
    line = statement.line
    if diagnostic.statement_position:
        line += statement.text.count("\n", 0, int(diagnostic.statement_position) - 1)
    lines += [f"Location   : {script.file.resolve()}", f"Line       : {line}"]
    return MigrateError("\n".join(lines))
