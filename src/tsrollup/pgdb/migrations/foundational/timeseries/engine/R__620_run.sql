-- Which rollups are due, and refreshing them in the caller's transaction.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Which rollups, and how far ----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.settled_range(p_rollup silver.rollup_config, p_as_of timestamptz) RETURNS tstzrange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- What the tail has just left behind waits for the writers of that moment.
    v_until constant timestamptz := CASE WHEN isfinite(p_as_of)
        THEN least(rollup_engine.time_before(greatest(p_as_of, lower(rollup_engine.calendar())), p_rollup.settle_delay), rollup_engine.waits_from(p_rollup.source_id))
        ELSE p_as_of END;
BEGIN
    IF rollup_engine.has_lost_zone(p_rollup) THEN
        RETURN '(,)';  -- nobody can say, and the refresh does
    END IF;
    RETURN tstzrange(NULL, rollup_engine.bucket_start(p_rollup, v_until));  -- of a variable it is inlined
END
$$;
COMMENT ON FUNCTION rollup_engine.settled_range(silver.rollup_config, timestamptz) IS
'Buckets that ended at least settle_delay before the time, and which nobody may still write to without logging it.';

CREATE OR REPLACE FUNCTION rollup_engine.ranges_left(p_rollup_id integer, p_within tstzrange) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*) FROM rollup_engine.stale_range
    WHERE rollup_id = p_rollup_id AND tstzrange(from_time, to_time) && p_within
$$;
COMMENT ON FUNCTION rollup_engine.ranges_left(integer, tstzrange) IS 'Stale ranges of a rollup that reach into the range.';

CREATE OR REPLACE FUNCTION rollup_engine.run_order(p_target text) RETURNS SETOF silver.rollup_config
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_target IS NULL THEN
        RETURN QUERY SELECT * FROM silver.rollup_config ORDER BY depth, id;
    ELSE
        RETURN QUERY SELECT * FROM silver.rollup_config WHERE id = (SELECT rollup_engine.rollup_id(p_target));  -- asked once, not of each
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.run_order(text) IS 'The named rollup, or all of them, parents first.';

CREATE OR REPLACE FUNCTION rollup_engine.is_due(p_rollup silver.rollup_config, p_named boolean) RETURNS boolean
    LANGUAGE sql
RETURN NOT rollup_engine.is_upgrading()
    AND (p_rollup.status = 'active' OR p_rollup.status = 'retrying' AND (p_named OR p_rollup.next_retry_at <= clock_timestamp()));
COMMENT ON FUNCTION rollup_engine.is_due(silver.rollup_config, boolean) IS 'False while paused, parked, waiting for its next attempt (unless it was asked for by name), or during a migrate.';

CREATE OR REPLACE FUNCTION rollup_engine.rollups_to_refresh(p_target text, p_as_of timestamptz) RETURNS SETOF integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off  -- many functions, few rows
    SET plan_cache_mode = force_generic_plan  -- planning costs as much
    SET enable_seqscan = off  -- of each rollup
AS $$
DECLARE
    v_ids constant integer[] := ARRAY(SELECT r.id FROM rollup_engine.run_order(p_target) AS r);
BEGIN
    RETURN QUERY
        SELECT r.id FROM silver.rollup_config AS r
        WHERE r.id = ANY (v_ids)
            AND (r.status = 'retrying'
                OR EXISTS (SELECT FROM rollup_engine.stale_range AS s WHERE s.rollup_id = r.id)
                    AND rollup_engine.pick_cell(r.id, rollup_engine.settled_range(r, p_as_of), '{}') IS NOT NULL
                OR EXISTS (SELECT FROM rollup_engine.rollup_partition AS p
                    WHERE p.rollup_id IN (r.id, r.parent_id) AND p.generation = 9223372036854775807)
                OR NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = r.target_table))
        ORDER BY r.depth, r.id;
END
$$;
COMMENT ON FUNCTION rollup_engine.rollups_to_refresh(text, timestamptz) IS
'The named rollup, or all, parents first, where a step finds something to do: settled stale buckets, partitions to settle, a failure to forget, or a table that is gone.';

-- That of 0.1.0 looked at every source.
DROP FUNCTION IF EXISTS rollup_engine.drain_sources_of(text, timestamptz, integer[]);
CREATE OR REPLACE FUNCTION rollup_engine.drain_sources_of(
    p_target text, p_now timestamptz, p_windows integer[] DEFAULT NULL, p_is_known boolean DEFAULT false
) RETURNS SETOF rollup_engine.undrained
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source_id integer;
    v_is_quiet boolean;
    v_step rollup_engine.refresh_step_result;
    v_failure rollup_engine.failure;
BEGIN
    IF rollup_engine.is_upgrading() THEN
        RETURN;  -- before it reads what a migrate may change
    END IF;
    FOR v_source_id, v_is_quiet IN SELECT * FROM rollup_engine.sources_to_drain(p_target, p_windows, p_is_known) LOOP
        BEGIN
            IF NOT v_is_quiet THEN
                PERFORM rollup_engine.relink_source(v_source_id);
                PERFORM rollup_engine.watch_new_partitions(v_source_id);
                PERFORM rollup_engine.mend_triggers(v_source_id);
            END IF;
            v_step := rollup_engine.drain_step(v_source_id, CASE WHEN p_windows IS NULL OR v_source_id = ANY (p_windows) THEN p_now END, v_is_quiet);
            IF v_step.outcome = 'drained' AND NOT v_is_quiet THEN
                PERFORM rollup_engine.note_quiet(v_source_id);
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            v_step := rollup_engine.locked_step(v_source_id);
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS
                v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
                v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
            v_step := rollup_engine.failed_step(v_source_id, v_failure);
        END;
        IF v_step.outcome <> 'drained' THEN
            RETURN NEXT ROW(v_source_id, v_step.outcome, v_step.error_code, coalesce(v_step.error_message, format(
                'another run, or a change of its rollups, holds %s: what changed there lately is not taken in yet%s',
                (SELECT relation FROM rollup_engine.source WHERE id = v_source_id),
                coalesce('; it is session ' || rollup_engine.source_lock_holder(v_source_id),
                    '; it is prepared transaction ' || quote_literal(rollup_engine.source_lock_prepared(v_source_id))))))::rollup_engine.undrained;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.drain_sources_of(text, timestamptz, integer[], boolean) IS
'Drains the sources of the named rollup, or all, where there is anything to drain, and returns those where it could not. Windows are read again of the sources given, NULL for all. Whether the catalogue was looked at a moment ago is said by the last argument.';

CREATE OR REPLACE FUNCTION rollup_engine.refresh_within(p_rollup silver.rollup_config, p_within tstzrange, p_max_batches integer) RETURNS rollup_engine.run_result
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_started constant timestamptz := clock_timestamp();
    v_result rollup_engine.run_result := ROW(p_rollup.target_table::text, 'ok', 0, 0, 0, 0, NULL, NULL, NULL);
    v_step rollup_engine.refresh_step_result;
    v_tried timestamptz[] := '{}';
    v_cells timestamptz[] := '{}';
    v_batches integer := 0;
BEGIN
    WHILE p_max_batches IS NULL OR v_batches < p_max_batches LOOP
        v_step := rollup_engine.refresh_step(p_rollup.id, p_within, v_tried);
        EXIT WHEN v_step.outcome IS NULL;
        CONTINUE WHEN v_step.outcome = 'prepared';
        IF v_step.outcome = 'refreshed' THEN
            v_batches := v_batches + 1;
            v_result.buckets := v_result.buckets + (v_step.batch).buckets;
            v_result.rows_written := v_result.rows_written + (v_step.batch).rows_written;
            v_result.rows_deleted := v_result.rows_deleted + (v_step.batch).rows_deleted;
            v_cells := ARRAY(SELECT unnest(v_cells) UNION SELECT unnest((v_step.batch).cells));
            EXIT WHEN cardinality(v_cells) >= 500;  -- each holds a lock until the transaction ends
        ELSIF v_step.outcome <> 'bucket_failed' THEN
            v_tried := v_tried || v_step.cell;
            v_result.status := CASE v_step.outcome WHEN 'failed' THEN 'failed' WHEN 'waiting' THEN 'waiting_for_parent' ELSE v_result.status END;
            v_result.error_code := v_step.error_code;
            v_result.error_message := v_step.error_message;
            EXIT WHEN v_step.outcome IN ('failed', 'locked', 'changed');
        END IF;
    END LOOP;
    IF v_result.error_code IS NULL THEN
        SELECT error_code, error_message INTO v_result.error_code, v_result.error_message
        FROM rollup_engine.failed_buckets(p_rollup.id, p_within) ORDER BY bucket DESC LIMIT 1;
    END IF;
    v_result.ranges_left := rollup_engine.ranges_left(p_rollup.id, p_within);
    v_result.status := CASE WHEN v_result.status = 'ok' AND v_result.ranges_left > 0 THEN 'partial' ELSE v_result.status END;
    v_result.duration := clock_timestamp() - v_started;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION rollup_engine.refresh_within(silver.rollup_config, tstzrange, integer) IS 'Refreshes a rollup''s stale buckets in a range, batch by batch.';

CREATE OR REPLACE FUNCTION rollup_engine.ranges_undrained(p_source_id integer, p_within tstzrange) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*)
    FROM rollup_engine.change_log,
        rollup_engine.bucket_align(rollup_engine.told_width(p_source_id), tstzmultirange(p_within)) AS asked
    WHERE source_id = p_source_id AND tstzrange(from_time, to_time) && asked
$$;
COMMENT ON FUNCTION rollup_engine.ranges_undrained(integer, tstzrange) IS 'Logged changes in the buckets of the range that no drain has taken in.';

CREATE OR REPLACE FUNCTION rollup_engine.with_undrained(
    p_result rollup_engine.run_result, p_rollup silver.rollup_config, p_within tstzrange, p_undrained rollup_engine.undrained[]
) RETURNS rollup_engine.run_result
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_undrained rollup_engine.undrained;
BEGIN
    SELECT * INTO v_undrained FROM unnest(p_undrained) AS u WHERE u.source_id = p_rollup.source_id;
    IF FOUND THEN
        p_result.ranges_left := p_result.ranges_left + rollup_engine.ranges_undrained(p_rollup.source_id, p_within);
        p_result.status := CASE
            WHEN v_undrained.outcome = 'failed' AND p_result.status IN ('ok', 'partial', 'retrying') THEN 'failed'
            WHEN p_result.status = 'ok' THEN 'partial'
            ELSE p_result.status
        END;
        IF p_result.error_code IS NULL THEN
            p_result.error_code := v_undrained.error_code;
            p_result.error_message := v_undrained.error_message;
        END IF;
    END IF;
    RETURN p_result;
END
$$;
COMMENT ON FUNCTION rollup_engine.with_undrained(rollup_engine.run_result, silver.rollup_config, tstzrange, rollup_engine.undrained[]) IS
'The result, which is not ok where changes of the source were not taken in.';

CREATE OR REPLACE FUNCTION rollup_engine.run_all_due(p_target text, p_max_batches integer, p_as_of timestamptz) RETURNS SETOF rollup_engine.run_result
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_as_of constant timestamptz := coalesce(p_as_of, clock_timestamp());
    v_undrained rollup_engine.undrained[];
    v_rollup silver.rollup_config;
    v_within tstzrange;
    v_result rollup_engine.run_result;
BEGIN
    PERFORM rollup_engine.check_isolation();
    IF p_max_batches < 1 THEN
        PERFORM rollup_engine.fail('TR001', format('max_batches is %s', p_max_batches), 'give a number from 1 on, or NULL for no limit');
    ELSIF rollup_engine.must_rest() THEN
        RETURN;
    END IF;
    v_undrained := ARRAY(SELECT u FROM rollup_engine.drain_sources_of(p_target, v_as_of) AS u);
    FOR v_rollup IN SELECT * FROM rollup_engine.run_order(p_target) LOOP
        v_within := rollup_engine.settled_range(v_rollup, v_as_of);
        IF rollup_engine.is_due(v_rollup, p_target IS NOT NULL) THEN
            v_result := rollup_engine.refresh_within(v_rollup, v_within, p_max_batches);
        ELSE
            v_result := ROW(v_rollup.target_table::text, v_rollup.status, 0, 0, 0,
                rollup_engine.ranges_left(v_rollup.id, v_within), interval '0', NULL, NULL);
        END IF;
        v_result := rollup_engine.with_undrained(v_result, v_rollup, v_within, v_undrained);
        IF v_result.status = 'ok' THEN
            PERFORM rollup_engine.record_success(v_rollup.id);
        END IF;
        RETURN NEXT v_result;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.run_all_due(text, integer, timestamptz) IS 'What perform_rollup does.';

CREATE OR REPLACE FUNCTION rollup_engine.run_range(p_target text, p_from timestamptz, p_to timestamptz) RETURNS SETOF rollup_engine.run_result
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_target silver.rollup_config;
    v_rollup silver.rollup_config;
    v_undrained rollup_engine.undrained[];
    v_range tstzrange;
BEGIN
    PERFORM rollup_engine.check_isolation();
    SELECT * INTO v_target FROM silver.rollup_config WHERE id = rollup_engine.rollup_id(p_target);
    IF rollup_engine.must_rest() THEN
        RETURN;
    END IF;
    PERFORM silver.mark_stale(v_target.target_table::text, p_from, p_to);
    v_undrained := ARRAY(SELECT u FROM rollup_engine.drain_sources_of(p_target, clock_timestamp()) AS u);
    v_range := range_merge(rollup_engine.bucket_align(v_target, tstzmultirange(rollup_engine.calendar_range(p_from, p_to))));
    FOR v_rollup IN
        SELECT * FROM silver.rollup_config WHERE id IN (SELECT rollup_engine.with_ancestors(v_target.id)) ORDER BY depth
    LOOP
        RETURN NEXT rollup_engine.with_undrained(rollup_engine.refresh_within(v_rollup, v_range, NULL), v_rollup, v_range, v_undrained);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.run_range(text, timestamptz, timestamptz) IS 'What refresh_rollup does.';

RESET ROLE;
