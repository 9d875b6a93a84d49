-- What an answer depends on besides rows: columns, types, persistence, triggers. DDL changes these
-- without firing a trigger, so each drain compares them with what the last one noted, and takes a
-- difference as a change of all the data.
--
-- A row of the catalogue is told by who wrote it (xmin). A transaction may write it once more after
-- it was noted in that same transaction: then by its place (ctid), which a VACUUM FULL changes.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Columns by name and number -----------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.source_name(p_rollup silver.rollup_config, p_column name) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((
        SELECT current_name FROM rollup_engine.source_column
        WHERE source_id = p_rollup.source_id AND column_name = p_column AND p_rollup.parent_id IS NULL
            AND (p_rollup.row_sql -> 'expressions' -> p_column::text) IS NULL), p_column);
END
$$;
COMMENT ON FUNCTION rollup_engine.source_name(silver.rollup_config, name) IS 'What a column that a rollup knows by this name is called in its source.';

CREATE OR REPLACE FUNCTION rollup_engine.is_restored(p_source rollup_engine.source) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_source.relation::oid <> p_source.relation_oid OR rollup_engine.is_numbered_anew(p_source.noted_in)
$$;
COMMENT ON FUNCTION rollup_engine.is_restored(rollup_engine.source) IS 'Whether the shape was noted before a dump that this database is made of: pg_upgrade leaves the transactions of rows as they are.';

CREATE OR REPLACE FUNCTION rollup_engine.resolved_columns(p_source rollup_engine.source)
RETURNS TABLE (column_name name, noted_name name, noted_number smallint, current_name name, attnum smallint)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Numbers are the table's own: a restored one counts anew.
    SELECT c.column_name, c.current_name, CASE WHEN h.numbers_hold THEN c.attnum END, a.attname, a.attnum
    FROM (SELECT NOT rollup_engine.is_restored(p_source) OFFSET 0) AS h (numbers_hold)
    JOIN rollup_engine.source_column AS c ON c.source_id = p_source.id
    LEFT JOIN LATERAL (
        SELECT a.attname, a.attnum FROM pg_attribute AS a
        WHERE a.attrelid = p_source.relation AND a.attnum > 0 AND NOT a.attisdropped
            AND (a.attname IN (c.column_name, c.current_name) OR a.attnum = c.attnum AND h.numbers_hold)
        ORDER BY a.attname = c.column_name DESC, a.attnum = c.attnum AND h.numbers_hold DESC
        LIMIT 1
    ) AS a ON true
$$;
COMMENT ON FUNCTION rollup_engine.resolved_columns(rollup_engine.source) IS
'The column to read for each name that rollups use: the one of that name, else the one that had it, under its new name, else one that came in that one''s place; NULL when all are gone.';

-- The shape ------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.is_ordered_anew(p_was jsonb, p_now jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT
    SET search_path = pg_catalog, pg_temp
RETURN coalesce(p_was ->> 'order' <> p_now ->> 'order', false)
    OR coalesce((p_now ->> 'is_in_expression')::boolean AND p_was ->> 'letters' <> p_now ->> 'letters', false);
COMMENT ON FUNCTION rollup_engine.is_ordered_anew(jsonb, jsonb) IS 'Whether texts of a column, or that expressions make of it, are compared in another way, by what was seen of it.';

CREATE OR REPLACE FUNCTION rollup_engine.columns_seen(p_source rollup_engine.source)
RETURNS TABLE (column_name name, current_name name, attnum smallint, seen jsonb)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH in_expressions AS MATERIALIZED (
        SELECT jsonb_array_elements_text(
            jsonb_path_query_array(row_sql, '$.filter.columns[*]') || jsonb_path_query_array(row_sql, '$.expressions.*.columns[*]'))::name AS name
        FROM silver.rollup_config WHERE source_id = p_source.id AND row_sql IS NOT NULL
    )
    SELECT r.column_name, r.current_name, r.attnum, CASE WHEN r.attnum IS NOT NULL THEN jsonb_build_object(
        'called', concat_ws(' ', format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> t.typcollation THEN format('COLLATE %s', a.attcollation::regcollation) END, '(generated: ' || e.expression || ')'),
        'type', a.atttypid::bigint, 'modifier', a.atttypmod, 'collation', a.attcollation::bigint,
        'order', rollup_engine.collation_definition(a.attcollation), 'expression', e.expression,
        -- Expressions make texts of others, and fold them (lower, ILIKE).
        'letters', d.letters, 'is_in_expression', r.column_name IN (SELECT name FROM in_expressions)) END
    FROM rollup_engine.resolved_columns(p_source) AS r
    CROSS JOIN (
        SELECT concat_ws(' ', rollup_engine.default_order(), datlocprovider, translate(lower(datctype), '-', '')) FROM pg_database WHERE datname = current_database()
    ) AS d (letters)
    LEFT JOIN pg_attribute AS a ON a.attrelid = p_source.relation AND a.attnum = r.attnum
    LEFT JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN LATERAL (
        SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef AS d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''
    ) AS e (expression) ON true
$$;
COMMENT ON FUNCTION rollup_engine.columns_seen(rollup_engine.source) IS 'The columns of a source that its rollups use, each with what it is now: NULL for one that is gone.';

CREATE OR REPLACE FUNCTION rollup_engine.current_shape(p_source rollup_engine.source) RETURNS SETOF rollup_engine.source_shape
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH tree AS MATERIALIZED (
        SELECT member FROM rollup_engine.partition_tree(p_source.relation) AS m (member)
    ), columns AS (
        SELECT a.attrelid,
            jsonb_object_agg(a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                CASE WHEN a.attrelid = p_source.relation THEN rollup_engine.type_parts(a.atttypid) END, nullif(a.attcollation, 0)::regcollation,
                nullif(a.attgenerated, ''), pg_get_expr(d.adbin, d.adrelid))) AS columns,
            jsonb_object_agg(a.attname,
                concat(a.xmin, CASE WHEN age(a.xmin) <= age(pg_current_xact_id_if_assigned()::xid) THEN a.ctid END)) AS attributes,
            jsonb_object_agg(a.attname, a.attnum) AS numbers
        FROM tree
        JOIN pg_attribute AS a ON a.attrelid = tree.member AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON a.attgenerated <> '' AND d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attname IN (SELECT current_name FROM rollup_engine.source_column WHERE source_id = p_source.id)
        GROUP BY a.attrelid
    ), triggers AS (
        -- Those above the source count as its own. Each without its place and with it.
        SELECT coalesce(tree.member, p_source.relation) AS relation,
            array_agg(concat_ws(' ', g.tgrelid::oid, g.tgname, g.tgenabled, g.xmin, p.place)) AS triggers
        FROM pg_trigger AS g
        CROSS JOIN LATERAL (VALUES (NULL), (g.ctid)) AS p (place)
        LEFT JOIN tree ON tree.member = g.tgrelid
        WHERE g.tgfoid = to_regprocedure(format('rollup_engine.capture_%s()', p_source.id))
            AND (tree.member IS NOT NULL OR g.tgrelid IN (SELECT rollup_engine.source_ancestors(p_source.relation)))
        GROUP BY 1
    )
    SELECT p_source.id, c.oid, c.relkind::text || c.relpersistence::text,
        -- Under no name, what else expressions go by.
        coalesce(a.columns, '{}') || coalesce((
            SELECT jsonb_build_object('', n.parts) FROM rollup_engine.named_parts(p_source.id) AS n (parts) WHERE n.parts IS NOT NULL AND c.oid = p_source.relation), '{}'),
        -- Under no name, by their numbers, all that a name may have stood for.
        coalesce(a.attributes, '{}') || coalesce((
            SELECT jsonb_build_object('', jsonb_object_agg(o.attnum, concat(o.xmin, o.ctid))) FROM pg_attribute AS o
            WHERE o.attrelid = c.oid AND o.attnum > 0 AND c.oid = p_source.relation
            HAVING count(*) > 0), '{}'),
        -- Under no name, all names in their order, which a dump keeps.
        coalesce(a.numbers, '{}') || coalesce((
            SELECT jsonb_build_object('', jsonb_agg(o.attname ORDER BY o.attnum)) FROM pg_attribute AS o
            WHERE o.attrelid = c.oid AND o.attnum > 0 AND NOT o.attisdropped AND c.oid = p_source.relation
            HAVING count(*) > 0), '{}'),
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
        current_setting('server_version_num'), rollup_engine.this_numbering(),
        (SELECT string_agg(concat_ws(' ', c.column_name, c.current_name, format_type(a.atttypid, NULL), rollup_engine.type_parts(a.atttypid),
                nullif(a.attcollation, 0)::regcollation), ',' ORDER BY c.column_name)
            FROM rollup_engine.source_column AS c LEFT JOIN pg_attribute AS a ON a.attrelid = p_source.relation AND a.attname = c.current_name
            WHERE c.source_id = p_source.id),
        rollup_engine.named_parts(p_source.id),
        -- What they call may be renamed. Those of partitions are mostly one.
        (SELECT string_agg(pg_get_expr(e.adbin, e.adrelid), ',' ORDER BY e.adbin::text)
            FROM (
                SELECT DISTINCT ON (d.adbin::text) d.adbin, d.adrelid
                FROM rollup_engine.partition_tree(p_source.relation) AS t (member)
                JOIN pg_attribute AS a ON a.attrelid = t.member AND a.attgenerated <> ''
                JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                ORDER BY d.adbin::text, d.adrelid
            ) AS e),
        string_agg(concat(c.oid, c.relowner, c.relkind, c.relpersistence, c.relfilenode, ' ', a.written, ':', g.written), ',' ORDER BY c.oid)))
        || CASE WHEN least(min(a.age), min(g.age)) <= age(pg_current_xact_id_if_assigned()::xid) THEN '?' ELSE '' END
    FROM rollup_engine.source_family(p_source.relation) AS t (member)
    JOIN pg_class AS c ON c.oid = t.member
    CROSS JOIN LATERAL (
        SELECT string_agg(concat(a.attname, ' ', a.xmin), ' ' ORDER BY a.attnum), min(age(a.xmin))
        FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0
    ) AS a (written, age)
    CROSS JOIN LATERAL (
        SELECT string_agg(concat(g.tgenabled, g.xmin, g.ctid), ' ' ORDER BY g.tgname), min(age(g.xmin))
        FROM pg_trigger AS g WHERE g.tgrelid = c.oid
    ) AS g (written, age)
$$;
COMMENT ON FUNCTION rollup_engine.shape_trace(rollup_engine.source) IS 'A digest that changes with the shape, for a tenth of its time; by names, transaction numbers and files, so that it changes without it as well. It ends in ? where this transaction has written any of it: the next one has to look again.';

CREATE OR REPLACE FUNCTION rollup_engine.is_noted_here(p_source rollup_engine.source) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_source.relation::oid = p_source.relation_oid AND EXISTS (
        SELECT FROM rollup_engine.source_shape
        WHERE source_id = p_source.id AND member = p_source.relation_oid
            -- Releases that knew no better went by the server's version.
            AND coalesce(p_source.noted_in = rollup_engine.this_numbering(), server = current_setting('server_version_num')::integer / 10000))
$$;
COMMENT ON FUNCTION rollup_engine.is_noted_here(rollup_engine.source) IS
'Whether the shape was noted in this very database: transaction numbers, files and numbers of columns tell nothing after a restore or an upgrade.';

CREATE OR REPLACE FUNCTION rollup_engine.known_age(p_transaction xid) RETURNS integer
    LANGUAGE sql STABLE
RETURN CASE WHEN age(p_transaction) >= 0 THEN age(p_transaction) END;
COMMENT ON FUNCTION rollup_engine.known_age(xid) IS 'How many transactions ago one was; NULL when that is over 2^31, of which nothing can be told.';

CREATE OR REPLACE FUNCTION rollup_engine.restored_age() RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- An upgrade copies the view; foreign keys, made anew, come after all columns and triggers as well.
    v_age constant integer := (SELECT rollup_engine.known_age(xmin) FROM pg_constraint WHERE conrelid = 'rollup_engine.source_shape'::regclass AND contype = 'f');
BEGIN
    RETURN least(v_age, (SELECT rollup_engine.known_age(ended_by::xid) FROM rollup_engine.restored));
EXCEPTION WHEN object_not_in_prerequisite_state OR undefined_table THEN
    RETURN v_age;  -- the schema alone was restored, or without its materialized views
END
$$;
COMMENT ON FUNCTION rollup_engine.restored_age() IS 'How many transactions ago the catalogue of this database was as a restore, an upgrade or the migrations have left it; NULL when that is longer ago than can be told.';

CREATE OR REPLACE FUNCTION rollup_engine.touched_since_restore(p_source rollup_engine.source) RETURNS SETOF regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.relation
    FROM rollup_engine.restored_age() AS r (age), rollup_engine.source_family(p_source.relation) AS f (relation)
    WHERE (EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = f.relation AND age(a.xmin) < r.age
                AND a.attname IN (SELECT current_name FROM rollup_engine.source_column WHERE source_id = p_source.id))
        OR EXISTS (
            SELECT FROM pg_trigger AS g
            WHERE g.tgrelid = f.relation AND age(g.xmin) < r.age
                AND g.tgfoid = to_regprocedure(format('rollup_engine.capture_%s()', p_source.id))))
        -- What was made since is a new partition: its rows are taken in as such.
        AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = f.relation AND a.attname = 'ctid' AND age(a.xmin) < r.age)
$$;
COMMENT ON FUNCTION rollup_engine.touched_since_restore(rollup_engine.source) IS
'Tables of the family of a source whose columns or capture triggers were changed after the restore that brought them here.';

CREATE OR REPLACE FUNCTION rollup_engine.borrowed_names(p_source rollup_engine.source, p_was jsonb, p_is jsonb) RETURNS SETOF name
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- That takes two columns, renamed there and back, or one of them dropped.
    SELECT a.attname
    FROM pg_attribute AS a, (
        SELECT array_agg(i.number) AS numbers
        FROM jsonb_each_text(p_is) AS i (number, written)
        WHERE CASE WHEN p_source.trace LIKE '%?' THEN i.written ELSE split_part(i.written, '(', 1) END
            IS DISTINCT FROM CASE WHEN p_source.trace LIKE '%?' THEN p_was ->> i.number ELSE split_part(p_was ->> i.number, '(', 1) END
    ) AS changed
    WHERE a.attrelid = p_source.relation AND a.attname IN (p_source.time_column, p_source.key_column)
        AND p_source.change_tracking = 'trigger' AND p_was IS NOT NULL
        AND a.attnum::text = ANY (changed.numbers) AND cardinality(changed.numbers) > 1
$$;
COMMENT ON FUNCTION rollup_engine.borrowed_names(rollup_engine.source, jsonb, jsonb) IS
'Columns that changes are logged by of which, by who wrote the columns last, others may have had the names meanwhile.';

CREATE OR REPLACE FUNCTION rollup_engine.are_triggers_changed(p_source rollup_engine.source, p_was text[], p_is text[]) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT p_is @> ARRAY(
        SELECT g FROM unnest(p_was) AS g
        WHERE (p_source.trace LIKE '%?' OR g NOT LIKE '%)')
            -- Those whose place others have taken may go.
            AND g !~ CASE WHEN p_source.inserts_by_row THEN ' (tsrollup_insert|~tsrollup_moved|~tsrollup_replica)_' ELSE ' ~?tsrollup_row_' END)
$$;
COMMENT ON FUNCTION rollup_engine.are_triggers_changed(rollup_engine.source, text[], text[]) IS
'Whether capture triggers that were noted of a table are gone or were altered, so that they need not have fired.';

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
        WHEN NOT s.columns @> (n.columns - '') OR h.is_here AND NOT s.numbers @> (n.numbers - '') THEN format('columns of %s were changed', s.member::regclass)
        WHEN t.are_changed THEN format('capture triggers of %s were changed', s.member::regclass)
        ELSE format('columns of %s were rewritten', s.member::regclass)
    END
    FROM unnest(p_shapes) AS s
    CROSS JOIN LATERAL rollup_engine.is_noted_here(p_source) AS h (is_here)
    JOIN rollup_engine.source_shape AS n ON n.source_id = s.source_id
        AND n.member = CASE WHEN s.member = p_source.relation::oid THEN p_source.relation_oid WHEN h.is_here THEN s.member END
    CROSS JOIN LATERAL rollup_engine.are_triggers_changed(p_source, n.triggers, s.triggers) AS t (are_changed)
    WHERE n.kind <> s.kind
        OR NOT s.columns @> (n.columns - '')
        OR h.is_here AND (NOT s.numbers @> (n.numbers - '') OR t.are_changed
            -- ALTER TYPE ... USING does both; VACUUM FULL and SET STATISTICS one of them.
            OR n.file <> s.file AND NOT s.attributes @> (n.attributes - ''))
    UNION ALL
    SELECT format('column %I of %s is of another type now, or collation, of the same name', n.current_name, p_source.relation)
    FROM rollup_engine.columns_seen(p_source) AS n
    JOIN rollup_engine.source_column AS c ON c.source_id = p_source.id AND c.column_name = n.column_name
    WHERE c.seen -> 'called' = n.seen -> 'called' AND (rollup_engine.is_ordered_anew(c.seen, n.seen)
        OR rollup_engine.is_noted_here(p_source) AND (c.seen -> 'type' <> n.seen -> 'type' OR c.seen -> 'collation' <> n.seen -> 'collation'))
    UNION ALL
    SELECT format('%s, which an expression over %s goes by, is another one now', was.part, p_source.relation)
    FROM unnest(p_shapes) AS s
    JOIN rollup_engine.source_shape AS n ON n.source_id = s.source_id AND n.member = p_source.relation_oid
    CROSS JOIN LATERAL jsonb_each(n.columns -> '') AS was (part, definition)
    WHERE s.member = p_source.relation::oid AND NOT s.columns -> '' -> was.part @> was.definition
    UNION ALL
    SELECT format('column %I of %s was altered beside another one, which may have had its name', b.name, p_source.relation)
    FROM unnest(p_shapes) AS s
    JOIN rollup_engine.source_shape AS n ON n.source_id = s.source_id AND n.member = p_source.relation_oid
    CROSS JOIN LATERAL rollup_engine.borrowed_names(p_source, n.attributes -> '', s.attributes -> '') AS b (name)
    WHERE s.member = p_source.relation::oid AND rollup_engine.is_noted_here(p_source)
    UNION ALL
    -- Numbers tell nothing there, but what is added comes last.
    SELECT format('columns of %s were dropped, renamed or made anew (before a restore or after it)', p_source.relation)
    FROM unnest(p_shapes) AS s
    JOIN rollup_engine.source_shape AS n ON n.source_id = s.source_id AND n.member = p_source.relation_oid
    WHERE s.member = p_source.relation::oid AND NOT rollup_engine.is_noted_here(p_source)
        AND CASE WHEN n.numbers ? ''
            THEN (SELECT jsonb_agg(value ORDER BY ordinality) FROM jsonb_array_elements(s.numbers -> '') WITH ORDINALITY WHERE ordinality <= jsonb_array_length(n.numbers -> '')) <> n.numbers -> ''
            -- 0.1.0 noted those that are used. A dump makes numbers smaller.
            ELSE EXISTS (
                SELECT FROM jsonb_array_elements_text(s.numbers -> '') WITH ORDINALITY AS now (name, place) JOIN jsonb_each_text(n.numbers) AS was (name, number) USING (name)
                WHERE place > number::integer) END
    UNION ALL
    SELECT format('columns or capture triggers of %s were changed (after a restore)', t.relation)
    FROM rollup_engine.touched_since_restore(p_source) AS t (relation)
    WHERE NOT rollup_engine.is_noted_here(p_source)
    UNION ALL
    SELECT format('%s was altered while %s was out of reach', p_source.relation, r.target_table)
    FROM silver.rollup_config AS r
    WHERE r.source_id = p_source.id AND r.missed_changes AND rollup_engine.is_in_reach(r.target_table)
$$;
COMMENT ON FUNCTION rollup_engine.shape_changes(rollup_engine.source, rollup_engine.source_shape[]) IS 'What differs from the noted shape, in words.';

CREATE OR REPLACE FUNCTION rollup_engine.unseen_changes(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN rollup_engine.shape_trace(p_source) IS DISTINCT FROM p_source.trace THEN (
        SELECT string_agg(change, '; ') FROM rollup_engine.shape_changes(p_source, ARRAY(SELECT s FROM rollup_engine.current_shape(p_source) AS s)) AS change)
    END
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
    -- The number of a column that is gone may be another one's after a restore.
    UPDATE rollup_engine.source_column AS c SET attnum = coalesce(r.attnum, 0), seen = coalesce(r.seen, c.seen)
    FROM rollup_engine.source AS s, rollup_engine.columns_seen(s) AS r
    WHERE s.id = p_source_id AND c.source_id = s.id AND c.column_name = r.column_name
        AND (c.attnum, c.seen) IS DISTINCT FROM (coalesce(r.attnum, 0)::smallint, coalesce(r.seen, c.seen));
    UPDATE rollup_engine.source AS s SET relation_oid = s.relation, noted_in = rollup_engine.this_numbering(), owner_name = pg_get_userbyid(c.relowner)
    FROM pg_class AS c
    WHERE s.id = p_source_id AND c.oid = s.relation
        AND (s.relation_oid, s.noted_in, s.owner_name) IS DISTINCT FROM (s.relation::oid, rollup_engine.this_numbering(), pg_get_userbyid(c.relowner));
$$;
COMMENT ON FUNCTION rollup_engine.note_shape(integer, rollup_engine.source_shape[]) IS 'Remembers the shape that a drain has found.';

RESET ROLE;
