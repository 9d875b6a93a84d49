-- Locks that users wait for, held to the end of a run of maintenance.
--
-- Only the first is waited for. Whoever waits for one while others wait for him may close a circle,
-- and it is the user's statement that a deadlock would end. A second after the first no more are
-- taken: the next run goes on.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE FUNCTION rollup_engine.users_wait_since() RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT to_timestamp(nullif(current_setting('rollup_engine.users_wait_since', true), '')::double precision)
$$;
COMMENT ON FUNCTION rollup_engine.users_wait_since() IS 'When this transaction first got a lock that users wait for; NULL when it holds none.';

CREATE FUNCTION rollup_engine.users_waited_enough() RETURNS boolean
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(clock_timestamp() > rollup_engine.users_wait_since() + interval '1 second', false)
$$;
COMMENT ON FUNCTION rollup_engine.users_waited_enough() IS 'Whether this transaction has kept users waiting for so long that it should end.';

CREATE FUNCTION rollup_engine.lock_out(p_relation regclass, p_mode text DEFAULT 'ACCESS EXCLUSIVE') RETURNS void
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

-- Snapshots that a change would come too late for -----------------------------------------------

CREATE FUNCTION rollup_engine.snapshots_in_use() RETURNS text[]
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
            AND a.backend_type IS DISTINCT FROM 'autovacuum worker' AND a.datname = current_database());
END
$$;
COMMENT ON FUNCTION rollup_engine.snapshots_in_use() IS 'What other sessions of this database read in, by their transactions; those of standbys are not among them.';

CREATE FUNCTION rollup_engine.outlives(p_snapshots text[]) RETURNS boolean
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

RESET ROLE;
