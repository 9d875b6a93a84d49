"""DML of every kind: through the root, a partition, a child, a view, a foreign key."""

from model.reference import NUMBERS, Live
from model.script import Session
from model.upkeep import run
from model.world import MOMENTS, Choices, Operation, Table, World

# No partition for it, a check, a duplicate, a foreign key, out of range, the same row twice, a
# column or table that another session changed.
REFUSED = ("23", "22003", "22008", "22001", "21000", "42703", "42P10", "428C9")
DEVICES = ["'a'", "'b'", "NULL", "'A'", "''"]
FLOATS = ["0.25", "-1.5", "1e15", "0.1", "'NaN'", "'Infinity'", "NULL"]
STEPS = ["1 hour", "1 day", "-1 day", "3 hours", "25 days"]
VALUES = ["0", "1", "-3", "7", "NULL"]


def value_for(column: Live, choices: Choices) -> str:
    if column.name == "ts" or "timestamp" in column.type or column.type == "date":
        return choices.time()
    if column.name == "owner":
        keys = ["NULL", "1", "2", "3"] if column.type in NUMBERS else ["NULL", "'1'", "'01'"]
        return choices.pick(keys)
    if column.type in ("real", "double precision"):
        return choices.pick(FLOATS)
    if column.type == "numeric":
        return choices.pick(["1.0", "1.00", "2.5", "0", "NULL"])
    if column.type in NUMBERS:
        return choices.pick(VALUES)
    return choices.pick(DEVICES)


def insert(world: World, choices: Choices) -> None:
    session, table = _target(world, choices)
    columns = _columns(table, choices)
    rows = [
        "(" + ", ".join(value_for(c, choices) for c in columns) + ")"
        for _ in range(choices.number(1, 3))
    ]
    conflict = ""
    if choices.chance(20):
        conflict = choices.pick(
            [
                " ON CONFLICT DO NOTHING",
                " ON CONFLICT (ts, device) DO UPDATE SET value = excluded.value, site = 2.5",
                " ON CONFLICT (ts, device) DO UPDATE SET level = excluded.level + 1,"
                " note = 'again' WHERE excluded.value IS NOT NULL",
            ]
        )
    names = ", ".join(c.ident for c in columns)
    session.run(
        f"INSERT INTO {table.name} ({names}) VALUES {', '.join(rows)}{conflict}",
        _refused(session, table),
    )


def insert_series(world: World, choices: Choices) -> None:
    session, table = _target(world, choices)
    columns = [c for c in _columns(table, choices) if c.name != "ts"]
    if not table.column("ts"):
        return
    names = ", ".join(["ts", *(c.ident for c in columns)])
    values = ", ".join(value_for(c, choices) for c in columns)
    low = choices.pick(MOMENTS[1:11] if choices.chance(80) else MOMENTS)
    step = choices.pick(["1 second", "17 minutes", "1 hour", "1 day"])
    session.run(
        f"INSERT INTO {table.name} ({names}) SELECT timestamptz '{low}' AT TIME ZONE 'UTC' + i *"
        f" interval '{step}'{', ' + values if values else ''}"
        f" FROM generate_series(0, {choices.number(0, 5)}) AS i"
        if world.time_type != "timestamptz"
        else f"INSERT INTO {table.name} ({names}) SELECT timestamptz '{low}' + i *"
        f" interval '{step}'{', ' + values if values else ''}"
        f" FROM generate_series(0, {choices.number(0, 5)}) AS i",
        (*_refused(session, table), "42804"),
    )


def update(world: World, choices: Choices) -> None:
    session, table = _target(world, choices)
    session.run(
        f"UPDATE {table.name} SET {_assignment(table, choices)} WHERE {_condition(table, choices)}",
        _refused(session, table),
    )


def delete(world: World, choices: Choices) -> None:
    session, table = _target(world, choices)
    session.run(
        f"DELETE FROM {table.name} WHERE {_condition(table, choices)}", _refused(session, table)
    )


def move(world: World, choices: Choices) -> None:
    """Out and in again in one statement."""
    session, table = _target(world, choices)
    others = "".join(f", {c.ident}" for _, c in table.columns if c.name != "ts")
    if not table.column("ts"):
        return
    session.run(
        f"WITH gone AS (DELETE FROM {table.name} WHERE {_condition(table, choices)} RETURNING *)"
        f" INSERT INTO {table.name} (ts{others}) SELECT ts + interval"
        f" '{choices.pick(['1 hour', '1 day', '-1 day', '31 days'])}'{others} FROM gone",
        _refused(session, table),
    )


def merge(world: World, choices: Choices) -> None:
    session, table = _target(world, choices, views=False)
    columns = _columns(table, choices)
    if not table.column("ts") or not table.column("device"):
        return
    rows = ", ".join(
        f"({choices.time()}, {choices.pick(DEVICES)}, {choices.number(0, 3)})"
        for _ in range(choices.number(1, 3))
    )
    # New rows and rows that are there, so that one statement does several things.
    there = f" UNION ALL SELECT DISTINCT ts, device, 1 FROM {table.name}"
    there = f"{there} WHERE {_condition(table, choices)}" if choices.chance(60) else ""
    names = ", ".join(c.ident for c in columns)
    values = ", ".join(
        f"s.{c.name}" if c.name in ("ts", "device") else value_for(c, choices) for c in columns
    )
    actions = [
        f"WHEN MATCHED AND {_condition(table, choices, 't.')} THEN DELETE",
        f"WHEN MATCHED AND s.n = 1 THEN UPDATE SET {_assignment(table, choices, 't.')}",
        f"WHEN MATCHED THEN UPDATE SET {_assignment(table, choices, 't.')}",
        f"WHEN NOT MATCHED AND s.n < 2 THEN INSERT ({names}) VALUES ({values})",
        "WHEN NOT MATCHED THEN DO NOTHING",
    ]
    if session.connection.info.server_version >= 170000:
        actions.append("WHEN NOT MATCHED BY SOURCE AND t.value = 7 THEN DELETE")
    chosen = sorted(choices.some(range(len(actions)), 1, 4))
    same = choices.pick(["t.device IS NOT DISTINCT FROM s.device", "t.device = s.device", "true"])
    session.run(
        f"MERGE INTO {table.name} AS t USING (SELECT v.ts::{world.time_type}, v.device, v.n FROM"
        f" (VALUES {rows}) AS v (ts, device, n){there}) AS s ON t.ts = s.ts AND {same} "
        + " ".join(actions[i] for i in chosen),
        (*_refused(session, table), "0A000", "42804", "42846"),
    )


def merge_mixed(world: World, choices: Choices) -> None:
    """All that MERGE can do, in one statement, on what is partitioned if anything is.

    Some times move, to other buckets and partitions; new rows go beside them, mostly before them:
    what a trigger sees depends on the order. Most can go wrong where the buckets are stored.
    """
    session = world.session(choices)
    if choices.chance(60):
        run(world, choices)
    if choices.chance(60):
        session.run("SET enable_hashjoin TO off; SET enable_mergejoin TO off")
    roots = [t for t in world.root_tables(session) if t.column("ts") and t.column("device")]
    table = choices.pick([t for t in roots if t.partition_key] or roots)
    low, high = choices.span()
    given = {"ts": "s.ts", "device": "s.device"} | ({"value": "4"} if table.column("value") else {})
    # Where there are partitions, or none of it would be done.
    new = ", ".join(
        f"('{choices.pick(MOMENTS[1:11])}', {choices.pick(DEVICES)}, 9)" for _ in range(4)
    )
    n = "abs(hashtext(concat(ts, device))) % 3" if choices.chance(60) else "0"
    step = choices.pick(["1 hour", "3 hours", "-2 hours", "1 day", "-1 day", "2 days"])
    actions = [
        f"WHEN MATCHED AND s.n = 0 THEN UPDATE SET ts = t.ts + interval '{step}'",
        "WHEN MATCHED AND s.n = 1 THEN DELETE",
        f"WHEN MATCHED AND s.n = 2 THEN UPDATE SET {_assignment(table, choices, 't.')}",
        f"WHEN NOT MATCHED THEN INSERT ({', '.join(given)}) VALUES ({', '.join(given.values())})",
    ]
    chosen = actions if choices.chance(50) else choices.some(actions, 2)
    session.run(
        f"MERGE INTO {table.name} AS t USING (SELECT v.ts::{world.time_type}, v.device, v.n FROM"
        f" (VALUES {new}) AS v (ts, device, n) UNION ALL SELECT DISTINCT ts, device,"
        f" {n} FROM {table.name} WHERE ts >= '{low}' AND ts < '{high}') AS s"
        " ON t.ts = s.ts AND t.device IS NOT DISTINCT FROM s.device " + " ".join(chosen),
        _refused(session, table),
    )


def copy(world: World, choices: Choices) -> None:
    session, table = _target(world, choices, views=False)
    columns = _columns(table, choices)
    lines = [
        "\t".join(
            "\\N" if v == "NULL" else v.strip("'") for v in (value_for(c, choices) for c in columns)
        )
        for _ in range(choices.number(1, 3))
    ]
    names = ", ".join(c.ident for c in columns)
    session.copy(
        f"COPY {table.name} ({names}) FROM stdin",
        lines,
        (*_refused(session, table), "22P02", "0A000"),
    )


def truncate(world: World, choices: Choices) -> None:
    session = world.session(choices)
    table = choices.pick([*reversed(world.tables(session))])
    refused = _refused(session, table, ("0A000", "55006"))
    world.changed(session, f"TRUNCATE {table.name}", refused)


def cascade(world: World, choices: Choices) -> None:
    session = world.session(choices)
    owner = choices.number(1, 3)
    session.run(
        choices.pick(
            [
                f"DELETE FROM raw.owners WHERE id = {owner}",
                f"UPDATE raw.owners SET id = id + 10 WHERE id = {owner}",
                f"INSERT INTO raw.owners VALUES ({owner}) ON CONFLICT DO NOTHING",
            ]
        ),
        REFUSED,
    )


def remark(world: World, choices: Choices) -> None:
    """Rows that go when the rows go that they refer to."""
    session = world.session(choices)
    table = choices.pick(world.root_tables(session))
    if table.column("ts") and table.column("device"):
        session.run(
            f"INSERT INTO raw.remarks SELECT ts, device FROM {table.name}"
            " WHERE ts IS NOT NULL AND device IS NOT NULL",
            _refused(session, table),
        )


def replicated(world: World, choices: Choices) -> None:
    """As a session that applies what a replica gets: ordinary triggers do not fire in it."""
    session, table = _target(world, choices)
    if session.run("SET session_replication_role = replica", ("42501",)) is None:
        return
    session.run(some_change(table, choices), _refused(session, table))
    session.run("SET session_replication_role = origin")


def some_change(table: Table, choices: Choices) -> str:
    """One that is sure to change a sum, should the table have rows there."""
    where = f"WHERE {_condition(table, choices)}"
    changes = [f"DELETE FROM {table.name} {where}"]
    if table.column("ts"):
        changes += [
            f"UPDATE {table.name} SET ts = ts + interval '{choices.pick(STEPS)}' {where}",
            f"INSERT INTO {table.name} (ts) VALUES ('{choices.pick(MOMENTS[1:11])}')",
        ]
    return choices.pick(changes)


def _target(world: World, choices: Choices, views: bool = True) -> tuple[Session, Table]:
    session = world.session(choices)
    tables = world.tables(session)
    table = tables[0] if choices.chance(50) else choices.pick(tables)
    if views and table.parent is None and choices.chance(10):
        return session, _view_of(session, table)
    return session, table


def _refused(session: Session, table: Table, refused: tuple[str, ...] = REFUSED) -> tuple[str, ...]:
    """In an old snapshot a table has a name that it may have no more."""
    ((gone,),) = session.look("SELECT to_regclass(%s) IS NULL", [table.name])
    return (*refused, "42P01") if gone else refused


def _view_of(session: Session, table: Table) -> Table:
    rows = session.look(
        "SELECT c.oid::bigint, c.oid::regclass::text FROM pg_class AS c"
        " WHERE c.relname = %s || '_view'",
        [table.name.split(".")[-1]],
    )
    if not rows:
        return table
    shown = ("ts", "device", "site", "value", "amount", "level")
    columns = tuple((n, c) for n, c in table.columns if c.name in shown)
    return Table(rows[0][0], rows[0][1], "v", None, None, None, False, False, columns)


def _columns(table: Table, choices: Choices) -> list[Live]:
    every = [c for _, c in table.columns]
    first = [c for c in every if c.name in ("ts", "device", "value")]
    rest = [c for c in every if c not in first]
    return [*first, *choices.some(rest)] or every


def _assignment(table: Table, choices: Choices, alias: str = "") -> str:
    column = choices.pick([c for _, c in table.columns])
    if table.column("ts") and choices.chance(40):
        return f"ts = {alias}ts + interval '{choices.pick(STEPS)}'"
    if column.type in NUMBERS and column.name not in ("owner", "site") and choices.chance(30):
        return f"{column.ident} = {alias}{column.ident} + 1"
    return f"{column.ident} = {value_for(column, choices)}"


def _condition(table: Table, choices: Choices, alias: str = "") -> str:
    low, high = choices.span()
    conditions = ["true"]
    if table.column("ts"):
        conditions += [f"{alias}ts >= '{low}' AND {alias}ts < '{high}'", f"{alias}ts IS NULL"]
    if table.column("device"):
        conditions.append(f"{alias}device = {choices.pick(DEVICES[:2])}")
    if table.column("value"):
        conditions.append(f"{alias}value > {choices.number(-3, 3)}")
    return choices.pick(conditions)


WRITES: dict[str, Operation] = {
    "insert": insert,
    "insert_series": insert_series,
    "update": update,
    "delete": delete,
    "move": move,
    "merge": merge,
    "merge_mixed": merge_mixed,
    "copy": copy,
    "truncate": truncate,
    "cascade": cascade,
    "remark": remark,
    "replicated": replicated,
}
