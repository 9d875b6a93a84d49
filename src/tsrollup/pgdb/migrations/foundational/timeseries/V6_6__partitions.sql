-- Partitions of rollup tables, made where a batch is about to write.
--
-- CREATE TABLE, then ATTACH: CREATE TABLE ... PARTITION OF would lock readers out.
-- There is no default partition, so that an old row never lands where it hides.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE FUNCTION rollup_engine.partition_suffix(p_table regclass, p_from timestamptz) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT regexp_replace(to_char(p_from AT TIME ZONE 'UTC', '"p"YYYYMMDD_HH24MISS'), '_000000$', '')
        || CASE WHEN p_from < '0001-01-01 00:00:00+00' THEN '_bc' ELSE '' END
$$;
COMMENT ON FUNCTION rollup_engine.partition_suffix(regclass, timestamptz) IS 'What the name of a partition that begins at the time ends in.';

CREATE FUNCTION rollup_engine.partition_name(p_table regclass, p_from timestamptz, p_width interval) RETURNS name
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

CREATE FUNCTION rollup_engine.register_partitions(p_table regclass, p_column name, p_width interval) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
$$;
COMMENT ON FUNCTION rollup_engine.register_partitions(regclass, name, interval) IS 'Tells a partition manager of a new partitioned table; native partitions need none.';

CREATE FUNCTION rollup_engine.extra_indexes_sql(p_rollup silver.rollup_config) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NULL WHERE false
$$;
COMMENT ON FUNCTION rollup_engine.extra_indexes_sql(silver.rollup_config) IS 'CREATE INDEX statements for a new rollup table beyond its unique index.';

CREATE FUNCTION rollup_engine.add_partition(p_table regclass, p_from timestamptz, p_to timestamptz, p_width interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_name constant text := format('%s.%I',
        (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = p_table),
        rollup_engine.partition_name(p_table, p_from, p_width));
BEGIN
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL)', v_name, p_table);
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', v_name);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', p_table, v_name, p_from, p_to);
END
$$;
COMMENT ON FUNCTION rollup_engine.add_partition(regclass, timestamptz, timestamptz, interval) IS 'Adds a partition for a range of time without making readers wait.';

CREATE FUNCTION rollup_engine.uncovered(p_table regclass, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_ranges - coalesce(range_agg(tstzrange(from_time, to_time)), '{}')
    FROM rollup_engine.source_members(p_table, 'bucket')
    WHERE member <> p_table AND NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partdefid = member)
$$;
COMMENT ON FUNCTION rollup_engine.uncovered(regclass, tstzmultirange) IS 'The part of the ranges that no partition but a default one holds.';

CREATE FUNCTION rollup_engine.ensure_partitions(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_missing tstzmultirange := rollup_engine.uncovered(p_rollup.target_table, p_ranges);
    v_range tstzrange;
BEGIN
    IF isempty(v_missing) THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', p_rollup.target_table);
    v_missing := rollup_engine.uncovered(p_rollup.target_table, p_ranges);
    FOR v_range IN
        SELECT unnest(rollup_engine.uncovered(p_rollup.target_table,
            tstzmultirange(tstzrange(chunk, rollup_engine.bucket_next(p_rollup.chunk_interval, chunk)))))
        FROM rollup_engine.buckets_in(p_rollup.chunk_interval, rollup_engine.bucket_align(p_rollup.chunk_interval, v_missing)) AS chunk
    LOOP
        PERFORM rollup_engine.add_partition(p_rollup.target_table, lower(v_range), upper(v_range), p_rollup.chunk_interval);
    END LOOP;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION rollup_engine.ensure_partitions(silver.rollup_config, tstzmultirange) IS 'Makes the partitions that the ranges need, on the grid of chunk_interval, between those that exist; false when all were there.';

RESET ROLE;
