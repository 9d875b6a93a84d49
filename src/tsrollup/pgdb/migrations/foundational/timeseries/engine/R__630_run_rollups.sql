-- Runs that commit each batch.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.warn_of_undrained(p_undrained rollup_engine.undrained[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_undrained rollup_engine.undrained;
BEGIN
    FOREACH v_undrained IN ARRAY p_undrained LOOP
        RAISE WARNING '%', v_undrained.error_message USING ERRCODE = coalesce(v_undrained.error_code, 'TR005');
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.warn_of_undrained(rollup_engine.undrained[]) IS 'A WARNING for every source that a run could not drain.';

CREATE OR REPLACE PROCEDURE rollup_engine.run_within_budget(p_target text, p_budget interval, p_as_of timestamptz)
    LANGUAGE plpgsql
AS $$
DECLARE
    -- No SET clause, since it commits: the path is pinned again after each COMMIT. What a crash loses
    -- of it is logged or stale as before, so that no commit waits for the disk.
    -- What is looked up before that is qualified.
    v_path constant pg_catalog.text := pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    v_deadline pg_catalog.timestamptz;
    v_rollup silver.rollup_config;
    v_step rollup_engine.refresh_step_result;
    v_tried pg_catalog.timestamptz[];
    v_id integer;
    v_progress boolean := true;
    v_waits integer := 0;
    v_is_first boolean := true;
    v_undrained rollup_engine.undrained[] := '{}';
    v_windows integer[];
    v_locked integer[] := '{}';  -- left to the next run
    v_began pg_catalog.timestamptz;
    v_looked pg_catalog.timestamptz;  -- when the catalogue was looked at
BEGIN
    BEGIN
        COMMIT;
    EXCEPTION WHEN invalid_transaction_termination THEN
        -- Inside this block it is refused anyway; only by the message can one tell why.
        PERFORM rollup_engine.check_may_commit(SQLERRM);
    END;
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('synchronous_commit', 'off', true);
    PERFORM rollup_engine.check_interval('time_budget', p_budget, true);
    v_began := clock_timestamp();
    v_deadline := v_began + p_budget;
    IF rollup_engine.must_rest() THEN
        RETURN;
    END IF;
    -- Whoever holds a source is about to be done, or is none who runs: a transaction left open, or prepared.
    WHILE (v_progress OR v_undrained[1].outcome = 'busy' AND v_waits < 50) AND clock_timestamp() < v_deadline LOOP
        v_waits := CASE WHEN v_progress THEN 0 ELSE v_waits + 1 END;
        IF NOT v_progress THEN
            PERFORM pg_sleep(0.2);
            COMMIT;
            SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('synchronous_commit', 'off', true);
        END IF;
        v_progress := false;
        v_looked := CASE WHEN v_looked > clock_timestamp() - interval '1 second' THEN v_looked END;
        v_undrained := ARRAY(
            SELECT u FROM rollup_engine.drain_sources_of(p_target, coalesce(p_as_of, v_began), v_windows, v_looked IS NOT NULL) AS u ORDER BY u.outcome);
        v_looked := coalesce(v_looked, clock_timestamp());
        v_windows := ARRAY(SELECT u.source_id FROM unnest(v_undrained) AS u);  -- read once a run, changes as they come
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('synchronous_commit', 'off', true);
        EXIT WHEN rollup_engine.is_upgrading();
        IF rollup_engine.settle_tails() THEN
            COMMIT;
            SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('synchronous_commit', 'off', true);
        END IF;
        -- Once a run, and each by itself: writers wait as long.
        v_id := CASE WHEN v_is_first THEN rollup_engine.change_next_capture(0) END;
        v_is_first := false;
        WHILE v_id IS NOT NULL LOOP
            COMMIT;
            SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('synchronous_commit', 'off', true);
            v_id := rollup_engine.change_next_capture(v_id);
        END LOOP;
        -- In turn, a batch each, so that a long first fill starves nobody.
        FOREACH v_id IN ARRAY ARRAY(SELECT o FROM rollup_engine.rollups_to_refresh(p_target, coalesce(p_as_of, clock_timestamp())) AS o WHERE o <> ALL (v_locked)) LOOP
            v_tried := '{}';
            LOOP
                SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = v_id;
                EXIT WHEN NOT FOUND OR NOT rollup_engine.is_due(v_rollup, p_target IS NOT NULL) OR clock_timestamp() >= v_deadline;
                v_step := rollup_engine.refresh_step(v_id, rollup_engine.settled_range(v_rollup, coalesce(p_as_of, clock_timestamp())), v_tried);
                IF v_step.outcome IS NULL AND v_tried = '{}' AND v_rollup.source_id <> ALL (v_windows) THEN
                    PERFORM rollup_engine.record_success(v_id);
                END IF;
                COMMIT;
                SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
                PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('synchronous_commit', 'off', true);
                IF v_step.outcome IN ('failed', 'bucket_failed', 'locked') THEN
                    RAISE WARNING 'rollup % failed: %', v_rollup.target_table, v_step.error_message USING ERRCODE = v_step.error_code;
                END IF;
                v_locked := CASE v_step.outcome WHEN 'locked' THEN v_locked || v_id ELSE v_locked END;
                v_progress := v_progress OR coalesce(v_step.outcome IN ('refreshed', 'bucket_failed'), false);
                EXIT WHEN v_step.outcome IS NULL OR v_step.outcome IN ('refreshed', 'failed', 'bucket_failed', 'locked', 'changed');
                CONTINUE WHEN v_step.outcome = 'prepared';
                v_tried := v_tried || v_step.cell;
            END LOOP;
        END LOOP;
    END LOOP;
    PERFORM rollup_engine.warn_of_undrained(v_undrained);
END
$$;
COMMENT ON PROCEDURE rollup_engine.run_within_budget(text, interval, timestamptz) IS 'Drains and refreshes in turn, a batch each, and commits each, until nothing is due or the time is spent.';

RESET ROLE;
