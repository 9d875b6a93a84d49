-- Who owns what the scripts change is a placeholder, which has to be the same each time.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_owner constant name := (SELECT relowner::regrole FROM pg_class WHERE oid = to_regclass('silver.rollup_config'));
BEGIN
    IF v_owner <> quote_ident('${owner_role}') THEN
        RAISE EXCEPTION USING ERRCODE = 'TR001',
            MESSAGE = format('silver.rollup_config belongs to %s, and these scripts were told that their owner is "${owner_role}"', v_owner),
            HINT = format('migrate with the placeholders of before (tsrollup migrate --placeholder owner_role=%s)', v_owner);
    END IF;
END
$$;
