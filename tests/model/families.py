"""The tables that a story begins with: their kind of time, their shape, their keys."""

from model.script import Session
from model.world import Choices, World

TIME_TYPES = ["timestamptz", "timestamptz", "timestamp", "date"]
SHAPES = ["plain", "range", "range", "range_list", "inherits", "list", "list"]
COLUMNS = (
    "ts {time}, device text, site numeric, value integer, amount numeric(12, 2),"
    " level double precision, note varchar(8), owner integer"
)
DAYS = [("2026-03-01", "2026-03-02"), ("2026-03-02", "2026-03-03"), ("2026-03-03", "2026-03-05")]


def make_family(world: World, session: Session, choices: Choices) -> None:
    world.time_type = choices.pick(TIME_TYPES)
    session.run("CREATE TABLE raw.owners (id integer PRIMARY KEY)")
    session.run("INSERT INTO raw.owners SELECT generate_series(1, 4)")
    session.run(f"CREATE TABLE raw.remarks (ts {world.time_type}, device text)")
    for name in ["story", "tale"][: 2 if choices.chance(10) else 1]:
        _make_table(world, session, choices, name)
        _add_keys(session, choices, name)
        world.add_root(session, f"raw.{name}")


def _make_table(world: World, session: Session, choices: Choices, name: str) -> None:
    shape = choices.pick(SHAPES)
    columns = COLUMNS.format(time=world.time_type)
    partitioned = {"range": "RANGE (ts)", "range_list": "RANGE (ts)", "list": "LIST (device)"}
    by = f" PARTITION BY {partitioned[shape]}" if shape in partitioned else ""
    session.run(f"CREATE TABLE raw.{name} ({columns}){by}")
    for n, (low, high) in enumerate(DAYS if shape.startswith("range") else [], 1):
        further = " PARTITION BY LIST (device)" if shape == "range_list" and n == 2 else ""
        bound = f"FOR VALUES FROM ('{_time(world, low)}') TO ('{_time(world, high)}')"
        session.run(f"CREATE TABLE raw.{name}_{n} PARTITION OF raw.{name} {bound}{further}")
        if further:
            session.run(f"CREATE TABLE raw.{name}_2a PARTITION OF raw.{name}_2 FOR VALUES IN ('a')")
            session.run(f"CREATE TABLE raw.{name}_2b PARTITION OF raw.{name}_2 DEFAULT")
    if shape == "list":
        session.run(f"CREATE TABLE raw.{name}_1 PARTITION OF raw.{name} FOR VALUES IN ('a', NULL)")
    if shape == "list" or (shape.startswith("range") and choices.chance(60)):
        session.run(f"CREATE TABLE raw.{name}_rest PARTITION OF raw.{name} DEFAULT")
    if shape == "inherits":
        for n in (1, 2):
            session.run(f"CREATE TABLE raw.{name}_{n} () INHERITS (raw.{name})")


def _add_keys(session: Session, choices: Choices, name: str) -> None:
    if choices.chance(40):
        session.run(f"CREATE INDEX ON raw.{name} (ts)")
    if choices.chance(60):
        session.run(f"CREATE INDEX ON raw.{name} ({choices.pick(['device', 'owner'])}, ts)")
        _limit_keys(session, choices)
    if choices.chance(30):
        session.run(f"CREATE UNIQUE INDEX ON raw.{name} (ts, device)")
        if choices.chance(50) and name == "story":
            session.run(
                f"ALTER TABLE raw.remarks ADD FOREIGN KEY (ts, device) REFERENCES raw.{name}"
                " (ts, device) ON DELETE CASCADE ON UPDATE CASCADE"
            )
    if choices.chance(30):
        session.run(
            f"ALTER TABLE raw.{name} ADD FOREIGN KEY (owner) REFERENCES raw.owners"
            " ON DELETE CASCADE ON UPDATE CASCADE"
        )
    if choices.chance(20):
        shown = "ts, device, site, value, amount, level"
        session.run(f"CREATE VIEW raw.{name}_view AS SELECT {shown} FROM raw.{name}")


def _limit_keys(session: Session, choices: Choices) -> None:
    """Few groups are many, so that stories meet what becomes of those that are too many."""
    for limit, numbers in (
        ("most_keys", [1000, 2, 1]),
        ("most_keyed_buckets", [10000, 3]),
        ("rows_of_a_group", [0]),
    ):
        session.run(
            f"CREATE OR REPLACE FUNCTION rollup_engine.{limit}() RETURNS integer LANGUAGE sql"
            f" IMMUTABLE PARALLEL SAFE RETURN {choices.pick(numbers)}"
        )


def _time(world: World, day: str) -> str:
    return day if world.time_type == "date" else f"{day} 00:00+00"
