-- The drain: what the change log and the partitions say becomes stale ranges of every rollup that
-- descends from the source.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.source_lock_holder(p_source_id integer) RETURNS integer
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(pid) FROM rollup_engine.advisory_locks() WHERE key = rollup_engine.source_lock_key(p_source_id)
$$;
COMMENT ON FUNCTION rollup_engine.source_lock_holder(integer) IS 'The other session that keeps drains of a source out, NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.source_lock_prepared(p_source_id integer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(rollup_engine.prepared_name(virtualtransaction)) FROM rollup_engine.advisory_locks()
    WHERE pid IS NULL AND key = rollup_engine.source_lock_key(p_source_id)
$$;
COMMENT ON FUNCTION rollup_engine.source_lock_prepared(integer) IS 'The prepared transaction that keeps drains of a source out, NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.read_windows(p_source_id integer, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now constant timestamptz := CASE WHEN isfinite(p_now) THEN p_now ELSE now() END;
    v_tables regclass[];
BEGIN
    -- What lies ahead is no bucket to store; the window of a later run will hold it.
    PERFORM rollup_engine.mark_rollups(ARRAY[r.id], w.ranges * tstzmultirange(tstzrange(NULL, v_now, '[]')))
    FROM silver.rollup_config AS r CROSS JOIN LATERAL (SELECT rollup_engine.window_of(r.id) AS ranges) AS w
    WHERE r.source_id = p_source_id AND w.ranges IS NOT NULL
    ORDER BY r.id;
    -- NULL where it is gone.
    v_tables := (
        SELECT ARRAY(SELECT rollup_engine.tables_read(relation)) FROM rollup_engine.source WHERE id = p_source_id AND rollup_engine.is_relation(relation));
    UPDATE rollup_engine.source
    SET window_read_at = greatest(window_read_at, least(v_now, now())),
        tables_read = coalesce(v_tables, tables_read),
        names_read = ARRAY(SELECT unnest(names_read) UNION SELECT unnest(v_tables)::text)
    WHERE id = p_source_id;
END
$$;
COMMENT ON FUNCTION rollup_engine.read_windows(integer, timestamptz) IS 'Marks stale what the windows of a source have to have read again by now.';

CREATE OR REPLACE FUNCTION rollup_engine.note_border(p_source_id integer, p_writer xid8) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Each a row of its own: from the newest on, reads pass by none that is dead.
    DELETE FROM rollup_engine.log_border AS b
    WHERE b.source_id = p_source_id AND (b.writer <> p_writer OR b.noted_by IS DISTINCT FROM b.xmin);
    INSERT INTO rollup_engine.log_border (source_id, writer) VALUES (p_source_id, p_writer) ON CONFLICT DO NOTHING;
    UPDATE rollup_engine.log_border AS b SET noted_by = b.xmin WHERE b.source_id = p_source_id AND b.noted_by IS NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.note_border(integer, xid8) IS
'Notes that what transactions before that one logged of a source is settled; the caller has just taken it, in a snapshot for which they had all ended.';

-- That of 0.1.0 always looked at the catalogue.
DROP FUNCTION IF EXISTS rollup_engine.drain(integer, timestamptz);
CREATE OR REPLACE FUNCTION rollup_engine.drain(p_source_id integer, p_now timestamptz, p_is_quiet boolean DEFAULT false) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
    v_changed tstzmultirange := '{}';
    v_came oid[] := '{}';
    v_gone tstzmultirange := '{}';
    v_rewritten oid[];
    v_unwatched_since xid8;
    v_logged tstzmultirange;
    v_written tstzmultirange;
    v_whole tstzmultirange;
    v_keyed rollup_engine.keyed_range[];
    v_first_end timestamptz;
    v_writers xid[];
    v_unknown_age integer;
    v_border xid8;
    v_noted timestamptz;
    v_is_bulk boolean;
    v_is_copy boolean := false;
BEGIN
    IF NOT rollup_engine.try_lock_source(p_source_id) THEN
        RETURN false;
    END IF;
    IF NOT p_is_quiet THEN
        v_is_copy := rollup_engine.is_restored(s) OR EXISTS (SELECT FROM rollup_engine.log_border AS b WHERE b.source_id = s.id AND b.noted_by IS DISTINCT FROM b.xmin)
        FROM rollup_engine.source AS s WHERE s.id = p_source_id;
        v_rewritten := ARRAY(SELECT rollup_engine.rewritten_tables(p_source_id));
        PERFORM rollup_engine.absorb_shape(p_source_id);
    END IF;
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    -- A row trigger of this transaction logs again what is taken from the log here.
    PERFORM set_config(format('rollup_engine.logged_%s', p_source_id), '', true);
    IF NOT p_is_quiet THEN
        PERFORM rollup_engine.take_in_touched(p_source_id);
        SELECT changed, came, gone INTO v_changed, v_came, v_gone FROM rollup_engine.take_partition_changes(v_source);
    END IF;
    WITH moved AS (
        DELETE FROM rollup_engine.change_log WHERE source_id = p_source_id RETURNING from_time, to_time, keys, noted_at, is_bulk, is_found, xmin AS part
    ), united AS (
        SELECT from_time, to_time, array_agg(DISTINCT key COLLATE "C") AS keys FROM moved, unnest(keys) AS key GROUP BY from_time, to_time
    )
    -- A row of the log has the transaction, or the part of one, that wrote what it speaks of.
    SELECT range_agg(tstzrange(from_time, to_time)),
        range_agg(tstzrange(from_time, to_time)) FILTER (WHERE is_found IS NOT TRUE), min(to_time) FILTER (WHERE is_found IS NULL),
        array_agg(part) FILTER (WHERE is_found IS NULL AND from_time < (SELECT max(sealed_before) FROM silver.rollup_config WHERE source_id = p_source_id)),
        pg_snapshot_xmin(pg_current_snapshot()), min(noted_at),
        range_agg(tstzrange(from_time, to_time)) FILTER (WHERE keys IS NULL),
        (SELECT array_agg(ROW(from_time, to_time, keys)::rollup_engine.keyed_range) FROM united), bool_or(is_bulk),
        CASE WHEN bool_or(NOT is_found) THEN CASE WHEN v_is_copy THEN rollup_engine.before_all() ELSE rollup_engine.read_border(p_source_id) END END
    INTO v_logged, v_written, v_first_end, v_writers, v_border, v_noted, v_whole, v_keyed, v_is_bulk, v_unwatched_since FROM moved;
    -- What a restore brought has its transaction for a writer, in the log as in the source. One in parts may bring some after it said that it had ended.
    IF v_writers IS NOT NULL THEN
        v_unknown_age := CASE WHEN v_is_copy THEN age(pg_current_xact_id()::xid) + 1 ELSE rollup_engine.restored_age() END;
    END IF;
    IF EXISTS (SELECT FROM unnest(v_writers) AS w WHERE age(w) >= v_unknown_age) THEN
        v_writers := ARRAY(SELECT w FROM unnest(v_writers) AS w WHERE age(w) < v_unknown_age);
        v_unwatched_since := rollup_engine.before_all();
    END IF;
    -- What comes unseen is looked for from there on, once that ends.
    IF (v_logged IS NOT NULL OR v_is_copy) AND (p_is_quiet OR v_unwatched_since IS NOT NULL OR NOT rollup_engine.may_miss_late_rows(v_source)) THEN
        PERFORM rollup_engine.note_border(p_source_id, v_border);
    ELSIF v_is_copy AND rollup_engine.may_miss_late_rows(v_source) THEN
        PERFORM rollup_engine.note_border(p_source_id, rollup_engine.before_all());
    END IF;
    IF (v_writers IS NOT NULL OR v_came <> '{}' OR v_unwatched_since IS NOT NULL) AND v_source.change_tracking = 'trigger' THEN
        PERFORM rollup_engine.record_late_rows(v_source, coalesce(v_written, '{}') + v_changed, v_first_end,
            v_writers, v_came, v_gone, v_rewritten, v_unwatched_since);
    END IF;
    v_changed := v_changed + coalesce(v_whole, '{}');
    IF p_now IS NOT NULL AND v_source.change_tracking = 'window' THEN
        PERFORM rollup_engine.read_windows(p_source_id, p_now);
    END IF;
    IF NOT isempty(v_changed) OR v_keyed IS NOT NULL THEN
        PERFORM rollup_engine.mark_rollups(
            ARRAY(SELECT id FROM silver.rollup_config WHERE source_id = p_source_id), v_changed, false, coalesce(v_noted, statement_timestamp()), v_keyed);
    END IF;
    IF v_source.change_tracking = 'trigger' THEN
        UPDATE rollup_engine.source SET bulk_at = clock_timestamp()
        WHERE v_is_bulk AND id = p_source_id AND (bulk_at > clock_timestamp() - interval '5 minutes') IS NOT TRUE;
        PERFORM rollup_engine.move_tail(v_source, coalesce(v_logged, '{}'), p_now);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION rollup_engine.drain(integer, timestamptz, boolean) IS
'Moves the visible log rows of a source into stale ranges of every rollup that descends from it, and takes in what has changed in the catalogue, unless that is known to be quiet. False when another drain, or a registration, is at it.';

CREATE OR REPLACE FUNCTION rollup_engine.has_undrained(p_source_id integer) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM rollup_engine.change_log WHERE source_id = p_source_id)
        OR change_tracking = 'window' OR partitioning IS DISTINCT FROM rollup_engine.partition_fingerprint(relation)
    FROM rollup_engine.source WHERE id = p_source_id
$$;
COMMENT ON FUNCTION rollup_engine.has_undrained(integer) IS 'Whether there is anything for a drain to take in.';

RESET ROLE;
