-- Tables and views that people use: who does, and keeping them out for a change.
--
-- Who reads a view locks those below it next, some of the tables before their views. So all that a
-- change needs is locked before it begins, the uppermost first, and let go of again before a
-- deadlock could end anybody else's statement.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.lock_holders(p_relation regclass) RETURNS text
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(string_agg(DISTINCT coalesce(l.pid::text, 'of prepared transactions (pg_prepared_xacts)'), ', '), 'that have ended by now')
    FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
    WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.relation IN (SELECT rollup_engine.partition_tree(p_relation))
$$;
COMMENT ON FUNCTION rollup_engine.lock_holders(regclass) IS 'The sessions that use a table, one of its partitions, or a view.';

CREATE OR REPLACE FUNCTION rollup_engine.locked_message(p_source_id integer) RETURNS text
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        CASE WHEN count(*) > 0 THEN format('%s is locked by session %s', min(l.relation::regclass::text), coalesce(min(l.pid)::text, 'of a prepared transaction (pg_prepared_xacts)')) END,
        format('somebody holds what is needed for the rollups of %s', (SELECT relation FROM rollup_engine.source WHERE id = p_source_id)))
    FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
    WHERE l.granted AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.relation IN (
        SELECT rollup_engine.partition_tree(relation) FROM rollup_engine.source WHERE id = p_source_id
        UNION ALL
        SELECT rollup_engine.partition_tree(target_table) FROM silver.rollup_config WHERE source_id = p_source_id)
$$;
COMMENT ON FUNCTION rollup_engine.locked_message(integer) IS 'Who keeps a source, or a rollup of it, to himself.';

CREATE OR REPLACE FUNCTION rollup_engine.check_no_index_is_built(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_builder record;
BEGIN
    SELECT l.relation::regclass AS relation, l.pid INTO v_builder
    FROM pg_locks AS l JOIN pg_stat_progress_create_index AS i ON i.pid = l.pid AND i.datname = current_database()
    WHERE l.granted AND l.mode = 'ShareUpdateExclusiveLock' AND l.relation IN (SELECT rollup_engine.partition_tree(p_relation))
    LIMIT 1;
    IF FOUND THEN
        PERFORM rollup_engine.fail('TR003', format('session %s builds an index of %s concurrently', v_builder.pid, v_builder.relation),
            'do it again when that is done: it waits for all who read before, and who waits for it would have it fail');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_no_index_is_built(regclass) IS
'An error where CREATE INDEX or REINDEX CONCURRENTLY goes on: with the triggers that the caller makes or drops it would be a deadlock, which may end either.';

CREATE OR REPLACE FUNCTION rollup_engine.lock_views(p_rollup_ids integer[]) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.lock_tables(ARRAY(
        SELECT t.relation
        FROM silver.rollup_config AS r CROSS JOIN LATERAL (VALUES (1, r.target_view), (2, r.target_table)) AS t (place, relation)
        WHERE r.id = ANY (p_rollup_ids) AND rollup_engine.is_relation(t.relation)
        ORDER BY r.depth DESC, r.id, t.place))
$$;
COMMENT ON FUNCTION rollup_engine.lock_views(integer[]) IS 'Keeps everybody from the live views and tables of rollups until the end of the transaction; waits a minute for those who read them.';

RESET ROLE;
