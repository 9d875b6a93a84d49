-- An example of a source: readings of devices, partitioned by time. Copy it for your own tables.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE IF NOT EXISTS raw.example_readings (
    ts timestamptz NOT NULL,
    site text NOT NULL,
    device text NOT NULL,
    temperature double precision,
    humidity double precision,
    status text
) PARTITION BY RANGE (ts);

-- Rollups are computed bucket by bucket along this index.
CREATE INDEX IF NOT EXISTS example_readings_ts_idx ON raw.example_readings (ts);

COMMENT ON TABLE raw.example_readings IS 'Example: one row per reading of a device.';
COMMENT ON COLUMN raw.example_readings.ts IS 'When the reading was taken.';
COMMENT ON COLUMN raw.example_readings.site IS 'Where the device stands.';
COMMENT ON COLUMN raw.example_readings.device IS 'Which device it was.';
COMMENT ON COLUMN raw.example_readings.temperature IS 'Degrees Celsius.';
COMMENT ON COLUMN raw.example_readings.humidity IS 'Relative humidity in percent.';
COMMENT ON COLUMN raw.example_readings.status IS 'What the device said of itself.';

SELECT silver.partition_source('raw.example_readings', '7 days');
