-- pg_cron lives in one database of the server, this one, and runs jobs in the others. Without
-- it nothing is lost: tsrollup worker does the same work from outside.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    -- Flyway has made it, unless createSchemas is off.
    IF to_regnamespace('rollup_engine') IS NULL THEN
        CREATE SCHEMA rollup_engine;
    END IF;
END
$$;

DO $$
DECLARE
    -- Hidden from roles that may not read every setting; such a role just tries.
    v_home text := (SELECT setting FROM pg_settings WHERE name = 'cron.database_name');
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        RETURN;
    ELSIF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_cron') THEN
        RAISE NOTICE 'pg_cron is not on this server: nothing is scheduled, run tsrollup worker';
    ELSIF v_home <> current_database() THEN
        RAISE NOTICE 'pg_cron lives in database %: run the postgres migrations there', v_home;
    ELSE
        CREATE EXTENSION IF NOT EXISTS pg_cron;
    END IF;
EXCEPTION WHEN OTHERS THEN
    -- Not loaded, not permitted, or refused by a managed service with a code of its own.
    RAISE NOTICE 'pg_cron could not be created: % (%): nothing is scheduled, run tsrollup worker', SQLERRM, SQLSTATE;
END
$$;
