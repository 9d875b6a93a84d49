-- Partitions of rollup tables, made where a batch is about to write.
--
-- CREATE TABLE, then ATTACH: CREATE TABLE ... PARTITION OF would lock readers out.
-- There is no default partition, so that an old row never lands where it hides.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.partition_name(p_table regclass, p_from timestamptz, p_width interval) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_class pg_class;
    v_suffix constant text := rollup_engine.partition_suffix(p_table, p_from);
    v_name name;
BEGIN
    SELECT * INTO v_class FROM pg_class WHERE oid = p_table;
    FOR v_try IN 0..99 LOOP
        v_name := rollup_engine.fit_name(v_class.relname, v_suffix || CASE v_try WHEN 0 THEN '' ELSE '_' || v_try END);
        EXIT WHEN NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = v_class.relnamespace AND relname = v_name);
    END LOOP;
    RETURN v_name;
END
$$;
COMMENT ON FUNCTION rollup_engine.partition_name(regclass, timestamptz, interval) IS 'A free name for a partition that begins at the time.';

CREATE OR REPLACE FUNCTION rollup_engine.add_partition(p_table regclass, p_from timestamptz, p_to timestamptz, p_width interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET default_tablespace = ''
AS $$
DECLARE
    v_name constant text := format('%s.%I',
        (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = p_table),
        rollup_engine.partition_name(p_table, p_from, p_width));
BEGIN
    -- Where it lies, and how, is the table's business and not that of who refreshes.
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL) USING heap', v_name, p_table) || coalesce((
        SELECT format(' TABLESPACE %I', s.spcname)
        FROM pg_class AS c JOIN pg_tablespace AS s ON s.oid = c.reltablespace WHERE c.oid = p_table), '');
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', v_name);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', p_table, v_name, p_from, p_to);
EXCEPTION WHEN insufficient_privilege THEN
    PERFORM rollup_engine.fail('TR004', format('no partition can be added to %s: %s', p_table, SQLERRM),
        (SELECT coalesce(
            CASE WHEN has_schema_privilege('${owner_role}', relnamespace, 'CREATE') THEN (
                SELECT c.hint FROM silver.rollup_config AS r, rollup_engine.closed_parts(r) AS c WHERE r.target_table = p_table LIMIT 1) END,
            format('GRANT USAGE, CREATE ON SCHEMA %s TO %I', relnamespace::regnamespace, '${owner_role}')) FROM pg_class WHERE oid = p_table));
END
$$;
COMMENT ON FUNCTION rollup_engine.add_partition(regclass, timestamptz, timestamptz, interval) IS 'Adds a partition for a range of time without making readers wait.';

CREATE OR REPLACE FUNCTION rollup_engine.uncovered(p_table regclass, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_ranges - coalesce(range_agg(tstzrange(from_time, to_time)), '{}')
    FROM rollup_engine.partition_bounds(p_table, 'bucket')
    WHERE member <> p_table AND NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partdefid = member)
$$;
COMMENT ON FUNCTION rollup_engine.uncovered(regclass, tstzmultirange) IS 'The part of the ranges that no partition but a default one holds.';

-- Partitions that plans do not know ----------------------------------------------------------
--
-- A statement is planned in one snapshot and run in a newer one, and a plan lives as long as its
-- transaction. One that was made before a partition came, and that runs after it was filled and
-- its range cleared, would miss its rows. So every plan carries the generation of partitions that
-- it knows, and a read takes the ranges of later ones for stale. Nobody waits for anybody, and
-- statements on a standby are right as well.
--
-- A partition gets its generation in a later transaction than the one that noted it: a
-- transaction is visible a moment before others hear of what it changed in the catalogue.

CREATE OR REPLACE FUNCTION rollup_engine.hear_invalidations() RETURNS bigint
    LANGUAGE plpgsql STABLE PARALLEL SAFE  -- the planner asks: it is parsed and planned once a session
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A session listens when it gets a lock that it did not hold.
    RETURN pg_relation_size('rollup_engine.bell'::regclass);
END
$$;
COMMENT ON FUNCTION rollup_engine.hear_invalidations() IS 'From here on the session plans with every partition that came by transactions which are visible to it and have ended.';

CREATE OR REPLACE FUNCTION rollup_engine.planned_partitions(p_rollup_id integer) RETURNS bigint
    LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- hypopg shows its indexes to a plan only until the first query that ends meanwhile.
    IF current_setting('tsrollup.advising', true) = 'on' THEN
        RETURN 0;
    END IF;
    PERFORM rollup_engine.hear_invalidations();
    RETURN coalesce((
        SELECT max(generation) FROM rollup_engine.rollup_partition
        WHERE rollup_id = p_rollup_id AND generation < 9223372036854775807), 0);
END
$$;
COMMENT ON FUNCTION rollup_engine.planned_partitions(integer) IS
'The generation of partitions that the plan being made knows. Immutable so that the planner asks, just before it looks at the partitions, and keeps the answer with the plan.';

CREATE OR REPLACE FUNCTION rollup_engine.has_unnoted_partitions(p_table regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_inherits AS i WHERE i.inhparent = p_table
            AND i.inhrelid NOT IN (
                SELECT p.partition FROM rollup_engine.rollup_partition AS p
                JOIN silver.rollup_config AS r ON r.id = p.rollup_id AND r.target_table = p_table))
$$;
COMMENT ON FUNCTION rollup_engine.has_unnoted_partitions(regclass) IS 'Whether somebody else made partitions: pg_partman, a change of their width, people.';

CREATE OR REPLACE FUNCTION rollup_engine.note_partitions(p_table regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_gone tstzmultirange;
    v_came tstzmultirange;
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE target_table = p_table;
    WITH gone AS (
        DELETE FROM rollup_engine.rollup_partition AS p
        WHERE rollup_id = v_rollup.id AND (partition, from_time, to_time) NOT IN (
            SELECT m.member, m.from_time, m.to_time FROM rollup_engine.partition_bounds(p_table, 'bucket') AS m)
        RETURNING from_time, to_time
    )
    SELECT coalesce(range_agg(tstzrange(from_time, to_time)), '{}') INTO v_gone FROM gone;
    WITH came AS (
        INSERT INTO rollup_engine.rollup_partition (rollup_id, partition, from_time, to_time)
        SELECT v_rollup.id, m.member, m.from_time, m.to_time FROM rollup_engine.partition_bounds(p_table, 'bucket') AS m
        WHERE m.member <> p_table
        ON CONFLICT DO NOTHING
        RETURNING partition, from_time, to_time
    ), guarded AS MATERIALIZED (
        SELECT *, rollup_engine.guard_table(partition) FROM came
    )
    -- Nothing was stored there before it was noted: rows came with it.
    SELECT coalesce(range_agg(tstzrange(from_time, to_time)) FILTER (WHERE pg_relation_size(partition) > 0), '{}') INTO v_came FROM guarded;
    IF NOT isempty(v_gone + v_came) THEN
        PERFORM rollup_engine.mark_touched(v_rollup, v_gone + v_came);
        PERFORM rollup_engine.mark_lost(v_rollup, v_gone - v_came);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.note_partitions(regclass) IS
'Notes and guards the partitions of a rollup table, and has computed anew what went or came with some that people detached, dropped or attached; the caller holds the lock of whoever attaches one.';

CREATE OR REPLACE FUNCTION rollup_engine.unsettled_partitions(p_rollup_id integer) RETURNS SETOF rollup_engine.rollup_partition
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
        SELECT * FROM rollup_engine.rollup_partition
        WHERE rollup_id = p_rollup_id AND generation = 9223372036854775807
            AND made_by IS DISTINCT FROM pg_current_xact_id_if_assigned();
END
$$;
COMMENT ON FUNCTION rollup_engine.unsettled_partitions(integer) IS 'Partitions that other transactions noted, and that sessions may not have heard of yet.';

CREATE OR REPLACE FUNCTION rollup_engine.settle_partitions(p_rollup_id integer) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table constant regclass := (
        SELECT c.oid FROM silver.rollup_config AS r JOIN pg_class AS c ON c.oid = r.target_table WHERE r.id = p_rollup_id);
BEGIN
    IF v_table IS NULL OR NOT EXISTS (SELECT FROM rollup_engine.unsettled_partitions(p_rollup_id)) THEN
        RETURN false;
    END IF;
    -- Whoever attached one holds this lock until all have been told.
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE NOWAIT', v_table);
    UPDATE rollup_engine.rollup_partition
    SET generation = 1 + (
        SELECT coalesce(max(generation), 0) FROM rollup_engine.rollup_partition
        WHERE rollup_id = p_rollup_id AND generation < 9223372036854775807)
    WHERE rollup_id = p_rollup_id AND partition IN (SELECT partition FROM rollup_engine.unsettled_partitions(p_rollup_id));
    -- Changes nothing, but has plans made again that were made in between.
    EXECUTE (
        SELECT format('ALTER TABLE ONLY %s ALTER bucket SET STATISTICS %s', v_table, coalesce(attstattarget, -1))
        FROM pg_attribute WHERE attrelid = v_table AND attname = 'bucket');
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;  -- until a later step finds it free, these ranges are read live
END
$$;
COMMENT ON FUNCTION rollup_engine.settle_partitions(integer) IS 'Gives partitions that came by earlier transactions their generation, so that plans count on them; false when there was nothing to do.';

-- That of 0.1.0 believed what was noted.
DROP FUNCTION IF EXISTS rollup_engine.lacks_partitions(integer, tstzmultirange);
CREATE OR REPLACE FUNCTION rollup_engine.noted_partitions(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(range_agg(tstzrange(p.from_time, p.to_time)), '{}')
    FROM rollup_engine.rollup_partition AS p
    JOIN pg_inherits AS i ON i.inhrelid = p.partition AND i.inhparent = p_rollup.target_table AND NOT i.inhdetachpending
    JOIN pg_partitioned_table AS t ON t.partrelid = i.inhparent AND t.partdefid <> i.inhrelid
    WHERE p.rollup_id = p_rollup.id AND tstzrange(p.from_time, p.to_time) && p_ranges;
END
$$;
COMMENT ON FUNCTION rollup_engine.noted_partitions(silver.rollup_config, tstzmultirange) IS 'Partitions but a default one that were noted, and are still attached, where they overlap the ranges.';

CREATE OR REPLACE FUNCTION rollup_engine.lacks_partitions(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN NOT p_ranges <@ rollup_engine.noted_partitions(p_rollup, p_ranges);
END
$$;
COMMENT ON FUNCTION rollup_engine.lacks_partitions(silver.rollup_config, tstzmultirange) IS 'Whether no partition that is noted holds some part of the ranges.';

CREATE OR REPLACE FUNCTION rollup_engine.has_named_width(p_table regclass) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((SELECT is_named FROM rollup_engine.partition_set WHERE relation = p_table), false);
END
$$;
COMMENT ON FUNCTION rollup_engine.has_named_width(regclass) IS 'Whether somebody has named the width of the partitions of a table.';

CREATE OR REPLACE FUNCTION rollup_engine.partition_width(p_rollup silver.rollup_config, p_free tstzmultirange) RETURNS interval
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_most constant double precision := greatest(30, p_rollup.source_rows / 1000000);
    -- Doubled for as many gaps again: late rows may come one by one.
    v_width interval := p_rollup.chunk_interval * 2 ^ least(20, floor((SELECT count(*) FROM unnest(p_free)) / v_most));
BEGIN
    WHILE v_width < interval '36000 days' AND v_most < (
        SELECT count(DISTINCT silver.time_bucket(v_width, from_time)) FROM rollup_engine.stale_range
        WHERE rollup_id = p_rollup.id AND from_time <@ p_free)
    LOOP
        v_width := 2 * v_width;
    END LOOP;
    RETURN CASE WHEN rollup_engine.is_too_wide(v_width, rollup_engine.keep_of(p_rollup.target_table))
            OR rollup_engine.has_named_width(p_rollup.target_table)
        THEN p_rollup.chunk_interval ELSE v_width END;
END
$$;
COMMENT ON FUNCTION rollup_engine.partition_width(silver.rollup_config, tstzmultirange) IS
'Width of partitions to be made in free time: chunk_interval, but for sparse data, and where nobody named it, so wide that what is stale needs no more than 30, or one for a million rows of the source.';

CREATE OR REPLACE FUNCTION rollup_engine.partitions_for(p_ranges tstzmultirange, p_free tstzmultirange, p_width interval) RETURNS SETOF tstzrange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT DISTINCT part
    FROM rollup_engine.buckets_in(p_width, rollup_engine.bucket_align(p_width, p_ranges)) AS chunk
    CROSS JOIN LATERAL unnest(p_free * tstzmultirange(tstzrange(chunk, rollup_engine.bucket_next(p_width, chunk)))) AS part
    WHERE part && p_ranges
$$;
COMMENT ON FUNCTION rollup_engine.partitions_for(tstzmultirange, tstzmultirange, interval) IS 'Partitions for the ranges, on the grid of the width, in the time that is free.';

CREATE OR REPLACE FUNCTION rollup_engine.ensure_partitions(p_rollup silver.rollup_config, p_ranges tstzmultirange, p_with_next boolean DEFAULT false) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_free tstzmultirange := rollup_engine.uncovered(p_rollup.target_table, p_ranges);
    v_missing tstzmultirange;
    v_width interval;
    v_tail tstzmultirange;
    v_range tstzrange;
BEGIN
    -- In this order: what covers the ranges now is noted, whoever made it.
    IF isempty(v_free) AND NOT rollup_engine.has_unnoted_partitions(p_rollup.target_table) THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', p_rollup.target_table);
    v_free := rollup_engine.uncovered(p_rollup.target_table, rollup_engine.everything());
    -- With those that are next, since each transaction that makes some costs plans and snapshots.
    SELECT v_free * (p_ranges + coalesce(range_agg(tstzrange(from_time, to_time)), '{}')) INTO v_missing
    FROM rollup_engine.stale_range
    WHERE rollup_id = p_rollup.id AND from_time < upper(p_ranges) AND from_time >= coalesce(p_rollup.sealed_before, '-infinity')
        AND p_with_next AND NOT isempty(p_ranges * v_free);
    v_width := rollup_engine.partition_width(p_rollup, v_free);
    -- About now, partitions are of the width that maintenance chose; pg_partman goes on from the last one.
    SELECT tstzmultirange(tstzrange(silver.time_bucket(v_width, now()),
        CASE WHEN NOT rollup_engine.is_partmans(s) THEN rollup_engine.bucket_ceil(v_width, now()) END))
    INTO v_tail FROM rollup_engine.partition_set AS s WHERE s.relation = p_rollup.target_table;
    FOR v_range IN
        SELECT part
        FROM (
            SELECT rollup_engine.partitions_for(v_missing - coalesce(v_tail, '{}'), v_free, v_width)
            UNION ALL
            SELECT rollup_engine.partitions_for(v_missing * v_tail, v_free, p_rollup.chunk_interval)
        ) AS p (part)
        ORDER BY part DESC
        LIMIT 30
    LOOP
        PERFORM rollup_engine.add_partition(p_rollup.target_table, lower(v_range), upper(v_range), p_rollup.chunk_interval);
    END LOOP;
    PERFORM rollup_engine.note_partitions(p_rollup.target_table);
    RETURN NOT isempty(v_missing);
END
$$;
COMMENT ON FUNCTION rollup_engine.ensure_partitions(silver.rollup_config, tstzmultirange, boolean) IS
'Makes partitions that the ranges need, and those for what is stale before them, newest first and some thirty at once, between those that exist; false when all that the ranges need were there.';

RESET ROLE;
