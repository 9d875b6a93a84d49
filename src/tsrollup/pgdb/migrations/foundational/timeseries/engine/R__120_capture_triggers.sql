-- Where the capture triggers of a source sit. Statement triggers fire on the table that a statement
-- names and on no other, so they are on the source, on everything below it, and on everything above
-- through which its rows are written as well.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- The family of a source -----------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.source_tree(p_relation regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- UNION: a table may be reached on two paths.
    WITH RECURSIVE tree AS (
        SELECT p_relation::oid AS oid
        UNION
        SELECT i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
    )
    SELECT oid::regclass FROM tree
$$;
COMMENT ON FUNCTION rollup_engine.source_tree(regclass) IS 'The table and every partition below it: source_members without the bounds, for a tenth of its time.';

CREATE OR REPLACE FUNCTION rollup_engine.source_members(p_relation regclass, p_time_column name DEFAULT NULL)
RETURNS TABLE (member regclass, from_time timestamptz, to_time timestamptz)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    WITH RECURSIVE tree AS (
        SELECT p_relation::oid AS oid, timestamptz '-infinity' AS from_time, timestamptz 'infinity' AS to_time
        UNION
        SELECT i.inhrelid,
            greatest(t.from_time, coalesce(b.bounds[1]::timestamptz, '-infinity')),
            least(t.to_time, coalesce(b.bounds[2]::timestamptz, 'infinity'))
        FROM tree AS t
        JOIN pg_inherits AS i ON i.inhparent = t.oid AND NOT i.inhdetachpending
        JOIN pg_class AS c ON c.oid = i.inhrelid
        CROSS JOIN LATERAL (
            SELECT CASE WHEN k.name = p_time_column OR p_time_column IS NULL AND k.name = ANY (rollup_engine.time_columns(t.oid::regclass))
                THEN ARRAY[
                    substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM [(]''([^'']*)''[)]'),
                    substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO [(]''([^'']*)''[)]')]
            END AS bounds
            FROM rollup_engine.partition_column(t.oid::regclass) AS k (name)
        ) AS b
    )
    SELECT oid::regclass, min(tree.from_time), max(tree.to_time) FROM tree GROUP BY oid
$$;
COMMENT ON FUNCTION rollup_engine.source_members(regclass, name) IS
'The table and every partition below it, each with the range of time it can hold: of that time column, else of whatever time it is partitioned by.';

CREATE OR REPLACE FUNCTION rollup_engine.source_ancestors(p_relation regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE tree AS (
        SELECT member FROM rollup_engine.source_tree(p_relation) AS t (member)
    ), above AS (
        SELECT i.inhparent AS oid, 1 AS height
        FROM tree JOIN pg_inherits AS i ON i.inhrelid = tree.member
        WHERE i.inhparent NOT IN (SELECT member FROM tree)
        UNION
        SELECT i.inhparent, above.height + 1 FROM above JOIN pg_inherits AS i ON i.inhrelid = above.oid
    )
    SELECT oid::regclass FROM above GROUP BY oid ORDER BY max(height) DESC
$$;
COMMENT ON FUNCTION rollup_engine.source_ancestors(regclass) IS 'Every table above the source, or above a table below it, the topmost first: a statement that names one of them writes rows of the source.';

CREATE OR REPLACE FUNCTION rollup_engine.kept_elsewhere(p_relation regclass, p_time_column name) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_family constant regclass[] := ARRAY(
        SELECT rollup_engine.source_ancestors(p_relation) UNION ALL SELECT rollup_engine.source_tree(p_relation));
    v_hypertables regclass;
    v_found regclass;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        EXECUTE 'SELECT logicalrelid FROM pg_catalog.pg_dist_partition WHERE logicalrelid = ANY ($1) LIMIT 1' INTO v_found USING v_family;
    END IF;
    IF v_found IS NOT NULL THEN
        RETURN format('%s is distributed by Citus: its rows are in shards, where its triggers do not fire', v_found);
    END IF;
    -- Whoever made it, its rows are read with the rights of the machinery: a plain table of a superuser's only.
    SELECT c.oid INTO v_hypertables
    FROM pg_class AS c
    JOIN pg_roles AS o ON o.oid = c.relowner AND o.rolsuper
    WHERE c.relnamespace::regnamespace::text = '_timescaledb_catalog' AND c.relname = 'hypertable' AND c.relkind = 'r';
    IF v_hypertables IS NOT NULL THEN
        EXECUTE format('SELECT f FROM %s AS h JOIN pg_class AS c ON c.relname = h.table_name AND c.relnamespace::regnamespace::text = quote_ident(h.schema_name)
            JOIN unnest($1) AS f ON f = c.oid LIMIT 1', v_hypertables) INTO v_found USING v_family;
    END IF;
    IF v_found IS NOT NULL THEN
        RETURN format('%s is a hypertable of TimescaleDB: its chunks change, are compressed and dropped without firing triggers', v_found);
    END IF;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = p_relation AND attname = p_time_column AND attgenerated = 'v') THEN
        RETURN format('triggers do not see its time column %I, which is generated and not stored', p_time_column);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.kept_elsewhere(regclass, name) IS 'Why triggers on the table would not see its rows change, though it looks like an ordinary one; NULL when they do.';

-- Its triggers --------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.move_condition(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Columns of the key, inside its expressions as well, depend on the table itself. Of types that may
    -- lack an equality, or have one that a restored dump does not find, the text is compared.
    SELECT string_agg(format(
        CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace AND t.typcategory IN ('B', 'D', 'N', 'S', 'T')
        THEN 'OLD.%1$I IS DISTINCT FROM NEW.%1$I' ELSE 'OLD.%1$I::text IS DISTINCT FROM NEW.%1$I::text' END,
        a.attname), ' OR ' ORDER BY a.attnum)
    FROM pg_depend AS d
    JOIN pg_attribute AS a ON a.attrelid = d.objid AND a.attnum = d.objsubid
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = p_relation AND d.deptype = 'i'
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p_relation AND d.refobjsubid = 0
$$;
COMMENT ON FUNCTION rollup_engine.move_condition(regclass) IS 'When an updated row may move between the partitions of the table; NULL when it has none.';

CREATE OR REPLACE FUNCTION rollup_engine.wanted_triggers(p_source rollup_engine.source)
RETURNS TABLE (member regclass, is_ancestor boolean, tgtype smallint, tgenabled "char")
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.member, f.is_ancestor, k.tgtype::smallint, k.tgenabled::"char"
    FROM (
        SELECT a.member, true AS is_ancestor FROM rollup_engine.source_ancestors(p_source.relation) AS a (member)
        UNION ALL
        SELECT t.member, false FROM rollup_engine.source_tree(p_source.relation) AS t (member)
    ) AS f
    JOIN pg_class AS c ON c.oid = f.member
    -- Row triggers are cloned to partitions.
    CROSS JOIN LATERAL (SELECT NOT f.is_ancestor AND (NOT c.relispartition OR f.member = p_source.relation) AS is_top) AS t
    CROSS JOIN LATERAL (SELECT t.is_top, t.is_top AND (c.relkind = 'p' OR c.relispartition) AS is_divided) AS m
    CROSS JOIN LATERAL (VALUES
        -- What is inserted through a parent that is not partitioned stays in the parent.
        (4, 'A', NOT f.is_ancestor OR c.relkind = 'p'),
        (16, 'A', true),
        (8, 'A', true),
        -- TRUNCATE fires on every table that it empties.
        (32, 'A', NOT f.is_ancestor),
        (19, 'A', c.relkind = 'p'),
        (17, 'A', m.is_divided),
        (5, 'A', m.is_divided AND EXISTS (
            SELECT FROM pg_trigger AS g JOIN pg_proc AS p ON p.oid = g.tgfoid
            WHERE g.tgtype & 7 = 7 AND p.pronamespace <> 'rollup_engine'::regnamespace
                AND g.tgrelid IN (SELECT rollup_engine.source_tree(p_source.relation)))),
        (29, 'R', m.is_top)
    ) AS k (tgtype, tgenabled, is_wanted)
    WHERE k.is_wanted AND p_source.change_tracking = 'trigger'
$$;
COMMENT ON FUNCTION rollup_engine.wanted_triggers(rollup_engine.source) IS 'The capture triggers that a source needs, from the top, by their pg_trigger.tgtype; trigger_sql says what each is for.';

CREATE OR REPLACE FUNCTION rollup_engine.trigger_sql(p_source rollup_engine.source, p_member regclass, p_type smallint) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fill(
        'CREATE TRIGGER {name} ' || t.definition || ' EXECUTE FUNCTION rollup_engine.capture_{id}(' || t.argument || ')',
        jsonb_build_object('id', p_source.id, 'table', p_member,
            'name', quote_ident(format('%s_%s', t.name, p_source.id) || CASE p_type WHEN 19 THEN '_' || p_member::oid ELSE '' END),
            'moved', rollup_engine.move_condition(p_member), 'time', quote_ident(p_source.time_column)))
    FROM (VALUES
        (4, 'tsrollup_insert', 'AFTER INSERT ON {table} REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT', ''),
        (16, 'tsrollup_update', 'AFTER UPDATE ON {table} REFERENCING OLD TABLE AS changed_rows NEW TABLE AS new_rows FOR EACH STATEMENT', ''),
        (8, 'tsrollup_delete', 'AFTER DELETE ON {table} REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT', ''),
        (32, 'tsrollup_truncate', 'AFTER TRUNCATE ON {table} FOR EACH STATEMENT', ''),
        -- MERGE fires no statement trigger for the halves of a move between partitions. Its name, one for
        -- each level, sorts last: after triggers that change the row.
        (19, '~tsrollup_move', 'BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({moved})', ''),
        -- MERGE that inserts and then updates may hand the inserted row to NEW TABLE in the updated one's place.
        (17, 'tsrollup_time', 'AFTER UPDATE ON {table} FOR EACH ROW WHEN (OLD.{time} IS DISTINCT FROM NEW.{time})', ''),
        -- A trigger of the user's that fires before INSERT changes a row that MERGE moves once more.
        (5, 'tsrollup_moved', 'AFTER INSERT ON {table} FOR EACH ROW WHEN (current_setting(''rollup_engine.moving_{id}'', true) = ''on'')', ''),
        -- Workers of logical replication fire row triggers only, and only those for replicas.
        (29, 'tsrollup_replica', 'AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW', '''replica''')
    ) AS t (type, name, definition, argument)
    WHERE t.type = p_type
$$;
COMMENT ON FUNCTION rollup_engine.trigger_sql(rollup_engine.source, regclass, smallint) IS 'Makes one capture trigger.';

CREATE OR REPLACE FUNCTION rollup_engine.capture_triggers(p_source rollup_engine.source) RETURNS SETOF pg_trigger
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM pg_trigger WHERE tgfoid = to_regprocedure(format('rollup_engine.capture_%s()', p_source.id))
$$;
COMMENT ON FUNCTION rollup_engine.capture_triggers(rollup_engine.source) IS 'The capture triggers that a source has, clones of row triggers among them.';

CREATE OR REPLACE FUNCTION rollup_engine.missing_triggers(p_source rollup_engine.source)
RETURNS TABLE (member regclass, is_ancestor boolean, tgtype smallint, tgenabled "char")
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT w.*
    FROM rollup_engine.wanted_triggers(p_source) AS w
    WHERE (w.member, w.tgtype) NOT IN (
        SELECT g.tgrelid, g.tgtype FROM rollup_engine.capture_triggers(p_source) AS g WHERE g.tgparentid = 0)
$$;
COMMENT ON FUNCTION rollup_engine.missing_triggers(rollup_engine.source) IS 'Capture triggers that a table of the family lacks.';

CREATE OR REPLACE FUNCTION rollup_engine.is_unwatched_above(p_source_id integer, p_relation regclass) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Reads wait for this; those that are missing there come together.
    WITH RECURSIVE above AS (
        SELECT inhparent AS oid FROM pg_inherits WHERE inhrelid = p_relation
        UNION
        SELECT i.inhparent FROM above JOIN pg_inherits AS i ON i.inhrelid = above.oid
    )
    SELECT EXISTS (
        SELECT FROM above
        WHERE NOT EXISTS (
            SELECT FROM pg_trigger AS g
            WHERE g.tgrelid = above.oid AND g.tgtype = 16 AND g.tgfoid = to_regprocedure(format('rollup_engine.capture_%s()', p_source_id))))
$$;
COMMENT ON FUNCTION rollup_engine.is_unwatched_above(integer, regclass) IS 'Whether a table above the source lacks capture triggers.';

CREATE OR REPLACE FUNCTION rollup_engine.stray_triggers(p_source rollup_engine.source) RETURNS TABLE (relation regclass, trigger_name name)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT g.tgrelid, g.tgname
    FROM rollup_engine.capture_triggers(p_source) AS g
    WHERE g.tgparentid = 0
        AND g.tgrelid NOT IN (
            SELECT rollup_engine.source_ancestors(p_source.relation) UNION ALL SELECT rollup_engine.source_tree(p_source.relation))
$$;
COMMENT ON FUNCTION rollup_engine.stray_triggers(rollup_engine.source) IS 'Capture triggers on tables that have left the family.';

CREATE OR REPLACE FUNCTION rollup_engine.capture_gaps(p_source rollup_engine.source) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s is written through %s as well, which lacks capture triggers', p_source.relation, string_agg(DISTINCT m.member::text, ', ')),
        format('run SELECT silver.perform_rollup() as a role that owns it (%s), which adds them; until then what is written through it is missed',
            string_agg(DISTINCT c.relowner::regrole::text, ', '))
    FROM rollup_engine.missing_triggers(p_source) AS m JOIN pg_class AS c ON c.oid = m.member
    -- Asked first: most sources have nothing above them, and there may be thousands of partitions below.
    WHERE EXISTS (SELECT FROM rollup_engine.source_ancestors(p_source.relation)) AND m.is_ancestor
    HAVING count(*) > 0
    UNION ALL
    SELECT format('trigger %I of %s sorts after capture: a row that it changes in a MERGE is missed', g.tgname, min(g.tgrelid)::regclass),
        format('ALTER TRIGGER %I ON %s RENAME TO a name without the ~, or other high characters, at its beginning', g.tgname, min(g.tgrelid)::regclass)
    FROM rollup_engine.capture_triggers(p_source) AS own
    JOIN pg_trigger AS g ON g.tgrelid = own.tgrelid AND g.tgname > own.tgname AND g.tgtype & 19 = 19 AND g.tgenabled <> 'D'
    JOIN pg_proc AS f ON f.oid = g.tgfoid AND f.pronamespace <> 'rollup_engine'::regnamespace
    WHERE own.tgtype = 19
    GROUP BY g.tgname
    UNION ALL
    SELECT k.reason, 'drop the rollup, or create it with change_tracking => ''window'''
    FROM rollup_engine.kept_elsewhere(p_source.relation, p_source.time_column) AS k (reason)
    WHERE k.reason IS NOT NULL AND p_source.change_tracking = 'trigger'
$$;
COMMENT ON FUNCTION rollup_engine.capture_gaps(rollup_engine.source) IS 'What lets changes of a source go by unseen.';

CREATE OR REPLACE FUNCTION rollup_engine.log_change(p_source_id integer, p_from timestamptz, p_to timestamptz) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.change_log (source_id, from_time, to_time) VALUES (p_source_id, p_from, p_to)
$$;
COMMENT ON FUNCTION rollup_engine.log_change(integer, timestamptz, timestamptz) IS 'Logs a range as changed.';

CREATE OR REPLACE FUNCTION rollup_engine.add_triggers(p_source rollup_engine.source, p_member regclass DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_missing record;
    v_name name;
BEGIN
    -- From the top, as writers lock.
    FOR v_missing IN SELECT * FROM rollup_engine.missing_triggers(p_source) WHERE p_member IS NULL OR member = p_member LOOP
        EXECUTE rollup_engine.trigger_sql(p_source, v_missing.member, v_missing.tgtype);
        IF pg_has_role((SELECT relowner FROM pg_class WHERE oid = v_missing.member), 'USAGE') THEN
            SELECT g.tgname INTO v_name FROM pg_trigger AS g
            WHERE g.tgrelid = v_missing.member AND g.tgtype = v_missing.tgtype AND g.tgparentid = 0
                AND g.tgfoid = to_regprocedure(format('rollup_engine.capture_%s()', p_source.id));
            EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', v_missing.member,
                CASE v_missing.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, v_name);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.add_triggers(rollup_engine.source, regclass) IS 'Creates the capture triggers that one table of the family lacks, or all that are missing. ENABLE ALWAYS, which needs the owner, catches replica sessions too.';

RESET ROLE;
