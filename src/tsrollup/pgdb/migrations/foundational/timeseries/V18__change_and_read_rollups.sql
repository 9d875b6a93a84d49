-- Changing one's mind about a rollup, and reading it: options, names and metrics that change, gaps
-- that are filled, and which live view answers a question.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
-- What these call is the engine, which comes after all versions.
SET LOCAL check_function_bodies = off;

CREATE FUNCTION silver.alter_rollup(
    target text,
    settle_delay interval DEFAULT NULL,
    processing_window interval DEFAULT NULL,
    target_batch_duration interval DEFAULT NULL,
    look_back_window interval DEFAULT NULL,
    chunk_interval interval DEFAULT NULL,
    new_name text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r silver.rollup_config;
BEGIN
    PERFORM rollup_engine.check_isolation();
    SELECT * INTO r FROM silver.rollup_config AS c WHERE c.id = rollup_engine.rollup_id(target);
    PERFORM rollup_engine.check_owner_role('change rollups');
    r.settle_delay := coalesce(settle_delay, r.settle_delay);
    r.processing_window := coalesce(processing_window, r.processing_window);
    r.target_batch_duration := coalesce(target_batch_duration, r.target_batch_duration);
    r.look_back_window := coalesce(look_back_window, r.look_back_window);
    r.chunk_interval := chunk_interval;  -- that of now was chosen by maintenance, or checked
    PERFORM rollup_engine.check_options(r);
    PERFORM rollup_engine.write_options(r);
    IF new_name IS NOT NULL THEN
        PERFORM rollup_engine.rename_rollup(r.id, new_name);
    END IF;
END
$$;
COMMENT ON FUNCTION silver.alter_rollup(text, interval, interval, interval, interval, interval, text) IS
'Changes options of a rollup, and its name; NULL leaves what it stands for as it is. Each is checked as when a rollup is created. settle_delay, target_batch_duration and processing_window hold from the next batch on; chunk_interval for partitions to come; a look_back_window that is shorter than before has what it no longer reaches read once more. new_name is the name of the table, in its schema, and of its live view in gold: rollups that read it, views on it, rights and logs follow; partitions that are there keep their names. The caller is a member of the owner role.';

RESET ROLE;
