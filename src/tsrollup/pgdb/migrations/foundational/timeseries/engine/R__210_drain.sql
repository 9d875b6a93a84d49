-- The drain: what the change log and the partitions say becomes stale ranges of every rollup that
-- descends from the source.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.source_lock_holder(p_source_id integer) RETURNS integer
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(l.pid)
    FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid <> pg_backend_pid()
        AND (l.classid::bigint << 32 | l.objid::bigint) = rollup_engine.source_lock_key(p_source_id)
$$;
COMMENT ON FUNCTION rollup_engine.source_lock_holder(integer) IS 'The other session that keeps drains of a source out, NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.source_extent(p_source rollup_engine.source, p_from timestamptz, p_to timestamptz) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET row_security = off
AS $$
DECLARE
    v_extent tstzmultirange;
BEGIN
    EXECUTE format('SELECT tstzmultirange(tstzrange(min(%1$s), max(%1$s) + interval ''1 microsecond'')) FROM %2$s WHERE %3$I >= %4$s AND %3$I < %5$s HAVING count(*) > 0',
        rollup_engine.utc_expression(p_source.time_column, p_source.time_type), p_source.relation, p_source.time_column,
        rollup_engine.time_literal(greatest(p_from, '0001-01-01 00:00:00+00'), p_source.time_type),
        rollup_engine.time_literal(least(p_to, '10000-01-01 00:00:00+00'), p_source.time_type))
    INTO v_extent;
    RETURN coalesce(v_extent, '{}');
END
$$;
COMMENT ON FUNCTION rollup_engine.source_extent(rollup_engine.source, timestamptz, timestamptz) IS 'From the first to the last time of the source in a range: a partition made in advance is empty.';

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

CREATE OR REPLACE FUNCTION rollup_engine.record_gone_partitions(p_source rollup_engine.source, p_gone tstzmultirange) RETURNS void
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
        v_gone := rollup_engine.bucket_align(v_rollup.bucket_width, p_gone) * tstzmultirange(tstzrange(v_rollup.sealed_before, NULL));
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
COMMENT ON FUNCTION rollup_engine.record_gone_partitions(rollup_engine.source, tstzmultirange) IS 'Reports partitions that somebody took away from a source, where the rollups hold buckets of them.';

CREATE OR REPLACE FUNCTION rollup_engine.take_partition_changes(p_source rollup_engine.source) RETURNS tstzmultirange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_fingerprint constant text := rollup_engine.partition_fingerprint(p_source.relation);
    v_changed tstzmultirange := '{}';
    v_gone tstzmultirange;
    v_came tstzmultirange := '{}';
    v_member record;
BEGIN
    IF v_fingerprint = p_source.partitioning THEN
        RETURN v_changed;
    END IF;
    UPDATE rollup_engine.source SET partitioning = v_fingerprint WHERE id = p_source.id;
    WITH gone AS (
        DELETE FROM rollup_engine.source_partition
        WHERE source_id = p_source.id AND (partition, from_time, to_time) NOT IN (
            SELECT member, m.from_time, m.to_time FROM rollup_engine.partition_bounds(p_source.relation, p_source.time_column) AS m)
        RETURNING from_time, to_time
    )
    SELECT range_agg(tstzrange(from_time, to_time)) INTO v_gone FROM gone;
    IF v_gone IS NOT NULL THEN
        PERFORM rollup_engine.mark_rollups(
            ARRAY(SELECT id FROM silver.rollup_config WHERE source_id = p_source.id), v_gone, p_clip => true);
    END IF;
    FOR v_member IN SELECT * FROM rollup_engine.remember_partitions(p_source) LOOP
        v_changed := v_changed + rollup_engine.source_extent(p_source, v_member.from_time, v_member.to_time);
        IF isfinite(v_member.from_time) OR isfinite(v_member.to_time) THEN
            v_came := v_came + tstzmultirange(tstzrange(v_member.from_time, v_member.to_time));
        END IF;
    END LOOP;
    PERFORM rollup_engine.record_late_rows(p_source, v_came - coalesce(v_gone, '{}'), 'infinity', NULL);
    PERFORM rollup_engine.record_gone_partitions(p_source, v_gone - v_came) WHERE v_gone IS NOT NULL;
    RETURN v_changed;
END
$$;
COMMENT ON FUNCTION rollup_engine.take_partition_changes(rollup_engine.source) IS
'Ranges of data in partitions that were attached or given other bounds since the last call; what was detached or dropped is marked here. None of it fires a trigger: such changes show when the next drain finds them.';

CREATE OR REPLACE FUNCTION rollup_engine.exact_since(p_rollup_id integer) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What its parent no longer takes in, it never hears of.
    SELECT max(sealed_before) FROM silver.rollup_config WHERE id IN (SELECT rollup_engine.with_ancestors(p_rollup_id))
$$;
COMMENT ON FUNCTION rollup_engine.exact_since(integer) IS 'Time before which late rows no longer reach a rollup; NULL when all do.';

CREATE OR REPLACE FUNCTION rollup_engine.count_late_rows(p_source rollup_engine.source, p_ranges tstzmultirange, p_writers xid[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET row_security = off
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_rows bigint;
BEGIN
    EXECUTE rollup_engine.fill(
        'SELECT count(*) FROM {source} WHERE {column} >= {from} AND {column} < {to} AND {time} <@ $1 AND ($2 IS NULL OR xmin = ANY ($2))',
        jsonb_build_object(
            'source', p_source.relation, 'column', quote_ident(p_source.time_column),
            'time', rollup_engine.utc_expression(p_source.time_column, p_source.time_type),
            'from', rollup_engine.time_literal(greatest(lower(p_ranges), '0001-01-01 00:00:00+00'), p_source.time_type),
            'to', rollup_engine.time_literal(least(upper(p_ranges), '10000-01-01 00:00:00+00'), p_source.time_type)))
    INTO v_rows USING p_ranges, p_writers;
    RETURN v_rows;
END
$$;
COMMENT ON FUNCTION rollup_engine.count_late_rows(rollup_engine.source, tstzmultirange, xid[]) IS 'Rows of a source in the ranges that those transactions have written; all of them without any.';

CREATE OR REPLACE FUNCTION rollup_engine.record_late_rows(p_source rollup_engine.source, p_logged tstzmultirange, p_first_end timestamptz, p_writers xid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_since timestamptz;
    v_late tstzmultirange;
    v_rows bigint;
BEGIN
    -- Each border for itself, and as it is now: a writer may have begun before it was set.
    FOR v_since IN
        SELECT DISTINCT e.since FROM silver.rollup_config AS r CROSS JOIN LATERAL rollup_engine.exact_since(r.id) AS e (since)
        WHERE r.source_id = p_source.id AND e.since > '-infinity' AND p_logged && tstzrange(NULL, e.since)
    LOOP
        v_late := p_logged * tstzmultirange(tstzrange(NULL, v_since));
        v_rows := rollup_engine.count_late_rows(p_source, v_late, p_writers);
        -- A range across the border need not have a row before it.
        CONTINUE WHEN v_rows = 0 AND p_first_end > v_since;
        WITH late AS (
            UPDATE silver.rollup_config AS r SET sealed_late_rows = r.sealed_late_rows + v_rows
            WHERE r.source_id = p_source.id AND rollup_engine.exact_since(r.id) = v_since
            RETURNING r.target_table
        )
        INSERT INTO silver.error_log (target_table, error_code, error_message, detail, hint)
        SELECT target_table::text, 'TR006',
            CASE WHEN v_rows > 0 THEN format('%s late rows were kept out of sealed time', v_rows)
            ELSE 'late changes were kept out of sealed time, with no row left to count' END,
            format('they lie between %s and %s; the rollup is sealed before %s', lower(v_late), upper(v_late), v_since),
            CASE WHEN EXISTS (SELECT FROM rollup_engine.retention AS t WHERE t.keep IS NOT NULL AND rollup_engine.lies_in(p_source.relation, t.relation))
                THEN 'rows are in the source until their partition is removed; nothing needs to be done'
                ELSE 'rows are in the source, which is kept for ever by now; the rollup stays sealed there, and raw data tells what it lacks' END
        FROM late;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.record_late_rows(rollup_engine.source, tstzmultirange, timestamptz, xid[]) IS
'Counts and reports, for each rollup, what was written where it is sealed: of the rows that the transactions of the log wrote, those before its border.';

CREATE OR REPLACE FUNCTION rollup_engine.read_window(p_source_id integer, p_now timestamptz) RETURNS tstzmultirange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now constant timestamptz := CASE WHEN isfinite(p_now) THEN p_now ELSE now() END;
    v_window constant tstzmultirange := rollup_engine.look_back_range(p_source_id, p_now);
BEGIN
    IF v_window IS NULL THEN
        RETURN '{}';
    END IF;
    UPDATE rollup_engine.source SET window_read_at = least(v_now, now()) WHERE id = p_source_id;
    -- What lies ahead is no bucket to store; the window of a later run will hold it.
    RETURN v_window * tstzmultirange(tstzrange(NULL, v_now, '[]'));
END
$$;
COMMENT ON FUNCTION rollup_engine.read_window(integer, timestamptz) IS 'What the windows of a source have to have read again by now, which the caller marks stale; empty with triggers.';

CREATE OR REPLACE FUNCTION rollup_engine.drain(p_source_id integer, p_now timestamptz) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
    v_changed tstzmultirange;
    v_logged tstzmultirange;
    v_first_end timestamptz;
    v_writers xid[];
BEGIN
    IF NOT rollup_engine.try_lock_source(p_source_id) THEN
        RETURN false;
    END IF;
    PERFORM rollup_engine.absorb_shape(p_source_id);
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    -- A row trigger of this transaction logs again what is taken from the log here.
    PERFORM set_config(format('rollup_engine.logged_%s', p_source_id), '', true);
    PERFORM rollup_engine.take_in_touched(p_source_id);
    v_changed := rollup_engine.take_partition_changes(v_source);
    WITH moved AS (
        DELETE FROM rollup_engine.change_log WHERE source_id = p_source_id RETURNING from_time, to_time, xmin AS writer
    )
    -- A row of the log has the transaction, or the part of one, that wrote what it speaks of.
    SELECT range_agg(tstzrange(from_time, to_time)), min(to_time),
        array_agg(writer) FILTER (WHERE from_time < (SELECT max(sealed_before) FROM silver.rollup_config WHERE source_id = p_source_id))
    INTO v_logged, v_first_end, v_writers FROM moved;
    IF v_writers IS NOT NULL THEN
        PERFORM rollup_engine.record_late_rows(v_source, v_logged - v_changed, v_first_end, v_writers);  -- what was attached is counted
    END IF;
    v_changed := v_changed + coalesce(v_logged, '{}')
        + rollup_engine.read_window(p_source_id, p_now);
    IF NOT isempty(v_changed) THEN
        PERFORM rollup_engine.mark_rollups(
            ARRAY(SELECT id FROM silver.rollup_config WHERE source_id = p_source_id), v_changed);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION rollup_engine.drain(integer, timestamptz) IS
'Moves the visible log rows of a source into stale ranges of every rollup that descends from it. False when another drain, or a registration, is at it.';

CREATE OR REPLACE FUNCTION rollup_engine.has_undrained(p_source_id integer) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM rollup_engine.change_log WHERE source_id = p_source_id)
        OR change_tracking = 'window' OR partitioning IS DISTINCT FROM rollup_engine.partition_fingerprint(relation)
    FROM rollup_engine.source WHERE id = p_source_id
$$;
COMMENT ON FUNCTION rollup_engine.has_undrained(integer) IS 'Whether there is anything for a drain to take in.';

-- Partitions without triggers ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.log_extent(p_source_id integer, p_member regclass, p_from timestamptz, p_to timestamptz) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    -- A drain that knew it without triggers had its rows stored: some may be gone since.
    INSERT INTO rollup_engine.change_log (source_id, from_time, to_time)
    SELECT s.id, lower(r), upper(r)
    FROM rollup_engine.source AS s, unnest(
        CASE WHEN EXISTS (SELECT FROM rollup_engine.source_partition WHERE source_id = s.id AND partition = p_member)
        THEN tstzmultirange(tstzrange(p_from, p_to))
        -- Whole grains: an operator must not learn more of single rows than gold tells.
        ELSE rollup_engine.source_extent(s, silver.time_bucket(s.grain, p_from), rollup_engine.bucket_ceil(s.grain, p_to)) END) AS r
    WHERE s.id = p_source_id
$$;
COMMENT ON FUNCTION rollup_engine.log_extent(integer, regclass, timestamptz, timestamptz) IS 'Logs the data in the range of a partition as changed.';

CREATE OR REPLACE FUNCTION rollup_engine.drop_stray_triggers(p_source rollup_engine.source) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation regclass;
    v_name name;
BEGIN
    FOR v_relation IN
        SELECT DISTINCT s.relation FROM rollup_engine.stray_triggers(p_source) AS s JOIN pg_class AS c ON c.oid = s.relation
        WHERE pg_has_role(c.relowner, 'USAGE')
    LOOP
        BEGIN
            PERFORM rollup_engine.lock_out(v_relation);
            -- Asked again: it may have been attached meanwhile.
            FOR v_name IN SELECT trigger_name FROM rollup_engine.stray_triggers(p_source) WHERE relation = v_relation LOOP
                EXECUTE format('DROP TRIGGER %I ON %s', v_name, v_relation);
            END LOOP;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- somebody uses it; the next run tries again
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.drop_stray_triggers(rollup_engine.source) IS 'Drops capture triggers from tables that are no longer of the family: what is written there is none of its business.';

CREATE OR REPLACE FUNCTION rollup_engine.watch_new_partitions(p_source_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'  -- of partitions that a trigger goes on to
AS $$
DECLARE
    v_source rollup_engine.source;
    v_member record;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_source_id;
    FOR v_member IN
        SELECT w.member, w.is_ancestor, m.from_time, m.to_time
        FROM (SELECT DISTINCT member, is_ancestor FROM rollup_engine.missing_triggers(v_source)) AS w
        LEFT JOIN rollup_engine.partition_bounds(v_source.relation, v_source.time_column) AS m ON m.member = w.member
        ORDER BY w.is_ancestor DESC
    LOOP
        BEGIN
            PERFORM rollup_engine.lock_out(v_member.member, 'SHARE ROW EXCLUSIVE');
            PERFORM rollup_engine.add_triggers(v_source, v_member.member);
            -- Their lock waited for the writers that they did not see.
            IF v_member.is_ancestor THEN
                PERFORM rollup_engine.log_change(p_source_id, '-infinity', 'infinity');
            ELSE
                PERFORM rollup_engine.log_extent(p_source_id, v_member.member, v_member.from_time, v_member.to_time);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- validate_rollup_config shows what is missing; the next run tries again
        END;
    END LOOP;
    PERFORM rollup_engine.drop_stray_triggers(v_source);
END
$$;
COMMENT ON FUNCTION rollup_engine.watch_new_partitions(integer) IS 'Adds capture triggers to tables that joined the family of a source without them, and takes them from those that left, as far as the caller may, without making writers wait.';

RESET ROLE;
