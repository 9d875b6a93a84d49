-- Citus: where the tables of a database lie on several servers. The machinery is on the coordinator
-- alone; what it asks a distributed table is asked of the workers, by connections of the owner role.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.has_citus() RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE  -- each read asks: its plan stays with the session
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_extension WHERE extname = 'citus');
END
$$;
COMMENT ON FUNCTION rollup_engine.has_citus() IS 'Whether the database has Citus.';

CREATE OR REPLACE FUNCTION rollup_engine.is_coordinator() RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.has_citus() THEN
        RETURN citus_is_coordinator();
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.is_coordinator() IS 'Whether the database is the one that Citus is spoken to by.';

CREATE OR REPLACE FUNCTION rollup_engine.distribution_column(p_table regclass) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column name;
BEGIN
    IF rollup_engine.has_citus() THEN
        SELECT column_to_column_name(logicalrelid, partkey) INTO v_column FROM pg_dist_partition WHERE logicalrelid = p_table AND partmethod = 'h';
    END IF;
    RETURN v_column;
END
$$;
COMMENT ON FUNCTION rollup_engine.distribution_column(regclass) IS 'The column that spreads a table over the workers of Citus; NULL for any other table.';

CREATE OR REPLACE FUNCTION rollup_engine.is_of_citus(p_table regclass) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.has_citus() THEN
        RETURN EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = p_table);
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.is_of_citus(regclass) IS 'Whether Citus plans what reads a table: a distributed one, or a reference table.';

CREATE OR REPLACE FUNCTION rollup_engine.tell_workers(p_is_on boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.has_citus() THEN
        PERFORM set_config('citus.enable_ddl_propagation', CASE WHEN p_is_on THEN 'on' ELSE 'off' END, true);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.tell_workers(boolean) IS 'Whether the workers of Citus follow what the transaction does to distributed tables.';

CREATE OR REPLACE FUNCTION rollup_engine.run_for_workers(p_statement text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_answer record;
BEGIN
    IF NOT rollup_engine.has_citus() THEN
        EXECUTE p_statement;
        RETURN;
    END IF;
    -- By a connection of its own: what one role has changed on a worker, another cannot read there in the same transaction.
    SELECT * INTO v_answer FROM run_command_on_coordinator(p_statement);
    IF NOT v_answer.success THEN
        PERFORM rollup_engine.fail('TR005', v_answer.result, format('run it by yourself, then try again: %s', p_statement));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.run_for_workers(text) IS 'Runs a statement; with Citus, on the workers as well, and for good, whatever becomes of the transaction.';

CREATE OR REPLACE FUNCTION rollup_engine.change_table(p_verb text, p_table regclass, p_change text DEFAULT '') RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.tell_workers(rollup_engine.distribution_column(p_table) IS NOT NULL);
    EXECUTE concat_ws(' ', p_verb, p_table, p_change);
    PERFORM rollup_engine.tell_workers(false);
END
$$;
COMMENT ON FUNCTION rollup_engine.change_table(text, regclass, text) IS 'Runs DDL of a table; where it is distributed, on its shards as well.';

CREATE OR REPLACE FUNCTION rollup_engine.keep_connections() RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What the transaction asks a shard first, however short, decides on the connection for all that follows.
    SELECT set_config('citus.force_max_query_parallelization', 'on', true),
        set_config('citus.max_cached_conns_per_worker', current_setting('citus.max_adaptive_executor_pool_size'), true)
$$;
COMMENT ON FUNCTION rollup_engine.keep_connections() IS 'Has the transaction ask each shard by a connection of its own, and the session keep these connections to the workers of Citus when it ends: the next batch needs as many, and each takes as long as a small one.';

CREATE OR REPLACE FUNCTION rollup_engine.await_workers() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_until constant timestamptz := clock_timestamp() + interval '2 seconds';
    v_first text[];
    v_prepared text[];
BEGIN
    -- A transaction is prepared on the workers, commits here, and then there: what is seen of it here is in none of these, or was before.
    LOOP
        v_prepared := ARRAY(
            SELECT g.id FROM run_command_on_workers(
                $sql$SELECT coalesce(json_agg(gid), '[]') FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, 'citus_')$sql$) AS w
            CROSS JOIN json_array_elements_text(CASE WHEN w.success THEN w.result ELSE '[]' END::json) AS g (id));
        v_first := coalesce(v_first, v_prepared);
        IF NOT v_prepared && v_first THEN
            RETURN true;
        ELSIF clock_timestamp() > v_until THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.await_workers() IS
'Waits until the workers of Citus have committed whatever was committed here before; false where that takes long: Citus recovers what a lost connection left.';

CREATE OR REPLACE FUNCTION rollup_engine.worker_states() RETURNS TABLE (worker text, problem text, hint text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.is_coordinator() THEN
        RETURN QUERY
            SELECT format('%s:%s', w.nodename, w.nodeport), p.problem,
                CASE WHEN w.success THEN 'tsrollup migrate, as a superuser of all nodes'
                    ELSE format('start it; let %I in there, from the coordinator (pg_hba.conf); where it has no such role, or one without LOGIN, tsrollup migrate, as a superuser of all nodes', '${owner_role}') END
            FROM run_command_on_workers($sql$SELECT coalesce(obj_description(to_regnamespace('rollup_engine'), 'pg_namespace'), '')$sql$) AS w
            CROSS JOIN LATERAL (
                SELECT CASE WHEN NOT w.success THEN format('does not answer %I: %s', '${owner_role}', w.result)
                    WHEN w.result = '' THEN 'has none of the functions that queries of rollups name'
                    WHEN w.result <> (SELECT digest FROM rollup_engine.generated_text WHERE name = 'workers')
                    THEN 'has the functions of another release' END
            ) AS p (problem);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.worker_states() IS 'The workers of Citus, and what keeps each from answering the machinery; nothing without Citus.';

RESET ROLE;
