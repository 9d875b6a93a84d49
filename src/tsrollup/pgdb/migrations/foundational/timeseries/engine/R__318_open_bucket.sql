-- The newest stale buckets, within times that are constants of the plan.
--
-- A filter on a dimension does not enter a function. Whoever may read the source himself has the planner
-- see its rows there, in a function without rights of its own, so that the filter reaches the source's
-- index, in the few partitions that are left. For others, and for older stale buckets, the function with
-- the owner's rights answers.
--
-- Any times are exact, whenever the plan runs: which buckets are stale is asked when it does. All parts of
-- one plan ask in its snapshot, never the catalogue as it is by now, so that they agree which are read so.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- What is generated for a rollup ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.as_of_raw(p_rollup silver.rollup_config) RETURNS silver.rollup_config
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    p_rollup.parent_id := NULL;
    SELECT relation, time_column INTO p_rollup.source_table, p_rollup.time_column FROM rollup_engine.source WHERE id = p_rollup.source_id;
    RETURN p_rollup;
END
$$;
COMMENT ON FUNCTION rollup_engine.as_of_raw(silver.rollup_config) IS 'The rollup as if it were made of raw rows itself.';

CREATE OR REPLACE FUNCTION rollup_engine.read_columns(p_raw silver.rollup_config) RETURNS TABLE (attname name, attnum smallint, type oid, is_dimension boolean)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.attname, a.attnum, a.atttypid, u.name = ANY (p_raw.dimensions)
    FROM (
        SELECT p_raw.time_column AS name UNION SELECT unnest(p_raw.dimensions) UNION SELECT jsonb_object_keys(p_raw.metrics)::name
    ) AS u
    LEFT JOIN pg_attribute AS a ON a.attrelid = p_raw.source_table AND a.attname = rollup_engine.source_name(p_raw, u.name) AND a.attnum > 0
$$;
COMMENT ON FUNCTION rollup_engine.read_columns(silver.rollup_config) IS 'The columns of the raw table that a rollup of raw rows is made of; NULL for each that is gone.';

CREATE OR REPLACE FUNCTION rollup_engine.is_reached_by_dimension(p_raw silver.rollup_config) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_class AS c
        JOIN pg_index AS i ON i.indrelid = c.oid AND i.indpred IS NULL AND i.indisvalid
        JOIN pg_class AS x ON x.oid = i.indexrelid
        JOIN pg_am AS m ON m.oid = x.relam AND m.amname = 'btree'
        WHERE c.oid = p_raw.source_table AND c.relkind IN ('r', 'p') AND p_raw.change_tracking = 'trigger'
            AND i.indkey[0] IN (SELECT attnum FROM rollup_engine.read_columns(p_raw) WHERE is_dimension)
            AND (SELECT attnum FROM rollup_engine.read_columns(p_raw) WHERE attname = p_raw.time_column) = ANY (i.indkey::smallint[]))
$$;
COMMENT ON FUNCTION rollup_engine.is_reached_by_dimension(silver.rollup_config) IS 'Whether an index of the raw table leads from a dimension to the time.';

CREATE OR REPLACE FUNCTION rollup_engine.reads_plain_columns(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- It may not be registered yet. Types of extensions, and functions, may mean something else to a reader.
    SELECT p_rollup.row_sql IS NULL AND p_rollup.time_unit IS NULL
        AND NOT EXISTS (
            SELECT FROM silver.rollup_config
            WHERE id IN (SELECT rollup_engine.with_ancestors(p_rollup.parent_id)) AND (row_sql IS NOT NULL OR time_unit IS NOT NULL))
        -- What a table on the way cannot hold is an error, and no value.
        AND NOT EXISTS (
            SELECT FROM rollup_engine.rollup_column
            WHERE (rollup_id = p_rollup.id OR rollup_id IN (SELECT rollup_engine.with_ancestors(p_rollup.parent_id))) AND outgrown_by IS NOT NULL)
        AND NOT EXISTS (
            SELECT FROM rollup_engine.rollup_column
            WHERE rollup_id = p_rollup.id AND kind = 'state'
                AND state <> ALL ('{row_count,row_first_time,row_last_time,count,sum,min,max,bool_and,bool_or,first,last,deviations}'))
        AND NOT EXISTS (
            SELECT FROM rollup_engine.read_columns(rollup_engine.as_of_raw(p_rollup)) AS r JOIN pg_type AS t ON t.oid = r.type
            WHERE t.typnamespace <> 'pg_catalog'::regnamespace)
$$;
COMMENT ON FUNCTION rollup_engine.reads_plain_columns(silver.rollup_config) IS
'Whether a rollup is made of columns of built-in types by aggregates of PostgreSQL: of no expressions, all rows, and times that are no numbers.';

CREATE OR REPLACE FUNCTION rollup_engine.columns_from_raw(p_rollup silver.rollup_config) RETURNS TABLE (place integer, column_name name, kind text, data_type text, expression text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.position, c.column_name, c.kind, c.data_type,
        CASE c.kind WHEN 'dimension' THEN quote_ident(rollup_engine.source_name(v_raw, c.column_name)) ELSE p.expression END
    FROM rollup_engine.as_of_raw(p_rollup) AS v_raw
    JOIN rollup_engine.rollup_column AS c ON c.rollup_id = p_rollup.id AND c.kind IN ('bucket', 'dimension', 'state')
    LEFT JOIN rollup_engine.plan_columns(v_raw, (SELECT time_type FROM rollup_engine.source WHERE id = v_raw.source_id)) AS p USING (column_name)
$$;
COMMENT ON FUNCTION rollup_engine.columns_from_raw(silver.rollup_config) IS 'The columns of a rollup, each with its expression over raw rows, for one that reads_plain_columns.';

CREATE OR REPLACE FUNCTION rollup_engine.plain_function_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_raw constant silver.rollup_config := rollup_engine.as_of_raw(p_rollup);
BEGIN
    IF NOT (rollup_engine.is_reached_by_dimension(v_raw) AND rollup_engine.reads_plain_columns(p_rollup))
        OR EXISTS (SELECT FROM rollup_engine.read_columns(v_raw) WHERE attnum IS NULL)
    THEN
        RETURN NULL;
    END IF;
    RETURN rollup_engine.fill($sql$
CREATE OR REPLACE FUNCTION rollup_engine.plain_{id}(p_plan rollup_engine.open_plan, p_bucket timestamptz, p_next timestamptz) RETURNS SETOF {target}
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 100 COST 10000
AS {body}
$sql$, jsonb_build_object(
        'id', p_rollup.id,
        'target', p_rollup.target_table,
        'body', quote_literal(rollup_engine.fill($body$--{meant}
SELECT $2, {dimensions}, {states} FROM {source} AS tsrollup_rows WHERE {condition} GROUP BY {groups}
$body$, jsonb_build_object(
            'meant', jsonb_build_object('relation', v_raw.source_table, 'columns', (
                SELECT jsonb_object_agg(attname, type::bigint) FROM rollup_engine.read_columns(v_raw))),
            'dimensions', (SELECT string_agg(expression, ', ' ORDER BY place) FROM rollup_engine.columns_from_raw(p_rollup) WHERE kind = 'dimension'),
            -- Aggregates are named in full: who reads may have others, which suit better.
            'states', (
                SELECT string_agg(format('(%s)::%s', regexp_replace(expression, '(?=(count|sum|min|max|bool_and|bool_or|array_agg|regr_sxx)[(])', 'pg_catalog.'), data_type),
                    ', ' ORDER BY place)
                FROM rollup_engine.columns_from_raw(p_rollup) WHERE kind = 'state'),
            'source', v_raw.source_table,
            -- What is known when the plan is made leaves few partitions.
            'condition', rollup_engine.time_condition(v_raw, '($1).from_time', '($1).to_time') || ' AND ' || rollup_engine.time_condition(v_raw, '$2', '$3'),
            'groups', rollup_engine.group_list(p_rollup))))));
END
$$;
COMMENT ON FUNCTION rollup_engine.plain_function_sql(silver.rollup_config) IS
'Text of the function that computes one bucket from raw rows, with the rights of who reads and without settings, so that the planner sees through it; NULL where that helps no filter, or where a name in it might mean something else to a reader. Its first line tells what its names meant when it was written.';

-- What a plan reads so ----------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.source_parts(p_source_id integer) RETURNS bigint
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- What comes has a number of its own.
    RETURN (
        SELECT coalesce(sum(i.inhrelid::bigint), 0)
        FROM rollup_engine.source AS s JOIN pg_inherits AS i ON i.inhparent = s.relation
        WHERE s.id = p_source_id);
END
$$;
COMMENT ON FUNCTION rollup_engine.source_parts(integer) IS 'Tells one set of partitions of a source from another.';

CREATE OR REPLACE FUNCTION rollup_engine.may_read_source(p_rollup silver.rollup_config, p_role name, p_schemas name[]) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_generic_plan'  -- asked whenever a plan is made
AS $$
DECLARE
    v_relation constant oid := (SELECT relation FROM rollup_engine.source WHERE id = p_rollup.source_id);
    v_class record;
    v_meant jsonb;
BEGIN
    SELECT relnamespace, relkind, relrowsecurity INTO v_class FROM pg_class WHERE oid = v_relation;
    IF v_class.relrowsecurity IS NOT false OR NOT (has_schema_privilege(p_role, v_class.relnamespace, 'USAGE') AND has_table_privilege(p_role, v_relation, 'SELECT'))
        OR (SELECT schema FROM unnest(p_schemas) WITH ORDINALITY AS p (schema, place) WHERE schema !~ '^pg_temp_' ORDER BY place LIMIT 1) <> 'pg_catalog'
        -- What lies deeper would have to be looked for at each read.
        OR v_class.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = v_relation)
        OR EXISTS (SELECT FROM pg_partitioned_table AS p JOIN pg_inherits AS i ON i.inhrelid = p.partrelid WHERE i.inhparent = v_relation)
    THEN
        RETURN false;
    END IF;
    v_meant := (
        SELECT substr(split_part(prosrc, chr(10), 1), 3) FROM pg_proc
        WHERE proname = format('plain_%s', p_rollup.id) AND pronamespace = 'rollup_engine'::regnamespace);
    RETURN v_meant ->> 'relation' = v_relation::regclass::text AND v_meant -> 'columns' = (
        SELECT jsonb_object_agg(attname, atttypid::bigint) FROM pg_attribute
        WHERE attrelid = v_relation AND attnum > 0 AND v_meant -> 'columns' ? attname::text);
END
$$;
COMMENT ON FUNCTION rollup_engine.may_read_source(silver.rollup_config, name, name[]) IS
'Whether a role may read the raw table of a rollup itself, and means by its name and those of its columns what the rollup means.';

CREATE OR REPLACE FUNCTION rollup_engine.most_open_buckets() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 512;
COMMENT ON FUNCTION rollup_engine.most_open_buckets() IS 'How many buckets a plan reads from the source itself: hours of minutes, in partitions that it would know for hours anyway.';

CREATE OR REPLACE FUNCTION rollup_engine.newest_stale(p_rollup silver.rollup_config, p_before timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_generic_plan'
AS $$
DECLARE
    -- About: of a long log its end will do.
    v_end constant timestamptz := least(p_before, greatest(
        (SELECT to_time FROM rollup_engine.stale_range WHERE rollup_id = p_rollup.id AND cell < p_before AND from_time < p_before ORDER BY cell DESC, from_time DESC LIMIT 1),
        (SELECT max(to_time) FROM (
            SELECT to_time FROM rollup_engine.change_log WHERE source_id = p_rollup.source_id AND from_time < p_before ORDER BY writer DESC LIMIT 100) AS l)));
BEGIN
    RETURN rollup_engine.bucket_ceil(p_rollup, v_end);  -- with a variable it inlines
END
$$;
COMMENT ON FUNCTION rollup_engine.newest_stale(silver.rollup_config, timestamptz) IS 'The end of the newest stale bucket that begins before a time, as far as a glance tells; that time itself where there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.open_plan_for(p_rollup_id integer, p_role name, p_schemas name[]) RETURNS rollup_engine.open_plan
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_generic_plan'
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_now timestamptz;
    v_end timestamptz;
    v_plan rollup_engine.open_plan;
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    IF current_setting('tsrollup.advising', true) = 'on' OR NOT coalesce(rollup_engine.may_read_source(v_rollup, p_role, p_schemas), false) THEN
        RETURN NULL;  -- as in planned_partitions
    END IF;
    -- Clocks of devices go ahead: what lies behind now is not the open bucket.
    v_now := rollup_engine.bucket_ceil(v_rollup, now());
    v_end := rollup_engine.newest_stale(v_rollup, v_now);
    -- That and the one before, or all of a day that are few; and what comes, for a plan may live for long.
    v_plan.from_time := least(
        rollup_engine.bucket_start(v_rollup, rollup_engine.bucket_start(v_rollup, v_end - interval '1 microsecond') - interval '1 microsecond'),
        rollup_engine.bucket_start(v_rollup, v_end - least(rollup_engine.most_open_buckets() * v_rollup.bucket_width, '24 hours')));
    v_plan.to_time := CASE WHEN v_end < v_plan.from_time + (v_now - v_plan.from_time) / 2 THEN v_end ELSE 'infinity' END;
    PERFORM rollup_engine.hear_invalidations();
    v_plan.parts := rollup_engine.source_parts(v_rollup.source_id);
    RETURN v_plan;
END
$$;
COMMENT ON FUNCTION rollup_engine.open_plan_for(integer, name, name[]) IS
'From when to when a role reads stale buckets from the source itself: about the newest; and the partitions of the source that the plan being made knows, as planned_partitions is for those of the rollup. NULL: nothing.';

CREATE OR REPLACE FUNCTION rollup_engine.open_plan(p_rollup_id integer) RETURNS rollup_engine.open_plan
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Parsed here: who reads may have no right to name what is in the machinery's schema.
RETURN rollup_engine.open_plan_for(p_rollup_id, current_user, current_schemas(true));
COMMENT ON FUNCTION rollup_engine.open_plan(integer) IS 'The same for who reads. Immutable so that it is a constant of the plan, which the planner prunes and estimates by.';

CREATE OR REPLACE FUNCTION rollup_engine.open_set(p_rollup silver.rollup_config, p_stale tstzmultirange, p_plan rollup_engine.open_plan) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_open tstzmultirange := '{}';
    v_parent_id integer := p_rollup.parent_id;
BEGIN
    IF p_plan.from_time IS NOT NULL AND p_plan.parts = rollup_engine.source_parts(p_rollup.source_id) THEN
        v_open := p_stale * tstzmultirange(tstzrange(p_plan.from_time, p_plan.to_time));
    END IF;
    -- From raw rows, past what the rollup reads: where that has some of it stored, if only some groups, it is read instead.
    WHILE v_parent_id IS NOT NULL AND NOT isempty(v_open) LOOP
        -- Most often all of it is stale as a whole, and nobody needs to ask which keys there are.
        IF NOT v_open <@ rollup_engine.stale_set(v_parent_id, NULL, range_merge(v_open), '{}') THEN
            v_open := v_open - rollup_engine.bucket_align(p_rollup,
                v_open - rollup_engine.stale_set(v_parent_id, NULL, range_merge(v_open), rollup_engine.keys_of_wholes(v_parent_id)));
        END IF;
        v_parent_id := (SELECT parent_id FROM silver.rollup_config WHERE id = v_parent_id);
    END LOOP;
    RETURN CASE WHEN rollup_engine.bucket_count(p_rollup.bucket_width, v_open) <= rollup_engine.most_open_buckets() THEN v_open ELSE '{}' END;
END
$$;
COMMENT ON FUNCTION rollup_engine.open_set(silver.rollup_config, tstzmultirange, rollup_engine.open_plan) IS
'Those of the stale ranges of a rollup that a plan reads from the source itself: buckets that are stale in all that the rollup reads, where they are few, and while the plan knows all partitions.';

CREATE OR REPLACE FUNCTION rollup_engine.open_arm_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The planner sees through a function whose arguments are constants or columns, and not where one is a sub-select.
    SELECT CASE WHEN rollup_engine.plain_function_sql(p_rollup) IS NULL THEN '' ELSE $sql$
        UNION ALL
        SELECT b.bucket, {live_columns}
        FROM rollup_engine.few_buckets(s.rollup, s.open) AS b (bucket, tsrollup_next)
        LEFT JOIN rollup_engine.plan_of_role AS p (tsrollup_edges) ON p.tsrollup_edges = 1
        CROSS JOIN LATERAL rollup_engine.plain_{id}(
            coalesce(rollup_engine.open_plan({id}), (SELECT NULL::rollup_engine.open_plan)), b.bucket, b.tsrollup_next) AS f$sql$ END
$$;
COMMENT ON FUNCTION rollup_engine.open_arm_sql(silver.rollup_config) IS 'What a live view has besides for the newest buckets, with marks as in its text; empty where a filter reaches no further so.';

RESET ROLE;
