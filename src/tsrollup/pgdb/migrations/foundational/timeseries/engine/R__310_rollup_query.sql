-- The one builder of the GROUP BY that a rollup stands for: from raw rows or from
-- a parent's states, for the refresh, the live view and the checks. Nothing is run here.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Columns -----------------------------------------------------------------------------

-- That of 0.1.0 took the width alone.
DROP FUNCTION IF EXISTS rollup_engine.bucket_expression(interval, text);
CREATE OR REPLACE FUNCTION rollup_engine.bucket_expression(p_rollup silver.rollup_config, p_time text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    -- The common calendar widths have C code of their own.
    SELECT CASE
        WHEN NOT rollup_engine.goes_by_utc(p_rollup)
        THEN format('silver.time_bucket(interval %L, %s, %L, %L)', p_rollup.bucket_width, p_time, p_rollup.timezone, p_rollup.origin)
        WHEN unit IS NOT NULL THEN format('(date_trunc(%L, %s AT TIME ZONE ''UTC'') AT TIME ZONE ''UTC'')', unit, p_time)
        ELSE format('silver.time_bucket(interval %L, %s)', p_rollup.bucket_width, p_time)
    END
    FROM (SELECT CASE rollup_engine.width_months(p_rollup.bucket_width) WHEN 1 THEN 'month' WHEN 3 THEN 'quarter' WHEN 12 THEN 'year' END) AS w (unit)
$$;
COMMENT ON FUNCTION rollup_engine.bucket_expression(silver.rollup_config, text) IS 'Expression for the bucket of a timestamptz expression.';

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
    SELECT DISTINCT m.source_column, u.state, a.attnum::integer,
        CASE
            -- An element of an array of arrays is no array: those take the slower aggregates.
            WHEN p_rollup.parent_id IS NOT NULL AND s.name IN ('first', 'last') AND t.typcategory = 'A'
            THEN format('silver.%1$s_value(%2$I, row_%1$s_time)', s.name, p.column_name)
            WHEN p_rollup.parent_id IS NOT NULL
            THEN rollup_engine.fill(rollup_engine.fill(s.from_state, rollup_engine.state_parameters(u.state)), rollup_engine.state_marks(p_rollup.parent_id, m.source_column)
                || jsonb_build_object('type', p.data_type, 'state', quote_ident(p.column_name), 'own', own.schema))
            WHEN s.name IN ('first', 'last') AND t.typcategory = 'A'
            THEN format('silver.%s_value(%s, %s)', s.name, own_name.value, rollup_engine.time_expression(p_rollup.time_column, p_time_type, p_rollup.time_unit))
            ELSE rollup_engine.fill(rollup_engine.fill(s.from_source, rollup_engine.state_parameters(u.state)), jsonb_build_object(
                'time', quote_ident(p_rollup.time_column), 'utc', rollup_engine.time_expression(p_rollup.time_column, p_time_type, p_rollup.time_unit),
                'own', own.schema, 'value', own_name.value))
        END
    FROM rollup_engine.metric_aggregates(p_rollup) AS m
    CROSS JOIN LATERAL unnest((m.aggregate).states) AS u (state)
    CROSS JOIN LATERAL (
        SELECT rollup_engine.source_name(p_rollup, m.source_column), rollup_engine.column_expression(p_rollup, m.source_column)) AS own_name (name, value)
    LEFT JOIN rollup_engine.rollup_column AS p
        ON p.rollup_id = p_rollup.parent_id AND p.source_column = m.source_column AND p.state = u.state AND p.kind = 'state'
    LEFT JOIN rollup_engine.row_columns(p_rollup.source_table, p_rollup.row_sql) AS a ON a.column_name = coalesce(p.column_name, own_name.name)
    LEFT JOIN pg_type AS t ON t.oid = rollup_engine.base_type(a.type)
    CROSS JOIN LATERAL rollup_engine.find_state(u.state, t.oid) AS s
    -- An extension's type may sort by itself, as citext does.
    CROSS JOIN LATERAL (
        SELECT coalesce(max(format('%s.', g.pronamespace::regnamespace)), '') AS schema
        FROM pg_proc AS g
        WHERE g.proname = s.name AND g.prokind = 'a' AND g.pronargs = 1 AND g.proargtypes[0] = t.oid
            AND g.pronamespace = t.typnamespace AND t.typnamespace <> 'pg_catalog'::regnamespace
            -- Anybody else's would run with the rights of the machinery.
            AND EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = g.oid AND d.deptype = 'e')
    ) AS own
$$;
COMMENT ON FUNCTION rollup_engine.state_columns(silver.rollup_config, regtype) IS 'The states that the metrics need, each with its expression over the source.';

CREATE OR REPLACE FUNCTION rollup_engine.unknown_before(p_rollup_id integer, p_source_column name, p_state text) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.bucket_ceil(r, c.known_since)
    FROM silver.rollup_config AS r
    JOIN rollup_engine.rollup_column AS c ON c.rollup_id = r.id AND c.kind = 'state'
    JOIN rollup_engine.rollup_column AS n ON n.rollup_id = r.id AND n.state = 'row_count'
    WHERE r.id = p_rollup_id AND (c.source_column, c.state) IS NOT DISTINCT FROM (p_source_column, p_state)
        AND c.known_since > coalesce(n.known_since, '-infinity')
$$;
COMMENT ON FUNCTION rollup_engine.unknown_before(integer, name, text) IS
'Time before which rows of a rollup lack a state, which came after they were sealed; NULL where none does.';

CREATE OR REPLACE FUNCTION rollup_engine.plan_columns(p_rollup silver.rollup_config, p_time_type regtype)
RETURNS TABLE ("position" integer, column_name name, kind text, source_column name, state text, expression text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH states AS (
        SELECT * FROM rollup_engine.state_columns(p_rollup, p_time_type)
    ), times AS (
        SELECT CASE WHEN p_rollup.parent_id IS NULL
            THEN rollup_engine.time_expression(p_rollup.time_column, p_time_type, p_rollup.time_unit) END AS utc
    ), planned AS (
        SELECT 1 AS part, 0 AS first_key, '' AS second_key, 'bucket' AS column_name, 'bucket' AS kind, NULL AS source_column, NULL AS state,
            rollup_engine.bucket_expression(p_rollup, coalesce(utc, 'bucket')) AS expression
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
        SELECT 5, attnum, source_column::text || coalesce(array_position('{count,sum,min,max,first,last}', state)::text, state),
            rollup_engine.fit_name(source_column::text, rollup_engine.state_label(state)), 'state', source_column, state, expression
        FROM states
        UNION ALL
        SELECT 6, o.position::integer, m.source_column || o.name, rollup_engine.fit_name(m.source_column::text, o.name), 'finished', m.source_column, o.name, o.expression
        FROM rollup_engine.metric_aggregates(p_rollup) AS m
        CROSS JOIN LATERAL json_each_text((m.aggregate).outputs) WITH ORDINALITY AS o (name, expression, position)
    )
    SELECT row_number() OVER (ORDER BY part, first_key, second_key)::integer, column_name::name, kind, source_column::name, state,
        -- What some rows of a bucket lack is not made of the others.
        CASE WHEN unknown.before IS NULL THEN expression
            ELSE format('CASE WHEN min(bucket) >= %s THEN %s END', rollup_engine.time_literal(unknown.before, 'timestamptz'), expression) END
    FROM planned
    CROSS JOIN LATERAL (
        SELECT CASE kind WHEN 'state' THEN rollup_engine.unknown_before(p_rollup.parent_id, source_column::name, state) END
    ) AS unknown (before)
$$;
COMMENT ON FUNCTION rollup_engine.plan_columns(silver.rollup_config, regtype) IS 'All columns of a rollup in their order; finished ones still hold {state} marks.';

CREATE OR REPLACE FUNCTION rollup_engine.finish_expression(p_rollup_id integer, p_source_column name, p_finish text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Whole numbers divide as numeric, as avg does.
    SELECT rollup_engine.fill(p_finish, rollup_engine.state_marks(p_rollup_id, p_source_column) || coalesce(
        jsonb_object_agg(state, quote_ident(column_name) || '::numeric') FILTER (WHERE state = 'sum' AND data_type = 'bigint'), '{}'))
    FROM rollup_engine.rollup_column
    WHERE rollup_id = p_rollup_id AND source_column = p_source_column AND kind = 'state'
$$;
COMMENT ON FUNCTION rollup_engine.finish_expression(integer, name, text) IS 'Expression over the states of a column that finishes an aggregate.';

CREATE OR REPLACE FUNCTION rollup_engine.column_names(p_rollup_id integer, p_kinds text[], p_prefix text DEFAULT '') RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN string_agg(p_prefix || quote_ident(column_name), ', ' ORDER BY position)
    FROM rollup_engine.rollup_column
    WHERE rollup_id = p_rollup_id AND kind = ANY (p_kinds);
END
$$;
COMMENT ON FUNCTION rollup_engine.column_names(integer, text[], text) IS 'Quoted columns of the given kinds, in order.';

-- The query -------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.select_list(p_rollup_id integer, p_kinds text[]) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN string_agg(format('%s AS %I', expression, column_name), ', ' ORDER BY position)
    FROM rollup_engine.rollup_column
    WHERE rollup_id = p_rollup_id AND kind = ANY (p_kinds);
END
$$;
COMMENT ON FUNCTION rollup_engine.select_list(integer, text[]) IS 'Expressions over the source for the columns of the given kinds.';

CREATE OR REPLACE FUNCTION rollup_engine.clipped_expression(p_time text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('least(greatest(%s, %s), %s)', p_time, rollup_engine.time_literal(lower(c), 'timestamptz'), rollup_engine.time_literal(upper(c), 'timestamptz'))
    FROM rollup_engine.calendar() AS c
$$;
COMMENT ON FUNCTION rollup_engine.clipped_expression(text) IS 'A timestamptz expression, kept within the calendar.';

CREATE OR REPLACE FUNCTION rollup_engine.time_condition(p_rollup silver.rollup_config, p_from text, p_to text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The bounds take the column's own kind of time, so that an index or the partitions serve. Of raw rows
    -- in the buckets across year 1 and 10000, those outside count as little as in any other bucket.
    RETURN CASE WHEN p_rollup.parent_id IS NOT NULL THEN format('%1$I >= %2$s AND %1$I < %3$s', p_rollup.time_column, p_from, p_to)
        WHEN p_rollup.time_unit IS NOT NULL THEN format('%1$I >= %2$s AND %1$I < %3$s', p_rollup.time_column,
            rollup_engine.number_expression(rollup_engine.clipped_expression(p_from), s.time_type, p_rollup.time_unit),
            rollup_engine.number_expression(rollup_engine.clipped_expression(p_to), s.time_type, p_rollup.time_unit))
        ELSE rollup_engine.fill(
            '{column} >= greatest({from}, {first}){zone} AND {column} < least({to}, {end}){zone}',
            jsonb_build_object('column', quote_ident(p_rollup.time_column), 'from', p_from, 'to', p_to,
                'first', rollup_engine.time_literal(lower(rollup_engine.calendar()), 'timestamptz'),
                'end', rollup_engine.time_literal(upper(rollup_engine.calendar()), 'timestamptz'),
                'zone', CASE WHEN s.time_type = 'timestamptz'::regtype THEN '' ELSE ' AT TIME ZONE ''UTC''' END))
    END
    FROM rollup_engine.source AS s WHERE s.id = p_rollup.source_id;
END
$$;
COMMENT ON FUNCTION rollup_engine.time_condition(silver.rollup_config, text, text) IS 'Condition on the source''s time column for a range given as two timestamptz expressions.';

CREATE OR REPLACE FUNCTION rollup_engine.group_list(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN string_agg(n::text, ', ') FROM generate_series(1, 1 + cardinality(p_rollup.dimensions)) AS n;
END
$$;
COMMENT ON FUNCTION rollup_engine.group_list(silver.rollup_config) IS 'GROUP BY list: the bucket and the dimensions, by position.';

CREATE OR REPLACE FUNCTION rollup_engine.grouped_sql(p_rollup silver.rollup_config, p_relation text, p_from text, p_to text, p_filter text DEFAULT '')
RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN concat_ws(E'\n',
        'SELECT ' || rollup_engine.select_list(p_rollup.id, '{bucket,dimension,state}'),
        'FROM ' || p_relation,
        'WHERE ' || rollup_engine.time_condition(p_rollup, p_from, p_to) || rollup_engine.row_filter(p_rollup) || p_filter,
        'GROUP BY ' || rollup_engine.group_list(p_rollup));
END
$$;
COMMENT ON FUNCTION rollup_engine.grouped_sql(silver.rollup_config, text, text, text, text) IS 'One GROUP BY over a range.';

-- That of 0.1.0 took buckets alone.
DROP FUNCTION IF EXISTS rollup_engine.per_bucket_sql(silver.rollup_config, text, text, text, text);
CREATE OR REPLACE FUNCTION rollup_engine.per_bucket_sql(p_rollup silver.rollup_config, p_relation text, p_buckets text, p_from text, p_to text, p_filter text DEFAULT '')
RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN concat_ws(E'\n',
        'SELECT tsrollup_batch.bucket, ' || rollup_engine.column_names(p_rollup.id, '{dimension,state}', 'f.'),
        format('FROM %s AS tsrollup_batch (bucket, next_bucket) CROSS JOIN LATERAL (', p_buckets),
        '    SELECT ' || rollup_engine.select_list(p_rollup.id, '{dimension,state}'),
        -- Named, lest a table of the outer name hide the bucket.
        format('    FROM %s AS tsrollup_rows', p_relation),
        '    WHERE ' || rollup_engine.time_condition(p_rollup, 'tsrollup_batch.bucket', 'tsrollup_batch.next_bucket'),
        '        AND ' || rollup_engine.time_condition(p_rollup, p_from, p_to) || rollup_engine.row_filter(p_rollup) || p_filter,
        '    GROUP BY ' || (SELECT string_agg(n::text, ', ') FROM generate_series(1, cardinality(p_rollup.dimensions)) AS n),
        '    HAVING count(*) > 0',
        ') AS f');
END
$$;
COMMENT ON FUNCTION rollup_engine.per_bucket_sql(silver.rollup_config, text, text, text, text, text) IS 'A GROUP BY for each row of a FROM item, which begins with start and end of a bucket; the range lets the planner prune partitions.';

RESET ROLE;
