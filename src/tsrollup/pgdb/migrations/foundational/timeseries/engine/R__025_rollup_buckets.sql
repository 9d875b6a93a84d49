-- The buckets of a rollup, by its width, zone and origin. Those that go by UTC and by no origin take the
-- arithmetic of a width alone; those of a fixed length differ from them in where they begin.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.goes_by_utc(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_rollup.timezone = 'UTC' AND p_rollup.origin IS NULL;
COMMENT ON FUNCTION rollup_engine.goes_by_utc(silver.rollup_config) IS 'Whether its buckets are those of its width alone.';

CREATE OR REPLACE FUNCTION rollup_engine.follows_calendar(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- An origin on the 31st is one for months of UTC, too.
RETURN NOT rollup_engine.goes_by_utc(p_rollup) AND (rollup_engine.is_month_width(p_rollup.bucket_width)
    OR p_rollup.timezone <> 'UTC' AND extract(epoch FROM p_rollup.bucket_width) % 86400 = 0);
COMMENT ON FUNCTION rollup_engine.follows_calendar(silver.rollup_config) IS 'Whether its buckets are days or months of a zone''s calendar, or months counted from an origin.';

CREATE OR REPLACE FUNCTION rollup_engine.bucket_start(p_rollup silver.rollup_config, p_ts timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rollup_engine.goes_by_utc(p_rollup) THEN silver.time_bucket(p_rollup.bucket_width, p_ts)
    ELSE silver.time_bucket(p_rollup.bucket_width, p_ts, p_rollup.timezone, p_rollup.origin)
END;
COMMENT ON FUNCTION rollup_engine.bucket_start(silver.rollup_config, timestamptz) IS 'Start of the bucket that holds the time.';

CREATE OR REPLACE FUNCTION rollup_engine.calendar_buckets(p_rollup silver.rollup_config, p_from timestamptz, p_to timestamptz)
RETURNS TABLE (bucket timestamptz, next_bucket timestamptz)
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE ROWS 100
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_origin constant timestamp := rollup_engine.local_origin(p_rollup.bucket_width, p_rollup.timezone, p_rollup.origin);
    v_bin timestamp := rollup_engine.local_bin(p_rollup.bucket_width, p_from AT TIME ZONE p_rollup.timezone, v_origin);
BEGIN
    bucket := p_from;
    WHILE bucket < p_to LOOP
        v_bin := rollup_engine.local_next(p_rollup.bucket_width, v_bin, v_origin);
        next_bucket := rollup_engine.local_start(v_bin, p_rollup.timezone);
        -- A day that a zone left out has no length.
        CONTINUE WHEN next_bucket <= bucket;
        RETURN NEXT;
        bucket := next_bucket;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.calendar_buckets(silver.rollup_config, timestamptz, timestamptz) IS
'Starts and ends of the buckets from one start to another, of those that follow a calendar.';

CREATE OR REPLACE FUNCTION rollup_engine.next_by_calendar(p_rollup silver.rollup_config, p_bucket timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE WHEN isfinite(p_bucket) THEN (SELECT b.next_bucket FROM rollup_engine.calendar_buckets(p_rollup, p_bucket, p_bucket + interval '1 microsecond') AS b)
        ELSE p_bucket END;
END
$$;
COMMENT ON FUNCTION rollup_engine.next_by_calendar(silver.rollup_config, timestamptz) IS 'Start of the bucket after this one, of those that follow a calendar.';

CREATE OR REPLACE FUNCTION rollup_engine.bucket_next(p_rollup silver.rollup_config, p_bucket timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rollup_engine.follows_calendar(p_rollup) THEN rollup_engine.next_by_calendar(p_rollup, p_bucket)
    ELSE rollup_engine.bucket_next(p_rollup.bucket_width, p_bucket)
END;
COMMENT ON FUNCTION rollup_engine.bucket_next(silver.rollup_config, timestamptz) IS 'Start of the bucket after this one.';

CREATE OR REPLACE FUNCTION rollup_engine.bucket_ceil(p_rollup silver.rollup_config, p_ts timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rollup_engine.bucket_start(p_rollup, p_ts) = p_ts THEN p_ts
    ELSE rollup_engine.bucket_next(p_rollup, rollup_engine.bucket_start(p_rollup, p_ts))
END;
COMMENT ON FUNCTION rollup_engine.bucket_ceil(silver.rollup_config, timestamptz) IS 'The time itself when a bucket starts there, else the start of the next bucket.';

CREATE OR REPLACE FUNCTION rollup_engine.align_in_zone(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(range_agg(tstzrange(
        rollup_engine.bucket_start(p_rollup, coalesce(lower(r), '-infinity')),
        rollup_engine.bucket_ceil(p_rollup, coalesce(upper(r), 'infinity')))), '{}')
    FROM unnest(p_ranges) AS r
$$;
COMMENT ON FUNCTION rollup_engine.align_in_zone(silver.rollup_config, tstzmultirange) IS 'The ranges, which exclude their end, widened to whole buckets of a zone or an origin.';

CREATE OR REPLACE FUNCTION rollup_engine.bucket_align(p_rollup silver.rollup_config, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rollup_engine.goes_by_utc(p_rollup) THEN rollup_engine.bucket_align(p_rollup.bucket_width, p_ranges)
    ELSE rollup_engine.align_in_zone(p_rollup, p_ranges)
END;
COMMENT ON FUNCTION rollup_engine.bucket_align(silver.rollup_config, tstzmultirange) IS 'The ranges, which exclude their end, widened to whole buckets.';

CREATE OR REPLACE FUNCTION rollup_engine.few_buckets(p_rollup silver.rollup_config, p_ranges tstzmultirange)
RETURNS TABLE (bucket timestamptz, next_bucket timestamptz)
    LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER PARALLEL SAFE ROWS 10
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
AS $$
BEGIN
    IF rollup_engine.follows_calendar(p_rollup) THEN
        RETURN QUERY
            SELECT b.* FROM unnest(p_ranges) AS r CROSS JOIN LATERAL rollup_engine.calendar_buckets(p_rollup, lower(r), upper(r)) AS b;
    ELSE
        -- In one pass: a live read may ask for a million, most of which it leaves out.
        RETURN QUERY
            SELECT b, b + p_rollup.bucket_width
            FROM (SELECT generate_series(lower(r), upper(r) - interval '1 microsecond', p_rollup.bucket_width) FROM unnest(p_ranges) AS r) AS s (b);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.few_buckets(silver.rollup_config, tstzmultirange) IS 'Starts and ends of the buckets in aligned, finite ranges, which the planner takes for few: a filter on them leaves few.';

CREATE OR REPLACE FUNCTION rollup_engine.buckets_in(p_rollup silver.rollup_config, p_ranges tstzmultirange)
RETURNS TABLE (bucket timestamptz, next_bucket timestamptz)
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE ROWS 100
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT * FROM rollup_engine.few_buckets(p_rollup, p_ranges);
END
$$;
COMMENT ON FUNCTION rollup_engine.buckets_in(silver.rollup_config, tstzmultirange) IS 'Starts and ends of the buckets in aligned, finite ranges.';

CREATE OR REPLACE FUNCTION rollup_engine.cells_of(p_rollup silver.rollup_config) RETURNS silver.rollup_config
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Of hours, even those that come in days: they begin with an hour, and not at midnight.
    IF NOT rollup_engine.goes_by_utc(p_rollup) AND NOT rollup_engine.follows_calendar(p_rollup) THEN
        p_rollup.origin := silver.time_bucket(p_rollup.bucket_width, '2000-01-03 00:00:00+00', p_rollup.timezone, p_rollup.origin);
        p_rollup.timezone := 'UTC';
    END IF;
    p_rollup.bucket_width := p_rollup.cell_width;
    RETURN p_rollup;
END
$$;
COMMENT ON FUNCTION rollup_engine.cells_of(silver.rollup_config) IS 'A rollup whose buckets are the cells of the given one: each of its buckets lies in one of them.';

RESET ROLE;
