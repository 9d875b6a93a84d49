-- What the end of every migrate puts in order: a function that was written anew has lost its
-- settings, a new one has no rights yet, and what is generated may be of an earlier release.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.generated_texts() RETURNS TABLE (name text, statement text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('capture_%s', s.id), rollup_engine.capture_function_sql(s)
    FROM rollup_engine.source AS s WHERE s.change_tracking = 'trigger'
    UNION ALL
    SELECT t.name, t.statement
    FROM silver.rollup_config AS r
    CROSS JOIN LATERAL (VALUES
        (format('live_%s', r.id), rollup_engine.live_function_sql(r)),
        (format('view_%s', r.id), rollup_engine.live_view_sql(r, r.target_view::text))) AS t (name, statement)
    WHERE rollup_engine.is_relation(r.target_table) AND rollup_engine.is_relation(r.target_view)
$$;
COMMENT ON FUNCTION rollup_engine.generated_texts() IS 'Every generated function and view, as this release on this server would write it.';

CREATE OR REPLACE FUNCTION rollup_engine.outdated_texts() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.name
    FROM rollup_engine.generated_texts() AS t
    LEFT JOIN rollup_engine.generated_text AS g USING (name)
    WHERE g.digest IS DISTINCT FROM md5(t.statement)
$$;
COMMENT ON FUNCTION rollup_engine.outdated_texts() IS 'Generated functions and views that a migrate would write anew: after an upgrade of the server, for one.';

CREATE OR REPLACE FUNCTION rollup_engine.rewrite_generated() RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.write_generated(t.name, t.statement) FROM rollup_engine.generated_texts() AS t
$$;
COMMENT ON FUNCTION rollup_engine.rewrite_generated() IS 'Writes generated functions and views anew where their text differs.';

CREATE OR REPLACE FUNCTION rollup_engine.regenerate() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT rollup_engine.has_rights() THEN
        PERFORM rollup_engine.give_back_rights();
    END IF;
    IF rollup_engine.has_rights() THEN
        PERFORM rollup_engine.pin_settings();
        PERFORM rollup_engine.grant_api();
        PERFORM rollup_engine.rewrite_generated();
        PERFORM rollup_engine.note_rights();
        DELETE FROM rollup_engine.upgrade;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.regenerate() IS 'Brings settings, rights and generated texts to what this release wants; what is so already is not touched. Runs go on from here.';

RESET ROLE;
