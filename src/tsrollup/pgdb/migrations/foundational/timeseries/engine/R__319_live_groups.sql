-- Reading partly stale buckets: their stale groups are computed, one by one, all others come from the table.
-- A bucket that is stale as a whole too is none of them. So is what cannot be told by the group, or is too much.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.rows_of_a_group() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 1000;
COMMENT ON FUNCTION rollup_engine.rows_of_a_group() IS 'A stale group costs about as much to find, and to find a level further down, as so many rows to read.';

CREATE OR REPLACE FUNCTION rollup_engine.keys_of_wholes(p_rollup_id integer) RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET plan_cache_mode = 'force_generic_plan'
AS $$
DECLARE
    v_rollup record;
    v_groups double precision;
BEGIN
    SELECT source_id, bucket_width, key_dimension INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    IF v_rollup.key_dimension IS NOT NULL THEN
        v_groups := (SELECT sum(cardinality(keys)) FROM rollup_engine.stale_range WHERE rollup_id = p_rollup_id);
        v_groups := coalesce(v_groups, 0) + coalesce((
            SELECT sum(cardinality(keys) * (1 + extract(epoch FROM to_time - from_time) / extract(epoch FROM v_rollup.bucket_width)))
            FROM rollup_engine.change_log
            WHERE source_id = v_rollup.source_id AND keys IS NOT NULL AND writer >= rollup_engine.read_border(v_rollup.source_id)), 0);
    END IF;
    RETURN CASE WHEN v_groups BETWEEN 1 AND 5000 AND (
        -- As in reads_by_bucket, of the snapshot: a small source is read as a whole instead.
        SELECT max(source_rows) >= v_groups * rollup_engine.rows_of_a_group()
        FROM silver.rollup_config WHERE id IN (SELECT rollup_engine.with_ancestors(p_rollup_id))) THEN '{}' END;
END
$$;
COMMENT ON FUNCTION rollup_engine.keys_of_wholes(integer) IS
'The keys by which stale_set leaves out buckets that are partly stale, which are none: {}; NULL where all count as whole, for there are no others, or too many.';

CREATE OR REPLACE FUNCTION rollup_engine.read_border(p_source_id integer) RETURNS xid8
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((
        SELECT b.writer FROM rollup_engine.log_border AS b
        WHERE b.source_id = p_source_id AND b.noted_by = b.xmin ORDER BY b.writer DESC LIMIT 1), '0');
END
$$;
COMMENT ON FUNCTION rollup_engine.read_border(integer) IS 'Where reads begin in the change log of a source, behind what is settled.';

CREATE OR REPLACE FUNCTION rollup_engine.stale_wholes(p_rollup_id integer, p_planned bigint, p_by_group boolean) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN rollup_engine.finite_stale_set(p_rollup_id, p_planned, CASE WHEN p_by_group THEN rollup_engine.keys_of_wholes(p_rollup_id) END);
END
$$;
COMMENT ON FUNCTION rollup_engine.stale_wholes(integer, bigint, boolean) IS 'The finite stale set of a rollup, without the buckets that a view reads by the group, if it does.';

CREATE OR REPLACE FUNCTION rollup_engine.live_groups_in(p_rollup_id integer, p_planned bigint, p_within tstzrange) RETURNS TABLE (bucket timestamptz, next_bucket timestamptz, key text)
    LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 100
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET plan_cache_mode = 'force_generic_plan'
AS $$
DECLARE
    v_keys constant text[] := rollup_engine.keys_of_wholes(p_rollup_id);
    v_wholes tstzmultirange;
    v_rollup silver.rollup_config;
BEGIN
    IF v_keys IS NULL THEN
        RETURN;
    END IF;
    v_wholes := rollup_engine.stale_set(p_rollup_id, p_planned, p_within, v_keys);
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    RETURN QUERY
        SELECT DISTINCT g.bucket, g.next_bucket, g.key COLLATE "C"
        FROM (
            SELECT s.from_time, s.to_time, unnest(s.keys) FROM rollup_engine.stale_range AS s
            WHERE s.rollup_id = p_rollup_id AND s.keys IS NOT NULL AND tstzrange(s.from_time, s.to_time) && p_within
            UNION ALL
            SELECT b.bucket, b.next_bucket, unnest(l.keys)
            FROM rollup_engine.change_log AS l
            CROSS JOIN LATERAL rollup_engine.buckets_in(v_rollup, rollup_engine.bucket_align(v_rollup, tstzmultirange(tstzrange(l.from_time, l.to_time)))) AS b
            WHERE l.source_id = v_rollup.source_id AND l.keys IS NOT NULL AND l.writer >= rollup_engine.read_border(v_rollup.source_id)
                AND tstzrange(l.from_time, l.to_time) && p_within
        ) AS g (bucket, next_bucket, key)
        WHERE g.bucket <@ p_within AND NOT g.bucket <@ v_wholes AND g.bucket >= coalesce(v_rollup.sealed_before, '-infinity')
        ORDER BY 1, 3;  -- neighbours share pages of the source
END
$$;
COMMENT ON FUNCTION rollup_engine.live_groups_in(integer, bigint, tstzrange) IS 'Stale groups of buckets that are not stale as a whole, which a live view computes, within a range of whole buckets.';

CREATE OR REPLACE FUNCTION rollup_engine.live_groups(p_rollup_id integer, p_planned bigint) RETURNS TABLE (bucket timestamptz, next_bucket timestamptz, key text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE ROWS 100
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT * FROM rollup_engine.live_groups_in(p_rollup_id, p_planned, '(,)');
END
$$;
COMMENT ON FUNCTION rollup_engine.live_groups(integer, bigint) IS 'All of them, for who reads the view.';

CREATE OR REPLACE FUNCTION rollup_engine.partly_stale(p_rollup_id integer, p_planned bigint) RETURNS SETOF timestamptz
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT DISTINCT g.bucket FROM rollup_engine.live_groups(p_rollup_id, p_planned) AS g;
END
$$;
COMMENT ON FUNCTION rollup_engine.partly_stale(integer, bigint) IS 'The buckets of live_groups.';

-- What is generated for a rollup ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.reads_groups(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A new one has its key when it is registered. A group is read at all levels, and by the index at the last.
    SELECT p_rollup.key_dimension IS NOT NULL AND coalesce(bool_and(r.key_dimension IS NOT NULL
        AND (r.parent_id IS NOT NULL OR rollup_engine.has_key_index(s.relation, s.key_column, s.time_column))), false)
    FROM silver.rollup_config AS r JOIN rollup_engine.source AS s ON s.id = r.source_id
    WHERE r.id IN (SELECT rollup_engine.with_ancestors(p_rollup.id))
$$;
COMMENT ON FUNCTION rollup_engine.reads_groups(silver.rollup_config) IS 'Whether the live view of a rollup computes single groups: it and all that it reads have the key, and the source has an index of it and the time.';


CREATE OR REPLACE FUNCTION rollup_engine.group_condition(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format(' AND %I = %s', rollup_engine.source_name(p_rollup, p_rollup.key_dimension), rollup_engine.key_value(p_rollup.target_table, p_rollup.key_dimension, '$4'))
$$;
COMMENT ON FUNCTION rollup_engine.group_condition(silver.rollup_config) IS 'What is added to a condition on rows of the source for those of the group whose key is $4.';

CREATE OR REPLACE FUNCTION rollup_engine.group_arms_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A NULL key is never stale by itself. The key is compared with the dimension, so that a filter on that reaches the groups.
    SELECT CASE WHEN NOT rollup_engine.reads_groups(p_rollup) THEN '' ELSE $sql$
    UNION ALL
    SELECT f.*, {latest}, false
    FROM (
        SELECT t.bucket, {other_columns}
        FROM rollup_engine.partly_stale({id}, rollup_engine.planned_partitions({id})) AS p (tsrollup_first)
        JOIN {target} AS t ON t.bucket = p.tsrollup_first
        WHERE t.{key} IS NULL OR (t.bucket, t.{key}::text COLLATE "C") NOT IN (
            SELECT g.bucket, g.key COLLATE "C" FROM rollup_engine.live_groups({id}, rollup_engine.planned_partitions({id})) AS g (bucket, tsrollup_next, key))
    ) AS f
    UNION ALL
    SELECT f.*, {latest}, false
    FROM (
        SELECT g.tsrollup_first, {live_columns}
        FROM rollup_engine.live_groups({id}, rollup_engine.planned_partitions({id})) AS g (tsrollup_first, tsrollup_next, tsrollup_key)
        CROSS JOIN LATERAL rollup_engine.live_group_{id}(g.tsrollup_first, g.tsrollup_next, g.tsrollup_key) AS f
        WHERE f.{key} = {key_value}
    ) AS f$sql$ END
$$;
COMMENT ON FUNCTION rollup_engine.group_arms_sql(silver.rollup_config) IS 'What a live view has besides for buckets of which some groups are stale, with marks as in its text.';

RESET ROLE;
