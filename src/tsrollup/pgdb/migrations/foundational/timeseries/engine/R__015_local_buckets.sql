-- Buckets of a time zone's calendar: days that have 23 or 25 hours, and months of such days.
--
-- A bucket begins where the zone's clock shows its start. Clocks are put forward and back, so what comes
-- next of two readings of a clock need not come next in time: a start that a clock never shows (it
-- was put forward over it) is as long after what came before as it would have been, one that it shows twice is
-- the first. So say iCalendar, Python and Java; PostgreSQL takes the second. These starts come in
-- order, and a time belongs to the last one before it.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.local_origin(p_width interval, p_timezone text, p_origin timestamptz) RETURNS timestamp
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(p_origin AT TIME ZONE p_timezone,
    CASE WHEN rollup_engine.is_month_width(p_width) THEN timestamp '2000-01-01 00:00:00' ELSE '2000-01-03 00:00:00' END);
COMMENT ON FUNCTION rollup_engine.local_origin(interval, text, timestamptz) IS 'What the clock shows where days or months are counted from.';

CREATE OR REPLACE FUNCTION rollup_engine.local_bin(p_width interval, p_local timestamp, p_origin timestamp) RETURNS timestamp
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rollup_engine.is_month_width(p_width) THEN rollup_engine.month_bucket(p_width, p_local, p_origin)
    ELSE date_bin(p_width, p_local, p_origin)
END;
COMMENT ON FUNCTION rollup_engine.local_bin(interval, timestamp, timestamp) IS 'What the clock shows at the start of the bucket of what it shows.';

CREATE OR REPLACE FUNCTION rollup_engine.local_next(p_width interval, p_bin timestamp, p_origin timestamp) RETURNS timestamp
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Months from the 31st on begin on the last day of a shorter one, which says nothing of the next.
RETURN CASE
    WHEN rollup_engine.is_month_width(p_width) THEN rollup_engine.month_bucket(p_width, p_bin + p_width + interval '3 days', p_origin)
    ELSE p_bin + p_width
END;
COMMENT ON FUNCTION rollup_engine.local_next(interval, timestamp, timestamp) IS 'What the clock shows at the start of the bucket after one.';

CREATE OR REPLACE FUNCTION rollup_engine.local_start(p_local timestamp, p_timezone text) RETURNS timestamptz
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_second constant timestamptz := p_local AT TIME ZONE p_timezone;
    -- By the clock of the day before.
    v_first constant timestamptz := (p_local - interval '1 day') AT TIME ZONE p_timezone + interval '24 hours';
BEGIN
    RETURN CASE WHEN v_first < v_second AND v_first AT TIME ZONE p_timezone = p_local THEN v_first ELSE v_second END;
END
$$;
COMMENT ON FUNCTION rollup_engine.local_start(timestamp, text) IS 'When a zone''s clock first shows a time, or would have if nobody had put it forward over it.';

CREATE OR REPLACE FUNCTION rollup_engine.local_bucket(p_width interval, p_ts timestamptz, p_timezone text, p_origin timestamp) RETURNS timestamptz
    -- By its owner's rights it finds what it calls, whoever calls it; none of that looks at a table.
    LANGUAGE plpgsql IMMUTABLE STRICT SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_local constant timestamp := p_ts AT TIME ZONE p_timezone;
    v_bin constant timestamp := rollup_engine.local_bin(p_width, v_local, p_origin);
    v_start timestamptz;
BEGIN
    IF NOT isfinite(p_ts) THEN
        RETURN p_ts;
    END IF;
    v_start := v_bin AT TIME ZONE p_timezone;
    -- Nobody touched the clock in the day before the time, nor in that before the bucket.
    IF (p_ts - interval '24 hours') AT TIME ZONE p_timezone = v_local - interval '24 hours'
        AND (v_bin - interval '1 day') AT TIME ZONE p_timezone = v_start - interval '24 hours' THEN
        RETURN v_start;
    END IF;
    RETURN (
        SELECT max(s.start)
        FROM (VALUES
            (rollup_engine.local_bin(p_width, v_bin - interval '1 microsecond', p_origin)), (v_bin),
            (rollup_engine.local_next(p_width, v_bin, p_origin))) AS b (bin)
        CROSS JOIN LATERAL (SELECT rollup_engine.local_start(b.bin, p_timezone)) AS s (start)
        WHERE s.start <= p_ts);
END
$$;
COMMENT ON FUNCTION rollup_engine.local_bucket(interval, timestamptz, text, timestamp) IS
'Start of the bucket of whole days or months, counted from what the clock shows at the origin, that holds the time.';

CREATE OR REPLACE FUNCTION silver.time_bucket(width interval, ts timestamptz, timezone text, origin timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rollup_engine.is_month_width(width) OR extract(epoch FROM width) % 86400 = 0
    THEN rollup_engine.local_bucket(width, ts, timezone, rollup_engine.local_origin(width, timezone, origin))
    ELSE date_bin(width, ts, coalesce(origin, timestamp '2000-01-03 00:00:00' AT TIME ZONE timezone))
END;
COMMENT ON FUNCTION silver.time_bucket(interval, timestamptz, text, timestamptz) IS
'Start of the bucket in the named time zone, counted from the origin: a day that begins at 06:00 there, for one. With an origin of NULL as without one.';

CREATE OR REPLACE FUNCTION silver.time_bucket(width interval, ts timestamptz, timezone text) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN silver.time_bucket(width, ts, timezone, NULL);
COMMENT ON FUNCTION silver.time_bucket(interval, timestamptz, text) IS
'Start of the bucket in the named time zone: whole days and months follow its calendar (a day may have 23 or 25 hours), shorter widths are absolute time counted from its midnight of 2000-01-03.';

-- Times without a zone, read as UTC: else they would become timestamptz by the session's.
CREATE OR REPLACE FUNCTION silver.time_bucket(width interval, ts timestamp, timezone text) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN silver.time_bucket(width, ts AT TIME ZONE 'UTC', timezone);
COMMENT ON FUNCTION silver.time_bucket(interval, timestamp, text) IS
'The same of the time, which is read as UTC.';

CREATE OR REPLACE FUNCTION silver.time_bucket(width interval, ts timestamp, origin timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN silver.time_bucket(width, ts AT TIME ZONE 'UTC', origin);
COMMENT ON FUNCTION silver.time_bucket(interval, timestamp, timestamptz) IS
'The same of the time, which is read as UTC.';

CREATE OR REPLACE FUNCTION silver.time_bucket(width interval, ts timestamp, timezone text, origin timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN silver.time_bucket(width, ts AT TIME ZONE 'UTC', timezone, origin);
COMMENT ON FUNCTION silver.time_bucket(interval, timestamp, text, timestamptz) IS
'The same of the time, which is read as UTC.';

CREATE OR REPLACE FUNCTION silver.time_bucket(width interval, ts date, timezone text) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN silver.time_bucket(width, ts::timestamp AT TIME ZONE 'UTC', timezone);
COMMENT ON FUNCTION silver.time_bucket(interval, date, text) IS
'The same of midnight UTC of the date.';

CREATE OR REPLACE FUNCTION silver.time_bucket(width interval, ts date, origin timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN silver.time_bucket(width, ts::timestamp AT TIME ZONE 'UTC', origin);
COMMENT ON FUNCTION silver.time_bucket(interval, date, timestamptz) IS
'The same of midnight UTC of the date.';

CREATE OR REPLACE FUNCTION silver.time_bucket(width interval, ts date, timezone text, origin timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN silver.time_bucket(width, ts::timestamp AT TIME ZONE 'UTC', timezone, origin);
COMMENT ON FUNCTION silver.time_bucket(interval, date, text, timestamptz) IS
'The same of midnight UTC of the date.';

-- At once, since what everybody calls calls them from here on.
GRANT EXECUTE ON FUNCTION
    rollup_engine.local_origin(interval, text, timestamptz), rollup_engine.local_bucket(interval, timestamptz, text, timestamp),
    silver.time_bucket(interval, timestamptz, text, timestamptz), silver.time_bucket(interval, timestamptz, text),
    silver.time_bucket(interval, timestamp, text), silver.time_bucket(interval, timestamp, timestamptz),
    silver.time_bucket(interval, timestamp, text, timestamptz), silver.time_bucket(interval, date, text),
    silver.time_bucket(interval, date, timestamptz), silver.time_bucket(interval, date, text, timestamptz)
TO PUBLIC;

RESET ROLE;
