-- Storing what the query of a rollup returns: what differs, what is new, what is gone.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

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

CREATE OR REPLACE FUNCTION rollup_engine.has_equality(p_type text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_type AS t
        JOIN pg_opclass AS o ON o.opcdefault AND o.opcintype IN (t.oid, t.typelem) AND o.opcnamespace = 'pg_catalog'::regnamespace
        WHERE t.oid = rollup_engine.type_called(p_type))
$$;
COMMENT ON FUNCTION rollup_engine.has_equality(text) IS 'Whether values of a type of the server itself, or the elements of its arrays, can be equal.';

DROP FUNCTION IF EXISTS rollup_engine.change_condition(integer, text), rollup_engine.change_condition(integer, text, boolean);
CREATE OR REPLACE FUNCTION rollup_engine.change_condition(p_rollup_id integer, p_is_far boolean DEFAULT false) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        WITH columns AS MATERIALIZED (
            SELECT c.*, CASE
                -- Most states are compared in no way of their own, whatever their type.
                WHEN split_part(c.state, ':', 1) IN (SELECT a.name FROM rollup_engine.aggregate_state AS a WHERE a.differs IS NOT NULL)
                THEN (rollup_engine.find_state(c.state, rollup_engine.type_called(c.data_type))).differs END AS differs
            FROM rollup_engine.rollup_column AS c
            WHERE c.rollup_id = p_rollup_id AND c.kind IN ('bucket', 'dimension', 'state')
        )
        SELECT concat_ws(' OR ',
            CASE WHEN p_is_far
                -- What an equality of the server itself tells apart; the rest is written again.
                THEN string_agg(
                    CASE WHEN rollup_engine.has_equality(data_type) THEN format('t.%1$I IS DISTINCT FROM excluded.%1$I', column_name) ELSE 'true' END,
                    ' OR ' ORDER BY position) FILTER (WHERE p_is_far AND differs IS NULL AND kind = 'state')
                ELSE format('ROW(%s)::record *<> ROW(%s)::record',
                    string_agg(format('t.%I', column_name), ', ' ORDER BY position) FILTER (WHERE differs IS NULL),
                    string_agg(format('excluded.%I', column_name), ', ' ORDER BY position) FILTER (WHERE differs IS NULL)) END,
            string_agg(rollup_engine.fill(differs,
                '{"count": "t.row_count", "min": "NULL", "max": "NULL"}' || rollup_engine.state_marks(p_rollup_id, source_column, 't.')
                    || jsonb_build_object('old', format('t.%I', column_name), 'new', format('excluded.%I', column_name))),
                ' OR ' ORDER BY position) FILTER (WHERE differs IS NOT NULL))
        FROM columns AS c);
END
$$;
COMMENT ON FUNCTION rollup_engine.change_condition(integer, boolean) IS
'Whether the stored row differs from the fresh one, which is called as ON CONFLICT calls it, compared by image: equal is not enough where ''a'' equals ''A'', and json has no equality.';

CREATE OR REPLACE FUNCTION rollup_engine.insert_sql(p_rollup silver.rollup_config, p_fresh text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN rollup_engine.fill($sql$
WITH written AS (
    INSERT INTO {target} ({columns})
    {fresh}
    RETURNING 1
)
SELECT (SELECT count(*) FROM written), 0::bigint
$sql$, jsonb_build_object(
        'target', p_rollup.target_table::text,
        'columns', rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}'),
        'fresh', p_fresh));
END
$$;
COMMENT ON FUNCTION rollup_engine.insert_sql(silver.rollup_config, text) IS 'Stores fresh rows where there are none yet; returns rows written and deleted.';

CREATE OR REPLACE FUNCTION rollup_engine.key_condition(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The = of an extension's type is in a schema of its own; records find it, as GROUP BY does.
    RETURN string_agg(format(
        CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN 'excluded.%1$I = t.%1$I' ELSE 'ROW(excluded.%1$I)::record = ROW(t.%1$I)::record' END,
        c.column_name), ' AND ' ORDER BY c.position)
    FROM rollup_engine.rollup_column AS c
    JOIN pg_attribute AS a ON a.attrelid = p_rollup.target_table AND a.attname = c.column_name
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE c.rollup_id = p_rollup.id AND c.kind IN ('bucket', 'dimension');
END
$$;
COMMENT ON FUNCTION rollup_engine.key_condition(silver.rollup_config) IS 'Joins fresh rows to the stored rows of the same key.';

CREATE OR REPLACE FUNCTION rollup_engine.upsert_expression(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Compared first, since ON CONFLICT locks, and so writes, even the rows that it leaves alone. A
    -- NULL in the key never joins: ON CONFLICT finds those rows, and grouping (by which NULLs are
    -- equal) tells the vanished from the rest.
    RETURN rollup_engine.fill($sql$
'WITH compared AS MATERIALIZED (
    SELECT ' || {either} || ', t.tableoid, t.ctid
    FROM (
        ' || $2 || '
    ) AS excluded
    FULL JOIN (SELECT t.*, t.tableoid, t.ctid FROM ' || $1 || ' AS t WHERE ' || $3 || ') AS t
        ON ' || {same_key} || '
    WHERE excluded.bucket IS NULL OR t.bucket IS NULL OR ' || {changed} || '
), written AS (
    INSERT INTO ' || $1 || ' AS t (' || {columns} || ') SELECT ' || {columns} || ' FROM compared WHERE row_count IS NOT NULL
    ON CONFLICT (' || {key} || ') DO UPDATE SET (' || {columns} || ') = ROW(' || {excluded} || ')
    WHERE ' || {changed} || '
    RETURNING 1
), vanished AS (
    SELECT max(tableoid) AS part, max(ctid) AS tid
    FROM compared GROUP BY ' || {key} || ' HAVING count(row_count) = 0
), removed AS (
    DELETE FROM ' || $1 || ' AS t USING vanished AS v
    WHERE ' || $3 || ' AND t.tableoid = v.part AND t.ctid = v.tid
    RETURNING 1
)
SELECT (SELECT count(*) FROM written), (SELECT count(*) FROM removed)'
$sql$, jsonb_build_object(
        'columns', quote_literal(rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}')),
        'either', quote_literal((
            SELECT string_agg(format(CASE kind WHEN 'state' THEN 'excluded.%1$I' ELSE 'coalesce(excluded.%1$I, t.%1$I) AS %1$I' END, column_name), ', ' ORDER BY position)
            FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND kind IN ('bucket', 'dimension', 'state'))),
        'same_key', quote_literal(rollup_engine.key_condition(p_rollup)),
        'changed', quote_literal(rollup_engine.change_condition(p_rollup.id)),
        'key', quote_literal(rollup_engine.column_names(p_rollup.id, '{bucket,dimension}')),
        'excluded', quote_literal(rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}', 'excluded.'))));
END
$$;
COMMENT ON FUNCTION rollup_engine.upsert_expression(silver.rollup_config) IS
'Expression for the text of the statement of upsert_sql: $1, the rollup''s table; $2, p_fresh; $3, p_touched.';

CREATE OR REPLACE FUNCTION rollup_engine.upsert_function_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Not in SQL, whose functions are planned at each call.
    SELECT format('CREATE OR REPLACE FUNCTION rollup_engine.upsert_%s(text, text, text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS %L',
        p_rollup.id, format('BEGIN RETURN %s; END', rollup_engine.upsert_expression(p_rollup)))
$$;
COMMENT ON FUNCTION rollup_engine.upsert_function_sql(silver.rollup_config) IS 'Text of the function that says that expression: most of it stays the same from batch to batch.';

CREATE OR REPLACE FUNCTION rollup_engine.upsert_sql(p_rollup silver.rollup_config, p_fresh text, p_touched text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name constant text := format('rollup_engine.upsert_%s', p_rollup.id);
    v_statement text;
BEGIN
    EXECUTE 'SELECT ' || CASE WHEN to_regproc(v_name) IS NULL THEN rollup_engine.upsert_expression(p_rollup) ELSE v_name || '($1, $2, $3)' END
    INTO v_statement USING p_rollup.target_table::text, p_fresh, p_touched;
    RETURN v_statement;
END
$$;
COMMENT ON FUNCTION rollup_engine.upsert_sql(silver.rollup_config, text, text) IS
'Stores fresh rows over what is there: inserts what is new, updates what changed, deletes what vanished; returns rows written and deleted. p_touched is a condition on t.bucket for the recomputed buckets.';

RESET ROLE;
