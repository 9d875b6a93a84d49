-- Who may do what in the five schemas; rights on single functions and views stand beside them.
-- Nobody else may do anything. Tables that were there before are left as they are.

SET LOCAL search_path = pg_catalog, pg_temp;

GRANT USAGE, CREATE ON SCHEMA silver, gold, rollup_engine TO "${owner_role}";
GRANT USAGE ON SCHEMA silver, gold TO "${operator_role}", "${reader_role}";
-- run_rollups commits, so it cannot be SECURITY DEFINER, and calls the machinery by name.
GRANT USAGE ON SCHEMA rollup_engine TO "${operator_role}";

-- What the owner role creates from here on. A schema can only add to the rights of PUBLIC, so
-- taking EXECUTE away holds for all that this role creates.
ALTER DEFAULT PRIVILEGES FOR ROLE "${owner_role}" REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE "${owner_role}" IN SCHEMA silver
    GRANT EXECUTE ON ROUTINES TO "${operator_role}";
ALTER DEFAULT PRIVILEGES FOR ROLE "${owner_role}" IN SCHEMA silver
    GRANT SELECT ON TABLES TO "${operator_role}";
ALTER DEFAULT PRIVILEGES FOR ROLE "${owner_role}" IN SCHEMA gold
    GRANT SELECT ON TABLES TO "${operator_role}", "${reader_role}";

-- raw may be an application's schema, and then its rights are that application's business.
-- No TRUNCATE for writers: it locks readers out and is not MVCC-safe.
DO $$
BEGIN
    IF NOT has_schema_privilege('raw', 'USAGE WITH GRANT OPTION') THEN
        RAISE NOTICE 'schema raw belongs to somebody else: grant % and % USAGE on it there',
            '${owner_role}', '${writer_role}';
        RETURN;
    END IF;
    -- Operators only name tables in it.
    GRANT USAGE ON SCHEMA raw TO "${owner_role}", "${operator_role}", "${writer_role}";
    ALTER DEFAULT PRIVILEGES IN SCHEMA raw
        GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "${writer_role}";
    ALTER DEFAULT PRIVILEGES IN SCHEMA raw
        GRANT USAGE ON SEQUENCES TO "${writer_role}";
    ALTER DEFAULT PRIVILEGES FOR ROLE "${owner_role}" IN SCHEMA raw
        GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "${writer_role}";
END
$$;

-- pg_partman acts with the rights of its caller, which for rollup tables is the owner role.
DO $$
DECLARE
    v_schema text;
BEGIN
    SELECT extnamespace::regnamespace::text INTO v_schema FROM pg_extension WHERE extname = 'pg_partman';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- CREATE, because create_parent may want to put a template table beside its configuration.
    IF NOT has_schema_privilege(v_schema, 'CREATE WITH GRANT OPTION')
        OR NOT has_table_privilege(v_schema || '.part_config', 'INSERT WITH GRANT OPTION')
    THEN
        RAISE NOTICE 'pg_partman belongs to somebody else; partitions are native unless its owner runs: GRANT USAGE, CREATE ON SCHEMA % TO %; GRANT ALL ON ALL TABLES IN SCHEMA % TO %;',
            v_schema, '${owner_role}', v_schema, '${owner_role}';
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %s TO %I', v_schema, '${owner_role}');
    EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %s TO %I', v_schema, '${owner_role}');
END
$$;

-- The planner's guesses for live reads start a compilation that takes longer than the read.
DO $$
DECLARE
    v_database record;
BEGIN
    IF '${database_jit}' = 'keep' THEN
        RETURN;
    END IF;
    SELECT datdba, EXISTS (
        SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting
        WHERE setdatabase = pg_database.oid AND setrole = 0 AND setting LIKE 'jit=%'
    ) AS has_setting
    INTO v_database
    FROM pg_database
    WHERE datname = current_database();
    IF v_database.has_setting THEN
        RAISE NOTICE 'jit of this database is set already, and stays';
    ELSIF NOT pg_has_role(v_database.datdba, 'USAGE') THEN
        RAISE NOTICE 'jit stays as it is: only the owner of the database may set it';
    ELSE
        EXECUTE format('ALTER DATABASE %I SET jit = %L', current_database(), '${database_jit}');
    END IF;
END
$$;
