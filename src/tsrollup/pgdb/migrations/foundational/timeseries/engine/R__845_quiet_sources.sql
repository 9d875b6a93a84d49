-- Which sources nobody needs to look at: those whose catalogue is, row by row, as it was when a run
-- last found it in order. One look at many of them costs less than a careful one at a single source.
--
-- A row of the catalogue is told by where it lies and who wrote it (ctid and xmin): whatever DDL
-- changes is a new row somewhere else, also within one transaction. What is updated in place
-- (statistics, relhasindex) answers depend on in no way.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.traced_tables(p_source_ids integer[]) RETURNS TABLE (source_id integer, member oid, kind "char")
    LANGUAGE plpgsql STABLE ROWS 10
    SET search_path = pg_catalog, pg_temp
    SET jit = off  -- many functions, few rows
    SET plan_cache_mode = force_generic_plan  -- planning costs as much as looking
    SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        -- OFFSET 0: looked up one by one, by an index, however many the planner expects. UNION would make room for as many;
        -- so a table that is reached on two paths counts twice, each time.
        WITH RECURSIVE below AS (
            SELECT id, relation::oid AS oid, 's'::"char" AS kind, 0::oid AS parent FROM rollup_engine.source WHERE id = ANY (p_source_ids)
            UNION ALL
            SELECT source_id, target_table::oid, 't', 0::oid FROM silver.rollup_config WHERE source_id = ANY (p_source_ids)
            UNION ALL
            SELECT b.id, i.inhrelid, CASE b.kind WHEN 's' THEN 'f' WHEN 't' THEN 'p' ELSE b.kind END::"char", b.oid
            FROM below AS b CROSS JOIN LATERAL (SELECT inhrelid FROM pg_inherits WHERE inhparent = b.oid OFFSET 0) AS i
        ), above AS (
            SELECT b.id, i.inhparent AS oid
            FROM below AS b
            CROSS JOIN LATERAL (SELECT inhparent FROM pg_inherits WHERE inhrelid = b.oid AND inhparent <> b.parent OFFSET 0) AS i
            WHERE b.kind IN ('s', 'f')
            UNION ALL
            SELECT a.id, i.inhparent
            FROM above AS a CROSS JOIN LATERAL (SELECT inhparent FROM pg_inherits WHERE inhrelid = a.oid OFFSET 0) AS i
        )
        SELECT id, oid, kind FROM below
        UNION ALL
        SELECT id, oid, 'f' FROM above;
END
$$;
COMMENT ON FUNCTION rollup_engine.traced_tables(integer[]) IS
'The tables that what sources say rests on: the source itself (s) and its family (f), the tables of its rollups (t) and their partitions (p).';

CREATE OR REPLACE FUNCTION rollup_engine.tables_locked() RETURNS oid[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(
        SELECT l.relation FROM pg_locks AS l
        JOIN pg_database AS d ON d.datname = current_database() AND d.oid = l.database
        WHERE l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL AND l.pid IS DISTINCT FROM pg_backend_pid());
END
$$;
COMMENT ON FUNCTION rollup_engine.tables_locked() IS 'What other sessions have locked, or wait to lock, so that nobody reads it.';

CREATE OR REPLACE FUNCTION rollup_engine.catalogue_traces(p_source_ids integer[]) RETURNS TABLE (source_id integer, trace numeric, is_plain boolean)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET jit = off  -- many functions, few rows
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
    v_numbering constant text := rollup_engine.this_numbering();
    v_may_be_elsewhere constant boolean := to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL OR to_regnamespace('_timescaledb_catalog') IS NOT NULL;
BEGIN
    RETURN QUERY
    WITH traced AS (
        SELECT t.source_id, r.hash, r.is_odd, t.member
        FROM rollup_engine.traced_tables(p_source_ids) AS t
        CROSS JOIN LATERAL (
            SELECT hash_record_extended(ROW(c.oid, c.ctid, c.xmin,
                t.kind IN ('s', 't') AND has_schema_privilege('${owner_role}', c.relnamespace, 'USAGE'),
                t.kind IN ('s', 't') AND has_table_privilege('${owner_role}', c.oid, 'SELECT')), 1) AS hash, false AS is_odd
            FROM pg_class AS c WHERE c.oid = t.member
            UNION ALL
            SELECT hash_record_extended(ROW(t.member, i.ctid, i.xmin), 2), false FROM pg_inherits AS i WHERE i.inhrelid = t.member
            UNION ALL
            SELECT hash_record_extended(ROW(t.member, g.ctid, g.xmin), 3), false FROM pg_trigger AS g WHERE g.tgrelid = t.member
            UNION ALL
            -- What is no type or collation (none, default, C) of PostgreSQL's own, or an expression, may become another one without its row.
            SELECT hash_record_extended(ROW(t.member, a.ctid, a.xmin), 4), t.kind IN ('s', 'f') AND a.attgenerated <> ''
                OR t.kind = 's' AND (a.atttypid >= 16384 OR a.attcollation NOT IN (0, 100, 950))
                    AND a.attname IN (SELECT c.current_name FROM rollup_engine.source_column AS c WHERE c.source_id = t.source_id)
            FROM pg_attribute AS a WHERE a.attrelid = t.member AND a.attnum > 0 AND t.kind <> 'p'
            UNION ALL
            SELECT hash_record_extended(ROW(t.member, x.ctid, x.xmin), 5), false FROM pg_index AS x WHERE x.indrelid = t.member AND t.kind = 't'
        ) AS r
        UNION ALL
        -- Most never had another name.
        SELECT id, hash_record_extended(ROW(s.id, CASE WHEN s.former_names <> '{}' OR s.relation_name <> s.relation::text THEN ARRAY(SELECT rollup_engine.exchanged_for(s)::oid) END), 10), false, NULL
        FROM rollup_engine.source AS s WHERE id = ANY (p_source_ids)
        UNION ALL
        -- A restore may add rows here that tell of another's tables.
        SELECT p.source_id, hash_record_extended(ROW(p.partition::oid, p.ctid, p.xmin), 11), false, NULL
        FROM rollup_engine.source_partition AS p WHERE p.source_id = ANY (p_source_ids)
        UNION ALL
        SELECT r.source_id, h.hash, false, NULL
        FROM silver.rollup_config AS r
        CROSS JOIN LATERAL (
            SELECT hash_record_extended(ROW(r.id, r.target_table::text), 6) AS hash
            UNION ALL
            SELECT hash_record_extended(ROW(r.id, v.ctid, v.xmin), 7) FROM pg_class AS v WHERE v.oid = r.target_view
            UNION ALL
            SELECT hash_record_extended(ROW(r.id, f.ctid, f.xmin), 8)
            FROM pg_proc AS f WHERE f.proname = format('live_%s', r.id)::name AND f.pronamespace = 'rollup_engine'::regnamespace
            UNION ALL
            -- Nobody guards it, and rows are in it: asked of none that would have to be waited for.
            SELECT hash_record_extended(ROW(r.id, i.inhrelid), 9)
            FROM (
                SELECT inhrelid FROM pg_inherits AS i
                WHERE inhparent = r.target_table AND NOT EXISTS (
                    SELECT FROM rollup_engine.rollup_partition AS p WHERE p.rollup_id = r.id AND p.partition = i.inhrelid)
                OFFSET 0
            ) AS i
            WHERE CASE WHEN i.inhrelid <> ALL ((SELECT rollup_engine.tables_locked())::oid[]) THEN pg_relation_size(i.inhrelid) > 0 END
        ) AS h
        WHERE r.source_id = ANY (p_source_ids)
        UNION ALL
        -- Nor has what expressions name a row here.
        SELECT source_id, 0, true, NULL FROM silver.rollup_config
        WHERE source_id = ANY (p_source_ids) AND (jsonb_path_exists(row_sql, '$.filter.parts') OR jsonb_path_exists(row_sql, '$.expressions.*.parts'))
    )
    SELECT s.id,
        CASE WHEN NOT (t.is_odd AND t.is_locked) THEN t.hash END + hash_record_extended(ROW(current_setting('server_version_num'), v_numbering,
            -- Which would wait: a number that nobody knows is noted nowhere.
            CASE WHEN t.is_odd AND NOT t.is_locked THEN rollup_engine.shape_trace(s) END,
            CASE WHEN v_may_be_elsewhere THEN rollup_engine.kept_elsewhere(s.relation, s.time_column) END,
            -- What a transaction has changed and noted itself, the next one looks at once more.
            CASE WHEN right(s.trace, 1) = '?' THEN pg_current_xact_id_if_assigned()::text END), 0),
        NOT t.is_odd
    FROM (
        -- Only where it matters what others have locked is that asked, which goes through the locks of the whole server.
        SELECT source_id, hash, is_odd, is_odd AND members && (SELECT rollup_engine.tables_locked()) AS is_locked
        FROM (
            SELECT source_id, sum(hash) AS hash, bool_or(is_odd) AS is_odd, array_agg(member) AS members FROM traced GROUP BY source_id
        ) AS g
    ) AS t
    JOIN rollup_engine.source AS s ON s.id = t.source_id;
END
$$;
COMMENT ON FUNCTION rollup_engine.catalogue_traces(integer[]) IS
'A number for each source that changes with any row of the catalogue that its rollups rest on; not plain: where a type, a collation or an expression may change what they rest on without such a row.';

CREATE OR REPLACE FUNCTION rollup_engine.is_in_order(p_source rollup_engine.source) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_source.trace = rollup_engine.shape_trace(p_source)
        AND p_source.partitioning = rollup_engine.partition_fingerprint(p_source.relation)
        AND NOT EXISTS (
            SELECT FROM rollup_engine.stray_triggers(p_source) AS t
            WHERE p_source.inserts_by_row IS NULL OR t.relation NOT IN (SELECT rollup_engine.source_family(p_source.relation)))
        AND NOT EXISTS (
            SELECT FROM silver.rollup_config AS r
            WHERE r.source_id = p_source.id AND (r.target_name <> r.target_table::text
                OR rollup_engine.query_problem(r.id, 'its tables are locked') IS NOT NULL
                OR EXISTS (SELECT FROM rollup_engine.data_problems(r))))
$$;
COMMENT ON FUNCTION rollup_engine.is_in_order(rollup_engine.source) IS 'Whether a drain would find nothing in the catalogue, and the rollups of the source have no problem; triggers that others have replaced are none.';

CREATE OR REPLACE FUNCTION rollup_engine.note_quiet(p_source_id integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_trace numeric;
BEGIN
    IF NOT rollup_engine.try_lock_source(p_source_id) THEN
        RETURN;
    END IF;
    -- First: what changes from here on makes another one.
    SELECT t.trace INTO v_trace FROM rollup_engine.catalogue_traces(ARRAY[p_source_id]) AS t;
    IF v_trace IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO rollup_engine.quiet_source (source_id, trace, has_strays)
    SELECT s.id, v_trace, EXISTS (SELECT FROM rollup_engine.stray_triggers(s)) FROM rollup_engine.source AS s
    WHERE s.id = p_source_id AND s.change_tracking = 'trigger' AND rollup_engine.is_in_order(s)
    ON CONFLICT (source_id) DO UPDATE SET trace = excluded.trace, has_strays = excluded.has_strays;
END
$$;
COMMENT ON FUNCTION rollup_engine.note_quiet(integer) IS 'After a drain: notes that nobody needs to look at a source again, if that is so, until its catalogue changes.';

CREATE OR REPLACE FUNCTION rollup_engine.sources_to_drain(p_target text, p_undrained integer[], p_is_known boolean)
RETURNS TABLE (source_id integer, is_quiet boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off  -- many functions, few rows
    SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    v_ids integer[];
    v_quiet integer[];
BEGIN
    IF p_is_known AND p_undrained = '{}' AND NOT EXISTS (SELECT FROM rollup_engine.change_log)
        AND NOT EXISTS (SELECT FROM rollup_engine.tail AS t WHERE t.waits_since IS NOT NULL)
    THEN
        RETURN;  -- most runs have one batch, and come here after it
    END IF;
    v_ids := ARRAY(SELECT DISTINCT r.source_id FROM rollup_engine.run_order(p_target) AS r);
    IF p_is_known THEN
        v_quiet := ARRAY(SELECT unnest(v_ids) EXCEPT SELECT unnest(p_undrained));
    ELSE
        v_quiet := ARRAY(
            SELECT q.source_id FROM rollup_engine.catalogue_traces(v_ids) AS t JOIN rollup_engine.quiet_source AS q USING (source_id, trace));
    END IF;
    RETURN QUERY
        SELECT s.id, q.id IS NOT NULL
        FROM unnest(v_ids) AS s (id) LEFT JOIN unnest(v_quiet) AS q (id) USING (id)
        WHERE q.id IS NULL OR EXISTS (SELECT FROM rollup_engine.change_log AS l WHERE l.source_id = s.id)
            -- It moves with the clock, which stands still in a run.
            OR EXISTS (SELECT FROM rollup_engine.tail AS t WHERE t.source_id = s.id AND (NOT p_is_known OR t.waits_since IS NOT NULL))
        ORDER BY s.id;
END
$$;
COMMENT ON FUNCTION rollup_engine.sources_to_drain(text, integer[], boolean) IS
'The sources of the named rollup, or of all, where changes were logged or the catalogue may have something to take in (not quiet). With p_is_known it was looked at a moment ago, and is asked again only of those that could not be drained then.';

CREATE OR REPLACE FUNCTION rollup_engine.sound_sources() RETURNS SETOF integer
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET jit = off  -- many functions, few rows
AS $$
BEGIN
    RETURN QUERY
    -- Once for each zone and each rollup: rules of zones change without a row of the catalogue.
    WITH zone AS MATERIALIZED (
        SELECT * FROM rollup_engine.current_rules()
    ), doubtful AS MATERIALIZED (
        SELECT r.source_id
        FROM silver.rollup_config AS r
        JOIN rollup_engine.zone_rules AS n ON n.rollup_id = r.id
        JOIN zone ON zone.timezone = n.timezone
        WHERE n.digest IS DISTINCT FROM zone.digest
        UNION ALL
        -- Of those that are quiet, none has a window.
        SELECT r.source_id
        FROM rollup_engine.retention AS k
        CROSS JOIN LATERAL rollup_engine.other_time_problem(k.relation) AS o
        CROSS JOIN LATERAL rollup_engine.readers(k.relation) AS r
        WHERE k.keep IS NOT NULL AND o.problem IS NOT NULL
        UNION ALL
        SELECT r.source_id
        FROM silver.rollup_config AS r
        WHERE (SELECT rollup_engine.partman_removes_any()) AND EXISTS (SELECT FROM rollup_engine.keep_problems(r))
    )
    SELECT t.source_id
    FROM rollup_engine.catalogue_traces(ARRAY(SELECT id FROM rollup_engine.source)) AS t
    JOIN rollup_engine.quiet_source AS q USING (source_id, trace)
    WHERE t.is_plain AND t.source_id NOT IN (SELECT d.source_id FROM doubtful AS d);
END
$$;
COMMENT ON FUNCTION rollup_engine.sound_sources() IS
'Sources whose rollups have no problem: they had none when a run last looked at the catalogue, and nothing has changed there; nor is what they read removed too early.';

RESET ROLE;
