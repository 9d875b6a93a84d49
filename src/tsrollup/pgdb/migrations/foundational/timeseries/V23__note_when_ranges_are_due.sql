-- From when on what is stale was to be stored, which a drain tells from when changes were noted.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{rollup_engine.stale_range}');

ALTER TABLE rollup_engine.stale_range ADD COLUMN due_at timestamptz NOT NULL DEFAULT statement_timestamp();
COMMENT ON COLUMN rollup_engine.stale_range.due_at IS 'From when on the first of its changes was to be stored: when it was noted, or when its bucket had settled.';

RESET ROLE;
