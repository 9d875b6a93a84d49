-- Dropping a rollup, and with the last one its source.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.forget_columns(p_source_id integer) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The noted shape forgets them as well: that they are not looked at any more changes no answer.
    WITH unused AS (
        DELETE FROM rollup_engine.source_column AS c USING rollup_engine.source AS s
        WHERE s.id = p_source_id AND c.source_id = s.id AND c.current_name <> s.time_column AND NOT EXISTS (
            SELECT FROM silver.rollup_config AS r, rollup_engine.used_columns(r) AS used (names)
            WHERE r.source_id = s.id AND r.parent_id IS NULL AND c.column_name = ANY (used.names))
        RETURNING c.column_name, c.current_name
    ), gone AS (
        SELECT coalesce(array_agg(u.current_name::text), '{}') AS names FROM unused AS u
        WHERE NOT EXISTS (
            SELECT FROM rollup_engine.source_column AS k
            WHERE k.source_id = p_source_id AND k.current_name = u.current_name AND k.column_name NOT IN (SELECT column_name FROM unused))
    )
    UPDATE rollup_engine.source_shape AS n
    SET columns = n.columns - g.names, attributes = n.attributes - g.names, numbers = n.numbers - g.names
    FROM gone AS g WHERE n.source_id = p_source_id AND n.columns ?| g.names
$$;
COMMENT ON FUNCTION rollup_engine.forget_columns(integer) IS 'Has nobody look at columns of a source any more that no rollup reads: they may go, or change.';

CREATE OR REPLACE FUNCTION rollup_engine.remove_rollup(p_rollup_id integer, p_keep_table boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET client_min_messages = 'warning'  -- nothing of what is skipped
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_member regclass;
    v_dependents text;
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    PERFORM rollup_engine.check_schema(v_rollup.target_table);
    PERFORM pg_advisory_xact_lock(rollup_engine.source_lock_key(v_rollup.source_id));
    -- In the order of a refresh: what it has claimed is waited for before its table is locked.
    DELETE FROM rollup_engine.stale_range WHERE rollup_id = p_rollup_id;
    DELETE FROM rollup_engine.uneven_time WHERE rollup_id = p_rollup_id;
    DELETE FROM rollup_engine.zone_rules WHERE rollup_id = p_rollup_id;
    DELETE FROM rollup_engine.generated_text WHERE name ~ format('^(live|live_group|plain|upsert|view|rows)_%s$', p_rollup_id);
    DELETE FROM rollup_engine.noted_right WHERE statement ~ format('[{](view|table|part)_%s}', p_rollup_id);
    DELETE FROM silver.rollup_config WHERE id = p_rollup_id;
    PERFORM rollup_engine.forget_partition_set(v_rollup.target_table);
    IF EXISTS (SELECT FROM pg_class WHERE oid = v_rollup.target_view) THEN
        EXECUTE format('DROP VIEW %s', v_rollup.target_view);
    END IF;
    EXECUTE format('DROP FUNCTION IF EXISTS rollup_engine.live_%1$s(timestamptz, timestamptz), rollup_engine.live_group_%1$s(timestamptz, timestamptz, text), rollup_engine.plain_%1$s(rollup_engine.open_plan, timestamptz, timestamptz), rollup_engine.upsert_%1$s(text, text, text)', v_rollup.id);
    IF EXISTS (SELECT FROM pg_class WHERE oid = v_rollup.target_table) THEN
        PERFORM rollup_engine.change_table(CASE WHEN p_keep_table THEN 'LOCK TABLE' ELSE 'DROP TABLE' END, v_rollup.target_table);
    END IF;
    FOR v_member IN
        SELECT g.tgrelid FROM pg_trigger AS g
        WHERE g.tgrelid IN (SELECT rollup_engine.partition_tree(v_rollup.target_table)) AND g.tgfoid = 'rollup_engine.guard_rollup()'::regprocedure
    LOOP
        EXECUTE format('DROP TRIGGER tsrollup_guard ON %s', v_member);
    END LOOP;
    -- What was marked, put back or noted by those who were waited for as well.
    DELETE FROM rollup_engine.stale_range WHERE rollup_id = p_rollup_id;
    DELETE FROM rollup_engine.failed_bucket WHERE rollup_id = p_rollup_id;
    DELETE FROM rollup_engine.retention WHERE relation = v_rollup.target_table;
    DELETE FROM rollup_engine.rollup_partition WHERE rollup_id = p_rollup_id;
    DELETE FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup_id;
    DELETE FROM rollup_engine.ltree_dimension WHERE rollup_id = p_rollup_id;
    PERFORM rollup_engine.forget_columns(v_rollup.source_id);
EXCEPTION WHEN dependent_objects_still_exist THEN
    GET STACKED DIAGNOSTICS v_dependents = PG_EXCEPTION_DETAIL;
    PERFORM rollup_engine.fail('TR003', format('%s cannot be dropped: %s', v_rollup.target_table, replace(v_dependents, E'\n', ', ')),
        'drop that first, or have it read something else; with keep_table => true the table stays, and what reads that');
END
$$;
COMMENT ON FUNCTION rollup_engine.remove_rollup(integer, boolean) IS 'Drops what belongs to one rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.forget_source(p_source_id integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET client_min_messages = 'warning'
AS $$
BEGIN
    EXECUTE format('DROP FUNCTION IF EXISTS rollup_engine.capture_%s()', p_source_id);
    EXECUTE format('DROP FUNCTION IF EXISTS rollup_engine.note_%1$s(timestamptz), rollup_engine.log_row_%1$s(timestamptz), rollup_engine.tail_%1$s(), rollup_engine.tail_edges_%1$s()', p_source_id);
    DELETE FROM rollup_engine.generated_text WHERE name IN (format('capture_%s', p_source_id), format('note_%s', p_source_id), format('log_row_%s', p_source_id), format('indexes_%s', p_source_id));
    DELETE FROM rollup_engine.change_log WHERE source_id = p_source_id;
    DELETE FROM rollup_engine.log_border WHERE source_id = p_source_id;
    DELETE FROM rollup_engine.quiet_source WHERE source_id = p_source_id;
    DELETE FROM rollup_engine.tail WHERE source_id = p_source_id;
    DELETE FROM rollup_engine.source_partition WHERE source_id = p_source_id;
    DELETE FROM rollup_engine.source WHERE id = p_source_id;
END
$$;
COMMENT ON FUNCTION rollup_engine.forget_source(integer) IS 'Ends the tracking of a source whose triggers are gone.';

CREATE OR REPLACE FUNCTION rollup_engine.drop_now(p_rollup_id integer, p_keep_table boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_children text;
    v_is_last boolean;
    v_trigger record;
BEGIN
    -- One drops it at a time: what the other finds may go while it waits for that, and is not found by name any more.
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;  -- somebody else has dropped it meanwhile
    END IF;
    SELECT string_agg(target_table::text, ', ' ORDER BY id) INTO v_children FROM silver.rollup_config WHERE parent_id = v_rollup.id;
    IF v_children IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR003', format('%s read %s', v_children, v_rollup.target_table), 'drop them first'
            || (SELECT rollup_engine.sealed_note(s) FROM rollup_engine.source AS s WHERE s.id = v_rollup.source_id));
    END IF;
    v_is_last := NOT EXISTS (SELECT FROM silver.rollup_config WHERE source_id = v_rollup.source_id AND id <> v_rollup.id);
    IF v_is_last THEN
        PERFORM rollup_engine.check_no_index_is_built(v_rollup.source_table);
    END IF;
    -- Others hold one of these and want another, or hold stale rows: none is kept while one is waited for for long.
    PERFORM rollup_engine.lock_now(ARRAY(
        SELECT c.oid
        FROM unnest(ARRAY[v_rollup.target_view, v_rollup.target_table, CASE WHEN v_is_last THEN v_rollup.source_table END]) WITH ORDINALITY AS t (relation, place)
        -- Not what cannot be locked, and has no triggers: materialized views, foreign tables.
        JOIN pg_class AS c ON c.oid = t.relation AND c.relkind IN ('r', 'p', 'v') AND pg_has_role(c.relowner, 'USAGE')
        ORDER BY t.place));
    PERFORM rollup_engine.remove_rollup(v_rollup.id, p_keep_table);
    -- Asked again: another may have been dropped, or created, meanwhile.
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
COMMENT ON FUNCTION rollup_engine.drop_now(integer, boolean) IS 'Drops a rollup, and with the last one of a source its triggers; lock_not_available when somebody uses one of them.';

CREATE OR REPLACE FUNCTION rollup_engine.drop_in_turn(p_target text, p_keep_table boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id constant integer := rollup_engine.rollup_id(p_target);
BEGIN
    PERFORM rollup_engine.check_owner_role('drop rollups');
    PERFORM rollup_engine.run_in_turn(format('SELECT rollup_engine.drop_now(%s, %L)', v_id, coalesce(p_keep_table, false)));
END
$$;
COMMENT ON FUNCTION rollup_engine.drop_in_turn(text, boolean) IS 'What drop_rollup does.';

RESET ROLE;
