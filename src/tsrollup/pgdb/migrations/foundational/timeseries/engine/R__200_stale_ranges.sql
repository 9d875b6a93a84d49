-- Stale ranges of a rollup: whole buckets, split at its cells. Marking them, and
-- reading the stale set, to which what is not drained yet belongs as well.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Who descends from what -----------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.with_descendants(p_rollup_id integer) RETURNS SETOF integer
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE tree AS (
        SELECT p_rollup_id AS id
        UNION ALL
        SELECT c.id FROM tree JOIN silver.rollup_config AS c ON c.parent_id = tree.id
    )
    SELECT id FROM tree
$$;
COMMENT ON FUNCTION rollup_engine.with_descendants(integer) IS 'The rollup and every rollup that reads it, at any depth.';

CREATE OR REPLACE FUNCTION rollup_engine.with_ancestors(p_rollup_id integer) RETURNS SETOF integer
    LANGUAGE plpgsql STABLE  -- each read asks: its plan stays with the session
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
        WITH RECURSIVE line AS (
            SELECT p_rollup_id AS id
            UNION ALL
            SELECT c.parent_id FROM line JOIN silver.rollup_config AS c ON c.id = line.id WHERE c.parent_id IS NOT NULL
        )
        SELECT id FROM line;
END
$$;
COMMENT ON FUNCTION rollup_engine.with_ancestors(integer) IS 'The rollup and every rollup that it reads, at any depth.';

-- Marking ----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.due_at(p_rollup silver.rollup_config, p_bucket timestamptz, p_noted timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN greatest(p_noted, rollup_engine.bucket_next(p_rollup.settle_delay, rollup_engine.bucket_next(p_rollup, p_bucket)));
END
$$;
COMMENT ON FUNCTION rollup_engine.due_at(silver.rollup_config, timestamptz, timestamptz) IS 'From when on a change of a bucket that was noted then is to be stored; NULL without a bucket: the time it was noted.';

-- Those of 0.1.0 noted no time.
DROP FUNCTION IF EXISTS rollup_engine.mark_rollup(silver.rollup_config, tstzmultirange);
DROP FUNCTION IF EXISTS rollup_engine.mark_rollups(integer[], tstzmultirange, boolean);
CREATE OR REPLACE FUNCTION rollup_engine.mark_rollup(p_rollup silver.rollup_config, p_ranges tstzmultirange, p_noted timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan  -- planning takes longer than marking a few
    SET enable_seqscan = off  -- for the plan stays when there are many
AS $$
DECLARE
    v_cells silver.rollup_config;
BEGIN
    IF rollup_engine.has_lost_zone(p_rollup) THEN
        -- All of it is marked when the zone is known again: no reason for others to wait.
        UPDATE rollup_engine.zone_rules SET digest = '', missed_from = least(missed_from, coalesce(lower(p_ranges), '-infinity'))
        WHERE rollup_id = p_rollup.id AND timezone = p_rollup.timezone AND (digest <> '' OR lower(p_ranges) < missed_from);
        RETURN;
    END IF;
    v_cells := rollup_engine.cells_of(p_rollup);
    WITH aligned AS (
        SELECT rollup_engine.bucket_align(p_rollup, p_ranges)
            * tstzmultirange(tstzrange(p_rollup.sealed_before, NULL)) AS ranges
    ), wanted AS (
        SELECT cell, range_agg(r * tstzrange(cell, next_cell)) AS ranges
        FROM aligned, unnest(ranges) AS r
        CROSS JOIN LATERAL (SELECT rollup_engine.bucket_start(v_cells, lower(r)) AS first) AS f
        CROSS JOIN LATERAL (
            -- Most lie in one, and of thousands it takes long to ask for the cells of each.
            SELECT f.first, upper(r) WHERE upper(r) <= rollup_engine.bucket_next(v_cells, f.first)
            UNION ALL
            SELECT * FROM rollup_engine.buckets_in(v_cells, rollup_engine.bucket_align(v_cells, tstzmultirange(r))) WHERE (upper(r) <= rollup_engine.bucket_next(v_cells, f.first)) IS NOT TRUE
        ) AS c (cell, next_cell)
        GROUP BY cell
    ), held AS MATERIALIZED (
        -- What a refresh has claimed stays as it is: the range is added beside it.
        SELECT s.id, s.cell, tstzrange(s.from_time, s.to_time) AS range, s.due_at, s.keys IS NULL AS is_whole
        FROM rollup_engine.stale_range AS s
        JOIN wanted AS w ON w.cell = s.cell
        WHERE s.rollup_id = p_rollup.id AND (tstzrange(s.from_time, s.to_time) <@ w.ranges
            OR s.keys IS NULL AND (tstzrange(s.from_time, s.to_time) && w.ranges OR tstzrange(s.from_time, s.to_time) -|- w.ranges))
        FOR UPDATE OF s SKIP LOCKED
    ), merged AS (
        SELECT w.cell, w.ranges AS wanted, w.ranges + coalesce(range_agg(h.range), '{}') AS ranges,
            array_agg(h.id) AS held_ids, array_agg(h.range) AS held_ranges, array_agg(h.due_at) AS held_due
        FROM wanted AS w
        LEFT JOIN held AS h ON h.cell = w.cell
        GROUP BY w.cell, w.ranges
        HAVING NOT coalesce(w.ranges <@ range_agg(h.range) FILTER (WHERE h.is_whole), false)
    ), removed AS (
        DELETE FROM rollup_engine.stale_range WHERE id = ANY (ARRAY(SELECT unnest(held_ids) FROM merged))
    )
    INSERT INTO rollup_engine.stale_range (rollup_id, cell, from_time, to_time, due_at)
    SELECT p_rollup.id, m.cell, lower(r), upper(r), least(
        rollup_engine.due_at(p_rollup, lower(m.wanted * tstzmultirange(r)), p_noted),
        (SELECT min(h.due_at) FROM unnest(m.held_ranges, m.held_due) AS h (range, due_at) WHERE h.range && r))
    FROM merged AS m, unnest(m.ranges) AS r;
END
$$;
COMMENT ON FUNCTION rollup_engine.mark_rollup(silver.rollup_config, tstzmultirange, timestamptz) IS
'Makes the buckets that the finite ranges touch stale, except sealed ones. Overlapping rows that nobody holds are replaced by their union under new ids.';

CREATE OR REPLACE FUNCTION rollup_engine.is_wide(p_width interval, p_ranges tstzmultirange) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE
        WHEN isempty(p_ranges) THEN false
        WHEN isfinite(coalesce(lower(p_ranges), '-infinity')) AND isfinite(coalesce(upper(p_ranges), 'infinity'))
        THEN rollup_engine.bucket_count(p_width, p_ranges) > 10000
        ELSE true
    END;
END
$$;
COMMENT ON FUNCTION rollup_engine.is_wide(interval, tstzmultirange) IS 'Whether ranges are infinite, or so long that it pays to look first where there is data.';

CREATE OR REPLACE FUNCTION rollup_engine.mark_rollups(
    p_rollup_ids integer[], p_ranges tstzmultirange, p_clip boolean DEFAULT false, p_noted timestamptz DEFAULT statement_timestamp(),
    p_keyed rollup_engine.keyed_range[] DEFAULT '{}'
) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_ranges tstzmultirange;
BEGIN
    -- Who drops one of them waits.
    FOR v_rollup IN SELECT * FROM silver.rollup_config WHERE id = ANY (p_rollup_ids) ORDER BY id FOR KEY SHARE LOOP
        v_ranges := p_ranges;
        IF rollup_engine.has_lost_zone(v_rollup) THEN
            PERFORM rollup_engine.mark_rollup(v_rollup, v_ranges, p_noted);
            CONTINUE;
        END IF;
        IF p_keyed <> '{}' THEN
            v_ranges := v_ranges + rollup_engine.mark_groups(v_rollup, p_keyed, p_noted);
        END IF;
        PERFORM rollup_engine.mark_rollup(v_rollup,
            CASE WHEN p_clip OR rollup_engine.is_wide(v_rollup.bucket_width, v_ranges)
            THEN rollup_engine.data_extent(v_rollup, v_ranges, true) ELSE v_ranges END, p_noted);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.mark_rollups(integer[], tstzmultirange, boolean, timestamptz, rollup_engine.keyed_range[]) IS
'Marks ranges stale in several rollups, and single groups of others. What is infinite or long, or all with p_clip, is clipped to what each rollup by itself holds or can come to hold.';

CREATE OR REPLACE FUNCTION rollup_engine.mark_barred(p_rollup_ids integer[], p_ranges tstzmultirange) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r silver.rollup_config;
BEGIN
    FOR r IN SELECT * FROM silver.rollup_config WHERE id = ANY (p_rollup_ids) ORDER BY id FOR KEY SHARE LOOP
        IF rollup_engine.has_lost_zone(r) OR NOT rollup_engine.is_wide(r.bucket_width, p_ranges) THEN
            PERFORM rollup_engine.mark_rollup(r, p_ranges, statement_timestamp());
        ELSE
            -- Of a coarser rollup, most of it holds nothing: see divide_stale.
            INSERT INTO rollup_engine.stale_range (rollup_id, cell, from_time, to_time, due_at)
            SELECT r.id, 'infinity', lower(s), upper(s), rollup_engine.due_at(r, lower(s), statement_timestamp())
            FROM unnest(rollup_engine.bucket_align(r, p_ranges) * tstzmultirange(tstzrange(r.sealed_before, NULL))) AS s;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.mark_barred(integer[], tstzmultirange) IS
'Marks ranges stale in which nobody logs: all of them, however long, since rows may come where none are yet.';

-- Reading the stale set ------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.window_of(p_rollup_id integer) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- From where the last run stopped, however long ago: no run takes back what another has read. No end:
    -- rows are newer than the transaction that sees them, and clocks of devices go ahead.
    SELECT tstzmultirange(tstzrange(rollup_engine.time_before(least(s.window_read_at, now()), coalesce(r.look_back_window, '0')), 'infinity'))
    FROM silver.rollup_config AS r JOIN rollup_engine.source AS s ON s.id = r.source_id AND s.change_tracking = 'window'
    WHERE r.id IN (SELECT rollup_engine.with_ancestors(p_rollup_id)) AND r.parent_id IS NULL
$$;
COMMENT ON FUNCTION rollup_engine.window_of(integer) IS 'What window tracking reads again for a rollup, by the look-back of the one at its root; NULL with triggers.';

CREATE OR REPLACE FUNCTION rollup_engine.told_by_source(p_source_id integer) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- What lies in a window is read again anyway. Before it, the source need not hold anything any more:
    -- the rollup's rows are all there is.
    SELECT CASE change_tracking WHEN 'window' THEN '{}' ELSE rollup_engine.everything() END FROM rollup_engine.source WHERE id = p_source_id
$$;
COMMENT ON FUNCTION rollup_engine.told_by_source(integer) IS 'The time that rollups have to be computed anew for, when nobody knows what became of their rows.';

CREATE OR REPLACE FUNCTION rollup_engine.log_doubt(p_source_id integer, p_from timestamptz, p_to timestamptz) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.log_change(p_source_id, lower(r), upper(r))
    FROM unnest(tstzmultirange(tstzrange(p_from, p_to)) * rollup_engine.told_by_source(p_source_id)) AS r
$$;
COMMENT ON FUNCTION rollup_engine.log_doubt(integer, timestamptz, timestamptz) IS
'Logs a range as changed of which nobody knows what became of it, as far as the source can say it anew.';

-- That of 0.1.0 knew no groups.
DROP FUNCTION IF EXISTS rollup_engine.stale_set(integer, bigint, tstzrange);
CREATE OR REPLACE FUNCTION rollup_engine.stale_set(p_rollup_id integer, p_planned bigint DEFAULT NULL, p_within tstzrange DEFAULT '(,)', p_keys text[] DEFAULT NULL)
RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off  -- a plan that was made while a table was small lives on when it is full of dead rows
    SET plan_cache_mode = 'force_generic_plan'  -- they are small, and else planned at each read
AS $$
DECLARE
    v_rollup record;
    -- Of many log rows: without making a range of each.
    v_from constant timestamptz := coalesce(lower(p_within), '-infinity');
    v_to constant timestamptz := coalesce(upper(p_within), 'infinity');
    v_logged tstzmultirange;
    v_stale tstzmultirange;
BEGIN
    SELECT r.source_id, r.bucket_width, r.timezone, r.origin, r.change_tracking, r.sealed_before, s.relation INTO v_rollup
    FROM silver.rollup_config AS r LEFT JOIN rollup_engine.source AS s ON s.id = r.source_id WHERE r.id = p_rollup_id;
    IF NOT FOUND THEN
        PERFORM rollup_engine.fail('TR002', format('nothing is known of rollup %s here', p_rollup_id),
            'this transaction is older than the rollup: begin another; or the schema was restored without its data: restore that, too');
    END IF;
    SELECT range_agg(tstzrange(from_time, to_time)) INTO v_stale
    FROM rollup_engine.stale_range
    WHERE rollup_id = p_rollup_id AND tstzrange(from_time, to_time) && p_within AND (p_keys IS NULL OR keys IS NULL OR keys && p_keys);
    -- A long log says the same again and again: grouping is cheaper than range_agg.
    SELECT range_agg(tstzrange(l.from_time, l.to_time)) INTO v_logged
    FROM (
        SELECT from_time, max(to_time) AS to_time FROM rollup_engine.change_log
        WHERE source_id = v_rollup.source_id AND from_time < v_to AND to_time > v_from AND (p_keys IS NULL OR keys IS NULL OR keys && p_keys) AND writer >= coalesce((
            SELECT b.writer FROM rollup_engine.log_border AS b
            WHERE b.source_id = v_rollup.source_id AND b.noted_by = b.xmin ORDER BY b.writer DESC LIMIT 1), '0')
        GROUP BY from_time
        UNION ALL
        SELECT lower(c), upper(c)
        FROM rollup_engine.rollup_partition AS p, rollup_engine.calendar_range(p.from_time, p.to_time) AS c
        WHERE p.rollup_id = p_rollup_id AND p.generation > p_planned
    ) AS l;
    IF v_rollup.change_tracking = 'window' THEN
        v_logged := coalesce(v_logged, '{}') + rollup_engine.window_of(p_rollup_id);
    -- By itself, so that the catalogue is looked into by its index.
    ELSIF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = v_rollup.relation) AND rollup_engine.is_unwatched_above(v_rollup.source_id, v_rollup.relation) THEN
        v_logged := rollup_engine.everything();
    END IF;
    IF v_logged IS NOT NULL THEN
        v_stale := coalesce(v_stale, '{}') + CASE
            WHEN v_rollup.timezone = 'UTC' AND v_rollup.origin IS NULL THEN rollup_engine.bucket_align(v_rollup.bucket_width, v_logged)
            ELSE (SELECT rollup_engine.bucket_align(r, v_logged) FROM silver.rollup_config AS r WHERE r.id = p_rollup_id) END;
    END IF;
    IF v_rollup.sealed_before IS NOT NULL THEN
        v_stale := v_stale * tstzmultirange(tstzrange(v_rollup.sealed_before, NULL));
    END IF;
    RETURN coalesce(v_stale, '{}') * tstzmultirange(p_within);
END
$$;
COMMENT ON FUNCTION rollup_engine.stale_set(integer, bigint, tstzrange, text[]) IS
'Where the stored rows of a rollup must not be read, in the snapshot of the query that asks: its stale ranges and the aligned log of its source, or everywhere while a table above the source is not watched; and, for a plan of that generation, the partitions that it does not know. Within a range of whole buckets, if one is given; with keys, that of their groups: buckets of which only others are stale are not in it.';

CREATE OR REPLACE FUNCTION rollup_engine.may_be_stale(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN p_rollup.change_tracking = 'window'
        OR EXISTS (SELECT FROM rollup_engine.stale_range WHERE rollup_id = p_rollup.id)
        OR EXISTS (SELECT FROM rollup_engine.change_log WHERE source_id = p_rollup.source_id)
        OR EXISTS (SELECT FROM rollup_engine.source AS s JOIN pg_inherits AS i ON i.inhrelid = s.relation WHERE s.id = p_rollup.source_id);
END
$$;
COMMENT ON FUNCTION rollup_engine.may_be_stale(silver.rollup_config) IS 'False where the stale set of a rollup, for no plan in particular, is empty without a closer look.';

RESET ROLE;
