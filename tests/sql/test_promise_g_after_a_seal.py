"""Promise g where something comes after time was sealed, or stays before it: rollups, a longer
keep, late rows, views of other tables, a source made anew. And whose time a view shows."""

from typing import Any

import psycopg
import pytest

from rollup_checks import refresh_everything
from sealed_days import maintain, make_days, one, roll_up, total, view

LOOK_BACK = "change_tracking => 'window', look_back_window => "


@pytest.fixture
def days(db: psycopg.Connection) -> psycopg.Connection:
    """raw.s, four rows a day of the last twenty, a partition each, and a default one."""
    db.execute("SET timezone = 'UTC'")
    make_days(db, "raw.s")
    return db


def fill_regions(db: psycopg.Connection[Any]) -> None:
    db.execute(
        "INSERT INTO raw.s SELECT t, r FROM unnest('{a,b}'::text[]) AS r,"
        " generate_series(timestamptz '2026-03-01', '2026-03-30', '6h') AS t"
    )


def drop_all_but_ten_days_of_march(db: psycopg.Connection[Any]) -> None:
    db.execute("SELECT silver.set_retention('raw.s', '10 days')")
    for _ in range(2):
        db.execute("SELECT * FROM rollup_engine.run_maintenance(NULL, '2026-03-31 12:00Z')")


def seal_of_a_later_rollup(db: psycopg.Connection[Any]) -> Any:
    """Made when the table is kept for ever again."""
    db.execute("SELECT silver.set_retention('raw.s', NULL)")
    roll_up(db, "raw.s", "new")
    return one(db, "SELECT sealed_before FROM silver.rollup_config")


@pytest.mark.parametrize("keep", ["NULL", "'15 days'"])
def test_promise_g_a_rollup_that_comes_after_a_seal_holds_what_is_still_kept(
    days: psycopg.Connection, keep: str
) -> None:
    """Where nothing was dropped yet: what the hint of mark_stale in sealed time counts on."""
    roll_up(days, "raw.s", "old")
    days.execute("CALL silver.run_rollups()")
    days.execute("SELECT silver.set_retention('raw.s', '5 days')")
    assert maintain(days) == ["sealed"]
    days.execute(f"SELECT silver.set_retention('raw.s', {keep})")
    roll_up(days, "raw.s", "new")
    refresh_everything(days)
    held = (
        80
        if keep == "NULL"
        else one(
            days,
            "SELECT count(*) FROM raw.s WHERE ts >= date_bin('1 hour', now(), '2000-01-03')"
            " - interval '15 days' + interval '1 hour'",
        )
    )
    assert total(days, "gold.new") == held > 50
    assert total(days, "gold.old") == 80
    # What is dropped after that, it has absorbed, and it keeps it.
    days.execute("SELECT silver.set_retention('raw.s', '10 days')")
    assert "dropped" in maintain(days, 3)
    days.execute("CALL silver.run_rollups()")
    assert total(days, "gold.new") == held
    assert total(days, "gold.old") == 80


def test_promise_g_a_wide_bucket_that_lacks_what_is_gone_is_told_when_it_is_created(
    days: psycopg.Connection,
) -> None:
    """Rows of now are not late for it, whose bucket of now is left out."""
    roll_up(days, "raw.s", "old")
    days.execute("CALL silver.run_rollups()")
    days.execute("SELECT silver.set_retention('raw.s', '10 days')")
    assert "dropped" in maintain(days, 3)
    heard: list[str] = []
    days.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    for source, target in (("raw.s", "wide"), ("old", "of_old")):
        days.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '100 years')", [source, target]
        )
    begins = [line for line in heard if "begins with the bucket of" in line]
    assert begins == [
        "silver.wide begins with the bucket of 2100-01-01 00:00:00+00:"
        " older ones lack rows that retention has removed from raw.s, or is about to"
    ]
    days.execute("INSERT INTO raw.s VALUES (now(), 1)")
    refresh_everything(days)
    days.execute("INSERT INTO raw.s VALUES (now(), 1)")
    refresh_everything(days)
    assert one(days, "SELECT sum(sealed_late_rows) FROM silver.rollup_config") == 0
    assert one(days, "SELECT count(*) FROM silver.error_log") == 0
    assert total(days, "gold.of_old") == 82
    assert one(days, "SELECT count(*) FROM gold.wide") == 0


def test_promise_g_only_a_rollup_that_knows_all_is_advised_as_a_source(
    days: psycopg.Connection,
) -> None:
    """Not one that came when rows were gone, nor one whose rows go before those of the source."""
    heard: list[str] = []
    days.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    create = "SELECT silver.create_rollup_table(%s, 'silver', %s, %s)"
    days.execute(create, ["raw.s", "old", "1 hour"])
    days.execute(create, ["raw.s", "short", "2 hours"])
    days.execute("SELECT silver.set_retention('short', '3 days')")
    refresh_everything(days)
    days.execute("SELECT silver.set_retention('raw.s', '10 days')")
    assert "dropped" in maintain(days, 4)
    days.execute(create, ["raw.s", "late", "3 hours"])
    for source, told in (
        ("raw.s", "silver.old holds all that this rollup needs, in fewer rows than raw.s"),
        ("late", "silver.wide knows nothing of before "),
    ):
        heard.clear()
        days.execute(create, [source, "wide", "100 years"])
        assert any(line.startswith(told) for line in heard), heard
        assert "silver.late holds" not in str(heard)
        days.execute("SELECT silver.drop_rollup('wide')")
    heard.clear()
    days.execute(create, ["old", "wide", "100 years"])
    assert heard == []


def test_promise_g_what_is_gone_at_a_seal_a_later_rollup_does_not_claim(
    days: psycopg.Connection,
) -> None:
    days.execute("SELECT silver.set_retention('raw.s', '5 days')")
    assert "dropped" in maintain(days, 2)
    days.execute("SELECT silver.set_retention('raw.s', NULL)")
    roll_up(days, "raw.s", "new")
    sealed = one(days, "SELECT sealed_before FROM silver.rollup_config")
    assert sealed == one(days, "SELECT sealed_before FROM rollup_engine.retention")


def test_promise_g_a_first_partition_without_a_beginning_is_whole(
    days: psycopg.Connection,
) -> None:
    start = one(days, "SELECT quote_literal(date_trunc('day', now()) - interval '21 days')")
    days.execute(
        f"CREATE TABLE raw.s_all PARTITION OF raw.s FOR VALUES FROM (MINVALUE) TO ({start})"
    )
    days.execute("INSERT INTO raw.s VALUES (now() - interval '90 days', 1)")
    days.execute("SELECT silver.set_retention('raw.s', '5 days')")
    assert maintain(days) == ["sealed"]
    days.execute("SELECT silver.set_retention('raw.s', NULL)")
    roll_up(days, "raw.s", "new")
    refresh_everything(days)
    assert total(days, "gold.new") == total(days, "silver.new") == 81
    assert one(days, "SELECT sealed_before IS NULL FROM silver.rollup_config")


def test_promise_g_a_month_whose_days_are_gone_is_not_whole(db: psycopg.Connection) -> None:
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.s (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    db.execute(
        "CREATE TABLE raw.s_m PARTITION OF raw.s"
        " FOR VALUES FROM ('2026-03-01') TO ('2026-04-01') PARTITION BY RANGE (ts)"
    )
    for day in range(1, 31):
        db.execute(
            f"CREATE TABLE raw.s_{day} PARTITION OF raw.s_m"
            f" FOR VALUES FROM ('2026-03-{day:02}') TO ('2026-03-{day + 1:02}')"
            " WITH (autovacuum_enabled = off)"
        )
    db.execute(
        "INSERT INTO raw.s SELECT generate_series(timestamptz '2026-03-01', '2026-03-30', '6h'), 1"
    )
    drop_all_but_ten_days_of_march(db)
    gone = one(db, "SELECT min(ts) FROM raw.s")
    assert gone == one(db, "SELECT sealed_before FROM rollup_engine.retention")
    assert seal_of_a_later_rollup(db) == gone


def test_promise_g_a_month_of_which_one_region_is_divided_by_days_is_not_whole(
    db: psycopg.Connection,
) -> None:
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.s (ts timestamptz NOT NULL, r text) PARTITION BY RANGE (ts)")
    db.execute(
        "CREATE TABLE raw.s_m PARTITION OF raw.s"
        " FOR VALUES FROM ('2026-03-01') TO ('2026-04-01') PARTITION BY LIST (r)"
    )
    db.execute("CREATE TABLE raw.s_b PARTITION OF raw.s_m FOR VALUES IN ('b')")
    db.execute(
        "CREATE TABLE raw.s_a PARTITION OF raw.s_m FOR VALUES IN ('a') PARTITION BY RANGE (ts)"
    )
    for day in range(1, 31):
        db.execute(
            f"CREATE TABLE raw.s_{day} PARTITION OF raw.s_a"
            f" FOR VALUES FROM ('2026-03-{day:02}') TO ('2026-03-{day + 1:02}')"
            " WITH (autovacuum_enabled = off)"
        )
    fill_regions(db)
    drop_all_but_ten_days_of_march(db)
    gone = one(db, "SELECT min(ts) FROM raw.s WHERE r = 'a'")
    assert gone == one(db, "SELECT sealed_before FROM rollup_engine.retention")
    assert seal_of_a_later_rollup(db) == gone


def test_promise_g_a_day_of_which_one_region_stays_is_not_whole(db: psycopg.Connection) -> None:
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.s (ts timestamptz NOT NULL, r text) PARTITION BY RANGE (ts)")
    for day in range(1, 31):
        db.execute(
            f"CREATE TABLE raw.s_{day} PARTITION OF raw.s FOR VALUES FROM ('2026-03-{day:02}')"
            f" TO ('2026-03-{day + 1:02}') PARTITION BY LIST (r)"
        )
        for r in "ab":
            db.execute(
                f"CREATE TABLE raw.s_{day}{r} PARTITION OF raw.s_{day} FOR VALUES IN ('{r}')"
                " WITH (autovacuum_enabled = off)"
            )
        db.execute(f"CREATE VIEW raw.v_{day} AS TABLE raw.s_{day}b")
    fill_regions(db)
    drop_all_but_ten_days_of_march(db)
    assert one(db, "SELECT min(ts) FROM raw.s WHERE r = 'a'") > one(db, "SELECT min(ts) FROM raw.s")
    sealed = one(db, "SELECT sealed_before FROM rollup_engine.retention")
    assert seal_of_a_later_rollup(db) == sealed


def test_promise_g_a_longer_keep_and_a_view_hold_back_only_what_is_kept(
    days: psycopg.Connection,
) -> None:
    days.execute("SELECT silver.set_retention('raw.s', '3 days')")
    assert maintain(days) == ["sealed"]
    days.execute("SELECT silver.set_retention('raw.s', '10 days')")
    view(days, "raw.seen", "TABLE raw.s")
    roll_up(days, "raw.seen", "w", f"{LOOK_BACK}'10 days'")
    days.execute("CALL silver.run_rollups()")
    assert "dropped" in maintain(days, 3)
    assert one(days, "SELECT min(ts) > now() - interval '11 days' FROM raw.s")
    days.execute("CALL silver.run_rollups()")
    assert total(days, "gold.w") == 80
    assert one(days, "SELECT sealed_before FROM rollup_engine.retention") > one(
        days, "SELECT sealed_before FROM silver.rollup_config"
    )


@pytest.mark.parametrize("reader", ["none", "view"])
def test_promise_g_late_rows_of_what_no_rollup_is_sealed_for_hold_nothing_back(
    days: psycopg.Connection, reader: str
) -> None:
    days.execute("SELECT silver.partition_source('raw.s', '1 day')")
    days.execute("SELECT silver.set_retention('raw.s', '10 days')")
    if reader == "view":
        view(days, "raw.seen", "TABLE raw.s")
        roll_up(days, "raw.seen", "w", f"{LOOK_BACK}'1 day'")
        days.execute("CALL silver.run_rollups()")
    assert "dropped" in maintain(days, 2)
    first = one(days, "SELECT sealed_before FROM rollup_engine.retention")
    late = "INSERT INTO raw.s SELECT now() - interval '18 days', 1"
    days.execute(late)
    days.execute("SELECT silver.set_retention('raw.s', '5 days')")
    days.execute("CALL silver.run_rollups()")
    assert "sealed" in maintain(days)
    assert one(days, "SELECT sealed_before FROM rollup_engine.retention") > first
    assert one(days, "SELECT count(*) FROM raw.s_default") == 1


@pytest.mark.parametrize("table", ["", "'raw.s'"])
def test_promise_g_old_rows_of_a_part_get_a_partition_before_the_whole_is_sealed(
    db: psycopg.Connection, table: str
) -> None:
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.s (ts timestamptz NOT NULL, k text) PARTITION BY LIST (k)")
    for k in "ab":
        db.execute(
            f"CREATE TABLE raw.s_{k} PARTITION OF raw.s FOR VALUES IN ('{k}')"
            " PARTITION BY RANGE (ts)"
        )
        db.execute(f"SELECT silver.partition_source('raw.s_{k}', '1 day')")
    roll_up(db, "raw.s", "m")
    rows = "INSERT INTO raw.s SELECT now() - n * interval '6 hours', 'a' FROM generate_series"
    db.execute(f"{rows} (0, 100) AS n")
    while one(db, "SELECT count(*) FROM raw.s_a_default"):  # a run of maintenance moves some
        maintain(db)
    db.execute("SELECT silver.set_retention('raw.s', '20 days')")
    db.execute(f"{rows} (200, 220) AS n")
    for _ in range(8):
        db.execute("CALL silver.run_rollups()")
        maintain(db, table=table)
    assert one(db, "SELECT min(ts) > now() - interval '22 days' FROM raw.s")
    assert total(db, "gold.m") == 122


def test_promise_g_a_rollup_that_is_kept_itself_leaves_its_source_alone(
    days: psycopg.Connection,
) -> None:
    roll_up(days, "raw.s", "m")
    days.execute("SELECT silver.partition_source('raw.s', '1 day')")
    days.execute("SELECT silver.set_retention('m', '5 days')")
    days.execute("CALL silver.run_rollups()")
    assert "sealed" in maintain(days, 2)
    days.execute("INSERT INTO raw.s SELECT now() - interval '40 days', 1")
    days.execute("CALL silver.run_rollups()")
    maintain(days)
    assert one(days, "SELECT count(*) FROM raw.s_default") == 0
    days.execute("SELECT silver.set_retention('raw.s', '25 days')")
    days.execute("CALL silver.run_rollups()")
    assert "dropped" in maintain(days, 3)
    assert one(days, "SELECT count(*) FROM raw.s") == 80


def test_promise_g_a_rollup_that_is_kept_itself_keeps_what_a_view_has_yet_to_show(
    days: psycopg.Connection,
) -> None:
    roll_up(days, "raw.s", "m")
    days.execute("CALL silver.run_rollups()")
    days.execute("SELECT silver.set_retention('m', '5 days')")
    assert maintain(days) == ["sealed"]
    view(days, "raw.seen", "SELECT bucket AS ts, row_count AS n FROM gold.m")
    roll_up(days, "raw.seen", "w", f"{LOOK_BACK}'2 days'")
    maintain(days)
    days.execute("CALL silver.run_rollups()")
    maintain(days, 3)
    assert one(days, "SELECT sum(n_sum) FROM gold.w") == 80
    assert total(days, "gold.m") < 25


def test_promise_g_a_rollup_that_is_kept_itself_is_sealed_when_it_has_absorbed(
    days: psycopg.Connection,
) -> None:
    roll_up(days, "raw.s", "m")
    days.execute("CALL silver.run_rollups()")
    days.execute("SELECT silver.pause_rollup('m')")
    days.execute("INSERT INTO raw.s VALUES (now() - interval '8 days', 1)")
    days.execute("CALL silver.run_rollups()")
    days.execute("SELECT silver.set_retention('m', '6 days')")
    maintain(days)
    days.execute("SELECT silver.set_retention('m', '1 year')")
    days.execute("SELECT silver.resume_rollup('m')")
    days.execute("CALL silver.run_rollups()")
    assert total(days, "gold.m") == 81


def test_promise_g_a_keep_that_comes_with_a_rollup_counts_at_once(
    days: psycopg.Connection,
) -> None:
    roll_up(days, "raw.s", "m", "retention => '5 days'")
    view(days, "raw.g", "SELECT bucket AS ts, row_count AS n FROM gold.m")
    with pytest.raises(psycopg.Error, match=r"silver\.m is kept for 5 days, and read again for 20"):
        roll_up(days, "raw.g", "w", f"{LOOK_BACK}'20 days'")


def test_promise_g_views_that_are_swapped_by_renaming_hold_the_tables_of_the_new_one(
    days: psycopg.Connection,
) -> None:
    make_days(days, "raw.s2")
    view(days, "raw.seen", "TABLE raw.s")
    days.execute(
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'w', '28 days', 'ts',"
        f" {LOOK_BACK}'3 days')"
    )
    days.execute("CALL silver.run_rollups(as_of => 'infinity')")
    days.execute("ALTER VIEW raw.seen RENAME TO seen_old")
    view(days, "raw.seen", "TABLE raw.s2")
    days.execute("CALL silver.run_rollups(as_of => 'infinity')")
    days.execute("SELECT silver.set_retention('raw.s2', '4 days')")
    days.execute("DROP VIEW raw.seen_old")
    assert maintain(days, 2) == []
    days.execute("CALL silver.run_rollups(as_of => 'infinity')")
    assert total(days, "gold.w") == 80


@pytest.mark.parametrize("anew", ["view", "table"])
def test_promise_g_a_late_row_of_a_source_made_anew_costs_no_history(
    db: psycopg.Connection, anew: str
) -> None:
    db.execute("CREATE TABLE raw.s (ts timestamptz, v int)")
    view(db, "raw.seen", "TABLE raw.s")
    db.execute(
        "INSERT INTO raw.s SELECT now() - interval '5 days' - n * interval '6 hours', 1"
        " FROM generate_series(1, 100) AS n"
    )
    roll_up(db, "raw.seen" if anew == "view" else "raw.s", "w", f"{LOOK_BACK}'1 day'")
    db.execute("SELECT silver.create_rollup_table('w', 'silver', 'wd', '1 day')")
    db.execute("CALL silver.run_rollups()")
    db.execute("DELETE FROM raw.s WHERE ts < now() - interval '7 days'")
    db.execute("INSERT INTO raw.s VALUES (now() - interval '3 days', 1)")
    db.execute("CALL silver.run_rollups()")
    if anew == "view":
        db.execute("DROP VIEW raw.seen")
        view(db, "raw.seen", "TABLE raw.s")
    else:
        db.execute("CREATE TABLE raw.copy AS TABLE raw.s")
        db.execute("DROP TABLE raw.s CASCADE")
        db.execute("ALTER TABLE raw.copy RENAME TO s")
        db.execute("GRANT SELECT ON raw.s TO tsrollup_owner")
    for _ in range(2):
        db.execute("CALL silver.run_rollups()")
    assert total(db, "gold.w") == total(db, "gold.wd") == 100


def remake_days(db: psycopg.Connection, table: str) -> None:
    """A table with the rows of raw.kept, and one of 15 days ago."""
    make_days(db, table)
    db.execute(f"TRUNCATE {table}; INSERT INTO {table} TABLE raw.kept")
    db.execute(f"INSERT INTO {table} VALUES (now() - interval '15 days', 1)")
    db.execute(f"GRANT SELECT ON {table} TO tsrollup_owner")


@pytest.mark.parametrize("how", ["dropped", "swapped", "made beside it", "made before the seal"])
def test_promise_f_of_late_rows_in_a_source_made_anew_is_told(
    days: psycopg.Connection, how: str
) -> None:
    roll_up(days, "raw.s", "m")
    days.execute("CALL silver.run_rollups()")
    days.execute("CREATE TABLE raw.kept AS TABLE raw.s")
    if how == "made before the seal":
        remake_days(days, "raw.n")
    days.execute("SELECT silver.set_retention('raw.s', '10 days')")
    assert maintain(days) == ["sealed"]
    if how == "dropped":
        days.execute("DROP TABLE raw.s CASCADE")
        remake_days(days, "raw.s")
    elif how == "swapped":
        days.execute("CREATE SCHEMA old; ALTER TABLE raw.s SET SCHEMA old")
        for part in ["default", *range(23)]:
            days.execute(f"ALTER TABLE raw.s_{part} SET SCHEMA old")
        remake_days(days, "raw.s")
        days.execute("DROP SCHEMA old CASCADE")
    else:
        if how == "made beside it":
            remake_days(days, "raw.n")
        days.execute("INSERT INTO raw.s VALUES (now(), 1)")
        days.execute("CALL silver.run_rollups(as_of => 'infinity')")
        days.execute("BEGIN; DROP TABLE raw.s; ALTER TABLE raw.n RENAME TO s; COMMIT")
    for _ in range(2):
        days.execute("CALL silver.run_rollups()")
    assert total(days, "gold.m") == 80
    told = days.execute("SELECT error_message FROM silver.error_log WHERE error_code = 'TR006'")
    assert told.fetchall() == [
        ("late rows were perhaps kept out of sealed time, not counted",),
    ]


def test_promise_f_who_stands_in_the_way_of_a_source_made_anew_is_told(
    db: psycopg.Connection,
) -> None:
    make = "CREATE TABLE raw.s (ts timestamptz, v int); INSERT INTO raw.s VALUES (now(), 1)"
    db.execute(make)
    roll_up(db, "raw.s", "old")
    db.execute("DROP TABLE raw.s CASCADE")
    db.execute(make)
    roll_up(db, "raw.s", "new")
    db.execute("CALL silver.run_rollups()")
    hint = "SELECT hint FROM silver.validate_rollup_config() WHERE target = 'silver.old'"
    assert "raw.s has rollups of its own" in one(db, hint)
    db.execute("SELECT silver.drop_rollup('new')")
    for _ in range(2):
        db.execute("CALL silver.run_rollups()")
    assert one(db, hint) is None
    assert total(db, "gold.old") == 1


def test_promise_k_a_window_begins_where_it_does_whatever_the_time_zone(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.s (ts timestamptz, v int)")
    roll_up(db, "raw.s", "w", f"{LOOK_BACK}'1 year'")
    begins = set()
    for zone in ("UTC", "America/New_York", "Pacific/Auckland", "Asia/Kolkata"):
        db.execute(f"SET timezone = '{zone}'".encode())
        db.execute("BEGIN")
        begins.add(one(db, "SELECT now() - lower(rollup_engine.window_of(1)) <= '366 days'"))
        begins.add(
            one(
                db,
                "SELECT lower(rollup_engine.window_of(1)) = (least(now(), window_read_at)"
                " AT TIME ZONE 'UTC' - interval '1 year') AT TIME ZONE 'UTC'"
                " FROM rollup_engine.source",
            )
        )
        db.execute("COMMIT")
    assert begins == {True}


SHOWN = {
    "as it is": "SELECT ts FROM raw.s",
    "by a name": 'SELECT v AS "a } b {", ts FROM raw.s',
    "beside another": "SELECT s.ts FROM raw.s JOIN raw.o USING (v)",
    "through a query": "SELECT x.ts FROM (SELECT ts, v FROM raw.s) AS x",
    "through a CTE": "WITH x AS (SELECT ts FROM raw.s) SELECT ts FROM x",
    "through a view": "SELECT ts FROM raw.s_view",
    "united": 'SELECT ts FROM raw.s UNION ALL SELECT "my time" FROM raw.o',
}
COMPUTED = {
    "shifted": "SELECT ts + interval '1 day' AS ts FROM raw.s",
    "of a query": "SELECT ts + interval '1 day' AS ts FROM (SELECT ts FROM raw.s) AS x",
    "of a CTE": "WITH x AS (SELECT ts FROM raw.s) SELECT ts + interval '1 day' AS ts FROM x",
    "of a view": "SELECT ts + interval '1 day' AS ts FROM raw.s_view",
    "LATERAL": "SELECT l.ts FROM raw.s, LATERAL (SELECT s.ts + interval '1 day' AS ts) AS l",
    "in a condition": "SELECT now() AS ts FROM raw.s WHERE ts IN (SELECT ts FROM raw.s)",
    "united": "SELECT ts FROM raw.s UNION ALL SELECT ts + interval '1 day' FROM raw.s",
    "grouped": "SELECT max(ts) AS ts FROM raw.s",
    "of another": 'SELECT "my time" AS ts FROM raw.o',
}


@pytest.mark.parametrize(
    ("query", "is_shown"),
    [pytest.param(query, True, id=f"shown {name}") for name, query in SHOWN.items()]
    + [pytest.param(query, False, id=f"computed {name}") for name, query in COMPUTED.items()],
)
def test_promise_g_whose_time_a_view_shows(
    db: psycopg.Connection, query: str, is_shown: bool
) -> None:
    """Of each query that it unites, and of no other that stands inside it."""
    db.execute("CREATE TABLE raw.s (ts timestamptz, v int)")
    db.execute('CREATE TABLE raw.o ("my time" timestamptz, v int)')
    view(db, "raw.s_view", "SELECT v, ts FROM raw.s")
    view(db, "raw.seen", query)
    db.execute("ALTER VIEW raw.seen RENAME COLUMN ts TO other")
    asked = "SELECT rollup_engine.shows_column('raw.seen', 'other', 'raw.s', 'ts')"
    assert one(db, asked) is is_shown
