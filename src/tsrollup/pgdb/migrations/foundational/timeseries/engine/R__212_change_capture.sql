-- Which trigger captures the inserts of a source that is partitioned by its time: a row trigger once it is
-- written at its tail, a statement trigger again when it is loaded behind it. The new triggers come in one
-- transaction, the old ones go in a later one: in between both log, which is right.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.note_capture(p_source_id integer, p_by_row boolean) RETURNS rollup_engine.source
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    UPDATE rollup_engine.source SET inserts_by_row = p_by_row WHERE id = p_source_id RETURNING * INTO v_source;
    PERFORM rollup_engine.write_missing_tails();
    PERFORM rollup_engine.write_capture(v_source);
    RETURN v_source;
END
$$;
COMMENT ON FUNCTION rollup_engine.note_capture(integer, boolean) IS 'Has a source want the one kind of trigger or the other, and its functions serve both.';

CREATE OR REPLACE FUNCTION rollup_engine.change_capture(p_source_id integer, p_by_row boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    -- What was changed before is looked at first; what comes is no doubt.
    PERFORM rollup_engine.look_at_source(p_source_id);
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    -- Nobody writes meanwhile, through whichever of them.
    PERFORM rollup_engine.lock_out(f.member, 'SHARE ROW EXCLUSIVE') FROM rollup_engine.source_family(v_source.relation) AS f (member);
    v_source := rollup_engine.note_capture(p_source_id, p_by_row);
    PERFORM rollup_engine.add_triggers(v_source);
    PERFORM rollup_engine.look_at_source(p_source_id);
END
$$;
COMMENT ON FUNCTION rollup_engine.change_capture(integer, boolean) IS
'Adds the triggers by which a source is to capture what is inserted, beside those that it has; lock_not_available when somebody uses it.';

CREATE OR REPLACE FUNCTION rollup_engine.is_used_for_long(p_source rollup_engine.source, p_by_readers boolean) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_family constant oid[] := ARRAY(SELECT rollup_engine.source_family(p_source.relation));
    v_users text[];
BEGIN
    FOR i IN 1 .. 2 LOOP
        v_users := ARRAY(
            SELECT l.virtualtransaction
            FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
            WHERE l.relation = ANY (v_family) AND l.pid IS DISTINCT FROM pg_backend_pid()
                AND (p_by_readers OR l.mode NOT IN ('AccessShareLock', 'RowShareLock')) AND (i = 1 OR l.virtualtransaction = ANY (v_users)));
        PERFORM pg_sleep(0.01) WHERE i = 1 AND v_users <> '{}';
    END LOOP;
    RETURN v_users <> '{}';
END
$$;
COMMENT ON FUNCTION rollup_engine.is_used_for_long(rollup_engine.source, boolean) IS
'Whether somebody writes a source, or also reads it, whose transaction lasts: others should not queue behind who waits for that one.';

CREATE OR REPLACE FUNCTION rollup_engine.captures_to_change() RETURNS TABLE (source_id integer, by_row boolean, is_changed boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT s.id, s.wanted, s.wanted = s.is_by_row
        FROM (
            SELECT id, relation, inserts_by_row, coalesce(inserts_by_row, false) AS is_by_row,
                CASE WHEN bulk_at > clock_timestamp() - interval '1 hour' THEN false
                    WHEN inserts_by_row THEN true
                    WHEN id IN (SELECT t.source_id FROM rollup_engine.tail AS t WHERE NOT isempty(t.range)) THEN rollup_engine.is_time_key(relation, time_column, time_unit)
                    ELSE false END AS wanted
            FROM rollup_engine.source WHERE change_tracking = 'trigger'
            OFFSET 0
        ) AS s
        -- What is quiet and has no strays has no triggers but those that it wants.
        WHERE CASE WHEN s.wanted <> s.is_by_row OR s.inserts_by_row IS NOT NULL AND s.id NOT IN (SELECT q.source_id FROM rollup_engine.quiet_source AS q WHERE NOT q.has_strays)
            THEN rollup_engine.is_relation(s.relation) END
        ORDER BY s.id;
END
$$;
COMMENT ON FUNCTION rollup_engine.captures_to_change() IS
'Sources that want another trigger for what is inserted: a row trigger once they are written at their tail, a statement trigger for an hour after they were loaded behind it; and those that may have triggers that they want no more.';

CREATE OR REPLACE FUNCTION rollup_engine.change_next_capture(p_after integer) RETURNS integer
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_change record;
    v_source rollup_engine.source;
BEGIN
    FOR v_change IN SELECT * FROM rollup_engine.captures_to_change() WHERE source_id > p_after ORDER BY source_id LOOP
        SELECT * INTO v_source FROM rollup_engine.source WHERE id = v_change.source_id;
        CONTINUE WHEN NOT pg_has_role((SELECT relowner FROM pg_class WHERE oid = v_source.relation), 'USAGE')
            OR rollup_engine.is_used_for_long(v_source, v_change.is_changed);
        BEGIN
            IF v_change.is_changed THEN
                PERFORM rollup_engine.drop_stray_triggers(v_source, true);
            ELSE
                PERFORM rollup_engine.change_capture(v_source.id, v_change.by_row);
            END IF;
            RETURN v_source.id;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- somebody uses it; the next run tries again
        END;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.change_next_capture(integer) IS
'Has the next source, by its number, capture what is inserted by the better trigger, as far as the caller may; NULL when there is none. Its tables are locked until the end of the transaction.';

RESET ROLE;
