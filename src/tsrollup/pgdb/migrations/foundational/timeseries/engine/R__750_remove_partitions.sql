-- The second phase of retention: removing what an earlier run has sealed.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.partition_path(p_partition regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(format('%s %s', c.oid, c.relpartbound), ', ')
    FROM pg_partition_ancestors(p_partition) AS a JOIN pg_class AS c ON c.oid = a.relid
$$;
COMMENT ON FUNCTION rollup_engine.partition_path(regclass) IS 'A partition and the tables above it with their bounds: while that is the same, its time is.';

-- Volatile, for a snapshot taken under the lock. What was written there late was counted by the
-- drain that took in its log row, so none may be left; and a rollup that came after the seal, not
-- knowing of it, has yet to absorb what lies there.
-- That of 0.1.0 looked at the whole table for each.
DROP FUNCTION IF EXISTS rollup_engine.may_be_removed(regclass, rollup_engine.old_partition);
CREATE OR REPLACE FUNCTION rollup_engine.may_be_removed(p_relation regclass, p_old rollup_engine.old_partition, p_key name) RETURNS boolean
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.partition_path(p_old.member) = p_old.path AND rollup_engine.is_taken_in(p_old.member)
        AND NOT EXISTS (
            SELECT FROM rollup_engine.readers(p_relation) AS r
            WHERE (r.sealed_before >= p_old.to_time AND (r.time_column = p_key OR NOT rollup_engine.lies_in(r.source_table, p_relation))) IS NOT TRUE)
        AND NOT EXISTS (
            SELECT FROM rollup_engine.change_log AS l
            JOIN rollup_engine.source AS s ON s.id = l.source_id
            WHERE rollup_engine.lies_in(s.relation, p_relation) AND l.from_time < p_old.to_time AND l.to_time > p_old.from_time)
$$;
COMMENT ON FUNCTION rollup_engine.may_be_removed(regclass, rollup_engine.old_partition, name) IS
'Whether a locked partition still holds that time, sealed by every rollup that reads the table by the key of its partitions, with every change that was logged there accounted for.';

CREATE OR REPLACE FUNCTION rollup_engine.release_sequences(p_partition regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_sequence regclass;
BEGIN
    -- What is an identity is the partition's own.
    FOR v_sequence IN
        SELECT c.oid
        FROM rollup_engine.partition_tree(p_partition) AS t (member)
        JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.member AND d.classid = 'pg_class'::regclass AND d.deptype = 'a'
        JOIN pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
    LOOP
        EXECUTE format('ALTER SEQUENCE %s OWNED BY NONE', v_sequence);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.release_sequences(regclass) IS
'Has sequences of serial columns that belong to a partition, which was a table of its own before, stay where they are: whoever inserts may number rows by them.';

DROP FUNCTION IF EXISTS rollup_engine.remove_partition(rollup_engine.retention, rollup_engine.old_partition);
CREATE OR REPLACE FUNCTION rollup_engine.remove_partition(p_retention rollup_engine.retention, p_old rollup_engine.old_partition, p_key name) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_parent constant regclass := (SELECT inhparent FROM pg_inherits WHERE inhrelid = p_old.member);
    v_bound constant text := (SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = p_old.member);
BEGIN
    IF NOT (SELECT bool_and(rollup_engine.try_lock_out(m)) FROM (SELECT v_parent UNION ALL SELECT rollup_engine.partition_tree(p_old.member)) AS t (m)) THEN
        RETURN 'skipped';
    ELSIF NOT rollup_engine.may_be_removed(p_retention.relation, p_old, p_key) THEN
        RETURN NULL;
    END IF;
    PERFORM rollup_engine.check_partman_lets_go(p_old.member);
    IF NOT EXISTS (SELECT FROM silver.rollup_config WHERE target_table = p_retention.relation) THEN
        PERFORM rollup_engine.ensure_default_partition(v_parent);
    END IF;
    DELETE FROM rollup_engine.source_partition WHERE partition IN (SELECT rollup_engine.partition_tree(p_old.member));
    DELETE FROM rollup_engine.rollup_partition WHERE partition IN (SELECT rollup_engine.partition_tree(p_old.member));
    PERFORM rollup_engine.forget_partition_set(p_old.member);
    PERFORM rollup_engine.release_sequences(p_old.member);
    -- Detached first: a foreign key to the table holds on to no partition that nothing refers to.
    PERFORM rollup_engine.change_table('ALTER TABLE', v_parent, format('DETACH PARTITION %s', p_old.member));
    IF p_retention.archive THEN
        PERFORM rollup_engine.archive_tree(p_old.member, rollup_engine.archive_schema(p_retention.relation));
        PERFORM rollup_engine.note_detached(p_retention.relation, p_old, v_bound);
        RETURN 'archived';
    END IF;
    PERFORM rollup_engine.change_table('DROP TABLE', p_old.member);
    RETURN 'dropped';
END
$$;
COMMENT ON FUNCTION rollup_engine.remove_partition(rollup_engine.retention, rollup_engine.old_partition, name) IS
'Drops or archives one partition with all below it; NULL when it may not go yet, skipped when somebody is using it. When something that it refers to is in use: lock_not_available.';

-- What is in the way of one partition ------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.obstacle_hint(p_retention rollup_engine.retention, p_code text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_code
        WHEN '2BP01' THEN 'drop what depends on it, or keep it in an archive: ' || rollup_engine.retention_call(p_retention.relation::text, p_retention.keep, true)
        WHEN '23503' THEN 'delete the rows that refer to it, or drop their foreign key'
        WHEN '42P07' THEN format('rename or drop what has that name in %s', rollup_engine.archive_schema(p_retention.relation))
        WHEN '3F000' THEN rollup_engine.retention_call(p_retention.relation::text, p_retention.keep, true) || ' makes the archive''s schema'
        WHEN '42501' THEN 'run maintenance as a role that owns the partition and may create tables where it goes'
        ELSE 'the next run tries it again'
    END
$$;
COMMENT ON FUNCTION rollup_engine.obstacle_hint(rollup_engine.retention, text) IS 'What to do about the error that keeps a partition where it is.';

CREATE OR REPLACE FUNCTION rollup_engine.record_obstacle(p_target text, p_failure rollup_engine.failure) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.log_failure(p_target, p_failure)
    WHERE NOT EXISTS (
        SELECT FROM silver.error_log
        WHERE target_table = p_target AND error_message = p_failure.message AND occurred_at > clock_timestamp() - interval '1 day')
$$;
COMMENT ON FUNCTION rollup_engine.record_obstacle(text, rollup_engine.failure) IS 'Logs what keeps a partition from being removed, once a day.';

-- Everything that is due -------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.try_lock_out(p_relation regclass) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.lock_out(p_relation);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.try_lock_out(regclass) IS 'As lock_out; false when somebody uses the table.';

CREATE OR REPLACE FUNCTION rollup_engine.removable_partitions(p_relation regclass, p_border timestamptz) RETURNS SETOF rollup_engine.old_partition
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    -- The topmost first: what is below goes with it. Without one of its parts a hash takes no rows, and
    -- where the rows of missing partitions wait is not to go by itself.
    SELECT m.member, format('%s: %s to %s', m.member, m.from_time, m.to_time), rollup_engine.partition_path(m.member), m.from_time, m.to_time
    FROM (
        SELECT m.*, i.inhparent, m.to_time = max(m.to_time) OVER (PARTITION BY i.inhparent) AS is_newest
        FROM rollup_engine.time_partitions(p_relation) AS m
        JOIN pg_inherits AS i ON i.inhrelid = m.member
        JOIN pg_partitioned_table AS p ON p.partrelid = i.inhparent AND p.partstrat <> 'h' AND p.partdefid <> m.member
    ) AS m
    WHERE m.to_time <= p_border AND NOT (is_newest AND rollup_engine.partman_goes_on_from(m.inhparent)) AND NOT EXISTS (
        SELECT FROM rollup_engine.partition_tree(m.member) AS t (member) JOIN pg_class AS c ON c.oid = t.member AND c.relkind = 'f')
    ORDER BY m.level, m.to_time
$$;
COMMENT ON FUNCTION rollup_engine.removable_partitions(regclass, timestamptz) IS 'Partitions whose time ended before the border, but for foreign tables, which are not ours to drop, and the last one of what pg_partman goes on with.';

CREATE OR REPLACE FUNCTION rollup_engine.remove_partitions(p_retention rollup_engine.retention, p_border timestamptz) RETURNS TABLE (action text, detail text)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of what DDL locks besides, as the tables that foreign keys refer to
AS $$
DECLARE
    v_busy constant text := ', for somebody uses it; the next run tries again';
    v_key name;
    v_member rollup_engine.old_partition;
    v_failure rollup_engine.failure;
BEGIN
    IF NOT EXISTS (SELECT FROM rollup_engine.removable_partitions(p_retention.relation, p_border))
        OR rollup_engine.users_waited_enough() THEN
        RETURN;
    ELSIF NOT rollup_engine.try_lock_out(p_retention.relation) THEN
        RETURN QUERY SELECT 'skipped', 'not removed' || v_busy;
        RETURN;
    ELSIF (rollup_engine.retention_problem(p_retention.relation)).problem IS NOT NULL THEN
        RETURN;  -- asked again under the lock, which nobody passes who changes the table
    END IF;
    v_key := rollup_engine.time_partition_column(p_retention.relation);
    FOR v_member IN SELECT * FROM rollup_engine.removable_partitions(p_retention.relation, p_border) LOOP
        CONTINUE WHEN pg_partition_root(v_member.member) IS DISTINCT FROM p_retention.relation;  -- it went with its parent
        BEGIN
            action := rollup_engine.remove_partition(p_retention, v_member, v_key);
            detail := v_member.title || CASE action WHEN 'skipped' THEN ' stays' || v_busy ELSE '' END;
        EXCEPTION
            WHEN lock_not_available THEN
                RETURN QUERY SELECT 'skipped', v_member.title || ' stays' || v_busy;
                RETURN;  -- the others would wait for the same
            WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS
                    v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
                    v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
                v_failure.message := format('%s stays: %s', v_member.title, SQLERRM);
                v_failure.hint := CASE WHEN SQLSTATE LIKE 'TR%' THEN v_failure.hint ELSE rollup_engine.obstacle_hint(p_retention, SQLSTATE) END;
                action := 'skipped';
                detail := concat_ws('; ', v_failure.message, v_failure.hint);
                PERFORM rollup_engine.record_obstacle(p_retention.relation::text, v_failure);
        END;
        IF action IS NOT NULL THEN
            RETURN NEXT;
        END IF;
        EXIT WHEN rollup_engine.users_waited_enough();
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.remove_partitions(rollup_engine.retention, timestamptz) IS
'Drops or archives the partitions of a table that ended before the border; what is in the way of one stops no other.';

CREATE OR REPLACE FUNCTION rollup_engine.remove_due(p_retention rollup_engine.retention, p_now timestamptz) RETURNS TABLE (action text, detail text)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    -- Sealed by an earlier run, and past the keep of now: it may have been made longer since.
    v_border timestamptz := least(p_retention.sealed_before, rollup_engine.time_before(p_now, p_retention.keep));
    v_deleted bigint;
BEGIN
    PERFORM rollup_engine.check_isolation();
    IF p_retention.keep IS NULL OR NOT isfinite(p_retention.sealed_before)
        OR p_retention.sealed_by IS NOT DISTINCT FROM pg_current_xact_id_if_assigned() THEN
        RETURN;
    ELSIF NOT rollup_engine.is_seen_by_all(p_retention.sealed_by) THEN
        action := 'skipped';
        detail := format('what was sealed before %s goes when no snapshot is older than the seal: of a long transaction, a dump, a standby or a replication slot', p_retention.sealed_before);
        RETURN NEXT;
        RETURN;
    END IF;
    -- Counts what came late to what is about to go.
    PERFORM rollup_engine.drain_step(s.id, NULL) FROM rollup_engine.source AS s WHERE rollup_engine.lies_in(s.relation, p_retention.relation);
    SELECT 'skipped', format('not removed: %s, and no run has taken that in so far; the next run tries again', u.changes) INTO action, detail
    FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.unseen_changes(s) AS u (changes)
    WHERE rollup_engine.lies_in(s.relation, p_retention.relation) AND u.changes IS NOT NULL;
    IF FOUND THEN
        RETURN NEXT;
        RETURN;
    END IF;
    IF rollup_engine.distribution_column(p_retention.relation) IS NULL THEN
        RETURN QUERY SELECT * FROM rollup_engine.remove_partitions(p_retention, v_border);
    END IF;
    -- A rollup by a view that came after the seal has yet to absorb what lies there.
    v_border := (
        SELECT rollup_engine.bucket_start(r, least(v_border, rollup_engine.sealed_by_all(p_retention)))
        FROM silver.rollup_config AS r WHERE r.target_table = p_retention.relation);
    IF v_border IS NOT NULL AND NOT p_retention.archive THEN
        PERFORM rollup_engine.set_refreshing(true);
        EXECUTE format('DELETE FROM %s WHERE bucket < $1', p_retention.relation) USING v_border;
        GET DIAGNOSTICS v_deleted = ROW_COUNT;
        PERFORM rollup_engine.set_refreshing(false);
        IF v_deleted > 0 THEN
            action := 'deleted';
            detail := format('%s rows before %s', v_deleted, v_border);
            RETURN NEXT;
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.remove_due(rollup_engine.retention, timestamptz) IS
'Removes what lies below the seal of a table and is older than it is to be kept: whole partitions, and the rows of a rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.remove_distributed(p_relation regclass, p_now timestamptz) RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_retention rollup_engine.retention;
BEGIN
    FOR v_retention IN
        SELECT t.* FROM rollup_engine.source_retentions() AS t
        WHERE rollup_engine.distribution_column(t.relation) IS NOT NULL AND (p_relation IS NULL OR t.relation = p_relation)
            AND rollup_engine.foreign_owner(t.relation) IS NULL AND isfinite(t.sealed_before)
    LOOP
        CONTINUE WHEN NOT rollup_engine.is_seen_by_all(v_retention.sealed_by);  -- in no query that an operator runs as well
        SELECT * INTO v_retention FROM rollup_engine.retention WHERE relation = v_retention.relation FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN v_retention.keep IS NULL;  -- or somebody else has it
        RETURN QUERY
            SELECT v_retention.relation::text, r.action, r.detail
            FROM rollup_engine.remove_partitions(v_retention, least(v_retention.sealed_before, rollup_engine.time_before(p_now, v_retention.keep))) AS r;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.remove_distributed(regclass, timestamptz) IS
'Removes sealed partitions of sources that Citus distributes. It is all that a transaction may do there: what one role has read or changed, another may not drop, nor the other way round.';

RESET ROLE;
