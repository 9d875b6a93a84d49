"""The archive commands, the worker's part, files in a bucket, and tables that come back."""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pyarrow import fs, parquet

import tsrollup
from cold_tables import archive_all, content, move_aside, restore_all
from command_line import tsrollup_here as here
from command_line import wait_for, working
from raw_tables import wait_until
from servers import PostgresServer
from tsrollup.archive import log, moving, restoring, storage
from tsrollup.archive.moving import Watch
from tsrollup.archive.parquet import figures_in


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    """Three days of two devices: the first two are a table of their own by now."""
    with psycopg.connect(server.url(database), autocommit=True) as db:
        create(db)
        assert len(move_aside(db, "raw.readings")) == 2
    return server.url(database)


def create(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.readings (ts timestamptz, device text, n int) PARTITION BY RANGE (ts)"
    )
    for number in (1, 2, 30):
        db.execute(
            f"CREATE TABLE raw.readings_{number} PARTITION OF raw.readings"
            f" FOR VALUES FROM ('2026-03-{number:02}Z') TO ('2026-03-{number + 1:02}Z')"
            " WITH (autovacuum_enabled = off)"
        )
        db.execute(
            "INSERT INTO raw.readings SELECT %s::timestamptz + make_interval(hours => h), device, h"
            " FROM generate_series(0, 23) AS h, unnest(ARRAY['b', 'a']) AS device",
            [f"2026-03-{number:02}Z"],
        )
    db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
        " dimensions => '{device}')"
    )


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


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


def test_each_table_has_a_folder_of_its_own_whatever_it_is_called() -> None:
    one = log.Detached(1, "a.p", "a.t", None, None, [], [], "", 0, "", None)

    def folder(source: str) -> str:
        return log.path_of(replace(one, source_table=source)).partition("/")[0]

    assert folder("raw.readings") == "table=raw.readings"
    names = ['raw."a.b"', '"raw.a".b', 'raw."a""b"', f'"{"é" * 27}"."{"ü" * 28}"']
    names.append(f'"{"é" * 27}"."{"ü" * 27}"')
    assert len({folder(name) for name in names}) == len(names)
    assert max(len(folder(name)) for name in names) < 255


def test_what_was_attached_again_is_archived_again(url: str, tmp_path: Path) -> None:
    archive_all(url, tmp_path)
    restore_all(url, "readings")
    with psycopg.connect(url, autocommit=True) as db:
        gold = db.execute("TABLE gold.readings_1h").fetchall()
        assert archive_all(url, tmp_path) == [], "what was restored is left alone"
        bounds = db.execute("SELECT bound FROM silver.archive_log ORDER BY id").fetchall()
        # Of another table, and of more than what is written now.
        for other in (
            {"id": 98, "source_table": "raw.other", "retention_id": None},
            {"id": 99, "from_time": "2026-02-01Z"},
        ):
            db.execute(
                "INSERT INTO silver.archive_log SELECT (jsonb_populate_record(l, %s)).*"
                " FROM silver.archive_log AS l WHERE id = 1",
                [json.dumps(other)],
            )
        attach = f"ALTER TABLE raw.readings ATTACH PARTITION raw_archive.readings_1 {bounds[0][0]}"
        db.execute(attach.encode())
        db.execute("DELETE FROM raw.readings WHERE device = 'a' AND ts < '2026-03-01 12:00Z'")
        assert sorted(db.execute("TABLE gold.readings_1h").fetchall()) == sorted(gold)
        (moved,) = move_aside(db, "raw.readings")
        assert sorted(db.execute("TABLE gold.readings_1h").fetchall()) == sorted(gold)
        (again,) = archive_all(url, tmp_path)
        assert (again.status, again.partition_name, again.row_count) == ("archived", moved, 36)
        replaced = db.execute("SELECT replaced_by FROM silver.archive_log ORDER BY id").fetchall()
        assert replaced == [(3,)] + [(None,)] * 4
        db.execute("DELETE FROM silver.archive_log WHERE id > 90")
        checked = here("archive", "verify", "--json", url=url).json()
        assert sorted(row["status"] for row in checked) == ["ok", "ok", "replaced"]
        assert {row["reason"] for row in checked if row["status"] == "replaced"} == {
            "a later file holds what it held; when that one is ok, it may be removed"
        }
        db.execute("DROP TABLE raw_archive.readings_2")
        assert {one.row_count for one in restore_all(url, "readings")} == {36, 48}

        # What somebody attached, moved or gave another name is not ours.
        db.execute("DROP TABLE raw_archive.readings_1, raw_archive.readings_2")
        db.execute(
            "INSERT INTO rollup_engine.detached_partition"
            " (relation, partition_name, source_table, from_time, to_time, bound, sort_by)"
            " VALUES ('raw.readings_30', 'raw.readings_30', 'raw.readings',"
            "  '2026-03-30Z', '2026-03-31Z', 'x', '{ts}')"
        )
        (kept,) = archive_all(url, tmp_path)
        assert (kept.status, kept.reason) == ("skipped", "it is attached to raw.readings")
        db.execute("ALTER TABLE raw.readings DETACH PARTITION raw.readings_30")
        db.execute("ALTER TABLE raw.readings_30 RENAME TO mine")
        (kept,) = archive_all(url, tmp_path)
        assert (kept.status, kept.reason) == ("skipped", "it was renamed or moved")


def test_files_of_tables_that_have_had_one_name_or_several(url: str, tmp_path: Path) -> None:
    """A source is made again, then renamed: each file comes back, once, by a name of its own."""
    march = ["2026-03-01", "2026-04-01", "--json"]

    def restored(source: str) -> list[tuple[str, str, str | None]]:
        done = here("archive", "restore", source, *march, url=url)
        assert done.code == 0, done.err
        return [(row["partition_name"], row["status"], row["reason"]) for row in done.json()]

    archive_all(url, tmp_path)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SELECT silver.drop_rollup('readings_1h'); DROP TABLE raw.readings")
        create(db)
        move_aside(db, "raw.readings")
        # One waits to be archived: it is not in the way of what has had its name.
        assert [name for name, *_ in restored("readings")] == [
            "raw_archive.readings_1_1",
            "raw_archive.readings_2_2",
        ]
        db.execute("DROP TABLE raw_archive.readings_1_1, raw_archive.readings_2_2")
        assert {one.status for one in archive_all(url, tmp_path)} == {"archived"}
        db.execute(
            "ALTER TABLE raw.readings RENAME TO now;"
            "CREATE TABLE raw.now_3 PARTITION OF raw.now"
            " FOR VALUES FROM ('2026-03-03Z') TO ('2026-03-04Z');"
            "INSERT INTO raw.now VALUES ('2026-03-03 01:00Z', 'a', 1)"
        )
        move_aside(db, "raw.now")
        archive_all(url, tmp_path)
        expected = ["raw_archive.now_3", "raw_archive.readings_1", "raw_archive.readings_2"]
        assert sorted(name for name, *_ in restored("now")) == expected, "whatever its name was"
        listed = here("archive", "list", "now", "--json", url=url).json()
        assert sorted(row["restored_as"] for row in listed) == expected
        db.execute("ALTER TABLE raw_archive.readings_1 RENAME TO mine")
        assert restored("readings") == [
            ("raw_archive.readings_1", "restored", None),
            ("raw_archive.readings_1", "skipped", "it is there, as raw_archive.mine"),
            ("raw_archive.readings_2_2", "restored", None),
            ("raw_archive.readings_2", "skipped", "it is there, as raw_archive.readings_2"),
        ]
        assert {status for _, status, _ in restored("readings")} == {"skipped"}
        assert content(db, "raw_archive.mine") == content(db, "raw_archive.readings_1")

        # What a stranger says of a table of his is nothing to go by.
        stranger = f"stranger_in_{db.info.dbname}"
        mark = db.execute(
            "SELECT format('COMMENT ON TABLE public.theirs IS %L',"
            "  obj_description('raw_archive.mine'::regclass))"
        ).fetchone()
        assert mark
        db.execute(
            "DROP TABLE raw_archive.mine; CREATE TABLE public.theirs ();"
            f" CREATE ROLE {stranger}; GRANT {stranger} TO CURRENT_USER;"
            f" GRANT CREATE ON SCHEMA public TO {stranger};"
            f" {mark[0]}; ALTER TABLE public.theirs OWNER TO {stranger}".encode()
        )
        try:
            assert ("raw_archive.readings_1_3", "restored", None) in restored("readings")
        finally:
            db.execute(f"DROP OWNED BY {stranger}; DROP ROLE {stranger}".encode())


def test_restores_of_one_name_at_once_each_bring_a_table(url: str, tmp_path: Path) -> None:
    archive_all(url, tmp_path)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SELECT silver.drop_rollup('readings_1h'); DROP TABLE raw.readings")
        create(db)
        move_aside(db, "raw.readings")
        archive_all(url, tmp_path)
        outcomes: list[Any] = []
        other = threading.Thread(target=lambda: outcomes.extend(restore_all(url, "raw.readings")))
        waiting = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )

        class TheOtherComes(Watch):
            def step(self, step: str, _partition_name: str, _rows: int = 0) -> None:
                if step == "created" and not other.ident:
                    other.start()
                    wait_until(lambda: db.execute(waiting).fetchone() is not None)

        outcomes += restore_all(url, "raw.readings", TheOtherComes())
        other.join()
    assert {one.status for one in outcomes} == {"restored", "skipped"}
    restored = sorted(one.partition_name for one in outcomes if one.status == "restored")
    names = ["readings_1", "readings_1_3", "readings_2", "readings_2_4"]
    assert restored == [f"raw_archive.{name}" for name in names]


def test_a_source_that_is_gone_and_files_that_moved(url: str, tmp_path: Path) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        before = content(db, "raw_archive.readings_1")
        owner = f"owner_in_{db.info.dbname}"
        db.execute(
            f"CREATE ROLE {owner}; GRANT {owner} TO CURRENT_USER;"
            f" GRANT CREATE ON SCHEMA raw_archive TO {owner};"
            f" ALTER TABLE raw_archive.readings_1 OWNER TO {owner}".encode()
        )
        archive_all(url, tmp_path / "there")
        db.execute("UPDATE silver.archive_log SET row_count = 47 WHERE id = 1")
        fewer = here("archive", "restore", "readings", "2026-03-01", "2026-03-02", url=url)
        assert "would not be what it was: rows: 47 and 48" in fewer.err
        db.execute("UPDATE silver.archive_log SET row_count = 48 WHERE id = 1")
        db.execute("SELECT silver.drop_rollup('readings_1h')")
        db.execute("DROP TABLE raw.readings; DROP SCHEMA raw_archive; CREATE TABLE raw.readings ()")
        (tmp_path / "there").rename(tmp_path / "here")
        words = ["archive", "restore", "readings", "2026-03-01", "2026-03-02"]
        missing = here(*words, url=url)
        assert (missing.code, "say with --from where it lies now" in missing.err) == (1, True)
        here_now = ["--from", str(tmp_path / "here")]
        assert here("archive", "verify", *here_now, url=url).code == 0
        assert here(*words, *here_now, url=url).code == 0
        assert content(db, "raw_archive.readings_1") == before
        whose = db.execute(
            "SELECT pg_get_userbyid(c.relowner), r.rolsuper, r.rolname"
            " FROM pg_class AS c, pg_roles AS r"
            " WHERE c.relname = 'readings_1' AND r.rolname = current_user"
        ).fetchone()
        assert whose
        # In a schema of which the owner has no rights, only a superuser makes him one.
        assert whose[0] == (owner if whose[1] else whose[2])
        db.execute(f"REASSIGN OWNED BY {owner} TO CURRENT_USER; DROP ROLE {owner}".encode())
        # clean would take the log of files with it.
        refused = here("clean", "--force", url=url)
        assert (refused.code, "silver.archive_log" in refused.err) == (1, True)
        assert here("clean", "--force", "--rollups", url=url).code == 0
        assert content(db, "raw_archive.readings_1") == before


def test_what_a_file_says_is_no_sql(url: str, tmp_path: Path) -> None:
    archive_all(url, tmp_path)
    evil = ", n integer); CREATE TABLE public.evil (e text"
    with psycopg.connect(url, autocommit=True) as db:
        said = {"declared": f"text{evil}", "collation": f'"C"{evil}'}
        for number, (path, key) in enumerate(zip(files(tmp_path), said, strict=True), 1):
            rows = parquet.read_table(path, partitioning=None)
            about = json.loads(rows.schema.metadata[b"tsrollup"])
            about["columns"][1][key] = said[key]
            rows = rows.replace_schema_metadata({"tsrollup": json.dumps(about)})
            parquet.write_table(rows, path)
            db.execute(
                "UPDATE silver.archive_log SET file_bytes = %s, checksum = %s WHERE id = %s",
                [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(), number],
            )
            day = f"2026-03-{number:02}"
            assert here("archive", "restore", "readings", day, f"{day} 12:00", url=url).code == 1
            assert db.execute("SELECT to_regclass('public.evil')").fetchone() == (None,), key


def test_hostile_names(
    db: psycopg.Connection, server: PostgresServer, database: str, tmp_path: Path
) -> None:
    table, time, device = (
        quoted.as_string(db)
        for quoted in map(sql.Identifier, ['a.b/../ü "{x}%s" ; --', "T s", 'd,"e" {0}%s'])
    )
    partition = 'raw."p/../*?[1]"'
    for statement in (
        f'CREATE TABLE raw.{table} ({time} timestamptz, {device} text, "a{{c}}%s\'" integer)'
        f" PARTITION BY RANGE ({time})",
        f"CREATE TABLE {partition} PARTITION OF raw.{table}"
        f" FOR VALUES FROM ('2026-03-01Z') TO ('2026-03-02Z') PARTITION BY LIST ({device})",
        f"CREATE TABLE raw.\"x'y\" PARTITION OF {partition} FOR VALUES IN ('x', 'y')",
        f'CREATE TABLE raw."{"ü" * 31}" PARTITION OF {partition} DEFAULT',
        f"INSERT INTO raw.{table} SELECT '2026-03-01 10:00Z', d, 1"
        " FROM unnest(ARRAY['y', 'x', 'ü', NULL]) AS d",
    ):
        db.execute(statement.encode())
    db.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', 'odd', '1 hour', dimensions => %s)",
        [f"raw.{table}", ['d,"e" {0}%s']],
    )
    (aside,) = move_aside(db, f"raw.{table}")
    before = content(db, aside)
    url = server.url(database)
    (moved,) = archive_all(url, tmp_path)
    assert (moved.status, moved.row_count) == ("archived", 4), moved.reason
    (path,) = files(tmp_path)
    assert path.relative_to(tmp_path).parts[1] == "date=2026-03-01"
    assert not set(str(path.relative_to(tmp_path))) & set("*?[]%\"' ;{}")
    restored = here("archive", "restore", f"raw.{table}", "2026-03-01", "2026-03-02", url=url)
    assert restored.code == 0, restored.err
    assert content(db, aside) == before


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
