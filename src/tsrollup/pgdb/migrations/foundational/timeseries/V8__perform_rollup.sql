-- Keeping rollups fresh: marking, running, retrying, pausing.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
-- What these call is the engine, which comes after all versions.
SET LOCAL check_function_bodies = off;

CREATE FUNCTION silver.mark_stale(table_name text, from_time timestamptz, to_time timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup_id constant integer := rollup_engine.find_rollup_id(table_name);
    v_relation constant regclass := rollup_engine.find_relation(table_name, 'raw');
    v_source_id integer;
    v_found boolean := false;
BEGIN
    IF from_time IS NULL OR to_time IS NULL OR from_time >= to_time THEN
        PERFORM rollup_engine.fail('TR001', format('from %s to %s is no range of time', coalesce(from_time::text, 'NULL'), coalesce(to_time::text, 'NULL')),
            'from_time must be before to_time; use ''-infinity'' and ''infinity'' for everything');
    END IF;
    IF v_rollup_id IS NOT NULL THEN
        UPDATE rollup_engine.failed_bucket SET next_retry_at = '-infinity' WHERE rollup_id = v_rollup_id;
        PERFORM rollup_engine.mark_rollups(
            ARRAY(SELECT rollup_engine.with_descendants(v_rollup_id)),
            tstzmultirange(rollup_engine.calendar_range(from_time, to_time)));
        RETURN;
    END IF;
    FOR v_source_id IN SELECT id FROM rollup_engine.source WHERE relation = v_relation LOOP
        PERFORM rollup_engine.log_change(v_source_id, lower(r), upper(r)) FROM rollup_engine.calendar_range(from_time, to_time) AS r;
        v_found := true;
    END LOOP;
    IF NOT v_found THEN
        PERFORM rollup_engine.fail('TR002', format('%s is neither a rollup nor the source of one', table_name),
            coalesce(rollup_engine.similar_tables(table_name, false) || ' ', '') || 'SELECT target_table, source_table FROM silver.rollup_config lists them');
    END IF;
END
$$;
COMMENT ON FUNCTION silver.mark_stale(text, timestamptz, timestamptz) IS
'Has a range of time recomputed: of one rollup and all that read it, or of every rollup of a source.';

CREATE FUNCTION silver.perform_rollup(
    target text DEFAULT NULL,
    max_batches integer DEFAULT NULL,
    as_of timestamptz DEFAULT now()
) RETURNS SETOF rollup_engine.run_result
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.run_all_due(target, max_batches, as_of)
$$;
COMMENT ON FUNCTION silver.perform_rollup(text, integer, timestamptz) IS
'Refreshes the stale buckets that had settled by as_of, newest first, of one rollup or of all, in the caller''s transaction; a row per rollup. status: ok, partial (more is left: another worker has it, the limit was reached, another run holds the source, or single buckets failed: error_message tells), waiting_for_parent, failed (see error_log), retrying, parked or paused.';

CREATE FUNCTION silver.refresh_rollup(target text, from_time timestamptz, to_time timestamptz)
RETURNS SETOF rollup_engine.run_result
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.run_range(target, from_time, to_time)
$$;
COMMENT ON FUNCTION silver.refresh_rollup(text, timestamptz, timestamptz) IS
'Recomputes the buckets of a rollup that touch the range, stale or not, settled or not, after what is stale of its parents there. A row per rollup refreshed.';

CREATE PROCEDURE silver.run_rollups(
    target text DEFAULT NULL,
    time_budget interval DEFAULT '1 minute',
    as_of timestamptz DEFAULT NULL
)
    LANGUAGE plpgsql
AS $$
BEGIN
    -- No SET clause, since it commits.
    CALL rollup_engine.run_within_budget(target, time_budget, as_of);
END
$$;
COMMENT ON PROCEDURE silver.run_rollups(text, interval, timestamptz) IS
'Refreshes the settled stale buckets of one rollup or of all, parents first, a transaction per batch, until nothing is left or the time budget is used. Any number of these may run at once. A failure is a WARNING, and on record; the others go on. Not inside a transaction or a function: there use perform_rollup.';

CREATE FUNCTION silver.handle_rollup_retries()
RETURNS SETOF rollup_engine.run_result
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.*
    FROM (
        SELECT target_table::text AS name FROM silver.rollup_config
        WHERE status = 'retrying' AND next_retry_at <= clock_timestamp()
        ORDER BY depth, id
    ) AS due
    CROSS JOIN LATERAL rollup_engine.run_all_due(due.name, NULL, clock_timestamp()) AS p
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

RESET ROLE;
