-- Time columns of numbers that count from 1970, in a unit that the source notes. Conditions and bounds
-- are in that unit, so that indexes and partitions serve; all else reads the number as a time, to the
-- microsecond. A number outside the calendar, or the last one that nanoseconds have, is no time.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.is_number_type(p_type regtype) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_type IN ('integer', 'bigint', 'numeric')
$$;
COMMENT ON FUNCTION rollup_engine.is_number_type(regtype) IS 'Whether numbers of that type can be times.';

CREATE OR REPLACE FUNCTION rollup_engine.units_per_second(p_unit text) RETURNS numeric
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_unit WHEN 's' THEN 1 WHEN 'ms' THEN 1000 WHEN 'us' THEN 1000000 WHEN 'ns' THEN 1000000000 END::numeric
$$;
COMMENT ON FUNCTION rollup_engine.units_per_second(text) IS 'How many of a unit are a second.';

CREATE OR REPLACE FUNCTION rollup_engine.number_time(p_number numeric, p_unit text, p_up boolean DEFAULT false) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
AS $$
DECLARE
    v_micros constant numeric := p_number * 1000000 / rollup_engine.units_per_second(p_unit);
    v_whole numeric := CASE WHEN p_up THEN ceil(v_micros) ELSE floor(v_micros) END;
BEGIN
    RETURN CASE
        WHEN v_whole < extract(epoch FROM lower(rollup_engine.calendar())) * 1000000 THEN '-infinity'::timestamptz
        WHEN v_whole > extract(epoch FROM upper(rollup_engine.calendar())) * 1000000 THEN 'infinity'
        ELSE timestamptz '1970-01-01 00:00:00+00' + div(v_whole, 1000000)::double precision * interval '1 second'
            + mod(v_whole, 1000000)::double precision * interval '1 microsecond' END;
END
$$;
COMMENT ON FUNCTION rollup_engine.number_time(numeric, text, boolean) IS 'A number as a time, rounded down or up to the microsecond; infinite outside the calendar.';

CREATE OR REPLACE FUNCTION rollup_engine.time_number(p_time timestamptz, p_unit text) RETURNS numeric
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT extract(epoch FROM p_time - timestamptz '1970-01-01 00:00:00+00') * rollup_engine.units_per_second(p_unit)
$$;
COMMENT ON FUNCTION rollup_engine.time_number(timestamptz, text) IS 'A time as a number.';

CREATE OR REPLACE FUNCTION rollup_engine.number_literal(p_time timestamptz, p_type regtype, p_unit text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_number constant numeric := rollup_engine.time_number(p_time, p_unit);
BEGIN
    RETURN CASE p_type WHEN 'numeric'::regtype THEN format('numeric %L', v_number)
        ELSE format('bigint %L', greatest(-9223372036854775808, least(9223372036854775807, ceil(v_number)))) END;
END
$$;
COMMENT ON FUNCTION rollup_engine.number_literal(timestamptz, regtype, text) IS 'The least number at or after a time, as a constant that the column compares with by index.';

CREATE OR REPLACE FUNCTION rollup_engine.numbers_between(p_column name, p_from timestamptz, p_to timestamptz, p_type regtype, p_unit text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN format('%I >= %s AND %1$I < %3$s', p_column, rollup_engine.number_literal(p_from, p_type, p_unit), rollup_engine.number_literal(p_to, p_type, p_unit));
END
$$;
COMMENT ON FUNCTION rollup_engine.numbers_between(name, timestamptz, timestamptz, regtype, text) IS 'The condition that the numbers of a column are times from one to before another.';

DROP FUNCTION IF EXISTS rollup_engine.time_literal(timestamptz, regtype);
CREATE OR REPLACE FUNCTION rollup_engine.time_literal(p_time timestamptz, p_type regtype, p_unit text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
BEGIN
    RETURN CASE
        WHEN p_unit IS NOT NULL THEN rollup_engine.number_literal(p_time, p_type, p_unit)
        WHEN p_type = 'timestamptz'::regtype THEN format('timestamptz %L', p_time)
        ELSE format('timestamp %L', p_time AT TIME ZONE 'UTC')
    END;
END
$$;
COMMENT ON FUNCTION rollup_engine.time_literal(timestamptz, regtype, text) IS 'The time as a constant that the time column compares with by index.';

CREATE OR REPLACE FUNCTION rollup_engine.number_expression(p_time text, p_type regtype, p_unit text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Of immutable functions only: the planner prunes partitions by it.
    SELECT rollup_engine.fill(CASE
            WHEN p_type = 'numeric'::regtype THEN '({epoch} * {factor})'
            WHEN p_unit = 'ns' THEN 'least(9223372036854775807, greatest(-9223372036854775808, ceil({epoch} * {factor})))::bigint'
            ELSE 'ceil({epoch} * {factor})::bigint' END,
        jsonb_build_object('factor', rollup_engine.units_per_second(p_unit),
            'epoch', format('extract(epoch FROM %s - timestamptz ''1970-01-01 00:00:00+00'')', p_time)))
$$;
COMMENT ON FUNCTION rollup_engine.number_expression(text, regtype, text) IS 'The least number at or after a finite time, as an expression over it.';

CREATE OR REPLACE FUNCTION rollup_engine.number_utc(p_column text, p_type regtype, p_unit text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Seconds and the rest of them by themselves, each of which a float holds exactly. Whole numbers
    -- divide towards zero: the rest has the sign of the number. Nanoseconds are rounded down before.
    SELECT rollup_engine.fill(
        '(CASE WHEN {column} >= {first} AND {column} < {end} THEN timestamptz ''1970-01-01 00:00:00+00'''
        || CASE WHEN p_unit = 's' AND p_type <> 'numeric'::regtype THEN ' + {n} * interval ''1 second'' END)'
            ELSE ' + ({n} / {second}) * interval ''1 second'' + ({n} % {second}) * interval ''{rest}'' END)' END,
        jsonb_build_object('column', p_column,
            'first', rollup_engine.number_literal(lower(rollup_engine.calendar()), p_type, p_unit),
            'end', rollup_engine.number_literal(upper(rollup_engine.calendar()), p_type, p_unit),
            'n', CASE
                WHEN p_type = 'numeric'::regtype THEN format('floor(%s * %s)::bigint', p_column, trim_scale(1000000 / rollup_engine.units_per_second(p_unit)))
                WHEN p_unit = 'ns' THEN format('(%1$s / 1000 - (%1$s %% 1000 < 0)::integer)', p_column)
                ELSE p_column || '::bigint' END,
            'second', CASE WHEN p_type = 'numeric'::regtype OR p_unit = 'ns' THEN 1000000 ELSE rollup_engine.units_per_second(p_unit) END,
            'rest', CASE WHEN p_unit = 'ms' AND p_type <> 'numeric'::regtype THEN '1 millisecond' ELSE '1 microsecond' END))
$$;
COMMENT ON FUNCTION rollup_engine.number_utc(text, regtype, text) IS 'A column of numbers as timestamptz; NULL where the number is no time.';

RESET ROLE;
