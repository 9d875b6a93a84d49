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
    IF ARRAY(SELECT m[1]::integer FROM regexp_matches(v_there, '[0-9]+', 'g') AS m) > ARRAY(SELECT m[1]::integer FROM regexp_matches(v_these, '[0-9]+', 'g') AS m) THEN
        RAISE EXCEPTION USING ERRCODE = 'TR005',
            MESSAGE = format('this database was migrated by tsrollup %s, and these scripts are of %s', v_there, v_these),
            HINT = format('migrate with the scripts of %s or a later release', v_there);
    END IF;
END
$$;
