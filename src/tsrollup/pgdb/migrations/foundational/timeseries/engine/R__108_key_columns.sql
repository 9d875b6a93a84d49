-- The key column of a source: late rows are noted with its values, so that they make their groups stale
-- and not whole buckets. It is chosen once: keys on record are of that column, by whatever name.
-- Whoever ignores keys takes a range with keys for all of it, and is right.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.most_keys() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 1000;
COMMENT ON FUNCTION rollup_engine.most_keys() IS 'Of more groups, a statement notes none, and a bucket is stale as a whole.';

CREATE OR REPLACE FUNCTION rollup_engine.most_keyed_buckets() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 10000;
COMMENT ON FUNCTION rollup_engine.most_keyed_buckets() IS 'Of more buckets with some groups stale, a rollup has the rest stale as a whole.';

CREATE OR REPLACE FUNCTION rollup_engine.can_be_key(p_relation regclass, p_column name) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Of two values that are equal the texts are, under any setting. What is generated, a MERGE may show too early.
    RETURN coalesce(bool_and(t.type IN ('int2', 'int4', 'int8', 'uuid', 'bool') OR t.type IN ('text', 'varchar') AND c.collisdeterministic), false)
        AND NOT EXISTS (
            SELECT FROM rollup_engine.partition_tree(p_relation) AS m (member) JOIN pg_attribute AS a ON a.attrelid = m.member
            WHERE a.attname = p_column AND a.attgenerated <> '')
        AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = p_relation AND starts_with(a.attname, 'tsrollup_'))  -- groups are joined under such names
    FROM pg_attribute AS a
    CROSS JOIN LATERAL rollup_engine.base_type(a.atttypid) AS t (type)
    LEFT JOIN pg_collation AS c ON c.oid = a.attcollation
    WHERE a.attrelid = p_relation AND a.attname = p_column AND a.attnum > 0;
END
$$;
COMMENT ON FUNCTION rollup_engine.can_be_key(regclass, name) IS 'Whether the text of a column''s values tells them apart as their equality does, and is the same under all settings.';

CREATE OR REPLACE FUNCTION rollup_engine.key_type(p_relation regclass, p_column name) RETURNS regtype
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN t.type IN ('int2', 'int4') THEN 'int8'::regtype WHEN t.type = 'varchar'::regtype THEN 'text'::regtype ELSE t.type END
    FROM pg_attribute AS a CROSS JOIN LATERAL rollup_engine.base_type(a.atttypid) AS t (type)
    WHERE a.attrelid = p_relation AND a.attname = p_column
$$;
COMMENT ON FUNCTION rollup_engine.key_type(regclass, name) IS
'The type by which keys are compared with a column: the widest of its kind, so that a column which is made wider or narrower takes all of them.';

CREATE OR REPLACE FUNCTION rollup_engine.key_value(p_relation regclass, p_column name, p_key text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The collation is one by which equal texts are the same; that of the column, for its index.
    SELECT format('%s::%s%s', p_key, rollup_engine.key_type(p_relation, p_column), CASE WHEN attcollation <> 0 THEN ' COLLATE ' || attcollation::regcollation ELSE '' END)
    FROM pg_attribute WHERE attrelid = p_relation AND attname = p_column
$$;
COMMENT ON FUNCTION rollup_engine.key_value(regclass, name, text) IS 'Expression for the text of a key as a value to compare with a column.';

CREATE OR REPLACE FUNCTION rollup_engine.captured_key(p_source rollup_engine.source, p_row text DEFAULT '') RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A statement on a table above the source shows the columns of that one. Long ones would fill the log.
    RETURN (
        SELECT format(CASE WHEN rollup_engine.base_type(a.atttypid) IN ('text', 'varchar') THEN 'CASE WHEN octet_length(%1$s) <= 200 THEN %1$s::text END' ELSE '%1$s::text' END, p_row || quote_ident(a.attname))
            || ' COLLATE "C"'
        FROM pg_attribute AS a
        WHERE a.attrelid = p_source.relation AND a.attname = p_source.key_column AND a.attnum > 0
            AND rollup_engine.can_be_key(p_source.relation, a.attname)
            AND NOT EXISTS (
                SELECT FROM rollup_engine.source_ancestors(p_source.relation) AS above (member)
                WHERE NOT EXISTS (SELECT FROM pg_attribute AS o WHERE o.attrelid = above.member AND o.attname = a.attname)));
END
$$;
COMMENT ON FUNCTION rollup_engine.captured_key(rollup_engine.source, text) IS 'The key of a row that was touched, NULL in a row for one that cannot be told; NULL itself where none is captured.';

CREATE OR REPLACE FUNCTION rollup_engine.has_key_index(p_relation regclass, p_key name, p_time name) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
        JOIN pg_attribute AS k ON k.attrelid = i.indrelid AND k.attnum = i.indkey[0] AND k.attname = p_key
        JOIN pg_attribute AS t ON t.attrelid = i.indrelid AND t.attnum = i.indkey[1] AND t.attname = p_time
        WHERE i.indrelid = p_relation AND i.indpred IS NULL AND i.indisvalid);
END
$$;
COMMENT ON FUNCTION rollup_engine.has_key_index(regclass, name, name) IS 'Whether a btree of the table leads to the rows of a key in a range of time.';

-- Choosing it ------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.key_dimension(p_rollup silver.rollup_config) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN d FROM unnest(p_rollup.dimensions) AS d
    WHERE rollup_engine.dimension_expression(p_rollup, d) = quote_ident(CASE WHEN p_rollup.parent_id IS NULL
        THEN (SELECT key_column FROM rollup_engine.source WHERE id = p_rollup.source_id)
        ELSE (SELECT key_dimension FROM silver.rollup_config WHERE id = p_rollup.parent_id) END);
END
$$;
COMMENT ON FUNCTION rollup_engine.key_dimension(silver.rollup_config) IS 'The dimension of a rollup that is the key of its source, as it is; NULL when it has none.';

CREATE OR REPLACE FUNCTION rollup_engine.use_key(p_source_id integer, p_column name) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    UPDATE rollup_engine.source SET key_column = p_column, key_is_lost = key_is_lost OR p_column IS NULL
    WHERE id = p_source_id AND key_column IS DISTINCT FROM p_column;
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    IF v_source.change_tracking = 'trigger' THEN
        PERFORM rollup_engine.write_capture(v_source);
    END IF;
    FOR i IN 0 .. coalesce((SELECT max(depth) FROM silver.rollup_config WHERE source_id = p_source_id), -1) LOOP
        UPDATE silver.rollup_config AS r SET key_dimension = rollup_engine.key_dimension(r)
        WHERE r.source_id = p_source_id AND r.depth = i AND r.key_dimension IS DISTINCT FROM rollup_engine.key_dimension(r);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.use_key(integer, name) IS 'Has changes of a source noted by the values of a column from now on, NULL for none, and its rollups follow. Called with the source locked.';

RESET ROLE;
