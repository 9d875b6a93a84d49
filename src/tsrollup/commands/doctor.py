"""tsrollup doctor: look for what is wrong, and say what to do."""

from dataclasses import asdict

import typer
from psycopg.rows import dict_row

from tsrollup.commands.invocation import CronDatabase, invocation
from tsrollup.connection import connect, on_the_same_server
from tsrollup.doctor import Finding, examine, examine_jobs, home_of_pg_cron
from tsrollup.errors import TsrollupError


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(context: typer.Context, cron_database: CronDatabase = None) -> None:
    """Check server, extensions, settings, privileges, rollups and pg_cron's jobs.

    Example: tsrollup doctor
    """
    call = invocation(context)
    with call.connection() as connection:
        findings = examine(connection)
        home = cron_database or home_of_pg_cron(connection)
    if home:
        findings += _jobs(on_the_same_server(call.url, home))
    call.console.print_rows([asdict(finding) for finding in findings])
    problems = [finding for finding in findings if finding.verdict == "problem"]
    if problems:
        first = problems[0]
        raise TsrollupError(
            f"{len(problems)} problems found, first {first.check}: {first.found}", first.next_step
        )


def _jobs(url: str) -> list[Finding]:
    try:
        with connect(url, row_factory=dict_row) as connection:
            return examine_jobs(connection)
    except TsrollupError as error:
        next_step = "give --cron-database the URL of one who may look"
        return [Finding("pg_cron jobs", "advice", error.message, next_step)]
