"""The random user: a hypothesis state machine over everything that can be done to a family."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from model.families import make_family
from model.replay import Reducer, Stage
from model.rollups import ROLLUPS, create, run
from model.script import BlockedError, FaultError
from model.structure import STRUCTURE
from model.transactions import TRANSACTIONS
from model.world import WITHOUT, Choices, Operation
from model.writes import WRITES

TOPICS = {
    "writes": WRITES,
    "structure": STRUCTURE,
    "rollups": ROLLUPS,
    "transactions": TRANSACTIONS,
}
# Rows matter more than anything else; then runs.
WEIGHTS = {"writes": 4, "structure": 2, "rollups": 3, "transactions": 1}


def chosen_operations() -> dict[str, dict[str, Operation]]:
    chosen = {
        topic: {name: do for name, do in operations.items() if name not in WITHOUT}
        for topic, operations in TOPICS.items()
        if topic not in WITHOUT
    }
    return {topic: operations for topic, operations in chosen.items() if operations}


class Story(RuleBasedStateMachine):
    """One example: a database of its own. The test that runs it sets what follows."""

    reducer: Reducer
    found: Callable[[FaultError], None]  # what is done with one
    totals: Counter[str]
    operations: dict[str, dict[str, Operation]]

    def __init__(self) -> None:
        super().__init__()
        self.fault: FaultError | None = None
        self.settling = False
        self.database = type(self).reducer.take()
        self.stage = Stage(type(self).reducer.url_of(self.database))
        self.world = self.stage.world

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        choices = Choices(data)
        with self._watched():
            make_family(self.world, self.world.sessions["a"], choices)
            WRITES["insert_series"](self.world, choices)
            create(self.world, choices)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        if self.fault is not None:
            return
        choices = Choices(data)
        topic = choices.pick([t for t in self.operations for _ in range(WEIGHTS[t])])
        name = choices.pick(list(self.operations[topic]))
        with self._watched():
            self.world.count(f"did {name}")
            self.operations[topic][name](self.world, choices)
            self.stage.invariant.check()
            # Most that can go wrong does so where buckets are stored.
            if topic != "rollups" and choices.chance(25):
                run(self.world, choices)
                self.stage.invariant.check()

    def teardown(self) -> None:
        events = list(self.world.script.events)
        try:
            if self.fault is None:
                self.world.count("examples")
                self.settling = True
                with self._watched():
                    self.stage.settle()
            if self.fault is not None:
                self.found(type(self).reducer.reduce(events, self.fault, self.settling))
        finally:
            self.totals.update(self.world.counts)
            self.stage.close()
            type(self).reducer.drop(self.database)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """A fault ends the story, and is told at its end; any other error but hypothesis' own is
        one, with the script."""
        try:
            yield
        except FaultError as fault:
            self.fault = fault
        except BlockedError:
            self.world.count("blocked")
            for session in self.world.sessions.values():
                session.leave_failed_transaction()
        except Exception as error:
            if type(error).__module__.startswith("hypothesis"):
                raise
            self.fault = self.world.script.fault(f"{type(error).__name__}", str(error))
