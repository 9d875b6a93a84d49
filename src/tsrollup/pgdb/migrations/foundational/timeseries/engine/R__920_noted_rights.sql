-- A dump restored without rights (pg_restore -x, -O) leaves tables and functions that nobody may
-- use, and functions that everybody may. So each migrate notes the rights as statements, and
-- one that finds them lost (beforeMigrate) first runs what was noted.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.rights_sql() RETURNS TABLE ("position" integer, statement text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH object (kind, name, owner, rights) AS (
        SELECT 'SCHEMA', quote_ident(nspname), NULL, nspacl FROM pg_namespace WHERE nspname IN ('raw', 'silver', 'gold', 'rollup_engine')
        UNION ALL
        SELECT 'ROUTINE', oid::regprocedure::text, proowner::regrole, proacl FROM pg_proc
        WHERE pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace) AND proowner = '"${owner_role}"'::regrole
        UNION ALL
        SELECT 'TYPE', t.oid::regtype::text, t.typowner::regrole, NULL FROM pg_type AS t
        WHERE t.typnamespace = 'rollup_engine'::regnamespace AND t.typowner = '"${owner_role}"'::regrole
            AND t.oid IN (SELECT c.reltype FROM pg_class AS c WHERE c.relkind = 'c')
        UNION ALL
        SELECT 'TABLE', oid::regclass::text, relowner::regrole, NULL FROM pg_class
        WHERE relnamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace, 'gold'::regnamespace)
            AND relkind IN ('r', 'p', 'v', 'm')
            AND (relowner = '"${owner_role}"'::regrole OR oid IN (SELECT target_view FROM silver.rollup_config))
    ), default_rights (scope, kind, rights) AS (
        SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %s ', defaclrole::regrole)
                || CASE WHEN defaclnamespace = 0 THEN '' ELSE format('IN SCHEMA %s ', defaclnamespace::regnamespace) END,
            CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES' END, d
        FROM pg_default_acl AS d
        WHERE defaclrole IN ('"${owner_role}"'::regrole, quote_ident(current_user)::regrole) AND defaclobjtype IN ('r', 'S', 'f')
            AND (defaclnamespace = 0 OR defaclnamespace::regnamespace::text IN ('raw', 'silver', 'gold'))
    )
    SELECT 1, format('ALTER %s %s OWNER TO %s', kind, name, owner) FROM object WHERE owner IS NOT NULL
    UNION ALL
    SELECT 2, format('REVOKE ALL ON %s %s FROM PUBLIC', kind, name) FROM object WHERE kind = 'ROUTINE' AND rights IS NOT NULL
    UNION ALL
    SELECT 3, format('GRANT %s ON %s %s TO %s', a.privilege_type, kind, name, rollup_engine.grantee_name(a.grantee))
    FROM object, aclexplode(rights) AS a WHERE a.grantee <> a.grantor
    UNION ALL
    SELECT 3, rollup_engine.grants_sql(name::regclass) FROM object WHERE kind = 'TABLE'
    UNION ALL
    SELECT 2, format('%sREVOKE EXECUTE ON ROUTINES FROM PUBLIC', scope) FROM default_rights
    WHERE kind = 'ROUTINES' AND (rights).defaclnamespace = 0
    UNION ALL
    SELECT 3, format('%sGRANT %s ON %s TO %s', scope, a.privilege_type, kind, a.grantee::regrole)
    FROM default_rights, aclexplode((rights).defaclacl) AS a WHERE a.grantee NOT IN (0, a.grantor)
$$;
COMMENT ON FUNCTION rollup_engine.rights_sql() IS 'Owners and rights as they are, as statements in the order to run them.';

CREATE OR REPLACE FUNCTION rollup_engine.is_noted(p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM rollup_engine.noted_right WHERE starts_with(statement, format('ALTER TABLE %s OWNER TO ', p_relation)))
$$;
COMMENT ON FUNCTION rollup_engine.is_noted(regclass) IS 'Whether the last migrate has noted the owner of a table or view, and all rights that somebody had on it.';

CREATE OR REPLACE FUNCTION rollup_engine.rollup_rights_sql() RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Rollups come and go without a migrate. What was noted, or came along, is as its owner wants it.
    SELECT format('ALTER TABLE %s OWNER TO "${owner_role}"', t.relation)
    FROM (
        SELECT member FROM silver.rollup_config, rollup_engine.partition_tree(target_table) AS m (member)
        UNION ALL
        SELECT target_view FROM silver.rollup_config WHERE rollup_engine.is_relation(target_view) AND NOT rollup_engine.is_noted(target_view)
    ) AS t (relation)
    UNION ALL
    SELECT format('ALTER FUNCTION rollup_engine.capture_%s() OWNER TO "${owner_role}"', id) FROM rollup_engine.source WHERE change_tracking = 'trigger'
    UNION ALL
    SELECT format(t.text, id)
    FROM rollup_engine.source CROSS JOIN (VALUES
        (false, 'ALTER FUNCTION rollup_engine.tail_%s() OWNER TO "${owner_role}"'),
        (true, 'ALTER FUNCTION rollup_engine.tail_edges_%s() OWNER TO "${owner_role}"'),
        (true, 'ALTER FUNCTION rollup_engine.log_row_%s(timestamptz) OWNER TO "${owner_role}"'),
        (true, 'ALTER FUNCTION rollup_engine.note_%s(timestamptz) OWNER TO "${owner_role}"'),
        (true, 'GRANT EXECUTE ON FUNCTION rollup_engine.tail_edges_%1$s(), rollup_engine.log_row_%1$s(timestamptz), rollup_engine.note_%1$s(timestamptz) TO PUBLIC')) AS t (is_by_row, text)
    WHERE change_tracking = 'trigger' AND (inserts_by_row IS NOT NULL OR NOT t.is_by_row)
    UNION ALL
    SELECT format('ALTER FUNCTION %s OWNER TO "${owner_role}"', p.oid::regprocedure)
    FROM silver.rollup_config AS r JOIN pg_proc AS p ON p.pronamespace = 'rollup_engine'::regnamespace AND p.proname IN (format('live_%s', r.id), format('plain_%s', r.id), format('live_group_%s', r.id))
    UNION ALL
    SELECT format('REVOKE ALL ON FUNCTION rollup_engine.capture_%s() FROM PUBLIC', id) FROM rollup_engine.source WHERE change_tracking = 'trigger'
    UNION ALL
    SELECT format('GRANT SELECT ON %s TO "${reader_role}", "${operator_role}"', target_view)
    FROM silver.rollup_config JOIN pg_class AS c ON c.oid = target_view AND c.relacl IS NULL AND NOT rollup_engine.is_noted(c.oid)
    UNION ALL
    SELECT format('GRANT SELECT ON %s TO "${operator_role}"', m.member)
    FROM silver.rollup_config AS r, rollup_engine.partition_tree(r.target_table) AS m (member)
    JOIN pg_class AS c ON c.oid = m.member AND c.relnamespace = 'silver'::regnamespace AND c.relacl IS NULL AND NOT rollup_engine.is_noted(c.oid)
    UNION ALL
    SELECT DISTINCT format('GRANT USAGE ON SCHEMA %s TO "${owner_role}"', c.relnamespace::regnamespace)
    FROM rollup_engine.source AS s JOIN pg_class AS c ON c.oid = s.relation
    UNION ALL
    SELECT format('GRANT SELECT ON %s TO "${owner_role}"', relation) FROM rollup_engine.source WHERE rollup_engine.is_relation(relation)
$$;
COMMENT ON FUNCTION rollup_engine.rollup_rights_sql() IS 'Owners of and rights on what rollups consist of and read.';

CREATE OR REPLACE FUNCTION rollup_engine.grantees() RETURNS TABLE (name text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    VALUES ('PUBLIC'), (quote_ident('${operator_role}')), (quote_ident('${writer_role}')), (quote_ident('${reader_role}'))
$$;
COMMENT ON FUNCTION rollup_engine.grantees() IS 'Whom scripts give rights, as GRANT names them.';

CREATE OR REPLACE FUNCTION rollup_engine.is_given_to(p_statement text, p_grantee text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
RETURN right(p_statement, length(' TO ' || p_grantee)) = ' TO ' || p_grantee;
COMMENT ON FUNCTION rollup_engine.is_given_to(text, text) IS 'Whether a GRANT is one to that grantee.';

CREATE OR REPLACE FUNCTION rollup_engine.has_rights() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT has_schema_privilege('${owner_role}', 'rollup_engine', 'USAGE')
        AND has_schema_privilege('${operator_role}', 'silver', 'USAGE')
        AND (SELECT relowner FROM pg_class WHERE oid = 'silver.rollup_config'::regclass) = '"${owner_role}"'::regrole
        -- One that was made anew has none.
        AND NOT EXISTS (
            SELECT FROM rollup_engine.noted_right AS n JOIN rollup_engine.grantees() AS g ON g.name <> 'PUBLIC' AND rollup_engine.is_given_to(n.statement, g.name)
            WHERE NOT EXISTS (SELECT FROM rollup_engine.rights_sql() AS r WHERE rollup_engine.is_given_to(r.statement, g.name)))
$$;
COMMENT ON FUNCTION rollup_engine.has_rights() IS 'Whether the group roles have what a restore without rights, or on a server without them, takes from them.';

CREATE OR REPLACE FUNCTION rollup_engine.missing_roles() RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(r ORDER BY place)
    FROM unnest('{"${owner_role}","${operator_role}","${writer_role}","${reader_role}"}'::name[]) WITH ORDINALITY AS g (r, place)
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)
$$;
COMMENT ON FUNCTION rollup_engine.missing_roles() IS 'Group roles that a server to which a dump was brought does not have; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.note_rights() RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM rollup_engine.noted_right WHERE NOT is_revoked;
    INSERT INTO rollup_engine.noted_right SELECT * FROM rollup_engine.rights_sql() ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION rollup_engine.note_rights() IS 'Notes owners and rights as they are.';

CREATE OR REPLACE FUNCTION rollup_engine.note_revoked(p_has_rights boolean) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Of what is there. Half way, scripts may have made it anew, without rights.
    UPDATE rollup_engine.noted_right AS n SET is_revoked = NOT EXISTS (SELECT FROM rollup_engine.rights_sql() AS r WHERE r.statement = n.statement)
    WHERE n.is_revoked OR p_has_rights AND NOT EXISTS (SELECT FROM rollup_engine.upgrade) AND (
        n.statement ~ '^GRANT [A-Z]+ ON SCHEMA silver TO '
        OR to_regclass(substring(n.statement FROM '^GRANT [A-Z]+ ON TABLE (silver[.].*) TO ')) IS NOT NULL
        OR to_regprocedure(substring(n.statement FROM '^GRANT [A-Z]+ ON ROUTINE (silver[.].*) TO ')) IS NOT NULL)
$$;
COMMENT ON FUNCTION rollup_engine.note_revoked(boolean) IS
'Notes which rights in silver, of those that the last migrate noted, somebody has taken back since, and which were given again. Those in the schema of the machinery are its own, and a restore takes back none.';

CREATE OR REPLACE FUNCTION rollup_engine.revoke_again() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_right record;
BEGIN
    FOR v_right IN
        SELECT substring(n.statement FROM '^GRANT (.*) TO ') AS text, g.name AS grantee
        FROM rollup_engine.noted_right AS n JOIN rollup_engine.grantees() AS g ON rollup_engine.is_given_to(n.statement, g.name)
        WHERE n.is_revoked AND n.statement IN (SELECT statement FROM rollup_engine.rights_sql())
    LOOP
        EXECUTE format('REVOKE %s FROM %s', v_right.text, v_right.grantee);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.revoke_again() IS 'Takes from everybody and the group roles what scripts have just given, and somebody had taken back.';

CREATE OR REPLACE FUNCTION rollup_engine.give_back_rights() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_statement text;
    v_failed text;
BEGIN
    -- Not while a query reads them: their own tables are among what is altered.
    FOREACH v_statement IN ARRAY
        ARRAY(SELECT statement FROM rollup_engine.noted_right WHERE NOT is_revoked ORDER BY statement NOT LIKE 'GRANT % ON SCHEMA %', position)
        || ARRAY(SELECT rollup_engine.rollup_rights_sql())
    LOOP
        BEGIN
            EXECUTE v_statement;
        EXCEPTION
            WHEN undefined_object OR undefined_table OR undefined_function THEN
                NULL;  -- dropped since
            WHEN insufficient_privilege THEN
                v_failed := coalesce(v_failed, v_statement);
        END;
    END LOOP;
    IF v_failed IS NOT NULL THEN
        RAISE NOTICE 'rights that a restore has lost were not all given back, such as: %', v_failed
            USING HINT = 'migrate as the owner of the schemas and sources, or as a superuser';
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.give_back_rights() IS 'Gives back the rights that were noted and that a restore has lost.';

RESET ROLE;
