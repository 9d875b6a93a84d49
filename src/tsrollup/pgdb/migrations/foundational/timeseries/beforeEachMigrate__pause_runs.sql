-- With functions of two releases side by side nothing must be stored. What runs is waited for, a
-- batch at most, and nothing begins before a migrate has ended.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    IF to_regclass('rollup_engine.upgrade') IS NOT NULL THEN
        SET LOCAL ROLE "${owner_role}";
        IF NOT EXISTS (SELECT FROM rollup_engine.upgrade) THEN
            LOCK TABLE rollup_engine.upgrade;
            INSERT INTO rollup_engine.upgrade DEFAULT VALUES;
        END IF;
        RESET ROLE;
    END IF;
END
$$;
