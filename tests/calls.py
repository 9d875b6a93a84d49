"""Calls of hosts, with a payload: what tests of expressions and filters roll up."""

import json
from typing import Any

import psycopg

SOURCE = """
    CREATE TABLE raw.calls (
        ts timestamptz NOT NULL, host text, payload jsonb, status integer,
        spent double precision, "odd ""{tsr}%s" numeric
    );
    CREATE INDEX ON raw.calls (ts);
"""
FILL = """
    INSERT INTO raw.calls
    SELECT timestamptz '2026-03-01 20:00+00' + make_interval(secs => 97 * i), 'h' || i % 3,
        CASE WHEN i % 5 > 0 THEN jsonb_build_object('region', 'r' || i % 4) END,
        (ARRAY[200, 200, NULL, 404, 500])[1 + i % 5], sqrt(i), i * 1.1
    FROM generate_series(0, 400) AS i
"""
EXPRESSIONS = {
    "region": "payload->>'region'",
    "failed": "CASE WHEN status >= 500 THEN 1 END",
    "ratio": "spent / 7 -- of a week",
    "Odd %s{id}": '"odd ""{tsr}%s" + 1',
    "part": "(extract(hour FROM ts AT TIME ZONE 'UTC')::int / 12)",
}
METRICS = {
    "failed": ["count", "sum"],
    "ratio": ["avg", "min"],
    "Odd %s{id}": ["sum", "last"],
    "spent": ["sum"],
}


def create(
    connection: psycopg.Connection[Any], name: str, source: str, width: str, **options: Any
) -> None:
    options = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in options.items()}
    named = "".join(f", {k} => %({k})s" for k in options)
    connection.execute(
        f"SELECT silver.create_rollup_table('{source}', 'silver', '{name}', '{width}'{named})",
        options,
    )


def create_levels(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    create(
        connection,
        "calls_1m",
        "raw.calls",
        "1 minute",
        dimensions=["region", "part", "host"],
        metrics=METRICS,
        expressions=EXPRESSIONS,
        filter="status < 500 OR (payload ->> 'region') <> 'r2'",
    )
    create(connection, "calls_1h", "calls_1m", "1 hour", filter="host <> 'h1'")
    create(
        connection,
        "calls_1d",
        "calls_1h",
        "1 day",
        dimensions=["area", "hour"],
        expressions={
            "area": "left(region, 1) || '{id}%s'",
            "hour": "extract(hour FROM bucket AT TIME ZONE 'UTC')",
        },
        filter="region IS NOT NULL",
    )
    return "calls_1m", "calls_1h", "calls_1d"


def make_levels(db: psycopg.Connection) -> tuple[str, ...]:
    db.execute(SOURCE)
    db.execute(FILL)
    return create_levels(db)


# A function that runs says so, and whose rights it has.
EVIL = """
    CREATE SCHEMA evil;
    CREATE TABLE evil.seen (who name);
    CREATE FUNCTION evil.ran(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'it ran as %', current_user; END $$;
    CREATE OPERATOR evil.+ (FUNCTION = int4pl, LEFTARG = integer, RIGHTARG = integer);
    CREATE DOMAIN evil.positive AS integer CHECK (value > 0);
    CREATE TYPE evil.pair AS (a integer, b evil.positive);
    CREATE TYPE evil.span AS RANGE (subtype = integer);
    CREATE TYPE evil.letter AS ENUM ('a');
    CREATE FUNCTION public.lower(varchar) RETURNS text IMMUTABLE LANGUAGE sql
        AS 'SELECT ''trap''';
"""


def nothing_is_left(connection: psycopg.Connection[Any]) -> bool:
    return connection.execute(
        "SELECT count(*) FROM (SELECT relname FROM pg_class UNION ALL SELECT proname FROM pg_proc)"
        " AS x (name) WHERE starts_with(name, 'tsrollup_')"
    ).fetchone() == (0,)


def add(db: psycopg.Connection, metrics: dict[str, Any], expressions: dict[str, str]) -> None:
    db.execute(
        "SELECT silver.add_rollup_metric('c', %s, %s)",
        [json.dumps(metrics), json.dumps(expressions)],
    )
