-- Runs that commit each batch; retries, pausing and resuming.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE FUNCTION rollup_engine.check_may_commit(p_refusal text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In a function nobody may: that message, in whatever language.
    COMMIT;
EXCEPTION WHEN invalid_transaction_termination THEN
    IF SQLERRM = p_refusal THEN
        PERFORM rollup_engine.fail('TR005', 'run_rollups commits every batch, which it cannot do here',
            'CALL it by itself, in autocommit: not in a transaction block, a function, or together with other statements; or use silver.perform_rollup there, which works in your transaction');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_may_commit(text) IS 'An error where a procedure may not commit, given what it was told when it tried.';

CREATE FUNCTION rollup_engine.warn_of_undrained(p_undrained rollup_engine.undrained[]) RETURNS void
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

CREATE PROCEDURE silver.run_rollups(
    target text DEFAULT NULL,
    time_budget interval DEFAULT '1 minute',
    as_of timestamptz DEFAULT NULL
)
    LANGUAGE plpgsql
AS $$
DECLARE
    -- No SET clause, since it commits: the path is pinned again after each COMMIT.
    -- What is looked up before that is qualified.
    v_path constant pg_catalog.text := pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    v_deadline pg_catalog.timestamptz;
    v_rollup silver.rollup_config;
    v_step rollup_engine.step;
    v_tried pg_catalog.timestamptz[];
    v_id integer;
    v_progress boolean := true;
    v_undrained rollup_engine.undrained[];
    v_windows integer[];
    v_began pg_catalog.timestamptz;
BEGIN
    BEGIN
        COMMIT;
    EXCEPTION WHEN invalid_transaction_termination THEN
        -- Inside this block it is refused anyway; only by the message can one tell why.
        PERFORM rollup_engine.check_may_commit(SQLERRM);
    END;
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    PERFORM rollup_engine.check_interval('time_budget', time_budget, true);
    v_began := clock_timestamp();
    v_deadline := v_began + time_budget;
    IF rollup_engine.is_standby() THEN
        RETURN;
    END IF;
    WHILE (v_progress OR v_undrained[1].outcome = 'busy') AND clock_timestamp() < v_deadline LOOP
        IF NOT v_progress THEN
            PERFORM pg_sleep(0.2);  -- whoever holds the source is about to be done
            COMMIT;
            SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        END IF;
        v_progress := false;
        v_undrained := ARRAY(SELECT u FROM rollup_engine.drain_all(target, coalesce(as_of, v_began), v_windows) AS u ORDER BY u.outcome);
        v_windows := ARRAY(SELECT u.source_id FROM unnest(v_undrained) AS u);  -- read once a run, changes as they come
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        -- In turn, a batch each, so that a long first fill starves nobody.
        FOREACH v_id IN ARRAY ARRAY(SELECT o.id FROM rollup_engine.run_order(target) AS o) LOOP
            v_tried := '{}';
            LOOP
                SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = v_id;
                EXIT WHEN NOT FOUND OR NOT rollup_engine.is_due(v_rollup, target IS NOT NULL) OR clock_timestamp() >= v_deadline;
                v_step := rollup_engine.refresh_step(v_id, rollup_engine.settled_range(v_rollup, coalesce(as_of, clock_timestamp())), v_tried);
                IF v_step.outcome IS NULL AND v_tried = '{}' AND v_rollup.source_id <> ALL (v_windows) THEN
                    PERFORM rollup_engine.record_success(v_id);
                END IF;
                COMMIT;
                SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
                PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
                IF v_step.outcome IN ('failed', 'bucket_failed') THEN
                    RAISE WARNING 'rollup % failed: %', v_rollup.target_table, v_step.error_message USING ERRCODE = v_step.error_code;
                END IF;
                v_progress := v_progress OR coalesce(v_step.outcome IN ('refreshed', 'bucket_failed'), false);
                EXIT WHEN v_step.outcome IS NULL OR v_step.outcome IN ('refreshed', 'failed', 'bucket_failed');
                CONTINUE WHEN v_step.outcome = 'prepared';
                v_tried := v_tried || v_step.cell;
            END LOOP;
        END LOOP;
    END LOOP;
    PERFORM rollup_engine.warn_of_undrained(v_undrained);
END
$$;
COMMENT ON PROCEDURE silver.run_rollups(text, interval, timestamptz) IS
'Refreshes the settled stale buckets of one rollup or of all, parents first, a transaction per batch, until nothing is left or the time budget is used. Any number of these may run at once. A failure is a WARNING, and on record; the others go on. Not inside a transaction or a function: there use perform_rollup.';

-- Retries, pausing ---------------------------------------------------------------------------------------

CREATE FUNCTION silver.handle_rollup_retries()
RETURNS TABLE (
    target text, status text, buckets bigint, rows_written bigint, rows_deleted bigint,
    ranges_left bigint, duration interval, error_code text, error_message text
)
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.*
    FROM (
        SELECT target_table::text AS name FROM silver.rollup_config
        WHERE status = 'retrying' AND next_retry_at <= clock_timestamp()
        ORDER BY depth, id
    ) AS due
    CROSS JOIN LATERAL rollup_engine.perform(due.name, NULL, clock_timestamp()) AS p
$$;
COMMENT ON FUNCTION silver.handle_rollup_retries() IS 'Tries again every failed rollup whose time has come; a row each, as perform_rollup returns.';

CREATE FUNCTION silver.reset_rollup_retry(target text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM rollup_engine.failed_bucket WHERE rollup_id = rollup_engine.rollup_id(target);
    UPDATE silver.rollup_config SET retry_count = 0, next_retry_at = NULL, parked_at = NULL
    WHERE id = rollup_engine.rollup_id(target)
$$;
COMMENT ON FUNCTION silver.reset_rollup_retry(text) IS 'Forgets the failures of a rollup and of single buckets, so that the next run takes them up again; the way out of parked.';

CREATE FUNCTION silver.pause_rollup(target text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE silver.rollup_config SET is_active = false WHERE id = rollup_engine.rollup_id(target)
$$;
COMMENT ON FUNCTION silver.pause_rollup(text) IS 'Stops refreshing a rollup. Changes are still captured, and its live view stays exact.';

CREATE FUNCTION silver.resume_rollup(target text) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE silver.rollup_config SET is_active = true WHERE id = rollup_engine.rollup_id(target)
$$;
COMMENT ON FUNCTION silver.resume_rollup(text) IS 'Takes up a paused rollup again.';

-- run_rollups and perform_rollup run as their caller, so that they may add triggers where an owner
-- calls them. An operator needs what they call by name; none of it takes SQL or names of relations.
GRANT SELECT ON rollup_engine.source TO "${operator_role}";
GRANT EXECUTE ON FUNCTION
    rollup_engine.fail(text, text, text, text), rollup_engine.check_isolation(), rollup_engine.is_standby(), rollup_engine.check_interval(text, interval, boolean, boolean),
    rollup_engine.parse_name(text, text), rollup_engine.find_relation(text, text), rollup_engine.find_rollup_id(text), rollup_engine.rollup_id(text),
    rollup_engine.bucket_next(interval, timestamptz), rollup_engine.bucket_ceil(interval, timestamptz), rollup_engine.bucket_align(interval, tstzmultirange),
    rollup_engine.source_tree(regclass), rollup_engine.source_members(regclass, name), rollup_engine.source_ancestors(regclass), rollup_engine.partition_column(regclass),
    rollup_engine.time_columns(regclass), rollup_engine.base_type(oid), rollup_engine.wanted_triggers(rollup_engine.source), rollup_engine.firing_mode(smallint), rollup_engine.capture_triggers(rollup_engine.source),
    rollup_engine.missing_triggers(rollup_engine.source), rollup_engine.stray_triggers(rollup_engine.source), rollup_engine.drop_stray_triggers(rollup_engine.source),
    rollup_engine.trigger_sql(rollup_engine.source, regclass, smallint), rollup_engine.trigger_definition(rollup_engine.source, regclass, smallint),
    rollup_engine.is_as_made(rollup_engine.source, pg_trigger), rollup_engine.move_condition(regclass), rollup_engine.fill(text, jsonb),
    rollup_engine.add_triggers(rollup_engine.source, regclass), rollup_engine.log_change(integer, timestamptz, timestamptz), rollup_engine.log_extent(integer, regclass, timestamptz, timestamptz),
    rollup_engine.users_wait_since(), rollup_engine.lock_out(regclass, text), rollup_engine.source_lock_holder(integer),
    rollup_engine.watch_new_partitions(integer), rollup_engine.drain_step(integer, timestamptz), rollup_engine.drain_all(text, timestamptz, integer[]),
    rollup_engine.run_order(text), rollup_engine.is_due(silver.rollup_config, boolean), rollup_engine.settled_range(silver.rollup_config, timestamptz),
    rollup_engine.refresh_step(integer, tstzrange, timestamptz[]), rollup_engine.refresh_within(silver.rollup_config, tstzrange, integer),
    rollup_engine.ranges_left(integer, tstzrange), rollup_engine.perform(text, integer, timestamptz),
    rollup_engine.calendar_range(timestamptz, timestamptz), rollup_engine.refresh_range(text, timestamptz, timestamptz)
TO "${operator_role}";

RESET ROLE;
