-- Rebuilding a rollup whose table can no longer hold what its source says, or whose live view is
-- gone. A view that must be made anew keeps what people have made of it.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.grantee_name(p_role oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_role WHEN 0 THEN 'PUBLIC' ELSE p_role::regrole::text END
$$;
COMMENT ON FUNCTION rollup_engine.grantee_name(oid) IS 'Who has a right, as GRANT and REVOKE name him.';

DROP FUNCTION IF EXISTS rollup_engine.grants_sql(regclass);
CREATE OR REPLACE FUNCTION rollup_engine.grants_sql(p_relation regclass, p_name text DEFAULT NULL) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('GRANT %s%s ON TABLE %s TO %s', a.privilege_type, o.columns, coalesce(p_name, p_relation::text), rollup_engine.grantee_name(a.grantee))
        || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM (
        SELECT relacl, '' FROM pg_class WHERE oid = p_relation
        UNION ALL
        SELECT attacl, format(' (%I)', attname) FROM pg_attribute WHERE attrelid = p_relation AND NOT attisdropped
    ) AS o (rights, columns)
    CROSS JOIN LATERAL aclexplode(o.rights) AS a
    WHERE a.grantee <> a.grantor
$$;
COMMENT ON FUNCTION rollup_engine.grants_sql(regclass, text) IS 'The rights on a table or view and on its columns, as statements that give them, under its own name or another.';

CREATE OR REPLACE FUNCTION rollup_engine.rights_and_comments_sql(p_relation regclass) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.grants_sql(p_relation)
    UNION ALL
    SELECT format('COMMENT ON %s IS %L', CASE WHEN d.objsubid > 0 THEN format('COLUMN %s.%I', p_relation, a.attname)
        WHEN c.relkind = 'v' THEN format('VIEW %s', p_relation) ELSE format('TABLE %s', p_relation) END, d.description)
    FROM pg_description AS d JOIN pg_class AS c ON c.oid = d.objoid
        LEFT JOIN pg_attribute AS a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
    WHERE d.classoid = 'pg_class'::regclass AND d.objoid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.rights_and_comments_sql(regclass) IS 'The rights on a table or view, and its comments, as statements.';

CREATE OR REPLACE FUNCTION rollup_engine.view_keeping_sql(p_view regclass) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('ALTER VIEW %s OWNER TO %s', oid::regclass, relowner::regrole) FROM pg_class
    WHERE oid = p_view AND relowner <> '"${owner_role}"'::regrole
    UNION ALL
    SELECT rollup_engine.rights_and_comments_sql(p_view)
$$;
COMMENT ON FUNCTION rollup_engine.view_keeping_sql(regclass) IS
'Statements that give a live view made anew the owner, the rights and the comments that it has; names of columns and options are in its text.';

-- That of 0.1.0 knew of types alone.
DROP FUNCTION IF EXISTS rollup_engine.check_no_view_depends(silver.rollup_config);
CREATE OR REPLACE FUNCTION rollup_engine.check_no_view_depends(
    p_rollup silver.rollup_config,
    p_change text DEFAULT 'must be given other types',
    p_hint text DEFAULT 'drop what rests on it, rebuild the rollup, and create that again'
) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_dependents text;
BEGIN
    SELECT string_agg(DISTINCT CASE WHEN r.ev_class <> p_rollup.target_view THEN r.ev_class::regclass::text
        ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END, ', ') INTO v_dependents
    FROM pg_depend AS d LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    WHERE d.refclassid = 'pg_class'::regclass AND CASE d.refobjid
        -- Triggers and rules that people gave it as well, which would go with it.
        WHEN p_rollup.target_view THEN d.deptype IN ('n', 'a') AND (r.ev_class = p_rollup.target_view AND r.rulename = '_RETURN') IS NOT TRUE
        WHEN p_rollup.target_table THEN r.ev_class NOT IN (
            SELECT unnest(ARRAY[p_rollup.target_view, p_rollup.target_table]) UNION ALL SELECT c.target_view FROM rollup_engine.views_upon(p_rollup) AS c)
        END;
    IF v_dependents IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR003', format('%s %s, and %s rests on it or on its live view', p_rollup.target_table, p_change, v_dependents), p_hint);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_no_view_depends(silver.rollup_config, text, text) IS 'An error that names the views and other things which keep a live view from being made anew.';

CREATE OR REPLACE FUNCTION rollup_engine.take_view_down(p_rollup silver.rollup_config, p_names name[]) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name constant text := p_rollup.target_view::text;
    v_view constant jsonb := jsonb_build_object('id', p_rollup.id, 'name', v_name,
        'text', rollup_engine.live_view_sql(p_rollup, v_name, p_names),
        'kept', ARRAY(SELECT rollup_engine.view_keeping_sql(p_rollup.target_view)));
BEGIN
    PERFORM rollup_engine.check_no_view_depends(p_rollup);
    EXECUTE format('DROP VIEW %s', v_name);
    DELETE FROM rollup_engine.generated_text WHERE name = format('view_%s', p_rollup.id);
    RETURN v_view;
END
$$;
COMMENT ON FUNCTION rollup_engine.take_view_down(silver.rollup_config, name[]) IS 'Drops a live view, and returns what is to be made anew.';

CREATE OR REPLACE FUNCTION rollup_engine.give_back(p_relation regclass, p_kept text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_statement text;
BEGIN
    FOR v_statement IN
        -- What every new one has: who has lost it is not given it again.
        SELECT format('REVOKE ALL ON %s FROM %s', p_relation, rollup_engine.grantee_name(a.grantee))
        FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.oid = p_relation AND a.grantee <> c.relowner
        UNION ALL
        SELECT unnest(p_kept)
    LOOP
        BEGIN
            EXECUTE v_statement;
        EXCEPTION WHEN undefined_column THEN
            NULL;  -- of a column that was dropped
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.give_back(regclass, text[]) IS 'Gives a table or view that was made anew what it had, as statements.';

CREATE OR REPLACE FUNCTION rollup_engine.put_view_up(p_view jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.write_generated(format('view_%s', p_view ->> 'id'), p_view ->> 'text');
    UPDATE silver.rollup_config SET target_view = (p_view ->> 'name')::regclass WHERE id = (p_view ->> 'id')::integer;
    PERFORM rollup_engine.give_back((p_view ->> 'name')::regclass, ARRAY(SELECT jsonb_array_elements_text(p_view -> 'kept')));
END
$$;
COMMENT ON FUNCTION rollup_engine.put_view_up(jsonb) IS 'Makes a live view anew as people had it.';

-- That of 0.1.0 left all columns where they were.
DROP FUNCTION IF EXISTS rollup_engine.replace_view(silver.rollup_config, text);
CREATE OR REPLACE FUNCTION rollup_engine.replace_view(p_rollup silver.rollup_config, p_changes text, p_names name[] DEFAULT NULL) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_views jsonb[];
BEGIN
    FOR v_rollup IN SELECT (p_rollup).* UNION ALL SELECT * FROM rollup_engine.views_upon(p_rollup) ORDER BY depth DESC LOOP
        v_views := rollup_engine.take_view_down(v_rollup, CASE v_rollup.id WHEN p_rollup.id THEN p_names END) || v_views;
    END LOOP;
    IF p_changes IS NOT NULL THEN
        PERFORM rollup_engine.change_table('ALTER TABLE', p_rollup.target_table, p_changes);
    END IF;
    PERFORM rollup_engine.write_live_functions(p_rollup);
    FOR i IN 1 .. cardinality(v_views) LOOP
        PERFORM rollup_engine.put_view_up(v_views[i]);
    END LOOP;
    RETURN (v_views[1] ->> 'name')::regclass;
END
$$;
COMMENT ON FUNCTION rollup_engine.replace_view(silver.rollup_config, text, name[]) IS
'Changes the table of a rollup in a way that its live view stands in the way of: the view is made anew as people have it, with those names of columns if it has others.';

CREATE OR REPLACE FUNCTION rollup_engine.restore_view(p_rollup silver.rollup_config, p_changes text) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name constant text := (SELECT format('gold.%I', relname) FROM pg_class WHERE oid = p_rollup.target_table);
BEGIN
    IF to_regclass(v_name) IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR003', format('%s is in the way of the live view of %s', v_name, p_rollup.target_table),
            format('drop or rename it; then SELECT silver.rebuild_rollup(%L)', p_rollup.target_table));
    ELSIF p_changes IS NOT NULL THEN
        PERFORM rollup_engine.check_no_view_depends(p_rollup);
        PERFORM rollup_engine.change_table('ALTER TABLE', p_rollup.target_table, p_changes);
    END IF;
    DELETE FROM rollup_engine.generated_text WHERE name IN (format('live_%s', p_rollup.id), format('plain_%s', p_rollup.id), format('live_group_%s', p_rollup.id), format('view_%s', p_rollup.id));
    RAISE NOTICE '% is made anew: rights that were given on it are gone with the old one', v_name
        USING HINT = 'grant them again';
    RETURN rollup_engine.create_view(p_rollup, v_name);
END
$$;
COMMENT ON FUNCTION rollup_engine.restore_view(silver.rollup_config, text) IS
'Makes a live view that somebody has dropped anew, as a new rollup has it, after a change of the rollup''s table.';

CREATE OR REPLACE FUNCTION rollup_engine.rebuild_view(p_rollup silver.rollup_config, p_changes text) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_changes IS NULL THEN
        BEGIN
            RETURN rollup_engine.create_view(p_rollup, p_rollup.target_view::text);
        EXCEPTION WHEN invalid_table_definition THEN
            NULL;  -- what is stored keeps its types, and what is made of it does not
        END;
    END IF;
    RETURN rollup_engine.replace_view(p_rollup, p_changes);
END
$$;
COMMENT ON FUNCTION rollup_engine.rebuild_view(silver.rollup_config, text) IS 'The live view after a change of the rollup''s table, or of what its columns are made of; made anew only where their types are others.';

CREATE OR REPLACE FUNCTION rollup_engine.check_same_states(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_columns text;
BEGIN
    SELECT string_agg(DISTINCT quote_ident(m.source_column), ', ') INTO v_columns
    FROM rollup_engine.metric_aggregates(p_rollup) AS m CROSS JOIN LATERAL unnest((m.aggregate).states) AS u (state)
    WHERE NOT EXISTS (
        SELECT FROM rollup_engine.rollup_column AS c
        WHERE c.rollup_id = p_rollup.id AND c.kind = 'state' AND c.source_column = m.source_column
            AND rollup_engine.state_label(c.state) = rollup_engine.state_label(u.state));
    IF v_columns IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('metrics of column %s of %s are made in another way for the type that it has now', v_columns, p_rollup.target_table),
            format('SELECT silver.drop_rollup_metric(%L, ...) for its variances, here and in what reads it; rebuild, and add them again', p_rollup.target_table));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_same_states(silver.rollup_config) IS 'An error where an aggregate needs other states for the type that a column has now than the rollup holds.';

CREATE OR REPLACE FUNCTION rollup_engine.forget_rows(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT isempty(rollup_engine.told_by_source(p_rollup.source_id)) THEN
        -- At once the lock that the change of types takes: none is made stronger while others wait.
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', p_rollup.target_table);
        PERFORM rollup_engine.set_refreshing(true);
        EXECUTE format('DELETE FROM %s WHERE bucket >= $1', p_rollup.target_table) USING coalesce(p_rollup.sealed_before, '-infinity');
        PERFORM rollup_engine.set_refreshing(false);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.forget_rows(silver.rollup_config) IS 'Deletes the stored rows that are to be computed anew anyway, and need fit no new type.';

CREATE OR REPLACE FUNCTION rollup_engine.stored_modes_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(format('SELECT count(value::%s) FROM (SELECT DISTINCT jsonb_object_keys(%I -> 0) FROM %s) AS stored (value)',
        rollup_engine.held_type(p.state, NULL), c.column_name, p_rollup.target_table), ' UNION ALL ')
    FROM rollup_engine.rollup_column AS c
    JOIN rollup_engine.plan_columns(p_rollup, 'timestamptz') AS p USING (column_name)
    WHERE c.rollup_id = p_rollup.id AND c.state LIKE 'tally:%' AND c.state <> p.state AND EXISTS (
        SELECT FROM rollup_engine.rollup_column AS m
        WHERE m.rollup_id IN (SELECT rollup_engine.with_descendants(p_rollup.id)) AND m.source_column = c.source_column AND m.state = 'mode')
$$;
COMMENT ON FUNCTION rollup_engine.stored_modes_sql(silver.rollup_config) IS
'Query that fails where a text among the stored values that have a mode is none of the type that they have now; NULL where their types are as they were.';

CREATE OR REPLACE FUNCTION rollup_engine.rebuild_one(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_is_gone constant boolean := NOT rollup_engine.is_relation(p_rollup.target_view);
    r silver.rollup_config := p_rollup;
    v_view regclass;
    v_changes text;
    v_modes text;
BEGIN
    PERFORM rollup_engine.fail_if_gone(p_rollup);
    PERFORM rollup_engine.lock_views(ARRAY(SELECT rollup_engine.with_descendants(p_rollup.id)));  -- those of whoever comes next, too
    r.row_sql := rollup_engine.describe_rows(r);
    PERFORM rollup_engine.check_same_states(r);
    PERFORM rollup_engine.plan_again(r);
    WITH changed AS (
        UPDATE rollup_engine.rollup_column AS c SET data_type = t.data_type
        FROM rollup_engine.column_types(r) AS t
        WHERE c.rollup_id = r.id AND c.column_name = t.column_name AND t.data_type <> c.data_type
        RETURNING c.position, c.column_name, c.data_type
    )
    SELECT string_agg(format('ALTER COLUMN %1$I TYPE %2$s USING %1$I::%2$s', column_name, data_type), ', ' ORDER BY position)
    INTO v_changes FROM changed;
    v_modes := rollup_engine.stored_modes_sql(r);
    IF v_changes IS NOT NULL OR v_modes IS NOT NULL THEN
        PERFORM rollup_engine.check_types(r);
        PERFORM rollup_engine.forget_rows(r);
        EXECUTE coalesce(v_modes, 'SELECT');
    END IF;
    UPDATE rollup_engine.rollup_column AS c
    SET state = p.state, expression = CASE c.kind WHEN 'finished' THEN rollup_engine.finish_expression(c.rollup_id, c.source_column, p.expression) ELSE c.expression END
    FROM rollup_engine.plan_columns(r, 'timestamptz') AS p
    WHERE c.rollup_id = r.id AND c.column_name = p.column_name;
    v_view := CASE WHEN v_is_gone THEN rollup_engine.restore_view(r, v_changes) ELSE rollup_engine.rebuild_view(r, v_changes) END;
    PERFORM rollup_engine.note_rows(r);
    UPDATE silver.rollup_config
    SET target_view = v_view, row_sql = r.row_sql, refresh_sql = rollup_engine.grouped_sql(r, r.source_table::text, '$1', '$2')
    WHERE id = r.id;
EXCEPTION WHEN cannot_coerce OR undefined_function OR undefined_column OR datatype_mismatch THEN
    PERFORM rollup_engine.fail('TR004', format('%s cannot be rebuilt: %s', p_rollup.target_table, SQLERRM),
        format('SELECT silver.drop_rollup(%L), and create it anew without what is gone', p_rollup.target_table));
WHEN data_exception OR unique_violation OR feature_not_supported THEN
    PERFORM rollup_engine.fail('TR004', format('%s cannot be rebuilt: %s', p_rollup.target_table, SQLERRM),
        format('rows that cannot be computed anew stay as they are: give %s the type that it had', p_rollup.source_table));
END
$$;
COMMENT ON FUNCTION rollup_engine.rebuild_one(silver.rollup_config) IS 'Gives the table and the live view of a rollup the types that its source has now. Stored rows that cannot be computed anew are converted.';

CREATE OR REPLACE FUNCTION rollup_engine.rebuild_with_descendants(p_target text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source_id integer;
    v_ids integer[];
    v_rollup silver.rollup_config;
BEGIN
    PERFORM rollup_engine.check_isolation();
    v_ids := ARRAY(SELECT rollup_engine.with_descendants(rollup_engine.rollup_id(p_target)));
    PERFORM rollup_engine.check_owner_role('rebuild rollups');
    SELECT source_id INTO v_source_id FROM silver.rollup_config WHERE id = v_ids[1];
    PERFORM rollup_engine.relink_source(v_source_id);
    PERFORM rollup_engine.look_at_source(v_source_id);
    PERFORM rollup_engine.fail('TR004', t.problem, t.hint) FROM rollup_engine.retyped_time(v_source_id) AS t;
    PERFORM rollup_engine.watch_new_partitions(v_source_id);
    FOR v_rollup IN SELECT * FROM silver.rollup_config WHERE id = ANY (v_ids) ORDER BY depth, id LOOP
        PERFORM rollup_engine.rebuild_one(v_rollup);
        PERFORM silver.reset_rollup_retry(v_rollup.target_table::text);  -- it failed for what is mended
    END LOOP;
    PERFORM rollup_engine.mark_new(id, rollup_engine.told_by_source(v_source_id)) FROM unnest(v_ids) AS id;
END
$$;
COMMENT ON FUNCTION rollup_engine.rebuild_with_descendants(text) IS 'What rebuild_rollup does.';

RESET ROLE;
