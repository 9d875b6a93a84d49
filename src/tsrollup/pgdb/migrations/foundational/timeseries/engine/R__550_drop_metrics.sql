-- Taking metrics out of a rollup: the states that nothing else needs, the columns of its live view,
-- and, of the source, what no rollup reads any more.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.is_metric(p_metric jsonb, p_asked jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_metric = p_asked OR jsonb_typeof(p_metric) = 'object' AND p_asked #>> '{}' = coalesce(p_metric ->> 'as', p_metric ->> 'name')
$$;
COMMENT ON FUNCTION rollup_engine.is_metric(jsonb, jsonb) IS 'Whether an aggregate of a rollup is the one that is asked for, in full or by its name.';

CREATE OR REPLACE FUNCTION rollup_engine.without_metrics(p_rollup silver.rollup_config, p_metrics jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_entry record;
    v_columns text[];
    v_unknown jsonb;
    v_left jsonb := p_rollup.metrics;
BEGIN
    IF p_metrics IS NULL OR jsonb_typeof(p_metrics) <> 'object' OR p_metrics = '{}' THEN
        PERFORM rollup_engine.fail('TR001', format('metrics is %s', coalesce(p_metrics::text, 'NULL')), 'write an object, as in ''{"temp": ["avg", "max"]}''');
    END IF;
    FOR v_entry IN SELECT key, CASE jsonb_typeof(value) WHEN 'array' THEN value ELSE jsonb_build_array(value) END AS value FROM jsonb_each(p_metrics) LOOP
        -- By the name that the column has now, or had when they were added.
        SELECT array_agg(k.key) INTO v_columns
        FROM unnest(ARRAY[v_entry.key, lower(v_entry.key)]) WITH ORDINALITY AS asked (name, place)
        JOIN jsonb_object_keys(v_left) AS k (key) ON asked.name IN (k.key, quote_ident(k.key), rollup_engine.source_name(p_rollup, k.key::name))
        GROUP BY asked.place ORDER BY asked.place LIMIT 1;
        IF v_columns IS NULL AND p_rollup.expressions ? v_entry.key AND v_entry.key <> ALL (p_rollup.dimensions) THEN
            CONTINUE;  -- which nothing is made of
        ELSIF v_columns IS NULL THEN
            PERFORM rollup_engine.fail('TR002', format('%s has no metrics of %I', p_rollup.target_table, v_entry.key),
                format('its metrics are %s', p_rollup.metrics));
        END IF;
        SELECT asked INTO v_unknown FROM jsonb_array_elements(v_entry.value) AS asked
        WHERE NOT EXISTS (SELECT FROM unnest(v_columns) AS c, jsonb_array_elements(v_left -> c) AS m WHERE rollup_engine.is_metric(m, asked)) LIMIT 1;
        IF v_unknown IS NOT NULL OR v_entry.value = '[]' THEN
            PERFORM rollup_engine.fail('TR002', format('%s has no metric %s of %I', p_rollup.target_table, coalesce(v_unknown, '[]'), v_entry.key),
                format('its metrics of that are %s', (SELECT string_agg((p_rollup.metrics -> c)::text, ', ') FROM unnest(v_columns) AS c)));
        END IF;
        v_left := (
            SELECT coalesce(jsonb_object_agg(key, items), '{}')
            FROM (
                SELECT m.key, jsonb_agg(i.item)
                FROM jsonb_each(v_left) AS m, jsonb_array_elements(m.value) AS i (item)
                WHERE m.key <> ALL (v_columns)
                    OR NOT EXISTS (SELECT FROM jsonb_array_elements(v_entry.value) AS asked WHERE rollup_engine.is_metric(i.item, asked))
                GROUP BY m.key
            ) AS kept (key, items));
    END LOOP;
    RETURN v_left;
END
$$;
COMMENT ON FUNCTION rollup_engine.without_metrics(silver.rollup_config, jsonb) IS 'The metrics of a rollup without the given ones, or an error where it does not have those.';

CREATE OR REPLACE FUNCTION rollup_engine.without_unused_expressions(p_rollup silver.rollup_config, p_metrics jsonb) RETURNS silver.rollup_config
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r silver.rollup_config := p_rollup;
    v_unused constant text[] := ARRAY(
        SELECT key FROM jsonb_object_keys(r.expressions) AS key
        WHERE p_metrics ? key AND key <> ALL (r.dimensions) AND NOT r.metrics ? key);
BEGIN
    IF v_unused <> '{}' THEN
        r.expressions := nullif(r.expressions - v_unused, '{}');
        r.row_sql := jsonb_set(r.row_sql, '{expressions}', (r.row_sql -> 'expressions') - v_unused);
        r.row_sql := rollup_engine.describe_rows_again(r);
    END IF;
    RETURN r;
END
$$;
COMMENT ON FUNCTION rollup_engine.without_unused_expressions(silver.rollup_config, jsonb) IS 'A rollup without the expressions that are named there and that nothing is made of any more.';

CREATE OR REPLACE FUNCTION rollup_engine.check_children_can_do_without(p_rollup silver.rollup_config, p_columns name[]) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_child regclass;
    v_columns text;
BEGIN
    SELECT c.target_table, string_agg(DISTINCT quote_ident(own.column_name), ', ') INTO v_child, v_columns
    FROM silver.rollup_config AS c
    JOIN rollup_engine.rollup_column AS k ON k.rollup_id = c.id AND k.kind = 'state'
    JOIN rollup_engine.rollup_column AS own ON own.rollup_id = p_rollup.id AND own.kind = 'state' AND own.column_name = ANY (p_columns)
        AND (own.source_column, own.state) IS NOT DISTINCT FROM (k.source_column, k.state)
    WHERE c.parent_id = p_rollup.id
    GROUP BY c.id, c.target_table ORDER BY c.id LIMIT 1;
    IF v_child IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR003', format('%s reads %s of %s', v_child, v_columns, p_rollup.target_table),
            format('drop its metrics of that first: SELECT silver.drop_rollup_metric(%L, ...)', v_child));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_children_can_do_without(silver.rollup_config, name[]) IS 'An error that names a rollup which reads one of the columns.';

CREATE OR REPLACE FUNCTION rollup_engine.drop_columns(p_rollup silver.rollup_config, p_columns name[]) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_names constant name[] := ARRAY(
        SELECT v.column_name
        FROM rollup_engine.view_columns(p_rollup) AS v
        JOIN (
            SELECT column_name, row_number() OVER (ORDER BY position) AS place FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id
        ) AS c ON c.place = v.place AND c.column_name <> ALL (p_columns)
        ORDER BY v.place);
    v_changes text;
BEGIN
    DELETE FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND column_name = ANY (p_columns);
    SELECT string_agg(format('DROP COLUMN %I', attname), ', ' ORDER BY attnum) INTO v_changes
    FROM pg_attribute WHERE attrelid = p_rollup.target_table AND attnum > 0 AND NOT attisdropped AND attname = ANY (p_columns);
    PERFORM rollup_engine.note_rows(p_rollup);
    UPDATE silver.rollup_config SET metrics = p_rollup.metrics, expressions = p_rollup.expressions, row_sql = p_rollup.row_sql WHERE id = p_rollup.id;
    PERFORM rollup_engine.forget_columns(p_rollup.source_id);
    PERFORM rollup_engine.follow_columns(p_rollup);
    IF p_columns = '{}' THEN
        RETURN p_rollup.target_view;
    ELSIF NOT rollup_engine.is_relation(p_rollup.target_view) THEN
        RETURN rollup_engine.restore_view(p_rollup, v_changes);
    END IF;
    PERFORM rollup_engine.check_no_view_depends(p_rollup, 'loses columns', 'drop what rests on it, drop the metrics, and create that again');
    RETURN rollup_engine.replace_view(p_rollup, v_changes, v_names);
END
$$;
COMMENT ON FUNCTION rollup_engine.drop_columns(silver.rollup_config, name[]) IS
'Takes columns from the table and the live view of a rollup, whose metrics need them no more; the view that is made anew, as people have it.';

CREATE OR REPLACE FUNCTION rollup_engine.drop_metrics(p_rollup_id integer, p_metrics jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    r silver.rollup_config;
    v_before jsonb;
    v_columns name[];
    v_gone text;
    v_left jsonb;
    v_dependents text;
BEGIN
    SELECT * INTO r FROM silver.rollup_config WHERE id = p_rollup_id;
    PERFORM rollup_engine.fail_if_gone(r);
    PERFORM rollup_engine.look_at_source(r.source_id);
    PERFORM rollup_engine.lock_views(ARRAY(SELECT rollup_engine.with_descendants(r.id)));
    SELECT * INTO r FROM silver.rollup_config WHERE id = r.id;  -- as it is now
    v_before := r.metrics;
    r.metrics := rollup_engine.without_metrics(r, p_metrics);
    r := rollup_engine.without_unused_expressions(r, v_before || p_metrics);
    SELECT string_agg(DISTINCT format('%I', source_column), ', '), jsonb_object_agg(source_column, v_before -> source_column::text) INTO v_gone, v_left
    FROM rollup_engine.metric_aggregates(r) AS m WHERE (m.aggregate).name IS NULL;
    IF v_gone IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('%s is left with metrics of %s that %s does not allow any more', r.target_table, v_gone, r.source_table),
            format('drop all of those in the same call: SELECT silver.drop_rollup_metric(%L, %L)', r.target_table, p_metrics || v_left));
    END IF;
    v_columns := ARRAY(
        SELECT column_name FROM rollup_engine.rollup_column WHERE rollup_id = r.id
        EXCEPT
        SELECT p.column_name FROM rollup_engine.source AS s, rollup_engine.plan_columns(r, s.time_type) AS p WHERE s.id = r.source_id);
    PERFORM rollup_engine.check_children_can_do_without(r, v_columns);
    r.target_view := rollup_engine.drop_columns(r, v_columns);
    UPDATE silver.rollup_config SET target_view = r.target_view WHERE id = r.id;
    -- Those that read it name each of its columns.
    PERFORM rollup_engine.follow_columns(c) FROM silver.rollup_config AS c WHERE c.parent_id = r.id;
    PERFORM silver.reset_rollup_retry(c.target_table::text)  -- it may have failed for what is mended
    FROM silver.rollup_config AS c WHERE c.id IN (SELECT rollup_engine.with_descendants(r.id)) AND c.retry_count > 0;
EXCEPTION WHEN dependent_objects_still_exist THEN
    GET STACKED DIAGNOSTICS v_dependents = PG_EXCEPTION_DETAIL;
    PERFORM rollup_engine.fail('TR003', format('metrics of %s cannot be dropped: %s', r.target_table, replace(v_dependents, E'\n', ', ')),
        'drop what rests on it, drop the metrics, and create that again');
END
$$;
COMMENT ON FUNCTION rollup_engine.drop_metrics(integer, jsonb) IS 'Drops metrics of a rollup; what it stores for others stays exact, and is not computed anew.';

RESET ROLE;
