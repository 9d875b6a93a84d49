"""What happens to a server and to its databases: crashes, broken sessions, dump and restore."""

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psycopg

from interleaving import Background
from model.reference import Column, Spec
from model.script import BlockedError, Session
from model.upkeep import engine, raw_rows
from model.world import WITHOUT, Choices, Operation, Table, World
from servers import bindir_of

WORK = [
    "CALL silver.run_rollups(as_of => 'infinity')",
    "SELECT * FROM silver.perform_rollup(as_of => 'infinity')",
    "SELECT * FROM silver.maintain_timeseries_tables()",
]
DUMPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "whole": ((),),
    "jobs": (("-j", "2"),),
    "sections": (("--section=pre-data",), ("--section=data",), ("--section=post-data",)),
    "schema, then data": (("--schema-only",), ("--data-only", "--disable-triggers")),
}
# A column that the restored table does not have.
GONE = 10000


def kill(world: World, choices: Choices) -> None:
    """A session ends in the midst of its work; or the server does, and comes back."""
    session = world.session(choices)
    if session.in_transaction or session.has_settings:
        return
    how = "crash" if world.alone and choices.chance(40) else "terminate"
    milliseconds = choices.pick([0, 1, 3, 10, 20, 40, 80])
    killed(world, session, choices.pick(WORK), milliseconds, how)


def killed(world: World, session: Session, text: str, milliseconds: int, how: str) -> None:
    unlogged = any(table.unlogged for table in world.tables(world.observer))
    if how == "crash" and unlogged and world.prepared:
        raise BlockedError  # nobody could run before it is logged again
    before = raw_rows(world, world.observer)
    with world.script.one_event("killed", session.name, text, milliseconds, how):
        world.script.add(session.name, f"{text};  -- {how} after {milliseconds} ms")
        pid = session.connection.info.backend_pid
        work = Background(session.connection, text)
        time.sleep(milliseconds / 1000)
        if how == "terminate":
            world.observer.connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        else:
            os.kill(pid, signal.SIGKILL)
            with suppress(psycopg.Error):
                while True:  # until the server has noticed
                    world.observer.connection.execute("SELECT pg_sleep(0.01)")
        with suppress(psycopg.Error):
            work.result()
        for one in [session] if how == "terminate" else world.everybody():
            open_patiently(one)
        if how == "crash" and unlogged:
            # The one thing that leaves no trace is a crash between two changes of persistence.
            session.run("SELECT * FROM silver.perform_rollup()")
    if not (how == "crash" and unlogged) and "maintain" not in text:
        after = raw_rows(world, world.observer)
        if after != before:
            raise world.script.fault("rows of the user's", f"before {before}, after {after}")


def open_patiently(session: Session) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            return session.open_again()
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def reconnect(world: World, choices: Choices) -> None:
    session = world.session(choices)
    with world.script.one_event("reconnect", session.name):
        world.script.add(session.name, "-- (connects anew)")
        session.open_again()


def restore(world: World, choices: Choices) -> None:
    if world.all_idle():
        restored(world, choices.pick([x for x in DUMPS if x not in WITHOUT]))


def restored(world: World, how: str) -> None:
    """The story goes on in the restored database."""
    with world.script.one_event("restored", how):
        # What no run has seen before a dump is not seen after the restore.
        engine(world, world.sessions["a"], WORK[0])
        before = world.tables(world.observer)
        names = _names(world)
        for session in world.everybody():
            session.close()
        copy = world.server.create_database()
        world.databases.append(copy)
        _dump_and_restore(world, world.databases[-2], copy, how)
        for session in world.everybody():
            session.open_again(world.server.url(copy))
        world.script.add("a", f"-- (pg_dump and pg_restore, {how}: goes on in the restored one)")
        after = {t.name: t for t in world.tables_named(list(names.values()))}
        world.roots = [after[names[oid]].oid for oid in world.roots if names[oid] in after]
        after = {t.name: t for t in world.tables(world.observer)}
        moved = {t.oid: (t, after[t.name]) for t in before}
        world.specs = {
            n: _moved(spec, *moved[spec.root]) if spec.root in moved else spec
            for n, spec in world.specs.items()
        }


def _names(world: World) -> dict[int, str]:
    return {t.oid: t.name for t in world.root_tables(world.observer)}


def _moved(spec: Spec, old: Table, new: Table) -> Spec:
    """Columns are numbered anew; a rollup is known by the numbers."""
    numbers = {c.name: n for n, c in new.columns}

    def column(one: Column) -> Column:
        live = old.live.get(one.number)
        return Column(numbers[live.name] if live else GONE + one.number % GONE, one.name)

    return spec.at(new.oid, column)


def _dump_and_restore(world: World, source: str, copy: str, how: str) -> None:
    server = world.server
    with tempfile.TemporaryDirectory() as folder:
        dump = str(Path(folder) / "dump")
        for number, options in enumerate(DUMPS[how]):
            # In parts it is dumped in parts, otherwise once.
            dumped = [x for x in options if x in ("--schema-only", "--data-only")]
            if dumped or number == 0:
                _run(world, "pg_dump", "-Fc", *dumped, "-f", dump, server.superuser_url(source))
            _run(world, "pg_restore", "-e", *options, "-d", server.superuser_url(copy), dump)


def _run(world: World, program: str, *arguments: str) -> None:
    done = subprocess.run(
        [str(bindir_of(world.server) / program), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise world.script.fault(f"{program} failed", done.stderr[-2000:])


ACCIDENTS: dict[str, Operation] = {"kill": kill, "reconnect": reconnect, "restore": restore}
