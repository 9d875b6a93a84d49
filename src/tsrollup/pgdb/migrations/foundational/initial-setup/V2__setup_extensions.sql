-- Every extension is optional. What the server does not offer, or this role may not create, is
-- skipped with a NOTICE that says what will be missing. Each is installed into a schema of its
-- own choice here: without SCHEMA it would land in Flyway's, where clean would take it away
-- together with the columns that use its types.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_public text := CASE WHEN to_regnamespace('public') IS NULL THEN 'silver' ELSE 'public' END;
    v_extension record;
BEGIN
    FOR v_extension IN
        SELECT wanted.*, available.name IS NOT NULL AS is_available
        FROM (
            VALUES
                ('pg_partman', 'partman', 'partitions are made and dropped natively'),
                ('ltree', v_public, 'dimensions cannot be rolled up by ancestor'),
                ('btree_gin', v_public, 'many dimensions get btree indexes in place of one GIN index'),
                ('hypopg', v_public, 'silver.suggest_indexes is not available')
        ) AS wanted (name, schema, consequence)
        LEFT JOIN pg_available_extensions AS available USING (name)
        WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = wanted.name)
    LOOP
        IF NOT v_extension.is_available THEN
            RAISE NOTICE 'extension % is not on this server: %', v_extension.name, v_extension.consequence;
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('CREATE EXTENSION IF NOT EXISTS %I SCHEMA %I', v_extension.name, v_extension.schema);
        EXCEPTION WHEN OTHERS THEN
            -- Managed services refuse an extension with error codes of their own.
            RAISE NOTICE 'extension % could not be created: % (%): %', v_extension.name,
                SQLERRM, SQLSTATE, v_extension.consequence;
        END;
    END LOOP;
END
$$;

-- These two work only where shared_preload_libraries has loaded them, which shows in their
-- settings; pg_cron, further, only in the one database that it lives in.
DO $$
DECLARE
    v_public text := CASE WHEN to_regnamespace('public') IS NULL THEN 'silver' ELSE 'public' END;
    v_is_loaded boolean;
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements') THEN
        RETURN;
    END IF;
    v_is_loaded := EXISTS (SELECT FROM pg_settings WHERE name = 'pg_stat_statements.max');
    IF NOT v_is_loaded THEN
        RAISE NOTICE 'pg_stat_statements is not loaded: silver.get_detailed_stats shows no query times';
        RETURN;
    END IF;
    EXECUTE format('CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA %I', v_public);
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'extension pg_stat_statements could not be created: % (%): %', SQLERRM, SQLSTATE,
        'silver.get_detailed_stats shows no query times';
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'cron.database_name' AND setting = current_database()) THEN
        CREATE EXTENSION IF NOT EXISTS pg_cron;
    ELSE
        RAISE NOTICE 'pg_cron does not live in this database: the postgres migrations schedule from its own, or run tsrollup worker';
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'extension pg_cron could not be created: % (%): run tsrollup worker', SQLERRM, SQLSTATE;
END
$$;
