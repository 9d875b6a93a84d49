-- No setting of whoever calls changes a result: each way into the machinery sets what its work can
-- depend on, and what it calls inherits that. Said once here rather than above every function.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.pin_settings() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_function regprocedure;
BEGIN
    -- Ways in: the public functions, those that act as the owner, and what run_rollups, which
    -- commits and so can set nothing itself, calls as its caller.
    -- Not those that every live read waits for: they are PARALLEL SAFE, look at nothing but the
    -- machinery's own tables, and what they ask a source sets row_security itself.
    FOR v_function IN
        SELECT p.oid
        FROM pg_proc AS p
        WHERE p.pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
            AND p.proowner = '"${owner_role}"'::regrole
            AND ('xmlbinary=base64' <> ALL (p.proconfig)  -- a new text has lost them
                OR rollup_engine.has_citus() AND 'citus.enable_ddl_propagation=off' <> ALL (p.proconfig))
            AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig)
            AND NOT EXISTS (SELECT FROM rollup_engine.generated_text AS g WHERE g.name = p.proname)  -- these bring theirs
            AND (p.pronamespace = 'silver'::regnamespace OR p.prosecdef
                OR p.proname IN ('drain_sources_of', 'data_extent', 'source_extent'))
            AND (p.proparallel <> 's' OR NOT p.prosecdef)
    LOOP
        EXECUTE format('ALTER FUNCTION %s %s', v_function, rollup_engine.pinned_settings());
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.pin_settings() IS 'Sets what results depend on for the ways in that do not do so yet.';

RESET ROLE;
