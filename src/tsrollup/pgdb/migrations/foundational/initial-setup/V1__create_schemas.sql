-- The schemas of the data's way: raw (sources) -> silver (states) -> gold (live views), and
-- partman for pg_partman. rollup_engine is Flyway's own schema and holds the machinery.
-- A schema that is there already stays as it is: it may be an application's.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_schema text;
BEGIN
    FOREACH v_schema IN ARRAY ARRAY['raw', 'silver', 'gold', 'partman', 'rollup_engine'] LOOP
        -- CREATE SCHEMA IF NOT EXISTS asks for CREATE on the database even when there is nothing to do.
        IF to_regnamespace(v_schema) IS NULL THEN
            EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', v_schema);
        END IF;
    END LOOP;
END
$$;

-- Found now rather than half way through the engine, and said in one line.
DO $$
DECLARE
    v_schema record;
BEGIN
    FOR v_schema IN
        SELECT nspname, pg_get_userbyid(nspowner) AS owner
        FROM pg_namespace
        WHERE nspname IN ('silver', 'gold', 'rollup_engine')
            AND NOT (has_schema_privilege(oid, 'CREATE WITH GRANT OPTION')
                AND has_schema_privilege(oid, 'USAGE WITH GRANT OPTION'))
    LOOP
        RAISE insufficient_privilege USING
            MESSAGE = format('schema %I belongs to %I, and %I may not grant rights in it',
                v_schema.nspname, v_schema.owner, current_user),
            HINT = format('As %I run: GRANT USAGE, CREATE ON SCHEMA %I TO %I WITH GRANT OPTION;',
                v_schema.owner, v_schema.nspname, current_user);
    END LOOP;
END
$$;
