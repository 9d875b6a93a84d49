-- What a rollup says of its time and of the rows and values it reads: the zone and the origin of its
-- buckets, the unit of a number that is a time, expressions over a row, which rows count, and by which
-- dimension late ones are told apart.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
-- What these call is the engine, which comes after all versions.
SET LOCAL check_function_bodies = off;

SELECT rollup_engine.lock_tables('{silver.rollup_config,rollup_engine.source,rollup_engine.partition_set}');

ALTER TABLE rollup_engine.source
    ADD COLUMN time_unit text CHECK (time_unit IN ('s', 'ms', 'us', 'ns')),
    ADD COLUMN key_column name,
    ADD COLUMN key_is_lost boolean NOT NULL DEFAULT false,
    ADD COLUMN owner_name name,
    ADD COLUMN former_names text[] NOT NULL DEFAULT '{}';
UPDATE rollup_engine.source AS s SET owner_name = pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = s.relation;
ALTER TABLE rollup_engine.partition_set ADD COLUMN time_unit text;
ALTER TABLE silver.rollup_config
    ADD COLUMN time_unit text CHECK (time_unit IN ('s', 'ms', 'us', 'ns')),
    ADD COLUMN expressions jsonb,
    ADD COLUMN filter text,
    ADD COLUMN row_sql jsonb,
    ADD COLUMN key_dimension name;
COMMENT ON COLUMN rollup_engine.source.time_unit IS 'Unit of its time column where that is a number; NULL for times.';
COMMENT ON COLUMN rollup_engine.source.key_column IS 'Column whose values late rows are noted with, as it is called now; NULL for none.';
COMMENT ON COLUMN rollup_engine.source.key_is_lost IS 'Whether it was dropped, or given a type whose text does not tell values apart: another one is never chosen, for keys on record are of that one.';
COMMENT ON COLUMN rollup_engine.source.owner_name IS 'Who owned it when it was last looked at: another''s table of its name is not taken up in its place.';
COMMENT ON COLUMN rollup_engine.source.former_names IS 'The names that it had before, the last one first: another table of such a name may be the one that is meant.';
COMMENT ON COLUMN rollup_engine.partition_set.time_unit IS 'Unit of a control column of numbers.';
COMMENT ON COLUMN silver.rollup_config.time_unit IS 'Unit of a time column of numbers, which count from 1970; NULL for a column of times.';
COMMENT ON COLUMN silver.rollup_config.expressions IS 'SQL expressions over a row of the source, by the names under which they are columns; NULL for none.';
COMMENT ON COLUMN silver.rollup_config.filter IS 'Condition over a row of the source: only rows where it holds count; NULL for all.';
COMMENT ON COLUMN silver.rollup_config.row_sql IS 'Expressions and filter as PostgreSQL has parsed them: a template with the columns and the type of each.';
COMMENT ON COLUMN silver.rollup_config.key_dimension IS 'Dimension by which late rows are told apart: they cost their groups, not their buckets; NULL where they cost these.';

-- By its arguments: people may have a function of that name, too.
ALTER FUNCTION silver.create_rollup_table(text, text, text, interval, text, text[], jsonb, interval, interval, interval, interval, text, interval, interval, boolean)
    RENAME TO create_rollup_table_0_1_0;

CREATE FUNCTION silver.create_rollup_table(
    source_table_name text,
    target_schema text,
    target_table_name text,
    rollup_table_interval interval,
    time_column text DEFAULT NULL,
    dimensions text[] DEFAULT NULL,
    metrics jsonb DEFAULT NULL,
    chunk_interval interval DEFAULT NULL,
    settle_delay interval DEFAULT '1 minute',
    processing_window interval DEFAULT NULL,
    target_batch_duration interval DEFAULT '5 seconds',
    change_tracking text DEFAULT 'trigger',
    look_back_window interval DEFAULT NULL,
    retention interval DEFAULT NULL,
    if_not_exists boolean DEFAULT false,
    timezone text DEFAULT 'UTC',
    origin timestamptz DEFAULT NULL,
    time_unit text DEFAULT NULL,
    expressions jsonb DEFAULT NULL,
    filter text DEFAULT NULL,
    key_dimension text DEFAULT NULL
) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r silver.rollup_config;
BEGIN
    PERFORM rollup_engine.check_isolation();
    -- Whoever comes second sees what the first has made.
    PERFORM pg_advisory_xact_lock(rollup_engine.lock_key('target', format('%s.%s', target_schema, target_table_name)));
    SELECT c.* INTO r
    FROM silver.rollup_config AS c JOIN pg_class AS t ON t.oid = c.target_table
    WHERE t.relname = target_table_name AND t.relnamespace::regnamespace::text = quote_ident(target_schema);
    IF if_not_exists AND r.id IS NOT NULL THEN
        RAISE NOTICE 'rollup %.% exists already, skipping', target_schema, target_table_name;
        RETURN r.target_table;
    END IF;
    PERFORM rollup_engine.check_migrated();
    r := NULL;
    r.bucket_width := rollup_table_interval;
    r.chunk_interval := chunk_interval;
    r.settle_delay := settle_delay;
    r.processing_window := processing_window;
    r.target_batch_duration := target_batch_duration;
    r.change_tracking := change_tracking;
    r.look_back_window := look_back_window;
    r.retention := retention;
    r.timezone := timezone;
    r.origin := origin;
    r.time_unit := time_unit;
    r.expressions := expressions;
    r.filter := filter;
    r.key_dimension := key_dimension;
    RETURN rollup_engine.create_rollup(r, source_table_name, target_schema, target_table_name, time_column, dimensions, metrics);
END
$$;
COMMENT ON FUNCTION silver.create_rollup_table(text, text, text, interval, text, text[], jsonb, interval, interval, interval, interval, text, interval, interval, boolean,
    text, timestamptz, text, jsonb, text, text) IS
'Creates a rollup of a table, or of another rollup: its table of partial states, its live view gold.<target_table_name>, and the triggers that capture changes. Everything is stale at first; run_rollups fills it. Returns the table. Bucket and dimensions of a row are its key, so a dimension''s value may have up to some 2,700 bytes: a bucket with a longer one is not stored, and computed when it is read. Late rows make their groups stale rather than their buckets where a dimension of the source is its key: key_dimension, an integer, uuid, boolean or text, or else one for which the source has an index of that and the time. The caller owns the source and is a member of the owner role.';
SELECT rollup_engine.take_place_of('silver.create_rollup_table_0_1_0(text, text, text, interval, text, text[], jsonb, interval, interval, interval, interval, text, interval, interval, boolean)',
    'silver.create_rollup_table(text, text, text, interval, text, text[], jsonb, interval, interval, interval, interval, text, interval, interval, boolean, text, timestamptz, text, jsonb, text, text)');

CREATE OR REPLACE FUNCTION silver.get_partition_stats(table_name text)
RETURNS TABLE (
    partition_name text, from_time timestamptz, to_time timestamptz, is_sealed boolean, estimated_rows bigint, dead_rows bigint,
    table_bytes bigint, index_bytes bigint, last_vacuumed_at timestamptz, last_analyzed_at timestamptz
)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.partition_statistics(table_name)
$$;

RESET ROLE;
