"""Archived tables that have had one name or several, moved or hostile: each finds its own files."""

import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pyarrow import parquet

from archived_tables import create, files, make_url
from cold_tables import archive_all, content, move_aside, restore_all
from command_line import tsrollup_here as here
from raw_tables import wait_until
from servers import PostgresServer
from tsrollup.archive import log
from tsrollup.archive.moving import Watch


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    return make_url(server, database)


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
        db.execute("SELECT silver.perform_rollup()")
        (said,) = db.execute("SELECT error_message FROM silver.error_log").fetchall()
        assert said == ("late rows were perhaps kept out of sealed time, not counted",)
        late = db.execute("SELECT sum(sealed_late_rows) FROM silver.rollup_config").fetchone()
        assert late == (0,), "they are in gold"
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
