-- Which columns the rollups group by, then an hourly rollup and a daily one on top of it.

SET LOCAL search_path = pg_catalog, pg_temp;

INSERT INTO silver.dimension_config (source_table, dimension_column, description)
VALUES
    ('raw.example_readings', 'site', 'Where the device stands'),
    ('raw.example_readings', 'device', 'Which device it was')
ON CONFLICT DO NOTHING;

SELECT silver.create_rollup_table('raw.example_readings', 'silver', 'example_readings_1h', '1 hour',
    if_not_exists => true);
SELECT silver.create_rollup_table('silver.example_readings_1h', 'silver', 'example_readings_1d', '1 day',
    if_not_exists => true);
