"""What the demo does, in order, and what it says on the way."""

import os
import shutil
import sys
from pathlib import Path

import psycopg
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tsrollup import rollups
from tsrollup.commands.invocation import Invocation, table_of
from tsrollup.connection import connect, read_url
from tsrollup.demo import load, pictures
from tsrollup.demo.comparison import compare
from tsrollup.demo.definitions import ROLLUPS
from tsrollup.errors import TsrollupError
from tsrollup.flyway.project import migrate_project

# A year's schedule is late to arrive, a broken sensor is mended, a carrier's day is withdrawn.
LATE_FLIGHTS = """
INSERT INTO raw.flights
SELECT scheduled + interval '7 minutes', carrier, flight + 9000, tailnum, origin, dest,
       dep_delay + 45, arr_delay + 45, air_time, distance
FROM raw.flights
WHERE scheduled >= '2013-03-08' AND scheduled < '2013-03-11' AND dep_delay > 30
"""
MENDED_SENSOR = "UPDATE raw.weather SET wind_speed = NULL WHERE wind_speed > 1000"
CHANGED_DELAYS = """
UPDATE raw.flights SET dep_delay = 0, arr_delay = least(arr_delay, 0)
WHERE scheduled >= '2013-07-01' AND scheduled < '2013-07-02' AND carrier = 'B6' AND dep_delay > 0
"""
WITHDRAWN_FLIGHTS = """
DELETE FROM raw.flights
WHERE scheduled >= '2013-11-28' AND scheduled < '2013-11-29' AND dep_delay IS NULL
"""


def tell(call: Invocation) -> None:
    url = call.url()
    call.say(f"1. Migrations, on {_place(url)}")
    migrated = migrate_project(url)
    applied = sum(result.migrations_executed for result in migrated.values())
    call.say(f"   {applied} applied" if applied else "   all in place")
    with connect(url) as connection:
        _be_alone(connection)
        _load(call, connection)
        _create(call, connection)
        _refresh(call, connection)
        pictures.show(call.out, connection)
        _change(call, connection)
    _say_what_next(call, url)


def _be_alone(connection: psycopg.Connection) -> None:
    """Held by the session, so by a demo that is killed no longer than it lives."""
    query = "SELECT pg_try_advisory_lock(hashtextextended('tsrollup demo', 0))"
    if connection.execute(query).fetchone() != (True,):
        raise TsrollupError(
            f"a demo is running in database {connection.info.dbname} already",
            "wait for it to end, or give another --url",
        )


def _load(call: Invocation, connection: psycopg.Connection) -> None:
    dropped = load.remove_earlier_run(connection)
    call.say("\n2. Raw data: what left New York in 2013, and the weather there")
    if dropped:
        call.say(f"   starting anew: dropped {dropped} rollups of an earlier run")
    load.create_tables(connection)
    load.load(call, connection)


def _create(call: Invocation, connection: psycopg.Connection) -> None:
    call.say("\n3. Rollups: a daily one reads the hourly one, a monthly one reads the daily one")
    for rollup in ROLLUPS:
        rollups.create(
            connection, rollup.source, "silver", rollup.table, rollup.width, rollup.options
        )
        call.say(f"   silver.{rollup.table:<16} <- {rollup.source:<22} gold.{rollup.table}")
    _say_comparison(call, connection, "Nothing is stored yet, and yet the live views are exact:")


def _refresh(call: Invocation, connection: psycopg.Connection) -> None:
    call.say("\n4. Refresh")
    _run(call, connection)
    _say_comparison(call, connection, "Now the tables hold it, and the views read them:")


def _change(call: Invocation, connection: psycopg.Connection) -> None:
    call.say("\n5. History changes: late rows, corrections, deletions")
    wind_before = pictures.strongest_wind(connection)
    for text, statement in (
        ("late flights arrive for 8 to 10 March", LATE_FLIGHTS),
        ("a reading of 1,048 mph at Newark is withdrawn", MENDED_SENSOR),
        ("JetBlue's delays of 1 July are corrected", CHANGED_DELAYS),
        ("cancelled flights of Thanksgiving are deleted", WITHDRAWN_FLIGHTS),
    ):
        changed = connection.execute(statement).rowcount
        call.say(f"   {changed:>5,} {'row: ' if changed == 1 else 'rows:'} {text}")
    wind = pictures.strongest_wind(connection)
    call.say(f"   Newark's strongest wind of February is {wind:.0f} mph, no more {wind_before:.0f}")
    _say_comparison(
        call, connection, "Before any refresh the tables are behind, the live views are exact:"
    )
    call.say("\n6. Refresh again: only the buckets that changed")
    _run(call, connection)
    _say_comparison(call, connection, "And the tables are exact again:")


def _run(call: Invocation, connection: psycopg.Connection) -> None:
    with Progress(
        TextColumn("   buckets"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=call.out,
    ) as progress:
        task = progress.add_task("refresh", total=rollups.stale_buckets(connection))
        batches = []
        for batch in rollups.run(connection):
            batches.append(batch)
            done = sum(one.buckets for one in batches)
            progress.update(task, completed=done, total=done + rollups.stale_buckets(connection))
    summaries = rollups.summarise(batches)
    call.out.print(
        table_of(
            [
                {
                    "rollup": summary.target,
                    "buckets": summary.buckets,
                    "rows written": summary.rows_written,
                    "rows deleted": summary.rows_deleted,
                    "seconds": round(summary.seconds, 2),
                }
                for summary in summaries
            ]
        )
    )
    failed = [summary for summary in summaries if summary.error]
    if failed:
        raise TsrollupError(
            f"{failed[0].target} failed: {failed[0].error}", "tsrollup log --errors"
        )


def _say_comparison(call: Invocation, connection: psycopg.Connection, text: str) -> None:
    call.say(f"\n   {text}")
    with call.out.status("comparing each with the GROUP BY over the raw table"):
        found = compare(connection)
    rows = [
        {
            "rollup": one.rollup,
            "groups": one.groups,
            "live view differs in": one.gold_differs,
            "table differs in": one.table_differs,
        }
        for one in found
    ]
    call.out.print(table_of(rows))
    wrong = [one.rollup for one in found if one.gold_differs]
    if wrong:
        raise TsrollupError(
            f"gold.{wrong[0]} does not equal GROUP BY", "this is a bug: please report it"
        )


def _say_what_next(call: Invocation, url: str) -> None:
    command = _this_command()
    call.say(f"\nThe data stays at\n   {url}")
    call.say("Commands to try next:")
    for line in (
        f"{command} status",
        f"{command} log silver.flights_daily",
        f"{command} create raw.flights flights_by_dest '1 week' --dimension dest",
        f"{command} run",
        f"{command} doctor",
        f"{command} server stop",
    ):
        call.say(f"   {line}")


def _this_command() -> str:
    if shutil.which("tsrollup"):
        return "tsrollup"
    return os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).exists() else "tsrollup"


def _place(url: str) -> str:
    known = read_url(url)
    return f"database {known.get('dbname')} on port {known.get('port', 5432)}"
