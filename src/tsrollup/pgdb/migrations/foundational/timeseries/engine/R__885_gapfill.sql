-- Reading a live view without its gaps: a row for every bucket and group, and what stands in those
-- that are not there. Here the queries are written, with the owner's rights; nothing is read, so that
-- it is the caller who reads, and needs the right to.
--
-- The columns of the view are called c1, c2, ... in them: a user's may have any names.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.between_sql(p_type oid, p_place integer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill(
        CASE
            WHEN t.base IN ('int2', 'int4', 'int8', 'numeric') THEN 'trim_scale(p{n}::numeric + (n{n}::numeric - p{n}::numeric) * {passed} / {length})'
            WHEN t.base IN ('float4', 'float8') THEN 'p{n}::float8 * (1 - {passed} / {length})::float8 + n{n}::float8 * ({passed} / {length})::float8'
            WHEN t.base IN ('interval', 'timestamptz', 'timestamp') THEN 'p{n} + (n{n} - p{n}) * ({passed} / {length})::float8'
            WHEN t.base = 'date'::regtype THEN 'p{n} + round((n{n} - p{n}) * {passed} / {length})::integer'
        END, jsonb_build_object('n', p_place,
            'passed', format('extract(epoch FROM c1 - t%s)', p_place), 'length', format('extract(epoch FROM v%1$s - t%1$s)', p_place)))
    FROM (SELECT rollup_engine.base_type(p_type)) AS t (base)
$$;
COMMENT ON FUNCTION rollup_engine.between_sql(oid, integer) IS
'Value of a column at c1, on the straight line from p at the time t to n at v; NULL for a type that has none.';

CREATE OR REPLACE FUNCTION rollup_engine.near_sql(p_type oid, p_place integer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Of intervals, half of what each of their three parts can hold.
    SELECT coalesce(rollup_engine.fill(
        CASE
            WHEN t.base IN ('timestamptz', 'timestamp') THEN ' AND abs(extract(epoch FROM n{n}) - extract(epoch FROM p{n})) < 9e12'
            WHEN t.base = 'date'::regtype THEN ' AND isfinite(p{n}) AND isfinite(n{n})'
            WHEN t.base = 'interval'::regtype THEN (
                SELECT string_agg(format(' AND greatest(abs(extract(%1$s FROM p{n})), abs(extract(%1$s FROM n{n}))) < %2$s', part, most), '')
                FROM (VALUES ('year', 89000000), ('day', 1000000000), ('hour', 1200000000)) AS f (part, most))
        END, jsonb_build_object('n', p_place)), '')
    FROM (SELECT rollup_engine.base_type(p_type)) AS t (base)
$$;
COMMENT ON FUNCTION rollup_engine.near_sql(oid, integer) IS
'What is added to a condition on a straight line from p to n: of infinite times and intervals, and of those further apart than an interval reaches, there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.given_values_sql(p_place integer, p_name name, p_view regclass, p_type text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The caller may read the row of the view, and need not be allowed to name the types in it.
    SELECT rollup_engine.fill('jsonb_array_elements($3 -> {name}) AS e{n} (e) CROSS JOIN LATERAL ' || CASE WHEN p_type IS NULL
            THEN '(SELECT (jsonb_populate_record(NULL::{view}, jsonb_build_object({name}, e{n}.e))).{column}) AS g{n} (v)'
            ELSE 'jsonb_to_record(jsonb_build_object(''v'', e{n}.e)) AS g{n} (v {type})' END,
        jsonb_build_object('name', quote_literal(p_name), 'column', quote_ident(p_name), 'n', p_place, 'view', p_view, 'type', p_type))
$$;
COMMENT ON FUNCTION rollup_engine.given_values_sql(integer, name, regclass, text) IS 'FROM item: the values of a dimension that only gives, in its type; without a type, by the row of the view.';

CREATE OR REPLACE FUNCTION rollup_engine.equality_sql(p_type oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- By its name alone, = of a type of an extension is not found, or is that of text.
    SELECT coalesce((
        SELECT format('OPERATOR(%s.%s)', o.oprnamespace::regnamespace, o.oprname)
        FROM pg_opclass AS c
        JOIN pg_am AS m ON m.oid = c.opcmethod
        JOIN pg_amop AS a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
            AND a.amopstrategy = CASE m.amname WHEN 'btree' THEN 3 ELSE 1 END
        JOIN pg_operator AS o ON o.oid = a.amopopr
        WHERE m.amname IN ('btree', 'hash') AND c.opcdefault AND c.opcintype = rollup_engine.base_type(p_type)
        ORDER BY m.amname LIMIT 1), '=')
$$;
COMMENT ON FUNCTION rollup_engine.equality_sql(oid) IS 'The operator by which a GROUP BY tells values of a type apart.';

CREATE OR REPLACE FUNCTION rollup_engine.gapfill_marks(p_rollup silver.rollup_config, p_only jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object(
        'view', format('%s AS v (%s)', p_rollup.target_view, string_agg('c' || place, ', ' ORDER BY place)),
        'columns', string_agg('c' || place, ', ' ORDER BY place),
        'keys', coalesce(string_agg(', c' || place, '' ORDER BY place) FILTER (WHERE kind = 'dimension'), ''),
        'by', coalesce('ORDER BY ' || string_agg('c' || place, ', ' ORDER BY place) FILTER (WHERE kind = 'dimension'), ''),
        'order', 'ORDER BY ' || string_agg('c' || place, ', ' ORDER BY kind = 'bucket', place) FILTER (WHERE kind IN ('bucket', 'dimension')),
        'only', coalesce(string_agg(rollup_engine.fill(
            ' AND (c{n} {equals} ANY (SELECT g{n}.v FROM {given}) OR c{n} IS NOT DISTINCT FROM NULL AND $3 -> {name} @> ''[null]'')',
            jsonb_build_object('n', place, 'equals', rollup_engine.equality_sql(type), 'name', quote_literal(column_name),
                'given', rollup_engine.given_values_sql(place, column_name, p_rollup.target_view, named))), '') FILTER (WHERE p_only ? column_name), ''),
        -- Where all dimensions are given, or there are none: rows without a bucket.
        'given', CASE WHEN bool_and(kind <> 'dimension' OR p_only ? column_name) THEN
            'UNION ALL SELECT ' || string_agg(format(CASE kind WHEN 'dimension' THEN 'g%1$s.v' ELSE '(NULL::%2$s).%3$I' END, place, p_rollup.target_view, column_name), ', ' ORDER BY place)
            || coalesce(' FROM ' || string_agg(rollup_engine.given_values_sql(place, column_name, p_rollup.target_view, named), ' CROSS JOIN ' ORDER BY place)
                FILTER (WHERE kind = 'dimension'), '') ELSE '' END)
    FROM (
        -- A row with a domain in it may have to be a whole one.
        SELECT c.*, CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace OR bool_or(t.typtype = 'd') OVER () THEN c.type_name END AS named
        FROM rollup_engine.view_columns(p_rollup) AS c JOIN pg_type AS t ON t.oid = c.type
    ) AS c
$$;
COMMENT ON FUNCTION rollup_engine.gapfill_marks(silver.rollup_config, jsonb) IS 'What the queries of gapfill say of a live view and of the groups that are asked for.';

CREATE OR REPLACE FUNCTION rollup_engine.gapfill_edges_sql(p_marks jsonb, p_places integer[], p_linear integer[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill($sql$
SELECT array_agg(DISTINCT e.bucket), coalesce(bool_or(e.is_before AND e.bucket IS NULL), false), coalesce(bool_or(NOT e.is_before AND e.bucket IS NULL), false)
FROM (
    SELECT {edges}
    FROM (SELECT * FROM {view} WHERE c1 >= $4 AND c1 < $5{only} {given}) AS u ({columns})
    GROUP BY (){keys}
    HAVING bool_or(c1 IS NULL OR c1 >= $1 AND c1 < $2)
) AS g
CROSS JOIN LATERAL (VALUES {values}) AS e (bucket, is_before)
$sql$, p_marks || (
        SELECT jsonb_build_object(
            'edges', string_agg(format(
                CASE WHEN is_before THEN 'max(c1) FILTER (WHERE c%1$s IS DISTINCT FROM NULL AND c1 <= $6) AS b%1$s'
                ELSE 'min(c1) FILTER (WHERE c%1$s IS DISTINCT FROM NULL AND c1 >= $7) AS a%1$s' END, place), ', '),
            'values', string_agg(format('(%s%s, %s)', CASE WHEN is_before THEN 'b' ELSE 'a' END, place, is_before::text), ', '))
        FROM (SELECT unnest(p_places), true UNION ALL SELECT unnest(p_linear), false) AS s (place, is_before)))
$$;
COMMENT ON FUNCTION rollup_engine.gapfill_edges_sql(jsonb, integer[], integer[]) IS
'Query for the buckets that hold the last values up to the first bucket, $6, and the next ones from the last, $7, of groups in $1 to $2, as far as they lie in $4 to $5; and whether some are missing before, and after.';

CREATE OR REPLACE FUNCTION rollup_engine.filled_sql(p_rollup silver.rollup_config, p_places integer[], p_linear integer[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(
        CASE
            WHEN place = ANY (p_linear) THEN rollup_engine.fill(
                'CASE WHEN c{n} IS DISTINCT FROM NULL THEN c{n} WHEN p{n} = n{n} THEN p{n} WHEN u{n} > 0 AND d{n} > 0{near} THEN ({between})::{type} END::{type}',
                jsonb_build_object('n', place, 'between', rollup_engine.between_sql(type, place), 'type', type_name, 'near', rollup_engine.near_sql(type, place)))
            WHEN place = ANY (p_places) THEN 'p' || place
            ELSE 'c' || place
        END, ', ' ORDER BY place)
    FROM rollup_engine.view_columns(p_rollup)
$$;
COMMENT ON FUNCTION rollup_engine.filled_sql(silver.rollup_config, integer[], integer[]) IS 'The columns of a live view, those that are to be filled by what comes before, and after.';

CREATE OR REPLACE FUNCTION rollup_engine.gapfill_sql(p_rollup silver.rollup_config, p_marks jsonb, p_places integer[], p_linear integer[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Groups get numbers, since NULL is one, too, and equality alone is hashed. The last value that is not
    -- NULL is the first of those rows that have as many such values before them.
    SELECT rollup_engine.fill($sql$
WITH found AS MATERIALIZED (
    SELECT *, dense_rank() OVER ({by}) AS g
    FROM (
        SELECT * FROM {view} WHERE c1 >= $1 AND c1 < $2{only}
        {outside} {given}
    ) AS u ({columns})
), filled AS (
    SELECT k.bucket AS c1{group}, {others}, k.g, true AS is_asked
    FROM (
        SELECT b.bucket, k.* FROM unnest($4) AS b (bucket)
        CROSS JOIN (SELECT DISTINCT ON (g) g{keys} FROM found WHERE c1 IS NULL OR c1 >= $1 AND c1 < $2 ORDER BY g, c1) AS k
    ) AS k
    LEFT JOIN found AS f ON f.c1 = k.bucket AND f.g = k.g
    {edges}
)
SELECT {result} FROM {windows} WHERE is_asked {order}
$sql$, p_marks || (
        SELECT jsonb_build_object(
            'group', coalesce(string_agg(', k.c' || place, '' ORDER BY place) FILTER (WHERE kind = 'dimension'), ''),
            'others', string_agg('f.c' || place, ', ' ORDER BY place) FILTER (WHERE kind NOT IN ('bucket', 'dimension')),
            'outside', CASE WHEN p_places <> '{}' THEN rollup_engine.fill(
                'UNION ALL SELECT * FROM {view} WHERE c1 = ANY ($5) AND NOT (c1 >= $1 AND c1 < $2){only}', p_marks) ELSE '' END,
            'edges', CASE WHEN p_places <> '{}' THEN rollup_engine.fill(
                'UNION ALL SELECT {columns}, g, false FROM found WHERE NOT (c1 >= $1 AND c1 < $2)', p_marks) ELSE '' END,
            'result', rollup_engine.filled_sql(p_rollup, p_places, p_linear))
        FROM rollup_engine.view_columns(p_rollup)
    ) || jsonb_build_object('windows', CASE WHEN p_places = '{}' THEN 'filled' ELSE (
        SELECT format('(SELECT *, %s FROM (SELECT *, %s FROM filled) AS counted WINDOW %s) AS valued',
            string_agg(format(CASE WHEN is_before
                THEN 'first_value(c%1$s) OVER u%1$s AS p%1$s, first_value(c1) OVER u%1$s AS t%1$s'
                ELSE 'first_value(c%1$s) OVER d%1$s AS n%1$s, first_value(c1) OVER d%1$s AS v%1$s' END, place), ', '),
            string_agg(format('count(c%1$s) OVER (PARTITION BY g ORDER BY c1%3$s) AS %2$s%1$s',
                place, CASE WHEN is_before THEN 'u' ELSE 'd' END, CASE WHEN is_before THEN '' ELSE ' DESC' END), ', '),
            string_agg(format('%2$s%1$s AS (PARTITION BY g, %2$s%1$s ORDER BY c1%3$s)',
                place, CASE WHEN is_before THEN 'u' ELSE 'd' END, CASE WHEN is_before THEN '' ELSE ' DESC' END), ', '))
        FROM (SELECT unnest(p_places), true UNION ALL SELECT unnest(p_linear), false) AS s (place, is_before)) END))
$$;
COMMENT ON FUNCTION rollup_engine.gapfill_sql(silver.rollup_config, jsonb, integer[], integer[]) IS
'Query for the rows of a live view from $1 to $2, and those that are missing for the buckets $4 and the groups of $3, filled by what the buckets $5 before and after hold.';

CREATE OR REPLACE FUNCTION rollup_engine.plan_gapfill(
    p_row_type regtype, p_from timestamptz, p_to timestamptz, p_fill jsonb, p_only jsonb,
    OUT buckets timestamptz[], OUT groups jsonb, OUT edges_query text, OUT query text
)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r constant silver.rollup_config := rollup_engine.gapfill_rollup(p_row_type);
    v_places integer[];
    v_linear integer[];
    v_marks jsonb;
BEGIN
    buckets := rollup_engine.gapfill_buckets(r, p_from, p_to);
    SELECT coalesce(array_agg(f.place), '{}'), coalesce(array_agg(f.place) FILTER (WHERE f.fill = 'linear'), '{}') INTO v_places, v_linear
    FROM rollup_engine.check_fill(r, p_fill) AS f;
    groups := rollup_engine.check_only(r, p_only);
    v_marks := rollup_engine.gapfill_marks(r, groups);
    IF v_places <> '{}' THEN
        edges_query := rollup_engine.gapfill_edges_sql(v_marks, v_places, v_linear);
    END IF;
    query := rollup_engine.gapfill_sql(r, v_marks, v_places, v_linear);
END
$$;
COMMENT ON FUNCTION rollup_engine.plan_gapfill(regtype, timestamptz, timestamptz, jsonb, jsonb) IS 'What silver.gapfill reads, and how.';

CREATE OR REPLACE FUNCTION silver.gapfill_query(
    view_row regtype,
    from_time timestamptz,
    to_time timestamptz,
    fill jsonb DEFAULT NULL,
    "only" jsonb DEFAULT NULL,
    OUT buckets timestamptz[],
    OUT groups jsonb,
    OUT edges_query text,
    OUT query text
)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.plan_gapfill(view_row, from_time, to_time, fill, "only")
$$;
COMMENT ON FUNCTION silver.gapfill_query(regtype, timestamptz, timestamptz, jsonb, jsonb) IS
'What silver.gapfill does, for people to read: the buckets, the values of dimensions that are asked for, the query for the buckets that hold values to fill with, and the query for the rows. It reads nothing of the view.';

CREATE OR REPLACE FUNCTION silver.gapfill(
    view_row anyelement,
    from_time timestamptz,
    to_time timestamptz,
    fill jsonb DEFAULT NULL,
    "only" jsonb DEFAULT NULL
) RETURNS SETOF anyelement
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- With its caller's rights, in the snapshot of his query: nothing of the machinery is named here.
    v_first constant timestamptz := '0001-01-01 00:00:00+00';
    v_last constant timestamptz := '10000-01-01 00:00:00+00';
    v_plan record;
    v_from timestamptz := from_time;
    v_to timestamptz := to_time;
    v_reach interval;
    v_edges timestamptz[];
    v_lacks_before boolean := true;
    v_lacks_after boolean := false;
BEGIN
    SELECT * INTO v_plan FROM silver.gapfill_query(pg_typeof(view_row), from_time, to_time, fill, "only");
    v_reach := to_time - from_time;
    -- As far back, and ahead, as the values to fill with lie.
    WHILE v_plan.edges_query IS NOT NULL AND (v_lacks_before AND v_from > v_first OR v_lacks_after AND v_to < v_last) LOOP
        v_from := CASE WHEN v_lacks_before THEN from_time - least(v_reach, from_time - v_first) ELSE v_from END;
        v_to := CASE WHEN v_lacks_after THEN to_time + least(v_reach, v_last - to_time) ELSE v_to END;
        EXECUTE v_plan.edges_query INTO v_edges, v_lacks_before, v_lacks_after
        USING from_time, to_time, v_plan.groups, v_from, v_to, v_plan.buckets[1], v_plan.buckets[cardinality(v_plan.buckets)];
        v_reach := least(16 * v_reach, '3660000 days');
    END LOOP;
    RETURN QUERY EXECUTE v_plan.query USING from_time, to_time, v_plan.groups, v_plan.buckets, v_edges;
END
$$;
COMMENT ON FUNCTION silver.gapfill(anyelement, timestamptz, timestamptz, jsonb, jsonb) IS
'Rows of a live view without gaps, as in SELECT * FROM silver.gapfill(NULL::gold.readings_1h, from, to): one for every bucket that begins in the range and every combination of dimensions that occurs in it, by dimensions and time; what is missing is NULL. fill => ''{"temp_avg": "locf", "temp_max": "linear"}'' fills what is NULL, column by column: with the last value before, or on the straight line to the next one (numbers, intervals and times), wherever these lie. "only" => ''{"device": ["d1", "d2"]}'' (a word of SQL, so in quotes) takes those values of a dimension alone; with values for each dimension, every combination of them has its rows. Up to 1,000,000 buckets. The caller may read the view.';

RESET ROLE;
