"""Raw tables, filled through COPY."""

from collections.abc import Iterable, Sequence
from importlib.resources import files

import psycopg
from psycopg import sql

from tsrollup.console import Console, progress
from tsrollup.demo import data
from tsrollup.errors import TsrollupError

TABLES = ("raw.flights", "raw.weather")
ADVANCE_EVERY = 2000


def remove_earlier_run(connection: psycopg.Connection, tables: Sequence[str] = TABLES) -> int:
    """Drop tables of the demo and every rollup on them; the number of rollups dropped.

    Tables of these names that the demo did not make are left alone: it stops instead.
    """
    for table in tables:
        row = connection.execute(
            "SELECT to_regclass(%(table)s) IS NOT NULL, obj_description(to_regclass(%(table)s))",
            {"table": table},
        ).fetchone()
        if row and row[0] and not (row[1] or "").startswith("tsrollup demo"):
            raise TsrollupError(
                f"{table} is there already, and the demo did not make it",
                "run the demo on another database",
            )
    rollups = connection.execute(
        "SELECT r.target_table::text FROM silver.rollup_config AS r"
        " JOIN rollup_engine.source AS s ON s.id = r.source_id"
        " WHERE s.relation = ANY (SELECT to_regclass(t) FROM unnest(%s::text[]) AS t)"
        " ORDER BY r.depth DESC",
        [list(tables)],
    ).fetchall()
    for (target,) in rollups:
        connection.execute("SELECT silver.drop_rollup(%s)", [target])
    for table in tables:
        connection.execute(
            sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(*table.split(".")))
        )
    return len(rollups)


def create_tables(connection: psycopg.Connection) -> None:
    connection.execute((files("tsrollup.demo") / "tables.sql").read_bytes())


def load(console: Console, connection: psycopg.Connection) -> None:
    """COPY both files into their tables, with a progress bar where there is a terminal."""
    with progress(console.out, "rows") as bar:
        for table, columns, rows, total in (
            ("flights", data.FLIGHT_COLUMNS, data.flights(), data.FLIGHTS),
            ("weather", data.WEATHER_COLUMNS, data.weather(), data.WEATHER),
        ):
            task = bar.add_task(f"   {table:<12}", total=total)
            for _ in _copied(connection, table, columns, rows):
                bar.advance(task, ADVANCE_EVERY)
            bar.update(task, completed=total)
    connection.execute("ANALYZE raw.flights, raw.weather")


def _copied(
    connection: psycopg.Connection,
    table: str,
    columns: tuple[str, ...],
    rows: Iterable[data.Row],
) -> Iterable[None]:
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier("raw", table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor().copy(statement) as copy:
        for number, row in enumerate(rows, 1):
            copy.write_row(row)
            if number % ADVANCE_EVERY == 0:
                yield
