"""Sources that are partitioned, generated, typed or filled in unusual ways."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer

Connect = Callable[..., psycopg.Connection[Any]]

MERGE = "MERGE INTO raw.t USING (SELECT 1) AS s ON {} WHEN MATCHED THEN UPDATE SET {}"


def follow(connection: psycopg.Connection[Any], *statements: str) -> None:
    """gold is exact after each statement, and so is the table once it is refreshed."""
    for statement in statements:
        connection.execute(statement.encode())
        try:
            assert_equal_to_group_by(connection, "t_1h", "t_1d")
            refresh_everything(connection)
            assert_settled(connection, "t_1h", "t_1d")
        except AssertionError as error:
            raise AssertionError(f"{statement}: {error}") from error


def create_rollups(connection: psycopg.Connection[Any], options: str = "") -> None:
    connection.execute(
        f"SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour'{options})".encode()
    )
    connection.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")
    refresh_everything(connection)


HOURS = (
    " SELECT timestamptz '2026-02-27 00:00+00' + make_interval(hours => i), i % 3, i"
    " FROM generate_series(0, 119) AS i;"
)


def test_promise_b_a_merge_moves_rows_out_of_a_default_partition(db: psycopg.Connection) -> None:
    """Of the table, of a partition of it, and where the default partition is itself divided."""
    db.execute(
        """
        CREATE TABLE raw.t (ts timestamptz, k integer, v integer) PARTITION BY RANGE (ts);
        CREATE TABLE raw.t_3 PARTITION OF raw.t
            FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00')
            PARTITION BY RANGE (ts);
        CREATE TABLE raw.t_3_1 PARTITION OF raw.t_3
            FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
        CREATE TABLE raw.t_3_0 PARTITION OF raw.t_3 DEFAULT;
        CREATE TABLE raw.t_0 PARTITION OF raw.t DEFAULT PARTITION BY LIST (k);
        CREATE TABLE raw.t_0_1 PARTITION OF raw.t_0 FOR VALUES IN (0, 1);
        CREATE TABLE raw.t_0_0 PARTITION OF raw.t_0 DEFAULT;
        """
        + f"INSERT INTO raw.t {HOURS}"
    )
    create_rollups(db)
    follow(
        db,
        MERGE.format("t.ts < '2026-02-27 05:00+00'", "ts = t.ts + interval '2 days'"),
        MERGE.format("t.ts >= '2026-03-02 20:00+00'", "ts = t.ts - interval '1 day'"),
        MERGE.format("t.ts >= '2026-03-02 10:00+00'", "ts = t.ts - interval '7 days'"),
        MERGE.format("t.ts < '2026-02-28'", "ts = t.ts + interval '1 day', k = t.k + 1"),
        "UPDATE raw.t SET ts = ts + interval '2 days 10 hours'",
    )


def test_promise_b_a_source_partitioned_by_an_expression(db: psycopg.Connection) -> None:
    db.execute(
        """
        CREATE TABLE raw.t (
            ts timestamptz, k integer, v integer, doc json,
            w integer GENERATED ALWAYS AS (v * 2) STORED
        ) PARTITION BY RANGE (date_trunc('day', ts AT TIME ZONE 'UTC'), (doc ->> 'x'));
        CREATE TABLE raw.t_1 PARTITION OF raw.t
            FOR VALUES FROM ('2026-03-01', MINVALUE) TO ('2026-03-02', MINVALUE);
        CREATE TABLE raw.t_0 PARTITION OF raw.t DEFAULT;
        """
        + f'INSERT INTO raw.t (ts, k, v) {HOURS} UPDATE raw.t SET doc = \'{{"x": "1"}}\''
    )
    create_rollups(db, ", 'ts', dimensions => '{k}', metrics => '{\"v\": [\"sum\"]}'")
    follow(
        db,
        MERGE.format("t.v % 2 = 0", "ts = t.ts + interval '25 hours'"),
        MERGE.format("t.v % 3 = 0", "v = t.v + 1"),
        "DELETE FROM raw.t_1 WHERE k = 1",
        "UPDATE raw.t SET ts = ts - interval '2 days'",
        "ALTER TABLE raw.t DROP COLUMN w",
    )


def test_promise_b_a_merge_moves_a_row_by_a_key_that_stays_equal(db: psycopg.Connection) -> None:
    for statement in (
        "CREATE TABLE raw.k (id int, ts timestamptz, v int, k numeric)"
        " PARTITION BY LIST ((k::text))",
        "CREATE TABLE raw.k_1 PARTITION OF raw.k FOR VALUES IN ('1.0')",
        "CREATE TABLE raw.k_0 PARTITION OF raw.k DEFAULT",
        "INSERT INTO raw.k SELECT i, '2026-01-01'::timestamptz + i * interval '3 hours', i, 1.0"
        " FROM generate_series(1, 4) AS i",
        "SELECT silver.create_rollup_table('raw.k', 'silver', 'k_1h', '1 hour',"
        " time_column => 'ts', metrics => '{\"v\": [\"sum\"]}')",
    ):
        db.execute(statement.encode())
    refresh_everything(db)
    db.execute(
        "MERGE INTO raw.k USING (VALUES (2)) AS x (i) ON id = i"
        " WHEN MATCHED THEN UPDATE SET k = 1.00, v = v + 1000, ts = ts + interval '5 days'"
    )
    assert_equal_to_group_by(db, "k_1h")
    refresh_everything(db)
    assert_settled(db, "k_1h")
    problems = "SELECT problem FROM silver.validate_rollup_config() WHERE problem IS NOT NULL"
    assert db.execute(problems).fetchall() == []


def test_promise_b_a_generated_time_column(db: psycopg.Connection) -> None:
    db.execute(
        """
        CREATE TABLE raw.t (
            epoch double precision, k integer, v integer,
            ts timestamptz GENERATED ALWAYS AS (to_timestamp(epoch)) STORED
        ) PARTITION BY LIST (k);
        CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES IN (0);
        CREATE TABLE raw.t_2 PARTITION OF raw.t FOR VALUES IN (1);
        INSERT INTO raw.t SELECT 1.77e9 + 600 * i, i % 2, i FROM generate_series(0, 50) AS i;
        """
    )
    create_rollups(db)
    follow(
        db,
        "UPDATE raw.t SET epoch = epoch + 86400",
        "UPDATE raw.t SET epoch = epoch + 86400, k = 1 - k",
        MERGE.format("t.v % 3 = 0", "k = 1 - t.k"),
        MERGE.format("t.v % 3 = 0", "epoch = t.epoch + 86400, k = 1 - t.k"),
    )
    if db.info.server_version >= 180000:
        db.execute(
            "CREATE TABLE raw.u (epoch double precision, ts timestamptz"
            " GENERATED ALWAYS AS (to_timestamp(epoch)) VIRTUAL)"
        )
        with pytest.raises(psycopg.Error, match=r"time column ts.*not stored") as caught:
            db.execute("SELECT silver.create_rollup_table('raw.u', 'silver', 'u_1h', '1 hour')")
        assert caught.value.sqlstate == "TR004"


def test_promise_b_keys_that_read_the_same_under_the_settings_of_a_writer(
    db: psycopg.Connection,
) -> None:
    """Whether a row moves is no question of how its key is written as text."""
    for statement in (
        "CREATE TABLE raw.k (id int, ts timestamptz, v int, k float8) PARTITION BY RANGE (k)",
        "CREATE TABLE raw.k_1 PARTITION OF raw.k FOR VALUES FROM (0) TO (0.3)",
        "CREATE TABLE raw.k_2 PARTITION OF raw.k FOR VALUES FROM (0.3) TO (1)",
        "INSERT INTO raw.k SELECT i, '2026-01-01', i, 0.2999999999999999"
        " FROM generate_series(1, 4) AS i",
        "SELECT silver.create_rollup_table('raw.k', 'silver', 'k_1h', '1 hour',"
        " time_column => 'ts', metrics => '{\"v\": [\"sum\"]}')",
    ):
        db.execute(statement.encode())
    refresh_everything(db)
    db.execute("SET extra_float_digits = 0")
    db.execute(
        "MERGE INTO raw.k USING (VALUES (2)) AS x (i) ON id = i"
        " WHEN MATCHED THEN UPDATE SET k = 0.3, v = v + 1000, ts = ts + interval '5 days'"
    )
    assert_equal_to_group_by(db, "k_1h")
    refresh_everything(db)
    assert_settled(db, "k_1h")


def test_promise_b_a_time_that_is_generated_in_a_partition_only(db: psycopg.Connection) -> None:
    """Up to PostgreSQL 15 a partition may compute what its parent takes from the writer."""
    time = "ts timestamp GENERATED ALWAYS AS (base + interval '1 day') STORED"
    for statement in (
        "CREATE TABLE raw.k (id int, base timestamp, ts timestamp, v int, k int)"
        " PARTITION BY LIST (k)",
        "CREATE TABLE raw.k_2 PARTITION OF raw.k FOR VALUES IN (2)",
        "INSERT INTO raw.k (id, ts, v, k) VALUES (2, '2026-03-01', 1, 2)",
        "SELECT silver.create_rollup_table('raw.k', 'silver', 'k_1h', '1 hour',"
        " time_column => 'ts', metrics => '{\"v\": [\"sum\"]}')",
        f"CREATE TABLE raw.k_1 (id int, base timestamp, {time}, v int, k int)",
    ):
        db.execute(statement.encode())
    attach = "ALTER TABLE raw.k ATTACH PARTITION raw.k_1 FOR VALUES IN (1)"
    if db.info.server_version >= 160000:
        with pytest.raises(psycopg.Error, match="generated"):
            db.execute(attach)
        return
    db.execute(attach)
    refresh_everything(db)
    db.execute(
        "MERGE INTO raw.k USING (VALUES (2)) AS x (i) ON id = i"
        " WHEN MATCHED THEN UPDATE SET k = 1, base = '2026-07-10', ts = '2026-01-01'"
    )
    assert_equal_to_group_by(db, "k_1h")
    refresh_everything(db)
    assert_settled(db, "k_1h")


def test_promise_b_a_time_of_a_domain(db: psycopg.Connection) -> None:
    for statement in (
        "CREATE DOMAIN raw.moment AS timestamptz",
        "CREATE DOMAIN raw.reading AS integer NOT NULL",
        "CREATE TABLE raw.t (ts raw.moment, k integer, v integer, w raw.reading DEFAULT 1)"
        " PARTITION BY RANGE (ts)",
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')",
        "CREATE TABLE raw.t_2 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        f"INSERT INTO raw.t {HOURS}",
    ):
        db.execute(statement.encode())
    create_rollups(db, ", 'ts', metrics => '{\"v\": [\"sum\"]}'")
    late = "INSERT INTO raw.t VALUES ('2026-03-01 01:30+00', 1, 1), ('2026-03-01 05:30+00', 1, 1)"
    follow(db, late, "UPDATE raw.t SET ts = ts + interval '25 hours'")
    with pytest.raises(psycopg.Error, match="takes no NULL") as caught:
        db.execute("SELECT silver.add_rollup_metric('t_1h', '{\"w\": [\"first\"]}')")
    assert caught.value.sqlstate == "TR004"


def test_promise_b_a_generated_time_in_a_partition_with_other_columns(
    db: psycopg.Connection,
) -> None:
    """The server hands rows that it routes there to triggers before their time is computed."""
    time = "ts timestamp GENERATED ALWAYS AS ('epoch'::timestamp + e * interval '1 second') STORED"
    db.execute(
        f"CREATE TABLE raw.t (k integer, e bigint, v integer, {time}) PARTITION BY LIST (k);"
        f"CREATE TABLE raw.t_1 (v integer, {time}, e bigint, k integer);"
        "ALTER TABLE raw.t ATTACH PARTITION raw.t_1 FOR VALUES IN (0);"
        "CREATE TABLE raw.t_2 PARTITION OF raw.t FOR VALUES IN (1);"
        "INSERT INTO raw.t SELECT i % 2, 1772323200 + 900 * i, i"
        " FROM generate_series(0, 50) AS i".encode()
    )
    create_rollups(db)
    follow(
        db,
        "INSERT INTO raw.t SELECT i % 2, 1772500000 + 900 * i, i FROM generate_series(0, 9) AS i",
        "INSERT INTO raw.t VALUES (0, 1772600000, 1)",
        "UPDATE raw.t SET e = e + 86400, k = 1 - k",
        "MERGE INTO raw.t USING (SELECT 1772700000 AS e) AS s ON t.e = s.e"
        " WHEN NOT MATCHED THEN INSERT (k, e, v) VALUES (0, s.e, 5)",
    )
    with db.cursor().copy("COPY raw.t (k, e, v) FROM STDIN") as copy:
        copy.write_row((0, 1772800000, 1))
    assert_equal_to_group_by(db, "t_1h")


def test_promise_b_writes_before_a_partition_has_its_triggers(db: psycopg.Connection) -> None:
    """Its rows were stored by a run that could not add them; some are gone when one can."""
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, k integer, v integer) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.t_1 PARTITION OF raw.t"
        " FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00');"
        "CREATE TABLE raw.t_2 PARTITION OF raw.t"
        " FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00');"
        f"INSERT INTO raw.t {HOURS}"
    )
    create_rollups(db)
    for (name,) in db.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'raw.t_2'::regclass AND tgparentid = 0"
    ).fetchall():
        db.execute(f"DROP TRIGGER {name} ON raw.t_2".encode())
    db.execute("DELETE FROM raw.t_2 WHERE ts < '2026-03-01 09:00+00'")
    refresh_everything(db)
    assert_settled(db, "t_1h", "t_1d")


def test_a_partition_without_capture_is_refused(connect: Connect, server: PostgresServer) -> None:
    """Before there is a rollup. Afterwards it is reported, and stops no other rollup."""
    owner = connect(user=server.superuser)
    try:
        owner.execute(
            "CREATE FOREIGN DATA WRAPPER none; CREATE SERVER none FOREIGN DATA WRAPPER none"
        )
    except psycopg.errors.InsufficientPrivilege:
        pytest.skip("only a superuser makes a foreign data wrapper")
    owner.execute(
        """
        CREATE TABLE raw.t (ts timestamptz, v integer) PARTITION BY RANGE (ts);
        CREATE FOREIGN TABLE raw.t_far PARTITION OF raw.t
            FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00') SERVER none;
        CREATE TABLE raw.u (ts timestamptz, v integer) PARTITION BY RANGE (ts);
        CREATE UNLOGGED TABLE raw.u_1 PARTITION OF raw.u
            FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
        CREATE TABLE raw.other (ts timestamptz, v integer);
        """
    )
    for table, reason in (("t", "raw.t_far .* foreign"), ("u", "raw.u_1 .* unlogged")):
        with pytest.raises(psycopg.Error, match=reason) as caught:
            owner.execute(
                "SELECT silver.create_rollup_table(%s, 'silver', 'x', '1 hour')", [f"raw.{table}"]
            )
        assert caught.value.sqlstate == "TR004"
        assert "window" in (caught.value.diag.message_hint or "")
    owner.execute("ALTER TABLE raw.t DETACH PARTITION raw.t_far")
    for table in ("t", "other"):
        owner.execute(
            f"SELECT silver.create_rollup_table('raw.{table}', 'silver', '{table}_1h', '1 hour');"
            f"INSERT INTO raw.{table} SELECT '2026-03-05' WHERE '{table}' = 'other'".encode()
        )
    owner.execute(
        "ALTER TABLE raw.t ATTACH PARTITION raw.t_far"
        " FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00')"
    )
    owner.execute("SELECT * FROM silver.perform_rollup()")
    assert_settled(owner, "other_1h")
    owner.execute("INSERT INTO raw.other VALUES ('2026-03-06')")
    owner.execute("CALL silver.run_rollups()")
    assert_settled(owner, "other_1h")
    problems = owner.execute(
        "SELECT problem FROM silver.validate_rollup_config() WHERE target = 'silver.t_1h'"
    ).fetchall()
    assert any("raw.t_far lacks capture triggers" in str(problem) for problem in problems)


def test_promise_a_types_that_sort_by_themselves(db: psycopg.Connection) -> None:
    try:
        db.execute("CREATE EXTENSION IF NOT EXISTS citext SCHEMA public")
    except psycopg.Error:
        pytest.skip("there is no citext here")
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, k public.citext, v public.citext);"
        "INSERT INTO raw.t VALUES ('2026-03-01 00:01+00', 'a', 'b'),"
        " ('2026-03-01 00:02+00', 'A', 'C'), ('2026-03-01 01:03+00', 'a', 'a')"
    )
    create_rollups(db, ', dimensions => \'{k}\', metrics => \'{"v": ["min", "max", "last"]}\'')
    follow(
        db, "UPDATE raw.t SET v = 'D' WHERE v = 'a'", "UPDATE raw.t SET ts = ts - interval '1 h'"
    )


def test_promise_a_the_end_of_the_calendar(db: psycopg.Connection) -> None:
    """Years outside 1 to 9999 belong to no bucket, whatever lies next to them."""
    db.execute(
        "CREATE TABLE raw.t (day date, v integer); INSERT INTO raw.t VALUES ('0001-01-01', 1),"
        " ('0001-12-31 BC', 2), ('9999-12-31', 3), ('10000-01-01', 4), ('2026-03-01', 5)"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1d', '1 day')")
    for _ in range(2):
        sums = db.execute("SELECT v_sum FROM gold.t_1d ORDER BY bucket").fetchall()
        assert sums == [(1,), (5,), (3,)]
        refresh_everything(db)
    db.execute("INSERT INTO raw.t VALUES ('5874897-12-31', 6), ('4714-11-24 BC', 7)")
    db.execute("UPDATE raw.t SET day = '9999-12-30' WHERE v = 6")
    sums = db.execute("SELECT v_sum FROM gold.t_1d ORDER BY bucket").fetchall()
    assert sums == [(1,), (5,), (6,), (3,)]


def test_promise_a_buckets_of_centuries(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, v integer); INSERT INTO raw.t VALUES"
        " ('0001-01-01 00:00+00', 1), ('0099-12-31 23:59:59.999999+00', 2), ('0999-05-05', 3),"
        " ('9999-12-31 23:59:59.999999+00', 4), ('2026-01-01', 5), ('1970-01-01', 6)"
    )
    names: list[str] = []
    for width in ("1000 years", "100 years", "5 months", "35000 days", "13 hours"):
        names.append(f"t_{len(names)}")
        db.execute(
            "SELECT silver.create_rollup_table('raw.t', 'silver', %s, %s::interval)",
            [names[-1], width],
        )
    for change in ("SELECT", "UPDATE raw.t SET ts = ts - interval '3 months' WHERE v IN (3, 4)"):
        db.execute(change.encode())
        assert_equal_to_group_by(db, *names)
        refresh_everything(db)
        assert_settled(db, *names)


def test_ranges_of_centuries_cost_only_where_there_is_data(db: psycopg.Connection) -> None:
    db.execute(
        "CREATE TABLE raw.t (ts timestamptz, k integer, v integer) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('1900-01-01') TO ('2100-01-01');"
        f"INSERT INTO raw.t {HOURS}"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1m', '1 minute')")
    db.execute("SELECT silver.create_rollup_table('t_1m', 'silver', 't_1h', '1 hour')")
    refresh_everything(db)
    for statement in (
        "SELECT silver.mark_stale('t_1m', '1900-01-01', '2100-01-01')",
        "SELECT silver.mark_stale('raw.t', '1900-01-01', '2100-01-01')",
        "SELECT silver.refresh_rollup('t_1h', '1900-01-01', '2100-01-01')",
        "SELECT silver.mark_stale('t_1m', '4713-01-01 BC', '294276-12-31 23:59')",
        "SELECT silver.mark_stale('raw.t', '4713-01-01 BC', '294276-12-31 23:59')",
        "SELECT silver.mark_stale('raw.t', '4713-01-01 BC', '4712-01-01 BC')",
        "SELECT silver.refresh_rollup('t_1h', '4713-01-01 BC', '294276-12-31 23:59')",
        "SELECT silver.refresh_rollup('t_1h', '294276-12-31 23:00', 'infinity')",
        "TRUNCATE raw.t_1",
    ):
        db.execute(statement.encode())
        db.execute("SELECT rollup_engine.drain(1, now())")
        ranges = db.execute("SELECT FROM rollup_engine.stale_range").rowcount
        assert ranges < 100, f"{statement}: {ranges} stale ranges"
        assert_equal_to_group_by(db, "t_1m", "t_1h")
        refresh_everything(db)
        assert_settled(db, "t_1m", "t_1h")


def test_odd_times_to_run_at(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    db.execute(
        "INSERT INTO raw.t SELECT now() - make_interval(mins => i) FROM generate_series(0, 90) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1m', '1 minute',"
        " settle_delay => '1000 years', look_back_window => '2 hours', change_tracking => 'window')"
    )
    for moment in ("-infinity", "4713-01-01 BC", "0001-01-01", "9999-12-31", "294276-01-01"):
        rows = db.execute(
            "SELECT status, error_message FROM silver.perform_rollup(as_of => %s)", [moment]
        ).fetchall()
        assert rows in ([("ok", None)], [("partial", None)]), moment
    refresh_everything(db)
    db.execute("UPDATE raw.t SET v = 1")
    refresh_everything(db)
    assert db.execute("SELECT sum(v_sum) FROM silver.t_1m").fetchone() == (91,)


def test_validation_finds_a_time_column_of_another_type(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz, v integer)")
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    for kind, valid in (("timestamptz(0)", True), ("timestamp", False), ("timestamptz", True)):
        db.execute(f"ALTER TABLE raw.t ALTER ts TYPE {kind}".encode())
        db.execute("SELECT silver.perform_rollup()")
        rows = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
        assert valid == (rows == [(None,)])
        assert valid or "timestamp with time zone" in str(rows)


def test_a_want_of_memory_or_of_a_server_is_no_fault_of_the_query(db: psycopg.Connection) -> None:
    db.execute(
        """
        CREATE TABLE raw.base (ts timestamptz, v integer);
        CREATE FUNCTION public.is_there() RETURNS boolean LANGUAGE plpgsql STABLE AS $$
        BEGIN
            IF current_setting('test.error', true) <> '' THEN
                RAISE EXCEPTION 'just now' USING ERRCODE = current_setting('test.error');
            END IF;
            RETURN true;
        END
        $$;
        CREATE VIEW raw.t AS SELECT * FROM raw.base WHERE public.is_there();
        """
    )
    create_rollups(db, ", change_tracking => 'window', look_back_window => '1 day'")
    problems = "SELECT problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
    healths = "SELECT health FROM silver.timeseries_operations_monitor"
    for code in ("08006", "40001", "53200", "57P03", "58030"):
        db.execute("SELECT set_config('test.error', %s, false)", [code])
        assert db.execute(problems).fetchall() == [], code
        assert ("invalid",) not in db.execute(healths).fetchall(), code
    db.execute("SET test.error = '22012'")
    assert ("its query fails: just now",) in db.execute(problems).fetchall()
    assert ("invalid",) in db.execute(healths).fetchall()
