-- Inserts into a source that is partitioned by its time and written at its tail, where nothing is to be
-- logged: a row trigger whose condition compares a row with constants costs them little,
-- while a statement trigger, with its transition table, takes longer than the row itself, and has COPY
-- give up inserting many rows at once. A condition binds its columns; those of the key nobody can drop
-- or retype anyway. Sources that are loaded behind their tail have a statement trigger, as all others do.
--
-- The condition itself logs the first rows that lie behind the tail, each by itself. For the next one the trigger
-- fires, at the end of the statement; what follows in the same statement is noted in settings of the transaction,
-- and logged when it fires. So a million rows fire it a few times, and the server need not remember each of them for
-- it. Of a source with a key it fires for each of the first rows, as the key is in no condition.

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
    SELECT jsonb_build_object('id', p_source.id, 'few', repeat('*', rollup_engine.few_rows()), 'next', repeat('*', rollup_engine.few_rows() + 1), 'twice', repeat('*', 2 * rollup_engine.few_rows()), 'most', rollup_engine.most_keys(),
        'seconds', extract(epoch FROM p_source.grain)::text,
        'grain', format('%L::pg_catalog.interval', make_interval(secs => extract(epoch FROM p_source.grain)::double precision)),
        'origin', quote_literal('2000-01-03 00:00:00+00') || '::pg_catalog.timestamptz',
        'first', format('%L::pg_catalog.timestamptz', lower(c)), 'end', format('%L::pg_catalog.timestamptz', upper(c)))
    FROM rollup_engine.calendar() AS c
$$;
COMMENT ON FUNCTION rollup_engine.insert_marks(rollup_engine.source) IS 'What is filled in where inserted rows are noted or logged.';

CREATE OR REPLACE FUNCTION rollup_engine.first_rows_sql(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A mark for each of the rows that came first. More than few: the trigger has still to fire. Before the marks
    -- stands which statement began: when few more were its own, it is one of many rows. With a key, the trigger fires
    -- for each of them, and counts them down again. By either it notices that the settings were reset.
    SELECT rollup_engine.fill(CASE WHEN rollup_engine.captured_key(p_source) IS NULL THEN $sql$
    v_rows := coalesce(pg_catalog.current_setting('rollup_engine.noted_rows_{id}', true), '');
    IF pg_catalog.strpos(v_rows, '{twice}') OPERATOR(pg_catalog.=) 0 THEN
        IF pg_catalog.strpos(v_rows, '{few}') OPERATOR(pg_catalog.>) 0 THEN
            IF pg_catalog.current_setting('session_replication_role') OPERATOR(pg_catalog.=) 'replica' THEN
                RETURN false;  -- another trigger logs what these write
            END IF;
            v_is_bulk := pg_catalog.starts_with(v_rows, pg_catalog.statement_timestamp()::pg_catalog.text);
            v_fires := pg_catalog.strpos(v_rows, '{next}') OPERATOR(pg_catalog.=) 0;
        END IF;
        v_rows := pg_catalog.set_config('rollup_engine.noted_rows_{id}',
            CASE WHEN v_rows OPERATOR(pg_catalog.=) '' THEN pg_catalog.statement_timestamp()::pg_catalog.text ELSE v_rows END OPERATOR(pg_catalog.||) '*', true);
        INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, is_bulk)
        VALUES ({id}, pg_catalog.date_bin({grain}, p_time, {origin}), pg_catalog.date_bin({grain}, p_time, {origin}) OPERATOR(pg_catalog.+) {grain}, v_is_bulk);
        RETURN v_fires;
    END IF;$sql$ ELSE $sql$
    v_rows := pg_catalog.concat('0', pg_catalog.current_setting('rollup_engine.keyed_rows_{id}', true));
    IF v_rows::pg_catalog.int4 OPERATOR(pg_catalog.<) {most} THEN
        IF pg_catalog.current_setting('session_replication_role') OPERATOR(pg_catalog.=) 'replica' THEN
            RETURN false;
        END IF;
        v_rows := pg_catalog.set_config('rollup_engine.keyed_rows_{id}', (v_rows::pg_catalog.int4 OPERATOR(pg_catalog.+) 1)::pg_catalog.text, true);
        RETURN true;
    END IF;$sql$ END, rollup_engine.insert_marks(p_source))
$$;
COMMENT ON FUNCTION rollup_engine.first_rows_sql(rollup_engine.source) IS 'Body that logs the first rows of a source behind the tail, or has a trigger log them.';

CREATE OR REPLACE FUNCTION rollup_engine.note_function_sql(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    -- It sets no search_path, which would take longer than all the rest; so each name and operator has its schema,
    -- and nothing looks one up (NULLIF, IN and the short form of CASE do). From and to are the edges of what was
    -- noted last, as numbers, which are read faster than times.
    SELECT rollup_engine.fill($sql$
CREATE OR REPLACE FUNCTION rollup_engine.note_{id}(p_time timestamptz) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
AS {body}
$sql$, jsonb_build_object('id', p_source.id, 'body', quote_literal(rollup_engine.fill($body$
DECLARE
    v_from pg_catalog.text;
    v_to pg_catalog.text;
    v_rows pg_catalog.text;
    v_is_bulk pg_catalog.bool;
    v_fires pg_catalog.bool := false;
    v_list pg_catalog.text;
    v_low pg_catalog.numeric;
    v_high pg_catalog.numeric;
    v_hull pg_catalog.numeric[];
BEGIN
    v_from := pg_catalog.current_setting('rollup_engine.noted_from_{id}', true);
    IF v_from OPERATOR(pg_catalog.<>) '' THEN
        IF pg_catalog.date_part('epoch', p_time) OPERATOR(pg_catalog.>=) v_from::pg_catalog.float8
            AND pg_catalog.date_part('epoch', p_time) OPERATOR(pg_catalog.<) pg_catalog.current_setting('rollup_engine.noted_to_{id}')::pg_catalog.float8
        THEN
            RETURN false;
        END IF;
    END IF;
    IF NOT (p_time OPERATOR(pg_catalog.>=) {first} AND p_time OPERATOR(pg_catalog.<) {end}) THEN
        RETURN false;
    END IF;
    {first_rows}
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
    v_to := pg_catalog.current_setting('rollup_engine.noted_to_{id}', true);
    IF v_to OPERATOR(pg_catalog.=) v_low::pg_catalog.text THEN
        v_low := v_from;
    ELSIF v_from OPERATOR(pg_catalog.=) v_high::pg_catalog.text THEN
        v_high := v_to;
    END IF;
    IF pg_catalog.octet_length(v_list) OPERATOR(pg_catalog.>) 2000 THEN
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
    IF v_low OPERATOR(pg_catalog.<) -7e9 OR v_high OPERATOR(pg_catalog.>) 7e9 THEN
        v_low := 'NaN';  -- a float tells microseconds apart in the years between
        v_high := v_low;
    END IF;
    v_to := pg_catalog.set_config('rollup_engine.noted_from_{id}', v_low::pg_catalog.text, true);
    v_to := pg_catalog.set_config('rollup_engine.noted_to_{id}', v_high::pg_catalog.text, true);
    RETURN false;
END
$body$, jsonb_set(rollup_engine.insert_marks(p_source), '{first_rows}', to_jsonb(rollup_engine.first_rows_sql(p_source)))))))
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
    PERFORM set_config(n, '', true)
    FROM unnest(ARRAY[v_noted, v_hull_name, format('rollup_engine.noted_from_%s', p_source_id), format('rollup_engine.noted_to_%s', p_source_id)]) AS n;
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
AS {body}
$sql$, jsonb_build_object('id', p_source.id, 'body', quote_literal(rollup_engine.fill($body$
DECLARE
    v_seen constant text := current_setting('rollup_engine.logged_{id}', true);
    v_bin timestamptz;
    v_text text;
BEGIN
    IF p_time >= {first} AND p_time < {end} THEN
        v_bin := date_bin({grain}, p_time, {origin});
        v_text := concat(' ', extract(epoch FROM v_bin), ' ');
        IF strpos(v_seen, v_text) > 0 AND NOT rollup_engine.counts_parts() THEN
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
