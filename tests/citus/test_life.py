"""The life of rollups over a table that Citus distributes, each answer compared with the GROUP BY:
promises a and b, as far as a window reaches and what is marked stale."""

import re
from typing import Any

import psycopg
import pytest

from distributed_tables import Cluster, create_rollups, drop_rollups_of, value
from rollup_checks import assert_equal_to_group_by, refresh_everything

OLD = "(date_trunc('hour', now()) - interval '30 hours')"
LATE = "(date_trunc('hour', now()) - interval '90 minutes')"


def test_rollups_lie_beside_their_source(
    cluster: Cluster, db: psycopg.Connection[Any], readings: str
) -> None:
    """Tables are distributed as the source is; one without its column is of the coordinator. A read
    asks every shard once, and works out here what is stale."""
    fine, coarse = create_rollups(db, readings, "2 hours")
    name = readings.removeprefix("raw.")
    db.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 day', dimensions => '{note}',"
        " change_tracking => 'window', look_back_window => '2 hours', settle_delay => '0')",
        [readings, f"{name}_all"],
    )
    whole = f"gold.{name}_all"
    assert_equal_to_group_by(db, fine, coarse, whole)  # before anything is stored
    refresh_everything(db)
    assert_equal_to_group_by(db, fine, coarse, whole)
    beside = db.execute(
        "SELECT r.target_table::text, p.colocationid = s.colocationid"
        " FROM silver.rollup_config AS r"
        " JOIN pg_dist_partition AS p ON p.logicalrelid = r.target_table"
        " JOIN pg_dist_partition AS s ON s.logicalrelid = %s::regclass",
        [readings],
    )
    assert set(beside) == {(f"silver.{name}_{x}", True) for x in ("5m", "1h")}
    for worker in cluster.workers:  # Citus moves shards of tables that have an identity
        with psycopg.connect(worker) as there:
            identities = there.execute(
                "SELECT DISTINCT relreplident::text FROM pg_class"
                " WHERE relname LIKE %s AND relkind = 'r'",
                [f"{name}____all%"],
            )
            assert identities.fetchall() == [("f",)]
    for view in (fine, coarse):
        for where in ("true", "device = 3", "bucket >= now() - interval '90 minutes'"):
            query = f"EXPLAIN (COSTS off) SELECT sum(temp_count) FROM {view} WHERE {where}"
            plan = "\n".join(row[0] for row in db.execute(query.encode()))
            assert plan.count("Distributed Subplan") == 1, plan
            assert "read_intermediate_result" in plan, plan
    db.execute("SELECT silver.drop_rollup(%s)", [f"silver.{name}_all"])


def test_promise_b_what_a_window_sees(db: psycopg.Connection[Any], readings: str) -> None:
    """Rows that come, change and go inside the look-back are counted before a run and after it;
    older ones are once they are marked."""
    rollups = create_rollups(db, readings, "4 hours")
    refresh_everything(db)
    for change in (
        f"INSERT INTO {readings} SELECT {LATE} + i * interval '421 seconds', i % 5, 1000, 'late'"
        " FROM generate_series(1, 40) AS i",
        f"UPDATE {readings} SET temp = temp * 3 WHERE ts >= {LATE} AND device = 2",
        f"DELETE FROM {readings} WHERE ts >= {LATE} AND device = 4",
        f"INSERT INTO {readings} VALUES (now() + interval '3 days', 5, 7, 'early')",
    ):
        db.execute(change.encode())
        assert_equal_to_group_by(db, *rollups)
        refresh_everything(db)
        assert_equal_to_group_by(db, *rollups)
    db.execute(f"INSERT INTO {readings} VALUES ({OLD}, 1, 5000, 'old')".encode())
    refresh_everything(db)
    for rollup in rollups:
        assert value(db, f"SELECT max(temp_max) FROM {rollup}") < 5000
    db.execute(
        f"SELECT silver.mark_stale('{readings}', {OLD}, {OLD} + interval '1 minute')".encode()
    )
    assert_equal_to_group_by(db, *rollups)
    refresh_everything(db)
    assert_equal_to_group_by(db, *rollups)
    # A group that is gone, and many places at once.
    db.execute(f"DELETE FROM {readings} WHERE temp = 5000".encode())
    times = [
        row[0]
        for row in db.execute(
            "SELECT t FROM generate_series("
            f"{OLD} - interval '15 hours', {OLD} + interval '20 hours', interval '20 minutes') AS t"
            "".encode()
        )
    ]
    db.execute(f"UPDATE {readings} SET temp = 77 WHERE ts = ANY (%s)".encode(), [times])
    db.execute(
        "SELECT silver.mark_stale(%s, t, t + interval '1 second') FROM unnest(%s) AS t",
        [readings, times],
    )
    assert_equal_to_group_by(db, *rollups)
    refresh_everything(db)
    assert_equal_to_group_by(db, *rollups)


def test_a_shard_is_sent_little_of_what_is_stale(
    cluster: Cluster, db: psycopg.Connection[Any], readings: str
) -> None:
    """One row, which each arm of each task reads anew, however many places are stale; so that the
    planner takes it for little. Batches are planned by guesses as well: nothing is compiled."""
    rollups = create_rollups(db, readings, "2 hours")
    refresh_everything(db)
    db.execute(
        "SELECT silver.mark_stale(%s, t, t + interval '1 second') FROM generate_series("
        f"{OLD} - interval '15 hours', {OLD} + interval '20 hours', interval '20 minutes') AS t"
        "".encode(),
        [readings],
    )
    assert db.execute(
        "SELECT count(*), max(cardinality(s.tsrollup_edges)) >= 200 FROM silver.rollup_config AS r"
        " CROSS JOIN LATERAL rollup_engine.far_stale(r.id) AS s"
        " JOIN rollup_engine.source AS o ON o.id = r.source_id WHERE o.relation_name = %s",
        [readings],
    ).fetchone() == (2, True)
    assert_equal_to_group_by(db, *rollups)
    for worker in cluster.workers:
        with psycopg.connect(worker) as there:
            assert value(
                there,
                "SELECT 'jit=off' = ANY (rolconfig) FROM pg_roles WHERE rolname = 'tsrollup_owner'",
            )


def test_groups_that_are_gone(db: psycopg.Connection[Any]) -> None:
    """Whatever their dimensions hold, NULL is one of it. The search is a join by all of them, not
    through every row of the device, and nothing goes to the coordinator and back."""
    name = "raw.gone"
    db.execute(
        f"CREATE TABLE {name} (ts timestamptz NOT NULL, device int NOT NULL, temp float8,"
        " note text, place ltree, tags text[])".encode()
    )
    db.execute(f"CREATE INDEX ON {name} (ts)".encode())
    db.execute(f"CREATE INDEX ON {name} (device, ts)".encode())
    db.execute("SELECT create_distributed_table(%s, 'device')", [name])
    for dimensions in ("device", "device,note,place", "device,tags"):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '5 minutes', dimensions => %s,"
            """ metrics => '{"temp": ["avg"]}', settle_delay => '0',"""
            " change_tracking => 'window', look_back_window => '1 day')",
            [name, f"gone_{len(dimensions)}", f"{{{dimensions}}}"],
        )
    rollups = [f"gold.gone_{n}" for n in (6, 17, 11)]
    db.execute(
        f"INSERT INTO {name} SELECT {LATE} + i * interval '1 minute', i % 4, i, n, p, t"
        " FROM generate_series(1, 60) AS i, unnest('{a,A,NULL}'::text[]) AS n,"
        " unnest('{x.y,NULL}'::ltree[]) AS p, (VALUES ('{a}'::text[]), ('{}'), (NULL)) AS v (t)"
        "".encode()
    )
    refresh_everything(db)
    assert_equal_to_group_by(db, *rollups)
    db.execute(f"ANALYZE {name}, silver.gone_6, silver.gone_17".encode())
    for table, how in (("gone_6", "Cond: .*device.*"), ("gone_17", "Cond: .*ARRAY.*ARRAY.*")):
        store = value(
            db,
            "SELECT rollup_engine.far_upsert_sql(r, rollup_engine.far_fresh_sql(r, false), false)"
            " FROM silver.rollup_config AS r WHERE target_table = %s::regclass",
            f"silver.{table}",
        )
        store = store.replace("$1", LATE).replace("$2", "now()")
        plan = "\n".join(row[0] for row in db.execute(f"EXPLAIN VERBOSE {store}".encode()))
        assert re.search(how, plan), plan
        assert "method: repartition" in plan, plan
    for gone in ("note IS NULL", "note = 'A' AND tags = '{}'", "place IS NULL", "device = 2"):
        before = value(db, "SELECT count(*) FROM silver.gone_17")
        db.execute("DELETE FROM silver.refresh_log")
        db.execute(f"DELETE FROM {name} WHERE {gone}".encode())
        refresh_everything(db)
        assert_equal_to_group_by(db, *rollups)
        left = value(db, "SELECT count(*) FROM silver.gone_17")
        assert (left < before) == ("tags" not in gone)
        assert before - left == value(
            db,
            "SELECT sum(rows_deleted) FROM silver.refresh_log WHERE target_table LIKE '%%gone_17'",
        )
    drop_rollups_of(db, name)


def test_a_long_batch_goes_to_shards_at_once(
    cluster: Cluster, db: psycopg.Connection[Any], readings: str
) -> None:
    """By a connection for each, not one after the other; what the next batch finds as it is, it
    does not write."""
    rollups = create_rollups(db, readings, "2 hours")
    refresh_everything(db)
    db.execute("SELECT silver.mark_stale(%s, now() - interval '20 hours', now())", [readings])
    db.execute("UPDATE silver.rollup_config SET current_window = '1 day'")
    with cluster.connect() as session, session.transaction():
        # As where the first statement ends before others need a connection.
        session.execute("SET citus.executor_slow_start_interval = '10s'")
        batch = "SELECT buckets FROM silver.perform_rollup(%s, max_batches => 1)"
        assert value(session, batch, rollups[0]) >= 240
        caller = f"citus_internal%gpid={value(session, 'SELECT citus_backend_gpid()')}"
        connections = 0
        for worker in cluster.workers:
            with psycopg.connect(worker) as there:
                connections += value(
                    there,
                    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tsrollup_owner'"
                    " AND state = 'idle in transaction' AND application_name LIKE %s",
                    caller,
                )
    shards = "SELECT count(*) FROM pg_dist_shard WHERE logicalrelid = %s::regclass"
    assert connections == value(db, shards, readings)
    db.execute("DELETE FROM silver.refresh_log")
    refresh_everything(db)
    assert value(db, "SELECT sum(rows_written + rows_deleted) FROM silver.refresh_log") == 0
    assert_equal_to_group_by(db, *rollups)


def test_a_rollup_is_changed_while_it_is_there(db: psycopg.Connection[Any], readings: str) -> None:
    fine, coarse = create_rollups(db, readings, "2 hours")
    refresh_everything(db)
    table, above = fine.replace("gold", "silver"), coarse.replace("gold", "silver")
    db.execute("SELECT silver.add_rollup_metric(%s, %s)", [table, '{"note": ["last"]}'])
    # As with every window: what lies before it is read again when it is marked.
    db.execute("SELECT silver.mark_stale(%s, '-infinity', 'infinity')", [readings])
    assert_equal_to_group_by(db, fine, coarse)
    refresh_everything(db)
    db.execute("SELECT silver.add_rollup_metric(%s, %s)", [above, '{"note": ["last"]}'])
    db.execute("SELECT silver.mark_stale(%s, '-infinity', 'infinity')", [readings])
    refresh_everything(db)
    assert_equal_to_group_by(db, fine, coarse)
    assert value(db, f"SELECT count(note_last) FROM {coarse}") > 0
    db.execute("SELECT silver.drop_rollup_metric(%s, %s)", [above, '{"temp": ["stddev"]}'])
    db.execute("SELECT silver.drop_rollup_metric(%s, %s)", [table, '{"temp": ["stddev"]}'])
    new = table.replace("silver.", "") + "_new"
    db.execute("SELECT silver.alter_rollup(%s, new_name => %s)", [table, new])
    fine = f"gold.{new}"
    db.execute("SELECT silver.rebuild_rollup(%s)", [f"silver.{new}"])
    db.execute("SELECT silver.pause_rollup(%s)", [above])
    db.execute("SELECT silver.resume_rollup(%s)", [above])
    refresh_everything(db)
    assert_equal_to_group_by(db, fine, coarse)
    assert not db.execute("SELECT * FROM rollup_engine.outdated_texts()").fetchall()
    wrong = db.execute(
        "SELECT target, problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()
    assert not wrong
    health = db.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchall()
    assert set(health) <= {("ok",), ("lagging",), ("waiting_for_parent",)}


def test_nothing_is_left_of_a_dropped_one(
    cluster: Cluster, db: psycopg.Connection[Any], readings: str
) -> None:
    fine, _ = create_rollups(db, readings, "2 hours")
    refresh_everything(db)
    name = fine.removeprefix("gold.").removesuffix("_5m")
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'silver' AND tablename LIKE %s"
    for worker in cluster.workers:
        with psycopg.connect(worker) as there:
            assert value(there, count, f"{name}%") > 0
    drop_rollups_of(db, readings)
    for url in (cluster.url, *cluster.workers):
        with psycopg.connect(url) as there:
            assert value(there, count, f"{name}%") == 0


def test_a_reader_needs_the_source_as_well(
    cluster: Cluster, db: psycopg.Connection[Any], readings: str
) -> None:
    """The workers are asked as whoever reads."""
    fine, coarse = create_rollups(db, readings, "2 hours")
    refresh_everything(db)
    db.execute("CREATE ROLE citus_reader LOGIN")
    try:
        db.execute("GRANT tsrollup_reader TO citus_reader")
        with cluster.connect("citus_reader") as reader:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="denied for"):
                reader.execute(f"SELECT count(*) FROM {fine}".encode())
            db.execute("GRANT USAGE ON SCHEMA raw TO citus_reader")
            db.execute(f"GRANT SELECT ON {readings} TO citus_reader".encode())
            for view in (fine, coarse):
                read = f"SELECT array_agg(temp_avg ORDER BY bucket, device) FROM {view}"
                assert value(reader, read) == value(db, read)
    finally:
        db.execute(f"REVOKE ALL ON {readings} FROM citus_reader".encode())
        db.execute("REVOKE USAGE ON SCHEMA raw FROM citus_reader")
        db.execute("DROP ROLE citus_reader")


def test_a_prepared_transaction_of_a_worker_is_seen_when_it_commits(
    cluster: Cluster, db: psycopg.Connection[Any], readings: str
) -> None:
    """A writer to one shard, prepared before a run and committed after it, inside the look-back."""
    rollups = create_rollups(db, readings, "4 hours")
    refresh_everything(db)
    shard, worker = _shard_of_device_3(cluster, db, readings)
    with psycopg.connect(worker, autocommit=True) as there:
        there.execute("SET citus.override_table_visibility = off")
        for ending in ("ROLLBACK", "COMMIT"):
            there.execute("BEGIN")
            there.execute(f"INSERT INTO {shard} VALUES ({LATE}, 3, 9999, 'later')".encode())
            there.execute("PREPARE TRANSACTION 'tsrollup_late'")
            try:
                assert_equal_to_group_by(db, *rollups)
                refresh_everything(db)
                assert_equal_to_group_by(db, *rollups)
            finally:
                there.execute(f"{ending} PREPARED 'tsrollup_late'".encode())
            assert_equal_to_group_by(db, *rollups)
            refresh_everything(db)
            assert_equal_to_group_by(db, *rollups)
    assert value(db, f"SELECT max(temp_max) FROM {rollups[1]}") == 9999


def test_promise_c_workers_commit_after_the_coordinator(
    cluster: Cluster, db: psycopg.Connection[Any], readings: str
) -> None:
    """What is marked stays stale while the workers have prepared it and not committed."""
    rollups = create_rollups(db, readings, "2 hours")
    refresh_everything(db)
    shard, worker = _shard_of_device_3(cluster, db, readings)
    with psycopg.connect(worker, autocommit=True) as there:
        there.execute("SET citus.override_table_visibility = off")
        there.execute("BEGIN")
        there.execute(f"INSERT INTO {shard} VALUES ({OLD}, 3, 9999, 'later')".encode())
        # As Citus calls them, of a coordinator that recovers nothing here.
        there.execute("PREPARE TRANSACTION 'citus_77_1_1_1'")
        try:
            db.execute(f"SELECT silver.mark_stale('{readings}', {OLD}, now())".encode())
            db.execute("CALL silver.run_rollups()")
        finally:
            there.execute("COMMIT PREPARED 'citus_77_1_1_1'")
    assert_equal_to_group_by(db, *rollups)
    refresh_everything(db)
    assert_equal_to_group_by(db, *rollups)
    assert value(db, f"SELECT max(temp_max) FROM {rollups[1]}") == 9999


def _shard_of_device_3(cluster: Cluster, db: psycopg.Connection[Any], name: str) -> tuple[str, str]:
    """The shard, and the way to its worker."""
    shard, port = db.execute(
        "SELECT shard_name, nodeport FROM citus_shards WHERE table_name = %s::regclass"
        " AND shardid = get_shard_id_for_distribution_column(%s, 3)",
        [name, name],
    ).fetchone() or ("", 0)
    (worker,) = (w for w in cluster.workers if f"port={port}" in w)
    return shard, worker
