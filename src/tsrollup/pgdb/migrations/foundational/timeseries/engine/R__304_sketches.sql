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
-- A mean that is e off moves n * e * e, and up to 2 * e * sqrt(n * deviations); e is at most that part
-- of the root mean square that sum_differs allows a sum.
RETURN CASE
    WHEN p_count < 2 THEN float8send(p_old) IS DISTINCT FROM float8send(p_new)
    WHEN p_old IS NOT DISTINCT FROM p_new THEN false
    WHEN p_old IS NULL OR p_new IS NULL OR NOT greatest(p_old, p_new, abs(p_sum)) BETWEEN 1e-290 AND 1e140 THEN true
    ELSE sqrt(abs(p_old - p_new)) > sqrt(least(p_count - 1, 100000) * 4.440892098500626e-16)
        * sqrt(sqrt(greatest(p_old, p_new)) * (sqrt(greatest(p_old, p_new)) + abs(p_sum) / sqrt(p_count)))
        + least(p_count - 1, 100000) * 4.440892098500626e-16 * abs(p_sum) / sqrt(p_count)
END;
COMMENT ON FUNCTION rollup_engine.deviations_differ(double precision, double precision, bigint, double precision) IS
'True when two sums of squared deviations of as many floats with about that sum differ by more than the order of addition can explain.';

-- Percentiles -------------------------------------------------------------------------

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

CREATE OR REPLACE FUNCTION rollup_engine.merge_bins(p_parts rollup_engine.bins[]) RETURNS integer[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN rollup_engine.fold_bins(ARRAY(SELECT e FROM unnest(p_parts) AS p (bins) CROSS JOIN LATERAL unnest(p.bins) AS e));
COMMENT ON FUNCTION rollup_engine.merge_bins(rollup_engine.bins[]) IS 'The sketch of all values of several sketches.';

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

RESET ROLE;
