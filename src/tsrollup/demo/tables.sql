-- Raw tables of the demo, partitioned by month like any table of events.
-- The local new year's eve of 2013 ends in January 2014, in UTC.

CREATE TABLE raw.flights (
    scheduled timestamptz NOT NULL,
    carrier text NOT NULL,
    flight integer NOT NULL,
    tailnum text,
    origin text NOT NULL,
    dest text NOT NULL,
    dep_delay integer,
    arr_delay integer,
    air_time integer,
    distance integer NOT NULL
) PARTITION BY RANGE (scheduled);
COMMENT ON TABLE raw.flights IS 'tsrollup demo: flights that left New York in 2013; delays in minutes, NULL when cancelled';
CREATE INDEX flights_scheduled_idx ON raw.flights (scheduled);

CREATE TABLE raw.weather (
    observed timestamptz NOT NULL,
    origin text NOT NULL,
    temp double precision,
    dewp double precision,
    humid double precision,
    wind_dir double precision,
    wind_speed double precision,
    wind_gust double precision,
    precip double precision,
    pressure double precision,
    visib double precision
) PARTITION BY RANGE (observed);
COMMENT ON TABLE raw.weather IS 'tsrollup demo: hourly weather at the airports of New York in 2013; °F, mph, inches';
CREATE INDEX weather_observed_idx ON raw.weather (observed);

DO $$
DECLARE
    v_table text;
    v_month timestamptz;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['flights', 'weather'] LOOP
        FOR v_month IN
            SELECT m AT TIME ZONE 'UTC'
            FROM generate_series(timestamp '2013-01-01', timestamp '2014-01-01', '1 month') AS m
        LOOP
            EXECUTE format(
                'CREATE TABLE raw.%I PARTITION OF raw.%I FOR VALUES FROM (%L) TO (%L)',
                v_table || to_char(v_month AT TIME ZONE 'UTC', '_YYYY_MM'), v_table,
                v_month, (v_month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC'
            );
        END LOOP;
    END LOOP;
END
$$;
