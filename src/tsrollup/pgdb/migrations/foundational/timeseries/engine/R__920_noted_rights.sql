-- A dump restored without rights (pg_restore -x, -O) leaves tables and functions that nobody may
-- use, and functions that everybody may. So each migrate notes the rights as statements, and
-- one that finds them lost (beforeMigrate) first runs what was noted. What a rollup consists of may be
-- renamed, or dropped and another one made under its name: it is noted by the number of the rollup.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.lasting_name(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (SELECT format('{view_%s}', id) FROM silver.rollup_config WHERE target_view = p_relation),
        (SELECT CASE target_table WHEN p_relation THEN format('{table_%s}', id) ELSE format('{part_%s}%s', id, p_relation) END
        FROM silver.rollup_config WHERE target_table = coalesce(pg_partition_root(p_relation), p_relation)),
        p_relation::text)
$$;
COMMENT ON FUNCTION rollup_engine.lasting_name(regclass) IS
'The name of a table or view; of what belongs to a rollup, a {mark} of that rollup and no other, which current_names() knows the name for.';

CREATE OR REPLACE FUNCTION rollup_engine.current_names() RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(format('%s_%s', t.kind, r.id), t.name), '{}')
    FROM silver.rollup_config AS r CROSS JOIN LATERAL (VALUES
        ('view', r.target_view::text), ('table', r.target_table::text), ('part', '')) AS t (kind, name)
$$;
COMMENT ON FUNCTION rollup_engine.current_names() IS 'What stands for the marks of lasting_name() now.';

CREATE OR REPLACE FUNCTION rollup_engine.rights_sql() RETURNS TABLE ("position" integer, statement text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH object (kind, name, owner, rights, relation) AS (
        SELECT 'SCHEMA', quote_ident(nspname), NULL, nspacl, NULL::oid FROM pg_namespace WHERE nspname IN ('raw', 'silver', 'gold', 'rollup_engine')
        UNION ALL
        SELECT 'ROUTINE', oid::regprocedure::text, proowner::regrole, proacl, NULL FROM pg_proc
        WHERE pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace) AND proowner = '"${owner_role}"'::regrole
        UNION ALL
        SELECT 'TYPE', t.oid::regtype::text, t.typowner::regrole, NULL, NULL FROM pg_type AS t
        WHERE t.typnamespace = 'rollup_engine'::regnamespace AND t.typowner = '"${owner_role}"'::regrole
            AND t.oid IN (SELECT c.reltype FROM pg_class AS c WHERE c.relkind = 'c')
        UNION ALL
        SELECT 'TABLE', rollup_engine.lasting_name(oid), relowner::regrole, NULL, oid FROM pg_class
        WHERE relkind IN ('r', 'p', 'v', 'm') AND relowner = '"${owner_role}"'::regrole
            AND relnamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace, 'gold'::regnamespace)
            OR oid IN (SELECT target_view FROM silver.rollup_config)
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
    SELECT 3, format('GRANT %s ON %s %s TO %s', a.privilege_type, kind, name, rollup_engine.grantee_name(a.grantee)) || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM object, aclexplode(rights) AS a WHERE a.grantee <> a.grantor
    UNION ALL
    SELECT 3, rollup_engine.grants_sql(relation, name) FROM object WHERE kind = 'TABLE'
    UNION ALL
    SELECT 2, format('%sREVOKE EXECUTE ON ROUTINES FROM PUBLIC', scope) FROM default_rights
    WHERE kind = 'ROUTINES' AND (rights).defaclnamespace = 0 AND NOT EXISTS (SELECT FROM aclexplode((rights).defaclacl) AS a WHERE a.grantee = 0)
    UNION ALL
    SELECT 3, format('%sGRANT %s ON %s TO %s', scope, a.privilege_type, kind, a.grantee::regrole)
    FROM default_rights, aclexplode((rights).defaclacl) AS a WHERE a.grantee NOT IN (0, a.grantor)
$$;
COMMENT ON FUNCTION rollup_engine.rights_sql() IS 'Owners and rights as they are, as statements in the order to run them, with lasting names.';

CREATE OR REPLACE FUNCTION rollup_engine.subject_of(p_statement text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Inside of quotes anything may stand. Defaults are known by where and for what they are.
    SELECT coalesce(
        substring(p_statement FROM '^(?:GRANT|REVOKE) [A-Z]+ (?:[(](?:[^")]|"[^"]*")*[)] )?ON ((?:[^"]|"[^"]*")*) (?:TO|FROM) '),
        (SELECT m[1] || m[2] FROM regexp_match(p_statement, '^(ALTER DEFAULT PRIVILEGES (?:[^"]|"[^"]*")*)(?:GRANT|REVOKE) [A-Z]+ ON ([A-Z]+) (?:TO|FROM) ') AS m))
$$;
COMMENT ON FUNCTION rollup_engine.subject_of(text) IS 'What a statement of rights_sql() gives or takes rights on; NULL for one that names an owner.';

CREATE OR REPLACE FUNCTION rollup_engine.grantee_of(p_statement text) RETURNS text
    LANGUAGE sql IMMUTABLE
RETURN substring(p_statement FROM '^(?:GRANT|ALTER DEFAULT) .* TO ((?:[^" ]|"[^"]*")+)(?: WITH GRANT OPTION)?$');
COMMENT ON FUNCTION rollup_engine.grantee_of(text) IS 'Whom a statement of rights_sql() gives a right; NULL for one that gives none.';

CREATE OR REPLACE FUNCTION rollup_engine.bare_objects() RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('SCHEMA %I', nspname) FROM pg_namespace WHERE nspacl IS NULL AND nspname IN ('raw', 'silver', 'gold', 'rollup_engine')
    UNION ALL
    SELECT format('ROUTINE %s', oid::regprocedure) FROM pg_proc
    WHERE proacl IS NULL AND pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
    UNION ALL
    SELECT format('TABLE %s', rollup_engine.lasting_name(c.oid)) FROM pg_class AS c
    WHERE c.relacl IS NULL AND c.relkind IN ('r', 'p', 'v', 'm')
        AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)
        AND (c.relnamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace, 'gold'::regnamespace) OR c.oid IN (SELECT target_view FROM silver.rollup_config))
$$;
COMMENT ON FUNCTION rollup_engine.bare_objects() IS 'What has no rights of its own at all, as what has just been made; a REVOKE does not lead there.';

CREATE OR REPLACE FUNCTION rollup_engine.is_noted(p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM rollup_engine.noted_right WHERE starts_with(statement, format('ALTER TABLE %s OWNER TO ', rollup_engine.lasting_name(p_relation))))
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
    SELECT format('GRANT SELECT ON %s TO %s', target_view, t.grantee)
    FROM (VALUES (quote_ident('${reader_role}')), (quote_ident('${operator_role}'))) AS t (grantee)
    CROSS JOIN silver.rollup_config JOIN pg_class AS c ON c.oid = target_view AND c.relacl IS NULL AND NOT rollup_engine.is_noted(c.oid)
    UNION ALL
    SELECT format('GRANT SELECT ON %s TO %s', m.member, quote_ident('${operator_role}'))
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

DROP FUNCTION IF EXISTS rollup_engine.is_given_to(text, text);
CREATE OR REPLACE FUNCTION rollup_engine.gift_to(p_grantee text, p_statement text) RETURNS text
    LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN right(p_statement, length(' TO ' || p_grantee)) = ' TO ' || p_grantee THEN left(p_statement, -length(' TO ' || p_grantee))
    WHEN right(p_statement, length(' TO ' || p_grantee || ' WITH GRANT OPTION')) = ' TO ' || p_grantee || ' WITH GRANT OPTION'
    THEN left(p_statement, -length(' TO ' || p_grantee || ' WITH GRANT OPTION')) END;
COMMENT ON FUNCTION rollup_engine.gift_to(text, text) IS 'What a statement gives to that grantee, as GRANT SELECT ON TABLE silver.refresh_log; NULL where it gives to another.';

CREATE OR REPLACE FUNCTION rollup_engine.has_own_rights() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT has_schema_privilege('${owner_role}', 'rollup_engine', 'USAGE')
        AND (SELECT relowner FROM pg_class WHERE oid = 'silver.rollup_config'::regclass) = '"${owner_role}"'::regrole
        -- It was closed to everybody when it was made.
        AND (SELECT proacl IS NOT NULL FROM pg_proc WHERE oid = 'rollup_engine.rights_sql()'::regprocedure)
$$;
COMMENT ON FUNCTION rollup_engine.has_own_rights() IS 'False after a restore without owners or rights, which loses those of everybody.';

CREATE OR REPLACE FUNCTION rollup_engine.lost_rights() RETURNS SETOF rollup_engine.noted_right
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- pg_restore runs what a dump has for one thing as a whole: of one grantee who is missing, all others lose theirs. But
    -- that of which all was revoked looks the same.
    WITH noted AS MATERIALIZED (
        SELECT n, rollup_engine.subject_of(n.statement) AS subject, rollup_engine.grantee_of(n.statement) AS grantee
        FROM rollup_engine.noted_right AS n WHERE NOT n.is_revoked
    ), bare AS MATERIALIZED (
        SELECT * FROM noted WHERE subject IN (SELECT rollup_engine.bare_objects())
    ), present AS MATERIALIZED (
        SELECT rollup_engine.grantee_of(statement) AS grantee FROM rollup_engine.rights_sql() WHERE EXISTS (SELECT FROM bare)
    )
    SELECT (b.n).* FROM bare AS b
    WHERE 'ROUTINE rollup_engine.rights_sql()' IN (SELECT rollup_engine.bare_objects()) OR b.subject IN (
        SELECT subject FROM bare GROUP BY subject
        HAVING bool_or(grantee <> 'PUBLIC' AND grantee NOT IN (SELECT p.grantee FROM present AS p WHERE p.grantee IS NOT NULL))
            OR bool_or((n).position = 2) AND NOT bool_or(grantee IS NOT DISTINCT FROM 'PUBLIC'))
$$;
COMMENT ON FUNCTION rollup_engine.lost_rights() IS
'Noted rights on what a restore has left without any: all, or what somebody had a right on who has none of his own now; functions that were closed.';

CREATE OR REPLACE FUNCTION rollup_engine.lost_roles() RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT g.name
    FROM rollup_engine.grantees() AS g
    WHERE g.name <> 'PUBLIC'
        AND EXISTS (
            SELECT FROM rollup_engine.noted_right AS n
            WHERE n.position = 3 AND NOT n.is_revoked AND rollup_engine.gift_to(g.name, n.statement) IS NOT NULL)
        AND NOT EXISTS (SELECT FROM rollup_engine.rights_sql() AS r WHERE rollup_engine.gift_to(g.name, r.statement) IS NOT NULL)
$$;
COMMENT ON FUNCTION rollup_engine.lost_roles() IS 'Group roles that have none of the rights that were noted, as one that was made anew.';

CREATE OR REPLACE FUNCTION rollup_engine.has_rights() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.has_own_rights() AND NOT EXISTS (SELECT rollup_engine.lost_roles())
        -- Others than these may not be there any more.
        AND NOT EXISTS (
            SELECT FROM rollup_engine.lost_rights() AS l
            WHERE l.position = 2 OR EXISTS (SELECT FROM rollup_engine.grantees() AS g WHERE rollup_engine.gift_to(g.name, l.statement) IS NOT NULL))
$$;
COMMENT ON FUNCTION rollup_engine.has_rights() IS 'Whether the group roles have what a restore without rights, or on a server without some roles, takes from them.';

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

DROP FUNCTION IF EXISTS rollup_engine.note_revoked(boolean);
CREATE OR REPLACE FUNCTION rollup_engine.note_revoked() RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE rollup_engine.noted_right AS n SET is_revoked = NOT EXISTS (SELECT FROM rollup_engine.rights_sql() AS r WHERE r.statement = n.statement)
    FROM rollup_engine.grantees() AS g
    WHERE rollup_engine.gift_to(g.name, n.statement) IS NOT NULL AND g.name NOT IN (SELECT rollup_engine.lost_roles())
        -- Of what is there. Half way, scripts may have made it anew, without rights.
        AND n.statement NOT IN (SELECT l.statement FROM rollup_engine.lost_rights() AS l)
        AND (n.is_revoked OR (SELECT rollup_engine.has_own_rights()) AND NOT EXISTS (SELECT FROM rollup_engine.upgrade)
            AND substring(rollup_engine.fill(rollup_engine.gift_to(g.name, n.statement), (SELECT rollup_engine.current_names())) FROM '^GRANT [A-Z]+ ON (.*)') IN (
            SELECT 'SCHEMA silver'
            UNION ALL
            SELECT format('TABLE %s', oid::regclass) FROM pg_class WHERE relnamespace = 'silver'::regnamespace
            UNION ALL
            SELECT format('ROUTINE %s', oid::regprocedure) FROM pg_proc WHERE pronamespace = 'silver'::regnamespace))
$$;
COMMENT ON FUNCTION rollup_engine.note_revoked() IS
'Notes which rights in silver, of those that the last migrate noted for everybody and the group roles, somebody has taken back since, and which were given again. Those in the schema of the machinery are its own, and a restore takes back none.';

CREATE OR REPLACE FUNCTION rollup_engine.revoke_again() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_statement text;
BEGIN
    FOR v_statement IN
        SELECT rollup_engine.fill(format('REVOKE %s FROM %s', substr(rollup_engine.gift_to(g.name, n.statement), length('GRANT ') + 1), g.name), (SELECT rollup_engine.current_names()))
        FROM rollup_engine.noted_right AS n JOIN rollup_engine.grantees() AS g ON rollup_engine.gift_to(g.name, n.statement) IS NOT NULL
        WHERE n.is_revoked AND n.statement IN (SELECT statement FROM rollup_engine.rights_sql())
    LOOP
        EXECUTE v_statement;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.revoke_again() IS 'Takes from everybody and the group roles what scripts have just given, and somebody had taken back.';

CREATE OR REPLACE FUNCTION rollup_engine.lost_rights_sql() RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH lost AS MATERIALIZED (
        SELECT l.statement FROM rollup_engine.lost_rights() AS l
    ), restored AS MATERIALIZED (
        SELECT rollup_engine.has_own_rights() AS has_own, EXISTS (SELECT FROM lost) AS has_lost
    ), roles (name) AS MATERIALIZED (
        SELECT rollup_engine.lost_roles() UNION ALL SELECT '"${owner_role}"'::regrole::text FROM restored WHERE NOT has_own
    ), defaults AS MATERIALIZED (
        SELECT rollup_engine.subject_of(statement) AS subject FROM rollup_engine.rights_sql() WHERE starts_with(statement, 'ALTER DEFAULT ')
    )
    SELECT rollup_engine.fill(s.statement, (SELECT rollup_engine.current_names()))
    FROM restored AS r
    CROSS JOIN (
        SELECT position, statement FROM rollup_engine.noted_right WHERE NOT is_revoked
        UNION ALL
        SELECT 4, rollup_engine.rollup_rights_sql()
    ) AS s (position, statement)
    WHERE s.statement IN (SELECT statement FROM lost)
        OR s.position = 1 AND NOT r.has_own
        OR (NOT r.has_own OR r.has_lost) AND (s.position = 4
            OR starts_with(s.statement, 'ALTER DEFAULT ') AND rollup_engine.subject_of(s.statement) NOT IN (SELECT subject FROM defaults))
        -- What one role has lost is given to that role alone.
        OR s.position >= 3 AND EXISTS (SELECT FROM roles AS l WHERE rollup_engine.gift_to(l.name, s.statement) IS NOT NULL)
    ORDER BY s.position > 3, s.statement NOT LIKE 'GRANT % ON SCHEMA %', s.position
$$;
COMMENT ON FUNCTION rollup_engine.lost_rights_sql() IS 'What gives back the rights that a restore, or a group role, has lost.';

CREATE OR REPLACE FUNCTION rollup_engine.give_back_rights() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_statement text;
    v_failed text;
BEGIN
    -- Not while a query reads them: their own tables are among what is altered.
    FOREACH v_statement IN ARRAY ARRAY(SELECT rollup_engine.lost_rights_sql()) LOOP
        BEGIN
            EXECUTE v_statement;
        EXCEPTION
            WHEN insufficient_privilege THEN
                v_failed := coalesce(v_failed, v_statement);
            WHEN syntax_error_or_access_rule_violation OR invalid_schema_name THEN
                NULL;  -- what it names was dropped since, or has become something else
        END;
    END LOOP;
    IF v_failed IS NOT NULL THEN
        RAISE NOTICE 'rights that a restore has lost were not all given back, such as: %', v_failed
            USING HINT = 'migrate as the owner of the schemas and sources, or as a superuser';
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.give_back_rights() IS 'Gives back the rights that were noted and that a restore, or a group role, has lost.';

RESET ROLE;
