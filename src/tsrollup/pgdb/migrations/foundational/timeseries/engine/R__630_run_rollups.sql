-- Runs that commit each batch; retries, pausing and resuming.

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

RESET ROLE;
