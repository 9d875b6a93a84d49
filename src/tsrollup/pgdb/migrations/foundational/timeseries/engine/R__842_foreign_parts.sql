-- What is of a rollup or a source that is not known here: it came with a dump that was restored in part,
-- or beside rollups that have the same numbers.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.foreign_parts() RETURNS TABLE (part text, problem text, removal text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT DISTINCT v.oid::regclass::text, 'it is the live view of no rollup here: what it answers may be wrong', format('DROP VIEW %s', v.oid::regclass)
    FROM pg_proc AS f
    JOIN pg_depend AS d ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = f.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite AS w ON w.oid = d.objid
    JOIN pg_class AS v ON v.oid = w.ev_class AND v.relkind = 'v' AND v.relnamespace NOT IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
    WHERE f.pronamespace = 'rollup_engine'::regnamespace AND f.proname ~ '^(live|stale|open|plain|far)_'
        AND NOT EXISTS (SELECT FROM silver.rollup_config AS r WHERE r.target_view = v.oid)
    UNION ALL
    SELECT DISTINCT g.tgrelid::regclass::text, 'its changes are logged for a source that is not known here, and for nobody', format('DROP FUNCTION %s CASCADE', f.oid::regprocedure)
    FROM pg_proc AS f
    JOIN pg_trigger AS g ON g.tgfoid = f.oid AND g.tgparentid = 0
    JOIN pg_class AS c ON c.oid = g.tgrelid AND NOT c.relispartition
    WHERE f.pronamespace = 'rollup_engine'::regnamespace AND f.proname ~ '^capture_[0-9]+$'
        AND NOT EXISTS (SELECT FROM rollup_engine.source AS s WHERE f.proname = format('capture_%s', s.id))
    ORDER BY 1
$$;
COMMENT ON FUNCTION rollup_engine.foreign_parts() IS 'Live views and capture triggers of rollups and sources that are not known here; what is wrong with each, and what removes it.';

RESET ROLE;
