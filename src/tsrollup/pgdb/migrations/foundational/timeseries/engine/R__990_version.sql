-- The release that these scripts are of; the last of them.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION silver.version() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT '0.1.0' WHERE NOT EXISTS (SELECT FROM rollup_engine.upgrade)
$$;
COMMENT ON FUNCTION silver.version() IS
'Version of tsrollup that migrated this database; NULL while a migrate is under way, or has ended half way.';

RESET ROLE;
