-- Watching over rollups: are they sound, how large, how fast, which indexes would help?

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
-- What these call is the engine, which comes after all versions.
SET LOCAL check_function_bodies = off;

CREATE FUNCTION silver.validate_rollup_config()
RETURNS TABLE (target text, is_valid boolean, problem text, hint text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.target_table::text, p.problem IS NULL, p.problem, p.hint
    FROM silver.rollup_config AS r
    LEFT JOIN LATERAL rollup_engine.rollup_problems(r) AS p ON true
    UNION ALL
    SELECT t.relation::text, true, w.problem, w.hint
    FROM rollup_engine.retention AS t
    JOIN pg_class AS c ON c.oid = t.relation
    CROSS JOIN LATERAL rollup_engine.keep_warnings(t.relation) AS w
$$;
COMMENT ON FUNCTION silver.validate_rollup_config() IS 'Checks every rollup: relations, query, rights, unique index, capture triggers. A row per problem with what to do, or one row that says the rollup is valid; a problem of a valid one, or of a table with retention, is a warning.';

CREATE FUNCTION silver.get_detailed_stats(table_pattern text)
RETURNS TABLE (
    table_name text, kind text, live_view text, first_time timestamptz, last_time timestamptz,
    partitions bigint, estimated_rows bigint, dead_rows bigint, table_bytes bigint, index_bytes bigint, bytes_per_row double precision,
    stale_buckets bigint, batches_last_day bigint, mean_batch_duration interval, rows_written_last_day bigint,
    query_calls bigint, query_mean_ms double precision, last_analyzed_at timestamptz
)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Not SECURITY DEFINER: whose statements are shown is up to the caller's rights.
    SELECT d.table_name, d.kind, d.live_view, d.first_time, d.last_time,
        d.partitions, d.estimated_rows, d.dead_rows, d.table_bytes, d.index_bytes, d.bytes_per_row,
        d.stale_buckets, d.batches_last_day, d.mean_batch_duration, d.rows_written_last_day,
        q.calls, q.mean_ms, d.last_analyzed_at
    FROM rollup_engine.detailed_statistics(table_pattern) AS d
    CROSS JOIN LATERAL rollup_engine.statement_statistics(array_remove(ARRAY[d.table_name, d.live_view], NULL)) AS q
    ORDER BY d.kind DESC, d.table_name
$$;
COMMENT ON FUNCTION silver.get_detailed_stats(text) IS
'A row per rollup and per source whose name (with or without schema, or that of its live view) is LIKE the pattern; ''%'' or NULL for all. Sizes in bytes, with partitions; rows by the planner''s statistics; times of the last day''s batches; calls and mean time, in ms, of the queries that name the table or the live view, as far as the caller may see them (pg_read_all_stats: all), NULL without pg_stat_statements.';

CREATE FUNCTION silver.get_partition_stats(table_name text)
RETURNS TABLE (
    partition_name text, from_time timestamptz, to_time timestamptz, is_sealed boolean, estimated_rows bigint, dead_rows bigint,
    table_bytes bigint, index_bytes bigint, last_vacuumed_at timestamptz, last_analyzed_at timestamptz
)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup_id constant integer := rollup_engine.find_rollup_id(table_name);
    v_relation constant regclass := rollup_engine.find_table(table_name);
BEGIN
    RETURN QUERY
        SELECT m.member::text, nullif(m.from_time, '-infinity'), nullif(m.to_time, 'infinity'),
            coalesce(m.to_time <= (
                SELECT min(coalesce(r.sealed_before, '-infinity')) FROM silver.rollup_config AS r
                WHERE r.id = v_rollup_id OR v_rollup_id IS NULL AND r.source_table = v_relation), false),
            CASE WHEN c.reltuples < 0 THEN NULL ELSE c.reltuples::bigint END, s.n_dead_tup,
            pg_table_size(c.oid), pg_indexes_size(c.oid),
            greatest(s.last_vacuum, s.last_autovacuum), greatest(s.last_analyze, s.last_autoanalyze)
        FROM rollup_engine.partition_bounds(v_relation) AS m
        JOIN pg_class AS c ON c.oid = m.member AND c.relkind = 'r'
        LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
        ORDER BY m.from_time, m.member::text;
END
$$;
COMMENT ON FUNCTION silver.get_partition_stats(text) IS
'A row per partition of a rollup or a source (a table without partitions is its own), oldest first: range (NULL where it has no border), whether it is sealed, size in bytes, rows by the planner''s statistics (NULL before the first analyze), last vacuum and analyze.';

CREATE FUNCTION silver.suggest_indexes(table_name text, queries text[] DEFAULT NULL)
RETURNS TABLE (
    create_index text,
    index_size bigint,
    query text,
    cost_before double precision,
    cost_after double precision
)
    LANGUAGE sql
AS $$
    -- No SET clause: the path is the caller's.
    SELECT * FROM rollup_engine.suggest(table_name, queries, pg_catalog.current_setting('search_path'))
$$;
COMMENT ON FUNCTION silver.suggest_indexes(text, text[]) IS
'Indexes that would make queries on a table or rollup cheaper, by hypopg''s hypothetical ones: the statement, its size in bytes, and the planner''s cost of each query before and after. Without queries, those of the caller''s own that pg_stat_statements has seen, else one value over some time of each dimension and of each column that others filter by. Creates nothing.';

RESET ROLE;
