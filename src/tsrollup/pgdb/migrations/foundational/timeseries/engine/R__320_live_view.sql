-- The live view: stored rows outside the stale set, and the source's answer inside it.
--
-- Stale buckets are computed by a function that plans with known bounds, so that a
-- source of many partitions costs only those in the range. Everything it calls is
-- STABLE: a volatile function would take a newer snapshot than the query. But which partitions
-- the plan knows is asked while it is made (planned_partitions), and travels with it as a constant.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- That of 0.1.0 took the width alone.
DROP FUNCTION IF EXISTS rollup_engine.window_tail(interval);
CREATE OR REPLACE FUNCTION rollup_engine.window_tail(p_rollup silver.rollup_config) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT tstzmultirange(tstzrange(rollup_engine.bucket_ceil(p_rollup, now()), 'infinity'))
$$;
COMMENT ON FUNCTION rollup_engine.window_tail(silver.rollup_config) IS 'The buckets ahead of now, where window tracking may find rows at any time.';

DROP FUNCTION IF EXISTS rollup_engine.finite_stale_set(integer, bigint);
CREATE OR REPLACE FUNCTION rollup_engine.finite_stale_set(p_rollup_id integer, p_planned bigint DEFAULT NULL, p_keys text[] DEFAULT NULL) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_stale tstzmultirange := rollup_engine.stale_set(p_rollup_id, p_planned, p_keys => p_keys);
    v_unclipped tstzmultirange := '{}';
    v_extent tstzmultirange := '{}';
    v_rollup silver.rollup_config;
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    IF v_rollup.change_tracking = 'window' THEN
        v_stale := v_stale - rollup_engine.window_tail(v_rollup);
    END IF;
    -- What is finite was clipped when it was marked, and needs no search at every read. A partition that
    -- the plan does not know was not.
    IF NOT (isfinite(coalesce(lower(v_stale), '-infinity')) AND isfinite(coalesce(upper(v_stale), 'infinity'))) THEN
        v_unclipped := v_stale;
    ELSIF EXISTS (SELECT FROM rollup_engine.rollup_partition WHERE rollup_id = p_rollup_id AND generation > p_planned) THEN
        v_unclipped := v_stale - rollup_engine.stale_set(p_rollup_id, p_keys => p_keys);
        IF rollup_engine.bucket_count(v_rollup.bucket_width, v_unclipped) <= 32 THEN
            v_unclipped := '{}';
        END IF;
    END IF;
    IF NOT isempty(v_unclipped) THEN
        v_extent := rollup_engine.data_extent(v_rollup, v_unclipped, false);
        IF rollup_engine.bucket_count(v_rollup.bucket_width, v_extent) > 10000 THEN
            v_extent := rollup_engine.data_extent(v_rollup, v_extent, true);
        END IF;
        v_stale := v_stale - v_unclipped;
    END IF;
    -- Of buckets that a plan goes through one by one, a filter leaves few, and clipping would change nothing about how.
    IF rollup_engine.is_wide(v_rollup.bucket_width, v_stale) AND (p_planned IS NULL OR NOT rollup_engine.reads_by_bucket(p_rollup_id, v_stale)) THEN
        v_stale := rollup_engine.data_extent(v_rollup, v_stale, false);
    END IF;
    RETURN v_stale + v_extent;
END
$$;
COMMENT ON FUNCTION rollup_engine.finite_stale_set(integer, bigint, text[]) IS 'The stale set, clipped to where there is data, without the tail of a window.';

CREATE OR REPLACE FUNCTION rollup_engine.estimated_rows(p_relation regclass) RETURNS double precision
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Never analysed: about a hundred bytes a row.
    RETURN coalesce(sum(CASE WHEN c.reltuples < 0 THEN pg_relation_size(c.oid) / 100.0 ELSE c.reltuples END), 0)
    FROM rollup_engine.partition_tree(p_relation) AS t (member)
    JOIN pg_class AS c ON c.oid = t.member AND c.relkind IN ('r', 'm', 'f');
END
$$;
COMMENT ON FUNCTION rollup_engine.estimated_rows(regclass) IS 'Rows of a table and its partitions, by the planner''s statistics.';

CREATE OR REPLACE FUNCTION rollup_engine.reads_by_bucket(p_rollup_id integer, p_stale tstzmultirange) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_buckets constant bigint := rollup_engine.bucket_count((SELECT bucket_width FROM silver.rollup_config WHERE id = p_rollup_id), p_stale);
BEGIN
    -- A bucket costs about as much to plan as 300 rows to read, at each level. One by one, a filter on
    -- the bucket reaches the source; a small source is read in one piece instead. Before a first fill
    -- the rows are at the root.
    -- The view asks twice, so the answer must come from the snapshot: pg_class is updated in place.
    RETURN v_buckets <= 32 OR v_buckets <= 1000000 AND (
        SELECT max(source_rows) > least(2000000, 300 * count(*) * v_buckets)
            AND bool_and(rollup_engine.distribution_column(source_table) IS NULL)  -- each would be asked of every worker
            AND bool_and(parent_id IS NOT NULL OR rollup_engine.finds_times(source_table, time_column))  -- each would cost the table
        FROM silver.rollup_config WHERE id IN (SELECT rollup_engine.with_ancestors(p_rollup_id)));
END
$$;
COMMENT ON FUNCTION rollup_engine.reads_by_bucket(integer, tstzmultirange) IS 'Whether the live view computes stale buckets one by one, or whole ranges.';

CREATE OR REPLACE FUNCTION rollup_engine.in_few_pieces(p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN (SELECT count(*) FROM unnest(p_ranges)) <= 16 THEN p_ranges ELSE tstzmultirange(range_merge(p_ranges)) END
$$;
COMMENT ON FUNCTION rollup_engine.in_few_pieces(tstzmultirange) IS 'The ranges, or what reaches from the first to the last of many: read at once, with what lies between, it costs less.';

CREATE OR REPLACE FUNCTION rollup_engine.few_pieces(p_ranges tstzmultirange) RETURNS TABLE (from_time timestamptz, to_time timestamptz)
    LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER PARALLEL SAFE ROWS 1
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT lower(r), upper(r) FROM unnest(rollup_engine.in_few_pieces(p_ranges)) AS r;
END
$$;
COMMENT ON FUNCTION rollup_engine.few_pieces(tstzmultirange) IS 'Each of those; one, for the planner.';

CREATE OR REPLACE FUNCTION rollup_engine.stale_parts(
    p_rollup_id integer, p_planned bigint, p_plan rollup_engine.open_plan, p_by_group boolean,
    OUT rollup silver.rollup_config, OUT singles tstzmultirange, OUT spans tstzmultirange, OUT open tstzmultirange
)
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_stale constant tstzmultirange := rollup_engine.stale_wholes(p_rollup_id, p_planned, p_by_group);
BEGIN
    SELECT * INTO rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    IF isempty(v_stale) THEN
        spans := '{}';
    ELSIF rollup_engine.reads_by_bucket(p_rollup_id, v_stale) THEN
        open := rollup_engine.open_set(rollup, v_stale, p_plan);
        singles := v_stale - open;
        spans := '{}';
    ELSE
        spans := v_stale;
    END IF;
    IF rollup.change_tracking = 'window' THEN
        spans := spans + rollup_engine.window_tail(rollup);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.stale_parts(integer, bigint, rollup_engine.open_plan, boolean) IS
'What the live view computes, but for single groups: stale buckets one by one, or in ranges with those between them, and, by its plan, from the source itself.';

-- Views of 0.1.0, which may stay for a while, call these.
CREATE OR REPLACE FUNCTION rollup_engine.stale_buckets(p_rollup_id integer, p_planned bigint DEFAULT NULL) RETURNS TABLE (bucket timestamptz, next_bucket timestamptz)
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT b.* FROM rollup_engine.stale_parts(p_rollup_id, p_planned, NULL, false) AS s CROSS JOIN LATERAL rollup_engine.buckets_in(s.rollup, s.singles) AS b;
END
$$;
COMMENT ON FUNCTION rollup_engine.stale_buckets(integer, bigint) IS 'Stale buckets that the live view computes one by one.';

CREATE OR REPLACE FUNCTION rollup_engine.stale_spans(p_rollup_id integer, p_planned bigint DEFAULT NULL) RETURNS TABLE (from_time timestamptz, to_time timestamptz, stale tstzmultirange)
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE ROWS 1
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT p.*, s.spans FROM rollup_engine.stale_parts(p_rollup_id, p_planned, NULL, false) AS s CROSS JOIN LATERAL rollup_engine.few_pieces(s.spans) AS p;
END
$$;
COMMENT ON FUNCTION rollup_engine.stale_spans(integer, bigint) IS 'Ranges that the live view computes whole, and which of their buckets are stale.';

CREATE OR REPLACE FUNCTION rollup_engine.stale_edges(p_rollup_id integer, p_planned bigint, OUT first timestamptz, OUT edges timestamptz[])
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_stale constant tstzmultirange := rollup_engine.stale_set(p_rollup_id, p_planned);
BEGIN
    SELECT array_agg(edge ORDER BY edge) INTO edges
    FROM unnest(v_stale) AS r
    CROSS JOIN LATERAL (VALUES (coalesce(lower(r), '-infinity')), (coalesce(upper(r), 'infinity'))) AS e (edge);
    edges := coalesce(edges, '{}');
    -- Of what is read by bucket a part is, too: the view computes less than this, but never more.
    first := CASE WHEN edges = '{}' THEN 'infinity'
        WHEN isfinite(edges[1]) AND isfinite(edges[cardinality(edges)]) AND rollup_engine.reads_by_bucket(p_rollup_id, v_stale) THEN edges[1]
        ELSE '-infinity' END;
END
$$;
COMMENT ON FUNCTION rollup_engine.stale_edges(integer, bigint) IS
'Starts and ends of the stale set in turn, the form in which a row is compared with it fastest. Stored rows before the first need no closer look; where that is -infinity, some of it may be computed in spans.';

-- What is generated for a rollup ------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.live_rows_sql() RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- One condition for all arms, and none in them: so stored rows are rows of the query itself, of which it reads
    -- the columns that it asks for; and the stale set is worked out before workers start, for whom that takes
    -- longest. Where the first edge is infinity, nothing is stale, and nobody asks what to compute. Else it is asked
    -- once where there is an open arm; without one each arm asks, for only so can workers read what is stored,
    -- that of spans only where there may be any.
    -- Inside a stale range, an odd number of edges lies at or before the bucket; the planner takes
    -- nearly all rows to pass <> 1, and few to pass = 0.
    SELECT $sql$FROM (
    SELECT {stored_columns}, bucket AS tsrollup_first, true AS tsrollup_edges FROM {target}
    UNION ALL
    SELECT f.*, {latest}, false
    FROM {once}(
        SELECT b.bucket, {live_columns}
        FROM {each}rollup_engine.few_buckets(s.rollup, s.singles) AS b (bucket, tsrollup_next)
        CROSS JOIN LATERAL rollup_engine.live_{id}(b.bucket, b.tsrollup_next) AS f
        {and}
        SELECT f.bucket, {live_columns}
        FROM {each}rollup_engine.few_pieces(s.spans) AS p (tsrollup_from, tsrollup_to)
        CROSS JOIN LATERAL rollup_engine.live_{id}(p.tsrollup_from, p.tsrollup_to) AS f
        WHERE f.bucket <@ s.spans{open_arm}
    ) AS f{group_arms}
) AS u
WHERE (tsrollup_first < (SELECT first FROM rollup_engine.stale_edges({id}, rollup_engine.planned_partitions({id})))) = tsrollup_edges
    OR tsrollup_edges
        AND width_bucket(bucket, (SELECT edges FROM rollup_engine.stale_edges({id}, rollup_engine.planned_partitions({id})))) % 2 <> 1
$sql$
$$;
COMMENT ON FUNCTION rollup_engine.live_rows_sql() IS 'FROM and WHERE of a live view, with marks as in its text.';

-- That of 0.1.0 knew of no other columns than a view has.
DROP FUNCTION IF EXISTS rollup_engine.live_view_sql(silver.rollup_config, text);
CREATE OR REPLACE FUNCTION rollup_engine.live_view_sql(p_rollup silver.rollup_config, p_view text, p_names name[] DEFAULT NULL) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill(replace(replace(replace($sql$
CREATE OR REPLACE VIEW {view}{options} AS
SELECT bucket AS {bucket}, {columns}
{rows}$sql$, '{rows}', CASE WHEN f.rows IS NULL THEN rollup_engine.live_rows_sql() ELSE '{far_rows}' END), '{open_arm}', o.arm), '{group_arms}', g.arms), jsonb_build_object(
        'id', p_rollup.id,
        'far_rows', f.rows,
        'once', CASE WHEN o.arm <> '' THEN s.parts ELSE '' END,
        'each', CASE WHEN o.arm = '' THEN s.parts ELSE '' END,
        'and', CASE WHEN o.arm <> '' THEN 'UNION ALL' ELSE $sql$) AS f UNION ALL SELECT f.*, timestamptz '-infinity', false FROM ($sql$ END,
        'target', p_rollup.target_table,
        'stored_columns', rollup_engine.column_names(p_rollup.id, '{bucket,dimension,state}'),
        'live_columns', rollup_engine.column_names(p_rollup.id, '{dimension,state}', 'f.'),
        'other_columns', rollup_engine.column_names(p_rollup.id, '{dimension,state}', 't.'),
        'key', quote_ident(p_rollup.key_dimension),
        'key_value', rollup_engine.key_value(p_rollup.target_table, p_rollup.key_dimension, 'g.tsrollup_key'),
        'latest', l.latest,
        'view', p_view,
        -- Written anew without them, it would lose those that its owner has set.
        'options', coalesce((SELECT format(' WITH (%s)', array_to_string(reloptions, ', ')) FROM pg_class WHERE oid = p_rollup.target_view AND reloptions <> '{}'), ''),
        -- The view's owner may have renamed its columns, which keep their places.
        'bucket', coalesce(quote_ident(p_names[1]), (SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = p_rollup.target_view AND attnum = 1), 'bucket'),
        'columns', (
            SELECT string_agg(
                format(CASE kind WHEN 'finished' THEN '%1$s AS %3$I' ELSE '%2$I AS %3$I' END, expression, column_name, coalesce(p_names[place], attname, column_name)),
                ', ' ORDER BY position)
            FROM (
                SELECT *, row_number() OVER (ORDER BY position) AS place FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id
            ) AS c
            LEFT JOIN pg_attribute AS a ON a.attrelid = p_rollup.target_view AND a.attnum = c.place
            WHERE c.kind <> 'bucket')))
    FROM (SELECT rollup_engine.open_arm_sql(p_rollup)) AS o (arm), (SELECT rollup_engine.group_arms_sql(p_rollup)) AS g (arms),
        (SELECT 'FROM ' || rollup_engine.far_rows_sql(p_rollup)) AS f (rows),
        -- After all edges but infinity.
        (VALUES ($sql$timestamptz '294276-12-31 23:59:59.999999+00'$sql$)) AS l (latest),
        LATERAL (SELECT format('rollup_engine.stale_parts(%1$s, rollup_engine.planned_partitions(%1$s), %2$s, %3$s) AS s CROSS JOIN LATERAL ', p_rollup.id,
            CASE o.arm WHEN '' THEN 'NULL' ELSE format('rollup_engine.open_plan(%s)', p_rollup.id) END, (g.arms <> '')::text)) AS s (parts)
$$;
COMMENT ON FUNCTION rollup_engine.live_view_sql(silver.rollup_config, text, name[]) IS 'Text of the live view, whose columns have the names that they have, or the given ones.';

RESET ROLE;
