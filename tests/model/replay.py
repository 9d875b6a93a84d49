"""Tells a story again without hypothesis, and leaves out what its fault does not need."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from model.accidents import killed, restored
from model.databases import Databases
from model.invariant import Invariant
from model.people import followed
from model.reference import Spec
from model.rollups import engine, noticed
from model.script import BlockedError, Event, FaultError, Script, Session
from model.transactions import end_one, prepare
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
            noticed(world, session)
            if not any(row[5] for row in rows or []):
                break
        self.invariant.settled()

    def again(self, event: Event) -> None:
        """Does an event of another telling."""
        do, *arguments = event
        world = self.world
        if do == "catalogue_changed":
            world.catalogue_changed(*arguments)
        elif do == "restored":
            restored(world, *arguments)
        elif do != "nothing":
            name, *arguments = arguments
            self._again_in(world.sessions[name], do, arguments)

    def _again_in(self, session: Session, do: str, arguments: list[Any]) -> None:
        world = self.world
        actions: dict[str, Callable[..., Any]] = {
            "run": session.run,
            "copy": session.copy,
            "begin": session.begin,
            "end": session.end,
            "engine": lambda text: engine(world, session, text),
            "noticed": lambda: noticed(world, session),
            "add_root": lambda name: world.add_root(session, name),
            "prepare": lambda name: prepare(world, session, name),
            "end_one": lambda how: end_one(world, session, how),
            "become": session.become,
            "reconnect": session.open_again,
            "killed": lambda *how: killed(world, session, *how),
            "followed": lambda: followed(world, session),
            "register": lambda spec: self._register(session, spec),
        }
        if do == "begin" and session.in_transaction:
            return
        if do == "end" and not session.in_transaction:
            return
        actions[do](*arguments)

    def _register(self, session: Session, spec: Spec) -> None:
        ((table, root, columns),) = session.look(
            "SELECT to_regclass('silver.' || %s)::oid::bigint, to_regclass(%s)::oid::bigint,"
            " ARRAY(SELECT attname::text FROM pg_attribute"
            " WHERE attrelid = to_regclass('gold.' || %s))",
            [spec.name, spec.root_name, spec.name],
        )
        if table and root:
            there = tuple((c, a) for c, a in spec.metrics if f"{c.name}_{a}" in columns)
            self.world.register(session, table, replace(spec, root=root, metrics=there))


@dataclass
class Reducer:
    """Leaves out events as long as the same kind of fault remains."""

    databases: Databases
    server: PostgresServer
    alone: bool
    seconds: float
    # Hypothesis tells the failing story once more, to be sure.
    known: dict[str, FaultError] = field(default_factory=dict)

    def reduce(self, events: list[Event], fault: FaultError, settled: bool) -> FaultError:
        key = str(fault)
        if key not in self.known:
            self.known[key] = self._shortest(events, fault, settled)
        return self.known[key]

    def _shortest(self, events: list[Event], fault: FaultError, settled: bool) -> FaultError:
        until = monotonic() + self.seconds
        best = self._tell(events, fault.kind, settled)
        if best is None:
            return fault  # it was a matter of what the checks in between saw
        size = max(1, len(events) // 2)
        while monotonic() < until:
            n = 0
            shorter = False
            while n < len(events) and monotonic() < until:
                fewer = events[:n] + events[n + size :]
                found = self._tell(fewer, fault.kind, settled)
                if found is None:
                    n += size
                else:
                    best, events, shorter = found, fewer, True
            if size == 1 and not shorter:
                break
            size = max(1, size // 2)
        return best

    def _tell(self, events: list[Event], kind: str, settled: bool) -> FaultError | None:
        with self.stage() as stage:
            try:
                for event in events:
                    with suppress(BlockedError):
                        stage.again(event)
                stage.invariant.check()
                if settled:
                    stage.settle()
            except FaultError as fault:
                return fault if fault.kind == kind else None
            except Exception:
                return None  # what the rest needs was left out
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
