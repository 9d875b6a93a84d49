-- What lengths of time, of buckets and of partitions may be.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.check_interval(p_name text, p_value interval, p_required boolean, p_zero_allowed boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_value IS NULL AND p_required THEN
        PERFORM rollup_engine.fail('TR001', format('%s is NULL', p_name), 'give a length of time, such as ''1 hour''');
    ELSIF NOT isfinite(p_value) OR p_value < '0' OR (p_value = '0' AND NOT p_zero_allowed) OR p_value > interval '1000 years' THEN
        PERFORM rollup_engine.fail('TR001', format('%s is %s', p_name, p_value), 'give a positive length of time, such as ''1 hour'', of at most 1000 years');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_interval(text, interval, boolean, boolean) IS 'An error unless the interval is finite and positive (or NULL, where that is allowed).';

CREATE OR REPLACE FUNCTION rollup_engine.check_width(p_name text, p_width interval) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.check_interval(p_name, p_width, true);
    IF rollup_engine.is_month_width(p_width)
        AND interval_send(p_width) <> interval_send(make_interval(months => rollup_engine.width_months(p_width))) THEN
        PERFORM rollup_engine.fail('TR001', format('%s %s mixes months with days or hours', p_name, p_width),
            'use a width such as ''15 minutes'', ''1 day'' or ''3 months''');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_width(text, interval) IS 'An error unless the width can be a bucket.';

CREATE OR REPLACE FUNCTION rollup_engine.check_chunk(p_width interval) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM rollup_engine.check_width('chunk_interval', p_width);
    -- pg_partman tells partitions apart by the second, and counts no years of five digits.
    IF p_width NOT BETWEEN '1 minute' AND '1000 years' THEN
        PERFORM rollup_engine.fail('TR001', format('chunk_interval is %s', p_width), 'partitions are from a minute to 1000 years wide; a day or a month is usual');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_chunk(interval) IS 'An error unless partitions can be of that width.';

CREATE OR REPLACE FUNCTION rollup_engine.is_made_of(p_width interval, p_part interval) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN rollup_engine.is_month_width(p_part)
        THEN rollup_engine.is_month_width(p_width) AND rollup_engine.width_months(p_width) % rollup_engine.width_months(p_part) = 0
        -- A month is made of whole days.
        ELSE CASE WHEN rollup_engine.is_month_width(p_width) THEN 86400 ELSE extract(epoch FROM p_width) END % extract(epoch FROM p_part) = 0
    END
$$;
COMMENT ON FUNCTION rollup_engine.is_made_of(interval, interval) IS 'Whether buckets of a width are made of whole buckets of another.';

RESET ROLE;
