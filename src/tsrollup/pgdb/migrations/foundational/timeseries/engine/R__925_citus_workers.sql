-- What the workers of Citus need to answer for the machinery: its role, which they are asked as, and the
-- functions that its queries name.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.aggregate_sql(p_aggregate regprocedure) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('CREATE OR REPLACE AGGREGATE %s (%s)', p_aggregate, concat_ws(', ',
        'sfunc = ' || aggtransfn::regproc, 'stype = ' || format_type(aggtranstype, NULL),
        'finalfunc = ' || nullif(aggfinalfn, 0)::regproc, CASE WHEN aggfinalextra THEN 'finalfunc_extra' END, 'combinefunc = ' || nullif(aggcombinefn, 0)::regproc,
        'initcond = ' || quote_literal(agginitval), 'parallel = ' || CASE proparallel WHEN 's' THEN 'safe' ELSE 'unsafe' END))
    FROM pg_aggregate JOIN pg_proc ON pg_proc.oid = aggfnoid
    WHERE aggfnoid = p_aggregate
$$;
COMMENT ON FUNCTION rollup_engine.aggregate_sql(regprocedure) IS 'Text of an aggregate, which the server, as it has none for functions, cannot give.';

CREATE OR REPLACE FUNCTION rollup_engine.type_sql(p_type regtype) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('DO %L', format('BEGIN IF to_regtype(%L) IS NULL THEN CREATE TYPE %1$s AS (%s); END IF; END', p_type,
        string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)))
    FROM pg_attribute WHERE attrelid = (SELECT typrelid FROM pg_type WHERE oid = p_type)
$$;
COMMENT ON FUNCTION rollup_engine.type_sql(regtype) IS 'Text that makes a composite type where it is not.';

CREATE OR REPLACE FUNCTION rollup_engine.functions_of_queries() RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Those that look at no table: neither by what they read, nor by the type of what they are given.
    WITH RECURSIVE functions AS (
        SELECT p.oid, p.prokind, p.provolatile, t.composites
        FROM pg_proc AS p
        CROSS JOIN LATERAL (
            SELECT array_agg(t.oid::regtype) FILTER (WHERE c.relkind = 'c') AS composites, count(c.oid) FILTER (WHERE c.relkind <> 'c') AS tables
            FROM unnest(p.proargtypes || p.prorettype) AS a (type)
            JOIN pg_type AS t ON a.type IN (t.oid, t.typarray)
            JOIN pg_class AS c ON c.oid = t.typrelid
        ) AS t
        WHERE p.pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
            AND p.proowner = '"${owner_role}"'::regrole AND t.tables = 0
    ), uses AS (  -- a function as often as there are ways to it from others
        SELECT oid, 0 AS depth FROM functions WHERE provolatile = 'i'
        UNION
        SELECT d.refobjid, u.depth + 1
        FROM uses AS u
        JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = u.oid AND d.refclassid = 'pg_proc'::regclass
        JOIN functions AS f ON f.oid = d.refobjid
    )
    SELECT rollup_engine.type_sql(type) FROM (SELECT DISTINCT unnest(composites) FROM uses JOIN functions USING (oid)) AS t (type)
    UNION ALL (
        SELECT CASE prokind WHEN 'a' THEN rollup_engine.aggregate_sql(oid) ELSE pg_get_functiondef(oid) END
        FROM uses JOIN functions USING (oid)
        GROUP BY oid, prokind ORDER BY max(depth) DESC)
$$;
COMMENT ON FUNCTION rollup_engine.functions_of_queries() IS 'Texts of the types, functions and aggregates that the query of a rollup may name, each after those that it names.';

CREATE OR REPLACE FUNCTION rollup_engine.ask_workers(p_statements text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_answer record;
BEGIN
    FOR v_answer IN
        SELECT w.nodename, w.nodeport, w.result
        FROM run_command_on_workers(format('DO %L', (
            SELECT format('BEGIN %s END', string_agg(format('EXECUTE %L;', statement), ' ' ORDER BY place))
            FROM unnest('{SET LOCAL citus.enable_ddl_propagation = off,SET LOCAL check_function_bodies = off}' || p_statements) WITH ORDINALITY AS s (statement, place)))) AS w
        WHERE NOT w.success
    LOOP
        PERFORM rollup_engine.fail('TR005', format('the worker %s:%s cannot be prepared: %s', v_answer.nodename, v_answer.nodeport, v_answer.result),
            'migrate as a superuser of all nodes, when they are up');
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.ask_workers(text[]) IS 'Runs statements in one transaction of each worker of Citus, which ends before the one that asks does.';

CREATE OR REPLACE FUNCTION rollup_engine.prepare_workers() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_functions text[];
BEGIN
    IF NOT rollup_engine.is_coordinator() THEN
        RETURN;
    END IF;
    v_functions := ARRAY(SELECT rollup_engine.functions_of_queries());
    -- They are asked as the owner role. It has no password: only a server that trusts its coordinator lets it in.
    -- Here as well: Citus gives them the attributes that a role has here, when a distributed table first needs it.
    PERFORM rollup_engine.tell_workers(false);
    ALTER ROLE "${owner_role}" LOGIN;
    PERFORM rollup_engine.ask_workers(ARRAY(
        SELECT format('DO %L', format('BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %L) THEN CREATE ROLE %1$I; END IF; END', role))
        FROM unnest('{"${owner_role}","${operator_role}","${writer_role}","${reader_role}"}'::text[]) AS r (role))
        || ARRAY[
            -- By what the planner makes of a batch's parameters, each task would compile for longer than it runs.
            'ALTER ROLE "${owner_role}" LOGIN', 'ALTER ROLE "${owner_role}" SET jit = off', 'CREATE SCHEMA IF NOT EXISTS silver', 'CREATE SCHEMA IF NOT EXISTS rollup_engine',
            'GRANT USAGE, CREATE ON SCHEMA silver, rollup_engine TO "${owner_role}"',
            'GRANT USAGE ON SCHEMA silver, rollup_engine TO "${reader_role}"']
        -- What a worker does for the machinery goes by the settings of its role there.
        || ARRAY(
            SELECT format('ALTER ROLE "${owner_role}" SET %s', btrim(setting, chr(10) || ' '))
            FROM unnest(string_to_array(rollup_engine.pinned_settings(), 'SET ')) AS s (setting)
            WHERE setting <> '' AND setting NOT LIKE 'citus.%')
        || format('COMMENT ON SCHEMA rollup_engine IS %L', md5(v_functions::text))
        || 'SET LOCAL ROLE "${owner_role}"'::text
        || v_functions);
    PERFORM rollup_engine.note_text('workers', v_functions::text);
END
$$;
COMMENT ON FUNCTION rollup_engine.prepare_workers() IS 'Gives the workers of Citus, where there are some, the group roles, their rights, and the functions of queries.';

RESET ROLE;
