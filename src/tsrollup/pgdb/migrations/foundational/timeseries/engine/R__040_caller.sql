-- Who calls, and in what transaction.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

DROP FUNCTION IF EXISTS rollup_engine.check_owner_role(text);
CREATE OR REPLACE FUNCTION rollup_engine.check_owner_role(p_deed text, p_role name DEFAULT current_user) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT pg_has_role(p_role, '${owner_role}', 'USAGE') THEN
        PERFORM rollup_engine.fail('TR004', format('%I may not %s', p_role, p_deed), format(
            -- Of a member without its rights, a GRANT alone changes nothing.
            CASE WHEN NOT pg_has_role(p_role, '${owner_role}', 'MEMBER') THEN 'GRANT %I TO %I'
                WHEN current_setting('server_version_num')::integer >= 160000 THEN 'GRANT %I TO %I WITH INHERIT TRUE' ELSE 'ALTER ROLE %2$I INHERIT' END,
            '${owner_role}', p_role));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_owner_role(text, name) IS 'An error unless the caller, or who is named, is a member of the owner role; it says what may not be done.';

CREATE OR REPLACE FUNCTION rollup_engine.stranger_in_extension(p_extension name) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- What is called there runs with the rights of the machinery. So does another function of the same name that suits a call better.
    RETURN (
        SELECT r.rolname
        FROM pg_extension AS e
        JOIN pg_namespace AS n ON n.oid = e.extnamespace
        CROSS JOIN LATERAL (
            SELECT e.extowner UNION SELECT n.nspowner
            UNION
            SELECT f.proowner FROM pg_depend AS d JOIN pg_proc AS m ON m.oid = d.objid JOIN pg_proc AS f ON f.proname = m.proname AND f.pronamespace = n.oid
            WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
            UNION
            SELECT c.relowner FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid
            WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass
        ) AS o (owner)
        JOIN pg_roles AS r ON r.oid = o.owner
        WHERE e.extname = p_extension AND r.rolname <> 'pg_database_owner' AND NOT pg_has_role(r.oid, '${owner_role}', 'USAGE')
            AND r.oid <> (SELECT datdba FROM pg_database WHERE datname = current_database())
        LIMIT 1);
END
$$;
COMMENT ON FUNCTION rollup_engine.stranger_in_extension(name) IS
'Who is neither a superuser nor a member of the owner role, nor owns the database, and owns an extension, its schema, or a table or function there that may be called; NULL for nobody.';

CREATE OR REPLACE FUNCTION rollup_engine.check_isolation() RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        PERFORM rollup_engine.fail('TR005', format('this cannot run in a %s transaction', current_setting('transaction_isolation')),
            'each of its statements needs a snapshot of its own: SET default_transaction_isolation = ''read committed'' before it, or have the role or the database set it (ALTER ROLE, ALTER DATABASE)');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_isolation() IS 'An error unless every statement takes a new snapshot.';

CREATE OR REPLACE FUNCTION rollup_engine.is_upgrading() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The key that beforeEachMigrate waits for. Nobody waits here: not for a migrate that is waiting, either.
    IF NOT pg_try_advisory_xact_lock_shared(rollup_engine.lock_key('upgrade')) THEN
        RETURN true;
    END IF;
    RETURN EXISTS (SELECT FROM rollup_engine.upgrade);  -- as it is with the lock
END
$$;
COMMENT ON FUNCTION rollup_engine.is_upgrading() IS 'Whether functions of two releases may be there at once. To the end of a transaction that asked, no migrate begins.';

CREATE OR REPLACE FUNCTION rollup_engine.must_rest() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE NOTICE 'this server is a standby: its primary does the work';
        RETURN true;
    ELSIF rollup_engine.is_upgrading() THEN
        RAISE NOTICE 'a migrate is under way, or has ended half way: nothing is done until one ends'
            USING HINT = 'tsrollup migrate';
        RETURN true;
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.must_rest() IS 'Whether nothing is to be done here now; says so.';

CREATE OR REPLACE FUNCTION rollup_engine.check_may_commit(p_refusal text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In a function nobody may: that message, in whatever language.
    COMMIT;
EXCEPTION WHEN invalid_transaction_termination THEN
    IF SQLERRM = p_refusal THEN
        PERFORM rollup_engine.fail('TR005', 'run_rollups commits every batch, which it cannot do here',
            'CALL it by itself, in autocommit: not in a transaction block, a function, or together with other statements; or use silver.perform_rollup there, which works in your transaction');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_may_commit(text) IS 'An error where a procedure may not commit, given what it was told when it tried.';

CREATE OR REPLACE FUNCTION rollup_engine.is_in_reach(p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT has_schema_privilege('${owner_role}', relnamespace, 'USAGE') AND has_table_privilege('${owner_role}', oid, 'SELECT') FROM pg_class WHERE oid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.is_in_reach(regclass) IS 'Whether the machinery may read a table; NULL for one that was dropped since.';

CREATE OR REPLACE FUNCTION rollup_engine.has_buckets(p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.is_in_reach(oid) AND NOT (relrowsecurity AND (relforcerowsecurity OR NOT pg_has_role('${owner_role}', relowner, 'USAGE'))) AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = p_relation AND attname = 'bucket')
    FROM pg_class WHERE oid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.has_buckets(regclass) IS 'Whether the machinery may read the buckets of a rollup''s table, and nobody has renamed them; NULL for one that was dropped since.';

RESET ROLE;
