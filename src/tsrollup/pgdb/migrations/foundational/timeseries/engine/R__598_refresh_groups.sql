-- A batch of single groups, where no bucket of the cells is stale as a whole that can be done: which of
-- the claimed ones go by groups, which of these can be done now, and doing so.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.claimed_groups(p_rollup silver.rollup_config, p_claimed rollup_engine.stale_range[]) RETURNS rollup_engine.stale_range[]
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_noted tstzmultirange;
BEGIN
    IF p_rollup.key_dimension IS NULL OR NOT EXISTS (SELECT FROM unnest(p_claimed) AS s WHERE s.keys IS NOT NULL) THEN
        RETURN '{}';
    END IF;
    -- Where no partition is nothing is stored either; and of a bucket that fails, whole ones know more.
    v_noted := rollup_engine.noted_partitions(p_rollup, (SELECT range_agg(tstzrange(from_time, to_time)) FROM unnest(p_claimed) AS s WHERE s.keys IS NOT NULL));
    RETURN ARRAY(
        SELECT s FROM unnest(p_claimed) AS s
        WHERE s.keys IS NOT NULL AND tstzrange(s.from_time, s.to_time) <@ v_noted AND s.from_time >= coalesce(p_rollup.sealed_before, '-infinity')
            AND NOT EXISTS (SELECT FROM rollup_engine.failed_bucket AS f WHERE f.rollup_id = p_rollup.id AND f.bucket = s.from_time));
END
$$;
COMMENT ON FUNCTION rollup_engine.claimed_groups(silver.rollup_config, rollup_engine.stale_range[]) IS 'Of the claimed stale ranges those to refresh by groups; the others, whole buckets.';

CREATE OR REPLACE FUNCTION rollup_engine.groups_to_do(p_rollup silver.rollup_config, p_groups rollup_engine.stale_range[]) RETURNS rollup_engine.stale_range[]
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan  -- planning costs as much
AS $$
DECLARE
    v_reach constant interval := CASE WHEN NOT rollup_engine.reads_groups_by_index(p_rollup) THEN p_rollup.current_window END;
    v_hull record;
BEGIN
    SELECT min(from_time) AS from_time, max(to_time) AS to_time INTO v_hull FROM unnest(p_groups);
    -- Volatile, for a snapshot newer than the claim, and one for all of it. Without an index, what lies between is read.
    RETURN ARRAY(
        WITH waiting AS MATERIALIZED (
            SELECT b.bucket, tstzrange(p.from_time, p.to_time) AS range, CASE WHEN p.to_time <= rollup_engine.bucket_next(p_rollup, b.bucket) THEN p.keys END AS keys
            FROM rollup_engine.stale_range AS p CROSS JOIN LATERAL (SELECT rollup_engine.bucket_start(p_rollup, p.from_time)) AS b (bucket)
            WHERE p.rollup_id = p_rollup.parent_id AND p.from_time < v_hull.to_time AND p.to_time > v_hull.from_time
            UNION ALL
            SELECT NULL, tstzrange(u.from_time, u.to_time), NULL FROM rollup_engine.unsettled_partitions(p_rollup.parent_id) AS u
        )
        SELECT stale FROM (
            SELECT s AS stale, sum(cardinality(s.keys)) OVER (ORDER BY s.from_time DESC, s.id) - cardinality(s.keys) AS before,
                max(s.to_time) OVER () - s.to_time AS back
            FROM unnest(p_groups) AS s
            WHERE NOT EXISTS (SELECT FROM waiting AS w WHERE w.bucket = s.from_time AND w.keys && s.keys)
                AND NOT tstzrange(s.from_time, s.to_time) && coalesce((SELECT range_agg(w.range) FROM waiting AS w WHERE w.keys IS NULL), '{}')
        ) AS s
        WHERE before < 2 * rollup_engine.most_keys() AND (v_reach IS NULL OR back <= v_reach));
END
$$;
COMMENT ON FUNCTION rollup_engine.groups_to_do(silver.rollup_config, rollup_engine.stale_range[]) IS
'Of claimed groups the newest, as many as go into a statement, of those that the parent can answer: none of its stale ranges there has one of their keys, or all.';

CREATE OR REPLACE FUNCTION rollup_engine.recompute_groups(p_rollup silver.rollup_config, p_groups rollup_engine.stale_range[]) RETURNS rollup_engine.refresh_batch
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone_abbreviations = 'Default'
AS $$
DECLARE
    v_buckets timestamptz[];
    v_ends timestamptz[];
    v_keys text[];
    v_parts numeric;
    v_batch rollup_engine.refresh_batch;
BEGIN
    PERFORM rollup_engine.hear_invalidations();
    SELECT array_agg(from_time), array_agg(to_time), array_agg(key),
        sum(extract(epoch FROM to_time - from_time)) / (SELECT extract(epoch FROM bucket_width) FROM silver.rollup_config WHERE id = p_rollup.parent_id),
        min(from_time), max(to_time), count(DISTINCT from_time), count(*)
    INTO v_buckets, v_ends, v_keys, v_parts, v_batch.from_time, v_batch.to_time, v_batch.buckets, v_batch.groups
    FROM (SELECT DISTINCT s.from_time, s.to_time, key FROM unnest(p_groups) AS s CROSS JOIN LATERAL unnest(s.keys) AS key) AS g;
    PERFORM rollup_engine.set_refreshing(true);
    EXECUTE rollup_engine.store_groups_sql(p_rollup, coalesce(v_parts <= greatest(100000, p_rollup.source_rows / 10), false)) INTO v_batch.rows_written, v_batch.rows_deleted
    USING v_batch.from_time, v_batch.to_time, v_buckets, v_ends, v_keys;
    PERFORM rollup_engine.set_refreshing(false);
    v_batch.outcome := 'refreshed';
    RETURN v_batch;
END
$$;
COMMENT ON FUNCTION rollup_engine.recompute_groups(silver.rollup_config, rollup_engine.stale_range[]) IS 'Recomputes groups from the source and stores what changed of them.';

CREATE OR REPLACE FUNCTION rollup_engine.refresh_groups(p_rollup silver.rollup_config, p_groups rollup_engine.stale_range[]) RETURNS rollup_engine.refresh_batch
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan  -- planning costs as much
AS $$
DECLARE
    v_groups constant rollup_engine.stale_range[] := rollup_engine.groups_to_do(p_rollup, p_groups);
    v_batch rollup_engine.refresh_batch;
BEGIN
    IF v_groups = '{}' THEN
        v_batch.outcome := 'waiting';
        RETURN v_batch;
    END IF;
    BEGIN
        v_batch := rollup_engine.recompute_groups(p_rollup, v_groups);
        DELETE FROM rollup_engine.stale_range WHERE id = ANY (ARRAY(SELECT id FROM unnest(v_groups)));
    -- Of what is in the data, or of keys that the column of now does not take: whole buckets narrow down to it.
    EXCEPTION WHEN data_exception OR integrity_constraint_violation OR cardinality_violation OR program_limit_exceeded OR raise_exception THEN
        UPDATE rollup_engine.stale_range SET keys = NULL WHERE id = ANY (ARRAY(SELECT id FROM unnest(v_groups)));
        v_batch := NULL;
        v_batch.outcome := 'prepared';
    END;
    RETURN v_batch;
END
$$;
COMMENT ON FUNCTION rollup_engine.refresh_groups(silver.rollup_config, rollup_engine.stale_range[]) IS
'Refreshes claimed groups, as many as can be done, and clears just those by id; where their data is at fault, their buckets are stale as a whole.';

RESET ROLE;
