-- Rebuilding a rollup whose table can no longer hold what its source says, or whose live view is gone.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.check_same_states(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_columns text;
BEGIN
    SELECT string_agg(DISTINCT quote_ident(m.source_column), ', ') INTO v_columns
    FROM rollup_engine.metric_aggregates(p_rollup) AS m CROSS JOIN LATERAL unnest((m.aggregate).states) AS u (state)
    WHERE NOT EXISTS (
        SELECT FROM rollup_engine.rollup_column AS c
        WHERE c.rollup_id = p_rollup.id AND c.kind = 'state' AND c.source_column = m.source_column
            AND rollup_engine.state_label(c.state) = rollup_engine.state_label(u.state));
    IF v_columns IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('metrics of column %s of %s are made in another way for the type that it has now', v_columns, p_rollup.target_table),
            format('SELECT silver.drop_rollup_metric(%L, ...) for its variances, here and in what reads it; rebuild, and add them again', p_rollup.target_table));
    END IF;
    SELECT string_agg(DISTINCT format('%I as %s', source_column, type), ', ') INTO v_columns FROM rollup_engine.unmade_states(p_rollup);
    IF v_columns IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('metrics of %s are not made of %s', p_rollup.target_table, v_columns),
            format('give %s the type that it had; or SELECT silver.drop_rollup_metric(%L, ...) for them, here and in what reads it, and rebuild',
                p_rollup.source_table, p_rollup.target_table));
    END IF;
    SELECT string_agg(DISTINCT quote_ident(c.source_column), ', ') INTO v_columns
    FROM rollup_engine.rollup_column AS c JOIN rollup_engine.plan_columns(p_rollup, 'timestamptz') AS p USING (column_name)
    WHERE c.rollup_id = p_rollup.id AND c.state LIKE 'hashes:%' AND c.state <> p.state AND rollup_engine.keeps_rows(p_rollup);
    IF v_columns IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('sealed buckets of %s tell distinct values of %s apart by the texts of another type', p_rollup.target_table, v_columns),
            format('give %s the type that it had; or SELECT silver.drop_rollup_metric(%L, ...) for distinct, here and in what reads it; rebuild, and add it again: what is sealed has none then',
                p_rollup.source_table, p_rollup.target_table));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_same_states(silver.rollup_config) IS 'An error where an aggregate needs other states for the type that a column has now than the rollup holds, or sealed rows keep.';

CREATE OR REPLACE FUNCTION rollup_engine.forget_rows(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT isempty(rollup_engine.told_by_source(p_rollup.source_id)) THEN
        -- At once the lock that the change of types takes: none is made stronger while others wait.
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', p_rollup.target_table);
        PERFORM rollup_engine.set_refreshing(true);
        EXECUTE format('DELETE FROM %s WHERE bucket >= $1', p_rollup.target_table) USING coalesce(p_rollup.sealed_before, '-infinity');
        PERFORM rollup_engine.set_refreshing(false);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.forget_rows(silver.rollup_config) IS 'Deletes the stored rows that are to be computed anew anyway, and need fit no new type.';

CREATE OR REPLACE FUNCTION rollup_engine.stored_modes_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('SELECT sum(n) FROM (%s) AS others (n)', string_agg(format(
        'SELECT count(*) FILTER (WHERE value::%s::%s::text <> value) FROM (SELECT DISTINCT jsonb_object_keys(%I -> 0) FROM %s) AS stored (value)',
        rollup_engine.held_type(c.state, NULL), rollup_engine.held_type(p.state, NULL), c.column_name, p_rollup.target_table), ' UNION ALL '))
    FROM rollup_engine.rollup_column AS c
    JOIN rollup_engine.plan_columns(p_rollup, 'timestamptz') AS p USING (column_name)
    WHERE c.rollup_id = p_rollup.id AND c.state LIKE 'tally:%' AND c.state <> p.state AND EXISTS (
        SELECT FROM rollup_engine.rollup_column AS m
        WHERE m.rollup_id IN (SELECT rollup_engine.with_descendants(p_rollup.id)) AND m.source_column = c.source_column AND m.state = 'mode')
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION rollup_engine.stored_modes_sql(silver.rollup_config) IS
'Query for how many texts among the stored values that have a mode are others as values of the type that they have now; NULL where their types are as they were.';

CREATE OR REPLACE FUNCTION rollup_engine.warn_of_conversion(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_columns constant text := (
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
        FROM pg_attribute AS a
        JOIN rollup_engine.rollup_column AS c ON c.rollup_id = p_rollup.id AND c.column_name = a.attname AND c.kind IN ('dimension', 'state')
        CROSS JOIN LATERAL rollup_engine.base_type(rollup_engine.type_called(c.data_type)) AS n (type)
        WHERE a.attrelid = p_rollup.target_table AND a.atttypid <> n.type AND NOT EXISTS (
            SELECT FROM pg_cast AS k LEFT JOIN pg_proc AS f ON f.oid = k.castfunc
            WHERE k.castsource = a.atttypid AND k.casttarget = n.type AND (k.castmethod = 'b' OR f.provolatile = 'i')));
BEGIN
    IF rollup_engine.keeps_rows(p_rollup) AND v_columns IS NOT NULL THEN
        RAISE WARNING 'sealed values of % in % are converted by the settings that PostgreSQL comes with, and as times of UTC', v_columns, p_rollup.target_table
            USING HINT = format('those of %s were converted by the settings of a session: where these were others (time zone, DateStyle), or by USING, sealed values may be other ones',
                p_rollup.source_table);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.warn_of_conversion(silver.rollup_config) IS 'Warns where a rebuild has to convert sealed values by settings, and nobody knows by which the source has.';

CREATE OR REPLACE FUNCTION rollup_engine.rebuild_one(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_is_gone constant boolean := NOT rollup_engine.is_relation(p_rollup.target_view);
    r silver.rollup_config := p_rollup;
    v_view regclass;
    v_changes text;
    v_modes text;
    v_others bigint;
BEGIN
    PERFORM rollup_engine.fail_if_gone(p_rollup);
    PERFORM rollup_engine.lock_views(ARRAY(SELECT rollup_engine.with_descendants(p_rollup.id)));  -- those of whoever comes next, too
    r.row_sql := rollup_engine.describe_rows(r);
    PERFORM rollup_engine.check_same_states(r);
    PERFORM rollup_engine.plan_again(r);
    WITH changed AS (
        UPDATE rollup_engine.rollup_column AS c SET data_type = t.data_type
        FROM rollup_engine.column_types(r) AS t
        WHERE c.rollup_id = r.id AND c.column_name = t.column_name AND t.data_type <> c.data_type
        RETURNING c.position, c.column_name, c.data_type
    )
    SELECT string_agg(format('ALTER COLUMN %I TYPE %s USING %s::%2$s', c.column_name, c.data_type,
        CASE WHEN NOT rollup_engine.keeps_rows(r) THEN 'NULL'  -- of no row
            WHEN t.is_enum THEN format('%I::text', c.column_name)  -- no enum is cast to another one
            ELSE quote_ident(c.column_name) END), ', ' ORDER BY c.position)
    INTO v_changes
    FROM changed AS c JOIN pg_attribute AS a ON a.attrelid = r.target_table AND a.attname = c.column_name
    CROSS JOIN LATERAL (
        SELECT count(*) = 2 FROM pg_type WHERE typtype = 'e' AND oid IN (a.atttypid, rollup_engine.type_called(c.data_type))
    ) AS t (is_enum);
    v_modes := rollup_engine.stored_modes_sql(r);
    IF v_changes IS NOT NULL OR v_modes IS NOT NULL THEN
        PERFORM rollup_engine.check_types(r);
        PERFORM rollup_engine.forget_rows(r);
        EXECUTE coalesce(v_modes, 'SELECT') INTO v_others;
        IF v_others > 0 THEN
            RAISE data_exception USING MESSAGE = 'values that have a mode have other texts now';
        END IF;
        PERFORM rollup_engine.warn_of_conversion(r);
    END IF;
    UPDATE rollup_engine.rollup_column AS c
    SET state = p.state, expression = CASE c.kind WHEN 'finished' THEN rollup_engine.finish_expression(c.rollup_id, c.source_column, p.expression) ELSE c.expression END
    FROM rollup_engine.plan_columns(r, 'timestamptz') AS p
    WHERE c.rollup_id = r.id AND c.column_name = p.column_name;
    v_view := CASE WHEN v_is_gone THEN rollup_engine.restore_view(r, v_changes) ELSE rollup_engine.rebuild_view(r, v_changes) END;
    PERFORM rollup_engine.note_rows(r);
    UPDATE silver.rollup_config
    SET target_view = v_view, row_sql = r.row_sql, refresh_sql = rollup_engine.grouped_sql(r, r.source_table::text, '$1', '$2')
    WHERE id = r.id;
EXCEPTION WHEN cannot_coerce OR undefined_function OR undefined_column OR datatype_mismatch THEN
    PERFORM rollup_engine.fail('TR004', format('%s cannot be rebuilt: %s', p_rollup.target_table, SQLERRM),
        format('give %1$s the columns and types that it had; or SELECT silver.drop_rollup_metric(%2$L, ...) for metrics of others, here and in what reads it; or SELECT silver.drop_rollup(%2$L)%3$s, and create it anew',
            p_rollup.source_table, p_rollup.target_table, (SELECT rollup_engine.sealed_note(s) FROM rollup_engine.source AS s WHERE s.id = p_rollup.source_id)));
WHEN data_exception OR unique_violation OR feature_not_supported THEN
    PERFORM rollup_engine.fail('TR004', format('%s cannot be rebuilt: %s', p_rollup.target_table, SQLERRM),
        format('rows that cannot be computed anew stay as they are: give %s the type that it had, or that type what it lacks (ALTER TYPE ... ADD VALUE); or SELECT silver.drop_rollup_metric(%L, ...) for metrics of it, here and in what reads it, and rebuild',
            p_rollup.source_table, p_rollup.target_table));
END
$$;
COMMENT ON FUNCTION rollup_engine.rebuild_one(silver.rollup_config) IS 'Gives the table and the live view of a rollup the types that its source has now. Stored rows that cannot be computed anew are converted.';

CREATE OR REPLACE FUNCTION rollup_engine.rebuild_with_descendants(p_target text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source_id integer;
    v_ids integer[];
    v_rollup silver.rollup_config;
BEGIN
    PERFORM rollup_engine.check_isolation();
    v_ids := ARRAY(SELECT rollup_engine.with_descendants(rollup_engine.rollup_id(p_target)));
    PERFORM rollup_engine.check_owner_role('rebuild rollups');
    SELECT source_id INTO v_source_id FROM silver.rollup_config WHERE id = v_ids[1];
    PERFORM rollup_engine.relink_source(v_source_id);
    PERFORM rollup_engine.look_at_source(v_source_id);
    PERFORM rollup_engine.fail('TR004', t.problem, t.hint) FROM rollup_engine.retyped_time(v_source_id) AS t;
    PERFORM rollup_engine.watch_new_partitions(v_source_id);
    FOR v_rollup IN SELECT * FROM silver.rollup_config WHERE id = ANY (v_ids) ORDER BY depth, id LOOP
        PERFORM rollup_engine.rebuild_one(v_rollup);
        PERFORM silver.reset_rollup_retry(v_rollup.target_table::text);  -- it failed for what is mended
    END LOOP;
    PERFORM rollup_engine.mark_new(id, rollup_engine.told_by_source(v_source_id)) FROM unnest(v_ids) AS id;
END
$$;
COMMENT ON FUNCTION rollup_engine.rebuild_with_descendants(text) IS 'What rebuild_rollup does.';

RESET ROLE;
