-- Creating, changing, rebuilding and dropping rollups.
--
-- The caller owns the source: granting, and creating triggers, happens as the caller.
-- What belongs to the machinery is made by SECURITY DEFINER functions of the engine, which only
-- members of the owner role may call.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
-- What these call is the engine, which comes after all versions.
SET LOCAL check_function_bodies = off;

CREATE FUNCTION silver.create_rollup_table(
    source_table_name text,
    target_schema text,
    target_table_name text,
    rollup_table_interval interval,
    time_column text DEFAULT NULL,
    dimensions text[] DEFAULT NULL,
    metrics jsonb DEFAULT NULL,
    chunk_interval interval DEFAULT NULL,
    settle_delay interval DEFAULT '1 minute',
    processing_window interval DEFAULT NULL,
    target_batch_duration interval DEFAULT '5 seconds',
    change_tracking text DEFAULT 'trigger',
    look_back_window interval DEFAULT NULL,
    retention interval DEFAULT NULL,
    if_not_exists boolean DEFAULT false
) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
    r silver.rollup_config;
BEGIN
    PERFORM rollup_engine.check_isolation();
    -- Whoever comes second sees what the first has made.
    PERFORM pg_advisory_xact_lock(rollup_engine.lock_key('target', format('%s.%s', target_schema, target_table_name)));
    SELECT c.* INTO r
    FROM silver.rollup_config AS c JOIN pg_class AS t ON t.oid = c.target_table
    WHERE t.relname = target_table_name AND t.relnamespace::regnamespace::text = quote_ident(target_schema);
    IF if_not_exists AND r.id IS NOT NULL THEN
        RAISE NOTICE 'rollup %.% exists already, skipping', target_schema, target_table_name;
        RETURN r.target_table;
    END IF;
    r := NULL;
    r.bucket_width := rollup_table_interval;
    r.chunk_interval := chunk_interval;
    r.settle_delay := settle_delay;
    r.processing_window := processing_window;
    r.target_batch_duration := target_batch_duration;
    r.change_tracking := change_tracking;
    r.look_back_window := look_back_window;
    r.retention := retention;
    PERFORM rollup_engine.check_options(r);
    PERFORM rollup_engine.check_target(target_schema, target_table_name);
    r := rollup_engine.describe_rollup(r, source_table_name, time_column, dimensions, metrics);
    PERFORM rollup_engine.grant_source_access(r.source_table);
    IF r.change_tracking = 'trigger' AND r.parent_id IS NULL THEN
        PERFORM rollup_engine.check_capture(r.source_table, r.time_column);
    END IF;

    v_source := rollup_engine.attach_source(r);
    r.source_id := v_source.id;
    r := rollup_engine.register_rollup(r, format('%I.%I', target_schema, target_table_name), format('gold.%I', target_table_name));
    UPDATE rollup_engine.partition_set AS s SET is_named = create_rollup_table.chunk_interval IS NOT NULL WHERE s.relation = r.target_table;
    PERFORM rollup_engine.add_triggers(v_source);
    PERFORM rollup_engine.look_at_source(v_source.id);
    PERFORM rollup_engine.mark_new(r.id, rollup_engine.everything());
    PERFORM rollup_engine.check_window_keep(r.source_table);
    PERFORM rollup_engine.warn_of_partman_retention(r.source_table);
    RETURN r.target_table;
END
$$;
COMMENT ON FUNCTION silver.create_rollup_table(text, text, text, interval, text, text[], jsonb, interval, interval, interval, interval, text, interval, interval, boolean) IS
'Creates a rollup of a table, or of another rollup: its table of partial states, its live view gold.<target_table_name>, and the triggers that capture changes. Everything is stale at first; run_rollups fills it. Returns the table. Bucket and dimensions of a row are its key, so a dimension''s value may have up to some 2,700 bytes: a bucket with a longer one is not stored, and computed when it is read. The caller owns the source and is a member of the owner role.';

CREATE FUNCTION silver.drop_rollup(target text, keep_table boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_children text;
    v_trigger record;
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = rollup_engine.rollup_id(target);
    PERFORM rollup_engine.check_owner_role('drop rollups');
    SELECT string_agg(target_table::text, ', ' ORDER BY id) INTO v_children FROM silver.rollup_config WHERE parent_id = v_rollup.id;
    IF v_children IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR003', format('%s read %s', v_children, v_rollup.target_table), 'drop them first');
    END IF;
    PERFORM rollup_engine.remove_rollup(v_rollup.id, coalesce(keep_table, false));
    IF EXISTS (SELECT FROM silver.rollup_config WHERE source_id = v_rollup.source_id) THEN
        RETURN;
    END IF;
    FOR v_trigger IN
        SELECT tgrelid::regclass AS relation, tgname FROM pg_trigger
        WHERE tgfoid = to_regprocedure(format('rollup_engine.capture_%s()', v_rollup.source_id)) AND tgparentid = 0
        ORDER BY (SELECT count(*) FROM pg_partition_ancestors(tgrelid))
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', v_trigger.tgname, v_trigger.relation);
    END LOOP;
    PERFORM rollup_engine.forget_source(v_rollup.source_id);
END
$$;
COMMENT ON FUNCTION silver.drop_rollup(text, boolean) IS
'Drops a rollup with its live view and, unless keep_table, its table; with the last rollup of a source go the capture triggers. Refuses while another rollup reads it.';

CREATE FUNCTION silver.add_rollup_metric(target text, metrics jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_request_id bigint;
BEGIN
    PERFORM rollup_engine.check_isolation();
    IF metrics IS NULL OR metrics = '{}' THEN
        PERFORM rollup_engine.fail('TR001', format('metrics is %s', coalesce(metrics::text, 'NULL')), 'write an object, as in ''{"temp": ["avg", "max"]}''');
    END IF;
    INSERT INTO rollup_engine.metric_request (rollup_id, metrics) VALUES (rollup_engine.rollup_id(target), metrics)
    RETURNING id INTO v_request_id;
    PERFORM rollup_engine.add_metrics(v_request_id);
END
$$;
COMMENT ON FUNCTION silver.add_rollup_metric(text, jsonb) IS
'Adds aggregates to a rollup: its table and live view gain columns at their end, and all of it is recomputed. Sealed buckets keep NULL there, and so do those before the window of a source that is tracked by one (mark_stale has them computed from what the source still holds). The caller is a member of the owner role, or may SELECT the columns of the source itself.';

CREATE FUNCTION silver.rebuild_rollup(target text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source_id integer;
    v_ids integer[];
    v_rollup silver.rollup_config;
BEGIN
    PERFORM rollup_engine.check_isolation();
    v_ids := ARRAY(SELECT rollup_engine.with_descendants(rollup_engine.rollup_id(target)));
    PERFORM rollup_engine.check_owner_role('rebuild rollups');
    SELECT source_id INTO v_source_id FROM silver.rollup_config WHERE id = v_ids[1];
    PERFORM rollup_engine.relink_source(v_source_id);
    PERFORM rollup_engine.look_at_source(v_source_id);
    PERFORM rollup_engine.watch_new_partitions(v_source_id);
    FOR v_rollup IN SELECT * FROM silver.rollup_config WHERE id = ANY (v_ids) ORDER BY depth, id LOOP
        PERFORM rollup_engine.rebuild_one(v_rollup);
        PERFORM silver.reset_rollup_retry(v_rollup.target_table::text);  -- it failed for what is mended
    END LOOP;
    PERFORM rollup_engine.mark_new(id, rollup_engine.told_by_source(v_source_id)) FROM unnest(v_ids) AS id;
END
$$;
COMMENT ON FUNCTION silver.rebuild_rollup(text) IS
'After the types of a source''s columns changed, or it or a live view was dropped: gives a rollup and all that read it the types of now and live views, and has all of it recomputed. Sealed rows, and those before the window of a source that is tracked by one, are kept, converted.';

RESET ROLE;
