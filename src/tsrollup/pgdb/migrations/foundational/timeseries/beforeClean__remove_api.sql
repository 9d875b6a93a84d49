-- clean empties rollup_engine only. This takes away what the migrations put into silver, so that
-- they can run again, and first makes sure that nobody loses anything they did not mean to lose.
-- The schemas raw, silver, gold and partman, the group roles and the extensions stay.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_rollups text;
    v_rollup record;
BEGIN
    IF to_regclass('silver.rollup_config') IS NULL THEN
        RETURN;
    END IF;
    SELECT string_agg(target_table::text, ', ' ORDER BY id) INTO v_rollups FROM silver.rollup_config;
    IF v_rollups IS NOT NULL AND '${clean_rollups}' <> 'true' THEN
        RAISE object_in_use USING
            MESSAGE = format('clean would drop these rollups with all that they hold: %s', v_rollups),
            HINT = 'drop_rollup them one by one, or set the placeholder clean_rollups=true (tsrollup clean --rollups)';
    END IF;
    IF to_regclass('silver.archive_log') IS NOT NULL AND '${clean_rollups}' <> 'true' THEN
        IF EXISTS (SELECT FROM silver.archive_log) THEN
            RAISE object_in_use USING
                MESSAGE = 'clean would forget which files hold what was archived: silver.archive_log',
                HINT = 'keep a copy of it, and set the placeholder clean_rollups=true (tsrollup clean --rollups)';
        END IF;
    END IF;
    DELETE FROM rollup_engine.upgrade;  -- one that has ended half way as well
    -- Rollups of rollups came later than what they read.
    FOR v_rollup IN SELECT id, target_table::text AS name FROM silver.rollup_config ORDER BY id DESC LOOP
        IF to_regprocedure('rollup_engine.drop_in_turn(text, boolean)') IS NOT NULL THEN
            PERFORM silver.drop_rollup(v_rollup.name);
        ELSE  -- half way from 0.1.0: triggers go with their functions
            PERFORM rollup_engine.remove_rollup(v_rollup.id, false);
        END IF;
    END LOOP;
END
$$;

DO $$
DECLARE
    v_strangers text;
    v_object record;
BEGIN
    IF to_regnamespace('silver') IS NULL OR to_regrole('"${owner_role}"') IS NULL THEN
        RETURN;
    END IF;
    CREATE TEMPORARY TABLE api ON COMMIT DROP AS
        SELECT 'pg_proc'::regclass AS class, oid, 'ROUTINE' AS kind, oid::regprocedure::text AS name
        FROM pg_proc
        WHERE pronamespace = 'silver'::regnamespace AND proowner = to_regrole('"${owner_role}"')
        UNION ALL
        SELECT 'pg_class'::regclass, oid, CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass::text
        FROM pg_class
        WHERE relnamespace = 'silver'::regnamespace AND relname IN (
            'rollup_config', 'dimension_config', 'refresh_log', 'error_log', 'archive_log', 'timeseries_operations_monitor');
    -- Their row types, and arrays of these, go with them.
    INSERT INTO api
    SELECT 'pg_type'::regclass, t.oid, NULL, t.oid::regtype::text
    FROM api JOIN pg_type AS r ON r.typrelid = api.oid JOIN pg_type AS t ON t.oid IN (r.oid, r.typarray)
    WHERE api.class = 'pg_class'::regclass;

    -- A view, an index, a column default of somebody else's that uses time_bucket, for example.
    SELECT string_agg(DISTINCT pg_describe_object(classid, objid, objsubid), ', ')
    INTO v_strangers
    FROM pg_depend, pg_identify_object_as_address(classid, objid, objsubid) AS dependent
    WHERE (refclassid, refobjid) IN (
            SELECT class, oid FROM api UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = to_regnamespace('rollup_engine'))
        AND (classid, objid) NOT IN (SELECT class, oid FROM api) AND classid <> 'pg_trigger'::regclass
        AND deptype = 'n'
        AND dependent.object_names[1] <> 'rollup_engine'
        AND dependent.object_names[1] || '.' || dependent.object_names[2] NOT IN (SELECT name FROM api);
    IF v_strangers IS NOT NULL THEN
        RAISE dependent_objects_still_exist USING
            MESSAGE = format('clean would take along what uses schema silver or rollup_engine: %s', v_strangers),
            HINT = 'drop or change these first';
    END IF;

    FOR v_object IN SELECT kind, name FROM api WHERE kind IS NOT NULL ORDER BY kind DESC, name LOOP
        EXECUTE format('DROP %s IF EXISTS %s CASCADE', v_object.kind, v_object.name);
    END LOOP;
END
$$;
