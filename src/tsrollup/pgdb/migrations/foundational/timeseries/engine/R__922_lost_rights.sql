-- What a restore has lost of the noted rights, and gives back: all of them (pg_restore -x, -O), those on
-- single things (pg_restore runs what a dump has for one thing as a whole: where one role is missing, all
-- others lose theirs too), or those of a group role that was made anew. What somebody had taken back stays so.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.grantee_of(p_statement text) RETURNS text
    LANGUAGE sql IMMUTABLE
RETURN substring(p_statement FROM '^(?:GRANT|ALTER DEFAULT) .* TO ((?:[^" ]|"[^"]*")+)(?: WITH GRANT OPTION)?$');
COMMENT ON FUNCTION rollup_engine.grantee_of(text) IS 'Whom a statement of rights_sql() gives a right; NULL for one that gives none.';

CREATE OR REPLACE FUNCTION rollup_engine.gift_of(p_statement text) RETURNS text
    LANGUAGE sql IMMUTABLE
RETURN substring(p_statement FROM '^GRANT (.*) TO (?:[^" ]|"[^"]*")+(?: WITH GRANT OPTION)?$');
COMMENT ON FUNCTION rollup_engine.gift_of(text) IS 'What such a statement gives, as SELECT ON TABLE silver.refresh_log; NULL for defaults, and for one that gives none.';

CREATE OR REPLACE FUNCTION rollup_engine.grantees() RETURNS TABLE (name text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    VALUES ('PUBLIC'), (quote_ident('${operator_role}')), (quote_ident('${writer_role}')), (quote_ident('${reader_role}'))
$$;
COMMENT ON FUNCTION rollup_engine.grantees() IS 'Whom scripts give rights, as GRANT names them.';

CREATE OR REPLACE FUNCTION rollup_engine.is_closed() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT proacl IS NOT NULL FROM pg_proc WHERE oid = 'rollup_engine.rights_sql()'::regprocedure
$$;
COMMENT ON FUNCTION rollup_engine.is_closed() IS 'Whether the machinery is closed to everybody, as it was when it was made; a restore without rights opens it.';

CREATE OR REPLACE FUNCTION rollup_engine.has_own_rights() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT has_schema_privilege('${owner_role}', 'rollup_engine', 'USAGE')
        AND (SELECT relowner FROM pg_class WHERE oid = 'silver.rollup_config'::regclass) = '"${owner_role}"'::regrole
        AND rollup_engine.is_closed()
$$;
COMMENT ON FUNCTION rollup_engine.has_own_rights() IS 'False after a restore without owners or rights, which loses those of everybody.';

CREATE OR REPLACE FUNCTION rollup_engine.rights_of_others(p_rights aclitem[]) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
RETURN ARRAY(SELECT format('%s %s', a.grantee, a.privilege_type) FROM aclexplode(p_rights) AS a WHERE a.grantee <> a.grantor ORDER BY 1);
COMMENT ON FUNCTION rollup_engine.rights_of_others(aclitem[]) IS 'Who has which right of those that the owner has given.';

CREATE OR REPLACE FUNCTION rollup_engine.lost_rights() RETURNS SETOF rollup_engine.noted_right
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- pg_restore runs what a dump has for one thing as a whole: of one grantee who is missing, all others lose theirs, and
    -- the mark is lost.
    WITH object AS MATERIALIZED (
        SELECT format('%s %s', kind, name) AS subject, kind, rights, id, is_marked FROM rollup_engine.objects()
    ), noted AS MATERIALIZED (
        SELECT n, rollup_engine.subject_of(n.statement) AS subject FROM rollup_engine.noted_right AS n WHERE NOT n.is_revoked
    )
    SELECT (n.n).*
    FROM noted AS n JOIN object AS o ON o.subject = n.subject AND NOT o.is_marked
        -- Nor another one's, who was its owner, where nothing but that was lost. What came along with any right is whole.
        AND NOT EXISTS (SELECT FROM aclexplode(o.rights) AS a WHERE a.is_grantable)
        AND (o.rights IS NULL OR rollup_engine.rights_of_others(o.rights) IN (
            SELECT rollup_engine.rights_of_others(defaclacl) FROM pg_default_acl WHERE defaclobjtype = CASE o.kind WHEN 'ROUTINE' THEN 'f' WHEN 'TABLE' THEN 'r' END))
    -- Single things are made anew, or have their mark taken away, in place: after a restore most functions are others.
    WHERE (n.n).marked = 0 OR (n.n).marked IS NOT NULL
        AND (SELECT bool_or(rollup_engine.is_numbered_anew((i.n).noted_in)) OR count(*) FILTER (WHERE h.id = (i.n).marked) < count(*) / 2.0
            FROM noted AS i JOIN object AS h USING (subject) WHERE (i.n).marked IS NOT NULL AND h.kind = 'ROUTINE')
        -- An earlier release has marked nothing. But for raw, no schema is closed to the machinery by anything else, nor it open to all.
        OR o.rights IS NULL AND (NOT rollup_engine.is_closed() OR EXISTS (SELECT FROM object WHERE kind = 'SCHEMA' AND subject <> 'SCHEMA raw' AND NOT is_marked))
$$;
COMMENT ON FUNCTION rollup_engine.lost_rights() IS 'Noted rights on what a restore has left without them.';

CREATE OR REPLACE FUNCTION rollup_engine.lost_roles() RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT g.name
    FROM rollup_engine.grantees() AS g
    WHERE g.name <> 'PUBLIC'
        -- On what is there still: somebody may have dropped or renamed a schema, which is all that writers have rights on.
        AND EXISTS (
            SELECT FROM rollup_engine.noted_right AS n JOIN rollup_engine.objects() AS o ON format('%s %s', o.kind, o.name) = rollup_engine.subject_of(n.statement)
            WHERE NOT n.is_revoked AND rollup_engine.grantee_of(n.statement) = g.name)
        AND NOT EXISTS (SELECT FROM rollup_engine.rights_sql() AS r WHERE rollup_engine.grantee_of(r.statement) = g.name)
$$;
COMMENT ON FUNCTION rollup_engine.lost_roles() IS 'Group roles that have none of the rights that were noted on what is there, as one that was made anew.';

CREATE OR REPLACE FUNCTION rollup_engine.has_rights() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.has_own_rights() AND NOT EXISTS (SELECT rollup_engine.lost_roles())
        -- Others than these may not be there any more.
        AND NOT EXISTS (
            SELECT FROM rollup_engine.lost_rights() AS l
            WHERE l.position = 2 OR rollup_engine.grantee_of(l.statement) IN (SELECT g.name FROM rollup_engine.grantees() AS g))
$$;
COMMENT ON FUNCTION rollup_engine.has_rights() IS 'Whether the group roles have what a restore without rights, or on a server without some roles, takes from them.';

CREATE OR REPLACE FUNCTION rollup_engine.closed_functions() RETURNS SETOF regprocedure
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid FROM pg_proc AS p
    WHERE p.pronamespace = 'rollup_engine'::regnamespace AND NOT has_function_privilege('public', p.oid, 'EXECUTE')
        AND (rollup_engine.is_for_all(p.proname)
            OR EXISTS (SELECT FROM rollup_engine.noted_right AS n WHERE n.statement = format('GRANT EXECUTE ON ROUTINE %s TO PUBLIC', p.oid::regprocedure)))
$$;
COMMENT ON FUNCTION rollup_engine.closed_functions() IS
'Functions of the machinery that everybody is to call, as who reads live views or writes to sources does, and may not: after a script that took rights away in every schema, or a restore where none are given by default.';

CREATE OR REPLACE FUNCTION rollup_engine.missing_roles() RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(r ORDER BY place)
    FROM unnest('{"${owner_role}","${operator_role}","${writer_role}","${reader_role}"}'::name[]) WITH ORDINALITY AS g (r, place)
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)
$$;
COMMENT ON FUNCTION rollup_engine.missing_roles() IS 'Group roles that a server to which a dump was brought does not have; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.note_revoked() RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE rollup_engine.noted_right AS n SET is_revoked = NOT EXISTS (SELECT FROM rollup_engine.rights_sql() AS r WHERE r.statement = n.statement)
    FROM rollup_engine.grantees() AS g
    WHERE rollup_engine.grantee_of(n.statement) = g.name AND g.name NOT IN (SELECT rollup_engine.lost_roles())
        -- Of what is there. Half way, scripts may have made it anew, without rights.
        AND n.statement NOT IN (SELECT l.statement FROM rollup_engine.lost_rights() AS l)
        AND (n.is_revoked OR (SELECT rollup_engine.has_own_rights()) AND NOT EXISTS (SELECT FROM rollup_engine.upgrade)
            AND rollup_engine.fill(rollup_engine.subject_of(n.statement), (SELECT rollup_engine.current_names())) IN (
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
        SELECT rollup_engine.fill(format('REVOKE %s FROM %s', rollup_engine.gift_of(statement), rollup_engine.grantee_of(statement)), (SELECT rollup_engine.current_names()))
        FROM rollup_engine.noted_right WHERE is_revoked AND statement IN (SELECT r.statement FROM rollup_engine.rights_sql() AS r)
    LOOP
        EXECUTE v_statement;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.revoke_again() IS 'Takes from everybody and the group roles what scripts have just given, and somebody had taken back.';

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
    -- It keeps readers out.
    JOIN pg_class AS c ON c.oid = t.relation AND c.relowner <> '"${owner_role}"'::regrole
    UNION ALL
    SELECT unnest(ARRAY[format('ALTER FUNCTION %s OWNER TO "${owner_role}"', p.oid::regprocedure)] || ARRAY(SELECT rollup_engine.generated_rights_sql(p.proname)))
    FROM (
        SELECT format('%s_%s', kind, id) FROM rollup_engine.source, unnest('{capture,tail,tail_edges,log_row,note}'::text[]) AS k (kind)
        UNION ALL
        SELECT format('%s_%s', kind, id) FROM silver.rollup_config, unnest('{live,live_group,plain,upsert}'::text[]) AS k (kind)
    ) AS g (name) JOIN pg_proc AS p ON p.pronamespace = 'rollup_engine'::regnamespace AND p.proname = g.name
    UNION ALL
    SELECT format('GRANT SELECT ON %s TO %s', target_view, t.grantee)
    FROM (VALUES (quote_ident('${reader_role}')), (quote_ident('${operator_role}'))) AS t (grantee)
    CROSS JOIN silver.rollup_config JOIN pg_class AS c ON c.oid = target_view AND c.relacl IS NULL AND NOT rollup_engine.is_noted(c.oid)
    UNION ALL
    SELECT format('GRANT SELECT ON %s TO %s', m.member, quote_ident('${operator_role}'))
    FROM silver.rollup_config AS r, rollup_engine.partition_tree(r.target_table) AS m (member)
    JOIN pg_class AS c ON c.oid = m.member AND c.relnamespace = 'silver'::regnamespace AND c.relacl IS NULL AND NOT rollup_engine.is_noted(c.oid)
    UNION ALL
    SELECT DISTINCT format('GRANT %s ON SCHEMA %s TO "${owner_role}"', t.rights, c.relnamespace::regnamespace)
    FROM (
        SELECT relation, 'USAGE' FROM rollup_engine.source
        UNION ALL
        SELECT unnest(ARRAY[target_table, target_view]), 'USAGE, CREATE' FROM silver.rollup_config
    ) AS t (relation, rights) JOIN pg_class AS c ON c.oid = t.relation
    UNION ALL
    SELECT format('GRANT SELECT ON %s TO "${owner_role}"', relation) FROM rollup_engine.source WHERE rollup_engine.is_relation(relation)
$$;
COMMENT ON FUNCTION rollup_engine.rollup_rights_sql() IS 'Owners of and rights on what rollups consist of and read.';

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
        OR rollup_engine.grantee_of(s.statement) IN (SELECT name FROM roles)
    ORDER BY s.position > 3, s.statement NOT LIKE 'GRANT % ON SCHEMA %', s.position
$$;
COMMENT ON FUNCTION rollup_engine.lost_rights_sql() IS 'What gives back the rights that a restore, or a group role, has lost.';

CREATE OR REPLACE FUNCTION rollup_engine.give_back_rights() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '1min'
AS $$
DECLARE
    v_statement text;
    v_failed text;
    v_lost text[];
BEGIN
    PERFORM rollup_engine.note_revoked();
    v_lost := ARRAY(SELECT DISTINCT rollup_engine.subject_of(statement) FROM rollup_engine.lost_rights());
    IF v_lost = '{}' AND rollup_engine.has_own_rights() AND NOT EXISTS (SELECT rollup_engine.lost_roles()) THEN
        RETURN;
    END IF;
    -- Not while a query reads them: their own tables are among what is altered.
    FOREACH v_statement IN ARRAY ARRAY(SELECT rollup_engine.lost_rights_sql()) LOOP
        BEGIN
            EXECUTE v_statement;
        EXCEPTION
            WHEN insufficient_privilege THEN
                v_failed := coalesce(v_failed, v_statement);
            WHEN syntax_error_or_access_rule_violation OR invalid_schema_name THEN
                NULL;  -- what it names was dropped since, or has become something else
            WHEN lock_not_available OR internal_error THEN
                PERFORM rollup_engine.fail('55P03', format('rights that a restore has lost cannot be given back while others use or change what they are on: %s', v_statement),
                    'migrate again when they have ended');
        END;
    END LOOP;
    PERFORM rollup_engine.mark_objects(v_lost);  -- of others nobody knows yet to whom they are closed
    PERFORM rollup_engine.note_revoked();  -- of what had another owner until now
    IF v_failed IS NOT NULL THEN
        RAISE NOTICE 'rights that a restore has lost were not all given back, such as: %', v_failed
            USING HINT = 'migrate as the owner of the schemas and sources, or as a superuser';
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.give_back_rights() IS 'Gives back the rights that were noted and that a restore, or a group role, has lost.';

CREATE OR REPLACE FUNCTION rollup_engine.note_rights() RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.mark_objects();
    -- What this migrate was not allowed to give back, another one may.
    DELETE FROM rollup_engine.noted_right WHERE NOT is_revoked AND statement NOT IN (SELECT l.statement FROM rollup_engine.lost_rights() AS l);
    UPDATE rollup_engine.noted_right SET marked = 0 WHERE NOT is_revoked;
    INSERT INTO rollup_engine.noted_right (position, statement, marked, noted_in)
    SELECT r.position, r.statement, o.id, rollup_engine.this_numbering()
    FROM rollup_engine.rights_sql() AS r
    LEFT JOIN rollup_engine.objects() AS o ON o.is_marked AND format('%s %s', o.kind, o.name) = rollup_engine.subject_of(r.statement)
    ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION rollup_engine.note_rights() IS 'Notes owners and rights as they are.';

RESET ROLE;
