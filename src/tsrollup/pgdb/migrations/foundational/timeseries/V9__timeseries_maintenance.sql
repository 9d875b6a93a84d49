-- Looking after the tables: partitions, their width, retention.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
-- What these call is the engine, which comes after all versions.
SET LOCAL check_function_bodies = off;

CREATE FUNCTION silver.set_retention(table_name text, keep interval, archive boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation constant regclass := rollup_engine.find_table(table_name);
BEGIN
    PERFORM rollup_engine.check_interval('keep', keep, false);
    PERFORM rollup_engine.check_owner_role('set how long tables are kept');
    IF keep IS NOT NULL AND NOT EXISTS (SELECT FROM silver.rollup_config WHERE target_table = v_relation) THEN
        PERFORM rollup_engine.check_retention(v_relation, archive);
        PERFORM rollup_engine.take_over_retention(v_relation);
        IF rollup_engine.partition_column(v_relation) IS NOT NULL THEN
            PERFORM rollup_engine.ensure_default_partition(v_relation);
        END IF;
    END IF;
    IF keep IS NOT NULL AND archive THEN
        PERFORM rollup_engine.ensure_archive_schema(v_relation);
    END IF;
    PERFORM rollup_engine.write_retention(v_relation, keep, coalesce(archive, false));
    PERFORM rollup_engine.check_window_keep(v_relation);
    PERFORM rollup_engine.fit_partitions_to_keep(v_relation);
END
$$;
COMMENT ON FUNCTION silver.set_retention(text, interval, boolean) IS
'How long a source or a rollup is kept; NULL for ever. maintain_timeseries_tables first seals what is older and absorbed by every rollup that reads it, then, in a later run, drops those partitions, or with archive moves them to <schema>_archive. Rows that come for sealed time are counted, and change no rollup.';

CREATE FUNCTION silver.partition_source(table_name text, chunk_interval interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation constant regclass := rollup_engine.find_table(table_name);
    v_column name;
    v_set rollup_engine.partition_set;
    v_chunk interval;
    v_staying text;
BEGIN
    PERFORM rollup_engine.check_isolation();
    v_column := rollup_engine.check_partitionable(v_relation);
    v_chunk := coalesce(chunk_interval, rollup_engine.chunk_interval(v_relation), rollup_engine.configured_chunk(v_relation, '1 day'));
    PERFORM rollup_engine.check_chunk(v_chunk);
    IF (SELECT rollup_engine.base_type(atttypid) = 'date'::regtype FROM pg_attribute WHERE attrelid = v_relation AND attname = v_column)
        AND rollup_engine.bucket_next(v_chunk, '2000-01-03 00:00:00+00') - '2000-01-03 00:00:00+00' < interval '24 hours'
    THEN
        PERFORM rollup_engine.fail('TR001', format('partitions of %s cannot divide the days of %I', v_chunk, v_column), 'use a day or more');
    END IF;
    v_set := rollup_engine.register_partition_set(v_relation, v_column, rollup_engine.configured_chunk(v_relation, v_chunk), true);
    UPDATE rollup_engine.partition_set SET is_named = partition_source.chunk_interval IS NOT NULL WHERE relation = v_relation;
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
COMMENT ON FUNCTION silver.partition_source(text, interval) IS
'Has maintenance make the partitions of one of your own tables, through pg_partman where it is there: ahead of time, and for late rows, which wait in a default partition (and stay there where a foreign key, a trigger or a publication would take a row that is moved for one that is deleted). A set that pg_partman has already is taken over; its retention is switched off in favour of set_retention. Called again, it changes the width of partitions to come. A width that is named stays, though never beyond a tenth of what set_retention keeps; with NULL, maintenance sizes partitions by the data.';

CREATE FUNCTION silver.optimize_chunk_interval(table_name text, target_bytes bigint DEFAULT 268435456) RETURNS interval
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_set rollup_engine.partition_set;
BEGIN
    IF target_bytes IS NULL OR target_bytes < 1048576 THEN
        PERFORM rollup_engine.fail('TR001', format('target_bytes is %s', coalesce(target_bytes::text, 'NULL')), 'give at least 1048576, a megabyte');
    END IF;
    v_set.relation := rollup_engine.find_partitioned(table_name);
    v_set.control := rollup_engine.partition_column(v_set.relation);
    v_set.chunk_interval := rollup_engine.chunk_interval(v_set.relation);
    RETURN rollup_engine.fit_to_keep(v_set, coalesce(rollup_engine.best_chunk_interval(v_set, target_bytes), v_set.chunk_interval));
END
$$;
COMMENT ON FUNCTION silver.optimize_chunk_interval(text, bigint) IS
'Width that gives the partitions of a table or rollup about target_bytes, indexes included, by the sizes and statistics of its newest ones; the present width while those cannot tell. Never beyond a tenth of what set_retention keeps. Changes nothing: maintain_timeseries_tables applies it to partitions to come where nobody named a width.';

CREATE FUNCTION silver.maintain_timeseries_tables(target text DEFAULT NULL)
RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM rollup_engine.run_maintenance(target, now())
$$;
COMMENT ON FUNCTION silver.maintain_timeseries_tables(text) IS
'Maintains one table or rollup, or all: fresh statistics, partitions of a sensible width made ahead, late rows out of default partitions, short logs, retention. A row for each thing it did: analyzed, indexed, resized, premade, cleaned, sealed, dropped, archived, deleted, skipped (it belongs to somebody else, somebody uses it, another run is at work, or rows stay in a default partition) or failed (see error_log).';

RESET ROLE;
