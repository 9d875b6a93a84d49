"""The public API: what keeps rollups up, and what looks at them."""

from typing import Any

from model.script import Row, Session
from model.world import WITHOUT, Choices, Operation, World

# Errors that the documentation speaks of, and a call inside a transaction block.
OURS = ("TR", "25001", "2D000", "42501")
CHUNKS = ["7 days", "1 month", "1 year"]
WINDOWS = [w for w in ("1 day", "2 days", "400 days") if f"window {w}" not in WITHOUT]
AS_OF = ["", "'infinity'", "'2026-03-02 12:00+00'", "'2026-06-01 00:00+00'"]


def pause(world: World, choices: Choices) -> None:
    how = choices.pick(["pause_rollup", "resume_rollup", "resume_rollup", "reset_rollup_retry"])
    on_rollup(world, choices, f"SELECT silver.{how}({{}})")


def alter(world: World, choices: Choices) -> None:
    """The options that an owner may change later, and the name."""
    change = choices.pick(
        [
            f"settle_delay => '{choices.pick(['0', '3 hours'])}'",
            f"processing_window => '{choices.pick(WINDOWS)}'",
            f"target_batch_duration => '{choices.pick(['1 ms', '5 s'])}'",
            f"chunk_interval => '{choices.pick(CHUNKS)}'",
            f"new_name => '{world.new_name('roll_')}'",
        ]
    )
    on_rollup(world, choices, f"SELECT silver.alter_rollup({{}}, {change})")


def rebuild(world: World, choices: Choices) -> None:
    on_rollup(world, choices, "SELECT silver.rebuild_rollup({})")


def look(world: World, choices: Choices) -> None:
    """What only reads, of anything."""
    session = world.session(choices)
    names = [t.name for t in world.tables(session)]
    names += [name for both in world.rollups(session).values() for name in both]
    calls = ["get_detailed_stats('%')", "validate_rollup_config()", "timeseries_operations_monitor"]
    calls.append(f"get_partition_stats('{choices.pick(names)}')")
    if world.server.has("hypopg"):
        calls.append(f"suggest_indexes('{choices.pick(names)}')")
    engine(world, session, f"SELECT * FROM silver.{choices.pick(calls)}")


def mark_stale(world: World, choices: Choices) -> None:
    session = world.session(choices)
    names = [t.name for t in world.root_tables(session)]
    names += [r[0] for r in world.rollups(session).values()]
    engine(
        world,
        session,
        f"SELECT silver.mark_stale('{choices.pick(names)}', {_bounds(choices)})",
    )


def refresh(world: World, choices: Choices) -> None:
    on_rollup(world, choices, f"SELECT * FROM silver.refresh_rollup({{}}, {_bounds(choices)})")


def perform(world: World, choices: Choices) -> None:
    session = world.session(choices)
    as_of = choices.pick(AS_OF)
    given = [f"as_of => {as_of}"] if as_of else []
    if choices.chance(25):
        given.append(f"max_batches => {choices.number(1, 3)}")
    rollups = world.rollups(session)
    if rollups and choices.chance(30):
        given.append(f"target => '{choices.pick(list(rollups.values()))[0]}'")
    engine(world, session, f"SELECT * FROM silver.perform_rollup({', '.join(given)})")


def run(world: World, choices: Choices) -> None:
    session = world.session(choices)
    as_of = choices.pick(AS_OF)
    argument = f"as_of => {as_of}" if as_of else ""
    engine(world, session, f"CALL silver.run_rollups({argument})")


def retry(world: World, choices: Choices) -> None:
    engine(world, world.session(choices), "SELECT * FROM silver.handle_rollup_retries()")


def maintain(world: World, choices: Choices) -> None:
    session = world.session(choices)
    engine(world, session, "SELECT * FROM silver.maintain_timeseries_tables()")


def retain(world: World, choices: Choices) -> None:
    """Half a year: what was written for March 2026 is older than that, or will be."""
    session = world.session(choices)
    names = [t.name for t in world.root_tables(session)]
    names += [r[0] for r in world.rollups(session).values()]
    keep = choices.pick(["NULL", "'1 day'", "'6 months'", "'30 years'", "NULL"])
    more = f"{keep}, archive => true" if choices.chance(20) else keep
    engine(world, session, f"SELECT silver.set_retention('{choices.pick(names)}', {more})")


def partition(world: World, choices: Choices) -> None:
    session = world.session(choices)
    root = choices.pick(world.root_tables(session))
    width = choices.pick(["1 day", "7 days", "1 month"])
    engine(world, session, f"SELECT silver.partition_source('{root.name}', '{width}')")


def stray(world: World, choices: Choices) -> None:
    """Rows for which there is no partition yet, the width changed, and maintenance."""
    session = world.session(choices)
    root = choices.pick([t for t in world.root_tables(session) if t.column("ts")])
    width, other = (
        choices.pick(["1 day", "7 days"]),
        choices.pick(["3 days", "1 month", "12 hours"]),
    )
    days = [choices.number(6, 28) for _ in range(choices.number(1, 4))]
    rows = ", ".join(f"('2026-03-{day:02} 10:00+00')" for day in days)
    session.run(f"INSERT INTO {root.name} (ts) VALUES {rows}", ("23", "42P01", "42703"))
    engine(world, session, f"SELECT silver.partition_source('{root.name}', '{width}')")
    if choices.chance(50):
        engine(world, session, f"SELECT silver.partition_source('{root.name}', '{other}')")
    maintain(world, choices)


def optimize(world: World, choices: Choices) -> None:
    on_rollup(
        world,
        choices,
        f"SELECT silver.optimize_chunk_interval({{}}, {choices.pick([2**20, 2**28])})",
    )


def raw_rows(world: World, session: Session) -> dict[Any, int]:
    """Every row of the sources and of what refers to them, as often as it is there."""
    rows: dict[Any, int] = {}
    # An older snapshot knows tables by names that they have no more.
    own = session.in_transaction and session.comparable
    session = session if own else world.observer
    for table in world.root_tables(session):
        time = table.column("ts")
        when = "ts::timestamp AT TIME ZONE 'UTC' < now()" if time else "false"
        for row in session.look(
            f"SELECT t::text, count(*), bool_and({when}) FROM {table.name} AS t GROUP BY 1"
        ):
            rows[table.oid, row[0], row[2]] = row[1]
    for row in session.look("SELECT n::text, count(*) FROM raw.remarks AS n GROUP BY 1"):
        rows[0, row[0], False] = row[1]
    return rows


def engine(world: World, session: Session, text: str) -> list[Row] | None:
    """Calls what must not touch a row of the user's, except by retention."""
    before = raw_rows(world, session)
    with world.script.one_event("engine", session.name, text):
        # A drop waits for others up to a minute, which is longer than a statement may take here.
        waits = "drop_rollup(" in text and not world.all_idle()
        rows = session.run(text, (*OURS, "57014") if waits else OURS)
    if rows is None:
        return None
    after = raw_rows(world, session)
    if before != after:
        gone = [k for k in before if before[k] > after.get(k, 0)]
        new = [k for k in after if after[k] > before.get(k, 0)]
        unsealed = session.look(
            "SELECT count(*) FROM silver.rollup_config"
            " WHERE parent_id IS NULL AND coalesce(sealed_before, '-infinity') = '-infinity'"
            " AND source_table = ANY (%s::oid[])",
            [[oid for oid, _, _ in gone]],
        )[0][0]
        if new or "maintain" not in text or unsealed or not all(old for _, _, old in gone):
            raise world.script.fault("rows of the user's", f"gone {gone[:3]}, new {new[:3]}")
        world.count("dropped by retention")
    return rows


def on_rollup(world: World, choices: Choices, text: str) -> None:
    session = world.session(choices)
    rollups = world.rollups(session)
    if rollups:
        names = choices.pick(list(rollups.values()))
        engine(world, session, text.format(f"'{choices.pick(names)}'"))


def _bounds(choices: Choices) -> str:
    kind = choices.number(0, 9)
    low, high = choices.span()
    if kind == 9:
        return "'-infinity', 'infinity'"
    if kind == 8:
        return f"'{low}', 'infinity'"
    if kind == 7:
        return f"'-infinity', '{high}'"
    return f"'{low}', '{high}'"


UPKEEP: dict[str, Operation] = {
    "pause": pause,
    "alter": alter,
    "rebuild": rebuild,
    "look": look,
    "mark_stale": mark_stale,
    "refresh": refresh,
    "perform": perform,
    "run": run,
    "retry": retry,
    "maintain": maintain,
    "retain": retain,
    "partition": partition,
    "stray": stray,
    "optimize": optimize,
}
