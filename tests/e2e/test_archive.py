"""The archive commands, the worker's part, files in a bucket, and tables that come back."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyarrow import fs, parquet

import tsrollup
from archived_tables import files, make_url
from cold_tables import archive_all, content, restore_all
from command_line import tsrollup_here as here
from command_line import wait_for, working
from servers import PostgresServer
from tsrollup.archive import log, moving, restoring, storage
from tsrollup.archive.moving import Watch
from tsrollup.archive.parquet import figures_in


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    return make_url(server, database)


def test_the_commands(url: str, tmp_path: Path) -> None:
    cold = tmp_path / "cold"
    waiting = here("archive", "list", "--json", url=url).json()
    assert [(row["partition_name"], row["state"]) for row in waiting] == [
        ("raw_archive.readings_1", "waiting"),
        ("raw_archive.readings_2", "waiting"),
    ]
    assert waiting[0]["from_time"] == "2026-03-01T00:00:00+00:00"

    done = here("archive", "--to", str(cold), "--json", url=url).json()
    assert [(row["status"], row["row_count"], row["reason"]) for row in done] == [
        ("archived", 48, None)
    ] * 2
    assert here("archive", "run", "--to", str(cold), url=url).out == "nothing is to be archived\n"
    first, second = files(cold)
    assert str(first.relative_to(cold)) == done[0]["file"]
    assert str(first.parent.relative_to(cold)) == "table=raw.readings/date=2026-03-01"
    table = parquet.read_table(first, partitioning=None)
    assert table.column_names == ["ts", "device", "n"]
    assert table["device"].to_pylist() == ["a"] * 24 + ["b"] * 24, "sorted by dimension and time"
    assert table["n"].to_pylist() == [*range(24)] * 2

    (listed, _) = here("archive", "list", "readings", "--json", url=url).json()
    assert (listed["state"], listed["location"]) == ("archived", str(cold))
    assert (listed["row_count"], listed["file_bytes"]) == (48, first.stat().st_size)
    assert "2026-03-01" in here("archive", "list", url=url).out
    verified = here("archive", "verify", "--json", url=url)
    assert (verified.code, {row["status"] for row in verified.json()}) == (0, {"ok"})

    restored = here("archive", "restore", "readings", "2026-03-02", "2026-03-02 12:00", url=url)
    assert (restored.code, "raw_archive.readings_2" in restored.out) == (0, True)
    again = here("archive", "restore", "RAW.readings", "-infinity", "infinity", "--json", url=url)
    told = {row["partition_name"]: row["status"] for row in again.json()}
    assert told == {"raw_archive.readings_1": "restored", "raw_archive.readings_2": "skipped"}

    # What is wrong, told file by file, and by the exit code.
    second.write_bytes(second.read_bytes()[:-1])
    first.rename(tmp_path / "elsewhere")
    (first.parent / "other.parquet").touch()
    (first.parent / f"{first.name}.leftover").touch()
    (first.parent / "other.parquet.leftover").touch()
    broken = here("archive", "verify", "--json", url=url)
    assert broken.code == 1
    assert [row["status"] for row in broken.json()] == [
        *("missing", "changed", "unknown", "leftover", "leftover"),
    ]
    reasons = {row["file"].rpartition("/")[2]: row["reason"] for row in broken.json()}
    where = "it may be removed where no other database archives to this place"
    assert where in reasons["other.parquet.leftover"]
    assert "give it that name back if that is missing" in reasons[f"{first.name}.leftover"]
    assert json.loads(broken.err)["error"]["message"].startswith("2 of 2 files are not what was")


class Cancelled(Watch):
    def step(self, _step: str, _partition_name: str, _rows: int = 0) -> None:
        raise psycopg.errors.QueryCanceled


def test_from_python(url: str, tmp_path: Path) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):  # and nothing else is begun
        archive_all(url, tmp_path, Cancelled())
    with tsrollup.connect(url) as db:
        assert {row["state"] for row in db.archive.list()} == {"waiting"}
        with pytest.raises(tsrollup.TransactionError), db.connection.transaction():
            db.archive.run(str(tmp_path))
        assert not [*tmp_path.rglob("*.parquet")]
        assert [one.status for one in db.archive.run(str(tmp_path), "readings")] == ["archived"] * 2
        (back,) = db.archive.restore("readings", "2026-03-01", datetime(2026, 3, 1, 12, tzinfo=UTC))
        assert (back.partition_name, back.status) == ("raw_archive.readings_1", "restored")
        with pytest.raises(tsrollup.NotFoundError, match=r"nothing of raw\.nope was moved aside"):
            db.archive.verify("nope")

    async def rest() -> list[str]:
        async with tsrollup.connect_async(url) as db:
            told = [one.status for one in await db.archive.restore("readings")]
            assert {one.status for one in await db.archive.verify()} == {"ok"}
            assert await db.archive.run(str(tmp_path)) == []
            return told + [row["state"] for row in await db.archive.list("readings")]

    assert asyncio.run(rest()) == ["skipped", "restored", "restored", "restored"]


def test_a_cancelled_task_archives_nothing_more(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancel_while_a_file_is_read_back() -> int:
        loop = asyncio.get_running_loop()
        async with tsrollup.connect_async(url) as db:
            task = asyncio.create_task(db.archive.run(str(tmp_path)))

            def cancelled(*given: Any) -> Any:
                loop.call_soon_threadsafe(task.cancel)
                assert db.database.stop.wait(30)
                loop.call_soon_threadsafe(task.cancel)
                time.sleep(0.2)  # until the server has had no statement to cancel
                return figures_in(*given)

            monkeypatch.setattr(moving, "figures_in", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await task
            monkeypatch.undo()
            assert not files(tmp_path)
            return len(await db.archive.run(str(tmp_path)))

    assert asyncio.run(cancel_while_a_file_is_read_back()) == 2


def test_refusals_name_the_next_step(url: str, tmp_path: Path) -> None:
    def refused(*arguments: str) -> tuple[str | None, str]:
        done = here("archive", *arguments, "--json", url=url)
        assert done.code == 1, done.out
        error = json.loads(done.err)["error"]
        return error["code"], f"{error['message']}; {error['hint']}"

    told = "nothing of raw.nope was moved aside by retention; there is something of raw.readings"
    assert refused("list", "nope") == ("TR002", told)
    with psycopg.connect(url, autocommit=True) as db:
        operator = f"operator_of_{db.info.dbname}"
        db.execute(f"CREATE ROLE {operator} LOGIN; GRANT tsrollup_operator TO {operator}".encode())
        try:
            theirs = url.replace(f"//{db.info.user}@", f"//{operator}@")
            done = here("archive", "run", "--to", str(tmp_path), "--json", url=theirs)
            assert f"{operator} may not archive partitions" in done.err
            assert len(here("archive", "list", "--json", url=theirs).json()) == 2
        finally:
            db.execute(f"DROP ROLE {operator}".encode())
    code, told = refused("restore", "readings", "2026-03-01", "2026-03-02")
    assert (code, "is archived; tsrollup archive list readings" in told) == ("TR002", True)
    for nowhere in ("nowhere://bucket", "s3://", "mock://in/memory", "file://", ""):
        code, told = refused("run", "--to", nowhere)
        assert (code, "s3://bucket/folder" in told) == ("TR001", True), nowhere
    assert "Permission denied" in refused("run", "--to", "/proc/1")[1] or os.geteuid() == 0
    assert "; look at the place" in refused("run", "--to", "/proc/nope")[1]
    with psycopg.connect(url) as db:
        db.execute("SELECT rollup_engine.begin_archive(1, 's3://', 'a.parquet')")
    first, other = archive_all(url, tmp_path)
    assert (first.status, other.status) == ("archived", "archived"), "whatever place that was"
    assert (first.reason or "").startswith("an earlier attempt may have left a.parquet")
    with psycopg.connect(url) as db:
        db.execute("SELECT rollup_engine.try_lock_archive(1)")
        words = ["archive", "restore", "readings", "2026-03-01", "2026-03-02", "--json"]
        (busy,) = here(*words, url=url).json()
        assert (busy["status"], busy["reason"]) == ("skipped", "another restore is at it")
        db.execute("CREATE TABLE raw_archive.readings_1 ()")
    code, told = refused("restore", "readings", "2026-03-01", "2026-03-02")
    assert (code, told) == ("TR003", "raw_archive.readings_1 is there already; rename or drop it")
    (_, second) = files(tmp_path)
    second.write_bytes(b"")
    code, told = refused("restore", "readings", "2026-03-02", "2026-03-03")
    assert (code, "was changed since it was archived" in told) == ("XX001", True)
    second.unlink()
    assert refused("restore", "readings", "2026-03-02", "2026-03-03")[0] == "TR002"


def test_a_copy_of_the_database_touches_no_file_and_takes_no_number_for_a_table(
    url: str, tmp_path: Path
) -> None:
    """As a dump has it that was taken while an archiver wrote, and after a restored table went."""
    of_the_other = tmp_path / "x.parquet"
    of_the_other.touch()
    with psycopg.connect(url, autocommit=True) as db:
        note = (
            "UPDATE rollup_engine.detached_partition SET attempt_location = %s,"
            " attempt_file = 'x.parquet', attempt_by = %s WHERE id = 1"
        )
        db.execute(note, [str(tmp_path), "1/2"])
        archive_all(url, tmp_path)
        assert of_the_other.exists()
        db.execute("UPDATE silver.archive_log SET restored_as = 'silver.readings_1h'")
        assert {one.status for one in restore_all(url, "readings")} == {"restored"}
        # A dump without what was restored loads, and knows of its files.
        with db.cursor().copy("COPY silver.archive_log TO STDOUT") as out:
            dump = b"".join(bytes(block) for block in out)
        db.execute("DROP SCHEMA raw_archive CASCADE; DELETE FROM silver.archive_log")
        with db.cursor().copy("COPY silver.archive_log FROM STDIN") as load:
            load.write(dump)
    assert {one.status for one in restore_all(url, "readings")} == {"restored"}


def test_what_is_loaded_is_what_was_checked(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_all(url, tmp_path)
    genuine = restoring.check_file

    def check_and_change(store: storage.Store, archived: log.Archived, *copy: Any) -> None:
        genuine(store, archived, *copy)
        (tmp_path / archived.file).write_bytes(b"")

    monkeypatch.setattr(restoring, "check_file", check_and_change)
    assert {one.row_count for one in restore_all(url, "readings")} == {48}


def test_the_worker_archives_after_each_maintenance(url: str, tmp_path: Path) -> None:
    options = ("--maintain-every", "3600", "--archive-to", str(tmp_path), "--log-format", "json")
    with working(url, *options) as (_, lines):
        told = json.loads(wait_for(lines, "raw_archive.readings_2: archived: 48 rows"))
        assert (told["status"], told["row_count"]) == ("archived", 48)
    assert len(files(tmp_path)) == 2
    assert here("archive", "verify", url=url).code == 0


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One on an S3 server of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("moto_server")
    server = subprocess.Popen([program, "-p", str(port)], stderr=subprocess.DEVNULL)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    try:
        while not answers(port):
            assert server.poll() is None
            time.sleep(0.05)
        place = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=eu-central-1"
        fs.FileSystem.from_uri(f"s3://cold?{place}&allow_bucket_creation=true")[0].create_dir(
            "cold"
        )
        yield f"s3://cold/in%20here?{place}"
    finally:
        server.kill()
        server.wait()


def test_a_bucket(url: str, bucket: str) -> None:
    given = bucket.replace("//", "//testing:testing@")
    done = here("archive", "run", "--to", given, "--json", url=url)
    assert done.code == 0, done.err
    assert [row["status"] for row in done.json()] == ["archived"] * 2
    with psycopg.connect(url, autocommit=True) as db:
        places = db.execute("SELECT DISTINCT location FROM silver.archive_log").fetchall()
        assert places == [(bucket,)], "what is secret stands nowhere"
        assert here("archive", "verify", url=url).code == 0
        restore = here("archive", "restore", "readings", "2026-03-01", "2026-03-02", url=url)
        assert restore.code == 0, restore.err
        assert len(content(db, "raw_archive.readings_1")) == 48
        system, root = fs.FileSystem.from_uri(bucket)
        infos = system.get_file_info(fs.FileSelector(root, recursive=True))
        paths = [info.path for info in infos if info.is_file]
        system.delete_file(paths[0])
        system.copy_file(paths[1], paths[1].replace("-", "_"))
    broken = here("archive", "verify", "--json", url=url)
    assert broken.code == 1
    assert sorted(row["status"] for row in broken.json()) == ["missing", "ok", "unknown"]
    elsewhere = here("archive", "run", "--to", bucket.replace("cold", "cool"), "--json", url=url)
    assert elsewhere.json() == [], "nothing is to be written"
