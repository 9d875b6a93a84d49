-- Where numbers of tables, columns and transactions mean what they did when they were noted: in a restored
-- copy there are others, or the same ones for other things; a standby, a template and pg_upgrade keep them.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.this_numbering() RETURNS rollup_engine.numbering
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_mark uuid;
BEGIN
    -- A restore may have left it without rights. Nothing is caught here: parallel reads come by.
    IF has_schema_privilege('rollup_engine', 'USAGE') THEN
        v_mark := (SELECT mark FROM rollup_engine.restore_mark);
    END IF;
    RETURN ROW(v_mark, current_setting('server_version_num')::integer / 10000);
END
$$;
COMMENT ON FUNCTION rollup_engine.this_numbering() IS 'What numbers mean here.';

CREATE OR REPLACE FUNCTION rollup_engine.is_numbered_anew(p_noted_in rollup_engine.numbering) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_noted_in.version IS NOT NULL AND p_noted_in.mark IS DISTINCT FROM (rollup_engine.this_numbering()).mark
$$;
COMMENT ON FUNCTION rollup_engine.is_numbered_anew(rollup_engine.numbering) IS
'Whether something was noted before a dump of which this database is made. A copy of a copy may have the same numbers all the same.';

RESET ROLE;
