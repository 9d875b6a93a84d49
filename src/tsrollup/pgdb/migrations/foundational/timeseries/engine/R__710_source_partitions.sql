-- Partitions of the user's own tables: made ahead of time, with capture triggers from their first
-- row on.
--
-- Such a table keeps a default partition, for no write may fail because a partition is missing.
-- Rows do not stay there where nobody can tell: maintenance gives them partitions of their own.
-- That is a DELETE and an INSERT: what would take a row for deleted keeps it in the default one, and
-- so does a snapshot that saw it there and would look for it in the new partition.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.column_list(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
    FROM pg_attribute
    WHERE attrelid = p_relation AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
$$;
COMMENT ON FUNCTION rollup_engine.column_list(regclass) IS 'Columns of a table that can be written.';

CREATE OR REPLACE FUNCTION rollup_engine.move_obstacle(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH tree AS MATERIALIZED (
        SELECT m.member::oid AS id, false AS is_above
        FROM rollup_engine.partition_tree(rollup_engine.default_partition(p_relation)) AS m (member)
        UNION ALL
        SELECT a.relid, true FROM pg_partition_ancestors(p_relation) AS a
    )
    SELECT format('foreign key %I of %s refers to them', c.conname, c.conrelid::regclass)
    FROM pg_constraint AS c JOIN tree AS t ON t.id = c.confrelid WHERE c.contype = 'f' AND c.conparentid = 0
    UNION ALL
    SELECT format('foreign key %I is of %s only', c.conname, c.conrelid::regclass)
    FROM pg_constraint AS c JOIN tree AS t ON t.id = c.conrelid WHERE c.contype = 'f' AND NOT t.is_above AND c.conparentid = 0
    UNION ALL
    SELECT format('constraint %I of %s is not valid', c.conname, c.conrelid::regclass)
    FROM pg_constraint AS c JOIN tree AS t ON t.id = c.conrelid WHERE NOT c.convalidated
    UNION ALL
    SELECT format('trigger %I of %s would fire', g.tgname, g.tgrelid::regclass)
    FROM pg_trigger AS g
    JOIN tree AS t ON t.id = g.tgrelid AND NOT t.is_above
    JOIN pg_proc AS p ON p.oid = g.tgfoid AND p.pronamespace <> 'rollup_engine'::regnamespace
    WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 8 <> 0  -- of DELETE
    UNION ALL
    SELECT format('rule %I of %s would apply', r.rulename, r.ev_class::regclass)
    FROM pg_rewrite AS r JOIN tree AS t ON t.id = r.ev_class AND NOT t.is_above WHERE r.ev_type = '4'  -- of DELETE
    UNION ALL
    SELECT format('publication %I holds them', p.pubname)
    FROM pg_publication AS p
    WHERE p.puballtables
        OR EXISTS (SELECT FROM pg_publication_rel AS r JOIN tree AS t ON t.id = r.prrelid WHERE r.prpubid = p.oid)
        OR EXISTS (
            SELECT FROM pg_publication_namespace AS n
            JOIN pg_class AS c ON c.relnamespace = n.pnnspid JOIN tree AS t ON t.id = c.oid
            WHERE n.pnpubid = p.oid)
    UNION ALL
    SELECT format('replication slot %I decodes every change', slot_name)
    FROM pg_replication_slots WHERE database = current_database() AND plugin <> 'pgoutput'
    UNION ALL
    SELECT format('%s is a foreign table', c.oid::regclass)
    FROM pg_class AS c JOIN tree AS t ON t.id = c.oid WHERE c.relkind = 'f'
    UNION ALL
    SELECT format('generated column %I of %s has an expression of its own', a.attname, a.attrelid::regclass)
    FROM tree AS t
    JOIN pg_attribute AS a ON a.attrelid = t.id AND NOT t.is_above AND a.attgenerated <> ''
    JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    JOIN pg_attribute AS o ON o.attrelid = p_relation AND o.attname = a.attname
    LEFT JOIN pg_attrdef AS e ON e.adrelid = o.attrelid AND e.adnum = o.attnum
    WHERE pg_get_expr(d.adbin, d.adrelid) IS DISTINCT FROM pg_get_expr(e.adbin, e.adrelid)
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.move_obstacle(regclass) IS
'What would notice, or forbid, that rows of the default partition of a table are deleted and inserted again; NULL when nothing does.';

CREATE OR REPLACE FUNCTION rollup_engine.newest_partition(p_relation regclass) RETURNS regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.member
    FROM rollup_engine.partition_bounds(p_relation) AS m
    JOIN pg_inherits AS i ON i.inhrelid = m.member AND i.inhparent = p_relation
    WHERE m.member IS DISTINCT FROM rollup_engine.default_partition(p_relation)
    ORDER BY m.to_time DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.newest_partition(regclass) IS 'The last partition of a table by time, the default one aside.';

CREATE OR REPLACE FUNCTION rollup_engine.lock_set(p_set rollup_engine.partition_set) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.default_partition(p_set.relation) IS NULL THEN
        EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', p_set.relation);
        RETURN;
    END IF;
    -- The default partition alone is not enough: who waits there has listed the partitions already,
    -- and goes on without the new one.
    PERFORM rollup_engine.lock_out(p_set.relation);
    PERFORM rollup_engine.lock_out(m) FROM rollup_engine.partition_tree(rollup_engine.default_partition(p_set.relation)) AS m;
END
$$;
COMMENT ON FUNCTION rollup_engine.lock_set(rollup_engine.partition_set) IS 'What whoever attaches a partition to a source holds.';

CREATE OR REPLACE FUNCTION rollup_engine.may_move(p_set rollup_engine.partition_set, p_snapshots text[]) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A read of a live view comes to the source late, in the snapshot that it began with.
    PERFORM rollup_engine.lock_out(r.target_table)
    FROM silver.rollup_config AS r JOIN rollup_engine.source AS s ON s.id = r.source_id
    WHERE s.relation IN (
        SELECT relid FROM pg_partition_ancestors(p_set.relation) UNION ALL SELECT rollup_engine.partition_tree(p_set.relation));
    RETURN rollup_engine.outlives(p_snapshots);
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.may_move(rollup_engine.partition_set, text[]) IS
'Whether nobody will look for rows of the locked default partition with a snapshot that is older than their move.';

CREATE OR REPLACE FUNCTION rollup_engine.add_source_partition(p_set rollup_engine.partition_set, p_from timestamptz, p_to timestamptz, p_snapshots text[]) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET row_security = off
AS $$
DECLARE
    v_marks constant jsonb := jsonb_build_object(
        'default', rollup_engine.default_partition(p_set.relation),
        'columns', rollup_engine.column_list(p_set.relation),
        'within', format('%1$I >= %2$L AND %1$I < %3$L', p_set.control, p_from, p_to));
    v_has_rows boolean := false;
    v_partition regclass;
BEGIN
    IF v_marks ->> 'default' IS NOT NULL THEN
        EXECUTE rollup_engine.fill('SELECT EXISTS (SELECT FROM {default} WHERE {within})', v_marks) INTO v_has_rows;
        IF v_has_rows AND (rollup_engine.move_obstacle(p_set.relation) IS NOT NULL OR NOT rollup_engine.may_move(p_set, p_snapshots)) THEN
            RETURN NULL;
        END IF;
    END IF;
    v_partition := rollup_engine.create_like_source(p_set.relation,
        rollup_engine.partition_name(p_set.relation, p_from, p_set.chunk_interval), rollup_engine.newest_partition(p_set.relation));
    IF v_has_rows THEN
        -- The delete is captured, and speaks for the insert as well: the same rows, the same times.
        EXECUTE rollup_engine.fill($sql$
            WITH moved AS (DELETE FROM {default} WHERE {within} RETURNING {columns})
            INSERT INTO {partition} ({columns}) SELECT {columns} FROM moved
            $sql$, v_marks || jsonb_build_object('partition', v_partition));
    END IF;
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', p_set.relation, v_partition, p_from, p_to);
    PERFORM rollup_engine.share_identity(p_set.relation, v_partition);
    PERFORM rollup_engine.watch_partition(p_set.relation, v_partition);
    RETURN v_partition;
END
$$;
COMMENT ON FUNCTION rollup_engine.add_source_partition(rollup_engine.partition_set, timestamptz, timestamptz, text[]) IS
'Adds a partition to a source that lock_set has locked, with the rows of the default partition that belong into it; NULL when they are in the way and must stay.';

-- Where partitions are wanted -------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.stray_rows(p_set rollup_engine.partition_set) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    -- What is sealed stays: its partitions were dropped, and are not to come back.
    SELECT format('%s WHERE %I >= %L AND %2$I < ''9999-01-01''', rollup_engine.default_partition(p_set.relation), p_set.control, greatest(
        '0001-01-03', (
            SELECT max(sealed_before) FROM silver.rollup_config
            WHERE (rollup_engine.lies_in(p_set.relation, source_table) OR rollup_engine.lies_in(source_table, p_set.relation)) AND isfinite(sealed_before))))
    WHERE rollup_engine.default_partition(p_set.relation) IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.stray_rows(rollup_engine.partition_set) IS 'FROM and WHERE of the rows of a default partition that have a place elsewhere; NULL without one.';

CREATE OR REPLACE FUNCTION rollup_engine.stray_ranges(p_set rollup_engine.partition_set, p_limit integer) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET intervalstyle = 'postgres'
    SET row_security = off
AS $$
DECLARE
    v_rows constant text := rollup_engine.stray_rows(p_set);
    v_ranges tstzmultirange;
BEGIN
    IF v_rows IS NULL THEN
        RETURN '{}';
    END IF;
    EXECUTE rollup_engine.fill($sql$
        SELECT range_agg(tstzrange(chunk, rollup_engine.bucket_next({width}, chunk)))
        FROM (SELECT DISTINCT silver.time_bucket({width}, {time}::timestamptz) AS chunk FROM {rows} ORDER BY 1 DESC LIMIT $1) AS chunks
        $sql$, jsonb_build_object('width', quote_literal(p_set.chunk_interval), 'time', quote_ident(p_set.control), 'rows', v_rows))
    INTO v_ranges
    USING p_limit;
    RETURN coalesce(v_ranges, '{}');
END
$$;
COMMENT ON FUNCTION rollup_engine.stray_ranges(rollup_engine.partition_set, integer) IS 'Chunks, newest first, of the rows that sit in a default partition.';

CREATE OR REPLACE FUNCTION rollup_engine.staying_rows(p_set rollup_engine.partition_set, p_is_left boolean DEFAULT false) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET row_security = off
AS $$
DECLARE
    v_obstacle constant text := rollup_engine.move_obstacle(p_set.relation);
    v_first timestamptz;
    v_last timestamptz;
BEGIN
    IF (v_obstacle IS NOT NULL OR p_is_left) AND rollup_engine.stray_rows(p_set) IS NOT NULL THEN
        EXECUTE format('SELECT min(%1$I), max(%1$I) FROM %2$s', p_set.control, rollup_engine.stray_rows(p_set)) INTO v_first, v_last;
    END IF;
    RETURN format('rows from %s to %s stay in %s, where they are read as ever, but are not dropped by retention: ', v_first, v_last, rollup_engine.default_partition(p_set.relation))
        || CASE WHEN v_obstacle IS NULL THEN 'somebody uses the table, or a snapshot from before, or they are many; the next run goes on'
            ELSE format('to move them is to delete and insert them, and %s; take that away for a run of maintenance, or move them yourself', v_obstacle) END
    WHERE v_first IS NOT NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.staying_rows(rollup_engine.partition_set, boolean) IS 'Which rows of a default partition have to stay there, or are left there by a run, and why; NULL when there are none.';

-- What is sealed before they have partitions would never be dropped.
CREATE OR REPLACE FUNCTION rollup_engine.strays_from(p_relation regclass) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET row_security = off
AS $$
DECLARE
    v_set rollup_engine.partition_set;
    v_from timestamptz;
BEGIN
    SELECT * INTO v_set FROM rollup_engine.partition_set WHERE relation = p_relation AND is_source;
    IF rollup_engine.stray_rows(v_set) IS NOT NULL AND rollup_engine.move_obstacle(p_relation) IS NULL THEN
        EXECUTE format('SELECT min(%I) FROM %s', v_set.control, rollup_engine.stray_rows(v_set)) INTO v_from;
    END IF;
    RETURN coalesce(v_from, 'infinity');
END
$$;
COMMENT ON FUNCTION rollup_engine.strays_from(regclass) IS 'The first time in a default partition that maintenance will still give a partition of its own.';

CREATE OR REPLACE FUNCTION rollup_engine.uncovered_in_source(p_set rollup_engine.partition_set, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_ranges - coalesce(range_agg(tstzrange(from_time, to_time)), '{}')
    FROM rollup_engine.partition_bounds(p_set.relation, p_set.control)
    WHERE member <> p_set.relation AND member IS DISTINCT FROM rollup_engine.default_partition(p_set.relation)
$$;
COMMENT ON FUNCTION rollup_engine.uncovered_in_source(rollup_engine.partition_set, tstzmultirange) IS 'The part of the ranges that no partition of a source but the default one holds.';

CREATE OR REPLACE FUNCTION rollup_engine.cover_source(p_set rollup_engine.partition_set, p_ranges tstzmultirange) RETURNS integer
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_missing constant tstzmultirange := rollup_engine.uncovered_in_source(p_set, p_ranges);
    v_snapshots constant text[] := rollup_engine.snapshots_in_use();  -- before anybody waits for the lock
    v_range tstzrange;
    v_added integer := 0;
    v_failure rollup_engine.failure;
BEGIN
    IF isempty(v_missing) OR rollup_engine.users_waited_enough() THEN
        RETURN 0;
    END IF;
    PERFORM rollup_engine.lock_set(p_set);
    FOR v_range IN
        SELECT unnest(rollup_engine.uncovered_in_source(p_set,
            tstzmultirange(tstzrange(chunk, rollup_engine.bucket_next(p_set.chunk_interval, chunk)))))
        FROM rollup_engine.buckets_in(p_set.chunk_interval, rollup_engine.bucket_align(p_set.chunk_interval, v_missing)) AS chunk
    LOOP
        EXIT WHEN rollup_engine.users_waited_enough();
        BEGIN
            v_added := v_added + (rollup_engine.add_source_partition(p_set, lower(v_range), upper(v_range), v_snapshots) IS NOT NULL)::integer;
        EXCEPTION WHEN integrity_constraint_violation THEN
            -- What the default partition holds does not fit: the other partitions do not wait for it.
            GET STACKED DIAGNOSTICS
                v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
                v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
            PERFORM rollup_engine.record_maintenance_failure(p_set.relation::text, v_failure);
        END;
    END LOOP;
    RETURN v_added;
END
$$;
COMMENT ON FUNCTION rollup_engine.cover_source(rollup_engine.partition_set, tstzmultirange) IS 'Makes the partitions that the ranges need, on the grid of the set, between those that exist, as far as the time under locks allows; returns how many.';

CREATE OR REPLACE FUNCTION rollup_engine.partman_is_behind(p_set rollup_engine.partition_set, p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_premake integer;
BEGIN
    IF NOT rollup_engine.is_partmans(p_set) THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT premake FROM %s.part_config WHERE parent_table = $1', rollup_engine.partman_schema())
    INTO v_premake
    USING p_set.partman_parent;
    RETURN (
        SELECT coalesce(max(to_time) <= p_now + v_premake * p_set.chunk_interval, true)
        FROM rollup_engine.partition_bounds(p_set.relation) WHERE isfinite(to_time));
END
$$;
COMMENT ON FUNCTION rollup_engine.partman_is_behind(rollup_engine.partition_set, timestamptz) IS 'Whether pg_partman would make partitions of a table: users are not to wait for nothing.';

CREATE OR REPLACE FUNCTION rollup_engine.premake_by_partman_for_source(p_set rollup_engine.partition_set) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_members constant regclass[] := ARRAY(SELECT rollup_engine.partition_tree(p_set.relation));
    v_new regclass;
BEGIN
    PERFORM rollup_engine.lock_set(p_set);
    PERFORM rollup_engine.premake_by_partman(p_set);
    FOR v_new IN SELECT m FROM rollup_engine.partition_tree(p_set.relation) AS m WHERE m <> ALL (v_members) LOOP
        PERFORM rollup_engine.share_owner(p_set.relation, v_new);
        PERFORM rollup_engine.share_identity(p_set.relation, v_new);
        PERFORM rollup_engine.watch_partition(p_set.relation, v_new);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.premake_by_partman_for_source(rollup_engine.partition_set) IS 'Runs pg_partman''s maintenance on a source; its new partitions become what ours are.';

CREATE OR REPLACE FUNCTION rollup_engine.premake_source_partitions(p_set rollup_engine.partition_set, p_now timestamptz DEFAULT now()) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of what DDL locks besides, as the tables that foreign keys refer to
AS $$
DECLARE
    v_before constant bigint := rollup_engine.partition_count(p_set.relation);
    v_by_partman boolean := rollup_engine.partman_is_behind(p_set, p_now);
    v_ahead constant tstzmultirange := tstzmultirange(tstzrange(p_now, NULL));
    v_strays tstzmultirange := rollup_engine.stray_ranges(p_set, 100);
    v_staying tstzmultirange := '{}';
BEGIN
    -- Nobody waits for a lock for what would come to nothing.
    IF NOT isempty(v_strays)
        AND (rollup_engine.staying_rows(p_set) IS NOT NULL OR NOT rollup_engine.outlives(rollup_engine.snapshots_in_use()))
    THEN
        v_staying := v_strays;
        v_strays := '{}';
    END IF;
    PERFORM rollup_engine.cover_source(p_set, v_strays * v_ahead);
    -- pg_partman goes on from there, and gives up at the first partition that rows are in the way of.
    v_by_partman := v_by_partman AND isempty(rollup_engine.stray_ranges(p_set, 100) * v_ahead);
    PERFORM rollup_engine.cover_source(p_set, tstzmultirange(tstzrange(p_now,
        p_now + CASE WHEN v_by_partman THEN '0' ELSE 3 * p_set.chunk_interval END, '[]')) - v_staying);
    IF v_by_partman THEN
        PERFORM rollup_engine.premake_by_partman_for_source(p_set);
        -- One stray row of the far future, and pg_partman only goes on from there.
        PERFORM rollup_engine.cover_source(p_set, tstzmultirange(tstzrange(p_now, p_now + p_set.chunk_interval, '[]')));
    END IF;
    PERFORM rollup_engine.cover_source(p_set, v_strays);
    RETURN rollup_engine.partition_count(p_set.relation) - v_before;
END
$$;
COMMENT ON FUNCTION rollup_engine.premake_source_partitions(rollup_engine.partition_set, timestamptz) IS
'Makes the partitions of a source for now and soon, and for stray rows; returns how many were new.';

RESET ROLE;
