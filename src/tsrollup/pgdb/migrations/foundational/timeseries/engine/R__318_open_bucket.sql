-- The open bucket: one stale bucket that is a constant of the plan.
--
-- A filter on a dimension does not enter a function. Whoever may read the source himself has the planner
-- see its rows of that bucket, in a function without rights of its own, so that the filter reaches
-- the source's index. For others, and for all other stale buckets, the function with the owner's rights answers.
--
-- Any bucket is exact, at whatever time the plan runs: where it is not stale any more, its stored rows
-- are read as ever. What one plan asks twice is looked up in its snapshot, never in the catalogue as it is
-- by now, so that all parts of it name the same bucket.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.open_bucket(p_rollup_id integer) RETURNS timestamptz
    LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_width interval;
    v_newest timestamptz;
BEGIN
    IF current_setting('tsrollup.advising', true) = 'on' THEN
        RETURN NULL;  -- as in planned_partitions
    END IF;
    v_width := (SELECT bucket_width FROM silver.rollup_config WHERE id = p_rollup_id);
    -- Clocks of devices go ahead: what lies behind now is not it.
    v_newest := upper(rollup_engine.stale_set(p_rollup_id, NULL, tstzrange(NULL, rollup_engine.bucket_ceil(v_width, now()))));
    v_newest := silver.time_bucket(v_width, v_newest - interval '1 microsecond');
    RETURN CASE WHEN v_newest >= lower(rollup_engine.calendar()) AND rollup_engine.bucket_next(v_width, v_newest) <= upper(rollup_engine.calendar()) THEN v_newest END;
END
$$;
COMMENT ON FUNCTION rollup_engine.open_bucket(integer) IS
'The newest stale bucket, or NULL. Immutable so that it is a constant of the plan, which the planner prunes and estimates by.';

-- In PL/pgSQL, whose statements are planned once in a session, though they are queries: each read asks.

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

CREATE OR REPLACE FUNCTION rollup_engine.planned_parts(p_rollup_id integer) RETURNS bigint
    LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('tsrollup.advising', true) = 'on' THEN
        RETURN NULL;
    END IF;
    PERFORM rollup_engine.hear_invalidations();
    RETURN rollup_engine.source_parts((SELECT source_id FROM silver.rollup_config WHERE id = p_rollup_id));
END
$$;
COMMENT ON FUNCTION rollup_engine.planned_parts(integer) IS 'The set of partitions of the source that the plan being made knows, as planned_partitions is for those of the rollup.';

-- Who reads the source himself -------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.read_columns(p_rollup silver.rollup_config) RETURNS TABLE (name name, attnum smallint, type oid)
    LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 10
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_generic_plan'
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_rollup.source_id;
    RETURN QUERY
        SELECT u.name, a.attnum, a.atttypid
        FROM (
            SELECT v_source.time_column UNION ALL SELECT unnest(p_rollup.dimensions) UNION ALL SELECT jsonb_object_keys(p_rollup.metrics)
        ) AS u (name)
        -- One after the other by the index, of a catalogue that is large.
        LEFT JOIN LATERAL (
            SELECT a.attnum, a.atttypid FROM pg_attribute AS a
            WHERE a.attrelid = v_source.relation AND a.attnum > 0 AND a.attname = coalesce((
                SELECT current_name FROM rollup_engine.source_column AS c WHERE c.source_id = v_source.id AND c.column_name = u.name), u.name)
            LIMIT 1
        ) AS a ON true;
END
$$;
COMMENT ON FUNCTION rollup_engine.read_columns(silver.rollup_config) IS 'The columns of the raw table that a rollup is made of, by the names that it knows; number and type are NULL for one that is gone.';

CREATE OR REPLACE FUNCTION rollup_engine.read_trace(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_generic_plan'
AS $$
DECLARE
    v_relation constant regclass := (SELECT relation FROM rollup_engine.source WHERE id = p_rollup.source_id);
BEGIN
    RETURN md5(concat(v_relation, ' ', (
        SELECT string_agg(concat_ws(' ', c.name, (SELECT attname FROM pg_attribute WHERE attrelid = v_relation AND attnum = c.attnum), format_type(c.type, NULL)), ',' ORDER BY c.name)
        FROM rollup_engine.read_columns(p_rollup) AS c)));
END
$$;
COMMENT ON FUNCTION rollup_engine.read_trace(silver.rollup_config) IS 'A digest of the names and types that a rollup reads the raw table by.';

CREATE OR REPLACE FUNCTION rollup_engine.is_reached_by_dimension(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM rollup_engine.source AS s
        JOIN pg_class AS c ON c.oid = s.relation AND c.relkind IN ('r', 'p')
        JOIN pg_index AS i ON i.indrelid = c.oid AND i.indpred IS NULL AND i.indisvalid
        JOIN pg_class AS x ON x.oid = i.indexrelid
        JOIN pg_am AS m ON m.oid = x.relam AND m.amname = 'btree'
        WHERE s.id = p_rollup.source_id AND s.change_tracking = 'trigger'
            AND i.indkey[0] IN (SELECT attnum FROM rollup_engine.read_columns(p_rollup) WHERE name = ANY (p_rollup.dimensions))
            AND (SELECT attnum FROM rollup_engine.read_columns(p_rollup) WHERE name = s.time_column) = ANY (i.indkey::smallint[]))
$$;
COMMENT ON FUNCTION rollup_engine.is_reached_by_dimension(silver.rollup_config) IS 'Whether an index of the raw table leads from a dimension to the time.';

CREATE OR REPLACE FUNCTION rollup_engine.plain_function_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_raw silver.rollup_config := p_rollup;
    v_time_type regtype;
    v_states text;
BEGIN
    IF NOT rollup_engine.is_reached_by_dimension(p_rollup) THEN
        RETURN NULL;
    END IF;
    -- As if it were made of raw rows itself.
    v_raw.parent_id := NULL;
    SELECT relation, time_column, time_type INTO v_raw.source_table, v_raw.time_column, v_time_type FROM rollup_engine.source WHERE id = p_rollup.source_id;
    -- It is parsed as its reader: with nothing in it but built-in types and aggregates, which are named in full.
    SELECT string_agg(format('(%s)::%s', regexp_replace(p.expression, '^(\(?)(count|sum|min|max|array_agg)\(', '\1pg_catalog.\2('), c.data_type), ', ' ORDER BY c.position)
    INTO v_states
    FROM rollup_engine.rollup_column AS c JOIN rollup_engine.plan_columns(v_raw, v_time_type) AS p USING (column_name)
    WHERE c.rollup_id = p_rollup.id AND c.kind = 'state'
    HAVING bool_and(p.expression ~ '^\(?(count|sum|min|max|array_agg)\(' AND c.outgrown_by IS NULL)
        AND NOT EXISTS (
            SELECT FROM rollup_engine.read_columns(p_rollup) AS r LEFT JOIN pg_type AS t ON t.oid = r.type
            WHERE t.typnamespace IS DISTINCT FROM 'pg_catalog'::regnamespace);
    IF v_states IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN rollup_engine.fill($sql$
CREATE OR REPLACE FUNCTION rollup_engine.plain_{id}(p_bucket timestamptz) RETURNS SETOF {target}
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 100 COST 10000
AS {body};
GRANT EXECUTE ON FUNCTION rollup_engine.plain_{id}(timestamptz) TO PUBLIC
$sql$, jsonb_build_object(
        'id', p_rollup.id,
        'target', p_rollup.target_table,
        'body', quote_literal(rollup_engine.fill($body$--{trace}
SELECT $1, {dimensions}, {states} FROM {source} AS tsrollup_rows WHERE {condition} GROUP BY {groups}
$body$, jsonb_build_object(
            'trace', rollup_engine.read_trace(p_rollup),
            'dimensions', (
                SELECT string_agg(quote_ident(rollup_engine.source_name(v_raw, name)), ', ' ORDER BY place)
                FROM unnest(p_rollup.dimensions) WITH ORDINALITY AS d (name, place)),
            'states', v_states,
            'source', v_raw.source_table,
            'condition', rollup_engine.time_condition(v_raw, '$1', format('((($1 AT TIME ZONE ''UTC'') + interval %L) AT TIME ZONE ''UTC'')', p_rollup.bucket_width)),
            'groups', rollup_engine.group_list(p_rollup))))));
END
$$;
COMMENT ON FUNCTION rollup_engine.plain_function_sql(silver.rollup_config) IS
'Text of the function that computes one bucket from raw rows, with the rights of who reads and without settings, so that the planner sees through it; NULL where that helps no filter, or where a name in it might mean something else to a reader.';

CREATE OR REPLACE FUNCTION rollup_engine.reads_source(p_rollup_id integer, p_role name, p_schemas name[]) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = 'force_generic_plan'
AS $$
DECLARE
    v_rollup silver.rollup_config;
BEGIN
    IF current_setting('tsrollup.advising', true) = 'on' THEN
        RETURN false;
    END IF;
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    RETURN EXISTS (
        SELECT FROM rollup_engine.source AS s
        JOIN pg_class AS c ON c.oid = s.relation AND NOT c.relrowsecurity AND NOT row_security_active(c.oid)
            -- What lies deeper would have to be looked for at each read.
            AND NOT EXISTS (
                SELECT FROM pg_inherits AS i LEFT JOIN pg_partitioned_table AS p ON p.partrelid = i.inhrelid
                WHERE i.inhparent = c.oid AND (c.relkind <> 'p' OR p.partrelid IS NOT NULL))
        JOIN pg_proc AS f ON f.pronamespace = 'rollup_engine'::regnamespace AND f.proname = format('plain_%s', p_rollup_id)
            AND starts_with(f.prosrc, format(E'--%s\n', rollup_engine.read_trace(v_rollup)))
        WHERE s.id = v_rollup.source_id
            AND has_schema_privilege(p_role, c.relnamespace, 'USAGE') AND has_table_privilege(p_role, c.oid, 'SELECT')
            AND (SELECT schema FROM unnest(p_schemas) WITH ORDINALITY AS p (schema, place) WHERE schema !~ '^pg_temp_' ORDER BY place LIMIT 1) = 'pg_catalog');
END
$$;
COMMENT ON FUNCTION rollup_engine.reads_source(integer, name, name[]) IS
'Whether a role may read the raw table of a rollup itself, and means by its name and those of its columns what the rollup means.';

CREATE OR REPLACE FUNCTION rollup_engine.plans_source(p_rollup_id integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Parsed here: who reads may have no right to name what is in the machinery's schema.
RETURN rollup_engine.reads_source(p_rollup_id, current_user, current_schemas(true));
COMMENT ON FUNCTION rollup_engine.plans_source(integer) IS 'Whether the planner may see through to the raw table, for who reads. Immutable so that it is asked while the plan is made.';

-- Whether it is read so ---------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.open_range(
    p_rollup_id integer, p_planned bigint, p_open timestamptz, p_parts bigint, p_role name, p_schemas name[]
) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_range tstzrange;
BEGIN
    IF p_open IS NULL OR NOT rollup_engine.reads_source(p_rollup_id, p_role, p_schemas) THEN
        RETURN '{}';
    END IF;
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    IF p_parts <> rollup_engine.source_parts(v_rollup.source_id) THEN
        RETURN '{}';
    END IF;
    v_range := tstzrange(p_open, rollup_engine.bucket_next(v_rollup.bucket_width, p_open));
    -- From raw rows, past what the rollup reads: where that has some of it stored, it is read instead. What is sealed
    -- is not stale.
    LOOP
        IF NOT rollup_engine.stale_set(v_rollup.id, CASE v_rollup.id WHEN p_rollup_id THEN p_planned END, v_range) @> v_range THEN
            RETURN '{}';
        END IF;
        EXIT WHEN v_rollup.parent_id IS NULL;
        SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = v_rollup.parent_id;
    END LOOP;
    RETURN tstzmultirange(v_range);
END
$$;
COMMENT ON FUNCTION rollup_engine.open_range(integer, bigint, timestamptz, bigint, name, name[]) IS
'The range of the open bucket of a plan, where its reader may read the source himself, it is stale in the rollup and all that this reads, and the plan knows the partitions; else empty.';

CREATE OR REPLACE FUNCTION rollup_engine.open_arm_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What is asked while the query runs decides, in all arms alike. The planner sees through a function
    -- whose argument is a constant, and not where that is a sub-select.
    SELECT CASE WHEN rollup_engine.plain_function_sql(p_rollup) IS NULL THEN '' ELSE $sql$
    UNION ALL
    SELECT f.*, {latest}, false
    FROM (
        SELECT rollup_engine.open_bucket({id}) AS bucket, {live_columns}
        FROM rollup_engine.plain_{id}(
            CASE WHEN rollup_engine.plans_source({id}) THEN rollup_engine.open_bucket({id}) ELSE (SELECT rollup_engine.open_bucket({id})) END) AS f
        LEFT JOIN rollup_engine.plan_of_role AS p (tsrollup_first) ON p.tsrollup_first = 1
        WHERE NOT isempty(rollup_engine.open_range({id}, rollup_engine.planned_partitions({id}){open}))
    ) AS f$sql$ END
$$;
COMMENT ON FUNCTION rollup_engine.open_arm_sql(silver.rollup_config) IS 'What a live view has besides for the open bucket, with marks as in its text; empty where a filter reaches no further so.';

RESET ROLE;
