"""Promise j, of a source that refers to another table: DDL on its partitions locks that one too;
who has written there and now comes to the source is not to be the victim of a deadlock."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from interleaving import Background
from rollup_checks import assert_equal_to_group_by, refresh_everything

Connect = Callable[..., psycopg.Connection[Any]]

WORK = {
    "old partitions": "SELECT * FROM silver.maintain_timeseries_tables('raw.m')",
    "partitions ahead": "SELECT * FROM"
    " rollup_engine.run_maintenance('raw.m', now() + interval '9 days')",
}


@pytest.fixture
def source(db: psycopg.Connection) -> psycopg.Connection:
    """Sealed, with partitions that may be dropped."""
    db.execute("CREATE TABLE public.device (id integer PRIMARY KEY, seen timestamptz)")
    db.execute("INSERT INTO public.device VALUES (1), (2)")
    db.execute(
        "CREATE TABLE raw.m (ts timestamptz NOT NULL, device integer REFERENCES public.device,"
        " v integer) PARTITION BY RANGE (ts)"
    )
    db.execute("SELECT silver.partition_source('raw.m', '1 day')")
    db.execute(
        "DO $$ DECLARE d timestamptz := date_bin('24 hours', now(), '2000-01-03 00:00+00'); BEGIN"
        " FOR i IN 1..9 LOOP EXECUTE format('CREATE TABLE raw.m_old_%s PARTITION OF raw.m"
        " FOR VALUES FROM (%L) TO (%L)', i, d - i * interval '24 hours',"
        " d - (i - 1) * interval '24 hours'); END LOOP; END $$"
    )
    db.execute(
        "INSERT INTO raw.m SELECT now() - i * interval '24 hours', 1, i"
        " FROM generate_series(0, 8) AS i"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour',"
        " dimensions => '{device}')"
    )
    refresh_everything(db)
    db.execute("SELECT silver.set_retention('raw.m', '4 days')")
    done = db.execute(WORK["old partitions"].encode()).fetchall()
    assert "sealed" in {row[1] for row in done}, done
    return db


@pytest.mark.parametrize("work", WORK)
def test_promise_j_who_holds_a_referred_table_is_not_waited_for(
    source: psycopg.Connection, connect: Connect, work: str
) -> None:
    before = partitions(source)
    user = connect(autocommit=False)
    user.execute("UPDATE public.device SET seen = now() WHERE id = 1")
    maintenance = connect(autocommit=False)
    maintenance.execute("SET statement_timeout = '30s'")  # it would wait for the user for ever
    try:
        maintenance.execute(WORK[work].encode())
    except psycopg.errors.LockNotAvailable:
        maintenance.rollback()
    assert partitions(source) == before
    inserting = Background(user, "INSERT INTO raw.m VALUES (now(), 2, 100)")
    maintenance.commit()
    inserting.result()
    user.commit()
    assert_equal_to_group_by(source, "m_1h")

    source.execute(WORK[work].encode())
    assert partitions(source) != before
    assert_equal_to_group_by(source, "m_1h")


def partitions(connection: psycopg.Connection[Any]) -> list[Any]:
    return connection.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'raw.m'::regclass"
        " ORDER BY 1"
    ).fetchall()
