"""What the demo does, in order, and what it says on the way."""

import os
import shutil
import sys
from pathlib import Path

import psycopg

from tsrollup import rollups, runs
from tsrollup.connection import connect, read_url
from tsrollup.console import Console, progress
from tsrollup.demo import load, pictures
from tsrollup.demo.comparison import compare
from tsrollup.demo.definitions import ROLLUPS
from tsrollup.errors import TsrollupError
from tsrollup.migrations import migrate_project

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


def tell(url: str, console: Console) -> None:
    console.say(f"1. Migrations, on {_place(url)}")
    migrated = migrate_project(url)
    applied = sum(result.migrations_executed for result in migrated.values())
    console.say(f"   {applied} applied" if applied else "   all in place")
    with connect(url) as connection:
        _be_alone(connection)
        _load(console, connection)
        _create(console, connection)
        _refresh(console, connection)
        pictures.show(console, connection)
        _change(console, connection)
    _say_what_next(console, url)


def _be_alone(connection: psycopg.Connection) -> None:
    """Held by the session, so by a demo that is killed no longer than it lives."""
    query = "SELECT pg_try_advisory_lock(hashtextextended('tsrollup demo', 0))"
    if connection.execute(query).fetchone() != (True,):
        raise TsrollupError(
            f"a demo is running in database {connection.info.dbname} already",
            "wait for it to end, or give another --url",
        )


def _load(console: Console, connection: psycopg.Connection) -> None:
    dropped = load.remove_earlier_run(connection)
    console.say("\n2. Raw data: what left New York in 2013, and the weather there")
    if dropped:
        console.say(f"   starting anew: dropped {dropped} rollups of an earlier run")
    load.create_tables(connection)
    load.load(console, connection)


def _create(console: Console, connection: psycopg.Connection) -> None:
    console.say("\n3. Rollups: a daily one reads the hourly one, a monthly one reads the daily one")
    for rollup in ROLLUPS:
        rollups.create(
            connection, rollup.source, "silver", rollup.table, rollup.width, rollup.options
        )
        console.say(f"   silver.{rollup.table:<16} <- {rollup.source:<22} gold.{rollup.table}")
    _say_comparison(console, connection, "Nothing is stored yet, and yet the live views are exact:")


def _refresh(console: Console, connection: psycopg.Connection) -> None:
    console.say("\n4. Refresh")
    _run(console, connection)
    _say_comparison(console, connection, "Now the tables hold it, and the views read them:")


def _change(console: Console, connection: psycopg.Connection) -> None:
    console.say("\n5. History changes: late rows, corrections, deletions")
    wind_before = pictures.strongest_wind(connection)
    for text, statement in (
        ("late flights arrive for 8 to 10 March", LATE_FLIGHTS),
        ("a reading of 1,048 mph at Newark is withdrawn", MENDED_SENSOR),
        ("JetBlue's delays of 1 July are corrected", CHANGED_DELAYS),
        ("cancelled flights of Thanksgiving are deleted", WITHDRAWN_FLIGHTS),
    ):
        changed = connection.execute(statement).rowcount
        console.say(f"   {changed:>5,} {'row: ' if changed == 1 else 'rows:'} {text}")
    wind = pictures.strongest_wind(connection)
    console.say(
        f"   Newark's strongest wind of February is {wind:.0f} mph, no more {wind_before:.0f}"
    )
    _say_comparison(
        console, connection, "Before any refresh the tables are behind, the live views are exact:"
    )
    console.say("\n6. Refresh again: only the buckets that changed")
    _run(console, connection)
    _say_comparison(console, connection, "And the tables are exact again:")


def _run(console: Console, connection: psycopg.Connection) -> None:
    with progress(console.out, "buckets") as bar:
        task = bar.add_task("   refresh", total=runs.stale_buckets(connection))
        batches = []
        for batch in runs.run(connection):
            batches.append(batch)
            done = sum(one.buckets for one in batches)
            bar.update(task, completed=done, total=done + runs.stale_buckets(connection))
    summaries = runs.summarise(batches)
    console.print_table(
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
    failed = [summary for summary in summaries if summary.error]
    if failed:
        raise TsrollupError(
            f"{failed[0].target} failed: {failed[0].error}", "tsrollup log --errors"
        )


def _say_comparison(console: Console, connection: psycopg.Connection, text: str) -> None:
    console.say(f"\n   {text}")
    with console.out.status("comparing each with the GROUP BY over the raw table"):
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
    console.print_table(rows)
    wrong = [one.rollup for one in found if one.gold_differs]
    if wrong:
        raise TsrollupError(
            f"gold.{wrong[0]} does not equal GROUP BY", "this is a bug: please report it"
        )


def _say_what_next(console: Console, url: str) -> None:
    command = _this_command()
    console.say(f"\nThe data stays at\n   {url}")
    console.say("Commands to try next:")
    for line in (
        f"{command} status",
        f"{command} log silver.flights_daily",
        f"{command} create raw.flights flights_by_dest '1 week' --dimension dest",
        f"{command} run",
        f"{command} doctor",
        f"{command} dashboard",
        f"{command} demo --live",
        f"{command} server stop",
    ):
        console.say(f"   {line}")


def _this_command() -> str:
    if shutil.which("tsrollup"):
        return "tsrollup"
    return os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).exists() else "tsrollup"


def _place(url: str) -> str:
    known = read_url(url)
    return f"database {known.get('dbname')} on port {known.get('port', 5432)}"
