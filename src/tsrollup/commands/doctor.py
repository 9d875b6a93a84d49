"""tsrollup doctor: look for what is wrong, and say what to do."""

from dataclasses import asdict

import typer

from tsrollup.commands.invocation import invocation
from tsrollup.doctor import examine
from tsrollup.errors import TsrollupError


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(context: typer.Context) -> None:
    """Check server, extensions, settings, privileges and rollups."""
    call = invocation(context)
    with call.connection() as connection:
        findings = examine(connection)
    call.print_rows([asdict(finding) for finding in findings])
    problems = [finding for finding in findings if finding.verdict == "problem"]
    if problems:
        first = problems[0]
        raise TsrollupError(
            f"{len(problems)} problems found, first {first.check}: {first.found}", first.next_step
        )
