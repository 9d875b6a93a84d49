"""The public API: rollups made, changed, dropped."""

import json
from collections.abc import Sequence
from dataclasses import replace

from model.reference import FLOATS, NUMBERS, Column, Spec, Width
from model.script import Session
from model.upkeep import CHUNKS, UPKEEP, WINDOWS, engine, on_rollup
from model.world import WITHOUT, Choices, Operation, Table, World

WIDTHS = [
    Width("1 second"),
    Width("1 minute"),
    Width("90 minutes"),
    Width("1 hour"),
    Width("6 hours"),
    Width("1 day"),
    Width("7 days"),
    Width("30 days"),
    Width("720 hours"),
    Width("90 days"),
    Width("1 month", 1),
    Width("3 months", 3),
    Width("1 year", 12),
    Width("1 day 12 hours"),
]
# Wide ones hide much.
WIDTHS = [w for w in [*WIDTHS, *WIDTHS[1:6], *WIDTHS[1:5]] if w.text not in WITHOUT]
# In the window that is read again, whoever looks back from this century.
WINDOW_FROM = "1970-01-01 00:00+00"


def create(world: World, choices: Choices) -> None:
    session = world.session(choices)
    if len(world.rollups(session)) >= 5:
        return
    # A partition or a child is a source as well; who writes its rows is the whole family.
    root = choices.pick(world.root_tables(session))
    if choices.chance(15) and "members" not in WITHOUT:
        root = choices.pick(world.tables(session))
    if not root.column("ts"):
        return
    columns = {c.name: Column(n, c.name) for n, c in root.columns}
    dimensions = choices.some([x for x in ("device", "site", "note", "owner") if x in columns])
    metrics = _metrics(root, dimensions, choices)
    arguments = [f"'{root.name}'", "'silver'"]
    _create(
        world,
        session,
        choices,
        arguments,
        metrics,
        Spec(
            world.new_name("roll_"),
            root.oid,
            root.name,
            columns["ts"],
            choices.pick(WIDTHS),
            tuple(columns[d] for d in dimensions),
            tuple((columns[c], a) for c, names in metrics.items() for a in names),
        ),
    )


def create_child(world: World, choices: Choices) -> None:
    session = world.session(choices)
    rollups = world.rollups(session)
    if not rollups or len(rollups) >= 5:
        return
    number = choices.pick(list(rollups))
    parent = world.specs[number]
    metrics: dict[str, list[str]] = {}
    for column, aggregate in choices.some(parent.metrics, 1):
        metrics.setdefault(column.name, []).append(aggregate)
    named = {c.name: c for c, _ in parent.metrics}
    _create(
        world,
        session,
        choices,
        [f"'{rollups[number][0]}'", "'silver'"],
        metrics,
        Spec(
            world.new_name("roll_"),
            parent.root,
            parent.root_name,
            parent.time,
            choices.pick(WIDTHS),
            tuple(choices.some(parent.dimensions)),
            tuple((named[c], a) for c, names in metrics.items() for a in names),
            parent.name,
            parent.since,
        ),
    )


def drop(world: World, choices: Choices) -> None:
    kept = ", keep_table => true" if choices.chance(20) else ""
    on_rollup(world, choices, f"SELECT silver.drop_rollup({{}}{kept})")


def add_metric(world: World, choices: Choices) -> None:
    session = world.session(choices)
    rollups = world.rollups(session)
    number = choices.pick(list(rollups))
    spec = world.specs[number]
    root = next((t for t in world.root_tables(session) if t.oid == spec.root), None)
    # What is remembered of a rollup is not undone by a rollback.
    if root is None or spec.parent is not None or session.in_transaction:
        return
    columns = {c.name: Column(n, c.name) for n, c in root.columns}
    column, names = choices.pick(
        list(_metrics(root, [d.name for d in spec.dimensions], choices).items())
    )
    if any(c.name == column and c != columns[column] for c in spec.columns):
        return
    metrics = json.dumps({column: names})
    text = f"SELECT silver.add_rollup_metric('{rollups[number][0]}', '{metrics}')"
    metric_added(world, session, text, spec.name, column, names)


def metric_added(
    world: World, session: Session, text: str, name: str, column: str, aggregates: Sequence[str]
) -> None:
    with world.script.one_event("metric_added", session.name, text, name, column, aggregates):
        spec = world.spec_named(name)
        if engine(world, session, text) is None or spec is None:
            return
        root = next(t for t in world.root_tables(session) if t.oid == spec.root)
        one = next(Column(n, c.name) for n, c in root.columns if c.name == column)
        more = tuple((one, a) for a in aggregates if (one, a) not in spec.metrics)
        number = next(n for n, s in world.specs.items() if s is spec)
        world.specs[number] = replace(spec, metrics=spec.metrics + more)
        world.catalogue_changed()


def drop_metric(world: World, choices: Choices) -> None:
    session = world.session(choices)
    rollups = world.rollups(session)
    number = choices.pick(list(rollups))
    spec = world.specs[number]
    if session.in_transaction or len(spec.metrics) < 2:
        return
    column, aggregate = choices.pick(spec.metrics)
    metrics = json.dumps({column.name: [aggregate]})
    text = f"SELECT silver.drop_rollup_metric('{rollups[number][0]}', '{metrics}')"
    metric_dropped(world, session, text, spec.name, column.name, aggregate)


def metric_dropped(
    world: World, session: Session, text: str, name: str, column: str, aggregate: str
) -> None:
    with world.script.one_event("metric_dropped", session.name, text, name, column, aggregate):
        spec = world.spec_named(name)
        if engine(world, session, text) is None or spec is None:
            return
        kept = tuple(m for m in spec.metrics if (m[0].name, m[1]) != (column, aggregate))
        number = next(n for n, s in world.specs.items() if s is spec)
        world.specs[number] = replace(spec, metrics=kept)
        world.catalogue_changed()


def _create(
    world: World,
    session: Session,
    choices: Choices,
    arguments: list[str],
    metrics: dict[str, list[str]],
    spec: Spec,
) -> None:
    dimensions = ", ".join(f'"{d.name}"' for d in spec.dimensions)
    arguments += [
        f"'{spec.name}'",
        f"'{spec.width.text}'",
        f"dimensions => '{{{dimensions}}}'",
        f"metrics => '{json.dumps(metrics)}'",
    ]
    if spec.parent is None:
        arguments.append("time_column => 'ts'")
        if choices.chance(10):
            spec = replace(spec, since=WINDOW_FROM)
            arguments.append("change_tracking => 'window', look_back_window => '100 years'")
    if choices.chance(20):
        arguments.append(f"settle_delay => '{choices.pick(['0', '3 hours', '400 days'])}'")
    if choices.chance(20):
        arguments.append(f"processing_window => '{choices.pick(WINDOWS)}'")
    if choices.chance(15):
        arguments.append(f"chunk_interval => '{choices.pick(CHUNKS)}'")
    text = f"SELECT silver.create_rollup_table({', '.join(arguments)})::oid::bigint"
    created(world, session, text, spec)


def created(world: World, session: Session, text: str, spec: Spec) -> None:
    """Remembers it with the table that has that name now, and the columns that have those."""
    with world.script.one_event("created", session.name, text, spec):
        done = engine(world, session, text)
        parent = world.spec_named(spec.parent)
        root = next((t for t in world.tables(session) if t.name == spec.root_name), None)
        if done and parent:
            known = {c.name: c for c in parent.columns}
            world.register(session, done[0][0], spec.at(parent.root, lambda c: known[c.name]))
        elif done and root and not spec.parent:
            columns = {c.name: Column(n, c.name) for n, c in root.columns}
            world.register(session, done[0][0], spec.at(root.oid, lambda c: columns[c.name]))


def _metrics(root: Table, dimensions: Sequence[str], choices: Choices) -> dict[str, list[str]]:
    free = [c for _, c in root.columns if c.name not in ("ts", *dimensions)]
    metrics = {}
    for column in choices.some(free, 1, 4):
        usable = ["count", "min", "max", "last", "first"]
        if column.type in NUMBERS | FLOATS:
            usable = ["sum", "avg", *usable]
        metrics[column.name] = choices.some(usable, 1, 3)
    if any(c.name == "value" and c.type in NUMBERS for c in free):
        metrics.setdefault("value", ["sum"])  # what most writes change
    return metrics


ROLLUPS: dict[str, Operation] = {
    "create": create,
    "create_child": create_child,
    "drop": drop,
    "add_metric": add_metric,
    "drop_metric": drop_metric,
    **UPKEEP,
}
