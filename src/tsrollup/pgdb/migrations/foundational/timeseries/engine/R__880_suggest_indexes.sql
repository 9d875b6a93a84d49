-- Index advice: candidates from dimensions and from the filters that plans show, each tried as a
-- hypothetical index of hypopg's, the best one kept while the rest is tried again on top of it.
-- Nothing is created, and nothing but plans is made of the queries.
--
-- All of it is SECURITY INVOKER: planning runs the functions that a query names.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

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
