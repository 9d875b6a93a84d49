"""Cold data as the page about it tells: what was written, dropped and brought back is what was
there, whatever its types, names and the settings of the database, and whoever is killed."""

import os
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from pyarrow import parquet

from blackbox.odd_values import DEFINITIONS, TYPES
from command_line import start_tsrollup
from command_line import tsrollup_here as here
from servers import PostgresServer

Connection = psycopg.Connection[Any]

SEED = int(os.environ["TSROLLUP_SEED"])
# What makes texts of values others.
SETTINGS = {
    "datestyle": "SQL, DMY", "intervalstyle": "sql_standard", "timezone": "Asia/Kathmandu",
    "extra_float_digits": "-15", "bytea_output": "escape", "search_path": "raw, silver",
    "quote_all_identifiers": "on", "xmloption": "document", "standard_conforming_strings": "off",
}  # fmt: skip
SETTLED = """
    SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = ISO; SET LOCAL search_path = '';
    SET LOCAL intervalstyle = postgres; SET LOCAL extra_float_digits = 1;
    SET LOCAL bytea_output = hex
"""
PARTITION = """
    CREATE TABLE raw.cold_{day} PARTITION OF raw.cold
        FOR VALUES FROM ('2026-01-{day:02} 00:00+00') TO ('2026-01-{next:02} 00:00+00')
"""
FILL = """
    INSERT INTO raw.cold SELECT timestamptz '2026-01-01 00:01+00' + make_interval(mins => 45 * n),
        'd' || n % 5, nullif(n % 7, 3) / 8.0, n
    FROM generate_series(0, {days} * 32 - 1) AS n
"""
ODD_NAMES = [
    "..", "../../x", "a/b", 'q"uote', "per%20cent", "eq=ual", "UPPER", "upper", "é" * 31, " sp ",
    "*?[a]", "back\\slash", "new\nline", "-rf", "x" * 63, "#;$HOME",
]  # fmt: skip
BACKENDS = """
    SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    return server.url(database)


def make_days(db: Connection, columns: str, days: int) -> None:
    """A table, a partition a day of January."""
    table = f"CREATE TABLE raw.cold (ts timestamptz NOT NULL, {columns}) PARTITION BY RANGE (ts)"
    db.execute(table.encode())
    for day in range(1, days + 1):
        db.execute(PARTITION.format(day=day, next=day + 1).encode())


def fill_days(db: Connection, days: int) -> "Counter[Any]":
    """Its rows, and how often each is there."""
    make_days(db, "device text, level float8, n integer", days)
    db.execute(FILL.format(days=days).encode())
    return Counter(db.execute("SELECT * FROM raw.cold").fetchall())


def move_aside(url: str, number: int, *tables: str) -> None:
    """So many partitions of the tables; what is in use at the moment is for a later maintenance."""
    succeed(url, "run")
    for table in tables:
        succeed(url, "retention", table, "30 days", "--archive")
    for _ in range(50):
        succeed(url, "maintain")
        if len(here("archive", "list", "--json", url=url).json()) == number:
            return
    raise AssertionError(here("maintain", url=url).out)


def archive_all(url: str, folder: Path) -> None:
    """A table in use is left for the next run."""
    for _ in range(50):
        succeed(url, "archive", "run", "--to", str(folder))
        rows = here("archive", "list", "--json", url=url).json()
        if not [row for row in rows if row["state"] == "waiting"]:
            return
    raise AssertionError(rows)


def roll_up(db: Connection, table: str, name: str, dimension: str, value: str) -> None:
    db.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, '1 day', dimensions => %s,"
        " metrics => jsonb_build_object(%s::text, '[\"count\"]'::jsonb))",
        [table, name, [dimension] if dimension else [], value],
    )


def succeed(url: str, *arguments: str) -> None:
    done = here(*arguments, url=url)
    assert done.code == 0, (arguments, done)


def texts_of(db: Connection, table: str) -> "Counter[str]":
    """Its rows as text, by settings of this test, and how often each is there."""
    with db.transaction():
        db.execute(SETTLED)
        rows = db.execute(f"SELECT t::text FROM {table} AS t".encode()).fetchall()
    return Counter(text for (text,) in rows)


def columns_of(db: Connection, table: str) -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT attname, format_type(atttypid, atttypmod), attcollation, attnotnull"
        " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum",
        [table],
    ).fetchall()


def recorded(db: Connection) -> list[dict[str, Any]]:
    cursor = db.cursor(row_factory=dict_row)
    return cursor.execute(
        "SELECT * FROM silver.archive_log WHERE replaced_by IS NULL ORDER BY id"
    ).fetchall()


def rows_of_files(db: Connection) -> "Counter[Any]":
    found: Counter[Any] = Counter()
    for row in recorded(db):
        table = parquet.ParquetFile(Path(row["location"]) / row["file"]).read()
        rows = [tuple(values.values()) for values in table.to_pylist()]
        assert len(rows) == row["row_count"]
        found.update(rows)
    return found


def rows_of_tables(db: Connection) -> "Counter[Any]":
    found: Counter[Any] = Counter()
    tables = db.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace IN ('raw'::regnamespace, to_regnamespace('raw_archive'))"
    ).fetchall()
    for (table,) in tables:
        found.update(db.execute(f"SELECT * FROM {table}".encode()).fetchall())
    return found


def test_values_of_all_types(url: str, database: str, db: Connection, tmp_path: Path) -> None:
    """Written in settings that write them otherwise, and brought back in PostgreSQL's own."""
    db.execute(DEFINITIONS)
    names = [f'"{number} {kind.replace(chr(34), "")[:20]}"' for number, kind in enumerate(TYPES)]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, TYPES, strict=True))
    make_days(db, "gone integer, " + columns, 2)
    db.execute("ALTER TABLE raw.cold DROP COLUMN gone")
    marks = ", ".join(f"%s::{kind.partition(' COLLATE')[0]}" for kind in TYPES)
    chance = Random(SEED)
    most = max(map(len, TYPES.values()))
    for number in range(2 * most):
        row = [v[number] if number < len(v) else None for v in TYPES.values()]
        if number >= most:
            row = [chance.choice([*texts, None]) for texts in TYPES.values()]
        moment = f"2026-01-0{1 + number % 2} 12:00:00.{number:06}+00"
        db.execute(f"INSERT INTO raw.cold VALUES (%s, {marks})".encode(), [moment, *row])
    wanted = {day: texts_of(db, f"raw.cold_{day}") for day in (1, 2)}
    was = columns_of(db, "raw.cold_1")
    roll_up(db, "raw.cold", "cold_1d", "", "ts")
    move_aside(url, 2, "cold")

    for name, value in SETTINGS.items():
        db.execute(f"ALTER DATABASE {database} SET {name} = '{value}'".encode())
    archive_all(url, tmp_path)
    succeed(url, "archive", "verify")
    db.execute(f"ALTER DATABASE {database} RESET ALL".encode())
    assert not rows_of_tables(db)
    succeed(url, "archive", "restore", "cold", "2026-01-01", "2026-01-03")
    for day, rows in wanted.items():
        assert texts_of(db, f"raw_archive.cold_{day}") == rows
        assert columns_of(db, f"raw_archive.cold_{day}") == was


@pytest.mark.spread
def test_names(url: str, db: Connection, tmp_path: Path) -> None:
    """Of schema, tables, partitions and columns: their files stay below the folder."""
    schema = 'Odd "/../" schema'
    tables = [sql.Identifier(schema, name).as_string(db) for name in ODD_NAMES]
    db.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    for number, (name, table) in enumerate(zip(ODD_NAMES, tables, strict=True)):
        day = sql.Identifier(schema, ODD_NAMES[number - 1][:50] + " of January")
        statement = (
            'CREATE TABLE {0} (ts timestamptz, "date" int, "table" text, {1} int)'
            " PARTITION BY RANGE (ts); CREATE TABLE {2} PARTITION OF {0}"
            " FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');"
            " INSERT INTO {0} VALUES ('2026-01-05 00:00+00', 1, {3}, 3),"
            " ('2026-01-06 00:00+00', NULL, NULL, NULL)"
        )
        db.execute(
            sql.SQL(statement).format(sql.SQL(table), sql.Identifier(name), day, sql.Literal(name))
        )
        roll_up(db, table, f"odd_{number}", "table", "date")
    move_aside(url, len(tables), *tables)
    cold = tmp_path / "cold %20 é"
    archive_all(url, cold)
    assert len(list(cold.rglob("*.parquet"))) == len(ODD_NAMES)
    assert list(tmp_path.iterdir()) == [cold]
    succeed(url, "archive", "verify")
    for number, (name, table) in enumerate(zip(ODD_NAMES, tables, strict=True)):
        succeed(url, "archive", "restore", table, "2026-01-01", "2026-02-01")
        day = sql.Identifier(schema + "_archive", ODD_NAMES[number - 1][:50] + " of January")
        rows = db.execute(sql.SQL("SELECT * FROM {} ORDER BY ts").format(day)).fetchall()
        assert [row[1:] for row in rows] == [(1, name, 3), (None, None, None)]


@pytest.mark.spread
def test_files_that_are_other_ones(url: str, db: Connection, tmp_path: Path) -> None:
    """A bit, an end, another file in its place, none: verify tells, and restore does nothing."""
    rows = fill_days(db, 2)
    roll_up(db, "raw.cold", "cold_1d", "device", "n")
    move_aside(url, 2, "cold")
    archive_all(url, tmp_path)
    assert rows_of_files(db) == rows
    first, second = (tmp_path / row["file"] for row in recorded(db))
    content = first.read_bytes()
    chance = Random(SEED)
    place = chance.randrange(len(content))
    byte = bytes([content[place] ^ 1 << chance.randrange(8)])
    changed = [
        content[:place] + byte + content[place + 1 :], content[:-1], content + b"\0", b"",
        second.read_bytes(), None,
    ]  # fmt: skip
    for other in changed:
        first.unlink()
        if other is not None:
            first.write_bytes(other)
        done = here("archive", "verify", "--json", url=url)
        assert done.code == 1
        told = {row["file"]: row["status"] for row in done.json()}
        assert told.pop(str(second.relative_to(tmp_path))) == "ok"
        assert list(told.values()) != ["ok"]
        assert here("archive", "restore", "cold", "2026-01-01", "2026-01-02", url=url).code == 1
        assert not rows_of_tables(db)
        first.write_bytes(content)
    succeed(url, "archive", "verify")
    succeed(url, "archive", "restore", "cold", "2026-01-01", "2026-01-03")
    assert rows_of_tables(db) == rows


@pytest.mark.spread
def test_archivers_that_are_killed_and_two_at_once(
    url: str, db: Connection, tmp_path: Path
) -> None:
    """At each moment each row is in a table, or in one file that is recorded."""
    rows = fill_days(db, 9)
    roll_up(db, "raw.cold", "cold_1d", "device", "n")
    move_aside(url, 9, "cold")
    gold = db.execute("SELECT * FROM gold.cold_1d ORDER BY 1, 2").fetchall()
    run = ["archive", "run", "--to", str(tmp_path)]
    chance = Random(SEED)
    for is_late in (False, True, False, True):
        there, known = set(tmp_path.rglob("*")), len(recorded(db))
        archiver = start_tsrollup(*run, url=url)
        while archiver.poll() is None:
            if is_late and len(recorded(db)) > known:
                break
            if not is_late and set(tmp_path.rglob("*")) - there:
                break
        time.sleep(chance.choice([0, 0.002, 0.01, 0.03]))
        archiver.send_signal(signal.SIGKILL)
        archiver.communicate()
        while db.execute(BACKENDS).fetchone():
            time.sleep(0.01)
        assert rows_of_files(db) + rows_of_tables(db) == rows
        succeed(url, "archive", "verify")
    archivers = [start_tsrollup(*run, url=url) for _ in range(2)]
    for archiver in archivers:
        told, _ = archiver.communicate()
        assert archiver.returncode == 0, told
    archive_all(url, tmp_path)
    assert rows_of_files(db) == rows
    assert not rows_of_tables(db)
    assert db.execute("SELECT * FROM gold.cold_1d ORDER BY 1, 2").fetchall() == gold
