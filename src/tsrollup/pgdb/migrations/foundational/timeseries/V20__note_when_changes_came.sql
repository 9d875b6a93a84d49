-- Since when changes wait: an alert on that stays quiet while late rows come now and then and runs
-- keep up, which one on how old their buckets are cannot.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{rollup_engine.change_log}');

ALTER TABLE rollup_engine.change_log ADD COLUMN noted_at timestamptz NOT NULL DEFAULT statement_timestamp();
COMMENT ON COLUMN rollup_engine.change_log.noted_at IS 'When the statement began that wrote what it speaks of.';

RESET ROLE;
