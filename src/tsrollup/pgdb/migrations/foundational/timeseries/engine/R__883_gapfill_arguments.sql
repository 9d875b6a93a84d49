-- What silver.gapfill is asked for: a live view, a range of buckets, columns to fill and values of dimensions.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.gapfill_rollup(p_row_type regtype) RETURNS silver.rollup_config
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation constant regclass := (SELECT typrelid FROM pg_type WHERE oid = p_row_type AND typrelid <> 0);
    r silver.rollup_config;
BEGIN
    SELECT * INTO r FROM silver.rollup_config WHERE target_view = v_relation;
    IF r.id IS NULL THEN
        PERFORM rollup_engine.fail('TR001', format('view_row is of type %s, which is no row of a live view', p_row_type),
            coalesce((SELECT format('write NULL::%s', target_view) FROM silver.rollup_config WHERE target_table = v_relation),
                'name a live view, as in silver.gapfill(NULL::gold.readings_1h, ...)'));
    END IF;
    PERFORM rollup_engine.fail_if_gone(r);
    RETURN r;
END
$$;
COMMENT ON FUNCTION rollup_engine.gapfill_rollup(regtype) IS 'The rollup whose live view has rows of that type, or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.gapfill_buckets(p_rollup silver.rollup_config, p_from timestamptz, p_to timestamptz) RETURNS timestamptz[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_most constant integer := 1000000;
    v_ranges tstzmultirange;
    v_count bigint;
BEGIN
    IF p_from IS NULL OR p_to IS NULL OR NOT isfinite(p_from) OR NOT isfinite(p_to) OR p_from >= p_to THEN
        PERFORM rollup_engine.fail('TR001', format('from %s to %s is no range of time with an end', coalesce(p_from::text, 'NULL'), coalesce(p_to::text, 'NULL')),
            'give two times, from_time before to_time');
    ELSIF NOT tstzrange(p_from, p_to) <@ rollup_engine.calendar() THEN
        PERFORM rollup_engine.fail('TR001', format('from %s to %s is not within the years 1 to 9999', p_from, p_to), 'give times in the years that have buckets');
    END IF;
    v_ranges := tstzmultirange(tstzrange(
        rollup_engine.bucket_ceil(p_rollup, p_from), rollup_engine.bucket_ceil(p_rollup, p_to)));
    v_count := rollup_engine.bucket_count(p_rollup.bucket_width, v_ranges);
    IF v_count > v_most THEN
        PERFORM rollup_engine.fail('TR001', format('from %s to %s are %s buckets of %s', p_from, p_to, v_count, p_rollup.bucket_width),
            format('ask for %s at most, or a rollup of wider buckets', v_most));
    END IF;
    RETURN ARRAY(SELECT bucket FROM rollup_engine.buckets_in(p_rollup, v_ranges) ORDER BY bucket);
END
$$;
COMMENT ON FUNCTION rollup_engine.gapfill_buckets(silver.rollup_config, timestamptz, timestamptz) IS 'Starts of the buckets that begin in a checked range of time.';

CREATE OR REPLACE FUNCTION rollup_engine.view_columns(p_rollup silver.rollup_config)
RETURNS TABLE (place integer, column_name name, kind text, type oid, type_name text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The view's owner may have renamed its columns, which keep their places.
    SELECT a.attnum::integer, a.attname, c.kind, a.atttypid, format_type(a.atttypid, a.atttypmod)
    FROM (
        SELECT k.kind, row_number() OVER (ORDER BY k.position) AS place FROM rollup_engine.rollup_column AS k WHERE k.rollup_id = p_rollup.id
    ) AS c
    JOIN pg_attribute AS a ON a.attrelid = p_rollup.target_view AND a.attnum = c.place
$$;
COMMENT ON FUNCTION rollup_engine.view_columns(silver.rollup_config) IS 'Columns of a live view, as they are called there.';

CREATE OR REPLACE FUNCTION rollup_engine.find_view_column(p_rollup silver.rollup_config, p_name text, p_use text) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name name;
    v_near text;
BEGIN
    SELECT c.column_name INTO v_name
    FROM rollup_engine.view_columns(p_rollup) AS c
    WHERE p_name IN (c.column_name, quote_ident(c.column_name)) OR c.column_name = lower(p_name) ORDER BY c.column_name = p_name DESC LIMIT 1;
    IF v_name IS NULL THEN
        SELECT format('did you mean %I? ', c.column_name) INTO v_near
        FROM rollup_engine.view_columns(p_rollup) AS c
        CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE l = ANY (rollup_engine.letters(p_name))) / count(*)::float8 FROM unnest(rollup_engine.letters(c.column_name)) AS l
        ) AS likeness (likeness)
        WHERE likeness >= 0.4 ORDER BY likeness DESC, c.place LIMIT 1;
        PERFORM rollup_engine.fail('TR002', format('%s names %L, which is no column of %s', p_use, p_name, p_rollup.target_view),
            coalesce(v_near, '') || 'its columns are ' || (
                SELECT string_agg(quote_ident(c.column_name), ', ' ORDER BY c.place) FROM rollup_engine.view_columns(p_rollup) AS c));
    END IF;
    RETURN v_name;
END
$$;
COMMENT ON FUNCTION rollup_engine.find_view_column(silver.rollup_config, text, text) IS 'The column of a live view of that name, or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.check_object(p_use text, p_value jsonb, p_example text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF jsonb_typeof(p_value) <> 'object' THEN
        PERFORM rollup_engine.fail('TR001', format('%s is a JSON %s', p_use, jsonb_typeof(p_value)), format('write an object, as in ''%s''', p_example));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_object(text, jsonb, text) IS 'An error for JSON that is no object.';

CREATE OR REPLACE FUNCTION rollup_engine.check_fill(p_rollup silver.rollup_config, p_fill jsonb) RETURNS TABLE (place integer, fill text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_entry record;
    v_column record;
BEGIN
    PERFORM rollup_engine.check_object('fill', p_fill, '{"temp_avg": "locf", "temp_max": "linear"}');
    FOR v_entry IN SELECT key, value #>> '{}' AS fill FROM jsonb_each(coalesce(p_fill, '{}')) LOOP
        SELECT * INTO v_column FROM rollup_engine.view_columns(p_rollup) AS c
        WHERE c.column_name = rollup_engine.find_view_column(p_rollup, v_entry.key, 'fill');
        IF v_entry.fill IS NULL OR v_entry.fill NOT IN ('locf', 'linear') THEN
            PERFORM rollup_engine.fail('TR001', format('fill %L of %I is unknown', coalesce(v_entry.fill, 'null'), v_column.column_name),
                'use ''locf'', which carries the last value forward, or ''linear'', which goes straight from one value to the next');
        ELSIF v_column.kind IN ('bucket', 'dimension') THEN
            PERFORM rollup_engine.fail('TR001', format('fill names %I, which is %s', v_column.column_name,
                CASE v_column.kind WHEN 'bucket' THEN 'the bucket' ELSE 'a dimension' END), 'every row has one: leave it out');
        ELSIF v_entry.fill = 'linear' AND rollup_engine.between_sql(v_column.type, 0) IS NULL THEN
            PERFORM rollup_engine.fail('TR001', format('%I is of type %s, in which nothing lies between two values', v_column.column_name, v_column.type_name),
                'linear takes numbers, intervals and times; use ''locf''');
        END IF;
        place := v_column.place;
        fill := v_entry.fill;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_fill(silver.rollup_config, jsonb) IS 'How columns of a live view are to be filled, or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.check_only(p_rollup silver.rollup_config, p_only jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_entry record;
    v_name name;
    v_only jsonb := '{}';
BEGIN
    PERFORM rollup_engine.check_object('only', p_only, '{"device": ["d1", "d2"]}');
    FOR v_entry IN SELECT key, value FROM jsonb_each(coalesce(p_only, '{}')) LOOP
        v_name := rollup_engine.find_view_column(p_rollup, v_entry.key, 'only');
        IF NOT EXISTS (SELECT FROM rollup_engine.view_columns(p_rollup) AS c WHERE c.column_name = v_name AND c.kind = 'dimension') THEN
            PERFORM rollup_engine.fail('TR001', format('only names %I, which is no dimension of %s', v_name, p_rollup.target_view),
                coalesce('its dimensions are ' || (
                    SELECT string_agg(quote_ident(c.column_name), ', ' ORDER BY c.place)
                    FROM rollup_engine.view_columns(p_rollup) AS c WHERE c.kind = 'dimension'), 'it has none'));
        END IF;
        v_only := v_only || jsonb_build_object(v_name,
            CASE jsonb_typeof(v_entry.value) WHEN 'array' THEN v_entry.value ELSE jsonb_build_array(v_entry.value) END);
    END LOOP;
    RETURN v_only;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_only(silver.rollup_config, jsonb) IS 'Lists of values by dimension, or an error.';

RESET ROLE;
