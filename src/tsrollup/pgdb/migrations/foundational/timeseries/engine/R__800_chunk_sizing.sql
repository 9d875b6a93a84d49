-- What maintenance does for a table: partitions of a sensible size, made ahead; fresh statistics;
-- the indexes that these suggest; short logs.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Sizing, from statistics ------------------------------------------------------------------

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

-- The steps -----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.apply_chunk_interval(p_set rollup_engine.partition_set, p_now timestamptz) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_best interval := rollup_engine.best_chunk_interval(p_set, 268435456);
BEGIN
    -- Small differences are not worth partitions of many widths.
    IF p_set.is_named OR v_best IS NULL OR v_best BETWEEN p_set.chunk_interval / 3 AND p_set.chunk_interval * 3 THEN
        v_best := p_set.chunk_interval;
    END IF;
    v_best := rollup_engine.fit_to_keep(p_set, v_best);
    IF v_best = p_set.chunk_interval THEN
        RETURN NULL;
    END IF;
    PERFORM rollup_engine.set_chunk_interval(p_set, v_best, p_now);
    RETURN format('partitions to come: %s instead of %s', v_best, p_set.chunk_interval);
END
$$;
COMMENT ON FUNCTION rollup_engine.apply_chunk_interval(rollup_engine.partition_set, timestamptz) IS 'Has partitions to come be of the best width, when that is far from the present one, and nobody named that or its table is not kept for long enough.';

CREATE OR REPLACE FUNCTION rollup_engine.premake(p_set rollup_engine.partition_set, p_now timestamptz) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_made bigint;
BEGIN
    IF p_set.is_source THEN
        v_made := rollup_engine.premake_source_partitions(p_set, p_now);
    ELSE
        v_made := rollup_engine.premake_rollup_partitions(p_set, p_now);
    END IF;
    RETURN nullif(v_made, 0) || ' partitions';
END
$$;
COMMENT ON FUNCTION rollup_engine.premake(rollup_engine.partition_set, timestamptz) IS 'Makes partitions ahead; says how many, NULL when there were enough.';

CREATE OR REPLACE FUNCTION rollup_engine.analyze_changed(p_relation regclass) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET client_min_messages = error
AS $$
DECLARE
    v_member regclass;
    v_count integer := 0;
BEGIN
    FOR v_member IN
        SELECT s.relid
        FROM rollup_engine.partition_tree(p_relation) AS t (member)
        JOIN pg_stat_all_tables AS s ON s.relid = t.member
        JOIN pg_class AS c ON c.oid = s.relid AND c.relkind = 'r'
        WHERE s.n_mod_since_analyze > 0.1 * greatest(c.reltuples, 100) OR c.reltuples < 0 AND pg_relation_size(c.oid) > 0
    LOOP
        EXECUTE format('ANALYZE (SKIP_LOCKED) %s', v_member);
        v_count := v_count + 1;
    END LOOP;
    -- Of its own accord autovacuum looks at partitions only.
    IF v_count > 0 AND EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = p_relation) THEN
        EXECUTE format('ANALYZE (SKIP_LOCKED) %s', p_relation);
    END IF;
    RETURN nullif(v_count, 0) || ' tables';
END
$$;
COMMENT ON FUNCTION rollup_engine.analyze_changed(regclass) IS 'Brings statistics up to date where a tenth of the rows changed; says of how many tables.';

CREATE OR REPLACE FUNCTION rollup_engine.add_missing_indexes(p_relation regclass) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of the partitions
AS $$
DECLARE
    v_statement text;
    v_done text[] := '{}';
BEGIN
    FOR v_statement IN
        SELECT rollup_engine.extra_indexes_sql(r) FROM silver.rollup_config AS r WHERE r.target_table = p_relation
    LOOP
        PERFORM rollup_engine.lock_out(p_relation, 'SHARE');
        EXECUTE v_statement;
        v_done := v_done || v_statement;
    END LOOP;
    RETURN nullif(array_to_string(v_done, '; '), '');
END
$$;
COMMENT ON FUNCTION rollup_engine.add_missing_indexes(regclass) IS 'Creates the indexes that a rollup should have by our rules, which statistics may decide later.';

CREATE OR REPLACE FUNCTION rollup_engine.maintenance_step(p_set rollup_engine.partition_set, p_step text, p_now timestamptz) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE p_step
        WHEN 'resized' THEN rollup_engine.apply_chunk_interval(p_set, p_now)
        WHEN 'premade' THEN rollup_engine.premake(p_set, p_now)
        WHEN 'skipped' THEN CASE WHEN p_set.is_source THEN rollup_engine.staying_rows(p_set, true) END
        WHEN 'analyzed' THEN rollup_engine.analyze_changed(p_set.relation)
        WHEN 'indexed' THEN rollup_engine.add_missing_indexes(p_set.relation)
    END;
END
$$;
COMMENT ON FUNCTION rollup_engine.maintenance_step(rollup_engine.partition_set, text, timestamptz) IS 'One step for one table; says what it did, NULL for nothing.';

-- What runs with the owner's rights deletes by the time that it is told.
CREATE OR REPLACE FUNCTION rollup_engine.trusted_time(p_now timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN pg_has_role(session_user, '${owner_role}', 'USAGE') THEN p_now ELSE least(p_now, now()) END
$$;
COMMENT ON FUNCTION rollup_engine.trusted_time(timestamptz) IS 'The time; but only the owner may be ahead of it.';

CREATE OR REPLACE FUNCTION rollup_engine.clean_logs(p_now timestamptz) RETURNS text
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH refreshes AS (
        DELETE FROM silver.refresh_log WHERE finished_at < rollup_engine.trusted_time(p_now) - interval '30 days' RETURNING 1
    ), errors AS (
        DELETE FROM silver.error_log WHERE occurred_at < rollup_engine.trusted_time(p_now) - interval '30 days' RETURNING 1
    )
    SELECT nullif((SELECT count(*) FROM refreshes) + (SELECT count(*) FROM errors), 0) || ' rows of refresh_log and error_log'
$$;
COMMENT ON FUNCTION rollup_engine.clean_logs(timestamptz) IS 'Deletes what is older than 30 days from the logs; says how much.';

RESET ROLE;
