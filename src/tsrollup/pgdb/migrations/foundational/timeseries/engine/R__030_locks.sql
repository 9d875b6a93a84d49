-- Locks that users wait for, held to the end of a run of maintenance.
--
-- Only the first is waited for. Whoever waits for one while others wait for him may close a circle,
-- and it is the user's statement that a deadlock would end. A second after the first no more are
-- taken: the next run goes on.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.users_wait_since() RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN to_timestamp(nullif(current_setting('rollup_engine.users_wait_since', true), '')::double precision);
END
$$;
COMMENT ON FUNCTION rollup_engine.users_wait_since() IS 'When this transaction first got a lock that users wait for; NULL when it holds none.';

CREATE OR REPLACE FUNCTION rollup_engine.users_waited_enough() RETURNS boolean
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(clock_timestamp() > rollup_engine.users_wait_since() + interval '1 second', false)
$$;
COMMENT ON FUNCTION rollup_engine.users_waited_enough() IS 'Whether this transaction has kept users waiting for so long that it should end.';

CREATE OR REPLACE FUNCTION rollup_engine.lock_out(p_relation regclass, p_mode text DEFAULT 'ACCESS EXCLUSIVE') RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms'
AS $$
DECLARE
    v_is_first constant boolean := rollup_engine.users_wait_since() IS NULL;
BEGIN
    EXECUTE format('LOCK TABLE ONLY %s IN %s MODE', p_relation, p_mode) || CASE WHEN v_is_first THEN '' ELSE ' NOWAIT' END;
    IF v_is_first THEN
        PERFORM set_config('rollup_engine.users_wait_since', extract(epoch FROM clock_timestamp())::text, true);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.lock_out(regclass, text) IS
'Keeps users from a table until the end of the transaction; lock_not_available when somebody uses it.';

CREATE OR REPLACE FUNCTION rollup_engine.wait_no_longer() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.users_wait_since() IS NOT NULL THEN
        PERFORM set_config('lock_timeout', '10ms', true);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.wait_no_longer() IS
'Has a step wait for nothing from here on where its transaction keeps a lock that users wait for. The caller has a lock_timeout of its own.';

-- Snapshots that a change would come too late for -----------------------------------------------

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

-- Advisory locks ----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.lock_key(p_kind text, p_name text DEFAULT '') RETURNS bigint
    LANGUAGE sql IMMUTABLE
RETURN hashtextextended('tsrollup ' || p_kind || CASE WHEN p_name <> '' THEN ' ' || p_name ELSE '' END, 0);
COMMENT ON FUNCTION rollup_engine.lock_key(text, text) IS
'Key of an advisory lock: source (drains and registers), cell (stores it), target (creates it), grants (in a schema), archive and restore (of a partition), apply (a file), maintenance, upgrade (waits for runs), regenerate.';

CREATE OR REPLACE FUNCTION rollup_engine.advisory_locks() RETURNS TABLE (key bigint, pid integer, virtualtransaction text)
    LANGUAGE sql STABLE ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.classid::bigint << 32 | l.objid::bigint, l.pid, l.virtualtransaction
    FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
$$;
COMMENT ON FUNCTION rollup_engine.advisory_locks() IS 'Advisory locks that others hold in this database; without a session those of prepared transactions.';

CREATE OR REPLACE FUNCTION rollup_engine.source_lock_key(p_source_id integer) RETURNS bigint
    LANGUAGE sql IMMUTABLE
RETURN rollup_engine.lock_key('source', p_source_id::text);
COMMENT ON FUNCTION rollup_engine.source_lock_key(integer) IS 'Advisory lock of whoever drains a source, or registers a rollup of it.';

CREATE OR REPLACE FUNCTION rollup_engine.try_lock_source(p_source_id integer) RETURNS boolean
    LANGUAGE sql
RETURN pg_try_advisory_xact_lock(rollup_engine.source_lock_key(p_source_id));
COMMENT ON FUNCTION rollup_engine.try_lock_source(integer) IS 'Held by whoever drains a source, or registers a rollup of it.';

CREATE OR REPLACE FUNCTION rollup_engine.cell_lock_key(p_rollup_id integer, p_cell timestamptz) RETURNS bigint
    LANGUAGE sql IMMUTABLE
RETURN rollup_engine.lock_key('cell', concat(p_rollup_id, ' ', extract(epoch FROM p_cell)));
COMMENT ON FUNCTION rollup_engine.cell_lock_key(integer, timestamptz) IS 'Advisory lock of whoever refreshes a cell of a rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.try_lock_cell(p_rollup_id integer, p_cell timestamptz) RETURNS boolean
    LANGUAGE sql
RETURN pg_try_advisory_xact_lock(rollup_engine.cell_lock_key(p_rollup_id, p_cell));
COMMENT ON FUNCTION rollup_engine.try_lock_cell(integer, timestamptz) IS 'Keeps an older recompute from overwriting a newer one: held until the batch is committed.';

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
