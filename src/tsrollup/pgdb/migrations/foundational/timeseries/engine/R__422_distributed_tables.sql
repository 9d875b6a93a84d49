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

DROP FUNCTION IF EXISTS rollup_engine.far_upsert_sql(silver.rollup_config, text, boolean);
CREATE OR REPLACE FUNCTION rollup_engine.far_insert_sql(p_rollup silver.rollup_config, p_fresh text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('INSERT INTO %s AS t (%s) %s', p_rollup.target_table, rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}'), p_fresh)
$$;
COMMENT ON FUNCTION rollup_engine.far_insert_sql(silver.rollup_config, text) IS 'Stores rows of a distributed source shard by shard, where there are none yet.';

CREATE OR REPLACE FUNCTION rollup_engine.far_upsert_sql(p_rollup silver.rollup_config, p_fresh text, p_scattered boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Compared first, as upsert_sql does. What vanished is written as a group without rows: Citus plans no DELETE beside.
    SELECT rollup_engine.fill($sql$
WITH written AS (
    {insert}SELECT {either}
    FROM (
        {fresh}
    ) AS excluded
    FULL JOIN (SELECT * FROM {target} WHERE bucket >= $1 AND bucket < $2{scattered}) AS t ON {same_key}
    WHERE excluded.bucket IS NULL OR t.bucket IS NULL OR {changed}
    ON CONFLICT ({key}) DO UPDATE SET {assignments}
    RETURNING row_count
)
SELECT count(*) FILTER (WHERE row_count > 0), count(*) FILTER (WHERE row_count = 0) FROM written
$sql$, jsonb_build_object(
        'insert', rollup_engine.far_insert_sql(p_rollup, ''),
        'target', p_rollup.target_table,
        'fresh', p_fresh,
        'scattered', CASE WHEN p_scattered THEN ' AND bucket = ANY ($4)' ELSE '' END,
        'key', rollup_engine.column_names(p_rollup.id, '{bucket,dimension}'),
        'changed', rollup_engine.change_condition(p_rollup.id, true))
        || (SELECT jsonb_build_object(
            'either', string_agg(format(CASE WHEN column_name = 'row_count' THEN 'coalesce(excluded.%1$I, 0)' WHEN kind = 'state' THEN 'excluded.%1$I'
                ELSE 'coalesce(excluded.%1$I, t.%1$I)' END, column_name), ', ' ORDER BY position),
            'assignments', string_agg(format('%1$I = excluded.%1$I', column_name), ', ' ORDER BY position) FILTER (WHERE kind = 'state'),
            -- Arrays hold NULLs to be equal, and find the = of an extension's type: a join by all keys. Elements that are arrays are not told from NULL.
            'same_key', string_agg(format(
                CASE WHEN column_name = rollup_engine.distribution_column(p_rollup.target_table) OR kind = 'bucket' THEN 'excluded.%1$I = t.%1$I'
                    WHEN t.typcategory = 'A' THEN '(excluded.%1$I = t.%1$I OR excluded.%1$I IS NULL AND t.%1$I IS NULL)'
                    ELSE 'ARRAY[excluded.%1$I::%2$s] = ARRAY[t.%1$I]' END, column_name, data_type), ' AND ' ORDER BY position) FILTER (WHERE kind <> 'state'))
        FROM rollup_engine.rollup_column
        LEFT JOIN pg_type AS t ON t.oid = rollup_engine.base_type(rollup_engine.type_called(data_type))
        WHERE rollup_id = p_rollup.id AND kind IN ('bucket', 'dimension', 'state')))
$$;
COMMENT ON FUNCTION rollup_engine.far_upsert_sql(silver.rollup_config, text, boolean) IS
'Stores rows of a distributed source shard by shard over what is there: inserts what is new, updates what changed, and empties groups that vanished; returns how many were written and emptied. $1, $2: the hull of a batch; $4: the starts of its buckets, where they are scattered.';

DROP FUNCTION IF EXISTS rollup_engine.finds_far_groups(silver.rollup_config);
CREATE OR REPLACE FUNCTION rollup_engine.far_delete_sql(p_rollup silver.rollup_config, p_scattered boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('DELETE FROM %s WHERE bucket >= $1 AND bucket < $2%s AND row_count = 0', p_rollup.target_table, CASE WHEN p_scattered THEN ' AND bucket = ANY ($3)' ELSE '' END)
$$;
COMMENT ON FUNCTION rollup_engine.far_delete_sql(silver.rollup_config, boolean) IS 'Deletes the groups that vanished. $1, $2: the hull of a batch; $3: the starts of its buckets, where they are scattered.';

RESET ROLE;
