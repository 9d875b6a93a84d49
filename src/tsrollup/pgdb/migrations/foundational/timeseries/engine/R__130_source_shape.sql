-- What an answer depends on besides rows: columns, types, persistence, triggers. DDL changes these
-- without firing a trigger, so each drain compares them with what the last one noted, and takes a
-- difference as a change of all the data.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Columns by name and number -----------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.source_name(p_rollup silver.rollup_config, p_column name) RETURNS name
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((
        SELECT current_name FROM rollup_engine.source_column
        WHERE source_id = p_rollup.source_id AND column_name = p_column AND p_rollup.parent_id IS NULL), p_column)
$$;
COMMENT ON FUNCTION rollup_engine.source_name(silver.rollup_config, name) IS 'What a column that a rollup knows by this name is called in its source.';

CREATE OR REPLACE FUNCTION rollup_engine.resolved_columns(p_source rollup_engine.source)
RETURNS TABLE (column_name name, noted_name name, noted_number smallint, current_name name, attnum smallint)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Numbers are the table's own: a restored one counts anew.
    SELECT c.column_name, c.current_name, CASE WHEN p_source.relation::oid = p_source.relation_oid THEN c.attnum END, a.attname, a.attnum
    FROM rollup_engine.source_column AS c
    LEFT JOIN LATERAL (
        SELECT a.attname, a.attnum FROM pg_attribute AS a
        WHERE a.attrelid = p_source.relation AND a.attnum > 0 AND NOT a.attisdropped
            AND (a.attname = c.column_name
                OR CASE WHEN p_source.relation::oid = p_source.relation_oid THEN a.attnum = c.attnum ELSE a.attname = c.current_name END)
        ORDER BY a.attname = c.column_name DESC
        LIMIT 1
    ) AS a ON true
    WHERE c.source_id = p_source.id
$$;
COMMENT ON FUNCTION rollup_engine.resolved_columns(rollup_engine.source) IS
'The column to read for each name that rollups use: the one of that name, else the one that had it, under its new name; NULL when both are gone.';

CREATE OR REPLACE FUNCTION rollup_engine.type_parts(p_type oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE part AS (
        SELECT p_type AS type, ARRAY[]::text[] COLLATE "C" AS path
        UNION ALL
        SELECT d.type, part.path || d.name
        FROM part
        JOIN pg_type AS t ON t.oid = part.type AND t.typnamespace <> 'pg_catalog'::regnamespace
        CROSS JOIN LATERAL (
            SELECT a.atttypid, concat(to_char(a.attnum, 'FM0000'), a.attname) FROM pg_attribute AS a
            WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT e.type, '' FROM (VALUES (t.typelem), (t.typbasetype)) AS e (type) WHERE e.type <> 0
            UNION ALL
            SELECT r.rngsubtype, '' FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        ) AS d (type, name)
    )
    SELECT string_agg(concat_ws(' ', substr(path[cardinality(path)], 5), format_type(type, NULL)), ', ' ORDER BY path) FROM part WHERE path <> '{}'
$$;
COMMENT ON FUNCTION rollup_engine.type_parts(oid) IS 'What a type is made of that is not PostgreSQL''s own, at any depth: attributes, elements, what a domain is over; NULL for others.';

-- The shape ------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.current_shape(p_source rollup_engine.source) RETURNS SETOF rollup_engine.source_shape
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH tree AS MATERIALIZED (
        SELECT member FROM rollup_engine.source_tree(p_source.relation) AS m (member)
    ), columns AS (
        SELECT a.attrelid,
            jsonb_object_agg(a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                CASE WHEN a.attrelid = p_source.relation THEN rollup_engine.type_parts(a.atttypid) END, nullif(a.attcollation, 0)::regcollation,
                nullif(a.attgenerated, ''), pg_get_expr(d.adbin, d.adrelid))) AS columns,
            jsonb_object_agg(a.attname, a.xmin::text) AS attributes, jsonb_object_agg(a.attname, a.attnum) AS numbers
        FROM tree
        JOIN pg_attribute AS a ON a.attrelid = tree.member AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON a.attgenerated <> '' AND d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attname IN (SELECT current_name FROM rollup_engine.source_column WHERE source_id = p_source.id)
        GROUP BY a.attrelid
    ), triggers AS (
        -- Those above the source count as its own.
        SELECT coalesce(tree.member, p_source.relation) AS relation, array_agg(concat_ws(' ', g.tgrelid::oid, g.tgname, g.tgenabled, g.xmin)) AS triggers
        FROM pg_trigger AS g
        LEFT JOIN tree ON tree.member = g.tgrelid
        WHERE g.tgfoid = to_regprocedure(format('rollup_engine.capture_%s()', p_source.id))
        GROUP BY 1
    )
    SELECT p_source.id, c.oid, c.relkind::text || c.relpersistence::text, coalesce(a.columns, '{}'), coalesce(a.attributes, '{}'), coalesce(a.numbers, '{}'),
        c.relfilenode, coalesce(t.triggers, '{}'), current_setting('server_version_num')::integer / 10000
    FROM tree
    JOIN pg_class AS c ON c.oid = tree.member
    LEFT JOIN columns AS a ON a.attrelid = c.oid
    LEFT JOIN triggers AS t ON t.relation = c.oid
$$;
COMMENT ON FUNCTION rollup_engine.current_shape(rollup_engine.source) IS 'The shape of a source and of each table below it, from the catalogue.';

CREATE OR REPLACE FUNCTION rollup_engine.shape_trace(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT md5(concat(
        current_setting('server_version_num'),
        (SELECT string_agg(concat_ws(' ', c.column_name, c.current_name, format_type(a.atttypid, NULL), rollup_engine.type_parts(a.atttypid)), ',' ORDER BY c.column_name)
            FROM rollup_engine.source_column AS c LEFT JOIN pg_attribute AS a ON a.attrelid = p_source.relation AND a.attname = c.current_name
            WHERE c.source_id = p_source.id),
        string_agg(concat(c.oid, c.relkind, c.relpersistence, c.relfilenode, ' ',
            (SELECT string_agg(a.xmin::text, ' ' ORDER BY a.attnum) FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0), ':',
            (SELECT string_agg(g.xmin::text, ' ' ORDER BY g.tgname) FROM pg_trigger AS g WHERE g.tgrelid = c.oid)), ',' ORDER BY c.oid)))
    FROM (
        SELECT rollup_engine.source_tree(p_source.relation) UNION ALL SELECT rollup_engine.source_ancestors(p_source.relation)
    ) AS t (member)
    JOIN pg_class AS c ON c.oid = t.member
$$;
COMMENT ON FUNCTION rollup_engine.shape_trace(rollup_engine.source) IS 'A digest that changes with the shape, for a tenth of its time; by transaction numbers and files, so that it changes without it as well.';

CREATE OR REPLACE FUNCTION rollup_engine.shape_changes(p_source rollup_engine.source, p_shapes rollup_engine.source_shape[]) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN c.current_name IS NULL THEN format('column %I of %s is gone', c.noted_name, p_source.relation)
        WHEN c.current_name <> c.noted_name THEN format('column %I of %s is called %I now', c.noted_name, p_source.relation, c.current_name)
        ELSE format('column %I of %s is another one now', c.current_name, p_source.relation)
    END
    FROM rollup_engine.resolved_columns(p_source) AS c
    WHERE c.current_name IS DISTINCT FROM c.noted_name OR c.attnum <> c.noted_number
    UNION ALL
    SELECT CASE
        WHEN n.kind <> s.kind THEN format('%s is another kind of table now', s.member::regclass)
        WHEN NOT s.columns @> n.columns OR o.moved THEN format('columns of %s were changed', s.member::regclass)
        WHEN NOT s.triggers @> n.triggers THEN format('capture triggers of %s were changed', s.member::regclass)
        ELSE format('columns of %s were rewritten', s.member::regclass)
    END
    FROM unnest(p_shapes) AS s
    JOIN rollup_engine.source_shape AS n ON n.source_id = s.source_id
        AND n.member = CASE WHEN s.member = p_source.relation::oid THEN p_source.relation_oid ELSE s.member END
    CROSS JOIN LATERAL (
        -- What carries transaction numbers or files tells nothing after a restore or an upgrade.
        SELECT n.member = s.member AND n.server = s.server AS same_place
    ) AS p
    CROSS JOIN LATERAL (
        -- Elsewhere they are counted anew, in the same order.
        SELECT CASE WHEN p.same_place THEN NOT s.numbers @> n.numbers
            ELSE array_agg(a.key ORDER BY a.value::integer) <> array_agg(a.key ORDER BY b.value::integer) END AS moved
        FROM jsonb_each_text(n.numbers) AS a JOIN jsonb_each_text(s.numbers) AS b USING (key)
    ) AS o
    WHERE n.kind <> s.kind
        OR NOT s.columns @> n.columns
        OR o.moved
        OR p.same_place AND NOT s.triggers @> n.triggers
        -- ALTER TYPE ... USING does both; VACUUM FULL and SET STATISTICS one of them.
        OR p.same_place AND n.file <> s.file AND NOT s.attributes @> n.attributes
$$;
COMMENT ON FUNCTION rollup_engine.shape_changes(rollup_engine.source, rollup_engine.source_shape[]) IS 'What differs from the noted shape, in words.';

CREATE OR REPLACE FUNCTION rollup_engine.unseen_changes(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(change, '; ') FROM rollup_engine.shape_changes(p_source, ARRAY(SELECT s FROM rollup_engine.current_shape(p_source) AS s)) AS change
$$;
COMMENT ON FUNCTION rollup_engine.unseen_changes(rollup_engine.source) IS 'What was changed of a source by DDL since the last drain, NULL when nothing was.';

CREATE OR REPLACE FUNCTION rollup_engine.note_shape(p_source_id integer, p_shapes rollup_engine.source_shape[]) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH gone AS (
        DELETE FROM rollup_engine.source_shape
        WHERE source_id = p_source_id AND member NOT IN (SELECT member FROM unnest(p_shapes))
    )
    INSERT INTO rollup_engine.source_shape
    SELECT s.*
    FROM unnest(p_shapes) AS s
    LEFT JOIN rollup_engine.source_shape AS n USING (source_id, member)
    WHERE n IS DISTINCT FROM s
    ON CONFLICT (source_id, member) DO UPDATE
    SET (kind, columns, attributes, numbers, file, triggers, server)
        = ROW(excluded.kind, excluded.columns, excluded.attributes, excluded.numbers, excluded.file, excluded.triggers, excluded.server);
    UPDATE rollup_engine.source_column AS c SET attnum = r.attnum
    FROM rollup_engine.source AS s, rollup_engine.resolved_columns(s) AS r
    WHERE s.id = p_source_id AND c.source_id = s.id AND c.column_name = r.column_name AND c.attnum <> r.attnum;
    UPDATE rollup_engine.source SET relation_oid = relation, relation_name = relation::text
    WHERE id = p_source_id AND (relation_oid, relation_name) IS DISTINCT FROM (relation::oid, relation::text);
$$;
COMMENT ON FUNCTION rollup_engine.note_shape(integer, rollup_engine.source_shape[]) IS 'Remembers the shape that a drain has found.';

-- A source that is gone -----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.is_relation(p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_class WHERE oid = p_relation)
$$;
COMMENT ON FUNCTION rollup_engine.is_relation(regclass) IS 'False for a table that was dropped since.';

CREATE OR REPLACE FUNCTION rollup_engine.gone_hint(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN to_regclass(p_source.relation_name) IS NULL
        THEN format('restore or create %s: the next run takes it up again; or drop its rollups with silver.drop_rollup', p_source.relation_name)
        WHEN NOT has_table_privilege('${owner_role}', to_regclass(p_source.relation_name), 'SELECT')
        THEN format('GRANT SELECT ON %s TO %I: the next run takes it up again', p_source.relation_name, '${owner_role}')
        ELSE format('the next run takes up the new %s if it has the columns of the old one; or drop the rollups with silver.drop_rollup', p_source.relation_name)
    END
$$;
COMMENT ON FUNCTION rollup_engine.gone_hint(rollup_engine.source) IS 'What to do about a source that was dropped.';

CREATE OR REPLACE FUNCTION rollup_engine.fail_if_gone(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    IF rollup_engine.is_relation(p_rollup.source_table) THEN
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
COMMENT ON FUNCTION rollup_engine.fail_if_gone(silver.rollup_config) IS 'A clear error when what a rollup reads was dropped.';

CREATE OR REPLACE FUNCTION rollup_engine.relink_source(p_source_id integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
    v_new regclass;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    IF rollup_engine.is_relation(v_source.relation) OR NOT rollup_engine.try_lock_source(p_source_id) THEN
        RETURN;
    END IF;
    -- A table that lacks a column, or has another kind of time, is another table.
    SELECT c.oid INTO v_new
    FROM pg_class AS c
    WHERE c.oid = to_regclass(v_source.relation_name)
        AND (c.relkind IN ('r', 'p') OR v_source.change_tracking = 'window')
        AND has_table_privilege('${owner_role}', c.oid, 'SELECT')
        AND NOT EXISTS (
            SELECT FROM rollup_engine.source_column AS k
            WHERE k.source_id = p_source_id AND NOT EXISTS (
                SELECT FROM pg_attribute AS a
                WHERE a.attrelid = c.oid AND a.attname = k.current_name
                    AND (a.attname <> v_source.time_column OR rollup_engine.base_type(a.atttypid) = v_source.time_type)))
        AND NOT EXISTS (
            SELECT FROM rollup_engine.source AS s
            WHERE (s.relation, s.time_column, s.change_tracking) = (c.oid, v_source.time_column, v_source.change_tracking));
    IF v_new IS NULL THEN
        RETURN;
    END IF;
    UPDATE silver.dimension_config SET source_table = v_new WHERE source_table = v_source.relation;
    UPDATE silver.rollup_config SET source_table = v_new WHERE source_id = p_source_id AND parent_id IS NULL;
    UPDATE rollup_engine.source SET relation = v_new WHERE id = p_source_id;
    PERFORM rollup_engine.log_change(p_source_id, '-infinity', 'infinity');
END
$$;
COMMENT ON FUNCTION rollup_engine.relink_source(integer) IS 'Takes up a source that was dropped and is there again under its name, with its columns; all of it is stale.';

-- Triggers that do not always fire ---------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.mend_triggers(p_source_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of partitions that a trigger goes on to
AS $$
DECLARE
    v_source rollup_engine.source;
    v_trigger record;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    FOR v_trigger IN
        SELECT g.tgrelid::regclass AS relation, g.tgname, t.mode, m.from_time, m.to_time
        FROM rollup_engine.capture_triggers(v_source) AS g
        CROSS JOIN LATERAL (SELECT CASE g.tgtype WHEN 29 THEN 'REPLICA' ELSE 'ALWAYS' END AS mode) AS t
        LEFT JOIN rollup_engine.source_members(v_source.relation, v_source.time_column) AS m ON m.member = g.tgrelid
        WHERE g.tgenabled <> left(t.mode, 1)::"char" AND pg_has_role((SELECT relowner FROM pg_class WHERE oid = g.tgrelid), 'USAGE')
    LOOP
        BEGIN
            PERFORM rollup_engine.lock_out(v_trigger.relation, 'SHARE ROW EXCLUSIVE');
            EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', v_trigger.relation, v_trigger.mode, v_trigger.tgname);
            -- What was written meanwhile, nobody knows.
            IF v_trigger.from_time IS NULL THEN
                PERFORM rollup_engine.log_change(p_source_id, '-infinity', 'infinity');
            ELSE
                PERFORM rollup_engine.log_extent(p_source_id, v_trigger.relation, v_trigger.from_time, v_trigger.to_time);
            END IF;
        EXCEPTION WHEN lock_not_available OR insufficient_privilege THEN
            NULL;  -- the rollup is invalid as long; the next run tries again
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.mend_triggers(integer) IS 'Has capture triggers fire always that were disabled, or restored otherwise, as far as the caller may.';

RESET ROLE;
