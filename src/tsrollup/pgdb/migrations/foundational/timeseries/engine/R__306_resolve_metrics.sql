-- From what people type as metrics to checked ones, by column.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

DROP FUNCTION IF EXISTS rollup_engine.check_metric(regclass, integer, text, text);

CREATE OR REPLACE FUNCTION rollup_engine.is_numeric(p_type oid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.base_type(p_type) IN ('int2', 'int4', 'int8', 'float4', 'float8', 'numeric')
$$;

DROP FUNCTION IF EXISTS rollup_engine.default_metrics(regclass, name, name[]);
CREATE OR REPLACE FUNCTION rollup_engine.default_metrics(p_relation regclass, p_time_column name, p_dimensions name[], p_row_sql jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(column_name,
        CASE WHEN rollup_engine.is_numeric(type) THEN '["count", "sum", "min", "max", "avg"]'::jsonb ELSE '["last"]' END), '{}')
    FROM rollup_engine.row_columns(p_relation, p_row_sql)
    WHERE column_name <> p_time_column AND column_name <> ALL (p_dimensions)
$$;
COMMENT ON FUNCTION rollup_engine.default_metrics(regclass, name, name[], jsonb) IS 'count, sum, min, max, avg of every numeric column or expression that is no dimension; last of every other one.';

CREATE OR REPLACE FUNCTION rollup_engine.check_metric(p_relation regclass, p_parent_id integer, p_column text, p_item jsonb, p_row_sql jsonb) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name constant text := rollup_engine.metric_marks(p_item) ->> 'aggregate';
    v_column name := p_column;
    v_type oid;
BEGIN
    IF p_parent_id IS NULL THEN
        v_column := rollup_engine.find_column(p_relation, p_column, 'metric column', p_row_sql);
        v_type := (SELECT type FROM rollup_engine.row_columns(p_relation, p_row_sql) WHERE column_name = v_column);
    END IF;
    IF (rollup_engine.find_aggregate(p_item, v_column, v_type, p_parent_id)).name IS NOT NULL THEN
        IF v_name = 'custom' THEN
            PERFORM rollup_engine.check_custom(v_column, p_item, v_type, p_parent_id);
        END IF;
        RETURN v_column;
    ELSIF p_parent_id IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR001', format('%s does not hold what %s of column %I needs', p_relation, rollup_engine.metric_name(p_item), p_column),
            'add it to the parent first: SELECT silver.add_rollup_metric(...), or leave it out');
    END IF;
    PERFORM rollup_engine.fail('TR001',
        format('%s needs %s, and column %I of %s is none', rollup_engine.metric_name(p_item), (
            SELECT string_agg(DISTINCT CASE takes
                WHEN 'interval' THEN 'an interval' WHEN 'boolean' THEN 'a boolean' WHEN 'plain' THEN 'a type whose text tells values apart' ELSE 'a number' END, ' or ')
            FROM rollup_engine.aggregate WHERE name = v_name), v_column, p_relation),
        'use count, min, max, first or last for it');
END
$$;
COMMENT ON FUNCTION rollup_engine.check_metric(regclass, integer, text, jsonb, jsonb) IS 'The column of a metric, or an error when the metric cannot be computed.';

DROP FUNCTION IF EXISTS rollup_engine.resolve_metrics(regclass, name, integer, name[], jsonb);
CREATE OR REPLACE FUNCTION rollup_engine.resolve_metrics(p_relation regclass, p_time_column name, p_parent_id integer, p_dimensions name[], p_metrics jsonb, p_row_sql jsonb)
RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_metric record;
    v_result jsonb := '{}';
BEGIN
    IF p_metrics IS NULL AND p_parent_id IS NOT NULL THEN
        v_result := (SELECT metrics FROM silver.rollup_config WHERE id = p_parent_id);
        PERFORM rollup_engine.check_series(p_parent_id, p_dimensions, v_result);
        RETURN v_result;
    ELSIF p_metrics IS NULL THEN
        RETURN rollup_engine.default_metrics(p_relation, p_time_column, p_dimensions, p_row_sql);
    ELSIF jsonb_typeof(p_metrics) <> 'object' THEN
        PERFORM rollup_engine.fail('TR001', format('metrics is a JSON %s', jsonb_typeof(p_metrics)), 'write an object, as in ''{"temp": ["avg", "max"]}''');
    END IF;
    FOR v_metric IN SELECT key, CASE WHEN jsonb_typeof(value) IN ('string', 'object') THEN jsonb_build_array(value) ELSE value END AS value FROM jsonb_each(p_metrics) LOOP
        IF jsonb_typeof(v_metric.value) <> 'array' OR v_metric.value = '[]' THEN
            PERFORM rollup_engine.fail('TR001', format('the metrics of column %I are no list of aggregates', v_metric.key), 'write a list, as in ''{"temp": ["avg", "max"]}''');
        END IF;
        v_result := v_result || jsonb_build_object(
            (SELECT max(rollup_engine.check_metric(p_relation, p_parent_id, v_metric.key, rollup_engine.metric_item(v_metric.key, a), p_row_sql))
                FROM jsonb_array_elements(v_metric.value) AS a),
            (SELECT jsonb_agg(DISTINCT rollup_engine.metric_item(v_metric.key, a)) FROM jsonb_array_elements(v_metric.value) AS a));
    END LOOP;
    PERFORM rollup_engine.check_series(p_parent_id, p_dimensions, v_result);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION rollup_engine.resolve_metrics(regclass, name, integer, name[], jsonb, jsonb) IS 'Checked metrics by column: the given ones, else the parent''s, else the defaults.';

RESET ROLE;
