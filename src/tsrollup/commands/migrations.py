"""tsrollup migrate, info, validate, repair, baseline, clean, flyway."""

import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer

from tsrollup import flyway
from tsrollup.commands.invocation import CronDatabase, Invocation, invocation
from tsrollup.connection import on_the_same_server
from tsrollup.errors import TsrollupError
from tsrollup.flyway import Configuration, output
from tsrollup.flyway.logs import logged_to_console
from tsrollup.migrations import project_configurations, refuse_newer_database


class Extra(StrEnum):
    payload = "payload"


With = Annotated[list[Extra] | None, typer.Option("--with", help="Add the example tables.")]
Placeholders = Annotated[
    list[str] | None,
    typer.Option("--placeholder", help="name=value, over what the .conf files say; repeatable."),
]

Say = Callable[[str], None]
# A command on one configuration: its result as JSON, having said what people read.
Run = Callable[[Configuration, Say], output.Json]


def register(app: typer.Typer) -> None:
    for run in (migrate, info, validate, repair):
        app.command(run.__name__, help=run.__doc__)(_on_each_configuration(run))
    for command in (baseline, clean):
        app.command()(command)
    app.command(
        "flyway",
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        },
    )(flyway_command)


def migrate(configuration: Configuration, say: Say) -> output.Json:
    """Apply the pending migrations.

    Example: tsrollup migrate
    """
    result = flyway.migrate(configuration)
    version = result.target_schema_version or result.initial_schema_version
    say(f"{result.migrations_executed} migrations applied; at version {version}")
    return output.migrate_json(result, configuration)


def info(configuration: Configuration, say: Say) -> output.Json:
    """Show every migration and its state.

    Example: tsrollup info
    """
    result = flyway.info(configuration)
    say(output.info_text(result))
    return output.info_json(result, configuration)


def validate(configuration: Configuration, say: Say) -> output.Json:
    """Compare the applied migrations with the installed ones.

    Example: tsrollup validate
    """
    result = flyway.validate(configuration)
    say(f"{result.count} migrations are as they were applied")
    return output.validate_json(result.database, result.count)


def repair(configuration: Configuration, say: Say) -> output.Json:
    """Bring the history back in line with the installed migrations.

    Example: tsrollup repair
    """
    result = flyway.repair(configuration)
    say("; ".join(result.actions) or "nothing to repair")
    return output.repair_json(result)


def baseline(
    context: typer.Context,
    version: Annotated[str, typer.Option(help="Migrations up to this one count as applied.")] = "1",
    cron_database: CronDatabase = None,
    with_: With = None,
    placeholders: Placeholders = None,
) -> None:
    """Start a history without running the migrations up to a version.

    Example: tsrollup baseline --version 4
    """

    def run(configuration: Configuration, say: Say) -> output.Json:
        result = flyway.baseline(replace(configuration, baseline_version=version))
        say(f"baseline {version}" if result.written else f"baseline {version} was there")
        return output.baseline_json(result)

    _on_each(invocation(context), run, cron_database, with_, placeholders)


def clean(
    context: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Drop it all; without, only list what would go.")
    ] = False,
    rollups: Annotated[bool, typer.Option("--rollups", help="Also when rollups exist.")] = False,
    cron_database: CronDatabase = None,
    with_: With = None,
    placeholders: Placeholders = None,
) -> None:
    """Drop what the migrations made. Source tables in raw stay.

    Example: tsrollup clean --force
    """

    def run(configuration: Configuration, say: Say) -> output.Json:
        chosen = replace(configuration, clean_disabled=not force)
        try:
            result = flyway.clean(chosen)
        except flyway.CleanDisabledError as error:
            raise TsrollupError(error.message, "add --force to drop it, for good") from error
        say(f"gone: schema {', '.join([*result.cleaned, *result.dropped]) or '(none)'}")
        return output.clean_json(result)

    given = [*(placeholders or []), *(["clean_rollups=true"] if rollups else [])]
    _on_each(invocation(context), run, cron_database, with_, given, backwards=True)


def flyway_command(context: typer.Context) -> None:
    """A Flyway command line, word for word.

    Example: tsrollup flyway -configFiles=flyway.conf migrate
    """
    raise typer.Exit(flyway.main(context.args))


def _on_each_configuration(run: Run) -> Callable[..., None]:
    def command(
        context: typer.Context,
        cron_database: CronDatabase = None,
        with_: With = None,
        placeholders: Placeholders = None,
    ) -> None:
        call = invocation(context)
        if run in (migrate, repair):
            refuse_newer_database(call.url)
        _on_each(call, run, cron_database, with_, placeholders)

    return command


def _on_each(
    call: Invocation,
    run: Run,
    cron_database: str | None,
    with_: list[Extra] | None,
    placeholders: list[str] | None,
    *,
    backwards: bool = False,
) -> None:
    console = call.console
    cron_url = None if cron_database is None else on_the_same_server(call.url, cron_database)
    values = dict(_name_and_value(item) for item in placeholders or [])
    documents: dict[str, Any] = {}
    with (
        project_configurations(call.url, cron_url, bool(with_), values) as configurations,
        logged_to_console(quiet=console.as_json, progress_to=sys.stderr),
    ):
        parts = list(configurations.items())
        for part, configuration in reversed(parts) if backwards else parts:
            console.say(f"[{part}]")
            documents[part] = _in_one_line(run, configuration, console.say)
    if console.as_json:
        console.print_json(documents)


def _in_one_line(run: Run, configuration: Configuration, say: Say) -> output.Json:
    try:
        return run(configuration, say)
    except flyway.FlywayError as error:
        lines = (" ".join(line.split()) for line in error.message.splitlines())
        raise TsrollupError("; ".join(lines), error.hint) from error


def _name_and_value(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise TsrollupError(f"--placeholder {item} has no value", "write it as name=value")
    return name, value
