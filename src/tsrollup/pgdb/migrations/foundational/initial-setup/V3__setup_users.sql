-- Group roles, which nobody logs in as: people and programs are made members of them.
--   owner     owns the machinery in silver, gold and rollup_engine
--   operator  runs, retries, maintains and configures rollups
--   writer    writes into raw
--   reader    reads gold and the monitor
-- Roles belong to the whole cluster, so another database's migration may create them meanwhile.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_missing text[];
    v_role text;
BEGIN
    SELECT coalesce(array_agg(DISTINCT wanted), '{}')
    INTO v_missing
    FROM unnest(ARRAY['${owner_role}', '${operator_role}', '${writer_role}', '${reader_role}']) AS wanted
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted);

    IF cardinality(v_missing) > 0
        AND NOT (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user)
    THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('role %I may not create the group roles %s', current_user,
                array_to_string(v_missing, ', ')),
            HINT = format('As an administrator run: %s; GRANT %I TO %I; or ALTER ROLE %I CREATEROLE;',
                (SELECT string_agg(format('CREATE ROLE %I NOLOGIN', missing), '; ')
                    FROM unnest(v_missing) AS missing),
                '${owner_role}', current_user, current_user);
    END IF;

    FOREACH v_role IN ARRAY v_missing LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            RAISE NOTICE 'role % was created by somebody else just now', v_role;
        END;
    END LOOP;
END
$$;

-- The migrating role must be able to become the owner role and to act with its rights. From
-- PostgreSQL 16 the creator of a role has neither, only the option to grant them to itself.
DO $$
DECLARE
    v_options text := '';
    v_switch text := 'MEMBER';
BEGIN
    IF current_setting('server_version_num')::integer >= 160000 THEN
        v_options := ' WITH INHERIT TRUE, SET TRUE';
        v_switch := 'SET';
    END IF;
    -- Two databases that grant the same membership at once fail with "tuple concurrently updated".
    FOR v_attempt IN 1 .. 20 LOOP
        EXIT WHEN pg_has_role('${owner_role}', 'USAGE') AND pg_has_role('${owner_role}', v_switch);
        BEGIN
            EXECUTE format('GRANT %I TO CURRENT_USER', '${owner_role}') || v_options;
            EXIT;
        EXCEPTION
            WHEN unique_violation OR internal_error THEN
                IF v_attempt = 20 THEN
                    RAISE;
                END IF;
            WHEN insufficient_privilege THEN
                RAISE insufficient_privilege USING
                    MESSAGE = format('role %I is not a member of %I and may not become one',
                        current_user, '${owner_role}'),
                    HINT = format('As an administrator run: GRANT %I TO %I;', '${owner_role}', current_user);
        END;
    END LOOP;
END
$$;

-- On RDS, membership in rds_iam lets members log in by token, and, indirect or not, shuts out
-- passwords. The role that migrates must not lock itself out that way.
DO $$
DECLARE
    v_is_super boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
    v_role text;
BEGIN
    IF to_regrole('rds_iam') IS NULL THEN
        RETURN;
    END IF;
    FOREACH v_role IN ARRAY ARRAY['${operator_role}', '${writer_role}', '${reader_role}'] LOOP
        IF pg_has_role(v_role, 'rds_iam', 'MEMBER') THEN
            CONTINUE;
        END IF;
        IF NOT v_is_super AND pg_has_role(v_role, 'MEMBER') THEN
            RAISE NOTICE 'rds_iam is not granted to %: % is a member of it and would lose its password', v_role, current_user;
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('GRANT rds_iam TO %I', v_role);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE 'rds_iam is not granted to %: %', v_role, SQLERRM;
        END;
    END LOOP;
END
$$;
