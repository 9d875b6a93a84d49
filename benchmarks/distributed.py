"""python -m benchmarks.distributed --url URL: rollups of a table that Citus distributes, each
figure as a ratio to what is measured in turn with it. The database is a migrated one; what is made
there is dropped."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

SOURCE = "raw.distributed_bench"
ROLLUP = "distributed_bench_1m"
START = "2026-01-01 00:00+00"
GROUPED = (
    "SELECT date_bin('1 minute', ts, timestamptz '2000-01-03') AS bucket, device,"
    " count(*) AS row_count, count(temp) AS temp_count, sum(temp) AS temp_sum,"
    " min(temp) AS temp_min, max(temp) AS temp_max"
    f" FROM {SOURCE} GROUP BY 1, 2"
)
Run = Callable[[str], object]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("--url", required=True, help="a coordinator's database, of a superuser")
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--days", type=int, default=2, help="of a row each 10 s of every device")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with psycopg.connect(options.url, autocommit=True) as connection:

        def run(statement: str) -> object:
            return connection.execute(statement.encode())

        with _source(connection, options.devices, options.days):
            for what, limit, ratios in (
                *_first_fill(run, options.rounds),
                *_late_minutes(run, options.rounds, options.days),
                *_reads(run, options.rounds, options.days),
            ):
                print(f"{statistics.median(ratios):8.2f}  (limit {limit})  {what}", flush=True)


Figures = Iterator[tuple[str, float, list[float]]]


def _first_fill(run: Run, rounds: int) -> Figures:
    filled, pulled = [], []
    for _ in range(rounds):
        bare = _seconds(run, f"SELECT count(*) FROM ({GROUPED}) AS g")
        run(
            "CREATE TEMPORARY TABLE pulled (bucket timestamptz, device int, row_count bigint,"
            " temp_count bigint, temp_sum float8, temp_min float8, temp_max float8,"
            " UNIQUE NULLS NOT DISTINCT (bucket, device))"
        )
        pull = _seconds(run, f"INSERT INTO pulled {GROUPED}")
        run("DROP TABLE pulled")
        run(
            f"SELECT silver.drop_rollup('silver.{ROLLUP}')"
            f" WHERE to_regclass('silver.{ROLLUP}') IS NOT NULL"
        )
        _create(run)
        fill = _seconds(run, "CALL silver.run_rollups()")
        filled.append(fill / bare)
        pulled.append(fill / pull)
    yield "first fill / the bare distributed GROUP BY", 3, filled
    yield "first fill / the same rows pulled to the coordinator", 1, pulled


def _late_minutes(run: Run, rounds: int, days: int) -> Figures:
    ratios = []
    for n in range(rounds):
        bare = _seconds(run, f"SELECT count(*) FROM ({GROUPED}) AS g")
        _scatter(run, n, days)
        ratios.append(_seconds(run, "CALL silver.run_rollups()") / bare)
    yield (
        "1,000 late rows in as many minutes, refreshed / the bare distributed GROUP BY",
        0.3,
        ratios,
    )


def _reads(run: Run, rounds: int, days: int) -> Figures:
    hour = (
        "SELECT device, sum(temp_sum) FROM {} WHERE bucket >= timestamptz '" + START + "'"
        f" + interval '{12 * days} hours'"
        f" AND bucket < timestamptz '{START}' + interval '{12 * days + 1} hours'"
        " GROUP BY device"
    )
    for what in ("nothing stale there", "1,000 stale minutes over all days"):
        ratios = []
        for _ in range(5 * rounds):
            stored = _seconds(run, hour.format(f"silver.{ROLLUP}"))
            ratios.append(_seconds(run, hour.format(f"gold.{ROLLUP}")) / stored)
        yield f"live read of an hour, {what} / the stored table", 3, ratios
        _scatter(run, 99, days)


def _scatter(run: Run, seed: int, days: int) -> None:
    """A row each, and the minutes marked: they lie before the window."""
    minutes = (
        f"(SELECT timestamptz '{START}' + interval '1 minute' * ((i * 7919 + {seed} * 31)"
        f" % ({days} * 1440)) AS t, i FROM generate_series(1, 1000) AS i)"
    )
    run(f"INSERT INTO {SOURCE} SELECT t, i % 50, 30 FROM {minutes} AS m")
    run(f"SELECT silver.mark_stale('{SOURCE}', t, t + interval '1 second') FROM {minutes} AS m")


def _create(run: Run) -> None:
    run(
        f"SELECT silver.create_rollup_table('{SOURCE}', 'silver', '{ROLLUP}', '1 minute',"
        """ dimensions => '{device}', metrics => '{"temp": ["avg", "min", "max"]}',"""
        " change_tracking => 'window', look_back_window => '2 hours')"
    )


@contextmanager
def _source(connection: psycopg.Connection[Any], devices: int, days: int) -> Iterator[None]:
    connection.execute(
        f"CREATE TABLE {SOURCE} (ts timestamptz NOT NULL, device int NOT NULL,"
        " temp double precision)".encode()
    )
    for statement in (
        f"SELECT create_distributed_table('{SOURCE}', 'device')",
        f"INSERT INTO {SOURCE}"
        f" SELECT timestamptz '{START}' + interval '10 seconds' * s, d, d + s % 7"
        f" FROM generate_series(0, {8640 * days} - 1) AS s, generate_series(1, {devices}) AS d",
        f"CREATE INDEX ON {SOURCE} (ts)",
        f"CREATE INDEX ON {SOURCE} (device, ts)",
        f"VACUUM (ANALYZE) {SOURCE}",
    ):
        connection.execute(statement.encode())
    try:
        yield
    finally:
        connection.execute(f"SELECT silver.drop_rollup('silver.{ROLLUP}')".encode())
        connection.execute(f"DROP TABLE {SOURCE}".encode())


def _seconds(run: Run, statement: str) -> float:
    start = time.perf_counter()
    run(statement)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
