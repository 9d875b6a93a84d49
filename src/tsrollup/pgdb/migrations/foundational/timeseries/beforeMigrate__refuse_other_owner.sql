-- Who owns what the scripts change is a placeholder, which has to be the same each time. What the scripts of
-- a migrate that ended half way have made is noted nowhere: a restore without owners loses it for good.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_owner constant text := (SELECT relowner::regrole FROM pg_class WHERE oid = to_regclass('silver.rollup_config'));
    v_lost constant text := (
        SELECT min(oid::regprocedure::text) FROM pg_proc
        WHERE pronamespace = to_regnamespace('rollup_engine') AND proowner::regrole::text <> v_owner);
BEGIN
    IF v_owner <> quote_ident('${owner_role}') THEN
        RAISE EXCEPTION USING ERRCODE = 'TR001',
            MESSAGE = format('silver.rollup_config belongs to %s, and these scripts were told that their owner is "${owner_role}"', v_owner),
            HINT = format('migrate with the placeholders of before (tsrollup migrate --placeholder owner_role=%s)', v_owner);
    END IF;
    IF v_lost IS NULL OR to_regclass('rollup_engine.upgrade') IS NULL THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM rollup_engine.upgrade) THEN
        RAISE EXCEPTION USING ERRCODE = 'TR005',
            MESSAGE = format('a migrate had ended half way when this database was dumped, and it was restored without owners: %s has lost its own', v_lost),
            HINT = 'restore it with them (pg_restore without -O), and migrate; or migrate where the dump comes from to the end, and dump again';
    END IF;
END
$$;
