-- The last to be created: where it says so, a database is migrated to the end.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION silver.version() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '0.1.0';
COMMENT ON FUNCTION silver.version() IS 'Version of tsrollup that migrated this database to the end.';

RESET ROLE;
