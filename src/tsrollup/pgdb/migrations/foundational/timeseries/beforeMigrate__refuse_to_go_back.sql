-- Scripts of an earlier release do not know what later ones have made: they would put their machinery over theirs.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_these constant text := '0.2.0.dev0';
    -- Read, not run: whose it is, nobody has asked yet.
    v_there constant text := (
        SELECT substring(coalesce(pg_get_function_sqlbody(oid), prosrc) FROM '''([^'']+)''') FROM pg_proc
        WHERE pronamespace = to_regnamespace('silver') AND proname = 'version' AND pronargs = 0);
BEGIN
    -- What comes before a release, as 1.2.0.dev0, counts as that.
    IF string_to_array(substring(v_there FROM '^[0-9]+(?:[.][0-9]+)*'), '.')::integer[] > string_to_array(substring(v_these FROM '^[0-9]+(?:[.][0-9]+)*'), '.')::integer[] THEN
        RAISE EXCEPTION USING ERRCODE = 'TR005',
            MESSAGE = format('this database was migrated by tsrollup %s, and these scripts are of %s', v_there, v_these),
            HINT = format('migrate with the scripts of %s or a later release', v_there);
    END IF;
END
$$;
