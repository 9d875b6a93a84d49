-- The second phase of retention: removing what an earlier run has sealed; and set_retention.

SET LOCAL ROLE "${owner_role}";

-- Drop -------------------------------------------------------------------------------------------

CREATE FUNCTION rollup_engine.is_past(p_transaction xid8) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Sessions of this database, and standbys through their WAL senders and slots; not a session
    -- that is still logging in, which has no database yet. What a session is shows only to those
    -- who may see it; its horizon shows to everybody.
    SELECT p_transaction IS DISTINCT FROM pg_current_xact_id_if_assigned() AND NOT EXISTS (
        SELECT FROM (
            SELECT backend_xmin AS oldest FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND backend_type IS DISTINCT FROM 'autovacuum worker'
                AND datname = current_database()
            UNION ALL
            SELECT backend_xmin FROM pg_stat_replication
            UNION ALL
            SELECT xmin FROM pg_replication_slots
        ) AS held
        WHERE oldest IS NOT NULL AND age(oldest) >= age(p_transaction::xid)
            -- Restored from a dump, it is a number of another server's.
            AND p_transaction < pg_snapshot_xmax(pg_current_snapshot()))
$$;
COMMENT ON FUNCTION rollup_engine.is_past(xid8) IS 'Whether every snapshot in use is newer than a transaction.';

CREATE FUNCTION rollup_engine.archive_schema(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%I', n.nspname || '_archive')
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.archive_schema(regclass) IS 'Where partitions of a table go instead of being dropped.';

CREATE FUNCTION rollup_engine.remove_partition(p_retention rollup_engine.retention, p_partition regclass) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name constant text := p_partition::text;
    v_trigger name;
BEGIN
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', p_retention.relation);
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', v_name);
    DELETE FROM rollup_engine.source_partition WHERE partition = p_partition;
    IF NOT p_retention.archive THEN
        EXECUTE format('DROP TABLE %s', v_name);
        RETURN 'dropped';
    END IF;
    EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', p_retention.relation, v_name);
    FOR v_trigger IN
        SELECT tgname FROM pg_trigger
        WHERE tgrelid = p_partition AND tgfoid IN (
            SELECT to_regprocedure(format('rollup_engine.capture_%s()', id)) FROM rollup_engine.source)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', v_trigger, v_name);
    END LOOP;
    EXECUTE format('ALTER TABLE %s SET SCHEMA %s', v_name, rollup_engine.archive_schema(p_retention.relation));
    RETURN 'archived';
END
$$;
COMMENT ON FUNCTION rollup_engine.remove_partition(rollup_engine.retention, regclass) IS 'Drops or archives one partition, unless somebody is using it: then lock_not_available.';

CREATE FUNCTION rollup_engine.remove_due(p_retention rollup_engine.retention) RETURNS TABLE (action text, detail text)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '300ms'
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_until constant timestamptz := clock_timestamp() + interval '1 second';
    v_is_rollup constant boolean := EXISTS (SELECT FROM silver.rollup_config WHERE target_table = p_retention.relation);
    v_member record;
    v_deleted bigint;
BEGIN
    IF p_retention.keep IS NULL OR NOT isfinite(p_retention.sealed_before) OR NOT rollup_engine.is_past(p_retention.sealed_by) THEN
        RETURN;
    END IF;
    FOR v_member IN
        SELECT m.member, m.member::text AS name, m.from_time, m.to_time
        FROM rollup_engine.source_members(p_retention.relation) AS m
        JOIN pg_inherits AS i ON i.inhrelid = m.member AND i.inhparent = p_retention.relation
        WHERE m.to_time <= p_retention.sealed_before
        ORDER BY m.to_time
    LOOP
        BEGIN
            IF NOT v_is_rollup THEN
                PERFORM rollup_engine.ensure_default_partition(p_retention.relation);
            END IF;
            action := rollup_engine.remove_partition(p_retention, v_member.member);
            detail := format('%s: %s to %s', v_member.name, v_member.from_time, v_member.to_time);
            RETURN NEXT;
        EXCEPTION WHEN lock_not_available THEN
            EXIT;  -- in use; the next run tries again
        END;
        EXIT WHEN clock_timestamp() > v_until;  -- nobody gets at the table until the end
    END LOOP;
    IF v_is_rollup AND NOT p_retention.archive THEN
        EXECUTE format('DELETE FROM %s WHERE bucket < $1', p_retention.relation) USING p_retention.sealed_before;
        GET DIAGNOSTICS v_deleted = ROW_COUNT;
        IF v_deleted > 0 THEN
            action := 'deleted';
            detail := format('%s rows before %s', v_deleted, p_retention.sealed_before);
            RETURN NEXT;
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.remove_due(rollup_engine.retention) IS
'Removes what lies below the seal of a table: whole partitions, and the rows of a rollup.';

-- Public -----------------------------------------------------------------------------------------

CREATE FUNCTION rollup_engine.check_retention(p_relation regclass, p_archive boolean) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner constant oid := (SELECT relowner FROM pg_class WHERE oid = p_relation);
    v_column constant name := rollup_engine.partition_column(p_relation);
    v_other text;
BEGIN
    SELECT string_agg(format('%s by %I', r.target_table, r.time_column), ', ') INTO v_other
    FROM rollup_engine.readers(p_relation) AS r WHERE r.time_column <> v_column;
    IF v_column IS NULL OR v_column <> ALL (rollup_engine.time_columns(p_relation)) THEN
        PERFORM rollup_engine.fail('TR004', format('%s is not partitioned by ranges of a time column', p_relation),
            'retention drops partitions: create the table with PARTITION BY RANGE (the time column)');
    ELSIF NOT pg_has_role(v_owner, 'USAGE') THEN
        PERFORM rollup_engine.fail('TR004', format('%I does not own %s', current_user, p_relation), format('call it as %s', v_owner::regrole));
    ELSIF v_other IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR004', format('%s is partitioned by %I, but rolled up otherwise: %s', p_relation, v_column, v_other),
            'what such partitions hold cannot be told from their bounds; drop them by hand');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_retention(regclass, boolean) IS 'An error unless old partitions of a table can be dropped by its caller.';

CREATE FUNCTION rollup_engine.ensure_archive_schema(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_schema constant text := rollup_engine.archive_schema(p_relation);
BEGIN
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

CREATE FUNCTION rollup_engine.write_retention(p_relation regclass, p_keep interval, p_archive boolean) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE silver.rollup_config SET retention = p_keep WHERE target_table = p_relation;
    INSERT INTO rollup_engine.retention (relation, keep, archive)
    VALUES (p_relation, p_keep, p_archive)
    ON CONFLICT (relation) DO UPDATE SET keep = excluded.keep, archive = excluded.archive;
$$;
COMMENT ON FUNCTION rollup_engine.write_retention(regclass, interval, boolean) IS 'Records how long a table is kept, and whether in an archive after that; NULL: for ever.';

CREATE FUNCTION silver.set_retention(table_name text, keep interval, archive boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation constant regclass := coalesce(
        (SELECT target_table FROM silver.rollup_config WHERE id = rollup_engine.find_rollup_id(table_name)),
        rollup_engine.find_relation(table_name, 'raw'));
BEGIN
    IF v_relation IS NULL THEN
        PERFORM rollup_engine.fail('TR002', format('there is no table or rollup %s', table_name),
            'a name without a schema is looked up in raw, then among the rollups; check the spelling');
    END IF;
    PERFORM rollup_engine.check_interval('keep', keep, false);
    IF NOT pg_has_role('${owner_role}', 'USAGE') THEN
        PERFORM rollup_engine.fail('TR004', format('%I may not set how long tables are kept', current_user), format('GRANT %I TO %I', '${owner_role}', current_user));
    END IF;
    IF keep IS NOT NULL AND NOT EXISTS (SELECT FROM silver.rollup_config WHERE target_table = v_relation) THEN
        PERFORM rollup_engine.check_retention(v_relation, archive);
        PERFORM rollup_engine.ensure_default_partition(v_relation);
    END IF;
    IF keep IS NOT NULL AND archive THEN
        PERFORM rollup_engine.ensure_archive_schema(v_relation);
    END IF;
    PERFORM rollup_engine.write_retention(v_relation, keep, coalesce(archive, false));
END
$$;
COMMENT ON FUNCTION silver.set_retention(text, interval, boolean) IS
'How long a source or a rollup is kept; NULL for ever. maintain_timeseries_tables first seals what is older and absorbed by every rollup that reads it, then, in a later run, drops those partitions, or with archive moves them to <schema>_archive. Rows that come for sealed time are counted, and change no rollup.';

RESET ROLE;
