"""Promises f and g: sealed time never changes silently, and nothing is dropped that a rollup has
not absorbed; with writers and readers at work meanwhile."""

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from conftest import Connect
from interleaving import Background
from raw_tables import maintained
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from scenes import scene

pytestmark = pytest.mark.partman

NOW = datetime(2026, 3, 11, 12, tzinfo=UTC)


def day(number: int) -> datetime:
    return datetime(2026, 3, number, tzinfo=UTC)


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    """Ten days of readings, a row an hour, in partitions of a day; an hourly and a daily rollup."""
    db.execute(
        "CREATE TABLE raw.readings (ts timestamptz, device int, level int) PARTITION BY RANGE (ts)"
    )
    for number in range(1, 13):
        db.execute(
            f"CREATE TABLE raw.readings_{number} PARTITION OF raw.readings"
            f" FOR VALUES FROM ('{day(number)}') TO ('{day(number + 1)}')"
            " WITH (autovacuum_enabled = off)"  # it would hold a partition that is to go
        )
    db.execute("CREATE INDEX ON raw.readings (ts)")
    fill(db, day(1), day(11))
    for source_, target, width in (
        ("raw.readings", "readings_1h", "1 hour"),
        ("readings_1h", "readings_1d", "1 day"),
    ):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s, dimensions => '{device}')",
            [source_, target, width],
        )
    return db


def fill(db: psycopg.Connection[Any], start: datetime, end: datetime) -> None:
    db.execute(
        "INSERT INTO raw.readings SELECT ts, 1, 1 FROM"
        " generate_series(%s, %s - interval '1 second', '1 hour'::interval) AS ts",
        [start, end],
    )


def maintain(db: psycopg.Connection[Any], now: datetime = NOW) -> list[tuple[str, str]]:
    """Removals and seals of a run: (table, action)."""
    rows = db.execute("SELECT * FROM rollup_engine.run_maintenance(NULL, %s)", [now]).fetchall()
    assert not [row for row in rows if row[1] == "failed"], rows
    return [row[:2] for row in rows if row[1] in ("sealed", "dropped", "archived", "deleted")]


def partitions(db: psycopg.Connection[Any]) -> set[int]:
    rows = db.execute(
        "SELECT substring(inhrelid::regclass::text FROM 'readings_([0-9]+)$')::integer"
        " FROM pg_inherits WHERE inhparent = 'raw.readings'::regclass"
    ).fetchall()
    return {number for (number,) in rows if number}


def total(db: psycopg.Connection[Any], relation: str = "gold.readings_1h") -> int:
    row = db.execute(f"SELECT coalesce(sum(row_count), 0) FROM {relation}".encode()).fetchone()
    assert row
    return int(row[0])


def sealed(db: psycopg.Connection[Any]) -> dict[str, tuple[int, datetime | None]]:
    rows = db.execute(
        "SELECT target_table, sealed_late_rows, exact_since"
        " FROM silver.timeseries_operations_monitor"
    ).fetchall()
    return {name.removeprefix("silver."): (late, since) for name, late, since in rows}


def test_raw_is_dropped_only_when_the_rollups_have_absorbed_it(
    source: psycopg.Connection,
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    assert maintain(source) == []
    assert maintain(source) == []
    assert partitions(source) == set(range(1, 13)), "nothing is absorbed yet"

    refresh_everything(source)
    source.execute("INSERT INTO raw.readings VALUES (%s, 1, 1)", [day(3)])
    assert maintain(source) == [("raw.readings", "sealed")]
    assert partitions(source) == set(range(1, 13)), "the first run only seals"
    maintain(source)
    assert partitions(source) == set(range(3, 13)), "day 3 has a change that is not absorbed"

    refresh_everything(source)
    maintain(source)
    maintain(source)
    assert partitions(source) == set(range(8, 13))
    assert total(source) == total(source, "gold.readings_1d") == 241
    assert_settled(source, "readings_1h")
    assert sealed(source)["readings_1h"] == (0, day(8))


@pytest.mark.parametrize("obstacle", ["paused", "parked", "attached", "above", "log"])
def test_whatever_keeps_a_rollup_behind_keeps_raw(
    source: psycopg.Connection, obstacle: str
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    if obstacle == "paused":
        source.execute("SELECT silver.pause_rollup('readings_1h')")
    elif obstacle == "parked":
        source.execute("UPDATE silver.rollup_config SET retry_count = 10, parked_at = now()")
    source.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    if obstacle == "attached":
        source.execute("CREATE TABLE raw.old (LIKE raw.readings)")
        source.execute("INSERT INTO raw.old VALUES ('2026-02-28 12:00+00', 1, 1)")
        source.execute(
            "ALTER TABLE raw.readings ATTACH PARTITION raw.old"
            " FOR VALUES FROM ('2026-02-28 00:00+00') TO ('2026-03-01 00:00+00')"
        )
    elif obstacle == "above":
        source.execute(
            "CREATE TABLE raw.top (LIKE raw.readings) PARTITION BY RANGE (ts);"
            "ALTER TABLE raw.top ATTACH PARTITION raw.readings DEFAULT;"
            "INSERT INTO raw.top VALUES ('2026-03-01 12:00+00', 1, 1);"
            "DELETE FROM raw.top WHERE ts = '2026-03-01 12:00+00'"
        )
    elif obstacle == "log":
        source.execute("SELECT silver.mark_stale('readings', '-infinity', 'infinity')")
    assert maintain(source) == []
    assert maintain(source) == []
    assert partitions(source) == set(range(1, 13))
    # What is written past the source shows at once, what was attached with the next drain.
    assert total(source) == (239 if obstacle == "above" else 240)


def test_what_an_older_snapshot_keeps_is_told(source: psycopg.Connection, connect: Connect) -> None:
    refresh_everything(source)
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    report = connect(autocommit=False)
    report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    report.execute("SELECT 1 FROM raw.readings LIMIT 0")
    assert maintain(source) == [("raw.readings", "sealed")]
    query = "SELECT action, detail FROM rollup_engine.run_maintenance('raw.readings', %s)"
    told: dict[str, str] = dict(source.execute(query, [NOW]).fetchall())
    assert "goes when no snapshot is older than the seal" in told["skipped"]
    report.rollback()
    assert {action for _, action in maintain(source)} == {"dropped"}


@pytest.mark.parametrize(
    "done",
    [
        "ALTER TABLE raw.readings ALTER level TYPE int USING level + 1000",
        "ALTER TABLE raw.readings_2 DISABLE TRIGGER ALL",
        "ALTER TABLE raw.readings DISABLE TRIGGER ALL; UPDATE raw.readings SET level = 9;"
        " ALTER TABLE raw.readings ENABLE TRIGGER ALL",
        "ALTER TABLE silver.readings_1h DISABLE TRIGGER ALL",
    ],
)
def test_promise_g_nothing_is_sealed_while_something_is_to_be_taken_in(
    source: psycopg.Connection, done: str
) -> None:
    """DDL that no run has seen yet: health is `invalid`, and what is sealed could not follow."""
    refresh_everything(source)
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    source.execute(done.encode())
    assert maintain(source) == []
    rows = source.execute(
        "SELECT detail FROM rollup_engine.run_maintenance('raw.readings', %s)"
        " WHERE action = 'skipped'",
        [NOW],
    ).fetchall()
    assert rows
    assert rows[0][0].startswith("nothing is sealed: silver.readings_1h is not valid: ")
    refresh_everything(source)
    assert maintain(source) == [("raw.readings", "sealed")]
    assert_equal_to_group_by(source, "readings_1h", "readings_1d")


def test_partitions_that_set_retention_makes_narrower_are_no_change(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.r (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    db.execute("SELECT silver.partition_source('raw.r', '1 day')")
    db.execute("SELECT silver.create_rollup_table('raw.r', 'silver', 'r_1h', '1 hour')")
    db.execute("INSERT INTO raw.r VALUES (now() - interval '2 hours', 1)")
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.r', '3 days')")
    problems = "SELECT problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
    assert db.execute(problems).fetchall() == []


def test_the_bucket_across_the_border_is_absorbed_before_raw_is_dropped(
    source: psycopg.Connection,
) -> None:
    source.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1w', '7 days')"
    )
    source.execute("SELECT silver.set_retention('readings', '1 day')")
    refresh_everything(source)
    maintain(source)
    maintain(source)
    # The week from the 9th is not over on the 11th: the 9th stays, though it is old enough.
    assert partitions(source) == set(range(9, 13))
    assert_equal_to_group_by(source, "readings_1w")
    assert total(source, "gold.readings_1w") == 240


def test_late_rows_are_kept_counted_and_shown_and_change_no_rollup(
    source: psycopg.Connection,
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    maintain(source)
    source.execute(
        "INSERT INTO raw.readings SELECT '2026-03-02 10:30+00', n, n FROM generate_series(1, 7) n"
    )
    source.execute("INSERT INTO raw.readings VALUES ('1999-01-01 00:00+00', 1, 1)")
    assert total(source) == total(source, "gold.readings_1d") == 240
    refresh_everything(source)
    assert total(source) == total(source, "gold.readings_1d") == 240
    assert sealed(source) == {"readings_1h": (8, day(8)), "readings_1d": (8, day(8))}
    errors = source.execute(
        "SELECT error_message, detail FROM silver.error_log WHERE error_code = 'TR006'"
        " AND target_table = 'silver.readings_1h' ORDER BY id"
    ).fetchall()
    assert errors
    assert "1999-01-01" in errors[0][1]
    maintain(source)
    rows = source.execute(
        "SELECT tableoid::regclass::text, count(*) FROM raw.readings"
        " WHERE ts < '2026-03-08' GROUP BY 1"
    ).fetchall()
    assert rows == [("raw.readings_default", 8)]
    source.execute("UPDATE raw.readings SET level = 9 WHERE ts < '2026-03-08'")
    source.execute("DELETE FROM raw.readings WHERE ts < '2026-03-08'")
    refresh_everything(source)
    assert total(source) == 240
    assert_settled(source, "readings_1h")


def test_a_late_row_between_seal_and_drop_is_counted(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    source.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    maintain(source)
    refresh_everything(source)
    assert total(source) == 240
    assert sealed(source)["readings_1h"] == (1, day(8))


def test_a_writer_that_commits_into_a_partition_while_it_is_due_is_never_lost(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    writer = connect(autocommit=False)
    writer.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    assert maintain(source) == [], "its writer is not done"
    writer.commit()
    assert maintain(source) == [("raw.readings", "sealed")]
    assert sealed(source)["readings_1h"][1] == day(2), "only as far as the row that is not absorbed"
    refresh_everything(source)
    maintain(source)
    maintain(source)
    assert partitions(source) == set(range(8, 13))
    assert total(source) == 241


def test_a_writer_that_commits_while_the_seal_waits_for_it_is_absorbed(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    writer = connect(autocommit=False)
    writer.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    sealing = Background(
        connect(), "SELECT rollup_engine.run_maintenance('raw.readings', %s)", [NOW]
    )
    with contextlib.suppress(AssertionError):  # it may have given up already
        sealing.wait_until_blocked(source)
    writer.commit()
    sealing.result()
    refresh_everything(source)
    assert total(source) == 241


def test_a_writer_waits_for_no_seal_that_waits_for_another_writer(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    first, second = connect(autocommit=False), connect()
    first.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    sealing = threading.Thread(target=maintain, args=(connect(),))
    sealing.start()
    second.execute("SET statement_timeout = '5s'")
    second.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 2, 1)")
    sealing.join()
    first.commit()
    refresh_everything(source)
    assert total(source) == 242


def test_an_older_snapshot_keeps_what_it_may_still_read(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    reader = connect(autocommit=False)
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    # It holds no lock on anything here, only a snapshot in which everything is stale.
    reader.execute("SELECT count(*) FROM pg_namespace")
    refresh_everything(source)
    maintain(source)
    assert not [row for row in maintain(source) if row[1] == "dropped"]
    assert total(reader) == 240
    reader.commit()
    maintain(source)
    assert partitions(source) == set(range(8, 13))


def test_a_reader_in_a_transaction_is_not_disturbed(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    reader = connect(autocommit=False)
    reader.execute("SELECT count(*) FROM raw.readings")
    assert maintain(source) == [], "its lock is in the way"
    assert reader.execute("SELECT count(*) FROM raw.readings").fetchone() == (240,)
    reader.commit()
    maintain(source)
    assert partitions(source) == set(range(8, 13))


def test_an_archive_has_a_schema_of_its_own(db: psycopg.Connection) -> None:
    """Its name would be cut to that of the schema itself."""
    schema = "s" * 56
    db.execute(f"CREATE SCHEMA {schema}".encode())
    db.execute(
        f"CREATE TABLE {schema}.t (ts timestamptz NOT NULL) PARTITION BY RANGE (ts)".encode()
    )
    with pytest.raises(psycopg.Error, match="no room for _archive"):
        db.execute("SELECT silver.set_retention(%s, '3 days', archive => true)", [f"{schema}.t"])
    db.execute("SELECT silver.set_retention(%s, '3 days')", [f"{schema}.t"])


def test_partitions_can_be_archived_instead(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days', archive => true)")
    refresh_everything(source)
    maintain(source)
    assert ("raw.readings", "archived") in maintain(source)
    assert partitions(source) == set(range(8, 13))
    count = source.execute("SELECT count(*) FROM raw_archive.readings_2").fetchone()
    assert count == (24,)
    source.execute("INSERT INTO raw_archive.readings_2 VALUES ('2026-03-02 10:30+00', 1, 1)")
    refresh_everything(source)
    assert total(source) == 240
    assert sealed(source)["readings_1h"] == (0, day(8)), "the archive is nobody's source"


def test_rollups_have_a_retention_of_their_own(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.set_retention('readings_1h', '5 days')")
    assert ("silver.readings_1h", "deleted") not in maintain(source)
    assert sealed(source)["readings_1d"] == (0, day(1)), "the daily rollup has absorbed nothing yet"
    refresh_everything(source)
    assert ("silver.readings_1h", "sealed") in maintain(source)
    assert ("silver.readings_1h", "deleted") in maintain(source)
    kept = total(source)
    assert kept < 240
    assert total(source, "gold.readings_1d") == 240
    # A late row brings no bucket back that was removed, in no rollup that is sealed there.
    source.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    refresh_everything(source)
    assert total(source) == kept
    assert total(source, "gold.readings_1d") == 240
    assert sealed(source)["readings_1h"][0] == 1
    assert_settled(source, "readings_1h")


def test_create_rollup_table_takes_a_retention(source: psycopg.Connection) -> None:
    source.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'short', '1 hour',"
        " retention => '2 days')"
    )
    refresh_everything(source)
    maintained(source, NOW)
    maintained(source, NOW)
    oldest = source.execute("SELECT min(bucket) FROM gold.short").fetchone()
    assert oldest == (NOW - timedelta(days=2),)
    source.execute("SELECT silver.set_retention('short', NULL)")
    assert maintain(source, NOW + timedelta(days=1)) == []


def test_a_rollup_made_later_starts_where_its_source_is_whole(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    maintain(source)
    source.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    source.execute("SELECT silver.create_rollup_table('raw.readings','silver','late','7 days')")
    refresh_everything(source)
    assert source.execute("SELECT min(bucket) FROM gold.late").fetchone() == (day(9),)
    assert_settled(source, "late")
    for name in ("late", "readings_1d", "readings_1h"):
        source.execute("SELECT silver.drop_rollup(%s)", [name])
    source.execute("SELECT silver.create_rollup_table('raw.readings','silver','anew','1 day')")
    source.execute("INSERT INTO raw.readings VALUES ('2026-03-03 10:30+00', 1, 1)")
    refresh_everything(source)
    assert sealed(source)["anew"][0] == 1, "late rows are counted for it as well"
    assert_settled(source, "anew")


def test_what_is_given_up_is_not_dropped(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    source.execute("SELECT silver.set_retention('readings', NULL)")
    assert maintain(source) == []
    assert partitions(source) == set(range(1, 13))


def test_tables_that_cannot_lose_partitions_are_refused(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.plain (ts timestamptz)")
    db.execute(
        "CREATE TABLE raw.two (ts timestamptz, at timestamptz, v int) PARTITION BY RANGE (ts)"
    )
    db.execute("SELECT silver.create_rollup_table('raw.two', 'silver', 'two_1h', '1 hour', 'at')")
    for table, keep, message in [
        ("plain", "1 day", "not partitioned"),
        ("two", "1 day", "rolled up otherwise: silver.two_1h by at"),
        ("missing", "1 day", "there is no table or rollup missing"),
        ("two_1h", "0", "keep is"),
        ("two_1h", "-1 day", "keep is"),
    ]:
        with pytest.raises(psycopg.Error, match=message):
            db.execute("SELECT silver.set_retention(%s, %s)", [table, keep])


def test_retention_of_what_became_a_partition_says_that_it_rests(
    source: psycopg.Connection,
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    assert maintain(source) == [("raw.readings", "sealed")]
    source.execute(
        "CREATE TABLE raw.top (LIKE raw.readings) PARTITION BY LIST (device);"
        "ALTER TABLE raw.top ATTACH PARTITION raw.readings DEFAULT"
    )
    told = source.execute(
        "SELECT target, detail FROM rollup_engine.run_maintenance(NULL, %s)"
        " WHERE action = 'skipped'",
        [NOW],
    ).fetchall()
    assert [target for target, _ in told] == ["raw.readings"]
    assert "raw.readings is a partition of raw.top" in told[0][1]
    warned = source.execute(
        "SELECT is_valid, problem, hint FROM silver.validate_rollup_config()"
        " WHERE target = 'raw.readings'"
    ).fetchall()
    assert [row[:2] for row in warned] == [(True, "raw.readings is a partition of raw.top")]
    assert partitions(source) == set(range(1, 13))
    # What it says to do is done.
    source.execute(
        "SELECT silver.set_retention('raw.top', '3 days'),"
        " silver.set_retention('raw.readings', NULL)"
    )
    refresh_everything(source)
    assert maintain(source) == [("raw.top", "sealed")]
    maintain(source)
    assert partitions(source) == set(range(8, 13))
    assert total(source, "gold.readings_1d") == 240


def test_a_partition_that_somebody_locks_is_no_failure(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    other = connect(autocommit=False)
    other.execute("TRUNCATE raw.readings_11")
    told = maintained(source, NOW, "raw.readings")
    busy = "not removed, for somebody uses it; the next run tries again"
    assert told == [("raw.readings", "skipped", busy)]
    assert source.execute("SELECT count(*) FROM silver.error_log").fetchone() == (0,)
    other.rollback()
    assert {action for _, action in maintain(source)} == {"dropped"}


@pytest.mark.parametrize(
    ("runs", "use", "said"),
    [
        (0, "INSERT INTO raw.readings_3 VALUES ('2026-03-03', 2, 1)", "not sealed"),
        (1, "LOCK TABLE ONLY raw.readings IN ACCESS SHARE MODE", "not removed"),
        (
            1,
            "SELECT * FROM raw.readings_3",
            "raw.readings_3: 2026-03-03 00:00:00+00 to 2026-03-04 00:00:00+00 stays",
        ),
    ],
)
def test_what_is_in_use_is_said_to_wait(
    source: psycopg.Connection, connect: Connect, runs: int, use: str, said: str
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    for _ in range(runs):
        maintain(source)
    with connect(autocommit=False) as other:
        other.execute(use.encode())
        told = maintained(source, NOW, "raw.readings")
        other.rollback()
    busy = f"{said}, for somebody uses it; the next run tries again"
    assert [row for row in told if row[1] != "dropped"] == [("raw.readings", "skipped", busy)]
    assert maintain(source)


def test_what_was_removed_stays_so_when_the_seal_fails(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    source.execute(
        "CREATE OR REPLACE FUNCTION rollup_engine.strays_from(p_relation regclass)"
        " RETURNS timestamptz LANGUAGE sql AS 'SELECT (1 / 0)::text::timestamptz'"
    )
    told = source.execute(
        "SELECT action FROM rollup_engine.run_maintenance('raw.readings', %s)", [NOW]
    ).fetchall()
    assert [action for (action,) in told if action != "analyzed"] == ["dropped"] * 7 + ["failed"]
    assert partitions(source) == set(range(8, 13))


@pytest.fixture
def by_arrival(db: psycopg.Connection) -> psycopg.Connection:
    """A table in partitions by when rows came, with retention; some are of times to come."""
    db.execute(
        """
        CREATE TABLE raw.t (ts timestamptz, received timestamptz NOT NULL, v integer)
            PARTITION BY RANGE (received);
        DO $$ BEGIN FOR day IN -12 .. 1 LOOP
            EXECUTE format('CREATE TABLE raw.t_%s PARTITION OF raw.t FOR VALUES FROM (%L) TO (%L)',
                day + 12, current_date + day, current_date + day + 1);
        END LOOP; END $$;
        INSERT INTO raw.t SELECT now() - make_interval(hours => i) + '3 days',
            now() - make_interval(hours => i), i FROM generate_series(1, 240) AS i;
        SELECT silver.set_retention('raw.t', '6 days');
        """
    )
    return db


def test_promise_g_no_rollup_by_another_time_than_that_of_partitions_that_go(
    by_arrival: psycopg.Connection,
) -> None:
    create = "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1d', '1 day', %s)"
    with pytest.raises(psycopg.Error, match=r"rolled up otherwise: silver\.t_1d by ts") as told:
        by_arrival.execute(create, ["ts"])
    assert "silver.set_retention('raw.t', NULL)" in (told.value.diag.message_hint or "")
    by_arrival.execute(create, ["received"])
    refresh_everything(by_arrival)
    maintain(by_arrival, datetime.now(UTC))
    # As one that came while partitions go, each of which is asked about anew.
    may_go = (
        "SELECT DISTINCT rollup_engine.may_be_removed('raw.t', p, k), k FROM unnest('{received,ts}'"
        "::name[]) AS k, rollup_engine.retention AS r,"
        " rollup_engine.removable_partitions(r.relation, r.sealed_before) AS p ORDER BY k"
    )
    assert by_arrival.execute(may_go).fetchall() == [(True, "received"), (False, "ts")]


@pytest.mark.parametrize("is_sealed", [False, True], ids=["before the seal", "after it"])
def test_promise_g_a_column_that_takes_the_name_of_the_time_keeps_partitions(
    by_arrival: psycopg.Connection, is_sealed: bool
) -> None:
    """A rollup reads the column of the name that it was created with."""
    by_arrival.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1d', '1 day', 'received')"
    )
    refresh_everything(by_arrival)
    if is_sealed:
        maintain(by_arrival, datetime.now(UTC))
    by_arrival.execute(
        "ALTER TABLE raw.t RENAME received TO came; ALTER TABLE raw.t RENAME ts TO received"
    )
    before = by_arrival.execute("SELECT count(*) FROM raw.t").fetchone()
    for _ in range(3):
        refresh_everything(by_arrival)
        maintain(by_arrival, datetime.now(UTC))
    assert by_arrival.execute("SELECT count(*) FROM raw.t").fetchone() == before
    problems = by_arrival.execute(
        "SELECT problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()
    assert any("is partitioned by came, but rolled up otherwise" in x for (x,) in problems)
    assert by_arrival.execute(
        "SELECT health FROM silver.timeseries_operations_monitor"
    ).fetchall() == [("invalid",)]
    by_arrival.execute("SELECT silver.set_retention('raw.t', NULL)")
    refresh_everything(by_arrival)
    assert (
        by_arrival.execute(
            "SELECT FROM silver.validate_rollup_config() WHERE NOT is_valid"
        ).fetchall()
        == []
    )


SECONDS = 8


class Storm:
    """Writers that note in a ledger what they have committed, refreshers, and retention."""

    def __init__(self, connect: Connect) -> None:
        self.connect = connect
        self.end = time.monotonic() + SECONDS
        self.failures: list[BaseException] = []

    def run(self) -> None:
        works = [*(self.write(seed) for seed in range(1, 5)), self.refresh(), self.retain()]
        threads = [threading.Thread(target=self.repeat, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not self.failures, self.failures

    def repeat(self, work: Iterator[None]) -> None:
        try:
            while time.monotonic() < self.end:
                next(work)
        except BaseException as error:
            self.failures.append(error)

    def write(self, seed: int) -> Iterator[None]:
        connection = self.connect(autocommit=False)
        for n in range(seed, 10**9, 7):
            # Most rows are new, one in eight comes late, for any day.
            first = 1 if n % 8 == 0 else 9
            at = day(first) + timedelta(minutes=(n * 7919) % ((12 - first) * 1440))
            connection.execute("INSERT INTO raw.readings VALUES (%s, 1, 1)", [at])
            connection.execute("INSERT INTO public.ledger VALUES (%s)", [at])
            connection.commit()
            yield

    def refresh(self) -> Iterator[None]:
        connection = self.connect()
        while True:
            connection.execute("CALL silver.run_rollups(as_of => 'infinity')")
            yield

    def retain(self) -> Iterator[None]:
        connection = self.connect()
        for hour in range(10**6):
            maintain(connection, min(day(8) + timedelta(hours=hour), day(12)))
            yield


def test_nothing_is_lost_while_writers_refreshers_and_retention_run(
    source: psycopg.Connection, connect: Connect
) -> None:
    """Every committed row is in gold, or counted as late: under writers into all days."""
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    source.execute("CREATE TABLE public.ledger AS SELECT ts FROM raw.readings")
    Storm(connect).run()
    refresh_everything(source)
    late, since = sealed(source)["readings_1h"]
    assert since is not None
    assert since >= day(5), "the storm saw partitions go"
    written = source.execute("SELECT count(*) FROM public.ledger").fetchone()
    assert written == (total(source) + late,)
    assert_settled(source, "readings_1h")
    recent = source.execute(
        "SELECT (SELECT count(*) FROM public.ledger WHERE ts >= %(since)s)"
        " = (SELECT sum(row_count) FROM gold.readings_1h WHERE bucket >= %(since)s)",
        {"since": since},
    ).fetchone()
    assert recent == (True,)


def test_promise_g_a_rollup_of_a_partition_absorbs_before_its_rows_go(
    db: psycopg.Connection,
) -> None:
    db.execute(
        "CREATE TABLE raw.parts (ts timestamptz, device text) PARTITION BY LIST (device);"
        "CREATE TABLE raw.parts_a PARTITION OF raw.parts FOR VALUES IN ('a')"
        " PARTITION BY RANGE (ts)"
    )
    for number in range(1, 13):
        db.execute(
            f"CREATE TABLE raw.parts_a_{number} PARTITION OF raw.parts_a"
            f" FOR VALUES FROM ('{day(number)}') TO ('{day(number + 1)}')"
            " WITH (autovacuum_enabled = off)"
        )
    db.execute("SELECT silver.create_rollup_table('raw.parts_a', 'silver', 'parts_1h', '1 hour')")
    db.execute(
        "INSERT INTO raw.parts"
        " SELECT ts, 'a' FROM generate_series(%s, %s, '1 hour'::interval) AS ts",
        [day(1), day(11)],
    )
    with pytest.raises(psycopg.Error, match="is a partition of"):
        db.execute("SELECT silver.set_retention('raw.parts_a', '3 days')")
    db.execute("SELECT silver.set_retention('raw.parts', '3 days')")
    for _ in range(2):
        assert maintain(db) == []
    refresh_everything(db)
    assert maintain(db) == [("raw.parts", "sealed")]
    assert "dropped" in [action for _, action, _ in maintained(db, NOW, "raw.parts")]
    refresh_everything(db)
    assert total(db, "gold.parts_1h") == 241
    assert sealed(db)["parts_1h"] == (0, day(8))
    assert_equal_to_group_by(db, "parts_1h")


def test_late_rows_of_a_source_that_is_kept_after_all_are_not_said_to_go(
    source: psycopg.Connection,
) -> None:
    refresh_everything(source)
    source.execute("SELECT silver.set_retention('raw.readings', '5 days')")
    assert ("raw.readings", "sealed") in maintain(source)
    source.execute("SELECT silver.set_retention('raw.readings', NULL)")
    source.execute("INSERT INTO raw.readings VALUES (%s, 1, 1)", [day(2)])
    refresh_everything(source)
    hints = source.execute("SELECT DISTINCT hint FROM silver.error_log").fetchall()
    assert len(hints) == 1
    assert hints[0][0].startswith("rows are in the source, which is kept for ever")


def test_retention_follows_a_source_that_is_restored(source: psycopg.Connection) -> None:
    refresh_everything(source)
    source.execute("SELECT silver.set_retention('raw.readings', '5 days')")
    source.execute("SELECT silver.partition_source('raw.readings', '1 day')")
    source.execute(
        "CREATE TABLE raw.copy (LIKE raw.readings) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.copy_1 PARTITION OF raw.copy"
        " FOR VALUES FROM (MINVALUE) TO ('2026-03-03');"
        "CREATE TABLE raw.copy_2 PARTITION OF raw.copy"
        " FOR VALUES FROM ('2026-03-03') TO (MAXVALUE);"
        "INSERT INTO raw.copy SELECT * FROM raw.readings;"
        "DROP TABLE raw.readings; ALTER TABLE raw.copy RENAME TO readings;"
        "GRANT SELECT ON raw.readings TO tsrollup_owner"
    )
    refresh_everything(source)
    noted = "SELECT relation::text FROM rollup_engine.{} WHERE relation::text !~ '^silver'"
    for table in ("retention", "partition_set"):
        rows = source.execute(noted.format(table).encode()).fetchall()
        assert rows == [("raw.readings",)]
    assert ("raw.readings", "sealed") in maintain(source)


def test_nothing_is_dropped_of_a_table_whose_name_is_another_ones(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.kept (ts timestamptz) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.kept_1 PARTITION OF raw.kept"
        " FOR VALUES FROM ('2026-03-01') TO ('2026-03-02');"
        "SELECT silver.set_retention('raw.kept', '5 days');"
        "ALTER TABLE raw.kept RENAME TO backup; CREATE TABLE raw.kept (ts timestamptz)"
    )
    for _ in range(2):
        ((target, action, detail),) = [
            row for row in maintained(db, NOW, None) if row[0] == "raw.backup"
        ]
        assert (target, action) == ("raw.backup", "skipped")
        assert "raw.kept is another table now" in detail
    db.execute("SELECT silver.set_retention('raw.backup', '5 days')")
    assert "sealed" in [action for _, action, _ in maintained(db, NOW, "raw.backup")]


def test_a_number_left_of_a_dropped_table_is_nobodys(source: psycopg.Connection) -> None:
    """A dump of such a row holds it, and any table may have it where that is restored."""
    refresh_everything(source)
    source.execute("SELECT silver.set_retention('raw.readings', '5 days')")
    source.execute("SELECT silver.partition_source('raw.readings', '1 day')")
    source.execute(
        "CREATE TABLE raw.copy (LIKE raw.readings) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.copy_1 PARTITION OF raw.copy DEFAULT; DROP TABLE raw.readings"
    )
    numbers = (
        "SELECT relation FROM rollup_engine.source"
        " UNION SELECT source_table FROM silver.rollup_config WHERE parent_id IS NULL"
        " UNION SELECT relation FROM rollup_engine.retention"
        " UNION SELECT relation FROM rollup_engine.partition_set WHERE is_source"
    )
    for _ in range(2):
        source.execute("SELECT silver.perform_rollup()")
        maintain(source)
        left = f"SELECT count(*), min(relation::oid::bigint) > 2 ^ 31 FROM ({numbers}) AS n"
        assert source.execute(left.encode()).fetchone() == (1, True)
        health = "SELECT DISTINCT health FROM silver.timeseries_operations_monitor"
        assert source.execute(health).fetchall() == [("invalid",)]
    source.execute("ALTER TABLE raw.copy RENAME TO readings")
    source.execute("GRANT SELECT ON raw.readings TO tsrollup_owner")
    source.execute("SELECT silver.perform_rollup()")
    assert source.execute(numbers.encode()).fetchall() == [("raw.readings",)]
    for name in ("readings_1d", "readings_1h"):
        source.execute("SELECT silver.set_retention(%s, '20 days')", [name])
        source.execute("SELECT silver.drop_rollup(%s)", [name])
    assert source.execute("SELECT relation::text FROM rollup_engine.retention").fetchall() == [
        ("raw.readings",)
    ]


def test_a_dropped_table_without_rollups_is_forgotten_by_its_name(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.kept (ts timestamptz) PARTITION BY RANGE (ts);"
        "SELECT silver.set_retention('raw.kept', '50 days');"
        "SELECT silver.partition_source('raw.kept', '1 day');"
        "DROP TABLE raw.kept"
    )
    calls = (
        "SELECT silver.partition_source('raw.kept', '1 day')",
        "SELECT silver.set_retention('raw.kept', '50 days')",
    )
    assert sorted(maintained(db, NOW)) == [
        ("raw.kept", "cleaned", f"it was dropped; for the next table of its name: {call}")
        for call in calls
    ]
    assert maintained(db, NOW) == []
    hints = db.execute("SELECT hint FROM silver.error_log ORDER BY 1").fetchall()
    assert hints == [(f"if it is there again: {call}",) for call in calls]
    db.execute("CREATE TABLE raw.kept (ts timestamptz) PARTITION BY RANGE (ts)")
    for call in calls:
        db.execute(call.encode())
