"""Tells a story again without hypothesis, and leaves out what its fault does not need."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from model.accidents import killed, restored
from model.databases import Databases
from model.invariant import Invariant
from model.people import followed, read_by_both
from model.rollups import created, metric_added, metric_dropped
from model.script import BlockedError, Event, FaultError, Script, Session
from model.transactions import end_one, prepare
from model.upkeep import engine
from model.world import World
from servers import PostgresServer


@dataclass
class Stage:
    """A database with its sessions, for one telling."""

    server: PostgresServer
    database: str
    alone: bool
    names: tuple[str, ...] = ("a", "b")
    world: World = field(init=False)
    invariant: Invariant = field(init=False)

    def __post_init__(self) -> None:
        script = Script()
        url = self.server.url(self.database)
        sessions = {name: Session(name, url, script) for name in self.names}
        self.world = World(
            script,
            sessions,
            Session("observer", url, Script()),
            self.server,
            [self.database],
            self.alone,
        )
        self.invariant = Invariant(self.world)

    def close(self) -> None:
        for session in self.world.everybody():
            session.close()

    def settle(self) -> None:
        """Everybody goes home, and the owner runs until nothing is left."""
        world = self.world
        session = world.sessions["a"]
        for other in world.sessions.values():
            if other.in_transaction:
                other.end("ROLLBACK")
            if other.has_settings:
                other.run("RESET ALL")
        while world.prepared:
            end_one(world, session, "COMMIT")
        for table, _ in world.rollups(session).values():
            session.run(f"SELECT silver.resume_rollup('{table}')", ("TR",))
            session.run(f"SELECT silver.reset_rollup_retry('{table}')", ("TR",))
        for _ in range(30):
            rows = engine(
                world, session, "SELECT * FROM silver.perform_rollup(as_of => 'infinity')"
            )
            if not any(row[5] for row in rows or []):
                break
        self.invariant.settled()

    def again(self, event: Event) -> None:
        """Does an event of another telling."""
        do, *arguments = event
        if do == "restored":
            restored(self.world, *arguments)
        else:
            name, *arguments = arguments
            self._again_in(self.world.sessions[name], do, arguments)

    def _again_in(self, session: Session, do: str, arguments: list[Any]) -> None:
        actions: dict[str, Callable[..., Any]] = {
            "run": session.run,
            "copy": session.copy,
            "begin": session.begin,
            "end": session.end,
            "become": session.become,
            "reconnect": session.open_again,
        }
        of_world: dict[str, Callable[..., Any]] = {
            "add_root": World.add_root,
            "changed": World.changed,
            "created": created,
            "end_one": end_one,
            "engine": engine,
            "followed": followed,
            "killed": killed,
            "metric_added": metric_added,
            "metric_dropped": metric_dropped,
            "prepare": prepare,
            "read_by_both": read_by_both,
        }
        if do == "begin" and session.in_transaction:
            return
        if do == "end" and not session.in_transaction:
            return
        if do in actions:
            actions[do](*arguments)
        else:
            of_world[do](self.world, session, *arguments)


@dataclass
class Reducer:
    """Leaves out events as long as the same kind of fault remains. The whole story is kept."""

    databases: Databases
    server: PostgresServer
    alone: bool
    seconds: float
    folder: Path
    # Hypothesis tells the failing story once more, to be sure.
    known: dict[str, FaultError] = field(default_factory=dict)

    def reduce(self, events: list[Event], fault: FaultError, settled: bool) -> FaultError:
        key = str(fault)
        if key not in self.known:
            place = self.folder / f"{len(self.known) + 1}"
            whole = place.with_suffix(".whole.sql")
            whole.write_text(key)
            events, every = self._shortest(events, fault.kind, settled)
            # What is told is what fails by itself, in a database that nobody has seen before.
            short = self.tell(events, fault.kind, settled, every) if events else None
            remark = f"-- The whole story: {whole}\n"
            if short is None:
                remark = f"-- Told again, this did not come again.\n{remark}"
            self.known[key] = FaultError(f"{short or fault}{remark}", fault.kind)
            place.with_suffix(".sql").write_text(str(self.known[key]))
        return self.known[key]

    def _shortest(self, events: list[Event], kind: str, settled: bool) -> tuple[list[Event], bool]:
        """And whether its checks have to be made after every event; no events if it never failed
        again."""
        until = monotonic() + self.seconds
        every = self.tell(events, kind, settled, False) is None
        if every and self.tell(events, kind, settled, True) is None:
            return [], every
        size = max(1, len(events) // 2)
        while monotonic() < until:
            n = 0
            shorter = False
            while n < len(events) and monotonic() < until:
                fewer = events[:n] + events[n + size :]
                if self.tell(fewer, kind, settled, every) is None:
                    n += size
                else:
                    events, shorter = fewer, True
            if size == 1 and not shorter:
                break
            size = max(1, size // 2)
        return events, every

    def tell(self, events: list[Event], kind: str, settled: bool, every: bool) -> FaultError | None:
        with self.stage() as stage:
            another = False
            try:
                for n, event in enumerate(events, 1):
                    # An event that goes wrong ends its story: before its end it is another one.
                    another = n < len(events)
                    with suppress(BlockedError):
                        stage.again(event)
                    another = False
                    if every:
                        stage.invariant.check()
                stage.invariant.check()
                if settled:
                    stage.settle()
            except Exception as error:
                fault = stage.world.script.fault_of(error)
                return fault if fault.kind == kind and not another else None
        return None

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        stage = Stage(self.server, self.databases.take(), self.alone)
        try:
            yield stage
        finally:
            stage.close()
            for name in stage.world.databases:
                self.databases.drop(name)
