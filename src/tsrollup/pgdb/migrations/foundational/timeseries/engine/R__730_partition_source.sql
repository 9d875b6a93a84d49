-- silver.partition_source: the user's own table is handed over, new or with the partitions that it
-- or pg_partman has already.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.configured_chunk(p_relation regclass, p_default interval) RETURNS interval
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_chunk interval;
BEGIN
    IF rollup_engine.partman_schema() IS NOT NULL AND rollup_engine.number_unit(p_relation, rollup_engine.partition_column(p_relation)) IS NULL THEN
        EXECUTE format('SELECT partition_interval::interval FROM %s.part_config WHERE parent_table = $1', rollup_engine.partman_schema())
        INTO v_chunk
        USING rollup_engine.partman_key(p_relation);
    END IF;
    RETURN coalesce(v_chunk, p_default);
END
$$;
COMMENT ON FUNCTION rollup_engine.configured_chunk(regclass, interval) IS 'The width that pg_partman has for a table, else the given one.';

CREATE OR REPLACE FUNCTION rollup_engine.check_partitionable(p_relation regclass) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column constant name := rollup_engine.partition_column(p_relation);
    v_owner constant oid := (SELECT relowner FROM pg_class WHERE oid = p_relation);
BEGIN
    IF v_column IS NULL OR v_column <> ALL (rollup_engine.time_columns(p_relation)) THEN
        PERFORM rollup_engine.fail('TR004', format('%s is not partitioned by ranges of a time column', p_relation),
            'create it with PARTITION BY RANGE (the time column); numbers are times once a rollup of the table has said so: time_unit');
    ELSIF NOT pg_has_role(v_owner, 'USAGE') THEN
        PERFORM rollup_engine.fail('TR004', format('%I does not own %s', current_user, p_relation), format('call it as %s', v_owner::regrole));
    END IF;
    PERFORM rollup_engine.check_owner_role('hand over tables');
    IF EXISTS (SELECT FROM silver.rollup_config WHERE target_table = p_relation) THEN
        PERFORM rollup_engine.fail('TR001', format('%s is a rollup', p_relation), 'its partitions are made without asking');
    END IF;
    RETURN v_column;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_partitionable(regclass) IS 'The column that a source is partitioned by, or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.adopt_partitions(p_table_name text, p_chunk_interval interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation constant regclass := rollup_engine.find_table(p_table_name);
    v_column name;
    v_set rollup_engine.partition_set;
    v_chunk interval;
    v_staying text;
BEGIN
    PERFORM rollup_engine.check_isolation();
    v_column := rollup_engine.check_partitionable(v_relation);
    v_chunk := coalesce(p_chunk_interval, rollup_engine.chunk_interval(v_relation), rollup_engine.configured_chunk(v_relation, '1 day'));
    PERFORM rollup_engine.check_chunk(v_chunk);
    IF (SELECT rollup_engine.base_type(atttypid) = 'date'::regtype FROM pg_attribute WHERE attrelid = v_relation AND attname = v_column)
        AND rollup_engine.bucket_next(v_chunk, '2000-01-03 00:00:00+00') - '2000-01-03 00:00:00+00' < interval '24 hours'
    THEN
        PERFORM rollup_engine.fail('TR001', format('partitions of %s cannot divide the days of %I', v_chunk, v_column), 'use a day or more');
    END IF;
    v_set := rollup_engine.register_partition_set(v_relation, v_column, rollup_engine.configured_chunk(v_relation, v_chunk), true);
    PERFORM rollup_engine.release_from_partman(v_relation) WHERE v_set.partman_parent IS NULL;
    UPDATE rollup_engine.partition_set SET is_named = p_chunk_interval IS NOT NULL WHERE relation = v_relation;
    PERFORM rollup_engine.change_chunk_interval(v_relation, v_chunk);
    PERFORM rollup_engine.fit_partitions_to_keep(v_relation);
    SELECT * INTO v_set FROM rollup_engine.partition_set WHERE relation = v_relation;
    PERFORM rollup_engine.premake_source_partitions(v_set);
    PERFORM rollup_engine.ensure_default_partition(v_relation);  -- after those that it would be locked for
    v_staying := rollup_engine.staying_rows(v_set);
    IF v_staying IS NOT NULL THEN
        RAISE NOTICE '%', v_staying;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.adopt_partitions(text, interval) IS 'What partition_source does.';

RESET ROLE;
