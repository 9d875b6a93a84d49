-- What a batch came to, with its rollup: the window of the next one, success, failure and when it is tried again.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.adapted_window(p_rollup silver.rollup_config, p_batch rollup_engine.refresh_batch, p_elapsed interval) RETURNS interval
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Half to double at a time; a batch that was smaller than the window says little about a larger one.
    RETURN greatest(p_rollup.bucket_width, least(
        coalesce(p_rollup.processing_window, p_rollup.cell_width),
        CASE
            WHEN p_batch.groups IS NOT NULL THEN p_rollup.current_window  -- of buckets, they say nothing
            WHEN p_elapsed > p_rollup.target_batch_duration
            THEN make_interval(secs => extract(epoch FROM p_rollup.current_window)::float8
                * greatest(0.5, extract(epoch FROM p_rollup.target_batch_duration)::float8 / extract(epoch FROM p_elapsed)::float8))
            WHEN p_elapsed < p_rollup.target_batch_duration / 2 AND p_batch.buckets * p_rollup.bucket_width >= p_rollup.current_window / 2
            THEN 2 * p_rollup.current_window
            ELSE p_rollup.current_window
        END));
END
$$;
COMMENT ON FUNCTION rollup_engine.adapted_window(silver.rollup_config, rollup_engine.refresh_batch, interval) IS
'Window of the next batch, so that it takes about target_batch_duration; between a bucket and processing_window (or a cell).';

CREATE OR REPLACE FUNCTION rollup_engine.record_batch(p_rollup_id integer, p_batch rollup_engine.refresh_batch, p_started timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO silver.refresh_log (target_table, started_at, finished_at, from_time, to_time, buckets, rows_written, rows_deleted)
    SELECT target_table::text, p_started, clock_timestamp(), p_batch.from_time, p_batch.to_time, p_batch.buckets, p_batch.rows_written, p_batch.rows_deleted
    FROM silver.rollup_config WHERE id = p_rollup_id;
    -- Two workers on one rollup do not wait for each other here: the other one's figures will do.
    UPDATE silver.rollup_config AS r
    SET last_run_at = clock_timestamp(),
        last_success_at = clock_timestamp(),
        current_window = rollup_engine.adapted_window(r, p_batch, clock_timestamp() - p_started),
        rows_per_second = p_batch.rows_written / greatest(extract(epoch FROM clock_timestamp() - p_started), 0.001),
        source_rows = CASE WHEN date_bin('10 seconds', last_success_at, 'epoch') = date_bin('10 seconds', clock_timestamp(), 'epoch') THEN source_rows
            ELSE rollup_engine.estimated_rows(r.source_table) END,
        retry_count = 0,
        next_retry_at = NULL,
        parked_at = NULL
    WHERE id = (SELECT id FROM silver.rollup_config WHERE id = p_rollup_id FOR NO KEY UPDATE SKIP LOCKED);
END
$$;
COMMENT ON FUNCTION rollup_engine.record_batch(integer, rollup_engine.refresh_batch, timestamptz) IS 'Logs a refreshed batch and adapts the rollup''s window.';

CREATE OR REPLACE FUNCTION rollup_engine.record_success(p_rollup_id integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE silver.rollup_config SET retry_count = 0, next_retry_at = NULL
    WHERE id = (SELECT id FROM silver.rollup_config WHERE id = p_rollup_id AND status = 'retrying' FOR NO KEY UPDATE SKIP LOCKED);
END
$$;
COMMENT ON FUNCTION rollup_engine.record_success(integer) IS 'Forgets failures of a rollup that has nothing left to do: what failed was a drain that works again, or its buckets are no longer stale.';

CREATE OR REPLACE FUNCTION rollup_engine.retry_delay(p_retries integer) RETURNS interval
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- 30 s, doubled each time, at most an hour; up to a fifth less, so that failures do not march in step.
    SELECT least(interval '30 seconds' * 2 ^ least(p_retries, 10), interval '1 hour') * (1 - 0.2 * random())
$$;
COMMENT ON FUNCTION rollup_engine.retry_delay(integer) IS 'How long to wait after that many failures in a row before this one.';

CREATE OR REPLACE FUNCTION rollup_engine.record_failure(p_rollup_id integer, p_failure rollup_engine.failure) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.log_failure(target_table::text, p_failure, NULL, refresh_sql, retry_count + 1)
    FROM silver.rollup_config WHERE id = p_rollup_id;
    UPDATE silver.rollup_config
    SET last_run_at = clock_timestamp(),
        retry_count = retry_count + 1,
        next_retry_at = clock_timestamp() + rollup_engine.retry_delay(retry_count),
        parked_at = CASE WHEN retry_count + 1 >= 10 THEN clock_timestamp() END
    WHERE id = (SELECT id FROM silver.rollup_config WHERE id = p_rollup_id FOR NO KEY UPDATE SKIP LOCKED);
$$;
COMMENT ON FUNCTION rollup_engine.record_failure(integer, rollup_engine.failure) IS 'Logs a failure and sets the next attempt; the tenth in a row parks the rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.record_undone(p_rollup_id integer) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The next drain notes the source anew, whatever it was; one that goes on does so now.
    UPDATE rollup_engine.source SET trace = NULL WHERE id = (
        SELECT s.id FROM rollup_engine.source AS s JOIN silver.rollup_config AS r ON r.source_id = s.id AND r.id = p_rollup_id
        FOR NO KEY UPDATE OF s SKIP LOCKED);
    DELETE FROM rollup_engine.quiet_source WHERE source_id = (
        SELECT q.source_id FROM rollup_engine.quiet_source AS q JOIN silver.rollup_config AS r USING (source_id) WHERE r.id = p_rollup_id
        FOR UPDATE OF q SKIP LOCKED);
    -- A shorter batch may end before the next change.
    UPDATE silver.rollup_config SET current_window = greatest(bucket_width, current_window / 2)
    WHERE id = (SELECT id FROM silver.rollup_config WHERE id = p_rollup_id FOR NO KEY UPDATE SKIP LOCKED);
$$;
COMMENT ON FUNCTION rollup_engine.record_undone(integer) IS 'Has a source looked at anew that was altered under a batch, and the next batch be smaller.';

RESET ROLE;
