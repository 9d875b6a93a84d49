"""tsrollup pause, resume, retry, rebuild, alter, mark-stale, retention, maintain, metric,
suggest-indexes."""

from typing import Annotated, Any

import typer

from tsrollup import rollups
from tsrollup.commands.invocation import Invocation, invocation, parse_object
from tsrollup.commands.targets import (
    AnyTarget,
    Expressions,
    From,
    LookBackWindow,
    ProcessingWindow,
    SettleDelay,
    TableName,
    Target,
    TargetBatchDuration,
    To,
)

metric = typer.Typer(no_args_is_help=True, help="Add metrics to a rollup, and drop them.")


def register(app: typer.Typer) -> None:
    for command in (pause, resume, retry, rebuild, alter, retention, maintain, suggest_indexes):
        app.command()(command)
    # Among its times may be -infinity.
    app.command(context_settings={"ignore_unknown_options": True})(mark_stale)
    app.add_typer(metric, name="metric")


def pause(context: typer.Context, target: Target) -> None:
    """Stop refreshing a rollup; changes are still captured, reads stay exact.

    Example: tsrollup pause readings_1h
    """
    _change(invocation(context), "pause_rollup", "paused", target)


def resume(context: typer.Context, target: Target) -> None:
    """Take up a paused rollup again.

    Example: tsrollup resume readings_1h
    """
    _change(invocation(context), "resume_rollup", "resumed", target)


def retry(context: typer.Context, target: Target) -> None:
    """Forget the failures of a rollup, so that the next run takes it up again; unparks it.

    Example: tsrollup retry readings_1h
    """
    _change(invocation(context), "reset_rollup_retry", "to be tried again", target)


def rebuild(context: typer.Context, target: Target) -> None:
    """Give a rollup the types that its source has now, and have all of it recomputed.

    Example: tsrollup rebuild readings_1h
    """
    _change(invocation(context), "rebuild_rollup", "rebuilt", target)


def mark_stale(context: typer.Context, table: TableName, from_time: From, to_time: To) -> None:
    """Have a range of a rollup, or of every rollup of a source, recomputed by the next run.

    Example: tsrollup mark-stale readings 2026-01-01 2026-01-02
    """
    call = invocation(context)
    given = {"table_name": table, "from_time": from_time, "to_time": to_time}
    with call.installed() as connection:
        rollups.call(connection, "mark_stale", **given)
    call.console.done(f"{table} is stale from {from_time} to {to_time}", given)


def retention(
    context: typer.Context,
    table: TableName,
    keep: Annotated[str, typer.Argument(help="As '90 days', or 'forever'.")],
    archive: Annotated[
        bool, typer.Option("--archive", help="Move old partitions aside instead of dropping them.")
    ] = False,
) -> None:
    """Say how long the rows of a source or a rollup are kept; maintain drops what is older.

    Example: tsrollup retention readings '90 days'
    """
    call = invocation(context)
    kept = None if keep == "forever" else keep
    given = {"table_name": table, "keep": kept, "archive": archive}
    with call.installed() as connection:
        rollups.call(connection, "set_retention", **given)
    call.console.done(f"{table} is kept {keep if kept is None else f'for {keep}'}", given)


def maintain(context: typer.Context, target: AnyTarget = None) -> None:
    """Make partitions ahead, drop old ones, refresh statistics, shorten logs; now.

    Example: tsrollup maintain
    """
    call = invocation(context)
    with call.installed() as connection:
        rows = rollups.call(connection, "maintain_timeseries_tables", target=target)
    call.console.print_rows(rows, empty="nothing to do")


@metric.command()
def add(
    context: typer.Context,
    target: Target,
    metrics: Annotated[str, typer.Argument(help='As \'{"temp": ["avg", "max"]}\'.')],
    expressions: Expressions = None,
) -> None:
    """Add aggregates to a rollup; all of it is recomputed.

    Example: tsrollup metric add readings_1h '{"temp": ["max"]}'
    """
    call = invocation(context)
    wanted = {"metrics": parse_object(metrics, "METRICS")}
    if expressions is not None:
        wanted["expressions"] = parse_object(expressions, "--expressions")
    _change(call, "add_rollup_metric", "extended", target, **wanted)


@metric.command("drop")
def drop_metric(
    context: typer.Context,
    target: Target,
    metrics: Annotated[str, typer.Argument(help='As \'{"temp": ["avg", "max"]}\'.')],
) -> None:
    """Take aggregates out of a rollup.

    Example: tsrollup metric drop readings_1h '{"temp": ["max"]}'
    """
    call = invocation(context)
    wanted = parse_object(metrics, "METRICS")
    _change(call, "drop_rollup_metric", "without them", target, metrics=wanted)


def alter(
    context: typer.Context,
    target: Target,
    settle_delay: SettleDelay = None,
    processing_window: ProcessingWindow = None,
    target_batch_duration: TargetBatchDuration = None,
    look_back_window: LookBackWindow = None,
    chunk_interval: Annotated[
        str | None, typer.Option(help="Width of its partitions to come.")
    ] = None,
    new_name: Annotated[str | None, typer.Option(help="Of its table and live view.")] = None,
) -> None:
    """Change options of a rollup, or its name; what is not given stays as it is.

    Example: tsrollup alter readings_1h --settle-delay '5 minutes'
    """
    options = {
        "settle_delay": settle_delay,
        "processing_window": processing_window,
        "target_batch_duration": target_batch_duration,
        "look_back_window": look_back_window,
        "chunk_interval": chunk_interval,
        "new_name": new_name,
    }
    if all(value is None for value in options.values()):
        raise typer.BadParameter("there is nothing to change", param_hint="alter")
    call = invocation(context)
    with call.installed() as connection:
        table, view = rollups.alter(connection, target, options)
    call.console.done(f"{table}: altered", {"target_table": table, "live_view": view})


def suggest_indexes(
    context: typer.Context,
    table: TableName,
    query: Annotated[
        list[str] | None,
        typer.Option("--query", "-q", help="A query to make cheaper; repeatable."),
    ] = None,
) -> None:
    """Indexes that would make queries cheaper, by hypopg; without --query, of those seen.

    Tables in queries are named with their schema. Nothing is created.

    Example: tsrollup suggest-indexes readings
    """
    call = invocation(context)
    with call.installed() as connection:
        rows = rollups.call(connection, "suggest_indexes", table_name=table, queries=query)
    call.console.print_rows(rows, empty="no index would make a difference")


def _change(call: Invocation, function: str, what: str, target: str, **further: Any) -> None:
    with call.installed() as connection:
        rollups.call(connection, function, target=target, **further)
        definition = rollups.definition(connection, target)
    name = definition["target_table"]
    call.console.done(f"{name}: {what}", {"target_table": name, "status": definition["status"]})
