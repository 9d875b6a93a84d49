-- Partitions that are moved to an archive schema instead of being dropped.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.archive_schema(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%I', n.nspname || '_archive')
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.archive_schema(regclass) IS 'Where partitions of a table go instead of being dropped.';

CREATE OR REPLACE FUNCTION rollup_engine.check_archive_schema(p_table_owner name, p_schema text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner constant oid := (SELECT nspowner FROM pg_namespace WHERE oid = to_regnamespace(p_schema));
BEGIN
    IF pg_get_userbyid(v_owner) <> p_table_owner AND v_owner <> (SELECT datdba FROM pg_database WHERE datname = current_database())
        AND NOT pg_has_role(v_owner, '${owner_role}', 'USAGE')
    THEN
        PERFORM rollup_engine.fail('TR004', format('the schema %s belongs to %s, who could drop what is moved there', p_schema, v_owner::regrole),
            format('ALTER SCHEMA %s OWNER TO %I', p_schema, p_table_owner));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_archive_schema(name, text) IS
'An error where the archive''s schema is a stranger''s: neither of the table''s owner, nor the database''s, nor of a member of the owner role.';

CREATE OR REPLACE FUNCTION rollup_engine.check_archive_schema(p_relation regclass, p_schema text) RETURNS void
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.check_archive_schema(pg_get_userbyid(relowner), p_schema) FROM pg_class WHERE oid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.check_archive_schema(regclass, text) IS 'The same for a table that is there.';

CREATE OR REPLACE FUNCTION rollup_engine.archive_tree(p_partition regclass, p_schema text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_member regclass;
    v_trigger name;
BEGIN
    -- From the top: what partitions have by way of a parent goes with the parent's.
    FOR v_member IN
        SELECT m FROM rollup_engine.partition_tree(p_partition) AS m ORDER BY (SELECT count(*) FROM pg_partition_ancestors(m))
    LOOP
        FOR v_trigger IN
            SELECT tgname FROM pg_trigger
            WHERE tgrelid = v_member AND tgparentid = 0 AND tgfoid IN (
                SELECT to_regprocedure(format('rollup_engine.capture_%s()', id)) FROM rollup_engine.source
                UNION ALL
                SELECT 'rollup_engine.guard_rollup()'::regprocedure)
        LOOP
            EXECUTE format('DROP TRIGGER %I ON %s', v_trigger, v_member);
        END LOOP;
        PERFORM rollup_engine.check_archive_schema(v_member, p_schema);
        EXECUTE format('ALTER TABLE %s SET SCHEMA %s', v_member, p_schema);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.archive_tree(regclass, text) IS 'Moves a detached partition, with all below it, to another schema; its changes are captured no more.';

RESET ROLE;
