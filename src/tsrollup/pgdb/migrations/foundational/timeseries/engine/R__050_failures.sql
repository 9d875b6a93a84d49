-- The one way for an error into error_log, and what advice to drop a rollup adds.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.log_failure(
    p_target text, p_failure rollup_engine.failure, p_hint text DEFAULT NULL, p_query text DEFAULT NULL, p_attempt integer DEFAULT 1
) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO silver.error_log (target_table, error_code, error_message, detail, hint, context, attempted_query, attempt)
    VALUES (p_target, p_failure.code, p_failure.message, nullif(p_failure.detail, ''),
        nullif(concat_ws('; ', nullif(p_failure.hint, ''), p_hint), ''), p_failure.context, p_query, p_attempt)
$$;
COMMENT ON FUNCTION rollup_engine.log_failure(text, rollup_engine.failure, text, text, integer) IS 'Logs what failed for a table, with its own hint and a further one.';

CREATE OR REPLACE FUNCTION rollup_engine.record_maintenance_failure(p_target text, p_failure rollup_engine.failure) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.log_failure(p_target, p_failure, 'maintenance of this table goes on with its next run')
$$;
COMMENT ON FUNCTION rollup_engine.record_maintenance_failure(text, rollup_engine.failure) IS 'Logs a step of maintenance that failed.';

CREATE OR REPLACE FUNCTION rollup_engine.sealed_note(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
RETURN CASE WHEN isfinite(p_rollup.sealed_before) THEN ' (keep_table => true keeps what is sealed, which nobody can compute again)'
    WHEN p_rollup.change_tracking = 'window' THEN ' (keep_table => true keeps what is stored, which the source need not hold any more)' ELSE '' END;
COMMENT ON FUNCTION rollup_engine.sealed_note(silver.rollup_config) IS 'What to add to the advice that a rollup be dropped.';

CREATE OR REPLACE FUNCTION rollup_engine.sealed_note(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(max(rollup_engine.sealed_note(c)), '') FROM silver.rollup_config AS c WHERE c.source_id = p_source.id
$$;
COMMENT ON FUNCTION rollup_engine.sealed_note(rollup_engine.source) IS 'What to add to the advice that the rollups of a source be dropped.';

RESET ROLE;
