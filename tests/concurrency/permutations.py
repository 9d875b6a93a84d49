"""Every interleaving of the steps of two or three sessions, generated rather than written.

A session is a list of statements. It also stops inside the functions that it calls: triggers on
the tables that the engine writes wait there for a lock (`GATES`), so that draining, claiming,
recomputing and clearing are steps of their own, and a function that the planner calls makes
planning one. What a step blocks is left waiting, and the schedule goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import factorial, prod
from random import Random
from time import monotonic
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from interleaving import Background
from model.reference import Binding, Column, Live, Spec, Width, difference_query

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
    INSERT INTO raw.scene
        SELECT t, 'd' || n % 2, n FROM generate_series('2020-03-01 20:00+00'::timestamptz,
            '2020-03-02 04:00+00', '20 minutes') WITH ORDINALITY AS s (t, n);
    SELECT silver.create_rollup_table('raw.scene', 'silver', 'scene_1h', '1 hour',
        dimensions => '{device}', metrics => '{"v": ["sum", "count", "max"]}');
    SELECT silver.create_rollup_table('silver.scene_1h', 'silver', 'scene_1d', '1 day',
        dimensions => '{}', metrics => '{"v": ["sum", "max"]}');
    SELECT * FROM silver.perform_rollup(as_of => 'infinity');
    SELECT silver.set_retention('raw.scene', now() - timestamptz '2020-03-02 01:00+00');
    UPDATE raw.scene SET v = v + 100 WHERE ts >= '2020-03-02 02:00+00';
"""
ROLLUPS = {
    "scene_1h": (Width("1 hour"), ("device",), (("v", "sum"), ("v", "count"), ("v", "max"))),
    "scene_1d": (Width("1 day"), (), (("v", "sum"), ("v", "max"))),
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
    in_transaction(
        "create",
        "SELECT silver.create_rollup_table('raw.scene', 'silver', 'scene_6h',"
        " '6 hours', dimensions => '{device}', metrics => '{\"v\": [\"sum\"]}')",
    ),
]
# A transaction may lose to another; work that waits for a lock may be told to come again.
ALLOWED = ("40001", "55P03", "TR")


@dataclass
class Player:
    """A session that plays an actor, a stop at a time."""

    number: int
    actor: Actor
    connection: psycopg.Connection[Row]
    step: int = 0
    gate: int = 1
    work: Background | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.connection.info.backend_pid

    @property
    def ended(self) -> bool:
        return self.work is None and self.step >= len(self.actor.steps)

    def start(self) -> str:
        text = self.actor.steps[self.step]
        self.step += 1
        self.connection.execute("SET test.planned = ''") if self.actor.compares else None
        self.work = Background(self.connection, text.encode())
        return text

    def collect(self) -> None:
        """The statement has ended."""
        assert self.work
        work, self.work = self.work, None
        try:
            rows = work.result()
        except psycopg.Error as error:
            state = error.sqlstate or ""
            self.errors.append(f"{state} {error}")
            if not state.startswith((*ALLOWED, *self.actor.allowed)):
                raise AssertionError(f"{self.actor.name}: {state} {error}") from error
            self.step = len(self.actor.steps)
            if self.connection.info.transaction_status != TransactionStatus.IDLE:
                self.connection.execute("ROLLBACK")
            return
        if self.actor.compares:
            assert all(a == b for a, b in rows), f"{self.actor.name}: gold, raw: {rows}"


class Theatre:
    """Plays schedules: a schedule is whose turn it is, stop by stop."""

    def __init__(self, url: str, actors: Sequence[Actor]) -> None:
        self.keeper = _connect(url)
        self.observer = _connect(url)
        self.players = [Player(n, a, _connect(url)) for n, a in enumerate(actors, 1)]
        self.told: list[str] = []
        for player in self.players:
            player.connection.execute(f"SET test.session = '{player.number}'".encode())
            self.keeper.execute(
                "SELECT pg_advisory_lock(%s::integer, n) FROM generate_series(1, 60) AS n",
                [player.number],
            )

    def close(self) -> None:
        for connection in [self.keeper, *(p.connection for p in self.players), self.observer]:
            connection.close()

    def play(self, schedule: Sequence[int]) -> list[int]:
        """Plays it and whatever is left after it; gives how many stops each player made."""
        stops = [0] * len(self.players)
        rest = [n for _ in range(1000) for n in range(len(self.players))]
        for turn in [*schedule, *rest]:
            if all(p.ended for p in self.players):
                break
            if self._advance(self.players[turn]):
                stops[turn] += 1
                self._check()
        assert all(p.ended for p in self.players), "it does not end"
        return stops

    def settle(self) -> None:
        for _ in range(20):
            rows = self.observer.execute(
                "SELECT ranges_left FROM silver.perform_rollup(as_of => 'infinity')"
            ).fetchall()
            if not any(row[0] for row in rows):
                break
        self._compare(self.observer, stored=True)

    def _advance(self, player: Player) -> bool:
        if player.ended:
            return False
        if player.work is None:
            self.told.append(f"{player.number}: {player.start()}")
        elif self._waits_at_gate(player):
            self.told.append(f"{player.number}: goes on from stop {player.gate}")
            self.keeper.execute(
                f"SELECT pg_advisory_unlock({player.number}, {player.gate})".encode()
            )
            player.gate += 1
        else:
            self.keeper.execute("SELECT pg_sleep(0.01)")
            self._wait_for_all()
            return False
        self._wait_for_all()
        return True

    def _waiting(self) -> dict[int, list[int]]:
        rows = self.keeper.execute(
            # Who sleeps looks again and again whether somebody else is done.
            "SELECT pid, CASE wait_event WHEN 'PgSleep' THEN '{0}' ELSE pg_blocking_pids(pid) END"
            " FROM pg_stat_activity WHERE pid = ANY (%s::integer[])",
            [[p.pid for p in self.players]],
        ).fetchall()
        return dict(rows)

    def _waits_at_gate(self, player: Player) -> bool:
        return self.keeper.info.backend_pid in self._waiting()[player.pid]

    def _wait_for_all(self) -> None:
        """Until every player has ended its statement, stands at a gate, or waits for another."""
        until = monotonic() + 60
        while monotonic() < until:
            waiting = self._waiting()
            busy = False
            for player in self.players:
                if player.work and not player.work.is_alive():
                    player.collect()
                    busy = True  # what waited for it may go on
                elif player.work and not waiting[player.pid]:
                    busy = True
            if not busy:
                return
            self.keeper.execute("SELECT pg_sleep(0.001)")
        raise AssertionError("a statement neither ends nor waits for anybody")

    def _check(self) -> None:
        self._compare(self.observer)
        for player in self.players:
            status = player.connection.info.transaction_status
            if player.work is None and status == TransactionStatus.INTRANS:
                self._compare(player.connection)

    def _compare(self, connection: psycopg.Connection[Row], stored: bool = False) -> None:
        try:
            with connection.transaction(force_rollback=True):
                if connection is self.observer:
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                connection.execute("SET LOCAL lock_timeout = '200ms'")
                _compare_all(connection, stored)
        except psycopg.errors.LockNotAvailable:
            return  # an open transaction has changed the view or a table


def schedules(lengths: Sequence[int], most: int, chance: Random) -> list[tuple[int, ...]]:
    """Every order of so many stops of each player, or as many of them as are wanted."""
    turns = [n for n, length in enumerate(lengths) for _ in range(length)]
    number = factorial(len(turns)) // prod(factorial(length) for length in lengths)
    orders: dict[tuple[int, ...], None] = {}
    if number <= most:
        _spread(tuple(lengths), (), orders)
    while len(orders) < min(number, most):
        chance.shuffle(turns)
        orders[tuple(turns)] = None
    return list(orders)


def _spread(
    left: tuple[int, ...], begun: tuple[int, ...], orders: dict[tuple[int, ...], None]
) -> None:
    if not any(left):
        orders[begun] = None
    for n, length in enumerate(left):
        if length:
            _spread((*left[:n], length - 1, *left[n + 1 :]), (*begun, n), orders)


def prepare(connection: psycopg.Connection[Any]) -> None:
    connection.execute(STAGE.encode())
    connection.execute(GATES.encode())
    for table in ("silver.scene_1h", "silver.scene_1d"):
        connection.execute(GATES_OF_A_ROLLUP.format(table=table).encode())


def _compare_all(connection: psycopg.Connection[Row], stored: bool) -> None:
    cursor = connection.cursor(row_factory=tuple_row)
    found = cursor.execute(
        "SELECT c.relname, m.exact_since::text, r.target_table::oid::bigint,"
        " isempty(rollup_engine.stale_set(r.id))"
        " FROM silver.rollup_config AS r JOIN pg_class AS c ON c.oid = r.target_table"
        " JOIN silver.timeseries_operations_monitor AS m ON to_regclass(m.target_table) = c.oid"
        " WHERE c.relname = ANY (%s)",
        [list(ROLLUPS)],
    ).fetchall()
    for name, since, _, fresh in found:
        assert fresh or not stored, f"{name} never settles"
        for relation, is_table in [(f"gold.{name}", False), (f"silver.{name}", True)]:
            if is_table and not fresh:
                continue
            query = difference_query(
                _spec(name), BINDING, "raw.scene", relation, is_table, since or "-infinity"
            )
            rows = cursor.execute(query.encode()).fetchall()
            assert not rows, f"{relation} differs: {rows}"


BINDING: Binding = {
    1: Live("ts", "timestamp with time zone"),
    2: Live("device", "text"),
    3: Live("v", "integer"),
}
_COLUMNS = {live.name: Column(n, live.name) for n, live in BINDING.items()}


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


def _connect(url: str) -> psycopg.Connection[Row]:
    return psycopg.connect(url, autocommit=True, prepare_threshold=None)
