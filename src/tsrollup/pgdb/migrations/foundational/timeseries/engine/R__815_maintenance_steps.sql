-- What maintenance does for a table: partitions of a sensible size, made ahead; fresh statistics;
-- the indexes that these suggest; short logs.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

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
