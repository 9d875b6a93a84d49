-- Where there is anything: what is marked stale goes by the rows that exist, not by the buckets
-- between them.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- That of 0.1.0 knew no units.
DROP FUNCTION IF EXISTS rollup_engine.known_times(silver.rollup_config, tstzrange);
CREATE OR REPLACE FUNCTION rollup_engine.known_times(p_rollup silver.rollup_config, p_within tstzrange)
RETURNS TABLE (relation regclass, time_column name, time_type regtype, time_unit text, low text, high text, times text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH line AS (
        SELECT p_rollup.id, p_rollup.target_table  -- which may not be registered yet
        UNION ALL
        SELECT id, target_table FROM silver.rollup_config WHERE id IN (SELECT rollup_engine.with_ancestors(p_rollup.parent_id))
    ), bounds AS (
        SELECT coalesce(lower(p_within), '-infinity') AS low, coalesce(upper(p_within), 'infinity') AS high
    ), kept AS (
        SELECT line.target_table AS relation, name 'bucket' AS time_column, 'timestamptz'::regtype AS time_type, NULL AS time_unit, low, high
        FROM bounds, line WHERE rollup_engine.has_buckets(line.target_table)
        UNION ALL
        -- Its time column may have been renamed since the last run.
        SELECT s.relation, coalesce(c.current_name, s.time_column), s.time_type, s.time_unit,
            greatest(low, lower(rollup_engine.calendar())), least(high, upper(rollup_engine.calendar()))
        FROM bounds, rollup_engine.source AS s
        LEFT JOIN LATERAL (
            SELECT current_name FROM rollup_engine.resolved_columns(s) WHERE noted_name = s.time_column LIMIT 1) AS c ON true
        WHERE s.id = p_rollup.source_id AND rollup_engine.is_relation(s.relation)
    )
    -- Of a table that the machinery cannot read, all that its partitions may hold.
    SELECT NULL, NULL, 'timestamptz'::regtype, NULL, NULL, NULL, format(
        '(SELECT from_time AS f, to_time - interval ''1 microsecond'' AS t FROM rollup_engine.%s rollup_id = %s AND from_time < %L AND to_time > %L) AS known',
        noted, line.id, high, low)
    -- What lies across many cells says nothing of where rows are.
    FROM line, bounds, unnest(ARRAY['stale_range WHERE cell < ''infinity'' AND',
        CASE WHEN NOT rollup_engine.has_buckets(line.target_table) THEN 'rollup_partition WHERE' END]) AS n (noted)
    WHERE noted IS NOT NULL
    UNION ALL
    SELECT relation, time_column, time_type, time_unit, l.low, l.high,
        rollup_engine.fill('(SELECT {column} AS f, {column} AS t FROM {relation} WHERE {column} >= {low} AND {column} < {high}) AS known',
            jsonb_build_object('column', quote_ident(time_column), 'relation', relation, 'low', l.low, 'high', l.high))
    FROM kept CROSS JOIN LATERAL (SELECT rollup_engine.time_literal(low, time_type, time_unit), rollup_engine.time_literal(high, time_type, time_unit)) AS l (low, high)
$$;
COMMENT ON FUNCTION rollup_engine.known_times(silver.rollup_config, tstzrange) IS
'All that a rollup may hold or come to hold in a range: stale ranges and stored buckets of it and those that it reads, and the rows of its source; first and last time, f and t, of each.';

CREATE OR REPLACE FUNCTION rollup_engine.bin_marks(p_type regtype, p_unit text, p_bin interval, p_high text) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    SELECT jsonb_build_object(
        'bin_of_f', rollup_engine.fill(CASE WHEN p_unit IS NULL THEN 'date_bin({bin}, f, {origin})' ELSE 'floor(f / {bin})' END, v.marks),
        'next', rollup_engine.fill(CASE WHEN p_unit IS NULL THEN 'date_bin({bin} * 2 ^ (n / 300), m.f, {origin}) + {bin} * 2 ^ (n / 300)'
            ELSE 'least({high}, (floor(m.f / ({bin} * 2::numeric ^ (n / 300))) + 1) * {bin} * 2::numeric ^ (n / 300))::{type}' END, v.marks))
    FROM (SELECT jsonb_build_object(
        'bin', CASE WHEN p_unit IS NULL THEN format('interval %L', p_bin) ELSE format('numeric %L', extract(epoch FROM p_bin) * rollup_engine.units_per_second(p_unit)) END,
        'origin', rollup_engine.time_literal('2000-01-03 00:00:00+00', p_type, p_unit),
        'high', p_high, 'type', CASE p_type WHEN 'numeric'::regtype THEN 'numeric' ELSE 'bigint' END)) AS v (marks)
$$;
COMMENT ON FUNCTION rollup_engine.bin_marks(regtype, text, interval, text) IS 'How extent_sql bins the first time f of a kind, and goes on to the next bin.';

CREATE OR REPLACE FUNCTION rollup_engine.extent_sql(p_rollup silver.rollup_config, p_within tstzrange, p_bin interval DEFAULT NULL) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    -- A large table with an index is not read, but looked into: from one bin that holds something to the
    -- next. The bins double after every 300, since where there are so many the gaps matter little.
    SELECT string_agg(rollup_engine.fill(
        'SELECT {utc_f} AS f, {utc_t} AS t FROM (' || CASE
            WHEN p_bin IS NULL THEN 'SELECT min(f) AS f, max(t) AS t FROM {times}'
            WHEN r.source_rows > 1000000 AND rollup_engine.has_time_index(relation, time_column) THEN
                -- Names of ours beside those of a table are qualified: it may have columns called so.
                'WITH RECURSIVE tsrollup_jump (f, next, n) AS (
                    SELECT NULL::{type}, {low}, 0
                    UNION ALL
                    SELECT m.f, {next}, n + 1
                    FROM tsrollup_jump CROSS JOIN LATERAL (
                        SELECT min({column})::{type} AS f FROM {relation} AS tsrollup_rows
                        WHERE {column} >= tsrollup_jump.next AND {column} < {high}) AS m
                    WHERE m.f IS NOT NULL
                )
                SELECT tsrollup_jump.f, m.t FROM tsrollup_jump CROSS JOIN LATERAL (
                    SELECT max({column})::{type} AS t FROM {relation} AS tsrollup_rows
                    WHERE {column} >= tsrollup_jump.f AND {column} < least(tsrollup_jump.next, {high})) AS m'
            ELSE 'SELECT min(f) AS f, max(t) AS t FROM {times} GROUP BY {bin_of_f}' END
        || ') AS found WHERE f IS NOT NULL',
        jsonb_build_object(
            'utc_f', rollup_engine.time_expression('f', time_type, time_unit), 'utc_t', rollup_engine.time_expression('t', time_type, time_unit),
            'times', times, 'relation', relation, 'column', quote_ident(time_column), 'low', low, 'high', high,
            'type', CASE WHEN time_unit IS NOT NULL THEN CASE time_type WHEN 'numeric'::regtype THEN 'numeric' ELSE 'bigint' END
                WHEN time_type = 'timestamptz'::regtype THEN 'timestamptz' ELSE 'timestamp' END) || b.marks), ' UNION ALL ')
    -- As noted at the last batch: a read asks more than once, and statistics are of no snapshot.
    FROM (
        SELECT greatest(p_rollup.source_rows, max(source_rows)) AS source_rows FROM silver.rollup_config
        WHERE source_id = p_rollup.source_id
    ) AS r, rollup_engine.known_times(p_rollup, p_within) AS k
    CROSS JOIN LATERAL rollup_engine.bin_marks(k.time_type, k.time_unit, p_bin, k.high) AS b (marks)
$$;
COMMENT ON FUNCTION rollup_engine.extent_sql(silver.rollup_config, tstzrange, interval) IS
'One query for the first and last time of all that is known in a range: of each kind as a whole, or of each kind in each bin.';

CREATE OR REPLACE FUNCTION rollup_engine.data_extent(p_rollup silver.rollup_config, p_ranges tstzmultirange, p_search_gaps boolean) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET row_security = off
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_ranges constant tstzmultirange := rollup_engine.bucket_align(p_rollup, p_ranges);
    v_bin constant interval := make_interval(secs => extract(epoch FROM p_rollup.cell_width)::double precision);
    v_agg constant text := 'SELECT range_agg(tstzrange(f, t + interval ''1 microsecond'')) FROM (%s) AS times';
    v_range tstzrange;
    v_extent tstzmultirange;
    v_found tstzmultirange := '{}';
    v_name constant text := (SELECT relation FROM rollup_engine.source WHERE id = p_rollup.source_id);
BEGIN
    -- All in the snapshot of who asks: a bucket that a refresh is storing is seen as stale or as stored.
    FOR v_range IN
        SELECT unnest(CASE WHEN p_search_gaps AND (SELECT count(*) FROM unnest(v_ranges)) <= 16
            THEN v_ranges ELSE tstzmultirange(range_merge(v_ranges)) END)
    LOOP
        EXECUTE format(v_agg, rollup_engine.extent_sql(p_rollup, v_range)) INTO v_extent;
        v_extent := tstzmultirange(range_merge(v_extent));
        IF p_search_gaps AND rollup_engine.bucket_count(p_rollup.cell_width, v_extent) > 64 THEN
            EXECUTE format(v_agg, rollup_engine.extent_sql(p_rollup, range_merge(v_extent), v_bin)) INTO v_extent;
        END IF;
        v_found := v_found + coalesce(v_extent, '{}');
    END LOOP;
    PERFORM rollup_engine.fail_if_renamed(p_rollup.source_id, v_name);
    RETURN v_ranges * rollup_engine.bucket_align(p_rollup, v_found);
END
$$;
COMMENT ON FUNCTION rollup_engine.data_extent(silver.rollup_config, tstzmultirange, boolean) IS
'The ranges in whole buckets, finite: without what lies before and after all that the rollup holds or can come to hold, and, where that is more than some cells, without the empty ones.';

RESET ROLE;
