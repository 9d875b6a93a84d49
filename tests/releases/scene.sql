-- A database in use, in the words of release 0.1.0: three levels, a seal and rows that came after it,
-- ranges that are stale, changes that no run has taken in, failures on record, a rollup at rest.

CREATE TABLE raw.readings (
    ts timestamptz NOT NULL, device text, place ltree, temp double precision, amount numeric
) PARTITION BY RANGE (ts);
SELECT silver.partition_source('raw.readings', '1 day');
INSERT INTO raw.readings
SELECT '2026-03-01 00:00+00'::timestamptz + n * interval '11 minutes', 'd' || n % 5,
    text2ltree('hall.' || n % 2 || '.row' || n % 3), n % 13, n % 7 * 1.10
FROM generate_series(1, 1200) AS n;
SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_15m', '15 minutes',
    dimensions => '{device}', metrics => '{"temp": ["avg", "min", "max", "first", "last"], "amount": ["sum"]}');
SELECT silver.create_rollup_table('silver.readings_15m', 'silver', 'readings_1h', '1 hour');
SELECT silver.create_rollup_table('silver.readings_1h', 'silver', 'readings_1mon', '1 month', dimensions => '{}');

CREATE TABLE raw."Odd ""names""" ("At" timestamp, "the value" integer, kind varchar(9));
INSERT INTO raw."Odd ""names""" SELECT '2026-03-05'::timestamp + n * interval '1 hour', n, 'k' || n % 3
FROM generate_series(1, 60) AS n;
SELECT silver.create_rollup_table('raw."Odd ""names"""', 'silver', 'Odd 1d', '1 day', dimensions => '{kind}');

CREATE TABLE raw.polled (at date, n integer);
INSERT INTO raw.polled SELECT '2026-01-01'::date + n, n FROM generate_series(1, 90) AS n;
SELECT silver.create_rollup_table('raw.polled', 'silver', 'polled_1w', '1 week',
    change_tracking => 'window', look_back_window => '3650 days');

CREATE TABLE raw.loud (ts timestamptz, n double precision);
INSERT INTO raw.loud VALUES ('2026-03-01 00:30+00', 1), ('2026-03-01 01:30+00', 1e308), ('2026-03-01 01:40+00', 1e308);
SELECT silver.create_rollup_table('raw.loud', 'silver', 'loud_1h', '1 hour');

CALL silver.run_rollups();
SELECT silver.add_rollup_metric('silver.loud_1h', '{"n": ["avg"]}');
CALL silver.run_rollups();

-- Sealed before the fourth of March, by a keep that is about that old on any day.
SELECT silver.set_retention('raw.readings', date_trunc('day', now()) - '2026-03-04'::timestamptz);
SELECT * FROM silver.maintain_timeseries_tables('raw.readings');
CALL silver.run_rollups();
SELECT * FROM silver.maintain_timeseries_tables('raw.readings');
SELECT * FROM silver.maintain_timeseries_tables('raw.readings');
INSERT INTO raw.readings VALUES ('2026-03-02 10:00+00', 'late', 'hall.9', 1, 1);
CALL silver.run_rollups();

-- Drained and not refreshed; then written and not drained.
SELECT silver.pause_rollup('silver.readings_1h');
UPDATE raw.readings SET temp = temp + 1 WHERE ts >= '2026-03-06' AND device = 'd3';
CALL silver.run_rollups();
DELETE FROM raw.readings WHERE ts >= '2026-03-08 12:00+00' AND device = 'd4';
INSERT INTO raw.readings VALUES ('2026-03-07 03:04+00', 'd1', 'hall.1.row2', 40, 2);
INSERT INTO raw."Odd ""names""" VALUES ('2026-03-06 05:00', 70, 'k0');
