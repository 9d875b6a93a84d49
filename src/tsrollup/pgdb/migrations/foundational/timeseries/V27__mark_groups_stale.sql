-- A stale range may be one of some groups of one bucket, so that a late row costs its group.

SET LOCAL search_path = pg_catalog, pg_temp;
-- 0.1.0 noted no owners of types, which a restore without owners has lost.
ALTER TYPE rollup_engine.refresh_batch OWNER TO "${owner_role}";
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{rollup_engine.stale_range}');

ALTER TABLE rollup_engine.stale_range ADD COLUMN keys text[];
COMMENT ON COLUMN rollup_engine.stale_range.keys IS 'Texts of the values of the rollup''s key dimension whose groups are stale: then the range is one bucket. NULL stands for all.';

CREATE TYPE rollup_engine.keyed_range AS (from_time timestamptz, to_time timestamptz, keys text[]);
COMMENT ON TYPE rollup_engine.keyed_range IS 'A range of time, and the values of the source''s key column that were touched in it.';

ALTER TYPE rollup_engine.refresh_batch ADD ATTRIBUTE groups bigint;

RESET ROLE;
