-- Scheduling through pg_cron's own functions: its tables change between versions. A job's name
-- holds the database that it works for, so several timeseries databases live side by side.
--
-- Names may hold an apostrophe, so they stand between dollars; and a colon goes before them, since
-- Flyway knows no placeholder right after a dollar.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION rollup_engine.cron_job_name(p_database text, p_task text)
RETURNS text
LANGUAGE sql
IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws(':', substr($name$:${job_prefix}$name$, 2), p_database, p_task);
$$;

CREATE OR REPLACE FUNCTION rollup_engine.require_cron()
RETURNS void
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        RAISE feature_not_supported USING
            MESSAGE = format('pg_cron is not installed in database %s', current_database()),
            HINT = 'Run CREATE EXTENSION pg_cron in the database that cron.database_name names, or run tsrollup worker.';
    END IF;
END
$$;

-- Intervals of seconds came with pg_cron 1.5; before it a minute is the shortest.
CREATE OR REPLACE FUNCTION rollup_engine.supported_schedule(p_schedule text)
RETURNS text
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN p_schedule ~ 'second' AND string_to_array(substring(extversion FROM '^[0-9]+[.][0-9]+'), '.')::integer[] < '{1,5}'
            THEN '* * * * *'
        ELSE p_schedule
    END
    FROM pg_extension
    WHERE extname = 'pg_cron';
$$;

-- Says what it did: scheduled, changed or unchanged. A job that was switched off stays off.
CREATE OR REPLACE FUNCTION rollup_engine.schedule_job(
    p_name text,
    p_schedule text,
    p_command text,
    p_database text
)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_schedule text;
    v_job record;
BEGIN
    IF p_database IS NULL OR p_schedule IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = format('the %s of a job is NULL', CASE WHEN p_database IS NULL THEN 'database' ELSE 'schedule' END),
            HINT = 'name the timeseries database, as in rollup_engine.schedule_timeseries(''timeseries'')';
    END IF;
    PERFORM rollup_engine.require_cron();
    v_schedule := rollup_engine.supported_schedule(p_schedule);

    SELECT schedule, command, database INTO v_job FROM cron.job WHERE jobname = p_name;
    IF v_job.schedule = v_schedule AND v_job.command = p_command AND v_job.database = p_database THEN
        RETURN 'unchanged';
    END IF;

    -- Everybody may schedule in pg_cron's own database, only some in another.
    IF p_database = current_database() THEN
        PERFORM cron.schedule(p_name, v_schedule, p_command);
    ELSE
        PERFORM cron.schedule_in_database(p_name, v_schedule, p_command, p_database);
    END IF;
    RETURN CASE WHEN v_job.schedule IS NULL THEN 'scheduled' ELSE 'changed' END;
END
$$;

CREATE OR REPLACE FUNCTION rollup_engine.unschedule_timeseries(p_database text)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_removed integer;
BEGIN
    PERFORM rollup_engine.require_cron();
    -- By whole names: the name of another database may begin like this one's.
    SELECT count(cron.unschedule(jobid))
    INTO v_removed
    FROM cron.job
    WHERE jobname IN (
        SELECT rollup_engine.cron_job_name(p_database, task)
        FROM unnest(ARRAY['rollups', 'retries', 'maintenance', 'cleanup']) AS task);
    RETURN v_removed;
END
$$;

COMMENT ON FUNCTION rollup_engine.schedule_job(text, text, text, text) IS
    'Schedules one pg_cron job, or brings it up to date; the same call again changes nothing.';
COMMENT ON FUNCTION rollup_engine.unschedule_timeseries(text) IS
    'Removes the pg_cron jobs of one timeseries database; returns how many there were.';
