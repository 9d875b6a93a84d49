"""Promise g: nothing is lost, and nobody kept waiting, whoever writes and reads meanwhile."""

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest

from conftest import Connect
from interleaving import Background
from raw_tables import maintained
from retained_days import NOW, day, maintain, make_source, partitions, sealed, total
from rollup_checks import assert_settled, refresh_everything
from scenes import scene

pytestmark = pytest.mark.partman


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    return make_source(db)


def test_what_an_older_snapshot_keeps_is_told(source: psycopg.Connection, connect: Connect) -> None:
    refresh_everything(source)
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    report = connect(autocommit=False)
    report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    report.execute("SELECT 1 FROM raw.readings LIMIT 0")
    assert maintain(source) == [("raw.readings", "sealed")]
    query = "SELECT action, detail FROM rollup_engine.run_maintenance('raw.readings', %s)"
    told: dict[str, str] = dict(source.execute(query, [NOW]).fetchall())
    assert "goes when no snapshot is older than the seal" in told["skipped"]
    report.rollback()
    assert {action for _, action in maintain(source)} == {"dropped"}


def test_a_writer_that_commits_into_a_partition_while_it_is_due_is_never_lost(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    writer = connect(autocommit=False)
    writer.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    assert maintain(source) == [], "its writer is not done"
    writer.commit()
    assert maintain(source) == [("raw.readings", "sealed")]
    assert sealed(source)["readings_1h"][1] == day(2), "only as far as the row that is not absorbed"
    refresh_everything(source)
    maintain(source)
    maintain(source)
    assert partitions(source) == set(range(8, 13))
    assert total(source) == 241


def test_a_writer_that_commits_while_the_seal_waits_for_it_is_absorbed(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    writer = connect(autocommit=False)
    writer.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    sealing = Background(
        connect(), "SELECT rollup_engine.run_maintenance('raw.readings', %s)", [NOW]
    )
    with contextlib.suppress(AssertionError):  # it may have given up already
        sealing.wait_until_blocked(source)
    writer.commit()
    sealing.result()
    refresh_everything(source)
    assert total(source) == 241


def test_a_writer_waits_for_no_seal_that_waits_for_another_writer(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    first, second = connect(autocommit=False), connect()
    first.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    sealing = threading.Thread(target=maintain, args=(connect(),))
    sealing.start()
    second.execute("SET statement_timeout = '5s'")
    second.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 2, 1)")
    sealing.join()
    first.commit()
    refresh_everything(source)
    assert total(source) == 242


def test_an_older_snapshot_keeps_what_it_may_still_read(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    reader = connect(autocommit=False)
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    # It holds no lock on anything here, only a snapshot in which everything is stale.
    reader.execute("SELECT count(*) FROM pg_namespace")
    refresh_everything(source)
    maintain(source)
    assert not [row for row in maintain(source) if row[1] == "dropped"]
    assert total(reader) == 240
    reader.commit()
    maintain(source)
    assert partitions(source) == set(range(8, 13))


def test_a_reader_in_a_transaction_is_not_disturbed(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    reader = connect(autocommit=False)
    reader.execute("SELECT count(*) FROM raw.readings")
    assert maintain(source) == [], "its lock is in the way"
    assert reader.execute("SELECT count(*) FROM raw.readings").fetchone() == (240,)
    reader.commit()
    maintain(source)
    assert partitions(source) == set(range(8, 13))


def test_a_partition_that_somebody_locks_is_no_failure(
    source: psycopg.Connection, connect: Connect
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    other = connect(autocommit=False)
    other.execute("TRUNCATE raw.readings_11")
    told = maintained(source, NOW, "raw.readings")
    busy = "not removed, for somebody uses it; the next run tries again"
    assert told == [("raw.readings", "skipped", busy)]
    assert source.execute("SELECT count(*) FROM silver.error_log").fetchone() == (0,)
    other.rollback()
    assert {action for _, action in maintain(source)} == {"dropped"}


@pytest.mark.parametrize(
    ("runs", "use", "said"),
    [
        (0, "INSERT INTO raw.readings_3 VALUES ('2026-03-03', 2, 1)", "not sealed"),
        (1, "LOCK TABLE ONLY raw.readings IN ACCESS SHARE MODE", "not removed"),
        (
            1,
            "SELECT * FROM raw.readings_3",
            "raw.readings_3: 2026-03-03 00:00:00+00 to 2026-03-04 00:00:00+00 stays",
        ),
    ],
)
def test_what_is_in_use_is_said_to_wait(
    source: psycopg.Connection, connect: Connect, runs: int, use: str, said: str
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    for _ in range(runs):
        maintain(source)
    with connect(autocommit=False) as other:
        other.execute(use.encode())
        told = maintained(source, NOW, "raw.readings")
        other.rollback()
    busy = f"{said}, for somebody uses it; the next run tries again"
    assert [row for row in told if row[1] != "dropped"] == [("raw.readings", "skipped", busy)]
    assert maintain(source)


SECONDS = 8
MOST_SECONDS = 120


class Storm:
    """Writers that note in a ledger what they have committed, refreshers, and retention.

    It goes on until partitions went: none does in a run of maintenance that finds a late row in
    the oldest of them, which no refresh has taken in yet, and most of them find one."""

    def __init__(self, connect: Connect) -> None:
        self.connect = connect
        self.begun = time.monotonic()
        self.saw_partitions_go = False
        self.failures: list[BaseException] = []

    def run(self) -> None:
        works = [*(self.write(seed) for seed in range(1, 5)), self.refresh(), self.retain()]
        threads = [threading.Thread(target=self.repeat, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not self.failures, self.failures

    def repeat(self, work: Iterator[None]) -> None:
        try:
            while not self.is_over():
                next(work)
        except BaseException as error:
            self.failures.append(error)

    def is_over(self) -> bool:
        seconds = time.monotonic() - self.begun
        return seconds > (SECONDS if self.saw_partitions_go or self.failures else MOST_SECONDS)

    def write(self, seed: int) -> Iterator[None]:
        connection = self.connect(autocommit=False)
        for n in range(seed, 10**9, 7):
            # Most rows are new, one in eight comes late, for any day.
            first = 1 if n % 8 == 0 else 9
            at = day(first) + timedelta(minutes=(n * 7919) % ((12 - first) * 1440))
            connection.execute("INSERT INTO raw.readings VALUES (%s, 1, 1)", [at])
            connection.execute("INSERT INTO public.ledger VALUES (%s)", [at])
            connection.commit()
            yield

    def refresh(self) -> Iterator[None]:
        connection = self.connect()
        while True:
            connection.execute("CALL silver.run_rollups(as_of => 'infinity')")
            yield

    def retain(self) -> Iterator[None]:
        connection = self.connect()
        for hour in range(10**6):
            maintain(connection, min(day(8) + timedelta(hours=hour), day(12)))
            since = sealed(connection)["readings_1h"][1]
            self.saw_partitions_go = since is not None and since >= day(5)
            yield


def test_nothing_is_lost_while_writers_refreshers_and_retention_run(
    source: psycopg.Connection, connect: Connect
) -> None:
    """Every committed row is in gold, or counted as late: under writers into all days."""
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    source.execute("CREATE TABLE public.ledger AS SELECT ts FROM raw.readings")
    Storm(connect).run()
    refresh_everything(source)
    late, since = sealed(source)["readings_1h"]
    assert since is not None
    assert since >= day(5), "the storm saw partitions go"
    written = source.execute("SELECT count(*) FROM public.ledger").fetchone()
    assert written == (total(source) + late,)
    assert_settled(source, "readings_1h")
    recent = source.execute(
        "SELECT (SELECT count(*) FROM public.ledger WHERE ts >= %(since)s)"
        " = (SELECT sum(row_count) FROM gold.readings_1h WHERE bucket >= %(since)s)",
        {"since": since},
    ).fetchone()
    assert recent == (True,)
