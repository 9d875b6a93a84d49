-- The release that these scripts are of; the last of them.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION silver.version() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '0.2.0.dev0';
COMMENT ON FUNCTION silver.version() IS 'Version of tsrollup that migrated this database.';

RESET ROLE;
