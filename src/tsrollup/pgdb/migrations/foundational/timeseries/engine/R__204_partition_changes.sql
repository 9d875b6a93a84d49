-- Partitions that came, went or got other bounds since the last drain: none of it fires a trigger.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.source_extent(p_source rollup_engine.source, p_from timestamptz, p_to timestamptz) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET row_security = off
AS $$
DECLARE
    v_name constant text := p_source.relation;
    v_extent tstzmultirange;
BEGIN
    EXECUTE rollup_engine.fill('SELECT tstzmultirange(tstzrange(min({time}), max({time}) + interval ''1 microsecond'')) FROM {source} WHERE {column} >= {from} AND {column} < {to} HAVING count(*) > 0',
        jsonb_build_object('source', p_source.relation, 'column', quote_ident(p_source.time_column),
            'time', rollup_engine.time_expression(p_source.time_column, p_source.time_type, p_source.time_unit),
            'from', rollup_engine.time_literal(greatest(p_from, lower(rollup_engine.calendar())), p_source.time_type, p_source.time_unit),
            'to', rollup_engine.time_literal(least(p_to, upper(rollup_engine.calendar())), p_source.time_type, p_source.time_unit)))
    INTO v_extent;
    PERFORM rollup_engine.fail_if_renamed(p_source.id, v_name);
    RETURN coalesce(v_extent, '{}');
END
$$;
COMMENT ON FUNCTION rollup_engine.source_extent(rollup_engine.source, timestamptz, timestamptz) IS 'From the first to the last time of the source in a range: a partition made in advance is empty.';

CREATE OR REPLACE FUNCTION rollup_engine.told_width(p_source_id integer) RETURNS interval
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT bucket_width FROM silver.rollup_config WHERE source_id = p_source_id AND parent_id IS NULL ORDER BY bucket_width LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.told_width(integer) IS
'The narrowest buckets of a source''s rollups: of its rows an operator is told no more than which of them hold some, as gold tells.';

CREATE OR REPLACE FUNCTION rollup_engine.partition_fingerprint(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT md5(string_agg(format('%s %s', c.oid, c.relpartbound), ',' ORDER BY c.oid))
    FROM rollup_engine.partition_tree(p_relation) AS t (member) JOIN pg_class AS c ON c.oid = t.member
$$;
COMMENT ON FUNCTION rollup_engine.partition_fingerprint(regclass) IS 'Changes whenever a partition comes, goes, or gets other bounds.';

CREATE OR REPLACE FUNCTION rollup_engine.remember_partitions(p_source rollup_engine.source) RETURNS SETOF rollup_engine.source_partition
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.source_partition (source_id, partition, from_time, to_time)
    SELECT p_source.id, member, from_time, to_time FROM rollup_engine.partition_bounds(p_source.relation, p_source.time_column)
    ON CONFLICT DO NOTHING
    RETURNING *
$$;
COMMENT ON FUNCTION rollup_engine.remember_partitions(rollup_engine.source) IS 'Notes the partitions of a source; returns those that are new.';

CREATE OR REPLACE FUNCTION rollup_engine.is_taken_in(p_partition regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT EXISTS (
        SELECT FROM rollup_engine.partition_tree(p_partition) AS t (member)
        CROSS JOIN LATERAL pg_partition_ancestors(t.member) AS a
        JOIN rollup_engine.source AS s ON s.relation = a.relid AND s.change_tracking = 'trigger'
        WHERE (s.id, t.member) NOT IN (SELECT p.source_id, p.partition FROM rollup_engine.source_partition AS p))
$$;
COMMENT ON FUNCTION rollup_engine.is_taken_in(regclass) IS
'Whether every source that a partition belongs to knows it, and all below it: what came with one that was attached since the last drain was not looked at.';

DROP FUNCTION IF EXISTS rollup_engine.record_gone_partitions(rollup_engine.source, tstzmultirange);
CREATE OR REPLACE FUNCTION rollup_engine.record_gone_partitions(p_source rollup_engine.source, p_gone tstzmultirange, p_emptied tstzmultirange, p_held tstzmultirange) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_gone tstzmultirange;
    v_stored tstzrange;
BEGIN
    FOR v_rollup IN SELECT * FROM silver.rollup_config WHERE source_id = p_source.id AND parent_id IS NULL ORDER BY id LOOP
        CONTINUE WHEN rollup_engine.has_buckets(v_rollup.target_table) IS NOT TRUE OR rollup_engine.has_lost_zone(v_rollup);
        v_gone := (rollup_engine.bucket_align(v_rollup, p_gone) + (rollup_engine.bucket_align(v_rollup, p_emptied) - rollup_engine.bucket_align(v_rollup, p_held)))
            * tstzmultirange(tstzrange(v_rollup.sealed_before, NULL));
        EXECUTE format('SELECT tstzrange(min(bucket), max(bucket), ''[]'') FROM %s WHERE bucket >= $1 AND bucket < $2 AND bucket <@ $3 HAVING count(*) > 0', v_rollup.target_table)
        INTO v_stored USING coalesce(lower(v_gone), '-infinity'), coalesce(upper(v_gone), 'infinity'), v_gone;
        INSERT INTO silver.error_log (target_table, error_code, error_message, detail, hint)
        SELECT v_rollup.target_table::text, 'TR007', format('partitions left %s, and what they held leaves the rollup', p_source.relation),
            format('the rollup holds buckets from %s to %s there', lower(v_stored), upper(v_stored)),
            'where old data is to go and the rollup to stay, nothing but silver.set_retention may remove partitions'
        WHERE v_stored IS NOT NULL;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.record_gone_partitions(rollup_engine.source, tstzmultirange, tstzmultirange, tstzmultirange) IS
'Reports partitions that somebody took away from a source, where the rollups hold buckets of them: without others in their place, or with empty ones, in buckets of which others that came in their place hold nothing either.';

-- That of 0.1.0 returned the first alone.
DROP FUNCTION IF EXISTS rollup_engine.take_partition_changes(rollup_engine.source);
CREATE FUNCTION rollup_engine.take_partition_changes(p_source rollup_engine.source, OUT changed tstzmultirange, OUT came oid[], OUT gone tstzmultirange)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_fingerprint constant text := rollup_engine.partition_fingerprint(p_source.relation);
    v_told constant tstzmultirange := rollup_engine.told_by_source(p_source.id);
    v_gone oid[];
    v_came tstzmultirange := '{}';
    v_empty tstzmultirange := '{}';
    v_member record;
    v_extent tstzmultirange;
BEGIN
    changed := '{}';
    came := '{}';
    gone := '{}';
    IF v_fingerprint = p_source.partitioning AND NOT EXISTS (
        -- Those of another database, which came with its dump.
        SELECT FROM rollup_engine.source_partition
        WHERE source_id = p_source.id AND partition NOT IN (SELECT rollup_engine.partition_tree(p_source.relation)))
    THEN
        RETURN;
    END IF;
    UPDATE rollup_engine.source SET partitioning = v_fingerprint WHERE id = p_source.id;
    WITH left_us AS (
        DELETE FROM rollup_engine.source_partition
        WHERE source_id = p_source.id AND (partition, from_time, to_time) NOT IN (
            SELECT member, m.from_time, m.to_time FROM rollup_engine.partition_bounds(p_source.relation, p_source.time_column) AS m)
        RETURNING partition, from_time, to_time
    )
    SELECT coalesce(range_agg(tstzrange(from_time, to_time)), '{}') * v_told, array_agg(partition::oid) INTO gone, v_gone FROM left_us;
    IF v_gone IS NOT NULL THEN
        PERFORM rollup_engine.mark_rollups(
            ARRAY(SELECT id FROM silver.rollup_config WHERE source_id = p_source.id), gone, p_clip => true);
    END IF;
    FOR v_member IN SELECT * FROM rollup_engine.remember_partitions(p_source) LOOP
        v_extent := rollup_engine.source_extent(p_source, v_member.from_time, v_member.to_time);
        changed := changed + v_extent;
        IF v_member.partition <> ALL (coalesce(v_gone, '{}')) THEN  -- with other bounds it holds what it held
            came := came || v_member.partition::oid;
        END IF;
        IF isfinite(v_member.from_time) OR isfinite(v_member.to_time) THEN
            v_came := v_came + tstzmultirange(tstzrange(v_member.from_time, v_member.to_time));
            v_empty := v_empty + CASE WHEN isempty(v_extent) THEN tstzmultirange(tstzrange(v_member.from_time, v_member.to_time)) ELSE '{}' END;
        END IF;
    END LOOP;
    IF p_source.change_tracking = 'trigger' THEN  -- its text may rest on columns of partitions
        PERFORM rollup_engine.write_capture(p_source);
    END IF;
    changed := changed * v_told;
    IF p_source.relation::oid = ANY (came) THEN  -- in another database, after a restore
        came := '{}';
    END IF;
    IF p_source.change_tracking = 'trigger' THEN  -- of what lies before a window, nobody knows what was there
        PERFORM rollup_engine.record_gone_partitions(p_source, gone - v_came, gone * v_empty, gone * changed) WHERE v_gone IS NOT NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.take_partition_changes(rollup_engine.source) IS
'Ranges of data in partitions that were attached or given other bounds since the last call; which of them are new, and where others went, whose rows they may hold. What was detached or dropped is marked here. None of it fires a trigger: such changes show when the next drain finds them.';

RESET ROLE;
