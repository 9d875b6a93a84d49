-- Parameters of aggregates: what is said in an object of a list of metrics, checked; and a user's own
-- aggregate, whose expressions may use nothing but built-in aggregates and immutable functions.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.check_label(p_column text, p_label jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF jsonb_typeof(p_label) IS DISTINCT FROM 'string' OR NOT p_label #>> '{}' ~ '^[a-z_][a-z0-9_]{0,39}$' THEN
        PERFORM rollup_engine.fail('TR001', format('"as" of a metric of column %I is %s', p_column, coalesce(p_label::text, 'missing')),
            'give the column in gold a name of up to 40 lower-case letters, digits and underscores, as in "as": "geomean"');
    ELSIF p_label #>> '{}' IN (
        SELECT name FROM rollup_engine.aggregate UNION ALL SELECT name FROM rollup_engine.aggregate_state
        UNION ALL SELECT json_object_keys(outputs) FROM rollup_engine.aggregate WHERE outputs IS NOT NULL)
        OR p_label #>> '{}' ~ '^p[0-9]' THEN
        PERFORM rollup_engine.fail('TR001', format('"as" of a metric of column %I is %s, which is an aggregate itself', p_column, p_label), 'choose another name');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_label(text, jsonb) IS 'An error unless a column of gold can be called so.';

CREATE OR REPLACE FUNCTION rollup_engine.histogram_item(p_column text, p_item jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_bounds numeric[];
BEGIN
    IF jsonb_typeof(p_item -> 'bounds') = 'array' AND jsonb_path_match(p_item, 'exists ($.bounds[*]) && !exists ($.bounds[*] ? (@.type() != "number"))') THEN
        v_bounds := ARRAY(SELECT trim_scale(b::numeric) FROM jsonb_array_elements_text(p_item -> 'bounds') AS b);
    END IF;
    IF v_bounds IS NULL OR cardinality(v_bounds) > 100 OR EXISTS (SELECT FROM unnest(v_bounds) AS b WHERE b <> 0 AND abs(b) NOT BETWEEN 1e-300 AND 1e300)
        OR v_bounds <> ARRAY(SELECT DISTINCT b FROM unnest(v_bounds) AS b ORDER BY b) THEN
        PERFORM rollup_engine.fail('TR001', format('the bounds of the histogram of column %I are %s', p_column, coalesce(left((p_item -> 'bounds')::text, 200), 'missing')),
            'give one to a hundred numbers that double precision holds, in ascending order, each once, as in {"name": "histogram", "bounds": [0, 10, 100]}');
    END IF;
    IF p_item -> 'as' <> '"histogram"' THEN
        PERFORM rollup_engine.check_label(p_column, p_item -> 'as');
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object('name', 'histogram', 'bounds', v_bounds, 'as', nullif(p_item ->> 'as', 'histogram')));
END
$$;
COMMENT ON FUNCTION rollup_engine.histogram_item(text, jsonb) IS 'A histogram in the one way in which it is kept, or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.expression_fault(p_expression text, p_marks text[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH words AS (
        SELECT lower(rtrim(w[1], ' (')) AS word, w[1] LIKE '%(' AS is_call
        FROM regexp_matches(p_expression, '[{][^{}]*[}]|[A-Za-z_][A-Za-z0-9_]* *[(]?|[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?', 'g') AS w
        WHERE w[1] ~ '^[A-Za-z_]'
    )
    SELECT CASE
        WHEN p_expression IS NULL OR trim(p_expression) = '' THEN 'is missing'
        WHEN length(p_expression) > 1000 THEN 'is longer than 1000 characters'
        -- No quotes, so that what follows counts words and brackets as PostgreSQL does.
        WHEN p_expression !~ '^[]A-Za-z0-9_ .,()+*/%^<>=!|&:{}[-]*$' OR p_expression ~ '--|/[*]|[*]/'
        THEN 'has a character or a comment that has no place there: ' || coalesce(left((regexp_match(p_expression, '[^]A-Za-z0-9_ .,()+*/%^<>=!|&:{}[-]'))[1], 1), 'a comment')
        WHEN p_expression ~ '[A-Za-z_}][A-Za-z0-9_]* *[.]' THEN 'has a qualified name'
        WHEN EXISTS (
            SELECT FROM regexp_matches(p_expression, '[{]([^{}]*)[}]', 'g') AS m WHERE m[1] <> ALL (p_marks)) OR regexp_replace(p_expression, '[{][^{}]*[}]', '', 'g') ~ '[{}]'
        THEN format('may hold the marks {%s} only', array_to_string(p_marks, '}, {'))
        WHEN EXISTS (
            SELECT FROM (
                SELECT sum(CASE c WHEN '(' THEN 1 WHEN ')' THEN -1 ELSE 0 END) OVER (ORDER BY n) AS depth, count(*) OVER () - n AS ahead
                FROM string_to_table(p_expression, NULL) WITH ORDINALITY AS s (c, n)) AS d
            WHERE depth < 0 OR ahead = 0 AND depth <> 0)
        THEN 'has a bracket too many or too few'
        ELSE (
            SELECT format('uses %s, which is no immutable function of PostgreSQL', word)
            FROM words
            WHERE word <> ALL ('{case,when,then,else,end,and,or,not,"null",is,in,between,true,false,filter,where,coalesce,nullif,greatest,least,cast,as,double,precision,numeric,float8,float4,real,bigint,integer,int,smallint,boolean,text}')
                AND NOT (is_call AND EXISTS (SELECT FROM pg_proc WHERE proname = word AND pronamespace = 'pg_catalog'::regnamespace)
                    AND NOT EXISTS (
                        SELECT FROM pg_proc WHERE proname = word AND pronamespace = 'pg_catalog'::regnamespace
                            AND (provolatile <> 'i' OR proretset OR prokind NOT IN ('f', 'a'))))
            LIMIT 1)
    END
$$;
COMMENT ON FUNCTION rollup_engine.expression_fault(text, text[]) IS
'What keeps an expression out of a user''s aggregate, NULL for nothing: it may hold the marks, numbers, operators and built-in immutable functions.';

CREATE OR REPLACE FUNCTION rollup_engine.custom_item(p_column text, p_item jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_part record;
    v_fault text;
BEGIN
    PERFORM rollup_engine.check_label(p_column, p_item -> 'as');
    FOR v_part IN SELECT * FROM (VALUES
        ('state', '{value}'::text[]), ('combine', '{state}'), ('finish', '{state,count,sum,min,max,first,last}')) AS p (name, marks)
    LOOP
        v_fault := CASE jsonb_typeof(p_item -> v_part.name)
            WHEN 'string' THEN rollup_engine.expression_fault(p_item ->> v_part.name, v_part.marks) ELSE 'is missing' END;
        IF v_fault IS NOT NULL THEN
            PERFORM rollup_engine.fail('TR001', format('"%s" of the custom aggregate %s of column %I %s', v_part.name, p_item ->> 'as', p_column, v_fault),
                'write it as in {"name": "custom", "as": "geomean", "state": "sum(ln({value}))", "combine": "sum({state})", "finish": "exp({state} / {count})"}: see docs/aggregates.md');
        END IF;
    END LOOP;
    RETURN p_item;
END
$$;
COMMENT ON FUNCTION rollup_engine.custom_item(text, jsonb) IS 'A user''s own aggregate, or an error.';

CREATE OR REPLACE FUNCTION rollup_engine.makes_text(p_finish text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Not ||/, which is a root. What a state was made to text of is no matter: that was under settings of ours.
    SELECT EXISTS (
        SELECT FROM regexp_matches(lower(p_finish), '[|][|](?!/)|[a-z_][a-z0-9_]*', 'g') AS m (words)
        WHERE words[1] = '||'
            OR words[1] IN (SELECT typname FROM pg_type WHERE typcategory IN ('S', 'Z') AND typnamespace = 'pg_catalog'::regnamespace)
            OR words[1] IN (SELECT proname FROM pg_proc WHERE prorettype IN ('cstring'::regtype, 'json'::regtype) AND pronamespace = 'pg_catalog'::regnamespace))
$$;
COMMENT ON FUNCTION rollup_engine.makes_text(text) IS
'Whether an expression without quotes may make a text of a number, by a cast, a join or a function, be it to make something else of that.';

CREATE OR REPLACE FUNCTION rollup_engine.check_finish(p_item jsonb, p_types jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_finished regtype;
BEGIN
    EXECUTE format('SELECT pg_typeof(x) FROM (SELECT %s) AS tsrollup, LATERAL (VALUES ((%s))) AS finished (x)',
        (SELECT string_agg(format('NULL::%s AS %I', value, key), ', ') FROM jsonb_each_text(p_types)),
        rollup_engine.fill(rollup_engine.metric_marks(p_item) ->> 'finish', (SELECT jsonb_object_agg(key, format('tsrollup.%I', key)) FROM jsonb_object_keys(p_types) AS key)))
        INTO v_finished;
    IF v_finished = 'record'::regtype THEN
        RAISE datatype_mismatch USING MESSAGE = 'it finishes to more than one value';
    -- Whoever reads has it finished, under his settings.
    ELSIF rollup_engine.makes_text(p_item ->> 'finish') THEN
        RAISE datatype_mismatch USING MESSAGE = format('it makes text of %s, which looks as the settings of each reader have it',
            p_types ->> format('%s_state', p_item ->> 'as'));
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_finish(jsonb, jsonb) IS 'An error unless what a user''s aggregate finishes states of types to, by state, is one value and the same for all.';

CREATE OR REPLACE FUNCTION rollup_engine.check_custom(p_column name, p_item jsonb, p_type regtype, p_parent_id integer) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_state regtype;
    v_combined regtype;
    v_sum regtype;
BEGIN
    IF p_parent_id IS NOT NULL THEN
        PERFORM rollup_engine.check_finish(p_item, (
            SELECT jsonb_object_agg(rollup_engine.state_label(state), data_type) FROM rollup_engine.rollup_column
            WHERE rollup_id = p_parent_id AND source_column = p_column AND kind = 'state'));
        RETURN;
    END IF;
    -- PostgreSQL parses each alone, over a row of NULLs; HAVING makes it an aggregate of all rows.
    EXECUTE format('SELECT pg_typeof((%s)), pg_typeof(sum(v)) FROM (SELECT NULL::%s AS v) AS tsrollup HAVING true',
        rollup_engine.fill(p_item ->> 'state', '{"value": "v"}'), p_type) INTO v_state, v_sum;
    IF v_state::oid = ANY ('{record,unknown}'::regtype[]::oid[]) THEN
        RAISE datatype_mismatch USING MESSAGE = format('its state is a %s', v_state);
    END IF;
    EXECUTE format('SELECT pg_typeof((%s)::%s) FROM (SELECT NULL::%2$s AS s) AS tsrollup HAVING true',
        rollup_engine.fill(p_item ->> 'combine', '{"state": "s"}'), v_state) INTO v_combined;
    PERFORM rollup_engine.check_finish(p_item, jsonb_build_object(format('%s_state', p_item ->> 'as'), v_state,
        'count', 'bigint', 'sum', v_sum, 'min', p_type, 'max', p_type, 'first', p_type, 'last', p_type));
EXCEPTION WHEN syntax_error_or_access_rule_violation OR feature_not_supported OR data_exception THEN
    PERFORM rollup_engine.fail('TR001', format('the custom aggregate %s of column %I does not work: %s', p_item ->> 'as', p_column, SQLERRM),
        '"state" aggregates {value}, "combine" aggregates {state}, "finish" makes one value of {state}, {count} and other states: see docs/aggregates.md');
END
$$;
COMMENT ON FUNCTION rollup_engine.check_custom(name, jsonb, regtype, integer) IS
'An error unless PostgreSQL takes the expressions of a user''s aggregate for values of a type, or what a child finishes it to for its parent''s states.';

CREATE OR REPLACE FUNCTION rollup_engine.mixed_series(p_rollup_id integer, p_dimensions name[], p_metrics jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s of column %I goes by one series, and dimension %s of it is left out', rollup_engine.metric_name(i.item), m.key, out.dimensions)
    FROM (
        SELECT string_agg(quote_ident(d), ', ') AS dimensions
        FROM silver.rollup_config AS c CROSS JOIN LATERAL unnest(c.dimensions) AS d
        WHERE c.id = p_rollup_id AND d <> ALL (p_dimensions)
    ) AS out, jsonb_each(p_metrics) AS m CROSS JOIN LATERAL jsonb_array_elements(m.value) AS i (item)
    WHERE out.dimensions IS NOT NULL AND EXISTS (
        SELECT FROM rollup_engine.aggregate AS f WHERE f.name = rollup_engine.metric_name(i.item) AND 'series_first' = ANY (f.states))
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.mixed_series(integer, name[], jsonb) IS 'An aggregate over the order of rows that would mix series which a rollup keeps apart; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.check_series(p_parent_id integer, p_dimensions name[], p_metrics jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_mixed constant text := rollup_engine.mixed_series(p_parent_id, p_dimensions, p_metrics);
BEGIN
    IF v_mixed IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR001', v_mixed,
            'keep that dimension, or name other metrics: what buckets of several series hold cannot be put in the order of time');
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_series(integer, name[], jsonb) IS 'An error for an aggregate over the order of rows where a child would mix series that its parent keeps apart.';

RESET ROLE;
