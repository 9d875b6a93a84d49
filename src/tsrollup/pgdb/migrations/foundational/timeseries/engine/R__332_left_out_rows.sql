-- What a dump or a restore has left out of the tables of rollups, or of what was stale of them
-- (--exclude-table-data, a COPY that failed): nothing else tells. Asked until the first run in a database.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.has_rows(p_relation regclass, p_condition text DEFAULT 'true', p_within tstzrange DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET row_security = off
AS $$
DECLARE
    v_found boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %s)', p_relation, p_condition) INTO v_found USING lower(p_within), upper(p_within);
    RETURN v_found;
EXCEPTION WHEN lock_not_available THEN
    RAISE;
WHEN OTHERS THEN
    RETURN true;  -- a column is gone, or a row has an expression fail
END
$$;
COMMENT ON FUNCTION rollup_engine.has_rows(regclass, text, tstzrange) IS 'Whether a table has, or may have, a row where the condition holds, in which $1 and $2 are the ends of the range.';

CREATE OR REPLACE FUNCTION rollup_engine.starting_in(p_rollup silver.rollup_config, p_from timestamptz, p_to timestamptz) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_end constant timestamptz := rollup_engine.bucket_ceil(p_rollup, least(p_to, upper(rollup_engine.calendar())));
BEGIN
    RETURN tstzmultirange(tstzrange(least(rollup_engine.bucket_ceil(p_rollup, greatest(p_from, lower(rollup_engine.calendar()))), v_end), v_end));
END
$$;
COMMENT ON FUNCTION rollup_engine.starting_in(silver.rollup_config, timestamptz, timestamptz) IS 'The time of the buckets of a rollup that start in a range.';

CREATE OR REPLACE FUNCTION rollup_engine.left_out(p_source rollup_engine.source)
RETURNS TABLE (rollup_id integer, partition regclass, from_time timestamptz, to_time timestamptz, was_sealed boolean)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    r silver.rollup_config;
    v_rows text;
    v_newest timestamptz;
    v_open tstzmultirange;
    v_is_noted constant boolean := rollup_engine.is_noted_here(p_source);
BEGIN
    -- Without its time nobody can look, and no drain notes that it has, which is told of by itself; so where it is gone.
    IF rollup_engine.is_gone(p_source) OR p_source.change_tracking = 'trigger' AND EXISTS (
        SELECT FROM rollup_engine.resolved_columns(p_source) WHERE noted_name = p_source.time_column AND current_name IS NULL)
    THEN
        RETURN;
    END IF;
    -- Once a run was here, of what was out of reach then.
    FOR r IN SELECT * FROM silver.rollup_config WHERE source_id = p_source.id AND (NOT v_is_noted OR missed_changes) ORDER BY depth, id LOOP
        CONTINUE WHEN (rollup_engine.has_buckets(r.target_table) AND rollup_engine.is_in_reach(r.source_table) AND NOT rollup_engine.has_lost_zone(r)) IS NOT TRUE;  -- which is told of by itself
        v_rows := rollup_engine.time_condition(r, '$1', '$2') || rollup_engine.row_filter(r);
        v_open := tstzmultirange(tstzrange(r.sealed_before, NULL)) - rollup_engine.stale_set(r.id);
        RETURN QUERY
            SELECT r.id, p.partition, p.from_time, p.to_time, p.held
            FROM rollup_engine.rollup_partition AS p
            WHERE p.rollup_id = r.id AND rollup_engine.is_relation(p.partition) AND NOT rollup_engine.has_rows(p.partition)
                AND (p.held OR EXISTS (
                    SELECT FROM unnest(rollup_engine.starting_in(r, p.from_time, p.to_time) * v_open) AS u (part)
                    WHERE rollup_engine.has_rows(r.source_table, v_rows, u.part)));
        -- Behind its newest bucket all is stale: else that is what was left out, wherever. Not with a window, behind which rows come late.
        BEGIN
            EXECUTE format('SELECT max(bucket) FROM %s', r.target_table) INTO v_newest;
        EXCEPTION WHEN undefined_column THEN
            CONTINUE;  -- likewise
        END;
        RETURN QUERY
            SELECT r.id, r.target_table, timestamptz '-infinity', timestamptz 'infinity', false
            FROM unnest(rollup_engine.starting_in(r, v_newest + interval '1 microsecond', 'infinity') * v_open * rollup_engine.told_by_source(p_source.id)) AS u (part)
            WHERE rollup_engine.has_rows(r.source_table, v_rows, u.part)
            LIMIT 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.left_out(rollup_engine.source) IS
'Partitions of rollups that are empty in a database where no run has been since it was restored, although what they are computed from has rows, or although they held some when they were sealed; and rollups that lack what was stale of them.';

CREATE OR REPLACE FUNCTION rollup_engine.take_in_left_out(p_source rollup_engine.source) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_name constant text := p_source.relation;
    v_part record;
    r silver.rollup_config;
BEGIN
    -- What is out of reach is looked at when it is in reach again. Every drain comes by here.
    IF NOT rollup_engine.is_noted_here(p_source) THEN
        UPDATE silver.rollup_config SET missed_changes = true WHERE source_id = p_source.id AND rollup_engine.is_in_reach(target_table) = false;
        -- Or when its zone is known again: a window from the first partition on that came without rows.
        UPDATE rollup_engine.zone_rules AS z
        SET digest = '', missed_from = least(z.missed_from, (
            SELECT min(p.from_time) FROM rollup_engine.rollup_partition AS p
            WHERE p.rollup_id = z.rollup_id AND rollup_engine.is_relation(p.partition) AND NOT rollup_engine.has_rows(p.partition)))
        FROM silver.rollup_config AS c
        WHERE c.source_id = p_source.id AND z.rollup_id = c.id AND z.timezone = c.timezone AND rollup_engine.has_lost_zone(c);
    END IF;
    FOR v_part IN SELECT * FROM rollup_engine.left_out(p_source) LOOP
        SELECT * INTO r FROM silver.rollup_config WHERE id = v_part.rollup_id;
        PERFORM rollup_engine.mark_rollups(ARRAY(SELECT rollup_engine.with_descendants(r.id)),
            tstzmultirange(tstzrange(v_part.from_time, v_part.to_time)) * tstzmultirange(tstzrange(r.sealed_before, NULL)), p_clip => true);
        IF v_part.was_sealed THEN
            INSERT INTO silver.error_log (target_table, error_code, error_message, detail, hint)
            VALUES (r.target_table::text, 'TR007', format('rows of %s were not restored, and cannot be computed again: they were sealed', v_part.partition),
                format('from %s to %s', v_part.from_time, v_part.to_time), format('restore the data of %s from a dump that has it', v_part.partition));
            UPDATE rollup_engine.rollup_partition SET held = false WHERE rollup_id = r.id AND partition = v_part.partition;
        END IF;
    END LOOP;
    PERFORM rollup_engine.fail_if_renamed(p_source.id, v_name);
END
$$;
COMMENT ON FUNCTION rollup_engine.take_in_left_out(rollup_engine.source) IS 'Has what a restore has left out computed anew, and reports what cannot be.';

RESET ROLE;
