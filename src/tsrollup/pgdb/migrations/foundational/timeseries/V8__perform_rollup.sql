-- Running rollups: drain, pick a cell, refresh it, adapt the window; record failures
-- with all they tell, try again with exponential backoff, park what keeps failing.
--
-- perform_rollup works in the caller's transaction, run_rollups commits each batch.

SET LOCAL ROLE "${owner_role}";

-- After a batch --------------------------------------------------------------------------

CREATE FUNCTION rollup_engine.adapted_window(p_rollup silver.rollup_config, p_batch rollup_engine.batch, p_elapsed interval) RETURNS interval
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Half to double at a time; a batch that was smaller than the window says little about a larger one.
    SELECT greatest(p_rollup.bucket_width, least(
        coalesce(p_rollup.processing_window, p_rollup.cell_width),
        CASE
            WHEN p_elapsed > p_rollup.target_batch_duration
            THEN make_interval(secs => extract(epoch FROM p_rollup.current_window)::float8
                * greatest(0.5, extract(epoch FROM p_rollup.target_batch_duration)::float8 / extract(epoch FROM p_elapsed)::float8))
            WHEN p_elapsed < p_rollup.target_batch_duration / 2 AND p_batch.buckets * p_rollup.bucket_width >= p_rollup.current_window / 2
            THEN 2 * p_rollup.current_window
            ELSE p_rollup.current_window
        END))
$$;
COMMENT ON FUNCTION rollup_engine.adapted_window(silver.rollup_config, rollup_engine.batch, interval) IS
'Window of the next batch, so that it takes about target_batch_duration; between a bucket and processing_window (or a cell).';

CREATE FUNCTION rollup_engine.record_batch(p_rollup_id integer, p_batch rollup_engine.batch, p_started timestamptz) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO silver.refresh_log (target_table, started_at, finished_at, from_time, to_time, buckets, rows_written, rows_deleted)
    SELECT target_table::text, p_started, clock_timestamp(), p_batch.from_time, p_batch.to_time, p_batch.buckets, p_batch.rows_written, p_batch.rows_deleted
    FROM silver.rollup_config WHERE id = p_rollup_id;
    -- Two workers on one rollup do not wait for each other here: the other one's figures will do.
    UPDATE silver.rollup_config AS r
    SET last_run_at = clock_timestamp(),
        last_success_at = clock_timestamp(),
        current_window = rollup_engine.adapted_window(r, p_batch, clock_timestamp() - p_started),
        rows_per_second = p_batch.rows_written / greatest(extract(epoch FROM clock_timestamp() - p_started), 0.001),
        source_rows = rollup_engine.estimated_rows(r.source_table),
        retry_count = 0,
        next_retry_at = NULL,
        parked_at = NULL
    WHERE id = (SELECT id FROM silver.rollup_config WHERE id = p_rollup_id FOR NO KEY UPDATE SKIP LOCKED);
$$;
COMMENT ON FUNCTION rollup_engine.record_batch(integer, rollup_engine.batch, timestamptz) IS 'Logs a refreshed batch and adapts the rollup''s window.';

CREATE FUNCTION rollup_engine.retry_delay(p_retries integer) RETURNS interval
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- 30 s, doubled each time, at most an hour; up to a fifth less, so that failures do not march in step.
    SELECT least(interval '30 seconds' * 2 ^ least(p_retries, 10), interval '1 hour') * (1 - 0.2 * random())
$$;
COMMENT ON FUNCTION rollup_engine.retry_delay(integer) IS 'How long to wait after that many failures in a row before this one.';

CREATE FUNCTION rollup_engine.record_failure(
    p_rollup_id integer, p_code text, p_message text, p_detail text, p_hint text, p_context text
) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO silver.error_log (target_table, error_code, error_message, detail, hint, context, attempted_query, attempt)
    SELECT target_table::text, p_code, p_message, nullif(p_detail, ''), nullif(p_hint, ''), p_context, refresh_sql, retry_count + 1
    FROM silver.rollup_config WHERE id = p_rollup_id;
    UPDATE silver.rollup_config
    SET last_run_at = clock_timestamp(),
        retry_count = retry_count + 1,
        next_retry_at = clock_timestamp() + rollup_engine.retry_delay(retry_count),
        parked_at = CASE WHEN retry_count + 1 >= 10 THEN clock_timestamp() END
    WHERE id = p_rollup_id;
$$;
COMMENT ON FUNCTION rollup_engine.record_failure(integer, text, text, text, text, text) IS 'Logs a failure and sets the next attempt; the tenth in a row parks the rollup.';

-- One step -----------------------------------------------------------------------------------

CREATE TYPE rollup_engine.step AS (
    outcome text,
    cell timestamptz,
    batch rollup_engine.batch,
    error_code text,
    error_message text
);
COMMENT ON TYPE rollup_engine.step IS 'What a step did in which cell; outcome NULL when no cell is left to try.';

CREATE FUNCTION rollup_engine.pick_cell(p_rollup_id integer, p_within tstzrange, p_tried timestamptz[]) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT cell FROM rollup_engine.stale_range
    WHERE rollup_id = p_rollup_id AND tstzrange(from_time, to_time) && p_within AND cell <> ALL (p_tried)
    ORDER BY cell DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.pick_cell(integer, tstzrange, timestamptz[]) IS 'The newest cell with stale buckets in the range that was not tried yet.';

CREATE FUNCTION rollup_engine.refresh_step(p_rollup_id integer, p_within tstzrange, p_tried timestamptz[]) RETURNS rollup_engine.step
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_started constant timestamptz := clock_timestamp();
    v_step rollup_engine.step;
    v_batch rollup_engine.batch;
    v_detail text;
    v_hint text;
    v_context text;
BEGIN
    v_step.cell := rollup_engine.pick_cell(p_rollup_id, p_within, p_tried);
    IF v_step.cell IS NULL THEN
        RETURN v_step;
    END IF;
    BEGIN
        v_batch := rollup_engine.refresh_cell(p_rollup_id, v_step.cell, p_within);
        IF v_batch.outcome = 'refreshed' THEN
            PERFORM rollup_engine.record_batch(p_rollup_id, v_batch, v_started);
        END IF;
        v_step.batch := v_batch;
        v_step.outcome := v_batch.outcome;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS
            v_step.error_code = RETURNED_SQLSTATE, v_step.error_message = MESSAGE_TEXT,
            v_detail = PG_EXCEPTION_DETAIL, v_hint = PG_EXCEPTION_HINT, v_context = PG_EXCEPTION_CONTEXT;
        PERFORM rollup_engine.record_failure(p_rollup_id, v_step.error_code, v_step.error_message, v_detail, v_hint, v_context);
        v_step.outcome := 'failed';
    END;
    RETURN v_step;
END
$$;
COMMENT ON FUNCTION rollup_engine.refresh_step(integer, tstzrange, timestamptz[]) IS
'Refreshes one batch of a rollup, in its newest stale cell that was not tried; a failure is recorded, and undone.';

CREATE FUNCTION rollup_engine.drain_step(p_source_id integer, p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_code text;
    v_message text;
    v_detail text;
    v_hint text;
    v_context text;
BEGIN
    RETURN rollup_engine.drain(p_source_id, p_now);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS
        v_code = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT,
        v_detail = PG_EXCEPTION_DETAIL, v_hint = PG_EXCEPTION_HINT, v_context = PG_EXCEPTION_CONTEXT;
    PERFORM rollup_engine.record_failure(id, v_code, v_message, v_detail, v_hint, v_context)
    FROM silver.rollup_config WHERE source_id = p_source_id AND parent_id IS NULL;
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.drain_step(integer, timestamptz) IS 'Drains a source; a failure is recorded with the rollups that read it.';

-- Which rollups, and how far ----------------------------------------------------------------------

CREATE FUNCTION rollup_engine.settled_range(p_rollup silver.rollup_config, p_as_of timestamptz) RETURNS tstzrange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT tstzrange(NULL, silver.time_bucket(p_rollup.bucket_width,
        CASE WHEN isfinite(p_as_of) THEN greatest(p_as_of, '0001-01-01 00:00:00+00') - p_rollup.settle_delay ELSE p_as_of END))
$$;
COMMENT ON FUNCTION rollup_engine.settled_range(silver.rollup_config, timestamptz) IS 'Buckets that ended at least settle_delay before the time.';

CREATE FUNCTION rollup_engine.ranges_left(p_rollup_id integer, p_within tstzrange) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*) FROM rollup_engine.stale_range
    WHERE rollup_id = p_rollup_id AND tstzrange(from_time, to_time) && p_within
$$;
COMMENT ON FUNCTION rollup_engine.ranges_left(integer, tstzrange) IS 'Stale ranges of a rollup that reach into the range.';

CREATE FUNCTION rollup_engine.run_order(p_target text) RETURNS SETOF silver.rollup_config
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM silver.rollup_config
    WHERE p_target IS NULL OR id = (SELECT rollup_engine.rollup_id(p_target))
    ORDER BY depth, id
$$;
COMMENT ON FUNCTION rollup_engine.run_order(text) IS 'The named rollup, or all of them, parents first.';

CREATE FUNCTION rollup_engine.is_due(p_rollup silver.rollup_config, p_named boolean) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_rollup.status = 'active' OR p_rollup.status = 'retrying' AND (p_named OR p_rollup.next_retry_at <= clock_timestamp())
$$;
COMMENT ON FUNCTION rollup_engine.is_due(silver.rollup_config, boolean) IS 'False while paused, parked, or waiting for its next attempt (unless it was asked for by name).';

CREATE FUNCTION rollup_engine.drain_all(p_target text, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source_id integer;
BEGIN
    FOR v_source_id IN SELECT DISTINCT source_id FROM rollup_engine.run_order(p_target) ORDER BY 1 LOOP
        PERFORM rollup_engine.watch_new_partitions(v_source_id);
        PERFORM rollup_engine.drain_step(v_source_id, p_now);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.drain_all(text, timestamptz) IS 'Drains the sources of the named rollup, or all.';

-- In the caller's transaction ------------------------------------------------------------------------

CREATE TYPE rollup_engine.result AS (
    target text,
    status text,
    buckets bigint,
    rows_written bigint,
    rows_deleted bigint,
    ranges_left bigint,
    duration interval,
    error_code text,
    error_message text
);
COMMENT ON TYPE rollup_engine.result IS 'What a run did for a rollup.';

CREATE FUNCTION rollup_engine.refresh_within(p_rollup silver.rollup_config, p_within tstzrange, p_max_batches integer) RETURNS rollup_engine.result
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_started constant timestamptz := clock_timestamp();
    v_result rollup_engine.result := ROW(p_rollup.target_table::text, 'ok', 0, 0, 0, 0, NULL, NULL, NULL);
    v_step rollup_engine.step;
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
            v_cells := CASE WHEN v_step.cell = ANY (v_cells) THEN v_cells ELSE v_cells || v_step.cell END;
            EXIT WHEN cardinality(v_cells) >= 500;  -- each holds a lock until the transaction ends
        ELSE
            v_tried := v_tried || v_step.cell;
            v_result.status := CASE v_step.outcome WHEN 'failed' THEN 'failed' WHEN 'waiting' THEN 'waiting_for_parent' ELSE v_result.status END;
            v_result.error_code := v_step.error_code;
            v_result.error_message := v_step.error_message;
            EXIT WHEN v_step.outcome = 'failed';
        END IF;
    END LOOP;
    v_result.ranges_left := rollup_engine.ranges_left(p_rollup.id, p_within);
    v_result.status := CASE WHEN v_result.status = 'ok' AND v_result.ranges_left > 0 THEN 'partial' ELSE v_result.status END;
    v_result.duration := clock_timestamp() - v_started;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION rollup_engine.refresh_within(silver.rollup_config, tstzrange, integer) IS 'Refreshes a rollup''s stale buckets in a range, batch by batch.';

CREATE FUNCTION rollup_engine.perform(p_target text, p_max_batches integer, p_as_of timestamptz) RETURNS SETOF rollup_engine.result
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_as_of constant timestamptz := coalesce(p_as_of, clock_timestamp());
    v_rollup silver.rollup_config;
BEGIN
    PERFORM rollup_engine.check_isolation();
    IF p_max_batches < 1 THEN
        PERFORM rollup_engine.fail('TR001', format('max_batches is %s', p_max_batches), 'give a number from 1 on, or NULL for no limit');
    ELSIF rollup_engine.is_standby() THEN
        RETURN;
    END IF;
    PERFORM rollup_engine.drain_all(p_target, v_as_of);
    FOR v_rollup IN SELECT * FROM rollup_engine.run_order(p_target) LOOP
        IF rollup_engine.is_due(v_rollup, p_target IS NOT NULL) THEN
            RETURN NEXT rollup_engine.refresh_within(v_rollup, rollup_engine.settled_range(v_rollup, v_as_of), p_max_batches);
        ELSE
            RETURN NEXT ROW(v_rollup.target_table::text, v_rollup.status, 0, 0, 0,
                rollup_engine.ranges_left(v_rollup.id, rollup_engine.settled_range(v_rollup, v_as_of)),
                interval '0', NULL, NULL)::rollup_engine.result;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.perform(text, integer, timestamptz) IS 'What perform_rollup does.';

CREATE FUNCTION silver.perform_rollup(
    target text DEFAULT NULL,
    max_batches integer DEFAULT NULL,
    as_of timestamptz DEFAULT now()
) RETURNS TABLE (
    target text, status text, buckets bigint, rows_written bigint, rows_deleted bigint,
    ranges_left bigint, duration interval, error_code text, error_message text
)
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.perform($1, $2, $3)
$$;
COMMENT ON FUNCTION silver.perform_rollup(text, integer, timestamptz) IS
'Refreshes the stale buckets that had settled by as_of, newest first, of one rollup or of all, in the caller''s transaction; a row per rollup. status: ok, partial (more is left: another worker has it, or the limit was reached), waiting_for_parent, failed (see error_log), retrying, parked or paused.';

CREATE FUNCTION rollup_engine.refresh_range(p_target text, p_from timestamptz, p_to timestamptz) RETURNS SETOF rollup_engine.result
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_target silver.rollup_config;
    v_rollup silver.rollup_config;
    v_range tstzmultirange;
BEGIN
    PERFORM rollup_engine.check_isolation();
    SELECT * INTO v_target FROM silver.rollup_config WHERE id = rollup_engine.rollup_id(p_target);
    PERFORM silver.mark_stale(v_target.target_table::text, p_from, p_to);
    PERFORM rollup_engine.drain_all(p_target, clock_timestamp());
    v_range := rollup_engine.bucket_align(v_target.bucket_width, tstzmultirange(rollup_engine.calendar_range(p_from, p_to)));
    FOR v_rollup IN
        WITH RECURSIVE line AS (
            SELECT v_target.id
            UNION ALL
            SELECT c.parent_id FROM line JOIN silver.rollup_config AS c ON c.id = line.id WHERE c.parent_id IS NOT NULL
        )
        SELECT c.* FROM silver.rollup_config AS c JOIN line ON line.id = c.id ORDER BY c.depth
    LOOP
        RETURN NEXT rollup_engine.refresh_within(v_rollup, range_merge(v_range), NULL);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.refresh_range(text, timestamptz, timestamptz) IS 'What refresh_rollup does.';

CREATE FUNCTION silver.refresh_rollup(target text, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (
    target text, status text, buckets bigint, rows_written bigint, rows_deleted bigint,
    ranges_left bigint, duration interval, error_code text, error_message text
)
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.refresh_range($1, $2, $3)
$$;
COMMENT ON FUNCTION silver.refresh_rollup(text, timestamptz, timestamptz) IS
'Recomputes the buckets of a rollup that touch the range, stale or not, settled or not, after what is stale of its parents there. A row per rollup refreshed.';

-- Committing each batch ------------------------------------------------------------------------------

CREATE PROCEDURE silver.run_rollups(
    target text DEFAULT NULL,
    time_budget interval DEFAULT '1 minute',
    as_of timestamptz DEFAULT NULL
)
    LANGUAGE plpgsql
AS $$
DECLARE
    -- No SET clause, since it commits: the path is pinned again after each COMMIT.
    -- Types are looked up before that, so they are qualified.
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
        PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
        -- In turn, a batch each, so that a long first fill starves nobody.
        FOREACH v_id IN ARRAY ARRAY(SELECT o.id FROM rollup_engine.run_order(target) AS o) LOOP
            v_tried := '{}';
            LOOP
                SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = v_id;
                EXIT WHEN NOT FOUND OR NOT rollup_engine.is_due(v_rollup, target IS NOT NULL) OR clock_timestamp() >= v_deadline;
                v_step := rollup_engine.refresh_step(v_id, rollup_engine.settled_range(v_rollup, coalesce(as_of, clock_timestamp())), v_tried);
                COMMIT;
                PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
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
    rollup_engine.source_tree(regclass), rollup_engine.source_members(regclass, name), rollup_engine.partition_column(regclass),
    rollup_engine.time_columns(regclass), rollup_engine.base_type(oid), rollup_engine.missing_triggers(rollup_engine.source), rollup_engine.move_condition(regclass),
    rollup_engine.add_triggers(rollup_engine.source, regclass), rollup_engine.log_extent(integer, regclass, timestamptz, timestamptz),
    rollup_engine.watch_new_partitions(integer), rollup_engine.drain_step(integer, timestamptz), rollup_engine.drain_all(text, timestamptz),
    rollup_engine.run_order(text), rollup_engine.is_due(silver.rollup_config, boolean), rollup_engine.settled_range(silver.rollup_config, timestamptz),
    rollup_engine.refresh_step(integer, tstzrange, timestamptz[]), rollup_engine.refresh_within(silver.rollup_config, tstzrange, integer),
    rollup_engine.ranges_left(integer, tstzrange), rollup_engine.perform(text, integer, timestamptz),
    rollup_engine.calendar_range(timestamptz, timestamptz), rollup_engine.refresh_range(text, timestamptz, timestamptz)
TO "${operator_role}";

RESET ROLE;
