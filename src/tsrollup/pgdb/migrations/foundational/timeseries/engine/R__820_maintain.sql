-- The order of maintenance, and who may do which part of it: silver.maintain_timeseries_tables.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.maintain_set(p_set rollup_engine.partition_set, p_steps text[], p_now timestamptz) RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
    SET lock_timeout = '300ms'  -- other tables wait behind it, and whom a deadlock would end
AS $$
DECLARE
    v_relation constant regclass := p_set.relation;
    v_target constant text := v_relation::text;
    v_step text;
    v_done text;
    v_failure rollup_engine.failure;
BEGIN
    FOREACH v_step IN ARRAY p_steps LOOP
        BEGIN
            PERFORM rollup_engine.wait_no_longer();
            p_set := rollup_engine.followed_set(v_relation);
            EXIT WHEN p_set.relation IS NULL;  -- dropped meanwhile
            v_done := rollup_engine.maintenance_step(p_set, v_step, p_now);
            IF v_done IS NOT NULL THEN
                RETURN NEXT ROW(v_target, v_step, v_done)::rollup_engine.maintenance_action;
            END IF;
        EXCEPTION
            WHEN lock_not_available THEN
                RETURN NEXT ROW(v_target, 'skipped', format('not %s, for somebody uses it; the next run tries again', v_step))::rollup_engine.maintenance_action;
            WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS
                    v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
                    v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
                EXIT WHEN NOT EXISTS (SELECT FROM rollup_engine.partition_set WHERE relation = v_relation);
                PERFORM rollup_engine.record_maintenance_failure(v_target, v_failure);
                RETURN NEXT ROW(v_target, 'failed', format('not %s: %s', v_step, SQLERRM))::rollup_engine.maintenance_action;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.maintain_set(rollup_engine.partition_set, text[], timestamptz) IS 'Takes the steps for one table; one that fails stops no other.';

CREATE OR REPLACE FUNCTION rollup_engine.lasting_problem(p_relation regclass) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_found record;
BEGIN
    SELECT * INTO v_found FROM rollup_engine.retention_problem(p_relation);
    IF v_found.problem IS NOT NULL THEN
        -- Unless its time was renamed since the last run.
        PERFORM rollup_engine.drain_step(s.id, NULL) FROM rollup_engine.tracked_sources(p_relation) AS s;
        SELECT * INTO v_found FROM rollup_engine.retention_problem(p_relation);
    END IF;
    RETURN v_found.problem || '; ' || v_found.hint;
END
$$;
COMMENT ON FUNCTION rollup_engine.lasting_problem(regclass) IS 'As retention_problem, with its hint: what is left of it when all is looked at anew.';

CREATE OR REPLACE FUNCTION rollup_engine.seal_due(p_retention rollup_engine.retention, p_now timestamptz) RETURNS TABLE (action text, detail text)
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN border IS NULL THEN 'skipped' ELSE 'sealed' END,
        CASE WHEN border IS NULL THEN format('nothing is sealed: %s', obstacle) ELSE format('before %s; removed by a later run', border) END
    FROM rollup_engine.seal(p_retention, p_now)
    WHERE num_nonnulls(border, obstacle) > 0
$$;
COMMENT ON FUNCTION rollup_engine.seal_due(rollup_engine.retention, timestamptz) IS 'Seals what is due, and says so, or what is in the way.';

CREATE OR REPLACE FUNCTION rollup_engine.apply_retention(p_retention rollup_engine.retention, p_now timestamptz) RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET lock_timeout = '300ms'
AS $$
DECLARE
    v_target constant text := p_retention.relation::text;
    v_retention rollup_engine.retention;
    v_step text;
    v_problem text;
    v_failure rollup_engine.failure;
BEGIN
    -- As it is now, and stays until the end: whoever sets it anew waits, or has this wait for the next run.
    SELECT * INTO v_retention FROM rollup_engine.retention WHERE relation = p_retention.relation FOR NO KEY UPDATE SKIP LOCKED;
    -- What is removed stays so when the seal fails.
    FOREACH v_step IN ARRAY CASE
        WHEN v_retention.keep IS NOT NULL THEN '{removed,sealed}'
        WHEN isfinite(v_retention.sealed_before) THEN '{sealed}'  -- as far as it was, what came after that
        ELSE '{}' END::text[]
    LOOP
        BEGIN
            IF v_step = 'removed' THEN
                v_problem := rollup_engine.lasting_problem(v_retention.relation);
                IF v_problem IS NOT NULL THEN
                    RETURN NEXT ROW(v_target, 'skipped', format('nothing is sealed or removed: %s', v_problem))::rollup_engine.maintenance_action;
                    RETURN;
                END IF;
                RETURN QUERY SELECT v_target, r.action, r.detail FROM rollup_engine.remove_due(v_retention, p_now) AS r;
            ELSE
                RETURN QUERY SELECT v_target, s.action, s.detail FROM rollup_engine.seal_due(v_retention, p_now) AS s;
            END IF;
        EXCEPTION
            WHEN lock_not_available THEN
                RETURN NEXT ROW(v_target, 'skipped', format('not %s, for somebody uses it; the next run tries again', v_step))::rollup_engine.maintenance_action;
                RETURN;
            WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS
                    v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
                    v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
                PERFORM rollup_engine.record_maintenance_failure(v_target, v_failure);
                RETURN NEXT ROW(v_target, 'failed', format('retention: %s', SQLERRM))::rollup_engine.maintenance_action;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.apply_retention(rollup_engine.retention, timestamptz) IS 'Removes what an earlier run sealed, then seals what is due.';

-- Rollup tables belong to the owner role, for whom these two stand in; the names are looked up.
CREATE OR REPLACE FUNCTION rollup_engine.maintain_rollup(p_rollup_id integer, p_steps text[], p_now timestamptz) RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.*
    FROM silver.rollup_config AS r
    JOIN rollup_engine.partition_set AS s ON s.relation = r.target_table
    CROSS JOIN LATERAL rollup_engine.maintain_set(s, p_steps, rollup_engine.trusted_time(p_now)) AS a
    WHERE r.id = p_rollup_id AND rollup_engine.is_relation(r.target_table)
$$;
COMMENT ON FUNCTION rollup_engine.maintain_rollup(integer, text[], timestamptz) IS 'Maintains the table of a rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.retain_rollup(p_rollup_id integer, p_now timestamptz) RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_retention rollup_engine.retention;
BEGIN
    -- create_rollup_table knows of retention, too.
    INSERT INTO rollup_engine.retention (relation, keep)
    SELECT r.target_table, r.retention FROM silver.rollup_config AS r WHERE r.id = p_rollup_id AND r.retention IS NOT NULL
    ON CONFLICT DO NOTHING;
    SELECT t.* INTO v_retention
    FROM silver.rollup_config AS r JOIN rollup_engine.retention AS t ON t.relation = r.target_table WHERE r.id = p_rollup_id;
    IF FOUND THEN
        RETURN QUERY SELECT * FROM rollup_engine.apply_retention(v_retention, rollup_engine.trusted_time(p_now));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.retain_rollup(integer, timestamptz) IS 'Removes and seals old buckets of a rollup.';

-- Everything ------------------------------------------------------------------------------------

DROP FUNCTION IF EXISTS rollup_engine.foreign_owner(regclass);
CREATE OR REPLACE FUNCTION rollup_engine.foreign_owner(VARIADIC p_relations regclass[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Sources are maintained with the rights of the caller, which must reach the machinery as well.
    SELECT CASE
        WHEN bool_and(pg_has_role(o.id, 'USAGE')) AND pg_has_role('${owner_role}', 'USAGE') THEN NULL
        WHEN count(*) = 1 AND NOT bool_and(pg_has_role(o.id, 'USAGE')) THEN format('%s, who owns %s', min(o.name), p_relations[1])
        ELSE format('a member of %I and of %s', '${owner_role}', string_agg(o.name, ' and of ' ORDER BY o.name))
    END
    FROM (SELECT DISTINCT relowner, relowner::regrole::text FROM pg_class WHERE oid = ANY (p_relations)) AS o (id, name)
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION rollup_engine.foreign_owner(regclass[]) IS 'As whom to maintain tables that the caller may not act for, NULL when it may.';

CREATE OR REPLACE FUNCTION rollup_engine.out_of_lock(p_relations regclass[]) RETURNS regclass[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT r FROM unnest(p_relations) AS r WHERE NOT has_table_privilege(r, 'UPDATE, DELETE, TRUNCATE'));
END
$$;
COMMENT ON FUNCTION rollup_engine.out_of_lock(regclass[]) IS 'Which tables the caller may not keep others from.';

CREATE OR REPLACE FUNCTION rollup_engine.foreign_due(p_retention rollup_engine.retention, p_now timestamptz) RETURNS regclass[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms'  -- bounds are not shown while a partition is locked
AS $$
DECLARE
    v_foreign regclass[] := rollup_engine.out_of_lock(ARRAY(SELECT rollup_engine.partition_tree(p_retention.relation)));
BEGIN
    IF v_foreign = '{}' THEN
        RETURN v_foreign;
    END IF;
    RETURN ARRAY(
        SELECT m.member FROM rollup_engine.time_partitions(p_retention.relation) AS m
        WHERE m.member = ANY (v_foreign) AND m.from_time < rollup_engine.time_before(p_now, p_retention.keep));
EXCEPTION WHEN lock_not_available THEN
    RETURN v_foreign;
END
$$;
COMMENT ON FUNCTION rollup_engine.foreign_due(rollup_engine.retention, timestamptz) IS 'Partitions that are due, or may be, and that the caller may not keep others from.';

CREATE OR REPLACE FUNCTION rollup_engine.is_divided_now(p_relation regclass) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms'  -- as above
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM rollup_engine.partition_bounds(p_relation) WHERE isfinite(from_time) AND now() >= from_time AND now() < to_time);
EXCEPTION WHEN lock_not_available THEN
    RETURN true;  -- the next run looks again
END
$$;
COMMENT ON FUNCTION rollup_engine.is_divided_now(regclass) IS 'Whether a table has a partition for rows of now, other than a default one.';

CREATE OR REPLACE FUNCTION rollup_engine.skip_foreign(p_step text, p_owner text, VARIADIC p_relations regclass[]) RETURNS rollup_engine.maintenance_action
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_failure rollup_engine.failure;
BEGIN
    v_failure.code := 'TR004';
    v_failure.message := format('%srun maintenance as %s', p_step, p_owner);
    -- Where all is another's, there is a run of his, or there is not. Where it is mixed, nobody's is enough.
    SELECT format('or ALTER TABLE %s OWNER TO %s', min(c.oid::regclass::text), r.relowner::regrole) || CASE WHEN count(*) > 1 THEN format(', and %s more', count(*) - 1) ELSE '' END
    INTO v_failure.hint
    FROM pg_class AS c JOIN pg_class AS r ON r.oid = p_relations[1] AND NOT pg_has_role(r.relowner, c.relowner, 'USAGE')
    WHERE c.oid = ANY (p_relations)
    GROUP BY r.relowner;
    IF NOT FOUND AND NOT rollup_engine.is_divided_now(p_relations[1]) THEN
        v_failure.hint := 'nobody else seems to: rows of now have no partition';
    END IF;
    IF v_failure.hint IS NOT NULL AND pg_has_role('${owner_role}', 'USAGE') THEN
        PERFORM rollup_engine.record_obstacle(p_relations[1]::text, v_failure);
    END IF;
    RETURN ROW(p_relations[1]::text, 'skipped', concat_ws('; ', v_failure.message, v_failure.hint))::rollup_engine.maintenance_action;
END
$$;
COMMENT ON FUNCTION rollup_engine.skip_foreign(text, text, regclass[]) IS
'Says as whom to take a step for a table, the first, that the caller may not take; logs, once a day, where nobody may, or does.';

CREATE OR REPLACE FUNCTION rollup_engine.tell_of_exchanged_set(p_set rollup_engine.partition_set) RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_other constant regclass := rollup_engine.now_called(p_set.relation_name, p_set.relation);
    v_failure rollup_engine.failure;
BEGIN
    IF rollup_engine.partition_column(v_other) IS NOT NULL AND NOT EXISTS (SELECT FROM rollup_engine.partition_set WHERE relation = v_other) THEN
        v_failure.code := 'TR004';
        v_failure.message := format('%s is another table now, of which no partitions are made: those are of the one that had this name, %s', v_other, p_set.relation);
        v_failure.hint := format('SELECT silver.partition_source(%L, %L); with the name %L, where that alone is to get them',
            v_other, p_set.chunk_interval, p_set.relation);
        PERFORM rollup_engine.record_obstacle(p_set.relation::text, v_failure);
        RETURN NEXT ROW(v_other::text, 'skipped', concat_ws('; ', v_failure.message, v_failure.hint))::rollup_engine.maintenance_action;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.tell_of_exchanged_set(rollup_engine.partition_set) IS 'Says that a table whose partitions are made gave its name to another one, which gets none.';

CREATE OR REPLACE FUNCTION rollup_engine.maintain_sources(p_relation regclass, p_steps text[], p_now timestamptz) RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_set rollup_engine.partition_set;
    v_owner text;
    v_needed regclass[];
BEGIN
    FOR v_set IN SELECT s.* FROM rollup_engine.source_sets() AS s WHERE p_relation IS NULL OR rollup_engine.lies_in(s.relation, p_relation) LOOP
        v_needed := v_set.relation || rollup_engine.out_of_lock(ARRAY(SELECT partdefid::regclass FROM pg_partitioned_table WHERE partrelid = v_set.relation AND partdefid <> 0));
        v_owner := rollup_engine.foreign_owner(VARIADIC v_needed);
        IF v_owner IS NULL THEN
            RETURN QUERY SELECT * FROM rollup_engine.maintain_set(v_set, p_steps, p_now);
            RETURN QUERY SELECT * FROM rollup_engine.tell_of_exchanged_set(v_set) WHERE 'premade' = ANY (p_steps);
        ELSIF 'premade' = ANY (p_steps) THEN
            RETURN NEXT rollup_engine.skip_foreign('', v_owner, VARIADIC v_needed);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.maintain_sources(regclass, text[], timestamptz) IS 'Maintains the sources that were handed over, as the caller.';

CREATE OR REPLACE FUNCTION rollup_engine.retain_sources(p_relation regclass, p_now timestamptz) RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_retention rollup_engine.retention;
    v_owner text;
    v_needed regclass[];
BEGIN
    FOR v_retention IN SELECT t.* FROM rollup_engine.source_retentions() AS t WHERE p_relation IS NULL OR t.relation = p_relation LOOP
        -- Rows of a part that is divided in turn are to have partitions before they are sealed; what is due is to be locked.
        v_needed := v_retention.relation || ARRAY(
            SELECT s.relation FROM rollup_engine.source_sets() AS s WHERE rollup_engine.lies_in(s.relation, v_retention.relation))
            || rollup_engine.foreign_due(v_retention, p_now);
        v_owner := rollup_engine.foreign_owner(VARIADIC v_needed);
        IF v_owner IS NULL THEN
            RETURN QUERY SELECT * FROM rollup_engine.apply_retention(v_retention, p_now);
        ELSE
            -- Of partitions, all: others fall due.
            RETURN NEXT rollup_engine.skip_foreign('retention: ', v_owner,
                VARIADIC v_needed || rollup_engine.out_of_lock(ARRAY(SELECT rollup_engine.partition_tree(v_retention.relation))));
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.retain_sources(regclass, timestamptz) IS 'Removes and seals old partitions of sources, as the caller.';

CREATE OR REPLACE FUNCTION rollup_engine.source_sets() RETURNS SETOF rollup_engine.partition_set
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    -- By lot: only the first lock is waited for.
    SELECT s.* FROM rollup_engine.partition_set AS s JOIN pg_class AS c ON c.oid = s.relation WHERE s.is_source ORDER BY random()
$$;
COMMENT ON FUNCTION rollup_engine.source_sets() IS 'Sources whose partitions maintenance makes.';

CREATE OR REPLACE FUNCTION rollup_engine.source_retentions() RETURNS SETOF rollup_engine.retention
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.* FROM rollup_engine.retention AS t JOIN pg_class AS c ON c.oid = t.relation
    WHERE NOT EXISTS (SELECT FROM silver.rollup_config AS r WHERE r.target_table = t.relation)
    ORDER BY random()  -- as above
$$;
COMMENT ON FUNCTION rollup_engine.source_retentions() IS 'Sources whose old partitions are removed.';

CREATE OR REPLACE FUNCTION rollup_engine.run_maintenance(p_target text, p_now timestamptz) RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation regclass;
    v_ids integer[];
    v_id integer;
    v_with_sources boolean;
    v_cleaned text;
BEGIN
    PERFORM rollup_engine.check_isolation();
    IF rollup_engine.must_rest() THEN
        RETURN;
    END IF;
    IF NOT pg_try_advisory_xact_lock(rollup_engine.lock_key('maintenance')) THEN
        RETURN NEXT ROW(p_target, 'skipped', 'another run of maintenance is at work')::rollup_engine.maintenance_action;
        RETURN;
    END IF;
    IF p_target IS NOT NULL AND rollup_engine.find_rollup_id(p_target) IS NULL THEN
        v_relation := rollup_engine.find_table(p_target);
        IF NOT EXISTS (SELECT FROM rollup_engine.source_retentions() AS t WHERE t.relation = v_relation) THEN
            v_relation := rollup_engine.find_partitioned(p_target);  -- or an error
        END IF;
    END IF;
    v_with_sources := p_target IS NULL OR v_relation IS NOT NULL;
    IF v_with_sources THEN
        RETURN QUERY SELECT * FROM rollup_engine.remove_distributed(v_relation, p_now);
        IF FOUND THEN
            RETURN;  -- the next run goes on
        END IF;
    END IF;
    v_ids := ARRAY(
        SELECT r.id FROM silver.rollup_config AS r
        WHERE p_target IS NULL OR r.id = rollup_engine.find_rollup_id(p_target) ORDER BY r.depth, r.id);
    -- What takes long comes first, and what users wait for last: locks are held until the end.
    FOREACH v_id IN ARRAY v_ids LOOP
        RETURN QUERY SELECT * FROM rollup_engine.maintain_rollup(v_id, '{analyzed,indexed}', p_now);
    END LOOP;
    IF v_with_sources THEN
        RETURN QUERY SELECT * FROM rollup_engine.maintain_sources(v_relation, '{analyzed,indexed}', p_now);
    END IF;
    v_cleaned := rollup_engine.clean_logs(p_now);
    IF v_cleaned IS NOT NULL THEN
        RETURN NEXT ROW(NULL, 'cleaned', v_cleaned)::rollup_engine.maintenance_action;
    END IF;
    RETURN QUERY SELECT * FROM rollup_engine.take_zone_rules();
    FOREACH v_id IN ARRAY v_ids LOOP
        RETURN QUERY SELECT * FROM rollup_engine.maintain_rollup(v_id, '{resized,premade}', p_now);
        RETURN QUERY SELECT * FROM rollup_engine.retain_rollup(v_id, p_now);
    END LOOP;
    IF v_with_sources THEN
        RETURN QUERY SELECT * FROM rollup_engine.retain_sources(v_relation, p_now);
        RETURN QUERY SELECT * FROM rollup_engine.maintain_sources(v_relation, '{resized,premade,skipped}', p_now);
    END IF;
    RETURN QUERY SELECT * FROM rollup_engine.forget_gone();
    PERFORM rollup_engine.find_keys();
END
$$;
COMMENT ON FUNCTION rollup_engine.run_maintenance(text, timestamptz) IS 'What maintain_timeseries_tables does.';

RESET ROLE;
