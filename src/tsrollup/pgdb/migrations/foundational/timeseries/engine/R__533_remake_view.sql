-- A live view that must be made anew, as where a column of it changes its type or it is gone, keeps
-- what people have made of it: its name and schema, owner, rights, comments, options.

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
    SELECT format('GRANT ALL ON %s TO "${owner_role}" WITH GRANT OPTION', oid::regclass) FROM pg_class
    WHERE oid = p_view AND EXISTS (SELECT FROM aclexplode(relacl) AS a WHERE a.grantee = relowner AND a.is_grantable)
    UNION ALL
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
    DELETE FROM rollup_engine.generated_text WHERE name ~ format('^(live|live_group|plain|upsert|view)_%s$', p_rollup.id);
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

RESET ROLE;
