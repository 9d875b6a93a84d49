-- The statement that recomputes single groups of buckets: $1, $2 is the hull of the buckets; $3, $4, $5
-- are their starts and ends and the texts of their keys, one of each for a group.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.groups_sql(p_relation regclass, p_column name) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The collation is one by which equal texts are the same; that of the column, for its index.
    RETURN format('SELECT bucket AS tsrollup_bucket, next_bucket AS tsrollup_next, key::%s%s AS tsrollup_key FROM unnest($3, $4, $5) AS tsrollup_g (bucket, next_bucket, key)',
        CASE t.type WHEN 'varchar'::regtype THEN 'text'::regtype ELSE t.type END,
        CASE WHEN a.attcollation <> 0 THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END)
    FROM pg_attribute AS a CROSS JOIN LATERAL rollup_engine.base_type(a.atttypid) AS t (type)
    WHERE a.attrelid = p_relation AND a.attname = p_column;
END
$$;
COMMENT ON FUNCTION rollup_engine.groups_sql(regclass, name) IS 'Query for the groups, their keys as values of the column.';

CREATE OR REPLACE FUNCTION rollup_engine.reads_groups_by_index(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The table of a rollup has its unique index.
    RETURN p_rollup.parent_id IS NOT NULL
        OR rollup_engine.has_key_index(p_rollup.source_table, rollup_engine.source_name(p_rollup, p_rollup.key_dimension), p_rollup.time_column);
END
$$;
COMMENT ON FUNCTION rollup_engine.reads_groups_by_index(silver.rollup_config) IS 'Whether the rows of a group can be had without reading those of the others.';

CREATE OR REPLACE FUNCTION rollup_engine.fresh_groups_sql(p_rollup silver.rollup_config, p_by_bucket boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key constant name := rollup_engine.source_name(p_rollup, p_rollup.key_dimension);
    v_groups constant text := rollup_engine.groups_sql(p_rollup.source_table, v_key);
BEGIN
    IF NOT rollup_engine.reads_groups_by_index(p_rollup) THEN
        RETURN rollup_engine.grouped_sql(p_rollup, p_rollup.source_table::text, '$1', '$2', format(' AND (%s, %I) IN (SELECT tsrollup_bucket, tsrollup_key FROM (%s) AS g)',
            (SELECT expression FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND kind = 'bucket'), v_key, v_groups));
    END IF;
    -- Joined rather than LATERAL, the planner would compare all rows of a key with each of its buckets. The buckets
    -- of a parent are named, as its index begins with them, unless these are many more than its rows.
    RETURN rollup_engine.per_bucket_sql(p_rollup,
        CASE WHEN p_by_bucket THEN format('(SELECT b.bucket AS tsrollup_part FROM silver.rollup_config AS p CROSS JOIN LATERAL rollup_engine.buckets_in(p,
            rollup_engine.bucket_align(p, tstzmultirange(tstzrange(tsrollup_batch.bucket, tsrollup_batch.next_bucket)))) AS b WHERE p.id = %s) AS tsrollup_parts CROSS JOIN ',
            p_rollup.parent_id) ELSE '' END || p_rollup.source_table,
        format('(%s)', v_groups), '$1', '$2',
        format(' AND %I = tsrollup_batch.tsrollup_key', v_key) || CASE WHEN p_by_bucket THEN ' AND bucket = tsrollup_part' ELSE '' END);
END
$$;
COMMENT ON FUNCTION rollup_engine.fresh_groups_sql(silver.rollup_config, boolean) IS 'What the source says of the groups: each by the index, or all from one scan of the hull.';

CREATE OR REPLACE FUNCTION rollup_engine.store_groups_sql(p_rollup silver.rollup_config, p_by_bucket boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN rollup_engine.upsert_sql(p_rollup, rollup_engine.fresh_groups_sql(p_rollup, p_by_bucket),
        format('t.bucket >= $1 AND t.bucket < $2 AND (t.bucket, t.%I) IN (SELECT tsrollup_bucket, tsrollup_key FROM (%s) AS g)',
            p_rollup.key_dimension, rollup_engine.groups_sql(p_rollup.target_table, p_rollup.key_dimension)));
END
$$;
COMMENT ON FUNCTION rollup_engine.store_groups_sql(silver.rollup_config, boolean) IS 'The statement that recomputes groups and stores what changed of them.';

RESET ROLE;
