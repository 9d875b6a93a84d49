-- From what people type to a checked description: source, time column, dimensions. Nothing is created here.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.resolve_source(p_name text, p_change_tracking text) RETURNS regclass
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation constant regclass := rollup_engine.find_table(p_name);
    v_class pg_class;
BEGIN
    SELECT * INTO v_class FROM pg_class WHERE oid = v_relation;
    IF v_class.relkind IN ('r', 'p') AND v_class.relpersistence = 'p'
        AND v_class.relnamespace NOT IN ('pg_catalog'::regnamespace, 'rollup_engine'::regnamespace) THEN
        RETURN v_relation;
    END IF;
    IF v_class.relkind IN ('f', 'v', 'm') AND p_change_tracking = 'window' THEN
        RETURN v_relation;
    END IF;
    PERFORM rollup_engine.fail('TR004', format('changes of %s cannot be tracked', v_relation),
        CASE WHEN v_class.relkind IN ('f', 'v', 'm') THEN 'use change_tracking => ''window'' for views and foreign tables'
        ELSE 'roll up a permanent, logged table' END,
        format('it is %s', CASE v_class.relkind
            WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' WHEN 'f' THEN 'a foreign table'
            WHEN 'r' THEN CASE v_class.relpersistence
                WHEN 't' THEN 'a temporary table' WHEN 'u' THEN 'an unlogged table' ELSE 'a table of the system' END
            ELSE 'no table' END));
END
$$;
COMMENT ON FUNCTION rollup_engine.resolve_source(text, text) IS 'The table to roll up (a rollup by any of its names), or an error that says why it cannot be.';

CREATE OR REPLACE FUNCTION rollup_engine.partition_column(p_relation regclass) RETURNS name
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.attname
    FROM pg_partitioned_table AS p
    JOIN pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    WHERE p.partrelid = p_relation AND p.partstrat = 'r' AND p.partnatts = 1
$$;
COMMENT ON FUNCTION rollup_engine.partition_column(regclass) IS 'The range partition key, when it is one column.';

CREATE OR REPLACE FUNCTION rollup_engine.rollup_unit(p_relation regclass, p_column name) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT time_unit
    FROM rollup_engine.source
    WHERE time_unit IS NOT NULL AND time_column = p_column AND (relation = p_relation
        OR relation IN (SELECT pg_partition_ancestors(p_relation)) OR p_relation IN (SELECT pg_partition_ancestors(relation)))
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.rollup_unit(regclass, name) IS 'The unit in which rollups of the table, or of one above or below it, read a column of numbers; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.number_unit(p_relation regclass, p_column name) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(rollup_engine.rollup_unit(p_relation, p_column), (
        SELECT time_unit
        FROM rollup_engine.partition_set
        WHERE time_unit IS NOT NULL AND rollup_engine.partition_column(relation) = p_column AND (relation = p_relation
            OR relation IN (SELECT pg_partition_ancestors(p_relation)) OR p_relation IN (SELECT pg_partition_ancestors(relation)))
        LIMIT 1))
$$;
COMMENT ON FUNCTION rollup_engine.number_unit(regclass, name) IS
'The unit of a column of numbers that is a time: as rollups read it, or, when they are gone, as maintenance goes on making partitions; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.time_columns(p_relation regclass) RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(
        SELECT a.attname
        FROM pg_attribute AS a
        WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
            AND (rollup_engine.base_type(a.atttypid) IN ('timestamptz', 'timestamp', 'date')
                OR rollup_engine.is_number_type(rollup_engine.base_type(a.atttypid)) AND rollup_engine.number_unit(p_relation, a.attname) IS NOT NULL)
        ORDER BY a.attnum)
$$;
COMMENT ON FUNCTION rollup_engine.time_columns(regclass) IS 'Columns that can be the time column.';

DROP FUNCTION IF EXISTS rollup_engine.resolve_time_column(regclass, text);
CREATE OR REPLACE FUNCTION rollup_engine.resolve_time_column(p_relation regclass, p_column text, p_unit text) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kinds constant text := CASE WHEN p_unit IS NULL THEN 'timestamptz, timestamp or date' ELSE 'bigint, integer or numeric' END;
    v_candidates constant name[] := ARRAY(
        SELECT a.attname
        FROM pg_attribute AS a CROSS JOIN LATERAL rollup_engine.base_type(a.atttypid) AS b (type)
        WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
            AND CASE WHEN p_unit IS NULL THEN b.type IN ('timestamptz', 'timestamp', 'date') ELSE rollup_engine.is_number_type(b.type) END
        ORDER BY a.attnum);
    v_column name := rollup_engine.partition_column(p_relation);
BEGIN
    IF p_column IS NOT NULL THEN
        v_column := rollup_engine.find_column(p_relation, p_column, 'time_column');
        IF v_column <> ALL (v_candidates) THEN
            PERFORM rollup_engine.fail('TR001', format('time_column %I of %s is no %s', v_column, p_relation, v_kinds),
                coalesce(format('its columns of such types are %s', nullif(array_to_string(v_candidates, ', '), '')), 'it has no such column')
                    || CASE WHEN p_unit IS NULL THEN '; of numbers that count from 1970, say the time_unit' ELSE '; leave time_unit out for times' END);
        END IF;
    ELSIF v_column = ANY (v_candidates) THEN
        NULL;
    ELSIF cardinality(v_candidates) = 1 THEN
        v_column := v_candidates[1];
    ELSE
        PERFORM rollup_engine.fail('TR001', format('%s has %s time columns', p_relation, cardinality(v_candidates)),
            coalesce('name one: time_column => ' || (SELECT string_agg(quote_literal(c), ' or ') FROM unnest(v_candidates) AS c),
                format('a rollup needs a %s column', v_kinds) || CASE WHEN p_unit IS NULL THEN ', or one of numbers and a time_unit' ELSE '' END));
    END IF;
    IF rollup_engine.rollup_unit(p_relation, v_column) <> p_unit THEN
        PERFORM rollup_engine.fail('TR001', format('time_unit %L: other rollups read %I of %s as %s', p_unit, v_column, p_relation, rollup_engine.rollup_unit(p_relation, v_column)),
            'a column has one unit; drop the others first if that was wrong');
    END IF;
    RETURN v_column;
END
$$;
COMMENT ON FUNCTION rollup_engine.resolve_time_column(regclass, text, text) IS 'The time column: the named one, else the range partition key, else the only candidate, else an error.';

DROP FUNCTION IF EXISTS rollup_engine.resolve_dimensions(regclass, name, integer, text[]);
CREATE OR REPLACE FUNCTION rollup_engine.resolve_dimensions(p_relation regclass, p_time_column name, p_parent_id integer, p_dimensions text[], p_row_sql jsonb)
RETURNS name[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_dimensions name[];
BEGIN
    IF p_dimensions IS NULL AND p_parent_id IS NOT NULL THEN
        RETURN (SELECT dimensions FROM silver.rollup_config WHERE id = p_parent_id);
    END IF;
    SELECT coalesce(array_agg(rollup_engine.find_column(p_relation, d.name, 'dimension', p_row_sql) ORDER BY d.position), '{}')
    INTO v_dimensions
    FROM (
        SELECT name, position FROM unnest(p_dimensions) WITH ORDINALITY AS given (name, position)
        UNION ALL
        SELECT c.dimension_column, a.attnum
        FROM silver.dimension_config AS c
        LEFT JOIN pg_attribute AS a ON a.attrelid = c.source_table AND a.attname = c.dimension_column
        WHERE p_dimensions IS NULL AND c.source_table = p_relation AND c.is_active
    ) AS d;
    IF p_time_column = ANY (v_dimensions) THEN
        PERFORM rollup_engine.fail('TR001', format('dimension %I is the time column', p_time_column), 'leave it out: the bucket stands for it');
    ELSIF v_dimensions && '{tsrollup_next,tsrollup_from,tsrollup_to,tsrollup_stale,tsrollup_first,tsrollup_edges}' THEN
        PERFORM rollup_engine.fail('TR001', format('the live view itself has a column of the name of a dimension: %s', array_to_string(v_dimensions, ', ')),
            'rename that column, or leave it out');
    ELSIF cardinality(v_dimensions) <> (SELECT count(DISTINCT d) FROM unnest(v_dimensions) AS d) THEN
        PERFORM rollup_engine.fail('TR001', format('a dimension is named twice: %s', array_to_string(v_dimensions, ', ')), 'name each once');
    ELSIF cardinality(v_dimensions) > 30 THEN
        PERFORM rollup_engine.fail('TR001', format('%s dimensions are too many', cardinality(v_dimensions)), 'an index of PostgreSQL has room for 30 beside the bucket');
    ELSIF p_parent_id IS NOT NULL AND NOT ARRAY(SELECT d FROM unnest(v_dimensions) AS d WHERE (p_row_sql -> 'expressions' -> d::text) IS NULL)
        <@ (SELECT dimensions FROM silver.rollup_config WHERE id = p_parent_id) THEN
        PERFORM rollup_engine.fail('TR001', format('not a dimension of %s: one of %s', p_relation, array_to_string(v_dimensions, ', ')),
            'its dimensions are ' || (SELECT array_to_string(dimensions, ', ') FROM silver.rollup_config WHERE id = p_parent_id));
    END IF;
    RETURN v_dimensions;
END
$$;
COMMENT ON FUNCTION rollup_engine.resolve_dimensions(regclass, name, integer, text[], jsonb) IS 'The dimensions: the named ones, else the parent''s, else the active rows of dimension_config.';

RESET ROLE;
