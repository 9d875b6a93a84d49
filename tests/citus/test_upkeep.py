"""Retention, the worker, and what validation and the doctor say, on a coordinator with workers."""

import signal
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from command_line import start_tsrollup, tsrollup
from distributed_tables import (
    Cluster,
    create_readings,
    create_rollups,
    drop_rollups_of,
    fill,
    value,
)
from rollup_checks import assert_equal_to_group_by, refresh_everything


def _maintain(db: psycopg.Connection[Any]) -> list[str]:
    rows = db.execute("SELECT action, detail FROM silver.maintain_timeseries_tables()").fetchall()
    assert not [row for row in rows if row[0] == "failed"], rows
    return [row[0] for row in rows]


def test_promise_g_retention(cluster: Cluster, db: psycopg.Connection[Any]) -> None:
    """Old partitions go from the source, old rows from the rollup, on the shards as well; what the
    rollup keeps beyond its source stays as it was."""
    name = "raw.kept"
    create_readings(db, name, "PARTITION BY RANGE (ts)")
    for day in range(-10, 2):
        db.execute(
            f"CREATE TABLE {name}_{day + 10} PARTITION OF {name} FOR VALUES FROM"
            f" ({_day(db, day)}) TO ({_day(db, day + 1)})".encode()
        )
    fill(db, name, "200 hours")
    rollups = create_rollups(db, name, "1 day")
    refresh_everything(db)
    before = value(db, f"SELECT sum(row_count) FROM {rollups[1]}")
    assert before == value(db, f"SELECT count(*) FROM {name}")
    for table in (name, "silver.kept_5m"):
        with pytest.raises(psycopg.Error, match="is dropped there, and not archived"):
            db.execute("SELECT silver.set_retention(%s, '3 days', archive => true)", [table])
    db.execute("SELECT silver.set_retention(%s, '3 days')", [name])
    db.execute("SELECT silver.set_retention('silver.kept_5m', '5 days')")
    # Partitions of the source go in runs of their own.
    actions = [action for _ in range(6) for action in _maintain(db)]
    assert {"sealed", "dropped", "deleted"} <= set(actions), actions
    assert value(db, f"SELECT min(ts) > now() - interval '4 days 1 minute' FROM {name}")
    assert value(db, "SELECT min(bucket) > now() - interval '6 days 1 hour' FROM silver.kept_5m")
    assert value(db, f"SELECT sum(row_count) FROM {rollups[1]}") == before
    assert_equal_to_group_by(db, rollups[0])  # the hours are of what the five minutes still hold
    left = value(db, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'raw.kept'::regclass")
    for worker in cluster.workers:
        with psycopg.connect(worker) as there:
            assert left == value(
                there, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'raw.kept'::regclass"
            )
    # Late rows below the seal are kept, and change nothing.
    db.execute(f"INSERT INTO {name} VALUES (now() - interval '9 days', 1, 5, 'late')".encode())
    refresh_everything(db)
    assert value(db, f"SELECT sum(row_count) FROM {rollups[1]}") == before
    assert not db.execute(
        "SELECT * FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()
    drop_rollups_of(db, name)


def _day(db: psycopg.Connection[Any], day: int) -> str:
    text = "SELECT quote_literal(date_trunc('day', now()) + %s * interval '1 day')"
    return str(value(db, text, day))


def test_promise_c_a_worker_that_is_killed(
    cluster: Cluster, db: psycopg.Connection[Any], readings: str
) -> None:
    """The program is killed in the middle, more than once; another one goes on from there."""
    rollups = create_rollups(db, readings, "4 hours")
    for _ in range(3):
        killed = start_tsrollup("worker", "--every", "0.2", url=cluster.url)
        db.execute("SELECT silver.mark_stale(%s, '-infinity', 'infinity')", [readings])
        db.execute("SELECT pg_sleep(1.5)")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert killed.stdout
        killed.stdout.close()
        assert_equal_to_group_by(db, *rollups)
    done = tsrollup("run", url=cluster.url)
    assert done.code == 0, done.err
    refresh_everything(db)
    assert_equal_to_group_by(db, *rollups)


def test_a_worker_that_cannot_answer_is_named(
    cluster: Cluster, db: psycopg.Connection[Any], readings: str
) -> None:
    create_rollups(db, readings, "2 hours")
    refresh_everything(db)
    last = cluster.workers[-1]
    port = conninfo_to_dict(last)["port"]
    home = psycopg.connect(last, dbname="postgres", autocommit=True)
    name = db.info.dbname
    sound = tsrollup("doctor", "--json", url=cluster.url)
    assert [row["verdict"] for row in sound.json() if row["check"].endswith(f":{port}")] == ["ok"]
    try:
        for break_it, mend_it, problem in (
            (
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS true",
                "does not answer tsrollup_owner",
            ),
            (
                "ALTER ROLE tsrollup_owner NOLOGIN",
                "ALTER ROLE tsrollup_owner LOGIN",
                "does not answer tsrollup_owner",
            ),
        ):
            home.execute(break_it.encode())
            try:
                _end_sessions(home, name)
                _is_named(cluster, port, problem)
            finally:
                home.execute(mend_it.encode())
        with psycopg.connect(last, autocommit=True) as there:
            there.execute("COMMENT ON SCHEMA rollup_engine IS 'another'")
        _is_named(cluster, port, "has the functions of another release")
        migrated = tsrollup("migrate", url=cluster.url)
        assert migrated.code == 0, migrated.err
    finally:
        home.close()
    with cluster.connect() as again:
        assert not again.execute(
            "SELECT * FROM silver.validate_rollup_config() WHERE NOT is_valid"
        ).fetchall()


def _end_sessions(home: psycopg.Connection[Any], name: str) -> None:
    home.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
        " AND backend_type = 'client backend'",
        [name],
    )


def _is_named(cluster: Cluster, port: object, problem: str) -> None:
    with cluster.connect() as connection:
        rows = connection.execute(
            "SELECT problem, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
        ).fetchall()
    assert any(f":{port} {problem}" in row[0] and "migrate" in row[1] for row in rows), rows
    told = tsrollup("doctor", url=cluster.url)
    assert told.code == 1
    assert problem in told.out
    assert f"127.0.0.1:{port}" in told.out or f":{port}" in told.out


def test_triggers_are_refused(db: psycopg.Connection[Any], readings: str) -> None:
    with pytest.raises(psycopg.Error, match="is distributed by Citus"):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', 'refused', '1 hour')", [readings]
        )
