"""Expressions over a row as columns of the source, and filters that keep rows out."""

import secrets
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from blackbox.calendar_reference import Buckets
from blackbox.events_reference import EVENTS, FILL, VALUES, deep, right_or_invalid
from blackbox.rollup_reference import (
    Row,
    Wanted,
    assert_live,
    assert_live_and_stored,
    column,
    create,
    keep_all,
    rows_of,
)
from conftest import Connect
from servers import PostgresServer

ADD_METRIC = """
    SELECT silver.add_rollup_metric('people_1h', '{"shown": ["last"]}', expressions => %(shown)s)
"""

CHANGES = [
    "UPDATE raw.events SET status = 0 WHERE amount > 300 AND status = 500",
    'UPDATE raw.events SET payload = payload || \'{"region": "moved"}\' WHERE amount < 20',
    "UPDATE raw.events SET status = NULL WHERE amount BETWEEN 100 AND 120",
    "DELETE FROM raw.events WHERE amount BETWEEN 200 AND 230",
    "UPDATE raw.events SET ts = ts + interval '3 hours' WHERE amount BETWEEN 50 AND 60",
]

EXPRESSIONS = {
    "region": "payload->>'region'",
    "failed": "CASE WHEN status >= 500 THEN 1 END",
    "double": "level * 2",
    "first_letter": "lower(left(name, 1))",
    "net": 'amount - coalesce("Odd ""col;--", 0) / 10.0',
    "Odd \"name' ": "(payload->'deep'->>0)::integer",
    "nothing": "NULL::integer",
    "a_name_of_63_bytes_" + "x" * 44: "status + 1",
}

LONG = "a_name_of_63_bytes_" + "x" * 44


def test_expressions_are_columns_and_filters_keep_rows_out(db: psycopg.Connection) -> None:
    """As dimensions and metrics, at three levels, with writes that move rows in and out."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    hour, day = Buckets("1 hour"), Buckets("1 day", "Europe/Berlin")
    create(
        db, "raw.events", "regions_1h", hour.interval,
        expressions=EXPRESSIONS,
        filter="status = 0 OR status >= 500",
        dimensions=["region", "first_letter"],
        metrics={
            "failed": ["count", "sum"], "double": ["avg", "max"], "net": ["sum", "last"],
            "Odd \"name' ": ["min", "max"], "nothing": ["count", "sum"], "level": ["sum"],
        },
    )  # fmt: skip
    create(db, "regions_1h", "regions_1d", day.interval, timezone=day.zone)
    create(db, "regions_1d", "regions_1mo", "1 month", timezone=day.zone, dimensions=["region"])
    create(
        db, "raw.events", "by_long", hour.interval,
        expressions=EXPRESSIONS, dimensions=[LONG, "Odd \"name' "], metrics={"status": ["count"]},
    )  # fmt: skip
    create(
        db, "raw.events", "none_pass", hour.interval, filter="status = 12345",
        metrics={"level": ["sum"]},
    )  # fmt: skip

    def kept(row: Row) -> bool:
        return row["status"] is not None and (row["status"] == 0 or row["status"] >= 500)

    metrics = {
        "failed": ["count", "sum"], "double": ["avg", "max"], "net": ["sum"],
        "Odd \"name' ": ["min", "max"], "nothing": ["count", "sum"], "level": ["sum"],
    }  # fmt: skip
    both = {name: VALUES[name] for name in ("region", "first_letter")}
    wanted = [
        Wanted("regions_1h", hour, both, metrics, VALUES, keep=kept),
        Wanted("regions_1d", day, both, metrics, VALUES, keep=kept),
        Wanted(
            "regions_1mo", Buckets("1 month", day.zone), {"region": VALUES["region"]}, metrics,
            VALUES, keep=kept,
        ),
        Wanted(
            "by_long", hour, {LONG: VALUES["plus"], "Odd \"name' ": deep}, {"status": ["count"]},
        ),
        Wanted("none_pass", hour, keep=lambda _: False),
    ]  # fmt: skip
    assert_live_and_stored(db, "raw.events", *wanted)
    db.execute(FILL, {"shift": -40_000})
    for statement in CHANGES:
        db.execute(statement.encode())
    assert_live_and_stored(db, "raw.events", *wanted)


def test_columns_that_expressions_read_are_renamed_and_dropped(db: psycopg.Connection) -> None:
    """Right, or known to be wrong; writes go on."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    create(
        db, "raw.events", "renamed_1h", "1 hour", filter="status >= 0",
        expressions={"region": "payload->>'region'", "twice": "amount * 2"},
        dimensions=["region"], metrics={"twice": ["sum"]},
    )  # fmt: skip
    values = {"region": VALUES["region"], "twice": lambda row: row["amount"] * 2}

    def wanted(status: str = "status") -> Wanted:
        return Wanted(
            "renamed_1h", Buckets("1 hour"), {"region": values["region"]}, {"twice": ["sum"]},
            values, keep=lambda row: row[status] is not None,
        )  # fmt: skip

    assert_live_and_stored(db, "raw.events", wanted())
    db.execute("ALTER TABLE raw.events RENAME COLUMN status TO state")
    db.execute("UPDATE raw.events SET state = NULL WHERE amount < 30")
    assert right_or_invalid(db, wanted("state"))
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert right_or_invalid(db, wanted("state"))
    db.execute("ALTER TABLE raw.events RENAME COLUMN state TO status")
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert_live_and_stored(db, "raw.events", wanted())
    db.execute("ALTER TABLE raw.events ALTER COLUMN amount TYPE double precision")
    db.execute("INSERT INTO raw.events (ts, amount) VALUES ('2026-03-01 22:00+00', 4)")
    assert right_or_invalid(db, wanted())
    db.execute("ALTER TABLE raw.events DROP COLUMN payload")
    db.execute("INSERT INTO raw.events (ts, amount) VALUES ('2026-03-01 22:00+00', 4)")
    row = db.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchone()
    assert row == ("invalid",)


def test_what_fails_for_a_row_fails_no_write_and_no_other_bucket(db: psycopg.Connection) -> None:
    """The read of its bucket fails as the GROUP BY does; mended, all is well."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    create(
        db, "raw.events", "shares_1h", "1 hour",
        expressions={"share": "100 / (status - 1)"}, metrics={"share": ["sum"]},
        filter="status <> 1 OR amount = 0",
    )  # fmt: skip
    wanted = Wanted(
        "shares_1h", Buckets("1 hour"), metrics={"share": ["sum"]},
        values={"share": lambda row: int(100 / (row["status"] - 1))},
        keep=lambda row: row["status"] not in (None, 1) or row["amount"] == 0,
    )  # fmt: skip

    def row_of_hour(hour: str) -> Any:
        return db.execute(
            "SELECT share_sum FROM gold.shares_1h WHERE bucket = %s", [hour]
        ).fetchone()

    db.execute("UPDATE raw.events SET amount = 1 WHERE amount = 0")
    db.execute("UPDATE raw.events SET status = 0 WHERE status IS NULL")
    assert_live(db, "raw.events", wanted)
    db.execute("INSERT INTO raw.events (ts, status, amount) VALUES ('2026-03-01 21:30+00', 1, 0)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        row_of_hour("2026-03-01 21:00+00")
    assert row_of_hour("2026-03-01 23:00+00")
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    with pytest.raises(psycopg.errors.DivisionByZero):
        row_of_hour("2026-03-01 21:00+00")
    assert row_of_hour("2026-03-01 23:00+00")
    db.execute("UPDATE raw.events SET status = 0 WHERE amount = 0")
    db.execute("SELECT silver.reset_rollup_retry('shares_1h')")
    assert_live_and_stored(db, "raw.events", wanted)


def test_children_with_filters_and_expressions(db: psycopg.Connection) -> None:
    """Over what they read, their parent's dimensions, they are right or refused; no state is."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    create(
        db, "raw.events", "parent_1h", "1 hour",
        filter="status >= 0", expressions={"region": "payload->>'region'"},
        dimensions=["region", "name"], metrics={"level": ["sum", "max"], "amount": ["sum"]},
    )  # fmt: skip
    attempts: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"filter": "name = 'bob'"}, {"keep": lambda row: row["name"] == "bob"}),
        ({"filter": "region IS NULL"}, {"keep": lambda row: VALUES["region"](row) is None}),
        (
            {"expressions": {"big": "upper(name)"}, "dimensions": ["big"]},
            {"dimensions": {"big": lambda row: row["name"] and row["name"].upper()}},
        ),
        ({"filter": "level_sum > 0"}, {}),
        ({"filter": "row_count > 1"}, {}),
        ({"filter": "status = 0"}, {}),
        ({"expressions": {"twice": "amount * 2"}, "metrics": {"twice": ["sum"]}}, {}),
    ]
    for number, (options, meaning) in enumerate(attempts):
        try:
            create(db, "parent_1h", f"child_{number}", "1 day", **options)
        except psycopg.Error as error:
            refused = str(error.diag.message_primary)
            assert_one_line(refused)
            continue
        assert meaning, f"{options} was let through"
        kept: Callable[[Row], bool] = meaning.get("keep", keep_all)
        wanted = Wanted(
            f"child_{number}", Buckets("1 day"),
            meaning.get("dimensions", {"region": VALUES["region"], "name": column("name")}),
            {"level": ["sum", "max"]},
            keep=all_of(lambda row: row["status"] is not None, kept),
        )  # fmt: skip
        assert_live_and_stored(db, "raw.events", wanted)


def all_of(one: Callable[[Row], bool], other: Callable[[Row], bool]) -> Callable[[Row], bool]:
    return lambda row: one(row) and other(row)


def assert_one_line(text: str) -> None:
    assert len(text.splitlines()) == 1, text


def test_what_a_rollup_reads_is_not_changed_unseen(db: psycopg.Connection) -> None:
    """By UPDATE of its row in the configuration."""
    db.execute(EVENTS)
    db.execute(FILL, {"shift": 0})
    create(
        db, "raw.events", "kept_1h", "1 hour", filter="status >= 0",
        expressions={"twice": "amount * 2"}, metrics={"twice": ["sum"]},
    )  # fmt: skip
    wanted = Wanted(
        "kept_1h", Buckets("1 hour"), metrics={"twice": ["sum"]},
        values={"twice": lambda row: row["amount"] * 2},
        keep=lambda row: row["status"] is not None,
    )  # fmt: skip
    for change in (
        "filter = 'true'", "filter = 'status = 0); DROP TABLE raw.other; --'", "time_unit = 's'",
        "expressions = '{\"twice\": \"amount * 3\"}'", "filter = NULL",
    ):  # fmt: skip
        with db.transaction(force_rollback=True):
            try:
                with db.transaction():
                    db.execute(f"UPDATE silver.rollup_config SET {change}".encode())
            except psycopg.Error:
                continue
            assert right_or_invalid(db, wanted), change
            db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
            assert right_or_invalid(db, wanted), change
            assert rows_of(db, "raw.other")
    assert_live_and_stored(db, "raw.events", wanted)


def test_expressions_show_nobody_what_he_may_not_read(
    db: psycopg.Connection, connect: Connect, server: PostgresServer
) -> None:
    """An operator adds metrics over columns that he may read, and no expressions at all."""
    db.execute("CREATE TABLE raw.people (ts timestamptz, level float8, known text, secret text)")
    db.execute("INSERT INTO raw.people VALUES ('2026-03-01', 1, 'k', 's')")
    db.execute("GRANT SELECT (known) ON raw.people TO tsrollup_operator")
    create(db, "raw.people", "people_1h", "1 hour", metrics={"level": ["sum"]})
    role = f"bbox_operator_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as postgres:
        postgres.execute(f"CREATE ROLE {role} LOGIN".encode())
        try:
            postgres.execute(f"GRANT tsrollup_operator TO {role}".encode())
            operator = connect(user=role)
            for text in ("secret", "upper(secret)", "upper(known)", "1", "people::text"):
                with pytest.raises(psycopg.Error):
                    operator.execute(ADD_METRIC, {"shown": Jsonb({"shown": text})})
            operator.close()
        finally:
            postgres.execute(f"DROP ROLE {role}".encode())
    db.execute(ADD_METRIC, {"shown": Jsonb({"shown": "upper(known)"})})
    wanted = Wanted(
        "people_1h",
        Buckets("1 hour"),
        metrics={"level": ["sum"], "shown": ["last"]},
        values={"shown": lambda row: row["known"].upper()},
    )
    assert_live_and_stored(db, "raw.people", wanted)
