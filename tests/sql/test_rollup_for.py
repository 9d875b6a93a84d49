"""Which live view answers a question: the answers are asked for, and compared with the source."""

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import Connect
from raw_tables import wait_until
from rollup_checks import refresh_everything
from scenes import scene


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, device text, site text, v integer)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => 7 * i),"
        " 'd' || i % 50, 's' || i % 2, i FROM generate_series(0, 4999) AS i"
    )
    for source, name, width, dimensions, metrics in (
        ("raw.t", "t_1m", "1 minute", "{device,site}", '{"v": ["avg", "max", "p95"]}'),
        ("t_1m", "t_1h", "1 hour", "{device}", '{"v": ["avg", "p95"]}'),
        ("t_1h", "t_1d", "1 day", "{device}", '{"v": ["avg"]}'),
        ("t_1m", "t_all", "1 hour", "{}", '{"v": ["max"]}'),
        ("raw.t", "t_1w", "7 days", "{}", '{"v": ["max"]}'),
    ):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval, NULL, %s::text[],"
            " %s::jsonb)",
            [source, name, width, dimensions, metrics],
        )
    refresh_everything(db)
    return db


def answers(connection: psycopg.Connection[Any], arguments: str) -> dict[str, str]:
    rows = connection.execute(
        f"SELECT live_view::text, exact, reason FROM silver.rollup_for({arguments})".encode()
    ).fetchall()
    assert sorted(rows, key=lambda x: not x[1]) == rows  # those that are not exact come last
    return {view: ("" if exact else "not: ") + reason for view, exact, reason in rows}


def test_the_cheapest_exact_one_comes_first(rolled_up: psycopg.Connection) -> None:
    found = answers(rolled_up, """'raw.t', '1 day', '{device}', '{"v": "avg"}'""")
    assert list(found)[:3] == ["gold.t_1d", "gold.t_1h", "gold.t_1m"]
    assert found["gold.t_1d"].startswith("its rows are the answer; about ")
    assert found["gold.t_1h"].startswith("24 of its buckets make one: its states combine; about ")
    assert found["gold.t_all"] == "not: it does not group by device"
    assert found["gold.t_1w"] == ("not: buckets of 1 day are not made of its, which are 7 days")
    found = answers(rolled_up, """'t', '1 hour', NULL, '{"v": ["max"]}'""")
    assert list(found)[:2] == ["gold.t_all", "gold.t_1m"]
    assert found["gold.t_1h"] == "not: it does not hold max of v"
    found = answers(rolled_up, """'t', '1 hour', '{device}', '{"v": ["p95", "count"]}'""")
    assert list(found)[:2] == ["gold.t_1h", "gold.t_1m"]
    found = answers(rolled_up, "'t', '1 month'")
    exact = {x for x, reason in found.items() if not reason.startswith("not: ")}
    assert exact == {"gold.t_all", "gold.t_1d", "gold.t_1h", "gold.t_1m"}


def test_a_rollup_and_what_reads_it(rolled_up: psycopg.Connection) -> None:
    found = answers(rolled_up, "'gold.t_1h', '1 day'")
    assert set(found) == {"gold.t_1h", "gold.t_1d"}


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SELECT silver.pause_rollup('t_1d')", "it is paused"),
        ("UPDATE silver.rollup_config SET parked_at = now()", "it is parked"),
        ("ALTER TABLE raw.t ENABLE ROW LEVEL SECURITY", "it is not valid: "),
    ],
)
def test_what_is_not_right_is_not_exact(
    rolled_up: psycopg.Connection, statement: str, reason: str
) -> None:
    rolled_up.execute(statement.encode())
    assert answers(rolled_up, "'raw.t', '1 day'")["gold.t_1d"].startswith(f"not: {reason}")


def test_what_only_a_window_knows_is_not_exact(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.w (ts timestamptz NOT NULL, v integer)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.w', 'silver', 'w_1h', '1 hour',"
        " change_tracking => 'window', look_back_window => '9 days')"
    )
    db.execute("SELECT silver.create_rollup_table('w_1h', 'silver', 'w_1d', '1 day')")
    reason = "not: it knows of changes in the last 9 days of its source only"
    assert answers(db, "'raw.w', '1 day'") == {"gold.w_1h": reason, "gold.w_1d": reason}


def test_what_has_dropped_rows_that_the_source_has_is_not_exact(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.q (ts timestamptz NOT NULL, v integer)")
    db.execute(
        "INSERT INTO raw.q SELECT now() - i * interval '1 hour' FROM generate_series(0, 300) AS i"
    )
    for source, name, width, keep in (
        ("raw.q", "short", "1 hour", "5 days"),
        ("short", "short_1d", "1 day", None),
        ("short_1d", "short_5d", "5 days", None),
        ("raw.q", "long", "10 minutes", None),
    ):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval,"
            " chunk_interval => greatest('4 days', %s::interval), retention => %s)",
            [source, name, width, width, keep],
        )
    refresh_everything(db)
    question = "'raw.q', '5 days', NULL, '{\"v\": [\"count\"]}'"
    assert list(answers(db, question)) == [
        "gold.short_5d",
        "gold.short_1d",
        "gold.short",
        "gold.long",
    ]

    def is_dropped() -> bool:
        db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
        return db.execute("SELECT sum(row_count) < 150 FROM gold.short").fetchone() == (True,)

    wait_until(is_dropped)  # sessions of other tests may have read before
    found = answers(db, question)
    assert next(iter(found)) == "gold.long"
    assert not found["gold.long"].startswith("not: ")
    (border,) = db.execute(
        "SELECT concat('not: it is exact since ', exact_since, ' only')"
        " FROM silver.timeseries_operations_monitor WHERE target_table = 'silver.short'"
    ).fetchone() or ("",)
    assert found["gold.short"] == border
    # They no longer hear of late rows there.
    assert found["gold.short_1d"].startswith("not: it is exact since ")
    assert found["gold.short_5d"].startswith("not: it is exact since ")
    # Of the rows that its parent still has, one holds all.
    assert answers(db, "'short', '5 days'")["gold.short_1d"].startswith("5 of its buckets")


def test_what_knows_all_of_history_comes_first(db: psycopg.Connection) -> None:
    """A metric or a rollup that came after time was sealed says nothing of it."""
    db.execute("CREATE TABLE raw.h (ts timestamptz NOT NULL, v integer) PARTITION BY RANGE (ts)")
    for day in range(10):
        db.execute(
            f"CREATE TABLE raw.h_{day} PARTITION OF raw.h"
            f" FOR VALUES FROM (current_date - {day}) TO (current_date - {day} + 1)".encode()
        )
    db.execute(
        "INSERT INTO raw.h SELECT now() - i * interval '1 day', i FROM generate_series(0, 9) AS i"
    )
    create = "SELECT silver.create_rollup_table(%s, 'silver', %s, %s, metrics => %s)"
    db.execute(create, ["raw.h", "full_1h", "1 hour", '{"v": ["sum", "p95"]}'])
    db.execute(create, ["raw.h", "late_1d", "1 day", '{"v": ["sum"]}'])
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.h', '4 days')")
    for _ in range(2):
        db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    db.execute("""SELECT silver.add_rollup_metric('late_1d', '{"v": ["p95"]}')""")
    db.execute(create, ["late_1d", "late_2d", "2 days", None])
    db.execute(create, ["raw.h", "new_1d", "1 day", '{"v": ["p95"]}'])
    refresh_everything(db)
    (known,) = db.execute("SELECT min(bucket)::text FROM gold.new_1d").fetchone() or ("",)

    found = answers(db, """'raw.h', '2 days', NULL, '{"v": ["p95"]}'""")
    assert list(found) == ["gold.full_1h", "gold.late_2d", "gold.late_1d", "gold.new_1d"]
    assert "since" not in found.pop("gold.full_1h")
    assert all(f"; it knows this since {known}" in reason for reason in found.values()), found
    found = answers(db, """'raw.h', '2 days', NULL, '{"v": ["sum"]}'""")
    assert list(found)[:3] == ["gold.late_2d", "gold.late_1d", "gold.full_1h"]
    assert not any("since" in reason for reason in found.values())
    # Of a rollup, its own columns and those of what reads it.
    found = answers(db, """'silver.late_1d', '2 days', NULL, '{"v": ["p95"]}'""")
    assert list(found) == ["gold.late_2d", "gold.late_1d"]
    assert all(f"; it knows this since {known}" in reason for reason in found.values()), found


def test_columns_go_by_the_names_that_they_have_now(rolled_up: psycopg.Connection) -> None:
    db = rolled_up
    db.execute("""SELECT silver.add_rollup_metric('t_1m', '{"v": [{"name": "histogram",
        "bounds": [0, 9]}]}')""")
    db.execute("ALTER TABLE raw.t RENAME v TO x")
    db.execute("ALTER TABLE raw.t RENAME device TO machine")
    refresh_everything(db)
    found = answers(db, """'raw.t', '1 day', '{machine}', '{"X": "avg"}'""")
    assert list(found)[:3] == ["gold.t_1d", "gold.t_1h", "gold.t_1m"]
    assert found["gold.t_1d"].startswith("its rows are the answer; about ")
    assert found["gold.t_all"] == "not: it does not group by machine"
    found = answers(db, """'raw.t', '1 day', NULL, '{"x": ["histogram"]}'""")
    assert [x for x, why in found.items() if not why.startswith("not: ")] == ["gold.t_1m"]


def test_what_reads_some_of_the_rows_is_not_exact(rolled_up: psycopg.Connection) -> None:
    for source, name, condition in (
        ("raw.t", "few", "v > 7"),
        ("few", "few_1h", None),
        ("t_1h", "d1", "device = 'd1'"),
        ("d1", "d1_day", "device <> 'd2'"),
    ):
        rolled_up.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', filter => %s)",
            [source, name, condition],
        )
    found = answers(rolled_up, "'raw.t', '1 hour'")
    only = "not: it counts only rows where "
    assert (found["gold.few"], found["gold.few_1h"]) == (only + "v > 7", only + "v > 7")
    assert found["gold.d1_day"] == only + "device = 'd1' and device <> 'd2'"
    # Of the rows of one that has the condition, its own are all.
    found = answers(rolled_up, "'silver.few', '1 hour'")
    assert found["gold.few_1h"].startswith("its rows are the answer")


def test_an_expression_that_is_called_as_something_else(rolled_up: psycopg.Connection) -> None:
    for source, name, dimension, expression in (
        ("t_1h", "by_letter", "site", "left(device, 1)"),
        ("raw.t", "by_first", "k", "left(site, 1)"),
        ("raw.t", "by_last", "k", "right(site, 1)"),
        ("by_last", "by_last_1d", "k", None),
        ("raw.t", "by_sum", "s", "site || device"),
    ):
        rolled_up.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour', dimensions => %s,"
            " expressions => %s)",
            [source, name, [dimension], Jsonb({dimension: expression}) if expression else None],
        )
    found = answers(rolled_up, "'raw.t', '1 hour', '{site}'")
    assert found["gold.by_letter"] == "not: its site is left(device, 1) of silver.t_1h"
    assert found["gold.t_1m"].startswith("60 of its buckets make one")
    found = answers(rolled_up, "'raw.t', '1 hour', '{k}'")
    assert found["gold.by_first"] == "not: its k is left(site, 1) of raw.t"
    assert (
        found["gold.by_last"] == found["gold.by_last_1d"] == "not: its k is right(site, 1) of raw.t"
    )
    found = answers(rolled_up, "'raw.t', '1 hour', '{s}'")
    assert found["gold.by_sum"].startswith("its rows are the answer")


def test_rollups_by_several_times_of_a_table(db: psycopg.Connection) -> None:
    create = (
        "SELECT silver.create_rollup_table('raw.{0}', 'silver', '{0}_{1}', '1 hour',"
        " time_column => '{1}')"
    )
    for table, partitioned in (("plain", ""), ("parts", "PARTITION BY RANGE (made)")):
        db.execute(f"CREATE TABLE raw.{table} (made timestamptz, sent timestamptz) {partitioned}")
        db.execute(create.format(table, "made").encode())
        assert not answers(db, f"'{table}', '1 day'")[f"gold.{table}_made"].startswith("not: ")
        db.execute(create.format(table, "sent").encode())
    by_made, by_sent = "not: its time is made", "not: its time is sent"
    assert answers(db, "'plain', '1 day'") == {
        "gold.plain_made": by_made,
        "gold.plain_sent": by_sent,
    }
    found = answers(db, "'parts', '1 day'")
    assert found.pop("gold.parts_made").startswith("24 of its buckets")
    assert found == {"gold.parts_sent": by_sent}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("NULL, '1 hour'", "NULL"),
        ("'raw.u', '1 hour'", r"there is no table or rollup raw\.u"),
        ("'raw.t', NULL", "width is NULL"),
        ("'raw.t', '0'", "width is 00:00:00"),
        ("'raw.t', '1 month 1 day'", "mixes months with days"),
        ("'raw.t', '1 hour', '{devise}'", "dimension 'devise' is not a column"),
        ("'raw.t', '1 hour', '{NULL}'", "dimension 'NULL' is not a column"),
        ("'raw.t', '1 hour', NULL, '[]'", "metrics is a JSON array"),
        ("'raw.t', '1 hour', NULL, '{\"x\": [\"avg\"]}'", "metric column 'x' is not a column"),
        ("'raw.t', '1 hour', NULL, '{\"v\": [\"average\"]}'", "metric 'average' of column v"),
        ("'raw.t', '1 hour', timezone => 'Nowhere'", "'Nowhere' is not the"),
        ("'raw.t', '1 hour', timezone => NULL", "'NULL' is not the"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(
    rolled_up: psycopg.Connection, arguments: str, message: str
) -> None:
    with pytest.raises(psycopg.Error, match=message) as raised:
        answers(rolled_up, arguments)
    assert (raised.value.sqlstate or "").startswith("TR")
    assert raised.value.diag.message_hint


def test_names_that_need_their_quotes(db: psycopg.Connection, connect: Connect) -> None:
    db.execute('CREATE TABLE raw."Odd ""name" (ts timestamptz NOT NULL, "D %s" text, "V!" integer)')
    db.execute(
        """SELECT silver.create_rollup_table('raw."Odd ""name"', 'silver', 'x''"y', '1 hour',"""
        """ 'ts', '{"D %s"}')"""
    )
    question = """'raw."Odd ""name"', '1 hour', '{"D %s"}', '{"V!": ["avg"]}'"""
    found = answers(connect(options="-c search_path=raw -c timezone=Asia/Kathmandu"), question)
    assert list(found) == ["""gold."x'""y\""""]


def test_buckets_of_a_zone(rolled_up: psycopg.Connection) -> None:
    """Whole hours make up days of Berlin, and none of Kolkata; days of UTC neither."""
    rolled_up.execute(
        "SELECT silver.create_rollup_table('t_1h', 'silver', 't_berlin', '1 day', timezone =>"
        " 'Europe/Berlin')"
    )
    found = answers(rolled_up, "'raw.t', '1 day', '{device}', timezone => 'Europe/Berlin'")
    assert list(found)[:3] == ["gold.t_berlin", "gold.t_1h", "gold.t_1m"]
    assert found["gold.t_berlin"].startswith("its rows are the answer")
    assert found["gold.t_1d"].startswith("not: buckets of 1 day in Europe/Berlin are not made of")
    found = answers(rolled_up, "'raw.t', '1 day', '{device}', timezone => 'Asia/Kolkata'")
    assert [x for x, reason in found.items() if not reason.startswith("not: ")] == ["gold.t_1m"]


def test_aggregates_with_parameters(rolled_up: psycopg.Connection) -> None:
    histogram = {"name": "histogram", "bounds": [0, 9]}
    total = {"name": "custom", "as": "total", "state": "sum({value})", "combine": "sum({state})"}
    rolled_up.execute(
        "SELECT silver.add_rollup_metric('t_1m', %s)",
        [Jsonb({"v": [histogram, total | {"finish": "{state}"}]})],
    )
    named = """'raw.t', '1 hour', NULL, '{"v": ["total", "histogram"]}'"""
    exact = {"gold.t_1m": True, "gold.t_1h": False, "gold.t_all": False}
    for question in (
        named,
        named.replace('"histogram"', '{"name": "histogram", "bounds": [0, 9]}'),
    ):
        found = answers(rolled_up, question)
        assert {x: not found[x].startswith("not: ") for x in exact} == exact
    other = """'raw.t', '1 hour', NULL, '{"v": [{"name": "histogram", "bounds": [0, 10]}]}'"""
    assert answers(rolled_up, other)["gold.t_1m"] == "not: it does not hold histogram of v"
