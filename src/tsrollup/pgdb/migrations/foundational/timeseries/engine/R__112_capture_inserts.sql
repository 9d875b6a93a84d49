-- Inserts into a source that is partitioned by its time and written at its tail, where nothing is to be
-- logged: a row trigger whose condition compares a row with constants costs them little,
-- while a statement trigger, with its transition table, takes longer than the row itself, and has COPY
-- give up inserting many rows at once. A condition binds its columns; those of the key nobody can drop
-- or retype anyway. Sources that are loaded behind their tail have a statement trigger, as all others do.
--
-- The first rows of a statement that lie behind the tail have the trigger fire, at its end. Those that
-- follow are noted by the condition itself, in settings of the transaction, and logged when it fires. So a
-- million rows fire it a few times, and the server need not remember each of them for it.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.insert_condition(p_source rollup_engine.source, p_function text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_time constant name := (
        SELECT c.current_name FROM rollup_engine.resolved_columns(p_source) AS c WHERE p_source.time_column IN (c.column_name, c.noted_name)
        ORDER BY c.column_name = p_source.time_column DESC LIMIT 1);
    -- An error here would fail the write: of dates, few are too late for a timestamp. Written without literals, which look otherwise in each DateStyle.
    v_value constant text := format(
        CASE p_source.time_type
            WHEN 'timestamptz'::regtype THEN 'new.%I::timestamptz'
            WHEN 'date'::regtype THEN 'LEAST(new.%I::date, make_date(294276, 12, 31))::timestamp'
            ELSE 'new.%I::timestamp'
        END, v_time);
BEGIN
    RETURN rollup_engine.fill('width_bucket({time}, rollup_engine.tail_edges_{id}()) <> 1 AND rollup_engine.{function}_{id}({utc})',
        jsonb_build_object('id', p_source.id, 'function', p_function,
            'time', v_value, 'utc', CASE p_source.time_type WHEN 'timestamptz'::regtype THEN v_value ELSE v_value || ' AT TIME ZONE ''UTC''' END));
END
$$;
COMMENT ON FUNCTION rollup_engine.insert_condition(rollup_engine.source, text) IS 'When an inserted row has a trigger fire: behind the tail, and not noted.';

CREATE OR REPLACE FUNCTION rollup_engine.insert_marks(p_source rollup_engine.source) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    -- Where late rows have a key, each that the trigger fires for is logged with it.
    SELECT jsonb_build_object('id', p_source.id, 'most', CASE WHEN rollup_engine.captured_key(p_source) IS NULL THEN rollup_engine.few_rows() ELSE rollup_engine.most_keys() END,
        'seconds', extract(epoch FROM p_source.grain)::text,
        'grain', format('%L::pg_catalog.interval', make_interval(secs => extract(epoch FROM p_source.grain)::double precision)),
        'origin', quote_literal('2000-01-03 00:00:00+00') || '::pg_catalog.timestamptz',
        'first', format('%L::pg_catalog.timestamptz', lower(c)), 'end', format('%L::pg_catalog.timestamptz', upper(c)))
    FROM rollup_engine.calendar() AS c
$$;
COMMENT ON FUNCTION rollup_engine.insert_marks(rollup_engine.source) IS 'What is filled in where inserted rows are noted or logged.';

CREATE OR REPLACE FUNCTION rollup_engine.note_function_sql(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    -- It sets no search_path, which would take longer than all the rest; so each name has its schema. From and
    -- to are the edges of what was noted last, as numbers, which are read faster than times.
    -- Rows are those that the trigger has still to fire for: by their number it notices that the settings were reset.
    SELECT rollup_engine.fill($sql$
CREATE OR REPLACE FUNCTION rollup_engine.note_{id}(p_time timestamptz) RETURNS boolean
    LANGUAGE plpgsql
AS {body};
GRANT EXECUTE ON FUNCTION rollup_engine.note_{id}(timestamptz) TO PUBLIC;
$sql$, jsonb_build_object('id', p_source.id, 'body', quote_literal(rollup_engine.fill($body$
DECLARE
    v_from pg_catalog.text;
    v_to pg_catalog.text;
    v_list pg_catalog.text;
    v_low pg_catalog.numeric;
    v_high pg_catalog.numeric;
    v_hull pg_catalog.numeric[];
BEGIN
    IF (CASE WHEN pg_catalog.date_part('epoch', p_time) OPERATOR(pg_catalog.>=) nullif(pg_catalog.current_setting('rollup_engine.noted_from_{id}', true), '')::pg_catalog.float8
        THEN pg_catalog.date_part('epoch', p_time) OPERATOR(pg_catalog.<) pg_catalog.current_setting('rollup_engine.noted_to_{id}')::pg_catalog.float8 END)
    THEN
        RETURN false;
    END IF;
    v_from := coalesce(pg_catalog.current_setting('rollup_engine.noted_from_{id}', true), '');
    IF v_from OPERATOR(pg_catalog.=) '' THEN
        IF pg_catalog.current_setting('session_replication_role') OPERATOR(pg_catalog.=) 'replica' THEN
            RETURN false;  -- another trigger logs what these write
        END IF;
        v_from := pg_catalog.set_config('rollup_engine.noted_from_{id}', 'NaN', true);
        v_to := pg_catalog.set_config('rollup_engine.noted_to_{id}', '1', true);
        v_to := pg_catalog.set_config('rollup_engine.noted_rows_{id}', (pg_catalog.concat('0', pg_catalog.current_setting('rollup_engine.noted_rows_{id}', true))::pg_catalog.int4 OPERATOR(pg_catalog.+) 1)::pg_catalog.text, true);
        RETURN true;
    ELSIF v_from OPERATOR(pg_catalog.=) 'NaN' AND pg_catalog.current_setting('rollup_engine.noted_to_{id}')::pg_catalog.int4 OPERATOR(pg_catalog.<) {most} THEN
        v_to := pg_catalog.set_config('rollup_engine.noted_to_{id}', (pg_catalog.current_setting('rollup_engine.noted_to_{id}')::pg_catalog.int4 OPERATOR(pg_catalog.+) 1)::pg_catalog.text, true);
        v_to := pg_catalog.set_config('rollup_engine.noted_rows_{id}', (pg_catalog.concat('0', pg_catalog.current_setting('rollup_engine.noted_rows_{id}', true))::pg_catalog.int4 OPERATOR(pg_catalog.+) 1)::pg_catalog.text, true);
        RETURN true;
    ELSIF NOT (p_time OPERATOR(pg_catalog.>=) {first} AND p_time OPERATOR(pg_catalog.<) {end}) THEN
        RETURN false;
    END IF;
    v_low := extract(epoch FROM pg_catalog.date_bin({grain}, p_time, {origin}));
    v_high := v_low OPERATOR(pg_catalog.+) {seconds};
    v_list := coalesce(pg_catalog.current_setting('rollup_engine.noted_{id}', true), '');
    IF v_list OPERATOR(pg_catalog.=) '' THEN
        v_list := '{seconds},';  -- how long they are; then where each begins
    ELSIF pg_catalog.strpos(v_list, pg_catalog.concat(' ', v_low, ',')) OPERATOR(pg_catalog.>) 0 THEN
        RETURN false;
    END IF;
    v_list := pg_catalog.concat(v_list, ' ', v_low, ',');
    -- What lies beside what was noted last is one with it.
    v_to := coalesce(pg_catalog.current_setting('rollup_engine.noted_to_{id}', true), '');
    IF v_to OPERATOR(pg_catalog.=) v_low::pg_catalog.text THEN
        v_low := v_from;
    ELSIF v_from OPERATOR(pg_catalog.=) v_high::pg_catalog.text THEN
        v_high := v_to;
    END IF;
    IF pg_catalog.length(v_list) OPERATOR(pg_catalog.>) 2000 THEN
        v_hull := pg_catalog.string_to_array(coalesce(pg_catalog.current_setting('rollup_engine.noted_hull_{id}', true), ''), ' ');
        SELECT ARRAY[coalesce(v_hull[1], 0) OPERATOR(pg_catalog.+) pg_catalog.count(*), least(v_hull[2], pg_catalog.min(b)), greatest(v_hull[3], pg_catalog.max(b) OPERATOR(pg_catalog.+) {seconds}),
            coalesce(v_hull[4], 0) OPERATOR(pg_catalog.+) 1]
        INTO v_hull
        FROM pg_catalog.unnest((pg_catalog.string_to_array(pg_catalog.rtrim(v_list, ','), ',')::pg_catalog.numeric[])[2:]) AS b;
        IF v_hull[1] OPERATOR(pg_catalog.>=) 10000 OR v_hull[1] OPERATOR(pg_catalog.*) {seconds} OPERATOR(pg_catalog.>=) (v_hull[3] OPERATOR(pg_catalog.-) v_hull[2]) THEN
            -- As many as lie between the first and the last, or so many that nobody tells them apart: all of it.
            v_low := v_hull[2];
            v_high := v_hull[3];
            v_list := pg_catalog.concat(v_high OPERATOR(pg_catalog.-) v_low, ', ', v_low, ',');
        END IF;
        v_to := pg_catalog.set_config(pg_catalog.concat('rollup_engine.noted_{id}_', v_hull[4]), v_list, true);
        v_to := pg_catalog.set_config('rollup_engine.noted_hull_{id}', pg_catalog.array_to_string(v_hull, ' '), true);
        v_list := '';
    END IF;
    v_to := pg_catalog.set_config('rollup_engine.noted_{id}', v_list, true);
    -- A float tells microseconds apart in these years.
    IF v_low OPERATOR(pg_catalog.>) -7e9 AND v_high OPERATOR(pg_catalog.<) 7e9 THEN
        v_to := pg_catalog.set_config('rollup_engine.noted_from_{id}', v_low::pg_catalog.text, true);
        v_to := pg_catalog.set_config('rollup_engine.noted_to_{id}', v_high::pg_catalog.text, true);
    END IF;
    RETURN false;
END
$body$, rollup_engine.insert_marks(p_source)))))
$$;
COMMENT ON FUNCTION rollup_engine.note_function_sql(rollup_engine.source) IS
'Text of the function that notes an inserted row of a source behind the tail; true where the trigger is to fire for it.';

CREATE OR REPLACE FUNCTION rollup_engine.log_noted(p_source_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_noted constant text := format('rollup_engine.noted_%s', p_source_id);
    v_hull_name constant text := format('rollup_engine.noted_hull_%s', p_source_id);
    -- The last of what it holds is the number of earlier lists.
    v_hull constant numeric[] := string_to_array(coalesce(current_setting(v_hull_name, true), ''), ' ');
BEGIN
    INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, is_bulk)
    SELECT p_source_id, lower(r), upper(r), true
    FROM unnest((
        SELECT range_agg(tstzrange(t.from_time, t.to_time))
        FROM (
            SELECT b[i], b[i] + b[1]
            FROM generate_series(0, coalesce(v_hull[4], 0)) AS k
            CROSS JOIN string_to_array(rtrim(current_setting(CASE k WHEN 0 THEN v_noted ELSE v_noted || '_' || k END), ','), ',') AS l
            CROSS JOIN CAST(l AS numeric[]) AS b
            CROSS JOIN generate_series(2, cardinality(b)) AS i
        ) AS n (low, high)
        CROSS JOIN LATERAL (
            -- Seconds and the rest of them by themselves, each of which a float holds exactly.
            SELECT timestamptz 'epoch' + trunc(low)::double precision * interval '1 second' + (low % 1 * 1000000)::double precision * interval '1 microsecond',
                timestamptz 'epoch' + trunc(high)::double precision * interval '1 second' + (high % 1 * 1000000)::double precision * interval '1 microsecond'
        ) AS t (from_time, to_time))) AS r;
    PERFORM set_config(v_noted, '', true), set_config(v_hull_name, '', true);
END
$$;
COMMENT ON FUNCTION rollup_engine.log_noted(integer) IS 'Logs what a statement has noted of a source: many rows.';

CREATE OR REPLACE FUNCTION rollup_engine.log_row_function_sql(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- It never has a trigger fire: after writes to a partition, workers of logical replication warn of each one
    -- that does, row by row, until their parallel workers stop for ever.
    SELECT rollup_engine.fill($sql$
CREATE OR REPLACE FUNCTION rollup_engine.log_row_{id}(p_time timestamptz) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS {body};
-- Without USAGE on the schema nobody calls it but by the condition of a trigger.
GRANT EXECUTE ON FUNCTION rollup_engine.log_row_{id}(timestamptz) TO PUBLIC;
$sql$, jsonb_build_object('id', p_source.id, 'body', quote_literal(rollup_engine.fill($body$
DECLARE
    v_seen constant text := current_setting('rollup_engine.logged_{id}', true);
    v_bin timestamptz;
    v_text text;
BEGIN
    IF p_time >= {first} AND p_time < {end} THEN
        v_bin := date_bin({grain}, p_time, {origin});
        v_text := concat(' ', extract(epoch FROM v_bin), ' ');
        IF strpos(v_seen, v_text) > 0 THEN
            RETURN false;
        END IF;
        INSERT INTO rollup_engine.change_log (source_id, from_time, to_time) VALUES ({id}, v_bin, v_bin + {grain});
        PERFORM set_config('rollup_engine.logged_{id}', left(concat(v_text, v_seen), 400), true);
    END IF;
    RETURN false;
END
$body$, rollup_engine.insert_marks(p_source)))))
$$;
COMMENT ON FUNCTION rollup_engine.log_row_function_sql(rollup_engine.source) IS
'Text of the function that logs a row that a replica inserts into a source; always false.';

CREATE OR REPLACE FUNCTION rollup_engine.capture_texts(p_source rollup_engine.source) RETURNS TABLE (name text, statement text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    VALUES (format('capture_%s', p_source.id), rollup_engine.capture_function_sql(p_source))
    UNION ALL
    SELECT format(t.name, p_source.id), t.statement
    FROM (VALUES ('note_%s', rollup_engine.note_function_sql(p_source)), ('log_row_%s', rollup_engine.log_row_function_sql(p_source))) AS t (name, statement)
    WHERE p_source.inserts_by_row IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.capture_texts(rollup_engine.source) IS 'The functions that capture the changes of a source.';

CREATE OR REPLACE FUNCTION rollup_engine.write_capture(p_source rollup_engine.source) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.write_generated(t.name, t.statement) FROM rollup_engine.capture_texts(p_source) AS t
$$;
COMMENT ON FUNCTION rollup_engine.write_capture(rollup_engine.source) IS 'Writes the functions that capture the changes of a source.';

RESET ROLE;
