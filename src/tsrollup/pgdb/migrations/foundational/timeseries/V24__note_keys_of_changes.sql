-- Late rows name the groups that they belong to: the values of one dimension of the source, its key.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{rollup_engine.change_log}');

ALTER TABLE rollup_engine.change_log ADD COLUMN keys text[];
COMMENT ON COLUMN rollup_engine.change_log.keys IS 'Texts of the values of the source''s key column in what was touched, which may be named twice; NULL stands for all.';

RESET ROLE;
