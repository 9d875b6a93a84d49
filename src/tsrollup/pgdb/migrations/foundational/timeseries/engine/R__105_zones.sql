-- Time zones by their full names, and what is known of their rules. What an abbreviation means is a setting; a rule in POSIX's notation knows no history.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.zone_names() RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT z.name FROM pg_timezone_names AS z
    WHERE z.name = 'UTC' OR z.name !~ '^(posix/|localtime$|posixrules$|Factory$)' AND upper(z.name) NOT IN (SELECT upper(a.abbrev) FROM pg_timezone_abbrevs AS a)
$$;
COMMENT ON FUNCTION rollup_engine.zone_names() IS 'Names that mean the same zone whatever the settings are.';

CREATE OR REPLACE FUNCTION rollup_engine.similar_zones(p_name text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- By the whole name, or its city alone.
    SELECT rollup_engine.did_you_mean(replace(p_name, ' ', '_'), array_agg(z.name), array_agg(part))
    FROM rollup_engine.zone_names() AS z (name) CROSS JOIN LATERAL unnest(ARRAY[z.name, split_part(z.name, '/', -1)]) AS part
$$;
COMMENT ON FUNCTION rollup_engine.similar_zones(text) IS 'A question that names zones of about that name; NULL when there are none.';

CREATE OR REPLACE FUNCTION rollup_engine.zone_name(p_name text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name text;
BEGIN
    IF upper(p_name) = 'UTC' THEN
        RETURN 'UTC';
    END IF;
    SELECT min(name) INTO v_name FROM rollup_engine.zone_names() AS z (name) WHERE lower(z.name) = lower(p_name);
    IF v_name IS NULL THEN
        PERFORM rollup_engine.fail('TR001', format('timezone %L is not the full name of a time zone', coalesce(p_name, 'NULL')),
            concat_ws(' ', rollup_engine.similar_zones(left(p_name, 100)), 'pg_timezone_names lists them, such as Europe/Berlin; abbreviations and offsets are none'));
    END IF;
    RETURN v_name;
END
$$;
COMMENT ON FUNCTION rollup_engine.zone_name(text) IS 'The time zone of that name, as it is written; or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.zone_offset(p_timezone text, p_second bigint) RETURNS double precision
    LANGUAGE sql STABLE
RETURN date_part('epoch', timezone(p_timezone, to_timestamp(p_second))) - p_second;
COMMENT ON FUNCTION rollup_engine.zone_offset(text, bigint) IS 'By how many seconds the clocks of a zone are ahead of UTC, so many seconds after 1970 began.';

CREATE OR REPLACE FUNCTION rollup_engine.zone_digest(p_timezone text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET timezone_abbreviations = 'Default'
    SET datestyle = 'ISO'
AS $$
    -- The second of each change, by halves of the week that it is in; from local mean times on, and as long as rules are foreseen.
    WITH RECURSIVE week AS (
        SELECT s, rollup_engine.zone_offset(p_timezone, s) AS ahead FROM generate_series(-3786825600, 2524608000, 604800) AS s
    ), change AS (
        SELECT w.s AS before, w.s + 604800 AS after, w.ahead
        FROM (SELECT *, lead(ahead) OVER (ORDER BY s) AS next FROM week) AS w WHERE w.ahead <> w.next
        UNION ALL
        SELECT CASE WHEN m.ahead = c.ahead THEN m.s ELSE c.before END, CASE WHEN m.ahead = c.ahead THEN c.after ELSE m.s END, c.ahead
        FROM change AS c
        CROSS JOIN LATERAL (SELECT s, rollup_engine.zone_offset(p_timezone, s) AS ahead FROM (SELECT (c.before + c.after) / 2) AS h (s)) AS m
        WHERE c.after - c.before > 1
    )
    SELECT md5(string_agg(format('%s %s', s, rollup_engine.zone_offset(p_timezone, s)), ',' ORDER BY s))
    FROM (SELECT min(s) FROM week UNION SELECT after FROM change WHERE after - before IN (1, 604800)) AS t (s)
$$;
COMMENT ON FUNCTION rollup_engine.zone_digest(text) IS 'Changes when the server comes to know another second for a change of a zone''s clocks; two changes that undo each other within a week go by unseen.';

CREATE OR REPLACE FUNCTION rollup_engine.is_zone(p_text text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET timezone_abbreviations = 'Default'
AS $$
BEGIN
    PERFORM now() AT TIME ZONE p_text;
    RETURN true;
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION rollup_engine.is_zone(text) IS 'Whether AT TIME ZONE takes it, in an expression.';

CREATE OR REPLACE FUNCTION rollup_engine.current_rules() RETURNS TABLE (timezone text, digest text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT timezone, CASE WHEN rollup_engine.is_zone(timezone) THEN rollup_engine.zone_digest(timezone) END
    FROM (SELECT DISTINCT timezone FROM rollup_engine.zone_rules) AS z
$$;
COMMENT ON FUNCTION rollup_engine.current_rules() IS 'The zones that rollups go by, with the digest of what the server knows of each now; NULL where it does not know it any more.';

CREATE OR REPLACE FUNCTION rollup_engine.has_lost_zone(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE sql STABLE
RETURN p_rollup.timezone <> 'UTC' AND NOT rollup_engine.is_zone(p_rollup.timezone);
COMMENT ON FUNCTION rollup_engine.has_lost_zone(silver.rollup_config) IS 'Whether the server does not know the zone of a rollup any more: nobody can say then where its buckets begin.';

CREATE OR REPLACE FUNCTION rollup_engine.zone_problem(p_rollup_id integer, p_timezone text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT format('the rules of %s have changed since its buckets were computed', p_timezone)
        FROM rollup_engine.zone_rules AS z
        WHERE z.rollup_id = p_rollup_id AND z.timezone = p_timezone AND z.digest <> rollup_engine.zone_digest(p_timezone));
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN format('the server does not know the time zone %s any more', p_timezone);
END
$$;
COMMENT ON FUNCTION rollup_engine.zone_problem(integer, text) IS 'That a zone is another one than when the buckets of a rollup were computed; NULL when it is not.';

RESET ROLE;
