"""A storm: writers, refreshers and checkers at once, on few rows, so that they meet.

Checkers compare three levels of rollups with the GROUP BY over raw in one snapshot. All values
are exact in binary, so that a sum of floats does not depend on the order of addition.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import IsolationLevel, sql

from described_rollups import Rollup, describe
from rollup_checks import assert_settled, differences_query, refresh_everything

LEVELS = ("storm_1m", "storm_1h", "storm_1d")
LEVELS_OF_ISOLATION = (
    IsolationLevel.READ_COMMITTED,
    IsolationLevel.REPEATABLE_READ,
    IsolationLevel.SERIALIZABLE,
)
TRANSIENT = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UniqueViolation,
)

# Four hours around midnight: two partitions, two cells of the minutes.
SCHEMA = """
    CREATE TABLE raw.storm (
        ts timestamptz NOT NULL,
        device integer,
        slot integer NOT NULL,
        value integer,
        amount numeric,
        level double precision,
        UNIQUE (ts, slot)
    ) PARTITION BY RANGE (ts);
    CREATE TABLE raw.storm_1 PARTITION OF raw.storm
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
    CREATE TABLE raw.storm_2 PARTITION OF raw.storm
        FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-03 00:00+00');
    CREATE INDEX ON raw.storm (device, ts);
    SELECT silver.create_rollup_table('raw.storm', 'silver', 'storm_1m', '1 minute',
        dimensions => '{device}', processing_window => '20 minutes', key_dimension => 'device',
        metrics => '{"value": ["avg", "min", "max"], "amount": ["sum"], "level": ["avg"]}');
    SELECT silver.create_rollup_table('storm_1m', 'silver', 'storm_1h', '1 hour');
    SELECT silver.create_rollup_table('storm_1h', 'silver', 'storm_1d', '1 day');
"""

# Limits of keys that are met now and then, all the time, and never.
LIMITS = """
    CREATE OR REPLACE FUNCTION rollup_engine.rows_of_a_group() RETURNS integer LANGUAGE sql
        IMMUTABLE PARALLEL SAFE RETURN 0;
    CREATE OR REPLACE FUNCTION rollup_engine.most_keys() RETURNS integer LANGUAGE sql
        IMMUTABLE PARALLEL SAFE RETURN {keys};
    CREATE OR REPLACE FUNCTION rollup_engine.most_keyed_buckets() RETURNS integer LANGUAGE sql
        IMMUTABLE PARALLEL SAFE RETURN {buckets}
"""

NEW_ROW = """
    timestamptz '2026-03-01 22:00+00' + make_interval(mins => %(minute)s + i %% 7, secs => i),
    nullif(i %% 3, CASE WHEN %(factor)s %% 4 = 0 THEN 2 END),
    %(slot)s, nullif(i %% 5, 4) * %(factor)s, %(factor)s * 1.5, %(factor)s / 4.0
"""
SOME_ROWS = "FROM raw.storm WHERE ts >= %(low)s AND ts < %(high)s ORDER BY ts, slot LIMIT 15"

WRITES = {
    "insert": f"INSERT INTO raw.storm SELECT {NEW_ROW} FROM generate_series(1, %(size)s) AS i"
    " ON CONFLICT DO NOTHING",
    "upsert": f"INSERT INTO raw.storm SELECT {NEW_ROW} FROM generate_series(1, %(size)s) AS i"
    " ON CONFLICT (ts, slot) DO UPDATE SET value = excluded.value + 1, level = excluded.level",
    "insert into a partition": "INSERT INTO raw.storm_2 SELECT timestamptz '2026-03-02 00:00+00'"
    " + make_interval(mins => %(minute)s / 2, secs => i), i %% 2, %(slot)s, i, i, i"
    " FROM generate_series(1, %(size)s) AS i ON CONFLICT DO NOTHING",
    "update": "UPDATE raw.storm SET value = value + 1, amount = -amount"
    f" WHERE (ts, slot) IN (SELECT ts, slot {SOME_ROWS})",
    "move in time": "UPDATE raw.storm SET ts = ts + make_interval(mins => %(shift)s)"
    f" WHERE (ts, slot) IN (SELECT ts, slot {SOME_ROWS})",
    "change the device": "UPDATE raw.storm SET device = nullif(%(factor)s %% 3, 1)"
    f" WHERE (ts, slot) IN (SELECT ts, slot {SOME_ROWS})",
    "delete": f"DELETE FROM raw.storm WHERE (ts, slot) IN (SELECT ts, slot {SOME_ROWS})",
    "delete from a partition": "DELETE FROM raw.storm_1 WHERE ts >= %(low)s AND ts < %(high)s",
    "merge": f"MERGE INTO raw.storm AS t USING (SELECT ts, slot {SOME_ROWS}) AS s"
    " ON t.ts = s.ts AND t.slot = s.slot"
    " WHEN MATCHED AND t.value IS NULL THEN DELETE"
    " WHEN MATCHED THEN UPDATE SET ts = t.ts + make_interval(mins => %(shift)s)",
}


STALE = """
    SELECT 'stale', from_time, to_time, xmin FROM rollup_engine.stale_range
    WHERE rollup_id = %s
    UNION ALL
    SELECT 'logged', from_time, to_time, xmin FROM rollup_engine.change_log
    UNION ALL
    SELECT 'tail', lower(range), upper(range), xmin FROM rollup_engine.tail
    ORDER BY 1, 2
"""


@dataclass
class Storm:
    """What happened so far; `failures` ends it."""

    connect: Callable[..., psycopg.Connection[Any]]
    two_phase: bool
    done: threading.Event = field(default_factory=threading.Event)
    failures: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    clock: int = 120  # the minute it is; half of what is written is written then
    rollups: list[Rollup] = field(default_factory=list)

    def count(self, what: str, times: int = 1) -> None:
        with self.lock:
            self.counts[what] += times

    def fail(self, message: str) -> None:
        with self.lock:
            self.failures.append(message)
        self.done.set()

    def work(
        self,
        name: str,
        step: Callable[["Storm", psycopg.Connection[Any], random.Random], None],
        seed: int,
    ) -> None:
        chance = random.Random(seed)
        try:
            with self.connect() as connection:
                while not self.done.is_set():
                    step(self, connection, chance)
        except Exception as error:
            self.fail(f"{name}: {type(error).__name__}: {error}")


def run_storm(
    connect: Callable[..., psycopg.Connection[Any]], seconds: float, wanted: int, seed: int
) -> Counter[str]:
    """Storms for that long, and on (three times as long at most) until enough was compared."""
    connection = connect()
    for statement in SCHEMA.split(";"):
        if statement.strip():
            connection.execute(statement.encode())
    keys, buckets = random.Random(seed).choice([(1000, 10000), (2, 40), (1, 10000)])
    connection.execute(LIMITS.format(keys=keys, buckets=buckets).encode())
    if seed % 2:
        connection.execute("CREATE INDEX ON raw.storm (device, ts)")
    prepared = connection.execute("SHOW max_prepared_transactions").fetchone()
    storm = Storm(connect, two_phase=bool(prepared and int(prepared[0])))
    storm.rollups = [describe(connection, level) for level in LEVELS]
    workers = [
        threading.Thread(
            name=step.__name__, target=storm.work, args=(step.__name__, step, seed * 1000 + number)
        )
        for number, step in enumerate([write] * 4 + [refresh] * 3 + [check] * 2)
    ]
    for worker in workers:
        worker.start()
    started = time.monotonic()
    while not storm.done.wait(0.2):
        elapsed = time.monotonic() - started
        if elapsed > seconds and (storm.counts["compared"] >= wanted or elapsed > 3 * seconds):
            break
    storm.done.set()
    for worker in workers:
        worker.join()
    assert not storm.failures, f"seed {seed}: " + "\n".join(storm.failures)
    _assert_calm(connection)
    return storm.counts


def _assert_calm(connection: psycopg.Connection[Any]) -> None:
    errors = connection.execute(
        "SELECT target_table, error_code, error_message FROM silver.error_log"
    )
    assert errors.fetchall() == []
    refresh_everything(connection)
    assert_settled(connection, *LEVELS)


# Writers ------------------------------------------------------------------------------------


def write(storm: Storm, connection: psycopg.Connection[Any], chance: random.Random) -> None:
    """One transaction, tried again when it could not be serialized."""
    level = chance.choice(LEVELS_OF_ISOLATION)
    seed = chance.random()
    for _ in range(4):
        try:
            end = _write_transaction(storm, connection, level, random.Random(seed))
            storm.count(f"{level.name.lower()} {end}")
            return
        except TRANSIENT as error:
            storm.count(type(error).__name__)
            if not isinstance(error, psycopg.errors.SerializationFailure):
                return


def _write_transaction(
    storm: Storm, connection: psycopg.Connection[Any], level: IsolationLevel, chance: random.Random
) -> str:
    """A few statements, ended in one of the ways that there are."""
    end = chance.choices(["commit", "rollback", "prepare"], [8, 2, 2 if storm.two_phase else 0])[0]
    gid = f"storm {id(connection)} {chance.random()}"
    with _transaction(connection, level):
        for _ in range(chance.randint(1, 3)):
            _write_statement(storm, connection, chance)
        if chance.random() < 0.1:
            _compare(storm, connection)
        if chance.random() < 0.2:
            storm.done.wait(chance.random() / 5)  # the tail moves on meanwhile
        if end == "rollback":
            connection.execute("ROLLBACK")
        elif end == "prepare":
            connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(gid)))
    if end == "prepare":
        storm.done.wait(chance.random() / 20)
        verb = chance.choice(["COMMIT", "COMMIT", "ROLLBACK"])
        connection.execute(sql.SQL(verb + " PREPARED {}").format(sql.Literal(gid)))
    return end


def _write_statement(
    storm: Storm, connection: psycopg.Connection[Any], chance: random.Random
) -> None:
    if chance.random() < 0.15:
        connection.execute("SAVEPOINT undone")
        _write_statement(storm, connection, chance)
        connection.execute("ROLLBACK TO undone")
    if chance.random() < 0.1:
        _copy(storm, connection, chance)
        storm.count("copy")
        return
    kind = chance.choice(list(WRITES))
    low = _some_minute(storm, chance)
    connection.execute(
        WRITES[kind].encode(),
        {
            "minute": _some_minute(storm, chance),
            "slot": chance.randrange(6),
            "size": chance.choice([1, 1, 5, 20]),
            "factor": chance.randrange(-50, 50),
            "shift": chance.choice([-130, -60, -1, 0, 1, 60, 130]),
            "low": _minute(low),
            "high": _minute(low + chance.choice([1, 10, 60])),
        },
    )
    storm.count(kind)


def _copy(storm: Storm, connection: psycopg.Connection[Any], chance: random.Random) -> None:
    slot = chance.randrange(1_000, 1_000_000_000)
    with connection.cursor().copy("COPY raw.storm FROM STDIN") as copy:
        for _ in range(chance.randint(1, 10)):
            copy.write_row((_minute(_some_minute(storm, chance)), 1, slot, 1, 2, 0.5))
            slot += 1


def _some_minute(storm: Storm, chance: random.Random) -> int:
    now = storm.clock + chance.randrange(3)
    return chance.choice([chance.randrange(240), min(now, 239)])


def _minute(number: int) -> str:
    """The n-th minute after 22:00 of 1 March."""
    day, minute = divmod(22 * 60 + number, 1440)
    return f"2026-03-{1 + day:02} {minute // 60:02}:{minute % 60:02}:00+00"


# Refreshers -----------------------------------------------------------------------------------


def refresh(storm: Storm, connection: psycopg.Connection[Any], chance: random.Random) -> None:
    way = chance.choice([_run, _run, _perform, _perform, _refresh_range, _mark])
    way = _change_capture if chance.random() < 0.05 else way
    storm.clock = (storm.clock + chance.choice([0, 0, 0, 1, 1, 2, 10])) % 240
    way(storm, connection, chance)
    storm.done.wait(chance.random() / 30)  # or they leave nothing stale to look at
    storm.count(way.__name__.strip("_"))


def _run(storm: Storm, connection: psycopg.Connection[Any], chance: random.Random) -> None:
    budget = f"{chance.choice([20, 200])} milliseconds"
    connection.execute("CALL silver.run_rollups(NULL, %s, %s)", [budget, _as_of(storm, chance)])
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE NOT isempty(range)), count(waits_since)"
        " FROM rollup_engine.tail"
    ).fetchone()
    assert row
    storm.count("with a tail", row[0])
    storm.count("waits for writers", row[1])


def _as_of(storm: Storm, chance: random.Random) -> str:
    return chance.choice(["infinity", *[_minute(storm.clock)] * 3])


def _perform(storm: Storm, connection: psycopg.Connection[Any], chance: random.Random) -> None:
    target = chance.choice([None, *LEVELS])
    with _transaction(connection, IsolationLevel.READ_COMMITTED):
        connection.execute(
            "SELECT * FROM silver.perform_rollup(%s, %s, %s)",
            [target, chance.choice([1, 2, None]), _as_of(storm, chance)],
        )
        if chance.random() < 0.2:
            connection.execute("ROLLBACK")


def _refresh_range(
    storm: Storm, connection: psycopg.Connection[Any], chance: random.Random
) -> None:
    low = _some_minute(storm, chance)
    connection.execute(
        "SELECT * FROM silver.refresh_rollup(%s, %s, %s)",
        [chance.choice(LEVELS), _minute(low), _minute(low + chance.choice([1, 30]))],
    )


def _change_capture(
    storm: Storm, connection: psycopg.Connection[Any], chance: random.Random
) -> None:
    """The row trigger for what is inserted, or the statement trigger; or one set goes."""
    with suppress(psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        if chance.random() < 0.5:
            connection.execute(
                "SELECT rollup_engine.change_capture(id, %s) FROM rollup_engine.source",
                [chance.random() < 0.6],
            )
        else:
            connection.execute(
                "SELECT rollup_engine.drop_stray_triggers(s, true) FROM rollup_engine.source AS s"
            )
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE tgtype = 5), count(*) FILTER (WHERE tgtype = 4)"
        " FROM pg_trigger WHERE tgrelid = 'raw.storm'::regclass"
    ).fetchone()
    assert row
    storm.count(f"row triggers {row[0]}, statement triggers {row[1]}")


def _mark(storm: Storm, connection: psycopg.Connection[Any], chance: random.Random) -> None:
    low = _some_minute(storm, chance)
    connection.execute(
        "SELECT silver.mark_stale(%s, %s, %s)",
        [chance.choice([*LEVELS, "raw.storm"]), _minute(low), _minute(low + 5)],
    )


# Checkers ---------------------------------------------------------------------------------------


def check(storm: Storm, connection: psycopg.Connection[Any], chance: random.Random) -> None:
    """All levels in one snapshot, or, in read committed, each in one of its own."""
    level = chance.choice(LEVELS_OF_ISOLATION)
    try:
        with _transaction(connection, level):
            for _ in range(chance.randint(1, 3)):
                _compare(storm, connection)
        storm.count("snapshots")
    except psycopg.errors.SerializationFailure:
        storm.count("SerializationFailure of a reader")


def _compare(storm: Storm, connection: psycopg.Connection[Any]) -> None:
    for rollup in storm.rollups:
        rows = connection.execute(differences_query(rollup, rollup.view)).fetchall()
        if rows:
            level = connection.execute("SHOW transaction_isolation").fetchone()
            again = len(connection.execute(differences_query(rollup, rollup.view)).fetchall())
            lines = [f"{threading.current_thread().name} in {level}: {rollup.view} differs in"]
            lines += [str(row) for row in rows]
            lines.append(f"asked again: {again} rows; stale and logged:")
            lines += map(str, connection.execute(STALE, [rollup.id]).fetchall())
            storm.fail("\n".join(lines))
            return
    storm.count("compared")


@contextmanager
def _transaction(connection: psycopg.Connection[Any], level: IsolationLevel) -> Iterator[None]:
    """BEGIN to COMMIT; unlike psycopg's own, the body may end it, in two phases for instance."""
    connection.execute(f"BEGIN ISOLATION LEVEL {level.name.replace('_', ' ')}".encode())
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        connection.execute("COMMIT")
