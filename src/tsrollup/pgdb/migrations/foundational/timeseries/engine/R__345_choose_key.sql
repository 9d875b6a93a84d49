-- Which column of a source is its key: the one that the first of its rollups names, or one that there is an
-- index for. Live views go by the same indexes, and follow those that are made or dropped.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

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
            'name a dimension that is a column of the source, and not a generated one, of type smallint, integer, bigint, uuid or boolean, or text or varchar with a deterministic collation; or leave it out');
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
