-- Types of columns that were archived. A value that is brought back goes through what its type is by
-- then: a check of a domain, say, which runs with the rights of whoever restores it.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.types_within(p_type regtype) RETURNS TABLE (type text, owner name, definition text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE within (type) AS (
        SELECT p_type::oid
        UNION
        SELECT part.type
        FROM within AS w
        JOIN pg_type AS t ON t.oid = w.type
        CROSS JOIN LATERAL (
            SELECT t.typelem
            UNION ALL SELECT t.typbasetype
            UNION ALL SELECT rngsubtype FROM pg_range WHERE t.oid IN (rngtypid, rngmultitypid)
            UNION ALL SELECT atttypid FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped
        ) AS part (type)
        WHERE part.type <> 0
    )
    SELECT format_type(t.oid, NULL), pg_get_userbyid(t.typowner), concat_ws(' ', t.typtype, (
        SELECT string_agg(concat(part.name, ' ' || format_type(part.type, part.modifier)), ', ' ORDER BY part.number)
        FROM (
            SELECT t.typbasetype, t.typtypmod, 0, NULL WHERE t.typtype = 'd'
            UNION ALL SELECT rngsubtype, -1, 0, NULL FROM pg_range WHERE t.oid IN (rngtypid, rngmultitypid)
            UNION ALL
            SELECT atttypid, atttypmod, attnum, quote_ident(attname)
            FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped
        ) AS part (type, modifier, number, name)))
    FROM within AS w JOIN pg_type AS t ON t.oid = w.type
    WHERE t.typnamespace <> 'pg_catalog'::regnamespace AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.typarray = t.oid)
$$;
COMMENT ON FUNCTION rollup_engine.types_within(regtype) IS
'A type and all that its values are made of, but for PostgreSQL''s own: whose each is, its kind, and what it consists of in this order.';

CREATE OR REPLACE FUNCTION rollup_engine.other_type(p_type regtype, p_then jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(w.type)
    FROM rollup_engine.types_within(p_type) AS w
    LEFT JOIN jsonb_to_recordset(p_then) AS t (type text, owner name, definition text) USING (type)
    WHERE t.definition IS DISTINCT FROM w.definition
        OR (t.owner <> w.owner AND w.owner <> current_user AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = w.owner))
$$;
COMMENT ON FUNCTION rollup_engine.other_type(regtype, jsonb) IS
'The first type within one that is not what types_within said then: it is made otherwise, or has become somebody''s who is neither a superuser nor who asks.';

RESET ROLE;
