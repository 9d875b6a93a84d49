-- Recomputing whole buckets of a batch; where a bucket fails, the others.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.planned_rows(p_rollup silver.rollup_config, p_from timestamptz, p_to timestamptz) RETURNS double precision
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_plan json;
BEGIN
    EXECUTE format('EXPLAIN (FORMAT JSON) SELECT 1 FROM %s WHERE %s', p_rollup.source_table, rollup_engine.time_condition(p_rollup, '$1', '$2') || rollup_engine.row_filter(p_rollup))
    INTO v_plan USING p_from, p_to;
    RETURN (v_plan -> 0 -> 'Plan' ->> 'Plan Rows')::double precision;
END
$$;
COMMENT ON FUNCTION rollup_engine.planned_rows(silver.rollup_config, timestamptz, timestamptz) IS 'Source rows in a range, as the planner estimates them.';

CREATE OR REPLACE FUNCTION rollup_engine.goes_per_bucket(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_hull constant tstzrange := range_merge(p_ranges);
    v_buckets constant bigint := rollup_engine.bucket_count(p_rollup.bucket_width, p_ranges);
BEGIN
    IF v_buckets > 10000 THEN
        RETURN false;  -- hardly any of them holds anything
    ELSIF p_rollup.query_shape <> 'auto' THEN
        RETURN p_rollup.query_shape = 'per_bucket';
    ELSIF rollup_engine.bucket_next(p_rollup, lower(v_hull)) >= upper(v_hull) THEN
        RETURN false;  -- a single bucket: the shapes are the same
    ELSIF NOT rollup_engine.has_time_index(p_rollup.source_table, p_rollup.time_column) THEN
        RETURN false;
    ELSIF (SELECT count(*) FROM unnest(p_ranges)) > 8 THEN
        RETURN true;  -- scattered: better than reading all that lies between
    END IF;
    RETURN rollup_engine.planned_rows(p_rollup, lower(v_hull), upper(v_hull)) > 50 * v_buckets;
END
$$;
COMMENT ON FUNCTION rollup_engine.goes_per_bucket(silver.rollup_config, tstzmultirange) IS
'Whether to group each bucket by itself: with a btree on time, it wins for many rows a bucket and for scattered buckets.';

CREATE OR REPLACE FUNCTION rollup_engine.fresh_sql(p_rollup silver.rollup_config, p_per_bucket boolean, p_scattered boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
BEGIN
    IF p_per_bucket THEN
        RETURN rollup_engine.per_bucket_sql(p_rollup, p_rollup.source_table::text, 'unnest($4, $5)', '$1', '$2');
    END IF;
    RETURN rollup_engine.grouped_sql(p_rollup, p_rollup.source_table::text, '$1', '$2',
        CASE WHEN p_scattered THEN format(' AND %s <@ $3', (
            SELECT rollup_engine.time_expression(p_rollup.time_column, CASE WHEN p_rollup.parent_id IS NULL THEN time_type ELSE 'timestamptz' END, p_rollup.time_unit)
            FROM rollup_engine.source WHERE id = p_rollup.source_id)) ELSE '' END);
END
$$;
COMMENT ON FUNCTION rollup_engine.fresh_sql(silver.rollup_config, boolean, boolean) IS
'The query of a batch. $1, $2: its hull; $3: its ranges; $4, $5: starts and ends of its buckets.';

DROP FUNCTION IF EXISTS rollup_engine.batch_sql(silver.rollup_config, boolean, boolean, boolean);
CREATE OR REPLACE FUNCTION rollup_engine.batch_sql(p_rollup silver.rollup_config, p_fresh text, p_per_bucket boolean, p_scattered boolean, p_empty boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_touched text := 't.bucket >= $1 AND t.bucket < $2';
BEGIN
    IF p_empty THEN
        -- In the order of time, as bucket by bucket they come anyway: what is read together shares pages, of the index too.
        RETURN rollup_engine.insert_sql(p_rollup, p_fresh || CASE WHEN p_per_bucket THEN '' ELSE ' ORDER BY 1' END);
    ELSIF p_scattered THEN
        v_touched := v_touched || CASE WHEN p_per_bucket THEN ' AND t.bucket = ANY ($4)' ELSE ' AND t.bucket <@ $3' END;
    END IF;
    RETURN rollup_engine.upsert_sql(p_rollup, p_fresh, v_touched);
END
$$;
COMMENT ON FUNCTION rollup_engine.batch_sql(silver.rollup_config, text, boolean, boolean, boolean) IS
'The statement that stores what the query of a batch returns; parameters as there.';

CREATE OR REPLACE FUNCTION rollup_engine.recompute(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS rollup_engine.refresh_batch
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone_abbreviations = 'Default'
AS $$
DECLARE
    v_hull constant tstzrange := range_merge(p_ranges);
    v_stored boolean;
    v_starts timestamptz[];
    v_ends timestamptz[];
    v_is_scattered constant boolean := p_ranges <> tstzmultirange(v_hull);
    v_is_far constant boolean := rollup_engine.is_of_citus(p_rollup.source_table);
    v_per_bucket constant boolean := NOT v_is_far AND rollup_engine.goes_per_bucket(p_rollup, p_ranges);
    v_fresh text := CASE WHEN v_is_far THEN rollup_engine.far_fresh_sql(p_rollup, v_is_scattered) ELSE rollup_engine.fresh_sql(p_rollup, v_per_bucket, v_is_scattered) END;
    v_batch rollup_engine.refresh_batch;
BEGIN
    -- Its own statements are planned now, and know all partitions that the claim may rest on.
    PERFORM rollup_engine.hear_invalidations();
    -- Nobody else writes here while the cell is locked: what is empty stays empty.
    EXECUTE format('SELECT true FROM %s WHERE bucket >= $1 AND bucket < $2 LIMIT 1', p_rollup.target_table)
    INTO v_stored USING lower(v_hull), upper(v_hull);
    IF v_per_bucket OR v_is_far AND v_is_scattered THEN
        SELECT array_agg(bucket), array_agg(next_bucket) INTO v_starts, v_ends FROM rollup_engine.buckets_in(p_rollup, p_ranges);
    END IF;
    PERFORM rollup_engine.set_refreshing(true);
    IF rollup_engine.distribution_column(p_rollup.target_table) IS NOT NULL THEN
        IF v_stored THEN
            EXECUTE rollup_engine.far_upsert_sql(p_rollup, v_fresh, v_is_scattered)
            INTO v_batch.rows_written, v_batch.rows_deleted USING lower(v_hull), upper(v_hull), p_ranges, v_starts, v_ends;
        ELSE
            EXECUTE rollup_engine.far_insert_sql(p_rollup, v_fresh) USING lower(v_hull), upper(v_hull), p_ranges, v_starts, v_ends;
            GET DIAGNOSTICS v_batch.rows_written = ROW_COUNT;
            v_batch.rows_deleted := 0;
        END IF;
        IF v_batch.rows_deleted > 0 THEN
            EXECUTE rollup_engine.far_delete_sql(p_rollup, v_is_scattered) USING lower(v_hull), upper(v_hull), v_starts;
        END IF;
    ELSE
        IF v_is_far THEN
            -- Citus plans no statement that reads from its workers, compares with what is here, and stores here.
            EXECUTE 'CREATE TEMPORARY TABLE tsrollup_fresh ON COMMIT DROP AS ' || v_fresh USING lower(v_hull), upper(v_hull), p_ranges, v_starts, v_ends;
            v_fresh := 'TABLE pg_temp.tsrollup_fresh';
        END IF;
        EXECUTE rollup_engine.batch_sql(p_rollup, v_fresh, v_per_bucket, v_is_scattered, v_stored IS NULL)
        INTO v_batch.rows_written, v_batch.rows_deleted
        USING lower(v_hull), upper(v_hull), p_ranges, v_starts, v_ends;
        IF v_is_far THEN
            DROP TABLE pg_temp.tsrollup_fresh;
        END IF;
    END IF;
    PERFORM rollup_engine.set_refreshing(false);
    v_batch.outcome := 'refreshed';
    v_batch.from_time := lower(v_hull);
    v_batch.to_time := upper(v_hull);
    v_batch.buckets := rollup_engine.bucket_count(p_rollup.bucket_width, p_ranges);
    v_batch.ranges := p_ranges;
    RETURN v_batch;
END
$$;
COMMENT ON FUNCTION rollup_engine.recompute(silver.rollup_config, tstzmultirange) IS 'Recomputes whole buckets from the source and stores what changed.';

-- That of 0.1.0 took the width alone.
DROP FUNCTION IF EXISTS rollup_engine.newer_half(tstzmultirange, interval);
CREATE OR REPLACE FUNCTION rollup_engine.newer_half(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Of two months of different lengths, half the time may reach into both.
    SELECT CASE WHEN half = p_ranges THEN rollup_engine.newest_part(p_rollup, p_ranges, '1 microsecond') ELSE half END
    FROM rollup_engine.newest_part(p_rollup, p_ranges, (SELECT sum(upper(r) - lower(r)) / 2 FROM unnest(p_ranges) AS r)) AS half
$$;
COMMENT ON FUNCTION rollup_engine.newer_half(silver.rollup_config, tstzmultirange) IS 'About the newer half of the buckets of the ranges, of two or more.';

CREATE OR REPLACE FUNCTION rollup_engine.recompute_what_can_be(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS rollup_engine.refresh_batch
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_ranges tstzmultirange := p_ranges;
    v_failure rollup_engine.failure;
BEGIN
    LOOP
        BEGIN
            RETURN rollup_engine.recompute(p_rollup, v_ranges);
        -- Of what is in the data. Other errors no smaller batch would escape.
        EXCEPTION WHEN data_exception OR integrity_constraint_violation OR cardinality_violation OR program_limit_exceeded OR raise_exception THEN
            IF rollup_engine.bucket_next(p_rollup, lower(v_ranges)) = upper(v_ranges) THEN
                GET STACKED DIAGNOSTICS
                    v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
                    v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
                RETURN rollup_engine.record_failed_bucket(p_rollup, lower(v_ranges), v_failure);
            END IF;
        END;
        v_ranges := rollup_engine.newer_half(p_rollup, v_ranges);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.recompute_what_can_be(silver.rollup_config, tstzmultirange) IS
'Recomputes the ranges; where their data is at fault, the newest half, quarter, ... of their buckets. One bucket that fails alone is recorded.';

RESET ROLE;
