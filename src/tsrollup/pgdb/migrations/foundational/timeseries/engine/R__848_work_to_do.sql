-- What there is to refresh: buckets as a whole, and of others single groups.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.stale_groups() RETURNS TABLE (target_table text, groups bigint, buckets bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.target_table::text, sum(cardinality(s.keys)), count(DISTINCT s.from_time)
    FROM rollup_engine.stale_range AS s JOIN silver.rollup_config AS r ON r.id = s.rollup_id AND r.key_dimension IS NOT NULL
    WHERE s.keys IS NOT NULL AND NOT EXISTS (
        SELECT FROM rollup_engine.stale_range AS whole
        WHERE whole.rollup_id = s.rollup_id AND whole.cell = s.cell AND whole.keys IS NULL AND whole.from_time <= s.from_time AND whole.to_time >= s.to_time)
    GROUP BY r.id
$$;
COMMENT ON FUNCTION rollup_engine.stale_groups() IS 'Of rollups where single groups are stale, how many, and in how many buckets; those of buckets that are stale as a whole do not count.';

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
