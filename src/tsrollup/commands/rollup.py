"""tsrollup create, run, refresh, drop, status, log."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer
from psycopg import Connection

from tsrollup import rollups
from tsrollup.commands.invocation import invocation
from tsrollup.console import Console, progress
from tsrollup.errors import TsrollupError

Target = Annotated[
    str, typer.Argument(help="The rollup: its table, its live view or its bare name.")
]
AnyTarget = Annotated[str | None, typer.Argument(help="One rollup. Default: all of them.")]

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
    "lag": "lag",
    "stale": "stale_buckets",
    "last run": "last_run_at",
    "next retry": "next_retry_at",
    "last error": "last_error",
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
    settle_delay: Annotated[
        str | None, typer.Option(help="How long after its end a bucket is stored.")
    ] = None,
    processing_window: Annotated[str | None, typer.Option(help="Most time in a batch.")] = None,
    target_batch_duration: Annotated[
        str | None, typer.Option(help="How long a batch should take.")
    ] = None,
    change_tracking: Annotated[str | None, typer.Option(help="trigger or window.")] = None,
    look_back_window: Annotated[str | None, typer.Option(help="What window reads again.")] = None,
    retention: Annotated[str | None, typer.Option(help="How long its rows are kept.")] = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="Leave an existing one alone.")
    ] = False,
) -> None:
    """Create a rollup and its live view; run fills it."""
    call = invocation(context)
    options = {
        "time_column": time_column,
        "dimensions": dimension,
        "metrics": _parse_metrics(metrics),
        "chunk_interval": chunk_interval,
        "settle_delay": settle_delay,
        "processing_window": processing_window,
        "target_batch_duration": target_batch_duration,
        "change_tracking": change_tracking,
        "look_back_window": look_back_window,
        "retention": retention,
        "if_not_exists": if_not_exists or None,
    }
    with call.installed() as connection:
        schema, table = rollups.split_target(connection, target)
        made = rollups.create(connection, source, schema, table, width, options)
        view = rollups.live_view(connection, made)
    if call.console.as_json:
        call.console.print_json({"target_table": made, "live_view": view})
    else:
        call.console.say(f"created {made}; read it at {view}, fill it with: tsrollup run {made}")


def run(context: typer.Context, target: AnyTarget = None) -> None:
    """Refresh what is due now, newest first, and say what was done."""
    call = invocation(context)
    with call.installed() as connection:
        summaries = rollups.summarise(_with_progress(call.console, connection, target))
    _print_summaries(call.console, summaries)


def refresh(
    context: typer.Context,
    target: Target,
    from_time: Annotated[str, typer.Argument(metavar="FROM", help="As 2026-01-31 or with time.")],
    to_time: Annotated[str, typer.Argument(metavar="TO", help="End, not included.")],
) -> None:
    """Recompute a range of a rollup, stale or not."""
    call = invocation(context)
    with call.installed() as connection:
        summaries = rollups.refresh(connection, target, from_time, to_time)
    _print_summaries(call.console, summaries)


def drop(
    context: typer.Context,
    target: Target,
    keep_table: Annotated[
        bool, typer.Option("--keep-table", help="Keep the table with its rows.")
    ] = False,
) -> None:
    """Drop a rollup, its live view and its table."""
    call = invocation(context)
    with call.installed() as connection:
        rollups.drop(connection, target, keep_table)
    call.console.say(f"dropped {target}")


def status(context: typer.Context) -> None:
    """Show the health of every rollup."""
    call = invocation(context)
    with call.installed() as connection:
        rows = rollups.monitor(connection)
    empty = "no rollups yet; make one with: tsrollup create"
    call.console.print_rows(rows, STATUS_FOR_PEOPLE, empty)


def log(
    context: typer.Context,
    target: AnyTarget = None,
    errors: Annotated[bool, typer.Option("--errors", help="Failures, not refreshes.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows to show.")] = 20,
) -> None:
    """Show the newest refreshes, or failures."""
    call = invocation(context)
    with call.installed() as connection:
        rows = rollups.log(connection, target, errors, limit)
    if errors:
        call.console.print_rows(rows, FAILURES_FOR_PEOPLE, empty="no failures")
    else:
        call.console.print_rows(rows, REFRESHES_FOR_PEOPLE, empty="nothing was refreshed yet")


def _print_summaries(console: Console, summaries: list[rollups.RunSummary]) -> None:
    rows = [asdict(summary) for summary in summaries]
    console.print_rows(rows, SUMMARY_FOR_PEOPLE, empty="no rollups to run")
    failed = [summary for summary in summaries if summary.error]
    if failed:
        raise TsrollupError(
            f"{len(failed)} of {len(summaries)} rollups failed, first {failed[0].target}:"
            f" {failed[0].error}",
            "see tsrollup log --errors",
        )


def _parse_metrics(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        metrics = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--metrics") from error
    if not isinstance(metrics, dict):
        raise typer.BadParameter("not a JSON object", param_hint="--metrics")
    return metrics


def _with_progress(
    console: Console, connection: Connection[Any], target: str | None
) -> Iterator[rollups.Batch]:
    shown = console.talk.is_terminal and not console.as_json
    with progress(console.talk, "buckets", transient=True, disable=not shown) as bar:
        total = rollups.stale_buckets(connection, target) if shown else None
        task = bar.add_task("refreshing", total=total)
        for batch in rollups.run(connection, target):
            bar.advance(task, batch.buckets)
            yield batch
