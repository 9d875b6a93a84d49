-- One step of a run: pick a cell, refresh it, adapt the window; record a failure with all it tells,
-- to be tried again with exponential backoff, and park what keeps failing.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- After a batch --------------------------------------------------------------------------

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
        source_rows = rollup_engine.estimated_rows(r.source_table),
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

-- Single buckets --------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.failed_buckets(p_rollup_id integer, p_within tstzrange) RETURNS SETOF rollup_engine.failed_bucket
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.failed_bucket WHERE rollup_id = p_rollup_id AND bucket <@ p_within
$$;
COMMENT ON FUNCTION rollup_engine.failed_buckets(integer, tstzrange) IS 'Buckets of a rollup that cannot be stored for what is in them.';

-- That of 0.1.0 took the code alone.
DROP FUNCTION IF EXISTS rollup_engine.failure_hint(silver.rollup_config, text);
CREATE OR REPLACE FUNCTION rollup_engine.failure_hint(p_rollup silver.rollup_config, p_failure rollup_engine.failure) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws('; ',
        CASE WHEN p_failure.code = '54000' AND p_failure.message LIKE '%1073741823%'  -- in any language
            THEN 'what first, last, mode or value_counts collect of one group is more than 1 GB: take such columns out of the metrics, read left(...) of them by an expression, or create a rollup of narrower buckets first, and this one with that as its source'
            WHEN p_failure.code = '54000' AND p_rollup.dimensions <> '{}'
            THEN format('a row''s bucket and dimensions (%s) are its key, and a value of it fits up to some 2,700 bytes: group by something shorter, such as a generated column left(..., 200) or md5(...)',
                (SELECT string_agg(quote_ident(d), ', ') FROM unnest(p_rollup.dimensions) AS d))
        END,
        format('the other buckets are stored; when its rows are mended, SELECT silver.reset_rollup_retry(%L) tries it again at once', p_rollup.target_table))
$$;
COMMENT ON FUNCTION rollup_engine.failure_hint(silver.rollup_config, rollup_engine.failure) IS 'What to do about a bucket that fails.';

CREATE OR REPLACE FUNCTION rollup_engine.record_failed_bucket(
    p_rollup silver.rollup_config, p_bucket timestamptz, p_failure rollup_engine.failure
) RETURNS rollup_engine.refresh_batch
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_failure rollup_engine.failure := p_failure;
    v_attempts integer;
    v_batch rollup_engine.refresh_batch;
BEGIN
    v_failure.message := format('bucket %s: %s', p_bucket, p_failure.message);
    v_failure.hint := CASE WHEN p_failure.code <> '54000' THEN p_failure.hint END;  -- which failure_hint knows better
    WITH failed AS (
        INSERT INTO rollup_engine.failed_bucket AS f (rollup_id, bucket, next_retry_at, error_code, error_message)
        VALUES (p_rollup.id, p_bucket, clock_timestamp() + rollup_engine.retry_delay(0), v_failure.code, v_failure.message)
        ON CONFLICT (rollup_id, bucket) DO UPDATE
        SET attempts = f.attempts + 1, failed_at = clock_timestamp(), next_retry_at = clock_timestamp() + rollup_engine.retry_delay(f.attempts),
            error_code = excluded.error_code, error_message = excluded.error_message
        RETURNING attempts
    )
    SELECT attempts INTO v_attempts FROM failed;
    PERFORM rollup_engine.log_failure(p_rollup.target_table::text, v_failure, rollup_engine.failure_hint(p_rollup, v_failure),
        p_rollup.refresh_sql, v_attempts);
    v_batch.outcome := 'bucket_failed';
    v_batch.error_code := v_failure.code;
    v_batch.error_message := v_failure.message;
    RETURN v_batch;
END
$$;
COMMENT ON FUNCTION rollup_engine.record_failed_bucket(silver.rollup_config, timestamptz, rollup_engine.failure) IS 'Logs a bucket that cannot be stored, and sets its next attempt.';

CREATE OR REPLACE FUNCTION rollup_engine.fails_everywhere(p_rollup_id integer) RETURNS boolean
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Ten that are new; those that are known to fail say nothing about the rest.
    SELECT count(*) >= 10
    FROM rollup_engine.failed_bucket AS f
    JOIN silver.rollup_config AS r ON r.id = f.rollup_id
    WHERE f.rollup_id = p_rollup_id AND f.attempts = 1 AND f.failed_at > coalesce(r.last_success_at, '-infinity')
$$;
COMMENT ON FUNCTION rollup_engine.fails_everywhere(integer) IS 'Whether bucket after bucket failed with no success in between.';

CREATE OR REPLACE FUNCTION rollup_engine.pick_cell(p_rollup_id integer, p_within tstzrange, p_tried timestamptz[]) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
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
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws(' ', source_table, target_table, refresh_sql) FROM silver.rollup_config WHERE id = p_rollup_id
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
        IF v_failure.code IN ('42P01', '42703') AND v_spelling <> rollup_engine.spelling(p_rollup_id) THEN
            v_step.outcome := 'busy';  -- it was renamed, or lost a metric, while its table was waited for
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
