-- Following a source whose columns changed: what a drain takes in by itself.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Types ---------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.is_same_value(p_from text, p_to text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_from = p_to OR p_from IN ('text', 'character varying') AND p_to IN ('text', 'character varying')
$$;
COMMENT ON FUNCTION rollup_engine.is_same_value(text, text) IS 'Whether every value of one type is the same value of the other.';

CREATE OR REPLACE FUNCTION rollup_engine.retyped_time(p_source_id integer) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('time column %I of %s was %s and is %s now', a.attname, s.relation, s.time_type, a.atttypid::regtype),
        format('change it back, or drop its rollups%s, and create them anew', rollup_engine.sealed_note(s))
    FROM rollup_engine.source AS s JOIN pg_attribute AS a ON a.attrelid = s.relation AND a.attname = s.time_column AND NOT a.attisdropped
    WHERE s.id = p_source_id AND rollup_engine.base_type(a.atttypid) <> s.time_type
$$;
COMMENT ON FUNCTION rollup_engine.retyped_time(integer) IS 'That the time column of a source is of a type that its rollups do not follow.';

CREATE OR REPLACE FUNCTION rollup_engine.taken_time(p_source rollup_engine.source) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%I of %s, the time of these rollups, is called %I now, and others go by that already', c.noted_name, p_source.relation, c.current_name),
        format('give the column another name; or drop these rollups%s, and create them anew by %I', rollup_engine.sealed_note(p_source), c.current_name)
    FROM rollup_engine.resolved_columns(p_source) AS c
    JOIN rollup_engine.source AS s ON (s.relation, s.time_column, s.change_tracking) = (p_source.relation, c.current_name, p_source.change_tracking) AND s.id <> p_source.id
    WHERE c.noted_name = p_source.time_column
$$;
COMMENT ON FUNCTION rollup_engine.taken_time(rollup_engine.source) IS 'That the time column of a source has the name now of one that other rollups of the table go by.';

CREATE OR REPLACE FUNCTION rollup_engine.outgrown(p_stored anyelement, p_message text, p_hint text) RETURNS anyelement
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.fail('TR004', p_message, p_hint);
    RETURN p_stored;
END
$$;
COMMENT ON FUNCTION rollup_engine.outgrown(anyelement, text, text) IS 'Stands where a rollup''s table cannot hold the source''s values: an error rather than a rounded value.';

CREATE OR REPLACE FUNCTION rollup_engine.fitted_expression(p_rollup silver.rollup_config, p_column rollup_engine.rollup_column, p_type text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN p_type = held.type THEN p_column.expression
        WHEN rollup_engine.is_same_value(p_type, held.type)
            -- An error where the value does not fit.
            OR p_type = ANY (whole.types) AND held.type = ANY (whole.types)
            OR p_column.data_type = 'bigint' AND p_column.state = 'sum' AND p_type = 'numeric' AND a.type = 'bigint'::regtype
        THEN format('(%s)::%s', p_column.expression, p_column.data_type)
        ELSE format('rollup_engine.outgrown(NULL::%s, %L, %L)', p_column.data_type,
            format('%s stores %I as %s, and its source has %s now', p_rollup.target_table, p_column.column_name, held.type, p_type),
            format('SELECT silver.rebuild_rollup(%L)', p_rollup.target_table))
    END
    FROM (VALUES ('{smallint,integer,bigint}'::text[])) AS whole (types)
    CROSS JOIN (VALUES (rollup_engine.held_type(p_column.state, p_column.data_type))) AS held (type)
    LEFT JOIN rollup_engine.row_columns(p_rollup.source_table, p_rollup.row_sql) AS a
        ON a.column_name = rollup_engine.source_name(p_rollup, p_column.source_column)
$$;
COMMENT ON FUNCTION rollup_engine.fitted_expression(silver.rollup_config, rollup_engine.rollup_column, text) IS
'The expression of a column whose type is another one now, cast to what the table stores where that loses nothing.';

CREATE OR REPLACE FUNCTION rollup_engine.plan_again(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE rollup_engine.rollup_column AS c
    SET expression = p.expression, outgrown_by = NULL,
        -- Where all of them are computed anew.
        state = CASE WHEN c.state LIKE 'hashes:%' AND NOT rollup_engine.keeps_rows(p_rollup) THEN p.state ELSE c.state END
    FROM rollup_engine.source AS s, rollup_engine.plan_columns(p_rollup, s.time_type) AS p
    WHERE s.id = p_rollup.source_id AND c.rollup_id = p_rollup.id AND c.column_name = p.column_name AND c.kind <> 'finished'
$$;
COMMENT ON FUNCTION rollup_engine.plan_again(silver.rollup_config) IS 'Writes the expressions over the source with the names and types that it has now.';

CREATE OR REPLACE FUNCTION rollup_engine.unmade_states(p_rollup silver.rollup_config) RETURNS TABLE (column_name name, source_column text, type text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.column_name, c.source_column, format_type(a.type, NULL)
    FROM rollup_engine.rollup_column AS c
    JOIN rollup_engine.row_columns(p_rollup.source_table, p_rollup.row_sql) AS a ON a.column_name = rollup_engine.source_name(p_rollup, c.source_column::name)
    WHERE c.rollup_id = p_rollup.id AND c.kind = 'state' AND p_rollup.parent_id IS NULL
        AND c.column_name NOT IN (
            SELECT p.column_name FROM rollup_engine.plan_columns(p_rollup, (SELECT time_type FROM rollup_engine.source WHERE id = p_rollup.source_id)) AS p)
$$;
COMMENT ON FUNCTION rollup_engine.unmade_states(silver.rollup_config) IS 'What a rollup of raw rows stores of columns whose type of now its aggregates do not take, or take in another way.';

-- What a drain takes in ---------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.follow_columns(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
BEGIN
    PERFORM rollup_engine.plan_again(p_rollup);
    UPDATE rollup_engine.rollup_column AS c
    SET expression = rollup_engine.fitted_expression(p_rollup, c, h.type),
        outgrown_by = CASE WHEN NOT rollup_engine.is_same_value(h.type, rollup_engine.held_type(c.state, c.data_type)) THEN h.type END
    FROM rollup_engine.column_types(p_rollup) AS t
    JOIN rollup_engine.plan_columns(p_rollup, (SELECT time_type FROM rollup_engine.source WHERE id = p_rollup.source_id)) AS p USING (column_name)
    CROSS JOIN LATERAL rollup_engine.held_type(p.state, t.data_type) AS h (type)
    WHERE c.rollup_id = p_rollup.id AND c.column_name = t.column_name AND h.type <> rollup_engine.held_type(c.state, c.data_type);
    UPDATE rollup_engine.rollup_column AS c
    SET expression = rollup_engine.fitted_expression(p_rollup, c, u.type), outgrown_by = u.type
    FROM rollup_engine.unmade_states(p_rollup) AS u WHERE c.rollup_id = p_rollup.id AND c.column_name = u.column_name;
    PERFORM rollup_engine.write_live_functions(p_rollup);
    UPDATE silver.rollup_config
    SET time_column = p_rollup.time_column, refresh_sql = rollup_engine.grouped_sql(p_rollup, p_rollup.source_table::text, '$1', '$2'), missed_changes = false
    WHERE id = p_rollup.id;
EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
    -- A column is gone, or an aggregate does not take it any more: validate_rollup_config says so. In a schema that is
    -- closed nothing can be written: once more when it is open again.
    UPDATE silver.rollup_config SET missed_changes = rollup_engine.is_in_reach(target_table) IS NOT TRUE WHERE id = p_rollup.id;
END
$$;
COMMENT ON FUNCTION rollup_engine.follow_columns(silver.rollup_config) IS 'Has a rollup read the columns of its source as they are called and typed now.';

CREATE OR REPLACE FUNCTION rollup_engine.follow_rows(p_rollup silver.rollup_config) RETURNS silver.rollup_config
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r silver.rollup_config := p_rollup;
BEGIN
    IF r.row_sql IS NOT NULL THEN
        r.row_sql := rollup_engine.describe_rows_again(r);
        PERFORM rollup_engine.note_rows(r);
        UPDATE silver.rollup_config SET row_sql = r.row_sql WHERE id = r.id;
    END IF;
    RETURN r;
END
$$;
COMMENT ON FUNCTION rollup_engine.follow_rows(silver.rollup_config) IS 'Has the expressions and the filter of a rollup take what its source has now.';

CREATE OR REPLACE FUNCTION rollup_engine.follow_source(p_source rollup_engine.source) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source := p_source;
    v_shapes rollup_engine.source_shape[];
    v_other_parts name[];
    v_rollup silver.rollup_config;
    -- Of several names for one column, the first: they stay together.
    v_key constant name := (SELECT min(column_name) FROM rollup_engine.source_column WHERE source_id = p_source.id AND current_name = p_source.key_column);
BEGIN
    PERFORM rollup_engine.fail('TR003', t.problem, t.hint) FROM rollup_engine.taken_time(p_source) AS t;
    SELECT coalesce(max(current_name), v_source.time_column) INTO v_source.time_column
    FROM rollup_engine.resolved_columns(p_source) WHERE noted_name = p_source.time_column;
    UPDATE rollup_engine.source_column AS c SET current_name = r.current_name
    FROM rollup_engine.resolved_columns(p_source) AS r
    WHERE c.source_id = p_source.id AND c.column_name = r.column_name AND r.current_name IS NOT NULL;
    -- A column of numbers may have become one of others.
    SELECT b.type INTO v_source.time_type
    FROM pg_attribute AS a CROSS JOIN LATERAL rollup_engine.base_type(a.atttypid) AS b (type)
    WHERE a.attrelid = v_source.relation AND a.attname = v_source.time_column AND v_source.time_unit IS NOT NULL AND rollup_engine.is_number_type(b.type);
    v_source.time_type := coalesce(v_source.time_type, p_source.time_type);
    -- Bounds of partitions are those of the time column.
    UPDATE rollup_engine.source SET time_column = v_source.time_column, time_type = v_source.time_type, partitioning = NULL WHERE id = p_source.id;
    v_shapes := ARRAY(SELECT s FROM rollup_engine.current_shape(v_source) AS s);
    v_other_parts := ARRAY(
        SELECT c.column_name
        FROM rollup_engine.source_column AS c
        JOIN rollup_engine.source_shape AS n ON n.source_id = c.source_id AND n.member = v_source.relation_oid
        JOIN unnest(v_shapes) AS s ON s.member = v_source.relation
        JOIN pg_attribute AS a ON a.attrelid = v_source.relation AND a.attname = c.current_name
        WHERE c.source_id = p_source.id AND n.columns -> c.current_name <> s.columns -> c.current_name
            AND rollup_engine.type_parts(a.atttypid) IS NOT NULL);
    PERFORM rollup_engine.record_conversions(v_source);
    PERFORM rollup_engine.note_shape(p_source.id, v_shapes);
    PERFORM rollup_engine.use_key(p_source.id, CASE
        -- No rollup has it just now: the next one finds it by its name.
        WHEN v_key IS NULL AND rollup_engine.can_be_key(v_source.relation, p_source.key_column) THEN p_source.key_column
        ELSE (
            SELECT current_name FROM rollup_engine.source_column AS c
            WHERE c.source_id = p_source.id AND c.column_name = v_key AND rollup_engine.can_be_key(v_source.relation, c.current_name)
                -- Keys on record are of the kind that the tables have.
                AND rollup_engine.key_type(v_source.relation, c.current_name) = ALL (
                    SELECT rollup_engine.key_type(r.target_table, r.key_dimension) FROM silver.rollup_config AS r
                    WHERE r.source_id = p_source.id AND r.parent_id IS NULL AND r.key_dimension IS NOT NULL))
    END);
    -- A type may be called otherwise.
    UPDATE rollup_engine.rollup_column AS c SET data_type = t.data_type
    FROM silver.rollup_config AS r, rollup_engine.relation_types(r.target_table) AS t
    WHERE r.source_id = p_source.id AND c.rollup_id = r.id AND c.column_name = t.column_name AND c.data_type <> t.data_type;
    FOR v_rollup IN SELECT * FROM silver.rollup_config WHERE source_id = p_source.id ORDER BY depth, id LOOP
        v_rollup.time_column := CASE v_rollup.depth WHEN 0 THEN v_source.time_column ELSE v_rollup.time_column END;
        v_rollup := rollup_engine.follow_rows(v_rollup);
        PERFORM rollup_engine.follow_columns(v_rollup);
        PERFORM rollup_engine.unite_keys(v_rollup) WHERE rollup_engine.columns_behind(v_rollup.row_sql, v_rollup.dimensions) || v_rollup.dimensions && v_other_parts;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.follow_source(rollup_engine.source) IS 'Notes the shape of a source and has its rollups follow.';

CREATE OR REPLACE FUNCTION rollup_engine.rename_logs(p_source_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
BEGIN
    FOR v_rollup IN
        SELECT c.* FROM silver.rollup_config AS c
        WHERE c.source_id = p_source_id AND c.target_name <> c.target_table::text AND rollup_engine.is_relation(c.target_table)
    LOOP
        UPDATE silver.refresh_log SET target_table = v_rollup.target_table::text WHERE target_table = v_rollup.target_name;
        UPDATE silver.error_log SET target_table = v_rollup.target_table::text WHERE target_table = v_rollup.target_name;
        UPDATE silver.rollup_config SET target_name = v_rollup.target_table::text WHERE id = v_rollup.id;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.rename_logs(integer) IS 'Has the logs of a rollup whose table was renamed or moved go by its new name.';

CREATE OR REPLACE FUNCTION rollup_engine.let_owners_clone(p_source rollup_engine.source) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_capture constant regprocedure := to_regprocedure(format('rollup_engine.capture_%s()', p_source.id));
    v_owners constant oid[] := ARRAY(
        SELECT DISTINCT c.relowner
        FROM rollup_engine.source_family(p_source.relation) AS f (member) JOIN pg_class AS c ON c.oid = f.member);
    v_statement text;
BEGIN
    -- Whoever makes a partition clones the row triggers of its parent, and is asked for a right to their
    -- function. Others would put it on tables of theirs: it runs as the owner role.
    FOR v_statement IN
        SELECT format('GRANT EXECUTE ON FUNCTION %s TO %s', v_capture, o::regrole)
        FROM unnest(v_owners) AS o
        -- A right of his own: what he has as a member or a superuser, he may lose unseen.
        WHERE v_capture IS NOT NULL AND o NOT IN (
            SELECT p.proowner FROM pg_proc AS p WHERE p.oid = v_capture
            UNION ALL
            SELECT a.grantee FROM pg_proc AS p, aclexplode(p.proacl) AS a WHERE p.oid = v_capture)
        UNION ALL
        SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM %s CASCADE', v_capture, a.grantee::regrole)
        FROM pg_proc AS p, aclexplode(p.proacl) AS a
        WHERE p.oid = v_capture AND a.grantee NOT IN (0, p.proowner) AND a.grantee <> ALL (v_owners)
    LOOP
        EXECUTE v_statement;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.let_owners_clone(rollup_engine.source) IS 'Lets the owners of a source, and of the tables above and below it, make partitions that have its capture triggers.';

CREATE OR REPLACE FUNCTION rollup_engine.absorb_shape(p_source_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
    v_trace text;
    v_shapes rollup_engine.source_shape[];
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    IF rollup_engine.is_gone(v_source) THEN
        PERFORM rollup_engine.fail('TR002', format('%s was dropped', v_source.relation_name), rollup_engine.gone_hint(v_source));
    END IF;
    -- What came may go again, and leave the catalogue as it was noted.
    DELETE FROM rollup_engine.quiet_source WHERE source_id = p_source_id;
    PERFORM rollup_engine.rename_logs(p_source_id);
    PERFORM rollup_engine.note_name(p_source_id);
    PERFORM rollup_engine.take_in_left_out(v_source);
    -- What a restore has brought to the log is for the next drain to tell, whoever looks first: a border that is not of here stays until then.
    INSERT INTO rollup_engine.log_border (source_id, writer, noted_by)
    SELECT p_source_id, rollup_engine.before_all(), '0' WHERE rollup_engine.is_restored(v_source)
    ON CONFLICT DO NOTHING;
    v_trace := rollup_engine.shape_trace(v_source);
    IF v_trace = v_source.trace THEN
        RETURN;
    END IF;
    PERFORM rollup_engine.let_owners_clone(v_source);
    -- Compared and noted from one look: what changes after it is found by the next.
    v_shapes := ARRAY(SELECT s FROM rollup_engine.current_shape(v_source) AS s);
    IF EXISTS (SELECT FROM rollup_engine.shape_changes(v_source, v_shapes)) THEN
        PERFORM rollup_engine.log_unseen(p_source_id) WHERE rollup_engine.is_noted_here(v_source) AND EXISTS (
            SELECT FROM unnest(v_shapes) AS s JOIN rollup_engine.source_shape AS n USING (source_id, member)
            WHERE rollup_engine.are_triggers_changed(v_source, n.triggers, s.triggers));
        PERFORM rollup_engine.follow_source(v_source);
        PERFORM rollup_engine.log_doubt(p_source_id, '-infinity', 'infinity');
    ELSE
        PERFORM rollup_engine.note_shape(p_source_id, v_shapes);
        -- Its rollups may be gone, so that nobody looks at it; another column may be in its way, or a table above that lacks it.
        PERFORM rollup_engine.use_key(p_source_id, CASE WHEN rollup_engine.can_be_key(v_source.relation, v_source.key_column) THEN v_source.key_column END)
        WHERE v_source.key_column IS NOT NULL;
    END IF;
    UPDATE rollup_engine.source
    SET trace = CASE WHEN NOT EXISTS (SELECT FROM silver.rollup_config WHERE source_id = p_source_id AND missed_changes) THEN v_trace END
    WHERE id = p_source_id;
END
$$;
COMMENT ON FUNCTION rollup_engine.absorb_shape(integer) IS
'Takes in what DDL has changed of a source since it was last called: all of its data is logged as changed. Called with the source locked.';

CREATE OR REPLACE FUNCTION rollup_engine.look_at_source(p_source_id integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(rollup_engine.source_lock_key(p_source_id));
    PERFORM rollup_engine.absorb_shape(p_source_id);
END
$$;
COMMENT ON FUNCTION rollup_engine.look_at_source(integer) IS 'Keeps drains out until the end of the transaction, and takes in what DDL has changed.';

CREATE OR REPLACE FUNCTION rollup_engine.has_changed(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_rollup.source_id AND p_rollup.parent_id IS NULL;
    -- What joins or leaves has its columns written anew: one tells. Of the source itself, all that are read.
    RETURN FOUND AND EXISTS (
        SELECT FROM (SELECT t.member::oid AS member FROM rollup_engine.partition_tree(v_source.relation) AS t (member)) AS m
        FULL JOIN (SELECT n.member, n.attributes FROM rollup_engine.source_shape AS n WHERE n.source_id = v_source.id) AS n USING (member)
        LEFT JOIN rollup_engine.source_column AS c ON c.source_id = v_source.id AND (c.current_name = v_source.time_column OR member = v_source.relation)
        LEFT JOIN pg_attribute AS a ON a.attrelid = m.member AND a.attname = c.current_name
        WHERE a.xmin::text IS DISTINCT FROM split_part(n.attributes ->> c.current_name, '(', 1)
            -- What was dropped, or came with a dump of another database, does not come back. Asked of few.
            AND (m.member IS NOT NULL OR rollup_engine.is_relation(n.member)));
END
$$;
COMMENT ON FUNCTION rollup_engine.has_changed(silver.rollup_config) IS 'Whether the source of a rollup of raw rows has other columns or partitions than the last drain noted.';

CREATE OR REPLACE FUNCTION rollup_engine.fail_if_changed(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.has_changed(p_rollup) THEN
        RAISE SQLSTATE 'TR900' USING MESSAGE = format('%s was altered since the last drain', (SELECT relation FROM rollup_engine.source WHERE id = p_rollup.source_id));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.fail_if_changed(silver.rollup_config) IS
'Fails where a source has other columns or partitions than the last drain noted: the next one takes them in, but not what was there only while a batch read by it.';

RESET ROLE;
