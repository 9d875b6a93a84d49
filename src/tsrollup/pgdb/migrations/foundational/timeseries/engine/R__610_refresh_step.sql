-- One step of a run: drain a source, or pick a cell and refresh it; a failure is recorded, and stops nothing else.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.pick_cell(p_rollup_id integer, p_within tstzrange, p_tried timestamptz[]) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off  -- a plan that was made while there were few stays when there are many
AS $$
BEGIN
    RETURN cell FROM rollup_engine.stale_range
    WHERE rollup_id = p_rollup_id AND tstzrange(from_time, to_time) && p_within AND cell <> ALL (p_tried)
    ORDER BY cell DESC
    LIMIT 1;
END
$$;
COMMENT ON FUNCTION rollup_engine.pick_cell(integer, tstzrange, timestamptz[]) IS 'The newest cell with stale buckets in the range that was not tried yet.';

CREATE OR REPLACE FUNCTION rollup_engine.locked_step(p_source_id integer) RETURNS rollup_engine.refresh_step_result
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_step rollup_engine.refresh_step_result;
BEGIN
    v_step.outcome := 'locked';
    v_step.error_code := '55P03';
    v_step.error_message := rollup_engine.locked_message(p_source_id) || ': what changed there is taken in when that ends';
    RETURN v_step;
END
$$;
COMMENT ON FUNCTION rollup_engine.locked_step(integer) IS 'What a step comes to that had to wait too long for a lock on a source: no failure, and nothing for others to wait for.';

CREATE OR REPLACE FUNCTION rollup_engine.failed_step(p_source_id integer, p_failure rollup_engine.failure) RETURNS rollup_engine.refresh_step_result
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_step rollup_engine.refresh_step_result;
BEGIN
    -- It is tried at every run; what counts as an attempt keeps to the backoff.
    PERFORM rollup_engine.record_failure(r.id, p_failure)
    FROM silver.rollup_config AS r WHERE r.source_id = p_source_id AND rollup_engine.is_due(r, false);
    v_step.outcome := 'failed';
    v_step.error_code := p_failure.code;
    v_step.error_message := p_failure.message;
    RETURN v_step;
END
$$;
COMMENT ON FUNCTION rollup_engine.failed_step(integer, rollup_engine.failure) IS 'What a step on a source comes to that failed, which is recorded with every rollup of the source.';

CREATE OR REPLACE FUNCTION rollup_engine.spelling(p_rollup_id integer) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN concat_ws(' ', source_table, target_table, refresh_sql) FROM silver.rollup_config WHERE id = p_rollup_id;
END
$$;
COMMENT ON FUNCTION rollup_engine.spelling(integer) IS 'The names of now that the statements of a refresh are made of.';

CREATE OR REPLACE FUNCTION rollup_engine.refresh_step(p_rollup_id integer, p_within tstzrange, p_tried timestamptz[]) RETURNS rollup_engine.refresh_step_result
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms'  -- other rollups wait behind it, and whom a deadlock would end
AS $$
DECLARE
    v_started constant timestamptz := clock_timestamp();
    v_step rollup_engine.refresh_step_result;
    v_batch rollup_engine.refresh_batch;
    v_failure rollup_engine.failure;
    v_spelling constant text := rollup_engine.spelling(p_rollup_id);
BEGIN
    PERFORM rollup_engine.wait_no_longer();
    BEGIN
        PERFORM rollup_engine.fail_if_gone(r) FROM silver.rollup_config AS r
        WHERE r.id = p_rollup_id AND NOT rollup_engine.is_relation(r.target_table);
        IF rollup_engine.settle_partitions(p_rollup_id)
            OR rollup_engine.settle_partitions((SELECT parent_id FROM silver.rollup_config WHERE id = p_rollup_id)) THEN
            v_step.outcome := 'prepared';
            RETURN v_step;
        END IF;
        v_step.cell := rollup_engine.pick_cell(p_rollup_id, p_within, p_tried);
        IF v_step.cell IS NULL THEN
            RETURN v_step;
        ELSIF v_step.cell = 'infinity' THEN
            v_step.outcome := CASE WHEN rollup_engine.divide_stale(p_rollup_id) THEN 'prepared' ELSE 'nothing' END;
            RETURN v_step;
        END IF;
        v_batch := rollup_engine.refresh_cell(p_rollup_id, v_step.cell, p_within);
        IF v_batch.outcome = 'refreshed' AND v_spelling <> rollup_engine.spelling(p_rollup_id) THEN
            -- While it waited, what it reads or writes may have given its name to another table.
            RAISE SQLSTATE 'TR900' USING MESSAGE = format('%s or its source was renamed meanwhile', (SELECT target_table FROM silver.rollup_config WHERE id = p_rollup_id));
        ELSIF v_batch.outcome = 'refreshed' THEN
            PERFORM rollup_engine.record_batch(p_rollup_id, v_batch, v_started);
        END IF;
        v_step.batch := v_batch;
        v_step.outcome := v_batch.outcome;
        v_step.error_code := v_batch.error_code;
        v_step.error_message := v_batch.error_message;
        IF v_step.outcome = 'bucket_failed' AND rollup_engine.fails_everywhere(p_rollup_id) THEN
            v_failure.code := v_step.error_code;
            v_failure.message := 'one bucket after the other fails; the last: ' || v_step.error_message;
            PERFORM rollup_engine.record_failure(p_rollup_id, v_failure);
            v_step.outcome := 'failed';
        END IF;
    EXCEPTION WHEN SQLSTATE 'TR900' THEN  -- that, and fail_if_changed
        v_step.outcome := 'changed';
        PERFORM rollup_engine.record_undone(p_rollup_id);
        RAISE NOTICE '%', SQLERRM USING HINT = 'what was computed meanwhile is undone, and done again by the next run';
        RETURN v_step;
    WHEN lock_not_available THEN
        RETURN rollup_engine.locked_step((SELECT source_id FROM silver.rollup_config WHERE id = p_rollup_id));
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS
            v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
            v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
        IF v_failure.code IN ('42P01', '42703') AND (v_spelling <> rollup_engine.spelling(p_rollup_id)
            OR (SELECT rollup_engine.has_changed(r) FROM silver.rollup_config AS r WHERE r.id = p_rollup_id))
        THEN
            v_step.outcome := 'busy';  -- it was renamed, or lost a metric, while its table was waited for, or while another run drains the source
            RETURN v_step;
        ELSIF v_failure.code = '42501' THEN
            SELECT coalesce(max(c.problem), v_failure.message), coalesce(max(c.hint), v_failure.hint) INTO v_failure.message, v_failure.hint
            FROM (
                SELECT c.* FROM silver.rollup_config AS r
                CROSS JOIN LATERAL (SELECT * FROM rollup_engine.closed_tables(r) UNION ALL SELECT * FROM rollup_engine.closed_parts(r)) AS c
                WHERE r.id = p_rollup_id LIMIT 1
            ) AS c;
        END IF;
        PERFORM rollup_engine.record_failure(p_rollup_id, v_failure);
        v_step.outcome := 'failed';
        v_step.error_code := v_failure.code;
        v_step.error_message := v_failure.message;
    END;
    RETURN v_step;
END
$$;
COMMENT ON FUNCTION rollup_engine.refresh_step(integer, tstzrange, timestamptz[]) IS
'Refreshes one batch of a rollup, in its newest stale cell that was not tried; a failure is recorded, and undone. changed: the source was altered since the last drain, and what was read by it is undone as well.';

-- That of 0.1.0 always looked at the catalogue.
DROP FUNCTION IF EXISTS rollup_engine.drain_step(integer, timestamptz);
CREATE OR REPLACE FUNCTION rollup_engine.drain_step(p_source_id integer, p_now timestamptz, p_is_quiet boolean DEFAULT false)
RETURNS rollup_engine.refresh_step_result
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms'  -- other sources wait behind it, and whom a deadlock would end
AS $$
DECLARE
    v_step rollup_engine.refresh_step_result;
    v_failure rollup_engine.failure;
BEGIN
    PERFORM rollup_engine.wait_no_longer();
    v_step.outcome := CASE
        WHEN rollup_engine.is_upgrading() THEN 'busy'
        WHEN rollup_engine.drain(p_source_id, p_now, p_is_quiet) THEN 'drained'
        WHEN rollup_engine.has_undrained(p_source_id) THEN 'busy'
        ELSE 'drained'
    END;
    RETURN v_step;
EXCEPTION WHEN lock_not_available THEN
    RETURN rollup_engine.locked_step(p_source_id);
WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS
        v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
        v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
    RETURN rollup_engine.failed_step(p_source_id, v_failure);
END
$$;
COMMENT ON FUNCTION rollup_engine.drain_step(integer, timestamptz, boolean) IS
'Drains a source: drained, busy (somebody else is at it, and there are changes to take in), locked, or failed, which is recorded with every rollup of the source.';

RESET ROLE;
