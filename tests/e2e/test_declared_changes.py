"""What a file changes of rollups that are there: parents with what reads them, and nothing else."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import tsrollup
from rollup_checks import assert_equal_to_group_by
from servers import PostgresServer
from tsrollup import declarations, declared
from tsrollup.errors import ArgumentError, InTheWayError

pytestmark = pytest.mark.spread

MINUTES = """
[rollups.m]
source = "r"
width = "1 minute"
metrics = { temp = ["avg", "max"], k = ["sum"], n = [{ name = "histogram", bounds = [1, 2] }] }
expressions = { k = "temp+1" }
"""
HOURS = """
[rollups.h]
source = "m"
width = "1 hour"
metrics = { temp = ["avg", "max"], n = [{ name = "histogram", bounds = [1, 2] }] }
"""
DAYS = """
[rollups.d]
source = "silver.h"
width = "1 day"
"""


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.r (ts timestamptz, device text, temp float, n int)")
        connection.execute(
            "INSERT INTO raw.r SELECT '2026-01-01'::timestamptz + i * interval '7 min', 'd', i, i"
            " FROM generate_series(1, 30) AS i"
        )
    return server.url(database)


class File:
    """A file of declarations, and a database that it is of."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.db = tsrollup.connect(url)

    def plan(self, text: str, prune: bool = False) -> str:
        self.path.write_text(text)
        return str(self.db.plan(self.path, prune=prune))

    def apply(self, text: str, prune: bool = False, allow_loss: bool = True) -> None:
        self.path.write_text(text)
        self.db.apply(self.db.plan(self.path, prune=prune), allow_loss=allow_loss)
        assert self.plan(text, prune) == "nothing to change"

    def export(self) -> str:
        return declarations.export(self.db.connection)


@pytest.fixture
def file(tmp_path: Path, url: str) -> Iterator[File]:
    there = File(tmp_path / "rollups.toml", url)
    yield there
    there.db.close()


def test_parents_change_with_what_reads_them(file: File) -> None:
    text = MINUTES + HOURS
    file.apply(text)
    list(file.db.run())
    text = text.replace('"max"]', '"max", "min"]')
    assert file.plan(text) == (
        '+ silver.m: add metrics {"temp": ["min"]}\n+ silver.h: add metrics {"temp": ["min"]}'
    )
    file.apply(text, allow_loss=False)
    # One that takes the name of another, one that an expression was made of alone, and one of
    # which a rollup is new that would have all that its parent has.
    text = text.replace('"max", ', "").replace("[1, 2]", "[1, 5, 9]").replace('["sum"]', '["max"]')
    text = text.replace("temp+1", "temp + 1") + DAYS
    assert '- silver.h: drop metrics {"n": [{"name": "histogram", "bounds": [1, 2]}]' in (
        file.plan(text)
    )
    file.apply(text)
    list(file.db.run())
    assert_equal_to_group_by(file.db.connection, "m", "h", "d")
    text = text.replace("1 minute", "10 minutes")
    assert file.plan(text) == (
        "- silver.m: drop it and create it anew: width '00:01:00' -> '00:10:00'\n"
        "- silver.h: drop it and create it anew: it reads silver.m\n"
        "- silver.d: drop it and create it anew: it reads silver.h"
    )
    file.apply(text)
    assert_equal_to_group_by(file.db.connection, "m", "h", "d")
    # What is pruned reads what becomes another.
    text = text.replace("10 minutes", "5 minutes").split("[rollups.h]")[0]
    with pytest.raises(InTheWayError, match=r"silver\.h reads silver\.m, which would be dropped"):
        file.plan(text)
    file.apply(text, prune=True)
    file.apply("", prune=True)


def test_what_is_made_anew_keeps_its_rights_and_comments(file: File) -> None:
    file.apply(MINUTES)
    run = file.db.connection.execute
    run("GRANT SELECT ON gold.m TO PUBLIC")
    run("REVOKE SELECT ON gold.m FROM tsrollup_reader")
    run("GRANT SELECT (bucket) ON silver.m TO PUBLIC")
    run("COMMENT ON VIEW gold.m IS 'ours'")
    run("COMMENT ON COLUMN gold.m.k_sum IS 'its sum'")
    run("COMMENT ON TABLE silver.m IS 'states'")
    given = (
        "SELECT s FROM unnest(ARRAY['silver.m'::regclass, 'gold.m']) AS r,"
        " rollup_engine.rights_and_comments_sql(r) AS s ORDER BY s"
    )
    had = run(given).fetchall()
    assert {"s": "COMMENT ON COLUMN gold.m.k_sum IS 'its sum'"} in had
    assert {"s": "GRANT SELECT (bucket) ON TABLE silver.m TO PUBLIC"} in had
    file.apply(MINUTES.replace("1 minute", "2 minutes"))
    assert run(given).fetchall() == had


def test_a_rollup_may_be_called_as_planning_once_called_its_own(file: File) -> None:
    minutes = MINUTES.replace(".m]", ".tsrollup_planned_0]")
    hours = HOURS.replace('"m"', '"tsrollup_planned_0"').replace(".h]", ".tsrollup_planned_7]")
    file.apply(minutes + hours)
    wanted = minutes.replace("1 minute", "2 minutes") + hours
    assert "planned_7: drop it and create it anew: it reads silver.tsr" in file.plan(wanted)
    with pytest.raises(ArgumentError, match=r"^silver\.tsrollup_planned_7: .*planned_0 "):
        file.plan(minutes + hours.replace('"max"', '"stddev"'))
    assert file.plan(minutes + hours) == "nothing to change"


def test_a_plan_refuses_what_could_not_be_applied(file: File) -> None:
    file.apply(MINUTES + HOURS)
    with pytest.raises(InTheWayError, match=r"silver\.h: .* max of column temp .* would lose it"):
        file.plan(MINUTES.replace(', "max"', ""))
    with pytest.raises(InTheWayError, match=r"silver\.h reads silver\.m, which would be dropped"):
        file.plan(HOURS, prune=True)
    with pytest.raises(InTheWayError, match=r"silver\.h reads silver\.m, which would be dropped"):
        file.plan(HOURS + MINUTES.replace("1 minute", "2 minutes"))
    with pytest.raises(ArgumentError, match=r"^silver\.h: .*silver\.m\b.* (?!.*tsrollup_planned)"):
        file.plan(MINUTES + HOURS.replace('"max"', '"stddev"'))
    with pytest.raises(ArgumentError, match=r"silver\.m is declared twice"):
        file.plan(MINUTES + MINUTES.replace(".m]", '."silver.M"]'))
    with pytest.raises(ArgumentError, match=r"silver\.m: archive .* and it has none"):
        file.plan(MINUTES + "archive = true\n")
    for name in ("nosuch.toml", ""):
        with pytest.raises(ArgumentError, match="cannot read"):
            file.db.plan(file.path.parent / name)


def test_what_a_section_does_not_say_stays_as_it_is(file: File) -> None:
    file.apply(
        "[rollups.x]\nsource = 'r'\nwidth = '1 hour'\ndimensions = ['device']\n"
        "metrics = { temp = ['max'] }\nsettle_delay = '10 min'\nretention = '20 years'\n"
        "archive = true\nchunk_interval = '3 days'\ntimezone = 'Europe/Berlin'\nfilter = 'n > 3'\n"
        "key_dimension = 'device'\n"
    )
    file.db.rollup("x").pause()
    was = file.export()
    assert 'chunk_interval = "3 days"\nretention = "20 years"\narchive = true' in was
    section = "[rollups.x]\nsource = 'r'\nwidth = '1 hour'\n"
    assert file.plan(section) == "nothing to change"
    file.apply(section.replace("1 hour", "2 hours"))
    assert file.export() == was.replace("01:00:00", "02:00:00")
    assert file.db.rollup("x").status().health == "paused"
    # Longer, but dropped rather than moved aside: a loss.
    section = section.replace("1 hour", "2 hours")
    longer = section + "retention = '30 years'\n"
    assert file.plan(longer + "archive = false") == (
        "- silver.x: retention 20 years, archived -> 30 years"
    )
    file.apply(longer, allow_loss=False)
    assert 'retention = "30 years"\narchive = true' in file.export()
    file.apply(section + "retention = 'forever'\n", allow_loss=False)
    assert "retention" not in file.export()
    file.apply(section + "dimensions = []\n")
    assert "key_dimension" not in file.export()


def test_what_is_exported_declares_the_same(file: File) -> None:
    connection = file.db.connection
    connection.execute('CREATE TABLE raw."😀" (ts timestamptz, "😀" int, "a\x7fb" int)')
    connection.execute(
        "SELECT silver.create_rollup_table('raw.\"😀\"', 'silver', '😀', '1 hour'),"
        " silver.create_rollup_table('r', 'silver', 'window', '1 day', change_tracking => 'window',"
        "  look_back_window => '3 days'),"
        " silver.create_rollup_table('silver.window', 'silver', 'above', '2 days')"
    )
    exported = file.export()
    assert file.plan(exported, prune=True) == "nothing to change"
    file.apply("", prune=True)
    file.apply(exported)
    assert sorted(file.export()) == sorted(exported)  # default metrics, which are named now


def test_times_without_a_zone_are_of_utc(file: File) -> None:
    file.db.connection.execute("SET timezone = 'America/New_York'")
    for i, origin in enumerate(("2020-01-01", '"2020-01-01 00:00"', "2020-01-01T00:00:00")):
        file.apply(f'[rollups.x{i}]\nsource = "r"\nwidth = "7 days"\norigin = {origin}\n')
    assert file.export().count('origin = "2020-01-01 00:00:00+00"') == 3


def test_a_plan_is_made_again_when_it_is_applied(file: File, url: str) -> None:
    file.apply(MINUTES + "retention = '20 years'\n")
    file.path.write_text(MINUTES + "retention = '30 years'\n")
    planned = file.db.plan(file.path)
    file.db.set_retention("m", "100 years")
    with pytest.raises(InTheWayError, match=r"would be now: - silver\.m: retention 100 years"):
        file.db.apply(planned, allow_loss=True)
    file.db.set_retention("m", "20 years")
    file.db.apply(planned)
    file.db.apply(planned)  # is done
    # Who comes second finds nothing to do.
    text = MINUTES + HOURS
    file.path.write_text(text)
    specs = declarations.read(file.path)
    done: list[str] = []

    def second() -> None:
        with tsrollup.connect(url) as other:
            done.append(str(declared.apply(other.connection, specs)))

    thread = threading.Thread(target=second)
    with file.db.connection.transaction():
        declared.apply(file.db.connection, specs)
        thread.start()
        with psycopg.connect(url, autocommit=True) as watching:
            while not watching.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():
                assert thread.is_alive()
    thread.join()
    assert done == ["nothing to change"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("width = 3600", "width is not text"),
        ("settle_delay = 5", "settle_delay is not text"),
        ("dimensions = [1]", "dimensions is not a list of text"),
        ("origin = 5", "origin is not a time"),
        ("archive = 'yes'", "archive is not true or false"),
        ("metrics = { temp = [2020-01-01] }", "metrics is not a table"),
        ("metrics = { temp = [{ name = 'histogram', bounds = [inf] }] }", "metrics is not a table"),
    ],
)
def test_values_of_another_type_are_told(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "rollups.toml"
    width = "" if "width" in line else "width = '1 hour'\n"
    file.write_text(f"[rollups.x]\nsource = 'r'\n{width}{line}\n")
    with pytest.raises(ArgumentError, match=rf"rollups\.x\.{told}"):
        declarations.read(file)


def test_a_writer_of_two_sources_is_not_ended(file: File, url: str) -> None:
    both = "".join(
        f"[rollups.{name}]\nsource = '{name}0'\nwidth = '1 hour'\nmetrics = {{ n = ['sum'] }}\n"
        for name in "ab"
    )
    file.path.write_text(both)
    with psycopg.connect(url) as writer, psycopg.connect(url, autocommit=True) as other:
        for name in ("a0", "b0"):
            other.execute(f"CREATE TABLE raw.{name} (ts timestamptz, n int)".encode())
            other.execute(f"CREATE INDEX ON raw.{name} (ts)".encode())

        def write_while(work: Callable[[], object], *names: str) -> None:
            first, second = (f"INSERT INTO raw.{name} VALUES (now(), 1)" for name in names)
            writer.execute(first.encode())
            thread = threading.Thread(target=work)
            thread.start()
            time.sleep(0.7)  # it has the one by now, or has had it, and waits for the other
            writer.execute(second.encode())
            writer.commit()
            thread.join(30)

        done: list[str] = []
        write_while(lambda: done.append(str(file.db.plan(file.path))), "b0", "a0")
        assert done[0].count("+ silver.") == 2
        write_while(lambda: file.apply(both), "b0", "a0")
        anew = both.replace("1 hour", "2 hours")
        write_while(lambda: file.apply(anew), "a0", "b0")  # the last one is dropped first
        assert file.export().count('"02:00:00"') == 2
        list(file.db.run())
        assert_equal_to_group_by(file.db.connection, "a", "b")
