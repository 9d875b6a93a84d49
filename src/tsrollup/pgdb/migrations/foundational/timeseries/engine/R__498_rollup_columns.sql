-- The columns of a rollup: which its metrics ask for, of what types they are, and what of these the
-- machinery may not use.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.use_column(p_source rollup_engine.source, p_column name) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.source_column (source_id, column_name, current_name, attnum)
    SELECT p_source.id, a.attname, a.attname, a.attnum
    FROM pg_attribute AS a
    WHERE a.attrelid = p_source.relation AND a.attname = p_column AND a.attnum > 0
    ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION rollup_engine.use_column(rollup_engine.source, name) IS 'Notes that a rollup reads a column of its source.';

CREATE OR REPLACE FUNCTION rollup_engine.relation_types(p_relation regclass) RETURNS TABLE (column_name name, data_type text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Without length and precision: a source may widen them at any time.
    SELECT a.attname, format_type(a.atttypid, -1)
        || CASE WHEN a.attcollation <> t.typcollation THEN format(' COLLATE %s', a.attcollation::regcollation) ELSE '' END
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = p_relation AND a.attnum > 0
$$;
COMMENT ON FUNCTION rollup_engine.relation_types(regclass) IS 'The types of the columns of a table or view, as they are called now.';

CREATE OR REPLACE FUNCTION rollup_engine.column_types(p_rollup silver.rollup_config) RETURNS TABLE (column_name name, data_type text)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_view constant text := format('rollup_engine.describe_%s', pg_backend_pid());
BEGIN
    EXECUTE format('CREATE VIEW %s AS SELECT %s FROM %s GROUP BY %s', v_view,
        rollup_engine.select_list(p_rollup.id, '{bucket,dimension,state}'), p_rollup.source_table, rollup_engine.group_list(p_rollup));
    RETURN QUERY SELECT * FROM rollup_engine.relation_types(v_view::regclass);
    EXECUTE format('DROP VIEW %s', v_view);
END
$$;
COMMENT ON FUNCTION rollup_engine.column_types(silver.rollup_config) IS 'Asks PostgreSQL itself for the type of every expression of a rollup, through a view that lives for a moment.';

CREATE OR REPLACE FUNCTION rollup_engine.closed_parts(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%I may not use %s, which columns of %s are of', '${owner_role}', part.name, p_rollup.source_table),
        format('GRANT USAGE ON %s TO %I', CASE WHEN o.is_open THEN part.own ELSE format('SCHEMA %s', part.schema) END, '${owner_role}')
    FROM rollup_engine.rollup_column AS c
    -- Before its type is known.
    LEFT JOIN rollup_engine.row_columns(p_rollup.source_table, p_rollup.row_sql) AS a ON c.data_type IS NULL AND a.column_name = rollup_engine.source_name(p_rollup, c.source_column)
    CROSS JOIN LATERAL (
        SELECT t.oid::regtype::text, t.typnamespace::regnamespace,
            CASE WHEN NOT has_type_privilege('${owner_role}', t.oid, 'USAGE') THEN format('TYPE %s', coalesce(nullif(t.typelem, 0), t.oid)::regtype) END
        FROM pg_type AS t WHERE t.oid = coalesce(rollup_engine.type_called(c.data_type), a.type)
        UNION ALL
        SELECT format('collation %s', l.oid::regcollation), l.collnamespace, NULL
        FROM pg_collation AS l WHERE l.oid = rollup_engine.collation_called(substring(c.data_type FROM ' COLLATE (.*)'))
    ) AS part (name, schema, own)
    CROSS JOIN LATERAL (SELECT has_schema_privilege('${owner_role}', part.schema, 'USAGE')) AS o (is_open)
    WHERE c.rollup_id = p_rollup.id AND c.kind IN ('dimension', 'state') AND (part.own IS NOT NULL OR NOT o.is_open)
    UNION ALL
    SELECT e.problem, e.hint FROM rollup_engine.closed_schemas(p_rollup.row_sql) AS e
$$;
COMMENT ON FUNCTION rollup_engine.closed_parts(silver.rollup_config) IS
'Types and collations of what a rollup stores, and schemas of what its expressions name, that the machinery may not use.';

CREATE OR REPLACE FUNCTION rollup_engine.closed_tables(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%I may not use schema %s, where %s is', '${owner_role}', c.relnamespace::regnamespace, c.oid::regclass),
        format('GRANT USAGE, CREATE ON SCHEMA %s TO %I', c.relnamespace::regnamespace, '${owner_role}')
    FROM pg_class AS c
    WHERE c.oid = p_rollup.target_table AND NOT has_schema_privilege('${owner_role}', c.relnamespace, 'USAGE')
    UNION ALL
    SELECT format('%I may not read %s, which is %s''s', '${owner_role}', c.oid::regclass, c.relowner::regrole),
        format(CASE WHEN c.relowner = '"${owner_role}"'::regrole THEN 'GRANT ALL ON %s TO %I' ELSE 'ALTER TABLE %s OWNER TO %I' END, c.oid::regclass, '${owner_role}')
    FROM rollup_engine.partition_tree(p_rollup.target_table) AS m (member) JOIN pg_class AS c ON c.oid = m.member
    WHERE NOT has_table_privilege('${owner_role}', c.oid, 'SELECT')
        -- What somebody brought is told of as that.
        AND (c.oid = p_rollup.target_table OR EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = c.oid AND rollup_engine.is_guard(g)))
$$;
COMMENT ON FUNCTION rollup_engine.closed_tables(silver.rollup_config) IS 'The table of a rollup, its schema and its guarded partitions that the machinery may not use.';

CREATE OR REPLACE FUNCTION rollup_engine.check_types(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.fail('TR004', c.problem, c.hint) FROM rollup_engine.closed_parts(p_rollup) AS c;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_types(silver.rollup_config) IS 'An error unless the machinery may make columns of the types of the source that a rollup stores.';

CREATE OR REPLACE FUNCTION rollup_engine.infer_column_types(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE rollup_engine.rollup_column AS c SET data_type = t.data_type
    FROM rollup_engine.column_types(p_rollup) AS t
    WHERE c.rollup_id = p_rollup.id AND c.column_name = t.column_name AND c.data_type IS NULL;
    PERFORM rollup_engine.check_types(p_rollup);
    UPDATE rollup_engine.rollup_column AS c
    SET expression = rollup_engine.finish_expression(c.rollup_id, c.source_column, c.expression)
    WHERE c.rollup_id = p_rollup.id AND c.kind = 'finished';
EXCEPTION WHEN undefined_function OR undefined_column OR datatype_mismatch OR invalid_table_definition OR grouping_error THEN
    PERFORM rollup_engine.fail('TR001', format('%s cannot be rolled up so: %s', p_rollup.source_table, SQLERRM),
        'leave that column out: name dimensions that have an equality, and metrics that suit their columns');
WHEN insufficient_privilege THEN
    PERFORM rollup_engine.check_types(p_rollup);
    RAISE;
END
$$;
COMMENT ON FUNCTION rollup_engine.infer_column_types(silver.rollup_config) IS 'Records the types of the columns that were just planned.';

CREATE OR REPLACE FUNCTION rollup_engine.record_columns(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_time_type constant regtype := (SELECT time_type FROM rollup_engine.source WHERE id = p_rollup.source_id);
    v_sealed constant timestamptz := rollup_engine.inherited_seal(p_rollup);
    v_twice text;
    v_columns bigint;
BEGIN
    SELECT string_agg(DISTINCT quote_ident(column_name), ', ') FILTER (WHERE times > 1), count(*) FILTER (WHERE kind <> 'finished')
    INTO v_twice, v_columns
    FROM (
        SELECT column_name, kind, count(*) OVER (PARTITION BY column_name) AS times
        FROM rollup_engine.plan_columns(p_rollup, v_time_type)
    ) AS c;
    IF v_columns > 800 THEN  -- fresh and stored rows side by side must be fewer than 1664
        PERFORM rollup_engine.fail('TR001', format('the rollup of %s would store %s columns', p_rollup.source_table, v_columns),
            '800 are possible: choose metrics, in several rollups if need be');
    ELSIF v_twice IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR001', format('the rollup would have two columns %s', v_twice),
            'leave out the dimension or the metric of that name, or rename the column of the source');
    END IF;
    IF p_rollup.parent_id IS NULL THEN
        PERFORM rollup_engine.use_column(s, used.name)
        FROM rollup_engine.source AS s, unnest(rollup_engine.used_columns(p_rollup)) AS used (name)
        WHERE s.id = p_rollup.source_id;
    END IF;
    -- What is there already (a metric is being added) keeps its place.
    INSERT INTO rollup_engine.rollup_column (rollup_id, position, column_name, kind, source_column, state, expression, known_since)
    SELECT p_rollup.id, p.position + coalesce((SELECT max(position) FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id), 0),
        p.column_name, p.kind, p.source_column, p.state, p.expression, greatest(v_sealed, parent.known_since)
    FROM rollup_engine.plan_columns(p_rollup, v_time_type) AS p
    LEFT JOIN rollup_engine.rollup_column AS parent
        ON parent.rollup_id = p_rollup.parent_id AND (parent.kind, parent.source_column, parent.state) IS NOT DISTINCT FROM ('state', p.source_column, p.state)
    WHERE NOT EXISTS (
        SELECT FROM rollup_engine.rollup_column AS c WHERE c.rollup_id = p_rollup.id AND c.column_name = p.column_name);
    PERFORM rollup_engine.infer_column_types(p_rollup);
END
$$;
COMMENT ON FUNCTION rollup_engine.record_columns(silver.rollup_config) IS 'Records the columns that the rollup''s metrics ask for and that it does not have.';

RESET ROLE;
