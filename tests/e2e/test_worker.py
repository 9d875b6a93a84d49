"""The worker: promise i, a crash of the server, after which it goes on where it was; its log."""

import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from command_line import tsrollup, wait_for, working
from servers import PostgresServer, new_pool_folder
from tsrollup import embedded, lifeline, metrics
from tsrollup.commands.worker import TextLines
from tsrollup.migrations import migrate_project
from tsrollup.worker import Schedule, work

pytestmark = pytest.mark.spread


@pytest.fixture
def data_dir() -> Iterator[Path]:
    parent = new_pool_folder()
    yield parent / "data"
    embedded.stop(parent / "data")
    shutil.rmtree(parent)


def test_the_worker_survives_a_crash_of_the_server(data_dir: Path) -> None:
    url = embedded.start(data_dir).url
    migrate_project(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.events (ts timestamptz, n integer)")
    tsrollup("create", "events", "events_1h", "1 hour", url=url)
    with working(url, "--every", "0.1") as (_, lines):
        insert_and_wait(url, "2026-01-01 00:30+00")
        postmaster = embedded.status(data_dir).pid
        assert postmaster
        os.kill(postmaster, signal.SIGKILL)
        for seconds in (1, 2):
            wait_for(lines, f"trying again in {seconds} s")
        assert embedded.start(data_dir).url == url
        insert_and_wait(url, "2026-01-01 05:30+00")
    assert any("reconnected" in line for line in lines)


def test_the_worker_waits_for_a_server_that_is_not_there_yet(data_dir: Path) -> None:
    url = embedded.start(data_dir).url
    migrate_project(url)
    embedded.stop(data_dir)
    with working(url, "--every", "0.1") as (_, lines):
        told = wait_for(lines, "trying again in 2 s")
        known = conninfo_to_dict(url)
        assert f"database {known['dbname']} on {known['host']}:{known['port']}: " in told
        assert "Connection refused" in told
        assert embedded.start(data_dir).url == url
        wait_for(lines, "working on database")
    assert str(known["password"]) not in "".join(lines)


def test_the_worker_waits_for_a_primary_and_for_room_but_not_for_what_never_comes(
    server: PostgresServer, database: str, url: str
) -> None:
    def alter(what: str) -> None:
        with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {database} {what}".encode())

    between = "?" if "?" not in url else "&"
    alter("SET default_transaction_read_only = on")
    with working(f"{url}{between}target_session_attrs=read-write") as (_, lines):
        assert "session is read-only" in wait_for(lines, "trying again in 1 s")
        alter("RESET default_transaction_read_only")
        alter("CONNECTION LIMIT 0")
        if server.user != server.superuser:  # whom no limit holds
            wait_for(lines, "too many connections")
            alter("CONNECTION LIMIT -1")
        wait_for(lines, "working on database")
    alter("CONNECTION LIMIT -1")
    gone = tsrollup("worker", url=server.url(f"{database}_x"))
    assert (gone.code, f"{database}_x" in gone.err) == (1, True)


class Wire:
    """A way to a server that loses everything while `is_cut`, and says nothing of it."""

    def __init__(self, host: str, port: int) -> None:
        self.to = (host, port)
        self.is_cut = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets = [self.listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.to)
                self.sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while block := one.recv(65536):
                if self.is_cut.is_set():
                    return
                other.sendall(block)
            if not self.is_cut.is_set():
                other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in self.sockets:
            each.close()


@pytest.mark.parametrize("stops", [False, True])
def test_a_server_that_hangs_is_left(
    url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    stops: bool,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lifeline, "SECONDS_TO_ANSWER", 1)
    if not stops:
        monkeypatch.setattr(lifeline, "SECONDS_BETWEEN", 0.2)
        monkeypatch.setattr(metrics, "SECONDS_TO_WAIT", 0.1)

    def wait_until_said(text: str) -> None:
        deadline = time.monotonic() + 30
        while not any(text in said for said in caplog.messages):
            assert time.monotonic() < deadline, caplog.messages
            time.sleep(0.02)

    def wait_until_up() -> None:  # a busy machine may be silent as well
        deadline = time.monotonic() + 30
        while not next(iter(exporter.collect())).samples[0].value:
            assert time.monotonic() < deadline, caplog.messages

    known = conninfo_to_dict(url)
    stop = threading.Event()
    with closing(Wire(str(known["host"]), int(known["port"] or 0))) as wire:
        through = make_conninfo(url, host="127.0.0.1", port=wire.port)
        with lifeline.Lifeline(stop) as life:
            exporter = metrics.Exporter(through, life)
            worker = threading.Thread(
                target=work, args=(through, Schedule(run=0.1, listen=True), life)
            )
            worker.start()
            insert_and_wait(url, "2026-01-01 00:30+00")
            wait_until_up()
            wire.is_cut.set()
            time.sleep(0.3)  # until it waits
            if stops:
                stop.set()
                worker.join(20)
            else:
                scrape = threading.Thread(target=lambda: list(exporter.collect()))
                scrape.start()
                assert next(iter(exporter.collect())).samples[0].value == 0
                wait_until_said("does not answer: hanging up")
                wait_until_said("trying again in")
                scrape.join(20)
                assert not scrape.is_alive()
                wire.is_cut.clear()
                wait_until_said("reconnected")
                insert_and_wait(url, "2026-01-01 05:30+00")
                wait_until_up()
                stop.set()
                worker.join(60)
            exporter.disconnect()
        assert not worker.is_alive()


class Picky(Wire):
    """A proxy that lets in who begins with a startup packet of version 3.0, and nobody else."""

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        is_near = one.getsockname()[1] == self.port
        if is_near and one.recv(8, socket.MSG_PEEK)[4:] != b"\0\3\0\0":
            one.shutdown(socket.SHUT_RDWR)
        super()._carry(one, other)


def test_a_server_that_answers_otherwise_is_not_left(
    server: PostgresServer,
    database: str,
    url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifeline, "SECONDS_BETWEEN", 0.05)
    known = conninfo_to_dict(url)
    with (
        closing(Picky(str(known["host"]), int(known["port"] or 0))) as proxy,
        lifeline.Lifeline(threading.Event()) as life,
        psycopg.connect(
            make_conninfo(url, host="127.0.0.1", port=proxy.port, sslmode="disable")
        ) as connection,
        life.of(connection),
    ):
        connection.execute("SELECT pg_sleep(0.5)")
        with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as other:
            other.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false".encode())
        connection.execute("SELECT pg_sleep(0.5)")
    assert caplog.messages == []


def insert_and_wait(url: str, time: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO raw.events VALUES (%s, 1)", [time])
        found = (
            "SELECT count(*) FROM silver.events_1h"
            " WHERE bucket = silver.time_bucket('1 hour', %s::timestamptz)"
        )
        while connection.execute(found, [time]).fetchone() != (1,):
            connection.execute("SELECT pg_sleep(0.05)")


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.events (ts timestamptz, n integer)")
        connection.execute(
            "SELECT silver.create_rollup_table('events', 'silver', 'events_1h', '1 hour')"
        )
    return server.url(database)


def test_failures_are_logged_with_code_and_hint(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE silver.events_1h ADD CHECK (n_sum < 0) NOT VALID")
        connection.execute("INSERT INTO raw.events VALUES ('2026-01-01', 1)")
    with working(url, "--every", "0.1", "--log-format", "json") as (_, lines):
        told = json.loads(wait_for(lines, "23514"))
        assert told["level"] == "warning"
        assert told["code"] == "23514"
        assert told["message"].startswith("rollup silver.events_1h failed: bucket 2026-01-01")
        assert "silver.reset_rollup_retry" in told["hint"]
        assert told["time"].endswith("Z")
    assert json.loads(lines[-1])["message"] == "stopped", lines
    assert sum("23514" in line for line in lines) == 1, "said once"


def test_batches_and_summaries_are_logged_and_that_it_is_alive(url: str) -> None:
    options = ("--every", "0.1", "--summary-every", "1", "--log-level", "debug")
    with working(url, *options, "--log-format", "json") as (_, lines):
        insert_and_wait(url, "2026-01-01 00:30+00")
        batch = json.loads(wait_for(lines, "): 1 buckets, 1 rows written"))
        assert (batch["level"], batch["target"], batch["rows_written"]) == (
            "debug",
            "silver.events_1h",
            1,
        )
        summary = json.loads(wait_for(lines, "1 batches, 1 buckets, 1 rows written, 0 deleted"))
        assert (summary["level"], summary["batches"]) == ("info", 1)
        wait_for(lines, "alive; nothing was to be refreshed in the last")


def test_what_was_refreshed_last_is_logged_at_the_end(url: str) -> None:
    with working(url, "--every", "0.1") as (_, lines):
        insert_and_wait(url, "2026-01-01 00:30+00")
    told = [line for line in lines if "1 batches, 1 buckets, 1 rows written" in line]
    assert len(told) == 1, lines


def test_what_maintenance_skips_is_logged_once_for_as_long_as_it_is_so(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(url) as holder:
        connection.execute("CREATE TABLE raw.s (ts timestamptz NOT NULL) PARTITION BY RANGE (ts)")
        connection.execute(
            "CREATE TABLE raw.s_1 PARTITION OF raw.s"
            " FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')"
        )
        connection.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')")
        connection.execute("CALL silver.run_rollups(as_of => 'infinity')")
        connection.execute("SELECT silver.set_retention('raw.s', '3 days')")
        connection.execute("SELECT * FROM silver.maintain_timeseries_tables()")
        holder.execute("LOCK TABLE raw.s_1 IN ACCESS SHARE MODE")
        with working(url, "--maintain-every", "1") as (_, lines):
            told = wait_for(lines, "raw.s: skipped: ")
            time.sleep(4)
            assert lines.count(told) == 1
            assert [line for line in lines if "raw.s: skipped: " in line] == [told]
            holder.rollback()
            wait_for(lines, "raw.s: dropped: ")


def test_the_check_knows_whether_a_worker_is_there(url: str) -> None:
    missing = tsrollup("worker", "--check", url=url)
    assert (missing.code, "no worker is connected" in missing.err) == (1, True)
    with working(url, "--jobs", "2") as (_, lines):
        wait_for(lines, "working on database")
        with psycopg.connect(url, autocommit=True) as connection:
            sessions = (
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tsrollup worker'"
                " AND datname = current_database()"
            )
            while connection.execute(sessions).fetchone() != (3,):
                time.sleep(0.02)
        found = tsrollup("worker", "--check", "--json", url=url)
        assert (found.code, "3 sessions" in found.json()["status"]) == (0, True)


def test_a_worker_that_has_little_to_do_shows_that_it_lives(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsrollup.worker.SIGN_OF_LIFE_EVERY", 0.05)
    shown = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'tsrollup worker'"
        " AND datname = current_database() AND query = 'SELECT ''at work'''"
    )
    stop = threading.Event()
    with lifeline.Lifeline(stop) as life, psycopg.connect(url, autocommit=True) as connection:
        worker = threading.Thread(target=work, args=(url, Schedule(3600, 3600, 3600, 3600), life))
        worker.start()
        deadline = time.monotonic() + 30
        while connection.execute(shown).fetchone() != (True,) and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()
        worker.join()
    assert time.monotonic() < deadline


def test_a_line_of_the_log_is_a_line() -> None:
    record = logging.makeLogRecord({"msg": "%s works again", "args": ('silver."a\nb\x1b"',)})
    assert TextLines("> %(message)s").format(record) == '> silver."a\\nb\\x1B" works again'


def test_a_notification_starts_a_run(url: str) -> None:
    with working(url, "--every", "3600", "--listen") as (_, lines):
        wait_for(lines, "working on database")
        with psycopg.connect(url, autocommit=True) as connection:
            listening = (
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE query = 'LISTEN tsrollup'"
                " AND datname = current_database()"
            )
            while connection.execute(listening).fetchone() != (True,):
                time.sleep(0.02)
            time.sleep(1)  # for the run that the LISTEN itself started
            connection.execute("INSERT INTO raw.events VALUES ('2026-01-01', 1)")
            connection.execute("NOTIFY tsrollup")
            began = time.monotonic()
            while connection.execute("SELECT count(*) FROM silver.events_1h").fetchone() != (1,):
                assert time.monotonic() < began + 10
                time.sleep(0.02)


def test_a_connection_that_is_cut_is_made_anew(url: str) -> None:
    with working(url, "--every", "0.1") as (_, lines):
        wait_for(lines, "working on database")
        with psycopg.connect(url, autocommit=True) as connection:
            cut = (
                "SELECT count(pg_terminate_backend(pid)) > 1 FROM pg_stat_activity"
                " WHERE application_name = 'tsrollup worker' AND datname = current_database()"
            )
            while connection.execute(cut).fetchone() != (True,):
                time.sleep(0.02)
        assert "trying again" in wait_for(lines, "trying again")
        wait_for(lines, "reconnected")


def test_a_run_that_has_more_to_do_goes_on_at_once_and_ends_after_its_batch(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO raw.events SELECT t, 1 FROM generate_series("
            "timestamptz '2025-01-01', '2026-01-01', '1 minute') AS t"
        )
        connection.execute("UPDATE silver.rollup_config SET processing_window = '1 day'")
        with working(url, "--every", "3600", "--budget", "0.1") as (worker, _):
            some = "SELECT count(*) > 500 FROM silver.events_1h"
            while connection.execute(some).fetchone() != (True,):
                time.sleep(0.02)
            worker.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert worker.wait(60) == 0
            assert time.monotonic() < began + 10
        assert connection.execute("SELECT status FROM silver.rollup_config").fetchone() == (
            "active",
        )
