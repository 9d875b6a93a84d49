-- The rows of a rollup's table are what refreshes have computed. Whoever changes one by hand is
-- refused: what is sealed could not be computed again, and what is not would come back. Rows that are
-- inserted are a dump that is being loaded, or history from before the source: they are let in, and
-- what is not sealed of them is computed anew. DDL asks nobody; drains look for what it has left.
--
-- The triggers are for statements, and those of a refresh name the table itself: the condition is
-- looked at three times a batch, and never by row. Replication and replica sessions pass by.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.guard_rollup() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup record;
BEGIN
    SELECT r.target_table, s.id AS source_id, s.relation AS source, p.from_time, p.to_time INTO v_rollup
    FROM silver.rollup_config AS r
    JOIN rollup_engine.source AS s ON s.id = r.source_id
    LEFT JOIN rollup_engine.rollup_partition AS p ON p.rollup_id = r.id AND p.partition = TG_RELID
    WHERE TG_RELID IN (r.target_table, p.partition);
    IF NOT FOUND THEN
        RETURN NULL;  -- it is no rollup's any more, or, while a dump is being loaded, not yet
    ELSIF TG_OP = 'INSERT' THEN
        PERFORM rollup_engine.log_doubt(v_rollup.source_id, coalesce(v_rollup.from_time, '-infinity'), coalesce(v_rollup.to_time, 'infinity'));
        RETURN NULL;
    END IF;
    PERFORM rollup_engine.fail('TR003', format('%s holds what refreshes have computed: no %s by hand', v_rollup.target_table, TG_OP),
        format('change %s, and it follows; silver.refresh_rollup(%L, ...) computes buckets anew, silver.set_retention(%2$L, ...) has old ones deleted',
            v_rollup.source, v_rollup.target_table));
END
$$;
COMMENT ON FUNCTION rollup_engine.guard_rollup() IS 'Keeps hands off the rows of a rollup''s table and its partitions.';

CREATE OR REPLACE FUNCTION rollup_engine.set_refreshing(p_is_on boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('rollup_engine.refreshing', CASE WHEN p_is_on THEN 'on' ELSE '' END, true);
END
$$;
COMMENT ON FUNCTION rollup_engine.set_refreshing(boolean) IS 'Whether what this transaction writes to rollup tables is the machinery''s.';

CREATE OR REPLACE FUNCTION rollup_engine.guard_table(p_table regclass) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.distribution_column(p_table) IS NOT NULL THEN
        RETURN true;  -- Citus has no triggers
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE NOWAIT', p_table);
    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER tsrollup_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s
        WHEN (current_setting('rollup_engine.refreshing', true) IS DISTINCT FROM 'on')
        EXECUTE FUNCTION rollup_engine.guard_rollup()
        $sql$, p_table);
    EXECUTE format('ALTER TABLE %s ENABLE TRIGGER tsrollup_guard', p_table);
    RETURN true;
EXCEPTION WHEN lock_not_available OR insufficient_privilege THEN
    RETURN false;  -- the rollup is invalid as long; the next run tries again
END
$$;
COMMENT ON FUNCTION rollup_engine.guard_table(regclass) IS 'Guards a table of a rollup; false when somebody writes to it, or it is somebody else''s.';

CREATE OR REPLACE FUNCTION rollup_engine.is_guard(p_trigger pg_trigger) RETURNS boolean
    LANGUAGE sql STABLE
BEGIN ATOMIC
    -- 62: BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE, for each statement.
    SELECT (p_trigger).tgname = 'tsrollup_guard' AND (p_trigger).tgfoid = 'rollup_engine.guard_rollup()'::regprocedure
        AND (p_trigger).tgtype = 62 AND (p_trigger).tgenabled IN ('O', 'A');
END;
COMMENT ON FUNCTION rollup_engine.is_guard(pg_trigger) IS 'Whether a trigger keeps hands off a table of a rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.touched_partitions(p_rollup_id integer, p_table regclass)
RETURNS TABLE (member regclass, from_time timestamptz, to_time timestamptz, problem text)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT p.partition, p.from_time, p.to_time, 'detached or dropped'
    FROM rollup_engine.rollup_partition AS p
    WHERE p.rollup_id = p_rollup_id
        AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = p.partition AND NOT i.inhdetachpending)
    UNION ALL
    SELECT n.member, n.from_time, n.to_time, 'not guarded'
    FROM (
        SELECT p_table, timestamptz '-infinity', timestamptz 'infinity'
        UNION ALL
        SELECT p.partition, p.from_time, p.to_time
        FROM rollup_engine.rollup_partition AS p JOIN pg_inherits AS i ON i.inhrelid = p.partition AND NOT i.inhdetachpending
        WHERE p.rollup_id = p_rollup_id
    ) AS n (member, from_time, to_time)
    WHERE NOT EXISTS (
        SELECT FROM pg_trigger AS g WHERE g.tgrelid = n.member AND rollup_engine.is_guard(g))
        AND rollup_engine.distribution_column(n.member) IS NULL
    UNION ALL
    SELECT c.member, NULL, NULL, 'attached with rows'
    FROM (
        SELECT i.inhrelid AS member FROM pg_inherits AS i
        WHERE i.inhparent = p_table AND NOT EXISTS (
            SELECT FROM rollup_engine.rollup_partition AS p WHERE p.rollup_id = p_rollup_id AND p.partition = i.inhrelid)
        OFFSET 0
    ) AS c
    WHERE pg_relation_size(c.member) > 0;
END;
COMMENT ON FUNCTION rollup_engine.touched_partitions(integer, regclass) IS
'Where rows of a rollup''s table may have come or gone since the last run, past its refreshes and its guard.';

CREATE OR REPLACE FUNCTION rollup_engine.mark_touched(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Who reads it keeps what is sealed here: that could not be computed again.
    SELECT rollup_engine.mark_rollups(
        ARRAY(SELECT rollup_engine.with_descendants(p_rollup.id)),
        p_ranges * tstzmultirange(tstzrange(p_rollup.sealed_before, NULL)) * rollup_engine.told_by_source(p_rollup.source_id),
        p_clip => true)
$$;
COMMENT ON FUNCTION rollup_engine.mark_touched(silver.rollup_config, tstzmultirange) IS 'Has a rollup and all that read it computed anew where its rows were touched.';

CREATE OR REPLACE FUNCTION rollup_engine.mark_lost(p_rollup silver.rollup_config, p_gone tstzmultirange) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    -- A source that need not hold them any more may do so: they can only come back. Who reads them has its own.
    SELECT rollup_engine.mark_rollups(ARRAY[p_rollup.id], p_gone * tstzmultirange(tstzrange(p_rollup.sealed_before, NULL)), p_clip => true);
    INSERT INTO silver.error_log (target_table, error_code, error_message, detail, hint)
    SELECT p_rollup.target_table::text, 'TR007', format('partitions left %s, and its %s with them', p_rollup.target_table, l.what),
        format('from %s to %s; %s', lower(lost), upper(lost), l.remedy),
        'attach them again; where old buckets are to go, nothing but silver.set_retention may remove partitions'
    FROM (VALUES
        ('sealed buckets', 'what is sealed cannot be computed again',
            p_gone * CASE WHEN p_rollup.sealed_before IS NULL THEN '{}' ELSE tstzmultirange(tstzrange(NULL, p_rollup.sealed_before)) END),
        ('buckets from before the window', 'what the source still holds there is computed anew',
            p_gone * tstzmultirange(tstzrange(p_rollup.sealed_before, NULL)) - coalesce(rollup_engine.window_of(p_rollup.id), p_gone))
    ) AS l (what, remedy, lost)
    WHERE NOT isempty(lost)
$$;
COMMENT ON FUNCTION rollup_engine.mark_lost(silver.rollup_config, tstzmultirange) IS
'Has computed anew what went with partitions that somebody took away from a rollup, and reports where that may not bring it back.';

CREATE OR REPLACE FUNCTION rollup_engine.take_in_touched(p_source_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
BEGIN
    -- Every drain asks. Nearly always the tables that are attached are those that are noted and guarded.
    PERFORM FROM silver.rollup_config AS r
    WHERE r.source_id = p_source_id
        AND (SELECT sum(oid::bigint) FROM (
            SELECT r.target_table::oid UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = r.target_table AND NOT inhdetachpending) AS t (oid))
        IS DISTINCT FROM (SELECT sum(CASE WHEN g.tgrelid IS NULL THEN 1 ELSE t.oid::bigint END) FROM (
            SELECT r.target_table::oid UNION ALL SELECT partition FROM rollup_engine.rollup_partition WHERE rollup_id = r.id) AS t (oid)
            LEFT JOIN pg_trigger AS g ON g.tgrelid = t.oid AND rollup_engine.is_guard(g));
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR v_rollup IN
        SELECT r.* FROM silver.rollup_config AS r
        WHERE r.source_id = p_source_id AND EXISTS (SELECT FROM rollup_engine.touched_partitions(r.id, r.target_table))
        ORDER BY r.depth, r.id
    LOOP
        CONTINUE WHEN NOT rollup_engine.is_relation(v_rollup.target_table);
        BEGIN
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE NOWAIT', v_rollup.target_table);
            PERFORM rollup_engine.note_partitions(v_rollup.target_table);
            -- What was written past it, nobody knows.
            PERFORM rollup_engine.mark_touched(v_rollup, tstzmultirange(tstzrange(t.from_time, t.to_time)))
            FROM rollup_engine.touched_partitions(v_rollup.id, v_rollup.target_table) AS t WHERE rollup_engine.guard_table(t.member);
        EXCEPTION WHEN lock_not_available OR insufficient_privilege THEN
            NULL;  -- the rollup is invalid as long; the next run tries again
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.take_in_touched(integer) IS 'Has computed anew what people took from, or may have written into, the tables of a source''s rollups.';

RESET ROLE;
