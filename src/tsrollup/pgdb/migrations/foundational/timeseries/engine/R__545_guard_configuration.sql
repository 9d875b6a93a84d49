-- What the rows of a rollup mean is written in its configuration, and in the machinery's tables, its
-- table and its view. Whoever changes the first alone makes the others wrong in silence, and is refused.
-- Options may be updated, and are checked as those of a new rollup are. What the machinery itself
-- updates, it has noted elsewhere before: so a row says what is so, whoever writes it.
-- Rows that are inserted are a dump that is being loaded; of others validation says what they lack.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.is_so(p_new silver.rollup_config, p_old silver.rollup_config, p_column name) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_new.source_id;
    RETURN CASE p_column
        WHEN 'source_table' THEN p_new.parent_id IS NULL AND p_new.source_table = v_source.relation
        WHEN 'time_column' THEN p_new.parent_id IS NULL AND p_new.time_column = v_source.time_column
        WHEN 'key_dimension' THEN p_new.key_dimension IS NOT DISTINCT FROM rollup_engine.key_dimension(p_new)
        WHEN 'target_name' THEN p_new.target_name = p_new.target_table::text
        WHEN 'target_view' THEN NOT rollup_engine.is_relation(p_old.target_view)
        WHEN 'metrics' THEN NOT EXISTS (
            SELECT FROM rollup_engine.plan_columns(p_new, v_source.time_type) AS p
            FULL JOIN (SELECT * FROM rollup_engine.rollup_column WHERE rollup_id = p_new.id) AS c USING (column_name)
            WHERE p.kind IS DISTINCT FROM c.kind)
        -- Those that came are in its columns, those that went are not; what one says never changes.
        WHEN 'expressions' THEN NOT EXISTS (
            SELECT FROM jsonb_each(coalesce(p_old.expressions, '{}')) AS o FULL JOIN jsonb_each(coalesce(p_new.expressions, '{}')) AS n USING (key)
            CROSS JOIN LATERAL (
                SELECT EXISTS (SELECT FROM rollup_engine.rollup_column AS c WHERE c.rollup_id = p_new.id AND c.source_column = key)
            ) AS c (is_there)
            WHERE n.value IS DISTINCT FROM o.value AND (num_nonnulls(n.value, o.value) = 2
                OR (n.value IS NOT NULL) <> c.is_there
                OR (n.value IS NOT NULL) <> coalesce(p_new.row_sql -> 'expressions' ? key, false)))
        WHEN 'row_sql' THEN EXISTS (
            SELECT FROM rollup_engine.generated_text WHERE name = format('rows_%s', p_new.id) AND digest = md5(coalesce(p_new.row_sql::text, '')))
        WHEN 'retention' THEN p_new.retention IS NOT DISTINCT FROM (
            SELECT t.keep FROM rollup_engine.retention AS t WHERE t.relation = p_new.target_table)
        WHEN 'sealed_before' THEN coalesce(p_new.sealed_before > p_old.sealed_before, p_old.sealed_before IS NULL) AND EXISTS (
            SELECT FROM rollup_engine.retention AS t
            WHERE isfinite(t.sealed_before) AND p_new.sealed_before IN (rollup_engine.bucket_ceil(p_new, t.sealed_before), rollup_engine.bucket_ceil(p_new, t.last_border))
                AND (t.relation = p_new.target_table OR p_new.id IN (SELECT id FROM rollup_engine.readers(t.relation))))
        ELSE false
    END;
END
$$;
COMMENT ON FUNCTION rollup_engine.is_so(silver.rollup_config, silver.rollup_config, name) IS
'Whether the machinery has noted elsewhere what the configuration of a rollup is to say in a column.';

CREATE OR REPLACE FUNCTION rollup_engine.guard_configuration() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_options constant text[] := '{settle_delay,processing_window,target_batch_duration,look_back_window,chunk_interval}';
    v_checked silver.rollup_config;
    v_columns text[];
    v_fixed text;
BEGIN
    IF TG_WHEN = 'AFTER' THEN  -- what this reads is the row as it is now
        PERFORM rollup_engine.check_window_keep(NEW.source_table, NEW.id);
        RETURN NEW;
    ELSIF TG_OP <> 'UPDATE' THEN
        -- drop_rollup takes its function away first.
        IF TG_OP = 'DELETE' AND NOT EXISTS (SELECT FROM rollup_engine.generated_text WHERE name = format('live_%s', OLD.id)) THEN
            RETURN OLD;
        END IF;
        PERFORM rollup_engine.fail('TR003', format('rows of silver.rollup_config describe rollups that are there: no %s by hand', TG_OP),
            'SELECT silver.drop_rollup(...) drops a rollup with all that belongs to it');
    END IF;
    v_columns := ARRAY(
        SELECT n.key FROM jsonb_each(to_jsonb(NEW)) AS n JOIN jsonb_each(to_jsonb(OLD)) AS o USING (key)
        WHERE n.value <> o.value AND n.key <> ALL (TG_ARGV));
    v_fixed := (SELECT min(c) FROM unnest(v_columns) AS c WHERE c <> ALL (v_options) AND NOT rollup_engine.is_so(NEW, OLD, c::name));
    IF v_fixed IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR003', format('%I of %s cannot be changed in silver.rollup_config', v_fixed, OLD.target_table), CASE
            WHEN v_fixed = 'metrics' THEN format('SELECT silver.add_rollup_metric(%L, ...)', OLD.target_table)
            WHEN v_fixed IN ('retention', 'sealed_before') THEN format('SELECT silver.set_retention(%L, ...): how long rows are kept, and sealed by that', OLD.target_table)
            WHEN v_fixed LIKE 'target%' THEN format('SELECT silver.alter_rollup(%L, new_name => ...) renames it', OLD.target_table)
            ELSE format('its rows and its view are made by that: create another rollup, and drop this one with silver.drop_rollup(%L)%s; options are changed by silver.alter_rollup',
                OLD.target_table, rollup_engine.sealed_note(OLD)) END);
    ELSIF v_columns && v_options THEN
        v_checked := NEW;
        IF 'chunk_interval' <> ALL (v_columns) THEN
            v_checked.chunk_interval := NULL;  -- that of now was chosen by maintenance, or checked
        END IF;
        PERFORM rollup_engine.check_options(v_checked);
    END IF;
    IF 'look_back_window' = ANY (v_columns) THEN
        -- What changed since the last run may lie where a shorter window does not look any more.
        PERFORM rollup_engine.mark_rollups(
            ARRAY(SELECT rollup_engine.with_descendants(OLD.id)),
            rollup_engine.window_of(OLD.id) * tstzmultirange(tstzrange(NULL, now(), '[]')));
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION rollup_engine.guard_configuration() IS
'Refuses changes of the configuration that nothing else follows, and options that make no sense; what a window saw is stale when it is another one. Its arguments are columns of the progress of runs.';

CREATE OR REPLACE FUNCTION rollup_engine.guard_trigger_sql() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Runs update columns that are not named: it costs them nothing.
    SELECT format('CREATE OR REPLACE TRIGGER guard_configuration BEFORE DELETE OR UPDATE OF %s ON silver.rollup_config
    FOR EACH ROW EXECUTE FUNCTION rollup_engine.guard_configuration(%s);
    CREATE OR REPLACE TRIGGER guard_window AFTER UPDATE OF look_back_window ON silver.rollup_config
    FOR EACH ROW EXECUTE FUNCTION rollup_engine.guard_configuration();
    CREATE OR REPLACE TRIGGER guard_all BEFORE TRUNCATE ON silver.rollup_config
    FOR EACH STATEMENT EXECUTE FUNCTION rollup_engine.guard_configuration()',
        string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE a.attname <> ALL (progress.columns)),
        (SELECT string_agg(quote_literal(c), ', ') FROM unnest(progress.columns) AS c))
    FROM pg_attribute AS a, (VALUES (
        '{query_shape,is_active,sealed_late_rows,current_window,rows_per_second,source_rows,last_run_at,last_success_at,retry_count,next_retry_at,parked_at,status,refresh_sql,missed_changes}'::name[]
    )) AS progress (columns)
    WHERE a.attrelid = 'silver.rollup_config'::regclass AND a.attnum > 0 AND NOT a.attisdropped
    GROUP BY progress.columns
$$;
COMMENT ON FUNCTION rollup_engine.guard_trigger_sql() IS 'Text of the triggers that guard the configuration: all its columns but those of the progress of runs, and what shows or pauses them.';

SELECT rollup_engine.write_missing('trigger_guard_configuration', rollup_engine.guard_trigger_sql(),
    EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'silver.rollup_config'::regclass AND tgname = 'guard_configuration'));

RESET ROLE;
