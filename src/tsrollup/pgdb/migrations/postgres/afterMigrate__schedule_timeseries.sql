-- After every migrate: jobs follow the placeholders, also when only a schedule was changed, or
-- when this configuration now names a second timeseries database.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_job record;
BEGIN
    FOR v_job IN
        SELECT * FROM rollup_engine.schedule_rollups(
            substr($name$:${timeseries_database}$name$, 2), '${rollup_schedule}', '${retry_schedule}')
        UNION ALL
        SELECT * FROM rollup_engine.schedule_maintenance(
            substr($name$:${timeseries_database}$name$, 2), '${maintenance_schedule}', '${cleanup_schedule}')
    LOOP
        RAISE DEBUG 'job %: %', v_job.job_name, v_job.outcome;
    END LOOP;
EXCEPTION WHEN feature_not_supported OR insufficient_privilege OR invalid_catalog_name THEN
    RAISE NOTICE 'nothing is scheduled: %', SQLERRM;
END
$$;
