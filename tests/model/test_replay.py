"""A story that goes wrong is shortened to one that goes wrong by itself, to be pasted into psql."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from model.databases import Databases
from model.reference import Column, Spec, Width
from model.replay import Reducer, Stage
from model.rollups import created, metric_added
from model.script import FaultError
from model.upkeep import engine
from servers import PostgresServer, bindir_of

# No trigger sees an UPDATE, and nobody finds that one is missing.
UPDATES_UNSEEN = """
ALTER FUNCTION rollup_engine.wanted_triggers(rollup_engine.source) RENAME TO all_triggers;
CREATE FUNCTION rollup_engine.wanted_triggers(rollup_engine.source)
    RETURNS TABLE (member regclass, is_ancestor boolean, tgtype smallint) LANGUAGE sql STABLE
AS $$ SELECT * FROM rollup_engine.all_triggers($1) WHERE tgtype <> 16 $$
"""
CREATE = """
SELECT silver.create_rollup_table('raw.story', 'silver', 'roll_1', '1 hour',
    dimensions => '{device}', metrics => '{"value": ["sum"]}')::oid::bigint
"""
SWAP = """
ALTER TABLE raw.story RENAME device TO third;
ALTER TABLE raw.story RENAME note TO device;
ALTER TABLE raw.story RENAME third TO note
"""
RUN = "SELECT * FROM silver.perform_rollup(as_of => 'infinity')"


@pytest.fixture
def faulty(server: PostgresServer, make_database: Callable[..., str], template: str) -> str:
    """A template without one of the mechanisms."""
    name = make_database(template)
    with psycopg.connect(server.superuser_url(name), autocommit=True) as connection:
        connection.execute(UPDATES_UNSEEN)
    return name


@pytest.fixture
def reducer_of(server: PostgresServer, tmp_path: Path) -> Iterator[Callable[[str], Reducer]]:
    """By the template of its databases."""
    with ExitStack() as left:

        def make(template: str) -> Reducer:
            made = Databases(lambda: server.create_database(template), server.drop_database)
            left.callback(made.close)
            return Reducer(made, server, False, 250, tmp_path)

        yield make


def tell(stage: Stage) -> None:
    """Much that does not matter: columns that change names, runs, a transaction."""
    world = stage.world
    a, b = world.sessions["a"], world.sessions["b"]
    a.run("CREATE TABLE raw.remarks (ts timestamptz)")
    a.run("CREATE TABLE raw.story (ts timestamptz, device text, note text, value integer)")
    world.add_root(a, "raw.story")
    ts, device, value = Column(1, "ts"), Column(2, "device"), Column(4, "value")
    spec = Spec("roll_1", 0, "raw.story", ts, Width("1 hour"), (device,), ((value, "sum"),))
    created(world, a, CREATE, spec)
    a.copy("COPY raw.story FROM stdin", ["2026-03-01 12:00+00\ta\tx\t1", "2026-03-02\tb\ty\t2"])
    engine(world, a, RUN)
    world.changed(a, SWAP)
    engine(world, a, RUN)
    add = """SELECT silver.add_rollup_metric('silver.roll_1', '{"note": ["min"]}')"""
    metric_added(world, a, add, "roll_1", "note", ["min"])
    stage.invariant.check()
    b.begin("READ COMMITTED")
    b.run("INSERT INTO raw.story (ts) VALUES ('2026-03-03')")
    b.end("COMMIT")
    stage.invariant.check()
    a.run("UPDATE raw.story SET ts = ts + interval '1 day'")
    stage.invariant.check()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_shortened_story_fails_by_itself(
    server: PostgresServer,
    reducer_of: Callable[[str], Reducer],
    make_database: Callable[..., str],
    template: str,
    faulty: str,
) -> None:
    reducer = reducer_of(faulty)
    with reducer.stage() as stage, pytest.raises(FaultError, match="gold differs") as raised:
        tell(stage)
    fault = raised.value
    short = reducer.reduce(stage.world.script.events, fault, settled=False)
    text = str(short)
    assert short.kind == fault.kind
    assert "UPDATE raw.story" in text
    for idle in ("RENAME", "add_rollup_metric", "BEGIN"):
        assert idle in str(fault)
        assert idle not in text
    # Somebody with nothing but psql sees it too; and not where nothing is amiss.
    assert "(0 rows)" not in played(server, make_database(faulty), text)
    assert "(0 rows)" in played(server, make_database(template), text)
    (whole,) = reducer.folder.glob("*.whole.sql")
    assert str(whole) in text
    assert whole.read_text() == str(fault)


def test_what_is_left_out_leaves_no_fault_of_its_own(
    reducer_of: Callable[[str], Reducer], template: str
) -> None:
    reducer = reducer_of(template)
    with reducer.stage() as stage:
        tell(stage)
    events = stage.world.script.events
    for n in range(len(events)):
        fewer = events[:n] + events[n + 1 :]
        assert reducer.tell(fewer, "gold differs", settled=False, every=True) is None, events[n]


def test_story_that_does_not_come_again_is_told_whole(
    reducer_of: Callable[[str], Reducer], template: str
) -> None:
    reducer = reducer_of(template)
    with reducer.stage() as stage:
        stage.world.sessions["a"].run("SELECT 1")
        fault = stage.world.script.fault("gold differs", "once")
    told = str(reducer.reduce(stage.world.script.events, fault, settled=False))
    assert str(fault) in told
    assert "did not come again" in told


def played(server: PostgresServer, database: str, text: str) -> str:
    """What the last statement, which shows what differs, says."""
    psql = str(bindir_of(server) / "psql")
    arguments = [psql, "-X", "--set=VERBOSITY=terse", server.url(database)]
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout
