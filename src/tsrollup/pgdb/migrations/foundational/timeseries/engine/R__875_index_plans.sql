-- What index advice looks at: a table, the queries on it, and their plans.
--
-- All of it is SECURITY INVOKER: planning runs the functions that a query names.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.hypopg_schema() RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_schema constant text := (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'hypopg');
    v_stranger constant name := rollup_engine.stranger_in_extension('hypopg');
BEGIN
    IF v_schema IS NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = format('silver.suggest_indexes needs the extension hypopg, which database %s does not have', current_database()),
            HINT = 'Install it on the server, and as a superuser run: CREATE EXTENSION hypopg;';
    ELSIF v_stranger IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('the extension hypopg, or a function beside it in schema %s, belongs to %I, and would run with the rights of whoever asks', v_schema, v_stranger),
            format('drop the function, or have a superuser create the extension in a schema of its own; is he to be trusted: GRANT %I TO %I', '${owner_role}', v_stranger));
    END IF;
    RETURN v_schema;
END
$$;
COMMENT ON FUNCTION rollup_engine.hypopg_schema() IS 'Where hypopg is installed, or an error.';

-- What to look at -------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.index_subject(
    p_name text,
    OUT relation regclass,
    OUT time_column name,
    OUT dimensions name[],
    OUT read_through regclass
)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT c.target_table, 'bucket', c.dimensions, c.target_view
    INTO relation, time_column, dimensions, read_through
    FROM silver.rollup_config AS c
    WHERE c.id = rollup_engine.find_rollup_id(p_name);
    IF relation IS NOT NULL THEN
        PERFORM rollup_engine.check_view(c) FROM silver.rollup_config AS c WHERE c.target_table = relation;
        RETURN;
    END IF;

    relation := rollup_engine.find_table(p_name);
    read_through := relation;
    time_column := coalesce(
        (SELECT r.current_name
            FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.resolved_columns(s) AS r
            WHERE s.relation = index_subject.relation AND r.noted_name = s.time_column AND r.current_name IS NOT NULL
            LIMIT 1),
        rollup_engine.partition_column(relation));
    -- What rollups know by a name may be called otherwise by now, be gone, or be an expression.
    dimensions := ARRAY(
        SELECT DISTINCT a.attname
        FROM (
            SELECT d.dimension_column FROM silver.dimension_config AS d WHERE d.source_table = relation AND d.is_active
            UNION
            SELECT unnest(c.dimensions) FROM silver.rollup_config AS c WHERE c.source_table = relation
        ) AS known (name)
        LEFT JOIN (rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.resolved_columns(s) AS r)
            ON s.relation = index_subject.relation AND r.column_name = known.name
        JOIN pg_attribute AS a ON a.attrelid = index_subject.relation AND a.attname = coalesce(r.current_name, known.name) AND NOT a.attisdropped);
END
$$;
COMMENT ON FUNCTION rollup_engine.index_subject(text) IS
'Table to index, its time column and dimensions, and the relation that queries name for it.';

-- Plans -----------------------------------------------------------------------------
-- Queries mean what they mean to the caller, whose search_path is handed down to where they are planned.

-- By the parser itself: a cursor that cannot be opened says why before anything runs.
CREATE OR REPLACE FUNCTION rollup_engine.is_one_statement(p_query text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
DECLARE
    v_query text;
    v_cursor refcursor;
    v_messages text[] := '{}';
BEGIN
    FOREACH v_query IN ARRAY ARRAY['SELECT', p_query] LOOP
        BEGIN
            OPEN v_cursor FOR EXECUTE 'PREPARE tsrollup_advice AS ' || v_query;
        EXCEPTION WHEN invalid_cursor_definition THEN
            v_messages := v_messages || SQLERRM;
        END;
    END LOOP;
    RETURN v_messages[1] = v_messages[2];
END
$$;
COMMENT ON FUNCTION rollup_engine.is_one_statement(text) IS 'Whether a text is one statement, whatever its strings and comments hold.';

CREATE OR REPLACE FUNCTION rollup_engine.plan_query(p_query text, p_path text) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
DECLARE
    v_parameters integer;
    v_sql text;
    v_plan json;
BEGIN
    IF p_query IS NULL THEN
        PERFORM rollup_engine.fail('TR001', 'a query is NULL', 'give the text of each, or no list for those that were seen');
    ELSIF NOT rollup_engine.is_one_statement(p_query) THEN
        PERFORM rollup_engine.fail('TR001', 'a query holds more than one statement',
            'give each statement as an element of its own', p_query);
    END IF;
    BEGIN
        -- Generic plans take $1 as it stands in pg_stat_statements.
        v_sql := 'PREPARE tsrollup_advice AS ' || p_query;
        PERFORM set_config('search_path', p_path, true);
        EXECUTE v_sql;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        SELECT cardinality(parameter_types) INTO v_parameters FROM pg_prepared_statements WHERE name = 'tsrollup_advice';
        v_sql := 'EXPLAIN (FORMAT JSON) EXECUTE tsrollup_advice'
            || CASE WHEN v_parameters > 0 THEN '(' || rtrim(repeat('NULL,', v_parameters), ',') || ')' ELSE '' END;
        PERFORM set_config('tsrollup.advising', 'on', true), set_config('search_path', p_path, true);
        EXECUTE v_sql INTO v_plan;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('tsrollup.advising', '', true);
    EXCEPTION WHEN OTHERS OR query_canceled THEN  -- prepared statements outlive the transaction
        IF EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'tsrollup_advice') THEN
            DEALLOCATE tsrollup_advice;
        END IF;
        RAISE;
    END;
    DEALLOCATE tsrollup_advice;
    RETURN v_plan;
END
$$;
COMMENT ON FUNCTION rollup_engine.plan_query(text, text) IS 'The generic plan of one statement, as EXPLAIN shows it in JSON.';

CREATE OR REPLACE FUNCTION rollup_engine.plan_cost(p_plan jsonb) RETURNS double precision
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (p_plan -> 0 -> 'Plan' ->> 'Total Cost')::double precision
$$;

CREATE OR REPLACE FUNCTION rollup_engine.filtered_columns(p_relation regclass, p_plan jsonb) RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(
        SELECT a.attname
        FROM pg_attribute AS a
        WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
            AND EXISTS (
                SELECT FROM jsonb_path_query(p_plan, '$.** ? (@.type() == "object").keyvalue() ? (@.key like_regex "Filter|Cond$|Sort Key")') AS clause
                WHERE (clause ->> 'value') ~ rollup_engine.pattern_for_word(a.attname)))
$$;
COMMENT ON FUNCTION rollup_engine.filtered_columns(regclass, jsonb) IS 'Columns of a table that a plan filters, joins or sorts by.';

-- A query that was seen may fail by now, or be none of the caller's business; a given one may not.
CREATE OR REPLACE FUNCTION rollup_engine.can_plan(p_query text, p_path text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.plan_query(p_query, p_path);
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.can_plan(text, text) IS 'Whether the caller could run that query now.';

CREATE OR REPLACE FUNCTION rollup_engine.advisable_queries(
    p_relation regclass,
    p_time_column name,
    p_dimensions name[],
    p_given text[],
    p_path text
) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_queries text[] := p_given;
BEGIN
    IF v_queries IS NULL THEN
        v_queries := ARRAY(
            SELECT q FROM unnest(rollup_engine.seen_queries(p_relation, false)) AS q WHERE rollup_engine.can_plan(q, p_path));
        IF v_queries = '{}' THEN
            -- A column of such a type as json has no equality.
            v_queries := rollup_engine.typical_queries(p_relation, p_time_column, p_dimensions) || ARRAY(
                SELECT q FROM unnest(rollup_engine.typical_queries(p_relation, p_time_column,
                    rollup_engine.columns_others_filter_by(p_relation, p_time_column, p_dimensions))) AS q
                WHERE rollup_engine.can_plan(q, p_path));
        END IF;
    END IF;
    RETURN v_queries;
END
$$;
COMMENT ON FUNCTION rollup_engine.advisable_queries(regclass, name, name[], text[], text) IS
'The given queries, else those seen, else typical ones.';

RESET ROLE;
