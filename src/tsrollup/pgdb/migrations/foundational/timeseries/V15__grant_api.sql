-- Who may call what, and silver.version, which is there when the last migration is. Functions in silver are the operator's by default privileges (V4), and
-- nobody else's; here stands what differs, and what the operator's calls need of the machinery.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE FUNCTION silver.version() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '0.1.0';
COMMENT ON FUNCTION silver.version() IS 'Version of tsrollup that migrated this database to the end.';
GRANT EXECUTE ON FUNCTION silver.version() TO PUBLIC;

-- Readers bucket their own queries. None of these looks at a table.
GRANT EXECUTE ON FUNCTION
    silver.time_bucket(interval, timestamptz), silver.time_bucket(interval, timestamptz, text),
    silver.time_bucket(interval, timestamptz, timestamptz), silver.time_bucket(interval, timestamp), silver.time_bucket(interval, date),
    silver.first_value(anyelement, timestamptz), silver.last_value(anyelement, timestamptz)
TO "${reader_role}";

GRANT INSERT, UPDATE, DELETE ON silver.dimension_config TO "${operator_role}";

-- A function with its caller's rights gives nobody any; it only lets the public ones work.
DO $$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'rollup_engine'::regnamespace AND proowner = quote_ident(current_user)::regrole AND NOT prosecdef AND prorettype <> 'trigger'::regtype
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO "${operator_role}"', v_function);
    END LOOP;
END
$$;

-- Of those with the owner's rights: to refresh, and to maintain rollups.
GRANT EXECUTE ON FUNCTION
    rollup_engine.drain_step(integer, timestamptz),
    rollup_engine.relink_source(integer),
    rollup_engine.refresh_step(integer, tstzrange, timestamptz[]),
    rollup_engine.ranges_left(integer, tstzrange),
    rollup_engine.ranges_undrained(integer, tstzrange),
    rollup_engine.failed_buckets(integer, tstzrange),
    rollup_engine.record_success(integer),
    rollup_engine.maintain_rollup(integer, text[], timestamptz),
    rollup_engine.retain_rollup(integer, timestamptz),
    rollup_engine.chunk_interval(regclass),
    rollup_engine.keep_of(regclass),
    rollup_engine.add_metrics(bigint),
    rollup_engine.clean_logs(timestamptz),
    rollup_engine.source_sets(),
    rollup_engine.source_retentions()
TO "${operator_role}";

RESET ROLE;
