-- Where reads begin in the change log: behind what drains have settled. A snapshot that stays open
-- keeps those rows, dead as they are, in the way of everybody.
-- The first script after 0.1.0, so before that what this and later ones change tables and functions by.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE FUNCTION rollup_engine.run_in_turn(p_query text, p_wait interval DEFAULT '1 minute') RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms'
AS $$
DECLARE
    v_until constant timestamptz := clock_timestamp() + p_wait;
    v_is_first boolean := true;
    v_hint text;
BEGIN
    LOOP
        BEGIN
            EXECUTE p_query;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > v_until THEN
                RAISE;
            ELSIF v_is_first THEN
                GET STACKED DIAGNOSTICS v_hint = PG_EXCEPTION_HINT;  -- the server's own words have none
                RAISE NOTICE 'waiting: %', coalesce(CASE v_hint WHEN '' THEN
                    'for a transaction that runs or changes rollups, of the sessions ' || rollup_engine.lock_holders('silver.rollup_config') END, SQLERRM);
            END IF;
            v_is_first := false;
        END;
        PERFORM pg_sleep(0.1);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.run_in_turn(text, interval) IS
'Runs a query after those who hold what it needs, who are waited for, but never with others behind: all that it has locked is let go of in between.';

CREATE FUNCTION rollup_engine.lock_now(p_relations regclass[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation regclass;
BEGIN
    FOREACH v_relation IN ARRAY p_relations LOOP
        -- LOCK would lock all that a view reads, and so what all live views read.
        EXECUTE (
            SELECT CASE relkind WHEN 'v' THEN format('ALTER VIEW %s OWNER TO %s', v_relation, relowner::regrole) ELSE format('LOCK TABLE %s', v_relation) END
            FROM pg_class WHERE oid = v_relation);
    END LOOP;
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = format('%s is in use: by the sessions %s', v_relation, rollup_engine.lock_holders(v_relation)),
        HINT = 'try again when they have ended, or end them: SELECT pg_terminate_backend(pid), or ROLLBACK PREPARED';
WHEN undefined_table THEN  -- the name that it was waited for by
    RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = format('%s was renamed or dropped meanwhile', v_relation), HINT = 'try again';
END
$$;
COMMENT ON FUNCTION rollup_engine.lock_now(regclass[]) IS 'Keeps everybody from tables and views until the end of the transaction; an error that names who uses one for longer than lock_timeout.';

CREATE FUNCTION rollup_engine.lock_tables(p_relations regclass[], p_wait interval DEFAULT '1 minute') RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.run_in_turn(format('SELECT rollup_engine.lock_now(%L)', p_relations::oid[]), p_wait)
$$;
COMMENT ON FUNCTION rollup_engine.lock_tables(regclass[], interval) IS 'Keeps everybody from tables and views until the end of the transaction, in turn with those who use them.';

SELECT rollup_engine.lock_tables('{rollup_engine.change_log}');

CREATE FUNCTION rollup_engine.check_migrated() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.is_upgrading() THEN
        RAISE EXCEPTION USING ERRCODE = 'TR005', MESSAGE = 'a migrate is under way, or has ended half way: until one ends rollups are neither made nor changed',
            HINT = 'wait for it; or, with the program that began it: tsrollup migrate';
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_migrated() IS
'An error where functions of two releases may be there at once. What changes rollups asks first; to the end of its transaction no migrate begins.';
GRANT EXECUTE ON FUNCTION rollup_engine.check_migrated() TO "${operator_role}";

-- What these do is the engine's from here on.
CREATE OR REPLACE FUNCTION silver.drop_rollup(target text, keep_table boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.check_migrated();
    PERFORM rollup_engine.drop_in_turn(target, keep_table);
END
$$;
COMMENT ON FUNCTION silver.drop_rollup(text, boolean) IS
'Drops a rollup with its live view and, unless keep_table, its table; with the last rollup of a source go the capture triggers. Refuses while another rollup reads it. Who uses one of them is waited for, up to a minute. The caller is a member of the owner role, and owns the source where the rollup is its last.';

CREATE OR REPLACE FUNCTION silver.rebuild_rollup(target text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.check_migrated();
    PERFORM rollup_engine.rebuild_with_descendants(target);
END
$$;

CREATE OR REPLACE FUNCTION silver.set_retention(table_name text, keep interval, archive boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.check_migrated();
    PERFORM rollup_engine.change_retention(table_name, keep, archive);
END
$$;

CREATE OR REPLACE FUNCTION silver.partition_source(table_name text, chunk_interval interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.check_migrated();
    PERFORM rollup_engine.adopt_partitions(table_name, chunk_interval);
END
$$;

-- A migrate of 0.1.0 beside, or after, one that goes on from here would end it before its time.
CREATE OR REPLACE FUNCTION rollup_engine.regenerate() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'TR005', MESSAGE = 'a later release has begun to migrate this database', HINT = 'end it with that one: tsrollup migrate';
END
$$;

CREATE FUNCTION rollup_engine.take_place_of(p_old regprocedure, p_new regprocedure) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_arguments constant text := pg_get_function_arguments(p_old);
    v_statement text;
BEGIN
    FOR v_statement IN
        SELECT format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, "${operator_role}"', p_new)
        UNION ALL
        SELECT format('GRANT EXECUTE ON FUNCTION %s TO %s%s', p_new, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)
        FROM pg_proc AS f CROSS JOIN LATERAL aclexplode(f.proacl) AS a
        WHERE f.oid = p_old AND a.grantee <> f.proowner
    LOOP
        EXECUTE v_statement;
    END LOOP;
    BEGIN
        EXECUTE format('DROP FUNCTION %s', p_old);
    EXCEPTION WHEN dependent_objects_still_exist THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION %s(%s) RETURNS %s LANGUAGE sql SET search_path = pg_catalog, pg_temp AS %L',
            p_old::regproc, v_arguments, pg_get_function_result(p_old), format('SELECT %s(%s)', p_new::regproc,
                (SELECT string_agg('$' || n, ', ' ORDER BY n) FROM pg_proc AS f, generate_series(1, f.pronargs) AS n WHERE f.oid = p_old)));
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', p_old, format('That of an earlier release, for what rests on it: calls %s.', p_new::regproc));
    END;
END
$$;
COMMENT ON FUNCTION rollup_engine.take_place_of(regprocedure, regprocedure) IS
'Gives a new function, which begins with the same arguments, the rights on an old one, and drops that; where a function or view of somebody''s rests on it, it stays and calls the new one.';

ALTER TABLE rollup_engine.change_log ADD COLUMN writer xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX change_log_writer_idx ON rollup_engine.change_log (source_id, writer);
COMMENT ON COLUMN rollup_engine.change_log.writer IS 'The transaction that wrote what it speaks of.';

ALTER TABLE rollup_engine.noted_right ADD COLUMN is_revoked boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN rollup_engine.noted_right.is_revoked IS 'Whether somebody has taken it back: no migrate gives it again.';
ALTER TABLE rollup_engine.noted_right ADD COLUMN marked oid;
COMMENT ON COLUMN rollup_engine.noted_right.marked IS 'What it is a right on, where that had a mark, which is lost with its rights; another one after a restore. 0 where a migrate was not allowed to give back what was lost.';

CREATE TABLE rollup_engine.log_border (
    source_id integer NOT NULL,
    writer xid8 NOT NULL,
    noted_by xid,
    PRIMARY KEY (source_id, writer)
);
COMMENT ON TABLE rollup_engine.log_border IS 'Which part of the change log of a source is settled.';
COMMENT ON COLUMN rollup_engine.log_border.writer IS 'Who sees this row sees nothing of earlier transactions in the log: a drain took it, with all that they wrote.';
COMMENT ON COLUMN rollup_engine.log_border.noted_by IS 'The xmin of this row: where it is another one, the row was restored, and says nothing of the transactions here.';

RESET ROLE;
