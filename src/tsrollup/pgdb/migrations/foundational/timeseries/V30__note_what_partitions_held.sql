-- Which sealed partitions of rollups hold rows, so that one that a restore has left out is told from
-- one that was always empty.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{rollup_engine.rollup_partition}');

ALTER TABLE rollup_engine.rollup_partition ADD COLUMN held boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN rollup_engine.rollup_partition.held IS 'Whether there were rows in it when it was sealed.';

RESET ROLE;
