-- The expressions and the filter of a rollup, checked and described: new ones, and those that it has
-- after its source has changed.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.passing_part(p_text text, p_template text, p_parts jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        -- now, today, tomorrow, yesterday, however they are spelled: days of now, in any zone, that are not in the text.
        WHEN EXISTS (
            SELECT FROM (
                SELECT to_char(now() AT TIME ZONE 'UTC' + make_interval(days => d), 'YYYY-MM-DD') FROM generate_series(-2, 2) AS d
                UNION ALL
                SELECT to_char(now() AT TIME ZONE 'UTC', 'HH24:MI:SS')
            ) AS moment (part)
            WHERE regexp_count(p_template, moment.part) > regexp_count(p_text, moment.part))
        THEN 'it names a time that is another one each day'
        WHEN p_template ~ '[[:<:]]hash(enum|_array|_record|_range|_multirange)(_?extended)?[(]' AND p_parts::text ~ '"enum '
        THEN 'it hashes an enum, by numbers that are others in a restored database'
    END
$$;
COMMENT ON FUNCTION rollup_engine.passing_part(text, text, jsonb) IS
'What PostgreSQL takes for immutable in an expression, given as text (not where it is an old one) and as PostgreSQL writes it, and is not; NULL for nothing.';

CREATE OR REPLACE FUNCTION rollup_engine.describe_expression(p_rollup silver.rollup_config, p_label text, p_text text, p_known jsonb) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_row constant text := format('rollup_engine.tsrollup_row_%s', pg_backend_pid());
    v_path text;
    v_described jsonb;
    v_passing text;
    v_hint text;
BEGIN
    EXECUTE rollup_engine.row_table_sql(p_rollup, v_row, p_known);
    v_path := rollup_engine.path_of_expression(p_text, v_row, p_rollup.source_table);
    IF p_known IS NULL THEN
        v_described := rollup_engine.parse_expression(p_text, v_row, v_path);
    ELSE
        v_described := rollup_engine.parse_expression_again(p_text, v_row, v_path);
    END IF;
    EXECUTE format('DROP TABLE %s', v_row);
    -- A day that was far away is near now.
    v_passing := rollup_engine.passing_part(CASE WHEN p_known IS NULL THEN p_text END, v_described ->> 'template', v_described -> 'parts');
    IF v_passing IS NOT NULL THEN
        RAISE invalid_object_definition USING MESSAGE = v_passing;
    END IF;
    RETURN v_described;
EXCEPTION WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported OR program_limit_exceeded THEN
    GET STACKED DIAGNOSTICS v_hint = PG_EXCEPTION_HINT;
    IF SQLSTATE = '42501' AND v_hint = '' THEN  -- of the table that stands for a row
        SELECT min(format('GRANT USAGE ON TYPE %s TO %I', coalesce(nullif(t.typelem, 0), t.oid)::regtype, current_user)) INTO v_hint
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = p_rollup.source_table AND a.attnum > 0 AND NOT has_type_privilege(t.oid, 'USAGE');
    END IF;
    PERFORM rollup_engine.fail('TR001',
        format('%s: %s', p_label, regexp_replace(replace(split_part(SQLERRM, chr(10), 1), 'column "tsrollup_value"', 'it'), '(column )?generation expression', 'expression')),
        CASE
            WHEN SQLSTATE = '42P17' THEN 'it must say the same at any time and in any session: no now() or random(), no to_char(), no cast of a timestamptz to date or text; write days as in 2026-03-01; name the zone, as in (ts AT TIME ZONE ''Europe/Berlin'')::date'
            WHEN SQLERRM LIKE 'it uses %' AND SQLERRM NOT LIKE '%a system column%' THEN 'whoever owns that could change it, or make another one that is taken in its place, and it would run with the rights of the machinery: write it out with functions of PostgreSQL, if need be by their schema, as in pg_catalog.left(...), or of an extension that a superuser owns, if they take just these types and have no defaults; or read a generated column of the source'
            WHEN v_hint LIKE 'GRANT %' THEN v_hint
            WHEN SQLERRM LIKE 'a function in it %' THEN 'write it out with functions of PostgreSQL, or read a generated column of the source'
            WHEN p_rollup.parent_id IS NOT NULL THEN 'a rollup of a rollup has expressions over the bucket and the dimensions of its parent; for others, create it over the raw table'
            ELSE 'write one SQL expression over a row: its columns by their plain names, constants, operators, functions, CASE'
        END, p_text);
END
$$;
COMMENT ON FUNCTION rollup_engine.describe_expression(silver.rollup_config, text, text, jsonb) IS
'The described expression, which goes by names that its columns had when it was first described, or an error that names it and says what to do.';

CREATE OR REPLACE FUNCTION rollup_engine.check_expression_name(p_rollup silver.rollup_config, p_name text, p_value jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF octet_length(p_name) NOT BETWEEN 1 AND 63 THEN
        PERFORM rollup_engine.fail('TR001', format('expression %L has no name for a column', p_name), 'give a name of 1 to 63 bytes');
    ELSIF jsonb_typeof(p_value) <> 'string' THEN
        PERFORM rollup_engine.fail('TR001', format('expression %I is a JSON %s', p_name, jsonb_typeof(p_value)), 'write it as a string, as in ''{"region": "payload->>''''region''''"}''');
    -- Of a rollup whose source gained such a column since, the expression was first.
    ELSIF (p_rollup.row_sql -> 'expressions' -> p_name) IS NULL AND EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = p_rollup.source_table AND attname = p_name AND NOT attisdropped) THEN
        PERFORM rollup_engine.fail('TR001', format('expression %I: %s has a column of that name', p_name, p_rollup.source_table), 'give the expression another name');
    ELSIF p_name IN ('bucket', 'row_count', 'row_first_time', 'row_last_time') THEN
        PERFORM rollup_engine.fail('TR001', format('expression %I: each rollup has a column of that name', p_name), 'give the expression another name');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_expression_name(silver.rollup_config, text, jsonb) IS 'An error unless an expression can have that name.';

CREATE OR REPLACE FUNCTION rollup_engine.describe_rows(p_rollup silver.rollup_config) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone_abbreviations = 'Default'
AS $$
DECLARE
    v_expression record;
    v_described jsonb;
    v_result jsonb;
BEGIN
    IF jsonb_typeof(p_rollup.expressions) <> 'object' THEN
        PERFORM rollup_engine.fail('TR001', format('expressions is a JSON %s', jsonb_typeof(p_rollup.expressions)), 'write an object, as in ''{"region": "payload->>''''region''''"}''');
    END IF;
    -- Of names there nothing is found any more.
    PERFORM rollup_engine.fail('TR001', c.problem, c.hint) FROM rollup_engine.closed_schemas(p_rollup.row_sql) AS c;
    FOR v_expression IN SELECT key, value FROM jsonb_each(p_rollup.expressions) ORDER BY key LOOP
        PERFORM rollup_engine.check_expression_name(p_rollup, v_expression.key, v_expression.value);
        v_described := rollup_engine.describe_expression(p_rollup, format('expression %I', v_expression.key), v_expression.value #>> '{}', p_rollup.row_sql -> 'expressions' -> v_expression.key -> 'columns');
        v_result := jsonb_build_object('expressions', coalesce(v_result -> 'expressions', '{}') || jsonb_build_object(v_expression.key, v_described));
    END LOOP;
    IF p_rollup.filter IS NOT NULL THEN
        v_described := rollup_engine.describe_expression(p_rollup, 'filter', p_rollup.filter, p_rollup.row_sql -> 'filter' -> 'columns');
        IF rollup_engine.base_type(rollup_engine.type_called(v_described ->> 'type')) <> 'boolean'::regtype THEN
            PERFORM rollup_engine.fail('TR001', format('filter is of type %s', v_described ->> 'type'), 'write a condition, as in ''status = 0''; rows where it is true count');
        END IF;
        v_result := coalesce(v_result, '{}') || jsonb_build_object('filter', v_described);
    END IF;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION rollup_engine.describe_rows(silver.rollup_config) IS 'The expressions and the filter of a rollup, checked and described; NULL when there are none.';

CREATE OR REPLACE FUNCTION rollup_engine.describe_rows_again(p_rollup silver.rollup_config) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN rollup_engine.describe_rows(p_rollup);
EXCEPTION WHEN SQLSTATE 'TR001' THEN
    -- As they were; validation says what is wrong.
    RETURN p_rollup.row_sql || jsonb_build_object('problem', SQLERRM);
END
$$;
COMMENT ON FUNCTION rollup_engine.describe_rows_again(silver.rollup_config) IS 'The described expressions after the source has changed, or what is wrong with them now.';

RESET ROLE;
