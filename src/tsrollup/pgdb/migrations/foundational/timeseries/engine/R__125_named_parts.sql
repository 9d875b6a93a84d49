-- What columns and expressions go by that has a name of its own, and may become something else under it.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.parts_of_type(p_type oid) RETURNS TABLE (type oid, path text[])
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE part AS (
        SELECT p_type AS type, ARRAY[]::text[] COLLATE "C" AS path
        UNION ALL
        SELECT d.type, part.path || d.name
        FROM part
        JOIN pg_type AS t ON t.oid = part.type AND t.typnamespace <> 'pg_catalog'::regnamespace
        CROSS JOIN LATERAL (
            SELECT a.atttypid, concat(to_char(a.attnum, 'FM0000'), a.attname) FROM pg_attribute AS a
            WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT e.type, '' FROM (VALUES (t.typelem), (t.typbasetype)) AS e (type) WHERE e.type <> 0
            UNION ALL
            SELECT r.rngsubtype, '' FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        ) AS d (type, name)
    )
    SELECT type, path FROM part
$$;
COMMENT ON FUNCTION rollup_engine.parts_of_type(oid) IS 'A type and what it is made of that is not PostgreSQL''s own, at any depth: attributes, elements, what a domain is over.';

CREATE OR REPLACE FUNCTION rollup_engine.type_parts(p_type oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(concat_ws(' ', substr(path[cardinality(path)], 5), format_type(type, NULL)), ', ' ORDER BY path)
    FROM rollup_engine.parts_of_type(p_type) WHERE path <> '{}'
$$;
COMMENT ON FUNCTION rollup_engine.type_parts(oid) IS 'What a type is made of that is not PostgreSQL''s own, in words; NULL for others.';

CREATE OR REPLACE FUNCTION rollup_engine.default_order() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- By columns that not each release of PostgreSQL has; some locales are called in several ways.
    SELECT CASE WHEN l.locale IN ('c', 'posix', 'c.utf8') AND d.datlocprovider IN ('c', 'b') THEN 'C'
        ELSE jsonb_build_array(j -> 'datlocprovider', l.locale, j -> 'daticurules')::text END
    FROM pg_database AS d CROSS JOIN LATERAL to_jsonb(d) AS j
    CROSS JOIN LATERAL (
        SELECT translate(lower(CASE d.datlocprovider WHEN 'c' THEN d.datcollate ELSE coalesce(j ->> 'datlocale', j ->> 'daticulocale') END), '-_', '')
    ) AS l (locale)
    WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION rollup_engine.default_order() IS 'What the default collation of the database sorts by.';

CREATE OR REPLACE FUNCTION rollup_engine.collation_definition(p_collation oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN c.collprovider = 'd' THEN rollup_engine.default_order() ELSE jsonb_build_array(
        j -> 'collprovider', j -> 'collisdeterministic', j -> 'collcollate', j -> 'collctype',
        translate(lower(coalesce(j ->> 'colllocale', j ->> 'colliculocale')), '-_', ''), j -> 'collicurules')::text END
    FROM pg_collation AS c CROSS JOIN LATERAL to_jsonb(c) AS j WHERE c.oid = p_collation
$$;
COMMENT ON FUNCTION rollup_engine.collation_definition(oid) IS 'What a collation sorts by; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.named_parts(p_source_id integer) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Labels by their places among each other, which new ones leave alone.
    SELECT jsonb_object_agg(part, coalesce(
        CASE WHEN part LIKE 'collation %' THEN to_jsonb(rollup_engine.collation_definition(rollup_engine.collation_called(substr(part, 11)))) END,
        (SELECT jsonb_object_agg(enumlabel, enumsortorder) FROM pg_enum WHERE part LIKE 'enum %' AND enumtypid = rollup_engine.type_called(substr(part, 6))),
        'null'))
    FROM (
        SELECT DISTINCT jsonb_array_elements_text(
            jsonb_path_query_array(row_sql, '$.filter.parts[*]') || jsonb_path_query_array(row_sql, '$.expressions.*.parts[*]'))
        FROM silver.rollup_config WHERE source_id = p_source_id AND row_sql IS NOT NULL
    ) AS named (part)
$$;
COMMENT ON FUNCTION rollup_engine.named_parts(integer) IS
'What collations and enums are that expressions of the rollups of a source go by, by their names: something else may be called so tomorrow. NULL for none.';

RESET ROLE;
