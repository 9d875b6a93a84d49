-- Adding metrics to a rollup.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.check_publishing(p_rollup silver.rollup_config, p_metrics jsonb, p_role name) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_columns text;
BEGIN
    -- A rollup of a rollup shows nothing that its parent does not.
    IF p_rollup.parent_id IS NOT NULL OR pg_has_role(p_role, '${owner_role}', 'USAGE') THEN
        RETURN;
    END IF;
    SELECT string_agg(format('%I', rollup_engine.source_name(p_rollup, key)), ', ' ORDER BY key) INTO v_columns
    FROM unnest(rollup_engine.columns_behind(p_rollup.row_sql, ARRAY(SELECT jsonb_object_keys(p_metrics)::name))) AS key
    WHERE NOT has_column_privilege(p_role, p_rollup.source_table, rollup_engine.source_name(p_rollup, key), 'SELECT');
    IF v_columns IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('%I may not publish %s of %s', p_role, v_columns, p_rollup.source_table),
            format('GRANT SELECT (%s) ON %s TO %I, or GRANT %I TO %3$I', v_columns, p_rollup.source_table, p_role, '${owner_role}'));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_publishing(silver.rollup_config, jsonb, name) IS 'An error unless the role may read the columns itself, or creates rollups.';

CREATE OR REPLACE FUNCTION rollup_engine.with_expressions(p_rollup silver.rollup_config, p_request rollup_engine.metric_request)
RETURNS silver.rollup_config
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r silver.rollup_config := p_rollup;
    v_known constant jsonb := (rollup_engine.named_as_now(p_rollup)).expressions;
    v_name text;
BEGIN
    IF p_request.expressions IS NULL THEN
        RETURN r;
    END IF;
    -- They run with its rights, the first time when they are parsed.
    PERFORM rollup_engine.check_owner_role('add expressions', p_request.requested_by);
    IF jsonb_typeof(p_request.expressions) <> 'object' THEN
        PERFORM rollup_engine.fail('TR001', format('expressions is a JSON %s', jsonb_typeof(p_request.expressions)),
            'write an object, as in ''{"failed": "CASE WHEN status >= 500 THEN 1 END"}''');
    END IF;
    SELECT min(key) INTO v_name FROM jsonb_each(p_request.expressions) WHERE value <> ALL (ARRAY[r.expressions -> key, v_known -> key]);
    IF v_name IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR003', format('expression %I of %s is another one already: %s', v_name, r.target_table, v_known -> v_name),
            'give it another name');
    END IF;
    SELECT min(key) INTO v_name FROM jsonb_object_keys(p_request.expressions) AS key
    WHERE NOT coalesce(r.expressions ? key, false) AND NOT p_request.metrics ? key;
    IF v_name IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR001', format('expression %I is in none of the metrics', v_name), 'name it there, or leave it out');
    END IF;
    r.expressions := p_request.expressions || coalesce(r.expressions, '{}');
    r.row_sql := rollup_engine.describe_rows(r);
    RETURN r;
END
$$;
COMMENT ON FUNCTION rollup_engine.with_expressions(silver.rollup_config, rollup_engine.metric_request) IS
'A rollup with the expressions that metrics to add are of, checked and described.';

CREATE OR REPLACE FUNCTION rollup_engine.try_columns(p_rollup silver.rollup_config, p_columns name[]) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone_abbreviations = 'Default'
AS $$
BEGIN
    EXECUTE format('SELECT %s FROM (SELECT * FROM %s LIMIT 1000) AS tsrollup WHERE %s HAVING true',
        (SELECT string_agg(expression, ', ') FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND column_name = ANY (p_columns)),
        p_rollup.source_table,
        rollup_engine.time_condition(p_rollup, 'timestamptz ''-infinity''', 'timestamptz ''infinity''') || rollup_engine.row_filter(p_rollup));
EXCEPTION WHEN data_exception THEN
    PERFORM rollup_engine.fail('TR001', format('these metrics fail on rows of %s: %s', p_rollup.source_table, SQLERRM),
        'each refresh and each read would fail: write them so that every row has a value, or NULL');
END
$$;
COMMENT ON FUNCTION rollup_engine.try_columns(silver.rollup_config, name[]) IS 'An error where new columns of a rollup cannot be computed for some rows of its source that count.';

CREATE OR REPLACE FUNCTION rollup_engine.add_metrics(p_request_id bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_request rollup_engine.metric_request;
    r silver.rollup_config;
    v_added jsonb;
    v_column record;
BEGIN
    DELETE FROM rollup_engine.metric_request WHERE id = p_request_id RETURNING * INTO v_request;
    SELECT * INTO r FROM silver.rollup_config WHERE id = v_request.rollup_id;
    PERFORM rollup_engine.fail_if_gone(r);
    PERFORM rollup_engine.look_at_source(r.source_id);
    SELECT * INTO r FROM silver.rollup_config WHERE id = r.id;  -- as it is now
    r := rollup_engine.with_expressions(r, v_request);
    v_added := rollup_engine.resolve_metrics(r.source_table, r.time_column, r.parent_id, r.dimensions, v_request.metrics, r.row_sql);
    PERFORM rollup_engine.check_publishing(r, v_added, v_request.requested_by);
    SELECT r.metrics || jsonb_object_agg(key, (
        SELECT jsonb_agg(DISTINCT a) FROM jsonb_array_elements(coalesce(r.metrics -> key, '[]') || value) AS a))
    INTO r.metrics FROM jsonb_each(v_added);
    PERFORM rollup_engine.record_columns(r);
    PERFORM rollup_engine.check_row_security(relation) FROM rollup_engine.source WHERE id = r.source_id;
    PERFORM rollup_engine.try_columns(r, ARRAY(
        SELECT column_name FROM rollup_engine.rollup_column WHERE rollup_id = r.id AND kind = 'state'
        EXCEPT
        SELECT attname FROM pg_attribute WHERE attrelid = r.target_table));
    PERFORM rollup_engine.check_view(r);
    PERFORM rollup_engine.lock_views(ARRAY[r.id]);
    IF rollup_engine.distribution_column(r.target_table) IS NOT NULL THEN
        -- Citus adds none below a view, whose functions it would make on the workers.
        r.target_view := rollup_engine.replace_view(r, (
            SELECT string_agg(format('ADD COLUMN %I %s', column_name, data_type), ', ' ORDER BY position)
            FROM rollup_engine.rollup_column AS c
            WHERE c.rollup_id = r.id AND c.kind = 'state' AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = r.target_table AND attname = c.column_name)));
    ELSE
        FOR v_column IN
            SELECT column_name, data_type FROM rollup_engine.rollup_column AS c
            WHERE c.rollup_id = r.id AND c.kind = 'state'
                AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = r.target_table AND attname = c.column_name)
            ORDER BY c.position
        LOOP
            BEGIN
                PERFORM rollup_engine.change_table('ALTER TABLE', r.target_table, format('ADD COLUMN %I %s', v_column.column_name, v_column.data_type));
            EXCEPTION WHEN not_null_violation OR check_violation THEN
                PERFORM rollup_engine.fail('TR004', format('%I is of %s, which takes no NULL: what rows that are stored hold until they are computed anew', v_column.column_name, v_column.data_type),
                    'create another rollup, with this metric from the start');
            END;
        END LOOP;
        PERFORM rollup_engine.create_view(r, r.target_view::text);
    END IF;
    PERFORM rollup_engine.note_rows(r);
    UPDATE silver.rollup_config AS c
    SET metrics = r.metrics, target_view = r.target_view, expressions = r.expressions, row_sql = r.row_sql, refresh_sql = rollup_engine.grouped_sql(r, r.source_table::text, '$1', '$2')
    WHERE c.id = r.id;
    PERFORM rollup_engine.note_zones(r);
    -- Those of rollups that read it name its columns.
    PERFORM rollup_engine.write_live_functions(c) FROM silver.rollup_config AS c WHERE c.id IN (SELECT rollup_engine.with_descendants(r.id)) AND c.id <> r.id;
    PERFORM rollup_engine.look_at_source(r.source_id);  -- the new columns as well
    PERFORM rollup_engine.mark_new(r.id, rollup_engine.told_by_source(r.source_id));
END
$$;
COMMENT ON FUNCTION rollup_engine.add_metrics(bigint) IS 'Does what a request asks for, if who made it may.';

CREATE OR REPLACE FUNCTION rollup_engine.request_metrics(p_target text, p_metrics jsonb, p_expressions jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_request_id bigint;
BEGIN
    IF p_metrics IS NULL OR p_metrics = '{}' THEN
        PERFORM rollup_engine.fail('TR001', format('metrics is %s', coalesce(p_metrics::text, 'NULL')), 'write an object, as in ''{"temp": ["avg", "max"]}''');
    END IF;
    INSERT INTO rollup_engine.metric_request (rollup_id, metrics, expressions) VALUES (rollup_engine.rollup_id(p_target), p_metrics, p_expressions)
    RETURNING id INTO v_request_id;
    PERFORM rollup_engine.add_metrics(v_request_id);
END
$$;
COMMENT ON FUNCTION rollup_engine.request_metrics(text, jsonb, jsonb) IS 'What add_rollup_metric does: with its caller''s name, and rights, in the request.';

RESET ROLE;
