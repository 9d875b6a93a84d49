-- Capture: statement triggers write the time ranges that a statement touched to
-- the change log, in the writer's own transaction. The log row becomes visible
-- in the same instant as the data it speaks of.
--
-- A capture function never fails a write: it computes its ranges in an
-- exception block that writes nothing, and on any error logs "everything".

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.few_rows() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 3;
COMMENT ON FUNCTION rollup_engine.few_rows() IS 'Of more rows behind the tail, in one statement, a statement trigger takes less time than a row trigger.';

-- MERGE ---------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.note_merge(p_source_id integer, p_context text, p_query text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Below the trigger's own line: who runs the statement, from the inside; nobody where it is the client's.
    v_callers constant text := substr(p_context, strpos(p_context || chr(10), chr(10)) + 1);
BEGIN
    -- The statement itself, unless it was prepared, or is in a function that does not show it.
    -- It may run when a cursor is read.
    IF (CASE v_callers WHEN '' THEN coalesce(p_query ~* 'merge|execute|[[:<:]](fetch|move)[[:>:]]', true)
        ELSE v_callers NOT LIKE 'SQL statement "%' OR v_callers ~* 'merge|execute' END)
    THEN
        PERFORM set_config('rollup_engine.merging_' || p_source_id, 'on', true);
        -- Late rows are counted by the part of a transaction that logged them: another one logs its own.
        IF current_setting('rollup_engine.logged_' || p_source_id, true) <> '' THEN
            PERFORM set_config('rollup_engine.logged_' || p_source_id, '', true)
            WHERE EXISTS (SELECT FROM silver.rollup_config WHERE source_id = p_source_id AND sealed_before > '-infinity');
        END IF;
    ELSIF v_callers = '' THEN  -- others may run inside a MERGE
        PERFORM set_config('rollup_engine.merging_' || p_source_id, 'off', true);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.note_merge(integer, text, text) IS
'Switches the row triggers for MERGE on before a statement that may be one, by PG_CONTEXT and current_query() in its trigger; off before one that is not.';

CREATE OR REPLACE FUNCTION rollup_engine.counts_parts() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Late rows are counted by the part of a transaction that logged them. Parallel workers of logical replication make one of
    -- each savepoint; other workers make none.
    IF current_setting('rollup_engine.counts_parts', true) <> '' IS NOT TRUE THEN
        PERFORM set_config('rollup_engine.counts_parts', (
            EXISTS (SELECT FROM rollup_engine.retention)
            AND NOT EXISTS (SELECT FROM pg_stat_subscription AS s WHERE s.pid = pg_backend_pid() AND to_jsonb(s) ->> 'leader_pid' IS NULL))::text, true);
    END IF;
    RETURN current_setting('rollup_engine.counts_parts');
END
$$;
COMMENT ON FUNCTION rollup_engine.counts_parts() IS 'Whether the row triggers of a replica log again what was logged before in the same transaction, since something may be sealed there and it may have parts.';

CREATE OR REPLACE FUNCTION rollup_engine.knows_keys_of_merge(p_source_id integer) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Without a trigger before INSERT, MERGE may show an inserted row in an updated one's place: a time that
    -- changed is logged by row, a key is not. An old snapshot does not know of that trigger.
    RETURN current_setting('rollup_engine.merging_' || p_source_id, true) IS DISTINCT FROM 'on'
        OR current_setting('transaction_isolation') = 'read committed' AND NOT (SELECT inserts_by_row FROM rollup_engine.source WHERE id = p_source_id);
END
$$;
COMMENT ON FUNCTION rollup_engine.knows_keys_of_merge(integer) IS 'Whether the rows that an UPDATE trigger is shown hold the keys that were stored.';

-- The capture function of a source ----------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.capture_keys_sql(p_source rollup_engine.source, p_rows text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The bucket of now is stale anyway: then a statement pays for one comparison. Of many rows, the first
    -- tell whether it pays to look at all. Values are told apart as they are, which is faster than as texts;
    -- the times of each only where all of them in all of the time are more groups than half of the rows.
    SELECT rollup_engine.fill($sql$
        IF v_is_late AND v_rows > rollup_engine.most_keys() THEN
            SELECT count(DISTINCT key) <= 10 AND v_rows <= 10 * rollup_engine.most_keys() INTO v_is_late
            FROM (SELECT {key} AS key FROM {rows} LIMIT 100) AS first_rows;
        END IF;
        IF v_is_late AND v_rows = 1 THEN
            v_keys := ARRAY(SELECT {key} FROM {rows});
        ELSIF v_is_late AND (v_rows > rollup_engine.most_keys() OR v_high - v_low <= least(greatest(v_rows / 4, 1), 4) * v_grain) THEN
            v_keys := ARRAY(SELECT {key} FROM (SELECT DISTINCT {column} FROM {rows}) AS told);
        END IF;
        IF v_is_late AND v_rows BETWEEN 2 AND rollup_engine.most_keys() AND v_high - v_low > v_grain
            AND (v_keys IS NULL OR 2 * cardinality(v_keys) * (v_high - v_low) > v_rows * v_grain)
        THEN
            SELECT array_agg(tsrollup_low), array_agg(tsrollup_high), array_agg({key}), sum(tsrollup_high - tsrollup_low) > v_rows * v_grain
            INTO v_lows, v_highs, v_keys, v_is_late
            FROM (
                SELECT {column}, date_bin(v_grain, min({time}), v_origin) AS tsrollup_low, date_bin(v_grain, max({time}), v_origin) + v_grain AS tsrollup_high
                FROM {rows} WHERE {is_in} GROUP BY 1
            ) AS told;
            IF v_is_late AND cardinality(v_keys) > 1 THEN  -- more groups than rows
                SELECT array_agg(tsrollup_bin), array_agg({key}), NULL INTO v_lows, v_keys, v_highs
                FROM (SELECT DISTINCT date_bin(v_grain, {time}, v_origin) AS tsrollup_bin, {column} FROM {rows} WHERE {is_in}) AS told;
            END IF;
        END IF;
        IF array_position(v_keys, NULL) > 0 OR v_rows > rollup_engine.most_keys() AND cardinality(v_keys) > least(10, rollup_engine.most_keys()) THEN
            v_keys := NULL;
            v_lows := NULL;
        ELSIF cardinality(v_keys) = 1 OR 2 * cardinality(v_keys) * (v_high - v_low) <= v_rows * v_grain THEN
            v_lows := NULL;
        ELSIF v_lows IS NOT NULL THEN
            v_low := NULL;
        END IF;
    $sql$,
        jsonb_build_object('rows', p_rows, 'key', rollup_engine.captured_key(p_source), 'column', quote_ident(p_source.key_column)
            || (SELECT CASE WHEN attcollation <> 0 THEN format(' COLLATE "C" AS %I', attname) ELSE '' END FROM pg_attribute WHERE attrelid = p_source.relation AND attname = p_source.key_column),
            'is_in', rollup_engine.in_calendar(t.time), 'time', t.time))
    FROM rollup_engine.time_expression(p_source.time_column, p_source.time_type, p_source.time_unit) AS t (time)
    WHERE rollup_engine.captured_key(p_source) IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.capture_keys_sql(rollup_engine.source, text) IS
'Body that notes the keys of transition rows: for all that was touched, or, of few rows, for each grain; NULL where none are captured.';

CREATE OR REPLACE FUNCTION rollup_engine.capture_ranges_sql(p_source rollup_engine.source, p_rows text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    -- Few buckets between the lowest and the highest time, or a hundred rows for each:
    -- their hull is cheaper than DISTINCT.
    SELECT rollup_engine.fill($sql$
        SELECT count(*), min(ts), max(ts), {is_late}, {is_bulk} INTO v_rows, v_low, v_high, v_is_late, v_is_bulk FROM (SELECT {time} AS ts FROM {rows}) AS changed;
        -- In an older snapshot, who writes may read before the tail was there.
        IF tstzrange(v_low, v_high, '[]') <@ rollup_engine.tail_{id}() AND current_setting('transaction_isolation') = 'read committed' THEN
            RETURN NULL;
        END IF;
        IF NOT ({low_is_in} AND {high_is_in}) THEN
            SELECT count(*), min(ts), max(ts) INTO v_rows, v_low, v_high
            FROM (SELECT {time} AS ts FROM {rows}) AS changed
            WHERE {is_in};
        END IF;
        v_low := date_bin(v_grain, v_low, v_origin);
        v_high := date_bin(v_grain, v_high, v_origin) + v_grain;
        {keys}
        IF v_lows IS NULL AND v_high - v_low > greatest(16, v_rows / 100) * v_grain THEN
            LOOP
                SELECT range_agg(tstzrange(bin, bin + v_grain)) INTO v_changed
                FROM (
                    SELECT DISTINCT date_bin(v_grain, ts, v_origin) AS bin
                    FROM (SELECT {time} AS ts FROM {rows}) AS changed
                    WHERE {is_in}
                ) AS bins;
                EXIT WHEN (SELECT count(*) FROM unnest(v_changed)) <= 10000;
                v_grain := 10 * v_grain;
            END LOOP;
            v_low := NULL;
        END IF;
    $sql$,
        jsonb_build_object('id', p_source.id, 'rows', p_rows, 'time', rollup_engine.time_expression(p_source.time_column, p_source.time_type, p_source.time_unit),
            'is_in', rollup_engine.in_calendar('ts'), 'keys', coalesce(rollup_engine.capture_keys_sql(p_source, p_rows), ''),
            'is_late', CASE WHEN rollup_engine.captured_key(p_source) IS NULL THEN 'false' ELSE 'min(ts) < date_bin(v_grain, now(), v_origin)'
                || CASE WHEN p_source.inserts_by_row IS NULL THEN '' ELSE format(' AND (TG_OP <> ''UPDATE'' OR rollup_engine.knows_keys_of_merge(%s))', p_source.id) END END,
            'is_bulk', CASE WHEN rollup_engine.is_time_key(p_source.relation, p_source.time_column, p_source.time_unit)
                THEN format('TG_OP = ''INSERT'' AND count(*) > %s AND max(ts) < lower(rollup_engine.tail_%s())', rollup_engine.few_rows(), p_source.id) ELSE 'NULL' END,
            'low_is_in', rollup_engine.in_calendar('v_low'), 'high_is_in', rollup_engine.in_calendar('v_high')))
$$;
COMMENT ON FUNCTION rollup_engine.capture_ranges_sql(rollup_engine.source, text) IS 'Body that coalesces the times of transition rows at the source''s grain.';

CREATE OR REPLACE FUNCTION rollup_engine.capture_row_sql(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    -- What was logged for a row is not logged again for the next one: the setting lives as long as the
    -- row of the log does, until the end of the transaction, a rollback to a savepoint, or a drain.
    SELECT rollup_engine.fill($sql$
        IF TG_OP <> 'INSERT' THEN v_low := {old}; END IF;
        IF TG_OP <> 'DELETE' THEN v_high := {new}; END IF;
        IF TG_OP = 'UPDATE' AND TG_NARGS = 0 THEN
            PERFORM set_config('rollup_engine.moving_{id}', 'on', true);
        END IF;
        v_seen := current_setting('rollup_engine.logged_{id}', true);
        v_bins := CASE WHEN TG_WHEN = 'BEFORE' AND TG_OP <> 'DELETE' AND {is_generated}
            THEN ' everything '  -- its time is computed after this trigger
            ELSE concat(' ', extract(epoch FROM date_bin(v_grain, v_low, v_origin)), ' ', extract(epoch FROM date_bin(v_grain, v_high, v_origin)), ' ') END;
        IF strpos(v_seen, v_bins) > 0 AND NOT (TG_NARGS > 0 AND rollup_engine.counts_parts()) THEN
            RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
        ELSIF v_bins = ' everything ' THEN
            v_changed := rollup_engine.everything();
        ELSE
            SELECT range_agg(tstzrange(bin, bin + v_grain)) INTO v_changed
            FROM (
                SELECT date_bin(v_grain, ts, v_origin) AS bin FROM (VALUES (v_low), (v_high)) AS moved (ts)
                WHERE {is_in}
            ) AS bins;
        END IF;
        v_low := NULL;
    $sql$,
        jsonb_build_object('id', p_source.id, 'is_in', rollup_engine.in_calendar('ts'),
            'old', rollup_engine.time_expression(p_source.time_column, p_source.time_type, p_source.time_unit, 'OLD.'),
            'new', rollup_engine.time_expression(p_source.time_column, p_source.time_type, p_source.time_unit, 'NEW.'),
            'is_generated', rollup_engine.has_generated_time(p_source)))
$$;
COMMENT ON FUNCTION rollup_engine.capture_row_sql(rollup_engine.source) IS 'Body of the row triggers: the grain of the time before and after.';

CREATE OR REPLACE FUNCTION rollup_engine.capture_inserted_key_sql(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The row itself, which was not noted. The bucket of now is stale anyway.
    SELECT rollup_engine.fill($sql$
        BEGIN
            v_low := {new};
            v_key := {key};
        EXCEPTION WHEN OTHERS THEN  -- it was renamed
            v_rows := 0;
        END;
        IF {is_in} THEN
            INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, keys, is_bulk)
            VALUES ({id}, date_bin(v_grain, v_low, v_origin), date_bin(v_grain, v_low, v_origin) + v_grain,
                CASE WHEN v_key IS NOT NULL AND v_low < coalesce(lower(rollup_engine.tail_{id}()), date_bin(v_grain, now(), v_origin)) THEN ARRAY[v_key] END,
                v_rows > {few});
        END IF;
    $sql$, jsonb_build_object('id', p_source.id, 'is_in', rollup_engine.in_calendar('v_low'), 'key', rollup_engine.captured_key(p_source, 'NEW.'),
        'few', rollup_engine.few_rows(), 'new', rollup_engine.time_expression(p_source.time_column, p_source.time_type, p_source.time_unit, 'NEW.')))
    WHERE rollup_engine.captured_key(p_source) IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.capture_inserted_key_sql(rollup_engine.source) IS 'Body that logs an inserted row with its key; NULL where none is captured.';

CREATE OR REPLACE FUNCTION rollup_engine.capture_inserted_sql(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill(CASE WHEN rollup_engine.captured_key(p_source) IS NULL THEN $sql$
        v_rows := strpos(current_setting('rollup_engine.noted_rows_{id}', true), {marks});
        v_seen := set_config('rollup_engine.noted_rows_{id}', '', true);
    $sql$ ELSE $sql$
        v_rows := concat('0', current_setting('rollup_engine.keyed_rows_{id}', true));
        v_seen := set_config('rollup_engine.keyed_rows_{id}', greatest(v_rows - 1, 0)::text, true);
        {keyed}
    $sql$ END || $sql$
        IF v_rows > 0 IS NOT TRUE THEN  -- RESET ALL, inside of the statement, has lost what was noted
            INSERT INTO rollup_engine.change_log (source_id, from_time, to_time) VALUES ({id}, '-infinity', 'infinity');
        END IF;
        IF current_setting('rollup_engine.noted_from_{id}', true) <> '' THEN
            PERFORM rollup_engine.log_noted({id});
        END IF;
    $sql$, jsonb_build_object('id', p_source.id, 'marks', quote_literal(repeat('*', rollup_engine.few_rows() + 1)),
        'keyed', rollup_engine.capture_inserted_key_sql(p_source)))
$$;
COMMENT ON FUNCTION rollup_engine.capture_inserted_sql(rollup_engine.source) IS 'Body of the row trigger for inserts.';

CREATE OR REPLACE FUNCTION rollup_engine.capture_function_sql(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    SELECT rollup_engine.fill($sql$
CREATE OR REPLACE FUNCTION rollup_engine.capture_{id}() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS {body}
$sql$, jsonb_build_object('id', p_source.id, 'body', quote_literal(rollup_engine.fill($body$
#variable_conflict use_column
DECLARE
    -- Literals of their types, or each call would read their texts.
    v_grain interval := interval {grain};
    v_origin CONSTANT timestamptz := timestamptz '2000-01-03 00:00:00+00';
    v_rows bigint;
    v_low timestamptz;
    v_high timestamptz;
    v_changed tstzmultirange;
    v_is_late boolean;
    v_keys text[];
    v_key text;
    v_is_bulk boolean;
    v_lows timestamptz[];
    v_highs timestamptz[];
    v_seen text;
    v_bins text;
BEGIN
    IF TG_LEVEL = 'ROW' AND TG_WHEN = 'AFTER' AND TG_NARGS = 0 THEN
{inserted}
        RETURN NULL;
    ELSIF TG_WHEN = 'BEFORE' AND TG_LEVEL = 'STATEMENT' THEN
        GET DIAGNOSTICS v_seen = PG_CONTEXT;
        PERFORM rollup_engine.note_merge({id}, v_seen, current_query());
        RETURN NULL;
    END IF;
    BEGIN
        IF TG_LEVEL = 'ROW' THEN
{row}
        ELSIF TG_OP = 'TRUNCATE' THEN
            SELECT range_agg(tstzrange(from_time, to_time)) INTO v_changed
            FROM rollup_engine.source_partition WHERE source_id = {id} AND partition = TG_RELID;
            v_changed := coalesce(v_changed, rollup_engine.everything());
        ELSIF TG_OP = 'UPDATE' THEN
{updated}
        ELSE
{changed}
        END IF;
    EXCEPTION WHEN OTHERS THEN
        v_low := NULL;
        v_lows := NULL;
        v_keys := NULL;
        v_changed := rollup_engine.everything();
    END;
    -- Outside of the block above, whose subtransaction is not the one that wrote the rows: the drain
    -- counts late ones by it.
    IF v_low IS NOT NULL THEN
        INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, keys, is_bulk) VALUES ({id}, v_low, v_high, v_keys, v_is_bulk);
    ELSIF v_lows IS NOT NULL THEN
        INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, keys, is_bulk)
        SELECT {id}, low, coalesce(high, low + v_grain), array_agg(key), v_is_bulk FROM unnest(v_lows, v_highs, v_keys) AS u (low, high, key) GROUP BY low, high;
    ELSIF v_changed IS NOT NULL THEN
        INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, keys, is_bulk)
        SELECT {id}, lower(r), upper(r), v_keys, v_is_bulk FROM unnest(v_changed) AS r;
    END IF;
    IF v_bins IS NOT NULL THEN
        PERFORM set_config('rollup_engine.logged_{id}', left(concat(v_bins, v_seen), 400), true);
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$body$, jsonb_build_object(
        'id', p_source.id,
        -- In hours, which no time zone makes longer or shorter.
        'grain', quote_literal(make_interval(secs => extract(epoch FROM p_source.grain)::double precision)),
        'inserted', CASE WHEN p_source.inserts_by_row IS NOT NULL THEN rollup_engine.capture_inserted_sql(p_source) ELSE '' END,
        'row', rollup_engine.capture_row_sql(p_source),
        'updated', rollup_engine.capture_ranges_sql(p_source, '(TABLE changed_rows UNION ALL TABLE new_rows) AS u'),
        'changed', rollup_engine.capture_ranges_sql(p_source, 'changed_rows'))))))
$$;
COMMENT ON FUNCTION rollup_engine.capture_function_sql(rollup_engine.source) IS 'Text of the trigger function of a source.';

RESET ROLE;
