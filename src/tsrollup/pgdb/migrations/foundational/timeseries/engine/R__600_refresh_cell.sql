-- Refreshing one batch: lock its cell or sparse cells, claim stale rows by id, look at
-- parent and seal, recompute whole buckets, clear exactly what was claimed.
--
-- Each step is a statement of its own with a snapshot of its own, in this order:
-- a change that commits after the recompute's snapshot has its log row drained
-- into a stale row that this batch did not claim, and stays stale.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

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
    FROM cleared, unnest(tstzmultirange(tstzrange(from_time, to_time)) - p_done) AS r
    WHERE NOT tstzrange(from_time, to_time) <@ p_done;  -- of many, to subtract takes long
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
    IF rollup_engine.is_of_citus(p_rollup.source_table) THEN
        -- A short batch is done before others would be connected.
        PERFORM rollup_engine.keep_connections() WHERE p_rollup.current_window / 4 <= (SELECT sum(upper(r) - lower(r)) FROM unnest(v_part) AS r);
    END IF;
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
