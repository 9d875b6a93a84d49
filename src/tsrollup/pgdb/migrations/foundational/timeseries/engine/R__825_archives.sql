-- Partitions that retention moved aside, until a file holds what they held.
--
-- An archiver first notes the file that it is about to write, in a transaction of its own, so that
-- whoever comes after a crash knows of it. Then, in one transaction, it keeps writers and other
-- archivers from the table, reads it, writes and verifies the file, records it and drops the table.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.archive_order(p_relation regclass) RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_append(coalesce((
        SELECT CASE WHEN r.target_table = p_relation THEN r.dimensions
            ELSE ARRAY(SELECT rollup_engine.source_name(r, d) FROM unnest(r.dimensions) WITH ORDINALITY AS u (d, place) ORDER BY place) END
        FROM silver.rollup_config AS r
        WHERE r.target_table = p_relation OR rollup_engine.lies_in(r.source_table, p_relation)
        ORDER BY r.target_table <> p_relation, cardinality(r.dimensions) DESC, r.id
        LIMIT 1), '{}'), rollup_engine.time_partition_column(p_relation))
$$;
COMMENT ON FUNCTION rollup_engine.archive_order(regclass) IS 'What rows of a table that is archived are sorted by: the most dimensions that a rollup of it has, and its time.';

CREATE OR REPLACE FUNCTION rollup_engine.note_detached(p_relation regclass, p_old rollup_engine.old_partition, p_bound text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.detached_partition (relation, partition_name, source_table, retention_id, from_time, to_time, bound, sort_by)
    VALUES (
        p_old.member, p_old.member::text, p_relation::text, (SELECT id FROM rollup_engine.retention WHERE relation = p_relation),
        p_old.from_time, p_old.to_time, p_bound, rollup_engine.archive_order(p_relation))
    ON CONFLICT (relation) DO UPDATE SET
        partition_name = excluded.partition_name, source_table = excluded.source_table, retention_id = excluded.retention_id, from_time = excluded.from_time,
        to_time = excluded.to_time, bound = excluded.bound, sort_by = excluded.sort_by, detached_at = excluded.detached_at
$$;
COMMENT ON FUNCTION rollup_engine.note_detached(regclass, rollup_engine.old_partition, text) IS 'Notes what was moved to an archive schema, of which table, with which bounds.';

CREATE OR REPLACE FUNCTION rollup_engine.archive_obstacle(p_detached rollup_engine.detached_partition) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN parse_ident(p_detached.partition_name) IS DISTINCT FROM (
            SELECT ARRAY[n.nspname::text, c.relname::text] FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = p_detached.relation)
        THEN 'it was renamed or moved'
        WHEN EXISTS (SELECT FROM pg_inherits WHERE inhrelid = p_detached.relation) THEN
            format('it is attached to %s', (SELECT string_agg(inhparent::regclass::text, ', ') FROM pg_inherits WHERE inhrelid = p_detached.relation))
        WHEN EXISTS (
            SELECT FROM rollup_engine.partition_tree(p_detached.relation) AS m JOIN pg_class AS c ON c.oid = m WHERE c.relkind = 'f')
        THEN 'some of its rows are on another server'
        WHEN rollup_engine.foreign_owner(p_detached.relation) IS NOT NULL THEN
            format('run it as %s', rollup_engine.foreign_owner(p_detached.relation))
        WHEN EXISTS (SELECT FROM silver.rollup_config WHERE rollup_engine.lies_in(source_table, p_detached.relation)) THEN 'it has rollups of its own'
    END
$$;
COMMENT ON FUNCTION rollup_engine.archive_obstacle(rollup_engine.detached_partition) IS 'Why a partition that was moved aside is not archived; NULL when it may be.';

CREATE OR REPLACE FUNCTION rollup_engine.try_lock_archive(p_id bigint) RETURNS boolean
    LANGUAGE sql
RETURN pg_try_advisory_xact_lock(rollup_engine.lock_key('archive', p_id::text));
COMMENT ON FUNCTION rollup_engine.try_lock_archive(bigint) IS 'Held by whoever archives a partition.';

CREATE OR REPLACE FUNCTION rollup_engine.this_database() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s/%s', s.system_identifier, d.oid) FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION rollup_engine.this_database() IS 'What tells a database from one that was made of its dump.';

CREATE OR REPLACE FUNCTION rollup_engine.begin_archive(
    p_id bigint, p_location text, p_file text, OUT is_ours boolean, OUT old_location text, OUT old_file text
)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    is_ours := rollup_engine.try_lock_archive(p_id);
    IF is_ours THEN
        SELECT attempt_location, attempt_file INTO old_location, old_file
        FROM rollup_engine.detached_partition WHERE id = p_id AND attempt_by = rollup_engine.this_database();
        UPDATE rollup_engine.detached_partition
        SET attempt_location = p_location, attempt_file = p_file, attempt_by = rollup_engine.this_database()
        WHERE id = p_id;
        is_ours := FOUND;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.begin_archive(bigint, text, text) IS
'Notes the file that an archiver is about to write, and tells which one an attempt that came to nothing may have left; not ours: another archiver is at work.';

CREATE OR REPLACE FUNCTION rollup_engine.archive_place(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A lock on a table keeps nobody from renaming its schema.
    SELECT format('%s %s %s', c.oid, c.xmin, n.xmin) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.archive_place(regclass) IS 'The same twice: the name of a table meant this one all the while.';

-- Whoever waits for a lock while a user who holds the table waits for him has the user's statement
-- end by a deadlock: it is asked for without waiting, and left to whoever waits for it.
CREATE OR REPLACE FUNCTION rollup_engine.lock_unless_used(p_relation regclass, p_mode text, p_patience interval) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_until constant timestamptz := clock_timestamp() + p_patience;
BEGIN
    WHILE clock_timestamp() < v_until AND NOT EXISTS (
        SELECT FROM pg_locks AS l JOIN rollup_engine.partition_tree(p_relation) AS m ON m = l.relation
        WHERE NOT l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    LOOP
        BEGIN
            EXECUTE format('LOCK TABLE %s IN %s MODE NOWAIT', p_relation, p_mode);
            RETURN true;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.05);
        END;
    END LOOP;
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.lock_unless_used(regclass, text, interval) IS
'Locks a table, and what is below it, until the end of the transaction; false when it is used for longer than that, or somebody waits for it.';

-- What may have changed since the list was read is asked again under the lock: whose turn it is, and
-- what is in the way.
CREATE OR REPLACE FUNCTION rollup_engine.lock_for_archive(p_id bigint, p_file text, OUT is_ours boolean, OUT obstacle text, OUT place text)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_detached rollup_engine.detached_partition;
BEGIN
    PERFORM rollup_engine.check_isolation();
    SELECT * INTO v_detached FROM rollup_engine.detached_partition WHERE id = p_id AND attempt_file = p_file;
    is_ours := FOUND;
    IF is_ours THEN
        is_ours := rollup_engine.try_lock_archive(p_id);
        place := rollup_engine.archive_place(v_detached.relation);
        obstacle := rollup_engine.archive_obstacle(v_detached);
    END IF;
    IF is_ours AND obstacle IS NULL THEN
        -- Autovacuum makes way only for who waits, which is safe while nothing is held yet.
        IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = v_detached.relation) THEN
            EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', v_detached.relation);
        ELSIF NOT rollup_engine.lock_unless_used(v_detached.relation, 'SHARE ROW EXCLUSIVE', current_setting('lock_timeout')::interval) THEN
            obstacle := 'somebody uses it; the next run tries again';
            RETURN;
        END IF;
        SELECT * INTO v_detached FROM rollup_engine.detached_partition WHERE id = p_id AND attempt_file = p_file;
        is_ours := FOUND;
        obstacle := rollup_engine.archive_obstacle(v_detached);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.lock_for_archive(bigint, text) IS
'Keeps writers and other archivers from a partition that was moved aside until the end of the transaction, while readers go on.';

CREATE OR REPLACE FUNCTION rollup_engine.record_archive(
    p_id bigint, p_location text, p_file text, p_file_bytes bigint, p_checksum text, p_row_count bigint, p_table_bytes bigint,
    p_place text, p_patience interval
) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of what DDL locks besides, as the tables that foreign keys refer to
AS $$
DECLARE
    v_detached rollup_engine.detached_partition;
BEGIN
    DELETE FROM rollup_engine.detached_partition WHERE id = p_id AND attempt_file = p_file RETURNING * INTO STRICT v_detached;
    IF NOT rollup_engine.lock_unless_used(v_detached.relation, 'ACCESS EXCLUSIVE', p_patience) THEN
        RETURN 'somebody uses it; the next run tries again';
    ELSIF rollup_engine.archive_place(v_detached.relation) IS DISTINCT FROM p_place THEN
        RETURN 'it was renamed or moved';
    END IF;
    INSERT INTO silver.archive_log (
        id, source_table, retention_id, partition_name, from_time, to_time, bound, owned_by, detached_at,
        location, file, file_bytes, checksum, row_count, table_bytes)
    VALUES (
        p_id, v_detached.source_table, v_detached.retention_id, v_detached.partition_name, nullif(v_detached.from_time, '-infinity'), nullif(v_detached.to_time, 'infinity'),
        v_detached.bound, (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = v_detached.relation), v_detached.detached_at, p_location, p_file, p_file_bytes, p_checksum, p_row_count, p_table_bytes);
    UPDATE silver.archive_log SET replaced_by = p_id
    WHERE id IN (SELECT file_id FROM rollup_engine.restored_tables() WHERE relation = v_detached.relation)
        AND (source_table = v_detached.source_table OR retention_id = v_detached.retention_id)
        AND v_detached.from_time <= coalesce(from_time, '-infinity') AND v_detached.to_time >= coalesce(to_time, 'infinity');
    EXECUTE format('DROP TABLE %s', v_detached.relation);
    RETURN (SELECT 'it was renamed or moved' FROM pg_class WHERE oid = v_detached.relation);
END
$$;
COMMENT ON FUNCTION rollup_engine.record_archive(bigint, text, text, bigint, text, bigint, bigint, text, interval) IS
'Records the file that holds what a partition holds, and drops the partition; or what came in the way, for which all of it is to be rolled back.';

CREATE OR REPLACE FUNCTION rollup_engine.archive_columns(p_relation regclass)
RETURNS TABLE (column_name name, declared text, base regtype, modifier integer, collation_name text, is_not_null boolean, is_sortable boolean)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE under (attnum, type, modifier) AS (
        SELECT attnum, atttypid, atttypmod FROM pg_attribute WHERE attrelid = p_relation AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT u.attnum, t.typbasetype, t.typtypmod FROM under AS u JOIN pg_type AS t ON t.oid = u.type WHERE t.typtype = 'd'
    )
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), u.type::regtype, u.modifier,
        CASE WHEN a.attcollation <> t.typcollation AND l.oid IS NOT NULL THEN format('%I.%I', l.collnamespace::regnamespace::text, l.collname) END,
        a.attnotnull,
        b.typcollation <> 0 OR b.typtype IN ('e', 'r') OR EXISTS (
            SELECT FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod
            WHERE o.opcintype = u.type AND o.opcdefault AND m.amname = 'btree')
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    JOIN under AS u USING (attnum)
    JOIN pg_type AS b ON b.oid = u.type AND b.typtype <> 'd'
    LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
    WHERE a.attrelid = p_relation
    ORDER BY a.attnum
$$;
COMMENT ON FUNCTION rollup_engine.archive_columns(regclass) IS 'The columns of a table: types as declared and under any domains, and whether rows can be sorted by them.';

RESET ROLE;
