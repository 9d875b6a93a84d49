-- The pieces of a new rollup, made as the owner role: its source, table, view and record.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

DROP FUNCTION IF EXISTS rollup_engine.register_source(regclass, name, text, interval);
CREATE OR REPLACE FUNCTION rollup_engine.register_source(p_relation regclass, p_time_column name, p_time_unit text, p_change_tracking text, p_width interval)
RETURNS rollup_engine.source
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    -- Before its row, as whoever changes another rollup of it does.
    PERFORM pg_advisory_xact_lock(rollup_engine.source_lock_key(id)) FROM rollup_engine.source
    WHERE relation = p_relation AND time_column = p_time_column AND change_tracking = p_change_tracking;
    -- One whose time is called so by now.
    PERFORM rollup_engine.look_at_source(s.id)
    FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.resolved_columns(s) AS c
    WHERE s.relation = p_relation AND s.change_tracking = p_change_tracking AND c.noted_name = s.time_column AND c.current_name = p_time_column
        AND s.time_column <> p_time_column AND NOT EXISTS (SELECT FROM rollup_engine.taken_time(s));
    INSERT INTO rollup_engine.source AS s (relation, relation_oid, relation_name, owner_name, time_column, time_type, time_unit, change_tracking, grain)
    SELECT p_relation, p_relation, p_relation::text, pg_get_userbyid(c.relowner), p_time_column, rollup_engine.base_type(a.atttypid), p_time_unit, p_change_tracking,
        CASE WHEN rollup_engine.is_month_width(p_width) THEN '1 day' ELSE least(p_width, '1 day') END
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid WHERE c.oid = p_relation AND a.attname = p_time_column
    ON CONFLICT (relation, time_column, change_tracking) DO UPDATE SET grain = least(s.grain, excluded.grain)
    RETURNING * INTO v_source;
    IF v_source.time_unit <> p_time_unit THEN  -- by one that was made meanwhile
        PERFORM rollup_engine.fail('TR001', format('time_unit %L: other rollups read %I of %s as %s', p_time_unit, p_time_column, p_relation, v_source.time_unit),
            'a column has one unit; drop the others first if that was wrong');
    END IF;
    PERFORM rollup_engine.use_unit(p_relation, p_time_column, p_time_unit);
    -- Drains wait outside: the log must not move on before they know of the new rollup.
    PERFORM pg_advisory_xact_lock(rollup_engine.source_lock_key(v_source.id));
    IF p_change_tracking = 'trigger' THEN
        PERFORM rollup_engine.write_missing_tails();
        INSERT INTO rollup_engine.tail (source_id) VALUES (v_source.id) ON CONFLICT DO NOTHING;
        PERFORM rollup_engine.write_capture(v_source);
    END IF;
    PERFORM rollup_engine.remember_partitions(v_source);
    PERFORM rollup_engine.absorb_shape(v_source.id);
    PERFORM rollup_engine.use_column(v_source, p_time_column);
    RETURN v_source;
END
$$;
COMMENT ON FUNCTION rollup_engine.register_source(regclass, name, text, text, interval) IS 'The tracked source, made or given a finer grain; keeps drains out until the end of the transaction.';

CREATE OR REPLACE FUNCTION rollup_engine.create_storage(p_rollup silver.rollup_config, p_table text) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config := p_rollup;
    v_index text;
BEGIN
    EXECUTE format('CREATE TABLE %s (%s) PARTITION BY RANGE (bucket)', p_table, (
        SELECT string_agg(format('%I %s%s', column_name, data_type, CASE WHEN kind = 'bucket' THEN ' NOT NULL' ELSE '' END), ', ' ORDER BY position)
        FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND kind IN ('bucket', 'dimension', 'state')));
    EXECUTE format('CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT', p_table, rollup_engine.column_names(p_rollup.id, '{bucket,dimension}'));
    EXECUTE format('COMMENT ON TABLE %s IS %L', p_table, 'Partial states of a rollup; read its live view in gold instead.');
    v_rollup.target_table := p_table::regclass;
    FOR v_index IN SELECT rollup_engine.extra_indexes_sql(v_rollup) LOOP
        EXECUTE v_index;
    END LOOP;
    PERFORM rollup_engine.follow_distribution(p_rollup, v_rollup.target_table);
    PERFORM rollup_engine.guard_table(v_rollup.target_table);
    RETURN v_rollup.target_table;
END
$$;
COMMENT ON FUNCTION rollup_engine.create_storage(silver.rollup_config, text) IS 'Creates the partitioned table of a rollup, unique by bucket and dimensions.';

CREATE OR REPLACE FUNCTION rollup_engine.view_comment(p_table text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('Live view of %s: equals the GROUP BY over its source at any time.', p_table)
$$;
COMMENT ON FUNCTION rollup_engine.view_comment(text) IS 'What is said of the live view of a new rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.create_view(p_rollup silver.rollup_config, p_view text) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_is_new constant boolean := to_regclass(p_view) IS NULL;
BEGIN
    PERFORM rollup_engine.write_live_functions(p_rollup);
    PERFORM rollup_engine.write_generated(format('view_%s', p_rollup.id), rollup_engine.live_view_sql(p_rollup, p_view));
    PERFORM rollup_engine.note_indexes(p_rollup.source_id);
    IF v_is_new THEN  -- then they are its owner's to change
        EXECUTE format('COMMENT ON VIEW %s IS %L', p_view, rollup_engine.view_comment(p_rollup.target_table::text));
        EXECUTE format('GRANT SELECT ON %s TO "${reader_role}"', p_view);
        EXECUTE format('GRANT ALL ON %s TO "${owner_role}" WITH GRANT OPTION', p_view);  -- as mark_objects does
    END IF;
    RETURN p_view::regclass;
END
$$;
COMMENT ON FUNCTION rollup_engine.create_view(silver.rollup_config, text) IS 'Creates or extends the live view and the function it reads stale buckets with.';

CREATE OR REPLACE FUNCTION rollup_engine.register_rollup(p_rollup silver.rollup_config, p_table text, p_view text) RETURNS silver.rollup_config
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_rollup silver.rollup_config := p_rollup;
BEGIN
    v_rollup.id := nextval(pg_get_serial_sequence('silver.rollup_config', 'id'));
    PERFORM rollup_engine.record_columns(v_rollup);
    v_rollup.target_table := rollup_engine.create_storage(v_rollup, p_table);
    v_rollup.target_view := rollup_engine.create_view(v_rollup, p_view);
    v_rollup.sealed_before := rollup_engine.inherited_seal(v_rollup);
    v_rollup.refresh_sql := rollup_engine.grouped_sql(v_rollup, v_rollup.source_table::text, '$1', '$2');
    INSERT INTO silver.rollup_config (
        id, target_table, target_view, target_name, source_table, source_id, parent_id, depth, time_column, bucket_width, dimensions, metrics,
        chunk_interval, cell_width, settle_delay, processing_window, target_batch_duration, change_tracking, look_back_window,
        retention, current_window, refresh_sql, sealed_before, source_rows, timezone, origin, time_unit, expressions, filter, row_sql)
    OVERRIDING SYSTEM VALUE
    SELECT r.id, r.target_table, r.target_view, r.target_table::text, r.source_table, r.source_id, r.parent_id, r.depth, r.time_column, r.bucket_width,
        r.dimensions, r.metrics, r.chunk_interval, r.cell_width, r.settle_delay, r.processing_window, r.target_batch_duration,
        r.change_tracking, r.look_back_window, r.retention, r.current_window, r.refresh_sql, r.sealed_before, r.source_rows,
        r.timezone, r.origin, r.time_unit, r.expressions, r.filter, r.row_sql
    FROM (SELECT v_rollup.*) AS r;
    PERFORM rollup_engine.note_uneven_time(v_rollup);
    PERFORM rollup_engine.note_ltree_levels(v_rollup);
    PERFORM rollup_engine.find_key(v_rollup.source_id, rollup_engine.named_key(v_rollup));
    -- Its view reads groups, by functions that those it reads may not have yet.
    PERFORM rollup_engine.write_live_functions(r) FROM silver.rollup_config AS r WHERE r.id IN (SELECT rollup_engine.with_ancestors(v_rollup.id)) AND r.key_dimension IS NOT NULL;
    PERFORM rollup_engine.create_view(r, p_view) FROM silver.rollup_config AS r WHERE r.id = v_rollup.id AND r.key_dimension IS NOT NULL;
    PERFORM rollup_engine.premake_rollup_partitions(
        rollup_engine.register_partition_set(v_rollup.target_table, 'bucket', v_rollup.chunk_interval, false));
    -- Whoever sees the table sees these: they came with it.
    UPDATE rollup_engine.rollup_partition SET generation = 1 WHERE rollup_id = v_rollup.id;
    RETURN v_rollup;
END
$$;
COMMENT ON FUNCTION rollup_engine.register_rollup(silver.rollup_config, text, text) IS 'Creates table, live view and configuration of a described rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.check_row_security(p_source regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = p_source) THEN
        PERFORM rollup_engine.fail('TR004', format('%s has row level security', p_source),
            'a rollup shows everyone the sum of all rows: disable its policies, or roll up a table that has none');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_row_security(regclass) IS 'An error for a source that hides rows from some.';

CREATE OR REPLACE FUNCTION rollup_engine.mark_new(p_rollup_id integer, p_ranges tstzmultirange) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.check_row_security(s.relation)
    FROM silver.rollup_config AS c JOIN rollup_engine.source AS s ON s.id = c.source_id
    WHERE c.id = p_rollup_id;
    SELECT rollup_engine.mark_rollups(ARRAY[p_rollup_id], p_ranges);
    -- Where nobody logs, it is stale beyond all that it holds.
    SELECT rollup_engine.mark_barred(ARRAY[p_rollup_id], t.barred)
    FROM silver.rollup_config AS c JOIN rollup_engine.tail AS t ON t.source_id = c.source_id AND t.barred <> '{}'
    WHERE c.id = p_rollup_id;
$$;
COMMENT ON FUNCTION rollup_engine.mark_new(integer, tstzmultirange) IS 'Marks data stale for one rollup that is new, or has other columns now.';

RESET ROLE;
