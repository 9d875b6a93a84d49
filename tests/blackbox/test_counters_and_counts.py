"""Aggregates that go by the order of rows, and those that count values."""

import random
from collections import Counter
from datetime import UTC, timedelta
from typing import Any

import psycopg
import pytest

from blackbox.levels_reference import BY_DEVICE, FIRST, LEVELS, create_levels, insert
from blackbox.rollup_reference import Wanted, assert_live_and_stored, create, rows_of


def test_counters_and_times_between_rows(db: psycopg.Connection) -> None:
    """Resets, rows that come late or go, and rows in time of buckets that are joined."""
    db.execute("CREATE TABLE raw.ticks (ts timestamptz, device text, v float8)")
    draw = random.Random(11)
    rows: list[tuple[Any, ...]] = []
    for device in ("a", "b", None):
        count = 0.0
        for i in range(400):
            count = 0.0 if draw.random() < 0.05 else count + draw.randrange(9) / 4
            seconds = 150 * i + draw.randrange(140)
            value = None if draw.random() < 0.1 else count
            rows.append((FIRST + timedelta(seconds=seconds), device, value))
    draw.shuffle(rows)
    late = rows[:150]
    insert(db, "raw.ticks", rows[150:])
    metrics = {"v": ["increase", "rate", "time_weighted_avg"]}
    create_levels(db, "raw.ticks", metrics)
    with pytest.raises(psycopg.Error):  # what counts by itself cannot be joined in order of time
        create(db, "of_10m", "joined_1h", "1 hour", dimensions=[])
    wanted = [Wanted(name, buckets, BY_DEVICE, metrics) for name, buckets in LEVELS.items()]
    assert_live_and_stored(db, "raw.ticks", *wanted)
    insert(db, "raw.ticks", late)
    db.execute("DELETE FROM raw.ticks WHERE v BETWEEN 4 AND 5")
    db.execute("UPDATE raw.ticks SET v = 0 WHERE v BETWEEN 9 AND 9.5")
    assert_live_and_stored(db, "raw.ticks", *wanted)


def test_values_are_counted(db: psycopg.Connection) -> None:
    """Each of few; of very many the rest as a number."""
    db.execute("CREATE TABLE raw.words (ts timestamptz, device text, t text, n numeric)")
    draw = random.Random(3)
    rows: list[tuple[Any, ...]] = []
    for i in range(3000):
        number = int(draw.paretovariate(0.9))
        rows.append((FIRST + timedelta(seconds=23 * i), "few", f"w{number % 30}", number % 9))
        rows.append((FIRST + timedelta(seconds=23 * i), "many", f"w{number}/{i % 3 and i}", i))
    insert(db, "raw.words", rows)
    create_levels(db, "raw.words", {"t": ["value_counts", "mode"], "n": ["value_counts"]})
    for _ in range(2):
        for name, buckets in LEVELS.items():
            groups = Wanted(name, buckets, BY_DEVICE).groups(rows_of(db, "raw.words"))
            for row in rows_of(db, f"gold.{name}"):
                group = groups[(row["bucket"].astimezone(UTC), row["device"])]
                for column_name in ("t", "n"):
                    true = Counter(str(raw[column_name]) for raw in group)
                    counts = row[f"{column_name}_value_counts"]
                    rest = row[f"{column_name}_value_counts_rest"]
                    assert sum(counts.values()) + rest == len(group)
                    if row["device"] == "few" or not rest:
                        assert counts == true
                    assert all(count <= true[value] for value, count in counts.items())
                true = Counter(raw["t"] for raw in group)
                assert true[row["t_mode"]] >= max(true.values()) - row["t_value_counts_rest"]
        assert_live_and_stored(db, "raw.words")
