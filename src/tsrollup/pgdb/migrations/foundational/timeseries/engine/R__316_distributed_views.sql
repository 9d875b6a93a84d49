-- Live views of rollups that Citus distributes. Each shard answers for itself: what is stored there, and
-- what its raw rows say where that is stale. What is stale is asked of the machinery once, by a WITH, and
-- sent along, so that all arms agree on it; filters and aggregates of who reads go to the shards as well.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.far_stale(
    p_rollup_id integer,
    OUT tsrollup_edges timestamptz[], OUT tsrollup_spans tstzmultirange, OUT tsrollup_starts timestamptz[], OUT tsrollup_ends timestamptz[]
)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_stale constant tstzmultirange := rollup_engine.stale_set(p_rollup_id);
    v_tail tstzmultirange;
    v_finite tstzmultirange;
    v_is_wide boolean;
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    v_tail := rollup_engine.window_tail(v_rollup);
    v_finite := v_stale - v_tail;
    v_is_wide := rollup_engine.is_wide(v_rollup.bucket_width, v_finite);
    -- Arrays, for many ranges take the workers long to read.
    tsrollup_edges := ARRAY(SELECT unnest(ARRAY[coalesce(lower(r), '-infinity'), coalesce(upper(r), 'infinity')]) AS edge FROM unnest(v_stale) AS r ORDER BY edge);
    IF v_is_wide THEN
        v_finite := rollup_engine.finite_stale_set(p_rollup_id);
    END IF;
    -- One by one where an index leads to the rows of each, so that a filter on the bucket leaves few.
    IF v_rollup.parent_id IS NULL AND rollup_engine.has_time_index(v_rollup.source_table, v_rollup.time_column)
        AND (NOT v_is_wide OR rollup_engine.bucket_count(v_rollup.bucket_width, v_finite) <= 20000)
    THEN
        SELECT array_agg(bucket), array_agg(next_bucket) INTO tsrollup_starts, tsrollup_ends FROM rollup_engine.buckets_in(v_rollup, v_finite);
        v_finite := '{}';
    END IF;
    tsrollup_spans := v_finite + v_tail;
END
$$;
COMMENT ON FUNCTION rollup_engine.far_stale(integer) IS
'What is stale of a distributed rollup: starts and ends of the set in turn, and what is computed of it, in spans, which never end, or as single buckets.';

CREATE OR REPLACE FUNCTION rollup_engine.far_part(p_rollup_id integer, p_part text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('(SELECT %s FROM tsrollup_stale WHERE tsrollup_id = %s)', p_part, p_rollup_id)
$$;
COMMENT ON FUNCTION rollup_engine.far_part(integer, text) IS 'Sub-select of what is stale, for the query of a live view.';

CREATE OR REPLACE FUNCTION rollup_engine.far_arms_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A join with what is stale would keep Citus from sending the UNION of a parent's to the shards: its borders are sub-selects.
    RETURN rollup_engine.fill($sql$
    SELECT {stored_columns} FROM {target} WHERE width_bucket(bucket, {edges}) % 2 <> 1
    UNION ALL
    SELECT {all_columns} FROM {source} WHERE {in_spans} AND {bucket} <@ {spans} GROUP BY {groups}$sql$
        || CASE WHEN p_rollup.parent_id IS NULL THEN $sql$
    UNION ALL
    SELECT tsrollup_from, {columns} FROM {source}
    CROSS JOIN (SELECT unnest(tsrollup_starts) AS tsrollup_from, unnest(tsrollup_ends) AS tsrollup_to FROM tsrollup_stale WHERE tsrollup_id = {id}) AS tsrollup_buckets
    WHERE {in_bucket} GROUP BY {groups}$sql$ ELSE '' END,
        jsonb_build_object(
            'id', p_rollup.id,
            'target', p_rollup.target_table,
            'stored_columns', rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}'),
            'columns', rollup_engine.live_select_list(p_rollup, '{dimension,state}', false),
            'all_columns', rollup_engine.live_select_list(p_rollup, '{bucket,dimension,state}', false),
            'source', coalesce(
                (SELECT format('(%s) AS tsrollup_parent', rollup_engine.far_arms_sql(r)) FROM silver.rollup_config AS r WHERE r.id = p_rollup.parent_id),
                p_rollup.source_table::text),
            'edges', rollup_engine.far_part(p_rollup.id, 'tsrollup_edges'),
            'spans', rollup_engine.far_part(p_rollup.id, 'tsrollup_spans'),
            'in_spans', rollup_engine.time_condition(p_rollup, rollup_engine.far_part(p_rollup.id, 'lower(tsrollup_spans)'), $sql$timestamptz 'infinity'$sql$)
                || rollup_engine.row_filter(p_rollup),
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
        SELECT r.id AS tsrollup_id, s.* FROM silver.rollup_config AS r CROSS JOIN LATERAL rollup_engine.far_stale(r.id) AS s WHERE r.id = ANY (%L)
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
