-- Jobs live in pg_cron's schema, which clean does not touch; without our functions nobody would
-- find them again.

DO $$
DECLARE
    v_job record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        RETURN;
    END IF;
    FOR v_job IN SELECT jobid FROM cron.job WHERE starts_with(jobname, '${job_prefix}:') LOOP
        PERFORM cron.unschedule(v_job.jobid);
    END LOOP;
END
$$;
