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

RESET ROLE;
