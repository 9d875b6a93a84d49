-- Functions and views that are written for one source or one rollup.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.note_text(p_name text, p_text text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.generated_text (name, digest) VALUES (p_name, md5(coalesce(p_text, '')))
    ON CONFLICT (name) DO UPDATE SET digest = excluded.digest
$$;
COMMENT ON FUNCTION rollup_engine.note_text(text, text) IS 'Notes a text that was generated, by its digest.';

CREATE OR REPLACE FUNCTION rollup_engine.note_rows(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.note_text(format('rows_%s', r.id), p_rollup.row_sql::text)
    FROM silver.rollup_config AS r WHERE r.id = p_rollup.id AND r.row_sql IS DISTINCT FROM p_rollup.row_sql
$$;
COMMENT ON FUNCTION rollup_engine.note_rows(silver.rollup_config) IS
'Notes how a rollup is to read the rows of its source, where that is news: its configuration may say that next, and nothing else.';

CREATE OR REPLACE FUNCTION rollup_engine.is_for_all(p_function name) RETURNS boolean
    LANGUAGE sql IMMUTABLE
RETURN p_function ~ '^(live|live_group|plain|tail_edges|log_row|note)_[0-9]+$';
COMMENT ON FUNCTION rollup_engine.is_for_all(name) IS
'Whether a generated function is one that who reads a view, or writes to a source, calls: without USAGE on the schema nobody does otherwise.';

CREATE OR REPLACE FUNCTION rollup_engine.generated_rights_sql(p_name text) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format(CASE WHEN rollup_engine.is_for_all(proname) THEN 'GRANT EXECUTE ON FUNCTION %s TO PUBLIC' ELSE 'REVOKE ALL ON FUNCTION %s FROM PUBLIC' END, oid::regprocedure)
    FROM pg_proc WHERE pronamespace = 'rollup_engine'::regnamespace AND proname = p_name
$$;
COMMENT ON FUNCTION rollup_engine.generated_rights_sql(text) IS 'Who may call a generated function: everybody or nobody; nothing for a view or trigger.';

CREATE OR REPLACE FUNCTION rollup_engine.give_generated_rights(p_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_statement text;
BEGIN
    FOR v_statement IN SELECT rollup_engine.generated_rights_sql(p_name) LOOP
        EXECUTE v_statement;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.give_generated_rights(text) IS 'Lets everybody or nobody call a function that was just generated.';

CREATE OR REPLACE FUNCTION rollup_engine.write_generated(p_name text, p_statement text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM rollup_engine.generated_text WHERE name = p_name AND digest = md5(p_statement)) THEN
        RETURN;  -- no lock that nobody needs
    END IF;
    EXECUTE p_statement;
    PERFORM rollup_engine.give_generated_rights(p_name);
    PERFORM rollup_engine.note_text(p_name, p_statement);
END
$$;
COMMENT ON FUNCTION rollup_engine.write_generated(text, text) IS 'Runs the CREATE OR REPLACE of a generated function or view, unless it was run already, and gives its rights.';

CREATE OR REPLACE FUNCTION rollup_engine.write_missing(p_name text, p_statement text, p_is_there boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT p_is_there THEN
        DELETE FROM rollup_engine.generated_text WHERE name = p_name;
        PERFORM rollup_engine.write_generated(p_name, p_statement);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.write_missing(text, text, boolean) IS
'Makes a view or trigger of the machinery itself, the first time or when somebody has dropped it. Where it is there, people use it: the end of a migrate writes it anew, without waiting for them.';

RESET ROLE;
