-- The one builder of the GROUP BY that a rollup stands for: from raw rows or from
-- a parent's states, for the refresh, the live view and the checks. Nothing is run here.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Columns -----------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.bucket_expression(p_width interval, p_time text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    -- The common calendar widths have C code of their own.
    SELECT CASE rollup_engine.width_months(p_width)
        WHEN 1 THEN format('(date_trunc(''month'', %s AT TIME ZONE ''UTC'') AT TIME ZONE ''UTC'')', p_time)
        WHEN 3 THEN format('(date_trunc(''quarter'', %s AT TIME ZONE ''UTC'') AT TIME ZONE ''UTC'')', p_time)
        WHEN 12 THEN format('(date_trunc(''year'', %s AT TIME ZONE ''UTC'') AT TIME ZONE ''UTC'')', p_time)
        ELSE format('silver.time_bucket(interval %L, %s)', p_width, p_time)
    END
$$;
COMMENT ON FUNCTION rollup_engine.bucket_expression(interval, text) IS 'Expression for the bucket of a timestamptz expression.';

CREATE OR REPLACE FUNCTION rollup_engine.fit_name(p_column text, p_suffix text) RETURNS name
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN octet_length(p_column || '_' || p_suffix) < 64 THEN p_column || '_' || p_suffix
        ELSE (
            SELECT left(p_column, max(n)) FROM generate_series(1, length(p_column)) AS n
            WHERE octet_length(left(p_column, n)) <= 55 - octet_length(p_suffix)
        ) || '_' || left(md5(p_column), 6) || '_' || p_suffix
    END
$$;
COMMENT ON FUNCTION rollup_engine.fit_name(text, text) IS 'column_suffix; where that is longer than a name may be, the column is cut and a digest keeps it unique.';

CREATE OR REPLACE FUNCTION rollup_engine.state_columns(p_rollup silver.rollup_config, p_time_type regtype)
RETURNS TABLE (source_column name, state text, attnum integer, expression text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT DISTINCT m.key::name, s.name, a.attnum::integer,
        CASE
            -- An element of an array of arrays is no array: those take the slower aggregates.
            WHEN p_rollup.parent_id IS NOT NULL AND s.name IN ('first', 'last') AND t.typcategory = 'A'
            THEN format('silver.%1$s_value(%2$I, row_%1$s_time)', s.name, p.column_name)
            WHEN p_rollup.parent_id IS NOT NULL
            THEN rollup_engine.fill(s.from_state, jsonb_build_object('type', p.data_type, 'state', quote_ident(p.column_name), 'own', own.schema))
            WHEN s.name IN ('first', 'last') AND t.typcategory = 'A'
            THEN format('silver.%s_value(%I, %s)', s.name, own_name.name, rollup_engine.utc_expression(p_rollup.time_column, p_time_type))
            ELSE rollup_engine.fill(s.from_source, jsonb_build_object(
                'time', quote_ident(p_rollup.time_column),
                'own', own.schema,
                'value', quote_ident(own_name.name) || CASE WHEN s.name = 'sum' AND t.oid = 'float4'::regtype THEN '::float8' ELSE '' END))
        END
    FROM jsonb_each(p_rollup.metrics) AS m
    CROSS JOIN LATERAL jsonb_array_elements_text(m.value) AS g (name)
    JOIN rollup_engine.aggregate AS f ON f.name = g.name
    JOIN rollup_engine.aggregate_state AS s ON s.name = ANY (f.states)
    CROSS JOIN LATERAL (SELECT rollup_engine.source_name(p_rollup, m.key::name)) AS own_name (name)
    LEFT JOIN rollup_engine.rollup_column AS p
        ON p.rollup_id = p_rollup.parent_id AND p.source_column = m.key AND p.state = s.name AND p.kind = 'state'
    LEFT JOIN pg_attribute AS a ON a.attrelid = p_rollup.source_table AND a.attname = coalesce(p.column_name, own_name.name)
    LEFT JOIN pg_type AS t ON t.oid = rollup_engine.base_type(a.atttypid)
    -- An extension's type may sort by itself, as citext does.
    CROSS JOIN LATERAL (
        SELECT coalesce(max(format('%s.', g.pronamespace::regnamespace)), '') AS schema
        FROM pg_proc AS g
        WHERE g.proname = s.name AND g.prokind = 'a' AND g.pronargs = 1 AND g.proargtypes[0] = t.oid
            AND g.pronamespace = t.typnamespace AND t.typnamespace <> 'pg_catalog'::regnamespace
    ) AS own
$$;
COMMENT ON FUNCTION rollup_engine.state_columns(silver.rollup_config, regtype) IS 'The states that the metrics need, each with its expression over the source.';

CREATE OR REPLACE FUNCTION rollup_engine.plan_columns(p_rollup silver.rollup_config, p_time_type regtype)
RETURNS TABLE ("position" integer, column_name name, kind text, source_column name, state text, expression text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH states AS (
        SELECT * FROM rollup_engine.state_columns(p_rollup, p_time_type)
    ), times AS (
        SELECT CASE WHEN p_rollup.parent_id IS NULL
            THEN rollup_engine.utc_expression(p_rollup.time_column, p_time_type) END AS utc
    ), planned AS (
        SELECT 1 AS part, 0 AS first_key, '' AS second_key, 'bucket' AS column_name, 'bucket' AS kind, NULL AS source_column, NULL AS state,
            rollup_engine.bucket_expression(p_rollup.bucket_width, coalesce(utc, 'bucket')) AS expression
        FROM times
        UNION ALL
        SELECT 2, d.position::integer, '', d.name, 'dimension', d.name, NULL, rollup_engine.dimension_expression(p_rollup, d.name)
        FROM unnest(p_rollup.dimensions) WITH ORDINALITY AS d (name, position)
        UNION ALL
        SELECT 3, 0, '', 'row_count', 'state', NULL, 'row_count',
            CASE WHEN p_rollup.parent_id IS NULL THEN 'count(*)' ELSE 'sum(row_count)::bigint' END
        UNION ALL
        SELECT 4, 0, r.name, format('row_%s_time', r.name), 'state', NULL, format('row_%s_time', r.name),
            format('%s(%s)', r.function, coalesce(utc, format('row_%s_time', r.name)))
        FROM (VALUES ('first', 'min'), ('last', 'max')) AS r (name, function), times
        WHERE EXISTS (SELECT FROM states WHERE states.state IN ('first', 'last'))
        UNION ALL
        SELECT 5, attnum, source_column::text || array_position('{count,sum,min,max,first,last}', state),
            rollup_engine.fit_name(source_column::text, state), 'state', source_column, state, expression
        FROM states
        UNION ALL
        SELECT 6, 0, m.key || f.name, rollup_engine.fit_name(m.key, f.name), 'finished', m.key::name, f.name, f.finish
        FROM jsonb_each(p_rollup.metrics) AS m
        CROSS JOIN LATERAL jsonb_array_elements_text(m.value) AS g (name)
        JOIN rollup_engine.aggregate AS f ON f.name = g.name AND f.finish IS NOT NULL
    )
    SELECT row_number() OVER (ORDER BY part, first_key, second_key)::integer, column_name::name, kind, source_column::name, state, expression
    FROM planned
$$;
COMMENT ON FUNCTION rollup_engine.plan_columns(silver.rollup_config, regtype) IS 'All columns of a rollup in their order; finished ones still hold {state} marks.';

CREATE OR REPLACE FUNCTION rollup_engine.finish_expression(p_rollup_id integer, p_source_column name, p_finish text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Whole numbers divide as numeric, as avg does.
    SELECT rollup_engine.fill(p_finish, jsonb_build_object(
        'count', quote_ident(max(column_name::text) FILTER (WHERE state = 'count')),
        'sum', quote_ident(max(column_name::text) FILTER (WHERE state = 'sum'))
            || CASE max(data_type) FILTER (WHERE state = 'sum') WHEN 'bigint' THEN '::numeric' ELSE '' END))
    FROM rollup_engine.rollup_column
    WHERE rollup_id = p_rollup_id AND source_column = p_source_column AND kind = 'state'
$$;
COMMENT ON FUNCTION rollup_engine.finish_expression(integer, name, text) IS 'Expression over the states of a column that finishes an aggregate.';

CREATE OR REPLACE FUNCTION rollup_engine.column_names(p_rollup_id integer, p_kinds text[], p_prefix text DEFAULT '') RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(p_prefix || quote_ident(column_name), ', ' ORDER BY position)
    FROM rollup_engine.rollup_column
    WHERE rollup_id = p_rollup_id AND kind = ANY (p_kinds)
$$;
COMMENT ON FUNCTION rollup_engine.column_names(integer, text[], text) IS 'Quoted columns of the given kinds, in order.';

-- The query -------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.select_list(p_rollup_id integer, p_kinds text[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(format('%s AS %I', expression, column_name), ', ' ORDER BY position)
    FROM rollup_engine.rollup_column
    WHERE rollup_id = p_rollup_id AND kind = ANY (p_kinds)
$$;
COMMENT ON FUNCTION rollup_engine.select_list(integer, text[]) IS 'Expressions over the source for the columns of the given kinds.';

CREATE OR REPLACE FUNCTION rollup_engine.time_condition(p_rollup silver.rollup_config, p_from text, p_to text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The bounds take the column's own kind of time, so that an index or the partitions serve. Of raw rows
    -- in the buckets across year 1 and 10000, those outside count as little as in any other bucket.
    SELECT CASE WHEN p_rollup.parent_id IS NOT NULL THEN format('%1$I >= %2$s AND %1$I < %3$s', p_rollup.time_column, p_from, p_to)
        ELSE rollup_engine.fill(
            '{column} >= greatest({from}, ''0001-01-01 00:00:00+00''){zone} AND {column} < least({to}, ''10000-01-01 00:00:00+00''){zone}',
            jsonb_build_object('column', quote_ident(p_rollup.time_column), 'from', p_from, 'to', p_to,
                'zone', CASE WHEN s.time_type = 'timestamptz'::regtype THEN '' ELSE ' AT TIME ZONE ''UTC''' END))
    END
    FROM rollup_engine.source AS s WHERE s.id = p_rollup.source_id
$$;
COMMENT ON FUNCTION rollup_engine.time_condition(silver.rollup_config, text, text) IS 'Condition on the source''s time column for a range given as two timestamptz expressions.';

CREATE OR REPLACE FUNCTION rollup_engine.group_list(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(n::text, ', ') FROM generate_series(1, 1 + cardinality(p_rollup.dimensions)) AS n
$$;
COMMENT ON FUNCTION rollup_engine.group_list(silver.rollup_config) IS 'GROUP BY list: the bucket and the dimensions, by position.';

CREATE OR REPLACE FUNCTION rollup_engine.grouped_sql(p_rollup silver.rollup_config, p_relation text, p_from text, p_to text, p_filter text DEFAULT '')
RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws(E'\n',
        'SELECT ' || rollup_engine.select_list(p_rollup.id, '{bucket,dimension,state}'),
        'FROM ' || p_relation,
        'WHERE ' || rollup_engine.time_condition(p_rollup, p_from, p_to) || p_filter,
        'GROUP BY ' || rollup_engine.group_list(p_rollup))
$$;
COMMENT ON FUNCTION rollup_engine.grouped_sql(silver.rollup_config, text, text, text, text) IS 'One GROUP BY over a range.';

CREATE OR REPLACE FUNCTION rollup_engine.per_bucket_sql(p_rollup silver.rollup_config, p_relation text, p_buckets text, p_from text, p_to text)
RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    SELECT concat_ws(E'\n',
        'SELECT tsrollup_batch.bucket, ' || rollup_engine.column_names(p_rollup.id, '{dimension,state}', 'f.'),
        format('FROM unnest(%s) AS tsrollup_batch (bucket) CROSS JOIN LATERAL (', p_buckets),
        '    SELECT ' || rollup_engine.select_list(p_rollup.id, '{dimension,state}'),
        -- Named, lest a table of the outer name hide the bucket.
        format('    FROM %s AS tsrollup_rows', p_relation),
        '    WHERE ' || rollup_engine.time_condition(p_rollup, 'tsrollup_batch.bucket', format('rollup_engine.bucket_next(%L, tsrollup_batch.bucket)', p_rollup.bucket_width)),
        '        AND ' || rollup_engine.time_condition(p_rollup, p_from, p_to),
        '    GROUP BY ' || (SELECT string_agg(n::text, ', ') FROM generate_series(1, cardinality(p_rollup.dimensions)) AS n),
        '    HAVING count(*) > 0',
        ') AS f')
$$;
COMMENT ON FUNCTION rollup_engine.per_bucket_sql(silver.rollup_config, text, text, text, text) IS 'A GROUP BY for each bucket of an array; the range lets the planner prune partitions.';

-- Storing what it returns --------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.sum_differs(p_old double precision, p_new double precision, p_count bigint, p_min double precision, p_max double precision)
RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- n values added in two orders differ by at most (n - 1) * 2^-52 of the sum of their absolute values,
-- which is never less than the absolute sum, nor than the lowest and the highest together. Many values
-- hardly ever come near that: from 100,000 on it stays at 2e-11, lest levels above levels add up.
RETURN CASE
    WHEN p_count < 2 THEN float8send(p_old) IS DISTINCT FROM float8send(p_new)
    WHEN p_old IS NOT DISTINCT FROM p_new THEN false
    WHEN p_old IS NULL OR p_new IS NULL OR NOT greatest(abs(p_old), abs(p_new), abs(p_min), abs(p_max)) BETWEEN 1e-290 AND 1e300 THEN true
    ELSE abs(p_old - p_new) > least(p_count - 1, 100000) * 2.220446049250313e-16 * greatest(abs(p_old), abs(p_new), abs(p_min) + abs(p_max))
END;
COMMENT ON FUNCTION rollup_engine.sum_differs(double precision, double precision, bigint, double precision, double precision) IS
'True when two sums of as many floats, with that minimum and maximum where they are known, differ by more than the order of addition can explain; a single one has no order.';

CREATE OR REPLACE FUNCTION rollup_engine.change_condition(p_rollup_id integer, p_fresh text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH columns AS (
        SELECT *, coalesce(state = 'sum' AND data_type = 'double precision', false) AS float_sum
        FROM rollup_engine.rollup_column
        WHERE rollup_id = p_rollup_id AND kind IN ('bucket', 'dimension', 'state')
    )
    SELECT concat_ws(' OR ',
        format('ROW(%s)::record *<> ROW(%s)::record',
            string_agg(format('t.%I', column_name), ', ' ORDER BY position) FILTER (WHERE NOT float_sum),
            string_agg(format('%I.%I', p_fresh, column_name), ', ' ORDER BY position) FILTER (WHERE NOT float_sum)),
        string_agg(rollup_engine.fill('rollup_engine.sum_differs(t.{sum}, {fresh}.{sum}, {count}, {min}, {max})',
            jsonb_build_object('fresh', quote_ident(p_fresh), 'sum', quote_ident(column_name)) || (
                SELECT jsonb_object_agg(known.state, coalesce('t.' || quote_ident(s.column_name), known.otherwise))
                FROM (VALUES ('count', 't.row_count'), ('min', 'NULL'), ('max', 'NULL')) AS known (state, otherwise)
                LEFT JOIN columns AS s ON s.source_column = c.source_column AND s.state = known.state)),
            ' OR ' ORDER BY position) FILTER (WHERE float_sum))
    FROM columns AS c
$$;
COMMENT ON FUNCTION rollup_engine.change_condition(integer, text) IS
'Whether the stored row differs from the fresh one, compared by image: equal is not enough where ''a'' equals ''A'', and json has no equality.';

CREATE OR REPLACE FUNCTION rollup_engine.insert_sql(p_rollup silver.rollup_config, p_fresh text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($sql$
WITH written AS (
    INSERT INTO %1$s (%2$s)
    %3$s
    RETURNING 1
)
SELECT (SELECT count(*) FROM written), 0::bigint
$sql$, p_rollup.target_table, rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}'), p_fresh)
$$;
COMMENT ON FUNCTION rollup_engine.insert_sql(silver.rollup_config, text) IS 'Stores fresh rows where there are none yet; returns rows written and deleted.';

CREATE OR REPLACE FUNCTION rollup_engine.key_condition(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The = of an extension's type is in a schema of its own; records find it, as GROUP BY does.
    SELECT string_agg(format(
        CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN 'f.%1$I = t.%1$I' ELSE 'ROW(f.%1$I)::record = ROW(t.%1$I)::record' END,
        c.column_name), ' AND ' ORDER BY c.position)
    FROM rollup_engine.rollup_column AS c
    JOIN pg_attribute AS a ON a.attrelid = p_rollup.target_table AND a.attname = c.column_name
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE c.rollup_id = p_rollup.id AND c.kind IN ('bucket', 'dimension')
$$;
COMMENT ON FUNCTION rollup_engine.key_condition(silver.rollup_config) IS 'Joins fresh rows to the stored rows of the same key.';

CREATE OR REPLACE FUNCTION rollup_engine.upsert_sql(p_rollup silver.rollup_config, p_fresh text, p_touched text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Compared first, since ON CONFLICT locks, and so writes, even the rows that it leaves alone. A
    -- NULL in the key never joins: ON CONFLICT finds those rows, and grouping (by which NULLs are
    -- equal) tells the vanished from the rest.
    SELECT rollup_engine.fill($sql$
WITH compared AS MATERIALIZED (
    SELECT {either}, t.tableoid, t.ctid
    FROM (
        {fresh}
    ) AS f
    FULL JOIN (SELECT t.*, t.tableoid, t.ctid FROM {target} AS t WHERE {touched}) AS t
        ON {same_key}
    WHERE f.bucket IS NULL OR t.bucket IS NULL OR {changed}
), written AS (
    INSERT INTO {target} AS t ({columns}) SELECT {columns} FROM compared WHERE row_count IS NOT NULL
    ON CONFLICT ({key}) DO UPDATE SET ({columns}) = ROW({excluded})
    WHERE {still_changed}
    RETURNING 1
), vanished AS (
    SELECT max(tableoid) AS part, max(ctid) AS tid
    FROM compared GROUP BY {key} HAVING count(row_count) = 0
), removed AS (
    DELETE FROM {target} AS t USING vanished AS v
    WHERE {touched} AND t.tableoid = v.part AND t.ctid = v.tid
    RETURNING 1
)
SELECT (SELECT count(*) FROM written), (SELECT count(*) FROM removed)
$sql$, jsonb_build_object(
        'target', p_rollup.target_table,
        'columns', rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}'),
        'either', (
            SELECT string_agg(format(CASE kind WHEN 'state' THEN 'f.%1$I' ELSE 'coalesce(f.%1$I, t.%1$I) AS %1$I' END, column_name), ', ' ORDER BY position)
            FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND kind IN ('bucket', 'dimension', 'state')),
        'same_key', rollup_engine.key_condition(p_rollup),
        'fresh', p_fresh,
        'touched', p_touched,
        'changed', rollup_engine.change_condition(p_rollup.id, 'f'),
        'key', rollup_engine.column_names(p_rollup.id, '{bucket,dimension}'),
        'excluded', rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}', 'excluded.'),
        'still_changed', rollup_engine.change_condition(p_rollup.id, 'excluded')))
$$;
COMMENT ON FUNCTION rollup_engine.upsert_sql(silver.rollup_config, text, text) IS
'Stores fresh rows over what is there: inserts what is new, updates what changed, deletes what vanished; returns rows written and deleted. p_touched is a condition on t.bucket for the recomputed buckets.';

RESET ROLE;
