-- From what people type as an expression over a row to its template.
--
-- PostgreSQL itself parses each, over an empty table that lives for a moment and has the columns of a
-- row; nothing of it runs before all that it calls is known to be PostgreSQL's own, or a superuser's
-- in an extension: it runs with the machinery's rights, and nobody can replace such a function.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.row_table_sql(p_rollup silver.rollup_config, p_row text, p_known jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A rollup's groups are told apart by bucket and dimensions; its states are of whole groups.
    SELECT format('CREATE TABLE %s AS SELECT %s FROM %s WITH NO DATA', p_row,
        string_agg(format('%I AS %I', a.attname, coalesce(known.name, a.attname)), ', ' ORDER BY a.attnum), p_rollup.source_table)
    FROM pg_attribute AS a
    LEFT JOIN jsonb_array_elements_text(p_known) AS known (name) ON rollup_engine.source_name(p_rollup, known.name::name) = a.attname
    WHERE a.attrelid = p_rollup.source_table AND a.attnum > 0 AND NOT a.attisdropped
        AND (p_rollup.parent_id IS NULL OR a.attname = 'bucket'
            OR a.attname = ANY (SELECT unnest(dimensions) FROM silver.rollup_config WHERE id = p_rollup.parent_id))
$$;
COMMENT ON FUNCTION rollup_engine.row_table_sql(silver.rollup_config, text, jsonb) IS
'Statement that makes an empty table with the columns of a row that an expression may read, called as they are now, or, as far as they are known under another name, so.';

CREATE OR REPLACE FUNCTION rollup_engine.is_open_schema(p_schema oid, p_source regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Its owner may, and grant it, even where the list says that he may not.
    SELECT EXISTS (
        SELECT FROM pg_namespace AS n
        CROSS JOIN LATERAL (
            SELECT n.nspowner UNION ALL
            SELECT a.grantee FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a WHERE a.privilege_type = 'CREATE'
        ) AS m (maker)
        LEFT JOIN pg_roles AS r ON r.oid = m.maker
        WHERE n.oid = p_schema AND r.rolname IS DISTINCT FROM 'pg_database_owner'
            AND NOT coalesce(pg_has_role(r.oid, '${owner_role}', 'USAGE'), false)
            AND r.oid IS DISTINCT FROM (SELECT relowner FROM pg_class WHERE oid = p_source))
$$;
COMMENT ON FUNCTION rollup_engine.is_open_schema(oid, regclass) IS
'Whether somebody may create something in a schema who is neither a member of the owner role, nor owns the database or the source.';

CREATE OR REPLACE FUNCTION rollup_engine.expression_path(p_source regclass, p_open boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A type of a stranger may run a check of his while a text is parsed: where he may put one comes last.
    SELECT concat_ws(', ', 'pg_catalog', string_agg(quote_ident(n.nspname), ', ' ORDER BY rollup_engine.is_open_schema(n.oid, p_source), n.nspname <> 'public', n.nspname), 'pg_temp')
    FROM pg_namespace AS n
    WHERE (n.nspname = 'public' OR n.oid IN (SELECT extnamespace FROM pg_extension WHERE pg_has_role(extowner, '${owner_role}', 'USAGE'))
            OR n.oid = (SELECT relnamespace FROM pg_class WHERE oid = p_source))
        AND n.nspname <> 'pg_catalog' AND has_schema_privilege(n.oid, 'USAGE')
        AND (p_open OR NOT rollup_engine.is_open_schema(n.oid, p_source))
$$;
COMMENT ON FUNCTION rollup_engine.expression_path(regclass, boolean) IS
'The schemas where names in expressions are looked up, whatever the session''s search_path, with or without those where strangers may create something.';

CREATE OR REPLACE FUNCTION rollup_engine.check_is_one_expression(p_text text, p_row text, p_path text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET check_function_bodies = on
AS $$
DECLARE
    v_function constant text := format('rollup_engine.tsrollup_parse_%s()', pg_backend_pid());
    v_body text;
BEGIN
    -- A body is parsed as a text of its own and not run: a quote or a comment left open is an error
    -- here. What closes the parenthesis of the first cannot stand in the CASE of the second.
    PERFORM set_config('search_path', p_path, true);
    FOREACH v_body IN ARRAY ARRAY['SELECT (%s) FROM %s', 'SELECT CASE WHEN true THEN %s END FROM %s'] LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION %s RETURNS void LANGUAGE sql AS %L', v_function, format(v_body, p_text, p_row));
    END LOOP;
    EXECUTE format('DROP FUNCTION %s', v_function);
END
$$;
COMMENT ON FUNCTION rollup_engine.check_is_one_expression(text, text, text) IS
'An error of PostgreSQL''s parser unless the text, which ends in a line break, is one expression and nothing else: then it can stand in parentheses in any statement.';

CREATE OR REPLACE FUNCTION rollup_engine.has_open_type(p_view regclass, p_source regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT
        FROM pg_rewrite AS w
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.deptype = 'n'
        LEFT JOIN pg_attribute AS a ON d.refclassid = 'pg_class'::regclass AND a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        LEFT JOIN pg_proc AS f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
        LEFT JOIN pg_operator AS o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
        CROSS JOIN LATERAL rollup_engine.parts_of_type(
            CASE d.refclassid WHEN 'pg_type'::regclass THEN d.refobjid ELSE coalesce(a.atttypid, f.prorettype, o.oprresult) END) AS p
        JOIN pg_type AS t ON t.oid = p.type AND t.typtype = 'b' AND t.typcategory <> 'A'
        WHERE w.ev_class = p_view AND rollup_engine.is_open_schema(t.typnamespace, p_source))
$$;
COMMENT ON FUNCTION rollup_engine.has_open_type(regclass, regclass) IS
'Whether an expression, parsed as a view, goes by a type, as only extensions make them, of a schema where strangers may create something: its operators are there, too.';

CREATE OR REPLACE FUNCTION rollup_engine.path_of_expression(p_text text, p_row text, p_source regclass) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_view constant text := format('rollup_engine.tsrollup_view_%s', pg_backend_pid());
    v_text constant text := p_text || chr(10);
    v_closed constant text := rollup_engine.expression_path(p_source, false);
    v_all constant text := rollup_engine.expression_path(p_source, true);
    v_has_open boolean;
BEGIN
    -- The best match is taken in all of a path: an operator of a stranger could read a constant as a type of his.
    IF v_closed <> v_all THEN
        PERFORM rollup_engine.check_is_one_expression(v_text, p_row, v_closed);
        PERFORM set_config('search_path', v_closed, true);
        EXECUTE format('CREATE VIEW %s AS SELECT (%s) AS tsrollup_value FROM %s', v_view, v_text, p_row);
        PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
        v_has_open := rollup_engine.has_open_type(v_view::regclass, p_source);
        EXECUTE format('DROP VIEW %s', v_view);
    END IF;
    RETURN CASE WHEN v_has_open THEN v_all ELSE v_closed END;
EXCEPTION
    WHEN undefined_function OR undefined_object OR ambiguous_function THEN
        RETURN v_all;
    WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported OR program_limit_exceeded THEN
        RETURN v_closed;  -- which fails there, too
END
$$;
COMMENT ON FUNCTION rollup_engine.path_of_expression(text, text, regclass) IS
'The schemas where names in an expression are looked up: those where strangers may create something only where it names what the others do not have, or goes by a type of an extension in such a one.';

CREATE OR REPLACE FUNCTION rollup_engine.marked_expression(p_row regclass) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_generated pg_attrdef;
    v_columns name[];
    v_template text;
BEGIN
    SELECT * INTO v_generated FROM pg_attrdef WHERE adrelid = p_row;
    IF pg_get_expr(v_generated.adbin, p_row) LIKE '%tsrollup%' THEN
        RAISE syntax_error USING MESSAGE = 'names and texts with tsrollup in them are the machinery''s own';
    END IF;
    v_columns := ARRAY(
        SELECT DISTINCT a.attname
        FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = p_row AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = v_generated.oid AND d.refclassid = 'pg_class'::regclass
            AND d.refobjid = p_row AND d.refobjsubid <> v_generated.adnum
        ORDER BY a.attname);
    FOR i IN 1 .. cardinality(v_columns) LOOP
        EXECUTE format('ALTER TABLE %s RENAME %I TO %I', p_row, v_columns[i], format('{tsrollup_%s}', i));
    END LOOP;
    SELECT pg_get_expr(adbin, adrelid) INTO v_template FROM pg_attrdef WHERE oid = v_generated.oid;
    RETURN jsonb_build_object('template', v_template, 'columns', v_columns);
END
$$;
COMMENT ON FUNCTION rollup_engine.marked_expression(regclass) IS 'The expression of the generated column of a table as PostgreSQL writes it, with a mark for each column.';

CREATE OR REPLACE FUNCTION rollup_engine.parse_expression(p_text text, p_row text, p_path text) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_view constant text := format('rollup_engine.tsrollup_view_%s', pg_backend_pid());
    v_text constant text := p_text || chr(10);  -- which ends a comment
    v_described jsonb;
    v_type text;
    v_foreign text;
    v_hint text;
    v_schemas jsonb;
    v_parts text[];
BEGIN
    PERFORM rollup_engine.check_is_one_expression(v_text, p_row, p_path);
    PERFORM set_config('search_path', p_path, true);
    EXECUTE format('CREATE VIEW %s AS SELECT (%s) AS tsrollup_value FROM %s', v_view, v_text, p_row);
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    v_foreign := 'it uses ' || rollup_engine.untrusted_parts(v_view::regclass, p_row::regclass);
    v_schemas := rollup_engine.schemas_in_use(v_view::regclass);
    IF v_foreign IS NULL THEN
        SELECT c.problem, c.hint INTO v_foreign, v_hint FROM rollup_engine.closed_schemas(jsonb_strip_nulls(jsonb_build_object('filter', jsonb_build_object('schemas', v_schemas)))) AS c LIMIT 1;
    END IF;
    IF v_foreign IS NOT NULL THEN
        RAISE insufficient_privilege USING MESSAGE = v_foreign, HINT = coalesce(v_hint, '');
    END IF;
    v_parts := rollup_engine.parts_in_use(v_view::regclass, p_row::regclass);
    v_type := (SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = v_view::regclass AND attnum = 1);
    EXECUTE format('DROP VIEW %s', v_view);
    PERFORM set_config('search_path', p_path, true);
    EXECUTE format('ALTER TABLE %s ADD tsrollup_value %s GENERATED ALWAYS AS (%s) STORED', p_row, v_type, v_text);
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    v_described := rollup_engine.marked_expression(p_row::regclass);
    BEGIN
        -- Planned as it will be, which puts bodies of functions in their place.
        EXECUTE format('SELECT %s FROM %s', v_described ->> 'template', p_row);
    EXCEPTION WHEN undefined_function OR undefined_object OR undefined_table OR invalid_schema_name THEN
        RAISE feature_not_supported USING MESSAGE = format('a function in it looks for its own things by the session''s search_path: %s', SQLERRM);
    END;
    RETURN v_described || jsonb_strip_nulls(jsonb_build_object('parts', v_parts, 'schemas', v_schemas))
        || (SELECT jsonb_build_object('type', format_type(atttypid, NULL)) FROM pg_attribute WHERE attrelid = p_row::regclass AND attname = 'tsrollup_value');
END
$$;
COMMENT ON FUNCTION rollup_engine.parse_expression(text, text, text) IS
'A text as an expression over a row of the table: template, columns, type. Errors are PostgreSQL''s own.';

CREATE OR REPLACE FUNCTION rollup_engine.parse_expression_again(p_text text, p_row text, p_path text) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_described jsonb;
BEGIN
    RETURN rollup_engine.parse_expression(p_text, p_row, p_path);
EXCEPTION WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported THEN
    -- Somebody may have made a function since that matches better: where only PostgreSQL's own are meant, they are as good as ever.
    BEGIN
        v_described := rollup_engine.parse_expression(p_text, p_row, 'pg_catalog, pg_temp');
        IF EXISTS (
            SELECT FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = rollup_engine.base_type(a.atttypid)
            WHERE a.attrelid = p_row::regclass AND a.attnum > 0 AND a.attname LIKE '{tsrollup%' AND t.typnamespace <> 'pg_catalog'::regnamespace)
        THEN
            RAISE feature_not_supported;
        END IF;
        RETURN v_described;
    EXCEPTION WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported THEN
        NULL;
    END;
    RAISE;
END
$$;
COMMENT ON FUNCTION rollup_engine.parse_expression_again(text, text, text) IS
'An expression that was described before as it is now, be it that a stranger''s function would be taken for one of PostgreSQL''s.';

RESET ROLE;
