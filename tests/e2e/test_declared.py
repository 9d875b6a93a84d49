"""Rollups as a file declares them: planned without a trace, applied all or nothing, once."""

from pathlib import Path

import psycopg
import pytest

import tsrollup
from command_line import Finished
from command_line import tsrollup_here as here
from rollup_checks import assert_equal_to_group_by
from servers import PostgresServer

pytestmark = pytest.mark.spread

MINUTES = """
[rollups.by_minute]
source = "r"
width = "1 min"
dimensions = ["Device"]
metrics = { temp = ["avg", "max"] }
"""
HOURS = """
[rollups."silver.by_hour"]
source = "silver.by_minute"
width = "60 minutes"
settle_delay = "5 min"
retention = "10 years"
"""


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute('CREATE TABLE raw.r (ts timestamptz, "Device" text, temp float)')
        connection.execute("INSERT INTO raw.r VALUES ('2026-01-01 00:30+00', 'd1', 20)")
    return server.url(database)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rollups.toml"


def declared(url: str, file: Path, text: str, command: str, *options: str) -> Finished:
    file.write_text(text, encoding="utf-8-sig")  # as editors of Windows do
    return here(command, str(file), *options, url=url)


def relations(url: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT array_agg(oid::regclass::text) FROM pg_class").fetchone()


def test_a_plan_says_all_and_leaves_no_trace(url: str, file: Path) -> None:
    before = relations(url)
    planned = declared(url, file, MINUTES + HOURS, "plan")
    assert (planned.code, planned.out) == (
        2,
        "+ silver.by_minute: create it, of r by 1 min\n"
        "+ silver.by_hour: create it, of silver.by_minute by 60 minutes\n",
    )
    assert relations(url) == before


def test_columns_go_by_the_names_that_they_have_now(url: str, file: Path) -> None:
    minutes = MINUTES.replace('"max"] }', '"max"], k = ["sum"] }') + (
        'expressions = { k = "temp + 273" }\nfilter = "temp < 99"\n'
    )
    declared(url, file, minutes, "apply")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE raw.r RENAME temp TO warmth")
        connection.execute('ALTER TABLE raw.r RENAME "Device" TO device')
        connection.execute("SELECT * FROM silver.perform_rollup()")
    exported = here("export", url=url).out
    assert 'dimensions = ["device"]' in exported
    assert 'metrics = { "k" = ["sum"], "warmth" = ["avg", "max"] }' in exported
    for text in (
        exported,
        # Written otherwise, and the same.
        minutes.replace("Device", "device").replace("temp +", "temp+").replace("temp", "warmth"),
    ):
        assert declared(url, file, text, "plan", "--prune").out == "nothing to change\n"
    changed = exported.replace('["avg", "max"]', '["max", "min"]')
    assert declared(url, file, changed, "apply", "--allow-loss").code == 0
    assert declared(url, file, changed, "plan").out == "nothing to change\n"
    assert (
        "drop it and create it anew: filter"
        in declared(url, file, changed.replace("99", "98"), "plan").out
    )


def test_what_is_applied_needs_no_more_and_exports_itself(url: str, file: Path) -> None:
    assert declared(url, file, MINUTES + HOURS, "apply").code == 0
    again = declared(url, file, MINUTES + HOURS, "plan")
    assert (again.code, again.out) == (0, "nothing to change\n")
    assert here("plan", str(file), "--json", url=url).json() == {"changes": []}
    exported = here("export", url=url).out
    assert 'metrics = { "temp" = ["avg", "max"] }' in exported
    assert declared(url, file, exported, "plan", "--prune").out == "nothing to change\n"
    here("run", url=url)
    with psycopg.connect(url) as connection:
        assert_equal_to_group_by(connection, "by_minute", "by_hour")


def test_options_and_metrics_change_in_place(url: str, file: Path) -> None:
    declared(url, file, MINUTES + HOURS, "apply")
    text = (MINUTES + HOURS).replace("10 years", "5 years").replace("5 min", "1 hour")
    text = text.replace('["avg", "max"]', '["avg", "max", "min"]')
    planned = here_json(declared(url, file, text, "plan", "--json"))
    assert [(x["target"], x["loses"]) for x in planned] == [
        ("silver.by_minute", False),
        ("silver.by_hour", False),
        ("silver.by_hour", True),
    ]
    assert "retention 10 years -> 5 years" in str(planned[2]["change"])
    assert declared(url, file, text, "apply").code == 1
    assert declared(url, file, text, "apply", "--allow-loss").code == 0
    longer = text.replace("5 years", "20 years")
    assert declared(url, file, longer, "apply").code == 0
    assert declared(url, file, longer, "plan").code == 0


def here_json(done: Finished) -> list[dict[str, object]]:
    changes: list[dict[str, object]] = done.json()["changes"]
    return changes


def test_what_loses_data_is_refused_unless_told(url: str, file: Path) -> None:
    declared(url, file, MINUTES, "apply")
    for text, told in (
        (MINUTES.replace('["avg", "max"]', '["avg"]'), 'drop metrics {"temp": ["max"]}'),
        (MINUTES.replace("1 min", "2 min"), "width '00:01:00' -> '00:02:00'"),
    ):
        refused = declared(url, file, text, "apply")
        assert (refused.code, told in refused.err, "--allow-loss" in refused.err) == (1, True, True)
        assert declared(url, file, MINUTES, "plan").code == 0
    declared(url, file, MINUTES + HOURS, "apply")
    kept = declared(url, file, (MINUTES + HOURS).replace('["avg", "max"]', '["avg"]'), "plan")
    assert (kept.code, "declare silver.by_hour without it too" in kept.err) == (1, True)
    declared(url, file, MINUTES, "apply", "--prune", "--allow-loss")
    for text in (MINUTES.replace('["avg", "max"]', '["avg"]'), MINUTES.replace("1 min", "2 min")):
        assert declared(url, file, text, "apply", "--allow-loss").code == 0
        assert declared(url, file, text, "plan").code == 0


def test_what_is_not_declared_stays_or_is_pruned(url: str, file: Path) -> None:
    declared(url, file, MINUTES + HOURS, "apply")
    assert declared(url, file, MINUTES, "plan").code == 0
    planned = declared(url, file, "", "plan", "--prune")
    assert planned.out == "- silver.by_hour: drop it\n- silver.by_minute: drop it\n"
    assert declared(url, file, "", "apply", "--prune").code == 1
    assert declared(url, file, "", "apply", "--prune", "--allow-loss").code == 0
    assert here("status", "--json", url=url).json() == []


def test_all_or_nothing(url: str, file: Path) -> None:
    before = relations(url)
    wrong = MINUTES + HOURS.replace("60 minutes", "7 seconds")
    failed = declared(url, file, wrong, "apply")
    assert (failed.code, failed.err.count("\n")) == (1, 1)
    assert relations(url) == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rollups = 1", "rollups"),
        ("[rollup.x]", "rollup"),
        ("[rollups.x]\nwidth = '1 hour'", "lacks source"),
        ("[rollups.x]\nsource = 'r'\nwidth = '1 hour'\nwidht = 1", "rollups.x.widht"),
        ("[rollups", "rollups.toml"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(url: str, file: Path, text: str, told: str) -> None:
    failed = declared(url, file, text, "plan")
    assert (failed.code, failed.err.count("\n")) == (1, 1)
    assert told in failed.err


def test_from_python(url: str, file: Path) -> None:
    file.write_text(MINUTES)
    with tsrollup.connect(url) as db:
        plan = db.plan(file)
        assert str(plan) == "+ silver.by_minute: create it, of r by 1 min"
        db.apply(plan)
        assert not db.plan(file)
        assert str(db.plan(str(file))) == "nothing to change"
