"""Promises a, b, c and h over everything that a user can do, at random.

A fixed seed, so that nobody's change fails for what another one did; `make model MINUTES=n` goes
on from a fresh one as well, which is printed: set TSROLLUP_MODEL_SEED to it to see the same again.
A failure is a script for psql, shortened, that names the file of the whole story. With
TSROLLUP_MODEL_SCRIPTS=folder the first one ends nothing: all are kept there.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from model.databases import Databases
from model.machine import Story, chosen_operations
from model.people import MAY
from model.replay import Reducer
from model.script import FaultError
from servers import PostgresServer

MINUTES = float(os.environ.get("TSROLLUP_MODEL_MINUTES", "0"))
SECONDS = 60 * MINUTES or 50
EXAMPLES = int(os.environ.get("TSROLLUP_MODEL_EXAMPLES", "6"))
STEPS = int(os.environ.get("TSROLLUP_MODEL_STEPS", "25"))
SHRINKING_SECONDS = int(os.environ.get("TSROLLUP_MODEL_SHRINKING", "120"))
SCRIPTS = os.environ.get("TSROLLUP_MODEL_SCRIPTS")
FIXED = 4711
FRESH = int(os.environ.get("TSROLLUP_MODEL_SEED", random.SystemRandom().randrange(10**6)))
SEEDS = {"fixed": FIXED, "fresh": FRESH} if MINUTES else {"fixed": FIXED}


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("first_seed", SEEDS.values(), ids=SEEDS.keys())
def test_promise_a_b_c_h_model(
    server: PostgresServer, databases: Databases, tmp_path: Path, first_seed: int
) -> None:
    totals: Counter[str] = Counter()
    faults: list[str] = []

    def found(fault: FaultError) -> None:
        if not SCRIPTS:
            raise fault
        faults.append(fault.kind)

    story = _story(server, databases, totals, _folder(tmp_path, server, first_seed))
    story.found = staticmethod(found)
    until = time.monotonic() + SECONDS / 2
    number = first_seed
    while True:
        print(f"\nseed {number}", flush=True)
        run_state_machine_as_test(seed(number)(story), settings=_settings())
        if time.monotonic() > until:
            break
        number += 1
    print(", ".join(f"{n} {what}" for what, n in totals.most_common()))
    assert not faults
    # Invalid must not be so common that it hides the rest.
    assert totals["examples"] < 20 or totals["compared"] > totals["health invalid"]


def _settings() -> settings:
    return settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,  # the script says it better than the choices
        phases=[Phase.generate],  # what is shrunk is the script,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture
def databases(server: PostgresServer, template: str) -> Iterator[Databases]:
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
        for role in (*MAY, "tsrollup_reader"):
            connection.execute(f'GRANT {role} TO "{server.user}"'.encode())
    made = Databases(lambda: server.create_database(template), server.drop_database)
    yield made
    made.close()


def _folder(tmp_path: Path, server: PostgresServer, first_seed: int) -> Path:
    folder = Path(SCRIPTS or tmp_path) / f"{server.name}-{first_seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _story(
    server: PostgresServer, databases: Databases, counts: Counter[str], folder: Path
) -> type[Story]:
    class Here(Story):
        totals = counts
        operations = chosen_operations()
        reducer = Reducer(databases, server, MINUTES > 0, SHRINKING_SECONDS, folder)

    return Here
