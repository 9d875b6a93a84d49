-- A dimension of type ltree, rolled up by ancestor: dimension_config.ltree_level names the levels
-- (1: site, 2: building, 3: floor), and the rollup has rows for each of them, to be read with
-- ltree's operators. Adding up rows of different levels counts things twice.
--
-- In the GROUP BY the path stands for all its ancestors at these levels: a set-returning
-- expression of built-in functions, which every shape of the query takes as it is.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

ALTER TABLE silver.dimension_config ADD COLUMN ltree_level integer[]
    CHECK (cardinality(ltree_level) > 0 AND array_position(ltree_level, NULL) IS NULL AND 0 < ALL (ltree_level));
COMMENT ON COLUMN silver.dimension_config.ltree_level IS
'For a column of type ltree: the levels that rollups have rows for, such as {1,2}. NULL: the whole path. Rollups keep what they were created with.';

CREATE TABLE rollup_engine.ltree_dimension (
    rollup_id integer NOT NULL,
    dimension name NOT NULL,
    levels integer[] NOT NULL,
    PRIMARY KEY (rollup_id, dimension)
);
COMMENT ON TABLE rollup_engine.ltree_dimension IS 'Dimensions of rollups that hold ancestors at some levels.';

CREATE FUNCTION rollup_engine.ltree_type() RETURNS oid
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

CREATE FUNCTION rollup_engine.ltree_levels(p_rollup silver.rollup_config, p_dimension name) RETURNS integer[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(DISTINCT level ORDER BY level)
    FROM silver.dimension_config AS c, unnest(c.ltree_level) AS level
    WHERE p_rollup.parent_id IS NULL AND c.is_active AND c.source_table = p_rollup.source_table AND c.dimension_column = p_dimension
$$;
COMMENT ON FUNCTION rollup_engine.ltree_levels(silver.rollup_config, name) IS 'Levels that are configured for a dimension of a source, NULL for none.';

CREATE FUNCTION rollup_engine.check_ltree_dimension(p_rollup silver.rollup_config, p_dimension name) RETURNS void
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
        RETURN quote_ident(v_name);
    END IF;
    PERFORM rollup_engine.check_ltree_dimension(p_rollup, v_name);
    -- width_bucket counts the levels that the path reaches; a NULL path stays one NULL.
    RETURN format('%1$s.subpath(%2$I, 0, unnest((%3$L::integer[])[:coalesce(width_bucket(%1$s.nlevel(%2$I), %3$L::integer[]), 1)]))',
        (SELECT typnamespace::regnamespace FROM pg_type WHERE oid = rollup_engine.ltree_type()), v_name, v_levels);
END
$$;

-- A child that left the path out would add up a building and its floors.
CREATE FUNCTION rollup_engine.follow_ltree_levels() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_lost name;
BEGIN
    SELECT l.dimension INTO v_lost
    FROM rollup_engine.ltree_dimension AS l WHERE l.rollup_id = NEW.parent_id AND l.dimension <> ALL (NEW.dimensions);
    IF v_lost IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR001', format('dimension %I of %s holds ancestors at several levels, and is left out', v_lost, NEW.source_table),
            'keep it among the dimensions, or roll up the raw table');
    END IF;
    INSERT INTO rollup_engine.ltree_dimension (rollup_id, dimension, levels)
    SELECT NEW.id, l.dimension, l.levels FROM rollup_engine.ltree_dimension AS l WHERE l.rollup_id = NEW.parent_id
    UNION ALL
    SELECT NEW.id, d, rollup_engine.ltree_levels(NEW, d)
    FROM unnest(NEW.dimensions) AS d WHERE rollup_engine.ltree_levels(NEW, d) IS NOT NULL
    ON CONFLICT DO NOTHING;  -- pg_restore -a has loaded them already
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.follow_ltree_levels() IS 'Records the levels of a new rollup, and refuses one that would count things twice.';

CREATE TRIGGER follow_ltree_levels AFTER INSERT ON silver.rollup_config
    FOR EACH ROW EXECUTE FUNCTION rollup_engine.follow_ltree_levels();

CREATE FUNCTION rollup_engine.ltree_indexes_sql(p_rollup silver.rollup_config) RETURNS SETOF text
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
