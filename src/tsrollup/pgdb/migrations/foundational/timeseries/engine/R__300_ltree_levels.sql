-- A dimension of type ltree, rolled up by ancestor: dimension_config.ltree_level names the levels
-- (1: site, 2: building, 3: floor), and the rollup has rows for each of them, to be read with
-- ltree's operators. Adding up rows of different levels counts things twice.
--
-- In the GROUP BY the path stands for all its ancestors at these levels: a set-returning
-- expression of built-in functions, which every shape of the query takes as it is.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.ltree_type() RETURNS oid
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.oid
    FROM pg_extension AS e
    JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_type'::regclass
    JOIN pg_type AS t ON t.oid = d.objid AND t.typname = 'ltree'
    WHERE e.extname = 'ltree'
$$;
COMMENT ON FUNCTION rollup_engine.ltree_type() IS 'The type ltree, NULL where the extension is missing.';

CREATE OR REPLACE FUNCTION rollup_engine.ltree_levels(p_rollup silver.rollup_config, p_dimension name) RETURNS integer[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(DISTINCT level ORDER BY level)
    FROM silver.dimension_config AS c, unnest(c.ltree_level) AS level
    WHERE p_rollup.parent_id IS NULL AND (p_rollup.row_sql -> 'expressions' -> p_dimension::text) IS NULL AND c.is_active AND c.source_table = p_rollup.source_table AND c.dimension_column = p_dimension
$$;
COMMENT ON FUNCTION rollup_engine.ltree_levels(silver.rollup_config, name) IS 'Levels that are configured for a dimension of a source, NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.check_ltree_dimension(p_rollup silver.rollup_config, p_dimension name) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_type constant regtype := (SELECT atttypid FROM pg_attribute WHERE attrelid = p_rollup.source_table AND attname = p_dimension);
    v_leveled name[];
BEGIN
    IF rollup_engine.base_type(v_type) IS DISTINCT FROM rollup_engine.ltree_type() THEN
        PERFORM rollup_engine.fail('TR001', format('ltree_level is set for dimension %I of %s, which is %s', p_dimension, p_rollup.source_table, v_type),
            'levels need a column of type ltree (CREATE EXTENSION ltree); or set ltree_level to NULL');
    END IF;
    v_leveled := ARRAY(
        SELECT d FROM unnest(p_rollup.dimensions) AS d WHERE rollup_engine.ltree_levels(p_rollup, d) IS NOT NULL);
    IF cardinality(v_leveled) > 1 THEN
        PERFORM rollup_engine.fail('TR001', format('several dimensions have an ltree_level: %s', array_to_string(v_leveled, ', ')),
            'a rollup takes one; name its dimensions, and make a second rollup for the other');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_ltree_dimension(silver.rollup_config, name) IS 'An error unless a dimension can be rolled up by ancestor.';

CREATE OR REPLACE FUNCTION rollup_engine.dimension_expression(p_rollup silver.rollup_config, p_dimension name) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name constant name := rollup_engine.source_name(p_rollup, p_dimension);
    v_levels integer[];
BEGIN
    -- What a rollup was created with stays.
    IF EXISTS (SELECT FROM silver.rollup_config WHERE id = p_rollup.id) THEN
        SELECT levels INTO v_levels FROM rollup_engine.ltree_dimension
        WHERE rollup_id = p_rollup.id AND dimension = p_dimension AND p_rollup.parent_id IS NULL;
    ELSE
        v_levels := rollup_engine.ltree_levels(p_rollup, p_dimension);
    END IF;
    IF v_levels IS NULL THEN
        RETURN rollup_engine.column_expression(p_rollup, p_dimension);
    END IF;
    PERFORM rollup_engine.check_ltree_dimension(p_rollup, v_name);
    -- width_bucket counts the levels that the path reaches; a NULL path stays one NULL. Of a domain, somebody
    -- may have functions of these names.
    RETURN format('%1$s.subpath(%2$I::%1$s.ltree, 0, unnest((%3$L::integer[])[:coalesce(width_bucket(%1$s.nlevel(%2$I::%1$s.ltree), %3$L::integer[]), 1)]))',
        (SELECT typnamespace::regnamespace FROM pg_type WHERE oid = rollup_engine.ltree_type()), v_name, v_levels);
END
$$;
COMMENT ON FUNCTION rollup_engine.dimension_expression(silver.rollup_config, name) IS 'Expression over the source for a dimension.';

-- A child that left the path out would add up a building and its floors.
CREATE OR REPLACE FUNCTION rollup_engine.note_ltree_levels(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_lost name;
BEGIN
    SELECT l.dimension INTO v_lost
    FROM rollup_engine.ltree_dimension AS l WHERE l.rollup_id = p_rollup.parent_id AND l.dimension <> ALL (p_rollup.dimensions);
    IF v_lost IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR001', format('dimension %I of %s holds ancestors at several levels, and is left out', v_lost, p_rollup.source_table),
            'keep it among the dimensions, or roll up the raw table');
    END IF;
    INSERT INTO rollup_engine.ltree_dimension (rollup_id, dimension, levels)
    SELECT p_rollup.id, l.dimension, l.levels FROM rollup_engine.ltree_dimension AS l WHERE l.rollup_id = p_rollup.parent_id
    UNION ALL
    SELECT p_rollup.id, d, rollup_engine.ltree_levels(p_rollup, d)
    FROM unnest(p_rollup.dimensions) AS d WHERE rollup_engine.ltree_levels(p_rollup, d) IS NOT NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.note_ltree_levels(silver.rollup_config) IS 'Records the levels of a new rollup, and refuses one that would count things twice.';

CREATE OR REPLACE FUNCTION rollup_engine.ltree_indexes_sql(p_rollup silver.rollup_config) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('CREATE INDEX ON %s USING gist (%I)', p_rollup.target_table, a.attname)
    FROM pg_attribute AS a
    WHERE a.attrelid = p_rollup.target_table AND a.attname = ANY (p_rollup.dimensions) AND a.atttypid = rollup_engine.ltree_type()
        AND NOT EXISTS (
            SELECT FROM pg_index AS i
            JOIN pg_class AS x ON x.oid = i.indexrelid
            JOIN pg_am AS m ON m.oid = x.relam AND m.amname = 'gist'
            WHERE i.indrelid = p_rollup.target_table AND i.indkey[0] = a.attnum)
$$;
COMMENT ON FUNCTION rollup_engine.ltree_indexes_sql(silver.rollup_config) IS 'The GiST indexes that ltree''s operators want and that are missing.';

RESET ROLE;
