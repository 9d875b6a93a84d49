-- silver.mark_stale: a range that somebody asks to have computed again.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.tell_sealed(p_rollup_ids integer[], p_range tstzrange) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_sealed record;
BEGIN
    -- Who asks for all means all that there is.
    FOR v_sealed IN
        SELECT target_table, sealed_before FROM silver.rollup_config
        WHERE id = ANY (p_rollup_ids) AND sealed_before > lower(p_range) AND isfinite(lower(p_range))
        ORDER BY depth, id
    LOOP
        RAISE NOTICE USING MESSAGE = format('%s is sealed before %s: what it has there stays as it is', v_sealed.target_table, v_sealed.sealed_before),
            HINT = 'where what it reads still holds that time, create another rollup of it, and drop this one';
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.tell_sealed(integer[], tstzrange) IS 'Tells who has a range computed again which rollups have some of it sealed.';

CREATE OR REPLACE FUNCTION rollup_engine.mark_asked(p_table_name text, p_from timestamptz, p_to timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup_id constant integer := rollup_engine.find_rollup_id(p_table_name);
    v_relation constant regclass := rollup_engine.find_relation(p_table_name, 'raw');
    v_source_ids constant integer[] := ARRAY(SELECT id FROM rollup_engine.source WHERE relation = v_relation AND v_rollup_id IS NULL);
    v_rollup_ids constant integer[] := ARRAY(
        SELECT rollup_engine.with_descendants(v_rollup_id) WHERE v_rollup_id IS NOT NULL
        UNION ALL
        SELECT id FROM silver.rollup_config WHERE source_id = ANY (v_source_ids));
BEGIN
    IF p_from IS NULL OR p_to IS NULL OR p_from >= p_to THEN
        PERFORM rollup_engine.fail('TR001', format('from %s to %s is no range of time', coalesce(p_from::text, 'NULL'), coalesce(p_to::text, 'NULL')),
            'from_time must be before to_time; use ''-infinity'' and ''infinity'' for everything');
    ELSIF v_rollup_id IS NOT NULL THEN
        UPDATE rollup_engine.failed_bucket SET next_retry_at = '-infinity' WHERE rollup_id = v_rollup_id;
        PERFORM rollup_engine.mark_rollups(v_rollup_ids, tstzmultirange(rollup_engine.calendar_range(p_from, p_to)));
    ELSIF v_source_ids = '{}' THEN
        PERFORM rollup_engine.fail('TR002', format('%s is neither a rollup nor the source of one', p_table_name),
            coalesce(rollup_engine.similar_tables(p_table_name, false) || ' ', '') || 'SELECT target_table, source_table FROM silver.rollup_config lists them');
    END IF;
    -- Nobody wrote, so that nothing was late.
    INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, is_found)
    SELECT s.id, lower(r), upper(r), true FROM unnest(v_source_ids) AS s (id), rollup_engine.calendar_range(p_from, p_to) AS r;
    PERFORM rollup_engine.tell_sealed(v_rollup_ids, tstzrange(p_from, p_to));
END
$$;
COMMENT ON FUNCTION rollup_engine.mark_asked(text, timestamptz, timestamptz) IS 'What mark_stale does.';

RESET ROLE;
