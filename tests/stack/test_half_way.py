"""A migrate from 0.1.0 that ended half way, at any script: what works, and what says why not."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from threading import Thread
from typing import Any

import psycopg
import pytest

from kept_releases import restore_release
from rollup_checks import assert_equal_to_group_by
from servers import PostgresServer
from tsrollup.errors import TsrollupError
from tsrollup.flyway import clean
from tsrollup.flyway.session import Session
from tsrollup.migrations import migrate_project, project_configuration

pytestmark = pytest.mark.spread

MakeDatabase = Callable[..., str]
CHANGES = (
    "SELECT silver.create_rollup_table('raw.readings', 'silver', 'x_1h', '1 hour')",
    "SELECT silver.create_rollup_table('silver.readings_15m', 'silver', 'x_2h', '2 hours')",
    "SELECT silver.add_rollup_metric('silver.readings_15m', '{\"amount\": [\"max\"]}')",
    "SELECT silver.rebuild_rollup('silver.readings_15m')",
    "SELECT silver.drop_rollup('silver.polled_1w')",
    "SELECT silver.set_retention('silver.readings_1h', '3 years')",
    "SELECT silver.partition_source('raw.readings', '2 days')",
)
# All of it stale: rolled up, emptied, rolled up once more, and two levels above others.
STALE = """
    CREATE TABLE raw.unread AS SELECT * FROM raw.readings;
    SELECT silver.create_rollup_table('raw.unread', 'silver', 'unread_1h', '1 hour');
    SELECT silver.create_rollup_table('silver.unread_1h', 'silver', 'unread_1d', '1 day');
    CREATE TABLE raw.emptied (day date, v integer);
    SELECT silver.create_rollup_table('raw.emptied', 'silver', 'emptied_1d', '1 day');
    SELECT silver.perform_rollup('emptied_1d');
    TRUNCATE raw.emptied;
    INSERT INTO raw.emptied VALUES ('2026-03-01', 1);
"""
GOLD = [f"SELECT * FROM gold.{x}" for x in ("unread_1h", "unread_1d", "emptied_1d", "polled_1w")]
READS = (
    *GOLD,
    "SELECT * FROM silver.timeseries_operations_monitor",
    "SELECT * FROM silver.validate_rollup_config()",
    "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_15m', '15 minutes',"
    " if_not_exists => true)",
)


@pytest.fixture
def old(server: PostgresServer, make_database: MakeDatabase, template: str) -> str:  # noqa: ARG001
    """The URL of a database as 0.1.0 left it."""
    url = server.superuser_url(make_database())
    restore_release("0.1.0", url)
    return url


@pytest.fixture
def at_borders(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Has something called, with a number, before each script of a migrate."""

    def install(call: Callable[[int], None]) -> None:
        look, numbers = Session.infos, count()

        def infos(session: Session, **options: Any) -> Any:
            if "target" in options and not session.database.in_transaction:
                call(next(numbers))
            return look(session, **options)

        monkeypatch.setattr(Session, "infos", infos)

    return install


class KilledError(Exception):
    """As by a lost connection."""


def answer(db: psycopg.Connection, query: str) -> str | None:
    """The code of the error, if there was one; nothing is changed."""
    try:
        db.execute(query.encode())
    except psycopg.Error as error:
        return "TR005" if error.sqlstate == "TR005" else f"{query}: {error}"
    finally:
        db.rollback()
    return None


def test_what_works_half_way_and_what_says_why_not(
    old: str, at_borders: Callable[[Callable[[int], None]], None]
) -> None:
    answers: dict[str, list[str | None]] = {query: [] for query in (*CHANGES, *READS)}
    with psycopg.connect(old) as db:
        db.execute(STALE.encode())
        db.commit()

        def ask(border: int) -> None:
            for query, told in answers.items():
                if query in GOLD or border % 3 == 0:
                    told.append(answer(db, query))

        at_borders(ask)
        migrate_project(old)
        ask(0)
    for query in READS:
        assert set(answers[query]) == {None}
    for query in CHANGES:
        before, *half_way, after = answers[query]
        assert (before, after) == (None, None)
        assert set(half_way) <= {None, "TR005"}
        assert half_way[1:] == ["TR005"] * (len(half_way) - 1)  # once V17 has come


def test_half_way_a_program_of_before_does_not_end_it_and_clean_does(
    old: str, at_borders: Callable[[Callable[[int], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(border: int) -> None:
        if border == 60:
            raise KilledError

    with monkeypatch.context():
        at_borders(lambda border: kill(border + 59))
        with pytest.raises(KilledError):
            migrate_project(old)
    with psycopg.connect(old, autocommit=True) as db:
        with pytest.raises(psycopg.Error, match="a later release has begun to migrate"):
            db.execute("SELECT rollup_engine.regenerate()")  # as 0.1.0 ends a migrate
        assert db.execute("SELECT count(*) FROM rollup_engine.upgrade").fetchone() == (1,)
    at_borders(kill)
    with pytest.raises(KilledError):
        migrate_project(old)
    with psycopg.connect(old, autocommit=True) as db:  # as pg_restore -O makes one of its dump
        for name in ("rollup_engine.fill", "silver.drop_rollup_metric"):
            db.execute(f"ALTER FUNCTION {name} OWNER TO CURRENT_USER".encode())
        with pytest.raises(TsrollupError, match="restored without owners: rollup_engine"):
            migrate_project(old)
    values = {"clean_rollups": "true"}
    with project_configuration("foundational", old, values) as configuration:
        clean(replace(configuration, clean_disabled=False))
    with psycopg.connect(old) as db:
        left = "SELECT to_regclass('silver.rollup_config'), to_regclass('gold.readings_1h')"
        assert db.execute(left.encode()).fetchone() == (None, None)


def test_what_people_rest_on_functions_that_changed_stays(old: str) -> None:
    """Rights given and taken, and bodies that name the function itself."""
    with psycopg.connect(old, autocommit=True) as db:
        for statement in (
            "CREATE FUNCTION public.make(t text) RETURNS regclass LANGUAGE sql BEGIN ATOMIC"
            " SELECT silver.create_rollup_table(t, 'silver', 'made', '1 day',"
            " chunk_interval => '7 days'); END",
            "GRANT EXECUTE ON FUNCTION silver.add_rollup_metric TO tsrollup_reader"
            " WITH GRANT OPTION",
            "REVOKE EXECUTE ON FUNCTION silver.create_rollup_table FROM tsrollup_operator",
        ):
            db.execute(statement.encode())
        rights = (
            "SELECT proname::text, ARRAY(SELECT unnest(proacl)::text ORDER BY 1) FROM pg_proc"
            " WHERE proname IN ('create_rollup_table', 'add_rollup_metric') ORDER BY 1"
        )
        before = db.execute(rights.encode()).fetchall()
        migrate_project(old)
        # The mark of what a restore has not lost.
        mark = ("tsrollup_owner=X/", "tsrollup_owner=X*/")
        assert db.execute(rights.encode()).fetchall() == [
            (name, sorted(right.replace(*mark) for right in given)) for name, given in before
        ]
        assert db.execute(
            "SELECT proname::text, pronargs FROM pg_proc WHERE proname ~ '_0_1_0$'"
        ).fetchall() == [("create_rollup_table_0_1_0", 15)]
        assert db.execute("SELECT public.make('raw.polled')::text").fetchone() == ("silver.made",)
        assert_equal_to_group_by(db, "made")
        chunk = "SELECT max(chunk_interval)::text FROM silver.rollup_config WHERE target_name = %s"
        assert db.execute(chunk.encode(), ["silver.made"]).fetchone() == ("7 days",)


def test_who_writes_is_waited_for_and_named(old: str) -> None:
    with psycopg.connect(old) as writing, psycopg.connect(old, autocommit=True) as db:
        writing.execute("INSERT INTO raw.readings VALUES ('2026-03-08', 'd1', NULL, 1, 1)")
        upgrade = Thread(target=migrate_project, args=[old])
        upgrade.start()
        pid = writing.info.backend_pid
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        for _ in range(3):  # behind whom nobody waits for long
            while db.execute(blocked, [pid]).fetchone() == (0,):
                assert upgrade.is_alive()
            while db.execute(blocked, [pid]).fetchone() != (0,):
                assert upgrade.is_alive()
        writing.commit()
        upgrade.join(60)
        assert not upgrade.is_alive()
        writing.execute("INSERT INTO raw.readings VALUES ('2026-03-08', 'd1', NULL, 1, 1)")
        with pytest.raises(psycopg.errors.LockNotAvailable, match=f"change_log .* {pid}"):
            db.execute("SELECT rollup_engine.lock_tables('{rollup_engine.change_log}', '0')")
