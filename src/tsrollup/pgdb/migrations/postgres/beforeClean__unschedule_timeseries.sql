-- Jobs live in pg_cron's schema, which clean does not touch; without our functions nobody would
-- find them again.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    -- pg_cron may live in the time-series database itself, where the schema is the engine's as well.
    IF to_regclass('rollup_engine.source') IS NOT NULL THEN
        RAISE object_in_use USING
            MESSAGE = format('database %s holds the rollups too, and clean would take their machinery away', current_database()),
            HINT = 'clean with flyway-foundational.conf first';
    END IF;
END
$$;

DO $$
DECLARE
    v_job record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        RETURN;
    END IF;
    FOR v_job IN SELECT jobid FROM cron.job WHERE starts_with(jobname, substr($name$:${job_prefix}:$name$, 2)) LOOP
        PERFORM cron.unschedule(v_job.jobid);
    END LOOP;
END
$$;
