-- Creating rollups.
--
-- The caller owns the source: granting, and creating triggers, happens as the caller.
-- What belongs to the machinery is made by SECURITY DEFINER functions, which only
-- members of the owner role may call.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.grant_source_access(p_source regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_class pg_class;
    v_schema text;
BEGIN
    SELECT * INTO v_class FROM pg_class WHERE oid = p_source;
    v_schema := v_class.relnamespace::regnamespace::text;
    PERFORM rollup_engine.check_owner_role('create rollups');
    IF NOT pg_has_role(v_class.relowner, 'USAGE') THEN
        PERFORM rollup_engine.fail('TR004', format('%I does not own %s', current_user, p_source), format('create the rollup as %s', v_class.relowner::regrole));
    END IF;
    PERFORM rollup_engine.check_row_security(p_source);
    IF NOT EXISTS (SELECT FROM rollup_engine.source WHERE relation = p_source AND change_tracking = 'trigger') THEN
        PERFORM rollup_engine.check_no_index_is_built(p_source);
    END IF;
    IF rollup_engine.is_in_reach(p_source) THEN
        RETURN;
    END IF;
    -- Of two GRANTs at once, one would fail.
    PERFORM pg_advisory_xact_lock(rollup_engine.lock_key('grants', v_schema));
    IF NOT has_schema_privilege('${owner_role}', v_class.relnamespace, 'USAGE') THEN
        PERFORM rollup_engine.run_for_workers(format('GRANT USAGE ON SCHEMA %s TO "${owner_role}"', v_schema));
    END IF;
    IF NOT has_table_privilege('${owner_role}', p_source, 'SELECT') THEN
        -- It writes the row of the catalogue that a VACUUM, whose lock triggers wait for, writes at its end.
        IF v_class.relkind IN ('r', 'p') THEN
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', p_source);
        END IF;
        PERFORM rollup_engine.run_for_workers(format('GRANT SELECT ON %s TO "${owner_role}"', p_source));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.grant_source_access(regclass) IS 'An error unless the caller owns the source and may create rollups; grants the machinery SELECT on it.';

CREATE OR REPLACE FUNCTION rollup_engine.check_capture(p_source regclass, p_time_column name) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_reason text := rollup_engine.kept_elsewhere(p_source, p_time_column);
    v_other record;
BEGIN
    IF v_reason IS NULL THEN
        SELECT CASE WHEN c.relkind = 'f' THEN format('%s %s it is a foreign table', c.oid::regclass, f.side)
            ELSE format('%s %s it is %s', c.oid::regclass, f.side, CASE c.relpersistence WHEN 't' THEN 'temporary' ELSE 'unlogged' END) END
        INTO v_reason
        FROM (
            SELECT t.member, 'below' FROM rollup_engine.partition_tree(p_source) AS t (member)
            UNION ALL
            SELECT a.member, 'above' FROM rollup_engine.source_ancestors(p_source) AS a (member)
        ) AS f (member, side)
        JOIN pg_class AS c ON c.oid = f.member
        WHERE c.relkind NOT IN ('r', 'p') OR c.relpersistence <> 'p' AND f.side = 'below'
        LIMIT 1;
    END IF;
    IF v_reason IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('changes of %s cannot be tracked: %s', p_source, v_reason),
            'change that, or use change_tracking => ''window''');
    END IF;
    SELECT f.member, f.member IN (SELECT rollup_engine.source_ancestors(p_source)) AS is_above, c.relowner::regrole AS owner INTO v_other
    FROM rollup_engine.source_family(p_source) AS f (member) JOIN pg_class AS c ON c.oid = f.member
    WHERE NOT pg_has_role(c.relowner, 'USAGE')
    LIMIT 1;
    IF FOUND THEN
        PERFORM rollup_engine.fail('TR004',
            format(CASE WHEN v_other.is_above THEN '%1$s is written through %2$s as well, which %3$I does not own' ELSE '%2$s is a part of %1$s, and %3$I does not own it' END,
                p_source, v_other.member, current_user),
            format(CASE WHEN v_other.is_above THEN 'roll up %s instead' ELSE 'give it to the owner of %3$s' END || ', or create the rollup as a member of %2$s too: capture triggers go there as well',
                v_other.member, v_other.owner, p_source));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_capture(regclass, name) IS 'An error unless triggers see every change of the source: of it, of the partitions below it, and through the tables above.';

-- That of 0.1.0 knew of no rollup that is to be renamed.
DROP FUNCTION IF EXISTS rollup_engine.check_target(text, text);
CREATE OR REPLACE FUNCTION rollup_engine.check_target(p_schema text, p_table text, p_renamed silver.rollup_config DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_table IS NULL OR octet_length(p_table) NOT BETWEEN 1 AND 63 THEN
        PERFORM rollup_engine.fail('TR001', format('%L is no name for a table', p_table), 'give a name of 1 to 63 bytes');
    ELSIF p_schema IS NULL OR NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = p_schema) THEN
        PERFORM rollup_engine.fail('TR002', format('target_schema %L does not exist', coalesce(p_schema, 'NULL')), 'rollup tables live in silver');
    ELSIF p_schema IN ('gold', 'rollup_engine', 'pg_catalog', 'information_schema') THEN
        PERFORM rollup_engine.fail('TR001', format('a rollup table cannot live in %s', p_schema), 'use silver; its live view goes to gold');
    ELSIF NOT has_schema_privilege('${owner_role}', p_schema, 'CREATE') THEN
        PERFORM rollup_engine.fail('TR004', format('%I may not create tables in %I', '${owner_role}', p_schema), format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', p_schema, '${owner_role}'));
    ELSIF EXISTS (SELECT FROM pg_class WHERE relname = p_table AND oid IS DISTINCT FROM p_renamed.target_table
        AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = p_schema)) THEN
        PERFORM rollup_engine.fail('TR003', format('%I.%I exists already', p_schema, p_table), 'choose another name, or rename that; or drop it first (a rollup with silver.drop_rollup)');
    ELSIF EXISTS (SELECT FROM pg_class WHERE relname = p_table AND oid IS DISTINCT FROM p_renamed.target_view AND relnamespace = 'gold'::regnamespace) THEN
        PERFORM rollup_engine.fail('TR003', format('gold.%I exists already, and the live view needs that name', p_table), 'choose another name');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_target(text, text, silver.rollup_config) IS 'An error unless a rollup can be created under that name, or the given one renamed to it.';

CREATE OR REPLACE FUNCTION rollup_engine.check_options(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.check_width('rollup_table_interval', p_rollup.bucket_width);
    PERFORM rollup_engine.check_interval('settle_delay', p_rollup.settle_delay, true, true);
    PERFORM rollup_engine.check_interval('processing_window', p_rollup.processing_window, false);
    PERFORM rollup_engine.check_interval('target_batch_duration', p_rollup.target_batch_duration, true);
    PERFORM rollup_engine.check_interval('look_back_window', p_rollup.look_back_window,
        p_rollup.change_tracking = 'window' AND p_rollup.parent_id IS NULL);  -- who looks back is the rollup at the root
    PERFORM rollup_engine.check_interval('retention', p_rollup.retention, false);
    IF p_rollup.chunk_interval IS NOT NULL THEN
        PERFORM rollup_engine.check_chunk(p_rollup.chunk_interval);
        IF p_rollup.chunk_interval < p_rollup.bucket_width THEN
            PERFORM rollup_engine.fail('TR001', format('chunk_interval %s is shorter than a bucket', p_rollup.chunk_interval), 'a partition holds whole buckets; leave it out for a default');
        END IF;
    END IF;
    IF p_rollup.change_tracking IS NULL OR p_rollup.change_tracking NOT IN ('trigger', 'window') THEN
        PERFORM rollup_engine.fail('TR001', format('change_tracking %L is unknown', coalesce(p_rollup.change_tracking, 'NULL')), 'use ''trigger'', or ''window'' with a look_back_window');
    END IF;
    IF p_rollup.origin IS NOT NULL AND (NOT isfinite(p_rollup.origin) OR NOT p_rollup.origin <@ rollup_engine.calendar()) THEN
        PERFORM rollup_engine.fail('TR001', 'origin lies outside of the years 1 to 9999', 'give a time at which a bucket begins; buckets go on from it both ways');
    END IF;
    IF rollup_engine.units_per_second(p_rollup.time_unit) IS NULL AND p_rollup.time_unit IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR001', format('time_unit %L is unknown', p_rollup.time_unit), 'use ''s'', ''ms'', ''us'' or ''ns'' for numbers that count from 1970; leave it out for times');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_options(silver.rollup_config) IS 'An error for an option that makes no sense.';

CREATE OR REPLACE FUNCTION rollup_engine.default_cell_width(p_width interval) RETURNS interval
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- 1,440 buckets (a day of minutes) and a minute at least, but no more than a century.
    SELECT p_width * greatest(1, least(
        greatest(1440, ceil(60 / extract(epoch FROM p_width))),
        floor(extract(epoch FROM interval '36000 days') / extract(epoch FROM p_width))))::integer
$$;
COMMENT ON FUNCTION rollup_engine.default_cell_width(interval) IS 'Width of the cells of a rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.advise_parent(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_parent regclass := (
        SELECT c.target_table
        FROM silver.rollup_config AS c
        -- No join: the planner would ask the rest of all rollups before it.
        WHERE c.source_id = ANY (ARRAY(
                SELECT s.id FROM rollup_engine.source AS s
                WHERE (s.relation, s.time_column, s.change_tracking) = (p_rollup.source_table, p_rollup.time_column, p_rollup.change_tracking)))
            AND c.dimensions @> p_rollup.dimensions
            AND (c.row_sql -> 'filter') IS NOT DISTINCT FROM (p_rollup.row_sql -> 'filter')
            AND NOT EXISTS (
                SELECT FROM (SELECT unnest(p_rollup.dimensions)::text UNION SELECT jsonb_object_keys(p_rollup.metrics)) AS used (name)
                WHERE (c.row_sql -> 'expressions' -> used.name) IS DISTINCT FROM (p_rollup.row_sql -> 'expressions' -> used.name))
            AND c.bucket_width < p_rollup.bucket_width AND isempty(rollup_engine.uneven_in_use(p_rollup, c))
            AND NOT EXISTS (
                SELECT m.source_column, unnest((m.aggregate).states) FROM rollup_engine.metric_aggregates(p_rollup) AS m
                EXCEPT
                SELECT source_column, state FROM rollup_engine.rollup_column WHERE rollup_id = c.id AND kind = 'state')
            -- Nor one that came when rows were gone, or whose own go before those of the source; or that cannot tell, without its zone.
            AND CASE WHEN rollup_engine.has_lost_zone(c) THEN false
                ELSE rollup_engine.known_since(p_rollup, c) IS NULL AND rollup_engine.complete_since(c, p_rollup.source_table) IS NULL END
        ORDER BY c.bucket_width DESC, c.id
        LIMIT 1);
BEGIN
    IF v_parent IS NOT NULL THEN
        RAISE NOTICE USING MESSAGE = format('%s holds all that this rollup needs, in fewer rows than %s', v_parent, p_rollup.source_table),
            HINT = format('drop it, and create it with %L as its source: each read of its open bucket costs less then', v_parent);
    ELSIF p_rollup.bucket_width >= '1 day' THEN
        RAISE NOTICE USING MESSAGE = format('each read of its open bucket computes up to %s of rows of %s', p_rollup.bucket_width, p_rollup.source_table),
            HINT = 'where those are many, create a rollup of an hour or less first, and this one with that as its source';
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.advise_parent(silver.rollup_config) IS 'A notice when a rollup that reads raw rows would do better on top of a finer one.';

CREATE OR REPLACE FUNCTION rollup_engine.tell_first_bucket(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_since constant timestamptz := (SELECT max(known_since) FROM rollup_engine.rollup_column WHERE rollup_id = p_rollup.id AND state = 'row_count');
BEGIN
    IF isfinite(p_rollup.sealed_before) THEN
        RAISE NOTICE USING MESSAGE = format('%s begins with the bucket of %s: older ones lack rows that retention has removed from %s, or is about to', p_rollup.target_table, p_rollup.sealed_before, p_rollup.source_table),
            HINT = 'where a finer rollup holds those, drop this one, and create it with that as its source';
    ELSIF v_since IS NOT NULL THEN
        RAISE NOTICE USING MESSAGE = format('%s knows nothing of before %s, as %s, which came when that was gone: its bucket of then is of what came later', p_rollup.target_table, v_since, p_rollup.source_table),
            HINT = 'where another rollup holds more, drop this one, and create it with that as its source';
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.tell_first_bucket(silver.rollup_config) IS 'A notice when a new rollup leaves out what its source no longer has.';

CREATE OR REPLACE FUNCTION rollup_engine.describe_rollup(
    p_options silver.rollup_config, p_source text, p_time_column text, p_dimensions text[], p_metrics jsonb
) RETURNS silver.rollup_config
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_parent silver.rollup_config;
    r silver.rollup_config := p_options;
BEGIN
    r.timezone := rollup_engine.zone_name(r.timezone);
    r.source_table := rollup_engine.resolve_source(p_source, r.change_tracking);
    SELECT * INTO v_parent FROM silver.rollup_config AS c WHERE c.target_table = r.source_table;
    r.parent_id := v_parent.id;
    r.depth := coalesce(v_parent.depth + 1, 0);
    IF r.parent_id IS NULL THEN
        r.time_column := rollup_engine.resolve_time_column(r.source_table, p_time_column, r.time_unit);
    ELSE
        IF p_time_column <> 'bucket' THEN
            PERFORM rollup_engine.fail('TR001', format('time_column %L: a rollup of a rollup goes by its bucket', p_time_column), 'leave time_column out');
        ELSIF r.time_unit IS NOT NULL THEN
            PERFORM rollup_engine.fail('TR001', format('time_unit %L: a rollup of a rollup goes by its bucket, which is a time', r.time_unit), 'leave time_unit out');
        END IF;
        r.time_column := 'bucket';
        r.source_id := v_parent.source_id;
        r.change_tracking := v_parent.change_tracking;
        PERFORM rollup_engine.check_nesting(r, v_parent);
    END IF;
    IF num_nonnulls(r.expressions, r.filter) > 0 THEN
        PERFORM rollup_engine.grant_source_access(r.source_table);
        r.row_sql := rollup_engine.describe_rows(r);
    END IF;
    r.dimensions := rollup_engine.resolve_dimensions(r.source_table, r.time_column, r.parent_id, p_dimensions, r.row_sql);
    r.metrics := rollup_engine.resolve_metrics(r.source_table, r.time_column, r.parent_id, r.dimensions, p_metrics, r.row_sql);
    r.cell_width := rollup_engine.default_cell_width(r.bucket_width);
    r.chunk_interval := coalesce(r.chunk_interval, least(30 * r.cell_width, greatest(r.cell_width, '36000 days')));
    r.current_window := coalesce(r.processing_window, r.cell_width);
    r.source_rows := rollup_engine.estimated_rows(r.source_table);
    IF r.parent_id IS NULL THEN
        PERFORM rollup_engine.advise_parent(r);
    END IF;
    RETURN r;
END
$$;
COMMENT ON FUNCTION rollup_engine.describe_rollup(silver.rollup_config, text, text, text[], jsonb) IS 'The checked description of a rollup to come.';

CREATE OR REPLACE FUNCTION rollup_engine.attach_source(p_rollup silver.rollup_config) RETURNS rollup_engine.source
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    IF p_rollup.parent_id IS NULL THEN
        RETURN rollup_engine.register_source(p_rollup.source_table, p_rollup.time_column, p_rollup.time_unit, p_rollup.change_tracking, p_rollup.bucket_width);
    END IF;
    PERFORM pg_advisory_xact_lock(rollup_engine.source_lock_key(p_rollup.source_id));
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_rollup.source_id;
    RETURN v_source;
END
$$;
COMMENT ON FUNCTION rollup_engine.attach_source(silver.rollup_config) IS 'The tracked source of a rollup to come, made where it is new; keeps drains out until the end of the transaction.';

CREATE OR REPLACE FUNCTION rollup_engine.create_rollup(
    p_options silver.rollup_config, p_source text, p_schema text, p_table text, p_time_column text, p_dimensions text[], p_metrics jsonb
) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
    r silver.rollup_config;
BEGIN
    PERFORM rollup_engine.check_owner_role('create rollups');
    PERFORM rollup_engine.check_options(p_options);
    PERFORM rollup_engine.check_target(p_schema, p_table);
    r := rollup_engine.describe_rollup(p_options, p_source, p_time_column, p_dimensions, p_metrics);
    PERFORM rollup_engine.grant_source_access(r.source_table);
    IF r.change_tracking = 'trigger' AND r.parent_id IS NULL THEN
        PERFORM rollup_engine.check_capture(r.source_table, r.time_column);
    END IF;

    v_source := rollup_engine.attach_source(r);
    r.source_id := v_source.id;
    r := rollup_engine.register_rollup(r, format('%I.%I', p_schema, p_table), format('gold.%I', p_table));
    UPDATE rollup_engine.partition_set SET is_named = p_options.chunk_interval IS NOT NULL WHERE relation = r.target_table;
    IF EXISTS (SELECT FROM silver.rollup_config WHERE source_id = v_source.id AND id <> r.id) THEN
        PERFORM rollup_engine.look_at_source(v_source.id);  -- columns may have other names by now
        PERFORM rollup_engine.watch_tables(s, p_waits => true) FROM rollup_engine.source AS s WHERE s.id = v_source.id;  -- the others hold nothing of what came since
    ELSE
        PERFORM rollup_engine.add_triggers(v_source);
    END IF;
    PERFORM rollup_engine.look_at_source(v_source.id);
    PERFORM rollup_engine.mark_new(r.id, rollup_engine.everything());
    PERFORM rollup_engine.tell_first_bucket(r);
    PERFORM rollup_engine.check_window_keep(r.source_table, r.id);
    PERFORM rollup_engine.check_kept_otherwise(r.source_table);
    PERFORM rollup_engine.warn_of_partman_retention(r.source_table);
    RETURN r.target_table;
END
$$;
COMMENT ON FUNCTION rollup_engine.create_rollup(silver.rollup_config, text, text, text, text, text[], jsonb) IS 'What create_rollup_table does where there is no such rollup yet.';

RESET ROLE;
