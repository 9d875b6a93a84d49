-- After every migrate (of all, not up to some version): rights that a restore without them has
-- lost are given back.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    IF to_regprocedure('rollup_engine.keep_rights()') IS NOT NULL THEN
        PERFORM rollup_engine.keep_rights();
    END IF;
END
$$;
