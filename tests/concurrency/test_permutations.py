"""Promises b and c at every interleaving of the steps of two sessions, and of three.

The ordinary suite plays half a minute of them, others each time; `make permutations` plays them
all, and with PART=i/n the i-th of n parts, which together are all.
"""

import os
import time
from collections.abc import Iterator
from itertools import combinations_with_replacement, zip_longest
from random import Random

import psycopg
import pytest

from concurrency.permutations import Theatre, schedules
from concurrency.scene import ACTORS, Actor, prepare
from concurrency.storm import LIMITS
from model.databases import Databases
from servers import PostgresServer

PART = os.environ.get("TSROLLUP_PERMUTATIONS")
SECONDS = float(os.environ.get("TSROLLUP_PERMUTATIONS_SECONDS", "30"))
# All parts are of the same orders.
SEED = 4711 if PART else int(os.environ["TSROLLUP_SEED"])
# Of a pair with more orders than these, a sample: two runs of eleven stops have 705,432.
MOST = 300
# Of keys: as they are, by which live views read the small source as a whole; groups; too many.
CAPS = (None, (1000, 10000), (1, 10000))
BY_NAME = {actor.name: actor for actor in ACTORS}
CASTS = [
    *combinations_with_replacement(ACTORS, 2),
    (BY_NAME["write"], BY_NAME["run"], BY_NAME["read twice"]),
    (BY_NAME["write in an old snapshot"], BY_NAME["perform"], BY_NAME["plan and read"]),
    (BY_NAME["write"], BY_NAME["run"], BY_NAME["run"]),
]


@pytest.fixture
def stages(server: PostgresServer, database: str) -> Iterator[Databases]:
    """Databases with the scene set, made ahead."""
    with psycopg.connect(server.superuser_url(database), autocommit=True) as connection:
        prepare(connection)
    made = Databases(lambda: server.create_database(database), server.drop_database)
    yield made
    made.close()


@pytest.mark.long
@pytest.mark.timeout(0)
def test_promise_b_c_permutations(server: PostgresServer, stages: Databases) -> None:
    lengths = {actor: _play(server, stages, (actor,), (), None)[0] for actor in ACTORS}
    print(f"seed {SEED}")
    chance = Random(SEED)
    plans = [
        [(cast, order, chance.choice(CAPS)) for order in _orders(cast, lengths, chance)]
        for cast in CASTS
    ]
    # In turn, an order of each cast, so that a sample and a part have something of all of them.
    turns = zip_longest(*(chance.sample(plans, len(plans))))
    every = [order for turn in turns for order in turn if order]
    number, parts = map(int, (PART or "1/1").split("/"))
    until = time.monotonic() + SECONDS
    played = 0
    for cast, order, caps in every[number - 1 :: parts]:
        if PART or time.monotonic() < until:
            _play(server, stages, cast, order, caps)
            played += 1
    print(f"{played} of {len(every)} orders")


def _orders(
    cast: tuple[Actor, ...], lengths: dict[Actor, int], chance: Random
) -> list[tuple[int, ...]]:
    """In any order; of two that do the same, the first begins."""
    orders = schedules([lengths[actor] for actor in cast], MOST, chance)
    if cast[0] == cast[1]:
        orders = [order for order in orders if order[0] == 0]
    chance.shuffle(orders)
    return orders


def _play(
    server: PostgresServer,
    stages: Databases,
    cast: tuple[Actor, ...],
    order: tuple[int, ...],
    caps: tuple[int, int] | None,
) -> list[int]:
    database = stages.take()
    theatre = Theatre(server.superuser_url(database), cast)
    if caps:
        keys, buckets = caps
        theatre.keeper.execute(LIMITS.format(keys=keys, buckets=buckets).encode())
    try:
        stops = theatre.play(order)
        theatre.settle()
    except AssertionError as error:
        told = "\n".join(
            [
                f"-- caps: {caps}",
                *(f"-- {n}: {a.name}" for n, a in enumerate(cast, 1)),
                *theatre.told,
            ]
        )
        raise AssertionError(f"{error}\n{told}") from error
    finally:
        theatre.close()
        stages.drop(database)
    return stops
