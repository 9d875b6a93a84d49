"""Others than the owner: writers, operators, readers; and somebody who follows every hint."""

import re
from collections import Counter

from model.rollups import ROLLUPS, create, create_child
from model.script import Session
from model.upkeep import engine, run
from model.world import Choices, Operation, World
from model.writes import WRITES

# Roles, and what each is there for.
MAY: dict[str, dict[str, Operation]] = {
    "tsrollup_writer": {
        name: WRITES[name]
        for name in ("insert", "insert_series", "update", "delete", "move", "merge", "copy")
    },
    "tsrollup_operator": {
        name: ROLLUPS[name]
        for name in "run perform refresh mark_stale retry maintain pause alter add_metric".split()
    },
}
# The part of a hint that can be run, up to where its alternative or an explanation begins.
CALL = re.compile(
    r"\b(SELECT|ALTER TABLE|GRANT|CREATE UNIQUE INDEX)\b.*?(?=; or |, (?:and|which|as) |; until|$)"
)
# Names of things to fill in, or what is no SQL at all.
NO_CALL = re.compile(r"\.\.\.|it again|as a role|to a name")


def somebody(world: World, choices: Choices) -> None:
    session = world.session(choices)
    if session.in_transaction:
        return
    role = choices.pick(list(MAY))
    action = choices.pick(list(MAY[role].values()))
    session.become(role)
    world.only = session
    try:
        action(world, choices)
    finally:
        world.only = None
        session.become("")


def reader(world: World, choices: Choices) -> None:
    """Sees the same rows as the owner, with nobody's help."""
    session = world.session(choices)
    rollups = world.rollups(session)
    if session.in_transaction or not rollups:
        return
    table, view = choices.pick(list(rollups.values()))
    health = world.observer.look(
        "SELECT health FROM silver.timeseries_operations_monitor WHERE target_table = %s", [table]
    )
    if health == [("invalid",)]:
        return
    read_by_both(world, session, f"SELECT count(*), sum(row_count) FROM {view}")


def read_by_both(world: World, session: Session, text: str) -> None:
    with world.script.one_event("read_by_both", session.name, text):
        own = session.run(text)
        session.become("tsrollup_reader")
        read = session.run(text)
        session.become("")
        if own != read:
            raise world.script.fault("a reader sees something else", f"{own}, {read}")


def follow_hints(world: World, choices: Choices) -> None:
    session = world.session(choices)
    if world.all_idle():
        followed(world, session)


def renew(world: World, choices: Choices) -> None:
    """Nothing that goes wrong shows while a rollup is invalid: most are dropped and made anew."""
    session = world.session(choices)
    rows = world.observer.look(
        "SELECT target, problem FROM silver.validate_rollup_config() WHERE NOT is_valid"
    )
    if not rows or not world.all_idle() or choices.chance(30):
        return
    for table in world.tables(world.observer):
        if any("row level security" in problem for _, problem in rows):
            session.run(f"ALTER TABLE {table.name} DISABLE ROW LEVEL SECURITY", ("42",))
        if table.unlogged:
            world.changed(session, f"ALTER TABLE {table.name} SET LOGGED", ("42", "55"))
    for target in sorted({row[0] for row in rows}, reverse=True):
        engine(world, session, f"SELECT silver.drop_rollup('{target}')")
    create(world, choices)
    create_child(world, choices)
    run(world, choices)


def followed(world: World, session: Session) -> None:
    """Whoever does what the hints say ends up with rollups that are valid, but for those that
    have a hint which is no call."""
    with world.script.one_event("followed", session.name):
        _follow(world, session)


def _follow(world: World, session: Session) -> None:
    session.run("RESET default_transaction_isolation")  # as the hint of TR005 has it
    for table, _ in world.rollups(session).values():
        session.run(f"SELECT silver.resume_rollup('{table}')", ("TR",))
    tried: Counter[tuple[str, str]] = Counter()
    for _ in range(12):
        engine(world, session, "SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
        calls = _calls(world)
        if not calls:
            return
        problem, call = min(calls)
        world.count("hints followed")
        tried[problem, call] += 1
        if tried[problem, call] > 2:
            raise world.script.fault("a hint does not help", f"{problem}\n{call}")
        world.changed(session, call, ("TR",))
    raise world.script.fault("hints without end", str(tried))


def _calls(world: World) -> set[tuple[str, str]]:
    """Problems and what to call for them, of rollups where that may be all there is to do."""
    rows = world.observer.look(
        "SELECT target, problem, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
    )
    hopeless = {target for target, _, hint in rows if _call_of(hint) is None}
    return {(p, _call_of(hint) or "") for target, p, hint in rows if target not in hopeless}


def _call_of(hint: str) -> str | None:
    found = CALL.search(hint)
    return found.group(0) if found and not NO_CALL.search(found.group(0)) else None


PEOPLE: dict[str, Operation] = {
    "somebody": somebody,
    "reader": reader,
    "follow_hints": follow_hints,
}
