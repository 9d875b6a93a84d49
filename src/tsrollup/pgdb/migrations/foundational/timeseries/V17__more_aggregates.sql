-- The catalogue of aggregates grows: one row for each kind of value that an aggregate, or a state,
-- is computed from in its own way, parameters, several columns of one aggregate.
--
-- {value} is the source column, {time} the time column, {state} the parent's column of that state,
-- {type} its type; any other state of the same column stands under its own name ({count}).

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{rollup_engine.aggregate,rollup_engine.aggregate_state}');

ALTER TABLE rollup_engine.aggregate_state
    ADD COLUMN takes text NOT NULL DEFAULT 'any',
    ADD COLUMN differs text,
    DROP CONSTRAINT aggregate_state_pkey,
    ADD PRIMARY KEY (name, takes);
COMMENT ON COLUMN rollup_engine.aggregate_state.takes IS 'Kind of value, as value_kinds names it, that this row is for.';
COMMENT ON COLUMN rollup_engine.aggregate_state.differs IS
'Whether a stored state, {old}, and a fresh one, {new}, are more apart than the order of rows explains; NULL: compared by image.';

INSERT INTO rollup_engine.aggregate_state (name, takes, from_source, from_state, differs) VALUES
    ('sum', 'real', 'sum({value}::float8)', 'sum({state})::{type}', 'rollup_engine.sum_differs({old}, {new}, {count}, {min}, {max})'),
    ('sum', 'float', 'sum({value})', 'sum({state})::{type}', 'rollup_engine.sum_differs({old}, {new}, {count}, {min}, {max})'),
    ('min', 'boolean', 'bool_and({value})', 'bool_and({state})', NULL),
    ('max', 'boolean', 'bool_or({value})', 'bool_or({state})', NULL),
    ('bool_and', 'boolean', 'bool_and({value})', 'bool_and({state})', NULL),
    ('bool_or', 'boolean', 'bool_or({value})', 'bool_or({state})', NULL),
    ('squares', 'small', 'sum({value}::bigint * {value})', 'sum({state})', NULL),
    ('squares', 'exact', 'sum({value}::numeric * {value})', 'sum({state})', NULL),
    ('deviations', 'float', 'regr_sxx({value}, {value})',
        'rollup_engine.merge_deviations(array_agg({count}), array_agg({sum}), array_agg({state}), sum({sum}) / nullif(sum({count}), 0))',
        'rollup_engine.deviations_differ({old}, {new}, {count}, {sum})');

-- A bin is ln(1.02) wide in the logarithm; asinh is that of twice the value, but has one for zero and
-- below as well. The ends are not a number, infinity and minus infinity.
INSERT INTO rollup_engine.aggregate_state (name, takes, from_source, from_state, differs)
SELECT 'sketch', v.takes, format(
        'CASE WHEN count({value}) <= 128 THEN %1$s ELSE rollup_engine.fold_bins(%1$s) END', format('array_agg(%s) FILTER (WHERE {value} IS NOT NULL)', v.bin)),
    -- As fold_bins does, which would be set up for each group; but for a bin that takes several elements.
    replace('(SELECT CASE WHEN max(n) <= 32768 THEN array_agg(bin + ((n - 1)::integer << 16) ORDER BY bin) ELSE rollup_engine.fold_bins(ARRAY({bins})) END'
        || ' FROM (SELECT e & 65535 AS bin, sum(((e >> 16) + 1) * k) AS n'
        || ' FROM (SELECT e, count(*) AS k FROM ({bins}) AS elements (e) GROUP BY e) AS counted GROUP BY 1) AS bins)',
        '{bins}', 'SELECT unnest(s.bins) FROM unnest(array_agg(ROW({state})::rollup_engine.bins)) AS s'),
    'rollup_engine.bins_differ({old}, {new})'
FROM (
    SELECT k.takes, format(k.template, '(asinh({value} * ''1e140''::double precision) * 50.498349759 + 32768)::integer') AS bin
    FROM (VALUES
        ('integer', '%s'),
        -- What double precision does not hold is not made such.
        ('exact', 'CASE WHEN {value} BETWEEN 1e-200 AND 1e140 OR {value} BETWEEN -1e140 AND -1e-200 THEN %s'
            || ' WHEN {value} = ''NaN'' THEN 65535 WHEN {value} > 1 THEN 65534 WHEN {value} < -1 THEN 1 ELSE 32768 END'),
        ('float', 'CASE WHEN {value} BETWEEN ''-1e140''::double precision AND ''1e140''::double precision THEN %s WHEN {value} = ''NaN'' THEN 65535 WHEN {value} > 0 THEN 65534 ELSE 1 END')
    ) AS k (takes, template)
) AS v;

-- What is told apart by a text that equal values share: of their own type, or of all floats in common. The
-- hash is the same on every server. Of no values there is an empty state; that of sealed rows, which nobody
-- knows, is NULL, and so is what such states make together.
INSERT INTO rollup_engine.aggregate_state (name, takes, from_source, from_state)
SELECT s.name, v.takes, replace(s.from_source, '{text}', CASE s.name WHEN 'tally' THEN v.own ELSE v.common END), s.from_state
FROM (VALUES
    ('hashes',
        replace('CASE WHEN count({value}) <= 128 THEN ARRAY(SELECT DISTINCT e FROM unnest({all}) AS e ORDER BY e) ELSE rollup_engine.fold_hashes({all}) END',
            '{all}', 'array_agg((''x'' || substr(md5({text}), 1, 16))::bit(64)::bigint) FILTER (WHERE {value} IS NOT NULL)'),
        'CASE WHEN count({state}) > 0 THEN rollup_engine.merge_hashes(array_agg(ROW({state})::rollup_engine.hashes)) END'),
    ('tally', 'rollup_engine.tally_values(array_agg({text}) FILTER (WHERE {value} IS NOT NULL))',
        'CASE WHEN count({state}) > 0 THEN rollup_engine.merge_tallies(array_agg({state})) END')
) AS s (name, from_source, from_state)
CROSS JOIN (VALUES
    ('integer', '{value}::text', '{value}::text'),
    ('exact', 'trim_scale({value})::text', 'trim_scale({value})::text'),
    ('float', '({value} + ''0'')::text', '({value}::double precision + 0)::text'),
    ('plain', '{value}::text', '{value}::text')) AS v (takes, own, common);

INSERT INTO rollup_engine.aggregate_state (name, from_source, from_state) VALUES
    ('histogram', 'ARRAY[{bins}]', 'CASE WHEN count({state}) > 0 THEN ARRAY[{merged_bins}]::bigint[] END'),
    ('custom', '({state_expression})', 'CASE WHEN count({state}) > 0 THEN ({combine_expression})::{type} END');
INSERT INTO rollup_engine.aggregate_state (name, takes, from_source, from_state, differs)
SELECT name, 'float', from_source, from_state, 'rollup_engine.sum_differs({old}, {new}, {count}, NULL, NULL)'
FROM rollup_engine.aggregate_state WHERE name = 'custom';

-- What follows one another in time: the first and the last value, and when; the increase of a counter
-- that may start again from zero; values times the seconds until the next one. {values} are those of a
-- group in the order of time, {times} theirs; in a parent's rows the order is that of the buckets. Each
-- is laid beside the next one where they are collected: a function would be set up for each group.
INSERT INTO rollup_engine.aggregate_state (name, takes, from_source, from_state)
SELECT s.name, v.takes,
    replace(replace(replace(replace(s.from_source, '{values}', '(array_agg({value} ORDER BY {time}, {value}) FILTER (WHERE {value} IS NOT NULL))'),
        '{times}', '(array_agg({utc} ORDER BY {time}, {value}) FILTER (WHERE {value} IS NOT NULL))'), '{list}', v.list), '{seconds}', v.seconds),
    replace(replace(replace(s.from_state, '{before}', 'ORDER BY bucket) FILTER (WHERE {state} IS NOT NULL)'), '{list}', v.list), '{seconds}', v.seconds)
FROM (VALUES
    ('series_first', '{values}[1]', '(array_agg({state} {before})[1]'),
    ('series_last', '{values}[count({value})::integer]', '(array_agg({state} ORDER BY bucket DESC) FILTER (WHERE {state} IS NOT NULL))[1]'),
    ('series_from', 'min({utc}) FILTER (WHERE {value} IS NOT NULL)', 'min({state})'),
    ('series_to', 'max({utc}) FILTER (WHERE {value} IS NOT NULL)', 'max({state})'),
    -- A counter that falls has begun again from zero.
    ('increase',
        'CASE WHEN count({value}) > 0 THEN (SELECT coalesce(sum(CASE WHEN v >= before THEN v - before ELSE v END), 0)'
            || ' FROM (SELECT unnest(({values}::{list})[2:]) AS v, unnest({values}::{list}) AS before) AS steps) END',
        '(SELECT coalesce(sum(CASE WHEN v >= before THEN v - before ELSE v END), 0)'
            || ' FROM (SELECT unnest(((array_agg({series_first} {before})::{list})[2:]) AS v, unnest((array_agg({series_last} {before})::{list}) AS before) AS steps)'
            || ' + sum({state})'),
    ('area',
        'CASE WHEN count({value}) > 0 THEN (SELECT coalesce(sum(v * {seconds}), 0)'
            || ' FROM (SELECT unnest({values}::{list}) AS v, unnest({times}) AS since, unnest({times}[2:]) AS until) AS steps) END',
        '(SELECT coalesce(sum(v * {seconds}), 0)'
            || ' FROM (SELECT unnest((array_agg({series_last} {before})::{list}) AS v, unnest((array_agg({series_to} {before})) AS since,'
            || ' unnest((array_agg({series_from} {before})[2:]) AS until) AS steps) + sum({state})')
) AS s (name, from_source, from_state)
CROSS JOIN (VALUES
    ('exact', 'numeric[]', 'extract(epoch FROM until - since)'),
    ('float', 'double precision[]', 'extract(epoch FROM until - since)::double precision')) AS v (takes, list, seconds);

CREATE TYPE rollup_engine.hashes AS (hashes bigint[]);
COMMENT ON TYPE rollup_engine.hashes IS
'Hashes of up to 1638 distinct values; of more, the 16384 registers of a HyperLogLog, ten in each of 1639 elements. Wrapped, for array_agg takes no arrays of different lengths.';

CREATE TYPE rollup_engine.bins AS (bins integer[]);
COMMENT ON TYPE rollup_engine.bins IS 'The bins of a sketch, wrapped likewise: an array that grows by each of many would be copied as often.';

ALTER TABLE rollup_engine.aggregate
    ADD COLUMN takes text NOT NULL DEFAULT 'any',
    ADD COLUMN outputs json,
    DROP CONSTRAINT aggregate_pkey,
    ADD PRIMARY KEY (name, takes);
UPDATE rollup_engine.aggregate
SET takes = CASE WHEN numeric_only THEN 'number' ELSE 'any' END,
    outputs = CASE WHEN finish IS NOT NULL THEN json_build_object(name, finish) END;
ALTER TABLE rollup_engine.aggregate
    DROP COLUMN finish,
    DROP COLUMN numeric_only;
COMMENT ON COLUMN rollup_engine.aggregate.takes IS 'Kind of value, as value_kinds names it, that this row is for.';
COMMENT ON COLUMN rollup_engine.aggregate.outputs IS 'The columns that it finishes to, each with the expression over the states; NULL: the state of that name is the result.';
COMMENT ON TABLE rollup_engine.aggregate IS 'Aggregates that metrics may name: the states they need, and what these are finished to. pN stands for every percentile.';

INSERT INTO rollup_engine.aggregate (name, takes, states, outputs) VALUES
    ('sum', 'interval', '{sum}', NULL),
    ('avg', 'interval', '{count,sum}', '{"avg": "{sum} / nullif({count}, 0)"}'),
    ('bool_and', 'boolean', '{bool_and}', NULL),
    ('bool_or', 'boolean', '{bool_or}', NULL),
    ('ohlc', 'number', '{first,max,min,last}', '{"open": "{first}", "high": "{max}", "low": "{min}", "close": "{last}"}'),
    ('median', 'number', '{sketch}', '{"median": "rollup_engine.percentile({sketch}, 0.5)"}'),
    ('distinct', 'number', ARRAY['hashes:hashes:{hashed}'], '{"distinct": "rollup_engine.count_distinct({hashes})"}'),
    ('distinct', 'plain', ARRAY['hashes:hashes:{hashed}'], '{"distinct": "rollup_engine.count_distinct({hashes})"}'),
    ('histogram', 'number', ARRAY['histogram:{label}:{bounds}'], NULL),
    ('increase', 'number', '{series_first,series_last,increase}', NULL),
    ('rate', 'number', '{series_first,series_last,series_from,series_to,increase}',
        '{"rate": "{increase} / nullif(extract(epoch FROM {series_to} - {series_from}), 0)"}'),
    ('time_weighted_avg', 'number', '{series_first,series_last,series_from,series_to,area}',
        '{"time_weighted_avg": "CASE WHEN {area} IS NOT NULL THEN coalesce({area} / nullif(extract(epoch FROM {series_to} - {series_from}), 0), {series_last}) END"}'),
    ('custom', 'number', ARRAY['custom:{label}_state:{parameters}'], '{"{label}": "{finish}"}'),
    ('pN', 'number', '{sketch}', '{"{label}": "rollup_engine.percentile({sketch}, {fraction})"}');

INSERT INTO rollup_engine.aggregate (name, takes, states, outputs)
SELECT a.name, k.takes, ARRAY['tally:tally:{type}'], a.outputs::json
FROM (VALUES
    ('mode', '{"mode": "rollup_engine.most_frequent({tally})::{type}"}'),
    ('value_counts', '{"value_counts": "({tally} -> 0)", "value_counts_rest": "({tally} ->> 1)::bigint"}')) AS a (name, outputs)
CROSS JOIN (VALUES ('number'), ('plain')) AS k (takes);

-- The variance of whole numbers and numerics is exact; that of floats comes from squared deviations. Where it
-- came to a rollup that looks back a window, a coarser bucket across the edge of that may have squares of some rows alone.
INSERT INTO rollup_engine.aggregate (name, takes, states, outputs)
SELECT a.name, v.takes, v.states, json_build_object(a.name, format('CASE WHEN %1$s >= 0 THEN ' || a.template || ' END', format(v.variance, CASE WHEN a.name LIKE '%_pop' THEN 0 ELSE 1 END)))
FROM (VALUES ('variance', '%1$s'), ('variance_pop', '%1$s'), ('stddev', 'sqrt(%1$s)'), ('stddev_pop', 'sqrt(%1$s)')) AS a (name, template)
CROSS JOIN (VALUES
    ('exact', '{count,sum,squares}'::text[], '({count} * {squares} - {sum} * {sum}) / nullif({count}::numeric * ({count} - %s), 0)'),
    ('float', '{count,sum,deviations}', '{deviations} / nullif({count} - %s, 0)')) AS v (takes, states, variance);

RESET ROLE;
