-- Watching over rollups: how is each of them, and how far is it behind?

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.known_stale_set(p_rollup_id integer) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '100ms'
AS $$
DECLARE
    v_source_id constant integer := (SELECT source_id FROM silver.rollup_config WHERE id = p_rollup_id);
BEGIN
    PERFORM rollup_engine.check_vain_wait('data', v_source_id);
    RETURN rollup_engine.finite_stale_set(p_rollup_id);
EXCEPTION WHEN lock_not_available THEN
    PERFORM rollup_engine.note_vain_wait('data', v_source_id);
    RETURN NULL;
WHEN OTHERS THEN
    RETURN NULL;  -- its source cannot be read, which validate_rollup_config shows: the others are told of all the same
END
$$;
COMMENT ON FUNCTION rollup_engine.known_stale_set(integer) IS 'The stale set where there is data; NULL when the source does not say where.';

CREATE OR REPLACE FUNCTION rollup_engine.stale_since(p_rollup silver.rollup_config) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.has_lost_zone(p_rollup) THEN
        p_rollup.timezone := 'UTC';
    END IF;
    RETURN min(due_at)
    FROM (
        SELECT due_at FROM rollup_engine.stale_range WHERE rollup_id = p_rollup.id
        UNION ALL
        SELECT rollup_engine.due_at(p_rollup, CASE WHEN isfinite(l.from_time) THEN rollup_engine.bucket_start(p_rollup, l.from_time) END, l.noted_at)
        FROM (
            SELECT from_time, min(noted_at) AS noted_at FROM rollup_engine.change_log WHERE source_id = p_rollup.source_id GROUP BY from_time
        ) AS l
        UNION ALL
        SELECT s.window_read_at + interval '1 minute'  -- what may have come since is due at the next run
        FROM rollup_engine.source AS s WHERE s.id = p_rollup.source_id AND s.change_tracking = 'window'
    ) AS waiting
    WHERE due_at <= now();
END
$$;
COMMENT ON FUNCTION rollup_engine.stale_since(silver.rollup_config) IS 'From when on the oldest change waits that was to be stored by now; NULL when there is none.';

-- That of 0.1.0 asked for all problems itself.
DROP FUNCTION IF EXISTS rollup_engine.rollup_health(silver.rollup_config, tstzmultirange);
CREATE OR REPLACE FUNCTION rollup_engine.rollup_health(p_rollup silver.rollup_config, p_stale tstzmultirange, p_problem text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN p_problem IS NOT NULL THEN 'invalid'
        WHEN p_rollup.status <> 'active' THEN p_rollup.status
        WHEN EXISTS (SELECT FROM rollup_engine.failed_bucket WHERE rollup_id = p_rollup.id) THEN 'retrying'
        WHEN isempty(p_stale) THEN 'ok'
        WHEN p_rollup.parent_id IS NOT NULL AND isempty(p_stale - rollup_engine.bucket_align(p_rollup,
            rollup_engine.known_stale_set(p_rollup.parent_id))) THEN 'waiting_for_parent'
        ELSE 'lagging'
    END
$$;
COMMENT ON FUNCTION rollup_engine.rollup_health(silver.rollup_config, tstzmultirange, text) IS 'Health of a rollup, given its settled stale buckets and what is wrong with it.';

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

CREATE OR REPLACE FUNCTION rollup_engine.explained_health(p_rollup silver.rollup_config, p_health text, OUT reason text, OUT next_step text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_health
            WHEN 'paused' THEN 'it was paused: changes are captured and reads are exact, but nothing is stored'
            WHEN 'parked' THEN format('%s failures in a row; the last: %s', p_rollup.retry_count, e.error)
            WHEN 'retrying' THEN coalesce(
                CASE WHEN p_rollup.retry_count > 0 THEN
                    format(CASE p_rollup.retry_count WHEN 1 THEN '%s failure: %s' ELSE '%s failures in a row; the last: %s' END,
                        p_rollup.retry_count, e.error) END,
                (SELECT format('%s of its buckets cannot be stored; the newest: %s: %s', count(*), max(b.error_code),
                    (array_agg(b.error_message ORDER BY b.bucket DESC))[1])
                FROM rollup_engine.failed_bucket AS b WHERE b.rollup_id = p_rollup.id))
            WHEN 'waiting_for_parent' THEN format('%s, which it reads, is stale there', p_rollup.source_table)
            WHEN 'lagging' THEN 'settled buckets are stale; ' || CASE WHEN p_rollup.last_run_at IS NULL THEN 'no batch has run yet'
                ELSE format('a batch last ran %s ago', date_trunc('second', greatest(now() - p_rollup.last_run_at, '0'))) END
        END,
        CASE p_health
            WHEN 'paused' THEN format('SELECT silver.resume_rollup(%L)', p_rollup.target_table)
            WHEN 'parked' THEN format('mend the cause (SELECT * FROM silver.error_log WHERE target_table = %L), then SELECT silver.reset_rollup_retry(%1$L)', p_rollup.target_table)
            WHEN 'retrying' THEN format('mend the cause; it is tried again by itself, and at once after SELECT silver.reset_rollup_retry(%L)', p_rollup.target_table)
            WHEN 'waiting_for_parent' THEN format('look at the row of %s', p_rollup.source_table)
            WHEN 'lagging' THEN 'nothing while runs go on; else have silver.run_rollups() called every few seconds, by pg_cron or tsrollup worker'
        END
    FROM (
        SELECT (SELECT x.error_code || ': ' || x.error_message FROM silver.error_log AS x
            WHERE x.target_table = p_rollup.target_table::text AND x.occurred_at >= p_rollup.created_at AND x.error_code NOT IN ('TR006', 'TR007')
                AND p_health IN ('parked', 'retrying')
            ORDER BY x.id DESC LIMIT 1)
    ) AS e (error)
$$;
COMMENT ON FUNCTION rollup_engine.explained_health(silver.rollup_config, text) IS 'What that health of a rollup comes from, and what to do about it; NULL for ok, and for invalid, which has problems.';

-- That of 0.1.0 asked for warnings itself.
DROP FUNCTION IF EXISTS rollup_engine.health_reason(silver.rollup_config, text);
CREATE OR REPLACE FUNCTION rollup_engine.health_reason(
    p_rollup silver.rollup_config, p_health text, p_warning text, p_hint text, OUT reason text, OUT next_step text
)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT problem, hint
    FROM (
        SELECT 1, format('session %s holds the lock of %s: what changed there is not taken in', h.pid, s.relation),
            format('when it does not end by itself: SELECT pg_terminate_backend(%s)', h.pid)
        FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.source_lock_holder(s.id) AS h (pid)
        WHERE s.id = p_rollup.source_id AND p_health = 'lagging' AND h.pid IS NOT NULL
        UNION ALL
        SELECT 1, format('prepared transaction %L holds the lock of %s: what changed there is not taken in', h.gid, s.relation),
            format('COMMIT PREPARED %L, or ROLLBACK PREPARED %1$L', h.gid)
        FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.source_lock_prepared(s.id) AS h (gid)
        WHERE s.id = p_rollup.source_id AND p_health = 'lagging' AND h.gid IS NOT NULL
        UNION ALL
        SELECT CASE p_health WHEN 'lagging' THEN 3 ELSE 1 END, o.reason, o.next_step
        FROM rollup_engine.explained_health(p_rollup, p_health) AS o
        WHERE o.reason IS NOT NULL
        UNION ALL
        SELECT 2, p_warning, p_hint WHERE p_warning IS NOT NULL
    ) AS r (place, problem, hint)
    ORDER BY place
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.health_reason(silver.rollup_config, text, text, text) IS 'The first thing that people should know of a rollup with that health that has no problem, and what to do about it, given what warns of how long its tables are kept; NULL when there is nothing.';

CREATE OR REPLACE FUNCTION rollup_engine.first_problem(p_rollup silver.rollup_config, p_is_sound boolean, OUT problem text, OUT hint text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT p_is_sound OR rollup_engine.has_lost_zone(p_rollup) THEN
        SELECT p.problem, p.hint INTO problem, hint FROM rollup_engine.rollup_problems(p_rollup) AS p LIMIT 1;
    ELSIF p_rollup.parent_id IS NOT NULL THEN
        -- Which rows bring along, and not the catalogue.
        SELECT u.problem, u.hint INTO problem, hint
        FROM (SELECT c.* FROM rollup_engine.with_ancestors(p_rollup.id) AS a (id) JOIN silver.rollup_config AS c USING (id) OFFSET 0) AS c,
            rollup_engine.uneven_problems(c) AS u
        LIMIT 1;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.first_problem(silver.rollup_config, boolean) IS 'What is wrong with a rollup, first of all; nobody needs to ask for those of a sound source.';

CREATE OR REPLACE FUNCTION rollup_engine.running_batches() RETURNS TABLE (rollup_id integer, pid integer)
    LANGUAGE sql STABLE ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Who refreshes a cell holds its lock, and leaves its ranges in sight until the batch is committed.
    WITH held AS MATERIALIZED (
        SELECT l.key, l.pid FROM rollup_engine.advisory_locks() AS l WHERE l.pid IS NOT NULL
    ), stale AS (
        SELECT DISTINCT rollup_id, cell FROM rollup_engine.stale_range WHERE EXISTS (SELECT FROM held)
    )
    SELECT s.rollup_id, min(h.pid)
    FROM stale AS s JOIN held AS h ON h.key = rollup_engine.cell_lock_key(s.rollup_id, s.cell)
    GROUP BY s.rollup_id
$$;
COMMENT ON FUNCTION rollup_engine.running_batches() IS 'Rollups that are refreshed now, each with a session that is at it.';

CREATE OR REPLACE FUNCTION rollup_engine.watched()
RETURNS TABLE (
    target_table text, source_table text, health text, lag interval, stale_ranges bigint, stale_buckets bigint,
    rows_per_second double precision, success_rate double precision, time_to_catch_up interval,
    last_run_at timestamptz, next_retry_at timestamptz, last_error text, sealed_late_rows bigint, exact_since timestamptz,
    reason text, next_step text, stale_since timestamptz, running_pid integer
)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off  -- many functions, few rows
AS $$
    -- Of each table once, however many rollups there are.
    WITH warning AS MATERIALIZED (
        SELECT t.relation, w.problem, w.hint FROM rollup_engine.retention AS t JOIN pg_class AS c ON c.oid = t.relation
        CROSS JOIN LATERAL (SELECT * FROM rollup_engine.keep_warnings(t.relation) LIMIT 1) AS w
    )
    SELECT r.target_table::text, CASE WHEN r.parent_id IS NULL AND NOT rollup_engine.is_relation(r.source_table) THEN o.relation_name ELSE r.source_table::text END, h.health,
        CASE WHEN isempty(s.settled) THEN interval '0' ELSE now() - lower(s.settled) END,
        (SELECT count(*) FROM unnest(s.stale)),
        rollup_engine.bucket_count(r.bucket_width, s.stale),
        r.rows_per_second,
        l.succeeded::float8 / nullif(l.succeeded + e.failed, 0),
        make_interval(secs => rollup_engine.bucket_count(r.bucket_width, s.settled) / v.speed),
        r.last_run_at, coalesce(r.next_retry_at, (SELECT min(b.next_retry_at) FROM rollup_engine.failed_bucket AS b WHERE b.rollup_id = r.id)), e.last_error, r.sealed_late_rows,
        CASE WHEN r.parent_id IS NULL THEN r.sealed_before ELSE rollup_engine.exact_since(r.id) END,
        coalesce(p.problem, n.reason), CASE WHEN p.problem IS NULL THEN n.next_step ELSE p.hint END, f.since, b.pid
    FROM silver.rollup_config AS r
    JOIN rollup_engine.source AS o ON o.id = r.source_id
    LEFT JOIN rollup_engine.sound_sources() AS sound (id) ON sound.id = r.source_id
    CROSS JOIN LATERAL (SELECT problem, hint FROM rollup_engine.first_problem(r, sound.id IS NOT NULL) OFFSET 0) AS p
    CROSS JOIN LATERAL (SELECT rollup_engine.may_be_stale(r) AS may_be OFFSET 0) AS m
    CROSS JOIN LATERAL (
        SELECT CASE WHEN m.may_be THEN rollup_engine.known_stale_set(r.id) ELSE '{}' END AS stale, CASE WHEN m.may_be THEN rollup_engine.stale_since(r) END AS since OFFSET 0) AS f
    CROSS JOIN LATERAL (
        -- A window is read anew for ever: what of it a run has just stored is stale for who reads alone.
        SELECT f.stale, CASE WHEN isempty(f.stale) OR rollup_engine.has_lost_zone(r) OR r.change_tracking = 'window' AND f.since IS NULL THEN '{}'
            ELSE f.stale * tstzmultirange(rollup_engine.settled_range(r, now())) END AS settled OFFSET 0) AS s
    CROSS JOIN LATERAL (SELECT rollup_engine.rollup_health(r, s.settled, p.problem) AS health OFFSET 0) AS h
    LEFT JOIN LATERAL (
        SELECT w.* FROM warning AS w
        WHERE p.problem IS NULL AND w.relation IN (SELECT r.target_table UNION ALL SELECT rollup_engine.with_roots(r.source_table)) LIMIT 1) AS w ON true
    LEFT JOIN LATERAL (
        SELECT x.* FROM rollup_engine.health_reason(r, h.health, w.problem, w.hint) AS x
        WHERE p.problem IS NULL AND (h.health <> 'ok' OR w.problem IS NOT NULL) OFFSET 0) AS n ON true
    CROSS JOIN LATERAL (
        SELECT count(*) AS succeeded FROM silver.refresh_log AS l
        WHERE l.target_table = r.target_table::text AND l.finished_at > greatest(now() - interval '1 day', r.created_at)) AS l
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE e.occurred_at > now() - interval '1 day' AND e.error_code NOT IN ('TR006', 'TR007')) AS failed,
            (array_agg(e.error_code || ': ' || e.error_message ORDER BY e.id DESC))[1] AS last_error
        FROM silver.error_log AS e WHERE e.target_table = r.target_table::text AND e.occurred_at >= r.created_at) AS e
    CROSS JOIN LATERAL (SELECT nullif(rollup_engine.buckets_per_second(r.target_table::text), 0) AS speed) AS v
    LEFT JOIN rollup_engine.running_batches() AS b ON b.rollup_id = r.id
    ORDER BY r.depth, r.id
$$;
COMMENT ON FUNCTION rollup_engine.watched() IS 'What timeseries_operations_monitor shows.';

-- The monitor of 0.1.0, which may stay for a while, calls this.
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
    SELECT target_table, source_table, health, lag, stale_ranges, stale_buckets, rows_per_second, success_rate, time_to_catch_up,
        last_run_at, next_retry_at, last_error, sealed_late_rows, exact_since, reason, next_step
    FROM rollup_engine.watched()
$$;
COMMENT ON FUNCTION rollup_engine.monitor() IS 'What timeseries_operations_monitor of 0.1.0 shows.';

CREATE OR REPLACE FUNCTION rollup_engine.monitor_view_sql() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'CREATE OR REPLACE VIEW silver.timeseries_operations_monitor AS
SELECT m.target_table, m.source_table, m.health, m.lag, m.stale_ranges, m.stale_buckets, m.rows_per_second, m.success_rate, m.time_to_catch_up,
    m.last_run_at, m.next_retry_at, m.last_error, m.sealed_late_rows, m.exact_since, m.reason, m.next_step, m.stale_since,
    m.running_pid, (SELECT a.xact_start FROM pg_stat_get_activity(m.running_pid) AS a WHERE a.pid = m.running_pid) AS running_since,
    coalesce(g.groups, 0) AS stale_groups, coalesce(g.buckets, 0) AS partly_stale_buckets
FROM rollup_engine.watched() AS m LEFT JOIN rollup_engine.stale_groups() AS g (target_table, groups, buckets) USING (target_table);
COMMENT ON COLUMN silver.timeseries_operations_monitor.stale_groups IS ''Groups that late rows have made stale, in buckets that are not so as a whole.'';
COMMENT ON COLUMN silver.timeseries_operations_monitor.partly_stale_buckets IS ''The buckets of those groups; stale_buckets counts them, too.'';
COMMENT ON COLUMN silver.timeseries_operations_monitor.stale_since IS ''Since when the oldest change waits that was to be stored by now; NULL when none does.'';
COMMENT ON COLUMN silver.timeseries_operations_monitor.running_pid IS ''The session that run_rollups refreshes it in now; NULL when there is none.'';
COMMENT ON COLUMN silver.timeseries_operations_monitor.running_since IS ''When its batch began; NULL without one, and for who may not see what that session does (pg_read_all_stats).'''
$$;
COMMENT ON FUNCTION rollup_engine.monitor_view_sql() IS 'Text of the monitor: who reads it is not waited for, so the end of a migrate writes it anew.';

SELECT rollup_engine.write_missing('view_monitor', rollup_engine.monitor_view_sql(), to_regclass('silver.timeseries_operations_monitor') IS NOT NULL);
COMMENT ON VIEW silver.timeseries_operations_monitor IS 'How every rollup is doing, a row each; read it from a dashboard or an alert.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.target_table IS 'The rollup''s table.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.source_table IS 'What it reads.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.health IS 'ok; lagging: settled buckets are stale, those of a window when it was not read for a minute; waiting_for_parent: all of those wait for its parent; retrying: it failed, or single buckets do; parked: it was given up; paused; invalid: it may not be exact, and validate_rollup_config says why.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.lag IS 'Time since the start of the oldest settled stale bucket; 0 when health is ok.';
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
COMMENT ON COLUMN silver.timeseries_operations_monitor.reason IS 'Why its health is not ok, or that partitions are too wide for how long its table or source is kept; NULL when there is nothing to say.';
COMMENT ON COLUMN silver.timeseries_operations_monitor.next_step IS 'What to do about the reason.';

RESET ROLE;
