"""DDL on the sources. What fires no trigger the next run notices; health is invalid until then."""

import re

from model.accidents import killed
from model.reference import NUMBERS, Live
from model.script import Session
from model.world import WITHOUT, Choices, Operation, Table, World
from model.writes import some_change

# PostgreSQL has its own reasons to refuse DDL; none of them are ours.
REFUSED = ("0A000", "2B", "42", "55", "23", "22")
CASTS = {
    "integer": ["bigint", "numeric", "double precision"],
    "numeric": ["numeric(20, 4)", "numeric", "double precision"],
    "double precision": ["real", "numeric"],
    "character varying": ["varchar(20)", "text"],
    "text": ["varchar(30)"],
    "bigint": ["numeric", "integer"],
}
# Of the same type, with other values.
CHANGED = {
    "integer": "{0} * 2 + 1",
    "numeric": "{0} + 0.5",
    "double precision": "{0} / 2 + 1",
    "character varying": "upper({0}) || 'z'",
    "text": "lower({0}) || 'z'",
    "bigint": "{0} + 3",
}


def add_column(world: World, choices: Choices) -> None:
    session, root = _root(world, choices)
    name = world.new_name("added_")
    kind = choices.pick(["integer", "integer DEFAULT 7", "text DEFAULT 'x'", "numeric"])
    _alter(world, session, root, f"ADD COLUMN {name} {kind}")


def drop_column(world: World, choices: Choices) -> None:
    session, root = _root(world, choices)
    column = _column(world, root, choices)
    _alter(world, session, root, f"DROP COLUMN {column.ident}")


def replace_column(world: World, choices: Choices) -> None:
    session, root = _root(world, choices)
    column = _column(world, root, choices)
    default = " DEFAULT 7" if column.type in ("integer", "bigint", "numeric") else " DEFAULT 'x'"
    if column.type == "double precision":
        default = " DEFAULT 0.25"
    _alter(
        world,
        session,
        root,
        f"DROP COLUMN {column.ident}, ADD COLUMN {column.ident} {column.type}"
        f"{default if choices.chance(60) else ''}",
    )


def rename_column(world: World, choices: Choices) -> None:
    session, root = _root(world, choices)
    column = _column(world, root, choices)
    if choices.chance(15) and "rename time" not in WITHOUT:
        column = choices.pick([c for _, c in root.columns])
    new = column.name + "_b" if not column.name.endswith("_b") else column.name[:-2]
    _alter(world, session, root, f"RENAME COLUMN {column.ident} TO {new}")


def swap_columns(world: World, choices: Choices) -> None:
    session, root = _root(world, choices)
    pairs = [("value", "owner"), ("amount", "site"), ("device", "note"), ("level", "amount")]
    a, b = choices.pick(pairs)
    first, second = root.column(a), root.column(b)
    if not first or not second or (first.type in NUMBERS) != (second.type in NUMBERS):
        return
    for old, new in ((a, "third"), (b, a), ("third", b)):
        _alter(world, session, root, f"RENAME COLUMN {old} TO {new}")


def retype_column(world: World, choices: Choices) -> None:
    session, root = _root(world, choices)
    column = _column(world, root, choices)
    if column.type in CASTS:
        changing = f"{column.type} USING {CHANGED.get(column.type, column.ident)}"
        to = changing.format(column.ident)
        if choices.chance(50):
            to = choices.pick(CASTS[column.type] + (["text"] if column.name == "owner" else []))
        _alter(world, session, root, f"ALTER COLUMN {column.ident} TYPE {to}")


def attach(world: World, choices: Choices) -> None:
    """A full table becomes a partition, or a child."""
    session, root = _root(world, choices)
    loose = world.loose_tables(session)
    if loose and choices.chance(40):
        part = choices.pick(loose)
    else:
        part = f"raw.{world.new_name('part_')}"
        if session.run(f"CREATE TABLE {part} (LIKE {root.name})", REFUSED) is None:
            return
        day = choices.pick(["2026-03-05 03:00+00", "2026-03-06 04:00+00", "2026-03-08 05:00+00"])
        if root.column("ts") and root.column("value"):
            session.run(
                f"INSERT INTO {part} (ts, value) VALUES ('{day}', 5), ('{day}', 6)", REFUSED
            )
    if root.partition_key is None:
        _alter(world, session, root, "INHERIT", table=part, suffix=f" {root.name}")
        return
    low, high = choices.pick(
        [
            ("2026-03-05", "2026-03-06"),
            ("2026-03-06", "2026-03-08"),
            ("2026-03-08", "MAXVALUE"),
            ("2026-03-01", "2026-03-02"),
            ("MINVALUE", "2026-03-01"),
        ]
    )
    bound = f"FOR VALUES FROM ({_bound(world, low)}) TO ({_bound(world, high)})"
    if root.partition_key.startswith("LIST"):
        bound = f"FOR VALUES IN ({choices.pick(['NULL', chr(39) + 'b' + chr(39)])})"
    _alter(world, session, root, f"ATTACH PARTITION {part} {bound}")


def detach(world: World, choices: Choices) -> None:
    session = world.session(choices)
    tables = world.tables(session)
    below = [t for t in tables if t.parent is not None]
    if not below:
        return
    table = choices.pick(below)
    parent = next(t for t in tables if t.oid == table.parent)
    fate = choices.pick(["detach", "detach", "drop", "truncate and drop"])
    if fate == "detach" and table.is_partition:
        _alter(world, session, parent, f"DETACH PARTITION {table.name}")
    elif fate == "detach":
        _alter(world, session, parent, "NO INHERIT", table=table.name, suffix=f" {parent.name}")
    else:
        world.changed(session, f"DROP TABLE {table.name}", REFUSED)


def split(world: World, choices: Choices) -> None:
    """One partition becomes two, in a transaction of its own."""
    session, root = _root(world, choices)
    parts = [
        t
        for t in world.tables(session)
        if t.parent == root.oid and t.kind == "r" and t.bound and t.bound.count("'2026-") == 2
    ]
    if session.in_transaction or not parts:
        return
    a, b = world.new_name("half_"), world.new_name("half_")
    part = choices.pick(parts)
    low, high = re.findall(r"'.*?'", part.bound or "")
    ((middle,),) = session.look(
        f"SELECT quote_literal({low}::{world.time_type} + ({high}::{world.time_type} - {low}) / 2)"
    )
    old = part.name
    session.begin("READ COMMITTED")
    for statement in (
        f"ALTER TABLE {root.name} DETACH PARTITION {old}",
        f"CREATE TABLE raw.{a} PARTITION OF {root.name} FOR VALUES FROM ({low}) TO ({middle})",
        f"CREATE TABLE raw.{b} PARTITION OF {root.name} FOR VALUES FROM ({middle}) TO ({high})",
        f"INSERT INTO {root.name} SELECT * FROM {old}",
        f"DROP TABLE {old}",
    ):
        if not world.changed(session, statement, REFUSED):
            return
    session.end("COMMIT")


def persistence(world: World, choices: Choices) -> None:
    session = world.session(choices)
    plain = [t for t in world.tables(session) if t.kind == "r"]
    if plain:
        table = choices.pick(plain)
        to = "LOGGED" if table.unlogged else "UNLOGGED"
        done = world.changed(session, f"ALTER TABLE {table.name} SET {to}", REFUSED)
        alone = world.alone and world.all_idle()
        if done and not table.unlogged and alone and choices.chance(30):
            killed(world, session, "SELECT 1", 0, "crash")


def row_security(world: World, choices: Choices) -> None:
    session = world.session(choices)
    table = choices.pick(world.tables(session))
    how = choices.pick(["ENABLE", "DISABLE", "DISABLE", "FORCE", "NO FORCE"])
    _alter(world, session, table, f"{how} ROW LEVEL SECURITY")


def triggers_off(world: World, choices: Choices) -> None:
    """Off for some writes, as a loader does; then a run, whose owner may put them right."""
    session = world.session(choices)
    table = choices.pick(world.tables(session))
    if session.in_transaction:
        return
    off, on = (f"ALTER TABLE {table.name} {x} TRIGGER USER" for x in ("DISABLE", "ENABLE"))
    if not world.changed(session, off, REFUSED):
        return
    session.run(some_change(table, choices), REFUSED)
    if choices.chance(30):
        world.changed(session, on, REFUSED)


def rewrite(world: World, choices: Choices) -> None:
    session = world.session(choices)
    table = choices.pick(world.tables(session))
    command = choices.pick(["VACUUM FULL {}", "VACUUM {}", "ANALYZE {}", "REINDEX TABLE {}"])
    world.changed(session, command.format(table.name), (*REFUSED, "25001"))


def rename_table(world: World, choices: Choices) -> None:
    session = world.session(choices)
    table = choices.pick(world.tables(session))
    schema, name = table.name.split(".")
    if choices.chance(70):
        name = name[:-4] if name.endswith("_new") else f"{name}_new"
        _alter(world, session, table, f"RENAME TO {name}")
        return
    session.run("CREATE SCHEMA IF NOT EXISTS app")
    session.run("GRANT USAGE ON SCHEMA app TO PUBLIC")
    other = "raw" if schema == "app" else "app"
    _alter(world, session, table, f"SET SCHEMA {other}")


def _root(world: World, choices: Choices) -> tuple[Session, Table]:
    session = world.session(choices)
    return session, choices.pick(world.root_tables(session))


def _column(world: World, root: Table, choices: Choices) -> Live:
    """Not the time column; mostly one that a rollup reads."""
    numbers = {
        c.number for spec in world.specs.values() if spec.root == root.oid for c in spec.columns
    }
    free = [(n, c) for n, c in root.columns if c.name != "ts"]
    used = [c for n, c in free if n in numbers]
    return choices.pick(used if used and choices.chance(70) else [c for _, c in free])


def _alter(
    world: World,
    session: Session,
    target: Table,
    action: str,
    *,
    table: str = "",
    suffix: str = "",
) -> None:
    text = f"ALTER TABLE {table or target.name} {action}{suffix}"
    world.changed(session, text, REFUSED)


def _bound(world: World, day: str) -> str:
    if day in ("MINVALUE", "MAXVALUE"):
        return day
    return f"'{day}'" if world.time_type == "date" else f"'{day} 00:00+00'"


STRUCTURE: dict[str, Operation] = {
    "add_column": add_column,
    "drop_column": drop_column,
    "replace_column": replace_column,
    "rename_column": rename_column,
    "swap_columns": swap_columns,
    "retype_column": retype_column,
    "attach": attach,
    "detach": detach,
    "split": split,
    "persistence": persistence,
    "row_security": row_security,
    "triggers_off": triggers_off,
    "rewrite": rewrite,
    "rename_table": rename_table,
}
