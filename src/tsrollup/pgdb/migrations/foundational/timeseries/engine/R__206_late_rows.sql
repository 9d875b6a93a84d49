-- What was written where a rollup is sealed: counted by its border, and reported.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.exact_since(p_rollup_id integer) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What its parent no longer takes in, it never hears of.
    SELECT max(sealed_before) FROM silver.rollup_config WHERE id IN (SELECT rollup_engine.with_ancestors(p_rollup_id))
$$;
COMMENT ON FUNCTION rollup_engine.exact_since(integer) IS 'Time before which late rows no longer reach a rollup; NULL when all do.';

CREATE OR REPLACE FUNCTION rollup_engine.root_filter(p_rollup_id integer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.row_filter(c) FROM silver.rollup_config AS c
    WHERE c.id IN (SELECT rollup_engine.with_ancestors(p_rollup_id)) AND c.parent_id IS NULL
$$;
COMMENT ON FUNCTION rollup_engine.root_filter(integer) IS 'The filter on rows of the raw table under a rollup; those on groups of its parents apart.';

CREATE OR REPLACE FUNCTION rollup_engine.rewritten_tables(p_source_id integer) RETURNS SETOF oid
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT n.member
    FROM rollup_engine.source AS s
    JOIN rollup_engine.source_shape AS n ON n.source_id = s.id
    JOIN pg_class AS c ON c.oid = n.member AND c.relfilenode <> n.file
    WHERE s.id = p_source_id AND rollup_engine.is_noted_here(s)
$$;
COMMENT ON FUNCTION rollup_engine.rewritten_tables(integer) IS 'Tables of a source that have another file than the last drain noted: whoever wrote it may stand in its rows as their writer.';

CREATE OR REPLACE FUNCTION rollup_engine.seal_age(p_source_id integer) RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A restore brings the number of a transaction of another server.
    RETURN (
        SELECT least(min(rollup_engine.known_age(t.sealed_by::xid)), rollup_engine.restored_age()) FROM rollup_engine.retention AS t
        WHERE p_source_id IN (SELECT id FROM rollup_engine.tracked_sources(t.relation)));
END
$$;
COMMENT ON FUNCTION rollup_engine.seal_age(integer) IS 'How many transactions ago rollups of a source were last sealed, or restored: what is younger, and lies in sealed time, is late.';

CREATE OR REPLACE FUNCTION rollup_engine.may_miss_late_rows(p_source rollup_engine.source) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '100ms'
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM silver.rollup_config WHERE source_id = p_source.id AND sealed_before > '-infinity')
        AND (EXISTS (SELECT FROM rollup_engine.missing_triggers(p_source))
            OR EXISTS (SELECT FROM rollup_engine.capture_triggers(p_source) AS g WHERE g.tgenabled <> left(rollup_engine.firing_mode(g.tgtype), 1)::"char"));
EXCEPTION WHEN lock_not_available THEN
    RETURN true;  -- it cannot be told
END
$$;
COMMENT ON FUNCTION rollup_engine.may_miss_late_rows(rollup_engine.source) IS
'Whether capture triggers are off or missing, so that rows may come to sealed time unseen: they are counted when the triggers are back.';

CREATE OR REPLACE FUNCTION rollup_engine.is_written_within(p_writer xid, p_transactions integer) RETURNS boolean
    LANGUAGE sql STABLE
-- Below zero is what began after this transaction; and, far below, what was frozen over 2^31 transactions ago.
RETURN age(p_writer) BETWEEN -10000000 AND p_transactions;
COMMENT ON FUNCTION rollup_engine.is_written_within(xid, integer) IS 'Whether who wrote a row is one of the last so many transactions.';

CREATE OR REPLACE FUNCTION rollup_engine.before_all() RETURNS xid8
    LANGUAGE sql IMMUTABLE
-- No table has rows of an earlier one.
RETURN '1'::xid8;
COMMENT ON FUNCTION rollup_engine.before_all() IS 'The border of a source of which nothing was captured so far: any of its rows may be late, whenever it was written.';

CREATE OR REPLACE FUNCTION rollup_engine.log_unseen(p_source_id integer) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.change_log (source_id, from_time, to_time, is_found) VALUES (p_source_id, '-infinity', 'infinity', false)
$$;
COMMENT ON FUNCTION rollup_engine.log_unseen(integer) IS 'Has the next drain look for late rows that came while nothing captured them.';

DROP FUNCTION IF EXISTS rollup_engine.count_late_rows(rollup_engine.source, tstzmultirange, xid[]);
CREATE OR REPLACE FUNCTION rollup_engine.count_late_rows(
    p_source rollup_engine.source, p_filter text, p_ranges tstzmultirange,
    p_writers xid[], p_came oid[], p_gone tstzmultirange, p_rewritten oid[], p_unwatched_since xid8,
    OUT late bigint, OUT unsure bigint, OUT lie_in tstzrange
)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone_abbreviations = 'Default'
    SET row_security = off
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_name constant text := p_source.relation;
    -- Who changed columns of a table stands in all of its rows.
    v_rewriters constant xid[] := ARRAY(SELECT xmin FROM pg_attribute WHERE attrelid = ANY (p_rewritten) AND attnum > 0);
    -- What is older may have been stored before.
    v_seal_age constant integer := CASE WHEN p_came <> '{}' OR p_unwatched_since IS NOT NULL THEN rollup_engine.seal_age(p_source.id) END;
BEGIN
    EXECUTE rollup_engine.fill($sql$
        SELECT count(*) FILTER (WHERE is_late), count(*) FILTER (WHERE is_late IS NOT TRUE), CASE WHEN count(*) > 0 THEN tstzrange(min(ts), max(ts) + interval '1 microsecond') END
        FROM (
            SELECT {time} AS ts, xmin = ANY ($2) AND NOT (tableoid = ANY ($5) AND xmin = ANY ($9)) OR tableoid = ANY ($3) AND tableoid <> ALL ($10) AND NOT {time} <@ $4 AND rollup_engine.is_written_within(xmin, $7 - 1) AS is_late
            FROM {source}
            WHERE {column} >= {from} AND {column} < {to} AND {time} <@ $1
                AND (xmin = ANY ($2) OR tableoid = ANY ($3) OR tableoid = ANY ($5) AND rollup_engine.is_written_within(xmin, $6) OR rollup_engine.is_written_within(xmin, $8)){filter}
        ) AS changed $sql$,
        jsonb_build_object(
            'filter', p_filter, 'source', p_source.relation, 'column', quote_ident(p_source.time_column),
            'time', rollup_engine.time_expression(p_source.time_column, p_source.time_type, p_source.time_unit),
            'from', rollup_engine.time_literal(greatest(lower(p_ranges), lower(rollup_engine.calendar())), p_source.time_type, p_source.time_unit),
            'to', rollup_engine.time_literal(least(upper(p_ranges), upper(rollup_engine.calendar())), p_source.time_type, p_source.time_unit)))
    INTO late, unsure, lie_in USING p_ranges, p_writers, p_came, p_gone, p_rewritten, (SELECT max(age(w)) FROM unnest(p_writers) AS w),
        v_seal_age, CASE WHEN p_unwatched_since = rollup_engine.before_all() THEN 2147483647
            WHEN p_unwatched_since IS NOT NULL THEN coalesce(least(rollup_engine.known_age(p_unwatched_since::xid), v_seal_age), 2147483647) END, v_rewriters,
        ARRAY(SELECT relation::oid FROM rollup_engine.restored_tables());  -- mostly what was stored before
    PERFORM rollup_engine.fail_if_renamed(p_source.id, v_name);
EXCEPTION
WHEN lock_not_available THEN
    RAISE;
WHEN feature_not_supported THEN
    -- A foreign table has no xmin; the rollup is invalid as long as it is there.
    late := 0;
    unsure := 1;
WHEN OTHERS THEN
    IF p_filter = '' THEN
        RAISE;
    END IF;  -- one of them has the filter fail, or a column of it is gone: no reason for other rollups to wait
END
$$;
COMMENT ON FUNCTION rollup_engine.count_late_rows(rollup_engine.source, text, tstzmultirange, xid[], oid[], tstzmultirange, oid[], xid8) IS
'Rows of a source in the ranges, by the filter, that those transactions have written, or that are in tables that came; and those of which nobody knows: older than the seal, where others went, in tables written anew since, or not captured since then; and from when to when. NULL where the filter fails.';

DROP FUNCTION IF EXISTS rollup_engine.record_late_rows(rollup_engine.source, tstzmultirange, timestamptz, xid[]);
CREATE OR REPLACE FUNCTION rollup_engine.record_late_rows(
    p_source rollup_engine.source, p_changed tstzmultirange, p_first_end timestamptz,
    p_writers xid[], p_came oid[], p_gone tstzmultirange, p_rewritten oid[], p_unwatched_since xid8
) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_since timestamptz;
    v_filter text;
    v_late tstzmultirange;
    v_counted bigint;
    v_rows bigint;
    v_unsure bigint;
    v_lie_in tstzrange;
BEGIN
    -- Each border for itself, and as it is now: a writer may have begun before it was set.
    FOR v_since, v_filter IN
        SELECT DISTINCT e.since, rollup_engine.root_filter(r.id) FROM silver.rollup_config AS r CROSS JOIN LATERAL rollup_engine.exact_since(r.id) AS e (since)
        -- The bucket of now, of a rollup that came when part of it was gone, has nothing that such rows would be late for.
        WHERE r.source_id = p_source.id AND e.since > '-infinity' AND e.since <= now() AND p_changed && tstzrange(NULL, e.since)
    LOOP
        v_late := p_changed * tstzmultirange(tstzrange(NULL, v_since));
        SELECT late, late, unsure, lie_in INTO v_counted, v_rows, v_unsure, v_lie_in
        FROM rollup_engine.count_late_rows(p_source, v_filter, v_late, p_writers, p_came, p_gone, p_rewritten, p_unwatched_since);
        IF v_counted IS NULL THEN
            SELECT late, unsure, lie_in INTO v_rows, v_unsure, v_lie_in
            FROM rollup_engine.count_late_rows(p_source, '', v_late, p_writers, p_came, p_gone, p_rewritten, p_unwatched_since);
        END IF;
        -- A range across the border need not have a row before it.
        CONTINUE WHEN v_rows + v_unsure = 0 AND coalesce(p_first_end, 'infinity') > v_since;
        WITH late AS (
            UPDATE silver.rollup_config AS r SET sealed_late_rows = r.sealed_late_rows + v_rows
            WHERE r.source_id = p_source.id AND rollup_engine.exact_since(r.id) = v_since AND rollup_engine.root_filter(r.id) = v_filter
            RETURNING r.target_table
        )
        INSERT INTO silver.error_log (target_table, error_code, error_message, detail, hint)
        SELECT target_table::text, 'TR006',
            CASE WHEN v_rows > 0 THEN format('%s late rows were kept out of sealed time', v_rows) || CASE WHEN v_unsure > 0 THEN ', and perhaps others, not counted' ELSE '' END
            WHEN v_unsure > 0 THEN 'late rows were perhaps kept out of sealed time, not counted'
            ELSE 'late changes were kept out of sealed time, with no row left to count' END,
            format('they lie between %s and %s; the rollup is sealed before %s', lower(told), upper(told), v_since)
                || CASE WHEN v_counted IS NULL THEN '; its filter fails on some, so that all are counted' ELSE '' END
                || CASE WHEN v_unsure > 0 AND v_lie_in IS NULL THEN '; where a foreign table is among them, none are counted'
                    WHEN v_unsure > 0 THEN format('; of %s rows there nobody knows: DDL or a restore wrote or brought them, or capture was off', v_unsure) ELSE '' END,
            CASE WHEN EXISTS (SELECT FROM rollup_engine.retention AS t WHERE t.keep IS NOT NULL AND rollup_engine.lies_in(p_source.relation, t.relation))
                THEN 'rows are in the source until their partition is removed, and in a default partition until somebody deletes them'
                ELSE 'rows are in the source, which is kept for ever by now; the rollup stays sealed there, and raw data tells what it lacks' END
        -- In whole grains, as the log has it.
        FROM late, rollup_engine.bucket_align(p_source.grain, coalesce(tstzmultirange(v_lie_in), v_late)) AS told;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.record_late_rows(rollup_engine.source, tstzmultirange, timestamptz, xid[], oid[], tstzmultirange, oid[], xid8) IS
'Counts and reports, for each rollup, what was written where it is sealed: of the rows that the transactions of the log wrote, or that came with partitions, those before its border.';

RESET ROLE;
