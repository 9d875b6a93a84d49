"""Promises a and b on a subscriber: a source that is filled by logical replication."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from raw_tables import capture_by_row, maintained
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything
from servers import PostgresServer

Connect = Callable[..., psycopg.Connection[Any]]

COLUMNS = "id integer, ts timestamptz, device integer, v integer, PRIMARY KEY (id, ts)"
TABLES = {
    "plain": f"CREATE TABLE raw.t ({COLUMNS})",
    "partitioned": f"""
        CREATE TABLE raw.t ({COLUMNS}) PARTITION BY RANGE (ts);
        CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01') TO ('2026-03-02');
        CREATE TABLE raw.t_0 PARTITION OF raw.t DEFAULT;
    """,
    "a partition": f"""
        CREATE TABLE raw.top ({COLUMNS}) PARTITION BY RANGE (ts);
        CREATE TABLE raw.t PARTITION OF raw.top FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    """,
}
STREAMED = (
    "INSERT INTO raw.t SELECT 500 + i, timestamptz '2026-03-02 00:00+00'"
    " + make_interval(mins => 7 * i), i % 3, i FROM generate_series(0, 99) AS i",
    "UPDATE raw.t SET v = v + 1 WHERE device = 1",
    "UPDATE raw.t SET device = 9 WHERE id % 10 = 0",
    "UPDATE raw.t SET ts = ts + interval '5 hours' WHERE id < 20",
    "UPDATE raw.t SET ts = ts + interval '1 day' WHERE id < 40",
    "DELETE FROM raw.t WHERE id % 7 = 0",
    "DELETE FROM raw.t WHERE ts < '2026-03-01 06:00+00';"
    "INSERT INTO raw.t VALUES (1, '2026-03-01 01:00+00', 1, 1)",
    "TRUNCATE raw.t",
    "INSERT INTO raw.t VALUES (1, '2026-03-01 02:00+00', 1, 1)",
)


class Subscription:
    """The database of the tests subscribes to another one of the same server."""

    def __init__(
        self, server: PostgresServer, publisher: str, subscriber: str, options: str
    ) -> None:
        self.name = f"s_{publisher}"
        self.publisher = psycopg.connect(server.superuser_url(publisher), autocommit=True)
        self.subscriber = psycopg.connect(server.superuser_url(subscriber), autocommit=True)
        # A slot that the subscription made itself would wait for its own transaction.
        self.publisher.execute(
            "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self.name]
        )
        self.subscriber.execute(
            sql.SQL(
                "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION p WITH (create_slot = false{})"
            ).format(
                sql.Identifier(self.name),
                sql.Literal(server.superuser_url(publisher)),
                sql.SQL(options),
            )
        )

    def catch_up(self) -> None:
        """Waits until the subscriber has all that is committed by now, initial copies too."""
        position = self.publisher.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        assert position
        self._wait(
            self.subscriber,
            "SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel",
        )
        self._wait(
            self.publisher,
            "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE slot_name = %s",
            [*position, self.name],
        )

    @staticmethod
    def _wait(connection: psycopg.Connection[Any], query: str, values: Any = None) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            row = connection.execute(query.encode(), values).fetchone()
            if row and row[0]:
                return
            time.sleep(0.02)
        raise AssertionError(f"the subscriber does not catch up: {query}")

    def drop(self) -> None:
        name = sql.Identifier(self.name)
        for statement in ("DISABLE", "SET (slot_name = NONE)"):
            self.subscriber.execute(sql.SQL("ALTER SUBSCRIPTION {} " + statement).format(name))
        self.subscriber.execute(sql.SQL("DROP SUBSCRIPTION {}").format(name))
        self._wait(
            self.publisher,
            "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = %s AND active",
            [self.name],
        )
        self.publisher.execute("SELECT pg_drop_replication_slot(%s)", [self.name])
        self.publisher.close()
        self.subscriber.close()


@pytest.fixture
def subscribe(
    server: PostgresServer, database: str, make_database: Callable[..., str]
) -> Iterator[Callable[..., Subscription]]:
    """Makes a publisher with the table, filled, and subscribes to it with further options."""
    made: list[Subscription] = []

    def make(table: str, publication: str = "", options: str = "") -> Subscription:
        publisher = make_database()
        with psycopg.connect(server.superuser_url(publisher)) as connection:
            connection.execute("CREATE SCHEMA raw")
            connection.execute(table.encode())
            connection.execute(
                "INSERT INTO raw.t SELECT i, timestamptz '2026-03-01 00:00+00'"
                " + make_interval(mins => 13 * i), i % 3, i FROM generate_series(0, 99) AS i"
            )
            connection.execute(f"CREATE PUBLICATION p FOR TABLE raw.t {publication}".encode())
            # What is larger is streamed before it is committed.
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'").format(
                    sql.Identifier(publisher)
                )
            )
        made.append(Subscription(server, publisher, database, options))
        return made[-1]

    yield make
    for subscription in made:
        subscription.drop()


def create_rollups(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour', 'ts',"
        " dimensions => '{device}')"
    )
    connection.execute("SELECT silver.create_rollup_table('t_1h', 'silver', 't_1d', '1 day')")


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("through_the_root", [True, False], ids=["by the root", "by partition"])
def test_promise_a_b_a_subscriber(
    db: psycopg.Connection,
    subscribe: Callable[..., Subscription],
    kind: str,
    through_the_root: bool,
) -> None:
    db.execute(TABLES[kind].encode())
    create_rollups(db)
    refresh_everything(db)
    published = "partitioned" if kind == "partitioned" and not through_the_root else "plain"
    subscription = subscribe(
        TABLES[published], f"WITH (publish_via_partition_root = {through_the_root})"
    )
    subscription.catch_up()
    assert_equal_to_group_by(db, "t_1h", "t_1d")
    refresh_everything(db)
    assert_settled(db, "t_1h", "t_1d")
    for statement in STREAMED:
        subscription.publisher.execute(statement.encode())
        subscription.catch_up()
        try:
            assert_equal_to_group_by(db, "t_1h", "t_1d")
            refresh_everything(db)
            assert_settled(db, "t_1h", "t_1d")
        except AssertionError as error:
            raise AssertionError(f"{statement}: {error}") from error


COMPUTED = """
    CREATE TABLE raw.t (
        id integer, base timestamptz, device integer, v integer, {computed}
        PRIMARY KEY (id, device)
    ) PARTITION BY LIST (device);
    CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES IN (1);
    CREATE TABLE raw.t_0 PARTITION OF raw.t DEFAULT;
"""
COMPUTED_TIME = (
    "ts timestamp GENERATED ALWAYS AS ((base AT TIME ZONE 'UTC') + interval '1 hour') STORED,"
)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO raw.t VALUES (900, '2026-05-01 00:00+00', 1, 99)",
        "UPDATE raw.t SET base = '2026-05-01 00:00+00' WHERE id = 1",
    ],
)
def test_promise_a_b_a_time_that_is_computed_after_the_triggers(
    db: psycopg.Connection, subscribe: Callable[..., Subscription], change: str
) -> None:
    """What the same transaction logged of deleted rows does not stand for rows without a time."""
    db.execute(COMPUTED.format(computed=COMPUTED_TIME).encode())
    create_rollups(db)
    subscription = subscribe(COMPUTED.format(computed=""))
    subscription.catch_up()
    refresh_everything(db)
    with subscription.publisher.transaction():
        for deleted in (0, 50, 2):
            subscription.publisher.execute("DELETE FROM raw.t WHERE id = %s", [deleted])
        subscription.publisher.execute(change.encode())
    subscription.catch_up()
    assert_equal_to_group_by(db, "t_1h", "t_1d")
    refresh_everything(db)
    assert_settled(db, "t_1h", "t_1d")


def test_promise_a_b_a_large_transaction_is_streamed(
    db: psycopg.Connection, subscribe: Callable[..., Subscription]
) -> None:
    """It is logged once for each bucket, not for each row; what a savepoint took back is not."""
    db.execute(TABLES["partitioned"].encode())
    create_rollups(db)
    refresh_everything(db)
    subscription = subscribe(TABLES["plain"], options=", streaming = on")
    subscription.catch_up()
    refresh_everything(db)
    with subscription.publisher.transaction():
        for part in range(3):
            with subscription.publisher.transaction(force_rollback=part == 1):
                subscription.publisher.execute(
                    "INSERT INTO raw.t SELECT 1000 + i, timestamptz '2026-03-01 00:00+00'"
                    " + make_interval(secs => i), i %% 3, i"
                    " FROM generate_series(%s::int, %s::int) AS i",
                    [20_000 * part, 20_000 * part + 19_999],
                )
    subscription.catch_up()
    assert_equal_to_group_by(db, "t_1h", "t_1d")
    row = db.execute("SELECT count(*) FROM rollup_engine.change_log").fetchone()
    assert row
    assert row[0] < 100
    refresh_everything(db)
    assert_settled(db, "t_1h", "t_1d")


def test_promise_b_rows_of_another_owner_on_a_subscriber(
    db: psycopg.Connection, subscribe: Callable[..., Subscription], server: PostgresServer
) -> None:
    """The worker of a superuser's subscription becomes the owner of the table for each row."""
    if server.user != server.superuser:
        pytest.skip("here the owner of the table is another role in every test")
    db.execute(TABLES["plain"].encode())
    create_rollups(db)
    db.execute("ALTER TABLE raw.t OWNER TO tsrollup_owner")
    refresh_everything(db)
    subscription = subscribe(TABLES["plain"])
    subscription.catch_up()
    refresh_everything(db)
    subscription.publisher.execute("UPDATE raw.t SET v = v + 1")
    subscription.publisher.execute("DELETE FROM raw.t WHERE id % 2 = 0")
    subscription.catch_up()
    assert_equal_to_group_by(db, "t_1h", "t_1d")


@pytest.mark.parametrize("kind", ["partitioned", "a partition"])
def test_promise_a_b_a_large_transaction_is_applied_by_a_parallel_worker(
    db: psycopg.Connection, subscribe: Callable[..., Subscription], kind: str
) -> None:
    """Where a trigger fires after each row of a partition, the server's worker stops for ever."""
    if db.info.server_version < 160000:
        pytest.skip("parallel apply is of 16")
    db.execute(TABLES[kind].encode())
    create_rollups(db)
    refresh_everything(db)
    subscription = subscribe(TABLES["plain"], options=", streaming = parallel")
    subscription.catch_up()
    refresh_everything(db)
    for statement in (
        "INSERT INTO raw.t SELECT 1000 + i, timestamptz '2026-03-01 00:00+00'"
        " + make_interval(secs => i), i % 3, i FROM generate_series(0, 4999) AS i",
        "UPDATE raw.t SET v = v + 1",
        "UPDATE raw.t SET ts = ts + interval '1 day' WHERE device = 1",
        "DELETE FROM raw.t WHERE id % 2 = 0",
    ):
        subscription.publisher.execute(statement.encode())
        subscription.catch_up()
        assert_equal_to_group_by(db, "t_1h", "t_1d")
    row = db.execute("SELECT count(*) FROM rollup_engine.change_log").fetchone()
    assert row
    assert row[0] < 400
    refresh_everything(db)
    assert_settled(db, "t_1h", "t_1d")


@pytest.mark.parametrize("is_by_row", [False, True])
def test_promise_f_late_rows_of_every_part_of_a_streamed_transaction_are_counted(
    db: psycopg.Connection, subscribe: Callable[..., Subscription], is_by_row: bool
) -> None:
    """A parallel worker makes a part of each savepoint of it."""
    if db.info.server_version < 160000:
        pytest.skip("parallel apply is of 16")
    db.execute(TABLES["partitioned"].encode())
    create_rollups(db)
    capture_by_row(db, is_by_row)
    refresh_everything(db)
    subscription = subscribe(TABLES["plain"], options=", streaming = parallel")
    subscription.catch_up()
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.t', '1 day')")
    maintained(db, "2026-03-04")
    db.execute("SELECT silver.set_retention('raw.t', NULL)")
    with subscription.publisher.transaction():
        for part in range(3):
            with subscription.publisher.transaction():
                subscription.publisher.execute(
                    "INSERT INTO raw.t SELECT 10000 * (1 + %s) + i, '2026-03-01 10:00+00', 1, 1"
                    " FROM generate_series(1, 1500) AS i",
                    [part],
                )
    subscription.catch_up()
    refresh_everything(db)
    counted = db.execute("SELECT max(sealed_late_rows) FROM silver.rollup_config").fetchone()
    assert counted == (4500,)
