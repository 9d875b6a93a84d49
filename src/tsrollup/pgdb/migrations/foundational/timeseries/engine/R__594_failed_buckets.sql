-- Single buckets that cannot be stored: each is named, and tried again by itself.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.failed_buckets(p_rollup_id integer, p_within tstzrange) RETURNS SETOF rollup_engine.failed_bucket
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.failed_bucket WHERE rollup_id = p_rollup_id AND bucket <@ p_within
$$;
COMMENT ON FUNCTION rollup_engine.failed_buckets(integer, tstzrange) IS 'Buckets of a rollup that cannot be stored for what is in them.';

CREATE OR REPLACE FUNCTION rollup_engine.failing_ranges(p_rollup silver.rollup_config) RETURNS tstzmultirange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(range_agg(tstzrange(bucket, rollup_engine.bucket_next(p_rollup, bucket))), '{}')
    FROM rollup_engine.failed_bucket WHERE rollup_id = p_rollup.id AND next_retry_at > clock_timestamp();
END
$$;
COMMENT ON FUNCTION rollup_engine.failing_ranges(silver.rollup_config) IS 'Buckets that failed, and whose next attempt has not come.';

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

RESET ROLE;
