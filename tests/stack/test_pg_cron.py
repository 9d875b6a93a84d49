"""pg_cron: jobs by its functions only, for several timeseries databases; and a real run."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from command_line import tsrollup
from servers import PostgresServer
from tsrollup.flyway import FlywayError, clean, migrate, validate
from tsrollup.migrations import Part, migrate_project, project_configuration

TASKS = {"rollups", "retries", "maintenance", "cleanup"}


@pytest.fixture
def cron(server: PostgresServer, database: str) -> Iterator[psycopg.Connection]:
    """A superuser in pg_cron's database, which all tests share; jobs of ours go at the end."""
    if not server.has("pg_cron"):
        pytest.skip("needs pg_cron")
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
        yield connection
        connection.execute(
            "SELECT cron.unschedule(jobid) FROM cron.job WHERE strpos(jobname, %s) > 0", [database]
        )


def schedule(server: PostgresServer, database: str, **placeholders: str) -> None:
    values = {"timeseries_database": database, **placeholders}
    with project_configuration("postgres", server.superuser_url("postgres"), values) as known:
        migrate(known)


def jobs(cron: psycopg.Connection, database: str) -> dict[str, tuple[object, ...]]:
    rows = cron.execute(
        "SELECT jobname, jobid, schedule, command, database, active FROM cron.job"
        " WHERE split_part(jobname, ':', 2) = %s",
        [database],
    ).fetchall()
    return {name.rpartition(":")[2]: tuple(rest) for name, *rest in rows}


def test_the_jobs_of_a_database_are_scheduled_once(
    server: PostgresServer, cron: psycopg.Connection, database: str
) -> None:
    schedule(server, database)
    first = jobs(cron, database)
    assert set(first) == TASKS
    assert {row[3] for task, row in first.items() if task != "cleanup"} == {database}
    # pg_cron 1.4 knows no seconds.
    assert first["rollups"][1] == "* * * * *"
    assert first["cleanup"][3] == "postgres", "its log is in its own database"
    schedule(server, database)
    assert jobs(cron, database) == first


def test_a_schedule_that_was_changed_in_the_configuration_is_taken_over(
    server: PostgresServer, cron: psycopg.Connection, database: str
) -> None:
    schedule(server, database)
    before = jobs(cron, database)
    cron.execute("SELECT cron.alter_job(%s, active => false)", [before["retries"][0]])
    schedule(server, database, maintenance_schedule="5 5 * * *")
    after = jobs(cron, database)
    assert after["maintenance"][:2] == (before["maintenance"][0], "5 5 * * *")
    assert after["rollups"] == before["rollups"]
    assert after["retries"][-1] is False, "a job that was switched off stays off"


def test_a_second_database_has_jobs_of_its_own(
    server: PostgresServer,
    cron: psycopg.Connection,
    database: str,
    make_database: Callable[..., str],
    template: str,
) -> None:
    second = make_database(template)
    schedule(server, database)
    before = jobs(cron, database)
    schedule(server, second)
    try:
        assert set(jobs(cron, second)) == TASKS
        assert jobs(cron, database) == before
    finally:
        cron.execute("SELECT rollup_engine.unschedule_timeseries(%s)", [second])
    assert jobs(cron, second) == {}
    assert jobs(cron, database) == before


def test_databases_may_have_any_name(server: PostgresServer, cron: psycopg.Connection) -> None:
    name, longer = """It's a "Name" %""", """It's a "Name" %:and more"""
    try:
        for database in (name, longer):
            cron.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        schedule(server, name)
        assert {row[3] for task, row in jobs(cron, name).items() if task != "cleanup"} == {name}
        schedule(server, longer)
        removed = cron.execute("SELECT rollup_engine.unschedule_timeseries(%s)", [name])
        assert removed.fetchone() == (4,)
        left = cron.execute(
            "SELECT DISTINCT database FROM cron.job WHERE jobname LIKE %s", ["%It's%"]
        ).fetchall()
        assert set(left) == {(longer,), ("postgres",)}
    finally:
        cron.execute(
            "SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname LIKE %s", ["%It's%"]
        )
        for database in (name, longer):
            server.drop_database(database)


def test_no_database_and_no_schedule_are_errors_that_schedule_nothing(
    server: PostgresServer, cron: psycopg.Connection, database: str
) -> None:
    schedule(server, database)
    before = cron.execute("SELECT count(*) FROM cron.job").fetchone()
    for call in ("schedule_timeseries(NULL)", "schedule_rollups('x', NULL)"):
        with pytest.raises(psycopg.errors.NullValueNotAllowed, match="of a job is NULL"):
            cron.execute(f"SELECT rollup_engine.{call}")
    assert cron.execute("SELECT count(*) FROM cron.job").fetchone() == before


def test_the_doctor_names_jobs_of_databases_that_are_gone(
    server: PostgresServer,
    cron: psycopg.Connection,
    make_database: Callable[..., str],
    template: str,
) -> None:
    old, new = make_database(template), f"renamed_{secrets.token_hex(4)}"
    schedule(server, old)
    try:
        well = tsrollup("doctor", "--json", url=server.superuser_url(old))
        assert not [x for x in well.json() if x["check"] == "pg_cron jobs" and x["verdict"] != "ok"]
        server.rename_database(old, new)
        ill = tsrollup("doctor", "--json", url=server.superuser_url(new))
        (found,) = [x for x in ill.json() if x["check"] == "pg_cron jobs"]
        assert (found["verdict"], old in found["found"]) == ("problem", True)
        cron.execute(found["next_step"].partition(": ")[2])
        healed = tsrollup("doctor", "--json", url=server.superuser_url(new))
        assert [x["verdict"] for x in healed.json() if x["check"] == "pg_cron jobs"] == ["ok"]
    finally:
        cron.execute("SELECT rollup_engine.unschedule_timeseries(%s)", [old])
        server.drop_database(new)


@pytest.mark.parametrize("order", [("postgres", "foundational"), ("foundational", "postgres")])
def test_pg_cron_may_live_in_the_timeseries_database(
    server: PostgresServer, make_database: Callable[..., str], order: tuple[Part, Part]
) -> None:
    url = server.url(make_database())
    counts: dict[Part, int] = {}
    for part in (*order, *order):
        with project_configuration(part, url) as known:
            counts.setdefault(part, migrate(known).migrations_executed)
            assert validate(known).count
    assert counts["postgres"] == 4
    assert counts["foundational"] > 20
    with project_configuration("postgres", url) as known:
        cleanable = replace(known, clean_disabled=False)
        with pytest.raises(FlywayError, match="holds the rollups too"):
            clean(cleanable)
    with project_configuration("foundational", url) as known:
        clean(replace(known, clean_disabled=False))
    clean(cleanable)


def test_the_clean_up_takes_only_old_rows_of_our_own_jobs(
    server: PostgresServer, cron: psycopg.Connection, database: str
) -> None:
    schedule(server, database)
    ours = jobs(cron, database)
    other = cron.execute("SELECT cron.schedule(%s, '0 0 1 1 *', 'SELECT 1')", [f"x {database}"])
    other_id = other.fetchone()
    assert other_id
    for job, age in ((ours["rollups"][0], 9), (ours["rollups"][0], 0), (other_id[0], 9)):
        cron.execute(
            "INSERT INTO cron.job_run_details (jobid, runid, command, start_time, end_time)"
            " SELECT %s, nextval('cron.runid_seq'), %s, t, t"
            " FROM (SELECT now() - make_interval(days => %s) AS t) AS x",
            [job, f"test of {database}", age],
        )
    cron.execute(str(ours["cleanup"][2]).encode())
    left = cron.execute(
        "SELECT jobid, (now() - end_time > '1 day') FROM cron.job_run_details WHERE command = %s",
        [f"test of {database}"],
    ).fetchall()
    assert set(left) == {(ours["rollups"][0], False), (other_id[0], True)}
    cron.execute("DELETE FROM cron.job_run_details WHERE command = %s", [f"test of {database}"])


def test_pg_cron_refreshes_a_rollup_by_itself(
    server: PostgresServer, cron: psycopg.Connection, database: str, db: psycopg.Connection
) -> None:
    db.execute("CREATE TABLE raw.readings (ts timestamptz, level float8)")
    db.execute("INSERT INTO raw.readings VALUES ('2026-03-01 10:00+00', 1)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour')"
    )
    schedule(server, database)
    deadline = time.monotonic() + 150  # pg_cron 1.4 starts jobs on the minute
    while db.execute("SELECT count(*) FROM silver.readings_1h").fetchone() == (0,):
        assert time.monotonic() < deadline, cron.execute(
            "SELECT status, return_message FROM cron.job_run_details WHERE database = %s",
            [database],
        ).fetchall()
        time.sleep(0.5)
    row = db.execute("SELECT row_count FROM silver.readings_1h").fetchone()
    assert row == (1,)


def test_without_pg_cron_nothing_is_scheduled_and_nothing_fails(
    server: PostgresServer, make_database: Callable[..., str]
) -> None:
    """The postgres migrations apply where pg_cron is missing, or lives elsewhere."""
    home, database = make_database(), make_database()
    values = {"timeseries_database": database}
    with project_configuration("postgres", server.url(home), values) as known:
        assert migrate(known).migrations_executed == 4
        assert migrate(known).migrations_executed == 0
    with (
        psycopg.connect(server.url(home)) as connection,
        pytest.raises(psycopg.errors.FeatureNotSupported, match="pg_cron is not installed"),
    ):
        connection.execute("SELECT * FROM rollup_engine.schedule_timeseries(%s)", [database])
    if not server.has("pg_cron"):
        done = migrate_project(server.url(database), cron_database=server.url(home))
        assert "postgres" not in done


def test_a_role_that_may_not_schedule_elsewhere_is_told_how(
    server: PostgresServer, cron: psycopg.Connection, database: str
) -> None:
    schedule(server, database)
    cron.execute("SELECT rollup_engine.unschedule_timeseries(%s)", [database])
    with psycopg.connect(server.superuser_url("postgres")) as connection:
        connection.execute("CREATE ROLE t_plain")
        connection.execute("GRANT USAGE ON SCHEMA cron, rollup_engine TO t_plain")
        connection.execute("SET ROLE t_plain")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schedule_in_database"):
            connection.execute("SELECT * FROM rollup_engine.schedule_timeseries(%s)", [database])
        connection.rollback()
