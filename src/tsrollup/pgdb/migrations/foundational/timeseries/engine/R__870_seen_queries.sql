-- What is read from a table, by pg_stat_statements: where index advice looks when it is given no
-- queries.
--
-- Planning a query runs functions that it names. Advice must not run for a superuser what
-- somebody else wrote, so it plans only the queries of those who may act as its caller anyway;
-- of other people's it takes no more than the names of columns.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.pattern_for_word(p_word text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
    SELECT '\m' || regexp_replace(p_word, '(\W)', '\\\1', 'g') || '\M'
$$;
COMMENT ON FUNCTION rollup_engine.pattern_for_word(text) IS 'Regular expression that finds a name as a whole word.';

DROP FUNCTION IF EXISTS rollup_engine.seen_queries(regclass, boolean, integer);
CREATE OR REPLACE FUNCTION rollup_engine.seen_queries(p_relation regclass, p_of_others boolean) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
DECLARE
    v_schema text := (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pg_stat_statements');
    v_queries text[];
BEGIN
    IF v_schema IS NULL THEN
        RETURN '{}';
    END IF;
    EXECUTE format($sql$
        SELECT array_agg(query)
        FROM (
            SELECT query
            FROM %s.pg_stat_statements
            WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND pg_has_role(userid, current_user, 'USAGE') <> $2
                AND query ~ $1 AND query ~* '^\s*(select|with|update|delete)\M'
            GROUP BY query
            ORDER BY sum(total_exec_time) DESC
            LIMIT 20
        ) AS costly
        $sql$, v_schema)
    INTO v_queries
    USING rollup_engine.pattern_for_word((SELECT relname FROM pg_class WHERE oid = p_relation)), p_of_others;
    RETURN coalesce(v_queries, '{}');
EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege OR character_not_in_repertoire OR untranslatable_character THEN
    -- Created, but not preloaded; or not for this role; or it has texts of a database in another encoding.
    RETURN '{}';
END
$$;
COMMENT ON FUNCTION rollup_engine.seen_queries(regclass, boolean) IS
'Queries on a table that pg_stat_statements has seen, the most expensive first: of those who have the rights of the caller, or of others; empty without it.';

CREATE OR REPLACE FUNCTION rollup_engine.columns_others_filter_by(p_relation regclass, p_time_column name, p_known name[]) RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
    SELECT ARRAY(
        SELECT a.attname
        FROM pg_attribute AS a
        WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attname IS DISTINCT FROM p_time_column AND a.attname <> ALL (p_known)
            AND EXISTS (
                SELECT FROM unnest(rollup_engine.seen_queries(p_relation, true)) AS query
                WHERE substring(query FROM '(?i)\mwhere\M.*') ~ rollup_engine.pattern_for_word(a.attname)))
$$;
COMMENT ON FUNCTION rollup_engine.columns_others_filter_by(regclass, name, name[]) IS
'Further columns of a table that stand after WHERE in queries of other people.';

CREATE OR REPLACE FUNCTION rollup_engine.typical_queries(p_relation regclass, p_time_column name, p_dimensions name[]) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(
        SELECT format('SELECT * FROM %s WHERE %I = $1', p_relation, dimension)
            || coalesce(format(' AND %I >= $2 AND %1$I < $3', p_time_column), '')
        FROM unnest(p_dimensions) AS dimension)
$$;
COMMENT ON FUNCTION rollup_engine.typical_queries(regclass, name, name[]) IS
'What one reads such a table with, for want of queries: one value of a dimension, over some time.';

RESET ROLE;
