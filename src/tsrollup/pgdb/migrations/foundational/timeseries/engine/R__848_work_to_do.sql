-- What there is to refresh: buckets as a whole, and of others single groups.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.logged_groups(p_rollup silver.rollup_config) RETURNS TABLE (from_time timestamptz, to_time timestamptz, keys text[])
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH logged AS MATERIALIZED (
        SELECT l.from_time, l.to_time, array_agg(DISTINCT k.key COLLATE "C") AS keys
        FROM rollup_engine.change_log AS l CROSS JOIN LATERAL unnest(l.keys) AS k (key)
        WHERE l.source_id = p_rollup.source_id
        GROUP BY l.from_time, l.to_time
    ), extent AS MATERIALIZED (
        SELECT rollup_engine.bucket_align(p_rollup, range_agg(tstzrange(from_time, to_time))) AS aligned
        FROM logged HAVING count(*) <= 1000  -- who looks need not wait for more
    )
    SELECT b.bucket, b.next_bucket, l.keys
    FROM extent AS e CROSS JOIN LATERAL rollup_engine.buckets_in(p_rollup, e.aligned) AS b
    JOIN logged AS l ON l.from_time < b.next_bucket AND l.to_time > b.bucket
    WHERE b.bucket >= coalesce(p_rollup.sealed_before, '-infinity') AND rollup_engine.bucket_count(p_rollup.bucket_width, e.aligned)
        + (SELECT count(*) FROM rollup_engine.stale_range AS s WHERE s.rollup_id = p_rollup.id AND s.keys IS NOT NULL) <= rollup_engine.most_keyed_buckets()
$$;
COMMENT ON FUNCTION rollup_engine.logged_groups(silver.rollup_config) IS 'Groups, by their buckets, that a drain would make stale; none where it would have whole buckets stale instead, or the log is long.';

CREATE OR REPLACE FUNCTION rollup_engine.stale_groups() RETURNS TABLE (target_table text, groups bigint, buckets bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.target_table::text, sum(g.keys)::bigint, count(*)
    FROM silver.rollup_config AS r
    CROSS JOIN LATERAL (
        SELECT range_agg(tstzrange(w.from_time, w.to_time)) AS ranges
        FROM (
            SELECT from_time, to_time FROM rollup_engine.stale_range WHERE rollup_id = r.id AND keys IS NULL
            UNION ALL
            SELECT from_time, to_time FROM rollup_engine.change_log WHERE source_id = r.source_id AND keys IS NULL
        ) AS w
    ) AS whole
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT k.key) AS keys
        FROM (
            SELECT from_time, to_time, keys FROM rollup_engine.stale_range WHERE rollup_id = r.id AND keys IS NOT NULL
            UNION ALL
            SELECT * FROM rollup_engine.logged_groups(r)
        ) AS s CROSS JOIN LATERAL unnest(s.keys) AS k (key)
        WHERE (tstzrange(s.from_time, s.to_time) && whole.ranges) IS NOT TRUE
        GROUP BY s.from_time HAVING count(DISTINCT k.key) <= rollup_engine.most_keys()
    ) AS g
    WHERE r.key_dimension IS NOT NULL AND NOT rollup_engine.has_lost_zone(r)
    GROUP BY r.id
$$;
COMMENT ON FUNCTION rollup_engine.stale_groups() IS 'Of rollups where single groups are stale, or are logged, how many, and in how many buckets; those of buckets that are stale as a whole do not count.';

CREATE OR REPLACE FUNCTION rollup_engine.work_to_do(p_target text, p_as_of timestamptz)
RETURNS TABLE (target text, buckets bigint, groups bigint, group_buckets bigint, groups_by text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.target_table::text, rollup_engine.bucket_count(r.bucket_width, coalesce(s.whole, '{}')), coalesce(s.groups, 0), coalesce(s.group_buckets, 0),
        CASE WHEN s.groups > 0 THEN CASE WHEN rollup_engine.reads_groups_by_index(r) THEN 'index' ELSE 'scan' END END
    FROM rollup_engine.run_order(p_target) AS r
    CROSS JOIN LATERAL (
        SELECT range_agg(tstzrange(from_time, to_time)) FILTER (WHERE keys IS NULL OR r.key_dimension IS NULL) AS whole,
            sum(cardinality(keys)) FILTER (WHERE r.key_dimension IS NOT NULL) AS groups,
            count(DISTINCT from_time) FILTER (WHERE keys IS NOT NULL AND r.key_dimension IS NOT NULL) AS group_buckets
        FROM rollup_engine.stale_range
        WHERE rollup_id = r.id AND tstzrange(from_time, to_time) && rollup_engine.settled_range(r, p_as_of)
    ) AS s
$$;
COMMENT ON FUNCTION rollup_engine.work_to_do(text, timestamptz) IS
'What a run would refresh of the named rollup, or all: buckets as a whole; groups, in how many buckets, and whether each is read by an index or all from one scan.';

CREATE OR REPLACE FUNCTION rollup_engine.change_log_rows() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*) FROM rollup_engine.change_log
$$;
COMMENT ON FUNCTION rollup_engine.change_log_rows() IS 'Changes that no drain has taken in, for who may not read what they are.';

RESET ROLE;
