"""What comes back from an archive is what went there: every type, and every value of it."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyarrow import parquet

from cold_tables import archive_all, content, move_aside, restore_all
from servers import PostgresServer
from tsrollup.archive import parquet as parquet_files
from tsrollup.archive.restoring import restore
from tsrollup.connection import connect

SCHEMA = """
    CREATE TYPE raw.mood AS ENUM ('so so', 'it''s "fine"', '');
    CREATE TYPE raw.pair AS (a integer, b text);
    CREATE DOMAIN raw.percent AS numeric(5, 2) CHECK (VALUE < 900 OR VALUE = 'NaN');
    CREATE DOMAIN raw.half AS raw.percent NOT NULL DEFAULT 50;
    CREATE DOMAIN raw.pairs AS raw.pair[];
"""

# A column of each type, and what it may hold at worst.
VALUES: dict[str, list[str]] = {
    "boolean": ["true", "false"],
    "smallint": ["-32768", "32767"],
    "integer": ["-2147483648", "0"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "real": ["'NaN'", "'-Infinity'", "'-0'", "1.1", "1e-45", "3.4028235e38"],
    "double precision": [
        *("'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "0.1", "5e-324"),
        *("1.7976931348623157e308", "1.7976931348623155e308", "0.30000000000000004"),
    ],
    "numeric": ["'NaN'", "'Infinity'", "1.50", "1.5", "0", "1e-100", "-1e130"],
    "numeric(38, 10)": ["9999999999999999999999999999.9999999999", "-0.0000000001", "0"],
    "numeric(10, 2)": ["99999999.99", "-1.50", "0"],
    "numeric(9, 3)": ["'NaN'", "1.5"],
    "numeric(60, 20)": ["1e39", "-1.5"],
    "numeric(3, -2)": ["12300", "-45600"],
    "numeric(2, 5)": ["0.00012"],
    "raw.percent": ["'NaN'", "12.5"],
    "raw.half": ["12.50", "-0.01"],
    "money": ["-12.34", "12345678.9"],
    "date": ["'0001-01-01'", "'9999-12-31'", "'2024-02-29'"],
    "date[]": ["'{infinity,-infinity,0044-03-15 BC}'"],
    "time": ["'00:00'", "'23:59:59.999999'"],
    "time(3)": ["'24:00:00'", "'12:00:00.125'"],
    "timetz": ["'12:00:00.5-03:30'", "'24:00:00+14'"],
    "timestamp": ["'0001-01-01'", "'9999-12-31 23:59:59.999999'", "'1969-12-31 23:59:59.999999'"],
    "timestamp(0)": ["'infinity'", "'2026-03-01'"],
    "timestamptz": ["'0001-01-01Z'", "'9999-12-31 23:59:59.999999Z'"],
    "timestamptz(3)": [
        "'-infinity'",
        "'2026-03-29 01:30:00.5Z'",
        "'4713-01-01 BC'",
        "'294276-1-1'",
    ],
    "interval": ["'1 year -2 mons 3 days -04:05:06.000007'", "'-1 day'", "'0'", "'36:00'"],
    "text": [
        *("''", "' '", "'a,b'", r"'\N'", r"'\.'", r"E'a\n\\.\nb'", r"E'a\r\nb\rc'", "'NULL'"),
        *("'\"'", "'say \"\"'", r"E'\t'", "'é😀'", "'null'", "'NaN'", "repeat('x', 6000000)"),
    ],
    "varchar(3)": ["''", "'ab '"],
    "char(5)": ["''", "'ab'", "'  c'"],
    "bpchar": ["'ab  '"],
    '"char"': ["'x'", "''"],
    "name": ["'n'"],
    "bytea": [r"'\x'", r"'\x00ff5c0a'", "convert_to(repeat('y', 100000), 'UTF8')"],
    "uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "json": ["""'{"a" : 1,  "a": 2}'""", "'null'"],
    "jsonb": ["""'{"a": 1.50, "é": [null, "\\u0041"]}'""", "'null'"],
    "xml": ["'<a b=\"c\">d &amp; e</a>'", "'two <b/>'"],
    "inet": ["'1.2.3.4'", "'1.2.3.4/8'", "'::1'"],
    "macaddr8": ["'08:00:2b:01:02:03:04:05'"],
    "bit(3)": ["B'101'"],
    "varbit": ["B''", "B'10'"],
    "point": ["'(0.1,-0)'", "'(NaN,Infinity)'"],
    "tsvector": ["$$'a b':1A 'it''s':2$$"],
    "int[]": ["'{}'", "'{NULL,1}'", "'[0:1][2:3]={{1,2},{3,4}}'"],
    "text[]": ["""'{"NULL",NULL,"","a,b","\\""}'"""],
    "raw.mood": ["'so so'", "'it''s \"fine\"'", "''"],
    "raw.mood[]": ["""ARRAY['', 'it''s "fine"']::raw.mood[]"""],
    "raw.pair": ["ROW(NULL, NULL)", "ROW(1, '')", "ROW(2, 'a \"b\",c)')"],
    "raw.pairs": ["ARRAY[ROW(1, NULL), NULL]::raw.pair[]"],
    "int4range": ["'empty'", "'[1,)'", "'(,)'"],
    "tstzmultirange": ["'{}'", "'{[2026-01-01,2026-01-02),(2026-02-01,infinity)}'"],
    "oid": ["4294967295"],
    "regclass": ["'silver.rollup_config'", "'raw.t'"],
    "pg_lsn": ["'16/B374D848'"],
    "xid8": ["'18446744073709551615'"],
}

AS_TEXT_FOR_ITS_VALUES = (
    "numeric(9, 3)",
    "raw.percent",
    "time(3)",
    "timestamp(0)",
    "timestamptz(3)",
)
AS_THEY_ARE = (
    *("boolean", "smallint", "integer", "bigint", "real", "double precision", "numeric(38, 10)"),
    *("numeric(10, 2)", "raw.half", "date", "time", "timestamp", "timestamptz", "text"),
    *("varchar(3)", "bytea"),
)


def create(db: psycopg.Connection[Any], server: PostgresServer) -> None:
    """A row for each value and one of NULLs; columns that are gone, generated, or an identity."""
    db.execute(SCHEMA)
    columns = ", ".join(f'"c{n}" {name}' for n, name in enumerate(VALUES))
    db.execute(
        f"CREATE TABLE raw.t (gone integer, id integer GENERATED ALWAYS AS IDENTITY,"
        f' ts timestamptz NOT NULL, device text COLLATE "C", {columns}, "date" text, "Table" text,'
        ' "say ""%s"" {{c}} €" text, twice integer GENERATED ALWAYS AS (c2 / 2) STORED, gone2 text)'
        " PARTITION BY RANGE (ts)".encode()
    )
    db.execute("ALTER TABLE raw.t DROP gone2, DROP gone")
    db.execute(
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01Z') TO ('2026-03-2Z');"
        "CREATE TABLE raw.t_2 PARTITION OF raw.t FOR VALUES FROM ('2026-03-31Z') TO ('2026-04-01Z')"
    )
    for n, (name, values) in enumerate(VALUES.items()):
        if name == "xml" and server.name == "embedded":
            continue  # which is built without it
        for value in values:
            given = (
                f"INSERT INTO raw.t (ts, device, c{n}) VALUES ('2026-03-01 10:30Z', 'd', {value})"
            )
            db.execute(given.encode())
    db.execute("INSERT INTO raw.t (ts) VALUES ('2026-03-01 00:00Z')")
    db.execute(
        "SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour',"
        " dimensions => '{device}', metrics => '{\"c2\": [\"sum\"]}')"
    )


def test_every_value_comes_back(
    db: psycopg.Connection, server: PostgresServer, database: str, tmp_path: Path
) -> None:
    # What a role or a database sets does not change what is written.
    db.execute(f"ALTER DATABASE {database} SET datestyle = 'German'")
    db.execute(f"ALTER DATABASE {database} SET intervalstyle = 'sql_standard'")
    db.execute(f"ALTER DATABASE {database} SET timezone = 'Asia/Kolkata'")
    db.execute(f"ALTER DATABASE {database} SET extra_float_digits = -4")
    db.execute(f"ALTER DATABASE {database} SET bytea_output = 'escape'")
    db.execute(f"ALTER DATABASE {database} SET statement_timeout = '1min'")
    create(db, server)
    assert move_aside(db, "raw.t") == ["raw_archive.t_1"]
    before = content(db, "raw_archive.t_1")
    url = server.url(database)

    (moved,) = archive_all(url, tmp_path)
    assert (moved.status, moved.row_count) == ("archived", len(before)), moved
    assert db.execute("SELECT to_regclass('raw_archive.t_1')").fetchone() == (None,)

    (path,) = tmp_path.rglob("*.parquet")
    schema = parquet.read_schema(path)
    stored = {name: schema.field(f"c{n}") for n, name in enumerate(VALUES)}
    assert {field.metadata[b"postgresql"].decode() for field in stored.values()} >= {
        "raw.mood", "numeric(3,-2)", "double precision", "timestamp(0) without time zone",
    }  # fmt: skip
    as_text = {name for name, field in stored.items() if field.type == "string"}
    assert as_text & {*AS_THEY_ARE} == {"text", "varchar(3)"}
    assert as_text >= {*AS_TEXT_FOR_ITS_VALUES}
    assert [part.partition("=")[0] for part in path.relative_to(tmp_path).parts[:2]] == [
        "table_", "date_",
    ], "the table has columns of these names"  # fmt: skip

    (back,) = restore_all(url, "t")
    assert (back.status, back.row_count) == ("restored", len(before)), back
    assert content(db, "raw_archive.t_1") == before
    declared = (
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, attcollation"
        " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum"
    )
    columns = [db.execute(declared, [name]).fetchall() for name in ("raw.t", "raw_archive.t_1")]
    assert columns[0] == columns[1]


def test_what_its_types_refuse_by_now_comes_back_plain(
    db: psycopg.Connection, server: PostgresServer, database: str, tmp_path: Path
) -> None:
    db.execute(
        "CREATE DOMAIN raw.whole AS integer; CREATE DOMAIN raw.price AS numeric(5, 2);"
        "CREATE TYPE raw.mood AS ENUM ('fine');"
        "CREATE TABLE raw.t (ts timestamptz, device text, n raw.whole, p raw.price, m raw.mood,"
        " c char(3)) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01Z') TO ('2026-03-2Z');"
        "INSERT INTO raw.t VALUES ('2026-03-01Z', NULL, -1, 1.50, 'fine', 'a')"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    (aside,) = move_aside(db, "raw.t")
    if db.info.server_version >= 180000:
        db.execute(f"ALTER TABLE {aside} ADD NOT NULL device NOT VALID".encode())
    before = content(db, aside)
    url = server.url(database)
    archive_all(url, tmp_path)
    (told,) = restore_all(url, "t")
    assert (told.status, content(db, aside)) == ("restored", before), told.reason
    db.execute(f"DROP TABLE {aside}".encode())
    for change in (
        "ALTER DOMAIN raw.whole ADD CONSTRAINT c CHECK (VALUE > 0) NOT VALID",
        "ALTER DOMAIN raw.whole DROP CONSTRAINT c; ALTER TYPE raw.mood RENAME VALUE 'fine' TO 'ok'",
        "DROP TYPE raw.mood CASCADE",
    ):
        db.execute(change.encode())
        (told,) = restore_all(url, "t")
        assert (told.status, "restore it with --plain" in (told.reason or "")) == ("failed", True)
    with connect(url) as connection:
        (told,) = restore(connection, "t", plain=True)
    assert told.status == "restored", told.reason
    assert content(db, aside) == before
    types = (
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass"
    )
    assert db.execute(f"{types} AND attnum > 1 ORDER BY attnum", [aside]).fetchall() == [
        ("text",), ("integer",), ("numeric(5,2)",), ("text",), ("text",),
    ]  # fmt: skip


def test_a_type_that_has_become_another_reads_nothing(
    db: psycopg.Connection, server: PostgresServer, database: str, tmp_path: Path
) -> None:
    """A stranger's may run as a superuser, one made otherwise takes values for others."""
    stranger = f"stranger_in_{database}"
    db.execute(
        "CREATE TYPE raw.mood AS ENUM ('fine'); CREATE TYPE raw.pair AS (a int, b text);"
        "CREATE TYPE raw.span AS RANGE (SUBTYPE = timestamp);"
        "CREATE TABLE raw.t (ts timestamptz, m raw.mood[], p raw.pair, s raw.span)"
        " PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01Z') TO ('2026-03-2Z');"
        "INSERT INTO raw.t VALUES ('2026-03-01Z', '{fine}', (1, 'x'), '[2026-03-01,2026-03-02)')"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    (aside,) = move_aside(db, "raw.t")
    before = content(db, aside)
    url = server.url(database)
    archive_all(url, tmp_path)
    db.execute("ALTER TABLE raw.t DROP m, DROP p, DROP s")
    db.execute(
        "CREATE TABLE public.ran (as_superuser text);"
        f"CREATE ROLE {stranger}; GRANT {stranger} TO CURRENT_USER;"
        f" GRANT INSERT ON public.ran TO {stranger};"
        f" GRANT CREATE ON DATABASE {database} TO {stranger};"
        f" GRANT CREATE, USAGE ON SCHEMA raw TO {stranger}".encode()
    )
    change = (
        "ALTER TYPE raw.{0} RENAME TO {0}_then; SET ROLE {1};"
        "CREATE OR REPLACE FUNCTION raw.f(text) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.ran VALUES (current_setting('is_superuser'));"
        " RETURN true; END $$; {2}; RESET ROLE"
    )
    back = "DROP TYPE raw.{0} CASCADE; ALTER TYPE raw.{0}_then RENAME TO {0}"
    try:
        for name, other in (
            ("mood", "CREATE DOMAIN raw.mood AS text CHECK (raw.f(value))"),
            ("mood", "CREATE TYPE raw.mood AS ENUM ('fine')"),
            ("pair", "CREATE DOMAIN raw.pair AS raw.pair_then CHECK (raw.f((value).b))"),
            ("pair", "RESET ROLE; CREATE TYPE raw.pair AS (b text, a text)"),
            ("span", "RESET ROLE; CREATE DOMAIN raw.span AS tstzrange"),
        ):
            db.execute(change.format(name, stranger, other).encode())
            (told,) = restore_all(url, "t")
            assert (told.status, told.reason) == (
                "failed",
                f"type raw.{name} is not what it was, or not whose (its types, or their rules,"
                " have changed since: restore it with --plain)",
            )
            db.execute(back.format(name).encode())
        assert db.execute("TABLE public.ran").fetchall() == []
        db.execute(f"ALTER SCHEMA raw_archive OWNER TO {stranger}".encode())
        (told,) = restore_all(url, "t")
        assert f"raw_archive belongs to {stranger}, who could drop" in (told.reason or "")
        db.execute("ALTER SCHEMA raw_archive OWNER TO CURRENT_USER")
        # Whose they were, they may have become who restores it.
        db.execute(f"ALTER TYPE raw.mood OWNER TO {stranger}".encode())
        assert restore_all(url, "t")[0].status == "failed"
        db.execute("ALTER TYPE raw.mood OWNER TO CURRENT_USER")
        (told,) = restore_all(url, "t")
        assert (told.status, content(db, aside)) == ("restored", before), told.reason
    finally:
        db.execute(f"DROP OWNED BY {stranger} CASCADE; DROP ROLE {stranger}".encode())


def test_the_first_value_begins_with_a_byte_order_mark(
    db: psycopg.Connection, server: PostgresServer, database: str, tmp_path: Path
) -> None:
    if server.name != "embedded":
        pytest.skip("files are the same")
    db.execute(
        "CREATE TABLE raw.t (name text, ts timestamptz) PARTITION BY RANGE (ts);"
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM (MINVALUE) TO ('2026-03-02Z')"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    first = "\ufeffx"
    db.execute("INSERT INTO raw.t VALUES (%s, '2026-03-01Z')", [first])
    (aside,) = move_aside(db, "raw.t")
    (moved,) = archive_all(server.url(database), tmp_path)
    assert moved.status == "archived", moved.reason
    restore_all(server.url(database), "raw.t")
    assert db.execute(f"SELECT name FROM {aside}".encode()).fetchall() == [(first,)]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_table_of_one_column(
    db: psycopg.Connection, server: PostgresServer, database: str, tmp_path: Path, rows: int
) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz) PARTITION BY RANGE (ts)")
    db.execute(
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM (MINVALUE) TO ('2026-03-02Z');"
        "CREATE TABLE raw.t_2 PARTITION OF raw.t FOR VALUES FROM ('2026-03-31Z') TO ('2026-04-01Z')"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    db.execute("INSERT INTO raw.t SELECT '2026-03-01Z' FROM generate_series(1, %s)", [rows])
    move_aside(db, "raw.t")
    before = content(db, "raw_archive.t_1")
    (moved,) = archive_all(server.url(database), tmp_path)
    assert (moved.status, moved.row_count) == ("archived", rows)
    (path,) = tmp_path.rglob("*.parquet")
    assert path.parent.name == "date=__HIVE_DEFAULT_PARTITION__"
    restore_all(server.url(database), "raw.t")
    assert content(db, "raw_archive.t_1") == before


def test_many_row_groups(
    db: psycopg.Connection,
    server: PostgresServer,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table of any size is written and read a piece at a time."""
    if server.name != "embedded":
        pytest.skip("files are the same")
    db.execute("CREATE TABLE raw.t (ts timestamptz, device text, b bytea) PARTITION BY RANGE (ts)")
    db.execute(
        "CREATE TABLE raw.t_1 PARTITION OF raw.t FOR VALUES FROM ('2026-03-01Z') TO ('2026-03-2Z');"
        "INSERT INTO raw.t SELECT '2026-03-01Z'::timestamptz + make_interval(secs => i),"
        " nullif('d' || i % 7, 'd3'), decode(repeat('0a22', i % 5), 'hex')"
        " FROM generate_series(0, 2999) AS i"
    )
    db.execute("SELECT silver.create_rollup_table('raw.t', 'silver', 't_1h', '1 hour')")
    move_aside(db, "raw.t")
    before = content(db, "raw_archive.t_1")
    monkeypatch.setattr(parquet_files, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(parquet_files, "GROUP_ROWS", 100)
    monkeypatch.setattr(parquet_files, "BATCH_ROWS", 77)
    (moved,) = archive_all(server.url(database), tmp_path)
    assert (moved.status, moved.row_count) == ("archived", 3000), moved.reason
    (path,) = tmp_path.rglob("*.parquet")
    assert parquet.read_metadata(path).num_row_groups > 20
    restore_all(server.url(database), "raw.t")
    assert content(db, "raw_archive.t_1") == before
