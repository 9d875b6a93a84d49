-- What the states of aggregates are computed and finished with where no built-in expression does it.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Variance of floats ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.merge_deviations(p_counts bigint[], p_sums double precision[], p_deviations double precision[], p_mean double precision)
RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT sum(s.deviations + s.n * (s.total / s.n - p_mean) * (s.total / s.n - p_mean))
    FROM unnest(p_counts, p_sums, p_deviations) AS s (n, total, deviations)
    WHERE s.n > 0);
COMMENT ON FUNCTION rollup_engine.merge_deviations(bigint[], double precision[], double precision[], double precision) IS
'Sum of squared deviations from the mean of all, from those within groups and between their means: no squares of the values themselves, which would cancel out.';

CREATE OR REPLACE FUNCTION rollup_engine.deviations_differ(p_old double precision, p_new double precision, p_count bigint, p_sum double precision) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Roundings go either way: a mean is some sqrt(n) * 2^-52 of the root mean square off, by which what is
-- added moves as often up as down. Four times that; worst cases would hide what was changed.
RETURN CASE
    WHEN p_count < 2 THEN float8send(p_old) IS DISTINCT FROM float8send(p_new)
    WHEN p_old IS NOT DISTINCT FROM p_new THEN false
    WHEN p_old IS NULL OR p_new IS NULL OR NOT greatest(p_old, p_new, abs(p_sum)) BETWEEN 1e-130 AND 1e140 THEN true
    ELSE abs(p_old - p_new) > 1.7763568394002505e-15 * sqrt(p_count) * (sqrt(greatest(p_old, p_new)) / sqrt(p_count) + abs(p_sum) / p_count) * sqrt(greatest(p_old, p_new))
        + (8.881784197001252e-16 * (sqrt(greatest(p_old, p_new)) * sqrt(p_count) + abs(p_sum))) ^ 2
END;
COMMENT ON FUNCTION rollup_engine.deviations_differ(double precision, double precision, bigint, double precision) IS
'True when two sums of squared deviations of as many floats with about that sum differ by more than the order of addition can explain.';

-- Percentiles -------------------------------------------------------------------------

-- The lower 16 bits of an element are the number of its bin, the upper ones how many values are in it, less one.
CREATE OR REPLACE FUNCTION rollup_engine.fold_bins(p_bins integer[]) RETURNS integer[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- What is more than 32768 takes several elements.
RETURN (
    WITH counted AS (
        SELECT e & 65535 AS bin, sum((e >> 16) + 1) AS n FROM unnest(p_bins) AS e GROUP BY 1
    )
    SELECT array_agg(e ORDER BY e & 65535, e)
    FROM (
        SELECT bin + ((n - 1) % 32768 << 16)::integer FROM counted
        UNION ALL
        SELECT bin + (32767 << 16) FROM counted CROSS JOIN LATERAL generate_series(1, (n - 1) / 32768) WHERE n > 32768
    ) AS folded (e));
COMMENT ON FUNCTION rollup_engine.fold_bins(integer[]) IS 'Each bin once, in order, with the number of its values.';

CREATE OR REPLACE FUNCTION rollup_engine.bins_differ(p_old integer[], p_new integer[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Few values are kept as they came.
RETURN p_old IS DISTINCT FROM p_new
    AND (cardinality(p_old) = cardinality(p_new)
        AND (SELECT array_agg(e ORDER BY e) FROM unnest(p_old) AS e) = (SELECT array_agg(e ORDER BY e) FROM unnest(p_new) AS e)) IS NOT TRUE;
COMMENT ON FUNCTION rollup_engine.bins_differ(integer[], integer[]) IS 'Whether two sketches are of different values.';

CREATE OR REPLACE FUNCTION rollup_engine.percentile(p_bins integer[], p_fraction double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT CASE bin
        WHEN 65535 THEN 'NaN'
        WHEN 65534 THEN 'Infinity'
        WHEN 1 THEN '-Infinity'
        ELSE sinh((bin - 32768) / 50.498349759::double precision) / '1e140'::double precision
    END
    FROM (
        SELECT e & 65535 AS bin, sum((e >> 16) + 1) OVER (ORDER BY e & 65535, e ROWS UNBOUNDED PRECEDING) AS upto, sum((e >> 16) + 1) OVER () AS total
        FROM unnest(p_bins) AS e
    ) AS counted
    WHERE upto >= ceil(p_fraction * total)
    ORDER BY upto
    LIMIT 1);
COMMENT ON FUNCTION rollup_engine.percentile(integer[], double precision) IS
'The value that percentile_disc returns, less than 1 % off; beyond 1e140 it is infinite.';

-- Distinct values -----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.hash_registers(p_hashes bigint[]) RETURNS TABLE (register bigint, rank integer)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- The lower 14 bits choose a register, the rank is where the others have their first 1.
    SELECT h.register, max(CASE h.rest WHEN 0 THEN 51 ELSE round(ln((h.rest & -h.rest)::double precision) / 0.6931471805599453)::integer + 1 END)
    FROM (SELECT e & 16383, (e >> 14) & 1125899906842623 FROM unnest(p_hashes) AS e) AS h (register, rest)
    GROUP BY h.register;
END;
COMMENT ON FUNCTION rollup_engine.hash_registers(bigint[]) IS 'Registers of a HyperLogLog that hashes set.';

CREATE OR REPLACE FUNCTION rollup_engine.packed_registers(p_words bigint[]) RETURNS TABLE (register bigint, rank integer)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT (w.position - 1) * 10 + n, (w.word >> 6 * n & 63)::integer
    FROM unnest(p_words) WITH ORDINALITY AS w (word, position) CROSS JOIN generate_series(0, 9) AS n
    WHERE (w.word >> 6 * n & 63) > 0;
END;
COMMENT ON FUNCTION rollup_engine.packed_registers(bigint[]) IS 'Registers of a HyperLogLog that are set, of its packed form.';

CREATE OR REPLACE FUNCTION rollup_engine.merge_hashes(p_parts rollup_engine.hashes[]) RETURNS bigint[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_packed constant rollup_engine.hashes[] := ARRAY(SELECT p FROM unnest(p_parts) AS p WHERE cardinality(p.hashes) = 1639);
    v_hashes constant bigint[] := ARRAY(
        SELECT DISTINCT e FROM unnest(p_parts) AS p CROSS JOIN LATERAL unnest(p.hashes) AS e WHERE cardinality(p.hashes) <> 1639 ORDER BY e);
BEGIN
    IF cardinality(v_packed) = 0 AND cardinality(v_hashes) < 1639 THEN
        RETURN v_hashes;
    END IF;
    RETURN ARRAY(
        SELECT coalesce(w.word, 0)
        FROM generate_series(0, 1638) AS position
        LEFT JOIN (
            SELECT register / 10, bit_or(rank::bigint << (6 * (register % 10))::integer)
            FROM (
                SELECT register, max(rank) AS rank
                FROM (
                    SELECT * FROM rollup_engine.hash_registers(v_hashes)
                    UNION ALL
                    SELECT r.* FROM unnest(v_packed) AS p CROSS JOIN LATERAL rollup_engine.packed_registers(p.hashes) AS r
                ) AS found GROUP BY register
            ) AS merged GROUP BY 1
        ) AS w (position, word) ON w.position = position.position
        ORDER BY position.position);
END
$$;
COMMENT ON FUNCTION rollup_engine.merge_hashes(rollup_engine.hashes[]) IS 'The distinct values of several sets: as hashes while they are few, packed registers then.';

CREATE OR REPLACE FUNCTION rollup_engine.fold_hashes(p_hashes bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN cardinality(p_hashes) = 1639
    -- As many hashes as packed registers are.
    THEN rollup_engine.merge_hashes(ARRAY[ROW(p_hashes[:800])::rollup_engine.hashes, ROW(p_hashes[801:])::rollup_engine.hashes])
    ELSE rollup_engine.merge_hashes(ARRAY[ROW(p_hashes)::rollup_engine.hashes]) END;
COMMENT ON FUNCTION rollup_engine.fold_hashes(bigint[]) IS 'The distinct values among hashes.';

CREATE OR REPLACE FUNCTION rollup_engine.count_distinct(p_hashes bigint[]) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- The raw estimator with a correction for empty registers, which is unbiased over the whole range:
-- m * m / 2 ln 2, through the sum of 2 ^ -rank and, of the share x of empty ones, m * sigma(x).
RETURN CASE WHEN cardinality(p_hashes) <> 1639 THEN cardinality(p_hashes) ELSE (
    SELECT round(16384::double precision ^ 2 / 1.3862943611198906 / (powers + CASE empty WHEN 0 THEN 0 ELSE 16384 * (
        SELECT empty + sum(exp(greatest(2::double precision ^ k * ln(empty), -700)) * 2::double precision ^ (k - 1)) FROM generate_series(1, 40) AS k) END))::bigint
    FROM (
        SELECT sum(2::double precision ^ -rank), (16384 - count(*))::double precision / 16384
        FROM rollup_engine.packed_registers(p_hashes)
    ) AS r (powers, empty)) END;
COMMENT ON FUNCTION rollup_engine.count_distinct(bigint[]) IS 'How many distinct values: exact below 1639, and else with a standard error of 0.8 %.';

-- Values and how often they are ---------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.capped_tally(p_counts jsonb, p_rest numeric) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT jsonb_build_array(
        coalesce(jsonb_object_agg(value, n) FILTER (WHERE place <= 1000), '{}'), p_rest + coalesce(sum(n) FILTER (WHERE place > 1000), 0))
    FROM (
        SELECT c.key AS value, c.value::numeric AS n, row_number() OVER (ORDER BY c.value::numeric DESC, c.key COLLATE "C") AS place
        FROM jsonb_each_text(p_counts) AS c
    ) AS counted);
COMMENT ON FUNCTION rollup_engine.capped_tally(jsonb, numeric) IS 'The 1000 most frequent values with their counts, and the count of all others.';

CREATE OR REPLACE FUNCTION rollup_engine.tally_values(p_values text[]) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT CASE WHEN count(*) <= 1000 THEN jsonb_build_array(coalesce(jsonb_object_agg(value, n), '{}'), 0)
        ELSE rollup_engine.capped_tally(jsonb_object_agg(value, n), 0) END
    FROM (SELECT value, count(*) AS n FROM unnest(p_values) AS value GROUP BY value) AS counted);
COMMENT ON FUNCTION rollup_engine.tally_values(text[]) IS 'How often each value is there.';

CREATE OR REPLACE FUNCTION rollup_engine.merge_tallies(p_tallies jsonb[]) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN rollup_engine.capped_tally(
    (SELECT coalesce(jsonb_object_agg(key, n), '{}') FROM (
        SELECT c.key, sum(c.value::numeric) AS n FROM unnest(p_tallies) AS t CROSS JOIN LATERAL jsonb_each_text(t -> 0) AS c GROUP BY c.key) AS counted),
    (SELECT coalesce(sum((t ->> 1)::numeric), 0) FROM unnest(p_tallies) AS t));
COMMENT ON FUNCTION rollup_engine.merge_tallies(jsonb[]) IS 'How often each value is in several tallies.';

CREATE OR REPLACE FUNCTION rollup_engine.most_frequent(p_tally jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT key FROM jsonb_each_text(p_tally -> 0) ORDER BY value::numeric DESC, key COLLATE "C" LIMIT 1);
COMMENT ON FUNCTION rollup_engine.most_frequent(jsonb) IS 'The value that is there most often; of several the first by its text.';

RESET ROLE;
