-- Expressions over one row of what a rollup reads, and the condition on which a row counts: what is
-- kept of them (row_sql of the configuration), and the SQL that is made of that. A template is the text
-- that PostgreSQL writes, with marks for columns, which may be renamed:
--     {"expressions": {"region": {"template": ..., "columns": ["payload"], "type": "text"}}, "filter": {...}}
-- with "parts", what else it goes by, where there is any.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.row_expression(p_rollup silver.rollup_config, p_described jsonb) RETURNS text
    LANGUAGE plpgsql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The marks stand inside double quotes.
    RETURN format('(%s)', rollup_engine.fill(p_described ->> 'template', (
        SELECT jsonb_object_agg(format('tsrollup_%s', n), replace(rollup_engine.source_name(p_rollup, used.name::name), '"', '""'))
        FROM jsonb_array_elements_text(p_described -> 'columns') WITH ORDINALITY AS used (name, n))));
END
$$;
COMMENT ON FUNCTION rollup_engine.row_expression(silver.rollup_config, jsonb) IS 'A described expression over the columns as the source calls them now.';

CREATE OR REPLACE FUNCTION rollup_engine.column_expression(p_rollup silver.rollup_config, p_column name) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_described constant jsonb := p_rollup.row_sql -> 'expressions' -> p_column::text;
BEGIN
    RETURN CASE WHEN v_described IS NULL THEN quote_ident(rollup_engine.source_name(p_rollup, p_column))
        ELSE rollup_engine.row_expression(p_rollup, v_described) END;
END
$$;
COMMENT ON FUNCTION rollup_engine.column_expression(silver.rollup_config, name) IS 'What a rollup reads as the column of that name: a column of its source, or an expression.';

CREATE OR REPLACE FUNCTION rollup_engine.row_filter(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(' AND ' || rollup_engine.row_expression(p_rollup, p_rollup.row_sql -> 'filter'), '');
END
$$;
COMMENT ON FUNCTION rollup_engine.row_filter(silver.rollup_config) IS 'What is added to a condition on rows of the source, empty where all rows count.';

CREATE OR REPLACE FUNCTION rollup_engine.columns_behind(p_row_sql jsonb, p_columns name[]) RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(
        SELECT c FROM unnest(p_columns) AS c WHERE (p_row_sql -> 'expressions' -> c::text) IS NULL
        UNION
        SELECT jsonb_array_elements_text(p_row_sql -> 'expressions' -> c::text -> 'columns')::name FROM unnest(p_columns) AS c)
$$;
COMMENT ON FUNCTION rollup_engine.columns_behind(jsonb, name[]) IS 'The columns of the source that columns and expressions of these names are made of.';

CREATE OR REPLACE FUNCTION rollup_engine.used_columns(p_rollup silver.rollup_config) RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(
        SELECT unnest(rollup_engine.columns_behind(p_rollup.row_sql, p_rollup.dimensions
            || ARRAY(SELECT jsonb_object_keys(coalesce(p_rollup.metrics, '{}') || coalesce(p_rollup.row_sql -> 'expressions', '{}'))::name)))
        UNION
        SELECT jsonb_array_elements_text(p_rollup.row_sql -> 'filter' -> 'columns')::name)
$$;
COMMENT ON FUNCTION rollup_engine.used_columns(silver.rollup_config) IS 'The columns of the source that a rollup reads, but for the time.';

RESET ROLE;
