-- Errors, names, types and settings: what everything else here begins with.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.fail(p_code text, p_message text, p_hint text, p_detail text DEFAULT NULL)
RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_detail IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = p_message, HINT = p_hint;
    END IF;
    RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = p_message, HINT = p_hint, DETAIL = p_detail;
END
$$;
COMMENT ON FUNCTION rollup_engine.fail(text, text, text, text) IS
'Raises an error. TR001: an argument is wrong. TR002: something named does not exist. TR003: something is in the way. TR004: the source cannot be rolled up. TR005: not now, or not in this transaction. TR006, in error_log only: rows came too late. TR007, in error_log only: partitions left a source.';

-- Names ---------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.parse_name(p_name text, p_default_schema text) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_parts text[];
BEGIN
    IF p_name IS NULL THEN
        PERFORM rollup_engine.fail('TR001', 'the table name is NULL', 'name a table, as in ''raw.readings''');
    END IF;
    BEGIN
        v_parts := parse_ident(p_name);
    EXCEPTION WHEN invalid_parameter_value THEN
        v_parts := NULL;
    END;
    IF cardinality(v_parts) = 1 THEN
        v_parts := ARRAY[p_default_schema] || v_parts;
    END IF;
    IF v_parts IS NULL OR cardinality(v_parts) <> 2 THEN
        PERFORM rollup_engine.fail('TR001', format('%L is not a table name', p_name),
            'write schema.table, and double quotes around a name that holds capitals or other characters');
    END IF;
    RETURN v_parts;
END
$$;
COMMENT ON FUNCTION rollup_engine.parse_name(text, text) IS 'Schema and table of a name written as an SQL identifier.';

CREATE OR REPLACE FUNCTION rollup_engine.find_relation(p_name text, p_default_schema text) RETURNS regclass
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT c.oid::regclass
        FROM rollup_engine.parse_name(p_name, p_default_schema) AS parts
        JOIN pg_namespace AS n ON n.nspname = parts[1]
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = parts[2]);
END
$$;
COMMENT ON FUNCTION rollup_engine.find_relation(text, text) IS 'The relation of that name, NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.find_rollup_id(p_target text) RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation regclass;
BEGIN
    -- A number is how a regclass shows whose table was dropped by hand: drop_rollup must find it.
    IF p_target ~ '^[0-9]+$' THEN
        RETURN (SELECT r.id FROM silver.rollup_config AS r WHERE r.target_table::oid::text = p_target);
    END IF;
    v_relation := rollup_engine.find_relation(p_target, 'gold');
    IF v_relation IS NULL THEN  -- a table that was renamed by hand; or whose live view, called as it, somebody has dropped
        RETURN (
            SELECT min(r.id)
            FROM rollup_engine.parse_name(p_target, 'gold') AS parts
            JOIN pg_class AS c ON c.relname = parts[2] AND parts[1] = 'gold'
            JOIN silver.rollup_config AS r ON r.target_table = c.oid
                AND (cardinality(parse_ident(p_target)) = 1 OR NOT EXISTS (SELECT FROM pg_class AS v WHERE v.oid = r.target_view))
            HAVING count(*) = 1);
    END IF;
    RETURN (SELECT r.id FROM silver.rollup_config AS r WHERE v_relation IN (r.target_table, r.target_view));
END
$$;
COMMENT ON FUNCTION rollup_engine.find_rollup_id(text) IS 'The rollup with that table, live view or bare name, NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.letters(p_name text) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(DISTINCT substr('  ' || lower(p_name) || ' ', n, 3)) FROM generate_series(1, length(p_name) + 1) AS n
$$;
COMMENT ON FUNCTION rollup_engine.letters(text) IS 'The trigrams of a name: similar names share most of them.';

CREATE OR REPLACE FUNCTION rollup_engine.did_you_mean(p_wanted text, p_names text[], p_spellings text[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'did you mean ' || string_agg(near.name, ', ' ORDER BY near.likeness DESC, near.name) || '?'
    FROM (
        SELECT n.name, max(shared.n::float8 / (cardinality(wanted.letters) + cardinality(own.letters) - shared.n)) AS likeness
        FROM unnest(p_names, p_spellings) AS n (name, spelling)
        CROSS JOIN LATERAL (SELECT rollup_engine.letters(p_wanted) AS letters) AS wanted
        CROSS JOIN LATERAL (SELECT rollup_engine.letters(n.spelling) AS letters) AS own
        CROSS JOIN LATERAL (SELECT count(*) AS n FROM unnest(wanted.letters) AS l WHERE l = ANY (own.letters)) AS shared
        GROUP BY n.name
        ORDER BY likeness DESC NULLS LAST, n.name
        LIMIT 3
    ) AS near
    WHERE near.likeness >= 0.3
$$;
COMMENT ON FUNCTION rollup_engine.did_you_mean(text, text[], text[]) IS 'A question that gives the names of which a spelling is about what was wanted; NULL when there are none.';

CREATE OR REPLACE FUNCTION rollup_engine.similar_tables(p_name text, p_rollups_only boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.did_you_mean((parse_ident(p_name, false))[array_upper(parse_ident(p_name, false), 1)],
        array_agg(c.oid::regclass::text), array_agg(c.relname::text))
    FROM pg_class AS c
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND CASE WHEN p_rollups_only OR c.relnamespace = 'silver'::regnamespace
            THEN c.oid IN (SELECT target_table FROM silver.rollup_config)
            ELSE c.relnamespace::regnamespace::text !~ '^(pg_|information_schema$|rollup_engine$|partman$|cron$)' END
$$;
COMMENT ON FUNCTION rollup_engine.similar_tables(text, boolean) IS 'A question that names tables of about that name, wherever they live; NULL when there are none.';

CREATE OR REPLACE FUNCTION rollup_engine.find_table(p_name text) RETURNS regclass
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation constant regclass := coalesce(
        (SELECT target_table FROM silver.rollup_config WHERE id = rollup_engine.find_rollup_id(p_name)),
        rollup_engine.find_relation(p_name, 'raw'));
BEGIN
    IF v_relation IS NULL THEN
        PERFORM rollup_engine.fail('TR002', format('there is no table or rollup %s', p_name),
            coalesce(rollup_engine.similar_tables(p_name, false) || ' ', '') || 'a name without a schema is looked up in raw, then among the rollups');
    END IF;
    RETURN v_relation;
END
$$;
COMMENT ON FUNCTION rollup_engine.find_table(text) IS 'The table of a rollup, or another table, of that name; or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.rollup_id(p_target text) RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id integer := rollup_engine.find_rollup_id(p_target);
BEGIN
    IF v_id IS NULL THEN
        PERFORM rollup_engine.fail('TR002', format('there is no rollup %L', p_target),
            coalesce(rollup_engine.similar_tables(p_target, true) || ' ', '') || 'SELECT target_table FROM silver.rollup_config lists the rollups');
    END IF;
    RETURN v_id;
END
$$;
COMMENT ON FUNCTION rollup_engine.rollup_id(text) IS 'The rollup of that name, or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.type_called(p_name text) RETURNS oid
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE WHEN cardinality(i.parts) = 1 THEN to_regtype(split_part(p_name, ' COLLATE ', 1)) ELSE (
        SELECT CASE WHEN split_part(p_name, ' COLLATE ', 1) LIKE '%[]' THEN t.typarray ELSE t.oid END
        FROM pg_namespace AS n JOIN pg_type AS t ON t.typnamespace = n.oid
        WHERE n.nspname = i.parts[1] AND t.typname = i.parts[2]) END
    FROM parse_ident(p_name, false) AS i (parts);
END
$$;
COMMENT ON FUNCTION rollup_engine.type_called(text) IS
'The type of a name that PostgreSQL gave it, be it with a collation; NULL when there is none. to_regtype() is an error where its schema may not be used.';

CREATE OR REPLACE FUNCTION rollup_engine.collation_called(p_name text) RETURNS oid
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid
    FROM parse_ident(p_name) AS i (parts)
    JOIN pg_namespace AS n ON n.nspname = CASE cardinality(parts) WHEN 1 THEN 'pg_catalog' ELSE parts[1] END
    JOIN pg_collation AS c ON c.collnamespace = n.oid AND c.collname = parts[cardinality(parts)]
        AND c.collencoding IN (-1, pg_char_to_encoding(getdatabaseencoding()))
$$;
COMMENT ON FUNCTION rollup_engine.collation_called(text) IS 'As type_called, of collations.';

CREATE OR REPLACE FUNCTION rollup_engine.row_columns(p_relation regclass, p_row_sql jsonb) RETURNS TABLE (column_name name, attnum integer, type oid)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT attname, attnum::integer, atttypid
    FROM pg_attribute
    -- Where the source gained a column of that name later, the expression was first.
    WHERE attrelid = p_relation AND attnum > 0 AND NOT attisdropped AND (p_row_sql -> 'expressions' -> attname::text) IS NULL
    UNION ALL
    SELECT key, 10000 + row_number() OVER (ORDER BY key)::integer, rollup_engine.type_called(value ->> 'type') FROM jsonb_each(p_row_sql -> 'expressions')
$$;
COMMENT ON FUNCTION rollup_engine.row_columns(regclass, jsonb) IS 'The columns of a table, and the expressions that are columns to a rollup.';

DROP FUNCTION IF EXISTS rollup_engine.find_column(regclass, text, text);
CREATE OR REPLACE FUNCTION rollup_engine.find_column(p_relation regclass, p_column text, p_use text, p_row_sql jsonb DEFAULT NULL) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column name;
BEGIN
    SELECT column_name INTO v_column
    FROM rollup_engine.row_columns(p_relation, p_row_sql)
    WHERE p_column IN (column_name, quote_ident(column_name)) OR column_name = lower(p_column)
    ORDER BY column_name = p_column DESC
    LIMIT 1;
    IF v_column IS NULL THEN
        PERFORM rollup_engine.fail('TR002',
            format('%s %L is not a column of %s', p_use, coalesce(p_column, 'NULL'), p_relation),
            'its columns are ' || (SELECT string_agg(quote_ident(column_name), ', ' ORDER BY attnum) FROM rollup_engine.row_columns(p_relation, p_row_sql)));
    END IF;
    RETURN v_column;
END
$$;
COMMENT ON FUNCTION rollup_engine.find_column(regclass, text, text, jsonb) IS 'The column or expression of that name, or an error that lists what there is.';

CREATE OR REPLACE FUNCTION rollup_engine.base_type(p_type oid) RETURNS regtype
    LANGUAGE plpgsql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_type oid := p_type;
    v_under oid;
BEGIN
    LOOP
        v_under := (SELECT typbasetype FROM pg_type WHERE oid = v_type);
        EXIT WHEN v_under = 0 OR v_under IS NULL;
        v_type := v_under;
    END LOOP;
    RETURN CASE WHEN v_under IS NOT NULL THEN v_type END;
END
$$;
COMMENT ON FUNCTION rollup_engine.base_type(oid) IS 'The type under any domains.';

CREATE OR REPLACE FUNCTION rollup_engine.fill(p_template text, p_values jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In one pass: a name that is filled in may hold a mark itself. Each part but the first follows a brace.
    RETURN string_agg(
        CASE
            WHEN position = 1 THEN part
            WHEN strpos(part, '}') = 0 OR p_values ->> name IS NULL THEN '{' || part
            ELSE (p_values ->> name) || substr(part, length(name) + 2)
        END, '' ORDER BY position)
    FROM (
        SELECT part, position, split_part(part, '}', 1) AS name
        FROM string_to_table(p_template, '{') WITH ORDINALITY AS s (part, position)
    ) AS parts;
END
$$;
COMMENT ON FUNCTION rollup_engine.fill(text, jsonb) IS 'The template with its {marks} replaced by the values of that name.';

-- Settings ------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.pinned_settings() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $function$
-- row_security: an error is better than the rows of a policy. The others change what text, times
-- and literals mean, or what a name looks like in the logs.
SELECT $$SET row_security = off
    SET standard_conforming_strings = on
    SET timezone = 'UTC'
    SET datestyle = 'ISO, MDY'
    SET intervalstyle = 'postgres'
    SET extra_float_digits = 1
    SET bytea_output = 'hex'
    SET xmloption = 'content'
    SET array_nulls = on
    SET transform_null_equals = off
    SET quote_all_identifiers = off
    SET xmlbinary = 'base64'$$  -- behind those that 0.1.0 has set
        -- What is made is of the coordinator; what is not, says so.
        || CASE WHEN rollup_engine.has_citus() THEN ' SET citus.enable_ddl_propagation = off' ELSE '' END
$function$;
COMMENT ON FUNCTION rollup_engine.pinned_settings() IS
'SET clauses of whatever reads a source or builds SQL, so that no setting of the caller changes a result.';

RESET ROLE;
