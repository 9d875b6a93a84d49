-- Tables of rollups that Citus distributes: each shard of a source and what is rolled up of it lie on
-- one worker, which refreshes and reads it by itself.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.follow_distribution(p_rollup silver.rollup_config, p_table regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column constant name := rollup_engine.distribution_column(p_rollup.source_table);
    v_class pg_class;
    v_partition text;
BEGIN
    IF v_column = ANY (p_rollup.dimensions) THEN
        SELECT * INTO v_class FROM pg_class WHERE oid = p_table;
        PERFORM rollup_engine.tell_workers(true);
        PERFORM create_distributed_table(p_table, v_column, colocate_with => p_rollup.source_table::text);
        -- One partition for ever: to a table that has a view, Citus attaches none, for it would make the view on the workers.
        v_partition := format('%s.%I', v_class.relnamespace::regnamespace, rollup_engine.fit_name(v_class.relname, 'all'));
        EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (MINVALUE) TO (MAXVALUE)', v_partition, p_table);
        -- For Citus to move shards while they are written.
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', v_partition);
        -- The workers are asked for the rows of its live view as the role that reads.
        EXECUTE format('GRANT SELECT ON %s TO "${reader_role}"', p_table);
        PERFORM rollup_engine.tell_workers(false);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.follow_distribution(silver.rollup_config, regclass) IS
'Distributes a rollup''s table as its source is, where the column that spreads that is a dimension; else it stays on the coordinator.';

CREATE OR REPLACE FUNCTION rollup_engine.far_fresh_sql(p_rollup silver.rollup_config, p_scattered boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT (p_scattered AND rollup_engine.has_time_index(p_rollup.source_table, p_rollup.time_column)) THEN
        RETURN rollup_engine.fresh_sql(p_rollup, false, p_scattered);
    END IF;
    -- One level, which is a task of each shard: a sub-query for each bucket would not be.
    RETURN concat_ws(E'\n',
        'SELECT tsrollup_batch.tsrollup_from AS bucket, ' || rollup_engine.select_list(p_rollup.id, '{dimension,state}'),
        format('FROM %s CROSS JOIN unnest($4, $5) AS tsrollup_batch (tsrollup_from, tsrollup_to)', p_rollup.source_table),
        'WHERE ' || rollup_engine.time_condition(p_rollup, 'tsrollup_batch.tsrollup_from', 'tsrollup_batch.tsrollup_to'),
        'AND ' || rollup_engine.time_condition(p_rollup, '$1', '$2') || rollup_engine.row_filter(p_rollup),
        'GROUP BY ' || rollup_engine.group_list(p_rollup));
END
$$;
COMMENT ON FUNCTION rollup_engine.far_fresh_sql(silver.rollup_config, boolean) IS
'The query of a batch, as Citus plans it for each shard. $1, $2: its hull; $4, $5: starts and ends of its buckets.';

CREATE OR REPLACE FUNCTION rollup_engine.far_upsert_sql(p_rollup silver.rollup_config, p_fresh text, p_empty boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill($sql$
INSERT INTO {target} AS t ({columns})
{fresh}
$sql$ || CASE WHEN p_empty THEN '' ELSE $sql$ON CONFLICT ({key}) DO UPDATE SET {assignments}
WHERE {changed}
$sql$ END, jsonb_build_object(
        'target', p_rollup.target_table,
        'columns', rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}'),
        'fresh', p_fresh,
        'key', rollup_engine.column_names(p_rollup.id, '{bucket,dimension}'),
        'assignments', (
            SELECT string_agg(format('%1$I = excluded.%1$I', column_name), ', ' ORDER BY position)
            FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND kind = 'state'),
        'changed', rollup_engine.change_condition(p_rollup.id, true)))
$$;
COMMENT ON FUNCTION rollup_engine.far_upsert_sql(silver.rollup_config, text, boolean) IS 'Stores fresh rows of a distributed source shard by shard: inserts what is new, updates what changed.';

CREATE OR REPLACE FUNCTION rollup_engine.finds_far_groups(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- With more dimensions, each group would be looked for among all of the same device.
    SELECT p_rollup.dimensions = ARRAY[d.name]
        AND rollup_engine.has_time_index(p_rollup.source_table, p_rollup.time_column)
        AND rollup_engine.has_key_index(p_rollup.source_table, d.name, p_rollup.time_column)
    FROM rollup_engine.distribution_column(p_rollup.source_table) AS d (name)
$$;
COMMENT ON FUNCTION rollup_engine.finds_far_groups(silver.rollup_config) IS 'Whether indexes of a distributed source lead to its times, and to the rows of each group.';

CREATE OR REPLACE FUNCTION rollup_engine.far_delete_sql(p_rollup silver.rollup_config, p_scattered boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    SELECT rollup_engine.fill($sql$
DELETE FROM {target} AS t
WHERE t.bucket >= $1 AND t.bucket < $2{scattered}
    AND NOT EXISTS (SELECT 1 FROM {source} AS tsrollup_rows WHERE {time} AND {time_of_bucket} AND {same_key}{filter}{one_by_one})
$sql$, jsonb_build_object(
        'target', p_rollup.target_table,
        'scattered', CASE WHEN p_scattered THEN ' AND t.bucket = ANY ($3)' ELSE '' END,
        'source', p_rollup.source_table,
        'time', rollup_engine.time_condition(p_rollup, '$1', '$2'),
        -- No shorter than the bucket, for an index.
        'time_of_bucket', rollup_engine.time_condition(p_rollup, 't.bucket', format('(t.bucket + interval %L)', make_interval(
            secs => (31 * rollup_engine.width_months(w) * 86400 + extract(day FROM w) * 90000
                + extract(epoch FROM w - make_interval(months => rollup_engine.width_months(w), days => extract(day FROM w)::integer)))::double precision))),
        'filter', rollup_engine.row_filter(p_rollup),
        -- Where an index leads to the rows of each group, rather than by a join with all rows of the hull.
        'one_by_one', CASE WHEN rollup_engine.finds_far_groups(p_rollup) THEN ' OFFSET 0' ELSE '' END,
        -- Arrays hold NULLs to be equal, and find the = of an extension's type: a join by all keys. Elements that are arrays are not told from NULL.
        'same_key', (
            SELECT string_agg(format(
                CASE WHEN column_name = rollup_engine.distribution_column(p_rollup.target_table) OR kind = 'bucket' THEN '(%1$s) = t.%2$I'
                    WHEN t.typcategory = 'A' THEN '((%1$s) = t.%2$I OR (%1$s) IS NULL AND t.%2$I IS NULL)'
                    ELSE 'ARRAY[(%1$s)::%3$s] = ARRAY[t.%2$I]' END, expression, column_name, data_type), ' AND ' ORDER BY position)
            FROM rollup_engine.rollup_column
            LEFT JOIN pg_type AS t ON t.oid = rollup_engine.base_type(rollup_engine.type_called(data_type))
            WHERE rollup_id = p_rollup.id AND kind IN ('bucket', 'dimension'))))
    FROM (SELECT p_rollup.bucket_width) AS b (w)
$$;
COMMENT ON FUNCTION rollup_engine.far_delete_sql(silver.rollup_config, boolean) IS 'Deletes the groups of a distributed source that it has no rows of any more. $1, $2: the hull of a batch; $3: the starts of its buckets, where they are scattered.';

RESET ROLE;
