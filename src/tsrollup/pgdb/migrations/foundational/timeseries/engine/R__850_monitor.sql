-- Watching over rollups: is each of them sound, and how far behind is it?

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Validation ------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.trigger_problems(p_source rollup_engine.source) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.capture_gaps(p_source)
    UNION ALL
    SELECT format('%s lacks capture triggers, or has them under another condition', string_agg(DISTINCT member::text, ', ')),
        'run SELECT silver.perform_rollup() as the owner of the source, which adds them; until then writes straight into it are missed'
    FROM rollup_engine.missing_triggers(p_source)
    WHERE NOT is_ancestor
    HAVING count(*) > 0
    UNION ALL
    SELECT format('capture triggers of %s are not enabled always', string_agg(DISTINCT g.tgrelid::regclass::text, ', ')),
        format('as the owner: ALTER TABLE %s ENABLE %s TRIGGER %I, and the same for each',
            min(g.tgrelid::regclass::text), min(rollup_engine.firing_mode(g.tgtype)), min(g.tgname::text))
    FROM rollup_engine.capture_triggers(p_source) AS g
    WHERE g.tgenabled <> left(rollup_engine.firing_mode(g.tgtype), 1)::"char"
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION rollup_engine.trigger_problems(rollup_engine.source) IS 'Capture triggers that are missing, do not always fire, or do not see everything.';

CREATE OR REPLACE FUNCTION rollup_engine.query_problem(p_rollup_id integer) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_time constant timestamptz := '2000-01-01 00:00:00+00';
BEGIN
    EXECUTE format('SELECT FROM rollup_engine.live_%s($1, $1)', p_rollup_id) USING v_time;
    EXECUTE (SELECT rollup_engine.grouped_sql(r, r.source_table::text, '$1', '$1') FROM silver.rollup_config AS r WHERE r.id = p_rollup_id) USING v_time;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;
COMMENT ON FUNCTION rollup_engine.query_problem(integer) IS 'Why the rollup''s query does not run, NULL when it does; tried on an empty range.';

CREATE OR REPLACE FUNCTION rollup_engine.source_problems(p_source rollup_engine.source) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s was dropped', p_source.relation_name), rollup_engine.gone_hint(p_source)
    WHERE NOT rollup_engine.is_relation(p_source.relation)
    UNION ALL
    SELECT format('%I may not read %s', '${owner_role}', c.oid::regclass),
        format('GRANT USAGE ON SCHEMA %s TO %I; GRANT SELECT ON %s TO %2$I', c.relnamespace::regnamespace, '${owner_role}', c.oid::regclass)
    FROM pg_class AS c
    WHERE c.oid = p_source.relation
        AND NOT (has_schema_privilege('${owner_role}', c.relnamespace, 'USAGE') AND has_table_privilege('${owner_role}', c.oid, 'SELECT'))
    UNION ALL
    SELECT format('column %I of %s, which its rollups read, is gone', c.noted_name, p_source.relation),
        format('ALTER TABLE %s ADD COLUMN it again; or drop the rollups that read it and create them anew', p_source.relation)
    FROM rollup_engine.resolved_columns(p_source) AS c
    WHERE c.current_name IS NULL AND rollup_engine.is_relation(p_source.relation)
    UNION ALL
    SELECT format('time column %I of %s was %s and is %s now', a.attname, p_source.relation, p_source.time_type, a.atttypid::regtype),
        'change it back, or drop the rollup and create it anew'
    FROM pg_attribute AS a
    WHERE a.attrelid = p_source.relation AND a.attname = p_source.time_column AND NOT a.attisdropped
        AND rollup_engine.base_type(a.atttypid) <> p_source.time_type
    UNION ALL
    SELECT format('%s has row level security', c.oid::regclass), 'a rollup shows everyone the sum of all rows; disable the policies, or drop the rollup'
    FROM pg_class AS c WHERE c.oid = p_source.relation AND c.relrowsecurity
    UNION ALL
    SELECT format('changes of %s cannot be tracked: it is %s', c.oid::regclass,
            CASE WHEN c.relkind = 'f' THEN 'a foreign table' WHEN c.relpersistence = 'u' THEN 'unlogged' ELSE 'temporary' END),
        CASE WHEN c.relkind = 'r' AND c.relpersistence = 'u' THEN format('ALTER TABLE %s SET LOGGED', c.oid::regclass)
            ELSE format('ALTER TABLE %s %s %s', CASE WHEN c.relispartition THEN i.inhparent::regclass ELSE c.oid::regclass END,
                CASE WHEN c.relispartition THEN 'DETACH PARTITION' ELSE 'NO INHERIT' END,
                CASE WHEN c.relispartition THEN c.oid::regclass ELSE i.inhparent::regclass END) END
        || '; or drop the rollups and create them anew with change_tracking => ''window'''
    FROM rollup_engine.partition_tree(p_source.relation) AS t (member)
    JOIN pg_class AS c ON c.oid = t.member AND (c.relkind NOT IN ('r', 'p') OR c.relpersistence <> 'p')
    LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
    WHERE p_source.change_tracking = 'trigger'
    UNION ALL
    SELECT t.problem, t.hint
    FROM rollup_engine.trigger_problems(p_source) AS t
    WHERE p_source.change_tracking = 'trigger' AND rollup_engine.is_relation(p_source.relation)
    UNION ALL
    SELECT format('%s partitions of %s were detached or dropped since the last run', count(*), p_source.relation),
        'the next run takes that in: SELECT * FROM silver.perform_rollup()'
    FROM rollup_engine.source_partition AS p
    WHERE p.source_id = p_source.id AND p_source.change_tracking = 'trigger' AND rollup_engine.is_relation(p_source.relation)
        AND p.partition NOT IN (SELECT rollup_engine.partition_tree(p_source.relation))
    HAVING count(*) > 0
    UNION ALL
    SELECT u.changes || ' since the last run', 'the next run takes that in: SELECT * FROM silver.perform_rollup(), as the owner of the table'
    FROM rollup_engine.unseen_changes(p_source) AS u (changes)
    WHERE u.changes IS NOT NULL AND rollup_engine.is_relation(p_source.relation)
$$;
COMMENT ON FUNCTION rollup_engine.source_problems(rollup_engine.source) IS 'What keeps the rollups of a source from being exact.';

CREATE OR REPLACE FUNCTION rollup_engine.data_problems(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('its %s is gone', relation.role), 'SELECT silver.drop_rollup(...) removes what is left; then create it anew'
    FROM (VALUES ('table', p_rollup.target_table), ('live view', p_rollup.target_view)) AS relation (role, id)
    WHERE NOT rollup_engine.is_relation(relation.id)
    UNION ALL
    SELECT format('%s stores %s, and its source has %s now', p_rollup.target_table,
            string_agg(format('%I as %s', column_name, data_type), ', ' ORDER BY position), string_agg(outgrown_by, ', ' ORDER BY position)),
        format('SELECT silver.rebuild_rollup(%L)', p_rollup.target_table)
    FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND outgrown_by IS NOT NULL
    HAVING count(*) > 0
    UNION ALL
    SELECT format('its query fails: %s', q.problem), 'undo the change of the source''s columns or rights, or drop the rollup and create it anew'
    FROM rollup_engine.query_problem(p_rollup.id) AS q (problem)
    WHERE q.problem IS NOT NULL AND rollup_engine.is_relation(p_rollup.source_table)
    UNION ALL
    SELECT format('column %I of %s was renamed or dropped', c.column_name, p_rollup.target_table),
        format('rename it back to %I; for a dropped one, drop the rollup and create it anew', c.column_name)
    FROM rollup_engine.rollup_column AS c
    WHERE c.rollup_id = p_rollup.id AND c.kind <> 'finished' AND rollup_engine.is_relation(p_rollup.target_table)
        AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = p_rollup.target_table AND a.attname = c.column_name)
    UNION ALL
    SELECT format('%s has row level security that its owner is subject to', c.oid::regclass), format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', c.oid::regclass)
    FROM pg_class AS c WHERE c.oid = p_rollup.target_table AND c.relrowsecurity AND c.relforcerowsecurity
    UNION ALL
    SELECT format('%s has no valid unique index on bucket and dimensions', p_rollup.target_table),
        format('CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT', p_rollup.target_table, rollup_engine.column_names(p_rollup.id, '{bucket,dimension}'))
    WHERE rollup_engine.is_relation(p_rollup.target_table)
        AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = p_rollup.target_table AND indisunique AND indisvalid AND indnullsnotdistinct)
    UNION ALL
    SELECT format('rows of %s may have been changed by hand since the last run: %s', p_rollup.target_table,
            string_agg(format('%s %s', CASE WHEN rollup_engine.is_relation(t.member) THEN t.member::text ELSE 'a partition' END, t.problem), ', ' ORDER BY t.member)),
        CASE WHEN count(i.inhrelid) > 0 THEN format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', p_rollup.target_table, min(i.inhrelid)::regclass)
            WHEN count(c.oid) > 0 THEN format('ALTER TABLE %s OWNER TO %I, or detach it; the next run guards it', min(c.oid)::regclass, '${owner_role}')
            ELSE 'the next run takes that in: SELECT * FROM silver.perform_rollup()' END
    FROM rollup_engine.touched_partitions(p_rollup.id, p_rollup.target_table) AS t
    LEFT JOIN pg_class AS c ON c.oid = t.member AND NOT pg_has_role('${owner_role}', c.relowner, 'USAGE')
    LEFT JOIN pg_inherits AS i ON i.inhrelid = t.member AND i.inhdetachpending
    WHERE rollup_engine.is_relation(p_rollup.target_table)
    HAVING count(*) > 0
    UNION ALL
    SELECT format('%s, a partition of %s, is no ordinary table', c.oid::regclass, i.inhparent::regclass),
        format('ALTER TABLE %s DETACH PARTITION %s', i.inhparent::regclass, c.oid::regclass)
    FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = p_rollup.target_table AND c.relkind <> 'r'
    UNION ALL
    SELECT format('%s, a partition of %s, is unlogged: a crash empties it', p.partition, p_rollup.target_table),
        format('ALTER TABLE %s SET LOGGED; and, if the server has crashed since, SELECT silver.mark_stale(%L, %L, %L)',
            p.partition, p_rollup.target_table, p.from_time, p.to_time)
    FROM rollup_engine.rollup_partition AS p JOIN pg_class AS c ON c.oid = p.partition
    WHERE p.rollup_id = p_rollup.id AND c.relpersistence = 'u'
    UNION ALL
    SELECT p.problem, p.hint
    FROM rollup_engine.source AS s, rollup_engine.source_problems(s) AS p
    WHERE s.id = p_rollup.source_id AND p_rollup.parent_id IS NULL
$$;
COMMENT ON FUNCTION rollup_engine.data_problems(silver.rollup_config) IS 'What keeps a rollup from equalling what it reads.';

CREATE OR REPLACE FUNCTION rollup_engine.own_problems(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT problem, hint FROM rollup_engine.data_problems(p_rollup)
    UNION ALL
    SELECT k.problem, k.hint FROM rollup_engine.window_keep_problem(p_rollup.source_table) AS k WHERE k.problem IS NOT NULL
    UNION ALL
    SELECT k.problem, k.hint FROM rollup_engine.partman_retention_problem(p_rollup.source_table) AS k WHERE k.problem IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.own_problems(silver.rollup_config) IS 'What keeps a rollup from equalling what it reads, or will.';

CREATE OR REPLACE FUNCTION rollup_engine.rollup_problems(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT problem, hint FROM rollup_engine.own_problems(p_rollup)
    UNION ALL
    SELECT format('%s, which it reads, is not valid: %s', c.target_name, o.problem), o.hint
    FROM rollup_engine.with_ancestors(p_rollup.id) AS a (id)
    JOIN silver.rollup_config AS c ON c.id = a.id AND c.id <> p_rollup.id
    CROSS JOIN LATERAL rollup_engine.own_problems(c) AS o
$$;
COMMENT ON FUNCTION rollup_engine.rollup_problems(silver.rollup_config) IS 'Everything that keeps a rollup from being exact: of its own, of its source, of the rollups that it reads.';

-- The monitor ---------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.known_stale_set(p_rollup_id integer) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN rollup_engine.finite_stale_set(p_rollup_id);
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;  -- its source cannot be read, which validate_rollup_config shows: the others are told of all the same
END
$$;
COMMENT ON FUNCTION rollup_engine.known_stale_set(integer) IS 'The stale set where there is data; NULL when the source does not say where.';

CREATE OR REPLACE FUNCTION rollup_engine.rollup_health(p_rollup silver.rollup_config, p_stale tstzmultirange) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM rollup_engine.rollup_problems(p_rollup)) THEN 'invalid'
        WHEN p_rollup.status <> 'active' THEN p_rollup.status
        WHEN EXISTS (SELECT FROM rollup_engine.failed_bucket WHERE rollup_id = p_rollup.id) THEN 'retrying'
        WHEN isempty(p_stale) THEN 'ok'
        WHEN p_rollup.parent_id IS NOT NULL AND isempty(p_stale - rollup_engine.bucket_align(p_rollup.bucket_width,
            rollup_engine.known_stale_set(p_rollup.parent_id))) THEN 'waiting_for_parent'
        ELSE 'lagging'
    END
$$;
COMMENT ON FUNCTION rollup_engine.rollup_health(silver.rollup_config, tstzmultirange) IS 'Health of a rollup, given its settled stale buckets.';

CREATE OR REPLACE FUNCTION rollup_engine.buckets_per_second(p_target text) RETURNS double precision
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sum(buckets) / greatest(sum(extract(epoch FROM finished_at - started_at)), 0.001)
    FROM (
        SELECT buckets, started_at, finished_at FROM silver.refresh_log
        WHERE target_table = p_target ORDER BY finished_at DESC LIMIT 10
    ) AS recent
$$;
COMMENT ON FUNCTION rollup_engine.buckets_per_second(text) IS 'Speed of the last ten batches.';

CREATE OR REPLACE FUNCTION rollup_engine.health_reason(p_rollup silver.rollup_config, p_health text, OUT reason text, OUT next_step text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT problem, hint
    FROM (
        SELECT 1, p.problem, p.hint FROM rollup_engine.rollup_problems(p_rollup) AS p WHERE p_health = 'invalid'
        UNION ALL
        SELECT 2, format('session %s holds the lock of %s: what changed there is not taken in', h.pid, s.relation),
            format('when it does not end by itself: SELECT pg_terminate_backend(%s)', h.pid)
        FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.source_lock_holder(s.id) AS h (pid)
        WHERE s.id = p_rollup.source_id AND p_health = 'lagging' AND h.pid IS NOT NULL
        UNION ALL
        SELECT 3, w.problem, w.hint
        FROM rollup_engine.retention AS t CROSS JOIN LATERAL rollup_engine.keep_warnings(t.relation) AS w
        WHERE t.relation = p_rollup.target_table OR rollup_engine.lies_in(p_rollup.source_table, t.relation)
    ) AS r (place, problem, hint)
    ORDER BY place
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.health_reason(silver.rollup_config, text) IS 'The first thing that people should know of a rollup with that health, and what to do about it; NULL when there is nothing.';

CREATE OR REPLACE FUNCTION rollup_engine.monitor()
RETURNS TABLE (
    target_table text, source_table text, health text, lag interval, stale_ranges bigint, stale_buckets bigint,
    rows_per_second double precision, success_rate double precision, time_to_catch_up interval,
    last_run_at timestamptz, next_retry_at timestamptz, last_error text, sealed_late_rows bigint, exact_since timestamptz,
    reason text, next_step text
)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.target_table::text, coalesce(CASE WHEN r.parent_id IS NULL THEN o.relation_name END, r.source_table::text), h.health,
        CASE WHEN isempty(s.settled) THEN interval '0' ELSE now() - lower(s.settled) END,
        (SELECT count(*) FROM unnest(s.stale)),
        rollup_engine.bucket_count(r.bucket_width, s.stale),
        r.rows_per_second,
        l.succeeded::float8 / nullif(l.succeeded + e.failed, 0),
        make_interval(secs => rollup_engine.bucket_count(r.bucket_width, s.settled) / v.speed),
        r.last_run_at, coalesce(r.next_retry_at, (SELECT min(b.next_retry_at) FROM rollup_engine.failed_bucket AS b WHERE b.rollup_id = r.id)), e.last_error, r.sealed_late_rows, rollup_engine.exact_since(r.id),
        n.reason, n.next_step
    FROM silver.rollup_config AS r
    JOIN rollup_engine.source AS o ON o.id = r.source_id
    CROSS JOIN LATERAL (SELECT rollup_engine.known_stale_set(r.id) AS stale) AS f
    CROSS JOIN LATERAL (SELECT f.stale, f.stale * tstzmultirange(rollup_engine.settled_range(r, now())) AS settled) AS s
    CROSS JOIN LATERAL (SELECT rollup_engine.rollup_health(r, s.settled) AS health OFFSET 0) AS h
    LEFT JOIN LATERAL rollup_engine.health_reason(r, h.health) AS n ON true
    CROSS JOIN LATERAL (
        SELECT count(*) AS succeeded FROM silver.refresh_log AS l
        WHERE l.target_table = r.target_table::text AND l.finished_at > now() - interval '1 day') AS l
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE e.occurred_at > now() - interval '1 day' AND e.error_code NOT IN ('TR006', 'TR007')) AS failed,
            (array_agg(e.error_code || ': ' || e.error_message ORDER BY e.id DESC))[1] AS last_error
        FROM silver.error_log AS e WHERE e.target_table = r.target_table::text) AS e
    CROSS JOIN LATERAL (SELECT nullif(rollup_engine.buckets_per_second(r.target_table::text), 0) AS speed) AS v
    ORDER BY r.depth, r.id
$$;
COMMENT ON FUNCTION rollup_engine.monitor() IS 'What timeseries_operations_monitor shows.';

CREATE OR REPLACE VIEW silver.timeseries_operations_monitor AS
SELECT target_table, source_table, health, lag, stale_ranges, stale_buckets, rows_per_second, success_rate, time_to_catch_up,
    last_run_at, next_retry_at, last_error, sealed_late_rows, exact_since, reason, next_step
FROM rollup_engine.monitor();
COMMENT ON VIEW silver.timeseries_operations_monitor IS 'How every rollup is doing, a row each; read it from a dashboard or an alert.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.target_table IS 'The rollup''s table.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.source_table IS 'What it reads.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.health IS 'ok; lagging: settled buckets are stale; waiting_for_parent: all of those wait for its parent; retrying: it failed, or single buckets do; parked: it was given up; paused; invalid: it may not be exact, and validate_rollup_config says why.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.lag IS 'Time since the start of the oldest settled stale bucket.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.stale_ranges IS 'Ranges where the stored rows are not read, logged changes included.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.stale_buckets IS 'Buckets in those ranges.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.rows_per_second IS 'Rows that the last batch wrote per second.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.success_rate IS 'Share of the batches of the last day that succeeded, 0 to 1; NULL when there was none.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.time_to_catch_up IS 'Settled stale buckets at the speed of the last ten batches; NULL before the first.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.last_run_at IS 'When a batch last ran.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.next_retry_at IS 'When a failed rollup, or the first of its failed buckets, is tried again.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.last_error IS 'Last error on record, with its SQLSTATE.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.sealed_late_rows IS 'Rows that came too late, for sealed buckets, and were kept out.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.exact_since IS 'The rollup is exact from here on; before, it or what it reads is sealed. NULL: everywhere.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.reason IS 'Why it is invalid; who holds up its source while it is lagging; or that partitions are too wide for how long its table or source is kept.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.next_step IS 'What to do about the reason.';

RESET ROLE;
