-- Tables of a source that lack capture triggers, or whose triggers do not always fire: mended at the next
-- run, and what they hold is taken in.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- That of 0.1.0 took all for found.
DROP FUNCTION IF EXISTS rollup_engine.log_extent(integer, regclass, timestamptz, timestamptz);
CREATE OR REPLACE FUNCTION rollup_engine.log_extent(p_source_id integer, p_member regclass, p_from timestamptz, p_to timestamptz, p_was_watched boolean) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A drain that knew it had its rows stored: some may be gone since, others late.
    INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, is_found)
    SELECT s.id, lower(r), upper(r), NOT (is_known AND p_was_watched)
    FROM rollup_engine.source AS s, rollup_engine.told_width(s.id) AS width,
        LATERAL (SELECT EXISTS (SELECT FROM rollup_engine.source_partition WHERE source_id = s.id AND partition = p_member)) AS m (is_known),
        rollup_engine.bucket_align(width, tstzmultirange(tstzrange(p_from, p_to))) AS asked,
        unnest(CASE WHEN is_known THEN asked
            ELSE rollup_engine.bucket_align(width, rollup_engine.source_extent(s, lower(asked), upper(asked)))
                * tstzmultirange(rollup_engine.calendar()) END) AS r
    WHERE s.id = p_source_id
$$;
COMMENT ON FUNCTION rollup_engine.log_extent(integer, regclass, timestamptz, timestamptz, boolean) IS
'Logs the data in the range of a partition as changed, in whole buckets; as unseen where it was watched before, and not only since a restore brought it.';

-- That of 0.1.0 knew one kind.
DROP FUNCTION IF EXISTS rollup_engine.drop_stray_triggers(rollup_engine.source);
CREATE OR REPLACE FUNCTION rollup_engine.drop_stray_triggers(p_source rollup_engine.source, p_is_member boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation regclass;
    v_name name;
BEGIN
    FOR v_relation IN
        SELECT DISTINCT s.relation FROM rollup_engine.stray_triggers(p_source) AS s JOIN pg_class AS c ON c.oid = s.relation
        WHERE pg_has_role(c.relowner, 'USAGE') AND (s.relation IN (SELECT rollup_engine.source_family(p_source.relation))) = p_is_member
    LOOP
        BEGIN
            PERFORM rollup_engine.lock_out(v_relation);
            -- Asked again: it may have been attached meanwhile.
            FOR v_name IN SELECT trigger_name FROM rollup_engine.stray_triggers(p_source) WHERE relation = v_relation LOOP
                EXECUTE format('DROP TRIGGER %I ON %s', v_name, v_relation);
            END LOOP;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- somebody uses it; the next run tries again
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.drop_stray_triggers(rollup_engine.source, boolean) IS
'Drops capture triggers that are not wanted: from tables that are no longer of the family, what is written there is none of its business; or from its members, which others capture by now.';

CREATE OR REPLACE FUNCTION rollup_engine.watch_tables(p_source rollup_engine.source, p_waits boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_member record;
BEGIN
    FOR v_member IN
        SELECT w.member, w.is_ancestor, m.from_time, m.to_time
        FROM (SELECT member, is_ancestor, min(t.place) AS place
            FROM rollup_engine.missing_triggers(p_source) WITH ORDINALITY AS t (member, is_ancestor, tgtype, place) GROUP BY 1, 2) AS w
        LEFT JOIN rollup_engine.partition_bounds(p_source.relation, p_source.time_column) AS m ON m.member = w.member
        ORDER BY w.place  -- from the top, as writers lock
    LOOP
        BEGIN
            PERFORM rollup_engine.lock_out(v_member.member, 'SHARE ROW EXCLUSIVE') WHERE NOT p_waits;
            PERFORM rollup_engine.add_triggers(p_source, v_member.member);
            -- Their lock waited for the writers that they did not see.
            IF v_member.is_ancestor THEN
                PERFORM rollup_engine.log_change(p_source.id, '-infinity', 'infinity');
            ELSE
                PERFORM rollup_engine.log_extent(p_source.id, v_member.member, v_member.from_time, v_member.to_time, true);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            IF p_waits THEN
                RAISE;
            END IF;  -- validate_rollup_config shows what is missing; the next run tries again
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.watch_tables(rollup_engine.source, boolean) IS 'Adds capture triggers to tables that joined the family of a source without them, and logs what they hold. Who does not wait for writers leaves those that fail.';

CREATE OR REPLACE FUNCTION rollup_engine.watch_new_partitions(p_source_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of partitions that a trigger goes on to
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    IF NOT rollup_engine.is_gone(v_source) THEN
        PERFORM rollup_engine.watch_tables(v_source, p_waits => false);
        PERFORM rollup_engine.drop_stray_triggers(v_source, false);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.watch_new_partitions(integer) IS 'Adds capture triggers to tables that joined the family of a source without them, and takes them from those that left, as far as the caller may, without making writers wait.';

CREATE OR REPLACE FUNCTION rollup_engine.mend_triggers(p_source_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of partitions that a trigger goes on to
AS $$
DECLARE
    v_source rollup_engine.source;
    v_trigger record;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    FOR v_trigger IN
        SELECT g.tgrelid::regclass AS relation, g.tgname, t.mode, m.from_time, m.to_time,
            -- A restore of data alone switches them off and on.
            rollup_engine.is_noted_here(v_source) OR (SELECT age(xmin) >= rollup_engine.restored_age() FROM pg_trigger WHERE oid = g.oid) IS NOT FALSE AS was_watched
        FROM rollup_engine.capture_triggers(v_source) AS g
        CROSS JOIN LATERAL (SELECT rollup_engine.firing_mode(g.tgtype) AS mode) AS t
        LEFT JOIN rollup_engine.partition_bounds(v_source.relation, v_source.time_column) AS m ON m.member = g.tgrelid
        WHERE g.tgenabled <> left(t.mode, 1)::"char" AND pg_has_role((SELECT relowner FROM pg_class WHERE oid = g.tgrelid), 'USAGE')
    LOOP
        BEGIN
            PERFORM rollup_engine.lock_out(v_trigger.relation, 'SHARE ROW EXCLUSIVE');
            EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', v_trigger.relation, v_trigger.mode, v_trigger.tgname);
            -- What was written meanwhile, nobody knows.
            IF v_trigger.from_time IS NULL THEN
                PERFORM rollup_engine.log_change(p_source_id, '-infinity', 'infinity');
            ELSE
                PERFORM rollup_engine.log_extent(p_source_id, v_trigger.relation, v_trigger.from_time, v_trigger.to_time, v_trigger.was_watched);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- the rollup is invalid as long; the next run tries again, when checks deferred here are made as well
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.mend_triggers(integer) IS 'Has capture triggers fire always that were disabled, or restored otherwise, as far as the caller may.';

RESET ROLE;
