-- Whether the buckets of a rollup are made of whole buckets of the one that it reads. Where both go by lengths of
-- time, that is so for ever or never. Where a zone's calendar is in it, it may be so in some years only:
-- Berlin's days are made of whole hours, but not before 1893.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.has_same_calendar(p_rollup silver.rollup_config, p_parent silver.rollup_config) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Of a kind, from the same start on. Months have any days of UTC that begin at midnight.
    SELECT p_rollup.timezone = p_parent.timezone AND p_rollup.origin IS NOT DISTINCT FROM p_parent.origin
        AND (rollup_engine.is_month_width(p_rollup.bucket_width) = rollup_engine.is_month_width(p_parent.bucket_width)
                AND rollup_engine.follows_calendar(p_rollup) = rollup_engine.follows_calendar(p_parent)
            OR rollup_engine.goes_by_utc(p_rollup))
$$;
COMMENT ON FUNCTION rollup_engine.has_same_calendar(silver.rollup_config, silver.rollup_config) IS 'Whether the widths alone tell if buckets nest.';

CREATE OR REPLACE FUNCTION rollup_engine.uneven_time(p_rollup silver.rollup_config, p_parent silver.rollup_config, p_years tstzrange DEFAULT '(,)')
RETURNS tstzmultirange
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- No zone changed its clocks before; and after, the rules of now repeat themselves.
    v_years constant tstzmultirange := rollup_engine.bucket_align(p_rollup, tstzmultirange(p_years * tstzrange('1835-01-01 00:00:00+00', '2050-01-01 00:00:00+00')));
    v_uneven tstzmultirange;
BEGIN
    IF NOT rollup_engine.is_made_of(p_rollup.bucket_width, p_parent.bucket_width) THEN
        RETURN rollup_engine.everything();
    ELSIF rollup_engine.has_same_calendar(p_rollup, p_parent) THEN
        RETURN '{}';
    ELSIF NOT (rollup_engine.is_month_width(p_rollup.bucket_width) OR rollup_engine.follows_calendar(p_rollup) OR rollup_engine.follows_calendar(p_parent)) THEN
        RETURN CASE WHEN rollup_engine.bucket_start(p_parent, s) = s THEN '{}' ELSE rollup_engine.everything() END
        FROM rollup_engine.bucket_start(p_rollup, '2000-01-03 00:00:00+00') AS s;
    END IF;
    SELECT range_agg(tstzrange(
        CASE WHEN before > '1836-01-01 00:00:00+00' THEN before END, CASE WHEN next_bucket < '2040-01-01 00:00:00+00' THEN next_bucket END)) INTO v_uneven
    FROM (SELECT b.*, lag(b.bucket) OVER (ORDER BY b.bucket) AS before FROM rollup_engine.buckets_in(p_rollup, v_years) AS b) AS b
    WHERE rollup_engine.bucket_start(p_parent, bucket) <> bucket;
    RETURN coalesce(v_uneven, '{}');
END
$$;
COMMENT ON FUNCTION rollup_engine.uneven_time(silver.rollup_config, silver.rollup_config, tstzrange) IS 'The buckets of a rollup, in some years, that do not begin or end with one of another.';

CREATE OR REPLACE FUNCTION rollup_engine.years_in_use(p_rollup_id integer) RETURNS tstzrange
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    -- The next years come of themselves.
    SELECT tstzrange(least(silver.time_bucket('1 year', lower(e)), now()), greatest(upper(e), now()) + interval '87600 hours')
    FROM silver.rollup_config AS r, rollup_engine.data_extent(r, rollup_engine.everything(), false) AS e
    WHERE r.id = p_rollup_id
$$;
COMMENT ON FUNCTION rollup_engine.years_in_use(integer) IS 'The years of a rollup''s data, and the next ten.';

CREATE OR REPLACE FUNCTION rollup_engine.uneven_in_use(p_rollup silver.rollup_config, p_parent silver.rollup_config) RETURNS tstzmultirange
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Where widths alone tell, nobody needs to know the years.
    SELECT CASE WHEN rollup_engine.has_lost_zone(p_parent) THEN rollup_engine.everything()
        WHEN NOT rollup_engine.is_made_of(p_rollup.bucket_width, p_parent.bucket_width) OR rollup_engine.has_same_calendar(p_rollup, p_parent)
        THEN rollup_engine.uneven_time(p_rollup, p_parent, 'empty') ELSE (
        SELECT rollup_engine.uneven_time(p_rollup, p_parent, years) * tstzmultirange(years) FROM rollup_engine.years_in_use(p_parent.id) AS years) END
$$;
COMMENT ON FUNCTION rollup_engine.uneven_in_use(silver.rollup_config, silver.rollup_config) IS 'When, in the years that hold data, the buckets of a rollup are not made of whole ones of another.';

CREATE OR REPLACE FUNCTION rollup_engine.bucket_words(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    SELECT concat(p_rollup.bucket_width, CASE WHEN NOT rollup_engine.goes_by_utc(p_rollup) THEN ' in ' || p_rollup.timezone END, ' from ' || p_rollup.origin)
$$;
COMMENT ON FUNCTION rollup_engine.bucket_words(silver.rollup_config) IS 'Width, zone and origin, for people.';

CREATE OR REPLACE FUNCTION rollup_engine.nesting_hint(p_rollup silver.rollup_config, p_parent silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_years constant tstzrange := rollup_engine.years_in_use(p_parent.id);
    v_fitting silver.rollup_config := p_parent;
    v_width text;
BEGIN
    v_fitting.timezone := 'UTC';
    v_fitting.origin := NULL;
    FOREACH v_width IN ARRAY '{1 day,1 hour,30 minutes,15 minutes,1 minute,1 second}'::text[] LOOP
        v_fitting.bucket_width := v_width;
        IF isempty(rollup_engine.uneven_time(p_rollup, v_fitting, v_years) * tstzmultirange(v_years)) THEN
            RETURN format('read a rollup with buckets of %s in UTC, or the source itself', v_width);
        END IF;
    END LOOP;
    RETURN 'read the source itself';
END
$$;
COMMENT ON FUNCTION rollup_engine.nesting_hint(silver.rollup_config, silver.rollup_config) IS 'Which width of UTC a parent would have to have.';

-- That of 0.1.0 took the width alone.
DROP FUNCTION IF EXISTS rollup_engine.check_nesting(silver.rollup_config, interval);
CREATE OR REPLACE FUNCTION rollup_engine.check_nesting(p_rollup silver.rollup_config, p_parent silver.rollup_config) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_uneven constant tstzmultirange := rollup_engine.uneven_in_use(p_rollup, p_parent);
    v_border timestamptz;
BEGIN
    IF rollup_engine.has_lost_zone(p_parent) THEN
        PERFORM rollup_engine.fail('TR001', format('the server does not know the time zone %s of %s any more', p_parent.timezone, p_parent.target_table),
            'install its rules again (old names are in tzdata-legacy), or read the source itself');
    ELSIF isempty(v_uneven) THEN
        RETURN;
    END IF;
    -- The first, or the one after it.
    v_border := rollup_engine.bucket_ceil(p_rollup, lower(v_uneven));
    IF rollup_engine.bucket_start(p_parent, v_border) = v_border THEN
        v_border := rollup_engine.bucket_next(p_rollup, v_border);
    END IF;
    PERFORM rollup_engine.fail('TR001',
        format('buckets of %s are not made of whole buckets of %s, which are %s',
            rollup_engine.bucket_words(p_rollup), p_parent.target_table, rollup_engine.bucket_words(p_parent)),
        CASE
            WHEN NOT rollup_engine.is_made_of(p_rollup.bucket_width, p_parent.bucket_width) 
            THEN format('choose a multiple of %s, or ', rollup_engine.bucket_words(p_parent)) || rollup_engine.nesting_hint(p_rollup, p_parent)
            WHEN (p_rollup.timezone, p_rollup.origin) IS DISTINCT FROM (p_parent.timezone, p_parent.origin) AND rollup_engine.follows_calendar(p_parent)
            THEN format('give it its parent''s timezone %L and origin, or ', p_parent.timezone) || rollup_engine.nesting_hint(p_rollup, p_parent)
            ELSE rollup_engine.nesting_hint(p_rollup, p_parent)
        END,
        CASE WHEN rollup_engine.is_made_of(p_rollup.bucket_width, p_parent.bucket_width)
        THEN format('the one of %s begins amid a bucket of the parent', v_border) END);
END
$$;
COMMENT ON FUNCTION rollup_engine.check_nesting(silver.rollup_config, silver.rollup_config) IS 'An error unless each bucket is made of whole buckets of the parent, in the years that hold data.';

-- The rules of zones ---------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.zones_of(p_rollup silver.rollup_config) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Whatever is between two quotes. Of what has digits, EST5EDT and the like apart, the rules never change.
    SELECT p_rollup.timezone
    UNION
    SELECT word
    FROM (
        SELECT DISTINCT regexp_split_to_table(written, '[''"]')
        FROM (
            SELECT jsonb_path_query(p_rollup.row_sql, '$.**.template') #>> '{}'
            UNION ALL
            SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute AS a JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = p_rollup.source_table AND a.attgenerated = 'v'
                AND a.attname IN (SELECT rollup_engine.source_name(p_rollup, c) FROM unnest(rollup_engine.used_columns(p_rollup)) AS c)
        ) AS t (written)
    ) AS w (word)
    WHERE word ~ '^([[:alpha:]][[:alpha:]/_-]+|[A-Z]{3}[0-9][A-Z]{3})$' AND (rollup_engine.is_zone(word) OR EXISTS (SELECT FROM rollup_engine.zone_rules WHERE rollup_id = p_rollup.id AND timezone = word))
$$;
COMMENT ON FUNCTION rollup_engine.zones_of(silver.rollup_config) IS
'The time zones that a rollup goes by: its own, and those that its filter, its expressions or virtual columns of its source name.';

CREATE OR REPLACE FUNCTION rollup_engine.note_zones(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO rollup_engine.zone_rules (rollup_id, timezone, digest)
    SELECT p_rollup.id, z, rollup_engine.zone_digest(z) FROM rollup_engine.zones_of(p_rollup) AS z
    WHERE upper(z) <> 'UTC' AND rollup_engine.is_zone(z) AND NOT EXISTS (SELECT FROM rollup_engine.zone_rules WHERE rollup_id = p_rollup.id AND timezone = z)
    ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION rollup_engine.note_zones(silver.rollup_config) IS 'Notes the rules of the zones that a rollup goes by.';

CREATE OR REPLACE FUNCTION rollup_engine.note_uneven_time(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO rollup_engine.uneven_time (rollup_id, ranges)
    SELECT p_rollup.id, u FROM silver.rollup_config AS p, rollup_engine.uneven_time(p_rollup, p) AS u
    WHERE p.id = p_rollup.parent_id AND NOT rollup_engine.has_lost_zone(p) AND NOT rollup_engine.has_lost_zone(p_rollup) AND NOT isempty(u);
    PERFORM rollup_engine.note_zones(p_rollup);
END
$$;
COMMENT ON FUNCTION rollup_engine.note_uneven_time(silver.rollup_config) IS 'Notes what a rollup rests on: the rules of its zones, and when data would be wrong in it.';

CREATE OR REPLACE FUNCTION rollup_engine.uneven_problems(p_rollup silver.rollup_config) RETURNS TABLE (problem text, hint text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_range tstzrange;
    v_is_held boolean;
BEGIN
    FOR v_range IN SELECT unnest(ranges) FROM rollup_engine.uneven_time WHERE rollup_id = p_rollup.id LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s WHERE bucket >= $1 AND bucket < $2)', p_rollup.target_table)
        INTO v_is_held USING coalesce(lower(v_range), '-infinity'), coalesce(upper(v_range), 'infinity');
        IF v_is_held
            OR EXISTS (SELECT FROM rollup_engine.stale_range WHERE rollup_id = p_rollup.id AND tstzrange(from_time, to_time) && v_range)
            -- What is infinite says nothing of where rows are.
            OR EXISTS (SELECT FROM rollup_engine.change_log WHERE source_id = p_rollup.source_id AND tstzrange(from_time, to_time) && v_range
                AND isfinite(from_time) AND isfinite(to_time))
        THEN
            RETURN QUERY
                SELECT format('there is data %s, when its buckets are not made of whole buckets of %s', CASE
                        WHEN lower(v_range) IS NULL THEN format('before %s', upper(v_range))
                        WHEN upper(v_range) IS NULL THEN format('after %s', lower(v_range))
                        ELSE format('between %s and %s', lower(v_range), upper(v_range)) END, p.target_table),
                    format('drop it%s, and create it anew below a rollup of narrower buckets, or with the source itself as its source', rollup_engine.sealed_note(p_rollup))
                FROM silver.rollup_config AS p WHERE p.id = p_rollup.parent_id;
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.uneven_problems(silver.rollup_config) IS 'That data has come to years in which a rollup''s buckets are not made of whole ones of its parent.';

CREATE OR REPLACE FUNCTION rollup_engine.told_anew(p_rollup silver.rollup_config) RETURNS tstzmultirange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
    v_newest timestamptz;
    v_from timestamptz;
    v_first timestamptz;
    v_is_stored boolean;
BEGIN
    SELECT * INTO v_source FROM rollup_engine.source WHERE id = p_rollup.source_id AND change_tracking = 'window';
    IF NOT FOUND OR p_rollup.parent_id IS NOT NULL THEN
        RETURN rollup_engine.everything();
    END IF;
    EXECUTE format('SELECT max(bucket) FROM %s', p_rollup.target_table) INTO v_newest;
    v_from := rollup_engine.bucket_start(p_rollup, least(
        lower(rollup_engine.window_of(p_rollup.id)), coalesce(rollup_engine.time_before(v_newest, p_rollup.look_back_window), '-infinity'),
        (SELECT min(missed_from) FROM rollup_engine.zone_rules WHERE rollup_id = p_rollup.id)));
    -- From the bucket before on: where that has rows, the source holds all of the next.
    v_first := lower(rollup_engine.source_extent(v_source, rollup_engine.bucket_start(p_rollup, v_from - interval '1 microsecond'), 'infinity'));
    IF v_first >= v_from THEN
        -- The source may have lost some of the bucket where it begins: what is stored of it stays.
        v_from := rollup_engine.bucket_start(p_rollup, v_first);
        EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE bucket > $1 AND bucket < $2)', p_rollup.target_table) INTO v_is_stored
        USING rollup_engine.bucket_start(p_rollup, v_from - interval '1 microsecond'), rollup_engine.bucket_next(p_rollup, v_from);
        v_from := CASE WHEN v_is_stored THEN rollup_engine.bucket_next(p_rollup, v_from) ELSE v_from END;
    END IF;
    RETURN CASE WHEN v_first IS NULL THEN '{}' ELSE tstzmultirange(tstzrange(v_from, NULL)) END;
END
$$;
COMMENT ON FUNCTION rollup_engine.told_anew(silver.rollup_config) IS
'The time for which a rollup is to be computed anew when its buckets may be others: with a window, that, as far as its source holds whole buckets of it; the rollup''s rows before it may be all there is.';

CREATE OR REPLACE FUNCTION rollup_engine.mark_by_new_rules(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_family constant integer[] := ARRAY(SELECT rollup_engine.with_descendants(p_rollup.id));
BEGIN
    -- It may have failed while nobody knew the zone.
    UPDATE silver.rollup_config SET retry_count = 0, next_retry_at = NULL, parked_at = NULL WHERE id = p_rollup.id AND retry_count > 0;
    PERFORM rollup_engine.mark_rollups(ARRAY[p_rollup.id], rollup_engine.told_anew(p_rollup));
    PERFORM rollup_engine.mark_rollups(array_remove(v_family, p_rollup.id), rollup_engine.everything());
    UPDATE rollup_engine.zone_rules SET digest = rollup_engine.zone_digest(timezone), missed_from = NULL
    WHERE rollup_id = p_rollup.id AND rollup_engine.is_zone(timezone);
    DELETE FROM rollup_engine.uneven_time WHERE rollup_id = ANY (v_family);
    PERFORM rollup_engine.note_uneven_time(r) FROM silver.rollup_config AS r WHERE r.id = ANY (v_family);
END
$$;
COMMENT ON FUNCTION rollup_engine.mark_by_new_rules(silver.rollup_config) IS 'Has a rollup, and what is above it, computed anew by the rules that its zones have now.';

CREATE OR REPLACE FUNCTION rollup_engine.take_zone_rules() RETURNS SETOF rollup_engine.maintenance_action
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_named text;
    v_failure rollup_engine.failure;
    v_rules constant jsonb := (SELECT jsonb_object_agg(timezone, digest) FROM rollup_engine.current_rules());
BEGIN
    FOR v_rollup IN SELECT * FROM silver.rollup_config ORDER BY depth, id LOOP
        v_named := (
            SELECT string_agg(timezone, ', ' ORDER BY timezone) FROM rollup_engine.zone_rules
            WHERE rollup_id = v_rollup.id AND digest <> v_rules ->> timezone AND timezone IN (SELECT rollup_engine.zones_of(v_rollup)));
        CONTINUE WHEN v_named IS NULL OR rollup_engine.has_lost_zone(v_rollup);
        BEGIN
            PERFORM rollup_engine.mark_by_new_rules(v_rollup);
            RETURN NEXT ROW(v_rollup.target_table::text, 'marked', format('the rules of %s have changed: all that is not sealed is computed anew', v_named))::rollup_engine.maintenance_action;
        EXCEPTION WHEN OTHERS THEN
            -- To the next maintenance.
            GET STACKED DIAGNOSTICS
                v_failure.code = RETURNED_SQLSTATE, v_failure.message = MESSAGE_TEXT,
                v_failure.detail = PG_EXCEPTION_DETAIL, v_failure.hint = PG_EXCEPTION_HINT, v_failure.context = PG_EXCEPTION_CONTEXT;
            PERFORM rollup_engine.record_maintenance_failure(v_rollup.target_table::text, v_failure);
            RETURN NEXT ROW(v_rollup.target_table::text, 'failed', format('the rules of %s have changed, and it cannot be marked now: %s', v_named, SQLERRM))::rollup_engine.maintenance_action;
        END;
    END LOOP;
    PERFORM rollup_engine.note_zones(r) FROM silver.rollup_config AS r;
END
$$;
COMMENT ON FUNCTION rollup_engine.take_zone_rules() IS 'Has rollups computed anew whose zones have other rules than when that was done.';

RESET ROLE;
