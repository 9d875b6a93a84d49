"""The scheduler for servers without pg_cron: it calls the SQL API on a schedule, until stopped.

Each of its connections is a thread of its own: one for retries and maintenance, `jobs` for runs,
and one that listens, and one that archives, where that is asked for.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.errors import Diagnostic
from psycopg.rows import dict_row

from tsrollup import rollups
from tsrollup.archive.background import archive_until
from tsrollup.connection import CannotConnectError, connect, describe, pinned
from tsrollup.errors import TsrollupError
from tsrollup.installation import require_installed
from tsrollup.lifeline import Lifeline
from tsrollup.refreshed import Refreshed

log = logging.getLogger(__name__)

APPLICATION_NAME = "tsrollup worker"
CHANNEL = "tsrollup"
RECONNECT_DELAYS = (1.0, 2.0, 5.0, 10.0, 30.0)
SAY_AGAIN_AFTER = 60.0
SIGN_OF_LIFE_EVERY = 60.0  # check() waits for two

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Schedule:
    """Seconds between two calls of each job, and between two summaries; the most that a run takes
    before it is looked whether to stop; how many runs go on at once; whether NOTIFY starts one; and
    where what retention moved aside is archived to.
    """

    run: float = 2.0
    retries: float = 30.0
    maintenance: float = 3600.0
    summary: float = 60.0
    run_budget: float = 1.0
    jobs: int = 1
    listen: bool = False
    archive_to: str | None = None


@dataclass
class _Job:
    name: str
    every: float
    call: Callable[[Connection], object]
    due: float = 0.0


def work(url: str, schedule: Schedule, lifeline: Lifeline) -> None:
    """Work until its `stop` is set; a batch that runs then is finished first.

    A lost server is waited for. A failing job is logged and tried again when it is next due:
    what is wrong with a single rollup is in its error_log already.
    """
    _Worker(url, schedule, lifeline).work()


def wait_for_database(url: str, stop: threading.Event) -> str | None:
    """Its name, as soon as it lets us in; None where `stop` is set before. What waiting does not
    mend is an error."""
    failures = 0
    while not stop.is_set():
        try:
            with connect(url) as connection:
                require_installed(connection)
                return connection.info.dbname
        except CannotConnectError as error:
            if not error.may_pass:
                raise
            told: TsrollupError = error
        except psycopg.OperationalError as error:
            told = describe(error)
        delay = _delay(failures)
        failures += 1
        log.warning("%s; trying again in %.0f s", told, delay)
        stop.wait(delay)
    return None


def _delay(failures: int) -> float:
    return RECONNECT_DELAYS[min(failures, len(RECONNECT_DELAYS) - 1)]


def check(connection: Connection) -> str:
    """What a worker on this database does; an error where none does anything."""
    with pinned(connection), connection.cursor(row_factory=dict_row) as cursor:
        # What a session does is hidden from other roles; that it is there is not.
        rows = cursor.execute(
            "SELECT pid, state, now() - state_change AS since,"
            " state = 'active' OR state_change IS NULL OR state_change > now() - interval '2 min'"
            "  AS is_alive"
            " FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database() ORDER BY since",
            [APPLICATION_NAME],
        ).fetchall()
    if not any(row["is_alive"] for row in rows):
        raise TsrollupError(
            f"the worker of session {rows[0]['pid']} has done nothing for {rows[0]['since']}"
            if rows
            else f"no worker is connected to database {connection.info.dbname}",
            "start tsrollup worker, and look at its log",
        )
    return f"{len(rows)} sessions of workers are at work on database {connection.info.dbname}"


class _Worker:
    def __init__(self, url: str, schedule: Schedule, lifeline: Lifeline) -> None:
        self.url = url
        self.schedule = schedule
        self.lifeline = lifeline
        self.stop = lifeline.stop
        self.is_maintained = threading.Event()
        self.nudges = [threading.Event() for _ in range(schedule.jobs)]
        self.said: dict[str, float] = {}
        self.skipped: set[str] = set()
        self.is_broken = False
        self.summary: Refreshed | None = None

    def work(self) -> None:
        threads = [
            threading.Thread(target=self._keep_connected, args=(body,))
            for body in [
                *(lambda c, n=nudge: self._run_again_and_again(c, n) for nudge in self.nudges),
                *([self._listen] if self.schedule.listen else []),
                *([self._archive] if self.schedule.archive_to else []),
            ]
        ]
        for thread in threads:
            thread.start()
        self._keep_connected(self._look_after)
        self._nudge()
        self.is_maintained.set()
        for thread in threads:
            thread.join()
        if self.is_broken:
            raise TsrollupError(
                "the worker ended, see above", "please report it, and start another"
            )

    def _keep_connected(self, body: Callable[[Connection], None]) -> None:
        failures = 0
        while not self.stop.is_set():
            try:
                with (
                    connect(self.url, application_name=APPLICATION_NAME) as connection,
                    self.lifeline.of(connection),
                ):
                    require_installed(connection)
                    _refuse_standby(connection)
                    if failures:
                        self._say(logging.INFO, "reconnected")
                    failures = 0
                    body(connection)
            except (psycopg.Error, TsrollupError, OSError, UnicodeError) as error:
                known = error if isinstance(error, TsrollupError) else describe(error)
                delay = _delay(failures)
                failures += 1
                self._say(logging.WARNING, f"{known}; trying again in {delay:.0f} s")
                self.stop.wait(delay * random.uniform(0.8, 1.0))
            except Exception:  # of which nobody would hear in a thread, while the others go on
                log.exception("this should not happen: the worker ends")
                self.is_broken = True
                self.stop.set()

    def _run_again_and_again(self, connection: Connection, nudge: threading.Event) -> None:
        warned: list[tuple[str, str]] = []

        def note(notice: Diagnostic) -> None:
            if notice.severity_nonlocalized == "WARNING":
                warned.append((notice.message_primary or "", notice.sqlstate or ""))

        connection.add_notice_handler(note)
        while not self.stop.is_set():
            nudge.clear()
            began = time.monotonic()
            self._attempt("run_rollups", connection, self._run_rollups)
            self._say_failures(connection, warned)
            _refuse_standby(connection)
            took = time.monotonic() - began
            # What a run had no time for is taken up at once.
            if took < self.schedule.run_budget:
                nudge.wait(max(0.0, self.schedule.run - took))

    def _look_after(self, connection: Connection) -> None:
        every = self.schedule
        self.summary = self.summary or Refreshed(connection)
        jobs = [
            _Job("summary", every.summary, self.summary.say_all, time.monotonic() + every.summary),
            _Job("handle_rollup_retries", every.retries, self._retry),
            _Job("maintain_timeseries_tables", every.maintenance, self._maintain),
            _Job("sign of life", SIGN_OF_LIFE_EVERY, lambda c: c.execute("SELECT 'at work'")),
        ]
        if log.isEnabledFor(logging.DEBUG):
            jobs.append(_Job("batches", every.run, Refreshed(connection).say_each))
        while not self.stop.is_set():
            for job in jobs:
                if job.due <= time.monotonic() and not self.stop.is_set():
                    job.due = time.monotonic() + job.every
                    self._attempt(job.name, connection, job.call)
            self.stop.wait(max(0.0, min(job.due for job in jobs) - time.monotonic()))
        self._attempt("summary", connection, self.summary.say_last)

    def _listen(self, connection: Connection) -> None:
        connection.execute(f"LISTEN {CHANNEL}".encode())
        self._nudge()  # for what came before
        while not self.stop.is_set():
            for _ in connection.notifies(timeout=0.5, stop_after=1):
                self._nudge()

    def _archive(self, connection: Connection) -> None:
        to = self.schedule.archive_to or ""
        while self.is_maintained.wait() and not self.stop.is_set():
            self.is_maintained.clear()
            archive_until(connection, to, self.stop, self._say)

    def _nudge(self) -> None:
        for nudge in self.nudges:
            nudge.set()

    def _attempt(
        self, name: str, connection: Connection, call: Callable[[Connection], object]
    ) -> None:
        try:
            call(connection)
        except psycopg.Error as error:
            if connection.closed:
                raise
            self._say(logging.WARNING, f"{name} failed: {describe(error)}")

    def _run_rollups(self, connection: Connection) -> None:
        # Commits, so nothing is pinned around it: the call looks no name up outside of silver.
        budget = timedelta(seconds=self.schedule.run_budget)
        connection.execute("CALL silver.run_rollups(time_budget => %s)", [budget])

    def _retry(self, connection: Connection) -> None:
        for row in rollups.call(connection, "handle_rollup_retries"):
            if row["error_code"]:
                text = f"rollup {row['target']} failed: {row['error_message']}"
                self._say_failure(connection, text, row["error_code"])
            else:
                log.info("%s works again", row["target"], extra={"target": row["target"]})

    def _maintain(self, connection: Connection) -> None:
        skipped = set()
        for row in rollups.call(connection, "maintain_timeseries_tables"):
            facts = {"target": row["target"], "action": row["action"]}
            text = "{target}: {action}: {detail}".format_map(row)
            if row["action"] == "skipped":
                skipped.add(text)
            if row["action"] != "analyzed" and text not in self.skipped:
                log.info("%s", text, extra=facts)
        self.skipped = skipped  # said once, for as long as it is so

        self.is_maintained.set()

    def _say_failures(self, connection: Connection, warned: list[tuple[str, str]]) -> None:
        """What a run warned of: rollups that failed, each with the hint that is on record."""
        while warned:
            self._say_failure(connection, *warned.pop(0))

    def _say_failure(self, connection: Connection, text: str, code: str) -> None:
        with pinned(connection):
            found = connection.execute(
                "SELECT hint FROM silver.error_log WHERE occurred_at > now() - interval '5 min'"
                " AND error_code = %s AND strpos(%s, error_message) > 0 ORDER BY id DESC LIMIT 1",
                [code, text],
            ).fetchone()
        hint = found[0] if found else None
        told = f"{text} [{code}]" + (f" ({hint})" if hint else "")
        self._say(logging.WARNING, told, code=code, hint=hint)

    def _say(self, level: int, text: str, **facts: Any) -> None:
        """The same from several connections, or again and again, is said once a minute."""
        now = time.monotonic()
        if now - self.said.get(text, -SAY_AGAIN_AFTER) >= SAY_AGAIN_AFTER:
            self.said = {t: at for t, at in self.said.items() if now - at < SAY_AGAIN_AFTER}
            self.said[text] = now
            log.log(level, text, extra=facts)


def _refuse_standby(connection: Connection) -> None:
    """A server of a cluster that is no longer the primary, or not yet: another is to be found."""
    if connection.info.parameter_status("in_hot_standby") == "on":
        raise TsrollupError(
            f"{connection.info.host} is a standby, where nothing can be stored",
            "give all hosts in the URL, with target_session_attrs=read-write",
        )
