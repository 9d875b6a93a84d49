"""Names of every kind, for tables, partitions, columns and rollups."""

from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

pytestmark = pytest.mark.spread

HOSTILE = [
    'q"uo"te',
    "apo'strophe",
    "Capital Letters",
    "select",
    "100%",
    "%s %I %1$s",
    "{time} {value} {rows}",
    "{count}{sum}{state}{type}{from}{to}{table}{id}{late}",
    "$1 $sql$ $capture$ $body$",
    "back\\slash",
    "semi;colon--comment /*",
    "dot.ted",
    "ünï→cödé 時間",
    "时" * 21,
    "x" * 63,
    "next_bucket",
    "from_time",
    "to_time",
    "t",
    "f",
    "fresh",
    "excluded",
    "tsrollup_batch",
    "r",
    "ts",
    "user",
    "line\nfeed",
]


@pytest.mark.parametrize(
    "name", HOSTILE, ids=[x[:20].encode("unicode_escape").decode() for x in HOSTILE]
)
def test_hostile_names(db: psycopg.Connection, name: str) -> None:
    """The name for the table, its partitions, its time column, dimension, metric and the rollup,
    with a hierarchy, moves and every way of refreshing."""
    for position in range(3):
        columns = [name if i == position else x for i, x in enumerate(("at", "device", "v"))]
        _hostile(db, _fit(f"{position}{name}"), columns)


def _fit(name: str) -> str:
    return name.encode()[:63].decode(errors="ignore")


def _hostile(connection: psycopg.Connection[Any], table: str, columns: list[str]) -> None:
    source = sql.Identifier("raw", table)
    time, device, value = map(sql.Identifier, columns)

    def run(statement: str) -> None:
        connection.execute(
            sql.SQL(statement).format(source=source, time=time, device=device, value=value)
        )

    run(
        "CREATE TABLE {source} ({time} timestamptz, {device} text, {value} double precision)"
        " PARTITION BY RANGE ({time})"
    )
    for year in (2025, 2026):
        part = sql.Identifier("raw", _fit(f"{year}{table}"))
        connection.execute(
            sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                part, source, f"{year}-01-01", f"{year + 1}-01-01"
            )
        )
    run(
        "INSERT INTO {source} SELECT timestamptz '2025-12-30 00:00+00' + make_interval(hours => i),"
        " CASE i % 3 WHEN 0 THEN NULL ELSE 'd' || i % 3 END, i / 8.0"
        " FROM generate_series(0, 99) AS i"
    )
    rollups = [_fit(f"h{table}"), _fit(f"d{table}")]
    connection.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, '2 hours', time_column => %s,"
        " dimensions => ARRAY[%s], metrics => %s::jsonb)",
        [
            source.as_string(connection),
            rollups[0],
            columns[0],
            columns[1],
            Jsonb({columns[2]: ["avg", "min", "max", "first", "last"]}),
        ],
    )
    targets = [sql.Identifier("gold", x).as_string(connection) for x in rollups]
    connection.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 day')", [targets[0], rollups[1]]
    )
    assert_equal_to_group_by(connection, *targets)
    refresh_everything(connection)
    assert_settled(connection, *targets)
    run("UPDATE {source} SET {time} = {time} + interval '71:07:03' WHERE {value} < 2")
    run(
        "MERGE INTO {source} AS t USING (SELECT 1) AS s ON t.{time} < '2026-01-01'"
        " WHEN MATCHED THEN UPDATE SET {time} = t.{time} + interval '160:03:02'"
    )
    assert_equal_to_group_by(connection, *targets)
    connection.execute("CALL silver.run_rollups(%s, as_of => 'infinity')", [targets[0]])
    connection.execute("SELECT silver.refresh_rollup(%s, '2025-12-01', '2026-02-01')", [targets[1]])
    assert_settled(connection, *targets)
    for target in reversed(targets):
        connection.execute("SELECT silver.drop_rollup(%s)", [target])
    run("DROP TABLE {source}")


@pytest.mark.parametrize("name", ["v_low", "v_high", "v_rows", "v_grain", "ts", "bin", "from_time"])
def test_a_time_column_called_as_capture_calls_its_own_is_captured_finely(
    db: psycopg.Connection, name: str
) -> None:
    db.execute(f"CREATE TABLE raw.named ({name} timestamptz, n integer)".encode())
    db.execute("SELECT silver.create_rollup_table('named', 'silver', 'named_1h', '1 hour')")
    refresh_everything(db)
    db.execute("INSERT INTO raw.named VALUES ('2026-01-01 00:30+00', 1)")
    db.execute(f"UPDATE raw.named SET {name} = '2026-01-02 00:30+00'".encode())
    stale = db.execute("SELECT rollup_engine.stale_set(1)::text").fetchone()
    assert stale
    assert "infinity" not in stale[0]
    assert_equal_to_group_by(db, "named_1h")


@pytest.mark.parametrize("name", ["tsrollup_next", "tsrollup_stale"])
def test_a_dimension_called_as_the_live_view_calls_its_own_is_refused(
    db: psycopg.Connection, name: str
) -> None:
    db.execute(f"CREATE TABLE raw.named (ts timestamptz, {name} integer)".encode())
    with pytest.raises(psycopg.Error, match="the live view itself") as refusal:
        db.execute(
            "SELECT silver.create_rollup_table('named', 'silver', 'n', '1 hour',"
            " dimensions => ARRAY[%s])",
            [name],
        )
    assert refusal.value.sqlstate == "TR001"


def test_a_column_is_found_as_the_hint_spells_it(db: psycopg.Connection) -> None:
    db.execute('CREATE TABLE raw.m (ts timestamptz, "Dev Ice" text, v numeric)')
    db.execute(
        "SELECT silver.create_rollup_table('raw.m', 'silver', 'm_1h', '1 hour',"
        " dimensions => ARRAY['\"Dev Ice\"'])"
    )
    assert db.execute("SELECT dimensions FROM silver.rollup_config").fetchone() == (["Dev Ice"],)


def test_names_that_partitions_would_have_are_taken(db: psycopg.Connection) -> None:
    """Of the default one, of one to come, and of the parts of one to come."""
    db.execute("SET timezone = 'UTC'")
    db.execute("CREATE TABLE raw.m (ts timestamptz, k text) PARTITION BY RANGE (ts)")
    db.execute(
        "CREATE TABLE raw.m_first PARTITION OF raw.m FOR VALUES FROM ('2026-01-01') TO"
        " ('2026-01-02') PARTITION BY LIST (k)"
    )
    db.execute("CREATE TABLE raw.m_first_a PARTITION OF raw.m_first FOR VALUES IN ('a')")
    db.execute(f"CREATE TABLE raw.{'x' * 63} PARTITION OF raw.m_first FOR VALUES IN ('b')")
    day = db.execute("SELECT to_char(now(), 'YYYYMMDD')").fetchone()
    assert day
    db.execute("CREATE TABLE raw.m_default (kept int)")
    db.execute(f"CREATE VIEW raw.m_p{day[0]}_000000 AS SELECT 1 AS kept")
    db.execute(f"CREATE DOMAIN raw.m_p{day[0]}_000000_1_a AS text")
    db.execute("SELECT silver.partition_source('raw.m', '1 day')")
    db.execute("SELECT silver.set_retention('raw.m', '100 years')")
    db.execute("INSERT INTO raw.m VALUES (now(), 'a'), (now() + interval '5 years', 'a')")
    rows = db.execute("SELECT tableoid::regclass::text FROM raw.m ORDER BY ts").fetchall()
    assert rows == [(f"raw.m_p{day[0]}_000000_1_a_1",), ("raw.m_default_1",)]
    db.execute("INSERT INTO raw.m VALUES (now(), 'b')")
    row = db.execute("SELECT tableoid::regclass::text FROM raw.m WHERE k = 'b'").fetchone()
    assert row
    assert row[0].startswith(f"raw.m_p{day[0]}_000000_1_")
