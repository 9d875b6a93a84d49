-- After every migrate (of all, not up to some version).

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    IF to_regprocedure('rollup_engine.regenerate()') IS NOT NULL AND to_regprocedure('silver.version()') IS NOT NULL THEN
        PERFORM rollup_engine.regenerate();
    END IF;
END
$$;
