"""Small tables and charts from the gold views."""

from typing import Any

import psycopg
from psycopg.rows import dict_row

from tsrollup.console import Console
from tsrollup.demo import data
from tsrollup.demo.chart import print_bars

CARRIERS = """
SELECT carrier, sum(row_count)::bigint AS flights,
       round(sum(dep_delay_sum) / sum(dep_delay_count), 1)::float8 AS mean_delay,
       max(dep_delay_max) AS longest
FROM gold.flights_monthly
GROUP BY carrier ORDER BY mean_delay DESC LIMIT 6
"""
MONTHS = """
SELECT to_char(bucket AT TIME ZONE 'UTC', 'Mon') AS month,
       (sum(dep_delay_sum) / sum(dep_delay_count))::float8 AS mean_delay
FROM gold.flights_monthly
WHERE bucket < '2014-01-01 00:00+00'
GROUP BY bucket ORDER BY bucket
"""
WEATHER = """
SELECT to_char(bucket AT TIME ZONE 'UTC', 'Mon') AS month, temp_avg AS mean_temp,
       temp_max AS warmest, wind_speed_max AS strongest_wind, precip_sum AS rain
FROM gold.weather_monthly
WHERE origin = 'EWR' AND bucket < '2014-01-01 00:00+00' ORDER BY bucket
"""


STRONGEST_WIND = """
SELECT wind_speed_max FROM gold.weather_monthly
WHERE origin = 'EWR' AND bucket = '2013-02-01 00:00+00'
"""


def strongest_wind(connection: psycopg.Connection) -> float:
    """mph at Newark in February, from the live view."""
    return float(_rows(connection, STRONGEST_WIND)[0]["wind_speed_max"])


def show(console: Console, connection: psycopg.Connection) -> None:
    names = data.carriers()
    rows = [
        {
            "carrier": names.get(row["carrier"], row["carrier"]),
            "flights": row["flights"],
            "mean delay (min)": row["mean_delay"],
            "longest (min)": row["longest"],
        }
        for row in _rows(connection, CARRIERS)
    ]
    console.out.print()
    console.print_table(rows, "The least punctual carriers (gold.flights_monthly)")
    console.out.print()
    print_bars(
        console.out,
        "Mean departure delay by month (gold.flights_monthly)",
        "min",
        [(row["month"], row["mean_delay"]) for row in _rows(connection, MONTHS)],
    )
    console.out.print()
    weather = [
        {
            "month": row["month"],
            "mean F": row["mean_temp"],
            "warmest F": row["warmest"],
            "wind mph": row["strongest_wind"],
            "rain inch": row["rain"],
        }
        for row in _rows(connection, WEATHER)
    ]
    console.print_table(weather, "Newark's weather (gold.weather_monthly)")


def _rows(connection: psycopg.Connection, query: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode()).fetchall()
