-- Changing the options and the name of a rollup.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.write_options(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_old silver.rollup_config;
BEGIN
    SELECT * INTO v_old FROM silver.rollup_config WHERE id = p_rollup.id FOR NO KEY UPDATE;
    UPDATE silver.rollup_config AS c
    SET settle_delay = p_rollup.settle_delay,
        target_batch_duration = p_rollup.target_batch_duration,
        look_back_window = p_rollup.look_back_window,
        processing_window = p_rollup.processing_window,
        -- As far as it had adapted, unless that is another one now.
        current_window = CASE WHEN p_rollup.processing_window IS DISTINCT FROM c.processing_window
            THEN p_rollup.processing_window ELSE c.current_window END
    WHERE c.id = v_old.id;
    IF p_rollup.chunk_interval IS NOT NULL THEN
        UPDATE silver.rollup_config SET chunk_interval = p_rollup.chunk_interval WHERE id = v_old.id;
        PERFORM rollup_engine.fit_partitions_to_keep(v_old.target_table);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.write_options(silver.rollup_config) IS
'Gives a rollup the checked options; chunk_interval only where it is not NULL. What the machinery has adapted to them follows.';

-- The name ----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.rename_partition_set(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_old constant text := (SELECT partman_parent FROM rollup_engine.partition_set WHERE relation = p_relation);
    v_new constant text := rollup_engine.partman_key(p_relation);
BEGIN
    IF v_old IS NULL OR rollup_engine.partman_schema() IS NULL THEN
        RETURN;
    ELSIF v_new IS NULL THEN  -- a name that it cannot know: native from now on
        EXECUTE format('DELETE FROM %s.part_config WHERE parent_table = $1', rollup_engine.partman_schema()) USING v_old;
    ELSE
        EXECUTE format('UPDATE %s.part_config SET parent_table = $2 WHERE parent_table = $1', rollup_engine.partman_schema()) USING v_old, v_new;
    END IF;
    UPDATE rollup_engine.partition_set SET partman_parent = v_new WHERE relation = p_relation;
END
$$;
COMMENT ON FUNCTION rollup_engine.rename_partition_set(regclass) IS 'Tells pg_partman, which knows tables by name, that one was renamed.';

CREATE OR REPLACE FUNCTION rollup_engine.rename_rollup(p_rollup_id integer, p_name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    r silver.rollup_config;
    v_schema name;
    v_comment text;
BEGIN
    SELECT * INTO r FROM silver.rollup_config WHERE id = p_rollup_id;
    PERFORM rollup_engine.fail_if_gone(r);
    PERFORM rollup_engine.check_view(r);
    SELECT n.nspname INTO v_schema FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = r.target_table;
    PERFORM pg_advisory_xact_lock(rollup_engine.lock_key('target', format('%s.%s', v_schema, p_name)));
    PERFORM rollup_engine.check_target(v_schema, p_name, r);
    PERFORM rollup_engine.look_at_source(r.source_id);
    -- Those above it as well: they name its table while they are read.
    PERFORM rollup_engine.lock_views(ARRAY(SELECT rollup_engine.with_descendants(r.id)));
    v_comment := rollup_engine.view_comment(r.target_table::text);
    IF p_name <> (SELECT relname FROM pg_class WHERE oid = r.target_table) THEN
        PERFORM rollup_engine.change_table('ALTER TABLE', r.target_table, format('RENAME TO %I', p_name));
    END IF;
    IF p_name <> (SELECT relname FROM pg_class WHERE oid = r.target_view) THEN
        EXECUTE format('ALTER VIEW %s RENAME TO %I', r.target_view, p_name);
    END IF;
    IF obj_description(r.target_view, 'pg_class') = v_comment THEN
        EXECUTE format('COMMENT ON VIEW %s IS %L', r.target_view, rollup_engine.view_comment(r.target_table::text));
    END IF;
    PERFORM rollup_engine.rename_partition_set(r.target_table);
    PERFORM rollup_engine.rename_logs(r.source_id);
    -- Texts that hold the name: its own, and the query of those that read it.
    PERFORM rollup_engine.follow_columns(c) FROM silver.rollup_config AS c WHERE p_rollup_id IN (c.id, c.parent_id);
    PERFORM rollup_engine.write_generated(format('view_%s', c.id), rollup_engine.live_view_sql(c, c.target_view::text))
    FROM (SELECT (r).* UNION ALL SELECT * FROM rollup_engine.views_upon(r)) AS c;
END
$$;
COMMENT ON FUNCTION rollup_engine.rename_rollup(integer, text) IS 'Gives the table and the live view of a rollup another name.';

CREATE OR REPLACE FUNCTION rollup_engine.change_rollup(p_target text, p_options silver.rollup_config, p_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r silver.rollup_config;
BEGIN
    SELECT * INTO r FROM silver.rollup_config WHERE id = rollup_engine.rollup_id(p_target);
    PERFORM rollup_engine.check_owner_role('change rollups');
    r.settle_delay := coalesce(p_options.settle_delay, r.settle_delay);
    r.processing_window := coalesce(p_options.processing_window, r.processing_window);
    r.target_batch_duration := coalesce(p_options.target_batch_duration, r.target_batch_duration);
    r.look_back_window := coalesce(p_options.look_back_window, r.look_back_window);
    r.chunk_interval := p_options.chunk_interval;  -- that of now was chosen by maintenance, or checked
    PERFORM rollup_engine.check_options(r);
    PERFORM rollup_engine.write_options(r);
    IF p_name IS NOT NULL THEN
        PERFORM rollup_engine.rename_rollup(r.id, p_name);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.change_rollup(text, silver.rollup_config, text) IS 'What alter_rollup does; options that are NULL stay as they are.';

RESET ROLE;
