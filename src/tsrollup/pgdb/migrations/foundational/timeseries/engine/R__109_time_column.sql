-- The column that says when a row happened: as what it is read, and what that asks of the capture.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.time_expression(p_column name, p_type regtype, p_unit text, p_row text DEFAULT '') RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_unit IS NOT NULL THEN
        RETURN rollup_engine.number_utc(p_row || quote_ident(p_column), p_type, p_unit);
    END IF;
    RETURN format(
        CASE p_type
            WHEN 'timestamptz'::regtype THEN '%s%I::timestamptz'  -- it may be of a domain
            WHEN 'timestamp'::regtype THEN '(%s%I AT TIME ZONE ''UTC'')'
            ELSE '(%s%I::timestamp AT TIME ZONE ''UTC'')'
        END, p_row, p_column);
END
$$;
COMMENT ON FUNCTION rollup_engine.time_expression(name, regtype, text, text) IS 'The time column as timestamptz; timestamps and dates are read as UTC, numbers by their unit.';

CREATE OR REPLACE FUNCTION rollup_engine.is_time_key(p_relation regclass, p_column name, p_unit text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_unit IS NULL AND EXISTS (
        SELECT FROM pg_partitioned_table AS p
        JOIN pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs)
        WHERE p.partrelid = p_relation AND a.attname = p_column)
$$;
COMMENT ON FUNCTION rollup_engine.is_time_key(regclass, name, text) IS 'Whether a table is partitioned by a column of times, perhaps among others.';

CREATE OR REPLACE FUNCTION rollup_engine.has_generated_time(p_source rollup_engine.source) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Up to PostgreSQL 15 that of a partition may be, though its parent's is not. pg_partition_tree locks them all.
    RETURN EXISTS (
        SELECT FROM rollup_engine.partition_tree(p_source.relation) AS t (member) JOIN pg_attribute AS a ON a.attrelid = t.member
        WHERE a.attname = p_source.time_column AND a.attgenerated <> '');
END
$$;
COMMENT ON FUNCTION rollup_engine.has_generated_time(rollup_engine.source) IS 'Whether the time of a row is computed from its other columns.';

RESET ROLE;
