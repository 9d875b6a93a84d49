"""Rows about a day on which clocks change, and rollups of them in any zone."""

import psycopg

# A day of clocks in each: at midnight and after, back over midnight, half an hour, a day left out.
CHANGES = {
    "Europe/Berlin": "2025-03-30",
    "America/Havana": "2024-11-03",
    "Asia/Beirut": "2024-10-27",
    "Atlantic/Azores": "2024-10-27",
    "America/St_Johns": "2009-11-01",
    "Australia/Lord_Howe": "2024-04-07",
    "Pacific/Apia": "2011-12-30",
    "Pacific/Chatham": "2024-09-29",
    "Asia/Kathmandu": "2024-02-29",
    "Asia/Kolkata": "2024-02-29",
    "Africa/Casablanca": "2024-03-10",
    "America/Asuncion": "2024-10-06",
    "UTC": "2024-02-29",
}


def create_rows(connection: psycopg.Connection, day: str, rows: int = 1000) -> None:
    """A row each quarter of an hour, as many before the day as after it."""
    connection.execute("CREATE TABLE raw.z (ts timestamptz, v integer)")
    connection.execute(
        "INSERT INTO raw.z SELECT %s::date::timestamp AT TIME ZONE 'UTC'"
        " + n * interval '15 minutes', n FROM generate_series(-%s::integer, %s::integer) AS n",
        [day, rows // 2, rows // 2],
    )
    connection.execute("CREATE INDEX ON raw.z (ts)")


def late_row(connection: psycopg.Connection, day: str) -> None:
    connection.execute(
        "INSERT INTO raw.z SELECT ts + interval '1 minute', 7 FROM raw.z"
        " WHERE ts >= %s::timestamptz - interval '6 hours' AND ts < %s::timestamptz",
        [day, day],
    )


def create(
    connection: psycopg.Connection,
    source: str,
    name: str,
    width: str | None,
    zone: str | None = "UTC",
    origin: str | None = None,
) -> None:
    connection.execute(
        "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval, timezone => %s,"
        " origin => %s)",
        [source, name, width, zone, origin],
    )
