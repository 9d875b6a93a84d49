-- With functions of two releases side by side nothing must be stored. What runs is waited for, and
-- nothing begins before a migrate has ended.
-- On Citus, what a script makes is of the coordinator: the workers would make it as the owner role, which
-- may not log in there yet. What they need is given to them at the end.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    -- As rollup_engine.lock_key has it, which may not be there yet.
    v_key constant bigint := hashtextextended('tsrollup upgrade', 0);
    v_timeout constant text := current_setting('lock_timeout');
    v_runs text;
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
        PERFORM set_config('citus.enable_ddl_propagation', 'off', true);
    END IF;
    IF to_regclass('rollup_engine.upgrade') IS NULL THEN
        RETURN;
    END IF;
    SET LOCAL ROLE "${owner_role}";
    IF NOT EXISTS (SELECT FROM rollup_engine.upgrade) THEN
        IF NOT pg_try_advisory_xact_lock(v_key) THEN
            SELECT string_agg(coalesce(pid::text, 'of prepared transactions (pg_prepared_xacts)'), ', ') INTO v_runs
            FROM pg_locks
            WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = v_key
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
            RAISE NOTICE 'waiting for runs, up to a minute: those of the sessions %', v_runs;
            PERFORM set_config('lock_timeout', '1min', true);
            PERFORM pg_advisory_xact_lock(v_key);
            PERFORM set_config('lock_timeout', v_timeout, true);
        END IF;
        INSERT INTO rollup_engine.upgrade DEFAULT VALUES;
    END IF;
    SET LOCAL ROLE NONE;
    -- Who waits for a lock of a table that is in use has others wait behind him: no script does so for long,
    -- nor until a deadlock ends a user's statement.
    IF v_timeout = '0' THEN
        PERFORM set_config('lock_timeout', '500ms', true);
    END IF;
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION USING ERRCODE = '55P03',
        MESSAGE = format('runs have not ended within a minute: those of the sessions %s', v_runs),
        HINT = 'migrate again when they have, or end them: SELECT pg_terminate_backend(pid), or ROLLBACK PREPARED';
END
$$;
