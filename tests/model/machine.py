"""The random user: a hypothesis state machine over everything that can be done to a family."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from model.accidents import ACCIDENTS
from model.families import make_family
from model.people import PEOPLE, renew
from model.replay import Reducer
from model.rollups import ROLLUPS, create, create_child
from model.script import BlockedError, FaultError
from model.structure import STRUCTURE
from model.transactions import TRANSACTIONS
from model.upkeep import run
from model.world import WITHOUT, Choices, Operation
from model.writes import WRITES

TOPICS = {
    "writes": WRITES,
    "structure": STRUCTURE,
    "rollups": ROLLUPS,
    "transactions": TRANSACTIONS,
    "people": PEOPLE,
    "accidents": ACCIDENTS,
}
# Rows matter more than anything else; then runs.
WEIGHTS = {
    "writes": 10,
    "structure": 8,
    "rollups": 7,
    "transactions": 3,
    "people": 2,
    "accidents": 1,
}
OFTEN = {"update": 6, "delete": 3, "move": 4, "merge_mixed": 4, "create_child": 4, "truncate": 1}


def chosen_operations() -> dict[str, dict[str, Operation]]:
    chosen = {
        topic: {name: do for name, do in operations.items() if name not in WITHOUT}
        for topic, operations in TOPICS.items()
        if topic not in WITHOUT
    }
    return {topic: operations for topic, operations in chosen.items() if operations}


def _some_of(
    operations: dict[str, dict[str, Operation]], choices: Choices
) -> dict[str, dict[str, Operation]]:
    """What a story does often: of everything a little would seldom come together."""
    return {
        topic: {name: those[name] for name in choices.some(list(those), 1, 1 + len(those) // 2)}
        for topic, those in operations.items()
    }


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
        self.choices = Choices(0)
        self.runs = 0  # of a hundred steps, so many are followed by a run
        self._left = ExitStack()
        self.stage = self._left.enter_context(type(self).reducer.stage())
        self.world = self.stage.world

    @initialize(number=st.integers(0, 2**60))
    def begin(self, number: int) -> None:
        choices = self.choices = Choices(number)
        with self._watched():
            self.operations = _some_of(type(self).operations, choices)
            make_family(self.world, self.world.sessions["a"], choices)
            for _ in range(3):
                WRITES["insert_series"](self.world, choices)
            self.runs = choices.pick([20, 50, 80])
            create(self.world, choices)
            if choices.chance(40):
                create_child(self.world, choices)
            if choices.chance(60):
                run(self.world, choices)

    @rule()
    def step(self) -> None:
        if self.fault is not None:
            return
        choices = self.choices
        topic = choices.pick([t for t in self.operations for _ in range(WEIGHTS[t])])
        name = choices.pick([n for n in self.operations[topic] for _ in range(OFTEN.get(n, 2))])
        with self._watched():
            self.world.count(f"did {name}")
            self.operations[topic][name](self.world, choices)
            self.stage.invariant.check()
            # Most that can go wrong does so where buckets are stored. And a run after a restore is
            # what the documentation asks for.
            if name == "restore" or (topic != "rollups" and choices.chance(self.runs)):
                if choices.chance(30):
                    WRITES["insert_series"](self.world, choices)  # so that there is something
                run(self.world, choices)
                self.stage.invariant.check()
                if topic == "structure":
                    renew(self.world, choices)
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
            self._left.close()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """A fault ends the story, and is told at its end; any other error but hypothesis' own is
        one, with the script."""
        try:
            yield
        except BlockedError:
            self.world.count("blocked")
            for session in self.world.sessions.values():
                session.leave_failed_transaction()
        except Exception as error:
            if type(error).__module__.startswith("hypothesis"):
                raise
            self.fault = self.world.script.fault_of(error)
