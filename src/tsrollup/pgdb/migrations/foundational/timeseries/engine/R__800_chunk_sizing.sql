-- The width of partitions that makes them of a sensible size, from statistics.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.statistics_extent(p_partition regclass, p_column name) RETURNS tstzrange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
AS $$
DECLARE
    v_unit constant text := rollup_engine.number_unit(p_partition, p_column);
    v_extent tstzrange;
BEGIN
    -- Without the outermost hundredths, where stray times are.
    SELECT (SELECT tstzrange(min(bound), max(bound), '[]')
        FROM unnest(s.histogram_bounds::text::text[]) WITH ORDINALITY AS b (shown, n)
        CROSS JOIN LATERAL (SELECT CASE WHEN v_unit IS NULL THEN shown::timestamptz ELSE rollup_engine.number_time(shown::numeric, v_unit) END) AS t (bound)
        WHERE isfinite(bound) AND (n BETWEEN 3 AND array_length(s.histogram_bounds, 1) - 2 OR array_length(s.histogram_bounds, 1) < 50))
    INTO v_extent
    FROM pg_stats AS s
    JOIN pg_class AS c ON c.oid = p_partition AND c.relname = s.tablename
    JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = s.schemaname
    WHERE s.attname = p_column;
    RETURN v_extent;
END
$$;
COMMENT ON FUNCTION rollup_engine.statistics_extent(regclass, name) IS 'From about the first to about the last time in a partition, as ANALYZE found them; NULL before it ran.';

CREATE OR REPLACE FUNCTION rollup_engine.bytes_per_second(p_relation regclass, p_column name) RETURNS double precision
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Of the newest ten ranges whose partitions hold enough to tell; there may be several to a range.
    SELECT sum(bytes) / sum(seconds)
    FROM (
        SELECT sum(pg_total_relation_size(m.member)) AS bytes, extract(epoch FROM max(upper(e.extent)) - min(lower(e.extent))) AS seconds
        FROM rollup_engine.partition_bounds(p_relation) AS m
        JOIN pg_class AS c ON c.oid = m.member AND c.relkind = 'r' AND c.reltuples >= 1000
        CROSS JOIN LATERAL rollup_engine.statistics_extent(m.member, p_column) AS e (extent)
        WHERE isfinite(m.from_time) AND upper(e.extent) > lower(e.extent)
        GROUP BY m.from_time, m.to_time
        ORDER BY m.from_time DESC
        LIMIT 10
    ) AS newest
$$;
COMMENT ON FUNCTION rollup_engine.bytes_per_second(regclass, name) IS 'How fast a partitioned table grows, indexes included; NULL when statistics cannot tell.';

CREATE OR REPLACE FUNCTION rollup_engine.round_chunk_interval(p_seconds double precision) RETURNS interval
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(max(width), '1 hour')
    FROM unnest('{1 hour,2 hours,3 hours,6 hours,12 hours,1 day,2 days,7 days,14 days,1 month,3 months,1 year,5 years,20 years}'::interval[]) AS width
    WHERE extract(epoch FROM width) <= p_seconds
$$;
COMMENT ON FUNCTION rollup_engine.round_chunk_interval(double precision) IS 'The widest usual length of time that fits.';

CREATE OR REPLACE FUNCTION rollup_engine.least_chunk_interval(p_set rollup_engine.partition_set, p_width interval) RETURNS interval
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT greatest(p_width,
        (SELECT r.bucket_width FROM silver.rollup_config AS r WHERE r.target_table = p_set.relation),
        (SELECT interval '1 day' FROM pg_attribute AS a
            WHERE a.attrelid = p_set.relation AND a.attname = p_set.control AND rollup_engine.base_type(a.atttypid) = 'date'::regtype))
$$;
COMMENT ON FUNCTION rollup_engine.least_chunk_interval(rollup_engine.partition_set, interval) IS 'The width, or the narrowest that the buckets of a rollup, or the days of a date, allow.';

CREATE OR REPLACE FUNCTION rollup_engine.best_chunk_interval(p_set rollup_engine.partition_set, p_target_bytes bigint) RETURNS interval
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.least_chunk_interval(p_set, rollup_engine.round_chunk_interval(p_target_bytes / growth.rate))
    FROM (SELECT rollup_engine.bytes_per_second(p_set.relation, p_set.control) AS rate OFFSET 0) AS growth
    WHERE growth.rate > 0
$$;
COMMENT ON FUNCTION rollup_engine.best_chunk_interval(rollup_engine.partition_set, bigint) IS 'Width of partitions of about that size; NULL when statistics cannot tell.';

CREATE OR REPLACE FUNCTION rollup_engine.find_partitioned(p_name text) RETURNS regclass
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation constant regclass := rollup_engine.find_table(p_name);
BEGIN
    IF rollup_engine.partition_column(v_relation) IS NULL THEN
        PERFORM rollup_engine.fail('TR004', format('%s is not partitioned by ranges of one column', v_relation),
            'create it with PARTITION BY RANGE (the time column)');
    END IF;
    RETURN v_relation;
END
$$;
COMMENT ON FUNCTION rollup_engine.find_partitioned(text) IS 'The partitioned table of that name, or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.chunk_interval(p_relation regclass) RETURNS interval
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT chunk_interval FROM rollup_engine.partition_set WHERE relation = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.chunk_interval(regclass) IS 'Present width of a table''s partitions to come, NULL when they are not made here.';

RESET ROLE;
