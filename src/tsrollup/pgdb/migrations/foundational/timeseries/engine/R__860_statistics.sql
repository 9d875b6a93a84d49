-- Statistics of rollups, their sources, and their partitions: sizes, rows, what is
-- stale, how refreshing goes, and how long people's queries take.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

DROP FUNCTION IF EXISTS rollup_engine.time_extent(regclass, text, name);
CREATE OR REPLACE FUNCTION rollup_engine.time_extent(p_relation regclass, p_column name, p_type regtype, p_unit text) RETURNS tstzrange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_extent tstzrange;
BEGIN
    IF rollup_engine.has_time_index(p_relation, p_column) THEN
        EXECUTE rollup_engine.fill(
            'SELECT tstzrange({f}, {t}, ''[]'') FROM (SELECT min({column}) AS f, max({column}) AS t FROM {relation} WHERE {column} >= {low} AND {column} < {high}) AS found',
            jsonb_build_object('column', quote_ident(p_column), 'relation', p_relation::text,
                'f', rollup_engine.time_expression('f', p_type, p_unit), 't', rollup_engine.time_expression('t', p_type, p_unit),
                'low', rollup_engine.time_literal(lower(rollup_engine.calendar()), p_type, p_unit),
                'high', rollup_engine.time_literal(upper(rollup_engine.calendar()), p_type, p_unit)))
        INTO v_extent;
    END IF;
    RETURN v_extent;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.time_extent(regclass, name, regtype, text) IS 'First and last time of a table that belongs to a bucket, NULL where no index would answer, or the machinery may not read it.';

CREATE OR REPLACE FUNCTION rollup_engine.statement_statistics(p_relations text[], OUT calls bigint, OUT mean_ms double precision)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
DECLARE
    v_schema constant text := (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pg_stat_statements');
BEGIN
    IF v_schema IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format($sql$
        SELECT sum(s.calls)::bigint, sum(s.total_exec_time) / nullif(sum(s.calls), 0)
        FROM %s.pg_stat_statements AS s
        WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND s.query ~* '^\s*(SELECT|WITH|TABLE)\M'
            AND s.query ~ $1
        $sql$, v_schema)
    INTO calls, mean_ms
    USING (
        SELECT '(^|[^[:alnum:]_.])(' || string_agg(regexp_replace(r, '([^[:alnum:]_ ])', '\\\1', 'g'), '|') || ')([^[:alnum:]_]|$)'
        FROM unnest(p_relations) AS r);
EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege OR undefined_table OR character_not_in_repertoire OR untranslatable_character THEN
    NULL;  -- installed, but not loaded into this server, or not for this role; or it has texts of a database in another encoding
END
$$;
COMMENT ON FUNCTION rollup_engine.statement_statistics(text[]) IS
'Calls and mean time, in ms, of the queries that name one of the relations, by pg_stat_statements; NULL without it.';

CREATE OR REPLACE FUNCTION rollup_engine.storage_statistics(
    p_relation regclass,
    OUT partitions bigint, OUT estimated_rows bigint, OUT dead_rows bigint,
    OUT table_bytes bigint, OUT index_bytes bigint, OUT last_analyzed_at timestamptz
)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*) FILTER (WHERE c.oid <> p_relation), rollup_engine.estimated_rows(p_relation)::bigint, sum(s.n_dead_tup)::bigint,
        sum(pg_table_size(c.oid))::bigint, sum(pg_indexes_size(c.oid))::bigint, max(greatest(s.last_analyze, s.last_autoanalyze))
    FROM rollup_engine.partition_tree(p_relation) AS t (member)
    JOIN pg_class AS c ON c.oid = t.member
    LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
$$;
COMMENT ON FUNCTION rollup_engine.storage_statistics(regclass) IS 'Size and rows of a table with all its partitions; rows by the planner''s statistics.';

CREATE OR REPLACE FUNCTION rollup_engine.partition_statistics(p_table_name text)
RETURNS TABLE (
    partition_name text, from_time timestamptz, to_time timestamptz, is_sealed boolean, estimated_rows bigint, dead_rows bigint,
    table_bytes bigint, index_bytes bigint, last_vacuumed_at timestamptz, last_analyzed_at timestamptz
)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup_id constant integer := rollup_engine.find_rollup_id(p_table_name);
    v_relation constant regclass := rollup_engine.find_table(p_table_name);
BEGIN
    RETURN QUERY
        -- Bounds of numbers may be no times.
        SELECT m.member::text, CASE WHEN isfinite(m.from_time) THEN m.from_time END, CASE WHEN isfinite(m.to_time) THEN m.to_time END,
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
COMMENT ON FUNCTION rollup_engine.partition_statistics(text) IS 'What get_partition_stats shows.';

CREATE OR REPLACE FUNCTION rollup_engine.detailed_statistics(p_pattern text)
RETURNS TABLE (
    table_name text, kind text, live_view text, first_time timestamptz, last_time timestamptz,
    partitions bigint, estimated_rows bigint, dead_rows bigint, table_bytes bigint, index_bytes bigint, bytes_per_row double precision,
    stale_buckets bigint, batches_last_day bigint, mean_batch_duration interval, rows_written_last_day bigint,
    last_analyzed_at timestamptz
)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH tables AS (
        SELECT r.target_table AS relation, 'rollup' AS kind, r.target_view::text AS live_view, r.id AS rollup_id,
            name 'bucket' AS time_column, 'timestamptz'::regtype AS time_type, NULL AS time_unit
        FROM silver.rollup_config AS r
        UNION ALL
        SELECT DISTINCT ON (s.relation) s.relation, 'source', NULL, NULL,
            s.time_column, s.time_type, s.time_unit
        FROM rollup_engine.source AS s
    )
    SELECT t.relation::text, t.kind, t.live_view, lower(e.extent), upper(e.extent),
        d.partitions, d.estimated_rows, d.dead_rows, d.table_bytes, d.index_bytes,
        (d.table_bytes + d.index_bytes)::float8 / nullif(d.estimated_rows, 0),
        CASE WHEN t.rollup_id IS NOT NULL THEN rollup_engine.bucket_count(
            (SELECT bucket_width FROM silver.rollup_config WHERE id = t.rollup_id), rollup_engine.known_stale_set(t.rollup_id)) END,
        l.batches, l.mean_duration, l.rows_written, d.last_analyzed_at
    FROM tables AS t
    JOIN pg_class AS c ON c.oid = t.relation
    CROSS JOIN LATERAL rollup_engine.storage_statistics(t.relation) AS d
    CROSS JOIN LATERAL (SELECT rollup_engine.time_extent(t.relation, t.time_column, t.time_type, t.time_unit) AS extent) AS e
    CROSS JOIN LATERAL (
        SELECT count(*) AS batches, avg(finished_at - started_at) AS mean_duration, sum(rows_written)::bigint AS rows_written
        FROM silver.refresh_log AS l
        WHERE t.kind = 'rollup' AND l.target_table = t.relation::text AND l.finished_at > now() - interval '1 day'
    ) AS l
    WHERE coalesce(p_pattern, '%') = '%' OR t.relation::text LIKE p_pattern OR t.live_view LIKE p_pattern OR c.relname LIKE p_pattern
$$;
COMMENT ON FUNCTION rollup_engine.detailed_statistics(text) IS 'What get_detailed_stats shows, but for people''s queries.';

RESET ROLE;
