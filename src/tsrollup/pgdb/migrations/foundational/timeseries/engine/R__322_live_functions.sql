-- The functions by which live views read what is stale: a rollup's buckets in a range, or one group of them,
-- from raw rows or from what its parent says there.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- What they ask while they run --------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.raw_rows_of_group(p_rollup silver.rollup_config, p_from timestamptz, p_to timestamptz) RETURNS double precision
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_generic_plan'
AS $$
BEGIN
    -- As many rows of the parent as it has buckets there, each made of as many raw ones as is usual.
    RETURN (
        SELECT s.source_rows / nullif(p_rollup.source_rows, 0) * extract(epoch FROM p_to - p_from) / extract(epoch FROM p.bucket_width)
        FROM silver.rollup_config AS p, silver.rollup_config AS s
        WHERE p.id = p_rollup.parent_id AND s.source_id = p_rollup.source_id AND s.parent_id IS NULL
        ORDER BY s.id LIMIT 1);
END
$$;
COMMENT ON FUNCTION rollup_engine.raw_rows_of_group(silver.rollup_config, timestamptz, timestamptz) IS 'How many raw rows a group of a rollup of a rollup has about in a range; NULL where nobody knows.';

CREATE OR REPLACE FUNCTION rollup_engine.raw_of_group(p_rollup silver.rollup_config, p_line integer[], p_from timestamptz, p_to timestamptz) RETURNS regclass
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_generic_plan'
AS $$
BEGIN
    IF rollup_engine.raw_rows_of_group(p_rollup, p_from, p_to) <= rollup_engine.rows_of_a_group() * p_rollup.depth
        AND NOT EXISTS (SELECT FROM silver.rollup_config WHERE id = ANY (p_line) AND sealed_before > p_from)
    THEN
        RETURN c.oid FROM rollup_engine.source AS s JOIN pg_class AS c ON c.oid = s.relation WHERE s.id = p_rollup.source_id;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.raw_of_group(silver.rollup_config, integer[], timestamptz, timestamptz) IS
'The raw table where a group in a range is to be read from it rather than from the parent: it is there in all that the rollup reads, and costs less than to go down through the levels; else NULL.';

CREATE OR REPLACE FUNCTION rollup_engine.raw_of_range(p_source_id integer, p_above integer[], p_from timestamptz, p_to timestamptz) RETURNS regclass
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_generic_plan'
AS $$
BEGIN
    -- Nothing sealed is stale.
    RETURN (
        SELECT c.oid FROM rollup_engine.source AS s JOIN pg_class AS c ON c.oid = s.relation
        WHERE s.id = p_source_id AND NOT EXISTS (
            SELECT FROM unnest(p_above) AS a (id)
            WHERE NOT tstzrange(p_from, p_to) <@ rollup_engine.stale_set(id, NULL, tstzrange(p_from, p_to), rollup_engine.keys_of_wholes(id))));
END
$$;
COMMENT ON FUNCTION rollup_engine.raw_of_range(integer, integer[], timestamptz, timestamptz) IS
'The raw table where a range in which all of a parent is stale is to be read from it: nothing is stored in what that reads, at any level; else NULL.';

-- What is generated for a rollup ------------------------------------------------------------------

DROP FUNCTION IF EXISTS rollup_engine.live_select_list(integer);
CREATE OR REPLACE FUNCTION rollup_engine.live_select_list(p_rollup silver.rollup_config, p_kinds text[], p_from_raw boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Cast to what the function returns where that keeps every value or fails: until a run takes in
    -- that a source's column was widened, reads go on.
    SELECT string_agg(format(
        CASE WHEN data_type IN ('smallint', 'integer', 'bigint', 'text', 'character varying') THEN '(%1$s)::%3$s AS %2$I' ELSE '%1$s AS %2$I' END,
        expression, column_name, data_type), ', ' ORDER BY place)
    FROM (
        SELECT position, column_name, kind, data_type, expression FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND NOT p_from_raw
        UNION ALL
        SELECT * FROM rollup_engine.columns_from_raw(p_rollup) WHERE p_from_raw
    ) AS c (place, column_name, kind, data_type, expression)
    WHERE kind = ANY (p_kinds)
$$;
COMMENT ON FUNCTION rollup_engine.live_select_list(silver.rollup_config, text[], boolean) IS 'Expressions over the source, or over raw rows, in the types of the table.';

DROP FUNCTION IF EXISTS rollup_engine.live_source_sql(integer);
CREATE OR REPLACE FUNCTION rollup_engine.live_source_sql(p_parent silver.rollup_config, p_kind text, p_key_condition text DEFAULT '') RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- By a range, where a filter on the bucket reaches the source at any depth; the view has one only at its top.
    -- The columns are written out: an older snapshot knows nothing of those that were added since.
    SELECT rollup_engine.fill(CASE p_kind WHEN 'groups' THEN $sql$(
    SELECT {columns} FROM %s AS t
    WHERE t.bucket >= $1 AND t.bucket < $2 AND NOT t.bucket <@ $4 AND (NOT t.bucket <@ $3 OR t.{key} IS NULL OR (t.bucket, t.{key}::text COLLATE "C") NOT IN (
        SELECT g.bucket, g.key COLLATE "C" FROM rollup_engine.live_groups_in({id}, 9223372036854775806, tstzrange($1, $2)) AS g))
    UNION ALL
    SELECT {fresh_columns}
    FROM rollup_engine.live_groups_in({id}, 9223372036854775806, tstzrange($1, $2)) AS g CROSS JOIN LATERAL rollup_engine.live_group_{id}(g.bucket, g.next_bucket, g.key) AS f
    UNION ALL
    SELECT {fresh_columns}
    FROM unnest(rollup_engine.in_few_pieces($4)) AS r CROSS JOIN LATERAL rollup_engine.live_{id}(lower(r), upper(r)) AS f
    WHERE f.bucket <@ $4
) AS tsrollup_parent$sql$ ELSE $sql$(
    SELECT {columns} FROM %s AS t WHERE bucket >= $1 AND bucket < $2 AND NOT bucket <@ $3{key_condition}
    UNION ALL
    SELECT {fresh_columns}
    FROM unnest(rollup_engine.in_few_pieces($3)) AS r CROSS JOIN LATERAL rollup_engine.live_{group}{id}(lower(r), upper(r){argument}) AS f
    WHERE f.bucket <@ $3
) AS tsrollup_parent$sql$ END, replace(jsonb_build_object(
        'id', p_parent.id, 'key', quote_ident(p_parent.key_dimension), 'key_condition', p_key_condition,
        'group', CASE p_kind WHEN 'group' THEN 'group_' ELSE '' END, 'argument', CASE p_kind WHEN 'group' THEN ', $4' ELSE '' END,
        'columns', rollup_engine.column_names(p_parent.id, '{bucket,dimension,state}', 't.'),
        'fresh_columns', rollup_engine.column_names(p_parent.id, '{bucket,dimension,state}', 'f.'))::text, '%', '%%')::jsonb)
    WHERE p_parent.id IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.live_source_sql(silver.rollup_config, text, text) IS
'FROM item, with a mark for its table, for the states of a rollup from $1 to $2 in the snapshot of who asks, $3 being its stale set there: of all; of the one group whose key is $4; or of all where some groups are stale, and whole buckets in $4.';

CREATE OR REPLACE FUNCTION rollup_engine.live_clauses(
    p_rollup silver.rollup_config, p_is_raw boolean, OUT source_table regclass, OUT of_one text, OUT condition text, OUT by_dimensions text
)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.source_table, rollup_engine.live_select_list(p_rollup, '{dimension,state}', p_is_raw),
        rollup_engine.time_condition(r, '$1', '$2') || rollup_engine.row_filter(r),
        coalesce((SELECT 'GROUP BY ' || string_agg((n + 1)::text, ', ') FROM generate_series(1, cardinality(p_rollup.dimensions)) AS n), 'HAVING count(*) > 0')
    FROM (SELECT (CASE WHEN p_is_raw THEN rollup_engine.as_of_raw(p_rollup) ELSE p_rollup END).*) AS r
$$;
COMMENT ON FUNCTION rollup_engine.live_clauses(silver.rollup_config, boolean) IS
'What a GROUP BY of one bucket, from $1 to $2, is made of; of one bucket, nobody needs to work out which it is.';

CREATE OR REPLACE FUNCTION rollup_engine.live_query_sql(p_rollup silver.rollup_config, p_is_raw boolean, p_table text, p_source text, p_key_condition text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill($sql$CASE
        WHEN rollup_engine.bucket_next(v_rollup, v_from) = v_to THEN format('SELECT $1, %s FROM %s WHERE %s %s', {of_one}, format({source}, {table}), {condition}, {by_dimensions})
        ELSE format('SELECT %s FROM %s WHERE %s GROUP BY %s', {of_all}, format({source}, {table}), {condition}, {by_bucket}) END$sql$, jsonb_build_object(
        'table', p_table,
        'source', p_source,
        'of_one', quote_literal(c.of_one),
        'of_all', quote_literal(rollup_engine.live_select_list(p_rollup, '{bucket,dimension,state}', p_is_raw)),
        'by_dimensions', quote_literal(c.by_dimensions),
        'by_bucket', quote_literal(rollup_engine.group_list(p_rollup)),
        'condition', quote_literal(c.condition || p_key_condition)))
    FROM rollup_engine.live_clauses(p_rollup, p_is_raw) AS c
$$;
COMMENT ON FUNCTION rollup_engine.live_query_sql(silver.rollup_config, boolean, text, text, text) IS
'Expression, within a function of live_function_sql, for a GROUP BY from v_from to v_to over a FROM item with a mark for its table, both of them expressions as well.';

CREATE OR REPLACE FUNCTION rollup_engine.live_bucket_sql(p_rollup silver.rollup_config, p_table text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Planned each time, for few partitions, but parsed once: that is half of what a bucket costs beside its rows.
    SELECT coalesce((
        SELECT rollup_engine.fill($sql$
    IF {table}::text = {name} AND rollup_engine.bucket_next(v_rollup, v_from) = v_to THEN
        p_from := v_from;
        p_to := v_to;
        RETURN QUERY {query};
        RETURN;
    END IF;$sql$, jsonb_build_object('table', p_table, 'name', quote_literal(c.source_table::text), 'query', q.query))
        FROM rollup_engine.live_clauses(p_rollup, true) AS c
        CROSS JOIN LATERAL format('SELECT $1, %s FROM %s WHERE %s %s', c.of_one, c.source_table, c.condition, c.by_dimensions) AS q (query)
        -- No column may be taken for a variable, above all when it is gone; nor may any be gone already.
        WHERE rollup_engine.is_relation(c.source_table)
            AND NOT EXISTS (SELECT FROM rollup_engine.read_columns(rollup_engine.as_of_raw(p_rollup)) AS r WHERE r.attnum IS NULL)
            AND q.query !~ '(^|[^a-z0-9_])(found|[pv]_(from|to|rollup|raw|stale|wholes)|"[$][0-9]+")([^a-z0-9_]|$)'), '')
$$;
COMMENT ON FUNCTION rollup_engine.live_bucket_sql(silver.rollup_config, text) IS
'What such a function does for one bucket of the raw table, an expression, while that has the name that it has now: the same as live_query_sql, for a rollup that reads_plain_columns.';

CREATE OR REPLACE FUNCTION rollup_engine.live_group_reading_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill(CASE WHEN p_rollup.parent_id IS NOT NULL AND rollup_engine.reads_groups(p_rollup) AND rollup_engine.reads_plain_columns(p_rollup) THEN $sql$
    v_raw := rollup_engine.raw_of_group(v_rollup, {line}, v_from, v_to);
    IF v_raw IS NOT NULL THEN
        RETURN QUERY EXECUTE {of_raw} USING v_from, v_to, v_stale, p_key;
        RETURN;
    END IF;$sql$ ELSE '' END || CASE WHEN p_rollup.parent_id IS NULL THEN '' ELSE $sql$
    PERFORM rollup_engine.hear_invalidations();  -- the plan that is made next knows every partition that has a generation
    v_stale := rollup_engine.stale_set({parent}, 9223372036854775806, tstzrange(v_from, v_to), ARRAY[p_key]);$sql$ END || $sql$
    RETURN QUERY EXECUTE {of_source} USING v_from, v_to, v_stale, p_key;$sql$, jsonb_build_object(
        'line', quote_literal((ARRAY[p_rollup.id] || ARRAY(SELECT rollup_engine.with_ancestors(p_rollup.parent_id)))::text),
        'parent', p_rollup.parent_id,
        'of_raw', CASE WHEN rollup_engine.reads_plain_columns(p_rollup)
            THEN rollup_engine.live_query_sql(p_rollup, true, 'v_raw', quote_literal('%s'), rollup_engine.group_condition(rollup_engine.as_of_raw(p_rollup))) END,
        'of_source', rollup_engine.live_query_sql(p_rollup, false, 'v_rollup.source_table', quote_literal(coalesce(
            (SELECT rollup_engine.live_source_sql(p, 'group', k.condition) FROM silver.rollup_config AS p WHERE p.id = p_rollup.parent_id), '%s')), k.condition)))
    FROM rollup_engine.group_condition(p_rollup) AS k (condition)
$$;
COMMENT ON FUNCTION rollup_engine.live_group_reading_sql(silver.rollup_config) IS 'What such a function does for one group: from raw rows where that is less than going down through the levels.';

CREATE OR REPLACE FUNCTION rollup_engine.live_reading_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill(CASE WHEN p_rollup.parent_id IS NULL THEN '' ELSE $sql$
    PERFORM rollup_engine.hear_invalidations();  -- the plan that is made next knows every partition that has a generation
    v_stale := rollup_engine.stale_set({parent}, 9223372036854775806, tstzrange(v_from, v_to));$sql$ END || CASE WHEN p.has_groups THEN $sql$
    v_wholes := CASE WHEN NOT isempty(v_stale) AND rollup_engine.keys_of_wholes({parent}) IS NOT NULL
        THEN rollup_engine.stale_set({parent}, 9223372036854775806, tstzrange(v_from, v_to), '{}') ELSE v_stale END;$sql$ ELSE '' END
        || CASE WHEN p_rollup.parent_id IS NOT NULL AND rollup_engine.reads_plain_columns(p_rollup) THEN $sql$
    IF v_from < v_to AND tstzrange(v_from, v_to) <@ coalesce(v_wholes, v_stale) THEN
        v_raw := rollup_engine.raw_of_range(v_rollup.source_id, {above}, v_from, v_to);
        IF v_raw IS NOT NULL THEN{bucket}
            RETURN QUERY EXECUTE {of_raw} USING v_from, v_to;
            RETURN;
        END IF;
    END IF;$sql$ ELSE '' END || CASE WHEN p_rollup.parent_id IS NULL THEN '{bucket}' ELSE '' END || $sql$
    RETURN QUERY EXECUTE {query} USING v_from, v_to, v_stale, v_wholes;$sql$, jsonb_build_object(
        'parent', p_rollup.parent_id,
        'bucket', CASE WHEN rollup_engine.reads_plain_columns(p_rollup)
            THEN rollup_engine.live_bucket_sql(p_rollup, CASE WHEN p_rollup.parent_id IS NULL THEN 'v_rollup.source_table' ELSE 'v_raw' END) ELSE '' END,
        'above', quote_literal(ARRAY(SELECT a FROM rollup_engine.with_ancestors(p_rollup.parent_id) AS a WHERE a <> p_rollup.parent_id)::text),
        'of_raw', CASE WHEN rollup_engine.reads_plain_columns(p_rollup) THEN rollup_engine.live_query_sql(p_rollup, true, 'v_raw', quote_literal('%s'), '') END,
        'query', rollup_engine.live_query_sql(p_rollup, false, 'v_rollup.source_table', CASE WHEN p.has_groups
            THEN format('CASE WHEN v_wholes = v_stale THEN %L ELSE %L END', rollup_engine.live_source_sql(p.p, 'all'), rollup_engine.live_source_sql(p.p, 'groups'))
            ELSE quote_literal(coalesce(rollup_engine.live_source_sql(p.p, 'all'), '%s')) END, '')))
    FROM (SELECT) AS one
    LEFT JOIN LATERAL (SELECT p, rollup_engine.reads_groups(p) FROM silver.rollup_config AS p WHERE p.id = p_rollup.parent_id) AS p (p, has_groups) ON true
$$;
COMMENT ON FUNCTION rollup_engine.live_reading_sql(silver.rollup_config) IS 'What such a function does for whole buckets: from raw rows where nothing in between is stored; of a parent''s buckets that are stale in part, it takes the other groups from the table.';

DROP FUNCTION IF EXISTS rollup_engine.live_function_sql(silver.rollup_config);
CREATE OR REPLACE FUNCTION rollup_engine.live_function_sql(p_rollup silver.rollup_config, p_of_group boolean DEFAULT false) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill($sql$
CREATE OR REPLACE FUNCTION rollup_engine.live_{group}{id}(p_from timestamptz, p_to timestamptz{key_argument}) RETURNS SETOF {target}
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL {parallel} ROWS {rows} COST 10000
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_custom_plan'
    {settings}
AS {body}
$sql$, jsonb_build_object(
        'id', p_rollup.id,
        'group', CASE WHEN p_of_group THEN 'group_' ELSE '' END,
        'key_argument', CASE WHEN p_of_group THEN ', p_key text' ELSE '' END,
        'rows', CASE WHEN p_of_group THEN '1' ELSE '100' END,
        'target', p_rollup.target_table,
        -- It takes a while, so it is set only where an expression may name a zone.
        'settings', rollup_engine.pinned_settings() || CASE WHEN concat(p_rollup.row_sql, p_rollup.metrics) ~* 'zone|date_(add|subtract)|datetime'
            THEN ' SET timezone_abbreviations = ''Default''' ELSE '' END,
        'parallel', CASE WHEN rollup_engine.has_citus() THEN 'RESTRICTED' ELSE 'SAFE' END,  -- parallel workers ask no other servers
        'body', quote_literal(rollup_engine.fill($body$
DECLARE
    v_rollup silver.rollup_config;
    -- Whole buckets, whatever is asked for: who may call this may not read single rows.
    v_from constant timestamptz := {from};
    v_to constant timestamptz := CASE WHEN p_from < p_to THEN {to} ELSE v_from END;
    v_raw regclass;
    v_stale tstzmultirange;
    v_wholes tstzmultirange;
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = {id};
    IF v_rollup.source_table::text ~ '^[0-9]+$' THEN
        PERFORM rollup_engine.fail_if_gone(v_rollup);
    END IF;{reading}
END
$body$, jsonb_build_object(
            'id', p_rollup.id,
            'from', rollup_engine.bucket_expression(p_rollup, 'p_from'),
            'to', CASE WHEN rollup_engine.goes_by_utc(p_rollup) THEN format('rollup_engine.bucket_ceil(interval %L, p_to)', p_rollup.bucket_width)
                ELSE format('(SELECT rollup_engine.bucket_ceil(r, p_to) FROM silver.rollup_config AS r WHERE r.id = %s)', p_rollup.id) END,
            'reading', CASE WHEN p_of_group THEN rollup_engine.live_group_reading_sql(p_rollup) ELSE rollup_engine.live_reading_sql(p_rollup) END)))))
$$;
COMMENT ON FUNCTION rollup_engine.live_function_sql(silver.rollup_config, boolean) IS 'Text of the function that computes a rollup''s buckets in a range, or one group of them, from raw data or from what its parent says there.';

CREATE OR REPLACE FUNCTION rollup_engine.live_functions_sql(p_rollup silver.rollup_config) RETURNS TABLE (name text, statement text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('live_%s', p_rollup.id), rollup_engine.live_function_sql(p_rollup)
    UNION ALL
    -- One that a view may call stays as right as the others when the index is gone.
    SELECT format('live_group_%s', p_rollup.id), rollup_engine.live_function_sql(p_rollup, true)
    WHERE rollup_engine.reads_groups(p_rollup) OR p_rollup.key_dimension IS NOT NULL
        AND to_regprocedure(format('rollup_engine.live_group_%s(timestamptz, timestamptz, text)', p_rollup.id)) IS NOT NULL
    UNION ALL
    SELECT format('plain_%s', p_rollup.id), sql FROM rollup_engine.plain_function_sql(p_rollup) AS sql WHERE sql IS NOT NULL
    UNION ALL
    SELECT format('upsert_%s', p_rollup.id), rollup_engine.upsert_function_sql(p_rollup)
$$;
COMMENT ON FUNCTION rollup_engine.live_functions_sql(silver.rollup_config) IS 'The functions that the live view of a rollup reads the source by, and the one that its refreshes store by.';

CREATE OR REPLACE FUNCTION rollup_engine.write_live_functions(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.write_generated(name, statement) FROM rollup_engine.live_functions_sql(p_rollup)
$$;
COMMENT ON FUNCTION rollup_engine.write_live_functions(silver.rollup_config) IS 'Makes them, or writes them anew where their text differs.';

DROP FUNCTION IF EXISTS rollup_engine.fresh_rows_sql(silver.rollup_config);

RESET ROLE;
