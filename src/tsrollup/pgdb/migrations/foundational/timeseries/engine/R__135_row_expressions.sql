-- Expressions over one row of what a rollup reads, and the condition on which a row counts: what is
-- kept of them (row_sql of the configuration), and the SQL that is made of that. A template is the text
-- that PostgreSQL writes, with marks for columns, which may be renamed:
--     {"expressions": {"region": {"template": ..., "columns": ["payload"], "type": "text"}}, "filter": {...}}
-- with "parts", what else it goes by, where there is any.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.filled_expression(p_rollup silver.rollup_config, p_described jsonb) RETURNS text
    LANGUAGE plpgsql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The marks stand inside double quotes.
    RETURN rollup_engine.fill(p_described ->> 'template', (
        SELECT jsonb_object_agg(format('tsrollup_%s', n), replace(rollup_engine.source_name(p_rollup, used.name::name), '"', '""'))
        FROM jsonb_array_elements_text(p_described -> 'columns') WITH ORDINALITY AS used (name, n)));
END
$$;
COMMENT ON FUNCTION rollup_engine.filled_expression(silver.rollup_config, jsonb) IS 'A described expression over the columns as the source calls them now.';

CREATE OR REPLACE FUNCTION rollup_engine.row_expression(p_rollup silver.rollup_config, p_described jsonb) RETURNS text
    LANGUAGE plpgsql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN format('(%s)', rollup_engine.filled_expression(p_rollup, p_described));
END
$$;
COMMENT ON FUNCTION rollup_engine.row_expression(silver.rollup_config, jsonb) IS 'A described expression over the columns as the source calls them now, to stand in any statement.';

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

CREATE OR REPLACE FUNCTION rollup_engine.text_as_now(p_rollup silver.rollup_config, p_text text, p_described jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN EXISTS (
            SELECT FROM jsonb_array_elements_text(p_described -> 'columns') AS c WHERE rollup_engine.source_name(p_rollup, c::name) <> c)
        THEN rollup_engine.filled_expression(p_rollup, p_described) ELSE p_text END
$$;
COMMENT ON FUNCTION rollup_engine.text_as_now(silver.rollup_config, text, jsonb) IS
'An expression as it was given; where a column in it has another name now, as PostgreSQL writes it with that.';

CREATE OR REPLACE FUNCTION rollup_engine.named_as_now(p_rollup silver.rollup_config) RETURNS silver.rollup_config
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r silver.rollup_config := p_rollup;
BEGIN
    r.filter := rollup_engine.text_as_now(p_rollup, r.filter, r.row_sql -> 'filter');
    r.expressions := (
        SELECT jsonb_object_agg(key, CASE jsonb_typeof(value) WHEN 'string'
            THEN to_jsonb(rollup_engine.text_as_now(p_rollup, value #>> '{}', r.row_sql -> 'expressions' -> key)) ELSE value END)
        FROM jsonb_each(r.expressions));
    r.dimensions := ARRAY(
        SELECT rollup_engine.source_name(p_rollup, name) FROM unnest(r.dimensions) WITH ORDINALITY AS d (name, position) ORDER BY position);
    r.key_dimension := rollup_engine.source_name(p_rollup, r.key_dimension);
    IF EXISTS (SELECT FROM jsonb_object_keys(r.metrics) AS key WHERE rollup_engine.source_name(p_rollup, key::name) <> key) THEN
        r.metrics := (
            SELECT jsonb_object_agg(name, items) FROM (
                SELECT rollup_engine.source_name(p_rollup, key::name), jsonb_agg(DISTINCT item)
                FROM jsonb_each(r.metrics), jsonb_array_elements(value) AS item GROUP BY 1
            ) AS m (name, items));
    END IF;
    RETURN r;
END
$$;
COMMENT ON FUNCTION rollup_engine.named_as_now(silver.rollup_config) IS 'A rollup as one would create it today: with the names that columns of its source have now.';

RESET ROLE;
