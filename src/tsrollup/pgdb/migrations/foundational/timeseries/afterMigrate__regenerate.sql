-- After every migrate, once all is there: versions come first, the engine after them.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    IF to_regprocedure('silver.version()') IS NOT NULL AND to_regprocedure('silver.suggest_indexes(text, text[])') IS NOT NULL THEN
        PERFORM rollup_engine.regenerate();
    END IF;
END
$$;
