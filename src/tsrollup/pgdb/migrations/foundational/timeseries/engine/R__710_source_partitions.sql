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
    FROM pg_constraint AS c JOIN tree AS t ON t.id = c.conrelid
    WHERE NOT c.convalidated AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)  -- from 18 on
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
    UNION ALL
    SELECT format('generated column %I of %s calls %s, which may say something else now', a.attname, a.attrelid::regclass, pg_describe_object(p.refclassid, p.refobjid, 0))
    FROM tree AS t
    JOIN pg_attribute AS a ON a.attrelid = t.id AND NOT t.is_above AND a.attgenerated = 's'
    JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    JOIN pg_depend AS p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
        AND p.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)  -- PostgreSQL's own are not noted
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
    -- Some were taken while the lock was waited for. Who waits for it reads in a new one when he gets it.
    RETURN rollup_engine.outlives(p_snapshots || rollup_engine.snapshots_in_use(p_of_who_waits_here => false));
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.may_move(rollup_engine.partition_set, text[]) IS
'Whether nobody will look for rows of the locked default partition with a snapshot that is older than their move.';

CREATE OR REPLACE FUNCTION rollup_engine.are_uncounted(p_set rollup_engine.partition_set, p_sources integer[], p_from timestamptz, p_to timestamptz) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Late rows are counted by a run, as long as they say who wrote them; moving them is no writing.
    SELECT NOT rollup_engine.is_taken_in(rollup_engine.default_partition(p_set.relation)) OR EXISTS (
        SELECT FROM rollup_engine.change_log AS l JOIN rollup_engine.source AS s ON s.id = l.source_id
        WHERE s.id = ANY (p_sources) AND l.is_found IS NOT TRUE AND l.from_time < (SELECT max(sealed_before) FROM silver.rollup_config WHERE source_id = s.id)
            AND (s.time_column <> p_set.control OR l.from_time < p_to AND l.to_time > p_from))
$$;
COMMENT ON FUNCTION rollup_engine.are_uncounted(rollup_engine.partition_set, integer[], timestamptz, timestamptz) IS
'Whether rows of the default partition in that time may be late ones of those sources that no run has counted so far.';

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
        'within', format('%1$I >= %2$s AND %1$I < %3$s', p_set.control, rollup_engine.bound_literal(p_set, p_from), rollup_engine.bound_literal(p_set, p_to)));
    v_sources constant integer[] := ARRAY(
        SELECT id FROM rollup_engine.source
        WHERE relation IN (SELECT relid FROM pg_partition_ancestors(p_set.relation) UNION ALL SELECT rollup_engine.partition_tree(p_set.relation)));
    v_has_rows boolean := false;
    v_is_sealed boolean := false;
    v_partition regclass;
BEGIN
    IF v_marks ->> 'default' IS NOT NULL THEN
        EXECUTE rollup_engine.fill('SELECT EXISTS (SELECT 1 FROM {default} WHERE {within})', v_marks) INTO v_has_rows;
        v_is_sealed := v_has_rows AND EXISTS (
            SELECT FROM silver.rollup_config
            WHERE source_id = ANY (v_sources) AND sealed_before > CASE WHEN time_column = p_set.control THEN p_from ELSE '-infinity' END);
        IF v_has_rows AND (rollup_engine.move_obstacle(p_set.relation) IS NOT NULL
            OR v_is_sealed AND rollup_engine.are_uncounted(p_set, v_sources, p_from, p_to)
            OR NOT rollup_engine.may_move(p_set, p_snapshots))
        THEN
            RETURN NULL;
        END IF;
    END IF;
    v_partition := rollup_engine.create_like_source(p_set.relation,
        rollup_engine.partition_name(p_set.relation, p_from), rollup_engine.newest_partition(p_set.relation));
    IF v_has_rows THEN
        -- The delete is captured, and speaks for the insert as well: the same rows, the same times.
        EXECUTE rollup_engine.fill($sql$
            WITH moved AS (DELETE FROM {default} WHERE {within} RETURNING {columns})
            INSERT INTO {partition} ({columns}) SELECT {columns} FROM moved
            $sql$, v_marks || jsonb_build_object('partition', v_partition));
        UPDATE rollup_engine.change_log AS l SET is_found = true
        FROM rollup_engine.source AS s
        WHERE v_is_sealed AND s.id = ANY (v_sources) AND l.source_id = s.id AND l.writer = pg_current_xact_id() AND l.noted_at = statement_timestamp()
            -- Others of its time would have kept it where it is.
            AND (s.time_column <> p_set.control OR l.from_time < p_to AND l.to_time > p_from);
    END IF;
    PERFORM rollup_engine.change_table('ALTER TABLE', p_set.relation, format('ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)', v_partition,
        rollup_engine.bound_literal(p_set, p_from), rollup_engine.bound_literal(p_set, p_to)));
    PERFORM rollup_engine.share_identity(p_set.relation, v_partition);
    PERFORM rollup_engine.watch_partition(p_set.relation, v_partition);
    RETURN v_partition;
END
$$;
COMMENT ON FUNCTION rollup_engine.add_source_partition(rollup_engine.partition_set, timestamptz, timestamptz, text[]) IS
'Adds a partition to a source that lock_set has locked, with the rows of the default partition that belong into it; NULL when they are in the way and must stay.';

RESET ROLE;
