-- Index advice: candidates from dimensions and from the filters that plans show, each tried as a
-- hypothetical index of hypopg's, the best one kept while the rest is tried again on top of it.
-- Nothing is created, and nothing but plans is made of the queries.
--
-- All of it is SECURITY INVOKER: planning runs the functions that a query names.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.hypopg_schema() RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_schema text := (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'hypopg');
BEGIN
    IF v_schema IS NULL THEN
        RAISE feature_not_supported USING
            MESSAGE = format('silver.suggest_indexes needs the extension hypopg, which database %s does not have', current_database()),
            HINT = 'Install it on the server, and as a superuser run: CREATE EXTENSION hypopg;';
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
        RETURN;
    END IF;

    relation := rollup_engine.find_table(p_name);
    read_through := relation;
    time_column := coalesce(
        (SELECT c.time_column FROM silver.rollup_config AS c WHERE c.source_table = relation LIMIT 1),
        rollup_engine.partition_column(relation));
    dimensions := ARRAY(
        SELECT d.dimension_column FROM silver.dimension_config AS d WHERE d.source_table = relation AND d.is_active
        UNION
        SELECT unnest(c.dimensions) FROM silver.rollup_config AS c WHERE c.source_table = relation);
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

-- Candidates ------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.index_candidates(p_relation regclass, p_time_column name, p_columns name[]) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH named AS (
        SELECT DISTINCT c AS name FROM unnest(p_columns) AS c WHERE c IS DISTINCT FROM p_time_column
    ),
    key (method, columns) AS (
        SELECT 'btree', ARRAY[name] FROM named
        UNION ALL
        SELECT 'btree', ARRAY[name, p_time_column] FROM named WHERE p_time_column IS NOT NULL
        UNION ALL
        SELECT 'btree', array_remove(ARRAY[a.name, b.name, p_time_column], NULL)
        FROM named AS a JOIN named AS b ON a.name <> b.name
        WHERE (SELECT count(*) FROM named) <= 6
        UNION ALL
        SELECT method, ARRAY[p_time_column] FROM unnest(ARRAY['btree', 'brin']) AS method
        WHERE p_time_column IS NOT NULL
    )
    SELECT ARRAY(
        SELECT format('CREATE INDEX ON %s USING %s (%s)', p_relation, k.method,
            (SELECT string_agg(quote_ident(c), ', ' ORDER BY n) FROM unnest(k.columns) WITH ORDINALITY AS u (c, n)))
        FROM key AS k
        WHERE NOT EXISTS (
            SELECT FROM pg_index AS i
            JOIN pg_class AS x ON x.oid = i.indexrelid
            JOIN pg_am AS m ON m.oid = x.relam AND m.amname = k.method
            WHERE i.indrelid = p_relation AND i.indpred IS NULL
                AND k.columns = ARRAY(
                    SELECT a.attname
                    FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS u (attnum, n)
                    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
                    WHERE u.n <= cardinality(k.columns)
                    ORDER BY u.n)))
$$;
COMMENT ON FUNCTION rollup_engine.index_candidates(regclass, name, name[]) IS
'Statements for the indexes worth a try: columns alone, with time, in pairs; none that begins like one that is there.';

-- The search ------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.try_index(
    p_hypopg text,
    p_statement text,
    p_queries text[],
    p_path text,
    OUT index_id oid,
    OUT index_size bigint,
    OUT costs double precision[]
)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('SELECT indexrelid, %1$s.hypopg_relation_size(indexrelid) FROM %1$s.hypopg_create_index($1)', p_hypopg)
    INTO index_id, index_size
    USING p_statement;
    costs := ARRAY(
        SELECT rollup_engine.plan_cost(rollup_engine.plan_query(q, p_path))
        FROM unnest(p_queries) WITH ORDINALITY AS u (q, n)
        ORDER BY n);
EXCEPTION WHEN undefined_object OR feature_not_supported THEN
    -- A type that such an index does not take.
    index_id := NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.try_index(text, text, text[], text) IS
'Makes a hypothetical index and says what each query costs with it.';

CREATE OR REPLACE FUNCTION rollup_engine.best_index(
    p_hypopg text,
    p_candidates text[],
    p_queries text[],
    p_costs double precision[],
    p_path text,
    OUT statement text,
    OUT index_size bigint,
    OUT costs double precision[]
)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_statement text;
    v_try record;
    v_saved double precision;
    -- Less than a tenth off the cost of one query is within what the planner is wrong by.
    v_best double precision := ln(1 / 0.9);
BEGIN
    FOREACH v_statement IN ARRAY p_candidates LOOP
        SELECT * INTO v_try FROM rollup_engine.try_index(p_hypopg, v_statement, p_queries, p_path);
        CONTINUE WHEN v_try.index_id IS NULL;
        EXECUTE format('SELECT %s.hypopg_drop_index($1)', p_hypopg) USING v_try.index_id;
        -- The gain in orders of magnitude: from 50 to 15 counts as much as from 5,000 to 1,500.
        SELECT sum(ln(before / after)) INTO v_saved
        FROM unnest(p_costs, v_try.costs) AS u (before, after)
        WHERE before > 0 AND after > 0;
        -- Of two that save alike, the smaller.
        IF v_saved > v_best + 0.1 OR (v_saved > v_best - 0.1 AND v_try.index_size < index_size)
            OR (v_saved > v_best AND statement IS NULL)
        THEN
            statement := v_statement;
            index_size := v_try.index_size;
            costs := v_try.costs;
            v_best := v_saved;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.best_index(text, text[], text[], double precision[], text) IS
'The candidate that saves most, summed over the queries; NULL when none is worth it.';

CREATE OR REPLACE FUNCTION rollup_engine.drop_hypothetical(p_hypopg text, p_but oid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('SELECT %1$s.hypopg_drop_index(indexrelid) FROM %1$s.hypopg() WHERE indexrelid <> ALL (coalesce($1, ''{}''))', p_hypopg)
    USING p_but;
END
$$;
COMMENT ON FUNCTION rollup_engine.drop_hypothetical(text, oid[]) IS 'Drops hypothetical indexes but those that were there before.';

CREATE OR REPLACE FUNCTION rollup_engine.suggest(p_table_name text, p_queries text[], p_path text)
RETURNS TABLE (
    create_index text,
    index_size bigint,
    query text,
    cost_before double precision,
    cost_after double precision
)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_hypopg text := rollup_engine.hypopg_schema();
    v_subject record;
    v_queries text[];
    v_candidates text[];
    v_costs double precision[];
    v_best record;
    v_before oid[];
BEGIN
    EXECUTE format('SELECT array_agg(indexrelid) FROM %s.hypopg()', v_hypopg) INTO v_before;
    SELECT * INTO v_subject FROM rollup_engine.index_subject(p_table_name);
    v_queries := rollup_engine.advisable_queries(v_subject.read_through, v_subject.time_column, v_subject.dimensions, p_queries, p_path);
    v_candidates := rollup_engine.index_candidates(v_subject.relation, v_subject.time_column, v_subject.dimensions || ARRAY(
        SELECT unnest(rollup_engine.filtered_columns(v_subject.relation, rollup_engine.plan_query(q, p_path)))
        FROM unnest(v_queries) AS q));
    v_costs := ARRAY(
        SELECT rollup_engine.plan_cost(rollup_engine.plan_query(q, p_path)) FROM unnest(v_queries) WITH ORDINALITY AS u (q, n) ORDER BY n);

    FOR v_round IN 1 .. 3 LOOP
        SELECT * INTO v_best FROM rollup_engine.best_index(v_hypopg, v_candidates, v_queries, v_costs, p_path);
        EXIT WHEN v_best.statement IS NULL;
        RETURN QUERY
            SELECT v_best.statement, v_best.index_size, u.q, u.before, u.after
            FROM unnest(v_queries, v_costs, v_best.costs) AS u (q, before, after)
            WHERE u.after < u.before * 0.9
            ORDER BY u.before - u.after DESC;
        -- The next one is judged on top of those suggested already.
        PERFORM rollup_engine.try_index(v_hypopg, v_best.statement, '{}', p_path);
        v_candidates := array_remove(v_candidates, v_best.statement);
        v_costs := v_best.costs;
    END LOOP;
    PERFORM rollup_engine.drop_hypothetical(v_hypopg, v_before);
EXCEPTION WHEN OTHERS OR query_canceled THEN  -- hypothetical indexes outlive the transaction
    PERFORM rollup_engine.drop_hypothetical(v_hypopg, v_before);
    RAISE;
END
$$;
COMMENT ON FUNCTION rollup_engine.suggest(text, text[], text) IS 'What suggest_indexes does.';

RESET ROLE;
