-- What keeps a rollup from being right: asked by validation, the monitor, and whoever seals.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- A locked table is waited for once in a statement, not once for each rollup that has to do with it.

CREATE OR REPLACE FUNCTION rollup_engine.note_vain_wait(p_for text, p_source_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config(format('rollup_engine.waited_for_%s_%s', p_for, p_source_id), extract(epoch FROM statement_timestamp())::text, true);
END
$$;
COMMENT ON FUNCTION rollup_engine.note_vain_wait(text, integer) IS 'Notes that something of a source is locked for longer than this statement can wait.';

CREATE OR REPLACE FUNCTION rollup_engine.check_vain_wait(p_for text, p_source_id integer) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting(format('rollup_engine.waited_for_%s_%s', p_for, p_source_id), true) = extract(epoch FROM statement_timestamp())::text THEN
        RAISE lock_not_available;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_vain_wait(text, integer) IS 'lock_not_available where this statement has waited for the same in vain.';

CREATE OR REPLACE FUNCTION rollup_engine.trigger_problems(p_source rollup_engine.source) RETURNS TABLE (problem text, hint text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '100ms'
AS $$
#variable_conflict use_column
BEGIN
    PERFORM rollup_engine.check_vain_wait('triggers', p_source.id);
    RETURN QUERY
        SELECT * FROM rollup_engine.capture_gaps(p_source)
        UNION ALL
        SELECT format('%s lacks capture triggers, or has them under another condition', string_agg(DISTINCT member::text, ', ')),
            coalesce('ALTER TABLE ' || min(member::text) FILTER (WHERE NOT pg_has_role(s.relowner, c.relowner, 'USAGE')) || format(' OWNER TO %s; then ', min(s.relowner::regrole::text)), '')
                || 'run SELECT silver.perform_rollup() as the owner of the source, which adds them; until then writes straight into it are missed'
        FROM rollup_engine.missing_triggers(p_source) JOIN pg_class AS c ON c.oid = member JOIN pg_class AS s ON s.oid = p_source.relation
        WHERE NOT is_ancestor
        HAVING count(*) > 0
        UNION ALL
        SELECT format('capture triggers of %s are not enabled always', string_agg(DISTINCT g.tgrelid::regclass::text, ', ')),
            format('as the owner: %s, and the same for each',
                min(format('ALTER TABLE %s ENABLE %s TRIGGER %I', g.tgrelid::regclass, rollup_engine.firing_mode(g.tgtype), g.tgname)))
        FROM rollup_engine.capture_triggers(p_source) AS g
        WHERE g.tgenabled <> left(rollup_engine.firing_mode(g.tgtype), 1)::"char"
        HAVING count(*) > 0;
EXCEPTION WHEN lock_not_available THEN
    PERFORM rollup_engine.note_vain_wait('triggers', p_source.id);
    -- Nothing is sealed on a guess.
    RETURN QUERY SELECT format('somebody keeps a table of %s locked: whether its capture triggers are there cannot be told', p_source.relation),
        'ask again when that has ended';
END
$$;
COMMENT ON FUNCTION rollup_engine.trigger_problems(rollup_engine.source) IS 'Capture triggers that are missing, do not always fire, or do not see everything.';

-- That of 0.1.0 took the rollup alone.
DROP FUNCTION IF EXISTS rollup_engine.query_problem(integer);
CREATE OR REPLACE FUNCTION rollup_engine.query_problem(p_rollup_id integer, p_when_locked text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '100ms'
AS $$
DECLARE
    v_time constant timestamptz := '2000-01-01 00:00:00+00';
    v_source_id constant integer := (SELECT source_id FROM silver.rollup_config WHERE id = p_rollup_id);
BEGIN
    PERFORM rollup_engine.check_vain_wait('query', v_source_id);
    EXECUTE format('SELECT FROM rollup_engine.live_%s($1, $1)', p_rollup_id) USING v_time;
    EXECUTE (SELECT rollup_engine.grouped_sql(r, r.source_table::text, '$1', '$1') FROM silver.rollup_config AS r WHERE r.id = p_rollup_id) USING v_time;
    RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
    PERFORM rollup_engine.note_vain_wait('query', v_source_id);
    RETURN p_when_locked;  -- nobody knows
WHEN OTHERS THEN
    -- Nor does anybody of a lack of memory or of room, of a server that goes or is away: that is no fault of the query.
    RETURN CASE WHEN left(SQLSTATE, 2) IN ('08', '40', '53', '57', '58') THEN p_when_locked ELSE SQLERRM END;
END
$$;
COMMENT ON FUNCTION rollup_engine.query_problem(integer, text) IS
'Why the rollup''s query does not run, NULL when it does; tried on an empty range. What to say when somebody keeps its tables locked is given.';

CREATE OR REPLACE FUNCTION rollup_engine.source_problems(p_source rollup_engine.source) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s was dropped', p_source.relation_name), rollup_engine.gone_hint(p_source)
    WHERE rollup_engine.is_gone(p_source)
    UNION ALL
    SELECT format('%s is another %s now: its rollups read the one that had this name, %s', t.other, rollup_engine.table_or_view(t.other), p_source.relation),
        rollup_engine.exchange_hint(p_source, t.other)
    FROM rollup_engine.exchanged_for(p_source) AS t (other)
    UNION ALL
    SELECT format('rows of %s, or what was stale there, were left out when this database was restored', string_agg(DISTINCT l.partition::text, ', ')),
        CASE WHEN bool_or(l.was_sealed) THEN 'restore their data from a dump that has it; else the next run computes anew what is not sealed, and reports the rest'
            ELSE 'restore their data from a dump that has it, or the next run computes them anew: SELECT * FROM silver.perform_rollup()' END
    FROM rollup_engine.left_out(p_source) AS l
    HAVING count(*) > 0
    UNION ALL
    SELECT format('%I may not read %s', '${owner_role}', c.oid::regclass),
        format('GRANT USAGE ON SCHEMA %s TO %I; GRANT SELECT ON %s TO %2$I', c.relnamespace::regnamespace, '${owner_role}', c.oid::regclass)
    FROM pg_class AS c
    WHERE c.oid = p_source.relation AND NOT rollup_engine.is_in_reach(c.oid)
    UNION ALL
    SELECT format('column %I of %s, which its rollups read, is gone', c.noted_name, p_source.relation),
        format('was it renamed: ALTER TABLE %s RENAME its new name TO %I; was it dropped: ADD COLUMN it again, or drop its metrics, and expressions over it, with silver.drop_rollup_metric; a rollup by it must be created anew',
            p_source.relation, c.noted_name)
    FROM rollup_engine.resolved_columns(p_source) AS c
    WHERE c.current_name IS NULL AND NOT rollup_engine.is_gone(p_source)
    UNION ALL
    SELECT t.problem, t.hint FROM rollup_engine.retyped_time(p_source.id) AS t
    UNION ALL
    SELECT t.problem, t.hint FROM rollup_engine.taken_time(p_source) AS t
    UNION ALL
    SELECT format('%s has row level security', c.oid::regclass), 'a rollup shows everyone the sum of all rows; disable the policies, or drop the rollup' || rollup_engine.sealed_note(p_source)
    FROM pg_class AS c WHERE c.oid = p_source.relation AND c.relrowsecurity
    UNION ALL
    SELECT format('changes of %s cannot be tracked: it is %s', c.oid::regclass,
            CASE WHEN c.relkind = 'f' THEN 'a foreign table' WHEN c.relpersistence = 'u' THEN 'unlogged' ELSE 'temporary' END),
        CASE WHEN c.relkind = 'r' AND c.relpersistence = 'u' THEN format('ALTER TABLE %s SET LOGGED', c.oid::regclass)
            ELSE format('ALTER TABLE %s %s %s', CASE WHEN c.relispartition THEN i.inhparent::regclass ELSE c.oid::regclass END,
                CASE WHEN c.relispartition THEN 'DETACH PARTITION' ELSE 'NO INHERIT' END,
                CASE WHEN c.relispartition THEN c.oid::regclass ELSE i.inhparent::regclass END) END
        || '; or drop the rollups' || rollup_engine.sealed_note(p_source) || ' and create them anew with change_tracking => ''window'''
    FROM rollup_engine.partition_tree(p_source.relation) AS t (member)
    JOIN pg_class AS c ON c.oid = t.member AND (c.relkind NOT IN ('r', 'p') OR c.relpersistence <> 'p')
    LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
    WHERE p_source.change_tracking = 'trigger'
    UNION ALL
    SELECT t.problem, t.hint
    FROM rollup_engine.trigger_problems(p_source) AS t
    WHERE p_source.change_tracking = 'trigger' AND NOT rollup_engine.is_gone(p_source)
    UNION ALL
    SELECT format('%s partitions of %s were detached or dropped since the last run', count(*), p_source.relation),
        'the next run takes that in: SELECT * FROM silver.perform_rollup()'
    FROM rollup_engine.source_partition AS p
    WHERE p.source_id = p_source.id AND p_source.change_tracking = 'trigger' AND NOT rollup_engine.is_gone(p_source)
        AND (p.partition NOT IN (SELECT rollup_engine.partition_tree(p_source.relation))
            -- One that was dropped before a dump, and has another one's number in the copy.
            OR EXISTS (SELECT FROM rollup_engine.source_partition AS o WHERE (o.source_id, o.partition) = (p.source_id, p.partition) AND o.from_time < p.from_time))
    HAVING count(*) > 0
    UNION ALL
    SELECT format('the worker %s %s', w.worker, w.problem), w.hint
    FROM rollup_engine.distribution_column(p_source.relation) AS c, rollup_engine.worker_states() AS w
    WHERE c IS NOT NULL AND w.problem IS NOT NULL
    UNION ALL
    SELECT u.changes || ' since the last run', 'the next run takes that in: SELECT * FROM silver.perform_rollup(), as the owner of the table'
    FROM rollup_engine.unseen_changes(p_source) AS u (changes)
    WHERE u.changes IS NOT NULL AND NOT rollup_engine.is_gone(p_source)
$$;
COMMENT ON FUNCTION rollup_engine.source_problems(rollup_engine.source) IS 'What keeps the rollups of a source from being exact.';

CREATE OR REPLACE FUNCTION rollup_engine.data_problems(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'its table is gone', format('SELECT silver.drop_rollup(%L) removes what is left; then create it anew', p_rollup.target_table)
    WHERE NOT rollup_engine.is_relation(p_rollup.target_table)
    UNION ALL
    SELECT 'its live view is gone', format('SELECT silver.rebuild_rollup(%L) makes it anew; rights that were given on it must be given again', p_rollup.target_table)
    WHERE rollup_engine.is_relation(p_rollup.target_table) AND NOT rollup_engine.is_relation(p_rollup.target_view)
    UNION ALL
    -- Before what follows from them.
    SELECT p.problem, p.hint
    FROM rollup_engine.source AS s, rollup_engine.source_problems(s) AS p
    WHERE s.id = p_rollup.source_id AND p_rollup.parent_id IS NULL
    UNION ALL
    SELECT c.problem, c.hint FROM rollup_engine.closed_tables(p_rollup) AS c
    UNION ALL
    SELECT format('%s stores %s, and its source has %s now', p_rollup.target_table,
            string_agg(format('%I as %s', column_name, rollup_engine.held_type(state, data_type)), ', ' ORDER BY position), string_agg(outgrown_by, ', ' ORDER BY position)),
        format('SELECT silver.rebuild_rollup(%L)', p_rollup.target_table)
    FROM rollup_engine.rollup_column
    WHERE rollup_id = p_rollup.id AND outgrown_by IS NOT NULL AND NOT EXISTS (SELECT FROM rollup_engine.retyped_time(p_rollup.source_id))
    HAVING count(*) > 0
    UNION ALL
    SELECT u.problem, u.hint FROM rollup_engine.uneven_problems(p_rollup) AS u WHERE rollup_engine.has_buckets(p_rollup.target_table)
    UNION ALL
    SELECT z.problem, CASE WHEN rollup_engine.is_zone(n.zone) THEN '' ELSE format('install its rules again (old names are in tzdata-legacy), or drop the rollup%s; ', rollup_engine.sealed_note(p_rollup)) END
        || 'SELECT * FROM silver.maintain_timeseries_tables() has it computed anew; after an update of tzdata, restart the server before'
    FROM rollup_engine.zones_of(p_rollup) AS n (zone), rollup_engine.zone_problem(p_rollup.id, n.zone) AS z (problem) WHERE z.problem IS NOT NULL
    UNION ALL
    SELECT p_rollup.row_sql ->> 'problem',
        coalesce((SELECT format('%s; SELECT silver.rebuild_rollup(%L)', min(c.hint), p_rollup.target_table) FROM rollup_engine.closed_schemas(p_rollup.row_sql) AS c HAVING count(*) > 0),
            format('undo the change of the source, or of what the expression uses, and SELECT silver.rebuild_rollup(%1$L); or take the expression out: SELECT silver.drop_rollup_metric(%1$L, ...); a rollup by it must be created anew', p_rollup.target_table))
    WHERE p_rollup.row_sql ? 'problem'
    UNION ALL
    SELECT coalesce(c.problem, format('its query fails: %s', q.problem)), coalesce(c.hint,
            format('undo the change of the source''s columns or rights, or of those of the rollup''s table; or take the metrics of a changed column out: SELECT silver.drop_rollup_metric(%L, ...); or drop the rollup%s and create it anew',
                p_rollup.target_table, rollup_engine.sealed_note(p_rollup)))
    FROM rollup_engine.query_problem(p_rollup.id) AS q (problem)
    LEFT JOIN LATERAL (SELECT * FROM rollup_engine.closed_parts(p_rollup) LIMIT 1) AS c ON true
    WHERE q.problem IS NOT NULL AND rollup_engine.is_relation(p_rollup.source_table)
    UNION ALL
    SELECT format('column %I of %s was renamed or dropped', c.column_name, p_rollup.target_table),
        format('rename it back to %I; for a dropped one, drop the rollup%s and create it anew', c.column_name, rollup_engine.sealed_note(p_rollup))
    FROM rollup_engine.rollup_column AS c
    WHERE c.rollup_id = p_rollup.id AND c.kind <> 'finished' AND rollup_engine.is_relation(p_rollup.target_table)
        AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = p_rollup.target_table AND a.attname = c.column_name)
    UNION ALL
    SELECT format('%s has row level security that its owner is subject to', c.oid::regclass), format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', c.oid::regclass)
    FROM pg_class AS c WHERE c.oid = p_rollup.target_table AND c.relrowsecurity AND c.relforcerowsecurity
    UNION ALL
    SELECT format('trigger %I of %s may change what refreshes store there', g.tgname, g.tgrelid::regclass),
        format('DROP TRIGGER %I ON %s; and SELECT silver.mark_stale(%L, ''-infinity'', ''infinity'') if it has', g.tgname, g.tgrelid::regclass, p_rollup.target_table)
    FROM pg_trigger AS g
    -- BEFORE, for each row; clones are told of with what they are cloned from.
    WHERE g.tgtype & 3 = 3 AND g.tgparentid = 0 AND NOT g.tgisinternal AND g.tgenabled <> 'D'
        AND g.tgrelid IN (SELECT rollup_engine.partition_tree(p_rollup.target_table))
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
$$;
COMMENT ON FUNCTION rollup_engine.data_problems(silver.rollup_config) IS 'What keeps a rollup from equalling what it reads.';

-- That of 0.1.0 was called here, and here alone by then.
DROP FUNCTION IF EXISTS rollup_engine.window_keep_problem(regclass);
CREATE OR REPLACE FUNCTION rollup_engine.keep_problems(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.problem, k.hint FROM rollup_engine.window_keep_problem(p_rollup.source_table, p_rollup.id) AS k WHERE k.problem IS NOT NULL
    UNION ALL
    SELECT problem, hint FROM rollup_engine.kept_otherwise(p_rollup.source_table)
    UNION ALL
    SELECT k.problem, k.hint
    FROM rollup_engine.tables_read(p_rollup.source_table) AS t CROSS JOIN LATERAL rollup_engine.partman_retention_problem(t) AS k
    WHERE k.problem IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.keep_problems(silver.rollup_config) IS 'What will keep a rollup from equalling what it reads, which is removed too early.';

CREATE OR REPLACE FUNCTION rollup_engine.own_problems(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT problem, hint FROM rollup_engine.data_problems(p_rollup)
    UNION ALL
    SELECT problem, hint FROM rollup_engine.keep_problems(p_rollup)
$$;
COMMENT ON FUNCTION rollup_engine.own_problems(silver.rollup_config) IS 'What keeps a rollup from equalling what it reads, or will.';

CREATE OR REPLACE FUNCTION rollup_engine.rollup_problems(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '100ms'  -- bounds of partitions and generated columns are not shown while those are locked
AS $$
#variable_conflict use_column
BEGIN
    PERFORM rollup_engine.check_vain_wait('problems', p_rollup.source_id);
    RETURN QUERY
        -- Before what follows from them.
        SELECT format('%s, which it reads, is not valid: %s', c.target_name, o.problem), o.hint
        -- OFFSET 0: asked of these alone, and not of all before the join.
        FROM (SELECT c.* FROM rollup_engine.with_ancestors(p_rollup.id) AS a (id) JOIN silver.rollup_config AS c USING (id) WHERE id <> p_rollup.id OFFSET 0) AS c
        CROSS JOIN LATERAL rollup_engine.own_problems(c) AS o
        UNION ALL
        SELECT problem, hint FROM rollup_engine.own_problems(p_rollup);
EXCEPTION WHEN lock_not_available THEN
    PERFORM rollup_engine.note_vain_wait('problems', p_rollup.source_id);
    RETURN QUERY SELECT format('somebody keeps a table of %s, or of what is computed from it, locked: whether all is well cannot be told', relation_name),
        'ask again when that has ended'
    FROM rollup_engine.source WHERE id = p_rollup.source_id;
END
$$;
COMMENT ON FUNCTION rollup_engine.rollup_problems(silver.rollup_config) IS 'Everything that keeps a rollup from being exact: of its own, of its source, of the rollups that it reads; or that nobody knows.';

RESET ROLE;
