-- Who may call what. Functions in silver are the operator's by default privileges (V4), and
-- nobody else's; here stands what differs, and what the operator's calls need of the machinery. Rights
-- on generated functions come with them (R__045), and what a script after it calls is granted at once (R__015).

SET LOCAL search_path = pg_catalog, pg_temp;
-- For what anybody may call there; tables and other functions of it have rights of their own.
GRANT USAGE ON SCHEMA silver TO PUBLIC;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.close_to_public() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_function pg_proc;
    v_is_lost constant boolean := NOT EXISTS (
        SELECT FROM pg_default_acl WHERE defaclrole = '"${owner_role}"'::regrole AND defaclnamespace = 0 AND defaclobjtype = 'f');
BEGIN
    IF v_is_lost THEN
        ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
    END IF;
    FOR v_function IN
        SELECT * FROM pg_proc
        WHERE pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace) AND proowner = '"${owner_role}"'::regrole
            AND NOT rollup_engine.is_for_all(proname) AND (v_is_lost OR proacl IS NULL)
    LOOP
        EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', v_function.oid::regprocedure);
        IF v_function.proacl IS NULL AND v_function.pronamespace = 'silver'::regnamespace THEN
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO "${operator_role}"', v_function.oid::regprocedure);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.close_to_public() IS
'That what the owner role makes is not everybody''s to call belongs to no schema: a restore of single schemas has lost it, and what was made since is closed. So is what nothing was noted of when a restore lost its rights.';

CREATE OR REPLACE FUNCTION rollup_engine.grant_api() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_function regprocedure;
BEGIN
    PERFORM rollup_engine.close_to_public();
    -- Anybody buckets queries; none of these looks at a table.
    GRANT EXECUTE ON FUNCTION
        rollup_engine.is_month_width(interval), rollup_engine.month_bucket(interval, timestamp, timestamp),
        rollup_engine.local_origin(interval, text, timestamptz), rollup_engine.local_bucket(interval, timestamptz, text, timestamp),
        silver.time_bucket(interval, timestamptz), silver.time_bucket(interval, timestamptz, text), silver.time_bucket(interval, timestamptz, text, timestamptz),
        silver.time_bucket(interval, timestamptz, timestamptz), silver.time_bucket(interval, timestamp), silver.time_bucket(interval, date),
        silver.time_bucket(interval, timestamp, text), silver.time_bucket(interval, timestamp, timestamptz), silver.time_bucket(interval, timestamp, text, timestamptz),
        silver.time_bucket(interval, date, text), silver.time_bucket(interval, date, timestamptz), silver.time_bucket(interval, date, text, timestamptz),
        silver.first_value(anyelement, timestamptz), silver.last_value(anyelement, timestamptz),
        silver.version(),
        -- This one reads with the rights of whoever calls it; what it asks for the query reads nothing.
        silver.gapfill(anyelement, timestamptz, timestamptz, jsonb, jsonb), silver.gapfill_query(regtype, timestamptz, timestamptz, jsonb, jsonb)
    TO PUBLIC;

    -- What live views finish states with: they have the rights of who reads.
    GRANT EXECUTE ON FUNCTION
        rollup_engine.percentile(integer[], double precision), rollup_engine.count_distinct(bigint[]),
        rollup_engine.packed_registers(bigint[]), rollup_engine.most_frequent(jsonb)
    TO PUBLIC;

    -- Whoever may read a view may have it answered; without USAGE on the schema nobody calls them otherwise.
    GRANT EXECUTE ON FUNCTION
        rollup_engine.stale_set(integer, bigint, tstzrange, text[]), rollup_engine.stale_edges(integer, bigint),
        rollup_engine.stale_buckets(integer, bigint), rollup_engine.stale_spans(integer, bigint),
        rollup_engine.stale_parts(integer, bigint, rollup_engine.open_plan, boolean), rollup_engine.open_plan(integer),
        rollup_engine.few_buckets(silver.rollup_config, tstzmultirange), rollup_engine.few_pieces(tstzmultirange),
        rollup_engine.far_stale(integer), rollup_engine.live_groups(integer, bigint), rollup_engine.partly_stale(integer, bigint),
        rollup_engine.open_plan_for(integer, name, name[]),
        rollup_engine.planned_partitions(integer), rollup_engine.monitor(), rollup_engine.watched(), rollup_engine.stale_groups()
    TO PUBLIC;
    PERFORM rollup_engine.write_missing('view_monitor', rollup_engine.monitor_view_sql(), to_regclass('silver.timeseries_operations_monitor') IS NOT NULL);
    GRANT SELECT ON silver.timeseries_operations_monitor TO "${operator_role}", "${reader_role}";

    GRANT EXECUTE ON FUNCTION silver.rollup_for(text, interval, text[], jsonb, text), silver.live_view_columns(text) TO "${reader_role}";

    GRANT SELECT ON rollup_engine.plan_of_role TO PUBLIC;
    GRANT SELECT ON rollup_engine.source, rollup_engine.source_column, rollup_engine.source_shape, rollup_engine.restored, rollup_engine.upgrade, rollup_engine.detached_partition,
        rollup_engine.tail TO "${operator_role}";
    GRANT SELECT (relation, id) ON rollup_engine.retention TO "${operator_role}";
    GRANT SELECT (relation, control, time_unit, is_named) ON rollup_engine.partition_set TO "${operator_role}";
    GRANT INSERT, UPDATE, DELETE ON silver.dimension_config TO "${operator_role}";
    GRANT INSERT (rollup_id, metrics, expressions), SELECT (id) ON rollup_engine.metric_request TO "${operator_role}";

    -- Generated ones came with theirs, which somebody may have taken.
    PERFORM rollup_engine.give_generated_rights(proname) FROM pg_proc
    WHERE pronamespace = 'rollup_engine'::regnamespace AND proowner = '"${owner_role}"'::regrole
        AND rollup_engine.is_for_all(proname) AND NOT has_function_privilege('public', oid, 'EXECUTE');

    -- A function with its caller's rights gives nobody any; it only lets the public ones work. The
    -- names of generated ones end in the number of what they are for.
    FOR v_function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'rollup_engine'::regnamespace AND proowner = '"${owner_role}"'::regrole AND NOT prosecdef
            AND prorettype <> 'trigger'::regtype AND proname !~ '_[0-9]+$' AND NOT has_function_privilege('${operator_role}', oid, 'EXECUTE')
    LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO "${operator_role}"', v_function);
    END LOOP;

    -- Of those with the owner's rights: to refresh, and to maintain rollups.
    GRANT EXECUTE ON FUNCTION
        rollup_engine.detailed_statistics(text), rollup_engine.statement_statistics(text[]),
        rollup_engine.log_change(integer, timestamptz, timestamptz), rollup_engine.log_extent(integer, regclass, timestamptz, timestamptz, boolean),
        rollup_engine.source_lock_holder(integer), rollup_engine.outdated_texts(), rollup_engine.closed_functions(), rollup_engine.foreign_parts(), rollup_engine.worker_states(),
        rollup_engine.drain_step(integer, timestamptz, boolean), rollup_engine.failed_step(integer, rollup_engine.failure),
        rollup_engine.sources_to_drain(text, integer[], boolean), rollup_engine.note_quiet(integer),
        rollup_engine.relink_source(integer), rollup_engine.settle_tails(),
        rollup_engine.note_capture(integer, boolean), rollup_engine.captures_to_change(),
        rollup_engine.rollups_to_refresh(text, timestamptz), rollup_engine.refresh_step(integer, tstzrange, timestamptz[]),
        rollup_engine.ranges_left(integer, tstzrange),
        rollup_engine.ranges_undrained(integer, tstzrange),
        rollup_engine.failed_buckets(integer, tstzrange),
        rollup_engine.record_success(integer),
        rollup_engine.maintain_rollup(integer, text[], timestamptz), rollup_engine.forget_gone(),
        rollup_engine.retain_rollup(integer, timestamptz),
        rollup_engine.this_numbering(),
        rollup_engine.chunk_interval(regclass),
        rollup_engine.keep_of(regclass),
        rollup_engine.years_in_use(integer),
        rollup_engine.take_zone_rules(),
        rollup_engine.find_keys(), rollup_engine.work_to_do(text, timestamptz), rollup_engine.change_log_rows(),
        rollup_engine.add_metrics(bigint), rollup_engine.request_metrics(text, jsonb, jsonb),
        rollup_engine.clean_logs(timestamptz),
        rollup_engine.source_sets(),
        rollup_engine.source_retentions()
    TO "${operator_role}";
END
$$;
COMMENT ON FUNCTION rollup_engine.grant_api() IS 'Gives the group roles what the migrations are to give them.';

RESET ROLE;
