-- What the end of every migrate puts in order: a function that was written anew has lost its
-- settings, a new one has no rights yet, and what is generated may be of an earlier release.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.generated_texts() RETURNS TABLE (name text, statement text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.* FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.capture_texts(s) AS t WHERE s.change_tracking = 'trigger'
    UNION ALL
    VALUES ('view_monitor', rollup_engine.monitor_view_sql()), ('trigger_chunk_interval', rollup_engine.chunk_trigger_sql()),
        ('trigger_guard_configuration', rollup_engine.guard_trigger_sql())
    UNION ALL
    SELECT t.name, t.statement
    FROM (
        -- Those who read one view lock the views below it next: in that order.
        SELECT c.* FROM silver.rollup_config AS c
        WHERE rollup_engine.is_relation(c.target_table) AND rollup_engine.is_relation(c.target_view)
        ORDER BY c.depth DESC, c.id
    ) AS r
    CROSS JOIN LATERAL (
        SELECT * FROM rollup_engine.live_functions_sql(r)
        UNION ALL
        SELECT format('view_%s', r.id), rollup_engine.live_view_sql(r, r.target_view::text)
    ) AS t (name, statement)
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

CREATE OR REPLACE FUNCTION rollup_engine.relation_of_text(p_name text) RETURNS regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_name
        WHEN 'view_monitor' THEN 'silver.timeseries_operations_monitor'::regclass
        WHEN 'trigger_chunk_interval' THEN 'silver.rollup_config'::regclass
        WHEN 'trigger_guard_configuration' THEN 'silver.rollup_config'::regclass
        ELSE (SELECT target_view FROM silver.rollup_config WHERE format('view_%s', id) = p_name) END
$$;
COMMENT ON FUNCTION rollup_engine.relation_of_text(text) IS 'A generated view, or what a generated trigger is on; NULL for functions.';

CREATE OR REPLACE FUNCTION rollup_engine.rewriting_hint(p_name text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN NOT pg_has_role('${owner_role}', c.relowner, 'USAGE') THEN format('ALTER VIEW %s OWNER TO %I', c.oid::regclass, '${owner_role}')
        WHEN NOT (has_schema_privilege('${owner_role}', c.relnamespace, 'USAGE') AND has_schema_privilege('${owner_role}', c.relnamespace, 'CREATE'))
        THEN format('GRANT USAGE, CREATE ON SCHEMA %s TO %I', c.relnamespace::regnamespace, '${owner_role}') END
    FROM silver.rollup_config AS r JOIN pg_class AS c ON c.oid = r.target_view
    WHERE format('view_%s', r.id) = p_name
$$;
COMMENT ON FUNCTION rollup_engine.rewriting_hint(text) IS 'What lets a migrate write a live view anew that people moved, or gave to somebody; NULL where it may.';

DROP FUNCTION IF EXISTS rollup_engine.users_of(text);
CREATE OR REPLACE FUNCTION rollup_engine.rewrite_generated() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms'
AS $$
DECLARE
    v_text record;
    v_relation regclass;
BEGIN
    PERFORM rollup_engine.write_missing_tails();
    FOR v_text IN SELECT t.* FROM rollup_engine.generated_texts() AS t WHERE t.name IN (SELECT rollup_engine.outdated_texts()) LOOP
        v_relation := rollup_engine.relation_of_text(v_text.name);
        BEGIN
            -- Who waits for one that is written already may hold this one.
            IF current_setting('lock_timeout') = '10ms' AND EXISTS (
                SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
                WHERE l.granted AND l.relation = v_relation AND l.pid IS DISTINCT FROM pg_backend_pid())
            THEN
                RAISE lock_not_available;
            END IF;
            PERFORM rollup_engine.write_generated(v_text.name, v_text.statement);
            IF v_relation IS NOT NULL THEN
                PERFORM set_config('lock_timeout', '10ms', true);
            END IF;
        EXCEPTION
            -- Who uses it is not waited for, as others would wait behind us. It stays right as it is.
            WHEN lock_not_available THEN
                RAISE NOTICE '% stays as an earlier release wrote it, for it is used by the sessions %', v_text.name, rollup_engine.lock_holders(v_relation)
                    USING HINT = 'migrate once more when they have ended: until then ' || CASE v_text.name
                        WHEN 'view_monitor' THEN 'metrics, dashboard and API lack columns of it' ELSE 'reads are right, and may be slower' END;
            -- Its owner may have made something else of it: that stops nothing else.
            WHEN OTHERS THEN
                RAISE NOTICE '% stays as an earlier release wrote it: %', v_text.name, SQLERRM
                    USING HINT = coalesce(rollup_engine.rewriting_hint(v_text.name) || '; then ', 'mend that, and ') || 'migrate once more';
        END;
    END LOOP;
    PERFORM rollup_engine.let_owners_clone(s) FROM rollup_engine.source AS s WHERE rollup_engine.is_relation(s.relation);
END
$$;
COMMENT ON FUNCTION rollup_engine.rewrite_generated() IS
'Writes generated functions and views anew where their text differs, but for those that somebody is reading, or has changed; and gives owners of sources their right to capture functions.';

CREATE OR REPLACE FUNCTION rollup_engine.grant_now() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.grant_api();
    PERFORM rollup_engine.revoke_again();
EXCEPTION WHEN lock_not_available OR internal_error THEN
    -- Of two GRANTs on one thing the second waits for the first, and fails when that is committed.
    PERFORM rollup_engine.fail('55P03', format('rights cannot be given while somebody changes them: one of the sessions %s', coalesce(
            (SELECT string_agg(pid::text, ', ') FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database()),
            'that have ended by now')),
        'migrate again when it has committed, or end it: SELECT pg_terminate_backend(pid)');
END
$$;
COMMENT ON FUNCTION rollup_engine.grant_now() IS 'Gives the group roles their rights; lock_not_available when somebody else is giving some.';

CREATE OR REPLACE FUNCTION rollup_engine.grant_in_turn(p_wait interval DEFAULT '1 minute') RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.run_in_turn('SELECT rollup_engine.grant_now()', p_wait)
$$;
COMMENT ON FUNCTION rollup_engine.grant_in_turn(interval) IS 'Gives the group roles their rights, after those who are giving some at the same time.';

CREATE OR REPLACE FUNCTION rollup_engine.raise_sequences() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_numbers record;
BEGIN
    -- Logical replication copies rows, and not how far their sequences are.
    FOR v_numbers IN
        SELECT a.attname, a.attrelid::regclass AS relation, pg_get_serial_sequence(a.attrelid::regclass::text, a.attname) AS sequence
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE a.attidentity <> '' AND (c.relnamespace = 'rollup_engine'::regnamespace OR c.oid IN (
            'silver.rollup_config'::regclass, 'silver.refresh_log'::regclass, 'silver.error_log'::regclass, 'silver.archive_log'::regclass))
    LOOP
        EXECUTE format('SELECT setval(%L, t.last) FROM (SELECT max(%I) FROM %s) AS t (last), %s AS s WHERE t.last > s.last_value',
            v_numbers.sequence, v_numbers.attname, v_numbers.relation, v_numbers.sequence);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.raise_sequences() IS 'Has new rows numbered behind those that are there.';

CREATE OR REPLACE FUNCTION rollup_engine.regenerate() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Of two migrates at once (Flyway's is not ours) the second finds all done.
    PERFORM pg_advisory_xact_lock(rollup_engine.lock_key('regenerate'));
    PERFORM rollup_engine.pin_settings();
    IF EXISTS (SELECT FROM rollup_engine.lost_rights()) THEN
        PERFORM rollup_engine.give_back_rights();  -- which an earlier release did not know of
    END IF;
    PERFORM rollup_engine.grant_in_turn();
    PERFORM rollup_engine.raise_sequences();
    PERFORM rollup_engine.note_indexes();
    UPDATE rollup_engine.source_column AS c SET seen = n.seen
    FROM rollup_engine.source AS s, rollup_engine.columns_seen(s) AS n
    WHERE c.source_id = s.id AND c.column_name = n.column_name
        AND CASE WHEN c.seen IS NULL THEN n.seen IS NOT NULL WHEN NOT c.seen ? 'letters' THEN c.seen -> 'called' = n.seen -> 'called' END;
    PERFORM rollup_engine.rewrite_generated();
    PERFORM rollup_engine.note_rights();
    PERFORM rollup_engine.prepare_workers();
    DELETE FROM rollup_engine.upgrade;
END
$$;
COMMENT ON FUNCTION rollup_engine.regenerate() IS 'Brings settings, rights and generated texts to what this release wants; what is so already is not touched. Runs go on from here.';

RESET ROLE;
