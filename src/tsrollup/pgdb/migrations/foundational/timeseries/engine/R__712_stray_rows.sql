-- Rows of a default partition: how many, where, and which of them stay there.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.stray_rows(p_set rollup_engine.partition_set) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    -- What is sealed stays: its partitions were dropped, and are not to come back.
    SELECT rollup_engine.fill('{default} WHERE {column} >= {from} AND {column} < {to}', jsonb_build_object(
        'default', rollup_engine.default_partition(p_set.relation), 'column', quote_ident(p_set.control),
        'from', rollup_engine.bound_literal(p_set, greatest(
            '0001-01-03', (
                SELECT max(t.sealed_before) FROM rollup_engine.retention AS t WHERE rollup_engine.lies_in(p_set.relation, t.relation) AND isfinite(t.sealed_before)))),
        'to', rollup_engine.bound_literal(p_set, '9999-01-01')))
    WHERE rollup_engine.default_partition(p_set.relation) IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.stray_rows(rollup_engine.partition_set) IS 'FROM and WHERE of the rows of a default partition that have a place elsewhere; NULL without one.';

CREATE OR REPLACE FUNCTION rollup_engine.stray_ranges(p_set rollup_engine.partition_set) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET intervalstyle = 'postgres'
    SET row_security = off
AS $$
DECLARE
    v_rows constant text := rollup_engine.stray_rows(p_set);
    v_ranges tstzmultirange;
BEGIN
    IF v_rows IS NULL THEN
        RETURN '{}';
    END IF;
    EXECUTE rollup_engine.fill($sql$
        SELECT range_agg(tstzrange(chunk, rollup_engine.bucket_next({width}, chunk)))
        FROM (SELECT DISTINCT silver.time_bucket({width}, {time}) AS chunk FROM {rows} ORDER BY 1 DESC LIMIT 100) AS chunks
        $sql$, jsonb_build_object('width', format('interval %L', p_set.chunk_interval), 'time', rollup_engine.control_time(p_set), 'rows', v_rows))
    INTO v_ranges;
    RETURN coalesce(v_ranges, '{}');
END
$$;
COMMENT ON FUNCTION rollup_engine.stray_ranges(rollup_engine.partition_set) IS 'Chunks, newest first, of the rows that sit in a default partition.';

CREATE OR REPLACE FUNCTION rollup_engine.staying_rows(p_set rollup_engine.partition_set, p_is_left boolean DEFAULT false) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET row_security = off
AS $$
DECLARE
    v_obstacle constant text := rollup_engine.move_obstacle(p_set.relation);
    v_first timestamptz;
    v_last timestamptz;
BEGIN
    IF (v_obstacle IS NOT NULL OR p_is_left) AND rollup_engine.stray_rows(p_set) IS NOT NULL THEN
        EXECUTE rollup_engine.fill('SELECT min({time}), max({time}) FROM {rows}',
            jsonb_build_object('time', rollup_engine.control_time(p_set), 'rows', rollup_engine.stray_rows(p_set))) INTO v_first, v_last;
    END IF;
    RETURN format('rows from %s to %s stay in %s, where they are read as ever, but are not dropped by retention: ', v_first, v_last, rollup_engine.default_partition(p_set.relation))
        || CASE WHEN v_obstacle IS NULL THEN 'somebody uses the table, or a snapshot from before, they are many, or late and not counted yet; the next run goes on'
            ELSE format('to move them is to delete and insert them, and %s; take that away for a run of maintenance, or move them yourself', v_obstacle) END
    WHERE v_first IS NOT NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.staying_rows(rollup_engine.partition_set, boolean) IS 'Which rows of a default partition have to stay there, or are left there by a run, and why; NULL when there are none.';

-- What is sealed before they have partitions would never be dropped.
CREATE OR REPLACE FUNCTION rollup_engine.strays_from(p_relation regclass) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET row_security = off
AS $$
DECLARE
    v_set rollup_engine.partition_set;
    v_first timestamptz;
    v_from timestamptz := 'infinity';
BEGIN
    FOR v_set IN
        SELECT f.* FROM rollup_engine.partition_set AS p CROSS JOIN LATERAL rollup_engine.followed_set(p.relation) AS f
        WHERE p.is_source AND rollup_engine.lies_in(p.relation, p_relation)
    LOOP
        IF rollup_engine.stray_rows(v_set) IS NOT NULL AND rollup_engine.move_obstacle(v_set.relation) IS NULL THEN
            EXECUTE format('SELECT min(%s) FROM %s', rollup_engine.control_time(v_set), rollup_engine.stray_rows(v_set)) INTO v_first;
            v_from := least(v_from, v_first);
        END IF;
    END LOOP;
    RETURN v_from;
END
$$;
COMMENT ON FUNCTION rollup_engine.strays_from(regclass) IS 'The first time in a default partition of a table, or of its parts, that maintenance will still give a partition of its own.';

RESET ROLE;
