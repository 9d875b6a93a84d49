"""The scene that permutations are played on, who plays there, and what must hold all the time.

Triggers on the tables that the engine writes wait for a lock (`GATES`), so that draining, claiming,
recomputing and clearing are steps of their own; a function that the planner calls makes planning
one.
"""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from model.reference import EXACT_SINCE, Binding, Column, Live, Spec, Width, difference_query

Row = tuple[Any, ...]

GATES = """
    CREATE FUNCTION public.stop_here() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        v_stop integer;
    BEGIN
        v_stop := coalesce(nullif(current_setting('test.stop', true), ''), '0')::integer + 1;
        IF current_setting('test.session', true) <> '' THEN
            PERFORM set_config('test.stop', v_stop::text, false);
            PERFORM pg_advisory_xact_lock_shared(current_setting('test.session')::integer, v_stop);
        END IF;
    END
    $$;
    CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM public.stop_here();
        RETURN NULL;
    END
    $$;
    -- The planner calls it to estimate how many rows there will be: once is enough.
    CREATE FUNCTION public.plan_gate() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
    BEGIN
        IF set_config('test.planned', coalesce(current_setting('test.planned', true), '') || 'x',
            false) = 'x' THEN
            PERFORM public.stop_here();
        END IF;
        RETURN 0;
    END
    $$;
    CREATE TRIGGER gate AFTER DELETE ON rollup_engine.change_log EXECUTE FUNCTION public.gate();
    CREATE TRIGGER gate AFTER DELETE ON rollup_engine.stale_range EXECUTE FUNCTION public.gate();
"""
GATES_OF_A_ROLLUP = """
    CREATE TRIGGER gate_before BEFORE INSERT ON {table} EXECUTE FUNCTION public.gate();
    CREATE TRIGGER gate_after AFTER INSERT ON {table} EXECUTE FUNCTION public.gate();
"""
# Two days of raw rows, of which the first is old enough to go; an hour, and the day made of it.
STAGE = """
    CREATE TABLE raw.scene (ts timestamptz NOT NULL, device text, v integer)
        PARTITION BY RANGE (ts);
    CREATE TABLE raw.scene_1 PARTITION OF raw.scene
        FOR VALUES FROM ('2020-03-01 00:00+00') TO ('2020-03-02 00:00+00');
    CREATE TABLE raw.scene_2 PARTITION OF raw.scene
        FOR VALUES FROM ('2020-03-02 00:00+00') TO ('2020-03-03 00:00+00');
    CREATE TABLE raw.scene_3 PARTITION OF raw.scene
        FOR VALUES FROM ('2023-03-01 00:00+00') TO ('2023-04-01 00:00+00');
    CREATE INDEX ON raw.scene (device, ts);
    INSERT INTO raw.scene
        SELECT t, 'd' || n % 2, n FROM generate_series('2020-03-01 20:00+00'::timestamptz,
            '2020-03-02 04:00+00', '20 minutes') WITH ORDINALITY AS s (t, n);
    SELECT silver.create_rollup_table('raw.scene', 'silver', 'scene_1h', '1 hour',
        dimensions => '{device}', metrics => '{"v": ["sum", "count", "max", "last"]}');
    SELECT silver.create_rollup_table('silver.scene_1h', 'silver', 'scene_1d', '1 day',
        dimensions => '{}', metrics => '{"v": ["sum", "max"]}');
    SELECT * FROM silver.perform_rollup(as_of => 'infinity');
    SELECT silver.set_retention('raw.scene', now() - timestamptz '2020-03-02 01:00+00');
    UPDATE raw.scene SET v = v + 100 WHERE ts >= '2020-03-02 02:00+00';
"""
DAYS = (Width("1 day"), (), (("v", "sum"), ("v", "max")))
ROLLUPS = {
    "scene_1h": (Width("1 hour"), ("device",), (("v", "sum"), ("v", "count"), ("v", "max"))),
    "scene_1d": DAYS,
    "scene_day": DAYS,
    "scene_6h": (Width("6 hours"), ("device",), (("v", "sum"),)),
}
SAME = """
    SELECT (SELECT coalesce(sum(v_sum), 0) FROM gold.scene_1h
            WHERE bucket >= '2020-03-02 00:00+00' AND row_count > public.plan_gate()),
        (SELECT coalesce(sum(v), 0) FROM raw.scene WHERE ts >= '2020-03-02 00:00+00')"""


@dataclass(frozen=True)
class Actor:
    """What one session does; `allowed`: beginnings of SQLSTATEs that it may meet."""

    name: str
    steps: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    compares: bool = False  # its steps return pairs that are equal


def in_transaction(name: str, *steps: str, isolation: str = "READ COMMITTED") -> Actor:
    return Actor(name, (f"BEGIN ISOLATION LEVEL {isolation}", *steps, "COMMIT"))


CHANGE = "UPDATE raw.scene SET v = v + 1000 WHERE ts = '2020-03-02 02:00+00'"
COUNT = "SELECT count(*) FROM raw.scene"
ACTORS = [
    in_transaction("write", CHANGE),
    in_transaction(
        "write in an old snapshot",
        COUNT,
        "INSERT INTO raw.scene VALUES ('2020-03-01 21:10+00', 'd1', 7),"
        " ('2020-03-02 02:10+00', NULL, 8)",
        isolation="REPEATABLE READ",
    ),
    in_transaction("delete", "DELETE FROM raw.scene WHERE ts < '2020-03-01 21:30+00'"),
    in_transaction(
        "write where no partition is",
        "INSERT INTO raw.scene VALUES"
        " ('2023-03-05 12:00+00', 'd0', 50), ('2023-03-05 13:00+00', 'd1', 60)",
    ),
    Actor("drain", ("SELECT * FROM silver.perform_rollup(as_of => '2000-01-01')",)),
    Actor("perform", ("SELECT * FROM silver.perform_rollup(as_of => 'infinity')",)),
    Actor("run", ("CALL silver.run_rollups(as_of => 'infinity')",)),
    Actor(
        "refresh", ("SELECT * FROM silver.refresh_rollup('scene_1d', '2020-03-02', '2020-03-03')",)
    ),
    Actor("mark", ("SELECT silver.mark_stale('raw.scene', '-infinity', 'infinity')",)),
    Actor("plan and read", (SAME,), compares=True),
    in_transaction("read twice", COUNT, COUNT, isolation="REPEATABLE READ"),
    Actor("seal and drop", ("SELECT * FROM silver.maintain_timeseries_tables()",) * 2),
    in_transaction("drop", "SELECT silver.drop_rollup('scene_1d')"),
    in_transaction("alter", "SELECT silver.add_rollup_metric('scene_1h', '{\"v\": [\"min\"]}')"),
    in_transaction("options", "SELECT silver.alter_rollup('scene_1h', settle_delay => '1 hour')"),
    in_transaction("rename", "SELECT silver.alter_rollup('scene_1d', new_name => 'scene_day')"),
    in_transaction("rebuild", "SELECT silver.rebuild_rollup('scene_1h')"),
    in_transaction(
        "drop a metric", "SELECT silver.drop_rollup_metric('scene_1h', '{\"v\": [\"last\"]}')"
    ),
    in_transaction("keep", "SELECT silver.set_retention('raw.scene', NULL)"),
    in_transaction(
        "create",
        "SELECT silver.create_rollup_table('raw.scene', 'silver', 'scene_6h',"
        " '6 hours', dimensions => '{device}', metrics => '{\"v\": [\"sum\"]}')",
    ),
]
# A transaction may lose to another; work that waits for a lock may be told to come again.
ALLOWED = ("40001", "55P03", "TR")


def prepare(connection: psycopg.Connection[Any]) -> None:
    connection.execute(STAGE.encode())
    connection.execute(GATES.encode())
    for table in ("silver.scene_1h", "silver.scene_1d"):
        connection.execute(GATES_OF_A_ROLLUP.format(table=table).encode())


def compare_all(connection: psycopg.Connection[Row], stored: bool) -> None:
    cursor = connection.cursor(row_factory=tuple_row)
    found = cursor.execute(
        f"SELECT c.relname, {EXACT_SINCE.format(id='r.id')},"
        " isempty(rollup_engine.stale_set(r.id))"
        " FROM silver.rollup_config AS r JOIN pg_class AS c ON c.oid = r.target_table"
        " WHERE c.relname = ANY (%s)",
        [list(ROLLUPS)],
    ).fetchall()
    for name, since, fresh in found:
        assert fresh or not stored, f"{name} never settles"
        for relation, is_table in [(f"gold.{name}", False), (f"silver.{name}", True)]:
            if is_table and not fresh:
                continue
            query = difference_query(_spec(name), BINDING, "raw.scene", relation, is_table, since)
            rows = cursor.execute(query.encode()).fetchall()
            assert not rows, f"{relation} differs: {rows}"


BINDING: Binding = {
    Column(1, "ts"): Live("ts", "timestamp with time zone"),
    Column(2, "device"): Live("device", "text"),
    Column(3, "v"): Live("v", "integer"),
}
_COLUMNS = {column.name: column for column in BINDING}


def _spec(name: str) -> Spec:
    width, dimensions, metrics = ROLLUPS[name]
    return Spec(
        name,
        0,
        "raw.scene",
        _COLUMNS["ts"],
        width,
        tuple(_COLUMNS[d] for d in dimensions),
        tuple((_COLUMNS[c], a) for c, a in metrics),
    )
