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

CREATE OR REPLACE FUNCTION rollup_engine.objects() RETURNS TABLE (kind text, name text, owner regrole, rights aclitem[], id oid, is_ours boolean, is_marked boolean)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT o.kind, o.name, o.owner, o.rights, o.id,
        o.kind = 'SCHEMA' OR o.owner = '"${owner_role}"'::regrole OR o.id IN (SELECT target_view FROM silver.rollup_config),
        EXISTS (
            SELECT FROM aclexplode(o.rights) AS a
            WHERE a.grantee = '"${owner_role}"'::regrole AND (a.is_grantable OR o.kind = 'SCHEMA') OR a.grantee = a.grantor AND a.is_grantable)
    FROM (
        SELECT 'SCHEMA', quote_ident(nspname), nspowner, nspacl, oid FROM pg_namespace WHERE nspname IN ('raw', 'silver', 'gold', 'rollup_engine')
        UNION ALL
        SELECT 'ROUTINE', oid::regprocedure::text, proowner, proacl, oid FROM pg_proc
        WHERE pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
        UNION ALL
        SELECT 'TYPE', t.oid::regtype::text, t.typowner, NULL, t.oid FROM pg_type AS t
        WHERE t.typnamespace = 'rollup_engine'::regnamespace AND t.oid IN (SELECT c.reltype FROM pg_class AS c WHERE c.relkind = 'c')
        UNION ALL
        SELECT 'TABLE', rollup_engine.lasting_name(oid), relowner, relacl, oid FROM pg_class
        WHERE relkind IN ('r', 'p', 'v', 'm') AND relnamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace, 'gold'::regnamespace)
            OR oid IN (SELECT unnest(ARRAY[target_view, target_table]) FROM silver.rollup_config)
            OR relispartition AND pg_partition_root(oid) IN (SELECT target_table FROM silver.rollup_config)
    ) AS o (kind, name, owner, rights, id)
$$;
COMMENT ON FUNCTION rollup_engine.objects() IS
'What owners and rights are noted of, with lasting names. What the owner may give on has a mark among its rights: what else is not there was revoked then, and not lost.';

CREATE OR REPLACE FUNCTION rollup_engine.rights_sql() RETURNS TABLE ("position" integer, statement text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH object AS MATERIALIZED (
        SELECT * FROM rollup_engine.objects() WHERE is_ours
    ), default_rights (scope, kind, rights) AS (
        SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %s ', defaclrole::regrole)
                || CASE WHEN defaclnamespace = 0 THEN '' ELSE format('IN SCHEMA %s ', defaclnamespace::regnamespace) END,
            CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES' END, d
        FROM pg_default_acl AS d
        WHERE defaclrole IN ('"${owner_role}"'::regrole, quote_ident(current_user)::regrole) AND defaclobjtype IN ('r', 'S', 'f')
            AND (defaclnamespace = 0 OR defaclnamespace::regnamespace::text IN ('raw', 'silver', 'gold'))
    )
    SELECT 1, format('ALTER %s %s OWNER TO %s', kind, name, owner) FROM object WHERE kind <> 'SCHEMA'
    UNION ALL
    SELECT 2, format('REVOKE ALL ON %s %s FROM PUBLIC', kind, name) FROM object WHERE kind = 'ROUTINE' AND rights IS NOT NULL
    UNION ALL
    SELECT 3, format('GRANT %s ON %s %s TO %s', a.privilege_type, kind, name, rollup_engine.grantee_name(a.grantee)) || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM object, aclexplode(rights) AS a WHERE kind <> 'TABLE' AND a.grantee <> a.grantor
    UNION ALL
    SELECT 3, rollup_engine.grants_sql(id, name) FROM object WHERE kind = 'TABLE'
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

CREATE OR REPLACE FUNCTION rollup_engine.mark_objects(p_subjects text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '10ms'
AS $$
DECLARE
    v_statement text;
BEGIN
    -- All rights: of a dump that names single ones, a newer server would not give the owner its new ones.
    FOR v_statement IN
        SELECT rollup_engine.fill(format('GRANT ALL ON %s %s TO %s WITH GRANT OPTION', kind, name, owner), (SELECT rollup_engine.current_names()))
        FROM rollup_engine.objects() WHERE is_ours AND NOT is_marked AND kind IN ('ROUTINE', 'TABLE') AND pg_has_role(owner, 'USAGE')
            AND NOT starts_with(name, 'rollup_engine.')  -- there each migrate sets them
            AND (p_subjects IS NULL OR format('%s %s', kind, name) = ANY (p_subjects))
    LOOP
        BEGIN
            EXECUTE v_statement;
        EXCEPTION WHEN insufficient_privilege OR lock_not_available OR internal_error OR undefined_object THEN
            NULL;  -- somebody changes it now, or has dropped it: the next migrate marks it
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.mark_objects(text[]) IS
'Lets owners, who may do so anyway, give their rights on: no dump leaves such rights out, as it does where all others were revoked, and no restore that fails to give rights gives these.';

RESET ROLE;
