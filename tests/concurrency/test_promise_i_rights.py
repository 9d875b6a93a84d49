"""Promise i: who could read and write before a dump may do so after its restore, and none else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dumps import PARTITIONED
from dumps import dump as _dump
from dumps import run as _run
from raw_tables import LEVELS, create_hierarchy
from rollup_checks import assert_settled
from servers import PostgresServer
from tsrollup.migrations import migrate_project

# A function of a rollup is open to all by default, and restored so.
RIGHTS = (
    "SELECT statement FROM rollup_engine.rights_sql() WHERE statement !~ '(live|capture)_[0-9]'"
)


@pytest.mark.parametrize("lost", [("-x",), ("-O", "-x")], ids=" ".join)
def test_promise_i_migrate_gives_back_the_rights_that_a_restore_has_lost(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
    lost: tuple[str, ...],
) -> None:
    create_hierarchy(db)
    db.execute("SELECT silver.perform_rollup('readings_1m', as_of => 'infinity')")
    db.execute("GRANT SELECT (bucket) ON gold.readings_1d TO tsrollup_writer WITH GRANT OPTION")
    db.execute("REVOKE SELECT ON gold.readings_1h FROM tsrollup_reader")
    with psycopg.connect(server.superuser_url(db.info.dbname), autocommit=True) as owner:
        owner.execute("ALTER VIEW gold.readings_1h OWNER TO tsrollup_operator")
        owner.execute("CREATE SCHEMA app AUTHORIZATION tsrollup_owner")
    for name in ("paid", "moved", "again", "lean"):
        db.execute("SELECT silver.create_rollup_table('raw.readings', 'silver', %s, '2 h')", [name])
    db.execute("REVOKE SELECT ON gold.paid, gold.moved FROM tsrollup_reader, tsrollup_operator")
    db.execute("GRANT SELECT ON silver.again, gold.again TO tsrollup_writer")
    db.execute("GRANT SELECT (bucket, count_max) ON gold.lean TO tsrollup_writer")
    db.execute("ALTER VIEW gold.moved SET SCHEMA app")
    db.execute("SELECT rollup_engine.note_rights()")
    db.execute("SELECT silver.alter_rollup('paid', new_name => 'salary')")
    db.execute("SELECT silver.drop_rollup('again')")
    db.execute("SELECT silver.create_rollup_table('raw.readings', 'silver', 'again', '2 h')")
    db.execute("SELECT silver.drop_rollup_metric('lean', '{\"count\": [\"max\"]}')")
    db.execute("SELECT silver.create_rollup_table('readings_1h', 'silver', 'new', '1 day')")
    dump = _dump(server, db, tmp_path)
    copy = make_database()
    _run(server, "pg_restore", *lost, "-d", server.superuser_url(copy), dump)
    migrate_project(server.superuser_url(copy))
    with psycopg.connect(server.url(copy), autocommit=True) as restored:
        assert _rights(restored) == _rights(db)
        column = "SELECT has_column_privilege('tsrollup_writer', 'gold.readings_1d', 'bucket', %s)"
        assert restored.execute(column, ["SELECT WITH GRANT OPTION"]).fetchone() == (True,)
    with psycopg.connect(server.superuser_url(copy), autocommit=True) as restored:
        restored.execute("SET ROLE tsrollup_operator")
        restored.execute("CALL silver.run_rollups(as_of => 'infinity')")
    with psycopg.connect(server.superuser_url(copy), autocommit=True) as restored:
        assert_settled(restored, *LEVELS)
        restored.execute("SET ROLE tsrollup_reader")
        restored.execute("SELECT * FROM gold.readings_1d, gold.new")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            restored.execute("SELECT * FROM gold.readings_1h")


# On a server like the first one, something has the number that it had there.
BY_CHANCE = """
    UPDATE rollup_engine.noted_right SET marked = 'silver'::regnamespace
    WHERE marked IS NOT NULL AND rollup_engine.subject_of(statement) = 'SCHEMA silver'
"""


@pytest.mark.parametrize(
    ("options", "schemas"),
    [((), "silver, gold"), (("-O",), "silver, gold"), ((), None)],
    ids=["", "-O", "single things"],
)
def test_promise_i_a_restore_that_lacks_a_role_loses_nothing_of_others(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
    options: tuple[str, ...],
    schemas: str | None,
) -> None:
    """pg_restore gives all rights on a thing or none; what was revoked after the notes stays so."""
    create_hierarchy(db)
    ann = f"{db.info.dbname}_ann"
    db.execute(f"CREATE ROLE {ann}".encode())
    try:
        for right in (
            *([f"USAGE ON SCHEMA {schemas}"] if schemas else []),
            "SELECT ON gold.readings_1h, silver.timeseries_operations_monitor",
            "EXECUTE ON PROCEDURE silver.run_rollups",
            "EXECUTE ON FUNCTION silver.rollup_for",
        ):
            db.execute(f"GRANT {right} TO {ann} WITH GRANT OPTION".encode())
        db.execute("SELECT rollup_engine.note_rights()")
        db.execute("REVOKE SELECT ON silver.error_log FROM tsrollup_operator")
        db.execute("REVOKE SELECT ON gold.readings_1d FROM tsrollup_reader")
        db.execute("REVOKE EXECUTE ON FUNCTION silver.version FROM PUBLIC")
        dump = _dump(server, db, tmp_path)
    finally:
        for ending in ("GRANT {} TO CURRENT_USER", "DROP OWNED BY {}", "DROP ROLE {}"):
            db.execute(ending.format(ann).encode())
    copy = make_database()
    _run(server, "pg_restore", *options, "-d", server.superuser_url(copy), dump, code=1)
    with psycopg.connect(server.superuser_url(copy), autocommit=True) as restored:
        restored.execute(BY_CHANCE)
    for _ in range(2):
        migrate_project(server.superuser_url(copy))
        with psycopg.connect(server.url(copy), autocommit=True) as restored:
            assert _rights(restored) == _rights(db)


@pytest.mark.parametrize("options", [(), ("-O",)], ids=["", "-O"])
@pytest.mark.parametrize("repaired", [False, True], ids=["at once", "after repairs by hand"])
def test_promise_i_what_was_shut_stays_so_and_what_was_lost_comes_back(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
    options: tuple[str, ...],
    repaired: bool,
) -> None:
    """Also of what nobody but people may read, and where who was missing has got a right again."""
    create_hierarchy(db)
    ann = f"{db.info.dbname}_ann"
    db.execute(
        f"CREATE ROLE {ann}; GRANT {ann} TO CURRENT_USER; GRANT USAGE ON SCHEMA silver TO {ann};"
        "REVOKE ALL ON gold.readings_1h FROM tsrollup_reader, tsrollup_operator;"
        f"GRANT SELECT ON gold.readings_1h, gold.readings_1d TO {ann}, pg_monitor;"
        "SELECT rollup_engine.note_rights();"
        f"REVOKE ALL ON gold.readings_1d FROM {ann}, pg_monitor, tsrollup_reader,"
        "  tsrollup_operator;"
        "REVOKE ALL ON gold.readings_1m FROM tsrollup_reader, tsrollup_operator".encode()
    )
    dump = _dump(server, db, tmp_path)
    db.execute(f"DROP OWNED BY {ann}; DROP ROLE {ann}".encode())
    wanted = _rights(db)
    copy = make_database()
    _run(server, "pg_restore", *options, "-d", server.superuser_url(copy), dump, code=1)
    with psycopg.connect(server.superuser_url(copy), autocommit=True) as restored:
        if repaired:
            restored.execute(
                f"CREATE ROLE {ann}; GRANT SELECT ON gold.readings_1d TO {ann}".encode()
            )
        for _ in range(2):
            migrate_project(server.superuser_url(copy))
            with psycopg.connect(server.url(copy)) as own:
                given = _rights(own)
            assert {right for right in given if ann not in right} == wanted
            assert len(given - wanted) == (3 if repaired else 0)
        if repaired:
            restored.execute(f"DROP OWNED BY {ann}; DROP ROLE {ann}".encode())


CALLABLE = """
    SELECT p.oid::regprocedure::text || ' by ' || role
    FROM pg_proc AS p,
        unnest('{public,tsrollup_operator,tsrollup_writer,tsrollup_reader}'::text[]) AS role
    WHERE p.pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
        AND has_function_privilege(role, p.oid, 'EXECUTE')
"""


@pytest.mark.parametrize("options", [(), ("-O",), ("-x",)], ids=" ".join)
def test_promise_i_who_reads_and_writes_may_do_so_after_a_restore(
    db: psycopg.Connection,
    server: PostgresServer,
    make_database: Callable[..., str],
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    """Of functions that are everybody's a dump says nothing, as of any that was made anew."""
    migrate_project(server.superuser_url(db.info.dbname))
    db.execute(PARTITIONED)
    db.execute(
        "CREATE TABLE raw.k (ts timestamptz, device text NOT NULL, v integer);"
        "CREATE INDEX ON raw.k (device, ts);"
        "SELECT silver.create_rollup_table('raw.k', 'silver', 'k_1h', '1 hour',"
        " dimensions => '{device}', key_dimension => 'device')"
    )
    db.execute("CALL silver.run_rollups(as_of => 'infinity')")
    copy, dump = make_database(), _dump(server, db, tmp_path)
    _run(server, "pg_restore", *options, "-d", server.superuser_url(copy), dump)
    migrate_project(server.superuser_url(copy))
    with psycopg.connect(server.superuser_url(copy), autocommit=True) as restored:
        assert set(restored.execute(CALLABLE)) == set(db.execute(CALLABLE))
        restored.execute("GRANT INSERT ON raw.t, raw.k TO tsrollup_writer")
        for role, statement in (
            ("writer", "INSERT INTO raw.k VALUES ('2026-03-01', 'd', 1)"),
            ("writer", "INSERT INTO raw.t (id, ts, v) VALUES (0, '2026-03-01', 1)"),
            ("reader", "SELECT * FROM gold.k_1h, gold.t_1h"),
        ):
            restored.execute(f"SET ROLE tsrollup_{role}".encode())
            restored.execute(statement.encode())


def _rights(connection: psycopg.Connection[Any]) -> set[str]:
    return {statement for (statement,) in connection.execute(RIGHTS)}
