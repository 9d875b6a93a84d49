"""Promise g: retention of what has become a partition, was restored, or has got a name anew."""

from datetime import UTC, datetime

import psycopg
import pytest

from raw_tables import maintained
from retained_days import NOW, day, maintain, make_source, partitions, sealed, total
from rollup_checks import assert_equal_to_group_by, refresh_everything
from scenes import scene

pytestmark = [pytest.mark.partman, pytest.mark.spread]


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    return make_source(db)


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


def test_no_keep_goes_over_to_the_table_of_a_name_before(source: psycopg.Connection) -> None:
    """Nor are partitions made for it. That it is read in place of the other is told."""
    source.execute("ALTER TABLE raw.readings RENAME TO live")
    refresh_everything(source)
    source.execute("SELECT silver.partition_source('raw.live', '1 day')")
    source.execute("SELECT silver.set_retention('raw.live', '3 days')")
    refresh_everything(source)
    assert maintain(source) == [("raw.live", "sealed")]
    source.execute("CREATE TABLE raw.readings (LIKE raw.live) PARTITION BY RANGE (ts)")
    source.execute("GRANT SELECT ON raw.readings TO tsrollup_owner")
    for (name,) in source.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'raw.live'::regclass"
    ).fetchall():
        bound = source.execute(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass", [name]
        ).fetchone() or ("",)
        source.execute(f"ALTER TABLE raw.live DETACH PARTITION {name}".encode())
        source.execute(f"ALTER TABLE raw.readings ATTACH PARTITION {name} {bound[0]}".encode())
    rows = "SELECT count(*) FROM raw.readings"
    held = source.execute(rows).fetchone()
    source.execute("DROP TABLE raw.live")
    for _ in range(3):
        source.execute("SELECT silver.perform_rollup(as_of => %s)", [NOW])
        maintain(source)
    assert source.execute(rows).fetchone() == held
    read = "SELECT min(source_table) FROM silver.timeseries_operations_monitor"
    assert source.execute(read).fetchone() == ("raw.readings",)
    told = "SELECT error_message, hint FROM silver.error_log WHERE error_code = 'TR002'"
    rows_ = source.execute(told).fetchall()
    assert any("raw.live was dropped: raw.readings, which has a name" in row[0] for row in rows_)
    assert any("SELECT silver.set_retention('raw.live', '3 days')" in row[1] for row in rows_)
    assert any("SELECT silver.partition_source('raw.live', " in row[1] for row in rows_)


def test_a_keep_that_does_not_go_over_at_an_exchange_is_told(
    source: psycopg.Connection,
) -> None:
    source.execute("SELECT silver.set_retention('raw.readings', '3 days')")
    source.execute("ALTER TABLE raw.readings RENAME TO live")
    refresh_everything(source)
    source.execute("CREATE TABLE raw.next (LIKE raw.live) PARTITION BY RANGE (ts)")
    source.execute("GRANT SELECT ON raw.next TO tsrollup_owner")
    source.execute("ALTER TABLE raw.live RENAME TO old; ALTER TABLE raw.next RENAME TO live")
    source.execute("SELECT silver.perform_rollup(as_of => %s)", [NOW])
    source.execute("DROP TABLE raw.old")
    for _ in range(2):
        source.execute("SELECT silver.perform_rollup(as_of => %s)", [NOW])
        maintain(source)
    kept = "SELECT count(*) FROM rollup_engine.retention WHERE relation = 'raw.live'::regclass"
    assert source.execute(kept).fetchone() == (0,)
    told = "SELECT hint FROM silver.error_log WHERE error_message ~ 'is read in its place'"
    ((hint,),) = source.execute(told).fetchall()
    assert hint.endswith("unless SELECT silver.set_retention('raw.live', '3 days')")
    source.execute(hint.rpartition("unless ")[2].encode())
    assert source.execute(kept).fetchone() == (1,)


def test_a_keep_stays_with_the_name_it_was_set_by_through_exchanges(
    source: psycopg.Connection,
) -> None:
    """The old one of last week goes in the transaction that makes that of this week."""
    source.execute("SELECT silver.set_retention('raw.readings', '3 days')")
    drop = ""
    for _ in range(2):
        source.execute("CREATE TABLE raw.next (LIKE raw.readings) PARTITION BY RANGE (ts)")
        source.execute("GRANT SELECT ON raw.next TO tsrollup_owner")
        source.execute(
            f"{drop} ALTER TABLE raw.readings RENAME TO old;"
            "ALTER TABLE raw.next RENAME TO readings".encode()
        )
        drop = "DROP TABLE raw.old;"
        source.execute("SELECT silver.perform_rollup(as_of => %s)", [NOW])
    source.execute(drop.encode())
    source.execute("SELECT silver.perform_rollup(as_of => %s)", [NOW])
    kept = "SELECT relation::text, keep::text FROM rollup_engine.retention WHERE keep IS NOT NULL"
    assert source.execute(kept).fetchall() == [("raw.readings", "3 days")]


@pytest.fixture
def backup(db: psycopg.Connection) -> psycopg.Connection:
    """raw.backup, which was raw.kept when its keep was set, and another raw.kept."""
    db.execute(
        "CREATE TABLE raw.kept (ts timestamptz) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.kept_1 PARTITION OF raw.kept"
        " FOR VALUES FROM ('2026-03-01') TO ('2026-03-02');"
        "SELECT silver.set_retention('raw.kept', '5 days');"
        "ALTER TABLE raw.kept RENAME TO backup;"
        "CREATE TABLE raw.kept (ts timestamptz) PARTITION BY RANGE (ts)"
    )
    return db


def test_nothing_is_dropped_of_a_table_whose_name_is_another_ones(
    backup: psycopg.Connection,
) -> None:
    for _ in range(2):
        ((target, action, detail),) = [
            row for row in maintained(backup, NOW, None) if row[0] == "raw.backup"
        ]
        assert (target, action) == ("raw.backup", "skipped")
        assert "raw.kept is another table now" in detail
        backup.execute("SELECT silver.set_retention('raw.kept', '5 days')")
    backup.execute("SELECT silver.set_retention('raw.backup', '5 days')")
    assert "sealed" in [action for _, action, _ in maintained(backup, NOW, "raw.backup")]


@pytest.mark.parametrize("how", ["DROP TABLE raw.kept", "ALTER TABLE raw.kept RENAME TO kept_2026"])
def test_nothing_is_dropped_of_a_table_whose_name_was_another_ones(
    backup: psycopg.Connection, how: str
) -> None:
    """Nobody has set a keep for the backup, whatever becomes of what took its name."""
    backup.execute("SELECT silver.maintain_timeseries_tables()")
    backup.execute(how.encode())
    ((action, detail),) = [
        row[1:] for row in maintained(backup, NOW, None) if row[0] == "raw.backup"
    ]
    assert action == "skipped"
    assert "raw.kept was another table for a while" in detail
    # What has its name again is that table.
    backup.execute("ALTER TABLE raw.backup RENAME TO kept")
    maintained(backup, NOW, None)
    backup.execute("ALTER TABLE raw.kept RENAME TO readings")
    assert "removed" not in str(maintained(backup, NOW, None))
    assert backup.execute("SELECT to_regclass('raw.kept_1')").fetchone() == (None,)


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_nothing_is_dropped_of_a_table_whose_name_is_a_views_of_another(
    backup: psycopg.Connection, kind: str
) -> None:
    """As of a table in its place; a view of the one that had the name keeps the name alive."""
    backup.execute("ALTER TABLE raw.kept RENAME TO next")
    backup.execute(f"CREATE {kind} raw.kept AS TABLE raw.next".encode())
    for _ in range(2):
        assert "raw.kept is another view now" in str(maintained(backup, NOW, "raw.backup"))
    backup.execute("UPDATE rollup_engine.retention SET was_exchanged = false")
    backup.execute(f"DROP {kind} raw.kept; CREATE {kind} raw.kept AS TABLE raw.backup".encode())
    assert "sealed" in [action for _, action, _ in maintained(backup, NOW, "raw.backup")]


def test_an_exchange_in_two_steps_is_one_whatever_runs_between(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.live (ts timestamptz) PARTITION BY RANGE (ts)")
    db.execute("SELECT silver.create_rollup_table('raw.live', 'silver', 'live_1h', '1 hour')")
    db.execute("SELECT silver.set_retention('raw.live', '3 days')")
    db.execute("SELECT silver.partition_source('raw.live', '1 day')")
    db.execute("ALTER TABLE raw.live RENAME TO backup")
    refresh_everything(db)
    maintained(db, NOW)
    db.execute("CREATE TABLE raw.live (LIKE raw.backup) PARTITION BY RANGE (ts)")
    db.execute("GRANT SELECT ON raw.live TO tsrollup_owner")
    db.execute("SELECT silver.drop_rollup('live_1h')")
    db.execute("SELECT silver.create_rollup_table('raw.live', 'silver', 'live_1h', '1 hour')")
    told = [row[2] for row in maintained(db, NOW) if row[0] in ("raw.backup", "raw.live")]
    assert len([line for line in told if "raw.live is another table now" in line]) == 2


def test_nobody_is_told_to_set_what_the_next_table_of_a_name_has(db: psycopg.Connection) -> None:
    for name in ("kept", "next"):
        db.execute(f"CREATE TABLE raw.{name} (ts timestamptz) PARTITION BY RANGE (ts)".encode())
    db.execute("SELECT silver.set_retention('raw.kept', '5 days')")
    db.execute("SELECT silver.partition_source('raw.kept', '1 day')")
    db.execute("ALTER TABLE raw.kept RENAME TO backup; ALTER TABLE raw.next RENAME TO kept")
    db.execute("SELECT silver.set_retention('raw.kept', '90 days')")
    db.execute("SELECT silver.partition_source('raw.kept', '2 days')")
    db.execute("DROP TABLE raw.backup")
    assert "was dropped" not in str(maintained(db, NOW))
    assert db.execute("SELECT count(*) FROM rollup_engine.retention").fetchone() == (1,)
    assert db.execute("SELECT hint FROM silver.error_log").fetchall() == []


def test_partitions_that_are_made_of_a_table_whose_name_is_another_ones(
    db: psycopg.Connection,
) -> None:
    db.execute(
        "CREATE TABLE raw.divided (ts timestamptz) PARTITION BY RANGE (ts);"
        "SELECT silver.partition_source('raw.divided', '1 day');"
        "ALTER TABLE raw.divided RENAME TO backup;"
        "CREATE TABLE raw.divided (ts timestamptz) PARTITION BY RANGE (ts)"
    )
    for _ in range(2):
        told = [row for row in maintained(db, NOW, None) if "is another table now" in row[2]]
        assert [row[:2] for row in told] == [("raw.divided", "skipped")]
    logged = "SELECT target_table, hint FROM silver.error_log WHERE error_message LIKE %s"
    ((target, hint),) = db.execute(logged, ["raw.divided is another table now%"]).fetchall()
    assert target == "raw.backup"
    db.execute(hint.partition(";")[0])
    assert "another table" not in str(maintained(db, NOW, None))


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


def test_hints_to_set_retention_again_keep_the_archive(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.kept (ts timestamptz, v int) PARTITION BY RANGE (ts);"
        "CREATE VIEW raw.seen AS SELECT * FROM raw.kept;"
        "SELECT silver.set_retention('raw.kept', '20 days', archive => true)"
    )
    with pytest.raises(psycopg.Error) as error:
        db.execute(
            "SELECT silver.create_rollup_table('raw.seen', 'silver', 'seen_1d', '1 day', 'ts',"
            " change_tracking => 'window', look_back_window => '21 days')"
        )
    call = "SELECT silver.set_retention('raw.kept', '21 days', archive => true)"
    assert error.value.diag.message_hint == f"keep it for as long: {call}"
    told: list[tuple[str | None, str | None]] = []
    db.add_notice_handler(lambda n: told.append((n.message_primary, n.message_hint)))
    db.execute(call.encode())
    assert told == []
    db.execute("SELECT silver.set_retention('raw.kept', '21 days')")
    assert told == [
        (
            "partitions of raw.kept are dropped from now on, and no longer archived",
            f"to go on with the archive: {call}",
        )
    ]
    db.execute(f"{call}; DROP TABLE raw.kept CASCADE".encode())
    assert call in maintained(db, NOW)[0][2]


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
