-- Partitions of rollup tables, made where a batch is about to write.
--
-- CREATE TABLE, then ATTACH: CREATE TABLE ... PARTITION OF would lock readers out.
-- There is no default partition, so that an old row never lands where it hides.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Those of 0.1.0 took a width.
DROP FUNCTION IF EXISTS rollup_engine.partition_name(regclass, timestamptz, interval);
DROP FUNCTION IF EXISTS rollup_engine.add_partition(regclass, timestamptz, timestamptz, interval);
CREATE OR REPLACE FUNCTION rollup_engine.free_name(p_beside regclass, p_name text, p_suffix text) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_schema constant oid := (SELECT relnamespace FROM pg_class WHERE oid = p_beside);
    v_suffix constant text := CASE WHEN octet_length(p_suffix) > 40 THEN left(md5(p_suffix), 6) ELSE p_suffix END;
    v_name name;
BEGIN
    FOR v_try IN 0..99 LOOP
        v_name := rollup_engine.fit_name(p_name, v_suffix || CASE v_try WHEN 0 THEN '' ELSE '_' || v_try END);
        -- A table is a type as well.
        EXIT WHEN NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = v_schema AND relname = v_name)
            AND NOT EXISTS (SELECT FROM pg_type WHERE typnamespace = v_schema AND typname = v_name);
    END LOOP;
    RETURN v_name;
END
$$;
COMMENT ON FUNCTION rollup_engine.free_name(regclass, text, text) IS 'name_suffix, for a partition in the schema of a table: with a number, where something else is called so.';

CREATE OR REPLACE FUNCTION rollup_engine.partition_name(p_table regclass, p_from timestamptz) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN rollup_engine.free_name(p_table, (SELECT relname FROM pg_class WHERE oid = p_table), rollup_engine.partition_suffix(p_table, p_from));
END
$$;
COMMENT ON FUNCTION rollup_engine.partition_name(regclass, timestamptz) IS 'A free name for a partition that begins at the time.';

CREATE OR REPLACE FUNCTION rollup_engine.add_partition(p_table regclass, p_from timestamptz, p_to timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET default_tablespace = ''
AS $$
DECLARE
    v_name constant text := format('%s.%I',
        (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = p_table),
        rollup_engine.partition_name(p_table, p_from));
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
COMMENT ON FUNCTION rollup_engine.add_partition(regclass, timestamptz, timestamptz) IS 'Adds a partition for a range of time without making readers wait.';

CREATE OR REPLACE FUNCTION rollup_engine.uncovered(p_table regclass, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_ranges - coalesce(range_agg(tstzrange(from_time, to_time)), '{}')
    FROM rollup_engine.partition_bounds(p_table, 'bucket')
    WHERE member <> p_table AND NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partdefid = member)
$$;
COMMENT ON FUNCTION rollup_engine.uncovered(regclass, tstzmultirange) IS 'The part of the ranges that no partition but a default one holds.';

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
    WHERE rollup_id = p_rollup.id AND cell < 'infinity' AND from_time < upper(p_ranges) AND from_time >= coalesce(p_rollup.sealed_before, '-infinity')
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
        PERFORM rollup_engine.add_partition(p_rollup.target_table, lower(v_range), upper(v_range));
    END LOOP;
    PERFORM rollup_engine.note_partitions(p_rollup.target_table);
    RETURN NOT isempty(v_missing);
END
$$;
COMMENT ON FUNCTION rollup_engine.ensure_partitions(silver.rollup_config, tstzmultirange, boolean) IS
'Makes partitions that the ranges need, and those for what is stale before them, newest first and some thirty at once, between those that exist; false when all that the ranges need were there.';

RESET ROLE;
