"""Promises b and c under load; `make storm MINUTES=n` storms for longer."""

import os
import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from concurrency.storm import run_storm

MINUTES = float(os.environ.get("TSROLLUP_STORM_MINUTES", "0"))
WANTED = 300


@pytest.mark.long
def test_promise_b_and_c_storm(connect: Callable[..., psycopg.Connection[Any]]) -> None:
    seed = int(os.environ.get("TSROLLUP_STORM_SEED", random.SystemRandom().randrange(10**6)))
    counts = run_storm(connect, seconds=60 * MINUTES or 20, wanted=WANTED, seed=seed)
    print(f"\nseed {seed}: " + ", ".join(f"{n} {what}" for what, n in counts.most_common()))
    assert counts["compared"] >= WANTED
