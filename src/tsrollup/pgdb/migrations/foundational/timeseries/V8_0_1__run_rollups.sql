-- Runs that commit each batch; retries, pausing and resuming.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

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
    v_look_back_until pg_catalog.timestamptz;
BEGIN
    PERFORM rollup_engine.check_isolation();
    PERFORM rollup_engine.check_interval('time_budget', time_budget, true);
    v_deadline := clock_timestamp() + time_budget;
    IF rollup_engine.is_standby() THEN
        RETURN;
    END IF;
    v_look_back_until := coalesce(as_of, clock_timestamp());
    WHILE v_progress AND clock_timestamp() < v_deadline LOOP
        v_progress := false;
        PERFORM rollup_engine.drain_all(target, v_look_back_until);
        v_look_back_until := NULL;  -- windows are read once a run, changes as they come
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        -- In turn, a batch each, so that a long first fill starves nobody.
        FOREACH v_id IN ARRAY ARRAY(SELECT o.id FROM rollup_engine.run_order(target) AS o) LOOP
            v_tried := '{}';
            LOOP
                SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = v_id;
                EXIT WHEN NOT FOUND OR NOT rollup_engine.is_due(v_rollup, target IS NOT NULL) OR clock_timestamp() >= v_deadline;
                v_step := rollup_engine.refresh_step(v_id, rollup_engine.settled_range(v_rollup, coalesce(as_of, clock_timestamp())), v_tried);
                COMMIT;
                PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
                IF v_step.outcome = 'failed' THEN
                    RAISE WARNING 'rollup % failed: %', v_rollup.target_table, v_step.error_message USING ERRCODE = v_step.error_code;
                END IF;
                v_progress := v_progress OR v_step.outcome IS NOT DISTINCT FROM 'refreshed';
                EXIT WHEN v_step.outcome IS NULL OR v_step.outcome IN ('refreshed', 'failed');
                CONTINUE WHEN v_step.outcome = 'prepared';
                v_tried := v_tried || v_step.cell;
            END LOOP;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE silver.run_rollups(text, interval, timestamptz) IS
'Refreshes the settled stale buckets of one rollup or of all, parents first, a transaction per batch, until nothing is left or the time budget is used. Any number of these may run at once. A failure is a WARNING, and on record; the others go on.';

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
    UPDATE silver.rollup_config SET retry_count = 0, next_retry_at = NULL, parked_at = NULL
    WHERE id = rollup_engine.rollup_id(target)
$$;
COMMENT ON FUNCTION silver.reset_rollup_retry(text) IS 'Forgets the failures of a rollup, so that the next run takes it up again; the way out of parked.';

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
    rollup_engine.time_columns(regclass), rollup_engine.base_type(oid), rollup_engine.wanted_triggers(rollup_engine.source), rollup_engine.capture_triggers(rollup_engine.source),
    rollup_engine.missing_triggers(rollup_engine.source), rollup_engine.stray_triggers(rollup_engine.source), rollup_engine.drop_stray_triggers(rollup_engine.source),
    rollup_engine.trigger_sql(rollup_engine.source, regclass, smallint), rollup_engine.move_condition(regclass), rollup_engine.fill(text, jsonb),
    rollup_engine.add_triggers(rollup_engine.source, regclass), rollup_engine.log_change(integer, timestamptz, timestamptz), rollup_engine.log_extent(integer, regclass, timestamptz, timestamptz),
    rollup_engine.watch_new_partitions(integer), rollup_engine.drain_step(integer, timestamptz), rollup_engine.drain_all(text, timestamptz),
    rollup_engine.run_order(text), rollup_engine.is_due(silver.rollup_config, boolean), rollup_engine.settled_range(silver.rollup_config, timestamptz),
    rollup_engine.refresh_step(integer, tstzrange, timestamptz[]), rollup_engine.refresh_within(silver.rollup_config, tstzrange, integer),
    rollup_engine.ranges_left(integer, tstzrange), rollup_engine.perform(text, integer, timestamptz),
    rollup_engine.calendar_range(timestamptz, timestamptz), rollup_engine.refresh_range(text, timestamptz, timestamptz)
TO "${operator_role}";

RESET ROLE;
