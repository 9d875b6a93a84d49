-- Functions and views that are written for one source or one rollup.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.write_generated(p_name text, p_statement text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM rollup_engine.generated_text WHERE name = p_name AND digest = md5(p_statement)) THEN
        RETURN;  -- no lock that nobody needs
    END IF;
    EXECUTE p_statement;
    INSERT INTO rollup_engine.generated_text (name, digest) VALUES (p_name, md5(p_statement))
    ON CONFLICT (name) DO UPDATE SET digest = excluded.digest;
END
$$;
COMMENT ON FUNCTION rollup_engine.write_generated(text, text) IS 'Runs the CREATE OR REPLACE of a generated function or view, unless it was run already.';

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
