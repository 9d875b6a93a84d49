-- pg_partman, where it is there: rollup tables are registered with it, and it makes their
-- partitions ahead of time. What it cannot make, those of late rows in the past, the native way
-- makes before each batch, and without it everything.
--
-- Its retention stays off in favour of ours, and it acts only when maintenance calls it: its own
-- background runs would compute the bounds in the server's time zone. A set is registered by its
-- configuration row. create_parent would lock the table, name partitions differently in 4.7 and
-- in 5, and in 4.7 add a default partition, where late rows would sit.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- 4.7 sorts partitions by what their names end in, so all of a set must be spelled alike.
CREATE OR REPLACE FUNCTION rollup_engine.partition_suffix(p_table regclass, p_from timestamptz) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_set rollup_engine.partition_set;
    v_spelling text;
BEGIN
    SELECT * INTO v_set FROM rollup_engine.partition_set WHERE relation = p_table;
    IF FOUND AND rollup_engine.is_partmans(v_set) THEN
        EXECUTE format('SELECT datetime_string FROM %s.part_config WHERE parent_table = $1', rollup_engine.partman_schema())
        INTO v_spelling
        USING v_set.partman_parent;
    END IF;
    RETURN 'p' || to_char(p_from AT TIME ZONE 'UTC', coalesce(v_spelling, 'YYYYMMDD_HH24MISS'));
END
$$;
COMMENT ON FUNCTION rollup_engine.partition_suffix(regclass, timestamptz) IS 'What the name of a partition that begins at the time ends in.';

-- Registering -------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.can_register(p_relation regclass) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key constant text := rollup_engine.partman_key(p_relation);
BEGIN
    -- It cuts names that leave no room for _pYYYYMMDD_HH24MISS.
    IF v_key IS NULL OR rollup_engine.partman_schema() IS NULL OR (SELECT octet_length(relname) > 46 FROM pg_class WHERE oid = p_relation) THEN
        RETURN false;
    END IF;
    -- Partitions that somebody else has named could not be sorted.
    RETURN rollup_engine.partman_knows(v_key)
        OR NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = p_relation);
END
$$;
COMMENT ON FUNCTION rollup_engine.can_register(regclass) IS 'Whether pg_partman can look after a table.';

CREATE OR REPLACE FUNCTION rollup_engine.register_with_partman(p_relation regclass, p_control name, p_chunk interval) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_key constant text := rollup_engine.partman_key(p_relation);
BEGIN
    EXECUTE format($sql$
        INSERT INTO %s.part_config (parent_table, control, partition_type, partition_interval, datetime_string,
            premake, automatic_maintenance, infinite_time_partitions, jobmon, ignore_default_data)
        VALUES ($1, $2, $3, $4, 'YYYYMMDD_HH24MISS', 2, 'off', true, false, true)
        ON CONFLICT (parent_table) DO UPDATE
        SET control = excluded.control, automatic_maintenance = 'off', infinite_time_partitions = true, ignore_default_data = true, retention = NULL
        $sql$, rollup_engine.partman_schema())
    USING v_key, p_control,
        (SELECT CASE WHEN extversion LIKE '4.%' THEN 'native' ELSE 'range' END FROM pg_extension WHERE extname = 'pg_partman'),
        p_chunk::text;
    RETURN v_key;
END
$$;
COMMENT ON FUNCTION rollup_engine.register_with_partman(regclass, name, interval) IS 'Registers a table with pg_partman, or takes over one that is registered; returns its key.';

CREATE OR REPLACE FUNCTION rollup_engine.release_from_partman(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Of one set with names that it did not give, 4.7 stops the maintenance of all. Its template goes on to say which keys partitions have.
    IF rollup_engine.partman_schema() IS NOT NULL THEN
        EXECUTE format('UPDATE %s.part_config SET automatic_maintenance = $1, retention = NULL WHERE parent_table = $2', rollup_engine.partman_schema())
        USING 'off', rollup_engine.partman_key(p_relation);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.release_from_partman(regclass) IS 'Has pg_partman, where it knows a table, leave its partitions to others.';

CREATE OR REPLACE FUNCTION rollup_engine.register_partition_set(p_relation regclass, p_control name, p_chunk interval, p_is_source boolean)
RETURNS rollup_engine.partition_set
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.partition_set AS s (relation, control, time_unit, chunk_interval, is_source, relation_name, partman_parent)
    SELECT p_relation, p_control, u.unit, p_chunk, p_is_source, p_relation::text,
        -- It has units of its own for numbers.
        CASE WHEN u.unit IS NULL AND rollup_engine.can_register(p_relation) THEN rollup_engine.register_with_partman(p_relation, p_control, p_chunk) END
    FROM rollup_engine.number_unit(p_relation, p_control) AS u (unit)
    ON CONFLICT (relation) DO UPDATE SET control = excluded.control, relation_name = excluded.relation_name, partman_parent = excluded.partman_parent
    RETURNING s.*
$$;
COMMENT ON FUNCTION rollup_engine.register_partition_set(regclass, name, interval, boolean) IS 'Has maintenance make a table''s partitions, through pg_partman where it can.';

CREATE OR REPLACE FUNCTION rollup_engine.followed_set(p_relation regclass) RETURNS rollup_engine.partition_set
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column constant name := rollup_engine.partition_column(p_relation);
    v_set rollup_engine.partition_set;
BEGIN
    SELECT * INTO v_set FROM rollup_engine.partition_set WHERE relation = p_relation;
    IF v_set.is_source AND v_set.control <> v_column THEN
        UPDATE rollup_engine.partition_set SET control = v_column WHERE relation = p_relation RETURNING * INTO v_set;
        IF rollup_engine.is_partmans(v_set) THEN
            EXECUTE format('UPDATE %s.part_config SET control = $1 WHERE parent_table = $2', rollup_engine.partman_schema())
            USING v_column, v_set.partman_parent;
        END IF;
    END IF;
    RETURN v_set;
END
$$;
COMMENT ON FUNCTION rollup_engine.followed_set(regclass) IS 'How the partitions of a table are made, by its column as it is called now.';

CREATE OR REPLACE FUNCTION rollup_engine.use_unit(p_relation regclass, p_column name, p_unit text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What had been sealed by another unit was of another time.
    WITH other AS (
        UPDATE rollup_engine.partition_set AS s SET time_unit = p_unit
        WHERE s.time_unit <> p_unit AND rollup_engine.partition_column(s.relation) = p_column
            AND (rollup_engine.lies_in(s.relation, p_relation) OR rollup_engine.lies_in(p_relation, s.relation))
        RETURNING s.relation
    )
    UPDATE rollup_engine.retention AS t SET sealed_before = '-infinity', sealed_by = NULL
    FROM other AS o WHERE rollup_engine.lies_in(o.relation, t.relation) OR rollup_engine.lies_in(t.relation, o.relation)
$$;
COMMENT ON FUNCTION rollup_engine.use_unit(regclass, name, text) IS 'Has the partitions of a table go by the unit that its first rollup says, where those of before had said another.';

-- Making partitions ahead -----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.partition_count(p_relation regclass) RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*) FROM pg_inherits WHERE inhparent = p_relation
$$;

-- pg_partman sets search_path for the whole session, and would leave ours behind in it. In the
-- path below its call finds this function, which sets it no longer than its caller runs.
CREATE OR REPLACE FUNCTION rollup_engine.set_config(setting_name text, new_value text, is_local boolean) RETURNS text
    LANGUAGE sql
RETURN pg_catalog.set_config(setting_name, new_value, true);
COMMENT ON FUNCTION rollup_engine.set_config(text, text, boolean) IS 'Stands in for the built-in function inside pg_partman.';

CREATE OR REPLACE FUNCTION rollup_engine.premake_by_partman(p_set rollup_engine.partition_set) RETURNS void
    LANGUAGE plpgsql
    SET search_path = rollup_engine, pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_partition regclass;
BEGIN
    EXECUTE format('SELECT %s.run_maintenance($1, false, false)', rollup_engine.partman_schema()) USING p_set.partman_parent;
    FOR v_partition IN
        SELECT c.oid FROM pg_inherits AS i
        JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = p_set.relation AND c.relreplident <> 'f' AND NOT p_set.is_source
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', v_partition);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.premake_by_partman(rollup_engine.partition_set) IS 'Runs pg_partman''s maintenance on one table, in UTC as all our bounds are.';

CREATE OR REPLACE FUNCTION rollup_engine.premake_rollup_partitions(p_set rollup_engine.partition_set, p_now timestamptz DEFAULT now()) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_before constant bigint := rollup_engine.partition_count(p_set.relation);
    v_by_partman constant boolean := rollup_engine.is_partmans(p_set);
    v_rollup silver.rollup_config;
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE target_table = p_set.relation;
    v_rollup.chunk_interval := p_set.chunk_interval;
    -- pg_partman goes on from a partition that is there.
    PERFORM rollup_engine.ensure_partitions(v_rollup, tstzmultirange(tstzrange(p_now,
        CASE WHEN v_by_partman THEN p_now ELSE rollup_engine.bucket_next(p_set.chunk_interval, p_now) END, '[]')));
    IF v_by_partman THEN
        PERFORM rollup_engine.premake_by_partman(p_set);
    END IF;
    RETURN rollup_engine.partition_count(p_set.relation) - v_before;
END
$$;
COMMENT ON FUNCTION rollup_engine.premake_rollup_partitions(rollup_engine.partition_set, timestamptz) IS
'Makes the partitions of a rollup table for now and soon; returns how many were new.';

CREATE OR REPLACE FUNCTION rollup_engine.forget_partition_set(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_keys text[];
BEGIN
    WITH gone AS (
        DELETE FROM rollup_engine.partition_set WHERE relation IN (SELECT rollup_engine.partition_tree(p_relation)) RETURNING partman_parent
    )
    SELECT array_agg(partman_parent) INTO v_keys FROM gone;
    -- What it has divided by itself, too: its maintenance stops for all tables where it does not find one.
    v_keys := array_remove(v_keys || rollup_engine.partman_keys(p_relation), NULL);
    IF v_keys <> '{}' AND rollup_engine.partman_schema() IS NOT NULL THEN
        EXECUTE format('DELETE FROM %s.part_config WHERE parent_table = ANY ($1)', rollup_engine.partman_schema()) USING v_keys;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.forget_partition_set(regclass) IS 'Has nobody make partitions any more of a table that goes, nor of those below it, neither maintenance nor pg_partman.';

RESET ROLE;
