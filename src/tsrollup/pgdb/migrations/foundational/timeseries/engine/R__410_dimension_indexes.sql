-- One GIN index over the low-cardinality dimensions of a rollup that has many, by
-- btree_gin: a filter on any few of them over a long time is a bitmap of that index.
--
-- The rule: btree_gin is there; at least three dimensions whose types it serves have 2 to
-- 1,000 values each by the statistics of the source (so: after the first ANALYZE); and the
-- source is large enough for an index to matter. The unique index on bucket and dimensions
-- goes on serving everything that names a narrow range of time.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.distinct_values(p_relation regclass, p_column name) RETURNS double precision
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A negative figure is a share of the rows.
    SELECT CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * rollup_engine.estimated_rows(p_relation) ELSE s.n_distinct END
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = p_column
    WHERE c.oid = p_relation
    ORDER BY s.inherited DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.distinct_values(regclass, name) IS 'Number of different values of a column, by the planner''s statistics; NULL before the first analyze.';

CREATE OR REPLACE FUNCTION rollup_engine.gin_operator_class(p_relation regclass, p_column name) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s.%I', o.opcnamespace::regnamespace, o.opcname)
    FROM pg_extension AS e
    JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_opclass'::regclass
    JOIN pg_opclass AS o ON o.oid = d.objid AND o.opcdefault
    JOIN pg_attribute AS a ON a.attrelid = p_relation AND a.attname = p_column
    WHERE e.extname = 'btree_gin'
        AND (o.opcintype = rollup_engine.base_type(a.atttypid)
            OR o.opcintype = 'anyenum'::regtype AND (SELECT typtype FROM pg_type WHERE oid = rollup_engine.base_type(a.atttypid)) = 'e')
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.gin_operator_class(regclass, name) IS 'Operator class of btree_gin for a column, NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.gin_columns(p_rollup silver.rollup_config) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(format('%I %s', d.name, rollup_engine.gin_operator_class(p_rollup.target_table, d.name)) ORDER BY d.position)
    FROM unnest(p_rollup.dimensions) WITH ORDINALITY AS d (name, position)
    WHERE rollup_engine.distinct_values(p_rollup.source_table, rollup_engine.source_name(p_rollup, d.name)) BETWEEN 2 AND 1000
        AND rollup_engine.gin_operator_class(p_rollup.target_table, d.name) IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.gin_columns(silver.rollup_config) IS 'Dimensions that a GIN index would hold.';

CREATE OR REPLACE FUNCTION rollup_engine.gin_index_sql(p_rollup silver.rollup_config) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('CREATE INDEX ON %s USING gin (%s)', p_rollup.target_table, array_to_string(c.columns, ', '))
    FROM rollup_engine.gin_columns(p_rollup) AS c (columns)
    WHERE cardinality(c.columns) >= 3
        AND rollup_engine.estimated_rows(p_rollup.source_table) >= 10000
        AND NOT EXISTS (
            SELECT FROM pg_index AS i
            JOIN pg_class AS x ON x.oid = i.indexrelid
            JOIN pg_am AS m ON m.oid = x.relam AND m.amname = 'gin'
            WHERE i.indrelid = p_rollup.target_table)
$$;
COMMENT ON FUNCTION rollup_engine.gin_index_sql(silver.rollup_config) IS 'The GIN index that a rollup should have by the rule and does not have.';

CREATE OR REPLACE FUNCTION rollup_engine.extra_indexes_sql(p_rollup silver.rollup_config) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.ltree_indexes_sql(p_rollup)
    UNION ALL
    SELECT rollup_engine.gin_index_sql(p_rollup)
$$;
COMMENT ON FUNCTION rollup_engine.extra_indexes_sql(silver.rollup_config) IS 'CREATE INDEX statements for the indexes beyond the unique one that a rollup should have and does not.';

RESET ROLE;
