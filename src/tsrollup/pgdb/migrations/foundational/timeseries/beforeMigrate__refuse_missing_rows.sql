-- A schema that was restored without its rows (pg_dump -s) has all that the scripts make, and no
-- history that says so. Run again, they would fail half way, and rollups would rest from then on.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_is_empty boolean := false;
BEGIN
    BEGIN
        IF to_regclass('rollup_engine.aggregate') IS NOT NULL THEN
            EXECUTE 'SELECT NOT EXISTS (SELECT FROM rollup_engine.aggregate)' INTO v_is_empty;
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;  -- rights are given back later
    END;
    IF v_is_empty THEN
        RAISE EXCEPTION USING ERRCODE = 'TR005',
            MESSAGE = 'this database has the tables of tsrollup without their rows: its schema was restored without its data',
            HINT = 'restore the data of the same dump (pg_restore -a); or tsrollup clean, drop what is left of the rollups'' tables, migrate, and create the rollups anew';
    END IF;
END
$$;
