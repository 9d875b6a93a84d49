-- Partitions are dropped whole: what is kept for 30 days is gone after 33 where they are no wider
-- than a tenth of that, whatever width was named or would suit the size of the data.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.keep_of(p_relation regclass) RETURNS interval
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The rows of a rollup go one by one, unless its partitions are archived.
    SELECT keep FROM rollup_engine.retention
    WHERE relation = p_relation
        AND (archive OR NOT EXISTS (SELECT FROM silver.rollup_config WHERE target_table = p_relation))
$$;
COMMENT ON FUNCTION rollup_engine.keep_of(regclass) IS 'How long the partitions of a table are kept, NULL for ever.';

CREATE OR REPLACE FUNCTION rollup_engine.shortest_keep(p_relation regclass) RETURNS interval
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(rollup_engine.keep_of(w)) FROM rollup_engine.with_roots(p_relation) AS w
$$;
COMMENT ON FUNCTION rollup_engine.shortest_keep(regclass) IS 'How long the partitions of a table are kept, by itself or with the whole of which it is a part, NULL for ever.';

CREATE OR REPLACE FUNCTION rollup_engine.is_too_wide(p_width interval, p_keep interval) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(extract(epoch FROM p_width) > extract(epoch FROM p_keep) / 10, false)
$$;
COMMENT ON FUNCTION rollup_engine.is_too_wide(interval, interval) IS 'Whether partitions, or buckets, are wider than a tenth of how long rows are kept.';

CREATE OR REPLACE FUNCTION rollup_engine.fit_to_keep(p_set rollup_engine.partition_set, p_width interval) RETURNS interval
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN rollup_engine.is_too_wide(p_width, keep)
        THEN least(p_width, rollup_engine.least_chunk_interval(p_set, rollup_engine.round_chunk_interval(extract(epoch FROM keep) / 10)))
        ELSE p_width END
    FROM rollup_engine.shortest_keep(p_set.relation) AS keep
$$;
COMMENT ON FUNCTION rollup_engine.fit_to_keep(rollup_engine.partition_set, interval) IS 'The width, or the widest that is no more than a tenth of how long the table is kept.';

CREATE OR REPLACE FUNCTION rollup_engine.set_chunk_interval(p_set rollup_engine.partition_set, p_width interval, p_now timestamptz DEFAULT now()) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_set.is_source THEN
        PERFORM rollup_engine.change_chunk_interval(p_set.relation, p_width, p_now);
    ELSE
        UPDATE silver.rollup_config SET chunk_interval = p_width WHERE target_table = p_set.relation;
        UPDATE rollup_engine.partition_set SET is_named = p_set.is_named WHERE relation = p_set.relation;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.set_chunk_interval(rollup_engine.partition_set, interval, timestamptz) IS 'Has partitions to come be of a width that nobody named.';

CREATE OR REPLACE FUNCTION rollup_engine.shown_by_rule(p_rule text, p_number integer) RETURNS TABLE (relation oid, number integer)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A tree of nodes in braces: { the query { its columns or tables { queries in those { their columns. A column says
    -- behind its expression which one of a table it is as it is, through queries inside it as well; 0 for a value.
    WITH part AS (
        SELECT text, sum(CASE left(text, 1) WHEN '{' THEN 1 WHEN '}' THEN -1 ELSE 0 END) OVER (ORDER BY place) AS depth
        -- Marks within names are escaped.
        FROM regexp_replace(p_rule, chr(92) || chr(92) || '.', '_', 'g') AS r (rule)
        CROSS JOIN LATERAL string_to_table(regexp_replace(rule, '([{}])', chr(1) || chr(92) || '1', 'g'), chr(1)) WITH ORDINALITY AS p (text, place)
    )
    SELECT place[1]::oid, place[2]::integer
    FROM part
    CROSS JOIN LATERAL regexp_match(text, format(':resno %s :resname [^ ]* :ressortgroupref [0-9]+ :resorigtbl ([0-9]+) :resorigcol ([0-9]+) :resjunk false', p_number)) AS m (place)
    -- Those of a UNION are in the queries that it unites.
    WHERE place IS NOT NULL AND depth = CASE WHEN EXISTS (SELECT FROM part WHERE depth = 2 AND text LIKE '{SETOPERATIONSTMT %') THEN 4 ELSE 2 END
$$;
COMMENT ON FUNCTION rollup_engine.shown_by_rule(text, integer) IS 'Which columns a column of a view, by its number, is as they are, by the text of its rule: one of each query of a UNION; of table 0 where it is computed, or where that cannot be told.';

CREATE OR REPLACE FUNCTION rollup_engine.shows_column(p_view regclass, p_column name, p_relation regclass, p_key name) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE origin AS (
        SELECT attrelid AS relation, attnum::integer AS number FROM pg_attribute WHERE attrelid = p_view AND attname = p_column
        UNION
        SELECT s.relation, s.number
        FROM origin AS o
        JOIN pg_rewrite AS w ON w.ev_class = o.relation AND w.ev_type = '1'
        CROSS JOIN LATERAL rollup_engine.shown_by_rule(w.ev_action::text, o.number) AS s
    )
    SELECT coalesce(bool_or(a.attname = p_key AND rollup_engine.lies_in(o.relation, p_relation)), false) AND bool_and(o.relation <> 0)
    FROM origin AS o LEFT JOIN pg_attribute AS a ON a.attrelid = o.relation AND a.attnum = o.number
$$;
COMMENT ON FUNCTION rollup_engine.shows_column(regclass, name, regclass, name) IS
'Whether a column of a view is that of a table, or of its partitions, as it is, through other views too; false where that cannot be told.';

CREATE OR REPLACE FUNCTION rollup_engine.default_partitions(p_relation regclass) RETURNS TABLE (relation regclass, partition regclass)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.partrelid, d.partdefid
    FROM (SELECT rollup_engine.time_partition_column(p_relation) OFFSET 0) AS k (name)  -- once
    CROSS JOIN rollup_engine.partition_tree(p_relation) AS t (member)
    CROSS JOIN LATERAL (SELECT * FROM pg_partitioned_table WHERE partrelid = t.member AND partdefid <> 0 OFFSET 0) AS d
    WHERE rollup_engine.partition_column(d.partrelid) = k.name
$$;
COMMENT ON FUNCTION rollup_engine.default_partitions(regclass) IS 'Default partitions of what is divided, in a table, by the time by which that is kept, each with what it is one of.';

CREATE OR REPLACE FUNCTION rollup_engine.done_with_after(p_rollup silver.rollup_config, p_at_least interval) RETURNS interval
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Those of a window are read again for so long, by the one at the root.
    SELECT p_rollup.bucket_width + greatest(p_rollup.settle_delay, max(look_back_window), p_at_least)
    FROM silver.rollup_config WHERE parent_id IS NULL AND id IN (SELECT rollup_engine.with_ancestors(p_rollup.id))
$$;
COMMENT ON FUNCTION rollup_engine.done_with_after(silver.rollup_config, interval) IS 'How old rows are, at the start of a bucket, when a rollup has done with all of the bucket.';

CREATE OR REPLACE FUNCTION rollup_engine.reader_warnings(p_relation regclass) RETURNS TABLE (kind text, problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Rows of a rollup that go one by one go by whole buckets of what reads it.
    SELECT 'bucket', format('%s computes buckets of %s from %s, whose rows %s: up to %s longer than %s', r.target_table, r.bucket_width, p_relation,
            CASE WHEN d.keep IS NULL THEN 'go together with all of theirs' ELSE 'stay until theirs is over' END,
            justify_interval(date_trunc('hour', e.excess)), k.keep),
        'a finer rollup that it reads instead, or a narrower one, lets them go'
    FROM rollup_engine.retention AS k
    CROSS JOIN LATERAL rollup_engine.keep_of(p_relation) AS d (keep)
    CROSS JOIN LATERAL rollup_engine.readers(p_relation) AS r
    CROSS JOIN LATERAL (SELECT rollup_engine.done_with_after(r, CASE WHEN d.keep IS NULL THEN k.keep END) - k.keep) AS e (excess)
    WHERE k.relation = p_relation AND rollup_engine.is_too_wide(e.excess, k.keep) AND rollup_engine.is_relation(r.source_table)
    UNION ALL
    SELECT 'view', format('%s goes by %I of a view, which need not be the time by which %s is divided and dropped, %I', r.target_table, r.time_column, p_relation, c.name),
        format('where it is later, keep %s for longer than the look_back_window of %s by as much', p_relation, r.look_back_window)
    FROM rollup_engine.keep_of(p_relation) AS k (keep)
    CROSS JOIN LATERAL rollup_engine.time_partition_column(p_relation) AS c (name)
    CROSS JOIN LATERAL rollup_engine.readers(p_relation) AS r
    WHERE k.keep IS NOT NULL AND rollup_engine.is_relation(r.source_table) AND NOT rollup_engine.lies_in(r.source_table, p_relation)
        AND NOT rollup_engine.shows_column(r.source_table, r.time_column, p_relation, c.name)
$$;
COMMENT ON FUNCTION rollup_engine.reader_warnings(regclass) IS 'Rollups for which rows of a table stay for much longer than it is kept, and those that may need them for longer.';

CREATE OR REPLACE FUNCTION rollup_engine.partition_warnings(p_relation regclass) RETURNS TABLE (kind text, problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH partition AS (
        SELECT m.member, m.from_time, m.to_time, k.keep, c.relkind = 'f' AS is_foreign
        FROM rollup_engine.keep_of(p_relation) AS k (keep)
        CROSS JOIN LATERAL rollup_engine.partition_bounds(p_relation, rollup_engine.time_partition_column(p_relation)) AS m
        JOIN pg_class AS c ON c.oid = m.member AND c.relkind <> 'p'
        WHERE k.keep IS NOT NULL AND m.member <> p_relation AND m.member NOT IN (
                SELECT t FROM rollup_engine.default_partitions(p_relation) AS d CROSS JOIN LATERAL rollup_engine.partition_tree(d.partition) AS t)
    )
    SELECT 'width', format('partitions of %s are up to %s wide, so rows stay that much longer than %s; the oldest so wide, %s, goes after %s',
            p_relation, justify_hours(max(to_time - from_time)), min(keep),
            (array_agg(member ORDER BY to_time))[1], min(to_time) + min(keep)),
        'those that are there stay as they are; ' || CASE WHEN EXISTS (SELECT FROM silver.rollup_config WHERE target_table = p_relation)
            THEN 'silver.alter_rollup(..., chunk_interval => ...) makes those to come narrower'
            ELSE 'partition_source makes those to come narrower' END
    FROM partition
    WHERE isfinite(from_time) AND isfinite(to_time) AND rollup_engine.is_too_wide(to_time - from_time, keep) AND NOT is_foreign
    HAVING count(*) > 0
    UNION ALL
    SELECT 'end', format('%s has no end, and is never dropped', member),
        CASE from_time WHEN '-infinity' THEN 'detach it, make a table in its place that is partitioned by time as its neighbours are, and move its rows there'
            ELSE 'detach it, move what it holds beyond some time elsewhere, and attach it again up to there; partition_source makes what comes after it' END
    FROM partition WHERE to_time = 'infinity'
    UNION ALL
    SELECT 'foreign', format('%s, a foreign table, is never dropped', p.member),
        format('when it is to go: ALTER TABLE %s DETACH PARTITION %s', i.inhparent::regclass, p.member)
    FROM partition AS p JOIN pg_inherits AS i ON i.inhrelid = p.member
    WHERE p.is_foreign
$$;
COMMENT ON FUNCTION rollup_engine.partition_warnings(regclass) IS 'Partitions of a table that stay for much longer than it is kept.';

CREATE OR REPLACE FUNCTION rollup_engine.read_for(p_retention rollup_engine.retention) RETURNS interval
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Rows of a rollup that go one by one go by whole buckets.
    SELECT greatest(p_retention.keep, max(rollup_engine.done_with_after(r, CASE WHEN d.keep IS NULL THEN p_retention.keep END)))
    FROM rollup_engine.keep_of(p_retention.relation) AS d (keep)
    CROSS JOIN rollup_engine.waited_for(p_retention.relation) AS r
$$;
COMMENT ON FUNCTION rollup_engine.read_for(rollup_engine.retention) IS 'How old rows of a table are when the last of its rollups has done with them: as they are kept, at the least.';

CREATE OR REPLACE FUNCTION rollup_engine.first_bucket(p_relation regclass, p_before timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET row_security = off
AS $$
DECLARE
    v_first timestamptz;
BEGIN
    IF rollup_engine.has_buckets(p_relation) AND has_table_privilege(p_relation, 'SELECT') THEN
        EXECUTE format('SELECT min(bucket) FROM %s WHERE bucket < %L', p_relation, p_before) INTO v_first;  -- no other partition is locked
    END IF;
    RETURN v_first;
END
$$;
COMMENT ON FUNCTION rollup_engine.first_bucket(regclass, timestamptz) IS 'The oldest bucket in a rollup''s table, if it is before some time; NULL where there is none, or the caller may not see it.';

CREATE OR REPLACE FUNCTION rollup_engine.held_warnings(p_relation regclass) RETURNS TABLE (kind text, problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    WITH kept AS MATERIALIZED (
        SELECT k, k.keep, a.while, rollup_engine.time_before(now(), k.keep + a.while) AS due
        FROM rollup_engine.retention AS k CROSS JOIN LATERAL (SELECT greatest(k.keep / 10, '3 days')) AS a (while)
        WHERE k.relation = p_relation AND k.keep IS NOT NULL AND k.set_at < now() - a.while
    ), candidate AS MATERIALIZED (
        SELECT true AS is_partition, m.member::text AS name, m.to_time FROM kept CROSS JOIN LATERAL rollup_engine.removable_partitions(p_relation, due) AS m
        UNION ALL
        -- Of a rollup, one by one.
        SELECT false, b.oldest::text, b.oldest + r.bucket_width
        FROM kept
        JOIN silver.rollup_config AS r ON r.target_table = p_relation AND NOT (k).archive
        CROSS JOIN LATERAL rollup_engine.first_bucket(p_relation, due) AS b (oldest)
        WHERE b.oldest + r.bucket_width <= due
    ), border AS MATERIALIZED (
        -- Mostly there is nothing to look at the readers for.
        SELECT rollup_engine.sealed_by_all(k) AS sealed_before, rollup_engine.time_before(now(), rollup_engine.read_for(k) + while) AS done_before
        FROM kept WHERE EXISTS (SELECT FROM candidate)
    ), old AS (
        SELECT s.is_sealed, CASE WHEN is_partition THEN format('%s partitions of %s', count(*), p_relation) ELSE format('rows of %s', p_relation) END AS what,
            (array_agg(name ORDER BY to_time))[1] AS oldest
        FROM candidate CROSS JOIN border CROSS JOIN LATERAL (SELECT to_time <= sealed_before) AS s (is_sealed)
        WHERE s.is_sealed OR to_time < done_before
        GROUP BY s.is_sealed, is_partition
    )
    SELECT CASE WHEN is_sealed THEN 'held' ELSE 'unsealed' END,
        format('%s are %ssealed, and are there for more than %s longer than %s, the oldest is %s', what, CASE WHEN is_sealed THEN '' ELSE 'not ' END, while, keep, oldest),
        coalesce((SELECT format('%s is paused, and has not stored all of them: SELECT silver.resume_rollup(%1$L)', target_table)
                FROM rollup_engine.waited_for(p_relation)
                WHERE NOT is_sealed AND status = 'paused' LIMIT 1),
            CASE WHEN is_sealed THEN '' ELSE 'what its rollups have not stored keeps them, and the monitor says why they lag; else ' END || 'the next maintenance drops them, or says in its rows with action skipped what holds them: SELECT * FROM silver.maintain_timeseries_tables();'
            ' mostly a transaction that was left open (pg_stat_activity) or prepared (pg_prepared_xacts), or a replication slot (pg_replication_slots)')
    FROM kept CROSS JOIN old
$$;
COMMENT ON FUNCTION rollup_engine.held_warnings(regclass) IS 'Partitions of a table, or rows of a rollup, that nothing keeps but who uses them, a rollup that lags, or that no maintenance comes.';

CREATE OR REPLACE FUNCTION rollup_engine.default_warnings(p_relation regclass) RETURNS TABLE (kind text, problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH held AS MATERIALIZED (
        SELECT d.relation, d.partition, s.relation IS NOT NULL OR EXISTS (SELECT FROM rollup_engine.partition_set AS f WHERE f.relation = p_relation) AS is_followed,
            c.name AS control, k.sealed_before,
            CASE WHEN isfinite(k.sealed_before) THEN rollup_engine.bound_literal(jsonb_populate_record(s, jsonb_build_object(
                'relation', d.relation, 'control', c.name, 'time_unit', coalesce(s.time_unit, rollup_engine.number_unit(d.relation, c.name)))), k.sealed_before) END AS border
        FROM rollup_engine.retention AS k
        CROSS JOIN LATERAL rollup_engine.default_partitions(p_relation) AS d
        CROSS JOIN LATERAL rollup_engine.partition_column(d.relation) AS c (name)
        LEFT JOIN rollup_engine.partition_set AS s ON s.relation = d.relation
        -- What has an end, as that of a month by days, goes with what it is one of.
        JOIN rollup_engine.partition_bounds(p_relation, rollup_engine.time_partition_column(p_relation)) AS m ON m.member = d.partition AND m.to_time = 'infinity'
        WHERE k.relation = p_relation AND rollup_engine.keep_of(p_relation) IS NOT NULL
            -- Without a right to read it, its size has to do.
            AND (SELECT sum(pg_relation_size(m)) > 0 FROM rollup_engine.partition_tree(d.partition) AS m)
    ), default_one AS MATERIALIZED (
        SELECT held.*, isfinite(sealed_before) AND has_table_privilege(p_relation, 'SELECT') AND rollup_engine.has_rows(p_relation, format('%I < %s AND tableoid = ANY (%L)', control, border,
            ARRAY(SELECT m::oid FROM rollup_engine.partition_tree(partition) AS m))) AS has_late
        FROM held
    )
    -- Of those that maintenance makes partitions for, it speaks itself.
    SELECT 'default', format('%s, a default partition, holds rows, which are never dropped', partition),
        format('SELECT silver.partition_source(%L, ...) gives them partitions of their own', relation)
    FROM default_one
    WHERE NOT is_followed AND CASE WHEN has_table_privilege(partition, 'SELECT')
        THEN rollup_engine.has_rows(partition, CASE WHEN isfinite(sealed_before) THEN format('(%I < %s) IS NOT TRUE', control, border) ELSE 'true' END)
        ELSE NOT has_late END
    UNION ALL
    -- Late ones, whose partitions are gone, and are not to come back.
    SELECT 'late', format('%s, a default partition, holds rows from before %s, which are sealed and never dropped', partition, sealed_before),
        format('those that nobody wants, DELETE FROM %s WHERE %I < %s', partition, control, border)
    FROM default_one
    WHERE has_late
$$;
COMMENT ON FUNCTION rollup_engine.default_warnings(regclass) IS 'Rows in default partitions of a table that is kept for some time, where nothing takes them.';

CREATE OR REPLACE FUNCTION rollup_engine.keep_warnings(p_relation regclass) RETURNS TABLE (problem text, hint text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET intervalstyle = 'postgres'
    SET lock_timeout = '100ms'
AS $$
BEGIN
    RETURN QUERY SELECT r.problem, r.hint FROM rollup_engine.retention_problem(p_relation) AS r WHERE r.problem IS NOT NULL AND rollup_engine.keep_of(p_relation) IS NOT NULL;
    IF FOUND THEN
        RETURN;  -- nothing goes
    END IF;
    RETURN QUERY
        SELECT w.problem || CASE WHEN w.place = 3 AND w.of > 3 THEN format('; and so with %s others', w.of - 3) ELSE '' END, w.hint
        FROM (
            SELECT u.*, row_number() OVER (PARTITION BY u.kind ORDER BY u.problem) AS place, count(*) OVER (PARTITION BY u.kind) AS of
            FROM (
                SELECT * FROM rollup_engine.held_warnings(p_relation)
                UNION ALL
                SELECT * FROM rollup_engine.partition_warnings(p_relation)
                UNION ALL
                SELECT * FROM rollup_engine.reader_warnings(p_relation)
                UNION ALL
                SELECT * FROM rollup_engine.default_warnings(p_relation)
            ) AS u
        ) AS w
        WHERE w.place <= 3
        ORDER BY array_position('{held,unsealed,width,bucket,view,end,foreign,default,late}', w.kind), w.place;
EXCEPTION WHEN lock_not_available THEN
    RETURN QUERY SELECT format('somebody keeps %s, or a partition of it, locked: how long they stay cannot be told', p_relation),
        'where that lasts, pg_locks says who it is; nothing is dropped as long'::text;
END
$$;
COMMENT ON FUNCTION rollup_engine.keep_warnings(regclass) IS 'Why rows of a table stay for much longer than they are kept, and when they go; of many of a kind, three, and how many more.';

CREATE OR REPLACE FUNCTION rollup_engine.fit_partitions_to_keep(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_set rollup_engine.partition_set;
    v_width interval;
    v_warning record;
BEGIN
    FOR v_set IN
        SELECT f.* FROM rollup_engine.partition_set AS p CROSS JOIN LATERAL rollup_engine.followed_set(p.relation) AS f
        WHERE p.relation = p_relation OR rollup_engine.lies_in(p.relation, p_relation) AND rollup_engine.foreign_owner(p.relation) IS NULL
        ORDER BY p.relation
    LOOP
        v_width := rollup_engine.fit_to_keep(v_set, v_set.chunk_interval);
        IF v_width <> v_set.chunk_interval THEN
            PERFORM rollup_engine.set_chunk_interval(v_set, v_width);
            RAISE NOTICE 'partitions of % to come are % wide instead of %: a tenth of the % that it is kept, or less',
                v_set.relation, v_width, v_set.chunk_interval, rollup_engine.shortest_keep(v_set.relation);
        END IF;
    END LOOP;
    FOR v_warning IN SELECT * FROM rollup_engine.keep_warnings(p_relation) LOOP
        RAISE NOTICE USING MESSAGE = v_warning.problem, HINT = v_warning.hint;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.fit_partitions_to_keep(regclass) IS 'Has partitions to come be no wider than a tenth of how long a table is kept; says which are.';

RESET ROLE;
