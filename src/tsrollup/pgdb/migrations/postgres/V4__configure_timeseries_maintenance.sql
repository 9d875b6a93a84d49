-- Maintenance of one timeseries database, the clean-up of pg_cron's log of its jobs, and the
-- one call that schedules everything for a database.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION rollup_engine.schedule_maintenance(
    p_database text,
    p_maintenance_schedule text DEFAULT '${maintenance_schedule}',
    p_cleanup_schedule text DEFAULT '${cleanup_schedule}',
    p_keep_log interval DEFAULT '3 days'
)
RETURNS TABLE (job_name text, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    job_name := rollup_engine.cron_job_name(p_database, 'maintenance');
    outcome := rollup_engine.schedule_job(job_name, p_maintenance_schedule,
        'SELECT silver.maintain_timeseries_tables()', p_database);
    RETURN NEXT;

    -- The log is in pg_cron's own database; other people's rows in it are theirs.
    job_name := rollup_engine.cron_job_name(p_database, 'cleanup');
    outcome := rollup_engine.schedule_job(job_name, p_cleanup_schedule,
        format($sql$DELETE FROM cron.job_run_details USING cron.job
WHERE job.jobid = job_run_details.jobid
    AND starts_with(job.jobname, %L)
    AND coalesce(end_time, start_time) < now() - interval %L$sql$,
            rollup_engine.cron_job_name(p_database, ''), p_keep_log),
        current_database());
    RETURN NEXT;
END
$$;

CREATE OR REPLACE FUNCTION rollup_engine.schedule_timeseries(p_database text DEFAULT substr($name$:${timeseries_database}$name$, 2))
RETURNS TABLE (job_name text, outcome text)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.schedule_rollups(p_database)
    UNION ALL
    SELECT * FROM rollup_engine.schedule_maintenance(p_database);
$$;

COMMENT ON FUNCTION rollup_engine.schedule_maintenance(text, text, text, interval) IS
    'Schedules maintenance and the clean-up of pg_cron''s log for one timeseries database.';
COMMENT ON FUNCTION rollup_engine.schedule_timeseries(text) IS
    'Schedules all jobs of one timeseries database; a second database takes a second call.';

DO $$
DECLARE
    v_job record;
BEGIN
    FOR v_job IN SELECT * FROM rollup_engine.schedule_timeseries(substr($name$:${timeseries_database}$name$, 2)) LOOP
        RAISE NOTICE 'job %: %', v_job.job_name, v_job.outcome;
    END LOOP;
EXCEPTION WHEN feature_not_supported OR insufficient_privilege OR invalid_catalog_name THEN
    RAISE NOTICE 'nothing is scheduled: %; when that is mended: SELECT rollup_engine.schedule_timeseries(%)',
        SQLERRM, quote_literal(substr($name$:${timeseries_database}$name$, 2));
END
$$;
