-- Retention in two phases, so that nothing is dropped that some rollup has not absorbed, and no
-- writer is killed or waits for long. What was decided is asked again under the lock: the keep of
-- now, the bounds of now, and whether every change that was logged there is accounted for.
--
-- Seal: wait for the writers of what is due, look again in a new snapshot, write the border that
-- drain, refresh and live views honour. Drop, in a later run: when nobody can see the time before
-- the seal any more, the partitions below the border go, or move to an archive schema.
-- Late rows below the border are counted and kept in the default partition of their source.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- What is due --------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.reads_by_view(p_rollup silver.rollup_config, p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- As it is now, which the next run will read, and as it was at the last one: what it stored is kept till then.
    SELECT EXISTS (
            SELECT FROM (SELECT rollup_engine.tables_read(v.relation) UNION ALL SELECT unnest(s.tables_read)) AS t (member)
            WHERE rollup_engine.lies_in(t.member, p_relation))
        -- Where its tables went with a view, those of their names stand for them.
        OR v.relation IS NULL AND EXISTS (SELECT FROM unnest(s.names_read) AS n WHERE rollup_engine.lies_in(rollup_engine.relation_called(n), p_relation))
        OR v.relation IS NULL AND s.tables_read IS NULL AND EXISTS (SELECT FROM rollup_engine.source_shape WHERE source_id = s.id AND kind ~ '^[vm]')
    FROM rollup_engine.source AS s
    CROSS JOIN LATERAL (
        SELECT coalesce((SELECT c.oid FROM pg_class AS c WHERE c.oid = p_rollup.source_table), (
            SELECT t FROM rollup_engine.called_as(s) AS t LIMIT 1))
    ) AS v (relation)
    WHERE s.id = p_rollup.source_id
$$;
COMMENT ON FUNCTION rollup_engine.reads_by_view(silver.rollup_config, regclass) IS
'Whether the view that a rollup reads, or that has the name of the one that was dropped, reads a table or its partitions, or did at the last run; of one that is gone, and was never read, nobody knows.';

-- Rollups that read the relation itself, or some of its partitions, or a view of those: by a window.
-- Those further down read their tables, not this one.
CREATE OR REPLACE FUNCTION rollup_engine.readers(p_relation regclass) RETURNS SETOF silver.rollup_config
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Functions only where they are needed: this is asked of each table about all rollups. CASE, for of AND and OR
    -- the planner makes a condition on each rollup alone, which calls them all.
    SELECT r.*
    FROM silver.rollup_config AS r LEFT JOIN pg_class AS c ON c.oid = r.source_table
    WHERE r.source_table = p_relation OR CASE
        WHEN c.relispartition THEN rollup_engine.lies_in(r.source_table, p_relation)
        WHEN c.relkind IN ('v', 'm') OR c.oid IS NULL AND r.parent_id IS NULL THEN rollup_engine.reads_by_view(r, p_relation) END
    ORDER BY r.id
$$;
COMMENT ON FUNCTION rollup_engine.readers(regclass) IS 'Rollups that are computed from a table or its partitions, through a view or not.';

CREATE OR REPLACE FUNCTION rollup_engine.waited_for(p_relation regclass) RETURNS SETOF silver.rollup_config
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM silver.rollup_config WHERE target_table = p_relation
    UNION ALL
    SELECT * FROM rollup_engine.readers(p_relation)
$$;
COMMENT ON FUNCTION rollup_engine.waited_for(regclass) IS 'Rollups whose changes are to be stored before rows of a table go: those that are computed from it, and the one that it is the table of.';

CREATE OR REPLACE FUNCTION rollup_engine.time_partition_column(p_relation regclass) RETURNS name
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- By the catalogue: pg_partition_tree waits for who keeps a partition locked.
    WITH RECURSIVE divided AS (
        SELECT partrelid, 0 AS level FROM pg_partitioned_table WHERE partrelid = p_relation
        UNION ALL
        SELECT p.partrelid, d.level + 1
        FROM divided AS d JOIN pg_inherits AS i ON i.inhparent = d.partrelid JOIN pg_partitioned_table AS p ON p.partrelid = i.inhrelid
    )
    SELECT k.name
    FROM divided AS d
    CROSS JOIN LATERAL rollup_engine.partition_column(d.partrelid) AS k (name)
    WHERE k.name = ANY (rollup_engine.time_columns(p_relation))
    -- Of parts by several, as its rollups go.
    ORDER BY d.level, CASE WHEN min(k.name::text) OVER () <> max(k.name::text) OVER ()
        THEN k.name <> ALL (ARRAY(SELECT r.time_column FROM rollup_engine.readers(p_relation) AS r)) END, k.name
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.time_partition_column(regclass) IS 'The time column whose ranges a table, or the topmost partitions below it, are divided by; NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.time_partitions(p_relation regclass)
RETURNS TABLE (member regclass, level integer, is_leaf boolean, from_time timestamptz, to_time timestamptz)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.member, t.level, t.isleaf, m.from_time, m.to_time
    FROM rollup_engine.partition_bounds(p_relation, rollup_engine.time_partition_column(p_relation)) AS m
    JOIN pg_partition_tree(p_relation) AS t ON t.relid = m.member
    WHERE m.member <> p_relation
$$;
COMMENT ON FUNCTION rollup_engine.time_partitions(regclass) IS 'Every partition below a table, at any depth, with the range of time that it can hold.';

-- The bounds of a partition by one time say nothing of another that its rows have.
CREATE OR REPLACE FUNCTION rollup_engine.other_time_problem(p_relation regclass, OUT problem text, OUT hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s is partitioned by %I, but rolled up otherwise: %s', p_relation, c.name, string_agg(format('%s by %I', r.target_table, r.time_column), ', ')),
        format('what such partitions hold cannot be told from their bounds: drop them by hand, without retention (SELECT silver.set_retention(%L, NULL)); or roll the table up by %I', p_relation, c.name)
    FROM rollup_engine.time_partition_column(p_relation) AS c (name)
    -- A view has columns of its own.
    JOIN rollup_engine.readers(p_relation) AS r ON r.time_column <> c.name AND rollup_engine.lies_in(r.source_table, p_relation)
    GROUP BY c.name
$$;
COMMENT ON FUNCTION rollup_engine.other_time_problem(regclass) IS 'Rollups of a table by another time than that of its partitions, which retention must not drop.';

-- Numbers of now that are read as a thousandth of what they are, or less, are of 1970, and so are most that are in none of the units
-- (days, minutes, yyyymmdd). Some rows are of then in any case: of clocks that nobody has set.
CREATE OR REPLACE FUNCTION rollup_engine.unit_problem(p_relation regclass, p_key name, OUT problem text, OUT hint text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_type constant regtype := (SELECT b FROM pg_attribute AS a CROSS JOIN LATERAL rollup_engine.base_type(a.atttypid) AS b WHERE a.attrelid = p_relation AND a.attname = p_key);
BEGIN
    IF rollup_engine.is_number_type(v_type) IS NOT TRUE THEN
        RETURN;
    END IF;
    WITH divided AS MATERIALIZED (
        -- Parts may have units of their own.
        SELECT t.member AS whole, rollup_engine.rollup_unit(t.member, p_key) AS unit
        FROM rollup_engine.partition_tree(p_relation) AS t (member)
        WHERE rollup_engine.partition_column(t.member) = p_key AND NOT EXISTS (
            SELECT FROM pg_partition_ancestors(t.member) AS a
            WHERE a.relid <> t.member AND rollup_engine.lies_in(a.relid, p_relation) AND rollup_engine.partition_column(a.relid) = p_key)
    ), old AS MATERIALIZED (
        -- No rows are shorter than 36 bytes; statistics may be of before they came. What is divided in turn has no size.
        SELECT d.whole, d.unit, array_agg(m.member) FILTER (WHERE pg_relation_size(m.member) > 0) AS filled, least(sum(pg_relation_size(m.member)) / 36, 1000000) AS at_most
        FROM divided AS d
        CROSS JOIN LATERAL rollup_engine.partition_bounds(d.whole, p_key) AS m
        WHERE d.unit IS NOT NULL AND m.from_time < '1980-01-01 00:00:00+00' AND m.to_time >= '1970-01-01 00:00:00+00'
            AND (m.to_time <= '1980-01-01 00:00:00+00' OR m.to_time <= rollup_engine.time_before(now(), rollup_engine.keep_of(p_relation)))  -- all before some time
        GROUP BY d.whole, d.unit
        HAVING sum(pg_relation_size(m.member)) > 0
    )
    SELECT format('%I of %s, which rollups read as %s, is of 1970 in rows that are to go', p_key, whole, unit),
        format('where the unit is wrong, drop the rollups, with keep_table => true where they hold what the table has no more, and create them with another time_unit; where it is right, correct or DELETE those rows, or drop their partitions by hand, without retention: SELECT silver.set_retention(%L, NULL)', p_relation)
    INTO problem, hint
    FROM old
    CROSS JOIN LATERAL (
        SELECT rollup_engine.numbers_between(p_key, '1970-01-01 00:00:00+00', '1980-01-01 00:00:00+00', v_type, unit),
            rollup_engine.numbers_between(p_key, '1980-01-01 00:00:00+00', upper(rollup_engine.calendar()), v_type, unit)
    ) AS n (are_old, are_later)
    -- That more rows are of later tells that the unit is right. What is stored tells nothing: it may be of a table before.
    WHERE rollup_engine.has_rows(whole, are_old)
        AND rollup_engine.has_rows(whole, format('%s OFFSET greatest((SELECT count(*) FROM (SELECT FROM %s WHERE %s LIMIT %s) AS later) - 1, 0)', are_old, whole, are_later, at_most))
        -- But for rows that in a coarser unit are younger than what is to go: somebody writes those.
        OR EXISTS (
            SELECT FROM unnest(filled) AS f (member) CROSS JOIN unnest('{1000,1000000,1000000000}'::numeric[]) AS k (factor)
            WHERE factor <= rollup_engine.units_per_second(unit) AND rollup_engine.has_rows(member, rollup_engine.numbers_between(p_key,
                to_timestamp(extract(epoch FROM rollup_engine.time_before(now(), rollup_engine.keep_of(p_relation))) / factor),
                to_timestamp(extract(epoch FROM now() + interval '1 day') / factor), v_type, unit)))
    ORDER BY whole
    LIMIT 1;
END
$$;
COMMENT ON FUNCTION rollup_engine.unit_problem(regclass, name) IS 'Whether rows of a table, or of a part, would be old because of the unit of its numbers, which then is most likely a wrong one.';

DROP FUNCTION IF EXISTS rollup_engine.retention_problem(regclass);
CREATE OR REPLACE FUNCTION rollup_engine.retention_problem(p_relation regclass, p_is_set boolean DEFAULT true, OUT problem text, OUT hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH key AS MATERIALIZED (SELECT rollup_engine.time_partition_column(p_relation) AS name)
    SELECT format('%s %s: retention was set for the one that had this name, %s', t.relation_name,
            coalesce('is another ' || rollup_engine.table_or_view(n.other) || ' now', 'was another table for a while'), p_relation),
        format('SELECT silver.set_retention(%L, NULL), and set it for the new one, once rollups read that; or set it again for %s, where it is to go on', p_relation, p_relation)
    FROM rollup_engine.retention AS t CROSS JOIN LATERAL rollup_engine.now_called(t.relation_name, p_relation) AS n (other)
    WHERE t.relation = p_relation AND t.keep IS NOT NULL AND t.relation_name <> p_relation::text AND (t.was_exchanged OR n.other IS NOT NULL)
        AND NOT EXISTS (SELECT FROM silver.rollup_config AS r WHERE p_relation = r.target_table)
    UNION ALL
    -- Unless runs have followed it to its name.
    SELECT format('%s may be another table than %s, which retention was set for: that was renamed or dropped before the dump that this database is made of', p_relation, t.relation_name),
        format('if it is the same, %s; if not, with NULL', rollup_engine.retention_call(p_relation::text, t.keep, t.archive))
    FROM rollup_engine.retention AS t
    WHERE t.relation = p_relation AND t.keep IS NOT NULL AND rollup_engine.is_numbered_anew(t.noted_in) AND t.relation_name <> p_relation::text
        AND NOT EXISTS (SELECT FROM silver.rollup_config AS r WHERE r.target_table = p_relation)
        AND NOT EXISTS (SELECT FROM rollup_engine.source AS s
            WHERE s.relation = p_relation AND s.relation_name = p_relation::text AND t.relation_name = ANY (s.former_names))
    UNION ALL
    SELECT format('rollups of what had the name before, %s, are to read %s', s.relation, p_relation),
        rollup_engine.exchange_hint(s, p_relation)
    FROM rollup_engine.source AS s
    WHERE (SELECT p_relation::text) = ANY (s.relation_name || s.former_names) AND p_relation IN (SELECT rollup_engine.exchanged_for(s))
    UNION ALL
    SELECT format('%s is not partitioned by ranges of a time column', p_relation),
        'retention drops partitions: create the table with PARTITION BY RANGE (the time column); numbers are times as long as a rollup of the table says so: time_unit'
    FROM key WHERE name IS NULL
    UNION ALL
    -- What a rollup of one partition says holds for that one.
    SELECT format('no rollup says in which unit %I of %s counts', a.attname, t.relid),
        format('create one with that time_unit; or keep everything: SELECT silver.set_retention(%L, NULL)', p_relation)
    FROM key JOIN pg_attribute AS a ON a.attrelid = p_relation AND a.attname = key.name
    CROSS JOIN rollup_engine.partition_tree(p_relation) AS t (relid)
    JOIN pg_partitioned_table AS d ON d.partrelid = t.relid AND rollup_engine.partition_column(d.partrelid) = key.name
    WHERE rollup_engine.is_number_type(rollup_engine.base_type(a.atttypid)) AND rollup_engine.rollup_unit(d.partrelid, key.name) IS NULL
    UNION ALL
    SELECT u.problem, u.hint FROM key CROSS JOIN LATERAL rollup_engine.unit_problem(p_relation, key.name) AS u WHERE p_is_set AND u.problem IS NOT NULL
    UNION ALL
    SELECT format('%s is a partition of %s', p_relation, pg_partition_root(p_relation)),
        format('rollups of the whole table rest on it: SELECT silver.set_retention(%L, ...), and SELECT silver.set_retention(%L, NULL) for the partition', pg_partition_root(p_relation), p_relation)
    FROM pg_class WHERE oid = p_relation AND relispartition
    UNION ALL
    SELECT o.problem, o.hint FROM rollup_engine.other_time_problem(p_relation) AS o WHERE o.problem IS NOT NULL
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.retention_problem(regclass, boolean) IS 'Why nothing of a table can be dropped by its age, or could, once its keep is set; NULL when it can.';

CREATE OR REPLACE FUNCTION rollup_engine.tracked_sources(p_relation regclass) RETURNS SETOF rollup_engine.source
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.source
    WHERE id IN (SELECT source_id FROM rollup_engine.waited_for(p_relation))
    ORDER BY id
$$;
COMMENT ON FUNCTION rollup_engine.tracked_sources(regclass) IS 'The tracked sources at the root of a table''s family.';

-- Volatile, for a snapshot of its own: called once more when the writers are gone.
-- That of 0.1.0 took a time as well.
DROP FUNCTION IF EXISTS rollup_engine.unabsorbed_from(regclass, timestamptz);
CREATE OR REPLACE FUNCTION rollup_engine.unabsorbed_from(p_relation regclass) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_from timestamptz;
BEGIN
    SELECT min(u.from_time) INTO v_from
    FROM (
        SELECT s.from_time
        FROM rollup_engine.stale_range AS s
        -- Of a rollup that is kept itself, its own as well.
        WHERE s.rollup_id IN (SELECT id FROM rollup_engine.waited_for(p_relation))
        UNION ALL
        SELECT l.from_time
        FROM rollup_engine.change_log AS l JOIN rollup_engine.tracked_sources(p_relation) AS t ON t.id = l.source_id
        UNION ALL
        SELECT lower(rollup_engine.window_of(r.id)) FROM rollup_engine.readers(p_relation) AS r
        UNION ALL
        -- Attached by hand: the next drain will find it.
        SELECT m.from_time
        FROM rollup_engine.tracked_sources(p_relation) AS t
        CROSS JOIN LATERAL rollup_engine.partition_bounds(t.relation, t.time_column) AS m
        WHERE (t.id, m.member, m.from_time, m.to_time) NOT IN (
            SELECT p.source_id, p.partition, p.from_time, p.to_time FROM rollup_engine.source_partition AS p)
        UNION ALL
        SELECT '-infinity' FROM rollup_engine.tracked_sources(p_relation) AS t WHERE EXISTS (SELECT FROM rollup_engine.capture_gaps(t))
    ) AS u;
    RETURN coalesce(v_from, 'infinity');
END
$$;
COMMENT ON FUNCTION rollup_engine.unabsorbed_from(regclass) IS 'Time before which every rollup of a table holds all that the table says.';

CREATE OR REPLACE FUNCTION rollup_engine.absorbs(p_relation regclass, p_border timestamptz, p_unabsorbed timestamptz, p_now timestamptz) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The bucket across the border is sealed as well, so it must be over and absorbed.
    SELECT p_border <= p_unabsorbed AND coalesce(bool_and(
        rollup_engine.bucket_ceil(r, p_border) <= least(p_unabsorbed, rollup_engine.time_before(p_now, r.settle_delay))), true)
    FROM rollup_engine.readers(p_relation) AS r
$$;
COMMENT ON FUNCTION rollup_engine.absorbs(regclass, timestamptz, timestamptz, timestamptz) IS 'Whether a table may be sealed before the border, as far as its rollups go.';

CREATE OR REPLACE FUNCTION rollup_engine.sealed_by_all(p_retention rollup_engine.retention) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- One that came while it was sealed, and knows of none, is sealed with the next border; by a view, first as far as the others.
    SELECT least(p_retention.sealed_before, (
        SELECT min(coalesce(r.sealed_before, CASE WHEN NOT rollup_engine.lies_in(r.source_table, p_retention.relation) THEN timestamptz '-infinity' END))
        FROM rollup_engine.readers(p_retention.relation) AS r))
$$;
COMMENT ON FUNCTION rollup_engine.sealed_by_all(rollup_engine.retention) IS 'How far a table is sealed by every rollup that reads it; those that came after its seal absorb first what is still there.';

CREATE OR REPLACE FUNCTION rollup_engine.due_border(p_retention rollup_engine.retention, p_unabsorbed timestamptz, p_now timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A rollup's rows can go one by one, as far as whoever reads it has settled; a source only loses
    -- whole partitions.
    SELECT border
    FROM (
        -- The newest first: mostly it is that one, and no other needs a look at all readers.
        SELECT border
        FROM (
            SELECT m.to_time AS border
            FROM rollup_engine.time_partitions(p_retention.relation) AS m
            WHERE m.to_time <= rollup_engine.time_before(p_now, p_retention.keep) AND m.to_time > (SELECT rollup_engine.sealed_by_all(p_retention))
            UNION ALL
            SELECT min(t.start)
            FROM (
                SELECT rollup_engine.bucket_start(r, least(rollup_engine.time_before(p_now, p_retention.keep), p_unabsorbed))
                FROM silver.rollup_config AS r WHERE r.target_table = p_retention.relation
                UNION ALL
                SELECT rollup_engine.bucket_start(c, least(rollup_engine.time_before(p_now, p_retention.keep), p_unabsorbed, rollup_engine.time_before(p_now, c.settle_delay)))
                FROM rollup_engine.readers(p_retention.relation) AS c
            ) AS t (start)
            WHERE NOT p_retention.archive AND p_retention.keep IS NOT NULL
                AND EXISTS (SELECT FROM silver.rollup_config AS r WHERE r.target_table = p_retention.relation)
            HAVING min(t.start) > p_retention.sealed_before
            UNION ALL
            -- Once more, for those by a view that came after it.
            SELECT p_retention.sealed_before
            WHERE isfinite(p_retention.sealed_before) AND EXISTS (
                SELECT FROM rollup_engine.readers(p_retention.relation) AS c
                WHERE (c.sealed_before >= p_retention.sealed_before) IS NOT TRUE AND NOT rollup_engine.lies_in(c.source_table, p_retention.relation))
        ) AS candidate
        ORDER BY border DESC
        OFFSET 0
    ) AS newest
    WHERE rollup_engine.absorbs(p_retention.relation, border, p_unabsorbed, p_now)
    ORDER BY border DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.due_border(rollup_engine.retention, timestamptz, timestamptz) IS 'How far a table can be sealed now, NULL when it is already.';

-- Seal -------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.write_seal(p_relation regclass, p_border timestamptz) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE rollup_engine.retention SET sealed_before = greatest(sealed_before, p_border), last_border = p_border, sealed_by = pg_current_xact_id()
    WHERE relation = p_relation;
    UPDATE silver.rollup_config AS r
    SET sealed_before = greatest(r.sealed_before, rollup_engine.bucket_ceil(r, p_border))
    WHERE r.id IN (SELECT id FROM rollup_engine.waited_for(p_relation));
    UPDATE rollup_engine.rollup_partition AS p SET held = true
    FROM silver.rollup_config AS r
    WHERE r.id = p.rollup_id AND r.id IN (SELECT id FROM rollup_engine.waited_for(p_relation))
        AND p.to_time <= r.sealed_before AND NOT p.held AND pg_relation_size(p.partition) > 0;
$$;
COMMENT ON FUNCTION rollup_engine.write_seal(regclass, timestamptz) IS 'Seals a table''s rollups before the border, and, when it is a rollup itself, that one.';

CREATE OR REPLACE FUNCTION rollup_engine.wait_for_writers(p_relation regclass, p_before timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_member regclass;
BEGIN
    FOR v_member IN
        -- A foreign table cannot be locked.
        SELECT m.member FROM rollup_engine.time_partitions(p_relation) AS m JOIN pg_class AS c ON c.oid = m.member AND c.relkind <> 'f'
        WHERE m.is_leaf AND m.from_time < p_before
        ORDER BY m.member
    LOOP
        PERFORM rollup_engine.lock_out(v_member, 'SHARE');
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.wait_for_writers(regclass, timestamptz) IS 'Waits for whoever writes to the partitions before a time, and keeps them out until the end of the transaction.';

-- What is sealed is never computed again: not while something is to be taken in, or is wrong.
CREATE OR REPLACE FUNCTION rollup_engine.seal_obstacle(p_relation regclass) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((
        SELECT format('%s is not valid: %s', r.target_table, p.problem)
        FROM silver.rollup_config AS r
        CROSS JOIN LATERAL rollup_engine.data_problems(r) AS p
        WHERE r.id = ANY (ARRAY(
            SELECT rollup_engine.with_ancestors(c.id)
            FROM rollup_engine.waited_for(p_relation) AS c))
        ORDER BY r.depth, r.id
        LIMIT 1), (
        -- Of the tables of a view that took a name as well.
        SELECT format('rollups of what had the name before, %s, are to read %s', s.relation, e.other)
        FROM rollup_engine.source AS s
        CROSS JOIN LATERAL rollup_engine.exchanged_for(s) AS e (other)
        CROSS JOIN LATERAL rollup_engine.tables_read(e.other) AS t (member)
        WHERE rollup_engine.lies_in(t.member, p_relation)
        LIMIT 1));
END
$$;
COMMENT ON FUNCTION rollup_engine.seal_obstacle(regclass) IS 'Why a table that is due must not be sealed; NULL when nothing is wrong.';

CREATE OR REPLACE FUNCTION rollup_engine.seal(p_retention rollup_engine.retention, p_now timestamptz, OUT border timestamptz, OUT obstacle text)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms'
AS $$
DECLARE
    v_border timestamptz;
    v_straddling timestamptz;
BEGIN
    PERFORM rollup_engine.check_isolation();
    v_border := rollup_engine.due_border(p_retention, rollup_engine.unabsorbed_from(p_retention.relation),
        least(p_now, rollup_engine.strays_from(p_retention.relation) + p_retention.keep));
    IF v_border IS NULL OR EXISTS (
        SELECT FROM rollup_engine.tracked_sources(p_retention.relation) AS s WHERE NOT rollup_engine.try_lock_source(s.id))
    THEN
        RETURN;
    END IF;
    SELECT max(rollup_engine.bucket_ceil(r, v_border)) INTO v_straddling FROM rollup_engine.readers(p_retention.relation) AS r;
    -- Nobody but the machinery writes to rollup tables, and the lock on their source keeps drains out.
    IF NOT EXISTS (SELECT FROM silver.rollup_config WHERE target_table = p_retention.relation) THEN
        PERFORM rollup_engine.wait_for_writers(p_retention.relation, greatest(v_border, v_straddling));
    END IF;
    obstacle := coalesce((rollup_engine.retention_problem(p_retention.relation)).problem, rollup_engine.seal_obstacle(p_retention.relation));
    IF obstacle IS NULL
        AND rollup_engine.absorbs(p_retention.relation, v_border, rollup_engine.unabsorbed_from(p_retention.relation), p_now)
    THEN
        PERFORM rollup_engine.write_seal(p_retention.relation, v_border);
        border := v_border;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.seal(rollup_engine.retention, timestamptz) IS
'Seals a table as far as retention asks for it and its rollups have absorbed it; the new border, NULL when there is none, and what keeps it from one that is due; lock_not_available when somebody writes there.';

CREATE OR REPLACE FUNCTION rollup_engine.whole_from(p_retention rollup_engine.retention) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Where each partition is one by time: of others, some may lack what is gone of the rest.
    SELECT coalesce((
        SELECT least(p_retention.sealed_before, greatest(lower(r), rollup_engine.time_before(now(), p_retention.keep)))
        FROM (
            SELECT range_agg(tstzrange(m.from_time, m.to_time)) AS ranges
            FROM rollup_engine.time_partitions(p_retention.relation) AS m
            WHERE m.is_leaf AND isfinite(m.to_time)
                AND NOT EXISTS (SELECT FROM pg_partitioned_table AS d WHERE d.partdefid = m.member)  -- within a month it has bounds as well
                AND rollup_engine.partition_column(p_retention.relation) = rollup_engine.time_partition_column(p_retention.relation)
                AND NOT EXISTS (  -- regions of a day go by themselves, where one of them stays, and days of a region
                    SELECT FROM pg_partition_tree(p_retention.relation) AS t
                    JOIN pg_partitioned_table AS d ON d.partrelid = t.relid
                    CROSS JOIN LATERAL rollup_engine.partition_column(p_retention.relation) AS k (key)
                    WHERE CASE WHEN rollup_engine.partition_column(t.relid) = k.key
                        THEN t.level > 0 AND rollup_engine.partition_column(t.parentrelid) IS DISTINCT FROM k.key ELSE d.partstrat <> 'h' END)
        ) AS kept
        CROSS JOIN LATERAL unnest(kept.ranges) AS r
        WHERE r @> p_retention.sealed_before - interval '1 microsecond'
            AND NOT EXISTS (SELECT FROM silver.rollup_config AS c WHERE c.target_table = p_retention.relation)
    ), p_retention.sealed_before)
$$;
COMMENT ON FUNCTION rollup_engine.whole_from(rollup_engine.retention) IS
'From when on a table that was sealed still has every partition, and keeps it for now: all of what is older than the seal where the keep was made longer, or nothing was dropped yet.';

-- A rollup made later starts where its source is still whole. What a view is made of besides, nobody knows.
CREATE OR REPLACE FUNCTION rollup_engine.inherited_seal(p_rollup silver.rollup_config) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT greatest(p_rollup.sealed_before, (
        SELECT nullif(rollup_engine.bucket_ceil(p_rollup, max(rollup_engine.whole_from(t))), '-infinity')
        FROM rollup_engine.retention AS t WHERE rollup_engine.lies_in(p_rollup.source_table, t.relation) AND isfinite(t.sealed_before)))
$$;
COMMENT ON FUNCTION rollup_engine.inherited_seal(silver.rollup_config) IS 'Where a new rollup is sealed: the partitions of its source are gone there, or about to go.';

RESET ROLE;
