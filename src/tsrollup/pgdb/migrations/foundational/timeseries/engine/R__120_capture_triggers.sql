-- Where the capture triggers of a source sit. Statement triggers fire on the table that a statement
-- names and on no other, so they are on the source, on everything below it, and on everything above
-- through which its rows are written as well.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.move_condition(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Columns of the key, inside its expressions as well, depend on the table itself. Compared bit by bit:
    -- a type may lack an equality, or call equal what an expression tells apart (1.0 and 1.00), and its
    -- text is another one under other settings.
    SELECT format('record_image_ne(ROW(%s), ROW(%s))',
        string_agg(format('old.%I', a.attname), ', ' ORDER BY a.attnum), string_agg(format('new.%I', a.attname), ', ' ORDER BY a.attnum))
    FROM pg_depend AS d
    JOIN pg_attribute AS a ON a.attrelid = d.objid AND a.attnum = d.objsubid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = p_relation AND d.deptype = 'i'
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p_relation AND d.refobjsubid = 0
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION rollup_engine.move_condition(regclass) IS 'When an updated row may move between the partitions of the table; NULL when it has none.';

CREATE OR REPLACE FUNCTION rollup_engine.firing_mode(p_type smallint) RETURNS text
    LANGUAGE sql IMMUTABLE
RETURN CASE WHEN p_type IN (21, 27, 29, 31) THEN 'REPLICA' ELSE 'ALWAYS' END;
COMMENT ON FUNCTION rollup_engine.firing_mode(smallint) IS 'How a capture trigger of that pg_trigger.tgtype is enabled.';

CREATE OR REPLACE FUNCTION rollup_engine.wanted_triggers(p_source rollup_engine.source)
RETURNS TABLE (member regclass, is_ancestor boolean, tgtype smallint)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.member, f.is_ancestor, k.tgtype::smallint
    FROM (
        SELECT a.member, true AS is_ancestor, a.place
        FROM rollup_engine.source_ancestors(p_source.relation) WITH ORDINALITY AS a (member, place)
        UNION ALL
        SELECT t.member, false, t.place FROM rollup_engine.partition_tree(p_source.relation) WITH ORDINALITY AS t (member, place)
    ) AS f
    JOIN pg_class AS c ON c.oid = f.member
    -- Row triggers are cloned to partitions.
    CROSS JOIN LATERAL (SELECT NOT f.is_ancestor AND (NOT c.relispartition OR f.member = p_source.relation) AS is_top) AS t
    CROSS JOIN LATERAL (SELECT c.relkind = 'p' OR c.relispartition AS is_divided) AS d
    CROSS JOIN LATERAL (VALUES
        -- What is inserted through a parent that is not partitioned stays in the parent.
        (4, p_source.inserts_by_row IS NOT TRUE AND (NOT f.is_ancestor OR c.relkind = 'p')),
        (5, p_source.inserts_by_row IS TRUE AND f.member = p_source.relation),
        (16, true),
        (8, true),
        -- TRUNCATE fires on every table that it empties.
        (32, NOT f.is_ancestor),
        (18, c.relkind = 'p'),
        (19, c.relkind = 'p'),
        (7, c.relkind = 'p' AND NOT c.relispartition AND p_source.inserts_by_row IS NOT TRUE),
        (29, t.is_top AND NOT d.is_divided),
        (31, t.is_top AND d.is_divided AND p_source.inserts_by_row IS NOT TRUE),
        (27, t.is_top AND d.is_divided AND p_source.inserts_by_row IS TRUE),
        (21, p_source.inserts_by_row IS TRUE AND f.member = p_source.relation)
    ) AS k (tgtype, is_wanted)
    WHERE k.is_wanted AND p_source.change_tracking = 'trigger'
    ORDER BY f.is_ancestor DESC, f.place, k.tgtype
$$;
COMMENT ON FUNCTION rollup_engine.wanted_triggers(rollup_engine.source) IS 'The capture triggers that a source needs, from the top, by their pg_trigger.tgtype; trigger_definition says what each is for.';

CREATE OR REPLACE FUNCTION rollup_engine.trigger_definition(p_source rollup_engine.source, p_member regclass, p_type smallint) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- As pg_get_triggerdef writes it, but for casts and parentheses.
    SELECT rollup_engine.fill(t.definition || ' EXECUTE FUNCTION rollup_engine.capture_{id}(' || t.argument || ')',
        jsonb_build_object('id', p_source.id, 'table', p_member,
            'moved', rollup_engine.move_condition(p_member),
            'is_inserted', CASE p_type WHEN 5 THEN rollup_engine.insert_condition(p_source, 'note') WHEN 21 THEN rollup_engine.insert_condition(p_source, 'log_row') END))
    FROM (VALUES
        (4, 'AFTER INSERT ON {table} REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT', ''),
        (5, 'AFTER INSERT ON {table} FOR EACH ROW WHEN ({is_inserted})', ''),
        (21, 'AFTER INSERT OR UPDATE ON {table} FOR EACH ROW WHEN ({is_inserted})', '''replica'''),
        (16, 'AFTER UPDATE ON {table} REFERENCING OLD TABLE AS changed_rows NEW TABLE AS new_rows FOR EACH STATEMENT', ''),
        (8, 'AFTER DELETE ON {table} REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT', ''),
        (32, 'AFTER TRUNCATE ON {table} FOR EACH STATEMENT', ''),
        (18, 'BEFORE UPDATE ON {table} FOR EACH STATEMENT', ''),
        -- MERGE fires no statement trigger for the halves of a move between partitions. Of columns, only
        -- those of the key are in a condition: nobody can drop or retype these anyway.
        (19, 'BEFORE UPDATE ON {table} FOR EACH ROW WHEN (current_setting(''rollup_engine.merging_{id}'', true) = ''on'' AND ({moved}))', ''),
        -- A trigger of the user's that fires before INSERT changes a row that MERGE moves once more. And only
        -- where partitions have a trigger before INSERT does NEW TABLE hold what was stored: else 16 to 18 may
        -- put an inserted row in an updated one's place, and all of them a row whose generated columns are not yet computed.
        (7, 'BEFORE INSERT ON {table} FOR EACH ROW WHEN (current_setting(''rollup_engine.moving_{id}'', true) = ''on'')', ''),
        -- Workers of logical replication fire row triggers only, and only those for replicas. Of those that
        -- fire after writes to a partition the server warns, row by row, until its parallel workers stop for ever.
        (29, 'AFTER INSERT OR DELETE OR UPDATE ON {table} FOR EACH ROW', '''replica'''),
        (31, 'BEFORE INSERT OR DELETE OR UPDATE ON {table} FOR EACH ROW', '''replica'''),
        (27, 'BEFORE DELETE OR UPDATE ON {table} FOR EACH ROW', '''replica''')
    ) AS t (type, definition, argument)
    WHERE t.type = p_type
$$;
COMMENT ON FUNCTION rollup_engine.trigger_definition(rollup_engine.source, regclass, smallint) IS 'When and where one capture trigger fires, and what it runs.';

CREATE OR REPLACE FUNCTION rollup_engine.trigger_sql(p_source rollup_engine.source, p_member regclass, p_type smallint) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('CREATE OR REPLACE TRIGGER %I %s', format('%s_%s', t.name, p_source.id) || CASE WHEN p_type IN (7, 19) THEN '_' || p_member::oid ELSE '' END,
        rollup_engine.trigger_definition(p_source, p_member, p_type))
    FROM (VALUES
        (4, 'tsrollup_insert'), (5, 'tsrollup_row'), (21, 'tsrollup_row_replica'), (16, 'tsrollup_update'), (8, 'tsrollup_delete'), (32, 'tsrollup_truncate'), (18, 'tsrollup_merge'),
        (29, 'tsrollup_replica'),
        -- These sort last: after triggers that change the row. The first two are one for each level.
        (19, '~tsrollup_move'), (7, '~tsrollup_moved'), (31, '~tsrollup_replica'), (27, '~tsrollup_row_replica')
    ) AS t (type, name)
    WHERE t.type = p_type
$$;
COMMENT ON FUNCTION rollup_engine.trigger_sql(rollup_engine.source, regclass, smallint) IS 'Makes one capture trigger, in the place of another one of its name.';

CREATE OR REPLACE FUNCTION rollup_engine.capture_triggers(p_source rollup_engine.source) RETURNS SETOF pg_trigger
    LANGUAGE sql STABLE ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
    -- By what depends on the function: triggers have no index by it.
    SELECT g.*
    FROM pg_depend AS d JOIN pg_trigger AS g ON g.oid = d.objid
    WHERE d.classid = 'pg_trigger'::regclass AND d.refclassid = 'pg_proc'::regclass
        AND d.refobjid = to_regprocedure(format('rollup_engine.capture_%s()', p_source.id))
$$;
COMMENT ON FUNCTION rollup_engine.capture_triggers(rollup_engine.source) IS 'The capture triggers that a source has, clones of row triggers among them.';

CREATE OR REPLACE FUNCTION rollup_engine.is_as_made(p_source rollup_engine.source, p_trigger pg_trigger) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT regexp_replace(substr(pg_get_triggerdef(p_trigger.oid), length(format('CREATE TRIGGER %I ', p_trigger.tgname)) + 1), w.noise, '', 'g')
        = regexp_replace(rollup_engine.trigger_definition(p_source, p_trigger.tgrelid, p_trigger.tgtype), w.noise, '', 'g')
    FROM (VALUES ('[()]|::[a-z" ]*[a-z"]')) AS w (noise)
$$;
COMMENT ON FUNCTION rollup_engine.is_as_made(rollup_engine.source, pg_trigger) IS 'Whether a capture trigger with a condition has its own.';

CREATE OR REPLACE FUNCTION rollup_engine.missing_triggers(p_source rollup_engine.source)
RETURNS TABLE (member regclass, is_ancestor boolean, tgtype smallint)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT w.*
    FROM rollup_engine.wanted_triggers(p_source) AS w
    WHERE (w.member, w.tgtype) NOT IN (
        SELECT g.tgrelid, g.tgtype FROM rollup_engine.capture_triggers(p_source) AS g
        WHERE g.tgparentid = 0 AND g.tgattr = ''
            -- Asked of few: those of partitions have no condition.
            AND CASE WHEN g.tgtype IN (5, 7, 19, 21) THEN rollup_engine.is_as_made(p_source, g) ELSE g.tgqual IS NULL END)
$$;
COMMENT ON FUNCTION rollup_engine.missing_triggers(rollup_engine.source) IS 'Capture triggers that a table of the family lacks, or has something else in the place of.';

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
    WHERE g.tgparentid = 0 AND (g.tgrelid, g.tgtype) NOT IN (SELECT w.member, w.tgtype FROM rollup_engine.wanted_triggers(p_source) AS w)
$$;
COMMENT ON FUNCTION rollup_engine.stray_triggers(rollup_engine.source) IS 'Capture triggers on tables that have left the family, or have another place in it now.';

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
    SELECT format('trigger %I of %s sorts after capture: a row that it changes in a MERGE, or as a subscriber, is missed', g.tgname, min(g.tgrelid)::regclass),
        format('ALTER TRIGGER %I ON %s RENAME TO a name without the ~, or other high characters, at its beginning', g.tgname, min(g.tgrelid)::regclass)
    FROM rollup_engine.capture_triggers(p_source) AS own
    JOIN pg_trigger AS g ON g.tgrelid = own.tgrelid AND g.tgname > own.tgname AND g.tgtype & 3 = 3 AND g.tgtype & own.tgtype & 20 > 0 AND g.tgenabled <> 'D'
    JOIN pg_proc AS f ON f.oid = g.tgfoid AND f.pronamespace <> 'rollup_engine'::regnamespace
    WHERE own.tgtype & 3 = 3
    GROUP BY g.tgname
    UNION ALL
    SELECT k.reason, format('drop its rollups%s, and create them anew with change_tracking => ''window''', rollup_engine.sealed_note(p_source))
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
                rollup_engine.firing_mode(v_missing.tgtype), v_name);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.add_triggers(rollup_engine.source, regclass) IS 'Creates the capture triggers that one table of the family lacks, or all that are missing. ENABLE ALWAYS, which needs the owner, catches replica sessions too.';

RESET ROLE;
