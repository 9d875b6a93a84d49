"""Promise i: a hot standby answers as its primary does, and takes over from it."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from command_line import wait_for, working
from interleaving import Background
from raw_tables import LEVELS, create_hierarchy
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import SETTINGS, PostgresServer, bindir_of, free_port, new_pool_folder
from tsrollup import runs
from tsrollup.embedded.account import account_for

ROUNDS = 25


@dataclass(frozen=True)
class Pair:
    """Two servers, the second one a copy that follows the first."""

    primary_url: str
    standby_url: str
    superuser: str

    def catch_up(self, primary: psycopg.Connection[Any], standby: psycopg.Connection[Any]) -> None:
        row = primary.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        while standby.execute(
            "SELECT pg_last_wal_replay_lsn() >= %s, pg_sleep(0.01)", row
        ).fetchone() == (False, ""):
            pass


@pytest.fixture
def pair(private_server: tuple[PostgresServer, str]) -> Iterator[Pair]:
    server, database = private_server
    assert server.data_dir
    folder = new_pool_folder()
    account, programs, port = account_for(Path(server.data_dir)), bindir_of(server), free_port()
    account.own(folder)

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, "-D", folder / "standby", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            **account.subprocess_arguments(),
        )
        assert done.returncode == 0, done.stdout + (folder / "standby.log").read_text()

    run("pg_basebackup", "-R", "-c", "fast", "-d", server.superuser_url("postgres"))
    settings = SETTINGS | {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1"}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    log = str(folder / "standby.log")
    run("pg_ctl", "start", "-w", "-l", log, "-o", f"-p {port} -k '' {options}")
    standby = replace(server, conninfo=f"host=127.0.0.1 port={port}")
    yield Pair(server.url(database), standby.url(database), server.superuser)
    run("pg_ctl", "stop", "-w", "-m", "immediate")
    shutil.rmtree(folder)


def write_and_refresh(url: str, done: threading.Event) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        while not done.is_set():
            connection.execute(
                "INSERT INTO raw.readings SELECT ts + interval '7 seconds', device, count, amount,"
                " level, note FROM raw.readings ORDER BY random() LIMIT 20"
            )
            connection.execute("CALL silver.run_rollups(as_of => 'infinity')")
            connection.execute("UPDATE raw.readings SET count = count + 1 WHERE random() < 0.02")
            connection.execute("DELETE FROM raw.readings WHERE random() < 0.02")


def test_promise_i_a_standby_answers_and_takes_over(pair: Pair) -> None:
    with (
        psycopg.connect(pair.primary_url, autocommit=True) as primary,
        psycopg.connect(pair.standby_url, autocommit=True) as standby,
    ):
        create_hierarchy(primary)
        refresh_everything(primary)
        pair.catch_up(primary, standby)
        done = threading.Event()
        writer = threading.Thread(target=write_and_refresh, args=(pair.primary_url, done))
        writer.start()
        try:
            standby.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            for _ in range(ROUNDS):
                with standby.transaction():
                    assert_equal_to_group_by(standby, *LEVELS)
        finally:
            standby.isolation_level = None
            done.set()
            writer.join()
        primary.execute("DELETE FROM raw.readings WHERE device = 'd1'")
        pair.catch_up(primary, standby)
        assert_equal_to_group_by(standby, *LEVELS)

        notices: list[str] = []
        standby.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        for work in (
            "CALL silver.run_rollups()",
            "SELECT * FROM silver.perform_rollup()",
            "SELECT * FROM silver.maintain_timeseries_tables()",
        ):
            standby.execute(work.encode())
        assert list(runs.run(standby)) == []
        assert notices == ["this server is a standby: its primary does the work"] * 4

        with psycopg.connect(pair.standby_url, user=pair.superuser) as administrator:
            administrator.execute("SELECT pg_promote()")
        assert_equal_to_group_by(standby, *LEVELS)
        standby.execute("UPDATE raw.readings SET count = 3 WHERE device = 'd2'")
        assert_equal_to_group_by(standby, *LEVELS)
        refresh_everything(standby)
        assert_settled(standby, *LEVELS)


def test_promise_c_a_prepared_writer_to_the_tail_outlives_a_failover(pair: Pair) -> None:
    """Its locks have another virtual number where it is recovered."""
    insert = (
        "INSERT INTO raw.readings (ts, device, count) VALUES ('2026-03-02 04:00:{}+00', 'd1', 1)"
    )
    run = "CALL silver.run_rollups(as_of => '2026-03-02 04:{}+00')"
    waits = "SELECT FROM rollup_engine.tail WHERE cardinality(writers) = 1"
    with (
        psycopg.connect(pair.primary_url, autocommit=True) as primary,
        psycopg.connect(pair.primary_url) as writer,
        psycopg.connect(pair.standby_url, autocommit=True) as standby,
    ):
        create_hierarchy(primary)
        refresh_everything(primary)
        primary.execute(insert.format("10").encode())
        primary.execute(run.format("00").encode())
        writer.execute(insert.format("20").encode())
        writer.execute("PREPARE TRANSACTION 'written to the tail'")
        for _ in range(2):
            primary.execute(run.format("10").encode())
        assert primary.execute(waits).rowcount == 1
        pair.catch_up(primary, standby)
        with psycopg.connect(pair.standby_url, user=pair.superuser) as administrator:
            administrator.execute("SELECT pg_promote()")
        standby.execute(run.format("10").encode())
        assert standby.execute(waits).rowcount == 1
        standby.execute("COMMIT PREPARED 'written to the tail'")
        for _ in range(2):
            standby.execute(run.format("10").encode())
        assert_equal_to_group_by(standby, *LEVELS)
        assert standby.execute("SELECT FROM rollup_engine.tail WHERE writers <> '{}'").rowcount == 0


def test_a_worker_waits_for_its_server_to_be_promoted(pair: Pair) -> None:
    with (
        psycopg.connect(pair.primary_url, autocommit=True) as primary,
        psycopg.connect(pair.standby_url, autocommit=True) as standby,
    ):
        create_hierarchy(primary)
        pair.catch_up(primary, standby)
        with working(pair.standby_url, "--every", "0.1") as (_, lines):
            wait_for(lines, "is a standby, where nothing can be stored")
            with psycopg.connect(pair.standby_url, user=pair.superuser) as administrator:
                administrator.execute("SELECT pg_promote()")
            wait_for(lines, "reconnected")
            stored = "SELECT count(*) > 0 FROM silver.readings_1m"
            while standby.execute(stored).fetchone() != (True,):
                standby.execute("SELECT pg_sleep(0.05)")
            assert_equal_to_group_by(standby, *LEVELS)


def test_an_old_snapshot_on_a_standby_keeps_what_it_may_still_read(pair: Pair) -> None:
    with (
        psycopg.connect(pair.primary_url, autocommit=True) as primary,
        psycopg.connect(pair.standby_url) as standby,
    ):
        create_hierarchy(primary)
        primary.execute("SELECT silver.set_retention('readings', '10 days')")
        pair.catch_up(primary, standby)
        standby.rollback()
        standby.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        standby.execute("SELECT FROM pg_namespace")
        held = "SELECT FROM pg_stat_replication WHERE backend_xmin IS NOT NULL"
        while not primary.execute(held).rowcount:
            primary.execute("SELECT pg_sleep(0.01)")
        refresh_everything(primary)
        actions = [maintain(primary) for _ in range(3)]
        assert actions == [["sealed"], [], []]
        assert_equal_to_group_by(standby, *LEVELS)
        standby.commit()
        while maintain(primary) != ["dropped", "dropped"]:
            primary.execute("SELECT pg_sleep(0.01)")


def test_promise_b_a_standbys_reader_planned_before_a_partition_came(pair: Pair) -> None:
    """It holds no lock that the primary could see."""
    with (
        psycopg.connect(pair.primary_url, autocommit=True) as primary,
        psycopg.connect(pair.standby_url, autocommit=True) as standby,
        psycopg.connect(pair.standby_url, autocommit=True) as blocker,
        psycopg.connect(pair.standby_url, autocommit=True) as reader,
    ):
        primary.execute(
            "CREATE TABLE raw.t (ts timestamptz); INSERT INTO raw.t VALUES ('2020-05-05');"
            "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour');"
            "CREATE FUNCTION public.gate() RETURNS bigint LANGUAGE plpgsql STABLE AS"
            " 'BEGIN PERFORM pg_advisory_lock_shared(4711);"
            " PERFORM pg_advisory_unlock_shared(4711); RETURN 0; END'"
        )
        pair.catch_up(primary, standby)
        blocker.execute("SELECT pg_advisory_lock(4711)")
        query = "SELECT count(*) FROM gold.t_1h WHERE row_count > public.gate()"
        planned = Background(reader, query)
        planned.wait_until_blocked(standby)
        primary.execute("CALL silver.run_rollups()")
        pair.catch_up(primary, standby)
        assert_settled(standby, "t_1h")
        blocker.execute("SELECT pg_advisory_unlock(4711)")
        assert planned.result() == [(1,)]


def maintain(connection: psycopg.Connection[Any]) -> list[str]:
    rows = connection.execute(
        "SELECT action FROM rollup_engine.run_maintenance('raw.readings', '2026-04-01')"
        " WHERE action IN ('sealed', 'dropped')"
    ).fetchall()
    return [action for (action,) in rows]
