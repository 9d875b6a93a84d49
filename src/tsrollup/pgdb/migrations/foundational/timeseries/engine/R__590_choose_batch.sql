-- What a batch takes on: its cells, and of their stale buckets those that it can do, the newest first.
-- Sparse cells go together, and time that holds nothing costs nothing.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.divide_stale(p_rollup_id integer) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_ids bigint[];
    v_ranges tstzmultirange;
    v_barred tstzmultirange;
    v_due_at timestamptz;
BEGIN
    -- As for a batch: the claim, what is barred, a look in a newer snapshot.
    SELECT array_agg(id), range_agg(tstzrange(from_time, to_time)), min(due_at) INTO v_ids, v_ranges, v_due_at
    FROM (SELECT * FROM rollup_engine.stale_range WHERE rollup_id = p_rollup_id AND cell = 'infinity' FOR UPDATE SKIP LOCKED) AS s;
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE id = p_rollup_id;
    v_barred := v_ranges * rollup_engine.barred(v_rollup.source_id);
    IF v_ids IS NULL OR rollup_engine.is_wide(v_rollup.bucket_width, v_barred) THEN
        RETURN false;
    END IF;
    PERFORM rollup_engine.fail_if_gone(v_rollup), rollup_engine.hear_invalidations();
    DELETE FROM rollup_engine.stale_range WHERE id = ANY (v_ids);
    PERFORM rollup_engine.mark_rollups(ARRAY[p_rollup_id], v_ranges - v_barred, p_clip => true, p_noted => v_due_at);
    PERFORM rollup_engine.mark_barred(ARRAY[p_rollup_id], v_barred);
    PERFORM rollup_engine.fail_if_changed(v_rollup);
    RETURN true;
END
$$;
COMMENT ON FUNCTION rollup_engine.divide_stale(integer) IS
'Divides what is stale across many cells among those that hold something, or are barred; false when nothing is to be divided, or much of it is barred yet.';

CREATE OR REPLACE FUNCTION rollup_engine.sparse_cells(p_rollup silver.rollup_config, p_cell timestamptz, p_within tstzrange) RETURNS SETOF timestamptz
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
        -- Of the same partition: who reads and writes what lies between cells plans with all that is there.
        SELECT cell
        FROM (
            SELECT cell, sum(stale) OVER (ORDER BY cell DESC) AS stale
            FROM (
                SELECT s.cell, sum(s.stale) AS stale
                FROM (
                    SELECT s.cell, s.to_time - s.from_time AS stale
                    FROM rollup_engine.rollup_partition AS p
                    JOIN rollup_engine.stale_range AS s ON s.rollup_id = p.rollup_id AND s.cell >= p.from_time AND s.cell <= p_cell
                    WHERE p.rollup_id = p_rollup.id AND p.from_time <= p_cell AND p.to_time > p_cell
                        AND tstzrange(s.from_time, s.to_time) && p_within
                    ORDER BY s.cell DESC
                    LIMIT 1000
                ) AS s
                GROUP BY s.cell
            ) AS c
        ) AS c
        -- The way to the workers and back takes longer than many buckets there.
        WHERE stale <= least(p_rollup.current_window, p_rollup.cell_width) / CASE WHEN rollup_engine.distribution_column(p_rollup.target_table) IS NOT NULL
                AND rollup_engine.has_time_index(p_rollup.source_table, p_rollup.time_column) THEN 1 ELSE 8 END AND cell < p_cell
        ORDER BY cell DESC
        LIMIT 63;
END
$$;
COMMENT ON FUNCTION rollup_engine.sparse_cells(silver.rollup_config, timestamptz, tstzrange) IS 'Cells before the cell that a batch can do as well, since so little of them is stale.';

CREATE OR REPLACE FUNCTION rollup_engine.lock_cells(p_rollup silver.rollup_config, p_cell timestamptz, p_within tstzrange) RETURNS timestamptz[]
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_cells timestamptz[] := '{}';
BEGIN
    IF rollup_engine.try_lock_cell(p_rollup.id, p_cell) THEN
        v_cells := ARRAY(
            SELECT p_cell UNION ALL
            SELECT cell FROM rollup_engine.sparse_cells(p_rollup, p_cell, p_within) AS cell WHERE rollup_engine.try_lock_cell(p_rollup.id, cell));
    END IF;
    RETURN v_cells;
END
$$;
COMMENT ON FUNCTION rollup_engine.lock_cells(silver.rollup_config, timestamptz, tstzrange) IS 'Locks the cell and what sparse cells before it can be had; none when another worker has the cell.';

-- What to do ---------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.parent_stale(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Volatile, for a snapshot newer than the claim. The log need not be looked at: its drain
    -- marks parent and child at once.
    RETURN coalesce(rollup_engine.bucket_align(p_rollup, range_agg(tstzrange(from_time, to_time))), '{}')
    FROM (
        SELECT from_time, to_time FROM rollup_engine.stale_range WHERE rollup_id = p_rollup.parent_id
        UNION ALL
        SELECT from_time, to_time FROM rollup_engine.unsettled_partitions(p_rollup.parent_id)
    ) AS s
    WHERE tstzrange(from_time, to_time) && p_ranges;
END
$$;
COMMENT ON FUNCTION rollup_engine.parent_stale(silver.rollup_config, tstzmultirange) IS 'Buckets of a rollup in the ranges that its parent cannot answer yet.';

-- That of 0.1.0 took the width alone.
DROP FUNCTION IF EXISTS rollup_engine.newest_part(tstzmultirange, interval, interval);
CREATE OR REPLACE FUNCTION rollup_engine.newest_part(p_rollup silver.rollup_config, p_ranges tstzmultirange, p_window interval) RETURNS tstzmultirange
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_left interval := p_window;
    v_range tstzrange;
    v_parts tstzrange[] := '{}';  -- united once: thousands, one by one, take a second
BEGIN
    FOR v_range IN SELECT r FROM unnest(p_ranges) AS r ORDER BY lower(r) DESC LOOP
        IF upper(v_range) - lower(v_range) > v_left THEN
            v_range := tstzrange(greatest(lower(v_range), least(
                rollup_engine.bucket_start(p_rollup, upper(v_range) - v_left),
                rollup_engine.bucket_start(p_rollup, upper(v_range) - interval '1 microsecond'))), upper(v_range));
        END IF;
        v_parts := v_parts || v_range;
        v_left := v_left - (upper(v_range) - lower(v_range));
        EXIT WHEN v_left <= '0';
    END LOOP;
    RETURN coalesce(range_agg(r), '{}') FROM unnest(v_parts) AS r;
END
$$;
COMMENT ON FUNCTION rollup_engine.newest_part(silver.rollup_config, tstzmultirange, interval) IS 'The newest whole buckets of the ranges, about as much time as the window and at least one bucket.';

DROP FUNCTION IF EXISTS rollup_engine.newest_time_sql(regclass, name, regtype, text, text);
CREATE OR REPLACE FUNCTION rollup_engine.newest_time_sql(p_relation regclass, p_column name, p_type regtype, p_unit text, p_condition text, p_from_each text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Names of ours beside those of a table are qualified: it may have columns called so.
    SELECT rollup_engine.fill(
        CASE WHEN rollup_engine.has_time_index(p_relation, p_column) AND rollup_engine.distribution_column(p_relation) IS NULL
        THEN 'SELECT max({utc}) FROM unnest($3) AS tsrollup_each (part)
            CROSS JOIN LATERAL (SELECT max({column}) AS t FROM {relation} AS tsrollup_rows WHERE {condition} AND {each}) AS newest'
        ELSE 'SELECT max({utc}) FROM (SELECT {column} AS t FROM {relation} WHERE {condition}) AS known WHERE {utc} <@ $3' END,
        jsonb_build_object('relation', p_relation, 'column', quote_ident(p_column), 'utc', rollup_engine.time_expression('t', p_type, p_unit),
            'condition', p_condition, 'each', p_from_each))
$$;
COMMENT ON FUNCTION rollup_engine.newest_time_sql(regclass, name, regtype, text, text, text) IS 'Query for the newest time of a table in the ranges $3, whose hull is from $1 to $2.';

CREATE OR REPLACE FUNCTION rollup_engine.up_to_newest_row(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_time_type constant regtype := (
        SELECT CASE WHEN p_rollup.parent_id IS NULL THEN time_type ELSE 'timestamptz' END FROM rollup_engine.source WHERE id = p_rollup.source_id);
    v_newest timestamptz;
    v_stored timestamptz;
BEGIN
    PERFORM rollup_engine.hear_invalidations();
    EXECUTE rollup_engine.newest_time_sql(p_rollup.source_table, p_rollup.time_column, v_time_type, p_rollup.time_unit,
        rollup_engine.time_condition(p_rollup, '$1', '$2'), rollup_engine.time_condition(p_rollup, 'lower(tsrollup_each.part)', 'upper(tsrollup_each.part)'))
    INTO v_newest USING lower(p_ranges), upper(p_ranges), p_ranges;
    EXECUTE rollup_engine.newest_time_sql(p_rollup.target_table, 'bucket', 'timestamptz', NULL,
        'bucket >= $1 AND bucket < $2', 'bucket >= lower(tsrollup_each.part) AND bucket < upper(tsrollup_each.part)')
    INTO v_stored USING lower(p_ranges), upper(p_ranges), p_ranges;
    RETURN p_ranges * tstzmultirange(tstzrange(NULL, rollup_engine.bucket_next(p_rollup,
        rollup_engine.bucket_start(p_rollup, coalesce(greatest(v_newest, v_stored), '-infinity')))));
END
$$;
COMMENT ON FUNCTION rollup_engine.up_to_newest_row(silver.rollup_config, tstzmultirange) IS
'The ranges without what lies after the newest bucket of theirs for which there are rows in the source or in the table. Volatile, for a snapshot newer than the claim.';

CREATE OR REPLACE FUNCTION rollup_engine.in_newest_chunk(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_ranges * tstzmultirange(tstzrange(rollup_engine.bucket_ceil(p_rollup, silver.time_bucket(p_rollup.chunk_interval,
        rollup_engine.bucket_start(p_rollup, upper(p_ranges) - interval '1 microsecond'))), NULL))
$$;
COMMENT ON FUNCTION rollup_engine.in_newest_chunk(silver.rollup_config, tstzmultirange) IS 'What lies in one partition of the rollup with the newest bucket of the ranges.';

RESET ROLE;
