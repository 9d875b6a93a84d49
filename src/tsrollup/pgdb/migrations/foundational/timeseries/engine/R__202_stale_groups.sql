-- Stale groups: of one bucket, those of some values of the rollup's key dimension. A rollup without it,
-- or with too many of them, has whole buckets stale instead.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.write_groups(p_rollup silver.rollup_config, p_keyed rollup_engine.keyed_range[], p_noted timestamptz) RETURNS tstzmultirange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan  -- planning costs as much
AS $$
DECLARE
    v_cells constant silver.rollup_config := rollup_engine.cells_of(p_rollup);
    v_whole tstzmultirange;
BEGIN
    WITH wanted AS (
        SELECT b.bucket, b.next_bucket, rollup_engine.bucket_start(v_cells, b.bucket) AS cell, array_agg(DISTINCT k.key COLLATE "C") AS keys
        FROM unnest(p_keyed) AS r
        CROSS JOIN LATERAL rollup_engine.buckets_in(p_rollup, rollup_engine.bucket_align(p_rollup, tstzmultirange(tstzrange(r.from_time, r.to_time)))) AS b
        CROSS JOIN LATERAL unnest(r.keys) AS k (key)
        WHERE b.bucket >= coalesce(p_rollup.sealed_before, '-infinity')
        GROUP BY b.bucket, b.next_bucket
    ), held AS MATERIALIZED (
        -- As for whole buckets, what a refresh has claimed stays as it is.
        SELECT s.id, s.keys, s.due_at, w.bucket
        FROM wanted AS w
        JOIN rollup_engine.stale_range AS s ON s.rollup_id = p_rollup.id AND s.cell = w.cell AND s.from_time <= w.bucket AND s.to_time >= w.next_bucket
        FOR UPDATE OF s SKIP LOCKED
    ), united AS (
        SELECT w.bucket, w.next_bucket, w.cell, array_agg(DISTINCT h.id) AS ids, least(rollup_engine.due_at(p_rollup, w.bucket, p_noted), min(h.due_at)) AS due_at,
            max(cardinality(h.keys)) AS longest, array_agg(DISTINCT k.key COLLATE "C") AS keys
        FROM wanted AS w
        LEFT JOIN held AS h ON h.bucket = w.bucket
        CROSS JOIN LATERAL unnest(w.keys || h.keys) AS k (key)
        GROUP BY w.bucket, w.next_bucket, w.cell
        HAVING bool_or(h.id IS NOT NULL AND h.keys IS NULL) IS NOT TRUE
    ), fitting AS (
        SELECT * FROM united WHERE cardinality(keys) <= rollup_engine.most_keys() AND cardinality(keys) IS DISTINCT FROM longest
    ), removed AS (
        DELETE FROM rollup_engine.stale_range WHERE id = ANY (ARRAY(SELECT unnest(ids) FROM fitting))
    ), added AS (
        INSERT INTO rollup_engine.stale_range (rollup_id, cell, from_time, to_time, due_at, keys)
        SELECT p_rollup.id, cell, bucket, next_bucket, due_at, keys FROM fitting
    )
    SELECT range_agg(tstzrange(bucket, next_bucket)) INTO v_whole FROM united WHERE cardinality(keys) > rollup_engine.most_keys();
    RETURN coalesce(v_whole, '{}');
END
$$;
COMMENT ON FUNCTION rollup_engine.write_groups(silver.rollup_config, rollup_engine.keyed_range[], timestamptz) IS
'Makes groups of buckets stale, together with those that are so already, unless their bucket is as a whole; returns the buckets of too many.';

CREATE OR REPLACE FUNCTION rollup_engine.mark_groups(p_rollup silver.rollup_config, p_keyed rollup_engine.keyed_range[], p_noted timestamptz) RETURNS tstzmultirange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_ranges constant tstzmultirange := (SELECT range_agg(tstzrange(from_time, to_time)) FROM unnest(p_keyed));
BEGIN
    IF p_rollup.key_dimension IS NULL
        OR rollup_engine.bucket_count(p_rollup.bucket_width, rollup_engine.bucket_align(p_rollup, v_ranges))
            + (SELECT count(*) FROM rollup_engine.stale_range WHERE rollup_id = p_rollup.id AND keys IS NOT NULL) > rollup_engine.most_keyed_buckets()
    THEN
        RETURN v_ranges;
    END IF;
    RETURN rollup_engine.write_groups(p_rollup, p_keyed, p_noted);
END
$$;
COMMENT ON FUNCTION rollup_engine.mark_groups(silver.rollup_config, rollup_engine.keyed_range[], timestamptz) IS
'Makes the groups of a rollup that ranges of its source with keys touch stale; returns the ranges where it has whole buckets stale instead.';

RESET ROLE;
