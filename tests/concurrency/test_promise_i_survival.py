"""Promise i: after a dump and restore, or a crash, work goes on where it was."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from dumps import PARTITIONED
from dumps import dump as _dump
from dumps import run as _run
from interleaving import Background, pause_refreshes_of
from raw_tables import LEVELS, create_hierarchy
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from servers import PostgresServer
from tsrollup.doctor import examine
from tsrollup.flyway import FlywayError
from tsrollup.installation import misfit
from tsrollup.migrations import migrate_project

CHANGES = (
    "UPDATE raw.readings SET count = 77 WHERE device = 'd0'",
    "INSERT INTO raw.readings_2 (ts, device) VALUES ('2026-03-02 20:00+00', 'new')",
    "MERGE INTO raw.readings AS t USING (SELECT 1) AS s ON t.device = 'd1'"
    " AND t.ts < '2026-03-01 23:00+00'"
    " WHEN MATCHED THEN UPDATE SET ts = t.ts + interval '1 day'",
    "TRUNCATE raw.readings_1",
)


def test_promise_i_dump_and_restore(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
) -> None:
    """Some is stored, some is stale, some is logged; the restored database goes on by itself."""
    create_hierarchy(db)
    db.execute(
        "CREATE TABLE raw.odd (ts timestamptz, doc json) PARTITION BY LIST ((doc ->> 'kind'));"
        "CREATE TABLE raw.odd_1 PARTITION OF raw.odd DEFAULT;"
        "SELECT silver.create_rollup_table('raw.odd', 'silver', 'odd_1h', '1 hour')"
    )
    db.execute("SELECT * FROM silver.perform_rollup('readings_1m', 1, 'infinity')")
    refresh_everything(db)
    db.execute("UPDATE raw.readings SET count = 5 WHERE device = 'd2'")
    db.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    db.execute("DELETE FROM raw.readings WHERE device IS NULL")
    copy = make_database()
    dump = _dump(server, db, tmp_path)
    _run(server, "pg_restore", "-e", "-d", server.superuser_url(copy), dump)
    with psycopg.connect(server.url(copy), autocommit=True) as restored:
        assert_equal_to_group_by(restored, *LEVELS)
        for change in ("SELECT", *CHANGES):
            restored.execute(change.encode())
            assert_equal_to_group_by(restored, *LEVELS)
            refresh_everything(restored)
            assert_settled(restored, *LEVELS)
        restored.execute(
            "CREATE TABLE raw.readings_3 PARTITION OF raw.readings"
            " FOR VALUES FROM ('2026-03-03 00:00+00') TO ('2026-03-04 00:00+00')"
        )
        restored.execute("INSERT INTO raw.readings (ts) VALUES ('2026-03-03 20:00+00')")
        restored.execute("INSERT INTO raw.odd VALUES ('2026-03-03 20:00+00', '{\"kind\": \"a\"}')")
        restored.execute(
            "SELECT silver.create_rollup_table('readings_1d', 'silver', 'readings_1w', '1 week')"
        )
        refresh_everything(restored)
        assert_settled(restored, *LEVELS, "readings_1w", "odd_1h")
        assert restored.execute(INVALID).fetchall() == []
        restored.execute("SELECT silver.drop_rollup('readings_1w')")


INVALID = "SELECT * FROM silver.validate_rollup_config() WHERE NOT is_valid"


@pytest.mark.parametrize(
    "calls",
    [
        ((),),
        (("-j2",),),
        (("-1",),),
        (("--section=pre-data",), ("--section=data",), ("--section=post-data",)),
    ],
    ids=["", "parallel", "one transaction", "sections"],
)
def test_promise_i_what_nobody_touched_is_not_read_again(
    db: psycopg.Connection,
    server: PostgresServer,
    restore: Callable[..., str],
    calls: tuple[tuple[str, ...], ...],
) -> None:
    db.execute(PARTITIONED)
    refresh_everything(db)
    with psycopg.connect(server.url(restore(*calls)), autocommit=True) as restored:
        assert restored.execute(INVALID).fetchall() == []
        restored.execute(
            "CREATE TABLE raw.t_3 PARTITION OF raw.t"
            " FOR VALUES FROM ('2026-03-03') TO ('2026-03-04')"
        )
        batches = "SELECT count(*) FROM silver.refresh_log"
        before = restored.execute(batches).fetchall()
        restored.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
        assert restored.execute(batches).fetchall() == before
        assert_settled(restored, "t_1h")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE raw.t RENAME v TO x; ALTER TABLE raw.t RENAME w TO v;"
        "ALTER TABLE raw.t RENAME x TO w",
        "ALTER TABLE raw.t DROP w, ADD w integer DEFAULT 7",
        "ALTER TABLE raw.t ALTER v TYPE integer USING v + 100",
        "ALTER TABLE raw.t DETACH PARTITION raw.t_1;"
        "ALTER TABLE raw.t_1 ALTER v TYPE integer USING v + 100;"
        "ALTER TABLE raw.t ATTACH PARTITION raw.t_1"
        " FOR VALUES FROM ('2026-03-01') TO ('2026-03-02')",
        "ALTER TABLE raw.t DISABLE TRIGGER tsrollup_update_1; UPDATE raw.t SET v = v + 1;"
        "ALTER TABLE raw.t ENABLE ALWAYS TRIGGER tsrollup_update_1",
        "ALTER TABLE raw.t_1 DISABLE TRIGGER tsrollup_delete_1; DELETE FROM raw.t_1 WHERE v < 9;"
        "ALTER TABLE raw.t_1 ENABLE ALWAYS TRIGGER tsrollup_delete_1",
    ],
    ids=[
        "swapped",
        "made anew",
        "retyped",
        "a partition retyped",
        "unwatched",
        "a partition unwatched",
    ],
)
def test_promise_i_ddl_between_a_restore_and_the_first_run(
    db: psycopg.Connection, server: PostgresServer, restore: Callable[..., str], change: str
) -> None:
    db.execute(PARTITIONED)
    refresh_everything(db)
    with psycopg.connect(server.url(restore()), autocommit=True) as restored:
        assert_settled(restored, "t_1h")
        restored.execute(change.encode())
        assert restored.execute(INVALID).fetchall() != []
        refresh_everything(restored)
        assert_settled(restored, "t_1h")
        assert restored.execute(INVALID).fetchall() == []


@pytest.mark.parametrize(
    "change",
    [
        "RENAME v TO x; ALTER TABLE raw.t RENAME w TO v; ALTER TABLE raw.t RENAME x TO w",
        "DROP v, ADD v integer DEFAULT 7",
        "RENAME v TO x; ALTER TABLE raw.t ADD v integer DEFAULT 7",
        "RENAME ts TO x; ALTER TABLE raw.t RENAME sent TO ts; ALTER TABLE raw.t RENAME x TO sent",
        "DROP v; ALTER TABLE raw.t RENAME u TO v",
        "DROP w; ALTER TABLE raw.t RENAME u TO w",
        "RENAME w TO x; ALTER TABLE raw.t RENAME u TO w",
    ],
    ids=["swapped", "made anew", "another", "times", "v", "w", "old and new"],
)
def test_promise_i_ddl_that_no_run_saw_before_the_dump(
    db: psycopg.Connection, server: PostgresServer, restore: Callable[..., str], change: str
) -> None:
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, v integer, u integer, w integer, sent timestamptz);"
        "INSERT INTO raw.t SELECT now() - make_interval(days => i), i, 3 * i, 2 * i,"
        " now() - make_interval(days => i * i) FROM generate_series(1, 9) AS i;"
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1d', '1 day', 'ts',"
        """ metrics => '{"v": ["sum"], "w": ["sum"]}')"""
    )
    refresh_everything(db)
    db.execute("ALTER TABLE raw.t ADD later integer; ALTER TABLE raw.t DROP later")
    with psycopg.connect(server.url(restore()), autocommit=True) as restored:
        assert restored.execute(INVALID).fetchall() == []
    db.execute(f"ALTER TABLE raw.t {change}".encode())
    with psycopg.connect(server.url(restore()), autocommit=True) as restored:
        assert restored.execute(INVALID).fetchall() != []
        refresh_everything(restored)
        assert_settled(restored, "t_1d")
        assert restored.execute(INVALID).fetchall() == []


def test_promise_i_a_time_column_that_was_renamed_before_the_dump_is_what_is_told(
    db: psycopg.Connection, server: PostgresServer, restore: Callable[..., str]
) -> None:
    db.execute(PARTITIONED)
    refresh_everything(db)
    db.execute("ALTER TABLE raw.t RENAME ts TO at")
    with psycopg.connect(server.url(restore()), autocommit=True) as restored:
        for _ in range(2):
            told = restored.execute(INVALID).fetchall()
            assert "column ts of raw.t, which its rollups read, is gone" in told[0][2]
            assert not [row for row in told if "left out" in row[2]]
            restored.execute("CALL silver.run_rollups()")
        restored.execute("ALTER TABLE raw.t RENAME at TO ts")
        restored.execute("SELECT silver.reset_rollup_retry('t_1h')")
        refresh_everything(restored)
        assert_settled(restored, "t_1h")
        assert restored.execute(INVALID).fetchall() == []


def test_promise_i_no_other_column_is_taken_for_one_that_was_gone_before(
    db: psycopg.Connection, server: PostgresServer, restore: Callable[..., str]
) -> None:
    """The restored table numbers its columns anew."""
    db.execute(PARTITIONED)
    db.execute("ALTER TABLE raw.t DROP v")
    run = "CALL silver.run_rollups(as_of => 'infinity')"
    db.execute(run)
    with psycopg.connect(server.url(restore()), autocommit=True) as restored:
        restored.execute(run)
        restored.execute("ALTER TABLE raw.t ADD x integer")
        restored.execute("SELECT silver.reset_rollup_retry('t_1h')")
        restored.execute(run)
        assert restored.execute(INVALID).fetchall() != []
        restored.execute("ALTER TABLE raw.t ADD v integer DEFAULT 7")
        restored.execute("SELECT silver.reset_rollup_retry('t_1h')")
        refresh_everything(restored)
        assert restored.execute(INVALID).fetchall() == []
        assert_settled(restored, "t_1h")


@pytest.mark.parametrize("options", [(), ("--disable-triggers",)], ids=["fired", "disabled"])
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "in two"])
def test_promise_i_a_dump_taken_apart(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
    options: tuple[str, ...],
    is_whole: bool,
) -> None:
    """Schema first, then data: the triggers log the load while the log's own rows come along. A
    whole dump knows no order of its tables but that of their names."""
    create_hierarchy(db)
    refresh_everything(db)
    db.execute("UPDATE raw.readings SET count = 5 WHERE device = 'd2'")
    db.execute("SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source")
    db.execute("DELETE FROM raw.readings WHERE device IS NULL")
    copy = make_database()
    origin, target = server.superuser_url(db.info.dbname), server.superuser_url(copy)
    for part in ("--schema-only", "--data-only"):
        dump = str(tmp_path / "dump")
        _run(server, "pg_dump", "-Fc", *(() if is_whole else (part,)), "-f", dump, origin)
        more = options if part == "--data-only" else ()
        _run(server, "pg_restore", "-e", part, *more, "-d", target, dump)
    with psycopg.connect(server.url(copy), autocommit=True) as restored:
        mark = "SELECT (rollup_engine.this_numbering()).mark"
        assert restored.execute(mark).fetchone() not in ((None,), db.execute(mark).fetchone())
        assert_equal_to_group_by(restored, *LEVELS)
        refresh_everything(restored)
        assert_settled(restored, *LEVELS)
        assert restored.execute(INVALID).fetchall() == []
        for change in CHANGES:
            restored.execute(change.encode())
            assert_equal_to_group_by(restored, *LEVELS)
            refresh_everything(restored)
            assert_settled(restored, *LEVELS)


def test_promise_f_a_restore_brings_no_late_rows(
    db: psycopg.Connection, server: PostgresServer, restore: Callable[..., str]
) -> None:
    """Triggers that it switches off and on leave open what was written; but that is in the dump."""
    create_hierarchy(db)
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.readings', '1 day')")
    db.execute("SELECT rollup_engine.run_maintenance(NULL, '2026-03-03 00:00+00')")
    copy = restore(("-s",), ("-a", "--disable-triggers"))
    with psycopg.connect(server.url(copy), autocommit=True) as restored:
        refresh_everything(restored)
        sealed = restored.execute("SELECT count(sealed_before) FROM silver.rollup_config")
        assert sealed.fetchone() == (1,)
        assert restored.execute("SELECT error_message FROM silver.error_log").fetchall() == []
        assert restored.execute(INVALID).fetchall() == []


@pytest.mark.parametrize("is_looked_at", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        ((),),
        (("-1",),),
        (("-s",), ("-a", "--disable-triggers")),
        (("-s",), ("-a", "--disable-triggers", "-1")),
        (("-s",), ("-a", "--disable-triggers", "-j2")),
    ],
    ids=["whole", "one transaction", "in two", "in two, one transaction", "in two, parallel"],
)
def test_promise_f_late_rows_that_no_run_counted_before_the_dump_are_told(
    db: psycopg.Connection,
    server: PostgresServer,
    restore: Callable[..., str],
    how: tuple[tuple[str, ...], ...],
    is_looked_at: bool,
) -> None:
    """Who wrote them, the restored rows do not say."""
    create_hierarchy(db)
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.readings', '1 day')")
    db.execute("SELECT rollup_engine.run_maintenance(NULL, '2026-03-03 00:00+00')")
    db.execute("SELECT silver.set_retention('raw.readings', NULL)")
    db.execute("INSERT INTO raw.readings (ts, device) VALUES ('2026-03-01 10:00+00', 'late')")
    with psycopg.connect(server.url(restore(*how)), autocommit=True) as restored:
        if is_looked_at:
            restored.execute(
                "SELECT silver.create_rollup_table('raw.readings', 'silver', 'another', '1 day')"
            )
        refresh_everything(restored)
        told = restored.execute("SELECT DISTINCT error_message FROM silver.error_log").fetchall()
        assert told == [("late rows were perhaps kept out of sealed time, not counted",)]
    refresh_everything(db)
    counted = db.execute("SELECT max(sealed_late_rows) FROM silver.rollup_config")
    assert counted.fetchone() == (1,)


@pytest.mark.parametrize(
    "off",
    [
        "ALTER TABLE raw.readings DISABLE TRIGGER ALL; {}",
        "ALTER TABLE raw.readings DISABLE TRIGGER ALL; {};"
        "ALTER TABLE raw.readings ENABLE TRIGGER ALL",
        "DO $$ DECLARE n name; BEGIN FOR n IN SELECT tgname FROM pg_trigger"
        " WHERE tgrelid = 'raw.readings'::regclass AND NOT tgisinternal"
        " LOOP EXECUTE format('DROP TRIGGER %I ON raw.readings', n); END LOOP; END $$; {}",
    ],
    ids=["off", "on again", "gone"],
)
def test_promise_f_late_rows_that_nothing_captured_before_the_dump_are_told(
    db: psycopg.Connection, server: PostgresServer, restore: Callable[..., str], off: str
) -> None:
    create_hierarchy(db)
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.readings', '1 day')")
    db.execute("SELECT rollup_engine.run_maintenance(NULL, '2026-03-03 00:00+00')")
    late = "INSERT INTO raw.readings (ts, device) VALUES ('2026-03-01 10:00+00', 'late')"
    db.execute(off.replace("{}", late).encode())
    with psycopg.connect(server.url(restore()), autocommit=True) as restored:
        refresh_everything(restored)
        told = restored.execute("SELECT DISTINCT error_message FROM silver.error_log").fetchall()
        assert told == [("late rows were perhaps kept out of sealed time, not counted",)]


def test_promise_i_a_schema_without_its_rows_says_so(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
) -> None:
    """Rather than answering for rollups that it knows nothing of, or migrating half way."""
    create_hierarchy(db)
    refresh_everything(db)
    dump = _dump(server, db, tmp_path)
    copy = make_database()
    _run(server, "pg_restore", "-s", "-d", server.superuser_url(copy), dump)
    with psycopg.connect(server.superuser_url(copy), autocommit=True) as restored:
        with pytest.raises(psycopg.Error, match="nothing is known of rollup"):
            restored.execute(f"SELECT * FROM gold.{LEVELS[0]}".encode())
        error = misfit(restored)
        assert error
        assert "restored without its data" in error.message
    with pytest.raises(FlywayError, match="restored without its data"):
        migrate_project(server.superuser_url(copy))
    without_rights = make_database()
    _run(server, "pg_restore", "-s", "-x", "-d", server.superuser_url(without_rights), dump)
    with pytest.raises(FlywayError, match="restored without its data"):
        migrate_project(server.superuser_url(without_rights))
    _run(server, "pg_restore", "-a", "-d", server.superuser_url(copy), dump)
    migrate_project(server.superuser_url(copy))
    with psycopg.connect(server.superuser_url(copy), autocommit=True) as restored:
        assert misfit(restored) is None
        refresh_everything(restored)
        assert_settled(restored, *LEVELS)


def test_promise_i_rows_of_rollups_that_a_dump_leaves_out(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
) -> None:
    """What is derived can be computed anew; what was sealed is missed by name."""
    db.execute(PARTITIONED)
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 's_1h', '1 hour', dimensions => '{}',"
        " chunk_interval => '1 day', metrics => '{\"v\": [\"sum\"]}', filter => 'v < 10');"
        "SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')"
    )
    refresh_everything(db)
    db.execute("SELECT silver.perform_rollup()")
    dump, url = str(tmp_path / "dump"), server.superuser_url(db.info.dbname)

    def restored_without(pattern: str) -> psycopg.Connection[Any]:
        _run(server, "pg_dump", "-Fc", f"--exclude-table-data={pattern}", "-f", dump, url)
        copy = make_database()
        _run(server, "pg_restore", "-e", "-d", server.superuser_url(copy), dump)
        return psycopg.connect(server.url(copy), autocommit=True)

    all_three = {"silver.t_1h", "silver.t_1d", "silver.s_1h"}
    for changes, pattern, invalid in (
        ("SELECT", "gold.*", set()),
        ("SELECT", "silver.[st]_1*", all_three),
        ("SELECT", "silver.t_1d*", all_three),
        (
            "UPDATE raw.t SET v = 6 WHERE v = 5;"
            "INSERT INTO raw.t (ts, v) VALUES ('2026-03-02 20:00+00', 7);"
            "SELECT rollup_engine.drain(id, now()) FROM rollup_engine.source",
            "rollup_engine.stale_range",
            all_three,
        ),
    ):
        db.execute(changes.encode())
        with restored_without(pattern) as restored:
            rows = restored.execute(INVALID).fetchall()
            assert {target for target, *_ in rows} == invalid
            assert all("left out when this database was restored" in row[2] for row in rows)
            restored.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
            refresh_everything(restored)
            assert restored.execute(INVALID).fetchall() == []
            assert_settled(restored, "t_1h", "t_1d", "s_1h")
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.t', '30 days')")
    sealed = db.execute("SELECT action FROM silver.maintain_timeseries_tables('raw.t')").fetchall()
    assert ("sealed",) in sealed
    with restored_without("silver.s_1h*") as restored:
        restored.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
        assert restored.execute(INVALID).fetchall() == []
        errors = restored.execute("SELECT target_table, error_message FROM silver.error_log")
        rows = errors.fetchall()
        assert {target for target, _ in rows} == {"silver.s_1h"}
        assert all("cannot be computed again: they were sealed" in message for _, message in rows)


def test_promise_i_rows_of_a_window_that_a_dump_leaves_out_beside_a_lost_zone(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
) -> None:
    """They are before the window, and nothing can be marked until the zone is known again."""
    db.execute(
        "CREATE TABLE raw.w (ts timestamptz NOT NULL, v int); INSERT INTO raw.w"
        " SELECT now() - g * interval '1 hour', 1 FROM generate_series(1, 720) AS g;"
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'w_1h', '1 hour',"
        " timezone => 'Asia/Kolkata', change_tracking => 'window', look_back_window => '2 days',"
        " chunk_interval => '7 days')"
    )
    refresh_everything(db)
    change = "UPDATE rollup_engine.zone_rules SET {0}"
    lost = "timezone = 'Mars/Kolkata' WHERE timezone = 'Asia/Kolkata'"
    found = "timezone = 'Asia/Kolkata' WHERE timezone = 'Mars/Kolkata'"
    db.execute(change.format(lost).encode())
    force_configuration(db, lost)
    old = "SELECT partition::text FROM rollup_engine.rollup_partition ORDER BY from_time OFFSET 1"
    (partition,) = db.execute(old).fetchone() or ("",)
    dump, url = str(tmp_path / "dump"), server.superuser_url(db.info.dbname)
    _run(server, "pg_dump", "-Fc", f"--exclude-table-data={partition}", "-f", dump, url)
    copy = make_database()
    _run(server, "pg_restore", "-e", "-d", server.superuser_url(copy), dump)
    with psycopg.connect(server.url(copy), autocommit=True) as restored:
        restored.execute("CALL silver.run_rollups()")
        restored.execute(change.format(found).encode())
        force_configuration(restored, found)
        restored.execute("SELECT silver.maintain_timeseries_tables()")
        refresh_everything(restored)
        assert_equal_to_group_by(restored, "w_1h")


def test_promise_i_a_dump_beside_rollups_of_the_same_numbers(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    template: str,
    tmp_path: Path,
) -> None:
    """Its views would go by what is stale of others: the doctor names them, and the others heal."""
    db.execute(PARTITIONED)
    refresh_everything(db)
    dump = _dump(server, db, tmp_path)
    other = server.superuser_url(make_database(template))
    with psycopg.connect(other, autocommit=True, row_factory=dict_row) as superuser:
        superuser.execute(PARTITIONED.replace("raw.t", "raw.o").replace("t_1h", "o_1h").encode())
        superuser.execute("CALL silver.run_rollups(as_of => 'infinity')")
        _run(server, "pg_restore", "-d", other, dump, code=1)
        found = {f.check: f for f in examine(superuser) if f.verdict == "problem"}
        assert "live view of no rollup here" in found["gold.t_1h"].found
        superuser.execute(found["gold.t_1h"].next_step.partition("goes by ")[2].encode())
        superuser.execute("CALL silver.run_rollups(as_of => 'infinity')")
        assert [f for f in examine(superuser) if f.verdict == "problem"] == []
    with psycopg.connect(other, autocommit=True) as restored:
        assert_settled(restored, "o_1h")


def test_promise_i_the_source_alone_restored_over_a_live_database(
    db: psycopg.Connection, server: PostgresServer, tmp_path: Path
) -> None:
    create_hierarchy(db)
    refresh_everything(db)
    url = server.superuser_url(db.info.dbname)
    _run(server, "pg_dump", "-Fc", "-t", "raw.readings*", "-f", str(tmp_path / "raw"), url)
    db.execute("UPDATE raw.readings SET count = 5 WHERE device = 'd2'")
    db.execute("DELETE FROM raw.readings WHERE device IS NULL")
    refresh_everything(db)
    _run(server, "pg_restore", "--clean", "--if-exists", "-d", url, str(tmp_path / "raw"))
    health = "SELECT DISTINCT health FROM silver.timeseries_operations_monitor"
    assert db.execute(health).fetchall() == [("invalid",)]
    refresh_everything(db)
    assert_settled(db, *LEVELS)
    for change in CHANGES:
        db.execute(change.encode())
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
        assert_settled(db, *LEVELS)


def test_promise_i_a_crash_of_the_server(private_server: tuple[PostgresServer, str]) -> None:
    """In the middle of a refresh and of a write, with a prepared transaction (which flushes what
    was committed before)."""
    url = private_server[0].url(private_server[1])

    def connect(autocommit: bool = True) -> psycopg.Connection[Any]:
        return psycopg.connect(url, autocommit=autocommit)

    with connect() as db:
        create_hierarchy(db)
        refresh_everything(db)
        pause_refreshes_of(db, "silver.readings_1m")
        db.execute(CHANGES[0])
        db.execute("BEGIN")
        db.execute(CHANGES[1])
        db.execute("PREPARE TRANSACTION 'across the crash'")
        db.execute("SELECT pg_advisory_lock(4711)")
        refresher, writer = connect(), connect(autocommit=False)
        refresher.execute("SET test.pause = 'on'")
        refresh = Background(refresher, "CALL silver.run_rollups(as_of => 'infinity')")
        refresh.wait_until_blocked(db)
        writer.execute("DELETE FROM raw.readings")
        os.kill(writer.info.backend_pid, signal.SIGKILL)
    with pytest.raises(psycopg.OperationalError):
        refresh.result()
    refresher.close()
    writer.close()
    with _reconnect(connect) as db:
        assert_equal_to_group_by(db, *LEVELS)
        db.execute("COMMIT PREPARED 'across the crash'")
        assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
        assert_settled(db, *LEVELS)
        for change in CHANGES:
            db.execute(change.encode())
            assert_equal_to_group_by(db, *LEVELS)
        refresh_everything(db)
        assert_settled(db, *LEVELS)
        assert db.execute("SELECT * FROM silver.error_log").fetchall() == []


def _reconnect(connect: Callable[[], psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
    """The server restarts by itself once it has recovered."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return connect()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
