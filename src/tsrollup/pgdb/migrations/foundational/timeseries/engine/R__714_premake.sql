-- Where partitions of the user's own tables are wanted: ahead of time, and under stray rows.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.set_range(p_set rollup_engine.partition_set) RETURNS tstzrange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN c.relispartition THEN (
        SELECT tstzrange(b.from_time, b.to_time) FROM rollup_engine.partition_bounds(pg_partition_root(c.oid), p_set.control) AS b WHERE b.member = c.oid)
        ELSE '(,)' END
    FROM pg_class AS c WHERE c.oid = p_set.relation
$$;
COMMENT ON FUNCTION rollup_engine.set_range(rollup_engine.partition_set) IS 'The time that rows of a table can have: where it is a partition itself, no other comes to it.';

CREATE OR REPLACE FUNCTION rollup_engine.uncovered_in_source(p_set rollup_engine.partition_set, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_ranges * tstzmultirange(rollup_engine.set_range(p_set)) - coalesce(range_agg(tstzrange(from_time, to_time)), '{}')
    FROM rollup_engine.partition_bounds(p_set.relation, p_set.control)
    WHERE member <> p_set.relation
        -- With what that is divided into: its bounds are all of time, too.
        AND (member IN (SELECT rollup_engine.partition_tree(rollup_engine.default_partition(p_set.relation)))) IS NOT TRUE
$$;
COMMENT ON FUNCTION rollup_engine.uncovered_in_source(rollup_engine.partition_set, tstzmultirange) IS 'The part of the ranges that a source can hold, and no partition of it but the default one does.';

CREATE OR REPLACE FUNCTION rollup_engine.cover_source(p_set rollup_engine.partition_set, p_ranges tstzmultirange) RETURNS integer
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_missing constant tstzmultirange := rollup_engine.uncovered_in_source(p_set, p_ranges);
    v_snapshots constant text[] := rollup_engine.snapshots_in_use();  -- before anybody waits for the lock
    v_range tstzrange;
    v_added integer := 0;
    v_failure rollup_engine.failure;
BEGIN
    IF isempty(v_missing) OR rollup_engine.users_waited_enough() THEN
        RETURN 0;
    END IF;
    PERFORM rollup_engine.lock_set(p_set);
    FOR v_range IN
        SELECT unnest(rollup_engine.uncovered_in_source(p_set,
            tstzmultirange(tstzrange(chunk, rollup_engine.bucket_next(p_set.chunk_interval, chunk)))))
        FROM rollup_engine.buckets_in(p_set.chunk_interval, rollup_engine.bucket_align(p_set.chunk_interval, v_missing)) AS chunk
    LOOP
        EXIT WHEN rollup_engine.users_waited_enough();
        -- Where the numbers end.
        CONTINUE WHEN rollup_engine.bound_literal(p_set, lower(v_range)) = rollup_engine.bound_literal(p_set, upper(v_range));
        BEGIN
            v_added := v_added + (rollup_engine.add_source_partition(p_set, lower(v_range), upper(v_range), v_snapshots) IS NOT NULL)::integer;
        EXCEPTION WHEN integrity_constraint_violation THEN
            -- What the default partition holds does not fit: the other partitions do not wait for it.
            GET STACKED DIAGNOSTICS
                v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
                v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
            PERFORM rollup_engine.record_maintenance_failure(p_set.relation::text, v_failure);
        END;
    END LOOP;
    RETURN v_added;
END
$$;
COMMENT ON FUNCTION rollup_engine.cover_source(rollup_engine.partition_set, tstzmultirange) IS 'Makes the partitions that the ranges need, on the grid of the set, between those that exist, as far as the time under locks allows; returns how many.';

CREATE OR REPLACE FUNCTION rollup_engine.partman_is_behind(p_set rollup_engine.partition_set, p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_premake integer;
BEGIN
    IF NOT rollup_engine.is_partmans(p_set) THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT premake FROM %s.part_config WHERE parent_table = $1', rollup_engine.partman_schema())
    INTO v_premake
    USING p_set.partman_parent;
    RETURN (
        SELECT coalesce(max(to_time) <= p_now + v_premake * p_set.chunk_interval, true)
        FROM rollup_engine.partition_bounds(p_set.relation) WHERE isfinite(to_time));
END
$$;
COMMENT ON FUNCTION rollup_engine.partman_is_behind(rollup_engine.partition_set, timestamptz) IS 'Whether pg_partman would make partitions of a table: users are not to wait for nothing.';

CREATE OR REPLACE FUNCTION rollup_engine.premake_by_partman_for_source(p_set rollup_engine.partition_set) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_members regclass[];
    v_new regclass;
BEGIN
    PERFORM rollup_engine.lock_set(p_set);
    -- With what was attached while the lock was waited for; and not of what is below them, where others still may.
    v_members := ARRAY(SELECT inhrelid FROM pg_inherits WHERE inhparent = p_set.relation);
    PERFORM rollup_engine.premake_by_partman(p_set);
    FOR v_new IN SELECT inhrelid FROM pg_inherits WHERE inhparent = p_set.relation AND inhrelid <> ALL (v_members) LOOP
        PERFORM rollup_engine.share_owner(p_set.relation, m), rollup_engine.share_identity(p_set.relation, m) FROM rollup_engine.partition_tree(v_new) AS m;
        PERFORM rollup_engine.watch_partition(p_set.relation, v_new);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.premake_by_partman_for_source(rollup_engine.partition_set) IS 'Runs pg_partman''s maintenance on a source; its new partitions become what ours are.';

CREATE OR REPLACE FUNCTION rollup_engine.premake_source_partitions(p_set rollup_engine.partition_set, p_now timestamptz DEFAULT now()) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of what DDL locks besides, as the tables that foreign keys refer to
AS $$
DECLARE
    v_before constant bigint := rollup_engine.partition_count(p_set.relation);
    v_by_partman boolean := rollup_engine.partman_is_behind(p_set, p_now) AND isfinite(upper(rollup_engine.set_range(p_set))) IS NOT TRUE;
    v_ahead constant tstzmultirange := tstzmultirange(tstzrange(p_now, NULL));
    v_strays tstzmultirange := rollup_engine.stray_ranges(p_set);
    v_staying tstzmultirange := '{}';
BEGIN
    -- Nobody waits for a lock for what would come to nothing.
    IF NOT isempty(v_strays)
        AND (rollup_engine.staying_rows(p_set) IS NOT NULL OR NOT rollup_engine.outlives(rollup_engine.snapshots_in_use()))
    THEN
        v_staying := v_strays;
        v_strays := '{}';
    END IF;
    PERFORM rollup_engine.cover_source(p_set, v_strays * v_ahead);
    -- pg_partman goes on from there, and gives up at the first partition that rows are in the way of.
    v_by_partman := v_by_partman AND isempty(rollup_engine.stray_ranges(p_set) * v_ahead);
    PERFORM rollup_engine.cover_source(p_set, tstzmultirange(tstzrange(p_now,
        p_now + CASE WHEN v_by_partman THEN '0' ELSE 3 * p_set.chunk_interval END, '[]')) - v_staying);
    IF v_by_partman THEN
        PERFORM rollup_engine.premake_by_partman_for_source(p_set);
        -- One stray row of the far future, and pg_partman only goes on from there.
        PERFORM rollup_engine.cover_source(p_set, tstzmultirange(tstzrange(p_now, p_now + p_set.chunk_interval, '[]')));
    END IF;
    PERFORM rollup_engine.cover_source(p_set, v_strays);
    RETURN rollup_engine.partition_count(p_set.relation) - v_before;
END
$$;
COMMENT ON FUNCTION rollup_engine.premake_source_partitions(rollup_engine.partition_set, timestamptz) IS
'Makes the partitions of a source for now and soon, and for stray rows; returns how many were new.';
DROP FUNCTION IF EXISTS rollup_engine.stray_ranges(rollup_engine.partition_set, integer);

RESET ROLE;
