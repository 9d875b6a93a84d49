-- Live views of rollups that Citus distributes. Each shard answers for itself: what is stored there, and
-- what its raw rows say where that is stale. What is stale is asked of the machinery once, by a WITH, and
-- sent along, so that all arms agree on it; filters and aggregates of who reads go to the shards as well.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.far_stale(p_rollup_id integer)
RETURNS TABLE (tsrollup_part text, tsrollup_from timestamptz, tsrollup_to timestamptz, tsrollup_set tstzmultirange)
    LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_stale tstzmultirange := rollup_engine.finite_stale_set(p_rollup_id);
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    RETURN QUERY SELECT format('set %s', p_rollup_id), NULL::timestamptz, NULL::timestamptz, rollup_engine.stale_set(p_rollup_id);
    -- One by one where an index leads to the rows of each, so that a filter on the bucket leaves few.
    IF v_rollup.parent_id IS NULL AND rollup_engine.bucket_count(v_rollup.bucket_width, v_stale) <= 20000
        AND rollup_engine.has_time_index(v_rollup.source_table, v_rollup.time_column)
    THEN
        RETURN QUERY SELECT format('bucket %s', p_rollup_id), bucket, next_bucket, NULL::tstzmultirange FROM rollup_engine.buckets_in(v_rollup, v_stale);
        v_stale := '{}';
    END IF;
    IF v_rollup.change_tracking = 'window' THEN
        v_stale := v_stale + rollup_engine.window_tail(v_rollup);
    END IF;
    IF NOT isempty(v_stale) THEN
        RETURN QUERY SELECT format('span %s', p_rollup_id), lower(v_stale), upper(v_stale), v_stale;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.far_stale(integer) IS
'What is stale of a distributed rollup: the set itself, and what is computed of it, single buckets, or from when to when with those between that are.';

CREATE OR REPLACE FUNCTION rollup_engine.far_part(p_rollup_id integer, p_part text, p_column text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('(SELECT %s FROM tsrollup_stale WHERE tsrollup_part = %L)', p_column, format('%s %s', p_part, p_rollup_id))
$$;
COMMENT ON FUNCTION rollup_engine.far_part(integer, text, text) IS 'Sub-select of what is stale, for the query of a live view.';

CREATE OR REPLACE FUNCTION rollup_engine.far_arms_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A join with what is stale would keep Citus from sending the UNION of a parent's to the shards: its borders are sub-selects.
    RETURN rollup_engine.fill($sql$
    SELECT {stored_columns} FROM {target} WHERE NOT bucket <@ {set}
    UNION ALL
    SELECT {all_columns} FROM {source} WHERE {in_span} AND {bucket} <@ {span} GROUP BY {groups}$sql$
        || CASE WHEN p_rollup.parent_id IS NULL THEN $sql$
    UNION ALL
    SELECT tsrollup_from, {columns} FROM {source} CROSS JOIN tsrollup_stale WHERE tsrollup_part = 'bucket {id}' AND {in_bucket} GROUP BY {groups}$sql$ ELSE '' END,
        jsonb_build_object(
            'id', p_rollup.id,
            'target', p_rollup.target_table,
            'stored_columns', rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}'),
            'columns', rollup_engine.live_select_list(p_rollup, '{dimension,state}', false),
            'all_columns', rollup_engine.live_select_list(p_rollup, '{bucket,dimension,state}', false),
            'source', coalesce(
                (SELECT format('(%s) AS tsrollup_parent', rollup_engine.far_arms_sql(r)) FROM silver.rollup_config AS r WHERE r.id = p_rollup.parent_id),
                p_rollup.source_table::text),
            'set', rollup_engine.far_part(p_rollup.id, 'set', 'tsrollup_set'),
            'span', rollup_engine.far_part(p_rollup.id, 'span', 'tsrollup_set'),
            'in_span', rollup_engine.time_condition(p_rollup, rollup_engine.far_part(p_rollup.id, 'span', 'tsrollup_from'),
                rollup_engine.far_part(p_rollup.id, 'span', 'tsrollup_to')) || rollup_engine.row_filter(p_rollup),
            'in_bucket', rollup_engine.time_condition(p_rollup, 'tsrollup_from', 'tsrollup_to') || rollup_engine.row_filter(p_rollup),
            'bucket', (SELECT expression FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND kind = 'bucket'),
            'groups', rollup_engine.group_list(p_rollup)));
END
$$;
COMMENT ON FUNCTION rollup_engine.far_arms_sql(silver.rollup_config) IS
'Query of the rows of a distributed rollup, stored and live, as states; a child reads those of its parent.';

CREATE OR REPLACE FUNCTION rollup_engine.far_rows_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- With a table of the coordinator in it, Citus works the WITH out there, even for a query of one shard.
    RETURN format($sql$(
    WITH tsrollup_stale AS MATERIALIZED (
        SELECT s.* FROM silver.rollup_config AS r CROSS JOIN LATERAL rollup_engine.far_stale(r.id) AS s WHERE r.id = ANY (%L)
    )%s
) AS u$sql$, p_rollup.id || ARRAY(SELECT rollup_engine.with_ancestors(p_rollup.parent_id)), rollup_engine.far_arms_sql(p_rollup))
    WHERE rollup_engine.distribution_column(p_rollup.target_table) IS NOT NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.far_rows_sql(silver.rollup_config) IS 'FROM item of the live view of a distributed rollup; NULL for any other.';

CREATE OR REPLACE FUNCTION rollup_engine.views_upon(p_rollup silver.rollup_config) RETURNS SETOF silver.rollup_config
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM silver.rollup_config
    WHERE id IN (SELECT rollup_engine.with_descendants(p_rollup.id)) AND id <> p_rollup.id
        AND rollup_engine.distribution_column(target_table) IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.views_upon(silver.rollup_config) IS 'The rollups whose live views rest on the table of another.';

RESET ROLE;
