"""Cold rows as Parquet: how small they are, and how long it takes to write them and to read them
back into a table."""

import tempfile
from datetime import timedelta

from benchmarks.measure import Result, Sample, Steps
from benchmarks.workbench import START, Workbench
from tsrollup.archive.moving import archive
from tsrollup.archive.restoring import restore

SENSORS = """
    CREATE TABLE raw.sensors (
        ts timestamptz NOT NULL, device text NOT NULL, temperature double precision,
        humidity numeric(5, 2), battery smallint, status text, PRIMARY KEY (device, ts)
    ) PARTITION BY RANGE (ts)
"""
# Drift, noise in the last digits that a sensor gives, a battery that runs down, a rare remark.
FILL = """
    INSERT INTO raw.sensors
    SELECT %s::timestamptz + make_interval(secs => 10 * (i / 100)),
        'sensor-' || lpad((i %% 100)::text, 4, '0'),
        round((20 + i %% 100 / 10 + 5 * sin(i / 100 / 1400.0) + random())::numeric, 2),
        50 + 10 * cos(i / 100 / 1400.0) + random(), 100 - i / 100 / 500,
        CASE WHEN i %% 997 = 0 THEN 'restarted after ' || i / 100 || ' readings' ELSE 'ok' END
    FROM generate_series(0, %s - 1) AS i
"""


def cold_rows(bench: Workbench) -> Steps:
    rows = bench.sizes.cold
    end = START + timedelta(seconds=rows // 10 + 10)
    bench.session.execute(SENSORS)
    bench.session.execute(
        "CREATE TABLE raw.sensors_1 PARTITION OF raw.sensors"
        f" FOR VALUES FROM ('{START}') TO ('{end}')"
    )
    bench.session.execute(FILL, START, rows)
    bench.session.execute("VACUUM (ANALYZE) raw.sensors")
    bench.create_rollup("sensors_1h", "raw.sensors", "1 hour")
    later = end + timedelta(days=3)
    bench.refresh("sensors_1h", later)
    bench.session.execute("SELECT silver.set_retention('raw.sensors', '1 day', archive => true)")
    for _ in range(2):
        bench.session.execute("SELECT * FROM rollup_engine.run_maintenance(NULL, %s)", later)
    yield None
    with tempfile.TemporaryDirectory() as folder:
        (moved,) = archive(bench.session.connection, folder)
        table, file = moved.table_bytes or 0, moved.file_bytes or 0
        of = f"of {rows:,} rows of sensor data"
        yield Result(
            "cold_rows",
            f"MB as Parquet / in PostgreSQL with its index, {of}",
            [Sample(file / 1e9)],
            [Sample(table / 1e9)],
            limit=0.2,
            unit="MB",
        )
        yield Result("cold_rows", f"archive run {of}", [Sample(moved.seconds or 0)])
        (back,) = restore(bench.session.connection, "raw.sensors")
        yield Result("cold_rows", f"archive restore {of}", [Sample(back.seconds or 0)])
    bench.drop_rollup("sensors_1h")
    bench.session.execute("DROP TABLE raw.sensors, raw_archive.sensors_1")
