"""A source, or columns and partitions of it, renamed, dropped or exchanged: followed or named."""

from itertools import pairwise
from typing import Any

import psycopg
import pytest

from changed_tables import assert_exact_or_invalid, run
from conftest import Connect
from daily_table import RESET, ROLLUPS, SOURCE, roll_up
from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from scenes import scene
from servers import PostgresServer
from validation import healths, problems

pytestmark = pytest.mark.spread


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    return roll_up(db)


def gold(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT bucket, device, row_count, a_sum, a_avg, b_sum, w_min FROM gold.t_1d ORDER BY 1, 2"
    ).fetchall()


def assert_told(connection: psycopg.Connection[Any], problem: str) -> None:
    """At once, and after a run."""
    for _ in range(2):
        assert healths(connection) == {"invalid"}
        assert problem in problems(connection)[0][1]
        connection.execute("SELECT silver.perform_rollup()")


def test_promise_b_renamed_columns_are_followed(rolled_up: psycopg.Connection) -> None:
    """Time column, dimension and metrics; gold keeps its names, and new metrics go by the new."""
    before = gold(rolled_up)
    rolled_up.execute(
        "ALTER TABLE raw.t RENAME ts TO at; ALTER TABLE raw.t RENAME device TO sensor;"
        "ALTER TABLE raw.t RENAME a TO value"
    )
    assert healths(rolled_up) == {"invalid"}
    refresh_everything(rolled_up)
    assert problems(rolled_up) == []
    assert gold(rolled_up) == before
    rolled_up.execute("UPDATE raw.t SET value = value + 1, at = at + interval '1 hour'")
    rolled_up.execute("SELECT silver.add_rollup_metric('t_1h', '{\"value\": [\"min\"]}')")
    expected = rolled_up.execute(
        "SELECT date_bin('1 day', at, '2000-01-03 00:00+00'), sensor, count(*), sum(value),"
        " avg(value), sum(b), min(w) FROM raw.t GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    assert gold(rolled_up) == expected
    refresh_everything(rolled_up)
    assert gold(rolled_up) == expected
    lowest = rolled_up.execute("SELECT min(value_min) FROM gold.t_1h").fetchall()
    assert lowest == rolled_up.execute("SELECT min(value) FROM raw.t").fetchall()


@pytest.mark.parametrize("parts", ["", "PARTITION BY RANGE (ts)"])
@pytest.mark.parametrize(("one", "other"), [("ts", "sent"), ("device", "note")])
def test_promise_b_names_that_other_columns_had_for_a_while(
    db: psycopg.Connection, one: str, other: str, parts: str
) -> None:
    """Changes are logged by names of the time and the key, which are theirs again by the run."""
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, sent timestamptz, device text, note text)"
        f" {parts};".encode()
    )
    if parts:
        db.execute("CREATE TABLE raw.t_all PARTITION OF raw.t DEFAULT")
    db.execute(
        "CREATE INDEX ON raw.t (device, ts);"
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => i),"
        " timestamptz '2026-04-01 12:00+00', 'd' || i % 3, 'n' FROM generate_series(0, 199) AS i;"
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " time_column => 'ts', dimensions => '{device}', metrics => '{}')"
    )
    refresh_everything(db)
    assert healths(db) == {"ok"}
    swap = f"ALTER TABLE raw.t RENAME {one} TO x; ALTER TABLE raw.t RENAME {other} TO {one};"
    back = f"ALTER TABLE raw.t RENAME {one} TO {other}; ALTER TABLE raw.t RENAME x TO {one};"
    write = "INSERT INTO raw.t VALUES ('2026-03-01 13:00+00', '2026-04-02 13:00+00', 'd7', 'n');"
    for statements in (
        swap + write + back,
        f"SELECT silver.perform_rollup(); {swap} {write} {back}",
        swap + write + f"ALTER TABLE raw.t DROP {one}; ALTER TABLE raw.t RENAME x TO {one};",
    ):
        with db.transaction(force_rollback=True):
            db.execute(statements.encode())
            assert healths(db) == {"invalid"}
            refresh_everything(db)
            assert_equal_to_group_by(db, "t_1h")
            assert healths(db) == {"ok"}
    for by_itself in (f"ALTER {one} SET STATISTICS 500", "ADD c integer", f"DROP {other}"):
        db.execute(f"ALTER TABLE raw.t {by_itself}".encode())
        assert healths(db) == {"ok"}
        refresh_everything(db)


def test_a_child_made_after_the_time_was_renamed_and_a_partition_came(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.m (ts timestamptz NOT NULL) PARTITION BY RANGE (ts)")
    db.execute("SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour')")
    db.execute("ALTER TABLE raw.m RENAME ts TO at")
    db.execute("CREATE TABLE raw.m_default PARTITION OF raw.m DEFAULT")
    db.execute("INSERT INTO raw.m VALUES ('2026-03-01 00:30Z')")
    db.execute("SELECT silver.create_rollup_table('m_1h', 'silver', 'm_1d', '1 day')")
    assert_equal_to_group_by(db, "m_1h", "m_1d")
    refresh_everything(db)
    assert problems(db) == []
    assert_settled(db, "m_1h", "m_1d")


@pytest.mark.parametrize("parts", ["", "PARTITION BY RANGE (ts)"])
def test_a_rollup_made_by_the_new_name_of_the_time(db: psycopg.Connection, parts: str) -> None:
    db.execute(f"CREATE TABLE raw.m (ts timestamptz NOT NULL, v integer) {parts}".encode())
    if parts:
        db.execute("CREATE TABLE raw.m_default PARTITION OF raw.m DEFAULT")
    db.execute("INSERT INTO raw.m VALUES ('2026-03-01 00:30Z', 1)")
    db.execute("SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour')")
    refresh_everything(db)
    db.execute("ALTER TABLE raw.m RENAME ts TO at")
    db.execute(
        "SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1d', '1 day', time_column => 'at')"
    )
    assert_equal_to_group_by(db, "m_1h", "m_1d")
    db.execute("INSERT INTO raw.m VALUES ('2026-03-02 00:30Z', 1)")
    refresh_everything(db)
    assert problems(db) == []
    assert_settled(db, "m_1h", "m_1d")


def test_a_time_that_takes_the_name_of_the_time_of_other_rollups(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.m (ts timestamptz, sent timestamptz, v integer)")
    db.execute("INSERT INTO raw.m VALUES ('2026-03-01 00:30Z', '2026-03-02 00:30Z', 1)")
    for time in ("ts", "sent"):
        db.execute(
            "SELECT silver.create_rollup_table('raw.m', 'silver', %s, '1 day', time_column => %s,"
            """ metrics => '{"v": ["sum"]}')""",
            [f"by_{time}", time],
        )
    refresh_everything(db)
    db.execute("ALTER TABLE raw.m RENAME ts TO was; ALTER TABLE raw.m RENAME sent TO ts")
    for _ in range(2):
        told = {problem: hint for target, problem, hint in problems(db) if "sent" in target}
        problem = "sent of raw.m, the time of these rollups, is called ts now"
        ((_, hint), *_) = [found for found in told.items() if found[0].startswith(problem)]
        assert hint.startswith("give the column another name; or drop these rollups")
        db.execute("SELECT silver.perform_rollup()")
    db.execute("SELECT silver.drop_rollup('by_sent')")
    refresh_everything(db)
    assert problems(db) == []
    assert_settled(db, "by_ts")


def test_what_cannot_be_followed_is_invalid_at_once(rolled_up: psycopg.Connection) -> None:
    """With the reason, for the children too, until it is undone."""
    for damage, undo in (
        ("ALTER TABLE raw.t DROP b", "ALTER TABLE raw.t ADD b integer DEFAULT 1"),
        ("ALTER TABLE raw.t_2 SET UNLOGGED", "ALTER TABLE raw.t_2 SET LOGGED"),
        (
            "CREATE UNLOGGED TABLE raw.u (LIKE raw.t INCLUDING GENERATED);"
            "INSERT INTO raw.u (ts) VALUES ('2026-04-01 00:00+00'); ALTER TABLE raw.t ATTACH"
            " PARTITION raw.u FOR VALUES FROM ('2026-04-01 00:00+00') TO ('2026-05-01 00:00+00')",
            "ALTER TABLE raw.t DETACH PARTITION raw.u",
        ),
        (
            "ALTER TABLE raw.t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE raw.t DISABLE ROW LEVEL SECURITY",
        ),
    ):
        rolled_up.execute(damage.encode())
        assert healths(rolled_up) == {"invalid"}, damage
        assert {target for target, _, _ in problems(rolled_up)} == {"silver.t_1h", "silver.t_1d"}
        rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
        assert healths(rolled_up) == {"invalid"}, damage
        rolled_up.execute(undo.encode())
        rolled_up.execute(RESET)
        refresh_everything(rolled_up)
        assert problems(rolled_up) == []
        assert_settled(rolled_up, *ROLLUPS)


def test_a_column_that_is_gone_is_asked_for_both_ways(rolled_up: psycopg.Connection) -> None:
    """Renamed or dropped: after a restore nobody knows which of the two."""
    rolled_up.execute("ALTER TABLE raw.t DROP b")
    hints = {hint for _, problem, hint in problems(rolled_up) if problem.endswith("is gone")}
    (hint,) = hints
    assert "ALTER TABLE raw.t RENAME its new name TO b" in hint
    assert "ADD COLUMN it again" in hint


def test_promise_b_columns_of_a_child_that_change_places(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, a integer, b integer);"
        "CREATE TABLE raw.t_1 () INHERITS (raw.t);"
        "INSERT INTO raw.t_1 SELECT '2026-03-01 00:00+00', i, 100 - i"
        " FROM generate_series(0, 9) AS i"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(db)
    db.execute(
        "ALTER TABLE raw.t_1 NO INHERIT raw.t; ALTER TABLE raw.t_1 RENAME a TO c;"
        "ALTER TABLE raw.t_1 RENAME b TO a; ALTER TABLE raw.t_1 RENAME c TO b;"
        "ALTER TABLE raw.t_1 INHERIT raw.t"
    )
    assert_exact_or_invalid(db)
    refresh_everything(db)
    assert_settled(db, *ROLLUPS)


def test_a_dropped_source_is_named_and_taken_up_again(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute(
        "CREATE TABLE public.kept AS SELECT ts, device, a, b FROM raw.t; DROP TABLE raw.t"
    )
    assert healths(rolled_up) == {"invalid"}
    rolled_up.execute("SELECT silver.mark_stale('t_1h', '-infinity', 'infinity')")
    with pytest.raises(psycopg.Error, match=r"raw\.t, which silver\.t_1h reads, was dropped"):
        rolled_up.execute("SELECT * FROM gold.t_1h")
    rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    logged = rolled_up.execute("SELECT DISTINCT error_message FROM silver.error_log").fetchall()
    assert logged
    assert all("was dropped" in message for (message,) in logged)

    rolled_up.execute(SOURCE)
    rolled_up.execute("DELETE FROM raw.t WHERE a % 7 = 0")
    rolled_up.execute("GRANT SELECT ON raw.t TO tsrollup_owner")
    rolled_up.execute(RESET)
    refresh_everything(rolled_up)
    assert problems(rolled_up) == []
    assert_settled(rolled_up, *ROLLUPS)
    rolled_up.execute("UPDATE raw.t SET b = b + 1")
    assert_equal_to_group_by(rolled_up, *ROLLUPS)


@pytest.mark.parametrize(
    "before", ["", "ALTER TABLE raw.t RENAME TO u; {} ALTER TABLE raw.u RENAME TO t; {}"]
)
@pytest.mark.parametrize("between", ["", "SELECT silver.perform_rollup();"])
def test_a_source_that_was_exchanged_by_its_name(
    rolled_up: psycopg.Connection, before: str, between: str
) -> None:
    """What has the name now is what people read: that it is another table is said at once."""
    look = "SELECT silver.perform_rollup();"
    run(rolled_up, before.format(look, look))
    rolled_up.execute("CREATE TABLE raw.loaded AS SELECT ts, device, a, b + 1 AS b, w FROM raw.t")
    run(rolled_up, f"ALTER TABLE raw.t RENAME TO old; {between} CREATE VIEW raw.t AS TABLE raw.old")
    refresh_everything(rolled_up)
    assert healths(rolled_up) == {"ok"}  # a view that keeps the name alive
    rolled_up.execute("DROP VIEW raw.t; ALTER TABLE raw.loaded RENAME TO t")
    for _ in range(2):
        assert healths(rolled_up) == {"invalid"}
        ((problem, hint), *_) = [row[1:] for row in problems(rolled_up)]
        assert problem == (
            "raw.t is another table now: its rollups read the one that had this name, raw.old"
        )
        assert "DROP TABLE raw.old: the next run takes up the new raw.t" in hint
        read = "SELECT min(source_table) FROM silver.timeseries_operations_monitor"
        assert rolled_up.execute(read).fetchone() == ("raw.old",)
        rolled_up.execute("SELECT silver.perform_rollup()")
    rolled_up.execute("GRANT SELECT ON raw.t TO tsrollup_owner; DROP TABLE raw.old")
    rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    refresh_everything(rolled_up)
    assert problems(rolled_up) == []
    assert_settled(rolled_up, *ROLLUPS)


@pytest.mark.parametrize(
    "made",
    [
        "CREATE VIEW raw.t AS TABLE gold.t_1d",
        "CREATE MATERIALIZED VIEW raw.t AS TABLE silver.t_1d",
        "SELECT silver.create_rollup_table('raw.old', 'raw', 't', '1 hour')",
        "SELECT silver.create_rollup_table('t_1d', 'raw', 't', '1 month')",
    ],
)
def test_what_is_made_of_the_source_may_have_its_name(
    rolled_up: psycopg.Connection, made: str
) -> None:
    rolled_up.execute("GRANT USAGE, CREATE ON SCHEMA raw TO tsrollup_owner")
    run(rolled_up, f"ALTER TABLE raw.t RENAME TO old; {made}")
    for _ in range(2):
        refresh_everything(rolled_up)
        assert problems(rolled_up) == []
    held = "SELECT (rollup_engine.retention_problem('raw.old')).problem"
    assert rolled_up.execute(held).fetchone() == (None,)
    assert_settled(rolled_up, *ROLLUPS)


def test_the_partitions_of_a_source_in_a_view_of_its_name(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.m (ts timestamptz NOT NULL) PARTITION BY RANGE (ts)")
    db.execute("CREATE TABLE raw.m_default PARTITION OF raw.m DEFAULT")
    db.execute("SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour')")
    db.execute("ALTER TABLE raw.m RENAME TO m_old; CREATE VIEW raw.m AS TABLE raw.m_default")
    refresh_everything(db)
    assert problems(db) == []


def test_a_source_that_was_renamed_is_exchanged_by_its_last_name(
    rolled_up: psycopg.Connection,
) -> None:
    names = ("u", "v", "old")
    for was, name in pairwise(("t", *names)):
        rolled_up.execute(f"ALTER TABLE raw.{was} RENAME TO {name}".encode())
        refresh_everything(rolled_up)
        assert healths(rolled_up) == {"ok"}
    rolled_up.execute("CREATE TABLE raw.v (LIKE raw.old); GRANT SELECT ON raw.v TO tsrollup_owner")
    assert_told(rolled_up, "raw.v is another table now")
    rolled_up.execute("DROP TABLE raw.old")
    for _ in range(2):
        rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    assert rolled_up.execute("SELECT relation::text FROM rollup_engine.source").fetchone() == (
        "raw.v",
    )


def test_a_source_that_gets_back_the_name_it_had_before_the_last(
    rolled_up: psycopg.Connection,
) -> None:
    rolled_up.execute("ALTER TABLE raw.t RENAME TO u")
    refresh_everything(rolled_up)
    rolled_up.execute(
        "CREATE TABLE raw.new (LIKE raw.u); GRANT SELECT ON raw.new TO tsrollup_owner"
    )
    rolled_up.execute("ALTER TABLE raw.u RENAME TO t; ALTER TABLE raw.new RENAME TO u")
    assert_told(rolled_up, "raw.u is another table now")
    rolled_up.execute("DROP TABLE raw.t")
    for _ in range(2):
        rolled_up.execute("SELECT silver.perform_rollup(as_of => 'infinity')")
    assert healths(rolled_up) == {"ok"}
    names = "SELECT relation_name, former_names FROM rollup_engine.source"
    assert rolled_up.execute(names).fetchall() == [("raw.u", [])]


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("VIEW raw.t AS SELECT now() AS ts", "the new raw.t is no table"),
        ("TABLE raw.t AS SELECT 1 AS a", "the new raw.t lacks b, device, ts of type timestamp"),
        ("TABLE raw.t AS SELECT date '2026-03-01' AS ts, 'd' AS device, 1 AS a, 1 AS b, 1 AS w",
         "the new raw.t lacks ts of type timestamp with time zone: once it has that"),
    ],
)  # fmt: skip
def test_what_takes_no_place_of_a_dropped_source_is_told_why(
    rolled_up: psycopg.Connection, new: str, told: str
) -> None:
    rolled_up.execute(
        f"DROP TABLE raw.t; CREATE {new}; GRANT SELECT ON raw.t TO tsrollup_owner".encode()
    )
    for _ in range(2):
        hints = {problem: hint for _, problem, hint in problems(rolled_up)}
        assert hints["raw.t was dropped"].startswith(told)
        rolled_up.execute("SELECT silver.perform_rollup()")


def test_a_former_name_that_comes_into_use_after_the_drop_is_another_tables(
    rolled_up: psycopg.Connection,
) -> None:
    rolled_up.execute("CREATE TABLE raw.kept AS TABLE raw.t; ALTER TABLE raw.t RENAME TO s")
    refresh_everything(rolled_up)
    rolled_up.execute("DROP TABLE raw.s; SELECT silver.perform_rollup()")
    rolled_up.execute("CREATE TABLE raw.t (LIKE raw.kept); GRANT SELECT ON raw.t TO tsrollup_owner")
    for _ in range(2):
        rolled_up.execute("SELECT silver.perform_rollup()")
        told = {problem: hint for _, problem, hint in problems(rolled_up)}
        assert told["raw.s was dropped"].startswith("restore or create raw.s: the next run takes")
    rolled_up.execute("ALTER TABLE raw.kept RENAME TO s; GRANT SELECT ON raw.s TO tsrollup_owner")
    for table in ROLLUPS:
        rolled_up.execute("SELECT silver.perform_rollup(%s, as_of => 'infinity')", [table])
    refresh_everything(rolled_up)
    assert problems(rolled_up) == []
    assert_settled(rolled_up, *ROLLUPS)


def test_what_has_rollups_of_its_own_takes_no_former_place(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("ALTER TABLE raw.t RENAME TO s")
    refresh_everything(rolled_up)
    rolled_up.execute("CREATE TABLE raw.t (LIKE raw.s, came timestamptz)")
    rolled_up.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 'c', '1 day', 'came')")
    refresh_everything(rolled_up)
    rolled_up.execute("DROP TABLE raw.s")
    for _ in range(2):
        rolled_up.execute("SELECT silver.perform_rollup()")
        assert "raw.s was dropped" in [problem for _, problem, _ in problems(rolled_up)]


def test_the_exchange_by_a_table_that_may_not_be_read(rolled_up: psycopg.Connection) -> None:
    grant = "GRANT SELECT ON raw.t TO tsrollup_owner"
    rolled_up.execute("CREATE TABLE raw.loaded AS TABLE raw.t")
    rolled_up.execute("ALTER TABLE raw.t RENAME TO old; ALTER TABLE raw.loaded RENAME TO t")
    rolled_up.execute("SELECT silver.perform_rollup()")
    assert problems(rolled_up)[0][2].endswith(grant)
    rolled_up.execute("DROP TABLE raw.old")
    for _ in range(2):
        rolled_up.execute("SELECT silver.perform_rollup()")
        told = {problem: hint for _, problem, hint in problems(rolled_up)}
        assert told["raw.old was dropped"].startswith(grant)
    rolled_up.execute(grant.encode())
    for table in ROLLUPS:
        rolled_up.execute("SELECT silver.perform_rollup(%s, as_of => 'infinity')", [table])
    refresh_everything(rolled_up)
    assert problems(rolled_up) == []
    assert_settled(rolled_up, *ROLLUPS)


def test_a_source_that_was_exchanged_twice(rolled_up: psycopg.Connection) -> None:
    """Each table that has a name of it is named."""
    for names in (("t", "old"), ("old", "older")):
        rolled_up.execute(f"ALTER TABLE raw.{names[0]} RENAME TO {names[1]}".encode())
        rolled_up.execute(f"CREATE TABLE raw.{names[0]} (LIKE raw.{names[1]})".encode())
        rolled_up.execute(f"GRANT SELECT ON raw.{names[0]} TO tsrollup_owner".encode())
        rolled_up.execute("SELECT silver.perform_rollup()")
    told = [problem for _, problem, _ in problems(rolled_up)]
    for name in ("t", "old"):
        assert any(f"raw.{name} is another table now" in problem for problem in told)
        held = f"SELECT (rollup_engine.retention_problem('raw.{name}')).problem"
        assert (
            f"raw.older, are to read raw.{name}" in (rolled_up.execute(held).fetchone() or ("",))[0]
        )


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_that_was_exchanged_by_its_name(db: psycopg.Connection, kind: str) -> None:
    for name in ("seen", "next"):
        db.execute(f"CREATE TABLE raw.of_{name} (ts timestamptz)".encode())
        db.execute(f"INSERT INTO raw.of_{name} VALUES (now())".encode())
        db.execute(f"CREATE {kind} raw.{name} AS TABLE raw.of_{name}".encode())
        db.execute(f"GRANT SELECT ON raw.{name} TO tsrollup_owner".encode())
    db.execute(
        "SELECT silver.create_rollup_table('raw.seen', 'silver', 'm', '1 day', 'ts',"
        " change_tracking => 'window', look_back_window => '1 year')"
    )
    refresh_everything(db)
    db.execute(f"ALTER {kind} raw.seen RENAME TO old".encode())
    db.execute(
        "CREATE VIEW raw.between AS TABLE raw.old; CREATE VIEW raw.seen AS TABLE raw.between"
    )
    refresh_everything(db)
    assert healths(db) == {"ok"}  # it keeps the name alive
    db.execute("DROP VIEW raw.seen, raw.between")
    db.execute(f"ALTER {kind} raw.next RENAME TO seen".encode())
    for _ in range(2):
        held = "SELECT rollup_engine.seal_obstacle('raw.of_next')"
        assert "raw.old, are to read raw.seen" in (db.execute(held).fetchone() or ("",))[0]
        assert healths(db) == {"invalid"}
        ((_, problem, hint), *_) = problems(db)
        assert "raw.seen is another view now" in problem
        assert f"DROP {kind} raw.old: the next run takes up" in hint
        db.execute("SELECT silver.perform_rollup()")
    db.execute(f"DROP {kind} raw.old".encode())
    refresh_everything(db)
    assert healths(db) == {"ok"}


@pytest.mark.parametrize(
    ("divided", "below"),
    [
        ("PARTITION BY RANGE (ts)", "raw.m ATTACH PARTITION raw.m_old DEFAULT"),
        ("", "raw.m_old INHERIT raw.m"),
    ],
)
def test_a_source_that_became_a_part_of_its_name(
    db: psycopg.Connection, divided: str, below: str
) -> None:
    """To drop it would take its rows from the new one as well."""
    db.execute("CREATE TABLE raw.m (ts timestamptz NOT NULL, v integer)")
    db.execute("SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour')")
    db.execute("ALTER TABLE raw.m RENAME TO m_old")
    db.execute(f"CREATE TABLE raw.m (LIKE raw.m_old) {divided}".encode())
    db.execute(f"ALTER TABLE {below}".encode())
    refresh_everything(db)
    rather = "drop the rollups, and create them anew over raw.m;"
    assert next(row[2] for row in problems(db)).startswith(rather)
    with pytest.raises(psycopg.Error, match=r"raw\.m_old, are to read raw\.m") as caught:
        db.execute("SELECT silver.set_retention('raw.m', '20 days')")
    assert (caught.value.diag.message_hint or "").startswith(rather)
    db.execute("SELECT silver.create_rollup_table('raw.m', 'silver', 'all_1h', '1 hour')")
    refresh_everything(db)
    assert problems(db) == []


def test_gold_columns_renamed_by_their_owner(rolled_up: psycopg.Connection) -> None:
    """Children and new metrics go by the place of a column."""
    rolled_up.execute(
        "ALTER VIEW gold.t_1h RENAME COLUMN a_sum TO total;"
        "ALTER VIEW gold.t_1h RENAME COLUMN bucket TO hour;"
        "ALTER VIEW gold.t_1h RENAME COLUMN a_avg TO mean"
    )
    rolled_up.execute("UPDATE raw.t SET a = a + 1")
    assert_equal_to_group_by(rolled_up, "t_1d")
    rolled_up.execute("SELECT silver.add_rollup_metric('t_1h', '{\"a\": [\"min\"]}')")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, "t_1d")
    rows = rolled_up.execute(
        "SELECT hour, device, total, mean, a_min FROM gold.t_1h EXCEPT ALL"
        " SELECT date_bin('1 hour', ts, '2000-01-03 00:00+00'), device, sum(a), avg(a), min(a)"
        " FROM raw.t GROUP BY 1, 2"
    ).fetchall()
    assert rows == []
    rolled_up.execute("ALTER TABLE raw.t ALTER b TYPE bigint")
    rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    rolled_up.execute("SELECT hour, total, mean FROM gold.t_1h")


def test_logs_follow_a_renamed_rollup_table(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("ALTER TABLE silver.t_1h RENAME TO hourly")
    rolled_up.execute("UPDATE raw.t SET a = a + 1")
    refresh_everything(rolled_up)
    rate = rolled_up.execute(
        "SELECT success_rate, last_error FROM silver.timeseries_operations_monitor"
        " WHERE target_table = 'silver.hourly'"
    ).fetchall()
    assert rate == [(1.0, None)]
    names = rolled_up.execute("SELECT DISTINCT target_table FROM silver.refresh_log").fetchall()
    assert set(names) == {("silver.hourly",), ("silver.t_1d",)}
    rolled_up.execute("ALTER TABLE silver.hourly RENAME COLUMN a_sum TO x")
    assert {hint for _, _, hint in problems(rolled_up)} >= {
        "rename it back to a_sum; for a dropped one, drop the rollup and create it anew"
    }
    assert healths(rolled_up) == {"invalid"}


def test_what_a_source_that_is_created_anew_takes_along_is_told(db: psycopg.Connection) -> None:
    """Its partitions are there as before, and hold nothing."""
    made = (
        "CREATE TABLE raw.again (ts timestamptz) PARTITION BY RANGE (ts);"
        "GRANT SELECT ON raw.again TO tsrollup_owner;"
        "CREATE TABLE raw.again_1 PARTITION OF raw.again"
        " FOR VALUES FROM ('2026-03-01') TO ('2026-03-02');"
        "CREATE TABLE raw.again_2 PARTITION OF raw.again"
        " FOR VALUES FROM ('2026-03-02') TO ('2026-03-03')"
    )
    db.execute(made.encode())
    db.execute("INSERT INTO raw.again VALUES ('2026-03-01 12:00+00'), ('2026-03-02 12:00+00')")
    db.execute("SELECT silver.create_rollup_table('raw.again', 'silver', 'again_1h', '1 hour')")
    refresh_everything(db)
    db.execute(f"DROP TABLE raw.again; {made}".encode())
    db.execute("INSERT INTO raw.again VALUES ('2026-03-02 12:00+00')")
    refresh_everything(db)
    assert db.execute("SELECT count(*) FROM gold.again_1h").fetchone() == (1,)
    told = db.execute(
        "SELECT error_message, detail FROM silver.error_log WHERE error_code = 'TR007'"
    ).fetchall()
    assert [message for message, _ in told] == [
        "partitions left raw.again, and what they held leaves the rollup"
    ]
    assert told[0][1].count("2026-03-01 12:00") == 2


def test_a_month_that_is_made_into_days_takes_nothing_along(db: psycopg.Connection) -> None:
    """Some of the days have no rows: what is wider than they are holds what it held."""
    db.execute("CREATE TABLE raw.month (ts timestamptz) PARTITION BY RANGE (ts)")
    db.execute(
        "CREATE TABLE raw.march PARTITION OF raw.month FOR VALUES FROM ('2026-03-01')"
        " TO ('2026-04-01'); INSERT INTO raw.month VALUES ('2026-03-02'), ('2026-03-30')"
    )
    for unit in ("day", "month"):
        db.execute(
            "SELECT silver.create_rollup_table('raw.month', 'silver', %s, %s::interval)",
            [f"by_{unit}", f"1 {unit}"],
        )
    refresh_everything(db)
    days = "".join(
        f"CREATE TABLE raw.march_{day} PARTITION OF raw.month"
        f" FOR VALUES FROM ('2026-03-01'::date + {day}) TO ('2026-03-01'::date + {day + 1});"
        for day in range(31)
    )
    db.execute(
        f"ALTER TABLE raw.month DETACH PARTITION raw.march; {days}"
        "INSERT INTO raw.month TABLE raw.march; DROP TABLE raw.march".encode()
    )
    refresh_everything(db)
    assert_settled(db, "by_day", "by_month")
    assert db.execute("SELECT error_message FROM silver.error_log").fetchall() == []


def test_a_partition_that_is_made_anew_is_told_whatever_comes_beside_it(
    db: psycopg.Connection,
) -> None:
    day = (
        "CREATE TABLE raw.day_{0} PARTITION OF raw.days"
        " FOR VALUES FROM ('2026-03-0{0}') TO ('2026-03-0{0} 24:00');"
    )
    db.execute(
        f"CREATE TABLE raw.days (ts timestamptz) PARTITION BY RANGE (ts); {day.format(1)}"
        "INSERT INTO raw.days VALUES ('2026-03-01 12:00')".encode()
    )
    db.execute("SELECT silver.create_rollup_table('raw.days', 'silver', 'by_month', '1 month')")
    refresh_everything(db)
    db.execute(
        f"DROP TABLE raw.day_1; {day.format(1)} {day.format(2)}"
        "INSERT INTO raw.days VALUES ('2026-03-02 12:00')".encode()
    )
    refresh_everything(db)
    assert_settled(db, "by_month")
    assert db.execute("SELECT error_message FROM silver.error_log").fetchall() == [
        ("partitions left raw.days, and what they held leaves the rollup",)
    ]


@pytest.mark.parametrize("statement", ["DETACH PARTITION raw.gone_1", "DROP"])
def test_a_partition_that_left_is_invalid_at_once(db: psycopg.Connection, statement: str) -> None:
    db.execute("CREATE TABLE raw.gone (ts timestamptz, n integer) PARTITION BY RANGE (ts)")
    for number in (1, 2):
        db.execute(
            f"CREATE TABLE raw.gone_{number} PARTITION OF raw.gone FOR VALUES"
            f" FROM ('2026-01-0{number} 00:00+00') TO ('2026-01-0{number + 1} 00:00+00')".encode()
        )
    db.execute("INSERT INTO raw.gone VALUES ('2026-01-01 00:30+00', 1), ('2026-01-02 00:30+00', 2)")
    db.execute("SELECT silver.create_rollup_table('gone', 'silver', 'left_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('left_1h', 'silver', 'left_1d', '1 day')")
    refresh_everything(db)
    db.execute(
        "DROP TABLE raw.gone_1"
        if statement == "DROP"
        else f"ALTER TABLE raw.gone {statement}".encode()
    )
    health = "SELECT DISTINCT health FROM silver.timeseries_operations_monitor"
    assert db.execute(health).fetchall() == [("invalid",)]
    refresh_everything(db)
    assert db.execute(health).fetchall() == [("ok",)]
    assert_settled(db, "left_1h", "left_1d")


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_name_that_goes_to_a_foreign_table_is_not_worth_the_old_one(
    connect: Connect, db: psycopg.Connection, server: PostgresServer, is_sealed: bool
) -> None:
    """Nor are sealed buckets, which nobody can compute again."""
    db.execute("CREATE TABLE raw.m (ts timestamptz NOT NULL, v integer)")
    db.execute("SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour')")
    if is_sealed:
        force_configuration(db, "sealed_before = '2026-03-01'")
    db.execute("ALTER TABLE raw.m RENAME TO m_old")
    connect(user=server.superuser).execute(
        "CREATE FOREIGN DATA WRAPPER none; CREATE SERVER none FOREIGN DATA WRAPPER none;"
        "CREATE FOREIGN TABLE raw.m (ts timestamptz, v integer) SERVER none;"
        "GRANT SELECT ON raw.m TO tsrollup_owner"
    )
    ((_, problem, hint),) = problems(db)
    assert problem.startswith("raw.m is another table now")
    kept = " (keep_table => true keeps what is sealed, which nobody can compute again)"
    assert hint == (
        f"drop the rollups{kept if is_sealed else ''}, and create them anew over raw.m;"
        " if they are to read raw.m_old, give the table another name, or rollups of its own"
    )
