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
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
        JOIN pg_attribute AS k ON k.attrelid = i.indrelid AND k.attnum = i.indkey[0] AND k.attname = p_key
        JOIN pg_attribute AS t ON t.attrelid = i.indrelid AND t.attnum = i.indkey[1] AND t.attname = p_time
        WHERE i.indrelid = p_relation AND i.indpred IS NULL AND i.indisvalid)
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

CREATE OR REPLACE FUNCTION rollup_engine.named_key(p_rollup silver.rollup_config) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
    v_name name := p_rollup.key_dimension;
    v_column name;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_rollup.source_id;
    IF v_name IS NULL THEN
        RETURN NULL;
    END IF;
    v_name := rollup_engine.find_column(p_rollup.source_table, v_name, 'key_dimension', p_rollup.row_sql);
    v_column := rollup_engine.source_name(p_rollup, v_name);
    IF v_name <> ALL (p_rollup.dimensions) OR rollup_engine.dimension_expression(p_rollup, v_name) <> quote_ident(v_column)
        OR p_rollup.parent_id IS NULL AND NOT rollup_engine.can_be_key(p_rollup.source_table, v_column) THEN
        PERFORM rollup_engine.fail('TR001', format('key_dimension %I tells no groups of the rollup apart', v_name),
            'name a dimension that is a column of the source, of type smallint, integer, bigint, uuid or boolean, or text or varchar with a deterministic collation; or leave it out');
    ELSIF v_source.change_tracking <> 'trigger' OR v_source.key_is_lost THEN
        PERFORM rollup_engine.fail('TR001', format('late rows of %s are noted by their time alone', v_source.relation),
            CASE WHEN v_source.key_is_lost THEN 'its key column was dropped or retyped: drop all its rollups to have another one' ELSE 'what a window reads again is whole buckets: leave key_dimension out' END);
    ELSIF p_rollup.parent_id IS NOT NULL AND v_name IS DISTINCT FROM (SELECT key_dimension FROM silver.rollup_config WHERE id = p_rollup.parent_id)
        OR p_rollup.parent_id IS NULL AND v_column <> v_source.key_column THEN
        PERFORM rollup_engine.fail('TR001', format('key_dimension %I: late rows of %s are told apart by %s', v_name, v_source.relation, coalesce(quote_ident(v_source.key_column), 'none')),
            'a source has one, which the first of its rollups names or an index decides: leave it out, or name that one');
    END IF;
    RETURN CASE WHEN p_rollup.parent_id IS NULL THEN v_column END;
END
$$;
COMMENT ON FUNCTION rollup_engine.named_key(silver.rollup_config) IS 'The column of the source that a new rollup names as its key, NULL for none, or an error when that cannot be.';

CREATE OR REPLACE FUNCTION rollup_engine.indexed_key(p_source rollup_engine.source) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_source.change_tracking <> 'trigger' OR p_source.key_is_lost THEN
        RETURN NULL;
    END IF;
    RETURN c.current_name
    FROM rollup_engine.source_column AS c
    JOIN silver.rollup_config AS r ON r.source_id = c.source_id AND r.parent_id IS NULL AND c.column_name = ANY (r.dimensions)
    WHERE c.source_id = p_source.id AND rollup_engine.has_key_index(p_source.relation, c.current_name, p_source.time_column)
        AND rollup_engine.dimension_expression(r, c.column_name) = quote_ident(c.current_name) AND rollup_engine.can_be_key(p_source.relation, c.current_name)
    ORDER BY r.id, array_position(r.dimensions, c.column_name)
    LIMIT 1;
END
$$;
COMMENT ON FUNCTION rollup_engine.indexed_key(rollup_engine.source) IS 'The first dimension of the rollups of a source for which it has an index of that and the time; NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.find_key(p_source_id integer, p_named name DEFAULT NULL) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.use_key(s.id, coalesce(s.key_column, p_named, rollup_engine.indexed_key(s)))
    FROM rollup_engine.source AS s WHERE s.id = p_source_id
$$;
COMMENT ON FUNCTION rollup_engine.find_key(integer, name) IS
'Has a source without a key column take the named one, else one that is indexed; a new rollup follows. Called with the source locked.';

CREATE OR REPLACE FUNCTION rollup_engine.note_indexes(p_source_id integer DEFAULT NULL) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH found AS (
        SELECT format('indexes_%s', s.id) AS name, md5(coalesce(string_agg(i.indkey::text, ', ' ORDER BY i.indkey::text), '')) AS digest
        FROM rollup_engine.source AS s
        LEFT JOIN pg_index AS i ON i.indrelid = s.relation AND i.indisvalid AND i.indpred IS NULL
        WHERE s.id = coalesce(p_source_id, s.id)
        GROUP BY s.id
    ), added AS (
        INSERT INTO rollup_engine.generated_text (name, digest)
        SELECT f.* FROM found AS f WHERE NOT EXISTS (SELECT FROM rollup_engine.generated_text AS g WHERE g.name = f.name)
        ON CONFLICT DO NOTHING
        RETURNING 1
    ), changed AS (
        -- Where nothing differs, nothing is locked; and nobody is waited for.
        UPDATE rollup_engine.generated_text AS g SET digest = f.digest
        FROM found AS f
        WHERE g.name = f.name AND p_source_id IS NULL AND g.name IN (
            SELECT o.name FROM rollup_engine.generated_text AS o JOIN found USING (name) WHERE o.digest <> found.digest FOR UPDATE OF o SKIP LOCKED)
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM added) OR EXISTS (SELECT FROM changed)
$$;
COMMENT ON FUNCTION rollup_engine.note_indexes(integer) IS 'Notes which indexes each source has, or a new one: live views read it by those that lead to a dimension and the time. Whether any are others than were noted.';

CREATE OR REPLACE FUNCTION rollup_engine.find_keys() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.find_key(s.id) FROM rollup_engine.source AS s
    WHERE CASE WHEN s.key_column IS NULL AND rollup_engine.is_relation(s.relation) AND rollup_engine.indexed_key(s) IS NOT NULL
        THEN rollup_engine.try_lock_source(s.id) END;
    IF FOUND OR rollup_engine.note_indexes() THEN  -- live views read groups, or by an index, from now on, or no longer
        PERFORM rollup_engine.rewrite_generated();
        -- Whoever was in the way is gone the next time.
        UPDATE rollup_engine.generated_text SET digest = '' WHERE name LIKE 'indexes%' AND EXISTS (SELECT FROM rollup_engine.outdated_texts());
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.find_keys() IS 'Has sources without a key column take one for which there is an index by now; those that are drained at the moment, another time. Live views follow the indexes that were made or dropped.';

RESET ROLE;
