"""Names that somebody else made where they would be looked up first: nothing of theirs is run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from conftest import Connect
from raw_tables import LEVELS, create_hierarchy
from rollup_checks import assert_settled
from servers import PostgresServer
from tsrollup.flyway.clean import clean
from tsrollup.migrations import migrate_project, project_configuration

SCRIPTS = sorted((Path(__file__).parents[2] / "src/tsrollup/pgdb/migrations").rglob("*.sql"))

# What fits a call or an operator better than what is built in: functions of just these types where
# the built-in one is variadic, and operators between types that are converted otherwise.
TRAPS = """
    CREATE FUNCTION {schema}.sprung() RETURNS text LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'a trap was sprung'; END $$;
    DO $do$
    DECLARE
        v_trap record;
    BEGIN
        FOR v_trap IN
            SELECT f.name, array_to_string(array_fill('text'::text, ARRAY[n]), ', ') AS arguments
            FROM unnest('{{format,concat,concat_ws,set_config,now,clock_timestamp,lower,substring,
                to_regclass,current_setting}}'::text[]) AS f (name), generate_series(0, 6) AS n
            UNION ALL VALUES ('set_config', 'text, text, boolean'), ('to_regrole', 'name'),
                ('date_bin', 'interval, timestamptz, timestamptz'), ('lower', 'tstzrange')
        LOOP
            EXECUTE format($q$CREATE FUNCTION {schema}.%I(%s) RETURNS text LANGUAGE sql AS
                'SELECT {schema}.sprung()'$q$, v_trap.name, v_trap.arguments);
        END LOOP;
        FOR v_trap IN
            WITH types AS (
                SELECT unnest('{{text,name,varchar,integer,bigint,smallint,numeric,oid,regclass,
                    regtype,interval,timestamptz,jsonb,text[],name[]}}'::regtype[]) AS type
            )
            SELECT o.name AS operator, l.type AS left_type, r.type AS right_type
            FROM unnest('{{=,<>,<,||,+,-}}'::text[]) AS o (name), types AS l, types AS r
            WHERE {all} OR NOT EXISTS (SELECT FROM pg_operator
                WHERE oprname = o.name AND oprleft = l.type AND oprright = r.type)
        LOOP
            EXECUTE format($q$CREATE OR REPLACE FUNCTION {schema}.op(%1$s, %2$s) RETURNS boolean
                LANGUAGE sql AS 'SELECT {schema}.sprung() IS NULL';
                CREATE OPERATOR {schema}.%3$s
                    (FUNCTION = {schema}.op, LEFTARG = %1$s, RIGHTARG = %2$s)$q$,
                v_trap.left_type, v_trap.right_type, v_trap.operator);
        END LOOP;
    END $do$;
"""


def test_migrations_run_nothing_that_others_put_into_public(
    server: PostgresServer, make_database: Callable[..., str]
) -> None:
    name = make_database()
    with psycopg.connect(server.superuser_url(name), autocommit=True) as superuser:
        superuser.execute(TRAPS.format(schema="public", all="false").encode())
    url = server.url(name)
    migrate_project(url, payload=True)
    with project_configuration("payload", url) as payload:
        clean(replace(payload, clean_disabled=False))
    with project_configuration("foundational", url, {"clean_rollups": "true"}) as foundational:
        clean(replace(foundational, clean_disabled=False))


def test_nothing_is_run_of_a_schema_that_comes_before_ours(
    server: PostgresServer, db: psycopg.Connection, connect: Connect
) -> None:
    """Nor after a COMMIT, which ends what a procedure has set."""
    create_hierarchy(db)
    hostile = connect(user=server.superuser)
    hostile.execute("CREATE SCHEMA evil")
    hostile.execute(TRAPS.format(schema="evil", all="true").encode())
    hostile.execute("SET search_path = evil, pg_catalog")
    hostile.execute("CALL silver.run_rollups(as_of => 'infinity')")
    hostile.execute("INSERT INTO raw.readings (ts) VALUES ('2026-03-01 22:00+00')")
    for call in (
        "SELECT silver.time_bucket('1 month', timestamptz '2026-03-01 22:00+00')",
        "SELECT silver.last_value(device, ts) FROM raw.readings",
        "SELECT * FROM silver.timeseries_operations_monitor",
        "SELECT * FROM silver.validate_rollup_config()",
        "SELECT * FROM gold.readings_1d",
        "SELECT * FROM silver.perform_rollup(as_of => 'infinity')",
        "SELECT * FROM silver.maintain_timeseries_tables()",
    ):
        hostile.execute(call.encode())
    assert_settled(db, *LEVELS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_pins_its_search_path_before_all_else(script: Path) -> None:
    """Flyway looks names up in the history's schema, and then wherever the role's own path says."""
    statements = [x for x in script.read_text().splitlines() if x and not x.startswith("--")]
    assert statements[0] == "SET LOCAL search_path = pg_catalog, pg_temp;"
