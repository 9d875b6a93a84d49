-- After a dump was restored without rights (pg_restore -x, -O) the owner role may do nothing of what
-- scripts have it do. So the first thing is to give back what the last migrate has noted.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    BEGIN
        IF to_regprocedure('rollup_engine.has_rights()') IS NULL THEN
            RETURN;
        END IF;
        -- That of 0.1.0 gave all back.
        IF to_regprocedure('rollup_engine.lost_rights()') IS NOT NULL OR NOT rollup_engine.has_rights() THEN
            PERFORM rollup_engine.give_back_rights();
        END IF;
        -- Without rows nobody knows of any: the next script says so.
        IF rollup_engine.has_rights() OR NOT EXISTS (SELECT FROM rollup_engine.aggregate) THEN
            RETURN;
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;  -- not even to look there
    END;
    RAISE EXCEPTION USING ERRCODE = 'TR005',
        MESSAGE = format('the group roles lack their rights, as after a restore without them, and %I may not give them back', current_user),
        HINT = format('migrate as a superuser; or as the owner of schemas and tables, after GRANT %I TO %I', '${owner_role}', current_user);
END
$$;
