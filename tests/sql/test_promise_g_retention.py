"""Promise g: what retention removes was absorbed, is sealed, and is older than it is to be kept by
now; what stands in the way of one partition stops no other. Promise f where partitions have
partitions of their own."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from conftest import Connect
from interleaving import Background
from raw_tables import maintained
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer

NOW = datetime(2026, 3, 11, 12, tzinfo=UTC)
DAYS = range(1, 12)
FLAT = "PARTITION BY RANGE (ts)"
SEEN = "CREATE VIEW raw.seen AS TABLE raw.s; GRANT SELECT ON raw.seen TO tsrollup_owner"


def day(number: int) -> datetime:
    return datetime(2026, 3, number, tzinfo=UTC)


def add_days(db: psycopg.Connection[Any], parent: str, name: str, below: str = "") -> None:
    # Autovacuum would hold a partition that is to go.
    below = below or "WITH (autovacuum_enabled = off)"
    for number in DAYS:
        db.execute(
            f"CREATE TABLE raw.{name}_{number} PARTITION OF raw.{parent}"
            f" FOR VALUES FROM ('{day(number)}') TO ('{day(number + 1)}') {below}".encode()
        )


def roll_up(db: psycopg.Connection[Any], keep: str | None = "3 days") -> None:
    """A row an hour of ten days, an hourly and a daily rollup of them, all of it stored."""
    db.execute(
        "INSERT INTO raw.s SELECT ts, device, 1 FROM generate_series(%s, %s - interval '1 second',"
        " '1 hour'::interval) AS ts, unnest('{a,b}'::text[]) AS device",
        [day(1), day(11)],
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour',"
        " dimensions => '{device}')"
    )
    db.execute("SELECT silver.create_rollup_table('s_1h', 'silver', 's_1d', '1 day')")
    db.execute("SELECT silver.set_retention('raw.s', %s)", [keep])
    refresh_everything(db)


@pytest.fixture
def days(db: psycopg.Connection) -> psycopg.Connection:
    db.execute(f"CREATE TABLE raw.s (ts timestamptz, device text, v int) {FLAT}")
    add_days(db, "s", "s")
    roll_up(db)
    return db


def roll_up_a_view(days: psycopg.Connection[Any]) -> None:
    """Of all that raw.s holds, a rollup by a window, stored."""
    days.execute(SEEN)
    days.execute(
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'seen_7d', '7 days', 'ts',"
        " change_tracking => 'window', look_back_window => '2 days')"
    )
    refresh_everything(days)


def maintain(db: psycopg.Connection[Any], now: datetime = NOW) -> list[tuple[str, str]]:
    rows = db.execute(
        "SELECT target, action, detail FROM rollup_engine.run_maintenance(NULL, %s)", [now]
    ).fetchall()
    assert not [row for row in rows if row[1] == "failed"], rows
    return removals(rows)


def removals(rows: list[tuple[Any, ...]]) -> list[tuple[str, str]]:
    return [
        row[1:] for row in rows if row[1] in ("sealed", "dropped", "archived", "deleted", "skipped")
    ]


def maintain_undisturbed(db: psycopg.Connection[Any], now: datetime = NOW) -> list[tuple[str, str]]:
    return removals(maintained(db, now))


def actions(db: psycopg.Connection[Any], now: datetime = NOW) -> list[str]:
    return [action for action, _ in maintain_undisturbed(db, now)]


def value(db: psycopg.Connection[Any], query: str) -> Any:
    row = db.execute(query.encode()).fetchone()
    assert row
    return row[0]


# The keep of now -----------------------------------------------------------------------------


def test_promise_g_a_keep_made_longer_after_the_seal_is_kept(days: psycopg.Connection) -> None:
    assert actions(days) == ["sealed"]
    days.execute("SELECT silver.set_retention('raw.s', '1 year')")
    assert actions(days) == []
    assert value(days, "SELECT count(*) FROM raw.s") == 480
    days.execute("SELECT silver.set_retention('raw.s', '5 days')")
    assert actions(days) == ["dropped"] * 5
    assert value(days, "SELECT min(ts) FROM raw.s") == day(6)


def test_promise_g_an_archive_chosen_after_the_seal_is_used(days: psycopg.Connection) -> None:
    assert actions(days) == ["sealed"]
    days.execute("SELECT silver.set_retention('raw.s', '3 days', archive => true)")
    assert actions(days) == ["archived"] * 7
    assert value(days, "SELECT count(*) FROM raw_archive.s_7") == 48


def test_promise_g_buckets_of_a_rollup_kept_longer_after_the_seal(days: psycopg.Connection) -> None:
    days.execute("SELECT silver.set_retention('raw.s', NULL)")
    days.execute("SELECT silver.set_retention('s_1h', '3 days')")
    with days.transaction():  # sealed and trimmed in different transactions
        assert actions(days) == ["sealed"]
    days.execute("SELECT silver.set_retention('s_1h', '5 days')")
    assert actions(days) == ["deleted"]
    assert value(days, "SELECT min(bucket) FROM silver.s_1h") == datetime(
        2026, 3, 6, 12, tzinfo=UTC
    )


def test_promise_g_retention_that_is_being_set_is_left_alone(
    days: psycopg.Connection, connect: Connect
) -> None:
    assert actions(days) == ["sealed"]
    setting = connect(autocommit=False)
    setting.execute("SELECT rollup_engine.write_retention('raw.s', '1 year', false)")
    assert actions(days) == []
    setting.commit()
    assert actions(days) == []
    assert value(days, "SELECT count(*) FROM raw.s") == 480


def test_promise_g_nothing_is_removed_on_an_old_snapshot(
    days: psycopg.Connection, connect: Connect
) -> None:
    assert actions(days) == ["sealed"]
    old = connect(autocommit=False)
    old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    with pytest.raises(psycopg.Error, match="cannot run in a repeatable read transaction"):
        old.execute(
            "SELECT r.* FROM rollup_engine.retention AS t, rollup_engine.remove_due(t, %s) AS r",
            [NOW],
        )
    old.rollback()
    assert value(days, "SELECT count(*) FROM raw.s") == 480


# What no rollup has absorbed -----------------------------------------------------------------


def test_promise_g_a_rollup_made_while_its_source_is_sealed_absorbs_it_first(
    db: psycopg.Connection, connect: Connect
) -> None:
    db.execute(f"CREATE TABLE raw.s (ts timestamptz, v int) {FLAT}")
    add_days(db, "s", "s")
    db.execute("INSERT INTO raw.s SELECT generate_series(%s, %s, '1 hour'), 1", [day(1), NOW])
    db.execute("SELECT silver.set_retention('raw.s', '3 days')")
    sealing = connect(autocommit=False)
    assert actions(sealing) == ["sealed"]
    creating = Background(
        connect(), "SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour')"
    )
    creating.wait_until_blocked(db)
    sealing.commit()
    creating.result()
    before = value(db, "SELECT count(*) FROM raw.s")
    assert actions(db) == []
    refresh_everything(db)
    assert actions(db) == []
    assert actions(db, datetime(2026, 3, 12, 12, tzinfo=UTC)) == ["sealed"]
    assert "dropped" in actions(db, datetime(2026, 3, 12, 12, tzinfo=UTC))
    assert value(db, "SELECT sum(row_count) FROM gold.s_1h") == before


def test_promise_g_a_change_that_no_drain_has_seen_keeps_its_partition(
    days: psycopg.Connection, connect: Connect
) -> None:
    assert actions(days) == ["sealed"]
    draining = connect(autocommit=False)  # nobody else can while it is at it
    draining.execute("SELECT rollup_engine.drain(id, NULL) FROM rollup_engine.source")
    days.execute("INSERT INTO raw.s VALUES (%s, 'late', 1)", [day(3)])
    assert actions(days) == ["dropped"] * 6
    assert value(days, "SELECT min(ts) FROM raw.s") == day(3)
    draining.commit()
    assert actions(days) == ["dropped"]
    assert value(days, "SELECT max(sealed_late_rows) FROM silver.rollup_config") == 1


def test_promise_g_a_child_that_settles_later_keeps_its_parent(days: psycopg.Connection) -> None:
    days.execute(
        "SELECT silver.create_rollup_table('s_1h', 'silver', 's_slow', '1 day',"
        " settle_delay => '6 days')"
    )
    days.execute("SELECT silver.set_retention('raw.s', NULL)")
    days.execute("SELECT silver.set_retention('s_1h', '2 days')")
    for _ in range(3):
        days.execute("SELECT * FROM silver.perform_rollup(as_of => %s)", [NOW])
        maintain_undisturbed(days)
        assert_equal_to_group_by(days, "s_1d", "s_slow")
        assert value(days, "SELECT sum(row_count) FROM gold.s_slow") == 480
    # As far as that one has settled the parent is trimmed: on the 11th, five days.
    assert value(days, "SELECT min(bucket) FROM silver.s_1h") == day(5)


# One partition that is held -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obstacle", "reason", "hint"),
    [
        (
            "CREATE VIEW public.v AS SELECT * FROM raw.s_3",
            "other objects depend",
            "archive => true",
        ),
        (
            "CREATE TABLE public.note (ts timestamptz, device text,"
            " FOREIGN KEY (ts, device) REFERENCES raw.s (ts, device));"
            "INSERT INTO public.note VALUES ('2026-03-03 12:00+00', 'a')",
            "violates foreign key",
            "delete the rows",
        ),
    ],
)
def test_promise_g_one_partition_that_is_held_stops_no_other(
    days: psycopg.Connection, obstacle: str, reason: str, hint: str
) -> None:
    days.execute("ALTER TABLE raw.s ADD UNIQUE (ts, device)")
    days.execute(obstacle.encode())
    assert actions(days) == ["sealed"]
    done = maintain_undisturbed(days)
    assert sorted(action for action, _ in done) == ["dropped"] * 6 + ["skipped"]
    skipped = next(detail for action, detail in done if action == "skipped")
    assert skipped.startswith("raw.s_3: 2026-03-03")
    assert reason in skipped
    assert hint in skipped
    assert value(days, "SELECT min(ts) FROM raw.s") == day(3)
    assert actions(days) == ["skipped"]
    assert value(days, "SELECT count(*) FROM silver.error_log") == 1, "it is logged once a day"
    if "archive" in hint:
        days.execute("SELECT silver.set_retention('raw.s', '3 days', archive => true)")
        assert actions(days) == ["archived"]
        assert value(days, "SELECT count(*) FROM public.v") == 48
    else:
        days.execute("DELETE FROM public.note")
        assert actions(days) == ["dropped"]
    assert_settled(days, "s_1h")


def test_promise_g_a_name_that_is_taken_in_the_archive_stops_no_other(
    days: psycopg.Connection,
) -> None:
    days.execute("SELECT silver.set_retention('raw.s', '3 days', archive => true)")
    days.execute("CREATE TABLE raw_archive.s_3 ()")
    assert actions(days) == ["sealed"]
    done = maintain_undisturbed(days)
    assert sorted(action for action, _ in done) == ["archived"] * 6 + ["skipped"]
    assert "rename or drop what has that name in raw_archive" in dict(done)["skipped"]
    days.execute("DROP TABLE raw_archive.s_3")
    assert actions(days) == ["archived"]


def test_promise_g_nothing_goes_to_an_archive_of_a_stranger(
    days: psycopg.Connection, server: PostgresServer
) -> None:
    """A schema's owner may drop what others have put into it."""
    role = f"stranger_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_url(days.info.dbname), autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role}; CREATE SCHEMA raw_archive".encode())
        superuser.execute("GRANT ALL ON SCHEMA raw_archive TO PUBLIC")
        try:
            superuser.execute(f"ALTER SCHEMA raw_archive OWNER TO {role}".encode())
            archive = "SELECT silver.set_retention('raw.s', '3 days', archive => true)"
            with pytest.raises(psycopg.Error, match=f"raw_archive belongs to {role}") as caught:
                days.execute(archive)
            superuser.execute((caught.value.diag.message_hint or "").encode())
            days.execute(archive)
            superuser.execute(f"ALTER SCHEMA raw_archive OWNER TO {role}".encode())
            assert actions(days) == ["sealed"]
            done = maintain_undisturbed(days)
            assert {action for action, _ in done} == {"skipped"}
            assert "could drop what is moved there; ALTER SCHEMA raw_archive" in done[0][1]
        finally:
            superuser.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())
    assert_settled(days, "s_1h")


# Trees ---------------------------------------------------------------------------------------


def create_range_of_lists(db: psycopg.Connection[Any]) -> None:
    db.execute(f"CREATE TABLE raw.s (ts timestamptz, device text, v int) {FLAT}")
    add_days(db, "s", "s", "PARTITION BY LIST (device)")
    for number in DAYS:
        for device in "ab":
            db.execute(
                f"CREATE TABLE raw.s_{number}{device} PARTITION OF raw.s_{number}"
                f" FOR VALUES IN ('{device}')".encode()
            )


def create_list_of_ranges(db: psycopg.Connection[Any]) -> None:
    db.execute("CREATE TABLE raw.s (ts timestamptz, device text, v int) PARTITION BY LIST (device)")
    for device in "ab":
        part = f"raw.s_{device} PARTITION OF raw.s FOR VALUES IN ('{device}') {FLAT}"
        db.execute(f"CREATE TABLE {part}".encode())
        add_days(db, f"s_{device}", f"s_{device}")


def create_range_of_ranges(db: psycopg.Connection[Any]) -> None:
    db.execute(f"CREATE TABLE raw.s (ts timestamptz, device text, v int) {FLAT}")
    db.execute(
        "CREATE TABLE raw.s_month PARTITION OF raw.s"
        f" FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00') {FLAT}".encode()
    )
    add_days(db, "s_month", "s")


TREES = {
    "range of lists": (create_range_of_lists, 7),
    "list of ranges": (create_list_of_ranges, 14),
    "range of ranges": (create_range_of_ranges, 7),
}


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("tree", TREES)
def test_promise_g_trees_lose_what_is_sealed_at_any_depth(
    db: psycopg.Connection, tree: str, archive: bool
) -> None:
    create, removals = TREES[tree]
    create(db)
    roll_up(db)
    db.execute("SELECT silver.set_retention('raw.s', '3 days', archive => %s)", [archive])
    assert actions(db) == ["sealed"]
    assert actions(db) == ["archived" if archive else "dropped"] * removals
    assert value(db, "SELECT min(ts) FROM raw.s") == day(8)
    assert value(db, "SELECT sum(row_count) FROM gold.s_1d") == 480
    # Nobody's write fails for want of what is gone, and what comes late is counted.
    db.execute("INSERT INTO raw.s VALUES (%s, 'a', 1)", [day(3)])
    refresh_everything(db)
    assert value(db, "SELECT sum(row_count) FROM gold.s_1d") == 480
    assert value(db, "SELECT min(sealed_late_rows) FROM silver.rollup_config") == 1
    assert_settled(db, "s_1h")
    assert_equal_to_group_by(db, "s_1h")
    assert (
        value(
            db,
            "SELECT count(*) FROM pg_class AS c JOIN pg_inherits AS i ON i.inhrelid = c.oid"
            " WHERE relnamespace = 'raw_archive'::regnamespace"
            " AND (SELECT relnamespace FROM pg_class WHERE oid = inhparent) <> c.relnamespace"
            if archive
            else "SELECT count(*) FROM pg_class WHERE relname ~ '^s_(._)?[1-7][ab]?$'",
        )
        == 0
    )
    if archive:
        db.execute("UPDATE raw_archive.%s SET v = 2" % ("s_a_3" if "list of" in tree else "s_3"))
        assert value(db, "SELECT count(*) FROM rollup_engine.change_log") == 0
        assert (
            value(
                db,
                "SELECT count(*) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid"
                " WHERE c.relnamespace = 'raw_archive'::regnamespace AND NOT t.tgisinternal",
            )
            == 0
        )


def test_promise_g_a_view_on_a_leaf_keeps_that_leaf(db: psycopg.Connection) -> None:
    create_range_of_lists(db)
    roll_up(db)
    db.execute("CREATE VIEW public.v AS SELECT * FROM raw.s_3b")
    assert actions(db) == ["sealed"]
    done = maintain_undisturbed(db)
    assert sorted(action for action, _ in done) == ["dropped"] * 7 + ["skipped"] * 2
    assert value(db, "SELECT count(*) FROM raw.s WHERE ts < '2026-03-08 00:00+00'") == 24
    db.execute("INSERT INTO raw.s VALUES (%s, 'a', 1)", [day(3)])
    db.execute("DROP VIEW public.v")
    refresh_everything(db)
    assert actions(db) == ["dropped"]
    assert value(db, "SELECT min(ts) FROM raw.s") == day(8)


def test_promise_g_a_foreign_partition_stops_no_other(
    db: psycopg.Connection, server: PostgresServer
) -> None:
    """It is left where it is, and validation says so."""
    db.execute(f"CREATE TABLE raw.s (ts timestamptz, device text, v int) {FLAT}")
    add_days(db, "s", "s")
    with psycopg.connect(server.superuser_url(db.info.dbname), autocommit=True) as admin:
        admin.execute(
            "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
            "CREATE FOREIGN TABLE raw.s_0 PARTITION OF raw.s FOR VALUES FROM ('2026-02-01')"
            " TO ('2026-03-01') SERVER files"
            " OPTIONS (program 'echo 2026-02-10,a,1', format 'csv'); GRANT ALL ON raw.s_0 TO PUBLIC"
        )
    db.execute(
        "INSERT INTO raw.s SELECT %s + g * interval '1 day' FROM generate_series(0, 9) AS g",
        [day(1)],
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.s', 'silver', 's_1h', '1 hour',"
        " change_tracking => 'window', look_back_window => '2 days')"
    )
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.s', '3 days')")
    assert actions(db) == ["sealed"]
    assert actions(db) == ["dropped"] * 7
    assert value(db, "SELECT sum(row_count) FROM gold.s_1h") == 11
    told = "SELECT hint FROM silver.validate_rollup_config() WHERE problem ~ 'a foreign table'"
    assert value(db, told) == "when it is to go: ALTER TABLE raw.s DETACH PARTITION raw.s_0"
    wide = "SELECT problem FROM silver.validate_rollup_config() WHERE problem ~ ' goes after '"
    assert "up to 1 day wide" in value(db, wide), "the foreign one never goes"


def test_promise_d_retention_sees_windows_that_read_a_view(db: psycopg.Connection) -> None:
    """Through another view, too; not through a live view, whose table keeps what it has."""
    db.execute("CREATE TABLE raw.v (ts timestamptz NOT NULL, n int) PARTITION BY RANGE (ts)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.v', 'silver', 'v_1h', '1 hour');"
        "SELECT silver.partition_source('raw.v', '1 day')"
    )
    db.execute(
        "INSERT INTO raw.v"
        " SELECT now() - g * interval '6 hours', 1 FROM generate_series(1, 80) AS g"
    )
    db.execute("SELECT silver.maintain_timeseries_tables()")
    db.execute(
        "CREATE VIEW raw.below AS SELECT * FROM raw.v WHERE n > 0;"
        "CREATE VIEW raw.seen AS TABLE raw.below; GRANT SELECT ON raw.seen TO tsrollup_owner;"
        "CREATE VIEW raw.stored AS SELECT bucket AS ts, row_count AS n FROM gold.v_1h;"
        "GRANT SELECT ON raw.stored TO tsrollup_owner"
    )
    create = (
        "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', 'ts', metrics =>"
        " '{\"n\": [\"sum\"]}', change_tracking => 'window', look_back_window => %s)"
    )
    db.execute(create, ["raw.stored", "stored_1h", "15 days"])
    db.execute(create, ["raw.seen", "seen_1h", "3 days"])
    with pytest.raises(psycopg.Error, match=r"raw\.v is kept for 2 days, and read again for 3"):
        db.execute("SELECT silver.set_retention('raw.v', '2 days')")
    db.execute("SELECT silver.set_retention('raw.v', '10 days')")
    with pytest.raises(psycopg.Error, match=r"raw\.v is kept for 10 days, and read again for 15"):
        db.execute(create, ["raw.seen", "seen_2h", "15 days"])
    db.execute(create.replace("1 hour", "7 days"), ["raw.seen", "seen_7d", "10 days"])
    db.execute("SELECT silver.perform_rollup('v_1h', as_of => 'infinity')")
    for _ in range(3):
        db.execute("SELECT silver.maintain_timeseries_tables()")
    assert db.execute("SELECT count(*) FROM raw.v").fetchone() == (80,)
    for _ in range(3):
        refresh_everything(db)
        db.execute("SELECT silver.maintain_timeseries_tables()")
    assert db.execute("SELECT count(*) BETWEEN 40 AND 72 FROM raw.v").fetchone() == (True,)
    refresh_everything(db)
    assert db.execute("SELECT sum(n_sum) FROM gold.seen_1h").fetchone() == (80,)
    assert db.execute("SELECT sum(n_sum) FROM gold.seen_7d").fetchone() == (80,)


def test_promise_g_retention_waits_for_a_window_that_alone_reads_a_table_by_a_view(
    db: psycopg.Connection,
) -> None:
    db.execute(
        "CREATE TABLE raw.v (ts timestamptz NOT NULL, n int) PARTITION BY RANGE (ts);"
        "SELECT silver.partition_source('raw.v', '1 day');"
        "INSERT INTO raw.v SELECT now() - g * interval '1 day', 1 FROM generate_series(1, 20) AS g;"
        "CREATE VIEW raw.seen AS TABLE raw.v; GRANT SELECT ON raw.seen TO tsrollup_owner;"
        "SELECT silver.maintain_timeseries_tables();"
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'seen_1h', '1 hour', 'ts',"
        " change_tracking => 'window', look_back_window => '3 days');"
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'seen_7d', '7 days', 'ts',"
        " change_tracking => 'window', look_back_window => '1 day');"
        "SELECT silver.set_retention('raw.v', '10 days')"
    )
    for expected in (20, 20):
        db.execute("SELECT silver.maintain_timeseries_tables()")
        assert db.execute("SELECT count(*) FROM raw.v").fetchone() == (expected,)
    refresh_everything(db)
    for _ in range(3):
        db.execute("SELECT silver.maintain_timeseries_tables()")
    assert db.execute("SELECT count(*) < 12 FROM raw.v").fetchone() == (True,)
    refresh_everything(db)
    assert db.execute("SELECT sum(row_count) FROM gold.seen_1h").fetchone() == (20,)
    db.execute("SELECT silver.set_retention('raw.v', '19 days')")
    told: list[str | None] = []
    db.add_notice_handler(lambda notice: told.append(notice.message_primary))
    for name in ("seen_1h", "raw.seen"):
        db.execute("SELECT silver.mark_stale(%s, now() - interval '19 days', now())", [name])
    db.execute("SELECT silver.mark_stale('seen_1h', '-infinity', 'infinity')")
    assert [str(text).partition(" is sealed before ")[0] for text in told] == [
        "silver.seen_1h",
        "silver.seen_1h",
        "silver.seen_7d",
    ]
    for rollup in ("seen_1h", "seen_7d"):  # what they had before the seal is never read again
        db.execute("SELECT silver.alter_rollup(%s, look_back_window => '19 days')", [rollup])
        refresh_everything(db)
        assert db.execute(f"SELECT sum(row_count) FROM gold.{rollup}".encode()).fetchone() == (20,)


def test_promise_g_what_comes_between_seal_and_drop_by_a_view(days: psycopg.Connection) -> None:
    """A stale range, and a rollup that has yet to read what was sealed without it."""
    create = (
        "SELECT silver.create_rollup_table('raw.seen', 'silver', %s, %s, 'ts',"
        " change_tracking => 'window', look_back_window => '1 day')"
    )
    days.execute(SEEN)
    days.execute(create, ["seen_1h", "1 hour"])
    refresh_everything(days)
    assert actions(days) == ["sealed"]
    days.execute("SELECT silver.mark_stale('seen_1h', %s, %s)", [day(1), day(4)])
    days.execute(create, ["seen_2h", "2 hours"])
    assert actions(days) == []
    refresh_everything(days)
    assert actions(days) == ["sealed"]  # once more, for the one that came after it
    assert actions(days) == ["dropped"] * 7
    assert actions(days) == []
    refresh_everything(days)
    for rollup in ("seen_1h", "seen_2h"):
        assert value(days, f"SELECT sum(row_count) FROM gold.{rollup}") == 2 * 24 * 10


def test_promise_g_a_rollup_by_a_view_is_sealed_when_retention_was_switched_off(
    days: psycopg.Connection,
) -> None:
    """As one that an earlier release has left without a seal."""
    days.execute(SEEN)
    assert actions(days) == ["sealed"]
    days.execute(
        "SELECT silver.set_retention('raw.s', NULL);"
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'seen_1h', '1 hour', 'ts',"
        " change_tracking => 'window', look_back_window => '1 day')"
    )
    assert actions(days) == []
    refresh_everything(days)
    assert actions(days) == ["sealed"]
    assert actions(days) == []
    sealed = "SELECT sealed_before FROM silver.rollup_config WHERE target_name = 'silver.seen_1h'"
    assert value(days, sealed) == day(8)


def test_promise_g_a_view_that_was_made_anew_holds_its_tables(days: psycopg.Connection) -> None:
    """What it read is not sealed till a run has found it again."""
    roll_up_a_view(days)
    days.execute(
        "CREATE TABLE raw.other (ts timestamptz, device text, v int) PARTITION BY RANGE (ts)"
    )
    add_days(days, "other", "other")
    days.execute("SELECT silver.set_retention('raw.other', '3 days')")
    days.execute("DROP VIEW raw.seen")
    told = "silver.seen_7d is not valid: raw.seen was dropped"
    assert sorted(actions(days)) == ["sealed", "skipped"]  # what the view did not read goes on
    for change in ("SELECT 1", SEEN):
        days.execute(change.encode())
        found = [text for action, text in maintain_undisturbed(days) if action == "skipped"]
        assert len(found) == 1
        assert told in found[0]
    refresh_everything(days)
    assert actions(days) == ["sealed"]
    assert actions(days) == ["dropped"] * 7
    refresh_everything(days)
    assert value(days, "SELECT sum(row_count) FROM gold.seen_7d") == 2 * 24 * 10


@pytest.mark.parametrize("name", ["s", "old"])
def test_promise_g_a_view_that_went_with_its_table_keeps_the_next_one(
    days: psycopg.Connection, name: str
) -> None:
    """What has the name of the table may be what the view reads when it is back."""
    roll_up_a_view(days)
    if name != "s":
        days.execute(f"ALTER TABLE raw.s RENAME TO {name}".encode())
        refresh_everything(days)
    days.execute(f"DROP TABLE raw.{name} CASCADE".encode())
    days.execute(f"CREATE TABLE raw.s (ts timestamptz, device text, v int) {FLAT}".encode())
    add_days(days, "s", "s")
    days.execute(
        "GRANT SELECT ON raw.s TO tsrollup_owner; INSERT INTO raw.s SELECT ts, device, 1"
        " FROM generate_series(timestamptz '2026-03-01 00:00+00', '2026-03-10 23:00+00', '1 hour')"
        " AS ts, unnest('{a,b}'::text[]) AS device"
    )
    days.execute("SELECT silver.set_retention('raw.s', '3 days')")
    for change in ("SELECT 1", SEEN):
        days.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
        for _ in range(2):
            assert not {"sealed", "dropped"} & set(actions(days))
        days.execute(change.encode())
    days.execute("SELECT silver.reset_rollup_retry('seen_7d')")
    refresh_everything(days)
    assert actions(days) == ["sealed"]
    assert actions(days) == ["dropped"] * 7
    refresh_everything(days)
    assert value(days, "SELECT sum(row_count) FROM gold.seen_7d") == 2 * 24 * 10


def test_the_last_rollup_of_what_has_no_triggers_can_be_dropped(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE MATERIALIZED VIEW raw.m AS SELECT now() AS ts;"
        "GRANT SELECT ON raw.m TO tsrollup_owner;"
        "SELECT silver.create_rollup_table('raw.m', 'silver', 'm', '1 hour', 'ts',"
        " change_tracking => 'window', look_back_window => '1 day')"
    )
    db.execute("SELECT silver.drop_rollup('m')")
    assert value(db, "SELECT count(*) FROM silver.rollup_config") == 0


def test_windows_of_a_view_that_is_kept_too_short_can_be_mended_one_by_one(
    days: psycopg.Connection,
) -> None:
    days.execute(
        "CREATE VIEW raw.seen AS SELECT now() AS ts; GRANT SELECT ON raw.seen TO tsrollup_owner"
    )
    for rollup in ("a", "b"):
        days.execute(
            "SELECT silver.create_rollup_table('raw.seen', 'silver', %s, '1 hour', 'ts',"
            " change_tracking => 'window', look_back_window => '25 days')",
            [rollup],
        )
    days.execute("CREATE OR REPLACE VIEW raw.seen AS SELECT ts FROM raw.s")
    problems = "SELECT count(*) FROM silver.validate_rollup_config() WHERE NOT is_valid"
    assert value(days, problems) == 2
    days.execute("SELECT silver.alter_rollup('a', look_back_window => '2 days')")
    assert value(days, problems) == 1
    days.execute("SELECT silver.set_retention('raw.s', '25 days')")
    assert value(days, problems) == 0
    with pytest.raises(psycopg.Error, match=r"raw\.s is kept for 3 days, and read again for 25"):
        days.execute("SELECT silver.set_retention('raw.s', '3 days')")
    days.execute("SELECT silver.set_retention('raw.s', NULL)")


def test_what_holds_rows_back_is_told(days: psycopg.Connection) -> None:
    problems = "SELECT array_agg(problem) FROM silver.validate_rollup_config()"
    days.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_3d', '3 days')")
    assert sum("silver.s_3d" in str(problem) for problem in value(days, problems)) == 0
    days.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_1y', '1 year')")
    assert (
        "silver.s_1y computes buckets of 1 year from raw.s, whose rows stay until theirs is over:"
        " up to 11 mons 27 days longer than 3 days"
    ) in value(days, problems)
    days.execute(
        "CREATE VIEW raw.seen AS SELECT ts AT TIME ZONE 'Europe/Berlin' AS at FROM raw.s;"
        "GRANT SELECT ON raw.seen TO tsrollup_owner;"
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'seen', '1 hour', 'at',"
        " change_tracking => 'window', look_back_window => '1 day')"
    )
    assert (
        "silver.seen goes by at of a view, which need not be the time by which raw.s is divided"
        " and dropped, ts"
    ) in value(days, problems)


def test_what_holds_rows_of_a_rollup_back_is_told(days: psycopg.Connection) -> None:
    told = (
        "SELECT array_agg(problem) FILTER (WHERE problem > '')"
        " FROM silver.validate_rollup_config() WHERE target = %s"
    )
    days.execute("SELECT silver.create_rollup_table('s_1h', 'silver', 's_1mon', '1 month')")
    days.execute("SELECT silver.set_retention('s_1h', '60 days')")
    assert days.execute(told, ["silver.s_1h"]).fetchone() == (
        [
            "silver.s_1mon computes buckets of 1 mon from silver.s_1h,"
            " whose rows go together with all of theirs: up to 1 mon longer than 60 days"
        ],
    )


def test_many_that_hold_rows_back_are_counted(days: psycopg.Connection) -> None:
    """And asked for once by the monitor, however many rollups there are."""
    for n in range(6):
        days.execute(
            f"CREATE VIEW raw.v{n} AS SELECT ts + interval '1 h' AS ts, v FROM raw.s".encode()
        )
        days.execute(f"GRANT SELECT ON raw.v{n} TO tsrollup_owner".encode())
        days.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', 'ts',"
            " change_tracking => 'window', look_back_window => '1 day')",
            [f"raw.v{n}", f"v{n}"],
        )
    heard: list[str] = []
    days.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    days.execute("SELECT silver.set_retention('raw.s', '3 days')")
    of_views = [line for line in heard if "of a view" in line]
    assert len(of_views) == 3
    assert of_views[2].startswith("silver.v2 ")
    assert of_views[2].endswith("; and so with 3 others")
    days.execute(
        "CREATE SEQUENCE public.asked; GRANT ALL ON SEQUENCE public.asked TO public;"
        "ALTER FUNCTION rollup_engine.keep_warnings(regclass) RENAME TO warnings;"
        "CREATE FUNCTION rollup_engine.keep_warnings(p_relation regclass)"
        " RETURNS TABLE (problem text, hint text) LANGUAGE sql VOLATILE AS"
        " 'SELECT nextval(''public.asked''); SELECT * FROM rollup_engine.warnings(p_relation)'"
    )
    days.execute("SELECT silver.create_rollup_table('raw.s', 'silver', 's_2h', '2 hours')")
    refresh_everything(days)
    told = (
        "SELECT count(*) FROM silver.timeseries_operations_monitor WHERE reason ~ 'partitions of'"
    )
    days.execute("ALTER SEQUENCE public.asked RESTART")
    assert value(days, told) == 2
    assert value(days, "SELECT last_value FROM public.asked") == 1


def test_partitions_that_somebody_holds_for_long_are_told(
    days: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    told = "SELECT problem, hint FROM silver.validate_rollup_config() WHERE problem ~ 'are sealed'"
    reader = connect(autocommit=False)
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM raw.s")
    maintain(days)
    maintain(days)
    assert days.execute(told).fetchall() == []  # they are to be kept so long since today
    days.execute("UPDATE rollup_engine.retention SET set_at = set_at - interval '4 days'")
    ((problem, hint),) = days.execute(told).fetchall()
    assert "of raw.s are sealed, and are there for more than 3 days longer than 3 days" in problem
    assert "pg_prepared_xacts" in hint
    reason = "SELECT count(*) FROM silver.timeseries_operations_monitor WHERE reason = %s"
    assert days.execute(reason, [problem]).fetchone() != (0,)
    reader.rollback()
    reader.execute("LOCK TABLE raw.s_1 IN ACCESS EXCLUSIVE MODE")
    locked = "SELECT problem FROM silver.validate_rollup_config() WHERE problem ~ 'locked'"
    assert days.execute(locked).fetchall() != []
    reader.rollback()
    maintain_undisturbed(days)
    assert days.execute(told).fetchall() == days.execute(locked).fetchall() == []


@pytest.mark.parametrize("how", ["open", "paused"])
def test_what_keeps_time_from_being_sealed_for_long_is_told(
    days: psycopg.Connection, connect: Callable[..., psycopg.Connection[Any]], how: str
) -> None:
    told = "SELECT problem, hint FROM silver.validate_rollup_config() WHERE problem ~ 'sealed'"
    writer = connect(autocommit=False)
    if how == "open":
        writer.execute("UPDATE raw.s SET v = v WHERE ts > %s", [day(2)])
    else:
        days.execute("SELECT silver.pause_rollup('s_1h'); UPDATE raw.s SET v = v + 1")
    maintain(days)
    assert days.execute(told).fetchall() == []
    days.execute("UPDATE rollup_engine.retention SET set_at = set_at - interval '4 days'")
    ((problem, hint),) = days.execute(told).fetchall()
    assert "of raw.s are not sealed, and are there for more than 3 days longer than" in problem
    assert ("pg_prepared_xacts" in hint) == (how == "open")
    assert ("SELECT silver.resume_rollup('silver.s_1h')" in hint) == (how == "paused")
    writer.rollback()
    if how == "paused":
        days.execute("SELECT silver.resume_rollup('s_1h')")
    refresh_everything(days)
    for _ in range(2):
        maintain_undisturbed(days, datetime.now(UTC))
    assert days.execute(told).fetchall() == []


def test_rows_of_a_rollup_that_a_paused_child_keeps_for_long_are_told(
    days: psycopg.Connection,
) -> None:
    days.execute("SELECT silver.create_rollup_table('s_1h', 'silver', 'by_day', '1 day')")
    refresh_everything(days)
    days.execute("SELECT silver.set_retention('s_1h', '4 days')")
    days.execute("UPDATE rollup_engine.retention SET set_at = set_at - interval '9 days'")
    told = (
        "SELECT problem, hint FROM silver.validate_rollup_config()"
        " WHERE target = 'silver.s_1h' AND problem ~ 'sealed'"
    )
    days.execute("SELECT silver.pause_rollup('by_day'); UPDATE raw.s SET v = v + 1")
    maintain(days, datetime.now(UTC))
    ((problem, hint),) = days.execute(told).fetchall()
    assert "rows of silver.s_1h are not sealed, and are there for more than 3 days" in problem
    assert "SELECT silver.resume_rollup('silver.by_day')" in hint
    days.execute("SELECT silver.resume_rollup('by_day')")
    refresh_everything(days)
    for _ in range(2):
        maintain_undisturbed(days, datetime.now(UTC))
    assert days.execute(told).fetchall() == []


def test_sealed_rows_of_a_default_partition_are_to_be_deleted(days: psycopg.Connection) -> None:
    """Nothing gives them a partition of their own; others it does."""
    told = "SELECT hint FROM silver.validate_rollup_config() WHERE problem ~ 'default partition'"
    maintain_undisturbed(days)
    maintain_undisturbed(days)
    days.execute("INSERT INTO raw.s VALUES (%s, 'a', 1)", [day(2)])
    ((hint,),) = days.execute(told).fetchall()
    days.execute("INSERT INTO raw.s VALUES (%s, 'a', 1)", [day(20)])
    # Who may not read that partition itself tells one after the other.
    assert days.execute(told).fetchall() == [(hint,)]
    days.execute("GRANT SELECT ON raw.s_default TO tsrollup_owner")
    divide = "SELECT silver.partition_source('raw.s', ...) gives them partitions of their own"
    assert days.execute(told).fetchall() == [(divide,), (hint,)]
    days.execute(hint.removeprefix("those that nobody wants, ").encode())
    assert days.execute(told).fetchall() == [(divide,)]
    days.execute("SELECT silver.partition_source('raw.s', '1 day')")
    for _ in range(2):
        maintain_undisturbed(days)
    assert days.execute(told).fetchall() == []
    assert value(days, "SELECT count(*) FROM raw.s_default") == 0


def test_what_is_archived_is_sorted_by_the_names_of_now(days: psycopg.Connection) -> None:
    days.execute("ALTER TABLE raw.s RENAME device TO gadget")
    refresh_everything(days)
    days.execute("SELECT silver.set_retention('raw.s', '3 days', true)")
    for _ in range(2):
        maintain_undisturbed(days)
    order = "SELECT DISTINCT sort_by::text[] FROM rollup_engine.detached_partition"
    assert value(days, order) == ["gadget", "ts"]


def test_promise_g_rows_of_a_rollup_go_as_far_as_windows_by_a_view_let_them(
    db: psycopg.Connection,
) -> None:
    db.execute(
        "CREATE TABLE raw.m (ts timestamptz NOT NULL, n int);"
        "INSERT INTO raw.m"
        " SELECT now() - g * interval '1 day', 1 FROM generate_series(1, 120) AS g;"
        "SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour');"
        "CREATE VIEW raw.stored AS SELECT bucket AS ts, row_count AS n FROM gold.m_1h;"
        "GRANT SELECT ON raw.stored TO tsrollup_owner;"
        "SELECT silver.create_rollup_table('raw.stored', 'silver', 'm_1m', '1 month', 'ts',"
        " metrics => '{\"n\": [\"sum\"]}', change_tracking => 'window',"
        " look_back_window => '40 days')"
    )
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('m_1h', '45 days')")
    for _ in range(3):
        db.execute("SELECT silver.maintain_timeseries_tables()")
        refresh_everything(db)
    assert db.execute("SELECT count(*) BETWEEN 40 AND 80 FROM silver.m_1h").fetchone() == (True,)
    assert db.execute("SELECT sum(n_sum) FROM gold.m_1m").fetchone() == (120,)


def test_a_time_that_a_view_computes_is_told(days: psycopg.Connection) -> None:
    """Through another view, too; not where it has another name there."""
    for view, query, time in (
        ("later", "SELECT ts + interval '1 year' AS ts, v FROM raw.s", "ts"),
        ("above", "TABLE raw.later", "ts"),
        ("bare", "SELECT ts, v FROM raw.s UNION ALL SELECT ts, v FROM raw.s", "ts"),
        ("named", "SELECT t.at FROM (SELECT ts AS at FROM raw.s) AS t", "at"),
    ):
        days.execute(f"CREATE VIEW raw.{view} AS {query}".encode())
        days.execute(f"GRANT SELECT ON raw.{view} TO tsrollup_owner".encode())
        days.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', %s,"
            " change_tracking => 'window', look_back_window => '1 day')",
            [f"raw.{view}", view, time],
        )
    told = days.execute(
        "SELECT problem FROM silver.validate_rollup_config() WHERE problem LIKE '%of a view%'"
        " ORDER BY problem DESC"
    )
    assert told.fetchall() == [
        (
            f"silver.{view} goes by ts of a view, which need not be the time by which raw.s is"
            " divided and dropped, ts",
        )
        for view in ("later", "above")
    ]


def test_promise_g_a_view_that_reads_another_table_for_a_while(days: psycopg.Connection) -> None:
    """What it read at the last run is so till the next; where its rules write it never read."""
    days.execute(
        "CREATE TABLE raw.other (ts timestamptz, device text, v int) PARTITION BY RANGE (ts);"
        "CREATE VIEW raw.seen AS TABLE raw.s; GRANT SELECT ON raw.seen TO tsrollup_owner;"
        "CREATE RULE heard AS ON INSERT TO raw.seen DO INSTEAD INSERT INTO raw.other VALUES (NEW.*)"
    )
    days.execute(
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'seen_7d', '7 days', 'ts',"
        " change_tracking => 'window', look_back_window => '2 days');"
        "SELECT silver.set_retention('raw.other', '1 day')"
    )
    refresh_everything(days)
    days.execute("CREATE OR REPLACE VIEW raw.seen AS TABLE raw.other")
    assert actions(days) == ["sealed"]
    sealed = "SELECT sealed_before FROM silver.rollup_config WHERE target_name = 'silver.seen_7d'"
    assert value(days, sealed) == day(9)
    days.execute("CREATE OR REPLACE VIEW raw.seen AS TABLE raw.s")
    assert actions(days) == ["dropped"] * 7
    refresh_everything(days)
    assert value(days, "SELECT sum(row_count) FROM gold.seen_7d") == 2 * 24 * 10
