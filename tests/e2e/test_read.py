"""tsrollup read: what a live view answers, in each format, and no more than was asked for."""

import csv
import errno
import fcntl
import io
import json
import os
import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest

from command_line import tsrollup as run
from command_line import tsrollup_here as here
from servers import PostgresServer
from tsrollup import connect

HOUR = ("2026-01-01 01:00+00", "2026-01-01 02:00+00")


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute(
            'CREATE TABLE raw.r (ts timestamptz, "Device" text, temp numeric, ok boolean)'
        )
        connection.execute(
            "INSERT INTO raw.r SELECT t, CASE n WHEN 3 THEN NULL ELSE 'd,' || n END, n + 0.25, true"
            " FROM generate_series(1, 3) AS n, generate_series('2026-01-01 00:00+00'::timestamptz,"
            "  '2026-01-01 02:59+00', '10 minutes') AS t"
        )
        connection.execute(
            "SELECT silver.create_rollup_table('r', 'silver', 'r_1h', '1 hour',"
            " dimensions => '{Device}')"
        )
    return server.url(database)


def test_a_range_of_some_groups(url: str) -> None:
    rows = here("read", "r_1h", *HOUR, "--where", "Device=d,1", "--json", url=url).json()
    assert len(rows) == 1
    assert rows[0]["bucket"].startswith("2026-01-01T")
    assert (rows[0]["Device"], rows[0]["temp_avg"], rows[0]["row_count"]) == ("d,1", 1.25, 6)
    several = ("-w", "Device=d,1", "-w", "Device=d,2", "-c", "Device", "-c", "temp_max")
    rows = here("read", "r_1h", *HOUR, *several, "-f", "json", url=url).json()
    assert rows == [{"Device": f"d,{n}", "temp_max": n + 0.25} for n in (1, 2)]
    assert len(here("read", "r_1h", "--json", url=url).json()) == 9
    assert len(here("read", "r_1h", "-n", "2", "--json", url=url).json()) == 2


def test_a_reader_of_gold_reads_by_the_program_and_in_python(
    server: PostgresServer, database: str, url: str
) -> None:
    role = f"analyst_{secrets.token_hex(4)}"
    superuser = psycopg.connect(server.superuser_url(database), autocommit=True)
    superuser.execute(f"CREATE ROLE {role} LOGIN IN ROLE tsrollup_reader".encode())
    try:
        own = server.url(database, role)
        for options in (["--json"], ["--json", "--gapfill"]):
            told = here("read", "r_1h", *HOUR, *options, url=own).json()
            assert told == here("read", "r_1h", *HOUR, *options, url=url).json()
            assert len(told) == 3
        assert "temp_avg" in here("read", "r_1h", *HOUR, "--plot", "temp_avg", url=own).out
        refused = here("read", "r_1hour", url=own)
        assert refused.code == 1
        assert "did you mean silver.r_1h" in refused.err
        with connect(own) as analyst:
            read = analyst.rollup("r_1h").read(
                where={"Device": ["d,1", None]}, columns=["temp_max"]
            )
        assert len(read.rows()) == 6
    finally:
        superuser.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
        superuser.close()


def test_a_table_for_people(url: str) -> None:
    printed = here("read", "gold.r_1h", *HOUR, url=url)
    assert printed.code == 0, printed.err
    assert "temp_avg" in printed.out
    assert here("read", "r_1h", "2030-01-01", url=url).out == "no rows\n"


@pytest.mark.spread
def test_it_is_drawn_in_the_terminal(url: str) -> None:
    lines = here("read", "r_1h", "--spark", "-c", "temp_avg", "-w", "Device=d,1", url=url).out
    assert lines.splitlines()[-1].split() == ["d,1", "temp_avg", "1.25", "1.25", "1.25", "▄▄▄"]
    assert "row_count" in here("read", "r_1h", "--spark", url=url).out
    plot = here("read", "r_1h", *HOUR, "--plot", "temp_max", url=url)
    assert plot.out.splitlines()[-3:] == ["1 d,1", "2 d,2", "3 (null)"]
    assert "bucket in UTC" in plot.out
    assert here("read", "r_1h", "2030-01-01", "--plot", "temp_max", url=url).out == "no rows\n"
    assert "no column of numbers" in here("read", "r_1h", "--plot", "Device", url=url).err
    for more in (("--json",), ("-f", "csv"), ("--spark",)):
        assert here("read", "r_1h", "--plot", "temp_max", *more, url=url).code == 2


def test_what_looks_like_markup_is_printed_as_it_is(url: str) -> None:
    names = ["[red]x", "[/x]", "db:on:primary", "\x1b[31m"]
    shown = [*names[:3], "\\x1B[31m"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM raw.r WHERE temp < 2")
        connection.execute("INSERT INTO raw.r SELECT '2026-01-01', unnest(%s::text[]), 1", [names])
        connection.execute(
            "SELECT silver.create_rollup_table('r', 'silver', 'a[/b] :on:', '2 hours',"
            " dimensions => '{Device}', \"filter\" => '\"Device\" <> '':on:\x85''')"
        )
    for more in ((), ("--spark",), ("--plot", "temp_max")):
        out = here("read", "r_1h", *more, url=url).out
        assert [name for name in shown if name not in out] == [], out
    read = {row["Device"] for row in here("read", "r_1h", "--json", url=url).json()}
    assert set(names) < read
    for command in ("run", "status", "log", "export", "maintain"):
        printed = here(command, url=url)
        assert (printed.code, "a[/b] :on:" in printed.out) == (0, True), printed
    assert "<> ':on:\x85'" in here("export", url=url).out
    assert "'a[/b]\\x07' is not a table name" in here("read", "a[/b]\x07", url=url).err


def test_csv_reads_back(url: str, tmp_path: Path) -> None:
    printed = run("read", "r_1h", *HOUR, "--format", "csv", url=url)
    assert printed.code == 0, printed.err
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["Device"] for row in rows] == ["d,1", "d,2", ""]
    file = tmp_path / "rows.csv"
    assert here("read", "r_1h", *HOUR, "-f", "csv", "-o", str(file), url=url).out == ""
    written = file.read_text()
    assert here("read", "r_1h", "-f", "csv", "-o", str(file), "-c", "typo", url=url).code == 1
    assert file.read_text() == written
    assert file.read_text() == printed.out


def test_parquet_reads_back(url: str, tmp_path: Path) -> None:
    from pyarrow import parquet

    file = tmp_path / "rows.parquet"
    done = here("read", "r_1h", *HOUR, "-f", "parquet", "-o", str(file), url=url)
    assert (done.code, done.out) == (0, ""), done.err
    table = parquet.read_table(file)
    assert table.num_rows == 3
    assert str(table.schema.field("bucket").type) == "timestamp[us, tz=UTC]"
    assert table["Device"].to_pylist() == ["d,1", "d,2", None]
    assert table["temp_avg"].to_pylist() == [1.25, 2.25, 3.25]
    assert here("read", "r_1h", "-f", "parquet", url=url).code == 2


@pytest.mark.parametrize("format_", ["csv", "json", "parquet"])
def test_a_file_is_as_it_was_until_all_is_written(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    def read(file: Path, *more: str) -> str:
        return here("read", "r_1h", "-f", format_, "-o", str(file), *more, url=url).err

    def disk_is_full(file: int, data: bytes, offset: int) -> NoReturn:
        write(file, data[:1], offset)
        raise OSError(errno.ENOSPC, "no space left")

    file, write = tmp_path / "rows", os.pwrite
    file.write_text("as it was")
    for place in (tmp_path, tmp_path / "nowhere" / "rows"):
        assert str(place.parent) in read(place, "-c", "typo")  # before the query runs
    assert "typo" in read(file, "-c", "typo")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", disk_is_full)
        assert "no space left" in read(file)
    assert file.read_text() == "as it was"
    with file.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as flock(1) does for who runs this
        assert read(file) == ""
    assert file.read_bytes()[:9] != b"as it was"


def test_of_two_that_write_a_file_one_is_told(url: str, tmp_path: Path) -> None:
    file = tmp_path / "rows"
    with file.open("ab") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        failed = run("read", "r_1h", "-f", "csv", "-o", str(file), url=url)
    assert (failed.code, file.read_text()) == (1, "")
    assert "another command writes that file" in failed.err


def test_what_python_arrow_and_json_have_no_value_for_is_text(url: str, tmp_path: Path) -> None:
    from pyarrow import parquet

    odd = {
        "tz": ("timestamptz", "infinity", "0044-03-15 00:00:00+00 BC", "10000-01-01 00:00:00+00"),
        "ts": ("timestamp", "-infinity", "0044-03-15 00:00:00 BC", "10000-01-01 00:00:00"),
        "da": ("date", "infinity", "0044-03-15 BC", "10000-01-01"),
        "ti": ("time", "24:00:00", "24:00:00", "24:00:00"),
        "tt": ("timetz", "24:00:00+02", "24:00:00+00", "24:00:00+00"),
        "iv": ("interval", "170000000 years", "170000000 years 1 day", "-170000000 years"),
    }
    columns = [*odd, *(f"{name}_list" for name in odd)]
    with psycopg.connect(url, autocommit=True) as connection:
        defined = ", ".join(f"{name} {t[0]}, {name}_list {t[0]}[]" for name, t in odd.items())
        connection.execute(
            f"CREATE TABLE raw.odd (at timestamptz, {defined}, nu numeric, fl float8)".encode()
        )
        for n, numbers in enumerate(((1, 1), ("NaN", "Infinity"), ("1e400", "NaN"), (2, 2))):
            times = {name: t[n + 1] if n < 3 else None for name, t in odd.items()}
            lists = {f"{name}_list": [time] if time else None for name, time in times.items()}
            connection.execute(
                f"INSERT INTO raw.odd (at, {', '.join([*times, *lists])}, nu, fl) VALUES"
                f" (timestamptz '2026-01-01 00:00+00' + {n} * interval '1 h',"
                f" {', '.join(['%s'] * 14)})".encode(),
                [*times.values(), *lists.values(), *numbers],
            )
        last = json.dumps({name: ["last"] for name in [*columns, "nu", "fl"]})
        connection.execute(
            "SELECT silver.create_rollup_table('odd', 'silver', 'odd', '1 hour',"
            " time_column => 'at', metrics => %s)",
            [last],
        )

    with connect(url) as db:
        answer = db.rollup("odd").read()
        db.connection.execute("SET intervalstyle = sql_standard")
        other_style = db.rollup("odd").read(columns=["iv_last"]).rows()
    assert other_style[1]["iv_last"] == "170000000 years 1 day"
    for n, row in enumerate(answer.rows()):
        for name, (_, *told) in odd.items():
            assert row[f"{name}_last"] == (told[n] if n < 3 else None)
            assert row[f"{name}_list_last"] == ([told[n]] if n < 3 else None)
    frame = answer.to_arrow().to_pydict()
    assert frame["tz_last"] == [*odd["tz"][1:], None]
    assert frame["iv_list_last"][0] == '["170000000 years"]'
    assert frame["nu_last"][2] == float("inf")
    assert len(answer.to_pandas()) == len(answer.to_polars()) == 4

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    printed = here("read", "odd", "--json", url=url).out
    rows = json.loads(printed, parse_constant=refuse)
    assert [row["fl_last"] for row in rows] == [1, "Infinity", "NaN", 2]
    assert [row["nu_last"] for row in rows] == [1, "NaN", "1" + "0" * 400, 2]
    assert rows[0]["tz_last"] == "infinity"
    assert "24:00:00" in here("read", "odd", "-c", "ti_last", url=url).out
    assert "1.00000e+400" in here("read", "odd", "-c", "nu_last", url=url).out
    file = tmp_path / "odd.parquet"
    assert here("read", "odd", "-f", "parquet", "-o", str(file), url=url).err == ""
    assert parquet.read_table(file)["da_last"].to_pylist() == [*odd["da"][1:], None]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE raw.odd SET iv = '90 s' WHERE nu = 2")
    drawn = here("read", "odd", "--spark", "-c", "iv_last", url=url)
    assert drawn.out.split()[-5:] == ["iv_last", "90.00", "90.00", "90.00", "▄"], drawn.err
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE raw.odd SET nu = -1e-400 WHERE nu = 2")
    (*_, row) = json.loads(here("read", "odd", "--json", url=url).out)
    assert row["nu_last"] == "-1E-400"
    assert " -1e-400 " in here("read", "odd", "-c", "nu_last", url=url).out
    with connect(url) as db:
        spans = db.rollup("odd").read(columns=["iv_last"])
    assert spans.rows()[3] == {"iv_last": timedelta(seconds=90)}
    assert spans.to_arrow().to_pydict()["iv_last"][3] == "0 days 00:01:30"


def test_bytes_ranges_and_large_sums_are_as_postgresql_writes_them(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.b (ts timestamptz, b bytea, r int4range, n bigint)")
        connection.execute(
            "INSERT INTO raw.b VALUES ('2026-01-01', 'ab', '[1,)', 9007199254740993)"
        )
        connection.execute(
            "SELECT silver.create_rollup_table('b', 'silver', 'b', '1 hour',"
            ' metrics => \'{"b": ["last"], "r": ["last"], "n": ["sum"]}\')'
        )
    (row,) = here("read", "b", "--json", url=url).json()
    assert (row["b_last"], row["r_last"], row["n_sum"]) == ("\\x6162", "[1,)", 2**53 + 1)
    assert "9,007,199,254,740,993" in here("read", "b", url=url).out


@pytest.mark.parametrize(
    ("dates", "intervals"),
    [("German, DMY", "iso_8601"), ("Postgres, MDY", "sql_standard")],
)
def test_no_style_of_a_database_changes_what_is_read(url: str, dates: str, intervals: str) -> None:
    expected = here("read", "r_1h", *HOUR, "--json", url=url).json()
    with psycopg.connect(url, autocommit=True) as connection:
        for name, style in (("datestyle", dates), ("intervalstyle", intervals)):
            connection.execute(
                f"ALTER DATABASE {connection.info.dbname} SET {name} = {style}".encode()
            )
    assert here("read", "r_1h", *HOUR, "--json", url=url).json() == expected
    with connect(url) as db:
        list(db.run())
        (row, *_) = db.rollup("r_1h").read().rows()
        assert isinstance(row["bucket"], datetime)
        status = db.rollup("r_1h").status()
        assert isinstance(status.last_run_at, datetime)
        assert isinstance(status.lag, timedelta)
        # A transaction of the caller goes on as it was.
        shown = (
            "SELECT current_setting('search_path') AS path, now()::date::text AS day,"
            " interval '1 mon 2 h'::text AS i, current_setting('lock_timeout') AS patience"
        )
        with db.connection.transaction():
            before = db.connection.execute(shown.encode()).fetchall()
            db.rollup("r_1h").status()
            db.rollup("r_1h").read()
            assert db.connection.execute(shown.encode()).fetchall() == before
            assert db.connection.execute("SELECT count(*) FROM raw.r").fetchall()


def test_gaps_are_filled(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "DELETE FROM raw.r WHERE ts >= '2026-01-01 01:00+00' AND ts < '2026-01-01 02:00+00'"
        )
    line = ("read", "r_1h", "2026-01-01 00:00+00", "2026-01-01 03:00+00", "-w", "Device=d,1")
    assert len(here(*line, "--json", url=url).json()) == 2
    assert len(here(*line, "--gapfill", "--json", url=url).json()) == 3
    rows = here(*line, "--fill", "temp_avg=locf", "--json", url=url).json()
    assert [row["temp_avg"] for row in rows] == [1.25, 1.25, 1.25]
    assert [row["temp_max"] for row in rows] == [1.25, None, 1.25]
    assert here("read", "r_1h", "--gapfill", url=url).err.count("\n") == 1


def test_what_cannot_be_read_is_one_line(url: str) -> None:
    for words, told in (
        (("nothing",), "TR002"),
        (("r_1h", "--where", "Devise=d1"), "Devise"),
        (("r_1h", "yesteryear"), "yesteryear"),
        (("r_1h", "--column", "humidity"), "humidity"),
    ):
        failed = here("read", *words, url=url)
        assert (failed.code, failed.out, failed.err.count("\n")) == (1, "", 1)
        assert told in failed.err
    assert here("read", "r_1h", "--where", "Device", url=url).code == 2
