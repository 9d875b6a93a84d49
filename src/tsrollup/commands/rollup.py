"""tsrollup create, run, refresh, drop, status, log."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer
from psycopg import Connection

from tsrollup import rollups, runs
from tsrollup.commands.invocation import invocation, parse_object
from tsrollup.commands.targets import (
    AnyTarget,
    Expressions,
    From,
    LookBackWindow,
    ProcessingWindow,
    SettleDelay,
    Target,
    TargetBatchDuration,
    To,
)
from tsrollup.console import Console, progress
from tsrollup.errors import TsrollupError

SUMMARY_FOR_PEOPLE = {
    "target": "target",
    "status": "status",
    "buckets": "buckets",
    "written": "rows_written",
    "deleted": "rows_deleted",
    "left": "ranges_left",
    "seconds": "seconds",
}
STATUS_FOR_PEOPLE = {
    "target": "target_table",
    "health": "health",
    "waiting since": "stale_since",
    "stale": "stale_buckets",
    "to go": "time_to_catch_up",
    "running since": "running_since",
    "last run": "last_run_at",
    "next retry": "next_retry_at",
    "reason": "reason",
    "next step": "next_step",
}
REFRESHES_FOR_PEOPLE = {
    "finished": "finished_at",
    "target": "target_table",
    "from": "from_time",
    "to": "to_time",
    "buckets": "buckets",
    "written": "rows_written",
    "deleted": "rows_deleted",
    "seconds": "seconds",
}
FAILURES_FOR_PEOPLE = {
    "at": "occurred_at",
    "target": "target_table",
    "attempt": "attempt",
    "code": "error_code",
    "message": "error_message",
    "detail": "detail",
    "hint": "hint",
}


def register(app: typer.Typer) -> None:
    for command in (create, run, refresh, drop, status, log):
        app.command()(command)


def create(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Table to read (default schema raw), or a rollup.")],
    target: Annotated[str, typer.Argument(help="Table to create (default schema silver).")],
    width: Annotated[str, typer.Argument(help="Width of a bucket, as '1 hour'.")],
    dimension: Annotated[
        list[str] | None, typer.Option("--dimension", "-d", help="Group by it; repeatable.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help='As \'{"temp": ["avg", "max"]}\'. Default: by column type.')
    ] = None,
    time_column: Annotated[str | None, typer.Option(help="Default: the partition key.")] = None,
    chunk_interval: Annotated[str | None, typer.Option(help="Width of its partitions.")] = None,
    settle_delay: SettleDelay = None,
    processing_window: ProcessingWindow = None,
    target_batch_duration: TargetBatchDuration = None,
    change_tracking: Annotated[str | None, typer.Option(help="trigger or window.")] = None,
    look_back_window: LookBackWindow = None,
    retention: Annotated[str | None, typer.Option(help="How long its rows are kept.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Where days begin. Default: UTC.")] = None,
    origin: Annotated[str | None, typer.Option(help="A time at which a bucket begins.")] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="Of a time column of numbers: s, ms, us or ns.")
    ] = None,
    expressions: Expressions = None,
    row_filter: Annotated[
        str | None, typer.Option("--filter", help="Which rows count, as 'temp < 100'.")
    ] = None,
    key_dimension: Annotated[
        str | None, typer.Option(help="Late rows cost the groups of its values. Default: indexed.")
    ] = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="Leave an existing one alone.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be created, and create nothing.")
    ] = False,
) -> None:
    """Create a rollup and its live view; run fills it.

    Example: tsrollup create readings readings_1h '1 hour' -d device
    """
    call = invocation(context)
    options = {
        "time_column": time_column,
        "dimensions": dimension,
        "metrics": None if metrics is None else parse_object(metrics, "--metrics"),
        "chunk_interval": chunk_interval,
        "settle_delay": settle_delay,
        "processing_window": processing_window,
        "target_batch_duration": target_batch_duration,
        "change_tracking": change_tracking,
        "look_back_window": look_back_window,
        "retention": retention,
        "timezone": timezone,
        "origin": origin,
        "time_unit": time_unit,
        "expressions": None if expressions is None else parse_object(expressions, "--expressions"),
        "filter": row_filter,
        "key_dimension": key_dimension,
        "if_not_exists": if_not_exists or None,
    }
    with call.installed() as connection:
        schema, table = rollups.split_target(connection, target)
        with connection.transaction(force_rollback=dry_run):
            made = rollups.create(connection, source, schema, table, width, options)
            definition = rollups.definition(connection, made)
    view = definition["live_view"]
    if dry_run:
        call.console.print_record(definition)
    else:
        call.console.done(
            f"created {made}; read it at {view}, fill it with: tsrollup run {made}",
            {"target_table": made, "live_view": view},
        )


def run(
    context: typer.Context,
    target: AnyTarget = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be refreshed, and refresh nothing.")
    ] = False,
) -> None:
    """Refresh what is due now, newest first, and say what was done.

    Example: tsrollup run
    """
    call = invocation(context)
    with call.installed() as connection:
        if dry_run:
            work = runs.work_to_do(connection, target)
            call.console.print_rows(work, empty="no rollups to run")
            return
        summaries = runs.summarise(_with_progress(call.console, connection, target))
    _print_summaries(call.console, summaries)


def refresh(
    context: typer.Context,
    target: Target,
    from_time: From,
    to_time: To,
) -> None:
    """Recompute a range of a rollup, stale or not.

    Example: tsrollup refresh readings_1h 2026-01-01 2026-01-02
    """
    call = invocation(context)
    with call.installed() as connection:
        summaries = runs.refresh(connection, target, from_time, to_time)
    _print_summaries(call.console, summaries)


def drop(
    context: typer.Context,
    target: Target,
    keep_table: Annotated[
        bool, typer.Option("--keep-table", help="Keep the table with its rows.")
    ] = False,
) -> None:
    """Drop a rollup, its live view and its table.

    Example: tsrollup drop readings_1h
    """
    call = invocation(context)
    with call.installed() as connection:
        name = rollups.drop(connection, target, keep_table)
    call.console.done(f"dropped {name}", {"target_table": name, "kept_table": keep_table})


def status(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Show the health of every rollup, where it comes from and what to do.

    Example: tsrollup status --watch
    """
    call = invocation(context)
    empty = "no rollups yet; make one with: tsrollup create"
    with call.installed() as connection:
        while True:
            rows = rollups.monitor(connection)
            if watch and not call.console.as_json:
                call.console.out.clear()
            call.console.print_rows(rows, STATUS_FOR_PEOPLE, empty)
            if not watch:
                break
            time.sleep(every)


def log(
    context: typer.Context,
    target: AnyTarget = None,
    errors: Annotated[bool, typer.Option("--errors", help="Failures, not refreshes.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows to show.")] = 20,
) -> None:
    """Show the newest refreshes, or failures.

    Example: tsrollup log readings_1h --errors
    """
    call = invocation(context)
    with call.installed() as connection:
        rows = rollups.log(connection, target, errors, limit)
    if errors:
        call.console.print_rows(rows, FAILURES_FOR_PEOPLE, empty="no failures")
    else:
        call.console.print_rows(rows, REFRESHES_FOR_PEOPLE, empty="nothing was refreshed yet")


def _print_summaries(console: Console, summaries: list[runs.RunSummary]) -> None:
    rows = [asdict(summary) for summary in summaries]
    console.print_rows(rows, SUMMARY_FOR_PEOPLE, empty="no rollups to run")
    failed = [summary for summary in summaries if summary.error]
    if failed:
        raise TsrollupError(
            f"{len(failed)} of {len(summaries)} rollups failed, first {failed[0].target}:"
            f" {failed[0].error}",
            "see tsrollup log --errors",
        )


def _with_progress(
    console: Console, connection: Connection[Any], target: str | None
) -> Iterator[runs.Batch]:
    shown = console.talk.is_terminal and not console.as_json
    with progress(console.talk, "buckets", transient=True, disable=not shown) as bar:
        total = runs.stale_buckets(connection, target) if shown else None
        task = bar.add_task("refreshing", total=total)
        for batch in runs.run(connection, target):
            bar.advance(task, batch.buckets)
            yield batch
