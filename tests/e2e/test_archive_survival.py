"""Interrupted anywhere nothing of an archive is lost, and doing it again works."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyarrow import parquet

import cold_tables
from cold_tables import archive_all, content, move_aside, restore_all
from conftest import Connect
from servers import PostgresServer
from tsrollup.archive import moving, storage
from tsrollup.archive import parquet as parquet_files
from tsrollup.archive.checking import check
from tsrollup.archive.moving import Watch
from tsrollup.connection import connect as open_connection
from tsrollup.errors import TsrollupError

FIRST = datetime(2026, 1, 30, tzinfo=UTC)
STEPS = (
    *("begun", "locked", "measured", "rows-measured", "written", "named", "rows-named"),
    *("verified", "recorded", "committed"),
)
RESTORING = ("created", "rows-created", "loaded", "recorded")


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    if server.name != "embedded":
        pytest.skip("what is interrupted here is not the server")
    return server.url(database)


def create_days(db: psycopg.Connection[Any], days: int, first: datetime = FIRST) -> None:
    """A partition a day, three devices and a row an hour each, and an hourly rollup of them."""
    db.execute(
        "CREATE TABLE raw.readings (ts timestamptz NOT NULL, device text, level float8)"
        " PARTITION BY RANGE (ts)"
    )
    for number in range(days):
        start = first + timedelta(days=number)
        db.execute(
            f"CREATE TABLE raw.readings_{number:02} PARTITION OF raw.readings"
            f" FOR VALUES FROM ('{start}') TO ('{start + timedelta(days=1)}')"
            " WITH (autovacuum_enabled = off)"
        )
    db.execute(
        "INSERT INTO raw.readings SELECT t, 'd' || n, sqrt(n + extract(epoch FROM t))"
        " FROM generate_series(1, 3) AS n,"
        " generate_series(%s::timestamptz, %s, '1 hour') AS t",
        [first, first + timedelta(days=days) - timedelta(hours=1)],
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
        " dimensions => '{device}')"
    )


def archived_rows(folder: Path) -> int:
    return sum(parquet.read_metadata(path).num_rows for path in folder.rglob("*.parquet"))


def check_that_nothing_is_lost(db: psycopg.Connection[Any], folder: Path, partitions: int) -> None:
    """Each partition is a table that is noted, or a file that is recorded and whole; never both."""
    tables = db.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'raw_archive'::regnamespace"
        " AND relkind = 'r' ORDER BY 1"
    ).fetchall()
    noted = db.execute(
        "SELECT split_part(relation::text, '.', 2) FROM rollup_engine.detached_partition ORDER BY 1"
    ).fetchall()
    assert tables == noted
    files = db.execute("SELECT file, checksum, file_bytes FROM silver.archive_log").fetchall()
    assert len(tables) + len(files) == partitions
    store = storage.store_at(str(folder))
    for file, *facts in files:
        assert [*storage.checksum_of(store, file)] == facts


@contextmanager
def killer(url: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    script = Path(cold_tables.__file__).with_name("killed_archiver.py")
    process = subprocess.Popen(
        [sys.executable, str(script), url, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kill_at(process: subprocess.Popen[str], *where: str) -> str:
    assert process.stdin
    assert process.stdout
    process.stdin.write(" ".join(where) + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def wait_until_alone(db: psycopg.Connection[Any]) -> None:
    """Until the server has noticed that its client is gone."""
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'tsrollup'"
    )
    while db.execute(others).fetchone() != (0,):
        db.execute("SELECT pg_sleep(0.01)")


@pytest.mark.long
def test_sixty_days_through_twenty_kills(url: str, db: psycopg.Connection, tmp_path: Path) -> None:
    create_days(db, 60)
    gold = "SELECT * FROM gold.readings_1h"
    everything = content(db, "raw.readings")
    hours = sorted(db.execute(gold).fetchall())
    assert len(move_aside(db, "raw.readings", "30 days")) == 30
    kills = 0
    with killer(url, tmp_path) as process:
        for turn in ("1", "2"):
            for step in STEPS:
                assert kill_at(process, "archive", step, turn) == "killed", step
                kills += 1
                wait_until_alone(db)
                check_that_nothing_is_lost(db, tmp_path, 30)
        assert kill_at(process, "archive", "never", "1") == "ended 0"
        assert kills == 20
        assert db.execute("TABLE rollup_engine.detached_partition").fetchall() == []
        check_that_nothing_is_lost(db, tmp_path, 30)
        # Thirty days here, thirty there, sixty in gold.
        assert db.execute("SELECT count(DISTINCT ts::date) FROM raw.readings").fetchone() == (30,)
        assert archived_rows(tmp_path) == 30 * 72
        assert sorted(db.execute(gold).fetchall()) == hours

        for step in RESTORING:
            assert kill_at(process, "restore", step, "1") == "killed", step
            wait_until_alone(db)
        assert db.execute("SELECT count(restored_as) FROM silver.archive_log").fetchone() == (0,)
        assert kill_at(process, "restore", "never", "1") == "ended 0"
    restored = db.execute("SELECT restored_as::text FROM silver.archive_log").fetchall()
    union = " UNION ALL ".join(["TABLE raw.readings", *(f"TABLE {name}" for (name,) in restored)])
    db.execute(f"CREATE VIEW public.both AS {union}".encode())
    assert content(db, "public.both") == everything
    assert sorted(db.execute(gold).fetchall()) == hours
    with open_connection(url) as connection:
        told = {one.status for one in check(connection)}
    assert told == {"ok", "leftover"}


class Cutter(Watch):
    """Has the server end the archiver's connection at a step."""

    def __init__(self, db: psycopg.Connection[Any], step: str) -> None:
        self.db, self.step_, self.last = db, step, ""

    def step(self, step: str, _partition_name: str, _rows: int = 0) -> None:
        self.last = step
        self.cut(step)

    def rows(self, _count: int) -> None:
        self.cut(f"rows-{self.last}")

    def cut(self, step: str) -> None:
        if step == self.step_:
            self.db.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'tsrollup'"
            )


def test_a_lost_connection_loses_nothing(url: str, db: psycopg.Connection, tmp_path: Path) -> None:
    create_days(db, 6, FIRST)
    tables = move_aside(db, "raw.readings")
    before = [content(db, name) for name in tables]
    for step in STEPS[:-1]:
        with pytest.raises(psycopg.Error):
            archive_all(url, tmp_path, Cutter(db, step))
        check_that_nothing_is_lost(db, tmp_path, 6)
        # Whether a commit that was cut was one, only the next run knows.
        assert archived_rows(tmp_path) == (72 if step == "recorded" else 0)
    assert {one.status for one in archive_all(url, tmp_path)} == {"archived"}
    with pytest.raises(psycopg.Error):
        restore_all(url, "raw.readings", Cutter(db, "loaded"))
    restore_all(url, "raw.readings")
    assert [content(db, name) for name in tables] == before


def test_a_full_disk_loses_nothing(url: str, db: psycopg.Connection, tmp_path: Path) -> None:
    create_days(db, 4)
    tables = move_aside(db, "raw.readings")
    full = tmp_path / "full"
    full.mkdir()
    script = f"mount -t tmpfs -o size=4k none {full} && exec {sys.executable} -m tsrollup"
    inside = ["unshare", "-rm", "sh", "-c", f"{script} --url '{url}' archive --to {full}"]
    done = subprocess.run(inside, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert done.returncode == 1, done.stdout
    assert done.stderr == (
        f"error: {full}: No space left on device; make room there, and run it again:"
        " a table stays until its file is verified\n"
    )
    check_that_nothing_is_lost(db, full, 4)
    assert len(archive_all(url, tmp_path / "roomy")) == len(tables)
    check_that_nothing_is_lost(db, tmp_path / "roomy", 4)


def test_two_archivers_share_the_work(url: str, db: psycopg.Connection, tmp_path: Path) -> None:
    create_days(db, 12)
    move_aside(db, "raw.readings")
    together = threading.Barrier(2)
    outcomes: list[Any] = []

    class Together(Watch):
        def step(self, step: str, _partition_name: str, _rows: int = 0) -> None:
            if step == "begun" and not outcomes:
                together.wait(10)

    threads = [
        threading.Thread(target=lambda: outcomes.extend(archive_all(url, tmp_path, Together())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    others = {(one.status, one.reason) for one in outcomes if one.status != "archived"}
    assert others == {("skipped", "another archiver has taken it")}
    # Who saw the other coming made way.
    outcomes += archive_all(url, tmp_path)
    done = [one.partition_name for one in outcomes if one.status == "archived"]
    assert len(done) == len({*done}) == 12
    check_that_nothing_is_lost(db, tmp_path, 12)
    assert archived_rows(tmp_path) == 12 * 72


def test_nobody_writes_to_a_table_while_it_is_read_and_nobody_waits_for_ever(
    db: psycopg.Connection,
    connect: Connect,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_days(db, 2)
    tables = move_aside(db, "raw.readings")
    late = f"INSERT INTO {tables[0]} VALUES ('2026-01-30 10:30Z', 'late', 1)"
    refused: list[str] = []

    class Writer(Watch):
        def step(self, step: str, partition_name: str, _rows: int = 0) -> None:
            if partition_name == tables[0] and step not in ("begun", "recorded", "committed"):
                with (
                    connect(options="-c lock_timeout=20ms") as other,
                    pytest.raises(psycopg.errors.LockNotAvailable),
                ):
                    other.execute(late.encode())
                refused.append(step)

    # Who writes, and who reads for longer than it is waited for: the next run tries again.
    monkeypatch.setattr(moving, "LOCK_TIMEOUT", "20ms")
    monkeypatch.setattr(moving, "DROP_PATIENCE", "20ms")
    for statement in (late, f"SELECT FROM {tables[0]}"):
        user = connect(autocommit=False)
        user.execute(statement.encode())
        told = {one.partition_name: (one.status, one.reason) for one in archive_all(url, tmp_path)}
        assert told[tables[0]] == ("skipped", "somebody uses it; the next run tries again")
        user.commit()
    assert archived_rows(tmp_path) == 72

    # What depends on it is for people to look at.
    db.execute(f"CREATE VIEW public.v AS SELECT * FROM {tables[0]}".encode())
    (told_of_view,) = archive_all(url, tmp_path)
    assert told_of_view.status == "failed"
    assert (told_of_view.reason or "").endswith(
        "view public.v depends on table raw_archive.readings_00 [2BP01] (drop that first)"
    )
    db.execute("DROP VIEW public.v")
    (moved,) = archive_all(url, tmp_path, Writer())
    assert refused == ["locked", "measured", "written", "named", "verified"]
    assert (moved.status, moved.row_count) == ("archived", 73), "what came before is in it"


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_who_read_and_then_writes_is_made_way_for(
    db: psycopg.Connection,
    connect: Connect,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pause: float,
) -> None:
    """No deadlock ends his statement, whether he or the archiver is the first to want more."""
    create_days(db, 1)
    (table,) = move_aside(db, "raw.readings")
    user = connect(autocommit=False)
    user.execute(f"SELECT FROM {table}".encode())

    def write() -> None:
        time.sleep(pause)
        user.execute(f"UPDATE {table} SET level = 7".encode())
        user.commit()

    thread = threading.Thread(target=write)

    class Meanwhile(Watch):
        def step(self, step: str, _partition_name: str, _rows: int = 0) -> None:
            if step == "verified":
                thread.start()
                waits = f"SELECT FROM pg_locks WHERE relation = '{table}'::regclass AND NOT granted"
                while not pause and not db.execute(waits.encode()).fetchall():
                    time.sleep(0.01)

    monkeypatch.setattr(moving, "DROP_PATIENCE", "1min")
    began = time.monotonic()
    (told,) = archive_all(url, tmp_path, Meanwhile())
    assert time.monotonic() - began < 30
    thread.join()
    assert (told.status, told.reason) == ("skipped", "somebody uses it; the next run tries again")
    assert db.execute(f"SELECT DISTINCT level FROM {table}".encode()).fetchall() == [(7,)]


def test_who_writes_to_a_part_and_then_to_all_of_it_is_made_way_for(
    db: psycopg.Connection, connect: Connect, url: str, tmp_path: Path
) -> None:
    """What waited for the part with the rest in its hands would have him end by a deadlock."""
    create_days(db, 1, FIRST)
    day = (FIRST + timedelta(days=1)).date()
    db.execute(
        f"CREATE TABLE raw.readings_x PARTITION OF raw.readings FOR VALUES FROM ('{day}Z')"
        f" TO ('{day}T12:00Z') PARTITION BY LIST (device);"
        "CREATE TABLE raw.readings_a PARTITION OF raw.readings_x FOR VALUES IN ('a');"
        "CREATE TABLE raw.readings_b PARTITION OF raw.readings_x FOR VALUES IN ('b')".encode()
    )
    table = move_aside(db, "raw.readings")[-1]
    late = f"INSERT INTO {{}} VALUES ('{day}T01:00Z', '{{}}', 1)"
    user = connect(autocommit=False)
    user.execute(late.format("raw_archive.readings_a", "a").encode())
    outcomes: list[Any] = []
    archiver = threading.Thread(target=lambda: outcomes.extend(archive_all(url, tmp_path)))
    archiver.start()
    waits = (
        "SELECT FROM silver.archive_log, pg_stat_activity WHERE datname = current_database()"
        " AND state = 'active' AND query ~ 'FROM rollup_engine.lock_for_archive'"
        " AND pid <> pg_backend_pid() AND clock_timestamp() > query_start + interval '100 ms'"
    )
    while not db.execute(waits).fetchall():
        time.sleep(0.01)
    user.execute("SET deadlock_timeout = '1ms'")
    user.execute(late.format(table, "b").encode())
    user.commit()
    archiver.join()
    outcomes += archive_all(url, tmp_path)
    assert {one.status for one in outcomes} <= {"archived", "skipped"}
    assert archived_rows(tmp_path) == 72 + 2


def test_a_schema_that_is_renamed_meanwhile_loses_nothing(
    db: psycopg.Connection, url: str, tmp_path: Path
) -> None:
    create_days(db, 1)
    (table,) = move_aside(db, "raw.readings")
    before = content(db, table)
    away = "ALTER SCHEMA raw_archive RENAME TO old; CREATE SCHEMA raw_archive"
    back = "DROP SCHEMA raw_archive CASCADE; ALTER SCHEMA old RENAME TO raw_archive"

    class Renamer(Watch):
        def __init__(self, *steps: str) -> None:
            self.steps = steps

        def step(self, step: str, _partition_name: str, _rows: int = 0) -> None:
            if step in self.steps:
                moved = f"{away}; CREATE TABLE {table} (LIKE old.{table.partition('.')[2]})"
                other.execute((moved if step == self.steps[0] else back).encode())

    with psycopg.connect(url, autocommit=True, options="-c lock_timeout=1s") as other:
        (told,) = archive_all(url, tmp_path, Renamer("locked"))
        assert (told.status, told.reason) == ("skipped", "it was renamed or moved")
        other.execute(back)
        assert content(db, table) == before
        # There and back again while another table was read.
        (told,) = archive_all(url, tmp_path, Renamer("locked", "recorded"))
        assert (told.status, told.reason) == ("skipped", "it was renamed or moved")
        other.execute(back)
    assert archived_rows(tmp_path) == 0
    (moved,) = archive_all(url, tmp_path)
    assert (moved.status, moved.row_count) == ("archived", 72)


def test_a_file_that_reads_otherwise_is_no_archive(
    url: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    create_days(db, 1)
    move_aside(db, "raw.readings")

    class Rot(Watch):
        """A byte of the file changes once it is there."""

        def step(self, step: str, _partition_name: str, _rows: int = 0) -> None:
            if step == "named":
                (path,) = tmp_path.rglob("*.parquet")
                held = bytearray(path.read_bytes())
                held[100] ^= 1
                path.write_bytes(held)

    with pytest.raises(TsrollupError, match="is not what was written to it"):
        archive_all(url, tmp_path, Rot())
    check_that_nothing_is_lost(db, tmp_path, 1)
    assert archived_rows(tmp_path) == 0


@pytest.mark.parametrize("lost", ["a row", "a value", "the sign of a number", "letters"])
def test_a_file_that_holds_something_else_is_no_archive(
    db: psycopg.Connection,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    create_days(db, 1)
    move_aside(db, "raw.readings")
    genuine = parquet_files.write

    def wrong(blocks: Any, *arguments: Any) -> None:
        rows = b"".join(bytes(block) for block in blocks).splitlines(keepends=True)
        if lost == "a row":
            del rows[5]
        time, device, level = rows[7].split(b",")
        if lost == "a value":
            rows[7] = b",".join([time, b"", level])
        elif lost == "the sign of a number":
            rows[7] = b",".join([time, device, b"-" + level])
        elif lost == "letters":
            rows[7] = b",".join([time, b"d", level])
        genuine(iter(rows), *arguments)

    monkeypatch.setattr(moving, "write", wrong)
    (told,) = archive_all(url, tmp_path)
    assert told.status == "failed"
    assert "the file would not hold what the table holds" in (told.reason or "")
    check_that_nothing_is_lost(db, tmp_path, 1)
    assert archived_rows(tmp_path) == 0
