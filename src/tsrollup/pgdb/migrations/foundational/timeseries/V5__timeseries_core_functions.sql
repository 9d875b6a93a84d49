-- Core time-series functions: which bucket a time belongs to, and the first
-- and last value of a group.
--
-- Fixed widths are binned in absolute time (a day is 24 hours), months in
-- calendar time. Nothing here looks at the session's TimeZone or DateStyle.
--
-- What must inline has no SET clause. Its body is parsed here, once: names and operators mean what
-- they mean now, whatever the caller's search_path.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Calendar months -----------------------------------------------------------

CREATE FUNCTION rollup_engine.is_month_width(p_width interval) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN extract(year FROM p_width) <> 0 OR extract(month FROM p_width) <> 0;
COMMENT ON FUNCTION rollup_engine.is_month_width(interval) IS
'True when the width counts calendar months (months, quarters, years), false when it is a fixed length of time.';

CREATE FUNCTION rollup_engine.width_months(p_width interval) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (extract(year FROM p_width) * 12 + extract(month FROM p_width))::integer;
COMMENT ON FUNCTION rollup_engine.width_months(interval) IS 'Calendar months of a width; its days and hours do not count.';

CREATE FUNCTION rollup_engine.month_bucket(
    p_width interval,
    p_ts timestamp,
    p_origin timestamp
) RETURNS timestamp
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_step constant integer := extract(year FROM p_width) * 12 + extract(month FROM p_width);
    v_months integer;
    v_bucket timestamp;
BEGIN
    -- By image: for = a month is 30 days, and a day 24 hours.
    IF (v_step > 0 AND interval_send(p_width) = interval_send(make_interval(months => v_step))) IS NOT TRUE THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('bucket width %L is neither a fixed length of time nor a whole number of months', p_width),
            HINT = 'use a width such as ''15 minutes'', ''1 day'' or ''3 months''';
    END IF;
    IF NOT isfinite(p_ts) THEN
        RETURN p_ts;
    END IF;
    -- There is no year 0: 1 BC, which counts as -1, goes before 1.
    v_months := (extract(year FROM p_ts) + (extract(year FROM p_ts) < 0)::integer
                - extract(year FROM p_origin) - (extract(year FROM p_origin) < 0)::integer) * 12
                + extract(month FROM p_ts) - extract(month FROM p_origin);
    v_bucket := p_origin + make_interval(months => v_step * floor(v_months::numeric / v_step)::integer);
    IF v_bucket > p_ts THEN
        v_bucket := p_origin + make_interval(months => v_step * (floor(v_months::numeric / v_step)::integer - 1));
    END IF;
    RETURN v_bucket;
END
$$;
COMMENT ON FUNCTION rollup_engine.month_bucket(interval, timestamp, timestamp) IS
'Start of the bucket of whole months, counted from the origin, that holds the local time.';

-- time_bucket ----------------------------------------------------------------
-- LANGUAGE sql and not STRICT, so that the planner inlines them to a bare date_bin. Nor does a caller
-- need a privilege on the machinery's schema.

CREATE FUNCTION silver.time_bucket(width interval, ts timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rollup_engine.is_month_width(width)
    THEN rollup_engine.month_bucket(width, ts AT TIME ZONE 'UTC', '2000-01-01') AT TIME ZONE 'UTC'
    ELSE date_bin(width, ts, timestamptz '2000-01-03 00:00:00+00')
END;
COMMENT ON FUNCTION silver.time_bucket(interval, timestamptz) IS
'Start of the bucket of the given width that holds the time. Fixed widths are counted from Monday 2000-01-03 00:00 UTC, months from 2000-01-01 UTC. A width that is zero, negative, infinite, or that mixes months with days, is an error.';

CREATE FUNCTION silver.time_bucket(width interval, ts timestamptz, timezone text) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rollup_engine.is_month_width(width)
    THEN rollup_engine.month_bucket(width, ts AT TIME ZONE timezone, '2000-01-01') AT TIME ZONE timezone
    WHEN extract(epoch FROM width) % 86400 = 0
    THEN date_bin(width, ts AT TIME ZONE timezone, timestamp '2000-01-03 00:00:00') AT TIME ZONE timezone
    ELSE date_bin(width, ts, timestamp '2000-01-03 00:00:00' AT TIME ZONE timezone)
END;
COMMENT ON FUNCTION silver.time_bucket(interval, timestamptz, text) IS
'Start of the bucket in the named time zone: whole days and months follow its calendar (a day may have 23 or 25 hours), shorter widths are absolute time counted from its midnight of 2000-01-03.';

CREATE FUNCTION silver.time_bucket(width interval, ts timestamptz, origin timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN rollup_engine.is_month_width(width)
    THEN rollup_engine.month_bucket(width, ts AT TIME ZONE 'UTC', origin AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
    ELSE date_bin(width, ts, origin)
END;
COMMENT ON FUNCTION silver.time_bucket(interval, timestamptz, timestamptz) IS
'Start of the bucket that holds the time, with buckets counted from the origin.';

CREATE FUNCTION silver.time_bucket(width interval, ts timestamp) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN silver.time_bucket(width, ts AT TIME ZONE 'UTC');
COMMENT ON FUNCTION silver.time_bucket(interval, timestamp) IS
'Start of the bucket that holds the time, which is read as UTC.';

CREATE FUNCTION silver.time_bucket(width interval, ts date) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN silver.time_bucket(width, ts::timestamp AT TIME ZONE 'UTC');
COMMENT ON FUNCTION silver.time_bucket(interval, date) IS
'Start of the bucket that holds midnight UTC of the date.';

-- first_value, last_value -----------------------------------------------------
-- The value travels as text, the one form that every type has, in the styles that lose nothing; the
-- final function's assignment brings it back to its type.

CREATE TYPE rollup_engine.value_at AS (ts timestamptz, value text);

CREATE FUNCTION rollup_engine.keep_first(p_state rollup_engine.value_at, p_value anyelement, p_ts timestamptz)
RETURNS rollup_engine.value_at
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET datestyle = 'ISO'
    SET intervalstyle = 'postgres'
    SET extra_float_digits = 1
AS $$
BEGIN
    IF p_ts IS NOT NULL AND (p_state.ts IS NULL OR p_ts < p_state.ts) THEN
        p_state.ts := p_ts;
        -- Not a cast: those to text may cut, as that of char(5) does. A row of NULLs is no NULL.
        p_state.value := CASE WHEN p_value IS DISTINCT FROM NULL THEN format('%s', p_value) END;
    END IF;
    RETURN p_state;
END
$$;

CREATE FUNCTION rollup_engine.keep_last(p_state rollup_engine.value_at, p_value anyelement, p_ts timestamptz)
RETURNS rollup_engine.value_at
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET datestyle = 'ISO'
    SET intervalstyle = 'postgres'
    SET extra_float_digits = 1
AS $$
BEGIN
    IF p_ts IS NOT NULL AND (p_state.ts IS NULL OR p_ts > p_state.ts) THEN
        p_state.ts := p_ts;
        -- Not a cast: those to text may cut, as that of char(5) does. A row of NULLs is no NULL.
        p_state.value := CASE WHEN p_value IS DISTINCT FROM NULL THEN format('%s', p_value) END;
    END IF;
    RETURN p_state;
END
$$;

CREATE FUNCTION rollup_engine.earlier(p_left rollup_engine.value_at, p_right rollup_engine.value_at)
RETURNS rollup_engine.value_at
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (p_left).ts <= (p_right).ts OR (p_right).ts IS NULL THEN p_left ELSE p_right END;

CREATE FUNCTION rollup_engine.later(p_left rollup_engine.value_at, p_right rollup_engine.value_at)
RETURNS rollup_engine.value_at
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (p_left).ts >= (p_right).ts OR (p_right).ts IS NULL THEN p_left ELSE p_right END;

CREATE FUNCTION rollup_engine.value_of(p_state rollup_engine.value_at, p_type anyelement, p_ts timestamptz)
RETURNS anyelement
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
    SET array_nulls = on
    SET xmloption = content
AS $$
DECLARE
    v_row record;
BEGIN
    -- No assignment makes a row of a text.
    IF p_state.value IS NOT NULL AND (SELECT typcategory FROM pg_type WHERE oid = pg_typeof(p_type)) = 'C' THEN
        EXECUTE format('SELECT ($1::%s).*', pg_typeof(p_type)) INTO v_row USING p_state.value;
        RETURN v_row;
    END IF;
    RETURN p_state.value;
END
$$;

CREATE AGGREGATE silver.first_value(value anyelement, ts timestamptz) (
    SFUNC = rollup_engine.keep_first,
    STYPE = rollup_engine.value_at,
    COMBINEFUNC = rollup_engine.earlier,
    FINALFUNC = rollup_engine.value_of,
    FINALFUNC_EXTRA,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE silver.first_value(anyelement, timestamptz) IS
'The value at the earliest time. Rows with a NULL time do not count; on a tie any one of the tied values.';

CREATE AGGREGATE silver.last_value(value anyelement, ts timestamptz) (
    SFUNC = rollup_engine.keep_last,
    STYPE = rollup_engine.value_at,
    COMBINEFUNC = rollup_engine.later,
    FINALFUNC = rollup_engine.value_of,
    FINALFUNC_EXTRA,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE silver.last_value(anyelement, timestamptz) IS
'The value at the latest time. Rows with a NULL time do not count; on a tie any one of the tied values.';

RESET ROLE;
