-- The family of a source: the tables below it, whose rows are its own, and those above it, through
-- which they are written as well.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.partition_tree(p_relation regclass) RETURNS SETOF regclass
    LANGUAGE plpgsql STABLE ROWS 10  -- few enough to look each up in the catalogue rather than read it
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
        -- UNION: a table may be reached on two paths.
        WITH RECURSIVE tree AS (
            SELECT p_relation::oid AS oid
            UNION
            SELECT i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
        )
        SELECT oid::regclass FROM tree;
END
$$;
COMMENT ON FUNCTION rollup_engine.partition_tree(regclass) IS 'The table and every partition below it: partition_bounds without the bounds, for a tenth of its time.';

CREATE OR REPLACE FUNCTION rollup_engine.partition_bounds(p_relation regclass, p_time_column name DEFAULT NULL)
RETURNS TABLE (member regclass, from_time timestamptz, to_time timestamptz)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    WITH RECURSIVE tree AS (
        SELECT p_relation::oid AS oid, timestamptz '-infinity' AS from_time, timestamptz 'infinity' AS to_time
        UNION
        SELECT i.inhrelid,
            greatest(t.from_time, coalesce(CASE WHEN b.unit IS NULL THEN b.bounds[1]::timestamptz ELSE rollup_engine.number_time(b.bounds[1]::numeric, b.unit) END, '-infinity')),
            least(t.to_time, coalesce(CASE WHEN b.unit IS NULL THEN b.bounds[2]::timestamptz ELSE rollup_engine.number_time(b.bounds[2]::numeric, b.unit, true) END, 'infinity'))
        FROM tree AS t
        CROSS JOIN LATERAL (
            SELECT n.name, rollup_engine.number_unit(t.oid::regclass, n.name) AS unit,
                n.name = p_time_column OR p_time_column IS NULL AND n.name = ANY (rollup_engine.time_columns(t.oid::regclass)) AS is_time
            FROM rollup_engine.partition_column(t.oid::regclass) AS n (name)
            OFFSET 0
        ) AS k
        JOIN pg_inherits AS i ON i.inhparent = t.oid AND NOT i.inhdetachpending
        JOIN pg_class AS c ON c.oid = i.inhrelid
        CROSS JOIN LATERAL (
            -- Small integers and numerics stand without quotes.
            SELECT CASE WHEN k.is_time THEN ARRAY[
                substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM [(](?!M[IA][NX]VALUE)''?([^'',)]*)''?[)]'),
                substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO [(](?!M[IA][NX]VALUE)''?([^'',)]*)''?[)]')] END AS bounds, k.unit
        ) AS b
    )
    -- A partition may have bounds beyond those of what it is a part of: no row comes to it.
    SELECT oid::regclass, min(tree.from_time), greatest(max(tree.to_time), min(tree.from_time)) FROM tree GROUP BY oid
$$;
COMMENT ON FUNCTION rollup_engine.partition_bounds(regclass, name) IS
'The table and every partition below it, each with the range of time it can hold: of that time column, else of whatever time it is partitioned by.';

CREATE OR REPLACE FUNCTION rollup_engine.source_ancestors(p_relation regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE ROWS 1
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE tree AS (
        SELECT member FROM rollup_engine.partition_tree(p_relation) AS t (member)
    ), above AS (
        SELECT i.inhparent AS oid, 1 AS height
        FROM tree JOIN pg_inherits AS i ON i.inhrelid = tree.member
        WHERE i.inhparent NOT IN (SELECT member FROM tree)
        UNION
        SELECT i.inhparent, above.height + 1 FROM above JOIN pg_inherits AS i ON i.inhrelid = above.oid
    )
    SELECT oid::regclass FROM above GROUP BY oid ORDER BY max(height) DESC
$$;
COMMENT ON FUNCTION rollup_engine.source_ancestors(regclass) IS 'Every table above the source, or above a table below it, the topmost first: a statement that names one of them writes rows of the source.';

CREATE OR REPLACE FUNCTION rollup_engine.source_family(p_relation regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.source_ancestors(p_relation) UNION ALL SELECT rollup_engine.partition_tree(p_relation)
$$;
COMMENT ON FUNCTION rollup_engine.source_family(regclass) IS 'The source, and every table above and below it.';

CREATE OR REPLACE FUNCTION rollup_engine.kept_elsewhere(p_relation regclass, p_time_column name) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_family constant regclass[] := ARRAY(SELECT rollup_engine.source_family(p_relation));
    v_hypertables regclass;
    v_found regclass;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        EXECUTE 'SELECT logicalrelid FROM pg_catalog.pg_dist_partition WHERE logicalrelid = ANY ($1) LIMIT 1' INTO v_found USING v_family;
    END IF;
    IF v_found IS NOT NULL THEN
        RETURN format('%s is distributed by Citus: its rows are in shards, where its triggers do not fire', v_found);
    END IF;
    -- Whoever made it, its rows are read with the rights of the machinery: a plain table of a superuser's only.
    SELECT c.oid INTO v_hypertables
    FROM pg_class AS c
    JOIN pg_roles AS o ON o.oid = c.relowner AND o.rolsuper
    WHERE c.relnamespace::regnamespace::text = '_timescaledb_catalog' AND c.relname = 'hypertable' AND c.relkind = 'r';
    IF v_hypertables IS NOT NULL THEN
        EXECUTE format('SELECT f FROM %s AS h JOIN pg_class AS c ON c.relname = h.table_name AND c.relnamespace::regnamespace::text = quote_ident(h.schema_name)
            JOIN unnest($1) AS f ON f = c.oid LIMIT 1', v_hypertables) INTO v_found USING v_family;
    END IF;
    IF v_found IS NOT NULL THEN
        RETURN format('%s is a hypertable of TimescaleDB: its chunks change, are compressed and dropped without firing triggers', v_found);
    END IF;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = p_relation AND attname = p_time_column AND attgenerated = 'v') THEN
        RETURN format('triggers do not see its time column %I, which is generated and not stored', p_time_column);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.kept_elsewhere(regclass, name) IS 'Why triggers on the table would not see its rows change, though it looks like an ordinary one; NULL when they do.';

CREATE OR REPLACE FUNCTION rollup_engine.lies_in(p_table regclass, p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_table = p_relation OR EXISTS (SELECT FROM pg_partition_ancestors(p_table) AS a WHERE a.relid = p_relation)
$$;
COMMENT ON FUNCTION rollup_engine.lies_in(regclass, regclass) IS 'Whether a table is the other one, or a partition of it at any depth.';

CREATE OR REPLACE FUNCTION rollup_engine.tables_read(p_relation regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE below AS (
        SELECT p_relation::oid AS oid
        UNION
        SELECT d.refobjid
        FROM below AS b
        JOIN pg_class AS c ON c.oid = b.oid AND c.relkind IN ('v', 'm')
        JOIN pg_rewrite AS w ON w.ev_class = b.oid AND w.ev_type = '1'  -- what it reads, not where other rules of it write
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> b.oid
        -- A live view has all of it from its table, however long the source keeps it.
        WHERE NOT EXISTS (SELECT FROM silver.rollup_config AS r WHERE r.target_view = b.oid AND r.target_table <> d.refobjid)
    )
    SELECT b.oid FROM below AS b JOIN pg_class AS c ON c.oid = b.oid WHERE c.relkind NOT IN ('v', 'm')
$$;
COMMENT ON FUNCTION rollup_engine.tables_read(regclass) IS 'The table itself, or the tables that a view reads, through other views too.';

CREATE OR REPLACE FUNCTION rollup_engine.with_roots(p_table regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE ROWS 2
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_table UNION SELECT relid FROM pg_partition_ancestors(p_table)
$$;
COMMENT ON FUNCTION rollup_engine.with_roots(regclass) IS 'The tables that a table lies in: itself, and those that it is a partition of.';

CREATE OR REPLACE FUNCTION rollup_engine.has_time_index(p_relation regclass, p_column name) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A partitioned index is valid when each of its parts is. Inheritance children have indexes of their own.
    RETURN bool_and(EXISTS (
        SELECT FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = t.member AND a.attname = p_column AND i.indpred IS NULL AND i.indisvalid))
    FROM (
        SELECT p_relation
        UNION ALL
        SELECT m FROM rollup_engine.partition_tree(p_relation) AS m
        WHERE (SELECT relkind FROM pg_class WHERE oid = p_relation) = 'r' AND m <> p_relation
    ) AS t (member);
END
$$;
COMMENT ON FUNCTION rollup_engine.has_time_index(regclass, name) IS 'Whether a btree of the table, and of each that inherits from it, starts with the column.';

CREATE OR REPLACE FUNCTION rollup_engine.finds_times(p_relation regclass, p_column name) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN c.relkind NOT IN ('r', 'p') OR rollup_engine.has_time_index(p_relation, p_column) OR EXISTS (
        SELECT FROM rollup_engine.partition_tree(p_relation) AS m
        JOIN pg_partitioned_table AS d ON d.partrelid = m
        WHERE rollup_engine.partition_column(m) = p_column
    ) OR EXISTS (
        SELECT FROM pg_index AS i
        JOIN pg_class AS x ON x.oid = i.indexrelid
        JOIN pg_am AS m ON m.oid = x.relam AND m.amname = 'brin'
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = p_relation AND a.attname = p_column AND i.indpred IS NULL AND i.indisvalid)
    FROM pg_class AS c WHERE c.oid = p_relation;
END
$$;
COMMENT ON FUNCTION rollup_engine.finds_times(regclass, name) IS 'Whether rows of a short time are found without reading all of a table, by an index or its partitions; or may be: a view or a foreign table does not say.';

RESET ROLE;
