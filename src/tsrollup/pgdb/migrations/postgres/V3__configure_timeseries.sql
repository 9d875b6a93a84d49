-- The jobs that keep the rollups of one database fresh. pg_cron never starts a job while its
-- last run is going on, so a run may take as long as its time budget.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION rollup_engine.schedule_rollups(
    p_database text,
    p_rollup_schedule text DEFAULT '${rollup_schedule}',
    p_retry_schedule text DEFAULT '${retry_schedule}'
)
RETURNS TABLE (job_name text, outcome text)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT job.name, rollup_engine.schedule_job(job.name, job.schedule, job.command, p_database)
    FROM (
        VALUES
            (
                rollup_engine.cron_job_name(p_database, 'rollups'),
                p_rollup_schedule,
                'CALL silver.run_rollups(time_budget => ''55 seconds'')'
            ),
            (
                rollup_engine.cron_job_name(p_database, 'retries'),
                p_retry_schedule,
                'SELECT silver.handle_rollup_retries()'
            )
    ) AS job (name, schedule, command);
$$;

COMMENT ON FUNCTION rollup_engine.schedule_rollups(text, text, text) IS
    'Schedules the rollup run and the retries of one timeseries database.';
