"""The Python API: tsrollup.connect() and what it gives."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row, tuple_row

from tsrollup import archives, declarations, declared, embedded, reading, rollups, runs
from tsrollup.connection import connect as connect_to
from tsrollup.connection import describe, pinned, read_url, take_every_time
from tsrollup.errors import ArgumentError, NotFoundError, TsrollupError
from tsrollup.installation import require_installed
from tsrollup.migrations import migrate_project

Connection = psycopg.Connection[Any]
Time = datetime | str
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Batch(runs.Batch):
    """What became of a batch, and how far the run is: buckets that are done, and that were to be
    done as far as was known."""

    done: int
    total: int

    @property
    def progress(self) -> float:
        """0 to 1."""
        return self.done / self.total if self.total else 1.0


@dataclass(frozen=True)
class Status:
    """A row of silver.timeseries_operations_monitor."""

    target_table: str
    source_table: str
    health: str
    """ok, lagging, waiting_for_parent, retrying, parked, paused or invalid."""
    reason: str | None
    next_step: str | None
    stale_since: datetime | None
    """Since when the oldest change waits that was to be stored by now."""
    stale_ranges: int | None
    stale_buckets: int | None
    lag: timedelta | None
    rows_per_second: float | None
    success_rate: float | None
    time_to_catch_up: timedelta | None
    running_since: datetime | None
    last_run_at: datetime | None
    next_retry_at: datetime | None
    last_error: str | None
    sealed_late_rows: int
    exact_since: datetime | None


class Rollup:
    """A rollup of a database. Its table holds partial states; read() asks its live view."""

    def __init__(self, database: "Database", table: str, view: str) -> None:
        self.database = database
        self.table = table
        self.view = view

    def __repr__(self) -> str:
        return f"<Rollup {self.table}>"

    def status(self) -> Status:
        """How it is doing."""
        for row in self.database._do(rollups.monitor):
            if row["target_table"] == self.table:
                if "running_since" not in row:  # somebody read it while migrate went on
                    raise TsrollupError(
                        "the monitor is still that of an earlier release", "run tsrollup migrate"
                    )
                return Status(**{field.name: row[field.name] for field in fields(Status)})
        raise NotFoundError(f"there is no rollup {self.table}", "it was dropped, or renamed")

    def definition(self) -> dict[str, Any]:
        """What it computes, and the GROUP BY that it stands for."""
        return self.database._do(rollups.definition, self.table)

    def refresh(self, start: Time, end: Time) -> list[runs.RunSummary]:
        """Recompute a range, stale or not, after what is stale of its parents there."""
        return self.database._do(runs.refresh, self.table, start, end)

    def read(
        self,
        start: Time | None = None,
        end: Time | None = None,
        *,
        where: reading.Where | None = None,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        gapfill: Mapping[str, str] | bool = False,
    ) -> reading.Rows:
        """Buckets from `start` up to before `end`, oldest first: exact, whatever is stored.

        `where` takes a value of a dimension, several in a list, or None. With `gapfill` there is a
        row for every bucket and group between `start` and `end`; a mapping such as
        {"temp_avg": "locf", "temp_max": "linear"} fills what is missing.
        """

        def fetch(connection: Connection) -> reading.Rows:
            wanted = reading.query(
                connection, self.table, start, end, where, columns, limit, gapfill
            )
            return reading.fetch(connection, wanted)

        return self.database._do(fetch)

    def mark_stale(self, start: Time, end: Time) -> None:
        """Have a range recomputed by the next run."""
        self.database.mark_stale(self.table, start, end)

    def pause(self) -> None:
        """Stop refreshing it; changes are still captured, and reads stay exact."""
        self._call("pause_rollup")

    def resume(self) -> None:
        """Take it up again after pause()."""
        self._call("resume_rollup")

    def retry(self) -> None:
        """Forget its failures, so that the next run takes it up; the way out of parked."""
        self._call("reset_rollup_retry")

    def rebuild(self) -> None:
        """Give it the types that its source has now, and have all of it recomputed."""
        self._call("rebuild_rollup")

    def add_metric(
        self, metrics: Mapping[str, Any], *, expressions: Mapping[str, str] | None = None
    ) -> None:
        """Add aggregates, as {"temp": ["max"]}, of columns or new expressions; all of it is
        recomputed."""
        self._call("add_rollup_metric", metrics=metrics, expressions=expressions)

    def drop_metric(self, metrics: Mapping[str, Any]) -> None:
        """Take aggregates out."""
        self._call("drop_rollup_metric", metrics=metrics)

    def alter(self, /, *, new_name: str | None = None, **options: Any) -> None:
        """Change options, such as settle_delay="5 minutes", or the name."""
        given = {**options, "new_name": new_name}
        self.table, self.view = self.database._do(rollups.alter, self.table, given)

    def drop(self, *, keep_table: bool = False) -> None:
        """Drop it, its live view and, unless it is to be kept, its table."""
        self.database._do(rollups.drop, self.table, keep_table)

    def _call(self, function: str, **arguments: Any) -> None:
        self.database.call(function, target=self.table, **arguments)


class Database:
    """A database with, or for, tsrollup. Close it, or use it in a with statement.

    Every failure is a TsrollupError, of the class of its TR code.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: psycopg.Connection[dict[str, Any]] = connect_to(url, row_factory=dict_row)
        take_every_time(self.connection)
        self._is_checked = False
        self.stop = threading.Event()
        """Set from another thread, it ends archiving, restoring and verifying at the next step."""
        self.archive = archives.Archive(self._do, self.stop)

    def __enter__(self) -> "Database":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self.connection.close()

    def migrate(self) -> int:
        """Apply the pending migrations; how many there were."""
        with _told():
            results = migrate_project(self.url)
        return sum(result.migrations_executed for result in results.values())

    @property
    def version(self) -> str:
        """The release that the database is migrated to."""
        return str(self.call("version")[0]["version"])

    def create_rollup(
        self,
        /,
        source: str,
        target: str,
        width: str | timedelta,
        *,
        dimensions: Sequence[str] | None = None,
        metrics: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Rollup:
        """Create a rollup of a table (default schema raw), or of another rollup; run() fills it.

        `target` is its table (default schema silver). `options` are the further arguments of
        silver.create_rollup_table, such as timezone="Europe/Berlin" or settle_delay="5 minutes".
        """
        given = {
            **options,
            "dimensions": None if dimensions is None else rollups.listed("dimensions", dimensions),
            "metrics": metrics,
        }

        def create(connection: Connection) -> str:
            schema, table = rollups.split_target(connection, target)
            return rollups.create(connection, source, schema, table, width, given)

        return self.rollup(self._do(create))

    def rollups(self) -> list[Rollup]:
        """All of them, parents first."""
        return [Rollup(self, *names) for names in self._do(_all_names)]

    def rollup(self, name: str) -> Rollup:
        """The one with that table, live view or bare name."""
        return Rollup(self, *self._do(rollups.names, name))

    def run(self, target: str | None = None) -> Iterator[Batch]:
        """Refresh what had settled when the run began, parents first, a transaction for each batch:
        one rollup, or all that are due. Nothing is done before the iteration begins."""
        total = self._do(runs.stale_buckets, target)
        done = 0
        with _told():
            for batch in runs.run(self.connection, target):
                done += batch.buckets
                yield Batch(**vars(batch), done=done, total=max(done, total))

    def mark_stale(self, table: str, start: Time, end: Time) -> None:
        """Have a range of a rollup, or of every rollup of a source, recomputed by the next run."""
        self.call("mark_stale", table_name=table, from_time=start, to_time=end)

    def set_retention(
        self, table: str, keep: str | timedelta | None, *, archive: bool = False
    ) -> None:
        """How long the rows of a source or a rollup are kept; None: for ever."""
        self.call("set_retention", table_name=table, keep=keep, archive=archive)

    def maintain(self, target: str | None = None) -> list[dict[str, Any]]:
        """Partitions, retention, statistics and logs, now; what was done."""
        return self.call("maintain_timeseries_tables", target=target)

    def plan(self, file: str | Path, *, prune: bool = False) -> declared.Plan:
        """What has to change for the rollups to be as a file declares them; print it."""
        return self._do(declared.plan, declarations.read(Path(file)), prune)

    def apply(self, plan: declared.Plan, *, allow_loss: bool = False) -> None:
        """Make the changes of a plan, in one transaction; those that lose data only if told, and
        none where it would be another plan by now."""
        if not isinstance(plan, declared.Plan):
            raise ArgumentError(f"{plan!r} is no plan", "apply what plan() gave")
        self._do(declared.apply, plan.declared, plan.prune, allow_loss, plan)

    def call(self, function: str, /, **arguments: Any) -> list[dict[str, Any]]:
        """The rows of any function of schema silver."""

        def rows(connection: Connection) -> list[dict[str, Any]]:
            return rollups.call(connection, function, **arguments)

        return self._do(rows)

    def _do(
        self,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        with _told():
            if not self._is_checked:
                require_installed(self.connection)
                self._is_checked = True
            return work(self.connection, *args, **kwargs)


def connect(url: str | None = None, **libpq: Any) -> Database:
    """Connect to a URL or connection string, else to TSROLLUP_URL, else to the embedded server,
    which is started. Further parameters of libpq as keywords: host="db1", dbname="metrics"."""
    with _told():
        if url is None and not libpq:
            url = os.environ.get("TSROLLUP_URL") or embedded.start().url
        return Database(make_conninfo("", **{**read_url(url or ""), **libpq}))


@contextmanager
def _told() -> Iterator[None]:
    """What the server and the operating system report, as TsrollupError."""
    try:
        yield
    except (psycopg.Error, OSError, UnicodeError) as error:
        raise describe(error) from error


def _all_names(connection: Connection) -> list[tuple[str, str]]:
    with pinned(connection), connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(
            "SELECT target_table::text, target_view::text FROM silver.rollup_config"
            " ORDER BY depth, id"
        ).fetchall()
