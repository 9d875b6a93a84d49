-- Columns of a source that were converted, while rows that nobody computes anew hold values as they were.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.keeps_rows(p_rollup silver.rollup_config) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
RETURN p_rollup.sealed_before IS NOT NULL OR isempty(rollup_engine.told_by_source(p_rollup.source_id));
COMMENT ON FUNCTION rollup_engine.keeps_rows(silver.rollup_config) IS 'Whether some rows of a rollup, sealed or before a window, are not computed anew when all is.';

CREATE OR REPLACE FUNCTION rollup_engine.is_no_shorter(p_type regtype, p_was integer, p_now integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
RETURN p_now IN (-1, p_was) OR p_was <> -1 AND CASE
    -- Its lower bits are the scale, which may be negative.
    WHEN p_type = 'numeric'::regtype THEN (p_now - 4 & 2047 # 1024) >= (p_was - 4 & 2047 # 1024)
    ELSE p_type IN ('varchar', 'timestamp', 'timestamptz', 'time') AND p_now > p_was END;
COMMENT ON FUNCTION rollup_engine.is_no_shorter(regtype, integer, integer) IS 'Whether values of a type are the same by another modifier, which allows no fewer digits or letters.';

CREATE OR REPLACE FUNCTION rollup_engine.is_converted(p_was jsonb, p_now jsonb, p_is_numbered_anew boolean) RETURNS boolean
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN rollup_engine.is_ordered_anew(p_was, p_now) THEN true
        WHEN p_is_numbered_anew OR NOT p_was ? 'type' THEN p_was -> 'called' <> p_now -> 'called'
        WHEN p_was -> 'collation' <> p_now -> 'collation' OR p_now ->> 'expression' <> coalesce(p_was ->> 'expression', '') THEN true
        WHEN was.type = is_now.type THEN NOT rollup_engine.is_no_shorter(is_now.type, was.modifier, is_now.modifier)
        -- What does not fit is an error.
        ELSE NOT (is_now.modifier = -1 AND (
            was.type IN ('smallint', 'integer', 'bigint') AND is_now.type IN ('smallint', 'integer', 'bigint', 'numeric')
            OR was.type IN ('text', 'varchar') AND is_now.type IN ('text', 'varchar')))
    END
    FROM (SELECT (p_was ->> 'type')::oid::regtype, (p_was ->> 'modifier')::integer) AS was (type, modifier),
        (SELECT (p_now ->> 'type')::oid::regtype, (p_now ->> 'modifier')::integer) AS is_now (type, modifier)
$$;
COMMENT ON FUNCTION rollup_engine.is_converted(jsonb, jsonb, boolean) IS
'Whether values of a column may be others now, or in another order, by what was seen of it: its type is another one, be it of the same name, or rounds.';

CREATE OR REPLACE FUNCTION rollup_engine.record_conversions(p_source rollup_engine.source) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO silver.error_log (target_table, error_code, error_message, hint)
    SELECT r.target_table::text, 'TR006',
        format('%s rests on sealed values, or such before a window, that stay as they were, though %s', r.target_table,
            string_agg(format('%I of %s was %s and is %s now', n.current_name, p_source.relation, c.seen ->> 'called', CASE
                WHEN c.seen -> 'called' <> n.seen -> 'called' THEN n.seen ->> 'called'
                WHEN rollup_engine.is_ordered_anew(c.seen, n.seen) THEN 'compared otherwise' ELSE 'another ' || (n.seen ->> 'called') END), ', ' ORDER BY c.column_name)),
        'what is made of both, in wider buckets across that border, may take old and new values for different ones, or the wrong one for the least or greatest'
            || CASE WHEN r.change_tracking = 'window' AND r.parent_id IS NULL
            THEN format('; silver.mark_stale(%L, ...) has computed anew what %s still holds of a range: nothing else stays there', r.target_table, p_source.relation) ELSE '' END
    FROM silver.rollup_config AS r
    JOIN rollup_engine.source_column AS c ON c.source_id = r.source_id
    JOIN rollup_engine.columns_seen(p_source) AS n USING (column_name)
    WHERE r.source_id = p_source.id AND rollup_engine.is_converted(c.seen, n.seen, p_source.noted_in IS DISTINCT FROM rollup_engine.this_numbering())
        AND EXISTS (
            SELECT FROM silver.rollup_config AS a
            WHERE a.id IN (SELECT rollup_engine.with_ancestors(r.id)) AND (n.current_name = p_source.time_column OR c.column_name = ANY (rollup_engine.used_columns(a))))
        AND EXISTS (SELECT FROM silver.rollup_config AS a WHERE a.id IN (SELECT rollup_engine.with_ancestors(r.id)) AND rollup_engine.keeps_rows(a))
    GROUP BY r.id
$$;
COMMENT ON FUNCTION rollup_engine.record_conversions(rollup_engine.source) IS
'Reports, for each rollup that holds or reads rows that are not computed anew, that what they were made of is of another type now.';

RESET ROLE;
