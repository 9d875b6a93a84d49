"""Promise g: nothing is dropped that a rollup has not absorbed, and what is sealed stays."""

from datetime import timedelta

import psycopg
import pytest

from raw_tables import maintained
from retained_days import NOW, day, maintain, make_source, partitions, sealed, total
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from scenes import scene

pytestmark = pytest.mark.partman


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    return make_source(db)


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


def test_the_table_that_a_dropped_rollup_leaves_is_kept_for_ever(
    source: psycopg.Connection,
) -> None:
    source.execute(
        "SELECT silver.create_rollup_table('readings_1h', 'silver', 'kept', '1 day',"
        " dimensions => '{}', chunk_interval => '1 day')"
    )
    source.execute("SELECT silver.set_retention('kept', '3 days')")
    refresh_everything(source)
    source.execute("SELECT silver.drop_rollup('kept', keep_table => true)")
    maintain(source)
    maintain(source)
    assert source.execute("SELECT count(*) FROM silver.kept").fetchone() == (10,)


@pytest.mark.parametrize("archive", [False, True])
def test_a_sequence_that_numbers_rows_goes_with_no_partition(
    db: psycopg.Connection, archive: bool
) -> None:
    """It belongs to the plain table that became the first one."""
    db.execute(
        "CREATE TABLE raw.s_old (id bigserial, ts timestamptz);"
        "INSERT INTO raw.s_old (ts) VALUES ('2026-02-01');"
        "CREATE TABLE raw.s (LIKE raw.s_old INCLUDING DEFAULTS) PARTITION BY RANGE (ts);"
        "ALTER TABLE raw.s ATTACH PARTITION raw.s_old"
        " FOR VALUES FROM ('2026-01-01') TO ('2026-03-01')"
    )
    db.execute("SELECT silver.set_retention('raw.s', '3 days', archive => %s)", [archive])
    maintain(db)
    assert ("raw.s", "archived" if archive else "dropped") in maintain(db)
    db.execute("INSERT INTO raw.s (ts) VALUES ('2026-03-11')")
    assert db.execute("SELECT id FROM raw.s").fetchall() == [(2,)]
    assert db.execute("SELECT nextval('raw.s_old_id_seq')").fetchall() == [(3,)]


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
