-- Arithmetic of buckets and ranges of time.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Adding in UTC local time keeps '1 day' at 24 hours whatever the session's TimeZone is.

CREATE OR REPLACE FUNCTION rollup_engine.bucket_next(p_width interval, p_bucket timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ((p_bucket AT TIME ZONE 'UTC') + p_width) AT TIME ZONE 'UTC';
COMMENT ON FUNCTION rollup_engine.bucket_next(interval, timestamptz) IS 'Start of the bucket after this one.';

CREATE OR REPLACE FUNCTION rollup_engine.time_before(p_ts timestamptz, p_ago interval) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ((p_ts AT TIME ZONE 'UTC') - p_ago) AT TIME ZONE 'UTC';
COMMENT ON FUNCTION rollup_engine.time_before(timestamptz, interval) IS 'The time as long before another, days and months by UTC.';

CREATE OR REPLACE FUNCTION rollup_engine.bucket_ceil(p_width interval, p_ts timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN silver.time_bucket(p_width, p_ts) = p_ts THEN p_ts
    ELSE rollup_engine.bucket_next(p_width, silver.time_bucket(p_width, p_ts))
END;
COMMENT ON FUNCTION rollup_engine.bucket_ceil(interval, timestamptz) IS 'The time itself when a bucket starts there, else the start of the next bucket.';

CREATE OR REPLACE FUNCTION rollup_engine.bucket_align(p_width interval, p_ranges tstzmultirange) RETURNS tstzmultirange
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Each read aligns what is logged: whether the width is one of months is not asked for each range, and
    -- in statements of their own they are not planned each time.
    IF rollup_engine.is_month_width(p_width) THEN
        RETURN coalesce(range_agg(tstzrange(
            silver.time_bucket(p_width, coalesce(lower(r), '-infinity')),
            rollup_engine.bucket_ceil(p_width, coalesce(upper(r), 'infinity'))
        )), '{}') FROM unnest(p_ranges) AS r;
    END IF;
    RETURN coalesce(range_agg(tstzrange(b.low, CASE WHEN b.high = b.until THEN b.high ELSE rollup_engine.bucket_next(p_width, b.high) END)), '{}')
    FROM (
        SELECT date_bin(p_width, coalesce(lower(r), '-infinity'), o.origin) AS low, date_bin(p_width, t.until, o.origin) AS high, t.until
        FROM unnest(p_ranges) AS r, (VALUES (timestamptz '2000-01-03 00:00:00+00')) AS o (origin)
        CROSS JOIN LATERAL (SELECT coalesce(upper(r), 'infinity') AS until) AS t
    ) AS b;
END
$$;
COMMENT ON FUNCTION rollup_engine.bucket_align(interval, tstzmultirange) IS 'The ranges, which exclude their end, widened to whole buckets.';

CREATE OR REPLACE FUNCTION rollup_engine.buckets_in(p_width interval, p_ranges tstzmultirange) RETURNS SETOF timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    SELECT g.bucket AT TIME ZONE 'UTC'
    FROM unnest(p_ranges) AS r,
        generate_series(
            lower(r) AT TIME ZONE 'UTC',
            (upper(r) AT TIME ZONE 'UTC') - interval '1 microsecond',
            p_width
        ) AS g (bucket);
END;
COMMENT ON FUNCTION rollup_engine.buckets_in(interval, tstzmultirange) IS 'Starts of the buckets in aligned, finite ranges.';

CREATE OR REPLACE FUNCTION rollup_engine.bucket_count(p_width interval, p_ranges tstzmultirange) RETURNS bigint
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The months of a range are those of its days by their mean length, and its local days those of its hours:
    -- neither is ever off by as much as half of one.
    RETURN coalesce(sum(round(extract(epoch FROM upper(r) - lower(r)) / CASE WHEN rollup_engine.is_month_width(p_width)
        THEN rollup_engine.width_months(p_width) * 2629746.0 ELSE extract(epoch FROM p_width) END)), 0)::bigint
    FROM unnest(p_ranges) AS r;
END
$$;
COMMENT ON FUNCTION rollup_engine.bucket_count(interval, tstzmultirange) IS 'Number of buckets in aligned, finite ranges.';

CREATE OR REPLACE FUNCTION rollup_engine.everything() RETURNS tstzmultirange
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN tstzmultirange(tstzrange('-infinity', 'infinity'));
COMMENT ON FUNCTION rollup_engine.everything() IS 'The range that stands for all time.';

CREATE OR REPLACE FUNCTION rollup_engine.calendar() RETURNS tstzrange
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN tstzrange('0001-01-01 00:00:00+00', '10000-01-01 00:00:00+00');
COMMENT ON FUNCTION rollup_engine.calendar() IS 'The years that have buckets: what lies outside is in none.';

CREATE OR REPLACE FUNCTION rollup_engine.in_calendar(p_time text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    -- Text of no type yet: any kind of time reads it. Each for itself: the planner takes few times to lie in a range, and sorts them.
    SELECT format('(%1$s >= %2$L) IS TRUE AND (%1$s < %3$L) IS TRUE', p_time, lower(c), upper(c)) FROM rollup_engine.calendar() AS c
$$;
COMMENT ON FUNCTION rollup_engine.in_calendar(text) IS 'Condition that an expression, a time of any type, lies in the calendar.';

CREATE OR REPLACE FUNCTION rollup_engine.calendar_range(p_from timestamptz, p_to timestamptz) RETURNS tstzrange
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT tstzrange(
        CASE WHEN isfinite(p_from) THEN least(greatest(p_from, lower(c)), upper(c) - interval '24 hours') ELSE p_from END,
        CASE WHEN isfinite(p_to) THEN least(greatest(p_to, lower(c) + interval '24 hours'), upper(c)) ELSE p_to END)
    FROM rollup_engine.calendar() AS c
$$;
COMMENT ON FUNCTION rollup_engine.calendar_range(timestamptz, timestamptz) IS 'The range; its finite bounds moved into the years that have buckets.';

RESET ROLE;
