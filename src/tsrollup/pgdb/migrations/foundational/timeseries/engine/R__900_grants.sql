-- Who may call what, and silver.version, which is there when the last migration is. Functions in silver are the operator's by default privileges (V4), and
-- nobody else's; here stands what differs, and what the operator's calls need of the machinery.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

GRANT EXECUTE ON FUNCTION
    rollup_engine.is_month_width(interval), rollup_engine.month_bucket(interval, timestamp, timestamp),
    silver.time_bucket(interval, timestamptz), silver.time_bucket(interval, timestamptz, text),
    silver.time_bucket(interval, timestamptz, timestamptz), silver.time_bucket(interval, timestamp), silver.time_bucket(interval, date)
TO PUBLIC;

GRANT EXECUTE ON FUNCTION silver.first_value(anyelement, timestamptz), silver.last_value(anyelement, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION rollup_engine.stale_set(integer, bigint) TO PUBLIC;

-- Whoever may read the view may have it answered; without USAGE on the schema nobody calls them otherwise.
GRANT EXECUTE ON FUNCTION rollup_engine.stale_edges(integer, bigint), rollup_engine.stale_buckets(integer, bigint), rollup_engine.stale_spans(integer, bigint) TO PUBLIC;
GRANT EXECUTE ON FUNCTION rollup_engine.planned_partitions(integer) TO PUBLIC;
GRANT INSERT (rollup_id, metrics), SELECT (id) ON rollup_engine.metric_request TO "${operator_role}";

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
    rollup_engine.users_wait_since(), rollup_engine.lock_out(regclass, text),
    rollup_engine.watch_new_partitions(integer), rollup_engine.drain_step(integer, timestamptz), rollup_engine.drain_all(text, timestamptz, integer[]),
    rollup_engine.run_order(text), rollup_engine.is_due(silver.rollup_config, boolean), rollup_engine.settled_range(silver.rollup_config, timestamptz),
    rollup_engine.refresh_step(integer, tstzrange, timestamptz[]), rollup_engine.refresh_within(silver.rollup_config, tstzrange, integer),
    rollup_engine.ranges_left(integer, tstzrange), rollup_engine.perform(text, integer, timestamptz),
    rollup_engine.calendar_range(timestamptz, timestamptz), rollup_engine.refresh_range(text, timestamptz, timestamptz)
TO "${operator_role}";
GRANT EXECUTE ON FUNCTION rollup_engine.monitor() TO PUBLIC;
GRANT SELECT ON silver.timeseries_operations_monitor TO "${operator_role}", "${reader_role}";
GRANT EXECUTE ON FUNCTION rollup_engine.detailed_statistics(text), rollup_engine.statement_statistics(text[]) TO "${operator_role}";
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
