-- Where numbers of tables, columns and transactions mean what they did when they were noted: on another
-- server a copy has others, or the same ones for other things; a standby, a template and pg_upgrade keep them.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.this_numbering() RETURNS rollup_engine.numbering
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_cluster bigint;
BEGIN
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        v_cluster := (SELECT system_identifier FROM pg_control_system());
    END IF;
    -- Not by its name, which needs a right that a restore may have lost.
    RETURN ROW(v_cluster, current_setting('server_version_num')::integer / 10000,
        (SELECT oid FROM pg_class WHERE relname = 'source' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'rollup_engine')));
END
$$;
COMMENT ON FUNCTION rollup_engine.this_numbering() IS 'What numbers mean here: the same on a standby, and in a database that has this one for its template.';

CREATE OR REPLACE FUNCTION rollup_engine.is_numbered_anew(p_noted_in rollup_engine.numbering) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- On a fresh server a copy of a copy may get all the numbers of that one.
    SELECT coalesce(p_noted_in.system_identifier <> t.system_identifier AND (p_noted_in.source_number <> t.source_number OR p_noted_in.version = t.version), false)
    FROM rollup_engine.this_numbering() AS t
$$;
COMMENT ON FUNCTION rollup_engine.is_numbered_anew(rollup_engine.numbering) IS
'Whether something was noted on another server, of whose dump this database is made; pg_upgrade keeps numbers.';

RESET ROLE;
