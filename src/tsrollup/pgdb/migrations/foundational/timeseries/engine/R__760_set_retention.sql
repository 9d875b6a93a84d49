-- silver.set_retention, and what it refuses.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

DROP FUNCTION IF EXISTS rollup_engine.check_retention(regclass, boolean);
CREATE OR REPLACE FUNCTION rollup_engine.check_retention(p_relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner constant oid := (SELECT relowner FROM pg_class WHERE oid = p_relation);
    v_found record;
BEGIN
    SELECT * INTO v_found FROM rollup_engine.retention_problem(p_relation, false);
    IF v_found.problem IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', v_found.problem, v_found.hint);
    ELSIF NOT pg_has_role(v_owner, 'USAGE') THEN
        PERFORM rollup_engine.fail('TR004', format('%I does not own %s', current_user, p_relation), format('call it as %s', v_owner::regrole));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_retention(regclass) IS 'An error unless old partitions of a table can be dropped by its caller.';

CREATE OR REPLACE FUNCTION rollup_engine.ensure_archive_schema(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_schema constant text := rollup_engine.archive_schema(p_relation);
BEGIN
    IF rollup_engine.distribution_column(p_relation) IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('%s is distributed by Citus: what is old is dropped there, and not archived', p_relation),
            format('SELECT silver.set_retention(%L, ...) without archive', p_relation));
    END IF;
    IF octet_length((parse_ident(v_schema))[1]) > 63 THEN
        PERFORM rollup_engine.fail('TR001', format('the schema %s has no room for _archive behind its name', v_schema),
            'retention without archive drops partitions; or ALTER SCHEMA ... RENAME to a name of 55 bytes at most');
    END IF;
    PERFORM rollup_engine.check_archive_schema(p_relation, v_schema);
    IF to_regnamespace(v_schema) IS NULL THEN
        EXECUTE format('CREATE SCHEMA %s', v_schema);
        EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %s TO "${owner_role}"', v_schema);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    PERFORM rollup_engine.fail('TR004', format('%I may not create the schema %s', current_user, v_schema),
        format('as the owner of the database: CREATE SCHEMA %s; GRANT USAGE, CREATE ON SCHEMA %1$s TO %2$I, %3$I;', v_schema, current_user, '${owner_role}'));
END
$$;
COMMENT ON FUNCTION rollup_engine.ensure_archive_schema(regclass) IS 'Makes the archive schema of a table''s schema.';

CREATE OR REPLACE FUNCTION rollup_engine.write_retention(p_relation regclass, p_keep interval, p_archive boolean) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.retention (relation, keep, archive, relation_name, noted_in)
    VALUES (p_relation, p_keep, p_archive, p_relation::text, rollup_engine.this_numbering())
    ON CONFLICT (relation) DO UPDATE
    SET keep = excluded.keep, archive = excluded.archive, set_at = CASE WHEN retention.keep = excluded.keep THEN retention.set_at ELSE excluded.set_at END;
    UPDATE silver.rollup_config SET retention = p_keep WHERE target_table = p_relation;
$$;
COMMENT ON FUNCTION rollup_engine.write_retention(regclass, interval, boolean) IS 'Records how long a table is kept, and whether in an archive after that; NULL: for ever.';

-- A reader of a window reads what is there, and takes what is not for deleted.
CREATE OR REPLACE FUNCTION rollup_engine.window_keep_problem(p_relation regclass, p_rollup_id integer, OUT problem text, OUT hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    WITH kept AS MATERIALIZED (
        SELECT DISTINCT k.relation, k.keep
        FROM rollup_engine.tables_read(p_relation) AS t
        CROSS JOIN LATERAL rollup_engine.with_roots(t) AS a (relation)
        JOIN (
            SELECT relation, keep FROM rollup_engine.retention
            UNION ALL
            SELECT target_table, retention FROM silver.rollup_config  -- of one that no maintenance has seen yet
        ) AS k USING (relation)
    ), reader AS MATERIALIZED (
        SELECT p_rollup_id AS id WHERE p_rollup_id IS NOT NULL
        UNION ALL
        SELECT id FROM rollup_engine.readers(p_relation) WHERE p_rollup_id IS NULL AND rollup_engine.is_relation(source_table)
    )
    SELECT format('%s is kept for %s, and read again for %s', k.relation, k.keep, w.look_back),
        'keep it for as long: ' || rollup_engine.retention_call(k.relation::text, w.look_back, EXISTS (SELECT FROM rollup_engine.retention AS t WHERE t.relation = k.relation AND t.archive))
    FROM kept AS k
    JOIN (
        SELECT max(r.look_back_window)
        FROM silver.rollup_config AS r JOIN rollup_engine.source AS s ON s.id = r.source_id AND s.change_tracking = 'window'
        WHERE r.parent_id IS NULL AND r.id IN (SELECT rollup_engine.with_ancestors(id) FROM reader)
    ) AS w (look_back) ON k.keep < w.look_back
    ORDER BY k.keep
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.window_keep_problem(regclass, integer) IS 'What is wrong with how long a table is kept that window tracking reads again: for a rollup, or, without one, for any that reads it.';

DROP FUNCTION IF EXISTS rollup_engine.check_window_keep(regclass);
CREATE OR REPLACE FUNCTION rollup_engine.check_window_keep(p_relation regclass, p_rollup_id integer DEFAULT NULL) RETURNS void
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fail('TR001', p.problem, p.hint) FROM rollup_engine.window_keep_problem(p_relation, p_rollup_id) AS p WHERE p.problem IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.check_window_keep(regclass, integer) IS 'An error when a table is kept for less than window tracking reads again: of one rollup, or of any.';

CREATE OR REPLACE FUNCTION rollup_engine.kept_otherwise(p_source_table regclass) RETURNS TABLE (problem text, hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH kept AS MATERIALIZED (
        SELECT relation FROM rollup_engine.with_roots(p_source_table) AS w (relation) JOIN rollup_engine.retention AS t USING (relation) WHERE t.keep IS NOT NULL
    )
    SELECT p.problem, p.hint FROM kept CROSS JOIN LATERAL rollup_engine.other_time_problem(kept.relation) AS p WHERE p.problem IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.kept_otherwise(regclass) IS 'What is wrong where a table has retention, by another time than its rollups go by.';

CREATE OR REPLACE FUNCTION rollup_engine.check_kept_otherwise(p_source_table regclass) RETURNS void
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.fail('TR004', problem, hint) FROM rollup_engine.kept_otherwise(p_source_table)
$$;
COMMENT ON FUNCTION rollup_engine.check_kept_otherwise(regclass) IS 'An error when a table has retention by another time than its rollups go by.';

-- pg_partman's own retention ----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.partman_retention_problem(p_relation regclass, OUT problem text, OUT hint text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('pg_partman removes partitions of %s after %s, and what they held goes from the rollups too', p_relation, k.keep),
        format('SELECT silver.set_retention(%L, %L%s) does it instead, and the rollups keep their buckets; or UPDATE %s.part_config SET retention = NULL WHERE parent_table = ANY (%L), and so sub_retention in part_config_sub',
            p_relation, k.keep, CASE WHEN k.archive THEN ', archive => true' END, rollup_engine.partman_schema(), rollup_engine.partman_keys(p_relation))
    FROM rollup_engine.partman_retention(p_relation) AS k
    WHERE k.keep IS NOT NULL
$$;
COMMENT ON FUNCTION rollup_engine.partman_retention_problem(regclass) IS 'What pg_partman''s own retention does to the rollups of a table, when it is on.';

CREATE OR REPLACE FUNCTION rollup_engine.warn_of_partman_retention(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_found record;
BEGIN
    SELECT * INTO v_found FROM rollup_engine.partman_retention_problem(p_relation);
    IF v_found.problem IS NOT NULL THEN
        RAISE WARNING USING MESSAGE = v_found.problem, HINT = v_found.hint;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.warn_of_partman_retention(regclass) IS 'Warns of pg_partman''s own retention, when it is on.';

CREATE OR REPLACE FUNCTION rollup_engine.take_over_retention(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_found record;
BEGIN
    SELECT * INTO v_found FROM rollup_engine.partman_retention_problem(p_relation);
    IF v_found.problem IS NOT NULL THEN
        EXECUTE format('UPDATE %s.part_config SET retention = NULL WHERE parent_table = ANY ($1)', rollup_engine.partman_schema())
        USING rollup_engine.partman_keys(p_relation);
        EXECUTE format('UPDATE %s.part_config_sub SET sub_retention = NULL WHERE sub_parent = ANY ($1)', rollup_engine.partman_schema())
        USING rollup_engine.partman_keys(p_relation);
        RAISE NOTICE 'the retention of % in pg_partman is switched off in favour of this one', p_relation;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    PERFORM rollup_engine.fail('TR004', v_found.problem, v_found.hint);
END
$$;
COMMENT ON FUNCTION rollup_engine.take_over_retention(regclass) IS 'Switches off pg_partman''s retention of a table, or fails with what to run.';

-- All of it -----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.change_retention(p_table_name text, p_keep interval, p_archive boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation constant regclass := rollup_engine.find_table(p_table_name);
    v_was_archived boolean;
BEGIN
    PERFORM rollup_engine.check_interval('keep', p_keep, false);
    PERFORM rollup_engine.check_owner_role('set how long tables are kept');
    v_was_archived := EXISTS (SELECT FROM rollup_engine.retention WHERE relation = v_relation AND archive AND keep IS NOT NULL)
        OR (rollup_engine.partman_retention(v_relation)).archive;
    IF p_keep IS NOT NULL AND NOT EXISTS (SELECT FROM silver.rollup_config WHERE target_table = v_relation) THEN
        UPDATE rollup_engine.retention SET relation_name = v_relation::text, noted_in = rollup_engine.this_numbering(), was_exchanged = false
        WHERE relation = v_relation;  -- it is meant by that name
        PERFORM rollup_engine.check_retention(v_relation);
        PERFORM rollup_engine.take_over_retention(v_relation);
        IF rollup_engine.partition_column(v_relation) IS NOT NULL THEN
            PERFORM rollup_engine.ensure_default_partition(v_relation);
        END IF;
    END IF;
    IF p_keep IS NOT NULL AND p_archive THEN
        PERFORM rollup_engine.ensure_archive_schema(v_relation);
    END IF;
    IF p_archive IS NOT TRUE AND v_was_archived AND p_keep IS NOT NULL THEN
        RAISE WARNING 'partitions of % are dropped from now on, and no longer archived', v_relation
            USING HINT = 'to go on with the archive: ' || rollup_engine.retention_call(v_relation::text, p_keep, true);
    END IF;
    PERFORM rollup_engine.write_retention(v_relation, p_keep, coalesce(p_archive, false));
    PERFORM rollup_engine.check_window_keep(v_relation);
    PERFORM rollup_engine.fit_partitions_to_keep(v_relation);
END
$$;
COMMENT ON FUNCTION rollup_engine.change_retention(text, interval, boolean) IS 'What set_retention does.';

-- What was dropped since -------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.forget_gone() RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
    UPDATE rollup_engine.retention SET noted_in = rollup_engine.this_numbering(), was_exchanged = false
    WHERE relation_name = relation::text AND (was_exchanged OR noted_in IS DISTINCT FROM rollup_engine.this_numbering());
    UPDATE rollup_engine.retention SET was_exchanged = true
    WHERE NOT was_exchanged AND rollup_engine.now_called(relation_name, relation) IS NOT NULL;
    -- What has rollups is taken up again together with them. A number left here may be another table's in a restored database.
    WITH gone AS (
        SELECT t.relation
        FROM (SELECT relation FROM rollup_engine.retention UNION SELECT relation FROM rollup_engine.partition_set WHERE is_source) AS t
        WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = t.relation)
            AND NOT EXISTS (SELECT FROM rollup_engine.source AS s WHERE s.relation = t.relation)
            AND NOT EXISTS (SELECT FROM silver.rollup_config AS r WHERE r.target_table = t.relation)
    ), kept AS (
        DELETE FROM rollup_engine.retention AS t USING gone WHERE t.relation = gone.relation RETURNING t.relation, t.relation_name, t.keep, t.archive
    ), divided AS (
        DELETE FROM rollup_engine.partition_set AS s USING gone WHERE s.relation = gone.relation RETURNING s.relation, s.relation_name, s.chunk_interval
    ), forgotten AS (
        -- Another table of its name that has its own by now needs none of it.
        SELECT relation_name, rollup_engine.retention_call(relation_name, keep, archive) AS call FROM kept
        WHERE num_nulls(relation_name, keep) = 0
            AND NOT EXISTS (SELECT FROM rollup_engine.retention AS n WHERE n.relation = rollup_engine.now_called(kept.relation_name, kept.relation))
        UNION ALL
        SELECT relation_name, format('SELECT silver.partition_source(%L, %L)', relation_name, chunk_interval) FROM divided
        WHERE relation_name IS NOT NULL
            AND NOT EXISTS (SELECT FROM rollup_engine.partition_set AS n WHERE n.relation = rollup_engine.now_called(divided.relation_name, divided.relation))
    )
    SELECT relation_name, 'cleaned', format('it was dropped; for the next table of its name: %s', call)
    FROM forgotten
    CROSS JOIN LATERAL rollup_engine.log_failure(relation_name,
        ROW('TR002', format('%s was dropped', relation_name), NULL, format('if it is there again: %s', call), NULL)::rollup_engine.failure)
$$;
COMMENT ON FUNCTION rollup_engine.forget_gone() IS 'Forgets how long tables without rollups were to be kept, and how divided, that were dropped since; and says so. Of others, notes that they are there.';

RESET ROLE;
