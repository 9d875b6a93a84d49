-- Rollups lie in silver, and so does the API: what somebody else made there under a name of a later
-- release would end the migrate half way, and rollups would rest from then on.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_taken text := (
        SELECT string_agg(pg_describe_object(t.class, t.oid, 0), ', ')
        FROM (
            SELECT 'pg_class'::regclass AS class, c.oid
            FROM pg_class AS c
            WHERE c.relnamespace = to_regnamespace('silver') AND c.relname IN ('archive_log', 'archive_log_source_idx')
                AND to_regclass('rollup_engine.detached_partition') IS NULL  -- which came with ours
            UNION ALL
            SELECT 'pg_proc'::regclass, p.oid
            FROM pg_proc AS p
            WHERE p.pronamespace = to_regnamespace('silver') AND p.proowner <> coalesce(to_regrole('"${owner_role}"'), 0)
                AND (p.oid::regprocedure::text ~ '^silver[.]time_bucket[(]interval,(date|timestamp with(out)? time zone)(,text)?(,timestamp with time zone)?[)]$'
                OR p.oid::regprocedure::text IN (
                    'silver.gapfill(anyelement,timestamp with time zone,timestamp with time zone,jsonb,jsonb)',
                    'silver.gapfill_query(regtype,timestamp with time zone,timestamp with time zone,jsonb,jsonb)',
                    'silver.rollup_for(text,interval,text[],jsonb,text)', 'silver.live_view_columns(text)', 'silver.version()',
                    'silver.alter_rollup(text,interval,interval,interval,interval,interval,text)',
                    'silver.add_rollup_metric(text,jsonb,jsonb)', 'silver.drop_rollup_metric(text,jsonb)'))
        ) AS t);
BEGIN
    IF v_taken IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TR005', MESSAGE = format('this release makes what somebody has already: %s', v_taken),
            HINT = 'rename it, or move it to another schema, and migrate again; a rollup follows when its table is renamed';
    END IF;
END
$$;
