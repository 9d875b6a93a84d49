-- What a writer pays for: a row of the log has no number of its own, whose index had random places.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{rollup_engine.change_log}');

-- The identity is for publications of all tables, which refuse DELETE without one.
ALTER TABLE rollup_engine.change_log DROP COLUMN id, REPLICA IDENTITY FULL;
ALTER TABLE rollup_engine.upgrade REPLICA IDENTITY FULL;

RESET ROLE;
