-- Who owns a schema, or the history in it, may replace what is made there, and have triggers of
-- its own called with the rights of whoever migrates: that must be somebody trusted.

SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    v_strange record;
BEGIN
    FOR v_strange IN
        SELECT o.kind, o.name, r.rolname AS owner
        FROM (
            SELECT 'SCHEMA' AS kind, quote_ident(nspname) AS name, nspowner AS owner
            FROM pg_namespace WHERE nspname IN ('rollup_engine')
            UNION ALL
            SELECT 'TABLE', oid::regclass::text, relowner
            FROM pg_class WHERE relnamespace = to_regnamespace('rollup_engine') AND starts_with(relname, 'schema_history_')
        ) AS o
        JOIN pg_roles AS r ON r.oid = o.owner
        WHERE r.rolname NOT IN (current_user, 'pg_database_owner') AND NOT r.rolsuper
            AND r.oid <> (SELECT datdba FROM pg_database WHERE datname = current_database())
    LOOP
        RAISE insufficient_privilege USING
            MESSAGE = format('%s %s belongs to %I, which could replace what is made in it', lower(v_strange.kind), v_strange.name, v_strange.owner),
            HINT = format('Migrate as %I, or as an administrator run: ALTER %s %s OWNER TO %I', v_strange.owner, v_strange.kind, v_strange.name, current_user);
    END LOOP;
END
$$;
