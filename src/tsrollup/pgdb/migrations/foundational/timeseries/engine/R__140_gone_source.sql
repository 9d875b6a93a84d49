-- A source, or a live view, that was dropped: what is said of it; and taking a source up again under its name.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.is_relation(p_relation regclass) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_class WHERE oid = p_relation);
END
$$;
COMMENT ON FUNCTION rollup_engine.is_relation(regclass) IS 'False for a table that was dropped since.';

CREATE OR REPLACE FUNCTION rollup_engine.note_name(p_source_id integer) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE rollup_engine.source
    SET former_names = array_remove(relation_name || former_names, relation::text), relation_name = relation::text
    WHERE id = p_source_id AND relation_name <> relation::text
$$;
COMMENT ON FUNCTION rollup_engine.note_name(integer) IS 'Notes the name of a source that was renamed or moved.';

CREATE OR REPLACE FUNCTION rollup_engine.fail_if_renamed(p_source_id integer, p_name text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM rollup_engine.source WHERE id = p_source_id AND relation::text <> p_name) THEN
        RAISE lock_not_available USING MESSAGE = format('%s was renamed while it was waited for', p_name), HINT = 'try again';
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.fail_if_renamed(integer, text) IS
'Fails where a source that was just read by its name is not called so any more: PostgreSQL looks a name up again when it has the lock, and may have found another table.';

CREATE OR REPLACE FUNCTION rollup_engine.relation_called(p_name text) RETURNS regclass
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- What was dropped has a number for a name.
    RETURN c.oid
    FROM parse_ident(CASE WHEN p_name !~ '^[0-9]' THEN p_name END) AS i (parts)
    JOIN pg_namespace AS n ON n.nspname = parts[1]
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = parts[2];
END
$$;
COMMENT ON FUNCTION rollup_engine.relation_called(text) IS 'The table of a full name, NULL when there is none. to_regclass() is an error where its schema may not be used.';

CREATE OR REPLACE FUNCTION rollup_engine.is_read_by(p_source regclass, p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE below AS (
        SELECT p_relation::oid AS oid
        UNION
        SELECT n.oid
        FROM below AS b
        CROSS JOIN LATERAL (
            SELECT d.refobjid
            FROM pg_rewrite AS w
            JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
            WHERE w.ev_class = b.oid AND w.ev_type = '1'
            UNION ALL
            SELECT source_table FROM silver.rollup_config WHERE target_table = b.oid
            UNION ALL
            SELECT relid FROM pg_partition_ancestors(b.oid)
        ) AS n (oid)
    )
    SELECT EXISTS (SELECT FROM below WHERE oid = p_source AND oid <> p_relation)
$$;
COMMENT ON FUNCTION rollup_engine.is_read_by(regclass, regclass) IS 'Whether a view, or a rollup''s table, is made of a table or another view, or of some of its partitions, through others too.';

CREATE OR REPLACE FUNCTION rollup_engine.now_called(p_name text, p_before regclass) RETURNS regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Not what is made of it, as a view that keeps the name alive.
    SELECT oid FROM pg_class
    WHERE oid = rollup_engine.relation_called(p_name) AND oid <> p_before AND relkind IN ('r', 'p', 'f', 'v', 'm') AND NOT rollup_engine.is_read_by(p_before, oid)
$$;
COMMENT ON FUNCTION rollup_engine.now_called(text, regclass) IS 'The other table, or view, that has a name which one had before, NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.table_or_view(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN relkind IN ('v', 'm') THEN 'view' ELSE 'table' END FROM pg_class WHERE oid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.table_or_view(regclass) IS 'What to call it in messages.';

DROP FUNCTION IF EXISTS rollup_engine.exchanged_for(rollup_engine.source);
CREATE FUNCTION rollup_engine.exchanged_for(p_source rollup_engine.source) RETURNS SETOF regclass
    LANGUAGE plpgsql STABLE ROWS 1
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Not what has rollups of its own, and so is known to be another one.
    RETURN QUERY
        SELECT o.other
        FROM unnest(array_remove(p_source.relation_name || p_source.former_names, p_source.relation::text)) WITH ORDINALITY AS n (name, place)
        CROSS JOIN LATERAL rollup_engine.now_called(n.name, p_source.relation) AS o (other)
        WHERE EXISTS (SELECT FROM pg_class WHERE oid = p_source.relation)
            AND o.other IS NOT NULL AND NOT EXISTS (SELECT FROM rollup_engine.source AS s WHERE s.relation = o.other)
        ORDER BY n.place;
END
$$;
COMMENT ON FUNCTION rollup_engine.exchanged_for(rollup_engine.source) IS 'Tables and views that have names by now that a source went by, the last one first.';

CREATE OR REPLACE FUNCTION rollup_engine.may_take_its_place(p_source rollup_engine.source, p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What its owner has PostgreSQL run for a table runs with the rights of the machinery.
    SELECT pg_get_userbyid(relowner) = p_source.owner_name OR pg_has_role(relowner, '${owner_role}', 'USAGE')
    FROM pg_class WHERE oid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.may_take_its_place(rollup_engine.source, regclass) IS
'Whether a table belongs to who owned the source that was dropped, or to a member of the owner role.';

CREATE OR REPLACE FUNCTION rollup_engine.called_as(p_source rollup_engine.source) RETURNS SETOF regclass
    LANGUAGE sql STABLE ROWS 1
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What has rollups of its own is known to be another one, unless it was made again under the last name.
    SELECT t.relation
    FROM unnest(p_source.relation_name || p_source.former_names) WITH ORDINALITY AS n (name, place)
    CROSS JOIN LATERAL rollup_engine.relation_called(n.name) AS t (relation)
    WHERE t.relation IS NOT NULL AND (n.place = 1 OR NOT EXISTS (SELECT FROM rollup_engine.source AS s WHERE s.relation = t.relation))
    ORDER BY n.place
$$;
COMMENT ON FUNCTION rollup_engine.called_as(rollup_engine.source) IS 'What has names by now that a source went by which was dropped, the last one first.';

CREATE OR REPLACE FUNCTION rollup_engine.lacking_columns(p_source rollup_engine.source, p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(DISTINCT format('%I', k.current_name) || CASE k.current_name WHEN p_source.time_column THEN format(' of type %s', p_source.time_type) ELSE '' END, ', ')
    FROM rollup_engine.source_column AS k
    WHERE k.source_id = p_source.id AND NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = p_relation AND a.attname = k.current_name
            AND (a.attname <> p_source.time_column OR rollup_engine.base_type(a.atttypid) = p_source.time_type))
$$;
COMMENT ON FUNCTION rollup_engine.lacking_columns(rollup_engine.source, regclass) IS
'Columns that rollups read of a source, and a table does not have; of the time its type counts. NULL when it has all.';

CREATE OR REPLACE FUNCTION rollup_engine.exchange_hint(p_source rollup_engine.source, p_other regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN c.relkind IN ('v', 'm') AND k.kind !~ 'VIEW' OR c.relkind = 'f' AND p_source.change_tracking = 'trigger'
            THEN format('drop the rollups%s, and create them anew over %s; if they are to read %s, give the %s another name, or rollups of its own',
                rollup_engine.sealed_note(p_source), p_other, p_source.relation, rollup_engine.table_or_view(p_other))
            WHEN p_source.relation IN (SELECT rollup_engine.partition_tree(p_other))
            THEN format('drop the rollups%s, and create them anew over %s; or create others there, if these are to read %s alone',
                rollup_engine.sealed_note(p_source), p_other, p_source.relation)
            ELSE format('where all that is still needed of %2$s is elsewhere, DROP %1$s %2$s: the next run takes up the new %3$s if it has the columns of the old one; or drop the rollups (keep_table => true keeps what they hold), and create them anew over that; if they are to read the old one, give the new one another name, or rollups of its own',
                k.kind, p_source.relation, p_other) END
        || CASE WHEN has_table_privilege('${owner_role}', p_other, 'SELECT') THEN '' ELSE format('; to have it read, GRANT SELECT ON %s TO %I', p_other, '${owner_role}') END
    FROM pg_class AS c
    CROSS JOIN LATERAL (
        SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END FROM pg_class WHERE oid = p_source.relation
    ) AS k (kind)
    WHERE c.oid = p_other
$$;
COMMENT ON FUNCTION rollup_engine.exchange_hint(rollup_engine.source, regclass) IS 'What to do about a table, the other one, that has the name of a source.';

CREATE OR REPLACE FUNCTION rollup_engine.gone_hint(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN rollup_engine.is_relation(p_source.relation) AND p_source.change_tracking = 'window'
        THEN format('if it is %s by now, rename that back for a run; if not, drop its rollups with silver.drop_rollup%s', p_source.relation, rollup_engine.sealed_note(p_source))
        WHEN t.relation IS NULL
        THEN format('restore or create %s: the next run takes it up again, and what it does not hold goes from the rollups; or drop them with silver.drop_rollup (keep_table => true keeps their tables)', p_source.relation_name)
        WHEN NOT rollup_engine.may_take_its_place(p_source, t.relation)
        THEN format('the %s that is there now is of another owner: if it is to be read, ALTER TABLE %1$s OWNER TO %I, and the next run takes it up again; or drop the rollups with silver.drop_rollup%s',
            t.relation, coalesce(p_source.owner_name, '${owner_role}'), rollup_engine.sealed_note(p_source))
        WHEN NOT has_table_privilege('${owner_role}', t.relation, 'SELECT')
        THEN format('GRANT SELECT ON %s TO %I: the next run takes it up again', t.relation, '${owner_role}')
        WHEN EXISTS (SELECT FROM rollup_engine.source AS s WHERE (s.relation, s.time_column, s.change_tracking) = (t.relation, p_source.time_column, p_source.change_tracking))
        THEN format('the new %s has rollups of its own, made before a run took it up for those of the old one: drop either with silver.drop_rollup; where it is those of the new one, a run takes it up, and they can be made again',
            t.relation)
        WHEN p_source.change_tracking = 'trigger' AND (SELECT relkind NOT IN ('r', 'p') FROM pg_class WHERE oid = t.relation)
        THEN format('the new %s is no table, so that its changes cannot be tracked: drop the rollups with silver.drop_rollup%s, and create them anew with change_tracking => ''window''', t.relation, rollup_engine.sealed_note(p_source))
        WHEN rollup_engine.lacking_columns(p_source, t.relation) IS NOT NULL
        THEN format('the new %s lacks %s: once it has that, the next run takes it up; or drop the rollups with silver.drop_rollup%s', t.relation, rollup_engine.lacking_columns(p_source, t.relation), rollup_engine.sealed_note(p_source))
        ELSE format('the next run takes up the new %s; or drop the rollups with silver.drop_rollup%s', t.relation, rollup_engine.sealed_note(p_source))
    END
    FROM (VALUES (1)) AS one LEFT JOIN LATERAL (SELECT * FROM rollup_engine.called_as(p_source) LIMIT 1) AS t (relation) ON true
$$;
COMMENT ON FUNCTION rollup_engine.gone_hint(rollup_engine.source) IS 'What to do about a source that was dropped.';

CREATE OR REPLACE FUNCTION rollup_engine.check_view(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT rollup_engine.is_relation(p_rollup.target_view) THEN
        PERFORM rollup_engine.fail('TR002', format('the live view of %s is gone', p_rollup.target_name),
            format('SELECT silver.rebuild_rollup(%L) makes it anew', p_rollup.target_table));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_view(silver.rollup_config) IS 'A clear error when somebody has dropped the live view of a rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.check_schema(p_relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_schema constant oid := (SELECT relnamespace FROM pg_class WHERE oid = p_relation);
BEGIN
    IF NOT has_schema_privilege('${owner_role}', v_schema, 'USAGE') THEN
        PERFORM rollup_engine.fail('TR004', format('%I may not use schema %s, where %s is', '${owner_role}', v_schema::regnamespace, p_relation),
            format('GRANT USAGE ON SCHEMA %s TO %I', v_schema::regnamespace, '${owner_role}'));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_schema(regclass) IS 'An error for a table, if it is there, that was moved to a schema which is closed to the machinery.';

CREATE OR REPLACE FUNCTION rollup_engine.fail_if_gone(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    IF NOT rollup_engine.is_relation(p_rollup.target_table) THEN
        PERFORM rollup_engine.fail('TR002', format('the table of %s is gone', p_rollup.target_name),
            format('SELECT silver.drop_rollup(%L) removes what is left; then create it anew', p_rollup.target_table));
    ELSIF rollup_engine.is_relation(p_rollup.source_table) THEN
        PERFORM rollup_engine.check_schema(t) FROM unnest(ARRAY[p_rollup.source_table, p_rollup.target_table]) AS t;
        RETURN;
    END IF;
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_rollup.source_id;
    IF p_rollup.parent_id IS NULL THEN
        PERFORM rollup_engine.fail('TR002', format('%s, which %s reads, was dropped', v_source.relation_name, p_rollup.target_name),
            rollup_engine.gone_hint(v_source));
    END IF;
    PERFORM rollup_engine.fail('TR002', format('%s, which %s reads, was dropped',
            (SELECT target_name FROM silver.rollup_config WHERE id = p_rollup.parent_id), p_rollup.target_name),
        'drop both rollups with silver.drop_rollup and create them anew');
END
$$;
COMMENT ON FUNCTION rollup_engine.fail_if_gone(silver.rollup_config) IS 'A clear error when the table of a rollup, or what it reads, was dropped, or moved out of reach.';

CREATE OR REPLACE FUNCTION rollup_engine.nobodys_number(p_relation regclass) RETURNS regclass
    LANGUAGE sql IMMUTABLE
RETURN greatest(p_relation::oid::bigint, 4294967295 - p_relation::oid::bigint)::oid::regclass;
COMMENT ON FUNCTION rollup_engine.nobodys_number(regclass) IS
'What stands for a table that was dropped: a dump keeps its number, and where it is restored, another table may have that.';

CREATE OR REPLACE FUNCTION rollup_engine.has_anothers_number(p_source rollup_engine.source) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What is there in a dump goes by its name, with its triggers, and has mostly a new number. What was dropped is the old number.
    SELECT p_source.relation::oid = p_source.relation_oid AND p_source.relation::text <> p_source.relation_name AND rollup_engine.is_numbered_anew(p_source.noted_in)
        AND NOT EXISTS (
            SELECT FROM pg_trigger WHERE tgrelid = p_source.relation AND tgfoid = to_regprocedure(format('rollup_engine.capture_%s()', p_source.id)))
$$;
COMMENT ON FUNCTION rollup_engine.has_anothers_number(rollup_engine.source) IS
'Whether a source was dropped before a dump of which this database is made, and another table has got its number.';

CREATE OR REPLACE FUNCTION rollup_engine.is_gone(p_source rollup_engine.source) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT rollup_engine.is_relation(p_source.relation) OR rollup_engine.has_anothers_number(p_source)
$$;
COMMENT ON FUNCTION rollup_engine.is_gone(rollup_engine.source) IS 'Whether a source was dropped, here or before a dump.';

CREATE OR REPLACE FUNCTION rollup_engine.table_in_its_place(p_source rollup_engine.source) RETURNS regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A table that lacks a column, or has another kind of time, is another table.
    SELECT c.oid
    FROM rollup_engine.called_as(p_source) WITH ORDINALITY AS n (relation, place)
    JOIN pg_class AS c ON c.oid = n.relation
    WHERE (c.relkind IN ('r', 'p') OR p_source.change_tracking = 'window')
        AND has_table_privilege('${owner_role}', c.oid, 'SELECT')
        AND rollup_engine.may_take_its_place(p_source, c.oid)
        AND rollup_engine.lacking_columns(p_source, c.oid) IS NULL
        AND NOT EXISTS (
            SELECT FROM rollup_engine.source AS s
            WHERE (s.relation, s.time_column, s.change_tracking) = (c.oid, p_source.time_column, p_source.change_tracking))
    ORDER BY n.place
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.table_in_its_place(rollup_engine.source) IS 'What the rollups of a source that was dropped can read instead: it has one of its names, and its columns; NULL for nothing.';

CREATE OR REPLACE FUNCTION rollup_engine.kept_as(p_source rollup_engine.source, p_name text, p_new regclass) RETURNS regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN p_new::text IN (p_name, p_source.relation_name) THEN p_new ELSE rollup_engine.nobodys_number(p_source.relation) END
$$;
COMMENT ON FUNCTION rollup_engine.kept_as(rollup_engine.source, text, regclass) IS
'Which table what was set for a source that was dropped, by a name, holds for: the new one if it has that name, or the last one.';

CREATE OR REPLACE FUNCTION rollup_engine.retention_call(p_name text, p_keep interval, p_archive boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    SELECT format('SELECT silver.set_retention(%L, %L%s)', p_name, p_keep, CASE WHEN p_archive THEN ', archive => true' END)
$$;
COMMENT ON FUNCTION rollup_engine.retention_call(text, interval, boolean) IS 'What to run, for a hint, that has a table kept for so long, and archived after that as it is now.';

CREATE OR REPLACE FUNCTION rollup_engine.move_settings(p_source rollup_engine.source, p_new regclass) RETURNS text
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    WITH kept AS (
        SELECT t.id, t.keep, t.archive, rollup_engine.kept_as(p_source, t.relation_name, p_new) AS place
        FROM rollup_engine.retention AS t WHERE t.relation IN (p_source.relation, rollup_engine.nobodys_number(p_source.relation))
    ), divided AS (
        SELECT t.relation, t.chunk_interval, rollup_engine.kept_as(p_source, t.relation_name, p_new) AS place
        FROM rollup_engine.partition_set AS t WHERE t.relation IN (p_source.relation, rollup_engine.nobodys_number(p_source.relation))
    ), moved_keeps AS (
        UPDATE rollup_engine.retention AS t SET relation = k.place FROM kept AS k
        WHERE t.id = k.id AND NOT EXISTS (SELECT FROM rollup_engine.retention AS n WHERE n.relation = k.place)
    ), moved_sets AS (
        UPDATE rollup_engine.partition_set AS t SET relation = d.place FROM divided AS d
        WHERE t.relation = d.relation AND (d.place <> p_new OR rollup_engine.partition_column(p_new) IS NOT NULL) IS NOT FALSE
            AND NOT EXISTS (SELECT FROM rollup_engine.partition_set AS n WHERE n.relation = d.place)
    )
    SELECT string_agg('; ' || said.how, '')
    FROM (
        SELECT 'it was kept for some time, this one is kept for ever, unless ' || rollup_engine.retention_call(p_new::text, keep, archive)
        FROM kept WHERE place <> p_new AND keep IS NOT NULL
        UNION ALL
        SELECT format('it got partitions by maintenance, this one gets none, unless SELECT silver.partition_source(%L, %L)', p_new, chunk_interval)
        FROM divided WHERE place <> p_new
    ) AS said (how)
$$;
COMMENT ON FUNCTION rollup_engine.move_settings(rollup_engine.source, regclass) IS
'Has the new table, if any, in place of a source that was dropped kept and divided as that was set; what does not go over, and how to set it, for a hint.';

CREATE OR REPLACE FUNCTION rollup_engine.relink_source(p_source_id integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
    v_new regclass;
    v_gone regclass;
    v_place regclass;
    v_free integer[];
    v_left text;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    IF NOT rollup_engine.is_gone(v_source) OR NOT rollup_engine.try_lock_source(p_source_id) THEN
        RETURN;
    ELSIF rollup_engine.is_relation(v_source.relation) AND v_source.change_tracking = 'window' THEN
        RETURN;  -- it may be that, renamed: it has no triggers to know it by
    END IF;
    v_new := rollup_engine.table_in_its_place(v_source);
    v_gone := rollup_engine.nobodys_number(v_source.relation);
    v_place := coalesce(v_new, v_gone);
    IF v_place = v_source.relation THEN
        RETURN;
    END IF;
    -- Who changes one of its rollups is not waited for: a later run does it.
    v_free := ARRAY(SELECT id FROM silver.rollup_config WHERE source_id = p_source_id AND parent_id IS NULL FOR UPDATE SKIP LOCKED);
    IF EXISTS (SELECT FROM silver.rollup_config WHERE source_id = p_source_id AND parent_id IS NULL AND id <> ALL (v_free)) THEN
        RETURN;
    END IF;
    -- What is said of the new table already holds.
    WITH noted AS (
        DELETE FROM silver.dimension_config WHERE source_table IN (v_source.relation, v_gone) RETURNING *
    )
    INSERT INTO silver.dimension_config (source_table, dimension_column, description, is_active, ltree_level)
    SELECT v_place, dimension_column, description, is_active, ltree_level FROM noted
    ON CONFLICT DO NOTHING;
    -- The names since then were those of the old table. Who has none of the former ones by now, and gets it later, is another one.
    UPDATE rollup_engine.source
    SET relation = v_place, relation_name = coalesce(v_new::text, relation_name),
        former_names = CASE WHEN v_new IS NULL THEN ARRAY(SELECT n FROM unnest(former_names) AS n WHERE n IN (SELECT t::text FROM rollup_engine.called_as(v_source) AS t))
            ELSE former_names[coalesce(array_position(former_names, v_new::text), 0) + 1:] END,
        inserts_by_row = CASE WHEN inserts_by_row AND v_new IS NOT NULL THEN rollup_engine.is_time_key(v_new, time_column, time_unit) ELSE inserts_by_row END WHERE id = p_source_id;
    v_left := rollup_engine.move_settings(v_source, v_new);
    UPDATE silver.rollup_config SET source_table = v_place WHERE source_id = p_source_id AND parent_id IS NULL;
    IF v_new IS NOT NULL THEN
        PERFORM rollup_engine.log_failure(r.target_table::text, ROW('TR002',
            format('%s was dropped: %s, which has a name that it had before, is read in its place', v_source.relation_name, v_new), NULL,
            format('if that is not meant, drop the rollups with silver.drop_rollup%s, and create them anew over another table', rollup_engine.sealed_note(v_source)) || coalesce(v_left, ''), NULL)::rollup_engine.failure)
        FROM silver.rollup_config AS r WHERE r.source_id = p_source_id AND r.parent_id IS NULL AND v_new::text <> v_source.relation_name;
        PERFORM rollup_engine.note_border(p_source_id, rollup_engine.before_all());  -- nothing of the new one was captured
        PERFORM rollup_engine.log_unseen(p_source_id) WHERE v_source.change_tracking = 'trigger';
        PERFORM rollup_engine.log_doubt(p_source_id, '-infinity', 'infinity');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.relink_source(integer) IS 'Takes up a source that was dropped and is there again under its name, with its columns; all of it is stale. Until then a number that no table has stands for it.';

RESET ROLE;
