-- Snapshots that are in use, for which a change would come too late.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- That of 0.1.0 told of all.
DROP FUNCTION IF EXISTS rollup_engine.snapshots_in_use();
CREATE OR REPLACE FUNCTION rollup_engine.snapshots_in_use(p_of_who_waits_here boolean DEFAULT true) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_stat_clear_snapshot();  -- what it says is of now, not of the start of the transaction
    RETURN ARRAY(
        SELECT format('%s %s %s', a.pid, l.virtualtransaction, a.backend_xmin)
        FROM pg_stat_activity AS a
        LEFT JOIN pg_locks AS l ON l.pid = a.pid AND l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock'
        WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid()
            AND a.backend_type IS DISTINCT FROM 'autovacuum worker' AND a.datname = current_database()
            AND (p_of_who_waits_here OR pg_backend_pid() <> ALL (pg_blocking_pids(a.pid))));
END
$$;
COMMENT ON FUNCTION rollup_engine.snapshots_in_use(boolean) IS
'What other sessions of this database read in, by their transactions; those of standbys are not among them, nor, if asked so, those of who waits for this session.';

CREATE OR REPLACE FUNCTION rollup_engine.outlives(p_snapshots text[]) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_until constant timestamptz := coalesce(
        rollup_engine.users_wait_since() + interval '300 ms', clock_timestamp() + interval '3 seconds');
BEGIN
    WHILE p_snapshots && rollup_engine.snapshots_in_use() LOOP
        IF clock_timestamp() > v_until THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN true;
END
$$;
COMMENT ON FUNCTION rollup_engine.outlives(text[]) IS 'Waits a while for snapshots to be done with; false when one of them is still in use.';

CREATE OR REPLACE FUNCTION rollup_engine.is_seen_by_all(p_transaction xid8) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Sessions of this database, and standbys through their WAL senders and slots; not a session
    -- that is still logging in, which has no database yet. What a session is shows only to those
    -- who may see it; its horizon shows to everybody.
    SELECT p_transaction IS DISTINCT FROM pg_current_xact_id_if_assigned() AND NOT EXISTS (
        SELECT FROM (
            SELECT backend_xmin AS oldest FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND backend_type IS DISTINCT FROM 'autovacuum worker'
                AND datname = current_database()
            UNION ALL
            SELECT backend_xmin FROM pg_stat_replication
            UNION ALL
            SELECT xmin FROM pg_replication_slots
        ) AS held
        WHERE oldest IS NOT NULL AND age(oldest) >= age(p_transaction::xid)
            -- Restored from a dump, it is a number of another server's.
            AND p_transaction < pg_snapshot_xmax(pg_current_snapshot()))
$$;
COMMENT ON FUNCTION rollup_engine.is_seen_by_all(xid8) IS 'Whether every snapshot in use is newer than a transaction.';

RESET ROLE;
