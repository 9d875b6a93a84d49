-- Capture: statement triggers write the time ranges that a statement touched to
-- the change log, in the writer's own transaction. The log row becomes visible
-- in the same instant as the data it speaks of.
--
-- A capture function never fails a write: it computes its ranges in an
-- exception block that writes nothing, and on any error logs "everything".

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE FUNCTION rollup_engine.everything() RETURNS tstzmultirange
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN tstzmultirange(tstzrange('-infinity', 'infinity'));
COMMENT ON FUNCTION rollup_engine.everything() IS 'The range that stands for all time.';

CREATE FUNCTION rollup_engine.utc_expression(p_column name, p_type regtype) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_type
        WHEN 'timestamptz'::regtype THEN format('%I', p_column)
        WHEN 'timestamp'::regtype THEN format('(%I AT TIME ZONE ''UTC'')', p_column)
        ELSE format('(%I::timestamp AT TIME ZONE ''UTC'')', p_column)
    END
$$;
COMMENT ON FUNCTION rollup_engine.utc_expression(name, regtype) IS 'The time column as timestamptz; timestamps and dates are read as UTC.';

-- The capture function of a source ----------------------------------------------------

CREATE FUNCTION rollup_engine.capture_ranges_sql(p_source rollup_engine.source, p_rows text, p_late text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    -- Few buckets between the lowest and the highest time, or a hundred rows for each:
    -- their hull is cheaper than DISTINCT.
    SELECT rollup_engine.fill($sql$
        SELECT count(*), min(ts), max(ts) INTO v_rows, v_low, v_high FROM (SELECT {time} AS ts FROM {rows}) AS changed;
        IF v_low < '0001-01-01 00:00:00+00' OR v_high >= '10000-01-01 00:00:00+00' THEN
            SELECT count(*), min(ts), max(ts) INTO v_rows, v_low, v_high
            FROM (SELECT {time} AS ts FROM {rows}) AS changed
            WHERE ts >= '0001-01-01 00:00:00+00' AND ts < '10000-01-01 00:00:00+00';
        END IF;
        IF v_low < (SELECT sealed_before FROM rollup_engine.source WHERE id = {id}) THEN
            SELECT count(*) INTO v_late_rows
            FROM (SELECT {time} AS ts FROM {late}) AS changed
            WHERE ts < (SELECT sealed_before FROM rollup_engine.source WHERE id = {id});
        END IF;
        v_low := date_bin(v_grain, v_low, v_origin);
        v_high := date_bin(v_grain, v_high, v_origin) + v_grain;
        IF v_high - v_low <= greatest(16, v_rows / 100) * v_grain THEN
            v_changed := tstzmultirange(tstzrange(v_low, v_high));
        ELSIF v_high IS NOT NULL THEN
            LOOP
                SELECT range_agg(tstzrange(bin, bin + v_grain)) INTO v_changed
                FROM (
                    SELECT DISTINCT date_bin(v_grain, ts, v_origin) AS bin
                    FROM (SELECT {time} AS ts FROM {rows}) AS changed
                    WHERE ts >= '0001-01-01 00:00:00+00' AND ts < '10000-01-01 00:00:00+00'
                ) AS bins;
                EXIT WHEN (SELECT count(*) FROM unnest(v_changed)) <= 10000;
                v_grain := 10 * v_grain;
            END LOOP;
        END IF;
    $sql$,
        jsonb_build_object('rows', p_rows, 'late', p_late, 'id', p_source.id,
            'time', rollup_engine.utc_expression(p_source.time_column, p_source.time_type)))
$$;
COMMENT ON FUNCTION rollup_engine.capture_ranges_sql(rollup_engine.source, text, text) IS
'Body that coalesces the times of transition rows at the source''s grain, and counts those that come too late for a rollup.';

CREATE FUNCTION rollup_engine.capture_function_sql(p_source rollup_engine.source) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    SELECT format($sql$
CREATE OR REPLACE FUNCTION rollup_engine.capture_%1$s() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
AS %2$L
$sql$, p_source.id, format($body$
DECLARE
    v_grain interval := %2$L;
    v_origin CONSTANT timestamptz := '2000-01-03 00:00:00+00';
    v_rows bigint;
    v_low timestamptz;
    v_high timestamptz;
    v_changed tstzmultirange;
    v_late_rows integer := 0;
BEGIN
    BEGIN
        IF TG_OP = 'TRUNCATE' THEN
            SELECT tstzmultirange(tstzrange(from_time, to_time)) INTO v_changed
            FROM rollup_engine.source_partition WHERE source_id = %1$s AND partition = TG_RELID;
            v_changed := coalesce(v_changed, rollup_engine.everything());
        ELSIF TG_LEVEL = 'ROW' THEN
            -- Statement triggers log a move inside a partition. Of time, that is: other keys have no bounds
            -- here, and a default partition holds less than its bounds.
            IF TG_ARGV[0] = 'by time' AND EXISTS (
                SELECT FROM rollup_engine.source_partition
                WHERE source_id = %1$s AND partition = TG_RELID
                    AND (SELECT min(%3$s) >= from_time AND min(%3$s) < to_time FROM (SELECT NEW.*) AS n)
            ) AND NOT EXISTS (
                SELECT FROM pg_partition_ancestors(TG_RELID) AS a
                JOIN pg_partitioned_table AS p ON p.partdefid = a.relid AND p.partstrat = 'r'
            ) THEN
                RETURN NEW;
            END IF;
            SELECT range_agg(tstzrange(bin, bin + v_grain)) INTO v_changed
            FROM (
                SELECT date_bin(v_grain, ts, v_origin) AS bin
                FROM (SELECT %3$s AS ts FROM (SELECT OLD.* UNION ALL SELECT NEW.*) AS u) AS moved
                WHERE ts >= '0001-01-01 00:00:00+00' AND ts < '10000-01-01 00:00:00+00'
            ) AS bins;
            IF %6$L THEN  -- a generated time is computed after this trigger
                v_changed := rollup_engine.everything();
            END IF;
        ELSIF TG_OP = 'UPDATE' THEN
%4$s
        ELSE
%5$s
        END IF;
    EXCEPTION WHEN OTHERS THEN
        v_changed := rollup_engine.everything();
    END;
    INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, late_rows)
    SELECT %1$s, lower(r), upper(r), CASE WHEN lower(r) = lower(v_changed) THEN v_late_rows ELSE 0 END
    FROM unnest(v_changed) AS r;
    RETURN NEW;
END
$body$,
        p_source.id,
        p_source.grain,
        rollup_engine.utc_expression(p_source.time_column, p_source.time_type),
        rollup_engine.capture_ranges_sql(p_source, '(TABLE changed_rows UNION ALL TABLE new_rows) AS u', 'new_rows'),
        rollup_engine.capture_ranges_sql(p_source, 'changed_rows', 'changed_rows'),
        (SELECT attgenerated <> '' FROM pg_attribute WHERE attrelid = p_source.relation AND attname = p_source.time_column)))
$$;
COMMENT ON FUNCTION rollup_engine.capture_function_sql(rollup_engine.source) IS 'Text of the trigger function of a source.';

-- Its triggers --------------------------------------------------------------------------

CREATE FUNCTION rollup_engine.source_members(p_relation regclass, p_time_column name DEFAULT NULL)
RETURNS TABLE (member regclass, from_time timestamptz, to_time timestamptz)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    WITH RECURSIVE tree AS (
        SELECT p_relation::oid AS oid, timestamptz '-infinity' AS from_time, timestamptz 'infinity' AS to_time
        UNION ALL
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
    SELECT oid::regclass, tree.from_time, tree.to_time FROM tree
$$;
COMMENT ON FUNCTION rollup_engine.source_members(regclass, name) IS
'The table and every partition below it, each with the range of time it can hold: of that time column, else of whatever time it is partitioned by.';

CREATE FUNCTION rollup_engine.source_tree(p_relation regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE tree AS (
        SELECT p_relation::oid AS oid
        UNION ALL
        SELECT i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
    )
    SELECT oid::regclass FROM tree
$$;
COMMENT ON FUNCTION rollup_engine.source_tree(regclass) IS 'The table and every partition below it: source_members without the bounds, for a tenth of its time.';

CREATE FUNCTION rollup_engine.move_condition(p_relation regclass) RETURNS text
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

CREATE FUNCTION rollup_engine.missing_triggers(p_source rollup_engine.source)
RETURNS TABLE (member regclass, trigger_name name, definition text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.member, t.trigger_name, t.definition || format(' EXECUTE FUNCTION rollup_engine.capture_%s(%s)', p_source.id, t.argument)
    FROM rollup_engine.source_tree(p_source.relation) AS m (member)
    JOIN pg_class AS c ON c.oid = m.member
    CROSS JOIN LATERAL (VALUES
        (format('tsrollup_insert_%s', p_source.id), 'AFTER INSERT ON %s REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT', ''),
        (format('tsrollup_update_%s', p_source.id), 'AFTER UPDATE ON %s REFERENCING OLD TABLE AS changed_rows NEW TABLE AS new_rows FOR EACH STATEMENT', ''),
        (format('tsrollup_delete_%s', p_source.id), 'AFTER DELETE ON %s REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT', ''),
        (format('tsrollup_truncate_%s', p_source.id), 'AFTER TRUNCATE ON %s FOR EACH STATEMENT', ''),
        -- MERGE fires no statement trigger for the halves of a move between partitions. Row triggers
        -- are cloned to the partitions; the name sorts last, after triggers that change the row.
        (CASE WHEN c.relkind = 'p' THEN format('zz_tsrollup_move_%s_%s', p_source.id, (SELECT count(*) FROM pg_partition_ancestors(m.member))) END,
            CASE WHEN c.relkind = 'p' THEN 'BEFORE UPDATE ON %s FOR EACH ROW WHEN (' || replace(rollup_engine.move_condition(m.member), '%', '%%') || ')' END,
            CASE WHEN rollup_engine.partition_column(m.member) = p_source.time_column THEN '''by time''' END)
    ) AS t (trigger_name, definition, argument)
    WHERE t.definition IS NOT NULL
        AND p_source.change_tracking = 'trigger'
        AND NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = m.member AND g.tgname = t.trigger_name)
$$;
COMMENT ON FUNCTION rollup_engine.missing_triggers(rollup_engine.source) IS 'Capture triggers that the table or one of its partitions lacks.';

CREATE FUNCTION rollup_engine.log_change(p_source_id integer, p_from timestamptz, p_to timestamptz) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.change_log (source_id, from_time, to_time) VALUES (p_source_id, p_from, p_to)
$$;
COMMENT ON FUNCTION rollup_engine.log_change(integer, timestamptz, timestamptz) IS 'Logs a range as changed.';

CREATE FUNCTION rollup_engine.add_triggers(p_source rollup_engine.source, p_member regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_missing record;
BEGIN
    FOR v_missing IN SELECT * FROM rollup_engine.missing_triggers(p_source) WHERE member = p_member LOOP
        EXECUTE format('CREATE TRIGGER %I ' || v_missing.definition, v_missing.trigger_name, v_missing.member);
        IF pg_has_role((SELECT relowner FROM pg_class WHERE oid = v_missing.member), 'USAGE') THEN
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', v_missing.member, v_missing.trigger_name);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.add_triggers(rollup_engine.source, regclass) IS 'Creates the capture triggers that one table lacks. ENABLE ALWAYS, which needs the owner, catches replica sessions too.';

RESET ROLE;
