"""The width of partitions: what was named stays, and none is wider than a tenth of what is kept."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from raw_tables import maintained
from rollup_checks import assert_settled, refresh_everything
from servers import PostgresServer

pytestmark = [pytest.mark.partman, pytest.mark.spread]

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
MONTHS = [datetime(2026, month, 20, tzinfo=UTC) for month in (3, 4)]


@pytest.fixture
def source(db: psycopg.Connection) -> psycopg.Connection:
    """raw.readings: 60 days that a year-wide partition would have room for; notices are kept."""
    db.execute("CREATE TABLE raw.readings (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    db.execute(
        "CREATE FUNCTION raw.fill(days int = 60) RETURNS void LANGUAGE sql AS $$"
        " INSERT INTO raw.readings SELECT now() - i * make_interval(days => days) / 20000, i"
        " FROM generate_series(0, 19999) AS i $$"
    )
    return db


def notices(db: psycopg.Connection[Any]) -> list[str]:
    heard: list[str] = []
    db.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    return heard


def maintain(db: psycopg.Connection[Any], now: datetime = NOW) -> dict[str, str]:
    rows = db.execute(
        "SELECT target, action, detail FROM rollup_engine.run_maintenance(NULL, %s)", [now]
    ).fetchall()
    assert not [row for row in rows if row[1] == "failed"], rows
    return {action: detail for target, action, detail in rows if target == "raw.readings"}


def width(db: psycopg.Connection[Any], table: str = "raw.readings") -> timedelta:
    row = db.execute("SELECT rollup_engine.chunk_interval(%s)", [table]).fetchone()
    assert row
    return timedelta(seconds=row[0].total_seconds())


def first_time(db: psycopg.Connection[Any]) -> datetime:
    row = db.execute("SELECT min(ts) FROM raw.readings").fetchone()
    assert row
    return datetime.fromisoformat(str(row[0]))


def test_a_width_that_somebody_named_stays(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.partition_source('readings', '1 day')")
    source.execute("SELECT raw.fill(9)")
    for _ in range(3):  # rows get partitions, these get statistics
        assert "resized" not in maintain(source)
    assert width(source) == DAY
    source.execute("SELECT silver.partition_source('readings', NULL)")
    assert width(source) == DAY, "until maintenance sizes it"
    assert "instead of 1 day" in maintain(source)["resized"]
    assert width(source) > DAY
    source.execute("SELECT silver.partition_source('readings', '2 days')")
    assert "resized" not in maintain(source)
    assert width(source) == 2 * DAY


def test_a_width_that_was_named_for_a_rollup_stays(source: psycopg.Connection) -> None:
    for name, chunk in (("named", "'1 day'"), ("sized", "NULL"), ("changed", "NULL")):
        source.execute(
            "SELECT silver.create_rollup_table('readings', 'silver', %s, '1 minute',"
            f" chunk_interval => {chunk})".encode(),
            [name],
        )
    source.execute("SELECT silver.partition_source('readings', '1 day')")
    source.execute("SELECT raw.fill(9)")
    source.execute(
        "UPDATE silver.rollup_config SET chunk_interval = '1 day'"
        " WHERE target_table = 'silver.changed'::regclass"
    )
    for _ in range(2):
        maintain(source)
        refresh_everything(source)
    # Rows leave the default partition once no snapshot is older, one of another test included.
    while maintain(source).keys() & {"skipped", "premade"}:
        refresh_everything(source)
    assert width(source, "silver.named") == width(source, "silver.changed") == DAY
    assert width(source, "silver.sized") > DAY
    assert_settled(source, "named", "sized", "changed")


def test_what_was_to_be_gone_after_30_days_is_gone_after_33(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.partition_source('readings', '1 day')")
    source.execute("SELECT raw.fill()")
    source.execute(
        "SELECT silver.create_rollup_table('readings', 'silver', 'readings_1d', '1 day')"
    )
    source.execute("SELECT silver.set_retention('readings', '30 days')")
    for _ in range(20):
        refresh_everything(source)
        if "dropped" not in maintain(source) and first_time(source) > NOW - timedelta(days=33):
            break
    assert NOW - timedelta(days=33) < first_time(source) < NOW - timedelta(days=29)
    count = source.execute("SELECT sum(row_count) FROM gold.readings_1d").fetchone()
    assert count == (20000,), "what is gone was absorbed"


@pytest.mark.parametrize("order", ["keep first", "width first"])
@pytest.mark.parametrize("named", ["1 year", None])
def test_no_partition_to_come_is_wider_than_a_tenth_of_what_is_kept(
    source: psycopg.Connection, order: str, named: str | None
) -> None:
    calls = [
        ("SELECT silver.partition_source('readings', %s)", named),
        ("SELECT silver.set_retention('readings', %s)", "30 days"),
    ]
    heard = notices(source)
    for call, argument in calls if order == "width first" else reversed(calls):
        source.execute(call.encode(), [argument])
    source.execute("SELECT raw.fill()")
    maintain(source)
    maintain(source)
    assert width(source) <= 3 * DAY
    best = source.execute("SELECT silver.optimize_chunk_interval('readings')").fetchone()
    assert best
    assert best[0] <= 3 * DAY
    if named:
        assert "partitions of raw.readings to come are 2 days wide instead of 1 year" in heard[0]


@pytest.mark.parametrize("order", ["width first", "keep first"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "by size"])
def test_parts_are_kept_as_the_whole_that_they_are_of(
    db: psycopg.Connection, order: str, named: bool
) -> None:
    db.execute("CREATE TABLE raw.whole (ts timestamptz, k text) PARTITION BY LIST (k)")
    db.execute(
        "CREATE TABLE raw.part PARTITION OF raw.whole FOR VALUES IN ('a') PARTITION BY RANGE (ts)"
    )
    heard = notices(db)
    calls: list[tuple[str, list[object]]] = [
        ("SELECT silver.partition_source('part', %s)", ["1 year" if named else None]),
        ("SELECT silver.set_retention('whole', %s)", ["30 days"]),
    ]
    for call, arguments in calls if order == "width first" else reversed(calls):
        db.execute(call.encode(), arguments)
    db.execute(
        "INSERT INTO raw.whole SELECT now() - i * interval '4 minutes', 'a'"
        " FROM generate_series(0, 19999) AS i"
    )
    for _ in range(2):
        db.execute("ANALYZE raw.whole; SELECT silver.maintain_timeseries_tables()")
        assert width(db, "raw.part") <= 3 * DAY
    if named:
        assert "partitions of raw.part to come are 2 days wide instead of 1 year" in heard[0]
    # Who has followed the advice to keep the part for ever by itself is not given it again.
    db.execute("SELECT silver.set_retention('part', NULL)")
    told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
    assert "is a partition of" not in str((heard, told))


@pytest.mark.parametrize("parts", ["ab", "ba"])
def test_parts_by_another_time_than_the_whole_goes_by_are_told(
    db: psycopg.Connection, parts: str
) -> None:
    """In whatever order they were made."""
    db.execute("CREATE TABLE raw.whole (k text, seen date, ts date) PARTITION BY LIST (k)")
    for name in parts:
        by = {"a": "seen", "b": "ts"}[name]
        db.execute(
            f"CREATE TABLE raw.{name} PARTITION OF raw.whole FOR VALUES IN ('{name}')"
            f" PARTITION BY RANGE ({by});"
            f"CREATE TABLE raw.{name}_1 PARTITION OF raw.{name}"
            " FOR VALUES FROM ('2026-03-01') TO ('2026-03-02')".encode()
        )
    db.execute("CREATE TABLE raw.b_rest PARTITION OF raw.b DEFAULT")
    db.execute("INSERT INTO raw.whole VALUES ('b', '2026-03-01', '2025-03-01')")
    db.execute("SELECT silver.create_rollup_table('whole', 'silver', 'whole_1d', '1 day', 'seen')")
    refresh_everything(db)
    heard = notices(db)
    db.execute("SELECT silver.set_retention('whole', '20 days')")
    assert heard == [f"raw.b_{part} has no end, and is never dropped" for part in ("1", "rest")]


def test_partitions_that_are_too_wide_for_the_keep_are_named(source: psycopg.Connection) -> None:
    source.execute(
        # Old, but narrow: of it nothing is said.
        "CREATE TABLE raw.d24 PARTITION OF raw.readings"
        " FOR VALUES FROM ('2024-12-31 00:00+00') TO ('2025-01-01 00:00+00');"
        "CREATE TABLE raw.y25 PARTITION OF raw.readings"
        " FOR VALUES FROM ('2025-01-01 00:00+00') TO ('2026-01-01 00:00+00');"
        "CREATE TABLE raw.y26 PARTITION OF raw.readings"
        " FOR VALUES FROM ('2026-01-01 00:00+00') TO (MAXVALUE)"
    )
    heard = notices(source)
    source.execute("SELECT silver.set_retention('readings', '30 days')")
    warnings = source.execute(
        "SELECT problem, is_valid FROM silver.validate_rollup_config()"
        " WHERE target = 'raw.readings'"
    ).fetchall()
    assert [(problem, True) for problem in heard] == warnings
    assert "up to 365 days wide, so rows stay that much longer than 30 days" in heard[0]
    assert "raw.y25, goes after 2026-01-31 00:00:00+00" in heard[0]
    assert heard[1] == "raw.y26 has no end, and is never dropped"
    source.execute(
        "SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')"
    )
    monitor = "SELECT health, reason FROM silver.timeseries_operations_monitor"
    assert source.execute(monitor).fetchall() == [("ok", heard[0])]


def test_a_default_partition_below_the_top_has_no_end_to_speak_of(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.parts (d text, ts timestamptz) PARTITION BY LIST (d);"
        "CREATE TABLE raw.parts_a PARTITION OF raw.parts FOR VALUES IN ('a')"
        " PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.parts_a_rest PARTITION OF raw.parts_a DEFAULT"
    )
    heard = notices(db)
    db.execute("SELECT silver.set_retention('raw.parts', '30 days')")
    assert heard == []
    assert db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall() == []
    # What is left over of a list is divided by no time.
    db.execute("CREATE TABLE raw.parts_rest PARTITION OF raw.parts DEFAULT")
    assert db.execute("SELECT problem, hint FROM silver.validate_rollup_config()").fetchall() == [
        (
            "raw.parts_rest has no end, and is never dropped",
            "detach it, make a table in its place that is partitioned by time as its neighbours"
            " are, and move its rows there",
        )
    ]


def test_statistics_with_infinities_and_open_partitions_size_all_the_same(
    source: psycopg.Connection,
) -> None:
    source.execute(
        "CREATE TABLE raw.old PARTITION OF raw.readings"
        " FOR VALUES FROM (MINVALUE) TO ('2020-01-01 00:00+00');"
        "CREATE TABLE raw.new PARTITION OF raw.readings"
        " FOR VALUES FROM ('2020-01-01 00:00+00') TO (MAXVALUE);"
        "SELECT raw.fill();"
        "INSERT INTO raw.readings VALUES ('infinity', 1), ('-infinity', 2), ('294276-12-31', 3)"
    )
    source.execute("ANALYZE raw.readings")
    best = source.execute("SELECT silver.optimize_chunk_interval('readings', 1048576)").fetchone()
    assert best
    assert DAY <= best[0] <= timedelta(days=60), "60 days are one or two megabytes"
    source.execute(
        "SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')"
    )
    source.execute("SELECT silver.partition_source('readings', NULL)")
    maintain(source)
    maintain(source)
    source.execute("SELECT silver.set_retention('readings', '1 day')")
    refresh_everything(source)
    maintain(source)
    maintain(source)
    assert_settled(source, "readings_1h")


def test_tables_without_a_time_column_are_refused_before_anything_is_changed(
    db: psycopg.Connection,
) -> None:
    db.execute(
        "CREATE TABLE raw.numbered (n bigint NOT NULL, v int) PARTITION BY RANGE (n);"
        "CREATE TABLE raw.numbered_0 PARTITION OF raw.numbered FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE raw.lettered (k text NOT NULL) PARTITION BY RANGE (k)"
    )
    for table in ("numbered", "lettered"):
        for call in ("partition_source", "set_retention"):
            with pytest.raises(psycopg.Error, match="not partitioned by ranges of a time") as e:
                db.execute(f"SELECT silver.{call}('{table}', '1 day')".encode())
            assert e.value.sqlstate == "TR004"
    names = db.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class AS c"
        " ON c.oid = inhrelid AND c.relkind = 'r' AND c.relnamespace = 'raw'::regnamespace"
    )
    assert names.fetchall() == [("raw.numbered_0",)]
    left = db.execute("SELECT count(*) FROM rollup_engine.partition_set").fetchone()
    assert left == (0,)
    with pytest.raises(psycopg.Error, match="0 time columns") as e:
        db.execute("SELECT silver.create_rollup_table('lettered', 'silver', 'l', '1 hour')")
    assert e.value.sqlstate == "TR001"


@pytest.mark.parametrize("kept", ["raw.d", "raw.sites"])
def test_rows_of_a_default_partition_that_nobody_divides_are_told(
    db: psycopg.Connection, kept: str
) -> None:
    below = {
        "raw.d": "raw.d (ts timestamptz NOT NULL)",
        "raw.sites": "raw.d PARTITION OF raw.sites FOR VALUES IN ('a', NULL)",
    }
    db.execute(
        "CREATE TABLE raw.sites (ts timestamptz NOT NULL, site text) PARTITION BY LIST (site);"
        f"CREATE TABLE {below[kept]} PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.d_rest PARTITION OF raw.d DEFAULT;"
        f"SELECT silver.create_rollup_table('{kept}', 'silver', 'd_1h', '1 hour')".encode()
    )
    heard: list[str] = []
    db.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    told = "raw.d_rest, a default partition, holds rows, which are never dropped"
    warned = "SELECT problem, hint FROM silver.validate_rollup_config() WHERE is_valid"
    db.execute(f"SELECT silver.set_retention('{kept}', '30 days')".encode())
    assert told not in heard
    db.execute(
        "INSERT INTO raw.d SELECT now() - n * interval '10 days' FROM generate_series(0, 9) AS n"
    )
    db.execute(f"SELECT silver.set_retention('{kept}', '30 days')".encode())
    assert told in heard
    hint = "SELECT silver.partition_source('raw.d', ...) gives them partitions of their own"
    assert (told, hint) in db.execute(warned).fetchall()
    db.execute("SELECT silver.partition_source('raw.d', '1 day')")
    refresh_everything(db)
    for _ in range(4):  # on a busy machine rows are moved in several goes
        maintained(db, datetime.now(UTC))
    assert (told, hint) not in db.execute(warned).fetchall()
    assert db.execute("SELECT count(*) FROM raw.d").fetchone() == (4,)
    db.execute("INSERT INTO raw.d VALUES (now() - interval '50 days')")
    late = (
        "SELECT hint FROM silver.validate_rollup_config() WHERE problem ~ 'before .* never dropped'"
    )
    (hint,) = db.execute(late).fetchone() or ("",)
    db.execute(hint.removeprefix("those that nobody wants, ").encode())
    assert db.execute(late).fetchall() == []
    assert db.execute("SELECT count(*) FROM raw.d").fetchone() == (4,)


def test_rows_that_left_a_default_partition_are_not_told_of(
    db: psycopg.Connection, server: PostgresServer
) -> None:
    """Its file has room for them yet, and who tells may not look at a table without rollups."""
    db.execute(
        "CREATE TABLE raw.d (ts timestamptz NOT NULL) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.d_rest PARTITION OF raw.d DEFAULT"
    )
    db.execute("INSERT INTO raw.d SELECT now() - n * interval '1 day' FROM generate_series(0, 9) n")
    db.execute("SELECT silver.partition_source('raw.d', '1 day')")
    db.execute("SELECT silver.set_retention('raw.d', '5 days')")
    with psycopg.connect(server.superuser_url(db.info.dbname), autocommit=True) as superuser:
        superuser.execute("REVOKE ALL ON raw.d FROM tsrollup_owner")
    db.execute("INSERT INTO raw.d_rest VALUES ('infinity')")
    db.execute("DELETE FROM raw.d_rest")
    assert "sealed" in str(maintained(db, NOW))
    told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
    assert "default partition" not in str(told)


def test_what_a_wide_bucket_waits_for_is_not_told_as_held(source: psycopg.Connection) -> None:
    """Sealed by one rollup, and not yet by another, by a view, that came since."""
    for day in range(-30, 2):
        source.execute(
            f"CREATE TABLE raw.d{day + 30} PARTITION OF raw.readings FOR VALUES"
            f" FROM ('{(NOW + day * DAY).date()}') TO ('{(NOW + (day + 1) * DAY).date()}')".encode()
        )
    source.execute("SELECT raw.fill(29)")
    source.execute("SELECT silver.create_rollup_table('readings', 'silver', 'by_hour', '1 hour')")
    refresh_everything(source)
    source.execute("SELECT silver.set_retention('readings', '5 days')")
    assert "sealed" in maintain(source)
    source.execute("CREATE VIEW raw.shown AS TABLE raw.readings")
    source.execute(
        "SELECT silver.create_rollup_table('shown', 'silver', 'by_year', '1 year',"
        " change_tracking => 'window', look_back_window => '3 days')"
    )
    refresh_everything(source)
    source.execute("UPDATE rollup_engine.retention SET set_at = set_at - interval '9 days'")
    problems = source.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
    assert "up to" in str(problems)
    assert "sealed" not in str(problems)


def test_a_default_partition_that_is_divided_in_turn_has_no_end_to_tell_of(
    db: psycopg.Connection,
) -> None:
    db.execute(
        "CREATE TABLE raw.d (ts timestamptz NOT NULL, v integer) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.d_rest PARTITION OF raw.d DEFAULT PARTITION BY HASH (v);"
        "CREATE TABLE raw.d_0 PARTITION OF raw.d_rest FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )
    db.execute("SELECT silver.create_rollup_table('raw.d', 'silver', 'd_1h', '1 hour')")
    db.execute("SELECT silver.set_retention('raw.d', '30 days')")
    problems = "SELECT problem FROM silver.validate_rollup_config() WHERE problem IS NOT NULL"
    assert db.execute(problems).fetchall() == []


@pytest.mark.parametrize("by", ["measured", "ts"])
def test_default_partitions_of_what_goes_as_a_whole_are_not_told(
    db: psycopg.Connection, by: str
) -> None:
    """They go with the month that they are of, by whatever time that is divided."""
    db.execute("CREATE TABLE raw.d (ts timestamptz, measured timestamptz) PARTITION BY RANGE (ts)")
    for month, after in (("2026-03-01", "2026-04-01"), ("2026-04-01", "2026-05-01")):
        db.execute(
            f"CREATE TABLE raw.d_{after[6]} PARTITION OF raw.d FOR VALUES FROM ('{month}')"
            f" TO ('{after}') PARTITION BY RANGE ({by});"
            f"CREATE TABLE raw.d_{after[6]}_rest PARTITION OF raw.d_{after[6]} DEFAULT".encode()
        )
    db.execute("SELECT silver.create_rollup_table('raw.d', 'silver', 'd_1h', '1 hour', 'ts')")
    db.execute("INSERT INTO raw.d SELECT m, m - interval '90 days' FROM unnest(%s) AS m", [MONTHS])
    refresh_everything(db)
    heard = notices(db)
    db.execute("SELECT silver.set_retention('raw.d', '60 days')")
    assert "sealed" in str(maintained(db, MONTHS[1] + 50 * DAY))
    told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
    assert "default partition" not in str((heard, told))


def test_a_time_that_was_renamed_is_told_by_its_new_name(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.d (ts timestamptz NOT NULL, v integer) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.d_rest PARTITION OF raw.d DEFAULT"
    )
    db.execute("SELECT silver.create_rollup_table('raw.d', 'silver', 'd_1h', '1 hour')")
    db.execute("INSERT INTO raw.d VALUES (now() - interval '50 days', 1)")
    db.execute("SELECT silver.partition_source('raw.d', '1 day')")
    db.execute("SELECT silver.set_retention('raw.d', '30 days')")
    refresh_everything(db)
    maintained(db, datetime.now(UTC))
    db.execute("INSERT INTO raw.d VALUES (now() + interval '300 days', 1)")
    db.execute("ALTER TABLE raw.d RENAME ts TO at")
    db.execute("SELECT silver.perform_rollup()")
    late = "SELECT problem FROM silver.validate_rollup_config() WHERE problem ~ 'never dropped'"
    assert db.execute(late).fetchall() == []
