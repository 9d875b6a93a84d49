-- Partitions of the user's own tables: made ahead of time, with capture triggers from their first
-- row on.
--
-- Such a table keeps a default partition, for no write may fail because a partition is missing.
-- Rows do not stay there: maintenance gives them partitions of their own.

SET LOCAL ROLE "${owner_role}";

CREATE FUNCTION rollup_engine.column_list(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
    FROM pg_attribute
    WHERE attrelid = p_relation AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
$$;
COMMENT ON FUNCTION rollup_engine.column_list(regclass) IS 'Columns of a table that can be written.';

CREATE FUNCTION rollup_engine.add_source_partition(p_set rollup_engine.partition_set, p_from timestamptz, p_to timestamptz) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_default constant regclass := rollup_engine.default_partition(p_set.relation);
    v_columns constant text := rollup_engine.column_list(p_set.relation);
    v_partition regclass := rollup_engine.create_like_source(p_set.relation,
        rollup_engine.partition_name(p_set.relation, p_from, p_set.chunk_interval));
BEGIN
    IF v_default IS NOT NULL THEN
        -- The delete is captured, and speaks for the insert as well: the same rows, the same times.
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', v_default);
        EXECUTE format('WITH moved AS (DELETE FROM %1$s WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING %5$s) INSERT INTO %6$s (%5$s) SELECT %5$s FROM moved',
            v_default, p_set.control, p_from, p_to, v_columns, v_partition);
    END IF;
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', p_set.relation, v_partition, p_from, p_to);
    PERFORM rollup_engine.watch_partition(p_set.relation, v_partition);
    RETURN v_partition;
END
$$;
COMMENT ON FUNCTION rollup_engine.add_source_partition(rollup_engine.partition_set, timestamptz, timestamptz) IS
'Adds a partition to a source, with the rows of the default partition that belong into it.';

-- Where partitions are wanted -------------------------------------------------------------------

CREATE FUNCTION rollup_engine.stray_ranges(p_set rollup_engine.partition_set, p_limit integer) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_default constant regclass := rollup_engine.default_partition(p_set.relation);
    v_ranges tstzmultirange;
BEGIN
    IF v_default IS NULL THEN
        RETURN '{}';
    END IF;
    -- What is sealed stays: its partitions were dropped, and are not to come back.
    EXECUTE format($sql$
        SELECT coalesce(range_agg(tstzrange(chunk, rollup_engine.bucket_next(%1$L, chunk))), '{}')
        FROM (
            SELECT DISTINCT silver.time_bucket(%1$L, %2$I::timestamptz) AS chunk
            FROM %3$s
            WHERE %2$I >= greatest('0001-01-03', (
                    SELECT max(sealed_before) FROM silver.rollup_config WHERE source_table = %4$L::regclass AND isfinite(sealed_before)))
                AND %2$I < '9999-01-01'
            ORDER BY 1 DESC
            LIMIT $1
        ) AS chunks
        $sql$, p_set.chunk_interval, p_set.control, v_default, p_set.relation::text)
    INTO v_ranges
    USING p_limit;
    RETURN v_ranges;
END
$$;
COMMENT ON FUNCTION rollup_engine.stray_ranges(rollup_engine.partition_set, integer) IS 'Chunks, newest first, of the rows that sit in a default partition.';

CREATE FUNCTION rollup_engine.uncovered_in_source(p_set rollup_engine.partition_set, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_ranges - coalesce(range_agg(tstzrange(from_time, to_time)), '{}')
    FROM rollup_engine.source_members(p_set.relation, p_set.control)
    WHERE member <> p_set.relation AND member IS DISTINCT FROM rollup_engine.default_partition(p_set.relation)
$$;
COMMENT ON FUNCTION rollup_engine.uncovered_in_source(rollup_engine.partition_set, tstzmultirange) IS 'The part of the ranges that no partition of a source but the default one holds.';

CREATE FUNCTION rollup_engine.cover_source(p_set rollup_engine.partition_set, p_ranges tstzmultirange) RETURNS integer
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_missing tstzmultirange := rollup_engine.uncovered_in_source(p_set, p_ranges);
    v_range tstzrange;
    v_added integer := 0;
BEGIN
    IF isempty(v_missing) THEN
        RETURN 0;
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', p_set.relation);
    FOR v_range IN
        SELECT unnest(rollup_engine.uncovered_in_source(p_set,
            tstzmultirange(tstzrange(chunk, rollup_engine.bucket_next(p_set.chunk_interval, chunk)))))
        FROM rollup_engine.buckets_in(p_set.chunk_interval, rollup_engine.bucket_align(p_set.chunk_interval, v_missing)) AS chunk
    LOOP
        PERFORM rollup_engine.add_source_partition(p_set, lower(v_range), upper(v_range));
        v_added := v_added + 1;
    END LOOP;
    RETURN v_added;
END
$$;
COMMENT ON FUNCTION rollup_engine.cover_source(rollup_engine.partition_set, tstzmultirange) IS 'Makes the partitions that the ranges need, on the grid of the set, between those that exist.';

CREATE FUNCTION rollup_engine.premake_source_partitions(p_set rollup_engine.partition_set, p_now timestamptz DEFAULT now()) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '2s'
AS $$
DECLARE
    v_members constant regclass[] := ARRAY(SELECT rollup_engine.source_tree(p_set.relation));
    v_before constant bigint := rollup_engine.partition_count(p_set.relation);
    v_by_partman constant boolean := rollup_engine.is_partmans(p_set);
    v_new regclass;
BEGIN
    PERFORM rollup_engine.cover_source(p_set, rollup_engine.stray_ranges(p_set, 10));
    PERFORM rollup_engine.cover_source(p_set, tstzmultirange(tstzrange(p_now,
        p_now + CASE WHEN v_by_partman THEN '0' ELSE 3 * p_set.chunk_interval END, '[]')));
    IF v_by_partman THEN
        PERFORM rollup_engine.premake_by_partman(p_set);
        FOR v_new IN SELECT m FROM rollup_engine.source_tree(p_set.relation) AS m WHERE m <> ALL (v_members) LOOP
            PERFORM rollup_engine.share_owner(p_set.relation, v_new);
            PERFORM rollup_engine.watch_partition(p_set.relation, v_new);
        END LOOP;
        -- One stray row of the far future, and pg_partman only goes on from there.
        PERFORM rollup_engine.cover_source(p_set, tstzmultirange(tstzrange(p_now, p_now + p_set.chunk_interval, '[]')));
    END IF;
    RETURN rollup_engine.partition_count(p_set.relation) - v_before;
END
$$;
COMMENT ON FUNCTION rollup_engine.premake_source_partitions(rollup_engine.partition_set, timestamptz) IS
'Makes the partitions of a source for stray rows, for now and soon; returns how many were new.';

RESET ROLE;
