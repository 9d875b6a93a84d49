"""A table of twenty days that are sealed and removed, and what tests ask of it."""

from typing import Any

import psycopg


def make_days(db: psycopg.Connection[Any], table: str) -> None:
    db.execute(f"CREATE TABLE {table} (ts timestamptz NOT NULL, v int) PARTITION BY RANGE (ts)")
    db.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    for n in range(-1, 22):
        day = f"date_trunc('day', now()) - interval '{n} days'"
        bounds = db.execute(f"SELECT quote_literal({day}), quote_literal({day} + interval '1 day')")
        start, end = bounds.fetchone() or ("", "")
        db.execute(
            f"CREATE TABLE {table}_{n + 1} PARTITION OF {table}"
            f" FOR VALUES FROM ({start}) TO ({end})"
            " WITH (autovacuum_enabled = off)"  # it would hold a partition that is to go
        )
    db.execute(
        f"INSERT INTO {table} SELECT now() - n * interval '6 hours', 1"
        " FROM generate_series(1, 80) AS n"
    )


def roll_up(db: psycopg.Connection[Any], source: str, target: str, options: str = "") -> None:
    db.execute(
        f"SELECT silver.create_rollup_table('{source}', 'silver', '{target}', '1 hour', 'ts'"
        f"{options and ', '}{options})"
    )


def view(db: psycopg.Connection[Any], name: str, query: str) -> None:
    db.execute(f"CREATE VIEW {name} AS {query}")
    db.execute(f"GRANT SELECT ON {name} TO tsrollup_owner")


def maintain(db: psycopg.Connection[Any], times: int = 1, table: str = "") -> list[str]:
    done = []
    for _ in range(times):
        rows = db.execute(
            f"SELECT action, detail FROM silver.maintain_timeseries_tables({table})".encode()
        )
        done += [row for row in rows.fetchall() if row[0] in ("sealed", "dropped", "failed")]
    assert not [row for row in done if row[0] == "failed"], done
    return [action for action, _ in done]


def one(db: psycopg.Connection[Any], query: str) -> Any:
    row = db.execute(query.encode()).fetchone()
    assert row
    return row[0]


def total(db: psycopg.Connection[Any], relation: str) -> int:
    return int(one(db, f"SELECT coalesce(sum(row_count), 0) FROM {relation}"))
