-- Which live view answers a question: exactly, and with the fewest rows to read.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.rows_per_bucket(p_rollup silver.rollup_config) RETURNS double precision
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- By the statistics, where there are some.
    SELECT coalesce((
        SELECT e.rows / nullif(CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * e.rows ELSE s.n_distinct END, 0)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = 'bucket' AND s.inherited
        CROSS JOIN LATERAL rollup_engine.estimated_rows(c.oid) AS e (rows)
        WHERE c.oid = p_rollup.target_table AND e.rows > 0),
        10 ^ cardinality(p_rollup.dimensions))
$$;
COMMENT ON FUNCTION rollup_engine.rows_per_bucket(silver.rollup_config) IS 'About how many rows a bucket has.';

CREATE OR REPLACE FUNCTION rollup_engine.rollups_of(p_table regclass) RETURNS SETOF silver.rollup_config
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.* FROM silver.rollup_config AS r JOIN rollup_engine.source AS s ON s.id = r.source_id
    WHERE s.relation = p_table
        OR EXISTS (SELECT FROM silver.rollup_config AS a WHERE a.target_table = p_table AND a.id IN (SELECT rollup_engine.with_ancestors(r.id)))
$$;
COMMENT ON FUNCTION rollup_engine.rollups_of(regclass) IS 'The rollups, at any depth, of a source; or of a rollup, and that itself.';

CREATE OR REPLACE FUNCTION rollup_engine.line_to(p_rollup silver.rollup_config, p_table regclass) RETURNS SETOF silver.rollup_config
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.* FROM silver.rollup_config AS a
    WHERE a.id IN (SELECT rollup_engine.with_ancestors(p_rollup.id))
        AND NOT EXISTS (SELECT FROM silver.rollup_config AS t WHERE t.target_table = p_table AND a.id IN (SELECT rollup_engine.with_ancestors(t.id)))
$$;
COMMENT ON FUNCTION rollup_engine.line_to(silver.rollup_config, regclass) IS 'A rollup and what it reads, up to a table and without it.';

CREATE OR REPLACE FUNCTION rollup_engine.meaning_of(p_rollup silver.rollup_config, p_table regclass, p_column name) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s of %s', l.expressions ->> p_column::text, l.source_table)
    FROM rollup_engine.line_to(p_rollup, p_table) AS l
    WHERE l.expressions ? p_column::text
    ORDER BY l.depth DESC LIMIT 1
$$;
COMMENT ON FUNCTION rollup_engine.meaning_of(silver.rollup_config, regclass, name) IS 'The expression that a rollup calls by a name; NULL for the column of the table.';

CREATE OR REPLACE FUNCTION rollup_engine.known_name(p_rollup silver.rollup_config, p_table regclass, p_name text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Rollups of rollups go on with the name that the first of them knew.
    SELECT coalesce((
        SELECT c.column_name
        FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.resolved_columns(s) AS c
        WHERE s.id = p_rollup.source_id AND s.relation = p_table AND c.current_name = p_name
            AND (c.column_name = ANY (p_rollup.dimensions) OR p_rollup.metrics ? c.column_name::text)
            AND rollup_engine.meaning_of(p_rollup, p_table, c.column_name) IS NULL
        ORDER BY c.column_name = p_name DESC, c.column_name LIMIT 1), p_name)
$$;
COMMENT ON FUNCTION rollup_engine.known_name(silver.rollup_config, regclass, text) IS 'What a rollup calls a column of a table, which may have been renamed.';

CREATE OR REPLACE FUNCTION rollup_engine.describe_question(p_source regclass, p_width interval, p_dimensions text[], p_metrics jsonb, p_timezone text)
RETURNS silver.rollup_config
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_entry record;
    q silver.rollup_config;
BEGIN
    PERFORM rollup_engine.check_width('width', p_width);
    IF jsonb_typeof(p_metrics) <> 'object' THEN
        PERFORM rollup_engine.fail('TR001', format('metrics is a JSON %s', jsonb_typeof(p_metrics)), 'write an object, as in ''{"temp": ["avg", "max"]}''');
    END IF;
    q.source_table := p_source;
    q.bucket_width := p_width;
    q.timezone := rollup_engine.zone_name(p_timezone);
    q.metrics := '{}';
    FOR v_entry IN
        SELECT d AS name, NULL::jsonb AS items FROM unnest(p_dimensions) AS d
        UNION ALL
        SELECT key, CASE jsonb_typeof(value) WHEN 'array' THEN value ELSE jsonb_build_array(value) END FROM jsonb_each(coalesce(p_metrics, '{}'))
    LOOP
        -- A column of the source, or what is one to a rollup of it.
        IF v_entry.name IS NULL OR NOT EXISTS (
            SELECT FROM rollup_engine.rollups_of(p_source) AS r WHERE v_entry.name = ANY (r.dimensions) OR r.metrics ? v_entry.name)
        THEN
            v_entry.name := rollup_engine.find_column(p_source, v_entry.name, CASE WHEN v_entry.items IS NULL THEN 'dimension' ELSE 'metric column' END);
        END IF;
        q.dimensions := q.dimensions || CASE WHEN v_entry.items IS NULL THEN v_entry.name::name END;
        IF v_entry.items IS NOT NULL THEN
            q.metrics := q.metrics || jsonb_build_object(v_entry.name, (
                -- One that has parameters by its name alone, as some rollup has it.
                SELECT coalesce(jsonb_agg(DISTINCT coalesce((
                    SELECT m FROM rollup_engine.rollups_of(p_source) AS r, jsonb_array_elements(r.metrics -> rollup_engine.known_name(r, p_source, v_entry.name)) AS m
                    WHERE jsonb_typeof(m) = 'object' AND rollup_engine.is_metric(m, i) ORDER BY r.id LIMIT 1
                ), rollup_engine.metric_item(v_entry.name, i))), '[]')
                FROM jsonb_array_elements(v_entry.items) AS i));
        END IF;
    END LOOP;
    q.dimensions := array_remove(coalesce(q.dimensions, '{}'), NULL);
    RETURN q;
END
$$;
COMMENT ON FUNCTION rollup_engine.describe_question(regclass, interval, text[], jsonb, text) IS 'What is asked for, checked, as a rollup that would answer it.';

CREATE OR REPLACE FUNCTION rollup_engine.asked_of(p_rollup silver.rollup_config, p_asked silver.rollup_config) RETURNS silver.rollup_config
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    q silver.rollup_config := p_asked;
BEGIN
    q.dimensions := ARRAY(SELECT rollup_engine.known_name(p_rollup, q.source_table, d) FROM unnest(q.dimensions) AS d);
    q.metrics := coalesce((SELECT jsonb_object_agg(rollup_engine.known_name(p_rollup, q.source_table, key), value) FROM jsonb_each(q.metrics)), '{}');
    RETURN q;
END
$$;
COMMENT ON FUNCTION rollup_engine.asked_of(silver.rollup_config, silver.rollup_config) IS 'A question in the words of a rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.other_meaning(p_asked silver.rollup_config, p_rollup silver.rollup_config) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Where the table has no such column, rollups that call different things so leave open which was meant.
    SELECT string_agg(format('its %I is %s', asked.name, mine.text), ', ')
    FROM (SELECT unnest(p_asked.dimensions) UNION SELECT jsonb_object_keys(p_asked.metrics)) AS asked (name)
    CROSS JOIN LATERAL rollup_engine.meaning_of(p_rollup, p_asked.source_table, asked.name) AS mine (text)
    WHERE mine.text IS NOT NULL
        AND (EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = p_asked.source_table AND a.attname = asked.name AND NOT a.attisdropped)
            OR EXISTS (
                SELECT FROM rollup_engine.rollups_of(p_asked.source_table) AS r
                WHERE (asked.name = ANY (r.dimensions) OR r.metrics ? asked.name::text)
                    AND rollup_engine.meaning_of(r, p_asked.source_table, asked.name) <> mine.text))
$$;
COMMENT ON FUNCTION rollup_engine.other_meaning(silver.rollup_config, silver.rollup_config) IS 'Expressions of a rollup that are called as what is asked for, and may be something else; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.other_time(p_rollup silver.rollup_config, p_table regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Where rollups go by several times of a table, the one that it is partitioned by is meant.
    SELECT format('its time is %I', mine.time_column)
    FROM rollup_engine.source AS mine
    WHERE mine.id = p_rollup.source_id AND mine.relation = p_table AND NOT rollup_engine.is_time_key(p_table, mine.time_column, NULL)
        AND EXISTS (
            SELECT FROM rollup_engine.rollups_of(p_table) AS r JOIN rollup_engine.source AS s ON s.id = r.source_id
            WHERE s.time_column <> mine.time_column)
$$;
COMMENT ON FUNCTION rollup_engine.other_time(silver.rollup_config, regclass) IS 'By which time of a table a rollup goes, where that leaves open which was meant; NULL elsewhere.';

CREATE OR REPLACE FUNCTION rollup_engine.complete_since(p_rollup silver.rollup_config, p_table regclass) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.bucket_ceil(p_rollup, own.gone)
    FROM (
        SELECT max(t.sealed_before) FROM rollup_engine.retention AS t JOIN rollup_engine.line_to(p_rollup, p_table) AS l ON l.target_table = t.relation
    ) AS own (gone)
    WHERE isfinite(own.gone)
        AND own.gone > (SELECT coalesce(max(t.sealed_before), '-infinity') FROM rollup_engine.retention AS t WHERE rollup_engine.lies_in(p_table, t.relation))
$$;
COMMENT ON FUNCTION rollup_engine.complete_since(silver.rollup_config, regclass) IS
'Time before which a rollup, or what it reads, has dropped rows that a table still has, or takes in none of its late ones; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.known_since(p_asked silver.rollup_config, p_rollup silver.rollup_config) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT max(c.known_since)
    FROM rollup_engine.rollup_column AS c
    WHERE c.rollup_id = p_rollup.id AND c.known_since IS NOT NULL AND (c.state = 'row_count' OR EXISTS (
        SELECT FROM jsonb_array_elements(p_asked.metrics -> c.source_column::text) AS i
        WHERE c.state = ANY ((rollup_engine.find_aggregate(i, c.source_column::text, NULL, p_rollup.id)).states)))
$$;
COMMENT ON FUNCTION rollup_engine.known_since(silver.rollup_config, silver.rollup_config) IS
'Time that was sealed when a rollup, or a metric that is asked for, came, and of which it knows nothing; NULL for none.';

CREATE OR REPLACE FUNCTION rollup_engine.why_not(p_asked silver.rollup_config, p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET intervalstyle = 'postgres'
AS $$
DECLARE
    v_lacking text;
    v_since timestamptz;
BEGIN
    IF p_rollup.status IN ('paused', 'parked') THEN
        RETURN format('it is %s', p_rollup.status);
    ELSIF rollup_engine.has_lost_zone(p_rollup) THEN
        RETURN rollup_engine.zone_problem(p_rollup.id, p_rollup.timezone);
    ELSIF p_rollup.change_tracking = 'window' THEN
        RETURN format('it knows of changes in the last %s of its source only', (
            SELECT max(a.look_back_window) FROM silver.rollup_config AS a WHERE a.id IN (SELECT rollup_engine.with_ancestors(p_rollup.id))));
    END IF;
    v_lacking := (
        SELECT string_agg(l.filter, ' and ' ORDER BY l.depth) FROM rollup_engine.line_to(p_rollup, p_asked.source_table) AS l);
    IF v_lacking IS NOT NULL THEN
        RETURN format('it counts only rows where %s', v_lacking);
    ELSIF NOT isempty(rollup_engine.uneven_in_use(p_asked, p_rollup)) THEN
        RETURN format('buckets of %s are not made of its, which are %s', rollup_engine.bucket_words(p_asked), rollup_engine.bucket_words(p_rollup));
    END IF;
    v_lacking := coalesce(
        rollup_engine.other_time(p_rollup, p_asked.source_table), rollup_engine.other_meaning(p_asked, p_rollup),
        rollup_engine.mixed_series(p_rollup.id, p_asked.dimensions, p_asked.metrics));
    IF v_lacking IS NOT NULL THEN
        RETURN v_lacking;
    END IF;
    v_lacking := (SELECT string_agg(quote_ident(d), ', ') FROM unnest(p_asked.dimensions) AS d WHERE d <> ALL (p_rollup.dimensions));
    IF v_lacking IS NOT NULL THEN
        RETURN format('it does not group by %s', v_lacking);
    END IF;
    SELECT string_agg(format('%s of %I', rollup_engine.metric_name(i), m.key), ', ') INTO v_lacking
    FROM jsonb_each(p_asked.metrics) AS m, jsonb_array_elements(m.value) AS i
    WHERE (rollup_engine.find_aggregate(i, m.key, NULL, p_rollup.id)).name IS NULL;
    IF v_lacking IS NOT NULL THEN
        RETURN format('it does not hold %s', v_lacking);
    ELSIF EXISTS (SELECT FROM rollup_engine.ltree_dimension AS l WHERE l.rollup_id = p_rollup.id) THEN
        RETURN 'it has rows for levels of a path, one above the other';
    END IF;
    v_since := rollup_engine.complete_since(p_rollup, p_asked.source_table);
    IF v_since IS NOT NULL THEN
        RETURN format('it is exact since %s only', v_since);
    END IF;
    RETURN (SELECT format('it is not valid: %s', p.problem) FROM rollup_engine.rollup_problems(p_rollup) AS p LIMIT 1);
END
$$;
COMMENT ON FUNCTION rollup_engine.why_not(silver.rollup_config, silver.rollup_config) IS 'Why a rollup does not answer a question exactly; NULL when it does.';

CREATE OR REPLACE FUNCTION rollup_engine.answering_views(p_asked silver.rollup_config)
RETURNS TABLE (live_view regclass, bucket_width interval, exact boolean, reason text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.target_view, r.bucket_width, w.reason IS NULL, coalesce(w.reason, concat_ws('; ',
        CASE WHEN same.width AND same.dimensions THEN 'its rows are the answer'
            WHEN same.width THEN 'GROUP BY the dimensions: its states combine'
            ELSE format('%s of its buckets make one: its states combine', round(extract(epoch FROM p_asked.bucket_width) / extract(epoch FROM r.bucket_width))) END,
        format('about %s rows for each bucket', ceil(cost.rows)),
        'it knows this since ' || since.known))
    FROM rollup_engine.rollups_of(p_asked.source_table) AS r
    CROSS JOIN LATERAL rollup_engine.asked_of(r, p_asked) AS q
    CROSS JOIN LATERAL rollup_engine.why_not(q, r) AS w (reason)
    CROSS JOIN LATERAL rollup_engine.known_since(q, r) AS since (known)
    CROSS JOIN LATERAL (
        SELECT rollup_engine.rows_per_bucket(r) * extract(epoch FROM p_asked.bucket_width)::float8 / extract(epoch FROM r.bucket_width)::float8
    ) AS cost (rows)
    CROSS JOIN LATERAL (
        SELECT extract(epoch FROM p_asked.bucket_width) = extract(epoch FROM r.bucket_width), q.dimensions <@ r.dimensions AND r.dimensions <@ q.dimensions
    ) AS same (width, dimensions)
    ORDER BY w.reason IS NULL DESC, since.known NULLS FIRST, cost.rows, r.id
$$;
COMMENT ON FUNCTION rollup_engine.answering_views(silver.rollup_config) IS 'Live views by since when they know what is asked for, and by what they cost to answer it; those that do not after them.';

RESET ROLE;
