"""tsrollup read: what a live view answers, in each format, and no more than was asked for."""

import csv
import io
from pathlib import Path

import psycopg
import pytest

from command_line import tsrollup
from command_line import tsrollup_here as here
from servers import PostgresServer

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


def test_csv_reads_back(url: str, tmp_path: Path) -> None:
    printed = tsrollup("read", "r_1h", *HOUR, "--format", "csv", url=url)
    assert printed.code == 0, printed.err
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["Device"] for row in rows] == ["d,1", "d,2", ""]
    file = tmp_path / "rows.csv"
    assert here("read", "r_1h", *HOUR, "-f", "csv", "-o", str(file), url=url).out == ""
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
