"""Every interleaving of the steps of two or three sessions, generated rather than written.

A session is a list of statements. It also stops at the gates of the scene, inside the functions
that it calls. What a step blocks is left waiting, and the schedule goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import factorial, prod
from random import Random
from time import monotonic

import psycopg
from psycopg.pq import TransactionStatus

from concurrency.scene import ALLOWED, Actor, Row, compare_all
from interleaving import Background


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
                compare_all(connection, stored)
        except psycopg.errors.LockNotAvailable:
            return  # an open transaction has changed the view or a table
        except psycopg.errors.UndefinedTable:
            if connection is self.observer:
                raise
            return  # dropped since this snapshot was taken


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


def _connect(url: str) -> psycopg.Connection[Row]:
    return psycopg.connect(url, autocommit=True, prepare_threshold=None)
