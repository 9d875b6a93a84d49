-- A new width of partitions holds for those to come; those that are there stay as they are.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Volatile, for a snapshot of its own: asked once more when nobody can write there any more.
CREATE OR REPLACE FUNCTION rollup_engine.is_empty(p_relation regclass) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET row_security = off
AS $$
DECLARE
    v_is_empty boolean;
BEGIN
    EXECUTE format('SELECT NOT EXISTS (SELECT 1 FROM %s)', p_relation) INTO v_is_empty;
    RETURN v_is_empty;
END
$$;
COMMENT ON FUNCTION rollup_engine.is_empty(regclass) IS 'Whether a table holds no row by now.';

-- Those made ahead that are still empty make room for it.
CREATE OR REPLACE FUNCTION rollup_engine.drop_empty_partitions_ahead(p_relation regclass, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of what DDL locks besides
AS $$
DECLARE
    v_member regclass;
BEGIN
    -- All are looked at before the first is dropped.
    FOREACH v_member IN ARRAY ARRAY(
        SELECT m.member FROM rollup_engine.partition_bounds(p_relation) AS m
        JOIN pg_inherits AS i ON i.inhrelid = m.member AND i.inhparent = p_relation
        WHERE isfinite(m.from_time) AND m.from_time > p_now AND rollup_engine.is_empty(m.member))
    LOOP
        BEGIN
            PERFORM rollup_engine.lock_out(p_relation);
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', v_member);
            IF rollup_engine.is_empty(v_member) THEN
                PERFORM rollup_engine.check_partman_lets_go(v_member);
                IF NOT rollup_engine.outlives(rollup_engine.snapshots_in_use()) THEN
                    RAISE lock_not_available;  -- one from before it was empty finds rows in it
                END IF;
                -- Detached, foreign keys that refer to the whole table let go of it.
                DELETE FROM rollup_engine.rollup_partition WHERE partition = v_member;
                DELETE FROM rollup_engine.source_partition WHERE partition IN (SELECT rollup_engine.partition_tree(v_member));
                PERFORM rollup_engine.forget_partition_set(v_member);
                EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', p_relation, v_member);
                EXECUTE format('DROP TABLE %s', v_member);
            END IF;
        EXCEPTION
            WHEN lock_not_available THEN
                RETURN;  -- in use: the new width begins after it
            WHEN dependent_objects_still_exist OR SQLSTATE 'TR004' THEN
                NULL;  -- it stays as it is
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.drop_empty_partitions_ahead(regclass, timestamptz) IS 'Drops partitions that begin in the future and hold nothing, unless somebody is using the table.';

CREATE OR REPLACE FUNCTION rollup_engine.add_set_partition(p_set rollup_engine.partition_set, p_from timestamptz, p_to timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_set.is_source THEN
        PERFORM rollup_engine.cover_source(p_set, tstzmultirange(tstzrange(p_from, p_to)));
    ELSE
        PERFORM rollup_engine.add_partition(p_set.relation, p_from, p_to);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.add_set_partition(rollup_engine.partition_set, timestamptz, timestamptz) IS 'Adds a partition to a source or to a rollup table.';

-- An adopted set may be spelled too coarsely for narrower partitions: by the month, say. pg_partman 5
-- takes another spelling from then on; 4.7 sorts by it, so there the set becomes native.
CREATE OR REPLACE FUNCTION rollup_engine.configure_partman_interval(p_set rollup_engine.partition_set) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_finest constant text := 'YYYYMMDD_HH24MISS';
    v_by_name constant boolean := (SELECT extversion LIKE '4.%' FROM pg_extension WHERE extname = 'pg_partman');
    v_config record;
BEGIN
    EXECUTE format('SELECT partition_interval, datetime_string FROM %s.part_config WHERE parent_table = $1', rollup_engine.partman_schema())
    INTO v_config
    USING p_set.partman_parent;
    IF v_by_name AND v_config.datetime_string <> v_finest AND p_set.chunk_interval < v_config.partition_interval::interval THEN
        EXECUTE format('DELETE FROM %s.part_config WHERE parent_table = $1', rollup_engine.partman_schema()) USING p_set.partman_parent;
        UPDATE rollup_engine.partition_set SET partman_parent = NULL WHERE relation = p_set.relation;
        RETURN false;
    END IF;
    EXECUTE format('UPDATE %s.part_config SET partition_interval = $1, datetime_string = $2 WHERE parent_table = $3', rollup_engine.partman_schema())
    USING p_set.chunk_interval::text, CASE WHEN v_by_name THEN v_config.datetime_string ELSE v_finest END, p_set.partman_parent;
    RETURN true;
END
$$;
COMMENT ON FUNCTION rollup_engine.configure_partman_interval(rollup_engine.partition_set) IS 'Tells pg_partman of a new width; false when the set is native from now on.';

-- pg_partman goes on from the last partition by the configured width, so the last one must be of
-- that width and on its grid.
CREATE OR REPLACE FUNCTION rollup_engine.change_partman_interval(p_set rollup_engine.partition_set) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_end timestamptz;
    v_start timestamptz;
BEGIN
    IF NOT rollup_engine.configure_partman_interval(p_set) THEN
        RETURN;
    END IF;
    SELECT max(to_time) INTO v_end
    FROM rollup_engine.partition_bounds(p_set.relation)
    WHERE isfinite(to_time);
    IF v_end IS NULL THEN
        RETURN;
    END IF;
    v_start := rollup_engine.bucket_ceil(p_set.chunk_interval, v_end);
    IF v_start > v_end THEN
        PERFORM rollup_engine.add_set_partition(p_set, v_end, v_start);
    END IF;
    PERFORM rollup_engine.add_set_partition(p_set, v_start, rollup_engine.bucket_next(p_set.chunk_interval, v_start));
END
$$;
COMMENT ON FUNCTION rollup_engine.change_partman_interval(rollup_engine.partition_set) IS 'Has pg_partman make partitions of the set''s width from its last one on.';

CREATE OR REPLACE FUNCTION rollup_engine.change_chunk_interval(p_relation regclass, p_chunk interval, p_now timestamptz DEFAULT now()) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_set rollup_engine.partition_set;
BEGIN
    PERFORM rollup_engine.check_isolation();
    -- As they are written: a month is no 30 days.
    UPDATE rollup_engine.partition_set SET chunk_interval = p_chunk
    WHERE relation = p_relation AND chunk_interval::text <> p_chunk::text
    RETURNING * INTO v_set;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM rollup_engine.drop_empty_partitions_ahead(p_relation, p_now);
    IF rollup_engine.is_partmans(v_set) THEN
        PERFORM rollup_engine.change_partman_interval(v_set);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.change_chunk_interval(regclass, interval, timestamptz) IS 'Has the partitions of a table that are to come be of another width.';

-- Whoever changes the configuration: the partitions are the owner role's.
CREATE OR REPLACE FUNCTION rollup_engine.follow_chunk_interval() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.change_chunk_interval(NEW.target_table, NEW.chunk_interval);
    UPDATE rollup_engine.partition_set SET is_named = true WHERE relation = NEW.target_table;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION rollup_engine.follow_chunk_interval() IS 'Has partitions to come follow a rollup''s chunk_interval, which somebody named.';

CREATE OR REPLACE FUNCTION rollup_engine.chunk_trigger_sql() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'CREATE OR REPLACE TRIGGER follow_chunk_interval AFTER UPDATE OF chunk_interval ON silver.rollup_config
    FOR EACH ROW EXECUTE FUNCTION rollup_engine.follow_chunk_interval()'
$$;
COMMENT ON FUNCTION rollup_engine.chunk_trigger_sql() IS 'Text of the trigger: who changes the configuration is not waited for, so the end of a migrate writes it anew.';

SELECT rollup_engine.write_missing('trigger_chunk_interval', rollup_engine.chunk_trigger_sql(),
    EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'silver.rollup_config'::regclass AND tgname = 'follow_chunk_interval'));

RESET ROLE;
