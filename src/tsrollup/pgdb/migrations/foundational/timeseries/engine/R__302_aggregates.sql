-- The catalogue of aggregates looked up: what a metric is made of, for values of a kind.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.value_kinds(p_type oid) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE rollup_engine.base_type(p_type)::oid
        WHEN 'int2'::regtype THEN '{small,integer,exact,number,any}'
        WHEN 'int4'::regtype THEN '{small,integer,exact,number,any}'
        WHEN 'int8'::regtype THEN '{integer,exact,number,any}'
        WHEN 'numeric'::regtype THEN '{exact,number,any}'
        WHEN 'float4'::regtype THEN '{real,float,number,any}'
        WHEN 'float8'::regtype THEN '{float,number,any}'
        WHEN 'interval'::regtype THEN '{interval,any}'
        WHEN 'bool'::regtype THEN '{boolean,plain,any}'
        ELSE CASE WHEN EXISTS (
            -- Equal values have one text, for ever: labels of an enum may be renamed, and its casts are its owner's code.
            SELECT FROM pg_type AS t
            WHERE t.oid = rollup_engine.base_type(p_type) AND t.oid::regtype IN (
                'text', 'varchar', 'bpchar', 'name', 'uuid', 'date', 'timestamp', 'timestamptz', 'time', 'bytea', 'inet', 'cidr', 'macaddr', 'macaddr8')
        ) THEN '{plain,any}' ELSE '{any}' END
    END::text[];
END
$$;
COMMENT ON FUNCTION rollup_engine.value_kinds(oid) IS 'The kinds of value that a type is, from the narrowest to any.';

CREATE OR REPLACE FUNCTION rollup_engine.held_type(p_state text, p_data_type text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(substring(p_state FROM '^(?:tally|hashes):[^:]*:(.*)$'), p_data_type)
$$;
COMMENT ON FUNCTION rollup_engine.held_type(text, text) IS 'The type of the values that the column of a state holds: its own, but those of tallies and hashes are made of the texts of others.';

CREATE OR REPLACE FUNCTION rollup_engine.hashed_type(p_type oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN 'exact' = ANY (k.kinds) THEN 'numeric' WHEN 'float' = ANY (k.kinds) THEN 'double precision'
        WHEN t.type IN ('text', 'varchar', 'bpchar', 'name') THEN 'text' ELSE format_type(t.type, NULL) END
    FROM rollup_engine.base_type(p_type) AS t (type), rollup_engine.value_kinds(p_type) AS k (kinds)
$$;
COMMENT ON FUNCTION rollup_engine.hashed_type(oid) IS 'A type for all whose equal values have the hash of one text.';

-- What people write ---------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.metric_name(p_item jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE jsonb_typeof(p_item)
        WHEN 'string' THEN p_item #>> '{}'
        WHEN 'object' THEN CASE jsonb_typeof(p_item -> 'name') WHEN 'string' THEN p_item ->> 'name' END
    END
$$;
COMMENT ON FUNCTION rollup_engine.metric_name(jsonb) IS 'The aggregate that an item of a list of metrics names; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.similar_aggregates(p_name text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.did_you_mean(p_name, array_agg(known.name), array_agg(known.name)) || ' '
    FROM (
        SELECT DISTINCT name FROM rollup_engine.aggregate WHERE name <> 'pN'
        UNION ALL
        SELECT lower(p_name) WHERE lower(p_name) ~ '^p[0-9]{1,2}([.][0-9]+)?$'
    ) AS known (name)
$$;
COMMENT ON FUNCTION rollup_engine.similar_aggregates(text) IS 'A question that names aggregates of about that name; NULL when there are none.';

CREATE OR REPLACE FUNCTION rollup_engine.metric_item(p_column text, p_item jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name constant text := rollup_engine.metric_name(p_item);
    v_unknown text;
BEGIN
    IF v_name ~ '^p[0-9]+([.][0-9]+)?$' AND (length(v_name) > 10 OR substr(v_name, 2)::numeric NOT BETWEEN 0.000001 AND 99.999999) THEN
        PERFORM rollup_engine.fail('TR001', format('metric %L of column %I is no percentile', v_name, p_column),
            'percentiles lie between 0 and 100, as p50, p95 or p99.9; use min and max for the ends');
    ELSIF v_name IS NULL OR NOT EXISTS (
        SELECT FROM rollup_engine.aggregate WHERE name = rollup_engine.metric_marks(to_jsonb(v_name)) ->> 'aggregate' AND v_name <> 'pN') THEN
        PERFORM rollup_engine.fail('TR001', format('metric %L of column %I is not an aggregate', coalesce(v_name, p_item::text), p_column),
            coalesce(rollup_engine.similar_aggregates(v_name), '') || 'the aggregates are ' || (
                SELECT string_agg(DISTINCT CASE name WHEN 'pN' THEN 'p1 to p99.9' ELSE name END, ', ') FROM rollup_engine.aggregate)
            || ': see docs/aggregates.md');
    END IF;
    SELECT string_agg(format('%I', key), ', ' ORDER BY key) INTO v_unknown
    FROM jsonb_object_keys(CASE jsonb_typeof(p_item) WHEN 'object' THEN p_item ELSE '{}' END) AS key
    WHERE key <> ALL (CASE v_name WHEN 'histogram' THEN '{name,bounds,as}' WHEN 'custom' THEN '{name,as,state,combine,finish}' ELSE '{name}' END::text[]);
    IF v_unknown IS NOT NULL THEN
        PERFORM rollup_engine.fail('TR001', format('%s of column %I takes no %s', v_name, p_column, v_unknown), 'leave that out: see docs/aggregates.md');
    END IF;
    IF v_name = 'histogram' THEN
        RETURN rollup_engine.histogram_item(p_column, p_item);
    ELSIF v_name = 'custom' THEN
        RETURN rollup_engine.custom_item(p_column, p_item);
    END IF;
    -- Each in one way only: p5, not p05 or p5.0.
    RETURN to_jsonb(CASE WHEN v_name ~ '^p[0-9]' THEN 'p' || trim_scale(substr(v_name, 2)::numeric) ELSE v_name END);
END
$$;
COMMENT ON FUNCTION rollup_engine.metric_item(text, jsonb) IS 'An item of a column''s list of metrics in the one way in which it is kept, or an error that says what is wrong with it.';

CREATE OR REPLACE FUNCTION rollup_engine.metric_marks(p_item jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN name ~ '^p[0-9]+([.][0-9]+)?$'
        THEN jsonb_build_object('aggregate', 'pN', 'label', replace(name, '.', '_'), 'fraction', (substr(name, 2)::numeric / 100)::text)
        WHEN name = 'custom' THEN jsonb_build_object('aggregate', name, 'label', p_item ->> 'as',
            'parameters', jsonb_build_object('state', p_item -> 'state', 'combine', p_item -> 'combine')::text,
            'finish', rollup_engine.fill(p_item ->> 'finish', jsonb_build_object('state', format('{%s_state}', p_item ->> 'as'))),
            'also', (SELECT jsonb_agg(DISTINCT m[1]) FROM regexp_matches(p_item ->> 'finish', '[{]([^{}]*)[}]', 'g') AS m WHERE m[1] <> 'state'))
        ELSE jsonb_build_object('aggregate', name, 'label', coalesce(p_item ->> 'as', name), 'bounds', p_item ->> 'bounds') END
    FROM (SELECT rollup_engine.metric_name(p_item)) AS n (name)
$$;
COMMENT ON FUNCTION rollup_engine.metric_marks(jsonb) IS 'The aggregate that an item of a list of metrics names, and what fills the marks of its row in the catalogue.';

CREATE OR REPLACE FUNCTION rollup_engine.find_aggregate(p_item jsonb, p_column text, p_type oid, p_parent_id integer) RETURNS rollup_engine.aggregate
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.name, s.states, f.takes, o.outputs
    FROM (
        SELECT array_agg(state) AS states, max(rollup_engine.held_type(state, NULL)) FILTER (WHERE state LIKE 'tally:%') AS tally_type,
            max(rollup_engine.held_type(state, NULL)) FILTER (WHERE state LIKE 'hashes:%') AS hashed_type
        FROM rollup_engine.rollup_column
        WHERE rollup_id = p_parent_id AND source_column = p_column AND kind = 'state'
    ) AS parent
    CROSS JOIN LATERAL (
        SELECT rollup_engine.metric_marks(p_item) || jsonb_build_object(
            'type', coalesce(parent.tally_type, format_type(rollup_engine.base_type(p_type), -1)),  -- character is of one letter
            'hashed', coalesce(parent.hashed_type, rollup_engine.hashed_type(p_type)))
        OFFSET 0  -- once, not for each row of the catalogue
    ) AS m (marks)
    JOIN rollup_engine.aggregate AS f ON f.name = m.marks ->> 'aggregate'
    CROSS JOIN LATERAL (
        SELECT ARRAY(
            SELECT rollup_engine.fill(state, m.marks) FROM unnest(f.states) AS state
            UNION ALL
            SELECT jsonb_array_elements_text(nullif(m.marks -> 'also', 'null')))
        OFFSET 0) AS s (states)
    CROSS JOIN LATERAL (
        SELECT json_object_agg(rollup_engine.fill(key, m.marks), rollup_engine.fill(value, m.marks) ORDER BY position)
        FROM json_each_text(f.outputs) WITH ORDINALITY AS e (key, value, position)
    ) AS o (outputs)
    WHERE CASE WHEN p_parent_id IS NULL THEN f.takes = ANY (rollup_engine.value_kinds(p_type)) ELSE s.states <@ parent.states END
    ORDER BY array_position(rollup_engine.value_kinds(p_type), f.takes), f.takes
    LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.find_aggregate(jsonb, text, oid, integer) IS
'The row of the catalogue for an aggregate of a column: of raw rows by its type, of a parent by the states that it holds; NULL for none.';

-- A state with parameters is called by its kind, the name of its column after the source's, and these.
CREATE OR REPLACE FUNCTION rollup_engine.state_label(p_state text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(nullif(split_part(p_state, ':', 2), ''), p_state)
$$;
COMMENT ON FUNCTION rollup_engine.state_label(text) IS 'What the column of a state is called after that of the source.';

CREATE OR REPLACE FUNCTION rollup_engine.state_parameters(p_state text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN p_state LIKE 'histogram:%' THEN (
        -- What lies below each bound less what lies below the one before, and the rest.
        SELECT jsonb_build_object(
            'bins', string_agg(format('count({value}) FILTER (WHERE {value} < %1$s)%2$s', bound, ' - count({value}) FILTER (WHERE {value} < ' || before || ')'), ', ' ORDER BY position)
                || format(', count({value}) - count({value}) FILTER (WHERE {value} < %s)', (array_agg(bound ORDER BY position DESC))[1]),
            'merged_bins', string_agg(format('sum({state}[%s])', position), ', ' ORDER BY position) || format(', sum({state}[%s])', max(position) + 1))
        FROM (
            SELECT '(' || bound || ')' AS bound, '(' || lag(bound) OVER (ORDER BY position) || ')' AS before, position
            FROM jsonb_array_elements_text(substr(p_state, length(rollup_engine.state_label(p_state)) + 12)::jsonb) WITH ORDINALITY AS b (bound, position)
        ) AS b)
    WHEN p_state LIKE 'custom:%' THEN (
        SELECT jsonb_build_object('state_expression', p ->> 'state', 'combine_expression', p ->> 'combine')
        FROM (SELECT substr(p_state, length(rollup_engine.state_label(p_state)) + 9)::jsonb) AS c (p))
    ELSE '{}' END
$$;
COMMENT ON FUNCTION rollup_engine.state_parameters(text) IS 'What fills the marks of a state''s expressions besides columns.';

CREATE OR REPLACE FUNCTION rollup_engine.is_rounded(p_state text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN p_state NOT LIKE 'custom:%' OR EXISTS (
        SELECT FROM regexp_matches(lower(rollup_engine.state_parameters(p_state)::text), '([a-z_][a-z0-9_]*) *[(]', 'g') AS m (words)
        JOIN pg_proc AS p ON p.proname = words[1] AND p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'a'
        WHERE p.proname NOT IN ('min', 'max', 'count'));
END
$$;
COMMENT ON FUNCTION rollup_engine.is_rounded(text) IS 'Whether a state of floats goes by the order of rows: each is, but for a user''s own that is made of nothing but min, max and count.';

CREATE OR REPLACE FUNCTION rollup_engine.find_state(p_state text, p_type oid) RETURNS rollup_engine.aggregate_state
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A parent's state may be of a type that no value has: then all rows read it alike.
    RETURN s
    FROM rollup_engine.aggregate_state AS s
    WHERE s.name = split_part(p_state, ':', 1) AND (s.takes <> 'float' OR rollup_engine.is_rounded(p_state))
    ORDER BY array_position(rollup_engine.value_kinds(p_type), s.takes), s.takes
    LIMIT 1;
END
$$;
COMMENT ON FUNCTION rollup_engine.find_state(text, oid) IS 'The row of the catalogue for a state of values, or of a parent''s states, of a type.';

CREATE OR REPLACE FUNCTION rollup_engine.metric_aggregates(p_rollup silver.rollup_config)
RETURNS TABLE (source_column name, item jsonb, aggregate rollup_engine.aggregate)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH metric AS MATERIALIZED (
        SELECT key, value, rollup_engine.source_name(p_rollup, key::name) AS own_name FROM jsonb_each(p_rollup.metrics)
    ), typed AS MATERIALIZED (
        SELECT m.*, c.type
        FROM metric AS m LEFT JOIN rollup_engine.row_columns(p_rollup.source_table, p_rollup.row_sql) AS c ON c.column_name = m.own_name
    )
    SELECT m.key::name, i.item, rollup_engine.find_aggregate(i.item, m.key, m.type, p_rollup.parent_id)
    FROM typed AS m
    CROSS JOIN LATERAL jsonb_array_elements(m.value) AS i (item)
$$;
COMMENT ON FUNCTION rollup_engine.metric_aggregates(silver.rollup_config) IS 'The aggregates that a rollup''s metrics name, as the catalogue has them for its source.';

CREATE OR REPLACE FUNCTION rollup_engine.state_marks(p_rollup_id integer, p_source_column name, p_prefix text DEFAULT '') RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(jsonb_object_agg(rollup_engine.state_label(state), p_prefix || quote_ident(column_name)), '{}')
    FROM rollup_engine.rollup_column
    WHERE rollup_id = p_rollup_id AND source_column = p_source_column AND kind = 'state';
END
$$;
COMMENT ON FUNCTION rollup_engine.state_marks(integer, name, text) IS 'The columns that hold the states of a source column, by state.';

RESET ROLE;
