-- Changing one's mind about a rollup: its options, name and metrics; and which live view answers a question.

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
    PERFORM rollup_engine.check_migrated();
    r.settle_delay := settle_delay;
    r.processing_window := processing_window;
    r.target_batch_duration := target_batch_duration;
    r.look_back_window := look_back_window;
    r.chunk_interval := chunk_interval;
    PERFORM rollup_engine.change_rollup(target, r, new_name);
END
$$;
COMMENT ON FUNCTION silver.alter_rollup(text, interval, interval, interval, interval, interval, text) IS
'Changes options of a rollup, and its name; NULL leaves what it stands for as it is. Each is checked as when a rollup is created. settle_delay, target_batch_duration and processing_window hold from the next batch on; chunk_interval for partitions to come; a look_back_window that is shorter than before has what it no longer reaches read once more. new_name is the name of the table, in its schema, and of its live view in gold: rollups that read it, views on it, rights and logs follow; partitions that are there keep their names. The caller is a member of the owner role.';

SELECT rollup_engine.lock_tables('{rollup_engine.metric_request}');
ALTER TABLE rollup_engine.metric_request ADD COLUMN expressions jsonb;

ALTER FUNCTION silver.add_rollup_metric(text, jsonb) RENAME TO add_rollup_metric_0_1_0;

CREATE FUNCTION silver.add_rollup_metric(target text, metrics jsonb, expressions jsonb DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.check_isolation();
    PERFORM rollup_engine.check_migrated();
    PERFORM rollup_engine.request_metrics(target, metrics, expressions);
END
$$;
COMMENT ON FUNCTION silver.add_rollup_metric(text, jsonb, jsonb) IS
'Adds aggregates to a rollup, of columns of its source, and of expressions over them, new ones or those that it has: its table and live view gain columns at their end, and all of it is recomputed. Sealed buckets keep NULL there, and so do those before the window of a source that is tracked by one (mark_stale has them computed from what the source still holds); so does a wider bucket of a rollup above, of which a part is sealed; one across the edge of a window has values that lack the part before. The caller is a member of the owner role, or, without expressions, may SELECT the columns of the source itself.';

SELECT rollup_engine.take_place_of('silver.add_rollup_metric_0_1_0(text, jsonb)', 'silver.add_rollup_metric(text, jsonb, jsonb)');

CREATE FUNCTION silver.drop_rollup_metric(target text, metrics jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id constant integer := rollup_engine.rollup_id(target);
BEGIN
    PERFORM rollup_engine.check_isolation();
    PERFORM rollup_engine.check_migrated();
    PERFORM rollup_engine.check_owner_role('drop metrics of rollups');
    PERFORM rollup_engine.drop_metrics(v_id, metrics);
END
$$;
COMMENT ON FUNCTION silver.drop_rollup_metric(text, jsonb) IS
'Drops aggregates of a rollup, as in ''{"temp": ["avg", "max"]}'', with what it stores for nothing else; also those of a column that its source has no more, after which the rest is exact again. Expressions that nothing is made of any more go with them; one that nothing was made of goes by its name, as in ''{"half": []}''. Refuses while another rollup reads them, or a view rests on the live view, which is made anew with its owner, rights and comments. Nothing is computed anew, and sealed buckets lose the values for good. The caller is a member of the owner role.';

-- Reading ---------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION silver.mark_stale(table_name text, from_time timestamptz, to_time timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.mark_asked(table_name, from_time, to_time);
END
$$;
COMMENT ON FUNCTION silver.mark_stale(text, timestamptz, timestamptz) IS
'Has a range of time recomputed: of one rollup and all that read it, or of every rollup of a source. What retention has sealed stays as it is, and a NOTICE says so.';

CREATE FUNCTION silver.rollup_for(
    source_table_name text,
    width interval,
    dimensions text[] DEFAULT NULL,
    metrics jsonb DEFAULT NULL,
    timezone text DEFAULT 'UTC'
) RETURNS TABLE (live_view regclass, bucket_width interval, exact boolean, reason text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.*
    FROM rollup_engine.find_table(source_table_name) AS t
    CROSS JOIN LATERAL rollup_engine.describe_question(t, width, dimensions, metrics, timezone) AS q
    CROSS JOIN LATERAL rollup_engine.answering_views(q) AS a
$$;
COMMENT ON FUNCTION silver.rollup_for(text, interval, text[], jsonb, text) IS
'Which live views of a source, or of a rollup and what reads it, answer a question of buckets of a width in a time zone, by dimensions: those that know it for all of history first, of these the cheapest; of a metric, or a rollup, that came after time was sealed, reason says since when it is known. exact: its buckets make up those, and it has the dimensions and the states of the metrics, so that its rows, regrouped if need be, say what a GROUP BY of the source would. Columns go by the names that they have now. Those that do not, have dropped rows that the source still has, or are paused, parked or not valid, come after them, each with its reason.';

CREATE FUNCTION silver.live_view_columns(target text)
RETURNS TABLE (target_table text, live_view text, column_name name, kind text, data_type text, equality text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.target_table::text, r.target_view::text, c.column_name, c.kind, rollup_engine.base_type(c.type)::text, rollup_engine.equality_sql(c.type)
    FROM silver.rollup_config AS r LEFT JOIN LATERAL rollup_engine.view_columns(r) AS c ON true
    WHERE r.id = rollup_engine.rollup_id(target)
    ORDER BY c.place
$$;
COMMENT ON FUNCTION silver.live_view_columns(text) IS
'Table and live view of a rollup, and the columns of that as they are called there: the bucket, dimensions and what is stored or finished, each with its type, of a domain that below it, and the operator by which values of it are equal. One row without a column where the view was dropped.';

COMMENT ON FUNCTION silver.rebuild_rollup(text) IS
'After the types of a source''s columns changed, or it or a live view was dropped: gives a rollup and all that read it the types of now and live views, and has all of it recomputed. Sealed rows, and those before the window of a source that is tracked by one, are kept, converted by the settings that PostgreSQL comes with, as times of UTC, with a warning where that may matter; the texts of value_counts stay as they are. Refuses where sealed modes or distinct values would have other texts than the same values have now.';

RESET ROLE;
