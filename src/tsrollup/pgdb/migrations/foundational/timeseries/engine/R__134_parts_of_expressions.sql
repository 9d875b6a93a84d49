-- What an expression, parsed as a view, names besides the row: what may be a stranger's, what may become
-- another one, and what the machinery may not use.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.untrusted_parts(p_view regclass, p_row regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What PostgreSQL was born with is not in pg_depend. Of arrays, the type of the elements counts.
    SELECT string_agg(DISTINCT CASE d.refobjid WHEN p_row THEN 'a system column' ELSE pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) END, ', ')
    FROM pg_rewrite AS w
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.deptype = 'n'
    LEFT JOIN pg_type AS t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
    LEFT JOIN pg_type AS e ON e.oid = CASE t.typcategory WHEN 'A' THEN t.typelem ELSE t.oid END
    LEFT JOIN pg_proc AS f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
    LEFT JOIN pg_operator AS o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
    LEFT JOIN pg_roles AS r ON r.oid = coalesce(f.proowner, o.oprowner, e.typowner)
    WHERE w.ev_class = p_view
        AND NOT (d.refclassid = 'pg_class'::regclass AND (
            d.refobjid = p_view OR d.refobjid = p_row AND d.refobjsubid >= 0
            -- An attribute of a composite column.
            OR d.refobjid <> p_row AND d.refobjsubid > 0))
        AND d.refclassid <> 'pg_collation'::regclass
        -- An enum of a column stays what it is for as long as the column does.
        AND NOT (coalesce(e.typtype, '') = 'e' AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = p_row AND a.atttypid IN (e.oid, e.typarray)))
        AND (pg_identify_object(d.refclassid, d.refobjid, 0)).schema IS DISTINCT FROM 'pg_catalog'
        -- It is looked up by name at each run: another one may match better tomorrow, unless its types are those of the arguments.
        AND NOT (coalesce(r.rolsuper, false) AND coalesce(f.pronargdefaults = 0 AND f.provariadic = 0, true) AND NOT EXISTS (
                SELECT FROM pg_type AS g WHERE g.oid = ANY (coalesce(f.proargtypes, ARRAY[o.oprleft, o.oprright])) AND g.typtype = 'p'
            ) AND EXISTS (
            -- Who owns the extension could put something else in its place.
            SELECT FROM pg_depend AS x JOIN pg_extension AS n ON n.oid = x.refobjid
            WHERE x.deptype = 'e' AND x.classid = d.refclassid AND x.objid = coalesce(e.oid, d.refobjid)
                AND pg_has_role(n.extowner, '"${owner_role}"'::regrole, 'USAGE')))
$$;
COMMENT ON FUNCTION rollup_engine.untrusted_parts(regclass, regclass) IS
'What an expression, parsed as a view, uses besides its row that is neither PostgreSQL''s own, nor a superuser''s in an extension of a member of the owner role and taken for its very types, nor the enum of a column; NULL when nothing.';

CREATE OR REPLACE FUNCTION rollup_engine.parts_in_use(p_view regclass, p_row regclass) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(DISTINCT u.part ORDER BY u.part)
    FROM pg_rewrite AS w
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.deptype = 'n'
    LEFT JOIN pg_attribute AS a ON d.refclassid = 'pg_class'::regclass AND d.refobjid = p_row AND a.attrelid = p_row AND a.attnum = d.refobjsubid
    CROSS JOIN LATERAL (
        SELECT format('collation %s', d.refobjid::regcollation) WHERE d.refclassid = 'pg_collation'::regclass
        UNION ALL
        SELECT format('enum %s', t.oid::regtype)
        FROM rollup_engine.parts_of_type(CASE d.refclassid WHEN 'pg_type'::regclass THEN d.refobjid ELSE a.atttypid END) AS p
        JOIN pg_type AS t ON t.oid = p.type AND t.typtype = 'e'
    ) AS u (part)
    WHERE w.ev_class = p_view
$$;
COMMENT ON FUNCTION rollup_engine.parts_in_use(regclass, regclass) IS
'Collations, and enums of columns and constants, that an expression, parsed as a view, goes by: they may become others without a change of a column. NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.schemas_in_use(p_view regclass) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_object_agg(u.schema, u.part)
    FROM (
        SELECT i.schema, min(pg_describe_object(d.class, d.object, 0))
        FROM (
            SELECT refclassid, refobjid FROM pg_rewrite AS w
            JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.deptype = 'n' AND d.refclassid <> 'pg_class'::regclass
            WHERE w.ev_class = p_view
            UNION ALL
            SELECT 'pg_type'::regclass, atttypid FROM pg_attribute WHERE attrelid = p_view AND attnum = 1
        ) AS d (class, object)
        CROSS JOIN LATERAL pg_identify_object(d.class, d.object, 0) AS i
        WHERE i.schema <> 'pg_catalog'
        GROUP BY i.schema
    ) AS u (schema, part)
$$;
COMMENT ON FUNCTION rollup_engine.schemas_in_use(regclass) IS
'Schemas that an expression, parsed as a view, names something of, or makes a value of a type of, each with one such thing; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.closed_schemas(p_row_sql jsonb) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('the machinery may not use schema %s, where %s is', used.schema, used.part), format('GRANT USAGE ON SCHEMA %s TO %I', used.schema, '${owner_role}')
    FROM (
        SELECT jsonb_path_query(p_row_sql, '$.filter.schemas') UNION ALL SELECT jsonb_path_query(p_row_sql, '$.expressions.*.schemas')
    ) AS d (schemas)
    CROSS JOIN LATERAL jsonb_each_text(d.schemas) AS used (schema, part)
    JOIN pg_namespace AS n ON quote_ident(n.nspname) = used.schema
    WHERE NOT has_schema_privilege('${owner_role}', n.oid, 'USAGE')
$$;
COMMENT ON FUNCTION rollup_engine.closed_schemas(jsonb) IS 'Schemas that described expressions take something from, and that the machinery may not use.';

RESET ROLE;
