-- Refreshing one batch: lock its cell or sparse cells, claim stale rows by id, look at
-- parent and seal, recompute whole buckets, clear exactly what was claimed.
--
-- Each step is a statement of its own with a snapshot of its own, in this order:
-- a change that commits after the recompute's snapshot has its log row drained
-- into a stale row that this batch did not claim, and stays stale.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Recompute ----------------------------------------------------------------------------------------

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
        RETURN rollup_engine.per_bucket_sql(p_rollup, p_rollup.source_table::text, '$4, $5', '$1', '$2');
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
    IF v_is_far THEN
        PERFORM rollup_engine.keep_connections();
    END IF;
    IF rollup_engine.distribution_column(p_rollup.target_table) IS NOT NULL THEN
        EXECUTE rollup_engine.far_upsert_sql(p_rollup, v_fresh, v_stored IS NULL) USING lower(v_hull), upper(v_hull), p_ranges, v_starts, v_ends;
        GET DIAGNOSTICS v_batch.rows_written = ROW_COUNT;
        v_batch.rows_deleted := 0;
        IF v_stored THEN
            EXECUTE rollup_engine.far_delete_sql(p_rollup, v_is_scattered) USING lower(v_hull), upper(v_hull), v_starts;
            GET DIAGNOSTICS v_batch.rows_deleted = ROW_COUNT;
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

-- The batch ---------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.clear_claimed(p_rollup silver.rollup_config, p_ids bigint[], p_done tstzmultirange) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM rollup_engine.failed_bucket WHERE rollup_id = p_rollup.id AND bucket <@ p_done;
    WITH cleared AS (
        DELETE FROM rollup_engine.stale_range
        WHERE id = ANY (p_ids) AND tstzrange(from_time, to_time) && p_done
        RETURNING cell, from_time, to_time, due_at
    )
    INSERT INTO rollup_engine.stale_range (rollup_id, cell, from_time, to_time, due_at)
    SELECT p_rollup.id, cell, lower(r), upper(r), rollup_engine.due_at(p_rollup, lower(r), due_at)
    FROM cleared, unnest(tstzmultirange(tstzrange(from_time, to_time)) - p_done) AS r;
END
$$;
COMMENT ON FUNCTION rollup_engine.clear_claimed(silver.rollup_config, bigint[], tstzmultirange) IS
'Clears the claimed rows by id; what of them was not recomputed is put back.';

CREATE OR REPLACE FUNCTION rollup_engine.refresh_what_is_held(p_rollup silver.rollup_config, p_todo tstzmultirange) RETURNS rollup_engine.refresh_batch
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_is_named constant boolean := rollup_engine.has_named_width(p_rollup.target_table);
    v_held tstzmultirange := p_todo;
    v_part tstzmultirange := rollup_engine.newest_part(p_rollup, p_todo, p_rollup.current_window);
    v_lacks_partitions boolean := v_part <> p_todo OR rollup_engine.lacks_partitions(p_rollup, v_part);
    v_batch rollup_engine.refresh_batch;
BEGIN
    -- Time that holds nothing is done, however long it is, and needs no partition.
    IF v_lacks_partitions THEN
        v_held := rollup_engine.up_to_newest_row(p_rollup, p_todo);
        v_part := rollup_engine.newest_part(p_rollup, v_held, p_rollup.current_window);
        v_lacks_partitions := rollup_engine.lacks_partitions(p_rollup, v_part);
    END IF;
    -- Partitions that must not be wide are made where there are rows, one by one.
    IF v_lacks_partitions AND v_is_named AND NOT isempty(v_part) THEN
        v_part := rollup_engine.in_newest_chunk(p_rollup, v_part);
        v_lacks_partitions := rollup_engine.lacks_partitions(p_rollup, v_part);
    END IF;
    IF isempty(v_held) THEN
        v_batch := ROW('refreshed', lower(p_todo), upper(p_todo), 0, 0, 0, '{}');
    ELSIF v_lacks_partitions AND rollup_engine.ensure_partitions(p_rollup, v_part, NOT v_is_named) THEN
        -- Filled by a later transaction, so that who attaches another one need not wait for the batch.
        v_batch.outcome := 'prepared';
    ELSE
        v_batch := rollup_engine.recompute_what_can_be(p_rollup, v_part);
    END IF;
    v_batch.ranges := coalesce(v_batch.ranges, '{}') + (p_todo - v_held);
    v_batch.buckets := v_batch.buckets + rollup_engine.bucket_count(p_rollup.bucket_width, p_todo - v_held);
    RETURN v_batch;
END
$$;
COMMENT ON FUNCTION rollup_engine.refresh_what_is_held(silver.rollup_config, tstzmultirange) IS
'Recomputes the newest of the ranges, as many as the window allows, from the newest bucket on that holds something; what is empty after it is done as well.';

CREATE OR REPLACE FUNCTION rollup_engine.refresh_cell(p_rollup_id integer, p_cell timestamptz, p_within tstzrange) RETURNS rollup_engine.refresh_batch
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_batch rollup_engine.refresh_batch;
    v_cells timestamptz[];
    v_claims rollup_engine.stale_range[];
    v_groups rollup_engine.stale_range[];
    v_ids bigint[];
    v_claimed tstzmultirange;
    v_sealed tstzmultirange;
    v_todo tstzmultirange;
BEGIN
    -- 1. the cells
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    v_cells := rollup_engine.lock_cells(v_rollup, p_cell, p_within);
    IF v_cells = '{}' THEN
        v_batch.outcome := 'busy';
        RETURN v_batch;
    END IF;
    -- 2. the claim
    v_claims := ARRAY(
        SELECT s FROM rollup_engine.stale_range AS s
        WHERE rollup_id = p_rollup_id AND cell = ANY (v_cells) AND tstzrange(from_time, to_time) && p_within
        FOR UPDATE SKIP LOCKED);
    IF rollup_engine.is_of_citus(v_rollup.source_table) AND NOT rollup_engine.await_workers() THEN
        v_batch.outcome := 'busy';
        RETURN v_batch;
    END IF;
    -- 3. parent, seal and tail
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    PERFORM rollup_engine.fail_if_gone(v_rollup);
    v_groups := rollup_engine.claimed_groups(v_rollup, v_claims);
    SELECT array_agg(id), range_agg(tstzrange(from_time, to_time)) INTO v_ids, v_claimed
    FROM unnest(v_claims) AS s WHERE id NOT IN (SELECT id FROM unnest(v_groups));
    v_sealed := v_claimed * tstzmultirange(tstzrange(NULL, coalesce(v_rollup.sealed_before, '-infinity')));
    v_todo := (v_claimed - v_sealed) * rollup_engine.bucket_align(v_rollup, tstzmultirange(p_within))
        - rollup_engine.failing_ranges(v_rollup) - rollup_engine.bucket_align(v_rollup, rollup_engine.barred(v_rollup.source_id));
    IF v_rollup.parent_id IS NOT NULL AND NOT isempty(v_todo) THEN
        v_todo := v_todo - rollup_engine.parent_stale(v_rollup, v_todo);
        v_batch.outcome := CASE WHEN isempty(v_todo) THEN 'waiting' END;
    END IF;
    -- 4. recompute
    IF v_todo <> '{}' THEN
        v_batch := rollup_engine.refresh_what_is_held(v_rollup, v_todo);
    ELSIF v_groups <> '{}' THEN
        v_batch := rollup_engine.refresh_groups(v_rollup, v_groups);
    ELSE
        v_batch.outcome := coalesce(v_batch.outcome, 'nothing');
    END IF;
    v_batch.cells := v_cells;
    -- What it was read by is locked by now, so that the catalogue tells what that was.
    PERFORM rollup_engine.fail_if_changed(v_rollup) WHERE v_batch.outcome = 'refreshed';
    -- 5. clear
    PERFORM rollup_engine.clear_claimed(v_rollup, v_ids, v_sealed + coalesce(v_batch.ranges, '{}'));
    RETURN v_batch;
END
$$;
COMMENT ON FUNCTION rollup_engine.refresh_cell(integer, timestamptz, tstzrange) IS
'Refreshes the newest stale buckets of a cell, and of sparse ones before it, that lie within the range, as many as the window allows.';

RESET ROLE;
